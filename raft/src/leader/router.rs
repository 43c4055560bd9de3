//! The way of this node's proposals and reads to the leader, which may be this node; and the leader's side
//! of it.
//!
//! What was sent to a leader and not answered is given up, as perhaps done, the moment that another one is
//! known: the new one answers for both.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{
    ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError,
};
use tokio::sync::{Semaphore, oneshot};

use crate::defect::{self, Defect};
use crate::disk_space::Disk;
use crate::leader::proposals::{Proposals, Proposed};
use crate::leader::tracker::Leadership;
use crate::read::Reads;
use crate::rpc::message::{ProposalRecord, ProposeAnswer, ReadIndexAnswer, Request, Response};
use crate::rpc::{CallError, Peers};
use crate::store::log_store::LogStore;
use crate::types::{LogId, Membership, Outcome, Proposal, Raft, TypeConfig, Vote};
use crate::write::limits;

/// How long a proposal is waited for before it is sent again, under the same numbers.
const PROPOSAL_DURATION_MAX: Duration = Duration::from_secs(5);

/// How long a leader is waited for to confirm that it leads.
const READ_INDEX_DURATION_MAX: Duration = Duration::from_secs(2);

/// Proposals of other nodes that a leader has under way. More wait, and their nodes with them.
const PROPOSAL_COUNT_MAX: usize = 256;

/// The way to whoever leads: [`Route`], and what tests put in its place.
pub(crate) trait Way: Clone + Send + Sync + 'static {
    /// Who leads.
    fn leadership(&self) -> &Leadership;

    /// Has this node's own Raft propose. `done` is called exactly once, on whichever task has the answer;
    /// with `None` when Raft stopped and nobody will ever say.
    fn propose_here(
        &self,
        proposal: Proposal,
        done: impl FnOnce(Option<ProposeAnswer>) + Send + 'static,
    );

    /// Has the leader `to` propose, and returns what became of that.
    fn propose_at(
        &self,
        to: u64,
        record: ProposalRecord,
    ) -> impl Future<Output = ProposeAnswer> + Send;

    /// The index that must be applied here before a read that began before this call; otherwise why nobody
    /// could say.
    fn read_index(&self) -> impl Future<Output = Result<u64, String>> + Send;
}

/// Finds the leader and reaches it.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) leadership: Leadership,
    pub(crate) raft: Raft,
    pub(crate) proposals: Proposals,
    pub(crate) peers: Peers,
    pub(crate) log_store: LogStore,
}

impl Way for Route {
    fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    fn propose_here(
        &self,
        proposal: Proposal,
        done: impl FnOnce(Option<ProposeAnswer>) + Send + 'static,
    ) {
        self.proposals
            .submit(proposal, move |proposed| done(propose_answer(proposed)));
    }

    async fn propose_at(&self, to: u64, record: ProposalRecord) -> ProposeAnswer {
        let request = Request::Propose(record);
        let called = tokio::select! {
            biased;
            called = self.peers.call(to, request, PROPOSAL_DURATION_MAX) => called,
            next = self.leadership.passes_from(to) => {
                return ProposeAnswer::Unknown(format!("node {next} leads in place of node {to}"));
            }
        };
        match called {
            Ok(Response::Propose(answer)) => answer,
            Ok(Response::Unavailable(reason)) | Err(CallError::Unreachable(reason)) => {
                ProposeAnswer::NotProposed(format!("the leader, node {to}: {reason}"))
            }
            Ok(_) => ProposeAnswer::Unknown(format!("node {to} answered another question")),
            Err(error @ (CallError::Lost(_) | CallError::TimedOut(_))) => {
                ProposeAnswer::Unknown(format!("the leader, node {to}: {error}"))
            }
        }
    }

