#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Streaming connections (exec, attach, port-forward): t/unit/stream_server with plain processes, and clients that are written
here from the specifications: HTTP, SPDY/3.1, WebSocket, good and bad."""
import base64
import hashlib
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import BUILD, LIMIT, diag, is_, ok, wait_until, done_testing  # noqa: E402
from spdy import (Http, Spdy, Ws, WsTransport, UP, WSUP, V4, SYN, RST, SETTINGS, PING, HEADERS,  # noqa: E402
                  WINDOW, DICT)

KIB, MIB = 1 << 10, 1 << 20
log = tempfile.TemporaryFile()


class Server:
    def __init__(self):
        self.proc = subprocess.Popen([BUILD + "/t/unit/stream_server", "127.0.0.1"], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1)

    def say(self, line):
        self.proc.stdin.write(line + "\n")
        return self.proc.stdout.readline().strip()

    def counts(self):
        return json.loads(self.say("counts"))

    def rss(self):
        with open("/proc/%d/statm" % self.proc.pid) as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


server = Server()
with open(BUILD + "/config.h") as config:
    SANITIZED = "define SANITIZE 1" in config.read()    # freed memory is kept for a while there


def offer(flags, command, verb="exec"):
    return server.say("%s %s %s" % (verb, flags, command))


SUCCESS = {"metadata": {}, "status": "Success"}


def failure(code):
    return {"metadata": {}, "status": "Failure", "message": "command terminated with non-zero exit code: exit code %d" % code,
            "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}


def rest(what, before=0):
    """Everything that was begun has ended."""
    wait_until(lambda: server.counts()["sessions"] == before, what)


# --- HTTP

def test_http():
    url = offer("o", "echo x")
    ok(url.startswith("http://127.0.0.1:") and len(url.rsplit("/", 1)[1]) == 32 and "/exec/" in url, "the URL", url)
    h = Http(url + "x", *UP, "X-Stream-Protocol-Version: " + V4)
    is_(h.status, 404, "an unknown token: 404")
    is_(Http(url.replace("/exec/", "/attach/"), *UP, "X-Stream-Protocol-Version: " + V4).status, 404, "a token of another kind: 404")
    is_(Http(url.rsplit("/", 2)[0] + "/", *UP).status, 404, "another path: 404")
    is_(Http(url, *UP, method="PUT").status, 405, "PUT: 405")
    is_(Http(url).status, 400, "no upgrade: 400")
    is_(Http(url, *UP, "X-Stream-Protocol-Version: " + V4).status, 404, "a token is used up then: 404")
    is_(Http(offer("o", "x"), *UP).status, 400, "no stream protocol: 400")
    is_(Http(offer("o", "x"), *UP, "X-Stream-Protocol-Version: ,").status, 400, "an empty list of them: 400")
    is_(Http(offer("o", "x"), "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: " + V4).status, 400, "no Connection: Upgrade: 400")
    h = Http(offer("o", "x"), *UP, "X-Stream-Protocol-Version: v9.channel.k8s.io")
    is_((h.status, h.get("X-Accepted-Stream-Protocol-Versions")),
        (403, ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"]), "an unknown one: 403 and what we know")
    is_(Http(offer("o", "x"), *WSUP, "Sec-WebSocket-Protocol: nope", method="GET").status, 403, "an unknown subprotocol: 403")
    is_(Http(offer("o", "x"), *[h.replace("13", "8") for h in WSUP], method="GET").status, 400, "another version of WebSocket: 400")
    h = Http(offer("o", "true"), *UP, "X-Stream-Protocol-Version: v9.x, v3.channel.k8s.io", "X-Stream-Protocol-Version: " + V4)
    is_((h.status, h.get("X-Stream-Protocol-Version"), h.get("Upgrade"), [c.lower() for c in h.get("Connection")]),
        (101, ["v3.channel.k8s.io"], ["SPDY/3.1"], ["upgrade"]), "the first of the client's that we know")
    h.close()
    h = Http(offer("o", "true"), *WSUP, "Sec-WebSocket-Protocol: x, v4.channel.k8s.io", method="GET")
    is_((h.status, h.get("Sec-WebSocket-Accept"), h.get("Sec-WebSocket-Protocol")),
        (101, ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], ["v4.channel.k8s.io"]), "the WebSocket handshake of RFC 6455")
    h.close()
    rest("unused sessions to end")

    before = server.counts()
    urls = [offer("o", "x") for _ in range(1001)]
    is_((urls[999][:4], urls[1000]), ("http", "error 8 1000 streaming requests wait for their clients already"), "1000 tokens, one more is refused")
    for u in urls[:1000]:
        Http(u).close()
    is_(server.counts()["expired"] - before["expired"], 1000, "each is told when it is used up in vain")


# --- exec by SPDY

def test_spdy():
    s = Spdy(offer("ioe", "cat; echo err >&2; exit 7"))
    err, i, o, e = s.streams("error", "stdin", "stdout", "stderr")
    ok(s.until(lambda: s.replied == {err, i, o, e}), "each stream is answered")
    s.send(i, b"hello ")
    s.send(i, b"world", fin=True)
    s.all()
    is_((s.data[o], s.data[e]), (b"hello world", b"err\n"), "stdin to its end, stdout, stderr")
    is_(json.loads(s.data[err]), failure(7), "the exit code")
    ok({o, e, err} <= s.ended and s.goaway, "all ended, then GOAWAY", s.order)
    fins = [x[0] for x in s.order if x[1] == "fin"]
    ok(fins.index(err) > max(fins.index(o), fins.index(e)), "the status comes after the output", fins)
    s.close()

    for protocol, want in (("v3.channel.k8s.io", b"command terminated with non-zero exit code: exit code 3"), ("channel.k8s.io", None)):
        s = Spdy(offer("o", "exit %d" % (3 if want else 0)), protocol)
        err, o = s.streams("error", "stdout")
        s.all()
        is_(s.data.get(err, b""), want or b"", "the status of " + protocol)
        s.close()
    s = Spdy(offer("oe", "FAIL"))
    err, o, e = s.streams("error", "stdout", "stderr")
    s.all()
    st = json.loads(s.data[err])
    is_((st["status"], st["reason"], st["code"], st["message"]),
        ("Failure", "InternalError", 500, "Internal error occurred: no such ? command \"FAIL\""), "a failure that is no exit")
    s.close()
    s = Spdy(offer("o", "echo x", "attach"))
    err, o = s.streams("error", "stdout")
    s.all()
    is_((s.data[o], json.loads(s.data[err])), (b"x\n", SUCCESS), "an attach ends with Success")
    s.close()

    s = Spdy(offer("iot", "until stty size | grep -q '50 100'; do sleep 0.01; done; stty size; read x; echo \"got $x\"; stty size"))
    err, i, o, rs = s.streams("error", "stdin", "stdout", "resize")
    s.send(rs, b'{"Width":80,"Hei')
    s.send(rs, b'ght":24}\n{"Width":0,"Height":0}{"Width":100,"Height":50}')
    s.until(lambda: b"50 100" in s.data.get(o, b""))
    s.send(rs, b'{"Width":132,"Height":43}')
    s.control(PING, struct.pack(">I", 1))
    s.until(lambda: s.pongs)
    s.send(i, b"yes\r")
    s.all()
    ok(b"got yes" in s.data[o] and b"43 132" in s.data[o], "a terminal, its size in pieces", s.data[o])
    is_(json.loads(s.data[err]), SUCCESS, "ends well")
    s.close()

    s = Spdy(offer("i", "cat >/dev/null; exit 5"))
    err, i = s.streams("error", "stdin")
    s.send(i, b"x")
    s.control(RST, struct.pack(">II", i, 5))
    s.all()
    is_(json.loads(s.data[err]), failure(5), "RST_STREAM on stdin is its end")
    s.close()

    s = Spdy(offer("io", "cat"))
    s.control(PING, struct.pack(">I", 77))
    bad = s.open(("streamtype", "nonsense"))
    twice = s.streams("error", "error")[1]
    stderr = s.open(("streamtype", "stderr"))
    i, o = s.streams("stdin", "stdout")
    s.until(lambda: o in s.replied and len(s.reset) == 3)
    is_(sorted(s.reset), [bad, twice, stderr], "streams that were not asked for are refused, the others live")
    is_(s.pongs, [struct.pack(">I", 77)], "a ping is answered")
    s.send(bad, b"late")
    s.send(999, b"never opened")
    s.control(HEADERS, struct.pack(">I", i) + s.block([("x", "y")]))
    s.send(i, b"still", fin=True)
    s.all()
    is_(s.data[o], b"still", "data on unknown streams does no harm")
    s.close()

    early = Spdy.__new__(Spdy)
    early.out, early.next = zlib.compressobj(zdict=DICT), 1
    sent = []
    early.t = type("T", (), {"s": type("S", (), {"sendall": lambda self, d: sent.append(d)})()})()
    streams = early.streams("error", "stdin", "stdout")
    early.send(streams[1], b"early", fin=True)
    s = Spdy(offer("io", "cat"), early=b"".join(sent))
    s.all()
    is_(s.data[streams[2]], b"early", "frames right behind the request")
    s.close()


def test_flow():
    data = os.urandom(MIB)
    s = Spdy(offer("io", "cat"))
    err, i, o = s.streams("error", "stdin", "stdout")
    s.control(SETTINGS, struct.pack(">III", 1, 7, 1000))
    s.until(lambda: len(s.replied) == 3)
    sent, room = 0, 64 * KIB           # a client that counts, both ways
    taken = told = 0
    most = 0
    while sent < len(data) or taken < len(data):
        room_now = min(64 * KIB + s.windows.get(i, 0), 64 * KIB + s.windows.get(0, 0)) - sent
        n = min(room_now, 8192, len(data) - sent)
        if n > 0:
            s.send(i, data[sent:sent + n], fin=sent + n == len(data))
            sent += n
        while select.select([s.t.s], [], [], 0 if n > 0 else 0.01)[0] or s.t.buf:
            if not s.frame():
                break
            most = max(most, len(s.data.get(o, b"")) - told)
        got = len(s.data.get(o, b""))
        if got > taken:
            s.control(WINDOW, struct.pack(">II", o, got - taken))
            s.control(WINDOW, struct.pack(">II", 0, got - taken))
            told, taken = got, got
        if err in s.ended:
            break
    s.all()
    ok(s.data[o] == data, "1 MiB there and back by a client that counts")
    ok(most <= 64 * KIB + 1000, "which never gets more than its window", most)
    s.close()

    s = Spdy(offer("o", "head -c 3000000 /dev/zero"))
    err, o = s.streams("error", "stdout")
    s.all()
    is_(len(s.data[o]), 3000000, "3 MB to a client that does not count")
    s.close()

    s = Spdy(offer("o", "head -c 100000 /dev/zero"))
    err, o = s.streams("error", "stdout")
    s.control(SETTINGS, struct.pack(">III", 1, 7, 0))
    s.control(PING, struct.pack(">I", 1))
    s.until(lambda: s.pongs)
    base = len(s.data.get(o, b""))
    s.control(PING, struct.pack(">I", 3))
    s.until(lambda: len(s.pongs) == 2)
    for delta in (1, 10, 100):
        s.control(WINDOW, struct.pack(">II", o, delta))
    s.control(PING, struct.pack(">I", 5))
    s.until(lambda: len(s.pongs) == 3)
    ok(len(s.data.get(o, b"")) - base <= 64 * KIB + 111, "a window of 0 holds", len(s.data.get(o, b"")))
    s.control(WINDOW, struct.pack(">II", o, MIB))
    s.control(WINDOW, struct.pack(">II", 0, MIB))
    s.all()
    is_(len(s.data[o]), 100000, "until it opens")
    s.close()


def test_pressure():
    rest("all to be quiet")
    before, exits = server.rss(), server.counts()["exits"]
    clients = []
    for _ in range(8):
        s = Spdy(offer("o", "yes"), rcvbuf=4096)
        s.streams("error", "stdout")
        clients.append(s)
    for _ in range(4):
        w = Ws(offer("o", "yes"), V4)
        clients.append(w)
    io = lambda: open("/proc/%d/io" % server.proc.pid).read().split("\n")[1]  # noqa: E731
    seen = []

    def still():
        seen.append(io())
        return len(seen) > 20 and len(set(seen[-15:])) == 1
    wait_until(still, "everything to be full")
    ok(SANITIZED or server.rss() - before < 12 * 512 * KIB, "clients that do not read cost little: %d KiB each" % ((server.rss() - before) // KIB // 12))
    s = Spdy(offer("o", "echo alive"))
    err, o = s.streams("error", "stdout")
    s.all()
    is_(s.data[o], b"alive\n", "others are served meanwhile")
    s.close()
    for s in clients:
        s.close()
    wait_until(lambda: server.counts()["exits"] == exits + 13, "their processes to be ended")
    ok(True, "a client that goes away ends its process")

    stop = tempfile.mktemp(prefix="cricket-stop-")
    for make, what in ((lambda u: Spdy(u), "SPDY"), (lambda u: Ws(u, "v5.channel.k8s.io"), "WebSocket")):
        def push(limit):
            c = make(offer("i", "while ! test -e %s; do sleep 0.05; done" % stop))
            i = c.streams("error", "stdin")[1] if what == "SPDY" else 0
            c.t.s.settimeout(0.5)
            n = 0
            try:
                while n < limit:
                    if what == "SPDY":
                        c.send(i, bytes(64 * KIB))
                    else:
                        c.send(b"\0" + bytes(64 * KIB))
                    n += 64 * KIB
            except OSError:
                pass
            return c, n
        c, n = push(64 * MIB)
        ok(64 * KIB <= n < 16 * MIB, "stdin that nobody reads holds the client up (%s)" % what, n)
        full = c                       # its end cannot be seen: it waits in the client's kernel behind the data
        gone = server.counts()["gone"]
        c, n = push(320 * KIB)
        c.close()
        wait_until(lambda: server.counts()["gone"] == gone + 1, "the client's end to be seen")
        ok(True, "the end of a client is seen though its input is held back")
        full.close()
        with open(stop, "w"):
            pass
        rest("the process to end, and the session with it")
        os.unlink(stop)
    rest("all to end")
    ok(SANITIZED or server.rss() - before < 8 * MIB, "nothing of it stays", server.rss() - before)


# --- exec by WebSocket

def test_ws():
    for protocol, b64 in ((None, False), ("channel.k8s.io", False), ("base64.channel.k8s.io", True), (V4, False),
                          ("v4.base64.channel.k8s.io", True), ("v5.channel.k8s.io", False)):
        w = Ws(offer("ioe", "read x; echo \"got $x\"; echo err >&2; exit 9"), protocol)
        zero, enc = (b"0", base64.b64encode) if b64 else (b"\0", bytes)
        w.send(zero + enc(b"wor"), 1 if b64 else 2)
        w.send(b"\x09ignored" if not b64 else b"9aWdu", 1 if b64 else 2)
        w.send(zero + enc(b"ld\n"), 1 if b64 else 2)
        got, order = w.all()
        one, two, three = (b"1", b"2", b"3") if b64 else (b"\1", b"\2", b"\3")
        dec = base64.b64decode if b64 else bytes
        name = protocol or "no subprotocol"
        is_((dec(got[one]), dec(got[two])), (b"got world\n", b"err\n"), name + ": in, out, err")
        is_(order[0], one, "... ready is said first")
        st = dec(got[three])
        if protocol and protocol[0] == "v":
            is_(json.loads(st), failure(9), "... the status")
        else:
            is_(st, b"command terminated with non-zero exit code: exit code 9", "... the status")
        is_(w.closed, 1000, "... and a Close with 1000")
        w.close()

    w = Ws(offer("io", "cat"), "v5.channel.k8s.io")
    w.send(b"\0to the end")
    w.send(b"\xff\0")
    got, _ = w.all()
    is_((got[b"\1"], json.loads(got[b"\3"])), (b"to the end", SUCCESS), "v5: stdin can be ended")
    w.close()
    w = Ws(offer("iot", "until stty size | grep -q 30; do sleep 0.01; done; stty size; read x"), "v5.channel.k8s.io")
    w.send(b"\4{\"Width\":90,\"Height\":30}")
    w.send(b"\0\r")
    got, _ = w.all()
    ok(b"30 90" in got[b"\1"], "the window's size", got)
    w.close()

    w = Ws(offer("o", "sleep 1000"), V4)
    w.send(b"are you there", 9)
    while not w.pongs:
        w.message()
    is_(w.pongs, [b"are you there"], "a ping is answered while the process is silent")
    w.send(struct.pack(">H", 1000), 8)
    while w.message():
        pass
    is_(w.closed, 1000, "a Close is answered")
    w.close()
    rest("the process to end with it")

    w = Ws(offer("io", "cat"), "v5.channel.k8s.io")
    w.send(b"\0in ", 2, fin=False)
    w.send(b"", 9)
    w.send(b"thr", 0, fin=False)
    w.send(b"ping", 9)
    w.send(b"ee", 0)
    w.send(b"\xff\0")
    got, _ = w.all()
    is_((got[b"\1"], w.pongs), (b"in three", [b"", b"ping"]), "fragments, with pings between them")
    w.close()
    for what, send in (("an unmasked frame", lambda w: setattr(w, "mask", False) or w.send(b"\0x")),
                       ("a message that is too large", lambda w: w.send(b"\0" + bytes(2 * MIB))),
                       ("a reserved opcode", lambda w: w.send(b"x", 5)),
                       ("a continuation of nothing", lambda w: w.send(b"x", 0))):
        w = Ws(offer("io", "cat"), V4)
        try:
            send(w)
            w.all()
        except OSError:
            pass
        ok(w.closed in (1002, 1009), what + " ends the connection", w.closed)
        w.close()
        rest("the session to end")
    w = Ws(offer("io", "cat"), "v4.base64.channel.k8s.io")
    w.send(b"0!!!!", 1)
    w.all()
    is_(w.closed, 1002, "what is no base64 ends the connection")
    w.close()
    big = os.urandom(3 * MIB)
    w = Ws(offer("io", "cat"), "v5.channel.k8s.io")

    def push():
        for k in range(0, len(big), 50000):
            w.send(b"\0" + big[k:k + 50000])
        w.send(b"\xff\0")
    t = threading.Thread(target=push)
    t.start()
    got, _ = w.all()
    t.join()
    ok(got[b"\1"] == big, "3 MiB there and back")
    w.close()


# --- port-forward

class Echo:
    """A TCP server: echoes up to the client's end, says goodbye, ends."""

    def __init__(self, family=socket.AF_INET, host="127.0.0.1", handler=None):
        self.l = socket.socket(family)
        self.l.bind((host, 0))
        self.l.listen(50)
        self.port = self.l.getsockname()[1]
        self.handler = handler or self.echo
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                c, _ = self.l.accept()
            except OSError:
                return
            threading.Thread(target=self.handler, args=(c,), daemon=True).start()

    @staticmethod
    def echo(c):
        while True:
            d = c.recv(65536)
            if not d:
                break
            c.sendall(d)
        c.sendall(b"bye")
        c.close()


