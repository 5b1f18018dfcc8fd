#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""gRPC over libh2o: t/unit/grpc_server with grpcio and with raw HTTP/2 frames, good and bad; cricketd's socket."""
import fcntl
import json
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import termios
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from cricket import BUILD, LIMIT, SLOW, diag, error, fails, grpc, is_, like, ok, pb, wait_until, done_testing  # noqa: E402

tmp = tempfile.mkdtemp(prefix="cricket-grpc-", dir=os.environ.get("CRICKET_TEST_TMP") or "/tmp")
sock_path, record_path, log_path = tmp + "/s", tmp + "/record", tmp + "/log"
MIB = 1 << 20


class Server:
    def __init__(self, path=sock_path):
        self.log = open(log_path, "ab")
        self.proc = subprocess.Popen([BUILD + "/t/unit/grpc_server", path, record_path], stdout=subprocess.PIPE,
                                     stderr=self.log, stdin=subprocess.DEVNULL)
        self.first = self.proc.stdout.readline().decode()

    def end(self):
        self.proc.terminate()
        return self.rest()

    def rest(self):
        out = self.proc.stdout.read().decode()
        self.log.close()
        return self.proc.wait(LIMIT), out


def channel(**more):
    return grpc.insecure_channel("unix:" + sock_path, options=[
        ("grpc.max_receive_message_length", 64 * MIB), ("grpc.max_send_message_length", 128 * MIB),
        ("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", "localhost"), ("grpc.enable_retries", 0)])


Q, R = pb.ExecSyncRequest, pb.ExecSyncResponse


def unary(ch, name, service="test.Test"):
    return ch.unary_unary("/%s/%s" % (service, name), response_deserializer=R.FromString)


def q(text="", n=0, *words):
    return Q(container_id=text, timeout=n, cmd=words).SerializeToString()


def counts(ch):
    return json.loads(unary(ch, "Counts")(b"", timeout=LIMIT).stdout)


def is_error(fn, code, text, name, data=b"", timeout=LIMIT, **more):
    try:
        got = ("OK", fn(data, timeout=timeout, **more))
    except grpc.RpcError as e:
        got = (e.code().name, e.details())
    if callable(text):
        return ok(got[0] == code and text(got[1]), name, repr(got)[:500])
    return is_(got, (code, text), name)


def test_calls(ch):
    is_(unary(ch, "Echo")(R(stdout=b"hi", exit_code=3).SerializeToString()), R(stdout=b"hi", exit_code=3), "an echo")
    is_(unary(ch, "Echo")(b""), R(), "an empty message")
    is_error(unary(ch, "Fail"), "NOT_FOUND", "100% gone: g\u00f6ne\n\u20ac \U0001f997", "status and text", q("100% gone: göne\n€ 🦗", 5))
    is_error(unary(ch, "Fail"), "UNKNOWN", "", "a status without a text", q("", 2))
    is_error(unary(ch, "Fail"), "INTERNAL", lambda t: len(t) > 700 and set(t) == {"€"}, "a long text is cut between characters",
             q("€" * 20000, 13))
    is_error(unary(ch, "Nope"), "UNIMPLEMENTED", "unknown method Nope for service test.Test", "an unknown method")
    is_error(unary(ch, "Echo", "no.Service"), "UNIMPLEMENTED", "unknown service no.Service", "an unknown service")
    is_error(unary(ch, "Echo/x"), "UNIMPLEMENTED", "unknown method Echo/x for service test.Test", "a path with one part more")
    is_error(ch.unary_unary("/x"), "UNIMPLEMENTED", lambda t: "malformed method name" in t, "a path with one part less")
    c = counts(ch)
    is_((c["methods"]["Echo"][:2], c["methods"]["Fail"][:2]), ([2, 0], [3, 3]), "calls are counted by method, and failures")
    ok(0 < c["methods"]["Echo"][3] <= c["methods"]["Echo"][2], "so is their time", c["methods"])
    is_((c["service"], c["method"], c["has_deadline"]), ("test.Test", "Counts", 1), "a handler knows its call")

    calls = [unary(ch, "Sleep").future(q("n%d" % i, 300), timeout=LIMIT) for i in range(200)]
    is_([c.result().stdout for c in calls], [b"n%d" % i for i in range(200)], "200 calls at once on one connection")
    is_(counts(ch)["kept"], 0, "all let go")


