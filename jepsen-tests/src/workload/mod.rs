//! Workloads: the operations of clients during a run, and the checkers that judge the recorded histories.
//!
//! Workloads run at the same time on disjoint names, so that each history can be judged alone. A workload
//! abandons a name after a bounded number of operations ([`slots`]), so that the search for a linearization
//! stays short in a run of any length.

pub mod discovery;
pub mod groups;
pub mod large;
pub mod learner;
pub mod names;
pub mod once;
pub mod program;
pub mod pyro;
pub mod registry;
pub mod set;
pub mod slots;
pub mod stale;
pub mod stranger;

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hearth_cli::Address;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::check;
use crate::client::{Client, Recorder};
use crate::error::{Result, RigError};
use crate::folder::{CheckerVerdict, Line, Network, Valid};
use crate::history::{Action, Operation, Outcome};
use crate::net::Net;
use crate::node::Settings;
use crate::run::Run;

/// The future that a workload runs.
pub type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A kind of client load, with its checkers.
pub trait Workload: Send + Sync {
    /// Returns the name on the command line, which is also the first part of its names in the registry.
    fn name(&self) -> &'static str;

    /// Describes the operations and the properties that are checked, in a sentence.
    fn about(&self) -> &'static str;

    /// Returns the reason if this machine cannot run the workload, for example because a program or a
    /// permission is missing. A selection of all workloads leaves it out.
    fn why_not_here(&self, _network: Network) -> Option<String> {
        None
    }

    /// Returns the reason if the workload cannot run on this stage.
    fn why_not(&self, _stage: &Stage) -> Option<String> {
        None
    }

    /// Runs the clients until [`Stage::is_over`].
    ///
    /// # Errors
    /// A failure of the rig, which says nothing about Hearth.
    fn work(&self, stage: Arc<Stage>) -> Work;

    /// Reads everything that was acknowledged, after all faults are healed and all work has ended. Repeats a
    /// read until it is answered.
    ///
    /// # Errors
    /// A failure of the rig, or a read that is not answered in time.
    fn final_reads(&self, _stage: Arc<Stage>) -> Work {
        Box::pin(async { Ok(()) })
    }

    /// Judges a history of this workload. Uses nothing but the history, so that a recorded one can be judged
    /// again.
    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict>;
}

/// Returns all workloads, in the order in which they are listed.
pub fn all() -> Vec<Arc<dyn Workload>> {
    vec![
        Arc::new(names::Names),
        Arc::new(once::Once),
        Arc::new(set::GrowingSet),
        Arc::new(groups::TAGS),
        Arc::new(groups::REMOVALS),
        Arc::new(registry::WholeRegistry),
        Arc::new(large::LargeValues),
        Arc::new(stale::StaleReads),
        Arc::new(pyro::PyroPrograms),
        Arc::new(learner::Learner::default()),
        Arc::new(discovery::Discovery),
        Arc::new(stranger::StrangersAtWork),
    ]
}

