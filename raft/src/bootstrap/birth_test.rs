//! Tests of bootstrap and join over a network of function calls, with a crash before and after every message.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use hearth_storage::{Location, RocksOptions, RocksStore};
use tokio::task::JoinHandle;

use super::*;
use crate::config::{ClusterKeys, StorageLocation};
use crate::store::node_ids::NodeIds;
use crate::types::{Membership, StoredMembership};

/// The nodes by address.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<BTreeMap<String, Arc<Folder>>>>);

/// One node's access to the network, which ends after a number of requests.
struct Caller {
    net: Net,
    /// Number of requests that the node may still send. After that it has crashed.
    left: AtomicUsize,
    /// True if the last request still arrives.
    delivers_last: bool,
}

impl Ask for Caller {
    async fn ask(
        &self,
        addr: &str,
        request: Request,
        _timeout: Duration,
    ) -> Result<Response, AskError> {
        let left = self.left.load(Ordering::SeqCst);
        if left > 0 {
            self.left.store(left - 1, Ordering::SeqCst);
        }
        if left == 0 || left == 1 && !self.delivers_last {
            std::future::pending::<()>().await;
        }
        let folder = self.net.0.lock().unwrap().get(addr).cloned();
        let folder = folder.ok_or_else(|| AskError::Unreachable("connection refused".into()))?;
        let Request::Found(ask) = request else {
            return Err(AskError::Unreachable("not now".into()));
        };
        let answer = folder.answer(ask);
        if left == 1 {
            std::future::pending::<()>().await;
        }
        Ok(Response::Found(answer))
    }
}

struct Node {
    config: ReplicaConfig,
    store: RocksStore,
    roster: Arc<Roster>,
}

type Founded = Result<(Identity, Option<BTreeMap<u64, Member>>), StartError>;

fn addr(id: u64) -> String {
    format!("host{id}:1")
}

fn three() -> BTreeMap<u64, String> {
    (1..=3).map(|id| (id, addr(id))).collect()
}

impl Node {
    fn new(id: u64, founders: BTreeMap<u64, String>) -> Self {
        Self {
            config: ReplicaConfig {
                node_id: Some(id),
                cluster_name: "hearth".to_owned(),
                storage: StorageLocation::Memory,
                cluster: Some(ClusterConfig {
                    peer_addr: addr(id),
                    ns_addr: String::new(),
                    birth: Birth::Found { founders },
                    keys: ClusterKeys::default(),
                }),
            },
            store: RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap(),
            roster: Arc::default(),
        }
    }

    fn folder(&self) -> Result<Arc<Folder>, StartError> {
        Folder::open(self.store.log(), &self.config, Arc::clone(&self.roster)).map(Arc::new)
    }

    /// Starts the node, which sends `left` requests and no more.
    fn start(&self, net: &Net, left: usize, delivers_last: bool) -> JoinHandle<Founded> {
        let folder = self.folder().unwrap();
        let cluster = self.config.cluster.clone().unwrap();
        let mut at = net.0.lock().unwrap();
        at.insert(cluster.peer_addr.clone(), Arc::clone(&folder));
        let caller = Caller {
            net: net.clone(),
            left: AtomicUsize::new(left),
            delivers_last,
        };
        let config = self.config.clone();
        tokio::spawn(async move {
            let identity = be_born(&folder, &config, &cluster, &caller).await?;
            let founders = commit_founding(&folder, &caller).await?;
            Ok((identity, founders))
        })
    }

    fn stop(&self, net: &Net) {
        let cluster = self.config.cluster.as_ref().unwrap();
        net.0.lock().unwrap().remove(&cluster.peer_addr);
    }
}

async fn soon<T>(task: JoinHandle<T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), task)
        .await
        .expect("in time")
        .unwrap()
}

/// Checks that all nodes are in the same cluster and that only the lowest one writes its first entry. Returns
/// the identity of the first node.
async fn finish(tasks: Vec<JoinHandle<Founded>>) -> Identity {
    let mut founded = Vec::new();
    for task in tasks {
        founded.push(soon(task).await.unwrap());
    }
    let clusters: BTreeSet<u128> = founded.iter().map(|(id, _)| id.cluster_id).collect();
    assert_eq!(clusters.len(), 1);
    for (identity, founders) in &founded {
        assert_eq!(founders.is_some(), identity.node_id == 1);
    }
    let members = founded[0].1.clone().unwrap();
    for (identity, _) in &founded {
        assert_eq!(
            members[&identity.node_id],
            Member {
                peer_addr: addr(identity.node_id),
                incarnation: identity.incarnation,
                promotes_itself: false,
            }
        );
    }
    founded[0].0.clone()
}

