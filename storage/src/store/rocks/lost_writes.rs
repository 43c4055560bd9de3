//! Simulated power failures for tests: they take away what was written after the last sync.
//!
//! A killed process loses nothing that it has written, because the operating system has it. With
//! [`crate::RocksOptions::sync_record`] the store records after each sync how much of each write-ahead log is
//! durable, and [`cut_to_last_sync`] removes the rest from a data directory that is not open. The record is a
//! text file that is replaced as a whole, one line per log: name, space, bytes. `hearthd` keeps one at the path
//! in the environment variable `HEARTH_SYNC_RECORD`.
//!
//! A disk need not lose only the end. [`lose_pages`] takes away any pages of what was not synced. The note that
//! the store keeps for itself (`SYNCED`) may then be as old as its last sync; a copy of it as of that sync is
//! beside the record, with `.noted` appended to the name.
//!
//! A program that cannot call the function can do the same by hand: of the files `rocksdb/NUMBER.log` in the
//! data directory, shorten the one with the highest number to the length in its line, or to nothing if it has
//! no line. The example `cut_to_last_sync` is the function as a program.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Fixed;
use super::folder;
use super::synced;

const PAGE_LEN: u64 = 4096;
const SECTOR_LEN: usize = 512;

/// Records durable lengths. An error is logged and leaves the earlier record, which is still true.
pub(super) struct SyncRecord {
    folder: PathBuf,
    database: PathBuf,
    file: PathBuf,
    /// Lengths before the present sync: bytes written while it runs may or may not be covered.
    lens: String,
}

impl SyncRecord {
    /// Returns `None` for a database in memory.
    pub(super) fn new(fixed: &Fixed, file: PathBuf) -> Option<Self> {
        let database = fixed.borrow_owner();
        if database.in_memory() {
            return None;
        }
        let record = Self {
            folder: database.path.clone(),
            database: database.db.path().to_owned(),
            file,
            lens: String::new(),
        };
        record.after_settling();
        Some(record)
    }

    pub(super) fn before_sync(&mut self) {
        self.lens.clear();
        for wal in folder::wals(&self.database).unwrap_or_default() {
            // A log that was deleted meanwhile is not needed any more.
            let (Some(name), Ok(file)) = (wal.file_name(), fs::metadata(&wal)) else {
                continue;
            };
            let line = format!("{} {}\n", name.display(), file.len());
            self.lens.push_str(&line);
        }
    }

    pub(super) fn after_sync(&mut self) {
        let draft = self.file.with_extension("draft");
        let written = fs::write(&draft, &self.lens).and_then(|()| fs::rename(&draft, &self.file));
        if let Err(error) = written {
            tracing::warn!(%error, file = %self.file.display(), "cannot record a sync");
        }
    }

    /// Copies the store's own note, which is durable as it is now.
    pub(super) fn after_settling(&self) {
        let draft = self.file.with_extension("draft");
        let written = fs::copy(self.folder.join(synced::FILE), &draft)
            .and_then(|_| fs::rename(&draft, settled_note(&self.file)));
        if let Err(error) = written {
            tracing::warn!(%error, file = %self.file.display(), "cannot record a note");
        }
    }
}

/// Takes away what a disk may lose that writes its pages in any order. In the newest log, some pages that no
/// sync has covered read as zeros, and the file may end early. Each half of the store's own note may be as old
/// as its last sync. `below` returns a random number below its argument.
///
/// Only the newest log is changed, as in [`cut_to_last_sync`].
///
/// # Errors
/// The system's own, and [`io::ErrorKind::InvalidData`] for a record that cannot be read.
pub fn lose_pages(
    folder: &Path,
    record: &Path,
    below: &mut dyn FnMut(u64) -> u64,
) -> io::Result<()> {
    let durable = read_record(record)?;
    if let Some(wal) = folder::newest_wal(&folder.join("rocksdb")) {
        let name = wal.file_name().unwrap_or_default().to_string_lossy();
        let keep = durable.get(name.as_ref()).copied().unwrap_or(0);
        let mut bytes = fs::read(&wal)?;
        let len = bytes.len() as u64;
        let lost_of_eight = 1 + below(7);
        let mut start = keep;
        while start < len {
            let end = (start - start % PAGE_LEN + PAGE_LEN).min(len);
            if below(8) < lost_of_eight {
                bytes[index(start)..index(end)].fill(0);
            }
            start = end;
        }
        if below(2) == 0 && keep < len {
            let end = keep + below(len - keep + 1);
            bytes.truncate(index(end.next_multiple_of(PAGE_LEN)));
        }
        fs::write(&wal, bytes)?;
    }
    let note = folder.join(synced::FILE);
    let (mut now, settled) = (fs::read(&note)?, fs::read(settled_note(record))?);
    for (now, settled) in now.chunks_mut(SECTOR_LEN).zip(settled.chunks(SECTOR_LEN)) {
        if below(2) == 0 && now.len() == settled.len() {
            now.copy_from_slice(settled);
        }
    }
    fs::write(note, now)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Returns the path of the copy of the store's own note as of its last sync.
fn settled_note(record: &Path) -> PathBuf {
    let mut name = record.file_name().unwrap_or_default().to_owned();
    name.push(".noted");
    record.with_file_name(name)
}

/// Cuts the newest write-ahead log in a data directory back to the length that `record` says is durable.
///
/// Older logs stay as they are: RocksDB itself syncs a log that it has closed before it relies on that, the
/// record does not show this, and a power failure may keep more than was synced. The rest is therefore always a
/// prefix of what was written, and holds all that was acknowledged.
///
/// # Errors
/// The system's own, and [`io::ErrorKind::InvalidData`] for a record that cannot be read.
pub fn cut_to_last_sync(folder: &Path, record: &Path) -> io::Result<()> {
    let durable = read_record(record)?;
    let Some(wal) = folder::newest_wal(&folder.join("rocksdb")) else {
        return Ok(());
    };
    let name = wal.file_name().unwrap_or_default().to_string_lossy();
    let keep = durable.get(name.as_ref()).copied().unwrap_or(0);
    let file = File::options().write(true).open(&wal)?;
    if file.metadata()?.len() > keep {
        file.set_len(keep)?;
    }
    Ok(())
}

fn read_record(record: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut lens = BTreeMap::new();
    for line in fs::read_to_string(record)?.lines() {
        let entry = line
            .split_once(' ')
            .and_then(|(name, len)| Some((name.to_owned(), len.parse().ok()?)));
        let Some((name, len)) = entry else {
            let text = format!("{line:?} is no line of a record of syncs");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        };
        lens.insert(name, len);
    }
    Ok(lens)
}