def forward(ports=""):
    return server.say("forward " + ports)


def pair(s, port, request=None):
    more = [("requestid", request)] if request is not None else []
    return (s.open(("streamtype", "error"), ("port", str(port)), *more),
            s.open(("streamtype", "data"), ("port", str(port)), *more))


PF = "portforward.k8s.io"


def test_forward():
    echo = Echo()
    for what, make in (("SPDY", lambda: Spdy(forward(), PF)), ("SPDY in WebSocket", lambda: Spdy(None, transport=WsTransport(forward())))):
        s = make()
        e, d = pair(s, echo.port, "0")
        s.send(e, fin=True)
        s.send(d, b"hello", fin=True)
        s.until(lambda: {e, d} <= s.ended)
        is_((s.data[d], s.data.get(e, b"")), (b"hellobye", b""), what + ": data, half-close, data, end")
        n = 20
        pairs = [pair(s, echo.port, str(k)) for k in range(1, n + 1)]
        for k, (e, d) in enumerate(pairs):
            s.send(d, b"%d-" % k * 1000, fin=k % 2 == 0)
            s.send(e, fin=True)
        for k, (e, d) in enumerate(pairs):
            if k % 2:
                s.send(d, fin=True)
        s.until(lambda: all(d in s.ended for _, d in pairs))
        ok(all(s.data[d] == b"%d-" % k * 1000 + b"bye" for k, (_, d) in enumerate(pairs)), what + ": %d connections at once" % n)
        e, d = pair(s, echo.port)
        s.send(d, b"x", fin=True)
        s.until(lambda: {e, d} <= s.ended)
        is_(s.data[d], b"xbye", what + ": without a request id")
        free = socket.socket()
        free.bind(("127.0.0.1", 0))
        e, d = pair(s, free.getsockname()[1], "r")
        s.until(lambda: e in s.ended and (d in s.reset))
        is_(s.data[e].decode(), "failed to connect to localhost:%d inside the pod: Connection refused" % free.getsockname()[1],
            what + ": nobody listens")
        free.close()
        for bad in ("0", "65536", "-1", "x", "", "123456"):
            n = s.open(("streamtype", "data"), ("port", bad), ("requestid", "b"))
            s.until(lambda: n in s.reset)
        n = s.open(("streamtype", "data"))
        s.until(lambda: n in s.reset)
        n = s.open(("streamtype", "stdin"), ("port", "80"))
        s.until(lambda: n in s.reset)
        ok(True, what + ": bad ports and types are reset")
        e, d = pair(s, echo.port, "z")
        s.send(d, b"still", fin=True)
        s.until(lambda: d in s.ended)
        is_(s.data[d], b"stillbye", what + ": the connection lives on")
        s.close()
        rest("the session to end")

    six = Echo(socket.AF_INET6, "::1")
    s = Spdy(forward(), PF)
    e, d = pair(s, six.port, "0")
    s.send(d, b"six", fin=True)
    s.until(lambda: d in s.ended)
    is_(s.data[d], b"sixbye", "IPv6 where IPv4 does not answer")

    def rude(c):
        c.recv(10)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
    r = Echo(handler=rude)
    e, d = pair(s, r.port, "1")
    s.send(d, b"0123456789")
    s.until(lambda: e in s.ended)
    ok(b"Connection reset" in s.data[e], "a reset in the pod is told", s.data.get(e))

    def silent(c):
        held.append(c)
    held = []
    q = Echo(handler=silent)
    e, d = pair(s, q.port, "2")
    s.t.s.settimeout(0.5)
    n = 0
    try:
        while n < 64 * MIB:
            s.send(d, bytes(64 * KIB))
            n += 64 * KIB
    except (socket.timeout, OSError):
        pass
    ok(n < 24 * MIB, "a pod that does not read holds the client up", n)
    s.close()
    rest("the session to end")

    def flood(c):
        try:
            while True:
                c.sendall(bytes(65536))
        except OSError:
            c.close()
    before = server.rss()
    f = Echo(handler=flood)
    s = Spdy(forward(), PF, rcvbuf=4096)
    for k in range(5):
        pair(s, f.port, str(k))
    io = lambda: open("/proc/%d/io" % server.proc.pid).read().split("\n")[1]  # noqa: E731
    seen = []
    wait_until(lambda: seen.append(io()) or (len(seen) > 20 and len(set(seen[-15:])) == 1), "everything to be full")
    ok(SANITIZED or server.rss() - before < 4 * MIB, "a client that does not read holds the pod up", server.rss() - before)
    server.say("close")
    s.all()
    rest("a session that the handler closes to end")
    ok(True, "the handler closes a session: all its connections end")
    s.close()

    w = Ws(forward("%d %d" % (echo.port, six.port)), V4)
    heads = {}
    while len(heads) < 4:
        m = w.message()
        heads[m[1][0]] = m[1][1:]
    is_(heads, {0: struct.pack("<H", echo.port), 1: struct.pack("<H", echo.port), 2: struct.pack("<H", six.port),
                3: struct.pack("<H", six.port)}, "WebSocket: each channel begins with its port")
    w.send(b"\0one")
    w.send(b"\2two")
    got = {}
    while got != {0: b"one", 2: b"two"}:
        m = w.message()
        got[m[1][0]] = got.get(m[1][0], b"") + m[1][1:]
    ok(True, "data on both")
    w.close()
    rest("the session to end")
    once = Echo(handler=lambda c: (c.sendall(b"once"), c.close()))
    w = Ws(forward(str(once.port)), V4)
    got, _ = w.all()
    is_((got[b"\0"][2:], w.closed), (b"once", 1000), "when the pod's side has ended, the connection does")
    w.close()
    rest("the session to end")
    for e in (echo, six, r, q, f, once):
        e.l.close()


