#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Pods in a user namespace: who is who inside and on the host, layers and volumes mapped without a chown, what root
in there may and may not, the pod's own files, devices, network of the node, exec, a restart of the daemon."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

BASE, GBASE, SIZE = 524288, 655360, 65536
USERNS = user_namespace(BASE, GBASE, SIZE)
UIDS, GIDS = USERNS["uids"], USERNS["gids"]

d = Daemon()
node = d.Status().runtime_handlers[0].features.user_namespaces
if not node:
    why = error(d.RunPodSandbox, config=d.pod_config("refused", userns=USERNS))
    ok(why[0] == "INVALID_ARGUMENT" and "not supported here: " in why[1], "refused with the reason", why)
    skip("this kernel cannot: " + str(why[1]))
    finish(d)
serial = [0]


def runp(name, userns_=USERNS, privileged=False, pid=pb.POD, **fields):
    config = d.pod_config(name, pid=pid, userns=userns_, **fields)
    config.linux.security_context.privileged = privileged
    return d.runp(config=config)


def config(name, command, security=None, userns_=USERNS, pid=pb.POD, net=pb.POD, ipc=pb.POD, **fields):
    c = d.ctr_config(name, command=command, security=security, pid=pid, userns=userns_, **fields)
    options = c.linux.security_context.namespace_options
    options.network, options.ipc = net, ipc
    return c


def start(pod_, command=("sleep", "1000000"), **fields):
    serial[0] += 1
    return d.start(pod_, config=config("c%d" % serial[0], command, **fields))


def out(script, pod_=None, **fields):
    """(exit code, output) of a container that runs a script."""
    c = start(pod_ or pod, ["sh", "-c", script], **fields)
    s = d.wait_exit(c)
    return s.exit_code, b"".join(t + b"\n" for _, _, t in d.log_entries(s.log_path)).decode("utf-8", "replace")


def mapped(host_path, path, **fields):
    return dict({"host_path": host_path, "container_path": path, "uidMappings": UIDS, "gidMappings": GIDS}, **fields)


def lines(text):
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


# --- who is who
pod = runp("p")
code, text = out("id -u; cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups")
is_([line.split() for line in text.splitlines()],
    [["0"], ["0", str(BASE), str(SIZE)], ["0", str(GBASE), str(SIZE)], ["allow"]], "root inside, with the pod's maps")
c = start(pod)
host = d.pid_of(c)
with open("/proc/%d/status" % host) as f:
    status = dict(line.rstrip("\n").split(":\t", 1) for line in f)
