//! Membership changes: joins, promotions, removals and transfers of leadership, which the leader carries out or
//! refuses.
//!
//! Every change is one log entry, and there is one change at a time. The lock of this node keeps its own
//! requests apart. The entry is appended only if the membership is still the one that the decision was based on
//! ([`Precondition::LastMembershipLogId`]), if that is committed, and if the leader has committed an entry of
//! its own term. A change of leader in between therefore cannot turn one change into two. Since voters come and
//! go one by one, any majority before a change meets any majority after it (Ongaro's dissertation, 4.1).
//!
//! Any node accepts requests. It passes them on to the leader until there is an answer.

pub(crate) mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, RaftMetrics};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::codec::Identity;
use crate::rpc::message::{JoinAnswer, JoinAsk, Request, Response};
use crate::rpc::{CallError, Peers};
use crate::status::{ClusterChange, ClusterError, ClusterReply, NodeReport};
use crate::store::Raft;
use crate::types::{Member, Membership, Outcome, Payload, Proposal, StoredMembership, TypeConfig};

/// Maximum number of entries that a learner may lack when it becomes a voter. They arrive within a heartbeat or
/// two, so that the new majority does not wait for the learner.
const PROMOTION_LAG_MAX: u64 = 1000;

/// Maximum number of voters. More would make every write slower and nothing safer.
const VOTER_COUNT_MAX: usize = 9;

/// The longest time that the same reason may delay a learner's promotion before it is logged as a warning.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(10);

/// Maximum number of entries that the next leader may lack. It must have them all before it asks for votes.
const TRANSFER_LAG_MAX: u64 = 10_000;

/// Interval at which the leader looks for learners that have caught up.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(100);

/// Delay before a request is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Limit on the leader's work on a request from another node.
const FORWARDED_DURATION_MAX: Duration = Duration::from_secs(10);

/// Limit on the wait for the answer to a request that was passed on.
const FORWARD_DURATION_MAX: Duration = Duration::from_secs(15);

const BUSY: &str = "another change of the members is under way; try again when it is done";

/// The reason why a request has no reply from this node.
#[derive(Debug)]
enum Stop {
    /// Nothing was done. The request may be tried again, here or at another leader.
    TryAgain(String),
    /// The request has failed with this error.
    Failed(ClusterError),
}

impl Stop {
    fn refused(reason: impl Into<String>) -> Self {
        Self::Failed(ClusterError::Refused(reason.into()))
    }
}

/// The storage of the voters' state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VoterStorage {
    /// True if this node's state is on a disk.
    pub(crate) is_durable: bool,
    /// True if a voter may keep its state in memory.
    pub(crate) memory_may_vote: bool,
}

/// Changes the members, as the leader or through the leader.
#[derive(Debug)]
pub(crate) struct Admin {
    me: Identity,
    raft: Raft,
    peers: Peers,
    /// The longest time without an answer before a member counts as unreachable.
    silence_max: Duration,
    storage: VoterStorage,
    /// Held while this node carries out a change.
    changing: Mutex<()>,
}

impl Admin {
    /// Creates the service for the node `me`.
    pub(crate) fn new(
        me: Identity,
        raft: Raft,
        peers: Peers,
        silence_max: Duration,
        storage: VoterStorage,
    ) -> Self {
        Self {
            me,
            raft,
            peers,
            silence_max,
            storage,
            changing: Mutex::new(()),
        }
    }

