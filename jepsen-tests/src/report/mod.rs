//! The report of a run: one HTML file without anything outside it, from the run's folder alone.
//!
//! It is of bounded size, whatever the length of the run: what is drawn over time is drawn in some hundred
//! parts, and of failing histories only the shortest that was found.

mod chart;
mod closer;
mod html;
mod series;
mod shrink;
mod timeline;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use crate::campaign::availability::{self, Timeline};
use crate::error::{Result, RigError};
use crate::folder::{
    Availability, CheckerVerdict, FaultLine, FaultOutcome, FaultPhase, Folder, Line, OutcomeKind,
    RunInfo, Valid, Verdict, count_faults,
};
use crate::history::Nanos;
use crate::workload;
use chart::Band;
use html::{Table, escape, shortened};
use series::Series;

const STYLE: &str = include_str!("style.css");

/// Letters of a text in a table.
const TEXT_LEN_MAX: usize = 400;

/// Writes the report of a run into its folder, over an earlier one.
///
/// # Errors
/// The folder's, when it cannot be read or written.
pub fn write(folder: &Folder) -> Result<()> {
    let page = page(
        &folder.run_info()?,
        &folder.history()?,
        &folder.faults()?,
        folder.verdict()?.as_ref(),
    );
    let path = folder.report_path();
    fs::write(&path, page).map_err(RigError::system(path.display().to_string()))
}

/// The report as HTML.
fn page(
    info: &RunInfo,
    history: &[Line],
    faults: &[FaultLine],
    verdict: Option<&Verdict>,
) -> String {
    let end = info.phases.iter().map(|phase| phase.end_ns).max();
    let series = Series::of(history, end.unwrap_or(info.seconds * 1_000_000_000));
    let bands = bands(faults);
    let mut out = String::with_capacity(64 << 10);
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Hearth: run {}</title>\n<style>\n{STYLE}</style></head>\
         <body><main>\n",
        info.seed
    );
    let timeline = Timeline::of(counted(history));
    let overall = timeline.overall();
    out.push_str(&headline(info, history, faults, &overall, verdict));
    out.push_str(&facts(info));
    if let Some(verdict) = verdict {
        out.push_str(&checkers(verdict));
    }
    out.push_str("<section><h2>Over time</h2>\n");
    if bands.is_empty() {
        out.push_str("<p>No fault was in place at any time.</p>");
    } else {
        out.push_str("<p>Shaded: a fault was in place. Point at one to see what it was.</p>");
    }
    out.push_str(&chart::lanes(&series, &bands));
    out.push_str(
        "<h3>Throughput of all workloads but discovery</h3><p class=\"key\"><span class=\"ok\">ok</span> <span class=\"failed\">failed</span> \
         <span class=\"unknown\">outcome unknown</span></p>\n",
    );
    out.push_str(&chart::throughput(&series, &bands));
    out.push_str(
        "<h3>Latency of what was answered</h3><p class=\"key\"><span class=\"median\">median</span> \
         <span class=\"p99\">99th percentile</span> <span class=\"longest\">longest</span></p>\n",
    );
    out.push_str(&chart::latency(&series, &bands));
    let spans = availability::spans(faults);
    if !spans.is_empty() {
        out.push_str(
            "<h3>A closer look at each nemesis</h3><p class=\"key\">Operations a second around its injection at \
             0 s, as a mean over all the times that it was installed; shaded is the median of how long it stayed. \
             <span class=\"ok\">ok</span> <span class=\"failed\">failed</span> <span class=\"unknown\">outcome \
             unknown</span></p>\n",
        );
        let healed = info.phases.first().map(|phase| phase.end_ns);
        out.push_str(&closer::looks(
            history,
            &spans,
            healed.unwrap_or(Nanos::MAX),
        ));
    }
    out.push_str("</section>\n<section><h2>Faults and availability</h2>\n");
    out.push_str(&fault_table(&timeline, faults));
    out.push_str(&node_table(history));
    out.push_str("</section>\n<section><h2>Operations</h2>\n");
    out.push_str(&operation_table(history));
    out.push_str("</section>\n</main></body></html>\n");
    out
}

