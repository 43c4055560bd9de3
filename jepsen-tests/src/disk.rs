//! What a power failure takes of what was written after the last completed sync: all of it, or any of its pages,
//! because a system writes them in an order of its own.
//!
//! A killed process loses nothing that it has written, because the system has it. So nodes are started with
//! `HEARTH_SYNC_RECORD`, and note after each sync how much of each write-ahead log is durable: a text file,
//! a line for each log, with its name, a blank, and the bytes. After kill -9 the rest is cut away here, or parts
//! of it are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::error::{Result, RigError};

/// The variable with which `hearthd` is told where to note what is durable.
pub const SYNC_RECORD: &str = "HEARTH_SYNC_RECORD";

/// Bytes that a system writes at once.
const PAGE_LEN: u64 = 4_096;

/// The storage's own note of what is durable, beside the database (`storage/src/store/rocks/synced.rs`), and the
/// bytes of one of its two places.
const NOTE: &str = "SYNCED";
const NOTE_PLACES: [u64; 2] = [0, 512];
const NOTE_LEN: usize = 25;

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Bytes of the newest log that no sync had covered, and that are gone.
    pub cut_len: u64,
    /// Bytes of it that stayed.
    pub kept_len: u64,
    /// Pages of it that are gone although others behind them stayed.
    pub hole_count: u64,
}

/// A write-ahead log, and how much of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncedLog {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes at its beginning that a completed sync has covered.
    pub synced_len: u64,
    /// All its bytes.
    pub len: u64,
}

impl SyncedLog {
    /// The newest log in a data folder, with what `record` says of it; `None` when there is no log.
    ///
    /// # Errors
    /// The system's, and a record that is none.
    pub fn newest(data: &Path, record: &Path) -> Result<Option<Self>> {
        let durable = read_record(record)?;
        let Some((name, path)) = newest_log(&data.join("rocksdb"))? else {
            return Ok(None);
        };
        let len = fs::metadata(&path)
            .map_err(RigError::system(path.display().to_string()))?
            .len();
        let synced_len = durable.get(&name).copied().unwrap_or(0).min(len);
        Ok(Some(Self {
            path,
            synced_len,
            len,
        }))
    }

    /// The name of its file.
    pub fn name(&self) -> &str {
        let name = self.path.file_name().and_then(|name| name.to_str());
        name.unwrap_or_default()
    }
}

/// Cuts the newest write-ahead log in a data folder back to what `record` says is durable.
///
/// Only the newest one: RocksDB syncs a log that it closes before it relies on that, and a power failure may
/// keep more than was synced. So what is left is a beginning of what was written, and holds all that may
/// have been acknowledged. Nothing may have the folder open.
///
/// # Errors
/// The system's, and a record that is none.
pub fn cut_to_last_sync(data: &Path, record: &Path) -> Result<Lost> {
    let Some(log) = SyncedLog::newest(data, record)? else {
        return Ok(Lost::default());
    };
    let file = File::options().write(true).open(&log.path);
    file.and_then(|file| file.set_len(log.synced_len))
        .map_err(RigError::system(log.path.display().to_string()))?;
    Ok(Lost {
        cut_len: log.len - log.synced_len,
        kept_len: log.synced_len,
        hole_count: 0,
    })
}

/// Takes some pages of what no sync had covered, at random: they hold zeros, as where nothing was ever written.
/// The file may be as long as it was, or end anywhere behind what is durable. One time in two, the last change of
/// the storage's own note of what is durable is torn.
///
/// # Errors
/// See [`cut_to_last_sync`].
pub fn lose_pages(data: &Path, record: &Path, random: &mut SmallRng) -> Result<Lost> {
    let Some(log) = SyncedLog::newest(data, record)? else {
        return Ok(Lost::default());
    };
    let what = || RigError::system(log.path.display().to_string());
    let file = File::options()
        .write(true)
        .open(&log.path)
        .map_err(what())?;
    let mut lost = Lost::default();
    let end = match random.random() {
        true => log.len,
        false => random.random_range(log.synced_len..=log.len),
    };
    file.set_len(end).map_err(what())?;
    lost.cut_len = log.len - end;
    let share = *[0.1, 0.5, 0.9].choose(random).unwrap_or(&0.5);
    let mut from = log.synced_len;
    // Pages that are gone since the last one that stayed.
    let mut gone = 0;
    while from < end {
        let to = (from / PAGE_LEN + 1).saturating_mul(PAGE_LEN).min(end);
        if random.random_bool(share) {
            let zeros = vec![0; usize::try_from(to - from).unwrap_or(0)];
            file.write_all_at(&zeros, from).map_err(what())?;
            lost.cut_len += to - from;
            gone += 1;
        } else {
            lost.hole_count += std::mem::take(&mut gone);
        }
        from = to;
    }
    lost.kept_len = log.len - lost.cut_len;
    if random.random() {
        tear_note(data)?;
    }
    Ok(lost)
}

