//! Starting a replica: open, check, recover, open a session; and the tasks that watch it afterwards.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use hearth_storage::{Location, LogHome, Registry, RocksStore, StoreError};

use crate::codec::{self, FolderRecord, Identity};
use crate::disk::{Disk, NobodyToAsk, Watch};
use crate::error::StartError;
use crate::gate::Gate;
use crate::log_store::LogStore;
use crate::network::NoPeers;
use crate::reads::Reads;
use crate::replica::{Open, ReplicaConfig, StorageLocation};
use crate::roster::Roster;
use crate::snapshot::Position;
use crate::state_machine::{Counters, StateMachine};
use crate::tuning::Tuning;
use crate::type_config::{LogId, Member, Raft};
use crate::writer::Writer;

/// How long the core may take to end after the state machine has.
const CORE_END_DURATION_MAX: Duration = Duration::from_secs(1);

/// How often the length of the log in bytes is looked at.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(500);

/// A replica that has started, without the runtime that it runs on.
pub(crate) struct Parts {
    pub(crate) node_id: u64,
    pub(crate) gate: Arc<Gate>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) writer: Writer,
    pub(crate) disk: Arc<Disk>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) failure: watch::Receiver<Option<String>>,
    pub(crate) open: Open,
    pub(crate) raft: Raft,
    pub(crate) store: RocksStore,
    pub(crate) batcher: JoinHandle<()>,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

type Failure = Arc<watch::Sender<Option<String>>>;

