#!/usr/bin/env bash
# Runs cargo. If RocksDB has to be compiled, which cargo shows as one line for many minutes, reports how long
# that takes and its progress. Cargo's output and its exit code stay unchanged.
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

# The number of source files of RocksDB, which cannot be counted before cargo has fetched the sources.
file_count=343
cores=${CARGO_BUILD_JOBS:-$(nproc)}

# Each source file becomes two files in ccache. Other files may be among them; the progress is right in any case.
in_ccache=$(ccache --print-stats 2> /dev/null | awk '$1 == "files_in_cache" { print $2 }') || true
if [ "${in_ccache:-0}" -lt $((2 * file_count)) ]; then
    echo "RocksDB is compiled once, and is kept: about $(((cpu_minutes + cores - 1) / cores)) minutes on $cores cores" >&2
fi

compiled() { # the number of files that this build has compiled
    find "$builds" -path '*/librocksdb-sys-*/out/*.o' -newer "$began" 2> /dev/null | wc -l
}

# Passes on what cargo prints, and reports the progress of RocksDB: on a terminal in the line below, elsewhere in
# one line per minute.
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
        # The first files say little about the rest.
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