    /// Changes the cluster. May be called on any node. Tries again until `deadline` while nothing was done.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub(crate) async fn change(
        &self,
        change: ClusterChange,
        deadline: Instant,
    ) -> Result<ClusterReply, ClusterError> {
        loop {
            let leader = self.leader();
            let result = match leader {
                Some(leader) if leader == self.me.node_id => self.lead(&change, deadline).await,
                Some(leader) => self.forward_change(leader, &change, deadline).await,
                None => Err(Stop::TryAgain("no leader is known".to_owned())),
            };
            let reason = match result {
                Ok(reply) => return Ok(reply),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::TryAgain(reason)) => reason,
            };
            if Instant::now() + RETRY_DELAY >= deadline {
                return Err(ClusterError::NoQuorum(reason));
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Hands leadership over if this node leads and another voter is eligible. Returns when another leader is
    /// known, or at the deadline.
    pub(crate) async fn hand_over(&self, deadline: Instant) {
        while self.leader() == Some(self.me.node_id) {
            let metrics = self.metrics();
            let mut voters = metrics.membership_config.membership().voter_ids();
            if voters.all(|id| id == self.me.node_id) {
                return;
            }
            let change = ClusterChange::TransferLeader { to: None };
            match tokio::time::timeout_at(deadline, self.lead(&change, deadline)).await {
                Ok(Ok(_)) => return,
                Ok(Err(stop)) => tracing::info!(?stop, "leadership is not handed over yet"),
                Err(_) => {
                    tracing::warn!("leadership was not handed over in time");
                    return;
                }
            }
            if Instant::now() + RETRY_DELAY >= deadline {
                return;
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    /// Answers a request that another node passed on, if this node leads.
    pub(crate) async fn answer_change(&self, change: ClusterChange) -> Response {
        if self.leader() != Some(self.me.node_id) {
            return Response::Unavailable(self.not_the_leader());
        }
        let deadline = Instant::now() + FORWARDED_DURATION_MAX;
        match self.lead(&change, deadline).await {
            Ok(reply) => Response::Change(Ok(reply)),
            Err(Stop::Failed(error)) => Response::Change(Err(error)),
            Err(Stop::TryAgain(reason)) => Response::Unavailable(reason),
        }
    }

    /// Answers a node that wants to become a member, or a member that has moved. With `from_member` the request
    /// came from a member, and is not passed on again.
    pub(crate) async fn answer_join(&self, ask: JoinAsk, from_member: bool) -> JoinAnswer {
        let later = JoinAnswer::Later;
        match self.leader() {
            Some(leader) if leader == self.me.node_id => {
                let deadline = Instant::now() + FORWARDED_DURATION_MAX;
                match self.admit(&ask, deadline).await {
                    Ok(node_id) => JoinAnswer::Welcome {
                        cluster_id: self.me.cluster_id,
                        node_id,
                    },
                    Err(Stop::Failed(ClusterError::Refused(reason))) => JoinAnswer::Refused(reason),
                    Err(Stop::Failed(error)) => later(error.to_string()),
                    Err(Stop::TryAgain(reason)) => later(reason),
                }
            }
            Some(_) if from_member => later(self.not_the_leader()),
            Some(leader) => {
                let request = Request::Join(ask);
                match self.peers.call(leader, request, FORWARD_DURATION_MAX).await {
                    Ok(Response::Join(answer)) => answer,
                    Ok(Response::Unavailable(reason)) => later(reason),
                    Ok(_) => later(format!("the leader, node {leader}, answers something else")),
                    Err(error) => later(format!("the leader, node {leader}: {error}")),
                }
            }
            None => later("the cluster has no leader at the moment".to_owned()),
        }
    }

    /// Promotes the learners that want to become voters and have caught up, while this node leads. Never
    /// returns.
    pub(crate) async fn promote_learners(self: Arc<Self>) {
        let mut obstacles: BTreeMap<u64, Obstacle> = BTreeMap::new();
        loop {
            tokio::time::sleep(PROMOTION_INTERVAL).await;
            let metrics = self.metrics();
            if metrics.current_leader != Some(self.me.node_id) {
                continue;
            }
            let membership = metrics.membership_config.membership();
            let wants = |id: &u64| {
                let node = membership.get_node(id);
                node.is_some_and(|node| node.promotes_itself)
                    && lag(&metrics, *id).is_some_and(|lag| lag <= PROMOTION_LAG_MAX)
            };
            let candidates: Vec<u64> = membership.learner_ids().filter(wants).collect();
            obstacles.retain(|id, _| candidates.contains(id));
            for id in candidates {
                match self.promote(id).await {
                    Ok(_) => {
                        tracing::info!(node = id, "a learner has caught up and is a voter now");
                        break;
                    }
                    Err(stop) => {
                        tracing::debug!(node = id, ?stop, "a learner is not promoted yet");
                        let obstacle = obstacles.entry(id).or_default();
                        if let Stop::Failed(ClusterError::Refused(reason)) = stop
                            && obstacle.lasts(&reason)
                        {
                            tracing::warn!(node = id, "it does not become a voter: {reason}");
                        }
                    }
                }
            }
        }
    }

    async fn promote(&self, id: u64) -> Result<ClusterReply, Stop> {
        // This check takes no lock, so that a learner that has to wait does not block other changes.
        self.promotion(id).await?;
        let deadline = Instant::now() + FORWARDED_DURATION_MAX;
        self.lead(&ClusterChange::Promote { id }, deadline).await
    }

    /// Writes this node's own address and incarnation into the membership if they are not there: in a
    /// single-node cluster that had none, or after this node has moved. Returns when they are there.
    ///
    /// # Errors
    /// The reason for a refusal, for operators.
    pub(crate) async fn introduce(&self, peer_addr: &str) -> Result<(), String> {
        let mut ask = JoinAsk {
            cluster_name: self.me.cluster_name.clone(),
            node_id: Some(self.me.node_id),
            incarnation: self.me.incarnation,
            peer_addr: peer_addr.to_owned(),
            learner: true,
        };
        loop {
            let metrics = self.metrics();
            let membership = metrics.membership_config.membership();
            if let Some(member) = membership.get_node(&self.me.node_id) {
                if member.peer_addr == peer_addr && member.incarnation == self.me.incarnation {
                    return Ok(());
                }
                ask.learner = !member.promotes_itself;
                if metrics.current_leader == Some(self.me.node_id) {
                    let deadline = Instant::now() + FORWARDED_DURATION_MAX;
                    match self.admit(&ask, deadline).await {
                        Err(Stop::Failed(ClusterError::Refused(reason))) => return Err(reason),
                        Err(stop) => tracing::debug!(?stop, "the own address is not changed yet"),
                        Ok(_) => {}
                    }
                } else {
                    // The leader may not reach this node at its old address, so this node may not know the
                    // leader.
                    for (&id, _) in membership.nodes().filter(|&(&id, _)| id != self.me.node_id) {
                        let request = Request::Join(ask.clone());
                        let answer = self.peers.call(id, request, FORWARD_DURATION_MAX).await;
                        if let Ok(Response::Join(JoinAnswer::Refused(reason))) = answer {
                            return Err(reason);
                        }
                    }
                }
            }
            tokio::time::sleep(PROMOTION_INTERVAL).await;
        }
    }

    fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    fn not_the_leader(&self) -> String {
        format!("node {} does not lead", self.me.node_id)
    }

    async fn forward_change(
        &self,
        leader: u64,
        change: &ClusterChange,
        deadline: Instant,
    ) -> Result<ClusterReply, Stop> {
        let request = Request::Change(change.clone());
        let left = deadline.saturating_duration_since(Instant::now());
        match self.peers.call(leader, request, left).await {
            Ok(Response::Change(Ok(reply))) => Ok(reply),
            Ok(Response::Change(Err(error))) => Err(Stop::Failed(error)),
            Ok(Response::Unavailable(reason)) => Err(Stop::TryAgain(reason)),
            Ok(_) => Err(Stop::Failed(ClusterError::Unknown(format!(
                "the leader, node {leader}, answers something else"
            )))),
            Err(CallError::Unreachable(reason)) => Err(Stop::TryAgain(reason)),
            Err(error @ (CallError::Lost(_) | CallError::TimedOut(_))) => Err(Stop::Failed(
                ClusterError::Unknown(format!("the leader, node {leader}: {error}")),
            )),
        }
    }

    async fn lead(&self, change: &ClusterChange, deadline: Instant) -> Result<ClusterReply, Stop> {
        match *change {
            ClusterChange::Reserve { id } => {
                let id = self.take_id(id, None, deadline).await?;
                Ok(ClusterReply::Reserved(id))
            }
            ClusterChange::Promote { id } => {
                let _alone = self.begin()?;
                let next = self.promotion(id).await?;
                self.append(next, deadline).await?;
                Ok(ClusterReply::Done)
            }
            ClusterChange::Remove { id } => {
                let _alone = self.begin()?;
                let next = self.removal(id).await?;
                if id == self.me.node_id {
                    let leader = self.transfer(None, deadline).await?;
                    return Err(Stop::TryAgain(format!("node {leader} leads now")));
                }
                self.append(next, deadline).await?;
                tracing::info!(node = id, "removed from the cluster");
                Ok(ClusterReply::Done)
            }
            ClusterChange::TransferLeader { to } => {
                let _alone = self.begin()?;
                let leader = self.transfer(to, deadline).await?;
                Ok(ClusterReply::LeaderIs(leader))
            }
        }
    }

    fn begin(&self) -> Result<MutexGuard<'_, ()>, Stop> {
        self.changing.try_lock().map_err(|_| Stop::refused(BUSY))
    }

    /// Returns the metrics and the voters to start from. The membership must be committed and not joint.
    ///
    /// # Errors
    /// [`Stop::Failed`] if another change is under way.
    fn present(&self) -> Result<(RaftMetrics<TypeConfig>, BTreeSet<u64>), Stop> {
        let metrics = self.metrics();
        let sets = metrics.membership_config.membership().get_joint_config();
        let (Some(voters), true) = (
            sets.first(),
            sets.len() == 1 && metrics.membership_config == metrics.committed_membership_config,
        ) else {
            return Err(Stop::refused(BUSY));
        };
        let voters = voters.clone();
        Ok((metrics, voters))
    }

    /// Refuses unless a majority of `voters` answers now. `what` opens the sentence of the refusal.
    async fn require_majority(&self, voters: &BTreeSet<u64>, what: &str) -> Result<(), Stop> {
        let needed = voters.len() / 2 + 1;
        let answers = join_all(voters.iter().map(|&id| self.answers(id))).await;
        let answers = voters.iter().zip(answers);
        let there: Vec<u64> = answers.filter_map(|(&id, is)| is.then_some(id)).collect();
        if there.len() >= needed {
            return Ok(());
        }
        Err(Stop::refused(format!(
            "{what}, {needed} of the voters {} must be there for anything to be written, and only {} can be \
             reached; bring another back first",
            names(voters),
            names(&there)
        )))
    }

    /// Returns true if a member answers now. An earlier answer says little, because the member may have died
    /// since.
    async fn answers(&self, id: u64) -> bool {
        id == self.me.node_id || self.report(id).await.is_some()
    }

    /// Returns the present report of another member. `None` if it does not answer.
    async fn report(&self, id: u64) -> Option<Box<NodeReport>> {
        let report = self.peers.call(id, Request::Report, self.silence_max).await;
        match report {
            Ok(Response::Report(report)) => Some(report),
            _ => None,
        }
    }

    /// Refuses unless every voter answers, has caught up and is durable. While a voter is away, the majority
    /// would have to rely on the new one, and each voter that joins and fails enlarges the majority but not the
    /// number of nodes that answer.
    async fn require_all(&self, voters: &BTreeSet<u64>) -> Result<(), Stop> {
        let checks = voters.iter().map(|&id| async move {
            self.require_caught_up(id, PROMOTION_LAG_MAX).await?;
            self.require_durable(id).await
        });
        let checks = join_all(checks).await;
        let mut checks = checks.into_iter().zip(voters);
        let missed = checks.find_map(|(check, &id)| Some((id, check.err()?)));
        match missed {
            None => Ok(()),
            Some((id, Stop::Failed(ClusterError::Refused(reason)))) => Err(Stop::refused(format!(
                "{reason}. Nobody becomes a voter while voter {id} is away: bring it back, or remove it with \
                 nsctl cluster remove {id}"
            ))),
            Some((_, stop)) => Err(stop),
        }
    }

    /// Refuses a member that keeps its state in memory only. It would lose its promises with its process, and
    /// return as another node.
    async fn require_durable(&self, id: u64) -> Result<(), Stop> {
        let is_durable = if id == self.me.node_id {
            self.storage.is_durable
        } else {
            // Only nodes with a disk report free space.
            let report = self.report(id).await;
            report.is_some_and(|report| report.disk_free.is_some())
        };
        if is_durable || self.storage.memory_may_vote {
            return Ok(());
        }
        Err(Stop::refused(format!(
            "node {id} keeps its state in memory only, and could not come back after its end"
        )))
    }

    async fn promotion(&self, id: u64) -> Result<Next, Stop> {
        let (metrics, mut voters) = self.present()?;
        if voters.contains(&id) {
            return Err(Stop::refused(format!("node {id} is a voter already")));
        }
        if metrics
            .membership_config
            .membership()
            .get_node(&id)
            .is_none()
        {
            return Err(Stop::Failed(ClusterError::UnknownMember(id)));
        }
        check_voter_count(voters.len()).map_err(Stop::refused)?;
        self.require_caught_up(id, PROMOTION_LAG_MAX).await?;
        self.require_durable(id).await?;
        self.require_all(&voters).await?;
        voters.insert(id);
        let nodes = nodes(&metrics.membership_config);
        Next::new(&metrics, voters, nodes)
    }

    /// Refuses a member that does not answer, or that lacks more than `lag_max` entries. A leader that was just
    /// elected does not know yet what the others have, so this waits for up to `silence_max`.
    async fn require_caught_up(&self, id: u64, lag_max: u64) -> Result<(), Stop> {
        if !self.answers(id).await {
            return Err(Stop::refused(format!("node {id} cannot be reached")));
        }
        let until = Instant::now() + self.silence_max;
        loop {
            let lag = lag(&self.metrics(), id);
            if lag.is_some_and(|lag| lag <= lag_max) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Stop::refused(format!(
                    "node {id} lacks {} log entries, and may lack {lag_max}; wait until it has caught up",
                    lag.map_or("an unknown number of".to_owned(), |lag| lag.to_string())
                )));
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn removal(&self, id: u64) -> Result<Next, Stop> {
        let (metrics, mut voters) = self.present()?;
        let mut nodes = nodes(&metrics.membership_config);
        if nodes.remove(&id).is_none() {
            return Err(Stop::Failed(ClusterError::UnknownMember(id)));
        }
        if voters.remove(&id) {
            if voters.is_empty() {
                return Err(Stop::refused(format!(
                    "node {id} is the only voter, and a cluster needs one; promote another first"
                )));
            }
            let what = format!("without node {id}");
            self.require_majority(&voters, &what).await?;
        }
        Next::new(&metrics, voters, nodes)
    }

    /// Admits a node, or records the new address of a member. Returns its node id.
    async fn admit(&self, ask: &JoinAsk, deadline: Instant) -> Result<u64, Stop> {
        if ask.cluster_name != self.me.cluster_name {
            return Err(Stop::refused(format!(
                "this is the cluster {:?}, and the node was started for {:?}",
                self.me.cluster_name, ask.cluster_name
            )));
        }
        check_addr(&ask.peer_addr).map_err(Stop::refused)?;
        let Ok(_alone) = self.changing.try_lock() else {
            return Err(Stop::TryAgain(BUSY.to_owned()));
        };
        let (metrics, voters) = self
            .present()
            .map_err(|_| Stop::TryAgain(BUSY.to_owned()))?;
        let mut nodes = nodes(&metrics.membership_config);
        // The second case is this node itself, if its membership was written by a build without incarnations.
        let member = nodes.iter().find(|&(&id, member)| {
            member.incarnation == ask.incarnation
                || member.incarnation == 0
                    && id == self.me.node_id
                    && ask.incarnation == self.me.incarnation
        });
        let member = member.map(|(&id, member)| (id, member.clone()));
        let holder = nodes.iter().find_map(|(&id, other)| {
            let same = other.peer_addr == ask.peer_addr;
            let itself = member.as_ref().is_some_and(|(member, _)| *member == id);
            (same && !itself).then_some(id)
        });
        if let Some(holder) = holder
            && (voters.contains(&holder) || member.is_some())
        {
            return Err(Stop::refused(format!(
                "node {holder} has the peer address {}; if it has gone for good, remove it with nsctl cluster \
                 remove {holder}",
                ask.peer_addr
            )));
        }
        if let Some((id, known)) = member {
            if ask.node_id.is_some_and(|wanted| wanted != id) {
                return Err(Stop::refused(format!(
                    "this data folder belongs to node {id}; start it as that one, or empty it"
                )));
            }
            let moved = Member {
                peer_addr: ask.peer_addr.clone(),
                incarnation: ask.incarnation,
                ..known.clone()
            };
            if moved != known {
                self.set_node(&metrics, id, moved, deadline).await?;
                tracing::info!(node = id, peer_addr = ask.peer_addr, "a member has moved");
            }
            return Ok(id);
        }

        // The holder may be another machine that knows its own address by the same name, such as a container. A
        // holder that has ended has no connection any more.
        if let Some(holder) = holder
            && (self.peers.is_here(holder) || self.answers(holder).await)
        {
            return Err(Stop::TryAgain(format!(
                "node {holder}, which is there, has the peer address {}; give this node one of its own with \
                 --peer-addr",
                ask.peer_addr
            )));
        }
        let id = self
            .take_id(ask.node_id, Some(ask.incarnation), deadline)
            .await?;
        if let Some(replaced) = holder {
            nodes.remove(&replaced);
            tracing::info!(
                node = replaced,
                by = id,
                "a learner without its data is replaced"
            );
        }
        let member = Member {
            peer_addr: ask.peer_addr.clone(),
            incarnation: ask.incarnation,
            promotes_itself: !ask.learner,
        };
        nodes.insert(id, member);
        let next = Next::new(&metrics, voters, nodes)?;
        self.append(next, deadline).await?;
        tracing::info!(node = id, peer_addr = ask.peer_addr, "a node has joined");
        Ok(id)
    }

    async fn take_id(
        &self,
        wanted: Option<u64>,
        holder: Option<u128>,
        deadline: Instant,
    ) -> Result<u64, Stop> {
        let proposal = Proposal::TakeId { wanted, holder };
        let written = tokio::time::timeout_at(deadline, self.raft.client_write(proposal)).await;
        match written.map_err(|_| not_in_time())? {
            Ok(response) => match response.data {
                Outcome::Id(Ok(id)) => Ok(id),
                Outcome::Id(Err(refusal)) => Err(Stop::refused(refusal.to_string())),
                other => Err(Stop::Failed(ClusterError::Unknown(format!(
                    "the state machine answers {other:?}"
                )))),
            },
            Err(error) => Err(stop(error)),
        }
    }

    async fn append(&self, next: Next, deadline: Instant) -> Result<(), Stop> {
        let appended =
            self.raft
                .append_membership(next.membership, Payload::Blank, [next.precondition]);
        let appended = tokio::time::timeout_at(deadline, appended).await;
        appended.map_err(|_| not_in_time())?.map(drop).map_err(stop)
    }

    async fn set_node(
        &self,
        metrics: &RaftMetrics<TypeConfig>,
        id: u64,
        member: Member,
        deadline: Instant,
    ) -> Result<(), Stop> {
        let changes = ChangeMembers::SetNodes([(id, member)].into());
        let changed =
            self.raft
                .change_membership_if(changes, true, [unchanged(&metrics.membership_config)]);
        let changed = tokio::time::timeout_at(deadline, changed).await;
        changed.map_err(|_| not_in_time())?.map(drop).map_err(stop)
    }

    /// Hands leadership to `to`, or to the voter that lacks the fewest entries, and waits for the next leader.
    /// Returns its id.
    async fn transfer(&self, to: Option<u64>, deadline: Instant) -> Result<u64, Stop> {
        let me = self.me.node_id;
        let (metrics, voters) = self.present()?;
        if metrics.current_leader != Some(me) {
            return Err(Stop::TryAgain(self.not_the_leader()));
        }
        let target = match to {
            Some(to) if to == me => return Ok(me),
            Some(to) => {
                if metrics
                    .membership_config
                    .membership()
                    .get_node(&to)
                    .is_none()
                {
                    return Err(Stop::Failed(ClusterError::UnknownMember(to)));
                }
                if !voters.contains(&to) {
                    return Err(Stop::refused(format!(
                        "node {to} is a learner, and only a voter can lead; promote it first"
                    )));
                }
                self.require_caught_up(to, TRANSFER_LAG_MAX).await?;
                to
            }
            None => self.best_successor(&voters).await?,
        };
        if self.raft.trigger().transfer_leader(target).await.is_err() {
            return Err(Stop::TryAgain("this node is stopping".to_owned()));
        }
        let until = deadline.min(Instant::now() + self.silence_max * 4);
        let next = tokio::time::timeout_at(until, self.next_leader(metrics.current_term)).await;
        match next {
            Ok(next) if to.is_none_or(|to| to == next) => Ok(next),
            Ok(next) => Err(Stop::refused(format!(
                "node {next} leads now; node {target} did not win the vote"
            ))),
            Err(_) => Err(Stop::Failed(ClusterError::Unknown(format!(
                "node {target} was told to take over, and no new leader is known yet"
            )))),
        }
    }

    /// Returns the voter that answers and lacks the fewest entries.
    async fn best_successor(&self, voters: &BTreeSet<u64>) -> Result<u64, Stop> {
        let others = voters.iter().copied().filter(|&id| id != self.me.node_id);
        let mut left: Vec<u64> = others.collect();
        while !left.is_empty() {
            let metrics = self.metrics();
            left.sort_by_key(|&id| (lag(&metrics, id).unwrap_or(u64::MAX), id));
            let best = left.remove(0);
            if self.require_caught_up(best, TRANSFER_LAG_MAX).await.is_ok() {
                return Ok(best);
            }
        }
        Err(Stop::refused(
            "there is no other voter that could lead: none can be reached and has caught up",
        ))
    }

    /// Returns the leader of a later term as soon as this node knows one.
    async fn next_leader(&self, term: u64) -> u64 {
        let mut metrics = self.raft.metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                if let (Some(leader), true) = (now.current_leader, now.current_term > term) {
                    return leader;
                }
            }
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The reason that delays a learner's promotion, its first occurrence, and true once it was logged.
#[derive(Debug, Default)]
struct Obstacle(Option<(String, Instant, bool)>);

impl Obstacle {
    /// Records `reason`. Returns true, once, if it has been the same for [`PROMOTION_PATIENCE`].
    fn lasts(&mut self, reason: &str) -> bool {
        match &mut self.0 {
            Some((known, since, told)) if known == reason => {
                let is_due = !*told && since.elapsed() >= PROMOTION_PATIENCE;
                *told |= is_due;
                is_due
            }
            other => {
                *other = Some((reason.to_owned(), Instant::now(), false));
                false
            }
        }
    }
}

/// The next membership, to be appended only if the present one is still that from which it was made.
struct Next {
    membership: Membership,
    precondition: Precondition<TypeConfig>,
}

impl Next {
    fn new(
        metrics: &RaftMetrics<TypeConfig>,
        voters: BTreeSet<u64>,
        nodes: BTreeMap<u64, Member>,
    ) -> Result<Self, Stop> {
        let membership = Membership::new(vec![voters], nodes)
            .map_err(|error| Stop::refused(error.to_string()))?;
        Ok(Self {
            membership,
            precondition: unchanged(&metrics.membership_config),
        })
    }
}

fn unchanged(present: &StoredMembership) -> Precondition<TypeConfig> {
    Precondition::LastMembershipLogId {
        last_membership_log_id: *present.log_id(),
    }
}

fn nodes(present: &StoredMembership) -> BTreeMap<u64, Member> {
    let nodes = present.membership().nodes();
    nodes.map(|(&id, member)| (id, member.clone())).collect()
}

/// Returns the number of entries that `id` is not known to have. `None` if this node does not lead, or knows
/// nothing about that member's log.
pub(crate) fn lag(metrics: &RaftMetrics<TypeConfig>, id: u64) -> Option<u64> {
    let last = metrics.last_log_index?;
    if id == metrics.id {
        return metrics.replication.as_ref().map(|_| 0);
    }
    let matched = (*metrics.replication.as_ref()?.get(&id)?)?;
    Some(last.saturating_sub(matched.index))
}

/// Formats ids as `1, 2 and 3`, or as `none`.
fn names<'a>(ids: impl IntoIterator<Item = &'a u64>) -> String {
    let ids: Vec<String> = ids.into_iter().map(u64::to_string).collect();
    match ids.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// Checks that one more node may vote beside `count` others.
fn check_voter_count(count: usize) -> Result<(), String> {
    if count < VOTER_COUNT_MAX {
        return Ok(());
    }
    Err(format!(
        "{count} nodes vote, and more make every write slower and nothing safer; this one stays a learner, \
         unless one of them is removed"
    ))
}

/// Checks that `addr` has the form `HOST:PORT`, so that other nodes could connect to it.
fn check_addr(addr: &str) -> Result<(), String> {
    let port = addr.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(1..) if addr.len() <= 300 => Ok(()),
        _ => Err(format!(
            "the peer address {addr:?} is not of the form HOST:PORT"
        )),
    }
}

fn not_in_time() -> Stop {
    Stop::Failed(ClusterError::Unknown(
        "it was not committed within the deadline".to_owned(),
    ))
}

fn stop(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Stop {
    let error = match error {
        RaftError::APIError(error) => error,
        RaftError::Fatal(fatal) => {
            return Stop::Failed(ClusterError::Unknown(format!("Raft has stopped: {fatal}")));
        }
    };
    match error {
        ClientWriteError::ForwardToLeader(_) => {
            Stop::TryAgain("this node does not lead, or has lost its majority".to_owned())
        }
        ClientWriteError::LogEntryDiscarded(_) => Stop::Failed(ClusterError::Unknown(
            "another leader was elected meanwhile".to_owned(),
        )),
        ClientWriteError::PreconditionFailed(_) => {
            Stop::TryAgain("the members have changed meanwhile".to_owned())
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => {
            Stop::refused(BUSY)
        }
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::UncommittedLeaderLog(_)) => {
            Stop::TryAgain("the leader was elected just now".to_owned())
        }
        ClientWriteError::ChangeMembershipError(error) => Stop::refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_listed_as_in_a_sentence() {
        assert_eq!(names(&[]), "none");
        assert_eq!(names(&[1]), "1");
        assert_eq!(names(&[1, 2, 3]), "1, 2 and 3");
    }

    #[test]
    fn nine_nodes_vote_at_most() {
        assert_eq!(check_voter_count(8), Ok(()));
        let refused = check_voter_count(9).unwrap_err();
        assert!(refused.starts_with("9 nodes vote"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_obstacle_that_stays_is_told_once() {
        let mut obstacle = Obstacle::default();
        for reason in ["one", "other"] {
            assert!(!obstacle.lasts(reason));
            tokio::time::advance(PROMOTION_PATIENCE / 2).await;
            assert!(!obstacle.lasts(reason));
            tokio::time::advance(PROMOTION_PATIENCE / 2).await;
            assert!(obstacle.lasts(reason));
            assert!(!obstacle.lasts(reason));
        }
    }

    #[test]
    fn peer_addresses_have_a_host_and_a_port() {
        for good in ["h:1", "10.0.0.1:65535", "[::1]:9092"] {
            assert!(check_addr(good).is_ok(), "{good}");
        }
        for bad in ["", "h", ":1", "h:", "h:0", "h:65536", "h:x"] {
            assert!(check_addr(bad).is_err(), "{bad}");
        }
    }
}
