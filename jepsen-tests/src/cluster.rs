//! A cluster of real processes, and what a person would ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_cli::{Address, CLUSTER, ClusterStatus, ConnectOptions, Connection};

use crate::error::{Result, RigError};
use crate::net::Net;
use crate::node::{self, Node, Settings};
use crate::run::Run;

/// How long anything may take on a loaded machine before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a node that is asked for its status may take.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// A status in one line.
pub fn summary(status: &ClusterStatus) -> String {
    let members: Vec<String> = status
        .members
        .iter()
        .map(|m| {
            format!(
                "{}: {} applied {:?} lag {:?} hash {:.8} names {:?} ready {:?} {}{}",
                m.id,
                m.role.map_or("unreachable".into(), |role| role.to_string()),
                m.last_applied,
                m.lag,
                m.state_hash.as_deref().unwrap_or("?"),
                m.name_count,
                m.ready,
                m.alarms.join("; "),
                m.error.as_deref().unwrap_or_default()
            )
        })
        .collect();
    format!(
        "node {:?} in term {} takes {:?} for the leader; {}",
        status.answered_by,
        status.term,
        status.leader,
        members.join(", ")
    )
}

/// A state that several nodes have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SameState {
    /// The index up to which all have applied.
    pub applied: u64,
    /// The hash that all have there.
    pub hash: String,
    /// How many nodes.
    pub nodes: usize,
}

/// What a run of `nsctl` came to.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub printed: String,
    /// Standard error.
    pub errors: String,
}

/// Several nodes of one run.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: the processes of the nodes end before the run is cleaned up.
    nodes: BTreeMap<u64, Node>,
    net: Option<Arc<Net>>,
    run: Arc<Run>,
    settings: Settings,
}

impl Cluster {
    /// A cluster without nodes, on the loopback network or on a network of its own.
    pub fn new(run: Arc<Run>, net: Option<Net>, settings: Settings) -> Self {
        Self {
            nodes: BTreeMap::new(),
            net: net.map(Arc::new),
            run,
            settings,
        }
    }

    /// Founds one on the loopback network and waits until each node serves.
    ///
    /// # Errors
    /// What goes wrong at that.
    pub async fn found(name: &str, size: u64, settings: Settings) -> Result<Self> {
        let mut cluster = Self::new(Run::begin(name)?, None, settings);
        cluster.found_with(size).await?;
        Ok(cluster)
    }

    /// Founds one on a network of its own with so many more places.
    ///
    /// # Errors
    /// What goes wrong at that.
    pub async fn found_on_net(
        name: &str,
        size: u64,
        more: u64,
        settings: Settings,
    ) -> Result<Self> {
        let run = Run::begin(name)?;
        let net = Net::build(&run, size + more)?;
        let mut cluster = Self::new(run, Some(net), settings);
        cluster.found_with(size).await?;
        Ok(cluster)
    }

    /// Starts the nodes 1 to `size` with `--initial-cluster`, and waits until each serves.
    ///
    /// # Errors
    /// What goes wrong at that.
    pub async fn found_with(&mut self, size: u64) -> Result<()> {
        self.found_with_each(size, |_, _| {}).await
    }

    /// As [`Self::found_with`], with settings of its own for each node.
    ///
    /// # Errors
    /// What goes wrong at that.
    pub async fn found_with_each(
        &mut self,
        size: u64,
        change: impl Fn(u64, &mut Settings),
    ) -> Result<()> {
        let founders: Vec<String> = (1..=size)
            .map(|number| format!("{number}={}", self.peer_addr_of(number)))
            .collect();
        let founders = founders.join(",");
        for number in 1..=size {
            let birth = options(&[
                ("--node-id", &number.to_string()),
                ("--peer-addr", &self.peer_addr_of(number)),
                ("--initial-cluster", &founders),
            ]);
            let node = self.add(number, birth)?;
            change(number, &mut node.settings);
            node.start()?;
        }
        for number in 1..=size {
            self.node(number).wait_until_it_serves(PATIENCE).await?;
        }
        Ok(())
    }

