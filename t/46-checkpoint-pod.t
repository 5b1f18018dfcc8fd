#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""CheckpointPod: with a program in criu's place that does what the test wants and looks who stands still, and with criu itself.

Where criu does not work (a kernel newer than it knows), the refusal says so; CRICKET_TEST_CRIU=works makes that a failure."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
import tarfile  # noqa: E402

CRIU = shutil.which("criu", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "/usr/sbin/criu"
COUNT = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done"]
STATE = "cgroup.freeze" if cgroup_is_v2() else "freezer.state"
try:
    os.stat(os.path.dirname(cgroup_file("freezer", "", "x")))
except FileNotFoundError:
    skip_all("cgroup v1 without a freezer")
d = Daemon(start=False)
out = d.tmp + "/out"
fake = d.tmp + "/criu"
os.mkdir(out, 0o700)
with open(fake, "w") as f:
    f.write("""#!/bin/sh
job=$1
while [ $# -gt 1 ]; do
    [ "$1" != --action-script ] || script=$2
    [ "$1" != --freeze-cgroup ] || freezer=$2
    shift
done
. %s/$job
""" % d.tmp)
os.chmod(fake, 0o755)
d.config["criu"] = fake
d.config["runtimes"] = {"oci": {"path": "/bin/sh"}}
d.start_daemon()


def does(dump, check="exit 0"):
    for name, text in ("dump", dump), ("check", check):
        with open(d.tmp + "/" + name, "w") as script:
            script.write(text + "\n")


def freezer(ctr):
    return os.path.dirname(cgroup_file("freezer", "%s/%s" % (d.cgroup, ctr), STATE))


def frozen(ctr):
    """Is it, or is it about to be?"""
    with open(freezer(ctr) + "/" + STATE) as state:
        return not state.read().startswith(("0", "THAWED"))


def thawed(name, *more):
    """All as before: nobody stands still, nothing is left, the directory is there."""
    is_(([frozen(x) for x in (*ctrs, *more)], os.listdir(out), os.listdir(d.root + "/checkpoints")),
        ([False] * (3 + len(more)), [], []), name + ": nobody stands still, and nothing is left")


def go_on(name):
    for ctr in ctrs:
        path = d.status(ctr).log_path
        n = os.stat(path).st_size
        wait_until(lambda: os.stat(path).st_size > n, "the container writes")
    is_([d.status(ctr).state for ctr in ctrs], [RUNNING] * 3, name + ": all go on")


def settled(name, *more):
    """Where nobody tells us when."""
    wait_until(lambda: not os.listdir(out) and not any(map(frozen, (*ctrs, *more))), "the end of it")
    thawed(name, *more)


def workers():
    return proc_find(lambda p: proc_stat(p)[1] == d.pid and "checkpoint-pod" in proc_argv(p))


def checkpoint(**fields):
    fields = dict({"pod_sandbox_id": pod, "output_path": out, "container_ids": ctrs[:2]}, **fields)
    return d.CheckpointPod(**fields)


def begun():
    """A checkpoint that has the second container in its hands; its worker."""
    future = checkpoint(_future=True)
    wait_until(lambda: os.path.exists("%s/.partial/%s/checkpoint/pages-1.img" % (out, ctrs[1])), "the second dump")
    is_([frozen(x) for x in ctrs], [True, True, False], "it is under way")
    return future, workers()[0]


# what each dump sees of all; criu leaves the cgroup as frozen as it was
LOOK = "cat %s/*/%s | tr '\\n' ' ' >>%s/seen; basename $freezer >>%s/seen\n" % (
    os.path.dirname(freezer("x")), STATE, d.tmp, d.tmp)
GOOD = LOOK + """
echo image >checkpoint/inventory.img; echo stats >checkpoint/stats-dump; echo '(00.1) Dumping finished' >dump.log
CRTOOLS_SCRIPT_ACTION=post-dump $script"""
UNTIL_FULL = "while echo x >checkpoint/pages-1.img; do sleep 0.1; done 2>/dev/null; exit 1"    # as criu, where it cannot write
SECOND = "if [ -e ../../.partial/*/checkpoint/inventory.img ]; then %s; else " + GOOD + "; fi"
does(GOOD)
pod = d.runp("p")
ctrs = [d.start(pod, name, command=COUNT) for name in ("one", "two", "three")]
d.sh(ctrs[0], "echo new >/new")

# --- what is refused
other = d.runp("other", net=False)
twin = d.start(pod, "one", metadata={"name": "one", "attempt": 7})
created = d.create(pod, "created")
elsewhere = d.start(other, "elsewhere")
fails(checkpoint, "NOT_FOUND", "nosuch", "an unknown pod", pod_sandbox_id="nosuch")
fails(checkpoint, "INVALID_ARGUMENT", "option 'verbose' is unknown", "an option", options={"verbose": "1"})
for where, code, why in (("", "INVALID_ARGUMENT", "output_path is empty"), ("out", "INVALID_ARGUMENT", "'out' is not absolute"),
                         ("/" + 5000 * "x", "INVALID_ARGUMENT", "too long"),
                         (out + "/none", "INVALID_ARGUMENT", "No such file or directory"),
                         (d.log, "INVALID_ARGUMENT", "Not a directory"),
                         (d.tmp, "FAILED_PRECONDITION", "is not empty: it has '"),
                         ("/proc", "FAILED_PRECONDITION", "output_path '/proc'")):
    fails(checkpoint, code, "checkpoint sandbox %s: .*%s" % (pod, why), "output_path '%s'" % where[-40:], output_path=where)
for ids, code, why in (([], "INVALID_ARGUMENT", "container_ids is empty"),
                       (["nosuch"], "NOT_FOUND", r"container_ids\[0\]: .*nosuch"),
                       ([ctrs[0], ""], "INVALID_ARGUMENT", r"container_ids\[1\]"),
                       ([ctrs[0], ctrs[1], ctrs[0]], "INVALID_ARGUMENT", "container %s: it is named twice" % ctrs[0]),
                       ([ctrs[0], ctrs[0][:20]], "INVALID_ARGUMENT", "container %s: it is named twice" % ctrs[0]),
                       ([ctrs[0], twin], "INVALID_ARGUMENT", "container %s: container %s has the same name 'one'" % (twin, ctrs[0])),
                       ([elsewhere], "INVALID_ARGUMENT", "container %s is of sandbox %s" % (elsewhere, other)),
                       ([created], "FAILED_PRECONDITION", "container %s: it is not running .created" % created),
                       ([ctrs[0]] * 101, "RESOURCE_EXHAUSTED", "101 containers are more than 100")):
    fails(checkpoint, code, "checkpoint sandbox %s: .*%s" % (pod, why), "container_ids: " + why[:40], container_ids=ids)
raw = d.client._channel.unary_unary("/runtime.v1.RuntimeService/CheckpointPod",
                                    request_serializer=pb.CheckpointPodRequest.SerializeToString)
fails(lambda: raw(pb.CheckpointPodRequest(pod_sandbox_id=pod, output_path=out, container_ids=ctrs[:1])), "INVALID_ARGUMENT",
      "the call has no deadline", "a call without a deadline")
oci = d.runp("oci", net=False, handler="oci")
fails(checkpoint, "UNIMPLEMENTED", "handler 'oci' is an OCI runtime", "an OCI runtime", pod_sandbox_id=oci)
d.remove(oci)
with open(freezer(ctrs[1]) + "/" + STATE, "w") as f:
    f.write("1" if cgroup_is_v2() else "FROZEN")
fails(checkpoint, "FAILED_PRECONDITION", "container %s: .* is frozen already" % ctrs[1], "a container that somebody froze")
is_(frozen(ctrs[1]), True, "stays so")
with open(freezer(ctrs[1]) + "/" + STATE, "w") as f:
    f.write("0" if cgroup_is_v2() else "THAWED")
d.StopPodSandbox(pod_sandbox_id=other)
fails(checkpoint, "FAILED_PRECONDITION", "sandbox %s: it is not ready" % other, "a pod that was stopped", pod_sandbox_id=other,
      container_ids=[elsewhere])
d.remove(other)
for x in twin, created:
    d.RemoveContainer(container_id=x)
ok(not os.path.exists(d.tmp + "/seen"), "criu was not run for any of them")
thawed("refused")

# --- the checkpoint
inode = os.stat(out).st_ino
is_(error(checkpoint, _timeout=LIMIT * 10), ("OK", pb.CheckpointPodResponse()), "a checkpoint")
is_(sorted(os.listdir(out)), sorted([c + ".tar" for c in ctrs[:2]] + ["pod.json"]), "what is in the directory")
is_(({os.stat(out + "/" + x).st_mode & 0o777 for x in os.listdir(out)}, os.stat(out).st_ino), ({0o600}, inode), "for its owner")
is_([frozen(x) for x in ctrs], [False] * 3, "nobody stands still")
with open(d.tmp + "/seen") as f:
    seen = f.read().splitlines()
is_([x.split()[-1] for x in seen], ctrs[:2], "criu is told whose cgroup is frozen")
is_([x.replace("FROZEN", "1").replace("THAWED", "0").split()[:-1].count("1") for x in seen], [2, 2],
    "both, and no other, stood still from before the first dump until behind the second one")
with open(out + "/pod.json") as f:
    index = json.load(f)
like(index.pop("checkpointedTime"), r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$", "pod.json has the time")
is_(index, {"version": 1, "runtime": "cricket", "runtimeVersion": d.Version().runtime_version,
            "pod": {"id": pod, "name": "p", "namespace": "default", "uid": d.pod_status(pod).metadata.uid, "attempt": 0,
                    "runtimeHandler": ""},
            "containers": [{"name": name, "attempt": 0, "id": c, "image": d.status(c).image.image,
                            "imageRef": d.status(c).image_ref, "archive": c + ".tar"} for name, c in zip(("one", "two"), ctrs)]},
    "and the pod and its containers")
with tarfile.open(out + "/" + index["containers"][0]["archive"], "r:") as tar:
    names = tar.getnames()
    diff = tarfile.open(fileobj=tar.extractfile("rootfs-diff.tar")).getnames()
is_(sorted(names), ["checkpoint", "checkpoint/descriptors.json", "checkpoint/inventory.img", "config.dump", "container.log",
                    "dump.log", "rootfs-diff.tar", "spec.dump", "stats-dump", "status", "status.dump"],
    "an archive is as that of CheckpointContainer")
ok("new" in diff, "with the container's files")
go_on("checkpoint")
fails(checkpoint, "FAILED_PRECONDITION", "is not empty: it has '", "not twice into one directory")
is_(len(os.listdir(out)), 3, "whose files are left alone")
for name in os.listdir(out):
    os.unlink(out + "/" + name)

# --- failures
does(SECOND % "echo '(00.1) Error (criu/mount.c:1): mnt: no such luck' >dump.log; exit 1")
fails(checkpoint, "UNKNOWN", "sandbox %s: container %s: criu dump failed with 1: mnt: no such luck" % (pod, ctrs[1]),
      "a second dump that fails")
thawed("a second dump that fails")
does("exit 1", "echo 'Error (criu/vdso.c:1): vdso: too new' >&2; exit 1")
fails(checkpoint, "FAILED_PRECONDITION", "%s.*does not work on this machine: vdso: too new" % re.escape(fake),
      "a criu that does not work here")
thawed("a criu that does not work here")
does(SECOND % "kill -9 $$")
fails(checkpoint, "UNKNOWN", "killed by signal 9", "a criu that is killed")
thawed("a criu that is killed")
does(GOOD + "\nmkdir ../../%s.tar; echo there >../../%s.tar/file" % (ctrs[1], ctrs[1]))
fails(checkpoint, "UNKNOWN", "rename '%s.tar': Is a directory" % ctrs[1], "a directory that somebody else writes to")
is_(os.listdir(out), [ctrs[1] + ".tar"], "what is his stays")
shutil.rmtree(out + "/" + ctrs[1] + ".tar")
thawed("a directory that somebody else writes to")
go_on("failures")

# --- time
does(SECOND % UNTIL_FULL)
is_(error(checkpoint, _timeout=5 * SLOW)[0], "DEADLINE_EXCEEDED", "the deadline")
wait_until(lambda: "its deadline came before its end" in d.log_text(), "the daemon's own word")
settled("the deadline")
future, worker = begun()
fails(checkpoint, "FAILED_PRECONDITION", "sandbox %s: a checkpoint of it is being made" % pod, "one at a time",
      container_ids=ctrs[2:])
fails(d.CheckpointContainer, "FAILED_PRECONDITION", "a checkpoint of it is being made", "nor one of a container",
      container_id=ctrs[0], location=d.tmp + "/x.tar")
second = d.runp("second", net=False)
it = d.start(second, "it")
fails(checkpoint, "FAILED_PRECONDITION", "in use by another", "nor two to one directory", pod_sandbox_id=second,
      container_ids=[it])
d.remove(second)
future.cancel()
settled("a client that goes away")
go_on("a client that goes away")

# --- who is stopped is let go
term = d.start(pod, "term", command=["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"])
does("if [ ${freezer##*/} = %s ]; then %s; else %s; fi" % (ctrs[0], UNTIL_FULL, GOOD))
future = checkpoint(_future=True, container_ids=[term, ctrs[0]])
wait_until(lambda: os.path.exists("%s/.partial/%s/checkpoint/pages-1.img" % (out, ctrs[0])), "the second dump")
d.StopContainer(container_id=term, timeout=int(LIMIT))
is_(d.status(term).exit_code, 7, "a container that is stopped can end in order")
got = future.exception()
is_(got.code().name, "UNAVAILABLE", "the checkpoint is given up")
like(got.details(), "container %s is being stopped" % term, "and says why")
thawed("a container that is stopped")
gone = d.start(pod, "gone")
future = checkpoint(_future=True, container_ids=[gone, ctrs[0]])
wait_until(lambda: os.path.exists("%s/.partial/%s/checkpoint/pages-1.img" % (out, ctrs[0])), "the second dump")
d.RemoveContainer(container_id=gone)
is_(future.exception().code().name, "UNAVAILABLE", "a container that is removed")
thawed("a container that is removed")
gone = d.start(pod, "gone")
pid = d.pid_of(gone)
future = checkpoint(_future=True, container_ids=[gone, ctrs[0]])
wait_until(lambda: os.path.exists("%s/.partial/%s/checkpoint/pages-1.img" % (out, ctrs[0])), "the second dump")
os.kill(pid, signal.SIGKILL)
if cgroup_is_v2():    # a frozen process of v1 dies when it is thawed
    d.wait_exit(gone)
future.cancel()
d.wait_exit(gone)
settled("a container that is killed")
d.RemoveContainer(container_id=gone)
leaving = d.runp("leaving", net=False)
pair = [d.start(leaving, x) for x in ("x", "y")]
does(UNTIL_FULL)
future = checkpoint(_future=True, pod_sandbox_id=leaving, container_ids=pair)
wait_until(lambda: os.path.exists("%s/.partial/%s/checkpoint/pages-1.img" % (out, pair[0])), "the first dump")
d.remove(leaving)
is_(future.exception().code().name, "UNAVAILABLE", "a pod that is removed")
settled("a pod that is removed")

# --- who is killed
does(SECOND % UNTIL_FULL)
future, worker = begun()
os.kill(worker, signal.SIGKILL)
got = future.exception()
is_((got.code().name, got.details().split(": ")[-1]), ("INTERNAL", "cricket-worker ended with 137"), "a worker that is killed")
thawed("a worker that is killed")
go_on("a worker that is killed")
future, worker = begun()
os.kill(worker, signal.SIGTERM)
os.kill(worker, signal.SIGHUP)
d.kill_daemon()
settled("a daemon that is killed, a worker that is asked to end")
d.start_daemon()
go_on("a daemon that is killed")
future, worker = begun()
os.kill(worker, signal.SIGSTOP)
d.kill_daemon()
os.kill(worker, signal.SIGKILL)
wait_until(lambda: not os.path.exists("/proc/%d/exe" % worker), "the worker's end")
is_([frozen(x) for x in ctrs], [True, True, False], "both killed: the pod stands still")
ok(os.listdir(out) == [".partial"], "and files are left")
d.start_daemon()
is_([frozen(x) for x in ctrs], [False] * 3, "until the daemon starts again")
settled("both killed")
go_on("both killed")
future, worker = begun()
os.kill(worker, signal.SIGSTOP)
d.kill_daemon()
d.start_daemon()
is_([frozen(x) for x in ctrs], [False] * 3, "nor does it wait for a worker that hangs")
os.kill(worker, signal.SIGCONT)
settled("a worker that hangs")
go_on("a worker that hangs")
wait_until(lambda: not workers(), "the end of what undid it")
future, worker = begun()
d.proc.terminate()
is_(future.exception().code().name, "UNAVAILABLE", "a daemon that ends says so")
is_(d.stop_daemon(), 0, "and ends")
settled("a daemon that ends")
d.start_daemon()
go_on("a daemon that ends")
does(GOOD)
wait_until(lambda: error(checkpoint)[0] == "OK", "the record of the last one goes")
ok(True, "after all that a checkpoint can be made")
for name in os.listdir(out):
    os.unlink(out + "/" + name)

# --- the configuration
d.config["criu"] = ""
d.restart()
fails(checkpoint, "UNIMPLEMENTED", "criu", "turned off")
d.config["criu"] = d.tmp + "/none"
d.restart()
fails(checkpoint, "FAILED_PRECONDITION", "criu '.*/none': No such file", "no criu")
thawed("no criu")

# --- criu itself
d.config["criu"] = CRIU
d.restart()
tcp = [d.start(pod, "server", command=["sh", "-c", "sleep 1000000 | nc -l -p 99 >/got"]),
       d.start(pod, "client", command=["sh", "-c", "(while :; do echo x; sleep 0.1; done) | "
                                       "(until nc 127.0.0.1 99; do sleep 0.1; done)"])]


def arrived():
    return int(d.sh(tcp[0], "wc -c </got || echo 0")[0].split()[0])


def flows(name):
    n = arrived()
    wait_until(lambda: arrived() > n, "data arrives")
    ok(True, name + ": the connection between its containers goes on")


wait_until(lambda: arrived() > 2, "a connection")
beside = d.ExecSync(_future=True, container_id=tcp[0], cmd=["sh", "-c", "until [ -e /end ]; do sleep 0.1; done; echo ended"])
code, why = error(checkpoint, container_ids=tcp, _timeout=LIMIT * 5) if os.path.exists(CRIU) else ("", "machine: no criu")
if code != "OK":
    thawed("criu does not work here", *tcp)
    like(why, "machine: .", "it says why")
    flows("criu does not work here")
    ok(os.environ.get("CRICKET_TEST_CRIU") != "works", "criu may fail here")
    skip("criu does not work here: " + why.split("machine: ")[-1])
else:
    with tarfile.open(out + "/" + tcp[1] + ".tar") as tar:
        names = tar.getnames()
    ok("checkpoint/inventory.img" in names and "rootfs-diff.tar" in names, "criu: its images")
    is_([frozen(x) for x in tcp], [False] * 2, "criu: nobody stands still")
    flows("criu")
    for part in range(1, 6):
        for name in os.listdir(out):
            os.unlink(out + "/" + name)
        ends = d.log_text().count("op=checkpointp sandbox=")
        error(checkpoint, container_ids=tcp, _timeout=0.2 * part * SLOW)
        wait_until(lambda: d.log_text().count("op=checkpointp sandbox=") > ends, "the worker gives up")
        is_([frozen(x) for x in tcp], [False] * 2, "criu, called off (%d): nobody stands still" % part)
        flows("criu, called off (%d)" % part)
    for name in os.listdir(out):
        os.unlink(out + "/" + name)
    for image in "pstree.img", "inventory.img":    # the first and the last that it writes
        future = checkpoint(_future=True, container_ids=tcp, _timeout=LIMIT * 5)
        wait_until(lambda: future.done() or os.path.exists("%s/.partial/%s/checkpoint/%s" % (out, tcp[1], image)), "criu")
        for worker in workers():
            os.kill(worker, signal.SIGKILL)
        future.exception()
        is_([frozen(x) for x in tcp], [False] * 2, "criu, its worker killed: nobody stands still")
        for name in os.listdir(out):
            os.unlink(out + "/" + name)
        is_(d.sh(tcp[1], "echo alive"), (b"alive\n", b"", 0), "criu, its worker killed: the container lives")
d.sh(tcp[0], "touch /end")
is_(beside.result().stdout, b"ended\n", "an exec goes on, too")
d.remove(pod)
finish(d)
