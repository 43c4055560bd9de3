//! The one thread that syncs, and the handling of its failures.
//!
//! A writer puts a job into the queue. The thread takes all queued jobs, syncs once, and completes them in
//! order; jobs that arrive meanwhile wait for the next round. The number of writes per sync therefore grows
//! with the load, and no job waits longer than two syncs.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use super::log::index_key;
use super::lost_writes::SyncRecord;
use super::synced::{ForLog, Notes};
use super::{Fixed, lock};
use crate::crash::crash_point;
use crate::error::StoreError;
use crate::store::log::SyncDone;

type FailureHook = Box<dyn FnOnce(&str) + Send>;

/// The health of the database. The first failure is final: a sync that failed may have dropped dirty pages, so
/// that the next sync succeeds without them.
#[derive(Clone, Default)]
pub(super) struct Health {
    inner: Arc<HealthInner>,
}

#[derive(Default)]
struct HealthInner {
    /// Set once, when the database has failed or was closed.
    stopped: OnceLock<Stopped>,
    hooks: Mutex<Vec<FailureHook>>,
}

struct Stopped {
    reason: Arc<str>,
    /// False for a clean close.
    is_failure: bool,
}

impl Health {
    /// Returns an error once the database has failed or was closed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.inner.stopped.get() {
            None => Ok(()),
            Some(stopped) => Err(StoreError::Stopped {
                reason: Arc::clone(&stopped.reason),
            }),
        }
    }

    /// Records a failure and calls the hooks. Only the first failure counts.
    pub(super) fn fail(&self, reason: &str) {
        let stopped = Stopped {
            reason: reason.into(),
            is_failure: true,
        };
        if self.inner.stopped.set(stopped).is_err() {
            return;
        }
        tracing::error!(reason, "storage has failed");
        let hooks = std::mem::take(&mut *lock(&self.inner.hooks));
        for hook in hooks {
            hook(reason);
        }
    }

    /// Records that the database was closed.
    pub(super) fn close(&self) {
        // An earlier failure keeps its reason.
        let _ = self.inner.stopped.set(Stopped {
            reason: "it was closed".into(),
            is_failure: false,
        });
    }

    pub(super) fn failure(&self) -> Option<&str> {
        let stopped = self.inner.stopped.get()?;
        stopped.is_failure.then_some(&*stopped.reason)
    }

    pub(super) fn on_failure(&self, hook: FailureHook) {
        // The check is under the lock, so that a concurrent failure either finds the hook or is found here.
        let mut hooks = lock(&self.inner.hooks);
        match self.failure() {
            None => hooks.push(hook),
            Some(reason) => {
                drop(hooks);
                hook(reason);
            }
        }
    }
}

/// The work to do after the next sync.
pub(super) enum Job {
    /// No work; the job only causes a sync.
    Nothing,
    /// Calls the writer back.
    Tell(SyncDone),
    /// Deletes tables that hold only log entries up to this index, which are purged.
    DropLogFiles(u64),
}

/// Handle of the sync thread. Dropping it completes the queued jobs.
pub(super) struct Syncer {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
    sync_count: AtomicU64,
}

#[derive(Default)]
struct Jobs {
    waiting: Vec<Job>,
    closing: bool,
}

