//! The registry's data in RocksDB: generations, batches and views.

use std::str;
use std::sync::Arc;

use rocksdb::{DBRawIteratorWithThreadMode, ReadOptions, SnapshotWithThreadMode, WriteBatch};
use self_cell::self_cell;

use super::erase::{self, Removals, WAITING_COUNT_MAX, erase_traces};
use super::install::RocksInstall;
use super::{Database, Db, Family, Fixed, RocksStore, Shared, lock, write};
use crate::crash::crash_point;
use crate::error::StoreError;
use crate::format::{self, Reader};
use crate::model::{Entry, Name, Revision};
use crate::store::{
    Batch, CreatedVisitor, EntryChange, EntryVisitor, Install, NameCursor, RecordVisitor, Store,
    StoredEntry, View,
};
use crate::summary::Summary;

/// The byte between tag and name in a key of the index. It occurs in no UTF-8 text.
const AFTER_TAG: u8 = 0xff;

const GENERATION: &[u8] = b"generation";
const SUMMARY: &[u8] = b"summary";
const META: &[u8] = b"meta/";

/// The column families of one generation of the state.
pub(super) struct Families<'a> {
    pub(super) state: Family<'a>,
    pub(super) index: Family<'a>,
    pub(super) created: Family<'a>,
    pub(super) extra: Family<'a>,
}

self_cell!(
    struct OpenFamilies {
        owner: Arc<Database>,
        #[covariant]
        dependent: Families,
    }
);

/// An open generation of the state. RocksDB keeps its data as long as this lives, even after its column
/// families were dropped.
pub(super) struct Generation {
    number: u64,
    families: OpenFamilies,
}

impl Generation {
    pub(super) fn open(database: &Arc<Database>, number: u64) -> Result<Self, StoreError> {
        let [state, index, created, extra] = generation_families(number);
        let families = OpenFamilies::try_new(Arc::clone(database), |database| {
            Ok::<_, StoreError>(Families {
                state: database.family(&state)?,
                index: database.family(&index)?,
                created: database.family(&created)?,
                extra: database.family(&extra)?,
            })
        })?;
        Ok(Self { number, families })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn families(&self) -> &Families<'_> {
        self.families.borrow_dependent()
    }
}

/// The present state.
pub(super) struct Current {
    pub(super) generation: Arc<Generation>,
    /// The large removals that hide some of its entries.
    pub(super) removals: Removals,
}

impl<'a> Families<'a> {
    pub(super) fn all(&self) -> [&Family<'a>; 4] {
        [&self.state, &self.index, &self.created, &self.extra]
    }
}

/// The names of a generation's column families, without its number.
const KINDS: [&str; 4] = ["state_g", "idx_g", "created_g", "extra_g"];

/// Returns the names of the column families of generation `number`.
pub(super) fn generation_families(number: u64) -> [String; 4] {
    KINDS.map(|kind| format!("{kind}{number}"))
}

/// Returns the generation that a column family belongs to, by its name.
pub(super) fn generation_in(name: &str) -> Option<u64> {
    let number = KINDS.iter().find_map(|kind| name.strip_prefix(kind))?;
    number.parse().ok()
}

/// Opens the generation that the database names, and drops the column families of other generations: those of
/// an unfinished install, and those of a replaced generation that were not dropped yet.
pub(super) fn open_generation(fixed: &Fixed) -> Result<Generation, StoreError> {
    let database = fixed.borrow_owner();
    let meta = &fixed.borrow_dependent().state_meta;
    let number = match database.record(meta, GENERATION)? {
        Some(payload) => {
            let number = Reader(&payload).u64();
            number.map_err(|reason| StoreError::corrupt("the number of the generation", reason))?
        }
        None => {
            create_first(database, meta)?;
            1
        }
    };
    let current = generation_families(number);
    for name in &database.opened {
        let of_generation = KINDS.iter().any(|kind| name.starts_with(kind));
        if of_generation && !current.contains(name) {
            tracing::info!(family = %name, "removing what an unfinished install left");
            database.written(database.db.drop_cf(name))?;
            crash_point("open-leftover-dropped");
        }
    }
    // Format 1 had no creation order.
    let [_, _, created, _] = current;
    if database.db.cf_handle(&created).is_none() {
        database.create_family(&created)?;
    }
    Generation::open(database, number)
}

