//! RocksDB: log and state in one database, with one write-ahead log (WAL).
//!
//! | column family | key → value (each a sealed record, see [`crate::format`]) |
//! |---|---|
//! | `raft_log` | index u64, big-endian → log entry |
//! | `raft_meta` | `vote`, `identity`; `purged` → index u64, big-endian, then its record |
//! | `sm_meta` | `generation` → u64; `summary`; `meta/` + key → meta record; `removal/` + revision → a large removal that is not erased yet |
//! | `state_gN` | name → entry |
//! | `idx_gN` | tag, 0xFF, name → empty, not sealed; no UTF-8 text contains 0xFF, so no two pairs share a key |
//! | `created_gN` | revision of creation (index u64, position u32, big-endian), name → empty, not sealed |
//! | `extra_gN` | key → extra record |
//!
//! One WAL for all column families makes recovery simple: a crash leaves a prefix of all writes, so the state
//! is never ahead of the log. No write uses RocksDB's own `sync` option, which would stall the writers behind
//! it. One thread syncs for all writers (`sync.rs`).
//!
//! `N` is the generation. A snapshot is installed into the next generation, beside the present one; the switch
//! is one synced write. If a crash leaves an unfinished generation, the next start removes it.
//!
//! [`Location::Memory`] is the same code over RocksDB's in-memory environment. Only syncing is left out.

mod erase;
mod folder;
mod folder_copy;
mod install;
mod log;
pub mod lost_writes;
mod record_check;
mod state;
mod sync;
mod synced;
mod tail;
mod tuning;
mod verify;
mod wal;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::time::Duration;

use rocksdb::{BoundColumnFamily, ColumnFamilyDescriptor, DBWithThreadMode, MultiThreaded};
use rocksdb::{ErrorKind, ReadOptions, WriteBatch, WriteOptions};
use self_cell::self_cell;

pub use self::folder_copy::FolderCopy;
pub use self::verify::{EntryJudge, Findings};

use self::erase::{Eraser, Ground, Removals};
use self::folder::Folder;
use self::log::{LogEnds, RocksLog};
use self::state::Current;
use self::sync::{Health, Syncer};
use self::synced::ForLog;
use self::tail::{Cut, Tail};
use self::tuning::Tuning;
use crate::crash::crash_point;
use crate::error::StoreError;
use crate::format;
use crate::store::{Home, LogHome};

/// The location of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In memory: lost when the store is dropped.
    Memory,
    /// In this directory, which is created if it does not exist. One store at a time can have it open.
    Folder(PathBuf),
}

/// Options for opening a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RocksOptions {
    /// Bytes of the cache for blocks, indexes and filters.
    pub block_cache_len: usize,
    /// Bytes that are kept in memory before they are written to a table, over all column families.
    pub write_buffer_len: usize,
    /// Maximum number of bytes of write-ahead log that a restart may have to read.
    pub wal_len_max: u64,
    /// The pause before each batch that erases a part of a large removal. No client waits for these batches,
    /// and other writers have the database to themselves meanwhile.
    pub erase_pause: Duration,
    /// File that lists, after each sync, the write-ahead logs and the number of their durable bytes. For tests
    /// of lost writes, see [`lost_writes`].
    pub sync_record: Option<PathBuf>,
    /// True if tables are compacted in the background.
    pub compacts: bool,
    /// True to open as much of a damaged database as can be opened, whatever is lost. Only for a copy.
    pub salvages: bool,
}

impl Default for RocksOptions {
    /// Settings for a registry of up to a few million names on a small machine.
    ///
    /// The cache fills as it is used and then holds the blocks of about a million names; other blocks come from
    /// the system's page cache, at the price of decompressing 4 kB. 16 MiB of write buffer hold about ten
    /// seconds of registrations at full speed. Most log entries are then purged before they reach a table, and
    /// the buffer is still small enough for a small node. 32 MiB of WAL are read back in a fraction of a
    /// second.
    fn default() -> Self {
        Self {
            block_cache_len: 128 << 20,
            write_buffer_len: 16 << 20,
            wal_len_max: 32 << 20,
            erase_pause: Duration::from_millis(2),
            sync_record: None,
            compacts: true,
            salvages: false,
        }
    }
}

/// A registry's data and a log in one RocksDB database. Clones are cheap and share the database.
#[derive(Clone)]
pub struct RocksStore {
    shared: Arc<Shared>,
}

type Db = DBWithThreadMode<MultiThreaded>;

/// A column family's handle, which borrows the database.
type Family<'a> = Arc<BoundColumnFamily<'a>>;

/// The open database, and everything that must live as long as it does.
struct Database {
    db: Db,
    path: PathBuf,
    tuning: Tuning,
    health: Health,
    read_options: ReadOptions,
    /// The column families that existed, or were created, when the database was opened.
    opened: BTreeSet<String>,
    /// Released after `db` is closed, because fields are dropped in this order.
    _folder: Option<Folder>,
}

