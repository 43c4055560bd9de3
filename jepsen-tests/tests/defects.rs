//! Tests of the rig and of the simulation themselves: nodes with an injected fault must be detected.
//!
//! `HEARTH_DEFECT_BIN_DIR` names a directory with a `hearthd` and a `hearth-jepsen-tests` that were built with
//! the feature `defects` (see `raft/src/defect.rs`); the test command makes one. Faults that show only if a
//! power failure hits the right microsecond are tested in the simulation alone.

// A panic in a helper fails its test, as it should.
#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hearth_jepsen_tests::campaign::{self, Options};
use hearth_jepsen_tests::check::name;
use hearth_jepsen_tests::client::{Client, Recorder, plain};
use hearth_jepsen_tests::cluster::{Cluster, PATIENCE};
use hearth_jepsen_tests::folder::Valid;
use hearth_jepsen_tests::history::{Action, Outcome};
use hearth_jepsen_tests::net::Net;
use hearth_jepsen_tests::node::Settings;
use hearth_jepsen_tests::sim::{Report, Simulator};
use tokio::sync::{Mutex, MutexGuard, watch};

const DEFECT: &str = "HEARTH_DEFECT";

/// The number of runs within which a fault must be detected.
const ATTEMPTS: u64 = 8;

/// Runs one cluster at a time, because clusters would slow each other down.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Returns the directory of the programs with fault injection.
///
/// # Errors
/// The reason if there is none.
fn folder() -> Result<PathBuf, String> {
    let folder = std::env::var_os("HEARTH_DEFECT_BIN_DIR")
        .ok_or("HEARTH_DEFECT_BIN_DIR names no folder with programs that can make mistakes")?;
    Ok(PathBuf::from(folder))
}

/// Returns the `hearthd` with fault injection.
fn defective() -> Result<PathBuf, String> {
    Ok(folder()?.join("hearthd"))
}

/// Returns the `hearthd` with fault injection, on a machine whose network can be partitioned.
fn defective_on_a_network() -> Result<PathBuf, String> {
    match Net::why_not() {
        Some(reason) => Err(reason),
        None => defective(),
    }
}

/// Runs nodes with an injected fault under nemeses until a checker detects it. The runs cycle through the
/// cluster sizes. Panics if no run detects it.
async fn assert_seen(
    hearthd: &Path,
    defect: &str,
    sizes: &[u64],
    nemeses: &[&str],
    workloads: &[&str],
) {
    let _alone = alone().await;
    let begin = Instant::now();
    for (attempt, &nodes) in (1..=ATTEMPTS).zip(sizes.iter().cycle()) {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            nodes,
            seconds: 20,
            seed: rand::random(),
            rate: None,
            clients: 4,
            workloads: workloads.iter().map(ToString::to_string).collect(),
            nemeses: nemeses.iter().map(ToString::to_string).collect(),
            folder: folder.path().join("run"),
            loopback: false,
            hearthd: Some(hearthd.to_owned()),
            log_size_max: Some(16 << 10),
            node_options: Vec::new(),
            environment: vec![(DEFECT.to_owned(), defect.to_owned())],
            min_installed: 0,
            names: 0,
            resident_max: None,
            restart_max: None,
            arguments: vec!["defects.rs".to_owned()],
        };
        // The sender is kept, and never interrupts the run.
        let (_sender, interrupted) = watch::channel(false);
        let verdict = campaign::run(&options, interrupted).await.unwrap();
        let seen_by: Vec<&str> = verdict
            .checkers
            .iter()
            .filter(|checker| checker.valid == Valid::False)
            .map(|checker| checker.name.as_str())
            .collect();
        if !seen_by.is_empty() {
            eprintln!(
                "figure: {defect}: seen with {nodes} nodes in run {attempt} of 20 s, after {:.0} s in all, by: {}",
                begin.elapsed().as_secs_f64(),
                seen_by.join(", ")
            );
            return;
        }
    }
    panic!("{defect}: not seen in {ATTEMPTS} runs");
}

