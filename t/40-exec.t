#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ExecSync: output, codes, the context of the container, timeouts that leave nothing running, large output."""
import collections
import os
import resource
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from counted import supervisor_of  # noqa: E402

# 256 requests that wait for the supervisor hold some 1,600 descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
d = Daemon(config={"supervisor_stall": "1h"})     # one stands still here for as long as it takes
pod = d.runp("p", pid=pb.POD)
ctr = d.start(pod, "main", envs=[{"key": "WHO", "value": b"main"}], working_dir="/tmp",
              security={"supplemental_groups": [77], "capabilities": {"drop_capabilities": ["ALL"]}, "no_new_privs": True})

is_(d.exec(ctr, "echo", "hi"), (b"hi\n", b"", 0), "stdout, a program from the container's PATH")
is_(d.sh(ctr, "echo out; echo err >&2; exit 3"), (b"out\n", b"err\n", 3), "stdout, stderr and the code apart")
is_(d.sh(ctr, "kill -9 $$"), (b"", b"", 137), "killed by a signal: 128 + n")
is_(d.exec(ctr[:13], "true"), (b"", b"", 0), "by id prefix, no output")
is_(d.exec(ctr, "cat"), (b"", b"", 0), "stdin is at its end")
is_(d.exec(ctr, "printf", "a\\000b\\377"), (b"a\0b\xff", b"", 0), "any bytes")
is_(d.exec(ctr, "printf", "%s|", "", " ", "a b"), (b"| |a b|", b"", 0), "arguments are not split or dropped")
sizes = list(range(8000, 17000, 500)) + [100000]     # what fits into a message to the supervisor, and what does not
is_([n for n in sizes if d.exec(ctr, "printf", "%s", "x" * n) != (b"x" * n, b"", 0)], [], "nor cut, however long")

out, _, _ = d.sh(ctr, "echo $WHO; pwd; id -G; grep -E '^(CapBnd|CapEff|NoNewPrivs):' /proc/self/status; hostname")
lines = out.decode().split("\n")
is_(lines[0], "main", "the container's environment")
is_(lines[1], "/tmp", "its working directory")
is_(lines[2], "0 77", "its groups")
ok("CapBnd:\t" + "0" * 16 in lines and "CapEff:\t" + "0" * 16 in lines, "its capabilities", *lines)
ok("NoNewPrivs:\t1" in lines, "its no_new_privs")
is_(lines[-2], "p", "its host name")
out, _, _ = d.sh(ctr, "for n in mnt pid net ipc uts; do readlink /proc/self/ns/$n; done")
pid = d.pid_of(ctr)
is_(out.decode().split(), [os.readlink("/proc/%d/ns/%s" % (pid, n)) for n in ("mnt", "pid", "net", "ipc", "uts")],
    "its namespaces")
out, _, _ = d.exec(ctr, "cat", "/proc/self/cgroup")
ok(all(ctr in line for line in out.decode().splitlines() if d.cgroup in line) and ctr in out.decode() or cgroup_is_v2(),
   "its cgroups", out.decode())
is_(d.exec(ctr, "cat", "/proc/self/cgroup")[0], out, "and those of the next one")
d.restart()
is_([d.exec(ctr, "cat", "/proc/self/cgroup")[0] for _ in range(2)], [out] * 2, "and of those that a new daemon starts")

# --- errors
for name, pattern, argv in (("no such program", "No such file|not found", ["/no/such"]),
                            ("not in PATH", "nosuchprogram", ["nosuchprogram"]),
                            ("not executable", "[Pp]ermission denied", ["/etc/passwd"])):
    fails(d.ExecSync, "UNKNOWN|NOT_FOUND|INVALID_ARGUMENT|INTERNAL", pattern, name, container_id=ctr, cmd=argv)
fails(d.ExecSync, "INVALID_ARGUMENT", "", "no command", container_id=ctr, cmd=[])
fails(d.ExecSync, "NOT_FOUND", "0000", "unknown container", container_id="0" * 64, cmd=["true"])
made = d.create(pod, "made", command=["true"])
fails(d.ExecSync, "FAILED_PRECONDITION", "", "a container that does not run yet", container_id=made, cmd=["true"])
d.StartContainer(container_id=made)
d.wait_exit(made)
fails(d.ExecSync, "FAILED_PRECONDITION", "", "a container that has ended", container_id=made, cmd=["true"])

# --- timeouts
def running(what):
    return [x for x in d.sh(ctr, "ps")[0].decode().splitlines() if what in x and "sh -c" not in x]

t = time.monotonic()
fails(d.ExecSync, "DEADLINE_EXCEEDED", "", "a timeout is DeadlineExceeded", container_id=ctr, timeout=1,
      cmd=["sh", "-c", "sleep 7771 & setsid sleep 7772 & (setsid sleep 7774 &); trap '' TERM HUP INT; sleep 7773"])
