//! Tests of clusters of several replicas over loopback: bootstrap, join, and changes of members.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hearth_raft::{
    Birth, ClusterChange, ClusterError, ClusterKeys, ClusterReply, Connection, Ground, Listener,
    Pending, Replica, ReplicaConfig, Role, Sockets, StorageLocation,
};
use hearth_storage::{Answer, Filter, Location, Query, RULES, Reply, RocksOptions, RocksStore};
use support::{
    PATIENCE, TestCluster, addr, folder, free_addr, has, refusal, register, soon, start, started,
    until,
};
use tokio::net::{TcpListener, TcpStream};

fn refused(result: Result<ClusterReply, ClusterError>) -> String {
    match result {
        Err(ClusterError::Refused(reason)) => reason,
        other => panic!("it was not refused: {other:?}"),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts a data directory that was written by the single-node build (node 1, with the names `old0` to `old19`)
/// in place of that of `config`.
fn put_first_format(config: &ReplicaConfig) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat/v1");
    copy(&fixture, &folder(config));
}

fn count(replica: &Replica) -> u64 {
    match replica.answer(&Query::Count).unwrap() {
        Answer::Count(count) => count,
        other => panic!("{other:?}"),
    }
}

/// A node that joins later gets the rules with the state, and all nodes agree on the order of registrations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_rules_come_into_force_on_every_node() {
    let mut cluster = TestCluster::founded(3).await;
    let joined = cluster.join(None, true).await;
    for id in [1, 2, 3, joined] {
        until("the newest rules", || {
            let rules = cluster.node(id).rules().unwrap();
            let in_force = (rules == RULES).then_some(());
            std::future::ready(in_force.ok_or_else(|| format!("node {id}: {rules}")))
        })
        .await;
    }
    for (id, name) in [(1, "c"), (2, "a"), (3, "b")] {
        cluster.register(id, name).await;
    }
    cluster.settle().await;
    let list = |id| match cluster.node(id).answer(&Query::List(Filter::All)).unwrap() {
        Answer::Entries(entries) => entries,
        other => panic!("{other:?}"),
    };
    let first = list(1);
    let names: Vec<_> = first.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["c", "a", "b"]);
    assert!([2, 3, joined].into_iter().all(|id| list(id) == first));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_alone_serves_and_tells_of_itself() {
    let cluster = TestCluster::founded(1).await;
    cluster.register(1, "a").await;
    assert!(cluster.node(1).is_ready());
    let status = cluster.status(1).await;
    assert_eq!((status.answered_by, status.leader), (1, Some(1)));
    assert_eq!(
        (status.cluster_name.as_str(), status.cluster_id.len()),
        ("hearth", 32)
    );
    let [member] = &status.members[..] else {
        panic!("{status:?}");
    };
    let report = member.report.as_ref().unwrap();
    assert_eq!(
        (report.id, report.role, report.name_count),
        (1, Role::Leader, 1)
    );
    assert_eq!(report.last_applied, report.last_log_index);
    assert!(report.ready && member.member.voter && !member.member.promotes_itself);
    assert_eq!(member.member.peer_addr, addr(&cluster.nodes[&1].config));
    assert_eq!(member.lag, Some(0));
    assert_eq!(
        report.ns_addr,
        cluster.nodes[&1].config.cluster.as_ref().unwrap().ns_addr
    );

    let reason = refused(cluster.change(1, ClusterChange::Remove { id: 1 }).await);
    assert!(reason.contains("the only voter"), "{reason}");
    let change = ClusterChange::Remove { id: 9 };
    assert_eq!(
        cluster.change(1, change).await,
        Err(ClusterError::UnknownMember(9))
    );
    let reason = refused(cluster.change(1, ClusterChange::Promote { id: 1 }).await);
    assert!(reason.contains("a voter already"), "{reason}");
    let change = ClusterChange::TransferLeader { to: None };
    let reason = refused(cluster.change(1, change).await);
    assert!(reason.contains("no other voter"), "{reason}");
    let change = ClusterChange::TransferLeader { to: Some(1) };
    assert_eq!(
        cluster.change(1, change).await,
        Ok(ClusterReply::LeaderIs(1))
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reserved_ids_are_not_given_again() {
    let mut cluster = TestCluster::founded(1).await;
    let reserve = |id| ClusterChange::Reserve { id };
    for (wanted, given) in [(None, 2), (Some(7), 7), (None, 3)] {
        assert_eq!(
            cluster.change(1, reserve(wanted)).await,
            Ok(ClusterReply::Reserved(given))
        );
    }
    for (taken, why) in [
        (7, "reserved already"),
        (1 << 53, "the highest of a node so far is 1"),
        (1, "another node"),
        (0, "from 1 to"),
    ] {
        let reason = refused(cluster.change(1, reserve(Some(taken))).await);
        assert!(reason.contains(why), "{reason}");
    }
    cluster.stop(1).await;
    cluster.start(1).await;
    assert_eq!(
        cluster.change(1, reserve(None)).await,
        Ok(ClusterReply::Reserved(4))
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_peers_is_its_only_member() {
    let config = ReplicaConfig {
        node_id: None,
        cluster_name: "hearth".to_owned(),
        storage: StorageLocation::Memory,
        cluster: None,
    };
    let replica = Replica::start(config).await.unwrap();
    let status = replica.cluster_status(PATIENCE).await.unwrap();
    assert_eq!(status.members.len(), 1);
    assert_eq!(status.members[0].member.peer_addr, "");
    assert_eq!(status.members[0].report.as_ref().unwrap().id, 1);
    let change = ClusterChange::Reserve { id: None };
    let refused = replica.change_cluster(change, soon()).await;
    assert_eq!(refused, Err(ClusterError::Alone));
    replica.shutdown().await;
    assert!(replica.cluster_status(PATIENCE).await.is_err());
}

/// The hash and the index of a report belong to the same moment, whatever is written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_indexes_have_equal_hashes_while_names_are_registered() {
    let cluster = TestCluster::founded(1).await;
    let replica = cluster.node(1).clone();
    let writer = tokio::spawn(async move {
        for index in 0..300 {
            let reply = replica.write(register(&format!("n{index}")), soon()).await;
            assert_eq!(reply, Ok(Reply::Done));
        }
    });
    let mut hashes = std::collections::BTreeMap::new();
    let mut repeated = 0;
    while !writer.is_finished() {
        let status = cluster.status(1).await;
        let report = status.members[0].report.clone().unwrap();
        let hash = hashes
            .entry(report.last_applied)
            .or_insert_with(|| report.state_hash.clone());
        assert_eq!(*hash, report.state_hash, "at {}", report.last_applied);
        assert!(report.last_applied <= report.last_log_index);
        repeated += 1;
    }
    writer.await.unwrap();
    assert!(hashes.len() > 1 && repeated > hashes.len(), "{repeated}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_the_first_format_serves_alone_and_with_a_peer_address() {
    let mut cluster = TestCluster::new(1);
    let mut config = cluster.nodes[&1].config.clone();
    put_first_format(&config);
    config.cluster = None;
    let alone = started(start(config, cluster.tuning.clone()))
        .await
        .unwrap();
    assert!(alone.status().reads_are_local);
    assert_eq!(count(&alone), 20);
    alone.shutdown().await;

    cluster.start(1).await;
    assert_eq!(count(cluster.node(1)), 20);
    let wanted = addr(&cluster.nodes[&1].config);
    until("its address is in the membership", || async {
        let status = cluster.status(1).await;
        let member = &status.members[0].member;
        (member.peer_addr == wanted)
            .then_some(())
            .ok_or_else(|| format!("{member:?}"))
    })
    .await;
    cluster.register(1, "new").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_start_in_any_order() {
    for order in [[1, 2, 3], [3, 2, 1]] {
        let mut cluster = TestCluster::new(3);
        let mut starts = Vec::new();
        for id in order {
            assert!(starts.iter().all(|(_, start): &(u64, _)| {
                let start: &tokio::task::JoinHandle<_> = start;
                !start.is_finished()
            }));
            starts.push((id, cluster.spawn(id)));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for (id, start) in starts {
            let replica = started(start).await.unwrap();
            cluster.nodes.get_mut(&id).unwrap().replica = Some(replica);
        }
        cluster.leader().await;
        cluster.voters(2, &[1, 2, 3]).await;
        for id in 1..=3 {
            cluster.register(id, &format!("from{id}")).await;
            for other in 1..=3 {
                assert!(cluster.has(other, &format!("from{id}")).await);
            }
        }
        cluster.settle().await;
        cluster.shutdown().await;
    }
}

/// A start that waits can be cancelled, leaves nothing behind, and can be repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_crash_before_all_are_there() {
    let mut cluster = TestCluster::new(3);
    for round in 0..2 {
        let starts: Vec<_> = [1, 2].map(|id| cluster.spawn(id)).into();
        tokio::time::sleep(Duration::from_millis(300 + 400 * round)).await;
        for start in starts {
            assert!(!start.is_finished());
            start.abort();
            assert!(start.await.unwrap_err().is_cancelled());
        }
    }
    cluster.start_all().await;
    cluster.register(3, "a").await;
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founders_with_different_lists_are_refused() {
    let mut cluster = TestCluster::new(2);
    let node = cluster.nodes.get_mut(&2).unwrap();
    let Birth::Found { founders } = &mut node.config.cluster.as_mut().unwrap().birth else {
        unreachable!("it is a founder");
    };
    founders.insert(3, free_addr());
    // The first node that learns of it gives up.
    let (mut first, mut second) = (cluster.spawn(1), cluster.spawn(2));
    let reason = tokio::select! {
        reason = refusal(&mut first) => reason,
        reason = refusal(&mut second) => reason,
    };
    assert!(
        reason.contains("was given the list") && reason.contains("3="),
        "{reason}"
    );
    first.abort();
    second.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_whose_folder_was_emptied_is_refused() {
    let mut cluster = TestCluster::founded(3).await;
    let victim = cluster.follower().await;
    cluster.stop(victim).await;
    let mut config = cluster.nodes[&victim].config.clone();
    config.storage = cluster.new_storage();
    let reason = refusal(start(config, cluster.tuning.clone())).await;
    assert!(
        reason.contains(&format!("nsctl cluster remove {victim}")),
        "{reason}"
    );
    // With its own data directory the founder is accepted.
    cluster.start(victim).await;
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_name_or_key_is_refused() {
    let mut cluster = TestCluster::founded(1).await;
    let mut other = cluster.joiner(None, false);
    other.cluster_name = "another".to_owned();
    let reason = refusal(start(other, cluster.tuning.clone())).await;
    assert!(
        reason.contains("another") && reason.contains("hearth"),
        "{reason}"
    );
    let mut other = cluster.joiner(None, false);
    // Without a common key a refusal is not proved, so the node retries; with the right key it joins.
    let keys = ClusterKeys::new([b"wrong".to_vec()]);
    other.cluster.as_mut().unwrap().keys = keys.clone();
    let mut waiting = start(other, cluster.tuning.clone());
    let ended = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(cluster.status(1).await.members.len(), 1);
    keys.set(cluster.keys.all().iter().map(|key| key.to_vec()));
    started(waiting).await.unwrap().shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_become_voters_or_stay_learners() {
    let mut cluster = TestCluster::founded(1).await;
    for index in 0..200 {
        cluster.register(1, &format!("n{index}")).await;
    }
    let second = cluster.join(None, false).await;
    let third = cluster.join(Some(7), true).await;
    let fourth = cluster.join(None, false).await;
    assert_eq!((second, third, fourth), (2, 7, 8));
    cluster.voters(third, &[1, 2, 8]).await;
    assert_eq!(count(cluster.node(third)), 200);
    cluster.register(third, "through a learner").await;
    assert!(cluster.has(1, "through a learner").await);
    let status = cluster.status(2).await;
    let learner = status.members.iter().find(|member| member.member.id == 7);
    let learner = learner.unwrap();
    assert!(!learner.member.voter && !learner.member.promotes_itself);
    assert_eq!(learner.report.as_ref().unwrap().role, Role::Learner);

    // It is promoted at an operator's request.
    let promoted = cluster.change(2, ClusterChange::Promote { id: 7 }).await;
    assert_eq!(promoted, Ok(ClusterReply::Done));
    cluster.voters(1, &[1, 2, 7, 8]).await;
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_reserved_for_the_node_that_comes() {
    let mut cluster = TestCluster::founded(1).await;
    let change = ClusterChange::Reserve { id: Some(5) };
    assert_eq!(
        cluster.change(1, change).await,
        Ok(ClusterReply::Reserved(5))
    );
    assert_eq!(cluster.join(None, true).await, 2);
    assert_eq!(cluster.join(Some(5), true).await, 5);
    let config = cluster.joiner(Some(5), true);
    let reason = refusal(start(config, cluster.tuning.clone())).await;
    assert!(reason.contains("belongs to another node"), "{reason}");
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_stops_and_never_comes_back() {
    let mut cluster = TestCluster::founded(3).await;
    let victim = cluster.follower().await;
    cluster.register(victim, "before").await;
    let change = ClusterChange::Remove { id: victim };
    assert_eq!(cluster.change(victim, change).await, Ok(ClusterReply::Done));
    let removed = tokio::time::timeout(PATIENCE, cluster.node(victim).removed()).await;
    let reason = removed.expect("it hears of it");
    assert!(
        reason.contains(&format!("node {victim} was removed")),
        "{reason}"
    );
    assert!(!cluster.node(victim).is_ready());
    cluster.stop(victim).await;

    // It is refused with its own data directory, with its id and an empty directory, and with its old
    // configuration and an empty directory.
    let again = refusal(cluster.spawn(victim)).await;
    assert_eq!(again, reason);
    let config = cluster.joiner(Some(victim), false);
    let again = refusal(start(config, cluster.tuning.clone())).await;
    assert!(again.contains("was removed"), "{again}");
    let config = cluster.nodes.remove(&victim).unwrap().config;
    let mut wiped = config.clone();
    wiped.storage = cluster.new_storage();
    let again = refusal(start(wiped, cluster.tuning.clone())).await;
    assert!(again.contains("was removed"), "{again}");

    // It may join as a new node, under a new id.
    let id = cluster.join(None, false).await;
    assert_eq!(id, 4);
    let mut voters = cluster.ids();
    voters.sort_unstable();
    cluster.voters(id, &voters).await;
    assert!(cluster.has(id, "before").await);
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_while_it_was_removed_is_refused() {
    let mut cluster = TestCluster::founded(3).await;
    let victim = cluster.follower().await;
    let leader = cluster.leader().await;
    cluster.stop(victim).await;
    let change = ClusterChange::Remove { id: victim };
    assert_eq!(cluster.change(leader, change).await, Ok(ClusterReply::Done));
    let reason = refusal(cluster.spawn(victim)).await;
    assert!(
        reason.contains(&format!("node {victim} was removed")),
        "{reason}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_would_cost_the_majority_is_refused() {
    let mut cluster = TestCluster::founded(3).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|&id| id != leader).collect();
    let (dead, alive) = (others[0], others[1]);
    cluster.kill(dead);
    until("the dead node is missed", || async {
        let status = cluster.status(leader).await;
        let mut members = status.members.iter();
        let member = members.find(|member| member.member.id == dead).unwrap();
        member
            .unreachable
            .is_some()
            .then_some(())
            .ok_or_else(|| format!("{member:?}"))
    })
    .await;
    let remove = |id| ClusterChange::Remove { id };
    let reason = refused(cluster.change(leader, remove(alive)).await);
    assert!(
        reason.contains(&format!("without node {alive}")),
        "{reason}"
    );
    assert!(reason.contains("2 of the voters"), "{reason}");
    // No node can take the place of a voter that may return.
    let mut config = cluster.joiner(None, false);
    config.cluster.as_mut().unwrap().peer_addr = addr(&cluster.nodes[&dead].config);
    let reason = refusal(start(config, cluster.tuning.clone())).await;
    assert!(
        reason.contains(&format!("node {dead} has the peer address")),
        "{reason}"
    );
    assert_eq!(
        cluster.change(alive, remove(dead)).await,
        Ok(ClusterReply::Done)
    );
    cluster
        .voters(alive, &{
            let mut left = [leader, alive];
            left.sort_unstable();
            left
        })
        .await;
    cluster.register(alive, "a").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_becomes_a_voter_while_one_is_away() {
    let mut cluster = TestCluster::founded(3).await;
    let dead = cluster.follower().await;
    cluster.kill(dead);
    let new = cluster.join(None, false).await;
    let leader = cluster.leader().await;
    // The new node has caught up, since it serves; only the dead voter keeps it from being promoted.
    let reason = refused(
        cluster
            .change(leader, ClusterChange::Promote { id: new })
            .await,
    );
    let part = format!("while voter {dead} is away");
    assert!(reason.contains(&part), "{reason}");
    assert!(reason.contains("nsctl cluster remove"), "{reason}");
    cluster.voters(leader, &[1, 2, 3]).await;
    cluster.start(dead).await;
    cluster.voters(leader, &[1, 2, 3, new]).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_votes_among_others_from_memory() {
    let mut cluster = TestCluster::founded(1).await;
    let mut config = cluster.joiner(None, true);
    config.storage = StorageLocation::Memory;
    let learner = started(start(config, cluster.tuning.clone()))
        .await
        .unwrap();
    let promote = |id| ClusterChange::Promote { id };
    let id = learner.status().node_id;
    let reason = refused(cluster.change(1, promote(id)).await);
    let part = format!("node {id} keeps its state in memory only");
    assert!(reason.contains(&part), "{reason}");
    learner.shutdown().await;

    let mut config = cluster.joiner(None, false);
    config.storage = StorageLocation::Memory;
    let reason = refusal(start(config, cluster.tuning.clone())).await;
    assert!(reason.contains("in memory it can be a learner"), "{reason}");
    cluster.shutdown().await;

    let mut two = TestCluster::new(2);
    let mut config = two.founder(1);
    config.storage = StorageLocation::Memory;
    let reason = refusal(start(config, two.tuning.clone())).await;
    assert!(reason.contains("on a disk"), "{reason}");

    // A single-node cluster may run in memory, but then no node can join it as a voter.
    let mut cluster = TestCluster::new(1);
    cluster.nodes.get_mut(&1).unwrap().config.storage = StorageLocation::Memory;
    cluster.start(1).await;
    let id = cluster.join(None, false).await;
    let reason = refused(cluster.change(1, promote(id)).await);
    assert!(
        reason.contains("node 1 keeps its state in memory only"),
        "{reason}"
    );
    cluster.voters(1, &[1]).await;
    cluster.shutdown().await;
}

/// The network of a node that announces another address than the one it listens on, as in a container.
#[derive(Debug, Default)]
struct Container {
    connect_count: AtomicUsize,
}

struct Inside(TcpListener);

fn halves(stream: TcpStream) -> Connection {
    let (reader, writer) = stream.into_split();
    Connection::new(Box::new(reader), Box::new(writer))
}

impl Sockets for Container {
    fn listen<'a>(&'a self, _: &'a str) -> Pending<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            Ok(Box::new(Inside(listener)) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> Pending<'a, io::Result<Connection>> {
        self.connect_count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Ok(halves(TcpStream::connect(addr).await?)) })
    }
}

impl Listener for Inside {
    fn accept(&self) -> Pending<'_, io::Result<(Connection, SocketAddr)>> {
        Box::pin(async {
            let (stream, from) = self.0.accept().await?;
            Ok((halves(stream), from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_is_there_keeps_its_place_from_others_with_its_address() {
    let mut cluster = TestCluster::founded(1).await;
    let first = cluster.join(None, true).await;
    let shared_addr = addr(&cluster.nodes[&first].config);
    let mut config = cluster.joiner(None, true);
    config.storage = StorageLocation::Memory;
    config.cluster.as_mut().unwrap().peer_addr = shared_addr.clone();
    let home = RocksStore::open(&Location::Memory, &RocksOptions::default()).unwrap();
    let network = Arc::new(Container::default());
    let ground = Ground::simulated(Arc::new(home), Arc::clone(&network) as Arc<dyn Sockets>);
    let other = tokio::spawn(Replica::start_on(config, cluster.tuning.clone(), ground));
    until("the other one has asked several times", || async {
        assert!(!other.is_finished(), "it is not refused for good");
        let count = network.connect_count.load(Ordering::Relaxed);
        (count >= 8).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
    let members: Vec<u64> = cluster
        .node(1)
        .members()
        .unwrap()
        .iter()
        .map(|one| one.id)
        .collect();
    assert_eq!(members, [1, first]);
    cluster.register(first, "a").await;
    assert!(cluster.has(first, "a").await);

    // When the learner has gone, its address is free.
    cluster.stop(first).await;
    until("the other one has its place", || async {
        let members = cluster.node(1).members().unwrap();
        let holder = members.iter().find(|one| one.peer_addr == shared_addr);
        match holder {
            Some(holder) if holder.id != first => Ok(()),
            _ => Err(format!("{members:?}")),
        }
    })
    .await;
    other.abort();
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_one_at_a_time() {
    let mut cluster = TestCluster::founded(2).await;
    let learner = cluster.join(None, true).await;
    let leader = cluster.leader().await;
    cluster.settle().await;
    let other = 3 - leader;
    // Without this voter nothing is committed: one change hangs, and the other one is refused at once.
    cluster.kill(other);
    let remove = ClusterChange::Remove { id: learner };
    let change = || {
        let (replica, remove) = (cluster.node(leader).clone(), remove.clone());
        tokio::spawn(async move { replica.change_cluster(remove, soon()).await })
    };
    let (mut first, mut second) = (change(), change());
    let (early, late) = tokio::select! {
        early = &mut first => (early, second),
        early = &mut second => (early, first),
    };
    let reason = refused(early.unwrap());
    assert!(reason.contains("another change"), "{reason}");
    assert!(!late.is_finished());
    cluster.start(other).await;
    let done = late.await.unwrap();
    assert!(
        matches!(done, Ok(ClusterReply::Done) | Err(ClusterError::Unknown(_))),
        "{done:?}"
    );
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over() {
    let cluster = TestCluster::founded(3).await;
    let leader = cluster.leader().await;
    let next = cluster.follower().await;
    let third = 6 - leader - next;
    let change = ClusterChange::TransferLeader { to: Some(next) };
    assert_eq!(
        cluster.change(third, change).await,
        Ok(ClusterReply::LeaderIs(next))
    );
    assert_eq!(cluster.leader().await, next);
    let change = ClusterChange::TransferLeader { to: None };
    let now = match cluster.change(next, change).await {
        Ok(ClusterReply::LeaderIs(now)) => now,
        other => panic!("nobody took over: {other:?}"),
    };
    assert_ne!(now, next);
    assert_eq!(cluster.leader().await, now);
    let change = ClusterChange::TransferLeader { to: Some(9) };
    assert_eq!(
        cluster.change(1, change).await,
        Err(ClusterError::UnknownMember(9))
    );
    cluster.register(third, "a").await;
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_can_be_removed() {
    let mut cluster = TestCluster::founded(3).await;
    let leader = cluster.leader().await;
    cluster.register(leader, "a").await;
    let change = ClusterChange::Remove { id: leader };
    assert_eq!(cluster.change(leader, change).await, Ok(ClusterReply::Done));
    let removed = tokio::time::timeout(PATIENCE, cluster.node(leader).removed()).await;
    assert!(removed.is_ok());
    cluster.stop(leader).await;
    cluster.nodes.remove(&leader);
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    cluster.voters(next, &cluster.ids()).await;
    assert!(cluster.has(next, "a").await);
    cluster.register(next, "b").await;
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_the_first_format_grows_to_three() {
    let mut cluster = TestCluster::new(1);
    put_first_format(&cluster.nodes[&1].config);
    cluster.start(1).await;
    let second = cluster.join(None, false).await;
    let third = cluster.join(None, false).await;
    cluster.voters(third, &[1, second, third]).await;
    for id in [1, second, third] {
        cluster.register(id, &format!("from{id}")).await;
    }
    cluster.settle().await;
    cluster.kill(1);
    cluster.register(third, "without the first").await;
    assert!(has(cluster.node(third), "old7"));
    cluster.start(1).await;
    assert!(cluster.has(1, "without the first").await);
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_without_its_data_takes_its_own_place() {
    let mut cluster = TestCluster::in_memory(1);
    cluster.start_all().await;
    let first = cluster.join(None, true).await;
    let config = cluster.nodes[&first].config.clone();
    cluster.kill(first);
    cluster.nodes.remove(&first);
    let again = started(start(config, cluster.tuning.clone()))
        .await
        .unwrap();
    let second = again.status().node_id;
    assert_eq!(second, first + 1);
    let status = cluster.status(1).await;
    let members: Vec<u64> = status
        .members
        .iter()
        .map(|member| member.member.id)
        .collect();
    assert_eq!(members, [1, second]);
    again.shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moves_is_found_again() {
    let mut cluster = TestCluster::founded(3).await;
    let moved = cluster.follower().await;
    cluster.stop(moved).await;
    let there = free_addr();
    let node = cluster.nodes.get_mut(&moved).unwrap();
    node.config.cluster.as_mut().unwrap().peer_addr = there.clone();
    cluster.start(moved).await;
    let asked = cluster.follower().await;
    until("its address is known", || async {
        let status = cluster.status(asked).await;
        let mut members = status.members.iter();
        let member = members.find(|member| member.member.id == moved).unwrap();
        (member.member.peer_addr == there)
            .then_some(())
            .ok_or_else(|| format!("{member:?}"))
    })
    .await;
    cluster.register(moved, "a").await;
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_majority_waits_and_can_be_stopped() {
    let mut cluster = TestCluster::founded(3).await;
    cluster.register(1, "a").await;
    cluster.settle().await;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    let waiting = cluster.spawn(2);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!waiting.is_finished());
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    cluster.start_all().await;
    assert!(cluster.has(2, "a").await);
    cluster.settle().await;
    cluster.shutdown().await;
}
