//! Starts a replica: opens and checks the storage, recovers, and opens the node's session. Also has the tasks
//! that watch a running replica.

pub(crate) mod birth;

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use hearth_storage::{Home, Location, LogHome, Registry, RocksStore, Store, StoreError};

use crate::bootstrap::birth::{Ask, Folder, Waits, be_born, commit_founding};
use crate::codec::{self, FolderRecord};
use crate::config::{Birth, ReplicaConfig, StorageLocation, Tuning};
use crate::disk_space::{Disk, Watch};
use crate::environment::Ground;
use crate::error::{ReadError, StartError};
use crate::leader::contact::Contact;
use crate::leader::failover::replace_lost_leaders;
use crate::leader::proposals::Proposals;
use crate::leader::router::Route;
use crate::leader::tracker::Leadership;
use crate::membership::rules::RulesKeeper;
use crate::membership::{Admin, VoterStorage};
use crate::offline::last_membership;
use crate::read::Reads;
use crate::replication::network::Network;
use crate::replication::snapshot_receive::Receiver;
use crate::replication::snapshot_send::Outgoing;
use crate::report::{Reporter, divergence, watch_divergence};
use crate::retention::{Limits, keep_log_short};
use crate::rpc::credentials::{Credentials, LocalNode};
use crate::rpc::message::Request;
use crate::rpc::refusal::{Refusal, RefusalCode};
use crate::rpc::socket::Sockets;
use crate::rpc::{LinkState, Peers, server};
use crate::service::leader::Lead;
use crate::service::{Incoming, Services};
use crate::store::Raft;
use crate::store::log_store::LogStore;
use crate::store::roster::{Roster, Turned};
use crate::store::snapshot::Position;
use crate::store::sole_voter::Gate;
use crate::store::state_machine::{Counters, StateMachine};
use crate::types::Membership;
use crate::write::Writer;

/// The longest time that openraft's core may take to end after the state machine has ended.
const CORE_END_DURATION_MAX: Duration = Duration::from_secs(1);

/// The time after which a start that still waits logs what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Interval at which another member is sent a request, to find out whether this node was removed.
const REMOVAL_INTERVAL: Duration = Duration::from_millis(500);

/// The parts that serve reads and status requests while the replica runs.
#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) registry: Registry,
    pub(crate) log: LogHome,
    pub(crate) reporter: Arc<Reporter>,
    /// `None` for a single-node cluster.
    pub(crate) admin: Option<Arc<Admin>>,
}

/// The parts of a started replica, without the runtime that it runs on.
pub(crate) struct Parts {
    pub(crate) node_id: u64,
    pub(crate) gate: Arc<Gate>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) writer: Writer,
    pub(crate) disk: Arc<Disk>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) failure: watch::Receiver<Option<String>>,
    pub(crate) removed: watch::Receiver<Option<String>>,
    pub(crate) open: Open,
    pub(crate) raft: Raft,
    pub(crate) store: Arc<dyn Home>,
    pub(crate) batcher: JoinHandle<()>,
    pub(crate) tasks: Vec<JoinHandle<()>>,
    pub(crate) peers: Peers,
    pub(crate) incoming: Arc<Incoming>,
}

type Failure = Arc<watch::Sender<Option<String>>>;

/// Starts all parts in order and returns when this node has recovered. While there is no majority, it waits and
/// logs which nodes it waits for. Must run on Raft's own runtime, which also ends the tasks that it spawns.
///
/// Boxed here, so that Raft is compiled once, with this crate, and not again in each crate that starts a
/// replica.
#[inline(never)]
pub(crate) fn assemble(
    config: ReplicaConfig,
    tuning: Tuning,
    ground: Ground,
) -> Pin<Box<dyn Future<Output = Result<Parts, StartError>> + Send>> {
    Box::pin(assemble_all(config, tuning, ground))
}

