//! This node's own writes: numbered, packed into log entries, sent again until their fate is known.
//!
//! One task, the batcher, takes what waits in a bounded queue, gives each command the next number of
//! this node's session, and has the leader, wherever it is, propose them together as one log entry. While [`crate::Tuning::entries_in_flight_max`]
//! entries are under way it lets commands gather, so that entries grow with the load. Replies go straight
//! to the callers, from the state machine where this node leads, and otherwise from the connection to the
//! leader as soon as the entry is applied here too; the batcher is only told that numbers are done.
//!
//! A change of leaders is no fate: the same numbers go to the next one.
//!
//! A command has one of three fates (see [`WriteError`]). A proposal that Raft refused before it was
//! appended changes nothing and is made again; one that may be in a log is made again under the numbers
//! that it has, for which the state machine keeps the first reply. A caller whose deadline passes in
//! between is told "unknown", and the batcher goes on until there is a reply: only then is the number
//! acknowledged, so that no number is ever lost from the window.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use hearth_storage::{Command, Reply};

use crate::codec;
use crate::error::WriteError;
use crate::forward::{Leader, Route, propose_answer};
use crate::peer::message::{ProposalRecord, ProposeAnswer};
use crate::session::WINDOW;
use crate::state_machine::Counters;
use crate::type_config::{Completion, NumberedCommand, NumberedReply, Proposal, TypeConfig};

type ServerMetrics = openraft::type_config::alias::WatchReceiverOf<
    TypeConfig,
    openraft::metrics::RaftServerMetrics<TypeConfig>,
>;

const NO_LEADER: &str = "no leader is known";

/// Commands that may wait for the batcher. Beyond that, callers wait in line.
const QUEUE_LEN: usize = 1024;

/// Commands in one log entry.
const ENTRY_COMMANDS_MAX: usize = 512;

/// Bytes of commands in one log entry, about, unless one command alone has more.
const ENTRY_LEN_MAX: usize = 1 << 20;

/// How long a refused proposal waits before it is made again.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// How long [`Writer::stop`] waits for what is under way.
const DRAIN_DURATION_MAX: Duration = Duration::from_secs(5);

/// Where writes are handed over. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Waiting>,
    session: watch::Receiver<Option<u64>>,
    stop: Arc<watch::Sender<bool>>,
    /// Why the last proposal was refused, while none has succeeded since.
    obstacle: Arc<Mutex<Option<String>>>,
}

/// A command whose caller waits.
#[derive(Debug)]
struct Waiting {
    command: Command,
    caller: Caller,
}

#[derive(Debug)]
struct Caller {
    claim: Arc<Claim>,
    reply: oneshot::Sender<Result<Reply, WriteError>>,
}

/// Who decides on a command: at any moment it either may still be withdrawn by its caller, or has been,
/// or is in Raft's hands.
#[derive(Debug, Default)]
struct Claim(AtomicU8);

impl Claim {
    const WAITS: u8 = 0;
    const PROPOSED: u8 = 1;
    const WITHDRAWN: u8 = 2;

    fn go(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The batcher takes it. False when the caller has gone.
    fn propose(&self) -> bool {
        self.go(Self::WAITS, Self::PROPOSED)
    }

    /// Raft has refused it without a trace.
    fn give_back(&self) {
        self.go(Self::PROPOSED, Self::WAITS);
    }

    /// The caller goes. True when the command will never be proposed.
    fn withdraw(&self) -> bool {
        self.go(Self::WAITS, Self::WITHDRAWN)
    }
}

impl Writer {
    /// A writer and the batcher behind it, which does nothing before [`Batcher::run`].
    pub(crate) fn new(
        route: Route,
        counters: Arc<Counters>,
        entries_in_flight_max: usize,
    ) -> (Self, Batcher) {
        let (queue, waiting) = mpsc::channel(QUEUE_LEN);
        let (session_sender, session) = watch::channel(None);
        let (stop_sender, stop) = watch::channel(false);
        // At most one event for each proposal that is under way.
        let (events_sender, events) = mpsc::unbounded_channel();
        let obstacle = Arc::default();
        let batcher = Batcher {
            leaders: route.raft.server_metrics(),
            route,
            counters,
            obstacle: Arc::clone(&obstacle),
            entries_in_flight_max: entries_in_flight_max.max(1),
            queue: waiting,
            stop,
            session: session_sender,
            events_sender,
            events,
            numbers: Numbers::default(),
            gathered: VecDeque::new(),
            refused: VecDeque::new(),
            retry_at: None,
            in_flight: 0,
        };
        let writer = Self {
            queue,
            session,
            stop: Arc::new(stop_sender),
            obstacle,
        };
        (writer, batcher)
    }

