//! Large removals: hidden at once, erased in small batches.
//!
//! A [`Removal`] is one record in the batch that writes it. From then on readers skip the entries that it
//! removes, and a thread erases these from the tables, a bounded number per batch, between other writes. The
//! last of these batches deletes the record. After a crash the thread starts again from the records. No reader
//! ever sees a part of a removal, and no batch grows with the number of names.
//!
//! A hidden entry stays under its key until it is erased, and its tags stay in the index. If its name is
//! registered again before that, the new entry takes its place, and the same batch removes the traces of the
//! old one (see `state.rs`).

use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rocksdb::{ReadOptions, WriteBatch};

use super::state::{Current, Families, Generation, created_key, index_key, name_in, successor};
use super::{Fixed, lock, read, write};
use crate::crash::crash_point;
use crate::error::StoreError;
use crate::format;
use crate::model::{Entry, Name, Revision};
use crate::removal::Removal;

/// Prefix of the keys of removal records in `sm_meta`; `before` follows, big-endian.
pub(super) const RECORDS: &[u8] = b"removal/";

/// Maximum number of names that one batch erases, and of names that are examined for it.
const ERASED_COUNT_MAX: usize = 1000;
const VISITED_COUNT_MAX: usize = 10_000;

/// Approximate maximum number of bytes of the entries that one batch erases.
const ERASED_LEN_MAX: usize = 64 << 10;

/// Maximum number of removals that wait to be erased: each lookup is compared with all of them. When it is
/// reached, the first one is finished before another one is written.
pub(super) const WAITING_COUNT_MAX: usize = 16;

/// The removals that are not erased yet, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Removals(Vec<Arc<Removal>>);

impl Removals {
    /// Reads the removals from their records.
    pub(super) fn load(fixed: &Fixed) -> Result<Self, StoreError> {
        let database = fixed.borrow_owner();
        let meta = &fixed.borrow_dependent().state_meta;
        let mut found = Vec::new();
        let mut iterator = database.db.raw_iterator_cf(meta);
        iterator.seek(RECORDS);
        while let Some((key, record)) = iterator.item().filter(|(key, _)| key.starts_with(RECORDS))
        {
            let removal = format::unseal(record)
                .and_then(Removal::read)
                .map_err(|reason| StoreError::corrupt(super::record_name(key), reason));
            found.push(Arc::new(database.decoded(removal)?));
            iterator.next();
        }
        database.read(iterator.status())?;
        Ok(Self(found))
    }

    /// Returns true if an entry under this name may be hidden.
    pub(super) fn cover(&self, name: &str) -> bool {
        self.0.iter().any(|removal| removal.covers(name))
    }

    /// Returns true if the entry of this name that was created at `created` is hidden.
    pub(super) fn take(&self, name: &str, created: Revision) -> bool {
        self.0.iter().any(|removal| removal.takes(name, created))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, removal: Arc<Removal>) {
        self.0.push(removal);
    }

    fn first(&self) -> Option<&Arc<Removal>> {
        self.0.first()
    }

    fn finish(&mut self, removal: &Removal) {
        self.0.retain(|one| one.before() != removal.before());
    }
}

/// Returns the key of a removal's record. No two removals share a key: they are written one after the other,
/// each for later commands.
pub(super) fn record_key(removal: &Removal) -> Vec<u8> {
    [RECORDS, &removal.before().to_be_bytes()].concat()
}

/// The context of the eraser: the database, the present state, and the lock of its writers.
pub(super) struct Ground {
    pub(super) fixed: Arc<Fixed>,
    pub(super) current: Arc<RwLock<Current>>,
    pub(super) writer: Arc<Mutex<()>>,
    /// Pause before each batch of the thread.
    pub(super) pause: Duration,
}

impl Ground {
    /// Returns a task for the first removal that waits, in the present generation.
    fn next(&self) -> Option<Task> {
        let current = read(&self.current);
        let removal = Arc::clone(current.removals.first()?);
        Some(Task {
            generation: Arc::clone(&current.generation),
            removal,
            at: Place::default(),
        })
    }

    /// Erases all of the first removal that waits. The caller must hold the writer's lock.
    pub(super) fn finish_first(&self) -> Result<(), StoreError> {
        let Some(mut task) = self.next() else {
            return Ok(());
        };
        while !task.step(self)? {}
        Ok(())
    }
}

/// A removal that is being erased.
struct Task {
    generation: Arc<Generation>,
    removal: Arc<Removal>,
    at: Place,
}

/// The progress of a task.
#[derive(Default)]
struct Place {
    /// Index into the prefixes, followed by the single names.
    target: usize,
    /// The first name with that prefix that is left.
    from: Vec<u8>,
}

/// The content of one batch.
#[derive(Default)]
struct Portion {
    batch: WriteBatch,
    erased_count: usize,
    visited_count: usize,
    len: usize,
}

impl Portion {
    fn is_full(&self) -> bool {
        self.erased_count >= ERASED_COUNT_MAX
            || self.visited_count >= VISITED_COUNT_MAX
            || self.len >= ERASED_LEN_MAX
    }

    /// Erases the entry of `name` if the removal removes it.
    fn visit(
        &mut self,
        families: &Families<'_>,
        removal: &Removal,
        name: &str,
        record: &[u8],
    ) -> Result<(), StoreError> {
        self.visited_count += 1;
        let entry = format::unseal_entry(name, record)?;
        if removal.takes(name, entry.created) {
            self.batch.delete_cf(&families.state, name);
            erase_traces(&mut self.batch, families, name, &entry, None);
            self.erased_count += 1;
            self.len += record.len();
        }
        Ok(())
    }
}

