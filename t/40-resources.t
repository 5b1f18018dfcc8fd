#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""cgroups: what a container is limited to, OOMKilled, updates that are all or nothing, parents made and removed."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon()
V2 = cgroup_is_v2()
pod = d.runp("p")
MB = 1 << 20


def value(ctr, controller, v1, v2):
    """What a control file of the container's cgroup says, and where it is."""
    with open("/proc/%d/cgroup" % d.pid_of(ctr)) as f:
        for line in f:
            _, names, path = line.rstrip("\n").split(":", 2)
            if (V2 and names == "") or controller in names.split(","):
                with open(cgroup_file(controller, path, v2 if V2 else v1)) as g:
                    return g.read().strip()
    return None


c = d.start(pod, "limited", resources={"memory_limit_in_bytes": 64 * MB, "cpu_shares": 512, "cpu_quota": 50000,
                                       "cpu_period": 100000, "oom_score_adj": 500, "cpuset_cpus": "0"})
with open("/proc/%d/cgroup" % d.pid_of(c)) as f:
    paths = {line.rstrip("\n").split(":", 2)[2] for line in f}
ok(all(p == d.cgroup + "/" + c for p in paths if d.cgroup in p) and any(d.cgroup in p for p in paths),
   "the cgroup is <parent>/<container id>", *paths)
is_(value(c, "memory", "memory.limit_in_bytes", "memory.max"), str(64 * MB), "memory limit")
if V2:
    is_(value(c, "cpu", "", "cpu.max"), "50000 100000", "cpu quota and period")
    like(value(c, "cpu", "", "cpu.weight"), r"^(20|59)$", "cpu shares as weight")
else:
    is_(value(c, "cpu", "cpu.cfs_quota_us", ""), "50000", "cpu quota")
    is_(value(c, "cpu", "cpu.shares", ""), "512", "cpu shares")
