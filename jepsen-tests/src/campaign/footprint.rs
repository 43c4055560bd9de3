//! What nodes take of their machines during a run: memory and logs, looked at the whole time and written to
//! `footprints.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Result, RigError};
use crate::folder::{CheckerVerdict, Folder, Lines, NodeFigures, Valid};
use crate::history::Nanos;
use crate::process::Memory;
use crate::run::Run;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Every how many looks a line is written.
const LINE_EVERY: u32 = 10;

/// Bytes that the logs of one node may grow by in a minute, on average, besides those of its starts: whoever
/// looks for something in a log must be able to read it, whatever strangers do.
const LOG_LEN_PER_MINUTE_MAX: u64 = 512 << 10;

/// Bytes for what each start of a node and each fault may bring.
const LOG_LEN_PER_START_MAX: u64 = 128 << 10;

/// What a node took: a line of `footprints.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// When, since the run began.
    pub at_ns: Nanos,
    /// The node's place.
    pub node: u64,
    /// Bytes of memory.
    pub resident: u64,
    /// The most, since the process started.
    pub resident_max: u64,
    /// Bytes of its log, over all its lives.
    pub log_len: u64,
}

/// Looks until it is stopped.
#[derive(Debug)]
pub struct Sampler {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<BTreeMap<u64, NodeFigures>>>,
}

impl Sampler {
    /// Starts looking.
    ///
    /// # Errors
    /// The system's.
    pub fn start(run: &Arc<Run>, begin: Instant, folder: &Folder) -> Result<Self> {
        let lines = Lines::create(&folder.path().join("footprints.jsonl"))?;
        let run = Arc::clone(run);
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut figures: BTreeMap<u64, NodeFigures> = BTreeMap::new();
            let mut lives: BTreeMap<u64, u32> = BTreeMap::new();
            let mut looks = 0_u32;
            while !*stopped.borrow() {
                for (node, id) in nodes(&run) {
                    let Ok(memory) = Memory::of(id) else { continue };
                    let at_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    let footprint = Footprint {
                        at_ns,
                        node,
                        resident: memory.resident,
                        resident_max: memory.resident_max,
                        log_len: len(&log(run.folder(), node)),
                    };
                    let of_node = figures.entry(node).or_default();
                    of_node.resident_max = of_node.resident_max.max(memory.resident_max);
                    of_node.resident_end = memory.resident;
                    of_node.log_len = footprint.log_len;
                    if lives.insert(node, id) != Some(id) {
                        of_node.starts += 1;
                    }
                    if looks.is_multiple_of(LINE_EVERY) {
                        lines.add(&footprint);
                    }
                }
                looks = looks.wrapping_add(1);
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = stopped.changed() => break,
                }
            }
            lines.flush()?;
            Ok(figures)
        });
        Ok(Self { stop, task })
    }

    /// Ends it; the figures of each place.
    ///
    /// # Errors
    /// When not everything could be written.
    pub async fn stop(self) -> Result<BTreeMap<u64, NodeFigures>> {
        // It fails only when the task has ended already.
        let _ = self.stop.send(true);
        self.task.await.unwrap_or_else(|error| {
            Err(RigError::Panicked {
                what: "the task that looks at the memory of the nodes".into(),
                reason: error.to_string(),
            })
        })
    }
}

/// Places and process ids of the nodes that run.
fn nodes(run: &Run) -> Vec<(u64, u32)> {
    let processes = run.processes();
    let place = |name: &String| name.strip_prefix("node ")?.parse().ok();
    processes
        .iter()
        .filter_map(|(&id, name)| Some((place(name)?, id)))
        .collect()
}

fn log(folder: &Path, node: u64) -> PathBuf {
    folder.join(format!("node-{node}")).join("log")
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Judges the figures of a run that lasted so long.
pub fn check(
    figures: &BTreeMap<u64, NodeFigures>,
    resident_max: Option<u64>,
    lasted: Duration,
) -> Vec<CheckerVerdict> {
    let largest = figures.values().map(|of_node| of_node.resident_max).max();
    let largest = largest.unwrap_or(0);
    let text: Vec<String> = figures
        .iter()
        .map(|(node, of_node)| {
            format!(
                "node {node} at most {} MB, at the end {} MB",
                of_node.resident_max >> 20,
                of_node.resident_end >> 20
            )
        })
        .collect();
    let text = text.join("; ");
    let (valid, text) = match resident_max {
        _ if figures.is_empty() => (Valid::Unknown, "no node was looked at".to_owned()),
        Some(max) if largest > max => (
            Valid::False,
            format!("{text}; {} MB are allowed", max >> 20),
        ),
        _ => (Valid::True, text),
    };
    let memory = CheckerVerdict::new("memory of the nodes", valid, text);

    let minutes = lasted.as_secs() / 60 + 1;
    let allowed = |of_node: &NodeFigures| {
        minutes * LOG_LEN_PER_MINUTE_MAX + of_node.starts * LOG_LEN_PER_START_MAX
    };
    let long = figures
        .values()
        .any(|of_node| of_node.log_len > allowed(of_node));
    let text: Vec<String> = figures
        .iter()
        .map(|(node, of_node)| {
            format!(
                "node {node} {} kB in {} lives, of {} kB allowed",
                of_node.log_len >> 10,
                of_node.starts,
                allowed(of_node) >> 10
            )
        })
        .collect();
    let valid = if long { Valid::False } else { Valid::True };
    let logs = CheckerVerdict::new("logs stay readable", valid, text.join("; "));
    vec![memory, logs]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_memory_and_too_long_logs_are_told() {
        let figures = |resident_max, log_len| {
            let of_node = NodeFigures {
                resident_max,
                log_len,
                starts: 1,
                ..NodeFigures::default()
            };
            BTreeMap::from([(1, of_node)])
        };
        let valid = |figures: &BTreeMap<u64, NodeFigures>| {
            let verdicts = check(figures, Some(500 << 20), Duration::from_secs(30));
            (verdicts[0].valid, verdicts[1].valid)
        };
        assert_eq!(
            valid(&figures(400 << 20, 1 << 10)),
            (Valid::True, Valid::True)
        );
        assert_eq!(valid(&figures(501 << 20, 1 << 10)).0, Valid::False);
        assert_eq!(valid(&figures(1 << 20, 73 << 20)).1, Valid::False);
        assert_eq!(valid(&BTreeMap::new()).0, Valid::Unknown);
    }
}
