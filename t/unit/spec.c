/* SPDX-License-Identifier: Apache-2.0 */
/* src/handlers/spec: what is refused and with which words, and what a launch plan says. */
#include "files.h"

#include "handlers/spec.h"
#include "mem.h"
#include "proc/caps.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/stat.h>

typedef Runtime__V1__ContainerConfig container;
typedef Runtime__V1__LinuxContainerSecurityContext security;
typedef Runtime__V1__PodSandboxConfig sandbox;

#define MODE(x) RUNTIME__V1__NAMESPACE_MODE__##x
#define PROFILE(x) RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__##x
#define PROPAGATION(x) RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_##x

static char dir[] = "/tmp/cricket-spec-XXXXXX";
static struct err e;
static struct spec_node node;

/* One of everything, reset before each test; the request points to what it needs. */
static struct {
    sandbox sb;
    Runtime__V1__PodSandboxMetadata sb_meta;
    Runtime__V1__LinuxPodSandboxConfig sb_linux;
    Runtime__V1__LinuxSandboxSecurityContext sb_sec;
    Runtime__V1__NamespaceOption sb_ns;
    container c;
    Runtime__V1__ContainerMetadata meta;
    Runtime__V1__ImageSpec image;
    Runtime__V1__LinuxContainerConfig linux_;
    Runtime__V1__LinuxContainerResources res;
    security sec;
    Runtime__V1__NamespaceOption ns;
    Runtime__V1__Capability caps;
    Runtime__V1__SecurityProfile profile;
    Runtime__V1__Mount m[4], *mp[4];
    Runtime__V1__Device d, *dp[1];
    Runtime__V1__KeyValue kv[4], *kvp[4];
    Runtime__V1__Int64Value user, group;
    Cricket__State__ImageConfig im;
    struct spec_user who;
    struct spec_input in;
    gid_t gids[2];
} t;

static char *z(const char *s)
{
    return (char *)(uintptr_t)s;
}

static void reset(void)
{
    memset(&t, 0, sizeof t);
    err_clear(&e);
    runtime__v1__pod_sandbox_config__init(&t.sb);
    runtime__v1__pod_sandbox_metadata__init(&t.sb_meta);
    t.sb_meta.name = z("web");
    t.sb_meta.uid = z("u");
    t.sb_meta.namespace_ = z("default");
    t.sb.metadata = &t.sb_meta;
    runtime__v1__linux_pod_sandbox_config__init(&t.sb_linux);
    runtime__v1__linux_sandbox_security_context__init(&t.sb_sec);
    runtime__v1__namespace_option__init(&t.sb_ns);
    t.sb.linux = &t.sb_linux;
    t.sb_linux.security_context = &t.sb_sec;
    t.sb_sec.namespace_options = &t.sb_ns;

    runtime__v1__container_config__init(&t.c);
    runtime__v1__container_metadata__init(&t.meta);
    t.meta.name = z("ctr");
    t.c.metadata = &t.meta;
    runtime__v1__image_spec__init(&t.image);
    t.image.image = z("busybox");
    t.c.image = &t.image;
    runtime__v1__linux_container_config__init(&t.linux_);
    runtime__v1__linux_container_security_context__init(&t.sec);
    runtime__v1__linux_container_resources__init(&t.res);
    runtime__v1__namespace_option__init(&t.ns);
    runtime__v1__capability__init(&t.caps);
    runtime__v1__security_profile__init(&t.profile);
    runtime__v1__device__init(&t.d);
    runtime__v1__int64_value__init(&t.user);
    runtime__v1__int64_value__init(&t.group);
    t.dp[0] = &t.d;
    t.c.linux = &t.linux_;
    t.linux_.security_context = &t.sec;
    for (int i = 0; i < 4; i++) {
        runtime__v1__mount__init(&t.m[i]);
        runtime__v1__key_value__init(&t.kv[i]);
        t.mp[i] = &t.m[i];
        t.kvp[i] = &t.kv[i];
    }
    t.c.mounts = t.mp;
    t.c.envs = t.kvp;
    cricket__state__image_config__init(&t.im);
    t.gids[0] = 5;
    t.who = (struct spec_user){
        .uid = 1000, .gid = 5, .groups = t.gids, .n_groups = 1, .home = z("/home/me")
    };
    t.in = (struct spec_input){ .id = "abc",
                                .config = &t.c,
                                .sandbox = &t.sb,
                                .image = &t.im,
                                .user = &t.who,
                                .node = &node,
                                .lower = "/l/2:/l/1",
                                .upper = "/c/upper",
                                .work = "/c/work",
                                .pod_dir = "/run/p",
                                .log_path = "/log",
                                .hostname = "web-1",
                                .log_line_max = 16384 };
}

static void mount_of(int i, const char *from, const char *to)
{
    t.m[i].host_path = z(from);
    t.m[i].container_path = z(to);
    if (t.c.n_mounts <= (size_t)i)
        t.c.n_mounts = (size_t)i + 1;
}

static void env_of(int i, const char *key, const char *value)
{
    t.kv[i].key = z(key);
    t.kv[i].value.data = (uint8_t *)z(value);
    t.kv[i].value.len = strlen(value);
    if (t.c.n_envs <= (size_t)i)
        t.c.n_envs = (size_t)i + 1;
}

/* The error text, or "" */
static const char *check(void)
{
    err_clear(&e);
    return spec_check_container(&t.c, &t.sb, &node, &e) < 0 ? e.text : "";
}

static const char *check_pod(void)
{
    err_clear(&e);
    return spec_check_sandbox(&t.sb, &node, &e) < 0 ? e.text : "";
}

