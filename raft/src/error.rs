//! The outcomes of writes and reads that are not an answer.

/// Why a command has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It never reached the log and never will.
    #[error("not written: {0}")]
    NotProposed(String),
    /// The same, because no leader with a majority could be reached until the deadline.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The same, because the disk of a node is nearly full.
    #[error("not written: {0}")]
    DiskFull(String),
    /// It may or may not have been applied, or still be.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// Why a read could not be answered.
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

/// Why a replica could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] hearth_storage::StoreError),
    /// The data folder belongs to another cluster or node.
    #[error("{0}")]
    Identity(String),
    /// The cluster has removed the node whose data this is. It can never serve again.
    #[error("{0}")]
    Removed(String),
    /// The port for other nodes cannot be had.
    #[error("cannot listen for other nodes on {addr} (set by --peer-addr): {source}")]
    Listen {
        /// The address.
        addr: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// openraft could not start.
    #[error("raft: {0}")]
    Raft(String),
}
