//! This node's own writes: numbers the commands, packs them into log entries, and proposes these until their
//! outcome is known.
//!
//! A caller submits a group of commands: one, or several that are to be applied one after the other. One task, the
//! batcher, takes groups from a bounded queue, gives each command the next number of this node's session, and has
//! the leader, on whichever node, propose them together as one log entry. While
//! [`crate::Tuning::entries_in_flight_max`] entries are under way it lets groups gather, so that entries grow with
//! the load. Replies go directly to the callers: from the state machine if this node leads, and otherwise
//! from the connection to the leader, as soon as the entry is applied on this node too. A caller that has its
//! reply can therefore read its write on this node. The batcher itself learns only that numbers are final.
//!
//! A command has one of three outcomes (see [`WriteError`]). A proposal that was refused before it was appended
//! has no effect and is made again. A proposal that may be in a log is made again under the numbers that it
//! has, to the current leader; the state machine keeps the first reply for these numbers. If a caller's
//! deadline passes in between, it is told "unknown", and the batcher continues until there is a reply. Only
//! then is the number acknowledged, so that no number is ever lost from the window.
//!
//! A change of leader ends every wait. Without one, the batcher retries after a pause that grows.

pub(crate) mod limits;

use std::collections::{BTreeSet, VecDeque};
use std::iter::Peekable;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use hearth_storage::{Command, Reply};

use crate::codec;
use crate::error::WriteError;
use crate::leader::router::{NO_LEADER, Way};
use crate::leader::tracker::Leadership;
use crate::rpc::message::{ProposalRecord, ProposeAnswer};
use crate::store::session::WINDOW;
use crate::store::state_machine::Counters;
use crate::types::{NumberedCommand, NumberedReply, Proposal};
use crate::write::limits::{COMMAND_LEN_MAX, ENTRY_COMMANDS_MAX, ENTRY_LEN_MAX};

/// Number of commands that may wait for the batcher. Further callers wait in line.
const QUEUE_LEN: usize = 1024;

/// Bytes of the commands that wait or are under way. Further callers wait in line, too.
const HELD_LEN_MAX: usize = 72 << 20;

/// Length in bytes up to which a command does not count towards [`HELD_LEN_MAX`].
const UNCOUNTED_LEN_MAX: usize = 16 << 10;

// The largest command must fit.
const _: () = assert!(COMMAND_LEN_MAX <= HELD_LEN_MAX);

/// Pause before a refused proposal is made again to the same leader: the first pause, and the limit up to which
/// it doubles.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(10);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(200);

/// Pause before a node that is not a member asks again for a session.
const NO_MEMBER_DELAY: Duration = Duration::from_millis(500);

/// The time without any finished list after which a timeout is reported as a stall and not as overload.
const STALL_DURATION_MIN: Duration = Duration::from_secs(1);

/// Maximum number of lists that the leader has applied and this node has not.
const ANSWERING_COUNT_MAX: usize = 64;

const NO_MEMBER: &str = "this node is not a member of the cluster";

/// The longest time that [`Writer::stop`] lets the batcher finish the writes under way.
const DRAIN_DURATION_MAX: Duration = Duration::from_secs(5);

/// The handle through which writes are submitted. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Waiting>,
    session: watch::Receiver<Option<u64>>,
    stop: Arc<watch::Sender<bool>>,
    leadership: Leadership,
    progress: Arc<Progress>,
    /// Permits, one per byte, for further commands that count towards [`HELD_LEN_MAX`].
    room: Arc<Semaphore>,
}

/// The state of the batcher from which timeout errors are explained.
#[derive(Debug, Default)]
struct Progress {
    /// Number of lists that have had their final replies.
    done_count: AtomicU64,
    /// The reason why the last proposal was refused. Cleared when one succeeds.
    obstacle: Mutex<Option<String>>,
}

impl Progress {
    fn set_obstacle(&self, reason: String) {
        *lock(&self.obstacle) = Some(reason);
    }

    fn done(&self) {
        self.done_count.fetch_add(1, Ordering::Relaxed);
        *lock(&self.obstacle) = None;
    }
}