is_(value(c, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0", "cpuset")
with open("/proc/%d/oom_score_adj" % d.pid_of(c)) as f:
    is_(f.read().strip(), "500", "oom_score_adj")
r = d.status(c).resources.linux
is_((r.memory_limit_in_bytes, r.cpu_shares, r.cpu_quota, r.cpu_period, r.oom_score_adj), (64 * MB, 512, 50000, 100000, 500),
    "the status shows them")

# --- update
d.UpdateContainerResources(container_id=c, linux={"memory_limit_in_bytes": 128 * MB})
is_(value(c, "memory", "memory.limit_in_bytes", "memory.max"), str(128 * MB), "update: memory")
r = d.status(c).resources.linux
is_((r.memory_limit_in_bytes, r.cpu_shares, r.cpu_quota), (128 * MB, 512, 50000), "what is not given is left alone")
d.UpdateContainerResources(container_id=c, linux={"cpu_quota": 70000, "cpu_shares": 1024, "oom_score_adj": 900})
with open("/proc/%d/oom_score_adj" % d.pid_of(c)) as f:
    is_(f.read().strip(), "900", "update: oom_score_adj")
is_(d.status(c).resources.linux.cpu_quota, 70000, "update: cpu quota")
fails(d.UpdateContainerResources, "UNKNOWN|INVALID_ARGUMENT|FAILED_PRECONDITION|INTERNAL", "", "a cpuset that is not there is refused",
      container_id=c, linux={"cpu_shares": 2048, "memory_limit_in_bytes": 256 * MB, "cpuset_cpus": "4000-4001"})
is_(value(c, "memory", "memory.limit_in_bytes", "memory.max"), str(128 * MB), "then nothing of the update is done")
r = d.status(c).resources.linux
is_((r.cpu_shares, r.memory_limit_in_bytes, r.cpuset_cpus), (1024, 128 * MB, "0"), "and the status says so")
fails(d.UpdateContainerResources, "NOT_FOUND", "0000", "unknown container", container_id="0" * 64, linux={"cpu_shares": 2})
used = d.start(pod, "used", command=["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=30; echo ready; sleep 1000"],
               resources={"memory_limit_in_bytes": 100 * MB})
path = d.status(used).log_path
wait_until(lambda: b"ready" in d.log_bytes(path), "memory is in use")
fails(d.UpdateContainerResources, "UNKNOWN|INVALID_ARGUMENT|FAILED_PRECONDITION|INTERNAL", "", "a limit below what is in use is refused",
      container_id=used, linux={"memory_limit_in_bytes": 8 * MB})
is_(d.status(used).state, RUNNING, "and nobody is killed")
made = d.create(pod, "made", command=["sleep", "1000"])
d.UpdateContainerResources(container_id=made, linux={"memory_limit_in_bytes": 77 * MB})
d.StartContainer(container_id=made)
is_(value(made, "memory", "memory.limit_in_bytes", "memory.max"), str(77 * MB), "an update before the start holds at the start")

# --- OOM
eat = "x=a; while :; do x=$x$x; done"
o = d.start(pod, "oom", command=["sh", "-c", eat], resources={"memory_limit_in_bytes": 15 * MB, "memory_swap_limit_in_bytes": 15 * MB})
s = d.wait_exit(o)
is_((s.exit_code, s.reason), (137, "OOMKilled"), "over the limit: 137, OOMKilled")
o = d.start(pod, "no-oom", command=["sh", "-c", "kill -9 0; sleep 100"], resources={"memory_limit_in_bytes": 64 * MB})
d.StopContainer(container_id=o, timeout=0)
is_(d.status(o).reason, "Error", "killed otherwise: not OOMKilled")
is_(d.status(c).state, RUNNING, "the others run on")

# --- pids by annotation
p = d.start(pod, "pids", command=["sleep", "1000"], annotations={"cgroup.pids.max": "20"})
is_(value(p, "pids", "pids.max", "pids.max"), "20", "the annotation cgroup.pids.max")

# --- devices
out, err, code = d.sh(c, "echo x > /dev/null && head -c 1 /dev/zero | wc -c; mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg")
ok(out.startswith(b"1\n") and code != 0 and b"ermitted" in err, "devices that were not given cannot be opened", out, err)

# --- a cgroup parent that is somebody else's
parent = d.cgroup + "/kubepods/burstable"
mounts = [m for m, v2, _ in cgroup_mounts() if v2 == V2 or not V2]
q = d.runp(config=d.pod_config("q", linux={"cgroup_parent": parent + "/pod1"}))
cq = d.start(q)
ok(os.path.isdir(cgroup_file("memory", parent + "/pod1/" + cq, "")), "cgroup_parent is made where it is missing")
d.remove(q)
ok(not os.path.isdir(cgroup_file("memory", parent, "")), "and removed again")
for m, v2, _ in cgroup_mounts():
    if v2 == V2 or not v2:
        os.makedirs(m + parent + "/pod2", exist_ok=True)
q = d.runp(config=d.pod_config("q2", linux={"cgroup_parent": parent + "/pod2"}))
cq = d.start(q)
with open("/proc/%d/cgroup" % proc_stat(d.pid_of(cq))[1]) as f:
    ok(parent not in f.read(), "the supervisor is not in the pod's cgroup")
d.remove(q)
ok(os.path.isdir(cgroup_file("memory", parent + "/pod2", "")), "a parent that was there before stays")
for m, v2, _ in cgroup_mounts():
    for part in ("/pod2", "", "/.."):
        where = os.path.normpath(m + parent + part)
        if os.path.isdir(where) and where.startswith(m + d.cgroup + "/"):
            os.rmdir(where)

# --- stats
st = d.ContainerStats(container_id=c).stats
is_((st.attributes.id, st.attributes.metadata.name), (c, "limited"), "stats: attributes")
ok(st.cpu.timestamp > 0 and st.cpu.usage_core_nano_seconds.value > 0, "stats: cpu")
ok(st.memory.timestamp > 0 and st.memory.working_set_bytes.value > 0, "stats: memory")
is_(sorted(x.attributes.id for x in d.ListContainerStats(filter={"id": c}).stats), [c], "stats: by id")
d.remove_all()
finish(d)
