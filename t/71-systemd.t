#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# cricket as a service of systemd, in a virtual machine: the unit as it is installed, readiness, stop, restart and
# crash with containers running. The guest's part is t/vm/systemd-guest.
. "${0%/*}/lib/vm.sh"
vm_needs -- true
run_ok "make install" make -C "$build" install DESTDIR="$tmp/stage"
# not from /tmp: under systemd the guest's own /tmp is the shared folder's mount point
vm_run --systemd --timeout 1500 --share "$tmp/stage:stage:ro" -- "$srcdir/t/vm/systemd-guest"
