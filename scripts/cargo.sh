#!/usr/bin/env bash
# Runs cargo, and says how long RocksDB takes and how far it is where it has to be compiled: minutes of C++
# that cargo shows as one line. What cargo prints, and its exit code, stay as they are.
#
# usage: scripts/cargo.sh ARGUMENT_OF_CARGO...
set -euo pipefail

# Measured; see the profiles in Cargo.toml.
cpu_minutes=45

profile=debug
for argument in "$@"; do
    [ "$argument" != --release ] || profile=release
done
builds=${CARGO_TARGET_DIR:-target}/$profile/build

archives=("$builds"/librocksdb-sys-*/out/librocksdb.a)
if [ -e "${archives[0]}" ] || [ -n "${ROCKSDB_LIB_DIR:-}" ]; then
    exec cargo "$@"
fi

began=$(mktemp)
trap 'rm -f "$began"' EXIT

# Files that RocksDB consists of; cargo knows it once the sources are there.
file_count=343
cores=${CARGO_BUILD_JOBS:-$(nproc)}

# Each file is two in ccache. Files of others may be among them; how far it is tells the truth in any case.
in_ccache=$(ccache --print-stats 2> /dev/null | awk '$1 == "files_in_cache" { print $2 }') || true
if [ "${in_ccache:-0}" -lt $((2 * file_count)) ]; then
    echo "RocksDB is compiled once, and is kept: about $(((cpu_minutes + cores - 1) / cores)) minutes on $cores cores" >&2
fi

compiled() { # files that are done in this build
    find "$builds" -path '*/librocksdb-sys-*/out/*.o' -newer "$began" 2> /dev/null | wc -l
}

# What cargo says goes past; below it, on a terminal, stands how far RocksDB is. Elsewhere that is a line a minute.
first=
last=0
show() {
    local part line='' now count period=60 clear='' end='\n' text
    [ ! -t 2 ] || period=1 clear=$'\r\e[K' end=''
    while :; do
        if IFS= read -r -t $period part; then
            printf '%s%s\n' "$clear" "$line$part"
            line=
        elif [ $? -gt 128 ]; then
            line+=$part
        else
            printf '%s%s' "$clear" "$line$part"
            return
        fi
        now=$SECONDS
        [ $((now - last)) -ge $period ] || continue
        last=$now
        count=$(compiled)
        if [ "$count" = 0 ] || [ "$count" -ge $file_count ]; then
            printf '%s' "$clear"
            continue
        fi
        first=${first:-$now}
        text="RocksDB: $count of $file_count files"
        # The first ones say little about the rest.
        [ "$count" -lt 20 ] || [ $((now - first)) -lt 20 ] ||
            text+=", about $(((now - first) * (file_count - count) / count / 60 + 1)) min left"
        printf "%s%s$end" "$clear" "$text"
    done
} >&2

status=0
[ ! -t 2 ] || export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-always}
cargo "$@" 2> >(show) || status=$?
wait
exit $status
