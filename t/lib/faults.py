# SPDX-License-Identifier: Apache-2.0
"""strace(1) as a source of accidents: at its n-th system call of some kind the daemon is killed, or the call fails.

    with Accident(d, "pwrite64,fdatasync", "error=ENOSPC", 3):
        ...
    names = watch(d, fn)       # what the daemon itself (not its children) calls while fn runs

Only the one traced process is meant: children of the daemon are never disturbed.
"""
import os
import re
import select
import subprocess
import time

import cricket


class Strace:
    def __init__(self, daemon, *args):
        self.daemon = daemon
        self.proc = subprocess.Popen(["strace", "-qq", "-p", str(daemon.pid), *args], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        cricket.wait_until(self.attached, "strace is attached")

    def attached(self):
        if self.proc.poll() is not None:
            if dead(self.daemon):    # the accident came first: being attached to ends its wait, and it calls
                return True
            raise RuntimeError("strace: " + self.proc.stderr.read().decode("utf-8", "replace"))
        with open("/proc/%d/status" % self.daemon.pid) as f:
            return ("TracerPid:\t%d\n" % self.proc.pid) in f.read()

    def stop(self):
        if self.proc.poll() is None:
            self.proc.terminate()
        self.proc.wait()
        self.proc.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Accident(Strace):
    def __init__(self, daemon, calls, what, when):
        super().__init__(daemon, "-o", daemon.tmp + "/accident", "-e", "trace=" + calls,
                         "-e", "inject=%s:%s:when=%s" % (calls, what, when))

    def happened(self):
        with open(self.daemon.tmp + "/accident", errors="replace") as f:
            text = f.read()
        return "(INJECTED)" in text or "SIGKILL" in text


def watch(daemon, fn):
    """The names of the daemon's own system calls while fn() runs, in order."""
    path = daemon.tmp + "/calls"
    with Strace(daemon, "-o", path, "-e", "signal=none"):
        fn()
    with open(path, errors="replace") as f:
        return re.findall(r"^(\w+)\(", f.read(), re.M)


def dead(daemon):
    """Has the daemon ended (by an accident)? Then it is waited for."""
    fd = os.pidfd_open(daemon.pid)
    try:
        return bool(select.select([fd], [], [], 0)[0])
    finally:
        os.close(fd)


def gone(daemon, limit=5):
    """A client was told that the connection is lost: waits until the daemon's end is seen as well."""
    end = time.monotonic() + limit * cricket.SLOW
    while not dead(daemon):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True
