//! Runs a scenario: from a seed to a cluster, its faults, and the report.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_raft::{Birth, ClusterConfig, ClusterKeys, ReplicaConfig, StorageLocation, Tuning};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use turmoil::Sim;

use super::clients::{Manner, Names};
use super::faults::Faults;
use super::node::{Node, Order, Phase, World, host, peer_addr};
use super::record::Record;
use super::report::{Counts, Report};
use super::trace::Trace;
use crate::history::{Action, Operation, Outcome};
use crate::workload::Workload;
use crate::workload::groups::{REMOVALS, TAGS};
use crate::workload::names::Names as NamesWork;
use crate::workload::once::Once;
use crate::workload::set::GrowingSet;

/// The longest time until the whole cluster works after all faults are healed.
const LIVENESS_DURATION_MAX: Duration = Duration::from_secs(30);

/// A duration that exceeds any simulation.
const FOR_EVER: Duration = Duration::from_secs(1_000_000);

const MILLIS: fn(u64) -> Duration = Duration::from_millis;

/// The size and the settings of a scenario.
struct Plan {
    founders: u64,
    tick: Duration,
    latency: (Duration, Duration),
    disturbed_for: Duration,
    client_count: u32,
    manner: Manner,
    tuning: Tuning,
    sync: (Duration, Duration),
}

impl Plan {
    fn draw(random: &mut SmallRng) -> Self {
        let mut tuning = Tuning::default();
        let (least, most) = *[(300, 600), (300, 600), (150, 300), (1000, 2000)]
            .choose(random)
            .unwrap_or(&(300, 600));
        tuning.election_timeout = (MILLIS(least), MILLIS(most));
        tuning.heartbeat_interval = MILLIS(least / 6);
        // `StorageLocation::Memory` stands for a simulated disk here; by default a node in memory may not vote
        // among others.
        tuning.memory_may_vote = true;
        tuning.entries_in_flight_max = random.random_range(1..=4);
        if random.random_ratio(3, 5) {
            tuning.snapshot_entry_count = random.random_range(10..60);
            tuning.log_keep_entry_count = random.random_range(5..40);
            tuning.purge_entry_count = random.random_range(4..20);
        }
        let tick = MILLIS(*[2, 4, 5].choose(random).unwrap_or(&5));
        let latency_max = *[4, 10, 30].choose(random).unwrap_or(&10);
        let sync_max = *[1, 4, 20, 60].choose(random).unwrap_or(&4);
        Self {
            founders: *[3, 3, 3, 4, 5, 5].choose(random).unwrap_or(&3),
            tick,
            latency: (MILLIS(1), MILLIS(latency_max)),
            disturbed_for: MILLIS(random.random_range(6_000..14_000)),
            client_count: random.random_range(1..=3),
            manner: Manner {
                pause: (MILLIS(2), MILLIS(random.random_range(20..150))),
                patience: MILLIS(random.random_range(500..4_000)),
            },
            tuning,
            sync: (Duration::from_micros(300), MILLIS(sync_max)),
        }
    }
}

/// A simulation in progress.
pub(super) struct Scene<'a> {
    pub(super) sim: Sim<'a>,
    pub(super) nodes: Vec<Rc<Node>>,
    pub(super) world: Rc<World>,
    sync: (Duration, Duration),
    founder_count: usize,
}

