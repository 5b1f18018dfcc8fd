#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Container logs: the CRI format, long and unfinished lines, two streams, rotation, slow and missing places."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon()
pod = d.runp("p")


def written(name, script, **fields):
    status, entries = d.run(pod, name, ["sh", "-c", script], **fields)
    return status, entries


s, e = written("plain", "echo one; echo two; echo; printf 'a b  c\\n'")
is_(e, [("stdout", "F", b"one"), ("stdout", "F", b"two"), ("stdout", "F", b""), ("stdout", "F", b"a b  c")], "lines")
is_(s.log_path, os.path.join(d.logs, "1", "plain.log"), "log_path")
is_(oct(os.stat(s.log_path).st_mode & 0o777), "0o640", "mode 0640")
s, e = written("streams", "echo out; echo err >&2")
is_(sorted(e), [("stderr", "F", b"err"), ("stdout", "F", b"out")], "stdout and stderr")
s, e = written("unfinished", "printf 'no newline'")
is_(e, [("stdout", "P", b"no newline")], "bytes left at the end: tag P")
s, e = written("bytes", "printf 'a\\000b\\377\\r\\n'")
is_(e, [("stdout", "F", b"a\0b\xff\r")], "any bytes, CR is kept")
s, e = written("long", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
ok(all(tag == "P" for _, tag, _ in e[:-2]) and e[-2][1] == "F", "a long line is cut into P ... F")
is_(d.log_bytes(s.log_path), b"x" * 100000 + b"\nend\n", "and nothing of it is lost")
ok(max(len(c) for _, _, c in e) <= 16384, "no entry is longer than 16 KiB")
s, e = written("exact", "head -c 16384 /dev/zero | tr '\\0' x; echo; head -c 16385 /dev/zero | tr '\\0' y; echo")
is_(d.log_bytes(s.log_path), b"x" * 16384 + b"\n" + b"y" * 16385 + b"\n", "lines at the edge of the limit")
s, e = written("much", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
is_([c for _, _, c in e], [b"line %d" % i for i in range(20000)], "20,000 lines in order")
s, e = written("mixed", "(i=0; while [ $i -lt 3000 ]; do echo o$i; i=$((i+1)); done) & "
               "(i=0; while [ $i -lt 3000 ]; do echo e$i >&2; i=$((i+1)); done); wait")
is_([c for st, _, c in e if st == "stdout"], [b"o%d" % i for i in range(3000)], "two streams at once: stdout")
is_([c for st, _, c in e if st == "stderr"], [b"e%d" % i for i in range(3000)], "two streams at once: stderr")
s, e = written("tty", "echo one; echo two >&2; tty", tty=True)
is_(e[:2], [("stdout", "F", b"one\r"), ("stdout", "F", b"two\r")], "a terminal: one stream, CR LF")
like(e[2][2], "/dev/(pts/0|console)", "and it is a terminal")

# stamps do not go back
stamps = [line.split(b" ", 1)[0] for line in open(os.path.join(d.logs, "1", "much.log"), "rb")]
is_(stamps, sorted(stamps), "stamps do not go back")

# --- where it goes
config = d.pod_config("deep", log_directory=d.tmp + "/deep/er/est")
p2 = d.runp(config=config)
s, e = d.run(p2, "c", ["echo", "hi"], log_path="sub/dir/0.log")
is_((s.log_path, e), (d.tmp + "/deep/er/est/sub/dir/0.log", [("stdout", "F", b"hi")]), "missing parents are made")
s, e = d.run(p2, "again", ["echo", "ho"], log_path="sub/dir/0.log")
is_([c for _, _, c in e], [b"hi", b"ho"], "an existing file is appended to")
s = d.start(p2, "silent", command=["sh", "-c", "head -c 1000000 /dev/zero; exit 3"], log_path="")
s = d.wait_exit(s)
is_((s.exit_code, s.log_path), (3, ""), "no log_path: output is discarded, nobody waits")
p3 = d.runp(config=d.pod_config("nologs", log_directory=""))
s = d.wait_exit(d.start(p3, "c", command=["echo", "x"]))
is_((s.exit_code, s.log_path), (0, ""), "no log_directory: the same")
c = d.create(p3, "c2", command=["true"])

# --- what a descendant writes, and a container that exits with its output still open
s, e = written("late", "(sleep 0.3; echo late) & echo early")
is_(e[0], ("stdout", "F", b"early"), "output before the end is in the log when EXITED shows")

# --- reopen
script = "i=0; while :; do echo n $i; i=$((i+1)); usleep 200; done"
c = d.start(pod, "rotate", command=["sh", "-c", script])
path = d.status(c).log_path
def lines(p):
    with open(p, "rb") as f:
        return f.read().count(b"\n")
old = []
for i in range(5):
    wait_until(lambda: os.path.exists(path) and lines(path) > 50, "the log grows")
    os.rename(path, "%s.%d" % (path, i))
    d.ReopenContainerLog(container_id=c)
    ok(os.path.exists(path), "reopened: the file is there when the reply comes (%d)" % i)
    old.append("%s.%d" % (path, i))
sizes = [os.stat(p).st_size for p in old]
wait_until(lambda: lines(path) > 50, "the log grows")
is_([os.stat(p).st_size for p in old], sizes, "the old files do not grow any more")
d.StopContainer(container_id=c, timeout=0)
numbers = [int(x[2].split()[1]) for p in old + [path] for x in d.log_entries(p) if x[1] == "F"]
is_(numbers, list(range(len(numbers))), "no line is lost or split or twice")
os.unlink(path)
fails(d.ReopenContainerLog, "FAILED_PRECONDITION|UNKNOWN", "", "reopening the log of a stopped container is refused", container_id=c)
ok(not os.path.exists(path), "and makes no file")
fails(d.ReopenContainerLog, "NOT_FOUND", "", "an unknown container", container_id="0" * 64)

# --- a full disk: the writer waits or entries are dropped, the rest goes on
small = d.tmp + "/small"
os.mkdir(small)
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", small], check=False).returncode == 0:
    p4 = d.runp(config=d.pod_config("full", log_directory=small))
    c = d.start(p4, "c", command=["sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); done"])
    wait_until(lambda: os.statvfs(small).f_bfree == 0, "the disk is full")
    is_(d.sh(c, "echo alive"), (b"alive\n", b"", 0), "a full disk: the container can be exec'ed into")
    is_(d.Version().runtime_name, "cricket", "and the daemon answers")
    d.StopContainer(container_id=c, timeout=0)
    is_(d.status(c).state, EXITED, "and it can be stopped")
    whole = open(small + "/c.log", "rb").read().rpartition(b"\n")[0] + b"\n"   # there was no room for the end of the last
    with open(d.tmp + "/whole.log", "wb") as f:
        f.write(whole)
    is_([c for _, _, c in d.log_entries(d.tmp + "/whole.log")], [b"line %d" % i for i in range(whole.count(b"\n"))],
        "what fits is whole and in order")
    d.remove(p4)
    subprocess.run(["umount", small], check=True)
else:
    skip("cannot mount a tmpfs", 4)

d.remove_all()
ok(os.path.exists(d.logs + "/1/plain.log"), "logs stay when the pod is removed")
finish(d)