/// A group: commands that go into one log entry, one after the other, and whose caller waits for their replies.
#[derive(Debug)]
struct Waiting {
    /// At least one, and at most [`ENTRY_COMMANDS_MAX`].
    commands: Vec<Command>,
    caller: Caller,
}

#[derive(Debug)]
struct Caller {
    claim: Arc<Claim>,
    reply: oneshot::Sender<Result<Vec<Reply>, WriteError>>,
    /// The permits of the group, released when the caller has its replies.
    _room: Option<OwnedSemaphorePermit>,
}

/// The state of a group, shared by its caller and the batcher: it waits and its caller may still withdraw it,
/// it was withdrawn, it was proposed, or it was applied.
#[derive(Debug, Default)]
struct Claim(AtomicU8);

impl Claim {
    const WAITS: u8 = 0;
    const PROPOSED: u8 = 1;
    const WITHDRAWN: u8 = 2;
    const APPLIED: u8 = 3;

    fn go(&self, from: u8, to: u8) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Claims the command for a proposal. Returns false if the caller has withdrawn it.
    fn propose(&self) -> bool {
        self.go(Self::WAITS, Self::PROPOSED)
    }

    /// Undoes [`Self::propose`] after Raft has refused the command without appending it.
    fn give_back(&self) {
        self.go(Self::PROPOSED, Self::WAITS);
    }

    /// Records that the cluster has applied the command.
    fn applied(&self) {
        self.go(Self::PROPOSED, Self::APPLIED);
    }

    fn is_applied(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::APPLIED
    }

    /// Withdraws the command for its caller. Returns true if it will never be proposed.
    fn withdraw(&self) -> bool {
        self.go(Self::WAITS, Self::WITHDRAWN)
    }
}

impl Writer {
    /// Creates a writer and its batcher, which does nothing until [`Batcher::run`] is called.
    pub(crate) fn new<W: Way>(
        way: W,
        counters: Arc<Counters>,
        entries_in_flight_max: usize,
    ) -> (Self, Batcher<W>) {
        let (queue, waiting) = mpsc::channel(QUEUE_LEN);
        let (session_sender, session) = watch::channel(None);
        let (stop_sender, stop) = watch::channel(false);
        // Bounded all the same: at most two events for each proposal under way.
        let (events_sender, events) = mpsc::unbounded_channel();
        let progress = Arc::<Progress>::default();
        let leadership = way.leadership().clone();
        let batcher = Batcher {
            leader: leadership.watch(),
            way,
            counters,
            progress: Arc::clone(&progress),
            entries_in_flight_max: entries_in_flight_max.max(1),
            queue: waiting,
            stop,
            session: session_sender,
            opening: Opening::default(),
            events_sender,
            events,
            numbers: Numbers::default(),
            gathered: VecDeque::new(),
            refused: VecDeque::new(),
            retry: Retry::default(),
            in_flight: 0,
            answering: 0,
        };
        let writer = Self {
            queue,
            session,
            stop: Arc::new(stop_sender),
            leadership,
            progress,
            room: Arc::new(Semaphore::new(HELD_LEN_MAX)),
        };
        (writer, batcher)
    }

