#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Layer directories and their numbers over a restart: what a container holds is neither lost nor given out again."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from images import Image, Layer, busybox_layer  # noqa: E402

d = Daemon(cni=False)
base = busybox_layer()


def image(name):
    return Image([base, Layer().file("name", name)], {"Cmd": ["cat", "/name"]})


def numbers():
    return sorted(int(n) for n in os.listdir(d.root + "/l") if n.isdigit())


pod = d.runp("p", net=False)
first = d.pull(image("first"), "test/first")
is_(numbers(), [1, 2], "the first image's layers are numbers 1 and 2")
c = d.create(pod, "holds", image=first, command=())
d.RemoveImage(image={"image": first})
is_(numbers(), [1, 2], "a container holds the layers of an image that is removed")

d.restart()
is_(numbers(), [1, 2], "also over a restart")
second = d.pull(image("second"), "test/second")
is_(len(numbers()), 3, "another image shares the layer below and has one of its own")
ok(not set(numbers()) - {1, 2, 3}, "numbers go on where they were", numbers())
d.restart()
third = d.pull(image("third"), "test/third")
for ref, name in ((second, "second"), (third, "third")):
    e = d.create(pod, name, image=ref, command=(), log_path=name + ".log")
    d.StartContainer(container_id=e)
    is_(d.wait_exit(e).exit_code, 0, "a container of the %s image runs" % name)
    like(d.log_bytes(d.status(e).log_path).decode(), "^%s$" % name, "and has its files, not another's")
d.StartContainer(container_id=c)
is_(d.wait_exit(c).exit_code, 0, "so does the one whose image is gone")
d.RemoveContainer(container_id=c)
wait_until(lambda: 2 not in numbers(), "removal of layer 2")
ok(1 in numbers(), "what only it held goes with it, what others need stays", numbers())
d.remove_all()
d.settle()
finish(d)
