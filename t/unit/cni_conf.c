/* SPDX-License-Identifier: Apache-2.0 */
/* CNI configuration files, the stdin of plugins, capabilities, results and errors: everything that
 * is text. */
#include "proc/cni_conf.h"
#include "files.h"
#include "mem.h"
#include "proc/cni_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

static char top[] = "/tmp/cricket-cni-XXXXXX";
static struct err err;

static void gone(const char *name)
{
    auto_free char *path = mem_printf("%s/%s", top, name);

    if (unlink(path) < 0 && rmdir(path) < 0)
        bail_out("cannot remove %s", path);
}

static void refused(const char *text, const char *want)
{
    struct cni_conf *c = NULL;

    ok(cni_conf_parse(text, &c, &err) < 0 && strstr(err.text, want) && !c, "refused: %s (%s)", text,
       err.text);
    cni_conf_free(c);
}

static void version_is(const char *members, const char *want)
{
    auto_free char *text = mem_printf("{\"name\": \"n\", %s \"plugins\": [{\"type\": \"bridge\"}]}",
                                      members);
    auto_cni_conf struct cni_conf *c = NULL;

    ok(cni_conf_parse(text, &c, &err) == 0, "version %s: %s", members, err.text);
    is_str(c ? c->version : "", want, "version of %s", members);
}

static void test_parse(void)
{
    auto_cni_conf struct cni_conf *c = NULL;

    err_clear(&err);
    is_int(
        cni_conf_parse(
            "{\"name\": \"a.b_c-1\", \"cniVersion\": \"1.0.0\", \"disableCheck\": \"true\", \"disableGC\": true,"
            "\"plugins\": [{\"type\": \"bridge\"}, {\"type\": \"portmap\"}]}",
            &c, &err),
        0, "a list: %s", err.text);
    ok(c && strcmp(c->name, "a.b_c-1") == 0 && c->disable_check && c->disable_gc &&
           json_array_size(c->plugins) == 2,
       "its members");
    ok(c && cni_conf_speaks(c, "0.4.0") && cni_conf_speaks(c, "1.0.0") &&
           !cni_conf_speaks(c, "1.1.0"),
       "versions compare by number");
    version_is("\"cniVersion\": \"0.3.1\",", "0.3.1");
    version_is("", "0.1.0");
    version_is("\"cniVersion\": \"0.4.0\", \"cniVersions\": [\"0.3.1\", \"1.1.0\", \"9.9.9\"],",
               "1.1.0");
    version_is("\"cniVersions\": [\"0.3.1\", \"0.4.0\"],", "0.4.0");

    refused("{", "line 1");
    refused("[]", "'name'");
    refused("{\"plugins\": [{\"type\": \"bridge\"}]}", "no 'name'");
    refused("{\"name\": \"a/b\", \"plugins\": [{\"type\": \"bridge\"}]}", "not a name");
    refused("{\"name\": \".a\", \"plugins\": [{\"type\": \"bridge\"}]}", "not a name");
    refused("{\"name\": \"a\"}", "no plugins");
    refused("{\"name\": \"a\", \"plugins\": []}", "no plugins");
    refused("{\"name\": \"a\", \"plugins\": {}}", "not a list");
    refused("{\"name\": \"a\", \"plugins\": [{}]}", "no 'type'");
    refused("{\"name\": \"a\", \"plugins\": [\"bridge\"]}", "no 'type'");
    refused("{\"name\": \"a\", \"plugins\": [{\"type\": \"../bin/sh\"}]}",
            "not the name of a plugin");
    refused("{\"name\": \"a\", \"cniVersion\": \"2.0.0\", \"plugins\": [{\"type\": \"b\"}]}",
            "not supported");
    refused("{\"name\": \"a\", \"cniVersion\": \"1.0\", \"plugins\": [{\"type\": \"b\"}]}",
            "bad CNI version");
    refused("{\"name\": \"a\", \"cniVersion\": 1, \"plugins\": [{\"type\": \"b\"}]}",
            "must be a string");
    refused("{\"name\": \"a\", \"disableCheck\": 1, \"plugins\": [{\"type\": \"b\"}]}",
            "'disableCheck'");
    refused("{\"name\": \"a\", \"loadOnlyInlinedPlugins\": true}", "loadOnlyInlinedPlugins");
}

static void loads(char *const *dirs, const char *want, int code)
{
    struct cni_conf *c = NULL;

    cni_conf_load(dirs, &c, &err);
    is_str(c ? c->name : NULL, want, "loads %s", want ? want : "nothing");
    is_int(err.code, code, "load error: %s", err.text);
    cni_conf_free(c);
}

