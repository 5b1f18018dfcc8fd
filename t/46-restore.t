#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""StartContainer of a container that RestorePod has made, with a program in criu's place that looks at what it is given and starts what the
test wants: where it stands, what it inherits, which mounts it is told, and what becomes of it when something fails on the way."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
import glob  # noqa: E402
import struct  # noqa: E402

FAKE = r"""#!/usr/bin/python3 -I
import ctypes, json, os, platform, re, signal, struct, sys, time
HERE = %r
libc = ctypes.CDLL(None, use_errno=True)


def options(name):
    return [sys.argv[i + 1] for i, x in enumerate(sys.argv) if x == name]


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value.encode()


def image(name, *messages):
    with open("checkpoint/" + name, "wb") as f:
        f.write(b"criuimgs" + b"".join(struct.pack("<I", len(m)) + m for m in messages))


def clone(flags):
    "As clone(2) for a child that may be another's, who is told of its end."
    return libc.syscall({"x86_64": 56, "aarch64": 220}[platform.machine()], flags, 0, 0, 0, 0)


def start(script):
    "What criu would have restored: the caller's sibling, and it dies with its parent."
    read, write = os.pipe()
    pid = clone(0x8000 | 0x20000000)    # CLONE_PARENT | CLONE_NEWPID
    if pid:
        with open(options("--pidfile")[0], "w") as f:
            f.write(str(pid))
        os.close(write)
        os.read(read, 1)
        return
    libc.prctl(1, signal.SIGKILL)
    for fd, was in (x.split(":", 1) for x in options("--inherit-fd")):
        for i in 1, 2:
            if was == stdio[i]:
                os.dup2(int(fd[3:-1]), i)
    os.chroot(options("--root")[0])
    os.chdir("/")
    os.setsid()
    os.close(write)
    os.execv("/bin/sh", ["sh", "-c", script])


def finish():
    with open("stats-restore", "w") as f:
        f.write("stats")
    sys.exit(0)


def fail(why):
    with open("restore.log", "a") as f:
        f.write("(00.1) Error (criu/x.c:1): %%s\n(00.2) Error (criu/cr-restore.c:2): Restoring FAILED.\n" %% why)
    sys.exit(1)


if sys.argv[1] == "check":
    sys.exit(os.path.exists(HERE + "/broken") and (print("Error (criu/vdso.c:1): vdso: too new", file=sys.stderr) or 1))
external = dict(re.match(r"mnt\[(.*)\]:(.*)$", x).groups() for x in options("--external") if x.startswith("mnt["))
if sys.argv[1] == "dump":
    image("mountpoints-7.img", field(1, 17) + field(2, 300) + field(5, 0) + field(6, "/") + field(7, "/") + field(8, "overlay"),
          *(field(5, 1 if p.startswith(("/proc", "/run")) else 0) + field(6, "/x") + field(7, p) + field(9, "y" * 200) + field(18, key)
            for p, key in external.items()))
    image("utsns-3.img", field(1, "old-name") + field(2, "(none)"))
    image("inventory.img")
    for name in "checkpoint/stats-dump", "dump.log":
        open(name, "w").close()
    os.environ["CRTOOLS_SCRIPT_ACTION"] = "post-dump"
    sys.exit(os.waitstatus_to_exitcode(os.system(options("--action-script")[0])))
with open("checkpoint/descriptors.json") as f:
    stdio = json.load(f)
with open("/proc/self/status") as f:
    status = dict(x.rstrip("\n").split(":\t", 1) for x in f)
with open("checkpoint/utsns-3.img", "rb") as f:
    uts = f.read()
with open(HERE + "/given", "w") as f:
    json.dump({"args": sys.argv, "external": external, "nnp": status["NoNewPrivs"], "parent": os.getppid(), "uts": uts[12:].hex(),
               "ns": {x: os.readlink("/proc/self/ns/" + x) for x in ("net", "ipc", "uts", "cgroup")}, "tmp": os.listdir("/tmp"),
               "cgroup": open("/proc/self/cgroup").read(), "kept": [os.readlink("/proc/self/fd/%%s" %% x) for x in "012"],
               "found": {k: os.listdir(v) if os.path.isdir(v) else open(v).read() if os.path.isfile(v) else None for k, v in external.items()},
               "readonly": {k: bool(os.statvfs(v).f_flag & os.ST_RDONLY) for k, v in external.items()},
               "root": os.listdir(options("--root")[0])}, f)
with open(HERE + "/does") as f:
    exec(f.read())
"""
WAIT = "while not os.path.exists(HERE + '/go'): time.sleep(0.05)\n"
GOOD = "start('''trap 'exit 7' TERM; cat /new; echo out; echo err >&2; while :; do sleep 0.1; done''')\nfinish()"
d = Daemon(start=False)
os.mkdir(d.tmp + "/vol")
with open(d.tmp + "/vol/file", "w") as f:
    f.write("there\n")
