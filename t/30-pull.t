#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Pulls: what may be in a registry, what may go wrong on the way, what two pulls share."""
import os
import random
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
import json  # noqa: E402
import time  # noqa: E402

from cricket import done_testing, is_, like, need, ok, wait_until  # noqa: E402
from images import ARCH, DOCKER, OCI, OCI_INDEX, Image, Layer, digest, index  # noqa: E402
from pulling import Answer, Drive, Drop, FakeRegistry, Gate, Short, Stall, sha512, with_descriptors  # noqa: E402

need("root", "zstd")
rng = random.Random(1)
reg = FakeRegistry()
d = Drive("--stall", "2500")


def image(name, size=0, n=1, **fields):
    layers = [Layer().file("%s/%d" % (name, i), name).file("%s/big%d" % (name, i), rng.randbytes(size)) for i in range(n)]
    return Image(layers, {"Cmd": [name]}, **fields)


def has(result, path, text, layer=-1):
    with open(d.layer(result["layers"][layer]["number"]) + "/" + path) as f:
        return f.read() == text


def settled(drive):
    """All leftovers of failed pulls are removed in the end."""
    wait_until(lambda: all(n.isdigit() for n in drive.layers()), "leftovers go: %s" % drive.layers())
    return drive.layers()


# --- what may be there
for kind, word in ((DOCKER, "docker"), (OCI, "oci")):
    for compress in ("gzip", "zstd", "none"):
        img = image("%s-%s" % (word, compress), 5000, 2, kind=kind, compress=compress)
        r = d.pull(reg.put(img, "%s/%s" % (word, compress), "1"))
        ok(r["image_id"] == img.id and has(r, "%s-%s/1" % (word, compress), "%s-%s" % (word, compress)),
           "%s with %s layers" % (word, compress), r)
        is_(r["repo_digest"], "%s/%s/%s@%s" % (reg.host, word, compress, img.digest), "its repo digest")
        is_(r["size"], img.size, "its size: layers, config and manifest")

img = image("plain-under-gzip", compress="none")
with_descriptors(img, lambda m: m["layers"][0].update(mediaType=OCI[2] + "+gzip"))
ok(d.pull(reg.put(img)), "plain tar under a gzip type")

img = image("empty", n=0)
is_(d.pull(reg.put(img, "empty"))["layers"], [], "an image without layers")

img = image("sha512")
data = img.blobs[0]
reg.blobs[sha512(data)] = data
with_descriptors(img, lambda m: m["layers"][0].update(digest=sha512(data)))
ok(d.pull(reg.put(img, "sha512")), "a layer named by sha512")

two = [image("amd"), image("arm", arch="arm64" if ARCH != "arm64" else "amd64")]
for i in two:
    reg.put(i, "multi", "x")
both = index(two[::-1])
ref = reg.put_manifest(both, OCI_INDEX, "multi", "1")
r = d.pull(ref)
is_((r["image_id"], r["repo_digest"].split("@")[1]), (two[0].id, digest(both)), "an index: our platform, the index's digest")
nested = json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest(both), "size": len(both), "mediaType": OCI_INDEX}]}).encode()
is_(d.pull(reg.put_manifest(nested, OCI_INDEX, "multi", "n"))["image_id"], two[0].id, "an index in an index")
deep = nested
for _ in range(4):
    reg.put_manifest(deep, OCI_INDEX, "multi", "d")
    deep = json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest(deep), "size": len(deep)}]}).encode()
like(d.fails(reg.put_manifest(deep, OCI_INDEX, "multi", "deep")), "more than 3 indexes", "but not for ever")
other = index([two[1]])
like(d.fails(reg.put_manifest(other, OCI_INDEX, "multi", "o")), "no match for platform linux/" + ARCH, "nothing for our platform")

r = d.pull("%s/multi@%s" % (reg.host, digest(both)))
is_((r["tag"], r["ref"]), (None, "%s/multi@%s" % (reg.host, digest(both))), "by digest: no tag")
r = d.pull("%s/multi:bogus@%s" % (reg.host, digest(both)))
is_(r["tag"], None, "by tag and digest: the tag is not looked at")

# --- what is refused
like(d.fails(reg.host + "/no/such:1"), "manifest 1 not found at .*repository name not known", "404")
is_(d.last.grpc, 5, "is NotFound")
like(d.fails("127.0.0.1:1/x"), "^RegistryUnavailable: ", "a registry that is not there")
is_(d.last.grpc, 2, "is Unknown, as kubelet wants it")
for bad in ("x/UPPER", "a" * 64, "x@sha256:12"):
    like(d.fails(bad), "invalid image reference '%s" % bad, "a bad reference")
