#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""cricket-worker seccomp: profiles of both shapes become filters, which are then put on a process and tried."""
import ctypes
import errno
import json
import os
import platform
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import (BUILD, SRC, Daemon, diag, done_testing, fails, finish, is_, like, ok, pb, skip,  # noqa: E402
                     skip_all, wait_until)

if platform.machine() != "x86_64":
    skip_all("system call numbers of x86_64")
libc = ctypes.CDLL(None, use_errno=True)
NR = {"getppid": 110, "mkdir": 83, "chmod": 90, "unshare": 272, "clone": 56, "clone3": 435, "socket": 41,
      "personality": 135, "getpid": 39, "chroot": 161, "mount": 165, "keyctl": 250, "read": 0, "future": 600}
LOG, SPEC_ALLOW = 2, 4


def compile_(profile, caps="CAP_CHOWN,CAP_KILL"):
    """(flags, BPF) or the error text."""
    if not isinstance(profile, bytes):
        profile = json.dumps(profile).encode()
    p = subprocess.run([BUILD + "/cricket-worker", "seccomp", caps], input=profile, capture_output=True)
    if p.returncode != 0:
        return None, p.stderr.decode()
    magic, flags = struct.unpack_from("<II", p.stdout)
    if magic != 0x31425343 or len(p.stdout) % 8 or len(p.stdout) == 8:
        return None, "bad output: %r" % p.stdout[:32]
    return flags, p.stdout[8:]


def plain(profile, caps="CAP_CHOWN,CAP_KILL"):
    """The profile as an OCI runtime gets it."""
    p = subprocess.run([BUILD + "/cricket-worker", "seccomp", caps, "json"], input=json.dumps(profile).encode() if profile else b"",
                       capture_output=True, check=True)
    return json.loads(p.stdout)


