//! Receives snapshots from a leader.
//!
//! Chunks are written directly into a new generation of the store, beside the current state, which is served
//! meanwhile. When all chunks have arrived, their counts and hash are right, and everything is on disk,
//! openraft is told. The state machine then only has to switch generations. Every mistake of a sender is thus
//! detected before openraft sees the snapshot, because openraft treats a failed install as fatal.
//!
//! One snapshot is received at a time. It is identified by its sender's vote and by the whole of its `Begin`
//! message. A leader that begins another snapshot replaces it; an earlier leader cannot. A snapshot that makes
//! no progress for a minute is dropped, from the disk too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use hearth_storage::{Installation, Registry, SnapshotHeader, StoreError};

use crate::codec::{self, LogIdRecord, VoteRecord};
use crate::disk_space::Disk;
use crate::rpc::message::{SnapshotAnswer, SnapshotPart};
use crate::store::Raft;
use crate::store::snapshot::{self, Snapshot, SnapshotData};
use crate::types::{LogId, SnapshotMeta, Vote};

/// The longest time that a snapshot without progress is kept.
const IDLE_DURATION_MAX: Duration = Duration::from_secs(60);

/// Bytes that an entry takes on disk with its tags, approximately.
const ENTRY_LEN: u64 = 200;

/// Number of parts that may wait for the part before them to be written.
const QUEUE_LEN: usize = 8;

/// Maximum distance by which a chunk may be ahead of the wanted one: requests of one connection are handled by
/// separate tasks, which may overtake each other.
const EARLY_COUNT_MAX: u64 = 8;

type Reply = oneshot::Sender<SnapshotAnswer>;

/// Receives snapshots from other nodes. Cheap to clone; all clones share one task.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    parts: mpsc::Sender<(SnapshotPart, Reply)>,
}

impl Receiver {
    /// Starts the task that does the work. It ends with the last clone of the receiver.
    pub(crate) fn start(raft: Raft, registry: Registry, disk: Arc<Disk>) -> (Self, JoinHandle<()>) {
        Self::start_with(raft, registry, disk, IDLE_DURATION_MAX)
    }

    fn start_with(
        raft: Raft,
        registry: Registry,
        disk: Arc<Disk>,
        idle_duration_max: Duration,
    ) -> (Self, JoinHandle<()>) {
        let (parts, queue) = mpsc::channel(QUEUE_LEN);
        let work = Work {
            raft,
            registry,
            disk,
            idle_duration_max,
            incoming: None,
            installed: None,
        };
        (Self { parts }, tokio::spawn(work.run(queue)))
    }

    /// Handles one part of a snapshot, and returns the answer for its sender.
    pub(crate) async fn handle(&self, part: SnapshotPart) -> SnapshotAnswer {
        let (reply, answer) = oneshot::channel();
        if self.parts.send((part, reply)).await.is_ok()
            && let Ok(answer) = answer.await
        {
            return answer;
        }
        SnapshotAnswer::Refused("this node is stopping".to_owned())
    }
}

/// The state of the receiver's task.
struct Work {
    raft: Raft,
    registry: Registry,
    disk: Arc<Disk>,
    idle_duration_max: Duration,
    incoming: Option<Incoming>,
    /// The snapshot that was installed last, because its last part may arrive again.
    installed: Option<(Vote, LogId)>,
}

/// A snapshot that is being received.
struct Incoming {
    vote: Vote,
    last_log_id: LogId,
    /// Membership and header as they were received.
    said: (Vec<u8>, Vec<u8>),
    meta: SnapshotMeta,
    installation: Installation,
    /// The number of the next chunk.
    wanted: u64,
    /// Chunks after the wanted one, by number.
    early: BTreeMap<u64, (Vec<u8>, Reply)>,
    began: Instant,
    touched: Instant,
}

