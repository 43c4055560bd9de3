#!/usr/bin/env bash
# Installs what the build and the tests of Hearth need on Debian or Ubuntu, unless it is already installed.
# Expects only a Rust toolchain (rustup).
#
# Each prerequisite is tried in the way in which it will be used. If some are missing and cannot be installed from
# here, one line names them and the command to run, and the exit code is 1.
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
# Debian has nft and mkfs here, which is not in the PATH of ordinary users.
PATH=$PATH:/usr/sbin:/sbin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Each of these functions succeeds if its prerequisite is met.

has_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    found=$(cargo --version | cut -d' ' -f2) && rustc --version > /dev/null &&
        [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

# The compiler for RocksDB, and the one with which Rust links.
has_compilers() {
    ${CXX:-c++} -std=c++20 -pthread -o "$scratch/needs" scripts/needs.cc -ldl && "$scratch/needs" compiler &&
        echo 'int main(void) { return 0; }' | ${CC:-cc} -x c -o "$scratch/linked" - && "$scratch/linked"
}

# The include directories that bindgen takes from a clang program, if there is one.
clang_folders() {
    local clang=${CLANG_PATH:-} folders
    [ -n "$clang" ] || clang=$(compgen -c clang | grep -xE 'clang(-[0-9.]+)?' | sort | head -n 1) || return 0
    folders=$("$clang" -E -x c - -v < /dev/null 2>&1 | sed -n '/^#include <\.\.\.>/,/^End of search/s/^ //p') || return 0
    while IFS= read -r folder; do
        [ -z "$folder" ] || printf '%s\n' -isystem "$folder"
    done <<< "$folders"
}

# libclang, with the headers that RocksDB's C header needs: the compiler's own and those of the C library.
has_libclang() {
    local arguments
    mapfile -t arguments < <(clang_folders)
    printf '#include <%s.h>\n' stdarg stdbool stddef stdint > "$scratch/header.h"
    # shellcheck disable=SC2086 # several arguments in one variable, as bindgen takes them
    "$scratch/needs" libclang "$scratch/header.h" ${BINDGEN_EXTRA_CLANG_ARGS:-} "${arguments[@]}"
}

has_make() { make --version; }

# ccache lets the second profile, and the next clone, reuse RocksDB's objects from the first. The Makefile puts the
# directory of links before the compilers in PATH; Debian's own, /usr/lib/ccache, lacks c++ where g++ was installed
# together with ccache.
has_ccache() {
    local program
    program=$(command -v ccache) && mkdir -p "$compilers" &&
        ln -sf "$program" "$compilers/c++" && ln -sf "$program" "$compilers/cc" && "$compilers/c++" --version
}

is_judged() { "$venv/bin/python" -c 'import Pyro4, Pyro5, serpent, msgpack'; }

# Debian's python3 creates an incomplete environment where python3-venv is missing.
has_venv() {
    is_judged || { rm -rf "$scratch/venv" && python3 -m venv "$scratch/venv" && "$scratch/venv/bin/python" -m pip --version; }
}

# For the network partitions and file systems that the tests create.
has_ip() { ip -V; }
has_nft() { nft --version; }
has_mkfs() { mkfs.ext4 -V; }

# `look` tries all prerequisites. It sets `packages` to the missing packages, `needs` to the names of the
# prerequisites that they provide, and `reason` to the output of the first check that failed.
packages=()
needs=()
reason=
look_for() { # a check, its packages, the name of the prerequisite for messages
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
    # A source that cannot be reached does not matter if the others have all packages.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq > "$scratch/apt.log" 2>&1 || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        > /dev/null 2>> "$scratch/apt.log"
}

# Prints the command with which an operator installs packages.
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
# ccache is useful but not required.
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
    # If the installation succeeded and a check still fails, its output is the reason.
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

cannot() { # what cannot be installed, its log, the command to run
    echo "setup: cannot install $1 ($(grep -v '^$' "$2" | tail -n 1)); run: $3" >&2
    exit 1
}

if [ "$what" = test ]; then
    # The references for the tests: the real Pyro4 and Pyro5.
    if ! is_judged > /dev/null 2>&1; then
        echo "setup: installing Pyro4 and Pyro5 into $venv"
        mkdir -p "$(dirname "$venv")"
        python3 -m venv --clear "$venv"
        "$venv/bin/python" -m pip install --quiet -r scripts/requirements-test.txt > "$scratch/pip.log" 2>&1 ||
            cannot "Pyro4 and Pyro5" "$scratch/pip.log" "'$venv/bin/python' -m pip install -r scripts/requirements-test.txt"
    fi
    if ! cargo deny --version > /dev/null 2>&1; then
        echo "setup: building cargo-deny"
        # These settings halve the compile time, for a program that then takes 0.48 s instead of 0.44 s.
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
            cargo install --quiet --locked cargo-deny > "$scratch/deny.log" 2>&1 ||
            cannot cargo-deny "$scratch/deny.log" "cargo install --locked cargo-deny"
    fi
fi
