#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The pod network through CNI: addresses, names, ports, the node's network, and what happens when a plugin fails."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

need("ip")
if not os.path.exists("/usr/lib/cni/bridge"):
    skip_all("needs the CNI plugins (containernetworking-plugins)")
d = Daemon()


def links():
    out = subprocess.run(d.net.prefix() + ["ip", "-j", "link"], capture_output=True, check=True).stdout
    return sorted(i["ifname"] for i in json.loads(out))


# --- addresses, names
pod = d.runp("web", dns_config={"servers": ["10.0.0.10", "10.0.0.11"], "searches": ["ns.svc", "svc"], "options": ["ndots:5"]})
ip = d.pod_status(pod).network.ip
web = d.start(pod, "web", command=["sh", "-c", "mkdir -p /www && echo page > /www/index.html && exec httpd -f -p 80 -h /www"])


def get(url):
    def once():
        try:
            return d.fetch(url)
        except ConnectionRefusedError:
            return None
    return wait_until(once, url)


is_(get("http://%s/" % ip), (200, b"page\n"), "a page through the pod's address")
is_(d.exec(web, "hostname")[0], b"web\n", "the host name")
is_(d.exec(web, "cat", "/etc/hostname")[0], b"web\n", "/etc/hostname")
is_(d.exec(web, "cat", "/etc/resolv.conf")[0], b"search ns.svc svc\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n",
    "/etc/resolv.conf")
like(d.exec(web, "cat", "/etc/hosts")[0], r"(?m)^127\.0\.0\.1\s+localhost", "/etc/hosts: localhost")
like(d.exec(web, "cat", "/etc/hosts")[0], r"(?m)^%s\s+web" % re.escape(ip), "/etc/hosts: the pod")
like(d.exec(web, "ip", "addr")[0], r"127\.0\.0\.1/8[\s\S]*%s" % re.escape(ip), "lo is up, eth0 has the address")
second = d.start(pod, "second")
is_(d.sh(second, "wget -q -O - http://127.0.0.1/")[0], b"page\n", "containers of a pod share the network")
client = d.runp("client")
c = d.start(client)
is_(d.sh(c, "wget -q -O - http://%s/" % ip)[0], b"page\n", "pods reach each other")
is_(d.sh(c, "cat /etc/resolv.conf")[0].decode(), open("/etc/resolv.conf").read(), "no dns_config: the node's resolv.conf")

# --- the node's network
host = d.runp("host", net=False)
h = d.start(host)
is_(d.pod_status(host).network.ip, "", "the node's network: no address of its own")
is_(os.readlink("/proc/%d/ns/net" % d.pid_of(h)), os.readlink("/proc/%d/ns/net" % d.pid), "it is the daemon's namespace")
is_(d.exec(h, "hostname")[0].decode().strip(), os.uname().nodename, "and the node's name")
is_(d.sh(h, "wget -q -O - http://%s/" % ip)[0], b"page\n", "and reaches pods")

# --- ports of the node
if shutil.which("iptables"):
    port = free_port(d.net)
    got = error(d.RunPodSandbox, config=d.pod_config("ports", port_mappings=[
        {"protocol": pb.TCP, "container_port": 80, "host_port": port}, {"container_port": 81}]))
    if got[0] == "OK":
        p = got[1].pod_sandbox_id
        d.start(p, command=["sh", "-c", "mkdir -p /www && echo mapped > /www/index.html && exec httpd -f -p 80 -h /www"])
        # from the node's own loopback this needs route_localnet, which the portmap plugin sets
        is_(get("http://127.0.0.1:%d/" % port), (200, b"mapped\n"), "a host port leads into the pod")
        d.remove(p)
        rules = subprocess.run(d.net.prefix() + ["iptables-save"], capture_output=True, text=True, check=False).stdout
        ok(p not in rules, "its rules are removed with it")
    else:
        skip("the portmap plugin does not work here: " + got[1][:200].replace("\n", " "), 2)
else:
    skip("needs the program iptables", 2)

# --- sysctls
p = d.runp(config=d.pod_config("sysctl", linux={"sysctls": {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1",
                                                            "fs.mqueue.msg_max": "100"}}))
