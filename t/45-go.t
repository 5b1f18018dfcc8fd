#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The kubelet's own client libraries (k8s.io/cri-client, k8s.io/client-go) against the daemon: t/go. Nothing is
downloaded: it runs where Go and the modules of t/go/go.mod are there, in the versions that it names."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

need("go")
d = Daemon(start=False)
client = d.tmp + "/client"
made = subprocess.run(["go", "build", "-o", client, "."], cwd=SRC + "/t/go", capture_output=True, text=True, check=False,
                      env=dict(os.environ, GOPROXY="off", GOFLAGS="-mod=readonly -buildvcs=false", GOTOOLCHAIN="local"))
if made.returncode != 0:
    if not re.search("module lookup disabled|missing go.sum|requires go|toolchain", made.stderr):
        ok(False, "the client builds", made.stderr)
        done_testing()
    d.forget()
    skip_all("the Go modules of t/go/go.mod are not here: " + (made.stderr.splitlines() or ["?"])[0])
d.start_daemon()
with open(BUILD + "/config.h") as config:
    if "define SANITIZE 1" in config.read():
        os.environ["CRICKET_SANITIZED"] = "1"       # freed memory is kept for a while there
image = d.push_image()
unreachable = "127.0.0.1:%d/no/such:image" % free_port(d.net)
run = subprocess.Popen(d.net.prefix() + [client, "unix://" + d.socket, image, d.tmp + "/golog", unreachable, str(d.pid)],
                       stdout=subprocess.PIPE, text=True)
watch = threading.Timer(LIMIT * 3, run.kill)
watch.start()
for line in run.stdout:
    if re.match("(not )?ok ", line):
        ok(line.startswith("ok"), line.rstrip().split(" - ", 1)[1])
watch.cancel()
is_(run.wait(), 0, "the client ends with 0")
if not error(d.Version, _timeout=5)[0] == "OK":      # killed by the client, as its last test
    d.kill_daemon()
    d.start_daemon()
ok(d.ListContainers(filter={"state": {"state": RUNNING}}).containers, "after its restart the container is still running")
d.remove_all()
finish(d)