/// Creates the state of a database that has none.
fn create_first(database: &Database, meta: &Family<'_>) -> Result<(), StoreError> {
    let mut iterator = database.db.raw_iterator_cf(meta);
    iterator.seek_to_first();
    let empty = !iterator.valid();
    database.read(iterator.status())?;
    if !empty {
        return Err(StoreError::Damaged {
            path: database.path.clone(),
            reason: "the state's records do not name its generation".to_owned(),
        });
    }
    for name in generation_families(1) {
        // A crash while the database was created may have left some of them out.
        if !database.opened.contains(&name) {
            database.create_family(&name)?;
        }
    }
    crash_point("open-first");
    let mut batch = WriteBatch::default();
    batch.put_cf(meta, GENERATION, format::seal(&1u64.to_be_bytes()));
    database.write(batch)?;
    database.sync()
}

impl Database {
    /// Creates a column family.
    pub(super) fn create_family(&self, name: &str) -> Result<(), StoreError> {
        self.health.check()?;
        self.written(self.db.create_cf(name, &self.tuning.family(name)))?;
        crash_point("family-made");
        Ok(())
    }
}

impl Store for RocksStore {
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        let database = self.shared.database();
        let current = self.shared.current();
        let state = &current.generation.families().state;
        let found = database
            .db
            .get_pinned_cf_opt(state, name, &database.read_options);
        match database.read(found)? {
            Some(record) => {
                let entry = database.decoded(format::unseal_entry(name, &record))?;
                Ok((!current.removals.take(name, entry.created)).then_some(entry))
            }
            None => Ok(None),
        }
    }

    fn extra(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let current = self.shared.current();
        let extra = &current.generation.families().extra;
        self.shared.database().record(extra, key)
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let family = &self.shared.families().state_meta;
        self.shared.database().record(family, &meta_key(key))
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        let database = self.shared.database();
        let family = &self.shared.families().state_meta;
        let found = database
            .db
            .get_pinned_cf_opt(family, SUMMARY, &database.read_options);
        match database.read(found)? {
            Some(record) => database.decoded(Summary::from_record(&record)),
            None => Ok(Summary::default()),
        }
    }

    fn view(&self) -> Result<Box<dyn View>, StoreError> {
        // The lock keeps an install from switching, and a removal from beginning, between these steps.
        let current = self.shared.current();
        let view = SnapshotCell::new(Arc::clone(&self.shared.fixed), |fixed| {
            fixed.borrow_owner().db.snapshot()
        });
        Ok(Box::new(RocksView {
            snapshot: view,
            generation: Arc::clone(&current.generation),
            removals: current.removals.clone(),
        }))
    }

    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        let _writer = lock(&self.shared.state_writer);
        let database = self.shared.database();
        let meta = &self.shared.families().state_meta;
        if batch.removal.is_some() {
            while self.shared.current().removals.count() >= WAITING_COUNT_MAX {
                self.shared.ground().finish_first()?;
            }
        }
        let (generation, removals) = {
            let current = self.shared.current();
            (Arc::clone(&current.generation), current.removals.clone())
        };
        let families = generation.families();
        let mut writes = WriteBatch::default();
        for (name, change) in &batch.entries {
            write_change(&mut writes, families, name, change);
            if change.before.is_none() && removals.cover(name) {
                let hidden = self.hidden_entry(families, name)?;
                if let (Some(old), Some(new)) = (hidden, &change.after) {
                    erase_traces(&mut writes, families, name, &old, Some(new));
                }
            }
        }
        for (key, value) in &batch.extras {
            match value {
                Some(value) => writes.put_cf(&families.extra, key, format::seal(value)),
                None => writes.delete_cf(&families.extra, key),
            }
        }
        for (key, value) in &batch.meta {
            writes.put_cf(meta, meta_key(key), format::seal(value));
        }
        writes.put_cf(meta, SUMMARY, batch.summary.to_record());
        let Some(removal) = batch.removal else {
            crash_point("apply");
            database.write(writes)?;
            crash_point("apply-written");
            return Ok(());
        };
        let record = format::seal_with(64, |out| removal.write(out));
        writes.put_cf(meta, erase::record_key(&removal), record);
        {
            // Readers wait here, so they see all of the batch or nothing.
            let mut current = write(&self.shared.current);
            crash_point("removal");
            database.write(writes)?;
            current.removals.push(Arc::new(removal));
        }
        crash_point("removal-written");
        self.shared.eraser.wake();
        Ok(())
    }

    fn begin_install(&self) -> Result<Box<dyn Install>, StoreError> {
        Ok(Box::new(RocksInstall::begin(Arc::clone(&self.shared))?))
    }
}

