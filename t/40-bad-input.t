#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Input that no proper client sends: the daemon answers with an error, stays alive, and leaves nothing behind."""
import os
import random
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon()
pod = d.runp("p")
ctr = d.start(pod)
R, I = "/runtime.v1.RuntimeService/", "/runtime.v1.ImageService/"


def alive(name):
    return is_(d.Version().runtime_name, "cricket", name)


def raw(path, data, codes, name):
    try:
        d.client.raw(path, data)
        got = "OK"
    except grpc.RpcError as e:
        got = e.code().name
    return ok(got in codes.split("|"), name, "got " + got)


# --- what is no message
bad = "INVALID_ARGUMENT|INTERNAL"
raw(R + "RunPodSandbox", b"\xff\xff\xff\xff", bad, "garbage for a message")
raw(R + "RunPodSandbox", b"\x0a\xff\xff\xff\xff\x0f", bad, "a length beyond the end")
raw(R + "RunPodSandbox", b"\x0a\x05\x0a\x7f", bad, "an inner length beyond the outer")
raw(R + "CreateContainer", b"\x0a\x02\xc3\x28", bad, "a string that is not UTF-8")
raw(R + "PodSandboxStatus", b"\x0a\x01\x00", "INVALID_ARGUMENT|NOT_FOUND", "a NUL in an id")
deep = b""
for _ in range(5000):
    n = len(deep)
    size = b""
    while n > 127:
        size += bytes([n & 127 | 128])
        n >>= 7
    deep = b"\x0a" + size + bytes([n]) + deep
raw(R + "RunPodSandbox", deep, bad + "|UNKNOWN", "messages nested 5000 deep")
raw(R + "Version", b"\xfa\x3f\x03abc", "OK", "an unknown field is passed over")
alive("alive after garbage")
rng = random.Random(1)
names = sorted(n for n in METHODS if n not in STREAMING)
for i in range(400):
    name = names[i % len(names)]
    path = "/%s/%s" % (METHODS[name][0], name)
    try:
        d.client.raw(path, rng.randbytes(rng.randrange(1, 60)), timeout=20 * SLOW)
    except grpc.RpcError as e:
        if e.code() in (grpc.StatusCode.UNAVAILABLE,):
            ok(False, "random bytes to %s" % path, e.details())
alive("alive after 400 random messages")
is_([p.id for p in d.ListPodSandbox().items], [pod], "which made no pod")

# --- what is no method
for path in ("/runtime.v1.RuntimeService/NoSuch", "/no.such.Service/Version", "/runtime.RuntimeService/Version", "/", "/x"):
    raw(path, b"", "UNIMPLEMENTED", "unknown method %s" % path)
is_(Client(d.socket, "runtime.v1alpha2").Version().runtime_api_version, "v1alpha2", "v1alpha2 is answered")

# --- size
is_(error(d.Version, version="x" * (16 * 1024 * 1024 + 1))[0], "RESOURCE_EXHAUSTED", "a message of more than 16 MiB")
big = "x" * (16 * 1024 * 1024 - 4096)
is_(error(d.PodSandboxStatus, pod_sandbox_id=big)[0] in ("NOT_FOUND", "INVALID_ARGUMENT"), True, "one of nearly 16 MiB")
alive("alive after large messages")

# --- ids of all kinds
for what in ("../" * 20 + "etc/passwd", "a" * 65, "%s%s%n", " ", "\n", "A" * 64, "ä", ".", pod + "0", "*"):
    for rpc, field in (("PodSandboxStatus", "pod_sandbox_id"), ("ContainerStatus", "container_id"), ("StartContainer", "container_id"),
                       ("ReopenContainerLog", "container_id"), ("ContainerStats", "container_id")):
        got = error(getattr(d, rpc), **{field: what})[0]
        if got not in ("NOT_FOUND", "INVALID_ARGUMENT"):
            ok(False, "%s of %r" % (rpc, what), got)
    for rpc, field in (("StopPodSandbox", "pod_sandbox_id"), ("RemovePodSandbox", "pod_sandbox_id"), ("StopContainer", "container_id"),
                       ("RemoveContainer", "container_id")):
        got = error(getattr(d, rpc), **{field: what})[0]
        if got not in ("OK",):
            ok(False, "%s of %r" % (rpc, what), got)
ok(True, "ids of all kinds are not found")
for rpc in ("StopPodSandbox", "RemovePodSandbox", "PodSandboxStatus"):
    fails(getattr(d, rpc), "INVALID_ARGUMENT", "", rpc + " of an empty id")
for rpc in ("StartContainer", "StopContainer", "RemoveContainer", "ContainerStatus"):
    fails(getattr(d, rpc), "INVALID_ARGUMENT", "", rpc + " of an empty id")
is_((d.pod_status(pod).state, d.status(ctr).state), (READY, RUNNING), "nobody was hit by it")

