#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Hooks and network interfaces of CDI devices: each kind of hook in its namespaces and with its state, their order,
failures and timeouts, a daemon that is killed meanwhile, an OCI runtime's; interfaces that move into the pod."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

crun = shutil.which("crun")
d = Daemon(config={"runtimes": {"crun": {"path": crun}}} if crun else {}, start=False)
specs, out = d.tmp + "/cdi", d.tmp + "/out"
os.mkdir(specs)
os.mkdir(out)
os.chmod(out, 0o777)
d.config["cdi"] = {"spec_dirs": [specs]}
NS = ("mnt", "net", "ipc", "uts", "pid", "cgroup")
KINDS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
BEFORE = KINDS[:4]

# What every hook does: says that it was here, in which namespaces, with which state; then what its script says.
with open(d.tmp + "/hook", "w") as f:
    f.write("""#!/bin/sh
umask 0
kind=$1 state=$(cat)
case $state in *'"id":"'*) id=${state#*'"id":"'} id=${id%%'"'*};; esac
pid=${state#*'"pid":'} pid=${pid%%[,\\}]*}
bundle=${state#*'"bundle":"'} bundle=${bundle%%'"'*}
out=OUT/$id
mkdir -p $out
printf '%s' "$state" >$out/$kind.state
for n in NS; do readlink /proc/self/ns/$n; done >$out/$kind.ns
cat $bundle/config.json >$out/$kind.config
env >$out/$kind.env
pwd >$out/$kind.pwd
eval "$2"
echo $kind $3 >>$out/order
""".replace("OUT", out).replace("NS", " ".join(NS)))
os.chmod(d.tmp + "/hook", 0o755)
serial = [0]


def hook(kind, script="", mark="", **more):
    args = ["hook", kind, script, mark]
    if kind == "startContainer":     # in the container there is no such file
        return dict({"hookName": kind, "path": "/bin/sh", "args": ["sh", "-c", script or ":"]}, **more)
    return dict({"hookName": kind, "path": d.tmp + "/hook", "args": args}, **more)


def device(*hooks, **edits):
    """A device with these hooks: its name."""
    serial[0] += 1
    return cdi_device(specs, "d%d" % serial[0], hooks=list(hooks), **edits)


def create(pod, name, *devices, command=("sleep", "100000"), **fields):
    return d.create(pod, name, command=list(command), CDI_devices=[{"name": n} for n in devices], **fields)


def start(*args, **fields):
    ctr = create(*args, **fields)
    d.StartContainer(container_id=ctr)
    return ctr


def said(ctr, name):
    try:
        with open("%s/%s/%s" % (out, ctr, name)) as f:
            return f.read()
    except FileNotFoundError:
        return ""


def ns_of(pid):
    return [os.readlink("/proc/%s/ns/%s" % (pid, n)) for n in NS]


def stop(ctr):
    d.StopContainer(container_id=ctr, timeout=0)
    return d.status(ctr)


def bundles(pod):
    try:
        return sorted(n for n in os.listdir("%s/pods/%s/hooks" % (d.state, pod)) if not n.startswith("net."))
    except FileNotFoundError:
        return []


def running(*command):
    return proc_find(lambda p: proc_argv(p) == list(command))


d.start_daemon()
pod = d.runp("p")

# --- all of them
every = device(*[hook(k, env=["WHO=" + k, "PATH=/usr/bin:/bin:/usr/sbin:/sbin"]) for k in KINDS if k != "startContainer"],
               hook("createRuntime", mark="again"),
               hook("startContainer", "cat >/start.state; readlink /proc/self/ns/mnt >/start.ns; id -u >/start.id; echo $WHO >>/start.id",
                    env=["WHO=start"]))
ctr = start(pod, "every", every, annotations={"com.example/a": "b \"c\"\n"}, security={"readonly_rootfs": False})
pid = d.pid_of(ctr)
is_(said(ctr, "order").split("\n")[:-1], ["prestart", "createRuntime", "createRuntime again", "createContainer", "poststart"],
    "they ran in the order of the OCI runtime-spec")