static void test_files(void)
{
    auto_free char *one = mem_printf("%s/one", top), *two = mem_printf("%s/two", top);
    char *dirs[] = { one, two, NULL };
    struct cni_conf *c = NULL;

    loads(dirs, NULL, -ENOENT);
    ok(strstr(err.text, "no network config in ") && strstr(err.text, two),
       "names the directories: %s", err.text);
    put_dir(top, "one");
    put_dir(top, "two");
    loads(dirs, NULL, -ENOENT);
    put_file(top, "two/10-z.conflist", "{\"name\": \"z\", \"plugins\": [{\"type\": \"bridge\"}]}");
    loads(dirs, "z", 0);
    put_file(
        top, "one/20-b.conf",
        "{\"name\": \"b\", \"cniVersion\": \"0.4.0\", \"type\": \"bridge\", \"capabilities\": {\"ips\": true}}");
    loads(dirs, "b", 0);
    put_file(top, "one/15-c.json", "{\"name\": \"c\", \"type\": \"bridge\"}");
    loads(dirs, "c", 0);
    put_file(top, "one/00-ignored.conflist.bak", "{");
    put_file(top, "one/.00-hidden.conflist", "{");
    loads(dirs, "c", 0);
    put_file(top, "one/10-a.conflist", "{\"name\": \"a\", \"plugins\": [");
    loads(dirs, "c", -EINVAL);
    ok(strstr(err.text, "one/10-a.conflist', line 1"), "the bad file is named: %s", err.text);
    put_file(top, "one/10-a.conflist",
             "{\"name\": \"a\", \"cniVersion\": \"1.0.0\", \"plugins\": [{\"type\": \"bridge\"}]}");
    loads(dirs, "a", 0);
    put_file(top, "one/05-list.conf", "{\"name\": \"l\", \"plugins\": [{\"type\": \"bridge\"}]}");
    loads(dirs, "a", -EINVAL);
    ok(strstr(err.text, "is it a .conflist?"), "a list that is called .conf: %s", err.text);
    gone("one/05-list.conf");
    put_dir(top, "one/06-dir.conf");
    loads(dirs, "a", -EINVAL);
    gone("one/06-dir.conf");

    ok(cni_conf_file(one, "20-b.conf", &c, &err) == 0 && strcmp(c->version, "0.4.0") == 0 &&
           strcmp(cni_conf_type(c, 0), "bridge") == 0,
       "a lone plugin becomes a list: %s", err.text);
    c = cni_conf_free(c);

    put_dir(top, "one/a");
    put_file(top, "one/a/20-y.conf", "{\"type\": \"tuning\"}");
    put_file(top, "one/a/10-x.conf", "{\"type\": \"portmap\"}");
    put_file(top, "one/a/30-no.json", "{\"type\": \"sbr\"}");
    is_int(cni_conf_file(one, "10-a.conflist", &c, &err), 0, "a list with a folder: %s", err.text);
    if (c) {
        auto_free char *text = cni_conf_text(c);
        auto_cni_conf struct cni_conf *again = NULL;

        is_int(json_array_size(c->plugins), 3, "the folder's *.conf are appended");
        is_str(cni_conf_type(c, 1), "portmap", "in the order of their names");
        put_file(top, "one/a/40-late.conf", "{\"type\": \"sbr\"}");
        ok(cni_conf_parse(text, &again, &err) == 0 && json_array_size(again->plugins) == 3,
           "the text stands on its own: %s", text);
    }
    c = cni_conf_free(c);
    put_file(
        top, "one/10-a.conflist",
        "{\"name\": \"a\", \"loadOnlyInlinedPlugins\": true, \"plugins\": [{\"type\": \"bridge\"}]}");
    ok(cni_conf_file(one, "10-a.conflist", &c, &err) == 0 && json_array_size(c->plugins) == 1,
       "unless only inlined ones are wanted");
    c = cni_conf_free(c);
    put_file(top, "one/10-a.conflist", "{\"name\": \"a\"}");
    ok(cni_conf_file(one, "10-a.conflist", &c, &err) == 0 && json_array_size(c->plugins) == 3,
       "a folder alone is a list, too");
    c = cni_conf_free(c);
}