for status, pattern in ((401, "authorization failed"), (403, "authorization failed.*403"), (500, "500"), (418, "418"),
                        (503, "^RegistryUnavailable: .*503")):
    reg.fault("/status/manifests/", Answer(status), 8)
    like(d.fails(reg.put(image("x"), "status", "1")), pattern, "HTTP status %d" % status)
    reg.faults.clear()
reg.fault("/slow/manifests/", Answer(429, {"Retry-After": "1"}))
before = time.monotonic()
ok(d.pull(reg.put(image("slow"), "slow", "1")) and time.monotonic() - before >= 1, "429 with Retry-After: waits and comes again")
reg.fault("/slower/", Answer(429, {"Retry-After": "3600"}), 8)
like(d.fails(reg.put(image("slower"), "slower", "1")), "too many requests", "an hour is too long")
reg.faults.clear()
big = b'{"schemaVersion":2,"x":"' + b"y" * (5 << 20) + b'"}'
like(d.fails(reg.put_manifest(big, OCI[0], "big", "1")), r"5242\d+ bytes, more than 4194304", "a manifest over 4 MiB")
like(d.fails(reg.put_manifest(b'{"schemaVersion":1,"fsLayers":[]}', "application/vnd.docker.distribution.manifest.v1+json", "v1", "1")),
     "schema 1", "Docker schema 1")
img = with_descriptors(image("enc"), lambda m: m["layers"][0].update(mediaType=OCI[2] + "+gzip+encrypted"))
like(d.fails(reg.put(img, "enc")), "encrypted", "an encrypted layer")
img = image("fewer", n=2)
with_descriptors(img, lambda m: m["layers"].pop())
like(d.fails(reg.put(img, "fewer")), "1 layers in the manifest, 2 in the config", "a config that does not fit")
reg.manifests["wrong", digest(both)] = (nested, OCI_INDEX)
like(d.fails("%s/wrong@%s" % (reg.host, digest(both))), "wrong content", "a manifest of another digest")
img = image("wrongconfig")
reg.put(img, "wrongconfig")
reg.blobs[digest(img.config)] = img.config.replace(b"linux", b"linuy")
like(d.fails(reg.host + "/wrongconfig"), "wrong content", "a config of another digest")

# --- layers that are not what was promised
def spoilt(name, fn, pattern, what):
    img = image(name, 20000)
    ref = reg.put(img, "spoilt/" + name)
    key = digest(img.blobs[0])
    reg.blobs[key] = fn(img.blobs[0])
    like(d.fails(ref), pattern, what)
    like(d.last.text, "layer " + key, "names the layer")


spoilt("flip", lambda b: b[:15000] + bytes([b[15000] ^ 1]) + b[15001:], "wrong content: its digest is sha256:", "one bit flipped")
spoilt("flip-head", lambda b: b"\0" + b[1:], "wrong content: its digest is sha256:", "not gzip at all")
spoilt("longer", lambda b: b + b"x", r"wrong content: \d+ bytes instead of", "one byte more")
spoilt("shorter", lambda b: b[:-1], r"wrong content: \d+ bytes instead of", "one byte less")
spoilt("none", lambda b: b"", "wrong content: 0 bytes instead of", "nothing")
img = image("diffid")
config = json.loads(img.config)
config["rootfs"]["diff_ids"] = [digest(b"other")]
img.config = json.dumps(config).encode()
img.blobs[-1] = img.config
with_descriptors(img, lambda m: m["config"].update(digest=digest(img.config), size=len(img.config)))
like(d.fails(reg.put(img, "diffid")), "wrong content: diff id is sha256:.*, the image config says", "a wrong diff id")
for name, blob in (("garbage", b"x" * 3000), ("cutgzip", image("c", 9000).blobs[0][:-100]), ("xz", b"\xfd7zXZ\0" + b"x" * 99),
                   ("trailing", image("t").blobs[0] + b"junk")):
    img = image(name)
    with_descriptors(img, lambda m, b=blob: m["layers"][0].update(digest=digest(b), size=len(b)))
    img.blobs[0] = blob
    ok(d.fails(reg.put(img, "bad/" + name)), "a layer that is what it was promised to be, but no archive: " + name)
n = len(settled(d))

# --- transfers that break
def broken(name, *faults, repo_options=None, registry=reg, times=None):
    img = image(name, 300000)
    ref = registry.put(img, "broken/" + name)
    blob = "/blobs/" + digest(img.blobs[0])
    for fault in faults:
        registry.fault(blob, fault)
    r = d.pull(ref)
    ranges = [q.range for q in registry.requests(blob)]
    ok(has(r, name + "/0", name), name + ": unpacked")
    return ranges


