//! `hearthd restore`: a snapshot file becomes a data folder.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use hearth_raft::offline::{self, OfflineError, RestoreAs};
use hearth_wire::snapshot::{Section, SnapshotReader};
use serde::Deserialize;

use super::{Outcome, tell};
use crate::config::DEFAULTS;

/// Bytes that are read at once.
const PIECE_LEN: usize = 1 << 20;

/// What a snapshot says of itself, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct About {
    cluster: Option<String>,
}

/// The sections of a file, in their order.
struct Sections<'a> {
    path: &'a Path,
    file: File,
    reader: SnapshotReader,
    piece: Vec<u8>,
    has_ended: bool,
}

impl<'a> Sections<'a> {
    fn open(path: &'a Path) -> Result<Self, OfflineError> {
        Ok(Self {
            path,
            file: File::open(path).map_err(|source| OfflineError::Io {
                what: path.display().to_string(),
                source,
            })?,
            reader: SnapshotReader::default(),
            piece: vec![0; PIECE_LEN],
            has_ended: false,
        })
    }

    fn read(&mut self) -> Result<Option<Section>, OfflineError> {
        let unfit = |error: hearth_wire::snapshot::SnapshotError| {
            OfflineError::Refused(format!("{}: {error}", self.path.display()))
        };
        loop {
            if let Some(section) = self.reader.next_section().map_err(unfit)? {
                return Ok(Some(section));
            }
            let len = match self.file.read(&mut self.piece) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(OfflineError::Io {
                        what: self.path.display().to_string(),
                        source,
                    });
                }
            };
            if len == 0 {
                return self.reader.finish().map(|()| None).map_err(unfit);
            }
            self.reader.push(&self.piece[..len]);
        }
    }

    fn expect(&mut self, what: &str) -> Result<Section, OfflineError> {
        let path = self.path;
        self.read()?
            .ok_or_else(|| OfflineError::Refused(format!("{}: it has no {what}", path.display())))
    }
}

impl Iterator for Sections<'_> {
    type Item = Result<Vec<u8>, OfflineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_ended {
            return None;
        }
        match self.read() {
            Ok(Some(Section::Chunk(chunk))) => Some(Ok(chunk)),
            // The reader lets nothing else follow the header.
            Ok(_) => {
                self.has_ended = true;
                None
            }
            Err(error) => {
                self.has_ended = true;
                Some(Err(error))
            }
        }
    }
}

pub(super) fn run(
    path: &Path,
    folder: &Path,
    node_id: u64,
    cluster_name: Option<String>,
) -> Outcome {
    let mut sections = Sections::open(path)?;
    let about: About = match sections.expect("description")? {
        Section::About(json) => serde_json::from_slice(&json).unwrap_or_default(),
        _ => About::default(),
    };
    let (Section::Header(header) | Section::About(header) | Section::Chunk(header)) =
        sections.expect("header")?;
    let who = RestoreAs {
        node_id,
        cluster_name: cluster_name
            .or(about.cluster)
            .unwrap_or_else(|| DEFAULTS.cluster_name.to_owned()),
    };
    tell(&offline::restore(folder, who, &header, &mut sections)?)?;
    Ok(ExitCode::SUCCESS)
}
