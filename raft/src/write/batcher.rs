//! The task that numbers and proposes the commands of this node's clients.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::codec;
use crate::error::WriteError;
use crate::leader::router::{NO_LEADER, Way};
use crate::rpc::message::{ProposalRecord, ProposeAnswer};
use crate::store::session::WINDOW;
use crate::store::state_machine::Counters;
use crate::types::{NumberedCommand, Proposal};
use crate::write::limits::{ENTRY_COMMANDS_MAX, ENTRY_LEN_MAX};
use crate::write::outcome::{Completed, Event, Group, OTHER_ANSWER, Package, complete};
use crate::write::{NO_MEMBER, Progress};

/// Pause before a refused proposal is made again to the same leader: the first pause, and the limit up to which
/// it doubles.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(200);

/// Pause before a node that is not a member asks again for a session.
const NO_MEMBER_DELAY: Duration = Duration::from_millis(500);

/// Maximum number of lists that the leader has applied and this node has not.
pub(super) const ANSWERING_COUNT_MAX: usize = 64;

/// The longest time that [`Writer::stop`] lets the batcher finish the writes under way.
pub(super) const DRAIN_DURATION_MAX: Duration = Duration::from_secs(5);

/// The numbers of a session: those given out, and those whose commands have had their final reply.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Numbers {
    /// The highest number that was given out.
    last: u64,
    /// The number up to which all are final.
    pub(crate) acked_upto: u64,
    /// Final numbers above `acked_upto`.
    pub(super) final_beyond: BTreeSet<u64>,
}

impl Numbers {
    /// Returns how many more numbers may be given out before an open one becomes final.
    pub(super) fn room(&self) -> usize {
        usize::try_from(WINDOW - (self.last - self.acked_upto)).unwrap_or(usize::MAX)
    }

    pub(crate) fn give(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(crate) fn finish(&mut self, seq: u64) {
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

/// The state of opening this node's session.
#[derive(Debug, Default)]
struct Opening {
    /// The nonce of all attempts, so that two of them open one session.
    nonce: Option<u64>,
    /// True while a proposal for the session is under way.
    under_way: bool,
    /// True if the cluster does not have this node as a member.
    no_member: bool,
}

/// The time of the next retry.
#[derive(Debug)]
struct Retry {
    at: Option<Instant>,
    delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            at: None,
            delay: RETRY_DELAY_MIN,
        }
    }
}

impl Retry {
    /// Retries at once, and with short pauses again after that.
    fn now(&mut self) {
        *self = Self {
            at: Some(Instant::now()),
            ..Self::default()
        };
    }

