//! Counts tests that a machine cannot run as skipped, and not as passed.
//!
//! Cargo's test runner knows no tests that skip themselves, and hides what a test prints that passes. So a
//! test that finds out that it cannot do its work, or a part of it, says so here, and `scripts/test.sh` reads
//! it from the file that [`LOG`] names.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Names the file for one line a skip: package, program and test, a tab, the reason.
pub const LOG: &str = "HEARTH_SKIP_LOG";

/// Notes that the running test is skipped, or a part of it, and why. Called in the thread that the test began in.
///
/// # Panics
/// When the file cannot be written: the test would count as passed.
pub fn skipped(reason: impl Display) {
    eprintln!("skipped: {reason}");
    let Some(log) = std::env::var_os(LOG) else {
        return;
    };
    let reason = reason.to_string().replace('\n', " ");
    let line = format!("{}\t{reason}\n", test());
    // In one write, for those of other processes go in between.
    File::options()
        .create(true)
        .append(true)
        .open(&log)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .unwrap_or_else(|error| panic!("{LOG}={}: {error}", Path::new(&log).display()));
}

/// The running test, as `PACKAGE PROGRAM TEST`.
fn test() -> String {
    let package = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.file_stem().unwrap_or_default().to_string_lossy();
    // Without the number that cargo appends.
    let program = program.rsplit_once('-').map_or(&*program, |(name, _)| name);
    let thread = std::thread::current();
    format!("{package} {program} {}", thread.name().unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Skips itself where the next test starts it.
    #[test]
    fn one_that_may_be_skipped() {
        if std::env::var_os("HEARTH_SKIPPED_CHILD").is_some() {
            skipped("the reason,\nin two lines");
        }
    }

    #[test]
    fn a_skip_is_a_line_with_the_test_and_the_reason() {
        let log = std::env::temp_dir().join(format!("hearth-skipped-{}", std::process::id()));
        let skip = |log: &Path| {
            let program = std::env::current_exe().expect("this program");
            // What it prints is no part of this run's.
            let output = Command::new(program)
                .args(["--exact", "tests::one_that_may_be_skipped"])
                .env("HEARTH_SKIPPED_CHILD", "yes")
                .env("CARGO_PKG_NAME", "a-package")
                .env(LOG, log)
                .output();
            output.expect("it starts").status.success()
        };
        assert!(skip(&log) && skip(&log));
        let text = std::fs::read_to_string(&log).expect("it is there");
        std::fs::remove_file(&log).expect("it is there");
        let line =
            "a-package hearth_skipped tests::one_that_may_be_skipped\tthe reason, in two lines\n";
        assert_eq!(text, line.repeat(2));
        // Without the file it would count as passed.
        assert!(!skip(Path::new("/nowhere/at/all")));
    }
}
