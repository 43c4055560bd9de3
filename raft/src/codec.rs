//! The encoding of the records that Raft stores: log entries, votes, log ids, memberships, and the owner of a
//! data directory.
//!
//! ```text
//! 0      layout version, u8: 2, or 1
//! 1..    one of the structures below, in bincode 2's standard configuration:
//!        integers as variable-length little-endian, lengths and enum tags as integers,
//!        fields in the order of their declaration
//! ```
//! These records have no checksum of their own. Storage seals each of them with a CRC-32 that covers the
//! version too, so all bytes from a disk have been checked before they are decoded here. The structures are
//! declared here and not taken from openraft, whose own serialisation may change with each release.
//!
//! | version | written by |
//! |---|---|
//! | 1 | builds for one node: a member had two addresses, both empty |
//! | 2 | 0.1 |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use hearth_storage::Command;

use crate::types::{
    LeaderId, LogEntry, LogId, Member, Membership, NumberedCommand, Payload, Proposal,
    StoredMembership, Vote,
};

/// The layout that this version writes.
const VERSION: u8 = 2;

/// The oldest layout that this version reads. Only members and identities differ in it.
const VERSION_MIN: u8 = 1;

/// Maximum number of bytes that bincode counts for one encoded byte when it adds up the memory of a record: an
/// integer or enum tag of one byte may stand for a `u128`.
const DECODED_GROWTH_MAX: usize = 16;

/// An error in bytes that should hold a record or a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is unreadable: {reason}")]
pub(crate) struct CodecError {
    what: &'static str,
    reason: String,
}

impl CodecError {
    /// Creates the error that `what` is unreadable because of `reason`.
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

/// The counterpart of [`PayloadIn`] for writing. It has the same layout and borrows its list.
#[derive(Serialize)]
enum PayloadOut<'a> {
    Blank,
    Membership(MembershipRecord),
    OpenSession {
        node: u64,
        nonce: u64,
    },
    Commands(&'a [NumberedCommand]),
    TakeId {
        wanted: Option<u64>,
        holder: Option<u128>,
    },
}

/// A log entry as it is read. `M` is the membership in the layout's version.
#[derive(Deserialize)]
struct LogEntryIn<M> {
    term: u64,
    leader: u64,
    index: u64,
    payload: PayloadIn<M>,
}

#[derive(Deserialize)]
enum PayloadIn<M> {
    Blank,
    Membership(M),
    OpenSession {
        node: u64,
        nonce: u64,
    },
    Commands(Vec<NumberedCommand>),
    TakeId {
        wanted: Option<u64>,
        holder: Option<u128>,
    },
}

/// A log id on disk and in peer messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogIdRecord {
    term: u64,
    leader: u64,
    index: u64,
}

/// A vote on disk and in peer messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteRecord {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Serialize, Deserialize)]
struct MembershipRecord {
    /// The sets of voters: one, or more during a joint membership.
    configs: Vec<BTreeSet<u64>>,
    /// All members by node id, voters and learners.
    nodes: BTreeMap<u64, Member>,
}

/// [`MembershipRecord`] in layout 1.
#[derive(Deserialize)]
struct MembershipRecord1 {
    configs: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, (String, String)>,
}

impl From<MembershipRecord1> for MembershipRecord {
    fn from(record: MembershipRecord1) -> Self {
        let member = |(peer_addr, _): (String, String)| Member {
            peer_addr,
            ..Member::default()
        };
        let nodes = record.nodes.into_iter();
        Self {
            configs: record.configs,
            nodes: nodes.map(|(id, addrs)| (id, member(addrs))).collect(),
        }
    }
}

/// A membership with the log id of its entry. `M` is the membership in the layout's version.
#[derive(Serialize, Deserialize)]
struct StoredMembershipRecord<M> {
    log_id: Option<LogIdRecord>,
    membership: M,
}

/// The cluster and the node that a data directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Generated at random when the cluster is bootstrapped.
    pub(crate) cluster_id: u128,
    /// Chosen by an operator.
    pub(crate) cluster_name: String,
    /// The node's id. No other node of the cluster ever gets it.
    pub(crate) node_id: u64,
    /// Generated at random when the data directory is created, so that a node with an emptied directory does
    /// not count as the same node.
    pub(crate) incarnation: u128,
}

