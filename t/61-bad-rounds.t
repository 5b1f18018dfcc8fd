#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Ten thousand rounds of bad input: tokens that are guessed, used twice, expired; SPDY and WebSocket frames that are cut, too
large, out of order, for streams that are not there; clients that vanish in the middle; CDI files that lie; seccomp profiles
of 10 MB; user namespaces whose maps overlap. Each gets a clear answer. After it the daemon and the supervisor hold what they
held after the warm-up: descriptors, children, threads, memory.

    CRICKET_TEST_ROUNDS   how many (default: 10000)
"""
import collections
import itertools
import os
import random
import struct
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from counted import SANITIZED, Held, heap, private_kb, supervisor_of  # noqa: E402
from spdy import Http, Spdy, Ws, WsTransport, HEADERS, RST, SETTINGS, SYN, UP, WINDOW, WSUP, V4  # noqa: E402

ROUNDS = int(os.environ.get("CRICKET_TEST_ROUNDS") or 10000)
WARM = 2000
WAIT = 10                                # seconds that an unused token lives
MAY_LEAK = 256                           # KiB, of the daemon's heap: 26 bytes a round
NOISE = {"cricketd": 1024, "cricket-pod": 160}    # KiB of memory that may come with where things happen to lie

d = Daemon(cni=False, start=False)
specs, profiles = d.tmp + "/cdi", d.tmp + "/profiles"
d.config["cdi"] = {"spec_dirs": [specs]}
d.config["stream"] = {"wait": "%ds" % WAIT}
os.mkdir(specs)
os.mkdir(profiles)

# --- files that lie: name, text, device to ask for, what is answered
EDITS = '{"cdiVersion": "0.6.0", "kind": "lie.test/%s", "devices": [{"name": "x", "containerEdits": %s}]}'
LIES = [
    ("yaml", "cdiVersion: 1.0.0\nkind: [\n", None),
    ("list", "[]", None),
    ("version", '{"cdiVersion": "99.0.0", "kind": "lie.test/version", "devices": []}', None),
    ("key", '{"cdiVersion": "0.6.0", "kind": "lie.test/key", "colour": "red"}', None),
    ("twice", '{"cdiVersion": "0.6.0", "kind": "lie.test/twice", "devices": [{"name": "x", "containerEdits": {}}, '
              '{"name": "x", "containerEdits": {}}]}', None),
    ("deep", "[" * 5000 + "]" * 5000, None),
    ("bytes", "\0\1\2" * 1000, None),
    ("large", " " * (10 << 20), None),
    ("alias", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join("%s: &%s [%s]\n" % (c, c, ",".join(["*" + p] * 9)) for p, c in
                                                    zip("abcdefgh", "bcdefghi")), None),
    ("absent", EDITS % ("absent", '{"deviceNodes": [{"path": "/dev/no/such/thing"}]}'), "/dev/no/such/thing"),
    ("none", EDITS % ("none", '{"deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]}'), "not a device"),
    ("kind", EDITS % ("kind", '{"deviceNodes": [{"path": "/dev/null", "type": "b"}]}'), "another type"),
    ("hook", EDITS % ("hook", '{"hooks": [{"hookName": "createRuntime", "path": "/no/such"}]}'), "/no/such"),
    ("option", EDITS % ("option", '{"mounts": [{"hostPath": "/etc", "containerPath": "/x", "options": ["fast"]}]}'), "fast"),
    ("proc", EDITS % ("proc", '{"mounts": [{"hostPath": "/etc", "containerPath": "/proc/sys"}]}'), "/proc/sys"),
    ("source", EDITS % ("source", '{"mounts": [{"hostPath": "/no/such", "containerPath": "/x", "options": ["bind"]}]}'), "/no/such"),
]
for name, text, _ in LIES:
    with open("%s/%s.%s" % (specs, name, "json" if text.startswith("{") else "yaml"), "w") as f:
        f.write(text)
os.mkfifo(specs + "/fifo.json")
os.symlink("loop.json", specs + "/loop.json")
os.mkdir(specs + "/dir.json")
SECCOMP = [                              # text, answer, how often: some are read by a worker
    (b" " * (10 << 20), "larger than 1048576 bytes", 8),
    (b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [' + b'{"names": ["read"], "action": "SCMP_ACT_ALLOW"},' * 220000 + b"]}",
     "larger than 1048576 bytes", 8),
    (b"\0" * (10 << 20), "larger than 1048576 bytes", 8),
    (b"[" * 1000000, "seccomp profile", 1),
    (b'{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": 7}', "seccomp profile", 1),
]
for n, (text, _, _) in enumerate(SECCOMP):
    with open("%s/%d.json" % (profiles, n), "wb") as f:
        f.write(text)

d.start_daemon()
image = d.image
pod = d.runp("p", net=False)
ctr = d.start(pod, "main", command=["cat"], stdin=True)
d.sh(ctr, "true")                        # the supervisor keeps the container's cgroups from the first exec on
held = Held(d, supervisor_of(pod))
userns = d.Status().runtime_handlers[0].features.user_namespaces
sink = d.net.call(socket.create_server, ("127.0.0.1", 0))
sink.setblocking(False)
PORT = str(sink.getsockname()[1])


class Wrong(Exception):
    """An answer that is none."""


def want(condition, *why):
    if not condition:
        raise Wrong(*why)


# --- tokens

execs = itertools.count(1)
unused = collections.deque()             # (when, URL) of those that nobody takes up


def url_of(kind):
    if kind == "portforward":
        return d.PortForward(pod_sandbox_id=pod).url
    if kind == "attach":
        return d.Attach(container_id=ctr, stdin=True, stdout=True).url
    if next(execs) % 50 == 0:
        d.exec(ctr, "true")              # the supervisor has come to the end of those before it
    return d.Exec(container_id=ctr, cmd=["cat"], stdin=True, stdout=True).url


def some_url(rng):
    return url_of(rng.choice(("attach", "exec", "portforward")))


def protocol_of(url):
    return "X-Stream-Protocol-Version: " + ("portforward.k8s.io" if "/portforward/" in url else V4)


def status(url, *headers, method="POST"):
    h = Http(url, *headers, method=method)
    h.close()
    return h.status


def refused_token(url, rng):
    got = status(url, *rng.choice((UP + (protocol_of(url),), WSUP, ())), method=rng.choice(("GET", "POST")))
    want(got == 404, "HTTP %d" % got)


unused.append((time.monotonic(), url_of("attach")))
base = unused[0][1].rsplit("/", 2)[0]


def guessed(rng):
    abc = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = "".join(rng.choices(abc, k=rng.choice((0, 1, 31, 32, 32, 32, 33, 3000))))
    refused_token("%s/%s/%s" % (base, rng.choice(("exec", "attach", "portforward", "x", "%65xec")), token), rng)


def reused(rng):
    url = some_url(rng)
    if rng.random() < 0.5:
        got = status(url, *rng.choice(((), UP, UP + ("X-Stream-Protocol-Version: nonsense",), WSUP[:2])))
        want(got in (400, 403), "no proper upgrade: %d" % got)
        refused_token(url, rng)
        return
    h = Http(url, *UP, protocol_of(url))
    want(h.status == 101, "HTTP %d" % h.status)
    refused_token(url, rng)              # while the first is there
    h.close()
    refused_token(url, rng)


def expired(rng, all_=False):
    if not all_:
        url = some_url(rng)
        unused.append((time.monotonic(), url))
        other = url.replace("/portforward/", "/exec/") if "/portforward/" in url else url.replace("/exec/", "/attach/") \
            if "/exec/" in url else url.replace("/attach/", "/portforward/")
        refused_token(other, rng)        # it is of another kind
    while unused and (all_ or len(unused) > 600 or unused[0][0] < time.monotonic() - WAIT - 2):
        made, url = unused.popleft()
        time.sleep(max(0, made + WAIT + 2 - time.monotonic()))
        refused_token(url, rng)


# --- SPDY

def upgraded(kind, rng=None, protocol=None, rcvbuf=None):
    url = url_of(kind)
    s = Spdy(url, protocol or ("portforward.k8s.io" if kind == "portforward" else V4), rcvbuf=rcvbuf)
    want(s.t.status == 101, "HTTP %d" % s.t.status)
    return s


def ended(s):
    """The server ends the connection."""
    try:
        while s.frame():
            pass
    except ConnectionResetError:
        pass


def spdy_bad(s, rng, kinds):
    """Some streams, then something bad, and the answer to it."""
    ids = s.streams(*kinds[:rng.randrange(len(kinds) + 1)])
    n = rng.randrange(14)
    if ids and rng.random() < 0.5 and kinds[len(ids) - 1] == "stdin":
        s.send(ids[-1], b"x" * rng.randrange(3000))
    try:
        if n == 0:
            s.t.s.sendall(struct.pack(">HHI", 0x8003, SYN, 1000) + b"\0" * rng.randrange(900))    # cut
            return
        if n == 1:
            s.t.s.sendall(struct.pack(">II", ids[0] if ids else 1, 0xffffff) + b"x" * 1000)        # cut, and large
            return
        if n == 2:
            s.control(rng.choice((SYN, HEADERS, SETTINGS, 77)), b"\0" * rng.choice((70000, 0xffffff >> 3)))    # too large
        elif n == 3:
            s.send(99, b"to nobody" * 10, fin=True)
            want(s.until(lambda: 99 in s.reset), "no RST_STREAM for an unknown stream")
            return
        elif n == 4:
            s.next = 2
            s.streams(kinds[0])                                                       # even
        elif n == 5 and len(ids) > 1:
            s.next = ids[0]
            s.streams(kinds[0])                                                       # that stream is there
            want(s.until(lambda: ids[0] in s.reset), "no RST_STREAM for a stream that comes twice")
            return
        elif n == 6:
            s.control(SYN, struct.pack(">IIH", s.next, 0, 0) + rng.randbytes(40))      # no header block, or the begin of one
            s.until(lambda: s.next in s.reset)
            return
        elif n == 7:
            s.control(RST, struct.pack(">II", 12345, 5))
            s.control(RST, b"\0\0")
        elif n == 8:
            s.control(WINDOW, struct.pack(">II", 0, 0x7fffffff))
            s.control(WINDOW, struct.pack(">II", 0, 0x7fffffff))
        elif n == 9:
            bad = [s.open(("streamtype", "nonsense"), ("port", "x")) for _ in range(10)]
            want(s.until(lambda: bad[-1] in s.reset), "no RST_STREAM for nonsense")
            return
        elif n == 10:
            s.open(*[("h%d" % i, "v" * 200) for i in range(400)])                     # inflates to much
        elif n == 11:
            s.control(SETTINGS, struct.pack(">I", 1 << 30))                            # says more than it holds
        elif n == 12:
            s.control(2, struct.pack(">I", 1) + s.block([]))                           # answers what nobody asked
        else:
            s.t.s.sendall(b"\x80\x02" + rng.randbytes(60))                             # another version
    except (BrokenPipeError, ConnectionResetError):
        pass
    ended(s)


def spdy(kind, *kinds):
    def go(rng):
        s = upgraded(kind)
        try:
            spdy_bad(s, rng, kinds)
        finally:
            s.close()
    return go


def tunnel(rng):
    s = Spdy(None, transport=WsTransport(url_of("portforward")))
    try:
        spdy_bad(s, rng, ("error", "data"))
    finally:
        s.close()


# --- WebSocket

def ws(kind):
    def go(rng):
        w = Ws(url_of(kind), rng.choice(("v5.channel.k8s.io", V4, "channel.k8s.io", None)))
        want(w.t.status == 101, "HTTP %d" % w.t.status)
        n = rng.randrange(10)
        try:
            if n == 0:
                w.t.s.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 20) + b"\1\2\3\4")   # cut
                return
            if n == 1:
                w.send(b"\x63to nobody")
                w.send(b"\x09")
                w.send(b"")
                w.send(b"x", op=9)
                while not w.pongs:
                    want(w.message(), "the end for a channel that nobody has")
                return
            if n == 2:
                w.t.s.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 62) + b"\1\2\3\4much")    # too large
            elif n == 3:
                w.send(b"x", op=rng.choice((3, 5, 11, 15)))
            elif n == 4:
                w.send(b"\0begun", fin=False)
                w.send(b"\0another", fin=True)
            elif n == 5:
                w.send(b"out of order", op=0)
            elif n == 6:
                w.send(b"x" * 200, op=9)                                              # a ping that is too long
            elif n == 7:
                w.mask = False
                w.send(b"\0unmasked")
            elif n == 8:
                w.t.s.sendall(b"\xf2\x85" + rng.randbytes(9))                          # reserved bits
            else:
                w.send(b"x" * rng.choice((1, 126)), op=8)                              # a close that is none
            while w.message():
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            w.close()
    return go


# --- clients that vanish

def vanish(rng):
    n = rng.randrange(7)
    if n < 2:                            # in the request
        url = some_url(rng)
        unused.append((time.monotonic(), url))
        s = socket.create_connection(("127.0.0.1", int(url.split("/")[2].split(":")[1])), LIMIT)
        head = ("POST /%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n" % url.split("/", 3)[3]).encode()
        s.sendall(head[:rng.randrange(len(head))])
    elif n == 2:                         # between streams
        c = upgraded(rng.choice(("attach", "exec")))
        c.streams(*("error", "stdin", "stdout")[:rng.randrange(3)])
        s = c.t.s
    elif n == 3:                         # with output on its way
        c = Spdy(d.Exec(container_id=ctr, cmd=["cat", "/dev/zero"], stdout=True).url, V4, rcvbuf=4096)
        c.streams("error", "stdout")
        c.until(lambda: c.data)
        s = c.t.s
    elif n == 4:                         # with input on its way
        c = upgraded("attach")
        i = c.streams("error", "stdin", "stdout")[1]
        c.send(i, b"y" * 2000)
        s = c.t.s
    elif n == 5:                         # in a message
        w = Ws(url_of(rng.choice(("attach", "exec"))), V4)
        w.t.s.sendall(b"\x82\xfe\x40\0\0\0\0\0\0" + b"z" * 100)
        s = w.t.s
    else:                                # with a connection into the pod
        c = upgraded("portforward")
        for i in "12":
            c.open(("streamtype", "error"), ("port", PORT), ("requestid", i), fin=True)
            data = c.open(("streamtype", "data"), ("port", PORT), ("requestid", i))
            c.send(data, b"x" * 1000)
        c.until(lambda: data in c.replied)
        s = c.t.s
    if rng.random() < 0.5:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))    # RST
    s.close()
    try:
        while True:
            sink.accept()[0].close()
    except BlockingIOError:
        pass


GRPC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


def no_grpc(rng):
    junk = (GRPC[:10], GRPC + rng.randbytes(50), GRPC + b"\xff\xff\xff\0\0\0\0\0\1", b"GET / HTTP/1.1\r\n", b"",
            GRPC + b"\0\0\4\3\0\0\0\0\7\0\0\0\0", GRPC + b"\0\0\4\x08\0\0\0\0\0\x7f\xff\xff\xff" * 2,
            GRPC + b"\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\0", GRPC + b"\0\0\5\1\4\0\0\0\1\x82\x84\xff\xff\xff")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(d.socket)
        try:
            s.sendall(rng.choice(junk))
        except OSError:
            pass


# --- requests

def refused(call, pattern, **fields):
    code, text = error(call, **fields)
    want(code in ("INVALID_ARGUMENT", "UNKNOWN") and re.search(pattern, str(text)), pattern, code, text)


def cdi(rng):
    name, _, answer = rng.choice(LIES)
    config = d.ctr_config("lie", image, ["true"], CDI_devices=[{"name": "lie.test/%s=x" % name}])
    if name not in ("source", "hook"):
        refused(d.CreateContainer, answer or "'lie.test/%s=x' is not found; 12 spec files cannot be used" % name,
                pod_sandbox_id=pod, config=config)
        return
    c = d.create(pod, config=config)     # what is on the node may change until the start
    refused(d.StartContainer, answer, container_id=c)
    d.RemoveContainer(container_id=c)


def seccomp(rng):
    n, = rng.choices(range(len(SECCOMP)), [often for _, _, often in SECCOMP])
    profile = {"profile_type": pb.SecurityProfile.Localhost, "localhost_ref": "%s/%d.json" % (profiles, n)}
    refused(d.CreateContainer, SECCOMP[n][1], pod_sandbox_id=pod,
            config=d.ctr_config("filtered", image, ["true"], security={"seccomp": profile}))


def maps(*pieces):
    return [{"container_id": c, "host_id": h, "length": n} for c, h, n in pieces]


OVERLAP = (maps((0, 100000, 65536), (0, 200000, 65536)), maps((0, 100000, 65536), (65536, 100000, 65536)),
           maps((0, 100000, 65536), (1000, 300000, 10)), maps((0, 4294967290, 65536)), maps((5, 100000, 65536)),
           maps((0, 100000, 0)), maps())
FINE = maps((0, 100000, 65536))


def overlap(rng):
    wrong = rng.choice(OVERLAP)
    uids, gids = rng.choice(((wrong, FINE), (FINE, wrong), (wrong, wrong)))
    refused(d.RunPodSandbox, "user namespace.*mapping" if userns else "user namespace",
            config=d.pod_config("mapped", net=False, userns={"mode": pb.POD, "uids": uids, "gids": gids}))


KINDS = {                                # what, how often of 100
    "guessed token": (guessed, 14), "token used twice": (reused, 10), "expired token": (expired, 8),
    "SPDY, attach": (spdy("attach", "error", "stdin", "stdout"), 17), "SPDY, exec": (spdy("exec", "error", "stdin", "stdout"), 4),
    "SPDY, port-forward": (spdy("portforward", "error", "data"), 6), "SPDY in WebSocket": (tunnel, 3),
    "WebSocket, attach": (ws("attach"), 12), "WebSocket, exec": (ws("exec"), 3), "vanishing client": (vanish, 8),
    "not gRPC": (no_grpc, 4), "lying CDI file": (cdi, 4), "seccomp profile": (seccomp, 3), "overlapping maps": (overlap, 4),
}
counts, spent, wrongs = collections.Counter(), collections.Counter(), collections.defaultdict(list)


def one(what, kind, *args):
    begin = time.monotonic()
    try:
        KINDS[kind][0](*args)
    except (Wrong, OSError, grpc.RpcError, ValueError, struct.error) as e:
        wrongs[kind].append("%s: %r" % (what, e))
        want(sum(map(len, wrongs.values())) < 20, wrongs)
    counts[kind] += 1
    spent[kind] += time.monotonic() - begin


def rounds(first, last):
    """In the daemon's network namespace."""
    for n in range(first, last):
        rng = random.Random(n)
        kind, = rng.choices(list(KINDS), [often for _, often in KINDS.values()])
        one("round %d" % n, kind, rng)
        if n % 50 == 0:
            reap_orphans()
            want(d.proc.poll() is None, "the daemon has ended", d.log_tail())
    one("the rest", "expired token", random.Random(last), True)


