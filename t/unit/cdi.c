/* SPDX-License-Identifier: Apache-2.0 */
/* src/proc/cdi*.c: devices from JSON and YAML specs, all edits, priorities, and what bad specs are
 * told. */
#include "files.h"

#include "mem.h"
#include "proc/cdi.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static char base[] = "/tmp/cricket-cdi-XXXXXX";
static char *low, *high;
static const char *dirs[4];

static void clear(void)
{
    auto_free char *cmd = mem_printf("rm -rf %s/*; mkdir -p %s %s", base, low, high);

    if (system(cmd) != 0)
        abort();
}

static struct cdi_edits *resolve(const char *a, const char *b, struct err *err)
{
    const char *names[] = { a, b };
    struct cdi_edits *e = NULL;

    err_clear(err);
    return cdi_resolve(dirs, names, b ? 2 : 1, &e, err) < 0 ? NULL : e;
}

static const char gpu[] =
    "{\n"
    "  \"cdiVersion\": \"0.6.0\", \"kind\": \"vendor.com/gpu\",\n"
    "  \"annotations\": {\"a\": \"b\"},\n"
    "  \"containerEdits\": {\n"
    "\t\"env\": [\"DRIVER=1\"],\n"
    "    \"mounts\": [{\"hostPath\": \"/lib/x\", \"containerPath\": \"/usr/lib/x\", \"options\": [\"ro\", \"nosuid\"]}],\n"
    "    \"hooks\": [{\"hookName\": \"createContainer\", \"path\": \"/bin/hook\", \"args\": [\"hook\", \"x\"],\n"
    "                \"env\": [\"A=b\"], \"timeout\": 5}],\n"
    "    \"additionalGids\": [44, 0, 109]\n"
    "  },\n"
    "  \"devices\": [\n"
    "    {\"name\": \"0\", \"containerEdits\": {\"deviceNodes\": [\n"
    "      {\"path\": \"/dev/gpu0\", \"hostPath\": \"/dev/null\", \"permissions\": \"rw\", \"uid\": 7, \"gid\": 8},\n"
    "      {\"path\": \"/dev/gpuctl\", \"type\": \"c\", \"major\": 195, \"minor\": 255, \"fileMode\": 432}]}},\n"
    "    {\"name\": \"1\", \"containerEdits\": {\"env\": [\"ONE=1\"]}}\n"
    "  ]\n"
    "}\n";

