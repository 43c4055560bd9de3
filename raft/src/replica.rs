//! The handle of a running replica, through which the rest of the node uses Raft.
//!
//! Raft runs on its own threads, so that busy clients cannot delay its heartbeats: one thread for all Raft
//! tasks, which hand work to each other in turn, so that a second thread would mostly wake up in vain; and the
//! sync thread of storage. [`Replica`] is the only interface to them.

use std::fmt;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use hearth_storage::{
    Answer, Bounds, Command, Filter, Home, ListRefusal, LogHome, Name, Pattern, Query, Reply,
    Revision, StoreError,
};

use crate::bootstrap::{Open, assemble, until_some};
use crate::config::{ReplicaConfig, StorageLocation, Tuning};
use crate::defect::{self, Defect};
use crate::disk_space::Disk;
use crate::environment::Ground;
use crate::error::{ReadError, StartError, WriteError};
use crate::read::Reads;
use crate::report::{self};
use crate::rpc::Peers;
use crate::service::Incoming;
use crate::status::{ClusterChange, ClusterError, ClusterReply, ClusterStatus, MemberInfo};
use crate::store::Raft;
use crate::store::saved_state::SavedState;
use crate::store::sole_voter::Gate;
use crate::store::state_machine::Counters;
use crate::types::TypeConfig;
use crate::write::Writer;

/// The longest time that [`Replica::shutdown`] waits for one task before it continues without it.
const STOP_DURATION_MAX: Duration = Duration::from_secs(10);

/// A snapshot of a node's own state, for `status`, logs and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The id of this node.
    pub node_id: u64,
    /// The id of the leader, if one is known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// Index of the last entry of the log.
    pub last_log_index: u64,
    /// Index of the last applied entry.
    pub last_applied: u64,
    /// Commands applied since the start.
    pub command_count: u64,
    /// Snapshots of other nodes that were installed since the start.
    pub install_count: u64,
    /// Completed syncs of the log since the start.
    pub sync_count: u64,
    /// ReadIndex rounds that this node has run since the start.
    pub read_round_count: u64,
    /// Index of the last entry that a snapshot covers, if any.
    pub snapshot_index: Option<u64>,
    /// Index of the last entry that was purged from the log, if any.
    pub purged_index: Option<u64>,
    /// True if linearizable reads need no round trip at the moment.
    pub reads_are_local: bool,
    /// Hash of the applied state. Equal on two nodes that have applied the same entries. `None` if the storage
    /// cannot be read.
    pub state_hash: Option<u128>,
    /// Free bytes on the disk with the data. `None` for a replica in memory.
    pub disk_free: Option<u64>,
    /// Conditions that need an operator's attention, as sentences.
    pub alarms: Vec<String>,
}

/// A running replica. Cheap to clone; all clones are the same replica. [`Self::shutdown`] stops it in order. A
/// replica that ends without it still keeps everything that was acknowledged.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
}

struct Shared {
    node_id: u64,
    gate: Arc<Gate>,
    reads: Arc<Reads>,
    writer: Writer,
    disk: Arc<Disk>,
    counters: Arc<Counters>,
    metrics: Metrics,
    failure: watch::Receiver<Option<String>>,
    /// Set when the cluster has removed this node, with the reason.
    removed: watch::Receiver<Option<String>>,
    /// `None` once the storage is closed.
    open: RwLock<Option<Open>>,
    /// `None` once [`Replica::shutdown`] has begun.
    running: Mutex<Option<Running>>,
    stopped: watch::Sender<bool>,
}

type Metrics =
    openraft::type_config::alias::WatchReceiverOf<TypeConfig, openraft::RaftMetrics<TypeConfig>>;

/// The parts that [`Replica::shutdown`] stops.
struct Running {
    runtime: OwnRuntime,
    raft: Raft,
    store: Arc<dyn Home>,
    batcher: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    peers: Peers,
    incoming: Arc<Incoming>,
}

/// A runtime that may be dropped in any context: a bare [`Runtime`] panics if it is dropped where blocking is
/// not allowed. `None` if the replica runs on its caller's runtime, which it must not stop.
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn build() -> Result<Self, StartError> {
        let built = Builder::new_multi_thread()
            .worker_threads(1)
            // For long changes, which release the only worker thread while they run.
            .max_blocking_threads(8)
            .thread_name("raft")
            .enable_all()
            .build();
        match built {
            Ok(runtime) => Ok(Self(Some(runtime))),
            Err(error) => Err(StartError::Raft(format!(
                "cannot start its threads: {error}"
            ))),
        }
    }

    fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match &self.0 {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }

    /// Stops all tasks. Blocks.
    fn stop(mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(STOP_DURATION_MAX);
        }
    }
}