static void test_sandbox(void)
{
    Runtime__V1__LinuxPodSandboxConfig__SysctlsEntry s, *sp = &s;
    Runtime__V1__PortMapping pm = RUNTIME__V1__PORT_MAPPING__INIT, *pmp = &pm;
    Runtime__V1__DNSConfig dns = RUNTIME__V1__DNSCONFIG__INIT;
    Runtime__V1__UserNamespace u = RUNTIME__V1__USER_NAMESPACE__INIT;
    Runtime__V1__IDMapping map = RUNTIME__V1__IDMAPPING__INIT, *maps[2] = { &map, &map };
    static const struct { const char *key; bool fine, host_net, host_ipc;
    } sysctls[] = {
        { "net.ipv4.ip_forward", true, false, true },
        { "net/ipv4/conf/eth0.1/forwarding", true, false, true },
        { "kernel.shm_rmid_forced", true, true, false },
        { "fs.mqueue.msg_max", true, true, false },
        { "kernel.sem", true, true, false },
        { "kernel.hostname", true, false, true },
        { "kernel.panic", false, false, false },
        { "vm.swappiness", false, false, false },
        { "net.ipv4/../../kernel/panic", false, false, false },
        { "net/../kernel/panic", false, false, false },
        { "network.x", false, false, false },
        { "kernel.semx", false, false, false },
        { "", false, false, false },
    };

    reset();
    is_str(check_pod(), "", "a plain sandbox");
    t.sb_meta.uid = z("");
    is_str(check_pod(), "sandbox metadata needs a uid", "without a uid");
    is_int(e.grpc, GRPC_INVALID_ARGUMENT, "is the caller's fault");
    t.sb.metadata = NULL;
    is_str(check_pod(), "sandbox metadata needs a name", "without metadata");
    reset();
    t.sb.hostname = z("0123456789012345678901234567890123456789012345678901234567890123x");
    ok(str_starts(check_pod(), "hostname"), "a hostname of 65 bytes");
    t.sb.hostname++;
    is_str(check_pod(), "", "one of 64");
    t.sb.log_directory = z("var/log");
    ok(str_starts(check_pod(), "log_directory"), "a relative log directory");

    reset();
    t.sb.dns_config = &dns;
    is_str(check_pod(), "", "an empty dns_config");
    char *server = z("1.1.1.1\nnameserver 6.6.6.6");
    dns.servers = &server;
    dns.n_servers = 1;
    ok(str_starts(check_pod(), "dns_config"), "a newline in a name server");

    reset();
    t.sb.port_mappings = &pmp;
    t.sb.n_port_mappings = 1;
    pm.host_port = 70000;
    is_str(check_pod(), "port mapping: host_port 70000", "a port that is none");
    pm.host_port = 80;
    ok(str_starts(check_pod(), "port mapping: container_port 0"), "a host port that leads nowhere");
    pm.container_port = 8080;
    is_str(check_pod(), "", "a good mapping");
    pm.host_ip = z("localhost");
    ok(str_starts(check_pod(), "port mapping: host_ip"), "a name as address");
    pm.host_ip = z("::1");
    pm.protocol = 9;
    is_str(check_pod(), "port mapping: unknown protocol 9", "an unknown protocol");

    reset();
    t.sb_linux.sysctls = &sp;
    t.sb_linux.n_sysctls = 1;
    runtime__v1__linux_pod_sandbox_config__sysctls_entry__init(&s);
    s.value = z("1");
    for (size_t i = 0; i < ARRAY_LEN(sysctls); i++) {
        s.key = z(sysctls[i].key);
        ok(!check_pod()[0] == sysctls[i].fine, "sysctl %s: %s", s.key, e.text);
        t.sb_ns.network = MODE(NODE);
        ok(!check_pod()[0] == (sysctls[i].fine && sysctls[i].host_net), "with the host's network");
        t.sb_ns.network = MODE(POD);
        t.sb_ns.ipc = MODE(NODE);
        ok(!check_pod()[0] == (sysctls[i].fine && sysctls[i].host_ipc), "with the host's ipc");
        t.sb_ns.ipc = MODE(POD);
    }

    reset();
    t.sb_sec.run_as_group = &t.group;
    is_str(check_pod(), "run_as_group without run_as_user", "a group without a user");
    reset();
    t.sb_ns.network = MODE(CONTAINER);
    is_str(check_pod(), "network namespace mode CONTAINER is not supported",
           "a network of the container's own");
    t.sb_ns.network = 7;
    is_str(check_pod(), "unknown network namespace mode 7", "an unknown mode");
    reset();
    t.sb_ns.pid = MODE(TARGET);
    ok(check_pod()[0], "pid TARGET of a sandbox: %s", e.text);
    reset();
    t.sb_linux.cgroup_parent = z("/a/../b");
    ok(check_pod()[0], "'..' in the cgroup parent: %s", e.text);
    t.sb_linux.cgroup_parent = z("/kubepods.slice");
    ok(check_pod()[0], "a slice without systemd: %s", e.text);
    t.sb_linux.cgroup_parent = z("/kubepods/pod..x");
    is_str(check_pod(), "", "two dots in a name are no '..'");

    reset();
    t.sb_ns.userns_options = &u;
    u.mode = MODE(NODE);
    is_str(check_pod(), "", "user namespace of the node");
    u.uids = u.gids = maps;
    u.n_uids = 1;
    ok(check_pod()[0], "with a mapping: %s", e.text);
    u.mode = MODE(POD);
    u.n_gids = 1;
    map.host_id = 100000;
    map.length = 65536;
    is_str(check_pod(), "user namespaces (userns_options) are not supported", "refused by name");
    node.userns = true;
    is_str(check_pod(), "", "where it can be done");
    ok(spec_userns(&t.sb) == &u, "it is the pod's");
    u.n_uids = 2;
    ok(check_pod()[0], "two mappings: %s", e.text);
    u.n_uids = 1;
    map.container_id = 1;
    ok(check_pod()[0], "one that does not begin at 0: %s", e.text);
    map.container_id = 0;
    map.host_id = 4294967000u;
    ok(check_pod()[0], "one that overflows: %s", e.text);
    u.mode = MODE(CONTAINER);
    ok(check_pod()[0], "mode CONTAINER: %s", e.text);
    node.userns = false;

    reset();
    Runtime__V1__WindowsPodSandboxConfig w = RUNTIME__V1__WINDOWS_POD_SANDBOX_CONFIG__INIT;
    Runtime__V1__WindowsSandboxSecurityContext ws =
        RUNTIME__V1__WINDOWS_SANDBOX_SECURITY_CONTEXT__INIT;
    t.sb.windows = &w;
    w.security_context = &ws;
    is_str(check_pod(), "", "an empty windows part is passed over");
    ws.host_process = true;
    ok(check_pod()[0], "a host process is not: %s", e.text);
}