impl Scene<'_> {
    /// Returns the shortest and the longest sync of a healthy disk.
    pub(super) fn sync(&self) -> (Duration, Duration) {
        self.sync
    }

    pub(super) fn founder_count(&self) -> usize {
        self.founder_count
    }

    /// Adds a host and switches it on. `birth` says whether its node bootstraps the cluster or joins it.
    pub(super) fn add(&mut self, birth: Birth, node_id: Option<u64>) -> Rc<Node> {
        let number = self.nodes.len() as u64 + 1;
        let config = ReplicaConfig {
            node_id,
            cluster_name: "simulated".to_owned(),
            storage: StorageLocation::Memory,
            cluster: Some(ClusterConfig {
                peer_addr: peer_addr(number),
                ns_addr: format!("{}:9090", host(number)),
                birth,
                keys: ClusterKeys::new([b"the key of the simulation".to_vec()]),
            }),
        };
        let node = Node::new(number, config, Rc::clone(&self.world));
        node.disk
            .borrow()
            .set_sync_duration(self.sync.0, self.sync.1);
        self.nodes.push(Rc::clone(&node));
        let running = Rc::clone(&node);
        self.sim
            .host(host(number), move || Rc::clone(&running).run());
        node
    }

    /// Crashes a host. The first `keep` of its writes that are not synced survive.
    pub(super) fn crash(&mut self, node: &Node, keep: u64) {
        node.switch_off();
        self.sim.crash(host(node.number));
        let loss = node.disk.borrow().crash(keep);
        self.note(&format_args!("crash of {}, {loss:?}", node.number));
    }

    /// Boots a host that was switched off, or whose replica has ended.
    pub(super) fn boot(&mut self, node: &Node) {
        self.note(&format_args!("boot of {}", node.number));
        self.sim.bounce(host(node.number));
    }

    pub(super) fn note(&self, what: &dyn std::fmt::Display) {
        let now = self.sim.elapsed();
        let text = format!("{:.3} {what}", now.as_secs_f64());
        self.world.record.trace.note("fault", 0, text.as_bytes());
    }

    /// Returns all hosts whose replica should serve at the end.
    fn expected(&self) -> Vec<Rc<Node>> {
        let removed: BTreeSet<u64> = self
            .nodes
            .iter()
            .flat_map(|node| node.removed.borrow().clone())
            .collect();
        let gone = |node: &Node| {
            let id = node.replica.borrow().as_ref().map(|r| r.status().node_id);
            matches!(node.phase(), Phase::Gone(_))
                || node.is_wiped.get()
                || id
                    .or(node.config.borrow().node_id)
                    .is_some_and(|id| removed.contains(&id))
        };
        let nodes = self.nodes.iter().filter(|node| !gone(node));
        nodes.map(Rc::clone).collect()
    }

    /// Returns the number of snapshots that the running replicas have installed.
    fn install_count(&self) -> u64 {
        let counts = self.nodes.iter().filter_map(|node| {
            let replica = node.replica.borrow();
            replica
                .as_ref()
                .map(|replica| replica.status().install_count)
        });
        counts.sum()
    }

    fn step(&mut self) -> Result<(), String> {
        self.sim.step().map(drop).map_err(|error| error.to_string())
    }
}

/// Runs the scenario of `seed` in this process, whose randomness must come from the seed.
pub(super) fn play(seed: u64) -> Report {
    let mut random = SmallRng::seed_from_u64(seed);
    let plan = Plan::draw(&mut random);
    let trace = Trace::new();
    let record = Record::new(trace.clone());
    let sim = turmoil::Builder::new()
        .rng_seed(random.random())
        .tick_duration(plan.tick)
        .min_message_latency(plan.latency.0)
        .max_message_latency(plan.latency.1)
        .simulation_duration(FOR_EVER)
        .tcp_capacity(1024)
        .build();
    let world = Rc::new(World {
        seed,
        record: record.clone(),
        names: Arc::new(Names::new()),
        tuning: plan.tuning.clone(),
        manner: plan.manner.clone(),
        client_count: plan.client_count,
        is_over: AtomicBool::new(false),
        busy: Cell::new(0),
    });
    let mut scene = Scene {
        sim,
        nodes: Vec::new(),
        world: Rc::clone(&world),
        sync: plan.sync,
        founder_count: usize::try_from(plan.founders).unwrap_or(usize::MAX),
    };
    let founders: BTreeMap<u64, String> = (1..=plan.founders)
        .map(|number| (number, peer_addr(number)))
        .collect();
    for number in 1..=plan.founders {
        let founders = founders.clone();
        scene.add(Birth::Found { founders }, Some(number));
    }
    let mut faults = Faults::draw(&mut random, plan.latency);
    let mut began = None;
    let result = loop {
        if let Err(error) = scene.step() {
            break Err(error);
        }
        let now = scene.sim.elapsed();
        let began = *began.get_or_insert(now);
        if now - began >= plan.disturbed_for {
            break Ok(());
        }
        faults.act(&mut scene, &mut random);
    };
    let disturbed = scene.sim.elapsed();
    if let Err(error) = result.and_then(|()| heal(&mut scene, &mut faults)) {
        record.problem(error);
    }
    let history = record.history();
    let simulated = scene.sim.elapsed();
    let nodes = scene.nodes.len() as u64;
    let undecided = judge(&record, &history);
    let (trace_hash, event_count) = trace.finish();
    Report {
        seed,
        trace: format!("{trace_hash:016x}"),
        events: event_count,
        nodes,
        simulated_ms: u64::try_from(simulated.as_millis()).unwrap_or(u64::MAX),
        healing_ms: u64::try_from((simulated - disturbed).as_millis()).unwrap_or(u64::MAX),
        installs: scene.install_count(),
        operations: Counts::of(&history),
        applied: record.applied(),
        faults: faults.counts(),
        undecided,
        problems: record.problems(),
    }
}

