//! The watch over free disk space, which reacts before the disk is full.
//!
//! A failed write is the end of a node, because nothing that follows it could be trusted. A node must therefore
//! not run into the end of its disk. It looks at the free space several times a second, and after many bytes
//! were written. There are three levels, each with hysteresis:
//!
//! | level | condition | effect |
//! |---|---|---|
//! | fine | | none |
//! | low | free < min(512 MiB, 10 %) | an alarm, and the log is shortened |
//! | full | free < half the reserve | no commands of its clients are taken, and on a follower no log entries |
//!
//! A leader whose disk is low hands over to a voter whose disk is fine. If it finds no other leader in time, or
//! if no majority of the voters is fine, only removals are taken from clients. If no majority has room for more
//! log entries, nothing is taken. Reads are answered at every level. Each level ends by itself when there is
//! room again.
//!
//! The *reserve* is a preallocated file beside the database. It is released when another program fills the disk
//! to the last byte, so that there is room for removals then, and taken back when there is room again.
//!
//! The leader decides what the cluster takes from clients; a follower's disk matters only if no majority has
//! room. It tells all members, so that each refuses its own clients at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::time::Instant;

use hearth_storage::{Command, DiskSpace, Home, LogHome, Reserve};

use crate::config::{DiskLimits, StorageLocation};
use crate::environment::aside;
use crate::rpc::Peers;
use crate::rpc::message::{DiskNews, Level, Request, Response, Verdict};
use crate::store::Raft;
use crate::types::{NumberedCommand, TypeConfig};

/// Maximum age of the last look at the disk when a write arrives. A write after that triggers another look,
/// because a disk may be filled within a moment.
const LOOK_AGE_MAX: Duration = Duration::from_millis(10);

/// Maximum number of bytes that may be written between two looks.
const UNSEEN_LEN_MAX: u64 = 1 << 20;

/// Interval, in looks, at which a leader asks the other members while all disks are fine.
const CALM_LOOKS: u32 = 4;

/// The longest time that a leader's verdict stays in force on another node without being repeated.
const VERDICT_DURATION_MAX: Duration = Duration::from_secs(5);

/// The longest time that a leader whose disk is low looks for another leader before it refuses writes, and the
/// shortest time between two attempts to hand over.
const HAND_OVER_DURATION_MAX: Duration = Duration::from_secs(3);

/// Timeout of the request for a member's disk status.
const DISK_NEWS_DURATION_MAX: Duration = Duration::from_secs(1);

/// Interval at which the log is shortened while the disk is not fine.
const RELIEF_INTERVAL: Duration = Duration::from_secs(10);

/// Limit on the wait for the snapshot that allows the log to be purged.
const SNAPSHOT_DURATION_MAX: Duration = Duration::from_secs(1);

/// Number of bytes of log, approximately, that are kept for members that lag behind while the disk is not fine.
const KEPT_LOG_LEN: u64 = 16 << 20;

/// Maximum number of log entries that are kept for these members.
const KEPT_LOG_ENTRIES: u64 = 1000;

impl DiskLimits {
    fn low(&self, total: u64) -> u64 {
        let share = u128::from(total) * u128::from(self.low_percent) / 100;
        u64::try_from(share).map_or(self.low_len_max, |share| share.min(self.low_len_max))
    }

    fn reserve(&self, total: u64) -> u64 {
        self.reserve_len_max.min(self.low(total) / 4)
    }

    fn full(&self, total: u64) -> u64 {
        self.reserve(total) / 2
    }

    /// Returns the level of a disk that was at `before`. `missing` is the number of bytes of the reserve that
    /// will be taken when there is room. They do not count as free.
    fn level(&self, before: Level, space: DiskSpace, missing: u64) -> Level {
        // Leaving a level takes a quarter more free bytes than entering it.
        let below = |limit: u64, inside: bool| {
            if inside {
                limit.saturating_add(limit / 4)
            } else {
                limit
            }
        };
        let full = below(self.full(space.total), before == Level::Full);
        let low = below(self.low(space.total), before != Level::Fine);
        if space.free < full {
            Level::Full
        } else if space.free.saturating_sub(missing) < low {
            Level::Low
        } else {
            Level::Fine
        }
    }
}

impl Level {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Fine,
            1 => Self::Low,
            _ => Self::Full,
        }
    }
}

