#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a process finds itself in, by cricket and by crun from the same settings: what containerd 1.6 cannot be asked for
(t/50-fingerprint.t), which is user namespaces and ambient capabilities.

A container of cricket is run, its verbose status gives the runtime-spec, and Debian's crun runs a bundle of that in the
same pod (network, IPC, UTS and user namespace by path). Every difference is in EXPLAINED with the reason why it is meant,
or a failure."""
import os
import shlex
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from fingerprint import SCRIPT, Comparison, facts  # noqa: E402

need("root", "crun", "unshare")

d = Daemon()
rootfs = os.path.join(d.tmp, "rootfs")
d.image  # pulled before its layer is looked for
layers = [w for w, dirs, _ in os.walk(d.root + "/l") if "bin" in dirs and "etc" in dirs]
subprocess.run(["cp", "-a", layers[0], rootfs], check=True)
mapped_rootfs = rootfs + "-mapped"
USERNS = user_namespace(524288, 655360)
subprocess.run(["cp", "-a", rootfs, mapped_rootfs], check=True)
subprocess.run(["chown", "-hR", "524288:655360", mapped_rootfs], check=True)
os.chown(mapped_rootfs + "/home/alice", 524288 + 1000, 655360 + 1000)
os.mkdir(d.tmp + "/null")
with open(d.tmp + "/seccomp.json", "w") as f:
    json.dump({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}, f)
PATHS = {"masked_paths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
         "readonly_paths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]}
CASES = {
    "ambient": dict(
        security=dict(PATHS, run_as_user={"value": 1000}, run_as_group={"value": 1001}, supplemental_groups=[5000, 6000],
                      no_new_privs=True, readonly_rootfs=True, seccomp={
                          "profile_type": pb.SecurityProfile.Localhost, "localhost_ref": d.tmp + "/seccomp.json"},
                      capabilities={"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE", "CHOWN"],
                                    "add_ambient_capabilities": ["NET_BIND_SERVICE"]}),
        resources={"oom_score_adj": 500, "memory_limit_in_bytes": 64 << 20, "memory_swap_limit_in_bytes": 64 << 20, "cpu_shares": 512}),
    "user namespace": dict(security=dict(PATHS, run_as_user={"value": 1000}, supplemental_groups=[5000])),
}
EXPLAINED = [
    (".*", "mount /(proc/(bus|fs|irq|sys|sysrq-trigger)|sys/firmware|proc/acpi|proc/scsi) options", "ro,nosuid,nodev,noexec,relatime",
     "ro,relatime", "a read-only or masked path keeps the flags of what is below it"),
    (".*", "mount /(proc/(acpi|scsi)|sys/firmware) super", ".*mode=755,ro,size=4k", ".*rw,size=0k.*",
     "a masked directory is an empty file system of the pod's, read-only itself"),
    (".*", "mount /sys/fs/cgroup (options|source|super)", "ro,.*|tmpfs|.*mode=755,.*size=64k.*", "rw,.*|cgroup|.*size=1024k.*",
     "the directory of the hierarchies is read-only as they are", "v1"),
    (".*", "file /sys/fs/cgroup", "drwxr-xr-x 0 0", "drwxrwxrwt 0 0", "the directory of the hierarchies is nobody's to write", "v1"),
    (".*", "may /sys/fs/cgroup/x", "no", "yes", "nobody makes files beside the hierarchies", "v1"),
    (".*", "file /sys/fs/cgroup/net_(cls|prio)", "None", "l.*net_cls,net_prio", "links only to hierarchies that the host has", "v1"),
    (".*", "cgroup devices/devices.list", ".*c 5:0 rwm\nc 5:2 rwm.*", ".*c 5:0 rwm\nc 5:1 rwm\nc 5:2 rwm.*",
     "the node's console is none of a container's devices (nor is it by runc)", "v1"),
    (".*", "file /dev/null", "crw-rw-rw- 0 0 .*", "crw-rw-rw- 1000 1001 .*",
     "stdin's device does not change hands: it is the same node for all in the container"),
    ("user.*", r"mount /dev/(full|null|random|tty|urandom|zero)\+? .*", "ro,relatime|/[a-z]+|devtmpfs|u?dev|.*mode=755.*|None", ".*",
     "a device is one bind mount of the host's node, whose mode nobody may change; crun makes two mounts of each"),
    ("user.*", "mount /dev/mqueue (options|source)", "rw,nosuid,nodev,noexec,relatime|mqueue", "rw,relatime|none",
     "/dev/mqueue has the flags that the settings ask for"),
    ("ambient, in exec", "oom_score_adj", "500", "0", "an exec is killed before what is dearer than its container"),
    (".*, in exec", "stat", "leads its group True, session True.*", "leads its group False, session False.*",
     "an exec is a session of its own, as a container is"),
]
if not os.path.exists("/proc/kcore"):
    EXPLAINED.append((".*", "file /dev/core", "None", "l.*/proc/kcore", "a link only to what the kernel has"))
CHANGE = [(d.cgroup + r"/([0-9a-f]{64}|crun-\d+)", "ITS-CGROUP"), (re.escape(d.tmp + "/null/null"), "/dev/null"), (r"[0-9a-f]{64}|crun-\d+", "ID")]
pods, serial = {}, [0]


def start(case, argv):
    userns = USERNS if case.startswith("user") else None
    if case not in pods:
        pods[case] = d.runp("pod", linux={"sysctls": {"net.ipv4.ip_unprivileged_port_start": "77"}}, userns=userns)
    serial[0] += 1
    return d.start(pods[case], "c%d" % serial[0], command=argv, userns=userns, **CASES[case])


def bundle(case, spec, keeper):
    """Turns the runtime-spec that the status shows into one that crun runs in the same pod; the container's name."""
    serial[0] += 1
    name = "crun-%d" % serial[0]
    where = d.tmp + "/" + name
    for sub in ("", "/upper", "/work", "/rootfs"):
        os.mkdir(where + sub)
    spec["ociVersion"] = "1.0.0"     # the newest that crun 1.8 lets through
    spec["root"]["path"] = "rootfs"
    for n in spec["linux"]["namespaces"]:
        if n["type"] in ("ipc", "uts", "network", "user"):
            n["path"] = "/proc/%d/ns/%s" % (keeper, "net" if n["type"] == "network" else n["type"])
    if case.startswith("user"):
        os.chown(where + "/upper", USERNS["uids"][0]["host_id"], USERNS["gids"][0]["host_id"])
        os.chmod(where + "/work", 0o777)
        del spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]
    for m in spec["mounts"]:
        if m["destination"] == "/dev/shm":
            m.update(type="tmpfs", options=m["options"] + ["mode=1777", "size=%d" % (64 << 20)])
    spec["linux"]["cgroupsPath"] = d.cgroup + "/" + name
    if "seccomp" in CASES[case]["security"]:
        with open(d.tmp + "/seccomp.json") as f:
            spec["linux"]["seccomp"] = json.load(f)
    with open(where + "/config.json", "w") as f:
        json.dump(spec, f, indent=1)
    return name


