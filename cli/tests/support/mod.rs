//! The common parts of the tests of the command line and the client library: the real Pyro
//! programs, and a scripted server.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

pub mod fake;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The longest time that a real server may take to start, on a machine that compiles at the same
/// time.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// A Python interpreter with Pyro4 and Pyro5.
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// Returns the interpreter that `HEARTH_TEST_PYTHON` names, as `make test` does, or the one
    /// that `scripts/setup.sh` made. If there is none, the test is reported as skipped.
    pub fn find() -> Option<Self> {
        if let Some(interpreter) = env::var_os("HEARTH_TEST_PYTHON") {
            let python = Self {
                interpreter: interpreter.into(),
            };
            assert!(
                python.has_pyro(),
                "HEARTH_TEST_PYTHON={} cannot import Pyro4 and Pyro5",
                python.interpreter.display()
            );
            return Some(python);
        }
        let cache = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| {
                let home = env::var_os("HOME")?;
                Some(Path::new(&home).join(".cache"))
            })?;
        let venv = env::var_os("HEARTH_VENV").map_or(cache.join("hearth/venv"), PathBuf::from);
        let python = Self {
            interpreter: venv.join("bin/python"),
        };
        if python.has_pyro() {
            return Some(python);
        }
        hearth_skipped::skipped("HEARTH_TEST_PYTHON names no Python with Pyro4 and Pyro5");
        None
    }

    fn has_pyro(&self) -> bool {
        let mut check = clean(Command::new(&self.interpreter));
        check
            .args(["-c", "import Pyro4, Pyro5"])
            .stderr(Stdio::null());
        check.status().is_ok_and(|status| status.success())
    }

    /// Runs a piece of Python code and returns its output.
    pub fn evaluate(&self, code: &str) -> String {
        let mut command = clean(Command::new(&self.interpreter));
        let output = command.args(["-c", code]).output().expect("python starts");
        String::from_utf8(output.stdout).expect("python prints UTF-8")
    }

    /// Returns the path of one of the programs that Pyro installs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.interpreter.with_file_name(name)
    }
}

/// A real name server on a free port of 127.0.0.1 or on a unix socket. It stops when it is dropped.
pub struct RealServer {
    child: Child,
    /// The URI that it prints.
    pub uri: String,
}

impl RealServer {
    /// Starts `pyro4-ns` or `pyro5-ns`.
    pub fn start(python: &Python, program: &str) -> Self {
        Self::start_with(python, program, &["-n", "127.0.0.1", "-p", "0"], &[])
    }

    /// Starts `pyro4-ns` or `pyro5-ns` with these arguments and environment variables.
    pub fn start_with(
        python: &Python,
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let command = Command::new(python.program(program));
        Self::spawn(command, arguments, variables)
    }

    /// Starts a script in `cli/tests/support` that prints `URI = ` as the real servers do.
    pub fn start_script(python: &Python, script: &str, arguments: &[&str]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support");
        let mut command = Command::new(&python.interpreter);
        command.arg(folder.join(script));
        Self::spawn(command, arguments, &[])
    }

    fn spawn(command: Command, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = clean(command)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the real server starts");
        let stdout = child.stdout.take().expect("standard output is piped");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(uri) = line.strip_prefix("URI = ") {
                    // The test may have ended already.
                    let _ = sender.send(uri.to_owned());
                }
            }
        });
        let uri = receiver
            .recv_timeout(START_TIME_MAX)
            .expect("the real server prints its URI");
        Self { child, uri }
    }

    pub fn port(&self) -> String {
        let (_, port) = self.uri.rsplit_once(':').expect("a port in the URI");
        port.to_owned()
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The result of a finished program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program. Of all `PYRO_` and `NSCTL_` variables it has only those in `variables`.
pub fn run(
    program: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
    input: &str,
) -> Finished {
    let mut child = clean(Command::new(program))
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    // A program that asks nothing may end before the input is written.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Path of the `nsctl` program.
pub fn nsctl() -> PathBuf {
    assert_cmd::cargo::cargo_bin("nsctl")
}

/// Returns a port of 127.0.0.1 on which no program listens at this moment.
pub fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("PYRO_") || name.starts_with("NSCTL_") {
            command.env_remove(name);
        }
    }
    command
        .env("PYTHONUNBUFFERED", "1")
        .env("PYTHONIOENCODING", "utf-8")
        .env("COLUMNS", "80");
    command
}
