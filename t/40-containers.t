#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Containers: create, start, exit codes and reasons, what the process gets, remove; what is refused and when."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon()
pod = d.runp("p", pid=pb.POD)
status_of = d.status

# --- one life
config = d.ctr_config("one", d.image, ["sh", "-c", "echo out; echo err >&2; exec sleep 1000000"],
                      labels={"l": "1"}, annotations={"io.kubernetes.container.hash": "abc"})
ctr = d.create(pod, config=config)
like(ctr, "^[0-9a-f]{64}$", "the id is 64 hex digits")
s = d.status(ctr)
is_((s.state, s.started_at, s.finished_at, s.exit_code, s.reason), (CREATED, 0, 0, 0, ""), "CREATED")
ok(s.created_at > 0, "created_at")
is_((s.metadata.name, s.metadata.attempt), ("one", 0), "metadata")
is_((dict(s.labels), dict(s.annotations)), ({"l": "1"}, {"io.kubernetes.container.hash": "abc"}), "labels, annotations")
ok(s.image.image and s.image_ref and s.image_id.startswith("sha256:"), "image fields are set")
is_(s.stop_signal, pb.SIGNAL_SIGTERM, "the stop signal is SIGTERM when nothing says otherwise")
is_((s.user.linux.uid, s.user.linux.gid), (0, 0), "the user is known before the start")
is_(d.create(pod, config=config), ctr, "creating it again: the existing one")
another = pb.ContainerConfig()
another.CopyFrom(config)
another.labels["l"] = "2"
fails(d.CreateContainer, "ALREADY_EXISTS", "one", "same name, another config: AlreadyExists", pod_sandbox_id=pod,
      config=another)
d.StartContainer(container_id=ctr[:13])
s = d.status(ctr)
is_((s.state, s.finished_at, s.exit_code), (RUNNING, 0, 0), "RUNNING")
ok(s.started_at >= s.created_at, "started_at")
ok(os.path.isabs(s.log_path) and os.path.exists(s.log_path), "log_path is absolute, and there")
fails(d.StartContainer, "FAILED_PRECONDITION", ctr[:8], "starting it again is refused", container_id=ctr)
listed = d.ListContainers().containers
is_([(c.id, c.state, c.pod_sandbox_id, c.image.image) for c in listed], [(ctr, RUNNING, pod, d.image)], "listed")
is_(listed[0].image_id, s.image_id, "the list has the image's id")
i = d.info(ctr)
ok(i["pid"] > 0 and i["sandboxID"] == pod, "verbose info: pid, sandboxID")
ok("config" in i and "runtimeSpec" in i, "verbose info: config, runtimeSpec")

# --- filters
ctr2 = d.create(pod, "two", command=["true"], labels={"l": "2", "m": "x"})
pod2 = d.runp("p2", net=False)
ctr3 = d.create(pod2, "one", command=["true"])

def ids(**f):
    return sorted(c.id for c in d.ListContainers(filter=f).containers)

is_(ids(), sorted([ctr, ctr2, ctr3]), "filter: empty means all")
is_(ids(id=ctr2[:12]), [ctr2], "filter: id prefix")
is_(ids(pod_sandbox_id=pod[:12]), sorted([ctr, ctr2]), "filter: pod prefix")
is_(ids(pod_sandbox_id=pod, state={"state": RUNNING}), [ctr], "filter: pod and state")
is_(ids(state={"state": CREATED}), sorted([ctr2, ctr3]), "filter: CREATED")
is_(ids(label_selector={"m": "x"}), [ctr2], "filter: label")
is_(ids(label_selector={"l": "1", "m": "x"}), [], "filter: labels are ANDed")
is_(ids(id=ctr, pod_sandbox_id=pod2), [], "filter: id and pod are ANDed")
got = []
for part in d.StreamContainers(filter={"pod_sandbox_id": pod}):
    got += [c.id for c in part.containers]
is_(sorted(got), sorted([ctr, ctr2]), "StreamContainers")

# --- exits
def ends(name, command, code, reason, **fields):
    status, _ = d.run(pod, name, command, **fields)
    return is_((status.state, status.exit_code, status.reason), (EXITED, code, reason), name) and \
        ok(status.finished_at >= status.started_at > 0, name + ": times")

