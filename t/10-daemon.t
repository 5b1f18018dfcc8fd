#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""cricketd as a program: options, a bad configuration, readiness, SIGTERM, its socket."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

d = Daemon()


def cricketd(*args):
    r = subprocess.run([BUILD + "/cricketd", *args], capture_output=True, text=True, timeout=LIMIT, check=False)
    return r.returncode, r.stdout, r.stderr


code, out, err = cricketd("--version")
ok(code == 0 and re.match(r"cricketd \d+\.\d+\.\d+\n$", out) and not err, "--version", code, out, err)
code, out, err = cricketd("--help")
ok(code == 0 and all(o in out for o in ("--config", "--config-dir", "--root", "--state", "--listen", "--log-level",
                                        "--check-config", "--version")), "--help names every option", out)
for args in (["--nope"], ["argument"], ["--log-level", "loud"], ["--listen", "http://x"], ["--root", ""], ["--root"]):
    code, out, err = cricketd(*args, *([] if args[0] in ("--nope", "argument", "--root") else ["--config", "/dev/null"]))
    ok(code > 0 and err and not out, "refused: %s" % " ".join(args), code, out, err)

# --- --check-config
bad = d.tmp + "/bad.yaml"
for text, pattern in (("nosuchkey: 1\n", "bad.yaml:1: nosuchkey"), ("log: {level: info}\nshutdown: 5 parsecs\n", "bad.yaml:2: shutdown"),
                      ("a: [\n", "bad.yaml:"), ("cgroup_driver: none\n", "cgroup_driver")):
    with open(bad, "w") as f:
        f.write(text)
    code, out, err = cricketd("--check-config", "--config", bad)
    ok(code > 0 and re.search(pattern, err), "a bad configuration is named with its line: %r" % text, code, err)
code, out, err = cricketd("--check-config", "--config", d.tmp + "/config.yaml", "--config-dir", d.tmp + "/config.d")
is_(code, 0, "--check-config of the one in use")
code, out, err = cricketd("--check-config", "--config", "/dev/null")
is_(code, 0, "--config /dev/null: the defaults")
code, out, err = cricketd("--check-config", "--config", "/no/such/file")
ok(code > 0 and "/no/such/file" in err, "a given file that is not there is an error", err)

# --- the socket
is_(oct(os.stat(d.socket).st_mode & 0o777), "0o660", "the socket's mode is 0660")
is_(d.Version().runtime_name, "cricket", "it answers")

# --- the end
d.client.close()
is_(d.stop_daemon(), 0, "SIGTERM: exit 0")
ok(not os.path.exists(d.socket), "the socket is removed")
d.start_daemon()
d.Version()
is_(d.stop_daemon(), 0, "SIGTERM just after a call: exit 0")
d.start_daemon()
clients = [Client(d.socket) for _ in range(20)]
for c in clients:
    c.Version()
d.proc.terminate()
is_(d.proc.wait(LIMIT), 0, "SIGTERM with twenty clients connected: exit 0")
for c in clients:
    c.close()
d.proc = None
d.start_daemon()
d.kill_daemon()
ok(os.path.exists(d.socket), "after kill -9 the socket file is left")
d.start_daemon()
is_(d.Version().runtime_name, "cricket", "and does not keep the next one from starting")
d.proc.send_signal(signal.SIGHUP)
is_(d.Version().runtime_name, "cricket", "SIGHUP does no harm")

# --- socket activation: the service manager's socket outlives the daemon, nobody is turned away
is_(d.stop_daemon(), 0, "SIGTERM: exit 0")
path = d.tmp + "/activated.sock"
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen(10)


def activated(fds="1"):
    script = "LISTEN_FDS=%s LISTEN_PID=$$ exec \"$@\" 3<&%d" % (fds, listening.fileno())
    with open(d.log, "ab") as log:
        return subprocess.Popen(["sh", "-c", script, "sh"] + d.command(), pass_fds=[listening.fileno()], stderr=log)


client = Client(path)
early = client.Version(_future=True)             # before anybody serves
p = activated()
is_(early.result().runtime_name, "cricket", "a call that came before the daemon is answered")
ok(not os.path.exists(d.socket), "it serves on the socket it was given only")
p.terminate()
is_(p.wait(LIMIT), 0, "SIGTERM: exit 0")
ok(os.path.exists(path), "the socket stays: it is the service manager's")
client.close()
client = Client(path)
early = client.Version(_future=True)
p = activated()
is_(early.result().runtime_name, "cricket", "calls wait in it for the next daemon")
client.close()
p.terminate()
is_(p.wait(LIMIT), 0, "SIGTERM: exit 0")
p = activated("2")
is_(p.wait(LIMIT), 1, "more sockets than one are an error")
ok("handed over 2 sockets" in d.log_text(), "which says so", d.log_tail(5))
listening.close()
finish(d)