ok(time.monotonic() - t >= 0.9, "not before its time")
wait_until(lambda: not running("sleep 777"), "everything that the command had started is killed")
ok(True, "nothing of it is left running")
is_(d.exec(ctr, "sleep", "0.05", timeout=50)[2], 0, "a timeout that does not come")
f = d.ExecSync(_future=True, container_id=ctr, cmd=["sh", "-c", "(setsid sleep 7781 &); sleep 7781"])
wait_until(lambda: len(running("sleep 7781")) >= 2, "the exec runs")
f.cancel()
wait_until(lambda: not running("sleep 7781"), "a cancelled exec is killed")
ok(True, "a cancelled exec is killed")
fails(d.ExecSync, "DEADLINE_EXCEEDED", "", "the deadline of the RPC", container_id=ctr, cmd=["sleep", "7791"], _timeout=1)
wait_until(lambda: not running("sleep 7791"), "is the exec's end")
ok(True, "ends the exec too")

# --- a grandchild that keeps the output open
t = time.monotonic()
out, err, code = d.sh(ctr, "echo first; sleep 7801 & exit 4")
is_((out, code), (b"first\n", 4), "a grandchild that keeps the output does not hold the reply for ever")
d.sh(ctr, "pkill sleep || kill $(pidof sleep) || true")

# --- much output
out, err, code = d.sh(ctr, "head -c 3000000 /dev/zero | tr '\\0' x; head -c 2000000 /dev/zero | tr '\\0' y >&2")
ok(out == b"x" * 3000000 and err == b"y" * 2000000 and code == 0, "megabytes on both streams",
   len(out), len(err), code)
r = d.ExecSync(container_id=ctr, cmd=["sh", "-c", "head -c 30000000 /dev/zero; head -c 30000000 /dev/zero >&2; exit 5"])
ok(15 << 20 < len(r.stdout) + len(r.stderr) < 16 << 20, "more than fits: cut, so that the reply fits the client's limit",
   len(r.stdout), len(r.stderr))
is_(r.exit_code, 5, "the command is not disturbed")

# --- many at once
futures = [d.ExecSync(_future=True, container_id=ctr, cmd=["sh", "-c", "echo %d; exit %d" % (i, i)]) for i in range(40)]
got = [f.result() for f in futures]
is_([(g.stdout, g.exit_code) for g in got], [(b"%d\n" % i, i) for i in range(40)], "forty at once")

# --- more than the supervisor takes up: it stands still meanwhile
def client_of_its_own():
    c = Client(d.socket)
    c.close()
    c._channel = grpc.insecure_channel("unix:" + d.socket, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])
    return c


if resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 4096:
    fresh = d.start(pod, "fresh")
    supervisor, clients = supervisor_of(pod), [client_of_its_own() for _ in range(8)]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        futures = [c.ExecSync(_future=True, container_id=ctr, cmd=["true"]) for _ in range(100) for c in clients]
        wait_until(lambda: any(f.done() for f in futures), "the first one is refused")
        got = next(f for f in futures if f.done())
        is_((got.code().name, re.sub("[0-9a-f]{64}", "ID", got.details())),
            ("RESOURCE_EXHAUSTED", "exec in container ID: exec: 256 requests wait for the sandbox already"), "too many at once are refused")
        for f in futures[::2]:               # all those of every other client
            f.cancel()
        wait_until(lambda: error(d.ExecSync, container_id=ctr, cmd=["true"], _timeout=0.5)[0] == "DEADLINE_EXCEEDED", "room for others")
        ok(True, "those that were cancelled make room")
        error(d.ExecSync, container_id=fresh, cmd=["true"], _timeout=0.5)    # the first one there, given up
    finally:
        os.kill(supervisor, signal.SIGCONT)
    out, _, _ = d.exec(fresh, "cat", "/proc/self/cgroup")
    ok(fresh in out.decode() or cgroup_is_v2(), "the next one is in the container's cgroups", out.decode())
    codes = collections.Counter(f.code().name for f in futures[1::2])
    ok(codes["OK"] and codes.keys() <= {"OK", "RESOURCE_EXHAUSTED"}, "the others are carried out", codes)
    for c in clients:
        c.close()
else:
    skip("not enough descriptors for a full queue", 4)

# --- the container ends while an exec runs
f = d.ExecSync(_future=True, container_id=ctr, cmd=["sleep", "7811"])
wait_until(lambda: running("sleep 7811"), "the exec runs")
d.StopContainer(container_id=ctr, timeout=0)
try:
    ok(f.result().exit_code == 137, "the container's end is the exec's: 137")
except grpc.RpcError as e:
    ok(e.code() != grpc.StatusCode.DEADLINE_EXCEEDED, "the container's end is the exec's", e.details())
wait_until(lambda: not any(" 7811" in c for c in os.popen("ps ax -o args").read().splitlines() if "sleep" in c), "killed")
d.remove_all()
finish(d)
