//! A note of how much of the write-ahead log is durable, for the restart after a power failure.
//!
//! Bytes written after the last sync may reach the disk in any order when the power fails: a lost page can lie
//! before one that was kept. Damage there costs nothing that was acknowledged, and the next start cuts it off
//! (`tail.rs`). Damage before the last sync is refused. To tell the two apart, each completed sync is noted
//! twice. Neither note adds a sync of its own to a write:
//!
//! 1. In `SYNCED`, beside the database, overwritten in place after each sync. The system has it at once, so it
//!    is exact if only the process ends. It is synced when no work is left, at a clean end, and under load with
//!    every hundredth sync.
//! 2. In the log itself: the next append carries it. Only the reader of a damaged log uses it.
//!
//! After a power failure the known length may therefore be short of the true one by the last sync, since
//! nothing can be durable both before a sync completes and because of it. Damage in that last piece is taken
//! for an interrupted write. On a disk that keeps what it has synced this is right, since nothing synced is
//! damaged there. If bytes change by themselves in just that piece, just before a power failure, no log can
//! tell the difference. Both notes are lower bounds at every moment, and never name bytes that were not
//! durable.
//!
//! ```text
//! SYNCED: two slots, at byte 0 and 512, of which the higher one that is intact counts
//! 0..4     "HSYN"
//! 4        layout, u8: 1
//! 5..13    number of the log, u64
//! 13..21   bytes at its beginning that are durable, u64; all logs before it are durable as a whole
//! 21..25   CRC-32 (IEEE) over the bytes before
//! ```
//! The note in the log has the same layout without the checksum, since its record has one. Integers are
//! big-endian. A data directory without the file was written by a build that kept no note; all damage in it is
//! refused.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::folder::{at, sync_folder, wals};
use super::lock;
use crate::crash::crash_point;
use crate::error::StoreError;

pub(super) const FILE: &str = "SYNCED";

const MAGIC: &[u8; 4] = b"HSYN";
const LAYOUT: u8 = 1;
const PLACES: [u64; 2] = [0, 512];
const BODY_LEN: usize = 21;
const NOTE_LEN: usize = BODY_LEN + 4;

/// Idle time after which the note itself is synced.
const PATIENCE: Duration = Duration::from_millis(20);
/// Number of syncs of the log after which the note itself is synced, even under load.
const SYNC_COUNT_MAX: u32 = 100;

/// A position in the sequence of logs. Everything before it is durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Synced {
    /// Number of a log. All logs before it are durable as a whole.
    pub(super) wal: u64,
    /// Bytes at the beginning of that log that are durable.
    pub(super) len: u64,
}

impl Synced {
    /// Returns the note in the layout of the log.
    pub(super) fn log_data(self) -> [u8; BODY_LEN] {
        let mut data = [0; BODY_LEN];
        data[..4].copy_from_slice(MAGIC);
        data[4] = LAYOUT;
        data[5..13].copy_from_slice(&self.wal.to_be_bytes());
        data[13..].copy_from_slice(&self.len.to_be_bytes());
        data
    }

    /// Reads the bytes that [`Self::log_data`] returned; `None` for any other bytes.
    pub(super) fn from_log_data(data: &[u8]) -> Option<Self> {
        let (head, numbers) = data.split_first_chunk::<5>()?;
        let (wal, len) = numbers.split_first_chunk::<8>()?;
        let len: &[u8; 8] = len.try_into().ok()?;
        (head[..4] == *MAGIC && head[4] == LAYOUT).then(|| Self {
            wal: u64::from_be_bytes(*wal),
            len: u64::from_be_bytes(*len),
        })
    }

    fn note(self) -> [u8; NOTE_LEN] {
        let mut note = [0; NOTE_LEN];
        let data = self.log_data();
        note[..BODY_LEN].copy_from_slice(&data);
        note[BODY_LEN..].copy_from_slice(&crc32fast::hash(&data).to_be_bytes());
        note
    }

