//! A campaign: nodes, workloads and faults together for a while, then healing, and a verdict.
//!
//! ```text
//! found the cluster ─ faults, one after the other ─ heal all ─ liveness ─ restart all ─ final reads ─ verdict
//! and fill it         └────────── workloads ──────────────────────────┘
//! ```
//!
//! The folder of the campaign ([`crate::folder`]) is written as things happen. Whatever else is made
//! belongs to a [`Run`], whose guardian takes it away also when this process is killed.

pub mod availability;
mod damage;
pub mod faults;
pub mod footprint;
pub mod impostor;
pub mod liveness;
mod pair;
mod plain;
mod restarts;
pub mod states;
mod system;
mod traffic;
pub mod verdict;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::Recorder;
use crate::cluster::{Cluster, PATIENCE};
use crate::error::{Result, RigError};
use crate::folder::{FORMAT, Folder, Lines, Network, Phase, RunInfo, Verdict};
use crate::net::Net;
use crate::node::Settings;
use crate::preload;
use crate::run::Run;
use crate::shim::Shims;
use crate::volume::Volume;
use crate::workload::{Stage, Workload, discovery, seed_of};
use faults::{Needs, Nemesis};

/// Places of the network besides those of the first nodes, for nodes that come later.
const SPARE_PLACES: u64 = 4;

/// Processes that a workload may have.
const PROCESSES_PER_WORKLOAD: u32 = 1_000;

/// The workloads of honest clients in a campaign of strangers.
pub const BESIDE_STRANGERS: [&str; 7] = [
    "names", "once", "set", "tags", "removals", "registry", "large",
];

/// The nemeses of a campaign of strangers: what nodes stand on is as it should be, so that whatever becomes of
/// a node otherwise is theirs.
pub const AMONG_STRANGERS: [&str; 17] = [
    "kill-one",
    "kill-leader",
    "kill-majority",
    "kill-all",
    "power-all",
    "pause-one",
    "pause-leader",
    "restart",
    "transfer-leader",
    "join-leave",
    "halves",
    "isolate-leader",
    "one-way",
    "slow",
    "lossy",
    "reordered",
    impostor::NAME,
];

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes at the beginning, three to seven.
    pub nodes: u64,
    /// How long faults are injected.
    pub seconds: u64,
    /// What random choices are made from.
    pub seed: u64,
    /// Operations a second that all workloads together aim at; none for as many as possible.
    pub rate: Option<u64>,
    /// Clients of each workload.
    pub clients: u32,
    /// Names of workloads.
    pub workloads: Vec<String>,
    /// Names of nemeses; none for a run without faults.
    pub nemeses: Vec<String>,
    /// The folder that the run leaves.
    pub folder: PathBuf,
    /// Loopback addresses instead of network namespaces.
    pub loopback: bool,
    /// The program under test; without it the one of this build.
    pub hearthd: Option<PathBuf>,
    /// Bytes of the replicated log that nodes keep at most; without it, as many as usual. A short log makes
    /// nodes that were away for some seconds need a snapshot.
    pub log_size_max: Option<u64>,
    /// More options of every node.
    pub node_options: Vec<String>,
    /// Variables in the environment of every node.
    pub environment: Vec<(String, String)>,
    /// How often each nemesis must have been installed.
    pub min_installed: u64,
    /// Names that are registered before anything else.
    pub names: u64,
    /// Bytes of memory that a node may hold; none where nobody asks.
    pub resident_max: Option<u64>,
    /// How long a node may take to serve again at the end; none for as long as anything may take.
    pub restart_max: Option<Duration>,
    /// The command line, for the folder.
    pub arguments: Vec<String>,
}

