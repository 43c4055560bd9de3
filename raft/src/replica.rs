//! The handle that the rest of a node holds.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hearth_storage::{Answer, Command, Query, Reply, StoreError};

use crate::error::{ReadError, StartError, WriteError};

/// Where a replica keeps its log and state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageLocation {
    /// RocksDB over its in-memory environment: gone when the process ends.
    Memory,
    /// RocksDB in this folder, made when it does not exist.
    Rocks(PathBuf),
}

/// How a replica is started.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// This node's number, 1 and up.
    pub node_id: u64,
    /// Part of the cluster's identity.
    pub cluster_name: String,
    /// Where log and state live.
    pub storage: StorageLocation,
}

/// What a node knows of itself, for `status`, logs and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node_id: u64,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// Index of the last entry of the log.
    pub last_log_index: u64,
    /// Index of the last applied entry.
    pub last_applied: u64,
    /// Commands applied since the start.
    pub command_count: u64,
    /// Completed syncs of the log since the start.
    pub sync_count: u64,
}

/// A running replica. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub struct Replica {}

impl Replica {
    /// Opens the storage and takes part in the cluster. Returns once this node has recovered and can
    /// serve.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: ReplicaConfig) -> Result<Self, StartError> {
        let _ = config;
        unimplemented!()
    }

    /// Has `command` applied once, by the cluster, and returns its reply. The command is durable on a
    /// majority, and applied here, when this returns.
    ///
    /// # Errors
    /// [`WriteError`]: after `deadline`, or when the replica stops.
    pub async fn write(&self, command: Command, deadline: Instant) -> Result<Reply, WriteError> {
        let _ = (command, deadline);
        unimplemented!()
    }

    /// Waits until what this node has applied includes every write that was acknowledged anywhere
    /// before this call (ReadIndex). Returns at once, without yielding, where no round trip is needed.
    ///
    /// # Errors
    /// [`ReadError`]: after `timeout`, or when the replica stops.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        let _ = timeout;
        unimplemented!()
    }

    /// Answers from this node's own copy, blocking on its disk. Call [`Self::read_barrier`] first for a
    /// linearizable answer. Point look-ups and counts are quick enough for a reactor thread, lists are not.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn answer(&self, query: &Query) -> Result<Answer, StoreError> {
        let _ = query;
        unimplemented!()
    }

    /// Where this node stands.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Resolves, with the reason, when the replica can no longer work (its storage failed); pending for
    /// ever while it is well.
    pub async fn failed(&self) -> String {
        unimplemented!()
    }

    /// Stops taking commands, finishes what is under way, syncs and closes the storage.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