async fn assemble_all(
    config: ReplicaConfig,
    tuning: Tuning,
    ground: Ground,
) -> Result<Parts, StartError> {
    check_voter(&config, &tuning)?;
    let raft_config = tuning.to_openraft(&config.cluster_name)?;
    let mut config = config;
    let store = match ground.home {
        Some(home) => home,
        None => open_store(&config.storage, &tuning).await?,
    };
    let sockets = ground.sockets;
    let disk = Disk::open(&config.storage, tuning.disk.clone());
    let log = store.log();
    if let Some(cluster) = &mut config.cluster
        && cluster.peer_addr.is_empty()
    {
        cluster.peer_addr = known_address(&*store, &log)?;
    }
    let roster = Arc::new(Roster::default());
    let folder = Arc::new(Folder::open(log.clone(), &config, Arc::clone(&roster))?);
    let credentials = credentials(&config, &folder, Arc::clone(&roster));
    let peers = Peers::new(credentials, Arc::clone(&sockets));
    let strangers = peers.strangers();
    let asked = Arc::clone(&folder);
    let incoming = Arc::new(Incoming::new(move |ask| asked.answer(ask)));
    let mut tasks = Vec::new();
    let identity = match &config.cluster {
        Some(cluster) => {
            tasks.push(serve_peers(&*sockets, &cluster.peer_addr, &peers, &incoming).await?);
            be_born(&folder, &config, cluster, &strangers).await?
        }
        None => folder.identity().ok_or_else(|| {
            StartError::Identity("the data folder does not say whose it is".to_owned())
        })?,
    };
    let node_id = identity.node_id;
    peers.credentials().set_local(LocalNode {
        cluster_name: identity.cluster_name.clone(),
        cluster_id: Some(identity.cluster_id),
        node_id: Some(node_id),
        incarnation: identity.incarnation,
    });

    let registry = Registry::new(Arc::clone(&store) as Arc<dyn Store>);
    let gate = Arc::new(Gate::new(node_id));
    let counters = Arc::new(Counters::default());
    let log_store = LogStore::open(log.clone(), Arc::clone(&gate))?;
    let mut state_machine = StateMachine::open(
        registry.clone(),
        Arc::clone(&gate),
        Arc::clone(&counters),
        Arc::clone(&roster),
    )?;
    check_log(&log_store, state_machine.position(), &config.storage)?;
    let has_state = state_machine.position().last_applied.is_some();
    let membership = last_membership(&log, state_machine.position())?;
    match &config.cluster {
        None => check_alone(&membership, node_id)?,
        Some(cluster) => tell_ignored(&cluster.birth, &membership),
    }

    let (failure_sender, failure) = watch::channel(None);
    let failure_sender: Failure = Arc::new(failure_sender);
    stop_on_failure(&*store, &gate, &failure_sender);

    let outgoing = Outgoing::default();
    let end = state_machine.end();
    let network = Network::new(peers.clone(), outgoing.clone());
    let log_reader = log_store.clone();
    let raft = Raft::new(node_id, raft_config, network, log_store, state_machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    tasks.push(tokio::spawn(watch_core(raft.clone(), end, failure_sender)));
    tasks.push(tokio::spawn(follow_members(raft.clone(), peers.clone())));
    let contact = Arc::new(Contact::default());
    tasks.push(tokio::spawn(replace_lost_leaders(
        raft.clone(),
        peers.clone(),
        Arc::clone(&contact),
        node_id,
        tuning.election_timeout,
    )));
    let (removed_sender, removed) = watch::channel(None);
    let removal = RemovalWatch {
        folder: Arc::clone(&folder),
        roster,
        raft: raft.clone(),
        peers: peers.clone(),
    };
    tasks.push(tokio::spawn(removal.run(removed_sender)));

    let silence_max = tuning.election_timeout.1;
    let leadership = Leadership::of(&raft, node_id, Arc::clone(&contact), silence_max);
    tasks.push(tokio::spawn(leadership.clone().follow(raft.clone())));
    let proposals = Proposals::new(raft.clone());
    let route = Route {
        leadership: leadership.clone(),
        raft: raft.clone(),
        proposals: proposals.clone(),
        log_store: log_reader,
        peers: peers.clone(),
    };
    let in_flight_max = match config.cluster {
        Some(_) => tuning.entries_in_flight_max,
        // Nothing is on its way to other nodes, so what gathers while one entry is written costs the least.
        None => 1,
    };
    let (writer, batcher) = Writer::new(route.clone(), Arc::clone(&counters), in_flight_max);
    let batcher = tokio::spawn(batcher.run());
    let reads = Arc::new(Reads::new(Arc::clone(&counters), leadership.clone()));
    tasks.push(tokio::spawn(Arc::clone(&reads).run(route)));
    let admin = config.cluster.as_ref().map(|_| {
        let storage = VoterStorage {
            is_durable: !matches!(config.storage, StorageLocation::Memory),
            memory_may_vote: tuning.memory_may_vote,
        };
        let (identity, raft, peers) = (identity.clone(), raft.clone(), peers.clone());
        Arc::new(Admin::new(identity, raft, peers, silence_max, storage))
    });
    let reporter = Arc::new(Reporter {
        me: identity,
        ns_addr: match &config.cluster {
            Some(cluster) => cluster.ns_addr.clone(),
            None => String::new(),
        },
        raft: raft.clone(),
        peers: peers.clone(),
        registry: registry.clone(),
        disk: Arc::clone(&disk),
        found: divergence::Found::default(),
        is_ready: ready(&raft, &gate, &leadership),
    });
    if config.cluster.is_some() {
        tasks.push(tokio::spawn(watch_divergence(Arc::clone(&reporter))));
    }
    let (snapshots, receiving) = Receiver::start(raft.clone(), registry.clone(), Arc::clone(&disk));
    tasks.push(receiving);
    incoming.runs(Services {
        raft: raft.clone(),
        admin: admin.clone(),
        reporter: Arc::clone(&reporter),
        disk: Arc::clone(&disk),
        snapshots,
        lead: Lead::new(
            leadership.clone(),
            raft.clone(),
            proposals,
            Arc::clone(&reads),
            Arc::clone(&disk),
        ),
        contact,
    });
    let watch = Watch {
        disk: Arc::clone(&disk),
        node_id,
        raft: raft.clone(),
        store: Arc::clone(&store),
        log: log.clone(),
        peers: peers.clone(),
        flush_len: tuning.rocks.write_buffer_len as u64,
    };
    tasks.push(tokio::spawn(watch.run()));
    let started = async {
        found_cluster(&folder, &raft, &strangers).await?;
        if let (Some(admin), Some(cluster)) = (&admin, &config.cluster) {
            tasks.push(tokio::spawn(Arc::clone(admin).promote_learners()));
            let introduction = introduce(Arc::clone(admin), cluster.peer_addr.clone());
            tasks.push(tokio::spawn(introduction));
        }
        // A node that has never applied anything has no state to serve.
        let wait = tuning.majority_wait.filter(|_| has_state);
        let has_majority = tokio::select! {
            taken = take_part(&raft, node_id, &gate, &writer, &reads, &peers) => taken.map(|()| true)?,
            () = no_majority(leadership.clone(), wait) => false,
        };
        // On a single-node cluster this activates the rules before the first client is served.
        let rules = RulesKeeper {
            node_id,
            raft: raft.clone(),
            registry: registry.clone(),
            writer: writer.clone(),
            peers: peers.clone(),
        };
        if !has_majority || !rules.step().await.map_err(StartError::Store)? {
            tasks.push(tokio::spawn(rules.run()));
        }
        Ok::<_, StartError>(())
    };
    tokio::select! {
        result = started => result?,
        reason = until_some(failure.clone()) => return Err(StartError::Raft(reason)),
        reason = until_some(removed.clone()) => return Err(StartError::Removed(reason)),
    }

    let in_memory = matches!(config.storage, StorageLocation::Memory);
    let limits = Limits::new(&tuning, in_memory);
    let housekeeping = keep_log_short(raft.clone(), log.clone(), outgoing, limits);
    tasks.push(tokio::spawn(housekeeping));
    Ok(Parts {
        node_id,
        gate,
        reads,
        writer,
        disk,
        counters,
        failure,
        removed,
        open: Open {
            registry,
            log,
            reporter,
            admin,
        },
        raft,
        store,
        batcher,
        tasks,
        peers,
        incoming,
    })
}

/// Returns this node's peer address according to the membership in its own storage.
fn known_address(store: &dyn Home, log: &LogHome) -> Result<String, StartError> {
    let unknown = || {
        StartError::Identity(
            "the data folder does not say where other nodes reach this one; give --peer-addr"
                .to_owned(),
        )
    };
    let record = log.identity()?.ok_or_else(unknown)?;
    let record = codec::decode_folder(&record).map_err(StoreError::from)?;
    let position = Position::read(|key| store.meta(key))?;
    let membership = last_membership(log, &position)?;
    let member = record
        .identity()
        .and_then(|me| membership.get_node(&me.node_id));
    let addr = member.map(|member| member.peer_addr.clone());
    addr.filter(|addr| !addr.is_empty()).ok_or_else(unknown)
}

/// Returns the credentials of this node and its rule for admitting peers.
fn credentials(config: &ReplicaConfig, folder: &Folder, roster: Arc<Roster>) -> Credentials {
    let identity = folder.identity();
    let incarnation = match (&identity, folder.record()) {
        (Some(identity), _) => identity.incarnation,
        (None, FolderRecord::Blank { incarnation }) => incarnation,
        (None, _) => 0,
    };
    let local = LocalNode {
        cluster_name: config.cluster_name.clone(),
        cluster_id: identity.as_ref().map(|identity| identity.cluster_id),
        node_id: identity.map(|identity| identity.node_id).or(config.node_id),
        incarnation,
    };
    let cluster = config.cluster.as_ref();
    let keys = cluster.map(|cluster| cluster.keys.clone());
    let admission = move |id, incarnation| match roster.turned_away(id, incarnation) {
        Some(turned) => {
            let code = match turned {
                Turned::Removed(_) => RefusalCode::Removed,
                Turned::Replaced(_) => RefusalCode::Replaced,
            };
            Err(Refusal::new(code, turned.to_string()))
        }
        None => Ok(()),
    };
    Credentials::new(local, keys.unwrap_or_default(), Box::new(admission))
}

/// Listens on the peer port and serves other nodes.
async fn serve_peers(
    sockets: &dyn Sockets,
    peer_addr: &str,
    peers: &Peers,
    incoming: &Arc<Incoming>,
) -> Result<JoinHandle<()>, StartError> {
    let listener = sockets
        .listen(peer_addr)
        .await
        .map_err(|source| StartError::Listen {
            addr: peer_addr.to_owned(),
            source,
        })?;
    let served = server::serve(listener, peers.clone(), Arc::clone(incoming));
    Ok(tokio::spawn(served))
}

async fn open_store(
    storage: &StorageLocation,
    tuning: &Tuning,
) -> Result<Arc<dyn Home>, StartError> {
    let location = match storage {
        StorageLocation::Memory => Location::Memory,
        StorageLocation::Rocks(path) => Location::Folder(path.clone()),
    };
    let options = tuning.rocks.clone();
    let opened = tokio::task::spawn_blocking(move || RocksStore::open(&location, &options))
        .await
        .map_err(|error| StartError::Raft(format!("opening the storage failed: {error}")))?;
    Ok(Arc::new(opened.map_err(StartError::Store)?))
}

/// Refuses a node that would vote in a cluster of several with its state in memory only: when its process ends,
/// it forgets the votes that it has given, and it can never return under its id.
fn check_voter(config: &ReplicaConfig, tuning: &Tuning) -> Result<(), StartError> {
    let votes_among_others = match config.cluster.as_ref().map(|cluster| &cluster.birth) {
        Some(Birth::Found { founders }) => founders.len() > 1,
        Some(Birth::Join { learner, .. }) => !learner,
        Some(Birth::Done) | None => false,
    };
    let is_in_memory = matches!(config.storage, StorageLocation::Memory);
    if votes_among_others && is_in_memory && !tuning.memory_may_vote {
        return Err(StartError::Identity(
            "a node that votes among others keeps its state on a disk; in memory it can be a learner".to_owned(),
        ));
    }
    Ok(())
}

/// Refuses a log that ends before the state does. openraft would take the gap for the rest of an interrupted
/// snapshot install, and continue as if nothing were lost. That explanation holds only if nothing was applied
/// since the install.
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

fn stop_on_failure(store: &dyn Home, gate: &Arc<Gate>, failure: &Failure) {
    let (gate, failure) = (Arc::clone(gate), Arc::clone(failure));
    store.on_failure(Box::new(move |reason| {
        gate.stop();
        report(&failure, format!("storage: {reason}"));
    }));
}

/// Refuses to run a member of a larger cluster without connections to the other members.
fn check_alone(membership: &Membership, node_id: u64) -> Result<(), StartError> {
    let voters: Vec<u64> = membership.voter_ids().collect();
    if voters.is_empty() || voters == [node_id] {
        return Ok(());
    }
    Err(StartError::Identity(format!(
        "the data folder belongs to node {node_id} of a cluster with the voters {voters:?}; give --peer-addr,          so that it can reach the others"
    )))
}

/// Logs that the list of founders is ignored because the cluster has other members by now, for example after a
/// recovery.
fn tell_ignored(birth: &Birth, membership: &Membership) {
    let members: Vec<u64> = membership.nodes().map(|(&id, _)| id).collect();
    if let Birth::Found { founders } = birth
        && !members.is_empty()
        && !members.iter().eq(founders.keys())
    {
        let founders: Vec<u64> = founders.keys().copied().collect();
        tracing::info!(
            "--initial-cluster names the nodes {founders:?} and is ignored: the data folder has a cluster, whose \
             members are {members:?}"
        );
    }
}

/// Writes the first entry of the log if this node has to.
async fn found_cluster(folder: &Folder, raft: &Raft, asks: &impl Ask) -> Result<(), StartError> {
    let fail = |error: String| StartError::Raft(error);
    let initialized = raft.is_initialized().await;
    if !initialized.map_err(|error| fail(error.to_string()))? {
        let Some(founders) = commit_founding(folder, asks).await? else {
            return Ok(());
        };
        raft.initialize(founders)
            .await
            .map_err(|error| fail(error.to_string()))?;
    }
    folder.settle().map_err(StartError::Store)
}

/// Waits until this node has applied all state that may have been visible to clients before, and opens its
/// session.
async fn take_part(
    raft: &Raft,
    node_id: u64,
    gate: &Gate,
    writer: &Writer,
    reads: &Reads,
    peers: &Peers,
) -> Result<(), StartError> {
    let fail = |error: String| StartError::Raft(error);
    let voters: Vec<u64> = raft.voter_ids().collect();
    if voters == [node_id] {
        // No other node can win the election, so there is no need to wait for an election timeout.
        raft.trigger()
            .elect(false)
            .await
            .map_err(|error| fail(error.to_string()))?;
        gate.opened().await;
    } else {
        catch_up(raft, node_id, reads, peers).await?;
    }
    let mut waits = Waits::default();
    loop {
        match tokio::time::timeout(PATIENCE, writer.session()).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => return Err(fail("it stopped while it was starting".to_owned())),
            Err(_) => waits.say(&["the leader to open this node's session"]),
        }
    }
}