# --- patience

def test_patience():
    before = server.counts()
    server.say("patience 30 100000 100000")
    urls = [offer("o", "x") for _ in range(3)]
    wait_until(lambda: server.counts()["expired"] == before["expired"] + 3, "tokens to expire")
    is_(Http(urls[0], *UP, "X-Stream-Protocol-Version: " + V4).status, 404, "an expired token: 404")
    server.say("patience 100000 1000 100000")
    s = Spdy(offer("io", "cat"))
    s.streams("error", "stdin")
    s.all()
    is_(server.counts()["expired"], before["expired"] + 4, "a client that does not open its streams in time is dropped")
    s.close()
    s = Spdy(forward(), PF)
    e = s.open(("streamtype", "error"), ("port", "80"), ("requestid", "1"))
    d = s.open(("streamtype", "data"), ("port", "80"), ("requestid", "2"))
    s.until(lambda: e in s.ended and d in s.reset)
    is_(s.data[e], b"the other stream of this connection did not come in time", "half a forwarded connection is told")
    s.close()
    rest("the session to end")
    server.say("patience 100000 100000 2000")
    gone = server.counts()["gone"]
    s = Spdy(offer("io", "cat"))
    err, i, o = s.streams("error", "stdin", "stdout")
    s.all()
    is_(server.counts()["gone"], gone + 1, "an idle session is ended")
    s.close()
    server.say("patience 60000 30000 14400000")


