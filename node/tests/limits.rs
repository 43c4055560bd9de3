//! What one client may cost: registrations, refused ones, patterns and lists, at one node and at three.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_wire::Value;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::client::{Client, Entry};
use support::cluster::{Cluster, item, until};
use support::{Server, hearthd};

fn entry(uri: &str) -> Entry {
    Entry {
        uri: uri.to_owned(),
        tags: BTreeSet::new(),
    }
}

/// Registers `name` at one node, and waits until all nodes find it: all of them serve, and write.
fn assert_all_serve(cluster: &Cluster, name: &str) {
    for id in cluster.ids() {
        let name = format!("{name}.{id}");
        until("a registration", || {
            let registered = cluster.client(id).register(&name, &entry("PYRO:o@h:1"));
            registered.is_ok()
        });
        for reader in cluster.ids() {
            assert_eq!(cluster.client(reader).lookup(&name).unwrap(), "PYRO:o@h:1");
        }
    }
}

fn assert_healthy(cluster: &Cluster) {
    until("health", || {
        let health = cluster.ask(1, "health", vec![]).unwrap();
        *item(&health, "healthy") == Value::Bool(true)
    });
}

#[test]
fn a_registration_that_is_too_large_is_refused_with_the_option() {
    let server = Server::start(&[
        "-n",
        "127.0.0.1",
        "-p",
        "0",
        "--max-registration-size",
        "1000",
    ]);
    let connect = || Client::connect(server.port()).unwrap();
    let tags: BTreeSet<String> = (0..50)
        .map(|number| format!("tag-number-{number}"))
        .collect();
    let long_uri = format!("PYRO:{}@h:1", "o".repeat(1000));
    connect().register("n", &entry("PYRO:o@h:1")).unwrap();
    for (what, result) in [
        (
            "name",
            connect().register(&"n".repeat(1000), &entry("PYRO:o@h:1")),
        ),
        ("URI", connect().register("n", &entry(&long_uri))),
        (
            "tags",
            connect().register(
                "n",
                &Entry {
                    uri: "PYRO:o@h:1".to_owned(),
                    tags: tags.iter().map(|tag| tag.repeat(2)).collect(),
                },
            ),
        ),
        (
            "set_metadata",
            connect().set_metadata("n", &tags.iter().map(|tag| tag.repeat(2)).collect()),
        ),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("MessageTooLargeError")
                && error.contains("max=1000")
                && error.contains("--max-registration-size"),
            "{what}: {error}"
        );
    }
    let mut client = connect();
    client.set_metadata("n", &tags).unwrap();
    assert_eq!(client.lookup("n").unwrap(), "PYRO:o@h:1");

    // 800 bytes of name and 60 tags fit, and would take 48,000 in the index.
    let name = "n".repeat(800);
    let tags: BTreeSet<String> = (0..60).map(|number| number.to_string()).collect();
    let uri = "PYRO:o@h:1".to_owned();
    let error = connect()
        .register(
            &name,
            &Entry {
                uri,
                tags: tags.clone(),
            },
        )
        .unwrap_err()
        .to_string();
    assert!(error.contains("max=16000"), "{error}");
    connect().register(&name, &entry("PYRO:o@h:1")).unwrap();
    let error = connect()
        .set_metadata(&name, &tags)
        .unwrap_err()
        .to_string();
    assert!(error.contains("once for each tag"), "{error}");
}

/// Refused registrations once left their name's URI in the state of all nodes, in records that no restart
/// could read.
#[test]
fn refused_registrations_leave_nothing_that_grows() {
    const URI_LEN: usize = 7_000_000;
    const COUNT: usize = 60;
    let options = ["--max-registration-size", "8000000"];
    let mut cluster = Cluster::found_with(3, |_| options.to_vec());
    let leader = cluster.leader(1);
    let uri = format!("PYRO:{}@h:1", "o".repeat(URI_LEN));
    cluster
        .client(leader)
        .register("big", &entry(&uri))
        .unwrap();
    let port = cluster.node(leader).port();
    std::thread::scope(|scope| {
        for _ in 0..COUNT {
            scope.spawn(|| {
                let mut client = Client::connect(port).unwrap();
                let args = vec!["big".into(), "PYRO:a@h:1".into()];
                let refused = client.call("register", args, vec![("safe", Value::Bool(true))]);
                let error = refused.unwrap_err().to_string();
                assert!(error.contains("name already registered: big"), "{error}");
            });
        }
    });
    for id in cluster.ids() {
        let (status, _, log) = cluster.take(id).stop();
        assert!(status.success(), "node {id}: {status:?}\n{log}");
        cluster.start(id, &options);
    }
    assert_all_serve(&cluster, "after");
    assert_healthy(&cluster);
}

