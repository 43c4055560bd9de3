//! A check of the write-ahead logs after a power failure, before RocksDB reads them.
//!
//! RocksDB takes a log that ends early for an interrupted write, refuses most other damage, and ignores some of
//! it in silence. Here each log is read as a whole, and the first place that is not intact decides. If it lies
//! in the part that is known to be durable (`synced.rs`), the data directory is refused and left as it is.
//! Otherwise nothing behind it was ever acknowledged, and the logs are cut there, so that RocksDB finds a clean
//! end.
//!
//! The bytes cut off are kept in `cut/` beside the database until the next cut, as `NUMBER.log.from-BYTE`, so
//! that operators can examine them.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::folder::{at, wals};
use super::synced::Synced;
use super::wal::{self, Intact};
use crate::error::StoreError;

const KEPT: &str = "cut";

/// A log file.
struct Wal {
    number: u64,
    path: PathBuf,
    intact: Intact,
}

/// The end of the intact sequence of logs, and the reason for it.
struct Damage {
    /// Index of the damaged log in the list of logs.
    index: usize,
    /// Intact bytes of that log, up to the end of a batch.
    len: u64,
    /// Offset of the first record that is not intact.
    stop: u64,
    reason: String,
}

/// The logs of a database that is not open yet.
pub(super) struct Tail {
    wals: Vec<Wal>,
    damage: Option<Damage>,
}

/// The parts that were cut off, so that they can be put back: log, offset and copy.
#[derive(Debug, Default)]
pub(super) struct Cut(Vec<(PathBuf, u64, PathBuf)>);

impl Tail {
    /// Reads all logs.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn read(database: &Path) -> Result<Self, StoreError> {
        let mut found: Vec<Wal> = Vec::new();
        for path in wals(database).map_err(at(database))? {
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            let intact = File::open(&path)
                .and_then(|file| {
                    let len = file.metadata()?.len();
                    wal::read_intact(file, len)
                })
                .map_err(at(&path))?;
            found.push(Wal {
                number: number.unwrap_or_default(),
                path,
                intact,
            });
        }
        let damage = first_damage(&found);
        Ok(Self {
            wals: found,
            damage,
        })
    }

    /// Refuses damage in the part that is known to be durable, by `known` or by a note in a record behind the
    /// damage.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], [`StoreError::Io`].
    pub(super) fn check(&self, known: Synced) -> Result<(), StoreError> {
        let short = self
            .wals
            .iter()
            .find(|wal| wal.number == known.wal && wal.intact.file_len < known.len);
        if let Some(wal) = short {
            let reason = format!("it has {} bytes", wal.intact.file_len);
            return Err(damaged(wal, &reason, known));
        }
        let Some(damage) = &self.damage else {
            return Ok(());
        };
        let wal = &self.wals[damage.index];
        refuse_durable(wal, damage, known)?;
        for (index, later) in self.wals.iter().enumerate().skip(damage.index) {
            let from = if index == damage.index {
                damage.stop
            } else {
                0
            };
            let noted = wal::synced_behind(&later.path, from).map_err(at(&later.path))?;
            if let Some(noted) = noted {
                refuse_durable(wal, damage, noted)?;
            }
        }
        Ok(())
    }

    /// Cuts the logs where they are damaged. Must be called after [`Self::check`]. `folder` keeps the parts cut
    /// off.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn cut(&self, folder: &Path) -> Result<Cut, StoreError> {
        let Some(damage) = &self.damage else {
            return Ok(Cut::default());
        };
        let kept = folder.join(KEPT);
        let _ = fs::remove_dir_all(&kept);
        let mut cut = Cut::default();
        // The last log is cut first: an interruption then leaves logs without a hole.
        for (index, wal) in self.wals.iter().enumerate().skip(damage.index).rev() {
            let len = if index == damage.index { damage.len } else { 0 };
            if wal.intact.file_len > len {
                tracing::warn!(
                    file = %wal.path.display(),
                    kept_len = len,
                    cut_len = wal.intact.file_len - len,
                    reason = damage.reason,
                    "cutting off what was written and never acknowledged when the power failed"
                );
            }
            match keep(wal, len, &kept) {
                Ok(copy) => cut.0.push((wal.path.clone(), len, copy)),
                // A full disk must not keep the node from starting.
                Err(error) => tracing::warn!(%error, "no copy of what is cut off is kept"),
            }
            if index == damage.index {
                shorten(&wal.path, len).map_err(at(&wal.path))?;
            } else {
                fs::remove_file(&wal.path).map_err(at(&wal.path))?;
            }
        }
        Ok(cut)
    }
}