ends("exit 0", ["true"], 0, "Completed")
ends("exit 1", ["false"], 1, "Error")
ends("exit 255", ["sh", "-c", "exit 255"], 255, "Error")
ends("killed by SIGKILL", ["sh", "-c", "kill -9 $$; sleep 1000"], 137, "Error", pid=pb.POD)
ends("killed by SIGSEGV", ["sh", "-c", "kill -11 $$; sleep 1000"], 139, "Error", pid=pb.POD)
ends("killed by SIGTERM", ["sh", "-c", "kill -15 $$; sleep 1000"], 143, "Error", pid=pb.POD)

# --- a start that fails
def start_fails(name, pattern, **fields):
    c = d.create(pod, name, **fields)
    fails(d.StartContainer, "UNKNOWN|INVALID_ARGUMENT|NOT_FOUND|INTERNAL", pattern, name + ": refused with the reason",
          container_id=c)
    st = d.status(c)
    is_((st.state, st.exit_code, st.reason, st.started_at), (EXITED, 128, "StartError", 0), name + ": EXITED with 128")
    ok(st.finished_at > 0 and st.message, name + ": finished_at, message")
    is_(st.message.count("start container"), 1, name + ": which says once what was being done")
    like(d.log_text(), "level=error op=start id=%s .*(%s)" % (c, pattern), name + ": the daemon's log has it too")
    if st.log_path:
        ok(os.path.exists(st.log_path), name + ": the log file is there")
    fails(d.StartContainer, "FAILED_PRECONDITION", "", name + ": cannot be started again", container_id=c)
    d.RemoveContainer(container_id=c)

start_fails("no such program", "No such file or directory|not found", command=["/no/such/program"])
start_fails("no such program in PATH", "nosuchprogram", command=["nosuchprogram"])
start_fails("a directory", "[Pp]ermission denied|[Ii]s a directory", command=["/etc"])
start_fails("not executable", "[Pp]ermission denied", command=["/etc/passwd"])

# --- argv, env, cwd, user
base = busybox_layer()
image = d.pull(Image([base, Layer().file("entry", "#!/bin/sh\necho entry \"$@\"\nenv | sort\npwd\nid\n", 0o755)],
                     {"Entrypoint": ["/entry"], "Cmd": ["cmd1", "cmd2"], "Env": ["PATH=/bin", "A=image", "B=image"],
                      "WorkingDir": "/made/for/you", "User": "alice"}), "test/entry")

def output(name, **fields):
    st, _ = d.run(pod, name, fields.pop("command", ()), image, **fields)
    return d.log_bytes(st.log_path).decode("utf-8", "replace").splitlines()

lines = output("image defaults")
is_(lines[0], "entry cmd1 cmd2", "Entrypoint and Cmd of the image")
ok("A=image" in lines and "B=image" in lines and "PATH=/bin" in lines, "Env of the image")
ok("HOME=/home/alice" in lines, "HOME of the user", *lines)
ok(any(x.startswith("HOSTNAME=p") for x in lines), "HOSTNAME")
ok("/made/for/you" in lines, "WorkingDir is made")
def who(text):
    head, _, groups = text.partition(" groups=")
    return head, sorted(groups.split(","))


is_(who(lines[-1]), ("uid=1000(alice) gid=1000(alice)", ["1000(alice)", "29(audio)", "44(video)"]), "User of the image, its groups")
lines = output("args", args=["x", "y z"], envs=[{"key": "B", "value": b"request"}, {"key": "C", "value": b"a=b"},
                                              {"key": "RAW", "value": b"\xff\xfe"}], working_dir="/tmp")
is_(lines[0], "entry x y z", "args replace Cmd")
ok("B=request" in lines and "A=image" in lines and "C=a=b" in lines, "envs win over the image's")
ok("/tmp" in lines, "working_dir")
lines = output("command", command=["/bin/echo"], args=["only"])
is_(lines, ["only"], "command replaces Entrypoint and Cmd")
lines = output("user by number", command=["id"], security={"run_as_user": {"value": 4242}})
is_(lines, ["uid=4242 gid=0(root) groups=0(root)"], "run_as_user: a number that passwd does not know")
lines = output("user by name", command=["id"], security={"run_as_username": "www-data", "supplemental_groups": [77]})
is_(lines, ["uid=33(www-data) gid=33(www-data) groups=33(www-data),77"], "run_as_username, supplemental_groups")
lines = output("group", command=["id"], security={"run_as_user": {"value": 1000}, "run_as_group": {"value": 5}})
like(lines[0], r"uid=1000\(alice\) gid=5 groups=.*29\(audio\)", "run_as_group; groups of the user are merged")
lines = output("strict groups", command=["id"], security={
    "run_as_user": {"value": 1000}, "supplemental_groups": [77], "supplemental_groups_policy": pb.Strict})
