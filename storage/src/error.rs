//! What can be wrong with the place where data is kept.

use std::path::PathBuf;

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
    /// Bytes that no version of Hearth wrote, or that were changed since.
    #[error("{what} is corrupt: {reason}")]
    Corrupt {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}
