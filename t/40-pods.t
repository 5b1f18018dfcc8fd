#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Pod sandboxes: run, status, list, stop, remove; names, labels, filters, id prefixes; what may be done twice."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon()

# --- one life
v = d.Version(version="0.1.0")
is_((v.version, v.runtime_name, v.runtime_api_version), ("0.1.0", "cricket", "v1"), "Version")
like(v.runtime_version, r"^\d+\.\d+\.\d+", "runtime_version is a version")
conditions = {c.type: c.status for c in d.Status().status.conditions}
is_(conditions, {"RuntimeReady": True, "NetworkReady": True}, "both conditions are true")
is_(d.RuntimeConfig().linux.cgroup_driver, pb.CGROUPFS, "RuntimeConfig says which cgroup driver")

is_(len(d.ListPodSandbox().items), 0, "no pods at first")
annotations = {"a/b": "c", "empty": "", "unicode": "Grüße 🦗", "json": '{"x": [1, 2]}'}
labels = {"app": "web", "": "empty key", "line": "one\ntwo"}
config = d.pod_config("web", labels=labels, annotations=annotations,
                      metadata={"name": "web", "uid": "u-1", "namespace": "ns-1", "attempt": 7})
pod = d.runp(config=config, handler="")
like(pod, "^[0-9a-f]{64}$", "the id is 64 hex digits")
s = d.pod_status(pod)
is_((s.id, s.state), (pod, READY), "READY at once")
is_((s.metadata.name, s.metadata.uid, s.metadata.namespace, s.metadata.attempt), ("web", "u-1", "ns-1", 7), "metadata")
is_(dict(s.labels), labels, "labels are returned as they came")
is_(dict(s.annotations), annotations, "annotations too")
ok(s.created_at > 0, "created_at is set")
like(s.network.ip, r"^10\.88\.\d+\.\d+$", "the pod has an address")
is_(s.linux.namespaces.options.network, pb.POD, "namespace options are echoed: network")
is_(s.linux.namespaces.options.pid, pb.CONTAINER, "and pid")
is_(len(d.PodSandboxStatus(pod_sandbox_id=pod).info), 0, "no info unless asked")
info = d.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info
ok(info, "verbose: info")
for key, value in info.items():
    if value.startswith("{"):
        json.loads(value)
item = d.ListPodSandbox().items
is_([i.id for i in item], [pod], "it is listed")
is_((dict(item[0].labels), dict(item[0].annotations), item[0].created_at, item[0].state),
    (labels, annotations, s.created_at, READY), "the list says the same as the status")

# --- the same again
is_(d.runp(config=config), pod, "the same config again: the existing pod")
other = pb.PodSandboxConfig()
other.CopyFrom(config)
other.labels["app"] = "another"
fails(d.RunPodSandbox, "ALREADY_EXISTS", "web", "same identity, another config: AlreadyExists", config=other)
other.metadata.attempt = 8
second = d.runp(config=other)
ok(second != pod, "another attempt is another pod")
ok(d.pod_status(second).created_at > s.created_at, "created_at grows strictly")

# --- list filters
def ids(**f):
    return sorted(i.id for i in d.ListPodSandbox(filter=f).items)

both = sorted([pod, second])
is_(ids(), both, "filter: empty means all")
is_(ids(id=pod), [pod], "filter: id")
is_(ids(id=pod[:13]), [pod], "filter: id prefix")
is_(ids(id="0" * 64), [], "filter: unknown id")
is_(ids(state={"state": READY}), both, "filter: READY")
is_(ids(state={"state": NOTREADY}), [], "filter: NOTREADY")
is_(ids(label_selector={"app": "web"}), [pod], "filter: label")
is_(ids(label_selector={"app": "web", "no": "such"}), [], "filter: all labels must match")
is_(ids(label_selector={"line": "one\ntwo"}), both, "filter: label with a line break")
is_(ids(id=pod, label_selector={"app": "another"}), [], "filter: id and label are ANDed")
got = []
for part in d.StreamPodSandboxes(filter={}):
    ok(len(part.pod_sandboxes) > 0, "a message of the stream has items")
    got += [i.id for i in part.pod_sandboxes]
