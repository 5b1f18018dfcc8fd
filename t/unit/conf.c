/* SPDX-License-Identifier: Apache-2.0 */
/* src/conf*.c, src/ynode.c: defaults, files, drop-ins, command line, and what mistakes are told. */
#include "files.h"

#include "conf.h"
#include "mem.h"
#include "str.h"
#include "ynode.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/cricket-conf-XXXXXX";

static const char *put_text(const char *name, const char *text)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t n = strlen(text);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n)
        abort();
    return path;
}

/* Loads a file of this text; NULL and e on error. */
static struct conf *load(const char *text, struct err *e)
{
    auto_free char *file = mem_strdup(put_text("c.yaml", text));
    struct conf_args a = { .file = file };
    struct conf *c = NULL;

    err_clear(e);
    int r = conf_load(&a, &c, e);
    return r < 0 ? NULL : c;
}

static void refused(const char *text, const char *line_and_rest)
{
    struct err e = ERR_INIT;
    struct conf *c = load(text, &e);
    auto_free char *want = mem_printf("%s/c.yaml:%s", dir, line_and_rest);

    is_str(e.text, want, "refused: %.40s", text);
    is_int(e.code, -EINVAL, "... with EINVAL");
    conf_free(c);
}

static void test_defaults(void)
{
    struct conf_args a = { .file = "/dev/null" };
    struct conf *c = NULL;
    struct err e = ERR_INIT;

    is_int(conf_load(&a, &c, &e), 0, "/dev/null is a configuration");
    is_str(c->root, "/var/lib/cricket", "root");
    is_str(c->state, "/run/cricket", "state");
    is_str(c->listen, "/run/cricket/cricket.sock", "listen without unix://");
    is_int(c->socket_mode, 0660, "socket mode");
    ok(c->socket_uid == (uid_t)-1 && c->socket_gid == (gid_t)-1, "no socket owner");
    is_int(c->cgroup_driver, CONF_CGROUPFS, "driver");
    is_str(c->cgroup_parent, "/cricket", "parent");
    is_str(c->cni_bin_dirs[0], "/opt/cni/bin", "first plugin directory");
    is_str(c->cni_bin_dirs[1], "/usr/lib/cni", "second");
    is_str(c->cdi_spec_dirs[1], "/var/run/cdi", "CDI directories");
    ok(!c->cni_bin_dirs[2] && c->pinned_images && !c->pinned_images[0], "lists end with NULL");
    is_int(c->cni_timeout_ms, 120000, "time in ms");
    is_int(c->log_line_max, 16384, "size in bytes");
    is_str(c->registries_file, "", "no registries file");
    is_str(c->libexec_dir, PKGLIBEXECDIR, "libexec");
    ok(strstr(c->json, "\"stateDir\":\"/run/cricket\""), "the JSON has stateDir");
    conf_free(c);
}

