//! One node: builds the parts, owns their tasks, and stops them in order.
//!
//! A part that ends early takes the node down: a name server that serves half of what it should is worse
//! than one that is seen to be gone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_raft::{Replica, ReplicaConfig, Tuning};
use hearth_storage::{Answer, Query, StoreError};
use hearth_wire::Uri;
use hearth_wire::uri::{Location, Target};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

use crate::announce::{Announcement, Discovery, SHUT_DOWN, uri_at};
use crate::autoclean;
use crate::config::{Bind, Nat, NodeConfig};
use crate::discovery::{Reply, Responder};
use crate::error::NodeError;
use crate::line_queue::LineQueue;
use crate::listen::{self, Bound, SocketFile, is_local, location_text};
use crate::process::{self, IgnoredSignals, StopSignals};
use crate::pyro::{Front, FrontConfig, ReadMode, SerializerSet};
use crate::reload::Reload;

/// What tasks get on top of the front end's own time to drain, before they are aborted.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How long another node may take to become the leader before this one stops without waiting for it.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node that may serve without a majority looks for one at its start, at least.
const MAJORITY_WAIT_MIN: Duration = Duration::from_secs(2);

/// How long the storage may take to be synced and closed. What was acknowledged is on disk already.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end waits for a reader of standard output that is slow.
const PRINT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the runtime waits for blocking work after everything has stopped.
const RUNTIME_GRACE: Duration = Duration::from_secs(1);

/// A name server that runs inside this process. Dropping it without [`RunningNs::shutdown`] cuts its
/// clients off.
#[derive(Debug)]
pub struct RunningNs {
    uri: String,
    internal_uri: String,
    announcement: Vec<String>,
    replica: Replica,
    tasks: Tasks,
    /// Ends what brings clients here and what this node does on its own.
    withdraw: watch::Sender<bool>,
    /// Ends the front end.
    stop: watch::Sender<bool>,
    drain_timeout: Duration,
    /// It can no longer serve, so there is nothing to hand over.
    has_failed: bool,
    /// Its replica has failed: no call that waits for it will ever be answered.
    is_lost: bool,
    /// Declared last: the file of a unix socket goes when nothing serves it any more.
    _file: Option<SocketFile>,
}

/// Starts a name server on the current tokio runtime and returns once it answers. It prints nothing and
/// leaves signals, logging and the limit of open files to its caller.
///
/// A node of a cluster answers when it has joined and recovered, for which it needs a majority. Until then
/// its port refuses clients; dropping the future gives up. One whose reads are available or stale waits some
/// seconds for a majority, and then answers from its own copy.
///
/// ```
/// use hearth_node::config::{Bind, NodeConfig};
///
/// # async fn example() -> Result<(), hearth_node::NodeError> {
/// let config = NodeConfig {
///     bind: Bind::Tcp { host: "localhost".to_owned(), port: 0 },
///     ..NodeConfig::default()
/// };
/// let ns = hearth_node::start_ns(config).await?;
/// println!("Pyro programs find names at {}", ns.uri());
/// ns.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`NodeError`]: the address, the storage, or what the cluster says.
pub async fn start_ns(config: NodeConfig) -> Result<RunningNs, NodeError> {
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let bound = listen::bind(&config).await?;
    let (discovery, responder) = discovery(&config, &bound).await?;
    let nat_location = config.nat.as_ref().map(|nat| nat_text(nat, bound.address));
    let replica = start_replica(&config, &bound, nat_location.as_deref()).await?;
    let name_count = match count_names(&replica) {
        Ok(count) => count,
        Err(error) => {
            replica.shutdown().await;
            return Err(error.into());
        }
    };

    let announcement = Announcement {
        discovery,
        name_count,
        location: &bound.location,
        address: bound.address.map(|address| address.ip()),
        has_key: config.hmac_key.is_some(),
        nat_location: nat_location.as_deref(),
    }
    .lines();
    let listeners = match bound.socket.listen() {
        Ok(listeners) => listeners,
        Err(error) => {
            replica.shutdown().await;
            return Err(error);
        }
    };
    let internal_uri = uri_at(&bound.location);
    let uri = nat_location
        .as_deref()
        .map_or_else(|| internal_uri.clone(), uri_at);
    if config.hmac_key.is_some() {
        tracing::info!("an HMAC key is set: Pyro5 clients, which cannot sign, are refused");
    }

    let front_config = front_config(
        &config,
        bound.parts,
        &bound.location,
        bound.address,
        nat_location,
    );
    let drain_timeout = front_config.drain_timeout;
    let front = Arc::new(Front::new(front_config, replica.clone()));
    let (withdraw, withdrawn) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Tasks::default();
    if let Some(responder) = responder {
        let (reads, replica) = (config.reads, replica.clone());
        let can_serve = move || reads != ReadMode::Linearizable || replica.is_ready();
        let task = responder.serve(can_serve, withdrawn.clone());
        tasks.spawn("broadcast responder", task);
    }
    if let Some(autoclean) = config.autoclean {
        let task = autoclean::run(autoclean, config.ns_port, replica.clone(), withdrawn);
        tasks.spawn("autoclean", task);
    }
    for listener in listeners {
        let task = Arc::clone(&front).serve(listener, stopped.clone());
        tasks.spawn("front end", task);
    }
    tracing::info!(%uri, storage = ?config.storage, "name server runs");
    Ok(RunningNs {
        uri,
        internal_uri,
        announcement,
        replica,
        tasks,
        withdraw,
        stop,
        drain_timeout,
        has_failed: false,
        is_lost: false,
        _file: bound.file,
    })
}

