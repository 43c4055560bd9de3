//! Groups of commands on their way through one log entry, and the outcomes that their callers learn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use hearth_storage::{Command, Reply};

use crate::error::WriteError;
use crate::rpc::message::ProposeAnswer;
use crate::types::{NumberedCommand, NumberedReply};

/// Commands that go into one log entry, one after the other, and whose caller waits for their replies.
#[derive(Debug)]
pub(super) struct Group {
    /// At least one, and at most [`ENTRY_COMMANDS_MAX`](crate::write::limits::ENTRY_COMMANDS_MAX).
    pub(super) commands: Vec<Command>,
    pub(super) caller: Caller,
}

/// The caller of a group.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) claim: Arc<Claim>,
    pub(super) reply: oneshot::Sender<Result<Vec<Reply>, WriteError>>,
    /// The permits of the group, released when the caller has its replies.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// The state of a group, shared by its caller and the batcher: it waits and its caller may still withdraw it,
/// it was withdrawn, it was proposed, or it was applied.
#[derive(Debug, Default)]
pub(super) struct Claim(AtomicU8);

impl Claim {
    const WAITS: u8 = 0;
    const PROPOSED: u8 = 1;
    const WITHDRAWN: u8 = 2;
    const APPLIED: u8 = 3;

    fn go(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Claims the group for a proposal. Returns false if the caller has withdrawn it.
    pub(super) fn propose(&self) -> bool {
        self.go(Self::WAITS, Self::PROPOSED)
    }

    /// Undoes [`Self::propose`] after Raft has refused the group without appending it.
    pub(super) fn give_back(&self) {
        self.go(Self::PROPOSED, Self::WAITS);
    }

    /// Records that the cluster has applied the group.
    pub(super) fn applied(&self) {
        self.go(Self::PROPOSED, Self::APPLIED);
    }

    pub(super) fn is_applied(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::APPLIED
    }

    /// Withdraws the group for its caller. Returns true if it will never be proposed.
    pub(super) fn withdraw(&self) -> bool {
        self.go(Self::WAITS, Self::WITHDRAWN)
    }
}

/// Commands that are proposed together as one log entry.
pub(super) struct Package {
    pub(super) list: Arc<[NumberedCommand]>,
    /// The callers of the groups, in the order of the commands, each with the number of its commands.
    pub(super) callers: Vec<(Caller, usize)>,
    /// True if an earlier proposal of the package may be in some log.
    pub(super) maybe_appended: bool,
    /// The node that was asked last to propose the package.
    pub(super) asked: Option<u64>,
}

impl Package {
    pub(super) fn new(
        list: Vec<NumberedCommand>,
        callers: Vec<(Caller, usize)>,
        asked: Option<u64>,
    ) -> Self {
        Self {
            list: list.into(),
            callers,
            maybe_appended: false,
            asked,
        }
    }

    pub(super) fn session(&self) -> Option<u64> {
        self.list.first().map(|numbered| numbered.session)
    }

    /// Takes the package apart into its groups.
    pub(super) fn into_groups(self) -> impl Iterator<Item = (Caller, Vec<NumberedCommand>)> {
        let mut begin = 0;
        self.callers.into_iter().map(move |(caller, count)| {
            let end = (begin + count).min(self.list.len());
            let group = self.list.get(begin..end).unwrap_or_default().to_vec();
            begin = end;
            (caller, group)
        })
    }
}

/// The outcome of a proposal.
pub(super) enum Event {
    /// All commands of the list have had their final replies. If `to_answer` is true, the callers are answered
    /// when the entry is applied here, and [`Event::Answered`] follows.
    Done {
        list: Arc<[NumberedCommand]>,
        to_answer: bool,
    },
    Answered,
    /// The proposal was refused before it was appended, for this reason.
    Refused(Package, String),
    /// The proposal was refused because a disk is full, before it was appended.
    DiskFull(Package, String),
    /// The proposal may be in some log, and this node will not learn its outcome, for this reason.
    Lost(Package, String),
    /// The session has ended. This proposal did not execute any command of the package.
    SessionExpired(Package),
    /// The result of a proposal to open a session, and the node that was asked.
    Opened(ProposeAnswer, u64),
    /// Raft has stopped; the callers were told.
    Stopped,
}

impl Caller {
    /// Claims the group for a proposal. Returns false if the caller has gone; the group is then in no log.
    pub(super) fn propose(&self) -> bool {
        !self.reply.is_closed() && self.claim.propose()
    }

    pub(super) fn answer(self, result: Result<Vec<Reply>, WriteError>) {
        // A caller whose deadline has passed has dropped the receiver.
        let _ = self.reply.send(result);
    }

    pub(super) fn unknown(self, reason: &str) {
        self.answer(Err(WriteError::Unknown(reason.to_owned())));
    }
}

/// The callers of a package and their results, to be sent when it is time.
pub(super) struct Answers(Vec<(Caller, Result<Vec<Reply>, WriteError>)>);

impl Answers {
    pub(super) fn give(self) {
        for (caller, answer) in self.0 {
            caller.answer(answer);
        }
    }
}

/// A package whose commands have all had their final replies.
pub(super) struct Completed {
    pub(super) list: Arc<[NumberedCommand]>,
    pub(super) answers: Answers,
    /// The index of the entry that produced the replies.
    pub(super) index: u64,
}

pub(super) const OTHER_ANSWER: &str = "the leader answered another question";

/// Matches an answer to its package. Returns an event if the callers cannot be answered yet.
pub(super) fn complete(package: Package, answer: ProposeAnswer) -> Result<Completed, Event> {
    let (index, replies) = match answer {
        ProposeAnswer::Replies { index, replies } if replies.len() == package.list.len() => {
            (index, replies)
        }
        ProposeAnswer::Replies { .. } | ProposeAnswer::Session { .. } => {
            return Err(Event::Lost(package, OTHER_ANSWER.to_owned()));
        }
        ProposeAnswer::NotProposed(reason) => return Err(Event::Refused(package, reason)),
        ProposeAnswer::DiskFull(reason) => return Err(Event::DiskFull(package, reason)),
        ProposeAnswer::Unknown(reason) => return Err(Event::Lost(package, reason)),
    };
    // All commands of a package belong to one session, so either all of them see it expired or none.
    if replies.contains(&NumberedReply::SessionExpired) {
        return Err(Event::SessionExpired(package));
    }
    let mut replies = replies.into_iter();
    let answers = package.callers.into_iter().map(|(caller, count)| {
        let answer = group_answer(replies.by_ref().take(count));
        if answer.is_ok() {
            caller.claim.applied();
        }
        (caller, answer)
    });
    Ok(Completed {
        index,
        answers: Answers(answers.collect()),
        list: package.list,
    })
}

/// Returns the replies to one group, or the error that stands for all of its commands.
pub(super) fn group_answer(
    replies: impl Iterator<Item = NumberedReply>,
) -> Result<Vec<Reply>, WriteError> {
    let mut applied = Vec::new();
    let mut is_beyond_window = false;
    let mut is_given_up = false;
    for reply in replies {
        match reply {
            NumberedReply::Applied(reply) => applied.push(reply),
            NumberedReply::BeyondWindow => is_beyond_window = true,
            NumberedReply::Stale | NumberedReply::SessionExpired => is_given_up = true,
        }
    }
    match (is_beyond_window, is_given_up) {
        (false, false) => Ok(applied),
        (true, false) if applied.is_empty() => Err(WriteError::NotProposed(
            "too many writes of this node are without an answer".to_owned(),
        )),
        _ => Err(WriteError::Unknown("the reply was given up".to_owned())),
    }
}
