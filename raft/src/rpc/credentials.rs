//! What this node shows to others, and whom it lets in.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::refusal::{Refusal, RefusalCode};
use crate::config::{ClusterKeys, Key};

/// What this node is, as it changes with the founding or joining of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalNode {
    pub(crate) cluster_name: String,
    /// `None` as long as it belongs to no cluster: it may found or join one, and nothing else.
    pub(crate) cluster_id: Option<u128>,
    /// `None` as long as it has no number.
    pub(crate) node_id: Option<u64>,
    /// Of its data folder.
    pub(crate) incarnation: u128,
}

/// The node at the other side of a connection, as it was introduced after both proofs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// `None` as long as it belongs to no cluster.
    pub(crate) cluster_id: Option<u128>,
    /// `None` as long as it has no number.
    pub(crate) node_id: Option<u64>,
    /// Of its data folder.
    pub(crate) incarnation: u128,
    /// The protocol version that both sides speak.
    pub(crate) protocol: u32,
    /// The key that both sides proved.
    pub(super) key: Key,
}

impl fmt::Debug for Peer {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("cluster_id", &self.cluster_id)
            .field("node_id", &self.node_id)
            .field("incarnation", &self.incarnation)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// Says whether a node with a cluster id that fits may take part: its number and its incarnation.
pub(crate) type Admission = dyn Fn(u64, u128) -> Result<(), Refusal> + Send + Sync;

/// All that a handshake needs. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    local: RwLock<LocalNode>,
    keys: ClusterKeys,
    admission: Box<Admission>,
}

impl fmt::Debug for Credentials {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("local", &self.local())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Those of the node `local`.
    pub(crate) fn new(local: LocalNode, keys: ClusterKeys, admission: Box<Admission>) -> Self {
        Self {
            shared: Arc::new(Shared {
                local: RwLock::new(local),
                keys,
                admission,
            }),
        }
    }

    /// What this node is now.
    pub(crate) fn local(&self) -> LocalNode {
        self.read_local().clone()
    }

    /// To be called when it belongs to a cluster.
    pub(crate) fn set_local(&self, local: LocalNode) {
        let shared = self.shared.local.write();
        *shared.unwrap_or_else(PoisonError::into_inner) = local;
    }

    /// The key to prove: the empty one, where there is none.
    pub(super) fn key(&self) -> Key {
        let keys = self.shared.keys.all();
        keys.first().cloned().unwrap_or_default()
    }

    /// The key that is accepted and that `fits`.
    pub(super) fn key_that(&self, fits: impl Fn(&Key) -> bool) -> Option<Key> {
        let keys = self.shared.keys.all();
        if keys.is_empty() {
            return Some(Key::default()).filter(fits);
        }
        keys.iter().find(|key| fits(key)).cloned()
    }

    /// Whether a node that has shown the key belongs to this node's cluster, as far as that is known. A
    /// connection from before this node had a cluster never does: its other side was compared with nothing.
    pub(crate) fn is_member(&self, peer: &Peer) -> bool {
        let ours = self.read_local().cluster_id;
        ours.is_some() && peer.cluster_id == ours && peer.node_id.is_some()
    }

    /// What speaks against a node that has proved a key. That changes: it may be removed at any time, and
    /// so may the key.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn admit(&self, peer: &Peer) -> Result<(), Refusal> {
        if self.key_that(|key| *key == peer.key).is_none() {
            let text = "the cluster key that it proved is not accepted any more";
            return Err(Refusal::new(RefusalCode::KeyDropped, text));
        }
        match peer.node_id {
            Some(id) if self.is_member(peer) => (self.shared.admission)(id, peer.incarnation),
            _ => Ok(()),
        }
    }

    fn read_local(&self) -> RwLockReadGuard<'_, LocalNode> {
        let local = self.shared.local.read();
        local.unwrap_or_else(PoisonError::into_inner)
    }
}
