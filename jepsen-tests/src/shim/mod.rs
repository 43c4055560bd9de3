//! Fault injection between a node and the operating system: two small C libraries that are loaded into the
//! node's process before the C library (`LD_PRELOAD`).
//!
//! `failing_disk.c` makes calls on the node's files fail. `clock.c` makes the node's clocks jump or run at
//! another rate. Both read their orders from a file in the node's directory of the run, so that orders survive
//! a restart of the node. Both pass every call through until they receive an order.

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
    /// Compiles the libraries into `folder`.
    ///
    /// # Errors
    /// The reason, as text: a source file cannot be written, there is no C compiler, or the compiler rejects
    /// the sources.
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

    /// Makes `command` load the libraries. Its data directory is `data`; its orders and the log of failed calls
    /// are in `folder`.
    pub fn put_under(&self, command: &mut Command, data: &Path, folder: &Path) {
        let libraries = SHIMS.map(|(name, _)| self.library(name).display().to_string());
        command
            .env("LD_PRELOAD", libraries.join(":"))
            .env("FAILING_DISK_FOLDER", data)
            .env("FAILING_DISK_ORDER", disk_order(folder))
            .env("FAILING_DISK_LOG", disk_log(folder))
            .env("FAULTY_CLOCK", clock_order(folder));
    }

    /// Returns true if both libraries are mapped into the process with this id.
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

/// The kinds of file calls of a node that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// `fsync` and related calls.
    Sync,
    /// `write` and related calls.
    Write,
}

/// Makes the next call of a kind fail as if the device had an I/O error (`EIO`).
///
/// # Errors
/// [`RigError`] if the order cannot be written.
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

/// Lets all calls pass again.
pub(crate) fn fail_no_more(folder: &Path) {
    // The file does not exist if no order was given.
    let _ = fs::remove_file(disk_order(folder));
}

/// Returns the calls that have failed so far, one line per call.
pub(crate) fn failed_calls(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(disk_log(folder)).unwrap_or_default();
    let failed = text.lines().filter(|line| line.starts_with("failed "));
    failed.map(str::to_owned).collect()
}

/// The state of one node's clocks, in the form in which `clock.c` reads it.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// Grows with each write of the file; odd while a write is in progress.
    version: u64,
    /// The rate of all clocks, in millionths of the real one.
    rate: i64,
    /// The system's `CLOCK_MONOTONIC` at which the rate began, in nanoseconds.
    anchor: i64,
    /// The lead of the node's clocks over the system's at that moment, in nanoseconds.
    ahead: i64,
    /// The additional shift of the wall clock, in nanoseconds.
    shift: i64,
}