impl Cut {
    /// Puts the parts back, for a database that does not open without them.
    pub(super) fn put_back(&self) {
        for (path, len, copy) in &self.0 {
            let put = || -> io::Result<()> {
                let mut file = File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?;
                file.seek(SeekFrom::Start(*len))?;
                io::copy(&mut File::open(copy)?, &mut file)?;
                file.sync_all()
            };
            if let Err(error) = put() {
                tracing::warn!(%error, file = %path.display(), copy = %copy.display(), "cannot put back what was cut off");
            }
        }
    }
}

/// Refuses damage before the end of the durable part, which is `known`.
fn refuse_durable(wal: &Wal, damage: &Damage, known: Synced) -> Result<(), StoreError> {
    let is_durable = match known.wal.cmp(&wal.number) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => {
            known.len > damage.stop
                && (known.len > wal.intact.file_len
                    || !wal::may_be_begun(&wal.path, damage.stop, known.len)
                        .map_err(at(&wal.path))?)
        }
    };
    if is_durable {
        return Err(damaged(wal, &damage.reason, known));
    }
    Ok(())
}

fn first_damage(found: &[Wal]) -> Option<Damage> {
    let mut before: Option<&Wal> = None;
    for (index, wal) in found.iter().enumerate() {
        if let (Some(before), Some(named)) = (before, wal.intact.predecessor)
            && (named.number, named.len) != (before.number, before.intact.file_len)
        {
            return Some(Damage {
                index: index - 1,
                len: before.intact.len,
                stop: before.intact.file_len,
                reason: format!(
                    "it has {} bytes, and the log after it says that log {} before it has {}",
                    before.intact.file_len, named.number, named.len
                ),
            });
        }
        if wal.intact.len < wal.intact.file_len {
            return Some(Damage {
                index,
                len: wal.intact.len,
                stop: wal.intact.stop,
                reason: format!(
                    "the record at byte {} of {} is unreadable",
                    wal.intact.stop, wal.intact.file_len
                ),
            });
        }
        before = Some(wal);
    }
    None
}

fn damaged(wal: &Wal, reason: &str, known: Synced) -> StoreError {
    let durable = if known.wal == wal.number {
        format!("{} bytes of it were durable", known.len)
    } else {
        "all of it was durable".to_owned()
    };
    StoreError::Damaged {
        path: wal.path.clone(),
        reason: format!("{reason}, and {durable}"),
    }
}

/// Copies the bytes of a log behind `len`, and returns the path of the copy.
fn keep(wal: &Wal, len: u64, folder: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let name = wal.path.file_name().unwrap_or_default().to_string_lossy();
    let copy = folder.join(format!("{name}.from-{len}"));
    let mut from = File::open(&wal.path)?;
    from.seek(SeekFrom::Start(len))?;
    let mut to = File::create(&copy)?;
    let copied = io::copy(&mut from.take(wal.intact.file_len - len), &mut to)
        .and_then(|_| to.flush())
        .and_then(|()| to.sync_all());
    if let Err(error) = copied {
        let _ = fs::remove_file(&copy);
        return Err(error);
    }
    Ok(copy)
}