static void test_resolve(void)
{
    struct err err;
    struct stat st;

    clear();
    put_file(low, "gpu.json", gpu);
    put_file(low, "ignored.txt", "[");
    put_file(low, "nic.yaml",
             "cdiVersion: \"1.0.0\"\nkind: vendor.com/nic\ndevices:\n"
             "- name: eth.0\n  containerEdits:\n    deviceNodes:\n"
             "    - {path: /dev/zero, fileMode: 0640}\n"
             "    - {path: /dev/pipe, type: p}\n"
             "    mounts:\n    - {hostPath: tmpfs, containerPath: /t, type: tmpfs}\n"
             "    netDevices:\n    - {hostInterfaceName: eth7, name: net1}\n"
             "    - {hostInterfaceName: eth8}\n"
             "    intelRdt: {closID: gold, enableCMT: true, memBwSchema: \"MB:0=10\"}\n"
             "- name: rdt\n  containerEdits:\n"
             "    intelRdt:\n      closID: \"\"\n      l3CacheSchema: \"L3:0=f\"\n"
             "      schemata: [\"L2:0=1\", \"L3:0=3\"]\n      enableMonitoring: true\n"
             "      enableMBM: false\n");
    struct cdi_edits *e = resolve("vendor.com/gpu=0", "vendor.com/gpu=1", &err);
    if (!ok(e, "two devices of a JSON spec: %s", err.text))
        return;
    is_int(e->n_env, 2, "two variables");
    is_str(e->env[0], "DRIVER=1", "that of the spec, once");
    is_str(e->env[1], "ONE=1", "that of a device");
    ok(!e->env[2], "the list ends");
    is_int(e->n_mounts, 1, "a mount");
    is_str(e->mounts[0].host_path, "/lib/x", "from");
    is_str(e->mounts[0].container_path, "/usr/lib/x", "to");
    is_str(e->mounts[0].options[1], "nosuid", "options");
    is_str(e->mounts[0].type, "", "a bind mount");
    is_int(e->n_hooks, 1, "a hook");
    is_str(e->hooks[0].name, "createContainer", "its name");
    is_str(e->hooks[0].path, "/bin/hook", "its path");
    is_str(e->hooks[0].args[1], "x", "its arguments");
    is_str(e->hooks[0].env[0], "A=b", "its environment");
    is_int(e->hooks[0].timeout_ms, 5000, "its timeout");
    ok(e->n_gids == 2 && e->gids[0] == 44 && e->gids[1] == 109, "groups without 0");
    is_int(e->n_devices, 2, "two nodes");
    stat("/dev/null", &st);
    is_str(e->devices[0].path, "/dev/gpu0", "path");
    is_str(e->devices[0].host_path, "/dev/null", "host path");
    ok(e->devices[0].type == S_IFCHR && e->devices[0].major == 1 && e->devices[0].minor == 3,
       "as on the host");
    is_int(e->devices[0].mode, st.st_mode & 07777, "mode of the host");
    is_str(e->devices[0].permissions, "rw", "permissions");
    ok(e->devices[0].uid == 7 && e->devices[0].gid == 8, "owner");
    is_int(e->devices[1].mode, 0660, "a mode in decimal");
    ok(e->devices[1].major == 195 && e->devices[1].minor == 255,
       "numbers of a node that the host lacks");
    is_str(e->devices[1].permissions, "rwm", "all permissions");
    is_int(e->devices[1].uid, -1, "no owner");
    cdi_edits_free(e);

    e = resolve("vendor.com/nic=eth.0", NULL, &err);
    if (ok(e, "a YAML spec: %s", err.text)) {
        is_int(e->devices[0].mode, 0640, "a mode in octal");
        is_int(e->devices[0].minor, 5, "number of the host");
        is_int(e->devices[1].type, S_IFIFO, "a pipe");
        is_str(e->mounts[0].type, "tmpfs", "a file system of its own");
        ok(!e->mounts[0].options[0], "without options");
        is_int(e->n_netdevs, 2, "two network interfaces");
        is_str(e->netdevs[0].host, "eth7", "one of the host");
        is_str(e->netdevs[0].name, "net1", "with a name in the container");
        is_str(e->netdevs[1].name, "eth8", "another keeps its name");
        is_str(e->rdt ? e->rdt->clos : NULL, "gold", "a group of resctrl");
        is_str(e->rdt->mb, "MB:0=10", "its bandwidth");
        ok(e->rdt->cmt && !e->rdt->mbm && !e->rdt->monitoring && !e->rdt->l3 && !e->rdt->schemata,
           "and what else it says");
    }
    cdi_edits_free(e);
    e = resolve("vendor.com/nic=eth.0", "vendor.com/nic=rdt", &err);
    if (ok(e && e->rdt, "two devices with intelRdt: %s", err.text)) {
        ok(!e->rdt->clos && !e->rdt->mb && !e->rdt->cmt, "the last one has replaced the first");
        is_str(e->rdt->l3, "L3:0=f", "its cache");
        is_str(e->rdt->schemata[1], "L3:0=3", "its schemata");
        ok(e->rdt->monitoring && !e->rdt->mbm, "monitoring");
    }
    cdi_edits_free(e);
    e = NULL;
    is_int(cdi_resolve(dirs, NULL, 0, &e, &err), 0, "no devices");
    ok(e && !e->env[0], "no edits");
    cdi_edits_free(e);
}

#define ONE(edits) "cdiVersion: 0.5.0\nkind: v.io/c\ndevices:\n- name: d\n  containerEdits: " edits "\n"

static void test_priority(void)
{
    struct err err;

    clear();
    put_file(low, "a.yaml", ONE("{env: [FROM=low]}"));
    put_file(high, "z.yaml", ONE("{env: [FROM=high]}"));
    struct cdi_edits *e = resolve("v.io/c=d", NULL, &err);
    is_str(e ? e->env[0] : err.text, "FROM=high", "the later directory wins");
    cdi_edits_free(e);
    put_file(high, "b.yaml", ONE("{env: [FROM=b]}"));
    auto_free char *want = mem_printf("CDI device 'v.io/c=d' is in both '%s/b.yaml' and '%s/z.yaml'", high, high);
    ok(!resolve("v.io/c=d", NULL, &err), "twice in one directory");
    is_str(err.text, want, "is told");
    put_file(high, "b.yaml", "nonsense: [");
    e = resolve("v.io/c=d", NULL, &err);
    ok(e, "a broken file does not hide a good one: %s", err.text);
    cdi_edits_free(e);
    ok(!resolve("v.io/c=other", NULL, &err) && err.code == -ENOENT, "not found");
    ok(strstr(err.text,
              "CDI device 'v.io/c=other' is not found; 1 spec file cannot be used: CDI spec") &&
       strstr(err.text, "b.yaml:"), "and the broken file is named: %s", err.text);
    const char *none[] = { "/nonexistent", NULL }, *name = "v.io/c=d";
    ok(cdi_resolve(none, &name, 1, &e, &err) == -ENOENT, "no directory: %s", err.text);
}

