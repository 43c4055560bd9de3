//! The log in RocksDB: entries by index, and the few records beside them.

use std::fmt;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use rocksdb::{ReadOptions, WriteBatch};

use super::sync::Job;
use super::{Database, Fixed, Shared, lock};
use crate::crash::crash_point;
use crate::error::StoreError;
use crate::format::{self, Reader};
use crate::store::log::{Log, LogStats, SyncDone};

const VOTE: &[u8] = b"vote";
const IDENTITY: &[u8] = b"identity";
const PURGED: &[u8] = b"purged";

/// Counters of appends.
#[derive(Default)]
pub(super) struct Appended {
    append_count: AtomicU64,
    entry_count: AtomicU64,
    entry_len: AtomicU64,
}

/// The log in RocksDB: all writes form one ordered stream with one sync thread behind it.
pub(super) struct RocksLog {
    shared: Arc<Shared>,
}

/// The ends of the log. The entries `first..=last` exist without a hole.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogEnds {
    /// First and last index; `None` if there is no entry.
    range: Option<(u64, u64)>,
    /// Index up to which all entries are purged. Lower than `first`.
    purged: Option<u64>,
}

impl LogEnds {
    /// Reads the ends from the database.
    pub(super) fn recover(fixed: &Fixed) -> Result<Self, StoreError> {
        let database = fixed.borrow_owner();
        let families = fixed.borrow_dependent();
        let purged = read_purged(database, fixed)?.map(|(index, _)| index);
        let mut iterator = database.db.raw_iterator_cf(&families.log);
        // The search starts behind the purged entries, so that it need not pass their tombstones.
        iterator.seek(index_key(purged.map_or(0, |index| index.saturating_add(1))));
        let first = iterator.key().map(index_in).transpose()?;
        database.read(iterator.status())?;
        iterator.seek_to_last();
        let last = iterator.key().map(index_in).transpose()?;
        database.read(iterator.status())?;
        let range = first.zip(last);
        if let Some((first, last)) = range
            && first > last
        {
            return Err(StoreError::corrupt(
                "the log",
                format!("it begins at {first} and ends at {last}"),
            ));
        }
        Ok(Self { range, purged })
    }

    /// Checks that an append may begin at `index`: at an existing entry, or at the next index. An empty log
    /// that was never purged may begin anywhere.
    fn may_begin(&self, index: u64) -> Result<(), StoreError> {
        let (lowest, next) = match (self.range, self.purged) {
            (Some((first, last)), _) => (first, last.saturating_add(1)),
            (None, Some(purged)) => (purged.saturating_add(1), purged.saturating_add(1)),
            (None, None) => return Ok(()),
        };
        if (lowest..=next).contains(&index) {
            return Ok(());
        }
        Err(StoreError::Gap {
            expected: next,
            found: index,
        })
    }
}

impl Log for RocksLog {
    fn append(&self, entries: Vec<(u64, Vec<u8>)>, done: SyncDone) -> Result<(), StoreError> {
        let family = &self.shared.families().log;
        let mut ends = lock(&self.shared.log_ends);
        let mut batch = WriteBatch::default();
        if let Some(synced) = self.shared.for_log.take() {
            // The note is the first operation of the batch, where the reader of a damaged log looks for it.
            batch.put_log_data(synced.log_data());
        }
        let mut written: Option<(u64, u64)> = None;
        let mut entry_len = 0;
        for (index, payload) in entries {
            written = match written {
                None => {
                    ends.may_begin(index)?;
                    Some((index, index))
                }
                Some((first, last)) if index == last.wrapping_add(1) => Some((first, index)),
                Some((_, last)) => {
                    return Err(StoreError::Gap {
                        expected: last.wrapping_add(1),
                        found: index,
                    });
                }
            };
            entry_len += payload.len() as u64;
            batch.put_cf(family, index_key(index), format::seal(&payload));
        }
        self.database().health.check()?;
        if let Some((first, last)) = written {
            crash_point("append");
            self.database().write(batch)?;
            crash_point("append-written");
            ends.range = Some(match ends.range {
                Some((old_first, old_last)) => (old_first.min(first), old_last.max(last)),
                None => (first, last),
            });
            let counters = &self.shared.appended;
            counters
                .entry_count
                .fetch_add(last - first + 1, Ordering::Relaxed);
            counters.entry_len.fetch_add(entry_len, Ordering::Relaxed);
        }
        let counters = &self.shared.appended;
        counters.append_count.fetch_add(1, Ordering::Relaxed);
        self.tell_when_durable(ends, done)
    }