    fn from_note(note: &[u8]) -> Option<Self> {
        let (data, crc) = note.split_at_checked(BODY_LEN)?;
        let crc = crc.first_chunk::<4>()?;
        (crc32fast::hash(data) == u32::from_be_bytes(*crc)).then_some(())?;
        Self::from_log_data(data)
    }
}

/// Reads the note in the data directory; `None` if there is no such file.
///
/// # Errors
/// [`StoreError::Damaged`] if neither slot can be read; [`StoreError::Io`].
pub(super) fn read(folder: &Path) -> Result<Option<Synced>, StoreError> {
    let path = folder.join(FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(&path)(error)),
    };
    let notes = PLACES.iter().filter_map(|&place| {
        let place = usize::try_from(place).ok()?;
        Synced::from_note(bytes.get(place..place + NOTE_LEN)?)
    });
    match notes.max() {
        Some(synced) => Ok(Some(synced)),
        None => Err(StoreError::Damaged {
            path,
            reason: "it should say how much of the log is durable, and is unreadable".to_owned(),
        }),
    }
}

/// Creates a file with an empty note, atomically.
fn create(folder: &Path, path: &Path) -> io::Result<()> {
    let draft = folder.join(format!("{FILE}.draft"));
    let file = File::create(&draft)?;
    for place in PLACES {
        file.write_all_at(&Synced::default().note(), place)?;
    }
    file.sync_all()?;
    crash_point("note-drafted");
    fs::rename(&draft, path)?;
    crash_point("note-made");
    sync_folder(folder)
}

/// The note of one open database. It belongs to the sync thread.
pub(super) struct Notes {
    database: PathBuf,
    file: File,
    path: PathBuf,
    current: Option<Current>,
    /// The end of the logs when the present sync began.
    before: Synced,
    noted: Synced,
    /// Number of syncs of the log since the note was synced.
    unsettled_count: u32,
    next_place: usize,
    /// The note that the next append carries.
    for_log: ForLog,
}

/// The note that the next append is to carry, if there is a new one.
#[derive(Debug, Clone, Default)]
pub(super) struct ForLog(Arc<Mutex<Option<Synced>>>);

impl ForLog {
    /// Takes the note, if there is a new one.
    pub(super) fn take(&self) -> Option<Synced> {
        lock(&self.0).take()
    }
}

/// The newest log.
struct Current {
    number: u64,
    file: File,
    /// Its length when it was found. RocksDB creates the file before it writes to it, and syncs it only then.
    found_len: u64,
    len: u64,
}

impl Notes {
    /// Opens the file, or creates it. An existing note stays until the first sync.
    pub(super) fn open(
        folder: &Path,
        database: &Path,
        for_log: ForLog,
    ) -> Result<Self, StoreError> {
        let path = folder.join(FILE);
        let known = read(folder)?;
        if known.is_none() {
            create(folder, &path).map_err(at(&path))?;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(at(&path))?;
        let noted = known.unwrap_or_default();
        Ok(Self {
            database: database.to_owned(),
            file,
            path,
            current: None,
            before: noted,
            noted,
            unsettled_count: 0,
            next_place: 0,
            for_log,
        })
    }

    /// Notes the end of the logs. Must be called before each sync: bytes written while it runs may or may not
    /// be covered.
    pub(super) fn before_sync(&mut self) {
        // If this fails, the earlier note stays, which is still true.
        if let Ok(Some(now)) = self.newest() {
            self.before = now.max(self.noted);
        }
    }

    /// Writes the note. Must be called after each sync that succeeded.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn after_sync(&mut self) -> Result<(), StoreError> {
        if self.before == self.noted {
            return Ok(());
        }
        self.file
            .write_all_at(&self.before.note(), PLACES[self.next_place])
            .map_err(at(&self.path))?;
        self.next_place = 1 - self.next_place;
        self.noted = self.before;
        self.unsettled_count += 1;
        *lock(&self.for_log.0) = Some(self.noted);
        Ok(())
    }