/// Ends all faults and waits until every node that belongs to the cluster works and all have the same state.
///
/// # Errors
/// A description of the nodes if this takes longer than [`LIVENESS_DURATION_MAX`].
fn heal(scene: &mut Scene<'_>, faults: &mut Faults) -> Result<(), String> {
    faults.heal(scene);
    scene.note(&"healed");
    scene.world.is_over.store(true, Ordering::Relaxed);
    let end = scene.sim.elapsed() + LIVENESS_DURATION_MAX;
    let mut ordered = BTreeSet::new();
    loop {
        scene.step()?;
        for node in &scene.nodes.clone() {
            if matches!(node.phase(), Phase::Off | Phase::Ended) {
                scene.boot(node);
            } else if node.phase() == Phase::Serving
                // The final reads start only when no client operation is in progress.
                && scene.world.busy.get() == 0
                && ordered.insert((node.number, node.boots()))
            {
                node.order(Order::Finish(final_actions(
                    node.number,
                    &scene.world.record.history(),
                )));
            }
        }
        let expected = scene.expected();
        let unfinished: Vec<&Rc<Node>> = expected
            .iter()
            .filter(|node| !node.has_finished.get())
            .collect();
        let states: BTreeSet<_> = expected
            .iter()
            .filter_map(|node| {
                let status = node.replica.borrow().as_ref()?.status();
                Some((status.last_applied, status.state_hash))
            })
            .collect();
        if unfinished.is_empty() && states.len() == 1 {
            scene.note(&"all nodes work");
            return Ok(());
        }
        if scene.sim.elapsed() > end {
            let nodes: Vec<String> = scene.nodes.iter().map(|node| describe(node)).collect();
            return Err(format!(
                "not live {LIVENESS_DURATION_MAX:?} after healing: {}",
                nodes.join("; ")
            ));
        }
    }
}

fn describe(node: &Node) -> String {
    let status = node.replica.borrow().as_ref().map(|replica| {
        let status = replica.status();
        format!(
            "id {} leader {:?} term {} log {} applied {} ready {}",
            status.node_id,
            status.leader,
            status.term,
            status.last_log_index,
            status.last_applied,
            replica.is_ready()
        )
    });
    format!(
        "n{} {:?} wiped {} finished {} {}",
        node.number,
        node.phase(),
        node.is_wiped.get(),
        node.has_finished.get(),
        status.unwrap_or_default()
    )
}

/// Returns the final operations of a node: a write, and reads of all families of names that were ever written.
fn final_actions(number: u64, history: &[Operation]) -> Vec<Action> {
    let mut actions = vec![Action::Register {
        name: format!("last.{number}.0"),
        entry: crate::history::Entry {
            uri: "PYRO:last@h:1".to_owned(),
            tags: BTreeSet::new(),
        },
        safe: false,
    }];
    let families: BTreeSet<String> = history
        .iter()
        .filter_map(|operation| match &operation.action {
            Action::Register { name, .. } => Some(name.rsplit_once('.')?.0.to_owned()),
            _ => None,
        })
        .collect();
    // Each node reads a part of the names that only one client used.
    actions.extend(families.into_iter().map(|family| Action::List {
        prefix: format!("{family}."),
    }));
    actions
}

/// Runs the checkers on the history and records their violations as problems. Returns the checks that were
/// undecided.
fn judge(record: &Record, history: &[Operation]) -> Vec<String> {
    use crate::folder::Valid;
    let mut undecided = Vec::new();
    let works: [&dyn Workload; 5] = [&NamesWork, &TAGS, &REMOVALS, &GrowingSet, &Once];
    for work in works {
        let own: Vec<Operation> = history
            .iter()
            .filter(|operation| is_of(work.name(), &operation.action))
            .cloned()
            .collect();
        for verdict in work.check(&own) {
            match verdict.valid {
                Valid::True => {}
                Valid::Unknown => undecided.push(format!("{}: {}", verdict.name, verdict.text)),
                Valid::False => {
                    let evidence: Vec<String> = verdict
                        .counterexample
                        .iter()
                        .map(|line| format!("\n    {line:?}"))
                        .collect();
                    record.problem(format!(
                        "{} does not hold: {}{}",
                        verdict.name,
                        verdict.text,
                        evidence.concat()
                    ));
                }
            }
        }
    }
    undecided
}

fn is_of(work: &str, action: &Action) -> bool {
    let subject = match action {
        Action::Register { name, .. }
        | Action::SetMetadata { name, .. }
        | Action::Lookup { name }
        | Action::Remove { name } => name,
        Action::RemovePrefix { prefix, .. } | Action::List { prefix } => prefix,
        Action::Tagged { tag } => tag,
        Action::Other { .. } => return false,
    };
    subject.split('.').next() == Some(work)
}

impl Counts {
    fn of(history: &[Operation]) -> Self {
        let mut counts = Self::default();
        for operation in history {
            match operation.outcome {
                Outcome::Ok(_) => counts.ok += 1,
                Outcome::Failed(_) => counts.failed += 1,
                Outcome::Unknown(_) => counts.unknown += 1,
            }
        }
        counts
    }
}