static void test_values(void)
{
    struct err e = ERR_INIT;
    struct conf *c = load("root: /r\n"
                          "listen: unix:///l\n"
                          "socket: { mode: 600, owner: root, group: 12 }\n"
                          "log:\n  level: WARN\n  line_max: 4KiB\n"
                          "cgroup_driver: systemd\n"
                          "cni: { conf_dirs: [/a, \"/b\"], bin_dirs: [], timeout: 90s }\n"
                          "stream: { address: \"::1\", port: 10010, wait: 5s, idle: 2h }\n"
                          "pinned_images: ['*/pause:*']\n"
                          "default_sysctls: [net.ipv4.ip_unprivileged_port_start=0]\n"
                          "create_missing_host_paths: true\n"
                          "rlimit_nofile: 1048576\n"
                          "pull: { stall: 1m, max_layers: 5, max_transfers: 6 }\n"
                          "shutdown: 0\n"
                          "seccomp_profile: /etc/p.json\n"
                          "apparmor_profile: my-own\n"
                          "selinux: false\n"
                          "runtimes:\n  runc: { path: /usr/sbin/runc }\n  fast:\n", &e);

    if (!ok(c, "every kind of value: %s", e.text))
        return;
    is_str(c->root, "/r", "path");
    is_str(c->listen, "/l", "socket");
    is_int(c->socket_mode, 0600, "mode");
    is_int(c->socket_uid, 0, "owner by name");
    is_int(c->socket_gid, 12, "group by number");
    is_int(c->log_level, LOG_LEVEL_WARN, "level");
    is_int(c->log_line_max, 4096, "size");
    is_str(c->cgroup_parent, "cricket.slice", "the systemd driver has a slice as default parent");
    ok(strcmp(c->cni_conf_dirs[0], "/a") == 0 && strcmp(c->cni_conf_dirs[1], "/b") == 0 &&
       !c->cni_conf_dirs[2], "list");
    ok(!c->cni_bin_dirs[0], "empty list");
    is_int(c->cni_timeout_ms, 90000, "time");
    is_str(c->stream_address, "::1", "address");
    is_int(c->stream_port, 10010, "port");
    is_int(c->stream_wait_ms, 5000, "how long a URL waits");
    is_int(c->stream_idle_ms, 7200000, "how long a connection may be idle");
    is_str(c->pinned_images[0], "*/pause:*", "pattern");
    is_str(c->default_sysctls[0], "net.ipv4.ip_unprivileged_port_start=0", "sysctl");
    ok(c->create_missing_host_paths, "bool");
    is_int(c->rlimit_nofile, 1048576, "number");
    is_int(c->pull_stall_ms, 60000, "stall");
    ok(c->pull_max_layers == 5 && c->pull_max_transfers == 6, "limits");
    is_int(c->shutdown_ms, 0, "0 is a time");
    is_str(c->seccomp_profile, "/etc/p.json", "profile");
    is_str(c->apparmor_profile, "my-own", "another profile");
    ok(!c->selinux, "no labels");
    is_str(c->runtimes->name, "runc", "runtime");
    is_str(c->runtimes->path, "/usr/sbin/runc", "its path");
    ok(!c->runtimes->next->path, "a runtime without path is the native one");
    conf_free(c);
}