/// Runs a name server until Ctrl-C or SIGTERM, as `hearthd` does: with its own runtime, with the lines of
/// `pyro4-ns` on standard output, and with as many open files as the system allows. A second signal ends
/// it without waiting for its clients; one that was ignored when the process started stays ignored.
///
/// # Errors
/// [`NodeError`]: it could not start, or could not go on.
pub fn start_ns_loop(mut config: NodeConfig) -> Result<(), NodeError> {
    config.connection_count_max = process::make_room_for(config.connection_count_max);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(process::worker_count())
        .thread_name("hearth-front")
        .enable_all()
        .build()
        .map_err(NodeError::Process)?;
    // A reader that is slow or gone is no reason to take the names away from everyone.
    let output =
        LineQueue::start("hearth-stdout", std::io::stdout(), |_| {}).map_err(NodeError::Process)?;
    let result = runtime.block_on(run(config, &output));
    output.flush(PRINT_TIMEOUT);
    match result {
        Ok(()) => runtime.shutdown_timeout(RUNTIME_GRACE),
        Err(_) => runtime.shutdown_background(),
    }
    result
}

async fn run(config: NodeConfig, output: &LineQueue) -> Result<(), NodeError> {
    let ignored = IgnoredSignals::at_start();
    let mut signals = StopSignals::new(ignored).map_err(NodeError::Process)?;
    let mut reload = Reload::new(&config, ignored).map_err(NodeError::Process)?;
    let mut ns = tokio::select! {
        started = start_ns(config) => started?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before it had started");
            return Ok(());
        }
        never = reload.run() => match never {},
    };
    for line in &ns.announcement {
        output.push(format!("{line}\n").as_bytes());
    }
    let failure = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            None
        }
        failure = ns.failed() => Some(failure),
        never = reload.run() => match never {},
    };
    tokio::select! {
        () = ns.shutdown() => {}
        _ = signals.next() => return Err(NodeError::Impatient),
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    output.push(format!("{SHUT_DOWN}\n").as_bytes());
    Ok(())
}

impl RunningNs {
    /// The URI that clients are given: the external one behind a NAT, else the internal one.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The URI at the address that this process listens on.
    pub fn internal_uri(&self) -> &str {
        &self.internal_uri
    }

