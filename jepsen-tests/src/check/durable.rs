//! Durability: what was acknowledged is there at the end, at every node.
//!
//! Each name is judged by the changes that may have been its last one: the acknowledged ones that no other
//! acknowledged one followed, and all with an unknown outcome. Where all of them leave an entry, each list
//! that was asked for after the last change must have it, with one of their URIs; where all of them leave
//! none, no such list may have it. That is less than linearizability, which [`super::name`] and
//! [`super::group`] judge, and needs no search; it also counts what it has found again.

use std::collections::BTreeMap;

use super::{Verdict, Violation};
use crate::history::{Action, Answer, Nanos, Operation, Outcome};

/// What was judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries that had to be in a list, and were.
    pub present: u64,
    /// Names that had to be in no list, and were not.
    pub absent: u64,
    /// Names of which nothing can be said.
    pub open: u64,
    /// Lists that were asked for after the last change.
    pub lists: u64,
}

/// What a change leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect<'a> {
    /// An entry with this URI.
    Entry(&'a str),
    /// The entry that was there, with other tags.
    Same,
    /// None.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Change<'a> {
    operation: &'a Operation,
    effect: Effect<'a>,
    is_known: bool,
}

/// Judges all names that are in one family: `operations` must be all that concerned any of them.
pub fn check(operations: &[Operation]) -> (Verdict, Found) {
    let mut found = Found::default();
    let last_change = operations
        .iter()
        .filter(|one| !one.is_void() && one.action.is_write())
        .map(|one| one.end)
        .max();
    let lists: Vec<&Operation> = operations
        .iter()
        .filter(|one| matches!(one.action, Action::List { .. }) && one.answer().is_some())
        .filter(|one| last_change.is_none_or(|end| one.call > end))
        .collect();
    found.lists = lists.len() as u64;
    if lists.is_empty() {
        return (Verdict::Holds, found);
    }
    for (name, changes) in changes(operations) {
        let last = last_of(&changes);
        let leaving = last.iter().filter(|one| one.effect != Effect::Nothing);
        let leaving = leaving.count();
        // Where nothing is known to have happened, it may still be as it was before: not there.
        let is_certain = changes.iter().any(|one| one.is_known);
        let (all, none) = (is_certain && leaving == last.len(), leaving == 0);
        if !all && !none {
            found.open += 1;
            continue;
        }
        for list in &lists {
            let Some(entry) = entry_in(list, name) else {
                continue;
            };
            let reason = match entry {
                Some(uri) if all && is_one_of(uri, &last) => {
                    found.present += 1;
                    continue;
                }
                None if none => {
                    found.absent += 1;
                    continue;
                }
                None => format!("{name:?} was acknowledged and is not in the last list"),
                Some(uri) if all => format!("{name:?} is {uri:?} in the last list, which is older"),
                Some(_) => format!("{name:?} was removed and is in the last list"),
            };
            let mut evidence: Vec<Operation> =
                last.iter().map(|one| one.operation.clone()).collect();
            evidence.push((*list).clone());
            evidence.sort_by_key(|operation| operation.call);
            return (
                Verdict::Violated(Violation {
                    subject: format!("node {}", list.node),
                    reason,
                    evidence,
                }),
                found,
            );
        }
    }
    (Verdict::Holds, found)
}

/// All changes, by name; one of several names counts for each of them.
fn changes(operations: &[Operation]) -> BTreeMap<&str, Vec<Change<'_>>> {
    let mut changes: BTreeMap<&str, Vec<Change<'_>>> = BTreeMap::new();
    let mut removals = Vec::new();
    for operation in operations.iter().filter(|one| !one.is_void()) {
        let is_known = !matches!(operation.outcome, Outcome::Unknown(_));
        let change = |effect| Change {
            operation,
            effect,
            is_known,
        };
        let did_it = !is_known || operation.answer() == Some(&Answer::Done);
        match &operation.action {
            Action::Register { name, entry, .. } if did_it => {
                let of_name = changes.entry(name).or_default();
                of_name.push(change(Effect::Entry(&entry.uri)));
            }
            Action::SetMetadata { name, .. } if did_it => {
                let of_name = changes.entry(name).or_default();
                of_name.push(change(Effect::Same));
            }
            Action::Remove { name } => {
                let of_name = changes.entry(name).or_default();
                of_name.push(change(Effect::Nothing));
            }
            Action::RemovePrefix { prefix, .. } => removals.push((prefix, change(Effect::Nothing))),
            _ => {}
        }
    }
    for (name, of_name) in &mut changes {
        let concern = removals
            .iter()
            .filter(|(prefix, _)| name.starts_with(prefix.as_str()));
        of_name.extend(concern.map(|(_, change)| *change));
    }
    changes
}

