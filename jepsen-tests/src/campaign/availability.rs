//! How much of the name server was there during each fault, and over the whole run: the share of operations
//! that were answered, the longest time in which no client was told that a write was done or what a read
//! has found, and how long the nodes took that were not hit themselves. A time without answers counts to
//! its end, also when the fault was healed before: recovery belongs to it.

use std::collections::BTreeMap;

use crate::folder::{Availability, FaultLine, FaultOutcome, FaultPhase, Line, OutcomeKind};
use crate::history::{Nanos, Operation, Outcome};
use crate::workload::{discovery, stranger};

/// Whether the operations of a workload say how available the service is. Those of discovery do not: they
/// ask nodes that are known to be gone, again and again; and those of strangers are sums.
pub fn counts(workload: &str) -> bool {
    ![discovery::NAME, stranger::NAME, "liveness"].contains(&workload)
}

/// How long after its end a fault may explain that nothing is written: an election, and a node that starts.
const RECOVERY: Nanos = 5_000_000_000;

/// A fault that was in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The nemesis.
    pub name: String,
    /// Nodes that it was done to.
    pub nodes: Vec<u64>,
    /// Before it was injected.
    pub from: Nanos,
    /// After it was healed.
    pub to: Nanos,
}

/// All faults that were installed and healed.
pub fn spans(faults: &[FaultLine]) -> Vec<Span> {
    let healed: BTreeMap<u64, Nanos> = faults
        .iter()
        .filter(|line| line.phase == FaultPhase::Heal)
        .map(|line| (line.number, line.end_ns))
        .collect();
    faults
        .iter()
        .filter(|line| line.phase == FaultPhase::Inject)
        .filter(|line| matches!(line.outcome, FaultOutcome::Installed | FaultOutcome::Broken))
        .filter_map(|line| {
            Some(Span {
                name: line.name.clone(),
                nodes: line.nodes.clone(),
                from: line.begin_ns,
                to: *healed.get(&line.number)?,
            })
        })
        .collect()
}

/// What counts of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    call: Nanos,
    end: Nanos,
    node: u64,
    is_write: bool,
    outcome: OutcomeKind,
}

impl From<&Operation> for Seen {
    fn from(operation: &Operation) -> Self {
        Self {
            call: operation.call,
            end: operation.end,
            node: operation.node,
            is_write: operation.action.is_write(),
            outcome: match operation.outcome {
                Outcome::Ok(_) => OutcomeKind::Ok,
                Outcome::Failed(_) => OutcomeKind::Failed,
                Outcome::Unknown(_) => OutcomeKind::Unknown,
            },
        }
    }
}

impl From<&Line> for Seen {
    fn from(line: &Line) -> Self {
        Self {
            call: line.begin_ns,
            end: line.end_ns,
            node: line.node,
            is_write: line.arguments.is_write(),
            outcome: line.outcome,
        }
    }
}

/// A history in the order of its calls.
#[derive(Debug)]
pub struct Timeline {
    calls: Vec<Seen>,
    /// When writes were acknowledged.
    writes: Vec<Nanos>,
    /// When reads were answered.
    reads: Vec<Nanos>,
}

impl Timeline {
    /// The history of all workloads that count.
    pub fn of(history: impl Iterator<Item = impl Into<Seen>>) -> Self {
        let mut calls: Vec<Seen> = history.map(Into::into).collect();
        calls.sort_by_key(|seen| seen.call);
        let ends = |is_write: bool| {
            let answered = calls
                .iter()
                .filter(|seen| seen.outcome == OutcomeKind::Ok && seen.is_write == is_write);
            let mut ends: Vec<Nanos> = answered.map(|seen| seen.end).collect();
            ends.sort_unstable();
            ends
        };
        Self {
            writes: ends(true),
            reads: ends(false),
            calls,
        }
    }

    /// The figures of the whole run, as far as writes were tried: the reads at its end are no load.
    pub fn overall(&self) -> Availability {
        let mut figures = Availability::default();
        let last_write = self.calls.iter().rfind(|seen| seen.is_write);
        let last = last_write.or(self.calls.last());
        if let (Some(first), Some(last)) = (self.calls.first(), last) {
            self.add(&mut figures, first.call, last.call, &[]);
        }
        figures
    }

    /// The longest time without an acknowledged write that met no fault, in milliseconds: neither one that was
    /// in place nor one that had been healed less than `RECOVERY` before.
    pub fn calm_gap(&self, faults: &[FaultLine]) -> u64 {
        let spans = spans(faults);
        let is_calm = |&(begin, end): &(Nanos, Nanos)| {
            let meets = |span: &Span| span.from <= end && span.to + RECOVERY >= begin;
            !spans.iter().any(meets)
        };
        let gaps = self.writes.iter().zip(self.writes.iter().skip(1));
        let gaps = gaps.map(|(&begin, &end)| (begin, end));
        let longest = gaps.filter(is_calm).map(|(begin, end)| end - begin).max();
        millis(longest.unwrap_or(0))
    }

