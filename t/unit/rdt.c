/* SPDX-License-Identifier: Apache-2.0 */
/* Records of what containers own in resctrl: what is to be removed by them, also by one that was
 * being written; the removal at start-up. Directories stand for resctrl's groups. */
#include "proc/rdt.h"
#include "files.h"
#include "mem.h"
#include "proc/pod/wire.h"

#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/cricket-rdt-XXXXXX";

static bool there(const char *name)
{
    auto_free char *path = mem_printf("%s/%s", dir, name);

    return access(path, F_OK) == 0;
}

static void put(const char *id, uint32_t flags, const char *group, size_t len)
{
    auto_free char *path = mem_printf("%s/pod/resctrl/%s", dir, id);
    struct wire_rdt_record r = { .version = WIRE_VERSION, .flags = flags };
    FILE *f = fopen(path, "we");

    snprintf(r.root, sizeof r.root, "%s/root", dir);
    snprintf(r.group, sizeof r.group, "%s", group);
    if (!f || fwrite(&r, 1, len, f) != len)
        bail_out("cannot write %s", path);
    fclose(f);
}

/* What is to be removed, as "a b". */
static void owns(const char *pod, const char *id, const char *want, const char *what)
{
    struct rdt_place p;
    size_t n = strlen(dir) + strlen("/root");

    if (!ok(rdt_read(pod, id, &p), "%s: there is a record", what))
        return;
    auto_free char *got = mem_printf("%s%s%s", p.dirs[0] ? p.dirs[0] + n : "", p.dirs[1] ? " " : "",
                                     p.dirs[1] ? p.dirs[1] + n : "");
    is_str(got, want, "%s", what);
    rdt_place_deinit(&p);
}

int main(void)
{
    const size_t all = sizeof(struct wire_rdt_record);
    struct rdt_place p;

    make_temp(dir);
    auto_free char *pod = mem_printf("%s/pod", dir);

    put_dir(dir, "pod");
    ok(!rdt_read(pod, "a", &p), "a container without a place");
    rdt_remove_all(pod);
    put_dir(dir, "pod/resctrl");
    put("a", WIRE_RDT_OURS, "a", all);
    owns(pod, "a", "/a", "a group of its own");
    put("b", WIRE_RDT_OURS | WIRE_RDT_MON, "b", all);
    owns(pod, "b", "/b/mon_groups/b /b", "with a monitoring group, which goes first");
    put("c", WIRE_RDT_MON, "gold", all);
    owns(pod, "c", "/gold/mon_groups/c", "one in a named group");
    put("d", WIRE_RDT_MON, "", all);
    owns(pod, "d", "//mon_groups/d", "in the default group");
    put("e", 0, "gold", all);
    owns(pod, "e", "", "nothing but its place in a named group");
    put("f", WIRE_RDT_OURS, "f", all / 2);
    owns(pod, "f", "", "a record that was being written: nothing was made");

    put_dir(dir, "root");
    put_dir(dir, "root/a");
    put_dir(dir, "root/b");
    put_dir(dir, "root/b/mon_groups");
    put_dir(dir, "root/gold");
    put_dir(dir, "root/gold/mon_groups");
    put_dir(dir, "root/gold/mon_groups/c");
    rdt_remove_all(pod);
    ok(!there("root/a") && !there("root/gold/mon_groups/c"), "what was theirs is removed");
    ok(there("root/gold/mon_groups"), "and nothing else");
    ok(!there("pod/resctrl"), "the records are gone");

    auto_free char *rm = mem_printf("rm -r '%s'", dir);
    ok(system(rm) == 0, "cleared away");
    return done_testing();
}
