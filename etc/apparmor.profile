# SPDX-License-Identifier: Apache-2.0
# What RuntimeDefault means where the kernel has AppArmor; cricketd loads it (apparmor_parser) when no profile
# of this name is there yet. Files, network and capabilities are decided by other means; this keeps what is
# not namespaced out of reach, also from who has got all capabilities: mounts, the kernel's own files.
profile cricket-default flags=(attach_disconnected,mediate_deleted) {
  file,
  network,
  capability,
  umount,
  deny mount,

  # killed by the runtime, or by one another
  signal (receive) peer=unconfined,
  signal (receive) peer=crun,
  signal (receive) peer=runc,
  signal (send, receive) peer=cricket-default,
  ptrace (trace, read, tracedby, readby) peer=cricket-default,

  # of /proc: not the top, of sysctls those of IPC and network only
  deny /proc/* w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /proc/sys/{[^fkn],f[^s],k[^e],n[^e]}** wklx,
  deny /proc/sys/fs/{[^m],m[^q]}** wklx,
  deny /proc/sys/kernel/{[^ms],m[^s],s[^he]}** wklx,

  # of /sys: cgroups only
  deny /sys/{[^f],f[^s]}** wklx,
  deny /sys/fs/{[^c],c[^g]}** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}
