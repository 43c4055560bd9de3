//! A member that is down, and somebody without the key at its address.

use std::net::SocketAddr;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::faults::{Attempt, Nemesis, Outcome, Place};
use crate::cluster::{Cluster, PATIENCE};
use crate::error::{Result, RigError};
use crate::stranger::Impostor;

/// The name of the nemesis.
pub const NAME: &str = "impostor";

#[derive(Debug, Default)]
pub(super) struct AtAnAddress {
    impostor: Option<Impostor>,
    hit: Vec<u64>,
}

impl Nemesis for AtAnAddress {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "a node is killed, and somebody without the key answers at its address, and calls from there"
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster, random: &'a mut SmallRng) -> Attempt<'a> {
        Box::pin(async move {
            match self.begin(cluster, random).await {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Indeterminate(error.to_string()),
            }
        })
    }

    fn nodes(&self) -> Vec<u64> {
        self.hit.clone()
    }

    fn place(&self) -> Place {
        Place::Nodes
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Attempt<'a> {
        Box::pin(async move {
            let called = self.impostor.take().map(|impostor| impostor.called());
            let Some(place) = self.hit.pop() else {
                return Outcome::Skipped("nobody was there".into());
            };
            let running = cluster.running();
            let ended: Vec<u64> = cluster
                .numbers()
                .into_iter()
                .filter(|number| *number != place && !running.contains(number))
                .collect();
            if let Err(error) = cluster.node(place).start() {
                return Outcome::Indeterminate(error.to_string());
            }
            if let Some(&first) = ended.first() {
                let tail = cluster.node(first).log_tail(3);
                return Outcome::Broken(format!("nodes {ended:?} have ended: {tail}"));
            }
            match called {
                Some(0) | None => Outcome::Indeterminate("nobody called there".into()),
                Some(count) => Outcome::Installed(format!("called {count} times")),
            }
        })
    }
}

impl AtAnAddress {
    async fn begin(&mut self, cluster: &mut Cluster, random: &mut SmallRng) -> Result<Outcome> {
        self.hit.clear();
        let Some(net) = cluster.shared_net() else {
            return Ok(Outcome::Skipped(
                "it needs addresses of the nodes' own".into(),
            ));
        };
        let running = cluster.running();
        if running.len() < cluster.numbers().len() {
            return Ok(Outcome::Skipped(format!("only the nodes {running:?} run")));
        }
        let Some(&any) = running.choose(random) else {
            return Ok(Outcome::Skipped("no node runs".into()));
        };
        let place = match random.random() {
            true => cluster.leader_within(PATIENCE / 4).await.unwrap_or(any),
            false => any,
        };
        let address = |place: u64| -> Result<SocketAddr> {
            let text = cluster.peer_addr_of(place);
            text.parse().map_err(|_| RigError::Unreadable {
                command: "the address of a node".into(),
                reason: "no address".into(),
                text,
            })
        };
        let own = address(place)?;
        let others = running.iter().filter(|&&other| other != place);
        let others = others.map(|&other| address(other)).collect::<Result<_>>()?;
        cluster.node(place).kill();
        self.hit.push(place);
        self.impostor = Some(Impostor::start(&net, place, own, others, random.random())?);
        Ok(Outcome::Installed(format!(
            "at the address of node {place}"
        )))
    }
}
