//! The workloads `tags` and `removals`: all names with one prefix are one object. One workload queries tags,
//! the other removes by prefix and by regular expression; both read whole lists.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;

use super::slots::Slots;
use super::{Stage, Work, Workload, at_once, by_family, judged};
use crate::check::wgl::Budget;
use crate::check::{self, Violation, group};
use crate::folder::CheckerVerdict;
use crate::history::{Action, Answer, Entry, Operation, Outcome};

/// A workload on groups of names.
#[derive(Debug, Clone, Copy)]
pub struct Groups {
    name: &'static str,
    about: &'static str,
    removes: bool,
}

/// Tag queries and changes of tags.
pub const TAGS: Groups = Groups {
    name: "tags",
    about: "register with tags, set_metadata, yplookup of one tag and whole lists; each query sees one state",
    removes: false,
};

/// Removals of many names at once.
pub const REMOVALS: Groups = Groups {
    name: "removals",
    about: "names are removed by prefix and by regular expression while they are registered and listed; each \
            removal is one step, and its count is right",
    removes: true,
};

impl Workload for Groups {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn work(&self, stage: Arc<Stage>) -> Work {
        let this = *self;
        Box::pin(async move {
            let groups = Arc::new(Slots::new(2, 50, 2));
            let clients = (0..stage.clients)
                .map(|number| this.client(number, Arc::clone(&stage), Arc::clone(&groups)));
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
        let groups = by_family(history);
        let text = format!("{} operations on {} groups", history.len(), groups.len());
        let mut budget = Budget::default();
        let verdict = check::worst(groups.iter().map(|(family, operations)| {
            strangers(family, operations)
                .unwrap_or_else(|| group::check(operations, &format!("{family}."), &mut budget))
        }));
        vec![judged("linearizable per prefix", self.name, verdict, text)]
    }
}

/// Finds an answer that contains a name of another group. Each group has tags of its own, so that is a
/// violation.
fn strangers(family: &str, operations: &[Operation]) -> Option<check::Verdict> {
    let prefix = format!("{family}.");
    operations.iter().find_map(|operation| {
        let Some(Answer::Entries(entries)) = operation.answer() else {
            return None;
        };
        let stranger = entries.keys().find(|name| !name.starts_with(&prefix))?;
        Some(check::Verdict::Violated(Violation {
            subject: format!("{prefix}*"),
            reason: format!("an answer has {stranger:?}, which was not asked for"),
            evidence: vec![operation.clone()],
        }))
    })
}

impl Groups {
    async fn client(self, number: u32, stage: Arc<Stage>, groups: Arc<Slots>) -> crate::Result<()> {
        let mut client = stage.client(number);
        let mut random = stage.random(number);
        for round in 0_u64.. {
            if stage.is_over() {
                break;
            }
            stage.wander(&mut client, &mut random);
            let group = groups.take(&mut random);
            let family = format!("{}.{group}", self.name);
            let action = self.choose(&family, number, round, &mut random);
            let told = client.perform(action).await;
            if told.action.is_write() && matches!(told.outcome, Outcome::Unknown(_)) {
                groups.lost(group);
            }
            stage.rest_after(&told, &mut random).await;
        }
        Ok(())
    }

    /// Returns the first part of its names.
    pub(crate) fn family(self) -> &'static str {
        self.name
    }

    /// Draws the next operation of a client on a group.
    pub(crate) fn choose(
        self,
        family: &str,
        number: u32,
        round: u64,
        random: &mut SmallRng,
    ) -> Action {
        // There are three tags and an entry has one or two, so a query for one tag finds some of the names.
        let tag = |random: &mut SmallRng| format!("{family}.t{}", random.random_range(0..3));
        let name = format!("{family}.{}", random.random_range(0..6));
        let tags = BTreeSet::from([tag(random), tag(random)]);
        let register = |name: String, tags| Action::Register {
            name,
            entry: Entry {
                uri: format!("PYRO:o{number}_{round}@h:1"),
                tags,
            },
            safe: false,
        };
        let prefix = format!("{family}.");
        if self.removes {
            return match random.random_range(0..100) {
                0..55 => register(name, BTreeSet::new()),
                55..72 => Action::RemovePrefix {
                    prefix,
                    by_regex: random.random_ratio(1, 2),
                },
                _ => Action::List { prefix },
            };
        }
        match random.random_range(0..100) {
            0..25 => register(name, tags),
            25..50 => Action::SetMetadata { name, tags },
            50..80 => Action::Tagged { tag: tag(random) },
            80..90 => Action::Remove { name },
            _ => Action::List { prefix },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok};
    use crate::folder::Valid;

    fn history(seen: &[&str]) -> Vec<Operation> {
        let register = |name: &str| Action::Register {
            name: name.to_owned(),
            entry: entry(name, &["tags.1.t0"]),
            safe: false,
        };
        let of = |name: &&str| ((*name).to_owned(), entry(name, &["tags.1.t0"]));
        let query = Action::Tagged {
            tag: "tags.1.t0".to_owned(),
        };
        let answer = Answer::Entries(seen.iter().map(of).collect());
        vec![
            ok(1, 0, 1, register("tags.1.a"), Answer::Done),
            ok(1, 2, 3, register("tags.1.b"), Answer::Done),
            ok(2, 4, 5, query, answer),
        ]
    }

    #[test]
    fn a_query_that_misses_a_name_or_has_a_strange_one_is_found() {
        let valid = |seen: &[&str]| TAGS.check(&history(seen))[0].valid;
        assert_eq!(valid(&["tags.1.a", "tags.1.b"]), Valid::True);
        assert_eq!(valid(&["tags.1.b"]), Valid::False);
        assert_eq!(valid(&["tags.1.a", "tags.1.b", "tags.2.a"]), Valid::False);
    }
}