/// The owner of a data directory. (In layout 1 this is an identity without incarnation, which stands for
/// [`Self::Member`].)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FolderRecord {
    /// No cluster yet: the node will bootstrap or join one.
    Blank {
        /// The incarnation of the later [`Identity`].
        incarnation: u128,
    },
    /// A founder that knows its cluster. Its log may still be empty.
    Founder {
        /// The founder's identity.
        identity: Identity,
        /// All founders by node id, including this one.
        founders: BTreeMap<u64, Member>,
    },
    /// A member of a cluster.
    Member(Identity),
    /// A member that the cluster has removed.
    Removed {
        /// The former identity.
        identity: Identity,
        /// The reason, for operators.
        reason: String,
    },
}

impl FolderRecord {
    /// Returns the identity, present or former. `None` for a blank data directory.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Blank { .. } => None,
            Self::Founder { identity, .. }
            | Self::Member(identity)
            | Self::Removed { identity, .. } => Some(identity),
        }
    }
}

/// [`Identity`] in layout 1.
#[derive(Deserialize)]
struct Identity1 {
    cluster_id: u128,
    cluster_name: String,
    node_id: u64,
}

/// Returns the configuration for writing. Reading uses the same one, with the limit of [`decode_within`] in
/// addition, which never refuses a record that was written here.
fn config() -> impl bincode::config::Config {
    bincode::config::standard()
}

/// Decodes the value at the start of `body`, and returns it with the number of bytes that it took. Limits the
/// memory that a record can claim, whatever lengths it holds: up to [`DECODED_GROWTH_MAX`] times its own
/// length, rounded up to one of a few limits because bincode's limits are constants.
fn decode_within<T: DeserializeOwned>(
    body: &[u8],
) -> Result<(T, usize), bincode::error::DecodeError> {
    const SMALL: usize = 1 << 20;
    const MEDIUM: usize = 64 << 20;
    const LARGE: usize = 2 << 30;
    const HUGE: usize = LARGE.saturating_mul(64);
    fn within<T: DeserializeOwned, const LIMIT: usize>(
        body: &[u8],
    ) -> Result<(T, usize), bincode::error::DecodeError> {
        bincode::serde::decode_from_slice(body, bincode::config::standard().with_limit::<LIMIT>())
    }
    let needed = body.len().saturating_mul(DECODED_GROWTH_MAX);
    if needed <= SMALL {
        within::<T, SMALL>(body)
    } else if needed <= MEDIUM {
        within::<T, MEDIUM>(body)
    } else if needed <= LARGE {
        within::<T, LARGE>(body)
    } else {
        // A database holds no record of more than 4 GiB, and peer messages are far shorter.
        within::<T, HUGE>(body)
    }
}

fn encode(value: impl Serialize, len_hint: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + len_hint);
    bytes.push(VERSION);
    bincode::serde::encode_into_std_write(value, &mut bytes, config()).expect(
        "our structures have no map or sequence of unknown length, and a vector takes any bytes",
    );
    bytes
}

/// Splits `bytes` into the version and the rest. Refuses a version that cannot be read.
fn split_version<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(u8, &'a [u8]), CodecError> {
    let fail = |reason: String| CodecError { what, reason };
    let (&version, body) = bytes
        .split_first()
        .ok_or_else(|| fail("it is empty".to_owned()))?;
    if !(VERSION_MIN..=VERSION).contains(&version) {
        return Err(fail(format!(
            "it has layout {version}, and this version knows {VERSION_MIN} to {VERSION}"
        )));
    }
    Ok((version, body))
}

/// Decodes a record whose layout is the same in all versions.
fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    let (_, body) = split_version(what, bytes)?;
    decode_body(what, body)
}

fn decode_body<T: DeserializeOwned>(what: &'static str, body: &[u8]) -> Result<T, CodecError> {
    let fail = |reason: String| CodecError { what, reason };
    let (value, used) = decode_within(body).map_err(|error| fail(error.to_string()))?;
    if used != body.len() {
        return Err(fail(format!("{} bytes are left over", body.len() - used)));
    }
    Ok(value)
}

