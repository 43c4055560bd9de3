//! The log store: entries by index, and the few records beside them.
//!
//! [`Log`] is the interface, implemented by RocksDB and by a simulated disk. [`LogHome`] is the handle that the
//! rest of the code holds.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::error::StoreError;

/// Callback of a write. It is called once the write is durable, or with the reason why nothing becomes durable
/// any more. It runs in the order of the writes, on the sync thread or, where nothing needs to be synced, within the
/// call that writes. It must not block or panic.
pub type SyncDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Counters since the log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogStats {
    /// Number of completed syncs.
    pub sync_count: u64,
    /// Number of calls of [`LogHome::append`].
    pub append_count: u64,
    /// Number of entries appended.
    pub entry_count: u64,
    /// Bytes of the payloads of those entries.
    pub entry_len: u64,
    /// Number of writes that wait for a sync now.
    pub waiting_count: u64,
}

/// A log of opaque entries, and the few records beside it. Its writes and those of the [`super::Store`] in the
/// same [`super::Home`] form one ordered stream: a crash leaves a prefix of it, with all that was synced. No
/// call waits for the disk unless it says so. After a failed write or sync every call returns
/// [`StoreError::Stopped`].
///
/// Each method is documented at the method of [`LogHome`] with the same name.
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

/// Handle of a [`Log`]. Clones are cheap and share the log.
#[derive(Clone)]
pub struct LogHome {
    log: Arc<dyn Log>,
}

impl LogHome {
    /// Creates a handle of `log`.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self { log }
    }

    /// Writes entries behind the last one. They can be read when this returns. `done` is called when they are
    /// durable; it is dropped uncalled if this returns an error. Existing entries are overwritten, and those
    /// behind them stay: truncate first.
    ///
    /// # Errors
    /// [`StoreError::Gap`] if the first index does not follow, or the indexes are not consecutive. Nothing is
    /// written then.
    pub fn append(
        &self,
        entries: impl IntoIterator<Item = (u64, Vec<u8>)>,
        done: SyncDone,
    ) -> Result<(), StoreError> {
        self.log.append(entries.into_iter().collect(), done)
    }

    /// Keeps the entries up to `last` and drops those behind it; `None` drops all. Entries appended afterwards
    /// are durable no earlier than this.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn truncate_after(&self, last: Option<u64>) -> Result<(), StoreError> {
        self.log.truncate_after(last)
    }

    /// Drops the entries up to and including `upto`, and keeps `record` as the record of the last purge, in one
    /// write. Purging beyond the end empties the log. A purge below an earlier one changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn purge(&self, upto: u64, record: &[u8]) -> Result<(), StoreError> {
        self.log.purge(upto, record)
    }

    /// Returns the index up to which the log was purged, and the record of that purge; `None` if it never was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_purged(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        self.log.last_purged()
    }

    /// Returns the index of the first entry; `None` if the log is empty.
    pub fn first_index(&self) -> Option<u64> {
        self.log.first_index()
    }

    /// Returns the index of the last entry; `None` if the log is empty (see [`Self::last_purged`] then).
    pub fn last_index(&self) -> Option<u64> {
        self.log.last_index()
    }

    /// Returns the existing entries in `range`, in order.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for an altered entry or a hole.
    pub fn read(&self, range: impl RangeBounds<u64>) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read_limited(range, u64::MAX)
    }

    /// Returns entries like [`Self::read`], but stops before their payloads exceed `len_max` bytes in all.
    /// Returns at least one entry if there is one.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn read_limited(
        &self,
        range: impl RangeBounds<u64>,
        len_max: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.log.read_limited(range, len_max)
    }

    /// Saves the vote, durably. Blocks for a sync.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_vote(&self, vote: &[u8]) -> Result<(), StoreError> {
        self.log.save_vote(vote)
    }

    /// Saves the vote without blocking. It is durable when `done` is called; `done` is dropped uncalled if this
    /// returns an error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_vote_then(&self, vote: &[u8], done: SyncDone) -> Result<(), StoreError> {
        self.log.save_vote_then(vote, done)
    }

    /// Returns the vote saved last; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn vote(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.log.vote()
    }

    /// Saves the identity of the owner (cluster and node), durably. Blocks for a sync.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_identity(&self, identity: &[u8]) -> Result<(), StoreError> {
        self.log.save_identity(identity)
    }

    /// Returns the identity of the owner; `None` if there is none.
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

    /// Returns the number of completed syncs since the log was opened.
    pub fn sync_count(&self) -> u64 {
        self.log.sync_count()
    }

    /// Returns the counters since the log was opened.
    pub fn stats(&self) -> LogStats {
        self.log.stats()
    }

    /// Returns the reason why nothing works any more; `None` while all is well, and after a clean close.
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
