//! Tests of `nsctl bench` with several servers, and of the longest time without a reply in its
//! report.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hearth_wire::{Frame, MessageType, Value};
use serde_json::{Value as Json, json};
use support::fake::{Reaction, healthy, serve};
use support::{Finished, nsctl, run};

const REGISTER: [&str; 7] = [
    "-o",
    "json",
    "bench",
    "register",
    "--warm-up",
    "0",
    "--connections",
];

/// Starts a server that reacts to each call as `react` says. Calls are counted from 0.
async fn server(
    react: impl Fn(usize, &Frame) -> Reaction + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let address = serve("127.0.0.1", move |frame| {
        if frame.kind != MessageType::Invoke {
            return react(counter.load(Ordering::Relaxed), frame);
        }
        react(counter.fetch_add(1, Ordering::Relaxed), frame)
    })
    .await;
    (address.to_string(), count)
}

fn answer(frame: &Frame) -> Reaction {
    healthy(frame, &Value::None)
}

/// Runs `nsctl` on another thread, so that the servers of this thread's runtime keep running.
async fn bench(endpoints: &[&str], arguments: &[&str]) -> Finished {
    let mut all = vec!["--endpoints".to_owned(), endpoints.join(",")];
    all.extend(
        REGISTER
            .iter()
            .chain(arguments)
            .map(|&text| text.to_owned()),
    );
    let finished = tokio::task::spawn_blocking(move || {
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        run(&nsctl(), &all, &[], "")
    });
    finished.await.expect("nsctl was run")
}

fn report(finished: &Finished) -> Json {
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[tokio::test]
async fn connections_are_spread_over_the_servers() {
    let (a, a_count) = server(|_, frame| answer(frame)).await;
    let (b, b_count) = server(|_, frame| answer(frame)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("calls");
    let log_text = log.to_str().expect("a plain path");
    let finished = bench(&[&a, &b], &["4", "--duration", "0.3", "--log", log_text]).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let report = report(&finished);
    assert_eq!(report["errors"], json!(0));
    assert_eq!(report["errors_by_kind"], json!({}));
    assert_eq!(report["server"], json!(format!("{a},{b}")));
    let log = std::fs::read_to_string(log).expect("the log of calls");
    let calls: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').collect()).collect();
    for call in &calls {
        let [_, connection, server, _, outcome] = call[..] else {
            panic!("{call:?}")
        };
        let is_even = ["0", "2"].contains(&connection);
        assert_eq!(server, if is_even { &a } else { &b });
        assert_eq!(outcome, "ok");
    }
    // The names of the load are removed at the first server, before and after the load.
    let sum = a_count.load(Ordering::Relaxed) + b_count.load(Ordering::Relaxed);
    assert_eq!(calls.len(), sum - 2);
    assert!(b_count.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_load_can_outlive_a_server() {
    let dies = |count: usize, frame: &Frame| match count {
        0..50 => answer(frame),
        _ => Reaction::Close,
    };
    let (a, _) = server(dies).await;
    let (b, b_count) = server(|_, frame| answer(frame)).await;
    let arguments = ["4", "--seconds", "1", "--reconnect"];
    let finished = bench(&[&a, &b], &arguments).await;
    assert_eq!(finished.code, Some(1), "errors happened: {finished:?}");
    let report = report(&finished);
    // Both connections to the first server ended in the middle of a call.
    assert_eq!(
        report["errors_by_kind"],
        json!({"unexpected end of file": 2}),
        "{report}"
    );
    let operation_count = report["operations"].as_u64().expect("a number");
    let at_b = b_count.load(Ordering::Relaxed) as u64;
    assert!(
        operation_count > 50 && at_b > operation_count - 52,
        "{report} {at_b}"
    );

    let (a, _) = server(dies).await;
    let finished = bench(&[&a, &b], &["4", "--seconds", "1"]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(finished.stdout, "", "the load ended with the server");
    assert!(finished.stderr.contains(&a), "{finished:?}");
}

#[tokio::test]
async fn the_longest_time_without_an_answer_is_reported() {
    const PAUSE: Duration = Duration::from_millis(400);
    let (a, _) = server(|count, frame| {
        if count == 20 {
            std::thread::sleep(PAUSE);
        }
        answer(frame)
    })
    .await;
    let finished = bench(&[&a], &["2", "--seconds", "2"]).await;
    let report = report(&finished);
    let gap = |key: &str| report[key].as_f64().expect("milliseconds");
    assert!(gap("longest_gap_ms") >= 400.0, "{report}");
    assert!(
        gap("longest_gap_of_one_ms") >= gap("longest_gap_ms"),
        "{report}"
    );
    assert!(gap("longest_gap_of_one_ms") < 2000.0, "{report}");
}
