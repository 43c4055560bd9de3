//! What stands between a node and the system, and does harm when it is told to: two small libraries in C that
//! are loaded into the node's process before the C library (`LD_PRELOAD`).
//!
//! `failing_disk.c` lets calls on the node's files fail, `clock.c` has its clocks jump or run at another pace.
//! Both read what to do from a file in the node's folder, so a node may be restarted meanwhile, and both
//! pass everything through until they are told otherwise.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::time::{ClockId, clock_gettime};

use crate::error::{Result, RigError};

/// The two libraries, compiled for one run.
#[derive(Debug, Clone)]
pub struct Shims {
    folder: PathBuf,
}

const SHIMS: [(&str, &str); 2] = [
    ("failing_disk", include_str!("failing_disk.c")),
    ("clock", include_str!("clock.c")),
];

impl Shims {
    /// Compiles them into a folder.
    ///
    /// # Errors
    /// Why they cannot be had here: there is no C compiler, or it does not like them.
    pub fn compile(folder: &Path) -> std::result::Result<Self, String> {
        for (name, source) in SHIMS {
            let text = folder.join(format!("{name}.c"));
            fs::write(&text, source).map_err(|error| format!("{}: {error}", text.display()))?;
            let mut compiler = Command::new("cc");
            compiler
                .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
                .arg(folder.join(format!("{name}.so")))
                .arg(&text)
                .arg("-ldl");
            crate::programs::run(&mut compiler)
                .map_err(|error| format!("the shims need a C compiler: {error}"))?;
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Puts them under a node that keeps its data in `data`, and what it is told in `folder`.
    pub(crate) fn put_under(&self, command: &mut Command, data: &Path, folder: &Path) {
        let libraries = SHIMS.map(|(name, _)| self.library(name).display().to_string());
        command
            .env("LD_PRELOAD", libraries.join(":"))
            .env("FAILING_DISK_FOLDER", data)
            .env("FAILING_DISK_ORDER", disk_order(folder))
            .env("FAILING_DISK_LOG", disk_log(folder))
            .env("FAULTY_CLOCK", clock_order(folder));
    }

    /// Whether they are in a process.
    pub(crate) fn are_in(&self, process: u32) -> bool {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
        SHIMS
            .iter()
            .all(|(name, _)| maps.contains(&self.library(name).display().to_string()))
    }

    fn library(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.so"))
    }
}

fn disk_order(folder: &Path) -> PathBuf {
    folder.join("disk-order")
}

fn disk_log(folder: &Path) -> PathBuf {
    folder.join("disk-failures")
}

fn clock_order(folder: &Path) -> PathBuf {
    folder.join("clock")
}

/// Calls of a node on its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// fsync and its kind.
    Sync,
    /// write and its kind.
    Write,
}

/// Lets the next call of a kind fail as if the device had an error (EIO).
///
/// # Errors
/// The system's.
pub(crate) fn fail_once(folder: &Path, calls: Calls) -> Result<()> {
    let kind = match calls {
        Calls::Sync => "sync",
        Calls::Write => "write",
    };
    let draft = folder.join("disk-order-draft");
    let what = || RigError::system(draft.display().to_string());
    let errno = rustix::io::Errno::IO.raw_os_error();
    fs::write(&draft, format!("{kind} {errno} 1\n")).map_err(what())?;
    fs::rename(&draft, disk_order(folder)).map_err(what())
}

/// Lets all calls through again.
pub(crate) fn fail_no_more(folder: &Path) {
    // There is none when nothing was to fail.
    let _ = fs::remove_file(disk_order(folder));
}

/// Calls that failed so far, a line each.
pub(crate) fn failed_calls(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(disk_log(folder)).unwrap_or_default();
    let failed = text.lines().filter(|line| line.starts_with("failed "));
    failed.map(str::to_owned).collect()
}

/// The clocks of one node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    version: u64,
    /// In millionths.
    rate: i64,
    anchor: i64,
    ahead: i64,
    shift: i64,
}

/// A rate at which clocks run right.
pub(crate) const RIGHT_RATE: i64 = 1_000_000;

impl Default for Clocks {
    fn default() -> Self {
        Self {
            version: 0,
            rate: RIGHT_RATE,
            anchor: 0,
            ahead: 0,
            shift: 0,
        }
    }
}

impl Clocks {
    /// Has all clocks run at so many millionths of their pace, and the wall clock be so many nanoseconds off
    /// besides. None but the wall clock ever jumps.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn set(&mut self, folder: &Path, rate: i64, shift: i64) -> Result<()> {
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec * 1_000_000_000 + now.tv_nsec;
        let passed = i128::from(now - self.anchor);
        let gained = passed * i128::from(self.rate - RIGHT_RATE) / i128::from(RIGHT_RATE);
        // Fits: centuries of nanoseconds do.
        self.ahead += i64::try_from(gained).unwrap_or(0);
        self.anchor = now;
        self.rate = rate;
        self.shift = shift;
        self.write(folder)
    }

    /// Writes them as they are, for a process that is to start.
    pub(crate) fn write(&mut self, folder: &Path) -> Result<()> {
        let path = clock_order(folder);
        let written = || {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)?;
            let values = [self.rate, self.anchor, self.ahead, self.shift];
            let values: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect();
            file.write_all_at(&(self.version + 1).to_ne_bytes(), 0)?;
            file.write_all_at(&values, 8)?;
            file.write_all_at(&(self.version + 2).to_ne_bytes(), 0)
        };
        written().map_err(RigError::system(path.display().to_string()))?;
        self.version += 2;
        Ok(())
    }
}
