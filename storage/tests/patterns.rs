//! Patterns compared with the results of CPython 3.11 (`patterns/generate.py`).
//!
//! `HEARTH_PATTERNS` names another file of the same form, for a larger comparison by hand.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use hearth_storage::{Pattern, PatternError, Steps};
use serde_json::Value;

fn lines() -> Vec<Value> {
    let path = std::env::var_os("HEARTH_PATTERNS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/patterns/cpython-3.11.jsonl"),
        PathBuf::from,
    );
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn error_text(error: &PatternError) -> String {
    match error {
        PatternError::RepetitionTooLarge => format!("OverflowError: {error}"),
        PatternError::TooDeep => format!("RecursionError: {error}"),
        PatternError::FlagConflict => format!("ValueError: {error}"),
        _ => error.to_string(),
    }
}

#[test]
fn patterns_are_refused_and_matched_as_cpython_does() {
    let lines = lines();
    let texts: Vec<&str> = lines[0]["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    let mut wrong = Vec::new();
    let mut out_of_bounds = 0;
    let mut compared = 0;
    for line in &lines[1..] {
        let source = line["pattern"].as_str().unwrap();
        let parsed = Pattern::parse(source);
        if let Err(PatternError::TooExpensive(_)) = parsed {
            out_of_bounds += 1;
            if std::env::var_os("HEARTH_PATTERNS").is_some() {
                println!("out of bounds: {source:?}: {}", parsed.unwrap_err());
            }
            continue;
        }
        compared += 1;
        match (parsed, line["error"].as_str()) {
            (Err(error), Some(expected)) if error_text(&error) == expected => {}
            (Err(error), expected) => {
                wrong.push(format!("{source:?}: error {error}, expected {expected:?}"))
            }
            (Ok(_), Some(expected)) => {
                wrong.push(format!("{source:?}: accepted, expected {expected}"))
            }
            (Ok(pattern), None) => {
                let expected = line["matches"].as_str().unwrap().bytes();
                for (text, expected) in texts.iter().zip(expected) {
                    match pattern.matches(text) {
                        Ok(found) if found == (expected == b'1') => {
                            if found && !text.starts_with(pattern.literal_prefix()) {
                                wrong.push(format!(
                                    "{source:?}: prefix {:?}",
                                    pattern.literal_prefix()
                                ));
                            }
                        }
                        found => wrong.push(format!(
                            "{source:?} on {text:?}: {found:?}, expected {expected}"
                        )),
                    }
                }
            }
        }
    }
    for line in wrong.iter().take(40) {
        println!("{line}");
    }
    println!(
        "{compared} compared, {} wrong, {out_of_bounds} refused by a bound",
        wrong.len()
    );
    assert!(wrong.is_empty());
    assert!(
        compared > 500 && out_of_bounds * 50 < compared,
        "{out_of_bounds} patterns refused by a bound"
    );
}

/// Runs `work` on a thread with the smallest stack of all threads that parse patterns.
fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work);
    thread.unwrap().join().unwrap()
}

#[test]
fn groups_may_nest_as_deep_as_in_cpython_on_any_thread() {
    on_a_small_stack(|| {
        for (open, close) in [
            ("(", ")"),
            ("(?:", ")"),
            ("(?:x", ")*"),
            ("(x|", "){0,2}"),
            ("(?=", ")"),
            ("(?>a", ")?"),
            ("(?i:", ")"),
        ] {
            let nested = |depth: usize| format!("{}a{}", open.repeat(depth), close.repeat(depth));
            match Pattern::parse(&nested(400)) {
                Ok(pattern) => {
                    let mut search = pattern.search(Steps::new(10_000_000));
                    // Some of these patterns exceed the budget and return an error.
                    let _ = search.matches("aa");
                }
                Err(error) => assert!(matches!(error, PatternError::TooExpensive(_)), "{error}"),
            }
            assert_eq!(
                Pattern::parse(&nested(500)).unwrap_err(),
                PatternError::TooDeep,
                "{open}"
            );
        }
        let nested = format!("{}a{}", "(".repeat(400), ")".repeat(400));
        assert!(Pattern::parse(&nested).unwrap().matches("ab").unwrap());
    });
}

