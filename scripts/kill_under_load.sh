#!/usr/bin/env bash
# Kill -9 under load with rocksdb storage, so many rounds in a row (100 by default). The test is
# node/tests/kill.rs; HEARTH_KILL_SEED, which it prints, repeats a run's random choices.
set -euo pipefail
cd "$(dirname "$0")/.."
export HEARTH_KILL_ROUNDS=${1:-100}
exec cargo test -p hearth-node --test kill -- --nocapture
