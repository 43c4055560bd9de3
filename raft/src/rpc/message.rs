//! What nodes ask of each other, and answer.
//!
//! These structures are ours and are the wire format (see `frame` for the version and checksum around
//! them). A variant or field may be added at the end in a new protocol version, and is sent to a peer
//! only when the handshake has shown that it knows it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::codec::{self, LogIdRecord, VoteRecord};
use crate::status::{ClusterChange, ClusterError, ClusterReply, NodeReport};
use crate::types::{Member, NumberedCommand, NumberedReply};

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// AppendEntries. Each entry as [`crate::codec::encode_log_entry`] gives it.
    Append {
        vote: VoteRecord,
        prev_log_id: Option<LogIdRecord>,
        entries: Vec<ByteBuf>,
        leader_commit: Option<LogIdRecord>,
    },
    /// RequestVote.
    Vote(VoteAsk),
    /// Pre-vote: would you grant it?
    PreVote(VoteAsk),
    /// TimeoutNow, to the next leader and to all others.
    TransferLeader {
        from_leader: VoteRecord,
        to: u64,
        last_log_id: Option<LogIdRecord>,
    },
    /// A part of InstallSnapshot.
    Snapshot(SnapshotPart),
    /// Have the leader propose this.
    Propose(ProposalRecord),
    /// Which index must be applied before a read that begins now?
    ReadIndex,
    /// What do you know of yourself?
    Report,
    /// Do this; passed on to the leader.
    Change(ClusterChange),
    /// Before there is a cluster: see `birth`.
    Found(FoundAsk),
    /// From a node without a cluster: see `birth`. Passed on to the leader.
    Join(JoinAsk),
    /// How is your disk? From the leader, with what the cluster takes from clients.
    Disk(DiskNews),
    /// [`Self::ReadIndex`], from a node whose vote, when the read had begun, was this one: who gets it and
    /// leads with the same vote has that node's word for it. Protocol version 2; answered alike.
    AcknowledgedReadIndex(VoteRecord),
}

/// Each answers the request of the same name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Response {
    /// The node cannot answer (it is starting or stopping). Nothing was done.
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

/// Bytes of a message without long fields, about.
const LEN_HINT: usize = 64;

impl Request {
    /// About how many bytes it takes.
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
    /// About how many bytes it takes.
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

/// As openraft's `AppendEntriesResponse`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum AppendAnswer {
    Success,
    PartialSuccess(Option<LogIdRecord>),
    Conflict,
    HigherVote(VoteRecord),
    /// The receiver's Raft has stopped.
    Stopped(String),
}

/// A snapshot on its way. Chunks are those of [`hearth_storage::StateSnapshot::chunks`]; the receiver
/// keeps what it has of a snapshot (`last_log_id`, from one sender), so that a sender whose connection broke
/// goes on where it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum SnapshotPart {
    /// Begin, or go on: the answer says which chunk is wanted next.
    Begin {
        vote: VoteRecord,
        last_log_id: Option<LogIdRecord>,
        /// As [`crate::codec::encode_membership`] gives it.
        #[serde(with = "serde_bytes")]
        membership: Vec<u8>,
        /// As [`hearth_storage::SnapshotHeader::encode`] gives it.
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
    /// All chunks were sent: install.
    Finish {
        vote: VoteRecord,
        last_log_id: Option<LogIdRecord>,
        chunk_count: u64,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum SnapshotAnswer {
    /// Send the chunk with this number next.
    Want(u64),
    /// It is installed, or was not needed; the receiver's vote.
    Done(VoteRecord),
    /// The receiver has a higher vote.
    HigherVote(VoteRecord),
    /// Begin again: it does not know this snapshot (any more), or something was wrong with it.
    Restart(String),
    /// It cannot be taken now (a full disk): try later.
    Refused(String),
}

/// A proposal as it travels to the leader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ProposalRecord {
    OpenSession {
        node: u64,
        nonce: u64,
    },
    Commands {
        /// It was proposed before and may be in some log: a full disk is no reason to refuse it, because
        /// its sender cannot give it up.
        again: bool,
        #[serde(with = "shared_list")]
        list: Arc<[NumberedCommand]>,
    },
}

/// A list that is shared with whoever sends it again.
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
    /// Applied by the entry at `index`.
    Session { index: u64, id: Option<u64> },
    /// Applied by the entry at `index`; one reply for each command.
    Replies {
        index: u64,
        replies: Vec<NumberedReply>,
    },
    /// Not proposed: the receiver does not lead, or may not write now.
    NotProposed(String),
    /// Not proposed: a disk is full.
    DiskFull(String),
    /// It may be in some log.
    Unknown(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum ReadIndexAnswer {
    /// A read that began before the request was sent sees every acknowledged write once this is applied.
    Index(u64),
    /// The receiver is not the leader.
    NotLeader { leader: Option<u64> },
    /// It could not confirm that it leads.
    NoQuorum(String),
}

/// Between founders, before there is a cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FoundAsk {
    /// Is your folder empty, and were you given the same list?
    Probe {
        /// Who asks.
        from: u64,
        /// Of its data folder.
        incarnation: u128,
        founders: Vec<(u64, String)>,
    },
    /// This is the cluster; take note of it durably.
    Commit {
        cluster_id: u128,
        members: Vec<(u64, Member)>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FoundAnswer {
    /// The folder is empty and the list the same.
    Blank { incarnation: u128 },
    /// It has noted, now or before, that it belongs to this cluster.
    Noted { cluster_id: u128, incarnation: u128 },
    /// It cannot be a founder of this cluster; why, for a person.
    Refused(String),
}

/// From a node with an empty folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinAsk {
    pub(crate) cluster_name: String,
    /// The number that it was given, if it was.
    pub(crate) node_id: Option<u64>,
    /// Chosen at random for its data folder; the same when the request is sent again.
    pub(crate) incarnation: u128,
    pub(crate) peer_addr: String,
    /// It stays a learner.
    pub(crate) learner: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum JoinAnswer {
    /// It is a member now.
    Welcome { cluster_id: u128, node_id: u64 },
    /// It will not become one; why, for a person.
    Refused(String),
    /// Ask again later.
    Later(String),
}

/// What a node tells others about disks. A leader tells all members, and each answers with the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskNews {
    /// The sender's term.
    pub(crate) term: u64,
    /// The sender's own disk.
    pub(crate) level: Level,
    /// What is wrong with it, for a person; empty when it is fine.
    pub(crate) alarm: String,
    /// From the leader of that term: what the cluster takes from clients.
    pub(crate) verdict: Option<Verdict>,
}

/// How full a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Level {
    /// Enough room.
    Fine,
    /// Little room.
    Low,
    /// No room.
    Full,
}

/// What is taken from clients.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// Everything.
    #[default]
    Open,
    /// Only what makes the registry smaller; why, for a person.
    RemovalsOnly(String),
    /// Nothing; why, for a person.
    Nothing(String),
}

#[cfg(test)]
#[path = "message_test.rs"]
mod tests;
