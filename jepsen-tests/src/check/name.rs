//! One name at a time: a register with conditional writes.
//!
//! Linearizability is a local property, so each name is judged on its own, which keeps the searches small.
//! What touches several names (lists, removals by prefix) counts for each of them with the part that it
//! says about it; whether it was atomic is the question of [`super::group`].

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::wgl::{self, Budget, Model, Search, Span};
use crate::history::{Action, Answer, Entry, Operation};

/// One name. Its state is what the name stands for.
#[derive(Debug, Clone, Copy)]
struct Name;

/// What an operation says about the name; `None` where nobody knows what was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Register(Entry),
    /// Whether it was done.
    RegisterSafe(Entry, Option<bool>),
    /// Whether the name was known.
    SetMetadata(BTreeSet<String>, Option<bool>),
    Read(Option<Entry>),
    /// Whether it was there.
    Remove(Option<bool>),
    /// A look at its presence and tags by a query for one tag: the entry, if it was in the answer.
    ReadTagged(String, Option<Entry>),
}

impl Model for Name {
    type State = Option<Entry>;
    type Step = Step;

    fn initial(&self) -> Self::State {
        None
    }

    fn apply(&self, state: &Self::State, step: &Step) -> Option<Self::State> {
        let agrees = |said: &Option<bool>, is: bool| said.is_none_or(|said| said == is);
        match step {
            Step::Register(entry) => Some(Some(entry.clone())),
            Step::RegisterSafe(entry, done) => {
                let free = state.is_none();
                agrees(done, free).then(|| Some(state.clone().unwrap_or_else(|| entry.clone())))
            }
            Step::SetMetadata(tags, known) => {
                let after = state.as_ref().map(|entry| Entry {
                    uri: entry.uri.clone(),
                    tags: tags.clone(),
                });
                agrees(known, state.is_some()).then_some(after)
            }
            Step::Read(seen) => (seen == state).then(|| state.clone()),
            Step::Remove(was_there) => agrees(was_there, state.is_some()).then_some(None),
            Step::ReadTagged(tag, seen) => {
                let expected = state.as_ref().filter(|entry| entry.tags.contains(tag));
                (expected == seen.as_ref()).then(|| state.clone())
            }
        }
    }

    fn is_read(&self, step: &Step) -> bool {
        match step {
            Step::Read(_) | Step::ReadTagged(..) => true,
            // Refused, or done to nothing.
            Step::RegisterSafe(_, done) | Step::SetMetadata(_, done) | Step::Remove(done) => {
                *done == Some(false)
            }
            Step::Register(_) => false,
        }
    }
}

/// What `operation` says about `name`, if anything.
fn step(name: &str, operation: &Operation) -> Option<Step> {
    let answer = operation.answer();
    Some(match (&operation.action, answer) {
        (Action::Register { entry, safe, .. }, answer) => {
            if *safe {
                Step::RegisterSafe(entry.clone(), answer.map(|answer| *answer == Answer::Done))
            } else {
                Step::Register(entry.clone())
            }
        }
        (Action::SetMetadata { tags, .. }, answer) => {
            Step::SetMetadata(tags.clone(), answer.map(|answer| *answer == Answer::Done))
        }
        (Action::Lookup { .. }, Some(Answer::Entry(entry))) => Step::Read(entry.clone()),
        (Action::Remove { .. }, Some(Answer::Removed(count))) => Step::Remove(Some(*count > 0)),
        (Action::Remove { .. } | Action::RemovePrefix { .. }, _) => Step::Remove(None),
        (Action::List { .. }, Some(Answer::Entries(entries))) => {
            Step::Read(entries.get(name).cloned())
        }
        (Action::Tagged { tag }, Some(Answer::Entries(entries))) => {
            Step::ReadTagged(tag.clone(), entries.get(name).cloned())
        }
        _ => return None,
    })
}

fn concerns(name: &str, action: &Action) -> bool {
    match action {
        Action::Register { name: other, .. }
        | Action::SetMetadata { name: other, .. }
        | Action::Lookup { name: other }
        | Action::Remove { name: other } => other == name,
        Action::RemovePrefix { prefix, .. } | Action::List { prefix } => name.starts_with(prefix),
        Action::Tagged { .. } => true,
        Action::Other { .. } => false,
    }
}

/// Judges every name that the history has.
pub fn check(history: &[Operation]) -> Verdict {
    let mut budget = Budget::default();
    super::worst(by_name(history).map(|(name, operations)| {
        let spans = spans(name, &operations);
        super::by_search(&Name, name.to_owned(), &operations, &spans, &mut budget)
    }))
}

/// Whether there is a contradiction that is found within `budget`.
pub fn is_violated(history: &[Operation], budget: &mut Budget) -> bool {
    by_name(history).any(|(name, operations)| {
        wgl::search(&Name, &spans(name, &operations), budget) == Search::Impossible
    })
}

