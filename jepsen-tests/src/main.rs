//! `hearth-jepsen-tests`: real nodes, real faults, and a verdict. Standard output has the verdict, standard
//! error what happens meanwhile.
//!
//! Exit codes: 0 all that was checked holds; 1 something does not; 2 the run could not be carried
//! out; 3 nothing was found wrong, but not everything that was asked for could be done or decided.

mod args;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use hearth_jepsen_tests::campaign::{self, Options, faults, verdict};
use hearth_jepsen_tests::folder::{Folder, OutcomeKind, Valid, Verdict};
use hearth_jepsen_tests::{report, sim, workload};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use args::{Args, Command, RunArgs};

fn main() -> ExitCode {
    if let Some(code) = sim::run_if_told() {
        return code;
    }
    let args = Args::parse();
    match work(args.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn work(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    match command {
        Command::Run(args) => runtime.block_on(run(&args, 0)),
        Command::Nightly(args) => runtime.block_on(run(&args.to_run(), args.min_installed)),
        Command::Stranger(args) => runtime.block_on(run(&args.to_run(), 0)),
        Command::Simulate { seeds } => simulate(seeds),
        Command::List => {
            list();
            Ok(ExitCode::SUCCESS)
        }
        Command::Report { folder } => {
            let folder = Folder::open(&folder)?;
            report::write(&folder)?;
            println!("{}", folder.report_path().display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { folder } => {
            let folder = Folder::open(&folder)?;
            let verdict = runtime.block_on(verdict::again(&folder))?;
            folder.write_verdict(&verdict)?;
            report::write(&folder)?;
            conclude(&verdict, folder.path());
            Ok(exit_code(verdict.valid))
        }
    }
}

/// Runs seeds, each in a process of its own, and says which do not hold.
fn simulate(seeds: std::ops::Range<u64>) -> Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let one = seeds.end - seeds.start == 1;
    let mut summary = sim::Summary::default();
    sim::Simulator::new(program).run_all(seeds, |report| {
        if one || !report.holds() {
            println!("{report}");
        }
        summary.add(&report);
        if summary.seeds.is_multiple_of(500) {
            eprintln!(
                "{} seeds, {} of them wrong, {} checks undecided",
                summary.seeds, summary.wrong, summary.undecided
            );
        }
        true
    });
    println!("{summary}");
    Ok(match (summary.wrong, summary.undecided) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(3),
        _ => ExitCode::from(1),
    })
}

fn list() {
    println!("workloads:");
    for workload in workload::all() {
        println!("  {:<12} {}", workload.name(), workload.about());
    }
    println!("nemeses:");
    for nemesis in faults::all() {
        println!("  {:<12} {}", nemesis.name(), nemesis.about());
    }
}

/// Runs with each number of nodes, one after the other.
async fn run(args: &RunArgs, least: u64) -> Result<ExitCode> {
    let interrupted = interruptions()?;
    let runs = async {
        let mut worst = Valid::True;
        for &nodes in &args.nodes {
            if *interrupted.once.borrow() {
                break;
            }
            let options = options(args, nodes, least);
            // Before anything can go wrong: whoever sees a failure can try the same choices again.
            println!("{nodes} nodes, seed {}", options.seed);
            let verdict = campaign::run(&options, interrupted.once.clone()).await?;
            conclude(&verdict, &options.folder);
            worst = worst.and(verdict.valid);
        }
        Ok(exit_code(worst))
    };
    tokio::select! {
        code = runs => code,
        () = interrupted.twice => {
            anyhow::bail!("interrupted twice: the run was broken off; what it made is removed")
        }
    }
}

fn options(args: &RunArgs, nodes: u64, least: u64) -> Options {
    let seed = args.seed.unwrap_or_else(rand::random);
    let folder = match &args.folder {
        Some(folder) if args.nodes.len() > 1 => folder.join(format!("{nodes}-nodes")),
        Some(folder) => folder.clone(),
        None => new_folder(seed),
    };
    Options {
        nodes,
        seconds: args.seconds,
        seed,
        rate: (args.rate > 0).then_some(args.rate),
        clients: args.clients,
        workloads: args.workloads(),
        nemeses: args.nemeses(),
        folder,
        loopback: args.loopback,
        hearthd: args.hearthd.clone(),
        log_size_max: (args.log_size_max > 0).then_some(args.log_size_max),
        node_options: args.node_options.clone(),
        environment: Vec::new(),
        min_installed: args.min_installed.unwrap_or(least),
        names: args.names,
        resident_max: args.memory_max.map(|megabytes| megabytes << 20),
        restart_max: args.restart_max.map(Duration::from_secs),
        arguments: std::env::args().skip(1).collect(),
    }
}

/// A folder that does not exist yet.
fn new_folder(seed: u64) -> PathBuf {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    PathBuf::from(format!("hearth-run-{seconds}-{seed}"))
}

struct Interruptions<F> {
    /// True after the first signal.
    once: watch::Receiver<bool>,
    /// Ends with the second one.
    twice: F,
}

/// SIGINT and SIGTERM: the first one ends the faults early, the second one everything.
fn interruptions() -> Result<Interruptions<impl Future<Output = ()>>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let (told, once) = watch::channel(false);
    let twice = async move {
        for count in 1..=2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if count == 1 {
                eprintln!("interrupted: healing and checking what there is; once more breaks off");
                // It fails when the run is over already.
                let _ = told.send(true);
            }
        }
    };
    Ok(Interruptions { once, twice })
}

