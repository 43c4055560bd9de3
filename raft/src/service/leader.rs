//! The leader's side of the proposals and reads of other nodes.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::defect::{self, Defect};
use crate::disk_space::Disk;
use crate::leader::proposals::Proposals;
use crate::leader::router::{PROPOSAL_DURATION_MAX, propose_answer};
use crate::leader::tracker::Leadership;
use crate::read::Reads;
use crate::rpc::message::{ProposalRecord, ProposeAnswer, ReadIndexAnswer};
use crate::store::Raft;
use crate::types::{LogId, Membership, Proposal, Vote};
use crate::write::limits;

/// Maximum number of proposals of other nodes that a leader has under way at once. Further ones wait, and so do
/// the nodes that sent them.
const PROPOSAL_COUNT_MAX: usize = 256;

/// The leader service. Answers the proposals and ReadIndex requests of other nodes.
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
    /// Creates the service with [`PROPOSAL_COUNT_MAX`] slots.
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

    /// Proposes the proposal of another node, and waits for the outcome.
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
        self.proposals.submit(proposal, move |proposed| {
            // The caller may have been cancelled.
            let _ = done.send(proposed);
        });
        let unknown = |reason: &str| ProposeAnswer::Unknown(reason.to_owned());
        match tokio::time::timeout(PROPOSAL_DURATION_MAX, result).await {
            Ok(Ok(proposed)) => propose_answer(proposed).unwrap_or_else(|| unknown("Raft stopped")),
            Ok(Err(_)) => unknown("Raft stopped"),
            // The entry is still in the log, and its sender has stopped waiting by now.
            Err(_) => unknown("no majority has confirmed it yet"),
        }
    }

    /// Returns the index that a read must see. `word` is the acknowledgement of the node that asks.
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

/// The acknowledgement that a node sends with a request for the read index: the vote that bound it after the
/// read had begun.
///
/// In ReadIndex (Ongaro's dissertation, section 6.4) the leader notes its commit index, and a majority then
/// confirms that it still leads. If the leader and the requesting node are a majority by themselves, as in a
/// cluster of three, the request is that confirmation, and no round of heartbeats is needed. Let the read begin
/// at time r, let the node send its vote at s, after r, and let the leader take its commit index at t. At s the
/// node had given no later vote, and at t the leader had not either: votes only rise. A later leader needs a
/// majority, so it needs one of the two, so it was not elected before s. Every write that was acknowledged
/// before r was therefore committed by this leader or before it. Because an entry of the leader's own term is
/// committed by t, all of these writes are at or below its commit index. Any state of this term that another
/// node has shown by then was committed before that node learned of it from this leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    pub(crate) node: u64,
    pub(crate) vote: Vote,
}

impl Word {
    /// Returns the read index of `me`, whose Raft has this vote, commit index and membership at one moment
    /// after the acknowledgement was given. `None` if the two nodes do not suffice.
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

/// Returns true if these two nodes are a majority of the voters, in both halves of a joint membership.
fn are_majority(membership: &Membership, one: u64, other: u64) -> bool {
    let configs = membership.get_joint_config();
    one != other
        && !configs.is_empty()
        && configs.iter().all(|voters| {
            let count = [one, other].iter().filter(|id| voters.contains(id)).count();
            2 * count > voters.len()
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
        // The requesting node has voted for another candidate since, or does not know this leader yet.
        for other in [
            Vote::new(6, 3),
            Vote::new_committed(6, 3),
            Vote::new(5, 1),
            Vote::new(4, 1),
        ] {
            assert_eq!(index(leads, other, &log_id(5, 1, 70)), None, "{other}");
        }
        // The node that is asked does not lead, does not lead yet, or no longer leads.
        for own in [Vote::new(5, 1), Vote::new_committed(6, 3), Vote::new(6, 1)] {
            assert_eq!(index(own, own, &log_id(5, 1, 70)), None, "{own}");
        }
        // The leader has committed no entry of its own, so it may not know all committed entries.
        assert_eq!(index(leads, leads, &log_id(4, 1, 70)), None);
        assert_eq!(word(leads).index(1, leads, None, &three), None);
        // The two nodes are not a majority.
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
            // One of the two is a learner, or not a member.
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
