//! Clusters of several replicas in one process, over loopback, for the tests of this crate.
//!
//! Every node has its own data directory, or memory, and a peer port that the system picked. Timeouts are short
//! enough to replace a failed leader in well under a second, and long enough for a busy machine with two cores.
//! Every wait is limited by [`PATIENCE`], and the condition that was not reached is printed.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hearth_raft::{
    Birth, ClusterChange, ClusterConfig, ClusterError, ClusterKeys, ClusterReply, ClusterStatus,
    Replica, ReplicaConfig, StartError, Status, StorageLocation, Tuning,
};
use hearth_storage::{Answer, Command, IfTaken, Query, Reply};
use tokio::task::{JoinError, JoinHandle};

/// The longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the deadline of a wait that begins now.
pub(crate) fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Returns settings with short timeouts, for loopback.
pub(crate) fn quick() -> Tuning {
    let mut tuning = Tuning::default();
    tuning.election_timeout = (Duration::from_millis(300), Duration::from_millis(600));
    tuning.heartbeat_interval = Duration::from_millis(50);
    tuning
}

/// Returns a loopback address with a port that was just free, as `HOST:PORT`. No other test of this process
/// gets the same.
pub(crate) fn free_addr() -> String {
    static TAKEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        if TAKEN.lock().unwrap().insert(addr) {
            return addr.to_string();
        }
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// After [`PATIENCE`], with `what` and the last error of the condition.
pub(crate) async fn until<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let end = soon();
    loop {
        match condition().await {
            Ok(()) => return,
            Err(last) if Instant::now() > end => panic!("not in time: {what}; {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// A replica that may or may not be running.
pub(crate) struct TestNode {
    pub(crate) config: ReplicaConfig,
    pub(crate) replica: Option<Replica>,
}

/// Several replicas. When the cluster is dropped, they end without a shutdown.
pub(crate) struct TestCluster {
    dir: tempfile::TempDir,
    pub(crate) tuning: Tuning,
    in_memory: bool,
    pub(crate) keys: ClusterKeys,
    founders: BTreeMap<u64, String>,
    pub(crate) nodes: BTreeMap<u64, TestNode>,
    folder_count: u32,
}

impl TestCluster {
    /// Creates nodes 1 to `count`, which bootstrap a cluster when they are started.
    pub(crate) fn new(count: u64) -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            tuning: quick(),
            in_memory: false,
            keys: ClusterKeys::new([b"the key of the tests".to_vec()]),
            founders: (1..=count).map(|id| (id, free_addr())).collect(),
            nodes: BTreeMap::new(),
            folder_count: 0,
        };
        for id in 1..=count {
            let config = cluster.founder(id);
            cluster.put(id, config);
        }
        cluster
    }

    /// Creates the same cluster without a disk.
    pub(crate) fn in_memory(count: u64) -> Self {
        let mut cluster = Self::new(count);
        cluster.in_memory = true;
        cluster.tuning.memory_may_vote = true;
        for node in cluster.nodes.values_mut() {
            node.config.storage = StorageLocation::Memory;
        }
        cluster
    }

    /// Starts a cluster of `count` nodes, and waits until all of them serve.
    pub(crate) async fn founded(count: u64) -> Self {
        let mut cluster = Self::new(count);
        cluster.start_all().await;
        cluster
    }

    fn put(&mut self, id: u64, config: ReplicaConfig) {
        let replica = None;
        self.nodes.insert(id, TestNode { config, replica });
    }

    /// Returns a new storage location for another node.
    pub(crate) fn new_storage(&mut self) -> StorageLocation {
        self.folder_count += 1;
        if self.in_memory {
            return StorageLocation::Memory;
        }
        let name = format!("data{}", self.folder_count);
        StorageLocation::Rocks(self.dir.path().join(name))
    }

    /// Returns the configuration of founder `id`, with an empty data directory.
    pub(crate) fn founder(&mut self, id: u64) -> ReplicaConfig {
        let birth = Birth::Found {
            founders: self.founders.clone(),
        };
        let addr = self.founders[&id].clone();
        self.config(Some(id), addr, birth)
    }

    /// Returns the configuration of a node that joins through the running nodes, with an empty data directory.
    pub(crate) fn joiner(&mut self, node_id: Option<u64>, learner: bool) -> ReplicaConfig {
        let birth = Birth::Join {
            seeds: self.running().map(|(_, node)| addr(&node.config)).collect(),
            learner,
        };
        self.config(node_id, free_addr(), birth)
    }

    fn config(&mut self, node_id: Option<u64>, peer_addr: String, birth: Birth) -> ReplicaConfig {
        ReplicaConfig {
            node_id,
            cluster_name: "hearth".to_owned(),
            storage: self.new_storage(),
            cluster: Some(ClusterConfig {
                ns_addr: format!("ns.{peer_addr}"),
                peer_addr,
                birth,
                keys: self.keys.clone(),
            }),
        }
    }

    fn running(&self) -> impl Iterator<Item = (u64, &TestNode)> {
        let nodes = self.nodes.iter().map(|(&id, node)| (id, node));
        nodes.filter(|(_, node)| node.replica.is_some())
    }

    /// Returns the ids of the running nodes.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.running().map(|(id, _)| id).collect()
    }

    /// Starts node `id` in the background.
    pub(crate) fn spawn(&self, id: u64) -> JoinHandle<Result<Replica, StartError>> {
        start(self.nodes[&id].config.clone(), self.tuning.clone())
    }

    /// Starts node `id`, and waits until it serves.
    pub(crate) async fn start(&mut self, id: u64) {
        let replica = started(self.spawn(id)).await.unwrap();
        self.nodes.get_mut(&id).unwrap().replica = Some(replica);
    }

    /// Starts all nodes that are not running, together, and waits until all of them serve.
    pub(crate) async fn start_all(&mut self) {
        let stopped = self.nodes.iter().filter(|(_, node)| node.replica.is_none());
        let ids: Vec<u64> = stopped.map(|(&id, _)| id).collect();
        let starts: Vec<_> = ids.iter().map(|&id| (id, self.spawn(id))).collect();
        for (id, start) in starts {
            let replica = started(start).await.unwrap();
            self.nodes.get_mut(&id).unwrap().replica = Some(replica);
        }
    }

    /// Has a new node join the cluster, and returns its id.
    pub(crate) async fn join(&mut self, node_id: Option<u64>, learner: bool) -> u64 {
        let config = self.joiner(node_id, learner);
        let replica = started(start(config.clone(), self.tuning.clone()))
            .await
            .unwrap();
        let id = replica.status().node_id;
        let replica = Some(replica);
        self.nodes.insert(id, TestNode { config, replica });
        id
    }

    /// Shuts node `id` down.
    pub(crate) async fn stop(&mut self, id: u64) {
        let replica = self.nodes.get_mut(&id).unwrap().replica.take();
        replica.expect("it runs").shutdown().await;
    }

    /// Ends node `id` abruptly, whatever it is doing. Its connections close. (Its writes remain, synced or not,
    /// because this process continues.)
    pub(crate) fn kill(&mut self, id: u64) {
        drop(self.nodes.get_mut(&id).unwrap().replica.take());
    }

    /// Shuts all nodes down.
    pub(crate) async fn shutdown(mut self) {
        let replicas: Vec<Replica> = self
            .nodes
            .values_mut()
            .filter_map(|node| node.replica.take())
            .collect();
        futures::future::join_all(replicas.iter().map(Replica::shutdown)).await;
    }

    /// Returns node `id`, which must be running.
    pub(crate) fn node(&self, id: u64) -> &Replica {
        let node = self.nodes.get(&id).expect("there is such a node");
        node.replica.as_ref().expect("it runs")
    }

    /// Waits until all running nodes agree on a leader, and returns its id.
    pub(crate) async fn leader(&self) -> u64 {
        let end = soon();
        loop {
            let known: BTreeSet<Option<u64>> = self
                .running()
                .filter_map(|(_, node)| node.replica.as_ref())
                .map(|replica| replica.status().leader)
                .collect();
            if let (1, Some(&Some(leader))) = (known.len(), known.first())
                && self.nodes[&leader].replica.is_some()
            {
                return leader;
            }
            assert!(Instant::now() < end, "no leader: {:?}", self.statuses());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns a running node that is not the leader.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        let mut ids = self.ids().into_iter();
        ids.find(|&id| id != leader).expect("there is another one")
    }

    /// Returns the status of each running node.
    pub(crate) fn statuses(&self) -> Vec<Status> {
        self.running()
            .filter_map(|(_, node)| Some(node.replica.as_ref()?.status()))
            .collect()
    }

    /// Returns the cluster's status as seen by node `id`.
    pub(crate) async fn status(&self, id: u64) -> ClusterStatus {
        let status = self.node(id).cluster_status(Duration::from_secs(5)).await;
        status.unwrap()
    }

    /// Waits until all running nodes have applied the same entries, and checks that their states are then
    /// equal.
    pub(crate) async fn settle(&self) {
        let ids = self.ids();
        until("all nodes have applied the same entries", || async {
            let reports: Vec<(u64, String)> = {
                let status = self.status(ids[0]).await;
                let reports = status
                    .members
                    .into_iter()
                    .filter_map(|member| member.report);
                reports
                    .filter(|report| ids.contains(&report.id))
                    .map(|report| (report.last_applied, report.state_hash))
                    .collect()
            };
            let same_index = |report: &(u64, String)| report.0 == reports[0].0;
            if reports.len() < ids.len() || !reports.iter().all(same_index) {
                return Err(format!("{reports:?}"));
            }
            let same = reports.iter().all(|report| report.1 == reports[0].1);
            assert!(same, "equal indexes, different states: {reports:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until `ids` are the voters, as seen by node `asked`.
    pub(crate) async fn voters(&self, asked: u64, ids: &[u64]) {
        until("these are the voters", || async {
            let status = self.status(asked).await;
            let members = status.members.iter();
            let voters: Vec<u64> = members
                .filter(|member| member.member.voter)
                .map(|member| member.member.id)
                .collect();
            if voters == ids {
                return Ok(());
            }
            Err(format!("wanted {ids:?}, there are {voters:?}"))
        })
        .await;
    }

    /// Changes the cluster through node `through`.
    pub(crate) async fn change(
        &self,
        through: u64,
        change: ClusterChange,
    ) -> Result<ClusterReply, ClusterError> {
        self.node(through).change_cluster(change, soon()).await
    }

    /// Registers `name` through node `id`, and checks that it was new.
    pub(crate) async fn register(&self, id: u64, name: &str) {
        let reply = self.node(id).write(register(name), soon()).await;
        assert_eq!(reply, Ok(Reply::Done), "{name} through {id}");
    }

    /// Returns true if a linearizable read at node `id` finds `name`.
    pub(crate) async fn has(&self, id: u64, name: &str) -> bool {
        let node = self.node(id);
        node.read_barrier(PATIENCE).await.unwrap();
        has(node, name)
    }
}

/// Starts a node in the background. Waits for a data directory that a killed node still holds.
pub(crate) fn start(
    config: ReplicaConfig,
    tuning: Tuning,
) -> JoinHandle<Result<Replica, StartError>> {
    tokio::spawn(async move {
        let end = soon();
        loop {
            match Replica::start_with(config.clone(), tuning.clone()).await {
                Err(StartError::Store(hearth_storage::StoreError::InUse { .. }))
                    if Instant::now() < end =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result,
            }
        }
    })
}

/// Waits for a start, and returns its result.
pub(crate) async fn started(
    start: impl Future<Output = Result<Result<Replica, StartError>, JoinError>>,
) -> Result<Replica, StartError> {
    let started = tokio::time::timeout(PATIENCE, start).await;
    started.expect("it starts in time").unwrap()
}

/// Waits for a start that must be refused, and returns the reason.
pub(crate) async fn refusal(
    start: impl Future<Output = Result<Result<Replica, StartError>, JoinError>>,
) -> String {
    match started(start).await {
        Err(StartError::Identity(reason) | StartError::Removed(reason)) => reason,
        other => panic!("it was not refused: {other:?}"),
    }
}

/// Returns the peer address of a node.
pub(crate) fn addr(config: &ReplicaConfig) -> String {
    config.cluster.as_ref().unwrap().peer_addr.clone()
}

/// Returns the data directory of a node on disk.
pub(crate) fn folder(config: &ReplicaConfig) -> PathBuf {
    match &config.storage {
        StorageLocation::Rocks(path) => path.clone(),
        StorageLocation::Memory => panic!("it has no folder"),
    }
}

/// Returns the command that registers `name` if it is not taken.
pub(crate) fn register(name: &str) -> Command {
    Command::Register {
        name: name.to_owned(),
        uri: format!("PYRO:{name}@localhost:1"),
        tags: BTreeSet::new(),
        if_taken: IfTaken::Refuse,
    }
}

/// Returns true if a node's own copy has `name`.
pub(crate) fn has(replica: &Replica, name: &str) -> bool {
    match replica.answer(&Query::Lookup(name.to_owned())).unwrap() {
        Answer::Entry(entry) => entry.is_some(),
        other => panic!("{other:?}"),
    }
}