is_(who(lines[0]), ("uid=1000(alice) gid=1000(alice)", ["1000(alice)", "77"]), "supplemental groups: strict")

# --- refused at create
def refused(name, pattern, code="INVALID_ARGUMENT", image_name=None, **fields):
    cfg = d.ctr_config(fields.pop("name", "refused"), image_name or d.image, fields.pop("command", ["true"]), **fields)
    got = error(d.CreateContainer, pod_sandbox_id=pod, config=cfg)
    ok(got[0] in code.split("|") and re.search(pattern, str(got[1])), "refused: " + name, "got %s %s" % got)
    if got[0] == "OK":
        d.RemoveContainer(container_id=got[1].container_id)

before = ids()
refused("an image that is not there", "nosuch", "NOT_FOUND", image_name="nosuch:latest")
fails(d.CreateContainer, "NOT_FOUND", "0000", "refused: a pod that is not there", pod_sandbox_id="0" * 64,
      config=d.ctr_config("x", command=["true"]))
fails(d.CreateContainer, "INVALID_ARGUMENT", "", "refused: no config", pod_sandbox_id=pod)
refused("no name", "name", metadata={"name": ""})
refused("no command", "command", command=[], image_name=d.pull(Image([base], {"Cmd": []}), "test/nocmd"))
refused("an unknown user name", "nobodyknows", "INVALID_ARGUMENT|UNKNOWN|NOT_FOUND", security={"run_as_username": "nobodyknows"})
refused("a group without a user", "group", security={"run_as_group": {"value": 5}})
refused("an unknown capability", "CAP_NOSUCH|NOSUCH", security={"capabilities": {"add_capabilities": ["NOSUCH"]}})
refused("a privileged container in a pod that is not", "privileged", "INVALID_ARGUMENT|UNKNOWN|FAILED_PRECONDITION",
        security={"privileged": True})
refused("a relative mount", "", mounts=[{"container_path": "relative", "host_path": "/tmp"}])
refused("a mount of what is not there", "/no/such/path", "INVALID_ARGUMENT|UNKNOWN|NOT_FOUND",
        mounts=[{"container_path": "/x", "host_path": "/no/such/path"}])
refused("an env key with =", "", envs=[{"key": "a=b", "value": b"c"}])
refused("an empty env key", "", envs=[{"key": "", "value": b"c"}])
refused("NUL in an env value", "", envs=[{"key": "a", "value": b"c\0d"}])
refused("a log path that climbs", "log", log_path="../../etc/passwd")
refused("an unknown pid mode", "", pid=9)
refused("a device that is none", "", "INVALID_ARGUMENT|UNKNOWN", devices=[{"container_path": "/dev/x", "host_path": "/etc/passwd"}])
refused("a CDI device that nobody knows", "vendor", "INVALID_ARGUMENT|UNKNOWN|NOT_FOUND|UNIMPLEMENTED",
        CDI_devices=[{"name": "vendor.com/class=dev"}])
refused("a seccomp profile that is not there", "nosuch.json", "INVALID_ARGUMENT|UNKNOWN|NOT_FOUND",
        security={"seccomp": {"profile_type": pb.SecurityProfile.Localhost, "localhost_ref": "/nosuch.json"}})
refused("a stop signal out of range", "signal", stop_signal=99)
is_(ids(), before, "nothing of them is left")

# --- the removal
pid = d.pid_of(ctr)


def huge_pages(p):
    with open("/proc/%s/status" % p) as f:
        return re.search(r"^THP_enabled:\t(\d)$", f.read(), re.M)


if huge_pages("self") and huge_pages("self")[1] == "1":
    is_([huge_pages(p)[1] for p in (d.pid, pid)], ["0", "1"], "transparent huge pages: not for the daemon, for containers as ever")
