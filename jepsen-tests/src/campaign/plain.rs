//! Nemeses that need nothing but signals, the rules of the network, and the names of the nodes.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::faults::{Attempt, Nemesis, Outcome};
use crate::cluster::{Cluster, PATIENCE};
use crate::net::{Cut, Fault};

/// All of them.
pub(super) fn all() -> Vec<Box<dyn Nemesis>> {
    let plain = |kind: Kind| -> Box<dyn Nemesis> {
        Box::new(Plain {
            kind,
            undo: Vec::new(),
        })
    };
    Kind::ALL.into_iter().map(plain).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    KillOne,
    KillLeader,
    KillMinority,
    KillMajority,
    KillAll,
    PowerAll,
    PauseOne,
    PauseLeader,
    PauseMajority,
    Restart,
    TransferLeader,
    Halves,
    IsolateLeader,
    Bridge,
    Ring,
    OneWay,
}

impl Kind {
    const ALL: [Self; 16] = [
        Self::KillOne,
        Self::KillLeader,
        Self::KillMinority,
        Self::KillMajority,
        Self::KillAll,
        Self::PowerAll,
        Self::PauseOne,
        Self::PauseLeader,
        Self::PauseMajority,
        Self::Restart,
        Self::TransferLeader,
        Self::Halves,
        Self::IsolateLeader,
        Self::Bridge,
        Self::Ring,
        Self::OneWay,
    ];

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::KillOne => ("kill-one", "one node is killed with SIGKILL"),
            Self::KillLeader => ("kill-leader", "the leader is killed with SIGKILL"),
            Self::KillMinority => (
                "kill-minority",
                "as many as a majority can do without are killed",
            ),
            Self::KillMajority => ("kill-majority", "a majority is killed at the same time"),
            Self::KillAll => ("kill-all", "all nodes are killed at the same time"),
            Self::PowerAll => (
                "power-all",
                "all nodes are killed at the same time and lose what was not synced",
            ),
            Self::PauseOne => ("pause-one", "one node is stopped with SIGSTOP for a while"),
            Self::PauseLeader => (
                "pause-leader",
                "the leader is stopped with SIGSTOP for a while",
            ),
            Self::PauseMajority => (
                "pause-majority",
                "a majority is stopped with SIGSTOP for a while",
            ),
            Self::Restart => ("restart", "all nodes are restarted, one after the other"),
            Self::TransferLeader => ("transfer-leader", "leadership is handed to another node"),
            Self::Halves => ("halves", "two sides of the network do not hear each other"),
            Self::IsolateLeader => ("isolate-leader", "the leader is cut off from all others"),
            Self::Bridge => (
                "bridge",
                "one node hears both halves, which do not hear each other",
            ),
            Self::Ring => (
                "ring",
                "each node hears a majority, and no two the same one",
            ),
            Self::OneWay => (
                "one-way",
                "what one node sends to another one does not arrive",
            ),
        }
    }
}

#[derive(Debug)]
struct Plain {
    kind: Kind,
    /// Nodes that have to be started or resumed again.
    undo: Vec<u64>,
}

impl Nemesis for Plain {
    fn name(&self) -> &'static str {
        self.kind.texts().0
    }

    fn about(&self) -> &'static str {
        self.kind.texts().1
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster, random: &'a mut SmallRng) -> Attempt<'a> {
        Box::pin(async move { self.do_harm(cluster, random).await })
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Attempt<'a> {
        Box::pin(async move { self.undo_it(cluster) })
    }
}

impl Plain {
    async fn do_harm(&mut self, cluster: &mut Cluster, random: &mut SmallRng) -> Outcome {
        let mut nodes = cluster.running();
        if nodes.len() < 3 {
            return Outcome::Skipped(format!("only the nodes {nodes:?} run"));
        }
        nodes.shuffle(random);
        let majority = nodes.len() / 2 + 1;
        let minority = nodes.len() - majority;
        match self.kind {
            Kind::KillOne => self.kill(cluster, &nodes[..1]),
            Kind::KillMinority => self.kill(cluster, &nodes[..minority]),
            Kind::KillMajority => self.kill(cluster, &nodes[..majority]),
            Kind::KillAll => self.kill(cluster, &nodes),
            Kind::PowerAll => self.lose_power(cluster, &nodes),
            Kind::PauseOne => self.pause(cluster, &nodes[..1]),
            Kind::PauseMajority => self.pause(cluster, &nodes[..majority]),
            Kind::Restart => restart(cluster, &nodes).await,
            Kind::Halves => cut(
                cluster,
                &Cut::halves(&nodes[..minority], &nodes[minority..]),
            ),
            Kind::Bridge => cut(cluster, &Cut::bridge(nodes[0], &nodes)),
            Kind::Ring => cut(cluster, &Cut::ring(&nodes)),
            Kind::OneWay => cut(cluster, &Cut::one_way(nodes[0], nodes[1])),
            Kind::KillLeader | Kind::PauseLeader | Kind::IsolateLeader | Kind::TransferLeader => {
                let leader = match cluster.leader_within(PATIENCE / 4).await {
                    Ok(leader) => leader,
                    Err(error) => return Outcome::Skipped(format!("there is no leader: {error}")),
                };
                match self.kind {
                    Kind::KillLeader => self.kill(cluster, &[leader]),
                    Kind::PauseLeader => self.pause(cluster, &[leader]),
                    Kind::IsolateLeader => cut(cluster, &Cut::isolated(leader, &nodes)),
                    _ => {
                        let others: Vec<u64> =
                            nodes.into_iter().filter(|&node| node != leader).collect();
                        let to = others[random.random_range(0..others.len())];
                        transfer(cluster, leader, to).await
                    }
                }
            }
        }
    }

