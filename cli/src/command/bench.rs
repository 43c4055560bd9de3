//! The `bench` command: runs a load on a name server and prints the measurements.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hearth_cli::bench::{Endpoint, Operation, Plan, Progress, Report};
use hearth_cli::{Address, ClientError, Protocol};
use hearth_wire::Family;
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;
use crate::outcome::Outcome;
use crate::session::{Place, Session};

const EXAMPLES: &str = "\
Every reply is checked, and a wrong one makes the exit code 1. The names of the load start with
`hearth.bench.`; they are removed before and after it. Of several endpoints, which must be nodes of one
cluster, each gets as many connections as the others.

Examples:
  nsctl bench lookup                                  the server that Pyro would find
  nsctl -n neptune bench register --connections 64    registrations over 64 connections
  nsctl -o json bench mixed --write-percent 5         as JSON
  nsctl --endpoints a,b,c bench register --reconnect  while one of three nodes is stopped
  nsctl -p 9099 bench echo                            an echo server, as the yardstick";

/// Measures how many calls a second a name server answers
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// What each call does
    #[arg(value_enum)]
    operation: OperationArg,

    /// Connections, each with one call under way
    #[arg(long, value_name = "COUNT", default_value_t = 16)]
    connections: usize,

    /// How long to measure
    #[arg(long, visible_alias = "duration", value_name = "SECONDS", default_value = "5", value_parser = crate::args::seconds)]
    seconds: Duration,

    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = crate::args::seconds)]
    warm_up: Duration,

    /// Threads that put the load on [default: half of the processors]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,

    /// Names that look-ups pick from
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    names: usize,

    /// Registrations in a hundred calls of a mixed load
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    write_percent: u8,

    /// Leave the names there, for another load
    #[arg(long)]
    keep: bool,

    /// Take the names that a load with --keep left, instead of registering them
    #[arg(long)]
    reuse: bool,

    /// When a connection ends, go on at the next endpoint, instead of ending the load
    #[arg(long)]
    reconnect: bool,

    /// File for a line about each call: when it ended (nanoseconds since 1970), connection, server, how
    /// long it took (nanoseconds), `ok` or the kind of error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OperationArg {
    /// Look up a name picked at random
    Lookup,
    /// Register one of the connection's own names
    Register,
    /// Look-ups, with some registrations among them
    Mixed,
    /// List 100 names by their prefix
    List,
    /// Send a look-up's bytes to a server that sends them back
    Echo,
}

impl Bench {
    pub(crate) async fn run(self, session: &Session) -> Result<Outcome, Failure> {
        let (addresses, family) = match (&self.operation, &session.place) {
            // An echo server does not answer the handshake that `locate` needs.
            (OperationArg::Echo, Place::Endpoints(endpoints)) => {
                (endpoints.clone(), preferred_family(session))
            }
            (OperationArg::Echo, Place::Pyro { host, port }) => {
                let host = host.as_deref().unwrap_or("localhost");
                let port = port.unwrap_or(session.config.ns_port);
                let address = Address::from_host(host, port).map_err(ClientError::from)?;
                (vec![address], preferred_family(session))
            }
            (_, place) => {
                let name_server = session.locate().await?;
                let family = name_server.family();
                let addresses = match place {
                    Place::Endpoints(endpoints) => endpoints.clone(),
                    Place::Pyro { .. } => vec![name_server.address().clone()],
                };
                (
                    addresses,
                    family.unwrap_or_else(|| preferred_family(session)),
                )
            }
        };
        let mut endpoints = Vec::with_capacity(addresses.len());
        for address in &addresses {
            endpoints.push(resolve(address).await?);
        }
        let plan = self.plan(session, family);
        let progress = Arc::new(Progress::default());
        let bar = ProgressTask::start(Arc::clone(&progress), &plan);
        let report = hearth_cli::bench::run(&endpoints, &plan, progress).await;
        bar.stop();
        Ok(outcome(&report?))
    }

    fn plan(&self, session: &Session, family: Family) -> Plan {
        let connect = &session.config.connect;
        let half =
            || std::thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2));
        Plan {
            operation: match self.operation {
                OperationArg::Lookup => Operation::Lookup,
                OperationArg::Register => Operation::Register,
                OperationArg::Mixed => Operation::Mixed {
                    write_percent: self.write_percent,
                },
                OperationArg::List => Operation::List,
                OperationArg::Echo => Operation::Echo,
            },
            connection_count: self.connections,
            thread_count: self.threads.unwrap_or_else(half),
            duration: self.seconds,
            warm_up: self.warm_up,
            family,
            serializer: connect.serializer,
            hmac_key: connect.hmac_key.as_ref().map(|key| key.to_vec()),
            name_count: self.names,
            reuse_names: self.reuse,
            keep_names: self.keep,
            timeout: connect.timeout.unwrap_or(Duration::MAX),
            reconnect: self.reconnect,
            log: self.log.clone(),
        }
    }
}

fn preferred_family(session: &Session) -> Family {
    match session.config.connect.protocol {
        Protocol::Only(family) => family,
        _ => Family::Pyro5,
    }
}

/// Resolves a host name once, so that the load is on one address.
async fn resolve(address: &Address) -> Result<Endpoint, Failure> {
    match address {
        Address::Unix(path) => Ok(Endpoint::Unix(path.clone())),
        Address::Tcp { host, port } => {
            let host = if host.is_empty() { "localhost" } else { host };
            // Name servers bind an IPv4 address by default.
            let mut found: Vec<_> = tokio::net::lookup_host((host, *port)).await?.collect();
            found.sort_by_key(|address| !address.is_ipv4());
            let first = found.into_iter().next();
            let none = || io::Error::other(format!("{host} has no address"));
            Ok(Endpoint::Tcp(first.ok_or_else(none)?))
        }
    }
}

fn outcome(report: &Report) -> Outcome {
    Outcome::Message {
        text: Some(report.to_string()),
        json: serde_json::to_value(report).unwrap_or_default(),
        exit_code: u8::from(report.errors > 0),
    }
}

/// A progress bar on standard error, if that is a terminal.
struct ProgressTask(Option<(ProgressBar, tokio::task::JoinHandle<()>)>);

impl ProgressTask {
    fn start(progress: Arc<Progress>, plan: &Plan) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let length = plan.warm_up.saturating_add(plan.duration);
        let bar = ProgressBar::new(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
            bar.set_style(style);
        }
        let shown = bar.clone();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            let mut before = 0;
            loop {
                ticks.tick().await;
                let count = progress.operation_count();
                // The names are registered first, which is not part of the load.
                if count > 0 {
                    shown.inc(TICK_MS);
                    shown.set_message(format!(
                        "{} operations/s",
                        (count - before) * 1_000 / TICK_MS
                    ));
                } else {
                    shown.set_message("preparing");
                }
                before = count;
            }
        });
        Self(Some((bar, task)))
    }

    fn stop(self) {
        if let Some((bar, task)) = self.0 {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

const TICK_MS: u64 = 200;
const TICK: Duration = Duration::from_millis(TICK_MS);
