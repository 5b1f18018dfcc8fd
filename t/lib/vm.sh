# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# For tests that run tests in a virtual machine (t/vm). After tap.sh's own:
#
#   vm_needs [OPTION...] -- COMMAND...   skips all where no guest with these options is to be had, or COMMAND says in
#                                        it "cannot: why"; bails out where it does not start
#   vm_run [OPTION...] -- COMMAND...     COMMAND in a guest that has the tree and the build folder at their own paths;
#                                        its results become ours, and that it ended with 0 is one more; ends the test
#
# A line "== NAME" in its output begins a test of that name, "== end STATUS" ends it.
. "${BASH_SOURCE[0]%/*}/tap.sh"
cd "$srcdir" || exit 1
case $(uname -m) in x86_64) ;; *) skip_all "the guest is x86_64" ;; esac
grep -q __asan_init "$build/cricketd" && skip_all "not for a build with sanitizers"

vm_needs() {
    local why rc
    why=$(t/vm/run --workdir none --timeout 300 "$@" 2>&1)
    rc=$?
    case $rc:$why in 77:* | *cannot:*) skip_all "$(sed -n 's/^cannot: //p' <<<"$why" | tail -n 1)" ;; esac
    [ $rc = 0 ] || { diag "$why"; echo "Bail out! the guest does not start ($rc)"; exit 1; }
    # stubs for the guest, which has no generator
    /usr/bin/python3 -c 'import sys; sys.path.insert(0, "t/lib"); import cricket' || exit 1
}

vm_results() {
    local line at=
    while IFS= read -r line; do
        case $line in
        '== end '*) ok "$([ "$line" = '== end 0' ] && echo 1)" "${at}ended with ${line#== end }"; at= ;;
        '== '*) at=${line#== }; at="${at##*/}: " ;;
        '1..0 # SKIP '*) if [ "$at" ]; then skip "$at${line#*SKIP }"; else ok 0 "${line#*SKIP }"; fi ;;
        'ok '*'# SKIP '*) skip "$at${line#*SKIP }" ;;
        'ok '*) ok 1 "$at${line#ok * - }" ;;
        'not ok '*) ok 0 "$at${line#not ok * - }" ;;
        esac
    done
}

vm_run() {
    local share=() slow=5 rc cache=${CRICKET_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cricket-vm}
    case $build/ in "$srcdir"/*) ;; *) share=(--share "$build:build") ;; esac
    grep -qs yes "$cache"/kvm-* && slow=2        # else the processor is emulated
    t/vm/run --mem 1G "${share[@]}" --workdir "$srcdir:rw" --env CRICKET_BUILD="$build" --env CRICKET_TEST_SLOW=$slow \
        --env CRICKET_TEST_TMP=/var/tmp --env PYTHONDONTWRITEBYTECODE=1 "$@" >"$tmp/out" 2>"$tmp/err"
    rc=$?
    vm_results <"$tmp/out"
    is "$rc" 0 "the guest ends in order (${CRICKET_VM_KERNEL:-kernel of t/vm/run})"
    if [ "$tap_failed" != 0 ]; then diag "$(tail -n 150 "$tmp/err")"; fi
    done_testing
}
