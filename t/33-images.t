#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The image service: pull, list, status, remove, and what a crash leaves."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from images import OCI_INDEX, Layer, index  # noqa: E402
from pulling import Answer, Drop, FakeRegistry, Gate, with_descriptors  # noqa: E402

reg = FakeRegistry()
d = Daemon(own_net=False, config={"pinned_images": ["*/pinned/*"], "pull": {"stall": "30s"},
                                  "registries": {"mirrors": {"docker.io": {"endpoint": ["http://" + reg.host]}, "renamed.example": {
                                      "endpoint": ["http://" + reg.host], "rewrite": {"^old/(.*)$": "a/$1"}}}}})


def image(name, size=0, config=None, **fields):
    layers = [Layer().file("common", "common"), Layer().file(name.replace("/", "_"), os.urandom(size) if size else name)]
    return Image(layers, dict({"Cmd": [name]}, **(config or {})), **fields)


def ids():
    return [i.id for i in d.ListImages().images]


def status(name, verbose=False):
    return d.ImageStatus(image={"image": name}, verbose=verbose)


def pull(ref, **fields):
    return d.PullImage(image={"image": ref}, **fields).image_ref


def remove(name):
    d.RemoveImage(image={"image": name})


def usage():
    r = d.ImageFsInfo()
    return r.image_filesystems[0].used_bytes.value, r.image_filesystems[0].inodes_used.value


def layers():
    """Directories of layers, half ones and removed ones too."""
    return [n for n in os.listdir(d.root + "/l") if n != "init"]


def numbers():
    return [n for n in layers() if n.isdigit()]


# --- nothing yet
r = d.ImageFsInfo()
ok(len(r.image_filesystems) == 1 and len(r.container_filesystems) == 1 and r.image_filesystems[0].HasField("used_bytes")
   and r.image_filesystems[0].HasField("inodes_used") and r.image_filesystems[0].timestamp > 0, "ImageFsInfo before any image", r)
ok(os.path.isdir(r.image_filesystems[0].fs_id.mountpoint), "its mount point is a directory")
is_((ids(), usage()), ([], (0, 0)), "no images, no use")
ok(not status("busybox").HasField("image"), "the status of an absent image is an empty reply")
remove("busybox")
ok(True, "removing an absent image succeeds")
for rpc in ("PullImage", "ImageStatus", "RemoveImage"):
    fails(getattr(d, rpc), "INVALID_ARGUMENT", "no image named", rpc + " of nothing")
    fails(getattr(d, rpc), "INVALID_ARGUMENT", "no image named", rpc + " of an empty name", image={"image": ""})
fails(d.PullImage, "INVALID_ARGUMENT", "'Bad!'", "a bad reference", image={"image": "Bad!"})
fails(d.PullImage, "INVALID_ARGUMENT", "'nope' is not configured", "an unknown runtime handler", image={"image": "x", "runtime_handler": "nope"})
fails(d.PullImage, "NOT_FOUND", "not found", "an image that is not there", image={"image": reg.host + "/no/such"})
fails(d.PullImage, "UNKNOWN", "^RegistryUnavailable: ", "a registry that is not there", image={"image": "127.0.0.1:1/x"})
is_(len(re.findall(r"level=error .*op=pull .*127\.0\.0\.1:1/x", d.log_text())), 1, "the log says it once")
reg.fault("/manifests/", Answer(401))
fails(d.PullImage, "UNKNOWN", "authorization failed", "a registry that refuses", image={"image": reg.host + "/no/such"})

# --- one image by all its names
one = image("one", 50000, {"User": "1002:5", "Labels": {"a": "b"}}, annotations={"note": "\u00e4"})
ref = reg.put(one, "a/one", "1", "2")
is_(pull(ref), one.id, "PullImage answers the image's id")
is_(ids(), [one.id], "at once it is in the list")
i = status(ref).image
is_((i.id, list(i.repo_tags), list(i.repo_digests), i.size), (one.id, [ref], ["%s/a/one@%s" % (reg.host, one.digest)], one.size),
    "id, tag, digest, size")
is_((i.uid.value, i.username, i.pinned, i.spec.image, dict(i.spec.annotations)), (1002, "", False, one.id, {"note": "\u00e4"}), "user, spec")
hex_id = one.id.split(":")[1]
for name in (one.id, hex_id, hex_id[:12], "sha256:" + hex_id[:8], ref, "%s/a/one@%s" % (reg.host, one.digest)):
    ok(status(name).image == i, "the same by " + name)
    is_([x.id for x in d.ListImages(filter={"image": {"image": name}}).images], [one.id], "and as a filter")
