//! The applied state of this node, ready to be saved to a file: its description and its bytes.

use std::sync::Arc;

use hearth_storage::{ChunkCursor, Registry, StateSnapshot, StoreError};

use crate::codec::Identity;
use crate::store::snapshot::{CHUNK_LEN, Position};

/// The applied state of one moment. Pins its data on disk until it is dropped.
#[derive(Debug, Clone)]
pub struct SavedState {
    state: Arc<StateSnapshot>,
    identity: Identity,
    position: Position,
}

/// The description of a [`SavedState`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedAbout {
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster's identity, 32 hexadecimal digits.
    pub cluster_id: String,
    /// The id of the node that the state was taken from.
    pub node_id: u64,
    /// The ids of the members at that moment.
    pub members: Vec<u64>,
    /// The term of the last log entry that the state includes.
    pub term: u64,
    /// The index of that log entry.
    pub last_applied: u64,
    /// Number of names, without the name server's own entry.
    pub name_count: u64,
    /// Number of extra records beside the names.
    pub record_count: u64,
    /// Hash of the state.
    pub state_hash: String,
}

impl SavedState {
    pub(crate) fn take(registry: &Registry, identity: Identity) -> Result<Self, StoreError> {
        let state = registry.snapshot()?;
        let position = Position::read(|key| Ok(state.header().meta.get(key).cloned()))?;
        Ok(Self {
            state: Arc::new(state),
            identity,
            position,
        })
    }

    /// Returns the description of the state.
    pub fn about(&self) -> SavedAbout {
        let summary = self.state.header().summary;
        let nodes = self.position.membership.membership().nodes();
        SavedAbout {
            cluster_name: self.identity.cluster_name.clone(),
            cluster_id: format!("{:032x}", self.identity.cluster_id),
            node_id: self.identity.node_id,
            members: nodes.map(|(&id, _)| id).collect(),
            term: self.position.last_applied.map_or(0, |id| id.leader_id.term),
            last_applied: self.position.last_applied.map_or(0, |id| id.index),
            name_count: summary.entry_count,
            record_count: summary.extra_count,
            state_hash: summary.hash.to_string(),
        }
    }

    /// Returns the encoded header.
    pub fn header(&self) -> Vec<u8> {
        self.state.header().encode()
    }

    /// Returns the chunk at `cursor` and the cursor of the next chunk; `None` after the last chunk.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn chunk(
        &self,
        cursor: &ChunkCursor,
    ) -> Result<Option<(Vec<u8>, ChunkCursor)>, StoreError> {
        self.state.chunk(cursor, CHUNK_LEN)
    }
}
