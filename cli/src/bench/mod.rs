//! Closed-loop load on any name server that speaks Pyro: each connection sends its next call when the
//! reply to the last one has arrived and been checked.
//!
//! The load goes around the client library on purpose: a call costs one encoded frame, one write, one
//! read and one comparison of the reply, so that most of a shared machine is left to the server.

mod connection;
mod plan;
mod report;
mod workload;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use connection::Endpoint;
use connection::RawConnection;
use hdrhistogram::Histogram;
pub use plan::{Operation, Plan};
pub use report::{Latency, Report};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use workload::Worker;

/// Why a load could not be put on a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// No connection, or it ended.
    #[error("{endpoint}: {source}")]
    Io {
        /// The server.
        endpoint: String,
        /// What happened.
        source: std::io::Error,
    },
    /// The server refused the connection.
    #[error("{endpoint} refused the connection: {reason}")]
    Refused {
        /// The server.
        endpoint: String,
        /// Its words.
        reason: String,
    },
    /// The server sent something that is not an answer.
    #[error("{endpoint} sent a wrong answer: {reason}")]
    Answer {
        /// The server.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The plan cannot be carried out.
    #[error("{0}")]
    Plan(String),
}

/// Operations counted so far, for whoever shows progress.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// Operations completed so far, those of the warm-up included.
    pub fn operation_count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one connection measured.
struct Tally {
    latency: Histogram<u64>,
    error_count: u64,
    first_error: Option<String>,
}

/// Puts the load of `plan` on `endpoint`, and takes the names it registered away again unless the plan
/// keeps them.
///
/// # Errors
/// [`BenchError`] when the load could not be put on; wrong replies during the load are counted in the
/// report instead.
pub async fn run(
    endpoint: &Endpoint,
    plan: &Plan,
    progress: Arc<Progress>,
) -> Result<Report, BenchError> {
    plan.check()?;
    if plan.operation.needs_names() && !plan.reuse_names {
        workload::prepare(endpoint, plan).await?;
    }
    let result = load(endpoint, plan, &progress).await;
    if plan.operation.needs_names() && !plan.keep_names {
        workload::clean(endpoint, plan).await?;
    }
    result
}

/// Runs the load on threads of its own, each with its share of the connections.
async fn load(
    endpoint: &Endpoint,
    plan: &Plan,
    progress: &Arc<Progress>,
) -> Result<Report, BenchError> {
    let thread_count = plan.thread_count.clamp(1, plan.connection_count);
    let (ready, mut all_ready) = mpsc::channel(thread_count);
    let (start, started) = watch::channel(None);
    let mut threads = JoinSet::new();
    for thread in 0..thread_count {
        let share = Share {
            endpoint: endpoint.clone(),
            plan: plan.clone(),
            numbers: (thread..plan.connection_count)
                .step_by(thread_count)
                .collect(),
            progress: Arc::clone(progress),
        };
        let (ready, started) = (ready.clone(), started.clone());
        threads.spawn_blocking(move || share.run(ready, started));
    }
    drop(ready);
    // A thread that cannot connect ends without a word here, and with its error below.
    let mut ready_count = 0;
    while ready_count < thread_count && all_ready.recv().await.is_some() {
        ready_count += 1;
    }
    if ready_count == thread_count {
        start.send_replace(Some(Instant::now()));
    }
    drop(start);
    let mut latency = new_histogram();
    let mut error_count = 0;
    let mut first_error = None;
    while let Some(joined) = threads.join_next().await {
        for tally in joined.map_err(|error| ended(&error))?? {
            // Both were made with the same bounds.
            let _ = latency.add(&tally.latency);
            error_count += tally.error_count;
            first_error = first_error.or(tally.first_error);
        }
    }
    Ok(Report::new(
        endpoint,
        plan,
        &latency,
        error_count,
        first_error,
    ))
}

fn ended(error: &tokio::task::JoinError) -> BenchError {
    BenchError::Plan(format!("a part of the load ended: {error}"))
}

/// One thread's part of a load.
struct Share {
    endpoint: Endpoint,
    plan: Plan,
    /// The connections' numbers.
    numbers: Vec<usize>,
    progress: Arc<Progress>,
}

impl Share {
    fn run(
        self,
        ready: mpsc::Sender<()>,
        mut started: watch::Receiver<Option<Instant>>,
    ) -> Result<Vec<Tally>, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| BenchError::Plan(format!("no runtime: {error}")))?;
        runtime.block_on(async {
            let mut workers = Vec::with_capacity(self.numbers.len());
            for number in &self.numbers {
                workers.push(self.worker(*number).await?);
            }
            let _ = ready.send(()).await;
            drop(ready);
            let start = started
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|start| *start);
            // Another thread could not connect.
            let Some(start) = start else {
                return Ok(Vec::new());
            };
            let start = start + self.plan.warm_up;
            let end = start + self.plan.duration;
            let mut tasks = JoinSet::new();
            for worker in workers {
                tasks.spawn(drive(worker, start, end, Arc::clone(&self.progress)));
            }
            let mut tallies = Vec::with_capacity(self.numbers.len());
            while let Some(joined) = tasks.join_next().await {
                tallies.push(joined.map_err(|error| ended(&error))??);
            }
            Ok(tallies)
        })
    }

    async fn worker(&self, number: usize) -> Result<Worker, BenchError> {
        let connection = match self.plan.operation {
            Operation::Echo => RawConnection::open(&self.endpoint, &self.plan).await?,
            _ => RawConnection::connect(&self.endpoint, &self.plan).await?,
        };
        Worker::new(number, connection, &self.plan)
    }
}

/// Latencies in nanoseconds up to a minute, to three digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that hdrhistogram allows")
}

async fn drive(
    mut worker: Worker,
    start: Instant,
    end: Instant,
    progress: Arc<Progress>,
) -> Result<Tally, BenchError> {
    let mut tally = Tally {
        latency: new_histogram(),
        error_count: 0,
        first_error: None,
    };
    let mut began = Instant::now();
    let mut uncounted = 0;
    while began < end {
        let checked = worker.step().await?;
        let finished = Instant::now();
        uncounted += 1;
        if uncounted == 64 {
            progress.0.fetch_add(uncounted, Ordering::Relaxed);
            uncounted = 0;
        }
        if began >= start {
            tally
                .latency
                .saturating_record(nanoseconds(finished - began));
            if let Err(reason) = checked {
                tally.error_count += 1;
                tally.first_error.get_or_insert(reason);
            }
        }
        began = finished;
    }
    Ok(tally)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
