//! Errors of the storage layer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// An error of a store that cannot do what was asked. It is never the client's fault and is never
/// retried: a node that gets one from a write stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// RocksDB reports an error.
    #[error("rocksdb at {}: {source}", path.display())]
    Rocks {
        /// The data directory.
        path: PathBuf,
        /// The error of RocksDB.
        source: rocksdb::Error,
    },
    /// The operating system reports an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The bytes were not written by any version of Hearth, or were altered since.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// The data that was read.
        what: String,
        /// The problem.
        reason: String,
    },
    /// The data directory does not open because something in it was altered or lost since it was
    /// written.
    #[error(
        "{} is damaged: {reason}; nothing was changed. A member of a cluster: remove this node from \
         the cluster, keep the folder aside, and let a new node with a new id take its place. A node \
         alone: hearthd restore brings its last snapshot (nsctl snapshot save) into an empty folder, and \
         hearthd dump prints what can still be read here; docs/recovery.md has the steps",
        path.display()
    )]
    Damaged {
        /// The damaged file if it is known, otherwise the data directory.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// Another process, or another store in this process, has the data directory open.
    #[error("{} is in use by {holder}; two servers cannot share a data folder", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// The process that has it open, if it is known.
        holder: String,
    },
    /// The data directory was written by a later version of Hearth.
    #[error(
        "{} has format {found}, and this version reads up to {known}; start the version that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// The format of the data directory.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
    /// The log was written by a later version of Hearth.
    #[error(
        "the log asks for rules {found}, and this version knows them up to {known}; start the version \
         that wrote it"
    )]
    NewerRules {
        /// The rules that the log requires.
        found: u32,
        /// The latest rules that this version knows.
        known: u32,
    },
    /// An earlier write or sync failed, or the store was closed. Every later operation fails.
    #[error("storage has stopped: {reason}")]
    Stopped {
        /// The first failure, or the close.
        reason: Arc<str>,
    },
    /// The log entries do not follow the last one.
    #[error("log entry {found} does not follow; the next index is {expected}")]
    Gap {
        /// The index that must come next.
        expected: u64,
        /// The index of the entry that was given.
        found: u64,
    },
    /// Something else was committed since the change began; the change is not written.
    #[error("the registry changed while this change was being made")]
    Overtaken,
    /// A snapshot to install is incomplete or altered. The state is unchanged.
    #[error("snapshot refused: {reason}")]
    Snapshot {
        /// The problem.
        reason: String,
    },
    /// A store outside this crate reports an error.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Returns a [`StoreError::Corrupt`].
    pub fn corrupt(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// Returns a [`StoreError::Snapshot`].
    pub fn snapshot(reason: impl Into<String>) -> Self {
        Self::Snapshot {
            reason: reason.into(),
        }
    }
}
