//! Reads that need a round: ReadIndex, one round for all that wait.
//!
//! A round asks the leader, which may be this node, up to which index a read must see; what waits here
//! then waits until that is applied here. A round that is under way says nothing about a read that came
//! after it began, so such a read waits for the next one, which may begin before that one ends: two are
//! under way at most, whatever the number of readers. The leader answers other nodes from the same rounds.

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

/// How long a reader waits before it asks again, after a round that failed: at first, and at most. A change
/// of leaders ends the wait.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(200);

/// Rounds that are under way at once.
const ROUND_COUNT_MAX: usize = 2;

/// How often a round is tried for nobody, while the last one failed: to know when they succeed again.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// Gets the index, or why there is none.
type Reader = oneshot::Sender<Result<u64, String>>;

/// The readers that wait for a round.
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
    /// Those of other nodes: the index is all that they want.
    for_index: Vec<Reader>,
    /// Those of this node: they go on when the index is applied here.
    for_applied: Vec<Reader>,
    /// Nobody will run a round again.
    ended: bool,
}

impl Reads {
    /// Readers of what `counters` says is applied.
    pub(crate) fn new(counters: Arc<Counters>, leadership: Leadership) -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            round_count: AtomicU64::new(0),
            counters,
            leadership,
        }
    }

    /// Waits for a round that began after this call, and until what it covers is applied here.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] when none succeeded within `timeout`, [`ReadError::Stopping`].
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
                // That the leader has changed is as good a reason to go on as that time has passed.
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

    /// The index that a read which begins now must see.
    ///
    /// # Errors
    /// Why the round failed.
    pub(crate) async fn index(&self) -> Result<u64, String> {
        match self.join_round(|waiting| &mut waiting.for_index).await {
            Ok(result) => result,
            Err(_) => Err("this node is stopping".to_owned()),
        }
    }

    /// Rounds since the start.
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

    /// Runs rounds until it is dropped.
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

    /// Asks once. Returns those who wait for more than the index, with it.
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
        // One that gave up is gone.
        let _ = reader.send(result.clone());
    }
}

/// Lets the readers go when nobody runs rounds any more.
struct ReleaseWaiting<'a>(&'a Reads);

impl Drop for ReleaseWaiting<'_> {
    fn drop(&mut self) {
        *self.0.lock() = Waiting {
            ended: true,
            ..Waiting::default()
        };
    }
}