ok(not status(reg.host + "/a/one").HasField("image"), "but not by a tag that it has not got")
is_(list(d.ListImages(filter={"image": {"image": "other"}}).images), [], "a filter that fits nothing")
info = json.loads(status(ref, True).info["info"])
is_((info["imageSpec"]["config"]["Labels"], info["chainID"][:7], len(status(ref).info)), ({"a": "b"}, "sha256:", 0), "verbose: the config; else no info")
used = usage()
ok(used[0] > 50000 and used[1] >= 4, "ImageFsInfo counts it", used)
before = len(reg.log)
is_(pull(ref), one.id, "pulled again")
is_(sum("/blobs/" in q.path and q.path.split("/")[-1] != digest(one.config) for q in reg.log[before:]), 0, "no layer is fetched again")
pull("%s/a/one:2" % reg.host)
pull("%s/a/one@%s" % (reg.host, one.digest))
is_(list(status(one.id).image.repo_tags), ["%s/a/one:%d" % (reg.host, n) for n in (1, 2)], "more tags, one image")
other = reg.put(one, "b/same")
pull(other)
i = status(one.id).image
is_((len(i.repo_tags), len(i.repo_digests), usage()), (3, 2, used), "the same image of another repository: one record, no more use")
is_(pull("a/one:1"), one.id, "by docker.io's mirror")
ok("docker.io/a/one:1" in status("a/one:1").image.repo_tags, "with the name that was asked for")
is_(pull("renamed.example/old/one:1"), one.id, "by a mirror that has the repository under another name")
ok("renamed.example/old/one:1" in status(one.id).image.repo_tags, "with the name that was asked for, too")

# --- by digest only, users
anon = image("anon", 0, {"User": "www-data:1004"})
dig = "%s/anon@%s" % (reg.host, anon.digest)
reg.put(anon, "anon", "x")
pull(dig)
i = status(dig).image
is_((list(i.repo_tags), list(i.repo_digests), i.HasField("uid"), i.username), ([], [dig], False, "www-data"), "by digest: no tag; a user by name")
none = image("nouser")
pull(reg.put(none, "nouser"))
i = status(none.id).image
is_((i.HasField("uid"), i.username), (False, ""), "no user is root by having neither")
multi = image("multi")
reg.put(multi, "multi", "x")
both = index([multi])
pull(reg.put_manifest(both, OCI_INDEX, "multi", "1"))
is_(list(status(multi.id).image.repo_digests), ["%s/multi@%s" % (reg.host, digest(both))], "of an index: the index's digest")
pull(reg.put(image("pinned"), "pinned/it"))
ok(status(reg.host + "/pinned/it").image.pinned, "pinned by the configuration")

# --- a tag that moves
old, new = image("old"), image("new")
moving = reg.put(old, "moving", "1")
pull(moving)
reg.put(new, "moving", "1")
is_(pull(moving), new.id, "a tag that has moved")
is_((list(status(old.id).image.repo_tags), list(status(new.id).image.repo_tags)), ([], [moving]), "is the new image's only; the old one stays")
is_(len(status(old.id).image.repo_digests), 1, "with its digest")

# --- many
many = [image("many%d" % n) for n in range(70)]
futures = [d.PullImage(image={"image": reg.put(m, "many/%d" % n)}, _future=True) for n, m in enumerate(many)]
is_([f.result().image_ref for f in futures], [m.id for m in many], "70 pulls at once")
total = len(ids())
stream = [list(r.images) for r in d.StreamImages()]
is_([i.id for r in stream for i in r], ids(), "StreamImages has what ListImages has")
ok(len(stream) > 1, "in several messages")
is_([len(list(r.images)) for r in d.StreamImages(filter={"image": {"image": new.id}})], [1], "with a filter")
ok(ids() == sorted(ids()) and len(set(ids())) == total, "in one order")
common = digest(many[0].blobs[0])
is_(reg.count("/blobs/" + common), 1, "the layer that all have was fetched once")