/// Runs a campaign and writes its verdict. When `interrupted` becomes true, faults end early and the rest
/// follows as always.
///
/// # Errors
/// When it could not be carried out; that says nothing about Hearth.
pub async fn run(options: &Options, mut interrupted: watch::Receiver<bool>) -> Result<Verdict> {
    let workloads = chosen_workloads(options)?;
    let mut nemeses = faults::chosen(&options.nemeses)?;
    let network = network(options)?;
    let folder = Folder::create(&options.folder)?;
    let mut settings = Settings::new()?;
    settings.hearthd.clone_from(&options.hearthd);
    settings
        .options
        .extend(options.node_options.iter().cloned());
    settings
        .environment
        .extend(options.environment.iter().cloned());
    settings.notes_syncs = true;
    settings.broadcast = network == Network::Namespaces
        && options.workloads.iter().any(|name| name == discovery::NAME);
    if let Some(size) = options.log_size_max {
        let short = ("HEARTH_LOG_SIZE_MAX".to_owned(), size.to_string());
        settings.environment.push(short);
    }
    // openraft warns of each heartbeat that a dead node does not get: 200 MB in an hour of faults.
    for option in &mut settings.options {
        if option == "info,openraft=warn" {
            "info,openraft=error".clone_into(option);
        }
    }

    let mut info = run_info(options, &settings, network);
    folder.write_run_info(&info)?;
    let mut told = Told::default();

    let run = Run::begin("campaign")?;
    prepare(&mut settings, &nemeses, &run, network);
    let net = match network {
        Network::Namespaces => Some(Net::build(&run, options.nodes + SPARE_PLACES)?),
        Network::Loopback => None,
    };
    let mut cluster = Cluster::new(Arc::clone(&run), net, settings);
    let stale = stale_node(options);
    cluster
        .found_with_each(options.nodes, |number, settings| {
            if Some(number) == stale {
                settings.options.extend(["--reads".into(), "stale".into()]);
            }
        })
        .await?;
    cluster.wait_until_healthy(1, PATIENCE).await?;
    eprintln!(
        "{} nodes serve on {}; seed {}, {} s, {} workloads, {} nemeses",
        options.nodes,
        match network {
            Network::Namespaces => "a network of their own",
            Network::Loopback => "loopback addresses",
        },
        options.seed,
        options.seconds,
        workloads.len(),
        nemeses.len()
    );

    if options.names > 0 {
        fill(&cluster, options.names).await?;
    }

    let begin = Instant::now();
    let history = Arc::new(Lines::create(&folder.history_path())?);
    let (over, over_seen) = watch::channel(false);
    let mut stages = Vec::new();
    for (number, workload) in (0_u32..).zip(&workloads) {
        let recorder = Recorder::of_workload(begin, workload.name(), Arc::clone(&history));
        let stage = Arc::new(Stage {
            seed: seed_of(options.seed, &workload.name()),
            clients: options.clients,
            first_process: number * PROCESSES_PER_WORKLOAD,
            endpoints: endpoints(&cluster, |node| Some(node) != stale),
            stale: endpoints(&cluster, |node| Some(node) == stale),
            interval: interval(options, workloads.len()),
            recorder: Arc::new(recorder),
            run: Arc::clone(&run),
            net: cluster.shared_net(),
            settings: cluster.settings().clone(),
            peer_addrs: (1..=options.nodes)
                .map(|node| cluster.peer_addr_of(node))
                .collect(),
            free_place: options.nodes + SPARE_PLACES,
            over: over_seen.clone(),
        });
        let why_not = workload.why_not_here(network);
        match why_not.or_else(|| workload.why_not(&stage)) {
            Some(reason) => told.problem(format!("workload {}: {reason}", workload.name())),
            None => stages.push((Arc::clone(workload), stage)),
        }
    }
    let clock = Recorder::of_workload(begin, "liveness", Arc::clone(&history));
    let clock = Arc::new(clock);
    let mut works = start(&stages);
    let states = states::Sampler::start(&cluster, begin, &folder, options.seed)?;
    let footprints = footprint::Sampler::start(&run, begin, &folder)?;

    // Faults, and work meanwhile.
    let mut plan = faults::Plan {
        nemeses: &mut nemeses,
        random: SmallRng::seed_from_u64(seed_of(options.seed, &"faults")),
        until: begin + Duration::from_secs(options.seconds),
        clock: Arc::clone(&clock),
        lines: Lines::create(&folder.faults_path())?,
        told: Vec::new(),
    };
    plan.carry_out(&mut cluster, &mut interrupted).await?;
    let faults = plan.told;
    let healed = clock.now();
    info.phases.push(phase("faults", 0, healed));

    let liveness = liveness::check(&mut cluster, &clock, u32::MAX - 100).await;
    let alive = clock.now();
    info.phases.push(phase("liveness", healed, alive));
    // A send fails when nobody listens any more: then all workloads have ended.
    let _ = over.send(true);
    told.join(&mut works).await;
    let mut found = vec![liveness, liveness::processes(&mut cluster)];
    let (restarted, restarts) = restarts::check(&mut cluster, options.restart_max).await;
    let is_back = restarts.len() == cluster.numbers().len()
        && restarts.values().all(|times| times.len() == 2);
    found.push(restarted);
    let again = clock.now();
    info.phases.push(phase("restarts", alive, again));
    // Nodes that do not come back answer nothing, and each workload would wait for them.
    if is_back {
        told.final_reads(&stages).await;
        found.push(liveness::same_state(&mut cluster).await);
        if options.names > 0 {
            let mut random = SmallRng::seed_from_u64(seed_of(options.seed, &"names"));
            found.push(preload::check(&cluster.endpoints(), options.names, &mut random).await);
        }
    }
    states.stop().await?;
    let mut figures = footprints.stop().await?;
    let lasted = begin.elapsed();
    found.extend(footprint::check(&figures, options.resident_max, lasted));
    for (node, times) in restarts {
        figures.entry(node).or_default().restarts_ms = times;
    }
    history.flush()?;
    let end = clock.now();
    info.phases.push(phase("final reads", again, end));
    keep_logs(&cluster, &folder)?;
    drop(cluster);
    info.ended_unix_ms = Some(unix_ms());
    folder.write_run_info(&info)?;

    if *interrupted.borrow() {
        told.problem(format!("interrupted after {} s", healed / 1_000_000_000));
    }
    told.problems.extend(faults::too_few(
        &faults,
        &options.nemeses,
        options.min_installed,
    ));
    let histories: Vec<verdict::History> = stages
        .iter()
        .map(|(workload, stage)| verdict::History {
            workload: Arc::clone(workload),
            operations: stage.recorder.operations(),
        })
        .collect();
    drop(stages);
    let verdict =
        verdict::judge(&folder, histories, &faults, found, figures, told.problems).await?;
    folder.write_verdict(&verdict)?;
    crate::report::write(&folder)?;
    Ok(verdict)
}

