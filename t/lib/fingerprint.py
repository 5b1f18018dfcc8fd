# SPDX-License-Identifier: Apache-2.0
"""What a process finds itself in, as {fact: value}, and the comparison of two such views.

One shell runs SCRIPT as the first process of a container (or as an exec) and prints what it sees of itself: status,
limits, mounts, cgroups, environment, descriptors, /dev, sysctls, ids, network, what it may write. facts() reads that and
leaves out what differs from run to run. Comparison holds the table of differences that are meant: each of them is
explained by a rule or a failure, and a rule that explains nothing any more fails too."""
import os
import re

from cricket import cgroup_is_v2, cgroup_mounts, ok

FILES = ["status", "limits", "cgroup", "mountinfo", "oom_score_adj", "timerslack_ns", "coredump_filter", "personality",
         "uid_map", "gid_map", "setgroups", "loginuid", "stat"]
OTHER = ["/proc/1/comm", "/etc/hostname", "/etc/resolv.conf", "/etc/hosts", "/proc/net/route"]
CGROUP1 = ["memory/memory." + f for f in ("limit_in_bytes", "memsw.limit_in_bytes", "soft_limit_in_bytes", "swappiness",
                                          "oom_control", "use_hierarchy", "move_charge_at_immigrate")] + [
    "cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpuset/cpuset.cpus", "cpuset/cpuset.mems", "pids/pids.max",
    "devices/devices.list", "freezer/freezer.state", "blkio/blkio.bfq.weight", "hugetlb/hugetlb.*.limit_in_bytes", "*/notify_on_release"]
CGROUP2 = ["memory.max", "memory.swap.max", "memory.high", "memory.low", "memory.min", "memory.oom.group", "cpu.weight", "cpu.max",
           "cpuset.cpus", "cpuset.mems", "pids.max", "hugetlb.*.max", "cgroup.controllers", "cgroup.subtree_control", "cgroup.type",
           "cgroup.freeze", "io.weight", "io.max"]
SYSCTLS = "/proc/sys/net /proc/sys/fs/mqueue /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/kernel/shm* " \
          "/proc/sys/kernel/msg* /proc/sys/kernel/sem"
NAMESPACES = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts", "time"]
SCRIPT = "\n".join([
    "exec 2>/dev/null; me=$$",
    "say() { echo \"=== $1\"; }",
    "say files; cd /proc/$me; head -v -n 99999 %s; cd /; head -v -n 99999 %s" % (" ".join(FILES), " ".join(OTHER)),
    "say limits; cd /sys/fs/cgroup; head -v -n 99999 %s; cd /" % " ".join(CGROUP2 if cgroup_is_v2() else CGROUP1),
    "say sysctl; find %s -type f | xargs head -v -n 99999" % SYSCTLS,
    "say environ; tr '\\0' '\\n' </proc/$me/environ",
    "say fds; ls -ln /proc/$me/fd",
    "say links; for n in cwd root exe %s; do echo $n=$(readlink /proc/$me/$n); done" % " ".join("ns/" + n for n in NAMESPACES),
    "say ids; umask; id; tty; if grep -q 'keyring *_ses' /proc/keys; then echo its own; else echo none; fi",
    "say ps; ps -o pid,ppid,pgid,sid,args | head -n 2 | cut -c -60",
    "say dev; ls -lnR /dev; ls -lnd /dev /dev/shm /dev/pts /proc /sys / /etc /etc/* /home/* /tmp /root /data /srv/* /run /v /w /sys/fs/cgroup /sys/fs/cgroup/*",
    "say net; ip -o link; ip -o addr",
    "say may; for f in /x /etc/x /dev/x /dev/shm/x /data/x /proc/sys/kernel/x /proc/sysrq-trigger/x /sys/x /tmp/x /v/x /w/x /sys/fs/cgroup/x; do "
    "(: >$f) && echo $f || echo no $f; done; rm -f /dev/shm/x /data/x",
    "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug; do [ $(head -c 1 $f | wc -c) = 1 ] && echo read $f || echo no read $f; done; "
    "ls /proc/acpi /proc/scsi /sys/firmware | wc -l",
    "mknod /tmp/n c 1 3 && echo mknod; mkdir /tmp/m && echo mkdir; mount -t tmpfs none /tmp/m && echo mount; "
    "unshare -m true && echo unshare; unshare -U true && echo unshare -U; chown 1:1 /tmp/n && echo chown; "
    "hostname other && echo hostname; echo 1 >/proc/sys/net/ipv4/ip_forward && echo sysctl",
    "say end"])