/// What a history has of each name.
fn by_name(history: &[Operation]) -> impl Iterator<Item = (&str, Vec<&Operation>)> {
    let mut by_name: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    let mut of_many = Vec::new();
    for operation in history.iter().filter(|operation| !operation.is_void()) {
        match &operation.action {
            Action::Register { name, .. }
            | Action::SetMetadata { name, .. }
            | Action::Lookup { name }
            | Action::Remove { name } => by_name.entry(name).or_default().push(operation),
            Action::RemovePrefix { .. } | Action::List { .. } | Action::Tagged { .. } => {
                of_many.push(operation);
            }
            Action::Other { .. } => {}
        }
    }
    by_name.into_iter().map(move |(name, mut operations)| {
        operations.extend(of_many.iter().filter(|one| concerns(name, &one.action)));
        (name, operations)
    })
}

fn spans(name: &str, operations: &[&Operation]) -> Vec<Span<Step>> {
    let span = |operation: &&Operation| {
        Some(Span {
            call: operation.call,
            end: operation.end_of_effect(),
            step: step(name, operation)?,
        })
    };
    operations.iter().filter_map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, failed, ok, unknown};

    fn register(uri: &str, safe: bool) -> Action {
        Action::Register {
            name: "n".to_owned(),
            entry: entry(uri, &[]),
            safe,
        }
    }

    fn lookup() -> Action {
        Action::Lookup {
            name: "n".to_owned(),
        }
    }

    fn remove() -> Action {
        Action::Remove {
            name: "n".to_owned(),
        }
    }

    fn sees(uri: &str) -> Answer {
        Answer::Entry(Some(entry(uri, &[])))
    }

    fn violated(history: &[Operation]) -> bool {
        matches!(check(history), Verdict::Violated(_))
    }

    #[test]
    fn a_plain_life_of_a_name_holds() {
        let history = [
            ok(1, 0, 1, lookup(), Answer::Entry(None)),
            ok(1, 2, 3, register("a", true), Answer::Done),
            ok(2, 4, 5, register("b", true), Answer::Taken),
            ok(2, 6, 7, lookup(), sees("a")),
            ok(1, 8, 9, remove(), Answer::Removed(1)),
            ok(1, 10, 11, remove(), Answer::Removed(0)),
        ];
        assert_eq!(check(&history), Verdict::Holds);
    }

    #[test]
    fn a_stale_read_is_found_with_little_evidence() {
        let mut history = vec![
            ok(1, 0, 1, register("a", false), Answer::Done),
            ok(1, 2, 3, register("b", false), Answer::Done),
            ok(2, 4, 5, lookup(), sees("a")),
        ];
        for later in 0..50 {
            history.push(ok(2, 10 + 2 * later, 11 + 2 * later, lookup(), sees("b")));
        }
        let Verdict::Violated(violation) = check(&history) else {
            panic!("not found");
        };
        assert_eq!(violation.evidence.len(), 3);
    }

    #[test]
    fn two_winners_of_a_safe_register_are_found() {
        assert!(violated(&[
            ok(1, 0, 10, register("a", true), Answer::Done),
            ok(2, 0, 10, register("b", true), Answer::Done),
        ]));
    }

    #[test]
    fn a_command_that_ran_twice_is_found() {
        // The retry of one's own register finds the name taken by itself.
        assert!(violated(&[ok(
            1,
            0,
            10,
            register("a", true),
            Answer::Taken
        )]));
        // The retry of a removal finds nothing to remove.
        assert!(violated(&[
            ok(1, 0, 1, register("a", false), Answer::Done),
            ok(1, 2, 9, remove(), Answer::Removed(0)),
            ok(1, 10, 11, lookup(), Answer::Entry(None)),
        ]));
    }

    #[test]
    fn a_lost_write_is_found() {
        assert!(violated(&[
            ok(1, 0, 1, register("a", false), Answer::Done),
            ok(2, 90, 91, lookup(), Answer::Entry(None)),
        ]));
    }

    #[test]
    fn a_write_that_failed_must_not_show_and_an_unknown_one_may() {
        let seen = ok(2, 90, 91, lookup(), sees("a"));
        assert!(violated(&[
            failed(1, 0, 1, register("a", false)),
            seen.clone()
        ]));
        assert_eq!(
            check(&[unknown(1, 0, 1, register("a", false)), seen]),
            Verdict::Holds
        );
    }

    #[test]
    fn a_list_that_misses_a_name_is_found() {
        let list = Action::List {
            prefix: String::new(),
        };
        assert!(violated(&[
            ok(1, 0, 1, register("a", false), Answer::Done),
            ok(2, 2, 3, list, Answer::Entries(BTreeMap::new())),
        ]));
    }
}