static void test_container(void)
{
    char *cap;

    reset();
    is_str(check(), "", "a plain container");
    t.c.linux = NULL;
    is_str(check(), "", "without a linux part");
    t.meta.name = z("");
    ok(check()[0], "no name: %s", e.text);
    reset();
    t.image.image = z("");
    ok(check()[0], "no image: %s", e.text);
    reset();
    t.c.working_dir = z("app");
    ok(check()[0], "a relative directory: %s", e.text);
    reset();
    env_of(0, "A=B", "c");
    ok(check()[0], "'=' in a name: %s", e.text);
    env_of(0, "A", "c");
    t.kv[0].value.data = (uint8_t *)z("a\0b");
    t.kv[0].value.len = 3;
    ok(check()[0], "NUL in a value: %s", e.text);
    reset();
    t.c.log_path = z("../x");
    ok(check()[0], "a log outside: %s", e.text);
    t.c.log_path = z("a/../../x");
    ok(check()[0], "on a detour: %s", e.text);
    t.c.log_path = z("a/..");
    ok(check()[0], "the directory itself: %s", e.text);
    t.c.log_path = z("ctr/0.log");
    is_str(check(), "", "a log inside");
    reset();
    t.c.stop_signal = 66;
    is_str(check(), "unknown stop_signal 66", "a signal that is none");

    reset();
    t.sec.privileged = true;
    is_str(check(), "no privileged container allowed in sandbox", "privileged in a plain sandbox");
    t.sb_sec.privileged = true;
    is_str(check(), "", "in a privileged one");
    reset();
    t.sec.run_as_group = &t.group;
    ok(check()[0], "a group alone: %s", e.text);
    t.sec.run_as_username = z("www");
    is_str(check(), "", "with a user's name");
    reset();
    t.sec.run_as_user = &t.user;
    t.user.value = -1;
    ok(check()[0], "a negative user: %s", e.text);
    reset();
    t.sec.supplemental_groups_policy = 5;
    is_str(check(), "unknown supplemental_groups_policy 5", "an unknown policy");
    reset();
    t.sec.namespace_options = &t.ns;
    t.ns.pid = MODE(TARGET);
    ok(check()[0], "a target without a name: %s", e.text);
    t.ns.target_id = z("abc");
    is_str(check(), "", "with one");
    t.ns.ipc = MODE(CONTAINER);
    ok(check()[0], "ipc of its own: %s", e.text);
    reset();
    t.sb_ns.pid = MODE(CONTAINER);
    ok(check()[0], "a shared pid namespace where the sandbox has none: %s", e.text);
    t.sec.namespace_options = &t.ns;
    ok(check()[0], "by name, too: %s", e.text);
    t.ns.pid = MODE(CONTAINER);
    is_str(check(), "", "one of its own there");
    t.ns.pid = MODE(NODE);
    is_str(check(), "", "the node's there");
    t.sb_ns.pid = MODE(NODE);
    t.ns.pid = MODE(POD);
    is_str(check(), "", "POD where the pod has the node's");
    reset();
    t.sec.capabilities = &t.caps;
    t.caps.add_capabilities = &cap;
    t.caps.n_add_capabilities = 1;
    cap = z("FLY");
    is_str(check(), "unknown capability to add: 'FLY'", "an unknown capability");

    reset();
    t.linux_.resources = &t.res;
    t.res.oom_score_adj = 1001;
    ok(check()[0], "oom_score_adj: %s", e.text);
    t.res.oom_score_adj = -999;
    t.res.cpu_quota = -1;
    t.res.cpu_period = 100000;
    is_str(check(), "", "usual resources");
    t.res.memory_limit_in_bytes = 100;
    t.res.memory_swap_limit_in_bytes = 50;
    ok(check()[0], "swap: %s", e.text);
    t.res.memory_swap_limit_in_bytes = 0;
    t.res.cpuset_cpus = z("0-1;");
    ok(check()[0], "cpuset: %s", e.text);
    t.res.cpuset_cpus = z("0-1,3");
    is_str(check(), "", "a good cpuset");

    reset();
    Runtime__V1__SELinuxOption se = RUNTIME__V1__SELINUX_OPTION__INIT;
    t.sec.selinux_options = &se;
    se.level = z("s0,c4,c5");
    is_str(check(), "", "SELinux off: ignored");
    node.selinux = true;
    ok(check()[0], "SELinux on: %s", e.text);
    node.selinux = false;
}

static void test_profiles(void)
{
    static const struct {
        bool present;
        int type;
        const char *ref, *old;
        int kind;                    /* -1: refused */
        const char *path;
    } cases[] = {
        { false, 0, "", "", SPEC_SECCOMP_NONE, NULL },
        { true, PROFILE(RuntimeDefault), "", "", SPEC_SECCOMP_DEFAULT, NULL },
        { true, PROFILE(Unconfined), "", "runtime/default", SPEC_SECCOMP_NONE, NULL },
        { true, PROFILE(Localhost), "/p.json", "", SPEC_SECCOMP_FILE, "/p.json" },
        { true, PROFILE(Localhost), "localhost//p.json", "", SPEC_SECCOMP_FILE, "/p.json" },
        { true, PROFILE(Localhost), "p.json", "", -1, NULL },
        { true, PROFILE(Localhost), "", "", -1, NULL },
        { true, PROFILE(Unconfined), "/p.json", "", -1, NULL },
        { true, 3, "", "", -1, NULL },
        { false, 0, "", "runtime/default", SPEC_SECCOMP_DEFAULT, NULL },
        { false, 0, "", "docker/default", SPEC_SECCOMP_DEFAULT, NULL },
        { false, 0, "", "unconfined", SPEC_SECCOMP_NONE, NULL },
        { false, 0, "", "localhost//a/b", SPEC_SECCOMP_FILE, "/a/b" },
        { false, 0, "", "/a/b", SPEC_SECCOMP_FILE, "/a/b" },
        { false, 0, "", "whatever", -1, NULL },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct spec *s = NULL;

        reset();
        char *cmd = z("x");
        t.c.command = &cmd;
        t.c.n_command = 1;
        if (cases[i].present)
            t.sec.seccomp = &t.profile;
        t.profile.profile_type = (Runtime__V1__SecurityProfile__ProfileType)cases[i].type;
        t.profile.localhost_ref = z(cases[i].ref);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
        t.sec.seccomp_profile_path = z(cases[i].old);
#pragma GCC diagnostic pop
        node.seccomp = true;
        if (cases[i].kind < 0) {
            ok(check()[0], "seccomp %zu is refused: %s", i, e.text);
            continue;
        }
        is_str(check(), "", "seccomp %zu", i);
        ok(spec_build(&t.in, &s, &e) == 0 && (int)s->seccomp == cases[i].kind, "is of kind %d",
           cases[i].kind);
        is_str(s ? s->seccomp_path : "?", cases[i].path, "its path");
        spec_free(s);
        node.seccomp = false;
        ok(!check()[0] == (cases[i].kind == SPEC_SECCOMP_NONE), "a kernel without: %s", e.text);
        node.seccomp = true;
    }
    reset();
    t.sec.apparmor = &t.profile;
    t.profile.profile_type = PROFILE(Unconfined);
    is_str(check(), "", "AppArmor off: unconfined");
    t.profile.profile_type = PROFILE(RuntimeDefault);
    ok(check()[0], "the default one is refused: %s", e.text);
    t.profile.profile_type = PROFILE(Localhost);
    t.profile.localhost_ref = z("localhost/x");
    ok(check()[0], "one by name too: %s", e.text);
    t.sec.privileged = t.sb_sec.privileged = true;
    is_str(check(), "", "privileged: not applied");
}