struct FixedFamilies<'a> {
    log: Family<'a>,
    log_meta: Family<'a>,
    state_meta: Family<'a>,
}

self_cell!(
    /// The database and the column families that it always has.
    struct Fixed {
        owner: Arc<Database>,
        #[covariant]
        dependent: FixedFamilies,
    }
);

/// Data shared by the clones of a store and its log.
struct Shared {
    fixed: Arc<Fixed>,
    /// Read-locked by every lookup; write-locked while a snapshot takes over, or a large removal begins or
    /// ends.
    current: Arc<RwLock<Current>>,
    /// Number of the next generation that an install may use.
    next_generation: AtomicU64,
    /// Held while the state is written.
    state_writer: Arc<Mutex<()>>,
    /// Held while the log is written, so that writes and their syncs have the same order.
    log_ends: Mutex<LogEnds>,
    appended: log::Appended,
    /// The note of the last sync, which the next append writes into the log.
    for_log: ForLog,
    syncer: Syncer,
    eraser: Eraser,
}

const LOG: &str = "raft_log";
const LOG_META: &str = "raft_meta";
const STATE_META: &str = "sm_meta";

impl RocksStore {
    /// Opens a database, or creates it if there is none.
    ///
    /// # Errors
    /// [`StoreError`]: the data directory is in use, was written by a later version or is damaged, or the
    /// system reports an error.
    pub fn open(location: &Location, options: &RocksOptions) -> Result<Self, StoreError> {
        let (path, folder) = match location {
            Location::Memory => (PathBuf::from("/memory"), None),
            Location::Folder(path) => (path.clone(), Some(Folder::open(path)?)),
        };
        let database = Arc::new(Database::open(path, folder, options)?);
        let fixed = Arc::new(Fixed::try_new(database, |database| {
            Ok::<_, StoreError>(FixedFamilies {
                log: database.family(LOG)?,
                log_meta: database.family(LOG_META)?,
                state_meta: database.family(STATE_META)?,
            })
        })?);
        crash_point("open-recovered");
        let generation = state::open_generation(&fixed)?;
        let next_generation = AtomicU64::new(generation.number() + 1);
        let log_ends = LogEnds::recover(&fixed)?;
        let for_log = ForLog::default();
        let record = options.sync_record.clone();
        let syncer = Syncer::start(Arc::clone(&fixed), record, for_log.clone())?;
        let removals = match Removals::load(&fixed) {
            Err(error) if options.salvages => {
                tracing::warn!(%error, "names that were removed may be shown again");
                Removals::default()
            }
            loaded => loaded?,
        };
        let current = Arc::new(RwLock::new(Current {
            generation: Arc::new(generation),
            removals,
        }));
        let state_writer = Arc::new(Mutex::new(()));
        let eraser = Eraser::start(Ground {
            fixed: Arc::clone(&fixed),
            current: Arc::clone(&current),
            writer: Arc::clone(&state_writer),
            pause: options.erase_pause,
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                fixed,
                current,
                next_generation,
                state_writer,
                log_ends: Mutex::new(log_ends),
                appended: log::Appended::default(),
                for_log,
                syncer,
                eraser,
            }),
        })
    }

    /// Returns the log in the same database.
    pub fn log(&self) -> LogHome {
        LogHome::new(Arc::new(RocksLog::new(Arc::clone(&self.shared))))
    }

    /// Registers a hook for failures, see [`Home::on_failure`].
    pub fn on_failure(&self, hook: impl FnOnce(&str) + Send + 'static) {
        self.shared.database().health.on_failure(Box::new(hook));
    }

    /// Closes the database: completes the queued jobs, syncs, writes the memtables to disk so that the next
    /// start is quick, and refuses all later writes. Blocks. The data directory is released once all clones,
    /// views and snapshots are dropped. Dropping all of them without `close` loses nothing either.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] if the store was closed before.
    pub fn close(&self) -> Result<(), StoreError> {
        let database = self.shared.database();
        database.health.check()?;
        self.shared.eraser.stop();
        self.shared.syncer.stop();
        let _state_writer = lock(&self.shared.state_writer);
        let _log_ends = lock(&self.shared.log_ends);
        database.sync()?;
        let fixed = self.shared.families();
        let generation = Arc::clone(&self.shared.current().generation);
        let flushed = database
            .flush(&[&fixed.log, &fixed.log_meta, &fixed.state_meta])
            .and_then(|()| database.flush(&generation.families().all()));
        database.health.close();
        database.db.cancel_all_background_work(true);
        crash_point("closed");
        flushed
    }

    /// Writes the memtables to disk, so that the write-ahead logs that only they need can be deleted. For a
    /// disk that is nearly full. This takes room before it frees any: if it could take more than `len_max`
    /// bytes, nothing is done and false is returned. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn free_logs(&self, len_max: u64) -> Result<bool, StoreError> {
        let database = self.shared.database();
        database.health.check()?;
        let generation = Arc::clone(&self.shared.current().generation);
        let fixed = self.shared.families();
        let mut len = 0;
        for family in generation.families().all().into_iter().chain([
            &fixed.log,
            &fixed.log_meta,
            &fixed.state_meta,
        ]) {
            let property = "rocksdb.cur-size-all-mem-tables";
            let found = database.db.property_int_value_cf(family, property);
            len += database.read(found)?.unwrap_or(0);
        }
        if len > len_max {
            return Ok(false);
        }
        for family in generation.families().all() {
            match database.db.flush_cf(family) {
                // An install has just replaced this generation, so there is nothing to write.
                Err(error) if error.kind() == ErrorKind::ColumnFamilyDropped => {}
                flushed => database.written(flushed)?,
            }
        }
        database.flush(&[&fixed.log, &fixed.log_meta, &fixed.state_meta])?;
        Ok(true)
    }

    /// Returns the number of large removals whose entries are hidden and not erased yet, see
    /// [`crate::removal`].
    pub fn hidden_removal_count(&self) -> usize {
        self.shared.current().removals.count()
    }

    /// Returns the bytes that the database's tables take on disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn table_len(&self) -> Result<u64, StoreError> {
        let database = self.shared.database();
        let files = database.read(database.db.live_files())?;
        Ok(files.iter().map(|file| file.size as u64).sum())
    }
}

