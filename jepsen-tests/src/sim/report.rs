//! The report of one seed, and the summary of many.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::faults;

/// The number of operations by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Operations that were answered.
    pub ok: u64,
    /// Operations that certainly took no effect.
    pub failed: u64,
    /// Operations whose outcome is unknown.
    pub unknown: u64,
}

/// The report of one seed. All its fields are equal each time the seed is run on one build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The hash of all events in their order, as 16 hexadecimal digits.
    pub trace: String,
    /// The number of events in the trace.
    pub events: u64,
    /// The number of hosts, including those that joined later.
    pub nodes: u64,
    /// The simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// The simulated time from the end of all faults until every node worked, in milliseconds.
    pub healing_ms: u64,
    /// The number of snapshots from other nodes that were installed by the replicas that ran at the end.
    pub installs: u64,
    /// The number of client operations.
    pub operations: Counts,
    /// The number of registry changes that were applied, summed over all nodes.
    pub applied: u64,
    /// The number of injections of each fault, by its name.
    pub faults: BTreeMap<String, u64>,
    /// The checks that were undecided.
    pub undecided: Vec<String>,
    /// The violations; empty if nothing is wrong.
    pub problems: Vec<String>,
}

impl Report {
    /// Returns the report of a seed that could not be run to its end.
    pub(super) fn broken(seed: u64, problem: String) -> Self {
        Self {
            seed,
            trace: String::new(),
            events: 0,
            nodes: 0,
            simulated_ms: 0,
            healing_ms: 0,
            installs: 0,
            operations: Counts::default(),
            applied: 0,
            faults: BTreeMap::new(),
            undecided: Vec::new(),
            problems: vec![problem],
        }
    }

    /// Returns true if every check was decided and nothing is wrong.
    pub fn holds(&self) -> bool {
        !self.is_wrong() && self.undecided.is_empty()
    }

    /// Returns true if something is wrong.
    pub fn is_wrong(&self) -> bool {
        !self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} nodes, {:.1} s, {} operations answered, {} failed, {} unknown, {} states, {} events, \
             trace {}",
            self.seed,
            self.nodes,
            self.simulated_ms as f64 / 1000.0,
            self.operations.ok,
            self.operations.failed,
            self.operations.unknown,
            self.applied,
            self.events,
            self.trace
        )?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        for check in &self.undecided {
            write!(f, "\n  undecided: {check}")?;
        }
        if !self.holds() {
            write!(
                f,
                "\n  again: cargo run -p hearth-jepsen-tests -- simulate --seeds {0}..{1}",
                self.seed,
                self.seed.saturating_add(1)
            )?;
        }
        Ok(())
    }
}

/// The summary of many seeds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The number of seeds.
    pub seeds: u64,
    /// The number of seeds in which something is wrong.
    pub wrong: u64,
    /// The number of client operations.
    pub operations: Counts,
    /// The simulated time, in milliseconds.
    pub simulated_ms: u64,
    /// The longest time from the end of all faults until every node worked, in simulated milliseconds.
    pub healing_ms_max: u64,
    /// The number of snapshots that were installed.
    pub installs: u64,
    /// The number of registry changes that were applied, summed over all nodes.
    pub applied: u64,
    /// The number of injections of each fault, by its name. Contains every fault.
    pub faults: BTreeMap<String, u64>,
    /// The number of checks that were undecided.
    pub undecided: u64,
}

impl Summary {
    /// Summarizes the reports.
    pub fn of<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Self {
        let mut summary = Self::default();
        for report in reports {
            summary.add(report);
        }
        summary
    }

    /// Adds a report.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.wrong += u64::from(report.is_wrong());
        self.operations.ok += report.operations.ok;
        self.operations.failed += report.operations.failed;
        self.operations.unknown += report.operations.unknown;
        self.simulated_ms += report.simulated_ms;
        self.healing_ms_max = self.healing_ms_max.max(report.healing_ms);
        self.installs += report.installs;
        self.applied += report.applied;
        self.undecided += report.undecided.len() as u64;
        for name in faults::names() {
            let count = report.faults.get(name).copied().unwrap_or(0);
            *self.faults.entry(name.to_owned()).or_default() += count;
        }
    }

    /// Returns the faults that were not injected in any of the seeds.
    pub fn never_installed(&self) -> Vec<String> {
        let never = self.faults.iter().filter(|&(_, &count)| count == 0);
        never.map(|(name, _)| name.clone()).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {} of them wrong; {:.1} simulated hours; {} operations answered, {} failed, {} unknown; \
             {} states compared; {} snapshots installed; healed within {:.1} s; {} checks undecided; faults:",
            self.seeds,
            self.wrong,
            self.simulated_ms as f64 / 3_600_000.0,
            self.operations.ok,
            self.operations.failed,
            self.operations.unknown,
            self.applied,
            self.installs,
            self.healing_ms_max as f64 / 1000.0,
            self.undecided
        )?;
        for (name, count) in &self.faults {
            write!(f, " {name} {count},")?;
        }
        Ok(())
    }
}
