//! The requests and responses between nodes.
//!
//! These structures are the wire format (see `frame` for the version and checksum around them). A new protocol
//! version may add a variant or field at the end. It is sent to a peer only if the handshake has shown that the
//! peer knows it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::codec::{self, LogIdRecord, VoteRecord};
use crate::status::{ClusterChange, ClusterError, ClusterReply, NodeReport};
use crate::types::{Member, NumberedCommand, NumberedReply};

/// A request to another node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// AppendEntries. Each entry is encoded by [`crate::codec::encode_log_entry`].
    Append {
        vote: VoteRecord,
        prev_log_id: Option<LogIdRecord>,
        entries: Vec<ByteBuf>,
        leader_commit: Option<LogIdRecord>,
    },
    /// RequestVote.
    Vote(VoteAsk),
    /// The request for a pre-vote: would the receiver grant this vote?
    PreVote(VoteAsk),
    /// TimeoutNow, sent to the next leader and to all others.
    TransferLeader {
        from_leader: VoteRecord,
        to: u64,
        last_log_id: Option<LogIdRecord>,
    },
    /// A part of InstallSnapshot.
    Snapshot(SnapshotPart),
    /// Has the receiver propose this as leader.
    Propose(ProposalRecord),
    /// Requests the index that must be applied before a read that begins now.
    ReadIndex,
    /// Requests the receiver's report on itself.
    Report,
    /// Changes the cluster. The receiver forwards it to the leader.
    Change(ClusterChange),
    /// Bootstraps a cluster with the receiver; see `birth`.
    Found(FoundAsk),
    /// Joins the cluster; see `birth`. From a node without a cluster. The receiver forwards it to the leader.
    Join(JoinAsk),
    /// Requests the receiver's disk status. Sent by the leader, with its own status and the commands that the
    /// cluster accepts from clients.
    Disk(DiskNews),
    /// [`Self::ReadIndex`] with the vote of the requesting node when its read had begun. Counts as that node's
    /// heartbeat acknowledgement if the receiver leads in the same vote. Protocol version 2; the response is
    /// the same.
    AcknowledgedReadIndex(VoteRecord),
}

/// A response. Each variant answers the request of the same name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Response {
    /// The node cannot answer, because it is starting or stopping or has too many requests. Nothing was done.
    Unavailable(String),
    Append(AppendAnswer),
    Vote(VoteAnswer),
    PreVote(VoteAnswer),
    TransferLeader(Result<(), String>),
    Snapshot(SnapshotAnswer),
    Propose(ProposeAnswer),
    ReadIndex(ReadIndexAnswer),
    Report(Box<NodeReport>),
    Change(Result<ClusterReply, ClusterError>),
    Found(FoundAnswer),
    Join(JoinAnswer),
    Disk(DiskNews),
}

/// Length in bytes of a message without long fields, approximately.
const LEN_HINT: usize = 64;

impl Request {
    /// Returns the approximate length in bytes of the encoded response.
    pub(crate) fn len_hint(&self) -> usize {
        LEN_HINT
            + match self {
                Self::Append { entries, .. } => entries.iter().map(|entry| entry.len() + 5).sum(),
                Self::Snapshot(SnapshotPart::Chunk { bytes, .. }) => bytes.len(),
                Self::Propose(ProposalRecord::Commands { list, .. }) => {
                    list.iter().map(codec::numbered_len).sum()
                }
                _ => LEN_HINT,
            }
    }
}