static void test_mount_checks(void)
{
    auto_free char *sub = mem_printf("%s/sub", dir), *gone = mem_printf("%s/gone", dir);
    Runtime__V1__ImageSpec im = RUNTIME__V1__IMAGE_SPEC__INIT;
    Runtime__V1__IDMapping map = RUNTIME__V1__IDMAPPING__INIT, *maps = &map;
    char *opt;

    mkdir(sub, 0755);
    reset();
    mount_of(0, sub, "/data");
    is_str(check(), "", "a mount");
    mount_of(0, sub, "data");
    ok(check()[0], "relative target: %s", e.text);
    mount_of(0, sub, "/a/..");
    ok(check()[0], "the root: %s", e.text);
    mount_of(0, "x", "/data");
    ok(check()[0], "relative source: %s", e.text);
    mount_of(0, gone, "/data");
    auto_free char *want = mem_printf("mount '/data': host path '%s' does not exist", gone);
    is_str(check(), want, "a missing source");
    node.create_missing_host_paths = true;
    is_str(check(), "", "unless it is to be made");
    node.create_missing_host_paths = false;
    mount_of(0, sub, "/proc/sys");
    ok(check()[0], "below /proc: %s", e.text);
    mount_of(0, sub, "/proc");
    ok(check()[0], "over /proc: %s", e.text);
    mount_of(0, sub, "/proc/../data");
    is_str(check(), "", "not in fact below /proc");
    mount_of(0, "/proc", "/proc");
    is_str(check(), "", "/proc itself");

    reset();
    mount_of(0, sub, "/data");
    t.m[0].recursive_read_only = true;
    ok(check()[0], "rro: %s", e.text);
    t.m[0].readonly = true;
    bool rro = node.rro;
    node.rro = true;
    is_str(check(), "", "rro with readonly");
    t.m[0].propagation = PROPAGATION(HOST_TO_CONTAINER);
    ok(check()[0], "but not propagated: %s", e.text);
    t.m[0].propagation = PROPAGATION(PRIVATE);
    node.rro = false;
    ok(str_starts(check(), "RROUnsupported: "), "an old kernel: %s", e.text);
    node.rro = rro;
    t.m[0].recursive_read_only = false;
    t.m[0].propagation = 3;
    ok(check()[0], "propagation: %s", e.text);
    t.m[0].propagation = PROPAGATION(PRIVATE);
    t.m[0].mount_options = &opt;
    t.m[0].n_mount_options = 1;
    opt = z("noexec");
    is_str(check(), "", "noexec");
    opt = z("strange");
    ok(check()[0], "an option: %s", e.text);
    t.m[0].n_mount_options = 0;
    t.m[0].uidmappings = &maps;
    t.m[0].n_uidmappings = 1;
    ok(check()[0], "id mappings: %s", e.text);
    t.m[0].n_uidmappings = 0;

    t.m[0].image = &im;
    is_str(check(), "", "an empty image is none");
    im.image = z("app");
    ok(str_starts(check(), "ImageVolumeMountFailed: "), "an image: %s", e.text);
    node.image_volumes = true;
    ok(str_starts(check(), "ImageVolumeMountFailed: "), "with host_path: %s", e.text);
    t.m[0].host_path = z("");
    is_str(check(), "", "an image volume");
    t.m[0].image_sub_path = z("a/../..");
    ok(str_starts(check(), "ImageVolumeMountFailed: "), "'..' in the sub path: %s", e.text);
    t.m[0].image_sub_path = z("a");
    t.m[0].readonly = false;
    ok(str_starts(check(), "ImageVolumeMountFailed: "), "writable: %s", e.text);
    node.image_volumes = false;

    reset();
    t.c.devices = t.dp;
    t.c.n_devices = 1;
    t.d.host_path = z("/dev/null");
    t.d.container_path = z("/dev/x");
    is_str(check(), "", "a device");
    t.d.permissions = z("rx");
    ok(check()[0], "permissions: %s", e.text);
    t.d.permissions = z("r");
    t.d.host_path = z("/etc/passwd");
    ok(check()[0], "no device: %s", e.text);
    t.d.host_path = z("/dev/nope");
    ok(check()[0], "a missing one: %s", e.text);
}

static struct spec *build(void)
{
    struct spec *s = NULL;

    err_clear(&e);
    if (spec_build(&t.in, &s, &e) < 0) {
        diag("spec_build: %s", e.text);
        return NULL;
    }
    return s;
}

static const char *joined(char *const *v)
{
    static struct str s = STR_INIT;

    str_reset(&s);
    for (; v && *v; v++)
        str_printf(&s, "%s%s", s.len ? " " : "", *v);
    return str_c(&s);
}

static const char *argv_of(size_t n_entry, size_t n_cmd, size_t n_command, size_t n_args)
{
    static char e1[] = "ep", e2[] = "ep2", c1[] = "cmd", r1[] = "run", a1[] = "arg", none[] = "";
    char *entry[] = { n_entry == 9 ? none : e1, e2 }, *cmd[] = { c1 }, *command[] = { r1 },
         *args[] = { a1 };
    static char buf[100];
    struct spec *s;

    reset();
    t.im.entrypoint = entry;
    t.im.n_entrypoint = n_entry == 9 ? 1 : n_entry;
    t.im.cmd = cmd;
    t.im.n_cmd = n_cmd;
    t.c.command = command;
    t.c.n_command = n_command;
    t.c.args = args;
    t.c.n_args = n_args;
    if (spec_build(&t.in, &s, &e) < 0)
        return e.text;
    snprintf(buf, sizeof buf, "%s", joined(s->plan.process.argv));
    spec_free(s);
    return buf;
}

