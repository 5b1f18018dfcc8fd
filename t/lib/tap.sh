# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# TAP for tests written in bash:
#
#   . "${0%/*}/lib/tap.sh"
#   ok "$((1 + 1 == 2))" "a sum"            1 passes, all else fails
#   is "$(echo a)" a "echo"
#   run_ok "what it does" command args...    passes when the command does; its output is shown if not
#   done_testing
#
# $srcdir is the top of the sources, $build the build folder, $tmp a directory that goes away at the end;
# at_exit COMMAND... adds to what is done then. A test that ends early prints no plan, so prove fails it.
set -u
export LC_ALL=C
umask 022
export HOME="${HOME-$(getent passwd "$(id -u)" | cut -d: -f6)}"
srcdir=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$(cd "${CRICKET_BUILD:-$srcdir/build}" 2>/dev/null && pwd) || build=
tmp=$(mktemp -d "${CRICKET_TEST_TMP:-/tmp}/cricket-XXXXXX")
tap_n=0 tap_failed=0 tap_at_exit=()

at_exit() { tap_at_exit+=("$(printf '%q ' "$@")"); }

tap_end() {
    local i
    for ((i = ${#tap_at_exit[@]} - 1; i >= 0; i--)); do eval "${tap_at_exit[i]}"; done
    rm -rf "$tmp"
}
trap tap_end EXIT
trap 'exit 143' TERM INT HUP

diag() { printf '%s\n' "$*" | sed 's/^/# /' >&2; }

ok() {
    tap_n=$((tap_n + 1))
    if [ "$1" = 1 ]; then echo "ok $tap_n - ${2//#/=}"; return 0; fi
    tap_failed=$((tap_failed + 1))
    echo "not ok $tap_n - ${2//#/=}"
    diag "failed at ${BASH_SOURCE[${tap_up:-1}]##*/}:${BASH_LINENO[$((${tap_up:-1} - 1))]}: $2"
    return 1
}

is() {
    tap_up=2 ok "$([ "$1" = "$2" ] && echo 1)" "$3" || { diag "     got: '$1'"; diag "expected: '$2'"; return 1; }
}

run_ok() {
    local what=$1; shift
    if "$@" >"$tmp/.run_ok" 2>&1; then tap_up=2 ok 1 "$what"
    else tap_up=2 ok 0 "$what"; diag "$* ended with $?:"; diag "$(tail -n 40 "$tmp/.run_ok")"; return 1; fi
}

skip() { tap_n=$((tap_n + 1)); echo "ok $tap_n # SKIP $1"; }
skip_all() { echo "1..0 # SKIP $1"; exit 0; }

need() {
    local w
    for w; do
        if [ "$w" = root ]; then [ "$(id -u)" = 0 ] || skip_all "needs root"
        else command -v "$w" >/dev/null 2>&1 || skip_all "needs the program $w"; fi
    done
}

done_testing() {
    echo "1..$tap_n"
    [ "$tap_failed" = 0 ] || diag "$tap_failed of $tap_n failed"
    exit "$((tap_failed != 0))"
}
