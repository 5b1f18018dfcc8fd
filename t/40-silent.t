#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A supervisor that hangs after the daemon has met it: what it is asked fails with its name, the other pods do not notice, it goes on
where it was when it awakes, and stopping or removing its pod ends it by force."""
import os
import shutil
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

STALL = int(10 * SLOW)
d = Daemon(config={"supervisor_stall": "1h"})     # while pods are made: a network namespace may have to wait for others
names = ("asked", "stopped", "removed", "known", "again", "full", "fine")
pods = {n: d.runp(n) for n in (*names, "empty")}
runs = {n: d.start(pods[n], "runs") for n in names}
sups = {n: d.supervisor(pods[n]) for n in pods}
stops = d.start(pods["asked"], "stops")
stops_pid = d.pid_of(stops)
created = d.create(pods["asked"], "created", command=["sleep", "7654321"])


def hangs(name):
    return r"sandbox %s: its supervisor \(pid %d\) hangs, it has not answered for %d s" % (pods[name], sups[name], STALL)


def refused(future, name, what):
    got = error(future.result)
    ok(got[0] == "UNAVAILABLE" and re.search(hangs(name), str(got[1])), what, got)


def alive(pid):
    reap_orphans()
    return os.path.exists("/proc/%d" % pid)


d.config["supervisor_stall"] = "%ds" % STALL
d.restart()

# --- what is asked of it
freeze(sups["asked"])
c = {"container_id": runs["asked"]}
asked = [("exec", d.ExecSync(_future=True, cmd=["true"], **c)),
         ("exec with a timeout", d.ExecSync(_future=True, cmd=["true"], timeout=2, **c)),
         ("new log file", d.ReopenContainerLog(_future=True, **c)),
         ("start", d.StartContainer(_future=True, container_id=created)),
         ("stop", d.StopContainer(_future=True, container_id=stops, timeout=0))]
is_(d.sh(runs["fine"], "echo hi"), (b"hi\n", b"", 0), "another pod works meanwhile")
for what, future in asked:
    refused(future, "asked", what + ": fails when the supervisor has been silent for long enough")
for call, what in ((d.StopContainer, dict(c, timeout=0)), (d.RemoveContainer, c), (d.ReopenContainerLog, c),
                   (d.ExecSync, dict(c, cmd=["true"])), (d.Exec, dict(c, cmd=["true"], stdout=True)),
                   (d.CreateContainer, dict(pod_sandbox_id=pods["asked"], config=d.ctr_config("new")))):
    fails(call, "UNAVAILABLE", hangs("asked"), "from then on it is refused at once", **what)
is_(d.pod_status(pods["asked"]).state, READY, "the pod is shown as it was")
is_(d.status(runs["asked"]).state, RUNNING, "so is a container")
is_((d.status(created).state, d.status(created).exit_code, d.status(created).reason), (EXITED, 128, "StartError"),
    "one that could not be started is over")
os.kill(sups["asked"], signal.SIGCONT)
wait_until(lambda: error(d.sh, runs["asked"], "true")[0] == "OK", "it answers again")
is_(d.sh(runs["asked"], "echo hi"), (b"hi\n", b"", 0), "when it goes on the pod is as before")
is_(d.wait_exit(stops).exit_code, 137, "what was killed meanwhile is known")
wait_until(lambda: not proc_find(lambda p: "7654321" in proc_argv(p)), "no process of the start that failed")
ok(True, "a start that had failed is not made up for")
is_(d.run(pods["asked"], "another", ["echo", "x"])[1], [("stdout", "F", b"x")], "another one can be started")

# --- the end of such pods
for name in ("known", "stopped", "removed", "empty"):
    freeze(sups[name])
futures = {"known": d.ExecSync(_future=True, container_id=runs["known"], cmd=["true"]),
           "stopped": d.StopPodSandbox(_future=True, pod_sandbox_id=pods["stopped"]),
           "removed": d.RemovePodSandbox(_future=True, pod_sandbox_id=pods["removed"]),
           "empty": d.RemovePodSandbox(_future=True, pod_sandbox_id=pods["empty"])}
refused(futures["known"], "known", "a pod is known to hang")
d.StopPodSandbox(pod_sandbox_id=pods["known"])
ok(True, "it can be stopped")
for name in ("stopped", "removed", "empty"):
    is_(error(futures[name].result)[0], "OK", "%s: a pod of which it turns out meanwhile as well" % name)
for name in ("known", "stopped"):
    is_((d.pod_status(pods[name]).state, d.status(runs[name]).state, d.status(runs[name]).exit_code), (NOTREADY, EXITED, 255),
        "%s: as after a crash of the supervisor" % name)
for name in ("known", "stopped", "removed", "empty"):
    wait_until(lambda: not alive(sups[name]), "the supervisor is gone")
    ok(not os.path.exists("%s/pods/%s/netns" % (d.state, pods[name])), "%s: supervisor and network namespace are gone" % name)
d.RemovePodSandbox(pod_sandbox_id=pods["known"])
d.RemovePodSandbox(pod_sandbox_id=pods["stopped"])
is_(sorted(p.id for p in d.ListPodSandbox().items), sorted(pods[n] for n in ("asked", "again", "full", "fine")), "all of it can be removed")

# --- one that hangs since before the start of the daemon, and one that cannot even be connected to
for name in ("again", "full"):
    freeze(sups[name])
d.kill_daemon()
queue = d.fill_queue(pods["full"])
d.start_daemon()
for name in ("again", "full"):
    wait_until(lambda: error(d.StopPodSandbox, pod_sandbox_id=pods[name])[0] == "OK", "may be stopped")
    is_((d.pod_status(pods[name]).state, d.status(runs[name]).exit_code), (NOTREADY, 255), "%s: stopped by force when the limit is over" % name)
    wait_until(lambda: not alive(sups[name]), "the supervisor is gone")
    d.RemovePodSandbox(pod_sandbox_id=pods[name])
for s in queue:
    s.close()

# --- one that hangs before it has made the pod
d.kill_daemon()
os.mkdir(d.tmp + "/libexec")
os.symlink(BUILD + "/cricket-worker", d.tmp + "/libexec/cricket-worker")
shutil.copy(shutil.which("yes"), d.tmp + "/libexec/cricket-pod")
d.config["libexec_dir"] = d.tmp + "/libexec"
d.start_daemon()
fails(d.RunPodSandbox, "UNAVAILABLE", r"namespaces of the sandbox: sandbox [0-9a-f]{64}: its supervisor \(pid \d+\) hangs", "a new pod is given up",
      config=d.pod_config("never"))
wait_until(lambda: not [c for c in children().values() if c.startswith("cricket-pod ") and "stat" not in c and c.split()[1] not in pods.values()],
           "its supervisor is gone")
is_(sorted(p.id for p in d.ListPodSandbox().items), sorted(pods[n] for n in ("asked", "fine")), "and leaves nothing")
is_(d.sh(runs["fine"], "echo hi"), (b"hi\n", b"", 0), "the others are as they were")
d.remove_all()
finish(d)
