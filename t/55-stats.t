#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Statistics and metrics: what ContainerStats, PodSandboxStats and ListPodSandboxMetrics say of pods that do known things."""
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F401,F403
from cricket import Daemon, cgroup_is_v2, fails, finish, is_, like, need, ok, pb, skip, wait_until  # noqa: E402
from faults import Accident  # noqa: E402

need("root")
# what a kernel may not have, or a pod may not have done
OPTIONAL = {"container_" + n for n in (
    "ulimits_soft", "spec_cpu_quota", "spec_memory_reservation_limit_bytes", "hugetlb_usage_bytes", "hugetlb_max_usage_bytes",
    "fs_reads_bytes_total", "fs_reads_total", "fs_writes_bytes_total", "fs_writes_total", "blkio_device_usage_total",
    *("pressure_%s_%s_seconds_total" % (a, b) for a in ("cpu", "memory", "io") for b in ("stalled", "waiting")))}
MIB = 1 << 20

d = Daemon()
parent = d.cgroup + "/pod1"
pod = d.runp("web", linux={"cgroup_parent": parent}, labels={"app": "web"}, annotations={"note": "a b"})
work = d.start(pod, "work", command=["sh", "-c", """
dd if=/dev/zero of=/data bs=1M count=3 2>/dev/null; ln /data /data2; ln -s /data /data3
dd if=/dev/zero of=/dev/shm/mem bs=1M count=6 2>/dev/null
exec 7</data 8</data
i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done
sleep 100000 & echo ready; wait
"""], labels={"role": "worker"}, annotations={"x": "y"}, resources={
    "cpu_period": 100000, "cpu_quota": 80000, "cpu_shares": 512, "memory_limit_in_bytes": 64 * MIB,
    "memory_swap_limit_in_bytes": 64 * MIB})
log = d.status(work).log_path
wait_until(lambda: os.path.exists(log) and b"ready" in d.log_bytes(log), "the container has done its work")
idle = d.start(pod, "idle", labels={"role": "idler"})
made = d.create(pod, "made", command=["true"])

# --- one container
s = d.ContainerStats(container_id=work).stats
is_((s.attributes.id, s.attributes.metadata.name, dict(s.attributes.labels), dict(s.attributes.annotations)),
    (work, "work", {"role": "worker"}, {"x": "y"}), "attributes")
ok(s.cpu.timestamp > 0 and s.cpu.usage_core_nano_seconds.value > 1000000, "cpu time", s.cpu)
ok(not s.cpu.HasField("usage_nano_cores"), "no rate at the first reading")
ok(s.memory.usage_bytes.value >= 6 * MIB and 0 < s.memory.working_set_bytes.value <= s.memory.usage_bytes.value, "memory", s.memory)
is_(s.memory.available_bytes.value, 64 * MIB - s.memory.working_set_bytes.value, "what is left of the limit")
ok(s.memory.page_faults.value > 0, "page faults")
# an answer does not wait long for it
w = wait_until(lambda: [x for x in [d.ContainerStats(container_id=work).stats.writable_layer] if x.timestamp], "a measured layer")[0]
is_((w.fs_id.mountpoint, w.timestamp > 0), (d.root, True), "the writable layer's file system")
ok(3 * MIB <= w.used_bytes.value < 4 * MIB, "its size: hard links once, links not followed", w)
is_(w.inodes_used.value, 3, "its inodes: the directory, the file and the link, and no places of mounts")


def later():
    got = d.ContainerStats(container_id=work[:20]).stats
    return got if got.cpu.HasField("usage_nano_cores") else None


t = wait_until(later, "two readings 100 ms apart")
ok(t.cpu.timestamp > s.cpu.timestamp and t.cpu.usage_core_nano_seconds.value >= s.cpu.usage_core_nano_seconds.value, "a later reading")
m = d.ContainerStats(container_id=made).stats
is_((m.HasField("cpu"), m.HasField("memory"), m.attributes.metadata.name, m.writable_layer.used_bytes.value), (False, False, "made", 0),
    "a container that was not started: attributes and an empty layer")
if cgroup_is_v2() and os.path.exists("/proc/pressure/cpu"):
    ok(t.cpu.psi.HasField("Some") and t.memory.psi.HasField("Full") and t.io.psi.HasField("Some") and t.io.timestamp > 0, "pressure", t)
    ok(t.cpu.psi.Some.Total > 0, "of the CPU, with a quota")