/// Returns a log entry as it is stored.
pub(crate) fn encode_log_entry(entry: &LogEntry) -> Vec<u8> {
    let (payload, len_hint) = match &entry.payload {
        Payload::Blank => (PayloadOut::Blank, 0),
        Payload::Membership(membership) => (PayloadOut::Membership(membership.into()), 64),
        Payload::Normal(Proposal::OpenSession { node, nonce }) => {
            let (node, nonce) = (*node, *nonce);
            (PayloadOut::OpenSession { node, nonce }, 20)
        }
        Payload::Normal(Proposal::Commands(list)) => {
            let len = list.iter().map(numbered_len).sum();
            (PayloadOut::Commands(list), len)
        }
        Payload::Normal(Proposal::TakeId { wanted, holder }) => {
            let (wanted, holder) = (*wanted, *holder);
            (PayloadOut::TakeId { wanted, holder }, 32)
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

const LOG_ENTRY: &str = "a log entry";

/// Decodes the log entry that was stored under `index`.
///
/// # Errors
/// [`CodecError`] if `bytes` are not a log entry, or hold another index.
pub(crate) fn decode_log_entry(index: u64, bytes: &[u8]) -> Result<LogEntry, CodecError> {
    match split_version(LOG_ENTRY, bytes)? {
        (1, body) => read_log_entry(
            index,
            decode_body::<LogEntryIn<MembershipRecord1>>(LOG_ENTRY, body)?,
        ),
        (_, body) => read_log_entry(
            index,
            decode_body::<LogEntryIn<MembershipRecord>>(LOG_ENTRY, body)?,
        ),
    }
}

fn read_log_entry<M: Into<MembershipRecord>>(
    index: u64,
    entry: LogEntryIn<M>,
) -> Result<LogEntry, CodecError> {
    if entry.index != index {
        return Err(CodecError {
            what: LOG_ENTRY,
            reason: format!("it says that it is {}, and lay under {index}", entry.index),
        });
    }
    let payload = match entry.payload {
        PayloadIn::Blank => Payload::Blank,
        PayloadIn::Membership(record) => {
            Payload::Membership(record.into().into_membership(LOG_ENTRY)?)
        }
        PayloadIn::OpenSession { node, nonce } => {
            Payload::Normal(Proposal::OpenSession { node, nonce })
        }
        PayloadIn::Commands(list) => Payload::Normal(Proposal::Commands(Arc::from(list))),
        PayloadIn::TakeId { wanted, holder } => {
            Payload::Normal(Proposal::TakeId { wanted, holder })
        }
    };
    let log_id = log_id(entry.term, entry.leader, entry.index);
    Ok(LogEntry { log_id, payload })
}

/// Returns an upper bound, close to the true value, of the bytes that a command takes in a log entry with its
/// number.
pub(crate) fn numbered_len(numbered: &NumberedCommand) -> usize {
    command_len(&numbered.command) + NUMBER_LEN_MAX
}

/// Maximum number of bytes of a command's number (session, sequence number, acknowledged number): three
/// integers of at most nine bytes.
pub(crate) const NUMBER_LEN_MAX: usize = 27;

/// Returns [`numbered_len`] without the number.
pub(crate) fn command_len(command: &Command) -> usize {
    let texts = match command {
        Command::Register {
            name, uri, tags, ..
        } => text_len(name) + text_len(uri) + texts_len(tags),
        Command::SetMetadata { name, tags } => text_len(name) + texts_len(tags),
        Command::Remove { name } => text_len(name),
        Command::RemoveIf { name, uri } => text_len(name) + text_len(uri),
        Command::RemovePrefix { prefixes } => texts_len(prefixes),
        Command::RemoveRegex { pattern } => text_len(pattern),
        Command::UseRules { .. } => 5,
        Command::RemoveIfUnchanged { name, .. } => text_len(name) + REVISION_LEN_MAX,
        Command::RemoveListed { names, prefix, .. } => {
            texts_len(names) + text_len(prefix) + REVISION_LEN_MAX
        }
    };
    // At most two enum tags, of one byte each.
    texts + 2
}

/// Maximum number of bytes of a revision: two integers, of at most nine and five bytes.
const REVISION_LEN_MAX: usize = 14;

/// Returns the length of a text with its length prefix.
fn text_len(text: &str) -> usize {
    let prefix_len = match text.len() {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    };
    prefix_len + text.len()
}

/// Returns an upper bound on the length of a sequence of texts with its count.
fn texts_len<'a>(texts: impl IntoIterator<Item = &'a String>) -> usize {
    9 + texts.into_iter().map(|text| text_len(text)).sum::<usize>()
}

/// Returns a vote as it is stored.
pub(crate) fn encode_vote(vote: &Vote) -> Vec<u8> {
    encode(VoteRecord::from(vote), 24)
}

/// Decodes a stored vote.
///
/// # Errors
/// [`CodecError`].
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    decode::<VoteRecord>("the vote", bytes).map(Vote::from)
}

/// Returns a log id as it is stored.
pub(crate) fn encode_log_id(id: &LogId) -> Vec<u8> {
    encode(LogIdRecord::from(id), 32)
}

/// Decodes a stored log id.
///
/// # Errors
/// [`CodecError`].
pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    decode::<LogIdRecord>("a log id", bytes).map(LogId::from)
}