    fn truncate_after(&self, last: Option<u64>) -> Result<(), StoreError> {
        self.database().health.check()?;
        let mut ends = lock(&self.shared.log_ends);
        let Some((first, end)) = ends.range else {
            return Ok(());
        };
        let from = last.map_or(first, |last| last.saturating_add(1)).max(first);
        if from > end {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        self.drop_range(&mut batch, from, end);
        self.database().write(batch)?;
        crash_point("truncate-written");
        ends.range = (from > first).then(|| (first, from - 1));
        self.shared.syncer.push(Job::Nothing)
    }

    fn purge(&self, upto: u64, record: &[u8]) -> Result<(), StoreError> {
        self.database().health.check()?;
        let mut ends = lock(&self.shared.log_ends);
        if ends.purged.is_some_and(|purged| purged > upto) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let purged = format::seal_with(8 + record.len(), |out| {
            out.extend_from_slice(&upto.to_be_bytes());
            out.extend_from_slice(record);
        });
        batch.put_cf(&self.shared.families().log_meta, PURGED, purged);
        let mut left = ends.range;
        if let Some((first, last)) = ends.range
            && first <= upto
        {
            self.drop_range(&mut batch, first, upto.min(last));
            left = (upto < last).then(|| (upto + 1, last));
        }
        self.database().write(batch)?;
        crash_point("purge-written");
        ends.range = left;
        ends.purged = Some(upto);
        self.shared.syncer.push(Job::DropLogFiles(upto))
    }

    fn last_purged(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        self.database().health.check()?;
        read_purged(self.database(), &self.shared.fixed)
    }

    fn first_index(&self) -> Option<u64> {
        lock(&self.shared.log_ends).range.map(|(first, _)| first)
    }

    fn last_index(&self) -> Option<u64> {
        lock(&self.shared.log_ends).range.map(|(_, last)| last)
    }

    fn read_limited(
        &self,
        range: (Bound<u64>, Bound<u64>),
        len_max: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let database = self.database();
        database.health.check()?;
        let ends = *lock(&self.shared.log_ends);
        let Some((first, last)) = clip(range, ends.range) else {
            return Ok(Vec::new());
        };
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(index_key(first));
        if let Some(end) = last.checked_add(1) {
            options.set_iterate_upper_bound(index_key(end));
        }
        let mut iterator = database
            .db
            .raw_iterator_cf_opt(&self.shared.families().log, options);
        iterator.seek_to_first();
        let mut entries: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut len = 0;
        while let Some((key, record)) = iterator.item() {
            let index = database.decoded(index_in(key))?;
            if let Some((before, _)) = entries.last()
                && index != before + 1
            {
                let reason = format!("entry {index} follows entry {before}");
                return database.decoded(Err(StoreError::corrupt("the log", reason)));
            }
            let payload = format::unseal_named(record, || format!("log entry {index}"));
            let payload = database.decoded(payload)?;
            len += payload.len() as u64;
            if len > len_max && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push((index, payload.to_vec()));
            iterator.next();
        }
        database.read(iterator.status())?;
        Ok(entries)
    }

    fn save_vote(&self, vote: &[u8]) -> Result<(), StoreError> {
        self.put(VOTE, vote)?;
        self.shared.syncer.sync()
    }

    fn save_vote_then(&self, vote: &[u8], done: SyncDone) -> Result<(), StoreError> {
        let order = lock(&self.shared.log_ends);
        self.put_alone(VOTE, vote)?;
        self.tell_when_durable(order, done)
    }

    fn vote(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(VOTE)
    }

    fn save_identity(&self, identity: &[u8]) -> Result<(), StoreError> {
        self.put(IDENTITY, identity)?;
        self.shared.syncer.sync()
    }

    fn identity(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(IDENTITY)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.database().health.check()?;
        self.shared.syncer.sync()
    }

    fn sync_count(&self) -> u64 {
        self.shared.syncer.sync_count()
    }

    fn stats(&self) -> LogStats {
        let counters = &self.shared.appended;
        LogStats {
            sync_count: self.sync_count(),
            append_count: counters.append_count.load(Ordering::Relaxed),
            entry_count: counters.entry_count.load(Ordering::Relaxed),
            entry_len: counters.entry_len.load(Ordering::Relaxed),
            waiting_count: self.shared.syncer.waiting_count(),
        }
    }

    fn failure(&self) -> Option<String> {
        self.database().health.failure().map(str::to_owned)
    }
}

impl RocksLog {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn database(&self) -> &Database {
        self.shared.database()
    }

