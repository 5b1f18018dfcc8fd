#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The essentials once more on the kernel that Debian 12 has by default, where t/70-vm.t runs on a newer one: launch,
# exec (with a kill -9 of the daemon), stop, limits and the OOM killer, seccomp, mounts, devices, user namespaces.
case ${CRICKET_VM_KERNEL-} in 6.1 | 6.1-cloud) echo "1..0 # SKIP t/70-vm.t runs on $CRICKET_VM_KERNEL"; exit 0 ;; esac
export CRICKET_VM_KERNEL=6.1-cloud
export CRICKET_VM_TESTS="t/40-containers.t t/40-exec.t t/40-stop.t t/40-resources.t t/45-security.t t/45-userns.t"
export CRICKET_VM_UNITS=t/unit/cgroup
exec "${0%/*}/70-vm.t"