/// Those that may have been the last one to take effect.
fn last_of<'a>(changes: &[Change<'a>]) -> Vec<Change<'a>> {
    let known = changes.iter().filter(|one| one.is_known);
    let latest_call: Nanos = known.map(|one| one.operation.call).max().unwrap_or(0);
    let may_be_last = |one: &&Change<'a>| !one.is_known || one.operation.end >= latest_call;
    let mut last: Vec<Change<'a>> = changes.iter().filter(may_be_last).copied().collect();
    // New tags on nothing leave nothing; so where only tags may have come last, who made the entry counts.
    if last.iter().any(|one| one.effect == Effect::Same) {
        last = changes.to_vec();
    }
    last
}

/// What a list says about a name: its URI, if it is there; none when it was not asked for.
fn entry_in<'a>(list: &'a Operation, name: &str) -> Option<Option<&'a str>> {
    let (Action::List { prefix }, Some(Answer::Entries(entries))) = (&list.action, list.answer())
    else {
        return None;
    };
    name.starts_with(prefix.as_str())
        .then(|| entries.get(name).map(|entry| entry.uri.as_str()))
}

fn is_one_of(uri: &str, last: &[Change<'_>]) -> bool {
    last.iter().any(|one| one.effect == Effect::Entry(uri))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, failed, ok, unknown};

    fn register(uri: &str) -> Action {
        Action::Register {
            name: "d.a".into(),
            entry: entry(uri, &[]),
            safe: false,
        }
    }

    fn remove() -> Action {
        Action::RemovePrefix {
            prefix: "d.".into(),
            by_regex: false,
        }
    }

    fn list(uri: Option<&str>) -> Operation {
        let entries = uri.map(|uri| ("d.a".to_owned(), entry(uri, &[])));
        let action = Action::List {
            prefix: "d.".into(),
        };
        ok(
            9,
            100,
            101,
            action,
            Answer::Entries(entries.into_iter().collect()),
        )
    }

    fn judge(changes: &[Operation], uri: Option<&str>) -> (bool, Found) {
        let (verdict, found) = check(&[changes, &[list(uri)]].concat());
        (verdict.holds(), found)
    }

    #[test]
    fn what_was_acknowledged_must_be_there_as_it_was_last() {
        let changes = [
            ok(1, 0, 1, register("a"), Answer::Done),
            ok(1, 2, 3, register("b"), Answer::Done),
            failed(1, 4, 5, remove()),
        ];
        let (holds, found) = judge(&changes, Some("b"));
        assert!(holds && found.present == 1 && found.open == 0, "{found:?}");
        assert!(!judge(&changes, Some("a")).0);
        assert!(!judge(&changes, None).0);
    }

    #[test]
    fn what_was_removed_must_not_come_back() {
        let changes = [
            ok(1, 0, 1, register("a"), Answer::Done),
            ok(1, 2, 3, remove(), Answer::Removed(1)),
        ];
        let (holds, found) = judge(&changes, None);
        assert!(holds && found.absent == 1, "{found:?}");
        assert!(!judge(&changes, Some("a")).0);
    }

    #[test]
    fn what_may_have_happened_leaves_it_open() {
        let lost = [
            ok(1, 0, 1, register("a"), Answer::Done),
            unknown(2, 0, 1, remove()),
        ];
        for uri in [Some("a"), None] {
            let (holds, found) = judge(&lost, uri);
            assert!(holds && found.open == 1, "{found:?}");
        }
        for uri in [Some("a"), None] {
            assert!(judge(&[unknown(1, 0, 1, register("a"))], uri).0);
        }
        let overlapping = [
            ok(1, 0, 9, register("a"), Answer::Done),
            ok(2, 5, 20, register("b"), Answer::Done),
        ];
        for uri in ["a", "b"] {
            assert!(judge(&overlapping, Some(uri)).0);
        }
        assert!(!judge(&overlapping, None).0);
        assert!(!judge(&overlapping, Some("c")).0);
    }

    #[test]
    fn new_tags_keep_the_entry() {
        let tags = Action::SetMetadata {
            name: "d.a".into(),
            tags: Default::default(),
        };
        let changes = [
            ok(1, 0, 1, register("a"), Answer::Done),
            ok(1, 2, 3, tags, Answer::Done),
        ];
        assert!(judge(&changes, Some("a")).0);
        assert!(!judge(&changes, None).0);
    }
}
