//! A leader whose process has ended is replaced at once.
//!
//! Without this, followers would wait for the election timeout, which must be long enough for a busy leader.
//! A process that ends, however it ends, has its connections closed by its system, which also refuses
//! new ones; silence looks different. So when the link to the leader is closed and refused
//! ([`LinkState::Down`]), this node forgets the leader's lease and asks for pre-votes, again and again, until
//! there is a leader or the link is back.
//!
//! That is harmless when it is mistaken: a node that still hears the leader refuses the pre-vote, and no term
//! changes (Ongaro's dissertation, section 9.6). Nobody reads by lease here, so forgetting one
//! costs nothing; and a vote is still given to one candidate per term only, by Raft's own rules.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::raft::TransferLeaderRequest;
use rand::Rng;
use tokio::time::Instant;

use crate::peer::{LinkState, Peers};
use crate::type_config::{Raft, TypeConfig};

/// Between two rounds of pre-votes, from and to. Others may notice a little later that the leader has gone.
const ROUND_INTERVAL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(45));

/// How long a candidate that this node has voted for may take, before this node asks for votes itself.
const CANDIDATE_DURATION_MAX: Duration = Duration::from_millis(250);

/// No node has this number; whoever is told that it shall lead only forgets the lease.
const NOBODY: u64 = 0;

/// Watches the leader for as long as Raft runs.
pub(crate) async fn replace_ended_leaders(raft: Raft, peers: Peers, node_id: u64) {
    let watch = Watch {
        raft,
        peers,
        node_id,
    };
    // The end of Raft is told by others.
    let _ = watch.run().await;
}

struct Watch {
    raft: Raft,
    peers: Peers,
    node_id: u64,
}

type Stopped = Fatal<TypeConfig>;

impl Watch {
    async fn run(&self) -> Result<(), Stopped> {
        loop {
            match self.leader() {
                Some(leader) if leader != self.node_id => {
                    if self.has_ended(leader).await? {
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

    /// True when the process of `leader` has ended, false when the leader is another one.
    async fn has_ended(&self, leader: u64) -> Result<bool, Stopped> {
        let Some(mut state) = self.peers.link_state(leader) else {
            // Its link is opened a moment after its membership is known, or never.
            tokio::time::sleep(ROUND_INTERVAL.1).await;
            return Ok(false);
        };
        let ended = state.wait_for(|state| matches!(state, LinkState::Down { closed: true, .. }));
        tokio::select! {
            // An error means that the link was replaced: look again.
            ended = ended => Ok(ended.is_ok()),
            changed = self.leader_changes() => changed.map(|()| false),
        }
    }

    async fn replace(&self, leader: u64) -> Result<(), Stopped> {
        let began = Instant::now();
        tracing::info!(leader, "the leader's process has ended");
        let mut voted_since: Option<Instant> = None;
        loop {
            let (now, vote, is_voter) = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow_watched();
                let mut voters = metrics.membership_config.membership().voter_ids();
                let is_voter = voters.any(|id| id == self.node_id);
                (metrics.current_leader, metrics.vote, is_voter)
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
                    if self.is_back(leader) {
                        return Ok(());
                    }
                    let forget = TransferLeaderRequest::new(vote, NOBODY, None);
                    // It is refused when the vote has changed meanwhile, which is as good.
                    let _ = self.raft.handle_transfer_leader(forget).await;
                    self.ask(is_voter).await?;
                }
            }
            let (min, max) = ROUND_INTERVAL;
            let pause = rand::rng().random_range(min..max);
            if let Ok(changed) = tokio::time::timeout(pause, self.leader_changes()).await {
                changed?;
            }
        }
    }

    fn is_back(&self, leader: u64) -> bool {
        let state = self.peers.link_state(leader);
        state.is_some_and(|state| *state.borrow() == LinkState::Up)
    }

    async fn ask(&self, is_voter: bool) -> Result<(), Stopped> {
        if is_voter {
            self.raft.trigger().elect(true).await?;
        }
        Ok(())
    }
}
