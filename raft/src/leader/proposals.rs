//! Batches the proposals that this node makes as leader: one group of proposals is under way at a time.
//!
//! Each node of a cluster packs the commands of its own clients into lists ([`crate::write`]). The leader's
//! proposal queue collects the lists of all nodes. Proposals that arrive while a group is under way wait until
//! that group is applied, and then go together in one append: one write and one sync at each member, and one
//! message to each, for any number of lists. A follower is sent one append at a time anyway, so a list that is
//! proposed at once would mostly wait in the log instead of here, and would cost a sync and a response of its
//! own.
//!
//! A proposal that waits here is in no log yet, so its submitter can still withdraw it. The wait is short: a
//! group that is not applied within [`GROUP_DURATION_MAX`] no longer holds up the next one.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::raft::WriteResult;

use crate::codec;
use crate::store::Raft;
use crate::types::{Proposal, TypeConfig};

/// Bytes of commands after which a group takes no more lists, approximately. Members that lag behind wait for
/// the whole group before they respond.
const GROUP_LEN_MAX: usize = 4 << 20;

/// The longest time that a group delays the next one. A group that takes longer is waiting for a majority, and
/// then Raft decides about further proposals: it refuses them once the majority is lost.
const GROUP_DURATION_MAX: Duration = Duration::from_millis(100);

/// The outcome of a proposal; `None` if Raft stopped, so that the outcome stays unknown.
pub(crate) type Proposed = Option<WriteResult<TypeConfig>>;

/// The queue of proposals to this node's Raft. Cheap to clone; all clones share one queue.
#[derive(Clone)]
pub(crate) struct Proposals {
    raft: Raft,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    /// True while a task proposes groups. That task also takes everything that is queued meanwhile.
    is_under_way: bool,
    waiting: VecDeque<Waiting>,
    last_ticket: u64,
}

struct Waiting {
    ticket: Ticket,
    proposal: Proposal,
    done: Done,
}

/// Identifies a submitted proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// A callback that runs exactly once: with the outcome, or with `None` when it is dropped.
struct Done(Option<Box<dyn FnOnce(Proposed) + Send>>);

impl Done {
    fn call(mut self, proposed: Proposed) {
        self.call_once(proposed);
    }

    fn call_once(&mut self, proposed: Proposed) {
        if let Some(callback) = self.0.take() {
            callback(proposed);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.call_once(None);
    }
}

impl fmt::Debug for Proposals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proposals").finish_non_exhaustive()
    }
}

impl Proposals {
    /// Creates an empty queue of proposals to `raft`.
    pub(crate) fn new(raft: Raft) -> Self {
        Self {
            raft,
            queue: Arc::default(),
        }
    }

    /// Queues a proposal for the next group. `done` is called exactly once, on a task of the Raft runtime, and
    /// must not block. Must be called on that runtime.
    pub(crate) fn submit(
        &self,
        proposal: Proposal,
        done: impl FnOnce(Proposed) + Send + 'static,
    ) -> Ticket {
        let done = Done(Some(Box::new(done)));
        let (ticket, begins) = self.lock().push(proposal, done);
        if begins {
            tokio::spawn(self.clone().propose_groups());
        }
        ticket
    }

    /// Withdraws a proposal that has not been handed to Raft yet, and returns true if that succeeded. `done` is
    /// called in any case.
    pub(crate) fn withdraw(&self, ticket: Ticket) -> bool {
        // Drop the entry only after the lock is released, because dropping it runs the callback.
        let withdrawn = self.lock().remove(ticket);
        withdrawn.is_some()
    }

    async fn propose_groups(self) {
        while let Some((proposals, callbacks)) = self.next_group().await {
            // If Raft has stopped, the callbacks are dropped, which calls them with `None`.
            let Ok(results) = self.raft.client_write_many(proposals).await else {
                continue;
            };
            let answering = tokio::spawn(answer(results, callbacks));
            // A group that takes longer continues in its own task.
            let _ = tokio::time::timeout(GROUP_DURATION_MAX, answering).await;
        }
    }

