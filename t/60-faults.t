#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""System calls of the daemon that fail once, at many points of each operation: the client gets an error that says why (or
nothing is lost by the failure), what was begun is undone, the daemon goes on, and asking again succeeds."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from faults import Accident, dead, watch  # noqa: E402

need("root", "strace")
SANITIZED = b"__asan_init" in open(BUILD + "/cricketd", "rb").read()
EACH = 1 if SANITIZED else 4         # points for each kind of call in each operation
# what can fail in a daemon's life, and how
KINDS = {
    "openat": "EMFILE", "open": "EMFILE", "memfd_create": "EMFILE", "socketpair": "EMFILE", "socket": "EMFILE", "pipe2": "EMFILE",
    "fcntl": "EMFILE", "pidfd_open": "EMFILE", "clone": "EAGAIN", "mkdirat": "ENOSPC", "mkdir": "ENOSPC", "write": "ENOSPC",
    "pwrite64": "ENOSPC", "pwritev": "ENOSPC", "ftruncate": "ENOSPC", "rename": "ENOSPC", "renameat": "ENOSPC", "sendmsg": "ENOBUFS",
    "fstat": "EIO", "newfstatat": "EIO", "getdents64": "EIO", "pread64": "EIO", "read": "EIO", "unlinkat": "EIO", "unlink": "EIO",
    "rmdir": "EIO", "open_tree": "EMFILE", "move_mount": "ENOMEM", "setns": "ENOMEM", "unshare": "ENOMEM", "mount": "ENOMEM",
}
TEXTS = {"EMFILE": "Too many open files", "EAGAIN": "Resource temporarily unavailable", "ENOSPC": "No space left",
         "ENOBUFS": "No buffer space", "EIO": "Input/output error", "ENOMEM": "Cannot allocate memory"}
LIMIT_RPC = 20 * SLOW
wrong = []
d = Daemon()
base = d.runp("base")
ticks = d.start(base, "ticks")
pid = d.pid_of(ticks)
number = [0]
broken = None                        # the call that fails


def check(passed, *what):
    if not passed:
        wrong.append(" ".join(str(w) for w in what))


def sleeper(pod):
    number[0] += 1
    return d.create(pod, "s%d" % number[0], command=["sleep", "1000000"])


# each: prepare() gives an x for act(x); undone(x): what must be true when that failed; again(x): what to do it with then;
# tidy(x, reply): what must be true when it did not fail

class Kind:
    def undone(self, x):
        pass

    def again(self, x):
        return x


class Runp(Kind):
    def prepare(self):
        return d.pod_config()

    def act(self, c):
        return d.RunPodSandbox(config=c, _timeout=LIMIT_RPC).pod_sandbox_id

    def undone(self, c):
        found = [p for p in d.ListPodSandbox().items if p.metadata.name == c.metadata.name]
        check(not [p for p in found if p.state == READY], "a pod is READY although its run failed")
        for p in found:
            d.RemovePodSandbox(pod_sandbox_id=p.id)

    def tidy(self, c, reply):
        check(d.run(reply, "works", ["true"])[0].exit_code == 0, "the pod does not work")
        d.RemovePodSandbox(pod_sandbox_id=reply)


class Create(Kind):
    def prepare(self):
        number[0] += 1
        return d.ctr_config("c%d" % number[0], command=["true"])

    def act(self, c):
        return d.CreateContainer(pod_sandbox_id=base, config=c, _timeout=LIMIT_RPC).container_id

    def undone(self, c):
        check(c.metadata.name not in [x.metadata.name for x in d.ListContainers().containers], "a container is there")

    def tidy(self, c, reply):
        d.RemoveContainer(container_id=reply)


class Start(Kind):
    new = None

    def prepare(self):
        return sleeper(base)

    def act(self, c):
        d.StartContainer(container_id=c, _timeout=LIMIT_RPC)

    def undone(self, c):
        s = d.status(c)
        check((s.state, s.exit_code, s.reason) == (EXITED, 128, "StartError") and s.message and s.finished_at,
              "a start that failed", s.state, s.exit_code, s.reason, s.message)

    def again(self, c):
        d.RemoveContainer(container_id=c)
        self.new = sleeper(base)
        return self.new

    def tidy(self, c, reply):
        d.RemoveContainer(container_id=c)
        if self.new:
            d.RemoveContainer(container_id=self.new)
        self.new = None


