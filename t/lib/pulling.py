# SPDX-License-Identifier: Apache-2.0
"""For the tests of src/pull: a registry that can be told to misbehave, and the driver that pulls without a daemon.

    reg = FakeRegistry()                             # plain HTTP on a free port of the loopback
    ref = reg.put(image, "a/b", "1")                 # images.Image, or manifest bytes with put_manifest()
    reg.fault("/blobs/sha256:ab", Drop(after=1000))  # once, for the next GET whose path ends so (or has it inside)
    d = Drive()                                      # t/lib/pull_drive with a root of its own
    r = d.pull(ref)                                  # a dict, or Failed with .code .grpc .text
"""
import atexit
import collections
import hashlib
import http.server
import json
import os
import queue
import shutil
import socket
import socketserver
import ssl
import subprocess
import tempfile
import threading

from cricket import BUILD, LIMIT, diag
from images import Image, digest

Request = collections.namedtuple("Request", "method path range auth ns")


class Drop:
    """The connection breaks after so many bytes of the body."""

    def __init__(self, after):
        self.after = after


class Stall(Drop):
    """Nothing more comes after so many bytes, until the client goes away."""


class Short(Drop):
    """The body ends early and says so (Content-Length of what comes)."""


class Answer:
    def __init__(self, status, headers=None, body=b""):
        self.status, self.headers, self.body = status, headers or {}, body


class Gate:
    """The body waits after so many bytes until open() is called."""

    def __init__(self, after=0):
        self.after = after
        self.event = threading.Event()
        self.reached = threading.Event()

    def open(self):
        self.event.set()


