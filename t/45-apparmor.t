#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""AppArmor profiles of containers, where the kernel has AppArmor: the default one that the daemon loads, one of the
administrator's, none, the deprecated field; what is not loaded is refused; what RuntimeDefault forbids."""
import os
import sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib"))
from cricket import *  # noqa: E402,F403

LIST = "/sys/kernel/security/apparmor/profiles"
os.environ["PATH"] += ":/usr/sbin:/sbin"


def loaded():
    with open(LIST) as f:
        return [line.rsplit(" (", 1)[0] for line in f]


def parser(*args, text=None):
    subprocess.run(["apparmor_parser", *args], input=text, text=True, check=True)


need("root")
try:
    with open("/sys/module/apparmor/parameters/enabled") as enabled:
        if enabled.read(1) != "Y":
            skip_all("AppArmor is off")
except OSError:
    skip_all("this kernel has no AppArmor")
if not os.path.exists(LIST):
    skip_all("securityfs is not mounted")
need("apparmor_parser")
mine = "cricket-test-%d" % os.getpid()
MINE = """profile %s flags=(attach_disconnected,mediate_deleted) {
  file, network, capability, umount, mount, signal, ptrace,
  deny /tmp/** w,
}
"""
parser("--replace", "--skip-cache", text=MINE % mine)
atexit.register(lambda: parser("--remove", text=MINE % mine))
ours = "cricket-default" not in loaded()
if ours:
    atexit.register(lambda: parser("--remove", text="profile cricket-default { }\n"))

# --- the daemon loads its own
d = Daemon(config={"apparmor_profile": "cricket-default"})
ok("cricket-default" in loaded(), "the daemon has loaded its profile")


def status_of(daemon):
    return json.loads(daemon.Status(verbose=True).info["daemon"])["apparmor"]


is_(status_of(d), {"enabled": True, "runtimeDefault": "cricket-default"}, "Status says so")
pod = d.runp("p", pid=pb.POD)
serial = [0]
S = pb.SecurityProfile
NAMED = {"apparmor": {"profile_type": S.Localhost, "localhost_ref": mine}}


def out(script, daemon=None, pod_=None, **fields):
    serial[0] += 1
    s, e = (daemon or d).run(pod_ or pod, "c%d" % serial[0], ["sh", "-c", script], **fields)
    return s.exit_code, b"".join(c + b"\n" for _, _, c in e).decode("utf-8", "replace")


def profile(security=None, daemon=None, pod_=None, **fields):
    return out("cat /proc/self/attr/current", daemon, pod_, security=security, **fields)[1].strip()


# --- which profile
is_(profile(), "cricket-default (enforce)", "nothing asked for: the default one")
is_(profile({"apparmor": {}}), "cricket-default (enforce)", "an empty field: RuntimeDefault")
is_(profile({"apparmor": {"profile_type": S.Unconfined}}), "unconfined", "Unconfined")
is_(profile(NAMED), mine + " (enforce)", "Localhost")
is_(profile({"apparmor": {"profile_type": S.Localhost, "localhost_ref": "localhost/" + mine}}), mine + " (enforce)",
    "with a prefix")
is_(profile({"apparmor_profile": "localhost/" + mine}), mine + " (enforce)", "the deprecated field: by name")
is_(profile({"apparmor_profile": "runtime/default"}), "cricket-default (enforce)", "runtime/default")
is_(profile({"apparmor_profile": "unconfined"}), "unconfined", "unconfined")
is_(profile(dict(NAMED, apparmor_profile="localhost/not-there")), mine + " (enforce)", "the new field wins")
is_(profile(dict(NAMED, no_new_privs=True, seccomp={})), mine + " (enforce)", "with no_new_privs and seccomp")
is_(profile(dict(NAMED, run_as_user={"value": 1000})), mine + " (enforce)", "as another user")
c = d.start(pod, "exec", security=NAMED)
is_(d.sh(c, "cat /proc/self/attr/current"), (mine.encode() + b" (enforce)\n", b"", 0), "exec has it too")
is_(d.info(c)["runtimeSpec"]["process"].get("apparmorProfile"), mine, "the verbose status names it")
privileged = d.pod_config("privileged")
privileged.linux.security_context.privileged = True
privileged = d.runp(config=privileged)
is_(profile(dict(NAMED, privileged=True), pod_=privileged), "unconfined", "privileged: none, also if given")
if d.Status().runtime_handlers[0].features.user_namespaces:
    user = user_namespace()
    is_(profile(dict(NAMED, namespace_options={"userns_options": user}), pod_=d.runp("u", userns=user)), mine + " (enforce)",
        "in a user namespace")
else:
    skip("no user namespaces")