node, inside = ns_of(d.pid), ns_of(pid)
for k in ("prestart", "createRuntime", "poststart"):
    is_(said(ctr, k + ".ns").split(), node, k + ": in the node's namespaces")
is_(said(ctr, "createContainer.ns").split(), inside, "createContainer: in the container's")
is_(d.sh(ctr, "cat /start.ns")[0].decode().strip(), inside[0], "startContainer: in the container's")
is_(d.sh(ctr, "cat /start.id")[0], b"0\nstart\n", "with its environment")
state = {k: json.loads(said(ctr, k + ".state")) for k in ("prestart", "createRuntime", "createContainer", "poststart")}
state["startContainer"] = json.loads(d.sh(ctr, "cat /start.state")[0])
bundle = "%s/pods/%s/hooks/%s" % (d.state, pod, ctr)
for k, status, number in (("prestart", "creating", pid), ("createRuntime", "creating", pid), ("createContainer", "creating", 1),
                          ("startContainer", "created", 1), ("poststart", "running", pid)):
    is_(state[k], {"ociVersion": "1.2.0", "id": ctr, "status": status, "pid": number, "bundle": bundle,
                   "annotations": {"com.example/a": "b \"c\"\n"}}, k + ": the state")
is_(sorted(x for x in said(ctr, "prestart.env").split("\n") if x.startswith(("WHO", "HOME"))), ["WHO=prestart"], "its environment, and nothing else")
is_(said(ctr, "createContainer.pwd").strip(), bundle, "its directory is the bundle")
c = json.loads(said(ctr, "createRuntime.config"))
is_((c["root"]["path"], c["process"]["args"], c["annotations"]), (bundle + "/rootfs", ["sleep", "100000"], {"com.example/a": "b \"c\"\n"}),
    "config.json: root, process, annotations")
ok({"/proc", "/dev", "/sys"} <= {m["destination"] for m in c["mounts"]} and c["linux"]["namespaces"], "mounts and namespaces")
is_(c["hooks"]["createRuntime"][1], {"path": d.tmp + "/hook", "args": ["hook", "createRuntime", "", "again"]}, "and the hooks themselves")
is_(d.info(ctr)["runtimeSpec"]["hooks"], c["hooks"], "which inspect shows as well")
is_(bundles(pod), [ctr], "the bundle stays for poststop")
began = time.monotonic()
s = stop(ctr)
ok(said(ctr, "order").endswith("poststop\n") or time.monotonic() - began > 5, "stopped: told when poststop has run, if that takes less than 5 s")
is_((s.state, s.exit_code), (EXITED, 137), "with the exit code")
wait_until(lambda: said(ctr, "order").endswith("poststop\n"), "poststop runs")
is_(said(ctr, "poststop.ns").split(), node, "in the node's namespaces")
is_(json.loads(said(ctr, "poststop.state")), {"ociVersion": "1.2.0", "id": ctr, "status": "stopped", "bundle": bundle,
                                              "annotations": {"com.example/a": "b \"c\"\n"}}, "with its state")
ok(json.loads(said(ctr, "poststop.config")) == c, "and config.json")
wait_until(lambda: not bundles(pod), "the bundle goes")
ok(True, "then the bundle goes")
plain = d.start(pod, "plain")
is_(bundles(pod), [], "a container without hooks has none")

# --- what createContainer can do, and those before it by entering the mount namespace
with open(d.tmp + "/lib.so", "w") as f:
    f.write("driver\n")
work = device(hook("createRuntime", "nsenter -m -t $pid ls $bundle/rootfs/bin/sh $bundle/rootfs/proc/1/stat >$out/entered"),
              hook("createContainer", "root=$bundle/rootfs; echo made >$root/etc/made; mkdir $root/late; touch $root/lib.so; mount -t tmpfs late $root/late; "
                   "echo tmpfs >$root/late/file; mount --bind %s/lib.so $root/lib.so; cat $root/volume/file >$out/volume" % d.tmp))
os.mkdir(d.tmp + "/volume")
with open(d.tmp + "/volume/file", "w") as f:
    f.write("volume\n")
