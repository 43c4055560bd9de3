//! Bytes of a node's log that changed while it was down.
//!
//! What no disk may do to a node that trusts it: a bit of the synced part of a write-ahead log is another one,
//! or a sector of it holds what was never written. The node must see that when it starts, name the file, and
//! stop: with its vote and its part of the log gone, it may not take part under its old id. A person then
//! does what the heal does: removes it from the cluster, empties its folder, and lets it join as a new one.
//!
//! The change is not in the last of what was synced. There it looks like a write that power failure
//! interrupted, and no program can tell the two apart.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};

use super::faults::{Attempt, Nemesis, Outcome, Place};
use super::plain;
use crate::cluster::{Cluster, PATIENCE};
use crate::disk::SyncedLog;
use crate::error::{Result, RigError};

/// How many bytes disks write at once, at least.
const SECTOR_LEN: u64 = 512;

/// Bytes at the end of the synced part that stay as they are: more than one record of the log of a quiet node.
const SPARED_LEN: u64 = 4_096;

/// How long a node may take to see the damage.
const REFUSAL_DURATION_MAX: Duration = Duration::from_secs(20);

/// Both of them.
pub(super) fn all() -> Vec<Box<dyn Nemesis>> {
    let one = |kind: Kind| -> Box<dyn Nemesis> { Box::new(Damage { kind, hit: None }) };
    vec![one(Kind::Flip), one(Kind::Torn)]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flip,
    Torn,
}

#[derive(Debug)]
struct Damage {
    kind: Kind,
    hit: Option<u64>,
}

impl Nemesis for Damage {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Flip => "log-flip",
            Kind::Torn => "log-torn",
        }
    }

    fn about(&self) -> &'static str {
        match self.kind {
            Kind::Flip => {
                "one bit of the synced log of a node is another one; it must stop, and joins as a new one"
            }
            Kind::Torn => {
                "a sector of the synced log of a node was never written; it must stop, and joins as a new one"
            }
        }
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster, random: &'a mut SmallRng) -> Attempt<'a> {
        Box::pin(async move {
            match self.do_harm(cluster, random).await {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Indeterminate(error.to_string()),
            }
        })
    }

    fn nodes(&self) -> Vec<u64> {
        self.hit.into_iter().collect()
    }

    fn place(&self) -> Place {
        Place::Membership
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Attempt<'a> {
        Box::pin(async move {
            let Some(place) = self.hit.take() else {
                return Outcome::Skipped("no node was damaged".into());
            };
            match replace(cluster, place).await {
                Ok(what) => Outcome::Installed(what),
                Err(error) => Outcome::Indeterminate(error.to_string()),
            }
        })
    }
}

impl Damage {
    async fn do_harm(&mut self, cluster: &mut Cluster, random: &mut SmallRng) -> Result<Outcome> {
        self.hit = None;
        // A node that lost its data counts as lost until it is replaced, which the others must do together.
        let running = cluster.running();
        if running.len() < 3 || running.len() < cluster.numbers().len() {
            return Ok(Outcome::Skipped(format!("only the nodes {running:?} run")));
        }
        if let Err(error) = cluster.wait_until_healthy(running[0], PATIENCE / 4).await {
            return Ok(Outcome::Skipped(format!("not all nodes serve: {error}")));
        }
        // What was told of stale reads of a node must stay true, and is not for one with other data.
        let is_usable = |node: &crate::node::Node| !node.settings.options.contains(&"stale".into());
        let usable: Vec<u64> = cluster
            .nodes()
            .filter(|node| is_usable(node))
            .map(|node| node.number())
            .collect();
        let Some(&place) = usable.choose(random) else {
            return Ok(Outcome::Skipped("no node can be replaced".into()));
        };
        let node = cluster.node(place);
        node.kill();
        self.hit = Some(place);
        let log = match node.synced_log()? {
            Some(log) if log.synced_len >= 2 * SPARED_LEN => log,
            _ => {
                node.start()?;
                self.hit = None;
                return Ok(Outcome::Skipped(format!(
                    "the log of node {place} is too short"
                )));
            }
        };
        let what = match self.kind {
            Kind::Flip => flip(&log, random)?,
            Kind::Torn => tear(&log, random)?,
        };
        node.start()?;
        let told = node.log_len();
        let status = match node.wait_for_end(REFUSAL_DURATION_MAX).await {
            Ok(status) => status,
            Err(error) => {
                return Ok(Outcome::Broken(format!(
                    "node {place} goes on with a log in which {what}: {error}"
                )));
            }
        };
        let said = node.log_since(told);
        let names_it = said.contains(log.name()) && !said.contains("panicked");
        if status.success() || !names_it {
            return Ok(Outcome::Broken(format!(
                "node {place} ended with {status} and does not name the log in which {what}; it said: {said}"
            )));
        }
        Ok(Outcome::Installed(format!(
            "node {place}, {what}; it ended with {status} and named the file"
        )))
    }
}

fn flip(log: &SyncedLog, random: &mut SmallRng) -> Result<String> {
    let at = random.random_range(0..log.synced_len - SPARED_LEN);
    let bit = random.random_range(0..8);
    let mut byte = [0];
    let change = |file: File| {
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << bit;
        file.write_all_at(&byte, at)
    };
    open(log, change)?;
    Ok(format!(
        "bit {bit} of byte {at} of {} was flipped",
        log.name()
    ))
}

fn tear(log: &SyncedLog, random: &mut SmallRng) -> Result<String> {
    let last = (log.synced_len - SPARED_LEN - 1) / SECTOR_LEN;
    let at = random.random_range(0..=last) * SECTOR_LEN;
    let mut sector = [0; SECTOR_LEN as usize];
    random.fill_bytes(&mut sector);
    open(log, |file| file.write_all_at(&sector, at))?;
    Ok(format!(
        "{SECTOR_LEN} bytes of {} from byte {at} are noise",
        log.name()
    ))
}

fn open(log: &SyncedLog, change: impl FnOnce(File) -> std::io::Result<()>) -> Result<()> {
    let file = File::options().read(true).write(true).open(&log.path);
    file.and_then(change)
        .map_err(RigError::system(log.path.display().to_string()))
}

/// Removes the node from the cluster and lets a new one join at its place.
async fn replace(cluster: &mut Cluster, place: u64) -> Result<String> {
    cluster.node(place).kill();
    let old = plain::remove(cluster, place).await?;
    let settings = cluster.node(place).settings.clone();
    cluster.node(place).wipe()?;
    // As a person would: it asks the others, and is not one of those whom it asks.
    drop(cluster.take(place));
    let node = cluster.add_joining(place, None, false)?;
    node.settings = settings;
    node.start()?;
    node.wait_until_it_serves(PATIENCE).await?;
    let member = plain::member_at(cluster, place, |member| {
        member.is_some_and(|member| member.voter && member.ready == Some(true))
    })
    .await?;
    Ok(format!(
        "node {} joined at the place of node {}",
        member.map_or(0, |member| member.id),
        old.unwrap_or(0)
    ))
}
