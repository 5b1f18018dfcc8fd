#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""RuntimeClass handlers that name an OCI runtime: it launches, and everything else is as with the native launcher.

With crun; with another one: t/48-oci.t runc."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

name = sys.argv[1] if len(sys.argv) > 1 else "crun"
need(name)
MB = 1 << 20
d = Daemon(config={"runtimes": {name: {"path": shutil.which(name)}, "gone": {"path": "/nonexistent/runtime"},
                                "folder": {"path": "/usr"}, "fast": {}}})


def state_of(pod, *more):
    return os.path.join(d.state, "pods", pod, "oci", *more)


def known(pod):
    """The containers that the runtime knows."""
    return sorted(os.listdir(state_of(pod, "r")))


# --- handlers
handlers = {h.name: h.features for h in d.Status().runtime_handlers}
is_(sorted(handlers), sorted(["", "cricket", "fast", "folder", "gone", name]), "Status lists the handlers")
userns = handlers[""].user_namespaces
is_(handlers[name].user_namespaces, userns, "user namespaces are the sandbox's")
is_(handlers["fast"].user_namespaces, handlers[""].user_namespaces, "another name of the native launcher has what that has")
fails(d.RunPodSandbox, "INVALID_ARGUMENT", "other", "an unknown handler is refused", config=d.pod_config(),
      runtime_handler="other")
fails(d.RunPodSandbox, "FAILED_PRECONDITION", "gone.*/nonexistent/runtime.*No such file", "a runtime that is not there",
      config=d.pod_config(), runtime_handler="gone")
fails(d.RunPodSandbox, "FAILED_PRECONDITION", "/usr.*no program", "a runtime that is no program", config=d.pod_config(),
      runtime_handler="folder")
is_(len(d.ListPodSandbox().items), 0, "nothing is left of what was refused")

# --- run
pod = d.runp("p", handler=name, pid=pb.POD)
is_(d.pod_status(pod).runtime_handler, name, "the sandbox has its handler")
data = d.tmp + "/data"
os.mkdir(data)
with open(data + "/file", "w") as f:
    f.write("from the host\n")
s, log = d.run(pod, "one", ["sh", "-c", "echo out; echo err >&2; exit 3"])
is_((s.exit_code, s.reason), (3, "Error"), "exit code")
is_(sorted(log), [("stderr", "F", b"err"), ("stdout", "F", b"out")], "log")
ok(s.finished_at >= s.started_at > 0, "times")
for code in (0, 1, 255):
    is_(d.run(pod, "exit-%d" % code, ["sh", "-c", "exit %d" % code])[0].exit_code, code, "exit %d" % code)
s, _ = d.run(pod, "killed", ["sh", "-c", "kill -9 $$; sleep 1000"], pid=pb.POD)
is_((s.exit_code, s.reason), (137, "Error"), "killed by a signal: 137")
is_(d.run(pod, "own", ["sh", "-c", "echo $$"], pid=pb.CONTAINER)[1][0][2], b"1", "a PID namespace of its own")
wait_until(lambda: not known(pod), "the runtime forgets what has ended")
ok(True, "the runtime forgets what has ended")

# --- what it gets
main = d.start(pod, "main", envs=[{"key": "WHO", "value": b"main"}], working_dir="/tmp", pid=pb.POD,
               mounts=[{"host_path": data, "container_path": "/rw"},
                       {"host_path": data, "container_path": "/ro", "readonly": True},
                       {"host_path": data + "/file", "container_path": "/etc/one"}],
               resources={"memory_limit_in_bytes": 64 * MB, "cpu_shares": 512},
               security={"supplemental_groups": [77], "seccomp": {"profile_type": pb.SecurityProfile.RuntimeDefault},
                         "capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]},
                         "no_new_privs": True, "masked_paths": ["/proc/kcore"], "readonly_paths": ["/proc/sys"]})
native = d.start(d.runp("native", pid=pb.POD), "main", pid=pb.POD,
                 security={"supplemental_groups": [77], "seccomp": {"profile_type": pb.SecurityProfile.RuntimeDefault},
                           "capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]},
                           "no_new_privs": True})
status = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/%s/status"
pid = d.pid_of(main)


def proc_status(p):
    with open("/proc/%d/status" % p) as f:
        return [x for x in f if re.match("Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups", x)]


