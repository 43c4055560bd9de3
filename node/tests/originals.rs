//! hearthd beside the real `pyro4-ns` and `pyro5-ns`: the same calls by the real clients, the same
//! results (`originals/compare.py`).

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use support::python;

#[test]
fn every_method_answers_as_the_originals_do() {
    let Some(python) = python() else {
        return hearth_skipped::skipped(
            "HEARTH_TEST_PYTHON names no Python with Pyro4 and Pyro5; `make test` sets it",
        );
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/originals/compare.py");
    let output = Command::new(python)
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_hearthd"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "hearthd differs from the originals; `compare.py --seed N` repeats a run"
    );
    assert!(text.contains("0 differ"));
}
