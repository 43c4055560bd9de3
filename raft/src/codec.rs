//! The bytes of what Raft keeps: log entries, votes, log ids, memberships, and who a folder belongs to.
//!
//! ```text
//! 0      layout version, u8: 1
//! 1..    one of the structures below, in bincode 2's standard configuration:
//!        integers as variable-length little-endian, lengths and enum tags as integers,
//!        fields in the order of their declaration
//! ```
//! There is no checksum here: storage seals each of these records with a CRC-32 that covers the
//! version too, so every byte that a disk gives back has been checked before it comes here. The
//! structures are ours, not openraft's, whose own serialisation may change with each release.
//!
//! | version | written by |
//! |---|---|
//! | 1 | 0.1 |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::type_config::{
    LeaderId, LogEntry, LogId, Member, Membership, NumberedCommand, Payload, Proposal,
    StoredMembership, Vote,
};

/// The layout that this version writes, and the only one that it reads.
const VERSION: u8 = 1;

/// A record may not make us allocate more than this. A log entry holds at least one command, which
/// came in one message of at most 64 MiB.
const DECODED_LEN_MAX: usize = 256 << 20;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is unreadable: {reason}")]
pub(crate) struct CodecError {
    what: &'static str,
    reason: String,
}

impl CodecError {
    /// `what` is unreadable because of `reason`.
    pub(crate) fn new(what: &'static str, reason: impl Into<String>) -> Self {
        Self {
            what,
            reason: reason.into(),
        }
    }
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

impl From<CodecError> for hearth_storage::StoreError {
    fn from(error: CodecError) -> Self {
        Self::corrupt(error.what, error.reason)
    }
}

#[derive(Serialize)]
struct LogEntryOut<'a> {
    term: u64,
    leader: u64,
    index: u64,
    payload: PayloadOut<'a>,
}

/// The same layout as [`PayloadIn`], without owning what is written.
#[derive(Serialize)]
enum PayloadOut<'a> {
    Blank,
    Membership(MembershipRecord),
    OpenSession { node: u64, nonce: u64 },
    Commands(&'a [NumberedCommand]),
}

#[derive(Deserialize)]
struct LogEntryIn {
    term: u64,
    leader: u64,
    index: u64,
    payload: PayloadIn,
}

#[derive(Deserialize)]
enum PayloadIn {
    Blank,
    Membership(MembershipRecord),
    OpenSession { node: u64, nonce: u64 },
    Commands(Vec<NumberedCommand>),
}

#[derive(Serialize, Deserialize)]
struct LogIdRecord {
    term: u64,
    leader: u64,
    index: u64,
}

#[derive(Serialize, Deserialize)]
struct VoteRecord {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    /// Each a set of voters; more than one during a change.
    configs: Vec<BTreeSet<u64>>,
    /// Voters and learners.
    nodes: BTreeMap<u64, Member>,
}

#[derive(Serialize, Deserialize)]
struct StoredMembershipRecord {
    log_id: Option<LogIdRecord>,
    membership: MembershipRecord,
}

/// Which cluster and node a data folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Chosen at random when the cluster is made.
    pub(crate) cluster_id: u128,
    /// Chosen by a person.
    pub(crate) cluster_name: String,
    /// Never used by another node.
    pub(crate) node_id: u64,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODED_LEN_MAX>()
}

fn encode(value: impl Serialize, len_hint: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + len_hint);
    bytes.push(VERSION);
    bincode::serde::encode_into_std_write(value, &mut bytes, config()).expect(
        "our structures have no map or sequence of unknown length, and a vector takes any bytes",
    );
    bytes
}

fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    let fail = |reason: String| CodecError { what, reason };
    let (&version, body) = bytes
        .split_first()
        .ok_or_else(|| fail("it is empty".to_owned()))?;
    if version != VERSION {
        return Err(fail(format!(
            "it has layout {version}, and this version knows {VERSION}"
        )));
    }
    let (value, used) = bincode::serde::decode_from_slice(body, config())
        .map_err(|error| fail(error.to_string()))?;
    if used != body.len() {
        return Err(fail(format!("{} bytes are left over", body.len() - used)));
    }
    Ok(value)
}

/// A log entry as it is kept.
pub(crate) fn encode_log_entry(entry: &LogEntry) -> Vec<u8> {
    let (payload, len_hint) = match &entry.payload {
        Payload::Blank => (PayloadOut::Blank, 0),
        Payload::Membership(membership) => (PayloadOut::Membership(membership.into()), 64),
        Payload::Normal(Proposal::OpenSession { node, nonce }) => {
            let (node, nonce) = (*node, *nonce);
            (PayloadOut::OpenSession { node, nonce }, 20)
        }
        Payload::Normal(Proposal::Commands(list)) => {
            let len = list.iter().map(command_len).sum();
            (PayloadOut::Commands(list), len)
        }
    };
    let out = LogEntryOut {
        term: entry.log_id.leader_id.term,
        leader: entry.log_id.leader_id.node_id,
        index: entry.log_id.index,
        payload,
    };
    encode(out, len_hint + 32)
}

