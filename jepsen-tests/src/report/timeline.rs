//! A short history as a picture: a lane for each process, a bar from the call to the answer.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::html::{escape, shortened};
use crate::folder::{Line, OutcomeKind};
use crate::history::{Action, Answer, Nanos};

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 110.0;
const ROW: f64 = 26.0;

/// Bars in one picture.
const LINE_COUNT_MAX: usize = 60;

/// What a line says, in a few words.
pub(super) fn words(line: &Line) -> String {
    let asked = match &line.arguments {
        Action::Register { name, entry, safe } => {
            let how = if *safe { "safe register" } else { "register" };
            format!("{how} {name} = {}", entry.uri)
        }
        Action::SetMetadata { name, tags } => format!("set_metadata {name} {tags:?}"),
        Action::Lookup { name } => format!("lookup {name}"),
        Action::Remove { name } => format!("remove {name}"),
        Action::RemovePrefix { prefix, .. } => format!("{} {prefix}", line.kind),
        Action::List { prefix } => format!("list {prefix}"),
        Action::Tagged { tag } => format!("yplookup {tag}"),
        Action::Other { kind, text } => format!("{kind} {text}"),
    };
    let answered = match (&line.outcome, &line.value) {
        (OutcomeKind::Failed, _) => "failed".to_owned(),
        (OutcomeKind::Unknown, _) => "outcome unknown".to_owned(),
        (OutcomeKind::Ok, None) => "ok".to_owned(),
        (OutcomeKind::Ok, Some(answer)) => match answer {
            Answer::Done => "done".to_owned(),
            Answer::Taken => "name taken".to_owned(),
            Answer::UnknownName => "unknown name".to_owned(),
            Answer::Removed(count) => format!("removed {count}"),
            Answer::Entry(None) => "not there".to_owned(),
            Answer::Entry(Some(entry)) => entry.uri.clone(),
            Answer::Entries(entries) => format!("{} names", entries.len()),
            Answer::Text(text) => text.clone(),
        },
    };
    format!("{asked} → {answered}")
}

/// The picture. What happens at once is spread: calls and answers stand in their order, at equal distances,
/// because most take a millisecond and some a second.
pub(super) fn picture(lines: &[Line]) -> String {
    let lines = &lines[..lines.len().min(LINE_COUNT_MAX)];
    let mut moments: Vec<Nanos> = lines
        .iter()
        .flat_map(|line| [line.begin_ns, line.end_ns])
        .collect();
    moments.sort_unstable();
    moments.dedup();
    let step = (WIDTH - LEFT - 20.0) / moments.len().max(2) as f64;
    let x = |at: Nanos| LEFT + step * (moments.partition_point(|&moment| moment < at) as f64 + 0.5);
    let mut lanes: BTreeMap<u32, usize> = BTreeMap::new();
    for line in lines {
        let next = lanes.len();
        lanes.entry(line.process).or_insert(next);
    }
    let height = ROW * lanes.len() as f64 + 10.0;
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Timeline: the operations of the shortest \
         failing history, in the order of their calls and answers\">"
    );
    for (process, lane) in &lanes {
        let y = ROW * *lane as f64 + 20.0;
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{y}\" class=\"label\">process {process}</text><line x1=\"{LEFT}\" x2=\"{WIDTH}\" \
             y1=\"{:.1}\" y2=\"{:.1}\" class=\"grid\"/>",
            LEFT - 8.0,
            y + 6.0,
            y + 6.0
        );
    }
    for (number, line) in lines.iter().enumerate() {
        let lane = lanes.get(&line.process).copied().unwrap_or(0);
        let y = ROW * lane as f64 + 5.0;
        let (from, to) = (x(line.begin_ns), x(line.end_ns));
        let class = match line.outcome {
            OutcomeKind::Ok => "ok",
            OutcomeKind::Failed => "failed",
            OutcomeKind::Unknown => "unknown",
        };
        let _ = write!(
            out,
            "<g><title>{}. {}, at node {}, {:.6} to {:.6} s</title><rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
             height=\"18\" rx=\"3\" class=\"bar {class}\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"on-bar\">{}</text></g>",
            number + 1,
            escape(&words(line)),
            line.node,
            line.begin_ns as f64 / 1e9,
            line.end_ns as f64 / 1e9,
            (to - from).max(20.0),
            from + 4.0,
            y + 13.0,
            number + 1
        );
    }
    out.push_str("</svg>\n<ol class=\"steps\">");
    for line in lines {
        let _ = write!(
            out,
            "<li>process {} at node {}: {}</li>",
            line.process,
            line.node,
            escape(&shortened(&words(line), 160))
        );
    }
    out.push_str("</ol>\n");
    out
}
