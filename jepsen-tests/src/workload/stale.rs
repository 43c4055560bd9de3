//! The workload `stale`: reads at nodes that answer from their local state. The answers may be old, but never
//! go back.

use std::sync::Arc;

use rand::Rng;

use super::{Stage, Work, Workload, at_once, judged};
use crate::check::monotonic;
use crate::client::plain;
use crate::folder::CheckerVerdict;
use crate::history::{Action, Operation, Outcome};

/// The workload.
#[derive(Debug)]
pub struct StaleReads;

const NAME: &str = "stale";

impl Workload for StaleReads {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "reads at a node that runs with --reads stale; they may be old, but never go back, and show nothing \
         that was refused or not yet asked for"
    }

    fn why_not(&self, stage: &Stage) -> Option<String> {
        let none = stage.stale.is_empty();
        none.then(|| "no node of this run answers with stale reads".to_owned())
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            at_once((0..stage.clients).map(|number| work(number, Arc::clone(&stage)))).await
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        let reads = history
            .iter()
            .filter(|operation| !operation.action.is_write() && operation.answer().is_some())
            .count();
        let text = format!("{reads} reads of nodes that may be behind");
        let prefix = format!("{NAME}.");
        vec![judged(
            "monotonic reads per node",
            NAME,
            monotonic::check(history, &prefix),
            text,
        )]
    }
}

/// Writes increasing numbers to a name of its own through the linearizable nodes, and reads it at the stale
/// ones.
async fn work(number: u32, stage: Arc<Stage>) -> crate::Result<()> {
    let mut writer = stage.client(2 * number);
    let mut reader = stage.client_of(2 * number + 1, &stage.stale);
    let mut random = stage.random(number);
    let mut lives = 0_u64;
    let mut value = 0_u64;
    while !stage.is_over() {
        let name = format!("{NAME}.{number}.{lives}");
        let told = if random.random_ratio(1, 3) {
            value += 1;
            let write = Action::Register {
                name,
                entry: plain(format!("PYRO:o#{value}@h:1")),
                safe: false,
            };
            let told = writer.perform(write).await;
            // A write with an unknown outcome may take effect after a later one, which would look like a read
            // that went back.
            if matches!(told.outcome, Outcome::Unknown(_)) {
                lives += 1;
            }
            told
        } else {
            reader.perform(Action::Lookup { name }).await
        };
        stage.rest_after(&told, &mut random).await;
    }
    Ok(())
}
