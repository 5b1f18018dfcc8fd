#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Many rounds of what comes and goes: calls that are cancelled, streaming connections that are cut, send nonsense or too much,
execs, containers, pods, pulls of what is not there. After it the daemon and the supervisor have as many descriptors and
children, and as much memory, as after the warm-up.

    CRICKET_TEST_ROUNDS   how many (default: 150)
"""
import os
import random
import struct
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from counted import SANITIZED, Held, private_kb, supervisor_of  # noqa: E402
from spdy import Http, Spdy, Ws, WsTransport, SYN, RST, SETTINGS, PING, HEADERS, WINDOW, UP, V4  # noqa: E402

ROUNDS = int(os.environ.get("CRICKET_TEST_ROUNDS") or 150)
WARM = 30

d = Daemon()
pod = d.runp("p", net=False)
ctr = d.start(pod, "main", command=["cat"], stdin=True)
pull_me = d.registry.host + "/no/such:image"
nobody = "127.0.0.1:%d/no/such:image" % free_port(d.net)
SLEEP = "77%07d" % os.getpid()                       # seconds; no other process has this number


# --- one thing of a round each

hasty = Client(d.socket)
hasty.close()
hasty._channel = grpc.insecure_channel("unix:" + d.socket, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])
hasty.Version()


def cancelled_calls(rng):
    """By a client of their own: libh2o ends the connection when a call is reset that it has not heard of yet, which
    this client's library does at times."""
    c = hasty
    slow = c.ExecSync(container_id=ctr, cmd=["sleep", SLEEP], _future=True)
    pull = c.PullImage(image={"image": rng.choice((pull_me, nobody))}, _future=True)
    events = c.GetContainerEvents()
    lists = c.StreamContainers()
    if rng.random() < 0.5:
        error(c.Version)                             # an answer: they have been heard before it
    for call in (slow, pull, events, lists):
        call.cancel()
    error(c.ListContainers, _timeout=0.0005)


def cut_grpc(rng):
    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    junk = (begin, begin[:10], begin + rng.randbytes(50), begin + b"\xff\xff\xff\0\0\0\0\0\1", b"GET / HTTP/1.1\r\n", b"",
            begin + b"\0\0\4\3\0\0\0\0\7\0\0\0\0", begin + b"\0\0\4\x08\0\0\0\0\0\x7f\xff\xff\xff" * 2)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(d.socket)
        try:
            s.sendall(rng.choice(junk))
        except OSError:
            pass


def url_of(rng, forward=False):
    if forward:
        return d.PortForward(pod_sandbox_id=pod).url
    if rng.random() < 0.3:
        return d.Attach(container_id=ctr, stdin=True, stdout=True).url
    return d.Exec(container_id=ctr, cmd=["cat"], stdin=True, stdout=True).url


def http_nonsense(rng):
    url = url_of(rng)
    host, port = url.split("/")[2].split(":")
    data = rng.choice((b"", b"\0" * 300, b"GET " + b"/" * 100000, b"POST /exec/x HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
                       b"POST /exec/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nabc", rng.randbytes(200),
                       ("POST /%s HTTP/1.1\r\nHost: x\r\n" % url.split("/", 3)[3]).encode()))

    def go():
        with socket.create_connection((host, int(port)), LIMIT) as s:
            try:
                s.sendall(data)
                if rng.random() < 0.5:
                    s.shutdown(socket.SHUT_WR)
                    s.recv(1000)
            except OSError:
                pass
    d.net.call(go)
    status = d.net.call(Http, url, *rng.choice(((), UP, UP + ("X-Stream-Protocol-Version: nonsense",))))
    if status.status not in (400, 403, 404):
        ok(False, "no proper upgrade", status.status)
    status.close()


def spdy_nonsense(rng, s, kinds):
    """Some good streams, then something bad."""
    ids = s.streams(*kinds[:rng.randrange(len(kinds) + 1)])
    n = rng.randrange(16)
    try:
        if ids and rng.random() < 0.5:
            s.send(ids[-1], b"x" * rng.randrange(70000))
        if n == 0:
            s.t.s.sendall(struct.pack(">HHI", 0x8003, SYN, 1000) + b"\0" * 50)        # cut
        elif n == 1:
            s.control(SYN, b"\0" * 40000)                                             # too large
        elif n == 2:
            s.send(99, b"to nobody" * 1000, fin=True)
        elif n == 3:
            s.next = 1
            s.streams(*kinds)                                                         # numbers that go back
        elif n == 4:
            s.control(SYN, struct.pack(">IIH", s.next, 0, 0) + rng.randbytes(40))      # no header block
        elif n == 5:
            s.control(RST, struct.pack(">II", ids[0] if ids else 7, 5))
            s.control(RST, struct.pack(">II", 12345, 5))
        elif n == 6:
            for _ in range(3):
                s.control(WINDOW, struct.pack(">II", ids[0] if ids else 0, 0x7fffffff))
        elif n == 7:
            for _ in range(200):
                s.open(("streamtype", "data"), ("port", "1"), ("requestid", "r"))
        elif n == 8:
            s.open(*[("h%d" % i, "v" * 100) for i in range(2000)])                    # inflates to much
        elif n == 9:
            s.control(SETTINGS, struct.pack(">I", 1 << 30))
        elif n == 10:
            for i in range(2000):
                s.control(PING, struct.pack(">I", 2 * i + 1))                         # whose answers nobody reads
        elif n == 11:
            s.control(HEADERS, struct.pack(">I", 77) + s.block([("a", "b")]), 1)
            s.control(SYN + 1, struct.pack(">I", 1) + s.block([]))
        elif n == 12:
            s.t.s.sendall(rng.randbytes(500))
        elif n == 13:
            for i in ids:
                s.send(i, fin=True)
                s.send(i, b"after its end")
        elif n == 14:
            s.t.s.sendall(struct.pack(">II", ids[0] if ids else 1, 0xffffff) + b"x" * 1000)   # cut
        elif n == 15:
            s.all()                                                                   # what it says
    except OSError:
        pass