class Prog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def tried(bpf, *calls):
    """errno of each (name, args...) under the filter, 0 for success; a negative number: killed by that signal."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            buf = ctypes.create_string_buffer(bpf, len(bpf))
            prog = Prog(len(bpf) // 8, ctypes.addressof(buf))
            libc.prctl(38, 1, 0, 0, 0)
            if libc.prctl(22, 2, ctypes.byref(prog), 0, 0) != 0:
                os.write(w, b"%d " % (1000 + ctypes.get_errno()))
            for name, *args in calls:
                ctypes.set_errno(0)
                n = libc.syscall(NR[name], *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
                os.write(w, b"%d " % (ctypes.get_errno() if n == -1 else 0))
        finally:
            os._exit(0)
    os.close(w)
    out = b""
    while True:
        b = os.read(r, 4096)
        if not b:
            break
        out += b
    os.close(r)
    _, status = os.waitpid(pid, 0)
    got = [int(x) for x in out.split()]
    if os.WIFSIGNALED(status):
        got.append(-os.WTERMSIG(status))
    return got


def rule(names, action="SCMP_ACT_ALLOW", **more):
    return dict(names=names, action=action, **more)


P, S = errno.EPERM, errno.ENOSYS

# --- the built-in one
flags, bpf = compile_(b"")
ok(flags == 0, "the built-in profile", bpf)
diag("%d instructions" % (len(bpf) // 8))
is_(tried(bpf, ("getppid",), ("unshare", 0x10000000), ("mount", 0, 0, 0, 0, 0), ("keyctl", 0, 0), ("chroot", b"/nope")),
    [0, P, P, P, P], "processes as usual; no namespaces, mounts, keys, chroot")
is_(tried(bpf, ("clone", 0x10000000 | 17, 0, 0, 0, 0), ("clone3", 0, 0), ("future",)), [P, S, S],
    "clone with a namespace flag: EPERM; clone3 and what is newer than the profile: ENOSYS")
is_(tried(bpf, ("socket", 1, 1, 0), ("socket", 40, 1, 0), ("personality", 0xffffffff), ("personality", 0x0040000)),
    [0, P, 0, P], "sockets but for AF_VSOCK; asking for the personality, not for one without randomisation")
is_(compile_(open(SRC + "/etc/seccomp.json", "rb").read()), (flags, bpf), "etc/seccomp.json is the built-in one")
flags, bpf = compile_(b"", "CAP_SYS_ADMIN,CAP_SYS_CHROOT")
is_(tried(bpf, ("clone3", 0, 0), ("chroot", b"/nope"), ("mount", 0, 0, 0, 0, 0))[0:2], [errno.EINVAL, errno.ENOENT],
    "with CAP_SYS_ADMIN and CAP_SYS_CHROOT the kernel itself decides")
flags, bpf = compile_(b"", "CAP_SYS_ADMINX")
is_(tried(bpf, ("unshare", 0)), [P], "a name that only begins the same is another one")

# --- the runtime-spec's shape
allow = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]}
flags, bpf = compile_(dict(allow, syscalls=[rule(["chmod", "no_such_call"], "SCMP_ACT_ERRNO")]))
is_(tried(bpf, ("getppid",), ("chmod", b"/", 0o755), ("mkdir", b"/proc/x", 0), ("future",)), [0, P, errno.ENOENT, S],
    "a deny list")
flags, bpf = compile_(dict(allow, syscalls=[rule(["chmod"], "SCMP_ACT_ERRNO", errnoRet=95)],
                           flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]))
is_(tried(bpf, ("chmod", b"/", 0o755)), [95], "errnoRet")
is_(flags, LOG | SPEC_ALLOW, "flags")
flags, bpf = compile_({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "architectures": ["SCMP_ARCH_X86_64"],
                       "syscalls": [rule(["read", "write", "exit_group", "exit", "chmod"]), rule(["getpid"], "SCMP_ACT_ERRNO")]})
is_(tried(bpf, ("mkdir", b"/x", 0), ("getpid",), ("future",)), [13, P, S], "defaultErrnoRet; another error for one call")
args = [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 8, "op": "SCMP_CMP_GT"}]
flags, bpf = compile_(dict(allow, syscalls=[rule(["getppid"], "SCMP_ACT_ERRNO", args=args)]))
is_(tried(bpf, ("getppid", 7, 9), ("getppid", 7, 8), ("getppid", 6, 9)), [P, 0, 0], "two arguments: both have to fit")
args = [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]
flags, bpf = compile_(dict(allow, syscalls=[rule(["getppid"], "SCMP_ACT_ERRNO", args=args)]))
is_(tried(bpf, ("getppid", 7), ("getppid", 8), ("getppid", 6)), [P, P, 0], "one argument twice: either")
args = [{"index": 0, "value": 0xf0, "valueTwo": 0x30, "op": "SCMP_CMP_MASKED_EQ"}]
flags, bpf = compile_(dict(allow, syscalls=[rule(["getppid"], "SCMP_ACT_ERRNO", args=args)]))
is_(tried(bpf, ("getppid", 0x3f), ("getppid", 0x4f)), [P, 0], "under a mask")
flags, bpf = compile_(dict(allow, syscalls=[rule(["getppid"], "SCMP_ACT_KILL_PROCESS")]))
is_(tried(bpf, ("getpid",), ("getppid",)), [0, -31], "the process is killed by SIGSYS")
flags, bpf = compile_({"defaultAction": "SCMP_ACT_ALLOW"})
is_(tried(bpf, ("getppid",), ("chmod", b"/proc", 0o555)), [0, 0], "no rules at all")

# --- Docker's shape
docker = {"defaultAction": "SCMP_ACT_ALLOW",
          "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                      {"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}]}


def denied(**cond):
    flags, bpf = compile_(dict(docker, syscalls=[dict(rule(["getppid"], "SCMP_ACT_ERRNO"), **cond)]))
    return tried(bpf, ("getppid",)) == [P]


ok(denied(), "a rule without conditions")
ok(denied(includes={"caps": ["CAP_KILL"]}), "includes a capability that is there")
ok(not denied(includes={"caps": ["CAP_KILL", "CAP_BPF"]}), "includes one that is not")
ok(not denied(excludes={"caps": ["CAP_BPF", "CAP_KILL"]}), "excludes one that is there")
ok(denied(excludes={"caps": ["CAP_BPF"]}), "excludes one that is not")
ok(denied(includes={"arches": ["arm64", "amd64"]}) and not denied(includes={"arches": ["arm64"]}), "includes architectures")
ok(not denied(excludes={"arches": ["amd64"]}), "excludes architectures")
ok(denied(includes={"minKernel": "4.8"}) and not denied(includes={"minKernel": "99.0"}), "includes minKernel")
ok(not denied(excludes={"minKernel": "4.8"}), "excludes minKernel")
flags, bpf = compile_(dict(docker, syscalls=[{"name": "getppid", "action": "SCMP_ACT_ERRNO", "args": None}]))
is_(tried(bpf, ("getppid",)), [P], "one name instead of many")

# --- what is refused
for profile, pattern in (
        (b"{", r"^line 1: "),
        (b"[]", "not a JSON object"),
        (b"{}", "action is missing"),
        ({"defaultAction": "SCMP_ACT_NOPE"}, "unknown action 'SCMP_ACT_NOPE'"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "errnoRet does not go with"),
        (dict(allow, listenerPath="/run/x"), "^listenerPath is not supported"),
        (dict(allow, listenerMetadata="x"), "^listenerMetadata is not supported"),
        (dict(allow, syscalls=[rule(["chmod"], "SCMP_ACT_NOTIFY")]), "SCMP_ACT_NOTIFY.* not supported"),
        (dict(allow, architectures=["SCMP_ARCH_Z80"]), "unknown architecture 'SCMP_ARCH_Z80'"),
        (dict(allow, archMap=docker["archMap"]), "both architectures and archMap"),
        (dict(allow, flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), "flag 'SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV'"),
        (dict(allow, syscalls=[{"action": "SCMP_ACT_ERRNO"}]), "without names"),
        (dict(allow, syscalls=[dict(rule(["chmod"], "SCMP_ACT_ERRNO"), name="chown")]), "both name and names"),
        (dict(allow, syscalls=[rule(["chmod"], "SCMP_ACT_ERRNO", errnoRet=70000)]), "errnoRet"),
        (dict(allow, syscalls=[rule(["chmod"], "SCMP_ACT_ERRNO", args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])]),
         "index of an argument"),
        (dict(allow, syscalls=[rule(["chmod"], "SCMP_ACT_ERRNO", args=[{"index": 0, "value": "x", "op": "SCMP_CMP_EQ"}])]),
         "is no number"),
        (dict(allow, syscalls=[rule(["chmod"], "SCMP_ACT_ERRNO", args=[{"index": 0, "value": 1, "op": "=="}])]),
         "unknown operator"),
        (b" " * 10000000, "larger than 1048576 bytes"),
        (dict(allow, syscalls=[rule(["chmod"], "SCMP_ACT_ERRNO", args=[{"index": 0, "value": i, "op": "SCMP_CMP_EQ"}])
                               for i in range(5000)]), "more than 4096 instructions"),
):
    flags, text = compile_(profile)
    ok(flags is None and text.count("\n") == 1, "one line of error")
    like(text, pattern, "refused: %s" % pattern)

r = subprocess.run([BUILD + "/cricket-worker", "seccomp"], capture_output=True)
is_(r.returncode, 2, "called wrongly")

# --- in containers
if os.geteuid() != 0:
    skip("containers need root")
    done_testing()
d = Daemon(cni=False)
pod = d.runp(config=d.pod_config("plain", net=False))
privileged = d.runp(config=d.pod_config("privileged", net=False, linux={"security_context": {"privileged": True}}))
files = d.tmp + "/profiles"
os.mkdir(files)


def profile(name, content):
    with open(files + "/" + name, "w") as f:
        f.write(content if isinstance(content, str) else json.dumps(content))
    return files + "/" + name


def seccomp(kind, ref="", **more):
    return dict(more, seccomp=pb.SecurityProfile(profile_type=kind, localhost_ref=ref))


def mode(ctr):
    """Of the first process and of an exec'ed one."""
    show = "grep ^Seccomp: /proc/%s/status | tr -dc 0-9"
    return d.sh(ctr, show % 1)[0] + d.sh(ctr, show % "self")[0]


