//! The workload `once`: operations whose answers show if they were executed twice, on names that only one
//! client uses.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use super::{Stage, Work, Workload, at_once, judged};
use crate::check::once;
use crate::client::{Client, plain};
use crate::folder::CheckerVerdict;
use crate::history::{Action, Operation, Outcome};

/// The workload.
#[derive(Debug)]
pub struct Once;

const NAME: &str = "once";

impl Workload for Once {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "safe registers and counted removals of names that one client has for itself; nothing is executed \
         twice, and nothing acknowledged is lost"
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            at_once((0..stage.clients).map(|number| work(number, Arc::clone(&stage)))).await
        })
    }

    fn final_reads(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            // Only the last family of each client is read. Families that ended with an unknown outcome cannot
            // be judged, but reading one does no harm.
            let mut last: std::collections::BTreeMap<u32, String> = Default::default();
            for operation in stage.recorder.operations() {
                if let Action::Register { name, .. } = &operation.action
                    && let Some((family, _)) = name.rsplit_once('.')
                {
                    last.insert(operation.client, family.to_owned());
                }
            }
            let families: BTreeSet<String> = last.into_values().collect();
            let lists: Vec<Action> = families
                .into_iter()
                .map(|family| Action::List {
                    prefix: format!("{family}."),
                })
                .collect();
            stage.insist_everywhere(&lists).await
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        let (verdict, looked_at) = once::check(history);
        vec![judged("exactly once", NAME, verdict, looked_at.to_string())]
    }
}

async fn work(number: u32, stage: Arc<Stage>) -> crate::Result<()> {
    let mut client = stage.client(number);
    let mut random = stage.random(number);
    for family in 0_u64.. {
        if stage.is_over() {
            break;
        }
        let prefix = format!("{NAME}.{number}-{family}.");
        live(&prefix, &mut client, &stage, &mut random).await;
    }
    Ok(())
}

/// Uses the names with one prefix until an outcome is unknown. Such an operation may still take effect at any
/// time, so no later answer on these names could be judged.
async fn live(prefix: &str, client: &mut Client, stage: &Stage, random: &mut SmallRng) {
    for round in 0..200 {
        if stage.is_over() {
            return;
        }
        stage.wander(client, random);
        let name = format!("{prefix}{}", random.random_range(0..5));
        let action = match random.random_range(0..100) {
            0..50 => Action::Register {
                name,
                entry: plain(format!("PYRO:o{round}@h:1")),
                safe: true,
            },
            50..78 => Action::Remove { name },
            78..88 => Action::RemovePrefix {
                prefix: prefix.to_owned(),
                by_regex: random.random_ratio(1, 2),
            },
            _ => Action::Lookup { name },
        };
        let told = client.perform(action).await;
        if told.action.is_write() && matches!(told.outcome, Outcome::Unknown(_)) {
            return;
        }
        stage.rest_after(&told, random).await;
    }
}
