//! The log's home: entries by index, and the few records beside them.
//!
//! [`Log`] is the seam, which RocksDB fills and a simulated disk; [`LogHome`] is what the rest holds.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::error::StoreError;

/// Called once the write that it came with is durable, or with the reason why nothing is any more.
/// Runs on the sync thread, in the order of the writes; it must not block or panic.
pub type SyncDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Counters since the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Completed syncs.
    pub sync_count: u64,
    /// Calls of [`LogHome::append`].
    pub append_count: u64,
    /// Entries appended.
    pub entry_count: u64,
    /// Bytes of those entries.
    pub entry_len: u64,
    /// Writes that wait for a sync now.
    pub waiting_count: u64,
}

/// A log of opaque entries, and the few records beside it. All writes, and those of the [`super::Store`]
/// in the same [`super::Home`], form one ordered stream: a crash leaves a prefix of it, with all that was
/// synced. None of them waits for the disk unless it says so. After a failed write or sync every call
/// returns [`StoreError::Stopped`].
///
/// What each call does is said at the method of [`LogHome`] with its name.
#[expect(missing_docs, reason = "said once, at LogHome")]
#[expect(clippy::missing_errors_doc, reason = "said once, at LogHome")]
pub trait Log: Send + Sync {
    fn append(&self, entries: Vec<(u64, Vec<u8>)>, done: SyncDone) -> Result<(), StoreError>;
    fn truncate_after(&self, last: Option<u64>) -> Result<(), StoreError>;
    fn purge(&self, upto: u64, record: &[u8]) -> Result<(), StoreError>;
    fn last_purged(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError>;
    fn first_index(&self) -> Option<u64>;
    fn last_index(&self) -> Option<u64>;
    fn read_limited(
        &self,
        range: (Bound<u64>, Bound<u64>),
        len_max: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
    fn save_vote(&self, vote: &[u8]) -> Result<(), StoreError>;
    fn save_vote_then(&self, vote: &[u8], done: SyncDone) -> Result<(), StoreError>;
    fn vote(&self) -> Result<Option<Vec<u8>>, StoreError>;
    fn save_identity(&self, identity: &[u8]) -> Result<(), StoreError>;
    fn identity(&self) -> Result<Option<Vec<u8>>, StoreError>;
    fn sync(&self) -> Result<(), StoreError>;
    fn sync_count(&self) -> u64;
    fn stats(&self) -> LogStats;
    fn failure(&self) -> Option<String>;
}

/// A [`Log`]. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct LogHome {
    log: Arc<dyn Log>,
}

impl LogHome {
    /// The log behind `log`.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log }
    }

    /// Writes entries behind the last one; they can be read when this returns. `done` is called when
    /// they are durable; it is dropped uncalled when this returns an error. Entries that exist are
    /// overwritten, those behind them stay: truncate first.
    ///
    /// # Errors
    /// [`StoreError::Gap`] when the first index does not follow, or they are not consecutive: nothing is
    /// written then.
    pub fn append(
        &self,
        entries: impl IntoIterator<Item = (u64, Vec<u8>)>,
        done: SyncDone,
    ) -> Result<(), StoreError> {
        self.log.append(entries.into_iter().collect(), done)
    }

    /// Keeps the entries up to `last` and drops those behind it; `None` drops all. What is appended
    /// afterwards is durable no earlier than this.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn truncate_after(&self, last: Option<u64>) -> Result<(), StoreError> {
        self.log.truncate_after(last)
    }

    /// Drops the entries up to and with `upto`, and keeps `record` as what was purged last, in one write.
    /// Purging beyond the end empties the log. A purge below an earlier one changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn purge(&self, upto: u64, record: &[u8]) -> Result<(), StoreError> {
        self.log.purge(upto, record)
    }

    /// Up to where the log was purged, and the record that came with it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_purged(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        self.log.last_purged()
    }

    /// Index of the first entry; `None` when the log is empty.
    pub fn first_index(&self) -> Option<u64> {
        self.log.first_index()
    }

    /// Index of the last entry; `None` when the log is empty (see [`Self::last_purged`] then).
    pub fn last_index(&self) -> Option<u64> {
        self.log.last_index()
    }

    /// The entries in `range` that are there, in order.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for an altered entry or a hole.
    pub fn read(&self, range: impl RangeBounds<u64>) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read_limited(range, u64::MAX)
    }

    /// Like [`Self::read`], but stops before the entries exceed `len_max` bytes in all. At least one
    /// entry is returned where there is one.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_limited(
        &self,
        range: impl RangeBounds<u64>,
        len_max: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.log.read_limited(range, len_max)
    }

    /// Saves the vote. Durable when this returns: blocks for a sync.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_vote(&self, vote: &[u8]) -> Result<(), StoreError> {
        self.log.save_vote(vote)
    }

    /// Saves the vote without blocking; durable when `done` is called, which is dropped uncalled when
    /// this returns an error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_vote_then(&self, vote: &[u8], done: SyncDone) -> Result<(), StoreError> {
        self.log.save_vote_then(vote, done)
    }

    /// The vote that was saved last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn vote(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.log.vote()
    }

    /// Saves who this home belongs to (cluster and node). Durable when this returns: blocks for a sync.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_identity(&self, identity: &[u8]) -> Result<(), StoreError> {
        self.log.save_identity(identity)
    }

    /// Who this home belongs to.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn identity(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.log.identity()
    }

    /// Blocks until everything written so far, log and registry, is durable.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync(&self) -> Result<(), StoreError> {
        self.log.sync()
    }

    /// Completed syncs since the log was opened.
    pub fn sync_count(&self) -> u64 {
        self.log.sync_count()
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> LogStats {
        self.log.stats()
    }

    /// Why nothing works any more; `None` while all is well, and after a clean close.
    pub fn failure(&self) -> Option<String> {
        self.log.failure()
    }
}

impl fmt::Debug for LogHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHome")
            .field("first", &self.first_index())
            .field("last", &self.last_index())
            .finish()
    }
}
