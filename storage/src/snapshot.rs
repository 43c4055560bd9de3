//! Snapshots of the state, to be sent to another node or to a file: a header, and chunks of records in order.
//!
//! Each chunk is a sealed record (see [`crate::format`]) that holds records one after the other:
//! ```text
//! entry    0u8, name_len u32, name UTF-8, then an entry in layout 1
//! extra    1u8, key_len u32, key, value_len u32, value
//! entry    2u8, name_len u32, name UTF-8, then an entry in layout 2
//! ```
//! Entries come in the order of their names, then extra records in the order of their keys; a chunk ends where
//! a record ends. The header is a sealed record, too:
//! ```text
//! entry_count u64, extra_count u64, hash u128
//! meta_count u32, then meta_count times: key_len u32, key, value_len u32, value; strictly ascending
//! ```
//! The order reveals a duplicated record, the checksums an altered one, and counts and hash a lost one. This
//! module does not transport the bytes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::error::StoreError;
use crate::format::{self, Reader};
use crate::model::{Entry, Name};
use crate::registry::Registry;
use crate::store::{Install, View};
use crate::summary::Summary;

const ENTRY: u8 = 0;
const EXTRA: u8 = 1;
const ENTRY_2: u8 = 2;

/// The description of a snapshot, which the installed state must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotHeader {
    /// Counts and hash of the state.
    pub summary: Summary,
    /// All meta records of the state.
    pub meta: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl SnapshotHeader {
    /// Encodes the header.
    pub fn encode(&self) -> Vec<u8> {
        format::seal_with(64, |out| {
            self.summary.write(out);
            let count =
                u32::try_from(self.meta.len()).expect("a state has a handful of meta records");
            out.extend_from_slice(&count.to_be_bytes());
            for (key, value) in &self.meta {
                format::write_bytes(out, key);
                format::write_bytes(out, value);
            }
        })
    }

    /// Decodes a header.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`].
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        format::unseal(bytes)
            .and_then(Self::read)
            .map_err(|reason| StoreError::snapshot(format!("its header is unreadable: {reason}")))
    }

    fn read(payload: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(payload);
        let summary = Summary::read(&mut reader)?;
        let mut meta = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let key = reader.bytes()?.to_vec();
            if meta.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err("its meta records are not in order".to_owned());
            }
            meta.insert(key, reader.bytes()?.to_vec());
        }
        reader.end()?;
        Ok(Self { summary, meta })
    }
}

/// A snapshot of the state at one moment. It holds its room on disk until it is dropped; the registry continues
/// to change.
pub struct StateSnapshot {
    view: Box<dyn View>,
    header: SnapshotHeader,
}

impl StateSnapshot {
    pub(crate) fn new(view: Box<dyn View>) -> Result<Self, StoreError> {
        let summary = view.summary()?;
        let mut meta = BTreeMap::new();
        view.metas(&mut |key, value| {
            meta.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        let header = SnapshotHeader { summary, meta };
        Ok(Self { view, header })
    }

    /// Returns the header: the meta records and the summary of exactly this state.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Returns the chunks from the beginning. A chunk ends after the record with which it reaches `chunk_len`
    /// bytes, or after the last entry. One chunk is in memory at a time. Several iterators may be in use at
    /// once.
    pub fn chunks(&self, chunk_len: usize) -> Chunks<'_> {
        Chunks {
            snapshot: self,
            chunk_len,
            next: ChunkCursor::default(),
        }
    }

    /// Returns the chunk that begins at `cursor`, and the cursor of the next one; `None` behind the last one.
    /// The same cursor and length give the same bytes, so that a chunk that was lost in transit can be read
    /// again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn chunk(
        &self,
        cursor: &ChunkCursor,
        chunk_len: usize,
    ) -> Result<Option<(Vec<u8>, ChunkCursor)>, StoreError> {
        let mut records = Vec::new();
        let mut next = match &cursor.0 {
            Next::Entry(from) => self.entries(from, chunk_len, &mut records)?,
            Next::Extra(from) => self.extras(from, chunk_len, &mut records)?,
            Next::End => return Ok(None),
        };
        while records.is_empty() {
            next = match next {
                Next::Entry(from) => self.entries(&from, chunk_len, &mut records)?,
                Next::Extra(from) => self.extras(&from, chunk_len, &mut records)?,
                Next::End => return Ok(None),
            };
        }
        Ok(Some((format::seal(&records), ChunkCursor(next))))
    }

