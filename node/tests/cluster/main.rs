//! Real nodes that are one name server: what their clients see, also when some of them are gone.

// Helpers of a test fail as the test itself does.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_wire::Value;
use rustix::process::Signal;
use support::client::{Client, Entry};
use support::cluster::{Cluster, free_addrs, item, until};
use support::{Server, hearthd, python};

fn entry(uri: &str) -> Entry {
    Entry {
        uri: uri.to_owned(),
        tags: BTreeSet::new(),
    }
}

#[test]
fn what_is_registered_at_one_node_is_found_at_all_others_at_once() {
    let cluster = Cluster::found(3);
    let mut clients: Vec<Client> = cluster.ids().iter().map(|&id| cluster.client(id)).collect();
    for number in 0..150 {
        let name = format!("name.{number}");
        let uri = format!("PYRO:object_{number}@host:1");
        clients[number % 3].register(&name, &entry(&uri)).unwrap();
        for reader in [1, 2] {
            let found = clients[(number + reader) % 3].lookup(&name).unwrap();
            assert_eq!(found, uri);
        }
    }
    for client in &mut clients {
        assert_eq!(client.count().unwrap(), Value::Int(151));
    }
}

#[test]
fn the_real_clients_call_every_node() {
    let Some(python) = python() else {
        return hearth_skipped::skipped(
            "HEARTH_TEST_PYTHON names no Python with Pyro4 and Pyro5; `make test` sets it",
        );
    };
    let cluster = Cluster::found(3);
    let ports = cluster
        .ids()
        .into_iter()
        .map(|id| cluster.node(id).port().to_string());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/proxies.py");
    let output = Command::new(python)
        .arg(script)
        .args(ports)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("all is well"), "{text}{errors}");
}

#[test]
fn strangers_change_no_cluster_and_those_who_prove_its_key_do() {
    let Some(python) = python() else {
        return hearth_skipped::skipped(
            "HEARTH_TEST_PYTHON names no Python with Pyro4 and Pyro5; `make test` sets it",
        );
    };
    // A network of its own, in which this machine has an address that is not the loopback's.
    const NETWORK: &str = "ip link set lo up && ip address add 10.66.0.1/32 dev lo";
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-ec", script]);
        command
    };
    let possible = unshared(NETWORK).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return hearth_skipped::skipped(
            "no network namespace with a second address can be made here",
        );
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = unshared(&format!("{NETWORK} && exec \"$@\""))
        .arg("sh")
        .arg(python)
        .arg(root.join("tests/cluster/admin.py"))
        .arg(hearthd(&[]).get_program())
        .arg(root.join("../README.md"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("all is well"), "{text}{errors}");
}

#[test]
fn a_leader_that_is_stopped_hands_over_first() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader(1);
    let others: Vec<u64> = cluster
        .ids()
        .into_iter()
        .filter(|&id| id != leader)
        .collect();
    let mut client = cluster.client(others[0]);
    client.register("before", &entry("PYRO:o@h:1")).unwrap();
    // A client of the leader that does not read its replies, which are more than a socket's buffers hold,
    // is waited for, for five seconds. Another one must lead before these begin.
    let mut slow = cluster.client(leader);
    for number in 0..20 {
        let uri = format!("PYRO:{}@h:1", "o".repeat(100_000));
        slow.register(&format!("long.{number}"), &entry(&uri))
            .unwrap();
    }
    for _ in 0..8 {
        slow.send("list").unwrap();
    }
    slow.wait_for_bytes().unwrap();
    let stopping = cluster.take(leader);
    stopping.signal(Signal::TERM);
    // Nobody at the other nodes sees an error, while it stops or after it.
    let has_stopped = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&has_stopped);
    let writes = std::thread::spawn(move || {
        let mut count = 0;
        let mut longest = Duration::ZERO;
        let mut after_its_end = 0;
        while after_its_end < 50 {
            let began = Instant::now();
            client
                .register(&format!("during.{count}"), &entry("PYRO:o@h:1"))
                .unwrap();
            longest = longest.max(began.elapsed());
            count += 1;
            after_its_end += usize::from(ended.load(Ordering::Relaxed));
        }
        (count, longest)
    });
    until("another one leads", || cluster.leader(others[0]) != leader);
    let handed_over = Instant::now();
    let (status, printed, log) = stopping.wait();
    let waited = handed_over.elapsed();
    drop(slow);
    has_stopped.store(true, Ordering::Relaxed);
    let (count, longest) = writes.join().unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(printed.last().unwrap(), "NS shut down.");
    assert!(
        waited > Duration::from_secs(3),
        "it led until {waited:?} before its end"
    );
    assert!(others.contains(&cluster.leader(others[0])));
    println!("{count} registrations meanwhile, the longest took {longest:?}");
    let found = cluster.client(others[1]).count().unwrap();
    assert_eq!(found, Value::Int(count + 22));
}