static void input_is(const struct cni_conf *c, size_t i, json_t *prev, json_t *caps,
                     const char *want)
{
    auto_free char *in = cni_conf_input(c, i, prev, caps, NULL);
    json_t *got = json_loads(in, 0, NULL), *exp = json_loads(want, 0, NULL);

    ok(got && exp && json_equal(got, exp), "plugin %zu gets %s", i, in);
    json_decref(got);
    json_decref(exp);
}

static void test_input(void)
{
    static const struct cni_port ports[] = { { "tcp", 8080, 80, "" },
                                             { "udp", 0, 53, "" },
                                             { "sctp", 9, 9, "10.0.0.1" } };
    static const struct plan_pair notes[] = { { "kubernetes.io/ingress-bandwidth", "10M" },
                                              { "kubernetes.io/egress-bandwidth", "1.5Gi" },
                                              { "cni.cricket/ips", "10.1.2.3/24, fd00::2/64" },
                                              { "cni.cricket/mac", "02:00:00:00:00:01" } };
    char dns[] = "10.0.0.10";
    char *const servers[] = { dns, NULL };
    struct cni_attach a = { .id = "x",
                            .ports = ports,
                            .n_ports = 3,
                            .dns_servers = servers,
                            .annotations = notes,
                            .n_annotations = 4,
                            .cgroup_path = "/kubepods/pod1" };
    auto_cni_conf struct cni_conf *c = NULL;
    json_t *caps = NULL, *prev = json_loads("{\"cniVersion\": \"1.0.0\", \"ips\": []}", 0, NULL);

    is_int(
        cni_conf_parse(
            "{\"name\": \"n\", \"cniVersion\": \"1.0.0\", \"plugins\": [{\"type\": \"bridge\", \"mtu\": 9000},"
            "{\"type\": \"portmap\", \"capabilities\": {\"portMappings\": true, \"bandwidth\": false}},"
            "{\"type\": \"all\", \"capabilities\": {\"bandwidth\": true, \"dns\": true, \"ips\": true, \"mac\": true, \"cgroupPath\": true,"
            " \"aliases\": true}},"
            "{\"type\": \"notes\", \"capabilities\": {\"io.kubernetes.cri.pod-annotations\": true}}]}",
            &c, &err),
        0, "%s", err.text);
    is_int(cni_caps(&a, &caps, &err), 0, "capabilities: %s", err.text);
    input_is(c, 0, NULL, caps,
             "{\"type\": \"bridge\", \"mtu\": 9000, \"name\": \"n\", \"cniVersion\": \"1.0.0\"}");
    input_is(
        c, 1, prev, caps,
        "{\"type\": \"portmap\", \"name\": \"n\", \"cniVersion\": \"1.0.0\", \"capabilities\": {\"portMappings\": true, \"bandwidth\": false},"
        "\"prevResult\": {\"cniVersion\": \"1.0.0\", \"ips\": []}, \"runtimeConfig\": {\"portMappings\": ["
        "{\"hostPort\": 8080, \"containerPort\": 80, \"protocol\": \"tcp\"},"
        "{\"hostPort\": 9, \"containerPort\": 9, \"protocol\": \"sctp\", \"hostIP\": \"10.0.0.1\"}]}}");
    input_is(
        c, 2, NULL, caps,
        "{\"type\": \"all\", \"name\": \"n\", \"cniVersion\": \"1.0.0\", \"capabilities\": {\"bandwidth\": true, \"dns\": true, \"ips\": true,"
        "\"mac\": true, \"cgroupPath\": true, \"aliases\": true}, \"runtimeConfig\": {\"bandwidth\": {\"ingressRate\": 10000000,"
        "\"ingressBurst\": 4294967295, \"egressRate\": 1610612736, \"egressBurst\": 4294967295},"
        "\"dns\": {\"servers\": [\"10.0.0.10\"], \"searches\": [], \"options\": []}, \"ips\": [\"10.1.2.3/24\", \"fd00::2/64\"],"
        "\"mac\": \"02:00:00:00:00:01\", \"cgroupPath\": \"/kubepods/pod1\"}}");
    json_t *all = json_object_get(caps, "io.kubernetes.cri.pod-annotations");
    is_str(json_string_value(json_object_get(all, "cni.cricket/mac")), "02:00:00:00:00:01",
           "all annotations as a map");
    json_decref(caps);
    json_decref(prev);

    static const struct plan_pair slow[] = { { "kubernetes.io/ingress-bandwidth", "10" } };
    a.annotations = slow;
    a.n_annotations = 1;
    ok(cni_caps(&a, &caps, &err) < 0 && err.grpc == GRPC_INVALID_ARGUMENT,
       "a bandwidth of 10 bits: %s", err.text);
}