is_((status["Uid"].split(), status["Gid"].split()), ([str(BASE)] * 4, [str(GBASE)] * 4), "somebody else on the host")
ns = {n: os.readlink("/proc/%d/ns/%s" % (host, n)) for n in ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup")}
own = {n: os.readlink("/proc/self/ns/" + n) for n in ns}
ok(all(ns[n] != own[n] for n in ("user", "pid", "net", "ipc", "uts", "mnt")), "namespaces of its own", ns, own)
is_(ns["cgroup"] != own["cgroup"], cgroup_is_v2(), "a cgroup namespace on v2")
NS_GET_USERNS = 0xb701


def owner(pid, name):
    fd = os.open("/proc/%d/ns/%s" % (pid, name), os.O_RDONLY)
    try:
        user = fcntl.ioctl(fd, NS_GET_USERNS)
        ino = os.fstat(user).st_ino
        os.close(user)
        return "user:[%d]" % ino
    finally:
        os.close(fd)


for n in ("net", "ipc", "uts", "pid", "mnt") + (("cgroup",) if cgroup_is_v2() else ()):
    is_(owner(host, n), ns["user"], "the %s namespace belongs to the user namespace" % n)

# --- the root file system
code, text = out("""
stat -c 'root=%u:%g' /; stat -c 'sh=%u:%g' /bin/sh; stat -c 'etc=%u:%g' /etc
touch /new /etc/new && stat -c 'new=%u:%g' /new
chown 1000:1001 /new && stat -c 'chown=%u:%g' /new
echo more >> /etc/passwd && stat -c 'copied=%u:%g' /etc/passwd
mkdir -p /a/b && rm -r /a && echo dir=gone
chown 70000 /new 2>/dev/null; echo outside=$?
mknod /null c 1 3 2>/dev/null; echo mknod=$?
mknod /fifo p; echo fifo=$?""")
got = lines(text)
is_(got, {"root": "0:0", "sh": "0:0", "etc": "0:0", "new": "0:0", "chown": "1000:1001", "copied": "0:0",
          "dir": "gone", "outside": "1", "mknod": "1", "fifo": "0"}, "layers are root's, and can be changed")
c = start(pod, ["sh", "-c", "touch /made; chown 7:8 /made; exec sleep 1000000"])
wait_until(lambda: d.sh(c, "stat -c %u /made")[0] == b"7\n", "the file")
if os.path.exists("/proc/keys"):
    look = "sed -n 's/ .*_ses[.]%s: .*//p' /proc/keys" % c
    keyring = d.sh(c, look)[0]
    ok(re.fullmatch(rb"[0-9a-f]+\n", keyring) and d.sh(c, look)[0] == keyring, "one session keyring, for exec too", keyring)
else:
    skip("no keys in this kernel")
uppers = [os.path.join(w, "made") for w, _, names in os.walk(d.root + "/containers") if "made" in names]
ok(uppers and os.stat(uppers[0]).st_uid == BASE + 7 and os.stat(uppers[0]).st_gid == GBASE + 8,
   "stored under the ids that the host sees", uppers)
layer = [os.path.join(w, "busybox") for w, _, names in os.walk(d.root + "/l") if "busybox" in names]
ok(layer and all(os.lstat(p).st_uid == 0 for p in layer), "the layers themselves are not touched", layer)
code, text = out("touch /x /tmp/y 2>&1; echo end; : > /dev/shm/z && ls /dev/shm", security={"readonly_rootfs": True})
ok(text.count("Read-only") == 2 and text.endswith("z\n"), "a read-only root", text)
more = Layer().file("opt/setuid", b"x", 0o4755, uid=5, gid=6)
image2 = d.pull(Image([busybox_layer(), more], {"Volumes": {"/data": {}}, "WorkingDir": "/wd/dir"}), "test/volume")
code, text = out("pwd; touch /data/f && stat -c %u:%g:%a /data/f /data /wd/dir /opt/setuid", image=image2, security={"readonly_rootfs": True})
is_(text.split(), ["/wd/dir", "0:0:644", "0:0:755", "0:0:755", "5:6:4755"], "a volume of the image, a working directory")

# --- file systems of the kernel
code, text = out("""
stat -c '%n=%u:%g:%a' /dev /dev/pts /dev/shm /dev/mqueue /etc/hosts /etc/hostname /etc/resolv.conf /dev/pts/ptmx
echo x >> /etc/hosts && echo hosts=written
: > /dev/null; echo null=$?; head -c 1 /dev/zero | wc -c | sed s/^/zero=/
grep -c ' /proc proc ' /proc/mounts | sed s/^/proc=/
ls /sys/class/net | tr '\\n' ' ' | sed s/^/net=/""")
got = lines(text)
is_({k: got.get(k) for k in ("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")},
    {"/dev": "0:0:755", "/dev/pts": "0:0:755", "/dev/shm": "0:0:1777", "/dev/mqueue": "0:0:1777"}, "/dev is root's")
is_([got.get("/etc/" + f) for f in ("hosts", "hostname", "resolv.conf")], ["0:0:644"] * 3, "the pod's files are root's")
is_((got.get("hosts"), got.get("null"), got.get("zero"), got.get("proc")), ("written", "0", "1", "1"),
    "who may write them; devices work")
is_(got.get("net", "").split(), ["eth0", "lo"], "/sys is that of the pod's network")
code, text = out("exec 2>&1; cat /proc/timer_list | wc -c; echo 1 > /proc/sys/kernel/panic; ls /root | wc -l",
                 security={"masked_paths": ["/proc/timer_list", "/root"], "readonly_paths": ["/proc/sys"]})
ok("Read-only" in text and text.startswith("0\n") and text.endswith("\n0\n"), "masked and read-only paths", text)
code, text = out("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced",
                 runp("sysctl", linux={"sysctls": {"net.ipv4.ip_unprivileged_port_start": "77",
                                                   "kernel.shm_rmid_forced": "1"}}))
is_(text.split(), ["77", "1"], "sysctls of the pod")

# --- who may what
code, text = out("id; grep Groups /proc/self/status; echo hi > /dev/stdout", security={
    "run_as_user": {"value": 1000}, "run_as_group": {"value": 1001}, "supplemental_groups": [5000, 6000]})
ok("uid=1000" in text and "gid=1001" in text and "5000 6000" in text and text.endswith("hi\n"), "another user, groups", text)
ALL = {"capabilities": {"add_capabilities": ["ALL"]}}
code, text = out("exec 2>&1; mkdir /m && mount -t tmpfs x /m && echo mounted; date -s 1999-01-01; "
                 "cat /proc/sys/kernel/panic > /proc/sys/kernel/panic", security=ALL)
ok(text.startswith("mounted\n") and "ermitted" in text and "ermission denied" in text, "all capabilities: in here, not on the host", text)
ok(time.time() > 1e9, "the clock was not set")
fails(d.StartContainer, "UNKNOWN", "user 70000", "a user that is not mapped is refused by name",
      container_id=d.create(pod, config=config("u", ["true"], security={"run_as_user": {"value": 70000}})))

# --- volumes
vol = d.tmp + "/vol"
os.makedirs(vol + "/sub")
for path, uid in ((vol, 0), (vol + "/sub", 0)):
    os.chmod(path, 0o755)
with open(vol + "/file", "w") as f:
    f.write("content\n")
os.chown(vol + "/file", 42, 43)
code, text = out("stat -c '%n=%u:%g' /v /v/file; touch /v/made; chown 9:9 /v/made; echo w=$?", mounts=[mapped(vol, "/v")])
is_(lines(text), {"/v": "0:0", "/v/file": "42:43", "w": "0"}, "a mapped volume shows its owners")
st = os.stat(vol + "/made")
is_((st.st_uid, st.st_gid), (9, 9), "and takes the container's ids")
code, text = out("stat -c '%n=%u:%g' /v/file; touch /v/no 2>&1; echo w=$?", mounts=[{"host_path": vol, "container_path": "/v"}])
is_((lines(text).get("/v/file"), lines(text).get("w")), ("65534:65534", "1"), "one without mappings is nobody's")
code, text = out("cat /f; stat -c %u:%g /f; echo x > /f", mounts=[mapped(vol + "/file", "/f", readonly=True)])
ok(text.startswith("content\n42:43\n") and "Read-only" in text, "a mapped file, read-only", text)
for ref, paths, owners in ((d.image, "/i /i/bin/sh", "0:0\n0:0\n"), (image2, "/i/bin/sh /i/opt/setuid", "0:0\n5:6\n")):
    code, text = out("stat -c %%u:%%g %s; touch /i/x 2>&1" % paths, mounts=[
        {"image": {"image": ref}, "container_path": "/i", "readonly": True, "uidMappings": UIDS, "gidMappings": GIDS}])
    ok(text.startswith(owners) and "Read-only" in text, "an image as a mapped volume", text)
    code, text = out("stat -c %%u:%%g %s" % paths, mounts=[
        {"image": {"image": ref}, "container_path": "/i", "readonly": True}])
    is_(text, "65534:65534\n" * 2, "an image as a volume without mappings")
fails(d.CreateContainer, "INVALID_ARGUMENT", "/v.*differ", "a mount with other maps is refused", pod_sandbox_id=pod,
      config=config("other", ["true"], mounts=[dict(mapped(vol, "/v"), uidMappings=[dict(UIDS[0], host_id=7)])]))
plain = d.runp("plain")
fails(d.CreateContainer, "INVALID_ARGUMENT", "/v.*without a user namespace", "mapped mounts need a user namespace",
      pod_sandbox_id=plain, config=d.ctr_config("other", command=["true"], mounts=[mapped(vol, "/v")]))
fails(d.CreateContainer, "INVALID_ARGUMENT", "differ", "a container with other maps than its pod", pod_sandbox_id=pod,
      config=config("other", ["true"], userns_=dict(USERNS, uids=GIDS)))
fails(d.StartContainer, "UNKNOWN", "/proc.*nvalid argument", "a file system that cannot be mapped is refused by name",
      container_id=d.create(pod, config=config("unmappable", ["true"], mounts=[mapped("/proc", "/h")])))
shm = tempfile.mkdtemp(dir="/dev/shm")      # as kubelet keeps secrets and tokens
with open(shm + "/token", "w") as f:
    f.write("secret\n")
os.chown(shm + "/token", 42, 43)
c = d.create(pod, config=config("tmpfs", ["sh", "-c", "stat -c %u:%g /v/token; cat /v/token"], mounts=[mapped(shm, "/v")]))
why = error(d.StartContainer, container_id=c)
if why[0] == "OK":
    s = d.wait_exit(c)
    is_([t for _, _, t in d.log_entries(s.log_path)], [b"42:43", b"secret"], "a mapped volume on tmpfs")
else:
    kernel = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2])
    ok(kernel < (6, 3) and "map the owners of mount '%s' (on tmpfs: since Linux 6.3): Invalid argument" % shm in why[1],
       "a volume on tmpfs is refused by name where the kernel cannot map it", kernel, why)