/// The log entry in `bytes`, which were kept under `index`.
pub(crate) fn decode_log_entry(index: u64, bytes: &[u8]) -> Result<LogEntry, CodecError> {
    const WHAT: &str = "a log entry";
    let entry: LogEntryIn = decode(WHAT, bytes)?;
    if entry.index != index {
        return Err(CodecError {
            what: WHAT,
            reason: format!("it says that it is {}, and lay under {index}", entry.index),
        });
    }
    let payload = match entry.payload {
        PayloadIn::Blank => Payload::Blank,
        PayloadIn::Membership(record) => Payload::Membership(record.into_membership(WHAT)?),
        PayloadIn::OpenSession { node, nonce } => {
            Payload::Normal(Proposal::OpenSession { node, nonce })
        }
        PayloadIn::Commands(list) => Payload::Normal(Proposal::Commands(Arc::from(list))),
    };
    let log_id = log_id(entry.term, entry.leader, entry.index);
    Ok(LogEntry { log_id, payload })
}

/// About how many bytes a command takes in a log entry; never less than half of it.
pub(crate) fn command_len(numbered: &NumberedCommand) -> usize {
    use hearth_storage::Command;
    let texts = match &numbered.command {
        Command::Register {
            name, uri, tags, ..
        } => name.len() + uri.len() + tags.iter().map(|tag| tag.len() + 3).sum::<usize>(),
        Command::SetMetadata { name, tags } => {
            name.len() + tags.iter().map(|tag| tag.len() + 3).sum::<usize>()
        }
        Command::Remove { name } => name.len(),
        Command::RemoveIf { name, uri } => name.len() + uri.len(),
        Command::RemovePrefix { prefixes } => prefixes.iter().map(|prefix| prefix.len() + 3).sum(),
        Command::RemoveRegex { pattern } => pattern.len(),
    };
    texts + 32
}

/// A vote as it is kept.
pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    let record = VoteRecord {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    };
    encode(record, 24)
}

/// The vote in `bytes`.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let record: VoteRecord = decode("the vote", bytes)?;
    Ok(if record.committed {
        Vote::new_committed(record.term, record.node)
    } else {
        Vote::new(record.term, record.node)
    })
}

/// A log id as it is kept.
pub(crate) fn encode_log_id(id: &LogId) -> Vec<u8> {
    encode(LogIdRecord::from(id), 32)
}

/// The log id in `bytes`.
pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    decode::<LogIdRecord>("a log id", bytes).map(LogId::from)
}

/// A membership and where it came from, as they are kept.
pub(crate) fn encode_membership(stored: &StoredMembership) -> Vec<u8> {
    let record = StoredMembershipRecord {
        log_id: stored.log_id().as_ref().map(LogIdRecord::from),
        membership: stored.membership().into(),
    };
    encode(record, 128)
}

/// The membership in `bytes`.
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    const WHAT: &str = "the membership";
    let record: StoredMembershipRecord = decode(WHAT, bytes)?;
    Ok(StoredMembership::new(
        record.log_id.map(LogId::from),
        record.membership.into_membership(WHAT)?,
    ))
}

/// An identity as it is kept.
pub(crate) fn encode_identity(identity: &Identity) -> Vec<u8> {
    encode(identity, 64)
}

/// The identity in `bytes`.
pub(crate) fn decode_identity(bytes: &[u8]) -> Result<Identity, CodecError> {
    decode("the identity of the data folder", bytes)
}

/// For records whose layout another module declares.
pub(crate) fn encode_record(value: impl Serialize) -> Vec<u8> {
    encode(value, 64)
}

/// The record in `bytes`; `what` names it in an error.
pub(crate) fn decode_record<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CodecError> {
    decode(what, bytes)
}

/// A log id from its parts.
pub(crate) fn log_id(term: u64, leader: u64, index: u64) -> LogId {
    let leader = LeaderId {
        term,
        node_id: leader,
    };
    LogId::new(leader, index)
}

impl From<&LogId> for LogIdRecord {
    fn from(id: &LogId) -> Self {
        Self {
            term: id.leader_id.term,
            leader: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> Self {
        log_id(record.term, record.leader, record.index)
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().clone(),
            nodes: membership
                .nodes()
                .map(|(&id, member)| (id, member.clone()))
                .collect(),
        }
    }
}

impl MembershipRecord {
    fn into_membership(self, what: &'static str) -> Result<Membership, CodecError> {
        Membership::new(self.configs, self.nodes).map_err(|error| CodecError {
            what,
            reason: error.to_string(),
        })
    }
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod tests;
