//! Workloads: what clients do during a run, each with the checkers that judge what they saw.
//!
//! Workloads work at the same time, on names of their own, so that each history can be judged alone. Their
//! names are taken out of use after a bounded number of operations ([`slots`]): the search for an order
//! of operations stays short however long a run lasts.

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

/// What a workload does until it is over.
pub type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Something that clients do.
pub trait Workload: Send + Sync {
    /// Its name on the command line, which its names in the registry begin with.
    fn name(&self) -> &'static str;

    /// What it does and what is judged, in a sentence.
    fn about(&self) -> &'static str;

    /// Why it cannot work on this machine, if so: a program or a right that it needs is not there. It is
    /// left out where all workloads are asked for.
    fn why_not_here(&self, _network: Network) -> Option<String> {
        None
    }

    /// Why it cannot work on this stage, if so.
    fn why_not(&self, _stage: &Stage) -> Option<String> {
        None
    }

    /// Works until [`Stage::is_over`]. An error is one of the rig and says nothing about Hearth.
    fn work(&self, stage: Arc<Stage>) -> Work;

    /// Reads, once everything is healed and all work has ended, whatever was acknowledged. A read that
    /// is not answered is asked again.
    fn final_reads(&self, _stage: Arc<Stage>) -> Work {
        Box::pin(async { Ok(()) })
    }

    /// Judges a history of this workload. It must not need anything else: a recorded history is judged
    /// again like this.
    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict>;
}

/// All workloads, in the order in which they are listed.
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

/// All workloads that this machine can have, and why it cannot have the others. Strangers are for campaigns of
/// their own: what they do takes most of a small machine, and the others are to be quick.
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

/// The workload with this name.
pub fn named(name: &str) -> Option<Arc<dyn Workload>> {
    all().into_iter().find(|workload| workload.name() == name)
}

/// Where a workload works.
#[derive(Debug)]
pub struct Stage {
    /// What random choices are made from; differs between workloads.
    pub seed: u64,
    /// How many clients work at the same time.
    pub clients: u32,
    /// The number of the first client; so many follow as are needed, none of them in use elsewhere.
    pub first_process: u32,
    /// Nodes whose reads are linearizable.
    pub endpoints: Vec<(u64, Address)>,
    /// Nodes whose reads may be old.
    pub stale: Vec<(u64, Address)>,
    /// Time between two operations of one client, on average; zero for as fast as it goes.
    pub interval: Duration,
    /// Takes down what clients saw.
    pub recorder: Arc<Recorder>,
    /// The run, for a workload that starts processes of its own.
    pub run: Arc<Run>,
    /// The run's network, if it has one.
    pub net: Option<Arc<Net>>,
    /// How nodes of this run are started.
    pub settings: Settings,
    /// Where the nodes reach each other.
    pub peer_addrs: Vec<String>,
    /// A place that no node has, for a workload that starts one.
    pub free_place: u64,
    /// Becomes true when work is over.
    pub over: watch::Receiver<bool>,
}

/// How long a client waits for an answer.
pub const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// How long final reads may be repeated, in all.
const FINAL_PATIENCE: Duration = Duration::from_secs(120);

impl Stage {
    /// Whether the time for work is over.
    pub fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Random numbers for client `number`, the same ones for the same seed.
    pub fn random(&self, number: u32) -> SmallRng {
        SmallRng::seed_from_u64(seed_of(self.seed, &("client", number)))
    }

    /// Client `number` of this workload, which begins with a node of its own.
    pub fn client(&self, number: u32) -> Client {
        self.client_of(number, &self.endpoints)
    }

    /// Client `number` of this workload, of these nodes.
    pub fn client_of(&self, number: u32, nodes: &[(u64, Address)]) -> Client {
        let mut endpoints = nodes.to_vec();
        let count = endpoints.len().max(1);
        endpoints.rotate_left(usize::try_from(number).unwrap_or(0) % count);
        Client::new(self.first_process + number, endpoints, &self.recorder)
            .with_timeout(CALL_PATIENCE)
    }

    /// Rests until the next operation is due: half to one and a half times the interval. After one that
    /// was refused it is at least 20 ms: where no node takes a connection, a client that tries again at once
    /// would fill the history with nothing else.
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

    /// Now and then, lets a client go to another node although its own still answers.
    pub fn wander(&self, client: &mut Client, random: &mut SmallRng) {
        if random.random_ratio(1, 5) && !self.endpoints.is_empty() {
            let at = random.random_range(0..self.endpoints.len());
            client.go_to(self.endpoints[at].0);
        }
    }

    /// Reads at each of the nodes until it is answered there.
    ///
    /// # Errors
    /// When a node does not answer for as long as two minutes.
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

/// Lets each client do its part at the same time, and waits for all. One that panics is an error.
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

/// Another seed, made of one and of what it is for. The same on every machine and with every build of
/// one toolchain.
pub(crate) fn seed_of(seed: u64, purpose: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, purpose).hash(&mut hasher);
    hasher.finish()
}

/// A checker's verdict as it is written down; `text` says what was looked at.
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

/// The operations by the part of their name, prefix or tag up to the second dot: `set.17` of `set.17.a`.
/// What has no such part is left out.
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