    /// Has a command applied once. See [`crate::Replica::write`].
    pub(crate) async fn write(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Reply, WriteError> {
        let claim = Arc::new(Claim::default());
        let (reply, answer) = oneshot::channel();
        let caller = Caller {
            claim: Arc::clone(&claim),
            reply,
        };
        let waiting = Waiting { command, caller };
        match tokio::time::timeout_at(deadline, self.queue.send(waiting)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(WriteError::NotProposed("this node is stopping".to_owned())),
            Err(_) => {
                return Err(self.not_proposed("too many writes were waiting until the deadline"));
            }
        }
        let reason = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => return result,
            Ok(Err(_)) => "this node is stopping",
            Err(_) => "no answer within the deadline",
        };
        Err(if claim.withdraw() {
            self.not_proposed(reason)
        } else {
            WriteError::Unknown(reason.to_owned())
        })
    }

    fn not_proposed(&self, reason: &str) -> WriteError {
        match &*lock(&self.obstacle) {
            Some(obstacle) => WriteError::NoQuorum(format!("{reason}: {obstacle}")),
            None => WriteError::NotProposed(reason.to_owned()),
        }
    }

    /// Waits until this node has a session. `None` when the batcher stopped before that.
    pub(crate) async fn session(&self) -> Option<u64> {
        let mut session = self.session.clone();
        let open = session.wait_for(Option::is_some).await;
        open.ok().and_then(|open| *open)
    }

    /// Lets no more writes in. The batcher ends when all that were let in are done, or after a while.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// The numbers of a session: which are given, and up to which all have had their final reply.
#[derive(Debug, Default)]
struct Numbers {
    /// Highest number that was given.
    last: u64,
    /// Every number up to this one is final.
    acked_upto: u64,
    /// Final numbers above that.
    final_beyond: BTreeSet<u64>,
}

impl Numbers {
    /// How many more may be given before one of the open ones is final.
    fn room(&self) -> usize {
        usize::try_from(WINDOW - (self.last - self.acked_upto)).unwrap_or(usize::MAX)
    }

