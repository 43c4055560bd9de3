//! Sends snapshots to members.
//!
//! Chunks are read on a thread where blocking is allowed, and a few are in flight at once. If the connection
//! breaks, the sender waits for it and resumes at the chunk that the receiver wants next. Silence is limited,
//! the duration of the whole transfer is not. One member is served at a time: two transfers at once would take
//! twice as long each, because they share one disk.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::StorageError;
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use openraft::type_config::TypeConfigExt;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use hearth_storage::snapshot::ChunkCursor;
use hearth_storage::{StateSnapshot, StoreError};

use crate::codec::{self, LogIdRecord, VoteRecord};
use crate::environment::aside;
use crate::rpc::message::{Request, Response, SnapshotAnswer, SnapshotPart};
use crate::rpc::{CallError, Peers};
use crate::store::snapshot::{CHUNK_LEN, Snapshot, SnapshotData};
use crate::types::{TypeConfig, Vote};

/// Timeout of one answer, not of the whole transfer.
const ANSWER_DURATION_MAX: Duration = Duration::from_secs(10);

/// Timeout of the answer to the last part: the receiver syncs everything to disk and switches to it.
const FINISH_DURATION_MAX: Duration = Duration::from_secs(60);

/// The longest time without progress after which a transfer that has begun is still resumed, while the receiver
/// cannot be reached. The receiver keeps its chunks for longer than this.
const PAUSE_DURATION_MAX: Duration = Duration::from_secs(30);

/// Pause before another attempt: the first pause, and the limit up to which it doubles.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Number of times that a receiver may request a new beginning, or the same chunk, before a fresh snapshot is
/// taken.
const REPEAT_COUNT_MAX: u32 = 4;

/// Maximum number of chunks that are sent and not answered.
const CHUNKS_IN_FLIGHT_MAX: usize = 3;

/// The time for which the log is kept after a snapshot has arrived, until the member's progress is known.
const HOLD_AFTER: Duration = Duration::from_secs(10);

/// Sends one part to a member and returns its answer.
pub(crate) trait Carry: Sync {
    /// Sends `part` to member `to` and returns the answer.
    ///
    /// # Errors
    /// [`CallError`]: also if there is no answer within `timeout`.
    fn carry(
        &self,
        to: u64,
        part: SnapshotPart,
        timeout: Duration,
    ) -> impl Future<Output = Result<SnapshotAnswer, CallError>> + Send;
}

impl Carry for Peers {
    async fn carry(
        &self,
        to: u64,
        part: SnapshotPart,
        timeout: Duration,
    ) -> Result<SnapshotAnswer, CallError> {
        match self.call(to, Request::Snapshot(part), timeout).await? {
            Response::Snapshot(answer) => Ok(answer),
            Response::Unavailable(reason) => Err(CallError::Unreachable(reason)),
            _ => Err(CallError::Lost("it answered another request".to_owned())),
        }
    }
}

/// The snapshots that this node sends. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Bytes of one chunk, approximately.
    chunk_len: usize,
    /// Admits one transfer at a time.
    turn: Semaphore,
    holds: Mutex<Holds>,
}

#[derive(Debug, Default)]
struct Holds {
    next_ticket: u64,
    /// The holds by ticket: the index that the snapshot covers, and the time until which the entries behind it
    /// are kept. `None` while the transfer is under way.
    held: BTreeMap<u64, (u64, Option<Instant>)>,
}

/// Keeps the log behind a snapshot while the hold exists, and for [`HOLD_AFTER`] after the snapshot has
/// arrived.
struct Hold<'a> {
    outgoing: &'a Outgoing,
    ticket: u64,
    arrived: bool,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut holds = self.outgoing.holds();
        if !self.arrived {
            holds.held.remove(&self.ticket);
        } else if let Some((_, until)) = holds.held.get_mut(&self.ticket) {
            *until = Some(Instant::now() + HOLD_AFTER);
        }
    }
}

