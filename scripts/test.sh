#!/usr/bin/env bash
# All checks, then all tests; the last line counts the tests. Fixes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "clippy"
cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
cargo clippy --quiet --locked --package hearth-node --features defects -- -D warnings

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
# which the tests must notice.
step "programs"
programs=${CARGO_TARGET_DIR:-target}
cargo build --quiet --locked --package hearth-node --package hearth-jepsen-tests --bins \
    --features hearth-node/defects,hearth-jepsen-tests/defects
mkdir -p "$programs/defects"
cp "$programs/debug/hearthd" "$programs/debug/hearth-jepsen-tests" "$programs/defects/"
HEARTH_DEFECT_BIN_DIR=$(cd "$programs/defects" && pwd)
export HEARTH_DEFECT_BIN_DIR
cargo build --quiet --locked --workspace --bins
HEARTH_BIN_DIR=$(cd "$programs/debug" && pwd)
export HEARTH_BIN_DIR

step "tests"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$log" || status=$?
awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
     END { printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
exit "$status"
