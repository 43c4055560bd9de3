//! A simulated disk that tracks which of its writes are synced, and the store on it.
//!
//! All writes go to one write-ahead log, in order, and each is atomic. A sync takes time and makes durable the
//! writes that precede its beginning. A crash keeps all durable writes and a chosen number of the others, from
//! the first one on, because a torn log is read up to the tear.
//!
//! Time passes only in the task that runs [`Disk::serve`]. Calls that block for a sync (the identity, an
//! install, a close) take no time here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_storage::store::{CreatedVisitor, EntryVisitor, RecordVisitor};
use hearth_storage::{
    Batch, Entry, Home, Install, Log, LogHome, LogStats, Name, NameCursor, Revision, Store,
    StoreError, StoredEntry, Summary, SyncDone, View,
};
use tokio::sync::Notify;

/// The bytes of a log entry.
type Payload = Arc<[u8]>;

/// The registry's part of a disk's content.
#[derive(Debug, Clone, Default)]
struct Registered {
    entries: BTreeMap<Name, Entry>,
    tags: BTreeSet<(String, Name)>,
    extras: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: BTreeMap<Vec<u8>, Vec<u8>>,
    summary: Summary,
}

/// The content of a disk.
#[derive(Debug, Clone, Default)]
struct Content {
    log: BTreeMap<u64, Payload>,
    purged: Option<(u64, Vec<u8>)>,
    vote: Option<Vec<u8>>,
    identity: Option<Vec<u8>>,
    /// Shared with views, and copied when it changes while a view holds it.
    registered: Arc<Registered>,
}

/// One atomic write.
#[derive(Debug, Clone)]
enum Write {
    Append(Vec<(u64, Payload)>),
    TruncateFrom(u64),
    Purge(u64, Vec<u8>),
    Vote(Vec<u8>),
    Identity(Vec<u8>),
    Batch(Arc<Batch>),
    Replace(Arc<Registered>),
}

impl Content {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Append(entries) => self.log.extend(entries.iter().cloned()),
            Write::TruncateFrom(index) => drop(self.log.split_off(index)),
            Write::Purge(upto, record) => {
                self.log.retain(|index, _| index > upto);
                self.purged = Some((*upto, record.clone()));
            }
            Write::Vote(vote) => self.vote = Some(vote.clone()),
            Write::Identity(identity) => self.identity = Some(identity.clone()),
            Write::Batch(batch) => Arc::make_mut(&mut self.registered).apply(batch),
            Write::Replace(state) => self.registered = Arc::clone(state),
        }
    }

    /// Checks the first index of an append by the rule of the log in RocksDB: an index within the log, or the
    /// next one.
    ///
    /// Any index may begin a log that is empty and was never purged.
    ///
    /// # Errors
    /// [`StoreError::Gap`] for any other index.
    fn may_begin(&self, index: u64) -> Result<(), StoreError> {
        let first = self.log.first_key_value().map(|(&first, _)| first);
        let last = self.log.last_key_value().map(|(&last, _)| last);
        let purged = self.purged.as_ref().map(|(upto, _)| *upto);
        let (lowest, next) = match (first.zip(last), purged) {
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

impl Registered {
    fn apply(&mut self, batch: &Batch) {
        if let Some(removal) = &batch.removal {
            let tags = &mut self.tags;
            self.entries.retain(|name, entry| {
                let stays = batch.entries.contains_key(name) || !removal.takes(name, entry.created);
                if !stays {
                    for tag in &entry.tags {
                        tags.remove(&(tag.clone(), name.clone()));
                    }
                }
                stays
            });
        }
        for (name, change) in &batch.entries {
            for tag in change.tags_removed() {
                self.tags.remove(&(tag.clone(), name.clone()));
            }
            for tag in change.tags_added() {
                self.tags.insert((tag.clone(), name.clone()));
            }
            match &change.after {
                Some(entry) => self.entries.insert(name.clone(), entry.clone()),
                None => self.entries.remove(name),
            };
        }
        for (key, value) in &batch.extras {
            match value {
                Some(value) => self.extras.insert(key.clone(), value.clone()),
                None => self.extras.remove(key),
            };
        }
        for (key, value) in &batch.meta {
            self.meta.insert(key.clone(), value.clone());
        }
        self.summary = batch.summary;
    }
}

/// A callback that observes every change of a disk's registry: its meta records and its summary.
pub type Witness = Box<dyn Fn(&BTreeMap<Vec<u8>, Vec<u8>>, &Summary) + Send + Sync>;

struct Inner {
    /// The content after a crash that keeps no unsynced write.
    durable: Content,
    /// The content that programs see.
    current: Content,
    /// The writes since `durable`, oldest first.
    unsynced: VecDeque<Write>,
    /// The number of writes since the disk was created.
    written: u64,
    waiting: VecDeque<(u64, SyncDone)>,
    /// The number of homes that were opened; only the last one may use the disk.
    opened: u64,
    closed: bool,
    stats: LogStats,
    sync_duration: (Duration, Duration),
    /// Acknowledges writes before they are synced, for tests that must fail.
    lies: bool,
}

/// A disk, which outlives the crashes of its host. Cheap to clone; all clones share one disk.
#[derive(Clone)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
    work: Arc<Notify>,
    witness: Arc<Witness>,
}

/// The unsynced writes that a crash kept and lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Writes that were not synced and survived.
    pub kept: u64,
    /// Writes that were lost.
    pub lost: u64,
}

