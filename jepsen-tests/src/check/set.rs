//! A set that only grows: every name is registered once, and nothing removes it.
//!
//! Whole lists of such a set are linearizable if and only if all of this holds:
//!
//! 1. no list has a name that was never asked for, or was asked for only after the list had returned;
//! 2. no list misses a name whose registration was acknowledged before the list was asked for;
//! 3. of any two lists one includes the other, the earlier one in the later one where they do not
//!    overlap in time;
//! 4. a list that has a name has every name whose registration had returned before that name's was
//!    called.
//!
//! All of it is checked in sorted order, without a search.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verdict, Violation};
use crate::history::{Action, Answer, Nanos, Operation};

struct Addition<'a> {
    operation: &'a Operation,
    call: Nanos,
    end: Option<Nanos>,
}

struct List<'a> {
    operation: &'a Operation,
    names: BTreeSet<&'a str>,
}

/// Judges the lists with exactly this prefix, and the names that have it.
pub fn check(history: &[Operation], prefix: &str) -> Verdict {
    let mut additions: BTreeMap<&str, Addition<'_>> = BTreeMap::new();
    let mut lists = Vec::new();
    for operation in history {
        match (&operation.action, operation.answer()) {
            (Action::Register { name, .. }, answer)
                if name.starts_with(prefix) && !operation.is_void() =>
            {
                additions.insert(
                    name,
                    Addition {
                        operation,
                        call: operation.call,
                        end: answer.map(|_| operation.end),
                    },
                );
            }
            (Action::List { prefix: other }, Some(Answer::Entries(entries))) if other == prefix => {
                lists.push(List {
                    operation,
                    names: entries.keys().map(String::as_str).collect(),
                });
            }
            _ => {}
        }
    }
    match find(&additions, &mut lists) {
        None => Verdict::Holds,
        Some((reason, evidence)) => Verdict::Violated(Violation {
            subject: format!("{prefix}*"),
            reason,
            evidence,
        }),
    }
}

fn find(
    additions: &BTreeMap<&str, Addition<'_>>,
    lists: &mut [List<'_>],
) -> Option<(String, Vec<Operation>)> {
    let mut by_end: Vec<(Nanos, &str)> = additions
        .iter()
        .filter_map(|(name, addition)| Some((addition.end?, *name)))
        .collect();
    by_end.sort_unstable();
    for list in lists.iter() {
        let mut last_call = 0;
        for name in &list.names {
            let Some(addition) = additions.get(name) else {
                let reason = format!("a list has {name:?}, which nobody registered");
                return Some((reason, vec![list.operation.clone()]));
            };
            if addition.call > list.operation.end {
                let reason = format!("a list has {name:?} before it was registered");
                return Some((
                    reason,
                    vec![list.operation.clone(), addition.operation.clone()],
                ));
            }
            last_call = last_call.max(addition.call);
        }
        // By 2 what had returned before the list was called; by 4 before the latest of its names was.
        let bound = last_call.max(list.operation.call);
        let due = by_end.iter().take_while(|(end, _)| *end < bound);
        for (_, name) in due {
            if !list.names.contains(name) {
                let reason = format!("a list misses {name:?}, which was acknowledged before");
                let addition = additions[name].operation.clone();
                return Some((reason, vec![addition, list.operation.clone()]));
            }
        }
    }
    lists.sort_by_key(|list| (list.names.len(), list.operation.call));
    for pair in lists.windows(2) {
        if !pair[0].names.is_subset(&pair[1].names) {
            let reason = "two lists each have a name that the other one misses".to_owned();
            return Some((
                reason,
                vec![pair[0].operation.clone(), pair[1].operation.clone()],
            ));
        }
    }
    // From the largest list down: none that is strictly larger may have ended before a smaller one began.
    let mut earliest: Option<&List<'_>> = None;
    let mut of_this_len: Option<&List<'_>> = None;
    for list in lists.iter().rev() {
        if of_this_len.is_some_and(|one| one.names.len() > list.names.len()) {
            earliest = [earliest, of_this_len.take()]
                .into_iter()
                .flatten()
                .min_by_key(|one| one.operation.end);
        }
        if let Some(larger) = earliest.filter(|one| one.operation.end < list.operation.call) {
            let reason = "a later list is smaller than an earlier one".to_owned();
            return Some((
                reason,
                vec![larger.operation.clone(), list.operation.clone()],
            ));
        }
        let earlier = of_this_len.is_none_or(|one| list.operation.end < one.operation.end);
        if earlier {
            of_this_len = Some(list);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, ok, unknown};

    fn add(client: u32, call: Nanos, end: Nanos, name: &str) -> Operation {
        ok(client, call, end, register(name), Answer::Done)
    }

    fn register(name: &str) -> Action {
        Action::Register {
            name: name.to_owned(),
            entry: entry("u", &[]),
            safe: true,
        }
    }

    fn list(call: Nanos, end: Nanos, names: &[&str]) -> Operation {
        let entries = names
            .iter()
            .map(|name| ((*name).to_owned(), entry("u", &[])))
            .collect();
        let action = Action::List {
            prefix: "s.".to_owned(),
        };
        ok(9, call, end, action, Answer::Entries(entries))
    }

    fn reason(history: &[Operation]) -> String {
        match check(history, "s.") {
            Verdict::Violated(violation) => violation.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn concurrent_additions_may_come_in_any_order_but_in_one() {
        let additions = [add(1, 0, 100, "s.a"), add(2, 0, 100, "s.b")];
        let with = |lists: &[Operation]| [&additions[..], lists].concat();
        let a_first = with(&[list(10, 20, &["s.a"]), list(30, 40, &["s.a", "s.b"])]);
        assert!(check(&a_first, "s.").holds());
        let both_first = with(&[list(10, 20, &["s.a"]), list(10, 20, &["s.b"])]);
        assert!(reason(&both_first).starts_with("two lists"));
    }

    #[test]
    fn lost_early_and_invented_names_are_found() {
        let addition = add(1, 50, 60, "s.a");
        assert!(reason(&[addition.clone(), list(70, 80, &[])]).contains("misses \"s.a\""));
        assert!(reason(&[addition.clone(), list(10, 20, &["s.a"])]).contains("before it was"));
        assert!(reason(&[addition, list(70, 80, &["s.a", "s.z"])]).contains("nobody registered"));
    }

    #[test]
    fn a_list_that_goes_back_is_found() {
        let lost = unknown(1, 0, 5, register("s.a"));
        let forward = [
            lost.clone(),
            list(10, 20, &[]),
            list(30, 40, &["s.a"]),
            list(50, 60, &["s.a"]),
        ];
        assert!(check(&forward, "s.").holds());
        let back = [lost, list(10, 20, &["s.a"]), list(30, 40, &[])];
        assert!(reason(&back).starts_with("a later list is smaller"));
    }

    #[test]
    fn the_order_of_additions_counts_although_no_list_lies_between() {
        let history = [
            add(1, 0, 10, "s.a"),
            add(2, 20, 30, "s.b"),
            list(5, 25, &["s.b"]),
        ];
        assert!(reason(&history).contains("misses \"s.a\""));
    }
}
