//! Stale reads: on one node they may be old, but never go back.
//!
//! The names that are judged have one writer each, whose URIs have a number that grows with each write, at
//! the end of the object's name or of the whole (`PYRO:o#17@h:1`, `…#17`). A reader that has seen a number at a node must not see a lower one there later; and
//! nobody may see a number that was not asked for yet, or was refused.

use std::collections::BTreeMap;

use super::{Verdict, Violation};
use crate::history::{Action, Answer, Nanos, Operation};

/// The number in a URI.
pub fn number(uri: &str) -> Option<u64> {
    let (_, number) = uri.rsplit_once('#')?;
    let end = number.find('@').unwrap_or(number.len());
    number[..end].parse().ok()
}

/// Judges the look-ups of all names with `prefix`.
pub fn check(history: &[Operation], prefix: &str) -> Verdict {
    let mut called: BTreeMap<(&str, u64), &Operation> = BTreeMap::new();
    let mut reads: BTreeMap<(u64, &str), Vec<(&Operation, u64)>> = BTreeMap::new();
    for operation in history {
        match (&operation.action, operation.answer()) {
            (Action::Register { name, entry, .. }, _) if name.starts_with(prefix) => {
                if let (Some(number), false) = (number(&entry.uri), operation.is_void()) {
                    called.insert((name, number), operation);
                }
            }
            (Action::Lookup { name }, Some(Answer::Entry(entry))) if name.starts_with(prefix) => {
                let seen = entry.as_ref().map_or(Some(0), |entry| number(&entry.uri));
                let Some(seen) = seen else {
                    return violated(name, "a URI without a number".to_owned(), &[operation]);
                };
                let here = reads.entry((operation.node, name)).or_default();
                here.push((operation, seen));
            }
            _ => {}
        }
    }
    for ((node, name), mut reads) in reads {
        for &(operation, seen) in &reads {
            if seen == 0 {
                continue;
            }
            match called.get(&(name, seen)) {
                None => {
                    let reason = format!("{seen} was never written, or was refused");
                    return violated(name, reason, &[operation]);
                }
                Some(write) if write.call > operation.end => {
                    let reason = format!("{seen} was read before it was written");
                    return violated(name, reason, &[operation, write]);
                }
                Some(_) => {}
            }
        }
        if let Some((earlier, later)) = goes_back(&mut reads) {
            let reason = format!("reads at node {node} go back");
            return violated(name, reason, &[earlier, later]);
        }
    }
    Verdict::Holds
}

/// A read that ended before a later one with a lower number began.
fn goes_back<'a>(reads: &mut [(&'a Operation, u64)]) -> Option<(&'a Operation, &'a Operation)> {
    let mut by_end: Vec<(Nanos, u64, &Operation)> = reads
        .iter()
        .map(|&(operation, seen)| (operation.end, seen, operation))
        .collect();
    by_end.sort_by_key(|&(end, ..)| end);
    reads.sort_by_key(|(operation, _)| operation.call);
    let mut ended = by_end.into_iter().peekable();
    let mut highest: Option<(u64, &Operation)> = None;
    for &(operation, seen) in reads.iter() {
        while let Some((_, number, one)) = ended.next_if(|&(end, ..)| end < operation.call) {
            if highest.is_none_or(|(highest, _)| number > highest) {
                highest = Some((number, one));
            }
        }
        if let Some((_, earlier)) = highest.filter(|&(highest, _)| highest > seen) {
            return Some((earlier, operation));
        }
    }
    None
}

fn violated(name: &str, reason: String, evidence: &[&Operation]) -> Verdict {
    Verdict::Violated(Violation {
        subject: name.to_owned(),
        reason,
        evidence: evidence.iter().map(|&one| one.clone()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, failed, ok};

    fn write(number: u64) -> Action {
        Action::Register {
            name: "m.a".to_owned(),
            entry: entry(&format!("u#{number}"), &[]),
            safe: false,
        }
    }

    fn read(node: u64, call: Nanos, end: Nanos, number: u64) -> Operation {
        let seen = (number > 0).then(|| entry(&format!("u#{number}"), &[]));
        let action = Action::Lookup {
            name: "m.a".to_owned(),
        };
        let mut operation = ok(7, call, end, action, Answer::Entry(seen));
        operation.node = node;
        operation
    }

    fn history(reads: &[Operation]) -> Vec<Operation> {
        let mut history = vec![
            ok(1, 0, 5, write(1), Answer::Done),
            ok(1, 10, 15, write(2), Answer::Done),
            failed(1, 20, 25, write(3)),
        ];
        history.extend_from_slice(reads);
        history
    }

    #[test]
    fn the_number_is_that_of_the_object() {
        assert_eq!(number("PYRO:o#17@h:1"), Some(17));
        assert_eq!(number("u#17"), Some(17));
        assert_eq!(number("PYRO:o@h:17"), None);
    }

    #[test]
    fn old_is_fine_and_back_is_not() {
        let old = history(&[read(1, 30, 31, 2), read(2, 40, 41, 0), read(2, 50, 51, 1)]);
        assert!(check(&old, "m.").holds());
        let back = history(&[read(2, 30, 31, 2), read(2, 40, 41, 1)]);
        assert!(!check(&back, "m.").holds());
    }

    #[test]
    fn overlapping_reads_may_come_in_any_order() {
        let overlap = history(&[read(2, 30, 50, 2), read(2, 40, 45, 1)]);
        assert!(check(&overlap, "m.").holds());
    }

    #[test]
    fn what_was_refused_or_is_yet_to_come_must_not_be_seen() {
        assert!(!check(&history(&[read(1, 30, 31, 3)]), "m.").holds());
        assert!(!check(&history(&[read(1, 6, 8, 2)]), "m.").holds());
    }
}
