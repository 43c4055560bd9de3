//! One node: its addresses, its folder, and its process while it has one.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_cli::Address;
use rand::rngs::SmallRng;
use rustix::process::Signal;

use crate::disk::{self, Lost, SYNC_RECORD, SyncedLog};
use crate::error::{Result, RigError};
use crate::net::Net;
use crate::process::{Memory, Process};
use crate::run::Run;
use crate::shim::{self, Calls, Clocks, Shims};
use crate::volume::Volume;

/// Options of `hearthd` that every node of a run gets, for experiments: with `--reads stale` the tests of
/// look-ups must fail.
pub const NODE_OPTIONS: &str = "HEARTH_NODE_OPTIONS";

/// Where a node keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// In a RocksDB folder.
    Disk,
    /// In memory: a restart is a new node.
    Memory,
}

/// How nodes are started, apart from who they are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of the programs.
    pub programs: PathBuf,
    /// The `hearthd` under test, if it is not the one of that folder.
    pub hearthd: Option<PathBuf>,
    /// Where data is kept.
    pub storage: Storage,
    /// Options of `hearthd` besides those that say who the node is.
    pub options: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// Whether it answers broadcasts.
    pub broadcast: bool,
    /// Whether it notes what is durable, for [`Node::lose_unsynced`].
    pub notes_syncs: bool,
    /// What stands between it and the system; the reason where that cannot be had.
    pub shims: Option<std::result::Result<Shims, String>>,
    /// The size of a file system that it has for itself, in bytes; without it, it shares the machine's.
    pub volume_len: Option<u64>,
}

impl Settings {
    /// Data on disk, and the programs of this build.
    ///
    /// # Errors
    /// When the programs cannot be built.
    pub fn new() -> Result<Self> {
        let mut options = vec!["--log-level".to_owned(), "info,openraft=warn".to_owned()];
        let more = std::env::var(NODE_OPTIONS).unwrap_or_default();
        options.extend(more.split_whitespace().map(str::to_owned));
        Ok(Self {
            programs: crate::programs::folder()?.to_owned(),
            hearthd: None,
            storage: Storage::Disk,
            options,
            environment: Vec::new(),
            broadcast: false,
            notes_syncs: false,
            shims: None,
            volume_len: None,
        })
    }

    /// The program that nodes run.
    pub fn program(&self) -> PathBuf {
        let of_folder = || self.programs.join("hearthd");
        self.hearthd.clone().unwrap_or_else(of_folder)
    }

    /// Adds an option with its value.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.extend([name.to_owned(), value.to_owned()]);
        self
    }
}

/// The key of every cluster of the rig: its nodes are on addresses that others can reach.
pub(crate) const CLUSTER_KEY: &[u8] = b"the key of the clusters under test";

/// A node. It keeps its place and its folder over restarts.
#[derive(Debug)]
pub struct Node {
    run: Arc<Run>,
    net: Option<Arc<Net>>,
    number: u64,
    host: String,
    port: u16,
    folder: PathBuf,
    /// How it is started; may be changed between two starts.
    pub settings: Settings,
    /// Options that say who it is and how it comes to its cluster.
    birth: Vec<String>,
    process: Option<Process>,
    started: Instant,
    volume: Option<Volume>,
    clocks: Clocks,
}

/// Ports on addresses of the loopback network that the run has for itself. They lie below those that
/// the system gives to connections, so a restarted node finds its own free.
const LOOPBACK_PORT: u16 = 19_090;

impl Node {
    /// A node at place `number` of a run, not started yet.
    ///
    /// # Errors
    /// The system's.
    pub fn new(
        run: &Arc<Run>,
        net: Option<&Arc<Net>>,
        number: u64,
        settings: Settings,
        birth: Vec<String>,
    ) -> Result<Self> {
        let folder = run.folder().join(format!("node-{number}"));
        fs::create_dir_all(&folder).map_err(RigError::system(folder.display().to_string()))?;
        write_key(&key_file(run))?;
        let (host, port) = place(run, net.map(Arc::as_ref), number);
        let volume = match settings.volume_len {
            Some(len) => Some(Volume::at(run, &folder, len)?),
            None => None,
        };
        Ok(Self {
            run: Arc::clone(run),
            net: net.cloned(),
            number,
            host,
            port,
            folder,
            settings,
            birth,
            process: None,
            started: Instant::now(),
            volume,
            clocks: Clocks::default(),
        })
    }

