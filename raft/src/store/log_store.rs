//! Raft's log and vote in storage's [`LogHome`], and what is durable when each call returns.
//!
//! | call | when it returns | durable |
//! |---|---|---|
//! | `append` | the entries can be read | when the callback runs, on the sync thread |
//! | `save_vote` | | at once |
//! | `truncate_after`, `purge` | the entries are gone | before anything that is written after them |
//!
//! All of these are writes to one write-ahead log, in the order of the calls, so a crash leaves a
//! prefix of them. The state machine writes to the same log, which is why no committed index is saved:
//! the state is never ahead of the log, and a purge is never ahead of the state that it relies on.
//!
//! The entries that were appended last are kept in memory as well, because the state machine asks for
//! each of them right after it was written.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use hearth_storage::{LogHome, StoreError};

use crate::codec;
use crate::defect::{self, Defect};
use crate::store::sole_voter::Gate;
use crate::types::{LogEntry, LogId, Payload, Proposal, TypeConfig, Vote};

/// Limit on the bytes of recent entries that are kept in memory, approximately.
const TAIL_LEN_MAX: usize = 4 << 20;

/// Limit on the bytes of entries that one read takes from the disk when it may stop early.
const READ_LEN_MAX: u64 = 2 << 20;

/// Wraps a storage error for its way through openraft.
pub(crate) fn io_error(error: StoreError) -> io::Error {
    io::Error::other(error)
}

/// The log. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    log: LogHome,
    gate: Arc<Gate>,
    cache: Arc<Mutex<Cache>>,
}

#[derive(Debug, Default)]
struct Cache {
    vote: Option<Vote>,
    /// The vote that this node has given or is about to give. It is set before it is written, and so before any
    /// other node can learn of it.
    promised: Option<Vote>,
    /// Consecutive entries up to the last one of the log, each with its length in bytes.
    tail: VecDeque<(LogEntry, usize)>,
    /// The sum of those lengths.
    tail_len: usize,
}

impl Cache {
    fn first_index(&self) -> Option<u64> {
        self.tail.front().map(|(entry, _)| entry.log_id.index)
    }