fn shorten(path: &Path, len: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(len)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::wal::made::{following, noting, record, record_of};
    use super::*;

    struct Database(tempfile::TempDir);

    impl Database {
        /// Creates logs with these numbers.
        fn with(logs: &[(u64, Vec<u8>)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("rocksdb")).unwrap();
            let database = Self(folder);
            for (number, bytes) in logs {
                fs::write(database.log(*number), bytes).unwrap();
            }
            database
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("rocksdb")
        }

        fn log(&self, number: u64) -> PathBuf {
            self.path().join(format!("{number:06}.log"))
        }

        fn check(&self, wal: u64, len: usize) -> Result<Tail, StoreError> {
            let tail = Tail::read(&self.path())?;
            let len = len as u64;
            tail.check(Synced { wal, len }).map(|()| tail)
        }

        fn cut(&self, wal: u64, len: usize) -> Cut {
            let tail = self.check(wal, len).unwrap();
            tail.cut(self.0.path()).unwrap()
        }
    }

    fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        bytes[at] ^= 1;
        bytes
    }

    #[test]
    fn intact_logs_stay_as_they_are() {
        let one = [record(b"one"), record(b"two")].concat();
        let two = [following(4, one.len()), record(b"three")].concat();
        let database = Database::with(&[(4, one.clone()), (9, two.clone())]);
        database.cut(4, 10);
        database.cut(9, two.len());
        assert_eq!(fs::read(database.log(4)).unwrap(), one);
        assert_eq!(fs::read(database.log(9)).unwrap(), two);
        assert!(!database.0.path().join(KEPT).exists());
    }

    #[test]
    fn damage_behind_the_durable_part_is_cut_off_and_kept() {
        let log = [record(b"one"), record(b"two"), record(b"three")].concat();
        let damaged = flipped(log.clone(), 15);
        let database = Database::with(&[(4, damaged.clone())]);
        let cut = database.cut(4, 10);
        assert_eq!(fs::read(database.log(4)).unwrap(), log[..10]);
        let kept = database.0.path().join("cut/000004.log.from-10");
        assert_eq!(fs::read(kept).unwrap(), damaged[10..]);
        cut.put_back();
        assert_eq!(fs::read(database.log(4)).unwrap(), damaged);
    }

    #[test]
    fn damage_in_the_durable_part_is_refused() {
        let log = [record(b"one"), record(b"two"), record(b"three")].concat();
        let damaged = flipped(log.clone(), 15);
        let database = Database::with(&[(4, damaged.clone())]);
        for (wal, len) in [(4, 20), (4, log.len()), (5, 0)] {
            let error = database.check(wal, len).err().expect("a refusal");
            let text = error.to_string();
            assert!(text.contains("000004.log"), "{text}");
            assert!(text.contains("byte 10"), "{text}");
        }
        assert_eq!(fs::read(database.log(4)).unwrap(), damaged);
    }

    #[test]
    fn a_batch_that_was_only_begun_when_its_first_bytes_were_durable_is_cut_off() {
        let mut log = record(b"one");
        log.extend_from_slice(&record_of(2, &[1; 90]));
        log.extend_from_slice(&record_of(4, &[2; 50]));
        let part = 10 + 97;
        for durable in 10..log.len() {
            // Bytes that were not durable are lost, and read as zeros.
            let mut torn = log[..durable].to_vec();
            torn.resize(log.len(), 0);
            let database = Database::with(&[(4, torn)]);
            database.cut(4, durable);
            assert_eq!(fs::read(database.log(4)).unwrap(), log[..10], "{durable}");
            // A changed byte in it is damage, unless no more than its header was there.
            for at in [10, 14, 60, part, part + 4, part + 20] {
                if at + 1 < durable && durable >= part + 7 && at < part {
                    let mut torn = flipped(log[..durable].to_vec(), at);
                    torn.resize(log.len(), 0);
                    let database = Database::with(&[(4, torn)]);
                    assert!(database.check(4, durable).is_err(), "{at} of {durable}");
                }
            }
        }
    }

    #[test]
    fn an_end_that_is_missing_is_damage() {
        let log = [record(b"one"), record(b"two")].concat();
        let database = Database::with(&[(4, log[..10].to_vec())]);
        assert!(database.check(4, 10).is_ok());
        let error = database.check(4, 20).err().expect("a refusal");
        assert!(error.to_string().contains("20 bytes"), "{error}");
    }

    #[test]
    fn a_record_behind_the_damage_says_what_was_durable() {
        let first = record(b"one");
        for (durable, refused) in [(10, false), (20, true), (30, true)] {
            let synced = Synced {
                wal: 4,
                len: durable,
            };
            // In the same block, in a later block and in a later log.
            let same = [first.clone(), flipped(record(b"two"), 8), noting(synced)].concat();
            let mut later = [first.clone(), flipped(record(b"two"), 8)].concat();
            later.resize(wal::BLOCK_LEN, 0);
            later.extend_from_slice(&noting(synced));
            let torn = [first.clone(), flipped(record(b"two"), 8)].concat();
            for logs in [
                vec![(4, same)],
                vec![(4, later)],
                vec![(4, torn), (9, noting(synced))],
            ] {
                let database = Database::with(&logs);
                let checked = database.check(0, 0);
                assert_eq!(checked.is_err(), refused, "{durable} of {}", logs.len());
                if !refused {
                    database.cut(0, 0);
                    assert_eq!(fs::read(database.log(4)).unwrap(), first);
                    assert!(!database.log(9).exists());
                }
            }
        }
    }

    #[test]
    fn a_log_whose_end_a_later_one_knows_takes_that_one_with_it() {
        let one = [record(b"one"), record(b"two")].concat();
        let two = [following(4, one.len()), record(b"three")].concat();
        let database = Database::with(&[(4, one[..10].to_vec()), (9, two.clone())]);
        assert!(database.check(9, 0).is_err());
        let cut = database.cut(4, 10);
        assert_eq!(fs::read(database.log(4)).unwrap(), one[..10]);
        assert!(!database.log(9).exists());
        cut.put_back();
        assert_eq!(fs::read(database.log(9)).unwrap(), two);
    }
}
