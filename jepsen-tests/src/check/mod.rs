//! Checkers: each takes a history and says whether it can have come from one name server that never
//! fails, with the evidence when it cannot.
//!
//! | checker | of what |
//! |---|---|
//! | [`wgl`] | linearizability of any model, by search |
//! | [`name`] | one name: register, safe register, set_metadata, look-up, removal |
//! | [`group`] | names of one prefix: whole lists, tag queries, removals by prefix, all of them atomic |
//! | [`set`] | a set that only grows: whole lists, in O(n log n) |
//! | [`snapshot`] | whole lists of names whose values grow: one order of all writes, in O(n log n) |
//! | [`once`] | names of one client: every answer is known beforehand, and nothing runs twice |
//! | [`durable`] | what was acknowledged is there at the end, counted |
//! | [`monotonic`] | stale reads of one node: they may be old, and never go back |
//! | [`discovery`] | who answers a broadcast could serve about then |
//!
//! A command that is executed twice shows in `name` and `group`: a safe register that is told that its own
//! name is taken, a removal that is told that nothing was there. What was acknowledged and lost shows
//! as soon as somebody reads, which each workload does at its end.

pub mod discovery;
pub mod durable;
pub mod group;
pub mod monotonic;
pub mod name;
pub mod once;
pub mod set;
pub mod snapshot;
pub mod wgl;

use crate::history::Operation;
use wgl::{Budget, Model, Search, Span};

/// What a checker found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The history can have come from one name server.
    Holds,
    /// It cannot.
    Violated(Violation),
    /// The search was given up; neither is known.
    Undecided(String),
}

impl Verdict {
    /// Whether it holds.
    pub fn holds(&self) -> bool {
        matches!(self, Self::Holds)
    }
}

/// Why a history is impossible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What it is about: a name, a prefix, a node.
    pub subject: String,
    /// The contradiction, for a person.
    pub reason: String,
    /// The operations that contradict each other, in the order of their calls; as few as was easy to
    /// find.
    pub evidence: Vec<Operation>,
}

/// Judges one object, the `subject`, by search: `spans` are what `operations` say about it. What cannot be
/// comes with the operations that were called until then.
fn by_search<M: Model>(
    model: &M,
    subject: String,
    operations: &[&Operation],
    spans: &[Span<M::Step>],
    budget: &mut Budget,
) -> Verdict
where
    M::Step: Clone,
{
    match wgl::search(model, spans, budget) {
        Search::Linearizable => Verdict::Holds,
        Search::GaveUp => Verdict::Undecided(format!(
            "{subject}: no order of {} operations was found, and not all were tried",
            spans.len()
        )),
        Search::Impossible => {
            let until = wgl::first_impossible(model, spans, budget).unwrap_or(u64::MAX);
            let known = operations.iter().filter(|one| one.call <= until);
            let mut evidence: Vec<Operation> = known.map(|&one| one.clone()).collect();
            evidence.sort_by_key(|operation| operation.call);
            Verdict::Violated(Violation {
                subject,
                reason: "no order of these operations gives these answers".to_owned(),
                evidence,
            })
        }
    }
}

/// The first that is violated, or else one that is undecided.
pub fn worst(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    let mut undecided = None;
    for verdict in verdicts {
        match verdict {
            Verdict::Holds => {}
            Verdict::Undecided(_) => undecided = Some(verdict),
            Verdict::Violated(_) => return verdict,
        }
    }
    undecided.unwrap_or(Verdict::Holds)
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::history::{Action, Answer, Entry, Nanos, Operation, Outcome};

    pub(crate) fn entry(uri: &str, tags: &[&str]) -> Entry {
        Entry {
            uri: uri.to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        }
    }

    fn operation(
        client: u32,
        call: Nanos,
        end: Nanos,
        action: Action,
        outcome: Outcome,
    ) -> Operation {
        Operation {
            client,
            node: 1,
            call,
            end,
            action,
            outcome,
        }
    }

    pub(crate) fn ok(
        client: u32,
        call: Nanos,
        end: Nanos,
        action: Action,
        answer: Answer,
    ) -> Operation {
        operation(client, call, end, action, Outcome::Ok(answer))
    }

    pub(crate) fn failed(client: u32, call: Nanos, end: Nanos, action: Action) -> Operation {
        operation(
            client,
            call,
            end,
            action,
            Outcome::Failed("no quorum".to_owned()),
        )
    }

    pub(crate) fn unknown(client: u32, call: Nanos, end: Nanos, action: Action) -> Operation {
        operation(
            client,
            call,
            end,
            action,
            Outcome::Unknown("reset".to_owned()),
        )
    }
}
