//! The sole-voter fast path: a gate that lets reads skip the round trip while this node alone is the cluster.
//!
//! A linearizable read must see every write that was acknowledged anywhere before it began. In general that
//! takes ReadIndex: ask a majority whether this node still leads, then wait until the commit index of that
//! moment is applied. A sole voter is its own majority, and the answer is in its own memory. The gate is open
//! while all of this holds:
//!
//! 1. The vote that was saved last is for this node, was granted, and was saved in this run of the program.
//! 2. An entry of that same leadership has been applied. Its first entry is the blank one with which a
//!    leadership begins, and entries apply in order, so everything that was ever committed before is applied
//!    too (leader completeness, Raft 5.4.3).
//! 3. The membership that was applied last has this node as its only voter, and no later membership entry with
//!    another voter has been appended.
//!
//! **Why this is as strong as ReadIndex.** A write is acknowledged by the leader that committed it, after that
//! leader has applied it. If that leader is this node, the write is applied here. It cannot be another node:
//! another leader needs a majority of some membership, and by 3 each membership that can be in force is this
//! node alone, so it needs this node's vote, or a membership entry that this node appends. Both happen in the
//! log store, which shuts the gate *before* it writes either of them; and neither leaves the node before it is
//! written, because replication reads from the log store. So while a reader finds the gate open, no other node
//! can have acknowledged a write, and one that is acknowledged later was not acknowledged before the read
//! began. Reads and writes meet in one store, whose batches appear at once, so a point lookup after the gate
//! was found open is linearizable.
//!
//! The facts come from the storage callbacks themselves, in the order in which they are persisted, never from
//! metrics, which may be late.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::types::{LeaderId, LogId, Membership, Vote};

/// A stream that fails if it makes no progress for too long.
#[derive(Debug)]
pub(crate) struct Gate {
    node_id: u64,
    /// The result of [`Facts::open`], for readers.
    open: AtomicBool,
    facts: Mutex<Facts>,
    /// The same, for tasks that wait.
    changed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Facts {
    /// The vote that was saved last in this run.
    vote: Option<Vote>,
    /// The leader id of the entry that was applied last in this run.
    applied: Option<LeaderId>,
    /// True if the membership that was applied last has this node as its only voter.
    applied_sole: bool,
    /// The membership entries that were appended in this run and not applied yet: the index, and true if this
    /// node is the only voter.
    appended: Vec<(u64, bool)>,
    /// True once nothing opens the gate again.
    stopped: bool,
}

impl Facts {
    fn open(&self, node_id: u64) -> bool {
        let leads = self.vote.as_ref().is_some_and(|vote| {
            vote.committed
                && vote.leader_id.node_id == node_id
                && self.applied == Some(vote.leader_id)
        });
        let alone = self.applied_sole && self.appended.iter().all(|&(_, sole)| sole);
        leads && alone && !self.stopped
    }
}

impl Gate {
    /// Creates a shut gate.
    pub(crate) fn new(node_id: u64) -> Self {
        Self {
            node_id,
            open: AtomicBool::new(false),
            facts: Mutex::default(),
            changed: watch::Sender::new(false),
        }
    }

    /// Returns true if this node's applied state has every write that was acknowledged before this call.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Waits until the gate is open.
    pub(crate) async fn opened(&self) {
        let mut changed = self.changed.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = changed.wait_for(|&open| open).await;
    }

    /// Must be called before a vote is written.
    pub(crate) fn saving_vote(&self, vote: &Vote) {
        self.update(|facts| facts.vote = Some(*vote));
    }

    /// Must be called before a membership entry is written.
    pub(crate) fn appending_membership(&self, index: u64, membership: &Membership) {
        let sole = is_sole_voter(self.node_id, membership);
        self.update(|facts| facts.appended.push((index, sole)));
    }

    /// Must be called after the log was truncated. `last` is its last index.
    pub(crate) fn truncated_after(&self, last: Option<u64>) {
        self.update(|facts| {
            facts
                .appended
                .retain(|&(index, _)| last.is_some_and(|last| index <= last));
        });
    }