    /// What `pyro4-ns` would have printed, line by line.
    pub fn announcement(&self) -> &[String] {
        &self.announcement
    }

    /// Resolves when the node can no longer serve; pending for ever while it is well. What remains is to
    /// call [`Self::shutdown`].
    pub async fn failed(&mut self) -> NodeError {
        let failure = tokio::select! {
            reason = self.replica.failed() => NodeError::Replica(reason),
            reason = self.replica.removed() => NodeError::Removed(reason),
            ended = self.tasks.next_end() => ended,
        };
        self.has_failed = true;
        self.is_lost = matches!(failure, NodeError::Replica(_));
        failure
    }

    /// Stops: discovery falls silent, another node takes over if this one leads, no new clients get in,
    /// calls under way are answered, then the storage is synced and closed. Clients are served until another
    /// node leads.
    pub async fn shutdown(mut self) {
        // Receivers are gone only if their tasks are.
        let _ = self.withdraw.send(true);
        if !self.has_failed {
            self.replica.hand_over(HAND_OVER_TIMEOUT).await;
        }
        let _ = self.stop.send(true);
        if self.is_lost {
            // Clients go to another node as soon as their connections end.
            self.tasks.set.shutdown().await;
        } else {
            self.tasks.stop(self.drain_timeout + STOP_GRACE).await;
        }
        let status = self.replica.status();
        tracing::info!(
            command_count = status.command_count,
            fsync_count = status.sync_count,
            "commands applied and syncs of the log since the start"
        );
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, self.replica.shutdown());
        if closed.await.is_err() {
            tracing::error!(timeout = ?CLOSE_TIMEOUT, "the storage was not closed in time");
        }
    }
}

/// The tasks of a node, by name.
#[derive(Debug, Default)]
struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// The next task's end, as the failure that it is while nobody has asked it to end.
    async fn next_end(&mut self) -> NodeError {
        let (id, reason) = match self.set.join_next_with_id().await {
            Some(Ok((id, ()))) => (id, "it ended on its own".to_owned()),
            Some(Err(error)) => (error.id(), error.to_string()),
            None => return std::future::pending().await,
        };
        NodeError::Task {
            task: self.names.get(&id).copied().unwrap_or("unknown task"),
            reason,
        }
    }

    async fn stop(&mut self, timeout: Duration) {
        let all = async {
            while let Some(end) = self.set.join_next_with_id().await {
                if let Err(error) = end {
                    let task = self.names.get(&error.id()).copied().unwrap_or_default();
                    tracing::error!(task, %error, "a part failed while it stopped");
                }
            }
        };
        if tokio::time::timeout(timeout, all).await.is_err() {
            tracing::error!(?timeout, "not everything stopped in time");
            self.set.shutdown().await;
        }
    }
}

/// Starts the replica; returns when it has joined its cluster and recovered.
async fn start_replica(
    config: &NodeConfig,
    bound: &Bound,
    nat_location: Option<&str>,
) -> Result<Replica, NodeError> {
    let cluster = match &config.cluster {
        Some(settings) => Some(settings.complete(bound, nat_location).await?),
        None => None,
    };
    let mut tuning = Tuning::default();
    tuning.election_timeout = config.election_timeout;
    tuning.heartbeat_interval = config.heartbeat_interval;
    tuning.rocks.sync_record = config.sync_record.clone();
    tuning.log_len_max = config.log_len_max;
    if config.reads != ReadMode::Linearizable {
        // Two elections that came to nothing, and time for the first connections.
        tuning.majority_wait = Some(config.election_timeout.1 * 2 + MAJORITY_WAIT_MIN);
    }
    let replica_config = ReplicaConfig {
        node_id: config.node_id,
        cluster_name: config.cluster_name.clone(),
        storage: config.storage.clone(),
        cluster,
    };
    Ok(Replica::start_with(replica_config, tuning).await?)
}

