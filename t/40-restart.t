#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemon, and a restart: containers go on, their logs lose nothing, exits meanwhile keep their codes."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from spdy import Spdy, Ws, V4  # noqa: E402

d = Daemon()
pod = d.runp("p", labels={"a": "b"}, annotations={"c": "d"})
hostpod = d.runp("host", net=False)
stopped = d.runp("stopped")
d.StopPodSandbox(pod_sandbox_id=stopped)
counter = "i=0; while :; do echo n $i; i=$((i+1)); usleep 1000; done"
runs = d.start(pod, "runs", command=["sh", "-c", counter], labels={"x": "y"})
inhost = d.start(hostpod, "runs")
created = d.create(pod, "created", command=["sh", "-c", "exit 5"])
done = d.start(pod, "done", command=["sh", "-c", "exit 9"])
d.wait_exit(done)
fifo = os.path.join(d.tmp, "fifo")
os.mkfifo(fifo, 0o666)
mount = [{"host_path": d.tmp, "container_path": "/go", "readonly": True}]
# each of them ends, with its own code, when somebody opens the fifo
meanwhile = {code: d.start(pod, "meanwhile-%d" % code, command=["sh", "-c", "cat /go/fifo; echo last words; exit %d" % code],
                           mounts=mount) for code in (0, 1, 42, 255)}
killed = d.start(pod, "killed")


def everything():
    return (sorted(((p.id, p.state, p.created_at, p.metadata.name, dict(p.labels), dict(p.annotations))
                    for p in d.ListPodSandbox().items), key=str),
            sorted(((c.id, c.state, c.created_at, c.metadata.name, c.image.image, c.image_ref, dict(c.labels))
                    for c in d.ListContainers().containers), key=str),
            sorted((i.id, list(i.repo_tags), i.size) for i in d.ListImages().images))


def details(c):
    s = d.status(c)
    return (s.state, s.created_at, s.started_at, s.finished_at, s.exit_code, s.reason, s.log_path, list(s.mounts), s.image_id)


before = everything()
ips = d.pod_status(pod).network.ip
pid, hostpid = d.pid_of(runs), d.pid_of(inhost)
was = {c: details(c) for c in (runs, created, done, inhost)}

# --- a crash, and nothing has happened meanwhile
d.kill_daemon()
ok(os.path.exists("/proc/%d" % pid) and os.path.exists("/proc/%d" % hostpid), "containers survive the daemon's SIGKILL")
d.start_daemon()
is_(everything(), before, "after the restart all objects are as before")
is_({c: details(c) for c in was}, was, "with the same details")
is_(d.pod_status(pod).network.ip, ips, "the pod's address too")
is_([line for line in d.log_text().splitlines() if stopped in line and "level=warn" in line], [],
    "a pod that was stopped before is no news")
is_((d.pid_of(runs), d.pid_of(inhost)), (pid, hostpid), "and the same processes")
is_(d.sh(runs, "echo hi"), (b"hi\n", b"", 0), "exec works")

# --- exits while there is no daemon
d.kill_daemon()


def readers_gone():
    os.close(os.open(fifo, os.O_RDWR))    # lets those go on that wait for a writer
    return subprocess.run(["pgrep", "-f", "cat /go/fifo"], stdout=subprocess.DEVNULL, check=False).returncode == 1


wait_until(readers_gone, "the readers of the fifo have ended")
d.start_daemon()
for code, c in meanwhile.items():
    s = d.wait_exit(c)
    is_((s.exit_code, s.reason), (code, "Completed" if code == 0 else "Error"), "exit %d meanwhile is known" % code)
    ok(s.finished_at >= s.started_at > 0, "with times")
    is_(d.log_bytes(s.log_path), b"last words\n", "its last words are in the log")
ok(os.path.exists("/proc/%d" % pid), "the running one still runs")

# --- the CREATED one can be started, the running one stopped, a new one made
d.StartContainer(container_id=created)
is_(d.wait_exit(created).exit_code, 5, "a CREATED container can be started after the restart")
d.StopContainer(container_id=killed, timeout=0)
is_(d.status(killed).exit_code, 137, "a running one can be stopped")
s, e = d.run(pod, "new", ["echo", "new"])
is_(e, [("stdout", "F", b"new")], "a new one can be made in the old pod")

