# SPDX-License-Identifier: Apache-2.0
"""What the tests in t/*.t stand on: TAP, a cricketd of their own, and a gRPC client for it.

    from cricket import *
    d = Daemon()                                  # temporary root, state, socket, config; own network namespace
    image = d.push_image(busybox_image())         # a registry of its own, started when first needed
    d.PullImage(image={"image": image})           # any RPC by its name, fields as keywords
    pod = d.runp("web")
    ctr = d.start(pod, "sh", image, ["sleep", "1000"])
    is_(d.sh(ctr, "echo hi"), (b"hi\\n", b"", 0), "exec")
    d.remove(pod)
    finish(d)                                     # stops it, checks that nothing is left behind, prints the plan

A test never touches what others have: the daemon's network is a namespace with only lo in it, its cgroups
lie below a parent with the test's own name, its files in a temporary directory. The test process is the
subreaper of all that it starts, so that no process can get away. Whatever is still there at the end (also
after a failure or a signal) is reported as a failed test and then cleared away.

    CRICKET_BUILD       where the programs are (default: build beside the sources)
    CRICKET_TEST_TMP    where temporary directories go (default: /tmp)
    CRICKET_TEST_SLOW   patience is multiplied by this (emulated machines: 20)
    CRICKET_TEST_KEEP   keep the temporary directory
"""
import atexit
import ctypes
import fcntl
import functools
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback

os.umask(0o022)                      # what tests make is for processes of other users too
os.environ.setdefault("HOME", os.path.expanduser("~"))
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
for _name in list(os.environ):
    if _name.lower().endswith("_proxy"):
        del os.environ[_name]

from images import (Image, Layer, Registry as RegistryClient, busybox, busybox_image,  # noqa: E402,F401
                    busybox_layer, digest)

SRC = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("CRICKET_BUILD") or os.path.join(SRC, "build"))
SLOW = float(os.environ.get("CRICKET_TEST_SLOW") or 1)
LIMIT = 60 * SLOW                    # seconds until something that was waited for is given up

libc = ctypes.CDLL(None, use_errno=True)

# --- TAP

_tap = {"n": 0, "failed": 0, "planned": False}
_out = os.fdopen(os.dup(1), "w", buffering=1)


def diag(*text):
    for line in "\n".join(str(t) for t in text).splitlines():
        print("# " + line, file=sys.stderr, flush=True)


def _line(passed, name, extra=""):
    _tap["n"] += 1
    if not passed:
        _tap["failed"] += 1
    name = name.replace("\n", " ").replace("#", "=")
    print("%sok %d - %s%s" % ("" if passed else "not ", _tap["n"], name, extra), file=_out)


def _where():
    for frame in reversed(traceback.extract_stack()):
        if os.path.basename(frame.filename) not in ("cricket.py", "images.py"):
            return "%s:%d" % (os.path.basename(frame.filename), frame.lineno)
    return "?"


def ok(passed, name, *why):
    _line(bool(passed), name)
    if not passed:
        diag("failed at %s: %s" % (_where(), name), *why)
    return bool(passed)


def is_(got, want, name):
    return ok(got == want, name, "     got: %r" % (got,), "expected: %r" % (want,))


def like(text, pattern, name):
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return ok(re.search(pattern, text) is not None, name, "     got: %r" % text, " pattern: %s" % pattern)


def skip(why, n=1):
    for _ in range(n):
        _tap["n"] += 1
        print("ok %d # SKIP %s" % (_tap["n"], why), file=_out)


def skip_all(why):
    _tap["planned"] = True
    print("1..0 # SKIP %s" % why, file=_out)
    sys.exit(0)


def need(*what):
    """Ends the test as skipped where the machine lacks something: "root", "overlay", "memcg", or a program's name."""
    for w in what:
        if w == "root":
            if os.geteuid() != 0:
                skip_all("needs root")
        elif w == "cgroup2":
            if not cgroup_is_v2():
                skip_all("needs cgroup v2")
        elif w == "cgroup1":
            if cgroup_is_v2():
                skip_all("needs cgroup v1")
        elif not shutil.which(w):
            skip_all("needs the program %s" % w)