static void test_names(void)
{
    static const char *const good[] = { "v/c=d", "vendor.com/net-card=eth0:1.2_x", "V-1/c_c=0" };
    static const char *const bad[] = { "", "v", "v/c", "v=d", "/c=d", "v/=d", "v/c=", "1v/c=d",
                                      "v/1c=d", "v/c=-d",
                                       "v/c=d-", "v./c=d", "v/c.c=d", "v/c=d/e", "v/c=d e", "v/c=d=e", "v/c=\xc3\xa4" };
    struct err err;

    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        ok(cdi_name_ok(good[i]), "name '%s'", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ok(!cdi_name_ok(bad[i]), "no name: '%s'", bad[i]);
    ok(!resolve("gpu", NULL, &err) && err.code == -EINVAL, "%s", err.text);
}

/* The spec cannot be used, for this reason. */
static void broken(const char *text, const char *why)
{
    struct err err;

    clear();
    put_file(low, "x.yaml", text);
    ok(!resolve("v.io/c=d", NULL, &err), "refused");
    ok(strstr(err.text, why) && strstr(err.text, "x.yaml"), "... with '%s'", why);
    if (!strstr(err.text, why))
        diag("got %s", err.text);
}

static void test_broken(void)
{
    auto_str struct str s = STR_INIT;

    broken("[]", "line 1: must be a map, not a list");
    broken("kind: v.io/c", "needs cdiVersion and kind");
    broken("cdiVersion: 9.0.0\nkind: v.io/c\n", "line 1: cdiVersion '9.0.0' is not known");
    broken("cdiVersion: 0.5.0\nkind: v.io\n", "line 2: kind 'v.io' is not vendor/class");
    broken("cdiVersion: 0.5.0\nkind: v.io/c\nfoo: 1\n", "line 3: unknown key 'foo'");
    broken("cdiVersion: 0.5.0\nkind: v.io/c\ndevices: {}\n", "devices must be a list");
    broken("cdiVersion: 0.5.0\nkind: v.io/c\ndevices: [x]\n",
           "a device needs name and containerEdits");
    broken("cdiVersion: 0.5.0\nkind: v.io/c\ndevices: [{name: [], containerEdits: {}}]\n",
           "must be a text");
    broken("cdiVersion: 0.5.0\nkind: v.io/c\ndevices: [{name: -x, containerEdits: {}}]\n",
           "device name '-x'");
    broken(ONE("{}") "- name: d\n  containerEdits: {}\n", "device 'd' is there twice");
    broken(ONE("[]"), "containerEdits must be a map, not a list");
    broken(ONE("{foo: 1}"), "unknown key 'foo' of containerEdits");
    broken(ONE("{env: x}"), "env must be a list");
    broken(ONE("{env: [x]}"), "env: 'x' is not NAME=value");
    broken(ONE("{env: [[]]}"), "must be a text, not a list");
    broken(ONE("{deviceNodes: [{}]}"), "a device node without path");
    broken(ONE("{deviceNodes: [{path: dev/x}]}"), "path 'dev/x' is not an absolute path");
    broken(ONE("{deviceNodes: [{path: /d, type: x}]}"), "device type 'x' is none of b, c, u, p");
    broken(ONE("{deviceNodes: [{path: /d, major: -1}]}"),
           "major must be a number from 0 to 4294967295");
    broken(ONE("{deviceNodes: [{path: /d, major: \"1\"}]}"), "major must be a number");
    broken(ONE("{deviceNodes: [{path: /d, uid: 4294967295}]}"), "uid must be a number");
    broken(ONE("{deviceNodes: [{path: /d, permissions: rwx}]}"), "device permissions 'rwx'");
    broken(ONE("{deviceNodes: [{path: /d, foo: 1}]}"), "unknown key 'foo' of a device node");
    broken(ONE("{deviceNodes: [{path: /nonexistent/device}]}"), "No such file or directory");
    broken(ONE("{deviceNodes: [{path: /etc/passwd}]}"), "'/etc/passwd' is not a device");
    broken(ONE("{deviceNodes: [{path: /dev/null, type: b}]}"), "is a device of another type");
    broken(ONE("{mounts: [{hostPath: /a}]}"), "a mount needs hostPath and containerPath");
    broken(ONE("{mounts: [{hostPath: a, containerPath: /a}]}"),
           "hostPath 'a' is not an absolute path");
    broken(ONE("{mounts: [{hostPath: /a, containerPath: a}]}"),
           "containerPath 'a' is not an absolute path");
    broken(ONE("{mounts: [{hostPath: /a, containerPath: /a, x: y}]}"),
           "unknown key 'x' of a mount");
    broken(ONE("{hooks: [{hookName: x, path: /h}]}"), "hook 'x' is none of the OCI runtime's");
    broken(ONE("{hooks: [{hookName: poststop}]}"), "a hook without path");
    broken(ONE("{hooks: [{hookName: poststop, path: h}]}"), "path 'h' is not an absolute path");
    broken(ONE("{hooks: [{hookName: poststop, path: /h, timeout: x}]}"),
           "timeout must be a number");
    broken(ONE("{additionalGids: [-1]}"), "must be a number");
    broken(ONE("{additionalGids: 1}"), "additionalGids must be a list");
    broken(ONE("{intelRdt: x}"), "intelRdt must be a map");
    broken(ONE("{intelRdt: {closID: a/b}}"), "closID 'a/b' is no name of a resctrl group");
    broken(ONE("{intelRdt: {closID: ..}}"), "closID '..' is no name");
    broken(ONE("{intelRdt: {closID: info}}"), "closID 'info' is no name");
    broken(ONE("{intelRdt: {closID: mon_groups}}"), "closID 'mon_groups' is no name");
    broken(ONE("{intelRdt: {closID: \"a\\nb\"}}"), "is no name of a resctrl group");
    broken(ONE("{intelRdt: {memBwSchema: \"L3:0=f\"}}"), "memBwSchema 'L3:0=f' is not one line MB:");
    broken(ONE("{intelRdt: {memBwSchema: \"MB:0=1\\nL3:0=1\"}}"), "is not one line MB:");
    broken(ONE("{intelRdt: {schemata: \"L3:0=f\"}}"), "schemata must be a list");
    broken(ONE("{intelRdt: {schemata: [\"L3:0=f\\nMB:0=1\"]}}"), "is not one line");
    broken(ONE("{intelRdt: {schemata: [\"\"]}}"), "is not one line");
    broken(ONE("{intelRdt: {enableMonitoring: 1}}"), "enableMonitoring must be true or false");
    broken(ONE("{intelRdt: {enableMBM: \"true\"}}"), "enableMBM must be true or false");
    broken(ONE("{intelRdt: {enableX: true}}"), "unknown key 'enableX' of intelRdt");
    broken(ONE("{hooks: [{hookName: poststop, path: /h, timeout: 0}]}"), "timeout of a hook must be");
    broken(ONE("{hooks: [{hookName: poststop, path: /h, env: [x]}]}"), "'x' is not NAME=value");
    broken(ONE("{netDevices: {}}"), "netDevices must be a list");
    broken(ONE("{netDevices: [{name: a}]}"), "a network device without hostInterfaceName");
    broken(ONE("{netDevices: [{hostInterfaceName: a/b}]}"), "'a/b' is no name of a network");
    broken(ONE("{netDevices: [{hostInterfaceName: a, name: abcdefghijklmnop}]}"), "is no name of a");
    broken(ONE("{netDevices: [{hostInterfaceName: a, mtu: 1}]}"), "unknown key 'mtu' of a network");
    broken(ONE("{netDevices: [{hostInterfaceName: a, name: x}, {hostInterfaceName: b, name: x}]}"),
           "network device 'b' as 'x': there is 'a' as 'x' already");
    broken(ONE("{netDevices: [{hostInterfaceName: a, name: x}, {hostInterfaceName: a, name: y}]}"),
           "network device 'a' as 'y': there is 'a' as 'x' already");
    for (int i = 0; i < 1000; i++)
        str_puts(&s, "[");
    broken(s.p, "nested deeper");
    broken("a: &x [1]\nb: [*x, *x]\n", "aliases are not supported");
}

static void test_cut(void)
{
    struct err err;
    int n = 0;

    clear();
    for (size_t i = 0; i < sizeof gpu - 1; i += 3) {
        auto_free char *part = mem_dup(gpu, i);

        put_file(low, "gpu.json", part);
        struct cdi_edits *e = resolve("vendor.com/gpu=0", NULL, &err);
        n += e != NULL;
        cdi_edits_free(e);
    }
    is_int(n, 0, "a spec that is cut anywhere provides nothing");
}

int main(void)
{
    make_temp(base);
    low = mem_printf("%s/etc", base);
    high = mem_printf("%s/run", base);
    dirs[0] = low;
    dirs[1] = high;
    test_resolve();
    test_priority();
    test_names();
    test_broken();
    test_cut();
    if (!remove_temp(base))
        diag("%s is left", base);
    free(low);
    free(high);
    return done_testing();
}
