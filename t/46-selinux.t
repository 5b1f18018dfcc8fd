#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""SELinux, where the kernel has a policy (t/72-selinux.t has one in a virtual machine): labels of processes and mounts,
categories of pods, options of pods and containers, what is refused, relabelling of volumes."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

need("root")
if not os.path.exists("/sys/fs/selinux/enforce"):
    skip_all("this kernel has no SELinux, or it is off")
d = Daemon()
node = json.loads(d.Status(verbose=True).info["daemon"])["selinux"]
if not node["process"].endswith(":s0"):
    skip("the policy names no contexts for containers: %r" % node)
    finish(d)
USER, ROLE, TYPE, _ = node["process"].split(":")
serial = [0]
ANY = r"s0:c\d{1,4},c\d{1,4}"


def known(context):
    try:
        with open("/sys/fs/selinux/context", "w") as f:
            f.write(context)
        return True
    except OSError:
        return False


def xattr(path):
    return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()


def start(pod, security=None, pid=pb.CONTAINER, **fields):
    serial[0] += 1
    return d.start(pod, "c%d" % serial[0], security=security, pid=pid, **fields)


def label(ctr):
    with open("/proc/%d/attr/current" % d.pid_of(ctr)) as f:
        return f.read().rstrip("\0\n")


def level(context):
    return context.split(":", 3)[3]


def contexts(ctr):
    """{mount point: context} of what has one."""
    with open("/proc/%d/mountinfo" % d.pid_of(ctr)) as f:
        found = [(line.split(" ")[4], re.search(r'[ ,]context="?([^" ]*)"?', line)) for line in f]
    return {point: m[1] for point, m in found if m}


own = known("other_u:system_r:other_t:s0")       # t/vm/selinux-guest


# --- a pod
pod, pod2 = d.runp("p", pid=pb.POD), d.runp("p2")
c = start(pod)
mine = label(c)
like(mine, "^%s:%s:%s:%s$" % (USER, ROLE, TYPE, ANY), "a process' label: the policy's, with two categories")
is_(d.sh(c, "cat /proc/self/attr/current")[0].rstrip(b"\0\n").decode(), mine, "exec has it too")
got = contexts(c)
FILE = got["/"].split(":")[2]
is_({p: got.get(p) for p in ("/", "/dev", "/dev/pts", "/dev/shm")},
    dict.fromkeys(("/", "/dev", "/dev/pts", "/dev/shm"), "%s:object_r:%s:%s" % (USER, FILE, level(mine))),
    "file systems have the files' type and the pod's level")
SHARED, OURS = "%s:object_r:%s:s0" % (USER, FILE), got["/"]
root = "/proc/%d/root" % d.pid_of(c)
is_([xattr(root + "/etc/" + f) for f in ("hosts", "hostname", "resolv.conf")], [SHARED] * 3, "the pod's files")
is_(xattr(root + "/dev/mqueue"), got["/"], "message queues")
like(d.sh(c, "echo x > /dev/shm/x; echo y > /y; cat /dev/shm/x /y /etc/hosts")[0], "^x\ny\n.*localhost", "which it can use")
spec = d.info(c)["runtimeSpec"]
is_((spec["process"].get("selinuxLabel"), spec["linux"].get("mountLabel")), (mine, got["/"]), "the verbose status has both")
is_(label(start(pod)), mine, "another container of the pod has the same label")
c = start(pod, pid=pb.POD)
is_(label(c), mine, "and one that shares its PID namespace")
if own:
    is_(d.sh(c, "cat /proc/1/comm /proc/1/attr/current")[0].rstrip(b"\0\n").decode(), "cricket-init\n" + mine, "as PID 1 there")
    like(d.sh(c, "cat /proc/1/mountinfo")[0], r' / / ro.*,context="[^"]*:object_r:%s:%s",' % (FILE, level(mine)), "and its root")
else:
    skip("another policy than the tests' own", 2)
is_(label(start(pod, {"no_new_privs": True, "run_as_user": {"value": 1000}, "seccomp": {}})), mine, "with no_new_privs")
ok(level(label(start(pod2))) != level(mine), "another pod has other categories")
levels = [level(label(start(d.runp("many%d" % i)))) for i in range(5)]
is_(len(set(levels)), 5, "so has each")
if d.Status().runtime_handlers[0].features.user_namespaces:
    user = user_namespace()
    c = start(d.runp("u", userns=user), {"namespace_options": {"userns_options": user}})
    like(label(c), ":%s:%s$" % (TYPE, ANY), "in a user namespace")
    is_(set(contexts(c).get(p) for p in ("/", "/dev", "/dev/pts", "/dev/shm")),
        {"%s:object_r:%s:%s" % (USER, FILE, level(label(c)))}, "and its file systems")
