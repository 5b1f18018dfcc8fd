#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The records: what was answered survives kill -9, a second daemon is refused, a damaged store does not keep the
daemon from starting, and the daemon itself never maps the durable one."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon(cni=False)
def pod(name):
    return d.runp(name, config=d.pod_config(name, net=False))


def listed():
    return sorted(s.id for s in d.ListPodSandbox().items)


def kept(sandbox):
    """What the last UpdatePodSandboxResources said."""
    info = json.loads(d.PodSandboxStatus(pod_sandbox_id=sandbox, verbose=True).info["info"])
    return int(info.get("resources", {}).get("cpu_shares", info.get("resources", {}).get("cpuShares", 0)))


def mapped():
    with open("/proc/%d/maps" % d.pid) as f:
        return [line.split()[-1] for line in f if line.rstrip().endswith(".mdb")]


# --- a second daemon
p = subprocess.run(d.command(), capture_output=True, text=True, timeout=LIMIT, check=False)
ok(p.returncode > 0 and "'%s' is in use by another cricketd (pid %d" % (d.root, d.pid) in p.stderr,
   "a second daemon of the same root is refused and told who has it", p.returncode, p.stderr)
command = [d.root + "2" if w == d.root else w for w in d.command()]
p = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
ok(p.returncode > 0 and "'%s' is in use by another cricketd (pid %d" % (d.state, d.pid) in p.stderr,
   "one of the same state as well", p.returncode, p.stderr)
is_(d.Version().runtime_name, "cricket", "the first one goes on")

# --- kill -9 between any two answers
a = pod("a")
answered = 0
wrong = []
for i in range(12):
    for k in range(1 + i * 7 % 11):
        answered += 1
        d.UpdatePodSandboxResources(pod_sandbox_id=a, resources={"cpu_shares": answered})
    under_way = d.UpdatePodSandboxResources(_future=True, pod_sandbox_id=a, resources={"cpu_shares": answered + 1})
    d.restart(kill=True)
    got = kept(a)
    if got not in (answered, answered + 1):
        wrong.append((answered, got))
    answered = got
is_(wrong, [], "12 times: what was answered is there after kill -9")
is_(listed(), [a], "and the pod")
is_(d.pod_status(a).state, READY, "is ready")
b = pod("b")
d.restart(kill=True)
is_(listed(), sorted([a, b]), "a pod that was made just before")
d.remove(b)
d.restart(kill=True)
is_(listed(), [a], "a pod that was removed just before")
d.restart(kill=False)
is_(listed(), [a], "an orderly end")
is_(mapped(), [d.state + "/store/data.mdb"], "the daemon maps the run store and not the durable one")

# --- the durable writer goes when it is idle
def writers():
    return proc_find(lambda p: proc_argv(p)[1:4] == ["store", "write", d.root])


c = pod("c")
wait_until(writers, "the durable writer")
wait_until(lambda: not writers(), "the durable writer to go")
ok(True, "the durable writer comes when there is something to write and goes when there is not")
d.remove(c)

# --- damage
is_(d.stop_daemon(), 0, "stop")
data = d.root + "/store/data.mdb"
with open(data, "r+b") as f:
    f.write(os.urandom(3 * 4096))
d.start_daemon()
aside = [n for n in os.listdir(d.root) if n.startswith("store.damaged-")]
is_(len(aside), 1, "a damaged durable store is set aside")
ok("DAMAGED" in d.log_text(), "with a loud message")
is_(listed(), [a], "sandboxes of this boot are not lost with it")
d.UpdatePodSandboxResources(pod_sandbox_id=a, resources={"cpu_shares": 7})
is_(d.stop_daemon(), 0, "stop")
ok(os.path.getsize(data) > 8192, "a new durable store has been written")
run = d.state + "/store/data.mdb"
with open(run, "r+b") as f:
    f.write(os.urandom(2 * 4096))
d.start_daemon()
ok(any(n.startswith("store.damaged-") for n in os.listdir(d.state)), "a damaged run store is set aside as well")
is_(listed(), [a], "and the durable store knows its records")
d.remove(a)
is_(listed(), [], "it can be removed")
finish(d)