def test_requests(ch):
    pod = pb.RunPodSandboxRequest(config={"metadata": {"name": "a"}, "labels": {"k": "v"}}, runtime_handler="h").SerializeToString()
    is_(ch.unary_unary("/test.Test/EchoPod")(pod), pod, "a nested message there and back")
    newer = pod + b"\xfa\x3e\x03abc\xf8\x3e\x07"
    is_(ch.unary_unary("/test.Test/EchoPod")(newer), newer, "unknown fields are no error")
    for what, data, text in (
            ("name", pod.replace(b"\x0a\x01a", b"\x0a\x01\xff"), "config.metadata.name: not valid UTF-8"),
            ("label's value", pod.replace(b"\x12\x01v", b"\x12\x01\xc0"), "config.labels.value: not valid UTF-8"),
            ("handler", pod.replace(b"\x12\x01h", b"\x12\x01\0"), "runtime_handler: has a NUL byte")):
        is_error(ch.unary_unary("/test.Test/EchoPod"), "INVALID_ARGUMENT", text, "a bad string is refused with its field: " + what, data)
    is_error(ch.unary_unary("/test.Test/EchoPod"), "INVALID_ARGUMENT", "config: is cut off", "malformed protobuf", b"\x0a\x7fabc")
    # 2 bytes each on the wire, a struct each in memory
    is_error(ch.unary_unary("/test.Test/EchoPod"), "RESOURCE_EXHAUSTED", "request has too many parts", "a bomb of small messages",
             b"\x0a\x80\x80\x80\x06" + b"\x2a\x00" * (6 * MIB))