impl RocksStore {
    /// Returns the entry that is stored under `name` and hidden by a large removal, if there is one.
    fn hidden_entry(
        &self,
        families: &Families<'_>,
        name: &str,
    ) -> Result<Option<Entry>, StoreError> {
        let database = self.shared.database();
        let found = database.db.get_pinned_cf(&families.state, name);
        let Some(record) = database.read(found)? else {
            return Ok(None);
        };
        let entry = format::unseal_entry(name, &record);
        database.decoded(entry).map(Some)
    }
}

fn write_change(writes: &mut WriteBatch, to: &Families<'_>, name: &str, change: &EntryChange) {
    match &change.after {
        Some(entry) => writes.put_cf(&to.state, name, format::seal_entry(entry)),
        None => writes.delete_cf(&to.state, name),
    }
    let created = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.created);
    let (before, after) = (created(&change.before), created(&change.after));
    if before != after {
        if let Some(created) = before {
            writes.delete_cf(&to.created, created_key(created, name));
        }
        if let Some(created) = after {
            writes.put_cf(&to.created, created_key(created, name), []);
        }
    }
    for tag in change.tags_removed() {
        writes.delete_cf(&to.index, index_key(tag, name));
    }
    for tag in change.tags_added() {
        writes.put_cf(&to.index, index_key(tag, name), []);
    }
}

/// Writes an entry that did not exist before.
pub(super) fn write_new(writes: &mut WriteBatch, to: &Families<'_>, name: &str, entry: &Entry) {
    writes.put_cf(&to.state, name, format::seal_entry(entry));
    writes.put_cf(&to.created, created_key(entry.created, name), []);
    for tag in &entry.tags {
        writes.put_cf(&to.index, index_key(tag, name), []);
    }
}

pub(super) fn index_key(tag: &str, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(tag.len() + 1 + name.len());
    key.extend_from_slice(tag.as_bytes());
    key.push(AFTER_TAG);
    key.extend_from_slice(name.as_bytes());
    key
}

pub(super) fn created_key(created: Revision, name: &str) -> Vec<u8> {
    [&created.to_be_bytes()[..], name.as_bytes()].concat()
}

/// Splits a key of the index into tag and name.
pub(super) fn split_index_key(key: &[u8]) -> Option<(&str, &str)> {
    let at = key.iter().position(|&byte| byte == AFTER_TAG)?;
    let (tag, name) = (key.get(..at)?, key.get(at + 1..)?);
    Some((str::from_utf8(tag).ok()?, str::from_utf8(name).ok()?))
}

fn meta_key(key: &[u8]) -> Vec<u8> {
    [META, key].concat()
}

impl Shared {
    /// Makes `generation` the state, durably, and returns the previous one. `metas` replaces all meta records,
    /// and all large removals end. Readers wait meanwhile, for the time of one sync.
    pub(super) fn switch(
        &self,
        generation: Arc<Generation>,
        metas: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        summary: Summary,
    ) -> Result<Arc<Generation>, StoreError> {
        let _writer = lock(&self.state_writer);
        let database = self.database();
        let meta = &self.families().state_meta;
        let mut writes = WriteBatch::default();
        let mut iterator = database.db.raw_iterator_cf(meta);
        iterator.seek(META);
        while let Some(key) = iterator.key().filter(|key| key.starts_with(META)) {
            writes.delete_cf(meta, key);
            iterator.next();
        }
        database.read(iterator.status())?;
        let mut iterator = database.db.raw_iterator_cf(meta);
        iterator.seek(erase::RECORDS);
        while let Some(key) = iterator.key().filter(|key| key.starts_with(erase::RECORDS)) {
            writes.delete_cf(meta, key);
            iterator.next();
        }
        database.read(iterator.status())?;
        for (key, value) in metas {
            writes.put_cf(meta, meta_key(&key), format::seal(&value));
        }
        writes.put_cf(meta, SUMMARY, summary.to_record());
        let number = generation.number().to_be_bytes();
        writes.put_cf(meta, GENERATION, format::seal(&number));
        let mut current = write(&self.current);
        crash_point("switch");
        database.write(writes)?;
        crash_point("switch-written");
        // This does not go through the sync thread, which may be running a callback that waits for this lock.
        database.sync()?;
        crash_point("switch-synced");
        let next = Current {
            generation,
            removals: Removals::default(),
        };
        Ok(std::mem::replace(&mut *current, next).generation)
    }
}

