//! A short history as a picture: a lane for each process, a bar from the call to the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::html::{escape, shortened};
use crate::folder::{Line, OutcomeKind};
use crate::history::{Action, Answer, Nanos};

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 110.0;
const ROW: f64 = 26.0;

/// Bars in one picture.
const LINE_COUNT_MAX: usize = 60;

/// Names that are told of a whole list.
const NAMES_IN_LIST_MAX: usize = 4;

/// The width of a letter on a bar, for what fits.
const LETTER: f64 = 7.4;

/// What a line says, in a few words. Of a whole list only what it says of `names` is told.
pub(super) fn words(line: &Line, names: &BTreeSet<&str>) -> String {
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
            Answer::Entries(entries) => {
                let mut text = format!("{} names", entries.len());
                for name in names.iter().take(NAMES_IN_LIST_MAX) {
                    let _ = match entries.get(*name) {
                        Some(entry) => write!(text, ", {name} = {}", entry.uri),
                        None => write!(text, ", no {name}"),
                    };
                }
                text
            }
            Answer::Text(text) => text.clone(),
        },
    };
    format!("{asked} → {answered}")
}

/// The names that single operations of a history are about.
fn names(lines: &[Line]) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for line in lines {
        match &line.arguments {
            Action::Register { name, .. }
            | Action::SetMetadata { name, .. }
            | Action::Lookup { name }
            | Action::Remove { name } => names.insert(name.as_str()),
            _ => false,
        };
    }
    names
}

/// The picture. What happens at once is spread: calls and answers stand in their order, at equal distances,
/// because most take a millisecond and some a second.
pub(super) fn picture(lines: &[Line]) -> String {
    let left_out = lines.len().saturating_sub(LINE_COUNT_MAX);
    let lines = &lines[left_out..];
    let names = names(lines);
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
        "<p class=\"key\">A bar is an operation, from the call to the answer; <span class=\"ok\">answered</span> \
         <span class=\"failed\">failed</span> <span class=\"unknown\">outcome unknown</span> The distances are not to \
         scale, the order is.</p><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Timeline: the operations of the shortest \
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
        let width = (to - from).max(20.0);
        let told = words(line, &names);
        let label = format!("{} {told}", number + 1);
        let label = if label.chars().count() as f64 * LETTER < width - 8.0 {
            label
        } else {
            (number + 1).to_string()
        };
        let _ = write!(
            out,
            "<g><title>{}. {}, at node {}, {:.6} to {:.6} s</title><rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
             height=\"18\" rx=\"3\" class=\"bar {class}\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"on-bar\">{}</text></g>",
            number + 1,
            escape(&told),
            line.node,
            line.begin_ns as f64 / 1e9,
            line.end_ns as f64 / 1e9,
            width,
            from + 5.0,
            y + 13.0,
            escape(&label)
        );
    }
    out.push_str("</svg>\n<ol class=\"steps\">");
    for line in lines {
        let _ = write!(
            out,
            "<li>{} to {} s, process {} at node {}: {}</li>",
            seconds(line.begin_ns),
            seconds(line.end_ns),
            line.process,
            line.node,
            escape(&shortened(&words(line, &names), 300))
        );
    }
    out.push_str("</ol>\n");
    if left_out > 0 {
        let _ = write!(
            out,
            "<p>The first {left_out} operations of this history are not drawn; verdict.json has them.</p>"
        );
    }
    out
}

fn seconds(nanos: Nanos) -> String {
    format!("{:.4}", nanos as f64 / 1e9)
}
