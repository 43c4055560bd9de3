//! What every run ends with: each node is stopped in order and started again, and then all are killed at once
//! and started again. Whatever the run has put into a data folder, it must open.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{Cluster, PATIENCE};
use crate::error::Result;
use crate::folder::{CheckerVerdict, Valid};

/// How long each node took to serve after its starts, in milliseconds.
pub(super) type Restarts = BTreeMap<u64, Vec<u64>>;

/// Restarts all; a node that serves later than `bound` after its start is a violation.
pub(super) async fn check(
    cluster: &mut Cluster,
    bound: Option<Duration>,
) -> (CheckerVerdict, Restarts) {
    let name = "every node restarts and serves";
    let mut times = Restarts::new();
    if let Err(error) = restart_all(cluster, &mut times).await {
        let verdict = CheckerVerdict::new(name, Valid::False, error.to_string());
        return (verdict, times);
    }
    let longest = times.values().flatten().max().copied().unwrap_or(0);
    let text: Vec<String> = times
        .iter()
        .map(|(node, times)| {
            let times: Vec<String> = times.iter().map(u64::to_string).collect();
            format!("node {node} after {} ms", times.join(" and "))
        })
        .collect();
    let text = text.join("; ");
    let is_late = bound.is_some_and(|bound| u128::from(longest) > bound.as_millis());
    let verdict = match bound {
        Some(bound) if is_late => {
            let text = format!("{text}; {} s are allowed", bound.as_secs_f64());
            CheckerVerdict::new(name, Valid::False, text)
        }
        _ => CheckerVerdict::new(name, Valid::True, text),
    };
    (verdict, times)
}

async fn restart_all(cluster: &mut Cluster, times: &mut Restarts) -> Result<()> {
    let numbers = cluster.numbers();
    for &number in &numbers {
        let node = cluster.node(number);
        node.terminate(PATIENCE).await?;
        node.start()?;
        wait(cluster, number, times).await?;
    }
    for &number in &numbers {
        cluster.node(number).signal_kill();
    }
    for &number in &numbers {
        cluster.node(number).kill();
    }
    for &number in &numbers {
        cluster.node(number).start()?;
    }
    for &number in &numbers {
        wait(cluster, number, times).await?;
    }
    Ok(())
}

async fn wait(cluster: &mut Cluster, number: u64, times: &mut Restarts) -> Result<()> {
    let served = cluster.node(number).wait_until_it_serves(PATIENCE).await?;
    let millis = u64::try_from(served.as_millis()).unwrap_or(u64::MAX);
    times.entry(number).or_default().push(millis);
    Ok(())
}