/// Resolves when there has been no majority for `wait`. Never resolves if `wait` is `None`.
async fn no_majority(leadership: Leadership, wait: Option<Duration>) {
    let Some(wait) = wait else {
        return std::future::pending().await;
    };
    tokio::time::sleep(wait).await;
    // A node that only lags behind continues to wait.
    while !leadership.is_cut_off() {
        tokio::time::sleep(PATIENCE).await;
    }
    tracing::warn!(
        "no majority answers: this node serves what it has, which after a power failure may be older than what \
         it served before"
    );
}

/// Waits until this node has applied every write that any node had acknowledged when the start began. The
/// leader's current read index covers everything that this node has lost or missed.
async fn catch_up(
    raft: &Raft,
    node_id: u64,
    reads: &Reads,
    peers: &Peers,
) -> Result<(), StartError> {
    let mut waits = Waits::default();
    loop {
        match reads.barrier(PATIENCE).await {
            Ok(()) => return Ok(()),
            Err(ReadError::NoQuorum(reason)) => {
                let reasons = whom_it_waits_for(raft, node_id, peers, &reason);
                waits.say(&reasons);
            }
            Err(ReadError::Stopping(reason)) => return Err(StartError::Raft(reason)),
        }
    }
}

fn whom_it_waits_for(raft: &Raft, node_id: u64, peers: &Peers, reason: &str) -> Vec<String> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    if let Some(leader) = metrics.current_leader {
        return vec![format!("node {leader}, the leader: {reason}")];
    }
    let others = membership.voter_ids().filter(|&id| id != node_id);
    let mut reasons: Vec<String> = others
        .filter_map(|id| {
            let addr = &membership.get_node(&id)?.peer_addr;
            let state = peers.link_state(id)?.borrow().clone();
            (state != LinkState::Up).then(|| format!("voter {id} at {addr}: {state}"))
        })
        .collect();
    if reasons.is_empty() {
        reasons.push("a leader to be elected".to_owned());
    }
    reasons
}

