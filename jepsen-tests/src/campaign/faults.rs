//! The faults of a campaign: which, when, and what became of them.
//!
//! Every chosen nemesis comes once in each round, in an order that the seed decides, so that all are
//! installed about equally often. Between two faults there is a pause, in which the cluster mostly becomes
//! healthy again; one time in four it is not waited for, and the next fault meets nodes that still recover.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tokio::sync::watch;

use crate::client::Recorder;
use crate::cluster::Cluster;
use crate::error::{Result, RigError};
use crate::folder::{FaultLine, FaultOutcome, FaultPhase, Lines, count_faults};

/// How long a fault stays.
const HOLD: std::ops::Range<Duration> = Duration::from_secs(3)..Duration::from_secs(9);

/// How long a pause is.
const PAUSE: std::ops::Range<Duration> = Duration::from_secs(1)..Duration::from_secs(4);

/// How long is waited for a healthy cluster before the next fault comes anyway.
const RECOVERY: Duration = Duration::from_secs(20);

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It is in place, or healed.
    Installed(String),
    /// It cannot be had; the reason.
    Skipped(String),
    /// Nobody knows whether it is; the reason.
    Indeterminate(String),
    /// It is in place, or healed, and a node did not do what Hearth promises for it: what it did.
    Broken(String),
}

impl Outcome {
    /// Its text.
    pub fn text(&self) -> &str {
        match self {
            Self::Installed(text)
            | Self::Skipped(text)
            | Self::Indeterminate(text)
            | Self::Broken(text) => text,
        }
    }
}

/// Where a nemesis does harm. Two of different places do not undo each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Between nodes.
    Network,
    /// In nodes, or in what they stand on.
    Nodes,
    /// In what the nodes are to each other; it needs them to work together meanwhile.
    Membership,
}

/// What nodes must have under them, from their start on, for a nemesis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// [`crate::shim::Shims`].
    pub shims: bool,
    /// A [`crate::volume::Volume`] each.
    pub volumes: bool,
}

impl Needs {
    /// What both need.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            shims: self.shims || other.shims,
            volumes: self.volumes || other.volumes,
        }
    }
}

/// An attempt under way.
pub type Attempt<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Something that does harm to a cluster, and undoes it.
pub trait Nemesis: Send {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it does, in a sentence.
    fn about(&self) -> &'static str;

    /// Does it.
    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster, random: &'a mut SmallRng) -> Attempt<'a>;

    /// Nodes that it has done something to, once it is injected: what clients see there is told apart
    /// from what they see elsewhere. None where it was the network between nodes.
    fn nodes(&self) -> Vec<u64> {
        Vec::new()
    }

    /// What the nodes must have under them for it.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Where it does its harm.
    fn place(&self) -> Place {
        Place::Nodes
    }

    /// Undoes it, as far as a person would: nodes run again, messages pass.
    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Attempt<'a>;
}

/// All nemeses.
pub fn all() -> Vec<Box<dyn Nemesis>> {
    let mut all = single();
    all.push(Box::new(super::pair::Pair::default()));
    all
}

/// All that are not made of others.
pub(super) fn single() -> Vec<Box<dyn Nemesis>> {
    let mut all = super::plain::all();
    all.extend(super::traffic::all());
    all.extend(super::system::all());
    all.extend(super::damage::all());
    all
}

/// Those with these names.
///
/// # Errors
/// When there is none with a name.
pub fn chosen(names: &[String]) -> Result<Vec<Box<dyn Nemesis>>> {
    let mut known = all();
    known.push(Box::new(super::impostor::AtAnAddress::default()));
    names
        .iter()
        .map(|name| {
            let at = known.iter().position(|nemesis| nemesis.name() == name);
            at.map(|at| known.swap_remove(at))
                .ok_or_else(|| RigError::Refused {
                    what: format!("--nemeses {name}"),
                    reason: "there is no such nemesis, or it was named twice; `list` shows them"
                        .into(),
                })
        })
        .collect()
}

/// The faults that are to come.
pub struct Plan<'a> {
    /// From which they are taken.
    pub nemeses: &'a mut [Box<dyn Nemesis>],
    /// What decides which, when and where.
    pub random: SmallRng,
    /// When no further one begins.
    pub until: Instant,
    /// The clock of the run.
    pub clock: Arc<Recorder>,
    /// Where they are written to.
    pub lines: Lines,
    /// All so far.
    pub told: Vec<FaultLine>,
}