else:
    skip("cgroup v1 has no pressure", 2)
fails(d.ContainerStats, "NOT_FOUND", "nope", "an unknown container", container_id="nope")
fails(d.ContainerStats, "INVALID_ARGUMENT", "empty", "no id", container_id="")

# --- lists and streams
names = lambda items: sorted(i.attributes.metadata.name for i in items)  # noqa: E731
is_(names(d.ListContainerStats().stats), ["idle", "made", "work"], "all containers")
is_(names(d.ListContainerStats(filter={"id": idle[:16]}).stats), ["idle"], "by id")
is_(names(d.ListContainerStats(filter={"pod_sandbox_id": pod}).stats), ["idle", "made", "work"], "by sandbox")
is_(names(d.ListContainerStats(filter={"label_selector": {"role": "worker"}}).stats), ["work"], "by label")
is_(names(d.ListContainerStats(filter={"label_selector": {"role": "w"}}).stats), [], "a label that nobody has")
got = list(d.StreamContainerStats())
is_(names(i for r in got for i in r.container_stats), ["idle", "made", "work"], "as a stream")
ok(all(len(r.container_stats) > 0 for r in got), "no empty message in it")
is_(list(d.StreamContainerStats(filter={"id": "nope"})), [], "an empty stream")

# --- pods
host = d.runp("host", net=False)
hosted = d.start(host, "hosted")
down = d.runp("down")
d.StopPodSandbox(pod_sandbox_id=down)
gateway = d.pod_status(pod).network.ip.rsplit(".", 1)[0] + ".1"
like(d.sh(idle, "ping -c 1 -W 30 " + gateway)[0], "1 packets received", "the pod uses its network")
p = d.PodSandboxStats(pod_sandbox_id=pod[:16]).stats
is_((p.attributes.id, p.attributes.metadata.name, dict(p.attributes.labels), dict(p.attributes.annotations)),
    (pod, "web", {"app": "web"}, {"note": "a b"}), "attributes of a pod")
ok(p.linux.cpu.usage_core_nano_seconds.value >= t.cpu.usage_core_nano_seconds.value, "cpu time of the pod's cgroup")
ok(p.linux.memory.usage_bytes.value >= 6 * MIB, "its memory")
n = p.linux.network
ok(n.timestamp > 0 and n.default_interface.name == "eth0" and n.default_interface.rx_bytes.value > 0 and n.default_interface.tx_bytes.value > 0,
   "its network", n)
is_([i.name for i in n.interfaces], [], "no other interface, lo is not told")
is_((names(p.linux.containers), p.linux.process.process_count.value), (["idle", "made", "work"], 3), "its containers and processes")
q = d.PodSandboxStats(pod_sandbox_id=host).stats
is_((q.linux.HasField("network"), names(q.linux.containers)), (False, ["hosted"]), "a pod on the node's network")
ok(q.linux.cpu.usage_core_nano_seconds.value > 0 and q.linux.memory.usage_bytes.value > 0,
   "a pod without a cgroup of its own is the sum of its containers")
fails(d.PodSandboxStats, "FAILED_PRECONDITION|UNKNOWN", "not ready", "a pod that was stopped", pod_sandbox_id=down)
fails(d.PodSandboxStats, "NOT_FOUND", "nope", "an unknown pod", pod_sandbox_id="nope")
is_(names(d.ListPodSandboxStats().stats), ["host", "web"], "the list has what is ready")
is_(names(d.ListPodSandboxStats(filter={"label_selector": {"app": "web"}}).stats), ["web"], "by label")
is_(names(d.ListPodSandboxStats(filter={"id": host[:16]}).stats), ["host"], "by id")
is_(names(i for r in d.StreamPodSandboxStats() for i in r.pod_sandbox_stats), ["host", "web"], "as a stream")

