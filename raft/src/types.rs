//! The openraft types, named once.
//!
//! Nothing here is part of a disk or wire format: [`crate::codec`] has structures of its own for those.

use std::fmt;
use std::sync::Arc;

use openraft::{EntryPayload, OptionalSend, RaftTypeConfig, TokioRuntime};
use serde::{Deserialize, Serialize};

use hearth_storage::{Command, Reply};

/// The choice of types that openraft is instantiated with.
///
/// Leader ids are openraft's "advanced" ones, `(term, node)` in that order: two candidates of one term
/// do not block each other, which halves split votes among busy nodes. A log id is therefore `(term,
/// node, index)`.
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
        = openraft::impls::ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
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

/// What the membership says of a member. All of it is empty in a cluster of one that was never told its
/// addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// `HOST:PORT` for the other nodes.
    pub(crate) peer_addr: String,
    /// The random number of its data folder: a node with another one is not this member, whatever its id.
    pub(crate) incarnation: u128,
    /// A learner that becomes a voter when it has caught up.
    pub(crate) promotes_itself: bool,
}

/// What a log entry asks of the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proposal {
    /// Opens a session for a node, in place of its earlier one. The session's id is the index of this
    /// entry, so an entry opens at most one.
    OpenSession {
        /// The node that will write.
        node: u64,
        /// Chosen at random for each attempt to open a session, and kept when it is sent again.
        nonce: u64,
    },
    /// Commands in the order in which they apply.
    Commands(Arc<[NumberedCommand]>),
    /// Gives a node id away, see [`crate::store::node_ids`].
    TakeId {
        /// The one that is asked for. `None`: the next one.
        wanted: Option<u64>,
        /// The incarnation of the data folder that gets it. `None`: it is reserved.
        holder: Option<u128>,
    },
}

/// A command with the number by which the state machine knows it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NumberedCommand {
    /// The session of the node that sends it.
    pub(crate) session: u64,
    /// Its number in the session, from 1.
    pub(crate) seq: u64,
    /// Every number up to this one has had its final reply; below `seq`.
    pub(crate) acked_upto: u64,
    /// What to do.
    pub(crate) command: Command,
}

/// The highest id. Programs that read numbers as floating point ones hold it exactly.
pub(crate) const ID_MAX: u64 = 1 << 53;

/// How far above the mark an id may be: who picks numbers must not use all of them up.
pub(crate) const DISTANCE_MAX: u64 = 1000;

/// Reservations at once. Each ends when a node joins under it.
pub(crate) const RESERVED_COUNT_MAX: usize = 16;

/// Why an id is not given.
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

/// What the state machine made of a log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Of a blank or membership entry.
    Nothing,
    /// The session that was opened; `None` when the node is not a member.
    Session(Option<u64>),
    /// One for each command, in their order.
    Replies(Vec<NumberedReply>),
    /// The id that was given away.
    Id(Result<u64, IdRefusal>),
}

/// What the state machine made of a numbered command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NumberedReply {
    /// Executed, now or when it came for the first time.
    Applied(Reply),
    /// The session is not known, or another one took its place. Not executed now.
    SessionExpired,
    /// The node has said that it has the final reply. Not executed now.
    Stale,
    /// Too many unanswered numbers lie before it. Not executed.
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
