//! The environment of a replica: storage, network and threads.

use std::fmt;
use std::sync::Arc;

use hearth_storage::Home;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;

use crate::rpc::socket::{Sockets, Tcp};

/// The environment of a replica. By default this is the storage that its configuration names, the operating
/// system's network, and threads of its own. A simulation provides all three.
#[derive(Clone)]
pub struct Ground {
    /// The log and state to use in place of the configured storage.
    pub(crate) home: Option<Arc<dyn Home>>,
    pub(crate) sockets: Arc<dyn Sockets>,
    /// True if all tasks run on the runtime of the caller that starts the replica.
    pub(crate) on_callers_runtime: bool,
}

impl Ground {
    /// Creates an environment with the given storage and network, in which all tasks run on the runtime of the
    /// caller that starts the replica. If that runtime has one thread, no task runs on any other. The free
    /// space of the disk is not watched.
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

/// Starts `work` and returns its handle.
pub(crate) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => tokio::spawn(async { work() }),
        _ => tokio::task::spawn_blocking(work),
    }
}