#[test]
fn a_node_that_waits_for_the_others_serves_nobody_and_stops_when_told() {
    let addrs = free_addrs(3);
    let founders = support::cluster::founders(&addrs);
    let client_port = free_addrs(1)[0].rsplit_once(':').unwrap().1.to_owned();
    let folder = tempfile::tempdir().unwrap();
    let storage = format!("rocksdb:{}", folder.path().display());
    let args = |more: &[&str]| {
        let mut command = hearthd(&["-n", "127.0.0.1", "-p", &client_port, "--node-id", "2"]);
        command.args(["-s", &storage]);
        command
            .args(["--initial-cluster", &founders])
            .args(more)
            .args(["--log-level", "info"]);
        command
    };
    let mut server = Server::spawn(args(&[]));
    // It listens for the other nodes, so it has come as far as it can.
    until("it listens for peers", || {
        TcpStream::connect(&addrs[1]).is_ok()
    });
    let refused = TcpStream::connect(("127.0.0.1", client_port.parse().unwrap()));
    assert_eq!(
        refused.unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    assert!(!server.has_ended());
    let (status, printed, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(printed.is_empty(), "{printed:?}");
    assert!(log.contains("stopped before it had started"), "{log}");
    assert!(log.contains("waiting for"), "{log}");
}

#[test]
fn ports_in_use_are_named_before_anything_is_waited_for() {
    let addrs = free_addrs(3);
    let founders = support::cluster::founders(&addrs);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port().to_string();
    let folder = tempfile::tempdir().unwrap();
    let storage = format!("rocksdb:{}", folder.path().display());
    let run = |port: &str| {
        let mut command = hearthd(&["-n", "127.0.0.1", "-p", port, "--node-id", "1"]);
        command.args(["-s", &storage]);
        let output = command
            .args(["--initial-cluster", &founders])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = run(&taken_port);
    assert!(
        text.contains(&format!("127.0.0.1:{taken_port} is in use")),
        "{text}"
    );
    assert!(text.contains("--port"), "{text}");
    let _peer = TcpListener::bind(&addrs[0]).unwrap();
    let text = run("0");
    assert!(text.contains(&format!("{} is in use", addrs[0])), "{text}");
    assert!(text.contains("--peer-addr"), "{text}");
}

#[test]
fn a_removed_node_ends_with_its_own_exit_code() {
    let mut cluster = Cluster::found(3);
    let leader = cluster.leader(1);
    let removed = cluster.ids().into_iter().find(|&id| id != leader).unwrap();
    let asked = cluster.ids().into_iter().find(|&id| id != removed).unwrap();
    let id = Value::Int(i64::try_from(removed).unwrap());
    cluster.ask(asked, "remove", vec![id]).unwrap();
    // It stops by itself, and starting it again is of no use.
    let ended = cluster.take(removed).wait();
    let started_again = Server::spawn(cluster.command(removed)).wait();
    for (status, printed, log) in [ended, started_again] {
        assert_eq!(status.code(), Some(3), "{printed:?} {log}");
        assert!(
            log.contains(&format!("node {removed} was removed")),
            "{log}"
        );
        assert_ne!(printed.last().map(String::as_str), Some("NS shut down."));
    }
    let members = cluster.ask(asked, "members", vec![]).unwrap();
    let Value::List(members) = members else {
        panic!("{members:?}");
    };
    assert_eq!(members.len(), 2);
}

#[test]
fn each_mode_of_reading_does_what_it_says_when_the_majority_is_gone() {
    let mut cluster = Cluster::found(1);
    let modes = [(2, "linearizable"), (3, "available"), (4, "stale")];
    for (id, mode) in modes {
        cluster.join(id, &["--reads", mode, "--call-timeout", "2"]);
    }
    let mut clients = modes.map(|(id, _)| cluster.client(id));
    for (number, writer) in [0, 1, 2].into_iter().enumerate() {
        let name = format!("name.{number}");
        clients[writer]
            .register(&name, &entry("PYRO:o@h:1"))
            .unwrap();
        clients[0].lookup(&name).unwrap();
        clients[1].lookup(&name).unwrap();
        // It may come a moment later here.
        until("the stale copy has it, too", || {
            clients[2].lookup(&name).is_ok()
        });
    }
    cluster.take(1).kill();
    let [linearizable, available, stale] = &mut clients;
    // Each look-up of the two is answered, and once the loss is noticed, at once.
    until("the loss is noticed", || {
        let began = Instant::now();
        available.lookup("name.0").unwrap();
        stale.lookup("name.0").unwrap();
        began.elapsed() < Duration::from_millis(200)
            && *item(&cluster.ask(3, "health", vec![]).unwrap(), "ready") == Value::Bool(false)
    });
    let began = Instant::now();
    for _ in 0..20 {
        available.lookup("name.1").unwrap();
        available.list().unwrap();
        stale.lookup("name.1").unwrap();
        stale.list().unwrap();
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "80 look-ups took {took:?}");
    let health = cluster.ask(3, "health", vec![]).unwrap();
    assert_eq!(*item(&health, "healthy"), Value::Bool(false));
    let Value::List(alarms) = item(&health, "alarms") else {
        panic!("{health:?}");
    };
    let told = alarms.iter().filter_map(Value::as_str);
    assert!(
        told.into_iter().any(|alarm| alarm.contains("own copy")),
        "{alarms:?}"
    );

    // Both take until their deadline, so they are asked at the same time.
    let began = Instant::now();
    let (read, write) = std::thread::scope(|scope| {
        let read = scope.spawn(|| linearizable.lookup("name.0").unwrap_err().to_string());
        let write = stale.register("more", &entry("PYRO:o@h:1"));
        (read.join().unwrap(), write.unwrap_err().to_string())
    });
    assert!(read.contains("NamingError"), "{read}");
    assert!(read.contains("\"no quorum: "), "{read}");
    assert!(write.contains("NamingError"), "{write}");
    let knows = write.contains("\"no quorum: ") || write.contains("\"outcome unknown: ");
    assert!(knows, "{write}");
    let took = began.elapsed();
    // Without the option it is ten seconds.
    let meant = Duration::from_secs(2)..Duration::from_secs(8);
    assert!(meant.contains(&took), "{took:?}");

    // With the majority, everything is as before.
    cluster.start(1, &[]);
    linearizable.lookup("name.0").unwrap();
    available.register("later", &entry("PYRO:o@h:1")).unwrap();
    linearizable.lookup("later").unwrap();
    until("all is well at the available one", || {
        available.lookup("later").unwrap();
        *item(&cluster.ask(3, "health", vec![]).unwrap(), "healthy") == Value::Bool(true)
    });
    let (_, _, log) = cluster.take(3).stop();
    assert!(log.contains("answered from its own copy"), "{log}");
    assert!(log.contains("a majority again"), "{log}");
}

/// What the responder of a node answers, if it does.
fn broadcast(server: &Server) -> Option<String> {
    let line = server
        .printed
        .iter()
        .find_map(|line| line.strip_prefix("Broadcast server running on "))
        .unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    socket.send_to(b"GET_NSURI", line).unwrap();
    let mut reply = [0; 200];
    let (len, _) = socket.recv_from(&mut reply).ok()?;
    Some(String::from_utf8_lossy(&reply[..len]).into_owned())
}

#[test]
fn a_node_answers_broadcasts_with_its_own_address_while_it_can_serve() {
    const OPEN: [&str; 6] = ["-n", "0.0.0.0", "--bchost", "127.0.0.1", "--bcport", "0"];
    let mut cluster = Cluster::found_with(3, |_| OPEN.to_vec());
    for id in cluster.ids() {
        let node = cluster.node(id);
        let uri = format!("PYRO:Pyro.NameServer@127.0.0.1:{}", node.port());
        until("it answers with its own address", || {
            broadcast(node).as_deref() == Some(uri.as_str())
        });
    }
    // One that is stopped, and two that are not; then one that is alone.
    cluster.take(3).kill();
    until("two of three answer", || {
        [1, 2]
            .iter()
            .all(|&id| broadcast(cluster.node(id)).is_some())
    });
    cluster.take(2).kill();
    until("one of three is silent", || {
        broadcast(cluster.node(1)).is_none()
    });
    for _ in 0..5 {
        assert_eq!(broadcast(cluster.node(1)), None);
    }
    cluster.start(2, &OPEN);
    until("two of three answer again", || {
        [1, 2]
            .iter()
            .all(|&id| broadcast(cluster.node(id)).is_some())
    });
}

#[test]
fn a_pyro_address_that_is_given_to_join_is_told() {
    let cluster = Cluster::found(1);
    let pyro_addr = format!("127.0.0.1:{}", cluster.node(1).port());
    let peer_addr = free_addrs(1).remove(0);
    let mut command = hearthd(&["-n", "127.0.0.1", "-p", "0", "--learner"]);
    command
        .args(["--join", &pyro_addr, "--peer-addr", &peer_addr])
        .args(["--log-level", "info"]);
    let mut joiner = Server::spawn(command);
    until("it listens for peers", || {
        TcpStream::connect(&peer_addr).is_ok()
    });
    // It tries again and again: a second try shows that the first has failed.
    let mut seen = String::new();
    until("it says what is wrong", || {
        if joiner.has_ended() {
            return true;
        }
        seen = joiner.log_so_far();
        seen.to_lowercase().contains("pyro")
    });
    let (_, _, log) = joiner.stop();
    assert!(log.contains("Pyro"), "{log}");
}
