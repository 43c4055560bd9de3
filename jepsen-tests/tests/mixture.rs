//! The program as a whole: runs with all workloads and nemeses, strangers among honest clients, and the
//! violations that it must detect, the arguments that it must refuse, and the processes that it must clean up.
//!
//! `HEARTH_SEED` repeats the random choices of an earlier run; each run prints its seed.

// A panic in a helper fails its test, as it should.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hearth_jepsen_tests::campaign::{self, Options, faults, verdict};
use hearth_jepsen_tests::folder::{Folder, Network, Valid, Verdict};
use hearth_jepsen_tests::net::Net;
use hearth_jepsen_tests::{programs, workload};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Mutex, MutexGuard, watch};

/// Runs one cluster at a time, because clusters would slow each other down.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// A run directory for one test, which is removed if the test succeeds.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("hearth-mixture-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the run's folder is kept: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

fn options(folder: &Path) -> Options {
    let seed = std::env::var("HEARTH_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().unwrap());
    eprintln!("HEARTH_SEED={seed}");
    Options {
        nodes: 5,
        seconds: 30,
        seed,
        rate: Some(200),
        clients: 3,
        workloads: all_workloads(),
        nemeses: names(faults::all().iter().map(|one| one.name())),
        folder: folder.to_owned(),
        loopback: false,
        hearthd: None,
        log_size_max: Some(24 << 10),
        node_options: Vec::new(),
        environment: Vec::new(),
        min_installed: 0,
        names: 0,
        resident_max: None,
        restart_max: None,
        arguments: vec!["mixture.rs".to_owned()],
    }
}

/// Returns all workloads that this machine can run, and reports the others as skipped.
fn all_workloads() -> Vec<String> {
    let (here, not) = workload::all_here(Network::Namespaces);
    for (name, reason) in not {
        hearth_skipped::skipped(format_args!("workload {name}: {reason}"));
    }
    here
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}

async fn run(options: &Options) -> Verdict {
    // The sender is kept, and never interrupts the run.
    let (_sender, interrupted) = watch::channel(false);
    campaign::run(options, interrupted).await.unwrap()
}

fn figures(verdict: &Verdict) {
    for checker in &verdict.checkers {
        eprintln!(
            "figure: {} {}: {}",
            checker.valid, checker.name, checker.text
        );
    }
    for (nemesis, counts) in &verdict.faults {
        eprintln!("figure: {nemesis}: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_everything_shows_no_anomaly() {
    if let Some(reason) = Net::why_not() {
        return hearth_skipped::skipped(reason);
    }
    let _alone = alone().await;
    // With three nodes, the leader and one follower are a majority, and followers read on another path.
    for nodes in [3, 5] {
        let scratch = Scratch::new(&format!("minute-{nodes}"));
        let verdict = run(&Options {
            nodes,
            ..options(&scratch.0)
        })
        .await;
        figures(&verdict);
        assert_eq!(verdict.valid, Valid::True, "{verdict:#?}");
        assert!(installed(&verdict) >= 2, "{:?}", verdict.faults);
        for file in [
            "run.json",
            "history.jsonl",
            "faults.jsonl",
            "footprints.jsonl",
            "node1.log",
            "report.html",
        ] {
            assert!(scratch.0.join(file).exists(), "{file}");
        }
    }
}

fn installed(verdict: &Verdict) -> u64 {
    verdict.faults.values().map(|counts| counts.installed).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_nothing_and_harm_nobody() {
    if let Some(reason) = Net::why_not() {
        return hearth_skipped::skipped(reason);
    }
    let _alone = alone().await;
    let scratch = Scratch::new("strangers");
    let workloads = campaign::BESIDE_STRANGERS.into_iter();
    let nemeses = ["kill-one", "kill-leader", "pause-one", "halves", "impostor"];
    let verdict = run(&Options {
        nodes: 3,
        rate: Some(100),
        clients: 2,
        workloads: names(workloads.chain([workload::stranger::NAME])),
        nemeses: names(nemeses.into_iter()),
        log_size_max: None,
        names: 3_000,
        ..options(&scratch.0)
    })
    .await;
    figures(&verdict);
    assert_eq!(verdict.valid, Valid::True, "{verdict:#?}");
    assert!(installed(&verdict) >= 2, "{:?}", verdict.faults);
    assert!(
        verdict
            .nodes
            .values()
            .all(|node| node.restarts_ms.len() == 2),
        "{:?}",
        verdict.nodes
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_reads_are_seen_and_a_recorded_history_is_judged_the_same() {
    let _alone = alone().await;
    let scratch = Scratch::new("stale");
    let options = Options {
        nodes: 3,
        seconds: 5,
        rate: None,
        clients: 6,
        loopback: true,
        workloads: names(["names", "set", "registry"].into_iter()),
        nemeses: Vec::new(),
        node_options: vec!["--reads".to_owned(), "stale".to_owned()],
        ..options(&scratch.0)
    };
    let verdict = run(&options).await;
    figures(&verdict);
    let valid = |verdict: &Verdict| -> BTreeMap<String, Valid> {
        let of = |one: &hearth_jepsen_tests::folder::CheckerVerdict| (one.name.clone(), one.valid);
        verdict.checkers.iter().map(of).collect()
    };
    for name in [
        "linearizable per name",
        "growing set",
        "whole lists in one order",
    ] {
        assert_eq!(valid(&verdict)[name], Valid::False, "{name}");
    }
    let evidence = |one: &&hearth_jepsen_tests::folder::CheckerVerdict| one.valid == Valid::False;
    assert!(
        verdict
            .checkers
            .iter()
            .filter(evidence)
            .all(|one| !one.counterexample.is_empty())
    );
    assert_eq!(verdict.valid, Valid::False);
    let again = verdict::again(&Folder::open(&scratch.0).unwrap())
        .await
        .unwrap();
    assert_eq!(valid(&again), valid(&verdict));
}

/// The running program, with nodes on loopback addresses.
struct Program {
    child: Child,
    /// The process ids of its nodes.
    nodes: Vec<u32>,
}

impl Program {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hearth-jepsen-tests"))
            .args(["run", "--loopback", "--nodes", "3", "--seconds", "600"])
            .args(["--workloads", "names,set", "--nemeses", "none", "--folder"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = child.stderr.take().unwrap();
        let mut lines = BufReader::new(errors).lines();
        let serving = lines.find(|line| line.as_ref().unwrap().contains("nodes serve on"));
        assert!(serving.is_some(), "it ended before its nodes served");
        // The program continues to write to this pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let nodes = children(child.id());
        assert!(nodes.len() >= 3, "{nodes:?}");
        Self { child, nodes }
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(120),
                "it does not end"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn expect_no_nodes(&self) {
        let begin = Instant::now();
        while let Some(node) = self.nodes.iter().find(|&&node| is_alive(node)) {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "process {node} is left"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn children(of: u32) -> Vec<u32> {
    let is_child = |id: &u32| stat(*id).is_some_and(|words| words[1] == of.to_string());
    let ids = std::fs::read_dir("/proc").unwrap();
    ids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(is_child)
        .collect()
}

/// Returns the fields of `/proc/ID/stat` after the name: state, parent, ….
fn stat(id: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

fn is_alive(id: u32) -> bool {
    stat(id).is_some_and(|words| words[0] != "Z")
}

fn signal(id: u32, signal: Signal) {
    let id = Pid::from_raw(id.try_into().unwrap()).unwrap();
    kill_process(id, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_still_gives_a_verdict_and_a_killed_one_leaves_no_process() {
    let _alone = alone().await;
    programs::folder().unwrap();
    let scratch = Scratch::new("interrupted");
    let mut program = Program::start(&scratch.0);
    signal(program.child.id(), Signal::INT);
    let status = program.wait();
    // No violation was found, but the run is incomplete.
    assert_eq!(status.code(), Some(3));
    program.expect_no_nodes();
    let folder = Folder::open(&scratch.0).unwrap();
    let verdict = folder.verdict().unwrap().unwrap();
    assert!(
        verdict
            .problems
            .iter()
            .any(|text| text.contains("interrupted"))
    );
    assert!(folder.run_info().unwrap().ended_unix_ms.is_some());

    let scratch = Scratch::new("killed");
    let mut program = Program::start(&scratch.0);
    let folder = Folder::open(&scratch.0).unwrap();
    let begin = Instant::now();
    // The history is written while the run goes on.
    let has_history = || folder.history().is_ok_and(|history| !history.is_empty());
    while !has_history() {
        assert!(begin.elapsed() < Duration::from_secs(30), "no history");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(program.child.id(), Signal::KILL);
    program.wait();
    program.expect_no_nodes();
    assert_eq!(folder.verdict().unwrap(), None);
    assert!(folder.run_info().unwrap().ended_unix_ms.is_none());
}

#[test]
fn what_cannot_be_run_is_said_with_the_way_out() {
    let try_to = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hearth-jepsen-tests"))
            .args(words)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = try_to(&["run", "--loopback", "--workloads", "naps"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("naps") && text.contains("list"), "{text}");
    let (code, text) = try_to(&["run", "--loopback", "--nemeses", "storm"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("storm"), "{text}");
    let (code, text) = try_to(&["run", "--nodes", "2"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("3..=7"), "{text}");
    let (code, _) = try_to(&["check", "/nonexistent"]);
    assert_eq!(code, Some(2));
}
