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
mod python;
mod reads;
mod reply;
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
    drops: drops::DropLog,
    /// One for each call that may be run at the same time after it arrived in a large message: what a
    /// message holds takes a multiple of its bytes once it is decoded.
    large_calls: Semaphore,
    requests: budget::Budget,
    answers: budget::Budget,
    /// One for each connection that may be there.
    places: Arc<Semaphore>,
    /// One for each client that may be told at the same time that there is no place.
    refusals: Arc<Semaphore>,
}

impl Front {
    /// A front end that answers from `replica`.
    pub fn new(mut config: FrontConfig, replica: Replica) -> Self {
        config.connection_count_max = config.connection_count_max.min(Semaphore::MAX_PERMITS);
        config.hmac_key = config.hmac_key.filter(|key| !key.is_empty());
        let largest = config
            .limits
            .message_len_max
            .max(config.limits.inflated_len_max);
        config.request_memory_max = config.request_memory_max.max(largest);
        Self {
            places: Arc::new(Semaphore::new(config.connection_count_max)),
            refusals: Arc::new(Semaphore::new(listener::REFUSAL_COUNT_MAX)),
            reads: reads::ReadPolicy::new(config.reads, config.read_timeout),
            heavy: work::HeavyWork::new(),
            large_calls: Semaphore::new(connection::LARGE_CALL_COUNT_MAX),
            drops: drops::DropLog::default(),
            requests: budget::Budget::new(config.request_memory_max),
            answers: budget::Budget::new(config.answer_memory_max),
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

    /// How many clients are connected.
    pub fn connection_count(&self) -> usize {
        self.config.connection_count_max - self.places.available_permits()
    }
}
