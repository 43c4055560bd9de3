#!/usr/bin/env bash
# Reports, before a long build, that the port on which hearthd will listen is in use. Where this script cannot tell,
# hearthd will.
#
# usage: scripts/check_port.sh ARGUMENT_OF_HEARTHD...
set -euo pipefail

host=${HEARTH_HOST:-${PYRO_HOST:-localhost}}
port=${HEARTH_PORT:-${PYRO_NS_PORT:-9090}}
[ -z "${HEARTH_UNIXSOCKET:-}${HEARTH_CONFIG:-}" ] || exit 0
while [ $# -gt 0 ]; do
    case $1 in
        -x?*)
            set -- "-${1#-x}" "${@:2}"
            continue
            ;;
        --ho*=*) host=${1#*=} ;;
        --po*=*) port=${1#*=} ;;
        -n | --ho*) host=${2:-} && shift ;;
        -p | --po*) port=${2:-} && shift ;;
        -n*) host=${1#-n} ;;
        -p*) port=${1#-p} ;;
        # Another address, or a file that may name one; or options with which no server starts.
        -u* | --unixsocket* | --config* | -h | --help | -V | --version) exit 0 ;;
    esac
    [ $# = 0 ] || shift
done
case $port in
    '' | 0 | *[!0-9]*) exit 0 ;;
esac
# A server that listens on all addresses also listens on localhost.
case $host in
    '' | 0.0.0.0 | ::) host=localhost ;;
esac
if timeout 5 bash -c 'exec 3<> "/dev/tcp/$1/$2"' check "$host" "$port" 2> /dev/null; then
    echo "run: port $port of $host is taken by another program; stop it, or choose another port: make run ARGS='-p PORT'" >&2
    exit 1
fi
