//! Nemeses that need nothing but signals, the rules of the network, and the names of the nodes.

use hearth_cli::MemberStatus;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::faults::{Attempt, Nemesis, Outcome, Place};
use crate::cluster::{Cluster, PATIENCE, summary, until};
use crate::error::Result;
use crate::net::{Cut, Fault};

/// All of them.
pub(super) fn all() -> Vec<Box<dyn Nemesis>> {
    let plain = |kind: Kind| -> Box<dyn Nemesis> {
        Box::new(Plain {
            kind,
            undo: Vec::new(),
            hit: Vec::new(),
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
    JoinLeave,
    CutLearner,
    Halves,
    IsolateLeader,
    Bridge,
    Ring,
    OneWay,
}

impl Kind {
    const ALL: [Self; 18] = [
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
        Self::JoinLeave,
        Self::CutLearner,
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
                "all nodes are killed at the same time and lose what was not synced, or some pages of it",
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
            Self::JoinLeave => (
                "join-leave",
                "a node joins, votes or learns for a while, and is removed",
            ),
            Self::CutLearner => (
                "cut-learner",
                "a learner joins, is cut off from the voters, both ways or one way, catches up, and is removed",
            ),
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
    /// Nodes that were killed, stopped or cut off from a majority.
    hit: Vec<u64>,
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

    fn nodes(&self) -> Vec<u64> {
        self.hit.clone()
    }

    fn place(&self) -> Place {
        match self.kind {
            Kind::Halves | Kind::IsolateLeader | Kind::Bridge | Kind::Ring | Kind::OneWay => {
                Place::Network
            }
            Kind::JoinLeave | Kind::CutLearner => Place::Membership,
            _ => Place::Nodes,
        }
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Attempt<'a> {
        Box::pin(async move {
            match self.kind {
                Kind::JoinLeave => self.leave(cluster).await,
                Kind::CutLearner => self.reconnect(cluster).await,
                _ => self.undo_it(cluster),
            }
        })
    }
}

impl Plain {
    async fn do_harm(&mut self, cluster: &mut Cluster, random: &mut SmallRng) -> Outcome {
        self.hit.clear();
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
            Kind::PowerAll => self.lose_power(cluster, &nodes, random),
            Kind::PauseOne => self.pause(cluster, &nodes[..1]),
            Kind::PauseMajority => self.pause(cluster, &nodes[..majority]),
            Kind::Restart => {
                self.hit.clone_from(&nodes);
                restart(cluster, &nodes).await
            }
            Kind::JoinLeave => self.join(cluster, random.random_ratio(1, 3)).await,
            Kind::CutLearner => {
                let way = random.random_range(0..3);
                self.cut_learner(cluster, &nodes, way).await
            }
            Kind::Halves => {
                let (few, many) = nodes.split_at(minority);
                self.hit = few.to_vec();
                cut(cluster, &Cut::halves(few, many))
            }
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
                    Kind::IsolateLeader => {
                        self.hit = vec![leader];
                        cut(cluster, &Cut::isolated(leader, &nodes))
                    }
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
        self.hit = nodes.to_vec();
        Outcome::Installed(format!("nodes {nodes:?}"))
    }

    fn lose_power(
        &mut self,
        cluster: &mut Cluster,
        nodes: &[u64],
        random: &mut SmallRng,
    ) -> Outcome {
        let _ = self.kill(cluster, nodes);
        let (mut lost, mut holes) = (0, 0);
        for &node in nodes {
            let node = cluster.node(node);
            let of_node = match random.random() {
                true => node.lose_pages(random),
                false => node.lose_unsynced(),
            };
            match of_node {
                Ok(of_node) => {
                    lost += of_node.cut_len;
                    holes += of_node.hole_count;
                }
                Err(error) => return Outcome::Indeterminate(error.to_string()),
            }
        }
        Outcome::Installed(format!(
            "nodes {nodes:?}, {lost} bytes lost, {holes} pages of them before others that stayed"
        ))
    }

    fn pause(&mut self, cluster: &mut Cluster, nodes: &[u64]) -> Outcome {
        for &node in nodes {
            cluster.node(node).pause();
        }
        self.undo = nodes.to_vec();
        self.hit = nodes.to_vec();
        Outcome::Installed(format!("nodes {nodes:?}"))
    }

    async fn join(&mut self, cluster: &mut Cluster, learns: bool) -> Outcome {
        let Some(last) = cluster.numbers().last().copied() else {
            return Outcome::Skipped("there is no node to join".into());
        };
        let place = last + 1;
        self.undo = vec![place];
        let joined = async {
            cluster.add_joining(place, None, learns)?.start()?;
            cluster.node(place).wait_until_it_serves(PATIENCE).await?;
            member_at(cluster, place, |member| {
                member.is_some_and(|m| m.voter != learns && m.ready == Some(true))
            })
            .await
        };
        match joined.await {
            Ok(member) => Outcome::Installed(format!(
                "node {} at place {place} {}",
                member.map_or(0, |member| member.id),
                if learns { "learns" } else { "votes" }
            )),
            Err(error) => Outcome::Indeterminate(error.to_string()),
        }
    }

    async fn leave(&mut self, cluster: &mut Cluster) -> Outcome {
        let Some(place) = self.undo.pop() else {
            return Outcome::Skipped("nobody joined".into());
        };
        let left = leave(cluster, place).await;
        if let Some(mut node) = cluster.take(place) {
            node.kill();
            if let Err(error) = node.wipe() {
                return Outcome::Indeterminate(error.to_string());
            }
        }
        match left {
            Ok(what) => Outcome::Installed(what),
            Err(error) => Outcome::Indeterminate(error.to_string()),
        }
    }

    /// `way`: 0 for both ways, 1 for what the learner sends, else what it is sent.
    async fn cut_learner(&mut self, cluster: &mut Cluster, voters: &[u64], way: u32) -> Outcome {
        if cluster.net().is_none() {
            return Outcome::Skipped("loopback addresses cannot be cut off".into());
        }
        let joined = match self.join(cluster, true).await {
            Outcome::Installed(text) => text,
            // What has begun to join is healed with the rest.
            other => return other,
        };
        let Some(&place) = self.undo.first() else {
            return Outcome::Skipped(joined);
        };
        let cuts = voters.iter().map(|&voter| match way {
            0 => Cut::halves(&[place], &[voter]),
            1 => Cut::one_way(place, voter),
            _ => Cut::one_way(voter, place),
        });
        let Some(whole) = cuts.reduce(Cut::and) else {
            return Outcome::Skipped("there is no voter".into());
        };
        self.hit = vec![place];
        match cut(cluster, &whole) {
            Outcome::Installed(what) => Outcome::Installed(format!("{joined}; {what}")),
            other => other,
        }
    }

    async fn reconnect(&mut self, cluster: &mut Cluster) -> Outcome {
        let healed = match cluster.net() {
            Some(net) => outcome(net.heal()),
            None => return Outcome::Skipped("there was nothing to heal".into()),
        };
        let Some(&place) = self.undo.first() else {
            return healed;
        };
        let caught_up = member_at(cluster, place, |member| {
            member.is_some_and(|member| member.reachable && member.ready == Some(true))
        });
        if let Err(error) = caught_up.await {
            return Outcome::Broken(format!("the learner does not catch up: {error}"));
        }
        self.leave(cluster).await
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
            Kind::Restart | Kind::TransferLeader | Kind::JoinLeave | Kind::CutLearner => {
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

/// Waits until what the members say of the one at `place` is as it should be.
pub(super) async fn member_at(
    cluster: &Cluster,
    place: u64,
    is_so: impl Fn(Option<&MemberStatus>) -> bool,
) -> Result<Option<MemberStatus>> {
    let address = cluster.peer_addr_of(place);
    let what = format!("the membership of the node at place {place}");
    until(&what, PATIENCE, || async {
        let mut seen = String::new();
        for (node, _) in cluster.endpoints() {
            if node == place {
                continue;
            }
            match cluster.status_at(node).await {
                Ok(status) => {
                    let is_there = |m: &&MemberStatus| m.peer_addr.as_deref() == Some(&*address);
                    let member = status.members.iter().find(is_there);
                    if is_so(member) {
                        return Ok(member.cloned());
                    }
                    seen = summary(&status);
                }
                Err(error) => seen = error.to_string(),
            }
        }
        Err(seen)
    })
    .await
}

/// Removes the node at `place` from the cluster, whoever has to be asked for that, and waits for its end.
async fn leave(cluster: &mut Cluster, place: u64) -> Result<String> {
    let Some(id) = remove(cluster, place).await? else {
        return Ok(format!("the node at place {place} was no member"));
    };
    let status = cluster.node(place).wait_for_end(PATIENCE).await?;
    Ok(format!("node {id} is removed and ended with {status}"))
}

/// Removes the node at `place` from the cluster, whoever has to be asked for that; gives its id, if it was a
/// member.
pub(super) async fn remove(cluster: &mut Cluster, place: u64) -> Result<Option<u64>> {
    let Some(member) = member_at(cluster, place, |_| true).await? else {
        return Ok(None);
    };
    let id = member.id.to_string();
    let args = ["--yes", "cluster", "remove", &id];
    let running = cluster.running();
    let asked = running
        .into_iter()
        .find(|&node| node != place)
        .unwrap_or(place);
    let this = &*cluster;
    until("its removal", PATIENCE, || async {
        let ran = this
            .nsctl(asked, &args)
            .await
            .map_err(|error| error.to_string())?;
        let is_gone = ran.errors.contains("unknown member");
        let is_done = ran.code == Some(0) || is_gone;
        is_done.then_some(()).ok_or(ran.errors)
    })
    .await?;
    member_at(cluster, place, |member| member.is_none()).await?;
    Ok(Some(member.id))
}

async fn transfer(cluster: &mut Cluster, leader: u64, to: u64) -> Outcome {
    let id = match cluster.id_at(to).await {
        Ok(id) => id.to_string(),
        Err(error) => return Outcome::Skipped(format!("node {to} cannot be asked: {error}")),
    };
    let args = ["cluster", "transfer-leader", &id];
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
