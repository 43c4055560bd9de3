//! Two faults at once: one between nodes, and one in nodes.

use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;

use super::faults::{self, Attempt, Needs, Nemesis, Outcome, Place};
use crate::cluster::Cluster;

/// One nemesis of the network and one of nodes, which the seed chooses anew each time.
#[derive(Default)]
pub(super) struct Pair {
    /// Those that are in place, or may be.
    two: Vec<Box<dyn Nemesis>>,
}

impl Nemesis for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }

    fn about(&self) -> &'static str {
        "a fault of the network and one of nodes at the same time, both chosen at random"
    }

    fn inject<'a>(&'a mut self, cluster: &'a mut Cluster, random: &'a mut SmallRng) -> Attempt<'a> {
        Box::pin(async move {
            self.two.clear();
            let mut told = Vec::new();
            for place in [Place::Network, Place::Nodes] {
                let of_place = faults::single()
                    .into_iter()
                    .filter(|nemesis| nemesis.place() == place);
                let Some(mut nemesis) = of_place.choose(random) else {
                    continue;
                };
                let outcome = nemesis.inject(cluster, random).await;
                told.push((nemesis.name(), outcome));
                self.two.push(nemesis);
            }
            let outcome = together(told);
            if matches!(outcome, Outcome::Skipped(_)) {
                // What is told as skipped is not healed by anybody else.
                let _ = self.heal(cluster).await;
            }
            outcome
        })
    }

    fn nodes(&self) -> Vec<u64> {
        let mut nodes: Vec<u64> = self.two.iter().flat_map(|one| one.nodes()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    fn needs(&self) -> Needs {
        let all = faults::single();
        all.iter()
            .map(|nemesis| nemesis.needs())
            .fold(Needs::default(), Needs::and)
    }

    fn place(&self) -> Place {
        Place::Network
    }

    fn heal<'a>(&'a mut self, cluster: &'a mut Cluster) -> Attempt<'a> {
        Box::pin(async move {
            let mut told = Vec::new();
            // The network first: some of the others need it to come back.
            for mut nemesis in std::mem::take(&mut self.two) {
                let outcome = nemesis.heal(cluster).await;
                // Nothing to heal is healed.
                let outcome = match outcome {
                    Outcome::Skipped(reason) => Outcome::Installed(reason),
                    other => other,
                };
                told.push((nemesis.name(), outcome));
            }
            together(told)
        })
    }
}

/// As bad as the worst of them. Skipped when one of them is: one fault is no two.
fn together(told: Vec<(&'static str, Outcome)>) -> Outcome {
    let text: Vec<String> = told
        .iter()
        .map(|(name, outcome)| format!("{name}: {}", outcome.text()))
        .collect();
    let text = text.join("; ");
    let any = |is: fn(&Outcome) -> bool| told.iter().any(|(_, outcome)| is(outcome));
    if any(|outcome| matches!(outcome, Outcome::Broken(_))) {
        Outcome::Broken(text)
    } else if any(|outcome| matches!(outcome, Outcome::Indeterminate(_))) {
        Outcome::Indeterminate(text)
    } else if any(|outcome| matches!(outcome, Outcome::Skipped(_))) {
        Outcome::Skipped(text)
    } else {
        Outcome::Installed(text)
    }
}
