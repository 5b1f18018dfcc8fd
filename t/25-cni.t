#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The pod network by real CNI plugins, and by plugins that fail, hang and are cancelled.

Everything happens in a network namespace and a mount namespace of the test's own (bridges, iptables, /run, the plugins'
state): nothing of it can stay behind."""
import os
import sys

if os.environ.get("CNI_TEST_NS") != str(os.getpid()) and os.geteuid() == 0:
    os.environ["CNI_TEST_NS"] = str(os.getpid())
    os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", "--", sys.executable, __file__])

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import atexit  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import select  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

from cricket import BUILD, LIMIT, SRC, done_testing, is_, like, need, ok, reap_orphans, skip, skip_all, wait_until  # noqa: E402

need("root", "ip", "unshare", "tc")
PLUGINS = next((d for d in ("/usr/lib/cni", "/opt/cni/bin") if os.path.exists(d + "/bridge")), None)
if not PLUGINS:
    skip_all("needs the CNI plugins (containernetworking-plugins)")


def sh(*argv, check=True):
    p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if check and p.returncode:
        raise RuntimeError("%s: %s" % (" ".join(argv), p.stdout))
    return p.stdout


sh("mount", "-t", "tmpfs", "tmpfs", "/run")
sh("mount", "-t", "tmpfs", "tmpfs", "/var/lib")
sh("ip", "link", "set", "lo", "up")
TMP = tempfile.mkdtemp(prefix="cricket-", dir=os.environ.get("CRICKET_TEST_TMP"))
atexit.register(shutil.rmtree, TMP, ignore_errors=True)
BIN, CONF, LOG, STATE = TMP + "/bin", TMP + "/etc/cni/net.d", TMP + "/log", TMP + "/state"
HOLD, LEASES, GO = TMP + "/hold", TMP + "/leases", TMP + "/go"
for name in (BIN, HOLD, LEASES):
    os.mkdir(name)
os.mkfifo(GO)
for name in os.listdir(PLUGINS):
    os.symlink(PLUGINS + "/" + name, BIN + "/" + name)

# A plugin that does what its configuration says and writes down how it was called.
with open(BIN + "/fake", "w") as f:
    f.write("""#!/usr/bin/python3
import json, os, sys, time
conf = json.load(sys.stdin)
command = os.environ["CNI_COMMAND"]
with open(conf["log"], "a") as log:
    log.write(json.dumps({"pid": os.getpid(), "command": command, "who": conf.get("who"), "conf": conf,
                          "env": {k: v for k, v in os.environ.items() if k.startswith("CNI_")}}) + "\\n")
def lease(name):
    return os.path.join(conf["leases"], name)
if "leases" in conf and command == "ADD":             # as host-local: a file, then its owner in it
    with open(lease("1"), "x") as f, open(conf["go"]) as go:
        f.write(go.read(2) and os.environ["CNI_CONTAINERID"])
if "leases" in conf and command == "DEL":
    for name in os.listdir(conf["leases"]):
        if open(lease(name)).read() == os.environ["CNI_CONTAINERID"]:
            os.unlink(lease(name))
if conf.get("hang") == command:
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000"])
    time.sleep(1000)
if conf.get("fail") == command:
    print(json.dumps({"cniVersion": conf["cniVersion"], "code": conf.get("code", 100), "msg": "no luck", "details": "at all"}))
    sys.exit(1)
if command == "ADD":
    print(json.dumps(conf.get("prevResult") or {"ips": [{"address": "10.1.2.3/24"}]}))
""")
os.chmod(BIN + "/fake", 0o755)


def calls():
    try:
        with open(LOG) as log:
            return [json.loads(line) for line in log]
    except FileNotFoundError:
        return []


def group_gone(pgid):
    """No process of that group is left that is more than a zombie."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open("/proc/%s/stat" % entry) as file:
                    state, _, group = file.read().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if group == str(pgid) and state != "Z":
                return False
    return True


def called():
    return [(c["command"], c["who"]) for c in calls()]