impl Disk {
    /// Creates an empty disk, whose registry is observed by `witness`.
    pub fn new(witness: Witness) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                durable: Content::default(),
                current: Content::default(),
                unsynced: VecDeque::new(),
                written: 0,
                waiting: VecDeque::new(),
                opened: 0,
                closed: true,
                stats: LogStats::default(),
                sync_duration: (Duration::from_micros(500), Duration::from_millis(3)),
                lies: false,
            })),
            work: Arc::new(Notify::new()),
            witness: Arc::new(witness),
        }
    }

    /// Opens the home on this disk. Homes that were opened before can no longer use it.
    pub fn open(&self) -> SimulatedHome {
        let mut inner = self.lock();
        inner.opened += 1;
        inner.closed = false;
        inner.stats = LogStats::default();
        SimulatedHome {
            disk: self.clone(),
            opened: inner.opened,
        }
    }

    /// Sets the shortest and the longest duration of a sync.
    pub fn set_sync_duration(&self, least: Duration, most: Duration) {
        self.lock().sync_duration = (least, most);
    }

    /// Sets whether the disk reports writes as durable before they are.
    pub fn set_lies(&self, lies: bool) {
        self.lock().lies = lies;
    }

    /// Returns the number of writes that a crash could lose now.
    pub fn unsynced_count(&self) -> u64 {
        self.lock().unsynced.len() as u64
    }

    /// Simulates the end of the process or a power failure: of the writes that are not synced, the first `keep`
    /// survive, or all if there are fewer. Callers that wait for a sync get no answer.
    pub fn crash(&self, keep: u64) -> Loss {
        let mut inner = self.lock();
        let mut loss = Loss::default();
        while let Some(write) = inner.unsynced.pop_front() {
            if loss.kept < keep {
                inner.durable.apply(&write);
                loss.kept += 1;
            } else {
                loss.lost += 1;
            }
        }
        inner.current = inner.durable.clone();
        inner.closed = true;
        // The callbacks are dropped outside the lock.
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
        loss
    }

    /// Syncs while callers wait, one sync after the other, for as long as the host runs. `draw` picks a
    /// duration between two bounds.
    pub async fn serve(self, mut draw: impl FnMut(Duration, Duration) -> Duration) {
        loop {
            let begun = {
                let inner = self.lock();
                (!inner.waiting.is_empty()).then(|| (inner.written, inner.sync_duration))
            };
            let Some((upto, (least, most))) = begun else {
                self.work.notified().await;
                continue;
            };
            tokio::time::sleep(draw(least, most)).await;
            self.synced(upto);
        }
    }

    /// Makes durable everything up to write `upto`, and answers the callers that wait for it.
    fn synced(&self, upto: u64) {
        let mut done = Vec::new();
        let mut inner = self.lock();
        let durable = inner.written - inner.unsynced.len() as u64;
        for _ in durable..upto {
            if let Some(write) = inner.unsynced.pop_front() {
                inner.durable.apply(&write);
            }
        }
        while inner.waiting.front().is_some_and(|&(at, _)| at <= upto) {
            done.extend(inner.waiting.pop_front());
        }
        inner.stats.sync_count += 1;
        drop(inner);
        for (_, done) in done {
            done(Ok(()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registry's data and a log on a simulated [`Disk`].
#[derive(Clone)]
pub struct SimulatedHome {
    disk: Disk,
    opened: u64,
}

impl SimulatedHome {
    /// Locks the disk.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] if this home was closed or superseded, or if the host has crashed.
    fn inner(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.disk.lock();
        if inner.closed || inner.opened != self.opened {
            return Err(StoreError::Stopped {
                reason: "it was closed, or its computer has crashed".into(),
            });
        }
        Ok(inner)
    }

    fn write(&self, inner: &mut Inner, write: Write) {
        inner.current.apply(&write);
        inner.unsynced.push_back(write);
        inner.written += 1;
    }

    fn then(&self, mut inner: MutexGuard<'_, Inner>, done: SyncDone) {
        if inner.lies {
            drop(inner);
            done(Ok(()));
            return;
        }
        let at = inner.written;
        inner.waiting.push_back((at, done));
        drop(inner);
        self.disk.work.notify_one();
    }

    fn sync_now(&self, inner: MutexGuard<'_, Inner>) {
        let upto = inner.written;
        drop(inner);
        self.disk.synced(upto);
    }
}

impl Home for SimulatedHome {
    fn log(&self) -> LogHome {
        LogHome::new(Arc::new(self.clone()))
    }

    /// Never calls back: this disk never fails, it only loses writes in a crash.
    fn on_failure(&self, _: Box<dyn FnOnce(&str) + Send>) {}

    fn free_logs(&self, _: u64) -> Result<bool, StoreError> {
        self.inner().map(|_| false)
    }

    fn close(&self) -> Result<(), StoreError> {
        self.sync_now(self.inner()?);
        self.inner()?.closed = true;
        Ok(())
    }
}

impl Log for SimulatedHome {
    fn append(&self, entries: Vec<(u64, Vec<u8>)>, done: SyncDone) -> Result<(), StoreError> {
        let mut inner = self.inner()?;
        let mut expected = None;
        for (index, payload) in &entries {
            match expected {
                None => inner.current.may_begin(*index)?,
                Some(expected) if expected == *index => {}
                Some(expected) => {
                    return Err(StoreError::Gap {
                        expected,
                        found: *index,
                    });
                }
            }
            expected = Some(index.wrapping_add(1));
            inner.stats.entry_len += payload.len() as u64;
        }
        inner.stats.append_count += 1;
        inner.stats.entry_count += entries.len() as u64;
        if !entries.is_empty() {
            let entries = entries
                .into_iter()
                .map(|(index, payload)| (index, payload.into()));
            let write = Write::Append(entries.collect());
            self.write(&mut inner, write);
        }
        self.then(inner, done);
        Ok(())
    }

    fn truncate_after(&self, last: Option<u64>) -> Result<(), StoreError> {
        let mut inner = self.inner()?;
        let from = last.map_or(0, |last| last.saturating_add(1));
        if inner.current.log.range(from..).next().is_some() {
            self.write(&mut inner, Write::TruncateFrom(from));
        }
        Ok(())
    }

    fn purge(&self, upto: u64, record: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.inner()?;
        let purged = inner.current.purged.as_ref();
        if purged.is_none_or(|(purged, _)| *purged <= upto) {
            self.write(&mut inner, Write::Purge(upto, record.to_vec()));
        }
        Ok(())
    }

    fn last_purged(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        Ok(self.inner()?.current.purged.clone())
    }

    fn first_index(&self) -> Option<u64> {
        let inner = self.disk.lock();
        inner.current.log.first_key_value().map(|(&index, _)| index)
    }

    fn last_index(&self) -> Option<u64> {
        let inner = self.disk.lock();
        inner.current.log.last_key_value().map(|(&index, _)| index)
    }

    fn read_limited(
        &self,
        range: (Bound<u64>, Bound<u64>),
        len_max: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let inner = self.inner()?;
        let mut found = Vec::new();
        let mut len = 0;
        // `range` is not passed on: `BTreeMap::range` panics if the end precedes the beginning.
        let from = match range.0 {
            Bound::Included(from) => from,
            Bound::Excluded(from) => from.saturating_add(1),
            Bound::Unbounded => 0,
        };
        for (&index, payload) in inner.current.log.range(from..) {
            let inside = match range.1 {
                Bound::Included(to) => index <= to,
                Bound::Excluded(to) => index < to,
                Bound::Unbounded => true,
            };
            len += payload.len() as u64;
            if !inside || len > len_max && !found.is_empty() {
                break;
            }
            found.push((index, payload.to_vec()));
        }
        Ok(found)
    }

    fn save_vote(&self, vote: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.inner()?;
        self.write(&mut inner, Write::Vote(vote.to_vec()));
        self.sync_now(inner);
        Ok(())
    }

    fn save_vote_then(&self, vote: &[u8], done: SyncDone) -> Result<(), StoreError> {
        let mut inner = self.inner()?;
        self.write(&mut inner, Write::Vote(vote.to_vec()));
        self.then(inner, done);
        Ok(())
    }

    fn vote(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner()?.current.vote.clone())
    }

    fn save_identity(&self, identity: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.inner()?;
        self.write(&mut inner, Write::Identity(identity.to_vec()));
        self.sync_now(inner);
        Ok(())
    }

    fn identity(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner()?.current.identity.clone())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.sync_now(self.inner()?);
        Ok(())
    }

    fn sync_count(&self) -> u64 {
        self.disk.lock().stats.sync_count
    }

    fn stats(&self) -> LogStats {
        let inner = self.disk.lock();
        LogStats {
            waiting_count: inner.waiting.len() as u64,
            ..inner.stats
        }
    }

    fn failure(&self) -> Option<String> {
        None
    }
}

impl Store for SimulatedHome {
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.inner()?.current.registered.entries.get(name).cloned())
    }

    fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner()?.current.registered.extras.get(key).cloned())
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner()?.current.registered.meta.get(key).cloned())
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        Ok(self.inner()?.current.registered.summary)
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        let registered = Arc::clone(&self.inner()?.current.registered);
        Ok(Box::new(StillView(registered)))
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let mut inner = self.inner()?;
        self.write(&mut inner, Write::Batch(Arc::new(batch)));
        let registered = Arc::clone(&inner.current.registered);
        drop(inner);
        (self.disk.witness)(&registered.meta, &registered.summary);
        Ok(())
    }

    fn begin_install(&self) -> Result<Box<dyn Install>, StoreError> {
        drop(self.inner()?);
        Ok(Box::new(Filling {
            home: self.clone(),
            state: Registered::default(),
        }))
    }
}