impl Verdict {
    fn admits(&self, command: &Command) -> Result<(), String> {
        match self {
            Self::Open => Ok(()),
            Self::RemovalsOnly(_) if command.is_removal() => Ok(()),
            Self::RemovalsOnly(reason) | Self::Nothing(reason) => Err(reason.clone()),
        }
    }
}

/// This node's disk, and the cluster's decision that follows from all disks.
pub(crate) struct Disk {
    limits: DiskLimits,
    /// `None` for a store in memory.
    folder: Option<PathBuf>,
    /// The same as [`Local::level`], readable without the lock.
    level: AtomicU8,
    /// True if [`Shared::verdict`] is not open.
    refuses: AtomicBool,
    /// Number of bytes that were admitted since the last look.
    unseen_len: AtomicU64,
    opened_at: Instant,
    /// Milliseconds from `opened_at` to the last look.
    looked_at: AtomicU64,
    local: Mutex<Local>,
    shared: Mutex<Shared>,
}

#[derive(Debug)]
struct Local {
    level: Level,
    space: Option<DiskSpace>,
    reserve: Option<Reserve>,
    /// True if the last look failed, which has been logged.
    blind: bool,
}

#[derive(Debug, Default)]
struct Shared {
    /// The verdict in force on this node.
    verdict: Verdict,
    /// The term, the verdict and the arrival of the leader's last message.
    heard: Option<(u64, Verdict, Instant)>,
}

impl Disk {
    /// Opens the disk of a replica whose storage is open. Looks once.
    pub(crate) fn open(storage: &StorageLocation, limits: DiskLimits) -> Arc<Self> {
        let folder = match storage {
            StorageLocation::Memory => None,
            StorageLocation::Rocks(folder) => Some(folder.clone()),
        };
        let reserve = folder.as_deref().map(Reserve::new);
        let disk = Self {
            limits,
            folder,
            level: AtomicU8::new(Level::Fine as u8),
            refuses: AtomicBool::new(false),
            unseen_len: AtomicU64::new(0),
            opened_at: Instant::now(),
            looked_at: AtomicU64::new(0),
            local: Mutex::new(Local {
                level: Level::Fine,
                space: None,
                reserve,
                blind: false,
            }),
            shared: Mutex::default(),
        };
        disk.look();
        Arc::new(disk)
    }

    /// Checks that a command of one of this node's clients may be proposed.
    ///
    /// # Errors
    /// The reason for the refusal, for operators.
    pub(crate) fn admits(&self, command: &Command) -> Result<(), String> {
        self.count(len_of(command));
        if !self.refuses.load(Ordering::Acquire) {
            return Ok(());
        }
        lock(&self.shared).verdict.admits(command)
    }

    /// Checks that a leader may propose the whole of this list from another node. A list that is proposed
    /// `again`, and may be in a log, passes unless nothing is taken from clients: its sender cannot give it up,
    /// and it would hold back removals behind it.
    ///
    /// # Errors
    /// The reason for the refusal, for operators.
    pub(crate) fn admits_all(&self, list: &[NumberedCommand], again: bool) -> Result<(), String> {
        self.count(list.iter().map(|numbered| len_of(&numbered.command)).sum());
        if !self.refuses.load(Ordering::Acquire) {
            return Ok(());
        }
        let shared = lock(&self.shared);
        if again && matches!(shared.verdict, Verdict::RemovalsOnly(_)) {
            return Ok(());
        }
        list.iter()
            .try_for_each(|numbered| shared.verdict.admits(&numbered.command))
    }

    /// Checks that this node can take log entries of `len` bytes from its leader.
    ///
    /// # Errors
    /// The reason for the refusal, for operators.
    pub(crate) fn takes_entries(&self, len: u64) -> Result<(), String> {
        self.count(len);
        if self.level() < Level::Full {
            return Ok(());
        }
        Err(self.alarm())
    }

    /// Checks that there is room for `len` bytes at once, such as those of a snapshot. Looks at the disk.
    ///
    /// # Errors
    /// The reason for the refusal, for operators.
    pub(crate) fn has_room_for(&self, len: u64) -> Result<(), String> {
        let space = self.look();
        let Some(space) = space else { return Ok(()) };
        // Compaction of the new data needs as much room again.
        let needed = len
            .saturating_mul(2)
            .saturating_add(self.limits.full(space.total));
        if space.free >= needed {
            return Ok(());
        }
        Err(format!(
            "{} has {} free, and {} are needed for a snapshot; free some space there",
            self.place(),
            bytes(space.free),
            bytes(needed),
        ))
    }