fake = d.tmp + "/criu"
with open(fake, "w") as f:
    f.write(FAKE % d.tmp)
os.chmod(fake, 0o755)
d.config["criu"] = fake
d.start_daemon()
SECURITY = {"masked_paths": ["/proc/version", "/proc/keys"], "no_new_privs": True}
VOL = {"host_path": d.tmp + "/vol", "container_path": "/vol"}
# /var/run is a link to /run, and a file system of its own looks like the container's
os.mkdir(d.tmp + "/tmpfs")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", d.tmp + "/tmpfs"], check=True)
with open(d.tmp + "/tmpfs/token", "w") as f:
    f.write("t\n")
LINKED = {"host_path": d.tmp + "/tmpfs", "container_path": "/var/run/linked", "readonly": True}


def config(**more):
    return d.ctr_config("one", **dict({"command": ["sleep", "1000000"], "mounts": [VOL, LINKED], "security": SECURITY}, **more))


def does(text):
    with open(d.tmp + "/does", "w") as script:
        script.write(text)
    for name in "given", "go", "broken":
        if os.path.exists(d.tmp + "/" + name):
            os.unlink(d.tmp + "/" + name)


def given():
    with open(d.tmp + "/given") as report:
        return json.load(report)


def restored(ctr=None, pod=None):
    reply = d.RestorePod(checkpoint_path=d.tmp + "/checkpoint", config=pod or d.pod_config("new"), container_configs=[ctr or config()])
    return reply.pod_sandbox_id, reply.restored_containers[0].container_id


def procs(ctr):
    try:
        with open(cgroup_file("pids", "%s/%s" % (d.cgroup, ctr), "cgroup.procs")) as f:
            return [int(x) for x in f]
    except FileNotFoundError:
        return []


def inside(ctr, fn):
    there = procs(ctr)
    return proc_find(lambda p: p in there and fn(p))


def refused(name, why, ctr=None, pod=None, spoil=None):
    """A start that fails, and leaves nothing."""
    pod, c = restored(ctr, pod)
    if spoil:
        spoil("%s/containers/%s/restore/checkpoint" % (d.root, c))
    fails(d.StartContainer, "UNKNOWN", "container %s: start container: restore: %s" % (c, why), name, container_id=c)
    is_((d.status(c).state, d.status(c).exit_code, d.status(c).reason), (EXITED, 128, "StartError"), name + ": it has failed")
    wait_until(lambda: not procs(c), "the end of all in the cgroup")
    d.remove(pod)


pod = d.runp("old")
c = d.start(pod, config=config())
d.sh(c, "echo new >/new")
os.mkdir(d.tmp + "/checkpoint")
d.CheckpointPod(pod_sandbox_id=pod, output_path=d.tmp + "/checkpoint", container_ids=[c])
d.remove(pod)

# --- what criu finds
does(GOOD)
pod, c = restored()
d.StartContainer(container_id=c)
g = given()
one = g["args"]
is_(d.status(c).state, RUNNING, "it runs")
for want in ("--restore-sibling", "--restore-detached", "--tcp-established", "--file-locks", "--ext-unix-sk", "--manage-cgroups=ignore",
             "--images-dir checkpoint", "--network-lock nftables"):
    ok(want in " ".join(one), "criu is told " + want)