# --- garbage

def test_fuzz(seed=7, count=300):
    rnd = random.Random(seed)
    for k in range(count):
        kind = rnd.randrange(4)
        url = forward("80") if kind == 3 else offer(rnd.choice(["ioe", "io", "iot"]), "cat")
        try:
            if kind == 1:
                c = Ws(url, rnd.choice([V4, "v5.channel.k8s.io", "v4.base64.channel.k8s.io"]))
                for _ in range(rnd.randrange(20)):
                    c.mask = rnd.random() < .95
                    c.send(rnd.randbytes(rnd.randrange(200)), rnd.choice([0, 1, 2, 2, 2, 8, 9, 10, 11]), rnd.random() < .7)
            else:
                c = Spdy(url, PF if kind == 3 else V4)
                if rnd.random() < .7:
                    c.streams("error", "stdin", "stdout", rnd.choice(["stderr", "resize"]))
                for _ in range(rnd.randrange(30)):
                    x = rnd.random()
                    sid = rnd.choice([0, 1, 3, 5, 7, 9, 2, 0x7fffffff])
                    if x < .3:
                        c.send(sid, rnd.randbytes(rnd.randrange(300)), rnd.random() < .2)
                    elif x < .4:
                        c.control(WINDOW, struct.pack(">II", sid, rnd.choice([0, 1, 65535, 0x7fffffff])))
                    elif x < .5:
                        c.control(RST, struct.pack(">II", sid, 5))
                    elif x < .6:
                        c.control(SETTINGS, struct.pack(">III", rnd.choice([1, 5]), 7, rnd.choice([0, 1, 0x7fffffff])))
                    elif x < .75:
                        c.open(("streamtype", rnd.choice(["data", "error", "stdin"])), ("port", rnd.choice(["1", "x", "70000"])),
                               ("requestid", rnd.choice(["1", "2", "y" * 100])), fin=rnd.random() < .3)
                    elif x < .9:
                        c.control(rnd.randrange(12), rnd.randbytes(rnd.randrange(40)), rnd.randrange(256))
                    elif x < .95:
                        c.t.s.sendall(struct.pack(">HHI", 0x8003, SYN, 30) + rnd.randbytes(30))
                    else:
                        c.t.s.sendall(rnd.randbytes(rnd.randrange(100)))
            if rnd.random() < .3:
                c.t.s.settimeout(.01)
                c.t.s.recv(65536)
        except OSError:
            pass
        c.close()
    rest("all of that to end")
    s = Spdy(offer("o", "echo alive"))
    err, o = s.streams("error", "stdout")
    s.all()
    is_(s.data[o], b"alive\n", "%d connections of garbage (seed %d)" % (count, seed))
    s.close()