static void quantity(const char *s, long long want)
{
    uint64_t v = 0;
    int r = cni_parse_quantity(s, &v);

    if (want < 0)
        is_int(r, -EINVAL, "'%s' is no quantity", s);
    else
        ok(r == 0 && v == (uint64_t)want, "'%s' is %llu", s, (unsigned long long)v);
}

static void ips_are(const char *json, const char *want)
{
    json_t *j = json_loads(json, 0, NULL);
    struct cni_ips ips = { 0 };
    auto_free char *got = mem_strdup("");
    int r = cni_result_ips(j, "eth0", &ips, &err);

    for (size_t i = 0; i < ips.n; i++) {
        char *more = mem_printf("%s%s%s", got, i ? " " : "", ips.v[i]);

        free(got);
        got = more;
    }
    if (want)
        ok(r == 0 && strcmp(got, want) == 0, "'%s' in %s", got, json);
    else
        ok(r < 0 && !ips.n, "refused: %s (%s)", json, err.text);
    cni_ips_deinit(&ips);
    json_decref(j);
}

static void error_is(int status, const char *out, const char *errout, const char *want,
                     int want_code)
{
    int code = -1;

    cni_result_error("bridge", "add", status, out, errout, &code, &err);
    is_str(err.text, want, "error text");
    is_int(code, want_code, "error code");
}

static void test_answers(void)
{
    quantity("0", 0);
    quantity("10M", 10000000);
    quantity("1.5Gi", 1610612736);
    quantity("1e6", 1000000);
    quantity("1E3", 1000);
    quantity("2E", 2000000000000000000);
    quantity("100m", 1);
    quantity(".5k", 500);
    quantity("", -1);
    quantity("M", -1);
    quantity("10MB", -1);
    quantity("-1", -1);
    quantity("1e", -1);
    quantity("1e 3", -1);
    quantity("99E", -1);
    quantity("1e400", -1);

    ips_are("{\"ip4\": {\"ip\": \"10.1.2.3/24\"}, \"ip6\": {\"ip\": \"fd00::3/64\"}}",
            "10.1.2.3 fd00::3");
    ips_are(
        "{\"cniVersion\": \"0.4.0\", \"interfaces\": [{\"name\": \"br0\"}, {\"name\": \"veth1\"}, {\"name\": \"eth0\", \"sandbox\": \"/n\"},"
        "{\"name\": \"eth1\", \"sandbox\": \"/n\"}, {\"name\": \"eth0\"}], \"ips\": [{\"version\": \"6\", \"interface\": 2, \"address\": \"fd00::9/64\"},"
        "{\"version\": \"4\", \"interface\": 2, \"address\": \"10.0.0.9/8\"}, {\"version\": \"4\", \"interface\": 0, \"address\": \"10.0.0.1/8\"},"
        "{\"version\": \"4\", \"interface\": 3, \"address\": \"10.3.0.1/8\"}, {\"version\": \"4\", \"interface\": 4, \"address\": \"10.4.0.1/8\"}]}",
        "10.0.0.9 fd00::9");
    ips_are(
        "{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"fd00::1/64\"}, {\"address\": \"10.0.0.2/24\"}, {\"address\": \"10.0.0.3/24\"}]}",
        "10.0.0.2 10.0.0.3 fd00::1");
    ips_are("{\"cniVersion\": \"1.0.0\"}", "");
    ips_are("{\"ips\": [{\"interface\": 1, \"address\": \"10.0.0.9/8\"}]}", NULL);
    ips_are("{\"ips\": [{\"interface\": -1, \"address\": \"10.0.0.9/8\"}]}", NULL);
    ips_are("{\"ips\": [{\"address\": \"10.0.0.999/8\"}]}", NULL);
    ips_are("{\"ips\": [{}]}", NULL);
    ips_are("{\"ips\": 3}", NULL);
    ips_are("[]", NULL);

    error_is(1, "{\"code\": 7, \"msg\": \"bad bridge\", \"details\": \"mtu\"}", "noise",
             "plugin type=\"bridge\" failed (add): bad bridge; mtu", 7);
    error_is(1, "{\"code\": 11, \"msg\": \"busy\"}", "",
             "plugin type=\"bridge\" failed (add): busy", 11);
    error_is(2, "", "panic: oops\n\n",
             "plugin type=\"bridge\" failed (add): exit code 2: panic: oops", 0);
    error_is(3, "not json", "",
             "plugin type=\"bridge\" failed (add): exit code 3 without a message", 0);
    error_is(137, "", "", "plugin type=\"bridge\" failed (add): killed by signal 9", 0);
}

