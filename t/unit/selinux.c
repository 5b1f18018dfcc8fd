/* SPDX-License-Identifier: Apache-2.0 */
/* handlers/selinux.c: contexts as text. */
#include "handlers/selinux.h"

#include "handlers/spec.h"
#include "mem.h"
#include "reactor/pool.h"
#include "tap.h"

#include <string.h>

static struct spec_node node = { .selinux = true,
                                 .selinux_process = "system_u:system_r:container_t:s0",
                                 .selinux_file = "system_u:object_r:container_file_t:s0" };

static void parse(const char *text, const char *process, const char *file, const char *what)
{
    auto_free char *copy = mem_strdup(text), *p = NULL, *f = NULL;

    selinux_parse(copy, &p, &f);
    is_str(p ? p : "-", process, "%s: processes", what);
    is_str(f ? f : "-", file, "%s: files", what);
}

static void test_parse(void)
{
    parse("# x\nprocess = \"a:b:c:s0\"\ncontent = \"x:y:z\"\nro_file=\"r:r:r\"\n  file=d:e:f:s0  \n",
          "a:b:c:s0", "d:e:f:s0", "a file");
    parse("process = \"a:b:c:s0\"\n", "-", "-", "half of one");
    parse("process = \"a:b\"\nfile = \"d:e:f\"\n", "-", "-", "no context");
    parse("processes = \"a:b:c\"\nfile = \"d:e:f\"\n", "-", "-", "another key");
    parse("", "-", "-", "nothing");
}

static const char *level(const char *text)
{
    Runtime__V1__SELinuxOption o = RUNTIME__V1__SELINUX_OPTION__INIT;
    static struct err err;

    err = (struct err)ERR_INIT;
    o.level = (char *)(uintptr_t)text;
    return selinux_check(&o, &node, &err) < 0 ? err.text : "";
}

static void test_check(void)
{
    static const char *const good[] = { "",         "s0",          "s15",      "s0:c1", "s0:c1,c2",
                                        "s0:c1.c5", "s0:c1,c3.c5", "s0-s1",    "s0-s0:c0.c1023",
                                        "s0:c1-s0:c1,c2" };
    static const char *const bad[] = { "s0,c4,c5", "c1",     "s",       "s0:",    "s0:c",   "s0:c1,",
                                       "s0:c1.",   "s0:c1c", "s0:c1:2", "s0-",    "s0 ",    "s0:c12345",
                                       "s0:c1.c2.c3", "s0-s1-s2", "-s0",  "s0:c1,-", "s0\"" };

    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        is_str(level(good[i]), "", "level '%s'", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ok(strstr(level(bad[i]), "malformed"), "not '%s'", bad[i]);

    Runtime__V1__SELinuxOption o = RUNTIME__V1__SELINUX_OPTION__INIT;
    struct err err = ERR_INIT;
    o.type = (char *)(uintptr_t)"svirt_lxc-net.t";
    ok(selinux_check(&o, &node, &err) == 0, "a type");
    o.type = (char *)(uintptr_t)"a:b";
    ok(selinux_check(&o, &node, &err) < 0 && strstr(err.text, "type 'a:b'"), "%s", err.text);
    node.selinux = false;
    ok(selinux_check(&o, &node, NULL) == 0, "off: anything");
    node.selinux = true;
    o.type = (char *)(uintptr_t)"t";
    const char *process = node.selinux_process;
    node.selinux_process = NULL;
    err = (struct err)ERR_INIT;
    ok(selinux_check(&o, &node, &err) < 0 && strstr(err.text, "lxc_contexts"), "%s", err.text);
    ok(selinux_check(NULL, &node, NULL) == 0, "but without options");
    node.selinux_process = process;
}

static void test_text(void)
{
    auto_pool struct pool p = POOL_INIT;
    Runtime__V1__SELinuxOption o = RUNTIME__V1__SELINUX_OPTION__INIT;
    const char *c = "u:r:t:s0-s0:c0.c3";

    is_str(selinux_replace(&p, c, NULL), c, "nothing to replace");
    is_str(selinux_replace(&p, c, &o), c, "empty options");
    o.type = (char *)(uintptr_t)"x";
    is_str(selinux_replace(&p, c, &o), "u:r:x:s0-s0:c0.c3", "a type");
    o.level = (char *)(uintptr_t)"s1:c1,c2";
    is_str(selinux_replace(&p, c, &o), "u:r:x:s1:c1,c2", "and a level");
    is_str(selinux_replace(&p, "u:r:t", &o), "u:r:x:s1:c1,c2", "where there was none");
    is_str(selinux_replace(&p, "u:r:t", NULL), "u:r:t", "no level");
    ok(selinux_has_level(c) && !selinux_has_level("u:r:t"), "is there a level");
    is_str(selinux_level(&p, c, 9, 4), "s0:c4,c9", "categories in order");
    is_str(selinux_file(&p, "system_u:system_r:x:s0:c1,c2", &node, false),
           "system_u:object_r:container_file_t:s0:c1,c2", "files: the level");
    is_str(selinux_file(&p, "other_u:system_r:x:s0:c1,c2", &node, false),
           "other_u:object_r:container_file_t:s0:c1,c2", "and the user, where it was asked for");
    is_str(selinux_file(&p, "system_u:system_r:x:s0-s0:c1,c2", &node, true),
           "system_u:object_r:container_file_t:s0", "for all pods: no categories");
    is_str(selinux_file(&p, "system_u:system_r:x", &node, true),
           "system_u:object_r:container_file_t", "no level");
    ok(selinux_is_system("/") && selinux_is_system("/usr") && !selinux_is_system("/usr/local") &&
       !selinux_is_system("/data"), "what is never relabelled");
}

int main(void)
{
    test_parse();
    test_check();
    test_text();
    return done_testing();
}