is_(broken("drop", Drop(100000), Drop(50000)), [None, "bytes=100000-", "bytes=150000-"],
    "a broken transfer goes on by Range where it stopped, twice")
is_(broken("start", Drop(0), Drop(0)), [None, None, None], "one that breaks before the first byte starts again")
is_(broken("stall", Stall(120000)), [None, "bytes=120000-"], "a stalled one is dropped and goes on")
is_(broken("5xx", Answer(502), Answer(500)), [None, None, None], "5xx: tried again")
dumb = FakeRegistry(no_range=True)
is_(broken("norange", Drop(70000), registry=dumb), [None, "bytes=70000-"], "without Range the first bytes are read over")
img = image("hopeless", 100000)
ref = reg.put(img, "hopeless")
reg.fault("/blobs/" + digest(img.blobs[0]), Answer(500), 50)
like(d.fails(ref), "HTTP status 500", "but not for ever")
reg.faults.clear()
reg.fault("/blobs/" + digest(img.blobs[0]), Stall(0), 50)
like(d.fails(ref), "no byte for", "nor when nothing comes")
reg.faults.clear()
ok(d.pull(ref), "and later it can be pulled")
reg.fault("/manifests/late", Drop(3))
ok(d.pull(reg.put(image("late"), "late", "late")), "a manifest's transfer breaks: tried again")
dumb.close()

# --- mirrors, redirects
mirror, dead = FakeRegistry(), "http://127.0.0.1:1"
img = image("mirrored", 3000)
mirror.put(img, "lib/mirrored", "1")
m = Drive("--mirror", "reg.example=%s,http://%s" % (dead, mirror.host), "--mirror", "%s=http://%s" % (reg.host, mirror.host))
r = m.pull("reg.example/lib/mirrored:1")
is_(r["tag"], "reg.example/lib/mirrored:1", "by a mirror, the first being dead: the name stays")
ok(all(q.ns == "ns=reg.example" for q in mirror.requests()), "the mirror is told the registry's name")
like(m.fails("reg.example/lib/absent:1"), "not found at", "a mirror's no is told when the origin cannot be reached")
reg.put(img, "only/origin", "1")
ok(m.pull(reg.host + "/only/origin:1")["layers"][0]["had"], "the origin is asked when the mirror has not got it; known layers are not fetched")
mirror.put(image("half", 3000), "half", "1")
half = image("half2", 3000)
mirror.put(half, "half", "1")
reg.put(half, "half", "1")
del mirror.blobs[digest(half.blobs[0])]
ok(m.pull(reg.host + "/half:1"), "a mirror without the blob: the origin has it")
ok(m.close(), "the driver ends well")

store = FakeRegistry()
img = image("redirected", 50000)
ref = reg.put(img, "redirected")
layer = digest(img.blobs[0])
store.blobs[layer] = img.blobs[0]
reg.rule(lambda q: Answer(307, {"Location": "http://%s/v2/x/blobs/%s?sig=1" % (store.host, layer)})
         if q.path == "/v2/redirected/blobs/" + layer else None)
store.fault("/blobs/", Drop(20000))
ok(d.pull(ref), "a redirect to another host")
is_([(q.range, q.auth) for q in store.requests()], [(None, None), ("bytes=20000-", None)], "by Range there too, without credentials")
reg.rule(lambda q: Answer(302, {"Location": "/v2/loop/manifests/1?again"}) if "/loop/" in q.path else None)
like(d.fails(reg.host + "/loop:1"), "redirects without end", "a loop of redirects")
reg.rule(lambda q: Answer(302, {"Location": "file:///etc/passwd"}) if "/file/" in q.path else None)
like(d.fails(reg.host + "/file:1"), "redirects to nowhere usable", "a redirect to a file")
img = image("foreign", 3000)
with_descriptors(img, lambda m: m["layers"][0].update(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                                                      urls=["http://127.0.0.1:1/x", "http://%s/v2/f/blobs/%s" % (store.host, digest(img.blobs[0]))]))
store.blobs[digest(img.blobs[0])] = img.blobs[0]
ref = reg.put(img, "foreign")
del reg.blobs[digest(img.blobs[0])]
ok(d.pull(ref), "a foreign layer comes from its own address")

# --- sharing
base = [Layer().file("base/%d" % i, rng.randbytes(100000)) for i in range(3)]
one, two = (Image(base + [Layer().file(n, n)], {"Cmd": [n]}) for n in ("one", "two"))
refs = [reg.put(one, "share/one"), reg.put(two, "share/two"), reg.put(one, "share/three")]
gate = reg.fault("/blobs/" + digest(one.blobs[0]), Gate(50000))
keys = [d.start(r) for r in refs + refs[:1]]
ok(gate.reached.wait(60), "four pulls at once wait for the same layer")
wait_until(lambda: all(reg.count("/share/%s/blobs/%s" % (n, digest(i.config))) for n, i in (("one", one), ("two", two), ("three", one))),
           "all of them are at their layers")
