#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemon at any moment, a restart, and then: all that a client was told of is there, in the state it was told,
nothing else is, running containers have noticed nothing, and everything can be removed without a trace. The same for
supervisors and for CNI plugins."""
import os
import random
import sys
import threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from faults import Accident, dead, gone, watch  # noqa: E402

need("root", "strace")
SANITIZED = b"__asan_init" in open(BUILD + "/cricketd", "rb").read()
POINTS = 8 if SANITIZED else 36      # moments of a whole life at which the daemon is killed
ROUNDS = 2 if SANITIZED else 8       # kills with many operations under way
TICKS = "i=0; while :; do echo n $i; i=$((i+1)); usleep 2000; done"

d = Daemon()
base = d.runp("base")
ticks = d.start(base, "ticks", command=["sh", "-c", TICKS])
pid, started = d.pid_of(ticks), d.status(ticks).started_at
GONE = ("UNAVAILABLE", "CANCELLED")
wrong = []


def check(passed, *what):
    if not passed:
        wrong.append(" ".join(str(w) for w in what))


def attempt(fn, **fields):
    """The reply, or None when the daemon died before it came; any other error is a failure of the test."""
    try:
        return fn(**fields)
    except grpc.RpcError as e:
        check(e.code().name in GONE, "unexpected", e.code().name, e.details())
        return None


def undisturbed(where):
    check(d.pid_of(ticks) == pid and d.status(ticks).started_at == started and d.status(ticks).state == RUNNING,
          where, "the running container was disturbed")


def listed():
    return {p.id: p.state for p in d.ListPodSandbox().items}, {c.id: c.state for c in d.ListContainers().containers}


# --- one pod and its containers from beginning to end; the daemon is killed at its n-th system call

class Life:
    """What clients were told, step by step. A step that got no answer may have happened or not."""

    def __init__(self, name):
        self.name = name
        self.pods, self.ctrs = {}, {}          # id: the states in which it may be; None: it may be gone
        self.maybe_pod = self.maybe_ctr = False

    def go(self):
        """True when it came to the end."""
        config = d.pod_config(self.name)
        self.maybe_pod = True
        r = attempt(d.RunPodSandbox, config=config)
        if not r:
            return False
        pod = r.pod_sandbox_id
        self.maybe_pod = False
        self.pods[pod] = {READY}
        ctrs = []
        for name, script in (("a", "exit 7"), ("b", "sleep 100000"), ("c", "sleep 100000")):
            self.maybe_ctr = True
            r = attempt(d.CreateContainer, pod_sandbox_id=pod, config=d.ctr_config(name, command=["sh", "-c", script]))
            if not r:
                return False
            self.maybe_ctr = False
            c = r.container_id
            ctrs.append(c)
            self.ctrs[c] = {CREATED}
            if name == "c":
                break
            end = (EXITED, 7) if name == "a" else RUNNING
            self.ctrs[c] = {CREATED, RUNNING, end, (EXITED, 128)}
            if not attempt(d.StartContainer, container_id=c):
                return False
            self.ctrs[c] = {RUNNING, end}
        a, b, c = ctrs
        r = attempt(d.ExecSync, container_id=b, cmd=["sh", "-c", "echo hi; exit 3"])
        if not r:
            return False
        check((r.stdout, r.exit_code) == (b"hi\n", 3), "exec", r)
        self.ctrs[b] = {RUNNING, (EXITED, 137)}
        if not attempt(d.StopContainer, container_id=b, timeout=0):
            return False
        self.ctrs[b] = {(EXITED, 137)}
        self.ctrs[a].add(None)
        if not attempt(d.RemoveContainer, container_id=a):
            return False
        self.ctrs[a] = {None}
        self.pods[pod].add(NOTREADY)
        if not attempt(d.StopPodSandbox, pod_sandbox_id=pod):
            return False
        self.pods[pod] = {NOTREADY, None}
        self.ctrs[b].add(None)
        self.ctrs[c].add(None)
        if not attempt(d.RemovePodSandbox, pod_sandbox_id=pod):
            return False
        self.pods[pod] = self.ctrs[a] = self.ctrs[b] = self.ctrs[c] = {None}
        return True

    def check(self, where):
        pods, ctrs = listed()
        news = [p for p in pods if p not in self.pods and p != base]
        check(len(news) <= self.maybe_pod, where, "pods that nobody was told of:", news)
        check(all(pods[p] == READY for p in news), where, "a pod whose making was cut off is half there")
        fresh = [c for c in ctrs if c not in self.ctrs and c != ticks]
        check(len(fresh) <= self.maybe_ctr and all(ctrs[c] == CREATED for c in fresh), where, "containers:", fresh)
        for p, may in self.pods.items():
            check(pods.get(p) in may, where, "pod", p, pods.get(p), may)
        for c, may in self.ctrs.items():
            states = {m if not isinstance(m, tuple) else m[0] for m in may}
            check(ctrs.get(c) in states, where, "container", c[:8], ctrs.get(c), may)
            codes = {m[1] for m in may if isinstance(m, tuple)}
            if ctrs.get(c) == EXITED:
                s = d.status(c)
                check(s.exit_code in codes and s.finished_at > 0, where, "exit code", s.exit_code, codes, s.message)
            elif ctrs.get(c) == RUNNING and (EXITED, 7) in may:
                check(d.wait_exit(c).exit_code == 7, where, "a container that goes on loses its code")
        undisturbed(where)
        for p in pods:
            if p != base:
                d.StopPodSandbox(pod_sandbox_id=p)
                d.RemovePodSandbox(pod_sandbox_id=p)


whole = Life("whole")
calls = watch(d, whole.go)
check(whole.pods and all(v == {None} for v in whole.pods.values()), "a whole life under strace")
died = 0
for i in range(POINTS):
    n = 1 + len(calls) * i // POINTS
    life = Life("life-%d" % i)
    name = calls[n - 1]
    with Accident(d, name, "signal=KILL", calls[:n].count(name)):
        finished = life.go()
        if not finished:
            check(gone(d), "life", i, "an RPC was lost, the daemon lives")
    if dead(d):
        died += 1
        d.kill_daemon()
        d.start_daemon()
    life.check("killed at call %d of %d (%s):" % (n, len(calls), calls[n - 1]))
ok(not wrong, "killed at %d moments of a pod's life: all is as clients were told" % died, *wrong)
ok(died >= POINTS * 3 // 4, "it did die", died)
del wrong[:]

# --- many operations under way at once
for seed in range(ROUNDS):
    rnd = random.Random(seed)
    where = "round %d:" % seed
    pods = [d.runp("r%d-%d" % (seed, i), net=i != 1) for i in range(2)]
    ready = {c: d.create(pods[0], "ready-%d" % c, command=["sh", "-c", "exit %d" % c]) for c in (11, 12)}
    runs = [d.start(pods[0], "runs-%d" % i) for i in range(2)]
    tag = "tag%d" % seed
    ref = d.push_image(Image([busybox_layer()], {"Env": ["S=%d" % seed]}),
                       "test/pulled", tag)
    configs = [d.pod_config("new-%d-%d" % (seed, i), net=i != 1) for i in range(3)]
    cconfigs = [d.ctr_config("new-%d-%d" % (seed, i), command=["true"]) for i in range(3)]
    f_run = [d.RunPodSandbox(_future=True, config=c) for c in configs]
    f_create = [d.CreateContainer(_future=True, pod_sandbox_id=pods[0], config=c) for c in cconfigs]
    f_start = {c: d.StartContainer(_future=True, container_id=i) for c, i in ready.items()}
    f_stop = d.StopContainer(_future=True, container_id=runs[0], timeout=0)
    f_rm = d.RemoveContainer(_future=True, container_id=runs[1])
    f_exec = d.ExecSync(_future=True, container_id=ticks, cmd=["sh", "-c", "sleep 0.02; echo hi"])
    f_rmp = d.RemovePodSandbox(_future=True, pod_sandbox_id=pods[1])
    f_pull = d.PullImage(_future=True, image={"image": ref})
    time.sleep(rnd.uniform(0, 0.15))
    d.kill_daemon()
    got = {f: attempt(f.result) for f in [*f_run, *f_create, *f_start.values(), f_stop, f_rm, f_exec, f_rmp, f_pull]}
    d.start_daemon()
    in_pods, in_ctrs = listed()
    told = {got[f].pod_sandbox_id for f in f_run if got[f]}
    check(told | {pods[0], base} <= set(in_pods), where, "a pod is lost")
    check(all(in_pods[p] == READY for p in in_pods if p != pods[1]), where, "a pod is not ready", in_pods)
    check(len(in_pods) <= 2 + 3 + (not got[f_rmp]), where, "too many pods", len(in_pods))
    told = {got[f].container_id for f in f_create if got[f]}
    check(told <= {c for c, s in in_ctrs.items() if s == CREATED}, where, "a created container is lost")
    for code, c in ready.items():
        s = d.wait_exit(c) if in_ctrs.get(c) == RUNNING else d.status(c)
        check(s.state == EXITED and s.exit_code == code if got[f_start[code]] else
              s.state == CREATED or s.exit_code in (code, 128), where, "started", code, s.state, s.exit_code)
    s = d.status(runs[0])
    check(s.state == EXITED and s.exit_code == 137 if got[f_stop] else s.state in (RUNNING, EXITED), where, "stopped", s.state)
    check(not got[f_rm] or runs[1] not in in_ctrs, where, "a removed container is back")
    check(not got[f_rmp] or pods[1] not in in_pods, where, "a removed pod is back")
    check(not got[f_pull] or d.ImageStatus(image={"image": ref}).image.id, where, "a pulled image is lost")
    undisturbed(where)
    # asking again gives what there is, or makes it
    for f, config in zip(f_run, configs):
        p = d.RunPodSandbox(config=config).pod_sandbox_id
        check(not got[f] or p == got[f].pod_sandbox_id, where, "another pod of the same name")
    for f, config in zip(f_create, cconfigs):
        c = d.CreateContainer(pod_sandbox_id=pods[0], config=config).container_id
        check(not got[f] or c == got[f].container_id, where, "another container of the same name")
    d.PullImage(image={"image": ref})
    for p in listed()[0]:
        if p != base:
            d.RemovePodSandbox(pod_sandbox_id=p)
ok(not wrong, "killed %d times with many operations under way" % ROUNDS, *wrong)
del wrong[:]
d.StopContainer(container_id=ticks, timeout=0)
numbers = [int(x[2].split()[1]) for x in d.log_entries(d.status(ticks).log_path) if x[1] == "F"]
is_(numbers, list(range(len(numbers))), "no line of the log of the container that ran through all this is lost or twice")
ok(len(numbers) > 50, "it has written", len(numbers))

# --- supervisors


def kill_supervisor(number):
    os.kill(number, signal.SIGKILL)


for when in ("idle", "exec", "start", "stop", "rm", "stopp", "down"):
    pod = d.runp("sup-" + when)
    c = d.start(pod, "c", command=["sh", "-c", "trap '' TERM; sleep 100000 & wait"])
    other = d.create(pod, "other", command=["sleep", "1000"])
    sup = proc_stat(d.pid_of(c))[1]
    pending = {"exec": lambda: d.ExecSync(_future=True, container_id=c, cmd=["sleep", "1000"]),
               "start": lambda: d.StartContainer(_future=True, container_id=other),
               "stop": lambda: d.StopContainer(_future=True, container_id=c, timeout=3600),
               "rm": lambda: d.RemoveContainer(_future=True, container_id=c),
               "stopp": lambda: d.StopPodSandbox(_future=True, pod_sandbox_id=pod)}.get(when)
    if pending:
        os.kill(sup, signal.SIGSTOP)           # so that it does not answer before it dies
        f = pending()
        d.Version(version="v1")                # on the same connection, behind the request
    if when == "down":
        d.kill_daemon()
    kill_supervisor(sup)
    if when == "down":
        d.start_daemon()
    if pending:
        code = error(f.result)[0]
        check(code in ("OK", "UNKNOWN", "UNAVAILABLE", "FAILED_PRECONDITION"), when, "answer", code)
    if when != "rm":
        s = d.wait_exit(c)
        check((s.exit_code, s.reason) in ((255, "Unknown"), (137, "Error")), when, s.exit_code, s.reason)
        check(s.exit_code == 255 or when == "stopp", when, s.exit_code)
    wait_until(lambda: d.pod_status(pod).state == NOTREADY, "NOTREADY")
    s = d.status(other)
    check(s.state == CREATED or (when == "start" and (s.state, s.exit_code, s.reason) == (EXITED, 128, "StartError")),
          when, "the other container", s.state, s.exit_code)
    check(error(d.StartContainer, container_id=other)[0] == "FAILED_PRECONDITION", when, "start in a dead pod")
    d.StopPodSandbox(pod_sandbox_id=pod)
    d.RemovePodSandbox(pod_sandbox_id=pod)
    check(pod not in listed()[0] and c not in listed()[1], when, "still listed")
ok(not wrong, "supervisors killed: NOTREADY, EXITED, every call answered, all removable", *wrong)
del wrong[:]

# --- a supervisor that dies while it makes its pod, and while the network is made
slow = d.tmp + "/slow"
os.mkdir(slow)
os.mkfifo(slow + "/go")
os.mkfifo(slow + "/never")
with open(slow + "/slow", "w") as f:
    f.write('''#!/bin/sh
echo $CNI_COMMAND $$ >>%s/log
if [ $CNI_COMMAND = ADD ] && [ -e %s/help ]; then env -i setsid sh -c 'echo $$ >%s/helper; read x <%s/never' & fi
if [ $CNI_COMMAND = ADD ] && [ -e %s/wait ]; then read x <%s/go; fi
[ $CNI_COMMAND = ADD ] && cat >/dev/null
if [ -e %s/broken ]; then echo $CNI_COMMAND fails >>%s/log; exit 1; fi
echo $CNI_COMMAND end >>%s/log
[ $CNI_COMMAND = ADD ] && echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.1.1/24"}]}'
exit 0
''' % ((slow,) * 9))
os.chmod(slow + "/slow", 0o755)
e = Daemon(cni={"cniVersion": "1.0.0", "name": "slow", "plugins": [{"type": "slow"}]}, other=d,
           config={"cni": {"bin_dirs": [slow]}, "shutdown": "200ms"})
open(slow + "/wait", "w").close()


def supervisors(daemon):
    with open("/proc/%d/task/%d/children" % (daemon.pid, daemon.pid)) as f:
        pids = f.read().split()
    return [int(p) for p in pids if open("/proc/%s/comm" % p).read() == "cricket-pod\n"]


def release():
    def reader():
        try:
            return os.open(slow + "/go", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None
    go = wait_until(reader, "a plugin that waits")
    os.write(go, b"x\n")
    os.close(go)


def adding():
    with open(slow + "/log") as log:
        words = log.read().split()
    return int(words[-1]) if len(words) > 1 and words[-2] == "ADD" and words[-1] != "end" else None


config = e.pod_config("slow")
f = e.RunPodSandbox(_future=True, config=config)
plugin = wait_until(lambda: os.path.exists(slow + "/log") and adding(), "the plugin runs")
sup = supervisors(e)
is_(len(sup), 1, "one supervisor")
os.kill(sup[0], signal.SIGKILL)
wait_until(lambda: "the supervisor is gone" in e.log_text(), "the daemon has seen it")
release()
got = error(f.result)
ok(got[0] == "UNKNOWN" and "supervisor" in str(got[1]), "a supervisor that dies during ADD: RunPodSandbox fails", got)
is_(e.ListPodSandbox().items[:], [], "no pod")
with open(slow + "/log") as log:
    like(log.read(), r"ADD end\nDEL \d+\nDEL end\n$", "its network is released")

# --- a network that can neither be made nor released now
os.unlink(slow + "/wait")
open(slow + "/broken", "w").close()
fails(e.RunPodSandbox, "UNKNOWN", "slow", "a plugin that does not work", config=e.pod_config("broken"))
is_([p.state for p in e.ListPodSandbox().items], [NOTREADY], "DEL did not either: the pod is kept in sight")
os.unlink(slow + "/broken")
open(slow + "/wait", "w").close()
e.remove_all()
with open(slow + "/log") as log:
    like(log.read(), r"ADD fails\n(DEL \d+\nDEL fails\n)+DEL \d+\nDEL end\n$", "and its network is released with it")

# --- the daemon dies while a plugin runs: that comes to its end, the next start waits for it, and then comes DEL
f = e.RunPodSandbox(_future=True, config=config)
plugin = wait_until(adding, "the plugin runs again")
e.proc.kill()                               # before it notices that its client leaves
e.kill_daemon()
start = threading.Thread(target=e.start_daemon)
start.start()
wait_until(lambda: "waiting for it" in e.log_text(), "the start waits for the plugin")
release()
start.join()
with open(slow + "/log") as log:
    like(log.read(), r"ADD %d\nADD end\nDEL \d+\nDEL end\n$" % plugin, "killed during ADD: it ends, then DEL")
is_(e.ListPodSandbox().items[:], [], "the pod is gone")

# --- one that does not come to its end, and something that it has started and that does not look like it
open(slow + "/help", "w").close()
f = e.RunPodSandbox(_future=True, config=config)
plugin = wait_until(adding, "the plugin runs again")
helper = wait_until(lambda: os.path.exists(slow + "/helper") and int(open(slow + "/helper").read() or 0), "and its helper")
os.unlink(slow + "/help")
e.proc.kill()
e.kill_daemon()
e.config["cni"]["timeout"] = "5s"           # patience
e.start_daemon()
with open(slow + "/log") as log:
    like(log.read(), r"ADD %d\nDEL \d+\nDEL end\n$" % plugin, "killed during an ADD that hangs: DEL all the same")
reap_orphans()
ok(not os.path.exists("/proc/%d" % plugin) and not os.path.exists("/proc/%d" % helper), "its processes were ended before")
is_(e.ListPodSandbox().items[:], [], "the pod is gone")
del e.config["cni"]["timeout"]
is_(e.stop_daemon(), 0, "SIGTERM with nothing under way")
e.start_daemon()
os.unlink(slow + "/wait")
pod = e.runp(config=config)

# --- SIGTERM, and operations of every kind that do not end by themselves
deaf = e.start(pod, "deaf", command=["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
busy = e.start(pod, "busy")
open(slow + "/wait", "w").close()
hole = d.net.call(socket.create_server, ("127.0.0.1", 0))
futures = [e.RunPodSandbox(_future=True, config=e.pod_config("slow2")),
           e.StopContainer(_future=True, container_id=deaf, timeout=3600),
           e.ExecSync(_future=True, container_id=busy, cmd=["sleep", "1000000"]),
           e.PullImage(_future=True, image={"image": "127.0.0.1:%d/nothing/here" % hole.getsockname()[1]})]
events = e.GetContainerEvents()
wait_until(adding, "the plugin runs")
hole.accept()
e.Version(version="v1")
is_(e.stop_daemon(), 0, "SIGTERM with a run, a stop, an exec, a pull and a subscriber under way: ends with 0")
hole.close()
release()                                   # the plugin goes on; its pod is undone by the start
codes = [error(f.result)[0] for f in futures]
ok(set(codes) <= {"UNAVAILABLE", "CANCELLED"}, "their clients are told", codes)
os.unlink(slow + "/wait")
e.start_daemon()
is_([p.id for p in e.ListPodSandbox().items], [pod], "after the start there is what was there before")
is_((e.status(deaf).state, e.status(busy).state), (RUNNING, RUNNING), "containers run")
# a removal does not wait out the grace of a stop
f = e.StopContainer(_future=True, container_id=deaf, timeout=3600)
e.Version(version="v1")
e.RemoveContainer(container_id=deaf)
f.result()
is_([c.id for c in e.ListContainers().containers], [busy], "a removal cuts short the stop before it")
# stops of the pod while its containers are removed, side by side
futures = [e.RemoveContainer(_future=True, container_id=busy), e.StopPodSandbox(_future=True, pod_sandbox_id=pod),
           e.RemovePodSandbox(_future=True, pod_sandbox_id=pod), e.StopPodSandbox(_future=True, pod_sandbox_id=pod),
           e.RemoveContainer(_future=True, container_id=busy)]
is_([error(f.result)[0] for f in futures], ["OK"] * 5, "removals and stops side by side")

# --- cgroup parents that pods share: whoever goes last takes them away, and nothing that others made
made = [m + e.cgroup + "/kubelet" for m, v2, _ in cgroup_mounts() if v2 == cgroup_is_v2()]
for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
    pods = [e.runp(config=e.pod_config(linux={"cgroup_parent": e.cgroup + below})) for below in ("/a/b", "/a", "/a/b/c")]
    for path in made if order[0] == 0 else ():
        os.makedirs(path)
    ctrs = [e.start(p) for p in pods]
    for i in order:
        e.remove(pods[i])
        check(all(e.status(c).state == RUNNING for k, c in enumerate(ctrs) if k not in order[:order.index(i) + 1]), order, i)
    left = sorted(set(os.path.join(w[len(m):], x) for m, v2, _ in cgroup_mounts() if os.path.isdir(m + e.cgroup)
                      for w, ds, _ in os.walk(m + e.cgroup) for x in ds))
    is_(left, [e.cgroup + "/kubelet"] if order[0] == 0 else [], "cgroup parents, removed in the order %s" % (order,))
    for path in made if order[0] == 0 else ():
        os.removedirs(path)
ok(not wrong, "no pod was disturbed by that", *wrong)
e.remove_all()


def parents():
    return [m + e.cgroup for m, v2, _ in cgroup_mounts() if os.path.isdir(m + e.cgroup)]


is_(parents(), [], "with the last pod the parent has gone")
with Accident(e, "clone", "signal=KILL", 1):
    attempt(e.RunPodSandbox, config=e.pod_config("cgroup"))
ok(parents(), "killed when the parent was made and nothing else yet")
e.kill_daemon()
e.start_daemon()
is_((parents(), e.ListPodSandbox().items[:]), ([], []), "neither is left")
d.remove_all()
left = [x for where, _, fs in os.walk(d.tmp + "/ipam") for x in fs if x[0].isdigit()]
is_(left, [], "addresses are given back")
finish(e, d)
