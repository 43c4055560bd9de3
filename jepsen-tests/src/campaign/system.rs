//! Faults of what nodes stand on: disks without room, calls that fail, clocks that are wrong.
//!
//! | nemesis | Hearth's promise, which is looked at |
//! |---|---|
//! | `disk-full` | an alarm, and reads go on; it serves everything when there is room again |
//! | `failed-sync`, `failed-write` | the node stops, and says why: what it had written may be lost |
//! | `clock-jump`, `clock-rate` | nothing: the checkers judge |

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::faults::{Attempt, Needs, Nemesis, Outcome};
use crate::cluster::{Cluster, PATIENCE, until};
use crate::error::Result;
use crate::shim::{Calls, RIGHT_RATE};
use crate::volume::Volume;

/// How long a node may take to notice.
const NOTICE_DURATION_MAX: Duration = Duration::from_secs(15);

/// How long a node may take to end that has noticed: its clients could go on elsewhere.
const END_DURATION_MAX: Duration = Duration::from_secs(5);

/// Bytes that are left of a disk, and how that is told: with the volumes of a run, of 512 MB, 45 MB is low and
/// 5 MB is full.
const RESTS: [u64; 4] = [30 << 20, 15 << 20, 3 << 20, 0];

/// How far a wall clock jumps, in seconds.
const JUMPS: [i64; 4] = [5, 120, 3_600, 400 * 86_400];

/// At what pace a clock runs, in millionths.
const RATES: [i64; 5] = [500_000, 800_000, 1_250_000, 2_000_000, 3_000_000];

/// All of them.
pub(super) fn all() -> Vec<Box<dyn Nemesis>> {
    let one = |kind: Kind| -> Box<dyn Nemesis> {
        Box::new(System {
            kind,
            next: None,
            hit: Vec::new(),
        })
    };
    Kind::ALL.into_iter().map(one).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    DiskFull,
    FailedSync,
    FailedWrite,
    ClockJump,
    ClockRate,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::DiskFull,
        Self::FailedSync,
        Self::FailedWrite,
        Self::ClockJump,
        Self::ClockRate,
    ];
}

#[derive(Debug)]
struct System {
    kind: Kind,
    /// Which of its amounts comes next: all have their turn, however often it comes.
    next: Option<usize>,
    hit: Vec<u64>,
}

impl Nemesis for System {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::DiskFull => "disk-full",
            Kind::FailedSync => "failed-sync",
            Kind::FailedWrite => "failed-write",
            Kind::ClockJump => "clock-jump",
            Kind::ClockRate => "clock-rate",
        }
    }

    fn about(&self) -> &'static str {
        match self.kind {
            Kind::DiskFull => "the disks of some nodes are filled by somebody else",
            Kind::FailedSync => {
                "a sync of a node's files fails; it must stop, and what was not synced is lost"
            }
            Kind::FailedWrite => {
                "a write to a node's files fails; it must stop, and what was not synced is lost"
            }
            Kind::ClockJump => "the wall clocks of some nodes jump, and jump back",
            Kind::ClockRate => "all clocks of some nodes run slow or fast",
        }
    }

    fn needs(&self) -> Needs {
        Needs {
            shims: self.kind != Kind::DiskFull,
            volumes: self.kind == Kind::DiskFull,
        }
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster, random: &'a mut SmallRng) -> Attempt<'a> {
        Box::pin(async move {
            self.hit.clear();
            let done = match self.kind {
                Kind::DiskFull => self.fill(cluster, random).await,
                Kind::FailedSync => self.fail(cluster, random, Calls::Sync).await,
                Kind::FailedWrite => self.fail(cluster, random, Calls::Write).await,
                Kind::ClockJump | Kind::ClockRate => self.set_clocks(cluster, random),
            };
            done.unwrap_or_else(|error| Outcome::Indeterminate(error.to_string()))
        })
    }

    fn nodes(&self) -> Vec<u64> {
        self.hit.clone()
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Attempt<'a> {
        Box::pin(async move {
            let hit = std::mem::take(&mut self.hit);
            let done = match self.kind {
                Kind::DiskFull => clear(cluster, &hit).await,
                Kind::FailedSync | Kind::FailedWrite => start(cluster, &hit),
                Kind::ClockJump | Kind::ClockRate => set_right(cluster, &hit),
            };
            done.unwrap_or_else(|error| Outcome::Indeterminate(error.to_string()))
        })
    }
}

