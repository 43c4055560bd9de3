//! What a cluster is to the rest of a node: how one is founded or joined, its members, and the
//! operations on them. The work behind it is in `birth` and `membership`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a member is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It leads.
    Leader,
    /// A voter that follows.
    Follower,
    /// It has no vote.
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

/// A member as the membership has it, without asking it anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// Its number.
    pub id: u64,
    /// `HOST:PORT` for the other nodes.
    pub peer_addr: String,
    /// Whether it votes.
    pub voter: bool,
    /// A learner that will become a voter when it has caught up.
    pub promotes_itself: bool,
}

/// What a node tells of itself when it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its number.
    pub id: u64,
    /// `HOST:PORT` for clients.
    pub ns_addr: String,
    /// What it is.
    pub role: Role,
    /// Whom it takes for the leader.
    pub leader: Option<u64>,
    /// Its term.
    pub term: u64,
    /// Index of the last entry of its log.
    pub last_log_index: u64,
    /// Index of the last entry that it has applied.
    pub last_applied: u64,
    /// Hash of the state at exactly `last_applied`: equal on all nodes where that is equal.
    pub state_hash: String,
    /// Names that are registered.
    pub name_count: u64,
    /// Index of the last entry that a snapshot covers.
    pub snapshot_index: Option<u64>,
    /// Index of the last entry that was dropped from the log.
    pub purged_index: Option<u64>,
    /// Version of the program.
    pub version: String,
    /// Bytes free where the data is, if it is on a disk.
    pub disk_free: Option<u64>,
    /// What a person should look at, as sentences.
    pub alarms: Vec<String>,
    /// Whether it could serve linearizable reads and writes now.
    pub ready: bool,
}

/// A member and what it told, if it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The member.
    pub member: MemberInfo,
    /// What it said.
    pub report: Option<NodeReport>,
    /// Why there is no report.
    pub unreachable: Option<String>,
    /// As the leader sees it: entries that it has not been known to have.
    pub lag: Option<u64>,
}

/// All members, as one node sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Name of the cluster.
    pub cluster_name: String,
    /// Its identity, 32 hexadecimal digits.
    pub cluster_id: String,
    /// The node that was asked.
    pub answered_by: u64,
    /// The leader that it knows.
    pub leader: Option<u64>,
    /// Its term.
    pub term: u64,
    /// In the order of their numbers.
    pub members: Vec<MemberStatus>,
    /// What a person should look at that is not one node's own, as sentences.
    pub alarms: Vec<String>,
}

/// An operation on the cluster's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterChange {
    /// Reserve a number for a node that will join. `None`: the next free one.
    Reserve {
        /// The number that is wanted.
        id: Option<u64>,
    },
    /// Make a learner a voter.
    Promote {
        /// Its number.
        id: u64,
    },
    /// Take a member out for ever.
    Remove {
        /// Its number.
        #[serde(with = "with_unused_flag")]
        id: u64,
    },
    /// Hand leadership over. `None`: to the voter that is furthest.
    TransferLeader {
        /// The next leader.
        to: Option<u64>,
    },
}

/// Between nodes a flag follows the id of a removal. It is written as false and not looked at: a removal
/// without a majority, for which it stood, cannot be committed.
mod with_unused_flag {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        (id, false).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        <(u64, bool)>::deserialize(from).map(|(id, _)| id)
    }
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterReply {
    /// The number is reserved.
    Reserved(u64),
    /// Done.
    Done,
    /// This node leads now.
    LeaderIs(u64),
}

/// Why an operation on the cluster was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// It would be unsafe, or makes no sense; the text names the value and the way out.
    #[error("{0}")]
    Refused(String),
    /// No such member.
    #[error("no member has the number {0}")]
    UnknownMember(u64),
    /// No majority could be reached in time; nothing was changed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// It was begun and may still be done.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// This node is its own cluster and has no peer port.
    #[error(
        "this node runs alone; start it with --initial-cluster or --join to make it part of a cluster"
    )]
    Alone,
}