is_(proc_status(pid), proc_status(d.pid_of(native)), "rights, user, groups and filter are those of a native launch")
is_(d.exec(main, "sh", "-c", status % "self")[0].decode().splitlines(True), proc_status(pid), "and so are those of an exec")
with open("/proc/%d/cgroup" % pid) as f:
    ok(all(x.strip().endswith("%s/%s" % (d.cgroup, main)) for x in f if d.cgroup in x), "its cgroup")
for ns in ("net", "ipc", "uts", "pid"):
    is_(os.readlink("/proc/%d/ns/%s" % (pid, ns)),
        os.readlink("/proc/%d/ns/%s" % (d.pid_of(d.start(pod, "ns-" + ns, pid=pb.POD)), ns)), "the pod's %s namespace" % ns)
is_(d.sh(main, "echo $WHO; pwd; hostname; cat /rw/file /etc/one")[0], b"main\n/tmp\np\nfrom the host\nfrom the host\n",
    "environment, directory, host name, mounts")
is_(d.sh(main, "echo x >/rw/new && ! echo x >/ro/other 2>/dev/null && echo fine")[0], b"fine\n", "read-only is read-only")
ok(os.path.exists(data + "/new") and not os.path.exists(data + "/other"), "on the host too")
ok(d.sh(main, "! echo 1 >/proc/sys/kernel/domainname 2>/dev/null && head -c 1 /proc/kcore | wc -c")[0].strip() == b"0",
   "masked and read-only paths")
is_(d.sh(main, "mount -t tmpfs x /mnt 2>/dev/null; echo $?")[0] != b"0\n", True, "the seccomp profile and capabilities hold")
roots = [d.run(pod, "root-%d" % i, ["sh", "-c", "touch /x && echo written"], security={"readonly_rootfs": bool(i)})
         for i in (0, 1)]
is_([(s.exit_code, bool(e)) for s, e in roots][0], (0, True), "the root can be written")
ok(roots[1][0].exit_code != 0, "or not")
with open("/proc/self/mountinfo") as f:
    ok(state_of(pod) not in f.read(), "nothing is mounted on the host")

# --- exec
is_(d.sh(main, "echo out; echo err >&2; exit 3"), (b"out\n", b"err\n", 3), "exec: streams and code")
is_(d.sh(main, "kill -9 $$"), (b"", b"", 137), "exec: killed by a signal")
is_(d.exec(main, "cat"), (b"", b"", 0), "exec: stdin is at its end")
got = [f.result() for f in [d.ExecSync(_future=True, container_id=main, cmd=["sh", "-c", "echo %d; exit %d" % (i, i)])
                            for i in range(12)]]
is_([(g.stdout, g.exit_code) for g in got], [(b"%d\n" % i, i) for i in range(12)], "exec: many at once")
fails(d.ExecSync, "UNKNOWN|NOT_FOUND|INVALID_ARGUMENT|INTERNAL", "/no/such.*[Nn]o such file", "exec: the runtime's own words",
      container_id=main, cmd=["/no/such"])


def running(what):
    return [x for x in d.sh(main, "ps")[0].decode().splitlines() if what in x and "grep" not in x]


fails(d.ExecSync, "DEADLINE_EXCEEDED", "", "exec: a timeout", container_id=main, timeout=1,
      cmd=["sh", "-c", "sleep 7771 & setsid sleep 7773 & (setsid sleep 7774 &); (setsid sh -c 'sleep 7775 & sleep 7776' &); sleep 7772"])
wait_until(lambda: not running("sleep 777"), "all that the exec started is killed")
ok(True, "nothing is left of it, of what left its session and parent neither")
d.sh(main, "(setsid sleep 7761 >/dev/null 2>&1 &)")
fails(d.ExecSync, "DEADLINE_EXCEEDED", "", "exec: another timeout", container_id=main, timeout=1, cmd=["sleep", "7779"])
wait_until(lambda: not running("sleep 777"), "it is killed")
ok(running("sleep 7761"), "what an exec left behind that ended in time is not another one's")
side = Client(d.socket)               # gRPC's C core may end its connection with a cancel that comes so soon (ARCHITECTURE.md)
f = side.ExecSync(_future=True, container_id=main, cmd=["sleep", "7781"])
f.cancel()
wait_until(lambda: not running("sleep 7781"), "an exec that is cancelled at once does not run on")
ok(True, "exec: cancelled")
side.close()

# --- start errors
c = d.create(pod, "no-program", command=["/no/such"])
fails(d.StartContainer, "UNKNOWN|NOT_FOUND|INVALID_ARGUMENT|INTERNAL", name + " create: .*/no/such.*[Nn]o such file",
      "a missing executable: the runtime's own words", container_id=c)
