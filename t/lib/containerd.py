# SPDX-License-Identifier: Apache-2.0
"""Debian's containerd with runc as a test's own, beside a cricketd: the same client, the same requests.

    d = Daemon()
    cd = Containerd(d)                            # registry and network namespace are d's
    cd.PullImage(image={"image": d.image})
    pod = cd.runp("web", linux={"cgroup_parent": cd.cgroup})

Nothing is installed: the two packages are unpacked in build/peers, or $CRICKET_PEERS, by `t/lib/packages --unpack
build/peers unpacked`, as ./runtests does. containerd has a mount namespace of its own, in which overlays lie on /run and
/var/lib: /run/containerd, /run/netns and /var/lib/cni are not the machine's, and what it mounts is gone with it and its
shims. Its root, state and socket are in the test's directory, its cgroups below the parent that the pods name, taken
away when it ends."""
import json
import os

from cricket import SRC, Daemon, Image, busybox_layer, cgroup_mounts, skip_all

PEERS = os.environ.get("CRICKET_PEERS") or os.path.join(SRC, "build", "peers")
PROGRAMS = {"containerd": "usr/bin/containerd", "runc": "usr/sbin/runc"}


def need_containerd():
    for package, path in PROGRAMS.items():
        if not os.access(os.path.join(PEERS, package, path), os.X_OK):
            skip_all("no %s in %s (t/lib/packages --unpack %s unpacked)" % (package, PEERS, PEERS))


def toml(value, path=()):
    """Nested dicts as TOML: a table per dict; strings, numbers and lists are as in JSON."""
    plain = "".join("%s = %s\n" % (json.dumps(k), json.dumps(v)) for k, v in value.items() if not isinstance(v, dict))
    head = "[%s]\n" % ".".join(map(json.dumps, path)) if path else ""
    return head + plain + "".join(toml(v, (*path, k)) for k, v in value.items() if isinstance(v, dict))


class Containerd(Daemon):
    fraction = rb"(?:\.\d{1,9})?"    # of the seconds in a log: without zeros at the end

    def __init__(self, beside, **more):
        self.pause = beside.push_image(Image([busybox_layer()], {"Entrypoint": ["sleep"], "Cmd": ["1000000"]}), "test/pause")
        super().__init__(other=beside, **more)

    def command(self, *more):
        settings = {
            "version": 2, "root": self.root, "state": self.state,
            "disabled_plugins": ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
                                 "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
                                 "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"],
            "grpc": {"address": self.socket},
            "plugins": {"io.containerd.grpc.v1.cri": {
                "sandbox_image": self.pause,
                "restrict_oom_score_adj": True,        # as cricket does where it may not go lower
                "disable_apparmor": True,              # it would load a profile into the machine's kernel
                "disable_hugetlb_controller": False,
                "cni": {"bin_dir": self.config["cni"]["bin_dirs"][0], "conf_dir": self.config["cni"]["conf_dirs"][0]},
                "containerd": {"default_runtime_name": "runc", "runtimes": {"runc": {
                    "runtime_type": "io.containerd.runc.v2",
                    "options": {"BinaryName": os.path.join(PEERS, "runc", PROGRAMS["runc"]), "SystemdCgroup": False}}}}}}}
        with open(self.tmp + "/config.toml", "w") as f:
            f.write(toml(settings))
        return ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c",
                'for on in /run /var/lib; do mkdir -p "$0/over$on/u" "$0/over$on/w" && mount -t overlay overlay '
                '-o lowerdir=$on,upperdir="$0/over$on/u",workdir="$0/over$on/w" $on || exit; done; exec "$@"', self.tmp,
                os.path.join(PEERS, "containerd", PROGRAMS["containerd"]), "--config", self.tmp + "/config.toml", *more]

    def stop_daemon(self):
        code = super().stop_daemon()
        for mount, _, _ in cgroup_mounts():            # runc leaves the parents of its containers' cgroups
            for where, _, _ in os.walk(mount + self.cgroup, topdown=False):
                try:
                    os.rmdir(where)
                except OSError:                        # finish() will say which
                    pass
        return code
