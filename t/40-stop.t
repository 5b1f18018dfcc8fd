#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""StopContainer: the stop signal, the grace period, joined calls, what survives its first process."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon()
pod = d.runp("p", pid=pb.POD)
TRAP = "trap 'echo got TERM; exit 7' TERM; trap 'echo got INT; exit 8' INT; echo ready; while :; do sleep 0.05; done"
DEAF = "trap 'echo got TERM' TERM; echo ready; while :; do sleep 0.05; done"


def start(name, script, **fields):
    c = d.start(pod, name, command=["sh", "-c", script], **fields)
    path = d.status(c).log_path
    wait_until(lambda: os.path.exists(path) and b"ready" in d.log_bytes(path), "the container is ready")
    return c


def count(c, what):
    return d.log_bytes(d.status(c).log_path).count(what)


t = time.monotonic()
c = start("term", TRAP)
d.StopContainer(container_id=c, timeout=600)
s = d.status(c)
is_((s.state, s.exit_code, s.reason), (EXITED, 7, "Error"), "SIGTERM is heard; EXITED when the reply comes")
is_(count(c, b"got TERM"), 1, "it came once")
d.StopContainer(container_id=c, timeout=600)
ok(True, "stopping what has ended is no error")

c = start("int", TRAP, stop_signal=pb.SIGNAL_SIGINT)
is_(d.status(c).stop_signal, pb.SIGNAL_SIGINT, "stop_signal of the request is shown")
d.StopContainer(container_id=c, timeout=600)
is_(d.status(c).exit_code, 8, "and sent")
image = d.pull(Image([busybox_layer()], {"StopSignal": "SIGINT"}), "test/stopsignal")
c = start("image", TRAP, image=image)
is_(d.status(c).stop_signal, pb.SIGNAL_SIGINT, "StopSignal of the image is shown")
d.StopContainer(container_id=c[:13], timeout=600)
is_(d.status(c).exit_code, 8, "and sent")

c = start("deaf", DEAF)
t = time.monotonic()
d.StopContainer(container_id=c, timeout=3)
ok(time.monotonic() - t >= 2.9, "not killed before the grace period ends")
s = d.status(c)
is_((s.exit_code, s.reason), (137, "Error"), "SIGKILL after it")
is_(count(c, b"got TERM"), 1, "after one SIGTERM")

c = start("zero", TRAP)
d.StopContainer(container_id=c, timeout=0)
is_((d.status(c).exit_code, count(c, b"got TERM")), (137, 0), "timeout 0: killed at once")
c = start("negative", TRAP)
d.StopContainer(container_id=c, timeout=-5)
is_(d.status(c).exit_code, 137, "a negative timeout is 0")

# --- joined: one signal, the earliest kill wins, all are answered
c = start("joined", DEAF)
slow = d.StopContainer(_future=True, container_id=c, timeout=3600)
wait_until(lambda: count(c, b"got TERM") == 1, "the first stop has sent its signal")
d.StopContainer(container_id=c, timeout=1)
slow.result()
is_((d.status(c).exit_code, count(c, b"got TERM")), (137, 1), "two stops: the shorter grace counts, both are answered, one signal")

# --- the deadline of the client does not undo the stop
c = start("deadline", DEAF)
fails(d.StopContainer, "DEADLINE_EXCEEDED", "", "the client's deadline", container_id=c, timeout=2, _timeout=0.5)
is_(d.wait_exit(c).exit_code, 137, "the stop goes on without it")

# --- descendants
own = d.runp("own")
for name, p, fields in (("shared pid namespace", pod, {"pid": pb.POD}), ("own pid namespace", own, {})):
    c = d.start(p, "tree", command=["sh", "-c", "setsid sleep 8881 & sh -c 'trap \"\" TERM; sleep 8882 & wait' & "
                                    "echo ready; exec sleep 8883"], **fields)
    path = d.status(c).log_path
    wait_until(lambda: os.path.exists(path) and b"ready" in d.log_bytes(path), "ready")

    def alive():
        return [x for x in os.popen("ps ax -o args").read().splitlines() if re.match("sleep 888[123]$", x)]
    wait_until(lambda: len(alive()) == 3, "the tree is up")
    d.StopContainer(container_id=c, timeout=0)
    is_(alive(), [], name + ": descendants die with the container")

c = d.start(pod, "orphans", command=["sh", "-c", "setsid sleep 8884 & exit 0"], pid=pb.POD)
d.wait_exit(c)
wait_until(lambda: "sleep 8884" not in os.popen("ps ax -o args").read(), "gone")
ok(True, "what outlives its first process in a shared pid namespace is killed")

# --- stopping a pod stops what is in it
cs = [start("in-pod-%d" % i, DEAF) for i in range(4)]
d.StopPodSandbox(pod_sandbox_id=pod)
is_([d.status(c).state for c in cs], [EXITED] * 4, "StopPodSandbox: all EXITED when the reply comes")
is_(len([c for c in d.ListContainers(filter={"pod_sandbox_id": pod}).containers]) > 4, True, "and still listed")
d.remove_all()
finish(d)