fn exit_code(valid: Valid) -> ExitCode {
    ExitCode::from(match valid {
        Valid::True => 0,
        Valid::False => 1,
        Valid::Unknown => 3,
    })
}

/// Prints the verdict.
fn conclude(verdict: &Verdict, folder: &Path) {
    println!("\noperations               ok   failed  unknown");
    for (workload, counts) in &verdict.operations {
        let of = |kind| counts.get(&kind).copied().unwrap_or(0);
        println!(
            "  {workload:<16} {:>8} {:>8} {:>8}",
            of(OutcomeKind::Ok),
            of(OutcomeKind::Failed),
            of(OutcomeKind::Unknown)
        );
    }
    if !verdict.faults.is_empty() {
        println!(
            "\nfaults            installed  skipped  indeterminate  ok meanwhile  longest gap of writes"
        );
    }
    for (nemesis, counts) in &verdict.faults {
        let figures = verdict.availability.get(nemesis).copied();
        let figures = figures.unwrap_or_default();
        let share = 100.0 * figures.ok as f64 / figures.operations.max(1) as f64;
        println!(
            "  {nemesis:<16} {:>8} {:>8} {:>14} {:>12} {:>14}",
            counts.installed,
            counts.skipped,
            counts.indeterminate,
            if figures.operations > 0 {
                format!("{share:.1} %")
            } else {
                "-".into()
            },
            if figures.faults > 0 {
                format!("{:.1} s", figures.longest_gap_ms as f64 / 1e3)
            } else {
                "-".into()
            },
        );
    }
    if verdict.overall.faults + verdict.overall.operations > 0 {
        println!(
            "\nlongest time without an acknowledged write: {:.1} s; {:.1} s where no fault explains it",
            verdict.overall.longest_gap_ms as f64 / 1e3,
            verdict.calm_gap_ms as f64 / 1e3
        );
    }
    if !verdict.nodes.is_empty() {
        println!("\nnodes   memory at most   at the end        log   starts   restarts at the end");
    }
    for (node, figures) in &verdict.nodes {
        let restarts: Vec<String> = figures.restarts_ms.iter().map(u64::to_string).collect();
        println!(
            "  {node:<3} {:>14} MB {:>9} MB {:>7} kB {:>8}   {} ms",
            figures.resident_max >> 20,
            figures.resident_end >> 20,
            figures.log_len >> 10,
            figures.starts,
            restarts.join(", ")
        );
    }
    println!("\ncheckers");
    for checker in &verdict.checkers {
        let of = checker.workload.as_deref().map(|name| format!(" ({name})"));
        println!(
            "  {:<8} {}{}: {}",
            checker.valid.to_string(),
            checker.name,
            of.unwrap_or_default(),
            checker.text
        );
    }
    for problem in &verdict.problems {
        println!("problem: {problem}");
    }
    println!("\nvalid: {}; see {}", verdict.valid, folder.display());
}
