#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# t/46-resctrl.t in a virtual machine whose emulated processor has cache allocation (t/vm/resctrl.c).
. "${0%/*}/lib/vm.sh"
vm_needs --resctrl -- sh -c 'test -d /sys/fs/resctrl || echo cannot: the guest has no resctrl'
vm_run --resctrl --timeout 1500 --env CRICKET_TEST_RESCTRL=mine -- "$srcdir/t/46-resctrl.t"
