#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""cricket-pod by way of proc/link.h (t/lib/poddrive stands for the daemon): what a container's process gets, logs,
terminals, attach, exec, exits while nobody listens, and what is left afterwards: nothing.

Runs in a mount namespace of its own, so no mount can stay behind."""
import os
import sys

if os.environ.get("POD_TEST_NS") != str(os.getpid()) and os.geteuid() == 0:
    os.environ["POD_TEST_NS"] = str(os.getpid())
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--", sys.executable, __file__])

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import atexit  # noqa: E402
import ctypes  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import struct  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402

from cricket import (BUILD, LIMIT, cgroup_mounts, children, diag, done_testing, is_, kill_children, like, need, ok, pss_kb, skip,  # noqa: E402
                     wait_until)

need("root", "busybox", "unshare")
SANITIZED = b"__asan_init" in open(BUILD + "/cricket-pod", "rb").read()
CAPS = 0xA80425FB
BIND, FS, OVERLAY, SELF, SHM, CGROUP = range(6)
REC, RO, RRO, NOSUID, NODEV, NOEXEC, OPTIONAL, MUST_EXIST, IDMAP = (1 << i for i in range(9))
PRIVATE, SLAVE, SHARED = range(3)
POD, OWN, HOST, TARGET = range(4)

libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(36, 1, 0, 0, 0)            # what a supervisor leaves behind comes to us
TMP = tempfile.mkdtemp(prefix="cricket-", dir=os.environ.get("CRICKET_TEST_TMP"))
atexit.register(shutil.rmtree, TMP, ignore_errors=True)
atexit.register(kill_children, ())    # before that, should a test give up in the middle
os.chmod(TMP, 0o755)
ROOT = TMP + "/layer"
for name in ("bin", "etc", "data", "proc", "work", "tmp"):
    os.makedirs(ROOT + "/" + name)
shutil.copy(shutil.which("busybox"), ROOT + "/bin/busybox")
for name in subprocess.run(["busybox", "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
    if name not in ("busybox", "ls"):
        os.symlink("busybox", ROOT + "/bin/" + name)
shutil.copy(shutil.which("busybox"), ROOT + "/bin/ls")
with open(ROOT + "/bin/notexec", "w") as f:
    f.write("no")
with open(ROOT + "/bin/badinterp", "w") as f:
    f.write("#!/nope\n")
os.chmod(ROOT + "/bin/badinterp", 0o755)
os.symlink("/etc", ROOT + "/data/out")
os.symlink("%s/nowhere/at/all" % TMP, ROOT + "/data/nowhere")
os.symlink("../../../../made//here/", ROOT + "/data/up")
os.symlink("up", ROOT + "/data/twice")
os.symlink("loop", ROOT + "/data/loop")
os.chmod(ROOT + "/tmp", 0o1777)


def sh(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


class Drive:
    """t/lib/poddrive, and what it said so far."""

    def __init__(self):
        self.p = subprocess.Popen([BUILD + "/t/lib/poddrive", BUILD + "/cricket-pod"], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, bufsize=0)
        os.set_blocking(self.p.stdout.fileno(), False)
        self.buf = b""
        self.events = []
        self.data = {}

    def do(self, op, **fields):
        fields["op"] = op
        self.p.stdin.write(json.dumps(fields).encode() + b"\n")

    def read(self):
        while True:
            got = self.p.stdout.read(1 << 20)
            if not got:
                break
            self.buf += got
        *lines, self.buf = self.buf.split(b"\n")
        for line in lines:
            e = json.loads(line)
            if e["ev"] == "data":
                key = (e["tag"], e["which"])
                self.data[key] = self.data.get(key, "") + e["data"]
            else:
                self.events.append(e)

    def want(self, ev, **fields):
        """The first such event, taken out of the list."""
        def look():
            self.read()
            for i, e in enumerate(self.events):
                if e["ev"] == ev and all(e.get(k) == v for k, v in fields.items()):
                    return self.events.pop(i)
            if self.p.poll() is not None:
                raise RuntimeError("poddrive ended with %s" % self.p.returncode)
            return None
        return wait_until(look, "event %s %s; there are %s" % (ev, fields, self.events))

    def output(self, tag, which, pattern):
        def look():
            self.read()
            return re.search(pattern, self.data.get((tag, which), ""), re.S)
        try:
            wait_until(look, "output")
        except TimeoutError:
            diag("output of %s so far: %r" % (tag, self.data))
            raise
        return self.data[(tag, which)]

    def kill(self):
        self.p.kill()
        self.p.wait()

    def quit(self):
        self.p.stdin.close()
        return self.p.wait(LIMIT)


# v1, with the root in each for the container's path
HIERARCHIES = ":".join(os.path.basename(p) for p, v2, _ in cgroup_mounts() if not v2 and os.path.dirname(p) == "/sys/fs/cgroup") + "/"
MOUNTS = [
    dict(kind=FS, fstype="proc", source="proc", target="/proc", flags=NOSUID | NODEV | NOEXEC),
    dict(kind=FS, fstype="tmpfs", source="tmpfs", target="/dev", flags=NOSUID, data="mode=755,size=65536k"),
    dict(kind=FS, fstype="devpts", source="devpts", target="/dev/pts", flags=NOSUID | NOEXEC,
         data="newinstance,ptmxmode=0666,mode=0620,gid=5"),
    dict(kind=FS, fstype="mqueue", source="mqueue", target="/dev/mqueue", flags=NOSUID | NODEV | NOEXEC),
    dict(kind=SHM, target="/dev/shm"),
    dict(kind=FS, fstype="sysfs", source="sysfs", target="/sys", flags=NOSUID | NODEV | NOEXEC | RO),
    dict(kind=CGROUP, target="/sys/fs/cgroup", flags=RO | NOSUID | NODEV | NOEXEC, lower=HIERARCHIES),
]
DEVICES = [["/dev/null", 0o20666, 1, 3], ["/dev/zero", 0o20666, 1, 5], ["/dev/full", 0o20666, 1, 7],
           ["/dev/random", 0o20666, 1, 8], ["/dev/urandom", 0o20666, 1, 9], ["/dev/tty", 0o20666, 5, 0]]
LINKS = [["/dev/ptmx", "pts/ptmx"], ["/dev/fd", "/proc/self/fd"], ["/dev/stdout", "/proc/self/fd/1"]]
count = 0
NAP = os.getpid() * 10000             # `sleep NAP + n` is nobody else's


def start(d, argv, wait=True, mounts=(), **fields):
    """A container; its id. argv a string: for sh -c."""
    global count
    count += 1
    cid = "c%d" % count
    if isinstance(argv, str):
        argv = ["sh", "-c", argv]
    plan = dict(id=cid, argv=argv, envp=["PATH=/sbin:/bin", "HOME=/"], cwd="/", lower=ROOT, upper="%s/c/%s/upper" % (TMP, cid),
                work="%s/c/%s/work" % (TMP, cid), mounts=MOUNTS + list(mounts), devices=DEVICES, symlinks=LINKS, pidns=POD,
                log="%s/log/%s.log" % (TMP, cid), caps=CAPS, bounding=CAPS)
    plan.update(fields)
    d.do("start", **plan)
    if wait:
        e = d.want("started", id=cid)
        if e["error"]:
            raise RuntimeError(e["error"])
        pids[cid] = e["pid"]
    return cid


pids = {}


def raw(cid):
    with open("%s/log/%s.log" % (TMP, cid), "rb") as file:
        return file.read()


LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([FP]) (.*)\Z", re.S)


def log(cid, stream=None):
    """The text that the log says was written; every line is checked."""
    text = b""
    data = raw(cid)
    if data and not data.endswith(b"\n"):
        raise RuntimeError("torn last line: %r" % data[-80:])
    for line in data.split(b"\n")[:-1]:
        m = LINE.match(line)
        if not m:
            raise RuntimeError("bad log line %r" % line[:200])
        if stream is None or m.group(2) == stream.encode():
            text += m.group(4) + (b"\n" if m.group(3) == b"F" else b"")
    return text.decode("latin-1")


def end(d, cid, ack=True):
    e = d.want("exit", id=cid)
    if ack:
        d.do("ack", id=cid)
    return e


def run(d, argv, **fields):
    """Exit code and log of a container."""
    cid = start(d, argv, **fields)
    return end(d, cid)["status"], log(cid)


def fails(d, pattern, name, argv="true", **fields):
    cid = start(d, argv, wait=False, **fields)
    return like(d.want("started", id=cid)["error"], pattern, name)


def execute(d, cid, tag, argv, **fields):
    if isinstance(argv, str):
        argv = ["sh", "-c", argv]
    plan = dict(id=cid, tag=tag, argv=argv, envp=["PATH=/sbin:/bin"], cwd="/", caps=CAPS, bounding=CAPS)
    plan.update(fields)
    d.do("exec", **plan)
    return d.want("exec-started", tag=tag)


def exec_out(d, cid, tag, argv, **fields):
    e = execute(d, cid, tag, argv, **fields)
    if e["error"]:
        raise RuntimeError(e["error"])
    status = d.want("exec-exited", tag=tag)["status"]
    d.want("eof", tag=tag, which="out")
    return status, d.data.get((tag, "out"), "")


def spawn(d, pod, **fields):
    d.do("spawn", id=pod, dir=TMP + "/pods/" + pod, hostname="web-0", **fields)
    e = d.want("ready")
    if e["error"]:
        raise RuntimeError(e["error"])
    return e


def ns(pid, kind):
    return os.readlink("/proc/%s/ns/%s" % (pid, kind))


def mounts_of(pid="self"):
    with open("/proc/%s/mountinfo" % pid) as file:
        return [line.split(" ")[4] for line in file]


def gone(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def sleeping(n):
    p = subprocess.run(["pgrep", "-f", "^/bin/sleep %d" % n], stdout=subprocess.PIPE, text=True, check=False)
    return p.stdout.split()


# ---- a pod with namespaces of its own, one shared PID namespace

d = Drive()
pod = spawn(d, "p1", shared_pid=True, sysctls={"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"})
is_(pod["netns"], TMP + "/pods/p1/netns", "the network namespace has a name")
like(sh("nsenter", "--net=" + pod["netns"], "ip", "addr", "show", "lo"), "127.0.0.1/8", "lo is up in it")
is_(sh("nsenter", "--net=" + pod["netns"], "cat", "/proc/sys/net/ipv4/ip_forward"), "1\n", "a sysctl is set in it")
is_(ns(pod["init"], "net"), "net:[%d]" % os.stat(pod["netns"]).st_ino, "PID 1 of the pod lives in it")
is_(open("/proc/%d/comm" % pod["pid"]).read(), "cricket-pod\n", "the supervisor's name")
like(open("/proc/%d/status" % pod["init"]).read(), "CapBnd:\t0+\n", "PID 1 of the pod has no capabilities")
is_(os.listdir("/proc/%d/root" % pod["init"]), [], "and an empty root")
is_(os.listdir("/proc/%d/fd" % pod["init"]), [], "and no descriptors")
ok(len(mounts_of(pod["pid"])) < 8, "the supervisor has few mounts", mounts_of(pod["pid"]))

is_(run(d, "hostname; cat /proc/sys/net/ipv4/ip_forward; exit 7"), (7, "web-0\n1\n"), "exit code, host name, sysctl")
is_(run(d, "kill -TERM $$"), (143, ""), "killed by a signal: 128 + number")
c = start(d, "sleep 1000")
d.do("signal", id=c, sig=15)
e = end(d, c)
is_((e["status"], e["signal"], e["oom"]), (143, 15, False), "link_signal, no PID 1 of its own")
c = start(d, ["sleep", "1000"])
is_(ns(pids[c], "pid"), ns(pod["init"], "pid"), "a container in the pod's PID namespace")
_, text = run(d, "ps -o pid,comm; readlink /proc/1/exe; cat /proc/1/root/etc/passwd")
like(text, r"(?s)1 cricket-init.*\bsleep\b", "it sees the pod's init and the other container")
ok("cricket-pod" not in text.splitlines()[-1], "but not what init is")
d.do("signal", id=c, sig=9)
is_(end(d, c)["status"], 137, "SIGKILL")

# ---- failing starts

fails(d, r"^start container: exec '/nope': No such file or directory$", "a missing executable", ["/nope"])
fails(d, r"^start container: exec 'nope': executable file not found in \$PATH", "one that PATH does not find", ["nope"])
fails(d, r"^start container: exec 'notexec': .*denied|\$PATH", "one in PATH that is not executable", ["notexec"])
fails(d, r"^start container: exec '/bin/notexec': Permission denied$", "one by path", ["/bin/notexec"])
fails(d, r"exec '/bin': Permission denied$", "a directory", ["/bin"])
fails(d, r"exec '/bin/badinterp': No such file", "a script without its interpreter", ["/bin/badinterp"])
fails(d, r"exec '/etc/passwd/x': Not a directory|No such file", "a path through nothing", ["/etc/passwd/x"])
fails(d, r"mount '/does/not/exist': No such file or directory$", "a bind source that is missing",
      mounts=[dict(source="/does/not/exist", target="/x")])
fails(d, r"mount nofs on '/x': No such device$", "an unknown file system", mounts=[dict(kind=FS, fstype="nofs", source="x", target="/x")])
fails(d, r"rlimit 7", "an impossible limit", rlimits=[[7, 10, 5]])
fails(d, r"chdir '/bin/sh': Not a directory$", "a working directory that is a file", cwd="/bin/sh")
fails(d, r"PID namespace|target container nope is not running", "a target that is not there", pidns=TARGET, target_id="nope")
cid = start(d, ["/nope"], wait=False)
d.want("started", id=cid)
is_(raw(cid), b"", "the log exists even if the start failed")
is_(oct(os.stat("%s/log/%s.log" % (TMP, cid)).st_mode & 0o777), "0o640", "with mode 0640")

# ---- what the process is

st, text = run(d, "id; grep -E 'Cap|NoNew|Seccomp:|Groups|SigBlk|SigIgn' /proc/self/status; umask; ulimit -n; pwd; cat /proc/self/oom_score_adj",
               uid=1000, gid=1001, groups=[7, 8], nnp=True, rlimits=[[7, 333, 444]], cwd="/new/dir", oom=123, inheritable=0, ambient=0)
like(text, r"uid=1000 gid=1001 groups=7,8|uid=1000 gid=1001 groups=1001,7,8", "user and groups")
like(text, r"CapPrm:\t0+\nCapEff:\t0+\nCapBnd:\t00000000a80425fb\nCapAmb:\t0+\n", "capabilities of a user: the bounding set only")
like(text, r"NoNewPrivs:\t1", "no_new_privs")
like(text, r"SigBlk:\t0+\nSigIgn:\t0+\n", "no signal blocked or ignored")
like(text, r"0022\n333\n/new/dir\n123\n$", "umask, limit, a working directory that was missing, oom_score_adj")
st, text = run(d, "grep -E 'CapEff|CapAmb|CapInh' /proc/self/status", uid=1000, inheritable=0x400, ambient=0x400)
like(text, r"CapInh:\t0+400\nCapEff:\t0+400\nCapAmb:\t0+400\n", "ambient capabilities survive")
st, text = run(d, "grep -E 'CapEff|NoNew' /proc/self/status", caps=CAPS & ~1, bounding=CAPS & ~1)
like(text, r"CapEff:\t00000000a80425fa\nNoNewPrivs:\t0\n", "a dropped capability, no_new_privs off")
st, text = run(d, "ls /proc/self/fd | wc -l; cat /proc/self/mountinfo | grep -c -e ' /l ' -e ' /u ' -e ' /r '; env | sort",
               envp=["PATH=/bin", "A=b c", "EMPTY="])
is_(text.splitlines(), ["4", "0", "A=b c", "EMPTY=", "PATH=/bin", "PWD=/", "SHLVL=1"], "descriptors, mounts and environment: none but its own")
is_(run(d, "echo x >/dev/stdout; touch /proc/self/fd/1", uid=1000), (0, "x\n"), "a user may open its own stdout")
fails(d, "chdir '/proc/self/fd/3'", "no working directory through a descriptor", cwd="/proc/self/fd/3")
fails(d, "chdir '/proc/1/root'", "nor through another process", cwd="/proc/1/root")

# mkdir and mkdirat: EPERM; else allow. Loaded with no_new_privs after, without it before capabilities go.
MKDIR = {"x86_64": (83, 258)}.get(os.uname().machine, (34, 34))
BPF = [struct.unpack("<Q", struct.pack("<HBBI", *i))[0] for i in (
    (0x20, 0, 0, 0), (0x15, 0, 1, MKDIR[0]), (0x06, 0, 0, 0x00050001), (0x15, 0, 1, MKDIR[1]), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000))]
for nnp in (True, False):
    st, text = run(d, "mkdir /tmp/x 2>&1; grep -E 'Seccomp:|NoNew' /proc/self/status", seccomp=BPF, nnp=nnp)
    like(text, r"Operation not permitted\nNoNewPrivs:\t%d\nSeccomp:\t2\n" % nnp, "a filter, no_new_privs %s" % nnp)

# ---- its file systems

st, text = run(d, "/bin/ls /; echo /proc/fs/*; echo 1 >/proc/sys/kernel/pid_max",
               masked=["/bin/ls", "/proc/fs", "/nope"], readonly=["/proc/sys", "/nope"])
like(text, r"^sh: /bin/ls: Permission denied\n", "a masked file cannot be run: exactly 'Permission denied'")
like(text, r"\n/proc/fs/\*\n", "a masked directory is empty")
like(text, r"/proc/sys/kernel/pid_max: Read-only file system", "a read-only path")
is_(run(d, "touch /x; touch /self/y; touch /dev/z && echo dev", rootfs_readonly=True, mounts=[dict(kind=SELF, target="/self")]),
    (0, "touch: /x: Read-only file system\ndev\n"), "read-only root; a volume in it and /dev are not")
os.makedirs(TMP + "/vol/sub")
with open(TMP + "/vol/file", "w") as f:
    f.write("hello\n")
sh("mount", "-t", "tmpfs", "tmpfs", TMP + "/vol/sub")
VOL = TMP + "/vol"
is_(run(d, "cat /v/file /f; touch /v/sub/x && echo written; touch /v/x", mounts=[
    dict(source=VOL, target="/v", flags=REC | RO), dict(source=VOL + "/file", target="/f")]),
    (1, "hello\nhello\nwritten\ntouch: /v/x: Read-only file system\n"), "read-only, but not what is mounted below; a file over a file")
is_(run(d, "touch /v/sub/x; touch /v/x", mounts=[dict(source=VOL, target="/v", flags=REC | RRO)]),
    (1, "touch: /v/sub/x: Read-only file system\ntouch: /v/x: Read-only file system\n"), "recursively read-only")
is_(run(d, "cat /v/sub/x 2>&1; echo $?", mounts=[dict(source=VOL, target="/v")]),
    (0, "cat: can't open '/v/sub/x': No such file or directory\n1\n"), "not recursive")
run(d, "true", mounts=[dict(source=VOL, target="/data/out/deep")])
ok(not os.path.exists("/etc/deep"), "a link in the image does not lead a mount point to the host")
is_(run(d, "cat /etc/deep/file", mounts=[dict(source=VOL, target="/data/out/deep")]), (0, "hello\n"), "but inside the root")
is_(run(d, "cat %s/nowhere/at/all/deep/file" % TMP, mounts=[dict(source=VOL, target="/data/nowhere/deep")]), (0, "hello\n"),
    "nor does one whose end is missing: that is made inside the root")
ok(not os.path.exists(TMP + "/nowhere"), "and not on the host")
is_(run(d, "cat /made/here/file; stat -c %F /data/twice", mounts=[dict(source=VOL, target="/data/twice//")]),
    (0, "hello\nsymbolic link\n"), "a mount on a link to a link to nothing")
is_(run(d, "cat /made/here", mounts=[dict(source=VOL + "/file", target="/data/twice")]), (0, "hello\n"), "and of a file")
fails(d, "mount point '/data/loop/x': (Symbolic link loop|Too many levels of symbolic links)", "a link to itself leads nowhere",
      mounts=[dict(source=VOL, target="/data/loop/x")])
is_(run(d, "ls /v", mounts=[dict(source="/nope", target="/v", flags=OPTIONAL), dict(kind=FS, fstype="nofs", source="x", target="/v", flags=OPTIONAL)]),
    (0, ""), "optional mounts are left out")
is_(run(d, "ls /v", mounts=[dict(source=VOL, target="/v", flags=MUST_EXIST)])[0], 1, "a target that must exist and does not")
fails(d, r"path '%s' is mounted on '.*' but it is not a shared mount$" % VOL, "shared propagation needs a shared source",
      mounts=[dict(source=VOL, target="/v", flags=REC, propagation=SHARED)])
fails(d, r"not a shared or slave mount$", "slave propagation too", mounts=[dict(source=VOL, target="/v", flags=REC, propagation=SLAVE)])
os.mkdir(TMP + "/shared")
sh("mount", "-t", "tmpfs", "tmpfs", TMP + "/shared")
sh("mount", "--make-shared", TMP + "/shared")
os.mkdir(TMP + "/shared/a")
os.mkdir(TMP + "/shared/b")
c = start(d, "while ! grep -q ' /v/a ' /proc/self/mountinfo; do sleep 0.01; done; echo seen", mounts=[
    dict(source=TMP + "/shared", target="/v", flags=REC, propagation=SLAVE)])
sh("mount", "-t", "tmpfs", "late", TMP + "/shared/a")
is_((end(d, c)["status"], log(c)), (0, "seen\n"), "slave: a later mount of the host arrives")
is_(run(d, "mount -t tmpfs up /v/b && echo ok", caps=0x1FFFFFFFFFF & ~(1 << 24), bounding=0x1FFFFFFFFFF & ~(1 << 24), rootfs_propagation=SHARED,
        mounts=[dict(source=TMP + "/shared", target="/v", flags=REC, propagation=SHARED)]), (0, "ok\n"), "shared: the container mounts")
ok(TMP + "/shared/b" in mounts_of(), "and the host sees it")
for m in ("a", "b", ""):
    sh("umount", TMP + "/shared/" + m)
L2 = TMP + "/layer2"
os.makedirs(L2 + "/etc/sub")
with open(L2 + "/etc/sub/two", "w") as f:
    f.write("two\n")
is_(run(d, "cat /etc/sub/two; busybox true && echo one", lower=L2 + ":" + ROOT), (0, "two\none\n"), "two layers")
many = []
for i in range(100):
    many.append("%s/a-rather-long-name-for-what-holds-the-layers/layer-%03d" % (TMP, i))
    os.makedirs(many[-1])
many.append(os.path.dirname(many[0]) + "/base")
sh("cp", "-a", ROOT, many[-1])
is_(run(d, "echo many", lower=":".join(many)), (0, "many\n"), "a hundred layers, their paths longer than a page")
is_(run(d, "cat /img/two; touch /img/x 2>&1; ls /all/etc/sub", mounts=[
    dict(kind=OVERLAY, lower=L2 + ":" + ROOT, source="etc/sub", target="/img"), dict(kind=OVERLAY, lower=L2, target="/all")]),
    (0, "two\ntouch: /img/x: Read-only file system\ntwo\n"), "image volumes: a directory of two layers, one layer whole")
fails(d, r"image volume '/img': path 'nope' in the image: No such file", "a sub path that the image has not", mounts=[
    dict(kind=OVERLAY, lower=L2, source="nope", target="/img")])
c1 = start(d, "echo hi >/dev/shm/x; sleep 1000")
is_(run(d, "while ! cat /dev/shm/x 2>/dev/null; do sleep 0.01; done; df -k /dev/shm | tail -1 | awk '{print $2}'"), (0, "hi\n65536\n"),
    "/dev/shm is the pod's")
ok(not os.path.exists("/dev/shm/x") and not any("shm" in m for m in mounts_of() if m.startswith(TMP)), "and not the host's")
d.do("signal", id=c1, sig=9)
end(d, c1)
st, text = run(d, "cat /proc/mounts")
ok(any("volatile" in line for line in text.splitlines() if line.startswith("overlay / ")), "the root does not sync when it ends", text)
if not all(v2 for _, v2, _ in cgroup_mounts()):
    st, text = run(d, "ls /sys/fs/cgroup; test -e /sys/fs/cgroup/memory/cgroup.procs && echo its own")
    like(text, r"(?s)memory\n.*its own\n$", "/sys/fs/cgroup, v1")

# ---- PID namespaces

st, text = run(d, "echo $$; ls -d /proc/[0-9]* | wc -l", pidns=OWN)
is_(text.splitlines()[0], "1", "an own PID namespace: the first process is 1")
c = start(d, "sleep 1000 & exec sleep 1001", pidns=OWN)
is_(exec_out(d, c, "own1", "ps -o pid,args | grep -c 'sleep 100'")[1] >= "2", True, "exec is in it")
c2 = start(d, "kill -0 1 && ps | grep -c '[s]leep 100'", pidns=TARGET, target_id=c)
is_((end(d, c2)["status"], log(c2)), (0, "2\n"), "and so is a container that targets it")
d.do("signal", id=c, sig=9)
is_(end(d, c)["status"], 137, "killing its 1 ends all")
c = start(d, ["sleep", "1000"], pidns=HOST)
is_(ns(pids[c], "pid"), ns("self", "pid"), "the host's PID namespace")
d.do("signal", id=c, sig=9)
end(d, c)
c = start(d, "(/bin/sleep %d; echo late) & echo first" % (NAP + 1), pidns=POD)
e = end(d, c, ack=False)
is_((e["status"], log(c)), (0, "first\n"), "a descendant that keeps the pipe does not hold the exit back")
os.kill(int(wait_until(lambda: sleeping(NAP + 1), "its sleep")[0]), signal.SIGTERM)
wait_until(lambda: log(c, "stdout") == "first\nlate\n", "the survivor's line")
ok(True, "and what it says later is still logged")
d.do("ack", id=c)

# ---- logs

c = start(d, "printf 'no newline'; printf 'e1\\ne2' >&2")
end(d, c)
lines = sorted(line.split(b" ", 1)[1] for line in raw(c).splitlines())
is_(lines, [b"stderr F e1", b"stderr P e2", b"stdout P no newline"], "F, and P for what had no end")
c = start(d, "printf '\\n\\r\\n\\000\\377x\\n'")
end(d, c)
is_([line.split(b" ", 3)[3] for line in raw(c).split(b"\n")[:-1]], [b"", b"\r", b"\0\xffx"], "bytes are kept as they are")
c = start(d, "head -c 1048576 /dev/zero | tr '\\0' a; echo; echo end", line_max=16384)
end(d, c)
parts = raw(c).split(b"\n")[:-1]
is_(([len(p.split(b" ", 3)[3]) for p in parts], [p.split(b" ")[2] for p in parts]),
    ([16384] * 64 + [3], [b"P"] * 63 + [b"F", b"F"]), "a line of 1 MiB: 63 P and one F, none longer than the limit")
c = start(d, "for i in 1 2 3; do printf a; sleep 0.01; done; echo; head -c 101 /dev/zero | tr '\\0' b; echo", line_max=100)
end(d, c)
is_([p.split(b" ", 2)[2] for p in raw(c).split(b"\n")[:-1]], [b"F aaa", b"P " + b"b" * 100, b"F b"], "pieces make one entry; limit + 1 makes two")
c = start(d, "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
end(d, c)
is_(log(c), "".join("line %d\n" % i for i in range(20000)), "20000 lines, all there at the exit")
c = start(d, "i=0; while [ $i -lt 3000 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done", log=None)
is_(end(d, c)["status"], 0, "no log path: output is discarded")
c = start(d, "echo a; while [ ! -e /tmp/1 ]; do sleep 0.01; done; echo b")
name = "%s/log/%s.log" % (TMP, c)
wait_until(lambda: b"F a\n" in raw(c), "a")
os.rename(name, name + ".1")
d.do("reopen", id=c)
is_(d.want("reply", what="reopen")["error"], "", "reopen")
ok(os.path.exists(name), "the new log is there on return")
exec_out(d, c, "touch1", "touch /tmp/1")
end(d, c, ack=False)
is_((log(c), open(name + ".1").read()[-2:]), ("b\n", "a\n"), "later lines go to the new one, the old one keeps its own")
d.do("reopen", id=c)
like(d.want("reply", what="reopen")["error"], "not running", "no reopen after the exit")
d.do("ack", id=c)

# ---- a full disk

os.mkdir(TMP + "/small")
sh("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", TMP + "/small")
with open(TMP + "/small/ballast", "wb") as f:
    f.write(b"x" * 40000)
c = start(d, "i=0; while [ $i -lt 2000 ]; do echo this is line number $i; i=$((i+1)); done; echo done >/tmp/done", log=TMP + "/small/c.log")
wait_until(lambda: os.stat(TMP + "/small/c.log").st_size > 20000, "the disk to be full")
is_(run(d, "echo others"), (0, "others\n"), "a full disk: others go on")
os.unlink(TMP + "/small/ballast")
wait_until(lambda: os.stat(TMP + "/small/c.log").st_size > 60000, "more")
shutil.copy(TMP + "/small/c.log", TMP + "/log/first")
sh("mount", "-o", "remount,size=1m", TMP + "/small")
is_(end(d, c)["status"], 0, "its writer waits, and ends when there is room")
shutil.copy(TMP + "/small/c.log", TMP + "/log/full.log")
is_(log("full"), "".join("this is line number %d\n" % i for i in range(2000)), "no line is lost or torn")
TORN = TMP + "/small/torn.log"
sh("mount", "-o", "remount,size=%dk" % (os.stat(TMP + "/small/c.log").st_size // 1024 + 64), TMP + "/small")
d2 = Drive()
spawn(d2, "full")
c = start(d2, "while :; do echo this is a line that will not fit; done", pidns=OWN, log=TORN)


def tail():
    with open(TORN, "rb") as file:
        return file.read()[-100:]


wait_until(lambda: os.statvfs(TMP + "/small").f_bavail == 0 and not tail().endswith(b"\n"), "a line to be cut by the end of the disk")
d2.do("shutdown")
d2.want("reply", what="shutdown")
is_(d2.quit(), 0, "the pod ends while the disk is full")
os.unlink(TMP + "/small/c.log")
is_(start(d, "echo one more", log=TORN) and end(d, "c%d" % count)["status"], 0, "another container with the same log, and room for it")
shutil.copy(TORN, TMP + "/log/torn.log")
like(log("torn"), r"\A(this is a line that will not fit\n){100,}one more\n\Z", "no line is cut")
with open(TORN, "w") as f:
    f.write("2026-01-02T03:04:05.000000006Z stdout F cut by a ki")
is_(start(d, "echo behind", log=TORN) and end(d, "c%d" % count)["status"], 0, "a log that ends within a line")
shutil.copy(TORN, TMP + "/log/torn.log")
is_(log("torn"), "cut by a ki\nbehind\n", "is gone on with on the next")

# ---- terminal

# the kernel throws away what nobody has read of a terminal when its session's leader ends
UNTIL_READ = "until [ -e /tmp/read ]; do sleep 0.01; done"

c = start(d, "tty; echo two words; read x; echo got $x; until stty size 2>/dev/null | grep .; do sleep 0.01; done; ls -l /dev/console | cut -c1; "
          + UNTIL_READ, tty=True, stdin=True)
d.do("attach", id=c, tag="t1", fds=[True, True, False])
wait_until(lambda: b"two words" in raw(c), "tty output")
d.do("resize", id=c, w=132, h=43)
d.do("write", tag="t1", data="hello\n")
d.output("t1", "out", "c\r\n")
exec_out(d, c, "t1x", "touch /tmp/read")
is_(end(d, c)["status"], 0, "a container with a terminal")
is_(log(c), "/dev/pts/0\r\ntwo words\r\nhello\r\ngot hello\r\n43 132\r\nc\r\n", "one stream, CR LF, echo, size")
d.want("attach-end", tag="t1")
d.want("eof", tag="t1", which="out")
ok("got hello" in d.data[("t1", "out")], "attached: output")

# ---- attach and stdin

is_(run(d, "cat; echo eof"), (0, "eof\n"), "no stdin: /dev/null")
c = start(d, "while read l; do echo got $l; done; echo end", stdin=True, stdin_once=True)
for t in ("a1", "a2"):
    d.do("attach", id=c, tag=t)
d.do("write", tag="a1", data="one\n")
d.output("a1", "out", "got one\n")
d.do("write", tag="a2", data="two\n")
is_(d.output("a1", "out", "got two\n"), "got one\ngot two\n", "every client gets all output")
is_(d.output("a2", "out", "got two\n"), "got one\ngot two\n", "and all may write")
d.do("eof", tag="a1")
is_(end(d, c)["status"], 0, "stdin_once: the end of the first client's input ends the container's")
is_(d.want("attach-end", tag="a2")["error"], "", "attach ends with the container")
d.want("eof", tag="a2", which="out")
is_(d.data[("a2", "out")], "got one\ngot two\nend\n", "the last output arrives")
c = start(d, "while read l; do echo got $l; done; echo end", stdin=True)
d.do("attach", id=c, tag="b1")
d.do("eof", tag="b1")
d.do("attach", id=c, tag="b2")
d.do("write", tag="b2", data="still\n")
ok(d.output("b2", "out", "got still\n"), "without stdin_once it stays open for the next client")
d.do("close", tag="b2")
d.do("attach", id=c, tag="b3", deaf=True)      # reads nothing
d.do("signal", id=c, sig=9)
end(d, c)
c = start(d, "read x; head -c 2000000 /dev/zero | tr '\\0' n; echo; echo end", stdin=True)
d.do("attach", id=c, tag="slow", deaf=True)
d.do("write", tag="slow", data="go\n")
is_(end(d, c)["status"], 0, "a client that reads nothing does not stop the container")
is_(len(log(c)), 2000005, "nor its log")
is_(d.want("attach-end", tag="slow")["error"], "the client does not take the output", "it is told why it was left out")
c = start(d, "read x; yes | head -c 20000000", stdin=True)
d.do("attach", id=c, tag="sips", deaf=True)
d.do("write", tag="sips", data="go\n")


def sip():
    d.do("sip", tag="sips")
    d.read()
    return any(e["ev"] == "attach-end" and e["tag"] == "sips" for e in d.events)


wait_until(sip, "the client to be left out")
is_(d.want("attach-end", tag="sips")["error"], "the client does not take the output", "one that reads a little now and then is left out too")
is_(end(d, c)["status"], 0, "the container does not go at its speed")
c = start(d, "read x; head -c 8000000 /dev/zero | tr '\\0' n; echo; echo end", stdin=True)
d.do("attach", id=c, tag="burst")
d.do("write", tag="burst", data="go\n")
is_(end(d, c)["status"], 0, "much output at once, then the end")
is_(d.want("attach-end", tag="burst")["error"], "", "a client that reads is not left out")
d.want("eof", tag="burst", which="out")
is_((len(d.data[("burst", "out")]), d.data[("burst", "out")][-5:]), (8000005, "\nend\n"), "it gets all of it")
big = "x" * 200000 + "\n"
c = start(d, "head -c 200001 | wc -c", stdin=True)
d.do("attach", id=c, tag="big")
for i in range(0, len(big), 20000):
    d.do("write", tag="big", data=big[i:i + 20000])
is_((end(d, c)["status"], log(c)), (0, "200001\n"), "more input than a pipe holds")
d.do("attach", id="nope", tag="x1")
like(d.want("attach-end", tag="x1")["error"], "container nope is not running", "attach to nothing")

# ---- exec

c = start(d, "exec sleep 1000")
is_(exec_out(d, c, "e1", "echo out; echo err >&2; cat; exit 5", fds=[False, True, True]), (5, "out\n"), "exec: output and code")
is_(d.output("e1", "err", "\n"), "err\n", "and stderr by itself")
st, text = exec_out(d, c, "e2", "hostname; id -u; grep -E 'NoNew|CapEff|Seccomp:' /proc/self/status; pwd", uid=1000, nnp=True, cwd="/tmp",
                    seccomp=BPF)
is_(text, "web-0\n1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n/tmp\n", "it is in the container and confined")
d.do("exec", id=c, tag="q1", argv=["/bin/sh", "-c", "echo out; exec >&-; echo err >&2; exit 6"], envp=[], cwd="/", caps=CAPS,
     bounding=CAPS, fds=[False, True, True], quiet=True)
is_(d.want("exec-exited", tag="q1")["status"], 6, "a quiet exec: its end")
d.want("eof", tag="q1", which="out")
d.want("eof", tag="q1", which="err")
is_((d.data[("q1", "out")], d.data[("q1", "err")]), ("out\n", "err\n"), "its outputs")
ok(not [e for e in d.events if e["ev"] == "exec-started" and e["tag"] == "q1"], "and nothing of its start")
d.do("exec", id=c, tag="q4", argv=["/bin/sh", "-c", "id -u; echo mine >/proc/self/fd/1"], envp=[], cwd="/", uid=1000,
     caps=0, bounding=CAPS, fds=[False, True, True], quiet=True)
is_(d.want("exec-exited", tag="q4")["status"], 0, "a quiet exec of a user")
d.want("eof", tag="q4", which="out")
is_(d.data[("q4", "out")], "1000\nmine\n", "may open its stdout again")
e = execute(d, c, "q2", ["/nope"], quiet=True)
is_((e["error"], e["code"]), ("exec '/nope': No such file or directory", -2), "but when that fails")
d.do("exec", id=c, tag="q3", argv=["/bin/sleep", str(NAP + 4)], envp=[], cwd="/", caps=CAPS, bounding=CAPS, quiet=True)
wait_until(lambda: sleeping(NAP + 4), "its sleep")
d.do("kill", tag="q3")
is_(d.want("exec-exited", tag="q3")["status"], 137, "a quiet exec is killed")
e = execute(d, c, "e3", ["/nope"])
is_(e["error"], "exec '/nope': No such file or directory", "a missing executable")
is_(e["code"], -2, "and its errno")
like(execute(d, c, "e3b", "true", cwd="/missing")["error"], "chdir '/missing': No such file", "no directory is made for an exec")
is_(exec_out(d, c, "e4", "kill -9 $$")[0], 137, "killed by a signal")
e = execute(d, c, "e5", "/bin/sleep %(n)d & (setsid /bin/sleep %(n)d &) ; setsid sh -c '/bin/sleep %(n)d; true' & wait; /bin/sleep %(n)d" % {"n": NAP + 2})
wait_until(lambda: len(sleeping(NAP + 2)) >= 3, "its sleeps")
d.do("kill", tag="e5")
is_(d.want("exec-exited", tag="e5")["status"], 137, "exec is killed")
is_(sleeping(NAP + 2), [], "with all that it started, also what had left its session and its parent before")
e = execute(d, c, "e6", "echo ready; read x; echo got $x; until stty size 2>/dev/null | grep .; do sleep 0.01; done; read x", tty=True)
d.output("e6", "out", "ready")
d.do("xresize", tag="e6", w=99, h=33)
d.do("write", tag="e6", data="hey\n")
is_(d.output("e6", "out", "33 99\r\n"), "ready\r\nhey\r\ngot hey\r\n33 99\r\n", "its output and size")
d.do("write", tag="e6", data="\n")        # not before: the end of a session drops what its terminal has not passed on
is_(d.want("exec-exited", tag="e6")["status"], 0, "exec with a terminal")
execute(d, c, "e6b", "stat -Lc %u /proc/self/fd/0; echo mine >/proc/self/fd/1; read x", tty=True, uid=1000, caps=0)
is_(d.output("e6b", "out", "mine\r\n"), "1000\r\nmine\r\n", "which is its user's")
d.do("write", tag="e6b", data="\n")
is_(d.want("exec-exited", tag="e6b")["status"], 0, "and may be opened again")
execute(d, c, "e7", "exec /bin/sleep %d" % (NAP + 3))
d.do("forget", tag="e7")
wait_until(lambda: not sleeping(NAP + 3), "a forgotten exec to be killed")
ok(True, "a forgotten exec is killed")
like(execute(d, "nope", "e8", "true")["error"], "container nope is not running", "exec in nothing")

# ---- cgroups and the OOM counter

groups = []
for point, v2, options in cgroup_mounts():
    if "memory" in options or "pids" in options:
        own = next(line.strip().split(":", 2)[2] for line in open("/proc/self/cgroup")
                   if set(line.split(":")[1].split(",")) & {"memory", "pids"} & set(options))
        path = "%s%s/cricket-test-%d" % (point, own, os.getpid())
        os.mkdir(path)
        groups.append(path)
memory = next((g for g in groups if os.path.exists(g + "/memory.oom_control")), None)
if memory:
    with open(memory + "/memory.limit_in_bytes", "w") as f:
        f.write("16777216")
    args = dict(cgroups=[g + "/tasks" for g in groups], oom_file=memory + "/memory.oom_control")
    c1 = start(d, "cat /proc/self/cgroup", **args)
    end(d, c1)
    is_(log(c1).count("cricket-test-%d" % os.getpid()), len(groups), "it is in its cgroups from the first instruction")
    c1 = start(d, "exec tail /dev/zero", **args)
    e = end(d, c1)
    is_((e["status"], e["oom"]), (137, True), "the kernel's OOM killer is told of")
    c1 = start(d, "kill -9 $$", **args)
    e = end(d, c1)
    is_((e["status"], e["oom"]), (137, False), "and a kill by hand is not")
else:
    skip("needs the v1 memory controller", 3)
for g in groups:
    wait_until(lambda: not open(g + "/cgroup.procs").read(), "cgroup to be empty")
    os.rmdir(g)

unified = next((p for p, v2, _ in cgroup_mounts() if v2), None)
if unified:
    own = next(line.strip().split("::", 1)[1] for line in open("/proc/self/cgroup") if line.startswith("0::"))
    path = "%s%s/cricket-test-%d" % (unified, own.rstrip("/"), os.getpid())
    os.mkdir(path)
    c1 = start(d, "cat /proc/self/cgroup; sleep 1000", cgroups=[path], cgroup2=True)
    wait_until(lambda: "0::" in log(c1), "the container's cgroups")
    like(log(c1), "0::.*/cricket-test-%d" % os.getpid(), "born into its cgroup, v2")
    like(exec_out(d, c1, "v2", "cat /proc/self/cgroup", cgroups=[path], cgroup2=True)[1],
         "0::.*/cricket-test-%d" % os.getpid(), "and so is an exec")
    like(exec_out(d, c1, "v2again", "cat /proc/self/cgroup", cgroup2=True)[1],
         "0::.*/cricket-test-%d" % os.getpid(), "and the next one, whose cgroup is not told again")
    d.do("signal", id=c1, sig=9)
    end(d, c1)
    c1 = start(d, "cat /proc/self/cgroup", cgroups=[path], cgroup2=True, cgroupns=True)
    end(d, c1)
    like(log(c1), "(?m)^0::/$", "a cgroup namespace of its own begins there")
    wait_until(lambda: not open(path + "/cgroup.procs").read(), "cgroup to be empty")
    os.rmdir(path)
else:
    skip("needs a v2 hierarchy", 4)

# ---- the daemon dies

long = start(d, "i=0; while [ $i -lt 100000 ]; do echo n$i; i=$((i+1)); [ -e /tmp/stop ] && exit 9; sleep 0.01; done")
quick = start(d, "while [ ! -e /t/go ]; do sleep 0.01; done; echo last words; exit 3", mounts=[dict(source=VOL, target="/t")])
once = start(d, "read x; echo stdin is open: $?; cat", stdin=True, stdin_once=True)
d.do("attach", id=once, tag="k1")
d.do("ack", id="not-a-container")
execute(d, c, "orphan", "exec /bin/sleep %d" % (NAP + 4))
d.kill()
wait_until(lambda: not sleeping(NAP + 4), "the exec to end with the link")
ok(True, "an exec dies with the daemon")
with open(VOL + "/go", "w") as f:
    pass
wait_until(lambda: os.path.exists(TMP + "/pods/p1/exits/" + quick), "an exit record")
is_(log(quick), "last words\n", "nobody there: the exit is recorded and the log complete")
n = len(raw(long))
wait_until(lambda: len(raw(long)) > n, "the log to grow")
ok(True, "and others go on writing their logs")
d = Drive()
d.do("open", dir=TMP + "/pods/p1")
r = d.want("ready")
is_((r["error"], r["pid"], r["init"], r["netns"]), ("", pod["pid"], pod["init"], pod["netns"]), "a new daemon meets the supervisor")
known = {e["id"]: e["pid"] for e in d.events if e["ev"] == "ctr"}
is_(known, {c: pids[c], long: pids[long], once: pids[once], quick: 0}, "and hears of every container")
e = end(d, quick, ack=False)
is_((e["status"], e["signal"]), (3, 0), "and of the true exit code")
d.quit()
EXECS = ((4, b""), (100, b"\0" * 200), (96, b"\0" * 200), (104, b""), (4096, b"\0" * 8), (104, b"\0" * 200), (104, b"\0" * 16000))
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
    def send(kind, serial, body):
        s.send(struct.pack("<HHIII", 5, kind, serial, 16 + len(body), 0) + body)
    s.connect(TMP + "/pods/p1/sock")
    send(1, 1, struct.pack("<I", 5))
    for i, (off, more) in enumerate(EXECS):
        send(9, 100 + i, struct.pack("<72sIIII", c.encode(), 0, 0, off, 0) + more)
    answers = []
    while len(answers) < len(EXECS):
        r = s.recv(4096)
        if struct.unpack("<HH", r[:4])[1] == 67:
            answers.append(r[20:].split(b"\0")[0].decode())
is_(answers, ["launch plan: offset"] * 5 + ["launch plan: magic: Invalid argument"] * 2, "execs whose plan is not where they say, or none")
d = Drive()
d.do("open", dir=TMP + "/pods/p1")
is_(d.want("exit", id=quick)["status"], 3, "again, until it says that it has it")
d.want("ready")
d.do("ack", id=quick)
d.do("attach", id=once, tag="k2")
d.do("write", tag="k2", data="x\n")
ok(d.output("k2", "out", "stdin is open: 0"), "a daemon's death was not the end of anybody's input")
is_(exec_out(d, c, "again", "echo yes"), (0, "yes\n"), "exec after the restart")
wait_until(lambda: not os.path.exists(TMP + "/pods/p1/exits/" + quick), "the record to go")

# ---- what it costs, and the end

if SANITIZED:
    skip("memory with sanitizers says nothing")
else:
    kb = pss_kb(pod["pid"])
    with open("/proc/%d/smaps_rollup" % pod["pid"]) as f:
        private = sum(int(line.split()[1]) for line in f if line.startswith("Private_Dirty"))
    diag("supervisor: PSS %d kB, private %d kB" % (kb, private))
    # its program text is shared by all pods, and how much of it is mapped is the page cache's affair: make bench tells PSS
    ok(private < 64, "the supervisor with three containers has less than 64 kB of its own", "%d kB" % private)
d.do("signal", id=long, sig=9)
end(d, long)
d.do("shutdown")
is_(d.want("reply", what="shutdown")["error"], "", "shutdown")
wait_until(lambda: all(gone(p) for p in [pod["pid"], pod["init"]] + [pids[x] for x in (c, once)]), "all to be gone")
ok(True, "every process is gone")
is_([m for m in mounts_of() if m.startswith(TMP) and not m.startswith((VOL, TMP + "/small"))], [], "every mount is gone")
is_(os.listdir(TMP + "/pods/p1"), [] if not os.path.exists(TMP + "/pods/p1/exits") else ["exits"], "no file is left")
ok(not [e for e in d.events if e["ev"] == "gone"], "an ordered end is no loss")
is_(d.quit(), 0, "the driver's descriptors and memory are in order")

# ---- other kinds of pods

d = Drive()
pod = spawn(d, "p2", host_net=True, host_ipc=True)
is_((pod["netns"], pod["init"]), ("", 0), "a pod on the host's network without a shared PID namespace")
c = start(d, "cat", stdin=True, host_net=True, host_ipc=True, host_uts=True, pidns=OWN)
is_([ns(pids[c], k) for k in ("net", "ipc", "uts")], [ns("self", k) for k in ("net", "ipc", "uts")], "the host's namespaces")
ok(ns(pids[c], "mnt") != ns("self", "mnt") and ns(pids[c], "pid") != ns("self", "pid"), "but its own mounts and PIDs")
fails(d, "PID namespace to join does not exist", "no shared PID namespace to join", pidns=POD)
d.do("attach", id=c, tag="z")
d.do("write", tag="z", data="z\n")
d.output("z", "out", "z\n")
os.kill(pod["pid"], signal.SIGKILL)
d.want("gone")
like(d.want("attach-end", tag="z")["error"], "supervisor is gone", "a supervisor that is killed: every client hears of it")
wait_until(lambda: gone(pids[c]), "the container to die with its supervisor")
ok(True, "and its containers die with it")
d.do("free")
is_(d.quit(), 0, "clean")

# ---- a user namespace

d = Drive()
MAP = 1000000
pod = spawn(d, "p4", shared_pid=True, map=MAP, sysctls={"net.ipv4.ip_forward": "1"})
INFO = "cat /proc/self/uid_map; id -u; stat -c %u:%g /etc /dev/null /proc/1 /work; touch /made; cat /proc/sys/net/ipv4/ip_forward"
for kind in (POD, OWN):
    st, text = run(d, INFO + "; echo again >/proc/self/fd/1; mount -t tmpfs t /tmp && echo mounted; ps | wc -l", pidns=kind,
                   caps=CAPS | 1 << 21, bounding=CAPS | 1 << 21)
    is_([re.sub(" +", " ", x).strip() for x in text.splitlines()[:-1]],
        ["0 1000000 65536", "0", "0:0", "65534:65534", "0:0", "0:0", "1", "again", "mounted"],
        "user namespace, PID namespace %d: root inside, layers mapped, mounts allowed with SYS_ADMIN" % kind)
    is_(os.stat("%s/c/c%d/upper/made" % (TMP, count)).st_uid, MAP, "what it makes belongs to the mapped root")
st, text = run(d, "id; echo mine >/dev/stdout; cat /v/file", uid=1000, gid=1000, mounts=[dict(source=VOL, target="/v", flags=IDMAP)])
is_(text, "uid=1000 gid=1000\nmine\nhello\n", "a user in it")
is_(run(d, "stat -c %u /v/file", mounts=[dict(source=VOL, target="/v", flags=IDMAP)]), (0, "0\n"), "a volume with mapped owners")
is_(run(d, "stat -c %u /v/file", mounts=[dict(source=VOL, target="/v")]), (0, "65534\n"), "and one without")
c = start(d, "tty; stty size 2>/dev/null; exec sleep 1000", tty=True, pidns=OWN)
wait_until(lambda: b"/dev/pts/0" in raw(c), "the terminal")
is_(ns(pids[c], "user") != ns("self", "user"), True, "the process is in another user namespace")
is_(exec_out(d, c, "u1", "id -u; cat /proc/self/uid_map | tr -s ' '; echo $$; echo re >/proc/self/fd/1")[1].splitlines()[:2],
    ["0", " 0 1000000 65536"], "and so is an exec")
d.do("signal", id=c, sig=9)
is_(end(d, c)["status"], 137, "killed")
fails(d, "exec '/nope': No such file", "a failing start in it", ["/nope"], pidns=OWN)
d.do("shutdown")
d.want("reply", what="shutdown")
is_(d.quit(), 0, "clean")

d = Drive()
d.do("spawn", id="p3", dir=TMP + "/pods/p3", hostname="x", sysctls={"net.nonsense": "1"})
like(d.want("ready")["error"], "sysctl 'net.nonsense': No such file", "a sysctl that does not exist")
wait_until(lambda: not os.path.exists(TMP + "/pods/p3"), "the directory to go")
d.do("spawn", id="p3", dir=TMP + "/pods/p3", hostname="x", sysctls={"net/../kernel/hostname": "1"})
like(d.want("ready")["error"], "sysctl 'net/../kernel/hostname'", "nor one outside its tree")
d.do("open", dir=TMP + "/pods/p3")
like(d.want("ready")["error"], "No such file|refused", "nobody to meet")
is_(d.quit(), 0, "clean")
wait_until(lambda: not children(), "children to go")
is_([m for m in mounts_of() if m.startswith(TMP)], [VOL + "/sub", TMP + "/small"], "no mount is left")
sh("umount", VOL + "/sub")
sh("umount", TMP + "/small")
done_testing()