impl Syncer {
    pub(super) fn start(
        fixed: Arc<Fixed>,
        record: Option<PathBuf>,
        for_log: ForLog,
    ) -> Result<Self, StoreError> {
        let queue = Arc::new(Queue {
            jobs: Mutex::default(),
            changed: Condvar::new(),
            sync_count: AtomicU64::new(0),
        });
        let path = fixed.borrow_owner().path.clone();
        let notes = match fixed.borrow_owner() {
            database if database.in_memory() => None,
            database => Some(Notes::open(&path, database.db.path(), for_log)?),
        };
        let worker = Worker {
            queue: Arc::clone(&queue),
            notes,
            record: record.and_then(|file| SyncRecord::new(&fixed, file)),
            fixed,
        };
        let thread = thread::Builder::new()
            .name("log-sync".to_owned())
            .spawn(move || worker.run())
            .map_err(super::folder::at(&path))?;
        Ok(Self {
            queue,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues a job. It is completed exactly once, after a sync that began later. Fails once the thread is to
    /// end.
    pub(super) fn push(&self, job: Job) -> Result<(), StoreError> {
        let mut jobs = lock(&self.queue.jobs);
        if jobs.closing {
            return Err(StoreError::Stopped {
                reason: "it was closed".into(),
            });
        }
        jobs.waiting.push(job);
        if jobs.waiting.len() == 1 {
            self.queue.changed.notify_one();
        }
        Ok(())
    }

    /// Blocks until all earlier writes are durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let (tell, told) = mpsc::sync_channel(1);
        self.push(Job::Tell(Box::new(move |result| {
            // The receiver waits below.
            let _ = tell.send(result);
        })))?;
        told.recv().unwrap_or_else(|_| {
            Err(StoreError::Stopped {
                reason: "its sync thread ended".into(),
            })
        })
    }

    /// Counts a sync that needed no work.
    pub(super) fn count(&self) {
        self.queue.sync_count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sync_count(&self) -> u64 {
        self.queue.sync_count.load(Ordering::Relaxed)
    }

    pub(super) fn waiting_count(&self) -> u64 {
        lock(&self.queue.jobs).waiting.len() as u64
    }

    /// Completes the queued jobs and ends the thread.
    pub(super) fn stop(&self) {
        lock(&self.queue.jobs).closing = true;
        self.queue.changed.notify_one();
        let Some(thread) = lock(&self.thread).take() else {
            return;
        };
        // A callback may hold the last handle of the store, and the thread cannot wait for itself.
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the sync thread panicked");
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The next work of the sync thread.
enum Taken {
    Jobs(Vec<Job>),
    /// No job came for a while.
    Quiet,
    End,
}

struct Worker {
    queue: Arc<Queue>,
    /// `None` for a database in memory.
    notes: Option<Notes>,
    record: Option<SyncRecord>,
    fixed: Arc<Fixed>,
}

impl Worker {
    fn run(mut self) {
        let _guard = EndGuard {
            queue: Arc::clone(&self.queue),
            health: self.fixed.borrow_owner().health.clone(),
        };
        loop {
            let jobs = match self.take() {
                Taken::Jobs(jobs) => jobs,
                Taken::Quiet => {
                    self.settle();
                    continue;
                }
                Taken::End => break,
            };
            crash_point("sync");
            let result = self.sync();
            crash_point("synced");
            for job in jobs {
                self.complete(job, &result);
            }
            crash_point("sync-told");
            if self.notes.as_ref().is_some_and(Notes::is_due) {
                self.settle();
            }
        }
        // Writes without a job, such as batches of the state, become durable with a clean end.
        if self.sync().is_ok() {
            self.settle();
        }
    }

    /// Takes all queued jobs; waits for one if there is none.
    fn take(&self) -> Taken {
        let patience = self.notes.as_ref().and_then(Notes::patience);
        let mut jobs = lock(&self.queue.jobs);
        while jobs.waiting.is_empty() {
            if jobs.closing {
                return Taken::End;
            }
            let changed = &self.queue.changed;
            jobs = match patience {
                None => changed.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let (jobs, wait) = changed
                        .wait_timeout(jobs, patience)
                        .unwrap_or_else(PoisonError::into_inner);
                    if wait.timed_out() && jobs.waiting.is_empty() && !jobs.closing {
                        return Taken::Quiet;
                    }
                    jobs
                }
            };
        }
        Taken::Jobs(std::mem::take(&mut jobs.waiting))
    }

    /// Syncs the note of what is durable.
    fn settle(&mut self) {
        let health = &self.fixed.borrow_owner().health;
        let Some(notes) = &mut self.notes else {
            return;
        };
        match notes.settle() {
            Ok(()) => {
                if let Some(record) = &self.record {
                    record.after_settling();
                }
            }
            // The note is on the disk of the log, so the log cannot be trusted either.
            Err(error) => health.fail(&error.to_string()),
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let database = self.fixed.borrow_owner();
        // The note must never be ahead of the record, to which a test cuts the logs.
        if let Some(notes) = &mut self.notes {
            notes.before_sync();
        }
        if let Some(record) = &mut self.record {
            record.before_sync();
        }
        database.sync().and_then(|()| database.health.check())?;
        if let Some(record) = &mut self.record {
            record.after_sync();
        }
        if let Some(notes) = &mut self.notes
            && let Err(error) = notes.after_sync()
        {
            // The note is on the disk of the log, so the log cannot be trusted either.
            database.health.fail(&error.to_string());
            return Err(error);
        }
        self.queue.sync_count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn complete(&self, job: Job, result: &Result<(), StoreError>) {
        let database = self.fixed.borrow_owner();
        match job {
            Job::Nothing => {}
            Job::Tell(done) => match result {
                Ok(()) => done(Ok(())),
                Err(error) => done(Err(StoreError::Stopped {
                    reason: error.to_string().into(),
                })),
            },
            Job::DropLogFiles(upto) => {
                let family = &self.fixed.borrow_dependent().log;
                let (from, to) = (index_key(0), index_key(upto));
                if result.is_ok()
                    && let Err(error) = database.db.delete_file_in_range_cf(family, from, to)
                {
                    // Compaction deletes the same files later.
                    tracing::warn!(%error, "cannot drop tables of purged log entries");
                }
                crash_point("purge-dropped");
            }
        }
    }
}

/// Releases the waiting callers when the thread ends. A callback that panics ends the thread, and nothing would
/// ever become durable again.
struct EndGuard {
    queue: Arc<Queue>,
    health: Health,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.health.fail("the sync thread panicked");
        }
        let mut jobs = lock(&self.queue.jobs);
        jobs.closing = true;
        let forgotten = std::mem::take(&mut jobs.waiting);
        drop(jobs);
        // Dropping a callback releases the caller that waits in `Syncer::sync`.
        drop(forgotten);
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.failure()).finish()
    }
}