    /// Makes a node that will join through the nodes that there are, and does not start it. Without
    /// `id` the cluster gives it one.
    ///
    /// # Errors
    /// The system's.
    pub fn add_joining(
        &mut self,
        number: u64,
        id: Option<u64>,
        learner: bool,
    ) -> Result<&mut Node> {
        let seeds: Vec<String> = self.nodes.values().map(Node::peer_addr).collect();
        let mut birth = options(&[
            ("--peer-addr", &self.peer_addr_of(number)),
            ("--join", &seeds.join(",")),
        ]);
        if let Some(id) = id {
            birth.extend(options(&[("--node-id", &id.to_string())]));
        }
        if learner {
            birth.push("--learner".into());
        }
        self.add(number, birth)
    }

    /// Makes a node with these options, and does not start it.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&mut self, number: u64, birth: Vec<String>) -> Result<&mut Node> {
        let node = Node::new(
            &self.run,
            self.net.as_ref(),
            number,
            self.settings.clone(),
            birth,
        )?;
        self.nodes.insert(number, node);
        Ok(self.node(number))
    }

    /// Takes out the node at a place; its process ends when it is dropped.
    pub fn take(&mut self, number: u64) -> Option<Node> {
        self.nodes.remove(&number)
    }

    /// The node at a place.
    ///
    /// # Panics
    /// When there is none: a mistake of the test.
    pub fn node(&mut self, number: u64) -> &mut Node {
        self.nodes
            .get_mut(&number)
            .unwrap_or_else(|| panic!("the test has no node {number}"))
    }

    /// All nodes, in the order of their places.
    pub fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.values_mut()
    }

    /// Their places.
    pub fn numbers(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Places of those that run.
    pub fn running(&mut self) -> Vec<u64> {
        self.nodes
            .iter_mut()
            .filter_map(|(&number, node)| node.is_running().then_some(number))
            .collect()
    }

    /// Where clients reach them, all in order.
    pub fn endpoints(&self) -> Vec<(u64, Address)> {
        self.nodes
            .iter()
            .map(|(&number, node)| (number, node.address()))
            .collect()
    }

    /// The endpoints, beginning with that of node `first`.
    pub fn endpoints_from(&self, first: u64) -> Vec<(u64, Address)> {
        let mut endpoints = self.endpoints();
        let at = endpoints
            .iter()
            .position(|&(number, _)| number == first)
            .unwrap_or(0);
        endpoints.rotate_left(at);
        endpoints
    }

    /// The run's network.
    pub fn net(&self) -> Option<&Net> {
        self.net.as_deref()
    }

    /// The run's network, to be held by others too.
    pub fn shared_net(&self) -> Option<Arc<Net>> {
        self.net.clone()
    }

    /// The run.
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// How its nodes are started.
    pub fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Where the node at a place is reached by the others.
    pub fn peer_addr_of(&self, number: u64) -> String {
        node::peer_addr(&self.run, self.net.as_deref(), number)
    }

    /// Runs `nsctl` against the node at a place.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub async fn nsctl(&self, number: u64, args: &[&str]) -> Result<Ran> {
        let (host, port) = node::place(&self.run, self.net.as_deref(), number);
        let mut command = std::process::Command::new(self.settings.programs.join("nsctl"));
        node::clear_environment(&mut command);
        command
            .env("NSCTL_CLUSTER_KEY_FILE", node::key_file(&self.run))
            .args(["-n", &host, "-p", &port.to_string()])
            .args(args);
        let text = format!("{command:?}");
        let output = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(RigError::system(text))?;
        Ok(Ran {
            code: output.status.code(),
            printed: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What the node at a place says about all members.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status_at(&self, number: u64) -> Result<ClusterStatus> {
        let (host, port) = node::place(&self.run, self.net.as_deref(), number);
        let options = ConnectOptions {
            timeout: Some(STATUS_PATIENCE),
            ..ConnectOptions::default()
        };
        let asked = async {
            let address = Address::tcp(host, port);
            let mut connection = Connection::connect(&address, CLUSTER, &options).await?;
            hearth_cli::Cluster::on(&mut connection).status().await
        };
        asked.await.map_err(|source| RigError::Node {
            what: format!("the status that node {number} gives"),
            source: Box::new(source),
        })
    }

    /// The place of the node that takes itself for the leader, in the highest term where there are several.
    ///
    /// # Errors
    /// When nobody does for as long as `patience`.
    pub async fn leader_within(&mut self, patience: Duration) -> Result<u64> {
        let running = self.running();
        let this = &*self;
        until("a leader", patience, || async {
            // The term, and the place.
            let mut best: Option<(u64, u64)> = None;
            let mut seen = Vec::new();
            for &number in &running {
                match this.status_at(number).await {
                    Ok(status) => {
                        seen.push(summary(&status));
                        let leads = status.leader.is_some() && status.leader == status.answered_by;
                        if leads {
                            best = best.max(Some((status.term, number)));
                        }
                    }
                    Err(error) => seen.push(error.to_string()),
                }
            }
            best.map(|(_, place)| place).ok_or_else(|| seen.join("\n"))
        })
        .await
    }

    /// The leader's place, with the usual patience.
    ///
    /// # Errors
    /// See [`Cluster::leader_within`].
    pub async fn leader(&mut self) -> Result<u64> {
        self.leader_within(PATIENCE).await
    }

    /// The id of the node at a place, as it says itself: that of a founder is the number of its place, and
    /// that of one that joined is what the cluster gave it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn id_at(&self, number: u64) -> Result<u64> {
        let status = self.status_at(number).await?;
        status.answered_by.ok_or_else(|| RigError::Unreadable {
            command: format!("the status that node {number} gives"),
            reason: "it does not say who answered".into(),
            text: summary(&status),
        })
    }

    /// Waits until the node at `number` says that all members answer and can serve.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub async fn wait_until_healthy(
        &self,
        number: u64,
        patience: Duration,
    ) -> Result<ClusterStatus> {
        until("a healthy cluster", patience, || async {
            let status = self
                .status_at(number)
                .await
                .map_err(|error| error.to_string())?;
            let all_serve = status
                .members
                .iter()
                .all(|m| m.reachable && m.ready == Some(true));
            if status.leader.is_some() && all_serve {
                Ok(status)
            } else {
                Err(summary(&status))
            }
        })
        .await
    }

    /// Waits until all members have applied the same, and compares what they have: nobody may write.
    ///
    /// # Errors
    /// When they do not come together within `patience`, or hold different states at the same index.
    pub async fn same_state(&self, number: u64, patience: Duration) -> Result<SameState> {
        until("equal states", patience, || async {
            let status = self
                .status_at(number)
                .await
                .map_err(|error| error.to_string())?;
            let applied: BTreeSet<_> = status.members.iter().map(|m| m.last_applied).collect();
            let hashes: BTreeSet<_> = status.members.iter().map(|m| &m.state_hash).collect();
            match (applied.first(), hashes.first()) {
                (Some(&Some(applied_by_all)), Some(Some(hash)))
                    if applied.len() == 1 && hashes.len() == 1 =>
                {
                    Ok(SameState {
                        applied: applied_by_all,
                        hash: hash.clone(),
                        nodes: status.members.len(),
                    })
                }
                _ => Err(summary(&status)),
            }
        })
        .await
    }
}

/// Options and their values as words of a command line.
pub fn options(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs
        .iter()
        .flat_map(|&(name, value)| [name.to_owned(), value.to_owned()])
        .collect()
}

/// Looks again and again until `look` finds something; its error says what it saw instead.
///
/// # Errors
/// When that takes longer than `patience`.
pub async fn until<T, F: Future<Output = std::result::Result<T, String>>>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> F,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(seen) if begin.elapsed() > patience => {
                return Err(RigError::NotInTime {
                    what: what.to_owned(),
                    waited: patience,
                    seen,
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
