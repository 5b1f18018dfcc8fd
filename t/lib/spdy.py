# SPDX-License-Identifier: Apache-2.0
"""Clients of the streaming server, written from the specifications: HTTP/1.1, SPDY/3.1, WebSocket. They send what they are
told to, good or bad."""
import socket
import struct
import zlib

from cricket import LIMIT, SRC


def dictionary():
    """From the C source, whose strings are written as they are."""
    words, text = [], b""
    with open(SRC + "/src/reactor/spdy_dict.h") as f:
        for line in f:
            if line.startswith("    "):
                for part in line.strip().split('W('):
                    quoted = part.split('"')
                    if len(quoted) == 5:
                        words.append(bytes([int(quoted[1][2:], 16)]).rjust(4, b"\0") + quoted[3].encode())
                    elif len(quoted) == 3:
                        text += quoted[1].encode()
    return b"".join(words) + text


DICT = dictionary()


class Http:
    """One request to a URL, the reply's head, then the bare connection."""

    def __init__(self, url, *headers, method="POST", early=b"", rcvbuf=None):
        rest = url.split("://")[1]
        host, path = rest.split("/", 1)
        self.s = socket.socket()
        if rcvbuf:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.s.settimeout(LIMIT)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.s.connect((host.split(":")[0], int(host.split(":")[1])))
        self.s.sendall("\r\n".join(["%s /%s HTTP/1.1" % (method, path), "Host: " + host, *headers, "", ""]).encode() + early)
        self.buf = b""
        while b"\r\n\r\n" not in self.buf:
            d = self.s.recv(4096)
            if not d:
                break
            self.buf += d
        head, _, self.buf = self.buf.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = [tuple(h.split(": ", 1)) for h in lines[1:]]

    def get(self, name):
        return [v for k, v in self.headers if k.lower() == name.lower()]

    def read(self, n):
        """Exactly n bytes; b"" at the end."""
        while len(self.buf) < n:
            try:
                d = self.s.recv(65536)
            except ConnectionResetError:
                d = b""
            if not d:
                return b""
            self.buf += d
        d, self.buf = self.buf[:n], self.buf[n:]
        return d

    def close(self):
        self.s.close()


UP = ("Connection: Upgrade", "Upgrade: SPDY/3.1")
WSUP = ("Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
SYN, REPLY, RST, SETTINGS, PING, GOAWAY, HEADERS, WINDOW = 1, 2, 3, 4, 6, 7, 8, 9
V4 = "v4.channel.k8s.io"


class Spdy:
    def __init__(self, url, protocol=V4, early=b"", transport=None, rcvbuf=None):
        self.out, self.inf = zlib.compressobj(zdict=DICT), zlib.decompressobj(zdict=DICT)
        self.next = 1
        self.data = {}
        self.ended, self.reset, self.replied = set(), {}, set()
        self.pongs, self.windows, self.goaway = [], {}, False
        self.order = []
        self.t = transport or Http(url, *UP, "X-Stream-Protocol-Version: " + protocol, early=early, rcvbuf=rcvbuf)

    def control(self, kind, payload, flags=0):
        self.t.s.sendall(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload)

    def send(self, stream, data=b"", fin=False):
        self.t.s.sendall(struct.pack(">II", stream, (1 if fin else 0) << 24 | len(data)) + data)

    def block(self, headers):
        pairs = b"".join(struct.pack(">I", len(x)) + x.encode() for kv in headers for x in kv)
        return self.out.compress(struct.pack(">I", len(headers)) + pairs) + self.out.flush(zlib.Z_SYNC_FLUSH)

    def open(self, *headers, fin=False):
        n = self.next
        self.next += 2
        self.control(SYN, struct.pack(">IIH", n, 0, 0) + self.block(headers), 1 if fin else 0)
        return n

    def streams(self, *types):
        return [self.open(("streamtype", t)) for t in types]

    def frame(self):
        """Takes in one frame; False at the end of the connection."""
        head = self.t.read(8)
        if not head:
            return False
        a, b = struct.unpack(">II", head)
        n = b & 0xffffff
        body = self.t.read(n) if n else b""
        if not a >> 31:
            self.data[a] = self.data.get(a, b"") + body
            if b >> 24 & 1:
                self.ended.add(a)
            self.order.append((a, "fin" if b >> 24 & 1 else "data"))
            return True
        kind = a & 0xffff
        if kind == REPLY:
            sid = struct.unpack(">I", body[:4])[0]
            self.inf.decompress(body[4:])
            self.replied.add(sid)
        elif kind == RST:
            sid, code = struct.unpack(">II", body)
            self.reset[sid] = code
        elif kind == PING:
            self.pongs.append(body)
        elif kind == WINDOW:
            sid, delta = struct.unpack(">II", body)
            self.windows[sid] = self.windows.get(sid, 0) + delta
        elif kind == GOAWAY:
            self.goaway = True
        self.order.append((kind, "control"))
        return True

    def until(self, cond):
        while not cond():
            if not self.frame():
                return False
        return True

    def all(self):
        while self.frame():
            pass

    def close(self):
        self.t.close()


class Ws:
    def __init__(self, url, protocol=None, mask=True, early=b""):
        self.t = Http(url, *WSUP, *(["Sec-WebSocket-Protocol: " + protocol] if protocol else []), method="GET", early=early)
        self.mask = mask
        self.closed = None
        self.pongs = []

    def send(self, data, op=2, fin=True):
        n = len(data)
        head = bytes([(0x80 if fin else 0) | op])
        m = 0x80 if self.mask else 0
        head += bytes([m | n]) if n < 126 else bytes([m | 126]) + struct.pack(">H", n) if n < 65536 else \
            bytes([m | 127]) + struct.pack(">Q", n)
        if self.mask:
            key = b"\x12\x34\x56\x78"
            pad = (key * (n // 4 + 1))[:n]
            data = (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(n, "big") if n else b""
            head += key
        self.t.s.sendall(head + data)

    def message(self):
        """The next one, (opcode, bytes); None at the end."""
        head = self.t.read(2)
        if not head:
            return None
        n = head[1] & 127
        if head[1] & 128:
            raise ValueError("masked by the server")
        if n == 126:
            n = struct.unpack(">H", self.t.read(2))[0]
        elif n == 127:
            n = struct.unpack(">Q", self.t.read(8))[0]
        body = self.t.read(n) if n else b""
        op = head[0] & 15
        if op == 8:
            self.closed = struct.unpack(">H", body[:2])[0] if body else 0
        elif op == 10:
            self.pongs.append(body)
        return op, body

    def all(self):
        """{channel: bytes} up to the end, and the list of channels as they came."""
        got, order = {}, []
        while True:
            m = self.message()
            if not m:
                return got, order
            if m[0] in (1, 2):
                got[m[1][:1]] = got.get(m[1][:1], b"") + m[1][1:]
                order.append(m[1][:1])

    def close(self):
        self.t.close()


class WsTransport:
    """What Spdy reads from and writes to, through a WebSocket."""

    def __init__(self, url):
        self.ws = Ws(url, "SPDY/3.1+portforward.k8s.io")
        self.s, self.buf = self, b""

    def sendall(self, data):
        for i in range(0, len(data), 1000):
            self.ws.send(data[i:i + 1000])

    def read(self, n):
        while len(self.buf) < n:
            m = self.ws.message()
            if not m:
                return b""
            if m[0] == 2:
                self.buf += m[1]
        d, self.buf = self.buf[:n], self.buf[n:]
        return d

    def close(self):
        self.ws.close()