fn headline(
    info: &RunInfo,
    history: &[Line],
    faults: &[FaultLine],
    overall: &Availability,
    verdict: Option<&Verdict>,
) -> String {
    let (class, text) = match verdict.map(|verdict| verdict.valid) {
        Some(Valid::True) => ("true", "Everything that was checked holds"),
        Some(Valid::False) => ("false", "Something does not hold"),
        Some(Valid::Unknown) => (
            "unknown",
            "Nothing was found wrong, and not all was decided",
        ),
        None => ("unknown", "The run has no verdict: it was ended before"),
    };
    let mut out = format!(
        "<header><p class=\"verdict {class}\">{text}</p><h1>{} nodes, {} of faults, {} operations</h1>",
        info.nodes,
        duration(info.seconds),
        grouped(history.len() as u64)
    );
    out.push_str(&tiles(history, faults, overall, verdict));
    if let Some(verdict) = verdict.filter(|verdict| !verdict.problems.is_empty()) {
        out.push_str("<ul class=\"problems\">");
        for problem in &verdict.problems {
            let _ = write!(out, "<li>{}</li>", escape(problem));
        }
        out.push_str("</ul>");
    }
    out.push_str("</header>\n");
    out
}

/// The figures that a reader looks for first.
fn tiles(
    history: &[Line],
    faults: &[FaultLine],
    overall: &Availability,
    verdict: Option<&Verdict>,
) -> String {
    let mut tiles: Vec<(String, String)> = Vec::new();
    if let Some(verdict) = verdict {
        let holds = verdict
            .checkers
            .iter()
            .filter(|one| one.valid == Valid::True);
        tiles.push((
            format!("{} of {}", holds.count(), verdict.checkers.len()),
            "checkers say that it holds".to_owned(),
        ));
    }
    let answered = history
        .iter()
        .filter(|line| line.outcome == OutcomeKind::Ok)
        .count();
    let counts = count_faults(faults);
    let installed: u64 = counts.values().map(|counts| counts.installed).sum();
    let kinds = counts
        .values()
        .filter(|counts| counts.installed > 0)
        .count();
    tiles.push((
        grouped(installed),
        format!("faults installed, of {kinds} kinds"),
    ));
    tiles.push((
        share(answered as u64, history.len() as u64),
        "of the operations answered".to_owned(),
    ));
    tiles.push((
        millis(overall.longest_gap_ms),
        "at most without an acknowledged write".to_owned(),
    ));
    let mut out = String::from("<dl class=\"tiles\">");
    for (figure, about) in tiles {
        let _ = write!(
            out,
            "<div><dd>{}</dd><dt>{}</dt></div>",
            escape(&figure),
            escape(&about)
        );
    }
    out.push_str("</dl>");
    out
}

fn facts(info: &RunInfo) -> String {
    let mut table = Table::new("The run", &["", ""], 2);
    let mut row = |name: &str, value: String| table.row(&[name.to_owned(), value]);
    row("seed", info.seed.to_string());
    row("began", utc(info.began_unix_ms));
    let phases: Vec<String> = info
        .phases
        .iter()
        .map(|phase| {
            let seconds = (phase.end_ns.saturating_sub(phase.begin_ns)) as f64 / 1e9;
            format!("{} {seconds:.1} s", phase.name)
        })
        .collect();
    row("took", phases.join(", "));
    row("program under test", info.hearthd_version.clone());
    row(
        "this program",
        format!("hearth-jepsen-tests {}", info.version),
    );
    row("network", format!("{:?}", info.network).to_lowercase());
    row("workloads", info.workloads.join(", "));
    let left_out: Vec<&str> = workload::all()
        .iter()
        .map(|one| one.name())
        .filter(|name| !info.workloads.iter().any(|chosen| chosen == name))
        .collect();
    if !left_out.is_empty() {
        row("workloads that were not run", left_out.join(", "));
    }
    let nemeses = match info.nemeses.is_empty() {
        true => "none".to_owned(),
        false => info.nemeses.join(", "),
    };
    row("nemeses", nemeses);
    row("clients of each workload", info.clients.to_string());
    let rate = info.rate.map_or_else(
        || "as many as possible".to_owned(),
        |rate| format!("{rate} a second"),
    );
    row("operations aimed at", rate);
    row("options of each node", info.node_options.join(" "));
    row(
        "to repeat its choices",
        format!("hearth-jepsen-tests {}", repeat(info)),
    );
    format!("<section>{}</section>\n", table.end())
}

/// The arguments, with the seed that was used.
fn repeat(info: &RunInfo) -> String {
    let mut words = Vec::new();
    let mut arguments = info.arguments.iter();
    while let Some(word) = arguments.next() {
        if word == "--seed" || word == "--folder" {
            arguments.next();
        } else if !word.starts_with("--seed=") && !word.starts_with("--folder=") {
            words.push(word.clone());
        }
    }
    words.extend(["--seed".to_owned(), info.seed.to_string()]);
    words.join(" ")
}

