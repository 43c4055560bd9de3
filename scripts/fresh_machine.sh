#!/usr/bin/env bash
# Runs the README's two commands on a fresh machine: a minimal Debian that has only what the README asks for, a
# Rust toolchain and make.
#
# usage: scripts/fresh_machine.sh [--first] [bookworm|trixie] [PACKAGE...]
#
# debootstrap creates the Debian in a directory (below TMPDIR, or /var/tmp), apt-get adds the PACKAGEs, and a clean
# clone of HEAD is copied in. The server of `make run` has to answer nsctl, and is stopped; `make test` has to pass,
# unless --first limits the run to the first command. The Rust toolchain is this machine's, mounted read-only. The
# settings that reach package sources (proxies, certificates, those of pip, cargo and apt) and ccache's objects are
# this machine's too.
#
# Needs root, debootstrap and git. At the end, also after a failure, everything is unmounted and removed. The exit
# code is 0 if both commands did what the README says; the last line reports the result and the times.
set -euo pipefail

# Runs on the fresh machine, as process 1 of its own PID namespace, and first mounts what the machine needs.
inside() { # the directory, this machine's toolchain, its ccache or '', yes for the first command only, the packages
    local folder=$1 toolchain=$2 ccache=$3 only_first=$4
    shift 4
    mount --bind "$folder" "$folder"
    mount -t proc proc "$folder/proc"
    mount --rbind /sys "$folder/sys"
    mount --rbind /dev "$folder/dev"
    mount -t tmpfs tmpfs "$folder/run"
    mkdir -p "$folder/opt/rust" "$folder/root/.cache/ccache" "$folder/old"
    mount --bind "$toolchain" "$folder/opt/rust"
    mount -o remount,bind,ro "$folder/opt/rust"
    [ -z "$ccache" ] || mount --bind "$ccache" "$folder/root/.cache/ccache"
    cd "$folder"
    # Not chroot: a process in a chroot may not create user namespaces.
    pivot_root . old
    umount -l /old
    cd /root/hearth

    say "apt-get install make $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends make "$@" > /dev/null

    say "make run"
    SECONDS=0
    : > /root/run.log
    setsid make run > >(tee /root/run.log) 2>&1 &
    local run=$!
    # Its own output first: another server of this machine may have the port.
    until grep -q '^URI = ' /root/run.log && target/release/nsctl -n localhost ping > /dev/null 2>&1; do
        kill -0 $run 2> /dev/null || fail "make run ended"
        sleep 1
    done
    target/release/nsctl -n localhost register fresh.machine PYRO:object@localhost:4001 || fail "it does not register a name"
    target/release/nsctl -n localhost lookup fresh.machine || fail "it does not find the name"
    result="make run answered after $SECONDS s"
    kill -TERM -- -$run
    wait $run || true

    if [ "$only_first" = no ]; then
        say "make test"
        SECONDS=0
        make test || fail "$result; make test failed after $SECONDS s"
        result+="; make test passed after $SECONDS s"
    fi
    echo "$result" > /result
}

say() { printf '\n== fresh machine: %s\n' "$*"; }

fail() {
    echo "$*" > /result
    exit 1
}

if [ "${1:-}" = inside ]; then
    shift
    inside "$@"
    exit
fi

usage="usage: scripts/fresh_machine.sh [--first] [bookworm|trixie] [PACKAGE...]"
only_first=no
if [ "${1:-}" = --first ]; then
    only_first=yes
    shift
fi
suite=${1:-bookworm}
shift || true
case $suite in
    bookworm | trixie) ;;
    *)
        echo "$usage" >&2
        exit 2
        ;;
esac
[ "$(id -u)" = 0 ] || { echo "fresh_machine: mounting needs root" >&2; exit 2; }
for program in debootstrap git rustc unshare; do
    command -v $program > /dev/null || { echo "fresh_machine: there is no $program" >&2; exit 2; }
done

