//! Where a node listens when the hosts file knows a name by two addresses: where programs of either family
//! look. Each test has a hosts file of its own, in a mount namespace, which takes root.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use hearth_skipped::skipped;
use support::cluster::{founders, free_addrs, until};
use support::{Server, hearthd_by, python};

const BOTH: &str = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";

/// Starts a program that sees the hosts file `$HOSTS`.
const OWN_HOSTS: &str =
    "exec unshare -m sh -c 'mount --bind \"$HOSTS\" /etc/hosts && exec \"$@\"' sh \"$@\"";

const FIND: &str = "
import Pyro4, Pyro5.api
for locate in (Pyro4.locateNS, Pyro5.api.locate_ns):
    with locate(broadcast=False) as ns:
        print(ns.count())
";

/// The Python of the real clients, where all of this can be tried.
fn namespaces() -> Option<String> {
    let python = python();
    let has_namespaces = Command::new("unshare")
        .args(["-m", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    if python.is_none() {
        skipped("HEARTH_TEST_PYTHON names no Python with Pyro4 and Pyro5");
    } else if !has_namespaces {
        skipped("a hosts file of its own takes root and unshare");
    } else if std::net::TcpListener::bind("[::1]:0").is_err() {
        skipped("this machine has no IPv6");
    } else {
        return python;
    }
    None
}

/// A `hearthd` that sees the hosts file `hosts`.
fn start(hosts: &Path, args: &[&str], variables: &[(&str, &str)]) -> Server {
    let mut command = hearthd_by(OWN_HOSTS, args);
    command.env("HOSTS", hosts).envs(variables.iter().copied());
    Server::run(command)
}

/// What real clients print that see the same hosts file as `server`.
fn find(python: &str, server: &Server, variables: &[(&str, &str)]) -> String {
    let output = Command::new("nsenter")
        .args(["-m", "-t", &server.id().to_string(), python, "-c", FIND])
        .env("PYRO_NS_PORT", server.port().to_string())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or_default().to_owned();
    String::from_utf8(output.stdout).unwrap() + &last
}

#[test]
fn programs_of_both_families_find_a_server_on_a_name_with_two_addresses() {
    let Some(python) = namespaces() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    // The last one is 127.0.0.1 to a resolver that is asked for IPv4, and only then.
    for (text, printed) in [
        (BOTH, "127.0.0.1"),
        ("::1 localhost\n127.0.0.1 localhost\n", "127.0.0.1"),
        ("127.0.0.1 localhost\n", "127.0.0.1"),
        ("::1 localhost\n", "127.0.0.1"),
    ] {
        std::fs::write(&hosts, text).unwrap();
        let server = start(&hosts, &["-p", "0"], &[]);
        assert_eq!(find(&python, &server, &[]), "1\n1\n", "{text}");
        let uri = format!("URI = PYRO:Pyro.NameServer@localhost:{}", server.port());
        assert!(server.printed.contains(&uri), "{:?}", server.printed);
        let running = format!("NS running on localhost:{} ({printed})", server.port());
        assert!(server.printed.contains(&running), "{:?}", server.printed);
        let (status, _, log) = server.stop();
        assert!(status.success());
        assert_eq!(log, "", "a normal start is quiet");
    }
}

#[test]
fn a_preferred_ip_version_and_an_address_are_kept_to() {
    let Some(python) = namespaces() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, BOTH).unwrap();
    let reached = |args: &[&str], version: Option<&str>| {
        let variables: Vec<_> = version
            .map(|version| ("PYRO_PREFER_IP_VERSION", version))
            .into_iter()
            .collect();
        let server = start(&hosts, args, &variables);
        let port = server.port();
        ["127.0.0.1", "::1"].map(|host| std::net::TcpStream::connect((host, port)).is_ok())
    };
    assert_eq!(reached(&["-p", "0"], Some("4")), [true, false]);
    assert_eq!(reached(&["-p", "0"], Some("6")), [false, true]);
    assert_eq!(reached(&["-p", "0"], Some("0")), [true, true]);
    assert_eq!(
        reached(&["-p", "0", "-n", "127.0.0.1"], None),
        [true, false]
    );
    assert_eq!(reached(&["-p", "0", "-n", "::1"], None), [false, true]);
    let server = start(&hosts, &["-p", "0"], &[("PYRO_PREFER_IP_VERSION", "4")]);
    let variables = [("PYRO_PREFER_IP_VERSION", "4")];
    assert_eq!(find(&python, &server, &variables), "1\n1\n");
}

#[test]
fn a_learner_on_the_same_machine_is_found_by_both() {
    let Some(python) = namespaces() else { return };
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, BOTH).unwrap();
    let addrs = free_addrs(2);
    let founders = founders(&addrs[..1]);
    let voter = ["-p", "0", "--node-id", "1", "--initial-cluster", &founders];
    let _voter = start(&hosts, &voter, &[]);
    let learner = [
        "-p",
        "0",
        "--learner",
        "--join",
        &addrs[0],
        "--peer-addr",
        &addrs[1],
    ];
    let learner = start(&hosts, &learner, &[]);
    assert_eq!(find(&python, &learner, &[]), "1\n1\n");
}

#[test]
fn other_nodes_reach_the_name_that_debian_has_as_127_0_1_1() {
    let has_namespaces = Command::new("unshare").args(["-m", "true"]).output();
    if !has_namespaces.is_ok_and(|output| output.status.success()) {
        return skipped("a hosts file of its own takes root and unshare");
    }
    let dir = tempfile::tempdir().unwrap();
    let (hosts, key) = (dir.path().join("hosts"), dir.path().join("key"));
    std::fs::write(&hosts, "127.0.0.1 localhost\n127.0.1.1 alpha\n").unwrap();
    std::fs::write(&key, "the key of the cluster\n").unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let key = key.to_str().unwrap();
    // The other two are not there: this one listens for them all the same.
    let addrs = free_addrs(3);
    let port = addrs[0].rsplit_once(':').unwrap().1;
    let list = format!("1=alpha:{port},2={},3={}", addrs[1], addrs[2]);
    let storage = format!("rocksdb:{}", dir.path().join("data").display());
    let mut command = hearthd_by(
        OWN_HOSTS,
        &[
            "-n",
            "127.0.0.1",
            "-p",
            "0",
            "-s",
            &storage,
            "--node-id",
            "1",
        ],
    );
    command
        .args(["--initial-cluster", &list, "--cluster-key-file", key])
        .env("HOSTS", &hosts);
    let server = Server::spawn(command);
    until("it is reached at another address than 127.0.1.1", || {
        std::net::TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_ok()
    });
    let (_, _, log) = server.stop();
    let line = log.lines().find(|line| line.contains("on all interfaces"));
    let line = line.unwrap_or_else(|| panic!("it does not say so: {log}"));
    assert!(
        line.contains("127.0.1.1") && line.contains("/etc/hosts"),
        "{line}"
    );
}
