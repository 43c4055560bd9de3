//! Replacement of lost leaders: at once when the leader's process has ended, and after the election timeout
//! when the leader is silent.
//!
//! When a process ends, for whatever reason, its operating system closes its connections and refuses new ones.
//! Silence looks different. If the link to the leader is closed and refused ([`LinkState::Down`]), this node
//! forgets the leader's lease and asks for pre-votes repeatedly until there is a leader.
//!
//! A leader that is only silent keeps its lease for the minimum election timeout. This node asks for pre-votes
//! after a time between the minimum and the maximum, chosen at random so that nodes do not all ask at once.
//! openraft alone would first wait for the maximum, which is its lease, and then for a random time.
//!
//! A wrong suspicion is harmless. A node that still hears the leader refuses the pre-vote, and no term changes
//! (Ongaro's dissertation, section 9.6). Reads do not rely on leases, so forgetting one costs nothing. By
//! Raft's own rules a node still votes for one candidate per term only.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::raft::TransferLeaderRequest;
use rand::Rng;
use tokio::time::Instant;

use crate::leader::contact::Contact;
use crate::rpc::{LinkState, Peers};
use crate::store::Raft;
use crate::types::TypeConfig;

/// Range of the random pause between two rounds of pre-votes. Other nodes may notice the loss of the leader a
/// little later.
const ROUND_INTERVAL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(45));

/// After this time without a leader there is probably no majority, and the pauses become longer.
const HURRY_DURATION_MAX: Duration = Duration::from_secs(5);

/// The longest time that a candidate with this node's vote may take before this node asks for votes itself.
const CANDIDATE_DURATION_MAX: Duration = Duration::from_millis(250);

/// A node id that no node has. A follower that is told to expect this leader forgets the lease and does nothing
/// else.
const NOBODY: u64 = 0;

/// Watches the leader and replaces it when it is lost, for as long as Raft runs.
///
/// `election_timeout` is the minimum and the maximum.
pub(crate) async fn replace_lost_leaders(
    raft: Raft,
    peers: Peers,
    contact: Arc<Contact>,
    node_id: u64,
    election_timeout: (Duration, Duration),
) {
    let watch = Watch {
        raft,
        peers,
        contact,
        node_id,
        election_timeout,
    };
    // The end of Raft is reported elsewhere.
    let _ = watch.run().await;
}

struct Watch {
    raft: Raft,
    peers: Peers,
    contact: Arc<Contact>,
    node_id: u64,
    election_timeout: (Duration, Duration),
}

type Stopped = Fatal<TypeConfig>;

impl Watch {
    async fn run(&self) -> Result<(), Stopped> {
        loop {
            match self.leader() {
                Some(leader) if leader != self.node_id => {
                    if let Some(reason) = self.loss(leader).await? {
                        tracing::info!(leader, reason, "this node asks for another leader");
                        self.replace(leader).await?;
                    }
                }
                _ => self.leader_changes().await?,
            }
        }
    }

    fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// Resolves when there is another leader or none.
    async fn leader_changes(&self) -> Result<(), Stopped> {
        let mut server = self.raft.server_metrics();
        let before = self.leader();
        while server.borrow_and_update().current_leader == before {
            server.changed().await.map_err(|_| Stopped::Stopped)?;
        }
        Ok(())
    }

    /// Resolves with the reason when `leader` should be replaced, or with `None` when the leader has changed.
    async fn loss(&self, leader: u64) -> Result<Option<&'static str>, Stopped> {
        tokio::select! {
            ended = self.end_of(leader) => Ok(ended.then_some("its process has ended")),
            () = self.silence_of(leader) => Ok(Some("nothing was heard of it")),
            changed = self.leader_changes() => changed.map(|()| None),
        }
    }

    /// Resolves with true when the process of `leader` has ended, and with false if the caller must check
    /// again.
    async fn end_of(&self, leader: u64) -> bool {
        let Some(mut state) = self.peers.link_state(leader) else {
            // The link is opened a moment after the membership is known, or never.
            tokio::time::sleep(ROUND_INTERVAL.1).await;
            return false;
        };
        let ended = state.wait_for(|state| matches!(state, LinkState::Down { closed: true, .. }));
        // An error means that the link was replaced.
        ended.await.is_ok()
    }

    /// Resolves when `leader` has been silent long enough for this node to ask for another one.
    async fn silence_of(&self, leader: u64) {
        let (min, max) = self.election_timeout;
        self.silence_reaches(min).await;
        self.forget_lease(leader).await;
        // Each node chooses its own timeout, and a new one each time.
        let patience = rand::rng().random_range(min..max);
        self.silence_reaches(patience).await;
    }

    async fn silence_reaches(&self, limit: Duration) {
        let began = Instant::now();
        loop {
            // A leader that has never sent anything to this node gets the same time.
            let silence = self.contact.silence().unwrap_or_else(|| began.elapsed());
            let Some(left) = limit.checked_sub(silence).filter(|left| !left.is_zero()) else {
                return;
            };
            tokio::time::sleep(left).await;
        }
    }

    /// Lets this node vote for another candidate until it hears `leader` again.
    async fn forget_lease(&self, leader: u64) {
        let vote = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_leader == Some(leader)).then_some(metrics.vote)
        };
        if let Some(vote) = vote {
            let forget = TransferLeaderRequest::new(vote, NOBODY, None);
            // A refusal means that the vote has changed meanwhile, which has the same effect.
            let _ = self.raft.handle_transfer_leader(forget).await;
        }
    }

    async fn replace(&self, leader: u64) -> Result<(), Stopped> {
        let began = Instant::now();
        let mut voted_since: Option<Instant> = None;
        loop {
            let (now, is_voter) = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                let mut voters = metrics.membership_config.membership().voter_ids();
                let is_voter = voters.any(|id| id == self.node_id);
                (metrics.current_leader, is_voter)
            };
            match now {
                Some(id) if id != leader => {
                    let took = began.elapsed();
                    tracing::info!(leader = id, ?took, "there is another leader");
                    return Ok(());
                }
                None => {
                    let since = *voted_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > CANDIDATE_DURATION_MAX {
                        voted_since = None;
                        self.ask(is_voter).await?;
                    }
                }
                Some(_) => {
                    let silence = self.contact.silence();
                    if silence.is_some_and(|silence| silence < began.elapsed()) {
                        tracing::info!(leader, "the leader has spoken again");
                        return Ok(());
                    }
                    self.forget_lease(leader).await;
                    self.ask(is_voter).await?;
                }
            }
            let (min, max) = ROUND_INTERVAL;
            let mut pause = rand::rng().random_range(min..max);
            if began.elapsed() > HURRY_DURATION_MAX {
                pause *= 10;
            }
            if let Ok(changed) = tokio::time::timeout(pause, self.leader_changes()).await {
                changed?;
            }
        }
    }

    async fn ask(&self, is_voter: bool) -> Result<(), Stopped> {
        if is_voter {
            self.raft.trigger().elect(true).await?;
        }
        Ok(())
    }
}