class Exec(Kind):
    def prepare(self):
        return ticks

    def act(self, c):
        r = d.ExecSync(container_id=c, cmd=["sh", "-c", "echo hi"], _timeout=LIMIT_RPC)
        return r.stdout, r.exit_code

    def tidy(self, c, reply):
        check(reply == (b"hi\n", 0) or broken == "read", "exec says", reply)


class Stop(Kind):
    def prepare(self):
        c = sleeper(base)
        d.StartContainer(container_id=c)
        return c

    def act(self, c):
        d.StopContainer(container_id=c, timeout=0, _timeout=LIMIT_RPC)

    def tidy(self, c, reply):
        check(d.status(c).exit_code == 137, "exit code", d.status(c).exit_code)
        d.RemoveContainer(container_id=c)


class Rm(Stop):
    def act(self, c):
        d.RemoveContainer(container_id=c, _timeout=LIMIT_RPC)

    def tidy(self, c, reply):
        check(c not in [x.id for x in d.ListContainers().containers], "a removed container is listed")


class Rmp(Kind):
    def prepare(self):
        pod = d.runp()
        d.StartContainer(container_id=sleeper(pod))
        return pod

    def act(self, pod):
        d.StopPodSandbox(pod_sandbox_id=pod, _timeout=LIMIT_RPC)
        d.RemovePodSandbox(pod_sandbox_id=pod, _timeout=LIMIT_RPC)

    def tidy(self, pod, reply):
        check(pod not in [x.id for x in d.ListPodSandbox().items], "a removed pod is listed")


def act(op, x):
    try:
        return op.act(x)
    except grpc.RpcError as e:
        # the same pod, cut off by the loss of the connection, is being undone
        if e.code().name == "ALREADY_EXISTS":
            return "not yet"
        raise


for kind in (Runp, Create, Start, Exec, Stop, Rm, Rmp):
    op = kind()
    op.tidy(x := op.prepare(), op.act(x))      # caches are filled
    x = op.prepare()
    got = []
    calls = watch(d, lambda: got.append(op.act(x)))
    op.tidy(x, got[0])
    points = failures = 0
    for name in sorted(set(calls) & set(KINDS)):
        n = calls.count(name)
        for when in sorted({1 + n * i // EACH for i in range(EACH)}):
            where = "%s: %s %d of %d fails with %s:" % (kind.__name__, name, when, n, KINDS[name])
            x = op.prepare()
            reply, fail, broken = None, None, name
            with Accident(d, name, "error=" + KINDS[name], when) as a:
                try:
                    reply = op.act(x)
                except grpc.RpcError as e:
                    fail = e
            points += a.happened()
            had = len(wrong)
            # a read that fails may be one of the client's socket after the reply: what is asked next meets a lost connection
            wait_until(lambda: dead(d) or error(d.Version)[0] == "OK", "the daemon is heard")
            if dead(d):
                check(False, "the daemon has ended")
                d.kill_daemon()
                d.start_daemon()
            elif fail:
                failures += 1
                # read: that was the client's socket; write, too: a pipe to a plugin, which then says what it misses
                lost = ("UNAVAILABLE",) if name == "read" else ()
                check(fail.code().name in ("UNKNOWN", "FAILED_PRECONDITION") + lost, fail.code(), fail.details())
                check(name in ("read", "write") or TEXTS[KINDS[name]] in fail.details(), "does not say why:", fail.details())
                arrived = fail.code().name != "UNAVAILABLE"
                try:
                    if arrived:
                        op.undone(x)
                    y = op.again(x) if arrived else x
                    reply = wait_until(lambda: [r for r in [act(op, y)] if r != "not yet"], "what was cut off is undone")
                    op.tidy(x, reply[0])
                except grpc.RpcError as e:
                    check(False, "asked again:", e.code(), e.details())
            else:
                op.tidy(x, reply)
            check(d.status(ticks).state == RUNNING and d.pid_of(ticks) == pid, "a container was disturbed")
            wrong[had:] = [where + " " + w for w in wrong[had:]]
    ok(not wrong, "%s: %d calls failed, %d operations with them" % (kind.__name__, points, failures), *wrong)
    del wrong[:]
d.remove_all()
d.restart(kill=False)                # what could not be deleted then is now
finish(d)