supervisor, pid = d.supervisor(pod), d.pid_of(c)
is_((g["parent"], proc_stat(pid)[1]), (supervisor, supervisor), "criu and the process are children of the supervisor")
ok(pid in procs(c), "the process is in the container's cgroup")
wait_until(lambda: not inside(c, lambda p: p != pid and proc_stat(p)[1] != pid), "the end of the others in it")
where = [x.split(":", 2)[2] for x in g["cgroup"].split("\n") if (x.startswith("0::") if cgroup_is_v2() else ":pids:" in x)]
ok(where[0].endswith("/" + c) or where == ["/"] and g["ns"]["cgroup"] != os.readlink("/proc/self/ns/cgroup"), "as criu was", where)
for x in "net", "ipc", "uts":
    is_(g["ns"][x], os.readlink("/proc/%d/ns/%s" % (d.pid_of(c), x)), "the process is where criu was: " + x)
    if x != "net":
        ok(g["ns"][x] != os.readlink("/proc/self/ns/" + x), "which is the pod's " + x)
is_([x for i, x in enumerate(one) if one[i - 1] == "--join-ns" and x.split(":")[0] not in ("ipc", "uts")], [], "ipc and uts are joined")
is_(one.count("--join-ns"), 2, "both")
ok([x for x in one if re.match(r"fd\[\d+\]:extRootNetNS$", x)], "the network namespace is inherited")
ok(b"\x03new" in bytes.fromhex(g["uts"]) and b"old-name" not in bytes.fromhex(g["uts"]), "the host name is the new pod's", g["uts"])
is_(g["nnp"], "1", "no_new_privs")
is_((g["kept"][0], g["kept"][1].rsplit("/", 1)[1], g["kept"][2]), ("/dev/null", "criu.out", g["kept"][1]), "criu's own output is no log")
ok({"bin", "new", "vol"} <= set(g["root"]), "the root has the image's files, and the container's")
is_((g["found"]["/vol"], g["found"]["/run/linked"]), (["file"], ["token"]), "the volumes, also behind a link of the image")
is_((g["readonly"]["/vol"], g["readonly"]["/run/linked"], g["readonly"]["/dev/null"]), (False, True, True), "and their flags")
is_((g["found"]["/etc/hostname"], sorted(g["external"])[:3]), ("new\n", ["/dev/null", "/dev/shm", "/etc/hostname"]), "the pod's files")
ok("/var/run/linked" not in g["external"], "no more than that")
ok(d.tmp.startswith("/tmp/") or g["tmp"] == [], "what criu leaves in /tmp, should it be killed, goes with it")
wait_until(lambda: d.log_bytes(d.status(c).log_path).count(b"\n") == 3, "its output")
is_((d.log_bytes(d.status(c).log_path, "stdout"), d.log_bytes(d.status(c).log_path, "stderr")), (b"new\nout\n", b"err\n"), "its log")
d.restart()
is_(d.status(c).state, RUNNING, "a restart of the daemon is nothing to it")
d.StopContainer(container_id=c, timeout=int(LIMIT))
is_(d.status(c).exit_code, 7, "it is stopped as any, and its exit code is told")
d.remove(pod)
does("start('exit 5')\ntime.sleep(0.3)\nfinish()")
pod, c = restored()
d.StartContainer(container_id=c)
is_(d.wait_exit(c).exit_code, 5, "one that has ended before criu has")
d.remove(pod)

# --- what fails
does("fail('mnt: no such luck')")
refused("criu fails", "criu restore failed: mnt: no such luck$")
does("start('sleep 1000000')\nfail('too late')")
refused("criu fails late", "criu restore failed: too late$")
does("start('sleep 1000000')\nos.kill(os.getpid(), 9)")
refused("criu is killed", "criu restore failed: it says nothing")
does("sys.exit(1)")
open(d.tmp + "/broken", "w").close()
refused("a criu that does not work here", "criu '%s' does not work on this machine: vdso: too new" % fake)
does("open(options('--pidfile')[0], 'w').close()\nfinish()")
refused("no process number", "criu wrote no process number")
does(GOOD)
refused("a mount less", "the checkpoint has a mount at '/run/linked' that the container's configuration does not have", config(mounts=[VOL]))
refused("a mount more", "the container's configuration has a mount at '/more' that the checkpoint does not have",
        config(mounts=[VOL, LINKED, {"host_path": d.tmp, "container_path": "/more"}]))
