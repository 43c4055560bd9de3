//! What a power failure takes: everything that was written after the last completed sync.
//!
//! A killed process loses nothing that it has written, because the system has it. So nodes are started with
//! `HEARTH_SYNC_RECORD`, and note after each sync how much of each write-ahead log is durable: a text file,
//! a line for each log, with its name, a blank, and the bytes. After kill -9 the rest is cut away here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Result, RigError};

/// The variable with which `hearthd` is told where to note what is durable.
pub const SYNC_RECORD: &str = "HEARTH_SYNC_RECORD";

/// What was taken away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Bytes at the end of the newest log that no sync had covered.
    pub cut_len: u64,
    /// Bytes of it that stayed.
    pub kept_len: u64,
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
    })
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
