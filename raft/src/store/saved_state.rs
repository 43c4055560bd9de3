//! The state of this node for a file: what it is of, and its bytes.

use std::sync::Arc;

use hearth_storage::{ChunkCursor, Registry, StateSnapshot, StoreError};

use crate::codec::Identity;
use crate::store::snapshot::{CHUNK_LEN, Position};

/// The applied state of one moment. Holds its place on disk until it is dropped.
#[derive(Debug, Clone)]
pub struct SavedState {
    state: Arc<StateSnapshot>,
    identity: Identity,
    position: Position,
}

/// What a [`SavedState`] is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedAbout {
    /// The cluster's name.
    pub cluster_name: String,
    /// Its identity, in hexadecimal digits.
    pub cluster_id: String,
    /// The node that it comes from.
    pub node_id: u64,
    /// The members at that moment.
    pub members: Vec<u64>,
    /// The term of the last log entry in it.
    pub term: u64,
    /// The index of that entry.
    pub last_applied: u64,
    /// Names, without the server's own.
    pub name_count: u64,
    /// Records beside them.
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

    /// What it is of.
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

    /// The bytes of its header.
    pub fn header(&self) -> Vec<u8> {
        self.state.header().encode()
    }

    /// The chunk at `cursor`, and where the next one begins; `None` behind the last one. Blocks.
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
