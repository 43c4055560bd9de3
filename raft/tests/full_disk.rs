//! Tests of three nodes, each on a small file system of its own that the test fills.
//!
//! If this process may not mount file systems, the tests report that they are skipped.

#![allow(clippy::unwrap_used)]

mod support;

// Shared with the tests of `hearthd`.
#[path = "../../node/tests/support/small_disk.rs"]
#[allow(dead_code, unreachable_pub)]
mod small_disk;

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_raft::{StorageLocation, WriteError};
use hearth_storage::{Command, Reply};
use small_disk::SmallDisk;
use support::{TestCluster, register, soon, until};

/// Free bytes below the limit for a nearly full disk of 64 MB, and above the limit for a full one.
const LITTLE: u64 = 3 << 20;

/// Starts three nodes on disks of their own. Returns `None`, and reports the reason, if there can
/// be no such disks.
async fn founded() -> Option<(TestCluster, BTreeMap<u64, SmallDisk>)> {
    let mut cluster = TestCluster::new(3);
    let mut disks = BTreeMap::new();
    for (&id, node) in &mut cluster.nodes {
        let disk = match SmallDisk::tmpfs(64) {
            Ok(disk) => disk,
            Err(reason) => {
                hearth_skipped::skipped(reason);
                return None;
            }
        };
        node.config.storage = StorageLocation::Rocks(disk.path().join("data"));
        disks.insert(id, disk);
    }
    cluster.start_all().await;
    Some((cluster, disks))
}

async fn write(cluster: &TestCluster, id: u64, command: Command) -> Result<Reply, WriteError> {
    cluster.node(id).write(command, soon()).await
}

fn remove(name: &str) -> Command {
    Command::Remove {
        name: name.to_owned(),
    }
}

/// Waits until node `id` refuses registrations, and returns the reason.
async fn refusal(cluster: &TestCluster, id: u64) -> String {
    let mut reason = String::new();
    let mut attempt = 0;
    let end = soon();
    while reason.is_empty() {
        assert!(std::time::Instant::now() < end, "node {id} refuses nothing");
        attempt += 1;
        let name = format!("attempt.{id}.{attempt}");
        match write(cluster, id, register(&name)).await {
            Err(WriteError::DiskFull(text)) => reason = text,
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    reason
}

async fn alarms(cluster: &TestCluster, asked: u64) -> BTreeMap<u64, Vec<String>> {
    let members = cluster.status(asked).await.members;
    members
        .into_iter()
        .filter_map(|member| member.report)
        .map(|report| (report.id, report.alarms))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_hands_over_and_a_cluster_without_room_takes_removals() {
    let Some((cluster, disks)) = founded().await else {
        return;
    };
    let first = cluster.leader().await;
    for index in 0..50 {
        cluster.register(first, &format!("name.{index}")).await;
    }

    // One full disk: another node takes over leadership, and no client notices.
    disks[&first].fill(LITTLE);
    until("another node leads", || async {
        match cluster.leader().await {
            leader if leader == first => Err("it has not moved".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let second = cluster.leader().await;
    cluster.register(second, "with one disk low").await;
    let told = alarms(&cluster, second).await;
    assert_eq!(told[&first].len(), 1, "{told:?}");
    assert!(told[&first][0].contains("nearly full"), "{told:?}");
    assert_eq!(told[&second], Vec::<String>::new());
    let follower = [1, 2, 3]
        .into_iter()
        .find(|&id| id != first && id != second);
    let third = follower.unwrap();

    // Two full disks of three: no majority has room. Each node reports it at once to its own
    // clients.
    disks[&third].fill(LITTLE);
    for id in [second, first, third] {
        let reason = refusal(&cluster, id).await;
        for full in [first, third] {
            let folder = disks[&full].path().join("data").display().to_string();
            assert!(reason.contains(&format!("node {full}: ")), "{reason}");
            assert!(reason.contains(&folder), "{reason}");
        }
        assert!(cluster.has(id, "name.7").await);
    }
    for (id, name) in [(1, "name.8"), (2, "name.9"), (3, "name.10")] {
        let removed = write(&cluster, id, remove(name)).await;
        assert_eq!(removed, Ok(Reply::Removed(1)), "through {id}");
        assert!(!cluster.has(first, name).await);
    }

    // There is room again.
    disks[&first].clear();
    disks[&third].clear();
    until("registrations are taken again", || async {
        let leader = cluster.leader().await;
        match write(&cluster, leader, register("after")).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    until("no alarm is left", || async {
        let told = alarms(&cluster, 1).await;
        match told.len() == 3 && told.values().all(Vec::is_empty) {
            true => Ok(()),
            false => Err(format!("{told:?}")),
        }
    })
    .await;
    cluster.settle().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_a_byte_stands_still_and_catches_up() {
    let Some((cluster, disks)) = founded().await else {
        return;
    };
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.register(leader, "before").await;
    let failed = tokio::spawn({
        let replica = cluster.node(follower).clone();
        async move { replica.failed().await }
    });

    // Fill the disk until the reserve is used up, too.
    until("the follower's disk is full", || async {
        disks[&follower].fill(0);
        let alarms = cluster.node(follower).status().alarms;
        match alarms.iter().any(|alarm| alarm.contains(" is full: ")) {
            true => Ok(()),
            false => Err(format!("{alarms:?}")),
        }
    })
    .await;
    let stands_at = cluster.node(follower).status().last_applied;
    for index in 0..200 {
        cluster.register(leader, &format!("name.{index}")).await;
    }
    assert_eq!(cluster.leader().await, leader);
    let at = cluster.node(follower).status().last_applied;
    assert!(
        at <= stands_at + 3,
        "it was at {stands_at} and went on to {at}"
    );
    // It does not let a client wait for a result that the client cannot see, not even for a
    // removal.
    let reason = match write(&cluster, follower, remove("name.7")).await {
        Err(WriteError::DiskFull(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason.contains("nothing is written"), "{reason}");
    assert!(!failed.is_finished(), "{:?}", failed.await);

    disks[&follower].clear();
    cluster.settle().await;
    assert!(cluster.has(follower, "name.199").await);
    assert!(!failed.is_finished(), "{:?}", failed.await);
    failed.abort();
    cluster.shutdown().await;
}