    fn give(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn finish(&mut self, seq: u64) {
        if seq != self.acked_upto + 1 {
            self.final_beyond.insert(seq);
            return;
        }
        self.acked_upto = seq;
        while self.final_beyond.remove(&(self.acked_upto + 1)) {
            self.acked_upto += 1;
        }
    }
}

/// Commands that are proposed together.
struct Package {
    list: Arc<[NumberedCommand]>,
    /// Their callers, in the same order.
    callers: Vec<Caller>,
    /// A proposal of it may be in some log.
    maybe_appended: bool,
}

impl Package {
    fn session(&self) -> Option<u64> {
        self.list.first().map(|numbered| numbered.session)
    }
}

/// What became of a proposal.
enum Event {
    /// All commands of the list have had their final replies.
    Done(Arc<[NumberedCommand]>),
    /// It was refused before it was appended, for this reason.
    Refused(Package, String),
    /// The same, because a disk is full.
    DiskFull(Package, String),
    /// It may be in some log, and this node will not hear of it, for this reason.
    Lost(Package, String),
    /// Its session has ended; nothing of it was executed by this proposal.
    SessionExpired(Package),
    /// Raft has stopped; the callers were told.
    Stopped,
}

/// The task behind a [`Writer`].
pub(crate) struct Batcher {
    route: Route,
    counters: Arc<Counters>,
    obstacle: Arc<Mutex<Option<String>>>,
    /// Changes with the leader.
    leaders: ServerMetrics,
    entries_in_flight_max: usize,
    queue: mpsc::Receiver<Waiting>,
    stop: watch::Receiver<bool>,
    session: watch::Sender<Option<u64>>,
    events_sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
    numbers: Numbers,
    /// Taken from the queue and not numbered yet; no more than fit into one entry by their number.
    gathered: VecDeque<Waiting>,
    /// To be proposed again, under the numbers that they have.
    refused: VecDeque<Package>,
    retry_at: Option<Instant>,
    /// Proposals that Raft has.
    in_flight: usize,
}

/// Raft has stopped, so there is nothing left to do.
struct RaftStopped;

impl Batcher {
    /// Works until [`Writer::stop`] and everything that was let in is done, or Raft stops.
    pub(crate) async fn run(mut self) {
        let mut drain_until = None;
        while let Ok(()) = self.step(&mut drain_until).await {
            let idle = self.in_flight == 0
                && self.refused.is_empty()
                && self.gathered.is_empty()
                && self.queue.is_empty();
            let late = drain_until.is_some_and(|until| Instant::now() >= until);
            if drain_until.is_some() && (idle || late) {
                break;
            }
        }
        // What still waits was never proposed; its callers see that nobody will answer.
        self.queue.close();
    }

    async fn step(&mut self, drain_until: &mut Option<Instant>) -> Result<(), RaftStopped> {
        let draining = drain_until.is_some();
        if self.session.borrow().is_none() {
            self.open_session().await?;
        }
        if self.retry_at.is_some_and(|at| Instant::now() >= at) {
            self.propose_again().await?;
        }
        while self.may_propose() && !self.gathered.is_empty() {
            self.propose_gathered().await?;
        }
        let room = self.numbers.room().min(ENTRY_COMMANDS_MAX);
        let exhausted = self.queue.is_closed() && self.queue.is_empty();
        let takes = self.may_propose() && self.gathered.is_empty() && !exhausted;
        let wake_at = [self.retry_at, *drain_until].into_iter().flatten().min();
        let mut taken = Vec::new();
        tokio::select! {
            biased;
            event = self.events.recv() => {
                // `events_sender` is ours, so there is always one more event to come.
                if let Some(event) = event {
                    self.handle(event)?;
                }
                while let Ok(event) = self.events.try_recv() {
                    self.handle(event)?;
                }
            }
            _ = self.queue.recv_many(&mut taken, room), if takes => {
                self.gathered.extend(taken);
            }
            changed = self.leaders.changed(), if self.retry_at.is_some() => {
                if changed.is_err() {
                    return Err(RaftStopped);
                }
                // Whoever leads now may take what the last one did not.
                self.retry_at = Some(Instant::now());
            }
            () = requested(&mut self.stop), if !draining => {
                self.queue.close();
                *drain_until = Some(Instant::now() + DRAIN_DURATION_MAX);
            }
            () = sleep_until(wake_at) => {}
        }
        Ok(())
    }

    /// Whether new commands may be numbered and proposed. Refused ones go first: they hold the window.
    fn may_propose(&self) -> bool {
        self.in_flight < self.entries_in_flight_max
            && self.refused.is_empty()
            && self.numbers.room() > 0
            && self.session.borrow().is_some()
    }

