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

    /// Puts them under a program that keeps its data in `data`, and what it is told in `folder`.
    pub fn put_under(&self, command: &mut Command, data: &Path, folder: &Path) {
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
pub struct Clocks {
    version: u64,
    /// In millionths.
    rate: i64,
    anchor: i64,
    ahead: i64,
    shift: i64,
}

/// A rate at which clocks run right.
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
    /// Has all clocks run at so many millionths of their pace, and the wall clock be so many nanoseconds off
    /// besides. None but the wall clock ever jumps.
    ///
    /// # Errors
    /// The system's.
    pub fn set(&mut self, folder: &Path, rate: i64, shift: i64) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::RangeInclusive;
    use std::time::{Duration, Instant, SystemTime};

    /// Wall clock as a program under the shims sees it, in nanoseconds, and when it was asked.
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
            // A compiler that does not like our source is a mistake of ours, and no reason to skip.
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

        // Three times as fast; what is measured may be off by how long the program took.
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
        // It is ahead now, and stays so: nothing but the shift is taken back.
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
        // A tenth as fast: a wait of 30 ms takes 300 of the system's, or it is not seen here.
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