#[tokio::test(start_paused = true)]
async fn founders_start_in_any_order() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]] {
        let net = Net::default();
        let mut tasks = Vec::new();
        for id in order {
            let node = Node::new(id, three());
            tasks.push((id, node.start(&net, usize::MAX, true)));
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(tasks.len() == 3 || tasks.iter().all(|(_, task)| !task.is_finished()));
        }
        tasks.sort_by_key(|&(id, _)| id);
        finish(tasks.into_iter().map(|(_, task)| task).collect()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_founder_alone_is_a_cluster() {
    let net = Net::default();
    let node = Node::new(1, [(1, addr(1))].into());
    let (identity, members) = soon(node.start(&net, 0, true)).await.unwrap();
    assert_eq!(identity.node_id, 1);
    assert_eq!(members.unwrap().len(), 1);
}

/// Crashes each founder, before and after each of its messages arrives.
#[tokio::test(start_paused = true)]
async fn founding_goes_on_after_a_crash_at_any_step() {
    for victim in 1..=3 {
        for left in 0..8 {
            for delivers_last in [false, true] {
                let net = Net::default();
                let nodes: Vec<Node> = (1..=3).map(|id| Node::new(id, three())).collect();
                let mut tasks = Vec::new();
                for (id, node) in (1..).zip(&nodes) {
                    let left = if id == victim { left } else { usize::MAX };
                    tasks.push(node.start(&net, left, delivers_last));
                }
                tokio::time::sleep(Duration::from_secs(3)).await;
                let at = usize::try_from(victim - 1).unwrap();
                tasks[at].abort();
                nodes[at].stop(&net);
                tokio::time::sleep(Duration::from_secs(3)).await;
                tasks[at] = nodes[at].start(&net, usize::MAX, true);
                finish(tasks).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_founders_crash_when_the_identity_is_kept() {
    let net = Net::default();
    let nodes: Vec<Node> = (1..=3).map(|id| Node::new(id, three())).collect();
    let before: Vec<_> = nodes
        .iter()
        .map(|node| node.start(&net, usize::MAX, true))
        .collect();
    let first = finish(before).await;
    let after: Vec<_> = nodes
        .iter()
        .map(|node| node.start(&net, usize::MAX, true))
        .collect();
    assert_eq!(finish(after).await, first);
}

/// Brings the lowest founder to the point at which it has decided on its cluster and told no other node.
async fn decided(net: &Net) -> Vec<Node> {
    let nodes: Vec<Node> = (1..=3).map(|id| Node::new(id, three())).collect();
    let others: Vec<_> = nodes[1..]
        .iter()
        .map(|node| node.start(net, 0, false))
        .collect();
    // Both probes are answered. All later requests of this founder are lost.
    let first = nodes[0].start(net, 3, false);
    tokio::time::sleep(Duration::from_secs(3)).await;
    for task in others.into_iter().chain([first]) {
        assert!(!task.is_finished());
        task.abort();
    }
    assert!(matches!(
        nodes[0].folder().unwrap().record(),
        FolderRecord::Founder { .. }
    ));
    for node in &nodes {
        node.stop(net);
    }
    nodes
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_all_founders_know_their_cluster() {
    let net = Net::default();
    let nodes = decided(&net).await;
    let first = nodes[0].start(&net, usize::MAX, true);
    let second = nodes[1].start(&net, usize::MAX, true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!first.is_finished());
    let third = nodes[2].start(&net, usize::MAX, true);
    finish(vec![first, second, third]).await;
}

#[tokio::test(start_paused = true)]
async fn a_founder_that_was_wiped_before_it_was_told_is_refused() {
    let net = Net::default();
    let mut nodes = decided(&net).await;
    nodes[2] = Node::new(3, three());
    let first = nodes[0].start(&net, usize::MAX, true);
    let second = nodes[1].start(&net, usize::MAX, true);
    let third = nodes[2].start(&net, usize::MAX, true);
    for task in [first, third] {
        let error = soon(task).await.unwrap_err().to_string();
        assert!(
            error.contains("node 3 came back with another data folder"),
            "{error}"
        );
    }
    second.abort();
}

#[tokio::test(start_paused = true)]
async fn different_lists_are_refused_and_shown() {
    let net = Net::default();
    let other: BTreeMap<u64, String> = [(1, addr(1)), (2, addr(2))].into();
    let mut first = Node::new(1, three()).start(&net, usize::MAX, true);
    let mut second = Node::new(2, other).start(&net, usize::MAX, true);
    // The first founder that learns of the difference gives up. The other one may wait for it.
    let first = tokio::select! {
        result = &mut first => result.unwrap(),
        result = &mut second => result.unwrap(),
    };
    let Err(StartError::Identity(reason)) = first else {
        panic!("it was not refused");
    };
    for list in [
        "list 1=host1:1,2=host2:1,3=host3:1",
        "list 1=host1:1,2=host2:1;",
    ] {
        assert!(
            reason.contains(list) || reason.contains(&list.replace(';', ", and")),
            "{reason}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_founder_that_is_not_in_its_list_is_refused() {
    let mut node = Node::new(1, three());
    node.config.node_id = Some(4);
    let error = node.folder().unwrap_err().to_string();
    assert!(
        error.contains("1=host1:1") && error.contains("4 at host1:1"),
        "{error}"
    );
    node.config.node_id = Some(2);
    assert!(node.folder().is_err(), "the address is that of another one");
    node.config.node_id = None;
    let (net, folder) = (Net::default(), node.folder().unwrap());
    drop(folder);
    let others: Vec<_> = (2..=3)
        .map(|id| Node::new(id, three()).start(&net, usize::MAX, true))
        .collect();
    let (identity, _) = soon(node.start(&net, usize::MAX, true)).await.unwrap();
    assert_eq!(identity.node_id, 1, "found by its address");
    for task in others {
        soon(task).await.unwrap();
    }
}

/// A founder whose data directory was emptied: during the bootstrap, and while the cluster runs.
#[tokio::test(start_paused = true)]
async fn a_wiped_founder_is_refused() {
    for wiped in [1, 3] {
        let net = Net::default();
        let nodes: Vec<Node> = (1..=3).map(|id| Node::new(id, three())).collect();
        let tasks: Vec<_> = nodes
            .iter()
            .map(|node| node.start(&net, usize::MAX, true))
            .collect();
        finish(tasks).await;
        let error = soon(Node::new(wiped, three()).start(&net, usize::MAX, true)).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("empty the data folders of all founders"),
            "{error}"
        );

        // The other nodes have applied the membership.
        for node in &nodes {
            let folder = node.folder().unwrap();
            let FolderRecord::Founder { founders, .. } = folder.record() else {
                panic!("{:?}", folder.record());
            };
            let membership = Membership::new(vec![[1, 2, 3].into()], founders).unwrap();
            let mut ids = NodeIds::default();
            ids.set_members(&membership);
            node.roster
                .set(&StoredMembership::new(None, membership), &ids);
            folder.settle().unwrap();
        }
        let nodes_now: Vec<_> = nodes.iter().map(|node| node.folder().unwrap()).collect();
        for (id, folder) in (1..).zip(nodes_now) {
            net.0.lock().unwrap().insert(addr(id), folder);
        }
        let error = soon(Node::new(wiped, three()).start(&net, usize::MAX, true)).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&format!("nsctl cluster remove {wiped}")),
            "{error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_of_another_cluster_or_node_or_of_a_removed_one_is_refused() {
    let net = Net::default();
    let mut node = Node::new(1, [(1, addr(1))].into());
    soon(node.start(&net, 0, true)).await.unwrap();
    // A node with a cluster ignores its `birth` setting.
    let cluster = node.config.cluster.as_mut().unwrap();
    cluster.birth = Birth::Join {
        seeds: Vec::new(),
        learner: true,
    };
    node.config.node_id = None;
    assert!(node.folder().is_ok());
    node.config.cluster_name = "other".to_owned();
    let error = node.folder().unwrap_err().to_string();
    assert!(
        error.contains("\"hearth\"") && error.contains("\"other\""),
        "{error}"
    );
    node.config.cluster_name = "hearth".to_owned();
    node.config.node_id = Some(2);
    let error = node.folder().unwrap_err().to_string();
    assert!(
        error.contains("node 1") && error.contains("as 2"),
        "{error}"
    );
    node.config.node_id = Some(1);
    node.folder()
        .unwrap()
        .set_removed("it was removed")
        .unwrap();
    let error = node.folder().unwrap_err().to_string();
    assert_eq!(error, "it was removed");
}

/// Answers join requests with the given answers, one after the other.
struct Members(
    Mutex<Vec<(String, JoinAsk)>>,
    Vec<Result<JoinAnswer, AskError>>,
);

impl Ask for Members {
    async fn ask(&self, addr: &str, request: Request, _: Duration) -> Result<Response, AskError> {
        let Request::Join(ask) = request else {
            panic!("{request:?}");
        };
        let mut asked = self.0.lock().unwrap();
        let answer = self.1[asked.len()].clone();
        asked.push((addr.to_owned(), ask));
        answer.map(Response::Join)
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_joins_through_the_first_member_that_lets_it_in() {
    let mut node = Node::new(1, three());
    node.config.node_id = None;
    let cluster = node.config.cluster.as_mut().unwrap();
    cluster.birth = Birth::Join {
        seeds: vec![addr(8), addr(9)],
        learner: true,
    };
    let cluster = cluster.clone();
    let members = Members(
        Mutex::default(),
        vec![
            Err(AskError::Unreachable("connection refused".into())),
            Ok(JoinAnswer::Later("there is no leader".into())),
            Ok(JoinAnswer::Later("there is no leader".into())),
            Ok(JoinAnswer::Welcome {
                cluster_id: 77,
                node_id: 5,
            }),
        ],
    );
    let folder = node.folder().unwrap();
    let identity = be_born(&folder, &node.config, &cluster, &members)
        .await
        .unwrap();
    assert_eq!((identity.cluster_id, identity.node_id), (77, 5));
    let asked = members.0.into_inner().unwrap();
    let through: Vec<&str> = asked.iter().map(|(addr, _)| addr.as_str()).collect();
    assert_eq!(through, ["host8:1", "host9:1", "host8:1", "host9:1"]);
    for (_, ask) in &asked {
        assert_eq!(ask.incarnation, identity.incarnation);
        assert!(ask.learner && ask.node_id.is_none() && ask.peer_addr == addr(1));
    }
    // The identity is saved, and no request is needed any more.
    let folder = node.folder().unwrap();
    let nobody = Members(Mutex::default(), Vec::new());
    let again = be_born(&folder, &node.config, &cluster, &nobody)
        .await
        .unwrap();
    assert_eq!(again, identity);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_crashed_while_joining_asks_as_the_same_one() {
    let mut node = Node::new(1, three());
    let cluster = node.config.cluster.as_mut().unwrap();
    cluster.birth = Birth::Join {
        seeds: vec![addr(9)],
        learner: false,
    };
    let cluster = cluster.clone();
    let mut incarnations = BTreeSet::new();
    for _ in 0..2 {
        let no = Err(AskError::Unreachable("no".into()));
        let members = Members(Mutex::default(), vec![no; 100]);
        let folder = node.folder().unwrap();
        let asking = be_born(&folder, &node.config, &cluster, &members);
        let crashed = tokio::time::timeout(Duration::from_secs(1), asking).await;
        assert!(crashed.is_err());
        let asked = members.0.into_inner().unwrap();
        incarnations.extend(asked.into_iter().map(|(_, ask)| ask.incarnation));
    }
    assert_eq!(incarnations.len(), 1);
    for no in [
        Ok(JoinAnswer::Refused("the id 1 is taken".into())),
        Err(AskError::Rejected("the id 1 is taken".into())),
    ] {
        let members = Members(Mutex::default(), vec![no]);
        let folder = node.folder().unwrap();
        let refused = be_born(&folder, &node.config, &cluster, &members).await;
        assert!(
            matches!(refused, Err(StartError::Identity(reason)) if reason.contains("is taken"))
        );
    }
}
