//! A node's life as its user sees it: the lines of `pyro4-ns`, the sources of settings, signals, and
//! what is still there after a restart.

mod support;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hearth_wire::Value;
use rustix::process::Signal;
use support::client::{Client, Entry};
use support::{PATIENCE, Server, hearthd};

const WARNING: &str = "Warning: HMAC key not set. Anyone can connect to this server!";

/// Arguments, environment and the lines that they lead to.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

/// The server's lines, with its random ports replaced.
fn lines(server: &Server) -> Vec<String> {
    let is_tcp = !server.location().starts_with("./u:");
    let port = is_tcp.then(|| server.port().to_string());
    let mut lines = Vec::new();
    for line in &server.printed {
        let mut line = line.clone();
        if let Some(port) = &port {
            line = line.replace(port, "PORT");
        }
        if let Some((start, number)) = line.rsplit_once(':')
            && start.starts_with("Broadcast server running on ")
            && number.parse::<u16>().is_ok_and(|number| number != 0)
        {
            line = format!("{start}:BCPORT");
        }
        lines.push(line);
    }
    lines
}

#[test]
fn it_prints_what_pyro4_ns_prints() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ns.sock").display().to_string();
    let on_socket = [
        format!("NS running on ./u:{socket} (Unix domain socket)"),
        WARNING.to_owned(),
        format!("URI = PYRO:Pyro.NameServer@./u:{socket}"),
    ];
    let on_socket: Vec<&str> = on_socket.iter().map(String::as_str).collect();
    let at_localhost = [
        "Not starting broadcast server for localhost.",
        "NS running on localhost:PORT (127.0.0.1)",
        WARNING,
        "URI = PYRO:Pyro.NameServer@localhost:PORT",
    ];
    let cases: [Case<'_>; 13] = [
        (&[], &[], &at_localhost),
        (&["-x"], &[], &at_localhost),
        (&["--nathost="], &[], &at_localhost),
        (&["-k", ""], &[], &at_localhost),
        (&[], &[("PYRO_HOST", "localhost")], &at_localhost),
        (
            &["-n", "127.0.0.1", "-k", "secret"],
            &[],
            &[
                "Not starting broadcast server for localhost.",
                "NS running on 127.0.0.1:PORT (127.0.0.1)",
                "URI = PYRO:Pyro.NameServer@127.0.0.1:PORT",
            ],
        ),
        (
            &["--nathost", "ext.example", "--natport", "8888"],
            &[("PYRO_HMAC_KEY", "secret")],
            &[
                "Not starting broadcast server for localhost.",
                "NS running on localhost:PORT (127.0.0.1)",
                "internal URI = PYRO:Pyro.NameServer@localhost:PORT",
                "external URI = PYRO:Pyro.NameServer@ext.example:8888",
            ],
        ),
        (
            &[],
            &[("PYRO_NATHOST", "ext.example")],
            &[
                "Not starting broadcast server for localhost.",
                "NS running on localhost:PORT (127.0.0.1)",
                WARNING,
                "internal URI = PYRO:Pyro.NameServer@localhost:PORT",
                "external URI = PYRO:Pyro.NameServer@ext.example:PORT",
            ],
        ),
        (
            &["-n", "0.0.0.0", "--bchost", "localhost", "--bcport", "0"],
            &[],
            &[
                "Broadcast server running on localhost:BCPORT",
                "NS running on 0.0.0.0:PORT (0.0.0.0)",
                WARNING,
                "URI = PYRO:Pyro.NameServer@0.0.0.0:PORT",
            ],
        ),
        (
            &["-n", ""],
            &[("PYRO_NS_BCPORT", "0"), ("PYRO_NS_BCHOST", "127.0.0.1")],
            &[
                "Broadcast server running on 127.0.0.1:BCPORT",
                "NS running on 0.0.0.0:PORT (0.0.0.0)",
                WARNING,
                "URI = PYRO:Pyro.NameServer@0.0.0.0:PORT",
            ],
        ),
        (
            &["-n", "0.0.0.0", "-x"],
            &[],
            &[
                "NS running on 0.0.0.0:PORT (0.0.0.0)",
                WARNING,
                "URI = PYRO:Pyro.NameServer@0.0.0.0:PORT",
            ],
        ),
        (&["-u", &socket], &[], &on_socket),
        (&["-u", &socket, "-x"], &[], &on_socket),
    ];
    for (args, environment, expected) in cases {
        let mut command = hearthd(args);
        command.args(["-p", "0"]).envs(environment.iter().copied());
        let server = Server::run(command);
        assert_eq!(lines(&server), expected, "{args:?} {environment:?}");
        let (status, printed, log) = server.stop();
        assert_eq!(status.code(), Some(0), "{args:?}: {log}");
        assert_eq!(printed.last().unwrap(), "NS shut down.", "{args:?}");
        if args.contains(&"-k") && args.contains(&"secret") {
            assert!(log.contains("using -k to supply HMAC key"), "{log}");
            assert_eq!(log.lines().count(), 1, "{log}");
        } else {
            assert_eq!(log, "", "a normal start is quiet: {args:?}");
        }
    }
}