    /// Retries after a pause, which grows each time, unless a retry is already scheduled.
    fn later(&mut self) {
        if self.at.is_none() {
            self.after(self.delay.mul_f64(rand::rng().random_range(0.5..1.0)));
            self.delay = (self.delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    fn after(&mut self, pause: Duration) {
        self.at = Some(Instant::now() + pause);
    }
}

/// The error of a step after this node's Raft has stopped.
#[derive(Debug)]
struct RaftStopped;

/// The batcher's ends of the channels to its [`crate::write::Writer`].
pub(super) struct Channels {
    pub(super) queue: mpsc::Receiver<Group>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) session: watch::Sender<Option<u64>>,
}

/// The task behind a [`crate::write::Writer`], which numbers and proposes the commands.
pub(crate) struct Batcher<W> {
    way: W,
    leader: watch::Receiver<Option<u64>>,
    counters: Arc<Counters>,
    progress: Arc<Progress>,
    entries_in_flight_max: usize,
    queue: mpsc::Receiver<Group>,
    stop: watch::Receiver<bool>,
    session: watch::Sender<Option<u64>>,
    opening: Opening,
    events_sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
    numbers: Numbers,
    /// Groups that were taken from the queue and have no numbers yet; at most [`ENTRY_COMMANDS_MAX`].
    gathered: VecDeque<Group>,
    /// Packages to be proposed again, under the numbers that they have; at most `entries_in_flight_max`.
    refused: VecDeque<Package>,
    /// The time at which to propose the refused packages, or a session, again. Not needed while no leader is
    /// known: a new leader is an event.
    retry: Retry,
    /// Number of proposals without an outcome.
    in_flight: usize,
    /// Number of finished lists whose callers wait until this node has applied them.
    answering: usize,
}

impl<W: Way> Batcher<W> {
    pub(super) fn new(
        way: W,
        counters: Arc<Counters>,
        progress: Arc<Progress>,
        entries_in_flight_max: usize,
        channels: Channels,
    ) -> Self {
        // Bounded all the same: at most two events for each proposal under way.
        let (events_sender, events) = mpsc::unbounded_channel();
        Self {
            leader: way.leadership().watch(),
            way,
            counters,
            progress,
            entries_in_flight_max: entries_in_flight_max.max(1),
            queue: channels.queue,
            stop: channels.stop,
            session: channels.session,
            opening: Opening::default(),
            events_sender,
            events,
            numbers: Numbers::default(),
            gathered: VecDeque::new(),
            refused: VecDeque::new(),
            retry: Retry::default(),
            in_flight: 0,
            answering: 0,
        }
    }

    /// Runs until [`crate::write::Writer::stop`] and until all accepted writes are done, or until Raft stops.
    pub(crate) async fn run(mut self) {
        let mut drain_until = None;
        while let Ok(()) = self.step(&mut drain_until).await {
            let idle = self.in_flight == 0
                && self.answering == 0
                && self.refused.is_empty()
                && self.gathered.is_empty()
                && self.queue.is_empty();
            let late = drain_until.is_some_and(|until| Instant::now() >= until);
            if drain_until.is_some() && (idle || late) {
                break;
            }
        }
        // The commands that still wait were never proposed. Their callers notice that the reply channel is
        // closed.
        self.queue.close();
    }

    async fn step(&mut self, drain_until: &mut Option<Instant>) -> Result<(), RaftStopped> {
        let draining = drain_until.is_some();
        if self.retry.at.is_some_and(|at| Instant::now() >= at) {
            self.retry.at = None;
            self.propose_again();
        }
        if self.session.borrow().is_none() && self.retry.at.is_none() {
            self.open_session();
        }
        if self.opening.no_member {
            self.refuse_gathered();
        }
        while self.may_propose() && self.propose_gathered() {}
        let room = self.numbers.room().min(ENTRY_COMMANDS_MAX);
        let exhausted = self.queue.is_closed() && self.queue.is_empty();
        let takes = (self.may_propose() || self.opening.no_member)
            && self.gathered.is_empty()
            && room > 0
            && !exhausted;
        let wake_at = [self.retry.at, *drain_until].into_iter().flatten().min();
        let mut taken = Vec::new();
        tokio::select! {
            biased;
            event = self.events.recv() => {
                // `events_sender` belongs to this batcher, so the channel stays open.
                if let Some(event) = event {
                    self.handle(event)?;
                }
                while let Ok(event) = self.events.try_recv() {
                    self.handle(event)?;
                }
            }
            // The channel stays open: `way` holds its sender.
            Ok(()) = self.leader.changed() => {
                // The new leader may accept a proposal that the last one refused.
                if self.leader.borrow_and_update().is_some() {
                    self.retry.now();
                }
            }
            _ = self.queue.recv_many(&mut taken, room), if takes => {
                self.gathered.extend(taken);
            }
            () = requested(&mut self.stop), if !draining => {
                self.queue.close();
                *drain_until = Some(Instant::now() + DRAIN_DURATION_MAX);
            }
            () = sleep_until(wake_at) => {}
        }
        Ok(())
    }

    /// Returns true if new commands may be numbered and proposed. Refused packages go first, because they hold
    /// up the window.
    fn may_propose(&self) -> bool {
        self.in_flight < self.entries_in_flight_max
            && self.answering < ANSWERING_COUNT_MAX
            && self.refused.is_empty()
            && self.numbers.room() > 0
            && self.session.borrow().is_some()
            && self.leader.borrow().is_some()
    }

    fn leader(&self) -> Option<u64> {
        *self.leader.borrow()
    }

    fn leads(&self, leader: u64) -> bool {
        leader == self.way.leadership().node_id()
    }

    /// Proposes to open a session, unless such a proposal is under way.
    fn open_session(&mut self) {
        let Some(leader) = self.leader() else {
            return;
        };
        if std::mem::replace(&mut self.opening.under_way, true) {
            return;
        }
        let node = self.way.leadership().node_id();
        let nonce = *self.opening.nonce.get_or_insert_with(rand::random);
        let events = self.events_sender.clone();
        if self.leads(leader) {
            let proposal = Proposal::OpenSession { node, nonce };
            let done = move |answer: Option<ProposeAnswer>| {
                // If the batcher is gone, the event is not needed.
                let _ = events.send(match answer {
                    Some(answer) => Event::Opened(answer, leader),
                    None => Event::Stopped,
                });
            };
            return self.way.propose_here(proposal, done);
        }
        let way = self.way.clone();
        tokio::spawn(async move {
            let record = ProposalRecord::OpenSession { node, nonce };
            let answer = way.propose_at(leader, record).await;
            let _ = events.send(Event::Opened(answer, leader));
        });
    }

    fn opened(&mut self, answer: ProposeAnswer, asked: u64) {
        self.opening.under_way = false;
        let reason = match answer {
            ProposeAnswer::Session { id: Some(id), .. } => {
                self.numbers = Numbers::default();
                self.opening = Opening::default();
                self.progress.done();
                self.session.send_replace(Some(id));
                self.retry = Retry::default();
                if !self.refused.is_empty() {
                    self.retry.now();
                }
                return;
            }
            ProposeAnswer::Session { id: None, .. } => {
                if !std::mem::replace(&mut self.opening.no_member, true) {
                    tracing::warn!("{NO_MEMBER}, so it cannot write");
                }
                self.progress.set_obstacle(NO_MEMBER.to_owned());
                return self.retry.after(NO_MEMBER_DELAY);
            }
            ProposeAnswer::NotProposed(reason)
            | ProposeAnswer::DiskFull(reason)
            | ProposeAnswer::Unknown(reason) => reason,
            ProposeAnswer::Replies { .. } => OTHER_ANSWER.to_owned(),
        };
        tracing::debug!(reason, "no session yet");
        self.progress.set_obstacle(reason);
        self.ask_again(Some(asked));
    }

    /// Schedules a retry after the node `asked` gave no usable answer.
    fn ask_again(&mut self, asked: Option<u64>) {
        match self.leader() {
            Some(leader) if Some(leader) != asked => self.retry.now(),
            Some(_) => self.retry.later(),
            None => {}
        }
    }

    /// Refuses the gathered commands of a node that is not a member and therefore cannot write.
    fn refuse_gathered(&mut self) {
        for waiting in self.gathered.drain(..) {
            let refusal = WriteError::NotProposed(NO_MEMBER.to_owned());
            waiting.caller.answer(Err(refusal));
        }
    }

    /// Numbers the gathered groups, as many as fit into one entry and into the window, and proposes them. Returns
    /// false if there is none.
    fn propose_gathered(&mut self) -> bool {
        let Some(session) = *self.session.borrow() else {
            return false;
        };
        let count_max = self.numbers.room().min(ENTRY_COMMANDS_MAX);
        let mut list = Vec::new();
        let mut callers = Vec::with_capacity(self.gathered.len().min(count_max));
        let mut len = 0;
        let acked_upto = self.numbers.acked_upto;
        while len < ENTRY_LEN_MAX {
            let fits = |waiting: &mut Group| list.len() + waiting.commands.len() <= count_max;
            let Some(Group { commands, caller }) = self.gathered.pop_front_if(fits) else {
                break;
            };
            if !caller.propose() {
                continue;
            }
            callers.push((caller, commands.len()));
            for command in commands {
                let numbered = NumberedCommand {
                    session,
                    seq: self.numbers.give(),
                    acked_upto,
                    command,
                };
                len += codec::numbered_len(&numbered);
                list.push(numbered);
            }
        }
        if list.is_empty() {
            return false;
        }
        self.propose(Package::new(list, callers, None));
        true
    }

    /// Proposes the refused packages again, without the commands whose callers have gone.
    fn propose_again(&mut self) {
        for package in std::mem::take(&mut self.refused) {
            let package = if package.maybe_appended {
                package
            } else {
                self.without_withdrawn(package)
            };
            if !package.list.is_empty() {
                self.propose(package);
            }
        }
    }

    fn without_withdrawn(&mut self, package: Package) -> Package {
        let mut list = Vec::with_capacity(package.list.len());
        let mut callers = Vec::with_capacity(package.callers.len());
        for (caller, group) in package.into_groups() {
            if caller.propose() {
                callers.push((caller, group.len()));
                list.extend(group);
            } else {
                // The commands are in no log and never will be, so their numbers are final.
                self.finish(&group);
            }
        }
        Package::new(list, callers, None)
    }

    /// Marks the numbers of these commands as final.
    fn finish(&mut self, list: &[NumberedCommand]) {
        let session = *self.session.borrow();
        for numbered in list {
            if Some(numbered.session) == session {
                self.numbers.finish(numbered.seq);
            }
        }
    }

    /// Has the leader propose a package. Its commands must be claimed.
    fn propose(&mut self, mut package: Package) {
        let Some(leader) = self.leader() else {
            self.refused_by_all(package, NO_LEADER.to_owned());
            return;
        };
        package.asked = Some(leader);
        self.in_flight += 1;
        let events = self.events_sender.clone();
        // If the batcher is gone, the event is not needed.
        let tell = move |event| {
            let _ = events.send(event);
        };
        if self.leads(leader) {
            let proposal = Proposal::Commands(Arc::clone(&package.list));
            let done = move |answer: Option<ProposeAnswer>| {
                let Some(answer) = answer else {
                    for (caller, _) in package.callers {
                        caller.unknown("Raft stopped while the write was under way");
                    }
                    return tell(Event::Stopped);
                };
                match complete(package, answer) {
                    Ok(Completed { list, answers, .. }) => {
                        answers.give();
                        let to_answer = false;
                        tell(Event::Done { list, to_answer });
                    }
                    Err(event) => tell(event),
                }
            };
            return self.way.propose_here(proposal, done);
        }
        let (way, counters) = (self.way.clone(), Arc::clone(&self.counters));
        tokio::spawn(async move {
            let record = ProposalRecord::Commands {
                again: package.maybe_appended,
                list: Arc::clone(&package.list),
            };
            let answer = way.propose_at(leader, record).await;
            match complete(package, answer) {
                Ok(completed) => {
                    let (list, to_answer) = (completed.list, true);
                    tell(Event::Done { list, to_answer });
                    // Wait, so that the caller can read its write on this node at once.
                    counters.applied.reaches(completed.index).await;
                    completed.answers.give();
                    tell(Event::Answered);
                }
                Err(event) => tell(event),
            }
        });
    }

    fn handle(&mut self, event: Event) -> Result<(), RaftStopped> {
        match event {
            Event::Answered => {
                self.answering -= 1;
                return Ok(());
            }
            Event::Opened(answer, asked) => {
                self.opened(answer, asked);
                return Ok(());
            }
            Event::Stopped => return Err(RaftStopped),
            _ => self.in_flight -= 1,
        }
        match event {
            Event::Done { list, to_answer } => {
                self.answering += usize::from(to_answer);
                self.retry.delay = RETRY_DELAY_MIN;
                self.progress.done();
                self.finish(&list);
            }
            Event::Refused(package, reason) => self.refused_by_all(package, reason),
            Event::DiskFull(package, reason) => self.after_disk_full(package, &reason),
            Event::Lost(mut package, reason) => {
                package.maybe_appended = true;
                self.keep_for_later(package, reason);
            }
            Event::SessionExpired(package) => self.after_expiry(package),
            Event::Answered | Event::Opened(..) | Event::Stopped => {}
        }
        Ok(())
    }

    /// Handles a package whose last proposal was refused, and so is in no log.
    fn refused_by_all(&mut self, package: Package, reason: String) {
        if !package.maybe_appended {
            for (caller, _) in &package.callers {
                caller.claim.give_back();
            }
        }
        self.keep_for_later(package, reason);
    }

    fn keep_for_later(&mut self, package: Package, reason: String) {
        self.progress.set_obstacle(reason);
        let asked = package.asked;
        self.refused.push_back(package);
        self.ask_again(asked);
    }

    /// Handles a list that the leader refused because of a full disk. A leader refuses a list as a whole, so
    /// the removals, which need no room, are proposed again without the other commands.
    fn after_disk_full(&mut self, package: Package, reason: &str) {
        if package.maybe_appended {
            return self.keep_for_later(package, reason.to_owned());
        }
        let mut list = Vec::new();
        let mut callers = Vec::new();
        let asked = package.asked;
        for (caller, group) in package.into_groups() {
            if group.iter().all(|numbered| numbered.command.is_removal()) {
                caller.claim.give_back();
                callers.push((caller, group.len()));
                list.extend(group);
            } else {
                caller.answer(Err(WriteError::DiskFull(reason.to_owned())));
                self.finish(&group);
            }
        }
        if !list.is_empty() {
            let package = Package::new(list, callers, asked);
            self.keep_for_later(package, reason.to_owned());
        }
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
            // An earlier proposal of the package may have been executed while the session was open.
            for (caller, _) in package.callers {
                caller.unknown("the session ended while the write was under way");
            }
            return;
        }
        let groups: Vec<_> = package.into_groups().collect();
        for (caller, group) in groups.into_iter().rev() {
            caller.claim.give_back();
            let commands = group.into_iter().map(|numbered| numbered.command).collect();
            self.gathered.push_front(Group { commands, caller });
        }
    }
}

/// Waits until `stop` is requested or all writers are gone.
async fn requested(stop: &mut watch::Receiver<bool>) {
    // An error means that all writers are gone, which also stops the batcher.
    let _ = stop.wait_for(|&stop| stop).await;
}

/// Sleeps until `at`; pending forever if it is `None`.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
