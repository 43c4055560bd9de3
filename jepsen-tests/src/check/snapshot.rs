//! Whole lists of names whose values only grow: is each list the state at one moment?
//!
//! Each name has one writer, which writes 1, 2, 3, … (`…#17`), one after the other, and stops for good
//! after a write with an unknown outcome. So a list says how many writes of each name it saw. Pyro's
//! protocol shows no revisions, so the order of writes of different names is known only as far as real time
//! tells it. For such histories, those of an atomic snapshot object, the following holds if and only if
//! there is one order of all operations:
//!
//! 1. a list has no write that was refused, never asked for, or asked for only after the list had returned;
//! 2. a list has every write that was acknowledged before the list was asked for;
//! 3. of any two lists one has all writes of the other, the earlier one fewer where they do not overlap;
//! 4. a list that has a write has every write that had returned before that one was called.
//!
//! All of it is checked in sorted order, without a search.

use std::collections::BTreeMap;

use super::monotonic::number;
use super::{Verdict, Violation};
use crate::history::{Action, Answer, Nanos, Operation};

struct List<'a> {
    operation: &'a Operation,
    /// How many writes it saw, of each name that it has.
    seen: BTreeMap<&'a str, u64>,
    total: u64,
}

/// Judges the lists with exactly this prefix; also says how many there were.
pub fn check(history: &[Operation], prefix: &str) -> (Verdict, u64) {
    match find(history, prefix) {
        Ok(lists) => (Verdict::Holds, lists),
        Err((reason, evidence)) => (
            Verdict::Violated(Violation {
                subject: format!("{prefix}*"),
                reason,
                evidence: evidence.into_iter().cloned().collect(),
            }),
            0,
        ),
    }
}

type Found<'a> = (String, Vec<&'a Operation>);

fn find<'a>(history: &'a [Operation], prefix: &str) -> Result<u64, Found<'a>> {
    let mut writes: BTreeMap<(&str, u64), &Operation> = BTreeMap::new();
    let mut lists = Vec::new();
    for operation in history {
        match (&operation.action, operation.answer()) {
            (Action::Register { name, entry, .. }, _)
                if name.starts_with(prefix) && !operation.is_void() =>
            {
                if let Some(number) = number(&entry.uri) {
                    writes.insert((name, number), operation);
                }
            }
            (Action::List { prefix: other }, Some(Answer::Entries(entries))) if other == prefix => {
                let mut seen = BTreeMap::new();
                for (name, entry) in entries {
                    let Some(number) = number(&entry.uri) else {
                        let reason = format!("a list has {name:?} with a URI without a number");
                        return Err((reason, vec![operation]));
                    };
                    seen.insert(name.as_str(), number);
                }
                lists.push(List {
                    operation,
                    total: seen.values().sum(),
                    seen,
                });
            }
            _ => {}
        }
    }
    let mut by_end: Vec<(Nanos, &str, u64)> = writes
        .iter()
        .filter(|(_, write)| write.answer().is_some())
        .map(|(&(name, number), write)| (write.end, name, number))
        .collect();
    by_end.sort_unstable();
    for list in &lists {
        list.agrees_with(&writes, &by_end)?;
    }
    in_one_order(&mut lists)?;
    Ok(lists.len() as u64)
}

impl<'a> List<'a> {
    /// Rules 1, 2 and 4.
    fn agrees_with(
        &self,
        writes: &BTreeMap<(&str, u64), &'a Operation>,
        by_end: &[(Nanos, &str, u64)],
    ) -> Result<(), Found<'a>> {
        let mut bound = self.operation.call;
        let mut latest = self.operation;
        for (name, &number) in &self.seen {
            let Some(write) = writes.get(&(*name, number)) else {
                let reason =
                    format!("a list has number {number} of {name:?}, which was not written");
                return Err((reason, vec![self.operation]));
            };
            if write.call > self.operation.end {
                let reason =
                    format!("a list has number {number} of {name:?} before it was written");
                return Err((reason, vec![self.operation, write]));
            }
            if write.call > bound {
                (bound, latest) = (write.call, write);
            }
        }
        for &(_, name, number) in by_end.iter().take_while(|&&(end, ..)| end < bound) {
            let seen = self.seen.get(name).copied().unwrap_or(0);
            if seen >= number {
                continue;
            }
            let reason = format!(
                "a list has number {seen} of {name:?} although number {number} was acknowledged before"
            );
            let mut evidence: Vec<&Operation> =
                writes.get(&(name, number)).copied().into_iter().collect();
            if !std::ptr::eq(latest, self.operation) {
                evidence.push(latest);
            }
            evidence.push(self.operation);
            return Err((reason, evidence));
        }
        Ok(())
    }

    fn first_beyond(&self, other: &Self) -> Option<&'a str> {
        let beyond = |(name, number): (&&'a str, &u64)| {
            let seen = other.seen.get(*name).copied().unwrap_or(0);
            (*number > seen).then_some(*name)
        };
        self.seen.iter().find_map(beyond)
    }
}