/// One node, or as many as a majority can do without, or, if `more`, most, or all.
fn some(cluster: &mut Cluster, random: &mut SmallRng, more: bool) -> Vec<u64> {
    let mut running = cluster.running();
    running.shuffle(random);
    let minority = running.len().saturating_sub(1) / 2;
    let counts = [1, minority.max(1), minority + 1, running.len()];
    let counts = if more { &counts[..] } else { &counts[..2] };
    running.truncate(counts.choose(random).copied().unwrap_or(1));
    running.sort_unstable();
    running
}

impl System {
    fn next_of<T: Copy, const N: usize>(&mut self, amounts: [T; N], random: &mut SmallRng) -> T {
        let at = self.next.unwrap_or_else(|| random.random_range(0..N)) % N;
        self.next = Some(at + 1);
        amounts[at]
    }

    async fn fill(&mut self, cluster: &mut Cluster, random: &mut SmallRng) -> Result<Outcome> {
        let rest = self.next_of(RESTS, random);
        for place in some(cluster, random, true) {
            let Some(volume) = cluster.node(place).volume() else {
                let reason = Volume::why_not();
                return Ok(Outcome::Skipped(reason.unwrap_or_else(|| {
                    "the nodes of this run have no file systems of their own".into()
                })));
            };
            volume.fill(rest)?;
            self.hit.push(place);
        }
        let mut ended = Vec::new();
        for &place in &self.hit {
            let noticed = until("an alarm", NOTICE_DURATION_MAX, || alarms(cluster, place));
            let Err(error) = noticed.await else { continue };
            let node = cluster.node(place);
            if node.is_running() {
                return Ok(Outcome::Broken(format!(
                    "node {place} gives no alarm with {rest} bytes left: {error}"
                )));
            }
            // Somebody was quicker than it can look. It must say so.
            if !node.log_tail(5).contains("No space left on device") {
                return Ok(Outcome::Broken(format!(
                    "node {place} ended with {rest} bytes left and does not say why: {}",
                    node.log_tail(5)
                )));
            }
            ended.push(place);
        }
        Ok(Outcome::Installed(format!(
            "nodes {:?} with {rest} bytes left{}",
            self.hit,
            if ended.is_empty() {
                String::new()
            } else {
                format!("; {ended:?} stopped because of it")
            }
        )))
    }

    async fn fail(
        &mut self,
        cluster: &mut Cluster,
        random: &mut SmallRng,
        calls: Calls,
    ) -> Result<Outcome> {
        let Some(&place) = cluster.running().choose(random) else {
            return Ok(Outcome::Skipped("no node runs".into()));
        };
        let node = cluster.node(place);
        if let Some(reason) = node.why_no_shims() {
            return Ok(Outcome::Skipped(reason));
        }
        let before = node.failed_calls().len();
        let told = node.log_len();
        node.fail_once(calls)?;
        self.hit.push(place);
        let failed = until("a call that fails", NOTICE_DURATION_MAX, || async {
            let failed = node.failed_calls().split_off(before);
            (!failed.is_empty()).then_some(failed).ok_or(String::new())
        });
        let Ok(failed) = failed.await else {
            // It may have had nothing to write, or does so just now.
            node.fail_no_more();
            return Ok(Outcome::Indeterminate(format!(
                "node {place} made no such call for {} s",
                NOTICE_DURATION_MAX.as_secs()
            )));
        };
        let ended = node.wait_for_end(END_DURATION_MAX).await;
        node.fail_no_more();
        let status = match ended {
            Ok(status) => status,
            Err(error) => {
                return Ok(Outcome::Broken(format!(
                    "node {place} goes on after {failed:?}: {error}"
                )));
            }
        };
        let said = node.log_since(told);
        if status.success() || !said.contains("Input/output error") || said.contains("panicked") {
            return Ok(Outcome::Broken(format!(
                "node {place} ended with {status} after {failed:?} and does not say why: {}",
                node.log_tail(5)
            )));
        }
        let lost = node.lose_unsynced()?;
        Ok(Outcome::Installed(format!(
            "node {place} ended with {status} after {failed:?}; {} bytes lost",
            lost.cut_len
        )))
    }

