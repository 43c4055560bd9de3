use super::*;
use crate::folder::{FORMAT, Network, Phase};
use crate::history::{Action, Answer, Entry, Nanos};

const SECOND: Nanos = 1_000_000_000;

fn info() -> RunInfo {
    RunInfo {
        format: FORMAT,
        seed: 4711,
        version: "0.1.0".to_owned(),
        hearthd: "hearthd".into(),
        hearthd_version: "hearthd 0.1.0".to_owned(),
        arguments: ["run", "--seed", "1", "--seconds", "60", "--folder=x"]
            .map(str::to_owned)
            .to_vec(),
        node_options: Vec::new(),
        nodes: 5,
        seconds: 60,
        rate: None,
        clients: 3,
        names: 0,
        network: Network::Loopback,
        workloads: vec!["names".to_owned()],
        nemeses: vec!["kill-one".to_owned()],
        began_unix_ms: 0,
        ended_unix_ms: None,
        phases: vec![Phase {
            name: "faults".to_owned(),
            begin_ns: 0,
            end_ns: 60 * SECOND,
        }],
    }
}

fn line(process: u32, action: Action, value: Option<Answer>, begin: Nanos, end: Nanos) -> Line {
    Line {
        process,
        node: u64::from(process),
        workload: "names".to_owned(),
        kind: action.kind().to_owned(),
        arguments: action,
        outcome: value
            .as_ref()
            .map_or(OutcomeKind::Unknown, |_| OutcomeKind::Ok),
        value,
        reason: None,
        begin_ns: begin,
        end_ns: end,
    }
}

fn register(name: &str) -> Action {
    Action::Register {
        name: name.to_owned(),
        entry: Entry {
            uri: "PYRO:o@h:1".to_owned(),
            tags: Default::default(),
        },
        safe: false,
    }
}

fn lookup(name: &str) -> Action {
    Action::Lookup {
        name: name.to_owned(),
    }
}

/// A register that is acknowledged, look-ups that see it, and one that does not.
fn lost(name: &str) -> Vec<Line> {
    let entry = Entry {
        uri: "PYRO:o@h:1".to_owned(),
        tags: Default::default(),
    };
    let mut lines = vec![line(
        1,
        register(name),
        Some(Answer::Done),
        SECOND,
        2 * SECOND,
    )];
    for number in 2..10 {
        let seen = Some(Answer::Entry(Some(entry.clone())));
        let at = number * SECOND;
        lines.push(line(2, lookup(name), seen, at, at + SECOND / 2));
    }
    let nothing = Some(Answer::Entry(None));
    lines.push(line(3, lookup(name), nothing, 12 * SECOND, 13 * SECOND));
    lines
}

fn fault(number: u64, phase: FaultPhase, at: Nanos) -> FaultLine {
    FaultLine {
        number,
        name: "kill-one".to_owned(),
        phase,
        outcome: FaultOutcome::Installed,
        what: "nodes [1] <dead>".to_owned(),
        nodes: vec![1],
        begin_ns: at,
        end_ns: at + SECOND / 10,
    }
}

fn anomaly(lines: Vec<Line>) -> Verdict {
    let mut checker = CheckerVerdict::new(
        "linearizable per name",
        Valid::False,
        "no order <b>fits</b>",
    );
    checker.workload = Some("names".to_owned());
    checker.counterexample = lines;
    Verdict {
        valid: Valid::False,
        problems: vec!["a <i>problem</i>".to_owned()],
        checkers: vec![checker],
        faults: BTreeMap::new(),
        operations: BTreeMap::new(),
        overall: Default::default(),
        availability: BTreeMap::new(),
        calm_gap_ms: 0,
        nodes: BTreeMap::new(),
    }
}

/// Whether every tag that is opened is closed, in order.
fn is_balanced(html: &str) -> bool {
    const EMPTY: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open = Vec::new();
    for part in html.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap();
        let name = tag.split([' ', '/']).next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            if open.pop() != Some(closed) {
                return false;
            }
        } else if !tag.ends_with('/') && !EMPTY.contains(&name) {
            open.push(name);
        }
    }
    open.is_empty()
}