#[test]
fn a_pattern_that_explodes_is_an_error_and_not_a_hang() {
    let name = "a".repeat(64);
    let pattern = Pattern::parse(r"(a*)*\1b").unwrap();
    let error = pattern
        .search(Steps::new(100_000))
        .matches(&name)
        .unwrap_err();
    assert!(
        error.to_string().contains("more than 100000 steps"),
        "{error}"
    );
    assert!(!error.to_string().contains(&name), "{error}");
    let error = Pattern::parse(r"((\w{900}){900}){900}").unwrap_err();
    assert!(
        matches!(&error, PatternError::TooExpensive(text) if text.contains("bounded time")),
        "{error}"
    );
    let error = Pattern::parse(&"a".repeat(20_000)).unwrap_err();
    assert!(
        error.to_string().contains("20000 characters, max=10000"),
        "{error}"
    );
}

#[test]
fn all_names_of_a_call_share_one_budget() {
    for (source, name) in [
        // This one looks back; each name alone is cheap.
        (r"x(a*)\1b", "xaaaaaaaaaaaaaaaaaaaa".to_owned()),
        // This one is linear, and each byte needs a state that is not built yet.
        ("[ab]*a[ab]{40}c", "abaababbabab".repeat(20)),
    ] {
        let pattern = Pattern::parse(source).unwrap();
        let mut search = pattern.search(Steps::new(1_000_000));
        assert_eq!(search.matches(&name), Ok(false), "{source}");
        let count = (0..1_000_000)
            .take_while(|_| search.matches(&name).is_ok())
            .count();
        assert!((1..100_000).contains(&count), "{source}: {count} names");
        assert!(search.matches("").is_err(), "nothing is left");
        // The second search ends at the same name: the cost depends on nothing but the names.
        let mut again = pattern.search(Steps::new(1_000_000));
        let once_more = (0..=count)
            .take_while(|_| again.matches(&name).is_ok())
            .count();
        assert_eq!(once_more, count + 1, "{source}");
    }
}

#[test]
fn an_automaton_that_does_not_fit_costs_what_it_is() {
    let pattern = Pattern::parse("[ab]*a[ab]{4000}c").unwrap();
    let name = "ab".repeat(100_000);
    let error = pattern
        .search(Steps::new(50_000_000))
        .matches(&name)
        .unwrap_err();
    assert!(error.to_string().contains("steps"), "{error}");
}

#[test]
fn a_pattern_may_be_a_prefix() {
    let prefix = |source: &str| {
        Pattern::parse(source)
            .unwrap()
            .as_prefix()
            .map(str::to_owned)
    };
    for (source, expected) in [
        (r"svc\.", Some("svc.")),
        (r"^svc\.a.*", Some("svc.a")),
        ("svc.*x?[ab]*", Some("svc")),
        ("(svc)", Some("svc")),
        (".*", Some("")),
        ("svc$", None),
        ("svc.*x", None),
        ("svc.", None),
        ("svc|x", None),
        ("(?i)svc", None),
        (r"svc\b", None),
        ("svc(?:ab)*", None),
        ("svc^", None),
    ] {
        assert_eq!(prefix(source).as_deref(), expected, "{source}");
    }
}

#[test]
fn the_linear_engine_takes_what_would_explode_elsewhere() {
    let pattern = Pattern::parse("(x+x+)+y").unwrap();
    assert!(!pattern.matches(&"x".repeat(10_000)).unwrap());
}

#[test]
fn the_literal_prefix_is_what_every_match_starts_with() {
    let prefix = |source: &str| Pattern::parse(source).unwrap().literal_prefix().to_owned();
    assert_eq!(prefix(r"svc\.alpha.*"), "svc.alpha");
    assert_eq!(prefix(r"^(?:svc)(\.)x?"), "svc.");
    assert_eq!(prefix("(?i)svc"), "");
    assert_eq!(prefix("svc|x"), "");
    assert_eq!(prefix("sv[c]"), "sv");
}