impl Drop for OwnRuntime {
    /// Stops the runtime of a start that failed or was cancelled. Waits for its threads, on a thread of its own
    /// because blocking may not be allowed here: a process that exits before them would tear RocksDB down under
    /// their feet.
    fn drop(&mut self) {
        let Some(runtime) = self.0.take() else {
            return;
        };
        let stop = move || runtime.shutdown_timeout(STOP_DURATION_MAX);
        // If no thread can be created, the runtime is dropped with the closure and stops in the background.
        if let Ok(stopping) = std::thread::Builder::new().spawn(stop) {
            // The thread cannot panic.
            let _ = stopping.join();
        }
    }
}

impl Replica {
    /// Opens the storage, joins or forms the cluster, and returns once this node has recovered and can serve.
    /// Must be called in a tokio runtime with timers, like the other methods.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: ReplicaConfig) -> Result<Self, StartError> {
        Self::start_with(config, Tuning::default()).await
    }

    /// Starts a replica like [`Self::start`], with the given tuning.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with(config: ReplicaConfig, tuning: Tuning) -> Result<Self, StartError> {
        Self::start_on(config, tuning, Ground::default()).await
    }

    /// Starts a replica like [`Self::start_with`], on the given storage, network and runtime. Used by the
    /// simulation.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_on(
        config: ReplicaConfig,
        tuning: Tuning,
        ground: Ground,
    ) -> Result<Self, StartError> {
        // A node alone in memory waits for no disk and no peer: a thread of its own would only cost wake-ups.
        let is_alone_in_memory =
            config.cluster.is_none() && config.storage == StorageLocation::Memory;
        let runtime = if ground.on_callers_runtime || is_alone_in_memory {
            OwnRuntime(None)
        } else {
            OwnRuntime::build()?
        };
        let parts = match runtime.spawn(assemble(config, tuning, ground)).await {
            Ok(parts) => parts?,
            Err(error) => return Err(StartError::Raft(format!("starting failed: {error}"))),
        };
        let running = Running {
            runtime,
            raft: parts.raft,
            store: parts.store,
            batcher: parts.batcher,
            tasks: parts.tasks,
            peers: parts.peers,
            incoming: parts.incoming,
        };
        let shared = Shared {
            node_id: parts.node_id,
            gate: parts.gate,
            reads: parts.reads,
            writer: parts.writer,
            disk: parts.disk,
            counters: parts.counters,
            metrics: running.raft.metrics(),
            failure: parts.failure,
            removed: parts.removed,
            open: RwLock::new(Some(parts.open)),
            running: Mutex::new(Some(running)),
            stopped: watch::Sender::new(false),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Applies `command` exactly once through the cluster, and returns its reply. When this returns, the
    /// command is durable on a majority and applied on this node. Waits while too many writes are under way.
    ///
    /// If the future is dropped, the command may or may not be applied.
    ///
    /// # Errors
    /// [`WriteError`]: also if there is no reply by `deadline`, or if the replica stops.
    pub async fn write(&self, command: Command, deadline: Instant) -> Result<Reply, WriteError> {
        let shared = &self.shared;
        shared.disk.admits(&command).map_err(WriteError::DiskFull)?;
        shared.writer.write(command, deadline.into()).await
    }

    /// Applies `commands` exactly once each and in order, as many together as go into one log entry. Returns the
    /// replies of those that were applied, and the error of the next one. That error may stand for commands behind it
    /// as well; none of these is applied if that one is not.
    ///
    /// If the future is dropped, any number of the commands may be applied, in order.
    pub async fn write_all(
        &self,
        mut commands: Vec<Command>,
        deadline: Instant,
    ) -> (Vec<Reply>, Option<WriteError>) {
        let shared = &self.shared;
        let refused = commands.iter().enumerate().find_map(|(index, command)| {
            let refused = shared.disk.admits(command).err();
            refused.map(|reason| (index, WriteError::DiskFull(reason)))
        });
        if let Some((admitted_count, _)) = refused {
            commands.truncate(admitted_count);
        }
        let (replies, error) = shared.writer.write_all(commands, deadline.into()).await;
        (replies, error.or(refused.map(|(_, error)| error)))
    }

    /// Waits until the state of this node includes every write that was acknowledged anywhere before this call
    /// (ReadIndex). Returns at once, without yielding, if no round trip is needed.
    ///
    /// # Errors
    /// [`ReadError`]: also after `timeout`, or if the replica stops.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<(), ReadError> {
        if self.shared.gate.is_open() {
            return Ok(());
        }
        if self.shared.running().is_none() {
            return Err(ReadError::Stopping("it was shut down".to_owned()));
        }
        if let Some(reason) = self.shared.failure.borrow().clone() {
            return Err(ReadError::Stopping(reason));
        }
        if defect::is(Defect::LocalReads) {
            return Ok(());
        }
        self.shared.reads.barrier(timeout).await
    }

    /// Answers a query from this node's own copy. Blocks on the disk. Call [`Self::read_barrier`] first for a
    /// linearizable answer. Point lookups and counts are fast enough for a reactor thread; lists are not.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] after [`Self::shutdown`].
    pub fn answer(&self, query: &Query) -> Result<Answer, StoreError> {
        match self.shared.open() {
            Some(open) => open.registry.answer(query),
            None => Err(shut_down_store()),
        }
    }

    /// Lists the entries that `filter` selects, within `bounds`. Otherwise like [`Self::answer`].
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] after [`Self::shutdown`].
    pub fn list(&self, filter: &Filter, bounds: Bounds<'_>) -> Result<Answer, StoreError> {
        match self.shared.open() {
            Some(open) => open.registry.list(filter, bounds),
            None => Err(shut_down_store()),
        }
    }

    /// Returns the names in this node's own copy that match `pattern`, and the revision up to which they are
    /// complete, for [`Command::RemoveListed`]. If `since` is given, only names that were created after it are
    /// returned. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] after [`Self::shutdown`]. The inner error says which of the
    /// `bounds` was exceeded.
    pub fn matching(
        &self,
        pattern: &Pattern,
        since: Option<Revision>,
        bounds: Bounds<'_>,
    ) -> Result<Result<(Vec<Name>, Revision), ListRefusal>, StoreError> {
        let open = self.shared.open().ok_or_else(shut_down_store)?;
        // Read the revision before the names: the state may be newer by the time the names are read, and a
        // revision that is too old is safe.
        let (applied, _) = report::applied(&open.registry)?;
        let names = open.registry.matching(pattern, since, bounds)?;
        Ok(names.map(|names| (names, Revision::end_of(applied))))
    }

    /// Returns the version of the [rules](hearth_storage::rules) by which this node applies the next command.
    /// It only increases, so commands that need this version may be written from now on: every member can read
    /// them.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] after [`Self::shutdown`].
    pub fn rules(&self) -> Result<u32, StoreError> {
        match self.shared.open() {
            Some(open) => open.registry.rules(),
            None => Err(shut_down_store()),
        }
    }

    /// Returns the applied state of this moment, to be written to a file. Call [`Self::read_barrier`] first for
    /// a state with every acknowledged write.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Stopped`] after [`Self::shutdown`].
    pub fn save_state(&self) -> Result<SavedState, StoreError> {
        match self.shared.open() {
            Some(open) => SavedState::take(&open.registry, open.reporter.me.clone()),
            None => Err(StoreError::Stopped {
                reason: "this node was shut down".into(),
            }),
        }
    }

    /// Returns true if linearizable reads and writes can be served now: a leader with a majority is known, and
    /// all state that was ever visible is applied. Uses local knowledge only, without asking other nodes.
    pub fn is_ready(&self) -> bool {
        let shared = &self.shared;
        shared.gate.is_open()
            || shared.failure.borrow().is_none()
                && shared.removed.borrow().is_none()
                && shared.open().is_some_and(|open| (open.reporter.is_ready)())
    }

    /// Asks every member for its status and returns the results. Each request takes at most `timeout`. A
    /// single-node cluster has itself as its only member.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] after [`Self::shutdown`].
    pub async fn cluster_status(&self, timeout: Duration) -> Result<ClusterStatus, ClusterError> {
        let open = self.shared.open().ok_or_else(shut_down)?;
        Ok(open.reporter.cluster_status(timeout).await)
    }

    /// Returns the cluster's identity, as in [`ClusterStatus::cluster_id`].
    ///
    /// # Errors
    /// [`ClusterError::Refused`] after [`Self::shutdown`].
    pub fn cluster_id(&self) -> Result<String, ClusterError> {
        let open = self.shared.open().ok_or_else(shut_down)?;
        Ok(open.reporter.cluster_id())
    }

    /// Returns all members according to this node's log, without asking other nodes.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] after [`Self::shutdown`].
    pub fn members(&self) -> Result<Vec<MemberInfo>, ClusterError> {
        let open = self.shared.open().ok_or_else(shut_down)?;
        Ok(open.reporter.members())
    }

    /// Changes the members, the reserved node ids or the leader of the cluster. May be called on any node.
    ///
    /// # Errors
    /// [`ClusterError`]: also if the change is not done by `deadline`; [`ClusterError::Alone`] on a node
    /// without peers.
    pub async fn change_cluster(
        &self,
        change: ClusterChange,
        deadline: Instant,
    ) -> Result<ClusterReply, ClusterError> {
        let open = self.shared.open().ok_or_else(shut_down)?;
        match open.admin {
            Some(admin) => admin.change(change, deadline.into()).await,
            None => Err(ClusterError::Alone),
        }
    }

    /// Hands leadership over if this node leads and another voter is eligible. Returns when another leader is
    /// known, or after `timeout`. Writes and reads continue meanwhile.
    pub async fn hand_over(&self, timeout: Duration) {
        let admin = self.shared.open().and_then(|open| open.admin);
        if let Some(admin) = admin {
            admin.hand_over(tokio::time::Instant::now() + timeout).await;
        }
    }

    /// Resolves with the reason, for operators, when the cluster has removed this node, which can then never
    /// serve again. Otherwise pending forever.
    pub async fn removed(&self) -> String {
        until_some(self.shared.removed.clone()).await
    }

    /// Returns the state of this node. Cheap.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let open = shared.open();
        let log = open.as_ref().map(|open| &open.log);
        let applied = open
            .as_ref()
            .and_then(|open| report::applied(&open.registry).ok());
        let metrics = shared.metrics.borrow_watched();
        Status {
            node_id: shared.node_id,
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            last_applied: applied.map_or_else(
                || shared.counters.last_applied.load(Ordering::Acquire),
                |(index, _)| index,
            ),
            command_count: shared.counters.command_count.load(Ordering::Relaxed),
            install_count: shared.counters.install_count.load(Ordering::Relaxed),
            sync_count: log.map_or(0, LogHome::sync_count),
            read_round_count: shared.reads.round_count(),
            snapshot_index: metrics.snapshot.map(|id| id.index),
            purged_index: metrics.purged.map(|id| id.index),
            reads_are_local: shared.gate.is_open(),
            state_hash: applied.map(|(_, summary)| summary.hash.0),
            disk_free: shared.disk.free(),
            alarms: shared.disk.alarms(),
        }
    }

    /// Resolves with the reason when the replica can no longer work, because its storage or Raft failed.
    /// Pending forever while it works, and after a shutdown.
    pub async fn failed(&self) -> String {
        until_some(self.shared.failure.clone()).await
    }

    /// Stops accepting commands, finishes those under way, syncs the log and closes the storage. The data
    /// directory is free when this returns. A second call waits for the first.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        let running = shared.running().take();
        let Some(running) = running else {
            // The sender is in `shared`, so the wait cannot fail.
            let _ = shared
                .stopped
                .subscribe()
                .wait_for(|&stopped| stopped)
                .await;
            return;
        };
        shared.writer.stop();
        if shared.failure.borrow().is_some() {
            // No write can finish on this node any more.
            running.batcher.abort();
        } else if tokio::time::timeout(STOP_DURATION_MAX, running.batcher)
            .await
            .is_err()
        {
            tracing::warn!("writes are still under way; stopping without them");
        }
        shared.gate.stop();
        running.incoming.stop();
        for task in running.tasks {
            task.abort();
        }
        running.peers.close();
        if let Err(error) = running.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop in order");
        }
        drop(running.raft);
        shared.close();
        let (runtime, store) = (running.runtime, running.store);
        let on_callers_runtime = runtime.0.is_none();
        let close = move || {
            // Stop all tasks first, so that no other user of the storage is left.
            runtime.stop();
            store.close()
        };
        let closed = if on_callers_runtime {
            Ok(close())
        } else {
            tokio::task::spawn_blocking(close).await
        };
        match closed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the storage did not close in order"),
            Err(error) => tracing::error!(%error, "the storage did not close"),
        }
        shared.stopped.send_replace(true);
    }
}

fn shut_down_store() -> StoreError {
    StoreError::Stopped {
        reason: "this node was shut down".into(),
    }
}

fn shut_down() -> ClusterError {
    ClusterError::Refused("this node was shut down".to_owned())
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("node_id", &self.shared.node_id)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn open(&self) -> Option<Open> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "tests/replica.rs"]
mod tests;
