//! A `hearthd` of its own for each test: started, watched, signalled and always cleaned up.

// Each test binary uses its own part of this, and what fails here fails a test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod client;
pub mod cluster;
pub mod failing_disk;
pub mod load;
pub mod small_disk;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take on a loaded machine before a test calls it hung.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `hearthd` with these arguments, and an environment in which nothing speaks to it.
pub fn hearthd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearthd"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PYRO_") || text.starts_with("HEARTH_") {
            command.env_remove(&name);
        }
    }
    command.args(args);
    command
}

/// `hearthd` with these arguments, started by a script of a shell that has its command line as `"$@"`.
pub fn hearthd_by(script: &str, args: &[&str]) -> Command {
    let program = hearthd(args);
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    for (name, _) in program.get_envs() {
        command.env_remove(name);
    }
    command
}

/// A Python that has Pyro4, Pyro5 and msgpack; `make test` names it.
pub fn python() -> Option<String> {
    let python = std::env::var("HEARTH_TEST_PYTHON")
        .ok()
        .filter(|python| !python.is_empty())?;
    let check = Command::new(&python)
        .args(["-c", "import Pyro4, Pyro5.api, msgpack"])
        .output();
    assert!(
        check.is_ok_and(|output| output.status.success()),
        "HEARTH_TEST_PYTHON is {python}, which cannot import Pyro4, Pyro5 and msgpack"
    );
    Some(python)
}

/// A running `hearthd`. Dropping it kills it.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<()>>,
    log: Arc<Mutex<String>>,
    /// What it has printed so far.
    pub printed: Vec<String>,
}

impl Server {
    /// Starts one and waits until it answers.
    pub fn start(args: &[&str]) -> Self {
        Self::run(hearthd(args))
    }

    /// Runs `command` and waits until it answers.
    pub fn run(command: Command) -> Self {
        let mut server = Self::spawn(command);
        server.wait_for_uri();
        server
    }

    /// Runs `command` without waiting.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test's own binary starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        let stderr = std::thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|len| len > 0) {
                written
                    .lock()
                    .expect("nobody panics with it")
                    .push_str(&line);
                line.clear();
            }
        });
        Self {
            child,
            lines,
            stderr: Some(stderr),
            log,
            printed: Vec::new(),
        }
    }

    /// Waits for the last line of a start: `URI = …`, or `external URI = …` behind a NAT.
    pub fn wait_for_uri(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self
            .printed
            .iter()
            .any(|line| line.starts_with("URI = ") || line.starts_with("external URI = "))
        {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.printed.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("no URI yet: {:?}", self.printed),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait();
                    let log = self.stderr();
                    panic!("ended without a URI, {status:?}: {:?}\n{log}", self.printed);
                }
            }
        }
    }

    /// Whether it has printed that line. Does not wait.
    pub fn has_printed_uri(&mut self) -> bool {
        self.printed.extend(self.lines.try_iter());
        let is_uri = |line: &String| line.contains("URI = ");
        self.printed.iter().any(is_uri)
    }

    /// The address and port of the URI line, or the unix socket's path.
    pub fn location(&self) -> &str {
        self.printed
            .iter()
            .find_map(|line| {
                line.strip_prefix("internal URI = ")
                    .or_else(|| line.strip_prefix("URI = "))
            })
            .and_then(|uri| uri.strip_prefix("PYRO:Pyro.NameServer@"))
            .expect("a server that runs has printed its URI")
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        let (_, port) = self
            .location()
            .rsplit_once(':')
            .expect("a location has a port");
        port.parse().expect("a port is a number")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids fit");
        kill_process(Pid::from_raw(id).expect("not zero"), signal).expect("the child is ours");
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_some()
    }

    /// Waits for its end; returns the status, all lines and the log.
    pub fn wait(mut self) -> (ExitStatus, Vec<String>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "does not end: {:?}",
                self.printed
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.printed.push(line);
        }
        let log = self.stderr();
        (status, std::mem::take(&mut self.printed), log)
    }

    /// SIGTERM, and the end.
    pub fn stop(self) -> (ExitStatus, Vec<String>, String) {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// SIGKILL: nothing is written or closed by the process itself.
    pub fn kill(mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }

    /// What it has written to standard error until now.
    pub fn log_so_far(&self) -> String {
        self.log.lock().expect("nobody panics with it").clone()
    }

    /// What it has written to standard error until its end.
    fn stderr(&mut self) -> String {
        if let Some(reader) = self.stderr.take() {
            reader.join().expect("the reader does not panic");
        }
        self.log_so_far()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A figure of `/proc/ID/status`, such as `VmHWM:`, in KiB.
pub fn memory_kib(id: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