class Drive:
    """t/lib/cni_drive: a loop with cni.h on it."""

    def __init__(self, *dirs, timeout=60000):
        self.p = subprocess.Popen([BUILD + "/t/lib/cni_drive", str(timeout), HOLD, BIN] + list(dirs or [CONF]), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, bufsize=0)
        self.buf = b""
        self.answers = {}
        self.n = 0

    def send(self, op, **fields):
        if "tag" not in fields:
            self.n += 1
            fields["tag"] = "%s-%d" % (op, self.n)
        self.p.stdin.write(json.dumps(dict(fields, op=op)).encode() + b"\n")
        return fields["tag"]

    def wait(self, tag):
        end = time.monotonic() + LIMIT
        while tag not in self.answers:
            if not select.select([self.p.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError("no answer to " + tag)
            data = os.read(self.p.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError("cni_drive ended with %s" % self.p.wait())
            self.buf += data
            *lines, self.buf = self.buf.split(b"\n")
            for line in lines:
                o = json.loads(line)
                self.answers[o["tag"]] = o
        return self.answers.pop(tag)

    def call(self, op, **fields):
        return self.wait(self.send(op, **fields))

    def ready(self):
        return self.call("ready")

    def close(self):
        self.p.stdin.close()
        self.p.stdout.close()
        return self.p.wait(LIMIT)


def write_conf(name, conf, directory=CONF):
    with open(directory + "/" + name + ".tmp", "w") as file:
        file.write(conf if isinstance(conf, str) else json.dumps(conf))
    os.rename(directory + "/" + name + ".tmp", directory + "/" + name)


def fakes(name, *plugins, version="1.0.0"):
    return {"name": name, "cniVersion": version, "plugins": [dict(p, type="fake", log=LOG) for p in plugins]}


def use(d, conf):
    """Puts a configuration in force and waits until it is."""
    write_conf("10-test.conflist", conf)
    wait_until(lambda: json.loads(d.ready()["config"] or "{}").get("name") == conf["name"], "the configuration is followed")
    if os.path.exists(LOG):
        os.unlink(LOG)


class Pod:
    def __init__(self, name):
        self.name = self.id = name
        self.netns = "/run/netns/" + name
        sh("ip", "netns", "add", name)
        self.run("ip", "link", "set", "lo", "up")
        self.kept = {}

    def run(self, *argv, check=True):
        return sh("ip", "netns", "exec", self.name, *argv, check=check)

    def who(self):
        return {"id": self.id, "netns": self.netns}


def addresses():
    """What host-local has given away."""
    found = []
    for root, _, files in os.walk(STATE):
        found += [f for f in files if re.match(r"^[0-9.]+$", f)]
    return sorted(found)


def links(kind):
    return re.findall(r"^\d+: ([^:@]+)", sh("ip", "-o", "link", "show", "type", kind), re.M)


BRIDGE = {"name": "real", "cniVersion": "1.0.0", "plugins": [
    {"type": "bridge", "bridge": "test0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
     "ipam": {"type": "host-local", "dataDir": STATE, "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]]}},
    {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    {"type": "bandwidth", "capabilities": {"bandwidth": True}}]}


# --- the directory comes later, files change
d = Drive()
like(d.ready()["why"], "cni config not initialized: no network config in .*/etc/cni/net.d", "no directory: not ready")
like(d.ready()["load"], "no network config", "and the load says so")
r = d.call("add", id="x", netns="/nowhere")
is_((r.get("grpc"), r.get("error", "")[:30]), (2, "cni config not initialized: no"), "ADD without a configuration")
os.makedirs(CONF)
write_conf("20-b.conflist", fakes("b", {"who": 1}))
wait_until(lambda: d.ready()["why"] == "", "ready once there is a file")
is_(json.loads(d.ready()["config"])["name"], "b", "a directory that is made later is followed")
write_conf("10-a.conf", {"name": "a", "cniVersion": "1.0.0", "type": "fake", "log": LOG})
wait_until(lambda: json.loads(d.ready()["config"])["name"] == "a", "the first by name")
ok(True, "the first file by name wins")
write_conf("10-a.conf", '{"name": "a", ')
wait_until(lambda: d.ready()["load"] != "OK", "the bad file is noticed")
like(d.ready()["load"], "10-a.conf', line 1", "a bad file is reported")
is_((d.ready()["why"], json.loads(d.ready()["config"])["name"]), ("", "a"), "what was in force stays")
os.unlink(CONF + "/10-a.conf")
wait_until(lambda: json.loads(d.ready()["config"])["name"] == "b", "the next one")
is_(d.ready()["load"], "OK", "the bad file gone, the next one is in force")
os.unlink(CONF + "/20-b.conflist")
wait_until(lambda: d.ready()["why"], "not ready")
like(d.ready()["why"], "no network config", "the last file gone: not ready")
os.rename(TMP + "/etc", TMP + "/etc.old")
os.makedirs(CONF)
write_conf("20-b.conflist", fakes("c", {"who": 1}))
wait_until(lambda: d.ready()["why"] == "", "a new directory in the old one's place")
ok(True, "a directory that is replaced is followed")
os.unlink(CONF + "/20-b.conflist")

# --- real plugins
use(d, BRIDGE)
one, two = Pod("one"), Pod("two")
SLOW_POD = {"annotations": {"kubernetes.io/egress-bandwidth": "100M"}}   # Debian's bandwidth plugin cannot CHECK without one
tags = {p: d.send("add", **p.who(), **SLOW_POD) for p in (one, two)}
for p, tag in tags.items():
    p.kept = d.wait(tag)
    is_(p.kept.get("error"), None, "ADD of pod %s, both at once" % p.name)
ok(all(re.match(r"10\.77\.0\.\d+$", p.kept["ips"][0]) and p.kept["ips"][1].startswith("fd77::") for p in tags),
   "both have an IPv4 address first and an IPv6 address")
like(one.run("ip", "-4", "addr", "show", "eth0"), re.escape(one.kept["ips"][0]) + "/24", "the address is on eth0")
is_(len(addresses()), 2, "host-local wrote both down")
like(one.run("ping", "-c", "1", "-W", "20", two.kept["ips"][0], check=False) if shutil.which("ping") else "1 received", "1 (packets )?received",
     "one pod reaches the other")
is_(d.call("check", config=one.kept["config"], result=one.kept["result"], **one.who(), **SLOW_POD).get("error"), None, "CHECK")
one.run("ip", "addr", "flush", "dev", "eth0")
like(d.call("check", config=one.kept["config"], result=one.kept["result"], **one.who(), **SLOW_POD).get("error", ""), 'plugin type="bridge" failed \\(check\\)',
     "CHECK after the address was taken away")
veths = len(links("veth"))
is_(d.call("del", config=one.kept["config"], result=one.kept["result"], **one.who()).get("error"), None, "DEL")
is_((len(links("veth")), len(addresses())), (veths - 1, 1), "the link and the address are gone")
ok("eth0" not in one.run("ip", "-o", "link"), "eth0 is gone from the pod")
is_(d.call("del", config=one.kept["config"], result=one.kept["result"], **one.who()).get("error"), None, "DEL again is no error")

os.unlink(CONF + "/10-test.conflist")
wait_until(lambda: d.ready()["why"], "the configuration is gone")
sh("ip", "netns", "del", "two")
is_(d.call("del", config=two.kept["config"], result=two.kept["result"], **two.who()).get("error"), None,
    "DEL with the namespace and the configuration gone")
is_(addresses(), [], "its address is free again")

use(d, BRIDGE)
if subprocess.run(["iptables", "-t", "nat", "-S"], capture_output=True, check=False).returncode == 0:
    web = Pod("web")
    web.kept = d.call("add", ports=[[12080, 80, "tcp"], [0, 81, "tcp"]], annotations={"kubernetes.io/ingress-bandwidth": "8M"}, **web.who())
    is_(web.kept.get("error"), None, "ADD with a port and a bandwidth")
    server = subprocess.Popen(["ip", "netns", "exec", "web", sys.executable, "-c", """
import socket
s = socket.create_server(("", 80))
print("up", flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b"hello from the pod")
    c.close()
"""], stdout=subprocess.PIPE)
    server.stdout.readline()
    got = subprocess.run([sys.executable, "-c", """
import socket
s = socket.create_connection(("127.0.0.1", 12080), 30)
print(s.recv(100).decode())
"""], capture_output=True, text=True, check=False)
    is_(got.stdout.strip(), "hello from the pod", "the port of the host leads into the pod" + got.stderr)
    server.kill()
    server.wait()
    server.stdout.close()
    ok("81" not in re.findall(r"--dport (\d+)", sh("iptables", "-t", "nat", "-S")), "host port 0 is no port of the host")
    like(sh("tc", "qdisc"), r"tbf .*rate 8Mbit", "the bandwidth of the annotation is in force")
    is_(d.call("del", config=web.kept["config"], result=web.kept["result"], ports=[[12080, 80, "tcp"]], **web.who()).get("error"), None,
        "DEL of it")
    ok("12080" not in sh("iptables", "-t", "nat", "-S") and "tbf" not in sh("tc", "qdisc"), "rules and shaping are gone")
else:
    skip("no iptables that works here: %s" % sh("iptables", "-t", "nat", "-S", check=False).strip())
r = d.call("add", annotations={"kubernetes.io/ingress-bandwidth": "fast"}, **one.who())
is_((r.get("grpc"), "ingress-bandwidth" in r.get("error", "")), (3, True), "a bandwidth that is none")
is_((addresses(), links("veth")), ([], []), "nothing is left")

# --- failures: what was done is undone before anybody hears of it
use(d, {"name": "f1", "cniVersion": "1.0.0", "plugins": BRIDGE["plugins"][:1] + fakes("x", {"who": 1, "fail": "ADD"})["plugins"]})
r = d.call("add", **one.who())
is_(r.get("error"), 'plugin type="fake" failed (add): no luck; at all', "the plugin's own words")
is_(called(), [("ADD", 1), ("DEL", 1)], "it was DELeted")
is_((addresses(), links("veth")), ([], []), "the bridge plugin's work was undone before the answer")
seen = calls()
env = seen[0]["env"]
is_((env["CNI_CONTAINERID"], env["CNI_NETNS"], env["CNI_IFNAME"], env["CNI_PATH"]), ("one", one.netns, "eth0", BIN), "environment")
is_(sorted(env["CNI_ARGS"].split(";")), ["IgnoreUnknown=1", "K8S_POD_INFRA_CONTAINER_ID=one", "K8S_POD_NAME=pod-name", "K8S_POD_NAMESPACE=pod-ns",
                                         "K8S_POD_UID=pod-uid"], "CNI_ARGS")
is_((seen[0]["conf"]["name"], seen[0]["conf"]["cniVersion"], len(seen[0]["conf"]["prevResult"]["ips"])), ("f1", "1.0.0", 2), "the result before it as prevResult")

use(d, fakes("f2", {"who": 1}, {"who": 2}, {"who": 3}))
r = d.call("add", **one.who())
is_(r.get("ips"), ["10.1.2.3"], "three plugins in a row")
is_(json.loads(r["result"])["cniVersion"], "1.0.0", "a result without a version gets that of the list")
is_(d.call("del", config=r["config"], result=r["result"], **one.who()).get("error"), None, "and back")
is_(called(), [("ADD", 1), ("ADD", 2), ("ADD", 3), ("DEL", 3), ("DEL", 2), ("DEL", 1)], "DEL goes from the last to the first")
ok(all("prevResult" in c["conf"] for c in calls()[3:]), "each DEL is given the result of ADD")
os.unlink(LOG)
is_(d.call("del", config=r["config"], **dict(one.who(), netns="/run/netns/gone")).get("error"), None, "DEL without a result, namespace gone")
is_([c["env"]["CNI_NETNS"] for c in calls()], ["", "", ""], "a namespace that is gone is not named")

is_(d.call("del", config=r["config"], result="nonsense", annotations={"kubernetes.io/ingress-bandwidth": "fast"}, **one.who()).get("error"), None,
    "DEL does without what cannot be understood")
like(d.call("check", config=r["config"], result="nonsense", **one.who()).get("error", ""), "not a JSON object", "CHECK does not")

use(d, fakes("f3", {"who": 1, "fail": "DEL", "code": 11}, {"who": 2}))
r = d.call("del", **one.who())
is_((r.get("error"), called()), ('plugin type="fake" failed (delete): no luck; at all', [("DEL", 2), ("DEL", 1)]), "a DEL that fails says so")

use(d, fakes("f4", {"who": 1}, {"who": 2, "hang": "ADD"}))
tag = d.send("add", **one.who())
wait_until(lambda: ("ADD", 2) in called(), "the second plugin runs")
other = d.send("del", **two.who())
d.wait(other)
ok(tag not in d.answers, "another pod does not wait for a plugin that hangs")
hung = calls()[1]["pid"]
os.unlink(LOG)
d.send("cancel", tag=tag)
r = d.wait(tag)
is_((r.get("grpc"), r.get("error", "").split(";")[0]), (1, "CNI ADD cancelled"), "a cancelled ADD")
is_(called(), [("DEL", 2), ("DEL", 1)], "is DELeted before the answer")
ok(not os.path.exists("/proc/%d" % hung), "the plugin was killed")
wait_until(lambda: group_gone(hung), "what the plugin had started is gone as well")
r = d.call("add", timeout=700, **one.who())
like("%s %s" % (r.get("grpc"), r.get("error")), "^4 .*no answer in time, killed", "an ADD over its deadline")
is_(called()[-2:], [("DEL", 2), ("DEL", 1)], "is DELeted as well")
tag = d.send("add", **one.who())
d.send("cancel", tag=tag)
is_(d.wait(tag).get("grpc"), 1, "an ADD cancelled before its first plugin")

# --- a plugin that is killed in the middle leaves what no DEL finds: it may end by itself
use(d, fakes("l1", {"who": 1, "leases": LEASES, "go": GO}, {"who": 2}))
hand = os.open(GO, os.O_RDWR)
tag = d.send("add", **one.who())
wait_until(lambda: os.listdir(LEASES), "a lease without an owner")
d.send("cancel", tag=tag)
d.ready()
os.write(hand, b"go")
is_(d.wait(tag).get("grpc"), 1, "an ADD cancelled in the middle")
is_((called(), os.listdir(LEASES)), ([("ADD", 1), ("DEL", 2), ("DEL", 1)], []), "its plugin came to its end, and all of it was undone")
is_(os.listdir(HOLD), [], "nobody works for anybody")
os.unlink(LOG)
for how in ("killed", "ended"):
    tag = d.send("add", **one.who())
    wait_until(lambda: os.listdir(LEASES), "a lease without an owner")
    if how == "killed":
        d.p.kill()
    d.close()
    d = Drive()
    tag = d.send("del", **one.who())
    other = d.call("del", **two.who())
    ok(tag not in d.answers, "daemon %s: a DEL waits for the plugin of the one before, nobody else does" % how)
    os.write(hand, b"go")
    is_((d.wait(tag).get("error"), os.listdir(LEASES)), (None, []), "daemon %s: and finds all that there is" % how)
    is_(os.listdir(HOLD), [], "daemon %s: nobody works for anybody" % how)
os.close(hand)

use(d, {"name": "f5", "cniVersion": "1.0.0", "plugins": [{"type": "nosuchplugin"}]})
like(d.call("add", **one.who()).get("error", ""), 'failed to find plugin "nosuchplugin" in \\[' + re.escape(BIN), "a plugin that is not there")

use(d, fakes("f6", {"who": 1}))
shutil.copy("/bin/true", BIN + "/busy")
use(d, {"name": "f7", "cniVersion": "1.0.0", "plugins": [{"type": "busy"}]})
writer = os.open(BIN + "/busy", os.O_WRONLY)
r = subprocess.run(["sh", "-c", BIN + "/busy"], capture_output=True, text=True, check=False)
if "busy" in r.stderr:
    start = time.monotonic()
    tag = d.send("add", **one.who())
    for _ in range(3):
        d.ready()                              # turns of the loop: the first try is over
    os.close(writer)
    like(d.wait(tag).get("error", ""), "CNI result", "a plugin that is being installed is tried again (and then has no answer)")
    ok(time.monotonic() - start > 0.9, "after a second")
else:
    os.close(writer)
    skip("this kernel runs a program that is open for writing")

# --- 1.1.0: STATUS and GC
use(d, fakes("g1", {"who": 1, "fail": "STATUS", "code": 50}, version="1.1.0"))
wait_until(lambda: "no luck" in d.ready()["why"], "STATUS was asked")
like(d.ready()["why"], "network 'g1': plugin .*no luck; at all", "a plugin that is not available: not ready")
use(d, fakes("g2", {"who": 1}, {"who": 2}, version="1.1.0"))
wait_until(lambda: d.ready()["why"] == "", "ready")
os.unlink(LOG)
is_(d.call("gc", ids=["one", "two"]).get("error"), None, "GC")
is_([c["conf"].get("cni.dev/valid-attachments") for c in calls() if c["command"] == "GC"],
    2 * [[{"containerID": "one", "ifname": "eth0"}, {"containerID": "two", "ifname": "eth0"}]], "each plugin hears which attachments are valid")
use(d, fakes("g4", {"who": 1, "hang": "GC"}, version="1.1.0"))
gc = d.send("gc", ids=["one"], timeout=5000)
wait_until(lambda: ("GC", 1) in called(), "GC runs")
tag = d.send("add", **two.who())
d.ready()
is_((tag in d.answers, [c for c in called() if c[0] == "ADD"]), (False, []), "an ADD waits for GC, which does not know it")
like(d.wait(gc).get("error", ""), "no answer in time", "GC has a deadline")
is_(d.wait(tag).get("ips"), ["10.1.2.3"], "then the ADD goes on")
gc = d.send("gc", ids=["one"])
wait_until(lambda: called().count(("GC", 1)) == 2, "GC runs")
tag = d.send("add", **two.who())
d.send("cancel", tag=tag)
is_(d.wait(tag).get("grpc"), 1, "an ADD that waits can be cancelled")
like(d.call("gc", ids=[]).get("error", ""), "under way", "one GC at a time")
d.send("cancel", tag=gc)
is_(d.wait(gc).get("grpc"), 1, "GC can be cancelled")
os.unlink(LOG)
use(d, fakes("g3", {"who": 1}))
is_((d.call("gc", ids=["one"]).get("error"), called()), (None, []), "before 1.1.0 there is no GC")

# --- the sample, as it is
os.unlink(CONF + "/10-test.conflist")
write_conf("10-cricket.conflist", open(SRC + "/etc/cni/10-cricket.conflist").read())
wait_until(lambda: json.loads(d.ready()["config"] or "{}").get("name") == "cricket", "the sample is in force")
r = d.call("add", ports=[[12081, 80, "tcp"]], **one.who())
is_(r.get("error"), None, "ADD with etc/cni/10-cricket.conflist")
ok("cricket0" in links("bridge"), "its bridge is cricket0")
is_(d.call("del", config=r["config"], result=r["result"], ports=[[12081, 80, "tcp"]], **one.who()).get("error"), None, "DEL with it")

# --- the loop ends while a plugin runs
os.unlink(CONF + "/10-cricket.conflist")
use(d, fakes("h1", {"who": 1, "hang": "ADD"}))
d.send("add", **one.who())
wait_until(lambda: ("ADD", 1) in called(), "the plugin runs")
hung = calls()[0]["pid"]
is_(d.close(), 0, "the driver ends cleanly, with a plugin under way")
ok(not group_gone(hung), "which goes on")
d = Drive(timeout=5000)
d.call("del", **one.who())
ok(group_gone(hung), "until the next call for that pod has waited long enough")
d.close()
reap_orphans(set())
done_testing()