/// The rate at which clocks run correctly.
pub const RIGHT_RATE: i64 = 1_000_000;

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
    /// Makes all clocks run at `rate` millionths of their real rate, and shifts the wall clock by `shift`
    /// nanoseconds. Only the wall clock ever jumps.
    ///
    /// # Errors
    /// [`RigError`] if the order cannot be written.
    pub fn set(&mut self, folder: &Path, rate: i64, shift: i64) -> Result<()> {
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec * 1_000_000_000 + now.tv_nsec;
        let passed = i128::from(now - self.anchor);
        let gained = passed * i128::from(self.rate - RIGHT_RATE) / i128::from(RIGHT_RATE);
        // This fits: nanoseconds in an `i64` span centuries.
        self.ahead += i64::try_from(gained).unwrap_or(0);
        self.anchor = now;
        self.rate = rate;
        self.shift = shift;
        self.write(folder)
    }

    /// Writes the current state for a process that is about to start.
    ///
    /// # Errors
    /// [`RigError`] if the order cannot be written.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::RangeInclusive;
    use std::time::{Duration, Instant, SystemTime};

    /// Returns the wall clock in nanoseconds as a program under the shims sees it, and the instants between
    /// which it was read.
    fn seen(shims: &Shims, folder: &Path) -> (i128, RangeInclusive<Instant>) {
        let mut command = Command::new("date");
        shims.put_under(&mut command, folder, folder);
        let before = Instant::now();
        let printed = command.arg("+%s%N").output().unwrap();
        let text = String::from_utf8(printed.stdout).unwrap();
        (text.trim().parse().unwrap(), before..=Instant::now())
    }

    #[test]
    fn clocks_run_as_they_are_told_and_only_the_wall_clock_jumps() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let shims = match Shims::compile(folder) {
            Ok(shims) => shims,
            // A compiler that rejects the sources is a bug in the sources and no reason to skip.
            Err(reason) if reason.contains("cannot run") => return hearth_skipped::skipped(reason),
            Err(reason) => panic!("{reason}"),
        };
        let now = || {
            let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
            i128::try_from(since.as_nanos()).unwrap()
        };
        let hour = 3_600_000_000_000;
        let mut clocks = Clocks::default();
        clocks.write(folder).unwrap();
        let (told, _) = seen(&shims, folder);
        assert!((now() - told).abs() < i128::from(hour) / 2, "{told}");

        clocks.set(folder, RIGHT_RATE, -hour).unwrap();
        let (told, _) = seen(&shims, folder);
        let off = now() - told;
        assert!(
            (off - i128::from(hour)).abs() < i128::from(hour) / 2,
            "{off}"
        );

        // The clocks run three times as fast. The measured interval is uncertain by the run time of the
        // program.
        clocks.set(folder, 3 * RIGHT_RATE, -hour).unwrap();
        let (first, at_first) = seen(&shims, folder);
        std::thread::sleep(Duration::from_millis(100));
        let (second, at_second) = seen(&shims, folder);
        let least = at_second.start().duration_since(*at_first.end());
        let most = at_second.end().duration_since(*at_first.start());
        let passed = second - first;
        let in_nanos = |span: Duration| 3 * i128::try_from(span.as_nanos()).unwrap();
        assert!(
            (in_nanos(least)..=in_nanos(most)).contains(&passed),
            "{passed} in {least:?} to {most:?}"
        );
        // The clock is ahead now and stays ahead: only the shift is taken back.
        clocks.set(folder, RIGHT_RATE, -hour).unwrap();
        let (third, _) = seen(&shims, folder);
        assert!(third > second);
        assert!(third + i128::from(hour) > now() + in_nanos(least) / 3);
    }

    #[test]
    fn waits_are_as_long_as_the_clocks_say() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let Ok(shims) = Shims::compile(folder) else {
            return hearth_skipped::skipped("there is no C compiler");
        };
        let mut clocks = Clocks::default();
        // At a tenth of the rate a wait of 30 ms takes 300 ms of real time, or the shim does not cover the
        // call.
        clocks.set(folder, RIGHT_RATE / 10, 0).unwrap();
        let waits = [
            "time.sleep(0.03)",
            "select.epoll().poll(0.03)",
            "select.poll().poll(30)",
        ];
        for wait in waits {
            let mut command = Command::new("python3");
            shims.put_under(&mut command, folder, folder);
            let program = format!(
                "import select, time\nbegin = time.monotonic()\n{wait}\n\
                 print(time.monotonic() - begin)"
            );
            let begin = Instant::now();
            let output = match command.args(["-c", &program]).output() {
                Ok(output) => output,
                Err(error) => return hearth_skipped::skipped(format_args!("python3: {error}")),
            };
            let took = begin.elapsed();
            let text = String::from_utf8(output.stdout).unwrap();
            let own: f64 = text.trim().parse().unwrap();
            assert!(own >= 0.029, "{wait}: {own}");
            assert!(took >= Duration::from_millis(290), "{wait}: {took:?}");
        }
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_none_of_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let Ok(shims) = Shims::compile(folder) else {
            return hearth_skipped::skipped("there is no C compiler");
        };
        let mut clocks = Clocks::default();
        clocks.set(folder, RIGHT_RATE, 3_600_000_000_000).unwrap();
        let monotonic = || {
            let now = clock_gettime(ClockId::Monotonic);
            now.tv_sec * 1_000_000_000 + now.tv_nsec
        };
        let mut command = Command::new("python3");
        shims.put_under(&mut command, folder, folder);
        let before = monotonic();
        let program = "import time; print(time.monotonic_ns())";
        let output = match command.args(["-c", program]).output() {
            Ok(output) => output,
            Err(error) => return hearth_skipped::skipped(format_args!("python3: {error}")),
        };
        let told = String::from_utf8(output.stdout).unwrap();
        let told: i64 = told.trim().parse().unwrap();
        assert!((before..=monotonic()).contains(&told), "{told}");
    }
}
