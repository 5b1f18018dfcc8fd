#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a process finds itself in, by cricket and by crun from the same settings.

A container of cricket is run, its verbose status gives the runtime-spec, and Debian's crun runs a bundle of that
in the same pod (network, IPC and UTS namespace by path). Both times the first process prints what it sees: status,
limits, mounts, cgroups, environment, descriptors, /dev, sysctls, interfaces. Every difference is either in EXPLAINED,
with the reason why it is meant, or a failure; and a line of EXPLAINED that explains nothing any more fails too."""
import os
import shlex
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

need("root", "crun", "unshare")

# What is printed by one process each, without a shell in between that would have changed signals and descriptors.
SELF = ["status", "limits", "cgroup", "mountinfo", "oom_score_adj", "timerslack_ns", "coredump_filter", "personality",
        "uid_map", "gid_map", "setgroups", "loginuid", "stat"]
FILES = ["/proc/self/" + f for f in SELF] + [
    "/proc/1/comm", "/etc/hostname", "/etc/resolv.conf", "/etc/hosts", "/proc/net/dev", "/proc/net/route", "/proc/net/if_inet6",
    "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/kernel/msgmax",
    "/proc/sys/fs/mqueue/msg_max", "/proc/sys/net/core/somaxconn"]
PROBES = {
    "files": ["head", "-v", "-n", "99999"] + FILES,
    "environ": ["env"],
    "fds": ["ls", "-ln", "/proc/self/fd"],
    "links": ["sh", "-c", "for n in cwd root exe ns/cgroup ns/ipc ns/mnt ns/net ns/pid ns/user ns/uts ns/time; do "
                          "echo $n=$(readlink /proc/self/$n); done; umask; id; tty; ps -o pid,ppid,pgid,sid,args"],
    "dev": ["sh", "-c", "ls -lnR /dev; ls -lnd /dev /dev/shm /proc /sys / /etc /sys/fs/cgroup /sys/fs/cgroup/*"],
    "may": ["sh", "-c", "exec 2>&1; for f in /x /etc/x /dev/x /dev/shm/x /proc/sys/kernel/x /sys/x /tmp/x /v/x /w/x /sys/fs/cgroup/x; "
                        "do (: > $f) && echo $f || echo no $f; done; cat /proc/kcore /proc/keys /proc/timer_list | wc -c; "
                        "rm -f /dev/shm/x; ls /proc/acpi /proc/scsi /sys/firmware | wc -l; mknod /tmp/n c 1 3; mkdir /tmp/m; mount -t tmpfs x /tmp/m"],
}


def sections(text):
    found, name = {}, None
    for line in text.splitlines():
        m = re.match(r"==> (.*) <==$", line)
        if m:
            name = m[1]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def mounts(lines):
    """{mount point, with a count where several lie upon each other: [root, options, tags, type, source, super options]}"""
    found = {}
    for line in lines:
        if not line:
            continue
        before, after = line.split(" - ", 1)
        f, a = before.split(" "), after.split(" ")
        key = f[4]
        while key in found:
            key += "+"
        kind = a[0]
        sup = sorted(o for o in a[2].split(",") if not re.match(r"lowerdir=|upperdir=|workdir=", o)) if len(a) > 2 else []
        found[key] = [f[3] if kind != "overlay" else "/", f[5], " ".join(re.sub(r":\d+", "", t) for t in f[6:]), kind, a[1], ",".join(sup)]
    return found


def facts(probe, text):
    """A probe's output as {fact: value}, without what differs from run to run."""
    got = {}
    if probe == "files":
        for name, body in sections(text).items():
            short = name.removeprefix("/proc/self/")
            if short == "mountinfo":
                for point, values in mounts(body).items():
                    for what, value in zip(("root", "options", "tags", "type", "source", "super"), values):
                        value = re.sub(d.cgroup + r"/(?:[0-9a-f]{64}|crun-\d+)", "ITS-CGROUP", value)
                        got["mount %s %s" % (point, what)] = value
            elif short in ("status", "limits"):
                for line in body:
                    key, _, value = line.partition(":") if short == "status" else (line[:26].strip(), "", line[26:])
                    if not re.match(r"Vm|Rss|Hugetlb|voluntary|nonvol|Threads|Pid$|NSpid|Tgid|PPid|NStgid|NSpgid|NSsid|FDSize|Cpus|Mems|State|SigQ|x86|Spec|Specul", key):
                        got["%s %s" % (short, key)] = " ".join(value.split())
            elif short == "stat":
                f = body[0][body[0].rindex(")") + 2:].split()
                got["stat"] = dict(pgrp=f[2], session=f[3], tty=f[4], priority=f[15], nice=f[16], rt=f[37], policy=f[38])
            elif short == "cgroup":
                got[short] = [re.sub(d.cgroup + r"/(?:[0-9a-f]{64}|crun-\d+)$", "ITS-CGROUP", line) for line in body]
            elif short == "/proc/net/dev":
                got[short] = sorted(line.split(":")[0].strip() for line in body[2:] if ":" in line)
            else:
                got[short] = body
    elif probe == "links":
        for line in text.splitlines():
            key, eq, value = line.partition("=")
            got[key if eq and " " not in key else "line " + str(len(got))] = re.sub(r"\[\d+\]", "[N]", value) if eq and " " not in key else line
    elif probe == "fds":
        for line in text.splitlines():
            m = re.search(r"(\S+) -> (.*)$", line)
            if m:
                got["fd " + m[1]] = re.sub(r"\d+", "N", m[2].replace(d.tmp + "/null/null", "/dev/null")) + " " + line.split()[0] + " " + (line.split()[2] if "pipe" in line else "")
    elif probe == "environ":
        for line in text.splitlines():
            key, _, value = line.partition("=")
            got["env " + key] = value
    elif probe == "dev":
        where = ""
        for line in text.splitlines():
            if line.endswith(":"):
                where = line[:-1] + "/"
            elif line and not line.startswith("total"):
                m = re.match(r"(\S+)\s+(\d+)\s+(\S+)\s+(\S+)\s+(.*?)(?:[A-Z][a-z][a-z] .{9})(.*)$", line)
                size = m[5].strip() if line[0] in "cb" else ""
                name = m[6].split(" -> ")
                got["%s%s" % ("" if name[0].startswith("/") else where, name[0])] = \
                    " ".join([m[1], m[3], m[4], size] + name[1:]).strip()
    else:
        for line in text.splitlines():
            got["bytes there" if re.fullmatch(r"\d{4,}", line) else "says " + line] = "yes"
    return got