#[test]
fn an_anomaly_is_shown_by_its_shortest_history_and_nothing_breaks_out() {
    let name = "<script>alert(1)</script>";
    let lines = lost(name);
    let faults = [
        fault(1, FaultPhase::Inject, 3 * SECOND),
        fault(1, FaultPhase::Heal, 6 * SECOND),
    ];
    let html = page(&info(), &lines, &faults, Some(&anomaly(lines.clone())));
    assert!(is_balanced(&html), "{html}");
    for raw in ["<script", "<dead>", "<i>problem", "<b>fits"] {
        assert!(!html.contains(raw), "{raw}");
    }
    assert!(html.contains("Something does not hold"));
    // Of ten operations two contradict each other.
    assert_eq!(html.matches("class=\"bar ").count(), 2, "{html}");
    assert_eq!(html.matches("class=\"fault\"").count(), 1);
    assert!(html.contains("3.0 to 6.1 s"), "{html}");
}

#[test]
fn the_figures_are_those_of_the_history() {
    let mut lines = lost("a");
    lines.push(line(4, register("b"), None, SECOND, 20 * SECOND));
    let html = page(&info(), &lines, &[], None);
    assert!(html.contains("11 operations"), "{html}");
    for row in [
        "<td>names</td><td>lookup</td><td class=\"number\">9</td><td class=\"number\">0</td><td class=\"number\">0</td>",
        "<td>names</td><td>register</td><td class=\"number\">1</td><td class=\"number\">0</td><td class=\"number\">1</td>",
        "<td>all</td><td></td><td class=\"number\">10</td><td class=\"number\">0</td><td class=\"number\">1</td>",
        "<dd>90.91 %</dd>",
        "<td>1</td><td class=\"number\">1</td><td class=\"number\">100.00 %</td>",
        "<td>began</td><td>1970-01-01 00:00 UTC</td>",
        "hearth-jepsen-tests run --seconds 60 --seed 4711<",
    ] {
        assert!(html.contains(row), "{row}\n{html}");
    }
    assert!(html.contains("no verdict"));
}

#[test]
fn what_was_available_during_a_fault_is_that_of_the_history() {
    let faults = [
        fault(1, FaultPhase::Inject, 3 * SECOND),
        fault(1, FaultPhase::Heal, 6 * SECOND),
    ];
    let html = page(&info(), &lost("a"), &faults, None);
    // Three look-ups were begun between 3.0 and 6.1 s; no write came, and half a second passed from the
    // end of one look-up to that of the next.
    let cells = [
        "kill-one", "1", "0", "0", "4", "100.00 %", "0.00 %", "0.00 %", "3.1 s", "1.0 s",
        "100.00 %", "500 ms",
    ];
    let cells: Vec<String> = cells[1..]
        .iter()
        .map(|cell| format!("<td class=\"number\">{cell}</td>"))
        .collect();
    let row = format!("<tr><td>kill-one</td>{}</tr>", cells.concat());
    assert!(html.contains(&row), "{row}\n{html}");
    assert!(
        html.contains("<dd>1</dd><dt>faults installed, of 1 kinds</dt>"),
        "{html}"
    );
    assert_eq!(html.matches("<figure>").count(), 1);
    // A skipped one is told with its reason, and is never shaded.
    let skipped = FaultLine {
        outcome: FaultOutcome::Skipped,
        what: "no <nft>".to_owned(),
        ..fault(2, FaultPhase::Inject, SECOND)
    };
    let html = page(&info(), &lost("a"), &[skipped], None);
    assert!(
        html.contains("1 times: kill-one was skipped: no &lt;nft&gt;"),
        "{html}"
    );
    assert!(!html.contains("class=\"fault\"") && !html.contains("class=\"shade\""));
}

#[test]
fn times_and_numbers_are_readable() {
    assert_eq!(utc(1_793_424_959_000), "2026-10-31 05:35 UTC");
    assert_eq!(utc(951_827_696_000), "2000-02-29 12:34 UTC");
    assert_eq!(utc(1_767_225_599_000), "2025-12-31 23:59 UTC");
    assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    assert_eq!((grouped(0), grouped(999)), ("0".into(), "999".into()));
    assert_eq!(
        (millis(999), millis(1_250)),
        ("999 ms".into(), "1.2 s".into())
    );
}

#[test]
fn a_long_run_makes_no_long_page() {
    let mut lines = Vec::new();
    for number in 0..200_000_u64 {
        let at = number * SECOND / 55;
        let action = lookup(&format!("n{number}"));
        lines.push(line(
            1,
            action,
            Some(Answer::Entry(None)),
            at,
            at + SECOND / 100,
        ));
    }
    let faults: Vec<FaultLine> = (0..600)
        .flat_map(|number| {
            let at = number * 6 * SECOND;
            [
                fault(number, FaultPhase::Inject, at),
                fault(number, FaultPhase::Heal, at + 3 * SECOND),
            ]
        })
        .collect();
    let html = page(&info(), &lines, &faults, None);
    assert!(html.len() < 1 << 20, "{}", html.len());
}