/// Deletes the keys by which `old` is found, except those that `new` has under the same name, too.
pub(super) fn erase_traces(
    batch: &mut WriteBatch,
    families: &Families<'_>,
    name: &str,
    old: &Entry,
    new: Option<&Entry>,
) {
    if new.is_none_or(|new| new.created != old.created) {
        batch.delete_cf(&families.created, created_key(old.created, name));
    }
    for tag in &old.tags {
        if new.is_none_or(|new| !new.tags.contains(tag)) {
            batch.delete_cf(&families.index, index_key(tag, name));
        }
    }
}

impl Task {
    /// Erases the next names, and deletes the record with the last of them. Returns true when the removal is
    /// finished. The caller must hold the writer's lock.
    fn step(&mut self, ground: &Ground) -> Result<bool, StoreError> {
        let database = ground.fixed.borrow_owner();
        database.health.check()?;
        if read(&ground.current).generation.number() != self.generation.number() {
            // A snapshot has replaced the generation, and brought no removals.
            return Ok(true);
        }
        let mut portion = Portion::default();
        let finished = self.fill(ground, &mut portion)?;
        crash_point("erase");
        if !finished {
            database.write(portion.batch)?;
            crash_point("erase-written");
            return Ok(false);
        }
        let meta = &ground.fixed.borrow_dependent().state_meta;
        portion.batch.delete_cf(meta, record_key(&self.removal));
        database.write(portion.batch)?;
        crash_point("erase-finished");
        write(&ground.current).removals.finish(&self.removal);
        Ok(true)
    }

    /// Fills `portion`. Returns true if it holds all that is left.
    fn fill(&mut self, ground: &Ground, portion: &mut Portion) -> Result<bool, StoreError> {
        let database = ground.fixed.borrow_owner();
        let families = self.generation.families();
        let removal = &self.removal;
        while let Some(prefix) = removal.prefixes().get(self.at.target) {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_iterate_lower_bound(prefix.as_bytes().max(&self.at.from));
            if let Some(end) = successor(prefix.as_bytes()) {
                options.set_iterate_upper_bound(end);
            }
            let mut iterator = database.db.raw_iterator_cf_opt(&families.state, options);
            iterator.seek_to_first();
            while let Some((key, record)) = iterator.item() {
                if portion.is_full() {
                    self.at.from = key.to_vec();
                    return Ok(false);
                }
                let visited =
                    name_in(key).and_then(|name| portion.visit(families, removal, name, record));
                database.decoded(visited)?;
                iterator.next();
            }
            database.read(iterator.status())?;
            self.at.target += 1;
            self.at.from.clear();
        }
        let prefix_count = removal.prefixes().len();
        while let Some(name) = removal.names().get(self.at.target - prefix_count) {
            if portion.is_full() {
                return Ok(false);
            }
            let found = database.db.get_pinned_cf(&families.state, name);
            if let Some(record) = database.read(found)? {
                database.decoded(portion.visit(families, removal, name, &record))?;
            }
            self.at.target += 1;
        }
        Ok(true)
    }
}

/// Handle of the eraser thread. Dropping it ends the thread; the rest is erased after the next start.
pub(super) struct Eraser {
    signal: Arc<Signal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Signal {
    state: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    work: bool,
    stop: bool,
}

impl Eraser {
    pub(super) fn start(ground: Ground) -> Result<Self, StoreError> {
        let signal = Arc::new(Signal::default());
        let path = ground.fixed.borrow_owner().path.clone();
        let work = Arc::clone(&signal);
        let thread = thread::Builder::new()
            .name("eraser".to_owned())
            .spawn(move || work.run(&ground))
            .map_err(super::folder::at(&path))?;
        let eraser = Self {
            signal,
            thread: Mutex::new(Some(thread)),
        };
        // Removals may be left from before.
        eraser.wake();
        Ok(eraser)
    }

    /// Tells the thread that there is something to erase.
    pub(super) fn wake(&self) {
        lock(&self.signal.state).work = true;
        self.signal.changed.notify_one();
    }

    /// Ends the thread between two batches.
    pub(super) fn stop(&self) {
        lock(&self.signal.state).stop = true;
        self.signal.changed.notify_one();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that erases removed entries panicked");
        }
    }
}

impl Drop for Eraser {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Signal {
    fn run(&self, ground: &Ground) {
        while self.wait(None) {
            while let Some(mut task) = ground.next() {
                loop {
                    if !self.wait(Some(ground.pause)) {
                        return;
                    }
                    let finished = {
                        let _writer = lock(&ground.writer);
                        task.step(ground)
                    };
                    match finished {
                        Ok(true) => break,
                        Ok(false) => {}
                        // The store has failed and has reported it.
                        Err(_) => return,
                    }
                }
                task.log();
            }
        }
    }

    /// Waits for work, or for the pause if one is given. Returns false when the thread must stop.
    fn wait(&self, pause: Option<Duration>) -> bool {
        let mut wanted = lock(&self.state);
        match pause {
            Some(pause) => {
                let waited = self
                    .changed
                    .wait_timeout_while(wanted, pause, |wanted| !wanted.stop);
                return !waited
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .0
                    .stop;
            }
            None => {
                while !wanted.work && !wanted.stop {
                    wanted = self
                        .changed
                        .wait(wanted)
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            }
        }
        wanted.work = false;
        !wanted.stop
    }
}

impl Task {
    fn log(&self) {
        let names: &[Name] = self.removal.names();
        tracing::debug!(
            prefix_count = self.removal.prefixes().len(),
            name_count = names.len(),
            before = %self.removal.before(),
            "a large removal is erased"
        );
    }
}