d = Daemon()
pods, rootfs = {}, os.path.join(d.tmp, "rootfs")
d.image  # pulled before its layer is looked for
layers = [w for w, dirs, _ in os.walk(d.root + "/l") if "bin" in dirs and "etc" in dirs]
subprocess.run(["cp", "-a", layers[0], rootfs], check=True)
mapped_rootfs = rootfs + "-mapped"
USERNS = pb.UserNamespace(mode=pb.POD, uids=[{"host_id": 524288, "length": 65536}], gids=[{"host_id": 655360, "length": 65536}])
subprocess.run(["cp", "-a", rootfs, mapped_rootfs], check=True)
subprocess.run(["chown", "-hR", "524288:655360", mapped_rootfs], check=True)
os.mkdir(d.tmp + "/null")
vol = d.tmp + "/vol"
os.mkdir(vol)
with open(d.tmp + "/seccomp.json", "w") as f:
    json.dump({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}, f)
MASKED = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
          "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
PATHS = {"masked_paths": MASKED, "readonly_paths": READONLY}
CASES = {
    "plain": dict(security=PATHS),
    "restricted": dict(
        security=dict(PATHS, run_as_user={"value": 1000}, run_as_group={"value": 1001}, supplemental_groups=[5000, 6000],
                      no_new_privs=True, readonly_rootfs=True, seccomp={
                          "profile_type": pb.SecurityProfile.Localhost, "localhost_ref": d.tmp + "/seccomp.json"},
                      capabilities={"drop_capabilities": ["ALL"], "add_capabilities": ["NET_BIND_SERVICE", "CHOWN"],
                                    "add_ambient_capabilities": ["NET_BIND_SERVICE"]}),
        resources={"oom_score_adj": 500, "memory_limit_in_bytes": 64 << 20, "cpu_shares": 512},
        envs=[{"key": "A", "value": b"b c"}, {"key": "EMPTY", "value": b""}], working_dir="/tmp",
        mounts=[{"host_path": vol, "container_path": "/v", "readonly": True},
                {"host_path": vol, "container_path": "/w", "mount_options": ["noexec", "nosuid"]}]),
    "privileged": dict(security={"privileged": True}),
    "own devices": dict(security=dict(PATHS, capabilities={"add_capabilities": ["SYS_ADMIN", "MKNOD"]}), devices=[
        {"host_path": "/dev/zero", "container_path": "/dev/other", "permissions": "r"}]),
    "no capabilities": dict(security=dict(PATHS, capabilities={"drop_capabilities": ["ALL"]})),
    "terminal": dict(security=PATHS, tty=True, stdin=True),
    "user namespace": dict(security=dict(PATHS, run_as_user={"value": 1000}, supplemental_groups=[5000])),
}
# (case, probe, fact, ours, crun's), each a pattern for all of it, and why.
EXPLAINED = [
    (".*", "files", "mount /(proc/(bus|fs|irq|sys|sysrq-trigger)|sys/firmware|proc/acpi|proc/scsi) options", "ro,nosuid,nodev,noexec,relatime",
     "ro,relatime", "a read-only or masked path keeps the flags of what is below it"),
    (".*", "files", "mount /(proc/(acpi|scsi)|sys/firmware) super", "mode=755,ro,size=4k", ".*rw,size=0k.*",
     "a masked directory is an empty file system of the pod's, read-only itself"),
    (".*", "files", "mount /sys/fs/cgroup options", "ro,.*", "rw,.*", "the directory of the hierarchies is read-only as they are"),
    (".*", "files", "mount /sys/fs/cgroup (source|super)", "tmpfs|.*mode=755,.*size=64k.*", "cgroup|.*size=1024k.*",
     "nothing but directories and links is in there"),
    (".*", "dev", "/sys/fs/cgroup", "drwxr-xr-x 0 0", "drwxrwxrwt 0 0", "the directory of the hierarchies is nobody's to write"),
    (".*", "dev", "/sys/fs/cgroup/net_(cls|prio)", "None", "l.*net_cls,net_prio", "links only to hierarchies that the host has"),
    (".*", "may", "says .*/sys/fs/cgroup/x.*", ".*", ".*", "see above"),
    ("restricted|user namespace", "dev", "/dev/null", "crw-rw-rw- 0 0 .*", "crw-rw-rw- 1000 1001 .*",
     "stdin's device does not change hands: it is the same node for all in the container"),
    ("terminal", "files", "mount /dev/console options", "rw,nosuid,noexec,relatime", "rw,relatime", "a terminal keeps the flags of its devpts"),
    ("user.*", "files", r"mount /dev/(full|null|random|tty|urandom|zero)\+? .*", "ro,relatime|/[a-z]+|devtmpfs|.*mode=755.*|None", ".*",
     "a device is one bind mount of the host's node, whose mode nobody may change; crun makes two mounts of each"),
    ("user.*", "files", "mount /dev/mqueue (options|source)", "rw,nosuid,nodev,noexec,relatime|mqueue", "rw,relatime|none",
     "/dev/mqueue has the flags that the settings ask for"),
    ("restricted, in exec", "files", "oom_score_adj", ".*500.*", ".*'0'.*", "an exec is killed before what is dearer than its container"),
    (".*, in exec", "files|links", r"stat|line \d+", r".*'(pgrp|session)': '[1-9].*| *\d+ +0 +([1-9]\d*) +\2 .*",
     r".*'session': '0'.*| *\d+ +0 +0 +0 .*", "an exec is a session of its own, as a container is"),
]


