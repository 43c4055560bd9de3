//! Large removals: hidden at once, erased bit by bit.
//!
//! A [`Removal`] is one record in the batch that brings it. From then on readers pass over what it takes, and a
//! thread erases that from the tables, so many names at a time, between other writes. The record goes with the
//! last of them. After a crash the thread begins again with what the records say: at no time is there a state
//! with a part of a removal in it, and no batch grows with the number of names.
//!
//! What is hidden is under its key until it is erased, with its tags in the index. A name that is registered
//! anew before that takes the place of its old entry, whose traces the same batch removes (see `state.rs`).

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

/// Keys of the records of removals in `sm_meta` begin with this; `before` follows, big-endian.
pub(super) const RECORDS: &[u8] = b"removal/";

/// Names that one batch erases, and how many are looked at for it.
const ERASED_COUNT_MAX: usize = 1000;
const VISITED_COUNT_MAX: usize = 10_000;

/// Bytes of the entries that one batch erases, about.
const ERASED_LEN_MAX: usize = 64 << 10;

/// Removals that may wait to be erased: each look-up is compared with all of them. Before another one is
/// written, the first is finished.
pub(super) const WAITING_COUNT_MAX: usize = 16;

/// The removals that are not erased yet, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Removals(Vec<Arc<Removal>>);

impl Removals {
    /// Those in the records.
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

    /// Whether an entry under this name may be hidden.
    pub(super) fn cover(&self, name: &str) -> bool {
        self.0.iter().any(|removal| removal.covers(name))
    }

    /// Whether the entry under this name is hidden that was created then.
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

/// The key of a removal's record. Removals are written one after the other, each of later commands.
pub(super) fn record_key(removal: &Removal) -> Vec<u8> {
    [RECORDS, &removal.before().to_be_bytes()].concat()
}

/// Where the thread finds what to do.
pub(super) struct Ground {
    pub(super) fixed: Arc<Fixed>,
    pub(super) current: Arc<RwLock<Current>>,
    pub(super) writer: Arc<Mutex<()>>,
    /// Before each batch of the thread.
    pub(super) pause: Duration,
}

impl Ground {
    /// The first removal that waits, and what it is in.
    fn next(&self) -> Option<Task> {
        let current = read(&self.current);
        let removal = Arc::clone(current.removals.first()?);
        Some(Task {
            generation: Arc::clone(&current.generation),
            removal,
            at: Place::default(),
        })
    }

    /// Erases all of the first removal that waits. For the writer, who holds its lock.
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

/// How far it has come.
#[derive(Default)]
struct Place {
    /// Index of the prefix, then of the single name behind all prefixes.
    target: usize,
    /// Of the names with that prefix, the first that is left.
    from: Vec<u8>,
}

/// What one batch erases.
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

    /// Erases the entry under `name` if the removal takes it.
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

/// Removes the keys by which `old` is found, but for those that `new` has under the same name, too.
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
    /// Erases the next names, and with the last of them the record; whether that is done. To be called under
    /// the writer's lock.
    fn step(&mut self, ground: &Ground) -> Result<bool, StoreError> {
        let database = ground.fixed.borrow_owner();
        database.health.check()?;
        if read(&ground.current).generation.number() != self.generation.number() {
            // A snapshot took its place, and brought no removals.
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

    /// Fills `portion`; whether that is all that is left.
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

/// The thread's handle. Dropping it ends the thread; what is left is erased after the next start.
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
        // There may be something left from before.
        eraser.wake();
        Ok(eraser)
    }

    /// There is something to erase.
    pub(super) fn wake(&self) {
        lock(&self.signal.state).work = true;
        self.signal.changed.notify_one();
    }

    /// Ends the thread, between two batches.
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
                        // The store has failed, and said so.
                        Err(_) => return,
                    }
                }
                task.log();
            }
        }
    }

    /// Waits for work, or for so long; false when it is time to stop.
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
