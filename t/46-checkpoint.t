#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""CheckpointContainer: with a program in criu's place that does what the test wants, and with criu itself, restored by hand.

Where criu does not work (a kernel newer than it knows), the refusal says so; CRICKET_TEST_CRIU=works makes that a failure."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
import io  # noqa: E402
import tarfile  # noqa: E402

CRIU = shutil.which("criu", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "/usr/sbin/criu"
COUNT = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo $i >/n; sleep 0.2; done"]
d = Daemon(start=False)
os.mkdir(d.tmp + "/out")
os.mkdir(d.tmp + "/vol")
fake = d.tmp + "/criu"
with open(fake, "w") as f:
    f.write("""#!/bin/sh
job=$1
echo "$*" >>%(tmp)s/args
while [ $# -gt 1 ]; do [ "$1" != --action-script ] || script=$2; shift; done
. %(tmp)s/$job
""" % {"tmp": d.tmp})
os.chmod(fake, 0o755)
d.config["criu"] = fake
d.start_daemon()


def does(dump, check="exit 0"):
    for name, text in ("dump", dump), ("check", check):
        with open(d.tmp + "/" + name, "w") as out:
            out.write(text + "\n")


def args():
    with open(d.tmp + "/args") as args_file:
        return args_file.read()


def loc(name):
    return d.tmp + "/out/" + name


def no_work():
    return not os.listdir(d.root + "/checkpoints")


def clean(name):
    is_((os.listdir(d.tmp + "/out"), os.listdir(d.root + "/checkpoints")), ([], []), name + ": nothing is left behind")


def goes_on(ctr, name):
    path = d.status(ctr).log_path
    n = os.stat(path).st_size
    wait_until(lambda: os.stat(path).st_size > n, "the container writes")
    is_(d.status(ctr).state, RUNNING, name + ": the container goes on")


GOOD = """
echo image >checkpoint/inventory.img; echo stats >checkpoint/stats-dump; echo '(00.1) Dumping finished' >dump.log
CRTOOLS_SCRIPT_ACTION=network-lock $script && CRTOOLS_SCRIPT_ACTION=post-dump $script"""
UNTIL_FULL = "while echo x >checkpoint/pages-1.img; do sleep 0.1; done 2>/dev/null; exit 1"    # as criu, where it cannot write
does(GOOD)
pod = d.runp("p")
ctr = d.start(pod, "main", command=COUNT, mounts=[{"host_path": d.tmp + "/vol", "container_path": "/vol"}],
              security={"masked_paths": ["/proc/version", "/sys/firmware"], "readonly_paths": ["/proc/sys"]})
checkpoint = d.CheckpointContainer

# --- what is refused
fails(checkpoint, "NOT_FOUND", "nosuch", "an unknown container", container_id="nosuch", location=loc("x"))
for where, code, why in (("", "INVALID_ARGUMENT", "location is empty"), ("x.tar", "INVALID_ARGUMENT", "'x.tar' is not absolute"),
                         (loc("x/"), "INVALID_ARGUMENT", "no file name"), ("/" + 5000 * "x", "INVALID_ARGUMENT", "no file name"),
                         (d.tmp + "/out", "ALREADY_EXISTS", "out' exists already"),
                         (d.socket, "ALREADY_EXISTS", "exists already"),
                         (loc("none/x.tar"), "INVALID_ARGUMENT", "No such file or directory"),
                         (d.log + "/x.tar", "INVALID_ARGUMENT", "Not a directory"),
                         ("/proc/x.tar", "INVALID_ARGUMENT|FAILED_PRECONDITION", "location '/proc/x.tar'")):
    fails(checkpoint, code, "checkpoint container %s: .*%s" % (ctr, why), "location '%s'" % where[-40:], container_id=ctr,
          location=where)
fails(checkpoint, "INVALID_ARGUMENT", "timeout -1", "a negative timeout", container_id=ctr, location=loc("x"), timeout=-1)
created = d.create(pod, "created")
fails(checkpoint, "FAILED_PRECONDITION", "not running .created", "a container that was not started", container_id=created,
      location=loc("x"))
d.StartContainer(container_id=created)
d.StopContainer(container_id=created, timeout=0)
fails(checkpoint, "FAILED_PRECONDITION", "not running .exited", "a container that has ended", container_id=created,
      location=loc("x"))
ok(not os.path.exists(d.tmp + "/args"), "criu was not run for any of them")
clean("refused")

# --- the archive
d.sh(ctr, "echo new >/new; chmod 640 /new; chown 7:8 /new; ln /new /tmp/same; ln -s /etc/nothing /link; rm /etc/passwd;"
          "mkfifo /fifo; rm -r /usr; mkdir -p /usr/deep/er; echo x >/usr/deep/er/f; echo out >/vol/file")
is_(error(checkpoint, container_id=ctr, location=loc("a.tar"))[0], "OK", "a checkpoint")
is_((os.listdir(d.tmp + "/out"), no_work(), os.stat(loc("a.tar")).st_mode & 0o777), (["a.tar"], True, 0o600),
    "one file, for its owner")
goes_on(ctr, "checkpoint")
with tarfile.open(loc("a.tar"), "r:") as tar:
    read = {m.name: m.isfile() and tar.extractfile(m).read() for m in tar}
is_(sorted(read), ["checkpoint", "checkpoint/descriptors.json", "checkpoint/inventory.img", "config.dump", "container.log",
                   "dump.log", "rootfs-diff.tar", "spec.dump", "stats-dump", "status", "status.dump"], "what is in it")
config, spec = json.loads(read["config.dump"]), json.loads(read["spec.dump"])
is_([config[k] for k in ("id", "name", "rootfsImageName", "rootfsImageRef", "runtime", "restored")],
    [ctr, "main", d.status(ctr).image.image, d.status(ctr).image_ref, "cricket", False], "config.dump")
like(config["createdTime"] + " " + config["checkpointedTime"], r"^(20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ?){2}$", "its times")
is_([spec["annotations"]["io.kubernetes.cri." + k] for k in ("container-name", "sandbox-name", "sandbox-namespace", "sandbox-id")],
    ["main", "p", "default", pod], "spec.dump names the pod")
is_(spec["process"]["args"], COUNT, "and the command")
is_((json.loads(read["status"])["Pid"], json.loads(read["status.dump"])["id"]), (d.pid_of(ctr), ctr), "status")
is_(len(json.loads(read["checkpoint/descriptors.json"])), 3, "where stdio went")
with open(d.status(ctr).log_path, "rb") as f:
    ok(read["container.log"] and f.read().startswith(read["container.log"]), "the log so far")
with tarfile.open(fileobj=io.BytesIO(read["rootfs-diff.tar"])) as tar:
    diff = {m.name: m for m in tar}
    content = tar.extractfile("usr/deep/er/f").read()
new = diff["new"] if diff["new"].isfile() else diff["tmp/same"]
is_((new.size, new.mode, new.uid, new.gid), (4, 0o640, 7, 8), "a new file, its mode and owner")
is_(sorted((diff["new"].islnk(), diff["tmp/same"].islnk())), [False, True], "a second name of it")
is_((diff["link"].linkname, diff["fifo"].isfifo(), content), ("/etc/nothing", True, b"x\n"), "a link, a pipe, a deep file")
ok("etc/.wh.passwd" in diff and "etc/passwd" not in diff, "what was deleted")
ok("usr/.wh..wh..opq" in diff, "a directory that replaces the image's")
ok("vol/file" not in diff, "nothing of a volume")
for want in ("--leave-running", "--tcp-established", "--file-locks", "--ext-unix-sk", "--manage-cgroups=ignore",
             "--tree %d " % d.pid_of(ctr), "mnt[/vol]:/vol ", "mnt[/etc/hosts]:/etc/hosts ", "mnt[/dev/shm]:/dev/shm ",
             "mnt[/proc/version]:/dev/null", "net[%d]:extRootNetNS" % os.stat("/proc/%d/ns/net" % d.pid_of(ctr)).st_ino):
    ok(want in args().replace("\n", " "), "criu is told " + re.sub(r"[0-9]+", "N", want))
ok(not [m for m in ("/proc/sys", "/dev", "/") if "mnt[%s]" % m in args()], "what is the container's own is not external")
fails(checkpoint, "ALREADY_EXISTS", "a.tar' exists already", "not over a file that is there", container_id=ctr,
      location=loc("a.tar"))
os.unlink(loc("a.tar"))

# --- failures
does("echo '(00.1) Error (criu/mount.c:1): mnt: no such luck' >dump.log; exit 1")
fails(checkpoint, "UNKNOWN", "%s: criu dump failed with 1: mnt: no such luck" % ctr, "a dump that fails", container_id=ctr,
      location=loc("x"))
clean("a dump that fails")
does("exit 1", "echo 'Error (criu/vdso.c:1): vdso: too new' >&2; exit 1")
fails(checkpoint, "FAILED_PRECONDITION", "%s.*does not work on this machine: vdso: too new" % re.escape(fake),
      "a criu that does not work here", container_id=ctr, location=loc("x"))
clean("a criu that does not work here")
does("kill -9 $$")
fails(checkpoint, "UNKNOWN", "killed by signal 9", "a criu that is killed", container_id=ctr, location=loc("x"))
if shutil.which("nft"):
    pid = d.pid_of(ctr)
    nft = ["nsenter", "--net=/proc/%d/ns/net" % pid, "nft"]
    does(" ".join(nft) + " add table inet CRIU-%d && touch %s/locked; kill -9 $$" % (pid, d.tmp))
    error(checkpoint, container_id=ctr, location=loc("x"))
    is_((os.path.exists(d.tmp + "/locked"), subprocess.run(nft + ["list", "tables"], stdout=subprocess.PIPE, check=True).stdout),
        (True, b""), "what it did to the pod's network is undone")
else:
    skip("needs the program nft")
does(GOOD + "\necho there >%s\nexit 0" % loc("x"))
fails(checkpoint, "ALREADY_EXISTS", "exists already", "a file that came to be there meanwhile", container_id=ctr,
      location=loc("x"))
with open(loc("x")) as f:
    is_(f.read(), "there\n", "is left alone")
os.unlink(loc("x"))
clean("a file that came to be there meanwhile")

# --- time
does(UNTIL_FULL)
fails(checkpoint, "DEADLINE_EXCEEDED", "not done after 1 s: given up", "the timeout", container_id=ctr, location=loc("x"),
      timeout=1)
clean("the timeout")
future = checkpoint(_future=True, container_id=ctr, location=loc("x"))
wait_until(lambda: not no_work(), "the worker")
fails(checkpoint, "FAILED_PRECONDITION", "a checkpoint of it is being made", "one at a time", container_id=ctr, location=loc("y"))
future.cancel()
wait_until(no_work, "the worker gives up")
clean("a client that goes away")
goes_on(ctr, "a client that goes away")
does("exec sleep 1000000")
fails(checkpoint, "DEADLINE_EXCEEDED", "not done after 1 s: criu did not give up in order and was killed", "a criu that hangs",
      container_id=ctr, location=loc("x"), timeout=1)
clean("a criu that hangs")

# --- the container goes, the daemon goes, the worker goes
does(UNTIL_FULL)
other = d.start(pod, "other")
future = checkpoint(_future=True, container_id=other, location=loc("x"))
wait_until(lambda: not no_work(), "the worker")
d.StopContainer(container_id=other, timeout=0)
is_(d.status(other).state, EXITED, "a stop does not wait for a checkpoint")
d.RemoveContainer(container_id=other)
got = future.exception()
is_(got.code().name, "UNAVAILABLE", "a checkpoint of a container that is removed")
wait_until(no_work, "the worker gives up")
clean("a container that is removed")
future = checkpoint(_future=True, container_id=ctr, location=loc("x"))
wait_until(lambda: not no_work(), "the worker")
d.kill_daemon()
wait_until(no_work, "the worker gives up")
clean("a daemon that is killed")
d.start_daemon()
goes_on(ctr, "a daemon that is killed")
checkpoint = d.CheckpointContainer
future = checkpoint(_future=True, container_id=ctr, location=loc("x"))
wait_until(lambda: not no_work(), "the worker")
is_(d.stop_daemon(), 0, "the daemon ends while a checkpoint is made")
wait_until(no_work, "the worker gives up")
clean("a daemon that ends")
d.start_daemon()
checkpoint = d.CheckpointContainer
future = checkpoint(_future=True, container_id=ctr, location=loc("x"))
wait_until(lambda: os.path.exists(d.root + "/checkpoints/%s-%d/checkpoint/pages-1.img" % (ctr, d.pid)), "criu")


def workers():
    return proc_find(lambda p: proc_stat(p)[1] == d.pid and "checkpoint" in proc_argv(p))


os.kill(workers()[0], signal.SIGKILL)
like(future.exception().details(), "cricket-worker ended with 137", "a worker that is killed")
d.restart()
wait_until(no_work, "what it left is removed")
ok(True, "its work is removed at the next start")
for name in os.listdir(d.tmp + "/out"):
    os.unlink(loc(name))

# --- the configuration
d.config["criu"] = ""
d.restart()
fails(d.CheckpointContainer, "UNIMPLEMENTED", "criu", "turned off", container_id=ctr, location=loc("x"))
d.config["criu"] = d.tmp + "/none"
d.restart()
fails(d.CheckpointContainer, "FAILED_PRECONDITION", "criu '.*/none': No such file", "no criu", container_id=ctr,
      location=loc("x"))
clean("no criu")
goes_on(ctr, "no criu")

# --- criu itself
d.config["criu"] = CRIU
d.restart()
if not os.path.exists(CRIU):
    fails(d.CheckpointContainer, "FAILED_PRECONDITION", "%s.*No such file" % CRIU, "criu is not installed", container_id=ctr,
          location=loc("x"))
    ok(os.environ.get("CRICKET_TEST_CRIU") != "works", "criu may be missing here")
    skip("criu is not installed")
    d.remove(pod)
    finish(d)
code, why = error(d.CheckpointContainer, container_id=ctr, location=loc("real.tar"))
if code != "OK":
    clean("criu fails")
    goes_on(ctr, "criu fails")
    like(why, "criu .*does not work on this machine: .", "it says why")
    ok(os.environ.get("CRICKET_TEST_CRIU") != "works", "criu may fail here")
    skip("criu does not work here: " + why.split("machine: ")[-1])
    d.remove(pod)
    finish(d)
ok(no_work(), "criu: nothing but the archive is left")
goes_on(ctr, "criu")
is_(d.sh(ctr, "echo alive"), (b"alive\n", b"", 0), "criu: exec goes on")
for kind, fields, more in (("a terminal", {}, {"tty": True, "stdin": True}),
                           ("the pod's PID namespace", {"pid": pb.POD}, {"pid": pb.POD}),
                           ("the node's network", {"net": False}, {"pid": pb.NODE})):
    with_pod = d.runp(config=d.pod_config(**fields))
    one = d.start(with_pod, "one", command=COUNT, **more)
    is_(error(d.CheckpointContainer, container_id=one, location=loc("one.tar")), ("OK", pb.CheckpointContainerResponse()),
        "criu: with " + kind)
    goes_on(one, "criu: with " + kind)
    os.unlink(loc("one.tar"))
    d.remove(with_pod)

# a connection stays whole however far the dump was when it was called off
tcp = d.start(pod, "tcp", command=["sh", "-c", "(sleep 1000000 | nc -l -p 99 >/got) & (while :; do echo x; sleep 0.1; done) | "
                                   "(until nc 127.0.0.1 99; do sleep 0.1; done)"])


def arrived():
    return int(d.sh(tcp, "wc -c </got || echo 0")[0].split()[0])


wait_until(lambda: arrived() > 2, "a connection")
for part in range(1, 5):
    future = d.CheckpointContainer(_future=True, container_id=tcp, location=loc("tcp.tar"), _timeout=0.1 * part * SLOW)
    future.exception()
    wait_until(no_work, "the worker gives up")
    n = arrived()
    wait_until(lambda: arrived() > n, "data arrives")
    ok(True, "criu, called off: a TCP connection goes on (%d)" % part)
    if os.path.exists(loc("tcp.tar")):
        os.unlink(loc("tcp.tar"))

# restored by hand: it counts on. As our child: it dies with its parent, here as below the supervisor
layers = sorted(os.listdir(d.root + "/l"), key=lambda n: n != "init")      # the lowest first
is_(len(layers), 2, "the image has one layer, below it is the one with the places of mounts")
d.remove(pod)
work, root = d.tmp + "/restore", d.tmp + "/restored"
os.mkdir(work)
os.mkdir(root)
for n in layers:
    subprocess.run(["cp", "-a", "%s/l/%s/." % (d.root, n), root], check=True)
subprocess.run("tar xf %s -C %s && tar xf %s/rootfs-diff.tar -C %s && mount --bind %s %s" %
               (loc("real.tar"), work, work, root, root, root), shell=True, check=True)
with open(root + "/n") as f:
    last = int(f.read())
with open(work + "/spec.dump") as f:
    binds = [m["destination"] for m in json.load(f)["mounts"] if m["type"] == "bind"]
with open(work + "/checkpoint/descriptors.json") as f:
    stdio = json.load(f)
from_out, to_out = os.pipe()
from_err, to_err = os.pipe()
command = [CRIU, "restore", "--images-dir", work + "/checkpoint", "--work-dir", work, "--log-file", "restore.log", "-v4",
           "--root", root, "--shell-job", "--manage-cgroups=ignore", "--tcp-established", "--file-locks", "--ext-unix-sk",
           "--network-lock", "nftables", "--restore-detached", "--restore-sibling", "--pidfile", work + "/pid",
           "--external", "mnt[/dev/null]:/dev/null",
           "--inherit-fd", "fd[%d]:%s" % (to_out, stdio[1]), "--inherit-fd", "fd[%d]:%s" % (to_err, stdio[2]),
           "--inherit-fd", "fd[%d]:extRootNetNS" % d.net.fd]
for to in binds:
    source = {"/vol": d.tmp + "/vol", "/dev/shm": "/dev/shm"}.get(to, "/etc/hosts")
    command += ["--external", "mnt[%s]:%s" % (to, source)]
os.set_inheritable(d.net.fd, True)
r = subprocess.run(command, pass_fds=[to_out, to_err, d.net.fd], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   check=False)
if not is_(r.returncode, 0, "criu restores it"):
    with open(work + "/restore.log", errors="replace") as f:
        diag(*[x for x in f if "Error" in x])
else:
    with open(work + "/pid") as f:
        restored = int(f.read())
    ready = select.select([from_out], [], [], LIMIT)[0]
    count = int(os.read(from_out, 100).split()[0]) if ready else None
    ok(count in (last + 1, last + 2), "and it counts on", "dumped at %d, now %s" % (last, count))
    os.kill(restored, signal.SIGKILL)
    wait_until(lambda: not os.path.exists("/proc/%d/root/n" % restored), "its end")
subprocess.run(["umount", root], check=True)
finish(d)
