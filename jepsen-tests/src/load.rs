//! Clients that work in the background while something happens to the nodes, and what they noticed.
//!
//! Each client registers, and looks its own names up where it is. Beside them each node has a reader, which
//! looks up what clients of other nodes were told last: an answer that is older than what was acknowledged
//! elsewhere shows there, and hardly at the node that has just acknowledged it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_cli::Address;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
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
    /// Starts one client for each list of endpoints; their ids are 1, 2, …. Then comes a reader for each node
    /// that a list begins with, in the order of the lists.
    pub fn start(
        recorder: &Arc<Recorder>,
        clients: Vec<Vec<(u64, Address)>>,
        pattern: Pattern,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let board = Arc::new(Board::default());
        let mut ids = 1_u32..;
        let mut readers: Vec<Vec<(u64, Address)>> = Vec::new();
        for endpoints in clients {
            let begins_alike = |other: &Vec<(u64, Address)>| other.first() == endpoints.first();
            if !readers.iter().any(begins_alike) {
                readers.push(endpoints.clone());
            }
            let id = ids.next().unwrap_or_default();
            let client = Client::new(id, endpoints, recorder);
            let (board, stop) = (Arc::clone(&board), Arc::clone(&stop));
            tasks.spawn(work(id, client, pattern, board, stop));
        }
        for (endpoints, id) in readers.into_iter().zip(ids) {
            let client = Client::new(id, endpoints, recorder);
            tasks.spawn(read(client, pattern, Arc::clone(&board), Arc::clone(&stop)));
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

/// What each client was told last: the node, and a name that is registered there.
#[derive(Debug, Default)]
struct Board(Mutex<BTreeMap<u32, (u64, String)>>);

impl Board {
    fn put(&self, client: u32, node: u64, name: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(client, (node, name.to_owned()));
    }

    /// A name that was acknowledged at another node than `node`, if there is one.
    fn elsewhere(&self, node: u64, random: &mut SmallRng) -> Option<String> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = told.values().filter(|(other, _)| *other != node);
        others.choose(random).map(|(_, name)| name.clone())
    }
}

/// Rest of a reader between two look-ups, in microseconds, besides that of its pattern.
const READER_REST_US: std::ops::Range<u64> = 200..4_000;

async fn read(mut client: Client, pattern: Pattern, board: Arc<Board>, stop: Arc<AtomicBool>) {
    let mut random = SmallRng::from_os_rng();
    while !stop.load(Ordering::Relaxed) {
        if let Some(name) = board.elsewhere(client.node(), &mut random) {
            client.perform(Action::Lookup { name }).await;
        }
        let rest = Duration::from_micros(random.random_range(READER_REST_US));
        tokio::time::sleep(pattern.rest + rest).await;
    }
}

async fn work(
    id: u32,
    mut client: Client,
    pattern: Pattern,
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
) {
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
        let told = client.perform(register).await;
        if matches!(told.outcome, Outcome::Ok(_)) {
            board.put(id, told.node, &name);
        }
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
