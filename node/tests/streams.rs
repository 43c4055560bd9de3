//! What becomes of a node's standard output, standard error and log, and the signals that it was started
//! without: none of it ends or delays the service.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::client::{Client, Entry};
use support::cluster::{founders, free_addrs};
use support::{PATIENCE, Server, hearthd, hearthd_by};

/// A server whose streams a test holds, at a port that was free a moment ago.
struct Unwatched {
    child: Child,
    port: u16,
}

impl Unwatched {
    fn start(args: &[&str], stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        let server = Self::spawn(args, stdout, stderr);
        server.wait_until_it_serves();
        server
    }

    fn spawn(args: &[&str], stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let child = hearthd(&["-n", "127.0.0.1", "-p", &port.to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { child, port }
    }

    fn wait_until_it_serves(&self) {
        let deadline = Instant::now() + PATIENCE;
        while Client::connect(self.port).is_err() {
            assert!(Instant::now() < deadline, "it does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(mut self) -> ExitStatus {
        let id = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), Signal::TERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "SIGTERM does not end it");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Unwatched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that is refused, which is worth a line in the log.
fn knock_wrongly(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET / HTTP/1.0\r\n\r\n                    ")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"PYRO"), "{answer:?}");
}

#[test]
fn nobody_reads_the_streams_any_more() {
    let (stdout, stdout_end) = std::io::pipe().unwrap();
    let (stderr, stderr_end) = std::io::pipe().unwrap();
    let server = Unwatched::start(&[], stdout_end, stderr_end);
    drop((stdout, stderr));
    for _ in 0..5 {
        knock_wrongly(server.port);
    }
    Client::connect(server.port).unwrap().count().unwrap();
    assert_eq!(server.stop().code(), Some(0));
}

/// All three once ended after one refused client each.
#[test]
fn nobody_reads_the_streams_of_three_nodes() {
    let addrs = free_addrs(3);
    let founders = founders(&addrs);
    let folder = tempfile::tempdir().unwrap();
    let mut readers = Vec::new();
    let nodes: Vec<Unwatched> = (1..=3)
        .map(|id| {
            let (stdout, stdout_end) = std::io::pipe().unwrap();
            let (stderr, stderr_end) = std::io::pipe().unwrap();
            readers.push((stdout, stderr));
            let store = format!("rocksdb:{}", folder.path().join(id.to_string()).display());
            let id = id.to_string();
            let args = [
                "-s",
                &store,
                "--node-id",
                &id,
                "--initial-cluster",
                &founders,
            ];
            Unwatched::spawn(&args, stdout_end, stderr_end)
        })
        .collect();
    for node in &nodes {
        node.wait_until_it_serves();
    }
    drop(readers);
    for _ in 0..3 {
        for node in &nodes {
            knock_wrongly(node.port);
        }
    }
    for (number, node) in nodes.iter().enumerate() {
        let name = format!("name.{number}");
        let tags = BTreeSet::new();
        let uri = "PYRO:o@h:1".to_owned();
        let mut client = Client::connect(node.port).unwrap();
        client.register(&name, &Entry { uri, tags }).unwrap();
        for reader in &nodes {
            let mut reader = Client::connect(reader.port).unwrap();
            assert_eq!(reader.lookup(&name).unwrap(), "PYRO:o@h:1");
        }
    }
    for node in nodes {
        assert_eq!(node.stop().code(), Some(0));
    }
}

#[test]
fn the_terminal_was_closed() {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = File::options()
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let server = Unwatched::start(&[], terminal.try_clone().unwrap(), terminal);
    drop(master);
    for _ in 0..5 {
        knock_wrongly(server.port);
    }
    Client::connect(server.port).unwrap().count().unwrap();
    assert_eq!(server.stop().code(), Some(0));
}

/// Writes until a pipe takes no more.
fn fill(pipe: &mut PipeWriter) {
    rustix::io::ioctl_fionbio(&*pipe, true).unwrap();
    while pipe.write(&[b'\n'; 512]).is_ok() {}
    while pipe.write(b"\n").is_ok() {}
    rustix::io::ioctl_fionbio(&*pipe, false).unwrap();
}

#[test]
fn the_pipes_are_full() {
    let (mut stdout, mut stdout_end) = std::io::pipe().unwrap();
    let (mut stderr, mut stderr_end) = std::io::pipe().unwrap();
    fill(&mut stdout_end);
    fill(&mut stderr_end);
    let server = Unwatched::start(&["--log-level", "debug"], stdout_end, stderr_end);
    // Each is worth two lines at this level: more than the queue takes.
    for _ in 0..6000 {
        Client::connect(server.port).unwrap();
    }
    knock_wrongly(server.port);
    let mut client = Client::connect(server.port).unwrap();
    client.count().unwrap();

    // Once somebody reads, what is missing is told.
    let mut log = String::new();
    let mut buffer = [0; 65536];
    while !log.contains("lines could not be logged") {
        let len = stderr.read(&mut buffer).unwrap();
        assert!(len > 0, "it ended");
        log.push_str(&String::from_utf8_lossy(&buffer[..len]));
    }

    // Now it is full again, and that holds up no end either.
    let reader = std::thread::spawn(move || {
        let mut printed = String::new();
        stdout.read_to_string(&mut printed).unwrap();
        printed
    });
    for _ in 0..6000 {
        Client::connect(server.port).unwrap();
    }
    assert_eq!(server.stop().code(), Some(0));
    let printed = reader.join().unwrap();
    assert!(printed.contains("URI = PYRO:Pyro.NameServer@"), "{printed}");
    assert!(printed.ends_with("NS shut down.\n"), "{printed}");
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    for (ignored, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let script = format!("trap '' {ignored}; exec \"$@\"");
        let server = Server::run(hearthd_by(&script, &["-p", "0"]));
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .unwrap();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
        assert_eq!(mask >> (number - 1) & 1, 1, "SIG{ignored}: {status}");
        let signals = [("INT", Signal::INT), ("TERM", Signal::TERM)];
        let (_, other) = signals
            .into_iter()
            .find(|(name, _)| *name != ignored)
            .unwrap();
        server.signal(Signal::from_named_raw(number).unwrap());
        Client::connect(server.port()).unwrap().count().unwrap();
        server.signal(other);
        assert_eq!(server.wait().0.code(), Some(0));
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_on_disk_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("ns.log");
    let folder = dir.path().join("above/names");
    let storage = format!("rocksdb:{}", folder.display());
    let run = || {
        let args = ["-p", "0", "-s", &storage, "--log-file"];
        let mut command = hearthd_by("umask 0; exec \"$@\"", &args);
        command.arg(&log);
        assert!(Server::run(command).stop().0.success());
        std::fs::read_to_string(&log).unwrap()
    };
    assert_eq!(run(), "");
    assert_eq!(mode(&log), 0o600);
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(folder.parent().unwrap()), 0o777);

    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = run();
    assert_eq!(text.matches("chmod 700").count(), 1, "{text}");
    assert_eq!(mode(&folder), 0o755, "it is not ours to change");
}

#[test]
fn the_log_goes_where_pyros_items_say() {
    let dir = tempfile::tempdir().unwrap();
    let run = |variables: &[(&str, &str)]| {
        let mut command = hearthd(&["-p", "0"]);
        command.current_dir(&dir).envs(variables.iter().copied());
        let (status, _, stderr) = Server::run(command).stop();
        assert!(status.success(), "{variables:?}: {stderr}");
        stderr
    };
    let missing = "/nonexistent/folder/ns.log";
    assert_eq!(run(&[("PYRO_LOGFILE", missing)]), "");
    let stderr = run(&[("PYRO_LOGFILE", missing), ("PYRO_LOGLEVEL", "INFO")]);
    assert_eq!(stderr.matches(missing).count(), 1, "{stderr}");
    assert!(stderr.contains("name server runs"), "{stderr}");

    let file = dir.path().join("pyro.log");
    assert!(!file.exists());
    assert_eq!(run(&[("PYRO_LOGLEVEL", "INFO")]), "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("name server runs"), "{text}");
    assert_eq!(mode(&file), 0o600);
    assert!(
        run(&[("PYRO_LOGLEVEL", "INFO"), ("PYRO_LOGFILE", "{stderr}")])
            .contains("name server runs")
    );

    let output = hearthd(&["-p", "0", "--log-file", missing])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn pickled_clients_are_refused_and_all_others_served() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ns.log");
    for log_file in [None, Some(&file)] {
        let mut command = hearthd(&["-p", "0"]);
        command.env("PYRO_SERIALIZERS_ACCEPTED", "serpent,json,marshal,pickle");
        if let Some(file) = log_file {
            command.arg("--log-file").arg(file);
        }
        let server = Server::run(command);
        Client::connect(server.port()).unwrap().count().unwrap();
        let (status, _, stderr) = server.stop();
        assert!(status.success());
        assert_eq!(
            stderr.matches("use pickle are refused").count(),
            1,
            "{stderr}"
        );
    }
    let log = std::fs::read_to_string(&file).unwrap();
    assert_eq!(log.matches("use pickle are refused").count(), 1, "{log}");
    let output = hearthd(&["-p", "0"])
        .env("PYRO_SERIALIZERS_ACCEPTED", "pickle")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
