#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The part of ./quickstart that talks to the daemon: a pod with a small web server, from image to removal."""
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import cricket as c  # noqa: E402

PAGE = "<h1>It chirps.</h1>\n"


def step(text):
    print("== " + text, flush=True)


def show(text):
    for line in (text.decode("utf-8", "replace") if isinstance(text, bytes) else text).splitlines():
        print("  " + line, flush=True)


class timed:
    def __enter__(self):
        self.t = time.monotonic()
        return self

    def __exit__(self, *_):
        self.ms = (time.monotonic() - self.t) * 1000


def memory(d):
    """(name, KB) of the daemon and its children: supervisors, workers."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/status" % pid) as f:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
            if int(pid) == d.pid or int(status["PPid"]) == d.pid:
                found.append((status["Name"], c.pss_kb(int(pid))))
        except (OSError, KeyError):
            pass
    return sorted(found)


def main():
    step("start cricketd")
    d = c.Daemon()
    v = d.Version(version="v1")
    show("%s %s, CRI %s, on unix://%s" % (v.runtime_name, v.runtime_version, v.runtime_api_version, d.socket))
    show("ready after %.0f ms" % d.ready_ms)
    for cond in d.Status().status.conditions:
        show("%s: %s %s" % (cond.type, "yes" if cond.status else "no:", cond.message))

    step("an image of this machine's busybox, through a registry on the loopback")
    layer = c.Layer().dir("www").file("www/index.html", PAGE)
    image = d.push_image(c.Image([c.busybox_layer(), layer], {"Cmd": ["httpd", "-f", "-vv", "-h", "/www"]}), "quickstart/web")
    with timed() as t:
        ref = d.PullImage(image={"image": image}).image_ref
    show("pulled %s (%s) in %.0f ms" % (image, ref[:19], t.ms))

    step("run a pod")
    with timed() as t_pod:
        pod = d.runp("web")
    with timed() as t_create:
        ctr = d.create(pod, "httpd", image)
    with timed() as t_start:
        d.StartContainer(container_id=ctr)
    ip = d.pod_status(pod).network.ip
    show("pod %s, address %s; container %s" % (pod[:13], ip, ctr[:13]))

    step("fetch its page through the pod's address")

    def get():
        try:
            return d.fetch("http://%s/" % ip)
        except ConnectionRefusedError:
            return None
    status, body = c.wait_until(get, "the web server listens")
    show("GET http://%s/: %d" % (ip, status))
    show(body)
    if status != 200 or body.decode() != PAGE:
        raise RuntimeError("this is not the page")

    step("exec into it")
    with timed() as t_exec:
        out, err, code = d.exec(ctr, "sh", "-c", "hostname; id -u; ps")
    show(out + err)
    if code != 0:
        raise RuntimeError("the exec ended with %d" % code)

    step("its log")
    path = d.status(ctr).log_path
    c.wait_until(lambda: d.log_entries(path), "the web server logs the request")
    with open(path, "rb") as f:
        show(f.read())

    step("what it costs")
    show("RunPodSandbox with network %4.0f ms   CreateContainer %4.0f ms   StartContainer %4.0f ms   exec %4.0f ms"
         % (t_pod.ms, t_create.ms, t_start.ms, t_exec.ms))
    for name, kb in memory(d):
        show("%-14s %6d KB (PSS)" % (name, kb))

    step("stop and remove it")
    d.remove(pod)
    left = len(d.ListPodSandbox().items) + len(d.ListContainers().containers)
    d.settle()
    code = d.stop_daemon()
    for r in d.registries:
        r.stop()
    d.registries = []
    try:
        c.wait_until(lambda: c.reap_orphans(set()) or not c.children(), "processes end", 10)
    except TimeoutError:
        pass
    left = [str(left) + " objects"] if left else []
    left += d.leftovers() + list(c.children().values())
    show("left behind: " + (", ".join(left) or "nothing"))
    if left:
        raise RuntimeError("something is left behind")
    if code != 0:
        raise RuntimeError("cricketd ended with %s" % code)
    c._daemons.remove(d)
    d.close()
    print("\nNow: README.md says how to use it with crictl and Kubernetes; ./runtests runs the tests.")


try:
    main()
    c._tap["planned"] = True
except (Exception, KeyboardInterrupt) as e:  # pylint: disable=broad-except
    print("quickstart: %s%s" % (type(e).__name__, ": %s" % e if str(e) else ""), file=sys.stderr)
    c._tap["quiet"] = isinstance(e, KeyboardInterrupt)
    sys.exit(130 if isinstance(e, KeyboardInterrupt) else 1)
