//! How much of the name server was there during each fault: the share of operations that were answered, and
//! the longest time in which no client was told that a write was done. That time counts to its end, also
//! when the fault was healed before: recovery belongs to it.

use std::collections::BTreeMap;

use crate::folder::{Availability, FaultLine, FaultOutcome, FaultPhase};
use crate::history::{Nanos, Operation, Outcome};

/// The spans of time in which each installed fault was in place, by nemesis.
pub fn spans(faults: &[FaultLine]) -> BTreeMap<String, Vec<(Nanos, Nanos)>> {
    let mut spans: BTreeMap<String, Vec<(Nanos, Nanos)>> = BTreeMap::new();
    for line in faults {
        if line.phase != FaultPhase::Inject || line.outcome != FaultOutcome::Installed {
            continue;
        }
        let heals =
            |other: &&FaultLine| other.phase == FaultPhase::Heal && other.number == line.number;
        if let Some(healed) = faults.iter().find(heals) {
            let of_this = spans.entry(line.name.clone()).or_default();
            of_this.push((line.begin_ns, healed.end_ns));
        }
    }
    spans
}

/// The figures of each nemesis. `history` is that of all workloads.
pub fn figures<'a>(
    history: impl Iterator<Item = &'a Operation>,
    faults: &[FaultLine],
) -> BTreeMap<String, Availability> {
    let mut ended: Vec<(Nanos, bool, bool)> = history
        .map(|operation| {
            let is_ok = matches!(operation.outcome, Outcome::Ok(_));
            (operation.end, is_ok, is_ok && operation.action.is_write())
        })
        .collect();
    ended.sort_unstable();
    spans(faults)
        .into_iter()
        .map(|(name, spans)| {
            let mut figures = Availability::default();
            for (from, to) in spans {
                figures.faults += 1;
                let first = ended.partition_point(|&(end, ..)| end < from);
                let mut last_write = from;
                for &(end, is_ok, is_write) in ended.iter().skip(first) {
                    if end > to {
                        break;
                    }
                    figures.operations += 1;
                    figures.ok += u64::from(is_ok);
                    if is_write {
                        figures.gap(last_write, end);
                        last_write = end;
                    }
                }
                let later = ended.partition_point(|&(end, ..)| end <= to);
                let next = ended.iter().skip(later).find(|&&(_, _, is_write)| is_write);
                figures.gap(last_write, next.map_or(to, |&(end, ..)| end));
            }
            (name, figures)
        })
        .collect()
}

impl Availability {
    fn gap(&mut self, from: Nanos, to: Nanos) {
        let gap = to.saturating_sub(from) / 1_000_000;
        self.longest_gap_ms = self.longest_gap_ms.max(gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{entry, failed, ok};
    use crate::history::{Action, Answer};

    const SECOND: Nanos = 1_000_000_000;

    fn line(phase: FaultPhase, at: Nanos) -> FaultLine {
        FaultLine {
            number: 1,
            name: "kill one".into(),
            phase,
            outcome: FaultOutcome::Installed,
            what: String::new(),
            begin_ns: at,
            end_ns: at,
        }
    }

    #[test]
    fn the_share_and_the_gap_are_those_of_the_fault() {
        let write = || Action::Register {
            name: "n".into(),
            entry: entry("u", &[]),
            safe: false,
        };
        let at = |end, is_ok: bool| {
            if is_ok {
                ok(1, end - 1, end, write(), Answer::Done)
            } else {
                failed(1, end - 1, end, write())
            }
        };
        let history = [
            at(SECOND, true),
            at(11 * SECOND, true),
            at(12 * SECOND, false),
            at(14 * SECOND, true),
            at(18 * SECOND, false),
            at(20 * SECOND, true),
            at(90 * SECOND, true),
        ];
        let faults = [
            line(FaultPhase::Inject, 10 * SECOND),
            line(FaultPhase::Heal, 16 * SECOND),
        ];
        let figures = figures(history.iter(), &faults);
        let expected = Availability {
            faults: 1,
            operations: 3,
            ok: 2,
            longest_gap_ms: 6_000,
        };
        assert_eq!(figures["kill one"], expected);
    }
}
