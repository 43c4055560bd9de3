//! Tests of power failures: the process is killed, and all data that was not synced is removed.
//!
//! The test starts itself a second time as the process that is killed. That process registers names as fast as
//! it can, and prints each one once it is acknowledged.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use hearth_raft::{Replica, ReplicaConfig, StartError, StorageLocation, Tuning};
use hearth_storage::store::rocks::lost_writes;
use hearth_storage::{Answer, Command, IfTaken, Query, Reply};

const FOLDER: &str = "HEARTH_RAFT_TEST_FOLDER";
const ROUND: &str = "HEARTH_RAFT_TEST_ROUND";

fn config(folder: &Path) -> ReplicaConfig {
    ReplicaConfig {
        node_id: Some(1),
        cluster_name: "hearth".to_owned(),
        storage: StorageLocation::Rocks(folder.join("data")),
        cluster: None,
    }
}

fn sync_record(folder: &Path) -> PathBuf {
    folder.join("syncs")
}

fn tuning(folder: &Path) -> Tuning {
    let mut tuning = Tuning::default();
    tuning.rocks.sync_record = Some(sync_record(folder));
    // Shortens the log while it is being written.
    tuning.snapshot_entry_count = 50;
    tuning.log_keep_entry_count = 10;
    tuning.purge_entry_count = 8;
    tuning
}

/// The process that is killed. It does nothing unless the test below starts it.
#[test]
fn registers_until_it_is_killed() {
    let (Ok(folder), Ok(round)) = (std::env::var(FOLDER), std::env::var(ROUND)) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let folder = PathBuf::from(folder);
        let replica = Replica::start_with(config(&folder), tuning(&folder))
            .await
            .unwrap();
        let mut writers = Vec::new();
        for writer in 0..16 {
            let replica = replica.clone();
            let round = round.clone();
            writers.push(tokio::spawn(async move {
                for index in 0.. {
                    let name = format!("{round}.{writer}.{index}");
                    let command = Command::Register {
                        uri: format!("PYRO:{name}@localhost:1"),
                        tags: BTreeSet::from([format!("round {round}")]),
                        name: name.clone(),
                        if_taken: IfTaken::Refuse,
                    };
                    let deadline = Instant::now() + Duration::from_secs(20);
                    assert_eq!(replica.write(command, deadline).await, Ok(Reply::Done));
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {name}").unwrap();
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

fn child(folder: &Path, round: u64) -> Process {
    let mut process = Process::new(std::env::current_exe().unwrap());
    process
        .args(["--exact", "registers_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped());
    process
}

/// Lets a child process register at least `count` names, kills it, and returns the names.
fn run_and_kill(folder: &Path, round: u64, count: usize) -> Vec<String> {
    let mut child = child(folder, round).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut names = Vec::new();
    let mut killed = false;
    for line in out.lines() {
        // The test harness prints lines of its own. A line that is cut off was not acknowledged.
        let Ok(line) = line else { break };
        if let Some((_, name)) = line.split_once("acknowledged ") {
            names.push(name.to_owned());
        }
        if names.len() >= count && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(
        killed,
        "the child ended by itself after {} names",
        names.len()
    );
    // The last line may have been cut in the middle.
    names.pop();
    names
}

fn has(replica: &Replica, name: &str) -> bool {
    match replica.answer(&Query::Lookup(name.to_owned())).unwrap() {
        Answer::Entry(Some(entry)) => {
            assert_eq!(entry.uri, format!("PYRO:{name}@localhost:1"));
            assert_eq!(entry.tags.len(), 1);
            true
        }
        _ => false,
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_the_loss_of_everything_unsynced() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let mut names = Vec::new();
    for round in 0..5 {
        let count = 100 + 77 * round as usize;
        names.extend(run_and_kill(folder, round, count));
        // In every other round the system survives the process, and keeps the data that was not synced.
        if round % 2 == 0 {
            lost_writes::cut_to_last_sync(&folder.join("data"), &sync_record(folder)).unwrap();
        }
        let replica = Replica::start_with(config(folder), tuning(folder))
            .await
            .unwrap();
        let lost: Vec<_> = names.iter().filter(|name| !has(&replica, name)).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        let command = Command::Remove {
            name: names[0].clone(),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        let removed = replica.write(command, deadline).await;
        assert_eq!(removed, Ok(Reply::Removed(1)));
        names.remove(0);
        replica.shutdown().await;
    }
}

/// Places in the storage at which a replica under load is killed, each with the number of the visit.
const CRASHES: [&str; 21] = [
    "format-written:1",
    "open-first:1",
    "open-recovered:1",
    "record-written:1",
    "record-written:2",
    "append:1",
    "append:20",
    "append-written:1",
    "append-written:2",
    "append-written:50",
    "sync:2",
    "sync:40",
    "synced:1",
    "synced:33",
    "sync-told:21",
    "apply:1",
    "apply:60",
    "apply-written:1",
    "apply-written:44",
    "purge-written:2",
    "purge-dropped:2",
];

#[tokio::test]
async fn a_crash_at_any_step_of_the_storage_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let mut names = Vec::new();
    for (round, place) in (0..).zip(CRASHES) {
        let mut child = child(folder, round)
            .env("HEARTH_CRASH_POINT", place)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = Vec::new();
        for line in out.lines().map_while(Result::ok) {
            let Some((_, name)) = line.split_once("acknowledged ") else {
                continue;
            };
            acknowledged.push(name.to_owned());
            // It would continue forever.
            if acknowledged.len() > 50_000 {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it does not come to {place}");
            }
        }
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{place}: {status}");
        // The last line may have been cut in the middle.
        acknowledged.pop();
        names.extend(acknowledged);
        if round % 2 == 0 && sync_record(folder).exists() {
            lost_writes::cut_to_last_sync(&folder.join("data"), &sync_record(folder)).unwrap();
        }
    }
    let replica = Replica::start_with(config(folder), tuning(folder))
        .await
        .unwrap();
    let lost: Vec<_> = names.iter().filter(|name| !has(&replica, name)).collect();
    assert!(lost.is_empty(), "lost {lost:?} of {}", names.len());
    assert!(names.len() > 100, "only {} were acknowledged", names.len());
    replica.shutdown().await;
}

#[tokio::test]
async fn a_log_that_was_altered_in_the_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    run_and_kill(folder, 0, 300);
    let wals = fs::read_dir(folder.join("data/rocksdb")).unwrap();
    let wal = wals
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let good = fs::read(&wal).unwrap();
    assert!(good.len() > 4096, "{} bytes", good.len());
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 0x40;
    fs::write(&wal, bad).unwrap();
    for _ in 0..2 {
        let error = Replica::start(config(folder)).await.unwrap_err();
        assert!(matches!(&error, StartError::Store(_)), "{error}");
    }
    // The refusal has changed nothing: with the right byte all data is there.
    fs::write(&wal, good).unwrap();
    let replica = Replica::start(config(folder)).await.unwrap();
    let Answer::Count(count) = replica.answer(&Query::Count).unwrap() else {
        panic!("no count");
    };
    assert!(count >= 300, "{count}");
    replica.shutdown().await;
}