    async fn read_index(&self) -> Result<u64, String> {
        let to = match self.leadership.leader() {
            Some(id) if id == self.leadership.node_id() => return own_read_index(&self.raft).await,
            Some(id) => id,
            None => return Err(NO_LEADER.to_owned()),
        };
        // Asked for after the reads of this round began.
        let request = match self.log_store.promised_vote() {
            Some(vote) if self.peers.protocol(to) >= ACKNOWLEDGED_READ_INDEX => {
                Request::AcknowledgedReadIndex((&vote).into())
            }
            _ => Request::ReadIndex,
        };
        let call = self.peers.call(to, request, READ_INDEX_DURATION_MAX);
        let called = tokio::select! {
            biased;
            called = call => called,
            next = self.leadership.passes_from(to) => {
                return Err(format!("node {next} leads in place of node {to}"));
            }
        };
        match called {
            Ok(Response::ReadIndex(ReadIndexAnswer::Index(index))) => Ok(index),
            Ok(Response::ReadIndex(ReadIndexAnswer::NotLeader { .. })) => {
                Err(format!("node {to} does not lead any more"))
            }
            Ok(Response::ReadIndex(ReadIndexAnswer::NoQuorum(reason))) => Err(reason),
            Ok(Response::Unavailable(reason)) => Err(format!("the leader, node {to}: {reason}")),
            Ok(_) => Err(format!("node {to} answered another question")),
            Err(error) => Err(format!("the leader, node {to}: {error}")),
        }
    }
}

/// The protocol version since which a leader knows [`Request::AcknowledgedReadIndex`].
const ACKNOWLEDGED_READ_INDEX: u32 = 2;

/// What is said when nobody is known to lead.
pub(crate) const NO_LEADER: &str = "no leader is known";

/// ReadIndex on the leader: a majority confirms that it still leads.
///
/// # Errors
/// Why it could not be confirmed.
pub(crate) async fn own_read_index(raft: &Raft) -> Result<u64, String> {
    let linearizer = raft
        .get_read_linearizer(openraft::ReadPolicy::ReadIndex)
        .await
        .map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                why_not_here(&forward)
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(quorum)) => {
                let got: Vec<String> = quorum.got.iter().map(u64::to_string).collect();
                format!("of the voters only node {} answered", got.join(" and "))
            }
            RaftError::Fatal(fatal) => format!("Raft has stopped: {fatal}"),
        })?;
    Ok(linearizer.read_log_id().index())
}

fn why_not_here(forward: &ForwardToLeader<TypeConfig>) -> String {
    match (forward.reason, forward.leader_id) {
        (ForwardReason::LeaseExpired, _) => {
            "the leader has not heard from a majority for too long".to_owned()
        }
        (ForwardReason::LeadershipTransfer, _) => "leadership is being handed over".to_owned(),
        (ForwardReason::NotLeader, Some(leader)) => format!("node {leader} leads"),
        (ForwardReason::NotLeader, None) => NO_LEADER.to_owned(),
    }
}

/// Answers what other nodes ask of a leader.
#[derive(Clone)]
pub(crate) struct Lead {
    leadership: Leadership,
    raft: Raft,
    proposals: Proposals,
    reads: Arc<Reads>,
    disk: Arc<Disk>,
    places: Arc<Semaphore>,
}

impl Lead {
    pub(crate) fn new(
        leadership: Leadership,
        raft: Raft,
        proposals: Proposals,
        reads: Arc<Reads>,
        disk: Arc<Disk>,
    ) -> Self {
        Self {
            leadership,
            raft,
            proposals,
            reads,
            disk,
            places: Arc::new(Semaphore::new(PROPOSAL_COUNT_MAX)),
        }
    }

    /// Proposes what another node sent.
    pub(crate) async fn propose(&self, record: ProposalRecord) -> ProposeAnswer {
        let proposal = match record {
            ProposalRecord::OpenSession { node, nonce } => Proposal::OpenSession { node, nonce },
            ProposalRecord::Commands { again, list } => {
                if let Err(reason) = limits::check_list(&list) {
                    return ProposeAnswer::NotProposed(reason);
                }
                if let Err(reason) = self.disk.admits_all(&list, again) {
                    return ProposeAnswer::DiskFull(reason);
                }
                Proposal::Commands(list)
            }
        };
        let Ok(_place) = self.places.acquire().await else {
            return ProposeAnswer::NotProposed("this node is stopping".to_owned());
        };
        let (done, result) = oneshot::channel();
        let ticket = self.proposals.submit(proposal, move |proposed| {
            // Whoever asked may have gone.
            let _ = done.send(proposed);
        });
        let unknown = |reason: &str| ProposeAnswer::Unknown(reason.to_owned());
        match tokio::time::timeout(PROPOSAL_DURATION_MAX, result).await {
            Ok(Ok(proposed)) => propose_answer(proposed).unwrap_or_else(|| unknown("Raft stopped")),
            Ok(Err(_)) => unknown("Raft stopped"),
            Err(_) if self.proposals.withdraw(ticket) => ProposeAnswer::NotProposed(
                "no majority has confirmed earlier writes yet".to_owned(),
            ),
            // It is still in the log, and whoever sent it has given up waiting by now.
            Err(_) => unknown("no majority has confirmed it yet"),
        }
    }