/// Spoils the newer half of the note, if there is one and the other half can stand in for it.
fn tear_note(data: &Path) -> Result<()> {
    let path = data.join(NOTE);
    let Ok(bytes) = fs::read(&path) else {
        return Ok(());
    };
    let place = |at: u64| {
        let at = usize::try_from(at).ok()?;
        let place = bytes.get(at..at + NOTE_LEN)?;
        // Both begin alike, and go on with numbers of which the larger one is the newer.
        place.starts_with(b"HSYN").then_some(place)
    };
    let [Some(first), Some(second)] = NOTE_PLACES.map(place) else {
        return Ok(());
    };
    let newer = NOTE_PLACES[usize::from(second > first)];
    File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.write_all_at(&[0xee; 8], newer + 8))
        .map_err(RigError::system(path.display().to_string()))
}

fn read_record(record: &Path) -> Result<BTreeMap<String, u64>> {
    let text =
        fs::read_to_string(record).map_err(RigError::system(record.display().to_string()))?;
    text.lines()
        .map(|line| {
            line.split_once(' ')
                .and_then(|(name, len)| Some((name.to_owned(), len.parse().ok()?)))
                .ok_or_else(|| RigError::Unreadable {
                    command: record.display().to_string(),
                    reason: "not a name and a number of bytes".into(),
                    text: line.to_owned(),
                })
        })
        .collect()
}

/// The log with the highest number.
fn newest_log(folder: &Path) -> Result<Option<(String, PathBuf)>> {
    let what = || RigError::system(folder.display().to_string());
    let mut newest = None;
    for entry in fs::read_dir(folder).map_err(what())? {
        let entry = entry.map_err(what())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name
            .strip_suffix(".log")
            .and_then(|number| number.parse::<u64>().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|&(other, _)| other < number)
        {
            newest = Some((number, (name, entry.path())));
        }
    }
    Ok(newest.map(|(_, found)| found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_pages_behind_the_last_sync_are_lost_and_none_before() {
        use rand::SeedableRng;
        let folder = std::env::temp_dir().join(format!("hearth-pages-{}", std::process::id()));
        let database = folder.join("rocksdb");
        fs::create_dir_all(&database).unwrap();
        let record = folder.join("record");
        fs::write(&record, "000010.log 5000\n").unwrap();
        let log = database.join("000010.log");
        let mut random = SmallRng::seed_from_u64(7);
        let (mut holes, mut shorter) = (0, 0);
        for _ in 0..200 {
            fs::write(&log, [1; 50_000]).unwrap();
            let lost = lose_pages(&folder, &record, &mut random).unwrap();
            let bytes = fs::read(&log).unwrap();
            assert_eq!(bytes[..5_000], [1; 5_000]);
            let kept = bytes.iter().filter(|&&byte| byte == 1).count() as u64;
            assert_eq!((kept, lost.cut_len), (lost.kept_len, 50_000 - kept));
            holes += lost.hole_count;
            shorter += u32::from(bytes.len() < 50_000);
        }
        assert!(holes > 0 && shorter > 0, "{holes} {shorter}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_newest_log_is_cut_to_what_is_durable() {
        let folder = std::env::temp_dir().join(format!("hearth-disk-{}", std::process::id()));
        let database = folder.join("rocksdb");
        fs::create_dir_all(&database).unwrap();
        let record = folder.join("record");
        fs::write(database.join("000009.log"), [1; 50]).unwrap();
        fs::write(database.join("000010.log"), [2; 50]).unwrap();
        fs::write(&record, "000009.log 7\n000010.log 20\n").unwrap();

        let lost = cut_to_last_sync(&folder, &record).unwrap();
        assert_eq!((lost.cut_len, lost.kept_len), (30, 20));
        assert_eq!(fs::read(database.join("000009.log")).unwrap().len(), 50);
        assert_eq!(fs::read(database.join("000010.log")).unwrap(), [2; 20]);

        // A log that no sync has seen may be lost as a whole.
        fs::write(database.join("000011.log"), [3; 50]).unwrap();
        assert_eq!(cut_to_last_sync(&folder, &record).unwrap().cut_len, 50);
        fs::write(&record, "000011.log many\n").unwrap();
        assert!(cut_to_last_sync(&folder, &record).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
