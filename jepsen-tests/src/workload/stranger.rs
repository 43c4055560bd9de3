//! The workload `stranger`: [`Strangers`] beside all other clients. Their operations are not those of a name
//! server, so the history contains only tallies, by kind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Stage, Work, Workload};
use crate::error::{Result, RigError};
use crate::folder::{CheckerVerdict, Line, Network, Valid};
use crate::history::{Action, Answer, Nanos, Operation, Outcome};
use crate::stranger::{Deed, Strangers, Tally, Target};

/// The workload.
#[derive(Debug)]
pub struct StrangersAtWork;

/// The name of the workload. Its operations are not evidence of the availability of the service.
pub const NAME: &str = "stranger";

/// The time between two records of the tallies.
const INTERVAL: Duration = Duration::from_secs(5);

impl Workload for StrangersAtWork {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> &'static str {
        "clients without a key ask for everything in every wrong way, at the port for clients and at the one \
         between nodes; nothing is carried out or told that may not be"
    }

    fn why_not_here(&self, network: Network) -> Option<String> {
        match network {
            Network::Loopback => Some("callers from loopback addresses are no strangers".into()),
            Network::Namespaces => None,
        }
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        Box::pin(async move {
            let Some(net) = &stage.net else {
                return Ok(());
            };
            let targets = targets(&stage)?;
            let mut strangers = Strangers::start(net, stage.free_place - 2, targets, stage.seed)?;
            let mut over = stage.over.clone();
            let mut begin = stage.recorder.now();
            while !stage.is_over() {
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    _ = over.changed() => {}
                }
                begin = note(&stage, begin, strangers.take());
            }
            let ended = tokio::task::spawn_blocking(move || {
                strangers.stop();
                strangers.take()
            });
            let last = ended.await.map_err(|error| RigError::Panicked {
                what: "the strangers".into(),
                reason: error.to_string(),
            })?;
            note(&stage, begin, last);
            Ok(())
        })
    }

    fn check(&self, history: &[Operation]) -> Vec<CheckerVerdict> {
        let mut sums: BTreeMap<&str, Tally> = BTreeMap::new();
        let mut evidence = Vec::new();
        for operation in history {
            let (Action::Other { kind, .. }, Some(Answer::Text(text))) =
                (&operation.action, operation.answer())
            else {
                continue;
            };
            let tally: Tally = serde_json::from_str(text).unwrap_or_default();
            if !tally.wrong.is_empty() {
                evidence.push(Line::new(NAME, operation));
            }
            sums.entry(kind).or_default().add(tally);
        }
        let missing: Vec<&str> = Deed::ALL
            .into_iter()
            .map(Deed::name)
            .filter(|name| sums.get(name).is_none_or(|tally| tally.done == 0))
            .collect();
        let wrong: Vec<String> = sums
            .iter()
            .flat_map(|(kind, tally)| {
                tally
                    .wrong
                    .iter()
                    .map(move |text| format!("{kind}: {text}"))
            })
            .collect();
        let (valid, text) = if !wrong.is_empty() {
            (Valid::False, wrong.join("; "))
        } else if !missing.is_empty() {
            (
                Valid::Unknown,
                format!("never done: {}", missing.join(", ")),
            )
        } else {
            (Valid::True, summary(&sums))
        };
        vec![CheckerVerdict {
            workload: Some(NAME.to_owned()),
            counterexample: evidence,
            ..CheckerVerdict::new("strangers get what is anybody's", valid, text)
        }]
    }
}

fn summary(sums: &BTreeMap<&str, Tally>) -> String {
    let mut all = Tally::default();
    sums.values().for_each(|tally| all.add(tally.clone()));
    let deeds: Vec<String> = sums
        .iter()
        .map(|(kind, tally)| format!("{kind} {}", tally.done))
        .collect();
    format!(
        "{} deeds: {} answers, {} refusals, {} closed connections, {} times nothing came; the longest answer has \
         {} bytes; {}",
        all.done,
        all.answered,
        all.refused,
        all.closed,
        all.silent,
        all.answer_len_max,
        deeds.join(", ")
    )
}

/// Records the tallies since `begin`. Returns the current time.
fn note(stage: &Stage, begin: Nanos, tallies: BTreeMap<Deed, Tally>) -> Nanos {
    let end = stage.recorder.now();
    for (deed, tally) in tallies {
        let text = serde_json::to_string(&tally).unwrap_or_default();
        stage.recorder.add(Operation {
            client: stage.first_process + deed as u32,
            node: 0,
            call: begin,
            end,
            action: Action::Other {
                kind: deed.name().to_owned(),
                text: format!("{} times", tally.done),
            },
            outcome: Outcome::Ok(Answer::Text(text)),
        });
    }
    end
}

fn targets(stage: &Stage) -> Result<Vec<Target>> {
    let address = |text: &str| -> Result<SocketAddr> {
        text.parse().map_err(|error| RigError::Unreadable {
            command: "the address of a node".into(),
            reason: format!("{error}"),
            text: text.to_owned(),
        })
    };
    let of_node = |((_, clients), peers): (&(u64, hearth_cli::Address), &String)| {
        Ok(Target {
            clients: address(&clients.to_string())?,
            peers: address(peers)?,
        })
    };
    stage
        .endpoints
        .iter()
        .zip(&stage.peer_addrs)
        .map(of_node)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::ok;

    fn did(deed: Deed, tally: &Tally) -> Operation {
        let action = Action::Other {
            kind: deed.name().to_owned(),
            text: String::new(),
        };
        let text = serde_json::to_string(tally).unwrap();
        ok(1, 0, 1, action, Answer::Text(text))
    }

    #[test]
    fn what_is_wrong_or_was_not_done_is_told() {
        let once = Tally {
            done: 1,
            ..Tally::default()
        };
        let mut history: Vec<Operation> =
            Deed::ALL.into_iter().map(|deed| did(deed, &once)).collect();
        assert_eq!(StrangersAtWork.check(&history)[0].valid, Valid::True);
        assert_eq!(
            StrangersAtWork.check(&history[1..])[0].valid,
            Valid::Unknown
        );
        let wrong = Tally {
            wrong: vec!["add is carried out".into()],
            ..Tally::default()
        };
        history.push(did(Deed::Administration, &wrong));
        let verdict = &StrangersAtWork.check(&history)[0];
        assert_eq!(verdict.valid, Valid::False);
        assert_eq!(verdict.counterexample.len(), 1);
    }
}