static void test_mistakes(void)
{
    refused("foo: 1\n", "1: foo: unknown key");
    refused("\ncni:\n  foo: 1\n", "3: cni.foo: unknown key");
    refused("cni: 1\n", "1: cni: must be a map, not a single value");
    refused("cni:\n  timeout: [3]\n", "2: cni.timeout: must be a single value, not a list");
    refused("cni:\n  conf_dirs: /a\n", "2: cni.conf_dirs: must be a list, not a single value");
    refused("cni:\n  conf_dirs: [/a, b]\n", "2: cni.conf_dirs: 'b' is not an absolute path");
    refused("cni:\n  conf_dirs:\n  - /a\n  - {}\n",
            "4: cni.conf_dirs: must be a single value, not a map");
    refused("cni.timeout: 3s\n",
            "1: cni.timeout: unknown key; 'a.b: x' is written as a map, 'a: { b: x }'");
    refused("cni: { timeout: 3 }\n", "1: cni.timeout: '3' is not a time (250ms, 30s, 5m, 1h)");
    refused("log: { line_max: 16 }\n",
            "1: log.line_max: '16' is not between 256 and 1048576 bytes");
    refused("log: { line_max: 16XB }\n",
            "1: log.line_max: '16XB' is not a size (4096, 16KiB, 1MB)");
    refused("log: { level: loud }\n", "1: log.level: 'loud' is none of error, warn, info, debug");
    refused("socket: { mode: 0999 }\n", "1: socket.mode: '0999' is not an octal mode (0660)");
    refused("socket: { mode: 4755 }\n", "1: socket.mode: '4755' is not between 0 and 0777");
    refused("socket: { owner: no-such-user }\n",
            "1: socket.owner: there is no user 'no-such-user'");
    refused("socket: { group: 4294967295 }\n", "1: socket.group: '4294967295' is not a valid id");
    refused("root: rel\n", "1: root: 'rel' is not an absolute path");
    refused("root: /a/../b\n", "1: root: '/a/../b' has '..' in it");
    refused("root:\n", "1: root: must be a single value, not empty");
    refused("root: ''\n", "1: root: '' is not an absolute path");
    refused("listen: /run/x\n", "1: listen: '/run/x' does not begin with unix://");
    refused("listen: unix://x\n", "1: listen: 'x' is not an absolute path");
    refused("stream: { port: 65536 }\n", "1: stream.port: '65536' is not between 0 and 65535");
    refused("stream: { port: 0x10 }\n", "1: stream.port: '0x10' is not a whole number");
    refused("stream: { address: localhost }\n",
            "1: stream.address: 'localhost' is not an IP address");
    refused("rlimit_nofile: -1\n", "1: rlimit_nofile: '-1' is not a whole number");
    refused("create_missing_host_paths: 1\n",
            "1: create_missing_host_paths: '1' is neither true nor false");
    refused("cgroup_driver: cgroups\n",
            "1: cgroup_driver: 'cgroups' is neither cgroupfs nor systemd");
    refused("cgroup_parent: /\n", "1: cgroup_parent: must name a cgroup below the root");
    refused("default_sysctls: [kernel.shmmax=1]\n",
            "1: default_sysctls: 'kernel.shmmax=1' is not of the form net.NAME=VALUE");
    refused("runtimes: { X: {} }\n", "1: runtimes.X: 'X' is not a handler name "
            "(lower case letters, digits, '-', '.')");
    refused("runtimes: { x: { path: runc } }\n",
            "1: runtimes.x.path: 'runc' is not an absolute path");
    refused("root: /a\nstate: /b\nroot: /c\n", "3: key 'root' is already on line 1");
    refused("[]\n", "1: must be a map of keys, not a list");
    refused("a: b: c\n", "1: not valid YAML: mapping values are not allowed in this context");

    struct err e = ERR_INIT;
    ok(!load("cgroup_driver: systemd\ncgroup_parent: /x\n", &e),
       "a path as parent of the systemd driver");
    is_str(e.text, "cgroup_parent '/x' does not fit cgroup_driver systemd: NAME.slice is needed",
           "is told");
    ok(!load("cgroup_parent: x.slice\n", &e), "a slice as parent of the other driver");
}

/* Files that nobody wrote by hand: each ends soon, with an error. */
static void test_hostile(void)
{
    struct err e = ERR_INIT;
    auto_str struct str s = STR_INIT;

    refused("root: /a\n# \x01\n", "2: not a text file: control characters are not allowed");
    refused("a: &a [1]\nb: *a\n", "2: alias '*a': aliases are not supported");
    refused("!!map {}\n", "1: tag 'tag:yaml.org,2002:map': tags are not supported");
    refused("root: !foo /x\n", "1: tag '!foo': tags are not supported");
    refused("root: \"/a\\0b\"\n", "1: a NUL byte in a value");
    refused("? [a]\n: 1\n", "1: a key must be a single value");
    refused("root: /a\n---\nroot: /b\n", "2: a second document");
    for (int i = 0; i < 100000; i++)
        str_putc(&s, '[');
    refused(s.p, "1: nested deeper than 16 levels");
    str_reset(&s);
    for (int i = 0; i < 100000; i++)
        str_puts(&s, "- ");
    refused(s.p, "1: nested deeper than 16 levels");
    str_reset(&s);
    str_puts(&s, "pinned_images:\n");
    for (int i = 0; i < 20000; i++)
        str_puts(&s, "- a\n");
    refused(s.p, "10000: more than 10000 values");
    str_reset(&s);
    for (int i = 0; i < 2 * 1024 * 1024; i++)
        str_putc(&s, '#');
    ok(!load(s.p, &e) && strstr(e.text, "larger than 1024 KiB"), "2 MiB: %s", e.text);

    struct conf_args a = { .file = "/dev/zero" };
    struct conf *c = NULL;
    ok(conf_load(&a, &c, &e) < 0 && !c, "/dev/zero: %s", e.text);
    a.file = "/dev/urandom";
    ok(conf_load(&a, &c, &e) < 0 && !c, "/dev/urandom: %s", e.text);
    a.file = "/";
    ok(conf_load(&a, &c, &e) == -EISDIR && !c, "/: %s", e.text);
    a.file = "/nonexistent/config.yaml";
    ok(conf_load(&a, &c, &e) == -ENOENT && !c, "a file that was asked for must be there: %s",
       e.text);
}