/// Registers names, and waits until all nodes have them.
async fn fill(cluster: &Cluster, count: u64) -> Result<()> {
    let begin = Instant::now();
    preload::register(&cluster.endpoints(), count).await?;
    cluster.same_state(1, PATIENCE).await?;
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!(
        "{count} names registered in {seconds:.1} s, {:.0} a second",
        count as f64 / seconds
    );
    Ok(())
}

/// Bytes of the file system that each node has for itself, where one is to be filled.
const VOLUME_LEN: u64 = 512 << 20;

/// Has nodes started with what the nemeses need under them, as far as this machine has it.
pub fn prepare(settings: &mut Settings, nemeses: &[Box<dyn Nemesis>], run: &Run, network: Network) {
    let needs = nemeses
        .iter()
        .map(|nemesis| nemesis.needs())
        .fold(Needs::default(), Needs::and);
    if needs.shims {
        settings.shims = Some(Shims::compile(run.folder()));
    }
    // Who wants loopback addresses has no right to mount either.
    let is_possible = network == Network::Namespaces && Volume::why_not().is_none();
    if needs.volumes && is_possible {
        settings.volume_len = Some(VOLUME_LEN);
    }
}

/// What went wrong with the run itself.
#[derive(Debug, Default)]
struct Told {
    problems: Vec<String>,
}

impl Told {
    fn problem(&mut self, text: String) {
        eprintln!("problem: {text}");
        self.problems.push(text);
    }

