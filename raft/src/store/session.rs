//! Exactly-once commands: which numbered commands the state machine has executed, and what it said.
//!
//! Each node writes in a session of its own. It numbers its commands from 1, has up to [`WINDOW`] of
//! them under way, in any order, and says with each one up to which number it has all final replies
//! (`acked_upto`). The state machine keeps the reply of every command above that, so that a command that
//! comes twice is executed once and answered twice (Ongaro's dissertation, section 6.3, with a window
//! in place of one command at a time). A session ends when its node opens another one or leaves the
//! cluster; no clock is involved. So there are at most as many sessions as members, with at most
//! [`WINDOW`] replies each.
//!
//! Everything here is a function of the log. [`Sessions`] is the copy in memory; the same is kept in
//! the replicated extra records of the store, written in the batch of the commands themselves:
//!
//! | key | value |
//! |---|---|
//! | `session/` id u64 `h` | node, nonce, acked_upto |
//! | `session/` id u64 `r` index u64 | the replies that the log entry at `index` gave: (seq, reply) |
//!
//! (Integers in keys are big-endian.) A reply is thus written once and never rewritten, whatever else is
//! under way; the record goes when all its numbers are acknowledged. The exception are records of builds whose
//! replies held what clients had sent, without a bound: those are cut down when they are loaded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use hearth_storage::Reply;

use crate::codec::{self, CodecError};
use crate::defect::{self, Defect};

/// How many numbers above `acked_upto` a session takes. All nodes must agree: it is part of the log's
/// meaning.
pub(crate) const WINDOW: u64 = 4096;

/// Every session's records have keys that start with this.
pub(crate) const KEY_PREFIX: &[u8] = b"session/";

const HEAD: u8 = b'h';
const REPLIES: u8 = b'r';

/// What is to be done with a numbered command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is new: execute it and call [`Sessions::executed`].
    Execute,
    /// It was executed; this was its reply.
    Repeat(Reply),
    /// The session is not known or was replaced.
    SessionExpired,
    /// Its final reply was acknowledged.
    Stale,
    /// It is more than [`WINDOW`] above `acked_upto`.
    BeyondWindow,
}

/// An extra record to write, or to remove when the value is `None`.
pub(crate) type RecordChange = (Vec<u8>, Option<Vec<u8>>);

/// All sessions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    sessions: BTreeMap<u64, Session>,
    /// Changes of records since [`Self::finish_entry`].
    pending: Vec<RecordChange>,
    /// Sessions whose head changed since then.
    touched: BTreeSet<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Session {
    node: u64,
    nonce: u64,
    /// Highest number of which all before, and itself, have had their final reply.
    acked_upto: u64,
    /// The replies to `acked_upto + 1`, `acked_upto + 2`, … as far as they were executed; the last one
    /// is always there.
    replies: VecDeque<Option<Reply>>,
    /// The records of replies: index of the log entry → its highest number. In the order of the log.
    blocks: BTreeMap<u64, u64>,
    /// What the current log entry executed.
    block: Vec<(u64, Reply)>,
}

#[derive(Serialize, Deserialize)]
struct HeadRecord {
    node: u64,
    nonce: u64,
    acked_upto: u64,
}

impl Session {
    fn slot(&mut self, seq: u64) -> Option<&mut Option<Reply>> {
        let offset = seq.checked_sub(self.acked_upto + 1)?;
        self.replies.get_mut(usize::try_from(offset).ok()?)
    }

    fn acknowledge(&mut self, upto: u64) -> bool {
        if upto <= self.acked_upto {
            return false;
        }
        let gone = usize::try_from(upto - self.acked_upto).unwrap_or(usize::MAX);
        self.replies.drain(..gone.min(self.replies.len()));
        self.acked_upto = upto;
        true
    }

    fn put(&mut self, seq: u64, reply: Reply) {
        let offset = usize::try_from(seq - self.acked_upto - 1)
            .expect("a number that was admitted is at most WINDOW above acked_upto");
        if offset >= self.replies.len() {
            self.replies.resize(offset + 1, None);
        }
        self.replies[offset] = Some(reply);
    }
}

impl Sessions {
    /// Opens a session for `node` with `index` as its id, and returns the id. The same nonce again gives
    /// the session that it opened before: a proposal that was sent twice opens one session.
    pub(crate) fn open(&mut self, node: u64, nonce: u64, index: u64) -> u64 {
        let earlier = self
            .sessions
            .iter()
            .find(|(_, session)| session.node == node)
            .map(|(&id, session)| (id, session.nonce));
        match earlier {
            Some((id, known)) if known == nonce => return id,
            Some((id, _)) => self.close(id),
            None => {}
        }
        let session = Session {
            node,
            nonce,
            acked_upto: 0,
            replies: VecDeque::new(),
            blocks: BTreeMap::new(),
            block: Vec::new(),
        };
        self.sessions.insert(index, session);
        self.touched.insert(index);
        index
    }

