//! The leader that this node knows, and the evidence that it works.
//!
//! openraft names a leader until it learns of another one, even if the named one died long ago. This module
//! therefore records the signs of life: the time of the leader's last append, the success of read rounds, and,
//! if this node leads, the time of the last answer of a majority. No node answers for a moment while the leader
//! changes, so a node counts as cut off only after a silence that would have made it campaign.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::defect::{self, Defect};
use crate::leader::contact::Contact;
use crate::store::Raft;

/// Delay with which a node with [`Defect::WordWithoutVote`] learns who leads.
const LATE_BY: Duration = Duration::from_millis(400);

/// The known leader. See the module's documentation. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub(crate) struct Leadership {
    shared: Arc<Shared>,
}

struct Shared {
    node_id: u64,
    leader: watch::Sender<Option<u64>>,
    /// The longest silence after which this node does not count as cut off yet.
    silence_max: Duration,
    /// The origin of the moments below.
    origin: Instant,
    contact: Arc<Contact>,
    /// The time of the first failure since a read round last succeeded.
    failing: Moment,
    /// Returns the time since a majority last acknowledged this node as its leader. `None` if there was no such
    /// moment.
    quorum_age: Box<dyn Fn() -> Option<Duration> + Send + Sync>,
}

/// A moment in milliseconds since an origin, plus 1; 0 if there was none.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn set(&self, at: Duration) {
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX - 1);
        self.0.store(millis + 1, Ordering::Release);
    }

    fn get(&self) -> Option<Duration> {
        let millis = self.0.load(Ordering::Acquire).checked_sub(1)?;
        Some(Duration::from_millis(millis))
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leadership")
            .field("leader", &self.leader())
            .finish_non_exhaustive()
    }
}

