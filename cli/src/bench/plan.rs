//! The plan of a load.

use std::path::PathBuf;
use std::time::Duration;

use hearth_wire::{Dialect, Family, Serializer};

use super::BenchError;

/// The operation of each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `lookup` of a random name.
    Lookup,
    /// `register` of one of the connection's own names, with a new URI each time.
    Register,
    /// Lookups with some registrations.
    Mixed {
        /// Percentage of registrations.
        write_percent: u8,
    },
    /// `list(prefix=…)` with 100 names in the reply.
    List,
    /// The bytes of a `lookup`, which the server sends back unchanged. Measures the upper limit that the
    /// machine's sockets and this load allow.
    Echo,
}

impl Operation {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Register => "register",
            Self::Mixed { .. } => "mixed",
            Self::List => "list",
            Self::Echo => "echo",
        }
    }

    pub(super) fn needs_names(self) -> bool {
        self != Self::Echo
    }
}

/// The plan of a load.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The operation of each call.
    pub operation: Operation,
    /// Number of connections; each has one call in progress.
    pub connection_count: usize,
    /// Number of threads that run the load; each has its share of the connections.
    pub thread_count: usize,
    /// Duration of the measurement.
    pub duration: Duration,
    /// Duration of the run before the measurement.
    pub warm_up: Duration,
    /// The protocol.
    pub family: Family,
    /// The serializer.
    pub serializer: Serializer,
    /// Key that signs Pyro4 messages.
    pub hmac_key: Option<Vec<u8>>,
    /// Number of names that lookups choose from.
    pub name_count: usize,
    /// True to use the names that an earlier load kept, instead of registering them.
    pub reuse_names: bool,
    /// True to keep the names for another load.
    pub keep_names: bool,
    /// Longest time for connecting and for each reply.
    pub timeout: Duration,
    /// True to continue at the next server if a connection is lost or cannot be established. Otherwise that
    /// ends the load.
    pub reconnect: bool,
    /// File for a line about each call: its end in nanoseconds since 1970, the connection, its server, its
    /// duration in nanoseconds, and `ok` or the kind of error.
    pub log: Option<PathBuf>,
}

impl Plan {
    pub(super) fn dialect(&self) -> Dialect {
        Dialect::new(self.family, self.serializer)
    }

    pub(super) fn check(&self) -> Result<(), BenchError> {
        let refuse = |text: &str| Err(BenchError::Plan(text.to_owned()));
        if self.connection_count == 0 {
            return refuse("a load needs at least one connection");
        }
        if self.name_count == 0 {
            return refuse("a load needs at least one name");
        }
        if self.duration.is_zero() {
            return refuse("a load needs some time to be measured");
        }
        Ok(())
    }
}