def test_sizes(ch):
    frame = len(R(stdout=b"x" * 16 * MIB).SerializeToString()) - 16 * MIB
    for n in (16 * MIB - 1, 16 * MIB):
        data = R(stdout=os.urandom(1000) * (n // 1000) + b"y" * (n % 1000 - frame)).SerializeToString()
        is_(len(data), n, "a message of 16 MiB%s" % (" - 1" if n % 2 else ""))
        got = ch.unary_unary("/test.Test/Echo")(data, timeout=LIMIT)
        ok(got == data, "comes back whole")
    is_error(ch.unary_unary("/test.Test/Echo"), "RESOURCE_EXHAUSTED", "request of 16777217 bytes is larger than 16777216",
             "a request of 16 MiB + 1", data + b"\x18")
    is_error(unary(ch, "Big"), "RESOURCE_EXHAUSTED", lambda t: "is larger than 16777216" in t, "a reply over 16 MiB", q("", 16 * MIB))
    is_(len(unary(ch, "Big")(q("", 16 * MIB - 64), timeout=LIMIT).stdout), 16 * MIB - 64, "a reply just below")
    is_error(ch.unary_unary("/test.Test/Echo"), "RESOURCE_EXHAUSTED", lambda t: "is larger" in t, "a request of 60 MiB",
             b"\0" * (60 * MIB))
    for n in (0, 1, 16384, 40000, 41000, 65535, 65536, 100000, MIB):
        got = unary(ch, "Big")(q("", n), timeout=LIMIT).stdout
        if got != b"b" * n:
            return ok(False, "replies of many sizes: %d" % n)
    many = [unary(ch, "Big").future(q("", 4 * MIB), timeout=LIMIT) for _ in range(16)]
    ok(all(m.result().stdout == b"b" * 4 * MIB for m in many), "16 replies of 4 MiB at once")


def test_streams(ch):
    def stream(*args):
        return ch.unary_stream("/test.Test/Stream", response_deserializer=R.FromString)(q("", *args), timeout=LIMIT)
    is_([m.exit_code for m in stream(1000, "100")], list(range(1000)), "a stream of 1000 messages")
    is_([m for m in stream(0)], [], "an empty stream")
    is_(sum(len(m.stdout) for m in stream(40, str(MIB))), 40 * MIB, "a stream of 40 MiB")
    c = counts(ch)
    ok(c["refused"] > 0 and c["drains"] > c["refused"], "whose queue was full, and ran empty", c)
    ok(c["max_queued"] <= 4 * MIB + 1024, "and stayed bounded", c)
    got = []
    try:
        for m in stream(3, "10", "9"):
            got.append(m.exit_code)
    except grpc.RpcError as e:
        got.append((e.code().name, e.details()))
    is_(got, [0, 1, 2, ("FAILED_PRECONDITION", "after 3")], "a stream that fails at the end")
    is_([len(m.stdout) for m in stream(2, str(5 * MIB))], [5 * MIB] * 2, "one message may be larger than the queue")


def test_ends(ch):
    before = counts(ch)
    is_error(unary(ch, "Never"), "DEADLINE_EXCEEDED", lambda t: "xceeded" in t, "a deadline", timeout=0.05)
    is_error(unary(ch, "Never"), "DEADLINE_EXCEEDED", lambda t: True, "a deadline that is over", timeout=0.000001)
    wait_until(lambda: counts(ch)["kept"] == 0, "the expired calls to be let go")
    f = [unary(ch, "Never").future(b"") for _ in range(50)]
    wait_until(lambda: counts(ch)["kept"] == 50, "50 calls to wait")
    for c in f:
        c.cancel()
    wait_until(lambda: counts(ch)["kept"] == 0, "the cancelled calls to be let go")
    is_(counts(ch)["cancelled"] - before["cancelled"] >= 50, True, "cancelled calls are told")
    is_(counts(ch)["live"], 1, "and gone")
    s = ch.unary_stream("/test.Test/Stream")(q("", 1000000, "100000"))
    next(iter(s))
    s.cancel()
    wait_until(lambda: counts(ch)["live"] == 1, "a stream cancelled in the middle to go")
    ok(True, "a stream cancelled in the middle")

    other = channel()
    f = unary(other, "Never").future(b"")
    wait_until(lambda: counts(ch)["kept"] == 1, "a call on another connection")
    other.close()
    wait_until(lambda: counts(ch)["kept"] == 0, "it to go with its connection")
    ok(True, "calls go with their connection")

    for i in range(1, 300):
        n = unary(ch, "Record")(b"").stdout
        with open(record_path, "rb") as file:
            seen = file.read().strip()
        if int(seen) < int(n):
            return ok(False, "a reply left before what it says was recorded", n, seen)
    ok(True, "replies leave after what they say was recorded")


# --- HTTP/2 by hand

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9


def frame(kind, flags, stream, payload=b"", length=None):
    n = len(payload) if length is None else length
    return struct.pack(">I", n)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def head(path, *more, method=b"\x83", kind=b"application/grpc"):
    h = method + b"\x86\x04" + bytes([len(path)]) + path
    if kind:
        h += literal(b"content-type", kind)
    return h + b"".join(literal(n, v) for n, v in more)


def request(path, body=b"\0\0\0\0\0", stream=1, *more):
    return frame(HEADERS, 4, stream, head(path, *more)) + frame(DATA, 1, stream, body)


class Raw:
    def __init__(self, *parts, settings=b""):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.connect(sock_path)
        self.s.settimeout(LIMIT)
        self.buf = b""
        self.s.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + b"".join(parts))

    def send(self, *parts):
        self.s.sendall(b"".join(parts))

    def frames(self):
        """Until the peer closes."""
        while True:
            while len(self.buf) >= 9:
                n = int.from_bytes(self.buf[:3], "big")
                if len(self.buf) < 9 + n:
                    break
                f = (self.buf[3], self.buf[4], int.from_bytes(self.buf[5:9], "big"), self.buf[9:9 + n])
                self.buf = self.buf[9 + n:]
                yield f
            try:
                more = self.s.recv(65536)
            except ConnectionResetError:
                return
            if not more:
                return
            self.buf += more

    def until(self, want):
        seen = []
        for f in self.frames():
            seen.append(f)
            if want(f):
                return seen
        return seen

    def answer(self, stream=1):
        """Everything up to the end of that stream."""
        return self.until(lambda f: f[2] == stream and (f[0] == RST or (f[0] in (DATA, HEADERS) and f[1] & 1)))

    def close(self):
        self.s.close()


def alive(name):
    """The server still answers, on a new connection."""
    r = Raw(request(b"/test.Test/Echo"))
    seen = r.answer()
    r.close()
    return ok(seen and seen[-1][0] == HEADERS and b"grpc-status\x010" in seen[-1][3], name, seen[-3:])


def test_raw():
    r = Raw(request(b"/test.Test/Echo", b"\0\0\0\0\x02\x18\x01"))
    seen = r.answer()
    kinds = [(k, fl & 1) for k, fl, s, p in seen if s == 1]
    is_(kinds, [(HEADERS, 0), (DATA, 0), (HEADERS, 1)], "headers, data, trailers")
    is_([p for k, fl, s, p in seen if k == DATA], [b"\0\0\0\0\x02\x18\x01"], "the message in its frame")
    r.close()
    r = Raw(request(b"/test.Test/Nope"))
    is_([(k, fl & 1) for k, fl, s, p in r.answer() if s == 1], [(HEADERS, 1)], "an error is one HEADERS frame")
    r.close()

    s = socket.socket(socket.AF_UNIX)
    s.connect(sock_path)
    s.settimeout(LIMIT)
    s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    while True:
        d = s.recv(4096)
        if not d:
            break
        if b"HTTP/1" in d:
            ok(False, "an HTTP/1 client gets no HTTP/1 answer", d)
    ok(True, "an HTTP/1 client is disconnected")
    s.close()

    for what, body, more, code, text in (
            ("no message", b"", (), "INTERNAL", "request without a message"),
            ("half a frame header", b"\0\0\0", (), "INTERNAL", "message frame is cut off"),
            ("a frame that is cut off", b"\0\0\0\0\x09abc", (), "INTERNAL", "message of 9 bytes is cut off at 3"),
            ("two messages", b"\0\0\0\0\0" * 2, (), "INTERNAL", "more than one message in a unary request"),
            ("a compressed message without encoding", b"\1\0\0\0\0", (), "INTERNAL", "compressed flag is 1"),
            ("gzip", b"\1\0\0\0\0", ((b"grpc-encoding", b"gzip"),), "UNIMPLEMENTED", "compression 'gzip' is not supported"),
            ("4 GiB announced", b"\0\xff\xff\xff\xff", (), "RESOURCE_EXHAUSTED", "larger than"),
            ("a bad timeout", b"\0\0\0\0\0", ((b"grpc-timeout", b"12x"),), "INTERNAL", "malformed grpc-timeout '12x'")):
        r = Raw(frame(HEADERS, 4, 1, head(b"/test.Test/Echo", *more)) + frame(DATA, 1, 1, body))
        seen = r.answer()
        got = decode_headers(seen[-1][3]) if seen else {}
        ok(seen and seen[-1][0] == HEADERS and got.get(b"grpc-status") == b"%d" % getattr(grpc.StatusCode, code).value[0]
           and text in got.get(b"grpc-message", b"").decode(), "%s: %s" % (what, code), got)
        r.close()
    for what, h in (("GET", head(b"/test.Test/Echo", method=b"\x82")), ("text/plain", head(b"/test.Test/Echo", kind=b"text/plain")),
                    ("no content-type", head(b"/test.Test/Echo", kind=None))):
        r = Raw(frame(HEADERS, 5, 1, h))
        seen = r.answer()
        hdrs = [decode_headers(p) for k, fl, s, p in seen if k == HEADERS]
        ok(hdrs and hdrs[0].get(b":status") == b"415", "%s: 415" % what, seen, hdrs)
        r.close()


def decode_headers(block):
    """HPACK of one block, as far as libh2o's encoder goes in the first response of a connection."""
    out, i = {}, 0
    static = {8: (b":status", b"200"), 13: (b":status", b"404"), 14: (b":status", b"500")}
    names = {8: b":status", 28: b"content-length", 31: b"content-type", 54: b"server"}

    def number(bits):
        nonlocal i
        v = block[i] & ((1 << bits) - 1)
        i += 1
        if v == (1 << bits) - 1:
            shift = 0
            while True:
                c = block[i]
                i += 1
                v += (c & 127) << shift
                shift += 7
                if not c & 128:
                    break
        return v

    def string():
        nonlocal i
        huff = block[i] & 128
        n = number(7)
        s = block[i:i + n]
        i += n
        return unhuffman(s) if huff else s

    while i < len(block):
        c = block[i]
        if c & 128:
            n = number(7)
            name, value = static.get(n, (b"?%d" % n, b""))
        elif c & 0xe0 == 0x20:
            number(5)
            continue
        else:
            n = number(6 if c & 0x40 else 4)
            name = names.get(n, b"?%d" % n) if n else string()
            value = string()
        out[name] = value
    return out


HUFF = {}


def unhuffman(s):
    """The Huffman code of RFC 7541, appendix B, as far as printable text uses it."""
    if not HUFF:
        codes = ("0:00000 1:00001 2:00010 a:00011 c:00100 e:00101 i:00110 o:00111 s:01000 t:01001 _:100010 %:010101 "
                 "-:010110 .:010111 /:011000 3:011001 4:011010 5:011011 6:011100 7:011101 8:011110 9:011111 "
                 "=:100000 A:100001 b:100011 d:100100 f:100101 g:100110 h:100111 l:101000 m:101001 n:101010 p:101011 "
                 "r:101100 u:101101 ::1011100 B:1011101 C:1011110 D:1011111 E:1100000 F:1100001 G:1100010 H:1100011 "
                 "I:1100100 J:1100101 K:1100110 L:1100111 M:1101000 N:1101001 O:1101010 P:1101011 Q:1101100 R:1101101 "
                 "S:1101110 T:1101111 U:1110000 V:1110001 W:1110010 Y:1110011 j:1110100 k:1110101 q:1110110 v:1110111 "
                 "w:1111000 x:1111001 y:1111010 z:1111011 &:11111000 *:11111001 ,:11111010 ;:11111011 X:11111100 "
                 "Z:11111101 !:1111111000 \":1111111001 (:1111111010 ):1111111011 ?:1111111100 ':11111111010 "
                 "+:11111111011 |:11111111100").split(" ")
        for c in codes:
            HUFF[c[2:]] = c[0]
        HUFF["010100"] = " "
    bits, out, cur = "".join("{:08b}".format(b) for b in s), "", ""
    for b in bits:
        cur += b
        if cur in HUFF:
            out += HUFF[cur]
            cur = ""
    return out.encode()


def test_traps(ch):
    zero = struct.pack(">HI", 4, 0)
    # An unguarded libh2o 2.2 aborts: a stream whose headers still wait for the socket is reset, then its window of zero
    # grows. The socket is kept full by a reply on another stream that nobody reads.
    body = q("", 8 * MIB)
    r = Raw(frame(WINDOW, 0, 0, struct.pack(">I", 64 * MIB)), request(b"/test.Test/Big", struct.pack(">BI", 0, len(body)) + body),
            settings=struct.pack(">HI", 4, 64 * MIB))
    full = []

    def blocked():                     # the socket takes no more
        full.append(struct.unpack("i", fcntl.ioctl(r.s, termios.FIONREAD, b"\0" * 4))[0])
        return full[-1] > 65536 and full[-5:].count(full[-1]) == 5
    wait_until(blocked, "the reply to fill the socket")
    r.send(frame(SETTINGS, 0, 0, zero), request(b"/test.Test/Quiet", b"\0\0\0\0\0", 3))
    wait_until(lambda: counts(ch)["kept"] == 1, "the stream to begin")
    r.send(frame(RST, 0, 3, struct.pack(">I", 8)), frame(WINDOW, 0, 3, struct.pack(">I", 5)))
    alive("RST_STREAM, then WINDOW_UPDATE on a stream that waits for the socket")
    r.close()
    wait_until(lambda: counts(ch)["kept"] == 0, "the stream to end")
    for n in range(1, 30):             # ... at every stage of a reply that waits for its window
        for path, body in ((b"/test.Test/Big", q("", 50000)), (b"/test.Test/Stream", q("", 20, "5000")), (b"/test.Test/Fail", q("x", 5)),
                           (b"/test.Test/Echo", b"\x18\x01")):
            r = Raw(request(path, struct.pack(">BI", 0, len(body)) + body), settings=struct.pack(">HI", 4, n - 1))
            if n % 3 == 0:
                r.until(lambda f: f[0] == HEADERS)
            r.send(frame(WINDOW, 0, 1, struct.pack(">I", n)), frame(RST, 0, 1, struct.pack(">I", 8)) if n % 2 else b"",
                   frame(WINDOW, 0, 1, struct.pack(">I", 1000)), frame(WINDOW, 0, 1, struct.pack(">I", 60000)),
                   frame(PING, 0, 0, b"12345678"))
            r.until(lambda f: f[0] == PING)
            r.close()
    alive("window updates around the end of a stream")

    r = Raw(request(b"/test.Test/Echo", b"\0\0\0\0\0", 5), frame(RST, 0, 3, struct.pack(">I", 8)), request(b"/test.Test/Echo", b"\0\0\0\0\0", 7))
    seen = r.answer(7)
    ok(seen[-1][2] == 7 and not any(f[0] == GOAWAY for f in seen), "RST_STREAM of a stream that a later one closed is harmless", seen[-3:])
    r.close()

    for what, junk in (
            ("noise", bytes(range(256)) * 40), ("a frame of 16 MiB", frame(DATA, 0, 1, b"", 0xffffff)),
            ("DATA on an idle stream", frame(DATA, 1, 5, b"x")), ("HEADERS on stream 0", frame(HEADERS, 5, 0, head(b"/"))),
            ("an even stream", frame(HEADERS, 5, 2, head(b"/"))), ("a bad header block", frame(HEADERS, 5, 1, b"\xff" * 20)),
            ("CONTINUATION alone", frame(CONTINUATION, 4, 1, b"x")), ("a short WINDOW_UPDATE", frame(WINDOW, 0, 0, b"\0")),
            ("a window of 0", frame(WINDOW, 0, 0, b"\0\0\0\0")), ("an overflowing window", frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2),
            ("bad SETTINGS", frame(SETTINGS, 0, 0, b"abc")), ("SETTINGS on a stream", frame(SETTINGS, 0, 1)),
            ("a short PING", frame(PING, 0, 0, b"1")), ("a short RST_STREAM", frame(RST, 0, 1, b"1")),
            ("RST_STREAM of an idle stream", request(b"/test.Test/Echo") + frame(RST, 0, 3, struct.pack(">I", 8)))):
        r = Raw(junk)
        seen = r.until(lambda f: f[0] == GOAWAY)
        ok(any(f[0] == GOAWAY for f in seen), what + " ends the connection with GOAWAY", seen[-3:])
        r.close()
        alive("and nothing else")


def test_fuzz(seed=20, count=400):
    rnd = random.Random(seed)
    paths = [b"/test.Test/" + m for m in (b"Echo", b"Big", b"Never", b"Fail", b"Stream", b"Quiet", b"Sleep", b"Nope")] + [b"/", b"*", b""]
    bodies = [b"\0\0\0\0\0", b"\0\0\0\0\x02\x18\x05", b"\0\0\0\0\x04\x18\xe8\x07\x00", b"\1\0\0\0\0", b"", b"\0\0\0\0\xff", b"\0" * 3]

    def one():
        out, sid, used = [], 1, [1]
        for _ in range(rnd.randrange(1, 25)):
            x = rnd.random()
            if x < .4:
                h = head(rnd.choice(paths), *([(b"grpc-timeout", rnd.choice([b"10m", b"1n", b"x", b"99999999H"]))] if rnd.random() < .3 else []))
                out.append(frame(HEADERS, rnd.choice([4, 4, 4, 5, 0]), sid, h))
                if rnd.random() < .9:
                    out.append(frame(DATA, 1, sid, rnd.choice(bodies)))
                used.append(sid)
                sid += 2
            elif x < .55:
                out.append(frame(RST, 0, rnd.choice(used), struct.pack(">I", rnd.choice([0, 8]))))
            elif x < .7:
                out.append(frame(WINDOW, 0, rnd.choice(used + [0]), struct.pack(">I", rnd.choice([0, 1, 5, 65535, 0x7fffffff]))))
            elif x < .8:
                out.append(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, rnd.choice([0, 1, 65535, 0x7fffffff]))))
            elif x < .9:
                out.append(frame(rnd.randrange(12), rnd.randrange(256), rnd.choice([0, 1, sid]), rnd.randbytes(rnd.randrange(30))))
            elif out:
                b = bytearray(out[-1])
                b[rnd.randrange(len(b))] ^= 1 << rnd.randrange(8)
                out[-1] = bytes(b)
        return out

    for _ in range(count):
        try:
            r = Raw(settings=struct.pack(">HI", 4, rnd.choice([0, 1, 10, 65535])) if rnd.random() < .5 else b"")
            for part in one():
                r.send(part)
            if rnd.random() < .5:
                r.s.settimeout(.005)
                r.s.recv(65536)
        except OSError:
            pass
        r.close()
    alive("%d connections of bad frames (seed %d)" % (count, seed))