#[test]
fn ipv6_has_no_broadcast() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return hearth_skipped::skipped("this machine has no IPv6");
    }
    let server = Server::start(&["-n", "::1", "-p", "0"]);
    assert_eq!(
        lines(&server),
        [
            "Not starting broadcast server for IPv6.",
            "NS running on [::1]:PORT (::1)",
            WARNING,
            "URI = PYRO:Pyro.NameServer@[::1]:PORT",
        ]
    );
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hearth.toml");
    std::fs::write(
        &file,
        "host = '127.0.0.3'\nport = 0\nnathost = 'from-file'\nnatport = 1\n",
    )
    .unwrap();
    let mut command = hearthd(&["-n", "127.0.0.1"]);
    command
        .env("HEARTH_CONFIG", &file)
        .env("PYRO_HOST", "127.0.0.2")
        .env("PYRO_NATPORT", "2");
    let server = Server::run(command);
    assert_eq!(
        lines(&server),
        [
            "Not starting broadcast server for localhost.",
            "NS running on 127.0.0.1:PORT (127.0.0.1)",
            WARNING,
            "internal URI = PYRO:Pyro.NameServer@127.0.0.1:PORT",
            "external URI = PYRO:Pyro.NameServer@from-file:2",
        ]
    );
}

#[test]
fn settings_without_effect_are_said_once() {
    let mut command = hearthd(&["-p", "0"]);
    command
        .env("PYRO_THREADPOOL_SIZE", "400")
        .env("PYRO_UNHEARD_OF", "1");
    let (_, _, log) = Server::run(command).stop();
    for part in ["PYRO_THREADPOOL_SIZE", "PYRO_UNHEARD_OF"] {
        assert_eq!(log.matches(part).count(), 1, "{part}: {log}");
    }
}

#[test]
fn the_log_can_be_json_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log.json");
    let mut command = hearthd(&["-p", "0", "--log-format", "json", "--log-level", "info"]);
    command.env("PYRO_LOGFILE", &file);
    let (status, _, stderr) = Server::run(command).stop();
    assert!(status.success());
    assert_eq!(stderr, "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.lines().count() > 0);
    for line in text.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
    assert!(text.contains("name server runs"), "{text}");
}

#[test]
fn interrupt_and_terminate_end_it_well() {
    for signal in [Signal::INT, Signal::TERM] {
        let server = Server::start(&["-p", "0"]);
        // A client that is connected and silent does not hold it up.
        let client = Client::connect(server.port()).unwrap();
        server.signal(signal);
        let (status, printed, _) = server.wait();
        assert_eq!(status.code(), Some(0));
        assert_eq!(printed.last().unwrap(), "NS shut down.");
        drop(client);
    }
}

#[test]
fn a_second_signal_does_not_wait_for_clients() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("ns.sock").display().to_string();
    let mut server = Server::start(&["-u", &socket]);
    // A client that asks and does not read its replies, which are more than a socket's buffer holds,
    // is waited for.
    let mut client = Client::connect_unix(&socket).unwrap();
    for number in 0..16 {
        let entry = Entry {
            uri: format!("PYRO:{}@h:1", "o".repeat(100_000)),
            tags: BTreeSet::new(),
        };
        client.register(&format!("long.{number}"), &entry).unwrap();
    }
    client.send("list").unwrap();
    let began = Instant::now();
    // Sent until it ends: two that arrive together count as one.
    while !server.has_ended() {
        assert!(began.elapsed() < PATIENCE, "signals are ignored");
        server.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed();
    let (status, printed, log) = server.wait();
    assert_eq!(status.code(), Some(1), "{log}");
    assert_ne!(printed.last().unwrap(), "NS shut down.");
    assert!(took < Duration::from_secs(3), "it drained for {took:?}");
    assert!(!std::fs::exists(&socket).unwrap());
}