def rest(when):
    for name in held.who:
        is_(held.at_rest(name), "", "%s holds no more descriptors, children, threads %s" % (name, when))


d.net.call(rounds, 0, WARM)
rest("after %d rounds" % WARM)
warm = {name: private_kb(pid) for name, pid in held.who.items()}
warm_heap = heap(d)
d.net.call(rounds, WARM, WARM + ROUNDS)
rest("after %d rounds" % (WARM + ROUNDS))
for kind in KINDS:
    diag("%-20s %5d rounds, %6.2f ms each" % (kind, counts[kind], 1000 * spent[kind] / max(1, counts[kind])))
    ok(not wrongs[kind], "%s: each has its answer" % kind, *wrongs[kind][:5])
for name, pid in held.who.items():
    now = private_kb(pid)
    diag("%s: %d KiB after the warm-up, %d KiB after %d rounds" % (name, warm[name], now, ROUNDS))
    if SANITIZED:
        skip("memory of %s: freed memory is kept by the sanitizer" % name)
    else:
        ok(now <= warm[name] + NOISE[name], name + ": memory is what it was after the warm-up", warm[name], now)
if SANITIZED:
    skip("the sanitizer says at the end what was not freed")
else:
    diag("heap: %d bytes after the warm-up, %d after %d rounds" % (warm_heap, heap(d), ROUNDS))
    ok(heap(d) <= warm_heap + (MAY_LEAK << 10), "the daemon has freed what it allocated", warm_heap, heap(d))
is_([c.id for c in d.ListContainers().containers], [ctr], "no container is left but one")
is_([p.id for p in d.ListPodSandbox().items], [pod], "no pod either")
is_(d.sh(ctr, "echo alive"), (b"alive\n", b"", 0), "which works")
d.remove_all()
sink.close()
finish(d)
