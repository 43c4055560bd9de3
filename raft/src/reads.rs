//! Reads that need a round: ReadIndex, one round for all that wait.
//!
//! A round asks the leader, which may be this node, up to which index a read must see; what waits here
//! then waits until that is applied here. A round that is under way says nothing about a read that came
//! after it began, so such a read waits for the next one. Under load there are therefore two rounds per
//! round-trip time, whatever the number of readers. The leader answers other nodes from the same rounds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::error::ReadError;
use crate::forward::Route;
use crate::state_machine::Counters;

/// How long a reader waits before it asks again, after a round that failed.
const RETRY_DELAY: Duration = Duration::from_millis(10);

type Waiting = oneshot::Sender<Result<u64, String>>;

/// The readers that wait for a round.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Mutex<Vec<Waiting>>,
    arrived: Notify,
    counters: Arc<Counters>,
}

impl Reads {
    /// Readers of what `counters` says is applied.
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self {
            counters,
            ..Self::default()
        }
    }

    /// Waits for a round that began after this call, and until what it covers is applied here.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] when none succeeded within `timeout`, [`ReadError::Stopping`].
    pub(crate) async fn barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        let mut reason = "no answer in time".to_owned();
        let attempts = async {
            loop {
                match self.join_round().await {
                    Ok(Ok(index)) => {
                        reason = format!(
                            "this node is behind: it waited for entry {index} to arrive here"
                        );
                        self.counters.applied.reaches(index).await;
                        return Ok(());
                    }
                    Ok(Err(failure)) => reason = failure,
                    Err(_) => return Err(ReadError::Stopping("Raft has stopped".to_owned())),
                }
                tokio::time::sleep(RETRY_DELAY).await;
            }
        };
        match tokio::time::timeout(timeout, attempts).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::NoQuorum(reason)),
        }
    }

    /// The index that a read which begins now must see.
    ///
    /// # Errors
    /// Why the round failed.
    pub(crate) async fn index(&self) -> Result<u64, String> {
        match self.join_round().await {
            Ok(result) => result,
            Err(_) => Err("this node is stopping".to_owned()),
        }
    }

    async fn join_round(&self) -> Result<Result<u64, String>, oneshot::error::RecvError> {
        let (sender, receiver) = oneshot::channel();
        self.lock().push(sender);
        self.arrived.notify_one();
        receiver.await
    }

    /// Runs rounds until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, route: Route) {
        let _release = ReleaseWaiting(&self);
        loop {
            self.arrived.notified().await;
            let waiting = std::mem::take(&mut *self.lock());
            if waiting.is_empty() {
                continue;
            }
            let result = route.read_index().await;
            for reader in waiting {
                // One that gave up is gone.
                let _ = reader.send(result.clone());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the readers go when nobody runs rounds any more.
struct ReleaseWaiting<'a>(&'a Reads);

impl Drop for ReleaseWaiting<'_> {
    fn drop(&mut self) {
        self.0.lock().clear();
    }
}
