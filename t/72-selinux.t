#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# t/46-selinux.t in a virtual machine whose kernel enforces a small policy (t/vm/selinux-guest).
. "${0%/*}/lib/vm.sh"
vm_needs -- sh -c 'command -v secilc || echo cannot: the guest has no secilc'
vm_run --timeout 1500 --kernel-args "security=selinux enforcing=0" -- "$srcdir/t/vm/selinux-guest" "$srcdir/t/46-selinux.t"
