//! The openraft types, named once.
//!
//! Nothing here is part of a disk or wire format: [`crate::codec`] has structures of its own for those.

use std::fmt;
use std::sync::Arc;

use openraft::{EntryPayload, OptionalSend, RaftTypeConfig, TokioRuntime};
use serde::{Deserialize, Serialize};

use hearth_storage::{Command, Reply};

use crate::store::node_ids::IdRefusal;

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

pub(crate) type Raft = openraft::Raft<TypeConfig, crate::store::state_machine::StateMachine>;
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
