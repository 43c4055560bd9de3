//! What load to put on.

use std::path::PathBuf;
use std::time::Duration;

use hearth_wire::{Dialect, Family, Serializer};

use super::BenchError;

/// What each call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `lookup` of a name picked at random.
    Lookup,
    /// `register` of one of the connection's own names, with a new URI each time.
    Register,
    /// Look-ups, with some registrations among them.
    Mixed {
        /// Registrations in a hundred calls.
        write_percent: u8,
    },
    /// `list(prefix=…)` with 100 names in the answer.
    List,
    /// The bytes of a `lookup`, which the server sends back as they are: what the machine's sockets
    /// and this load allow at most.
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

/// A load.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What each call does.
    pub operation: Operation,
    /// Connections, each with one call under way.
    pub connection_count: usize,
    /// Threads that put the load on; each has its share of the connections.
    pub thread_count: usize,
    /// How long it is measured.
    pub duration: Duration,
    /// How long it runs before.
    pub warm_up: Duration,
    /// The protocol.
    pub family: Family,
    /// The serializer.
    pub serializer: Serializer,
    /// Key with which Pyro4 messages are signed.
    pub hmac_key: Option<Vec<u8>>,
    /// Names that look-ups pick from.
    pub name_count: usize,
    /// Take names that an earlier load kept, instead of registering them.
    pub reuse_names: bool,
    /// Leave the names there for another load.
    pub keep_names: bool,
    /// How long a connection or a reply may take.
    pub timeout: Duration,
    /// Go on over another connection, to the next server, when one ends or cannot be made. Otherwise
    /// that ends the load.
    pub reconnect: bool,
    /// File to write a line about each call to: when it ended in nanoseconds since 1970, the connection,
    /// its server, how many nanoseconds it took, and `ok` or what went wrong.
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
