//! Linearizable reads that need a round trip (ReadIndex): one round serves all reads that wait for it.
//!
//! A round asks the leader, which may be this node, for the read index. The reads of this node then wait until
//! that index is applied here. A round proves nothing for a read that began after the round did, so such a read
//! waits for the next round, which may begin before the first one ends. At most [`ROUND_COUNT_MAX`] rounds are
//! under way at once, whatever the number of readers. The leader serves the ReadIndex requests of other nodes
//! from the same rounds.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, oneshot};

use crate::error::ReadError;
use crate::leader::router::Way;
use crate::leader::tracker::Leadership;
use crate::store::state_machine::Counters;

/// Pause before a reader joins another round after a failed one: the first pause, and the limit up to which it
/// doubles. A change of leader ends the pause.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(200);

/// Maximum number of rounds under way at once.
const ROUND_COUNT_MAX: usize = 2;

/// Interval of probe rounds, which serve no reader. They run only after a failed round, to detect that rounds
/// succeed again.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// Receives the read index, or the reason why there is none.
type Reader = oneshot::Sender<Result<u64, String>>;

/// The reads that wait for a round, and the rounds that serve them.
#[derive(Debug)]
pub(crate) struct Reads {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    round_count: AtomicU64,
    counters: Arc<Counters>,
    leadership: Leadership,
}

#[derive(Debug, Default)]
struct Waiting {
    /// ReadIndex requests of other nodes, which need only the index.
    for_index: Vec<Reader>,
    /// Reads of this node, which also wait until the index is applied here.
    for_applied: Vec<Reader>,
    /// True once no more rounds will run.
    ended: bool,
}

impl Reads {
    /// Creates an empty set of readers. `counters` says which index is applied here.
    pub(crate) fn new(counters: Arc<Counters>, leadership: Leadership) -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            round_count: AtomicU64::new(0),
            counters,
            leadership,
        }
    }

    /// Waits for a round that began after this call, and until its read index is applied here.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] if no round succeeded within `timeout`; [`ReadError::Stopping`] if Raft has
    /// stopped.
    pub(crate) async fn barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        let mut reason = None;
        let attempts = async {
            let mut delay = RETRY_DELAY_MIN;
            let mut leader = self.leadership.watch();
            loop {
                leader.mark_unchanged();
                match self.join_round(|waiting| &mut waiting.for_applied).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(failure)) => reason = Some(failure),
                    Err(_) => return Err(ReadError::Stopping("Raft has stopped".to_owned())),
                }
                // Retry after the pause, or as soon as the leader changes.
                let _ = tokio::time::timeout(delay, leader.changed()).await;
                delay = (delay * 2).min(RETRY_DELAY_MAX);
            }
        };
        match tokio::time::timeout(timeout, attempts).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::NoQuorum(reason.unwrap_or_else(|| {
                match self.leadership.leader() {
                    Some(leader) if leader != self.leadership.node_id() => format!(
                        "node {leader}, the leader, did not answer in time, or this node is behind"
                    ),
                    Some(_) => "no majority has confirmed in time that this node leads".to_owned(),
                    None => crate::leader::router::NO_LEADER.to_owned(),
                }
            }))),
        }
    }

    /// Returns the index that must be applied before a read that begins now.
    ///
    /// # Errors
    /// The reason why the round failed.
    pub(crate) async fn index(&self) -> Result<u64, String> {
        match self.join_round(|waiting| &mut waiting.for_index).await {
            Ok(result) => result,
            Err(_) => Err("this node is stopping".to_owned()),
        }
    }

    /// Number of rounds since the start.
    pub(crate) fn round_count(&self) -> u64 {
        self.round_count.load(Ordering::Relaxed)
    }

    async fn join_round(
        &self,
        list: impl FnOnce(&mut Waiting) -> &mut Vec<Reader>,
    ) -> Result<Result<u64, String>, oneshot::error::RecvError> {
        let (reader, answer) = oneshot::channel();
        {
            let mut waiting = self.lock();
            if !waiting.ended {
                list(&mut waiting).push(reader);
            }
        }
        self.arrived.notify_one();
        answer.await
    }

    /// Runs rounds until the future is dropped.
    pub(crate) async fn run(self: Arc<Self>, way: impl Way) {
        let _release = ReleaseWaiting(&self);
        let mut rounds = FuturesUnordered::new();
        let mut applying = FuturesUnordered::new();
        loop {
            let probes = self.leadership.rounds_fail() && rounds.is_empty();
            let for_nobody = tokio::select! {
                Some((readers, index)) = rounds.next(), if !rounds.is_empty() => {
                    applying.push(self.apply(readers, index));
                    continue;
                }
                Some(()) = applying.next(), if !applying.is_empty() => continue,
                () = self.arrived.notified(), if rounds.len() < ROUND_COUNT_MAX => false,
                () = tokio::time::sleep(PROBE_INTERVAL), if probes => true,
            };
            let waiting = {
                let mut waiting = self.lock();
                let for_index = std::mem::take(&mut waiting.for_index);
                (for_index, std::mem::take(&mut waiting.for_applied))
            };
            if for_nobody || !waiting.0.is_empty() || !waiting.1.is_empty() {
                rounds.push(self.round(&way, waiting.0, waiting.1));
            }
        }
    }

    /// Runs one round: answers the `for_index` readers, and returns the `for_applied` readers with the result.
    async fn round(
        &self,
        way: &impl Way,
        for_index: Vec<Reader>,
        for_applied: Vec<Reader>,
    ) -> (Vec<Reader>, Result<u64, String>) {
        self.round_count.fetch_add(1, Ordering::Relaxed);
        let result = way.read_index().await;
        self.leadership.round(result.is_ok());
        answer(for_index, &result);
        (for_applied, result)
    }

    fn apply(
        &self,
        readers: Vec<Reader>,
        result: Result<u64, String>,
    ) -> impl Future<Output = ()> + use<> {
        let counters = Arc::clone(&self.counters);
        async move {
            if let Ok(index) = result {
                counters.applied.reaches(index).await;
            }
            answer(readers, &result);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(readers: Vec<Reader>, result: &Result<u64, String>) {
    for reader in readers {
        // A reader that gave up has dropped its receiver.
        let _ = reader.send(result.clone());
    }
}

/// Releases all waiting readers, with an error, when the task that runs the rounds ends.
struct ReleaseWaiting<'a>(&'a Reads);

impl Drop for ReleaseWaiting<'_> {
    fn drop(&mut self) {
        *self.0.lock() = Waiting {
            ended: true,
            ..Waiting::default()
        };
    }
}
