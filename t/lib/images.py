# SPDX-License-Identifier: Apache-2.0
"""Images for tests, made from this machine's own programs; nothing is downloaded.

    layer = Layer().file("etc/motd", "hello\\n")
    image = Image([busybox_layer(), layer], {"Cmd": ["sh"]})
    Registry("127.0.0.1:5000").push(image, "test/busybox", "1")

A layer is a tar in memory; tests that want a hostile one add TarInfo objects of their own with add(), or
give raw bytes. A registry is anything that speaks the distribution protocol over plain HTTP.
"""
import functools
import gzip
import hashlib
import http.client
import io
import json
import os
import stat
import subprocess
import tarfile
import urllib.parse

DOCKER = ("application/vnd.docker.distribution.manifest.v2+json",
          "application/vnd.docker.container.image.v1+json",
          "application/vnd.docker.image.rootfs.diff.tar")
OCI = ("application/vnd.oci.image.manifest.v1+json",
       "application/vnd.oci.image.config.v1+json",
       "application/vnd.oci.image.layer.v1.tar")
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layer:
    """A layer that is being made. Parents come by themselves; the methods return the layer."""

    def __init__(self, raw=None):
        self.raw = raw                     # the tar, once it is complete
        self.buf = io.BytesIO()
        self.tar = None if raw is not None else tarfile.open(fileobj=self.buf, mode="w",
                                                             format=tarfile.PAX_FORMAT)
        self.seen = set()

    def add(self, info, data=None):
        self.tar.addfile(info, io.BytesIO(data) if data is not None else None)
        return self

    def _info(self, name, mode, uid, gid, kind):
        info = tarfile.TarInfo(name.strip("/"))
        info.mode, info.uid, info.gid, info.mtime, info.type = mode, uid, gid, 1700000000, kind
        return info

    def _new(self, name):
        name = name.strip("/")
        if not name or name in self.seen:
            return False
        parent = os.path.dirname(name)
        if parent:
            self.dir(parent)
        self.seen.add(name)
        return True

    def dir(self, name, mode=0o755, uid=0, gid=0):
        if self._new(name):
            self.add(self._info(name, mode, uid, gid, tarfile.DIRTYPE))
        return self

    def file(self, name, data, mode=0o644, uid=0, gid=0, xattrs=None):
        if isinstance(data, str):
            data = data.encode()
        if self._new(name):
            info = self._info(name, mode, uid, gid, tarfile.REGTYPE)
            info.size = len(data)
            for key, value in (xattrs or {}).items():
                info.pax_headers["SCHILY.xattr." + key] = value
            self.add(info, data)
        return self

    def link(self, name, target):
        if self._new(name):
            info = self._info(name, 0o777, 0, 0, tarfile.SYMTYPE)
            info.linkname = target
            self.add(info)
        return self

    def hard(self, name, target):
        if self._new(name):
            info = self._info(name, 0o755, 0, 0, tarfile.LNKTYPE)
            info.linkname = target.strip("/")
            self.add(info)
        return self

    def fifo(self, name, mode=0o644):
        if self._new(name):
            self.add(self._info(name, mode, 0, 0, tarfile.FIFOTYPE))
        return self

    def whiteout(self, name):
        return self.file(os.path.join(os.path.dirname(name), ".wh." + os.path.basename(name)), b"")

    def opaque(self, name):
        return self.file(os.path.join(name, ".wh..wh..opq"), b"")

    def program(self, path, to=None):
        """A program of this machine with the shared libraries that it needs."""
        with open(path, "rb") as f:
            self.file(to or path, f.read(), stat.S_IMODE(os.stat(path).st_mode))
        out = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        for word in out.split():
            if word.startswith("/") and os.path.exists(word):
                with open(os.path.realpath(word), "rb") as f:
                    self.file(word, f.read(), 0o755)
        return self

    def bytes(self):
        if self.raw is None:
            self.tar.close()
            self.raw = self.buf.getvalue()
            self.buf = None
        return self.raw

    def diff_id(self):
        return digest(self.bytes())

    def blob(self, kind="gzip"):
        """(compressed bytes, what the media type ends with)"""
        if kind == "gzip":
            return gzip.compress(self.bytes(), 6, mtime=0), "+gzip"
        if kind == "zstd":
            return subprocess.run(["zstd", "-q", "-c"], input=self.bytes(), stdout=subprocess.PIPE,
                                  check=True).stdout, "+zstd"
        return self.bytes(), ""