def done_testing():
    """Prints the plan and ends the test."""
    _tap["planned"] = True
    print("1..%d" % _tap["n"], file=_out)
    if _tap["failed"]:
        diag("%d of %d failed" % (_tap["failed"], _tap["n"]))
    sys.exit(1 if _tap["failed"] else 0)


def wait_until(fn, what, limit=None):
    """Until fn() is true, looked at again and again; its value. Gives up with an exception."""
    end = time.monotonic() + (limit or LIMIT)
    pause = 0.002
    while True:
        value = fn()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError("gave up waiting: " + what)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


# --- the gRPC client

def _stubs():
    """Python modules made of proto/runtime.proto, kept in the build folder."""
    proto = os.path.join(SRC, "proto", "runtime.proto")
    where = os.path.join(BUILD, "t", "py")
    os.makedirs(where, exist_ok=True)
    with open(os.path.join(where, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = os.path.join(where, "runtime_pb2_grpc.py")
        if not os.path.exists(made) or os.stat(made).st_mtime < os.stat(proto).st_mtime:
            subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", os.path.dirname(proto),
                            "--python_out", where, "--grpc_python_out", where, proto], check=True)
    sys.path.insert(0, where)


_stubs()
import grpc  # noqa: E402
import runtime_pb2 as pb  # noqa: E402

SERVICES = pb.DESCRIPTOR.services_by_name
METHODS = {m.name: (s.full_name, m) for s in SERVICES.values() for m in s.methods}
STREAMING = {n for n in METHODS if n.startswith("Stream") or n == "GetContainerEvents"}
READY, NOTREADY = pb.SANDBOX_READY, pb.SANDBOX_NOTREADY
CREATED, RUNNING, EXITED = pb.CONTAINER_CREATED, pb.CONTAINER_RUNNING, pb.CONTAINER_EXITED
NET_POD, NET_NODE = pb.POD, pb.NODE


