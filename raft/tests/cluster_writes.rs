//! Tests of writes and reads through every node of a cluster, and of their outcomes when leaders
//! fail.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hearth_raft::{ReadError, Replica, Tuning, WriteError};
use hearth_storage::Reply;
use support::{PATIENCE, TestCluster, has, register, soon, until};
use tokio::task::JoinHandle;

/// Clients that register names, each name once, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Done>>,
    count: Arc<AtomicU64>,
}

/// The results of one client.
#[derive(Default)]
struct Done {
    /// Names whose registration was acknowledged.
    names: Vec<String>,
    /// All other results.
    errors: Vec<String>,
    /// The duration of the longest write.
    longest: Duration,
}

impl Load {
    /// Starts `clients` clients at each of these nodes.
    fn start(nodes: &[(u64, Replica)], clients: u64) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let count = Arc::<AtomicU64>::default();
        let each = nodes
            .iter()
            .flat_map(|(id, replica)| (0..clients).map(move |client| (*id, client, replica)));
        let clients = each
            .map(|(id, client, replica)| {
                let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
                let replica = replica.clone();
                tokio::spawn(async move {
                    let mut done = Done::default();
                    for index in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let name = format!("n{id}.{client}.{index}");
                        let began = Instant::now();
                        // A second execution would be refused, because the name is taken.
                        match replica.write(register(&name), soon()).await {
                            Ok(Reply::Done) if !has(&replica, &name) => {
                                done.errors
                                    .push(format!("{name} cannot be read where it was written"));
                            }
                            Ok(Reply::Done) => {
                                count.fetch_add(1, Ordering::Relaxed);
                                done.names.push(name);
                            }
                            other => done.errors.push(format!("{name}: {other:?}")),
                        }
                        done.longest = done.longest.max(began.elapsed());
                    }
                    done
                })
            })
            .collect();
        Self {
            stop,
            clients,
            count,
        }
    }

    /// Waits until `more` further writes are done.
    async fn goes_on(&self, more: u64) {
        let target = self.count.load(Ordering::Relaxed) + more;
        until("writes go on", || async {
            let count = self.count.load(Ordering::Relaxed);
            (count >= target)
                .then_some(())
                .ok_or(format!("{count} of {target}"))
        })
        .await;
    }

    async fn stop(self) -> Done {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Done::default();
        for client in self.clients {
            let done = client.await.unwrap();
            all.names.extend(done.names);
            all.errors.extend(done.errors);
            all.longest = all.longest.max(done.longest);
        }
        all
    }
}

fn nodes(cluster: &TestCluster, ids: &[u64]) -> Vec<(u64, Replica)> {
    let nodes = ids.iter().map(|&id| (id, cluster.node(id).clone()));
    nodes.collect()
}