# --- what is refused
for security, pattern, what in (
        ({"apparmor": {"profile_type": S.Localhost, "localhost_ref": "not-there"}}, "'not-there' is not loaded", "a profile that is not loaded"),
        ({"apparmor_profile": "localhost/not-there"}, "'not-there' is not loaded", "by the deprecated field"),
        ({"apparmor": {"profile_type": S.Localhost}}, "localhost_ref", "Localhost without a name"),
        ({"apparmor": {"profile_type": S.Unconfined, "localhost_ref": mine}}, "localhost_ref", "a name without Localhost"),
        ({"apparmor": {"profile_type": 7}}, "unknown profile type 7", "an unknown type"),
        ({"apparmor_profile": mine}, "apparmor_profile '%s'" % mine, "an unknown spelling")):
    fails(d.CreateContainer, "INVALID_ARGUMENT", pattern, "at create: " + what, pod_sandbox_id=pod,
          config=d.ctr_config("bad", command=["true"], security=security))
parser("--replace", "--skip-cache", text=MINE % (mine + "-2"))
c = d.create(pod, "lost", command=["true"], security={"apparmor": {"profile_type": S.Localhost, "localhost_ref": mine + "-2"}})
parser("--remove", text=MINE % (mine + "-2"))
fails(d.StartContainer, "INVALID_ARGUMENT", "%s-2' is not loaded" % mine, "at start: it was unloaded meanwhile", container_id=c)

# --- what they do
ALL = {"capabilities": {"add_capabilities": ["ALL"]}}
is_(out("echo x > /tmp/x", security=NAMED)[0], 1, "the administrator's: no writing to /tmp")
is_(out("echo x > /x && cat /x", security=NAMED), (0, "x\n"), "but elsewhere")
code, text = out("mkdir /mnt /m; mount -t tmpfs x /mnt 2>&1; echo $?; mount --bind / /m 2>&1; echo $?", security=ALL)
ok(text.count("denied") == 2, "RuntimeDefault: no mounts, with all capabilities", text)
code, text = out("mkdir /m; mount -t tmpfs x /m 2>&1; echo $?", security=dict(ALL, apparmor={"profile_type": S.Unconfined}))
is_(text, "0\n", "which Unconfined may")
code, text = out("for f in kernel/panic vm/swappiness fs/file-max; do v=$(cat /proc/sys/$f); echo $v > /proc/sys/$f; done 2>&1;"
                 "v=$(cat /proc/sys/kernel/shmmni); echo $v > /proc/sys/kernel/shmmni && echo shm;"
                 "v=$(cat /proc/sys/net/ipv4/ip_forward); echo $v > /proc/sys/net/ipv4/ip_forward && echo net;"
                 "v=$(cat /proc/sys/fs/mqueue/msg_max); echo $v > /proc/sys/fs/mqueue/msg_max && echo mq", security=dict(
                     ALL, apparmor={}))
ok(text.count("denied") == 3 and text.endswith("shm\nnet\nmq\n"), "sysctls of its namespaces, none of the node's", text)
code, text = out("""exec 2>&1
touch /a /tmp/b /dev/shm/c && echo files
ls /proc/1/ns >/dev/null && echo ns
(trap 'echo signal; exit 0' USR1; touch /tmp/set; while :; do sleep 0.1; done) & until [ -e /tmp/set ]; do sleep 0.01; done
kill -USR1 $!; wait $!
mkfifo /f && echo fifo; ping -c 1 127.0.0.1 >/dev/null && echo network; su -c 'echo user' root""")
for word in ("files", "ns", "signal", "fifo", "network", "user"):
    ok(word in text.split(), "RuntimeDefault allows: " + word, text)
c = d.start(pod, "trap", command=["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"])
wait_until(lambda: d.log_entries(d.status(c).log_path), "the trap is set")
d.StopContainer(container_id=c, timeout=int(LIMIT))
is_(d.status(c).exit_code, 5, "the stop signal arrives")
if shutil.which("crun"):
    d.config["runtimes"] = {"crun": {"path": shutil.which("crun")}}
    d.restart()
    is_(profile(NAMED, pod_=d.runp("oci", handler="crun")), mine + " (enforce)", "with an OCI runtime")
else:
    skip("no crun")

# --- the configuration
d.remove_all()
for name, default, asked, shown in ((mine, mine + " (enforce)", mine + " (enforce)", mine), ("unconfined",) * 3 + ("",),
                                    ("not-there", "unconfined", None, "")):
    d.config["apparmor_profile"] = name
    d.restart()
    is_(status_of(d)["runtimeDefault"], shown, "apparmor_profile: %s: Status" % name)
    pod = d.runp("conf-" + name)
    is_(profile(), default, "apparmor_profile: %s: nothing asked for" % name)
    if asked:
        is_(profile({"apparmor": {}}), asked, "apparmor_profile: %s: RuntimeDefault" % name)
    else:
        fails(d.CreateContainer, "INVALID_ARGUMENT", "'not-there' is not loaded", "RuntimeDefault is refused then",
              pod_sandbox_id=pod, config=d.ctr_config("bad", command=["true"], security={"apparmor": {}}))
d.remove_all()
finish(d)
