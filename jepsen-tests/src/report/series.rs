//! A history over time: how much ended in each of some hundred equal parts of it, and how long that took.

use crate::campaign::availability::counts;
use crate::folder::{Line, OutcomeKind};
use crate::history::Nanos;

/// Parts at most; a page stays small however long the run was.
const PART_COUNT_MAX: u64 = 400;

/// A part is not shorter.
const PART_LEN_MIN: Nanos = 250_000_000;

/// Operations that ended within one part.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Part {
    pub(super) ok: u64,
    pub(super) failed: u64,
    pub(super) unknown: u64,
    /// Milliseconds that answered operations took: median, 99th percentile, longest. `None` when there
    /// were none.
    pub(super) latency: Option<[f64; 3]>,
}

/// A history in parts.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) part_len: Nanos,
    pub(super) parts: Vec<Part>,
}

impl Series {
    /// Only of what says how available the service was: broadcasts always take as long as is waited for
    /// answers.
    pub(super) fn of(history: &[Line], end: Nanos) -> Self {
        let end = history
            .iter()
            .map(|line| line.end_ns)
            .fold(end, Nanos::max)
            .max(1);
        let part_len = end.div_ceil(PART_COUNT_MAX).max(PART_LEN_MIN);
        let count = usize::try_from(end / part_len + 1).unwrap_or(1);
        let mut parts = vec![Part::default(); count];
        let mut latencies: Vec<Vec<Nanos>> = vec![Vec::new(); count];
        for line in history.iter().filter(|line| counts(&line.workload)) {
            let at = usize::try_from(line.end_ns / part_len).unwrap_or(usize::MAX);
            let (Some(part), Some(latencies)) = (parts.get_mut(at), latencies.get_mut(at)) else {
                continue;
            };
            match line.outcome {
                OutcomeKind::Ok => {
                    part.ok += 1;
                    latencies.push(line.end_ns.saturating_sub(line.begin_ns));
                }
                OutcomeKind::Failed => part.failed += 1,
                OutcomeKind::Unknown => part.unknown += 1,
            }
        }
        for (part, mut latencies) in parts.iter_mut().zip(latencies) {
            latencies.sort_unstable();
            part.latency = quantiles(&latencies);
        }
        Self { part_len, parts }
    }

    /// Seconds from the beginning to the end of the last part.
    pub(super) fn seconds(&self) -> f64 {
        self.part_len as f64 * self.parts.len() as f64 / 1e9
    }
}

fn quantiles(sorted: &[Nanos]) -> Option<[f64; 3]> {
    let last = sorted.len().checked_sub(1)?;
    let at = |share: f64| sorted[(last as f64 * share).round() as usize] as f64 / 1e6;
    Some([at(0.5), at(0.99), at(1.0)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Action;

    fn line(outcome: OutcomeKind, begin_ns: Nanos, end_ns: Nanos) -> Line {
        Line {
            process: 1,
            node: 1,
            workload: "w".to_owned(),
            kind: "lookup".to_owned(),
            arguments: Action::Lookup {
                name: "n".to_owned(),
            },
            outcome,
            value: None,
            reason: None,
            begin_ns,
            end_ns,
        }
    }

    #[test]
    fn every_operation_is_counted_once_where_it_ended() {
        const SECOND: Nanos = 1_000_000_000;
        let history = vec![
            line(OutcomeKind::Ok, 0, 2_000_000),
            line(OutcomeKind::Ok, 0, 4_000_000),
            line(OutcomeKind::Failed, 0, SECOND),
            line(OutcomeKind::Unknown, 0, 2 * SECOND),
        ];
        let series = Series::of(&history, 10 * SECOND);
        assert_eq!(series.part_len, 250_000_000);
        assert_eq!(series.parts.len(), 41);
        assert_eq!(series.parts[0].ok, 2);
        assert_eq!(series.parts[0].latency, Some([4.0, 4.0, 4.0]));
        assert_eq!((series.parts[4].failed, series.parts[8].unknown), (1, 1));
        let total: u64 = series
            .parts
            .iter()
            .map(|p| p.ok + p.failed + p.unknown)
            .sum();
        assert_eq!(total, 4);
    }

    #[test]
    fn an_hour_has_no_more_parts_than_a_minute_may_have() {
        let hour = 3_600_000_000_000;
        let series = Series::of(&[line(OutcomeKind::Ok, 0, hour)], 0);
        assert!(series.parts.len() <= 401);
        assert!(series.seconds() >= 3600.0);
        assert_eq!(series.parts.last().unwrap().ok, 1);
    }
}