def ctxt(pid):
    with open("/proc/%d/status" % pid) as f:
        return sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)


def test_idle(server, ch):
    idle = Raw()
    idle.until(lambda f: f[0] == SETTINGS)
    quiet = Raw(request(b"/test.Test/Quiet"))
    quiet.until(lambda f: f[0] == HEADERS)
    turns = counts(ch)["turns"]
    ok(counts(ch)["turns"] - turns < 20, "a call is a few turns of the loop")
    ch.close()
    stable = [0]

    def same():                        # the closing of the channel is done with
        now = ctxt(server.proc.pid)
        stable.append(now)
        return len(stable) > 3 and len(set(stable[-3:])) == 1
    wait_until(same, "the server to come to rest")
    before = ctxt(server.proc.pid)
    # time in which nothing may happen, not time until something does
    threading.Event().wait(3)
    is_(ctxt(server.proc.pid) - before, 0, "no wake-up in 3 s with idle connections and an idle stream")
    quiet.close()
    idle.close()


def test_socket():
    second = Server()
    code, out = second.rest()
    ok(code == 255 and "a daemon is listening there already" in second.first, "a second daemon is refused", second.first)
    alive("and the first one goes on")
    ok(stat.S_IMODE(os.stat(sock_path).st_mode) == 0o660, "the socket's mode is 0660")
    other = tmp + "/file"
    with open(other, "w") as f:
        f.write("precious")
    code, out = (s := Server(other)).rest()
    ok(code == 255 and "not a socket" in s.first, "a file at the socket's path is an error", s.first)
    is_(open(other).read(), "precious", "and left alone")
    s = Server(tmp + "/" + "x" * 120)
    ok(s.rest()[0] == 255 and "longer than" in s.first, "a path that is too long", s.first)