    /// Opens a session, for as long as it takes.
    async fn open_session(&mut self) -> Result<(), RaftStopped> {
        let nonce = rand::random();
        let node = self.route.node_id;
        loop {
            let answer = match self.route.leader() {
                Leader::Here => {
                    let (done, outcome) = oneshot::channel();
                    let completion = Completion::new(move |result| {
                        // The receiver is the next statement's.
                        let _ = done.send(result);
                    });
                    let proposal = Proposal::OpenSession { node, nonce };
                    self.route
                        .raft
                        .client_write_ff(proposal, Some(completion))
                        .await
                        .map_err(|_| RaftStopped)?;
                    match outcome.await {
                        Ok(Some(result)) => propose_answer(Some(result)),
                        Ok(None) | Err(_) => return Err(RaftStopped),
                    }
                }
                Leader::At(id) => {
                    let record = ProposalRecord::OpenSession { node, nonce };
                    self.route.propose(id, record).await
                }
                Leader::Unknown => ProposeAnswer::NotProposed(NO_LEADER.to_owned()),
            };
            match answer {
                ProposeAnswer::Session { id: Some(id), .. } => {
                    self.numbers = Numbers::default();
                    self.session.send_replace(Some(id));
                    return Ok(());
                }
                ProposeAnswer::Session { id: None, .. } => {
                    tracing::warn!(node, "this node is no member, so it cannot write");
                    *lock(&self.obstacle) = Some("this node is no member".to_owned());
                }
                ProposeAnswer::NotProposed(reason)
                | ProposeAnswer::DiskFull(reason)
                | ProposeAnswer::Unknown(reason) => {
                    tracing::debug!(reason, "no session yet");
                    *lock(&self.obstacle) = Some(reason);
                }
                ProposeAnswer::Replies { .. } => {}
            }
            if *self.stop.borrow() {
                // Nothing was numbered, so nothing is owed to anyone.
                return Err(RaftStopped);
            }
            // A change of the leader ends the wait; an error of it means that Raft has stopped.
            let changed = tokio::time::timeout(RETRY_DELAY, self.leaders.changed());
            if let Ok(Err(_)) = changed.await {
                return Err(RaftStopped);
            }
        }
    }

    /// Numbers what was gathered, as much as fits into one entry, and proposes it.
    async fn propose_gathered(&mut self) -> Result<(), RaftStopped> {
        let Some(session) = *self.session.borrow() else {
            return Ok(());
        };
        let count_max = self
            .gathered
            .len()
            .min(ENTRY_COMMANDS_MAX)
            .min(self.numbers.room());
        let mut list = Vec::with_capacity(count_max);
        let mut callers = Vec::with_capacity(count_max);
        let mut len = 0;
        let acked_upto = self.numbers.acked_upto;
        while list.len() < count_max && len < ENTRY_LEN_MAX {
            let Some(Waiting { command, caller }) = self.gathered.pop_front() else {
                break;
            };
            if !caller.propose() {
                continue;
            }
            let numbered = NumberedCommand {
                session,
                seq: self.numbers.give(),
                acked_upto,
                command,
            };
            len += codec::command_len(&numbered);
            list.push(numbered);
            callers.push(caller);
        }
        if list.is_empty() {
            return Ok(());
        }
        self.propose(Package {
            list: list.into(),
            callers,
            maybe_appended: false,
        })
        .await
    }

    /// Proposes what was refused, without the commands whose callers have gone meanwhile.
    async fn propose_again(&mut self) -> Result<(), RaftStopped> {
        self.retry_at = None;
        for package in std::mem::take(&mut self.refused) {
            let package = if package.maybe_appended {
                package
            } else {
                self.without_withdrawn(package)
            };
            if !package.list.is_empty() {
                self.propose(package).await?;
            }
        }
        Ok(())
    }

    fn without_withdrawn(&mut self, package: Package) -> Package {
        let mut list = Vec::with_capacity(package.list.len());
        let mut callers = Vec::with_capacity(package.callers.len());
        for (numbered, caller) in package.list.iter().zip(package.callers) {
            if caller.propose() {
                list.push(numbered.clone());
                callers.push(caller);
            } else {
                // It is in no log, and never will be: its number is as good as answered.
                self.numbers.finish(numbered.seq);
            }
        }
        Package {
            list: list.into(),
            callers,
            maybe_appended: false,
        }
    }

