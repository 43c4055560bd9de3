//! The fault schedule of a scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use hearth_raft::{Birth, ClusterChange};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::node::{Node, Order, Phase, host, peer_addr};
use super::scene::Scene;

/// Maximum number of hosts that are added to those that bootstrap the cluster.
const ADDED_COUNT_MAX: usize = 2;

/// Maximum number of nodes that are removed or lose their data. With one, the others are still a majority of
/// three.
const LOST_COUNT_MAX: usize = 1;

/// The time for which the leader that crashed in [`End::WipeWhileBehind`] stays off; its followers lack some of
/// its entries.
const LEADER_AWAY: Duration = Duration::from_secs(4);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Crashes one host.
    CrashOne,
    /// Crashes less than half of the hosts at once.
    CrashMinority,
    /// Crashes more than half of the hosts at once.
    CrashMajority,
    /// Crashes all hosts at once.
    CrashAll,
    /// Crashes the leader's host.
    CrashLeader,
    /// Shuts a replica down gracefully, and starts it again later.
    Stop,
    /// Cuts the hosts into two halves.
    Halves,
    /// Cuts one host off from all others.
    Isolate,
    /// Cuts the leader's host off from all others.
    IsolateLeader,
    /// Cuts the hosts into two halves that share one host, which reaches all.
    Bridge,
    /// Leaves each host connected to its two neighbours in a ring only.
    Ring,
    /// Drops all messages from one host to the others, or all messages to it.
    OneWay,
    /// Holds the messages between two hosts back until the end of the fault.
    Hold,
    /// Delays the messages between two hosts.
    Slow,
    /// Slows a disk down.
    SlowDisk,
    /// Stalls a disk.
    StalledDisk,
    /// Transfers the leadership.
    Transfer,
    /// Adds a host, which joins the cluster.
    Join,
    /// Removes a member.
    Remove,
    /// Wipes the data of a host, which starts again later.
    Wipe,
}

const ALL: [Kind; 20] = [
    Kind::CrashOne,
    Kind::CrashMinority,
    Kind::CrashMajority,
    Kind::CrashAll,
    Kind::CrashLeader,
    Kind::Stop,
    Kind::Halves,
    Kind::Isolate,
    Kind::IsolateLeader,
    Kind::Bridge,
    Kind::Ring,
    Kind::OneWay,
    Kind::Hold,
    Kind::Slow,
    Kind::SlowDisk,
    Kind::StalledDisk,
    Kind::Transfer,
    Kind::Join,
    Kind::Remove,
    Kind::Wipe,
];

/// Returns the names of all faults.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().map(Kind::name)
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::CrashOne => "crash one",
            Self::CrashMinority => "crash minority",
            Self::CrashMajority => "crash majority",
            Self::CrashAll => "crash all",
            Self::CrashLeader => "crash leader",
            Self::Stop => "stop",
            Self::Halves => "halves",
            Self::Isolate => "isolate",
            Self::IsolateLeader => "isolate leader",
            Self::Bridge => "bridge",
            Self::Ring => "ring",
            Self::OneWay => "one way",
            Self::Hold => "hold",
            Self::Slow => "slow link",
            Self::SlowDisk => "slow disk",
            Self::StalledDisk => "stalled disk",
            Self::Transfer => "transfer",
            Self::Join => "join",
            Self::Remove => "remove",
            Self::Wipe => "wipe",
        }
    }
}

/// The action that ends a fault.
#[derive(Debug, Clone)]
enum End {
    Boot(u64),
    Connect(Vec<(u64, u64)>),
    Quicken(u64, u64),
    Disk(u64),
    /// Reconnects a host that was cut off. At the same moment, a host that knows more entries loses its data
    /// and the leader crashes.
    WipeWhileBehind {
        wiped: u64,
        behind: u64,
        leader: u64,
    },
}

/// The faults of a scenario: the kinds that it draws from, and the faults in progress.
pub(super) struct Faults {
    kinds: Vec<Kind>,
    /// The shortest and the longest pause between two faults, in milliseconds.
    pause: (u64, u64),
    /// The shortest and the longest duration of a fault, in milliseconds.
    length: (u64, u64),
    latency: (Duration, Duration),
    next: Duration,
    ends: Vec<(Duration, End)>,
    counts: BTreeMap<String, u64>,
    lost: usize,
}

impl Faults {
    /// Draws a few kinds of faults: combinations that are rare among many kinds are frequent among few.
    pub(super) fn draw(random: &mut SmallRng, latency: (Duration, Duration)) -> Self {
        let count = random.random_range(1..=6);
        let kinds = ALL.choose_multiple(random, count).copied().collect();
        let pause = random.random_range(100..1500);
        let length = random.random_range(100..3000);
        Self {
            kinds,
            pause: (pause / 4, pause * 2),
            length: (length / 5, length * 2),
            latency,
            // Some scenarios begin before the cluster has bootstrapped.
            next: Duration::from_millis(random.random_range(0..3000)),
            ends: Vec::new(),
            counts: BTreeMap::new(),
            lost: 0,
        }
    }

