//! When a leader is replaced: at once when its process has ended, and after the election timeout when it
//! is silent.
//!
//! A process that ends, however it ends, has its connections closed by its system, which also refuses
//! new ones; silence looks different. So when the link to the leader is closed and refused
//! ([`LinkState::Down`]), this node forgets the leader's lease and asks for pre-votes, again and again, until
//! there is a leader.
//!
//! A leader that is only silent keeps its lease for the shorter election timeout, and after one between the
//! shorter and the longer (chosen at random, so that nodes do not all ask at the same time) this node asks for
//! pre-votes. openraft alone would wait for the longer timeout first, which is its lease, and for a random one
//! after that.
//!
//! All of that is harmless when it is mistaken: a node that still hears the leader refuses the pre-vote, and
//! no term changes (Ongaro's dissertation, section 9.6). Nobody reads by lease here, so forgetting one
//! costs nothing; and a vote is still given to one candidate per term only, by Raft's own rules.

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

/// Between two rounds of pre-votes, from and to. Others may notice a little later that the leader has gone.
const ROUND_INTERVAL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(45));

/// After so long without a leader there is probably no majority, and no hurry.
const HURRY_DURATION_MAX: Duration = Duration::from_secs(5);

/// How long a candidate that this node has voted for may take, before this node asks for votes itself.
const CANDIDATE_DURATION_MAX: Duration = Duration::from_millis(250);

/// No node has this number; whoever is told that it shall lead only forgets the lease.
const NOBODY: u64 = 0;

/// Watches the leader for as long as Raft runs.
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
    // The end of Raft is told by others.
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

    /// Resolves when the leader is another one, or none.
    async fn leader_changes(&self) -> Result<(), Stopped> {
        let mut server = self.raft.server_metrics();
        let before = self.leader();
        while server.borrow_and_update().current_leader == before {
            server.changed().await.map_err(|_| Stopped::Stopped)?;
        }
        Ok(())
    }

    /// Why `leader` should be replaced, once it should; `None` when the leader is another one.
    async fn loss(&self, leader: u64) -> Result<Option<&'static str>, Stopped> {
        tokio::select! {
            ended = self.end_of(leader) => Ok(ended.then_some("its process has ended")),
            () = self.silence_of(leader) => Ok(Some("nothing was heard of it")),
            changed = self.leader_changes() => changed.map(|()| None),
        }
    }

    /// True when the process of `leader` has ended; false when that has to be looked at again.
    async fn end_of(&self, leader: u64) -> bool {
        let Some(mut state) = self.peers.link_state(leader) else {
            // Its link is opened a moment after its membership is known, or never.
            tokio::time::sleep(ROUND_INTERVAL.1).await;
            return false;
        };
        let ended = state.wait_for(|state| matches!(state, LinkState::Down { closed: true, .. }));
        // An error means that the link was replaced.
        ended.await.is_ok()
    }

    /// Resolves when `leader` has been silent for long enough to ask for another one.
    async fn silence_of(&self, leader: u64) {
        let (min, max) = self.election_timeout;
        self.silence_reaches(min).await;
        self.forget_lease(leader).await;
        // Not the same one for each node, and not the same one each time.
        let patience = rand::rng().random_range(min..max);
        self.silence_reaches(patience).await;
    }

    async fn silence_reaches(&self, limit: Duration) {
        let began = Instant::now();
        loop {
            // A leader that never spoke here is waited for just as long.
            let silence = self.contact.silence().unwrap_or_else(|| began.elapsed());
            let Some(left) = limit.checked_sub(silence).filter(|left| !left.is_zero()) else {
                return;
            };
            tokio::time::sleep(left).await;
        }
    }

    /// Makes this node free to vote for another one, until `leader` speaks again.
    async fn forget_lease(&self, leader: u64) {
        let vote = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_leader == Some(leader)).then_some(metrics.vote)
        };
        if let Some(vote) = vote {
            let forget = TransferLeaderRequest::new(vote, NOBODY, None);
            // It is refused when the vote has changed meanwhile, which is as good.
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