/// A number with a space between each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // A space that is not broken at.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

fn duration(seconds: u64) -> String {
    if seconds < 180 {
        format!("{seconds} s")
    } else {
        format!("{} min", (seconds + 30) / 60)
    }
}

/// `2026-01-31 23:59 UTC`; the days are counted as in the Gregorian calendar of all times.
fn utc(unix_ms: u64) -> String {
    let minutes = unix_ms / 60_000;
    let mut days = minutes / 1_440;
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for len in [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if days < len {
            break;
        }
        days -= len;
        month += 1;
    }
    format!(
        "{year}-{month:02}-{:02} {:02}:{:02} UTC",
        days + 1,
        minutes / 60 % 24,
        minutes % 60
    )
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    format!("{:.2} %", part as f64 * 100.0 / whole as f64)
}

fn checkers(verdict: &Verdict) -> String {
    let mut table = Table::new(
        "What the checkers say",
        &["holds", "checker", "workload", "what it saw"],
        4,
    );
    for checker in &verdict.checkers {
        table.row(&[
            match checker.valid {
                Valid::True => "✓ yes",
                Valid::False => "✗ no",
                Valid::Unknown => "? unknown",
            }
            .to_owned(),
            checker.name.clone(),
            checker.workload.clone().unwrap_or_default(),
            shortened(&checker.text, TEXT_LEN_MAX),
        ]);
    }
    let mut out = format!("<section><h2>Verdict</h2>\n{}", table.end());
    for checker in &verdict.checkers {
        out.push_str(&counterexample(checker));
    }
    out.push_str("</section>\n");
    out
}

fn counterexample(checker: &CheckerVerdict) -> String {
    if checker.valid != Valid::False || checker.counterexample.is_empty() {
        return String::new();
    }
    let mut lines = shrink::shortest(&checker.name, &checker.counterexample);
    lines.sort_by_key(|line| (line.begin_ns, line.end_ns));
    format!(
        "<h3>{}{}: the shortest failing history that was found</h3><p>{}</p>\n{}",
        escape(&checker.name),
        checker
            .workload
            .as_ref()
            .map_or_else(String::new, |name| format!(" ({})", escape(name))),
        escape(&shortened(&checker.text, TEXT_LEN_MAX)),
        timeline::picture(&lines)
    )
}

fn bands(faults: &[FaultLine]) -> Vec<Band> {
    let last = faults.iter().map(|line| line.end_ns).max().unwrap_or(0);
    faults
        .iter()
        .filter(|line| line.phase == FaultPhase::Inject && line.outcome != FaultOutcome::Skipped)
        .map(|line| {
            let heals =
                |other: &&FaultLine| other.phase == FaultPhase::Heal && other.number == line.number;
            Band {
                name: line.name.clone(),
                what: line.what.clone(),
                from: line.begin_ns,
                to: faults.iter().find(heals).map_or(last, |other| other.end_ns),
            }
        })
        .collect()
}

/// The operations that say how available the service was.
fn counted(history: &[Line]) -> impl Iterator<Item = &Line> {
    history
        .iter()
        .filter(|line| availability::counts(&line.workload))
}

fn millis(millis: u64) -> String {
    if millis < 1_000 {
        format!("{millis} ms")
    } else {
        format!("{:.1} s", millis as f64 / 1e3)
    }
}

