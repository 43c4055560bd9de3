//! Type aliases for openraft, and the application's types in the log.
//!
//! The aliases are not part of a disk or wire format: [`crate::codec`] has its own structures for those.
//! [`Member`], [`NumberedCommand`] and [`NumberedReply`] are serialized as they are.

use std::fmt;
use std::sync::Arc;

use openraft::raft::responder::Responder;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig, TokioRuntime};
use serde::{Deserialize, Serialize};

use hearth_storage::{Command, Reply};

/// The types that openraft is instantiated with.
///
/// Leader ids are openraft's "advanced" ones, ordered by `(term, node)`: two candidates of the same term do not
/// block each other, which halves the number of split votes among busy nodes. A log id is therefore
/// `(term, node, index)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Proposal;
    type R = Outcome;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = TokioRuntime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A callback that runs exactly once: with the outcome of a proposal, or with `None` when it is dropped because Raft
/// has stopped.
pub(crate) struct Callback<T>(Option<Box<dyn FnOnce(Option<T>) + Send>>);

impl<T> Callback<T> {
    pub(crate) fn new(callback: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    fn call(&mut self, outcome: Option<T>) {
        if let Some(callback) = self.0.take() {
            callback(outcome);
        }
    }
}

impl<T> Drop for Callback<T> {
    fn drop(&mut self) {
        self.call(None);
    }
}

impl<T: OptionalSend + 'static> Responder<TypeConfig, T> for Callback<T> {
    fn on_complete(mut self, outcome: T) {
        self.call(Some(outcome));
    }
}

pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, Member>;
pub(crate) type Payload = EntryPayload<Proposal, u64, Member>;
/// An entry of the log. (`Entry` alone is an entry of the registry.)
pub(crate) type LogEntry = openraft::Entry<LeaderId, Payload>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Member>;

/// A member in the membership. All fields are empty in a single-node cluster that was never given addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The peer address, `HOST:PORT`.
    pub(crate) peer_addr: String,
    /// The random number of the member's data directory. A node with another incarnation is not this member,
    /// whatever its id.
    pub(crate) incarnation: u128,
    /// True for a learner that becomes a voter when it has caught up.
    pub(crate) promotes_itself: bool,
}

/// The request that a log entry makes to the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proposal {
    /// Opens a session for a node, in place of its earlier one. The session's id is the index of this entry, so
    /// an entry opens at most one session.
    OpenSession {
        /// The id of the node that will write.
        node: u64,
        /// A random number, new for each attempt to open a session, and unchanged when the proposal is sent
        /// again.
        nonce: u64,
    },
    /// Executes commands, in this order.
    Commands(Arc<[NumberedCommand]>),
    /// Assigns a node id; see [`crate::store::node_ids`].
    TakeId {
        /// The requested id. `None` requests the next free one.
        wanted: Option<u64>,
        /// The incarnation of the data directory that gets the id. `None` reserves the id.
        holder: Option<u128>,
    },
}

/// A command with its number in a session, by which the state machine recognises a repetition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NumberedCommand {
    /// The id of the session of the node that sends the command.
    pub(crate) session: u64,
    /// The command's number in the session, from 1.
    pub(crate) seq: u64,
    /// The number up to which the node has all final replies; below `seq`.
    pub(crate) acked_upto: u64,
    /// The command.
    pub(crate) command: Command,
}

/// The highest id. Programs that read numbers as floating-point numbers represent it exactly.
pub(crate) const ID_MAX: u64 = 1 << 53;

/// Maximum distance of a requested id above the mark, so that requests cannot use up all ids.
pub(crate) const DISTANCE_MAX: u64 = 1000;

/// Maximum number of reservations at once. A reservation ends when a node joins under it.
pub(crate) const RESERVED_COUNT_MAX: usize = 16;

/// The reason why an id is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdRefusal {
    #[error("node ids go from 1 to {ID_MAX}, and this is {0}")]
    OutOfRange(u64),
    #[error("the id {0} is reserved already")]
    Reserved(u64),
    #[error(
        "the id {0} belongs to another node; leave it out, and the cluster chooses one that is free"
    )]
    Taken(u64),
    #[error(
        "node {0} was removed, and an id is never used again; leave it out, and the cluster chooses one \
         that is free"
    )]
    Removed(u64),
    #[error(
        "the id {id} was removed or passed over, and an id is never used again; leave it out, and the \
         cluster chooses one that is free, or take one above {mark}"
    )]
    Used { id: u64, mark: u64 },
    #[error(
        "the id {id} is too far away: the highest of a node so far is {mark}, and one may be {DISTANCE_MAX} \
         above it; leave it out, and the cluster chooses one that is free"
    )]
    TooFar { id: u64, mark: u64 },
    #[error(
        "this data folder was given the id {given}, and asks for {wanted}; start it as {given}, or empty it"
    )]
    Another { given: u64, wanted: u64 },
    #[error(
        "{RESERVED_COUNT_MAX} ids are reserved and not used yet, the lowest of them {lowest}; start a node \
         under it with --node-id {lowest}, or under none, and the cluster chooses one that is free"
    )]
    TooManyReserved { lowest: u64 },
    #[error("there is no id above {ID_MAX}; give one that is free")]
    Exhausted,
}

/// The result of applying a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The result of a blank or membership entry.
    Nothing,
    /// The id of the opened session; `None` if the node is not a member.
    Session(Option<u64>),
    /// The replies, one for each command, in the order of the commands.
    Replies(Vec<NumberedReply>),
    /// The assigned node id, or the reason for the refusal.
    Id(Result<u64, IdRefusal>),
}

/// The result of a numbered command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NumberedReply {
    /// The command was executed, now or when it first arrived.
    Applied(Reply),
    /// The session is unknown or was replaced. The command was not executed now.
    SessionExpired,
    /// The node has acknowledged the final reply. The command was not executed now.
    Stale,
    /// Too many unacknowledged numbers precede this one. The command was not executed.
    BeyondWindow,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenSession { node, .. } => write!(f, "open session of node {node}"),
            Self::Commands(list) => write!(f, "{} commands", list.len()),
            Self::TakeId { wanted, .. } => write!(f, "take node id {wanted:?}"),
        }
    }
}