no_chmod = profile("no-chmod", dict(allow, syscalls=[rule(["chmod", "fchmod", "fchmodat"], "SCMP_ACT_ERRNO")]))
no_chown = profile("no-chown", dict(allow, syscalls=[rule(["chown", "fchownat", "lchown"], "SCMP_ACT_ERRNO")]))
Default, Unconfined, Localhost = (pb.SecurityProfile.RuntimeDefault, pb.SecurityProfile.Unconfined,
                                  pb.SecurityProfile.Localhost)
is_(mode(d.start(pod, "nil")), b"00", "no profile in the request: unconfined")
is_(mode(d.start(pod, "unconfined", security=seccomp(Unconfined))), b"00", "unconfined")
ctr = d.start(pod, "default", security=seccomp(Default))
is_(mode(ctr), b"22", "RuntimeDefault")
out, err, status = d.sh(ctr, "unshare -n true")
ok(status != 0 and b"Operation not permitted" in err, "no new namespaces in there", out, err)
out, err, status = d.sh(ctr, "mkdir /x && touch /x/y && chmod 600 /x/y && chown 5:5 /x/y && rm -r /x && ps && wget -h 2>&1 | head -1")
is_((err, status), (b"", 0), "but everything else")
ctr = d.start(pod, "chmod", security=seccomp(Localhost, no_chmod))
is_(mode(ctr), b"22", "a profile of the node")
out, err, status = d.sh(ctr, "touch /x; chmod 600 /x")
ok(status != 0 and b"Operation not permitted" in err, "is in force, also for an exec", out, err)
is_(d.sh(ctr, "chown 5:5 /x"), (b"", b"", 0), "and denies nothing else")
ctr = d.start(pod, "prefix", security=seccomp(Localhost, "localhost/" + no_chown))
is_(mode(ctr), b"22", "with the old prefix")
ctr = d.start(privileged, "privileged", security=seccomp(Localhost, no_chmod, privileged=True))
is_(mode(ctr), b"00", "a privileged container has none")
gone = profile("gone", dict(allow, syscalls=[rule(["chmod", "fchmod", "fchmodat"], "SCMP_ACT_ERRNO")], comment="1"))
ctr = d.create(pod, "gone", command=["sleep", "1000"], security=seccomp(Localhost, gone))
profile("gone", dict(allow, comment="2"))
d.StartContainer(container_id=ctr)
ok(b"not permitted" in d.sh(ctr, "touch /x; chmod 600 /x")[1], "a profile that is edited later: the container's stays")
os.unlink(gone)
is_(mode(ctr), b"22", "one that is deleted later: exec does not miss it")
files_of = lambda: sorted(os.listdir(d.state + "/seccomp"))
before = files_of()
with open(d.state + "/seccomp/" + "0" * 64, "w") as f:
    f.write("of a daemon that was killed")
