#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The kubelet's own client library (k8s.io/cri-client) against the daemon: t/go/main.go. Nothing is downloaded: it
runs where Go and the modules of t/go/go.mod are there, in the versions that it names."""
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
image = d.push_image()
unreachable = "127.0.0.1:%d/no/such:image" % free_port(d.net)
run = subprocess.run([client, "unix://" + d.socket, image, d.tmp + "/golog", unreachable], capture_output=True, text=True,
                     timeout=LIMIT * 3, check=False)
for line in run.stdout.splitlines():
    if re.match("(not )?ok ", line):
        ok(line.startswith("ok"), line.split(" - ", 1)[1])
is_(run.returncode, 0, "the client ends with 0")
if run.returncode:
    diag(run.stderr)
d.remove_all()
finish(d)
