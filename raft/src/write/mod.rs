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

pub(crate) mod batcher;
pub(crate) mod limits;
mod outcome;

use std::iter::Peekable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use hearth_storage::{Command, Reply};

use crate::codec;
use crate::error::WriteError;
use crate::leader::router::{NO_LEADER, Way};
use crate::leader::tracker::Leadership;
use crate::store::state_machine::Counters;
use crate::write::batcher::{Batcher, Channels};
use crate::write::limits::{COMMAND_LEN_MAX, ENTRY_COMMANDS_MAX, ENTRY_LEN_MAX};
use crate::write::outcome::{Caller, Claim, Group};

/// Number of commands that may wait for the batcher. Further callers wait in line.
const QUEUE_LEN: usize = 1024;

/// Bytes of the commands that wait or are under way. Further callers wait in line, too.
const HELD_LEN_MAX: usize = 72 << 20;

/// Length in bytes up to which a command does not count towards [`HELD_LEN_MAX`].
const UNCOUNTED_LEN_MAX: usize = 16 << 10;

// The largest command must fit.
const _: () = assert!(COMMAND_LEN_MAX <= HELD_LEN_MAX);

/// The time without any finished list after which a timeout is reported as a stall and not as overload.
const STALL_DURATION_MIN: Duration = Duration::from_secs(1);

const NO_MEMBER: &str = "this node is not a member of the cluster";

/// The handle through which writes are submitted. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Group>,
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
        let progress = Arc::<Progress>::default();
        let leadership = way.leadership().clone();
        let channels = Channels {
            queue: waiting,
            stop,
            session: session_sender,
        };
        let batcher = Batcher::new(
            way,
            counters,
            Arc::clone(&progress),
            entries_in_flight_max,
            channels,
        );
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
        let waiting = Group { commands, caller };
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "write_test.rs"]
mod tests;