    /// Appends entries from `from` on, and returns the beginning of the next chunk.
    fn entries(&self, from: &str, chunk_len: usize, out: &mut Vec<u8>) -> Result<Next, StoreError> {
        let mut next = Next::Extra(Vec::new());
        self.view.entries("", from, &mut |name, entry| {
            if out.len() >= chunk_len && !out.is_empty() {
                next = Next::Entry(name.to_owned());
                return Ok(ControlFlow::Break(()));
            }
            let entry = entry.read()?;
            out.push(match format::entry_version(&entry) {
                1 => ENTRY,
                _ => ENTRY_2,
            });
            format::write_bytes(out, name.as_bytes());
            format::write_entry(out, &entry);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(next)
    }

    fn extras(&self, from: &[u8], chunk_len: usize, out: &mut Vec<u8>) -> Result<Next, StoreError> {
        let mut next = Next::End;
        self.view.extras(&[], from, &mut |key, value| {
            if out.len() >= chunk_len && !out.is_empty() {
                next = Next::Extra(key.to_vec());
                return Ok(ControlFlow::Break(()));
            }
            out.push(EXTRA);
            format::write_bytes(out, key);
            format::write_bytes(out, value);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(next)
    }
}

impl std::fmt::Debug for StateSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateSnapshot")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// The beginning of a chunk in a snapshot; by default, of the first one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkCursor(Next);

/// The chunks of a snapshot in order; see [`StateSnapshot::chunks`].
pub struct Chunks<'a> {
    snapshot: &'a StateSnapshot,
    chunk_len: usize,
    next: ChunkCursor,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// Entries from this name on.
    Entry(Name),
    /// Extra records from this key on.
    Extra(Vec<u8>),
    End,
}

impl Default for Next {
    fn default() -> Self {
        Self::Entry(Name::new())
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Vec<u8>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.snapshot.chunk(&self.next, self.chunk_len) {
            Ok(Some((chunk, next))) => {
                self.next = next;
                Some(Ok(chunk))
            }
            Ok(None) => None,
            Err(error) => {
                self.next = ChunkCursor(Next::End);
                Some(Err(error))
            }
        }
    }
}

/// A snapshot that is being installed. Dropped before [`Self::finish`], it changes nothing.
pub struct Installation {
    registry: Registry,
    header: SnapshotHeader,
    install: Box<dyn Install>,
    progress: Progress,
}

/// The part of a snapshot that was taken so far.
#[derive(Debug, Clone, Default)]
struct Progress {
    summary: Summary,
    last_name: Option<Name>,
    last_key: Option<Vec<u8>>,
}

impl Installation {
    pub(crate) fn new(
        registry: Registry,
        header: SnapshotHeader,
        install: Box<dyn Install>,
    ) -> Self {
        Self {
            registry,
            header,
            install,
            progress: Progress::default(),
        }
    }

    /// Returns the header of the snapshot.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if the chunk is altered or does not belong here. It is then ignored, and the
    /// right one can still be taken. After an error of the store no further chunk can be taken.
    pub fn chunk(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        let mut extras = Vec::new();
        let mut progress = self.progress.clone();
        format::unseal(chunk)
            .and_then(|payload| progress.read(payload, &mut entries, &mut extras))
            .map_err(|reason| StoreError::snapshot(format!("a chunk is unreadable: {reason}")))?;
        if !entries.is_empty() {
            self.install.put_entries(&entries)?;
        }
        if !extras.is_empty() {
            self.install.put_extras(&extras)?;
        }
        self.progress = progress;
        Ok(())
    }

    /// Checks that everything has come, and does the long part of [`Self::finish`] in advance.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if something is missing, and errors of the store.
    pub fn prepare(&mut self) -> Result<(), StoreError> {
        self.check()?;
        self.install.prepare()
    }

    fn check(&self) -> Result<(), StoreError> {
        let (expected, found) = (self.header.summary, self.progress.summary);
        if expected == found {
            return Ok(());
        }
        Err(StoreError::snapshot(format!(
            "it should hold {} entries and {} extra records with the hash {}, and held {} and {} with {}",
            expected.entry_count,
            expected.extra_count,
            expected.hash,
            found.entry_count,
            found.extra_count,
            found.hash
        )))
    }

    /// Checks that everything has come, and makes it the state.
    ///
    /// # Errors
    /// [`StoreError::Snapshot`] if something is missing, and errors of the store. The state is then unchanged.
    pub fn finish(self) -> Result<(), StoreError> {
        self.check()?;
        let (install, header) = (self.install, self.header);
        self.registry
            .write_alone(|| install.finish(header.meta, header.summary))
    }
}

impl Progress {
    fn read(
        &mut self,
        payload: &[u8],
        entries: &mut Vec<(Name, Entry)>,
        extras: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), String> {
        let mut reader = Reader(payload);
        while reader.end().is_err() {
            match reader.u8()? {
                kind @ (ENTRY | ENTRY_2) => {
                    let name = reader.text()?.to_owned();
                    let version = if kind == ENTRY { 1 } else { 2 };
                    let entry = format::read_entry(version, &mut reader)?;
                    let last = entries.last().map(|(last, _)| last);
                    if last
                        .or(self.last_name.as_ref())
                        .is_some_and(|last| *last >= name)
                    {
                        return Err("its names are not in order".to_owned());
                    }
                    self.summary.add_entry(&name, &entry);
                    entries.push((name, entry));
                }
                EXTRA => {
                    let key = reader.bytes()?.to_vec();
                    let value = reader.bytes()?.to_vec();
                    let last = extras.last().map(|(last, _)| last);
                    if last
                        .or(self.last_key.as_ref())
                        .is_some_and(|last| *last >= key)
                    {
                        return Err("its extra records are not in order".to_owned());
                    }
                    self.summary.add_extra(&key, &value);
                    extras.push((key, value));
                }
                kind => return Err(format!("it has a record of kind {kind}")),
            }
        }
        if let Some((name, _)) = entries.last() {
            self.last_name = Some(name.clone());
        }
        if let Some((key, _)) = extras.last() {
            self.last_key = Some(key.clone());
        }
        Ok(())
    }
}

impl std::fmt::Debug for Installation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installation")
            .field("header", &self.header)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}