macro_rules! or_skip {
    ($found:expr) => {
        match $found {
            Ok(found) => found,
            Err(reason) => {
                return hearth_skipped::skipped(reason);
            }
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_without_a_question_are_seen() {
    let hearthd = or_skip!(defective_on_a_network());
    let nemeses = ["halves", "isolate-leader", "pause-one"];
    let workloads = ["names", "set"];
    assert_seen(&hearthd, "local-reads", &[3], &nemeses, &workloads).await;
    assert_seen(&hearthd, "local-reads", &[5], &nemeses, &workloads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_are_executed_twice_are_seen() {
    let hearthd = or_skip!(defective_on_a_network());
    let nemeses = ["kill-leader", "isolate-leader", "pause-leader"];
    let workloads = ["names", "once", "removals"];
    assert_seen(&hearthd, "no-deduplication", &[3, 5], &nemeses, &workloads).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_without_its_switch_is_seen() {
    let hearthd = or_skip!(defective_on_a_network());
    let nemeses = ["pause-one", "kill-one"];
    assert_seen(&hearthd, "no-switch", &[5, 3], &nemeses, &["names", "set"]).await;
}

/// The seeds within which a fault must be detected.
const SEEDS: Range<u64> = 0..400;

#[test]
fn the_simulation_sees_mistakes_too() {
    let folder = or_skip!(folder());
    let simulator = Simulator::new(folder.join("hearth-jepsen-tests"));
    for defect in [
        "unsynced-acknowledgement",
        "index-apart",
        "no-deduplication",
        "local-reads",
        "reused-id",
        "no-switch",
    ] {
        let begin = Instant::now();
        let mut seen: Option<Report> = None;
        let mut count = 0;
        simulator
            .clone()
            .with(DEFECT, defect)
            .run_all(SEEDS, |report| {
                count += 1;
                if report.is_wrong() {
                    seen.get_or_insert(report);
                }
                seen.is_none()
            });
        let seen = seen.unwrap_or_else(|| panic!("{defect}: not seen in the seeds {SEEDS:?}"));
        eprintln!(
            "figure: {defect}: seen by the simulation in seed {}, the {count}th that was done, after {:.1} s: {}",
            seen.seed,
            begin.elapsed().as_secs_f64(),
            seen.problems.first().map_or("", String::as_str)
        );
    }
}

/// A voter that lost its data directory returns under its old node id while the only node that knows the
/// acknowledged writes is down. Together with a lagging node it is a majority, which has lost those writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_used_again_is_seen() {
    let hearthd = or_skip!(defective());
    let _alone = alone().await;
    let begin = Instant::now();
    let mut settings = Settings::new().unwrap();
    settings.hearthd = Some(hearthd);
    let defect = (DEFECT.to_owned(), "reused-id".to_owned());
    settings.environment.push(defect);
    let mut cluster = Cluster::found("reused id", 3, settings).await.unwrap();
    cluster.wait_until_healthy(1, PATIENCE).await.unwrap();
    cluster.node(3).kill();
    let recorder = Arc::new(Recorder::default());
    let mut client = Client::new(1, cluster.endpoints_from(1), &recorder);
    for number in 0..20 {
        let action = Action::Register {
            name: format!("reused.{number}"),
            entry: plain(format!("PYRO:o{number}@h:1")),
            safe: false,
        };
        let told = client.perform(action).await;
        assert!(matches!(told.outcome, Outcome::Ok(_)), "{told:?}");
    }
    cluster.node(1).kill();
    cluster.node(2).kill();
    cluster.node(2).wipe().unwrap();
    cluster.node(2).start().unwrap();
    cluster.node(3).start().unwrap();
    // Correct nodes would refuse to form a majority; these two do form one.
    let served = cluster.node(3).wait_until_it_serves(PATIENCE).await;
    served.unwrap();
    let mut client = Client::new(2, cluster.endpoints_from(3), &recorder);
    for number in 0..20 {
        let name = format!("reused.{number}");
        client.perform(Action::Lookup { name }).await;
    }
    let verdict = name::check(&recorder.operations());
    assert!(!verdict.holds(), "{verdict:?}");
    eprintln!(
        "figure: reused-id: seen after {:.0} s by: linearizable per name",
        begin.elapsed().as_secs_f64()
    );
}
