//! The secrets of a cluster, which can be changed while its nodes run.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// A cluster key.
pub(crate) type Key = Arc<[u8]>;

/// The keys that nodes prove to each other: the first is proved, and each is accepted. Clones are the same
/// ones: what [`Self::set`] sets holds for all of them.
#[derive(Clone)]
pub struct ClusterKeys {
    keys: Arc<RwLock<Arc<[Key]>>>,
}

impl ClusterKeys {
    /// These keys. Without any, anyone who reaches the peer port can take part.
    ///
    /// ```
    /// let keys = hearth_raft::ClusterKeys::new([b"the secret".to_vec()]);
    /// // A key is changed in steps: accepted everywhere, then proved, then the old one is dropped.
    /// keys.set([b"the secret".to_vec(), b"the next secret".to_vec()]);
    /// assert_eq!(keys.all().len(), 2);
    /// ```
    pub fn new(keys: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self {
            keys: Arc::new(RwLock::new(shared(keys))),
        }
    }

    /// Other keys from now on. Connections under a key that is not among them end.
    pub fn set(&self, keys: impl IntoIterator<Item = Vec<u8>>) {
        let keys = shared(keys);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// All keys, the one that is proved first.
    pub fn all(&self) -> Arc<[Arc<[u8]>]> {
        let keys = self.keys.read();
        Arc::clone(&keys.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }
}

fn shared(keys: impl IntoIterator<Item = Vec<u8>>) -> Arc<[Key]> {
    keys.into_iter().map(Key::from).collect()
}

impl Default for ClusterKeys {
    /// None.
    fn default() -> Self {
        Self::new([])
    }
}

impl PartialEq for ClusterKeys {
    fn eq(&self, other: &Self) -> bool {
        self.all() == other.all()
    }
}

impl Eq for ClusterKeys {}

impl fmt::Debug for ClusterKeys {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterKeys")
            .field("count", &self.all().len())
            .finish()
    }
}