/// Returns a membership, with the log id of its entry, as it is stored.
pub(crate) fn encode_membership(stored: &StoredMembership) -> Vec<u8> {
    let record = StoredMembershipRecord {
        log_id: stored.log_id().as_ref().map(LogIdRecord::from),
        membership: MembershipRecord::from(stored.membership()),
    };
    encode(record, 128)
}

/// Decodes a stored membership.
///
/// # Errors
/// [`CodecError`].
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<StoredMembership, CodecError> {
    const WHAT: &str = "the membership";
    type Stored<M> = StoredMembershipRecord<M>;
    let record = match split_version(WHAT, bytes)? {
        (1, body) => {
            let old: Stored<MembershipRecord1> = decode_body(WHAT, body)?;
            Stored {
                log_id: old.log_id,
                membership: MembershipRecord::from(old.membership),
            }
        }
        (_, body) => decode_body::<Stored<MembershipRecord>>(WHAT, body)?,
    };
    Ok(StoredMembership::new(
        record.log_id.map(LogId::from),
        record.membership.into_membership(WHAT)?,
    ))
}

/// Returns the owner of a data directory as it is stored.
pub(crate) fn encode_folder(record: &FolderRecord) -> Vec<u8> {
    encode(record, 64)
}

/// Decodes the owner of a data directory.
///
/// # Errors
/// [`CodecError`].
pub(crate) fn decode_folder(bytes: &[u8]) -> Result<FolderRecord, CodecError> {
    const WHAT: &str = "the record of whose the data folder is";
    match split_version(WHAT, bytes)? {
        (1, body) => {
            let old: Identity1 = decode_body(WHAT, body)?;
            Ok(FolderRecord::Member(Identity {
                cluster_id: old.cluster_id,
                cluster_name: old.cluster_name,
                node_id: old.node_id,
                incarnation: 0,
            }))
        }
        (_, body) => decode_body(WHAT, body),
    }
}

/// Returns a record, whose layout another module declares, as it is stored.
pub(crate) fn encode_record(value: impl Serialize) -> Vec<u8> {
    encode(value, 64)
}

/// Decodes a record of [`encode_record`]. `what` names it in an error.
///
/// # Errors
/// [`CodecError`].
pub(crate) fn decode_record<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CodecError> {
    decode(what, bytes)
}

/// Appends a peer message to `out`. It has no version because the handshake has negotiated one.
pub(crate) fn encode_message(message: &impl Serialize, out: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(message, out, config()).expect(
        "our structures have no map or sequence of unknown length, and a vector takes any bytes",
    );
}

/// Decodes a peer message. `what` names it in an error.
///
/// # Errors
/// [`CodecError`].
pub(crate) fn decode_message<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CodecError> {
    decode_body(what, bytes)
}

/// Decodes the message at the start of `bytes`. Ignores the rest, in which a later version may say more.
///
/// # Errors
/// [`CodecError`].
pub(crate) fn decode_beginning<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, CodecError> {
    let decoded = decode_within(bytes);
    let (value, _) = decoded.map_err(|error| CodecError::new(what, error.to_string()))?;
    Ok(value)
}

/// Creates a log id from its parts.
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

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Self {
        if record.committed {
            Self::new_committed(record.term, record.node)
        } else {
            Self::new(record.term, record.node)
        }
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
#[path = "tests/codec.rs"]
mod tests;
