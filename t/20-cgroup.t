#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Containers' cgroups through the daemon: where they are, limits, updates all or nothing, devices, and what is left."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import (Daemon, EXITED, cgroup_file, cgroup_is_v2, cgroup_mounts, error, fails, finish, is_, like,  # noqa: E402
                     ok, wait_until)

V2 = cgroup_is_v2()
MIB = 1 << 20


def read(controller, cgroup, name):
    try:
        with open(cgroup_file(controller, cgroup, name)) as f:
            return f.read().strip()
    except OSError as e:
        return e.strerror


def dirs(cgroup):
    """In how many hierarchies the directory is."""
    return sum(os.path.isdir(m + cgroup) for m, v2, _ in cgroup_mounts() if v2 == V2)


def memory(cg):
    return read("memory", cg, "memory.max" if V2 else "memory.limit_in_bytes")


def shares(cg):
    return read("cpu", cg, "cpu.weight" if V2 else "cpu.shares")


def weight(n):
    return str(1 + (n - 2) * 9999 // 262142) if V2 else str(n)


d = Daemon()
parent = d.cgroup + "/pod1"
pod = d.runp(config=d.pod_config("limits", linux={"cgroup_parent": parent}))
HUGE = [{"page_size": "2MB", "limit": 0}, {"page_size": "1GB", "limit": 0}]
ctr = d.start(pod, "main", resources={
    "cpu_shares": 512, "cpu_quota": 50000, "cpu_period": 100000, "memory_limit_in_bytes": 64 * MIB,
    "memory_swap_limit_in_bytes": 64 * MIB, "oom_score_adj": 500, "hugepage_limits": HUGE, "cpuset_cpus": "0"},
    annotations={"cgroup.pids.max": "50"})
cg = parent + "/" + ctr
HIERARCHIES = dirs(cg)
is_(HIERARCHIES, sum(v2 == V2 for _, v2, _ in cgroup_mounts()), "the container is below its parent in every hierarchy")
pid = d.pid_of(ctr)
with open("/proc/%d/cgroup" % pid) as f:
    lines = [x.strip().split(":", 2) for x in f]
is_({p for n, c, p in lines if V2 or n != "0"}, {cg}, "and its process is in each of them")
is_(memory(cg), str(64 * MIB), "memory")
is_(read("memory", cg, "memory.swap.max" if V2 else "memory.memsw.limit_in_bytes"), "0" if V2 else str(64 * MIB), "swap")
is_(shares(cg), weight(512), "shares")
is_(read("cpu", cg, "cpu.max" if V2 else "cpu.cfs_quota_us"), "50000 100000" if V2 else "50000", "quota")
is_(read("pids", cg, "pids.max"), "50", "pids by annotation")
is_(read("cpuset", cg, "cpuset.cpus"), "0", "cpuset")
with open("/proc/%d/oom_score_adj" % pid) as f:
    is_(f.read().strip(), "500", "oom_score_adj")

# updates
d.UpdateContainerResources(container_id=ctr, linux={"memory_limit_in_bytes": 128 * MIB,
                                                    "memory_swap_limit_in_bytes": 128 * MIB, "cpu_shares": 1024})
is_((memory(cg), shares(cg)), (str(128 * MIB), weight(1024)), "an update")
is_(read("cpu", cg, "cpu.max" if V2 else "cpu.cfs_quota_us"), "50000 100000" if V2 else "50000", "leaves the rest alone")
r = d.status(ctr).resources.linux
is_((r.memory_limit_in_bytes, r.cpu_shares, r.cpu_quota), (128 * MIB, 1024, 50000), "and shows in the status")
code, text = error(d.UpdateContainerResources, container_id=ctr, linux={"cpu_shares": 2048, "cpuset_mems": "60"})
ok(code != "OK", "a memory node that is not there: refused", text)
is_((memory(cg), shares(cg)), (str(128 * MIB), weight(1024)), "with nothing changed")
is_(d.status(ctr).resources.linux.cpu_shares, 1024, "nor the status")
fails(d.UpdateContainerResources, "FAILED_PRECONDITION|INVALID_ARGUMENT|UNKNOWN", "in use", "a limit below what is in use",
      container_id=ctr, linux={"memory_limit_in_bytes": 4096})
is_(memory(cg), str(128 * MIB), "the old one stays")
fails(d.UpdateContainerResources, "INVALID_ARGUMENT", "cpu_period", "nonsense", container_id=ctr, linux={"cpu_period": 5})
fails(d.UpdateContainerResources, "INVALID_ARGUMENT", "unified", "a path as a file name", container_id=ctr,
      linux={"unified": {"../x": "1"}})
if V2:
    d.UpdateContainerResources(container_id=ctr, linux={"unified": {"memory.high": str(96 * MIB)}})
    is_(read("memory", cg, "memory.high"), str(96 * MIB), "unified")

# devices
is_(d.sh(ctr, "cat </dev/null && head -c 2 /dev/zero | wc -c && echo x >/dev/full")[::2], (b"2\n", 1), "default devices")
out, err, status = d.sh(ctr, "mknod /tmp/k c 1 11 && cat /tmp/k")
ok(status != 0 and b"Operation not permitted" in err, "any node may be made, /dev/kmsg not read", out, err)
out, err, status = d.sh(ctr, "mknod /tmp/n c 1 3 && echo x >/tmp/n")
is_((err, status), (b"", 0), "a second /dev/null may be used")
dev = d.start(pod, "dev", devices=[{"host_path": "/dev/null", "container_path": "/dev/special", "permissions": "r"}])
out, err, status = d.sh(dev, "ls -l /dev/special && cat /dev/special")
like(out, r"^crw.* 1, +3 .*/dev/special", "a device that was asked for")
is_(status, 0, "is read")

# processes die with the container
fork = d.start(pod, "fork", command=["sh", "-c", "for i in 1 2 3 4 5; do sleep 1000000 & done; trap '' TERM; wait; sleep 1000000"])
fcg = parent + "/" + fork
wait_until(lambda: len(read("pids", fcg, "cgroup.procs").split()) >= 6, "the children are there")
pids = read("pids", fcg, "cgroup.procs").split()
d.StopContainer(container_id=fork, timeout=0)
is_(d.status(fork).state, EXITED, "stopped")
is_([p for p in pids if os.path.exists("/proc/" + p) and open("/proc/%s/stat" % p).read().split()[2] not in "ZX"], [],
    "all its processes are gone")

# pids
full = d.start(pod, "full", annotations={"cgroup.pids.max": "4"})
out, err, status = d.sh(full, "sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & true")
ok(b"fork" in err, "more processes than allowed: fork fails", out, err)
fails(d.CreateContainer, "INVALID_ARGUMENT", "cgroup.pids.max", "a bad annotation", pod_sandbox_id=pod,
      config=d.ctr_config("bad", command=["true"], annotations={"cgroup.pids.max": "many"}))

# what is left: a directory that was there before stays, what we made goes
for c in (ctr, dev, fork, full):
    d.RemoveContainer(container_id=c)
wait_until(lambda: dirs(cg) == 0, "the container's directory goes")
ok(dirs(cg) == 0, "removed containers leave no directory")
theirs = [m + d.cgroup + "/kubelet/pod2" for m, v2, _ in cgroup_mounts() if v2 == V2]
for path in theirs:
    os.makedirs(path)
pod2 = d.runp(config=d.pod_config("theirs", linux={"cgroup_parent": d.cgroup + "/kubelet/pod2"}))
c2 = d.start(pod2)
is_(dirs(d.cgroup + "/kubelet/pod2/" + c2), HIERARCHIES, "a container in a parent that kubelet made")
d.remove(pod, pod2)
wait_until(lambda: dirs(parent) == 0, "our parent goes")
ok(dirs(parent) == 0, "a parent that we made is gone")
is_(dirs(d.cgroup + "/kubelet/pod2"), HIERARCHIES, "one that was there is not")
for path in theirs:
    os.removedirs(path)
fails(d.RunPodSandbox, "INVALID_ARGUMENT", "slice", "a slice with the cgroupfs driver",
      config=d.pod_config("slice", linux={"cgroup_parent": "/kubepods.slice"}))
wait_until(lambda: not os.listdir(d.root + "/containers"), "the directories are deleted, slowly")
finish(d)
