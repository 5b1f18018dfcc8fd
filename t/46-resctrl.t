#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""intelRdt of CDI devices, on a kernel with resctrl (t/74-resctrl.t has one in a virtual machine: 11 bits of L3, 8
classes, bandwidth, monitoring): groups of a container's own and named ones, schemata, monitoring, execs, refusals, who removes what
after which death, an OCI runtime's containers."""
import fcntl
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

need("root")
if os.environ.get("CRICKET_TEST_RESCTRL") != "mine":
    skip_all("no resctrl that tests may change (t/74-resctrl.t brings one)")
crun = shutil.which("crun")
d = Daemon(cni=False, start=False, config={"runtimes": {"crun": {"path": crun}}} if crun else {})
specs = d.tmp + "/cdi"
os.mkdir(specs)
d.config["cdi"] = {"spec_dirs": [specs]}
root = tempfile.mkdtemp(prefix="re sctrl-")      # whoever reads mountinfo has to know of \040
BUILT_IN = {"info", "mon_data", "mon_groups"}
serial = [0]


def device(**rdt):
    serial[0] += 1
    return cdi_device(specs, "d%d" % serial[0], intelRdt=rdt)


def create(pod, *devices, **fields):
    serial[0] += 1
    return d.create(pod, "c%d" % serial[0], command=fields.pop("command", ("sleep", "100000")),
                    CDI_devices=[{"name": n} for n in devices], **fields)


def start(pod, *devices, **fields):
    ctr = create(pod, *devices, **fields)
    d.StartContainer(container_id=ctr)
    return ctr


def refused(pattern, name, *devices, **fields):
    ctr = create(fields.pop("pod", pod), *devices, **fields)
    got = error(d.StartContainer, container_id=ctr)
    like(str(got[1]), pattern, name)
    d.RemoveContainer(container_id=ctr)


def read(*path):
    with open(os.path.join(root, *path)) as f:
        return f.read().strip()


def schemata(group):
    """What is set for the one domain: {"L3": 7, "MB": 2048}."""
    lines = [line.strip().split(":0=") for line in read(group, "schemata").splitlines()]
    return {name: int(value, 16 if name == "L3" else 10) for name, value in lines}


def groups():
    return sorted(n for n in os.listdir(root) if os.path.isdir(os.path.join(root, n)) and n not in BUILT_IN)


def records(pod):
    try:
        return sorted(os.listdir("%s/pods/%s/resctrl" % (d.state, pod)))
    except FileNotFoundError:
        return []


def place(pid="self", ctr=None):
    """(group, monitoring group or "") of a process, or of an exec in a container."""
    if ctr:
        text = d.sh(ctr, "cat /proc/self/cpu_resctrl_groups")[0].decode()
    else:
        with open("/proc/%s/cpu_resctrl_groups" % pid) as f:
            text = f.read()
    return tuple(line.split(":")[1] for line in text.splitlines())


def gone(name):
    wait_until(lambda: name not in groups(), "group %s goes" % name)
    ok(True, "its group goes")


d.start_daemon()
pod = d.runp("p", config=d.pod_config("p", net=False))

# --- none
refused("intelRdt: no resctrl is mounted", "no resctrl is mounted: said so", device(l3CacheSchema="L3:0=f"))
is_(records(pod), [], "nothing was noted down")
subprocess.run(["mount", "-t", "resctrl", "resctrl", root], check=True)

# --- a group of its own
plain = start(pod)
is_(place(d.pid_of(plain)), ("/", ""), "a container without")
is_(groups(), [], "makes no group")
ctr = start(pod, device(l3CacheSchema="L3:0=f", enableMonitoring=True), command=["sh", "-c", "sleep 100000 & wait"])
is_(place(d.pid_of(ctr)), (ctr, ctr), "its first process is in a group with the container's id, and is counted")
is_(groups(), [ctr], "that is the only one")
is_(schemata(ctr), {"L3": 0xf, "MB": 2048}, "its schemata")
tasks = wait_until(lambda: len(read(ctr, "mon_groups", ctr, "tasks").split()) == 2 and read(ctr, "mon_groups", ctr, "tasks").split(),
                   "the first process has started another")
