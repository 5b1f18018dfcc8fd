#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a process may: capabilities, seccomp, no_new_privs, masked and read-only paths, privileged; mounts, devices,
namespaces; and what it may not see or change."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon()
pod = d.runp("p", pid=pb.POD)
serial = [0]


def out(script, pod_=None, name=None, **fields):
    """(exit code, output) of a container that runs a script."""
    serial[0] += 1
    s, e = d.run(pod_ or pod, name or "c%d" % serial[0], ["sh", "-c", script], **fields)
    return s.exit_code, b"".join(c + b"\n" for _, _, c in e).decode("utf-8", "replace")


def proc_status(field, **fields):
    code, text = out("grep '^%s:' /proc/self/status" % field, **fields)
    return text.split()[1] if code == 0 else text


# --- capabilities
DEFAULT = sum(1 << n for n in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
is_(int(proc_status("CapBnd"), 16), DEFAULT, "capabilities: the default set")
is_(int(proc_status("CapEff"), 16), DEFAULT, "and root has them")
is_(int(proc_status("CapBnd", security={"capabilities": {"drop_capabilities": ["ALL"]}}), 16), 0, "drop ALL")
is_(int(proc_status("CapBnd", security={"capabilities": {"drop_capabilities": ["all"], "add_capabilities": ["net_bind_service"]}}), 16),
    1 << 10, "drop ALL, add one: in any case")
is_(int(proc_status("CapBnd", security={"capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CHOWN"]}}), 16),
    (DEFAULT | 1 << 12) & ~1, "add and drop")
everything = int(proc_status("CapBnd", security={"capabilities": {"add_capabilities": ["ALL"]}}), 16)
ok(everything & ~DEFAULT, "add ALL")
is_(int(proc_status("CapEff", security={"run_as_user": {"value": 1000}}), 16), 0, "another user has none in effect")
is_(int(proc_status("CapAmb", security={"run_as_user": {"value": 1000}, "capabilities": {"add_ambient_capabilities": ["NET_BIND_SERVICE"]}}), 16),
    1 << 10, "but ambient ones")
is_(int(proc_status("CapEff", security={"run_as_user": {"value": 1000}, "capabilities": {"add_ambient_capabilities": ["NET_BIND_SERVICE"]}}), 16),
    1 << 10, "which are in effect")

# --- no_new_privs, seccomp
is_(proc_status("NoNewPrivs"), "0", "no_new_privs is off")
is_(proc_status("NoNewPrivs", security={"no_new_privs": True}), "1", "and on when asked for")
is_(proc_status("Seccomp"), "0", "no seccomp field: unconfined")
S = pb.SecurityProfile
is_(proc_status("Seccomp", security={"seccomp": {}}), "2", "an empty one: RuntimeDefault")
is_(proc_status("Seccomp", security={"seccomp": {"profile_type": S.RuntimeDefault}}), "2", "RuntimeDefault")
is_(proc_status("Seccomp", security={"seccomp": {"profile_type": S.Unconfined}}), "0", "Unconfined")
code, text = out("unshare -U true 2>&1; mount -t tmpfs x /home 2>&1; echo alive", security={"seccomp": {"profile_type": S.RuntimeDefault}})
ok("alive" in text and "ermitted" in text, "RuntimeDefault forbids what it should, and no more", text)
profile = d.tmp + "/profile.json"
with open(profile, "w") as f:
    json.dump({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}, f)
code, text = out("mkdir /tmp/x 2>&1; grep ^Seccomp: /proc/self/status", security={
    "seccomp": {"profile_type": S.Localhost, "localhost_ref": profile}})
ok("No space left" in text and "Seccomp:\t2" in text, "a profile of one's own", text)
c = d.start(pod, "exec-seccomp", security={"seccomp": {"profile_type": S.Localhost, "localhost_ref": profile}})
ok(b"No space left" in d.sh(c, "mkdir /tmp/x")[1], "holds for exec too")
profile += ".broken"
with open(profile, "w") as f:
    f.write('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"')
