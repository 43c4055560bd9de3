#!/usr/bin/env bash
# Kills a server with rocksdb storage under load with -9, for the given number of rounds (100 by default). The test
# is node/tests/kill.rs; it prints a seed, and HEARTH_KILL_SEED repeats the random choices of a run.
set -euo pipefail
cd "$(dirname "$0")/.."
export HEARTH_KILL_ROUNDS=${1:-100}
exec cargo test -p hearth-node --test kill -- --nocapture