is_(sorted(got), both, "StreamPodSandboxes: each once")
is_(list(d.StreamPodSandboxes(filter={"id": "0" * 64})), [], "StreamPodSandboxes: an empty stream is an empty list")

# --- id prefixes
is_(d.pod_status(pod[:13]).id, pod, "status by id prefix")
fails(d.PodSandboxStatus, "INVALID_ARGUMENT", "", "an empty id is invalid", pod_sandbox_id="")
fails(d.PodSandboxStatus, "NOT_FOUND", "0000", "an unknown id is not found", pod_sandbox_id="0" * 64)
fails(d.PodSandboxStatus, "NOT_FOUND", "", "a UUID is not found", pod_sandbox_id="a5c1c2a1-8b3c-4a8a-9a52-000000000000")
first = {}
for i in range(40):
    more = d.runp("many-%d" % i, net=False)
    if more[0] in first:
        fails(d.PodSandboxStatus, "INVALID_ARGUMENT", more[:8], "an ambiguous prefix is invalid, and names the matches",
              pod_sandbox_id=more[0])
        break
    first[more[0]] = more
else:
    ok(False, "two of 40 ids begin alike")
for p in [i.id for i in d.ListPodSandbox().items]:
    if p not in both:
        d.remove(p)

# --- stop and remove, twice and of what is not there
d.StopPodSandbox(pod_sandbox_id=pod)
s = d.pod_status(pod)
is_((s.state, s.network.ip), (NOTREADY, ""), "stopped: NOTREADY, no address")
is_(dict(s.annotations), annotations, "stopped: all else is still there")
d.StopPodSandbox(pod_sandbox_id=pod[:13])
ok(True, "stopping twice is no error, by prefix")
is_(ids(state={"state": NOTREADY}), [pod], "filter: NOTREADY")
fails(d.CreateContainer, "FAILED_PRECONDITION", pod[:8], "no container in a stopped pod", pod_sandbox_id=pod,
      config=d.ctr_config("x", d.image, ["true"]), sandbox_config=config)
d.RemovePodSandbox(pod_sandbox_id=pod)
d.RemovePodSandbox(pod_sandbox_id=pod)
ok(True, "removing twice is no error")
fails(d.PodSandboxStatus, "NOT_FOUND", pod[:8], "removed: not found", pod_sandbox_id=pod)
is_(ids(), [second], "removed: not listed")
for unknown in ("0" * 64, "a5c1c2a1-8b3c-4a8a-9a52-000000000000"):
    d.StopPodSandbox(pod_sandbox_id=unknown)
    d.RemovePodSandbox(pod_sandbox_id=unknown)
ok(True, "stopping and removing what is not there is no error")
is_(d.runp(config=config) != pod, True, "the name is free again")

# --- removing a running pod with containers
ctr = d.start(second, "main")
pid = d.pid_of(ctr)
d.RemovePodSandbox(pod_sandbox_id=second)
ok(not os.path.exists("/proc/%d" % pid), "RemovePodSandbox kills what runs")
fails(d.ContainerStatus, "NOT_FOUND", ctr[:8], "and takes the containers away", container_id=ctr)
d.remove_all()

# --- what must be refused
def refused(name, pattern, code="INVALID_ARGUMENT", handler="", **fields):
    cfg = d.pod_config("refused", **fields)
    got = error(d.RunPodSandbox, config=cfg, runtime_handler=handler)
    ok(got[0] in code.split("|") and re.search(pattern, str(got[1])), name, "got %s %s" % got)

