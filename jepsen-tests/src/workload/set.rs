//! The workload `set`: sets of names that only grow, and whole lists of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng;

use super::slots::Slots;
use super::{Stage, Work, Workload, at_once, by_family, judged};
use crate::check::{self, set};
use crate::client::plain;
use crate::folder::CheckerVerdict;
use crate::history::{Action, Operation, Outcome};

/// The workload.
#[derive(Debug)]
pub struct GrowingSet;

const NAME: &str = "set";

impl Workload for GrowingSet {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "names are added and whole lists are read; no list misses an acknowledged name, and all lists agree \
         on one order of the additions"
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let sets = Arc::new(Slots::new(1, 120, 20));
            let clients = (0..stage.clients)
                .map(|number| work(number, Arc::clone(&stage), Arc::clone(&sets)));
            at_once(clients).await
        })
    }

    fn final_reads(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let history = stage.recorder.operations();
            let lists: Vec<Action> = by_family(&history).into_keys().map(list_of).collect();
            stage.insist_everywhere(&lists).await
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        let sets = by_family(history);
        let text = format!("{} operations on {} sets", history.len(), sets.len());
        let judge = |(family, operations): (&&str, &Vec<Operation>)| {
            let verdict = set::check(operations, &format!("{family}."));
            (!verdict.holds()).then_some(verdict)
        };
        let verdict = sets.iter().find_map(judge).unwrap_or(check::Verdict::Holds);
        vec![judged("growing set", NAME, verdict, text)]
    }
}

fn list_of(family: &str) -> Action {
    Action::List {
        prefix: format!("{family}."),
    }
}

async fn work(number: u32, stage: Arc<Stage>, sets: Arc<Slots>) -> crate::Result<()> {
    let mut client = stage.client(number);
    let mut random = stage.random(number);
    let mut used = BTreeSet::new();
    for round in 0_u64.. {
        if stage.is_over() {
            break;
        }
        stage.wander(&mut client, &mut random);
        let set = sets.take(&mut random);
        let family = format!("{NAME}.{set}");
        let action = if used.contains(&set) && random.random_ratio(3, 10) {
            list_of(&family)
        } else {
            used = BTreeSet::from([set]);
            Action::Register {
                name: format!("{family}.{number}-{round}"),
                entry: plain("PYRO:o@h:1"),
                safe: true,
            }
        };
        let told = client.perform(action).await;
        if told.action.is_write() && matches!(told.outcome, Outcome::Unknown(_)) {
            sets.lost(set);
        }
        stage.rest_after(&told, &mut random).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok};
    use crate::folder::Valid;
    use crate::history::Answer;

    #[test]
    fn a_set_that_lost_a_name_is_found_among_others() {
        let add = |name: &str, at| {
            let action = Action::Register {
                name: name.to_owned(),
                entry: entry("PYRO:o@h:1", &[]),
                safe: true,
            };
            ok(1, at, at + 1, action, Answer::Done)
        };
        let list = |family: &str, names: &[&str]| {
            let of = |name: &&str| ((*name).to_owned(), entry("PYRO:o@h:1", &[]));
            let entries = names.iter().map(of).collect();
            ok(2, 90, 91, list_of(family), Answer::Entries(entries))
        };
        let mut history = vec![
            add("set.1.a", 0),
            add("set.2.a", 2),
            add("set.2.b", 4),
            list("set.1", &["set.1.a"]),
            list("set.2", &["set.2.a", "set.2.b"]),
        ];
        assert_eq!(GrowingSet.check(&history)[0].valid, Valid::True);
        history.push(list("set.2", &["set.2.b"]));
        assert_eq!(GrowingSet.check(&history)[0].valid, Valid::False);
    }
}