def pod_of(case):
    kind = case.split(",")[0] if case.startswith(("privileged", "user")) else ""
    if kind not in pods:
        config = d.pod_config("p" + kind.replace(" ", "-"), pid=pb.CONTAINER, linux={
            "security_context": {"privileged": kind == "privileged"},
            "sysctls": {"net.ipv4.ip_unprivileged_port_start": "77", "kernel.shm_rmid_forced": "1"}})
        if kind == "user namespace":
            config.linux.security_context.namespace_options.userns_options.MergeFrom(USERNS)
        pods[kind] = d.runp(config=config)
    return pods[kind]


serial = [0]


def start(case, argv):
    serial[0] += 1
    config = d.ctr_config("c%d" % serial[0], command=argv, **CASES[case])
    if case.startswith("user"):
        config.linux.security_context.namespace_options.userns_options.MergeFrom(USERNS)
    return d.start(pod_of(case), config=config)


def by_cricket(case, argv):
    c = start(case, argv)
    s = d.wait_exit(c)
    return c, b"".join(t + (b"\n" if tag == "F" else b"") for out, tag, t in d.log_entries(s.log_path)
                       if out == "stdout").decode("utf-8", "replace")


def bundle(case, spec, keeper):
    """Turns the runtime-spec that the status shows into one that crun runs in the same pod."""
    serial[0] += 1
    where = "%s/bundle%d" % (d.tmp, serial[0])
    for sub in ("", "/upper", "/work", "/rootfs"):
        os.mkdir(where + sub)
    spec["ociVersion"] = "1.0.0"     # the newest that crun 1.8 lets through
    spec["root"]["path"] = "rootfs"
    for n in spec["linux"]["namespaces"]:
        if n["type"] in ("ipc", "uts", "network", "user"):
            n["path"] = "/proc/%d/ns/%s" % (keeper, "net" if n["type"] == "network" else n["type"])
    if case.startswith("user"):
        os.chown(where + "/upper", USERNS.uids[0].host_id, USERNS.gids[0].host_id)
        os.chmod(where + "/work", 0o777)
        del spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]
    for m in spec["mounts"]:
        if m["destination"] == "/dev/shm":
            m.update(type="tmpfs", options=m["options"] + ["mode=1777", "size=%d" % (64 << 20)])
    spec["linux"]["cgroupsPath"] = "%s/crun-%d" % (d.cgroup, serial[0])
    if "seccomp" in CASES[case]["security"]:
        with open(d.tmp + "/seccomp.json") as f:
            spec["linux"]["seccomp"] = json.load(f)
    with open(where + "/config.json", "w") as f:
        json.dump(spec, f, indent=1)
    return where