# --- in the middle of requests
for i in range(5):
    futures = [d.RunPodSandbox(_future=True, config=d.pod_config("mid-%d-%d" % (i, k))) for k in range(3)]
    futures += [d.CreateContainer(_future=True, pod_sandbox_id=pod, config=d.ctr_config("mid-%d-%d" % (i, k), command=["true"]))
                for k in range(3)]
    futures += [d.StopContainer(_future=True, container_id=inhost, timeout=3600)] if i == 4 else []
    if i:
        for f in futures[:i]:
            try:
                f.result()
            except grpc.RpcError:
                pass
    d.kill_daemon()
    d.start_daemon()
states = {p.state for p in d.ListPodSandbox().items if p.metadata.name.startswith("mid-")}
ok(states <= {READY}, "pods that were being made are whole or gone", states)
states = {c.state for c in d.ListContainers().containers if c.metadata.name.startswith("mid-")}
ok(states <= {CREATED}, "so are containers", states)
for p in d.ListPodSandbox().items:
    if p.metadata.name.startswith("mid-"):
        if d.run(p.id, "works", ["true"])[0].exit_code != 0:
            ok(False, "a pod that was being made works")
        d.remove(p.id)

# --- the end of the log
d.StopContainer(container_id=runs, timeout=0)
numbers = [int(x[2].split()[1]) for x in d.log_entries(d.status(runs).log_path) if x[1] == "F"]
ok(len(numbers) > 100, "the running container has gone on writing", len(numbers))
is_(numbers, list(range(len(numbers))), "no line of its log is lost or twice")

# --- an orderly stop
sessions = [(what, d.net.call(make, call(container_id=inhost, stdout=True, **fields).url, protocol))
            for what, call, fields in (("exec", d.Exec, {"cmd": ["sleep", "1000"]}), ("attach", d.Attach, {}))
            for make, protocol in ((Spdy, V4), (Ws, "v4.channel.k8s.io"), (Ws, "v5.channel.k8s.io"))]
for _, c in sessions:
    if isinstance(c, Spdy):
        c.channels = c.streams("error", "stdout")
        c.until(lambda: set(c.channels) <= c.replied)
    else:
        c.message()                  # that it is ready
d.restart(kill=False)
for what, c in sessions:
    word = c.all()
    word = word[0].get(b"\3") if word else c.data.get(c.channels[0])
    status = json.loads(word or b"{}")
    is_((status.get("status"), status.get("reason"), "runtime is ending" in status.get("message", "")), ("Failure", "InternalError", True),
        "a session (%s by %s) ends with a failure" % (what, type(c).__name__))
    c.close()
is_(d.status(inhost).state in (RUNNING, EXITED), True, "after SIGTERM and start the host pod's container is known")
is_(d.pod_status(stopped).state, NOTREADY, "the stopped pod is still stopped")
d.remove_all()
is_((len(d.ListPodSandbox().items), len(d.ListContainers().containers)), (0, 0), "all can be removed")

# --- a supervisor that dies takes its pod along, and nothing else
a, b = d.runp("a"), d.runp("b")
ca, cb = d.start(a), d.start(b)
pa, pb_ = d.pid_of(ca), d.pid_of(cb)
sup = proc_stat(pa)[1]
with open("/proc/%d/comm" % sup) as f:
    like(f.read(), "cricket", "a container's parent is its supervisor")
os.kill(sup, signal.SIGKILL)
s = d.wait_exit(ca)
is_((s.exit_code, s.reason), (255, "Unknown"), "a dead supervisor: 255, Unknown")
wait_until(lambda: d.pod_status(a).state == NOTREADY, "and its pod is NOTREADY")
wait_until(lambda: reap_orphans() or not os.path.exists("/proc/%d" % pa), "gone")
ok(True, "and nothing of it runs")
is_(d.status(cb).state, RUNNING, "the other pod is not touched")
d.remove_all()
finish(d)