    async fn next_group(&self) -> Option<(Vec<Proposal>, Vec<Done>)> {
        // First let other tasks run: they deliver the requests that have arrived meanwhile, and the responses
        // to the last group.
        tokio::task::yield_now().await;
        self.lock().take_group()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No change under this lock can panic half-way, so a poisoned queue is consistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes each result to its callback. If Raft stops, the stream of results ends early and the remaining
/// callbacks are dropped, which calls them with `None`.
async fn answer<E>(
    results: impl Stream<Item = Result<WriteResult<TypeConfig>, E>>,
    callbacks: Vec<Done>,
) {
    // openraft's stream panics if it is polled after its end.
    let mut results = pin!(results.fuse());
    for done in callbacks {
        match results.next().await {
            Some(Ok(result)) => done.call(Some(result)),
            Some(Err(_)) | None => drop(done),
        }
    }
}

impl Queue {
    /// Appends a proposal. The flag is true if the caller must start a task that proposes groups.
    fn push(&mut self, proposal: Proposal, done: Done) -> (Ticket, bool) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.waiting.push_back(Waiting {
            ticket,
            proposal,
            done,
        });
        (ticket, !std::mem::replace(&mut self.is_under_way, true))
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Waiting> {
        let at = self
            .waiting
            .iter()
            .position(|waiting| waiting.ticket == ticket)?;
        self.waiting.remove(at)
    }

    /// Takes the next group, in the order of submission. Returns `None` if nothing waits; the task must then
    /// end.
    fn take_group(&mut self) -> Option<(Vec<Proposal>, Vec<Done>)> {
        let (mut proposals, mut callbacks) = (Vec::new(), Vec::new());
        let mut len = 0;
        while len < GROUP_LEN_MAX
            && let Some(Waiting { proposal, done, .. }) = self.waiting.pop_front()
        {
            len += proposal_len(&proposal);
            proposals.push(proposal);
            callbacks.push(done);
        }
        self.is_under_way = !proposals.is_empty();
        self.is_under_way.then_some((proposals, callbacks))
    }
}

fn proposal_len(proposal: &Proposal) -> usize {
    match proposal {
        Proposal::Commands(list) => list.iter().map(codec::numbered_len).sum(),
        Proposal::OpenSession { .. } | Proposal::TakeId { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use hearth_storage::Command;

    use super::*;
    use crate::types::NumberedCommand;

    fn proposal(seq: u64, name_len: usize) -> Proposal {
        let command = Command::Remove {
            name: "n".repeat(name_len),
        };
        let numbered = NumberedCommand {
            session: 1,
            seq,
            acked_upto: 0,
            command,
        };
        Proposal::Commands([numbered].into())
    }

    fn first_seq(proposal: &Proposal) -> u64 {
        match proposal {
            Proposal::Commands(list) => list[0].seq,
            other => panic!("{other:?}"),
        }
    }

    fn push(queue: &mut Queue, seq: u64, name_len: usize) -> (Ticket, bool, mpsc::Receiver<bool>) {
        let (said, hears) = mpsc::channel();
        let callback = move |proposed: Proposed| {
            // Some tests drop the receiver.
            let _ = said.send(proposed.is_some());
        };
        let done = Done(Some(Box::new(callback)));
        let (ticket, begins) = queue.push(proposal(seq, name_len), done);
        (ticket, begins, hears)
    }

    #[test]
    fn what_waits_goes_together_in_order_and_one_task_works_on_it() {
        let mut queue = Queue::default();
        let begins: Vec<bool> = (1..=3).map(|seq| push(&mut queue, seq, 10).1).collect();
        assert_eq!(begins, [true, false, false]);
        let (group, _callbacks) = queue.take_group().unwrap();
        assert_eq!(group.iter().map(first_seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(!push(&mut queue, 4, 10).1, "somebody is at work");
        assert_eq!(queue.take_group().unwrap().0.len(), 1);
        assert!(queue.take_group().is_none());
        assert!(push(&mut queue, 5, 10).1, "nobody is at work any more");
    }

    #[test]
    fn a_group_is_bounded_and_leaves_nothing_out() {
        let mut queue = Queue::default();
        let _hears: Vec<_> = (1..=5)
            .map(|seq| push(&mut queue, seq, GROUP_LEN_MAX / 2))
            .collect();
        let mut sizes = Vec::new();
        while let Some((group, _callbacks)) = queue.take_group() {
            sizes.push(group.len());
        }
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[test]
    fn only_what_waits_can_be_withdrawn_and_it_is_told() {
        let mut queue = Queue::default();
        let (gone, _, hears_gone) = push(&mut queue, 1, 10);
        let (stays, _, hears_stays) = push(&mut queue, 2, 10);
        assert!(queue.remove(gone).is_some());
        assert!(queue.remove(gone).is_none());
        assert_eq!(hears_gone.try_recv(), Ok(false));
        let (group, callbacks) = queue.take_group().unwrap();
        assert_eq!(group.iter().map(first_seq).collect::<Vec<_>>(), [2]);
        assert!(queue.remove(stays).is_none(), "Raft has it");
        assert!(hears_stays.try_recv().is_err());
        drop(callbacks);
        assert_eq!(hears_stays.try_recv(), Ok(false), "and once");
        assert!(hears_stays.try_recv().is_err());
    }

    #[tokio::test]
    async fn who_waits_is_told_when_raft_stops_in_the_middle_of_a_group() {
        // Like openraft's stream: one error, then the end, then a panic if it is polled again.
        let results = futures::stream::unfold(Some(()), |alive| async move {
            alive.map(|()| (Err::<WriteResult<TypeConfig>, _>("stopped"), None))
        });
        let (told, tells) = mpsc::channel();
        let done = |number: u32| {
            let told = told.clone();
            let callback = move |proposed: Proposed| {
                told.send((number, proposed.is_some())).unwrap();
            };
            Done(Some(Box::new(callback)))
        };
        answer(results, vec![done(1), done(2), done(3)]).await;
        let told: Vec<_> = tells.try_iter().collect();
        assert_eq!(told, [(1, false), (2, false), (3, false)]);
    }
}