/// Keeps a connection to each current member.
async fn follow_members(raft: Raft, peers: Peers) {
    // This watch changes with roles and members, not with each entry, and ends with the core.
    let mut server = raft.server_metrics();
    loop {
        {
            let now = server.borrow_watched();
            let nodes = now.membership_config.membership().nodes();
            peers.set_members(&nodes.map(|(&id, member)| (id, member.clone())).collect());
        }
        if server.changed().await.is_err() {
            return;
        }
    }
}

/// Detects that the cluster has removed this node: either this node has applied the removal, or a majority of
/// the other voters reports it.
struct RemovalWatch {
    folder: Arc<Folder>,
    roster: Arc<Roster>,
    raft: Raft,
    peers: Peers,
}

impl RemovalWatch {
    async fn run(self, removed: watch::Sender<Option<String>>) {
        let Some(me) = self.folder.identity() else {
            return;
        };
        let mut changes = self.roster.changes();
        let mut asked = 0;
        let mut last_count = 0;
        let turned = loop {
            // An entry that is replayed may be older than this node's membership.
            let turned = self.roster.turned_away(me.node_id, me.incarnation);
            if let Some(turned @ Turned::Removed(_)) = turned {
                if let Err(error) = self.folder.set_removed(&turned.to_string()) {
                    tracing::warn!(%error, "the data folder does not say that its node was removed");
                }
                break turned;
            }
            let verdict = self.verdict(me.node_id);
            // The verdict is not stored in the data directory: other nodes reported it, and this node has not
            // applied it.
            if let Some(turned) = verdict.by_majority() {
                break turned;
            }
            if verdict.count != last_count {
                last_count = verdict.count;
                let (count, voters) = (verdict.count, verdict.voter_count);
                tracing::warn!(
                    count,
                    voters,
                    "some of the other voters say that this node was removed, and not a majority of them"
                );
            }
            // The entry that removes a node does not reach that node, and afterwards no member sends it
            // requests. Peers check the roster again with each request, so this node sends one from time to
            // time.
            let members = self.roster.members().into_keys();
            let others: Vec<u64> = members.filter(|&id| id != me.node_id).collect();
            let next = others.get(asked % others.len().max(1)).copied();
            asked += 1;
            let ask = async {
                if let Some(id) = next {
                    let _ = self.peers.call(id, Request::Report, REMOVAL_INTERVAL).await;
                }
                tokio::time::sleep(REMOVAL_INTERVAL).await;
            };
            tokio::select! {
                () = ask => {}
                () = changes.next() => {}
            }
        };
        let reason = turned.to_string();
        tracing::error!("{reason}");
        removed.send_replace(Some(reason));
    }