/// A RocksDB snapshot, which borrows the database.
type DbSnapshot<'a> = SnapshotWithThreadMode<'a, Db>;

type Iter<'a> = DBRawIteratorWithThreadMode<'a, Db>;

self_cell!(
    struct SnapshotCell {
        owner: Arc<Fixed>,
        #[not_covariant]
        dependent: DbSnapshot,
    }
);

/// A view of the state at one moment.
struct RocksView {
    snapshot: SnapshotCell,
    generation: Arc<Generation>,
    removals: Removals,
}

impl RocksView {
    fn database(&self) -> &Database {
        self.snapshot.borrow_owner().borrow_owner()
    }

    /// Returns an iterator over the keys that start with `prefix` and are not below `from`, at the first of
    /// them.
    fn scan(&self, family: &Family<'_>, prefix: &[u8], from: &[u8]) -> Iter<'_> {
        let mut options = ReadOptions::default();
        // A scan of everything would evict from the cache what lookups need.
        options.fill_cache(!prefix.is_empty());
        options.set_iterate_lower_bound(prefix.max(from));
        if let Some(end) = successor(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut iterator = self.iterator(family, options);
        iterator.seek_to_first();
        iterator
    }

    fn iterator(&self, family: &Family<'_>, mut options: ReadOptions) -> Iter<'_> {
        self.snapshot
            .with_dependent(|_, snapshot| options.set_snapshot(snapshot));
        self.database().db.raw_iterator_cf_opt(family, options)
    }

    fn get(&self, family: &Family<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self
            .snapshot
            .with_dependent(|_, snapshot| snapshot.get_cf(family, key));
        self.database().read(found)
    }

    fn records(
        &self,
        family: &Family<'_>,
        prefix: &[u8],
        from: &[u8],
        visit: &mut RecordVisitor<'_>,
    ) -> Result<(), StoreError> {
        let mut iterator = self.scan(family, prefix, from);
        while let Some((key, record)) = iterator.item() {
            let payload = format::unseal_named(record, || super::record_name(key));
            if visit(key, self.database().decoded(payload)?)?.is_break() {
                return Ok(());
            }
            iterator.next();
        }
        self.database().read(iterator.status())
    }
}

impl View for RocksView {
    fn entry(&self, name: &str) -> Result<Option<Entry>, StoreError> {
        match self.get(&self.generation.families().state, name.as_bytes())? {
            Some(record) => {
                let entry = self
                    .database()
                    .decoded(format::unseal_entry(name, &record))?;
                Ok((!self.removals.take(name, entry.created)).then_some(entry))
            }
            None => Ok(None),
        }
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        let meta = &self.snapshot.borrow_owner().borrow_dependent().state_meta;
        match self.get(meta, SUMMARY)? {
            Some(record) => self.database().decoded(Summary::from_record(&record)),
            None => Ok(Summary::default()),
        }
    }

    fn metas(&self, visit: &mut RecordVisitor<'_>) -> Result<(), StoreError> {
        let meta = &self.snapshot.borrow_owner().borrow_dependent().state_meta;
        self.records(meta, META, &[], &mut |key, value| {
            visit(key.strip_prefix(META).unwrap_or(key), value)
        })
    }

    fn entries(
        &self,
        prefix: &str,
        from: &str,
        visit: &mut EntryVisitor<'_>,
    ) -> Result<(), StoreError> {
        let state = &self.generation.families().state;
        let mut iterator = self.scan(state, prefix.as_bytes(), from.as_bytes());
        while let Some((key, record)) = iterator.item() {
            let name = self.database().decoded(name_in(key))?;
            let is_hidden = self.removals.cover(name) && {
                let entry = self
                    .database()
                    .decoded(format::unseal_entry(name, record))?;
                self.removals.take(name, entry.created)
            };
            if !is_hidden && visit(name, StoredEntry::sealed(name, record))?.is_break() {
                return Ok(());
            }
            iterator.next();
        }
        self.database().read(iterator.status())
    }

    fn tagged(&self, tag: &str) -> Result<Box<dyn NameCursor + '_>, StoreError> {
        let mut prefix = tag.as_bytes().to_vec();
        prefix.push(AFTER_TAG);
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(prefix.clone());
        if let Some(end) = successor(&prefix) {
            options.set_iterate_upper_bound(end);
        }
        let iterator = self.iterator(&self.generation.families().index, options);
        Ok(Box::new(TagCursor {
            view: self,
            iterator,
            key: prefix,
            tag_len: tag.len() + 1,
            begun: false,
        }))
    }

    fn created_since(
        &self,
        as_of: Revision,
        visit: &mut CreatedVisitor<'_>,
    ) -> Result<(), StoreError> {
        let Some(from) = as_of.next() else {
            return Ok(());
        };
        let created = &self.generation.families().created;
        let mut iterator = self.scan(created, &[], &from.to_be_bytes());
        while let Some(key) = iterator.key() {
            let (created, name) = self.database().decoded(created_in(key))?;
            if !self.removals.take(name, created) && visit(created, name)?.is_break() {
                return Ok(());
            }
            iterator.next();
        }
        self.database().read(iterator.status())
    }

    fn extras(
        &self,
        prefix: &[u8],
        from: &[u8],
        visit: &mut RecordVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.records(&self.generation.families().extra, prefix, from, visit)
    }
}

/// A cursor over the names with one tag in the index.
struct TagCursor<'a> {
    view: &'a RocksView,
    iterator: Iter<'a>,
    /// Tag and separator, followed by the name to seek.
    key: Vec<u8>,
    /// Length of tag and separator in bytes.
    tag_len: usize,
    begun: bool,
}

impl TagCursor<'_> {
    /// Returns the name at the cursor, or the next one that is not hidden.
    fn current(&mut self) -> Result<Option<Name>, StoreError> {
        let database = self.view.database();
        while let Some(key) = self.iterator.key() {
            // The bounds of the iterator limit it to keys that begin with the tag.
            let name = key.get(self.tag_len..).unwrap_or_default();
            let name = database.decoded(name_in(name))?;
            if !self.view.removals.cover(name) || self.view.entry(name)?.is_some() {
                return Ok(Some(name.to_owned()));
            }
            self.iterator.next();
        }
        database.read(self.iterator.status())?;
        Ok(None)
    }
}