ctr = start(pod, "work", work, security={"readonly_rootfs": True},
            mounts=[{"host_path": d.tmp + "/volume", "container_path": "/volume"}], tty=True)
is_(d.sh(ctr, "cat /etc/made /late/file /lib.so")[0], b"made\ntmpfs\ndriver\n", "createContainer: files and mounts that the container has")
is_(said(ctr, "volume"), "volume\n", "it sees the container's mounts")
ok(d.sh(ctr, "touch /x 2>/dev/null")[2] != 0, "a read-only root is read-only afterwards")
is_(said(ctr, "entered").split(), ["%s/pods/%s/hooks/%s/rootfs%s" % (d.state, pod, ctr, p) for p in ("/bin/sh", "/proc/1/stat")],
    "createRuntime: the root, in the container's mount namespace")
is_([x for x in d.sh(ctr, "cut -d' ' -f5 /proc/self/mountinfo")[0].decode().split() if x.startswith(d.tmp)], [],
    "nothing of the node's tree is left in it")
with open("/proc/self/mountinfo") as f:
    ok("/rootfs" not in f.read(), "and nothing of it in the node's")
stop(ctr)
user = start(pod, "user", device(hook("startContainer", "(id -u; grep -E 'Seccomp:|CapEff' /proc/self/status) >/tmp/rights")),
             security={"run_as_user": {"value": 77}, "seccomp": {"profile_type": pb.SecurityProfile.RuntimeDefault}})
is_(d.sh(user, "cat /tmp/rights")[0], d.sh(user, "id -u; grep -E 'Seccomp:|CapEff' /proc/1/status")[0],
    "startContainer: the container's user and rights")
shared = d.runp("shared", pid=pb.POD)
ctr = start(shared, "s", every, pid=pb.POD)
is_(said(ctr, "createContainer.ns").split(), ns_of(d.pid_of(ctr)), "a shared PID namespace: the pod's")
is_(json.loads(said(ctr, "poststart.state"))["pid"], d.pid_of(ctr), "and the node's number of the process")
is_(d.run(pod, "short", ["true"], CDI_devices=[{"name": every}])[0].exit_code, 0, "one that ends at once")
alone = create(pod, "alone", device(hook("poststop")))
d.StartContainer(container_id=alone)
d.RemoveContainer(container_id=alone)
wait_until(lambda: said(alone, "order") == "poststop\n", "poststop runs")
ok(True, "poststop only, at a removal that kills")

# --- failures
for k in BEFORE:
    tail = "echo warned; echo %s is broken >&2; exit 7" % k
    ctr = create(pod, "fail-" + k, device(hook(k, tail), hook("poststop")))
    fails(d.StartContainer, "UNKNOWN|INTERNAL", r"hook %s '%s': exit status 7: warned %s is broken$"
          % (k, "/bin/sh" if k == "startContainer" else d.tmp + "/hook", k), k + " fails: path, status and words", container_id=ctr)
    s = d.status(ctr)
    is_((s.state, s.exit_code, s.reason), (EXITED, 128, "StartError"), "EXITED with 128")
    ok(k + " is broken" in s.message, "with its message")
    wait_until(lambda: "poststop" in said(ctr, "order"), "poststop runs")
    ok(True, "poststop runs all the same")
for k, want in (("createRuntime", []), ("createContainer", ["createRuntime"])):
    ctr = create(pod, "first-" + k, device(hook("createRuntime"), hook(k, "exit 1"), hook("createContainer", mark="never"), hook("poststart")))
    fails(d.StartContainer, "UNKNOWN|INTERNAL", "hook %s .*exit status 1" % k, k + " fails", container_id=ctr)
    ok("createContainer never" not in said(ctr, "order") and "poststart" not in said(ctr, "order"), "the next are not run")
