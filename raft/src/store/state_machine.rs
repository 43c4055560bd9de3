//! Applies committed log entries to the registry, exactly once each.
//!
//! Entries that are ready are applied together. The effects of many entries, the sessions, the last applied log
//! id and the membership go into one batch, which is written atomically and not synced. Only after that are the
//! proposers answered. A crash may lose whole batches, never a part of one, and the log, which is synced before
//! it is committed, still has their entries.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use tokio::sync::{oneshot, watch};

use hearth_storage::{Change, Command, Registry, Revision, StoreError};

use crate::codec;
use crate::defect::{self, Defect};
use crate::store::log_store::io_error;
use crate::store::node_ids::{self, NodeIds};
use crate::store::roster::Roster;
use crate::store::session::{self, Admission, Sessions};
use crate::store::snapshot::{self, Position, Snapshot, SnapshotBuilder, SnapshotData};
use crate::store::sole_voter::Gate;
use crate::types::{
    LogEntry, LogId, NumberedCommand, NumberedReply, Outcome, Payload, Proposal, SnapshotMeta,
    StoredMembership, TypeConfig,
};

/// Bytes of commands, and of the entries that they change, in one batch, approximately. Replies to these
/// commands wait for the batch.
const BATCH_LEN_MAX: usize = 2 << 20;

/// Counters that may be read while they change.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Index of the last applied entry, for tasks that wait for an index.
    pub(crate) applied: Applied,
    /// Commands executed since the start; repeated and refused numbers do not count.
    pub(crate) command_count: AtomicU64,
    /// Snapshots installed since the start.
    pub(crate) install_count: AtomicU64,
    /// Batches written since the start.
    pub(crate) batch_count: AtomicU64,
    /// Index of the last applied entry.
    pub(crate) last_applied: AtomicU64,
}

/// The index of the last applied entry, whose effects are visible to readers.
#[derive(Debug)]
pub(crate) struct Applied(watch::Sender<u64>);

impl Default for Applied {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Applied {
    fn set(&self, index: u64) {
        self.0.send_replace(index);
    }

    /// Raises the index as if all entries up to `index` were applied.
    #[cfg(test)]
    pub(crate) fn raise(&self, index: u64) {
        self.0.send_if_modified(|applied| {
            let news = index > *applied;
            *applied = index.max(*applied);
            news
        });
    }

    /// Waits until the entry at `index` is applied here.
    pub(crate) async fn reaches(&self, index: u64) {
        if *self.0.borrow() >= index {
            return;
        }
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self
            .0
            .subscribe()
            .wait_for(|&applied| applied >= index)
            .await;
    }
}

/// The registry as openraft's state machine.
#[derive(Debug)]
pub(crate) struct StateMachine {
    registry: Registry,
    gate: Arc<Gate>,
    counters: Arc<Counters>,
    roster: Arc<Roster>,
    position: Position,
    sessions: Sessions,
    ids: NodeIds,
    /// True after a batch failed: memory and disk may differ, so nothing more is applied.
    broken: bool,
    /// Dropped with the state machine, which resolves the receiver from [`Self::end`].
    alive: Option<oneshot::Sender<Infallible>>,
}

/// Entries that are being added to one batch.
struct Pending {
    change: Change,
    last: Option<LogId>,
    membership_changed: bool,
    ids_changed: bool,
    command_count: u64,
    len: usize,
    answers: Vec<(ApplyResponder<TypeConfig>, Outcome)>,
}

impl StateMachine {
    /// Opens the state machine over the content of `registry`.
    ///
    /// # Errors
    /// [`StoreError`], also if the records cannot be decoded.
    pub(crate) fn open(
        registry: Registry,
        gate: Arc<Gate>,
        counters: Arc<Counters>,
        roster: Arc<Roster>,
    ) -> Result<Self, StoreError> {
        let mut state_machine = Self {
            registry,
            gate,
            counters,
            roster,
            position: Position::default(),
            sessions: Sessions::default(),
            ids: NodeIds::default(),
            broken: false,
            alive: None,
        };
        state_machine.reload()?;
        Ok(state_machine)
    }

