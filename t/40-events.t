#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""GetContainerEvents: every event once, in order, with the whole state of its pod, to any number of subscribers, and one
that does not read is ended. UpdatePodSandboxResources. Streamed lists of entries larger than a message is meant to be."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon(cni=False)
NAMES = pb.ContainerEventType.Name


class Subscriber:
    """Collects what comes, in a thread of its own."""

    def __init__(self):
        self.events, self.end = [], None
        self.client = Client(d.socket)
        self.stream = self.client.GetContainerEvents()
        self.headers = self.stream.initial_metadata()    # waits for them: subscribed from now on
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            for e in self.stream:
                self.events.append(e)
            self.end = ("OK", "")
        except grpc.RpcError as e:
            self.end = (e.code().name, e.details())

    def of(self, *ids):
        return [(NAMES(e.container_event_type), e.container_id) for e in self.events if e.container_id in ids]

    def wait(self, n):
        wait_until(lambda: len(self.events) >= n, "%d events, there are %d" % (n, len(self.events)))


def names(events):
    return [n.replace("CONTAINER_", "").replace("_EVENT", "") for n, _ in events]


subscribers = [Subscriber() for _ in range(20)]
s = subscribers[0]

# --- a pod's life
pod = d.runp("a", config=d.pod_config("a", net=False, labels={"l": "1"}))
ctr = d.start(pod, "main", d.image, ["sh", "-c", "exit 3"])
d.wait_exit(ctr)
ctr2 = d.start(pod, "two", d.image, ["sleep", "1000"])
d.StopContainer(container_id=ctr2, timeout=0)
d.RemoveContainer(container_id=ctr)
d.remove(pod)
expected = {ctr: ["CREATED", "STARTED", "STOPPED", "DELETED"], ctr2: ["CREATED", "STARTED", "STOPPED", "DELETED"],
            pod: ["CREATED", "STARTED", "STOPPED", "DELETED"]}
total = sum(len(v) for v in expected.values())
for x in subscribers:
    x.wait(total)
for id_, what in ((pod, "the pod"), (ctr, "a container"), (ctr2, "a second one")):
    is_(names(s.of(id_)), expected[id_], "%s is created, started, stopped, deleted" % what)
is_(len(s.events), total, "and nothing else happens")
is_([x for x in subscribers if x.events != s.events], [], "all subscribers have seen the same")
stamps = [e.created_at for e in s.events]
ok(stamps == sorted(set(stamps)) and stamps[0] > 0, "the times of events rise")
is_([e for e in s.events if not e.pod_sandbox_status.metadata.name], [], "each has the pod's status")
is_({e.pod_sandbox_status.labels["l"] for e in s.events}, {"1"}, "with its labels")


def state(event_type, id_, whose):
    e = [e for e in s.events if e.container_id == id_ and NAMES(e.container_event_type) == "CONTAINER_%s_EVENT" % event_type][0]
    return {c.id: (c.state, c.exit_code) for c in e.containers_statuses}.get(whose)


is_(state("CREATED", ctr, ctr), (CREATED, 0), "the snapshot of a creation says so")
is_(state("STOPPED", ctr, ctr), (EXITED, 3), "that of an exit has the code")
is_(state("STARTED", ctr2, ctr2), (RUNNING, 0), "that of a start says running")
is_(state("CREATED", ctr2, ctr), (EXITED, 3), "and has all containers of the pod")
is_(state("DELETED", ctr, ctr), None, "that of a removal no longer has the container")
stopped = [e for e in s.events if e.container_id == pod and NAMES(e.container_event_type) == "CONTAINER_STOPPED_EVENT"][0]
is_(stopped.pod_sandbox_status.state, NOTREADY, "a stopped pod is not ready")

# --- leaving
for x in subscribers[1:]:
    x.stream.cancel()
for x in subscribers[1:]:
    x.thread.join(LIMIT)
is_({x.end[0] for x in subscribers[1:]}, {"CANCELLED"}, "nineteen leave")
pod = d.runp("b", config=d.pod_config("b", net=False))
wait_until(lambda: len(s.of(pod)) == 2, "the events of the second pod")
ok(True, "the one that stays sees more")

# --- UpdatePodSandboxResources
fails(d.UpdatePodSandboxResources, "NOT_FOUND", "0000", "resources of an unknown pod", pod_sandbox_id="0" * 64)
d.UpdatePodSandboxResources(pod_sandbox_id=pod[:20], overhead={"cpu_shares": 2}, resources={"memory_limit_in_bytes": 4 << 20})
d.UpdatePodSandboxResources(pod_sandbox_id=pod, resources={"memory_limit_in_bytes": 8 << 20})
d.restart(kill=True)
s.thread.join(LIMIT)
is_(s.end[0], "UNAVAILABLE", "a daemon that dies ends the stream with Unavailable")
info = json.loads(d.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info["info"])
text = json.dumps([info.get("overhead"), info.get("resources")])
ok(re.search(r'hares": "?2', text) and str(8 << 20) in text, "resources of the pod are kept and shown", text)

# --- one that does not read
s = Subscriber()
lazy = d.GetContainerEvents()
lazy.initial_metadata()
big = d.runp("big", config=d.pod_config("big", net=False, annotations={"a": "x" * (400 << 10)}))
for i in range(60):
    d.remove(d.runp("x%d" % i, config=d.pod_config("x%d" % i, net=False, annotations={"a": "x" * (200 << 10)})))
wait_until(lambda: len(s.events) >= 242, "the events of 61 pods")
ok(True, "one that reads gets all events")
got = 0
try:
    for e in lazy:
        got += 1
    end = "OK"
except grpc.RpcError as e:
    end = e.code().name
is_(end, "RESOURCE_EXHAUSTED", "one that does not is ended")
ok(0 < got < 242, "after what had been sent (%d)" % got)

# --- streamed lists
pods = [d.runp("s%d" % i, config=d.pod_config("s%d" % i, net=False, annotations={"a": "x" * (300 << 10)})) for i in range(5)]
pods += [d.runp("t%d" % i, config=d.pod_config("t%d" % i, net=False)) for i in range(5)] + [pod, big]
parts = [[p.id for p in part.pod_sandboxes] for part in d.StreamPodSandboxes()]
is_(sorted(sum(parts, [])), sorted(pods), "StreamPodSandboxes: each once")
ok(len(parts) >= 6 and all(parts), "in messages of some of them: %s" % [len(p) for p in parts])
slow = d.StreamPodSandboxes()
first = next(slow)
gone = pods.pop(5)
d.remove(gone)
is_(sorted([p.id for p in first.pod_sandboxes] + [p.id for part in slow for p in part.pod_sandboxes]), sorted(pods + [gone]),
    "the stream is a snapshot of its beginning")
left = d.StreamPodSandboxes()
next(left)
left.cancel()
is_([len(p.containers) for p in d.StreamContainers()], [], "StreamContainers: nothing is no message")

# --- the end
d.remove_all()
d.proc.terminate()
s.thread.join(LIMIT)
is_(s.end[0], "UNAVAILABLE", "an orderly end ends streams with Unavailable")
is_(d.proc.wait(LIMIT), 0, "and the daemon with 0")
d.client.close()
d.proc = d.client = None
d.start_daemon()
finish(d)
