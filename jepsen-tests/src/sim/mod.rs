//! Simulation: whole clusters of the real replication code in one thread, from one seed.
//!
//! A seed gives a cluster of three to five nodes, their clients, and what goes wrong. Everything but the
//! replication code itself is simulated: the network and the clocks by turmoil, the disks by [`disk`].
//! In the end all faults are taken away; then every node must work within a time, all states must be equal,
//! and the checkers of the rig judge what the clients saw.
//!
//! Every random choice, also those deep in tokio, openraft and the hash maps of the standard library, comes
//! from the seed: [`hearth_seeded`] takes the place of the system's randomness. That holds for a process as a
//! whole, so each seed gets a process of its own ([`Simulator`]). A seed gives the same trace each time, which
//! [`Report::trace`] shows, on one build: what the code does is a part of what is random.

pub mod disk;

mod clients;
mod faults;
mod network;
mod node;
mod record;
mod report;
mod scene;
mod trace;

use std::backtrace::Backtrace;
use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use report::{Counts, Report, Summary};
pub use trace::FILE as TRACE_FILE;

/// The environment variable by which a process knows that it is to run one seed, and which.
pub const SEED: &str = "HEARTH_SIM_SEED";

/// What the line with the report begins with.
const REPORT: &str = "report: ";

/// How long one seed may take before it counts as stuck.
const SEED_DURATION_MAX: Duration = Duration::from_secs(300);

/// Bytes of stack for a simulation.
const STACK_LEN: usize = 32 << 20;

/// If this process was started by a [`Simulator`], runs the seed and says what came of it. To be called first
/// of all in `main`.
pub fn run_if_told() -> Option<ExitCode> {
    let seed = std::env::var(SEED).ok()?.parse().ok()?;
    let report = simulate(seed);
    match serde_json::to_string(&report) {
        Ok(line) => println!("{REPORT}{line}"),
        Err(error) => eprintln!("the report cannot be written: {error}"),
    }
    Some(ExitCode::SUCCESS)
}

/// Runs a seed in this process, whose randomness is that of the seed from then on. Only the first time in a
/// process, and where nothing random was done before, it is the same as elsewhere.
fn simulate(seed: u64) -> Report {
    let panics: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |info| {
        let mut panics = kept.lock().unwrap_or_else(PoisonError::into_inner);
        panics.push(format!("{info}{}", whence()));
    }));
    hearth_seeded::seed(seed);
    // A thread of its own has no keys and generators from before.
    let played = thread::Builder::new()
        .name("simulation".to_owned())
        .stack_size(STACK_LEN)
        .spawn(move || scene::play(seed))
        .map(thread::JoinHandle::join);
    drop(std::panic::take_hook());
    let mut report = match played {
        Ok(Ok(report)) => report,
        Ok(Err(_)) => Report::broken(seed, "the simulation panicked".to_owned()),
        Err(error) => Report::broken(seed, format!("no thread for it: {error}")),
    };
    let panics = panics.lock().unwrap_or_else(PoisonError::into_inner);
    let texts = panics.iter().map(|text| format!("panic: {text}"));
    report.problems.extend(texts);
    report
}

/// The seeds in `A..B`, or the one in `A`.
///
/// # Errors
/// What is wrong with the text.
pub fn seeds(text: &str) -> Result<Range<u64>, String> {
    let parse = |text: &str| {
        let number = text.trim().parse::<u64>();
        number.map_err(|error| format!("{text:?} is no seed, such as 17: {error}"))
    };
    let range = match text.split_once("..") {
        Some((first, end)) => parse(first)?..parse(end)?,
        None => {
            let seed = parse(text)?;
            seed..seed.saturating_add(1)
        }
    };
    if range.is_empty() {
        return Err(format!(
            "{text:?} has no seeds; 0..200 has the 200 from 0 on"
        ));
    }
    Ok(range)
}

/// The functions of the replication code and of openraft that are under way.
fn whence() -> String {
    let text = Backtrace::force_capture().to_string();
    let ours = [
        "hearth_raft",
        "openraft",
        "hearth_storage",
        "hearth_jepsen_tests",
    ];
    let named = text
        .lines()
        .filter(|line| ours.iter().any(|name| line.contains(name)))
        .filter(|line| line.contains("::") && !line.contains("sim::simulate"));
    let lines = named.take(12).map(|line| format!("\n    {}", line.trim()));
    lines.collect()
}

/// Runs seeds, each in a process of its own.
#[derive(Debug, Clone)]
pub struct Simulator {
    program: PathBuf,
    variables: Vec<(String, String)>,
}

impl Simulator {
    /// `program` must call [`run_if_told`] first of all: the program `hearth-jepsen-tests` does.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            variables: Vec::new(),
        }
    }

    /// The same with an environment variable for the simulation, such as `HEARTH_DEFECT`.
    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.variables.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Runs one seed.
    pub fn run(&self, seed: u64) -> Report {
        let run = self.try_run(seed);
        run.unwrap_or_else(|problem| Report::broken(seed, problem))
    }

    fn try_run(&self, seed: u64) -> Result<Report, String> {
        let mut child = Command::new(&self.program)
            .env(SEED, seed.to_string())
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", self.program.display()))?;
        let Some(mut stdout) = child.stdout.take() else {
            return Err("it has no output".to_owned());
        };
        let reading = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).map(|_| text)
        });
        let end = Instant::now() + SEED_DURATION_MAX;
        while !reading.is_finished() {
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it was not done within {SEED_DURATION_MAX:?}"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        let text = match reading.join() {
            Ok(Ok(text)) => text,
            _ => return Err("its output cannot be read".to_owned()),
        };
        let line = text.lines().find_map(|line| line.strip_prefix(REPORT));
        let line = line.ok_or_else(|| format!("it ended without a report: {status}"))?;
        serde_json::from_str(line).map_err(|error| format!("its report is unreadable: {error}"))
    }

    /// Runs many seeds, as many at once as there are processors, and passes each report on as it comes. Ends
    /// early when `see` returns false.
    pub fn run_all(&self, seeds: Range<u64>, see: impl FnMut(Report) -> bool + Send) {
        let next = AtomicU64::new(seeds.start);
        let see = Mutex::new((see, true));
        let workers = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        let go_on = see.lock().unwrap_or_else(PoisonError::into_inner).1;
                        if seed >= seeds.end || !go_on {
                            return;
                        }
                        let report = self.run(seed);
                        let mut see = see.lock().unwrap_or_else(PoisonError::into_inner);
                        see.1 &= see.0(report);
                    }
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_or_one() {
        assert_eq!(seeds("3..7"), Ok(3..7));
        assert_eq!(seeds("3"), Ok(3..4));
        for text in ["", "7..3", "3..3", "a", "1..b", "-1"] {
            assert!(seeds(text).is_err(), "{text}");
        }
    }
}