static void test_process(void)
{
    char *cmd[] = { z("sh"), z("-c"), z("x") };
    char *ienv[] = { z("PATH=/bin"), z("A=1"), z("junk"), z("=x"), z("B=2") };
    struct spec_exec *x;
    struct spec *s;

    is_str(argv_of(2, 1, 0, 0), "ep ep2 cmd", "the image's entry point and command");
    is_str(argv_of(2, 1, 0, 1), "ep ep2 arg", "args replace Cmd");
    is_str(argv_of(2, 1, 1, 0), "run", "command replaces both");
    is_str(argv_of(2, 1, 1, 1), "run arg", "command and args");
    is_str(argv_of(0, 1, 0, 0), "cmd", "only Cmd");
    is_str(argv_of(9, 1, 0, 0), "cmd", "an entry point of one empty string is none");
    ok(str_starts(argv_of(0, 0, 0, 0), "no command specified"), "nothing at all: %s", e.text);
    is_int(e.grpc, GRPC_INVALID_ARGUMENT, "is the caller's fault");

    reset();
    t.c.command = cmd;
    t.c.n_command = 3;
    t.im.env = ienv;
    t.im.n_env = 5;
    env_of(0, "C", "3");
    env_of(1, "A", "one");
    s = build();
    is_str(joined(s->plan.process.envp), "PATH=/bin HOSTNAME=web-1 A=one B=2 C=3 HOME=/home/me",
           "the environment: later ones in the place of earlier ones");
    is_str(s->plan.process.cwd, "/", "directory");
    is_int(s->plan.process.uid, 1000, "uid");
    ok(s->plan.process.set_oom_score_adj && s->plan.process.oom_score_adj == 0,
       "oom_score_adj is always set");
    ok(s->plan.process.cap_bounding == (caps_default() & caps_own()) &&
           !s->plan.process.cap_ambient,
       "capabilities");
    ok(!s->plan.process.n_rlimits, "no limits of its own");
    spec_free(s);

    t.c.tty = true;
    t.c.stdin = true;
    t.im.working_dir = z("app/./x");
    t.in.rlimit_nofile = 1024;
    t.sec.no_new_privs = true;
    t.linux_.resources = &t.res;
    t.res.oom_score_adj = 985;
    env_of(2, "HOME", "/x");
    s = build();
    is_str(joined(s->plan.process.envp),
           "PATH=/bin HOSTNAME=web-1 A=one B=2 C=3 HOME=/x TERM=xterm", "with a terminal");
    is_str(s->plan.process.cwd, "/app/x", "the image's directory, made absolute");
    ok(s->plan.process.tty && s->plan.process.stdin_open && s->plan.process.no_new_privs, "flags");
    ok(s->plan.process.n_rlimits == 1 && s->plan.process.rlimits[0].soft == 1024, "RLIMIT_NOFILE");
    is_int(s->plan.process.oom_score_adj, 985, "oom_score_adj");
    spec_free(s);
    t.res.oom_score_adj = 0;
    Runtime__V1__LinuxContainerResources now = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
    now.oom_score_adj = 3;
    t.in.resources = &now;
    s = build();
    is_int(s->plan.process.oom_score_adj, 3, "resources in force win");
    spec_free(s);

    t.c.tty = false;
    ok(spec_build_exec(&t.in, cmd, 2, true, true, &x, &e) == 0, "an exec");
    is_str(joined(x->process.argv), "sh -c", "its command");
    ok(strstr(joined(x->process.envp), "TERM=xterm") != NULL, "its terminal");
    ok(x->process.no_new_privs && x->process.uid == 1000 &&
           x->process.cap_bounding == (caps_default() & caps_own()) && x->process.stdin_open &&
           x->process.tty,
       "and all that the first process has");
    spec_exec_free(x);
    ok(spec_build_exec(&t.in, cmd, 0, false, false, &x, &e) < 0 && e.grpc == GRPC_INVALID_ARGUMENT,
       "%s", e.text);
}

static const char *targets(const struct spec *s)
{
    static struct str out = STR_INIT;

    str_reset(&out);
    for (size_t i = 0; i < s->plan.n_mounts; i++)
        str_printf(&out, "%s%s", i ? " " : "", s->plan.mounts[i].target);
    return str_c(&out);
}

static const struct plan_mount *mount_at(const struct spec *s, const char *target)
{
    static const struct plan_mount none;

    for (size_t i = 0; i < s->plan.n_mounts; i++)
        if (strcmp(s->plan.mounts[i].target, target) == 0)
            return &s->plan.mounts[i];
    return &none;
}