ctr = create(pod, "none", device({"hookName": "createRuntime", "path": "/no/such/hook"}))
fails(d.StartContainer, "UNKNOWN|INTERNAL", "hook createRuntime '/no/such/hook': exit status 127: exec .*No such file", "one that is not there", container_id=ctr)
ctr = create(pod, "killed", device(hook("createRuntime", "kill -9 $$")))
fails(d.StartContainer, "UNKNOWN|INTERNAL", "hook createRuntime .*: killed by signal 9", "one that is killed", container_id=ctr)
for k in ("createRuntime", "createContainer"):
    ctr = create(pod, "slow-" + k, device(hook(k, "sleep 100001", timeout=1)))
    fails(d.StartContainer, "UNKNOWN|INTERNAL", "hook %s .*did not end in 1 s, killed" % k, k + ": a timeout", container_id=ctr)
wait_until(lambda: not running("sleep", "100001"), "what the hooks have started is dead")
ok(True, "kills the hook and what it has started")
ctr = start(pod, "post", device(hook("poststart", "echo not so good >&2; exit 3"), hook("poststart", mark="second"), hook("poststop", "exit 4"),
                                hook("poststop", mark="second")))
is_(d.status(ctr).state, RUNNING, "poststart fails: the container runs")
like(d.log_text(), r"level=warn .*ctr=%s.*hook poststart .*exit status 3: not so good" % ctr, "a warning says so")
is_(said(ctr, "order"), "poststart second\n", "and the next one runs")
is_(stop(ctr).exit_code, 137, "poststop fails: the exit is told")
wait_until(lambda: re.search(r"level=warn .*ctr=%s.*hook poststop .*exit status 4" % ctr, d.log_text()), "the warning")
wait_until(lambda: said(ctr, "order").endswith("poststop second\n"), "the next one runs")
ok(True, "with a warning, and the next one runs")
ctr = create(pod, "nothing", device(hook("createRuntime"), hook("poststop")), command=["/no/such"])
fails(d.StartContainer, "NOT_FOUND|UNKNOWN|INTERNAL|INVALID_ARGUMENT", "exec '/no/such'", "a program that is not there, after the hooks", container_id=ctr)
wait_until(lambda: said(ctr, "order") == "createRuntime\npoststop\n", "poststop runs")
wait_until(lambda: not set(bundles(pod)) - {user}, "no bundle is left of those that failed")
ok(True, "no bundle is left of those that failed")

# --- the daemon is killed meanwhile
ctr = start(pod, "orphan", device(hook("poststop")))
pid = d.pid_of(ctr)
d.kill_daemon()
os.kill(pid, signal.SIGKILL)
wait_until(lambda: said(ctr, "order"), "poststop runs without a daemon")
is_(said(ctr, "order"), "poststop\n", "poststop runs without a daemon")
d.start_daemon()
s = d.wait_exit(ctr)
is_((s.exit_code, s.reason), (137, "Error"), "and the next one hears of the end")
os.mkfifo(out + "/fifo")
ctr = create(pod, "cut", device(hook("createRuntime", "echo $$ >%s/cut; read x <%s/fifo" % (out, out)), hook("poststop")))
f = d.StartContainer(_future=True, container_id=ctr)
wait_until(lambda: os.path.exists(out + "/cut") and open(out + "/cut").read().strip(), "the hook runs")
pid = int(open(out + "/cut").read())
d.kill_daemon()
ok(f.exception() is not None, "killed in a hook: the call ends")
wait_until(lambda: proc_over(pid), "the hook is killed")
wait_until(lambda: said(ctr, "order") == "poststop\n", "poststop runs")
d.start_daemon()
s = d.status(ctr)
is_((s.state, s.exit_code, s.reason), (EXITED, 128, "StartError"), "the start has failed, and its hook is gone")
late = start(pod, "late", device(hook("poststop", "read x <%s/fifo" % out)))
d.StopContainer(container_id=late, timeout=0)
is_((d.status(late).state, said(late, "order")), (EXITED, ""), "a poststop hook that does not end holds up the exit for a moment only")
with open(out + "/fifo", "w") as f:
    f.write("go\n")
wait_until(lambda: said(late, "order"), "it goes on")
is_(said(late, "order"), "poststop\n", "and goes on meanwhile")

# --- a pod that goes with its containers running
gone = d.runp("gone")
ctrs = [start(gone, "c%d" % i, every) for i in range(3)]
d.remove(gone)
ok(all(said(c, "order").endswith("poststop\n") for c in ctrs), "a pod that is removed: poststop of all its containers")
ok(not os.path.exists("%s/pods/%s" % (d.state, gone)), "and nothing is left of it")