    /// Applies a command exactly once. See [`crate::Replica::write`].
    pub(crate) async fn write(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<Reply, WriteError> {
        let len = check_len(&command)?;
        let replies = self.write_group(vec![command], len, deadline).await?;
        // There are as many replies as commands.
        let lost = || WriteError::Unknown("the reply was lost".to_owned());
        replies.into_iter().next().ok_or_else(lost)
    }

    /// Applies commands exactly once and in order. See [`crate::Replica::write_all`].
    pub(crate) async fn write_all(
        &self,
        commands: Vec<Command>,
        deadline: Instant,
    ) -> (Vec<Reply>, Option<WriteError>) {
        let mut replies = Vec::new();
        let mut commands = commands.into_iter().peekable();
        while commands.peek().is_some() {
            let (group, len) = match next_group(&mut commands) {
                Ok(group) => group,
                Err(error) => return (replies, Some(error)),
            };
            match self.write_group(group, len, deadline).await {
                Ok(more) => replies.extend(more),
                Err(error) => return (replies, Some(error)),
            }
        }
        (replies, None)
    }

    /// Applies a group of `len` bytes. Either all of its commands are applied, or the error is that of all.
    async fn write_group(
        &self,
        commands: Vec<Command>,
        len: usize,
        deadline: Instant,
    ) -> Result<Vec<Reply>, WriteError> {
        let began = (
            Instant::now(),
            self.progress.done_count.load(Ordering::Relaxed),
        );
        let room = if len > UNCOUNTED_LEN_MAX {
            // The length was checked against a limit that fits.
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room).acquire_many_owned(len);
            match tokio::time::timeout_at(deadline, room).await {
                Ok(room) => room.ok(),
                Err(_) => return Err(self.not_proposed(began)),
            }
        } else {
            None
        };
        let claim = Arc::new(Claim::default());
        let (reply, answer) = oneshot::channel();
        let caller = Caller {
            claim: Arc::clone(&claim),
            reply,
            _room: room,
        };
        let waiting = Waiting { commands, caller };
        match tokio::time::timeout_at(deadline, self.queue.send(waiting)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(stopping()),
            Err(_) => return Err(self.not_proposed(began)),
        }
        let in_time = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(result)) => return result,
            Ok(Err(_)) => true,
            Err(_) => false,
        };
        Err(match (claim.withdraw(), in_time) {
            (true, true) => stopping(),
            (true, false) => self.not_proposed(began),
            (false, true) => WriteError::Unknown(STOPPING.to_owned()),
            (false, false) if claim.is_applied() => WriteError::Unknown(
                "the cluster has applied it, and this node has not caught up with that within the deadline"
                    .to_owned(),
            ),
            (false, false) => self.not_confirmed(),
        })
    }

    /// Returns the error for a command that was queued at `came` and never proposed. `done_before` is the
    /// number of finished lists at that time.
    fn not_proposed(&self, (came, done_before): (Instant, u64)) -> WriteError {
        let refused = lock(&self.progress.obstacle).clone();
        let stalls = self.progress.done_count.load(Ordering::Relaxed) == done_before
            && came.elapsed() >= STALL_DURATION_MIN;
        match (refused, self.leadership.leader()) {
            (_, None) => WriteError::NoQuorum(format!("{NO_LEADER}, until the deadline")),
            (Some(reason), Some(_)) if reason == NO_MEMBER => WriteError::NotProposed(reason),
            (Some(reason), Some(_)) => {
                WriteError::NoQuorum(format!("no leader took it until the deadline; {reason}"))
            }
            (None, Some(leader)) if stalls => WriteError::NoQuorum(format!(
                "earlier writes of this node have waited for {} until the deadline",
                self.name(leader)
            )),
            (None, Some(_)) => WriteError::NotProposed(
                "too many other writes of this node were waiting until the deadline".to_owned(),
            ),
        }
    }

    /// Returns the error for a command that was proposed and has no reply.
    fn not_confirmed(&self) -> WriteError {
        let reason = match self.leadership.leader() {
            Some(leader) => format!(
                "it was proposed, and {} has not confirmed it within the deadline",
                self.name(leader)
            ),
            None => "it was proposed, the leader was lost, and no other one is known within the deadline"
                .to_owned(),
        };
        WriteError::Unknown(match &*lock(&self.progress.obstacle) {
            Some(obstacle) => format!("{reason}; {obstacle}"),
            None => reason,
        })
    }

    fn name(&self, leader: u64) -> String {
        if leader == self.leadership.node_id() {
            return "a majority (this node leads)".to_owned();
        }
        format!("node {leader}, the leader,")
    }

    /// Waits until this node has a session. Returns `None` if the batcher stopped before that.
    pub(crate) async fn session(&self) -> Option<u64> {
        let mut session = self.session.clone();
        let open = session.wait_for(Option::is_some).await;
        open.ok().and_then(|open| *open)
    }

    /// Accepts no more writes. The batcher ends when all accepted writes are done, or after
    /// [`DRAIN_DURATION_MAX`].
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Returns the length of a command in bytes, or an error if it is too long to be replicated in one peer
/// message.
fn check_len(command: &Command) -> Result<usize, WriteError> {
    let len = codec::command_len(command);
    if len <= COMMAND_LEN_MAX {
        return Ok(len);
    }
    Err(WriteError::NotProposed(format!(
        "it takes {len} bytes, and at most {COMMAND_LEN_MAX} can be replicated at once"
    )))
}

