//! A disk that fails: the server stops, says why, and has promised nothing that it cannot keep.
//!
//! The real `hearthd`, with a shim between it and the system that makes calls fail (`jepsen-tests/src/shim/failing_disk.c`). A
//! failed sync is special: the system may have dropped the data that it could not write and report
//! success the next time, so a server that tried again would acknowledge what is lost. The test does what
//! such a system does, and takes away all that was not covered by a sync that succeeded.

// Helpers of a test fail as the test itself does.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hearth_storage::store::rocks::lost_writes;
use support::client::Client;
use support::failing_disk::FailingDisk;
use support::load::{Load, assert_all_there};
use support::{PATIENCE, Server, hearthd};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// How long a server may take to end: less than it waits for its clients when it is stopped in order.
const END_DURATION_MAX: Duration = Duration::from_secs(4);

fn server_on(folder: &Path) -> Command {
    let storage = format!("rocksdb:{}", folder.join("data").display());
    let mut command = hearthd(&["-n", "127.0.0.1", "-p", "0", "-s", &storage]);
    command.env("HEARTH_SYNC_RECORD", folder.join("syncs"));
    command
}

/// Lets calls of a kind fail under load, and returns what the shim saw from then on.
fn fail_under_load(kind: &str, errno: i32, times: u32, reason: &str) -> Option<Vec<String>> {
    let shim = match FailingDisk::compile() {
        Ok(shim) => shim,
        Err(reason) => {
            hearth_skipped::skipped(reason);
            return None;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let mut command = server_on(folder.path());
    shim.put_under(&mut command, &folder.path().join("data"));
    let server = Server::run(command);
    let load = Load::start(server.port(), "load");
    let deadline = Instant::now() + PATIENCE;
    while load.acknowledged_count() < 200 {
        assert!(Instant::now() < deadline, "the load does not get going");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(shim.lines().is_empty(), "{:?}", shim.lines());
    shim.fail(kind, errno, times);
    while shim.lines().is_empty() {
        assert!(Instant::now() < deadline, "nothing was written");
        std::thread::sleep(Duration::from_millis(2));
    }
    let failed = Instant::now();

    let (status, _, log) = server.wait();
    // Clients that wait for a server without a disk could go on elsewhere.
    let took = failed.elapsed();
    assert!(took < END_DURATION_MAX, "it ended only after {took:?}");
    assert!(
        status.code().is_some_and(|code| code != 0),
        "{status} {log}"
    );
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("hearthd: the replica failed: "), "{last}");
    assert!(last.contains(reason), "{last}");
    let (names, _) = load.finish();
    lost_writes::cut_to_last_sync(&folder.path().join("data"), &folder.path().join("syncs"))
        .unwrap();
    let server = Server::run(server_on(folder.path()));
    assert_all_there(&mut Client::connect(server.port()).unwrap(), &names);
    println!("{} acknowledged and there", names.len());
    server.stop();
    Some(shim.lines())
}

#[test]
fn a_failed_sync_ends_the_server_and_is_not_tried_again() {
    // Once: the next one would succeed, as after a system has dropped what it could not write.
    let Some(lines) = fail_under_load("sync", EIO, 1, "Input/output error") else {
        return;
    };
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("failed "))
        .collect();
    assert_eq!(failed.len(), 1, "{lines:#?}");
    // The log, or the note of what of it is synced.
    assert!(
        failed[0].ends_with(".log") || failed[0].ends_with("SYNCED"),
        "{lines:#?}"
    );
    let again = lines
        .iter()
        .filter(|line| line.starts_with("synced ") && line.ends_with(".log"));
    assert_eq!(again.count(), 0, "{lines:#?}");
}

#[test]
fn a_failed_write_ends_the_server() {
    fail_under_load("write", EIO, 1, "Input/output error");
}

#[test]
fn the_end_of_the_disk_ends_the_server_if_it_comes_without_notice() {
    fail_under_load("write", ENOSPC, 1_000_000, "No space left on device");
}

#[test]
fn a_server_whose_disk_fails_from_the_start_does_not_start() {
    let shim = match FailingDisk::compile() {
        Ok(shim) => shim,
        Err(reason) => return hearth_skipped::skipped(reason),
    };
    for kind in ["sync", "write"] {
        shim.fail(kind, EIO, 1_000_000);
        let folder = tempfile::tempdir().unwrap();
        let mut command = server_on(folder.path());
        shim.put_under(&mut command, &folder.path().join("data"));
        let (status, lines, log) = Server::spawn(command).wait();
        assert!(
            status.code().is_some_and(|code| code != 0),
            "{status} {log}"
        );
        assert!(!lines.iter().any(|line| line.contains("URI")), "{lines:?}");
        assert!(log.contains("Input/output error"), "{log}");
        // What was begun is no obstacle.
        let server = Server::run(server_on(folder.path()));
        Client::connect(server.port()).unwrap().count().unwrap();
        server.stop();
    }
}