impl Leadership {
    /// Creates a state in which no leader is known and none was heard.
    pub(crate) fn new(
        node_id: u64,
        contact: Arc<Contact>,
        silence_max: Duration,
        quorum_age: impl Fn() -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                node_id,
                leader: watch::Sender::new(None),
                silence_max,
                origin: Instant::now(),
                contact,
                failing: Moment::default(),
                quorum_age: Box::new(quorum_age),
            }),
        }
    }

    /// Creates the state for `raft`. It is kept up to date while [`Self::follow`] runs.
    pub(crate) fn of(
        raft: &Raft,
        node_id: u64,
        contact: Arc<Contact>,
        silence_max: Duration,
    ) -> Self {
        let metrics = raft.metrics();
        Self::new(node_id, contact, silence_max, move || {
            let metrics = metrics.borrow_watched();
            let mut voters = metrics.membership_config.membership().voter_ids();
            if voters.next() == Some(node_id) && voters.next().is_none() {
                return Some(Duration::ZERO);
            }
            let acked = metrics.last_quorum_acked.as_ref()?;
            let age: Duration = openraft::Instant::elapsed(&**acked);
            Some(age)
        })
    }

    /// Publishes changes of the leader until Raft ends.
    pub(crate) async fn follow(self, raft: Raft) {
        // Server metrics change with roles and members only, not with each entry.
        let mut server = raft.server_metrics();
        loop {
            let leader = server.borrow_and_update().current_leader;
            if defect::is(Defect::WordWithoutVote) {
                tokio::time::sleep(LATE_BY).await;
            }
            self.set_leader(leader);
            if server.changed().await.is_err() {
                self.set_leader(None);
                return;
            }
        }
    }

    /// Publishes the leader. A new one counts as just heard.
    pub(crate) fn set_leader(&self, leader: Option<u64>) {
        if leader.is_some() {
            // Record the contact before the change is visible, so that a new leader does not look silent.
            let news = *self.shared.leader.borrow() != leader;
            if news {
                self.shared.contact.heard();
            }
        }
        self.shared.leader.send_if_modified(|known| {
            let news = *known != leader;
            *known = leader;
            news
        });
    }

    /// Returns the id of this node.
    pub(crate) fn node_id(&self) -> u64 {
        self.shared.node_id
    }

    /// Returns the id of the leader, if one is known.
    pub(crate) fn leader(&self) -> Option<u64> {
        *self.shared.leader.borrow()
    }

    /// Returns a receiver of the leader and its changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<u64>> {
        self.shared.leader.subscribe()
    }

    /// Resolves with the new leader when a node other than `former` leads.
    pub(crate) async fn passes_from(&self, former: u64) -> u64 {
        let mut leader = self.watch();
        let next = leader
            .wait_for(|&leader| leader.is_some_and(|id| id != former))
            .await;
        match next.ok().and_then(|next| *next) {
            Some(next) => next,
            // The sender lives as long as `self`, so this is never reached.
            None => std::future::pending().await,
        }
    }

    /// Records that a read round has succeeded or failed.
    pub(crate) fn round(&self, succeeded: bool) {
        let failing = &self.shared.failing;
        if succeeded {
            failing.clear();
        } else if failing.get().is_none() {
            failing.set(self.shared.origin.elapsed());
        }
    }

    /// Returns true if the last read round failed.
    pub(crate) fn rounds_fail(&self) -> bool {
        self.shared.failing.get().is_some()
    }

    /// Returns true if this node can serve neither linearizable reads nor writes, and could not do so for a
    /// while. Uses local knowledge only, without asking other nodes.
    pub(crate) fn is_cut_off(&self) -> bool {
        let shared = &self.shared;
        let now = shared.origin.elapsed();
        let too_long = |since: Duration| now.saturating_sub(since) > shared.silence_max;
        let Some(silence) = shared.contact.silence() else {
            return true;
        };
        if shared.failing.get().is_some_and(too_long) {
            return true;
        }
        let leads = self.leader() == Some(shared.node_id);
        // A leader that was just elected has no acknowledgement yet.
        let confirmed = || (shared.quorum_age)().is_some_and(|age| age <= shared.silence_max);
        silence > shared.silence_max && !(leads && confirmed())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const SILENCE: Duration = Duration::from_millis(1000);

    fn leadership() -> (Leadership, Arc<Contact>, Arc<Mutex<Option<Duration>>>) {
        let age = Arc::new(Mutex::new(None));
        let known = Arc::clone(&age);
        let contact = Arc::<Contact>::default();
        let quorum_age = move || *known.lock().unwrap();
        let leadership = Leadership::new(1, Arc::clone(&contact), SILENCE, quorum_age);
        (leadership, contact, age)
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_is_cut_off_by_silence() {
        let (leadership, contact, _) = leadership();
        assert!(leadership.is_cut_off(), "nobody was ever heard");
        leadership.set_leader(Some(2));
        assert!(!leadership.is_cut_off());
        tokio::time::advance(SILENCE).await;
        assert!(!leadership.is_cut_off());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(leadership.is_cut_off());
        contact.heard();
        assert!(!leadership.is_cut_off());
        // The moments of an election do not count.
        leadership.set_leader(None);
        assert!(!leadership.is_cut_off());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_cut_off_when_no_majority_answers() {
        let (leadership, _, age) = leadership();
        leadership.set_leader(Some(1));
        assert!(!leadership.is_cut_off(), "it was elected just now");
        tokio::time::advance(SILENCE * 2).await;
        assert!(leadership.is_cut_off());
        *age.lock().unwrap() = Some(SILENCE);
        assert!(!leadership.is_cut_off());
        *age.lock().unwrap() = Some(SILENCE * 2);
        assert!(leadership.is_cut_off());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_is_heard_and_answers_no_reads_is_as_good_as_none() {
        let (leadership, contact, _) = leadership();
        leadership.set_leader(Some(2));
        leadership.round(false);
        assert!(leadership.rounds_fail() && !leadership.is_cut_off());
        tokio::time::advance(SILENCE / 2).await;
        leadership.round(false);
        contact.heard();
        tokio::time::advance(SILENCE / 2 + Duration::from_millis(1)).await;
        assert!(leadership.is_cut_off(), "counted from the first failure");
        leadership.round(true);
        assert!(!leadership.rounds_fail() && !leadership.is_cut_off());
    }

    #[tokio::test]
    async fn a_leader_is_waited_for_that_is_another_one() {
        let (leadership, ..) = leadership();
        leadership.set_leader(Some(2));
        let next = leadership.passes_from(2);
        tokio::pin!(next);
        for same in [None, Some(2)] {
            leadership.set_leader(same);
            assert!(futures::poll!(&mut next).is_pending());
        }
        leadership.set_leader(Some(3));
        assert_eq!(next.await, 3);
    }
}