STATUS_LEFT_OUT = r"Vm|Rss|Hugetlb|voluntary|nonvol|Threads|Pid$|NSpid|Tgid|PPid|NStgid|NSpgid|NSsid|FDSize|State|SigQ|x86|untag"

# of interfaces, of modules that may come meanwhile
SYSCTL_LEFT_OUT = r"/neigh/|/conf/(?!all|default|lo/)|/net/(netfilter|bridge|nf_)|congestion_control$"


def headed(lines):
    """{file: lines} of what `head -v` prints."""
    found, name = {}, None
    for line in lines:
        m = re.match(r"==> (.*) <==$", line)
        if m:
            name = m[1]
            found[name] = []
        elif name:
            found[name].append(line)
    return {n: body[:-1] if body and not body[-1] else body for n, body in found.items()}


def mounts(lines):
    """{mount point, with a + for each that lies below it: {root, options, tags, type, source, super}}"""
    found = {}
    for line in lines:
        if not line:
            continue
        before, after = line.split(" - ", 1)
        f, a = before.split(" "), (after + " ").split(" ")
        key = f[4]
        while key in found:
            key += "+"
        options = sorted(o for o in a[2].split(",") if not re.match(r"lowerdir=|upperdir=|workdir=", o))
        found[key] = {"root": f[3] if a[0] != "overlay" else "/", "options": f[5], "type": a[0], "source": a[1],
                      "tags": " ".join(re.sub(r":\d+", "", t) for t in f[6:]), "super": ",".join(options)}
    return found


def listing(lines):
    """{path: "mode uid gid device -> target"} of `ls -lnR` and `ls -lnd`."""
    found, where = {}, ""
    for line in lines:
        if line.endswith(":"):
            where = line[:-1] + "/"
        m = re.match(r"(\S+)\s+\d+\s+(\S+)\s+(\S+)\s+(.*?)(?:[A-Z][a-z][a-z] .{9})(.*)$", line)
        if m:
            name, _, target = m[5].partition(" -> ")
            path = ("" if name.startswith("/") else where) + name
            if not re.match(r"/dev/(loop|dm-|pts/\d|nbd|bus/|char/|block/|fd/|disk/|vcs|mapper/)", path):
                found[path] = " ".join([m[1], m[2], m[3], m[4].strip() if line[0] in "cb" else "", target]).strip()
    return found


def files_facts(body):
    got = {}
    for name, lines in headed(body).items():
        if name == "mountinfo":
            for point, values in mounts(lines).items():
                got.update(("mount %s %s" % (point, what), value) for what, value in values.items())
        elif name in ("status", "limits"):
            for line in lines:
                key, value = line.split(":", 1) if name == "status" else (line[:26].strip(), line[26:])
                if key == "SigIgn":                # runc and crun pass on what make ignores: signals of libc's own, 32 and 33
                    value = "%016x" % (int(value, 16) & ~(3 << 31))
                if not (name == "status" and re.match(STATUS_LEFT_OUT, key)):
                    got["%s %s" % (name, key)] = " ".join(value.split())
        elif name == "stat":
            f = lines[0][lines[0].rindex(")") + 2:].split()
            pid = lines[0].split()[0]
            got["stat"] = "leads its group %s, session %s, tty %s, priority %s, nice %s, rt %s, policy %s" % (
                f[2] == pid, f[3] == pid, f[4], f[15], f[16], f[37], f[38])
        elif name == "cgroup":
            got.update(("cgroup of " + controllers, path) for _, controllers, path in (line.split(":", 2) for line in lines))
        elif name == "/proc/net/route":
            got[name] = [line.split()[0] + " " + " ".join(line.split()[3:7]) for line in lines]
        else:
            got[name] = "\n".join(lines)
    return got