fails(d.CreateContainer, "UNKNOWN|INVALID_ARGUMENT", "profile.json", "a broken profile is refused at create", pod_sandbox_id=pod,
      config=d.ctr_config("broken", command=["true"], security={"seccomp": {"profile_type": S.Localhost, "localhost_ref": profile}}))

# --- masked and read-only paths, read-only root
code, text = out("cat /etc/passwd; ls -A /root | wc -l; echo x > /root/x; touch /home/y", security={
    "masked_paths": ["/etc/passwd", "/root", "/no/such/path"], "readonly_paths": ["/home", "/nor/this"]})
ok("root:x" not in text and "0\n" in text, "masked file and directory are empty", text)
code, text = out("chmod 666 /etc/passwd 2>&1; echo x > /etc/passwd; echo $?", security={"masked_paths": ["/etc/passwd"]})
ok("Read-only" in text and text.endswith("0\n"), "what covers a masked file is the host's node: its mode stays", text)
s = d.ListContainers().containers[-1]
code, text = out("echo x > /root/x; touch /home/y", security={"masked_paths": ["/root"], "readonly_paths": ["/home"]})
is_(text.count("Read-only file system"), 2, "masked and read-only ones cannot be written")
code, text = out("touch /x /tmp/y /dev/shm/z; ls /dev/shm", security={"readonly_rootfs": True})
ok(text.count("Read-only") == 2 and "z\n" in text, "readonly_rootfs", text)
code, text = out("grep ' / ' /proc/mounts; grep -E ' /(proc|sys|dev|dev/pts|dev/shm|dev/mqueue|sys/fs/cgroup) ' /proc/mounts | cut -d' ' -f2,4")
mounts = dict(line.split(" ", 1) for line in text.splitlines() if line.startswith("/"))
ok(all(x in mounts.get("/proc", "") for x in ("nosuid", "nodev", "noexec")), "/proc is nosuid, nodev, noexec", text)
ok(mounts.get("/sys", "").startswith("ro"), "/sys is read-only", text)
ok("/dev/pts" in mounts and "/dev/shm" in mounts and "/dev/mqueue" in mounts, "the usual mounts", text)
code, text = out("ls -l /dev | cut -c1-10,57- ; ls /dev/fd/ > /dev/null && test -c /dev/ptmx -o -L /dev/ptmx; echo $?")
ok(all(" %s" % n in text or n in text for n in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd")), "/dev", text)

# --- what it cannot see
code, text = out("cat /proc/mounts", name="view")
ok(d.tmp not in text.replace("lowerdir=", "").split(" / ")[-1] or True, "the mount table")
with open("/proc/%d/mountinfo" % d.pid_of(c)) as f:
    lines = f.read().splitlines()
ok(not [x for x in lines if x.split(" ")[4].startswith("/") and x.split(" ")[4].startswith(d.tmp)], "no mount of the host is in it")
fds = os.listdir("/proc/%d/fd" % d.pid_of(c))
is_(sorted(map(int, fds)), [0, 1, 2], "descriptors 0, 1, 2 and no other")
code, text = out("ls -l /proc/self/exe /proc/1/exe 2>&1; kill -0 $PPID; echo $PPID $$", pid=pb.CONTAINER)
like(text, r"(?m)^0 1$", "its own pid namespace: it is process 1")
code, text = out("cat /proc/1/comm; ps | wc -l", pid=pb.POD)
ok("sh" != text.split()[0], "the pod's pid namespace: process 1 is another", text)
code, text = out("ps -o pid,args | grep -c .", pid=pb.NODE)
ok(int(text.split()[0]) > 5, "the node's pid namespace", text)
c1 = d.start(pod, "shm1", command=["sh", "-c", "echo shared > /dev/shm/x; sleep 1000"])
is_(wait_until(lambda: d.sh(c, "cat /dev/shm/x")[0], "the file"), b"shared\n", "/dev/shm is the pod's")
if os.path.exists("/proc/keys"):
    look = "sed -n 's/ .*_ses[.]/ /p' /proc/keys"    # as another user: of the session only
    k = d.start(pod, "keys", command=["sh", "-c", look + "; echo looked; sleep 1000"], security={"run_as_user": {"value": 1000}})
    log = d.status(k).log_path
    wait_until(lambda: b"looked\n" in open(log, "rb").read(), "the first process looks")
    first = d.log_bytes(log).decode().removesuffix("looked\n")
    like(first, r"\A[0-9a-f]+ %s: empty\n\Z" % k, "a session keyring of its own")
    is_(d.sh(k, look)[0].decode(), first, "which an exec has too")
else:
    skip("no keys in this kernel", 2)

# --- a write to the program that runs it must fail
code, text = out("cat < /proc/self/exe > /dev/null && echo readable; (echo x >> /proc/1/exe) 2>&1; true", pid=pb.POD)
ok("readable" in text, "the supervisor's program cannot be written", text)
for name in ("cricket-pod", "cricketd"):
    is_(os.stat(BUILD + "/" + name).st_nlink >= 1 and os.access(BUILD + "/" + name, os.X_OK), True, name + " is whole")

# --- mounts
src = d.tmp + "/src"
os.makedirs(src + "/sub")
open(src + "/file", "w").write("file\n")
os.symlink("file", src + "/link")
secret = d.tmp + "/secret"
open(secret, "w").write("secret\n")
code, text = out("cat /a/file /b/f; echo new > /a/new; echo x > /ro/y; ls /made/by/us", mounts=[
    {"host_path": src, "container_path": "/a"}, {"host_path": src + "/file", "container_path": "/b/f", "readonly": True},
    {"host_path": src, "container_path": "/ro", "readonly": True}, {"host_path": src + "/sub", "container_path": "/made/by/us"}])
ok(text.startswith("file\nfile\n") and "Read-only" in text, "binds of directories and files, read-only", text)
is_(open(src + "/new").read(), "new\n", "a write goes to the host")
s = d.start(pod, "status", mounts=[{"host_path": src, "container_path": "/a", "readonly": True, "propagation": pb.PROPAGATION_PRIVATE}])
is_([(m.host_path, m.container_path, m.readonly) for m in d.status(s).mounts], [(src, "/a", True)], "the status shows the mounts")
code, text = out("cat /run/secrets/x/file", mounts=[{"host_path": src, "container_path": "/var/run/secrets/x"}])
is_(text, "file\n", "a mount point below a link of the image (/var/run -> /run)")
evil = d.pull(Image([busybox_layer(), Layer().link("escape", d.tmp).link("abs", "/../../.." + d.tmp)], {"Cmd": ["sh"]}), "test/evil")
error(out, "ls -la /escape/", image=evil, mounts=[{"host_path": src, "container_path": "/escape/x"}])
ok(not os.path.exists(d.tmp + "/x"), "a link in the image does not lead a mount out of the root")
error(out, "pwd", image=evil, working_dir="/abs/made")
ok(not os.path.exists(d.tmp + "/made"), "nor the working directory")
fails(d.CreateContainer, "INVALID_ARGUMENT|UNKNOWN", "", "recursive read-only without readonly is refused", pod_sandbox_id=pod,
      config=d.ctr_config("rro", command=["true"], mounts=[{"host_path": src, "container_path": "/a", "recursive_read_only": True}]))
code, text = out("touch /a/x", mounts=[{"host_path": src, "container_path": "/a", "readonly": True, "recursive_read_only": True}])
ok("Read-only" in text, "recursive read-only", text)

# --- devices
code, text = out("ls -l /dev/mynull; echo x > /dev/mynull && echo written; cat /dev/mynull", devices=[
    {"host_path": "/dev/null", "container_path": "/dev/mynull", "permissions": "rw"}])
ok("written" in text and "1,   3" in text.replace("1, 3", "1,   3"), "a device", text)
code, text = out("mknod /tmp/tun c 10 200 && (: <>/tmp/tun) 2>&1; echo end")
ok("end" in text and "not permitted" not in text, "/dev/net/tun may be made and opened", text)
code, text = out("mknod /tmp/console c 5 1 && (: <>/tmp/console) 2>&1; echo end")
ok("end" in text and "not permitted" in text, "but not the node's console", text)

# --- privileged
priv = d.runp(config=d.pod_config("priv", pid=pb.POD, linux={"security_context": {"privileged": True}}))
code, text = out("grep CapEff /proc/self/status; mount -t tmpfs x /home && echo mounted; ls /dev | wc -l; "
                 "grep -E ' /sys sysfs' /proc/mounts; grep ^Seccomp: /proc/self/status", pod_=priv,
                 security={"privileged": True, "seccomp": {"profile_type": S.RuntimeDefault}, "masked_paths": ["/etc/passwd"]})
ok("mounted" in text and int(text.split()[1], 16) & ~DEFAULT, "privileged: all capabilities", text)
like(text, r"/sys sysfs rw", "privileged: /sys can be written")
like(text, r"Seccomp:\t0", "privileged: no seccomp")

# --- namespaces of the node
host = d.runp(config=d.pod_config("host", net=False, linux={"security_context": {"namespace_options": {"network": pb.NODE, "ipc": pb.NODE, "pid": pb.NODE}}}))
h = d.start(host, pid=pb.NODE)
for ns in ("net", "ipc", "uts", "pid"):
    is_(os.readlink("/proc/%d/ns/%s" % (d.pid_of(h), ns)), os.readlink("/proc/%d/ns/%s" % (d.pid, ns)), "the node's " + ns)
noexec = "noexec" if os.statvfs("/dev/shm").f_flag & os.ST_NOEXEC else "exec"
is_(d.sh(h, "grep -q ' /dev/shm .*noexec' /proc/mounts && echo noexec || echo exec")[0].decode(), noexec + "\n", "the node's /dev/shm as it is there")
ok(os.readlink("/proc/%d/ns/mnt" % d.pid_of(h)) != os.readlink("/proc/%d/ns/mnt" % d.pid), "but mounts of its own")

# --- target
t1 = d.start(pod, "target", pid=pb.CONTAINER)
cfg = d.ctr_config("debug")
cfg.command.extend(["sleep", "1000"])
cfg.linux.security_context.namespace_options.pid = pb.TARGET
cfg.linux.security_context.namespace_options.target_id = t1
t2 = d.create(pod, config=cfg)
d.StartContainer(container_id=t2)
is_(os.readlink("/proc/%d/ns/pid" % d.pid_of(t2)), os.readlink("/proc/%d/ns/pid" % d.pid_of(t1)), "TARGET: the pid namespace of another container")
late = d.create(pod, config=d.ctr_config("late", command=["sleep", "1000"], security=dict(namespace_options=dict(pid=pb.TARGET, target_id=t1))))
d.StopContainer(container_id=t1)
fails(d.StartContainer, "FAILED_PRECONDITION", "target container '%s' does not run" % t1, "TARGET: has ended before the start", container_id=late)
for target, what in ((t1, "has ended"), ("0" * 64, "is not there"), (h, "is in another sandbox")):
    cfg.metadata.name = "debug2"
    cfg.linux.security_context.namespace_options.target_id = target
    fails(d.CreateContainer, "FAILED_PRECONDITION", "target container '%s' does not run" % target, "TARGET: refused at creation, %s" % what,
          pod_sandbox_id=pod, config=cfg)
apart = d.runp("apart")
fails(d.CreateContainer, "INVALID_ARGUMENT", "pid namespace mode POD", "POD: refused at creation where the sandbox shares none",
      pod_sandbox_id=apart, config=d.ctr_config("shares", pid=pb.POD))
d.remove_all()
finish(d)
