//! The errors of writes, reads and starts.

/// The reason why a command has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The command never reached the log and never will.
    #[error("not written: {0}")]
    NotProposed(String),
    /// The command was not proposed because no leader with a majority could be reached before the
    /// deadline.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The command was not proposed because the disk of a node is nearly full.
    #[error("not written: {0}")]
    DiskFull(String),
    /// The command may have been applied, may still be applied, or may never be applied.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The reason why a read could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No majority confirmed that this node is up to date.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The node is stopping, or its storage failed.
    #[error("node is stopping: {0}")]
    Stopping(String),
}

/// The reason why a replica could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The storage could not be opened, read or written.
    #[error(transparent)]
    Store(#[from] hearth_storage::StoreError),
    /// The data directory belongs to another cluster or node, or this node cannot bootstrap or join
    /// its cluster as configured.
    #[error("{0}")]
    Identity(String),
    /// The cluster has removed the node that owns this data directory. It can never serve again.
    #[error("{0}")]
    Removed(String),
    /// The port for other nodes cannot be opened.
    #[error("cannot listen for other nodes on {addr} (set by --peer-addr): {source}")]
    Listen {
        /// The address, `HOST:PORT`.
        addr: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// openraft could not start.
    #[error("raft: {0}")]
    Raft(String),
}