    /// Returns the number of injections of each fault.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.clone()
    }

    /// Ends the faults that are due, and injects the next one when its time has come.
    pub(super) fn act(&mut self, scene: &mut Scene<'_>, random: &mut SmallRng) {
        let now = scene.sim.elapsed();
        while let Some(at) = self.ends.iter().position(|(at, _)| *at <= now) {
            let (_, end) = self.ends.remove(at);
            self.end(scene, end);
        }
        if now < self.next {
            return;
        }
        self.next = now + millis(random, self.pause);
        if let Some(&kind) = self.kinds.choose(random)
            && self.begin(kind, scene, random)
        {
            *self.counts.entry(kind.name().to_owned()).or_default() += 1;
        }
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self, scene: &mut Scene<'_>) {
        for (_, end) in std::mem::take(&mut self.ends) {
            self.end(scene, end);
        }
        // If two faults overlapped, the end of the first one may have undone too little.
        self.connect(scene, &pairs(&numbers(scene)));
    }

    fn end(&mut self, scene: &mut Scene<'_>, end: End) {
        scene.note(&format_args!("end of {end:?}"));
        match end {
            End::Boot(number) => {
                let node = scene.nodes.iter().find(|node| node.number == number);
                if let Some(node) = node.map(Rc::clone)
                    && matches!(node.phase(), Phase::Off | Phase::Ended)
                {
                    scene.boot(&node);
                }
            }
            End::Connect(pairs) => self.connect(scene, &pairs),
            End::Quicken(one, other) => {
                scene
                    .sim
                    .set_link_max_message_latency(host(one), host(other), self.latency.1);
            }
            End::WipeWhileBehind {
                wiped,
                behind,
                leader,
            } => {
                let later = scene.sim.elapsed();
                self.ends.push((later, End::Boot(wiped)));
                wipe(scene, wiped, false);
                let ends = scene.nodes.iter().find(|node| node.number == leader);
                if let Some(node) = ends.map(Rc::clone)
                    && node.phase() == Phase::Serving
                {
                    scene.crash(&node, 0);
                    let later = later + LEADER_AWAY;
                    self.ends.push((later, End::Boot(leader)));
                }
                let others: Vec<u64> = numbers(scene);
                let others: Vec<u64> = others.into_iter().filter(|&one| one != behind).collect();
                self.connect(scene, &across(&[behind], &others));
            }
            End::Disk(number) => {
                if let Some(node) = scene.nodes.iter().find(|node| node.number == number) {
                    let (least, most) = scene.sync();
                    node.disk.borrow().set_sync_duration(least, most);
                }
            }
        }
    }

    fn connect(&self, scene: &Scene<'_>, pairs: &[(u64, u64)]) {
        for &(one, other) in pairs {
            scene.sim.release(host(one), host(other));
        }
    }

    fn until(&mut self, scene: &Scene<'_>, random: &mut SmallRng, end: End) {
        let at = scene.sim.elapsed() + millis(random, self.length);
        self.ends.push((at, end));
    }

    /// Injects a fault. Returns false if that was not possible.
    fn begin(&mut self, kind: Kind, scene: &mut Scene<'_>, random: &mut SmallRng) -> bool {
        let all = numbers(scene);
        let mut shuffled = all.clone();
        shuffled.shuffle(random);
        let half = all.len() / 2;
        match kind {
            Kind::CrashOne => self.crash(scene, random, &shuffled[..1]),
            Kind::CrashMinority => {
                let count = random.random_range(1..=half.max(1));
                self.crash(scene, random, &shuffled[..count.min((all.len() - 1) / 2)])
            }
            Kind::CrashMajority => self.crash(scene, random, &shuffled[..=half]),
            Kind::CrashAll => self.crash(scene, random, &all),
            Kind::CrashLeader => match leader(scene) {
                Some(leader) => self.crash(scene, random, &[leader]),
                None => false,
            },
            Kind::Stop => {
                let Some(node) = serving(scene).choose(random).map(Rc::clone) else {
                    return false;
                };
                scene.note(&format_args!("stop of {}", node.number));
                self.until(scene, random, End::Boot(node.number));
                node.order(Order::Stop)
            }
            Kind::Halves => {
                let (here, there) = shuffled.split_at(half);
                self.cut(scene, random, across(here, there))
            }
            Kind::Isolate => self.cut(scene, random, across(&shuffled[..1], &shuffled[1..])),
            Kind::IsolateLeader => match leader(scene) {
                Some(leader) => {
                    let others: Vec<u64> = all.into_iter().filter(|&one| one != leader).collect();
                    self.cut(scene, random, across(&[leader], &others))
                }
                None => false,
            },
            Kind::Bridge => {
                let rest = &shuffled[1..];
                let (here, there) = rest.split_at(rest.len() / 2);
                self.cut(scene, random, across(here, there))
            }
            Kind::Ring => {
                let count = shuffled.len();
                let far = pairs(&(0..count as u64).collect::<Vec<_>>());
                let far = far
                    .into_iter()
                    .map(|(one, other)| (one as usize, other as usize))
                    .filter(|&(one, other)| other - one > 1 && other - one < count - 1)
                    .map(|(one, other)| (shuffled[one], shuffled[other]))
                    .collect();
                self.cut(scene, random, far)
            }
            Kind::OneWay => {
                let (from, to) = if random.random() {
                    (&shuffled[..1], &shuffled[1..])
                } else {
                    (&shuffled[1..], &shuffled[..1])
                };
                let pairs = across(from, to);
                scene.note(&format_args!("one way {pairs:?}"));
                for &(from, to) in &pairs {
                    scene.sim.partition_oneway(host(from), host(to));
                }
                self.until(scene, random, End::Connect(pairs));
                true
            }
            Kind::Hold => {
                let (one, other) = (shuffled[0], shuffled[1]);
                scene.note(&format_args!("hold {one} {other}"));
                scene.sim.hold(host(one), host(other));
                self.until(scene, random, End::Connect(vec![(one, other)]));
                true
            }
            Kind::Slow => {
                let (one, other) = (shuffled[0], shuffled[1]);
                let most = Duration::from_millis(random.random_range(50..600));
                scene.note(&format_args!("slow {one} {other} {most:?}"));
                scene
                    .sim
                    .set_link_max_message_latency(host(one), host(other), most);
                self.until(scene, random, End::Quicken(one, other));
                true
            }
            Kind::SlowDisk => {
                let most = Duration::from_millis(random.random_range(20..400));
                self.disk(scene, random, shuffled[0], Duration::ZERO, most)
            }
            Kind::StalledDisk => {
                let long = millis(random, self.length);
                self.disk(scene, random, shuffled[0], long, long)
            }
            Kind::Transfer => {
                let to = serving(scene).choose(random).and_then(|node| id(node));
                let to = to.filter(|_| random.random());
                order(scene, random, ClusterChange::TransferLeader { to })
            }
            Kind::Join => {
                let added = scene.nodes.len();
                let founders = scene.founder_count();
                if added >= founders + ADDED_COUNT_MAX || leader(scene).is_none() {
                    return false;
                }
                let seeds = all.iter().map(|&number| peer_addr(number)).collect();
                let learner = random.random_ratio(1, 4);
                scene.note(&format_args!("join, learner {learner}"));
                scene.add(Birth::Join { seeds, learner }, None);
                true
            }
            Kind::Remove => {
                if self.lost >= LOST_COUNT_MAX {
                    return false;
                }
                let Some(id) = serving(scene).choose(random).and_then(|node| id(node)) else {
                    return false;
                };
                let sent = order(scene, random, ClusterChange::Remove { id });
                self.lost += usize::from(sent);
                sent
            }
            Kind::Wipe => {
                let leader = leader(scene);
                let mut nodes = serving(scene);
                nodes.retain(|node| Some(node.number) != leader);
                nodes.shuffle(random);
                let (Some(node), true) = (nodes.first(), self.lost < LOST_COUNT_MAX) else {
                    return false;
                };
                self.lost += 1;
                let wiped = node.number;
                if let (Some(behind), Some(leader), true) = (nodes.get(1), leader, random.random())
                {
                    // Writes that are acknowledged without this host are on the other hosts alone.
                    let behind = behind.number;
                    let others: Vec<u64> =
                        all.iter().copied().filter(|&one| one != behind).collect();
                    for (one, other) in across(&[behind], &others) {
                        scene.sim.partition(host(one), host(other));
                    }
                    scene.note(&format_args!("behind {behind}, to be wiped {wiped}"));
                    let end = End::WipeWhileBehind {
                        wiped,
                        behind,
                        leader,
                    };
                    self.until(scene, random, end);
                    return true;
                }
                wipe(scene, wiped, random.random());
                self.until(scene, random, End::Boot(wiped));
                true
            }
        }
    }

    fn crash(&mut self, scene: &mut Scene<'_>, random: &mut SmallRng, numbers: &[u64]) -> bool {
        let nodes: Vec<Rc<Node>> = scene
            .nodes
            .iter()
            .filter(|node| numbers.contains(&node.number))
            .filter(|node| matches!(node.phase(), Phase::Starting | Phase::Serving))
            .map(Rc::clone)
            .collect();
        // The end of a process loses nothing. A power failure loses all unsynced writes or a part of them.
        let power = random.random_range(0..3);
        for node in &nodes {
            let unsynced = node.disk.borrow().unsynced_count();
            let keep = match power {
                0 => unsynced,
                1 => 0,
                _ => random.random_range(0..=unsynced),
            };
            scene.crash(node, keep);
            self.until(scene, random, End::Boot(node.number));
        }
        !nodes.is_empty()
    }

    /// Stops all messages between the two hosts of each pair: either they are lost, or they wait for the end of
    /// the fault.
    fn cut(&mut self, scene: &mut Scene<'_>, random: &mut SmallRng, cut: Vec<(u64, u64)>) -> bool {
        if cut.is_empty() {
            return false;
        }
        let holds = random.random_ratio(1, 2);
        scene.note(&format_args!("cut {cut:?}, holds {holds}"));
        for &(one, other) in &cut {
            if holds {
                scene.sim.hold(host(one), host(other));
            } else {
                scene.sim.partition(host(one), host(other));
            }
        }
        self.until(scene, random, End::Connect(cut));
        true
    }

    fn disk(
        &mut self,
        scene: &mut Scene<'_>,
        random: &mut SmallRng,
        number: u64,
        least: Duration,
        most: Duration,
    ) -> bool {
        scene.note(&format_args!("disk of {number} takes up to {most:?}"));
        if let Some(node) = scene.nodes.iter().find(|node| node.number == number) {
            node.disk.borrow().set_sync_duration(least, most);
        }
        self.until(scene, random, End::Disk(number));
        true
    }
}

