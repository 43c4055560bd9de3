//! Clients of a simulated node: the workloads of the rig, run directly on the replica.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_raft::{Replica, WriteError};
use hearth_storage::{self as storage, Command, Filter, IfTaken, Pattern, Query, Refusal, Reply};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::record::Record;
use crate::history::{Action, Answer, Entry, Outcome};
use crate::workload::groups::{Groups, REMOVALS, TAGS};
use crate::workload::names;
use crate::workload::slots::Slots;

/// Maximum number of operations on one family of names of a client; the client then begins another family.
const FAMILY_OPERATIONS_MAX: u32 = 60;

/// The names that all clients share.
pub(super) struct Names {
    names: Slots,
    tags: Slots,
    removals: Slots,
    set: Slots,
}

impl Names {
    pub(super) fn new() -> Self {
        Self {
            names: Slots::new(3, 60, 3),
            tags: Slots::new(1, 40, 2),
            removals: Slots::new(1, 40, 2),
            set: Slots::new(1, 80, 20),
        }
    }
}

/// The settings of the clients.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// The shortest and the longest pause between two operations of one client.
    pub(super) pause: (Duration, Duration),
    /// The longest time that an operation may take.
    pub(super) patience: Duration,
}

/// One client of one node.
pub(super) struct Client {
    pub(super) node: u64,
    pub(super) replica: Replica,
    pub(super) record: Record,
    pub(super) names: Arc<Names>,
    pub(super) random: SmallRng,
    pub(super) manner: Manner,
    number: u32,
    /// The number of the current family of names, which only this client uses.
    family: u32,
    family_operations: u32,
}

impl Client {
    pub(super) fn new(
        node: u64,
        replica: Replica,
        record: Record,
        names: Arc<Names>,
        random: SmallRng,
        manner: Manner,
    ) -> Self {
        Self {
            node,
            replica,
            number: record.new_client(),
            record,
            names,
            random,
            manner,
            family: 0,
            family_operations: 0,
        }
    }

    /// Performs operations until `is_over` is set.
    pub(super) async fn work(mut self, is_over: &AtomicBool) {
        for round in 0.. {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let (least, most) = self.manner.pause;
            tokio::time::sleep(self.random.random_range(least..=most)).await;
            self.step(round).await;
        }
    }

    async fn step(&mut self, round: u64) {
        let names = Arc::clone(&self.names);
        match self.random.random_range(0..10) {
            0..4 => {
                let slot = names.names.take(&mut self.random);
                let name = format!("names.{}.{slot}", slot / names::BLOCK);
                let action = names::choose(name, self.number, round, &mut self.random);
                if self.perform(action).await.is_lost() {
                    names.names.lost(slot);
                }
            }
            4 => self.in_group(TAGS, &names.tags, round).await,
            5 => self.in_group(REMOVALS, &names.removals, round).await,
            6..8 => self.in_set(&names.set, round).await,
            _ => self.alone(round).await,
        }
    }

    async fn in_group(&mut self, groups: Groups, slots: &Slots, round: u64) {
        let slot = slots.take(&mut self.random);
        let family = format!("{}.{slot}", groups.family());
        let action = groups.choose(&family, self.number, round, &mut self.random);
        if self.perform(action).await.is_lost() {
            slots.lost(slot);
        }
    }

    async fn in_set(&mut self, slots: &Slots, round: u64) {
        let slot = slots.take(&mut self.random);
        let action = if self.random.random_ratio(3, 10) {
            Action::List {
                prefix: format!("set.{slot}."),
            }
        } else {
            Action::Register {
                name: format!("set.{slot}.{}-{round}", self.number),
                entry: plain("PYRO:o@h:1"),
                safe: true,
            }
        };
        if self.perform(action).await.is_lost() {
            slots.lost(slot);
        }
    }

    /// Performs an operation on names that only this client uses, so that every answer is known in advance.
    async fn alone(&mut self, round: u64) {
        let prefix = format!("once.{}-{}.", self.number, self.family);
        let name = format!("{prefix}{}", self.random.random_range(0..4));
        let action = match self.random.random_range(0..100) {
            0..50 => Action::Register {
                name,
                entry: plain(&format!("PYRO:o{round}@h:1")),
                safe: true,
            },
            50..78 => Action::Remove { name },
            78..88 => Action::RemovePrefix {
                prefix,
                by_regex: self.random.random_ratio(1, 2),
            },
            _ => Action::Lookup { name },
        };
        let told = self.perform(action).await;
        self.family_operations += 1;
        if told.is_lost() || self.family_operations >= FAMILY_OPERATIONS_MAX {
            self.family += 1;
            self.family_operations = 0;
        }
    }