# --- the supervisor is killed: the daemon's worker runs poststop
crash = d.runp("crash")
ctr = start(crash, "c", device(hook("poststop", "echo bad >&2; exit 4"), hook("poststop", mark="second", env=["A=b"])), annotations={"a": "b"})
os.kill(d.supervisor(crash), signal.SIGKILL)
wait_until(lambda: said(ctr, "order") == "poststop second\n", "poststop runs")
is_((said(ctr, "poststop.ns").split(), json.loads(said(ctr, "poststop.state"))),
    (node, {"ociVersion": "1.2.0", "id": ctr, "status": "stopped", "bundle": "%s/pods/%s/hooks/%s" % (d.state, crash, ctr), "annotations": {"a": "b"}}),
    "a supervisor that is killed: poststop all the same, with state and in the node's namespaces")
ok("A=b" in said(ctr, "poststop.env").split() and json.loads(said(ctr, "poststop.config"))["hooks"], "with its environment and config.json")
wait_until(lambda: re.search(r"level=warn .*op=poststop ctr=%s.*hook poststop .*exit status 4: bad" % ctr, d.log_text()), "the warning")
wait_until(lambda: not bundles(crash), "the bundle goes")
d.restart()
d.remove(crash)
is_(said(ctr, "order"), "poststop second\n", "once")
crash = d.runp("crash2")
ctr = start(crash, "c", device(hook("poststop", "read x <%s/fifo" % out)))
stopped = start(crash, "stopped", device(hook("poststop")))
stop(stopped)
wait_until(lambda: said(stopped, "order"), "poststop")
pid = d.supervisor(crash)
d.kill_daemon()
os.kill(pid, signal.SIGKILL)
d.start_daemon()
wait_until(lambda: said(ctr, "poststop.state"), "it runs")
ok(True, "killed while there was no daemon: at the next start")
f = d.StopPodSandbox(_future=True, pod_sandbox_id=crash)
d.kill_daemon()
is_(bundles(crash), [ctr], "when that is killed in the middle of it")
os.unlink("%s/%s/poststop.state" % (out, ctr))
d.start_daemon()
wait_until(lambda: said(ctr, "poststop.state"), "it runs again")
f = d.StopPodSandbox(_future=True, pod_sandbox_id=crash)
is_(said(ctr, "order"), "", "it runs once more at the start after that")
with open(out + "/fifo", "w") as fifo:
    fifo.write("go\n")
f.result()
is_(said(ctr, "order"), "poststop\n", "the stop of the pod waits for it")
is_(said(stopped, "order"), "poststop\n", "what had run before does not run again")
d.RemovePodSandbox(pod_sandbox_id=crash)