    /// Returns the longest time that the sync thread may wait for work before it settles the note; `None` if it
    /// is settled.
    pub(super) fn patience(&self) -> Option<Duration> {
        (self.unsettled_count > 0).then_some(PATIENCE)
    }

    /// Returns true if the note must be settled even though there is work.
    pub(super) fn is_due(&self) -> bool {
        self.unsettled_count >= SYNC_COUNT_MAX
    }

    /// Makes the note durable.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn settle(&mut self) -> Result<(), StoreError> {
        if self.unsettled_count > 0 {
            self.file.sync_data().map_err(at(&self.path))?;
            self.unsettled_count = 0;
        }
        Ok(())
    }

    /// Returns the present end of the logs; `None` if there is no log.
    fn newest(&mut self) -> io::Result<Option<Synced>> {
        if let Some(current) = &mut self.current {
            let len = current.file.metadata()?.len();
            if len > current.len {
                current.len = len;
                return Ok(Some(current.synced()));
            }
        }
        // The log has not grown, so there may be a newer one.
        let Some(path) = wals(&self.database)?.pop() else {
            return Ok(None);
        };
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        let Some(number) = number else {
            return Ok(None);
        };
        if self.current.as_ref().is_none_or(|c| c.number != number) {
            let file = File::open(&path)?;
            let len = file.metadata()?.len();
            self.current = Some(Current {
                number,
                file,
                found_len: len,
                len,
            });
        }
        Ok(self.current.as_ref().map(Current::synced))
    }
}

impl Current {
    fn synced(&self) -> Synced {
        Synced {
            wal: self.number,
            len: if self.len > self.found_len {
                self.len
            } else {
                0
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_place_that_is_intact_counts() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("rocksdb");
        fs::create_dir(&database).unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let for_log = ForLog::default();
        let mut notes = Notes::open(folder.path(), &database, for_log.clone()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(Synced::default()));
        let wal = database.join("000007.log");
        fs::write(&wal, [1; 40]).unwrap();
        let mut grown = File::options().append(true).open(&wal).unwrap();
        for (more, len) in [(0, 0), (10, 50), (0, 50), (5, 55)] {
            io::Write::write_all(&mut grown, &vec![1; more]).unwrap();
            notes.before_sync();
            notes.after_sync().unwrap();
            let synced = Synced { wal: 7, len };
            assert_eq!(read(folder.path()).unwrap(), Some(synced));
        }
        assert_eq!(for_log.take(), Some(Synced { wal: 7, len: 55 }));
        assert_eq!(for_log.take(), None);
        fs::write(database.join("000012.log"), b"").unwrap();
        notes.before_sync();
        notes.after_sync().unwrap();
        notes.settle().unwrap();
        assert_eq!(notes.patience(), None);
        let newest = Synced { wal: 12, len: 0 };
        assert_eq!(read(folder.path()).unwrap(), Some(newest));
        // First one slot is torn, then both are.
        let path = folder.path().join(FILE);
        let bytes = fs::read(&path).unwrap();
        let torn = usize::from(bytes[512 + 12] == 12) * 512;
        let mut bad = bytes.clone();
        bad[torn + 20] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert_eq!(
            read(folder.path()).unwrap(),
            Some(Synced { wal: 7, len: 55 })
        );
        bad[512 - torn + 20] ^= 1;
        fs::write(&path, &bad).unwrap();
        let error = read(folder.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_note_in_the_log_is_read_again_and_nothing_else_is() {
        let synced = Synced { wal: 3, len: 9 };
        assert_eq!(Synced::from_log_data(&synced.log_data()), Some(synced));
        let data = synced.log_data();
        for len in 0..data.len() {
            assert_eq!(Synced::from_log_data(&data[..len]), None, "{len}");
        }
        assert_eq!(Synced::from_log_data(&[&data[..], &[0]].concat()), None);
    }
}