/// Crashes a serving host and wipes its data. When it boots again, it joins the cluster if `joins`, and
/// otherwise starts as it did the first time.
fn wipe(scene: &mut Scene<'_>, number: u64, joins: bool) {
    let seeds = numbers(scene)
        .into_iter()
        .filter(|&other| other != number)
        .map(peer_addr)
        .collect();
    let node = scene.nodes.iter().find(|node| node.number == number);
    let Some(node) = node.map(Rc::clone) else {
        return;
    };
    if node.phase() != Phase::Serving {
        return;
    }
    scene.crash(&node, 0);
    node.wipe();
    if joins && let Some(cluster) = &mut node.config.borrow_mut().cluster {
        cluster.birth = Birth::Join {
            seeds,
            learner: false,
        };
    }
    scene.note(&format_args!("wiped {number}"));
}

/// Sends the change to some serving node. Returns false if there is none.
fn order(scene: &Scene<'_>, random: &mut SmallRng, change: ClusterChange) -> bool {
    let Some(node) = serving(scene).choose(random).map(Rc::clone) else {
        return false;
    };
    scene.note(&format_args!("{change:?} through {}", node.number));
    node.order(Order::Change(change))
}

fn millis(random: &mut SmallRng, (least, most): (u64, u64)) -> Duration {
    Duration::from_millis(random.random_range(least..=most.max(least)))
}

