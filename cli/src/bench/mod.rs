//! Closed-loop load on any name server that speaks Pyro. Each connection sends its next call after the reply to
//! the last one has arrived and been checked.
//!
//! The load deliberately bypasses the client library. A call costs one encoded frame, one write, one read and
//! one comparison of the reply, so that most of a shared machine is left to the server.

mod connection;
mod gap;
mod log;
mod plan;
mod report;
mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use connection::Endpoint;
use gap::Gap;
use hdrhistogram::Histogram;
use log::CallLog;
pub use plan::{Operation, Plan};
pub use report::{Latency, Report};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use workload::{Fault, Worker};

/// Pause between two rounds of connecting to all servers.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// The reason why a load could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The connection could not be established or was lost.
    #[error("{endpoint}: {source}")]
    Io {
        /// The server.
        endpoint: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The server refused the connection.
    #[error("{endpoint} refused the connection: {reason}")]
    Refused {
        /// The server.
        endpoint: String,
        /// The server's reason.
        reason: String,
    },
    /// The server sent bytes that are not a valid reply.
    #[error("{endpoint} sent a wrong answer: {reason}")]
    Answer {
        /// The server.
        endpoint: String,
        /// The problem with the reply.
        reason: String,
    },
    /// The plan cannot be carried out, or the load could not be run on this machine.
    #[error("{0}")]
    Plan(String),
}

/// Counts operations, to show progress.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// The number of operations completed so far, including the warm-up.
    pub fn operation_count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The measurements of one connection or of several.
struct Tally {
    latency: Histogram<u64>,
    right_count: u64,
    errors: BTreeMap<String, u64>,
    first_error: Option<String>,
    /// The longest gap of any single connection.
    longest_gap: Duration,
}

impl Tally {
    fn new() -> Self {
        Self {
            latency: new_histogram(),
            right_count: 0,
            errors: BTreeMap::new(),
            first_error: None,
            longest_gap: Duration::ZERO,
        }
    }

    fn count(&mut self, fault: Fault) {
        *self.errors.entry(fault.kind).or_default() += 1;
        self.first_error.get_or_insert(fault.text);
    }

    fn add(&mut self, other: Self) {
        // Both histograms have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.right_count += other.right_count;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.first_error = self.first_error.take().or(other.first_error);
        self.longest_gap = self.longest_gap.max(other.longest_gap);
    }
}

/// Runs the load of `plan` on these servers, with the connections spread evenly over them, and removes the
/// names that it registered, unless the plan keeps them. Several servers must be nodes of one cluster.
///
/// # Errors
/// [`BenchError`] if the load could not be run. Wrong replies during the load are counted in the report
/// instead, and so are lost connections if the plan says to reconnect.
pub async fn run(
    endpoints: &[Endpoint],
    plan: &Plan,
    progress: Arc<Progress>,
) -> Result<Report, BenchError> {
    plan.check()?;
    if plan.operation.needs_names() && !plan.reuse_names {
        workload::prepare(endpoints, plan).await?;
    }
    let result = load(endpoints, plan, &progress).await;
    if plan.operation.needs_names() && !plan.keep_names {
        workload::clean(endpoints, plan).await?;
    }
    result
}

/// Runs the load on its own threads; each has its share of the connections.
async fn load(
    endpoints: &[Endpoint],
    plan: &Plan,
    progress: &Arc<Progress>,
) -> Result<Report, BenchError> {
    let log = match &plan.log {
        Some(path) => Some(Arc::new(CallLog::create(path).map_err(log_error)?)),
        None => None,
    };
    let thread_count = plan.thread_count.clamp(1, plan.connection_count);
    let (ready, mut all_ready) = mpsc::channel(thread_count);
    let (start, started) = watch::channel(None);
    let mut threads = JoinSet::new();
    for thread in 0..thread_count {
        let share = Share {
            endpoints: endpoints.into(),
            plan: plan.clone(),
            numbers: (thread..plan.connection_count)
                .step_by(thread_count)
                .collect(),
            progress: Arc::clone(progress),
            log: log.clone(),
        };
        let (ready, started) = (ready.clone(), started.clone());
        threads.spawn_blocking(move || share.run(ready, started));
    }
    drop(ready);
    // A thread that cannot connect sends nothing here; its error follows below.
    let mut ready_count = 0;
    while ready_count < thread_count && all_ready.recv().await.is_some() {
        ready_count += 1;
    }
    let times = Times::from_now(plan);
    if ready_count == thread_count {
        start.send_replace(Some(times.clone()));
    }
    drop(start);
    let mut total = Tally::new();
    while let Some(joined) = threads.join_next().await {
        total.add(joined.map_err(|error| ended(&error))??);
    }
    times.gap.end_at(times.end);
    if let Some(log) = log {
        log.finish().map_err(log_error)?;
    }
    Ok(Report::new(endpoints, plan, total, times.gap.longest()))
}

fn ended(error: &tokio::task::JoinError) -> BenchError {
    BenchError::Plan(format!("a part of the load ended: {error}"))
}