def spdy_round(rng):
    s = d.net.call(Spdy, url_of(rng), V4, rcvbuf=4096 if rng.random() < 0.3 else None)
    s.t.s.settimeout(0.05)
    try:
        spdy_nonsense(rng, s, ["error", "stdin", "stdout"])
    finally:
        s.close()


def forward_round(rng):
    if rng.random() < 0.5:
        s = d.net.call(Spdy, url_of(rng, True), "portforward.k8s.io")
        s.t.s.settimeout(0.05)
    else:
        t = d.net.call(WsTransport, url_of(rng, True))
        t.ws.t.s.settimeout(0.05)
        s = Spdy(None, transport=t)
    try:
        for i in range(rng.randrange(3)):
            s.open(("streamtype", "error"), ("port", "9"), ("requestid", str(i)), fin=True)
            s.open(("streamtype", "data"), ("port", "9"), ("requestid", str(i)))
        spdy_nonsense(rng, s, ["error", "data", "nonsense"])
    finally:
        s.close()


def ws_round(rng):
    w = d.net.call(Ws, url_of(rng), rng.choice(("v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io", None)),
                   mask=rng.random() < 0.8)
    try:
        w.t.s.settimeout(0.05)
        for _ in range(rng.randrange(6)):
            n = rng.randrange(9)
            if n == 0:
                w.send(b"\0hello")
            elif n == 1:
                w.send(b"\x63to nobody")
            elif n == 2:
                w.send(b"\0" + b"x" * (2 << 20))                                      # too large
            elif n == 3:
                w.send(b"x", op=rng.choice((3, 5, 11, 15)))
            elif n == 4:
                w.send(b"begun", fin=False)
            elif n == 5:
                w.send(b"out of order", op=0)
            elif n == 6:
                w.send(b"x" * 200, op=9)                                              # a ping that is too long
            elif n == 7:
                w.t.s.sendall(rng.randbytes(30))
            else:
                w.send(struct.pack(">H", rng.choice((1000, 999, 65535))), op=8)
        if rng.random() < 0.5:
            w.all()
    except OSError:
        pass
    finally:
        w.close()


def objects(rng, n):
    got = d.sh(ctr, "echo $((%d + 1)); exit %d" % (n, n % 100))
    if got != (b"%d\n" % (n + 1), b"", n % 100):
        ok(False, "exec of round %d" % n, got)
    c = d.create(pod, "c%d" % n, command=["sh", "-c", "exit 7"])
    if rng.random() < 0.8:
        d.StartContainer(container_id=c)
        if rng.random() < 0.5 and d.wait_exit(c).exit_code != 7:
            ok(False, "container of round %d" % n, d.status(c))
    d.RemoveContainer(container_id=c)
    for what in (pull_me, nobody):
        got = error(d.PullImage, image={"image": what})
        if got[0] not in ("UNKNOWN", "NOT_FOUND"):
            ok(False, "pull of %s" % what, got)
    if n % 10 == 0:
        p = d.runp("pod%d" % n, net=n % 20 == 0)
        d.start(p, "x")
        d.remove(p)


def round_(n):
    rng = random.Random(n)
    cancelled_calls(rng)
    cut_grpc(rng)
    http_nonsense(rng)
    for _ in range(2):
        spdy_round(rng)
        ws_round(rng)
    forward_round(rng)
    objects(rng, n)
    reap_orphans()


def execs():
    return subprocess.run(["pgrep", "-f", "^sleep %s$" % SLEEP], stdout=subprocess.DEVNULL, check=False).returncode == 0


d.sh(ctr, "true")                        # the supervisor keeps the container's cgroups from the first exec on
held = Held(d, supervisor_of(pod))
for n in range(WARM):
    round_(n)
for name in held.who:
    is_(held.at_rest(name), "", name + " is at rest after the warm-up")
warm = {name: private_kb(pid) for name, pid in held.who.items()}
for n in range(WARM, WARM + ROUNDS):
    round_(n)
for name in held.who:
    is_(held.at_rest(name), "", "%s: descriptors and children are what they were before %d rounds" % (name, WARM + ROUNDS))
wait_until(lambda: not execs(), "cancelled execs are gone")
ok(True, "no cancelled exec has left a process")
for name, most in (("cricketd", 1024), ("cricket-pod", 64)):
    now = private_kb(held.who[name])
    diag("%s: %d KiB after the warm-up, %d KiB after %d rounds" % (name, warm[name], now, ROUNDS))
    if SANITIZED:
        skip("memory of %s: freed memory is kept by the sanitizer" % name)
    else:
        ok(now <= warm[name] + most, name + ": memory is what it was after the warm-up", warm[name], now)
is_([c.id for c in d.ListContainers().containers], [ctr], "no container is left but one")
is_([p.id for p in d.ListPodSandbox().items], [pod], "no pod either")
is_(d.sh(ctr, "echo alive"), (b"alive\n", b"", 0), "which works")
d.remove_all()
finish(d)