static void test_registries(void)
{
    static const char k3s[] =
        "mirrors:\n"
        "  docker.io:\n"
        "    endpoint:\n"
        "      - \"http://127.0.0.1:5000\"\n"
        "      - mirror.example\n"
        "    rewrite: { \"^rancher/(.*)\": \"p/$1\", a: b }\n"
        "  quay.io: { endpoint: [\"https://from-file\"] }\n"
        "configs:\n"
        "  \"127.0.0.1:5000\":\n"
        "    auth: { username: u, password: hunter2 }\n"
        "    tls: { ca_file: /ca, cert_file: /c, key_file: /k, insecure_skip_verify: true }\n"
        "  other:\n"
        "    auth: { identity_token: hunter3, auth: aHVudGVyNA== }\n";
    struct err e = ERR_INIT;
    auto_free char *file = mem_strdup(put_text("registries.yaml", k3s));
    auto_free char *text = mem_printf("registries_file: %s\n"
                                      "registries:\n mirrors:\n  quay.io: { endpoint: [\"https://here\"] }\n",
                                      file);
    struct conf *c = load(text, &e);

    if (!ok(c, "k3s's file is taken as it is: %s", e.text))
        return;
    is_str(c->mirrors->host, "docker.io", "mirror");
    is_str(c->mirrors->endpoints[0], "http://127.0.0.1:5000", "plain HTTP");
    is_str(c->mirrors->endpoints[1], "https://mirror.example", "without a scheme it is https");
    is_str(c->mirrors->rewrite[0], "^rancher/(.*)", "a rule's pattern");
    is_str(c->mirrors->rewrite[1], "p/$1", "its replacement");
    ok(strcmp(c->mirrors->rewrite[2], "a") == 0 && !c->mirrors->rewrite[4], "rules stay in order");
    is_str(c->mirrors->next->endpoints[0], "https://here", "config.yaml wins over the file");
    is_str(c->registries->host, "127.0.0.1:5000", "config");
    is_str(c->registries->password, "hunter2", "password");
    is_str(c->registries->ca_file, "/ca", "ca");
    ok(c->registries->insecure_skip_verify, "insecure");
    is_str(c->registries->next->identity_token, "hunter3", "token");
    ok(!strstr(c->json, "hunter") && !strstr(c->json, "aHVud"), "no secret in the JSON");
    ok(strstr(c->json, "127.0.0.1:5000"), "but the host");
    conf_free(c);

    refused("registries: { mirrors: { a: {} } }\n",
            "1: registries.mirrors.a: has no 'endpoint' list");
    refused("registries: { mirrors: { a: { endpoint: ['ftp://x'] } } }\n",
            "1: registries.mirrors.a.endpoint: 'ftp://x' is neither http:// nor https://");
    refused("registries: { mirrors: { a: { endpoint: ['https://u:p@x'] } } }\n",
            "1: registries.mirrors.a.endpoint: a user in an endpoint; "
            "credentials belong into configs.HOST.auth");
    refused("registries: { mirrors: { a: { rewrite: { '(x': y } } } }\n",
            "1: registries.mirrors.a.rewrite.(x: '(x': Unmatched ( or \\(");
    refused("registries: { mirrors: { a: { rewrite: { x: [y] } } } }\n",
            "1: registries.mirrors.a.rewrite.x: must be a single value, not a list");
    refused("registries: { configs: { a: { auth: { password: hunter2 } } } }\n",
            "1: registries.configs.a: auth has only one of username and password");
    refused("registries: { configs: { a: { auth: { password: [hunter2] } } } }\n",
            "1: registries.configs.a.auth.password: must be a single value, not a list");
    refused("registries: { configs: { a: { tls: { ca_file: ca.pem } } } }\n",
            "1: registries.configs.a.tls.ca_file: 'ca.pem' is not an absolute path");
    refused("registries: { configs: { 'https://a': {} } }\n",
            "1: registries.configs.https://a: 'https://a' is not a host or host:port");
    refused("registries: { config: {} }\n", "1: registries.config: unknown key");
    ok(!load("registries_file: /nonexistent/r.yaml\n", &e), "a registries file must be there: %s",
       e.text);
}

