//! The states of all nodes during a run: equal wherever their applied index is equal.
//!
//! One node after the other is asked for the status of all members, the whole time, and what they say is
//! written to `states.jsonl`. An index that two nodes have applied with different hashes, or one node at
//! two times, proves that a command did not do the same everywhere.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hearth_cli::{Address, CLUSTER, ConnectOptions, Connection};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::error::{Result, RigError};
use crate::folder::{CheckerVerdict, Folder, Lines, Valid};
use crate::history::Nanos;
use crate::workload::seed_of;

/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(150);

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a node said of itself: a line of `states.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// When it was told, since the run began.
    pub at_ns: Nanos,
    /// The member.
    pub node: u64,
    /// Index of the last log entry that it had applied.
    pub applied: u64,
    /// Hash of its state there.
    pub hash: String,
}

/// Asks for states until it is stopped.
#[derive(Debug)]
pub struct Sampler {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

fn path(folder: &Folder) -> PathBuf {
    folder.path().join("states.jsonl")
}

impl Sampler {
    /// Starts asking the nodes that the cluster has now.
    ///
    /// # Errors
    /// The system's.
    pub fn start(cluster: &Cluster, begin: Instant, folder: &Folder, seed: u64) -> Result<Self> {
        let lines = Lines::create(&path(folder))?;
        let endpoints = cluster.endpoints();
        let (stop, mut stopped) = watch::channel(false);
        let mut random = SmallRng::seed_from_u64(seed_of(seed, &"states"));
        let task = tokio::spawn(async move {
            let mut last: BTreeMap<u64, (u64, String)> = BTreeMap::new();
            while !*stopped.borrow() {
                let at = random.random_range(0..endpoints.len());
                let states = tokio::select! {
                    states = ask(&endpoints[at].1) => states,
                    _ = stopped.changed() => break,
                };
                let at_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                for (node, applied, hash) in states {
                    let now = (applied, hash.clone());
                    if last.insert(node, now.clone()) != Some(now) {
                        lines.add(&State {
                            at_ns,
                            node,
                            applied,
                            hash,
                        });
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = stopped.changed() => break,
                }
            }
            lines.flush()
        });
        Ok(Self { stop, task })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When not everything could be written.
    pub async fn stop(self) -> Result<()> {
        // It fails only when the task has ended already.
        let _ = self.stop.send(true);
        self.task.await.unwrap_or_else(|error| {
            Err(RigError::Panicked {
                what: "the task that asks for the states of the nodes".into(),
                reason: error.to_string(),
            })
        })
    }
}

/// What the node at an address knows of all members; nothing when it does not answer.
async fn ask(address: &Address) -> Vec<(u64, u64, String)> {
    let options = ConnectOptions {
        timeout: Some(PATIENCE),
        ..ConnectOptions::default()
    };
    let asked = async {
        let mut connection = Connection::connect(address, CLUSTER, &options).await?;
        hearth_cli::Cluster::on(&mut connection).status().await
    };
    let Ok(status) = asked.await else {
        return Vec::new();
    };
    let members = status.members.into_iter();
    members
        .filter_map(|member| Some((member.id, member.last_applied?, member.state_hash?)))
        .collect()
}

/// Reads what was written.
///
/// # Errors
/// The system's, and a line that cannot be read.
pub fn read(folder: &Folder) -> Result<Vec<State>> {
    let path = path(folder);
    let what = || RigError::system(path.display().to_string());
    let file = fs::File::open(&path).map_err(what())?;
    let mut states = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(what())?;
        // The last one may be cut short.
        if let Ok(state) = serde_json::from_str(&line) {
            states.push(state);
        }
    }
    Ok(states)
}

/// Judges what the nodes said.
pub fn check(states: &[State]) -> CheckerVerdict {
    let name = "equal states at equal index";
    let mut first: BTreeMap<u64, &State> = BTreeMap::new();
    let mut shared = 0_u64;
    for state in states {
        let Some(other) = first.get(&state.applied) else {
            first.insert(state.applied, state);
            continue;
        };
        shared += 1;
        if other.hash != state.hash {
            let text = format!(
                "at index {} node {} has state {} and node {} has {}",
                state.applied, other.node, other.hash, state.node, state.hash
            );
            return CheckerVerdict::new(name, Valid::False, text);
        }
    }
    let text = format!("{shared} comparisons at {} indexes", first.len());
    let valid = if shared == 0 {
        Valid::Unknown
    } else {
        Valid::True
    };
    CheckerVerdict::new(name, valid, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(node: u64, applied: u64, hash: &str) -> State {
        State {
            at_ns: 0,
            node,
            applied,
            hash: hash.to_owned(),
        }
    }

    #[test]
    fn states_that_differ_at_one_index_are_found() {
        let same = [state(1, 5, "a"), state(2, 6, "b"), state(2, 5, "a")];
        assert_eq!(check(&same).valid, Valid::True);
        let differ = [state(1, 5, "a"), state(2, 6, "b"), state(2, 5, "b")];
        assert_eq!(check(&differ).valid, Valid::False);
        // Nothing was compared, so nothing is known.
        assert_eq!(check(&differ[..2]).valid, Valid::Unknown);
    }
}
