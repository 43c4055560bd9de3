//! What can be wrong with the place where data is kept.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A store that cannot do what was asked. Never the client's fault, and never retried: a node that
/// gets one from a write stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// RocksDB reports an error.
    #[error("rocksdb at {}: {source}", path.display())]
    Rocks {
        /// The data folder.
        path: PathBuf,
        /// RocksDB's own error.
        source: rocksdb::Error,
    },
    /// The operating system reports an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// Bytes that no version of Hearth wrote, or that were changed since.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder does not open because something in it was changed or lost since it was written.
    #[error(
        "{} is damaged: {reason}; nothing was changed. A member of a cluster: remove this node from \
         the cluster, keep the folder aside, and let a new node with a new id take its place. A node \
         alone: hearthd restore brings its last snapshot (nsctl snapshot save) into an empty folder, and \
         hearthd dump prints what can still be read here; docs/recovery.md has the steps",
        path.display()
    )]
    Damaged {
        /// The file, as far as it is known; otherwise the folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process, or another store of this one, has the folder open.
    #[error("{} is in use by {holder}; two servers cannot share a data folder", path.display())]
    InUse {
        /// The data folder.
        path: PathBuf,
        /// Who has it, as far as it is known.
        holder: String,
    },
    /// The folder was written by a later Hearth.
    #[error(
        "{} has format {found}, and this version reads up to {known}; start the version that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The data folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this version knows.
        known: u32,
    },
    /// The log was written by a later Hearth.
    #[error(
        "the log asks for rules {found}, and this version knows them up to {known}; start the version \
         that wrote it"
    )]
    NewerRules {
        /// The rules that it asks for.
        found: u32,
        /// The latest rules that this version knows.
        known: u32,
    },
    /// An earlier write or sync failed, or the store was closed; nothing works from then on.
    #[error("storage has stopped: {reason}")]
    Stopped {
        /// The first failure.
        reason: Arc<str>,
    },
    /// Log entries that do not follow the last one.
    #[error("log entry {found} does not follow; the next index is {expected}")]
    Gap {
        /// The index that must come next.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// Two changes were open at once; the second is not written.
    #[error("the registry changed while this change was being made")]
    Overtaken,
    /// A snapshot from elsewhere that is incomplete or altered. The state here is as before.
    #[error("snapshot refused: {reason}")]
    Snapshot {
        /// What is wrong with it.
        reason: String,
    },
    /// A store from outside this crate reports an error.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// A [`StoreError::Corrupt`].
    pub fn corrupt(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            what: what.into(),
            reason: reason.into(),
        }
    }

    /// A [`StoreError::Snapshot`].
    pub fn snapshot(reason: impl Into<String>) -> Self {
        Self::Snapshot {
            reason: reason.into(),
        }
    }
}