impl Home for RocksStore {
    fn log(&self) -> LogHome {
        self.log()
    }

    fn on_failure(&self, hook: Box<dyn FnOnce(&str) + Send>) {
        self.on_failure(hook);
    }

    fn free_logs(&self, len_max: u64) -> Result<bool, StoreError> {
        self.free_logs(len_max)
    }

    fn close(&self) -> Result<(), StoreError> {
        self.close()
    }
}

impl fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksStore")
            .field("path", &self.shared.database().path)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn database(&self) -> &Arc<Database> {
        self.fixed.borrow_owner()
    }

    fn families(&self) -> &FixedFamilies<'_> {
        self.fixed.borrow_dependent()
    }

    /// Locks the present state for reading.
    fn current(&self) -> RwLockReadGuard<'_, Current> {
        read(&self.current)
    }

    /// Returns the context in which a writer erases removals itself, without pauses.
    fn ground(&self) -> Ground {
        Ground {
            fixed: Arc::clone(&self.fixed),
            current: Arc::clone(&self.current),
            writer: Arc::clone(&self.state_writer),
            pause: Duration::ZERO,
        }
    }
}

impl Database {
    fn open(
        path: PathBuf,
        folder: Option<Folder>,
        options: &RocksOptions,
    ) -> Result<Self, StoreError> {
        let tuning =
            Tuning::new(options, folder.is_none()).map_err(|source| StoreError::Rocks {
                path: path.clone(),
                source,
            })?;
        let database_path = match &folder {
            Some(folder) => folder.database(),
            None => path.clone(),
        };
        let mut cut = Cut::default();
        if options.salvages {
            cut = Tail::read(&database_path)?.cut(&path)?;
        } else if folder.is_some() {
            record_check::check_manifest(&database_path)?;
            match synced::read(&path)? {
                Some(known) => {
                    let tail = Tail::read(&database_path)?;
                    tail.check(known)?;
                    cut = tail.cut(&path)?;
                }
                None => record_check::check_logs(&database_path)?,
            }
        }
        let open = || {
            let names =
                families_to_open(&tuning, &database_path, folder.as_ref(), options.salvages)?;
            let descriptors = names
                .iter()
                .map(|name| ColumnFamilyDescriptor::new(name, tuning.family(name)));
            let db = Db::open_cf_descriptors(&tuning.database()?, &database_path, descriptors)?;
            Ok((names, db))
        };
        let (names, db) = open().map_err(|error| {
            cut.put_back();
            opening(&database_path, error)
        })?;
        Ok(Self {
            db,
            path,
            tuning,
            health: Health::default(),
            read_options: ReadOptions::default(),
            opened: names,
            _folder: folder,
        })
    }

    fn in_memory(&self) -> bool {
        self._folder.is_none()
    }