impl Default for Outgoing {
    fn default() -> Self {
        Self::new(CHUNK_LEN)
    }
}

type Stream<T> = Result<T, StreamingError<TypeConfig>>;

impl Outgoing {
    pub(crate) fn new(chunk_len: usize) -> Self {
        Self(Arc::new(Shared {
            chunk_len,
            turn: Semaphore::new(1),
            holds: Mutex::default(),
        }))
    }

    /// Returns the index behind which the log is needed by members that are being sent a snapshot.
    pub(crate) fn needed_after(&self) -> Option<u64> {
        let now = Instant::now();
        let mut holds = self.holds();
        holds
            .held
            .retain(|_, (_, until)| until.is_none_or(|until| until > now));
        holds.held.values().map(|&(index, _)| index).min()
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.0.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, index: u64) -> Hold<'_> {
        let mut holds = self.holds();
        let ticket = holds.next_ticket;
        holds.next_ticket += 1;
        holds.held.insert(ticket, (index, None));
        Hold {
            outgoing: self,
            ticket,
            arrived: false,
        }
    }

    /// Sends `snapshot` to member `to`, on behalf of the leader with `vote`, until it is installed there or
    /// `cancel` resolves.
    ///
    /// # Errors
    /// [`StreamingError`]. After any error but [`StreamingError::Closed`] and [`StreamingError::StorageError`],
    /// another attempt with a fresh snapshot may succeed.
    pub(crate) async fn send(
        &self,
        carry: &impl Carry,
        to: u64,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed>,
    ) -> Stream<SnapshotResponse<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_in_turn(carry, to, vote, snapshot) => sent,
        }
    }

    async fn send_in_turn(
        &self,
        carry: &impl Carry,
        to: u64,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Stream<SnapshotResponse<TypeConfig>> {
        let SnapshotData::Local(view) = snapshot.snapshot else {
            return Err(unreachable(
                "a snapshot that is being received is not sent on",
            ));
        };
        let last_log_id = snapshot.meta.last_log_id;
        let mut hold = self.hold(last_log_id.map_or(0, |id| id.index));
        let _turn = self
            .0
            .turn
            .acquire()
            .await
            .map_err(|_| unreachable("this node is stopping"))?;
        let began = Instant::now();
        let mut transfer = Transfer {
            carry,
            to,
            vote,
            begin: SnapshotPart::Begin {
                vote: VoteRecord::from(&vote),
                last_log_id: last_log_id.as_ref().map(LogIdRecord::from),
                membership: codec::encode_membership(&snapshot.meta.last_membership),
                header: view.header().encode(),
            },
            last_log_id: last_log_id.as_ref().map(LogIdRecord::from),
            chunks: Chunks::new(view, self.0.chunk_len),
            acked: 0,
            progress: began,
            repeated: 0,
        };
        let response = transfer.run().await?;
        if response <= vote {
            hold.arrived = true;
            tracing::info!(
                member = to,
                snapshot = ?last_log_id.map(|id| id.index),
                chunks = transfer.acked,
                duration = ?began.elapsed(),
                "a snapshot has arrived"
            );
        }
        Ok(SnapshotResponse::new(response))
    }
}

/// Reads chunks on a thread where blocking is allowed, and remembers where each one begins.
struct Chunks {
    view: Arc<StateSnapshot>,
    chunk_len: usize,
    /// The cursors of the chunks by number, from 0; always one more than chunks were read.
    cursors: Vec<ChunkCursor>,
    /// Number of chunks, once the last one has been read.
    count: Option<u64>,
}

type Read = Result<Option<(Vec<u8>, ChunkCursor)>, StoreError>;

impl Chunks {
    fn new(view: Arc<StateSnapshot>, chunk_len: usize) -> Self {
        Self {
            view,
            chunk_len,
            cursors: vec![ChunkCursor::default()],
            count: None,
        }
    }