    /// Returns a receiver that fails when the state machine is dropped. Needed because openraft does not notice
    /// that the state machine's task has panicked, and would wait forever.
    pub(crate) fn end(&mut self) -> oneshot::Receiver<Infallible> {
        let (alive, end) = oneshot::channel();
        self.alive = Some(alive);
        end
    }

    /// Sets the state machine as if a batch had failed.
    #[cfg(test)]
    pub(crate) fn break_for_test(&mut self) {
        self.broken = true;
    }

    /// Returns the position of the state: last applied log id, membership and installed snapshot.
    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    fn reload(&mut self) -> Result<(), StoreError> {
        self.position = Position::read(|key| self.registry.meta(key))?;
        let records = self.registry.extras(session::KEY_PREFIX)?;
        self.sessions = Sessions::load(
            records
                .iter()
                .map(|(key, value)| (key.as_slice(), value.as_slice())),
        )?;
        let records = self.registry.extras(node_ids::KEY_PREFIX)?;
        self.ids = NodeIds::load(
            records
                .iter()
                .map(|(key, value)| (key.as_slice(), value.as_slice())),
        )?;
        self.ids.use_rules(self.registry.rules()?);
        self.roster.set(&self.position.membership, &self.ids);
        let last = self.position.last_applied.map_or(0, |id| id.index);
        self.counters.last_applied.store(last, Ordering::Relaxed);
        self.counters.applied.set(last);
        Ok(())
    }

    fn begin(&self) -> Result<Pending, StoreError> {
        Ok(Pending {
            change: self.registry.begin()?,
            last: None,
            membership_changed: false,
            ids_changed: false,
            command_count: 0,
            len: 0,
            answers: Vec::new(),
        })
    }

    /// Applies one entry to the batch, and returns its outcome.
    fn add(&mut self, entry: LogEntry, pending: &mut Pending) -> Result<Outcome, StoreError> {
        let log_id = entry.log_id;
        let outcome = match entry.payload {
            Payload::Blank => Outcome::Nothing,
            Payload::Membership(membership) => {
                self.sessions
                    .retain_members(|node| membership.get_node(&node).is_some());
                self.ids.use_rules(pending.change.rules());
                self.ids.set_members(self.position.membership.membership());
                self.ids.set_members(&membership);
                self.position.membership = StoredMembership::new(Some(log_id), membership);
                pending.membership_changed = true;
                Outcome::Nothing
            }
            Payload::Normal(Proposal::OpenSession { node, nonce }) => {
                let membership = self.position.membership.membership();
                let is_member = membership.get_node(&node).is_some();
                Outcome::Session(is_member.then(|| self.sessions.open(node, nonce, log_id.index)))
            }
            Payload::Normal(Proposal::Commands(list)) => {
                let mut replies = Vec::with_capacity(list.len());
                for (position, numbered) in (0..).zip(list.iter()) {
                    pending.len += codec::numbered_len(numbered);
                    let revision = Revision::new(log_id.index, position);
                    replies.push(self.execute(revision, numbered, pending)?);
                }
                Outcome::Replies(replies)
            }
            Payload::Normal(Proposal::TakeId { wanted, holder }) => {
                self.ids.use_rules(pending.change.rules());
                self.ids.set_members(self.position.membership.membership());
                Outcome::Id(self.ids.take(wanted, holder))
            }
        };
        let ids = self.ids.finish_entry();
        pending.ids_changed |= !ids.is_empty();
        for (key, value) in self
            .sessions
            .finish_entry(log_id.index)
            .into_iter()
            .chain(ids)
        {
            match value {
                Some(value) => pending.change.put_extra(&key, value),
                None => pending.change.remove_extra(&key),
            }
        }
        self.position.last_applied = Some(log_id);
        pending.last = Some(log_id);
        Ok(outcome)
    }