static void test_mounts(void)
{
    char *cmd = z("x"), *volumes[] = { z("/vol"), z("/data/in"), z("/") };
    struct spec *s;

    reset();
    t.c.command = &cmd;
    t.c.n_command = 1;
    s = build();
    is_str(
        targets(s),
        "/proc /dev /sys /dev/pts /dev/mqueue /dev/shm /etc/hostname /etc/hosts /etc/resolv.conf "
        "/sys/fs/cgroup",
        "the defaults, by depth");
    is_int(mount_at(s, "/dev/shm")->kind, PLAN_MOUNT_SHM, "the pod's /dev/shm");
    ok(mount_at(s, "/sys")->flags & PLAN_RDONLY, "/sys is read-only");
    ok(mount_at(s, "/sys/fs/cgroup")->flags & PLAN_RDONLY, "/sys/fs/cgroup too");
    ok(!(mount_at(s, "/etc/hosts")->flags & PLAN_RDONLY), "the pod's files are not");
    is_str(mount_at(s, "/etc/hosts")->source, "/run/p/hosts", "and come from the pod's directory");
    is_int(s->plan.pidns, PLAN_PID_POD, "the pod's pid namespace");
    is_int(s->plan.n_devices, 6, "devices");
    is_int(s->plan.n_symlinks, access("/proc/kcore", F_OK) == 0 ? 6 : 5, "links");
    is_int(s->n_device_rules, 11, "device rules");
    is_int(s->plan.rootfs_propagation, PLAN_PRIVATE, "propagation of the root");
    spec_free(s);

    mount_of(0, "/h/a", "/data/x/y");
    mount_of(1, "/h/b", "/data/");
    mount_of(2, "/h/hosts", "/etc//hosts");
    t.m[0].readonly = true;
    t.m[1].propagation = PROPAGATION(HOST_TO_CONTAINER);
    t.im.volumes = volumes;
    t.im.n_volumes = 3;
    t.sec.readonly_rootfs = true;
    s = build();
    is_str(
        targets(s),
        "/proc /dev /sys /vol /data /dev/pts /dev/mqueue /dev/shm /etc/hostname /etc/resolv.conf "
        "/etc/hosts /sys/fs/cgroup /data/x/y",
        "what is asked for takes the place of files and volumes, also those below it");
    is_str(mount_at(s, "/etc/hosts")->source, "/h/hosts", "the hosts file that was asked for");
    ok(mount_at(s, "/etc/hostname")->flags & PLAN_RDONLY,
       "the pod's files are read-only with the root");
    is_int(mount_at(s, "/data/x/y")->flags, PLAN_RECURSIVE | PLAN_RDONLY,
           "read-only, this mount only");
    is_int(mount_at(s, "/data")->propagation, PLAN_SLAVE, "propagation");
    is_int(s->plan.rootfs_propagation, PLAN_SLAVE, "the root has to let it through");
    is_int(mount_at(s, "/vol")->kind, PLAN_MOUNT_SELF, "a volume of the image");
    spec_free(s);

    reset();
    t.c.command = &cmd;
    t.c.n_command = 1;
    mount_of(0, "/dev", "/dev");
    t.sec.masked_paths = volumes;
    t.sec.n_masked_paths = 1;
    s = build();
    is_str(targets(s), "/proc /sys /dev /etc/hostname /etc/hosts /etc/resolv.conf /sys/fs/cgroup",
           "a /dev of its own: nothing is put into it");
    is_int(s->plan.n_devices + s->plan.n_symlinks, 0, "no node, no link");
    is_int(s->plan.n_masked, 1, "masked paths as given");
    spec_free(s);

    t.sec.privileged = t.sb_sec.privileged = true;
    t.c.n_mounts = 0;
    t.sb_ns.network = t.sb_ns.ipc = t.sb_ns.pid = MODE(NODE);
    s = build();
    ok(!(mount_at(s, "/sys")->flags & PLAN_RDONLY) &&
           !(mount_at(s, "/sys/fs/cgroup")->flags & PLAN_RDONLY),
       "privileged: /sys is writable");
    is_int(s->plan.n_masked, 0, "nothing is masked");
    ok(!s->device_rules && s->plan.n_devices > 6, "every device, all allowed");
    ok(s->plan.process.cap_effective == caps_own(), "every capability");
    ok(s->plan.host_net && s->plan.host_ipc && s->plan.host_uts && s->plan.pidns == PLAN_PID_HOST,
       "the sandbox's namespaces are the node's");
    is_str(mount_at(s, "/dev/shm")->source, "/dev/shm", "and so is /dev/shm");
    for (size_t i = 0; i < s->plan.n_devices; i++)
        if (str_starts(s->plan.devices[i].path, "/dev/pts/") ||
            strcmp(s->plan.devices[i].path, "/dev/ptmx") == 0)
            ok(false, "no %s", s->plan.devices[i].path);
    spec_free(s);

    reset();
    t.c.command = &cmd;
    t.c.n_command = 1;
    auto_free char *link = mem_printf("%s/link", dir), *devs = mem_printf("%s/devs", dir);
    auto_free char *node1 = mem_printf("%s/devs/a", dir), *node2 = mem_printf("%s/devs/sub/b", dir);
    auto_free char *sub = mem_printf("%s/devs/sub", dir);
    t.c.devices = t.dp;
    t.c.n_devices = 1;
    t.d.container_path = z("/dev/mynull");
    t.d.permissions = z("r");
    t.d.host_path = link;
    if (symlink("/dev/null", link) < 0)
        diag("symlink: %s", strerror(errno));
    s = build();
    ok(s && s->plan.n_devices == 7 && s->plan.devices[6].major == 1 &&
           s->plan.devices[6].minor == 3,
       "through a link");
    ok(s && s->n_device_rules == 12 && strcmp(s->device_rules[11].access, "r") == 0,
       "with its permissions");
    spec_free(s);
    mkdir(devs, 0755);
    mkdir(sub, 0755);
    if (mknod(node1, S_IFCHR | 0600, 1 << 8 | 5) < 0 ||
        mknod(node2, S_IFCHR | 0600, 1 << 8 | 7) < 0) {
        skip("no device nodes here: %s", strerror(errno));
        return;
    }
    t.d.host_path = devs;
    t.d.container_path = z("/dev/all");
    s = build();
    is_int(s->plan.n_devices, 8, "a directory: all below");
    ok(strcmp(s->plan.devices[6].path, "/dev/all/a") == 0 ||
           strcmp(s->plan.devices[7].path, "/dev/all/a") == 0,
       "under the name asked for");
    ok(strcmp(s->plan.devices[6].path, "/dev/all/sub/b") == 0 ||
           strcmp(s->plan.devices[7].path, "/dev/all/sub/b") == 0,
       "at any depth");
    spec_free(s);
}

static void test_namespaces(void)
{
    static const struct { int ctr, pod; enum plan_pidns want;
    } cases[] = {
        { -1, MODE(POD), PLAN_PID_POD },
        { MODE(POD), MODE(POD), PLAN_PID_POD },
        { MODE(CONTAINER), MODE(POD), PLAN_PID_OWN },
        { MODE(NODE), MODE(POD), PLAN_PID_HOST },
        { MODE(TARGET), MODE(CONTAINER), PLAN_PID_TARGET },
        { -1, MODE(NODE), PLAN_PID_HOST },
        { MODE(POD), MODE(NODE), PLAN_PID_HOST },
    };
    char *cmd = z("x");

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        reset();
        t.c.command = &cmd;
        t.c.n_command = 1;
        t.sb_ns.pid = (Runtime__V1__NamespaceMode)cases[i].pod;
        if (cases[i].ctr >= 0) {
            t.sec.namespace_options = &t.ns;
            t.ns.pid = (Runtime__V1__NamespaceMode)cases[i].ctr;
        }
        struct spec *s = build();
        is_int(s->plan.pidns, cases[i].want, "pid namespace %d in %d", cases[i].ctr, cases[i].pod);
        ok(!s->plan.host_net && s->plan.host_userns, "the others are the pod's");
        spec_free(s);
    }
}

static void test_userns(void)
{
    Runtime__V1__UserNamespace u = RUNTIME__V1__USER_NAMESPACE__INIT;
    Runtime__V1__IDMapping map = RUNTIME__V1__IDMAPPING__INIT, *maps = &map,
                           other = RUNTIME__V1__IDMAPPING__INIT, *others = &other;

    char *cmd = z("true");

    map.host_id = 1 << 20;
    other.host_id = 1 << 21;
    map.length = other.length = 1 << 16;
    u.mode = MODE(POD);
    u.uids = u.gids = &maps;
    u.n_uids = u.n_gids = 1;
    node.userns = true;

    reset();
    t.c.command = &cmd;
    t.c.n_command = 1;
    t.sb_ns.userns_options = &u;
    t.sec.namespace_options = &t.ns;
    t.ns.userns_options = &u;
    mount_of(0, "/etc", "/v");
    t.m[0].uidmappings = t.m[0].gidmappings = &maps;
    t.m[0].n_uidmappings = t.m[0].n_gidmappings = 1;
    is_str(check(), "", "a mount with the maps of the pod");
    struct spec *s = build();
    ok(!s->plan.host_userns && mount_at(s, "/v")->flags & PLAN_IDMAP, "it is mapped");
    is_int(mount_at(s, "/proc")->kind, PLAN_MOUNT_FS, "/proc is the pod's");
    is_int(mount_at(s, "/sys")->kind, PLAN_MOUNT_FS, "/sys too");
    ok(strstr(mount_at(s, "/dev/pts")->data, "gid=5"), "terminals belong to group 5");
    json_t *j = spec_json(s, "", ""), *m = json_object_get(json_object_get(j, "linux"), "gidMappings");
    is_int(json_integer_value(json_object_get(json_array_get(m, 0), "hostID")), 1 << 20,
           "the verbose status has the maps");
    json_decref(j);
    spec_free(s);

    t.m[0].gidmappings = &others;
    ok(strstr(check(), "differ"), "a mount with other maps: %s", e.text);
    t.m[0].n_gidmappings = 0;
    ok(strstr(check(), "differ"), "with half of them: %s", e.text);
    t.m[0].n_uidmappings = 0;
    is_str(check(), "", "with none");

    map.length = 5;
    t.sb_ns.network = t.sb_ns.ipc = t.sb_ns.pid = MODE(NODE);
    s = build();
    ok(!strstr(mount_at(s, "/dev/pts")->data, "gid="), "no group 5 there");
    ok(mount_at(s, "/sys")->kind == PLAN_MOUNT_BIND && mount_at(s, "/sys")->flags & PLAN_RDONLY &&
           !(mount_at(s, "/sys")->flags & PLAN_RECURSIVE),
       "the node's network: its /sys");
    ok(mount_at(s, "/proc")->kind == PLAN_MOUNT_BIND &&
           mount_at(s, "/dev/mqueue")->kind == PLAN_MOUNT_BIND,
       "its processes, its IPC: likewise");
    spec_free(s);

    reset();
    mount_of(0, "/etc", "/v");
    t.m[0].uidmappings = t.m[0].gidmappings = &maps;
    t.m[0].n_uidmappings = t.m[0].n_gidmappings = 1;
    ok(strstr(check(), "without a user namespace"), "maps, but no user namespace: %s", e.text);
    node.userns = false;
}

