//! A closer look: what the clients saw around the injection of each nemesis, as a mean over all the times that
//! it was in place. In a long run one fault is a hair in the charts over time; here it has its width.

use std::fmt::Write;

use super::html::escape;
use crate::campaign::availability::{Span, counts};
use crate::folder::{Line, OutcomeKind};
use crate::history::Nanos;

/// What is shown before the injection and after it, and in how long parts.
const BEFORE: Nanos = 3_000_000_000;
const AFTER: Nanos = 15_000_000_000;
const PART: Nanos = 500_000_000;

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 96.0;
const LEFT: f64 = 36.0;
const RIGHT: f64 = 6.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 18.0;

/// One picture for each nemesis that was installed, in the order of their names. What ended after `until`
/// is left out: reads at the end of a run are no usual load.
pub(super) fn looks(history: &[Line], spans: &[Span], until: Nanos) -> String {
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let ends = Ends::of(history, until);
    let looks: Vec<Look<'_>> = names
        .into_iter()
        .map(|name| Look::of(name, spans, &ends))
        .collect();
    let parts = looks.iter().flat_map(|look| &look.parts).flatten();
    let top = super::chart::round_up(parts.copied().fold(1.0, f64::max));
    let mut out = String::from("<div class=\"looks\">");
    for look in &looks {
        look.draw(top, &mut out);
    }
    out.push_str("</div>\n");
    out
}

/// When operations ended: answered, failed, unknown; each sorted.
struct Ends([Vec<Nanos>; 3]);

impl Ends {
    fn of(history: &[Line], until: Nanos) -> Self {
        let of = |outcome: OutcomeKind| {
            let counted = history
                .iter()
                .filter(|line| line.outcome == outcome && line.end_ns <= until)
                .filter(|line| counts(&line.workload));
            let mut ends: Vec<Nanos> = counted.map(|line| line.end_ns).collect();
            ends.sort_unstable();
            ends
        };
        Self([OutcomeKind::Ok, OutcomeKind::Failed, OutcomeKind::Unknown].map(of))
    }
}

struct Look<'a> {
    name: &'a str,
    /// How often it was in place.
    count: usize,
    /// The median of how long it was.
    held: Nanos,
    /// Operations a second in each part of the time: answered, failed, unknown.
    parts: Vec<[f64; 3]>,
}

impl<'a> Look<'a> {
    fn of(name: &'a str, spans: &[Span], ends: &Ends) -> Self {
        let spans: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
        let mut held: Vec<Nanos> = spans.iter().map(|span| span.to - span.from).collect();
        held.sort_unstable();
        let seconds = spans.len() as f64 * PART as f64 / 1e9;
        let parts = (0..(BEFORE + AFTER) / PART)
            .map(|part| {
                ends.0.each_ref().map(|ends| {
                    let count: usize = spans
                        .iter()
                        .map(|span| {
                            // What was before the run is empty.
                            let from = (span.from + part * PART).saturating_sub(BEFORE);
                            let to = (span.from + (part + 1) * PART).saturating_sub(BEFORE);
                            ends.partition_point(|&end| end < to)
                                - ends.partition_point(|&end| end < from)
                        })
                        .sum();
                    count as f64 / seconds
                })
            })
            .collect();
        Self {
            name,
            count: spans.len(),
            held: held.get(held.len() / 2).copied().unwrap_or(0),
            parts,
        }
    }

    fn draw(&self, top: f64, out: &mut String) {
        let whole = (BEFORE + AFTER) as f64;
        let x = |nanos: f64| LEFT + (WIDTH - LEFT - RIGHT) * (nanos / whole).clamp(0.0, 1.0);
        let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / top);
        let held = self.held as f64;
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "<figure><figcaption><b>{}</b> {}, {:.1} s</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"Operations a second around the injection of {}\"><rect x=\"{:.1}\" y=\"{TOP}\" \
             width=\"{:.1}\" height=\"{}\" class=\"shade\"/>",
            escape(self.name),
            match self.count {
                1 => "once".to_owned(),
                count => format!("{count} times"),
            },
            held / 1e9,
            escape(self.name),
            x(BEFORE as f64),
            x(BEFORE as f64 + held) - x(BEFORE as f64),
            HEIGHT - TOP - BOTTOM
        );
        for value in [0.0, top] {
            let _ = write!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{:.1}\" y2=\"{:.1}\" class=\"grid\"/><text x=\"{}\" y=\"{:.1}\" \
                 class=\"label\">{value:.0}</text>",
                WIDTH - RIGHT,
                y(value),
                y(value),
                LEFT - 5.0,
                y(value) + 4.0
            );
        }
        for seconds in [0, 5, 10] {
            let at = x(BEFORE as f64 + f64::from(seconds) * 1e9);
            let _ = write!(
                out,
                "<text x=\"{at:.1}\" y=\"{}\" class=\"tick\">{seconds} s</text>",
                HEIGHT - 4.0
            );
        }
        for (kind, class) in [(2, "unknown"), (1, "failed"), (0, "ok")] {
            if kind > 0 && self.parts.iter().all(|part| part[kind] == 0.0) {
                continue;
            }
            let mut path = String::new();
            for (number, part) in self.parts.iter().enumerate() {
                let middle = (number as f64 + 0.5) * PART as f64;
                let command = if number == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{command}{:.1} {:.1}", x(middle), y(part[kind]));
            }
            let _ = write!(out, "<path d=\"{path}\" class=\"line {class}\"/>");
        }
        out.push_str("</svg></figure>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Action;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn rates_are_means_over_all_times_that_a_nemesis_was_in_place() {
        let line = |end_ns, outcome| Line {
            process: 1,
            node: 1,
            workload: "names".into(),
            kind: "lookup".into(),
            arguments: Action::Lookup { name: "n".into() },
            outcome,
            value: None,
            reason: None,
            begin_ns: end_ns - 1,
            end_ns,
        };
        let mut history: Vec<Line> = (1..=10)
            .map(|number| line(10 * SECOND - number * 40_000_000, OutcomeKind::Ok))
            .collect();
        history.push(line(101 * SECOND, OutcomeKind::Failed));
        let span = |from| Span {
            name: "halves".into(),
            nodes: Vec::new(),
            from: from * SECOND,
            to: (from + 4) * SECOND,
        };
        let look = Look::of(
            "halves",
            &[span(10), span(100)],
            &Ends::of(&history, Nanos::MAX),
        );
        assert_eq!((look.count, look.held), (2, 4 * SECOND));
        assert_eq!(look.parts.len(), 36);
        // Ten in the half second before one of two injections.
        assert_eq!(look.parts[5], [10.0, 0.0, 0.0]);
        assert_eq!(look.parts[6 + 2], [0.0, 1.0, 0.0]);
        let total: f64 = look.parts.iter().flatten().sum();
        assert!((total - 11.0).abs() < 1e-9, "{total}");
    }
}
