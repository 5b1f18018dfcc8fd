# SPDX-License-Identifier: Apache-2.0
"""What a process holds: descriptors, children, threads, memory; to be compared before and after many rounds."""
import collections
import json
import os
import subprocess

from cricket import BUILD, SLOW, diag, proc_argv, proc_find, proc_stat, wait_until

with open(BUILD + "/config.h") as _config:
    SANITIZED = "define SANITIZE 1" in _config.read()    # freed memory is kept for a while there


def supervisor_of(pod):
    """PID of the cricket-pod of a sandbox."""
    found = proc_find(lambda p: "\0".join(proc_argv(p)[:2]).endswith("cricket-pod\0" + pod))
    if not found:
        raise RuntimeError("no supervisor of " + pod)
    return found[0]


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
    return set(proc_find(lambda p: proc_stat(p)[1] == pid))


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