self=$(cd "$(dirname "$0")" && pwd)/fresh_machine.sh
folder=$(mktemp -d -p "${TMPDIR:-/var/tmp}" hearth-fresh.XXXXXX)
# mktemp creates it accessible to root only.
chmod 755 "$folder"
machine=
end() {
    # Its processes and mounts end with it. unshare waits for its first process and reacts to no signal but SIGKILL.
    [ -z "$machine" ] || { kill -KILL "$machine" && wait "$machine"; } 2> /dev/null || true
    local attempt
    for attempt in 1 2 3 4 5; do
        rm -rf --one-file-system "$folder" && break
        sleep "$attempt"
    done
}
trap end EXIT
trap 'exit 130' INT TERM HUP

say "debootstrap $suite in $folder"
began=$SECONDS
# The mirror that this machine uses, if it is a Debian.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 2> /dev/null | head -n 1) || true
debootstrap --variant=minbase "$suite" "$folder" ${mirror:+"$mirror"} > "$folder.log" 2>&1 || {
    tail -n 20 "$folder.log" >&2
    rm -f "$folder.log"
    exit 1
}
rm -f "$folder.log"
git clone --quiet --no-hardlinks "$(dirname "$self")/.." "$folder/root/hearth"

# /etc/hosts as the Debian installer writes it.
printf '127.0.0.1\tlocalhost\n127.0.1.1\tfresh\n::1\tlocalhost ip6-localhost ip6-loopback\n' > "$folder/etc/hosts"
echo fresh > "$folder/etc/hostname"

# The settings with which this machine reaches package sources.
certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
settings=()
if [ -r "$certificates" ]; then
    cp -L "$certificates" "$folder/opt/certificates.pem"
    for name in SSL_CERT_FILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE PIP_CERT GIT_SSL_CAINFO CARGO_HTTP_CAINFO; do
        settings+=("$name=/opt/certificates.pem")
    done
    echo 'Acquire::https::CaInfo "/opt/certificates.pem";' > "$folder/etc/apt/apt.conf.d/80machine"
fi
apt-config dump 2> /dev/null | grep -E '^Acquire::(https?::.*Proxy|Check-|Retries)' >> "$folder/etc/apt/apt.conf.d/80machine" || true
for file in /etc/pip.conf "$HOME/.config/pip/pip.conf" "${CARGO_HOME:-$HOME/.cargo}/config.toml"; do
    [ -r "$file" ] || continue
    case $file in
        */config.toml) target=/root/.cargo/config.toml ;;
        /etc/*) target=$file ;;
        *) target=/root/.config/pip/pip.conf ;;
    esac
    mkdir -p "$folder$(dirname $target)"
    cp -L "$file" "$folder$target"
done
while IFS= read -r -d '' item; do
    settings+=("$item")
done < <(env -0 | grep -z -iE '^((https?|no|all)_proxy|PIP_(INDEX|EXTRA_INDEX|TRUSTED|DEFAULT)[A-Z_]*|CARGO_(NET|REGISTRY|REGISTRIES|SOURCE)_[A-Z_]*|CARGO_HTTP_(PROXY|MULTIPLEXING))=')

# Below, ccache compares compilers by content, because those of the fresh machine have another modification time.
ccache=$(ccache --get-config cache_dir 2> /dev/null) || true
[ -d "$ccache" ] || ccache=

env -i HOME=/root PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    CCACHE_COMPILERCHECK=content ${CI:+CI="$CI"} "${settings[@]}" \
    "$(command -v unshare)" --mount --pid --fork --kill-child \
    "$self" inside "$folder" "$(rustc --print sysroot)" "$ccache" "$only_first" "$@" &
machine=$!
status=0
wait $machine || status=$?
machine=
result=$(cat "$folder/result" 2> /dev/null || echo "it ended early")
[ $status = 0 ] && verdict=passed || verdict=FAILED
say "$suite${*:+ with $*}: $verdict: $result; $((SECONDS - began)) s in all"
exit $status
