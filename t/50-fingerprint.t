#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a process finds itself in, by cricket and by Debian's containerd with runc from the same requests.

The same RunPodSandbox, CreateContainer, StartContainer and ExecSync go to both, with the same image; the first process of
each container and an exec print what they see (t/lib/fingerprint.py). Every difference is in EXPLAINED with the reason why
it is meant, or a failure. On an emulated machine a few cases only. `t/50-fingerprint.t CASE...` runs some of them."""
import os
import resource
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from containerd import Containerd, need_containerd  # noqa: E402
from fingerprint import SCRIPT, Comparison, facts  # noqa: E402

need("root", "unshare", "docker-registry")
need_containerd()

MASKED = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
          "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
PATHS = {"masked_paths": MASKED, "readonly_paths": READONLY}
FILTERED = dict(PATHS, seccomp={"profile_type": pb.SecurityProfile.RuntimeDefault})
KUBELET = dict(PATHS, seccomp={"profile_type": pb.SecurityProfile.Unconfined}, namespace_options={"userns_options": {"mode": pb.NODE}})

# as both have it from their units: a daemon in Go would raise its own, and what it starts would have that
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
d = Daemon()
cd = Containerd(d)
vol = d.tmp + "/vol"
os.mkdir(vol)
with open(vol + "/file", "w") as f:
    f.write("of the node\n")
with open(d.tmp + "/seccomp.json", "w") as f:
    json.dump({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}, f)
LOCALHOST = {"profile_type": pb.SecurityProfile.Localhost, "localhost_ref": d.tmp + "/seccomp.json"}
own_image = d.push_image(Image([busybox_layer(), Layer().dir("data", 0o750, 33, 33).file("data/kept", "kept\n")], {
    "Env": ["PATH=/bin:/sbin", "FROM=image", "BOTH=image"], "User": "alice:video", "WorkingDir": "/srv/made", "Volumes": {"/data": {}},
    "Entrypoint": ["sh"], "Cmd": ["-c", SCRIPT]}), "test/own")
for x in (d, cd):
    x.PullImage(image={"image": d.image})
    x.PullImage(image={"image": own_image})

PODS = {
    "plain": {},
    "configured": dict(
        dns_config={"servers": ["10.0.0.10"], "searches": ["a.example", "b.example"], "options": ["ndots:5"]},
        port_mappings=[{"container_port": 80, "host_port": 0}],
        linux={"sysctls": {"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "100"},
               "security_context": {"run_as_user": {"value": 1000}, "readonly_rootfs": True}}),
    "privileged": dict(linux={"security_context": {"privileged": True}}),
    "shared pid": dict(pid=pb.POD),
    "host": dict(net=False, pid=pb.NODE, linux={"security_context": {"namespace_options": {"ipc": pb.NODE}}}),
}
CASES = {    # (pod, fields of the container's config)
    "as kubelet": ("plain", dict(
        security=KUBELET, resources={"oom_score_adj": 1000, "cpu_shares": 2, "cpu_period": 100000,
                                     "hugepage_limits": [{"page_size": "2MB", "limit": 0}]},
        envs=[{"key": "KUBERNETES_PORT", "value": b"tcp://10.0.0.1:443"}, {"key": "EMPTY", "value": b""}])),
    "limits": ("plain", dict(security=KUBELET, resources={
        "oom_score_adj": 998, "memory_limit_in_bytes": 64 << 20, "memory_swap_limit_in_bytes": 64 << 20, "cpu_shares": 512,
        "cpu_quota": 50000, "cpu_period": 100000, "cpuset_cpus": "0", "cpuset_mems": "0",
        "unified": {"memory.high": "50000000", "memory.oom.group": "1"} if cgroup_is_v2() else {}})),
    "privileged": ("privileged", dict(security={"privileged": True})),
    "restricted": ("configured", dict(
        security=dict(FILTERED, run_as_user={"value": 1000}, run_as_group={"value": 1001}, supplemental_groups=[5000, 6000],
                      no_new_privs=True, readonly_rootfs=True,
                      capabilities={"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE", "CHOWN"]}),
        working_dir="/tmp", mounts=[{"host_path": vol, "container_path": "/v", "readonly": True},
                                    {"host_path": vol, "container_path": "/w"},
                                    {"host_path": vol + "/file", "container_path": "/etc/hosts"}])),
    "nothing said": ("shared pid", dict()),
    "image": ("configured", dict(image=own_image, security=dict(PATHS, seccomp=LOCALHOST), envs=[{"key": "BOTH", "value": b"request"}])),
    "user by name": ("configured", dict(security=dict(FILTERED, run_as_username="alice"))),
    "devices": ("plain", dict(
        security=dict(FILTERED, capabilities={"add_capabilities": ["SYS_ADMIN", "NET_ADMIN"]}),
        devices=[{"host_path": "/dev/zero", "container_path": "/dev/other", "permissions": "r"}])),
    "all capabilities": ("plain", dict(security=dict(FILTERED, capabilities={"add_capabilities": ["ALL"]}))),
    "no capabilities": ("plain", dict(security=dict(FILTERED, capabilities={"drop_capabilities": ["ALL"]}))),
    "shared pid": ("shared pid", dict(security=KUBELET, pid=pb.POD)),
    "host": ("host", dict(security=dict(PATHS, namespace_options={"network": pb.NODE, "ipc": pb.NODE}), pid=pb.NODE)),
    "terminal": ("plain", dict(security=KUBELET, tty=True, stdin=True)),
    "stdin": ("plain", dict(security=KUBELET, stdin=True, stdin_once=True)),
}
ON_SLOW = ["as kubelet", "limits", "privileged"]
# A privileged container of runc mounts cgroup2 without the node's options, which the node then has lost.
if cgroup_is_v2() and not os.path.exists("/vm/agent"):
    del CASES["privileged"]

ANY = ".*"
EXPLAINED = [
    (ANY, "/etc/hosts", r"127\.0\.0\.1.*", ANY, "a pod has hosts of its own; containerd gives it those of the node (kubelet mounts its own over both)"),
    (ANY, "mount / super", ".*volatile.*", ".*", "containers do not outlive the boot: their overlay does not sync"),
    (ANY, "mount /(proc/(acpi|asound|scsi)|sys/firmware|sys/devices/virtual/powercap) (options|super)",
     "ro,nosuid,nodev,noexec,relatime|.*mode=755,ro,size=4k", ".*ro.*",
     "a masked directory is an empty file system of the pod's, and keeps the flags of what is below it"),
    (ANY, "mount /proc/(kcore|keys|latency_stats|sched_debug|timer_list|timer_stats) .*", "ro,.*|dev(tmpfs)?|.*mode=755.*",
     "rw,nosuid|tmpfs|.*mode=755.*",
     "a masked file is the node's /dev/null, not the one of the container's own /dev"),
    (ANY, "mount /sys/fs/cgroup (options|super)", "ro,.*|.*mode=755,rw,size=64k", "rw,.*|.*mode=755,rw",
     "the directory of the hierarchies is read-only as they are", "v1"),
    (ANY, "file /sys/fs/cgroup", "drwxr-xr-x 0 0", "dr-xr-xr-x 0 0", "the directory of the hierarchies has the mode of the node's", "v1"),
    (ANY, "may /sys/fs/cgroup/x", "no", "yes", "nobody makes files beside the hierarchies", "v1"),
    (ANY, "cgroup of ", "/.*", "ITS-CGROUP", "beside v1, the hierarchy of v2 has no controllers and is left as it is", "hybrid"),
    (ANY, "mount /sys/fs/cgroup source", "cgroup2", "cgroup", "cgroup2 is called what it is", "v2"),
    (ANY, "cgroup cgroup.controllers|file /sys/fs/cgroup/(rdma|misc)[.].*", "(?!.*rdma).*", ".*",
     "a cgroup has the controllers that something can be set of", "v2"),
    ("nothing said|shared pid", "/proc/1/comm|ps", "cricket-init|.*cricket-init.*", "sleep|.*sleep.*", "a shared PID namespace has an init that reaps, no pause process"),
    ("nothing said", "oom_score_adj", r"-?\d+", r"-?\d+", "a shim's own oom_score_adj is one higher than containerd's, and inherited"),
    ("image.*", "id|status Groups", ".*29.*", "(?!.*29).*", "alice's groups count although the image names one for her: containerd 1.6 looks for a user 'alice:video', later ones do not"),
    ("image.*", "mount /data (root|source|super|type)", "/|overlay|.*volatile.*", ANY, "an image's volume lies in the container's own file system: nothing else to make and remove"),
    (".*, in exec", "fd 0", "lrwx.*/dev/null", "lr-x.*/dev/null", "without stdin, an exec has the /dev/null that a container has"),
    ("privileged", "mount /sys/fs/cgroup super", ".*rw", "rw", "a privileged container leaves the options of cgroup2 as they are", "v2"),
    ("privileged", "mount /sys super", "rw", "ro", "no pause process has mounted the pod's sysfs read-only before"),
]
CHANGE = [
    (r"(%s|%s)/[0-9a-f]{64}" % (d.cgroup, cd.cgroup), "ITS-CGROUP"),
    (r"[0-9a-f]{64}", "ID"),
    (r"%s/state/pods/ID|%s/root/io.containerd.grpc.v1.cri/sandboxes/ID" % (d.tmp, cd.tmp), "OF-POD"),
]
made = {}


def start(x, case, name, argv):
    kind, fields = CASES[case]
    if (x, kind) not in made:
        config = x.pod_config(kind.replace(" ", "-"), **PODS[kind])
        config.linux.cgroup_parent = x.cgroup
        made[x, kind] = config, x.runp(config=config)
    sandbox, pod = made[x, kind]
    config = x.ctr_config(name, command=argv, **dict({"image": d.image, "resources": {"oom_score_adj": 999}}, **fields))
    if case == "nothing said":
        config.ClearField("linux")
    ctr = x.CreateContainer(pod_sandbox_id=pod, config=config, sandbox_config=sandbox).container_id
    x.StartContainer(container_id=ctr)
    return ctr


def seen(x, case):
    ctr = start(x, case, case.replace(" ", "-"), [] if case == "image" else ["sh", "-c", SCRIPT])
    return facts(x.log_bytes(x.wait_exit(ctr).log_path).decode("utf-8", "replace"), CHANGE)


def seen_by_exec(x, case):
    ctr = start(x, case, case.replace(" ", "-") + "-keeps", ["sh", "-c", "echo ready; while true; do sleep 1000; done"])
    wait_until(lambda: os.path.getsize(x.status(ctr).log_path), "the program of %s" % ctr)
    return facts(x.exec(ctr, "sh", "-c", SCRIPT)[0].decode("utf-8", "replace"), CHANGE)


c = Comparison("containerd", EXPLAINED)
cases = sys.argv[1:] or [case for case in CASES if SLOW <= 1 or case in ON_SLOW]
for case in cases:
    c.compare(case, seen(d, case), seen(cd, case))
    if SLOW <= 1 and case in ("as kubelet", "restricted", "image", "user by name"):
        c.compare(case + ", in exec", seen_by_exec(d, case), seen_by_exec(cd, case))
if len(cases) == len(CASES):
    c.finish()
for x in (cd, d):
    x.remove_all()
finish(d, cd)