shutil.rmtree(shm)

# --- devices
code, text = out("head -c 3 /dev/other | wc -c", devices=[
    {"host_path": "/dev/zero", "container_path": "/dev/other", "permissions": "rwm"}])
is_(text, "3\n", "a device under another name")
big = runp("privileged", privileged=True)
code, text = out("ls /dev | wc -l; cat /proc/self/status | grep CapEff; mount -t tmpfs x /mnt 2>&1 || mount -t tmpfs x /tmp && echo m",
                 big, security={"privileged": True})
ok(code == 0 and int(text.split()[0]) > 8 and text.endswith("m\n"), "a privileged container", text)

# --- exec
c = start(pod, pid=pb.POD)
is_(d.sh(c, "id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /dev/stdout"),
    (("0\n 0 %d %d\nx\n" % (BASE, SIZE)).encode(), b"", 0), "exec: root in the namespace")
c = start(pod, security={"run_as_user": {"value": 1000}, "supplemental_groups": [7]})
o = d.sh(c, "id -u; id -G; echo x > /dev/stdout; touch /etc/x 2>/dev/null; echo $?")
is_((o[0].split()[0], b"7" in o[0].split(), o[0].split()[-2:]), (b"1000", True, [b"x", b"1"]), "exec: the container's user")
c2 = start(pod, pid=pb.CONTAINER)
is_(d.sh(c2, "echo $PPID; ls /proc | grep -c '^1$'")[0], b"0\n1\n", "a PID namespace of the container's own")
d.restart()
is_(d.sh(c2, "id -u; touch /after && stat -c %u /after"), (b"0\n0\n", b"", 0), "exec after a restart of the daemon")
code, text = out("cat /proc/self/uid_map")
is_(text.split(), ["0", str(BASE), str(SIZE)], "and another container in the old pod")
st = d.pod_status(pod).linux.namespaces.options.userns_options
is_((st.mode, st.uids[0].host_id, st.gids[0].length), (pb.POD, BASE, SIZE), "the status says what was asked for")
spec = d.info(c2)["runtimeSpec"]["linux"]
is_((spec["uidMappings"], {"type": "user"} in spec["namespaces"]),
    ([{"containerID": 0, "hostID": BASE, "size": SIZE}], True), "and the verbose one has the maps")