else:
    skip("no transparent huge pages here")


def slice_of(p):
    """ns: struct sched_attr, sched_runtime; 0 where the kernel (before 6.12) has one for all."""
    attr = ctypes.create_string_buffer(48)
    syscall = {"x86_64": 315, "aarch64": 275}.get(os.uname().machine)
    if not syscall or libc.syscall(syscall, int(p), attr, len(attr), 0) < 0:
        return 0
    return int.from_bytes(attr.raw[24:32], "little")


if slice_of(os.getpid()):
    is_([slice_of(p) == slice_of(os.getpid()) for p in (d.pid, d.supervisor(pod), pid)], [False, True, True],
        "time slices: short ones for the daemon, for containers as ever")
    ok(0 < slice_of(d.pid) < slice_of(os.getpid()), "%d ns" % slice_of(d.pid))
else:
    skip("no time slices of one's own before Linux 6.12")
d.RemoveContainer(container_id=ctr)
ok(not os.path.exists("/proc/%d" % pid), "RemoveContainer kills what runs")
fails(d.ContainerStatus, "NOT_FOUND", ctr[:8], "removed: not found", container_id=ctr)
d.RemoveContainer(container_id=ctr)
d.RemoveContainer(container_id="0" * 64)
d.StopContainer(container_id="0" * 64)
ok(True, "removing twice, removing and stopping what is not there: no error")
ok(os.path.exists(s.log_path), "the log file stays")
d.StopContainer(container_id=ctr2)
is_(d.status(ctr2).state, CREATED, "stopping what was never started leaves it CREATED")
c = d.start(pod, "raced")
futures = [d.RemoveContainer(_future=True, container_id=c) for _ in range(3)]
for f in futures:
    f.result()
ok(True, "three removals at once")
d.StartContainer(container_id=ctr3)
d.wait_exit(ctr3)
d.RemoveContainer(container_id=ctr3)
ok(True, "an exited one can be removed")

# --- the places of mounts
def written(ctr):
    """What a start has put into the writable layer."""
    top = "%s/containers/%s/upper" % (d.root, ctr)
    return sorted(os.path.relpath(os.path.join(w, n), top) for w, dirs, names in os.walk(top) for n in dirs + names)

def places(name, layers, want):
    c = d.start(pod, name, d.pull(Image(layers), "test/" + name.replace(" ", "-")))
    is_(written(c), want, "mount points, %s: what a start has to make" % name)
    is_(d.sh(c, "cat /etc/hostname; grep -c ^127.0.0.1 /etc/hosts; test -c /dev/null && ls -d /proc/1 /sys/kernel")[0].decode(),
        "p\n1\n/proc/1\n/sys/kernel\n", "mount points, %s: all are mounted" % name)
    d.RemoveContainer(container_id=c)

bare = Layer()
with open(busybox(), "rb") as f:
    bare.file("bin/busybox", f.read(), 0o755)
for applet in ("sh", "sleep", "cat", "grep", "test", "ls"):
    bare.hard("bin/" + applet, "bin/busybox")
places("none in the image", [bare], [])
places("in the image", [busybox_layer(), Layer().file("etc/hosts", "x")], [])
places("taken out of it", [busybox_layer(), Layer().file("etc/hosts", "x"), Layer().whiteout("etc/hosts")], ["etc", "etc/hosts"])
places("behind a link", [busybox_layer(), Layer().dir("usr/etc").link("etc", "usr/etc")],
       ["usr", "usr/etc", "usr/etc/hostname", "usr/etc/hosts", "usr/etc/resolv.conf"])

# --- many at once
futures = [d.CreateContainer(_future=True, pod_sandbox_id=pod, config=d.ctr_config("par%d" % i, command=["sh", "-c", "exit %d" % i]))
           for i in range(15)]
many = [f.result().container_id for f in futures]
for f in [d.StartContainer(_future=True, container_id=c) for c in many]:
    f.result()
is_([d.wait_exit(c).exit_code for c in many], list(range(15)), "fifteen at once end with their own code")
stamps = [d.status(c).created_at for c in many]
is_(len(set(stamps)), 15, "and have fifteen different created_at")

d.remove_all()
finish(d)
