//! Broadcasts: who answers one can serve, give or take a few seconds, and tells its own address.
//!
//! Whether a node could serve is taken from look-ups that were tried there before and after: an answer of a
//! node at which all of them failed is wrong. Where nothing was tried on both sides, nothing is said.

use std::collections::{BTreeMap, BTreeSet};

use super::{Verdict, Violation};
use crate::history::{Action, Answer, Nanos, Operation};

/// The kind of an operation that asks by a broadcast. Its answer has a line for each node that answered:
/// its number, its address, and the URI that it gave.
pub const BROADCAST: &str = "broadcast";

/// The kind of one that lets a program look for a name server; its answer is one such line.
pub const LOCATE: &str = "locate";

/// The kind of a broadcast after everything was healed; its text is the numbers of all who must answer.
pub const LAST: &str = "last broadcast";

/// How much earlier or later a node must have answered a look-up: what it takes to notice that no leader
/// is heard any more, and a look-up's own time.
pub const SLACK: Nanos = 5_000_000_000;

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Broadcasts, and searches by programs.
    pub asked: u64,
    /// Answers to them.
    pub answers: u64,
    /// Times at which a node that was asked kept silent.
    pub silent: u64,
}

/// Judges all broadcasts; look-ups in the same history say who could serve.
pub fn check(history: &[Operation]) -> (Verdict, Found) {
    let mut probes: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        if matches!(operation.action, Action::Lookup { .. }) {
            probes.entry(operation.node).or_default().push(operation);
        }
    }
    let mut found = Found::default();
    let mut last = None;
    for operation in history {
        let (Action::Other { kind, .. }, Some(Answer::Text(text))) =
            (&operation.action, operation.answer())
        else {
            continue;
        };
        if ![BROADCAST, LOCATE, LAST].contains(&kind.as_str()) {
            continue;
        }
        found.asked += 1;
        let mut answered = BTreeSet::new();
        for line in text.lines() {
            found.answers += 1;
            let (node, reason) = match parse(line) {
                Ok(node) => (node, None),
                Err(reason) => (0, Some(reason)),
            };
            answered.insert(node);
            let of_node = probes.get(&node).map_or(&[][..], Vec::as_slice);
            let reason = reason.map(|reason| (reason, Vec::new()));
            if let Some((reason, mut evidence)) = reason.or_else(|| wrong(operation, node, of_node))
            {
                evidence.push(operation.clone());
                evidence.sort_by_key(|one| one.call);
                return (violated(node, reason, evidence), found);
            }
        }
        if kind == BROADCAST {
            let silent = probes.keys().filter(|node| !answered.contains(node));
            found.silent += silent.count() as u64;
        }
        if kind == LAST {
            last = Some((operation, answered));
        }
    }
    if let Some((operation, answered)) = last
        && let Action::Other { text, .. } = &operation.action
    {
        let expected = text.split(' ').filter_map(|word| word.parse::<u64>().ok());
        for node in expected {
            if !answered.contains(&node) {
                let reason = format!(
                    "node {node} does not answer a broadcast although everything is healed"
                );
                return (violated(node, reason, vec![operation.clone()]), found);
            }
        }
    }
    (Verdict::Holds, found)
}

/// The node of a line, if the URI in it is its own.
fn parse(line: &str) -> Result<u64, String> {
    let mut words = line.splitn(3, ' ');
    let (Some(node), Some(address), Some(uri)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("{line:?} is no answer"));
    };
    if uri != format!("PYRO:Pyro.NameServer@{address}:9090") {
        return Err(format!("{address} answers a broadcast with {uri:?}"));
    }
    node.parse()
        .map_err(|_| format!("{address} is no node's address"))
}

/// Why `node` should not have answered, with the look-ups that say so.
fn wrong(
    answered: &Operation,
    node: u64,
    probes: &[&Operation],
) -> Option<(String, Vec<Operation>)> {
    let from = answered.call.saturating_sub(SLACK);
    let to = answered.end.saturating_add(SLACK);
    let near: Vec<&&Operation> = probes
        .iter()
        .filter(|probe| probe.end >= from && probe.call <= to)
        .collect();
    let served = near.iter().any(|probe| probe.answer().is_some());
    let tried_before = near.iter().any(|probe| probe.end <= answered.call);
    let tried_after = near.iter().any(|probe| probe.call >= answered.end);
    (!served && tried_before && tried_after).then(|| {
        let reason = format!(
            "node {node} answers a broadcast, and no look-up within {} s before or after is answered there",
            SLACK / 1_000_000_000
        );
        (reason, near.into_iter().map(|probe| (*probe).clone()).collect())
    })
}

fn violated(node: u64, reason: String, evidence: Vec<Operation>) -> Verdict {
    Verdict::Violated(Violation {
        subject: format!("node {node}"),
        reason,
        evidence,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{failed, ok};

    const SECOND: Nanos = 1_000_000_000;

    fn asked(kind: &str, text: &str, at: Nanos, answer: &str) -> Operation {
        let action = Action::Other {
            kind: kind.into(),
            text: text.into(),
        };
        ok(9, at, at + 1, action, Answer::Text(answer.into()))
    }

    fn answer_of(node: u64) -> String {
        format!("{node} 198.18.1.{node} PYRO:Pyro.NameServer@198.18.1.{node}:9090")
    }

    fn probe(node: u64, at: Nanos, is_answered: bool) -> Operation {
        let action = Action::Lookup { name: "n".into() };
        let probe = if is_answered {
            ok(1, at, at + 1, action, Answer::Entry(None))
        } else {
            failed(1, at, at + 1, action)
        };
        Operation { node, ..probe }
    }

    #[test]
    fn a_node_that_cannot_serve_and_answers_is_found() {
        let at = 20 * SECOND;
        let broadcast = || {
            asked(
                BROADCAST,
                "",
                at,
                &format!("{}\n{}", answer_of(1), answer_of(2)),
            )
        };
        let around = |is_answered: [bool; 4]| {
            let times = [at - 6 * SECOND, at - SECOND, at + SECOND, at + 6 * SECOND];
            let of_two = times.into_iter().zip(is_answered);
            let of_two = of_two.map(|(at, is_answered)| probe(2, at, is_answered));
            let mut history: Vec<Operation> = of_two.collect();
            history.push(probe(1, at, true));
            history.push(broadcast());
            check(&history).0
        };
        assert!(around([true; 4]).holds());
        // It failed a moment ago, or will in a moment.
        assert!(around([true, true, false, false]).holds());
        assert!(around([false, false, true, true]).holds());
        // It served before and after, but not near.
        let Verdict::Violated(violation) = around([true, false, false, true]) else {
            panic!("not found");
        };
        assert_eq!(violation.subject, "node 2");
        assert_eq!(violation.evidence.len(), 3);
        // Nothing was tried afterwards: nobody knows.
        let history = [probe(2, at - SECOND, false), broadcast()];
        assert!(check(&history).0.holds());
    }

    #[test]
    fn a_foreign_address_and_silence_at_the_end_are_found() {
        let foreign = "2 198.18.1.2 PYRO:Pyro.NameServer@localhost:9090";
        assert!(!check(&[asked(LOCATE, "Pyro4", 0, foreign)]).0.holds());
        let last = |answer: &str| check(&[asked(LAST, "1 2", 0, answer)]);
        let both = format!("{}\n{}", answer_of(1), answer_of(2));
        let (verdict, found) = last(&both);
        assert!(verdict.holds());
        assert_eq!((found.asked, found.answers), (1, 2));
        assert!(!last(&answer_of(1)).0.holds());
    }
}