def main():
    is_((len(DICT), zlib.adler32(DICT)), (1423, 0xe3c6a7c2), "the dictionary is that of SPDY/3")
    fds = server.counts()["fds"]
    test_http()
    test_spdy()
    test_flow()
    test_ws()
    test_forward()
    test_pressure()
    test_patience()
    test_fuzz()
    wait_until(lambda: server.counts()["sessions"] == 0, "all sessions to end")
    c = server.counts()
    wait_until(lambda: server.counts()["fds"] == fds, "all descriptors to be closed")
    ok(True, "no descriptor is left")
    ok(c["begun"] >= c["exits"] > 0, "every process was reaped", c)
    # ends in the middle of everything
    s = Spdy(offer("io", "cat"))
    s.streams("error", "stdin", "stdout")
    h = Http.__new__(Http)
    h.s = socket.create_connection(("127.0.0.1", int(offer("o", "x").split(":")[2].split("/")[0])))
    h.s.sendall(b"GET / HT")
    s.until(lambda: len(s.replied) == 3)
    server.proc.stdin.write("quit\n")
    is_(server.proc.wait(LIMIT), 0, "it ends in the middle of a session, an upgrade and an offer")
    s.close()
    h.close()


try:
    main()
finally:
    if server.proc.poll() is None:
        server.proc.kill()
        server.proc.wait()
    log.seek(0)
    text = log.read().decode(errors="replace")
    bad = [w for w in ("Sanitizer", "runtime error", "Assertion") if w in text]
    ok(not bad, "no assertion, no sanitizer's report")
    if bad or server.proc.returncode:
        diag(text[-6000:])
done_testing()