/// Returns the names of all workloads that this machine can run, and the others with the reason. The workload
/// of strangers is left out of both: it takes most of a small machine, which slows the others down, and is
/// meant for campaigns of its own.
pub fn all_here(network: Network) -> (Vec<String>, Vec<(&'static str, String)>) {
    let (mut here, mut not) = (Vec::new(), Vec::new());
    for workload in all().into_iter().filter(|one| one.name() != stranger::NAME) {
        match workload.why_not_here(network) {
            None => here.push(workload.name().to_owned()),
            Some(reason) => not.push((workload.name(), reason)),
        }
    }
    (here, not)
}

/// Returns the workload with this name.
pub fn named(name: &str) -> Option<Arc<dyn Workload>> {
    all().into_iter().find(|workload| workload.name() == name)
}

/// The environment in which a workload runs.
#[derive(Debug)]
pub struct Stage {
    /// The seed of all random choices; differs between workloads.
    pub seed: u64,
    /// The number of clients that work at the same time.
    pub clients: u32,
    /// The number of the first client. The numbers that follow belong to this workload too, as many as it
    /// needs.
    pub first_process: u32,
    /// The nodes whose reads are linearizable, with their numbers.
    pub endpoints: Vec<(u64, Address)>,
    /// The nodes whose reads may be stale, with their numbers.
    pub stale: Vec<(u64, Address)>,
    /// The mean pause between two operations of one client; zero for no pause.
    pub interval: Duration,
    /// Records the operations of the clients.
    pub recorder: Arc<Recorder>,
    /// The run, for a workload that starts processes of its own.
    pub run: Arc<Run>,
    /// The network of the run, if it has one.
    pub net: Option<Arc<Net>>,
    /// The settings with which the nodes of this run are started.
    pub settings: Settings,
    /// The peer addresses of the nodes.
    pub peer_addrs: Vec<String>,
    /// A place of the network that no node has, for a workload that starts a node.
    pub free_place: u64,
    /// Becomes true when the work is over.
    pub over: watch::Receiver<bool>,
}

/// The longest time that a client waits for an answer.
pub const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// The longest time that one final read is repeated.
const FINAL_PATIENCE: Duration = Duration::from_secs(120);

impl Stage {
    /// Returns true if the time for work is over.
    pub fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Returns the random numbers of client `number`, which are equal for equal seeds.
    pub fn random(&self, number: u32) -> SmallRng {
        SmallRng::seed_from_u64(seed_of(self.seed, &("client", number)))
    }

    /// Returns client `number` of this workload. Clients with successive numbers begin with different nodes.
    pub fn client(&self, number: u32) -> Client {
        self.client_of(number, &self.endpoints)
    }

    /// Returns client `number` of this workload, which uses only `nodes`.
    pub fn client_of(&self, number: u32, nodes: &[(u64, Address)]) -> Client {
        let mut endpoints = nodes.to_vec();
        let count = endpoints.len().max(1);
        endpoints.rotate_left(usize::try_from(number).unwrap_or(0) % count);
        Client::new(self.first_process + number, endpoints, &self.recorder)
            .with_timeout(CALL_PATIENCE)
    }

    /// Rests until the next operation is due: half to one and a half times the interval. After a refused
    /// operation it rests at least 20 ms. Otherwise, if no node accepts a connection, a client that retries at
    /// once would fill the history with failures.
    pub async fn rest_after(&self, told: &Operation, random: &mut SmallRng) {
        let part = random.random_range(0.5..1.5);
        let least = match told.outcome {
            Outcome::Failed(_) => Duration::from_millis(40),
            Outcome::Ok(_) | Outcome::Unknown(_) => Duration::ZERO,
        };
        let pause = self.interval.max(least);
        if !pause.is_zero() {
            tokio::time::sleep(pause.mul_f64(part)).await;
        }
    }

    /// Moves a client to another node with probability 1/5, although its own still answers.
    pub fn wander(&self, client: &mut Client, random: &mut SmallRng) {
        if random.random_ratio(1, 5) && !self.endpoints.is_empty() {
            let at = random.random_range(0..self.endpoints.len());
            client.go_to(self.endpoints[at].0);
        }
    }

    /// Performs the reads at each of the nodes until they are answered there.
    ///
    /// # Errors
    /// [`RigError::NotInTime`] if a read is not answered within two minutes.
    pub async fn insist_everywhere(&self, reads: &[Action]) -> Result<()> {
        let first = self.clients;
        for (number, endpoint) in (first..).zip(&self.endpoints) {
            let mut client = self.client_of(number, std::slice::from_ref(endpoint));
            for read in reads {
                insist(&mut client, read).await?;
            }
        }
        Ok(())
    }
}

async fn insist(client: &mut Client, read: &Action) -> Result<()> {
    let begin = tokio::time::Instant::now();
    loop {
        let told = client.perform(read.clone()).await;
        match told.outcome {
            Outcome::Ok(_) => return Ok(()),
            Outcome::Failed(seen) | Outcome::Unknown(seen) => {
                if begin.elapsed() > FINAL_PATIENCE {
                    return Err(RigError::NotInTime {
                        what: format!("the final {} at node {}", read.kind(), told.node),
                        waited: FINAL_PATIENCE,
                        seen,
                    });
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs all futures at the same time and waits for all of them.
///
/// # Errors
/// The first error of a future. A panic counts as [`RigError::Panicked`].
pub(crate) async fn at_once<F>(works: impl Iterator<Item = F>) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for work in works {
        tasks.spawn(work);
    }
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|error| {
            Err(RigError::Panicked {
                what: "a client".into(),
                reason: error.to_string(),
            })
        });
        first = first.and(ended);
    }
    first
}

/// Derives a seed from another one and its purpose. It is the same on every machine and with every build of one
/// toolchain.
pub(crate) fn seed_of(seed: u64, purpose: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, purpose).hash(&mut hasher);
    hasher.finish()
}

/// Converts the verdict of a checker to its recorded form. `text` describes the checked operations; it is used
/// if the verdict holds.
pub fn judged(
    name: &str,
    workload: &str,
    verdict: check::Verdict,
    text: impl Into<String>,
) -> CheckerVerdict {
    let (valid, text, evidence) = match verdict {
        check::Verdict::Holds => (Valid::True, text.into(), Vec::new()),
        check::Verdict::Undecided(reason) => (Valid::Unknown, reason, Vec::new()),
        check::Verdict::Violated(violation) => (
            Valid::False,
            format!("{}: {}", violation.subject, violation.reason),
            violation.evidence,
        ),
    };
    CheckerVerdict {
        name: name.to_owned(),
        workload: Some(workload.to_owned()),
        valid,
        text,
        counterexample: evidence
            .iter()
            .map(|operation| Line::new(workload, operation))
            .collect(),
    }
}

/// Groups the operations by the part of their name, prefix or tag before the second dot: `set.17` of
/// `set.17.a`. Leaves out operations without such a part.
pub(crate) fn by_family(history: &[Operation]) -> std::collections::BTreeMap<&str, Vec<Operation>> {
    let mut families: std::collections::BTreeMap<&str, Vec<Operation>> = Default::default();
    for operation in history {
        let subject = match &operation.action {
            Action::Register { name, .. }
            | Action::SetMetadata { name, .. }
            | Action::Lookup { name }
            | Action::Remove { name } => name,
            Action::RemovePrefix { prefix, .. } | Action::List { prefix } => prefix,
            Action::Tagged { tag } => tag,
            Action::Other { .. } => continue,
        };
        let mut dots = subject.match_indices('.').map(|(at, _)| at);
        if let Some(end) = dots.nth(1) {
            families
                .entry(&subject[..end])
                .or_default()
                .push(operation.clone());
        }
    }
    families
}