    /// Its place in the run: the last byte of its address, and its id where it was given that.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where clients reach it.
    pub fn address(&self) -> Address {
        Address::tcp(self.host.clone(), self.port)
    }

    /// Where the other nodes reach it.
    pub fn peer_addr(&self) -> String {
        format!("{}:{}", self.host, self.port + 2)
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        let of_volume = self.volume.as_ref().map(Volume::path);
        of_volume.unwrap_or(&self.folder).join("data")
    }

    /// The file system that it has for itself, if it has one.
    pub fn volume(&self) -> Option<&Volume> {
        self.volume.as_ref()
    }

    /// Its log, of all its lives.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Its process, if it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Changes how it comes to its cluster, for the next start.
    pub fn set_birth(&mut self, birth: Vec<String>) {
        self.birth = birth;
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// The system's.
    pub fn start(&mut self) -> Result<()> {
        // The earlier one must be gone before its successor opens the folder.
        self.process = None;
        if matches!(self.settings.shims, Some(Ok(_))) {
            shim::fail_no_more(&self.folder);
            self.clocks.write(&self.folder)?;
        }
        let command = self.command();
        self.started = Instant::now();
        self.process = Some(Process::spawn(
            &self.run,
            &format!("node {}", self.number),
            command,
            &self.folder.join("printed"),
            &self.log(),
        )?);
        Ok(())
    }

    /// Waits until it says that it answers; returns how long that took since it was started.
    ///
    /// # Errors
    /// When it ended, or took longer than `patience`.
    pub async fn wait_until_it_serves(&mut self, patience: Duration) -> Result<Duration> {
        let started = self.started;
        let process = self.running()?;
        process.wait_for_line("URI = ", patience).await?;
        Ok(started.elapsed())
    }

    /// SIGKILL; returns when it has gone.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGKILL, without waiting for the end; [`Self::kill`] is still to be called.
    pub fn signal_kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::KILL);
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub async fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        let process = self.running()?;
        process.signal(Signal::TERM);
        let status = process.wait(patience).await?;
        self.process = None;
        Ok(status)
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub async fn wait_for_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let status = self.running()?.wait(patience).await?;
        self.process = None;
        Ok(status)
    }

    /// SIGSTOP: it does nothing, and its sockets stay open.
    pub fn pause(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::STOP);
        }
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        if let Some(process) = &mut self.process {
            process.signal(Signal::CONT);
        }
    }

    /// Why nothing stands between it and the system, if so.
    pub fn why_no_shims(&mut self) -> Option<String> {
        let shims = match &self.settings.shims {
            Some(Ok(shims)) => shims.clone(),
            Some(Err(reason)) => return Some(reason.clone()),
            None => return Some("this run has no shims under its nodes".into()),
        };
        let Some(process) = &self.process else {
            return Some(format!("node {} does not run", self.number));
        };
        (!shims.are_in(process.id()))
            .then(|| format!("the shims are not in the process of node {}", self.number))
    }

    /// Lets the next call of a kind on its files fail with EIO, until [`Self::start`].
    ///
    /// # Errors
    /// The system's.
    pub fn fail_once(&self, calls: Calls) -> Result<()> {
        shim::fail_once(&self.folder, calls)
    }

    /// Lets all calls through again.
    pub fn fail_no_more(&self) {
        shim::fail_no_more(&self.folder);
    }

    /// Its calls that failed so far, a line each.
    pub fn failed_calls(&self) -> Vec<String> {
        shim::failed_calls(&self.folder)
    }

    /// Has its clocks run at so many millionths of their pace, and its wall clock be so many nanoseconds off
    /// besides; over restarts, too.
    ///
    /// # Errors
    /// The system's.
    pub fn set_clocks(&mut self, rate: i64, shift: i64) -> Result<()> {
        self.clocks.set(&self.folder, rate, shift)
    }

    /// Whether its process exists.
    pub fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// What its process holds.
    ///
    /// # Errors
    /// When it does not run.
    pub fn memory(&mut self) -> Result<Memory> {
        self.running()?.memory()
    }

    /// Takes away what no sync has covered; it must have been killed.
    ///
    /// # Errors
    /// See [`disk::cut_to_last_sync`].
    pub fn lose_unsynced(&mut self) -> Result<Lost> {
        disk::cut_to_last_sync(&self.data(), &self.sync_record())
    }

    /// Takes away some pages of what no sync has covered; it must have been killed.
    ///
    /// # Errors
    /// See [`disk::lose_pages`].
    pub fn lose_pages(&mut self, random: &mut SmallRng) -> Result<Lost> {
        disk::lose_pages(&self.data(), &self.sync_record(), random)
    }

    /// The log that it wrote last, and how much of that is durable; it must not run.
    ///
    /// # Errors
    /// See [`SyncedLog::newest`].
    pub fn synced_log(&self) -> Result<Option<SyncedLog>> {
        SyncedLog::newest(&self.data(), &self.sync_record())
    }

    /// Deletes its data; it must not run.
    ///
    /// # Errors
    /// The system's.
    pub fn wipe(&mut self) -> Result<()> {
        // What it tells of is gone. There is none where syncs are not noted.
        let _ = fs::remove_file(self.sync_record());
        let data = self.data();
        fs::remove_dir_all(&data).map_err(RigError::system(data.display().to_string()))
    }

    /// A command that runs `program` where this node lives.
    pub fn command_beside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.net {
            Some(net) => net.command(self.number, program),
            None => Command::new(program),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        crate::process::tail(&self.log(), lines)
    }

    /// Bytes of its log by now, for [`Self::log_since`].
    pub fn log_len(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |metadata| metadata.len())
    }

    /// What its log says from that byte on.
    pub fn log_since(&self, len: u64) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        String::from_utf8_lossy(log.get(len..).unwrap_or_default()).into_owned()
    }

    fn running(&mut self) -> Result<&mut Process> {
        let number = self.number;
        let log = self.log();
        self.process.as_mut().ok_or_else(|| RigError::Ended {
            name: format!("node {number}"),
            status: "not started".into(),
            tail: String::new(),
            log,
        })
    }

    fn sync_record(&self) -> PathBuf {
        self.folder.join("syncs")
    }

    fn command(&self) -> Command {
        let mut command = self.command_beside(self.settings.program());
        clear_environment(&mut command);
        command
            .args(["-n", &self.host, "-p", &self.port.to_string()])
            .args(&self.settings.options)
            .args(&self.birth);
        let is_one_of_several = |word: &String| word == "--initial-cluster" || word == "--join";
        if self.birth.iter().any(is_one_of_several) {
            command.arg("--cluster-key-file").arg(key_file(&self.run));
        }
        match self.settings.storage {
            Storage::Disk => command
                .arg("-s")
                .arg(format!("rocksdb:{}", self.data().display())),
            Storage::Memory => command.args(["-s", "memory"]),
        };
        if !self.settings.broadcast {
            command.arg("-x");
        }
        command.envs(self.settings.environment.iter().cloned());
        if self.settings.notes_syncs {
            command.env(SYNC_RECORD, self.sync_record());
        }
        if let Some(Ok(shims)) = &self.settings.shims {
            shims.put_under(&mut command, &self.data(), &self.folder);
        }
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- last lines of the log of node {} ({})\n{}",
                self.number,
                self.run.name(),
                self.log_tail(25)
            );
        }
    }
}

/// Host and port of place `number`. The peer port is two further.
pub(crate) fn place(run: &Run, net: Option<&Net>, number: u64) -> (String, u16) {
    match net {
        Some(net) => (net.address(number).to_string(), 9_090),
        None => (format!("127.80.{}.{number}", run.number()), LOOPBACK_PORT),
    }
}

/// Peer address of place `number`.
pub(crate) fn peer_addr(run: &Run, net: Option<&Net>, number: u64) -> String {
    let (host, port) = place(run, net, number);
    format!("{host}:{}", port + 2)
}

/// Where the key of a run's cluster is.
pub(crate) fn key_file(run: &Run) -> PathBuf {
    run.folder().join("cluster.key")
}

fn write_key(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(CLUSTER_KEY));
    written.map_err(RigError::system(path.display().to_string()))
}

/// Takes out what would speak to `hearthd` or a Pyro program from the environment of the test.
pub fn clear_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["PYRO_", "HEARTH_", "NSCTL_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
}

/// Whether a folder holds anything.
pub fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
