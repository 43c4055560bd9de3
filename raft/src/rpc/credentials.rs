//! This node's identity towards its peers, and the rules for admitting them.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::refusal::{Refusal, RefusalCode};
use crate::config::{ClusterKeys, Key};

/// The identity of this node. It changes when the node bootstraps or joins a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalNode {
    pub(crate) cluster_name: String,
    /// `None` while the node belongs to no cluster: it may only bootstrap or join one.
    pub(crate) cluster_id: Option<u128>,
    /// `None` while the peer has no id.
    pub(crate) node_id: Option<u64>,
    /// The incarnation of its data directory.
    pub(crate) incarnation: u128,
}

/// The peer of a connection, authenticated by both proofs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// `None` while the peer belongs to no cluster.
    pub(crate) cluster_id: Option<u128>,
    /// `None` while the peer has no id.
    pub(crate) node_id: Option<u64>,
    /// The incarnation of its data directory.
    pub(crate) incarnation: u128,
    /// The protocol version of the connection, which both sides speak.
    pub(crate) protocol: u32,
    /// The key that both sides proved.
    pub(super) key: Key,
}

impl fmt::Debug for Peer {
    /// Omits the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("cluster_id", &self.cluster_id)
            .field("node_id", &self.node_id)
            .field("incarnation", &self.incarnation)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// Decides whether a node of this cluster may take part, by its id and its incarnation.
pub(crate) type Admission = dyn Fn(u64, u128) -> Result<(), Refusal> + Send + Sync;

/// The identity, keys and admission rule that a handshake needs. All clones share one state.
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
    /// Omits the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("local", &self.local())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Creates the credentials of the node `local`.
    pub(crate) fn new(local: LocalNode, keys: ClusterKeys, admission: Box<Admission>) -> Self {
        Self {
            shared: Arc::new(Shared {
                local: RwLock::new(local),
                keys,
                admission,
            }),
        }
    }

    /// Returns this node's current identity.
    pub(crate) fn local(&self) -> LocalNode {
        self.read_local().clone()
    }

    /// Replaces this node's identity. Must be called when the node belongs to a cluster.
    pub(crate) fn set_local(&self, local: LocalNode) {
        let shared = self.shared.local.write();
        *shared.unwrap_or_else(PoisonError::into_inner) = local;
    }

    /// Returns the key to prove; the empty key if there is none.
    pub(super) fn key(&self) -> Key {
        let keys = self.shared.keys.all();
        keys.first().cloned().unwrap_or_default()
    }

    /// Returns the accepted key that `fits`.
    pub(super) fn key_that(&self, fits: impl Fn(&Key) -> bool) -> Option<Key> {
        let keys = self.shared.keys.all();
        if keys.is_empty() {
            return Some(Key::default()).filter(fits);
        }
        keys.iter().find(|key| fits(key)).cloned()
    }

    /// Returns true if a peer that has proved the key is known to belong to this node's cluster. False for a
    /// connection from before this node had a cluster: the peer's cluster id was compared with nothing.
    pub(crate) fn is_member(&self, peer: &Peer) -> bool {
        let ours = self.read_local().cluster_id;
        ours.is_some() && peer.cluster_id == ours && peer.node_id.is_some()
    }

    /// Checks that a peer that has proved a key is still admitted. The answer may change: the peer and the key
    /// may be removed at any time.
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