    fn set_clocks(&mut self, cluster: &mut Cluster, random: &mut SmallRng) -> Result<Outcome> {
        let (rate, shift, what) = if self.kind == Kind::ClockRate {
            let rate = self.next_of(RATES, random);
            let pace = rate as f64 / RIGHT_RATE as f64;
            (rate, 0, format!("run {pace} times as fast"))
        } else {
            let seconds = self.next_of(JUMPS, random);
            let seconds = if random.random() { seconds } else { -seconds };
            (
                RIGHT_RATE,
                seconds * 1_000_000_000,
                format!("are {seconds} s off"),
            )
        };
        let places = some(cluster, random, self.kind == Kind::ClockJump);
        for &place in &places {
            if let Some(reason) = cluster.node(place).why_no_shims() {
                return Ok(Outcome::Skipped(reason));
            }
        }
        for place in places {
            cluster.node(place).set_clocks(rate, shift)?;
            self.hit.push(place);
        }
        Ok(Outcome::Installed(format!(
            "the clocks of nodes {:?} {what}",
            self.hit
        )))
    }
}

/// What a node says of itself: the alarm that it gives, or why none is seen.
async fn alarms(cluster: &Cluster, place: u64) -> std::result::Result<String, String> {
    let status = cluster
        .status_at(place)
        .await
        .map_err(|error| error.to_string())?;
    let own = status
        .members
        .iter()
        .find(|member| Some(member.id) == status.answered_by)
        .ok_or("it is no member")?;
    match own.alarms.is_empty() {
        true => Err("no alarm".into()),
        false => Ok(own.alarms.join("; ")),
    }
}

async fn clear(cluster: &mut Cluster, places: &[u64]) -> Result<Outcome> {
    let mut started = Vec::new();
    for &place in places {
        let node = cluster.node(place);
        if let Some(volume) = node.volume() {
            volume.clear()?;
        }
        if !node.is_running() {
            node.start()?;
            started.push(place);
        }
    }
    for &place in places {
        let calm = until("the end of the alarm", PATIENCE, || async {
            match alarms(cluster, place).await {
                Ok(alarm) => Err(alarm),
                Err(seen) if seen == "no alarm" => Ok(()),
                // It starts.
                Err(seen) => Err(seen),
            }
        });
        if let Err(error) = calm.await {
            return Ok(Outcome::Broken(format!("node {place}: {error}")));
        }
    }
    Ok(Outcome::Installed(if started.is_empty() {
        "there is room again, and the alarms are over".into()
    } else {
        format!("there is room again, nodes {started:?} started, and the alarms are over")
    }))
}

fn start(cluster: &mut Cluster, places: &[u64]) -> Result<Outcome> {
    for &place in places {
        let node = cluster.node(place);
        if !node.is_running() {
            node.start()?;
        }
    }
    Ok(Outcome::Installed(format!("nodes {places:?} started")))
}

fn set_right(cluster: &mut Cluster, places: &[u64]) -> Result<Outcome> {
    for &place in places {
        cluster.node(place).set_clocks(RIGHT_RATE, 0)?;
    }
    Ok(Outcome::Installed(format!(
        "the clocks of nodes {places:?} run right"
    )))
}
