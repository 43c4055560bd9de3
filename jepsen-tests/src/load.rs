//! Clients that work in the background while something happens to the nodes, and what they noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hearth_cli::Address;
use tokio::task::JoinSet;

use crate::client::{Client, Recorder, plain};
use crate::history::{Action, Nanos, Operation, Outcome};

/// What each client of a load does, over and over.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    /// After how many registrations a name is used again.
    pub names_per_client: u64,
    /// Look-ups of its own last name after each registration.
    pub lookups: u32,
    /// Rest between two rounds.
    pub rest: Duration,
}

impl Default for Pattern {
    fn default() -> Self {
        Self {
            names_per_client: 1_000,
            lookups: 0,
            rest: Duration::ZERO,
        }
    }
}

/// Clients at work until [`Load::stop`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
    /// What they saw.
    pub recorder: Arc<Recorder>,
}

impl Load {
    /// Starts one client for each list of endpoints; their ids are 1, 2, ….
    pub fn start(
        recorder: &Arc<Recorder>,
        clients: Vec<Vec<(u64, Address)>>,
        pattern: Pattern,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (endpoints, id) in clients.into_iter().zip(1_u32..) {
            let client = Client::new(id, endpoints, recorder);
            tasks.spawn(work(id, client, pattern, Arc::clone(&stop)));
        }
        Self {
            stop,
            clients: tasks,
            recorder: Arc::clone(recorder),
        }
    }

    /// Lets each client end what it is doing.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
    }
}

async fn work(id: u32, mut client: Client, pattern: Pattern, stop: Arc<AtomicBool>) {
    for round in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("load.{id}.{}", round % pattern.names_per_client.max(1));
        let entry = plain(format!("PYRO:load_{id}_{round}@host:4000"));
        let register = Action::Register {
            name: name.clone(),
            entry,
            safe: false,
        };
        client.perform(register).await;
        for _ in 0..pattern.lookups {
            client.perform(Action::Lookup { name: name.clone() }).await;
        }
        if !pattern.rest.is_zero() {
            tokio::time::sleep(pattern.rest).await;
        }
    }
}

/// The longest time between two acknowledged writes of one client that touches the given span, over all
/// clients that `counts` accepts. A client that wrote nothing until the end of the span counts up to there.
/// `None` when none of them wrote at all.
pub fn longest_gap(
    history: &[Operation],
    from: Nanos,
    to: Nanos,
    counts: impl Fn(&Operation) -> bool,
) -> Option<Duration> {
    let mut ends: std::collections::BTreeMap<u32, Vec<Nanos>> = std::collections::BTreeMap::new();
    for operation in history {
        let is_written = matches!(operation.outcome, Outcome::Ok(_)) && operation.action.is_write();
        if is_written && counts(operation) {
            ends.entry(operation.client)
                .or_default()
                .push(operation.end);
        }
    }
    let mut longest = None;
    for times in ends.values_mut() {
        times.sort_unstable();
        if times.last().is_some_and(|&last| last < to) {
            times.push(to);
        }
        for pair in times.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            if b >= from && a <= to {
                longest = longest.max(Some(b - a));
            }
        }
    }
    longest.map(Duration::from_nanos)
}

/// The operations that did not succeed, within a span of time.
pub fn failures(history: &[Operation], from: Nanos, to: Nanos) -> Vec<&Operation> {
    history
        .iter()
        .filter(|operation| operation.end >= from && operation.call <= to)
        .filter(|operation| !matches!(operation.outcome, Outcome::Ok(_)))
        .collect()
}

/// The value below which so much of a sorted list lies; zero for an empty one.
pub fn quantile(sorted: &[Duration], part: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let at = (part * last as f64).round() as usize;
    sorted.get(at.min(last)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Answer;

    fn write(client: u32, end: Nanos, outcome: Outcome) -> Operation {
        Operation {
            client,
            node: 1,
            call: end - 1,
            end,
            action: Action::Register {
                name: "n".into(),
                entry: plain("PYRO:o@h:1"),
                safe: false,
            },
            outcome,
        }
    }

    #[test]
    fn a_gap_is_that_of_one_client_and_ends_with_an_acknowledged_write() {
        let ok = || Outcome::Ok(Answer::Done);
        let history = [
            write(1, 10, ok()),
            write(2, 15, ok()),
            write(2, 25, ok()),
            write(1, 30, Outcome::Failed("no quorum".into())),
            write(1, 50, ok()),
            write(1, 52, ok()),
        ];
        let all = |_: &Operation| true;
        assert_eq!(
            longest_gap(&history, 0, 60, all),
            Some(Duration::from_nanos(40))
        );
        assert_eq!(
            longest_gap(&history, 51, 52, all),
            Some(Duration::from_nanos(27))
        );
        assert_eq!(
            longest_gap(&history, 0, 25, |o| o.client == 2),
            Some(Duration::from_nanos(10))
        );
        assert_eq!(longest_gap(&history, 0, 60, |o| o.client == 3), None);
        assert_eq!(failures(&history, 0, 60).len(), 1);
        assert!(failures(&history, 31, 60).is_empty());
    }
}