    /// Must be called when everything up to `last` can be read. `membership` is the last one up to there.
    pub(crate) fn applied(&self, last: &LogId, membership: &Membership) {
        let sole = is_sole_voter(self.node_id, membership);
        self.update(|facts| {
            facts.applied = Some(last.leader_id);
            facts.applied_sole = sole;
            facts.appended.retain(|&(index, _)| index > last.index);
        });
    }

    /// Must be called before the whole state is replaced. Only a leader sends a state, so this node does not
    /// lead.
    pub(crate) fn installing(&self) {
        self.update(|facts| {
            facts.applied = None;
            facts.applied_sole = false;
        });
    }

    /// Shuts the gate for good.
    pub(crate) fn stop(&self) {
        self.update(|facts| facts.stopped = true);
    }

    fn update(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts();
        change(&mut facts);
        let open = facts.open(self.node_id);
        // The flag is stored under the lock, so that it never lags behind a later change.
        self.open.store(open, Ordering::SeqCst);
        self.changed.send_if_modified(|known| {
            let modified = *known != open;
            *known = open;
            modified
        });
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Each change is a plain assignment, so the facts are whole even if a thread panicked.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns true if `node_id` is the only voter, in either half of a joint membership.
fn is_sole_voter(node_id: u64, membership: &Membership) -> bool {
    let mut voters = membership.voter_ids();
    voters.next() == Some(node_id) && voters.next().is_none()
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
        Membership::new_with_defaults(sets, [1, 9])
    }

    /// Returns a gate that a sole voter in term 3 has opened.
    fn open_gate() -> Gate {
        let gate = Gate::new(1);
        gate.saving_vote(&Vote::new(3, 1));
        gate.saving_vote(&Vote::new_committed(3, 1));
        gate.applied(&log_id(3, 1, 7), &membership(&[&[1]]));
        assert!(gate.is_open());
        gate
    }

    #[test]
    fn it_opens_only_with_an_applied_entry_of_the_own_leadership() {
        let gate = Gate::new(1);
        gate.applied(&log_id(2, 1, 5), &membership(&[&[1]]));
        assert!(!gate.is_open());
        gate.saving_vote(&Vote::new(3, 1));
        assert!(!gate.is_open());
        gate.saving_vote(&Vote::new_committed(3, 1));
        assert!(
            !gate.is_open(),
            "the tail of the earlier term may not be applied"
        );
        gate.applied(&log_id(2, 1, 6), &membership(&[&[1]]));
        assert!(!gate.is_open());
        gate.applied(&log_id(3, 1, 7), &membership(&[&[1]]));
        assert!(gate.is_open());
    }

    #[test]
    fn learners_do_not_matter_and_other_voters_do() {
        let gate = open_gate();
        gate.appending_membership(8, &membership(&[&[1]]));
        assert!(gate.is_open());
        gate.appending_membership(9, &membership(&[&[1], &[1, 2]]));
        assert!(!gate.is_open());
        gate.applied(&log_id(3, 1, 9), &membership(&[&[1], &[1, 2]]));
        assert!(!gate.is_open());
    }

    #[test]
    fn a_membership_that_was_cut_off_no_longer_counts() {
        let gate = open_gate();
        gate.appending_membership(9, &membership(&[&[1, 2]]));
        gate.truncated_after(Some(9));
        assert!(!gate.is_open());
        gate.truncated_after(Some(8));
        assert!(gate.is_open());
    }

    #[test]
    fn a_vote_for_another_shuts_it() {
        for vote in [Vote::new(4, 2), Vote::new(4, 1), Vote::new_committed(4, 2)] {
            let gate = open_gate();
            gate.saving_vote(&vote);
            assert!(!gate.is_open(), "{vote}");
        }
    }

    #[test]
    fn another_node_as_the_only_voter_does_not_open_it() {
        let gate = open_gate();
        gate.applied(&log_id(3, 1, 8), &membership(&[&[2]]));
        assert!(!gate.is_open());
        gate.applied(&log_id(3, 1, 9), &Membership::default());
        assert!(!gate.is_open());
    }

    #[test]
    fn an_install_and_a_stop_shut_it() {
        let gate = open_gate();
        gate.installing();
        assert!(!gate.is_open());
        let gate = open_gate();
        gate.stop();
        gate.applied(&log_id(3, 1, 8), &membership(&[&[1]]));
        assert!(!gate.is_open());
    }
}
