//! What is seen during a simulation: operations, states, and whatever must not happen.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_storage::Summary;

use super::trace::{self, Trace};
use crate::history::{Action, Nanos, Operation, Outcome};

/// Meta record of a state: the log id that was applied last. See `raft/src/snapshot.rs`.
const LAST_APPLIED: &[u8] = b"raft/last_applied";

/// Problems of which the text is kept.
const PROBLEM_COUNT_MAX: usize = 20;

#[derive(Default)]
struct Inner {
    history: Vec<Operation>,
    states: BTreeMap<Vec<u8>, (u64, Summary)>,
    problems: Vec<String>,
    next_client: u32,
    applied: u64,
}

/// Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub(super) struct Record {
    inner: Arc<Mutex<Inner>>,
    pub(super) trace: Trace,
}

impl Record {
    pub(super) fn new(trace: Trace) -> Self {
        Self {
            inner: Arc::default(),
            trace,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a client that has done nothing yet.
    pub(super) fn new_client(&self) -> u32 {
        let mut inner = self.lock();
        inner.next_client += 1;
        inner.next_client
    }

    /// An operation is about to be asked for. Unless it returns, nobody knows what became of it.
    pub(super) fn call(&self, client: u32, node: u64, action: &Action) -> usize {
        let at = nanos();
        self.trace.say("call", node, &(client, action));
        let mut inner = self.lock();
        inner.history.push(Operation {
            client,
            node,
            call: at,
            end: at,
            action: action.clone(),
            outcome: Outcome::Unknown("its node ended".to_owned()),
        });
        inner.history.len() - 1
    }

    /// An operation has returned.
    pub(super) fn returned(&self, number: usize, outcome: Outcome) {
        let at = nanos();
        let mut inner = self.lock();
        if let Some(operation) = inner.history.get_mut(number) {
            self.trace
                .say("reply", operation.node, &(operation.client, &outcome));
            operation.end = at;
            operation.outcome = outcome;
        }
    }

    /// Node `node` has a state: equal to that of every other node at the same log id.
    pub(super) fn state(&self, node: u64, meta: &BTreeMap<Vec<u8>, Vec<u8>>, summary: &Summary) {
        let Some(applied) = meta.get(LAST_APPLIED) else {
            return;
        };
        self.trace.note("applied", node, applied);
        self.trace
            .note("state", node, &summary.hash.0.to_le_bytes());
        let mut inner = self.lock();
        inner.applied += 1;
        let (first, known) = *inner
            .states
            .entry(applied.clone())
            .or_insert((node, *summary));
        drop(inner);
        if known != *summary {
            self.problem(format!(
                "states differ: after log id {}, node {first} has {known:?} and node {node} has {summary:?}",
                applied.escape_ascii()
            ));
        }
    }

    /// Something that must not be.
    pub(super) fn problem(&self, text: String) {
        self.trace.say("problem", 0, &text);
        let mut inner = self.lock();
        if inner.problems.len() < PROBLEM_COUNT_MAX {
            inner.problems.push(text);
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.lock().problems.clone()
    }

    pub(super) fn history(&self) -> Vec<Operation> {
        self.lock().history.clone()
    }

    /// Changes of the registry that nodes applied.
    pub(super) fn applied(&self) -> u64 {
        self.lock().applied
    }
}

fn nanos() -> Nanos {
    Nanos::try_from(trace::now().as_nanos()).unwrap_or(Nanos::MAX)
}