/// Takes the next commands, as many as go into one log entry: a single one of any length, or several that have at most
/// [`ENTRY_LEN_MAX`] bytes together. Returns them with their length in bytes.
///
/// # Errors
/// The first command is too long.
fn next_group(
    commands: &mut Peekable<impl Iterator<Item = Command>>,
) -> Result<(Vec<Command>, usize), WriteError> {
    let mut group = Vec::new();
    let mut group_len = 0;
    while let Some(command) = commands.peek() {
        let len = codec::command_len(command);
        let fits = group.len() < ENTRY_COMMANDS_MAX && group_len + len <= ENTRY_LEN_MAX;
        if group.is_empty() {
            check_len(command)?;
        } else if !fits {
            break;
        }
        group_len += len;
        group.extend(commands.next());
    }
    Ok((group, group_len))
}

const STOPPING: &str = "this node is stopping";

fn stopping() -> WriteError {
    WriteError::NotProposed(STOPPING.to_owned())
}

/// The numbers of a session: those given out, and those whose commands have had their final reply.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Numbers {
    /// The highest number that was given out.
    last: u64,
    /// The number up to which all are final.
    pub(crate) acked_upto: u64,
    /// Final numbers above `acked_upto`.
    final_beyond: BTreeSet<u64>,
}

impl Numbers {
    /// Returns how many more numbers may be given out before an open one becomes final.
    fn room(&self) -> usize {
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

/// Commands that are proposed together as one log entry.
struct Package {
    list: Arc<[NumberedCommand]>,
    /// The callers of the groups, in the order of the commands, each with the number of its commands.
    callers: Vec<(Caller, usize)>,
    /// True if an earlier proposal of the package may be in some log.
    maybe_appended: bool,
    /// The node that was asked last to propose the package.
    asked: Option<u64>,
}

impl Package {
    fn new(list: Vec<NumberedCommand>, callers: Vec<(Caller, usize)>, asked: Option<u64>) -> Self {
        Self {
            list: list.into(),
            callers,
            maybe_appended: false,
            asked,
        }
    }

    fn session(&self) -> Option<u64> {
        self.list.first().map(|numbered| numbered.session)
    }

    /// Takes the package apart into its groups.
    fn into_groups(self) -> impl Iterator<Item = (Caller, Vec<NumberedCommand>)> {
        let mut begin = 0;
        self.callers.into_iter().map(move |(caller, count)| {
            let end = (begin + count).min(self.list.len());
            let group = self.list.get(begin..end).unwrap_or_default().to_vec();
            begin = end;
            (caller, group)
        })
    }
}

/// The outcome of a proposal.
enum Event {
    /// All commands of the list have had their final replies. If `to_answer` is true, the callers are answered
    /// when the entry is applied here, and [`Event::Answered`] follows.
    Done {
        list: Arc<[NumberedCommand]>,
        to_answer: bool,
    },
    Answered,
    /// The proposal was refused before it was appended, for this reason.
    Refused(Package, String),
    /// The proposal was refused because a disk is full, before it was appended.
    DiskFull(Package, String),
    /// The proposal may be in some log, and this node will not learn its outcome, for this reason.
    Lost(Package, String),
    /// The session has ended. This proposal did not execute any command of the package.
    SessionExpired(Package),
    /// The result of a proposal to open a session, and the node that was asked.
    Opened(ProposeAnswer, u64),
    /// Raft has stopped; the callers were told.
    Stopped,
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

/// The task behind a [`Writer`], which numbers and proposes the commands.
pub(crate) struct Batcher<W> {
    way: W,
    leader: watch::Receiver<Option<u64>>,
    counters: Arc<Counters>,
    progress: Arc<Progress>,
    entries_in_flight_max: usize,
    queue: mpsc::Receiver<Waiting>,
    stop: watch::Receiver<bool>,
    session: watch::Sender<Option<u64>>,
    opening: Opening,
    events_sender: mpsc::UnboundedSender<Event>,
    events: mpsc::UnboundedReceiver<Event>,
    numbers: Numbers,
    /// Groups that were taken from the queue and have no numbers yet; at most [`ENTRY_COMMANDS_MAX`].
    gathered: VecDeque<Waiting>,
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
    /// Runs until [`Writer::stop`] and until all accepted writes are done, or until Raft stops.
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
            let fits = |waiting: &mut Waiting| list.len() + waiting.commands.len() <= count_max;
            let Some(Waiting { commands, caller }) = self.gathered.pop_front_if(fits) else {
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
            self.gathered.push_front(Waiting { commands, caller });
        }
    }
}

impl Caller {
    /// Claims the group for a proposal. Returns false if the caller has gone; the group is then in no log.
    fn propose(&self) -> bool {
        !self.reply.is_closed() && self.claim.propose()
    }

    fn answer(self, result: Result<Vec<Reply>, WriteError>) {
        // A caller whose deadline has passed has dropped the receiver.
        let _ = self.reply.send(result);
    }

    fn unknown(self, reason: &str) {
        self.answer(Err(WriteError::Unknown(reason.to_owned())));
    }
}

/// The callers of a package and their results, to be sent when it is time.
struct Answers(Vec<(Caller, Result<Vec<Reply>, WriteError>)>);

impl Answers {
    fn give(self) {
        for (caller, answer) in self.0 {
            caller.answer(answer);
        }
    }
}

/// A package whose commands have all had their final replies.
struct Completed {
    list: Arc<[NumberedCommand]>,
    answers: Answers,
    /// The index of the entry that produced the replies.
    index: u64,
}

const OTHER_ANSWER: &str = "the leader answered another question";

/// Matches an answer to its package. Returns an event if the callers cannot be answered yet.
fn complete(package: Package, answer: ProposeAnswer) -> Result<Completed, Event> {
    let (index, replies) = match answer {
        ProposeAnswer::Replies { index, replies } if replies.len() == package.list.len() => {
            (index, replies)
        }
        ProposeAnswer::Replies { .. } | ProposeAnswer::Session { .. } => {
            return Err(Event::Lost(package, OTHER_ANSWER.to_owned()));
        }
        ProposeAnswer::NotProposed(reason) => return Err(Event::Refused(package, reason)),
        ProposeAnswer::DiskFull(reason) => return Err(Event::DiskFull(package, reason)),
        ProposeAnswer::Unknown(reason) => return Err(Event::Lost(package, reason)),
    };
    // All commands of a package belong to one session, so either all of them see it expired or none.
    if replies.contains(&NumberedReply::SessionExpired) {
        return Err(Event::SessionExpired(package));
    }
    let mut replies = replies.into_iter();
    let answers = package.callers.into_iter().map(|(caller, count)| {
        let answer = group_answer(replies.by_ref().take(count));
        if answer.is_ok() {
            caller.claim.applied();
        }
        (caller, answer)
    });
    Ok(Completed {
        index,
        answers: Answers(answers.collect()),
        list: package.list,
    })
}

/// Returns the replies to one group, or the error that stands for all of its commands.
fn group_answer(replies: impl Iterator<Item = NumberedReply>) -> Result<Vec<Reply>, WriteError> {
    let mut applied = Vec::new();
    let mut is_beyond_window = false;
    let mut is_given_up = false;
    for reply in replies {
        match reply {
            NumberedReply::Applied(reply) => applied.push(reply),
            NumberedReply::BeyondWindow => is_beyond_window = true,
            NumberedReply::Stale | NumberedReply::SessionExpired => is_given_up = true,
        }
    }
    match (is_beyond_window, is_given_up) {
        (false, false) => Ok(applied),
        (true, false) if applied.is_empty() => Err(WriteError::NotProposed(
            "too many writes of this node are without an answer".to_owned(),
        )),
        _ => Err(WriteError::Unknown("the reply was given up".to_owned())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
#[path = "write_test.rs"]
mod tests;