static bool told(struct cni_watch *w)
{
    struct pollfd p = { .fd = cni_watch_fd(w), .events = POLLIN };
    bool changed = false;

    while (poll(&p, 1, 0) > 0) /* inotify queues before the call that caused it returns */
        changed |= cni_watch_changed(w);
    return changed;
}

static bool woken(struct cni_watch *w)
{
    struct pollfd p = { .fd = cni_watch_fd(w), .events = POLLIN };

    return poll(&p, 1, 0) > 0;
}

static void test_watch(void)
{
    auto_free char *dir = mem_printf("%s/w/etc/net.d", top),
                   *mv = mem_printf("mv %s/w/etc %s/w/old", top, top),
                   *ln = mem_printf("mkdir -p %s/w/a %s/w/b && ln -s a %s/w/etc && mkdir %s/w/a/net.d",
                                    top, top, top, top),
                   *relink = mem_printf("ln -s b %s/w/new && mv -T %s/w/new %s/w/etc", top, top,
                                        top);
    char *dirs[] = { dir, NULL };
    struct cni_watch *w = NULL;

    is_int(cni_watch_new(&w, &err), 0, "inotify: %s", err.text);
    is_int(cni_watch_arm(w, dirs, "n", &err), 0, "a directory that is not there: %s", err.text);
    ok(!told(w), "quiet");
    put_dir(top, "unrelated");
    ok(!told(w), "another name on the way is ignored");
    put_dir(top, "w");
    ok(told(w), "the first directory of the way appears");
    cni_watch_arm(w, dirs, "n", &err);
    put_dir(top, "w/etc");
    put_dir(top, "w/etc/net.d");
    ok(told(w), "the rest of it");
    cni_watch_arm(w, dirs, "n", &err);
    ok(!told(w), "arming again is quiet");
    put_file(top, "w/etc/net.d/a.conf", "{}");
    ok(told(w), "a file is written");
    put_dir(top, "w/etc/net.d/n");
    ok(told(w), "the folder of plugins appears");
    cni_watch_arm(w, dirs, "n", &err);
    put_file(top, "w/etc/net.d/n/x.conf", "{}");
    ok(told(w), "a file in it is written");
    put_dir(top, "w/other");
    put_file(top, "w/file", "");
    gone("w/file");
    put_file(top, "unrelated/file", "");
    ok(!woken(w), "what happens beside the way to it wakes nobody");
    gone("w/etc/net.d/a.conf");
    ok(told(w), "a file is removed");
    gone("w/etc/net.d/n/x.conf");
    gone("w/etc/net.d/n");
    ok(told(w), "so is the last");
    cni_watch_arm(w, dirs, "n", &err);
    int held = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    gone("w/etc/net.d");
    ok(held >= 0 && told(w), "the directory goes, held by somebody");
    cni_watch_arm(w, dirs, "n", &err);
    gone("w/etc");
    ok(told(w), "so does the one above");
    cni_watch_arm(w, dirs, "n", &err);
    put_dir(top, "w/etc");
    ok(told(w), "and comes");
    cni_watch_arm(w, dirs, "n", &err);
    put_dir(top, "w/etc/net.d");
    ok(told(w), "and the other in it");
    cni_watch_arm(w, dirs, "n", &err);
    put_file(top, "w/etc/net.d/a.conf", "{}");
    ok(told(w), "with a file");
    close(held);
    ok(system(mv) == 0 && told(w), "a directory of the way is moved away");
    cni_watch_arm(w, dirs, "n", &err);
    put_file(top, "w/old/net.d/b.conf", "{}");
    ok(!told(w), "what was moved away does not count");
    ok(system(ln) == 0 && told(w), "a symbolic link appears on the way");
    cni_watch_arm(w, dirs, "n", &err);
    put_file(top, "w/etc/net.d/a.conf", "{}");
    ok(told(w), "a file behind it");
    cni_watch_arm(w, dirs, "n", &err);
    ok(system(relink) == 0 && told(w), "the link is replaced");
    cni_watch_arm(w, dirs, "n", &err);
    put_dir(top, "w/b/net.d");
    ok(told(w), "the directory appears where it leads now");
    cni_watch_free(w);
}

int main(void)
{
    make_temp(top);
    test_parse();
    test_files();
    test_input();
    test_answers();
    test_watch();
    ok(remove_temp(top), "cleaned");
    return done_testing();
}
