//! Several `hearthd` on this machine that are one name server.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Instant;

use hearth_wire::Value;
use tempfile::TempDir;

use super::client::Client;
use super::{PATIENCE, Server, hearthd};

/// Timing that lets tests be quick, and slow machines be slow.
pub const TIMING: [&str; 4] = [
    "--election-timeout",
    "600-1200",
    "--heartbeat-interval",
    "100",
];

/// As many addresses for peers as there are nodes; the system chooses the ports.
pub fn free_addrs(count: usize) -> Vec<String> {
    // All are held until all are known, so that no port is chosen twice.
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free"))
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().expect("it is bound").to_string())
        .collect()
}

/// `1=ADDR,2=ADDR,…`.
pub fn founders(addrs: &[String]) -> String {
    let founders: Vec<String> = addrs
        .iter()
        .zip(1..)
        .map(|(addr, id)| format!("{id}={addr}"))
        .collect();
    founders.join(",")
}

/// Founders with the numbers from 1 up, each with a folder of its own, and further nodes.
pub struct Cluster {
    folder: TempDir,
    pub addrs: Vec<String>,
    nodes: BTreeMap<u64, Server>,
}

impl Cluster {
    /// Founds a cluster of `count` nodes and waits until all of them answer.
    pub fn found(count: usize) -> Self {
        Self::found_with(count, |_| Vec::new())
    }

    /// The same, with more options for each node.
    pub fn found_with(count: usize, options: impl Fn(u64) -> Vec<&'static str>) -> Self {
        let mut cluster = Self {
            folder: tempfile::tempdir().expect("a folder can be made"),
            addrs: free_addrs(count),
            nodes: BTreeMap::new(),
        };
        // The last one first: they may be started in any order.
        for id in cluster.ids().into_iter().rev() {
            cluster.spawn(id, &options(id));
        }
        for node in cluster.nodes.values_mut() {
            node.wait_for_uri();
        }
        cluster
    }

    pub fn ids(&self) -> Vec<u64> {
        (1..).take(self.addrs.len()).collect()
    }

    /// Starts a founder, again or for the first time, without waiting.
    pub fn spawn(&mut self, id: u64, options: &[&str]) {
        let mut command = self.command(id);
        command.args(options);
        self.nodes.insert(id, Server::spawn(command));
    }

    /// Starts a founder, again, and waits until it answers.
    pub fn start(&mut self, id: u64, options: &[&str]) {
        self.spawn(id, options);
        self.node_mut(id).wait_for_uri();
    }

    /// Takes in a node that was started in another way.
    pub fn put(&mut self, id: u64, node: Server) {
        self.nodes.insert(id, node);
    }

    /// The command that starts a founder.
    pub fn command(&self, id: u64) -> std::process::Command {
        let storage = format!(
            "rocksdb:{}",
            self.folder.path().join(id.to_string()).display()
        );
        let mut command = hearthd(&TIMING);
        command
            .args(["-n", "127.0.0.1", "-p", "0", "-s", &storage])
            .args(["--node-id", &id.to_string()])
            .args(["--initial-cluster", &founders(&self.addrs)]);
        command
    }

    /// Has another node join as a learner without a disk, and waits until it answers.
    pub fn join(&mut self, id: u64, options: &[&str]) {
        let mut command = hearthd(&TIMING);
        command
            .args(["-n", "127.0.0.1", "-p", "0", "--learner"])
            .args(["--node-id", &id.to_string()])
            .args(["--join", &self.addrs.join(",")])
            .args(["--peer-addr", &free_addrs(1)[0]])
            .args(options);
        self.nodes.insert(id, Server::run(command));
    }

    pub fn node(&self, id: u64) -> &Server {
        &self.nodes[&id]
    }

    pub fn node_mut(&mut self, id: u64) -> &mut Server {
        self.nodes.get_mut(&id).expect("it was started")
    }

    /// Takes a node out, to be stopped or waited for.
    pub fn take(&mut self, id: u64) -> Server {
        self.nodes.remove(&id).expect("it was started")
    }

    pub fn client(&self, id: u64) -> Client {
        Client::connect(self.node(id).port()).expect("it answers")
    }

    /// Calls a method of `Hearth.Cluster` at a node.
    pub fn ask(&self, id: u64, method: &str, args: Vec<Value>) -> std::io::Result<Value> {
        self.client(id)
            .call_object("Hearth.Cluster", method, args, vec![])
    }

    /// Whom this node takes for the leader; waits until it knows one.
    pub fn leader(&self, asked: u64) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.ask(asked, "status", vec![]).expect("it answers");
            if let Value::Int(leader) = item(&status, "leader") {
                return leader.unsigned_abs();
            }
            assert!(Instant::now() < deadline, "no leader: {status:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// An item of a dict.
pub fn item<'a>(value: &'a Value, key: &str) -> &'a Value {
    let Value::Dict(items) = value else {
        panic!("no dict: {value:?}");
    };
    let found = items.iter().find(|(name, _)| name.as_str() == Some(key));
    &found.unwrap_or_else(|| panic!("no {key} in {items:?}")).1
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