/// Each name alone was within a bound, all of them together held up all nodes, and again after a restart.
#[test]
fn a_pattern_that_explodes_on_every_name_holds_up_nobody() {
    let mut cluster = Cluster::found(3);
    for number in 0..400 {
        let name = format!("x{}{number:03}", "a".repeat(62));
        let at = number % 3 + 1;
        cluster
            .client(at)
            .register(&name, &entry("PYRO:o@h:1"))
            .unwrap();
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (mut client, is_done) = (cluster.client(1), &is_done);
        let removing = scope.spawn(move || {
            let regex = vec![("regex", Value::from(r"x(a*)*\1b"))];
            let removed = client.call("remove", vec![], regex);
            is_done.store(true, Ordering::Release);
            removed
        });
        let mut round = 0;
        while !is_done.load(Ordering::Acquire) || round < 2 {
            assert_all_serve(&cluster, &format!("meanwhile.{round}"));
            round += 1;
        }
        let error = removing.join().unwrap().unwrap_err().to_string();
        assert!(
            error.contains("invalid regex") && error.contains("steps"),
            "{error}"
        );
    });
    for id in cluster.ids() {
        cluster.take(id).kill();
    }
    for id in cluster.ids() {
        cluster.spawn(id, &[]);
    }
    for id in cluster.ids() {
        cluster.node_mut(id).wait_for_uri();
    }
    assert_all_serve(&cluster, "after");
}

/// A node without memory for a thread refused what the others applied.
#[test]
fn a_deep_pattern_removes_the_same_names_on_a_node_that_cannot_make_threads() {
    let cluster = Cluster::found(3);
    let leader = cluster.leader(1);
    let poor = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    for number in 0..20 {
        let name = format!("deep.{number}");
        cluster
            .client(leader)
            .register(&name, &entry("PYRO:o@h:1"))
            .unwrap();
    }
    cluster.client(poor).count().unwrap();
    let id = cluster.node(poor).id();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmSize:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    let limit = Some((kib + (12 << 10)) << 10);
    let pid = Pid::from_raw(id as i32).unwrap();
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(Some(pid), Resource::As, limit).unwrap();

    let regex = format!(r"deep\.1{}[0-9]?{}$", "(".repeat(45), ")".repeat(45));
    let regex = vec![("regex", Value::from(regex))];
    let removed = cluster
        .client(leader)
        .call("remove", vec![], regex)
        .unwrap();
    assert_eq!(removed, Value::Int(11));
    for id in cluster.ids() {
        assert_eq!(
            cluster.client(id).count().unwrap(),
            Value::Int(10),
            "node {id}"
        );
    }
    assert_healthy(&cluster);
}

/// The lists of clients that had gone took the turns of all lists for minutes.
#[test]
fn patterns_of_clients_that_have_gone_hold_up_no_list() {
    let server = Server::start(&["-n", "127.0.0.1", "-p", "0"]);
    let mut client = Client::connect(server.port()).unwrap();
    client.register("service.a", &entry("PYRO:o@h:1")).unwrap();
    client
        .register(&"ab".repeat(500_000), &entry("PYRO:o@h:1"))
        .unwrap();
    let processor_count = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..2 * processor_count.max(2) {
        let mut gone = Client::connect(server.port()).unwrap();
        gone.send_call("list", vec![Value::None, "[ab]*a[ab]{4000}c".into()])
            .unwrap();
    }
    let found = client
        .call("list", vec!["service.".into()], vec![])
        .unwrap();
    let expected = Value::Dict(vec![("service.a".into(), "PYRO:o@h:1".into())]);
    assert_eq!(found, expected);
    // And another pattern gets its turn.
    let found = client
        .call("list", vec![Value::None, "service[.]a$".into()], vec![])
        .unwrap();
    assert_eq!(found, expected);
}