# --- joined, cancelled, late
slow = image("slow", 300000)
ref = reg.put(slow, "slow")
gate = reg.fault("/blobs/" + digest(slow.blobs[1]), Gate(1000))
futures = [d.PullImage(image={"image": ref}, _future=True) for _ in range(3)]
ok(gate.reached.wait(LIMIT), "three pulls of one image")
futures[0].cancel()
gate.open()
is_([f.result().image_ref for f in futures[1:]], [slow.id] * 2, "one is cancelled, the others end well")
is_((reg.count("/slow/manifests/"), reg.count("/blobs/" + digest(slow.blobs[1]))), (1, 1), "one transfer, one manifest")
late = image("late", 300000)
ref = reg.put(late, "late")
gate = reg.fault("/blobs/" + digest(late.blobs[1]), Gate(1000))
fails(d.PullImage, "DEADLINE_EXCEEDED", "", "a pull with a deadline", image={"image": ref}, _timeout=0.3)
gate.open()
ok(late.id not in ids(), "is no image")
f = d.PullImage(image={"image": ref}, _future=True)
is_(f.result().image_ref, late.id, "later it can be pulled")
tiny = reg.put(image("tiny"), "tiny")
side = Client(d.socket)               # gRPC's C core may end its connection with a call that ends so soon (ARCHITECTURE.md)
fails(side.PullImage, "DEADLINE_EXCEEDED", "", "a deadline of 1 ms", image={"image": tiny}, _timeout=0.001)
side.close()
gone = image("gone", 300000)
ref = reg.put(gone, "gone")
gate = reg.fault("/blobs/" + digest(gone.blobs[1]), Gate(1000))
f = d.PullImage(image={"image": ref}, _future=True)
ok(gate.reached.wait(LIMIT), "a pull alone")
f.cancel()
wait_until(lambda: not [n for n in layers() if n.startswith("tmp-")], "its leftovers go")
ok(gone.id not in ids(), "is cancelled, and leaves nothing")
gate.open()

# --- remove
remove("%s/a/one:2" % reg.host)
ok(one.id not in ids() and not any(status(n).HasField("image") for n in (one.id, ref.replace("gone", "a/one"), other)),
   "one tag removes the image with all its names")
remove(one.id)
futures = [d.RemoveImage(image={"image": many[0].id}, _future=True) for _ in range(5)]
ok(all(f.result() is not None for f in futures) and many[0].id not in ids(), "five removals at once")
for n in ids():
    if n != many[1].id:
        remove(n)
is_(ids(), [many[1].id], "all but one")
wait_until(lambda: len(numbers()) == 2, "layers that nobody needs go, shared ones stay: %s" % numbers())
ok(usage()[0] < used[0], "and are counted off")
remove(many[1].id)
wait_until(lambda: not numbers(), "in the end all")
is_(usage(), (0, 0), "nothing is used any more")

# --- restart, crash
pull(reg.put(image("stays", 1000), "stays", "1", "2"))
pull("%s/stays:2" % reg.host)
listed, used = list(d.ListImages().images), usage()
d.restart(kill=False)
ok(list(d.ListImages().images) == listed and usage() == used, "after a restart images are as they were")
before = set(numbers())
pull(reg.put(image("after", 1000), "after"))
ok(before < set(numbers()) and os.path.exists(d.root + "/l/%s/common" % min(before, key=int)),
   "a pull after a restart takes numbers that are free: %s, then %s" % (sorted(before), sorted(numbers())))
remove(reg.host + "/after")
wait_until(lambda: set(numbers()) == before, "and goes again")
crash = image("crash", 300000)
ref = reg.put(crash, "crash")
gate = reg.fault("/blobs/" + digest(crash.blobs[1]), Gate(100000))
f = d.PullImage(image={"image": ref}, _future=True)
ok(gate.reached.wait(LIMIT), "kill -9 in the middle of a pull")
wait_until(lambda: [n for n in layers() if n.startswith("tmp-")], "half a layer is there")
os.kill(d.pid, signal.SIGKILL)
d.restart(kill=True)
gate.open()
ok(list(d.ListImages().images) == listed and usage() == used, "images are as they were")
wait_until(lambda: len(layers()) == 2, "the half layer goes: %s" % layers())
is_(pull(ref), crash.id, "and the image can be pulled")
d.restart(kill=True)
ok(crash.id in ids(), "a pull that was answered survives kill -9 right after")
os.mkdir(d.root + "/l/4711")
d.restart(kill=True)
wait_until(lambda: not os.path.exists(d.root + "/l/4711"), "a layer directory that no record names goes")
remove(crash.id)
d.restart(kill=True)
ok(crash.id not in ids(), "a removal that was answered too")
wait_until(lambda: len(layers()) == 2, "its layers go: %s" % layers())

d.kill_daemon()
d.start_daemon(prefix=["prlimit", "--nofile=1024:1024"])
few = image("few")
is_(pull(reg.put(few, "few")), few.id, "with fewer descriptors than a worker would take")
remove(few.id)

old = Client(d.socket, "runtime.v1alpha2")
is_([i.id for i in old.ListImages().images], [i.id for i in listed], "runtime.v1alpha2 has the images too")
old.close()
ok("secret" not in d.log_text(), "nothing secret in the log")
reg.close()
finish(d)