    /// Says up to where a read must see. `word` is what the node that asks acknowledges.
    pub(crate) async fn read_index(&self, word: Option<Word>) -> ReadIndexAnswer {
        let me = self.leadership.node_id();
        let leader = self.leadership.leader();
        if leader != Some(me) {
            return ReadIndexAnswer::NotLeader { leader };
        }
        if let Some(word) = word {
            let index = self.raft.with_raft_state(move |raft| {
                let membership = raft.membership_state.effective().membership();
                word.index(me, *raft.vote_ref(), raft.cluster_committed(), membership)
            });
            if let Ok(Some(index)) = index.await {
                return ReadIndexAnswer::Index(index);
            }
        }
        match self.reads.index().await {
            Ok(index) => ReadIndexAnswer::Index(index),
            Err(reason) => ReadIndexAnswer::NoQuorum(reason),
        }
    }
}

/// What a node that asks for the read index says of itself: that, when the read had begun, this was the
/// vote that bound it.
///
/// ReadIndex (Ongaro's dissertation, section 6.4) has the leader note its commit index, and a majority
/// confirm afterwards that it still leads. Where the leader and the node that asks are a majority by
/// themselves, as in a cluster of three, the question is that confirmation, and needs no round of
/// heartbeats. Say the read begins at time r, the node sends its vote at s, after r, and the leader, at t,
/// takes its commit index. At s the node had given no later vote, and at t the leader had not: votes only
/// rise. A later leader needs a majority, so it needs one of the two, so it was not elected before s. What
/// was acknowledged before r was therefore committed by this leader or before it, and, as an entry of its
/// own term is committed by t, all of it is at or below its commit index. What another node has already
/// shown of this term was committed before that node heard of it from this leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    pub(crate) node: u64,
    pub(crate) vote: Vote,
}

impl Word {
    /// The read index of `me`, whose Raft has this vote, commit index and membership at one moment after the
    /// word was given; `None` when the two nodes do not suffice.
    fn index(
        self,
        me: u64,
        vote: Vote,
        committed: Option<&LogId>,
        membership: &Membership,
    ) -> Option<u64> {
        let leads = vote.committed && vote.leader_id.node_id == me;
        let committed = committed?;
        let suffices = leads
            && (self.vote == vote || defect::is(Defect::WordWithoutVote))
            && (committed.leader_id == vote.leader_id || defect::is(Defect::WordBeforeOwnEntry))
            && (are_majority(membership, me, self.node) || defect::is(Defect::WordOfAMinority));
        suffices.then_some(committed.index)
    }
}

/// Whether these two are a majority of the voters, in both halves of a joint membership.
fn are_majority(membership: &Membership, one: u64, other: u64) -> bool {
    let configs = membership.get_joint_config();
    one != other
        && !configs.is_empty()
        && configs.iter().all(|voters| {
            let count = [one, other].iter().filter(|id| voters.contains(id)).count();
            2 * count > voters.len()
        })
}

