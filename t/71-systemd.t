#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# cricket as a service of systemd, in a virtual machine: the unit as it is installed, readiness, stop, restart and
# crash with containers running. The guest's part is t/vm/systemd-guest.
. "${0%/*}/lib/tap.sh"
cd "$srcdir" || exit 1
case $(uname -m) in x86_64) ;; *) skip_all "the guest is x86_64" ;; esac
grep -q __asan_init "$build/cricketd" && skip_all "not for a build with sanitizers"
why=$(t/vm/run --workdir none --timeout 300 -- true 2>&1)
rc=$?
[ $rc != 77 ] || skip_all "$(sed -n 's/^cannot: //p' <<<"$why" | tail -n 1)"
[ $rc = 0 ] || { diag "$why"; echo "Bail out! the guest does not start ($rc)"; exit 1; }
/usr/bin/python3 -c 'import sys; sys.path.insert(0, "t/lib"); import cricket' || exit 1
run_ok "make install" make -C "$build" install DESTDIR="$tmp/stage"
case $build/ in "$srcdir"/*) share=() ;; *) share=(--share "$build:build") ;; esac

# not from /tmp: under systemd the guest's own /tmp is the shared folder's mount point
t/vm/run --systemd --mem 1G --timeout 1500 --share "$tmp/stage:stage:ro" "${share[@]}" --workdir "$srcdir:rw" \
    --env CRICKET_BUILD="$build" --env CRICKET_TEST_SLOW=5 -- "$srcdir/t/vm/systemd-guest" >"$tmp/out" 2>"$tmp/err"
rc=$?
while IFS= read -r line; do
    case $line in
    'ok '*'# SKIP '*) skip "${line#*SKIP }" ;;
    'ok '*) ok 1 "${line#ok * - }" ;;
    'not ok '*) ok 0 "${line#not ok * - }" ;;
    esac
done <"$tmp/out"
is "$rc" 0 "the guest's part ends with 0"
if [ "$tap_failed" != 0 ]; then diag "$(tail -n 120 "$tmp/err")"; fi
done_testing