# --- user namespaces
if d.Status().runtime_handlers[0].features.user_namespaces:
    userns = user_namespace()
    mapped = d.runp("userns", userns=userns)
    ctr = start(mapped, "own", device(hook("prestart"), hook("startContainer", "id -u >/start"), hook("poststart"), hook("poststop"),
                                      hook("createContainer", "root=$bundle/rootfs; echo made >$root/etc/made; mkdir $root/late; "
                                           "mount -t tmpfs late $root/late; echo tmpfs >$root/late/file; id -u >$out/id")),
                userns=userns)
    is_(said(ctr, "createContainer.ns").split(), ns_of(d.pid_of(ctr)), "createContainer: in the container's")
    is_((said(ctr, "id"), json.loads(said(ctr, "createContainer.state"))["pid"], json.loads(said(ctr, "createContainer.config"))["root"]["path"]),
        ("0\n", 1, "%s/pods/%s/hooks/%s/rootfs" % (d.state, mapped, ctr)), "as root in there, with state and config.json")
    is_(d.sh(ctr, "cat /etc/made /late/file")[0], b"made\ntmpfs\n", "what it does in the root, the container has")
    is_([x for x in d.sh(ctr, "cut -d' ' -f5 /proc/self/mountinfo")[0].decode().split() if x.startswith(d.tmp)], [],
        "nothing of the node's tree is left")
    is_(said(ctr, "prestart.ns").split(), node, "prestart of a pod with a user namespace: the node's namespaces")
    is_(json.loads(said(ctr, "prestart.state"))["pid"], d.pid_of(ctr), "the process that becomes the container")
    is_(d.sh(ctr, "cat /start")[0], b"0\n", "startContainer: root in there")
    stop(ctr)
    wait_until(lambda: said(ctr, "order") == "prestart\ncreateContainer\npoststart\npoststop\n", "poststop runs")
    ok(True, "and the others")
    crash = d.runp("userns-crash", userns=userns)
    ctr = start(crash, "own", device(hook("poststop")), userns=userns)
    os.kill(d.supervisor(crash), signal.SIGKILL)
    wait_until(lambda: said(ctr, "order") == "poststop\n", "poststop runs")
    ok(True, "poststop when its supervisor was killed")
    d.remove(crash)
    ctr = start(mapped, "all", every, userns=userns, security={"seccomp": {"profile_type": pb.SecurityProfile.RuntimeDefault}})
    ok(said(ctr, "order").startswith("prestart\ncreateRuntime\ncreateRuntime again\ncreateContainer\npoststart\n"), "all of them")
else:
    skip("this kernel cannot map the owners of layers", 10)

# --- an OCI runtime
if crun:
    pod2 = d.runp("oci", handler="crun")
    ctr = start(pod2, "every", device(*[hook(k) for k in KINDS if k != "startContainer"], hook("startContainer", "echo here >/start")))
    is_([x.split()[0] for x in said(ctr, "order").splitlines()], ["prestart", "createRuntime", "createContainer", "poststart"], "an OCI runtime runs them")
    is_(d.sh(ctr, "cat /start")[0], b"here\n", "startContainer too")
    is_(said(ctr, "createContainer.ns").split()[0], ns_of(d.pid_of(ctr))[0], "in the container's mount namespace")
    stop(ctr)
    wait_until(lambda: said(ctr, "order").endswith("poststop\n"), "poststop")
    ok(True, "and poststop")
    pod3 = d.runp("oci-crash", handler="crun")
    ctr = start(pod3, "c", device(hook("poststop")))
    os.kill(d.supervisor(pod3), signal.SIGKILL)
    wait_until(lambda: said(ctr, "order") == "poststop\n", "poststop")
    wait_until(lambda: not os.listdir("%s/pods/%s/oci/r" % (d.state, pod3)), "the runtime forgets it")
    ok(True, "and poststop when the supervisor was killed")
    d.remove(pod3)
    ctr = create(pod2, "fail", device(hook("createRuntime", "exit 9")))
    fails(d.StartContainer, "UNKNOWN|INTERNAL", "crun create: .*hook", "one that fails", container_id=ctr)
else:
    skip("no crun", 6)


# --- network interfaces
def ip(*args, netns=None):
    where = ["nsenter", "--net=" + netns, "--"] if netns else d.net.prefix()
    return subprocess.run(where + ["ip", *args], check=True, capture_output=True, text=True).stdout


def veth(name):
    ip("link", "add", name, "type", "veth", "peer", "name", name + "p")
    ip("link", "set", name + "p", "up")


def links(ctr):
    return {i["ifname"]: i for i in json.loads(ip("-j", "addr", netns="/proc/%d/ns/net" % d.pid_of(ctr)))}


