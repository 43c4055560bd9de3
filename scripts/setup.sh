#!/usr/bin/env bash
# Installs what building and testing Hearth need on Debian or Ubuntu, and nothing that is there
# already. A Rust toolchain (rustup) is the one thing it expects.
#
# usage: scripts/setup.sh build|test
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-build}
venv=${HEARTH_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/hearth/venv}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_updated=no
apt_install() {
    echo "setup: installing $*"
    if [ $apt_updated = no ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        apt_updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" > /dev/null
}

missing=()
need() { # a command, or the pattern of a file, and the package that brings it
    case $1 in
        /*) compgen -G "$1" > /dev/null || missing+=("$2") ;;
        *) command -v "$1" > /dev/null || missing+=("$2") ;;
    esac
}

if ! command -v cargo > /dev/null; then
    echo "setup: no cargo on the path: install a Rust toolchain (1.95 or newer) with rustup first" >&2
    exit 1
fi

# bindgen reads RocksDB's C header through libclang; ccache lets the second profile, and the next
# clone, take RocksDB's objects from the first.
need g++ g++
need make make
need ccache ccache
need '/usr/lib/llvm-*/lib/libclang*.so*' libclang-dev
if [ "$what" = test ]; then
    need python3 python3
    # Partitions between real nodes; the tests of them are skipped where they cannot be had.
    need ip iproute2
    need nft nftables
    need mkfs.ext4 e2fsprogs
fi
if [ ${#missing[@]} -gt 0 ]; then
    apt_install "${missing[@]}"
fi

if [ "$what" = test ]; then
    # The judges: the real Pyro4 and Pyro5.
    if ! "$venv/bin/python" -c 'import Pyro4, Pyro5, serpent, msgpack' 2> /dev/null; then
        echo "setup: installing Pyro4 and Pyro5 into $venv"
        mkdir -p "$(dirname "$venv")"
        if ! python3 -m venv --clear "$venv" > /dev/null 2>&1; then
            apt_install python3-venv
            python3 -m venv --clear "$venv"
        fi
        "$venv/bin/pip" install --quiet -r scripts/requirements-test.txt
    fi
    if ! cargo deny --version > /dev/null 2>&1; then
        echo "setup: building cargo-deny"
        # It reads a few files: half the compiler's time for a program that takes 0.48 s instead of 0.44.
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
            cargo install --quiet --locked cargo-deny
    fi
fi
