//! The log's home. (Signatures; bodies follow.)

use std::ops::RangeBounds;

use crate::error::StoreError;

/// Called once the write that it came with is durable, or with the reason why nothing is any more.
/// Runs on the sync thread, in the order of the writes; it must not block.
pub type SyncDone = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Counters since the database was opened.
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

/// A log of opaque entries, and the few records beside it. Cheap to clone; all clones are the same
/// one. All writes form one ordered stream with one sync thread behind it; none of them waits for the
/// disk unless it says so. After a failed write or sync every call returns [`StoreError::Stopped`].
#[derive(Debug, Clone)]
pub struct LogHome {}

impl LogHome {
    /// Writes entries behind the last one; they can be read when this returns. `done` is called when
    /// they are durable; it is dropped uncalled when this returns an error.
    ///
    /// # Errors
    /// [`StoreError::Gap`] when the first index is beyond the next one, or they are not consecutive:
    /// nothing is written then. Entries that exist are overwritten.
    pub fn append(
        &self,
        entries: impl IntoIterator<Item = (u64, Vec<u8>)>,
        done: SyncDone,
    ) -> Result<(), StoreError> {
        let _ = (entries.into_iter(), done);
        unimplemented!()
    }

    /// Keeps the entries up to `last` and drops those behind it; `None` drops all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn truncate_after(&self, last: Option<u64>) -> Result<(), StoreError> {
        let _ = last;
        unimplemented!()
    }

    /// Drops the entries up to and with `upto`, and keeps `record` as what was purged last, in one write.
    /// Purging beyond the end empties the log. What was purged before is left alone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn purge(&self, upto: u64, record: &[u8]) -> Result<(), StoreError> {
        let _ = (upto, record);
        unimplemented!()
    }

    /// Up to where the log was purged, and the record that came with it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_purged(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        unimplemented!()
    }

    /// Index of the first entry; `None` when the log is empty.
    pub fn first_index(&self) -> Option<u64> {
        unimplemented!()
    }

    /// Index of the last entry; `None` when the log is empty (see [`Self::last_purged`] then).
    pub fn last_index(&self) -> Option<u64> {
        unimplemented!()
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
        let _ = (range.start_bound(), len_max);
        unimplemented!()
    }

    /// Saves the vote. Durable when this returns: blocks for a sync.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_vote(&self, vote: &[u8]) -> Result<(), StoreError> {
        let _ = vote;
        unimplemented!()
    }

    /// Saves the vote without blocking; durable when `done` is called, which is dropped uncalled when
    /// this returns an error.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_vote_then(&self, vote: &[u8], done: SyncDone) -> Result<(), StoreError> {
        let _ = (vote, done);
        unimplemented!()
    }

    /// The vote that was saved last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn vote(&self) -> Result<Option<Vec<u8>>, StoreError> {
        unimplemented!()
    }

    /// Saves who this database belongs to (cluster and node). Durable when this returns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_identity(&self, identity: &[u8]) -> Result<(), StoreError> {
        let _ = identity;
        unimplemented!()
    }

    /// Who this database belongs to.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn identity(&self) -> Result<Option<Vec<u8>>, StoreError> {
        unimplemented!()
    }

    /// Blocks until everything written so far, log and registry, is durable.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync(&self) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Completed syncs since the database was opened.
    pub fn sync_count(&self) -> u64 {
        self.stats().sync_count
    }

    /// Counters since the database was opened.
    pub fn stats(&self) -> LogStats {
        unimplemented!()
    }

    /// Why nothing works any more; `None` while all is well.
    pub fn failure(&self) -> Option<String> {
        unimplemented!()
    }
}