veth("nic0")
ip("link", "set", "nic0", "address", "02:00:00:00:12:34", "mtu", "1400", "up")
ip("addr", "add", "192.0.2.5/24", "broadcast", "192.0.2.255", "dev", "nic0")
ip("addr", "add", "198.51.100.7", "peer", "198.51.100.8/32", "dev", "nic0")
ip("-6", "addr", "add", "2001:db8::5/64", "dev", "nic0", "nodad")
nic = device(netDevices=[{"hostInterfaceName": "nic0", "name": "net1"}])
ctr = start(pod, "nic", nic)
got = links(ctr)
ok("net1" in got and "nic0" not in got and "nic0\"" not in ip("-j", "link"), "an interface is in the pod under its new name", got)
is_((got["net1"]["address"], got["net1"]["mtu"], "UP" in got["net1"]["flags"]), ("02:00:00:00:12:34", 1400, True), "with its settings, and up")
is_(sorted((a["local"], a["prefixlen"], a.get("broadcast"), a.get("address")) for a in got["net1"]["addr_info"] if a["scope"] == "global"),
    [("192.0.2.5", 24, "192.0.2.255", None), ("198.51.100.7", 32, None, "198.51.100.8"), ("2001:db8::5", 64, None, None)], "and its addresses")
stop(ctr)
ctr = start(pod, "again", nic)
ok("net1" in links(ctr), "the next container of the pod finds it there")
is_(d.info(ctr)["runtimeSpec"]["linux"]["netDevices"], {"nic0": {"name": "net1"}}, "inspect shows it")
veth("nic1")
two = start(pod, "two", device(hook("createRuntime", "ip -o link | grep -c ' nic1@' >$out/here", env=["PATH=/usr/sbin:/sbin:/usr/bin:/bin"]),
                               hook("createContainer", "ip -o link | grep -c ' nic1@' >$out/there", env=["PATH=/usr/sbin:/sbin:/usr/bin:/bin"]),
                               netDevices=[{"hostInterfaceName": "nic1"}]))
is_((said(two, "here"), said(two, "there")), ("0\n", "1\n"), "one that keeps its name, there before the hooks")
veth("nic2")
three = start(pod, "three", device(netDevices=[{"hostInterfaceName": "nic2", "name": "net%d"}]))
ok("net0" in links(three), "a name with %d: the first that is free")
veth("nic3")
ctr = create(pod, "taken", device(netDevices=[{"hostInterfaceName": "nic3", "name": "net1"}]))
fails(d.StartContainer, "UNKNOWN|INTERNAL|ALREADY_EXISTS", "network interface 'nic3': the pod has a 'net1' already", "a name that is taken", container_id=ctr)
ok("nic3" in ip("link"), "the interface stays where it was")
ctr = create(pod, "missing", device(netDevices=[{"hostInterfaceName": "nic9", "name": "net9"}]))
fails(d.StartContainer, "UNKNOWN|INTERNAL|NOT_FOUND", "network interface 'nic9' of the node: No such device", "one that is not there", container_id=ctr)
hostnet = d.runp("hostnet", net=False)
fails(lambda: create(hostnet, "no", nic), "INVALID_ARGUMENT", "network interface 'nic0': .*node's network namespace", "none on the node's network")
if crun:
    ctr = start(pod2, "nic", device(netDevices=[{"hostInterfaceName": "nic3", "name": "net3"}]))
    ok("net3" in links(ctr), "with an OCI runtime as well")
else:
    skip("no crun")
for i in range(3):                   # whoever comes second waits, and finds it moved
    nics = ["many%d%d" % (i, k) for k in range(3)]
    for name in nics:
        veth(name)
    many, dev = d.runp("many%d" % i), device(netDevices=[{"hostInterfaceName": n, "name": "net%d"} for n in nics])
    ctrs = [create(many, "c%d" % k, dev) for k in range(8)]
    got = [error(f.result) for f in [d.StartContainer(_future=True, container_id=c) for c in ctrs]]
    is_([g for g in got if g[0] != "OK"], [], "containers that are started at once share their interfaces")
    is_(sorted(x for x in links(ctrs[7]) if x.startswith("net")), ["net0", "net1", "net2"], "each has been moved once")
    other = create(pod, "late%d" % i, dev)
    fails(d.StartContainer, "UNKNOWN|INTERNAL|NOT_FOUND", "network interface 'many%d0' of the node: No such device" % i,
          "another pod's container does not get them", container_id=other)
    d.remove(many)
for name in ("nic0p", "nic1p", "nic2p", "nic3p"):
    ip("link", "del", name)
d.remove_all()
wait_until(lambda: not os.listdir(d.root + "/containers"), "the slow deletion of what the containers wrote")
finish(d)
