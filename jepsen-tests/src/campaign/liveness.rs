//! What must be true once everything is healed: each node serves reads and writes within a bound, all hold
//! the same, and no process has ended that nobody ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Client, Recorder, plain};
use crate::cluster::Cluster;
use crate::folder::{CheckerVerdict, Valid};
use crate::history::{Action, Outcome};

/// How soon every node must serve again. It is generous, for machines that do other things too; the time
/// that it took is in the verdict.
pub const BOUND: Duration = Duration::from_secs(60);

/// Writes and reads through each node until it answers both.
pub async fn check(
    cluster: &mut Cluster,
    recorder: &Arc<Recorder>,
    first_process: u32,
) -> CheckerVerdict {
    let name = "liveness after healing";
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    let mut nodes = 0;
    for (process, endpoint) in (first_process..).zip(cluster.endpoints()) {
        let node = endpoint.0;
        nodes += 1;
        let mut client =
            Client::new(process, vec![endpoint], recorder).with_timeout(Duration::from_secs(5));
        let subject = format!("liveness.{node}");
        let actions = [
            Action::Register {
                name: subject.clone(),
                entry: plain("PYRO:o@h:1"),
                safe: false,
            },
            Action::Lookup { name: subject },
        ];
        for action in actions {
            loop {
                let told = client.perform(action.clone()).await;
                let seen = match told.outcome {
                    Outcome::Ok(_) => break,
                    Outcome::Failed(seen) | Outcome::Unknown(seen) => seen,
                };
                if begin.elapsed() > BOUND {
                    let runs = cluster.node(node).is_running();
                    let tail = cluster.node(node).log_tail(5);
                    let text = format!(
                        "node {node} answers no {} {BOUND:?} after everything was healed: {seen}; its process \
                         {}; its log ends with: {tail}",
                        action.kind(),
                        if runs { "runs" } else { "has ended" },
                    );
                    return CheckerVerdict::new(name, Valid::False, text);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        longest = longest.max(begin.elapsed());
    }
    let text = format!(
        "all {nodes} nodes serve reads and writes {:.1} s after everything was healed; the bound is {} s",
        longest.as_secs_f64(),
        BOUND.as_secs()
    );
    CheckerVerdict::new(name, Valid::True, text)
}

/// Waits until all members have applied the same, and compares their states.
pub async fn same_state(cluster: &mut Cluster) -> CheckerVerdict {
    let name = "same state at the end";
    let Some(&node) = cluster.running().first() else {
        return CheckerVerdict::new(name, Valid::False, "no node runs");
    };
    match cluster.same_state(node, BOUND).await {
        Ok(state) => {
            let text = format!(
                "{} nodes hold state {} at index {}",
                state.nodes, state.hash, state.applied
            );
            CheckerVerdict::new(name, Valid::True, text)
        }
        Err(error) => CheckerVerdict::new(name, Valid::False, error.to_string()),
    }
}

/// Looks for processes that have ended by themselves, and for panics in the logs.
pub fn processes(cluster: &mut Cluster) -> CheckerVerdict {
    let name = "no node fails by itself";
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut snapshots = 0;
    for node in cluster.nodes() {
        count += 1;
        let number = node.number();
        if !node.is_running() {
            wrong.push(format!("node {number} does not run at the end"));
        }
    }
    for (place, log) in super::logs(cluster) {
        let log = std::fs::read(log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        snapshots += log.matches("a snapshot is installed").count();
        if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
            wrong.push(format!("node {place}: {line}"));
        }
    }
    if wrong.is_empty() {
        let text = format!(
            "{count} nodes run, and no log tells of a panic; they received {snapshots} snapshots"
        );
        CheckerVerdict::new(name, Valid::True, text)
    } else {
        CheckerVerdict::new(name, Valid::False, wrong.join("; "))
    }
}