    /// Returns true if there is no chunk with this number.
    fn end_before(&self, number: u64) -> bool {
        self.count.is_some_and(|count| number >= count)
    }

    /// Starts to read chunk `number`, or the first chunk whose successor is not known yet: a receiver may have
    /// the first chunks from an earlier attempt, and this view must be read up to `number` in order. Returns
    /// the number of the chunk that is read; `None` if there is no chunk `number`.
    fn read(&self, number: u64) -> Option<(u64, JoinHandle<Read>)> {
        if self.end_before(number) {
            return None;
        }
        let known = self.cursors.len().saturating_sub(1);
        let at = usize::try_from(number).map_or(known, |number| number.min(known));
        let cursor = self.cursors.get(at)?.clone();
        let view = Arc::clone(&self.view);
        let chunk_len = self.chunk_len;
        let reading = aside(move || view.chunk(&cursor, chunk_len));
        Some((at as u64, reading))
    }

    /// Records the result of reading chunk `number` and returns its bytes; `None` if there is no such chunk.
    fn have_read(&mut self, number: u64, read: Read) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((bytes, next)) = read? else {
            self.count = Some(number);
            return Ok(None);
        };
        if self.cursors.len() as u64 == number + 1 {
            self.cursors.push(next);
        }
        Ok(Some(bytes))
    }
}

/// The transfer of one snapshot to one member.
struct Transfer<'a, C> {
    carry: &'a C,
    to: u64,
    vote: Vote,
    begin: SnapshotPart,
    last_log_id: Option<LogIdRecord>,
    chunks: Chunks,
    /// Number of chunks that the receiver has.
    acked: u64,
    /// The time of the last chunk that the receiver took.
    progress: Instant,
    /// Number of times in a row that the receiver asked for chunks that it had been sent.
    repeated: u32,
}

/// The end of an attempt.
enum End {
    /// The receiver's vote: it has installed the snapshot, or its vote is higher.
    Answered(Vote),
    /// The transfer may be resumed after a pause.
    Broken(String),
    /// The transfer has failed, at least with this snapshot.
    Failed(StreamingError<TypeConfig>),
}

/// The next step after an answer to a part.
enum Step {
    /// Send the chunk with this number next.
    Next(u64),
    End(End),
}