    /// Counts the voters, of the last membership that this node knows, that report its removal. A removal is in
    /// force once a majority of the remaining voters has it, so only these are counted, and each must have
    /// proved its identity. A single voter that lies, or a stranger at the address of a former voter, cannot
    /// end this node.
    fn verdict(&self, me: u64) -> Verdict {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let others = membership.voter_ids().filter(|&id| id != me);
        let mut verdict = Verdict::default();
        for id in others {
            verdict.voter_count += 1;
            let state = self.peers.link_state(id);
            let state = state.map(|state| state.borrow().clone());
            if let Some(LinkState::Rejected {
                refusal,
                by_peer: true,
            }) = state
                && refusal.code.is_final()
            {
                verdict.count += 1;
                verdict.turned = Some(match refusal.code {
                    RefusalCode::Replaced => Turned::Replaced(me),
                    _ => Turned::Removed(me),
                });
            }
        }
        verdict
    }
}

/// The reports of the other voters; see [`RemovalWatch::verdict`].
#[derive(Debug, Default)]
struct Verdict {
    voter_count: usize,
    /// Voters that report that this node was removed or replaced.
    count: usize,
    turned: Option<Turned>,
}

impl Verdict {
    fn by_majority(&self) -> Option<Turned> {
        let turned = self.turned.clone()?;
        (self.count > self.voter_count / 2).then_some(turned)
    }
}

