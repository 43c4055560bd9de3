//! The interface of a cluster to the rest of a node: bootstrap and join, the members, and the operations on
//! them. The implementation is in `birth` and `membership`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The present role of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The leader.
    Leader,
    /// A voter that follows a leader.
    Follower,
    /// A member without a vote.
    Learner,
    /// A voter that asks for votes.
    Candidate,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
            Self::Candidate => "candidate",
        })
    }
}

/// A member according to the membership. Known without asking that member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The node id.
    pub id: u64,
    /// The peer address, `HOST:PORT`.
    pub peer_addr: String,
    /// True if the member is a voter.
    pub voter: bool,
    /// True for a learner that becomes a voter when it has caught up.
    pub promotes_itself: bool,
}

/// The report of a node on itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node id.
    pub id: u64,
    /// `HOST:PORT` for clients.
    pub ns_addr: String,
    /// The present role of the node.
    pub role: Role,
    /// The id of the leader that the node knows, if any.
    pub leader: Option<u64>,
    /// The node's term.
    pub term: u64,
    /// Index of the last entry in the node's log.
    pub last_log_index: u64,
    /// Index of the last entry that the node has applied.
    pub last_applied: u64,
    /// Hash of the state at exactly `last_applied`, 32 hexadecimal digits. Equal on all nodes with the same
    /// `last_applied`.
    pub state_hash: String,
    /// Number of registered names.
    pub name_count: u64,
    /// Index of the last entry that a snapshot covers, if any.
    pub snapshot_index: Option<u64>,
    /// Index of the last entry that was purged from the log, if any.
    pub purged_index: Option<u64>,
    /// The version of the program.
    pub version: String,
    /// Free bytes on the disk with the data. `None` for a replica in memory.
    pub disk_free: Option<u64>,
    /// Conditions that need an operator's attention, as sentences.
    pub alarms: Vec<String>,
    /// True if the node could serve linearizable reads and writes now.
    pub ready: bool,
}

/// A member and its report, if it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The member.
    pub member: MemberInfo,
    /// The member's report.
    pub report: Option<NodeReport>,
    /// The reason why there is no report.
    pub unreachable: Option<String>,
    /// Number of log entries that the member is not known to have. A leader takes it from its replication
    /// state, any other node from the reports of the leader and the member. `None` if it is not known.
    pub lag: Option<u64>,
}

/// All members from the point of view of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The name of the cluster.
    pub cluster_name: String,
    /// The identity of the cluster, 32 hexadecimal digits.
    pub cluster_id: String,
    /// The id of the node that was asked.
    pub answered_by: u64,
    /// The id of the leader that the node knows, if any.
    pub leader: Option<u64>,
    /// The node's term.
    pub term: u64,
    /// The members in the order of their ids.
    pub members: Vec<MemberStatus>,
    /// Conditions that need an operator's attention and concern more than one node, as sentences.
    pub alarms: Vec<String>,
}

/// An operation on the cluster's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterChange {
    /// Reserves a node id for a node that will join.
    Reserve {
        /// The requested id. `None` requests the next free one.
        id: Option<u64>,
    },
    /// Makes a learner a voter.
    Promote {
        /// The node id of the learner.
        id: u64,
    },
    /// Removes a member for good.
    Remove {
        /// The node id of the member.
        #[serde(with = "with_unused_flag")]
        id: u64,
    },
    /// Hands leadership over.
    TransferLeader {
        /// The node id of the next leader. `None` selects the voter that lacks the fewest log entries.
        to: Option<u64>,
    },
}

/// The encoding of a removal between nodes: the id, followed by a flag. The flag is written as false and
/// ignored when it is read. It stood for a removal without a majority, which cannot be committed.
mod with_unused_flag {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        (id, false).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        <(u64, bool)>::deserialize(from).map(|(id, _)| id)
    }
}

/// The result of an operation on the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterReply {
    /// The reserved node id.
    Reserved(u64),
    /// The members were changed.
    Done,
    /// The id of the node that leads now.
    LeaderIs(u64),
}

/// The reason why an operation on the cluster was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The operation is unsafe or meaningless. The text names the value and the way out.
    #[error("{0}")]
    Refused(String),
    /// There is no member with this node id.
    #[error("no member has the number {0}")]
    UnknownMember(u64),
    /// No majority could be reached in time. Nothing was changed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The operation was begun and may still be done.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// This node is a single-node cluster without a peer port.
    #[error(
        "this node runs alone; start it with --initial-cluster or --join to make it part of a cluster"
    )]
    Alone,
}