    async fn propose(&mut self, package: Package) -> Result<(), RaftStopped> {
        let events = self.events_sender.clone();
        // The batcher may have gone when there is an event; it has nothing to do with it then.
        let tell = move |event| {
            let _ = events.send(event);
        };
        self.in_flight += 1;
        match self.route.leader() {
            Leader::Here => {
                let proposal = Proposal::Commands(Arc::clone(&package.list));
                let completion = Completion::new(move |result: Option<_>| {
                    let stopped = result.is_none();
                    let (event, answers) = complete(package, propose_answer(result), stopped);
                    answers.give();
                    tell(event);
                });
                self.route
                    .raft
                    .client_write_ff(proposal, Some(completion))
                    .await
                    .map_err(|_| RaftStopped)
            }
            Leader::At(id) => {
                let (route, counters) = (self.route.clone(), Arc::clone(&self.counters));
                tokio::spawn(async move {
                    let record = ProposalRecord::Commands {
                        again: package.maybe_appended,
                        list: Arc::clone(&package.list),
                    };
                    let answer = route.propose(id, record).await;
                    let index = match answer {
                        ProposeAnswer::Replies { index, .. } => index,
                        _ => 0,
                    };
                    let (event, answers) = complete(package, answer, false);
                    tell(event);
                    // So that whoever is told can read it here at once.
                    counters.applied.reaches(index).await;
                    answers.give();
                });
                Ok(())
            }
            Leader::Unknown => {
                tell(Event::Refused(package, NO_LEADER.to_owned()));
                Ok(())
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), RaftStopped> {
        self.in_flight -= 1;
        match event {
            Event::Done(list) => {
                lock(&self.obstacle).take();
                for numbered in list.iter() {
                    if Some(numbered.session) == *self.session.borrow() {
                        self.numbers.finish(numbered.seq);
                    }
                }
            }
            Event::Refused(package, reason) => {
                *lock(&self.obstacle) = Some(reason);
                self.give_back(&package);
                self.keep_for_later(package);
            }
            Event::DiskFull(package, reason) => self.after_disk_full(package, &reason),
            Event::Lost(mut package, reason) => {
                *lock(&self.obstacle) = Some(reason);
                package.maybe_appended = true;
                self.keep_for_later(package);
            }
            Event::SessionExpired(package) => self.after_expiry(package),
            Event::Stopped => return Err(RaftStopped),
        }
        Ok(())
    }

    fn give_back(&self, package: &Package) {
        if !package.maybe_appended {
            for caller in &package.callers {
                caller.claim.give_back();
            }
        }
    }

    /// A leader refuses a list as a whole; what needs no room is proposed again without the rest.
    fn after_disk_full(&mut self, package: Package, reason: &str) {
        if package.maybe_appended {
            self.keep_for_later(package);
            return;
        }
        let mut list = Vec::new();
        let mut callers = Vec::new();
        for (numbered, caller) in package.list.iter().zip(package.callers) {
            if numbered.command.is_removal() {
                caller.claim.give_back();
                list.push(numbered.clone());
                callers.push(caller);
            } else {
                caller.answer(Err(WriteError::DiskFull(reason.to_owned())));
                self.numbers.finish(numbered.seq);
            }
        }
        if !list.is_empty() {
            self.keep_for_later(Package {
                list: list.into(),
                callers,
                maybe_appended: false,
            });
        }
    }

    fn keep_for_later(&mut self, package: Package) {
        self.refused.push_back(package);
        self.retry_at
            .get_or_insert_with(|| Instant::now() + RETRY_DELAY);
    }

    fn after_expiry(&mut self, package: Package) {
        tracing::warn!(
            session = package.session(),
            "this node's session was replaced"
        );
        if package.session() == *self.session.borrow() {
            self.session.send_replace(None);
        }
        if package.maybe_appended {
            // An earlier proposal of it may have been executed while the session was open.
            for caller in package.callers {
                caller.unknown("the session ended while the write was under way");
            }
            return;
        }
        for (numbered, caller) in package.list.iter().zip(package.callers).rev() {
            caller.claim.give_back();
            let command = numbered.command.clone();
            self.gathered.push_front(Waiting { command, caller });
        }
    }
}

impl Caller {
    /// Takes the command for a proposal. False when the caller has gone, and then it is in no log.
    fn propose(&self) -> bool {
        !self.reply.is_closed() && self.claim.propose()
    }

    fn answer(self, result: Result<Reply, WriteError>) {
        // One whose deadline has passed is gone.
        let _ = self.reply.send(result);
    }

    fn unknown(self, reason: &str) {
        self.answer(Err(WriteError::Unknown(reason.to_owned())));
    }
}

/// What callers are told, once it is time.
struct Answers(Vec<(Caller, Result<Reply, WriteError>)>);

impl Answers {
    fn give(self) {
        for (caller, answer) in self.0 {
            caller.answer(answer);
        }
    }
}

/// What an answer means for a package and its callers. `stopped` says that this node's own Raft has ended.
fn complete(package: Package, answer: ProposeAnswer, stopped: bool) -> (Event, Answers) {
    let nobody = || Answers(Vec::new());
    let replies = match answer {
        ProposeAnswer::Replies { replies, .. } if replies.len() == package.list.len() => replies,
        ProposeAnswer::Replies { .. } | ProposeAnswer::Session { .. } => {
            let reason = "the leader answered another proposal".to_owned();
            return (Event::Lost(package, reason), nobody());
        }
        ProposeAnswer::NotProposed(reason) => return (Event::Refused(package, reason), nobody()),
        ProposeAnswer::DiskFull(reason) => return (Event::DiskFull(package, reason), nobody()),
        ProposeAnswer::Unknown(_) if stopped => {
            let unknown = || WriteError::Unknown("Raft stopped while it was under way".to_owned());
            let callers = package.callers.into_iter();
            let answers = callers.map(|caller| (caller, Err(unknown()))).collect();
            return (Event::Stopped, Answers(answers));
        }
        ProposeAnswer::Unknown(reason) => return (Event::Lost(package, reason), nobody()),
    };
    // One session for the whole package, so all of it has ended or nothing.
    if replies.contains(&NumberedReply::SessionExpired) {
        return (Event::SessionExpired(package), nobody());
    }
    let answers = package.callers.into_iter().zip(replies);
    let answers = answers.map(|(caller, reply)| {
        let answer = match reply {
            NumberedReply::Applied(reply) => Ok(reply),
            NumberedReply::BeyondWindow => Err(WriteError::NotProposed(
                "too many writes of this node are without an answer".to_owned(),
            )),
            NumberedReply::Stale | NumberedReply::SessionExpired => {
                Err(WriteError::Unknown("the reply was given up".to_owned()))
            }
        };
        (caller, answer)
    });
    (Event::Done(package.list), Answers(answers.collect()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `stop` is asked for, or nobody is left to ask for anything.
async fn requested(stop: &mut watch::Receiver<bool>) {
    // An error means that all writers are gone, which asks for the same.
    let _ = stop.wait_for(|&stop| stop).await;
}

/// Pending for ever when there is nothing to wait for.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_acknowledged_without_gaps() {
        let mut numbers = Numbers::default();
        for expected in 1..=5 {
            assert_eq!(numbers.give(), expected);
        }
        numbers.finish(2);
        numbers.finish(4);
        assert_eq!(numbers.acked_upto, 0);
        numbers.finish(1);
        assert_eq!(numbers.acked_upto, 2);
        numbers.finish(3);
        assert_eq!(numbers.acked_upto, 4);
        assert!(numbers.final_beyond.is_empty());
    }

    #[test]
    fn one_open_number_holds_the_window() {
        let mut numbers = Numbers::default();
        for _ in 0..WINDOW {
            numbers.give();
        }
        assert_eq!(numbers.room(), 0);
        for seq in 2..=WINDOW {
            numbers.finish(seq);
        }
        assert_eq!(numbers.room(), 0);
        numbers.finish(1);
        assert_eq!(numbers.room(), WINDOW as usize);
    }

    #[test]
    fn a_command_is_withdrawn_or_proposed_never_both() {
        let claim = Claim::default();
        assert!(claim.withdraw());
        assert!(!claim.propose());
        let claim = Claim::default();
        assert!(claim.propose());
        assert!(!claim.withdraw());
        claim.give_back();
        assert!(claim.withdraw());
        assert!(!claim.propose());
    }
}