c = d.start(p)
is_(d.sh(c, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max")[0], b"80\n1\n100\n",
    "sysctls of the pod")
is_(d.sh(h, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")[0] != b"80\n", True, "are not the node's")
d.remove(p)

# --- stop gives the address back
n = len(links())
used = set()
for i in range(3):
    p = d.runp("again-%d" % i)
    used.add(d.pod_status(p).network.ip)
    d.StopPodSandbox(pod_sandbox_id=p)
    is_(len(links()), n, "stopped: its veth is gone (%d)" % i)
    d.remove(p)
leases = [x for x in os.listdir(d.tmp + "/ipam/test") if x[0].isdigit()]
is_(len(leases), 2, "only the running pods hold addresses")

# --- a plugin that fails, one that hangs
plugins = d.tmp + "/plugins"
os.mkdir(plugins)
with open(plugins + "/broken", "w") as f:
    f.write("""#!/bin/sh
cat >/dev/null
echo "$CNI_COMMAND $CNI_IFNAME $CNI_CONTAINERID" >> %s/calls
[ "$CNI_COMMAND" = DEL ] && exit 0
[ "$CNI_COMMAND" = VERSION ] && { echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'; exit 0; }
echo '{"cniVersion":"1.0.0","code":111,"msg":"no more cables","details":"drawer is empty"}'
exit 1
""" % d.tmp)
with open(plugins + "/hangs", "w") as f:
    f.write("""#!/bin/sh
cat >/dev/null
echo "$CNI_COMMAND" >> %s/hangs
[ "$CNI_COMMAND" = ADD ] && exec sleep 9991
exit 0
""" % d.tmp)
with open(plugins + "/grumbles", "w") as f:
    f.write("""#!/bin/sh
cat >/dev/null
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}]}' ;;
CHECK) echo '{"cniVersion":"1.0.0","code":112,"msg":"not as I like it"}'; exit 1 ;;
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}' ;;
esac
""")
for p in ("broken", "hangs", "grumbles"):
    os.chmod(plugins + "/" + p, 0o755)
chain = d.bridge()
chain["name"] = "broken"
chain["plugins"] = [chain["plugins"][0], {"type": "broken"}]
e = Daemon(other=d, config={"cni": {"conf_dirs": [d.tmp + "/net2.d"], "bin_dirs": ["/usr/lib/cni", plugins]}})
like([c.message for c in e.Status().status.conditions if c.type == "NetworkReady"][0], "cni|CNI", "no network config: Status says so")
fails(e.RunPodSandbox, "UNKNOWN|UNAVAILABLE|FAILED_PRECONDITION", "cni", "no network config: no pod", config=e.pod_config("x"))
p = e.runp("host", net=False)
ok(p, "but one on the node's network")
e.remove(p)
os.makedirs(d.tmp + "/net2.d", exist_ok=True)
with open(d.tmp + "/tmp.conflist", "w") as f:
    json.dump(chain, f)
os.rename(d.tmp + "/tmp.conflist", d.tmp + "/net2.d/10.conflist")
wait_until(lambda: all(c.status for c in e.Status().status.conditions), "NetworkReady follows the directory")
ok(True, "a config that appears is taken")
n = len(links())
fails(e.RunPodSandbox, "UNKNOWN|INTERNAL", "no more cables", "a plugin's error is shown", config=e.pod_config("x"))
is_([x.split()[0] for x in open(d.tmp + "/calls").read().splitlines() if not x.startswith("VERSION")], ["ADD", "DEL"], "ADD failed: DEL")
is_(len(links()), n, "what the first plugin made is undone")
is_(len(e.ListPodSandbox().items), 0, "no pod is left")
like(e.log_text(), "level=error op=runp id=.* err='.*no more cables", "the daemon's log has the error too")
chain["plugins"][1] = {"type": "hangs"}
chain["name"] = "hangs"
with open(d.tmp + "/tmp.conflist", "w") as f:
    json.dump(chain, f)
os.rename(d.tmp + "/tmp.conflist", d.tmp + "/net2.d/10.conflist")
wait_until(lambda: "hangs" in str(e.Status(verbose=True).info), "the new config is loaded")
t = time.monotonic()
fails(e.RunPodSandbox, "DEADLINE_EXCEEDED", "", "a plugin that hangs: the client's deadline", config=e.pod_config("y"), _timeout=1.5 * SLOW)
is_(e.Version().runtime_name, "cricket", "meanwhile the daemon answers")
wait_until(lambda: os.path.exists(d.tmp + "/hangs") and "DEL" in open(d.tmp + "/hangs").read().split(), "DEL after the deadline")
wait_until(lambda: len(links()) == n, "the veth is undone")
ok("sleep 9991" not in os.popen("ps ax -o args").read().splitlines(), "the plugin is killed")
wait_until(lambda: not e.ListPodSandbox().items, "the pod is gone")
wait_until(lambda: re.search("level=info op=runp id=.* err='.* (ran out of time|was cancelled)'", e.log_text()),
           "the log says that the client called it off: no error")

# --- a plugin that is not content with what is there: bridge is not when the bridge has got another address
# meanwhile, portmap (1.1.1) never where a pod has no IPv6
with open(d.tmp + "/tmp.conflist", "w") as f:
    json.dump({"cniVersion": "1.0.0", "name": "grumbles", "plugins": [{"type": "grumbles"}]}, f)
os.rename(d.tmp + "/tmp.conflist", d.tmp + "/net2.d/10.conflist")
wait_until(lambda: "grumbles" in str(e.Status(verbose=True).info), "the new config is loaded")
p = e.runp("grumble")
e.restart()
wait_until(lambda: "op=check" in e.log_text(), "the attachment is checked after a restart")
like(e.log_text(), "level=info op=check sandbox=%s err='.*not as I like it" % p, "what CHECK finds fault with is no warning")
is_((e.pod_status(p).state, e.pod_status(p).network.ip), (pb.SANDBOX_READY, "10.1.2.3"), "the pod stays as it is")
e.remove(p)

# --- kill -9 and then stop: DEL with what was kept, although the config is gone
p = d.runp("kept")
os.unlink(d.tmp + "/net.d/10-test.conflist")
d.restart()
before = len(links())
d.remove(p)
is_(len(links()), before - 1, "after a crash and without the config the network is given back")
d.remove_all()
left = [x for x in os.listdir(d.tmp + "/ipam/test") if x[0].isdigit()]
is_(left, [], "no address is held any more")
finish(e, d)