else:
    skip("no user namespaces", 2)

# --- options
c = start(pod, {"selinux_options": {"level": "s0:c4,c5"}})
is_((label(c), contexts(c)["/"]), (":".join((USER, ROLE, TYPE, "s0:c4,c5")), "%s:object_r:%s:s0:c4,c5" % (USER, FILE)),
    "a level of the container's own")
if own:
    c = start(pod, {"selinux_options": {"user": "other_u", "role": "system_r", "type": "other_t"}})
    is_(label(c), "other_u:system_r:other_t:" + level(mine), "user, role and type; the level is the pod's")
    is_(contexts(c)["/"], "other_u:object_r:%s:%s" % (FILE, level(mine)), "files: the user only")
    p = d.pod_config("options", pid=pb.POD)
    p.linux.security_context.selinux_options.MergeFrom(pb.SELinuxOption(type="other_t", level="s0:c7,c8"))
    p = d.runp(config=p)
    is_(label(start(p)), "%s:%s:other_t:s0:c7,c8" % (USER, ROLE), "options of the pod are its containers'")
    is_(label(start(p, {"selinux_options": {"type": TYPE}})), "%s:%s:%s:s0:c7,c8" % (USER, ROLE, TYPE), "which may say otherwise")
    is_(contexts(start(p))["/dev/shm"], "%s:object_r:%s:s0:c7,c8" % (USER, FILE), "/dev/shm is the pod's")
else:
    skip("another policy than the tests' own", 5)
privileged = d.pod_config("privileged")
privileged.linux.security_context.privileged = True
privileged = d.runp(config=privileged)
c = start(privileged, {"privileged": True, "selinux_options": {"level": "s0:c4,c5"}})
ok(":spc_t:" in label(c) if own else ":%s:" % TYPE not in label(c), "privileged: no label but what the policy says", label(c))
is_(contexts(c)["/"], "%s:object_r:%s:s0:c4,c5" % (USER, FILE), "its files have one")

# --- what is refused
for options, pattern in (
        ({"level": "s0,c4,c5"}, "level 's0,c4,c5' is malformed"), ({"level": "c4"}, "malformed"), ({"level": "s0:c1-"}, "malformed"),
        ({"type": 'x",y'}, "type.*malformed"), ({"type": "no_such_t"}, "no_such_t.*not one of this node's policy"),
        ({"level": "s0:c4096"}, "s0:c4096")):
    for what, security, p in (("", {"selinux_options": options}, pod),
                              (", privileged", {"selinux_options": options, "privileged": True}, privileged)):
        fails(d.CreateContainer, "INVALID_ARGUMENT", pattern, "at create: %s%s" % (options, what), pod_sandbox_id=p,
              config=d.ctr_config("bad", command=["true"], security=security))
    bad = d.pod_config("bad")
    bad.linux.security_context.selinux_options.MergeFrom(pb.SELinuxOption(**options))
    fails(d.RunPodSandbox, "INVALID_ARGUMENT", pattern, "at RunPodSandbox: %s" % options, config=bad)

# --- volumes
vol = d.tmp + "/vol"
os.makedirs(vol + "/a/b/c")
deep = vol + "/a" + "/d" * 100
os.makedirs(deep)
for path in (vol + "/file", vol + "/a/b/file", deep + "/file", d.tmp + "/outside"):
    with open(path, "w") as f:
        f.write("content\n")
os.symlink(d.tmp + "/outside", vol + "/link")
os.mkfifo(vol + "/a/fifo")
os.symlink(vol, d.tmp + "/alias")
before = xattr(d.tmp + "/outside")
c = start(pod, mounts=[{"host_path": vol, "container_path": "/v"}])
is_((xattr(vol), xattr(vol + "/file")), (before, before), "without selinux_relabel a volume stays as it is")
c = start(pod, mounts=[{"host_path": d.tmp + "/alias", "container_path": "/v", "selinux_relabel": True}])
paths = [vol, vol + "/file", vol + "/a/fifo", vol + "/a/b/c", vol + "/a/b/file", vol + "/link", deep, deep + "/file"]
is_([xattr(p) for p in paths], [OURS] * len(paths), "with it all of it is the pod's: the files' type and its level")
is_(xattr(d.tmp + "/outside"), before, "but not what a link in it names")
is_(d.sh(c, "cat /v/file")[0], b"content\n", "which can read it")
os.setxattr(vol + "/file", "security.selinux", b"%s:object_r:%s:s0:c900,c901" % (USER.encode(), FILE.encode()))
if own:
    like(d.sh(c, "cat /v/file")[1], "denied", "and cannot when it is another pod's")