fn numbers(scene: &Scene<'_>) -> Vec<u64> {
    scene.nodes.iter().map(|node| node.number).collect()
}

fn serving(scene: &Scene<'_>) -> Vec<Rc<Node>> {
    let nodes = scene.nodes.iter();
    nodes
        .filter(|node| node.phase() == Phase::Serving)
        .map(Rc::clone)
        .collect()
}

fn id(node: &Node) -> Option<u64> {
    let replica = node.replica.borrow();
    replica.as_ref().map(|replica| replica.status().node_id)
}

/// Returns the host of the leader that most nodes name.
fn leader(scene: &Scene<'_>) -> Option<u64> {
    let serving = serving(scene);
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for node in &serving {
        let replica = node.replica.borrow();
        if let Some(leader) = replica.as_ref().and_then(|replica| replica.status().leader) {
            *votes.entry(leader).or_default() += 1;
        }
    }
    let (leader, _) = votes.into_iter().max_by_key(|&(_, votes)| votes)?;
    let node = serving.iter().find(|node| id(node) == Some(leader))?;
    Some(node.number)
}

/// Returns each of `here` paired with each of `there`.
fn across(here: &[u64], there: &[u64]) -> Vec<(u64, u64)> {
    here.iter()
        .flat_map(|&one| there.iter().map(move |&other| (one, other)))
        .collect()
}

/// Returns each pair of `numbers`, the smaller number first.
fn pairs(numbers: &[u64]) -> Vec<(u64, u64)> {
    let set: BTreeSet<(u64, u64)> = across(numbers, numbers)
        .into_iter()
        .filter(|(one, other)| one < other)
        .collect();
    set.into_iter().collect()
}
