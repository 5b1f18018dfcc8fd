#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What depends on the kernel, once more on cgroup v2: these tests run in one virtual machine (t/vm), each of
# their results is a result here. The processor is emulated where there is no KVM, so they have patience.
. "${0%/*}/lib/vm.sh"
tests=${CRICKET_VM_TESTS:-"t/40-containers.t t/40-exec.t t/40-stop.t t/40-resources.t t/40-restart.t t/45-apparmor.t t/45-security.t t/45-userns.t t/46-checkpoint-pod.t t/46-checkpoint.t t/46-restore-pod.t t/46-restore.t t/48-oci.t t/50-fingerprint.t t/55-stats.t"}
units=${CRICKET_VM_UNITS:-"t/unit/cgroup t/unit/stats"}
vm_needs -- true
cat >"$tmp/guest" <<'G'
#!/bin/bash
for t; do
    echo "== $t"
    "$t"
    echo "== end $?"
done
G
chmod 755 "$tmp/guest"
have=()
for t in $tests; do [ -e "$t" ] && have+=("$srcdir/$t"); done
for t in $units; do have+=("$build/$t"); done
vm_run --timeout 3000 --share "$tmp:tests:ro" --env CRICKET_TEST_CRIU=works -- /mnt/tests/guest "${have[@]}"