def crun(*args, before=""):
    # crun refuses hosts with both kinds of cgroups: hidden from it are those of v2. And it changes the owner of what it
    # gets as stdin, which must not be the host's /dev/null.
    script = ("if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; "
              "mount -t tmpfs tmpfs %s/null && mknod -m 666 %s/null/null c 1 3; %s "
              "exec crun --cgroup-manager=cgroupfs --root %s/crun %s <>%s/null/null" % (
                  d.tmp, d.tmp, before, d.tmp, " ".join(map(shlex.quote, args)), d.tmp))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:     # who stays holds no pipe open
        code = subprocess.run(["unshare", "--mount", "--", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                              check=False).returncode
        out.seek(0)
        err.seek(0)
        return code, out.read().decode("utf-8", "replace"), err.read().decode("utf-8", "replace")


def run_by_crun(case, spec, keeper, *args):
    name = bundle(case, spec, keeper)
    where = d.tmp + "/" + name
    return name, crun("run", *args, "--bundle", where, name, before=(
        "mount -t overlay overlay -o lowerdir=%s,upperdir=%s/upper,workdir=%s/work,volatile %s/rootfs;" % (
            mapped_rootfs if case.startswith("user") else rootfs, where, where, where)))


def compare(case, ours, code, theirs, complaint):
    if ok(code == 0, case + ": crun runs it", complaint):
        a, b = facts(ours, CHANGE), facts(theirs, CHANGE)
        for key in ("fd 1", "fd 2"):                         # crun's go to a file
            a[key] = b[key] = ""
        c.compare(case, a, b)


c = Comparison("crun", EXPLAINED)
can = d.Status().runtime_handlers[0].features.user_namespaces
if not can:
    skip("no user namespaces here")
for case in ["ambient"] + ["user namespace"] * can:
    keeper = start(case, ["sleep", "1000000"])
    pid = d.pid_of(keeper)
    ctr = start(case, ["sh", "-c", SCRIPT])
    text = d.log_bytes(d.wait_exit(ctr).log_path, "stdout").decode("utf-8", "replace")
    _, result = run_by_crun(case, d.info(ctr)["runtimeSpec"], pid)
    compare(case, text, *result)
    name, (code, _, complaint) = run_by_crun(case, d.info(keeper)["runtimeSpec"], pid, "--detach")
    if ok(code == 0, case + ": crun runs a container for exec", complaint):
        process = dict(d.info(keeper)["runtimeSpec"]["process"], args=["sh", "-c", SCRIPT])
        with open(d.tmp + "/process.json", "w") as f:
            json.dump(process, f)
        compare(case + ", in exec", d.sh(keeper, SCRIPT)[0].decode("utf-8", "replace"), *crun("exec", "--process", d.tmp + "/process.json", name))
        crun("delete", "--force", name)
c.finish()
d.remove_all()
finish(d)
