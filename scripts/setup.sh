#!/usr/bin/env bash
# Installs what building and testing Hearth need on Debian or Ubuntu, and nothing that is there
# already. A Rust toolchain (rustup) is the one thing it expects.
#
# Each need is tried as it will be used. What is missing and cannot be installed from here is told in one
# line, with the command to run; the exit code is 1.
#
# usage: scripts/setup.sh build|test
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-build}
case $what in
    build | test) ;;
    *)
        echo "usage: scripts/setup.sh build|test" >&2
        exit 2
        ;;
esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hearth
venv=${HEARTH_VENV:-$cache/venv}
compilers=$cache/compilers
# Where Debian has nft and mkfs, also for those who are not root.
PATH=$PATH:/usr/sbin:/sbin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Each of these succeeds where the need is met.

has_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    found=$(cargo --version | cut -d' ' -f2) && rustc --version > /dev/null &&
        [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

# What RocksDB is compiled with, and what Rust links with.
has_compilers() {
    ${CXX:-c++} -std=c++20 -pthread -o "$scratch/needs" scripts/needs.cc -ldl && "$scratch/needs" compiler &&
        echo 'int main(void) { return 0; }' | ${CC:-cc} -x c -o "$scratch/linked" - && "$scratch/linked"
}

# The folders that bindgen takes from a clang program, if there is one.
clang_folders() {
    local clang=${CLANG_PATH:-} folders
    [ -n "$clang" ] || clang=$(compgen -c clang | grep -xE 'clang(-[0-9.]+)?' | sort | head -n 1) || return 0
    folders=$("$clang" -E -x c - -v < /dev/null 2>&1 | sed -n '/^#include <\.\.\.>/,/^End of search/s/^ //p') || return 0
    while IFS= read -r folder; do
        [ -z "$folder" ] || printf '%s\n' -isystem "$folder"
    done <<< "$folders"
}

# What RocksDB's C header needs of it: the compiler's own headers and the C library's.
has_libclang() {
    local arguments
    mapfile -t arguments < <(clang_folders)
    printf '#include <%s.h>\n' stdarg stdbool stddef stdint > "$scratch/header.h"
    # shellcheck disable=SC2086 # several arguments in one variable, as bindgen takes them
    "$scratch/needs" libclang "$scratch/header.h" ${BINDGEN_EXTRA_CLANG_ARGS:-} "${arguments[@]}"
}

has_make() { make --version; }

# Lets the second profile, and the next clone, take RocksDB's objects from the first. The Makefile puts the folder
# of links before the compilers; Debian's own, /usr/lib/ccache, lacks c++ where g++ was installed together with it.
has_ccache() {
    local program
    program=$(command -v ccache) && mkdir -p "$compilers" &&
        ln -sf "$program" "$compilers/c++" && ln -sf "$program" "$compilers/cc" && "$compilers/c++" --version
}

is_judged() { "$venv/bin/python" -c 'import Pyro4, Pyro5, serpent, msgpack'; }

# Debian's python3 makes half an environment where python3-venv is missing.
has_venv() {
    is_judged || { rm -rf "$scratch/venv" && python3 -m venv "$scratch/venv" && "$scratch/venv/bin/python" -m pip --version; }
}

# Partitions and file systems of the tests' own.
has_ip() { ip -V; }
has_nft() { nft --version; }
has_mkfs() { mkfs.ext4 -V; }

# Tries everything. Sets `packages` to those that are missing, `needs` to what they are missing for, and
# `reason` to what the first check that failed said.
packages=()
needs=()
reason=
look_for() { # a check, its packages, what a person calls it
    if ! "$1" > "$scratch/log" 2>&1; then
        # shellcheck disable=SC2206 # packages are words
        packages+=($2)
        needs+=("$3")
        reason=${reason:-$(tail -n 1 "$scratch/log")}
    fi
}

look() {
    packages=() needs=() reason=
    look_for has_compilers g++ "a C++20 compiler"
    look_for has_make make make
    look_for has_libclang libclang-dev "libclang with its headers"
    if [ "$what" = test ]; then
        look_for has_venv "python3 python3-venv" "Python's venv with pip"
        look_for has_ip iproute2 ip
        look_for has_nft nftables nft
        look_for has_mkfs e2fsprogs mkfs.ext4
    fi
}

can_be_root() {
    [ "$(id -u)" = 0 ] || { command -v sudo > /dev/null && { sudo -n true 2> /dev/null || [ -t 0 ]; }; }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
    echo "setup: installing $*"
    # A source that cannot be reached is no matter if the others have it all.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq > "$scratch/apt.log" 2>&1 || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        > /dev/null 2>> "$scratch/apt.log"
}

# The command that a person runs to install packages.
apt_command() {
    local command="apt-get update && apt-get install -y $*"
    if [ "$(id -u)" = 0 ]; then
        echo "$command"
    elif command -v sudo > /dev/null; then
        echo "${command//apt-get/sudo apt-get}"
    else
        echo "su -c '$command'"
    fi
}

join() { # by ", "
    local text
    printf -v text '%s, ' "$@"
    echo "${text%, }"
}

why_not=
look
wanted=("${packages[@]}")
# Worth having, and no reason to stop.
has_ccache > /dev/null 2>&1 || wanted+=(ccache)
if [ ${#wanted[@]} -gt 0 ]; then
    if ! command -v apt-get > /dev/null; then
        why_not="no apt-get here"
    elif ! can_be_root; then
        why_not="no root and no sudo"
    elif ! apt_install "${wanted[@]}"; then
        why_not="apt-get: $(grep -m 1 '^E:' "$scratch/apt.log" || tail -n 1 "$scratch/apt.log")"
    fi
    look
    # Where that went well and does not help, the check says what is wrong.
    why_not=${why_not:-$reason}
    [ ${#packages[@]} -gt 0 ] || why_not=
fi

commands=()
if ! has_rust > "$scratch/rust.log" 2>&1; then
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    needs+=("a Rust toolchain, $wanted or newer")
    if command -v rustup > /dev/null; then
        commands+=("rustup default stable && rustup update stable")
    elif [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        commands+=(". '${CARGO_HOME:-$HOME/.cargo}/env'")
    else
        commands+=("curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh")
    fi
fi
if [ ${#packages[@]} -gt 0 ]; then
    commands+=("$(apt_command "${packages[@]}")")
fi
if [ ${#needs[@]} -gt 0 ]; then
    printf -v text '%s && ' "${commands[@]}"
    echo "setup: missing: $(join "${needs[@]}")${why_not:+ ($why_not)}; run: ${text% && }" >&2
    exit 1
fi
has_ccache > /dev/null 2>&1 || echo "setup: without ccache each clone compiles RocksDB again; run: $(apt_command ccache)"

cannot() { # what, its log, the command
    echo "setup: cannot install $1 ($(grep -v '^$' "$2" | tail -n 1)); run: $3" >&2
    exit 1
}

if [ "$what" = test ]; then
    # The judges: the real Pyro4 and Pyro5.
    if ! is_judged > /dev/null 2>&1; then
        echo "setup: installing Pyro4 and Pyro5 into $venv"
        mkdir -p "$(dirname "$venv")"
        python3 -m venv --clear "$venv"
        "$venv/bin/python" -m pip install --quiet -r scripts/requirements-test.txt > "$scratch/pip.log" 2>&1 ||
            cannot "Pyro4 and Pyro5" "$scratch/pip.log" "'$venv/bin/python' -m pip install -r scripts/requirements-test.txt"
    fi
    if ! cargo deny --version > /dev/null 2>&1; then
        echo "setup: building cargo-deny"
        # It reads a few files: half the compiler's time for a program that takes 0.48 s instead of 0.44.
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
            cargo install --quiet --locked cargo-deny > "$scratch/deny.log" 2>&1 ||
            cannot cargo-deny "$scratch/deny.log" "cargo install --locked cargo-deny"
    fi
fi