    /// Waits until all work has ended.
    async fn join(&mut self, works: &mut JoinSet<(&'static str, Result<()>)>) {
        while let Some(ended) = works.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((workload, Err(error))) => self.problem(format!("workload {workload}: {error}")),
                Err(error) => self.problem(format!("a workload panicked: {error}")),
            }
        }
    }

    /// Reads everything once more, one workload after the other.
    async fn final_reads(&mut self, stages: &[(Arc<dyn Workload>, Arc<Stage>)]) {
        for (workload, stage) in stages {
            if let Err(error) = workload.final_reads(Arc::clone(stage)).await {
                self.problem(format!("workload {}: {error}", workload.name()));
            }
        }
    }
}

fn start(stages: &[(Arc<dyn Workload>, Arc<Stage>)]) -> JoinSet<(&'static str, Result<()>)> {
    let mut works = JoinSet::new();
    for (workload, stage) in stages {
        let name = workload.name();
        let work = workload.work(Arc::clone(stage));
        works.spawn(async move { (name, work.await) });
    }
    works
}

fn chosen_workloads(options: &Options) -> Result<Vec<Arc<dyn Workload>>> {
    options
        .workloads
        .iter()
        .map(|name| {
            crate::workload::named(name).ok_or_else(|| RigError::Refused {
                what: format!("--workloads {name}"),
                reason: "there is no such workload; `list` shows them".into(),
            })
        })
        .collect()
}

fn network(options: &Options) -> Result<Network> {
    if options.loopback {
        return Ok(Network::Loopback);
    }
    match Net::why_not() {
        None => Ok(Network::Namespaces),
        Some(reason) => Err(RigError::Refused {
            what: "a network of the run's own".into(),
            reason: format!(
                "{reason}; run as root, or with --loopback and without the faults of the network"
            ),
        }),
    }
}

/// The node that answers with stale reads, if a workload wants one. All other workloads leave it out as
/// a client's node; it takes part in everything else.
fn stale_node(options: &Options) -> Option<u64> {
    let is_wanted = options.workloads.iter().any(|name| name == "stale");
    is_wanted.then_some(options.nodes)
}

fn endpoints(cluster: &Cluster, takes: impl Fn(u64) -> bool) -> Vec<(u64, hearth_cli::Address)> {
    let mut endpoints = cluster.endpoints();
    endpoints.retain(|&(node, _)| takes(node));
    endpoints
}

fn interval(options: &Options, workloads: usize) -> Duration {
    let clients = workloads as f64 * f64::from(options.clients);
    options.rate.map_or(Duration::ZERO, |rate| {
        Duration::from_secs_f64(clients / rate.max(1) as f64)
    })
}

fn phase(name: &str, begin_ns: u64, end_ns: u64) -> Phase {
    Phase {
        name: name.to_owned(),
        begin_ns,
        end_ns,
    }
}

fn run_info(options: &Options, settings: &Settings, network: Network) -> RunInfo {
    let hearthd = settings.program();
    let version = std::process::Command::new(&hearthd)
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    RunInfo {
        format: FORMAT,
        seed: options.seed,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hearthd,
        hearthd_version: version,
        arguments: options.arguments.clone(),
        node_options: settings.options.clone(),
        nodes: options.nodes,
        seconds: options.seconds,
        rate: options.rate,
        clients: options.clients,
        names: options.names,
        network,
        workloads: options.workloads.clone(),
        nemeses: options.nemeses.clone(),
        began_unix_ms: unix_ms(),
        ended_unix_ms: None,
        phases: Vec::new(),
    }
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// Keeps the logs of all places, also of those whose nodes have left.
fn keep_logs(cluster: &Cluster, folder: &Folder) -> Result<()> {
    for (place, from) in logs(cluster) {
        let to = folder.log_path(place);
        fs::copy(&from, &to).map_err(RigError::system(to.display().to_string()))?;
    }
    Ok(())
}

/// The logs of all places that ever had a node.
fn logs(cluster: &Cluster) -> Vec<(u64, PathBuf)> {
    let last = cluster.numbers().last().copied().unwrap_or(0) + SPARE_PLACES;
    (1..=last)
        .map(|place| {
            let log = format!("node-{place}/log");
            (place, cluster.run().folder().join(log))
        })
        .filter(|(_, log)| log.exists())
        .collect()
}

/// The nemeses of a campaign, by their boxes.
pub type Nemeses = Vec<Box<dyn Nemesis>>;