d.restart()
is_(files_of(), before, "a filter that no container has is collected at the start")
is_(mode(ctr), b"22", "nor after a restart of the daemon")
ok(b"not permitted" in d.sh(ctr, "touch /x; chmod 600 /x")[1], "the filter is the same")
ctr = d.start(pod, "user", security=seccomp(Localhost, no_chmod, run_as_user={"value": 1000}))
is_(mode(ctr), b"22", "as an ordinary user")
ctr = d.start(pod, "nnp", security=seccomp(Default, run_as_user={"value": 1000}, no_new_privs=True))
is_(mode(ctr), b"22", "with no_new_privs")


def refused(ref, pattern, name, kind=Localhost):
    fails(d.CreateContainer, "INVALID_ARGUMENT|UNKNOWN|NOT_FOUND|FAILED_PRECONDITION", pattern, name, pod_sandbox_id=pod,
          config=d.ctr_config("bad", command=["true"], security=seccomp(kind, ref)))


refused("relative", "not an absolute path", "a relative path")
refused(files + "/nope", "No such file or directory", "a profile that is not there")
refused(files, "not a regular file", "a directory")
refused(profile("bad", "{"), "line 1", "one that is not JSON")
refused(profile("big", " " * 10000000), "larger than 1048576 bytes", "one of 10 MB")
refused(profile("notify", dict(allow, syscalls=[rule(["chmod"], "SCMP_ACT_NOTIFY")])), "SCMP_ACT_NOTIFY", "one that needs a listener")
refused(no_chmod, "localhost_ref", "a path with another type", Unconfined)
refused("", "localhost_ref", "no path")
is_([c.metadata.name for c in d.ListContainers().containers if c.metadata.name == "bad"], [], "no trace of the refused")
d.remove(pod, privileged)
wait_until(lambda: not os.listdir(d.root + "/containers"), "the directories are deleted, slowly")
is_(os.listdir(d.state + "/seccomp"), [], "with its last container a filter's file has gone")
# --- for another runtime
rule = {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}
got = plain({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 3, "comment": "x",
             "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
             "syscalls": [dict(rule, comment="y"), {"name": "mkdir", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_KILL"]}},
                          {"names": ["chmod"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                          {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_KILL"]}}]})
is_(got, {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 3, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
          "syscalls": [rule, {"names": ["mkdir"], "action": "SCMP_ACT_ALLOW"}]}, "as JSON: dependencies resolved, nothing else lost")
is_(compile_(plain(None)), compile_(b""), "the built-in one as JSON compiles to the same filter")
finish(d)
