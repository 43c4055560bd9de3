//! Packets between nodes that come late, never, twice or out of order.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::faults::{Attempt, Nemesis, Outcome, Place};
use crate::cluster::Cluster;
use crate::error::{Result, RigError};
use crate::shaper::{Shape, Shaper};

/// All of them.
pub(super) fn all() -> Vec<Box<dyn Nemesis>> {
    let one = |kind: Kind| -> Box<dyn Nemesis> { Box::new(Traffic { kind, shaper: None }) };
    Kind::ALL.into_iter().map(one).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Slow,
    Lossy,
    Duplicated,
    Reordered,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Slow, Self::Lossy, Self::Duplicated, Self::Reordered];

    fn shape(self, random: &mut SmallRng) -> Shape {
        let mut one_of = |shares: [f64; 3]| shares.choose(random).copied().unwrap_or(0.0);
        match self {
            Self::Slow => {
                let least = one_of([5.0, 30.0, 100.0]);
                Shape {
                    delay_ms: (least, least * 3.0),
                    ..Shape::FINE
                }
            }
            Self::Lossy => Shape {
                lost: one_of([0.01, 0.05, 0.2]),
                ..Shape::FINE
            },
            Self::Duplicated => Shape {
                twice: one_of([0.05, 0.3, 1.0]),
                ..Shape::FINE
            },
            Self::Reordered => Shape {
                later: one_of([0.05, 0.2, 0.5]),
                ..Shape::FINE
            },
        }
    }
}

#[derive(Debug)]
struct Traffic {
    kind: Kind,
    shaper: Option<Shaper>,
}

impl Nemesis for Traffic {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Slow => "slow",
            Kind::Lossy => "lossy",
            Kind::Duplicated => "duplicated",
            Kind::Reordered => "reordered",
        }
    }

    fn about(&self) -> &'static str {
        match self.kind {
            Kind::Slow => "packets between some nodes come late",
            Kind::Lossy => "some packets between some nodes are lost",
            Kind::Duplicated => "some packets between some nodes come twice",
            Kind::Reordered => "some packets between some nodes are overtaken by others",
        }
    }

    fn place(&self) -> Place {
        Place::Network
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster, random: &'a mut SmallRng) -> Attempt<'a> {
        Box::pin(async move {
            match self.begin(cluster, random).await {
                Ok(outcome) => outcome,
                Err(RigError::Refused { reason, .. }) => Outcome::Skipped(reason),
                Err(error) => Outcome::Indeterminate(error.to_string()),
            }
        })
    }

    fn heal<'a>(&'a mut self, _: &'a mut Cluster) -> Attempt<'a> {
        Box::pin(async move {
            let Some(shaper) = self.shaper.take() else {
                return Outcome::Skipped("there was nothing to heal".into());
            };
            match shaper.end().await {
                Ok(counts) if counts.passed == 0 => {
                    Outcome::Indeterminate("no packet came by".into())
                }
                Ok(counts) => Outcome::Installed(format!(
                    "of {} packets {} were lost, {} went twice, {} were held back",
                    counts.passed, counts.lost, counts.twice, counts.later
                )),
                Err(error) => Outcome::Indeterminate(error.to_string()),
            }
        })
    }
}

impl Traffic {
    async fn begin(&mut self, cluster: &mut Cluster, random: &mut SmallRng) -> Result<Outcome> {
        let Some(net) = cluster.shared_net() else {
            return Ok(Outcome::Skipped(
                "loopback addresses have no packets of their own".into(),
            ));
        };
        let mut nodes = cluster.running();
        nodes.shuffle(random);
        let pairs = |all: &[u64]| -> Vec<(u64, u64)> {
            let from_each = |&from: &u64| {
                let others = all.iter().filter(move |&&to| to != from);
                others.map(move |&to| (from, to))
            };
            all.iter().flat_map(from_each).collect()
        };
        let mut links = pairs(&nodes);
        let Some(&one) = nodes.first() else {
            return Ok(Outcome::Skipped("no node runs".into()));
        };
        let between = match random.random_range(0..3) {
            0 => format!("all of {nodes:?}"),
            1 => {
                links.retain(|&(from, to)| from == one || to == one);
                format!("{one} and all others")
            }
            _ => {
                links.retain(|&(from, _)| from == one);
                format!("{one} and all others, one way")
            }
        };
        let shape = self.kind.shape(random);
        let shaper = Shaper::start(cluster.run(), &net, &links, shape, random.random()).await?;
        self.shaper = Some(shaper);
        Ok(Outcome::Installed(format!("{shape} between {between}")))
    }
}
