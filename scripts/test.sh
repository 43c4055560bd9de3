#!/usr/bin/env bash
# Runs all checks, then all tests; the last line counts the tests. Changes no source file.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

# Adds the elapsed time to the lines that announce a test program, to show where a slow run spent its time.
with_times() {
    local line
    while IFS= read -r line; do
        case $line in
            "     Running "* | "   Doc-tests "*) printf '%s, after %d s\n' "$line" "$SECONDS" ;;
            *) printf '%s\n' "$line" ;;
        esac
    done
}

# The tests take some ten minutes. Without a terminal, where nobody can stop a test that hangs, this limit ends the
# run and reports it.
test_seconds_max=2700
limit=()
[ -t 0 ] || limit=(timeout --kill-after=30 "$test_seconds_max")

# The features with which nodes can inject faults, for tests of the tests.
defects=hearth-node/defects,hearth-jepsen-tests/defects

step "format"
cargo fmt --all --check

step "clippy"
scripts/cargo.sh clippy --quiet --locked --workspace --all-targets -- -D warnings
cargo clippy --quiet --locked --workspace --all-targets --features "$defects" -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --workspace --no-deps

step "dependencies: licences, sources, bans"
cargo deny --log-level error check licenses sources bans

step "dependencies: advisories"
if fetched=$(cargo deny fetch db 2>&1); then
    cargo deny --log-level error check advisories
else
    # Offline there is no database to compare with; the next run with a network finds the advisories.
    echo "skipped: the advisory database cannot be fetched: $(tail -n 1 <<< "$fetched")"
fi

# The programs that the acceptance tests start, built once for all of them; and programs that can inject faults,
# which the tests must detect. Because a test is built with them, all dependencies get the features that they have
# in `cargo test`, and are compiled only once.
step "programs"
programs=${CARGO_TARGET_DIR:-target}
cargo build --quiet --locked --workspace --bins --test house --features "$defects"
mkdir -p "$programs/defects"
cp "$programs/debug/hearthd" "$programs/debug/hearth-jepsen-tests" "$programs/defects/"
HEARTH_DEFECT_BIN_DIR=$(cd "$programs/defects" && pwd)
export HEARTH_DEFECT_BIN_DIR
cargo build --quiet --locked --workspace --bins --test house
HEARTH_BIN_DIR=$(cd "$programs/debug" && pwd)
export HEARTH_BIN_DIR
cargo test --quiet --locked --workspace --no-run

step "tests"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
log=$scratch/log
# A test that finds that it cannot run here writes a line to this file (jepsen-tests/skipped).
export HEARTH_SKIP_LOG=$scratch/skipped
: > "$HEARTH_SKIP_LOG"
status=0
"${limit[@]}" cargo test --locked --workspace --no-fail-fast 2>&1 | with_times | tee "$log" || status=$?
if [ "$status" = 124 ]; then
    echo "the tests did not end within $test_seconds_max s" >&2
fi

echo
sed -n 's/^test \(.*\) \.\.\. ignored/skipped: \1/p' "$log"
sort -u "$HEARTH_SKIP_LOG" | sed 's/^/skipped: /; s/\t/: /'
# Skipped tests that cargo counted as passed.
unnoticed=$(cut -f 1 "$HEARTH_SKIP_LOG" | sort -u | wc -l)
awk -v unnoticed="$unnoticed" '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed - unnoticed, failed, skipped + unnoticed }' "$log"

# CI has everything that the tests need (scripts/setup.sh test), except the programs of an earlier build.
if [ "${CI:-}" = true ] && [ "$status" = 0 ] && grep -v HEARTH_PREVIOUS_BIN_DIR "$HEARTH_SKIP_LOG" > "$scratch/forbidden"; then
    echo "skipped in CI: $(cut -f 1 "$scratch/forbidden" | sort -u | wc -l) tests that it can run" >&2
    status=1
fi
exit "$status"