refused("no name", "name", metadata={"uid": "u", "namespace": "n"})
refused("no uid", "uid", metadata={"name": "x", "namespace": "n"})
refused("no namespace", "namespace", metadata={"name": "x", "uid": "u"})
refused("an unknown runtime handler", "nope", code="INVALID_ARGUMENT|NOT_FOUND|UNKNOWN", handler="nope")
refused("a host name that is too long", "host ?name", hostname="x" * 65)
refused("a line break in a DNS server", "", dns_config={"servers": ["1.2.3.4\nnameserver 6.6.6.6"]})
refused("a sysctl of the node", "vm.overcommit_memory", linux={"sysctls": {"vm.overcommit_memory": "1"}})
refused("a sysctl with dots for a path", "", linux={"sysctls": {"net/../../kernel/core_pattern": "x"}})
refused("a cgroup parent that climbs", "cgroup", linux={"cgroup_parent": "/a/../../b"})
refused("a group without a user", "group", linux={"security_context": {"run_as_group": {"value": 5}}})
refused("an unknown namespace mode", "", linux={"security_context": {"namespace_options": {"ipc": 9}}})
refused("a port out of range", "port", port_mappings=[{"host_port": 70000, "container_port": 80}])
refused("no metadata at all", "metadata|name", metadata={})
fails(d.RunPodSandbox, "INVALID_ARGUMENT", "", "no config at all")
is_([i.metadata.name for i in d.ListPodSandbox().items], [], "nothing of them is left")

# --- names with any character
names = ["a_b", "a/b", "../x", "..", "with space", "ü", "x" * 3000, "quote'\"", "semi;colon=1", "new\nline", "%s%n", "-rf"]
for i, name in enumerate(names):
    meta = {"name": name, "uid": "u/%d" % i, "namespace": name, "attempt": 0}
    try:
        p = d.runp(config=d.pod_config("n%d" % i, metadata=meta, net=(i % 4 == 0)))
        m = d.pod_status(p).metadata
        is_((m.name, m.namespace, m.uid), (name, name, "u/%d" % i), "name %r" % name[:20])
        d.remove(p)
    except grpc.RpcError as e:
        ok(False, "name %r" % name[:20], e.details())

# --- 10,000 labels
labels = {"label-%d" % i: "value-%d" % i for i in range(10000)}
p = d.runp("many-labels", labels=labels, net=False)
is_(dict(d.pod_status(p).labels), labels, "10,000 labels")
is_([i.id for i in d.ListPodSandbox(filter={"label_selector": {"label-9999": "value-9999"}}).items], [p], "selected by one")
is_([i.id for i in d.ListPodSandbox(filter={"label_selector": labels}).items], [p], "selected by all")
d.remove(p)

# --- many at once
futures = [d.RunPodSandbox(_future=True, config=d.pod_config("par-%d" % i)) for i in range(12)]
pods = [f.result().pod_sandbox_id for f in futures]
is_(len(set(pods)), 12, "twelve pods at once")
ips = {d.pod_status(p).network.ip for p in pods}
is_(len(ips), 12, "with an address each")
same = d.pod_config("same")
futures = [d.RunPodSandbox(_future=True, config=same) for _ in range(5)]
is_(len({f.result().pod_sandbox_id for f in futures}), 1, "five times the same request at once: one pod")
p = futures[0].result().pod_sandbox_id
futures = [d.RemovePodSandbox(_future=True, pod_sandbox_id=p) for _ in range(3)] + \
          [d.StopPodSandbox(_future=True, pod_sandbox_id=p) for _ in range(3)]
for f in futures:
    f.result()
ok(True, "removing and stopping it several times at once")
futures = [d.RemovePodSandbox(_future=True, pod_sandbox_id=p) for p in pods]
for f in futures:
    f.result()
is_(len(d.ListPodSandbox().items), 0, "all gone")

# --- a client that goes away
# each by a connection of its own: gRPC's C core may end it with a cancel that comes before the request (ARCHITECTURE.md)
sides = [Client(d.socket), Client(d.socket)]
f = sides[0].RunPodSandbox(_future=True, config=d.pod_config("gone"))
f.cancel()
got = error(sides[1].RunPodSandbox, config=d.pod_config("late"), _timeout=0.001)
ok(got[0] in ("DEADLINE_EXCEEDED", "OK"), "a deadline of a millisecond", got)


def settled():
    """Every pod that there is on disk is one that is listed: the others are undone."""
    return sorted(os.listdir(d.state + "/pods")) == sorted(i.id for i in d.ListPodSandbox().items)


wait_until(settled, "cancelled pods are undone or found")
ok(all(i.state == READY for i in d.ListPodSandbox().items), "cancelled pods are undone or found")
for side in sides:
    side.close()
d.remove_all()
finish(d)