    fn kill(&mut self, cluster: &mut Cluster, nodes: &[u64]) -> Outcome {
        for &node in nodes {
            // At the same time as far as that goes: nobody is waited for.
            cluster.node(node).signal_kill();
        }
        for &node in nodes {
            cluster.node(node).kill();
        }
        self.undo = nodes.to_vec();
        Outcome::Installed(format!("nodes {nodes:?}"))
    }

    fn lose_power(&mut self, cluster: &mut Cluster, nodes: &[u64]) -> Outcome {
        let _ = self.kill(cluster, nodes);
        let mut lost = 0;
        for &node in nodes {
            match cluster.node(node).lose_unsynced() {
                Ok(of_node) => lost += of_node.cut_len,
                Err(error) => return Outcome::Indeterminate(error.to_string()),
            }
        }
        Outcome::Installed(format!("nodes {nodes:?}, {lost} bytes lost"))
    }

    fn pause(&mut self, cluster: &mut Cluster, nodes: &[u64]) -> Outcome {
        for &node in nodes {
            cluster.node(node).pause();
        }
        self.undo = nodes.to_vec();
        Outcome::Installed(format!("nodes {nodes:?}"))
    }

    fn undo_it(&mut self, cluster: &mut Cluster) -> Outcome {
        let nodes = std::mem::take(&mut self.undo);
        match self.kind {
            Kind::KillOne
            | Kind::KillLeader
            | Kind::KillMinority
            | Kind::KillMajority
            | Kind::KillAll
            | Kind::PowerAll => {
                for &node in &nodes {
                    if let Err(error) = cluster.node(node).start() {
                        return Outcome::Indeterminate(error.to_string());
                    }
                }
                Outcome::Installed(format!("nodes {nodes:?} started"))
            }
            Kind::PauseOne | Kind::PauseLeader | Kind::PauseMajority => {
                for &node in &nodes {
                    cluster.node(node).resume();
                }
                Outcome::Installed(format!("nodes {nodes:?} resumed"))
            }
            Kind::Halves | Kind::IsolateLeader | Kind::Bridge | Kind::Ring | Kind::OneWay => {
                match cluster.net() {
                    Some(net) => outcome(net.heal()),
                    None => Outcome::Skipped("there was nothing to heal".into()),
                }
            }
            Kind::Restart | Kind::TransferLeader => {
                Outcome::Skipped("there was nothing to heal".into())
            }
        }
    }
}

async fn restart(cluster: &mut Cluster, nodes: &[u64]) -> Outcome {
    for &node in nodes {
        let node = cluster.node(node);
        let ended = node.terminate(PATIENCE).await.map(drop);
        let served = match ended.and_then(|()| node.start()) {
            Ok(()) => node.wait_until_it_serves(PATIENCE).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            return Outcome::Indeterminate(error.to_string());
        }
    }
    Outcome::Installed(format!("nodes {nodes:?}, one after the other"))
}

async fn transfer(cluster: &mut Cluster, leader: u64, to: u64) -> Outcome {
    let args = ["cluster", "transfer-leader", &to.to_string()];
    match cluster.nsctl(leader, &args).await {
        Ok(ran) if ran.code == Some(0) => Outcome::Installed(format!("from {leader} to {to}")),
        Ok(ran) => Outcome::Indeterminate(format!("from {leader} to {to}: {}", ran.errors.trim())),
        Err(error) => Outcome::Indeterminate(error.to_string()),
    }
}

fn cut(cluster: &Cluster, cut: &Cut) -> Outcome {
    match cluster.net() {
        Some(net) => outcome(net.cut(cut)),
        None => Outcome::Skipped("loopback addresses cannot be cut off".into()),
    }
}

fn outcome(fault: Fault) -> Outcome {
    match fault {
        Fault::Installed(what) => Outcome::Installed(what),
        Fault::Skipped(reason) => Outcome::Skipped(reason),
        Fault::Failed(reason) => Outcome::Indeterminate(reason),
    }
}
