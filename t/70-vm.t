#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What depends on the kernel, once more on cgroup v2: these tests run in one virtual machine (t/vm), each of
# their results is a result here. The processor is emulated where there is no KVM, so they have patience.
# CRICKET_VM_KERNEL is the guest's kernel, CRICKET_VM_KERNEL_ARGS=vm.cgroup1 makes it cgroup v1.
. "${0%/*}/lib/tap.sh"
tests=${CRICKET_VM_TESTS:-"t/40-containers.t t/40-exec.t t/40-stop.t t/40-resources.t t/40-restart.t t/45-apparmor.t t/45-security.t t/45-userns.t t/46-checkpoint-pod.t t/46-checkpoint.t t/48-oci.t t/50-fingerprint.t t/55-stats.t"}
units=${CRICKET_VM_UNITS:-"t/unit/cgroup t/unit/stats"}
cd "$srcdir" || exit 1
case $(uname -m) in x86_64) ;; *) skip_all "the guest is x86_64" ;; esac
grep -q __asan_init "$build/cricketd" && skip_all "not for a build with sanitizers"
why=$(t/vm/run --workdir none --timeout 300 -- true 2>&1)
rc=$?
[ $rc != 77 ] || skip_all "$(sed -n 's/^cannot: //p' <<<"$why" | tail -n 1)"
[ $rc = 0 ] || { diag "$why"; echo "Bail out! the guest does not start ($rc)"; exit 1; }

# stubs for the guest, which has no generator
/usr/bin/python3 -c 'import sys; sys.path.insert(0, "t/lib"); import cricket' || exit 1

cat >"$tmp/guest" <<'G'
#!/bin/bash
export CRICKET_TEST_TMP=/var/tmp PYTHONDONTWRITEBYTECODE=1 CRICKET_TEST_CRIU=works
for t; do
    echo "== $t"
    "$t"
    echo "== end $?"
done
G
chmod 755 "$tmp/guest"
slow=5 limit=3000
ls "${CRICKET_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cricket-vm}"/kvm-* >/dev/null 2>&1 &&
    grep -q yes "${CRICKET_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cricket-vm}"/kvm-* && slow=2
have=()
for t in $tests; do [ -e "$t" ] && have+=("$srcdir/$t"); done
for t in $units; do have+=("$build/$t"); done
case $build/ in "$srcdir"/*) share=() ;; *) share=(--share "$build:build") ;; esac

t/vm/run --mem 1G --timeout $limit --share "$tmp:tests:ro" "${share[@]}" --workdir "$srcdir:rw" \
    --env CRICKET_BUILD="$build" --env CRICKET_TEST_SLOW=$slow -- /mnt/tests/guest "${have[@]}" \
    >"$tmp/out" 2>"$tmp/err"
rc=$?

name='' n=0
while IFS= read -r line; do
    case $line in
    '== end '*)
        ok "$([ "$line" = '== end 0' ] && echo 1)" "$name ended with ${line#== end }"
        name='' ;;
    '== '*) name=${line##*/} ;;
    '1..0 # SKIP '*) skip "$name: ${line#*SKIP }" ;;
    'ok '*'# SKIP '*) skip "$name: ${line#*SKIP }" ;;
    'ok '*) ok 1 "$name: ${line#ok * - }" ;;
    'not ok '*) ok 0 "$name: ${line#not ok * - }" ;;
    esac
done <"$tmp/out"
is "$rc" 0 "the guest ends in order (${CRICKET_VM_KERNEL:-kernel of t/vm/run})"
if [ "$tap_failed" != 0 ]; then diag "$(tail -n 150 "$tmp/err")"; fi
done_testing