/// Pyro5's own default let a client register what nodes cannot send each other.
#[test]
fn a_message_that_cannot_be_replicated_is_refused_whatever_pyro_allows() {
    let mut cluster = Cluster::found(3);
    for id in cluster.ids() {
        cluster.take(id).kill();
    }
    for id in cluster.ids() {
        let mut command = cluster.command(id);
        command.env("PYRO_MAX_MESSAGE_SIZE", "1073741824");
        command.args(["--max-registration-size", "67108864"]);
        cluster.put(id, Server::spawn(command));
    }
    for id in cluster.ids() {
        cluster.node_mut(id).wait_for_uri();
    }
    let leader = cluster.leader(1);
    let said = "MAX_MESSAGE_SIZE=1073741824";
    assert!(cluster.node(leader).log_so_far().contains(said));
    // Refused before all of it is there, so that it may break off.
    let huge = format!("PYRO:{}@h:1", "o".repeat(90_000_000));
    assert!(
        cluster
            .client(leader)
            .register("huge", &entry(&huge))
            .is_err()
    );
    // What is allowed reaches everybody.
    let large = format!("PYRO:{}@h:1", "o".repeat(20_000_000));
    cluster
        .client(leader)
        .register("large", &entry(&large))
        .unwrap();
    assert_all_serve(&cluster, "after");
    for id in cluster.ids() {
        assert_eq!(
            cluster.client(id).count().unwrap(),
            Value::Int(5),
            "node {id}"
        );
    }
}