def crun(*args, before="", tty=False, files=False):
    # crun refuses hosts with both kinds of cgroups: hidden from it are those of v2. And it changes the owner of what it
    # gets as stdin, which must not be the host's /dev/null.
    script = ("if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; "
              "mount -t tmpfs tmpfs %s/null && mknod -m 666 %s/null/null c 1 3; %s "
              "exec crun --cgroup-manager=cgroupfs --root %s/crun %s%s" % (
                  d.tmp, d.tmp, before, d.tmp, " ".join(map(shlex.quote, args)),
                  "" if tty else " <>%s/null/null" % d.tmp))
    argv = ["unshare", "--mount", "--", "sh", "-c", script]
    if not tty and not files:
        r = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return r.returncode, r.stdout.decode("utf-8", "replace"), r.stderr.decode("utf-8", "replace")
    if files:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:     # who stays holds no pipe open
            code = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, check=False).returncode
            out.seek(0)
            err.seek(0)
            return code, out.read().decode("utf-8", "replace"), err.read().decode("utf-8", "replace")
    master, slave = os.openpty()
    child = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    data = b""
    try:
        while True:
            data += os.read(master, 65536)
    except OSError:                  # EIO: nobody has the other side any more
        pass
    os.close(master)
    return child.wait(), data.decode("utf-8", "replace"), data.decode("utf-8", "replace")


def run_by_crun(case, spec, keeper, *args):
    where = bundle(case, spec, keeper)
    name = os.path.basename(where)
    return name, crun("run", *args, "--bundle", where, name, tty=spec["process"]["terminal"], files="--detach" in args, before=(
        "mount -t overlay overlay -o lowerdir=%s,upperdir=%s/upper,workdir=%s/work,volatile %s/rootfs;" % (
            mapped_rootfs if case.startswith("user") else rootfs, where, where, where)))


def compare(case, probe, ours, theirs, complaint, how=""):
    a, b = facts(probe, ours.replace("\r", "")), facts(probe, theirs.replace("\r", ""))
    # the two signals that the C library keeps for itself: crun passes on what its caller had (make ignores one)
    for key in [k for k in b if k.endswith("SigIgn")]:
        b[key] = "%016x" % (int(b[key], 16) & ~(3 << 31))
    if not ok(b and any(b.values()), "%s: crun runs the probe %s%s" % (case, probe, how), complaint):
        return
    different = []
    for key in sorted(set(a) | set(b)):
        if a.get(key) == b.get(key):
            continue
        row = (case + how, probe, key, str(a.get(key)), str(b.get(key)))
        why = [i for i, e in enumerate(EXPLAINED) if all(re.fullmatch(p, v) for p, v in zip(e, row))]
        if why:
            used.update(why)
        else:
            different.append("%s: cricket %s, crun %s" % (key, row[3], row[4]))
    ok(not different, "%s: %s is the same by both, or explained (%d facts)%s" % (case, probe, len(a), how), *different)


used = set()
for case in CASES:
    if case.startswith("user") and not d.Status().runtime_handlers[0].features.user_namespaces:
        skip("no user namespaces here", 4 * len(PROBES))
        continue
    keeper = start(case, ["sleep", "1000000"])
    pid = d.pid_of(keeper)
    for probe, argv in PROBES.items():
        ctr, text = by_cricket(case, argv)
        _, (_, theirs, complaint) = run_by_crun(case, d.info(ctr)["runtimeSpec"], pid)
        compare(case, probe, text, theirs, complaint)
    if case not in ("restricted", "user namespace"):
        continue
    name, (code, _, complaint) = run_by_crun(case, d.info(keeper)["runtimeSpec"], pid, "--detach")
    if ok(code == 0, case + ": crun runs a container for exec", complaint):
        for probe, argv in PROBES.items():
            if probe not in ("dev", "may"):
                process = dict(d.info(keeper)["runtimeSpec"]["process"], args=argv)
                with open(d.tmp + "/process.json", "w") as f:
                    json.dump(process, f)
                _, theirs, complaint = crun("exec", "--process", d.tmp + "/process.json", name)
                compare(case, probe, d.exec(keeper, *argv)[0].decode("utf-8", "replace"), theirs, complaint, ", in exec")
        crun("delete", "--force", name)
for i, e in enumerate(EXPLAINED):
    ok(i in used, "still so: " + e[-1])
d.remove_all()
finish(d)
