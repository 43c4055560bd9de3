//! Why a node does not start, or had to stop.

use std::io;
use std::path::PathBuf;

use hearth_raft::StartError;

/// What ends a node. The texts name the option that helps, where one does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The host to bind has no usable address.
    #[error("no address found for host '{host}' (-n/--host): {reason}")]
    Resolve {
        /// As it was given.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// Somebody listens there already.
    #[error(
        "{address} is in use, perhaps by another name server; choose another one with {option}"
    )]
    InUse {
        /// Address and port, or path.
        address: String,
        /// The option that changes it.
        option: &'static str,
    },
    /// The path of the unix socket is taken by something else.
    #[error("{} exists and is no socket; remove it or choose another path with -u/--unixsocket", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {address} (set by {option}): {source}")]
    Listen {
        /// Address and port, or path.
        address: String,
        /// The option that changes it.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The name space cannot be opened.
    #[error("cannot start on this storage (set by -s/--storage): {0}")]
    Storage(#[source] hearth_storage::StoreError),
    /// This node cannot take part in its cluster as it was told to.
    #[error("cannot start: {0}")]
    Start(#[source] StartError),
    /// The cluster has removed this node, which can never serve again.
    #[error("{0}")]
    Removed(String),
    /// A joining node does not know where the others reach it.
    #[error("cannot tell where the other nodes reach this one; give --peer-addr HOST:PORT: {0}")]
    PeerAddr(String),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] hearth_storage::StoreError),
    /// The replica can no longer work.
    #[error("the replica failed: {0}")]
    Replica(String),
    /// A part of the node ended although nobody had asked it to.
    #[error("the {task} stopped: {reason}")]
    Task {
        /// Which part.
        task: &'static str,
        /// A panic's text, or that there was none.
        reason: String,
    },
    /// A second signal came while clients were still being served.
    #[error("stopped without waiting for its clients, as a second signal asked")]
    Impatient,
    /// The runtime or the signal handlers cannot be set up.
    #[error("cannot set up the process: {0}")]
    Process(io::Error),
}

impl From<StartError> for NodeError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => Self::Storage(error),
            StartError::Removed(reason) => Self::Removed(reason),
            StartError::Listen { addr, source } if source.kind() == io::ErrorKind::AddrInUse => {
                Self::InUse {
                    address: format!("the peer address {addr}"),
                    option: PEER_OPTION,
                }
            }
            StartError::Listen { addr, source } => Self::Listen {
                address: format!("the peer address {addr}"),
                option: PEER_OPTION,
                source,
            },
            other => Self::Start(other),
        }
    }
}

const PEER_OPTION: &str = "--peer-addr (with --initial-cluster: there, on all nodes)";