impl Plan<'_> {
    /// Injects and heals until the time is over or somebody interrupts. Everything is healed then.
    ///
    /// # Errors
    /// The system's, when faults cannot be written down.
    pub async fn carry_out(
        &mut self,
        cluster: &mut Cluster,
        interrupted: &mut watch::Receiver<bool>,
    ) -> Result<()> {
        let mut bag: Vec<usize> = Vec::new();
        let mut number = 0;
        while Instant::now() < self.until && !*interrupted.borrow() {
            if self.nemeses.is_empty() {
                self.wait(self.until, interrupted).await;
                break;
            }
            let pause = self.random.random_range(PAUSE);
            self.wait(Instant::now() + pause, interrupted).await;
            if self.random.random_ratio(3, 4) {
                self.wait_until_healthy(cluster, interrupted).await;
            }
            let hold = self.random.random_range(HOLD);
            if Instant::now() + hold > self.until || *interrupted.borrow() {
                self.wait(self.until, interrupted).await;
                break;
            }
            if bag.is_empty() {
                bag = (0..self.nemeses.len()).collect();
                bag.shuffle(&mut self.random);
            }
            let Some(which) = bag.pop() else { break };
            number += 1;
            self.one(number, which, hold, cluster, interrupted).await;
            self.lines.flush()?;
        }
        self.lines.flush()
    }

    async fn one(
        &mut self,
        number: u64,
        which: usize,
        hold: Duration,
        cluster: &mut Cluster,
        interrupted: &mut watch::Receiver<bool>,
    ) {
        let nemesis = &mut self.nemeses[which];
        let name = nemesis.name();
        let begin = self.clock.now();
        let outcome = nemesis.inject(cluster, &mut self.random).await;
        let is_skipped = matches!(outcome, Outcome::Skipped(_));
        let nodes = nemesis.nodes();
        self.tell(number, name, FaultPhase::Inject, outcome, nodes, begin);
        if is_skipped {
            return;
        }
        self.wait(Instant::now() + hold, interrupted).await;
        let begin = self.clock.now();
        let outcome = self.nemeses[which].heal(cluster).await;
        self.tell(number, name, FaultPhase::Heal, outcome, Vec::new(), begin);
    }

    fn tell(
        &mut self,
        number: u64,
        name: &str,
        phase: FaultPhase,
        outcome: Outcome,
        nodes: Vec<u64>,
        begin_ns: u64,
    ) {
        let (outcome, what) = match outcome {
            Outcome::Installed(what) => (FaultOutcome::Installed, what),
            Outcome::Skipped(reason) => (FaultOutcome::Skipped, reason),
            Outcome::Indeterminate(reason) => (FaultOutcome::Indeterminate, reason),
            Outcome::Broken(what) => (FaultOutcome::Broken, what),
        };
        let line = FaultLine {
            number,
            name: name.to_owned(),
            phase,
            outcome,
            what,
            nodes,
            begin_ns,
            end_ns: self.clock.now(),
        };
        eprintln!(
            "{:>7.1} s  {}{}: {}{}",
            line.begin_ns as f64 / 1e9,
            match phase {
                FaultPhase::Inject => "",
                FaultPhase::Heal => "healed ",
            },
            line.name,
            match line.outcome {
                FaultOutcome::Installed => "",
                FaultOutcome::Skipped => "skipped, ",
                FaultOutcome::Indeterminate => "indeterminate, ",
                FaultOutcome::Broken => "BROKEN PROMISE, ",
            },
            line.what
        );
        self.lines.add(&line);
        self.told.push(line);
    }

    async fn wait(&self, until: Instant, interrupted: &mut watch::Receiver<bool>) {
        if *interrupted.borrow() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            // An error says that nobody can interrupt any more; then the time counts.
            Ok(()) = interrupted.changed() => {}
        }
    }

    async fn wait_until_healthy(
        &self,
        cluster: &mut Cluster,
        interrupted: &mut watch::Receiver<bool>,
    ) {
        let patience = RECOVERY.min(self.until.saturating_duration_since(Instant::now()));
        let running = cluster.running();
        let Some(&node) = running.first() else {
            return;
        };
        tokio::select! {
            // Whether it is healthy or not, the next fault comes.
            _ = cluster.wait_until_healthy(node, patience) => {}
            Ok(()) = interrupted.changed() => {}
        }
    }
}

/// Says which of the chosen nemeses were installed fewer than `min` times.
pub fn too_few(faults: &[FaultLine], chosen: &[String], min: u64) -> Vec<String> {
    let counts = count_faults(faults);
    chosen
        .iter()
        .filter_map(|name| {
            let count = counts.get(name).copied().unwrap_or_default();
            (count.installed < min).then(|| {
                format!(
                    "nemesis {name} was installed {} times, and {min} were asked for ({} skipped, {} \
                     indeterminate)",
                    count.installed, count.skipped, count.indeterminate
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nemesis_that_was_not_there_often_enough_is_told() {
        let chosen = ["kill-one".to_owned()];
        assert!(too_few(&[], &chosen, 0).is_empty());
        assert!(too_few(&[], &chosen, 1)[0].contains("kill-one was installed 0 times"));
    }

    #[test]
    fn unknown_nemeses_are_refused() {
        assert!(chosen(&["kill-one".to_owned()]).is_ok());
        assert!(chosen(&["kill-one".to_owned(), "kill-one".to_owned()]).is_err());
        assert!(chosen(&["storm".to_owned()]).is_err());
    }
}
