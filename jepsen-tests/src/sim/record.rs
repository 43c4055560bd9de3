//! The record of a simulation: operations, states, and violations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_storage::Summary;

use super::trace::{self, Trace};
use crate::history::{Action, Nanos, Operation, Outcome};

/// The meta record of the log id that was applied last. See `raft/src/store/snapshot.rs`.
const LAST_APPLIED: &[u8] = b"raft/last_applied";

/// Maximum number of problems that are kept.
const PROBLEM_COUNT_MAX: usize = 20;

#[derive(Default)]
struct Inner {
    history: Vec<Operation>,
    states: BTreeMap<Vec<u8>, (u64, Summary)>,
    problems: Vec<String>,
    next_client: u32,
    applied: u64,
}

/// The record of one simulation. Cheap to clone; all clones share one record.
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

    /// Returns the number of a new client.
    pub(super) fn new_client(&self) -> u32 {
        let mut inner = self.lock();
        inner.next_client += 1;
        inner.next_client
    }

    /// Records that an operation begins, and returns its number. Its outcome is unknown until
    /// [`Self::returned`].
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

    /// Records the outcome of operation `number`.
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

    /// Records a state of node `node`, and a violation if it differs from the first recorded state at the same
    /// log id. Ignores a state without [`LAST_APPLIED`].
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

    /// Records a violation. Only the first [`PROBLEM_COUNT_MAX`] are kept; the trace gets all.
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

    /// Returns the number of registry changes that were applied, summed over all nodes.
    pub(super) fn applied(&self) -> u64 {
        self.lock().applied
    }
}

fn nanos() -> Nanos {
    Nanos::try_from(trace::now().as_nanos()).unwrap_or(Nanos::MAX)
}