class Client:
    """gRPC over a unix socket: client.Version(version="v1") sends VersionRequest, returns the reply.

    _timeout is the deadline in seconds, _future=True returns a future instead of waiting. Streams are
    returned as iterators."""

    def __init__(self, path, package="runtime.v1"):
        self._package = package
        self._channel = grpc.insecure_channel("unix:" + path, options=[
            ("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 64 << 20),
            ("grpc.default_authority", "localhost"), ("grpc.enable_retries", 0)])
        self._calls = {}

    def close(self):
        self._channel.close()

    def __getattr__(self, name):
        if name not in METHODS:
            raise AttributeError(name)
        service, method = METHODS[name]
        request = getattr(pb, method.input_type.name)
        reply = getattr(pb, method.output_type.name)
        path = "/%s/%s" % (service.replace("runtime.v1", self._package), name)
        make = self._channel.unary_stream if name in STREAMING else self._channel.unary_unary
        raw = make(path, request_serializer=request.SerializeToString, response_deserializer=reply.FromString)

        def call(_timeout=None, _future=False, _metadata=None, _message=None, **fields):
            message = _message if _message is not None else request(**fields)
            limit = _timeout if _timeout is not None else LIMIT
            if name in STREAMING:
                return raw(message, timeout=_timeout, metadata=_metadata)
            if _future:
                return raw.future(message, timeout=limit, metadata=_metadata)
            return raw(message, timeout=limit, metadata=_metadata)

        setattr(self, name, call)
        return call

    def raw(self, path, data, timeout=None):
        """Bytes as they are to any path."""
        return self._channel.unary_unary(path)(data, timeout=timeout or LIMIT)


def error(fn, *args, **fields):
    """("NOT_FOUND", "text") of a call that fails; ("OK", reply) of one that does not."""
    try:
        return "OK", fn(*args, **fields)
    except grpc.RpcError as e:
        return e.code().name, e.details()


def fails(fn, code, pattern, name, **fields):
    """One test: the call fails with this status (or one of several, "A|B") and a text that matches."""
    got = error(fn, **fields)
    return ok(got[0] in code.split("|") and re.search(pattern, str(got[1])) is not None, name,
              "     got: %s: %s" % got, "expected: %s: %s" % (code, pattern))


# --- processes, namespaces, cgroups

CLONE_NEWNET = 0x40000000


class NetNS:
    """A network namespace in which only lo is up, held by a descriptor."""

    def __init__(self):
        child = subprocess.Popen(["unshare", "--net", "--", "sh", "-c", "ip link set lo up && echo up && exec cat"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if child.stdout.readline() != b"up\n":
            raise RuntimeError("cannot make a network namespace")
        self.fd = os.open("/proc/%d/ns/net" % child.pid, os.O_RDONLY | os.O_CLOEXEC)
        child.stdin.close()
        child.stdout.close()
        child.wait()

    def prefix(self):
        """What to put before a command that is to run inside."""
        return ["nsenter", "--net=/proc/%d/fd/%d" % (os.getpid(), self.fd), "--"]

    def call(self, fn, *args, **fields):
        """Runs fn inside, in a thread of its own; sockets that it makes belong to the namespace."""
        result = []

        def run():
            try:
                if libc.setns(self.fd, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                result.append((fn(*args, **fields), None))
            except BaseException as e:  # pylint: disable=broad-except
                result.append((None, e))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if result[0][1] is not None:
            raise result[0][1]
        return result[0][0]

    def close(self):
        os.close(self.fd)


class HostNet:
    """The network namespace of the test itself, with the same methods."""

    def prefix(self):
        return []

    def call(self, fn, *args, **fields):
        return fn(*args, **fields)

    def close(self):
        pass


def free_port(net):
    def bind():
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]
    return net.call(bind)


def cgroup_mounts():
    """Mount points of all hierarchies, as [(path, is v2, controllers)]."""
    found = []
    with open("/proc/self/mountinfo") as f:
        for line in f:
            before, after = line.rstrip("\n").split(" - ", 1)
            kind, _, options = after.split(" ", 2)
            if kind in ("cgroup", "cgroup2"):
                found.append((before.split(" ")[4], kind == "cgroup2", options.split(",")))
    return found


def cgroup_is_v2():
    mounts = cgroup_mounts()
    return bool(mounts) and all(v2 for _, v2, _ in mounts)


def cgroup_file(controller, cgroup, name):
    """Path of a control file, in whichever hierarchy has the controller."""
    for mount, v2, options in cgroup_mounts():
        if (v2 and cgroup_is_v2()) or controller in options:
            return mount + cgroup + "/" + name
    raise FileNotFoundError("no cgroup hierarchy has " + controller)


def proc_argv(pid):
    with open("/proc/%d/cmdline" % pid, "rb") as f:
        return f.read().decode("utf-8", "replace").split("\0")[:-1]


def proc_stat(pid):
    """State and parent of a process: ("S", 1)."""
    with open("/proc/%d/stat" % pid) as f:
        state, parent = f.read().rpartition(")")[2].split()[:2]
    return state, int(parent)


def proc_over(pid):
    """Gone, or waiting for whoever is the parent now."""
    try:
        return proc_stat(pid)[0] in "ZX"
    except OSError:
        return True


def proc_find(fn):
    """[pid] of all processes for which this holds; not for one that goes while it looks."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if fn(pid):
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def children():
    """{pid: command} of the processes whose parent is this one, zombies not."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid) as f:
                text = f.read()
            fields = text[text.rindex(")") + 2:].split()
            if int(fields[1]) == os.getpid() and fields[0] not in "ZX":
                with open("/proc/%s/cmdline" % pid, "rb") as f:
                    argv = f.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                found[int(pid)] = argv or text[text.index("("):text.rindex(")") + 1]
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def waited_for():
    """Pids of the daemons and their registries, which belong to Popen objects."""
    return {p.pid for d in _daemons for p in (d.proc, *(r.proc for r in d.registries)) if p}


def reap_orphans(known=None):
    """Collects zombies that were handed to the test as the subreaper; others (`known`) are waited for elsewhere."""
    if known is None:
        known = waited_for()
    for pid in proc_find(lambda p: p not in known and proc_stat(p) == ("Z", os.getpid())):
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def pss_kb(pid):
    with open("/proc/%d/smaps_rollup" % pid) as f:
        for line in f:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def user_namespace(uid=524288, gid=524288, length=65536):
    """The pod's, where 0 is these on the host: for pod_config() and ctr_config()."""
    return {"mode": pb.POD, "uids": [{"host_id": uid, "container_id": 0, "length": length}],
            "gids": [{"host_id": gid, "container_id": 0, "length": length}]}


def cdi_device(specs, name, **edits):
    """A CDI spec in that directory, with one device which has these containerEdits; what to ask for."""
    with open("%s/%s.json" % (specs, name), "w") as f:
        json.dump({"cdiVersion": "1.1.0", "kind": "test.vendor/" + name, "devices": [{"name": "x", "containerEdits": edits}]}, f)
    return "test.vendor/%s=x" % name


# --- registry

class DockerRegistry:
    """Debian's docker-registry on a free port of the loopback, with its storage in `where`."""

    def __init__(self, net, where):
        os.makedirs(where, exist_ok=True)
        self.net = net
        self.host = "127.0.0.1:%d" % free_port(net)
        config = os.path.join(where, "config.yml")
        with open(config, "w") as f:
            json.dump({"version": 0.1, "log": {"level": "info", "accesslog": {"disabled": True}},
                       "storage": {"filesystem": {"rootdirectory": where + "/data"}, "delete": {"enabled": True}},
                       "http": {"addr": self.host}}, f)
        self.proc = subprocess.Popen(net.prefix() + ["docker-registry", "serve", config], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                     env=dict(os.environ, OTEL_TRACES_EXPORTER="none"))
        text = b""
        for line in self.proc.stderr:
            text += line
            if b"listening on" in line:
                break
        else:
            raise RuntimeError("docker-registry did not start: " + text.decode("utf-8", "replace"))
        self.drain = threading.Thread(target=self.proc.stderr.read, daemon=True)
        self.drain.start()

    def push(self, image, repo, *tags):
        return self.net.call(RegistryClient(self.host).push, image, repo, *tags)

    def stop(self):
        if self.proc.poll() is None:
            self.proc.terminate()
        self.proc.wait()
        self.drain.join()
        self.proc.stderr.close()


# --- the daemon

_daemons = []


class Daemon:
    """A cricketd with everything of its own. RPCs are methods: d.Version(version="v1").

    cni: True (bridge plugin, a subnet of its own), False (no network config), or a conflist as a dict.
    config: more settings, merged over the harness's. own_net False: runs in the test's own network namespace.
    name: part of the names of directories, cgroups; other: share registry and network namespace with that daemon."""

    count = 0
    fraction = rb"\.\d{9}"            # of the seconds in a log

    def __init__(self, config=None, cni=True, own_net=True, args=(), start=True, other=None, env=None):
        if os.geteuid() != 0:
            skip_all("needs root")
        if not os.access(BUILD + "/cricketd", os.X_OK):
            raise RuntimeError("no cricketd in %s: build first" % BUILD)
        Daemon.count += 1
        self.serial = Daemon.count
        self.tmp = tempfile.mkdtemp(prefix="cricket-", dir=os.environ.get("CRICKET_TEST_TMP") or "/tmp")
        os.chmod(self.tmp, 0o755)
        self.root, self.state = self.tmp + "/root", self.tmp + "/state"
        self.socket, self.log = self.tmp + "/cricket.sock", self.tmp + "/cricketd.log"
        self.logs = self.tmp + "/logs"
        self.cgroup = "/cricket-test-%d-%d" % (os.getpid(), self.serial)
        self.proc = self.client = None
        self.registries = []
        self.other = other
        self.net = other.net if other else NetNS() if own_net else HostNet()
        self.args, self.env = list(args), dict(env or {})
        self.serial_pod = 0
        self.images = {}
        self.expect_exit = 0
        _daemons.append(self)
        self.config = {
            "libexec_dir": BUILD,
            "apparmor_profile": "unconfined",          # none is left in the kernel of who runs tests
            "cgroup_parent": self.cgroup,
            "cni": {"conf_dirs": [self.tmp + "/net.d"], "bin_dirs": ["/usr/lib/cni"]},
        }
        os.mkdir(self.tmp + "/config.d")
        os.mkdir(self.tmp + "/net.d")
        if cni:
            self.write_cni(self.bridge() if cni is True else cni)
        for key, value in (config or {}).items():
            if isinstance(value, dict) and isinstance(self.config.get(key), dict):
                self.config[key] = dict(self.config[key], **value)
            else:
                self.config[key] = value
        if start:
            self.start_daemon()

    # the network that pods get

    def bridge(self, **more):
        n = (os.getpid() * 8 + self.serial) % 250 + 1
        return {"cniVersion": "1.0.0", "name": "test", "plugins": [
            dict({"type": "bridge", "bridge": "crk%d" % self.serial, "isGateway": True, "ipMasq": False,
                  "ipam": {"type": "host-local", "dataDir": self.tmp + "/ipam", "subnet": "10.88.%d.0/24" % n,
                           "routes": [{"dst": "0.0.0.0/0"}]}}, **more),
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}]}

    def write_cni(self, conflist, name="10-test.conflist"):
        with open(self.tmp + "/.conflist", "w") as f:
            json.dump(conflist, f)
        os.rename(self.tmp + "/.conflist", self.tmp + "/net.d/" + name)

    # start and stop

    def command(self, *more):
        with open(self.tmp + "/config.yaml", "w") as f:
            json.dump(self.config, f, indent=1)        # YAML is a superset of JSON
            f.write("\n")
        return [BUILD + "/cricketd", "--config", self.tmp + "/config.yaml", "--config-dir", self.tmp + "/config.d",
                "--root", self.root, "--state", self.state, "--listen", "unix://" + self.socket,
                "--log-level", "debug", *self.args, *more]

    def start_daemon(self, prefix=()):
        """Returns when the daemon says that it serves (sd_notify's READY=1)."""
        assert self.proc is None
        notify = self.tmp + "/notify"
        if os.path.exists(notify):
            os.unlink(notify)
        self.started_at = time.monotonic()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, open(self.log, "ab") as log:
            sock.bind(notify)
            env = dict(os.environ, NOTIFY_SOCKET=notify, **self.env)
            self.proc = subprocess.Popen(self.net.prefix() + list(prefix) + self.command(), stdin=subprocess.DEVNULL,
                                         stdout=log, stderr=log, env=env)
            pidfd = os.pidfd_open(self.proc.pid)
            try:
                end = time.monotonic() + LIMIT
                while True:
                    ready, _, _ = select.select([sock, pidfd], [], [], max(0, end - time.monotonic()))
                    if sock in ready:
                        if b"READY=1" in sock.recv(4096):
                            break
                    elif pidfd in ready:
                        code = self.proc.wait()
                        self.proc = None
                        raise RuntimeError("cricketd ended at once with %d:\n%s" % (code, self.log_tail()))
                    else:
                        raise TimeoutError("cricketd does not say that it is ready:\n" + self.log_tail())
            finally:
                os.close(pidfd)
        self.ready_ms = (time.monotonic() - self.started_at) * 1000
        self.client = Client(self.socket)
        return self

    def stop_daemon(self):
        """SIGTERM; the exit status."""
        self.client.close()
        self.proc.terminate()
        try:
            code = self.proc.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.proc.send_signal(signal.SIGABRT)
            self.proc.wait()
            code = "does not end on SIGTERM"
        self.proc = self.client = None
        return code

    def kill_daemon(self):
        """kill -9: as a crash."""
        self.client.close()
        self.proc.kill()
        self.proc.wait()
        self.proc = self.client = None

    def restart(self, kill=True):
        if kill:
            self.kill_daemon()
        else:
            is_(self.stop_daemon(), 0, "the daemon ends with 0 on SIGTERM")
        self.start_daemon()

    @property
    def pid(self):
        return self.proc.pid

    def log_text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def log_tail(self, n=40):
        return "\n".join(self.log_text().splitlines()[-n:])

    def __getattr__(self, name):
        if name in METHODS:
            return getattr(self.client, name)
        raise AttributeError(name)

    # images

    @property
    def registry(self):
        if self.other:
            return self.other.registry
        if not self.registries:
            self.registries.append(DockerRegistry(self.net, self.tmp + "/registry"))
        return self.registries[0]

    def push_image(self, image=None, repo="test/busybox", *tags):
        return self.registry.push(image or busybox_image(), repo, *(tags or ("latest",)))

    def pull(self, image=None, repo="test/busybox", *tags):
        """Pushes and pulls; the reference."""
        ref = self.push_image(image, repo, *tags)
        self.PullImage(image={"image": ref})
        return ref

    @property
    def image(self):
        """The busybox image, pulled when first asked for."""
        if "busybox" not in self.images:
            self.images["busybox"] = self.pull()
        return self.images["busybox"]

    # pods and containers

    def pod_config(self, name=None, net=True, pid=pb.CONTAINER, linux=None, userns=None, **fields):
        """A PodSandboxConfig. net False: the network of the node. userns: as user_namespace() makes it."""
        self.serial_pod += 1
        name = name or "pod%d" % self.serial_pod
        config = pb.PodSandboxConfig(
            metadata={"name": name, "uid": "uid-%d-%s" % (self.serial_pod, name[:40]), "namespace": "default"},
            log_directory="%s/%d" % (self.logs, self.serial_pod))
        if net:
            config.hostname = re.sub("[^a-z0-9-]", "-", name.lower())[:63] or "pod"
        options = config.linux.security_context.namespace_options
        options.network = pb.POD if net else pb.NODE
        options.pid = pid
        if userns:
            options.userns_options.MergeFrom(pb.UserNamespace(**userns))
        if linux:
            config.linux.MergeFrom(pb.LinuxPodSandboxConfig(**linux))
        for key, value in fields.items():
            part = type(config)(**{key: value})
            if key == "metadata" or isinstance(value, str):
                config.ClearField(key)
            config.MergeFrom(part)
        return config

    def ctr_config(self, name="main", image=None, command=(), pid=pb.CONTAINER, security=None, resources=None, userns=None,
                   **fields):
        config = pb.ContainerConfig(
            metadata={"name": name}, image={"image": image or self.image}, command=list(command),
            log_path=name.replace("/", "_")[:200] + ".log")
        options = config.linux.security_context.namespace_options
        options.pid = pid
        if userns:
            options.userns_options.MergeFrom(pb.UserNamespace(**userns))
        if security:
            config.linux.security_context.MergeFrom(pb.LinuxContainerSecurityContext(**security))
        if resources:
            config.linux.resources.MergeFrom(pb.LinuxContainerResources(**resources))
        for key, value in fields.items():
            if key in ("metadata", "log_path"):
                config.ClearField(key)
            config.MergeFrom(type(config)(**{key: value}))
        return config

    def runp(self, name=None, config=None, handler="", **fields):
        config = config or self.pod_config(name, **fields)
        return self.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id

    def create(self, pod, name="main", image=None, command=(), config=None, **fields):
        config = config or self.ctr_config(name, image, command, **fields)
        return self.CreateContainer(pod_sandbox_id=pod, config=config).container_id

    def start(self, pod, name="main", image=None, command=("sleep", "1000000"), **fields):
        ctr = self.create(pod, name, image, command, **fields)
        self.StartContainer(container_id=ctr)
        return ctr

    def status(self, ctr):
        return self.ContainerStatus(container_id=ctr).status

    def info(self, ctr):
        """The verbose info of a container as a dict."""
        return json.loads(self.ContainerStatus(container_id=ctr, verbose=True).info["info"])

    def pod_status(self, pod):
        return self.PodSandboxStatus(pod_sandbox_id=pod).status

    def pid_of(self, ctr):
        return int(self.info(ctr)["pid"])

    def supervisor(self, pod):
        """The pid of a pod's cricket-pod, where its containers have PID namespaces of their own."""
        return int(json.loads(self.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info["info"])["pid"])

    def fill_queue(self, pod):
        """Connections to a supervisor that hangs until it takes no more, as many restarts would leave them."""
        queue = []
        where = os.open("%s/pods/%s" % (self.state, pod), os.O_PATH)    # the path may be too long for an address
        try:
            while len(queue) < 1000:
                s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                s.setblocking(False)
                queue.append(s)
                s.connect("/proc/self/fd/%d/sock" % where)
        except BlockingIOError:
            pass
        finally:
            os.close(where)
        return queue

    def wait_exit(self, ctr):
        """The status of a container once it is EXITED."""
        def look():
            s = self.status(ctr)
            return s if s.state == EXITED else None
        return wait_until(look, "container %s exits" % ctr[:13])

    def run(self, pod, name, command, image=None, **fields):
        """Starts, waits for the end: (status, log entries)."""
        ctr = self.start(pod, name, image, command, **fields)
        status = self.wait_exit(ctr)
        return status, self.log_entries(status.log_path)

    def exec(self, ctr, *argv, timeout=0):
        r = self.ExecSync(container_id=ctr, cmd=list(argv), timeout=timeout)
        return r.stdout, r.stderr, r.exit_code

    def sh(self, ctr, script, timeout=0):
        return self.exec(ctr, "sh", "-c", script, timeout=timeout)

    def log_entries(self, path):
        """[(stream, tag, content)] of a CRI log; a line of another form is an error."""
        entries = []
        with open(path, "rb") as f:
            for line in f.read().splitlines(keepends=True):
                m = re.match(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d" + self.fraction + rb"(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([PF]) ", line)
                if not m or not line.endswith(b"\n"):
                    raise ValueError("not a line of a CRI log: %r" % line[:200])
                entries.append((m[1].decode(), m[2].decode(), line[m.end():-1]))
        return entries

    def log_bytes(self, path, stream=None):
        """What was written, put together again."""
        return b"".join(c + (b"\n" if tag == "F" else b"") for s, tag, c in self.log_entries(path)
                        if stream in (None, s))

    def remove(self, *pods):
        for pod in pods:
            self.StopPodSandbox(pod_sandbox_id=pod)
            self.RemovePodSandbox(pod_sandbox_id=pod)

    def remove_all(self):
        self.remove(*[p.id for p in self.ListPodSandbox().items])

    def fetch(self, url, timeout=None):
        """HTTP GET in the daemon's network namespace: (status, body)."""
        host, _, path = url.removeprefix("http://").partition("/")

        def get():
            conn = http.client.HTTPConnection(host, timeout=timeout or LIMIT)
            try:
                conn.request("GET", "/" + path)
                r = conn.getresponse()
                return r.status, r.read()
            finally:
                conn.close()
        return self.net.call(get)

    # what is left

    def settle(self):
        """Trees are deleted slowly, in the background: waits until those of containers are."""
        try:
            wait_until(lambda: not os.listdir(self.root + "/containers"), "deletion")
        except (FileNotFoundError, TimeoutError):
            pass

    def leftovers(self, pods_too=True):
        """Words for all that must not be there when every pod is removed and the daemon has ended."""
        found = []
        with open("/proc/self/mountinfo") as f:
            found += ["mount " + line.split(" ")[4] for line in f if self.tmp in line]
        for mount, _, _ in cgroup_mounts():
            if os.path.isdir(mount + self.cgroup):
                for where, dirs, _ in os.walk(mount + self.cgroup):
                    if not dirs:
                        found.append("cgroup " + where)
        for where in (self.state + "/pods", self.root + "/containers", self.root + "/checkpoints"):
            if pods_too and os.path.isdir(where):
                found += ["file %s/%s" % (where, n) for n in os.listdir(where)]
        if os.path.isdir(self.root + "/l"):
            found += ["file %s/l/%s" % (self.root, n) for n in os.listdir(self.root + "/l") if not n.isdigit() and n != "init"]
        if not isinstance(self.net, HostNet) and not self.other:
            links = json.loads(subprocess.run(self.net.prefix() + ["ip", "-j", "link"], capture_output=True,
                                              check=True).stdout or b"[]")
            found += ["network link " + i["ifname"] for i in links if i.get("ifname", "").startswith("veth")]
        return found

    def clear(self):
        """Takes away whatever is there, after a failure."""
        if self.client:
            self.client.close()
        if self.proc and self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.proc = None
        for mount, v2, _ in cgroup_mounts():
            for where, _, _ in os.walk(mount + self.cgroup, topdown=False):
                kill_cgroup(where)
        kill_children(waited_for())
        for mount, v2, _ in cgroup_mounts():
            for where, _, _ in os.walk(mount + self.cgroup, topdown=False):
                try:
                    wait_until(lambda: not open(where + "/cgroup.procs").read(), "empty " + where, 5)
                    os.rmdir(where)
                except (OSError, TimeoutError):
                    pass
        with open("/proc/self/mountinfo") as f:
            mounts = [unescape(line.split(" ")[4]) for line in f]
        for path in reversed(mounts):
            if path.startswith(self.tmp + "/"):
                libc.umount2(path.encode(), 2)         # MNT_DETACH

    def forget(self):
        """Clears away a daemon that the test has stopped already."""
        self.clear()
        self.close()
        _daemons.remove(self)

    def close(self):
        for r in self.registries:
            r.stop()
        self.registries = []
        if not self.other:
            self.net.close()
        if os.environ.get("CRICKET_TEST_KEEP"):
            diag("kept: " + self.tmp)
        else:
            shutil.rmtree(self.tmp, ignore_errors=True)


def freeze(pid):
    """SIGSTOP; returns when the process stands still."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: proc_stat(pid)[0] == "T", "process %d is stopped" % pid)


def unescape(path):
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path)


def kill_cgroup(where):
    try:
        for name, thaw in ("freezer.state", "THAWED"), ("cgroup.freeze", "0"):
            if os.path.exists(where + "/" + name):    # what is frozen does not die (v1)
                with open(where + "/" + name, "w") as f:
                    f.write(thaw)
        with open(where + "/cgroup.procs") as f:
            for pid in f.read().split():
                os.kill(int(pid), signal.SIGKILL)
    except (OSError, ValueError):
        pass


def kill_children(spare):
    """SIGKILL to every child (orphans among them) that is not in `spare`, until there is none."""
    for _ in range(100):
        left = [pid for pid in children() if pid not in spare]
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap_orphans(spare)
        if not left:
            return
        time.sleep(0.05)


def finish(*daemons):
    """Ends each daemon and the test: exit status 0, nothing left."""
    for d in daemons:
        if d.proc:
            d.settle()
            is_(d.stop_daemon(), d.expect_exit, "cricketd ends with 0 on SIGTERM")
        log = d.log_text()
        bad = re.findall(r"^.*(?:AddressSanitizer|LeakSanitizer|runtime error:|Assertion).*$", log, re.M)
        ok(not bad, "no complaint of a sanitizer or an assertion in the log", *bad)
    known = {r.proc.pid for d in _daemons for r in d.registries}

    def others():
        reap_orphans(known)
        return {p: c for p, c in children().items() if p not in known}

    try:
        wait_until(lambda: not others(), "processes end", 20 * SLOW)
    except TimeoutError:
        pass
    left = ["process %d: %s" % (p, c) for p, c in others().items()]
    for d in daemons:
        left += d.leftovers()
    ok(not left, "nothing is left behind", *left)
    if _tap["failed"]:
        for d in daemons:
            diag("the end of %s:" % d.log, d.log_tail(60))
    if left:
        for d in daemons:
            d.clear()
    for d in list(daemons):
        d.close()
        _daemons.remove(d)
    done_testing()


# --- the end that was not planned

def _at_exit():
    for d in reversed(_daemons):
        if (not _tap["planned"] or _tap["failed"]) and not _tap.get("quiet"):
            try:
                diag("the end of %s:" % d.log, d.log_tail(60))
            except OSError:
                pass
        try:
            d.clear()
            d.close()
        except Exception as e:  # pylint: disable=broad-except
            diag("clearing up: %s" % e)
    del _daemons[:]


def _signal(number, _frame):
    sys.exit(128 + number)


atexit.register(_at_exit)
signal.signal(signal.SIGTERM, _signal)
signal.signal(signal.SIGHUP, _signal)
libc.prctl(36, 1, 0, 0, 0)           # PR_SET_CHILD_SUBREAPER