static void test_drop_ins(void)
{
    auto_free char *sub = mem_printf("%s/config.d", dir);
    struct err e = ERR_INIT;

    mkdir(sub, 0700);
    put_text("config.d/20-b.yaml", "root: /late\npinned_images: [c]\nruntimes: { b: }\n");
    put_text("config.d/10-a.yaml", "root: /early\nstate: /s\n");
    put_text("config.d/.hidden.yaml", "[");
    put_text("config.d/note.txt", "[");
    struct conf *c = load("root: /main\nstate: /main\npinned_images: [a, b]\nruntimes: { a: }\n",
                          &e);
    if (!ok(c, "drop-ins beside the file: %s", e.text))
        return;
    is_str(c->root, "/late", "in the order of names, the last wins");
    is_str(c->state, "/s", "a drop-in wins over the file");
    ok(strcmp(c->pinned_images[0], "c") == 0 && !c->pinned_images[1], "a list is replaced");
    ok(c->runtimes && c->runtimes->next, "runtimes are merged");
    conf_free(c);

    auto_free char *file = mem_strdup(put_text("c.yaml", ""));
    struct conf_args a = { .file = file, .dir = "/nonexistent" };
    ok(conf_load(&a, &c, &e) == -ENOENT, "a directory that was asked for must be there: %s",
       e.text);
    a = (struct conf_args){ .file = file, .root = "/arg", .listen = "unix:///arg.sock",
                           .log_level = "debug" };
    is_int(conf_load(&a, &c, &e), 0, "with arguments");
    is_str(c->root, "/arg", "an argument wins");
    is_str(c->listen, "/arg.sock", "listen");
    is_int(c->log_level, LOG_LEVEL_DEBUG, "level");
    conf_free(c);
    a = (struct conf_args){ .file = file, .listen = "tcp://1.2.3.4:5" };
    conf_load(&a, &c, &e);
    is_str(e.text, "option --listen: 'tcp://1.2.3.4:5' does not begin with unix://",
           "a bad argument");

    put_text("config.d/20-b.yaml", "rot: /x\n");
    ok(!load("", &e), "a mistake in a drop-in");
    ok(strstr(e.text, "20-b.yaml:1: rot: unknown key"), "is told with its file: %s", e.text);
}

static void test_ynode(void)
{
    struct ynode *n = NULL;
    struct err e = ERR_INIT;
    const char *json = "{\"a\": [1, \"null\", null], \"b\": {\"c\": \"d\"}}";

    is_int(ynode_parse("j", json, strlen(json), &n, &e), 0, "JSON is YAML");
    const struct ynode *a = ynode_get(n, "a");
    is_int(ynode_count(a), 3, "a list of three");
    ok(a->first->next->kind == YNODE_SCALAR && a->first->next->quoted, "\"null\" is a text");
    ok(a->first->next->next->kind == YNODE_NULL, "null is not");
    is_str(ynode_get(ynode_get(n, "b"), "c")->text, "d", "nested");
    ok(!ynode_get(n, "x"), "absent");
    ynode_free(n);
    for (size_t i = 0; i < strlen(json); i++) {
        n = NULL;
        if (ynode_parse("j", json, i, &n, &e) == 0)
            ynode_free(n);
    }
    ok(1, "cut anywhere: no crash");
}

int main(void)
{
    make_temp(dir);
    test_defaults();
    test_values();
    test_mistakes();
    test_hostile();
    test_registries();
    test_drop_ins();
    test_ynode();
    if (!remove_temp(dir))
        diag("%s is left", dir);
    return done_testing();
}