#[test]
fn a_limit_that_does_not_fit_another_is_a_mistake() {
    let refused = hearthd(&["--max-registration-size", "9000000"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains("--max-registration-size") && error.contains("8388608"),
        "{error}"
    );
}

#[test]
fn a_removal_by_pattern_is_one_step_while_names_come() {
    let cluster = Cluster::found(3);
    let stop = AtomicBool::new(false);
    let outcomes = std::thread::scope(|scope| {
        for id in cluster.ids() {
            let (mut client, stop) = (cluster.client(id), &stop);
            scope.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("busy.{id}.{number}");
                    client.register(&name, &entry("PYRO:o@h:1")).unwrap();
                    number += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let outcomes: Vec<_> = (0..8)
            .map(|round| {
                let mut client = cluster.client(round % 3 + 1);
                let marker = format!("busy.marker.{round}");
                let registered = client.register(&marker, &entry("PYRO:o@h:1"));
                let regex = vec![("regex", Value::from(r"busy\.[a-z0-9]+\.\d+$"))];
                let removed = registered.and_then(|()| client.call("remove", vec![], regex));
                let found = cluster
                    .ids()
                    .into_iter()
                    .map(|id| cluster.client(id).lookup(&marker).is_ok())
                    .collect::<Vec<_>>();
                (removed, found)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        outcomes
    });
    for (removed, found) in &outcomes {
        match removed {
            // All that was there when it began has gone, whoever is asked.
            Ok(Value::Int(1..)) => assert_eq!(found, &vec![false; 3]),
            // It found no moment at which no name came, and has removed nothing.
            Err(error) if error.to_string().contains("nothing was changed: ") => {
                assert_eq!(found, &vec![true; 3]);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut client = cluster.client(1);
    let regex = vec![("regex", Value::from(r"busy\.[a-z0-9]+\.\d+$"))];
    client.call("remove", vec![], regex).unwrap();
    assert_eq!(client.count().unwrap(), Value::Int(1));
    assert_healthy(&cluster);
}

/// Whoever asks for everything and reads nothing once took its whole list in memory, each of them.
#[test]
fn many_clients_that_ask_for_everything_take_the_memory_of_few() {
    const ENTRY_LEN: usize = 900_000;
    const COUNT: usize = 40;
    let server = Server::start(&["-n", "127.0.0.1", "-p", "0"]);
    let mut client = Client::connect(server.port()).unwrap();
    for number in 0..COUNT {
        let uri = format!("PYRO:{}@h:1", "o".repeat(ENTRY_LEN));
        client
            .register(&format!("large.{number}"), &entry(&uri))
            .unwrap();
    }
    let before = support::memory_kib(server.id(), "VmHWM:");
    let mut waiting: Vec<Client> = (0..30)
        .map(|_| Client::connect(server.port()).unwrap())
        .collect();
    for client in &mut waiting {
        client.send_call("list", vec![]).unwrap();
    }
    // The third answer is made when one of the first two has given way.
    for client in &mut waiting[..3] {
        client.wait_for_bytes().unwrap();
    }
    drop(waiting);
    let mut reader = Client::connect(server.port()).unwrap();
    reader.send_call("list", vec![]).unwrap();
    reader.wait_for_bytes().unwrap();
    let grown = (support::memory_kib(server.id(), "VmHWM:") - before) >> 10;
    let list = (COUNT * ENTRY_LEN) as u64 >> 20;
    assert!(
        grown < 12 * list,
        "{grown} MiB more, for lists of {list} MiB"
    );
}

/// Whoever looks up what is large and reads nothing once held an answer of its own, whatever others held.
#[test]
fn many_clients_that_look_up_much_take_the_memory_of_few() {
    const ENTRY_LEN: usize = 900_000;
    const CLIENT_COUNT: usize = 150;
    // The system keeps less than one answer for a reader at a unix socket, and some of them at a TCP one.
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ns.sock").display().to_string();
    let server = Server::start(&["-u", &socket]);
    let mut client = Client::connect_unix(&socket).unwrap();
    let uri = format!("PYRO:{}@h:1", "o".repeat(ENTRY_LEN));
    client.register("large", &entry(&uri)).unwrap();
    assert_eq!(client.lookup("large").unwrap(), uri);
    let before = support::memory_kib(server.id(), "VmHWM:");
    let mut waiting = Vec::new();
    for _ in 0..CLIENT_COUNT {
        let mut client = Client::connect_unix(&socket).unwrap();
        client.send_call("lookup", vec!["large".into()]).unwrap();
        waiting.push(client);
    }
    // Those that keep others waiting give way after a while.
    let mut reader = Client::connect_unix(&socket).unwrap();
    until("an answer for who reads it", || {
        reader.lookup("large").is_ok_and(|found| found == uri)
    });
    let peak = || support::memory_kib(server.id(), "VmHWM:");
    let mut seen = 0;
    while std::mem::replace(&mut seen, peak()) != seen {
        std::thread::sleep(Duration::from_secs(1));
    }
    let grown = (seen - before) >> 10;
    drop(waiting);
    assert!(grown < 80, "{grown} MiB more, for {CLIENT_COUNT} clients");
}

/// A batch once had room for any number of URIs, because their length did not count.
#[test]
fn batches_that_look_up_much_end_before_they_take_much() {
    const ENTRY_LEN: usize = 900_000;
    const CLIENT_COUNT: usize = 20;
    let server = Server::start(&["-n", "127.0.0.1", "-p", "0"]);
    let mut client = Client::connect(server.port()).unwrap();
    let uri = format!("PYRO:{}@h:1", "o".repeat(ENTRY_LEN));
    client.register("large", &entry(&uri)).unwrap();
    let before = support::memory_kib(server.id(), "VmHWM:");
    let mut waiting = Vec::new();
    for _ in 0..CLIENT_COUNT {
        let mut client = Client::connect(server.port()).unwrap();
        // Fewer bytes than make a message large.
        client
            .send_batch("lookup", vec!["large".into()], 1500)
            .unwrap();
        waiting.push(client);
    }
    for client in &mut waiting {
        client.wait_for_bytes().unwrap();
    }
    let grown = (support::memory_kib(server.id(), "VmHWM:") - before) >> 10;
    drop(waiting);
    assert!(grown < 300, "{grown} MiB more, for {CLIENT_COUNT} clients");
}