    /// Returns the level of this node's disk.
    pub(crate) fn level(&self) -> Level {
        Level::of(self.level.load(Ordering::Acquire))
    }

    /// Returns the free bytes on the disk with the data at the last look. `None` for a store in memory.
    pub(crate) fn free(&self) -> Option<u64> {
        lock(&self.local).space.map(|space| space.free)
    }

    /// Returns the conditions that need an operator's attention: those of this node's disk, and a refusal of
    /// writes because of other disks.
    pub(crate) fn alarms(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        if self.level() > Level::Fine {
            alarms.push(self.alarm());
        }
        let shared = lock(&self.shared);
        if let Verdict::RemovalsOnly(reason) | Verdict::Nothing(reason) = &shared.verdict
            && (alarms.is_empty() || !reason.contains(&self.place()))
        {
            alarms.push(reason.clone());
        }
        alarms
    }

    /// Records the leader's message, and returns the state of this node's disk. `term` is this node's term.
    pub(crate) fn heard(&self, news: DiskNews, term: u64) -> DiskNews {
        if let Some(verdict) = news.verdict {
            let mut shared = lock(&self.shared);
            let known = shared.heard.as_ref().map_or(0, |(term, ..)| *term);
            if news.term >= known.max(term) {
                shared.heard = Some((news.term, verdict, Instant::now()));
                drop(shared);
                self.follow();
            }
        }
        self.news(term, None)
    }

    /// Returns the message of this node to others.
    fn news(&self, term: u64, verdict: Option<Verdict>) -> DiskNews {
        let level = self.level();
        let alarm = if level > Level::Fine {
            self.alarm()
        } else {
            String::new()
        };
        DiskNews {
            term,
            level,
            alarm,
            verdict,
        }
    }

    fn count(&self, len: u64) {
        if self.folder.is_none() {
            return;
        }
        let unseen = self.unseen_len.fetch_add(len, Ordering::Relaxed) + len;
        let age = self
            .age()
            .saturating_sub(self.looked_at.load(Ordering::Relaxed));
        if unseen > UNSEEN_LEN_MAX || u128::from(age) >= LOOK_AGE_MAX.as_millis() {
            self.look();
        }
    }

