//! Tests that kill a node while it receives and installs a snapshot, between any two steps.
//!
//! The node is this test binary, started again with [`a_node_that_will_be_killed`] as its only test.

use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use openraft::raft::AppendEntriesRequest;

use hearth_storage::store::rocks::lost_writes;

use super::*;
use crate::types::{LogEntry, Payload};

const FOLDER: &str = "HEARTH_TEST_FOLDER";

/// All places at which the process can be killed, in the first install and in the second.
const CRASHES: &[&str] = &[
    "family-made:1",
    "family-made:3",
    "family-made:4",
    "family-made:6",
    "install-written:1",
    "install-written:7",
    "install-written:60",
    "flushed:1",
    "flushed:3",
    "flushed:4",
    "flushed:6",
    "switch:1",
    "switch:2",
    "switch-written:1",
    "switch-written:2",
    "switch-synced:1",
    "switch-synced:2",
    "install-dropped:1",
    "install-dropped:4",
    "purge-written:1",
    "purge-written:2",
    "purge-dropped:1",
    "record-written:1",
];

fn states() -> [Registry; 2] {
    [source(300, 30), source(900, 70)]
}

fn record(folder: &Path) -> PathBuf {
    folder.join("synced")
}

async fn open(folder: &Path) -> Target {
    let options = RocksOptions {
        sync_record: Some(record(folder)),
        ..small_buffers()
    };
    Target::open_with(&Location::Folder(folder.to_owned()), options).await
}

async fn receive(to: &Target, from: &Registry) {
    let pipe = Pipe::new(to.receiver(), |_, _| Fate::Arrives);
    send(&Outgoing::new(SMALL), &pipe, from).await.unwrap();
}

/// The process that is killed. The tests below start it; it does nothing when the whole suite runs.
#[test]
fn a_node_that_will_be_killed() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    on_one_thread(async move {
        let to = open(Path::new(&folder)).await;
        for (number, from) in states().iter().enumerate() {
            receive(&to, from).await;
            println!("has state {number}");
        }
        println!("has all");
    });
}

/// Runs the node until it is killed at `place`, and returns the lines that it printed.
fn crash(folder: &Path, place: &str) -> Vec<String> {
    let output = Process::new(std::env::current_exe().unwrap())
        .args([
            "replication::snapshot_receive::tests::crash::a_node_that_will_be_killed",
            "--exact",
            "--nocapture",
        ])
        .env(FOLDER, folder)
        .env("HEARTH_CRASH_POINT", place)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<String> = said.lines().map(str::to_owned).collect();
    assert!(
        !lines.iter().any(|line| line == "has all"),
        "{place}: {lines:?}"
    );
    assert!(!output.status.success(), "{place}: {lines:?}");
    lines
}

/// Opens the remaining data: it must be one of the two states, complete, and the node must continue from there.
async fn check(folder: &Path, lines: &[String], case: &str) {
    let states = states();
    let hashes: Vec<StateHash> = states
        .iter()
        .map(|from| from.state_hash().unwrap())
        .collect();
    let to = open(folder).await;
    let found = to.state_hash();
    let index = |hash| hashes.iter().position(|&known| known == hash);
    let has = index(found).map_or(0, |index| index + 1);
    assert!(has > 0 || found == StateHash(0), "{case}: {found}");
    let said = lines.iter().filter(|line| line.starts_with("has state"));
    assert!(has >= said.count(), "{case}: {lines:?}, and it has {has}");
    let applied = snapshot::take(&to.registry).unwrap().meta.last_log_id;
    let expected = [None, Some(30), Some(70)][has];
    assert_eq!(applied.map(|id| id.index), expected, "{case}");

    receive(&to, &states[1]).await;
    assert_eq!(to.state_hash(), hashes[1], "{case}");
    let next = log_id(1, 1, 71);
    let request = AppendEntriesRequest {
        vote: leader(),
        prev_log_id: Some(log_id(1, 1, 70)),
        entries: vec![LogEntry {
            log_id: next,
            payload: Payload::Blank,
        }],
        leader_commit: Some(next),
    };
    to.raft.append_entries(request).await.unwrap();
    let metrics = to.raft.metrics();
    until("the next entry is applied", || {
        metrics.borrow_watched().last_applied == Some(next)
    })
    .await;
    to.raft.shutdown().await.unwrap();
    drop((to, metrics));
    let to = open(folder).await;
    let applied = snapshot::take(&to.registry).unwrap().meta.last_log_id;
    assert!(applied >= Some(log_id(1, 1, 70)), "{case}: {applied:?}");
}

fn crash_everywhere(damage: impl Fn(&Path)) {
    for place in CRASHES {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_owned();
        let lines = crash(&folder, place);
        damage(&folder);
        on_one_thread(async move { check(&folder, &lines, place).await });
    }
}

#[test]
fn a_node_that_is_killed_has_the_old_state_or_the_new_one() {
    crash_everywhere(|_| ());
}

#[test]
fn a_power_failure_leaves_the_old_state_or_the_new_one() {
    crash_everywhere(|folder| {
        if record(folder).exists() {
            lost_writes::cut_to_last_sync(folder, &record(folder)).unwrap();
        }
    });
}
