//! Operations on a data directory while no node runs on it.
//!
//! Looking ([`verify`], [`dump`]) works on a copy and changes nothing. [`Recovery`] makes the state of one node a
//! cluster of its own, and [`restore`] makes one of a snapshot. Both end alike (`alone.rs`): with an entry of the
//! log that has this node as the only voter, in a folder that belongs to another cluster from then on.

mod alone;
mod look;
mod recover;
mod restore;

use std::io;

use hearth_storage::StoreError;

pub(crate) use alone::last_membership;
pub use look::{Verified, dump, verify};
pub use recover::Recovery;
pub use restore::{RestoreAs, restore};

use crate::codec::Identity;
use crate::types::LogId;

/// The reason why an operation was not done. The data directory is unchanged unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The folder, or a snapshot, cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder is not one with which this can be done.
    #[error("{0}")]
    Refused(String),
    /// The system's own.
    #[error("{what}: {source}")]
    Io {
        /// The file, or what was to be done with it.
        what: String,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The identity of a node after the operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCluster {
    /// Its name, as before.
    pub cluster_name: String,
    /// Its identity, in hexadecimal digits: another one.
    pub cluster_id: String,
    /// The node, its only member.
    pub node_id: u64,
    /// Names that it holds, without its own.
    pub name_count: u64,
    /// Hash of the state.
    pub state_hash: String,
}

impl NewCluster {
    fn of(identity: &Identity, summary: hearth_storage::Summary) -> Self {
        Self {
            cluster_name: identity.cluster_name.clone(),
            cluster_id: format!("{:032x}", identity.cluster_id),
            node_id: identity.node_id,
            name_count: summary.entry_count,
            state_hash: summary.hash.to_string(),
        }
    }
}

/// A log id for a person: its index.
fn index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}
