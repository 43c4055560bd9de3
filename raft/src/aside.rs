//! Work that may block, on a thread that may: Raft's own has heartbeats to send.
//!
//! Where the runtime has a single thread, as in a simulation, there is no other, and the work is done in a
//! task like any.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;

/// Begins `work`.
pub(crate) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => tokio::spawn(async { work() }),
        _ => tokio::task::spawn_blocking(work),
    }
}