static const char *who(const char *image_user)
{
    const char *layers[] = { dir };
    static char buf[200];
    struct spec_user u;
    size_t n;

    err_clear(&e);
    if (spec_resolve_user(layers, 1, &t.c, image_user, &u, &e) < 0)
        return e.text;
    n = (size_t)snprintf(buf, sizeof buf, "%u:%u %s", u.uid, u.gid, u.home);
    for (size_t i = 0; i < u.n_groups; i++)
        n += (size_t)snprintf(buf + n, sizeof buf - n, " %u", u.groups[i]);
    spec_user_deinit(&u);
    return buf;
}

static void test_user(void)
{
    auto_free char *etc = mem_printf("%s/etc", dir);
    int64_t more[] = { 60000, 20 };

    mkdir(etc, 0755);
    put_file(dir, "etc/passwd", "root:x:0:0::/root:/bin/sh\nwww:x:33:44::/var/www:/bin/sh\n");
    put_file(dir, "etc/group", "wheel:x:10:root\nextra:x:500:www\nwww:x:44:\n");
    reset();
    is_str(who(""), "0:0 /root 0 10", "nobody named: root and its groups");
    is_str(who("www"), "33:44 /var/www 44 500", "the image's user");
    is_str(who("www:extra"), "33:500 /var/www 500", "with a group");
    is_str(who("nope"), "unable to find user nope: no matching entries in passwd file",
           "one that is not there");
    t.sec.run_as_user = &t.user;
    t.user.value = 1234;
    is_str(who("www:extra"), "1234:0 / 0", "run_as_user wins over the image, group and all");
    t.user.value = 33;
    t.sec.run_as_group = &t.group;
    t.group.value = 7;
    is_str(who(""), "33:7 /var/www 7 500", "run_as_group");
    t.sec.supplemental_groups = more;
    t.sec.n_supplemental_groups = 2;
    is_str(who(""), "33:7 /var/www 7 20 500 60000", "Merge");
    t.sec.supplemental_groups_policy = RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict;
    is_str(who(""), "33:7 /var/www 7 20 60000", "Strict");
    t.sec.run_as_username = z("root");
    is_str(who(""), "0:7 /root 7 20 60000", "run_as_username wins over run_as_user");
    t.sec.run_as_username = z("ghost");
    is_str(who(""), "unable to find user ghost: no matching entries in passwd file",
           "and has to be there");
    is_int(e.grpc, GRPC_INVALID_ARGUMENT, "or it is the caller's fault");
    t.c.linux = NULL;
    is_str(who("33"), "33:44 /var/www 44 500", "without a linux part: the image's user");
}

static void test_signal(void)
{
    static const struct { int asked; const char *image; int number, shown;
    } cases[] = {
        { 0, NULL, SIGTERM, RUNTIME__V1__SIGNAL__SIGNAL_SIGTERM },
        { 0, "", SIGTERM, RUNTIME__V1__SIGNAL__SIGNAL_SIGTERM },
        { 0, "SIGINT", SIGINT, RUNTIME__V1__SIGNAL__SIGNAL_SIGINT },
        { 0, "quit", SIGQUIT, RUNTIME__V1__SIGNAL__SIGNAL_SIGQUIT },
        { 0, "3", SIGQUIT, RUNTIME__V1__SIGNAL__SIGNAL_SIGQUIT },
        { 0, "SIGRTMIN+3", 37, RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMINPLUS3 },
        { 0, "RTMAX-1", 63, RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMAXMINUS1 },
        { 0, "RTMIN", 34, RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMIN },
        { 0, "RTMIN+99", SIGTERM, RUNTIME__V1__SIGNAL__SIGNAL_SIGTERM },
        { 0, "nonsense", SIGTERM, RUNTIME__V1__SIGNAL__SIGNAL_SIGTERM },
        { RUNTIME__V1__SIGNAL__SIGNAL_SIGUSR1, "INT", SIGUSR1,
          RUNTIME__V1__SIGNAL__SIGNAL_SIGUSR1 },
        { RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMAX, "", 64, RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMAX },
        { RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMAXMINUS14, "", 50,
          RUNTIME__V1__SIGNAL__SIGNAL_SIGRTMAXMINUS14 },
        { RUNTIME__V1__SIGNAL__SIGNAL_SIGKILL, "", SIGKILL, RUNTIME__V1__SIGNAL__SIGNAL_SIGKILL },
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        Runtime__V1__Signal shown;
        int n;

        spec_stop_signal((Runtime__V1__Signal)cases[i].asked, cases[i].image, &n, &shown, NULL);
        ok(n == cases[i].number && (int)shown == cases[i].shown, "%d, '%s': signal %d, shown as %d",
           cases[i].asked, cases[i].image ? cases[i].image : "", n, shown);
    }
    ok(spec_stop_signal((Runtime__V1__Signal)-1, "", NULL, NULL, &e) < 0, "%s", e.text);
}