/// What openraft made of a proposal. `None` when it stopped and nobody will ever say.
fn propose_answer(proposed: Proposed) -> Option<ProposeAnswer> {
    Some(match proposed? {
        Ok(response) => {
            let index = response.log_id.index;
            match response.response {
                Outcome::Session(id) => ProposeAnswer::Session { index, id },
                Outcome::Replies(replies) => ProposeAnswer::Replies { index, replies },
                Outcome::Nothing | Outcome::Id(_) => {
                    ProposeAnswer::Unknown("the entry holds something else".to_owned())
                }
            }
        }
        // Since openraft's alpha 35 this means that it was not appended, and never will be.
        Err(ClientWriteError::ForwardToLeader(error)) => {
            ProposeAnswer::NotProposed(why_not_here(&error))
        }
        Err(error) => ProposeAnswer::Unknown(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::codec::log_id;

    fn membership(configs: &[&[u64]]) -> Membership {
        let sets: Vec<BTreeSet<u64>> = configs
            .iter()
            .map(|voters| voters.iter().copied().collect())
            .collect();
        Membership::new_with_defaults(sets, [9])
    }

    #[test]
    fn a_word_counts_for_the_leader_that_it_was_given_to() {
        let three = membership(&[&[1, 2, 3]]);
        let leads = Vote::new_committed(5, 1);
        let word = |vote| Word { node: 2, vote };
        let index =
            |own, given, committed: &LogId| word(given).index(1, own, Some(committed), &three);
        assert_eq!(index(leads, leads, &log_id(5, 1, 70)), Some(70));
        // The asker has voted for another one since, or has not heard of this leader yet.
        for other in [
            Vote::new(6, 3),
            Vote::new_committed(6, 3),
            Vote::new(5, 1),
            Vote::new(4, 1),
        ] {
            assert_eq!(index(leads, other, &log_id(5, 1, 70)), None, "{other}");
        }
        // The one that is asked does not lead, or not yet, or not any more.
        for own in [Vote::new(5, 1), Vote::new_committed(6, 3), Vote::new(6, 1)] {
            assert_eq!(index(own, own, &log_id(5, 1, 70)), None, "{own}");
        }
        // It has committed nothing itself, so it may not know of all that others have.
        assert_eq!(index(leads, leads, &log_id(4, 1, 70)), None);
        assert_eq!(word(leads).index(1, leads, None, &three), None);
        // They are no majority.
        let five = membership(&[&[1, 2, 3, 4, 5]]);
        assert_eq!(
            word(leads).index(1, leads, Some(&log_id(5, 1, 70)), &five),
            None
        );
    }

    #[cfg(feature = "defects")]
    #[test]
    fn each_condition_of_a_word_is_what_holds_an_answer_back() {
        let three = membership(&[&[1, 2, 3]]);
        let five = membership(&[&[1, 2, 3, 4, 5]]);
        let leads = Vote::new_committed(5, 1);
        let voted_since = Vote::new(6, 3);
        for (defect, given, committed, membership) in [
            (
                Defect::WordWithoutVote,
                voted_since,
                log_id(5, 1, 70),
                &three,
            ),
            (Defect::WordBeforeOwnEntry, leads, log_id(4, 1, 70), &three),
            (Defect::WordOfAMinority, leads, log_id(5, 1, 70), &five),
        ] {
            let word = Word {
                node: 2,
                vote: given,
            };
            let index = || word.index(1, leads, Some(&committed), membership);
            assert_eq!(index(), None, "{defect:?}");
            assert_eq!(defect::with(defect, index), Some(70), "{defect:?}");
        }
    }

    #[test]
    fn two_are_a_majority_of_up_to_three_voters_that_they_belong_to() {
        for (configs, expected) in [
            (&[&[1, 2][..]][..], true),
            (&[&[1, 2, 3]], true),
            (&[&[1, 2, 3, 4]], false),
            (&[&[1, 2, 3, 4, 5]], false),
            // One of them is a learner, or not there.
            (&[&[1, 3, 4]], false),
            (&[&[1, 3]], false),
            (&[&[1]], true),
            (&[&[3]], false),
            // Both halves of a joint membership count.
            (&[&[1, 2, 3], &[1, 2, 4]], true),
            (&[&[1, 2, 3], &[1, 3, 4]], false),
            (&[&[1, 2, 3], &[1, 2, 3, 4]], false),
            (&[], false),
        ] {
            let membership = membership(configs);
            assert_eq!(are_majority(&membership, 1, 2), expected, "{configs:?}");
            assert_eq!(are_majority(&membership, 2, 1), expected, "{configs:?}");
        }
        assert!(!are_majority(&membership(&[&[1, 2, 3]]), 1, 1));
    }
}