s = d.status(c)
is_((s.state, s.exit_code, s.reason), (EXITED, 128, "StartError"), "EXITED with 128")
ok("/no/such" in s.message, "and its message")
ok(c not in known(pod), "the runtime has forgotten it")

# --- terminal, stdin
s, log = d.run(pod, "tty", ["sh", "-c", "tty; test -t 0 -a -t 1 -a -t 2 && echo terminal"], tty=True)
is_(s.exit_code, 0, "tty: exit code")
ok(re.match(rb"/dev/(pts/\d+|console)\r?", log[0][2]) and log[1][2].startswith(b"terminal"), "tty: it is one", *log)
c = d.start(pod, "cat", command=["cat"], stdin=True)
is_(d.status(c).state, RUNNING, "stdin is held open")
fd = os.readlink("/proc/%d/fd/0" % d.pid_of(c))
ok(fd.startswith("pipe:"), "stdin is a pipe", fd)
d.StopContainer(container_id=c, timeout=0)

# --- stop
c = d.start(pod, "stop", command=["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done"])
wait_until(lambda: d.log_bytes(d.status(c).log_path), "the trap is set")
d.StopContainer(container_id=c, timeout=30)
s = d.status(c)
is_((s.state, s.exit_code), (EXITED, 7), "stop: the stop signal comes")
ok(b"bye" in d.log_bytes(s.log_path), "stop: its last words")
c = d.start(pod, "stop-kill")
d.StopContainer(container_id=c, timeout=0)
is_(d.status(c).exit_code, 137, "stop: killed")

# --- resources, stats
with open(cgroup_file("memory", d.cgroup + "/" + main, "memory.max" if cgroup_is_v2() else "memory.limit_in_bytes")) as f:
    is_(int(f.read()), 64 * MB, "memory limit")
d.UpdateContainerResources(container_id=main, linux={"memory_limit_in_bytes": 96 * MB})
with open(cgroup_file("memory", d.cgroup + "/" + main, "memory.max" if cgroup_is_v2() else "memory.limit_in_bytes")) as f:
    is_(int(f.read()), 96 * MB, "updated")
stats = d.ContainerStats(container_id=main).stats
ok(stats.memory.working_set_bytes.value > 0 and stats.cpu.usage_core_nano_seconds.value > 0, "stats", stats)
s, _ = d.run(pod, "oom", ["sh", "-c", "x=a; while :; do x=$x$x; done"],
             resources={"memory_limit_in_bytes": 16 * MB, "memory_swap_limit_in_bytes": 16 * MB})
is_((s.exit_code, s.reason), (137, "OOMKilled"), "OOMKilled")

# --- the daemon is killed
fifo = d.tmp + "/fifo"
os.mkfifo(fifo, 0o666)
meanwhile = d.start(pod, "meanwhile", command=["sh", "-c", "cat /go/fifo; echo last words; exit 42"],
                    mounts=[{"host_path": d.tmp, "container_path": "/go", "readonly": True}])
gone = d.pid_of(meanwhile)
d.kill_daemon()
ok(os.path.exists("/proc/%d" % pid), "containers survive the daemon")
os.close(os.open(fifo, os.O_RDWR))
wait_until(lambda: (os.close(os.open(fifo, os.O_RDWR)), not os.path.exists("/proc/%d" % gone))[1], "one ends meanwhile")
d.start_daemon()
s = d.wait_exit(meanwhile)
is_(s.exit_code, 42, "its exit code is known")
is_(d.log_bytes(s.log_path), b"last words\n", "and its last words")
is_((d.status(main).state, d.pid_of(main)), (RUNNING, pid), "the other one runs")
is_(d.sh(main, "echo hi"), (b"hi\n", b"", 0), "exec works")
is_(d.run(pod, "after", ["sh", "-c", "exit 5"])[0].exit_code, 5, "and so does a start")

# --- the supervisor is killed
lost = d.runp("lost", handler=name)
c = d.start(lost, "own")
first = d.pid_of(c)
supervisor = proc_stat(first)[1]
with open("/proc/%d/comm" % supervisor) as f:
    is_(f.read(), "cricket-pod\n", "the container's parent is its pod's supervisor")
os.kill(supervisor, 9)
is_(d.wait_exit(c).exit_code, 255, "without its supervisor a container is over")
wait_until(lambda: proc_over(first), "and its processes are killed")
d.remove(lost)
ok(not os.path.exists(state_of(lost)), "its sandbox can be removed")

