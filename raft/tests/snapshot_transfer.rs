//! Tests of members that return so late that the log no longer has the entries that they need.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hearth_raft::{Replica, Tuning};
use hearth_storage::{Answer, Command, Filter, IfTaken, Query, Reply};
use support::{TestCluster, quick, soon, until};
use tokio::task::JoinHandle;

/// Number of names that have a tag of [`LARGE_LEN`] bytes, approximately.
const LARGE_COUNT: u64 = 250;
const LARGE_LEN: usize = 100 << 10;

/// Returns settings that keep hardly any log.
fn short_log() -> Tuning {
    let mut tuning = quick();
    tuning.snapshot_entry_count = 100;
    tuning.log_keep_entry_count = 10;
    tuning.purge_entry_count = 1;
    tuning.log_len_max = 16 << 10;
    tuning
}

/// Registers names, in several tasks, until it is told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(replica: &Replica, name: &'static str, width: u64) -> Self {
        let (stop, written) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..width).map(|task| {
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            let replica = replica.clone();
            tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let command = register(format!("{name}.{task}.{number:06}"));
                    assert_eq!(replica.write(command, soon()).await, Ok(Reply::Done));
                    written.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self {
            tasks: tasks.collect(),
            stop,
            written,
        }
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.written.load(Ordering::Relaxed)
    }
}

fn register(name: String) -> Command {
    Command::Register {
        uri: format!("PYRO:{name}@host.of.some.length:40000"),
        name,
        tags: ["a tag".to_owned(), "another tag".to_owned()].into(),
        if_taken: IfTaken::Refuse,
    }
}

/// Returns the number of names, by reading each of them.
fn count(replica: &Replica) -> u64 {
    match replica.answer(&Query::List(Filter::All)).unwrap() {
        Answer::Entries(entries) => entries.len() as u64,
        other => panic!("{other:?}"),
    }
}

/// Writes through `replica` until the log is purged beyond `index`. Returns the number of writes.
async fn purge_beyond(replica: &Replica, name: &'static str, index: u64) -> u64 {
    let writers = Writers::start(replica, name, 4);
    until("the log is shortened", || async {
        let status = replica.status();
        if status.purged_index > Some(index) {
            return Ok(());
        }
        Err(format!("{} names, {status:?}", writers.written()))
    })
    .await;
    writers.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = TestCluster::new(3);
    cluster.tuning = short_log();
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    cluster.register(away, "before").await;
    cluster.settle().await;
    let last = cluster.node(away).status().last_log_index;
    cluster.stop(away).await;

    let written = purge_beyond(cluster.node(leader), "meanwhile", last).await;
    cluster.start(away).await;
    cluster.settle().await;
    let status = cluster.node(away).status();
    assert!(status.install_count >= 1, "{status:?}");
    assert_eq!(count(cluster.node(away)), written + 1);
    // It is a member like any other: a write through it reaches all nodes.
    cluster.register(away, "afterwards").await;
    assert!(cluster.has(leader, "afterwards").await);
    // After it is killed, it restarts with the installed state.
    cluster.kill(away);
    cluster.start(away).await;
    cluster.settle().await;
    assert!(cluster.has(away, "before").await);
    assert_eq!(cluster.node(away).status().install_count, 0);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_needs_one_snapshot_however_much_is_written() {
    let mut cluster = TestCluster::new(3);
    cluster.tuning = short_log();
    // The log keeps the entries behind the snapshot only while it is sent; without them another
    // snapshot would be needed.
    cluster.tuning.log_len_max = 4 << 20;
    cluster.start_all().await;
    let leader = cluster.leader().await;
    // So many bytes that sending them takes longer than it takes to shorten the log again.
    let large = |number: u64| {
        let replica = cluster.node(leader);
        async move {
            let mut command = register(format!("large {number}"));
            if let Command::Register { tags, .. } = &mut command {
                tags.insert(number.to_string().repeat(LARGE_LEN / 3));
            }
            assert_eq!(replica.write(command, soon()).await, Ok(Reply::Done));
        }
    };
    futures::future::join_all((100..100 + LARGE_COUNT).map(large)).await;
    let last = cluster.node(leader).status().last_log_index;
    let small = purge_beyond(cluster.node(leader), "first", last).await;
    let writers = Writers::start(cluster.node(leader), "meanwhile", 4);
    for learner in [true, false] {
        let before = writers.written();
        let new = cluster.join(None, learner).await;
        assert!(writers.written() > before, "clients went on");
        let status = cluster.node(new).status();
        assert_eq!(status.install_count, 1, "{status:?}");
    }
    let written = writers.stop().await + LARGE_COUNT + small;
    cluster.settle().await;
    for (id, node) in &cluster.nodes {
        let replica = node.replica.as_ref().unwrap();
        assert_eq!(count(replica), written, "node {id}");
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_while_it_sends_is_replaced_by_one_that_sends() {
    let mut cluster = TestCluster::new(3);
    cluster.tuning = short_log();
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let written = purge_beyond(cluster.node(leader), "first", 400).await;
    let joiner = cluster.joiner(None, true);
    let joining = support::start(joiner.clone(), cluster.tuning.clone());
    // The node has its id once it is a member, and the snapshot is being sent or about to be.
    let survivor = cluster.follower().await;
    until("it is a member", || async {
        match cluster.status(survivor).await.members.len() {
            4.. => Ok(()),
            count => Err(format!("{count} members")),
        }
    })
    .await;
    cluster.kill(leader);
    let replica = support::started(joining).await.unwrap();
    until("it has everything", || async {
        match count(&replica) {
            found if found == written => Ok(()),
            found => Err(format!("{found} of {written}")),
        }
    })
    .await;
    replica.shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_short_on_every_node_even_when_one_is_away() {
    let mut cluster = TestCluster::new(3);
    cluster.tuning = short_log();
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let away = cluster.follower().await;
    cluster.stop(away).await;
    let writers = Writers::start(cluster.node(leader), "name", 4);
    // The log is purged many times over.
    for round in 1..=3 {
        for id in cluster.ids() {
            until("the log moves on", || async {
                let status = cluster.node(id).status();
                if status.purged_index >= Some(round * 300) {
                    return Ok(());
                }
                Err(format!("round {round}, {status:?}"))
            })
            .await;
        }
    }
    writers.stop().await;
    for id in cluster.ids() {
        until("little is left", || async {
            let status = cluster.node(id).status();
            let left = status.last_log_index - status.purged_index.unwrap_or(0);
            // The entries that are kept, those that no snapshot covers yet, and those that are
            // written between two checks.
            if left <= 600 {
                return Ok(());
            }
            Err(format!("{left} entries are left, {status:?}"))
        })
        .await;
    }
    tokio::time::timeout(Duration::from_secs(30), cluster.shutdown())
        .await
        .unwrap();
}