else:
    skip("another policy than the tests' own")
one = start(pod, mounts=[{"host_path": vol + "/file", "container_path": "/f", "selinux_relabel": True}])
is_((xattr(vol + "/file"), d.sh(one, "cat /f")[0]), (OURS, b"content\n"), "a file")
other = start(pod2, mounts=[{"host_path": vol + "/file", "container_path": "/f", "selinux_relabel": True}])
is_(xattr(vol + "/file").split(":", 3)[3], level(label(other)), "the next pod that has it relabelled takes it over")
if own:
    like(d.sh(one, "cat /f")[1], "denied", "from the one before")
else:
    skip("another policy than the tests' own")
start(pod, mounts=[{"host_path": vol + "/file", "container_path": "/f", "selinux_relabel": True}])
is_((xattr(vol + "/file"), d.sh(one, "cat /f")[0]), (OURS, b"content\n"), "and back")
c = start(pod, mounts=[{"host_path": "/proc/version", "container_path": "/version", "selinux_relabel": True}])
like(d.sh(c, "cat /version")[0], "^Linux", "a file system without labels is no error")
for path in ("/", "/usr", "/etc/", "/var/../home"):
    if os.path.isdir(path):
        fails(d.CreateContainer, "INVALID_ARGUMENT", "selinux_relabel of '%s' is not allowed" % path, path + " is refused",
              pod_sandbox_id=pod, config=d.ctr_config("bad", command=["true"], mounts=[
                  {"host_path": path, "container_path": "/v", "selinux_relabel": True}]))
for _ in range(200):
    deep += "/d"
    os.mkdir(deep)
fails(d.StartContainer, "UNKNOWN", "relabel '%s'.*name too long" % vol, "a tree without end is an error", container_id=d.create(
    pod, "deep", command=["true"], mounts=[{"host_path": vol, "container_path": "/v", "selinux_relabel": True}]))
image2 = d.pull(Image([busybox_layer(), Layer().file("opt/x", b"x\n")]), "test/two")
for n, (ref, path) in enumerate(((d.image, "/i/bin/sh"), (image2, "/i/opt/x"))):
    c = start(pod, mounts=[{"image": {"image": ref}, "container_path": "/i", "readonly": True}])
    is_((contexts(c).get("/i"), d.sh(c, "test -e %s && touch /i/no; echo $?" % path)[0]),
        ("%s:object_r:%s:%s" % (USER, FILE, level(mine)), b"1\n"), "an image as a volume, %d layers" % (n + 1))

# --- another launcher, another daemon
if shutil.which("crun"):
    d.config["runtimes"] = {"crun": {"path": shutil.which("crun")}}
    d.restart()
    oci = d.runp("oci", handler="crun")
    c = start(oci, mounts=[{"image": {"image": d.image}, "container_path": "/i", "readonly": True}])
    like(label(c), ":%s:%s$" % (TYPE, ANY), "with an OCI runtime")
    is_({p: contexts(c).get(p) for p in ("/", "/dev", "/dev/shm", "/i")},
        dict.fromkeys(("/", "/dev", "/dev/shm", "/i"), "%s:object_r:%s:%s" % (USER, FILE, level(label(c)))), "its file systems")
    is_(d.sh(c, "cat /proc/self/attr/current")[0].rstrip(b"\0\n").decode(), label(c), "exec")
else:
    d.restart()
    skip("no crun", 3)
is_(label(start(pod)), mine, "a new daemon knows the pod's label")
d.config["selinux"] = False
d.restart()
is_(json.loads(d.Status(verbose=True).info["daemon"])["selinux"], {"enabled": False, "process": ""}, "selinux: false: Status")
c = start(d.runp("off"), {"selinux_options": {"level": "nonsense"}})
ok(":%s:" % TYPE not in label(c), "selinux: false: no labels", label(c))
is_(contexts(c), {}, "selinux: false: no labels of mounts")
d.remove_all()
finish(d)
