#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The power goes while the durable writer works. strace records what it does; for a cut after each of its system calls
the files are made as a disk could hold them then: what was synced is there, of the rest any part, torn at any sector.
Each of them must read as the records after some batch, no earlier than the last acknowledged one; the same for the copy."""
import os
import random
import re
import socket
import struct
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

need("strace")
WORKER = BUILD + "/cricket-worker"
SEED = int(os.environ.get("CRICKET_TEST_SEED") or 1)
BATCHES, CUTS_EACH = 14, 2
tmp = tempfile.mkdtemp(prefix="cricket-power-", dir=os.environ.get("CRICKET_TEST_TMP") or "/tmp")
atexit.register(shutil.rmtree, tmp, True)
rnd = random.Random(SEED)

# --- frames (src/store_msg.h)
MAGIC, BATCH, ACK, ROWS, END = 0x314d5343, 1, 2, 3, 4
CRC = []
for _i in range(256):
    for _ in range(8):
        _i = (_i >> 1) ^ (0x82f63b78 if _i & 1 else 0)
    CRC.append(_i)


def crc32c(data):
    c = 0xffffffff
    for byte in data:
        c = (c >> 8) ^ CRC[(c ^ byte) & 255]
    return c ^ 0xffffffff


def frame(kind, seq, payload):
    head = struct.pack("<IIIIQ", MAGIC, kind, len(payload), 0, seq)
    return head[:12] + struct.pack("<I", crc32c(head + payload)) + head[16:] + payload


def frames(data):
    """[(kind, payload)], and whether all of it was right."""
    found = []
    while data:
        if len(data) < 24:
            return found, False
        magic, kind, size, crc, seq = struct.unpack("<IIIIQ", data[:24])
        payload = data[24:24 + size]
        if magic != MAGIC or len(payload) != size or frame(kind, seq, payload) != data[:24 + size]:
            return found, False
        found.append((kind, payload))
        data = data[24 + size:]
    return found, True


def changes(payload):
    while payload:
        op, table, klen, vlen = struct.unpack("<cBHI", payload[:8])
        yield op, table, payload[8:8 + klen], payload[8 + klen:8 + klen + vlen]
        payload = payload[8 + klen + vlen:]


def records(data):
    """{(table, key): value} of what `store read` or store.copy says, None if it is not whole."""
    found, right = frames(data)
    if not right or not found or found[-1][0] != END:
        return None
    return {(t, k): v for kind, payload in found if kind == ROWS for _, t, k, v in changes(payload) if t}


# --- the run
def batch():
    ops = {}
    for _ in range(rnd.randint(1, 6)):
        at = (rnd.choice((1, 2, 3, 3, 4)), b"k%d" % rnd.randint(0, 9))
        ops[at] = None if rnd.random() < 0.25 else rnd.randbytes(rnd.choice((0, 30, 300, 2000, 9000)))
    payload = b"".join(struct.pack("<cBHI", b"D" if v is None else b"P", t, len(k), len(v or b"")) + k + (v or b"")
                       for (t, k), v in ops.items())
    return ops, payload


root, log = tmp + "/root", tmp + "/strace"
os.mkdir(root)
ours, theirs = socket.socketpair()
p = subprocess.Popen(["strace", "-f", "-o", log, "-xx", "-s", "1000000", "-e", "signal=none", "-e",
                      "trace=open,openat,creat,close,write,writev,pwrite64,pwritev,pwritev2,lseek,_llseek,fsync,fdatasync,msync,"
                      "sync,syncfs,ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,"
                      "linkat,symlink,sendto,dup,dup2,dup3", WORKER, "store", "write", root], stdin=theirs, stderr=subprocess.PIPE,
                     # a process that is traced cannot look for leaks
                     env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))
theirs.close()
states = [{}]
for seq in range(1, BATCHES + 1):
    ops, payload = batch()
    ours.sendall(frame(BATCH, seq, payload))
    answer = ours.recv(4096)
    if not answer:
        if b"ptrace" in p.stderr.read():
            skip_all("needs ptrace")
        raise RuntimeError("the writer is gone")
    (kind, status), = [(k, struct.unpack("<i", pl[:4])[0]) for k, pl in frames(answer)[0]]
    if (kind, status) != (ACK, 0):
        raise RuntimeError("not acknowledged: %r" % answer)
    after = dict(states[-1])
    for at, v in ops.items():
        if v is None:
            after.pop(at, None)
        else:
            after[at] = v
    states.append(after)
ours.close()
is_(p.wait(LIMIT), 0, "the writer has written %d batches" % BATCHES)
p.stderr.close()


# --- what it did
class Inode:
    def __init__(self, is_dir=False):
        self.is_dir, self.durable, self.pending = is_dir, b"", []


class Disk:
    """Names and contents as they are on the disk for sure, and what may be there beside that."""

    def __init__(self):
        self.names, self.now, self.name_ops = {root: Inode(True)}, {root: Inode(True)}, []
        self.now = dict(self.names)
        self.fds, self.acks = {}, 0

    def name_op(self, op):
        self.apply(self.now, op)
        self.name_ops.append(op)

    @staticmethod
    def apply(names, op):
        if op[0] == "make":
            names[op[1]] = op[2]
        elif op[0] == "unlink":
            names.pop(op[1], None)
        else:
            for n in [n for n in names if n == op[1] or n.startswith(op[1] + "/")]:
                names[op[2] + n[len(op[1]):]] = names.pop(n)

    def step(self, call, args, ret):
        def text(a):
            return bytes.fromhex(re.match(r'"(.*)"(\.\.\.)?$', a).group(1).replace("\\x", ""))

        if call in ("open", "openat"):
            args = args if call == "open" else args[1:]
            path, flags = os.path.normpath(text(args[0]).decode()), args[1]
            if path != root and not path.startswith(root + "/"):
                return
            if path not in self.now:
                self.name_op(("make", path, Inode()))
            inode = self.now[path]
            if "O_TRUNC" in flags:
                inode.pending.append(("cut", 0))
            self.fds[ret] = [inode, 0, "O_DSYNC" in flags or "O_SYNC" in flags]
        elif call in ("mkdir", "mkdirat"):
            self.name_op(("make", text(args[-2]).decode(), Inode(True)))
        elif call == "rename":
            self.name_op(("rename", text(args[0]).decode(), text(args[1]).decode()))
        elif call == "unlink":
            self.name_op(("unlink", text(args[0]).decode()))
        elif call == "sendto":
            self.acks += 1
        elif int(args[0]) not in self.fds:
            return
        elif call == "close":
            del self.fds[int(args[0])]
        elif call in ("fsync", "fdatasync"):
            inode = self.fds[int(args[0])][0]
            if inode.is_dir:
                for op in self.name_ops:
                    self.apply(self.names, op)
                self.name_ops = []
            else:
                inode.durable, inode.pending = self.content(inode, lambda: True, None), []
        elif call == "lseek":
            self.fds[int(args[0])][1] = ret
        elif call in ("write", "writev", "pwrite64"):
            fd = self.fds[int(args[0])]
            if call == "writev":
                data = b"".join(text(m) for m in re.findall(r'iov_base=("[^"]*")', ", ".join(args[1:])))
            else:
                data = text(args[1])
            at = int(args[3]) if call == "pwrite64" else fd[1]
            if call != "pwrite64":
                fd[1] += ret
            if fd[2]:
                fd[0].durable = self.put(fd[0].durable, at, data[:ret])
            fd[0].pending.append(("put", at, data[:ret]))
        else:
            raise RuntimeError("what does %s(%s) do?" % (call, args))

    @staticmethod
    def put(content, at, data):
        return content[:at].ljust(at, b"\0") + data + content[at + len(data):]

    def content(self, inode, keep, r):
        data = inode.durable
        for op in inode.pending:
            if not keep():
                continue
            if op[0] == "cut":
                data = data[:op[1]]
            elif r and len(op[2]) > 512 and r.random() < 0.3:      # torn: some sectors of it
                for i in range(0, len(op[2]), 512):
                    if r.random() < 0.5:
                        data = self.put(data, op[1] + i, op[2][i:i + 512])
            else:
                data = self.put(data, op[1], op[2])
        return data

    def cut(self, where, r):
        """The files after a power cut now. Of changes of names a beginning is there: file systems keep their order."""
        names = dict(self.names)
        for op in self.name_ops[:r.randint(0, len(self.name_ops))]:
            self.apply(names, op)
        likely = r.choice((0, 0.2, 0.5, 0.8, 1))
        for n, inode in sorted(names.items()):
            path = where + n[len(root):]
            if inode.is_dir:
                os.makedirs(path, exist_ok=True)
            elif os.path.isdir(os.path.dirname(path)):
                with open(path, "wb") as f:
                    f.write(self.content(inode, lambda: r.random() < likely, r))


steps = []
with open(log) as f:
    for line in f:
        m = re.match(r"\d+ +(\w+)\((.*)\) += (-?\d+)", line)
        if m and int(m.group(3)) >= 0:
            steps.append((m.group(1), re.split(r", (?![^\[]*\])", m.group(2)), int(m.group(3))))
is_(sum(s[0] == "sendto" for s in steps), BATCHES, "the record of it has all acknowledgements")

# --- the cuts
disk, wrong, cuts, copies = Disk(), [], 0, 0
for i, (call, args, ret) in enumerate(steps):
    disk.step(call, args, ret)
    for k in range(CUTS_EACH):
        cuts += 1
        r = random.Random("%d %d %d" % (SEED, i, k))
        where = tmp + "/cut"
        disk.cut(where, r)
        allowed = states[disk.acks:disk.acks + 2]
        if os.path.isdir(where + "/store"):
            out = subprocess.run([WORKER, "store", "read", where + "/store"], capture_output=True, timeout=LIMIT, check=False)
            got = records(out.stdout)
            if got not in allowed:
                wrong.append("cut %d after %s (step %d, %d acknowledged): %s %s" % (
                    k, call, i, disk.acks, "not whole" if got is None else "wrong records", out.stdout[-200:]))
        elif disk.acks:
            wrong.append("cut %d after %s (step %d): no store" % (k, call, i))
        if os.path.exists(where + "/store.copy"):
            copies += 1
            with open(where + "/store.copy", "rb") as f:
                got = records(f.read())
            if got not in [{at: v for at, v in s.items() if at[0] in (3, 4)} for s in allowed]:
                wrong.append("cut %d after %s (step %d, %d acknowledged): wrong copy" % (k, call, i, disk.acks))
        shutil.rmtree(where, ignore_errors=True)
is_(wrong[:5], [], "%d power cuts: whole records, nothing that was acknowledged is missing" % cuts)
ok(copies > cuts / 2, "and so is the copy (%d times)" % copies)
done_testing()
