//! Helpers of the acceptance tests.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hearth_jepsen_tests::check::name;
use hearth_jepsen_tests::client::{Client, plain};
use hearth_jepsen_tests::history::{Action, Entry, Operation, Outcome};
use hearth_jepsen_tests::node::clear_environment;
use tokio::sync::{Mutex, MutexGuard};

/// Runs one cluster at a time, because clusters would slow each other down.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Returns true if the full numbers of rounds are requested.
pub(crate) fn is_full() -> bool {
    std::env::var_os("HEARTH_ROUNDS").is_some_and(|value| value == "full")
}

/// Returns the small number for a run on every commit, or the full one.
pub(crate) fn amount(small: u64, full: u64) -> u64 {
    if is_full() { full } else { small }
}

/// Returns a time limit. In a full run it is the promised one. Otherwise it allows another 1.5 s for programs
/// that are not optimised and for a busy machine.
pub(crate) fn limit(promised: Duration) -> Duration {
    if is_full() {
        promised
    } else {
        promised + Duration::from_millis(1500)
    }
}

/// Prints a figure.
pub(crate) fn figure(text: impl std::fmt::Display) {
    eprintln!("figure: {text}");
}

/// Ends a test that this machine cannot run, with the reason.
macro_rules! skip_if {
    ($reason:expr) => {
        if let Some(reason) = $reason {
            return hearth_skipped::skipped(reason);
        }
    };
}
pub(crate) use skip_if;

pub(crate) fn register(name: impl Into<String>, uri: impl Into<String>) -> Action {
    Action::Register {
        name: name.into(),
        entry: plain(uri),
        safe: false,
    }
}

pub(crate) fn register_safe(name: impl Into<String>, uri: impl Into<String>) -> Action {
    Action::Register {
        name: name.into(),
        entry: plain(uri),
        safe: true,
    }
}

pub(crate) fn lookup(name: impl Into<String>) -> Action {
    Action::Lookup { name: name.into() }
}

/// Returns the entry that a lookup found. Panics if the lookup was not answered.
#[track_caller]
pub(crate) fn found(operation: &Operation) -> Option<&Entry> {
    match operation.answer() {
        Some(hearth_jepsen_tests::history::Answer::Entry(entry)) => entry.as_ref(),
        _ => panic!("no answer to a look-up: {operation:?}"),
    }
}

pub(crate) fn is_ok(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Ok(_))
}

/// Repeats an operation until it is answered, for the setup of a test.
pub(crate) async fn insist(client: &mut Client, action: Action) -> Operation {
    for _ in 0..100 {
        let told = client.perform(action.clone()).await;
        if is_ok(&told) {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{action:?} was never acknowledged");
}

/// Judges the whole history, name by name.
#[track_caller]
pub(crate) fn assert_linearizable(history: &[Operation]) {
    let verdict = name::check(history);
    assert!(verdict.holds(), "{verdict:#?}");
}

/// Returns the Python interpreter that has the real Pyro4 and Pyro5.
///
/// # Errors
/// The reason if there is none.
pub(crate) fn python() -> Result<PathBuf, String> {
    let python = std::env::var_os("HEARTH_TEST_PYTHON")
        .map(PathBuf::from)
        .ok_or("HEARTH_TEST_PYTHON names no Python that has Pyro4 and Pyro5")?;
    let mut command = Command::new(&python);
    clear_environment(&mut command);
    match command.args(["-c", "import Pyro4, Pyro5"]).output() {
        Ok(output) if output.status.success() => Ok(python),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("{}: {error}", python.display())),
    }
}

/// Sorts durations and formats them as a row of a table: shortest, median, longest.
pub(crate) fn row(durations: &mut [Duration]) -> String {
    durations.sort_unstable();
    let part = |part| hearth_jepsen_tests::load::quantile(durations, part).as_secs_f64() * 1e3;
    format!(
        "shortest {:.0} ms, median {:.0} ms, longest {:.0} ms of {}",
        part(0.0),
        part(0.5),
        part(1.0),
        durations.len()
    )
}
