//! The Pyro front end: what Pyro4 and Pyro5 clients talk to.
//!
//! [`Front`] serves connections that a [`Listener`] accepts, with the objects `Pyro.NameServer`,
//! `Pyro.Daemon` and `Hearth.Cluster` behind them. It does not bind sockets, choose addresses, answer discovery or read
//! configuration; whoever starts it does.
//!
//! A call passes `connection` (bytes ↔ frames), `dispatch` (which object and member), `arguments`
//! (binding), and `nameserver`, `daemon` or `cluster` (the method), and its result leaves through `reply`.
//! `reads` says when this node's own copy may be shown.

mod arguments;
mod budget;
mod caller;
mod cluster;
mod config;
mod connection;
mod daemon;
mod dispatch;
mod drops;
mod handshake;
mod listener;
mod listing;
mod nameserver;
mod object;
mod places;
mod presence;
mod python;
mod reads;
mod reply;
mod snapshots;
mod socket;
mod work;

use std::sync::Arc;

use hearth_raft::Replica;
use tokio::sync::{Semaphore, watch};

pub use config::{DEFAULT_LIMITS, FrontConfig, ReadMode, SerializerSet, ServerType};
pub use listener::Listener;

/// The front end of one node. It may serve several listeners at once; they share the connection limit.
#[derive(Debug)]
pub struct Front {
    config: FrontConfig,
    replica: Replica,
    reads: reads::ReadPolicy,
    heavy: work::HeavyWork,
    /// Apart from the rest: a pattern may take as long as it is allowed to.
    patterns: work::HeavyWork,
    snapshots: Arc<snapshots::Snapshots>,
    drops: drops::DropLog,
    /// One for each call that may be run at the same time after it arrived in a large message: what a
    /// message holds takes a multiple of its bytes once it is decoded.
    large_calls: Semaphore,
    /// The same for batches, which may take long and must not hold up the others.
    large_batches: Semaphore,
    requests: budget::Budget,
    answers: budget::Budget,
    /// One: a large list takes a multiple of its bytes while it is made.
    large_lists: Semaphore,
    places: Arc<places::Places>,
    /// One for each client that may be told at the same time that there is no place.
    refusals: Arc<Semaphore>,
}

impl Front {
    /// A front end that answers from `replica`.
    pub fn new(mut config: FrontConfig, replica: Replica) -> Self {
        config.hmac_key = config.hmac_key.filter(|key| !key.is_empty());
        let largest = config
            .limits
            .message_len_max
            .max(config.limits.inflated_len_max);
        config.request_memory_max = config.request_memory_max.max(largest);
        Self {
            places: Arc::new(places::Places::new(&config)),
            refusals: Arc::new(Semaphore::new(listener::REFUSAL_COUNT_MAX)),
            reads: reads::ReadPolicy::new(config.reads, config.read_timeout),
            heavy: work::HeavyWork::new(),
            patterns: work::HeavyWork::new(),
            snapshots: Arc::default(),
            large_calls: Semaphore::new(connection::LARGE_CALL_COUNT_MAX),
            large_batches: Semaphore::new(connection::LARGE_CALL_COUNT_MAX),
            drops: drops::DropLog::default(),
            requests: budget::Budget::new(config.request_memory_max),
            answers: budget::Budget::new(config.answer_memory_max),
            large_lists: Semaphore::new(1),
            config,
            replica,
        }
    }

    /// Accepts and serves clients until `shutdown` turns true (or its sender goes away), then drains:
    /// requests under way are finished and answered, idle connections close. Returns after at most
    /// [`FrontConfig::drain_timeout`] more.
    pub async fn serve(self: Arc<Self>, listener: Listener, shutdown: watch::Receiver<bool>) {
        listener::serve(self, listener, shutdown).await;
    }

    /// Where a list is made.
    fn turns_for(&self, listing: &listing::Listing) -> &work::HeavyWork {
        if listing.has_pattern() {
            &self.patterns
        } else {
            &self.heavy
        }
    }

    /// How many clients are connected.
    pub fn connection_count(&self) -> usize {
        self.places.taken_count()
    }
}