# --- metrics
desc = {x.name: x for x in d.ListMetricDescriptors().descriptors}
ok(len(desc) > 50 and all(x.help and x.label_keys and x.name.startswith("container_") for x in desc.values()), "descriptors")
pods = {x.pod_sandbox_id: x for x in d.ListPodSandboxMetrics().pod_metrics}
is_(sorted(pods), sorted([pod, host]), "metrics of the pods that are ready")
mine = {x.container_id: x for x in pods[pod].container_metrics}
is_(sorted(mine), sorted([work, idle]), "and of their running containers")
every = list(pods[pod].metrics) + list(mine[work].metrics)
is_(sorted({x.name for x in every} - set(desc)), [], "nothing that was not described")
is_(sorted(set(desc) - {x.name for x in every} - OPTIONAL), [], "everything that was described")
is_([x.name for x in every if len(x.label_values) != len(desc[x.name].label_keys) or not x.HasField("value")], [], "labels and values are complete")
is_([x.name for x in every if (x.metric_type == pb.COUNTER) != (x.name.endswith("_total") or x.name == "container_memory_failcnt") and x.name != "container_fs_inodes_total"], [],
    "counters are counters")


def value(of, name, **labels):
    for x in of:
        have = dict(zip(desc[x.name].label_keys, x.label_values))
        if x.name == "container_" + name and all(have[k] == v for k, v in labels.items()):
            return x.value.value
    return None


base = dict(zip(desc["container_processes"].label_keys, next(x for x in every if x.name == "container_processes").label_values))
is_(base, {"id": parent + "/" + work, "name": work, "image": d.status(work).image.image, "namespace": "default", "pod": "web",
           "container": "work"}, "base labels")
wm, im = mine[work].metrics, mine[idle].metrics
is_((value(wm, "processes"), value(wm, "threads"), value(im, "processes")), (2, 2, 1), "processes and threads")
ok(value(wm, "file_descriptors") >= 2 * 5 > value(im, "file_descriptors"), "open files",
   value(wm, "file_descriptors"), value(im, "file_descriptors"))
is_(value(wm, "sockets"), 0, "no sockets")
is_((value(wm, "spec_cpu_period"), value(wm, "spec_cpu_quota"), value(wm, "spec_memory_limit_bytes")), (100000, 80000, 64 * MIB), "limits")
ok(3 * MIB <= value(wm, "fs_usage_bytes") < 4 * MIB, "disk usage")
ok(value(wm, "start_time_seconds") == d.status(work).started_at // 10**9, "start time")
ok(value(wm, "memory_failures_total", failure_type="pgfault", scope="hierarchy") > 0, "page faults")
ok(value(pods[pod].metrics, "network_receive_bytes_total", interface="eth0") > 0, "bytes received")
is_(value(pods[host].metrics, "network_receive_bytes_total"), None, "no network on the node's network")
is_(sorted(x.pod_sandbox_id for r in d.StreamPodSandboxMetrics() for x in r.pod_sandbox_metrics), sorted(pods), "as a stream")

# --- nobody else waits for a whole pod
if shutil.which("strace"):
    with Accident(d, "openat,epoll_wait,epoll_pwait", "delay_exit=1000", "1+"):
        d.ListPodSandboxMetrics()
    with open(d.tmp + "/accident") as f:
        turns = [turn.count('"memory.stat"') for turn in re.split(r"epoll_p?wait\(", f.read())]
    is_((max(turns), sum(turns) >= 2), (1, True), "no two containers of a pod in one turn of the loop, where they are slow")
else:
    skip("needs the program strace")

# --- many at once, and clients that leave
calls = [d.ListContainerStats(_future=True) for _ in range(20)] + [d.ListPodSandboxMetrics(_future=True) for _ in range(10)]
calls[0].result()                                  # grpcio breaks the protocol when it cancels what it has not sent yet
for c in calls[20::2]:
    c.cancel()
left = calls[:20] + calls[21::2]
is_([c.exception() for c in left], [None] * len(left), "many at once")

# --- after the end
d.StopContainer(container_id=work, timeout=0)
s = d.ContainerStats(container_id=work).stats
ok(not s.HasField("cpu") and s.writable_layer.used_bytes.value >= 3 * MIB, "a container that has ended keeps its layer")
d.remove(host, down, pod)                          # the pod that made the parent cgroup goes last
is_((len(d.ListContainerStats().stats), len(d.ListPodSandboxStats().stats)), (0, 0), "nothing is left to be told")
wait_until(lambda: not os.listdir(d.root + "/containers"), "the layers are deleted")
finish(d)
