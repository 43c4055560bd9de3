//! Making a node the only voter of a new cluster.

use std::collections::BTreeMap;

use hearth_storage::{LogHome, Registry, StoreError};

use crate::codec::{self, FolderRecord, Identity};
use crate::store::snapshot::{MEMBERSHIP, Position};
use crate::types::{
    LeaderId, LogEntry, LogId, Member, Membership, Payload, StoredMembership, Vote,
};

/// Bytes of log entries that are in memory at once while the log is read.
const READ_LEN_MAX: u64 = 2 << 20;

/// The membership that is in force: the last one in the log, or else the applied one.
pub(crate) fn last_membership(
    log: &LogHome,
    position: &Position,
) -> Result<Membership, StoreError> {
    let mut found = position.membership.membership().clone();
    let mut next = position.last_applied.map_or(0, |applied| applied.index + 1);
    loop {
        let entries = log.read_limited(next.., READ_LEN_MAX)?;
        let Some(&(last, _)) = entries.last() else {
            return Ok(found);
        };
        for (index, bytes) in &entries {
            let entry = codec::decode_log_entry(*index, bytes)?;
            if let Payload::Membership(membership) = entry.payload {
                found = membership;
            }
        }
        next = last + 1;
    }
}

/// Where the log of a folder stands.
pub(super) struct LogEnd {
    /// The last entry, or the last that was purged.
    pub(super) last: Option<LogId>,
    pub(super) vote: Option<Vote>,
}

impl LogEnd {
    pub(super) fn read(log: &LogHome) -> Result<Self, StoreError> {
        let last = match log.last_index() {
            Some(index) => match log.read(index..=index)?.pop() {
                Some((_, bytes)) => Some(codec::decode_log_entry(index, &bytes)?.log_id),
                None => None,
            },
            None => match log.last_purged()? {
                Some((_, record)) => Some(codec::decode_log_id(&record)?),
                None => None,
            },
        };
        let vote = match log.vote()? {
            Some(bytes) => Some(codec::decode_vote(&bytes)?),
            None => None,
        };
        Ok(Self { last, vote })
    }
}

/// Has the folder belong to `identity`, the only member of its cluster, from now on. A log that ends before the
/// state begins behind it.
///
/// The applied membership changes as well, so that this node never finds itself among those that were removed.
/// The identity goes first: interrupted after it, the node waits for voters that will never answer it, and this
/// is done again.
pub(super) fn stand_alone(
    log: &LogHome,
    registry: &Registry,
    identity: &Identity,
    peer_addr: &str,
) -> Result<(), StoreError> {
    let me = identity.node_id;
    let member = Member {
        peer_addr: peer_addr.to_owned(),
        incarnation: identity.incarnation,
        promotes_itself: false,
    };
    let nodes: BTreeMap<u64, Member> = [(me, member)].into();
    let membership = Membership::new(vec![[me].into()], nodes)
        .map_err(|error| StoreError::corrupt("the new membership", error.to_string()))?;
    let position = Position::read(|key| registry.meta(key))?;
    let applied = position.last_applied;
    log.save_identity(&codec::encode_folder(&FolderRecord::Member(
        identity.clone(),
    )))?;
    let mut end = LogEnd::read(log)?;
    if let Some(applied) = applied.filter(|&applied| Some(applied) > end.last) {
        log.purge(applied.index, &codec::encode_log_id(&applied))?;
        end.last = Some(applied);
    }
    let last_term = end.last.map_or(0, |last| last.leader_id.term);
    let voted_term = end.vote.map_or(0, |vote| vote.leader_id.term);
    // Above everything that the old cluster has written or promised.
    let term = last_term.max(voted_term) + 1;
    log.save_vote(&codec::encode_vote(&Vote::new(term, me)))?;
    let mut change = registry.begin()?;
    let stored = StoredMembership::new(*position.membership.log_id(), membership.clone());
    change.put_meta(MEMBERSHIP, codec::encode_membership(&stored));
    registry.commit(change)?;
    let index = end.last.map_or(0, |last| last.index + 1);
    let leader_id = LeaderId { term, node_id: me };
    let entry = LogEntry {
        log_id: LogId::new(leader_id, index),
        payload: Payload::Membership(membership),
    };
    let bytes = codec::encode_log_entry(&entry);
    log.append([(index, bytes)], Box::new(|_| ()))?;
    log.sync()
}
