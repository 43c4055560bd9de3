//! The names of one prefix as one object: lists, tag queries and removals by prefix must be atomic.

use std::collections::BTreeMap;

use super::Verdict;
use super::wgl::{Budget, Model, Span};
use crate::history::{Action, Answer, Entry, Operation};

/// All names that start with one prefix.
#[derive(Debug, Clone)]
struct Group<'a> {
    prefix: &'a str,
}

type Entries = BTreeMap<String, Entry>;

impl Group<'_> {
    fn with_prefix(entries: &Entries, prefix: &str) -> Entries {
        let within = entries.iter().filter(|(name, _)| name.starts_with(prefix));
        within
            .map(|(name, entry)| (name.clone(), entry.clone()))
            .collect()
    }
}

impl Model for Group<'_> {
    type State = Entries;
    /// Each with its answer, if it had one.
    type Step = (Action, Option<Answer>);

    fn initial(&self) -> Entries {
        Entries::new()
    }

    fn apply(&self, state: &Entries, (action, answer): &Self::Step) -> Option<Entries> {
        let mut after = state.clone();
        let expected = match action {
            Action::Register { name, entry, safe } => {
                if *safe && state.contains_key(name) {
                    Answer::Taken
                } else {
                    after.insert(name.clone(), entry.clone());
                    Answer::Done
                }
            }
            Action::SetMetadata { name, tags } => match after.get_mut(name) {
                Some(entry) => {
                    entry.tags = tags.clone();
                    Answer::Done
                }
                None => Answer::UnknownName,
            },
            Action::Lookup { name } => Answer::Entry(state.get(name).cloned()),
            Action::Remove { name } => Answer::Removed(u64::from(after.remove(name).is_some())),
            Action::RemovePrefix { prefix, .. } => {
                after.retain(|name, _| !name.starts_with(prefix.as_str()));
                if prefix.len() < self.prefix.len() {
                    // It removed names of other groups too; how many is not known here.
                    return Some(after);
                }
                Answer::Removed((state.len() - after.len()) as u64)
            }
            Action::List { prefix } => Answer::Entries(Self::with_prefix(state, prefix)),
            Action::Tagged { tag } => {
                let mut tagged = state.clone();
                tagged.retain(|_, entry| entry.tags.contains(tag));
                Answer::Entries(tagged)
            }
            Action::Other { .. } => return Some(after),
        };
        let said = match answer {
            None => return Some(after),
            // Of an answer about more names, this group's part.
            Some(Answer::Entries(entries)) => {
                Answer::Entries(Self::with_prefix(entries, self.prefix))
            }
            Some(other) => other.clone(),
        };
        (said == expected).then_some(after)
    }

    fn is_read(&self, (action, answer): &Self::Step) -> bool {
        match action {
            Action::Lookup { .. } | Action::List { .. } | Action::Tagged { .. } => true,
            Action::Register { safe, .. } => *safe && *answer == Some(Answer::Taken),
            Action::SetMetadata { .. } => *answer == Some(Answer::UnknownName),
            Action::Remove { .. } => *answer == Some(Answer::Removed(0)),
            // What it removed may all have been of other groups.
            Action::RemovePrefix { prefix, .. } => {
                prefix.len() >= self.prefix.len() && *answer == Some(Answer::Removed(0))
            }
            Action::Other { .. } => true,
        }
    }
}

fn concerns(prefix: &str, action: &Action) -> bool {
    match action {
        Action::Register { name, .. }
        | Action::SetMetadata { name, .. }
        | Action::Lookup { name }
        | Action::Remove { name } => name.starts_with(prefix),
        Action::RemovePrefix { prefix: other, .. } | Action::List { prefix: other } => {
            other.starts_with(prefix) || prefix.starts_with(other.as_str())
        }
        Action::Tagged { .. } => true,
        Action::Other { .. } => false,
    }
}

/// Judges the names that start with `prefix`, within `budget`.
pub fn check(history: &[Operation], prefix: &str, budget: &mut Budget) -> Verdict {
    let operations: Vec<&Operation> = history
        .iter()
        .filter(|operation| !operation.is_void() && concerns(prefix, &operation.action))
        .collect();
    let spans: Vec<_> = operations
        .iter()
        .map(|operation| Span {
            call: operation.call,
            end: operation.end_of_effect(),
            step: (operation.action.clone(), operation.answer().cloned()),
        })
        .collect();
    let group = Group { prefix };
    super::by_search(&group, format!("{prefix}*"), &operations, &spans, budget)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok};

    fn register(name: &str, tags: &[&str]) -> Action {
        Action::Register {
            name: name.to_owned(),
            entry: entry(name, tags),
            safe: false,
        }
    }

    fn remove_all(by_regex: bool) -> Action {
        Action::RemovePrefix {
            prefix: "g.".to_owned(),
            by_regex,
        }
    }

    fn list() -> Action {
        Action::List {
            prefix: "g.".to_owned(),
        }
    }

    fn entries(list: &[(&str, &[&str])]) -> Answer {
        let of = |&(name, tags): &(&str, &[&str])| (name.to_owned(), entry(name, tags));
        Answer::Entries(list.iter().map(of).collect())
    }

    fn judge(history: &[Operation]) -> Verdict {
        check(history, "g.", &mut Budget::default())
    }

    #[test]
    fn a_removal_that_is_seen_half_done_is_found() {
        let history = |seen: Answer| {
            [
                ok(1, 0, 1, register("g.a", &[]), Answer::Done),
                ok(1, 2, 3, register("g.b", &[]), Answer::Done),
                ok(1, 4, 20, remove_all(true), Answer::Removed(2)),
                ok(2, 5, 6, list(), seen),
            ]
        };
        assert!(judge(&history(entries(&[]))).holds());
        assert!(judge(&history(entries(&[("g.a", &[]), ("g.b", &[])]))).holds());
        assert!(!judge(&history(entries(&[("g.b", &[])]))).holds());
    }

    #[test]
    fn a_removal_that_ran_twice_is_found_by_its_count() {
        assert!(
            !judge(&[
                ok(1, 0, 1, register("g.a", &[]), Answer::Done),
                ok(1, 4, 20, remove_all(false), Answer::Removed(0)),
                ok(1, 21, 22, list(), entries(&[])),
            ])
            .holds()
        );
    }

    #[test]
    fn a_tag_query_that_is_behind_is_found() {
        let tagged = Action::Tagged {
            tag: "t".to_owned(),
        };
        let history = |seen: Answer| {
            [
                ok(1, 0, 1, register("g.a", &["t"]), Answer::Done),
                ok(1, 2, 3, register("other", &["t"]), Answer::Done),
                ok(2, 4, 5, tagged.clone(), seen),
            ]
        };
        assert!(judge(&history(entries(&[("g.a", &["t"]), ("other", &["t"])]))).holds());
        assert!(!judge(&history(entries(&[("other", &["t"])]))).holds());
    }
}
