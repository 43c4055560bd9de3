//! Changing the cluster key of running nodes: the file is written anew, and SIGHUP has it read again.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use support::cluster::{free_addrs, until};
use support::{Server, hearthd};

fn write(file: &Path, keys: &str) {
    std::fs::write(file, keys).unwrap();
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
}

fn read_again(server: &Server, said: &str, count: usize) {
    let pid = Pid::from_raw(server.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    until(said, || server.log_so_far().matches(said).count() == count);
}

#[test]
fn a_key_that_is_added_lets_a_node_in_and_a_bad_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    write(&ours, "the old key of the cluster\n");
    write(&theirs, "the new key of the cluster\n");
    let addrs = free_addrs(2);
    let storage = format!("rocksdb:{}", dir.path().join("data").display());
    let mut first = hearthd(&[
        "-n",
        "127.0.0.1",
        "-p",
        "0",
        "-s",
        &storage,
        "--node-id",
        "1",
    ]);
    first
        .args(["--initial-cluster", &format!("1={}", addrs[0])])
        .args(["--cluster-key-file", ours.to_str().unwrap()])
        .args(["--log-level", "info"]);
    let first = Server::run(first);
    let mut second = hearthd(&["-n", "127.0.0.1", "-p", "0", "--learner"]);
    second
        .args(["--join", &addrs[0], "--peer-addr", &addrs[1]])
        .args(["--cluster-key-file", theirs.to_str().unwrap()])
        .args(["--log-level", "info"]);
    let mut second = Server::spawn(second);
    until("it waits and says why", || {
        second.log_so_far().contains("the keys differ")
    });

    write(&ours, "\n");
    read_again(&first, "the cluster keys stay as they were", 1);
    assert!(!second.has_ended() && !second.has_printed_uri());
    // The other node accepts the new key only, so that is the one to prove.
    write(
        &ours,
        "the new key of the cluster\nthe old key of the cluster\n",
    );
    read_again(&first, "the cluster keys were read again", 1);
    second.wait_for_uri();
    let (status, _, log) = first.stop();
    assert!(status.success(), "{log}");
}
