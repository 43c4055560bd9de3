//! Tests of the loss of a majority or of all nodes: recovery, restore, reading damaged data directories, and
//! serving without a majority.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_raft::offline::{self, OfflineError, Recovery, RestoreAs};
use hearth_raft::{Birth, Replica, SavedState, StartError};
use hearth_storage::{Answer, ChunkCursor, Entry, Query, StoreError};
use support::{PATIENCE, TestCluster, folder, has, start, started};

fn count(replica: &Replica) -> u64 {
    match replica.answer(&Query::Count).unwrap() {
        Answer::Count(count) => count,
        other => panic!("{other:?}"),
    }
}

/// Returns true if a linearizable read finds the name.
async fn found(replica: &Replica, name: &str) -> bool {
    replica.read_barrier(PATIENCE).await.unwrap();
    has(replica, name)
}

/// Returns the names that a dump finds, and the damage that it reports.
fn dumped(folder: &Path) -> Result<(Vec<String>, Vec<String>), OfflineError> {
    let (mut names, mut damage) = (Vec::new(), Vec::new());
    offline::dump(
        folder,
        &mut |name: &str, _: &Entry| {
            names.push(name.to_owned());
            Ok(())
        },
        &mut |reason: &str| damage.push(reason.to_owned()),
    )?;
    names.sort();
    Ok((names, damage))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder.join("rocksdb"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    found.sort();
    found
}

fn bytes_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            found.append(&mut bytes_below(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

/// Returns all chunks of a state.
fn chunks(state: &SavedState) -> Vec<Result<Vec<u8>, OfflineError>> {
    let mut chunks = Vec::new();
    let mut cursor = ChunkCursor::default();
    while let Some((chunk, next)) = state.chunk(&cursor).unwrap() {
        chunks.push(Ok(chunk));
        cursor = next;
    }
    chunks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_of_three_becomes_a_cluster_that_others_join() {
    let mut cluster = TestCluster::founded(3).await;
    for number in 0..20 {
        cluster
            .register(1 + number % 3, &format!("n{number}"))
            .await;
    }
    // The writes were acknowledged by the leader and node 1; node 1 need not have applied them when all nodes
    // end.
    for id in [1, 2, 3] {
        cluster.kill(id);
    }
    for id in [2, 3] {
        fs::remove_dir_all(folder(&cluster.nodes[&id].config)).unwrap();
    }
    let survivor = folder(&cluster.nodes[&1].config);
    let recovery = Recovery::open(&survivor).unwrap();
    let text = recovery.consequences().unwrap().join("\n");
    assert!(text.contains("voters [1, 2, 3]"), "{text}");
    assert!(text.contains("nodes [2, 3] must never run"), "{text}");
    let new = recovery.carry_out().unwrap();
    assert_eq!(new.node_id, 1);

    // The node is started with its old configuration, including the list of founders.
    cluster.start(1).await;
    assert_eq!(count(cluster.node(1)), 20);
    for number in 0..20 {
        assert!(
            found(cluster.node(1), &format!("n{number}")).await,
            "n{number}"
        );
    }
    cluster.register(1, "after").await;
    let status = cluster.status(1).await;
    assert_eq!(status.cluster_id, new.cluster_id);
    assert_eq!(status.members.len(), 1);
    cluster.nodes.retain(|&id, _| id == 1);
    let second = cluster.join(None, false).await;
    assert!(second > 3, "an id is never used again: {second}");
    assert!(found(cluster.node(second), "after").await);

    // The node becomes a voter when it has caught up, a moment after it serves.
    support::until("a second voter", || async {
        let status = cluster.status(1).await;
        let voters = status.members.iter().filter(|member| member.member.voter);
        let count = voters.count();
        (count == 2).then_some(()).ok_or(format!("{count} voters"))
    })
    .await;
    cluster.stop(second).await;
    cluster.stop(1).await;
    // It is a cluster of two by now. Another recovery makes it a cluster of one again.
    let again = Recovery::open(&survivor).unwrap().carry_out().unwrap();
    assert_ne!(again.cluster_id, new.cluster_id);
    let refused = Recovery::open(&survivor).unwrap_err().to_string();
    assert!(refused.contains("only voter"), "{refused}");
    // The node starts alone, with the peer address that its data directory has.
    let mut config = cluster.nodes[&1].config.clone();
    config.cluster.as_mut().unwrap().birth = Birth::Done;
    config.cluster.as_mut().unwrap().peer_addr.clear();
    let replica = started(start(config.clone(), cluster.tuning.clone()))
        .await
        .unwrap();
    assert_eq!(count(&replica), 21);
    replica.shutdown().await;
    config.cluster = None;
    let replica = started(start(config, cluster.tuning.clone()))
        .await
        .unwrap();
    assert_eq!(count(&replica), 21);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_the_old_cluster_does_not_meet_the_recovered_one() {
    let mut cluster = TestCluster::founded(3).await;
    cluster.register(1, "a").await;
    for id in [1, 2, 3] {
        cluster.stop(id).await;
    }
    let survivor = folder(&cluster.nodes[&1].config);
    Recovery::open(&survivor).unwrap().carry_out().unwrap();
    cluster.start(1).await;
    // The other two are a majority of the old cluster and continue it.
    let starts = [2, 3].map(|id| (id, cluster.spawn(id)));
    for (id, start) in starts {
        let replica = started(start).await.unwrap();
        cluster.nodes.get_mut(&id).unwrap().replica = Some(replica);
    }
    cluster.register(2, "old").await;
    cluster.register(1, "new").await;
    assert!(!found(cluster.node(1), "old").await);
    assert!(!found(cluster.node(3), "new").await);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_state_is_restored_with_the_same_hash_as_another_cluster() {
    let cluster = TestCluster::founded(3).await;
    for number in 0..50 {
        cluster
            .register(1 + number % 3, &format!("n{number}"))
            .await;
    }
    cluster.node(2).read_barrier(PATIENCE).await.unwrap();
    let state = cluster.node(2).save_state().unwrap();
    let about = state.about();
    assert_eq!((about.name_count, about.node_id), (50, 2));
    // A later write is not in the saved state.
    cluster.register(1, "later").await;

    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new");
    let who = |node_id| RestoreAs {
        node_id,
        cluster_name: "hearth".to_owned(),
    };
    let restored = offline::restore(
        &new,
        who(3),
        &state.header(),
        &mut chunks(&state).into_iter(),
    )
    .unwrap();
    assert_eq!(restored.state_hash, about.state_hash);
    assert_eq!((restored.name_count, restored.node_id), (50, 3));
    assert_ne!(restored.cluster_id, about.cluster_id);
    let verified = offline::verify(&new).unwrap();
    assert_eq!(verified.problems, Vec::<String>::new());
    let text = verified.lines.join("\n");
    assert!(text.contains(&about.state_hash), "{text}");

    // A restore into a data directory with content is refused.
    let refused = offline::restore(
        &new,
        who(1),
        &state.header(),
        &mut chunks(&state).into_iter(),
    );
    assert!(
        matches!(refused, Err(OfflineError::Refused(_))),
        "{refused:?}"
    );
    // A restore with a missing chunk fails, and leaves the directory empty.
    let second = dir.path().join("second");
    let cut = offline::restore(&second, who(1), &state.header(), &mut std::iter::empty());
    assert!(
        matches!(cut, Err(OfflineError::Store(StoreError::Snapshot { .. }))),
        "{cut:?}"
    );
    assert_eq!(fs::read_dir(&second).unwrap().count(), 0);

    let mut config = cluster.nodes[&3].config.clone();
    config.storage = hearth_raft::StorageLocation::Rocks(new);
    cluster.shutdown().await;
    let replica = started(start(config, hearth_raft::Tuning::default()))
        .await
        .unwrap();
    assert_eq!(count(&replica), 50);
    assert!(found(&replica, "n49").await);
    assert!(!found(&replica, "later").await);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_into_a_folder_changes_nothing_and_finds_damage() {
    let mut cluster = TestCluster::founded(1).await;
    for number in 0..300 {
        cluster.register(1, &format!("name {number:03}")).await;
    }
    let dir = folder(&cluster.nodes[&1].config);
    let busy = dumped(&dir).unwrap_err();
    assert!(busy.to_string().contains("in use"), "{busy}");
    assert!(offline::verify(&dir).is_err());
    cluster.kill(1);
    // A dropped runtime ends in the background.
    support::until("the folder is free", || async {
        offline::verify(&dir)
            .map(drop)
            .map_err(|error| error.to_string())
    })
    .await;
    let before = bytes_below(&dir);
    let (names, damage) = dumped(&dir).unwrap();
    assert_eq!((names.len(), damage.len()), (300, 0), "{damage:?}");
    let verified = offline::verify(&dir).unwrap();
    assert_eq!(verified.problems, Vec::<String>::new());
    assert!(
        verified.lines.join("\n").contains("300 names"),
        "{verified:?}"
    );
    assert_eq!(bytes_below(&dir), before, "looking changes nothing");

    // With an altered byte in the synced part of the log the node does not start, and the readable names are
    // printed.
    let wal = files(&dir, "log").pop().unwrap();
    let good = fs::read(&wal).unwrap();
    let mut bad = good.clone();
    let at = bad.len() / 2;
    bad[at] ^= 1;
    fs::write(&wal, &bad).unwrap();
    let verified = offline::verify(&dir).unwrap();
    let wal_name = wal.display().to_string();
    assert!(verified.problems[0].contains(&wal_name), "{verified:?}");
    let (names, damage) = dumped(&dir).unwrap();
    assert!(damage[0].contains(&wal_name), "{damage:?}");
    assert!((50..300).contains(&names.len()), "{}", names.len());
    let refused = started(cluster.spawn(1)).await.unwrap_err();
    assert!(
        matches!(refused, StartError::Store(StoreError::Damaged { .. })),
        "{refused}"
    );
    fs::write(&wal, &good).unwrap();
    cluster.start(1).await;
    cluster.stop(1).await;

    // With a damaged table the names of its other blocks are printed.
    for table in files(&dir, "sst") {
        let good = fs::read(&table).unwrap();
        let mut bad = good.clone();
        bad[12] ^= 0x10;
        fs::write(&table, &bad).unwrap();
        let verified = offline::verify(&dir).unwrap();
        assert!(!verified.problems.is_empty(), "{}", table.display());
        fs::write(&table, &good).unwrap();
    }
    // The list of tables is lost.
    fs::remove_file(dir.join("rocksdb/CURRENT")).unwrap();
    assert!(!offline::verify(&dir).unwrap().problems.is_empty());
    let (names, damage) = dumped(&dir).unwrap();
    assert_eq!(names.len(), 300, "{damage:?}");
    assert!(!damage.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_a_node_serves_what_it_has_if_it_is_told_so() {
    let mut cluster = TestCluster::founded(3).await;
    cluster.register(1, "a").await;
    cluster.node(1).read_barrier(PATIENCE).await.unwrap();
    for id in [2, 3, 1] {
        cluster.stop(id).await;
    }
    // A node that serves linearizable reads waits for a majority.
    let start_one = cluster.spawn(1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!start_one.is_finished(), "it waits for a majority");
    start_one.abort();
    let _ = start_one.await;
    cluster.tuning.majority_wait = Some(Duration::from_millis(500));
    let replica = started(cluster.spawn(1)).await.unwrap();
    assert!(has(&replica, "a"));
    assert!(!replica.is_ready());
    cluster.nodes.get_mut(&1).unwrap().replica = Some(replica);
    // The other nodes return, and the node takes part as before.
    cluster.start_all().await;
    cluster.register(1, "b").await;
    assert!(found(cluster.node(2), "b").await);
    cluster.shutdown().await;
}
