//! Reads that need a round: ReadIndex, one round for all that wait.
//!
//! A round that is under way says nothing about a read that came after it began, so such a read waits
//! for the next one. Under load there are therefore two rounds per round-trip time, whatever the number of
//! readers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::ReadPolicy;
use tokio::sync::{Notify, oneshot};

use crate::error::ReadError;
use crate::type_config::Raft;

/// How long a reader waits before it asks again, after a round that failed.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// How long one round waits for the state machine. Readers have deadlines of their own.
const ROUND_DURATION_MAX: Duration = Duration::from_secs(5);

type Waiting = oneshot::Sender<Result<(), String>>;

/// The readers that wait for a round.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Mutex<Vec<Waiting>>,
    arrived: Notify,
}

impl Reads {
    /// Waits for a round that began after this call.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] when none succeeded within `timeout`, [`ReadError::Stopping`].
    pub(crate) async fn barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        let mut reason = "no answer in time".to_owned();
        let attempts = async {
            loop {
                match self.join_round().await {
                    Ok(Ok(())) => return Ok(()),
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

    async fn join_round(&self) -> Result<Result<(), String>, oneshot::error::RecvError> {
        let (sender, receiver) = oneshot::channel();
        self.lock().push(sender);
        self.arrived.notify_one();
        receiver.await
    }

    /// Runs rounds until it is dropped.
    pub(crate) async fn run(self: Arc<Self>, raft: Raft) {
        let _release = ReleaseWaiting(&self);
        loop {
            self.arrived.notified().await;
            let waiting = std::mem::take(&mut *self.lock());
            if waiting.is_empty() {
                continue;
            }
            let result = round(&raft).await;
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

async fn round(raft: &Raft) -> Result<(), String> {
    let linearizer = raft
        .get_read_linearizer(ReadPolicy::ReadIndex)
        .await
        .map_err(|error| error.to_string())?;
    match linearizer
        .try_await_ready(raft, Some(ROUND_DURATION_MAX))
        .await
    {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(state)) => Err(format!("the state machine lags behind: {state}")),
        Err(fatal) => Err(fatal.to_string()),
    }
}
