//! Tests of a single-node cluster through its public interface: acknowledged writes are kept, exactly once.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_raft::{
    Replica, ReplicaConfig, StartError, Status, StorageLocation, Tuning, WriteError,
};
use hearth_storage::{Answer, Command, Filter, IfTaken, Query, Refusal, Reply};

fn config(storage: StorageLocation) -> ReplicaConfig {
    ReplicaConfig {
        node_id: Some(1),
        cluster_name: "hearth".to_owned(),
        storage,
        cluster: None,
    }
}

fn on_disk(folder: &Path) -> ReplicaConfig {
    config(StorageLocation::Rocks(folder.to_owned()))
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn register(name: impl Into<String>) -> Command {
    let name = name.into();
    Command::Register {
        uri: format!("PYRO:{name}@localhost:1"),
        name,
        tags: BTreeSet::new(),
        if_taken: IfTaken::Refuse,
    }
}

fn count(replica: &Replica) -> u64 {
    match replica.answer(&Query::Count).unwrap() {
        Answer::Count(count) => count,
        other => panic!("{other:?}"),
    }
}

fn has(replica: &Replica, name: &str) -> bool {
    match replica.answer(&Query::Lookup(name.to_owned())).unwrap() {
        Answer::Entry(entry) => entry.is_some(),
        other => panic!("{other:?}"),
    }
}

async fn wait_until(replica: &Replica, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
    let until = soon();
    loop {
        let status = replica.status();
        if condition(&status) {
            return status;
        }
        assert!(Instant::now() < until, "not in time: {what}; {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_write_is_seen_by_the_next_read() {
    let replica = Replica::start(config(StorageLocation::Memory))
        .await
        .unwrap();
    for index in 0..50 {
        let name = format!("name{index}");
        assert_eq!(
            replica.write(register(&name), soon()).await,
            Ok(Reply::Done)
        );
        replica.read_barrier(Duration::ZERO).await.unwrap();
        assert!(has(&replica, &name));
    }
    let again = replica.write(register("name7"), soon()).await.unwrap();
    assert_eq!(again, Reply::Refused(Refusal::name_taken()));
    let prefixes = vec!["name1".to_owned()];
    let removed = replica
        .write(Command::RemovePrefix { prefixes }, soon())
        .await;
    assert_eq!(removed, Ok(Reply::Removed(11)));
    let answer = replica.answer(&Query::List(Filter::All)).unwrap();
    assert!(matches!(answer, Answer::Entries(entries) if entries.len() == 39));
    let status = replica.status();
    assert_eq!((status.node_id, status.leader), (1, Some(1)));
    // One more command activated the newest rules at the start.
    assert_eq!(status.command_count, 53);
    assert!(status.reads_are_local && status.sync_count > 0);
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_syncs_and_each_command_runs_once() {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::start(on_disk(dir.path())).await.unwrap();
    let before = replica.status();
    let mut writers = Vec::new();
    for writer in 0..64 {
        let replica = replica.clone();
        writers.push(tokio::spawn(async move {
            for index in 0..30 {
                // Refused if it ran twice.
                let name = format!("w{writer}.{index}");
                assert_eq!(replica.write(register(name), soon()).await, Ok(Reply::Done));
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let after = replica.status();
    assert_eq!(count(&replica), 64 * 30);
    assert_eq!(after.command_count - before.command_count, 64 * 30);
    let syncs = after.sync_count - before.sync_count;
    assert!(
        syncs * 5 < 64 * 30,
        "{syncs} syncs for {} commands",
        64 * 30
    );
    replica.shutdown().await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut hash = None;
    for round in 0..4u64 {
        let replica = Replica::start(on_disk(dir.path())).await.unwrap();
        assert_eq!(count(&replica), round * 10);
        for index in 0..10 {
            let written = replica
                .write(register(format!("r{round}.{index}")), soon())
                .await;
            assert_eq!(written, Ok(Reply::Done));
        }
        let status = replica.status();
        assert!(status.state_hash.is_some() && status.state_hash != hash);
        hash = status.state_hash;
        replica.shutdown().await;
    }
}

#[tokio::test]
async fn dropping_it_without_a_shutdown_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3u64 {
        let replica = start_when_free(dir.path()).await;
        assert_eq!(count(&replica), round);
        let written = replica.write(register(format!("r{round}")), soon()).await;
        assert_eq!(written, Ok(Reply::Done));
    }
}

/// Starts a replica once the dropped one has released its data directory.
async fn start_when_free(folder: &Path) -> Replica {
    let until = soon();
    loop {
        match Replica::start(on_disk(folder)).await {
            Ok(replica) => return replica,
            Err(StartError::Store(hearth_storage::StoreError::InUse { .. }))
                if Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn the_log_stays_short_and_a_restart_needs_no_more_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut tuning = Tuning::default();
    tuning.snapshot_entry_count = 20;
    tuning.log_keep_entry_count = 5;
    tuning.purge_entry_count = 1;
    for round in 0..3u64 {
        let replica = Replica::start_with(on_disk(dir.path()), tuning.clone())
            .await
            .unwrap();
        assert_eq!(count(&replica), round * 100);
        for index in 0..100 {
            let written = replica
                .write(register(format!("r{round}.{index}")), soon())
                .await;
            assert_eq!(written, Ok(Reply::Done));
        }
        let last = replica.status().last_log_index;
        wait_until(&replica, "the log is purged", |status| {
            status.purged_index.is_some_and(|purged| purged + 50 > last)
        })
        .await;
        replica.shutdown().await;
    }
}

#[tokio::test]
async fn a_log_of_large_entries_is_shortened_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut tuning = Tuning::default();
    tuning.log_len_max = 4 << 20;
    let replica = Replica::start_with(on_disk(dir.path()), tuning)
        .await
        .unwrap();
    let big = "x".repeat(64 << 10);
    for index in 0..200 {
        let written = replica
            .write(register(format!("{index}{big}")), soon())
            .await;
        assert_eq!(written, Ok(Reply::Done));
    }
    wait_until(&replica, "the log is purged", |status| {
        status.purged_index.is_some_and(|purged| purged > 100)
    })
    .await;
    replica.shutdown().await;
}

#[tokio::test]
async fn a_folder_of_another_cluster_or_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::start(on_disk(dir.path())).await.unwrap();
    replica.shutdown().await;
    let mut other = on_disk(dir.path());
    other.cluster_name = "other".to_owned();
    let error = Replica::start(other).await.unwrap_err();
    assert!(matches!(&error, StartError::Identity(_)), "{error}");
    let mut other = on_disk(dir.path());
    other.node_id = Some(2);
    let error = Replica::start(other).await.unwrap_err();
    assert!(matches!(&error, StartError::Identity(_)), "{error}");
    let replica = Replica::start(on_disk(dir.path())).await.unwrap();
    replica.shutdown().await;
}

#[tokio::test]
async fn a_folder_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::start(on_disk(dir.path())).await.unwrap();
    let error = Replica::start(on_disk(dir.path())).await.unwrap_err();
    assert!(matches!(&error, StartError::Store(_)), "{error}");
    replica.shutdown().await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_writes_nothing_or_says_that_it_does_not_know() {
    let replica = Replica::start(config(StorageLocation::Memory))
        .await
        .unwrap();
    let mut unknown = 0;
    for index in 0..200 {
        let deadline = Instant::now() + Duration::from_micros(index * 5);
        let name = format!("n{index}");
        let outcome = replica.write(register(&name), deadline).await;
        // The next write follows it in the queue.
        let next = replica.write(register(format!("m{index}")), soon()).await;
        assert_eq!(next, Ok(Reply::Done));
        match outcome {
            Ok(Reply::Done) => assert!(has(&replica, &name)),
            Err(WriteError::NotProposed(_)) => assert!(!has(&replica, &name)),
            Err(WriteError::Unknown(_)) => unknown += 1,
            other => panic!("{other:?}"),
        }
    }
    // No number was lost: far more writes than a window succeed afterwards.
    let mut writers = Vec::new();
    for writer in 0..100 {
        let replica = replica.clone();
        writers.push(tokio::spawn(async move {
            for index in 0..50 {
                let written = replica
                    .write(register(format!("w{writer}.{index}")), soon())
                    .await;
                assert_eq!(written, Ok(Reply::Done));
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    println!("{unknown} outcomes were unknown");
    replica.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_finishes_what_it_let_in_and_refuses_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let replica = Replica::start(on_disk(dir.path())).await.unwrap();
    let mut writers = Vec::new();
    for writer in 0..200 {
        let replica = replica.clone();
        writers.push(tokio::spawn(async move {
            let mut done = Vec::new();
            for index in 0.. {
                let name = format!("w{writer}.{index}");
                match replica.write(register(&name), soon()).await {
                    Ok(Reply::Done) => done.push(name),
                    Err(WriteError::NotProposed(_)) => break,
                    other => panic!("{other:?}"),
                }
            }
            done
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    replica.shutdown().await;
    assert!(replica.answer(&Query::Count).is_err());
    let mut names = Vec::new();
    for writer in writers {
        names.extend(writer.await.unwrap());
    }
    assert!(!names.is_empty());
    let replica = Replica::start(on_disk(dir.path())).await.unwrap();
    assert_eq!(count(&replica), names.len() as u64);
    assert!(names.iter().all(|name| has(&replica, name)));
    replica.shutdown().await;
}

#[tokio::test]
async fn starting_takes_no_election_timeout() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let begin = Instant::now();
        let replica = Replica::start(on_disk(dir.path())).await.unwrap();
        let took = begin.elapsed();
        // The shortest election timeout is a second; the limit leaves room for a busy machine.
        assert!(took < Duration::from_millis(900), "{took:?}");
        println!("started in {took:?}");
        replica.shutdown().await;
    }
}

#[tokio::test]
async fn it_is_well_until_its_storage_is_not() {
    let replica = Replica::start(config(StorageLocation::Memory))
        .await
        .unwrap();
    let failed = tokio::time::timeout(Duration::from_millis(100), replica.failed()).await;
    assert!(failed.is_err(), "{failed:?}");
    replica.shutdown().await;
    let failed = tokio::time::timeout(Duration::from_millis(100), replica.failed()).await;
    assert!(failed.is_err(), "a shutdown is no failure: {failed:?}");
    let read = replica.read_barrier(Duration::from_millis(100)).await;
    assert!(read.is_err());
    let written = replica.write(register("late"), soon()).await;
    assert!(
        matches!(written, Err(WriteError::NotProposed(_))),
        "{written:?}"
    );
}