gate.open()
results = [d.result(k) for k in keys]
is_([reg.count("/blobs/" + digest(b)) for b in one.blobs[:4]], [1, 1, 1, 1], "each layer was fetched once")
is_(len({r["layers"][0]["number"] for r in results}), 1, "and is there once")
r = d.pull(refs[0])
ok(all(l["had"] for l in r["layers"]) and reg.count("/blobs/" + digest(one.blobs[0])) == 1, "later nothing is fetched")

img = image("cancel", 200000, 2)
ref = reg.put(img, "cancel")
gate = reg.fault("/blobs/" + digest(img.blobs[0]), Gate(1000))
a, b = d.start(ref), d.start(ref)
ok(gate.reached.wait(60), "two pulls share a transfer")
is_(d.ask("cancel " + a, a), "cancelled", "one is cancelled")
gate.open()
ok(has(d.result(b), "cancel/1", "cancel"), "the other goes on")
img = image("cancel2", 200000, 2)
ref = reg.put(img, "cancel2")
gate = reg.fault("/blobs/" + digest(img.blobs[0]), Gate(1000))
a = d.start(ref)
ok(gate.reached.wait(60), "a pull alone")
before = set(settled(d))
d.ask("cancel " + a, a)
gate.open()
settled(d)
is_(d.ask("held"), "ok 0 pulls 0", "is cancelled: nothing is held or running")
ok(d.pull(ref), "and can be pulled again")

# another registry's bad transfer does not harm who joined it
evil, img = FakeRegistry(), image("victim", 100000)
ref, bad = reg.put(img, "victim"), evil.put(img, "evil")
evil.blobs[digest(img.blobs[0])] = img.blobs[0][:-1] + b"x"
gate = evil.fault("/blobs/" + digest(img.blobs[0]), Gate(5000))
a = d.start(bad)
ok(gate.reached.wait(60), "a bad registry's transfer runs")
b = d.start(ref)
wait_until(lambda: reg.count("/victim/blobs/" + digest(img.config)), "a good registry's pull joins it")
is_(d.ask("held"), "ok 0 pulls 2", "both run")
gate.open()
ok(has(d.result(b), "victim/0", "victim"), "the good one gets its own")
try:
    d.result(a)
    ok(False, "the bad one fails")
except Exception as e:  # pylint: disable=broad-except
    like(str(e), "wrong content", "the bad one fails")

# --- limits
few = Drive("--transfers", "2", "--layers", "8")
img = image("many", 3000, 12)
ref = reg.put(img, "many")
gates = [reg.fault("/blobs/" + digest(b), Gate(100)) for b in img.blobs[:12]]
a = few.start(ref)
wait_until(lambda: gates[0].reached.is_set() and gates[1].reached.is_set(), "two transfers run")
ok(not gates[2].reached.is_set() and few.ask("held") and reg.count("/many/blobs/") == 3, "not three (and the config was one)")
for g in gates:
    g.open()
is_(len(few.result(a)["layers"]), 12, "but all in the end")
d.ask("record no")
img = image("unrecorded", 1000)
r = d.pull(reg.put(img, "unrecorded"))
wait_until(lambda: not os.path.exists(d.layer(r["layers"][0]["number"])), "a layer that is not recorded goes away")
ok(True, "a layer that is not recorded goes away")
r = few.pull(reg.put(image("gone", 1000, 2), "gone"))
few.ask("remove %d" % r["layers"][0]["number"])
wait_until(lambda: not os.path.exists(few.layer(r["layers"][0]["number"])), "a layer is removed")
ok(os.path.exists(few.layer(r["layers"][1]["number"])), "a layer is removed, not another")

# killed in the middle: leftovers go at the next start, what is recorded stays
gate = reg.fault("/blobs/", Gate(1000))
few.start(reg.put(image("killed", 100000), "killed"))
ok(gate.reached.wait(60), "a pull is under way")
few.kill()
gate.open()
os.mkdir(few.root + "/l/999")
again = Drive(root=few.root)
again.ask("collect")
wait_until(lambda: not again.layers(), "nothing is recorded: all goes")
ok(True, "after kill -9 the next start collects what no record names")
ok(again.close(), "the driver ends well")
os.rmdir(few.root + "/l")
os.rmdir(few.root)
is_(d.ask("held"), "ok 0 pulls 0", "nothing is held")
ok(d.close(), "the driver ends well")
for r in (reg, mirror, store, evil):
    r.close()
done_testing()