/// How many names there are, the server's own, which is in no storage, included.
fn count_names(replica: &Replica) -> Result<u64, StoreError> {
    match replica.answer(&Query::Count)? {
        Answer::Count(count) => Ok(count + 1),
        other => Err(StoreError::corrupt(
            "count of names",
            format!("answered {other:?}"),
        )),
    }
}

/// What the responder does for this socket, and the responder, if there is one.
async fn discovery(
    config: &NodeConfig,
    bound: &Bound,
) -> Result<(Discovery, Option<Responder>), NodeError> {
    let (Some(address), Bind::Tcp { host, .. }) = (bound.address, &config.bind) else {
        return Ok((Discovery::Off, None));
    };
    if address.is_ipv6() {
        return Ok((Discovery::Ipv6, None));
    }
    if is_local(address.ip()) {
        return Ok((Discovery::Localhost, None));
    }
    let Some(broadcast) = &config.broadcast else {
        return Ok((Discovery::Off, None));
    };
    let host = if address.ip().is_unspecified() {
        None
    } else {
        Some(host.as_str())
    };
    let reply = match Reply::new(host, address.port()) {
        Ok(reply) => reply,
        Err(unfit) => {
            tracing::warn!("not starting the broadcast responder: {unfit}");
            return Ok((Discovery::Off, None));
        }
    };
    let responder = Responder::bind(broadcast, config.sock_reuse, reply).await?;
    Ok((
        Discovery::Running(responder.location().to_owned()),
        Some(responder),
    ))
}

fn nat_text(nat: &Nat, address: Option<SocketAddr>) -> String {
    location_text(&nat.host, nat_port(nat, address))
}

fn nat_port(nat: &Nat, address: Option<SocketAddr>) -> u16 {
    nat.port
        .or_else(|| address.map(|address| address.port()))
        .unwrap_or_default()
}

fn front_config(
    config: &NodeConfig,
    parts: Location,
    location: &str,
    address: Option<SocketAddr>,
    nat_location: Option<String>,
) -> FrontConfig {
    let own = match &config.nat {
        Some(nat) => Location::Tcp {
            host: nat.host.clone(),
            port: nat_port(nat, address).into(),
        },
        None => parts,
    };
    let ns_uri = Uri {
        target: Target::Object("Pyro.NameServer".to_owned()),
        location: Some(own),
    };
    let cluster = config.cluster.as_ref();
    FrontConfig {
        nat_location,
        ns_port: config.ns_port,
        hmac_key: config.hmac_key.clone(),
        compression: config.compression,
        pyro4_serializers: config.pyro4_serializers,
        pyro5_serializers: SerializerSet::ALL,
        limits: config.limits,
        registration_len_max: config.registration_len_max,
        connection_count_max: config.connection_count_max,
        connection_count_per_address_max: config.connection_count_per_address_max,
        idle_timeout: config.idle_timeout,
        header_timeout: config.header_timeout,
        server_type: config.server_type,
        cluster_keys: cluster.map_or_else(Default::default, |cluster| cluster.keys.clone()),
        reads: config.reads,
        write_deadline: config.call_timeout,
        read_timeout: config.call_timeout,
        ..FrontConfig::new(ns_uri, location)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_is_a_failure_with_its_name() {
        let mut tasks = Tasks::default();
        tasks.spawn("steady part", std::future::pending());
        tasks.spawn("ending part", async {});
        let text = tasks.next_end().await.to_string();
        assert_eq!(text, "the ending part stopped: it ended on its own");

        tasks.spawn("broken part", async { panic!("on purpose") });
        let text = tasks.next_end().await.to_string();
        assert!(text.starts_with("the broken part stopped: "), "{text}");
        assert!(text.contains("on purpose"), "{text}");
    }

    #[tokio::test]
    async fn a_part_that_does_not_stop_is_cut_off() {
        let mut tasks = Tasks::default();
        tasks.spawn("deaf part", std::future::pending());
        tasks.stop(Duration::from_millis(10)).await;
        assert!(tasks.set.is_empty());
    }
}