/// Starts everything, in order. Runs on Raft's own runtime.
pub(crate) async fn assemble(config: ReplicaConfig, tuning: Tuning) -> Result<Parts, StartError> {
    let node_id = config.node_id.unwrap_or(1);
    let raft_config = tuning.to_openraft(&config.cluster_name)?;
    let store = open_store(&config.storage, &tuning).await?;
    let disk = Disk::open(&config.storage, tuning.disk.clone());
    let log = store.log();
    check_identity(&log, &config)?;

    let registry = Registry::new(Arc::new(store.clone()));
    let gate = Arc::new(Gate::new(node_id));
    let counters = Arc::new(Counters::default());
    let log_store = LogStore::open(log.clone(), Arc::clone(&gate))?;
    let roster = Arc::new(Roster::default());
    let mut state_machine = StateMachine::open(
        registry.clone(),
        Arc::clone(&gate),
        Arc::clone(&counters),
        Arc::clone(&roster),
    )?;
    check_log(&log_store, state_machine.position(), &config.storage)?;

    let (failure_sender, failure) = watch::channel(None);
    let failure_sender: Failure = Arc::new(failure_sender);
    stop_on_failure(&store, &gate, &failure_sender);

    let end = state_machine.end();
    let raft = Raft::new(node_id, raft_config, NoPeers, log_store, state_machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    let mut tasks = vec![tokio::spawn(watch_core(raft.clone(), end, failure_sender))];

    let (writer, batcher) = Writer::new(raft.clone(), node_id, tuning.entries_in_flight_max);
    let batcher = tokio::spawn(batcher.run());
    tokio::select! {
        result = take_part(&raft, node_id, &gate, &writer) => result?,
        reason = until_failure(failure.clone()) => return Err(StartError::Raft(reason)),
    }

    let reads = Arc::new(Reads::default());
    tasks.push(tokio::spawn(Arc::clone(&reads).run(raft.clone())));
    let housekeeping = keep_log_short(raft.clone(), log.clone(), tuning.log_len_max);
    tasks.push(tokio::spawn(housekeeping));
    let watch = Watch {
        disk: Arc::clone(&disk),
        node_id,
        raft: raft.clone(),
        store: store.clone(),
        log: log.clone(),
        peers: NobodyToAsk,
    };
    tasks.push(tokio::spawn(watch.run()));
    Ok(Parts {
        node_id,
        gate,
        reads,
        writer,
        disk,
        counters,
        failure,
        open: Open { registry, log },
        raft,
        store,
        batcher,
        tasks,
    })
}

async fn open_store(storage: &StorageLocation, tuning: &Tuning) -> Result<RocksStore, StartError> {
    let location = match storage {
        StorageLocation::Memory => Location::Memory,
        StorageLocation::Rocks(path) => Location::Folder(path.clone()),
    };
    let options = tuning.rocks.clone();
    tokio::task::spawn_blocking(move || RocksStore::open(&location, &options))
        .await
        .map_err(|error| StartError::Raft(format!("opening the storage failed: {error}")))?
        .map_err(StartError::Store)
}

/// Makes sure that the folder is this node's, or makes it this node's when it is new.
pub(crate) fn check_identity(log: &LogHome, config: &ReplicaConfig) -> Result<(), StartError> {
    let Some(record) = log.identity()? else {
        if log.last_index().is_some() || log.last_purged()?.is_some() {
            return Err(StartError::Identity(
                "the data folder has a log, but does not say whose it is".to_owned(),
            ));
        }
        let identity = Identity {
            cluster_id: rand::random(),
            cluster_name: config.cluster_name.clone(),
            node_id: config.node_id.unwrap_or(1),
            incarnation: rand::random(),
        };
        return Ok(log.save_identity(&codec::encode_folder(&FolderRecord::Member(identity)))?);
    };
    let identity = match codec::decode_folder(&record).map_err(StoreError::from)? {
        FolderRecord::Member(identity) => identity,
        other => return Err(StartError::Identity(format!("{other:?}"))),
    };
    if identity.cluster_name != config.cluster_name {
        return Err(StartError::Identity(format!(
            "the data folder belongs to the cluster {:?}, and this node was started for {:?}",
            identity.cluster_name, config.cluster_name
        )));
    }
    match config.node_id {
        Some(node_id) if node_id != identity.node_id => Err(StartError::Identity(format!(
            "the data folder belongs to node {}, and this node was started as {node_id}",
            identity.node_id
        ))),
        _ => Ok(()),
    }
}

/// Refuses a log that ends before the state. openraft would take the difference for the rest of an
/// install that was interrupted, and go on as if nothing were lost; that explains it only when nothing
/// was applied since the install.
fn check_log(
    log_store: &LogStore,
    position: &Position,
    storage: &StorageLocation,
) -> Result<(), StartError> {
    let (_, last) = log_store.bounds()?;
    if last >= position.last_applied || position.last_applied == position.installed {
        return Ok(());
    }
    let path = match storage {
        StorageLocation::Memory => Path::new("/memory"),
        StorageLocation::Rocks(path) => path,
    };
    Err(StartError::Store(StoreError::Damaged {
        path: path.to_owned(),
        reason: format!(
            "its log ends at {last:?}, and its state has {:?} applied",
            position.last_applied
        ),
    }))
}

fn stop_on_failure(store: &RocksStore, gate: &Arc<Gate>, failure: &Failure) {
    let (gate, failure) = (Arc::clone(gate), Arc::clone(failure));
    store.on_failure(move |reason| {
        gate.stop();
        report(&failure, format!("storage: {reason}"));
    });
}

/// Makes the cluster when there is none, waits until everything that may have been shown before is
/// applied again, and opens this node's session.
async fn take_part(
    raft: &Raft,
    node_id: u64,
    gate: &Gate,
    writer: &Writer,
) -> Result<(), StartError> {
    let fail = |error: String| StartError::Raft(error);
    let initialized = raft.is_initialized().await;
    if !initialized.map_err(|error| fail(error.to_string()))? {
        let members = BTreeMap::from([(node_id, Member::default())]);
        raft.initialize(members)
            .await
            .map_err(|error| fail(error.to_string()))?;
    }
    let voters: Vec<u64> = raft.voter_ids().collect();
    if voters.is_empty() || voters == [node_id] {
        // Nobody else could win, so there is no reason to wait for an election timeout.
        raft.trigger()
            .elect(false)
            .await
            .map_err(|error| fail(error.to_string()))?;
        gate.opened().await;
    } else {
        raft.wait_for_recovery(None)
            .await
            .map_err(|error| fail(error.to_string()))?;
    }
    match writer.session().await {
        Some(_) => Ok(()),
        None => Err(fail("it stopped while it was starting".to_owned())),
    }
}

/// Tells when openraft's core or the state machine has ended for any reason but a shutdown.
async fn watch_core(raft: Raft, end: oneshot::Receiver<Infallible>, failure: Failure) {
    // Changes with roles and members only, not with each entry; and ends with the core.
    let mut server = raft.server_metrics();
    let core_ended = async { while server.changed().await.is_ok() {} };
    tokio::pin!(core_ended);
    tokio::select! {
        () = &mut core_ended => {}
        Err(_) = end => {
            // If it ended because of an error, the core ends too, and knows the error.
            let _ = tokio::time::timeout(CORE_END_DURATION_MAX, core_ended).await;
        }
    }
    let state = raft.metrics().borrow_watched().running_state.clone();
    match state {
        Err(Fatal::Stopped) => {}
        Err(error) => report(&failure, format!("Raft has stopped: {error}")),
        Ok(()) => report(&failure, "Raft has ended unexpectedly".to_owned()),
    }
}

/// The first reason is the one that counts.
fn report(failure: &Failure, reason: String) {
    failure.send_if_modified(|known| {
        let first = known.is_none();
        known.get_or_insert(reason);
        first
    });
}

async fn until_failure(mut failure: watch::Receiver<Option<String>>) -> String {
    let reason = failure.wait_for(Option::is_some).await;
    match reason.ok().and_then(|reason| reason.clone()) {
        Some(reason) => reason,
        None => std::future::pending().await,
    }
}

/// Shortens the log when its entries are few and large. (openraft counts entries only.) Half of what
/// may be there stays, for members that lag behind.
async fn keep_log_short(raft: Raft, log: LogHome, len_max: u64) {
    let metrics = raft.metrics();
    // How many bytes had been written when the log ended at which index, from its beginning on.
    let mut marks = VecDeque::from([(0, log.stats().entry_len)]);
    loop {
        tokio::time::sleep(HOUSEKEEPING_INTERVAL).await;
        let len = log.stats().entry_len;
        let (last, snapshot, purged) = {
            let metrics = metrics.borrow_watched();
            let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
            (
                metrics.last_log_index.unwrap_or(0),
                index(metrics.snapshot),
                index(metrics.purged),
            )
        };
        if marks
            .back()
            .is_none_or(|&(_, back)| len - back > len_max / 16)
        {
            marks.push_back((last, len));
        }
        while marks.get(1).is_some_and(|&(index, _)| index <= purged) {
            marks.pop_front();
        }
        if marks
            .front()
            .is_none_or(|&(_, front)| len - front <= len_max)
        {
            continue;
        }
        let goes = |&&(_, at): &&(u64, u64)| len - at >= len_max / 2;
        let half = marks.iter().rev().find(goes).map_or(0, |&(index, _)| index);
        // After a burst between two looks, the mark at half may be what was purged already; the next one
        // is then too far, and better than a log that stays too long.
        let upto = if half > purged {
            half
        } else {
            let beyond = marks.iter().find(|&&(index, _)| index > purged);
            beyond.map_or(0, |&(index, _)| index)
        };
        let result = if snapshot < upto {
            // The next round finds it.
            raft.trigger().snapshot().await
        } else {
            raft.trigger().purge_log(upto).await
        };
        if result.is_err() {
            return;
        }
    }
}