    /// Decides on a command, and takes note of what the node has acknowledged.
    pub(crate) fn admit(&mut self, id: u64, seq: u64, acked_upto: u64) -> Admission {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Admission::SessionExpired;
        };
        if session.acknowledge(acked_upto) {
            self.touched.insert(id);
        }
        if seq <= session.acked_upto {
            return Admission::Stale;
        }
        if seq - session.acked_upto > WINDOW {
            return Admission::BeyondWindow;
        }
        match session.slot(seq) {
            Some(Some(_)) if defect::is(Defect::NoDeduplication) => Admission::Execute,
            Some(Some(reply)) => Admission::Repeat(reply.clone()),
            Some(None) | None => Admission::Execute,
        }
    }

    /// Keeps the reply of a command that [`Self::admit`] said to execute.
    pub(crate) fn executed(&mut self, id: u64, seq: u64, reply: Reply) {
        let session = self
            .sessions
            .get_mut(&id)
            .expect("admit has found the session, and nothing closes one in between");
        session.put(seq, reply.clone());
        session.block.push((seq, reply));
        self.touched.insert(id);
    }

    /// Closes the sessions of nodes that are no members any more.
    pub(crate) fn retain_members(&mut self, is_member: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| !is_member(session.node))
            .map(|(&id, _)| id)
            .collect();
        for id in gone {
            self.close(id);
        }
    }

    fn close(&mut self, id: u64) {
        self.touched.remove(&id);
        if let Some(session) = self.sessions.remove(&id) {
            self.pending.push((head_key(id), None));
            for &index in session.blocks.keys() {
                self.pending.push((replies_key(id, index), None));
            }
        }
    }

    /// What the log entry at `index` changed in the records, in the order in which to write it. To be
    /// called after each entry.
    pub(crate) fn finish_entry(&mut self, index: u64) -> Vec<RecordChange> {
        let mut changes = std::mem::take(&mut self.pending);
        for id in std::mem::take(&mut self.touched) {
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let block = std::mem::take(&mut session.block);
            if let Some(last) = block.iter().map(|&(seq, _)| seq).max() {
                changes.push((replies_key(id, index), Some(codec::encode_record(&block))));
                session.blocks.insert(index, last);
            }
            session.blocks.retain(|&index, &mut last| {
                let keep = last > session.acked_upto;
                if !keep {
                    changes.push((replies_key(id, index), None));
                }
                keep
            });
            let head = HeadRecord {
                node: session.node,
                nonce: session.nonce,
                acked_upto: session.acked_upto,
            };
            changes.push((head_key(id), Some(codec::encode_record(head))));
        }
        changes
    }

    /// The sessions in the records that were kept, all of those whose keys start with [`KEY_PREFIX`], in
    /// any order.
    ///
    /// # Errors
    /// [`CodecError`] when they are not what [`Self::finish_entry`] gave.
    pub(crate) fn load<'a>(
        records: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
    ) -> Result<Self, CodecError> {
        let mut sessions = Self::default();
        for (key, value) in records.clone() {
            if let Key::Head { id } = parse_key(key)? {
                let head: HeadRecord = codec::decode_record("a session", value)?;
                let session = Session {
                    node: head.node,
                    nonce: head.nonce,
                    acked_upto: head.acked_upto,
                    replies: VecDeque::new(),
                    blocks: BTreeMap::new(),
                    block: Vec::new(),
                };
                sessions.sessions.insert(id, session);
            }
        }
        for (key, value) in records {
            let Key::Replies { id, index } = parse_key(key)? else {
                continue;
            };
            let session = sessions
                .sessions
                .get_mut(&id)
                .ok_or_else(|| unreadable("its session is missing"))?;
            let mut block: Vec<(u64, Reply)> =
                codec::decode_record("the replies of a session", value)?;
            if take_out_client_data(&mut block) {
                // With the next log entry, as on every other node that comes from such a build.
                let bounded = codec::encode_record(&block);
                sessions.pending.push((key.to_vec(), Some(bounded)));
            }
            let mut last = 0;
            for (seq, reply) in block {
                last = last.max(seq);
                if seq <= session.acked_upto {
                    continue;
                }
                if seq - session.acked_upto > WINDOW {
                    return Err(unreadable("a number is beyond the window"));
                }
                session.put(seq, reply);
            }
            session.blocks.insert(index, last);
        }
        Ok(sessions)
    }

    /// Number of sessions.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }
}

/// Cuts the replies down to what this build would have kept; whether there was anything to cut.
fn take_out_client_data(block: &mut [(u64, Reply)]) -> bool {
    let mut cuts = false;
    for (_, reply) in block {
        if let Some(bounded) = reply.bounded() {
            *reply = bounded;
            cuts = true;
        }
    }
    cuts
}

enum Key {
    Head { id: u64 },
    Replies { id: u64, index: u64 },
}

fn unreadable(reason: &str) -> CodecError {
    CodecError::new("a record of a session", reason)
}

fn parse_key(key: &[u8]) -> Result<Key, CodecError> {
    let rest = key.strip_prefix(KEY_PREFIX);
    let Some((id, rest)) = rest.and_then(|rest| rest.split_first_chunk::<8>()) else {
        return Err(unreadable("its key is too short"));
    };
    let id = u64::from_be_bytes(*id);
    match rest {
        [HEAD] => Ok(Key::Head { id }),
        [REPLIES, index @ ..] => match index.try_into() {
            Ok(index) => Ok(Key::Replies {
                id,
                index: u64::from_be_bytes(index),
            }),
            Err(_) => Err(unreadable("its key has a wrong length")),
        },
        _ => Err(unreadable("its key is of no known kind")),
    }
}

fn head_key(id: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_PREFIX.len() + 9);
    key.extend_from_slice(KEY_PREFIX);
    key.extend_from_slice(&id.to_be_bytes());
    key.push(HEAD);
    key
}

fn replies_key(id: u64, index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_PREFIX.len() + 17);
    key.extend_from_slice(KEY_PREFIX);
    key.extend_from_slice(&id.to_be_bytes());
    key.push(REPLIES);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;

#[cfg(test)]
#[path = "session_model.rs"]
mod model;