    fn execute(
        &mut self,
        revision: Revision,
        numbered: &NumberedCommand,
        pending: &mut Pending,
    ) -> Result<NumberedReply, StoreError> {
        let NumberedCommand {
            session,
            seq,
            acked_upto,
            command,
        } = numbered;
        Ok(match self.sessions.admit(*session, *seq, *acked_upto) {
            Admission::Execute => {
                let change = &mut pending.change;
                let reply = if may_take_long(command) {
                    aside(|| change.apply(revision, command))?
                } else {
                    change.apply(revision, command)?
                };
                self.sessions.executed(*session, *seq, reply.clone());
                pending.command_count += 1;
                NumberedReply::Applied(reply)
            }
            Admission::Repeat(reply) => NumberedReply::Applied(reply),
            Admission::SessionExpired => NumberedReply::SessionExpired,
            Admission::Stale => NumberedReply::Stale,
            Admission::BeyondWindow => NumberedReply::BeyondWindow,
        })
    }

    /// Writes the batch, then answers the proposers.
    fn finish(&mut self, mut pending: Pending) -> Result<(), StoreError> {
        let Some(last) = pending.last else {
            return Ok(());
        };
        pending
            .change
            .put_meta(snapshot::LAST_APPLIED, codec::encode_log_id(&last));
        if pending.membership_changed {
            let membership = codec::encode_membership(&self.position.membership);
            pending.change.put_meta(snapshot::MEMBERSHIP, membership);
        }
        self.registry.commit(pending.change)?;

        let counters = &self.counters;
        counters.last_applied.store(last.index, Ordering::Release);
        counters.applied.set(last.index);
        counters
            .command_count
            .fetch_add(pending.command_count, Ordering::Relaxed);
        counters.batch_count.fetch_add(1, Ordering::Relaxed);
        self.gate
            .applied(&last, self.position.membership.membership());
        if pending.membership_changed || pending.ids_changed {
            self.roster.set(&self.position.membership, &self.ids);
        }
        for (responder, outcome) in pending.answers {
            responder.send(outcome);
        }
        Ok(())
    }

    /// Writes the last applied index in a batch of its own. The injected fault [`Defect::IndexApart`].
    fn write_index(&self, last: &LogId) -> Result<(), StoreError> {
        let mut change = self.registry.begin()?;
        change.put_meta(snapshot::LAST_APPLIED, codec::encode_log_id(last));
        self.registry.commit(change)
    }

    async fn apply_all<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            if let (true, Ok((entry, _))) = (defect::is(Defect::IndexApart), &first) {
                self.write_index(&entry.log_id).map_err(io_error)?;
            }
            let mut pending = self.begin().map_err(io_error)?;
            let mut next = Some(first);
            while let Some(item) = next {
                let (entry, responder) = item?;
                let outcome = self.add(entry, &mut pending).map_err(io_error)?;
                if let Some(responder) = responder {
                    pending.answers.push((responder, outcome));
                }
                let len = pending.len + pending.change.read_len();
                next = if len < BATCH_LEN_MAX && !defect::is(Defect::IndexApart) {
                    entries.next().now_or_never().flatten()
                } else {
                    None
                };
            }
            self.finish(pending).map_err(io_error)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), io::Error> {
        if self.broken {
            return Err(io::Error::other("an earlier batch could not be applied"));
        }
        Ok(())
    }
}

/// Returns true if a command may touch any number of names.
fn may_take_long(command: &Command) -> bool {
    matches!(
        command,
        Command::RemovePrefix { .. } | Command::RemoveRegex { .. } | Command::RemoveListed { .. }
    )
}

/// Runs work that may block for long, while the other tasks of this thread, Raft's heartbeats among them,
/// continue on another thread.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.check()?;
        Ok((self.position.last_applied, self.position.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        self.check()?;
        let result = self.apply_all(entries).await;
        if result.is_err() {
            self.broken = true;
            self.gate.stop();
        }
        result
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<SnapshotBuilder> {
        Some(SnapshotBuilder::new(&self.registry))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder::new(&self.registry)
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        self.check()?;
        self.gate.installing();
        aside(|| snapshot::install(&self.registry, meta, snapshot)).map_err(io_error)?;
        self.counters.install_count.fetch_add(1, Ordering::Relaxed);
        self.reload().map_err(io_error)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        self.check()?;
        if self.position.last_applied.is_none() {
            return Ok(None);
        }
        snapshot::take(&self.registry).map(Some).map_err(io_error)
    }
}

#[cfg(test)]
#[path = "state_machine_test.rs"]
mod tests;
