//! What a replica stands on: storage, network and threads.

use std::fmt;
use std::sync::Arc;

use hearth_storage::Home;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;

use crate::rpc::socket::{Sockets, Tcp};

/// What a replica stands on. By default the storage that its configuration names, the system's network, and
/// threads of its own; a simulation brings all three.
#[derive(Clone)]
pub struct Ground {
    /// Log and state, in place of the configured storage.
    pub(crate) home: Option<Arc<dyn Home>>,
    pub(crate) sockets: Arc<dyn Sockets>,
    /// Whether to run on the runtime of whoever starts it.
    pub(crate) on_callers_runtime: bool,
}

impl Ground {
    /// Storage and network are given, and all tasks run on the runtime of whoever starts the replica. If that
    /// has one thread, nothing ever runs on another. A disk that fills up is not watched.
    pub fn simulated(home: Arc<dyn Home>, sockets: Arc<dyn Sockets>) -> Self {
        Self {
            home: Some(home),
            sockets,
            on_callers_runtime: true,
        }
    }
}

impl Default for Ground {
    fn default() -> Self {
        Self {
            home: None,
            sockets: Arc::new(Tcp),
            on_callers_runtime: false,
        }
    }
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground")
            .field("has_home", &self.home.is_some())
            .field("sockets", &self.sockets)
            .field("on_callers_runtime", &self.on_callers_runtime)
            .finish()
    }
}

/// Begins `work`.
pub(crate) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => tokio::spawn(async { work() }),
        _ => tokio::task::spawn_blocking(work),
    }
}