impl Response {
    /// Returns the approximate length in bytes of the encoded response.
    pub(crate) fn len_hint(&self) -> usize {
        match self {
            Self::Propose(ProposeAnswer::Replies { replies, .. }) => {
                LEN_HINT + replies.len() * LEN_HINT
            }
            _ => LEN_HINT,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VoteAsk {
    pub(crate) vote: VoteRecord,
    pub(crate) last_log_id: Option<LogIdRecord>,
    pub(crate) leadership_transfer: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VoteAnswer {
    pub(crate) vote: VoteRecord,
    pub(crate) vote_granted: bool,
    pub(crate) last_log_id: Option<LogIdRecord>,
}

/// The result of AppendEntries, as openraft's `AppendEntriesResponse`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum AppendAnswer {
    Success,
    PartialSuccess(Option<LogIdRecord>),
    Conflict,
    HigherVote(VoteRecord),
    /// The receiver's Raft has stopped.
    Stopped(String),
}

/// A part of a snapshot that is being sent. Chunks are those of [`hearth_storage::StateSnapshot::chunks`]. The
/// receiver keeps the chunks that it has of a snapshot (identified by `last_log_id` and its sender), so that a
/// sender whose connection broke can resume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum SnapshotPart {
    /// Begins or resumes a transfer. The answer says which chunk is wanted next.
    Begin {
        vote: VoteRecord,
        last_log_id: Option<LogIdRecord>,
        /// Encoded by [`crate::codec::encode_membership`].
        #[serde(with = "serde_bytes")]
        membership: Vec<u8>,
        /// Encoded by [`hearth_storage::SnapshotHeader::encode`].
        #[serde(with = "serde_bytes")]
        header: Vec<u8>,
    },
    /// The chunk with this number, from 0.
    Chunk {
        vote: VoteRecord,
        last_log_id: Option<LogIdRecord>,
        number: u64,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// All chunks were sent; the receiver is to install the snapshot.
    Finish {
        vote: VoteRecord,
        last_log_id: Option<LogIdRecord>,
        chunk_count: u64,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum SnapshotAnswer {
    /// The receiver wants the chunk with this number next.
    Want(u64),
    /// The snapshot is installed or was not needed. Contains the receiver's vote.
    Done(VoteRecord),
    /// The receiver has a higher vote.
    HigherVote(VoteRecord),
    /// The sender must begin again: the receiver does not know this snapshot (any more), or it was invalid.
    Restart(String),
    /// The snapshot cannot be taken now, for example because of a full disk; the sender is to try later.
    Refused(String),
}

/// A proposal as it is sent to the leader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ProposalRecord {
    OpenSession {
        node: u64,
        nonce: u64,
    },
    Commands {
        /// True if the list was proposed before and may be in some log. A full disk is then no reason to refuse
        /// it, because its sender cannot give it up.
        again: bool,
        #[serde(with = "shared_list")]
        list: Arc<[NumberedCommand]>,
    },
}

/// Serializes a list that its sender shares between several attempts.
mod shared_list {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::types::NumberedCommand;

    pub(super) fn serialize<S: Serializer>(
        list: &Arc<[NumberedCommand]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        list[..].serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<[NumberedCommand]>, D::Error> {
        Vec::deserialize(deserializer).map(Arc::from)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ProposeAnswer {
    /// The session was opened by the entry at `index`; `id` is `None` if the node is not a member.
    Session { index: u64, id: Option<u64> },
    /// The commands were applied by the entry at `index`; one reply for each command.
    Replies {
        index: u64,
        replies: Vec<NumberedReply>,
    },
    /// Not proposed: the receiver does not lead, or cannot write now.
    NotProposed(String),
    /// Not proposed: a disk is full.
    DiskFull(String),
    /// The proposal may be in some log.
    Unknown(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ReadIndexAnswer {
    /// A read that began before the request was sent sees every acknowledged write once this index is applied.
    Index(u64),
    /// The receiver is not the leader.
    NotLeader { leader: Option<u64> },
    /// The receiver could not confirm that it leads.
    NoQuorum(String),
}

/// A message between founders, before there is a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FoundAsk {
    /// Asks whether the receiver's data directory is empty and its list of founders is the same.
    Probe {
        /// The id of the sender.
        from: u64,
        /// The incarnation of its data directory.
        incarnation: u128,
        founders: Vec<(u64, String)>,
    },
    /// Announces the cluster. The receiver must record it durably.
    Commit {
        cluster_id: u128,
        members: Vec<(u64, Member)>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FoundAnswer {
    /// The data directory is empty and the list is the same.
    Blank { incarnation: u128 },
    /// The receiver has recorded, now or before, that it belongs to this cluster.
    Noted { cluster_id: u128, incarnation: u128 },
    /// The receiver cannot be a founder of this cluster; the reason, for operators.
    Refused(String),
}

/// The request to join, from a node with an empty data directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinAsk {
    pub(crate) cluster_name: String,
    /// The id that the node was configured with, if any.
    pub(crate) node_id: Option<u64>,
    /// The random number of its data directory; the same when the request is sent again.
    pub(crate) incarnation: u128,
    pub(crate) peer_addr: String,
    /// True if the node is to stay a learner.
    pub(crate) learner: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum JoinAnswer {
    /// The node is a member now.
    Welcome { cluster_id: u128, node_id: u64 },
    /// The node will not become a member; the reason, for operators.
    Refused(String),
    /// The node is to ask again later.
    Later(String),
}

/// A message between nodes about their disks. A leader sends one to all members, and each answers with its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskNews {
    /// The sender's term.
    pub(crate) term: u64,
    /// The level of the sender's disk.
    pub(crate) level: Level,
    /// The problem of the sender's disk, for operators. Empty if the disk is fine.
    pub(crate) alarm: String,
    /// The decision of the leader of that term. `None` from any other node.
    pub(crate) verdict: Option<Verdict>,
}

/// The level of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Level {
    /// Enough room.
    Fine,
    /// Little room.
    Low,
    /// No room.
    Full,
}

/// The decision about which commands are taken from clients.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// All commands.
    #[default]
    Open,
    /// Only commands that make the registry smaller. Holds the reason, for operators.
    RemovalsOnly(String),
    /// No commands. Holds the reason, for operators.
    Nothing(String),
}

#[cfg(test)]
#[path = "message_test.rs"]
mod tests;