impl NameCursor for TagCursor<'_> {
    fn seek(&mut self, from: &str) -> Result<Option<Name>, StoreError> {
        self.key.truncate(self.tag_len);
        self.key.extend_from_slice(from.as_bytes());
        self.iterator.seek(&self.key);
        self.begun = true;
        self.current()
    }

    fn next(&mut self) -> Result<Option<Name>, StoreError> {
        if !self.begun {
            self.iterator.seek_to_first();
            self.begun = true;
        } else if self.iterator.valid() {
            self.iterator.next();
        }
        self.current()
    }
}

pub(super) fn name_in(key: &[u8]) -> Result<&str, StoreError> {
    str::from_utf8(key).map_err(|error| {
        StoreError::corrupt(
            format!("the name {}", key.escape_ascii()),
            error.to_string(),
        )
    })
}

/// Splits a key of the creation order into revision and name.
pub(super) fn created_in(key: &[u8]) -> Result<(Revision, &str), StoreError> {
    let mut reader = Reader(key);
    let created = reader.revision().map_err(|reason| {
        StoreError::corrupt(
            format!("the key {} of the order of creation", key.escape_ascii()),
            reason,
        )
    })?;
    Ok((created, name_in(reader.0)?))
}

/// Returns the first key behind all keys that start with `prefix`; `None` if there is none.
pub(super) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_prefix_ends_where_no_key_can_start_with_it() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(successor(b"\xff"), None);
        assert_eq!(successor(b""), None);
        let last = "a\u{10ffff}".as_bytes();
        assert!(successor(last).unwrap().as_slice() > [last, &[0xff; 9]].concat().as_slice());
    }

    #[test]
    fn no_two_pairs_of_tag_and_name_share_an_index_key() {
        let texts = ["", "\0", "a", "a\0", "a\0b", "b", "ab", "\u{10ffff}", "ÿ"];
        let mut keys = Vec::new();
        for tag in texts {
            for name in texts {
                keys.push(index_key(tag, name));
            }
        }
        let distinct: BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