# --- namespaces of the node
hostnet = runp("hostnet", net=False)
c = start(hostnet, net=pb.NODE)
o = d.sh(c, "id -u; grep ' /sys ' /proc/mounts | cut -d' ' -f3,4; touch /sys/x 2>&1; ip link set lo down 2>&1; stat -c %u /etc/hosts")[0].decode()
ok(re.match(r"0\nsysfs ro,nosuid,nodev,noexec", o) and "Read-only" in o and "ermitted" in o and o.endswith("\n0\n"),
   "the node's network: /sys from there, no right over it", o)
hostpid = runp("hostpid", pid=pb.NODE)
c = start(hostpid, pid=pb.NODE)
ok(d.sh(c, "test -e /proc/%d/status && echo there" % os.getpid())[0] == b"there\n", "the node's processes")
p = d.pod_config("hostipc", pid=pb.POD, userns=USERNS)
p.linux.security_context.namespace_options.ipc = pb.NODE
c = start(d.runp(config=p), ipc=pb.NODE)
is_(os.stat("/proc/%d/ns/ipc" % d.pid_of(c)).st_ino, os.stat("/proc/self/ns/ipc").st_ino, "the node's IPC")
small = user_namespace(BASE, GBASE, 1)
code, text = out("stat -c %u:%g / /dev/pts /dev/shm", runp("small", small), userns_=small)
is_(text, "0:0\n" * 3, "a map of one id")

# --- PID 1 of the pod
shared = d.sh(start(pod), "cat /proc/1/comm; ls /proc/1/root 2>&1; readlink /proc/1/exe; echo $?")[0].decode()
ok(shared.startswith("cricket-init\n") and "ermission denied" in shared, "PID 1 of the pod shows nothing", shared)

d.remove_all()
finish(d)
