//! Exactly-once commands: sessions record which numbered commands were executed, and their replies.
//!
//! Each node writes in a session of its own. It numbers its commands from 1 and has up to [`WINDOW`] of them
//! under way, in any order. Each command carries `acked_upto`, the number up to which the node has all final
//! replies. The state machine keeps the reply of every command above that number, so that a command that
//! arrives twice is executed once and answered twice (Ongaro's dissertation, section 6.3, with a window in
//! place of one command at a time). A session ends when its node opens another one or leaves the cluster; no
//! clock is involved. There are thus at most as many sessions as members, each with at most [`WINDOW`] replies.
//!
//! All of this is a deterministic function of the log. [`Sessions`] is the copy in memory. The same state is
//! kept in the replicated extra records of the store, written in the same batch as the effects of the commands:
//!
//! | key | value |
//! |---|---|
//! | `session/` id u64 `h` | node, nonce, acked_upto |
//! | `session/` id u64 `r` index u64 | the replies that the log entry at `index` gave: (seq, reply) |
//!
//! (Integers in keys are big-endian.) A reply is thus written once and never rewritten, whatever else is under
//! way. Its record is removed when all numbers in it are acknowledged. The only exceptions are records of
//! earlier builds, whose replies included client data without a bound: they are cut when they are loaded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use hearth_storage::Reply;

use crate::codec::{self, CodecError};
use crate::defect::{self, Defect};

/// Maximum distance of a command's number above `acked_upto`. All nodes must agree on it: it is part of the
/// log's meaning.
pub(crate) const WINDOW: u64 = 4096;

/// Prefix of the keys of all session records.
pub(crate) const KEY_PREFIX: &[u8] = b"session/";

const HEAD: u8 = b'h';
const REPLIES: u8 = b'r';

/// The decision about a numbered command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The command is new: execute it and call [`Sessions::executed`].
    Execute,
    /// The command was executed before, with this reply.
    Repeat(Reply),
    /// The session is unknown, or was replaced.
    SessionExpired,
    /// The node has acknowledged the final reply of this number.
    Stale,
    /// The number is more than [`WINDOW`] above `acked_upto`.
    BeyondWindow,
}

/// A change of one extra record: its key, and the new value or `None` to remove it.
pub(crate) type RecordChange = (Vec<u8>, Option<Vec<u8>>);

/// All open sessions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    sessions: BTreeMap<u64, Session>,
    /// Changes of records since the last [`Self::finish_entry`].
    pending: Vec<RecordChange>,
    /// Sessions whose head record has changed since then.
    touched: BTreeSet<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Session {
    node: u64,
    nonce: u64,
    /// The highest number up to which all commands have had their final reply.
    acked_upto: u64,
    /// The replies to `acked_upto + 1`, `acked_upto + 2`, …; `None` for a number that was not executed. The
    /// last element is never `None`.
    replies: VecDeque<Option<Reply>>,
    /// The reply records of the session: the index of the log entry and the highest number in its record, in
    /// the order of the log.
    blocks: BTreeMap<u64, u64>,
    /// The numbers that the current log entry has executed, with their replies.
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
    /// Opens a session for `node`, with `index` as its id, and returns the id. If the node's session was opened
    /// with the same nonce, returns that session's id: a proposal that was sent twice opens one session.
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

    /// Decides about a command, and records the node's `acked_upto`.
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

    /// Records the reply of a command that [`Self::admit`] decided to execute.
    pub(crate) fn executed(&mut self, id: u64, seq: u64, reply: Reply) {
        let session = self
            .sessions
            .get_mut(&id)
            .expect("admit has found the session, and nothing closes one in between");
        session.put(seq, reply.clone());
        session.block.push((seq, reply));
        self.touched.insert(id);
    }

    /// Closes the sessions of nodes that are no longer members.
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

    /// Returns the record changes of the log entry at `index`, in the order in which to write them. Must be
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

    /// Restores the sessions from their records: all records whose keys start with [`KEY_PREFIX`], in any
    /// order.
    ///
    /// # Errors
    /// [`CodecError`] if the records are not those that [`Self::finish_entry`] returned.
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
                // The record changes with the next log entry, as on every other node that was upgraded from
                // such a build.
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

    /// Returns the number of sessions.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }
}

/// Cuts the replies to the length that this build keeps. Returns true if any reply was cut.
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
