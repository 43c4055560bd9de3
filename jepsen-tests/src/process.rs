//! One process under test: started, signalled, waited for, and ended with the run.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Result, RigError};
use crate::run::Run;

/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    run: Arc<Run>,
    printed: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Starts `command`. Standard output goes to `printed`, which is emptied; standard error is added to
    /// `log`.
    ///
    /// # Errors
    /// The system's.
    pub fn spawn(
        run: &Arc<Run>,
        name: &str,
        mut command: Command,
        printed: &Path,
        log: &Path,
    ) -> Result<Self> {
        let out = File::create(printed).map_err(RigError::system(printed.display().to_string()))?;
        let err = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(RigError::system(log.display().to_string()))?;
        // A group of its own: who interrupts a test at the terminal does not speak to the nodes.
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(RigError::system(format!("cannot start {command:?}")))?;
        let process = Self {
            name: name.to_owned(),
            child,
            run: Arc::clone(run),
            printed: printed.to_owned(),
            log: log.to_owned(),
        };
        run.note_process(process.id(), name)?;
        Ok(process)
    }

    /// Its id in the system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.printed).unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Sends a signal; does nothing once it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It can only fail for a process that has just ended.
            let _ = kill_process(id, signal);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL: nothing is written or closed by the process itself. Returns when it has gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub async fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if begin.elapsed() > patience {
                return Err(RigError::NotInTime {
                    what: format!("the end of {}", self.name),
                    waited: patience,
                    seen: self.log_tail(20),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a line of what it prints begins with `start`, and returns the rest of that line.
    ///
    /// # Errors
    /// When it ends before, or takes longer than `patience`.
    pub async fn wait_for_line(&mut self, start: &str, patience: Duration) -> Result<String> {
        let begin = Instant::now();
        loop {
            // A line counts when it is whole.
            let printed = self.printed();
            let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
            if let Some(rest) = whole.lines().find_map(|line| line.strip_prefix(start)) {
                return Ok(rest.to_owned());
            }
            if let Some(status) = self.ended() {
                return Err(self.ended_early(status));
            }
            if begin.elapsed() > patience {
                return Err(RigError::NotInTime {
                    what: format!("{}: a line {start:?}", self.name),
                    waited: patience,
                    seen: format!("{printed}\n{}", self.log_tail(20)),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn ended_early(&self, status: ExitStatus) -> RigError {
        RigError::Ended {
            name: self.name.clone(),
            status: status.to_string(),
            log: self.log.clone(),
            tail: self.log_tail(20),
        }
    }

    /// Memory of the process in bytes, from the system: now, and at most so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> Result<Memory> {
        Memory::of(self.id())
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.run.forget_process(self.child.id());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a process holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// The most since it started.
    pub resident_max: u64,
}

impl Memory {
    /// Of the process with this id.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(id: u32) -> Result<Self> {
        let path = format!("/proc/{id}/status");
        let text = fs::read_to_string(&path).map_err(RigError::system(path.as_str()))?;
        let bytes = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|kib| kib.parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024)
        };
        Ok(Self {
            resident: bytes("VmRSS:"),
            resident_max: bytes("VmHWM:"),
        })
    }
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