    /// Returns the milliseconds since this disk was opened.
    fn age(&self) -> u64 {
        u64::try_from(self.opened_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks at the disk now, with one or two system calls. `None` for a store in memory, or if the free space
    /// was never known.
    fn look(&self) -> Option<DiskSpace> {
        let folder = self.folder.as_deref()?;
        self.unseen_len.store(0, Ordering::Relaxed);
        self.looked_at.store(self.age(), Ordering::Relaxed);
        let mut local = lock(&self.local);
        let mut space = match DiskSpace::of(folder) {
            Ok(space) => space,
            Err(error) => {
                if !local.blind {
                    tracing::warn!(folder = %folder.display(), %error, "cannot tell how full the disk is");
                }
                local.blind = true;
                return local.space;
            }
        };
        local.blind = false;
        let wanted = self.limits.reserve(space.total);
        let mut held = local.reserve.as_ref().map_or(wanted, Reserve::len);
        if space.free < self.limits.full(space.total)
            && held > 0
            && let Some(reserve) = &local.reserve
        {
            match reserve.release() {
                Ok(()) => {
                    held = 0;
                    space = DiskSpace::of(folder).unwrap_or(space);
                }
                Err(error) => tracing::warn!(%error, "cannot give up the disk's reserve"),
            }
        }
        let before = local.level;
        let level = self
            .limits
            .level(before, space, wanted.saturating_sub(held));
        local.level = level;
        local.space = Some(space);
        if level == Level::Fine && held != wanted {
            Self::take_reserve(&mut local, wanted);
        }
        drop(local);
        self.level.store(level as u8, Ordering::Release);
        if level > before {
            tracing::error!("{}", self.alarm());
        } else if level == Level::Fine && before > Level::Fine {
            tracing::warn!(free = space.free, "{} has room again", self.place());
        }
        if level == Level::Full && before < Level::Full {
            self.follow();
        }
        Some(space)
    }

    fn take_reserve(local: &mut Local, len: u64) {
        let Some(reserve) = &local.reserve else {
            return;
        };
        let reason = match reserve.hold(len) {
            Ok(true) => return,
            Ok(false) => "the file system cannot put room aside".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            reason,
            "no room is put aside: on a disk that is filled to the end, even removals will fail"
        );
        local.reserve = None;
    }

    /// Puts the verdict in force that follows from the leader's last message and this node's own disk.
    fn follow(&self) {
        let mut shared = lock(&self.shared);
        let heard = shared
            .heard
            .as_ref()
            .filter(|(_, _, at)| at.elapsed() < VERDICT_DURATION_MAX)
            .map(|(_, verdict, _)| verdict.clone());
        let verdict = if self.level() == Level::Full {
            // The log of this node stands still, so it would never learn the outcome of a write.
            Verdict::Nothing(self.alarm())
        } else {
            heard.unwrap_or_default()
        };
        self.put_in_force(&mut shared, verdict);
    }

    fn put_in_force(&self, shared: &mut Shared, verdict: Verdict) {
        self.refuses
            .store(verdict != Verdict::Open, Ordering::Release);
        if std::mem::discriminant(&shared.verdict) != std::mem::discriminant(&verdict) {
            match &verdict {
                Verdict::Open => tracing::info!("writes are taken again"),
                Verdict::RemovalsOnly(reason) => {
                    tracing::warn!(reason, "only removals are taken from clients");
                }
                Verdict::Nothing(reason) => {
                    tracing::warn!(reason, "no writes are taken from clients");
                }
            }
        }
        shared.verdict = verdict;
    }

    fn place(&self) -> String {
        match &self.folder {
            Some(folder) => format!("the disk of {}", folder.display()),
            None => "the memory".to_owned(),
        }
    }

    /// Returns a sentence with the problem of this node's disk and the remedy.
    fn alarm(&self) -> String {
        let local = lock(&self.local);
        let Some(space) = local.space else {
            return format!("{} is full", self.place());
        };
        let (what, limit) = match local.level {
            Level::Full => ("full", self.limits.full(space.total)),
            _ => ("nearly full", self.limits.low(space.total)),
        };
        let until = match local.level {
            Level::Full => "until then nothing is written",
            _ => "until then names can be looked up and removed",
        };
        format!(
            "{} is {what}: {} of {} are free, the limit is {}; free some space there or enlarge the \
             file system, {until}",
            self.place(),
            bytes(space.free),
            bytes(space.total),
            bytes(limit),
        )
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("folder", &self.folder)
            .field("level", &self.level())
            .finish_non_exhaustive()
    }
}

/// Returns the number of bytes that a command takes on disk, approximately.
fn len_of(command: &Command) -> u64 {
    let len = match command {
        Command::Register {
            name, uri, tags, ..
        } => name.len() + uri.len() + tags.iter().map(String::len).sum::<usize>(),
        Command::SetMetadata { name, tags } => {
            name.len() + tags.iter().map(String::len).sum::<usize>()
        }
        _ => 0,
    };
    // A command takes room in the log, the state and the index.
    3 * len as u64 + 256
}

/// Formats a number of bytes for operators.
fn bytes(len: u64) -> String {
    match len {
        0..10_000 => format!("{len} bytes"),
        10_000..10_000_000 => format!("{} kB", len / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", len / 1_000_000),
        _ => format!("{} GB", len / 1_000_000_000),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No change under these locks is left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leader's decision about all disks.
#[derive(Debug, PartialEq, Eq)]
struct Judgement {
    verdict: Verdict,
    /// The eligible voters: those that could lead in place of this node. Empty if this node's disk is fine.
    heirs: Vec<u64>,
}

/// Decides as the leader. `others` are the messages of the members that have answered; only those of voters
/// count. `patient` is true while this node may still find another leader.
fn judge(
    me: u64,
    own: &DiskNews,
    voters: &BTreeSet<u64>,
    others: &BTreeMap<u64, DiskNews>,
    patient: bool,
) -> Judgement {
    let of = |id: u64| if id == me { Some(own) } else { others.get(&id) };
    let known = || voters.iter().filter_map(|&id| Some((id, of(id)?)));
    let alarmed: Vec<_> = known()
        .filter(|(_, news)| news.level > Level::Fine)
        .collect();
    if alarmed.is_empty() {
        return Judgement {
            verdict: Verdict::Open,
            heirs: Vec::new(),
        };
    }
    let majority = voters.len() / 2 + 1;
    let fine: Vec<u64> = known()
        .filter(|(_, news)| news.level == Level::Fine)
        .map(|(id, _)| id)
        .collect();
    let writable = known().filter(|(_, news)| news.level < Level::Full).count();
    let reason = || {
        let each = alarmed
            .iter()
            .map(|(id, news)| format!("node {id}: {}", news.alarm));
        format!("disk full: {}", each.collect::<Vec<_>>().join("; "))
    };
    let verdict = if writable < majority || own.level == Level::Full {
        Verdict::Nothing(reason())
    } else if fine.len() < majority || (own.level > Level::Fine && !patient) {
        Verdict::RemovalsOnly(reason())
    } else {
        Verdict::Open
    };
    let heirs = if own.level > Level::Fine {
        fine
    } else {
        Vec::new()
    };
    Judgement { verdict, heirs }
}

/// Sends disk messages to the other members.
pub(crate) trait AskDisks: Send + Sync + 'static {
    /// Sends the message to member `to`, and returns its answer. `None` if it does not answer soon.
    fn ask(&self, to: u64, news: DiskNews) -> impl Future<Output = Option<DiskNews>> + Send;
}

impl AskDisks for Peers {
    async fn ask(&self, to: u64, news: DiskNews) -> Option<DiskNews> {
        match self
            .call(to, Request::Disk(news), DISK_NEWS_DURATION_MAX)
            .await
        {
            Ok(Response::Disk(news)) => Some(news),
            _ => None,
        }
    }
}

/// The task that looks at the disk while the replica runs, and acts on the result.
pub(crate) struct Watch<P> {
    pub(crate) disk: Arc<Disk>,
    pub(crate) node_id: u64,
    pub(crate) raft: Raft,
    pub(crate) store: Arc<dyn Home>,
    pub(crate) log: LogHome,
    pub(crate) peers: P,
    /// Maximum number of bytes of the memtables.
    pub(crate) flush_len: u64,
}

/// The state of the watch between two looks.
#[derive(Default)]
struct Memory {
    looks: u32,
    others: BTreeMap<u64, DiskNews>,
    /// The time since which the disk of this leader has not been fine.
    low_since: Option<Instant>,
    handed_over_at: Option<Instant>,
    relieved_at: Option<Instant>,
}

impl<P: AskDisks> Watch<P> {
    /// Runs the watch. Never returns.
    pub(crate) async fn run(self) {
        let mut memory = Memory::default();
        let mut server = self.raft.server_metrics();
        loop {
            self.disk.look();
            self.speak(&mut memory).await;
            if self.disk.level() > Level::Fine {
                self.relieve(&mut memory).await;
            }
            tokio::select! {
                () = tokio::time::sleep(self.disk.limits.look_interval) => {}
                // A new leader broadcasts its decision at once.
                changed = server.changed() => if changed.is_err() {
                    // Raft has ended, and its own watcher acts on that.
                    return std::future::pending().await;
                }
            }
        }
    }

    /// As leader, decides about all disks, tells the other members, and asks for the state of theirs. On any
    /// other node, follows the leader's decision.
    async fn speak(&self, memory: &mut Memory) {
        let (term, leads, voters, members, matched) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            let voters: BTreeSet<u64> = membership.voter_ids().collect();
            let members: Vec<u64> = membership.nodes().map(|(id, _)| *id).collect();
            let matched: BTreeMap<u64, u64> = metrics
                .replication
                .iter()
                .flatten()
                .map(|(id, log_id)| (*id, log_id.as_ref().map_or(0, |log_id| log_id.index)))
                .collect();
            let leads = metrics.current_leader == Some(self.node_id);
            (metrics.current_term, leads, voters, members, matched)
        };
        let disk = &self.disk;
        if !leads {
            *memory = Memory {
                relieved_at: memory.relieved_at,
                ..Memory::default()
            };
            disk.follow();
            return;
        }
        let now = Instant::now();
        memory.low_since = match disk.level() {
            Level::Fine => None,
            _ => memory.low_since.or(Some(now)),
        };
        let patient = memory
            .low_since
            .is_none_or(|since| now.duration_since(since) < HAND_OVER_DURATION_MAX);
        memory.others.retain(|id, _| members.contains(id));
        let own = disk.news(term, None);
        let judgement = judge(self.node_id, &own, &voters, &memory.others, patient);
        self.proclaim(&judgement.verdict);

        let calm = judgement.verdict == Verdict::Open && own.level == Level::Fine;
        memory.looks = memory.looks.wrapping_add(1);
        if !calm || memory.looks.is_multiple_of(CALM_LOOKS) || memory.others.is_empty() {
            let news = DiskNews {
                verdict: Some(judgement.verdict.clone()),
                ..own.clone()
            };
            let others = members.iter().filter(|&&id| id != self.node_id);
            let asked = others.map(|&id| {
                let news = news.clone();
                async move { (id, self.peers.ask(id, news).await) }
            });
            for (id, answer) in futures::future::join_all(asked).await {
                match answer {
                    Some(answer) => memory.others.insert(id, answer),
                    None => memory.others.remove(&id),
                };
            }
            let judgement = judge(self.node_id, &own, &voters, &memory.others, patient);
            self.proclaim(&judgement.verdict);
            self.hand_over(&judgement.heirs, &matched, memory).await;
        }
    }

    fn proclaim(&self, verdict: &Verdict) {
        let mut shared = lock(&self.disk.shared);
        shared.heard = None;
        self.disk.put_in_force(&mut shared, verdict.clone());
    }

    /// Hands leadership over to the eligible voter that has the most of the log.
    async fn hand_over(&self, heirs: &[u64], matched: &BTreeMap<u64, u64>, memory: &mut Memory) {
        let now = Instant::now();
        let lately = memory
            .handed_over_at
            .is_some_and(|at| now.duration_since(at) < HAND_OVER_DURATION_MAX);
        let heir = heirs
            .iter()
            .max_by_key(|&&id| matched.get(&id).copied().unwrap_or(0));
        let Some(&heir) = heir.filter(|_| !lately) else {
            return;
        };
        memory.handed_over_at = Some(now);
        tracing::warn!(
            heir,
            "this leader's disk is nearly full: handing leadership over"
        );
        // An error means that Raft has stopped, which is noticed elsewhere.
        let _ = self.raft.trigger().transfer_leader(heir).await;
    }

    /// Shortens the log, and frees the disk space that only the purged entries needed.
    async fn relieve(&self, memory: &mut Memory) {
        let now = Instant::now();
        if memory
            .relieved_at
            .is_some_and(|at| now.duration_since(at) < RELIEF_INTERVAL)
        {
            return;
        }
        memory.relieved_at = Some(now);
        let stats = self.log.stats();
        let entry_len = stats.entry_len / stats.entry_count.max(1);
        let kept = (KEPT_LOG_LEN / entry_len.max(1)).clamp(16, KEPT_LOG_ENTRIES);
        let (applied, snapshot) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (
                metrics.last_applied.map_or(0, |id| id.index),
                metrics.snapshot.map_or(0, |id| id.index),
            )
        };
        let upto = applied.saturating_sub(kept);
        // A snapshot costs nothing here, and the log cannot be purged without one. If it is still missing after
        // the wait, the next round finds it.
        if snapshot < upto && self.raft.trigger().snapshot().await.is_ok() {
            let built = |metrics: &openraft::RaftMetrics<TypeConfig>| {
                metrics.snapshot.is_some_and(|id| id.index >= upto)
            };
            let wait = self.raft.wait(Some(SNAPSHOT_DURATION_MAX));
            let _ = wait
                .metrics(built, "a snapshot to purge the log up to")
                .await;
        }
        if upto > 0 {
            let _ = self.raft.trigger().purge_log(upto).await;
        }
        // `free_logs` takes room before it frees any. A new log that finds no room to preallocate, as the old
        // one did, is worse than an old log that stays.
        let room = self.disk.free().unwrap_or(0);
        if room < self.flush_len.saturating_mul(4) {
            return;
        }
        let store = Arc::clone(&self.store);
        let freed = aside(move || store.free_logs(room / 2)).await;
        if let Ok(Err(error)) = freed {
            tracing::warn!(%error, "cannot write the memory tables out");
        }
    }
}

#[cfg(test)]
#[path = "disk_space_test.rs"]
mod tests;
