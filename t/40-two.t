#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Two daemons side by side with their own root, state and socket; a third one on the same root is refused."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

a = Daemon()
b = Daemon(other=a)
ref = a.image
is_([i.repo_tags[0] for i in a.ListImages().images], [ref], "the first has an image")
is_(list(b.ListImages().images), [], "the second has none")
b.PullImage(image={"image": ref})
b.images["busybox"] = ref
same = a.pod_config("same")
pa, pb_ = a.runp(config=same), b.runp(config=same)
ok(pa != pb_, "the same pod in both")
ca, cb = a.start(pa), b.start(pb_)
is_([p.id for p in a.ListPodSandbox().items], [pa], "each lists its own")
fails(a.ContainerStatus, "NOT_FOUND", "", "and does not know the other's", container_id=cb)
b.kill_daemon()
is_(a.sh(ca, "echo a"), (b"a\n", b"", 0), "the death of one is nothing to the other")
b.start_daemon()
is_(b.sh(cb, "echo b"), (b"b\n", b"", 0), "and it comes back")
a.remove(pa)
is_(b.sh(cb, "echo b"), (b"b\n", b"", 0), "removing in one leaves the other alone")

c = subprocess.run(a.net.prefix() + [x.replace(a.socket, a.tmp + "/third.sock") for x in a.command()],
                   capture_output=True, text=True, timeout=LIMIT, check=False)
ok(c.returncode not in (0, -9, -15) and c.returncode > 0, "a second daemon on the same root ends with an error", c.returncode)
like(c.stderr, "root|lock|store|already", "and says why")
is_(a.Version().runtime_name, "cricket", "the first is not disturbed")
b.remove(pb_)
finish(b, a)