    /// Performs an operation, and records its call and its outcome.
    pub(super) async fn perform(&self, action: Action) -> Told {
        let number = self.record.call(self.number, self.node, &action);
        let outcome = ask(&self.replica, &action, self.manner.patience).await;
        let told = Told {
            is_lost: action.is_write() && matches!(outcome, Outcome::Unknown(_)),
            is_answered: matches!(outcome, Outcome::Ok(_)),
        };
        self.record.returned(number, outcome);
        told
    }
}

/// The outcome of an operation, as far as the client needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    is_lost: bool,
    pub(super) is_answered: bool,
}

impl Told {
    /// Returns true if the operation is a write with an unknown outcome, which may take effect at any later
    /// time.
    fn is_lost(self) -> bool {
        self.is_lost
    }
}

fn plain(uri: &str) -> Entry {
    Entry {
        uri: uri.to_owned(),
        tags: BTreeSet::new(),
    }
}

async fn ask(replica: &Replica, action: &Action, patience: Duration) -> Outcome {
    let query = match action {
        Action::Lookup { name } => Query::Lookup(name.clone()),
        Action::List { prefix } => Query::List(Filter::Prefix(vec![prefix.clone()])),
        Action::Tagged { tag } => Query::List(Filter::TagsAny(vec![tag.clone()])),
        other => return write(replica, command(other), patience).await,
    };
    if let Err(error) = replica.read_barrier(patience).await {
        return Outcome::Failed(error.to_string());
    }
    match replica.answer(&query) {
        Ok(storage::Answer::Entry(found)) => Outcome::Ok(Answer::Entry(found.map(entry))),
        Ok(storage::Answer::Entries(found)) => {
            let found = found.into_iter().map(|(name, found)| (name, entry(found)));
            Outcome::Ok(Answer::Entries(BTreeMap::from_iter(found)))
        }
        Ok(other) => Outcome::Failed(format!("{other:?}")),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn write(replica: &Replica, command: Option<Command>, patience: Duration) -> Outcome {
    let Some(command) = command else {
        return Outcome::Failed("nothing that a registry can do".to_owned());
    };
    let deadline = (Instant::now() + patience).into_std();
    match replica.write(command, deadline).await {
        Ok(Reply::Done) => Outcome::Ok(Answer::Done),
        Ok(Reply::Removed(count)) => Outcome::Ok(Answer::Removed(count)),
        Ok(Reply::Refused(Refusal::NameTaken { .. })) => Outcome::Ok(Answer::Taken),
        Ok(Reply::Refused(Refusal::UnknownName)) => Outcome::Ok(Answer::UnknownName),
        Ok(Reply::Refused(Refusal::Pattern(reason))) => Outcome::Failed(reason),
        Ok(Reply::Refused(Refusal::Changed)) => Outcome::Failed("names came meanwhile".to_owned()),
        Err(error @ WriteError::Unknown(_)) => Outcome::Unknown(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn command(action: &Action) -> Option<Command> {
    Some(match action.clone() {
        Action::Register { name, entry, safe } => Command::Register {
            name,
            uri: entry.uri,
            tags: entry.tags.into_iter().collect(),
            if_taken: if safe {
                IfTaken::Refuse
            } else {
                IfTaken::Replace
            },
        },
        Action::SetMetadata { name, tags } => Command::SetMetadata {
            name,
            tags: tags.into_iter().collect(),
        },
        Action::Remove { name } => Command::Remove { name },
        Action::RemovePrefix {
            prefix,
            by_regex: false,
        } => Command::RemovePrefix {
            prefixes: vec![prefix],
        },
        Action::RemovePrefix {
            prefix,
            by_regex: true,
        } => {
            let pattern = prefix.replace('.', r"\.");
            Pattern::parse(&pattern).ok()?;
            Command::RemoveRegex { pattern }
        }
        Action::Lookup { .. }
        | Action::List { .. }
        | Action::Tagged { .. }
        | Action::Other { .. } => return None,
    })
}

fn entry(found: storage::Entry) -> Entry {
    Entry {
        uri: found.uri,
        tags: found.tags.into_iter().collect(),
    }
}
