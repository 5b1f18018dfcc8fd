#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A supervisor that hangs while the daemon is restarted: the daemon serves all the same, the pod is shown as it was, what needs
the supervisor is refused with the reason, and when it goes on everything is as before."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403


d = Daemon(config={"supervisor_stall": "1h"})     # 40-silent.t is about the limit
names = ("hangs", "full", "dies", "fine")
pods = {n: d.runp(n) for n in names}
runs = {n: d.start(pods[n], "runs") for n in names}
done = d.start(pods["hangs"], "done", command=["sh", "-c", "exit 9"])
d.wait_exit(done)
created = d.create(pods["hangs"], "created", command=["sh", "-c", "exit 5"])
ends = d.start(pods["hangs"], "ends")
pid, ends_pid = d.pid_of(runs["hangs"]), d.pid_of(ends)
sups = {n: d.supervisor(pods[n]) for n in names}


def everything():
    return (sorted((p.id, p.state) for p in d.ListPodSandbox().items),
            sorted((c.id, c.state) for c in d.ListContainers().containers))


before = everything()
for n in names[:3]:
    freeze(sups[n])
os.kill(ends_pid, signal.SIGKILL)    # nobody sees that for now
d.kill_daemon()
queue = d.fill_queue(pods["full"])
ok(len(queue) < 1000, "one of them takes no more connections")
d.start_daemon()

ok(d.Version(version="v1").runtime_name, "the daemon serves although supervisors hang")
is_(everything(), before, "pods and containers are listed as last known")
is_(d.status(runs["hangs"]).state, RUNNING, "one can be looked at")
is_(d.sh(runs["fine"], "echo hi"), (b"hi\n", b"", 0), "another pod works")
for n in ("hangs", "full"):
    c, p = {"container_id": runs[n]}, {"pod_sandbox_id": pods[n]}
    said = "sandbox %s: its supervisor%s hangs" % (pods[n], r" \(pid %d\)" % sups[n] if n == "hangs" else "")
    for call, what in ((d.StopContainer, dict(c, timeout=0)), (d.RemoveContainer, c), (d.StartContainer, c), (d.ReopenContainerLog, c),
                       (d.ExecSync, dict(c, cmd=["true"])), (d.Exec, dict(c, cmd=["true"], stdout=True)), (d.Attach, dict(c, stdout=True)),
                       (d.StopPodSandbox, p), (d.RemovePodSandbox, p), (d.CreateContainer, dict(p, config=d.ctr_config("new")))):
        fails(call, "UNAVAILABLE", said, "%s: refused while the supervisor hangs" % n, **what)
fails(d.StartContainer, "UNAVAILABLE", "hangs", "a created container cannot be started", container_id=created)
is_(error(d.StopContainer, container_id=done)[0], "OK", "an exited one is stopped all the same")
os.kill(sups["dies"], signal.SIGKILL)
is_(d.wait_exit(runs["dies"]).exit_code, 255, "one that dies instead takes its containers along")
wait_until(lambda: d.pod_status(pods["dies"]).state == NOTREADY, "its pod is NOTREADY")
d.remove(pods["dies"])
ok(True, "and can be removed")
d.restart()
is_(error(d.StopContainer, container_id=runs["hangs"])[0], "UNAVAILABLE", "another start finds it hanging again")

for n in ("hangs", "full"):
    os.kill(sups[n], signal.SIGCONT)
for n in ("hangs", "full"):
    wait_until(lambda: error(d.sh, runs[n], "true")[0] == "OK", "%s: its supervisor answers again" % n)
is_(d.pid_of(runs["hangs"]), pid, "when it goes on the container is the same process")
is_(d.wait_exit(ends).exit_code, 137, "an exit that nobody saw is known")
is_(d.status(done).exit_code, 9, "so is one from before")
d.StartContainer(container_id=created)
is_(d.wait_exit(created).exit_code, 5, "the created container can be started")
is_(d.run(pods["full"], "new", ["echo", "new"])[1], [("stdout", "F", b"new")], "a new one can be made")
d.StopContainer(container_id=runs["hangs"], timeout=0)
is_(d.status(runs["hangs"]).exit_code, 137, "the old one can be stopped")

# --- a connection that fails for a reason of the daemon's own
if shutil.which("strace"):
    d.kill_daemon()
    d.start_daemon(prefix=["strace", "-D", "-qq", "-o", d.tmp + "/accident", "-e", "trace=connect", "-e", "inject=connect:error=ENOMEM:when=1..2"])
    wait_until(lambda: error(d.sh, runs["fine"], "true")[0] == "OK", "a supervisor that could not be connected to is met")
    wait_until(lambda: error(d.sh, runs["full"], "true")[0] == "OK", "the other one too")
    is_(open(d.tmp + "/accident").read().count("INJECTED"), 2, "supervisors that cannot be connected to for want of memory are met later")
    d.restart()
else:
    skip("needs the program strace")

# --- the daemon ends while one still hangs; then nobody knows that one any more
d.remove(pods["full"], pods["fine"])
freeze(sups["hangs"])
d.restart()
is_(d.stop_daemon(), 0, "the daemon ends with 0 while a supervisor hangs")
for s in queue:
    s.close()
for where in (d.state, d.root):
    shutil.rmtree(where + "/store")
d.start_daemon()
ok(d.Version(version="v1").runtime_name, "one that no record names does not keep the daemon from serving either")
ok(os.path.exists("/proc/%d" % sups["hangs"]), "and is left")
os.kill(sups["hangs"], signal.SIGCONT)
d.restart()
wait_until(lambda: reap_orphans() or not os.path.exists("/proc/%d" % sups["hangs"]), "gone")
ok(not os.path.exists("%s/pods/%s" % (d.state, pods["hangs"])), "until a start finds it awake")
for mount, _, _ in cgroup_mounts():
    if os.path.isdir(mount + d.cgroup):
        os.rmdir(mount + d.cgroup)   # the record of who made it went with the store
finish(d)