def test_shutdown(server):
    ch = channel()
    late = unary(ch, "Sleep").future(q("in time", 700), timeout=LIMIT)
    stream = ch.unary_stream("/test.Test/Quiet")(b"", timeout=LIMIT)
    wait_until(lambda: counts(ch)["kept"] == 2, "both to be under way")
    result = []

    def end():
        result.append(server.end())
    t = threading.Thread(target=end)
    t.start()
    try:
        got = list(stream)
    except grpc.RpcError as e:
        got = e.code().name, e.details()
    is_(got, ("UNAVAILABLE", "cricketd is shutting down"), "shutdown ends streams with Unavailable")
    is_(late.result().stdout, b"in time", "and lets calls in flight finish")
    t.join()
    ch.close()
    is_(result[0], (0, "end kept=0 live=0\n"), "then it ends, nothing kept")
    ok(not os.path.exists(sock_path), "and takes its socket away")


def main():
    server = Server()
    is_(server.first, "ready\n", "the server starts")
    ch = channel()
    test_calls(ch)
    test_requests(ch)
    test_sizes(ch)
    test_streams(ch)
    test_ends(ch)
    test_raw()
    test_traps(ch)
    test_fuzz()
    test_socket()
    wait_until(lambda: counts(ch)["kept"] == 0, "everything that the fuzzer left to be let go")
    test_idle(server, ch)
    test_shutdown(server)
    server = Server()
    server.proc.kill()
    server.rest()
    ok(os.path.exists(sock_path), "killed: the socket stays")
    server = Server()
    is_(server.first, "ready\n", "and is replaced by the next")
    alive("which serves")
    is_(server.end()[0], 0, "and ends")


try:
    main()
finally:
    with open(log_path, "rb") as f:
        text = f.read().decode(errors="replace")
    like(text, r"\A(?!.*(Assertion|Sanitizer|runtime error))", "no assertion, no sanitizer's report")
    if "Sanitizer" in text or "Assertion" in text or "runtime error" in text:
        diag(text[:4000])
    subprocess.run(["rm", "-rf", tmp], check=True)
done_testing()