/// Rule 3.
fn in_one_order<'a>(lists: &mut [List<'a>]) -> Result<(), Found<'a>> {
    lists.sort_by_key(|list| (list.total, list.operation.call));
    for pair in lists.windows(2) {
        let (less, more) = (&pair[0], &pair[1]);
        if let Some(name) = less.first_beyond(more) {
            let reason = match more.first_beyond(less) {
                Some(other) => format!(
                    "of two lists one is ahead with {name:?} and the other one with {other:?}"
                ),
                None => format!("two lists with as many writes differ in {name:?}"),
            };
            return Err((reason, vec![less.operation, more.operation]));
        }
    }
    // From the fullest down: the one that ended first of those that saw strictly more.
    let mut earliest: Option<&List<'a>> = None;
    let mut equals: Option<&List<'a>> = None;
    for list in lists.iter().rev() {
        if equals.is_some_and(|one| one.total > list.total) {
            let both = [earliest, equals.take()];
            earliest = both
                .into_iter()
                .flatten()
                .min_by_key(|one| one.operation.end);
        }
        if let Some(more) = earliest.filter(|one| one.operation.end < list.operation.call) {
            let reason = "a later list has fewer writes than an earlier one".to_owned();
            return Err((reason, vec![more.operation, list.operation]));
        }
        if equals.is_none_or(|one| list.operation.end < one.operation.end) {
            equals = Some(list);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, failed, ok, unknown};

    fn register(name: &str, number: u64) -> Action {
        Action::Register {
            name: name.to_owned(),
            entry: entry(&format!("u#{number}"), &[]),
            safe: false,
        }
    }

    fn write(call: Nanos, end: Nanos, name: &str, number: u64) -> Operation {
        ok(1, call, end, register(name, number), Answer::Done)
    }

    fn list(call: Nanos, end: Nanos, seen: &[(&str, u64)]) -> Operation {
        let of =
            |&(name, number): &(&str, u64)| (name.to_owned(), entry(&format!("u#{number}"), &[]));
        let action = Action::List {
            prefix: "r.".to_owned(),
        };
        let answer = Answer::Entries(seen.iter().map(of).collect());
        ok(9, call, end, action, answer)
    }

    fn reason(history: &[Operation]) -> String {
        match check(history, "r.").0 {
            Verdict::Violated(violation) => violation.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_of_two_writers_hold() {
        let history = [
            write(0, 5, "r.a", 1),
            write(10, 30, "r.a", 2),
            write(10, 30, "r.b", 1),
            list(15, 20, &[("r.a", 1), ("r.b", 1)]),
            list(40, 45, &[("r.a", 2), ("r.b", 1)]),
        ];
        assert_eq!(check(&history, "r."), (Verdict::Holds, 2));
    }

    #[test]
    fn old_early_refused_and_invented_values_are_found() {
        let writes = [write(0, 5, "r.a", 1), write(10, 15, "r.a", 2)];
        let with = |last: Operation| [&writes[..], &[last]].concat();
        assert!(reason(&with(list(20, 21, &[("r.a", 1)]))).contains("acknowledged before"));
        assert!(reason(&with(list(20, 21, &[]))).contains("acknowledged before"));
        assert!(reason(&with(list(6, 8, &[("r.a", 2)]))).contains("before it was written"));
        assert!(reason(&with(list(20, 21, &[("r.a", 3)]))).contains("was not written"));
        let refused = failed(1, 16, 17, register("r.a", 3));
        let seen = list(20, 21, &[("r.a", 3)]);
        assert!(reason(&[&writes[..], &[refused, seen]].concat()).contains("was not written"));
    }

    #[test]
    fn lists_that_disagree_on_the_order_are_found() {
        let writes = [write(0, 100, "r.a", 1), write(0, 100, "r.b", 1)];
        let with = |lists: &[Operation]| [&writes[..], lists].concat();
        let crossed = with(&[list(10, 20, &[("r.a", 1)]), list(10, 20, &[("r.b", 1)])]);
        assert!(reason(&crossed).contains("differ") || reason(&crossed).contains("ahead"));
        let lost = unknown(1, 0, 5, register("r.a", 1));
        let back = [lost.clone(), list(10, 20, &[("r.a", 1)]), list(30, 40, &[])];
        assert!(reason(&back).contains("fewer writes"));
        let forward = [lost, list(10, 20, &[]), list(30, 40, &[("r.a", 1)])];
        assert!(check(&forward, "r.").0.holds());
    }

    #[test]
    fn a_list_that_sees_an_effect_without_its_cause_is_found() {
        // b was written after a had returned; the list began before both.
        let history = [
            write(10, 20, "r.a", 1),
            write(30, 60, "r.b", 1),
            list(5, 50, &[("r.b", 1)]),
        ];
        assert!(reason(&history).contains("acknowledged before"));
    }
}
