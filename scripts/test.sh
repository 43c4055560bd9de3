#!/usr/bin/env bash
# All checks, then all tests; the last line counts the tests. Fixes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

# Where in a slow run the time went.
with_times() {
    local line
    while IFS= read -r line; do
        case $line in
            "     Running "* | "   Doc-tests "*) printf '%s, after %d s\n' "$line" "$SECONDS" ;;
            *) printf '%s\n' "$line" ;;
        esac
    done
}

# The tests take some ten minutes. Where nobody is there to end one that hangs, this does, and says so.
test_seconds_max=2700
limit=()
[ -t 0 ] || limit=(timeout --kill-after=30 "$test_seconds_max")

# What nodes do wrong on purpose, for tests of the tests.
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
    # Offline there is nothing to compare with; the next run that has a network finds what is wrong.
    echo "skipped: the advisory database cannot be fetched: $(tail -n 1 <<< "$fetched")"
fi

# What the acceptance tests start, built once for all of them; and nodes that can make mistakes on purpose,
# which the tests must notice. With a test among them, all dependencies have the features that they have in
# `cargo test`, and are compiled once.
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
# Tests that find out that they cannot run here write a line of it (jepsen-tests/skipped).
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
# For those the runner counted as passed.
unnoticed=$(cut -f 1 "$HEARTH_SKIP_LOG" | sort -u | wc -l)
awk -v unnoticed="$unnoticed" '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed - unnoticed, failed, skipped + unnoticed }' "$log"

# CI has all that tests need (scripts/setup.sh test), but for programs of an earlier build.
if [ "${CI:-}" = true ] && [ "$status" = 0 ] && grep -v HEARTH_PREVIOUS_BIN_DIR "$HEARTH_SKIP_LOG" > "$scratch/forbidden"; then
    echo "skipped in CI: $(cut -f 1 "$scratch/forbidden" | sort -u | wc -l) tests that it can run" >&2
    status=1
fi
exit "$status"
