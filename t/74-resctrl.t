#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# t/46-resctrl.t in a virtual machine whose emulated processor has cache allocation (t/vm/resctrl.c).
. "${0%/*}/lib/tap.sh"
cd "$srcdir" || exit 1
case $(uname -m) in x86_64) ;; *) skip_all "the guest is x86_64" ;; esac
grep -q __asan_init "$build/cricketd" && skip_all "not for a build with sanitizers"
why=$(t/vm/run --resctrl --workdir none --timeout 300 -- sh -c 'test -d /sys/fs/resctrl || echo cannot: the guest has no resctrl' 2>&1)
rc=$?
case $why in *cannot:*) skip_all "$(sed -n 's/^cannot: //p' <<<"$why" | tail -n 1)" ;; esac
[ $rc = 0 ] || { diag "$why"; echo "Bail out! the guest does not start ($rc)"; exit 1; }
/usr/bin/python3 -c 'import sys; sys.path.insert(0, "t/lib"); import cricket' || exit 1
case $build/ in "$srcdir"/*) share=() ;; *) share=(--share "$build:build") ;; esac

t/vm/run --resctrl --mem 1G --timeout 1500 "${share[@]}" --workdir "$srcdir:rw" \
    --env CRICKET_BUILD="$build" --env CRICKET_TEST_SLOW=5 --env CRICKET_TEST_TMP=/var/tmp --env CRICKET_TEST_RESCTRL=mine \
    --env PYTHONDONTWRITEBYTECODE=1 -- "$srcdir/t/46-resctrl.t" >"$tmp/out" 2>"$tmp/err"
rc=$?
while IFS= read -r line; do
    case $line in
    '1..0 # SKIP '*) ok 0 "${line#*SKIP }" ;;
    'ok '*'# SKIP '*) skip "${line#*SKIP }" ;;
    'ok '*) ok 1 "${line#ok * - }" ;;
    'not ok '*) ok 0 "${line#not ok * - }" ;;
    esac
done <"$tmp/out"
is "$rc" 0 "the guest's part ends with 0"
if [ "$tap_failed" != 0 ]; then diag "$(tail -n 120 "$tmp/err")"; fi
done_testing
