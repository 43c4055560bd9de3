//! RocksDB: log and state in one database, with one write-ahead log. (Signatures; bodies follow.)

mod log;

use std::path::PathBuf;

pub use log::{LogHome, LogStats, SyncDone};

use crate::error::StoreError;
use crate::model::Entry;
use crate::store::{Batch, Install, Store, View};
use crate::summary::Summary;

/// Where a database lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In memory: gone when the store is dropped. The same code over RocksDB's in-memory environment.
    Memory,
    /// In this folder, made when it does not exist. One store at a time.
    Folder(PathBuf),
}

/// How a database is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RocksOptions {
    /// Bytes of the cache for blocks, indexes and filters.
    pub block_cache_len: usize,
    /// Bytes in memory before they are written to a table, over all column families.
    pub write_buffer_len: usize,
    /// Bytes of write-ahead log that a restart may have to read.
    pub wal_len_max: u64,
    /// For tests of lost writes: after each sync this file lists the write-ahead logs and how many of
    /// their bytes are durable.
    pub sync_record: Option<PathBuf>,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            block_cache_len: 32 << 20,
            write_buffer_len: 16 << 20,
            wal_len_max: 32 << 20,
            sync_record: None,
        }
    }
}

/// A registry's data and a log in one RocksDB. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub struct RocksStore {}

impl RocksStore {
    /// Opens or makes a database.
    ///
    /// # Errors
    /// [`StoreError`]: in use, written by a later version, damaged, or the system's own.
    pub fn open(location: &Location, options: &RocksOptions) -> Result<Self, StoreError> {
        let _ = (location, options);
        unimplemented!()
    }

    /// The log in the same database.
    pub fn log(&self) -> LogHome {
        unimplemented!()
    }

    /// Has `hook` called, once and with the reason, when a write or sync fails (at once if one has). A
    /// node that cannot trust its disk stops.
    pub fn on_failure(&self, hook: impl FnOnce(&str) + Send + 'static) {
        let _ = hook;
        unimplemented!()
    }

    /// Completes what is queued, syncs, writes the memory tables out so that the next start is quick,
    /// and lets nothing be written from then on. Blocks. The folder is free when all clones, views and
    /// snapshots are dropped. Dropping all of them without this closes safely, too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn close(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
}

impl Store for RocksStore {
    fn entry(&self, _name: &str) -> Result<Option<Entry>, StoreError> {
        unimplemented!()
    }
    fn extra(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        unimplemented!()
    }
    fn meta(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        unimplemented!()
    }
    fn summary(&self) -> Result<Summary, StoreError> {
        unimplemented!()
    }
    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        unimplemented!()
    }
    fn commit(&self, _batch: Batch) -> Result<(), StoreError> {
        unimplemented!()
    }
    fn begin_install(&self) -> Result<Box<dyn Install>, StoreError> {
        unimplemented!()
    }
}