    /// Returns the handle of an open column family.
    fn family(&self, name: &str) -> Result<Family<'_>, StoreError> {
        self.db.cf_handle(name).ok_or_else(|| StoreError::Damaged {
            path: self.path.clone(),
            reason: format!("its column family {name} is missing"),
        })
    }

    /// Converts the result of a read. Corrupt data stops the store: the other data is no more trustworthy.
    fn read<T>(&self, result: Result<T, rocksdb::Error>) -> Result<T, StoreError> {
        result.map_err(|source| {
            let corrupt = source.kind() == ErrorKind::Corruption;
            let error = self.error(source);
            if corrupt {
                self.health.fail(&error.to_string());
            }
            error
        })
    }

    /// Passes on the result of decoding. Corrupt data stops the store.
    fn decoded<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ StoreError::Corrupt { .. }) = &result {
            self.health.fail(&error.to_string());
        }
        result
    }

    /// Converts the result of a write. Any error stops the store.
    fn written<T>(&self, result: Result<T, rocksdb::Error>) -> Result<T, StoreError> {
        result.map_err(|source| {
            let error = self.error(source);
            self.health.fail(&error.to_string());
            error
        })
    }

    fn error(&self, source: rocksdb::Error) -> StoreError {
        StoreError::Rocks {
            path: self.path.clone(),
            source,
        }
    }

    /// Writes `batch` to the WAL and to the memtables. Readers see it when this returns.
    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.health.check()?;
        let mut options = WriteOptions::default();
        // A database in memory is never opened again, so nobody would read its WAL.
        options.disable_wal(self.in_memory());
        self.written(self.db.write_opt(batch, &options))
    }

    /// Makes all earlier writes durable.
    fn sync(&self) -> Result<(), StoreError> {
        self.health.check()?;
        if self.in_memory() {
            // Files in memory cannot be synced from a second thread, and there is nothing to sync.
            return Ok(());
        }
        self.written(self.db.flush_wal(true))
    }

    /// Returns the payload of the sealed record under `key`.
    fn record(&self, family: &Family<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.db.get_pinned_cf_opt(family, key, &self.read_options);
        let Some(record) = self.read(found)? else {
            return Ok(None);
        };
        let payload = format::unseal_named(&record, || record_name(key));
        self.decoded(payload).map(|payload| Some(payload.to_vec()))
    }

    /// Writes the memtables of these column families to disk.
    fn flush(&self, families: &[&Family<'_>]) -> Result<(), StoreError> {
        self.health.check()?;
        for family in families {
            self.written(self.db.flush_cf(*family))?;
            crash_point("flushed");
        }
        Ok(())
    }
}

/// Returns the description of a record in errors.
fn record_name(key: &[u8]) -> String {
    format!("the record {}", key.escape_ascii())
}

/// Returns the column families to open: those that exist, and those that must exist.
fn families_to_open(
    tuning: &Tuning,
    path: &Path,
    folder: Option<&Folder>,
    salvages: bool,
) -> Result<BTreeSet<String>, rocksdb::Error> {
    let mut names: BTreeSet<String> = match folder {
        Some(folder) if folder.has_database() => Db::list_cf(&tuning.database()?, path)?
            .into_iter()
            .collect(),
        _ => state::generation_families(1).into(),
    };
    names.extend(["default", LOG, LOG_META, STATE_META].map(str::to_owned));
    if salvages {
        // A repaired database has forgotten the column families that were empty.
        let generations = names.iter().filter_map(|name| state::generation_in(name));
        let generations: BTreeSet<u64> = generations.collect();
        names.extend(generations.into_iter().flat_map(state::generation_families));
    }
    Ok(names)
}

/// Converts the error of a database that does not open. Corruption and missing files are
/// [`StoreError::Damaged`], with the file that RocksDB names, or else the newest log.
fn opening(path: &Path, source: rocksdb::Error) -> StoreError {
    let text = source.to_string();
    let missing = text.contains("No such file or directory");
    if source.kind() != ErrorKind::Corruption && !missing {
        return StoreError::Rocks {
            path: path.to_owned(),
            source,
        };
    }
    let named = text
        .split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ',' | ';' | '(' | ')'))
        .map(|word| word.trim_end_matches([':', '.']))
        .find(|word| {
            Path::new(word)
                .extension()
                .is_some_and(|e| e == "sst" || e == "log")
                || word.contains("MANIFEST-")
        })
        .map(|word| path.join(word.trim_start_matches('/')))
        .filter(|file| file.exists());
    let file = named.or_else(|| folder::newest_wal(path));
    StoreError::Damaged {
        path: file.unwrap_or_else(|| path.to_owned()),
        reason: text,
    }
}

/// Locks the present state for reading. A writer changes it in one step, so a poisoned lock is sound.
fn read(current: &RwLock<Current>) -> RwLockReadGuard<'_, Current> {
    current.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks the present state for writing, as [`read`] does for reading.
fn write(current: &RwLock<Current>) -> RwLockWriteGuard<'_, Current> {
    current.write().unwrap_or_else(PoisonError::into_inner)
}

/// Locks out other writers. A writer that panicked has written a whole batch or nothing, so a poisoned lock is
/// sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