ok(str(d.pid_of(ctr)) in tasks, "what it starts is in there, too", tasks)
is_(place(ctr=ctr), (ctr, ctr), "and so is an exec")
is_(place(d.pid), ("/", ""), "the daemon is not")
is_(len(os.listdir(os.path.join(root, ctr, "mon_groups", ctr, "mon_data"))), 1, "there is something to read")
is_(records(pod), [ctr], "it is noted down")
is_(d.info(ctr)["runtimeSpec"]["linux"]["intelRdt"], {"l3CacheSchema": "L3:0=f", "enableMonitoring": True}, "inspect shows it")
d.StopContainer(container_id=ctr, timeout=0)
gone(ctr)
wait_until(lambda: not records(pod), "the record goes")
ctr = start(pod, device())
is_((place(d.pid_of(ctr)), schemata(ctr)), ((ctr, ""), {"L3": 0x7ff, "MB": 2048}), "an empty intelRdt: a group that is as it comes")
d.RemoveContainer(container_id=ctr)
ok(ctr not in groups(), "removed with the container, before that is said")
ctr = start(pod, device(l3CacheSchema="L3:0=f", schemata=["L3:0=3"], enableCMT=True, enableMBM=True))
is_(schemata(ctr)["L3"], 3, "schemata are written behind l3CacheSchema")
is_(place(ctr=ctr), (ctr, ctr), "enableCMT, enableMBM: a monitoring group")
d.RemoveContainer(container_id=ctr)

ctr = start(pod, device(l3CacheSchema="MB:0=7\nL3:0=f", memBwSchema="MB:0=1000"))
is_(schemata(ctr), {"L3": 0xf, "MB": 1000}, "bandwidth is what memBwSchema says")
d.RemoveContainer(container_id=ctr)

# --- named groups
a = start(pod, device(closID="gold", l3CacheSchema="L3:0=3f"))
b = start(pod, device(closID="gold", l3CacheSchema="L3:0=03F", enableMonitoring=True))
is_((place(d.pid_of(a)), place(d.pid_of(b))), (("gold", ""), ("gold", b)), "two containers in one group, one of them counted")
refused("intelRdt: the group 'gold' is there, with L3:0=0*3f and not L3:0=1f", "one that wants it otherwise is refused",
        device(closID="gold", l3CacheSchema="L3:0=1f"))
is_(schemata("gold")["L3"], 0x3f, "and changes nothing")
c = start(pod, device(closID="gold", memBwSchema="MB:0=2048"))
refused("there, with MB:0= *2048 and not MB:0=5", "nor other bandwidth", device(closID="gold", l3CacheSchema="L3:0=3f", memBwSchema="MB:0=5"))
d.RemoveContainer(container_id=c)
d.RemoveContainer(container_id=b)
is_(os.listdir(os.path.join(root, "gold", "mon_groups")), [], "its monitoring group goes with it")
is_(place(d.pid_of(a)), ("gold", ""), "the group does not")
d.RemoveContainer(container_id=a)
is_(groups(), ["gold"], "nor with the last one: it has a closID")
c = start(pod, device(closID="gold"))
is_(place(ctr=c), ("gold", ""), "a closID alone: of a group that is there")
d.RemoveContainer(container_id=c)
c = start(pod, device(closID="silver"), device(closID="gold", schemata=["L3:0=7"]))
is_((place(ctr=c), schemata("gold")["L3"]), (("gold", ""), 7), "of two devices the last one counts")
os.rmdir(os.path.join(root, "gold"))
is_(place(ctr=c), ("/", ""), "somebody removes the group: an exec is where the container is")
d.RemoveContainer(container_id=c)
refused("intelRdt: there is no group 'silver', and nothing says how to make it", "of one that is not there",
        device(closID="silver"))
c = start(pod, device(closID="/", enableMonitoring=True))
is_(place(ctr=c), ("/", c), "the default group, counted")
d.RemoveContainer(container_id=c)
is_(os.listdir(os.path.join(root, "mon_groups")), [], "nothing of that is left")

# --- the kernel's word
refused(r"intelRdt: write schemata 'L3:0=fff' in resctrl: Invalid argument: Mask out of range", "a schema that the kernel refuses: why",
        device(l3CacheSchema="L3:0=fff"))
refused("Mask out of range", "in a named group", device(closID="bronze", schemata=["L3:0=fff"]))
refused("MB:0=2049.*out of range", "too much bandwidth", device(memBwSchema="MB:0=2049"))
refused("L2:0=1.*Unknown.* resource name", "what this machine does not share out", device(schemata=["L2:0=1"]))
wait_until(lambda: not groups(), "groups of failed starts go")
ok(True, "no group is left of them")
refused("exec|/nope", "a container that cannot be executed", device(l3CacheSchema="L3:0=f"), command=["/nope"])
is_(groups(), [], "leaves no group either")
for i in range(7):
    os.mkdir(os.path.join(root, "mine%d" % i))
