//! What came of one seed.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::faults;

/// Operations by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Answered.
    pub ok: u64,
    /// Certainly not done.
    pub failed: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// What came of one seed. Equal, all of it, whenever the seed is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash of everything that happened, in its order.
    pub trace: String,
    /// How many events that were.
    pub events: u64,
    /// Computers, those that joined included.
    pub nodes: u64,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Simulated milliseconds from the end of all faults until every node worked.
    pub healing_ms: u64,
    /// Snapshots of other nodes that were installed, by nodes that ran in the end.
    pub installs: u64,
    /// What clients asked for.
    pub operations: Counts,
    /// Changes of the registry that nodes applied, over all nodes.
    pub applied: u64,
    /// How often which fault was installed.
    pub faults: BTreeMap<String, u64>,
    /// What checkers could not decide.
    pub undecided: Vec<String>,
    /// Whatever must not be; empty when nothing is wrong.
    pub problems: Vec<String>,
}

impl Report {
    /// A seed that could not be run to its end.
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

    /// Whether everything was looked at and found right.
    pub fn holds(&self) -> bool {
        !self.is_wrong() && self.undecided.is_empty()
    }

    /// Whether something is wrong.
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

/// What many seeds come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many there were.
    pub seeds: u64,
    /// In how many something is wrong.
    pub wrong: u64,
    /// What clients asked for.
    pub operations: Counts,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// The longest time from the end of all faults until every node worked, in simulated milliseconds.
    pub healing_ms_max: u64,
    /// Snapshots that were installed.
    pub installs: u64,
    /// Changes of the registry that nodes applied.
    pub applied: u64,
    /// How often which fault was installed; all faults are there.
    pub faults: BTreeMap<String, u64>,
    /// Checkers that could not decide.
    pub undecided: u64,
}

impl Summary {
    /// Of these seeds.
    pub fn of<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Self {
        let mut summary = Self::default();
        for report in reports {
            summary.add(report);
        }
        summary
    }

    /// Counts another seed in.
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

    /// Faults that could not be installed in any of the seeds.
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