def facts(text, change=()):
    """{fact: value} of what SCRIPT has printed; each (pattern, replacement) of `change` is done to the text before."""
    got = {}
    text = text.replace("\r", "")
    for pattern, to in change:
        text = re.sub(pattern, to, text)
    for part in re.split(r"^=== ", text, flags=re.M)[1:]:
        name, *body = part.splitlines()
        if name == "files":
            got.update(files_facts(body))
        elif name in ("limits", "sysctl"):
            for file, lines in headed(body).items():
                if not re.search(SYSCTL_LEFT_OUT, file):
                    got["%s %s" % ("cgroup" if name == "limits" else name, file.removeprefix("/proc/sys/"))] = "\n".join(sorted(lines))
        elif name == "environ":
            got.update(("env " + line.partition("=")[0], line.partition("=")[2]) for line in body)
        elif name == "fds":
            for line in body:
                m = re.search(r"(\S+) -> (.*)$", line)
                if m:
                    got["fd " + m[1]] = line.split()[0] + " " + re.sub(r"\d+", "N", m[2])
        elif name == "links":
            for line in body:
                key, _, value = line.partition("=")
                if key.startswith("ns/"):
                    value = "the host's" if value == os.readlink("/proc/self/" + key) else "another"
                got[key] = value
        elif name == "ids":
            got.update(zip(("umask", "id", "tty"), body)); got["keys"]="\n".join(body[3:])
        elif name == "ps":
            got["ps"] = "\n".join(" ".join(line.split()) for line in body)
        elif name == "dev":
            got.update(("file " + path, value) for path, value in listing(body).items())
        elif name == "net":
            for line in body:                      # link-local addresses and carriers come when they come
                f = line.split()
                if not f[1].startswith("veth") and "inet6 fe80:" not in line:
                    line = re.sub(r"^\d+: |link/ether .*|@\w+|qdisc \w+ |\d+(\.\d+){3}|LOWER_UP,?|,?M-DOWN|,?NO-CARRIER,?", "", line)
                    got["net %s %s" % (f[1].partition("@")[0].rstrip(":"), f[2] if f[2].startswith("inet") else "link")] = " ".join(line.split())
        elif name == "may":
            got.update(("may " + line.removeprefix("no "), "no" if line.startswith("no ") else "yes") for line in body)
        elif name == "end":
            got["end"] = "reached"
    return got


class Comparison:
    """explained: [(cases, facts, ours, theirs, why[, "v1", "v2" or "hybrid"])], the first four patterns for all of it."""

    def __init__(self, theirs, explained):
        self.theirs, self.explained = theirs, explained
        self.used, self.cases = set(), []
        self.kinds = {"v2"} if cgroup_is_v2() else {"v1", "hybrid"} if any(v2 for _, v2, _ in cgroup_mounts()) else {"v1"}

    def here(self, rule):
        return len(rule) < 6 or rule[5] in self.kinds

    def compare(self, case, a, b):
        """One test: all that differs between the two fingerprints is explained."""
        self.cases.append(case)
        different = [who + " did not get to its end" for who, found in (("cricket", a), (self.theirs, b)) if "end" not in found]
        for key in sorted(set(a) | set(b)):
            row = (case, key, str(a.get(key)), str(b.get(key)))
            if row[2] == row[3]:
                continue
            why = [i for i, e in enumerate(self.explained)
                   if self.here(e) and all(re.fullmatch(p, v, re.S) for p, v in zip(e, row))]
            self.used.update(why)
            if not why:
                different.append("%s\n    cricket: %s\n    %s: %s" % (key, row[2], self.theirs, row[3]))
        ok(not different, "%s: %d facts are the same by both, or explained" % (case, len(a)), *different)

    def finish(self):
        """After all cases: a test for each rule of them that it is still needed."""
        for i, e in enumerate(self.explained):
            if self.here(e) and any(re.fullmatch(e[0], case) for case in self.cases):
                ok(i in self.used, "still so: " + e[4])