    /// Calls `done` when everything that was written so far is durable. `order` is the lock that orders the writes of
    /// the log.
    fn tell_when_durable(
        &self,
        order: MutexGuard<'_, LogEnds>,
        done: SyncDone,
    ) -> Result<(), StoreError> {
        if !self.database().in_memory() {
            return self.shared.syncer.push(Job::Tell(done));
        }
        // Nothing in memory is ever more durable than it is now. The callback may use the log.
        drop(order);
        self.shared.syncer.count();
        let done = AssertUnwindSafe(|| done(Ok(())));
        if std::panic::catch_unwind(done).is_err() {
            self.database()
                .health
                .fail("a callback of a write panicked");
        }
        Ok(())
    }

    /// Adds the removal of the existing entries `first..=last` to a batch.
    fn drop_range(&self, batch: &mut WriteBatch, first: u64, last: u64) {
        let family = &self.shared.families().log;
        match last.checked_add(1) {
            Some(end) => batch.delete_range_cf(family, index_key(first), index_key(end)),
            None => {
                batch.delete_range_cf(family, index_key(first), index_key(last));
                batch.delete_cf(family, index_key(last));
            }
        }
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let _order = lock(&self.shared.log_ends);
        self.put_alone(key, value)
    }

    /// Writes one record. The caller must hold the lock that orders the writes of the log.
    fn put_alone(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let family = &self.shared.families().log_meta;
        batch.put_cf(family, key, format::seal(value));
        self.database().write(batch)?;
        crash_point("record-written");
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.database().health.check()?;
        let family = &self.shared.families().log_meta;
        self.database().record(family, key)
    }
}

impl fmt::Debug for RocksLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksLog")
            .field("ends", &*lock(&self.shared.log_ends))
            .finish_non_exhaustive()
    }
}

/// Returns the key of a log entry. Keys sort as indexes do.
pub(super) fn index_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

pub(super) fn index_in(key: &[u8]) -> Result<u64, StoreError> {
    match key.try_into() {
        Ok(bytes) => Ok(u64::from_be_bytes(bytes)),
        Err(_) => Err(StoreError::corrupt(
            format!("the log's key {}", key.escape_ascii()),
            "it is no index",
        )),
    }
}

fn read_purged(database: &Database, fixed: &Fixed) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
    let family = &fixed.borrow_dependent().log_meta;
    let Some(payload) = database.record(family, PURGED)? else {
        return Ok(None);
    };
    let mut reader = Reader(&payload);
    match reader.u64() {
        Ok(index) => Ok(Some((index, reader.0.to_vec()))),
        Err(reason) => database.decoded(Err(StoreError::corrupt("the record purged", reason))),
    }
}

/// Returns the part of `range` that exists, as first and last index.
fn clip(range: (Bound<u64>, Bound<u64>), there: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let (first, last) = there?;
    let from = match range.0 {
        Bound::Included(index) => index,
        Bound::Excluded(index) => index.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let to = match range.1 {
        Bound::Included(index) => index,
        Bound::Excluded(index) => index.checked_sub(1)?,
        Bound::Unbounded => u64::MAX,
    };
    let (from, to) = (from.max(first), to.min(last));
    (from <= to).then_some((from, to))
}
