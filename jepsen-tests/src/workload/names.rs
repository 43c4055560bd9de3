//! The workload `names`: several clients register, safe-register, look up and remove shared names and set their
//! metadata; each name is an object of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use super::slots::Slots;
use super::{Stage, Work, Workload, at_once, judged};
use crate::check::name;
use crate::folder::CheckerVerdict;
use crate::history::{Action, Entry, Operation, Outcome};

/// The number of names in a block. Each block is listed once at the end.
pub(crate) const BLOCK: u64 = 400;

/// The workload.
#[derive(Debug)]
pub struct Names;

const NAME: &str = "names";

impl Workload for Names {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "register, safe register, set_metadata, look-up and removal of shared names; each name is linearizable, \
         and nothing acknowledged is lost"
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let slots = Arc::new(Slots::new(6, 60, 3));
            let clients = (0..stage.clients)
                .map(|number| work(number, Arc::clone(&stage), Arc::clone(&slots)));
            at_once(clients).await
        })
    }

    fn final_reads(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let lists = last_lists(&stage.recorder.operations());
            stage.insist_everywhere(&lists).await
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        check(NAME, history)
    }
}

/// Judges a history of shared names.
pub(crate) fn check(workload: &str, history: &[Operation]) -> Vec<CheckerVerdict> {
    let names: BTreeSet<&str> = history
        .iter()
        .filter_map(|operation| match &operation.action {
            Action::Register { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    let text = format!("{} operations on {} names", history.len(), names.len());
    let verdict = name::check(history);
    vec![judged("linearizable per name", workload, verdict, text)]
}

async fn work(number: u32, stage: Arc<Stage>, slots: Arc<Slots>) -> crate::Result<()> {
    let mut client = stage.client(number);
    let mut random = stage.random(number);
    for round in 0_u64.. {
        if stage.is_over() {
            break;
        }
        stage.wander(&mut client, &mut random);
        let slot = slots.take(&mut random);
        let name = format!("{NAME}.{}.{slot}", slot / BLOCK);
        let told = client
            .perform(choose(name, number, round, &mut random))
            .await;
        if matches!(told.outcome, Outcome::Unknown(_)) && told.action.is_write() {
            slots.lost(slot);
        }
        stage.rest_after(&told, &mut random).await;
    }
    Ok(())
}

/// Returns the lists that together show all names of a history, one per block.
pub(crate) fn last_lists(history: &[Operation]) -> Vec<Action> {
    let blocks: BTreeSet<&str> = history
        .iter()
        .filter_map(|operation| match &operation.action {
            Action::Register { name, .. } => Some(name.rsplit_once('.')?.0),
            _ => None,
        })
        .collect();
    let list = |block| Action::List {
        prefix: format!("{block}."),
    };
    blocks.into_iter().map(list).collect()
}

/// Draws the next operation of a client on `name`.
pub(crate) fn choose(name: String, number: u32, round: u64, random: &mut SmallRng) -> Action {
    // Each value is written once, so a read identifies the write that it saw.
    let tags = |random: &mut SmallRng| {
        let tag = format!("{NAME}-t{}", random.random_range(0..3));
        BTreeSet::from([tag, format!("{NAME}-{number}-{round}")])
    };
    match random.random_range(0..100) {
        0..42 => Action::Lookup { name },
        42..74 => Action::Register {
            name,
            entry: Entry {
                uri: format!("PYRO:o{number}_{round}@h:1"),
                tags: tags(random),
            },
            safe: random.random_ratio(2, 5),
        },
        74..88 => Action::SetMetadata {
            name,
            tags: tags(random),
        },
        _ => Action::Remove { name },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok};
    use crate::folder::Valid;
    use crate::history::Answer;

    #[test]
    fn an_acknowledged_name_that_the_last_list_misses_is_found() {
        let register = Action::Register {
            name: "names.0.1".into(),
            entry: entry("a", &[]),
            safe: true,
        };
        let list = Action::List {
            prefix: "names.0.".into(),
        };
        let history = [
            ok(1, 0, 1, register, Answer::Done),
            ok(9, 5, 6, list, Answer::Entries(Default::default())),
        ];
        let verdicts = Names.check(&history);
        assert_eq!(verdicts[0].valid, Valid::False);
        assert_eq!(verdicts[0].counterexample.len(), 2);
        assert_eq!(Names.check(&history[..1])[0].valid, Valid::True);
    }
}