class Image:
    """Layers and a config, and what they are called by."""

    def __init__(self, layers, config=None, kind=OCI, compress="gzip", arch=ARCH, annotations=None, extra=None):
        self.blobs, descs = [], []
        for layer in layers:
            data, ending = layer.blob(compress)
            suffix = "." + ending[1:] if kind is DOCKER and ending else ending
            descs.append({"mediaType": kind[2] + suffix, "size": len(data), "digest": digest(data)})
            self.blobs.append(data)
        self.config = json.dumps(dict({
            "architecture": arch, "os": "linux", "created": "2023-11-14T22:13:20Z",
            "config": dict({"Env": [PATH]}, **(config or {})),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id() for layer in layers]},
        }, **(extra or {})), sort_keys=True).encode()
        self.blobs.append(self.config)
        manifest = {"schemaVersion": 2, "mediaType": kind[0],
                    "config": {"mediaType": kind[1], "size": len(self.config), "digest": digest(self.config)},
                    "layers": descs}
        if annotations:
            manifest["annotations"] = annotations
        self.media_type = kind[0]
        self.manifest = json.dumps(manifest).encode()
        self.id = digest(self.config)              # what CRI calls the image's id
        self.digest = digest(self.manifest)        # what goes behind the @
        self.arch = arch
        self.size = len(self.manifest) + sum(len(b) for b in self.blobs)


def index(images):
    """An OCI index over images of several architectures, as bytes."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {"mediaType": i.media_type, "digest": i.digest, "size": len(i.manifest),
         "platform": {"os": "linux", "architecture": i.arch}} for i in images]}).encode()


class Registry:
    """A client that pushes. connect() may be replaced to reach a registry in another network namespace."""

    def __init__(self, host, connect=None, auth=None):
        self.host = host
        self.auth = auth
        self.connect = connect or (lambda: http.client.HTTPConnection(host, timeout=60))

    def call(self, method, path, data=None, headers=None, good=(200, 201, 202)):
        conn = self.connect()
        try:
            head = dict(headers or {})
            if self.auth:
                head["Authorization"] = self.auth
            conn.request(method, path, data, head)
            reply = conn.getresponse()
            body = reply.read()
            if reply.status not in good:
                raise RuntimeError("registry %s: %s %s: %d %s" % (self.host, method, path, reply.status, body[:200]))
            return reply.status, dict((k.lower(), v) for k, v in reply.getheaders()), body
        finally:
            conn.close()

    def blob(self, repo, data):
        want = digest(data)
        status, _, _ = self.call("HEAD", "/v2/%s/blobs/%s" % (repo, want), good=(200, 404))
        if status == 200:
            return want
        _, head, _ = self.call("POST", "/v2/%s/blobs/uploads/" % repo, b"")
        where = urllib.parse.urlsplit(head["location"])
        query = where.query + ("&" if where.query else "") + "digest=" + urllib.parse.quote(want)
        self.call("PUT", where.path + "?" + query, data, {"Content-Type": "application/octet-stream"})
        return want

    def manifest(self, repo, tag, data, media_type):
        self.call("PUT", "/v2/%s/manifests/%s" % (repo, tag), data, {"Content-Type": media_type})

    def push(self, image, repo, *tags):
        """Returns the reference of the first tag, "HOST/REPO:TAG" (or by digest if there is no tag)."""
        for data in image.blobs:
            self.blob(repo, data)
        for tag in tags or (image.digest,):
            self.manifest(repo, tag, image.manifest, image.media_type)
        return "%s/%s%s" % (self.host, repo, ":" + tags[0] if tags else "@" + image.digest)


PASSWD = ("root:x:0:0:root:/root:/bin/sh\n"
          "www-data:x:33:33:www-data:/var/www:/bin/sh\n"
          "alice:x:1000:1000:Alice:/home/alice:/bin/sh\n"
          "nobody:x:65534:65534:nobody:/:/bin/false\n")
GROUP = "root:x:0:\nwww-data:x:33:\nalice:x:1000:\naudio:x:29:alice\nvideo:x:44:alice\nnogroup:x:65534:\n"


def busybox():
    """Path of a busybox that is statically linked (package busybox-static)."""
    return os.environ.get("CRICKET_BUSYBOX", "/bin/busybox")


@functools.lru_cache(maxsize=None)
def busybox_layer():
    """A small userland: busybox under all of its names, users, and the usual directories."""
    layer = Layer()
    for name in ("bin", "dev", "etc", "proc", "sys", "usr/sbin", "var/log", "run"):
        layer.dir(name)
    layer.dir("tmp", 0o1777).dir("root", 0o700).dir("home/alice", 0o755, 1000, 1000)
    layer.link("var/run", "/run")
    with open(busybox(), "rb") as f:
        layer.file("bin/busybox", f.read(), 0o755)
    for name in subprocess.run([busybox(), "--list"], capture_output=True, text=True, check=True).stdout.split():
        layer.hard("bin/" + name, "bin/busybox")
    layer.file("etc/passwd", PASSWD).file("etc/group", GROUP)
    return layer


@functools.lru_cache(maxsize=None)
def busybox_image():
    return Image([busybox_layer()], {"Cmd": ["sh"]})
