//! What `hearthd` says before it serves: help, mistakes, addresses that are taken. And with which code
//! it ends.

mod support;

use std::net::TcpListener;

use assert_cmd::assert::OutputAssertExt;
use support::hearthd;

#[test]
fn help_and_version_go_to_standard_output() {
    let output = hearthd(&["--help"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for option in [
        "-n, --host",
        "-p, --port",
        "-u, --unixsocket",
        "-s, --storage",
        "--bchost",
        "--bcport",
        "--nathost",
        "--natport",
        "-x, --nobc",
        "-k, --key",
        "-h, --help",
        "-V, --version",
        "--config",
        "--node-id",
        "--cluster-name",
        "--max-connections",
        "--peer-addr",
        "--initial-cluster",
        "--join",
        "--learner",
        "--cluster-key-file",
        "--insecure-peers",
        "--reads",
        "--election-timeout",
        "--heartbeat-interval",
    ] {
        assert!(text.contains(option), "{option} is missing in\n{text}");
    }
    hearthd(&["-V"])
        .assert()
        .success()
        .stdout(format!("hearthd {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_mistake_is_told_in_one_go() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hearth.toml");
    std::fs::write(&file, "hots = 'x'\nmax-connections = 0\n").unwrap();
    let output = hearthd(&["-p", "abc", "--bogus", "-s", "sql:names.db", "--reads=fast"])
        .args(["--config".as_ref(), file.as_os_str()])
        .env("PYRO_SSL", "on")
        .env("PYRO_NS_BCPORT", "-1")
        .env("PYRO_HMAC_KEY", "a")
        .args(["-k", "b"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    for part in [
        "--bogus",
        "--reads",
        "-p/--port",
        "-s/--storage",
        "PYRO_SSL",
        "PYRO_NS_BCPORT",
        "don't use -k and PYRO_HMAC_KEY at the same time",
        "hots",
        "max-connections",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(text.lines().count(), 10, "{text}");
}

#[test]
fn a_port_in_use_is_named_with_the_option_that_changes_it() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let output = hearthd(&["-n", "127.0.0.1", "-p", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains(&format!("127.0.0.1:{port} is in use")),
        "{text}"
    );
    assert!(text.contains("--port"), "{text}");
}

#[test]
fn an_address_of_another_machine_is_named() {
    // From the block for documentation, so that nobody has it.
    let output = hearthd(&["-n", "192.0.2.1", "-p", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("192.0.2.1"), "{text}");
    assert!(text.contains("--host"), "{text}");
}
