#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Requests that are wrong in one place: for each RPC, each field of its request at any depth gets what it must not have
(proto/runtime.proto's descriptors say what there is), in bytes that no client library would send. Each is answered with
a status, the daemon lives, nothing is left behind, and a good pod works afterwards. The same requests in every run."""
import os
import random
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403
from google.protobuf.descriptor import FieldDescriptor as F  # noqa: E402

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5
PATIENCE = 20 * SLOW
BIG = b"x" * (1 << 20)
STRINGS = {
    "empty": b"", "NUL": b"\0", "NUL inside": b"a\0b", "not UTF-8": b"a\xff\xfe", "cut UTF-8": b"a\xe2\x82", "1 MiB": BIG,
    "any byte": "".join(map(chr, range(1, 256))).encode(), "upwards": b"../../../../garbage", "formats": b"%s%n%1000000d",
    "lines": b"a\n\r\n\x1b[2Jb", "slashes": b"////", "absolute": b"/garbage/not/there",
}
BYTES = {k: STRINGS[k] for k in ("empty", "NUL", "any byte", "1 MiB", "not UTF-8")}
INTS = {"-1": (1 << 64) - 1, "least": 1 << 63, "most": (1 << 63) - 1, "least of 32": (1 << 64) - (1 << 31), "most of 32": (1 << 31) - 1,
        "all bits": (1 << 64) - 1}
ENUMS = {"unknown": 99, "-1": (1 << 64) - 1, "most": (1 << 31) - 1}
TIMES = 10000
# good ones of what a list may hold, so that only one of their fields is wrong
SAMPLES = {
    "Mount": {"container_path": "/garbage", "host_path": "/etc", "readonly": True},
    "Device": {"container_path": "/dev/garbage", "host_path": "/dev/null", "permissions": "rwm"},
    "KeyValue": {"key": "GARBAGE", "value": b"v"},
    "HugepageLimit": {"page_size": "2MB", "limit": 0},
    "IDMapping": {"host_id": 0, "container_id": 0, "length": 1 << 31},
    "PortMapping": {"container_port": 80, "host_port": 0},
    "CDIDevice": {"name": "garbage.test/x=y"},
}


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def piece(number, kind, data):
    """One field as it is on the wire; data is a number for VARINT, else bytes."""
    return varint(number << 3 | kind) + (varint(data) if kind == VARINT else varint(len(data)) + data if kind == LEN else data)


def plain(field):
    """A small good value, for fields that are to be there many times."""
    if field.type in (F.TYPE_STRING, F.TYPE_BYTES):
        return piece(field.number, LEN, b"x")
    if field.type == F.TYPE_MESSAGE:
        return piece(field.number, LEN, b"")
    return piece(field.number, VARINT, 1)


def wrongs(field):
    """[(what, bytes)] to put where the field belongs."""
    n = field.number
    if field.type == F.TYPE_STRING:
        right, values = LEN, STRINGS
    elif field.type == F.TYPE_BYTES:
        right, values = LEN, BYTES
    elif field.type == F.TYPE_MESSAGE:
        right, values = LEN, {"empty": b"", "nonsense": b"\xff" * 9, "a length beyond its end": b"\x0a\x7f"}
    elif field.type == F.TYPE_ENUM:
        right, values = VARINT, ENUMS
    elif field.type == F.TYPE_BOOL:
        right, values = VARINT, {"2": 2, "all bits": (1 << 64) - 1}
    elif field.type in (F.TYPE_INT32, F.TYPE_INT64, F.TYPE_UINT32, F.TYPE_UINT64):
        right, values = VARINT, INTS
    else:
        raise NotImplementedError(field.full_name)
    found = [(what, piece(n, right, v)) for what, v in values.items()]
    found.append(("missing", b""))
    for kind, data in ((VARINT, 7), (FIXED64, b"\1" * 8), (LEN, b"abc"), (FIXED32, b"\2" * 4)):
        if kind != right:
            found.append(("wire type %d" % kind, piece(n, kind, data)))
    found.append(("wire type 6", varint(n << 3 | 6) + b"\0"))
    found.append(("a number of 11 bytes", varint(n << 3) + b"\xff" * 11))
    found.append(("%d times" % TIMES, plain(field) * TIMES))
    return found


def fields(kind, above=()):
    """The paths of all fields, at any depth."""
    for field in kind.fields:
        yield above + (field,)
        if field.type == F.TYPE_MESSAGE and field.message_type not in [f.message_type for f in above]:
            yield from fields(field.message_type, above + (field,))


def put(message, path, data):
    """The bytes of a message in which the field at the end of path is these bytes instead."""
    field = path[0]
    rest = type(message)()
    rest.CopyFrom(message)
    rest.ClearField(field.name)
    if len(path) == 1:
        return rest.SerializeToString() + data
    if field.message_type.GetOptions().map_entry:
        inner = {"key": piece(1, LEN, b"garbage"), "value": piece(2, LEN, b"v")}
        if len(path) == 2:
            inner[path[1].name] = data
        else:
            value = getattr(pb, path[1].message_type.name)()
            inner["value"] = piece(2, LEN, put(value, path[2:], data))
        return rest.SerializeToString() + piece(field.number, LEN, b"".join(inner.values()))
    value = getattr(message, field.name)
    if field.label == F.LABEL_REPEATED:
        value = value[0] if value else getattr(pb, field.message_type.name)(**SAMPLES.get(field.message_type.name, {}))
    return rest.SerializeToString() + piece(field.number, LEN, put(value, path[1:], data))


d = Daemon()
image = d.image
closed = "127.0.0.1:%d/no/such:image" % free_port(d.net)
good, victims = d.runp("good"), {}
good_ctr = d.start(good, "main")
before_cgroups = {m: set(os.listdir(m)) for m, _, _ in cgroup_mounts()}
pid = d.pid


def victim():
    """A pod and a container that garbage may hit; made anew when it has been hit."""
    if victims and error(d.status, victims["ctr"])[0] == "OK" and d.status(victims["ctr"]).state == RUNNING:
        return victims
    if victims:
        d.remove(victims["pod"])
    victims["pod"] = d.runp("victim", net=False)
    victims["ctr"] = d.start(victims["pod"], "victim", command=["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done"])
    return victims


def templates(name):
    """A good request, in which one thing is going to be wrong."""
    v = victim()
    request = getattr(pb, METHODS[name][1].input_type.name)()
    for field in request.DESCRIPTOR.fields:
        if field.name == "pod_sandbox_id":
            request.pod_sandbox_id = v["pod"]
        elif field.name == "container_id":
            request.container_id = v["ctr"]
    if name == "RunPodSandbox":
        request.config.CopyFrom(d.pod_config("new", net=False))
    elif name == "CreateContainer":
        request.config.CopyFrom(d.ctr_config("new", command=["true"]))
        request.sandbox_config.CopyFrom(d.pod_config("victim", net=False))
    elif name == "RestorePod":
        request.checkpoint_path = d.tmp              # where there is none
        request.config.CopyFrom(d.pod_config("new", net=False))
        request.container_configs.append(d.ctr_config("new", command=["true"]))
    elif name in ("ExecSync", "Exec"):
        request.cmd.append("true")
    elif name in ("ImageStatus", "PullImage", "RemoveImage"):
        request.image.image = {"ImageStatus": image, "PullImage": closed, "RemoveImage": "no/such:image"}[name]
    elif name == "UpdateContainerResources":
        request.linux.cpu_shares = 1000
    if name in ("Exec", "Attach"):
        request.stdout = True
    return request


counts, spent = {}, {}


def send(name, data, what):
    """The code; None (and a failed test) if there is no proper answer."""
    path = "/%s/%s" % (METHODS[name][0], name)
    begin = time.monotonic()
    try:
        if name == "GetContainerEvents":            # a good one has no end
            call = d.client._channel.unary_stream(path)(data, timeout=PATIENCE)
            if d.Version().runtime_name == "cricket":
                call.cancel()
            code, text = "OK", b""
        elif name in STREAMING:
            code, text = "OK", b"".join(d.client._channel.unary_stream(path)(data, timeout=PATIENCE))
        else:
            code, text = "OK", d.client._channel.unary_unary(path)(data, timeout=PATIENCE)
    except grpc.RpcError as e:
        code, text = e.code().name, e.details()
    took = time.monotonic() - begin
    if took > spent.get(name, (0, ""))[0]:
        spent[name] = (took, what)
    counts.setdefault(name, {}).setdefault(code, 0)
    counts[name][code] += 1
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL"):
        ok(False, "%s, %s: %s" % (name, what, code), text)
        if d.proc.poll() is not None:
            ok(False, "the daemon lives", d.proc.returncode, d.log_tail())
            finish(d)
        return None
    if code == "OK" and name == "RunPodSandbox":
        made = pb.RunPodSandboxResponse.FromString(text).pod_sandbox_id
        d.remove(made)
    elif code == "OK" and name == "CreateContainer":
        made = pb.CreateContainerResponse.FromString(text).container_id
        started = error(d.StartContainer, container_id=made, _timeout=PATIENCE)
        if started[0] in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"):
            ok(False, "starting that of %s: %s" % (what, started[0]), started[1])
        d.RemoveContainer(container_id=made)
    return code


rng = random.Random(1)
for name in sorted(METHODS):
    request, sent, utf8 = templates(name), 0, []
    for path in fields(request.DESCRIPTOR):
        where = ".".join(f.name for f in path)
        for what, data in wrongs(path[-1]):
            if where.endswith("cgroup_parent") and what in ("formats", "lines", "slashes", "any byte", "upwards", "absolute", "NUL inside"):
                continue                             # those would be made, and belong to whoever names them
            if path[0].name == "sandbox_config" and what not in ("not UTF-8", "cut UTF-8", "nonsense", "1 MiB", "least"):
                continue                             # RunPodSandbox has them all
            code = send(name, put(request, path, data), "%s: %s" % (where, what))
            sent += 1
            if path[-1].type == F.TYPE_STRING and what in ("not UTF-8", "cut UTF-8") and code != "INVALID_ARGUMENT":
                utf8.append("%s: %s" % (where, code))
        if name.startswith(("Update", "Stop", "Remove")):
            victim()
    whole = request.SerializeToString()
    for n in range(0, len(whole), max(1, len(whole) // 30)):
        send(name, whole[:n], "cut after %d bytes" % n)
    for i in range(40 if whole else 5):
        data = bytearray(whole or b"\0")
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        send(name, bytes(data), "mutation %d" % i)
        victim()
    ok(d.proc.poll() is None and d.pid == pid, "%s: %d requests with one thing wrong are answered: %s" % (name, sent, counts[name]))
    is_(utf8, [], name + ": strings that are not UTF-8 are no arguments")
for name, (took, what) in sorted(spent.items(), key=lambda x: -x[1][0])[:5]:
    diag("slowest: %s, %s: %.2f s" % (name, what, took))

# --- nothing has come of it
d.remove(victims["pod"])
is_([p.id for p in d.ListPodSandbox().items], [good], "no pod is left but the good one")
is_([c.id for c in d.ListContainers().containers], [good_ctr], "no container either")
is_(len(d.ListImages().images), 1, "no image")
wait_until(lambda: not [n for n in os.listdir(d.state + "/pods") if n != good], "the others' directories are gone", 20 * SLOW)
ok(True, "nor a directory")
left = {m + "/" + n for m, _, _ in cgroup_mounts() for n in set(os.listdir(m)) - before_cgroups[m]
        if "garbage" in n or len(n) > 200}
is_(left, set(), "nor a cgroup elsewhere")
with open(d.log, "rb") as f:
    torn = [line[:200] for line in f.read().split(b"\n")[:-1] if not re.match(rb"\d{4}-\d\d-\d\dT[0-9:.]+Z level=[^\x00-\x1f\x7f]*$", line)]
is_(torn[:3], [], "nothing of it has torn a line of the log")
is_((d.pod_status(good).state, d.status(good_ctr).state), (READY, RUNNING), "what was there has not been hit")
is_(d.sh(good_ctr, "echo hi"), (b"hi\n", b"", 0), "exec works in it")
pod = d.runp("after")
is_(d.run(pod, "after", ["echo", "alive"])[1], [("stdout", "F", b"alive")], "a new pod works")
d.remove_all()
finish(d)