fn fault_table(timeline: &Timeline, faults: &[FaultLine]) -> String {
    let available = timeline.by_nemesis(faults);
    let mut table = Table::new(
        "Each nemesis, and what was available of the service while it was in place: operations that were begun \
         then, the longest time in which no write was acknowledged and no read answered, and what was seen at \
         nodes that it did not hit",
        &[
            "nemesis",
            "installed",
            "skipped",
            "unclear",
            "operations",
            "ok",
            "failed",
            "unknown",
            "no write for",
            "no read for",
            "ok at others",
            "longest there",
        ],
        1,
    );
    for (name, counts) in count_faults(faults) {
        let mut cells = vec![
            name.clone(),
            counts.installed.to_string(),
            counts.skipped.to_string(),
            counts.indeterminate.to_string(),
        ];
        match available.get(&name) {
            Some(figures) => cells.extend(figure_cells(figures)),
            None => cells.extend(std::iter::repeat_n(String::new(), 8)),
        }
        table.row(&cells);
    }
    let overall = timeline.overall();
    let mut cells = vec!["the whole run".to_owned(), String::new(), String::new()];
    cells.push(String::new());
    cells.extend(figure_cells(&overall).into_iter().take(6));
    cells.extend([String::new(), String::new()]);
    table.row(&cells);
    let mut out = table.end();
    let reasons: Vec<String> = faults
        .iter()
        .filter_map(|line| {
            let what = match (line.phase, line.outcome) {
                (FaultPhase::Inject, FaultOutcome::Skipped) => "was skipped",
                (FaultPhase::Inject, FaultOutcome::Indeterminate) => "may have been installed",
                (FaultPhase::Heal, FaultOutcome::Indeterminate) => "may not have been healed",
                (_, FaultOutcome::Broken) => "broke a promise",
                // There is nothing to heal after some, which is no reason for anything.
                (FaultPhase::Heal, FaultOutcome::Skipped) | (_, FaultOutcome::Installed) => {
                    return None;
                }
            };
            Some(format!("{} {what}: {}", line.name, line.what))
        })
        .collect();
    let mut counted: BTreeMap<&String, usize> = BTreeMap::new();
    for reason in &reasons {
        *counted.entry(reason).or_default() += 1;
    }
    if !counted.is_empty() {
        out.push_str("<p>What did not count as installed, and why:</p><ul>");
        for (reason, count) in counted.into_iter().take(50) {
            let _ = write!(
                out,
                "<li>{count} times: {}</li>",
                escape(&shortened(reason, TEXT_LEN_MAX))
            );
        }
        out.push_str("</ul>\n");
    }
    out
}

fn figure_cells(figures: &Availability) -> [String; 8] {
    let of = |count| share(count, figures.operations);
    [
        grouped(figures.operations),
        of(figures.ok),
        of(figures.failed),
        of(figures.unknown),
        millis(figures.longest_gap_ms),
        millis(figures.longest_read_gap_ms),
        share(figures.spared_ok, figures.spared_operations),
        millis(figures.spared_longest_ms),
    ]
}

/// What clients saw at each node.
fn node_table(history: &[Line]) -> String {
    let mut nodes: BTreeMap<u64, ([u64; 3], Nanos)> = BTreeMap::new();
    for line in counted(history) {
        let (counts, longest) = nodes.entry(line.node).or_default();
        counts[match line.outcome {
            OutcomeKind::Ok => 0,
            OutcomeKind::Failed => 1,
            OutcomeKind::Unknown => 2,
        }] += 1;
        if line.outcome == OutcomeKind::Ok {
            *longest = (*longest).max(line.end_ns.saturating_sub(line.begin_ns));
        }
    }
    let mut table = Table::new(
        "What clients saw at each node",
        &[
            "node",
            "operations",
            "ok",
            "failed",
            "unknown",
            "longest answer",
        ],
        1,
    );
    for (node, (counts, longest)) in nodes {
        let all: u64 = counts.iter().sum();
        table.row(&[
            node.to_string(),
            grouped(all),
            share(counts[0], all),
            share(counts[1], all),
            share(counts[2], all),
            millis(longest / 1_000_000),
        ]);
    }
    table.end()
}

fn operation_table(history: &[Line]) -> String {
    let mut counts: BTreeMap<(&str, &str), BTreeMap<OutcomeKind, u64>> = BTreeMap::new();
    for line in history {
        let of_kind = counts.entry((&line.workload, &line.kind)).or_default();
        *of_kind.entry(line.outcome).or_default() += 1;
    }
    let mut table = Table::new(
        "Operations by workload, kind and outcome",
        &["workload", "operation", "ok", "failed", "outcome unknown"],
        2,
    );
    let mut total = BTreeMap::<OutcomeKind, u64>::new();
    let cells = |workload: &str, kind: &str, outcomes: &BTreeMap<OutcomeKind, u64>| {
        let count = |kind| outcomes.get(&kind).copied().unwrap_or(0).to_string();
        [
            workload.to_owned(),
            kind.to_owned(),
            count(OutcomeKind::Ok),
            count(OutcomeKind::Failed),
            count(OutcomeKind::Unknown),
        ]
    };
    for ((workload, kind), outcomes) in &counts {
        table.row(&cells(workload, kind, outcomes));
        for (&outcome, count) in outcomes {
            *total.entry(outcome).or_default() += count;
        }
    }
    table.row(&cells("all", "", &total));
    table.end()
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
