//! The workload `registry`: whole lists of names that change all the time. Each list is the state at one
//! moment, and all lists agree on one order of the writes.

use std::sync::Arc;

use rand::Rng;

use super::slots::Slots;
use super::{Stage, Work, Workload, at_once, by_family, judged};
use crate::check::{self, snapshot};
use crate::client::plain;
use crate::folder::CheckerVerdict;
use crate::history::{Action, Operation, Outcome};

/// The workload.
#[derive(Debug)]
pub struct WholeRegistry;

const NAME: &str = "registry";

/// The number of names that one client writes at the same time.
const NAMES_PER_CLIENT: u64 = 3;

impl Workload for WholeRegistry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "each client counts in names of its own while others list all of them; each list is the state at one \
         moment, and all lists agree on one order of the writes"
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let epochs = Arc::new(Slots::new(1, 600, u32::MAX));
            let clients = (0..stage.clients)
                .map(|number| work(number, Arc::clone(&stage), Arc::clone(&epochs)));
            at_once(clients).await
        })
    }

    fn final_reads(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let history = stage.recorder.operations();
            let lists: Vec<Action> = by_family(&history)
                .into_keys()
                .map(|family| Action::List {
                    prefix: format!("{family}."),
                })
                .collect();
            stage.insist_everywhere(&lists).await
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        let epochs = by_family(history);
        let mut lists = 0;
        let mut verdict = check::Verdict::Holds;
        for (family, operations) in &epochs {
            let (found, count) = snapshot::check(operations, &format!("{family}."));
            lists += count;
            if !found.holds() {
                verdict = found;
                break;
            }
        }
        let text = format!(
            "{lists} whole lists among {} operations; the order of the writes is that of their counters and of \
             real time, because the protocol shows no revisions",
            history.len()
        );
        vec![judged("whole lists in one order", NAME, verdict, text)]
    }
}

async fn work(number: u32, stage: Arc<Stage>, epochs: Arc<Slots>) -> crate::Result<()> {
    let mut client = stage.client(number);
    let mut random = stage.random(number);
    let mut epoch = u64::MAX;
    let mut counters: Vec<Counter> = Vec::new();
    let mut made = 0_u64;
    while !stage.is_over() {
        stage.wander(&mut client, &mut random);
        let current = epochs.take(&mut random);
        if current != epoch {
            epoch = current;
            counters.clear();
        }
        let family = format!("{NAME}.{epoch}");
        let told = if !counters.is_empty() && random.random_ratio(3, 10) {
            let list = Action::List {
                prefix: format!("{family}."),
            };
            client.perform(list).await
        } else {
            let at = random.random_range(0..usize::try_from(NAMES_PER_CLIENT).unwrap_or(1));
            if at >= counters.len() {
                made += 1;
                counters.push(Counter {
                    name: format!("{family}.{number}-{made}"),
                    value: 0,
                });
            }
            let at = at.min(counters.len() - 1);
            let counter = &mut counters[at];
            counter.value += 1;
            let write = Action::Register {
                name: counter.name.clone(),
                entry: plain(format!("PYRO:o#{}@h:1", counter.value)),
                safe: false,
            };
            let told = client.perform(write).await;
            match told.outcome {
                Outcome::Ok(_) => {}
                // The value was not written, so the next write may use its number.
                Outcome::Failed(_) => counter.value -= 1,
                // The write may still take effect after a later one.
                Outcome::Unknown(_) => drop(counters.swap_remove(at)),
            }
            told
        };
        stage.rest_after(&told, &mut random).await;
    }
    Ok(())
}

/// A name whose value grows by one with each write.
#[derive(Debug)]
struct Counter {
    name: String,
    value: u64,
}
