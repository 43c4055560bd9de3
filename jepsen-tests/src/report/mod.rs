//! The report of a run: one HTML file without anything outside it, from the run's folder alone.
//!
//! It is of bounded size, whatever the length of the run: what is drawn over time is drawn in some hundred
//! parts, and of failing histories only the shortest that was found.

mod chart;
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
    CheckerVerdict, FaultLine, FaultOutcome, FaultPhase, Folder, Line, OutcomeKind, RunInfo, Valid,
    Verdict, count_faults,
};
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
    out.push_str(&headline(info, history, verdict));
    out.push_str(&facts(info, history));
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
        "<h3>Throughput</h3><p class=\"key\"><span class=\"ok\">ok</span> <span class=\"failed\">failed</span> \
         <span class=\"unknown\">outcome unknown</span></p>\n",
    );
    out.push_str(&chart::throughput(&series, &bands));
    out.push_str(
        "<h3>Latency of what was answered</h3><p class=\"key\"><span class=\"median\">median</span> \
         <span class=\"p99\">99th percentile</span> <span class=\"longest\">longest</span></p>\n",
    );
    out.push_str(&chart::latency(&series, &bands));
    out.push_str("</section>\n<section><h2>Faults</h2>\n");
    out.push_str(&fault_table(history, faults));
    out.push_str("</section>\n<section><h2>Operations</h2>\n");
    out.push_str(&operation_table(history));
    out.push_str("</section>\n</main></body></html>\n");
    out
}

fn headline(info: &RunInfo, history: &[Line], verdict: Option<&Verdict>) -> String {
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
        "<header><p class=\"verdict {class}\">{text}</p><h1>{} nodes, {} s of faults, {} operations</h1>",
        info.nodes,
        info.seconds,
        history.len()
    );
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

fn facts(info: &RunInfo, history: &[Line]) -> String {
    let mut table = Table::new("The run", &["", ""], 2);
    let mut row = |name: &str, value: String| table.row(&[name.to_owned(), value]);
    row("seed", info.seed.to_string());
    row("program under test", info.hearthd_version.clone());
    row("network", format!("{:?}", info.network).to_lowercase());
    row("workloads", info.workloads.join(", "));
    row("nemeses", info.nemeses.join(", "));
    row("clients of each workload", info.clients.to_string());
    let rate = info.rate.map_or_else(
        || "as many as possible".to_owned(),
        |rate| format!("{rate} a second"),
    );
    row("operations aimed at", rate);
    let ok = history
        .iter()
        .filter(|line| line.outcome == OutcomeKind::Ok)
        .count();
    row("answered", share(ok as u64, history.len() as u64));
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

fn fault_table(history: &[Line], faults: &[FaultLine]) -> String {
    let operations: Vec<_> = history
        .iter()
        .filter(|line| availability::counts(&line.workload))
        .cloned()
        .map(Line::into_operation)
        .collect();
    let available = Timeline::of(operations.iter()).by_nemesis(faults);
    let mut table = Table::new(
        "Each nemesis, and what was available while it was in place",
        &[
            "nemesis",
            "installed",
            "skipped",
            "indeterminate",
            "operations",
            "answered",
            "longest time without a write",
        ],
        1,
    );
    for (name, counts) in count_faults(faults) {
        let figures = available.get(&name);
        table.row(&[
            name,
            counts.installed.to_string(),
            counts.skipped.to_string(),
            counts.indeterminate.to_string(),
            figures.map_or_else(String::new, |figures| figures.operations.to_string()),
            figures.map_or_else(String::new, |figures| share(figures.ok, figures.operations)),
            figures.map_or_else(String::new, |figures| {
                format!("{:.1} s", figures.longest_gap_ms as f64 / 1e3)
            }),
        ]);
    }
    let mut out = table.end();
    let reasons: Vec<String> = faults
        .iter()
        .filter(|line| line.outcome != FaultOutcome::Installed)
        .map(|line| format!("{} was {:?}: {}", line.name, line.outcome, line.what))
        .map(|text| {
            text.replace("Skipped", "skipped")
                .replace("Indeterminate", "indeterminate")
        })
        .collect();
    let mut counted: BTreeMap<&String, usize> = BTreeMap::new();
    for reason in &reasons {
        *counted.entry(reason).or_default() += 1;
    }
    if !counted.is_empty() {
        out.push_str("<p>Why not installed:</p><ul>");
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
