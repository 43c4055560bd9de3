//! What this node has its Raft propose where it leads: one group at a time.
//!
//! Each node of a cluster packs the commands of its own clients into lists ([`crate::write`]); here the
//! lists of all of them meet. What comes while a group is under way waits until that is applied, and then
//! goes together, in one append: one write and one sync at each member, and one message to each, for as many
//! lists as there are. A follower is sent one append at a time anyway, so a list that goes at once would
//! mostly wait in the log for what it waits for here, and cost a sync and an answer of its own.
//!
//! What waits here is in no log yet, so whoever gives up waiting can still take it back. It does not wait
//! long: a group that is not applied soon lets the next one go.

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

/// Bytes of commands after which a group takes no more lists, about. Members that lag wait for the whole
/// group before they answer.
const GROUP_LEN_MAX: usize = 4 << 20;

/// How long a group keeps the next one waiting. One that takes longer waits for a majority, and Raft knows
/// better what to do with others meanwhile: it refuses them when that is lost.
const GROUP_DURATION_MAX: Duration = Duration::from_millis(100);

/// What became of a proposal; `None` when Raft stopped and nobody will ever say.
pub(crate) type Proposed = Option<WriteResult<TypeConfig>>;

/// Where proposals gather. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub(crate) struct Proposals {
    raft: Raft,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    /// A task works on groups, and will look for more.
    is_under_way: bool,
    waiting: VecDeque<Waiting>,
    last_ticket: u64,
}

struct Waiting {
    ticket: Ticket,
    proposal: Proposal,
    done: Done,
}

/// Names a proposal that was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// Calls back once, also when it is dropped: then with `None`.
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
    /// Proposals to `raft`.
    pub(crate) fn new(raft: Raft) -> Self {
        Self {
            raft,
            queue: Arc::default(),
        }
    }

    /// Has Raft propose this with the next group. `done` is called exactly once, on a task of the Raft
    /// runtime, on which this must be called, too; it must not block.
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

    /// Takes a proposal back, if Raft was not given it yet. Its `done` is called in any case.
    pub(crate) fn withdraw(&self, ticket: Ticket) -> bool {
        // Dropped, and with it called back, when the lock is no longer held.
        let withdrawn = self.lock().remove(ticket);
        withdrawn.is_some()
    }

    async fn propose_groups(self) {
        while let Some((proposals, callbacks)) = self.next_group().await {
            // When Raft has stopped, the callbacks are dropped, and say so.
            let Ok(results) = self.raft.client_write_many(proposals).await else {
                continue;
            };
            let answering = tokio::spawn(answer(results, callbacks));
            // It goes on by itself when it takes longer.
            let _ = tokio::time::timeout(GROUP_DURATION_MAX, answering).await;
        }
    }

    async fn next_group(&self) -> Option<(Vec<Proposal>, Vec<Done>)> {
        // What has arrived in the sockets meanwhile, and the answers to the last group, come first.
        tokio::task::yield_now().await;
        self.lock().take_group()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here can panic half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes each result on. When Raft stops, the results end before the callbacks do, and the rest are dropped.
async fn answer<E>(
    results: impl Stream<Item = Result<WriteResult<TypeConfig>, E>>,
    callbacks: Vec<Done>,
) {
    // One that has ended must not be asked again.
    let mut results = pin!(results.fuse());
    for done in callbacks {
        match results.next().await {
            Some(Ok(result)) => done.call(Some(result)),
            Some(Err(_)) | None => drop(done),
        }
    }
}

impl Queue {
    /// Whether a task must begin to work comes with the ticket.
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

    /// What goes next, in the order in which it came. `None`, and nobody works any more, when nothing waits.
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
            // Not every test listens.
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
        // As openraft's: one error, the end, and a panic for whoever asks on.
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