    fn push(&mut self, entry: LogEntry, len: usize) {
        // A new entry may replace an old one, and the entries behind that are void then.
        self.truncate_from(entry.log_id.index);
        let follows = self
            .tail
            .back()
            .is_none_or(|(last, _)| last.log_id.index + 1 == entry.log_id.index);
        if !follows {
            self.clear();
        }
        self.tail.push_back((entry, len));
        self.tail_len += len;
        while self.tail_len > TAIL_LEN_MAX && self.tail.len() > 1 {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some((_, len)) = self.tail.pop_front() {
            self.tail_len -= len;
        }
    }

    fn truncate_from(&mut self, index: u64) {
        while let Some((last, len)) = self.tail.back() {
            if last.log_id.index < index {
                break;
            }
            self.tail_len -= len;
            self.tail.pop_back();
        }
    }

    fn purge_upto(&mut self, index: u64) {
        while self.first_index().is_some_and(|first| first <= index) {
            self.pop_front();
        }
    }

    fn clear(&mut self) {
        self.tail.clear();
        self.tail_len = 0;
    }

    /// Returns the entries from `start` until `end`, or until they exceed `len_max` bytes. `None` if those in
    /// memory do not reach back to `start`.
    fn read(&self, start: u64, end: u64, len_max: u64) -> Option<Vec<LogEntry>> {
        let first = self.first_index()?;
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        let count = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut entries = Vec::with_capacity(count.min(self.tail.len().saturating_sub(skip)));
        let mut total: u64 = 0;
        for (entry, len) in self.tail.iter().skip(skip).take(count) {
            total += *len as u64;
            if total > len_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Some(entries)
    }
}

impl LogStore {
    /// Opens the log in `log`. Reports to `gate` what is about to be written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn open(log: LogHome, gate: Arc<Gate>) -> Result<Self, StoreError> {
        let vote = match log.vote()? {
            Some(bytes) => Some(codec::decode_vote(&bytes)?),
            None => None,
        };
        let cache = Cache {
            vote,
            promised: vote,
            ..Cache::default()
        };
        Ok(Self {
            log,
            gate,
            cache: Arc::new(Mutex::new(cache)),
        })
    }

    /// Returns the vote that binds this node: when this is called, it has given no later one to any node.
    /// (Raft's metrics may be late.)
    pub(crate) fn promised_vote(&self) -> Option<Vote> {
        self.cache().promised
    }

    /// Returns the log ids of the entry that was purged last and of the last entry. Without entries, the last
    /// entry is the purged one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn bounds(&self) -> Result<(Option<LogId>, Option<LogId>), StoreError> {
        let last_purged = match self.log.last_purged()? {
            Some((_, record)) => Some(codec::decode_log_id(&record)?),
            None => None,
        };
        let last = match self.log.last_index() {
            Some(index) => self.read(index, index + 1, u64::MAX)?.pop(),
            None => None,
        };
        let last_log_id = last.map(|entry| entry.log_id).or(last_purged);
        Ok((last_purged, last_log_id))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // No change can panic half-way.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, start: u64, end: u64, len_max: u64) -> Result<Vec<LogEntry>, StoreError> {
        if start >= end {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.cache().read(start, end, len_max) {
            return Ok(entries);
        }
        let records = self.log.read_limited(start..end, len_max)?;
        let decoded = records
            .iter()
            .map(|(index, bytes)| codec::decode_log_entry(*index, bytes));
        Ok(decoded.collect::<Result<_, _>>()?)
    }
}

/// Returns the range of indexes as half-open bounds.
fn limits(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&index) => index,
        Bound::Excluded(&index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&index) => index.saturating_add(1),
        Bound::Excluded(&index) => index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<LogEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = limits(&range);
        self.read(start, end, u64::MAX).map_err(io_error)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.cache().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        self.read(start, end, READ_LEN_MAX).map_err(io_error)
    }

    /// Reads the range in parts, so that a long tail after a restart is never in memory as a whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = limits(&range);
        let state = (self.clone(), start, Vec::new().into_iter());
        stream::unfold(Some(state), move |state| async move {
            let (store, next, mut part) = state?;
            if let Some(entry) = part.next() {
                return Some((Ok(entry), Some((store, next, part))));
            }
            let entries = match store.read(next, end, READ_LEN_MAX) {
                Ok(entries) => entries,
                Err(error) => return Some((Err(io_error(error)), None)),
            };
            let next = entries.last()?.log_id.index + 1;
            let mut part = entries.into_iter();
            let entry = part.next()?;
            Some((Ok(entry), Some((store, next, part))))
        })
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (last_purged_log_id, last_log_id) = self.bounds().map_err(io_error)?;
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.gate.saving_vote(vote);
        self.cache().promised = Some(*vote);
        let (done, durable) = oneshot::channel();
        let done = Box::new(move |result| {
            // The receiver is gone if Raft was stopped meanwhile.
            let _ = done.send(result);
        });
        self.log
            .save_vote_then(&codec::encode_vote(vote), done)
            .map_err(io_error)?;
        durable.await.map_err(io::Error::other)?.map_err(io_error)?;
        self.cache().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let mut records = Vec::with_capacity(entries.len());
        for entry in &entries {
            let index = entry.log_id.index;
            if let Payload::Membership(membership) = &entry.payload {
                self.gate.appending_membership(index, membership);
            }
            records.push((index, codec::encode_log_entry(entry)));
        }
        let lens: Vec<usize> = records.iter().map(|(_, bytes)| bytes.len()).collect();
        let early = defect::is(Defect::UnsyncedAcknowledgement);
        let (early, callback) = if early {
            (Some(callback), None)
        } else {
            (None, Some(callback))
        };
        let done = Box::new(move |result: Result<(), StoreError>| {
            if let Some(callback) = callback {
                callback.io_completed(result.map_err(io_error));
            }
        });
        // The lock keeps readers from finding a last entry in memory that is older than the one on disk.
        let mut cache = self.cache();
        self.log.append(records, done).map_err(io_error)?;
        for (entry, len) in entries.into_iter().zip(lens) {
            // An entry takes more bytes in memory than on disk: every command has a few allocations.
            let overhead = match &entry.payload {
                Payload::Normal(Proposal::Commands(list)) => list.len() * 160,
                _ => 160,
            };
            cache.push(entry, len + overhead);
        }
        if let Some(callback) = early {
            callback.io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let last = last_log_id.map(|id| id.index);
        self.cache().truncate_from(last.map_or(0, |last| last + 1));
        self.log.truncate_after(last).map_err(io_error)?;
        self.gate.truncated_after(last);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.cache().purge_upto(log_id.index);
        self.log
            .purge(log_id.index, &codec::encode_log_id(&log_id))
            .map_err(io_error)
    }
}
