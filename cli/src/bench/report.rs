//! The report of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Endpoint, Plan, Tally};

/// Latencies of calls in microseconds, from the first byte sent to the last byte checked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Maximum.
    pub max: f64,
    /// Mean.
    pub mean: f64,
}

/// The result of one load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The servers, separated by commas.
    pub server: String,
    /// Name of the operation.
    pub operation: String,
    /// `pyro4` or `pyro5`.
    pub protocol: String,
    /// The serializer.
    pub serializer: String,
    /// Number of connections.
    pub connections: usize,
    /// Duration of the measurement in seconds.
    pub seconds: f64,
    /// Number of calls that began in that time, with or without an error.
    pub operations: u64,
    /// Number of wrong replies, lost connections and failed attempts to reconnect.
    pub errors: u64,
    /// Number of errors of each kind.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// The first error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Number of correct replies a second.
    pub operations_per_second: f64,
    /// The longest time without a correct reply on any connection, in milliseconds.
    pub longest_gap_ms: f64,
    /// The longest time that a single connection was without a correct reply, in milliseconds.
    pub longest_gap_of_one_ms: f64,
    /// Latencies of calls in microseconds.
    pub latency_us: Latency,
}

impl Report {
    pub(super) fn new(
        endpoints: &[Endpoint],
        plan: &Plan,
        tally: Tally,
        longest_gap: Duration,
    ) -> Self {
        let latency = &tally.latency;
        let error_count: u64 = tally.errors.values().sum();
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1_000.0;
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let operation_count = latency.len();
        let servers: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
        Self {
            server: servers.join(","),
            operation: plan.operation.name().to_owned(),
            protocol: format!("{:?}", plan.family).to_lowercase(),
            serializer: plan.serializer.name().to_owned(),
            connections: plan.connection_count,
            seconds: plan.duration.as_secs_f64(),
            operations: operation_count,
            errors: error_count,
            errors_by_kind: tally.errors,
            first_error: tally.first_error,
            longest_gap_ms: milliseconds(longest_gap),
            longest_gap_of_one_ms: milliseconds(tally.longest_gap),
            operations_per_second: per_second(tally.right_count, plan.duration),
            latency_us: Latency {
                p50: microseconds(latency.value_at_quantile(0.5)),
                p99: microseconds(latency.value_at_quantile(0.99)),
                p999: microseconds(latency.value_at_quantile(0.999)),
                max: microseconds(latency.max()),
                mean: latency.mean() / 1_000.0,
            },
        }
    }
}

fn per_second(count: u64, duration: Duration) -> f64 {
    (count as f64 / duration.as_secs_f64()).round()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} on {} over {} connections for {} s ({}, {})",
            self.operation,
            self.server,
            self.connections,
            self.seconds,
            self.protocol,
            self.serializer
        )?;
        writeln!(
            f,
            "  {:.0} operations/s, {} in all, {} wrong",
            self.operations_per_second, self.operations, self.errors
        )?;
        let latency = &self.latency_us;
        write!(
            f,
            "  latency: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us, mean {:.0} us",
            latency.p50, latency.p99, latency.p999, latency.max, latency.mean
        )?;
        write!(
            f,
            "\n  longest gap between right answers: {:.1} ms, of one connection {:.1} ms",
            self.longest_gap_ms, self.longest_gap_of_one_ms
        )?;
        for (kind, count) in &self.errors_by_kind {
            write!(f, "\n  {count} x {kind}")?;
        }
        if let Some(first_error) = &self.first_error {
            write!(f, "\n  first error: {first_error}")?;
        }
        Ok(())
    }
}