#[test]
fn a_unix_socket_left_by_a_crash_is_replaced_and_removed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ns.sock");
    let socket = path.display().to_string();
    Server::start(&["-u", &socket]).kill();
    assert!(path.exists(), "a killed server leaves its socket behind");

    let server = Server::start(&["-u", &socket]);
    let mut client = Client::connect_unix(&socket).unwrap();
    assert_eq!(client.count().unwrap(), Value::Int(1));

    let output = hearthd(&["-u", &socket]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("is in use"), "{text}");
    assert!(text.contains("--unixsocket"), "{text}");
    assert_eq!(client.count().unwrap(), Value::Int(1));

    let (status, ..) = server.stop();
    assert!(status.success());
    assert!(!path.exists());
}

#[test]
fn a_data_folder_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("rocksdb:{}", dir.path().join("data").display());
    let server = Server::start(&["-p", "0", "-s", &storage]);
    let output = hearthd(&["-p", "0", "-s", &storage]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("in use"), "{text}");
    assert!(text.contains("--storage"), "{text}");
    assert!(server.stop().0.success());
}

#[test]
fn registrations_on_disk_survive_a_kill_and_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let storage = format!("rocksdb:{}", dir.path().join("data").display());
    let args = ["-p", "0", "-s", storage.as_str()];
    let entry = Entry {
        uri: "PYRO:obj_1@somewhere:4000".to_owned(),
        tags: BTreeSet::from(["red".to_owned(), "größe".to_owned()]),
    };

    let server = Server::start(&args);
    let mut client = Client::connect(server.port()).unwrap();
    client.register("sensor.1", &entry).unwrap();
    server.kill();

    for existing in [2, 3] {
        let server = Server::start(&args);
        let line = format!("Persistent store contains {existing} existing registrations.");
        assert_eq!(server.printed[1], line, "{:?}", server.printed);
        let mut client = Client::connect(server.port()).unwrap();
        assert_eq!(client.lookup("sensor.1").unwrap(), entry.uri);
        assert_eq!(client.list().unwrap()["sensor.1"], entry);
        client.register("sensor.2", &entry).unwrap();
        drop(client);
        assert!(server.stop().0.success());
    }
}

#[test]
fn clients_who_came_before_the_end_are_served() {
    let server = Server::start(&["-p", "0"]);
    // The system lets them in; the server finds them together with the signal.
    server.signal(Signal::STOP);
    let mut clients: Vec<Client> = (0..200)
        .map(|_| Client::knock(server.port()).unwrap())
        .collect();
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for client in &mut clients {
        client.wait_for_greeting().unwrap();
        client.count().unwrap();
    }
    assert!(server.wait().0.success());
}

#[test]
fn calls_under_way_are_answered_before_the_end() {
    let server = Server::start(&["-p", "0"]);
    let port = server.port();
    let entry = Entry {
        uri: "PYRO:obj@h:1".to_owned(),
        tags: BTreeSet::new(),
    };
    let (began, has_begun) = std::sync::mpsc::channel();
    let load = std::thread::spawn(move || {
        let mut client = Client::connect(port).unwrap();
        let mut answered = 0_u64;
        // A refused call is one that the server closed its doors to between two calls, which shows as a
        // closed connection; it must never be an exception or half a reply.
        loop {
            match client.register("busy", &entry) {
                Ok(()) => answered += 1,
                Err(error) => return (answered, error.kind()),
            }
            let _ = began.send(());
        }
    });
    has_begun.recv_timeout(PATIENCE).unwrap();
    let (status, ..) = server.stop();
    assert!(status.success());
    let (answered, end) = load.join().unwrap();
    assert!(answered > 0);
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    assert!(
        matches!(end, UnexpectedEof | ConnectionReset | BrokenPipe),
        "{end:?}"
    );
}

#[test]
fn a_broadcast_finds_a_server_on_all_interfaces() {
    let server = Server::start(&["-n", "0.0.0.0", "-p", "0", "--bcport", "0"]);
    let port: u16 = server.printed[0]
        .strip_prefix("Broadcast server running on 0.0.0.0:")
        .unwrap()
        .parse()
        .unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"GET_NSURI", ("127.0.0.1", port)).unwrap();
    let mut reply = [0; 101];
    let len = socket.recv(&mut reply).unwrap();
    let expected = format!("PYRO:Pyro.NameServer@127.0.0.1:{}", server.port());
    assert_eq!(&reply[..len], expected.as_bytes());
    Client::connect(server.port()).unwrap();
}