static void test_limits(void)
{
    Runtime__V1__ContainerConfig__AnnotationsEntry a, *ap = &a;
    Runtime__V1__HugepageLimit h = RUNTIME__V1__HUGEPAGE_LIMIT__INIT, *hp = &h;
    struct cgroup_limits l;

    reset();
    runtime__v1__container_config__annotations_entry__init(&a);
    t.c.annotations = &ap;
    t.c.n_annotations = 1;
    a.key = z("cgroup.pids.max");
    a.value = z("100");
    t.res.cpu_shares = 2;
    t.res.memory_limit_in_bytes = 1 << 20;
    h.page_size = z("2MB");
    t.res.hugepage_limits = &hp;
    t.res.n_hugepage_limits = 1;
    ok(spec_limits(&t.res, &t.c, &l, &e) == 0 && l.pids == 100 && l.cpu_shares == 2 &&
           l.memory == 1 << 20 && l.n_hugepages == 1,
       "limits");
    spec_limits_deinit(&l);
    a.value = z("lots");
    ok(spec_limits(&t.res, &t.c, &l, &e) < 0 && e.grpc == GRPC_INVALID_ARGUMENT, "%s", e.text);
    a.value = z("-1");
    ok(spec_limits(NULL, &t.c, &l, &e) == 0 && l.pids == -1, "no resources, no limit of processes");
    spec_limits_deinit(&l);

    auto_free char *parent = NULL;
    ok(spec_cgroup_parent("", "/cricket", &node, &parent, &e) == 0 &&
           strcmp(parent, "/cricket") == 0,
       "default parent");
    free(parent);
    ok(spec_cgroup_parent("a//b/", "/cricket", &node, &parent, &e) == 0 &&
           strcmp(parent, "/a/b") == 0,
       "a relative one");
}

static void test_cdi(void)
{
    Runtime__V1__CDIDevice cdi = RUNTIME__V1__CDIDEVICE__INIT, *cdip = &cdi;
    const char *dirs[] = { dir, NULL };
    char *cmd = z("x");
    struct spec_exec *x = NULL;
    struct spec *s;

    reset();
    node.cdi_dirs = dirs;
    t.c.command = &cmd;
    t.c.n_command = 1;
    t.c.cdi_devices = &cdip;
    t.c.n_cdi_devices = 1;
    cdi.name = z("acme.com/gpu=nope");
    put_file(
        dir, "acme.json",
        "{\"cdiVersion\":\"0.6.0\",\"kind\":\"acme.com/gpu\",\"devices\":["
        "{\"name\":\"0\",\"containerEdits\":{\"env\":[\"GPU=0\"],\"deviceNodes\":[{\"path\":\"/dev/"
        "gpu0\",\"hostPath\":\"/dev/null\","
        "\"permissions\":\"rw\"}],\"mounts\":[{\"hostPath\":\"/etc\",\"containerPath\":\"/"
        "gpu\",\"options\":[\"ro\",\"nosuid\",\"bind\"]}]}},"
        "{\"name\":\"hook\",\"containerEdits\":{\"hooks\":[{\"hookName\":\"createContainer\","
        "\"path\":\"/bin/true\"}]}},"
        "{\"name\":\"proc\",\"containerEdits\":{\"mounts\":[{\"hostPath\":\"/"
        "etc\",\"containerPath\":\"/proc/sys\"}]}},"
        "{\"name\":\"odd\",\"containerEdits\":{\"mounts\":[{\"hostPath\":\"/"
        "etc\",\"containerPath\":\"/gpu\",\"options\":[\"odd\"]}]}}]}");
    ok(check()[0] && e.grpc == GRPC_INVALID_ARGUMENT, "no such CDI device: %s", e.text);
    cdi.name = z("acme.com/gpu=hook");
    is_str(check(), "", "a hook");
    cdi.name = z("acme.com/gpu=proc");
    ok(check()[0], "a mount over /proc: %s", e.text);
    cdi.name = z("acme.com/gpu=odd");
    ok(check()[0], "an unknown option: %s", e.text);
    cdi.name = z("acme.com/gpu=0");
    is_str(check(), "", "a device");
    s = build();
    ok(s && s->plan.n_devices == 7 && strcmp(s->plan.devices[6].path, "/dev/gpu0") == 0 &&
           s->plan.devices[6].major == 1 && s->plan.devices[6].minor == 3 &&
           s->plan.devices[6].uid == 1000,
       "its node");
    ok(s && s->n_device_rules == 12 && strcmp(s->device_rules[11].access, "rw") == 0, "its rule");
    ok(s && strstr(joined(s->plan.process.envp), " GPU=0"), "its variable");
    is_int(s ? mount_at(s, "/gpu")->flags : 0, PLAN_RDONLY | PLAN_NOSUID, "its mount");
    spec_free(s);
    ok(spec_build_exec(&t.in, &cmd, 1, false, false, &x, &e) == 0 &&
           strstr(joined(x->process.envp), " GPU=0"),
       "an exec has the variable too");
    spec_exec_free(x);
    auto_free char *path = mem_printf("%s/acme.json", dir);
    unlink(path);
    ok(spec_build(&t.in, &s, &e) < 0, "gone at the start: %s", e.text);
}

static void test_json(void)
{
    char *cmd = z("x");
    struct spec *s;
    json_t *j;

    reset();
    t.c.command = &cmd;
    t.c.n_command = 1;
    env_of(0, "BAD", "\xff\xfe");
    s = build();
    j = spec_json(s, "/cricket/abc", "/run/netns/x");
    is_str(json_string_value(json_object_get(json_object_get(j, "linux"), "cgroupsPath")),
           "/cricket/abc", "cgroupsPath");
    is_str(json_string_value(
               json_array_get(json_object_get(json_object_get(j, "process"), "args"), 0)),
           "x", "args");
    is_int(json_array_size(json_object_get(j, "mounts")), s->plan.n_mounts, "mounts");
    char *text = json_dumps(j, JSON_COMPACT);
    ok(text && strstr(text, "\"path\":\"/run/netns/x\""), "the network namespace has its path");
    ok(text && strstr(text, "BAD=??"), "bytes that are no text are replaced");
    free(text);
    json_decref(j);
    spec_free(s);
}

int main(void)
{
    char cmd[100];

    make_temp(dir);
    spec_node_init(&node);
    diag("apparmor %d selinux %d seccomp %d rro %d", node.apparmor, node.selinux, node.seccomp,
         node.rro);
    ok(node.caps == caps_own(), "the node's capabilities");
    /* the tests say for themselves what the node has */
    node.apparmor = node.selinux = false;
    node.seccomp = true;
    (void)cgroup_init(NULL);
    test_sandbox();
    test_container();
    test_profiles();
    test_mount_checks();
    test_process();
    test_mounts();
    test_namespaces();
    test_userns();
    test_user();
    test_signal();
    test_limits();
    test_cdi();
    test_json();
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    if (system(cmd))
        diag("%s failed", cmd);
    return done_testing();
}