impl<C: Carry> Transfer<'_, C> {
    async fn run(&mut self) -> Stream<Vote> {
        let mut pause = RETRY_PAUSE.0;
        loop {
            let acked = self.acked;
            let reason = match self.attempt().await {
                End::Answered(vote) => return Ok(vote),
                End::Failed(error) => return Err(error),
                End::Broken(reason) => reason,
            };
            // A transfer without any chunk loses nothing if it begins again with a fresh snapshot.
            if self.acked == 0
                || self.repeated > REPEAT_COUNT_MAX
                || self.progress.elapsed() > PAUSE_DURATION_MAX
            {
                return Err(unreachable(reason));
            }
            if self.acked > acked {
                pause = RETRY_PAUSE.0;
            }
            tracing::info!(member = self.to, chunks = self.acked, %reason, "a snapshot was interrupted");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE.1);
        }
    }

    /// Begins or resumes the transfer, and continues until the connection breaks or the snapshot is installed.
    async fn attempt(&mut self) -> End {
        let answer = self.ask(self.begin.clone(), ANSWER_DURATION_MAX).await;
        let mut next = match self.step(answer) {
            Step::Next(wanted) => wanted,
            Step::End(end) => return end,
        };
        if next < self.acked {
            // The receiver was restarted, or has dropped the snapshot.
            self.repeated += 1;
            self.acked = next;
        }
        loop {
            match self.stream(next).await {
                Step::Next(wanted) => next = wanted,
                Step::End(end) => return end,
            }
            let Some(chunk_count) = self.chunks.count.filter(|&count| count == next) else {
                // The receiver asks for a chunk that it was sent before.
                self.repeated += 1;
                if self.repeated > REPEAT_COUNT_MAX {
                    return End::Broken(format!("it keeps asking for chunk {next}"));
                }
                continue;
            };
            let finish = SnapshotPart::Finish {
                vote: VoteRecord::from(&self.vote),
                last_log_id: self.last_log_id,
                chunk_count,
            };
            let answer = self.ask(finish, FINISH_DURATION_MAX).await;
            match self.step(answer) {
                Step::Next(wanted) if wanted < chunk_count => next = wanted,
                Step::Next(wanted) => {
                    return End::Broken(format!("it wants chunk {wanted} of {chunk_count}"));
                }
                Step::End(end) => return end,
            }
        }
    }

    /// Sends the chunks from `next` on. Returns the number of chunks when the receiver has all of them, or the
    /// number of a chunk that it misses.
    async fn stream(&mut self, mut next: u64) -> Step {
        let mut in_flight = FuturesUnordered::new();
        let mut reading = None;
        loop {
            if in_flight.is_empty() && self.chunks.end_before(next) {
                return Step::Next(next);
            }
            if reading.is_none() && in_flight.len() < CHUNKS_IN_FLIGHT_MAX {
                reading = self.chunks.read(next);
            }
            let read = async {
                match &mut reading {
                    Some((number, reading)) => (*number, reading.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((number, answer)) = in_flight.next() => {
                    match self.step(answer) {
                        Step::Next(wanted) if wanted > number => self.have(wanted),
                        missing => return missing,
                    }
                }
                (number, read) = read => {
                    reading = None;
                    let read = match read {
                        Ok(read) => read,
                        Err(error) => {
                            return Step::End(End::Broken(format!("reading failed: {error}")));
                        }
                    };
                    let bytes = match self.chunks.have_read(number, read) {
                        Ok(Some(bytes)) if number == next => bytes,
                        Ok(_) => continue,
                        Err(error) => return Step::End(End::Failed(storage(error))),
                    };
                    let part = SnapshotPart::Chunk {
                        vote: VoteRecord::from(&self.vote),
                        last_log_id: self.last_log_id,
                        number,
                        bytes,
                    };
                    let (carry, to) = (self.carry, self.to);
                    in_flight.push(async move {
                        (number, carry.carry(to, part, ANSWER_DURATION_MAX).await)
                    });
                    next += 1;
                }
            }
        }
    }

    fn have(&mut self, wanted: u64) {
        if wanted > self.acked {
            self.acked = wanted;
            self.progress = Instant::now();
            self.repeated = 0;
        }
    }

    async fn ask(
        &self,
        part: SnapshotPart,
        timeout: Duration,
    ) -> Result<SnapshotAnswer, CallError> {
        self.carry.carry(self.to, part, timeout).await
    }

    fn step(&self, answer: Result<SnapshotAnswer, CallError>) -> Step {
        let end = match answer {
            Ok(SnapshotAnswer::Want(number)) => return Step::Next(number),
            Ok(SnapshotAnswer::Done(vote)) => End::Answered(vote.into()),
            Ok(SnapshotAnswer::HigherVote(vote)) => {
                let vote = Vote::from(vote);
                if vote > self.vote {
                    End::Answered(vote)
                } else {
                    let reason = format!("it calls {vote} higher than {}", self.vote);
                    End::Failed(NetworkError::from_string(reason).into())
                }
            }
            Ok(SnapshotAnswer::Restart(reason)) => End::Broken(reason),
            Ok(SnapshotAnswer::Refused(reason)) => End::Failed(unreachable(reason)),
            Err(error) => End::Broken(error.to_string()),
        };
        Step::End(end)
    }
}

fn unreachable(reason: impl ToString) -> StreamingError<TypeConfig> {
    Unreachable::from_string(reason).into()
}

fn storage(error: StoreError) -> StreamingError<TypeConfig> {
    StorageError::read_snapshot(None, TypeConfig::err_from_string(error)).into()
}