struct Filling {
    home: SimulatedHome,
    state: Registered,
}

impl Install for Filling {
    fn put_entries(&mut self, entries: &[(Name, Entry)]) -> Result<(), StoreError> {
        drop(self.home.inner()?);
        for (name, entry) in entries {
            for tag in &entry.tags {
                self.state.tags.insert((tag.clone(), name.clone()));
            }
            self.state.entries.insert(name.clone(), entry.clone());
        }
        Ok(())
    }

    fn put_extras(&mut self, extras: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        drop(self.home.inner()?);
        self.state.extras.extend(extras.iter().cloned());
        Ok(())
    }

    fn finish(
        self: Box<Self>,
        meta: BTreeMap<Vec<u8>, Vec<u8>>,
        summary: Summary,
    ) -> Result<(), StoreError> {
        let mut state = self.state;
        state.meta = meta;
        state.summary = summary;
        let state = Arc::new(state);
        let mut inner = self.home.inner()?;
        self.home
            .write(&mut inner, Write::Replace(Arc::clone(&state)));
        self.home.sync_now(inner);
        (self.home.disk.witness)(&state.meta, &state.summary);
        Ok(())
    }
}

struct StillView(Arc<Registered>);

impl View for StillView {
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.0.entries.get(name).cloned())
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        Ok(self.0.summary)
    }

    fn metas(&self, visit: &mut RecordVisitor<'_>) -> Result<(), StoreError> {
        for (key, value) in &self.0.meta {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn entries(
        &self,
        prefix: &str,
        from: &str,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), StoreError> {
        let range = self.0.entries.range(prefix.max(from).to_owned()..);
        for (name, entry) in range.take_while(|(name, _)| name.starts_with(prefix)) {
            if visit(name, StoredEntry::plain(entry))? == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn tagged(&self, tag: &str) -> Result<Box<dyn NameCursor + '_>, StoreError> {
        Ok(Box::new(Tagged {
            state: &self.0,
            tag: tag.to_owned(),
            from: Bound::Included(Name::new()),
        }))
    }

    fn created_since(
        &self,
        as_of: Revision,
        visit: &mut CreatedVisitor<'_>,
    ) -> Result<(), StoreError> {
        let entries = self.0.entries.iter();
        let mut created: Vec<_> = entries
            .map(|(name, entry)| (entry.created, name))
            .filter(|&(created, _)| created > as_of)
            .collect();
        created.sort_unstable();
        for (created, name) in created {
            if visit(created, name)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn extras(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut RecordVisitor<'_>,
    ) -> Result<(), StoreError> {
        let range = self.0.extras.range(prefix.max(from).to_vec()..);
        for (key, value) in range.take_while(|(key, _)| key.starts_with(prefix)) {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct Tagged<'a> {
    state: &'a Registered,
    tag: String,
    from: Bound<Name>,
}

impl NameCursor for Tagged<'_> {
    fn seek(&mut self, from: &str) -> Result<Option<Name>, StoreError> {
        self.from = Bound::Included(from.to_owned());
        self.next()
    }

    fn next(&mut self) -> Result<Option<Name>, StoreError> {
        let from = self.from.clone().map(|name| (self.tag.clone(), name));
        let mut range = self.state.tags.range((from, Bound::Unbounded));
        let found = range.next().filter(|(tag, _)| *tag == self.tag);
        let name = found.map(|(_, name)| name.clone());
        if let Some(name) = &name {
            self.from = Bound::Excluded(name.clone());
        }
        Ok(name)
    }
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