class FakeRegistry:
    def __init__(self, tls=None, no_range=False):
        self.blobs, self.manifests = {}, {}
        self.log, self.faults, self.always = [], [], []
        self.lock = threading.Lock()
        self.no_range = no_range
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                registry.serve(self)

            do_HEAD = do_POST = do_GET

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request, address):
                pass                                   # clients go away in these tests

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = "127.0.0.1:%d" % self.server.server_address[1]
        self.scheme = "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.scheme = "https"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    # contents

    def put(self, image, repo="test/image", *tags):
        for data in image.blobs:
            self.blobs[digest(data)] = data
        return self.put_manifest(image.manifest, image.media_type, repo, *(tags or ("latest",)))

    def put_manifest(self, data, media_type, repo="test/image", *tags):
        for name in tags + (digest(data),):
            self.manifests[repo, name] = (data, media_type)
        return "%s/%s:%s" % (self.host, repo, tags[0]) if tags else "%s/%s@%s" % (self.host, repo, digest(data))

    # faults

    def fault(self, path, what, times=1):
        with self.lock:
            self.faults += [(path, what)] * times
        return what

    def rule(self, fn):
        """fn(request) -> None or an Answer, for every request."""
        self.always.append(fn)

    def _fault(self, path):
        with self.lock:
            for i, (part, what) in enumerate(self.faults):
                if part in path:
                    del self.faults[i]
                    return what
        return None

    def count(self, part, method="GET"):
        with self.lock:
            return sum(part in r.path and r.method == method for r in self.log)

    def requests(self, part=""):
        with self.lock:
            return [r for r in self.log if part in r.path]

    # serving

    def serve(self, h):
        length = int(h.headers.get("Content-Length") or 0)
        body = h.rfile.read(length) if length else b""
        path, _, query = h.path.partition("?")
        request = Request(h.command, path, h.headers.get("Range"), h.headers.get("Authorization"), query)
        with self.lock:
            self.log.append(request)
        for fn in self.always:
            answer = fn(request) if not body else fn(request._replace(ns=body.decode()))
            if answer:
                return self.reply(h, answer.status, answer.headers, answer.body, None)
        fault = self._fault(path)
        if isinstance(fault, Answer):
            return self.reply(h, fault.status, fault.headers, fault.body, None)
        found = self.find(path)
        if found is None:
            return self.reply(h, 404, {"Content-Type": "application/json"}, json.dumps(
                {"errors": [{"code": "NAME_UNKNOWN", "message": "repository name not known"}]}).encode(), None)
        data, headers = found
        status = 200
        if request.range and not self.no_range and "/blobs/" in path:
            start = int(request.range.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = "bytes %d-%d/%d" % (start, len(data) - 1, len(data))
            data, status = data[start:], 206
        return self.reply(h, status, headers, data, fault)

    def find(self, path):
        parts = path.removeprefix("/v2/").split("/")
        if len(parts) < 3:
            return (b"{}", {}) if path == "/v2/" else None
        repo, kind, name = "/".join(parts[:-2]), parts[-2], parts[-1]
        if kind == "manifests" and (repo, name) in self.manifests:
            data, media_type = self.manifests[repo, name]
            return data, {"Content-Type": media_type, "Docker-Content-Digest": digest(data)}
        if kind == "blobs" and name in self.blobs:
            return self.blobs[name], {"Content-Type": "application/octet-stream"}
        return None

    def reply(self, h, status, headers, data, fault):
        if isinstance(fault, Short):
            data = data[:fault.after]
        h.send_response(status)
        for key, value in headers.items():
            h.send_header(key, value)
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        if h.command == "HEAD":
            return
        if isinstance(fault, Gate):
            h.wfile.write(data[:fault.after])
            h.wfile.flush()
            fault.reached.set()
            fault.event.wait(LIMIT)
            h.wfile.write(data[fault.after:])
        elif isinstance(fault, Stall):
            h.wfile.write(data[:fault.after])
            h.wfile.flush()
            h.connection.settimeout(LIMIT)
            h.connection.recv(1)
            h.close_connection = True
        elif isinstance(fault, Drop) and not isinstance(fault, Short):
            h.wfile.write(data[:fault.after])
            h.wfile.flush()
            h.connection.shutdown(socket.SHUT_RDWR)
            h.close_connection = True
        else:
            h.wfile.write(data)


class Failed(Exception):
    def __init__(self, code, grpc, text):
        super().__init__(text)
        self.code, self.grpc, self.text = code, grpc, text


class Drive:
    """pull_drive. Answers are told apart by the id of the command; waiting for one lets others arrive."""

    def __init__(self, *options, root=None, limits=()):
        self.tmp = None
        if not root:
            self.tmp = tempfile.mkdtemp(prefix="cricket-pull-", dir=os.environ.get("CRICKET_TEST_TMP"))
            root = self.tmp
        self.root = root
        self.errors = tempfile.TemporaryFile()
        self.proc = subprocess.Popen(
            list(limits) + [BUILD + "/t/lib/pull_drive", "--root", root, "--worker", BUILD + "/cricket-worker",
                            "--debug", "1", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.answers = collections.defaultdict(queue.Queue)
        self.serial = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        atexit.register(self._at_exit)

    def _at_exit(self):
        """After a test that was cut short."""
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        if self.tmp:
            shutil.rmtree(self.tmp, ignore_errors=True)

    def _read(self):
        for line in self.proc.stdout:
            key, _, rest = line.rstrip("\n").partition(" ")
            self.answers[key].put(rest)

    def send(self, line):
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()

    def ask(self, line, key=None):
        self.send(line)
        return self.wait(key or line.split()[0])

    def wait(self, key):
        return self.answers[key].get(timeout=LIMIT)

    def start(self, ref, **auth):
        self.serial += 1
        key = "p%d" % self.serial
        self.send("pull %s %s %s" % (key, ref, " ".join("%s=%s" % kv for kv in auth.items())))
        return key

    def result(self, key):
        word, _, rest = self.wait(key).partition(" ")
        if word == "ok":
            return json.loads(rest)
        code, grpc, text = rest.split(" ", 2)
        raise Failed(int(code), int(grpc), text)

    def pull(self, ref, **auth):
        return self.result(self.start(ref, **auth))

    def fails(self, ref, **auth):
        """The text of the failure, None when it succeeds."""
        try:
            self.pull(ref, **auth)
        except Failed as e:
            self.last = e
            return e.text
        return None

    def layer(self, number):
        return "%s/l/%d" % (self.root, number)

    def layers(self):
        return sorted(os.listdir(self.root + "/l"))

    def stderr(self):
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")

    def kill(self):
        """kill -9, as a crash; the root stays."""
        self.proc.kill()
        self.proc.wait()
        self.tmp = None
        self.close()

    def close(self):
        """Ends it; whether its exit status was 0 and nothing was said by a sanitizer."""
        if self.proc.poll() is None:
            self.send("quit")
        code = max(self.proc.wait(LIMIT), 0)
        self.reader.join()
        self.proc.stdin.close()
        self.proc.stdout.close()
        text = self.stderr()
        self.errors.close()
        if self.tmp:
            shutil.rmtree(self.tmp)
        bad = [x for x in text.splitlines() if "Sanitizer" in x or "runtime error" in x or "Assertion" in x]
        if code or bad:
            diag(*text.splitlines()[-40:])
        return code == 0 and not bad


def sha512(data):
    return "sha512:" + hashlib.sha512(data).hexdigest()


def with_descriptors(image, fn):
    """The image with another manifest: fn(manifest dict)."""
    doc = json.loads(image.manifest)
    fn(doc)
    image.manifest = json.dumps(doc).encode()
    image.digest = digest(image.manifest)
    return image


__all__ = ["Answer", "Drive", "Drop", "Failed", "FakeRegistry", "Gate", "Image", "Short", "Stall", "sha512",
           "with_descriptors"]
