//! The workload `pyro`: real Pyro4 and Pyro5 programs, as users write them, at all nodes. Their histories are
//! judged like those of the rig's own clients.

use std::sync::Arc;

use rand::Rng;

use super::names::{self, BLOCK};
use super::program::{FAMILIES, Finds, Program};
use super::slots::Slots;
use super::{Stage, Work, Workload, at_once};
use crate::folder::{CheckerVerdict, Network};
use crate::history::{Action, Operation, Outcome};
use crate::programs;

/// The workload.
#[derive(Debug)]
pub struct PyroPrograms;

const NAME: &str = "pyro";

impl Workload for PyroPrograms {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "programs with the real Pyro4 and Pyro5 register, safe-register, look up, list and remove shared names \
         at all nodes; each name is linearizable, and nothing acknowledged is lost"
    }

    fn why_not_here(&self, _network: Network) -> Option<String> {
        programs::python().err()
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let slots = Arc::new(Slots::new(4, 60, 3));
            // At least one client of each generation.
            let count = stage.clients.max(2);
            let clients =
                (0..count).map(|number| work(number, Arc::clone(&stage), Arc::clone(&slots)));
            at_once(clients).await
        })
    }

    fn final_reads(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let lists = names::last_lists(&stage.recorder.operations());
            stage.insist_everywhere(&lists).await
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        names::check(NAME, history)
    }
}

async fn work(number: u32, stage: Arc<Stage>, slots: Arc<Slots>) -> crate::Result<()> {
    let mut random = stage.random(number);
    let mut nodes = stage.endpoints.clone();
    let count = nodes.len().max(1);
    let number_of_family = usize::try_from(number).unwrap_or(0);
    nodes.rotate_left(number_of_family % count);
    let mut program = Program::start(
        &stage.run,
        stage.first_process + number,
        FAMILIES[number_of_family % FAMILIES.len()],
        Finds::Told(nodes),
        &[],
        &stage.recorder,
        |python| std::process::Command::new(python),
    )?;
    for round in 0_u64.. {
        if stage.is_over() {
            break;
        }
        if random.random_ratio(1, 5) && !stage.endpoints.is_empty() {
            let at = random.random_range(0..stage.endpoints.len());
            program.go_to(stage.endpoints[at].0);
        }
        let slot = slots.take(&mut random);
        let name = format!("{NAME}.{}.{slot}", slot / BLOCK);
        let action = if random.random_ratio(1, 10) {
            Action::List { prefix: name }
        } else {
            names::choose(name, number, round, &mut random)
        };
        let told = program.perform(action).await?;
        if matches!(told.outcome, Outcome::Unknown(_)) && told.action.is_write() {
            slots.lost(slot);
        }
        stage.rest_after(&told, &mut random).await;
    }
    program.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok};
    use crate::folder::Valid;
    use crate::history::Answer;

    #[test]
    fn a_list_that_misses_what_a_program_registered_is_found() {
        let name = || "pyro.0.1".to_owned();
        let register = Action::Register {
            name: name(),
            entry: entry("a", &[]),
            safe: false,
        };
        let list = Action::List { prefix: name() };
        let history = [
            ok(1, 0, 1, register, Answer::Done),
            ok(2, 2, 3, list, Answer::Entries(Default::default())),
        ];
        assert_eq!(PyroPrograms.check(&history)[0].valid, Valid::False);
        assert_eq!(PyroPrograms.check(&history[..1])[0].valid, Valid::True);
    }
}