# --- images
for what in ("", " ", "UPPER", "a/UPPER", "a" * 300, "name:" + "t" * 200, "x@sha256:123", "../../etc", "a//b", "http://x/y", "a b", "\n"):
    got = error(d.PullImage, image={"image": what})
    if got[0] != "INVALID_ARGUMENT":
        ok(False, "pulling %r" % what[:30], got)
ok(True, "impossible references are invalid")
port = free_port(d.net)
got = error(d.PullImage, image={"image": "127.0.0.1:%d/a/b:c" % port})
is_(got[0], "UNKNOWN", "an unreachable registry: Unknown")
like(got[1], "^RegistryUnavailable", "and the text that kubelet looks for")
missing = d.registry.host + "/no/such:image"
got = error(d.PullImage, image={"image": missing})
ok(got[0] in ("NOT_FOUND", "UNKNOWN") and missing.split("/", 1)[1].split(":")[0] in got[1], "an image that the registry does not have", got)
is_(d.ImageStatus(image={"image": "no/such:thing"}).HasField("image"), False, "ImageStatus of an absent image: OK without image")
d.RemoveImage(image={"image": "no/such:thing"})
ok(True, "removing an absent image is no error")
fails(d.ImageStatus, "INVALID_ARGUMENT", "", "ImageStatus of nothing", image={"image": ""})

# --- an image whose program is missing
empty = d.pull(Image([Layer().dir("etc").file("etc/x", "x")], {"Cmd": ["/bin/not-here"]}), "test/empty")
c = d.create(pod, "missing", empty)
fails(d.StartContainer, "UNKNOWN|NOT_FOUND|INTERNAL|INVALID_ARGUMENT", "not-here.*No such file|No such file.*not-here", "a program that is missing", container_id=c)
d.RemoveContainer(container_id=c)

# --- a registry that lies
for name, change in (("layer", 0), ("config", -1)):
    image = Image([Layer().file("a-" + name, "aaaa")])
    d.push_image(image, "test/lie-" + name)
    hexes = digest(image.blobs[change])[7:]
    blob = os.path.join(d.tmp, "registry/data/docker/registry/v2/blobs/sha256", hexes[:2], hexes, "data")
    data = bytearray(open(blob, "rb").read())
    data[len(data) // 2] ^= 1
    with open(blob, "wb") as f:
        f.write(data)
    got = error(d.PullImage, image={"image": d.registry.host + "/test/lie-%s:latest" % name})
    ok(got[0] != "OK", "a %s whose bytes are not what its digest says" % name, got)
is_(sorted(t for i in d.ListImages().images for t in i.repo_tags if "lie" in t), [], "no such image is there")

# --- a full disk
small = d.tmp + "/small"
os.mkdir(small)
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "small", small], check=False).returncode == 0:
    e = Daemon(other=d, args=["--root", small])
    e.root = small
    e.image  # noqa: B018  pulled: it fits
    p = e.runp("p")
    c = e.start(p)
    huge = d.push_image(Image([Layer().file("huge", bytes(80 << 20))]), "test/huge")
    got = error(e.PullImage, image={"image": huge})
    ok(got[0] not in ("OK", "UNAVAILABLE") and re.search("[Nn]o space|full", got[1]), "a pull that fills the disk says so", got)
    is_(e.sh(c, "echo alive"), (b"alive\n", b"", 0), "what runs goes on")
    wait_until(lambda: os.statvfs(small).f_bavail * os.statvfs(small).f_bsize > 20 << 20, "the remains of the pull are removed")
    ok(True, "the remains of the pull are removed")
    is_(error(e.PullImage, image={"image": d.push_image(Image([Layer().file("fits", bytes(1 << 20))]), "test/fits")})[0], "OK",
        "what fits can be pulled afterwards")
    e.remove(p)
    is_(e.stop_daemon(), 0, "that daemon ends")
    # a worker that deletes slowly dies with the daemon, a moment later
    wait_until(lambda: subprocess.run(["umount", small], capture_output=True).returncode == 0, "end of the daemon's workers")
    e.forget()
else:
    skip("cannot mount a tmpfs", 6)

# --- connections that are no clients
for what in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200, b""):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(d.socket)
        try:
            s.sendall(what)
            s.shutdown(socket.SHUT_WR)
            s.settimeout(20 * SLOW)
            s.recv(4096)
        except (ConnectionError, socket.timeout, BrokenPipeError):
            pass
socks = []
for _ in range(200):
    s = socket.socket(socket.AF_UNIX)
    s.connect(d.socket)
    socks.append(s)
alive("alive with 200 idle connections")
for s in socks:
    s.close()
alive("alive at the end")
is_((d.pod_status(pod).state, d.status(ctr).state), (READY, RUNNING), "pod and container were not disturbed")
d.remove_all()
finish(d)