async fn introduce(admin: Arc<Admin>, peer_addr: String) {
    if let Err(reason) = admin.introduce(&peer_addr).await {
        tracing::error!(
            peer_addr,
            "the cluster does not take this node's peer address: {reason}"
        );
    }
}

/// Returns a function that reports whether this node could serve now, from local knowledge only.
fn ready(
    raft: &Raft,
    gate: &Arc<Gate>,
    leadership: &Leadership,
) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let (metrics, gate) = (raft.metrics(), Arc::clone(gate));
    let leadership = leadership.clone();
    Arc::new(move || {
        gate.is_open() || !leadership.is_cut_off() && metrics.borrow_watched().running_state.is_ok()
    })
}

/// Reports a failure when openraft's core or the state machine ends for any reason but a shutdown.
async fn watch_core(raft: Raft, end: oneshot::Receiver<Infallible>, failure: Failure) {
    // This watch changes with roles and members, not with each entry, and ends with the core.
    let mut server = raft.server_metrics();
    let core_ended = async { while server.changed().await.is_ok() {} };
    tokio::pin!(core_ended);
    tokio::select! {
        () = &mut core_ended => {}
        Err(_) = end => {
            // If the state machine ended because of an error, the core ends too and has the error.
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

/// Records the reason of a failure. Only the first reason counts.
fn report(failure: &Failure, reason: String) {
    failure.send_if_modified(|known| {
        let first = known.is_none();
        known.get_or_insert(reason);
        first
    });
}

/// Waits for the first value. Never returns if the sender is gone.
pub(crate) async fn until_some(mut reason: watch::Receiver<Option<String>>) -> String {
    let reason = reason.wait_for(Option::is_some).await;
    match reason.ok().and_then(|reason| reason.clone()) {
        Some(reason) => reason,
        None => std::future::pending().await,
    }
}