fn log_error(error: std::io::Error) -> BenchError {
    BenchError::Plan(format!("cannot write the log of calls: {error}"))
}

/// The time span in which a load is measured.
#[derive(Debug, Clone)]
struct Times {
    start: Instant,
    end: Instant,
    /// The longest time without a correct reply on any connection.
    gap: Arc<Gap>,
}

impl Times {
    fn from_now(plan: &Plan) -> Self {
        let start = Instant::now() + plan.warm_up;
        Self {
            start,
            end: start + plan.duration,
            gap: Arc::new(Gap::new(start)),
        }
    }
}

/// One thread's part of a load.
struct Share {
    endpoints: Arc<[Endpoint]>,
    plan: Plan,
    /// Numbers of the connections.
    numbers: Vec<usize>,
    progress: Arc<Progress>,
    log: Option<Arc<CallLog>>,
}

impl Share {
    fn run(
        self,
        ready: mpsc::Sender<()>,
        mut started: watch::Receiver<Option<Times>>,
    ) -> Result<Tally, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| BenchError::Plan(format!("no runtime: {error}")))?;
        runtime.block_on(async {
            let mut drivers = Vec::with_capacity(self.numbers.len());
            for number in &self.numbers {
                drivers.push(self.driver(*number).await?);
            }
            let _ = ready.send(()).await;
            drop(ready);
            let times = started.wait_for(Option::is_some).await;
            // Without a start time another thread could not connect.
            let Some(times) = times.ok().and_then(|times| times.clone()) else {
                return Ok(Tally::new());
            };
            let mut tasks = JoinSet::new();
            for driver in drivers {
                tasks.spawn(driver.run(times.clone()));
            }
            let mut total = Tally::new();
            while let Some(joined) = tasks.join_next().await {
                total.add(joined.map_err(|error| ended(&error))??);
            }
            Ok(total)
        })
    }

    async fn driver(&self, number: usize) -> Result<Driver, BenchError> {
        let (connection, server) = workload::connect(&self.endpoints, number, &self.plan).await?;
        Ok(Driver {
            number,
            server,
            worker: Worker::new(number, connection, &self.plan)?,
            endpoints: Arc::clone(&self.endpoints),
            plan: self.plan.clone(),
            progress: Arc::clone(&self.progress),
            log: self.log.clone(),
        })
    }
}

/// Creates a histogram of latencies in nanoseconds, up to one minute, with three significant digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that hdrhistogram allows")
}

/// Makes the calls of one connection, one after the other.
struct Driver {
    number: usize,
    /// Index of the server that it is connected to.
    server: usize,
    worker: Worker,
    endpoints: Arc<[Endpoint]>,
    plan: Plan,
    progress: Arc<Progress>,
    log: Option<Arc<CallLog>>,
}

impl Driver {
    async fn run(mut self, times: Times) -> Result<Tally, BenchError> {
        let mut tally = Tally::new();
        let own_gap = Gap::new(times.start);
        let mut began = Instant::now();
        let mut uncounted = 0;
        while began < times.end {
            let step = self.worker.step().await;
            let finished = Instant::now();
            uncounted += 1;
            if uncounted == 64 {
                self.progress.0.fetch_add(uncounted, Ordering::Relaxed);
                uncounted = 0;
            }
            let (fault, is_lost) = match step {
                Ok(checked) => (checked.err(), false),
                Err(error) if self.plan.reconnect => (Some(Fault::from(&error)), true),
                Err(error) => return Err(error),
            };
            self.note(finished, finished - began, fault.as_ref());
            if fault.is_none() {
                times.gap.end_at(finished);
                own_gap.end_at(finished);
            }
            if began >= times.start {
                tally
                    .latency
                    .saturating_record(nanoseconds(finished - began));
                match fault {
                    None => tally.right_count += 1,
                    Some(fault) => tally.count(fault),
                }
            }
            if is_lost {
                self.reconnect(&times, &mut tally).await;
            }
            began = match is_lost {
                true => Instant::now(),
                false => finished,
            };
        }
        own_gap.end_at(times.end);
        tally.longest_gap = own_gap.longest();
        Ok(tally)
    }

    /// Tries the servers in turn, beginning with the one after the last, until one accepts or the load ends.
    async fn reconnect(&mut self, times: &Times, tally: &mut Tally) {
        while Instant::now() < times.end {
            let began = Instant::now();
            match workload::connect(&self.endpoints, self.server + 1, &self.plan).await {
                Ok((connection, server)) => {
                    self.server = server;
                    self.worker.take(connection);
                    return;
                }
                Err(error) => {
                    let mut fault = Fault::from(&error);
                    fault.kind = format!("connecting: {}", fault.kind);
                    let now = Instant::now();
                    self.note(now, now - began, Some(&fault));
                    if now >= times.start {
                        tally.count(fault);
                    }
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    fn note(&self, finished: Instant, took: Duration, fault: Option<&Fault>) {
        if let (Some(log), Some(endpoint)) = (&self.log, self.endpoints.get(self.server)) {
            let outcome = fault.map_or("ok", |fault| fault.kind.as_str());
            log.note(finished, self.number, endpoint, took, outcome);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