impl Incoming {
    fn is(&self, vote: &Vote, last_log_id: Option<LogIdRecord>) -> bool {
        self.vote == *vote && last_log_id.map(LogId::from) == Some(self.last_log_id)
    }
}

impl Work {
    async fn run(mut self, mut queue: mpsc::Receiver<(SnapshotPart, Reply)>) {
        loop {
            let idle = self.incoming.as_ref().map(|incoming| incoming.touched);
            let idle_duration_max = self.idle_duration_max;
            let given_up = async move {
                match idle {
                    Some(touched) => tokio::time::sleep_until(touched + idle_duration_max).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                part = queue.recv() => match part {
                    Some((part, reply)) => self.part(part, reply).await,
                    None => break,
                },
                () = given_up => {
                    let dropped = self.drop_incoming().await;
                    tracing::warn!(
                        snapshot = ?dropped.map(|id| id.index),
                        "a snapshot did not go on for {idle_duration_max:?}, and is given up"
                    );
                }
            }
        }
        self.drop_incoming().await;
    }

    async fn part(&mut self, part: SnapshotPart, reply: Reply) {
        if let Some(incoming) = &mut self.incoming {
            incoming.touched = Instant::now();
        }
        let answer = match part {
            SnapshotPart::Begin {
                vote,
                last_log_id,
                membership,
                header,
            } => {
                let said = (membership, header);
                self.begin(vote.into(), last_log_id, said).await
            }
            SnapshotPart::Chunk {
                vote,
                last_log_id,
                number,
                bytes,
            } => {
                let vote = Vote::from(vote);
                match self.check(&vote, last_log_id) {
                    Some(answer) => answer,
                    None => return self.chunk(number, bytes, reply).await,
                }
            }
            SnapshotPart::Finish {
                vote,
                last_log_id,
                chunk_count,
            } => {
                let vote = Vote::from(vote);
                let id = last_log_id.map(LogId::from);
                if id.is_some_and(|id| self.installed == Some((vote, id))) {
                    SnapshotAnswer::Done(VoteRecord::from(&self.vote()))
                } else {
                    match self.check(&vote, last_log_id) {
                        Some(answer) => answer,
                        None => self.finish(chunk_count).await,
                    }
                }
            }
        };
        // The sender may have given up.
        let _ = reply.send(answer);
    }

    /// Returns this node's vote.
    fn vote(&self) -> Vote {
        self.raft.metrics().borrow_watched().vote
    }

    /// Returns the answer to a sender whose vote is lower than this node's or than that of the snapshot under
    /// way.
    fn overtaken(&self, vote: &Vote) -> Option<SnapshotAnswer> {
        let incoming = self.incoming.as_ref().map(|incoming| incoming.vote);
        let higher = [Some(self.vote()), incoming]
            .into_iter()
            .flatten()
            .find(|known| known > vote)?;
        Some(SnapshotAnswer::HigherVote(VoteRecord::from(&higher)))
    }

    /// Returns the answer to a part that does not belong to the snapshot under way; `None` if it does.
    fn check(&self, vote: &Vote, last_log_id: Option<LogIdRecord>) -> Option<SnapshotAnswer> {
        if let Some(answer) = self.overtaken(vote) {
            return Some(answer);
        }
        match &self.incoming {
            Some(incoming) if incoming.is(vote, last_log_id) => None,
            _ => Some(SnapshotAnswer::Restart(
                "it does not know this snapshot, or has given it up".to_owned(),
            )),
        }
    }

    async fn begin(
        &mut self,
        vote: Vote,
        last_log_id: Option<LogIdRecord>,
        said: (Vec<u8>, Vec<u8>),
    ) -> SnapshotAnswer {
        if let Some(answer) = self.overtaken(&vote) {
            return answer;
        }
        let refused = SnapshotAnswer::Refused;
        let (meta, last, header) = match described(&vote, last_log_id, &said) {
            Ok(described) => described,
            Err(reason) => return refused(reason),
        };
        match self.is_needed(&last) {
            Ok(true) => {}
            Ok(false) => return SnapshotAnswer::Done(VoteRecord::from(&self.vote())),
            Err(reason) => return refused(reason),
        }
        if let Some(incoming) = &mut self.incoming
            && incoming.is(&vote, last_log_id)
            && incoming.said == said
        {
            // The connection was broken, so the sender, if it still waits, sends these chunks again.
            for (_, (_, reply)) in std::mem::take(&mut incoming.early) {
                let _ = reply.send(SnapshotAnswer::Want(incoming.wanted));
            }
            return SnapshotAnswer::Want(incoming.wanted);
        }
        self.drop_incoming().await;
        let entry_count = header.summary.entry_count;
        if let Err(reason) = self
            .disk
            .has_room_for(entry_count.saturating_mul(ENTRY_LEN))
        {
            return refused(reason);
        }
        let registry = self.registry.clone();
        let installation = match aside(move || registry.begin_install(header)).await {
            Ok(Ok(installation)) => installation,
            Ok(Err(error)) => return refused(error.to_string()),
            Err(reason) => return refused(reason),
        };
        tracing::info!(leader = %vote, snapshot = last.index, names = entry_count, "receiving a snapshot");
        let now = Instant::now();
        self.incoming = Some(Incoming {
            vote,
            last_log_id: last,
            said,
            meta,
            installation,
            wanted: 0,
            early: BTreeMap::new(),
            began: now,
            touched: now,
        });
        SnapshotAnswer::Want(0)
    }

    /// Returns true if a snapshot up to `last` would advance this node's state.
    fn is_needed(&self, last: &LogId) -> Result<bool, String> {
        let (committed, applied) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.local_committed, metrics.last_applied)
        };
        if applied.is_some_and(|applied| applied >= *last) {
            return Ok(false);
        }
        // openraft would panic on such a snapshot.
        match committed.filter(|committed| committed < last && committed.index >= last.index) {
            Some(committed) => Err(format!(
                "it is of {last}, and {committed} is committed here"
            )),
            None => Ok(true),
        }
    }

    /// Writes a chunk, and the early chunks that follow it.
    async fn chunk(&mut self, number: u64, bytes: Vec<u8>, reply: Reply) {
        let Some(mut incoming) = self.incoming.take() else {
            return;
        };
        if number > incoming.wanted && number - incoming.wanted <= EARLY_COUNT_MAX {
            let twice = incoming.early.insert(number, (bytes, reply));
            if let Some((_, reply)) = twice {
                let _ = reply.send(SnapshotAnswer::Want(incoming.wanted));
            }
            self.incoming = Some(incoming);
            return;
        }
        let mut next = Some((number, bytes, reply));
        while let Some((number, bytes, reply)) = next {
            if number == incoming.wanted {
                if let Err(reason) = self.disk.takes_entries(bytes.len() as u64) {
                    let _ = reply.send(SnapshotAnswer::Refused(reason));
                    self.incoming = Some(incoming);
                    self.drop_incoming().await;
                    return;
                }
                let taken = aside(move || {
                    let taken = incoming.installation.chunk(&bytes);
                    (incoming, taken)
                });
                let taken = match taken.await {
                    Ok((back, taken)) => {
                        incoming = back;
                        taken
                    }
                    Err(reason) => {
                        let _ = reply.send(SnapshotAnswer::Refused(reason));
                        return;
                    }
                };
                match taken {
                    Ok(()) => incoming.wanted += 1,
                    Err(error @ StoreError::Snapshot { .. }) => {
                        // The chunk is still wanted.
                        tracing::warn!(%error, number, "a snapshot came altered");
                    }
                    Err(error) => {
                        let _ = reply.send(SnapshotAnswer::Refused(error.to_string()));
                        self.incoming = Some(incoming);
                        self.drop_incoming().await;
                        return;
                    }
                }
            }
            let _ = reply.send(SnapshotAnswer::Want(incoming.wanted));
            let wanted = incoming.wanted;
            let early = incoming.early.remove(&wanted);
            next = early.map(|(bytes, reply)| (wanted, bytes, reply));
        }
        incoming.touched = Instant::now();
        self.incoming = Some(incoming);
    }

    /// Completes the snapshot and has openraft install it.
    async fn finish(&mut self, chunk_count: u64) -> SnapshotAnswer {
        let Some(mut incoming) = self
            .incoming
            .take_if(|incoming| incoming.wanted >= chunk_count)
        else {
            let wanted = self.incoming.as_ref().map_or(0, |incoming| incoming.wanted);
            return SnapshotAnswer::Want(wanted);
        };
        let began = incoming.began;
        let prepared = aside(move || {
            let prepared = incoming.installation.prepare();
            // An installation that failed is dropped here, where blocking is allowed.
            prepared.map(|()| incoming)
        });
        let incoming = match prepared.await {
            Ok(Ok(incoming)) => incoming,
            Ok(Err(error @ StoreError::Snapshot { .. })) => {
                return SnapshotAnswer::Restart(error.to_string());
            }
            Ok(Err(error)) => return SnapshotAnswer::Refused(error.to_string()),
            Err(reason) => return SnapshotAnswer::Refused(reason),
        };
        // The commit index may have advanced in the meantime.
        match self.is_needed(&incoming.last_log_id) {
            Ok(true) => {}
            Ok(false) => return SnapshotAnswer::Done(VoteRecord::from(&self.vote())),
            Err(reason) => return SnapshotAnswer::Refused(reason),
        }
        let snapshot = Snapshot {
            meta: incoming.meta,
            snapshot: SnapshotData::Received(Box::new(incoming.installation)),
        };
        let installed = self.raft.install_full_snapshot(incoming.vote, snapshot);
        match installed.await {
            Ok(response) if response.vote > incoming.vote => {
                SnapshotAnswer::HigherVote(VoteRecord::from(&response.vote))
            }
            Ok(response) => {
                self.installed = Some((incoming.vote, incoming.last_log_id));
                tracing::info!(
                    snapshot = incoming.last_log_id.index,
                    duration = ?began.elapsed(),
                    "a snapshot is installed"
                );
                SnapshotAnswer::Done(VoteRecord::from(&response.vote))
            }
            Err(error) => SnapshotAnswer::Refused(error.to_string()),
        }
    }

    /// Drops the snapshot under way, and waits until it is removed from the disk.
    async fn drop_incoming(&mut self) -> Option<LogId> {
        let incoming = self.incoming.take()?;
        let last_log_id = incoming.last_log_id;
        let _ = aside(move || drop(incoming)).await;
        Some(last_log_id)
    }
}

/// Checks and decodes a sender's description of its snapshot.
fn described(
    vote: &Vote,
    last_log_id: Option<LogIdRecord>,
    (membership, header): &(Vec<u8>, Vec<u8>),
) -> Result<(SnapshotMeta, LogId, SnapshotHeader), String> {
    let last = last_log_id
        .map(LogId::from)
        .ok_or("it is of a state to which nothing was applied")?;
    // openraft would panic on such a snapshot.
    if !vote.committed || last.leader_id > vote.leader_id {
        return Err(format!("vote {vote} cannot have a snapshot of {last}"));
    }
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: codec::decode_membership(membership).map_err(|error| error.to_string())?,
    };
    let header = SnapshotHeader::decode(header)
        .and_then(|header| snapshot::header_to_install(header, &meta))
        .map_err(|error| error.to_string())?;
    Ok((meta, last, header))
}

/// Runs work that may block on a thread where blocking is allowed.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let done = crate::environment::aside(work).await;
    done.map_err(|error| format!("installing failed: {error}"))
}

#[cfg(test)]
#[path = "snapshot_test.rs"]
mod tests;
