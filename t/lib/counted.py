# SPDX-License-Identifier: Apache-2.0
"""What a process holds: descriptors, children, threads, memory; to be compared before and after many rounds."""
import collections
import json
import os
import subprocess

from cricket import BUILD, SLOW, diag, wait_until

with open(BUILD + "/config.h") as _config:
    SANITIZED = "define SANITIZE 1" in _config.read()    # freed memory is kept for a while there


def supervisor_of(pod):
    """PID of the cricket-pod of a sandbox."""
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % p, "rb") as f:
                if b"cricket-pod\0" + pod.encode() in f.read():
                    return int(p)
        except (FileNotFoundError, ProcessLookupError):
            pass
    raise RuntimeError("no supervisor of " + pod)


def descriptors(pid):
    """{kind: number}: "socket", "pipe", path of a file."""
    found = collections.Counter()
    for n in os.listdir("/proc/%d/fd" % pid):
        try:
            found[os.readlink("/proc/%d/fd/%s" % (pid, n)).split(":[")[0]] += 1
        except FileNotFoundError:
            pass
    return found


def threads(pid):
    return len(os.listdir("/proc/%d/task" % pid))


def of_parent(pid):
    """PIDs of the children of a process, zombies too."""
    found = set()
    for n in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % n) as f:
                text = f.read()
            if int(text[text.rindex(")") + 2:].split()[1]) == pid:
                found.add(int(n))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def private_kb(pid):
    with open("/proc/%d/smaps_rollup" % pid) as f:
        return sum(int(line.split()[1]) for line in f if line.startswith(("Private_Dirty:", "Swap:")))


def heap(d):
    """Bytes that the daemon has allocated and not freed; 0 with a sanitizer, which has an allocator of its own."""
    return json.loads(d.Status(verbose=True).info["daemon"])["heapBytes"]


class Held:
    """What the daemon and a supervisor hold now, to come back to."""

    def __init__(self, d, supervisor):
        self.d = d
        self.who = {"cricketd": d.pid, "cricket-pod": supervisor}
        self.before = {n: (descriptors(p), of_parent(p), threads(p)) for n, p in self.who.items()}

    def more(self, name):
        """In words, what there is more of than before; "" at rest."""
        pid, (fds, children, tasks) = self.who[name], self.before[name]
        found = ["%d of %s" % (n, what) for what, n in (descriptors(pid) - fds).items()]
        found += ["child %d" % p for p in of_parent(pid) - children]
        if threads(pid) > tasks:
            found.append("%d threads" % threads(pid))
        return ", ".join(found)

    def at_rest(self, name):
        """Waits until there is no more than before; what there still is."""
        try:
            wait_until(lambda: not self.more(name), name + " at rest", 30 * SLOW)
        except TimeoutError:
            diag(subprocess.run(self.d.net.prefix() + ["ss", "-apnxt"], capture_output=True, text=True, check=False).stdout)
        return self.more(name)