refused("intelRdt: make the group.*No space left.*Out of CLOSIDs", "all classes are taken", device())
for i in range(7):
    os.rmdir(os.path.join(root, "mine%d" % i))

# --- the lock
lock = os.open(root, os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
gold = device(l3CacheSchema="L3:0=f")
ctr = create(pod, gold)
future = d.StartContainer(_future=True, container_id=ctr)
ok(d.start(pod, "meanwhile") and not future.done(), "another tool has the lock: a start waits, and nothing else does")
is_(groups(), [], "and has made nothing")
os.close(lock)
future.result()
is_(place(ctr=ctr), (ctr, ""), "then it goes on")

# --- deaths
d.kill_daemon()
os.kill(int(read(ctr, "tasks").split()[0]), signal.SIGKILL)
wait_until(lambda: not read(ctr, "tasks"), "its process dies")
d.start_daemon()
d.wait_exit(ctr)
gone(ctr)
ctr = start(pod, gold, device(l3CacheSchema="L3:0=7", enableMonitoring=True))
d.restart()
is_(place(ctr=ctr), (ctr, ctr), "a restart of the daemon changes nothing, also for execs")
os.kill(proc_stat(d.pid_of(ctr))[1], signal.SIGKILL)
is_(d.wait_exit(ctr).exit_code, 255, "the supervisor is killed")
gone(ctr)
pod2 = d.runp("p2", config=d.pod_config("p2", net=False))
ctr = start(pod2, gold)
boss = proc_stat(d.pid_of(ctr))[1]
d.kill_daemon()
os.kill(boss, signal.SIGKILL)
wait_until(lambda: proc_over(boss), "so is the supervisor")
is_(groups(), [ctr], "nobody is left who could remove it")
d.start_daemon()
d.wait_exit(ctr)
gone(ctr)
d.remove(pod, pod2)

# --- a user namespace, hooks
pod = d.runp("p3", config=d.pod_config("p3", net=False))
ctr = start(pod, cdi_device(specs, "hook", intelRdt={"l3CacheSchema": "L3:0=f"}, hooks=[
    {"hookName": n, "path": "/bin/sh", "env": ["PATH=/usr/bin:/bin"],
     "args": ["sh", "-c", "cat /proc/self/cpu_resctrl_groups >%s/%s; cat config.json >%s/config" % (d.tmp, n, d.tmp)]}
    for n in ("createRuntime", "poststart")]))
is_(place(ctr=ctr), (ctr, ""), "with hooks")
with open(d.tmp + "/poststart") as f, open(d.tmp + "/createRuntime") as g:
    is_({f.read(), g.read()}, {"res:/\nmon:\n"}, "which are not in it themselves")
with open(d.tmp + "/config") as f:
    is_(json.load(f)["linux"]["intelRdt"], {"l3CacheSchema": "L3:0=f"}, "config.json has it")
features = {h.name: h.features for h in d.Status().runtime_handlers}[""]
if features.user_namespaces:
    userns = d.runp("u", net=False, userns=user_namespace())
    ctr = start(userns, gold, userns=user_namespace())
    is_((place(d.pid_of(ctr)), place(ctr=ctr)), ((ctr, ""), (ctr, "")), "in a user namespace")
else:
    skip("no user namespaces here")

# --- an OCI runtime
if crun:
    oci = d.runp("oci", config=d.pod_config("oci", net=False), handler="crun")
    ctr = start(oci, device(schemata=["L3:0=1f"], enableMonitoring=True))
    is_((place(d.pid_of(ctr)), place(ctr=ctr)), ((ctr, ctr), (ctr, ctr)), "crun, which does not know half of it: so is its container, and an exec")
    is_(schemata(ctr)["L3"], 0x1f, "with its schemata")
    d.StopContainer(container_id=ctr, timeout=0)
    gone(ctr)
    refused("intelRdt:.*Mask out of range", "what the kernel refuses", device(l3CacheSchema="L3:0=fff"), pod=oci)
else:
    skip("crun is not installed")
d.remove_all()
is_(groups(), [], "all groups are gone")
is_(os.listdir(os.path.join(root, "mon_groups")), [], "of both kinds")
subprocess.run(["umount", root], check=True)
os.rmdir(root)
wait_until(lambda: not os.listdir(d.root + "/containers"), "the slow deletion of what the containers wrote")
finish(d)