    /// The figures of each nemesis that was installed.
    pub fn by_nemesis(&self, faults: &[FaultLine]) -> BTreeMap<String, Availability> {
        let mut figures: BTreeMap<String, Availability> = BTreeMap::new();
        for span in spans(faults) {
            let of_this = figures.entry(span.name).or_default();
            of_this.faults += 1;
            self.add(of_this, span.from, span.to, &span.nodes);
        }
        figures
    }

    fn add(&self, figures: &mut Availability, from: Nanos, to: Nanos, hit: &[u64]) {
        let first = self.calls.partition_point(|one| one.call < from);
        let begun = self.calls.iter().skip(first);
        for operation in begun.take_while(|operation| operation.call <= to) {
            figures.operations += 1;
            match operation.outcome {
                OutcomeKind::Ok => figures.ok += 1,
                OutcomeKind::Failed => figures.failed += 1,
                OutcomeKind::Unknown => figures.unknown += 1,
            }
            if !hit.contains(&operation.node) {
                figures.spared_operations += 1;
                figures.spared_ok += u64::from(operation.outcome == OutcomeKind::Ok);
                let took = millis(operation.end.saturating_sub(operation.call));
                figures.spared_longest_ms = figures.spared_longest_ms.max(took);
            }
        }
        let gap = longest_gap(&self.writes, from, to);
        figures.longest_gap_ms = figures.longest_gap_ms.max(gap);
        let gap = longest_gap(&self.reads, from, to);
        figures.longest_read_gap_ms = figures.longest_read_gap_ms.max(gap);
    }
}

/// The longest time between two of the sorted `ends` that began between `from` and `to`, in milliseconds.
fn longest_gap(ends: &[Nanos], from: Nanos, to: Nanos) -> u64 {
    let first = ends.partition_point(|&end| end < from);
    let mut last = from;
    let mut longest = 0;
    for &end in ends.iter().skip(first) {
        longest = longest.max(end - last);
        last = end;
        if end > to {
            break;
        }
    }
    // Nothing was answered any more.
    millis(longest.max(to.saturating_sub(last)))
}

fn millis(nanos: Nanos) -> u64 {
    nanos / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, failed, ok, unknown};
    use crate::history::{Action, Answer};

    const SECOND: Nanos = 1_000_000_000;

    fn line(phase: FaultPhase, at: Nanos) -> FaultLine {
        FaultLine {
            number: 1,
            name: "kill one".into(),
            phase,
            outcome: FaultOutcome::Installed,
            what: String::new(),
            nodes: vec![7],
            begin_ns: at,
            end_ns: at,
        }
    }

    #[test]
    fn the_shares_and_the_gaps_are_those_of_the_fault() {
        let write = || Action::Register {
            name: "n".into(),
            entry: entry("u", &[]),
            safe: false,
        };
        let read = || Action::Lookup { name: "n".into() };
        let at = |end| ok(1, end - 1, end, write(), Answer::Done);
        let history = [
            at(SECOND),
            at(11 * SECOND),
            failed(1, 12 * SECOND, 12 * SECOND, write()),
            at(14 * SECOND),
            // Begun in the fault, and given up after it.
            Operation {
                node: 7,
                ..unknown(2, 15 * SECOND, 25 * SECOND, write())
            },
            Operation {
                node: 3,
                ..ok(3, 15 * SECOND, 17 * SECOND, read(), Answer::Entry(None))
            },
            failed(1, 18 * SECOND, 18 * SECOND, write()),
            at(20 * SECOND),
            at(90 * SECOND),
        ];
        let faults = [
            line(FaultPhase::Inject, 10 * SECOND),
            line(FaultPhase::Heal, 16 * SECOND),
        ];
        let timeline = Timeline::of(history.iter());
        let expected = Availability {
            faults: 1,
            operations: 5,
            ok: 3,
            failed: 1,
            unknown: 1,
            longest_gap_ms: 6_000,
            longest_read_gap_ms: 7_000,
            spared_operations: 4,
            spared_ok: 3,
            spared_longest_ms: 2_000,
        };
        assert_eq!(timeline.by_nemesis(&faults)["kill one"], expected);
        let overall = timeline.overall();
        assert_eq!((overall.operations, overall.ok), (9, 6));
        assert_eq!(overall.longest_gap_ms, 70_000);
        assert_eq!(overall.longest_read_gap_ms, 72_999);
        // What begins at 20 s meets a fault that ended less than five before.
        assert_eq!(timeline.calm_gap(&faults), 0);
        assert_eq!(timeline.calm_gap(&[]), 70_000);
        // One that was never healed has no end.
        assert!(timeline.by_nemesis(&faults[..1]).is_empty());
    }

    #[test]
    fn a_service_that_never_comes_back_has_a_gap_to_the_end() {
        assert_eq!(longest_gap(&[SECOND], 0, 10 * SECOND), 9_000);
        assert_eq!(longest_gap(&[], 0, 10 * SECOND), 10_000);
        assert_eq!(longest_gap(&[15 * SECOND], 0, 10 * SECOND), 15_000);
    }
}
