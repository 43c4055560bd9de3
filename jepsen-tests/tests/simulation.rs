//! Simulated clusters: a seed gives the same run each time, and Hearth holds on every seed.
//!
//! `HEARTH_SIM_SEEDS=A..B` selects other seeds than the default ones.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;

use hearth_jepsen_tests::sim::{self, Report, Simulator};

fn simulator() -> Simulator {
    Simulator::new(env!("CARGO_BIN_EXE_hearth-jepsen-tests"))
}

fn seeds() -> Range<u64> {
    match std::env::var("HEARTH_SIM_SEEDS") {
        Ok(text) => sim::seeds(&text).unwrap(),
        Err(_) => 0..200,
    }
}

#[test]
fn a_seed_is_the_same_each_time_and_no_other_is() {
    let mut traces: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 1000..1008 {
        let first = simulator().run(seed);
        assert!(first.events > 1000, "{first}");
        assert_eq!(first, simulator().run(seed));
        if let Some(other) = traces.insert(first.trace.clone(), seed) {
            panic!("seeds {other} and {seed} have the same trace: {first}");
        }
    }
}

#[test]
fn whatever_goes_wrong_it_holds() {
    let seeds = seeds();
    println!("seeds {seeds:?}");
    let mut reports: Vec<Report> = Vec::new();
    simulator().run_all(seeds.clone(), |report| {
        if !report.holds() {
            eprintln!("{report}");
        }
        reports.push(report);
        true
    });
    // An undecided check counts as a failure, because it shows nothing.
    let wrong: Vec<u64> = reports
        .iter()
        .filter(|report| !report.holds())
        .map(|report| report.seed)
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} seeds do not hold: {wrong:?}; see above",
        wrong.len(),
        reports.len()
    );
    let summary = sim::Summary::of(&reports);
    println!("{summary}");
    // Many seeds must have injected every fault, and had unknown outcomes and installed snapshots.
    if reports.len() >= 100 {
        assert_eq!(summary.never_installed(), Vec::<String>::new(), "{summary}");
        let least = 100 * reports.len() as u64;
        assert!(summary.operations.ok > least, "{summary}");
        assert!(summary.operations.unknown > 0, "{summary}");
        assert!(summary.installs > 0, "{summary}");
    }
}
