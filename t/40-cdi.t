#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""CDI devices in a container: nodes, mounts, variables and groups of a JSON and a YAML specification; what cannot be
done is refused by name."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon(cni=False, start=False)
specs = [d.tmp + "/cdi-etc", d.tmp + "/cdi-run"]
d.config["cdi"] = {"spec_dirs": specs}
for s in specs:
    os.mkdir(s)
os.mkdir(d.tmp + "/lib")
with open(d.tmp + "/lib/libgpu.so", "w") as f:
    f.write("driver\n")


def write(where, name, text):
    with open(specs[where] + "/" + name, "w") as f:
        f.write(text if isinstance(text, str) else json.dumps(text, indent=1))


# one that is not among those that every container has
some = next((p for p in ("/dev/loop-control", "/dev/fuse", "/dev/autofs", "/dev/btrfs-control") if os.path.exists(p)), "/dev/zero")
number = os.stat(some).st_rdev

write(0, "gpu.json", {
    "cdiVersion": "0.6.0", "kind": "test.vendor/gpu",
    "containerEdits": {"env": ["GPU_DRIVER=1"], "additionalGids": [4711],
                       "mounts": [{"hostPath": d.tmp + "/lib", "containerPath": "/usr/lib/gpu",
                                   "options": ["ro", "nosuid", "nodev", "bind"]}]},
    "devices": [{"name": "0", "containerEdits": {"env": ["GPU=0"], "deviceNodes": [
                    {"path": "/dev/gpu0", "hostPath": "/dev/null", "fileMode": 0o640, "gid": 4711},
                    {"path": "/dev/dir/gpuctl", "hostPath": some, "permissions": "r", "fileMode": 0o666}]}},
                {"name": "1", "containerEdits": {"env": ["GPU=1"]}},
                {"name": "rdt", "containerEdits": {"intelRdt": {"closID": "cricket-has-no-such"}}}]})
write(1, "tool.yaml", """
cdiVersion: "1.0.0"
kind: test.vendor/tool
devices:
- name: all
  containerEdits:
    env: [TOOL=yes]
    mounts:
    - {hostPath: tmpfs, containerPath: /scratch, type: tmpfs, options: [nosuid, size=64k]}
""")
write(1, "broken.yaml", "cdiVersion: 1.0.0\nkind: [\n")
d.start_daemon()
pod = d.runp("p", config=d.pod_config("p", net=False))


def create(name, *devices):
    return d.create(pod, name, config=d.ctr_config(name, d.image, ["sleep", "1000"], CDI_devices=[{"name": n} for n in devices]))


ctr = create("main", "test.vendor/gpu=0", "test.vendor/tool=all")
d.StartContainer(container_id=ctr)


def sh(script):
    return d.sh(ctr, script)[0].decode().strip()


is_(sh("stat -c '%A %t:%T %u:%g' /dev/gpu0"), "crw-r----- 1:3 0:4711", "a device node with its mode and group")
is_(sh("stat -c '%F %t:%T' /dev/dir/gpuctl"), "character special file %x:%x" % (os.major(number), os.minor(number)),
    "one in a directory, as on the host")
is_(d.sh(ctr, ": </dev/dir/gpuctl")[2], 0, "which can be read")
if some == "/dev/zero":
    skip("this machine has no device that containers do not have anyway")
else:
    ok(b"not permitted" in d.sh(ctr, ": >/dev/dir/gpuctl")[1], "and not written, as its permissions say")
is_(sh("cat /usr/lib/gpu/libgpu.so"), "driver", "a mount")
ok(d.sh(ctr, "touch /usr/lib/gpu/x")[2] != 0, "which is read-only")
is_(sh("grep ' /scratch ' /proc/mounts | cut -d' ' -f3"), "tmpfs", "a file system of its own")
is_(sh("echo $GPU_DRIVER $GPU $TOOL"), "1 0 yes", "variables, in an exec too")
is_(sh("tr '\\0' '\\n' </proc/1/environ | grep -c GPU"), "2", "and of the first process")
ok("4711" in sh("id -G").split(), "the additional group", sh("id -G"))
plain = d.start(pod, "plain", d.image, ["sleep", "1000"])
is_(d.sh(plain, "ls /dev/gpu0 /usr/lib/gpu 2>/dev/null; echo $GPU_DRIVER")[0], b"\n", "a container without devices has none of it")


def refused(device, pattern, name):
    got = error(lambda: create("no", device))
    ok(got[0] == "INVALID_ARGUMENT" and re.search(pattern, str(got[1])), name, got)


refused("test.vendor/gpu=7", "'test.vendor/gpu=7' is not found.*broken.yaml", "an unknown device, and the file that cannot be read")
refused("gpu0", "'gpu0' is not of the form vendor/class=device", "a name that is none")
# what there is of it: t/46-resctrl.t
c = create("rdt", "test.vendor/gpu=rdt")
is_(d.info(c)["runtimeSpec"]["linux"]["intelRdt"], {"closID": "cricket-has-no-such"}, "intelRdt is taken, and shown")
fails(d.StartContainer, "UNKNOWN|INTERNAL|INVALID_ARGUMENT", "intelRdt: (no resctrl is mounted|there is no group)", "but a start needs resctrl", container_id=c)
write(1, "gpu.yaml", "cdiVersion: 1.0.0\nkind: test.vendor/gpu\ndevices:\n- {name: '1', containerEdits: {env: [GPU=other]}}\n")
c = create("later", "test.vendor/gpu=1")
d.StartContainer(container_id=c)
is_(d.sh(c, "echo $GPU")[0], b"other\n", "a later directory wins, without a restart")
d.remove_all()
wait_until(lambda: not os.listdir(d.root + "/containers"), "the slow deletion of what the containers wrote")
finish(d)