# --- user namespaces
null = os.stat("/dev/null")
d.run(pod, "user", ["true"], security={"run_as_user": {"value": 1000}})
BASE, GBASE = 524288, 655360
USERNS = user_namespace(BASE, GBASE)
vol = d.tmp + "/vol"
os.mkdir(vol)
os.chmod(vol, 0o755)
with open(vol + "/file", "w") as f:
    f.write("content\n")
os.chown(vol + "/file", 42, 43)
MAPPED = {"uidMappings": USERNS["uids"], "gidMappings": USERNS["gids"]}
for pid in (pb.POD, pb.CONTAINER) if userns else ():
    what = "a user namespace, %s PID namespace: " % ("the pod's" if pid == pb.POD else "an own")
    p = d.runp("userns%d" % pid, handler=name, pid=pid, userns=USERNS)
    c = d.start(p, "c", command=["sh", "-c", "echo out; touch /made; chown 7:8 /made; exec sleep 1000000"], pid=pid, userns=USERNS,
                security={"masked_paths": ["/proc/timer_list"], "readonly_paths": ["/proc/sys"]}, mounts=[
                    dict(MAPPED, host_path=vol, container_path="/v"),
                    dict(MAPPED, image={"image": d.image}, container_path="/i", readonly=True)])
    wait_until(lambda: d.sh(c, "stat -c %u /made")[0] == b"7\n", "the file")
    is_(d.log_bytes(d.status(c).log_path), b"out\n", what + "its log")
    with open("/proc/%d/status" % d.pid_of(c)) as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f)
    is_((status["Uid"].split(), status["Gid"].split()), ([str(BASE)] * 4, [str(GBASE)] * 4), what + "somebody else on the host")
    o = d.sh(c, "id -u; tr -s ' ' < /proc/self/uid_map; stat -c %u:%g / /bin/sh /etc/hosts /dev/shm /v/file /i/bin/sh; echo hi > /dev/stdout")
    is_(o, (b"0\n 0 524288 65536\n0:0\n0:0\n0:0\n0:0\n42:43\n0:0\nhi\n", b"", 0), what + "root inside, who owns what")
    o = d.sh(c, "touch /v/new%d && stat -c %%u /v/new%d; touch /i/x || touch /proc/sys/x || wc -c < /proc/timer_list; : > /dev/null && echo null; "
             "ls /sys/class/net | tr '\\n' ' '" % (pid, pid))[0]
    is_(o.split(), b"0 0 null eth0 lo".split(), what + "volumes, what is masked, devices, /sys")
    is_(os.stat(vol + "/new%d" % pid).st_uid, 0, what + "a mapped volume takes the container's ids")
    uppers = [os.path.join(w, "made") for w, _, names in os.walk(d.root + "/containers/" + c) if "made" in names]
    is_([(os.stat(u).st_uid, os.stat(u).st_gid) for u in uppers], [(BASE + 7, GBASE + 8)], what + "its root, as the host sees it")
    is_(d.info(c)["runtimeSpec"]["linux"]["uidMappings"], [{"containerID": 0, "hostID": BASE, "size": 65536}], what + "the verbose status")
    d.restart()
    is_(d.sh(c, "id -u")[0], b"0\n", what + "exec after a restart of the daemon")
    d.StopContainer(container_id=c, timeout=0)
    is_(d.status(c).exit_code, 137, what + "stop")
    d.RemoveContainer(container_id=c)
    wait_until(lambda: not known(p), "the runtime forgets it")
    d.remove(p)
    ok(not os.path.exists(state_of(p)), what + "nothing is left of the runtime's state")
if not userns:
    skip("no user namespaces here", 20)
is_((os.stat("/dev/null").st_uid, os.stat("/dev/null").st_gid), (null.st_uid, null.st_gid), "/dev/null stays the host's")

# --- another configuration: nothing is launched by something else
made = d.create(pod, "made", command=["true"])
d.kill_daemon()
del d.config["runtimes"][name]
d.start_daemon()
fails(d.StartContainer, "INVALID_ARGUMENT|FAILED_PRECONDITION|UNKNOWN", name + ".*not configured",
      "a handler that is configured no more starts nothing", container_id=made)
d.StopContainer(container_id=main, timeout=0)
is_(d.status(main).exit_code, 137, "what runs can be stopped")

# --- removal
d.remove_all()
ok(not os.path.exists(state_of(pod)), "nothing is left of the runtime's state")
finish(d)