fn others(cluster: &TestCluster, id: u64) -> Vec<u64> {
    let ids = cluster.ids().into_iter();
    ids.filter(|&other| other != id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_was_told_any_other_reads() {
    let cluster = TestCluster::founded(3).await;
    let ids = cluster.ids();
    let clients = (0..4_u64).map(|client| {
        let nodes = nodes(&cluster, &ids);
        tokio::spawn(async move {
            for round in 0..750_u64 {
                let position = usize::try_from(client + round).unwrap();
                let (_, here) = &nodes[position % 3];
                let (there_id, there) = &nodes[(position + 1 + position % 2) % 3];
                let name = format!("{client}.{round}");
                assert_eq!(here.write(register(&name), soon()).await, Ok(Reply::Done));
                there.read_barrier(PATIENCE).await.unwrap();
                assert!(has(there, &name), "{name} is stale at node {there_id}");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    cluster.settle().await;
    cluster.shutdown().await;
}

/// Leaders are shut down or killed while clients of the other nodes write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_of_a_surviving_node_sees_its_leader_go() {
    let mut cluster = TestCluster::founded(3).await;
    let mut names = Vec::new();
    for round in 0..6 {
        let leader = cluster.leader().await;
        let load = Load::start(&nodes(&cluster, &others(&cluster, leader)), 4);
        load.goes_on(50).await;
        if round % 2 == 0 {
            cluster.kill(leader);
        } else {
            cluster.node(leader).hand_over(PATIENCE).await;
            cluster.stop(leader).await;
        }
        load.goes_on(50).await;
        let done = load.stop().await;
        assert!(done.errors.is_empty(), "round {round}: {:?}", done.errors);
        println!(
            "round {round}: {} writes, the longest took {:?}",
            done.names.len(),
            done.longest
        );
        // Remove the names of this round before they are used again.
        for name in done.names {
            names.push(name.clone());
            let remove = hearth_storage::Command::Remove { name };
            let through = others(&cluster, leader)[0];
            let removed = cluster.node(through).write(remove, soon()).await;
            assert_eq!(removed, Ok(Reply::Removed(1)));
        }
        cluster.start(leader).await;
        cluster.settle().await;
    }
    assert!(!names.is_empty());
    cluster.shutdown().await;
}

/// During a hand-over even the clients of the leader see no more than a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handing_over_is_a_short_pause() {
    let cluster = TestCluster::founded(3).await;
    let ids = cluster.ids();
    let load = Load::start(&nodes(&cluster, &ids), 2);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        load.goes_on(20).await;
        let leader = cluster.leader().await;
        let began = Instant::now();
        cluster.node(leader).hand_over(PATIENCE).await;
        load.goes_on(1).await;
        pauses.push(began.elapsed());
        assert_ne!(cluster.leader().await, leader);
    }
    let done = load.stop().await;
    assert!(done.errors.is_empty(), "{:?}", done.errors);
    pauses.sort_unstable();
    println!(
        "until a write was done again: {pauses:?}; the longest write: {:?}",
        done.longest
    );
    // Far less than the election timeout, for which no client may have to wait.
    assert!(
        pauses[pauses.len() / 2] < Duration::from_millis(250),
        "{pauses:?}"
    );
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_promised_and_nothing_done_later() {
    let mut cluster = TestCluster::founded(3).await;
    let leader = cluster.leader().await;
    let gone = others(&cluster, leader);
    // The links to the killed followers are closed, and the leader is left alone.
    for &id in &gone {
        cluster.kill(id);
    }
    let survivor = cluster.node(leader).clone();
    let mut outcomes = BTreeMap::new();
    let deadline = Duration::from_millis(1500);
    let began = Instant::now();
    // One after the other, so that each is a list of its own. As many as may be under way, so that all later writes
    // wait, on a busy machine, too.
    for index in 0..Tuning::default().entries_in_flight_max {
        let name = format!("n{index}");
        let until = Instant::now() + Duration::from_millis(300);
        outcomes.insert(name.clone(), survivor.write(register(&name), until).await);
    }
    let writes = (outcomes.len()..40).map(|index| {
        let (name, survivor) = (format!("n{index}"), survivor.clone());
        async move {
            let until = Instant::now() + deadline;
            (name.clone(), survivor.write(register(&name), until).await)
        }
    });
    for (name, outcome) in futures::future::join_all(writes).await {
        outcomes.insert(name, outcome);
    }
    // The second batch waits as well, for less time than it takes to tell a stall from overload.
    until("the survivor knows that it is alone", || async {
        (!survivor.is_ready()).then_some(()).ok_or(String::new())
    })
    .await;
    for index in 40..50 {
        let name = format!("n{index}");
        let until = Instant::now() + Duration::from_millis(300);
        outcomes.insert(name.clone(), survivor.write(register(&name), until).await);
    }
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    let read = survivor.read_barrier(Duration::from_millis(300)).await;
    assert!(matches!(read, Err(ReadError::NoQuorum(_))), "{read:?}");
    let texts: BTreeSet<String> = outcomes
        .values()
        .map(|outcome| format!("{outcome:?}"))
        .collect();
    println!("{texts:#?}\n{read:?}");

    for &id in &gone {
        cluster.start(id).await;
    }
    // This write follows every write that could still be executed.
    cluster.register(leader, "last").await;
    cluster.settle().await;
    survivor.read_barrier(PATIENCE).await.unwrap();
    let mut no_quorum = 0;
    for (name, outcome) in outcomes {
        match outcome {
            Err(WriteError::Unknown(_)) => {}
            Err(WriteError::NoQuorum(reason)) => {
                no_quorum += 1;
                assert!(!has(&survivor, &name), "{name}: {reason}");
            }
            Err(WriteError::NotProposed(reason)) => {
                assert!(!has(&survivor, &name), "{name}: {reason}")
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(no_quorum >= 10, "{no_quorum}");
    cluster.shutdown().await;
}

/// Any number of readers at a node share the same rounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_share_rounds() {
    let cluster = TestCluster::founded(3).await;
    let follower = cluster.follower().await;
    for id in [cluster.leader().await, follower] {
        let replica = cluster.node(id).clone();
        let before = replica.status().read_round_count;
        let reads = (0..2000).map(|_| replica.read_barrier(PATIENCE));
        for read in futures::future::join_all(reads).await {
            read.unwrap();
        }
        let rounds = replica.status().read_round_count - before;
        // A follower's round is so fast that several pass while all the readers arrive.
        assert!((1..=200).contains(&rounds), "node {id}: {rounds} rounds");
    }
    cluster.shutdown().await;
}

/// In a cluster of three, a follower's ReadIndex request completes a majority: the leader needs no
/// round of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_needs_no_round_for_one_follower_of_two() {
    for (count, needs_rounds) in [(3, false), (5, true)] {
        let cluster = TestCluster::founded(count).await;
        let leader = cluster.node(cluster.leader().await).clone();
        let follower = cluster.node(cluster.follower().await).clone();
        follower.read_barrier(PATIENCE).await.unwrap();
        let before = leader.status().read_round_count;
        for _ in 0..20 {
            follower.read_barrier(PATIENCE).await.unwrap();
        }
        let rounds = leader.status().read_round_count - before;
        assert_eq!(rounds > 0, needs_rounds, "{count} nodes: {rounds} rounds");
        cluster.shutdown().await;
    }
}

/// A learner is a client like any other, and survives the loss of the leader, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_writes_and_reads_through_a_change_of_leaders() {
    let mut cluster = TestCluster::founded(3).await;
    let learner = cluster.join(None, true).await;
    let load = Load::start(&nodes(&cluster, &[learner]), 4);
    load.goes_on(20).await;
    let leader = cluster.leader().await;
    assert_ne!(leader, learner);
    cluster.kill(leader);
    load.goes_on(20).await;
    let replica = cluster.node(learner).clone();
    replica.read_barrier(PATIENCE).await.unwrap();
    let done = load.stop().await;
    assert!(done.errors.is_empty(), "{:?}", done.errors);
    for name in &done.names {
        assert!(has(&replica, name));
    }
    println!("the longest write took {:?}", done.longest);
    cluster.shutdown().await;
}