refused("a mount that is read-only now", "the mount at '/vol' could be written when the checkpoint was made, and is read-only now",
        config(mounts=[dict(VOL, readonly=True), LINKED]))


def write(name, text):
    def spoil(where):
        with open(where + "/" + name, "wb") as f:
            f.write(text)
    return spoil


MAGIC = b"criuimgs"
for name, why, spoil in (
        ("no image of mounts", "the container's configuration has a mount at '/[a-z/.]*' that", lambda x: os.unlink(x + "/mountpoints-7.img")),
        ("an empty image", "image 'mountpoints-7.img' is none", write("mountpoints-7.img", b"")),
        ("an image that is cut", "image 'mountpoints-7.img' is cut short", write("mountpoints-7.img", MAGIC + b"\1\0\0")),
        ("an image that is too short", "image 'mountpoints-7.img' is damaged", write("mountpoints-7.img", MAGIC + b"\x09\0\0\0\x92\1\1x")),
        ("a message that is too short", "image 'mountpoints-7.img' is damaged", write("mountpoints-7.img", MAGIC + b"\3\0\0\0\x92\1\5")),
        ("a number without an end", "image 'mountpoints-7.img' is damaged", write("mountpoints-7.img", MAGIC + b"\1\0\0\0\xff")),
        ("an unknown wire type", "image 'mountpoints-7.img' is damaged", write("mountpoints-7.img", MAGIC + b"\2\0\0\0\x0f\1")),
        ("an image that is a link", "image 'utsns-3.img': Too many levels",
         lambda x: (os.unlink(x + "/utsns-3.img"), os.symlink("/etc/passwd", x + "/utsns-3.img"))),
        ("no descriptors", "descriptors.json: .*No such file", lambda x: os.unlink(x + "/descriptors.json")),
        ("half of the descriptors", "descriptors.json: ", write("descriptors.json", b'["/dev/null", ')),
        ("a stdin", "the checkpoint is of a container with a stdin", write("descriptors.json", b'["pipe:[1]", "pipe:[2]", "pipe:[3]"]')),
        ("a terminal", "the checkpoint is of a container whose stdout is '/dev/pts/0', not a pipe",
         write("descriptors.json", b'["/dev/pts/0", "/dev/pts/0", "/dev/pts/0"]'))):
    refused(name, why, spoil=spoil)
refused("the node's IPC namespace", "the checkpoint has an IPC namespace, and the pod has the node's",
        pod=d.pod_config("new", linux={"security_context": {"namespace_options": {"ipc": pb.NODE}}}),
        spoil=write("ipcns-var-9.img", MAGIC))
ok(not os.path.exists(d.tmp + "/given"), "criu was not run for any of them")

# --- who is killed
does(WAIT + GOOD)
pod, c = restored()
future = d.StartContainer(container_id=c, _future=True)
wait_until(lambda: os.path.exists(d.tmp + "/given"), "criu")
os.kill(inside(c, lambda p: proc_argv(p)[1:2] == ["restore"])[0], signal.SIGKILL)
like(future.exception().details(), "restore: cricket-worker died", "a worker that is killed")
wait_until(lambda: not procs(c), "the end of all in the cgroup")
d.remove(pod)
does(WAIT + GOOD)
pod, c = restored()
future = d.StartContainer(container_id=c, _future=True)
wait_until(lambda: os.path.exists(d.tmp + "/given"), "criu")
d.kill_daemon()
d.start_daemon()
wait_until(lambda: not procs(c), "the end of all in the cgroup")
is_((d.status(c).state, d.status(c).reason), (EXITED, "StartError"), "a daemon that is killed: the next one calls it a failed start")
d.remove(pod)
subprocess.run(["umount", d.tmp + "/tmpfs"], check=True)
finish(d)
