//! The `snapshot` commands, about files that hold a whole registry.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hearth_cli::{Cluster, SnapshotAbout};
use hearth_wire::snapshot::{Section, SnapshotError, SnapshotReader};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::Session;

/// Number of bytes of a file that are read at once.
const PIECE_LEN: usize = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  nsctl snapshot save names.snap        from any node, while it serves
  nsctl snapshot status names.snap      what the file holds; asks no server

A snapshot is consistent: all names as they were at one moment. Every part is verified as it arrives,
and the file has its name only when it is whole. `hearthd restore names.snap -s rocksdb:DIR` brings it
back, as a new cluster. Saving is for administrators (--cluster-key-file, or on a node's own machine).

JSON: {\"file\": \"names.snap\", \"bytes\": 4711, \"cluster\": \"hearth\", \"names\": 12,
\"state_hash\": \"..\", \"last_applied\": 42, \"confirmed\": true, ...}";

/// Save everything that the registry holds to a file, and look at such a file
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SnapshotCommand {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// Save everything that the registry holds to a file
    Save {
        /// The file; one that is there is replaced when the new one is whole
        file: PathBuf,
    },
    /// Verify a file, and tell what it holds
    Status {
        /// The file
        file: PathBuf,
    },
}

impl SnapshotCommand {
    pub(crate) async fn run(self, session: &Session) -> Result<Outcome, Failure> {
        match self.subject {
            Subject::Save { file } => {
                let work = async |cluster: &mut Cluster<'_>| save(cluster, &file).await;
                let (about, len) = session.on_cluster_as_admin(work).await?;
                Ok(outcome("Saved", &about, &file, len))
            }
            Subject::Status { file } => {
                let (about, len) = verify(&file)?;
                Ok(outcome("Holds", &about, &file, len))
            }
        }
    }
}

fn outcome(done: &str, about: &SnapshotAbout, file: &Path, len: u64) -> Outcome {
    let doubt = if about.confirmed {
        ""
    } else {
        "\nNo majority confirmed it: the newest changes may be missing"
    };
    let text = format!(
        "{done} {} names of the cluster {:?} in {}: {len} bytes, as of log entry {}, state hash {}{doubt}",
        about.names,
        about.cluster,
        file.display(),
        about.last_applied,
        about.state_hash
    );
    let mut json = serde_json::to_value(about).unwrap_or_default();
    if let Json::Object(items) = &mut json {
        items.insert("file".to_owned(), json!(file.display().to_string()));
        items.insert("bytes".to_owned(), json!(len));
    }
    Outcome::done(text, json)
}

/// A file that gets its final name only after it is complete. Until then the name ends in `.part`.
struct Draft {
    part: PathBuf,
    file: File,
}

impl Draft {
    fn create(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        let file = File::create(&part)?;
        Ok(Self { part, file })
    }

    fn finish(self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.part, path)?;
        match path.parent() {
            Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }

    fn discard(self) {
        // A file that cannot be removed is recognised by its name.
        let _ = fs::remove_file(&self.part);
    }
}

async fn save(cluster: &mut Cluster<'_>, path: &Path) -> Result<(SnapshotAbout, u64), Failure> {
    let mut draft = Draft::create(path).map_err(|error| named(path, error))?;
    let begun = match cluster.snapshot_begin().await {
        Ok(begun) => begun,
        Err(error) => {
            draft.discard();
            return Err(error.into());
        }
    };
    let fetched = fetch(cluster, &begun.id, &mut draft.file).await;
    // Without this call the node drops the snapshot by itself after a while.
    let _ = cluster.snapshot_end(&begun.id).await;
    match fetched {
        Ok(found) => {
            draft.finish(path).map_err(|error| named(path, error))?;
            Ok(found)
        }
        Err(failure) => {
            draft.discard();
            Err(failure)
        }
    }
}

async fn fetch(
    cluster: &mut Cluster<'_>,
    id: &str,
    file: &mut File,
) -> Result<(SnapshotAbout, u64), Failure> {
    let mut check = Check::default();
    for number in 0.. {
        let piece = cluster.snapshot_piece(id, number).await?;
        if piece.is_empty() {
            break;
        }
        check.take(&piece).map_err(|error| arrived(&error))?;
        file.write_all(&piece)?;
    }
    check.finish().map_err(|error| arrived(&error))
}

fn arrived(error: &SnapshotError) -> Failure {
    Failure::Snapshot(format!("the snapshot did not arrive whole: {error}"))
}

fn verify(path: &Path) -> Result<(SnapshotAbout, u64), Failure> {
    let unfit = |error: SnapshotError| Failure::Snapshot(format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(|error| named(path, error))?;
    let mut check = Check::default();
    let mut piece = vec![0; PIECE_LEN];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return check.finish().map_err(unfit),
            Ok(len) => check
                .take(piece.get(..len).unwrap_or_default())
                .map_err(unfit)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(named(path, error)),
        }
    }
}

fn named(path: &Path, error: io::Error) -> Failure {
    Failure::Io(io::Error::new(
        error.kind(),
        format!("{}: {error}", path.display()),
    ))
}

/// A snapshot that is verified while it is read.
#[derive(Default)]
struct Check {
    reader: SnapshotReader,
    about: Vec<u8>,
    len: u64,
}

impl Check {
    fn take(&mut self, piece: &[u8]) -> Result<(), SnapshotError> {
        self.len += piece.len() as u64;
        self.reader.push(piece);
        while let Some(section) = self.reader.next_section()? {
            if let Section::About(about) = section {
                self.about = about;
            }
        }
        // The end is not returned as a section, so the reader needs one more call to check it.
        self.reader.next_section().map(drop)
    }

    fn finish(self) -> Result<(SnapshotAbout, u64), SnapshotError> {
        self.reader.finish()?;
        let about = serde_json::from_slice(&self.about);
        let about = about.map_err(|error| SnapshotError::Damaged {
            at: 0,
            reason: format!("its description is unreadable: {error}"),
        })?;
        Ok((about, self.len))
    }
}

#[cfg(test)]
mod tests {
    use hearth_wire::snapshot::SnapshotWriter;

    use super::*;

    fn file(about: &str) -> Vec<u8> {
        let mut writer = SnapshotWriter::default();
        let mut bytes = Vec::new();
        for section in [
            Section::About(about.as_bytes().to_vec()),
            Section::Header(vec![1]),
            Section::Chunk(vec![2; 5000]),
        ] {
            writer.section(&section, &mut bytes).unwrap();
        }
        writer.end(&mut bytes);
        bytes
    }

    const ABOUT: &str = r#"{"cluster": "c", "cluster_id": "00", "node": 2, "last_applied": 7, "names": 3,
        "state_hash": "ff", "confirmed": true, "term": 4}"#;

    #[test]
    fn a_file_is_verified_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names.snap");
        let bytes = file(ABOUT);
        fs::write(&path, &bytes).unwrap();
        let (about, len) = verify(&path).unwrap();
        assert_eq!((about.names, len), (3, bytes.len() as u64));
        assert_eq!(about.more["term"], json!(4));
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let failure = verify(&path).unwrap_err();
        assert!(failure.line().contains("ends early"), "{}", failure.line());
        assert!(failure.line().contains("names.snap"), "{}", failure.line());
        fs::write(&path, b"something else").unwrap();
        let failure = verify(&path).unwrap_err();
        assert!(failure.line().contains("no snapshot"), "{}", failure.line());
    }

    #[test]
    fn a_draft_takes_the_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names.snap");
        fs::write(&path, b"old").unwrap();
        let mut draft = Draft::create(&path).unwrap();
        draft.file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        draft.discard();
        let mut draft = Draft::create(&path).unwrap();
        draft.file.write_all(b"new").unwrap();
        draft.finish(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
