//! Deterministic simulation: a whole cluster of the real replication code in one thread, driven by one seed.
//!
//! A seed determines a cluster of three to five nodes, their clients, and the faults. Everything but the
//! replication code is simulated: turmoil simulates the network and the clocks, [`disk`] the disks. At the end
//! all faults are healed. Then every node must work within a time limit, all states must be equal, and the
//! checkers of the rig judge the history that the clients recorded.
//!
//! Every random choice comes from the seed, including those inside tokio, openraft and the hash maps of the
//! standard library: [`hearth_seeded`] replaces the system's randomness. It does so for a whole process, so
//! each seed runs in a process of its own ([`Simulator`]). On one build a seed gives the same trace each time,
//! as [`Report::trace`] shows. Another build may give another trace, because the code takes part in the random
//! choices.

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

/// The environment variable that tells a process to run one seed. Its value is the seed.
pub const SEED: &str = "HEARTH_SIM_SEED";

/// Prefix of the output line that holds the report.
const REPORT: &str = "report: ";

/// The longest time that one seed may take before it counts as stuck.
const SEED_DURATION_MAX: Duration = Duration::from_secs(300);

/// Stack size of the simulation thread, in bytes.
const STACK_LEN: usize = 32 << 20;

/// Runs the seed and prints its report if a [`Simulator`] started this process; returns `None` otherwise.
/// `main` must call it before anything else.
pub fn run_if_told() -> Option<ExitCode> {
    let seed = std::env::var(SEED).ok()?.parse().ok()?;
    let report = simulate(seed);
    match serde_json::to_string(&report) {
        Ok(line) => println!("{REPORT}{line}"),
        Err(error) => eprintln!("the report cannot be written: {error}"),
    }
    Some(ExitCode::SUCCESS)
}

/// Runs a seed in this process, which draws all randomness from the seed from then on. The result is
/// reproducible only for the first seed of a process, and only if nothing random happened before.
fn simulate(seed: u64) -> Report {
    let panics: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&panics);
    std::panic::set_hook(Box::new(move |info| {
        let mut panics = kept.lock().unwrap_or_else(PoisonError::into_inner);
        panics.push(format!("{info}{}", whence()));
    }));
    hearth_seeded::seed(seed);
    // A new thread has no hash keys and random generators from before.
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

/// Parses a range of seeds, `A..B`, or a single seed, `A`.
///
/// # Errors
/// A description of the mistake if the text is neither, or if the range is empty.
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

/// Returns the functions of the replication code, openraft, the storage and the rig on the current call stack,
/// at most 12.
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
    /// Creates a simulator that starts `program`, which must call [`run_if_told`] before anything else, as the
    /// program `hearth-jepsen-tests` does.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            variables: Vec::new(),
        }
    }

    /// Adds an environment variable for the simulation, such as `HEARTH_DEFECT`.
    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.variables.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Runs one seed. A run that does not end with a report becomes a report with a problem.
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

    /// Runs many seeds, as many at once as there are processors, and passes each report to `see` when it is
    /// ready. Starts no further seed once `see` has returned false.
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
