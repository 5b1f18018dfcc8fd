/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v1: which file a limit goes to, in which order, and the devices controller.
 *
 * Order matters twice. memory.limit_in_bytes may never exceed memory.memsw.limit_in_bytes, so what
 * grows first depends on the direction; and quota/period of a group may not exceed its parent's
 * even for the moment between the two writes. A new cpuset is empty and takes nobody in until it
 * has CPUs and memory nodes: it gets its parent's. Kernel:
 * Documentation/admin-guide/cgroup-v1/{memory,cpusets,devices,hugetlb}.rst. */
#include "log.h"
#include "mem.h"
#include "proc/cgroup_impl.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int inherit(int parent, int dir, const char *file, struct err *err)
{
    char buf[CGROUP_VALUE_MAX];
    int r = cgroup_read_at(dir, file, buf, sizeof buf);

    if (r == -ENOENT || (r >= 0 && buf[strspn(buf, "\n")]))
        return 0;
    if (r >= 0)
        r = cgroup_read_at(parent, file, buf, sizeof buf);
    if (r > 0)
        r = cgroup_write_at(dir, file, buf);
    return r < 0 ? err_code(err, r, "inherit %s", file) : 0;
}

/* Before Linux 5.11 a group did not count its children unless told so or its parent was. */
static bool counts_children(int dir)
{
    char buf[16];

    return cgroup_read_at(dir, "memory.use_hierarchy", buf, sizeof buf) <= 0 || buf[0] != '0';
}

static bool prepares(const struct hier *h)
{
    return h == cgroup_hier("cpuset") || (h == cgroup_hier("memory") && !counts_children(h->fd));
}

static int prepare(const struct hier *h, int parent, int dir, struct err *err)
{
    int r = 0;

    if (h == cgroup_hier("cpuset")) {
        r = inherit(parent, dir, "cpuset.cpus", err);
        if (r == 0)
            r = inherit(parent, dir, "cpuset.mems", err);
    }
    if (h == cgroup_hier("memory") && !counts_children(dir))
        (void)cgroup_write_at(dir, "memory.use_hierarchy", "1");
    return r;
}

static void cpu(const char *path, const struct cgroup_limits *l, struct cgwrites *w)
{
    bool period_first = l->cpu_period &&
                        l->cpu_period >= (uint64_t)cgroup_read_number(
                                             cgroup_hier("cpu"), path, "cpu.cfs_period_us", 100000);

    if (l->cpu_shares)
        cgwrite_add(w, "cpu", "cpu.shares", "%" PRIu64,
                    l->cpu_shares < 2 ? 2 : l->cpu_shares > 262144 ? 262144 : l->cpu_shares);
    if (l->cpu_period && period_first)
        cgwrite_add(w, "cpu", "cpu.cfs_period_us", "%" PRIu64, l->cpu_period);
    if (l->cpu_quota)
        cgwrite_add(w, "cpu", "cpu.cfs_quota_us", "%" PRId64, l->cpu_quota);
    if (l->cpu_period && !period_first)
        cgwrite_add(w, "cpu", "cpu.cfs_period_us", "%" PRIu64, l->cpu_period);
}

static void memory(const char *path, const struct cgroup_limits *l, struct cgwrites *w)
{
    static const char mem[] = "memory.limit_in_bytes", memsw[] = "memory.memsw.limit_in_bytes";
    /* absent swap limit: no swap beyond the memory limit */
    int64_t both = l->memory_swap ? l->memory_swap : l->memory;
    bool grows = l->memory == -1 ||
                 (both && l->memory > cgroup_read_number(cgroup_hier("memory"), path, memsw,
                                                         INT64_MAX));

    if (both && grows)
        cgwrite_add(w, "memory", memsw, "%" PRId64, both)->tolerate = true;
    if (l->memory)
        cgwrite_add(w, "memory", mem, "%" PRId64, l->memory);
    if (both && !grows)
        cgwrite_add(w, "memory", memsw, "%" PRId64, both)->tolerate = true;
}

static int limits(const char *path, const struct cgroup_limits *l, struct cgwrites *w,
                  struct err *err)
{
    (void)err;
    cgwrite_cpuset(w, l);
    cpu(path, l, w);
    memory(path, l, w);
    cgwrite_counts(w, l, "limit_in_bytes");
    for (size_t i = 0; i < l->n_unified; i++)
        log_debug("op=cgroup_limits path='%s' unified='%s' err='cgroup v1', ignoring", path,
                  l->unified[i].key);
    return 0;
}

static int64_t memory_used(const char *path)
{
    return cgroup_read_number(cgroup_hier("memory"), path, "memory.usage_in_bytes", -1);
}

static void device_text(const struct cgroup_device_rule *d, char *buf, size_t size)
{
    char major[24] = "*", minor[24] = "*";

    if (d->major >= 0)
        snprintf(major, sizeof major, "%" PRId64, d->major);
    if (d->minor >= 0)
        snprintf(minor, sizeof minor, "%" PRId64, d->minor);
    snprintf(buf, size, "%c %s:%s %.3s", d->type, major, minor, d->access);
}

int cgroup1_set_devices(const char *path, const struct cgroup_device_rule *rules, size_t n,
                        struct err *err)
{
    static const char allow[] = "devices.allow", deny[] = "devices.deny";
    auto_fd int allow_fd = cgroup_open_file(path, "devices", allow, O_WRONLY);
    auto_fd int deny_fd = -1;
    char text[64];
    int r;

    if (allow_fd == -ENOENT && !cgroup_hier("devices"))
        return rules ? err_set(err, -ENOTSUP, "this machine has no cgroup controller 'devices'") :
                       0;
    if (allow_fd >= 0)
        deny_fd = cgroup_open_file(path, "devices", deny, O_WRONLY);
    if (allow_fd < 0 || deny_fd < 0)
        return err_code(err, allow_fd < 0 ? allow_fd : deny_fd, "devices of cgroup '%s'", path);
    r = cgroup_write(rules ? deny_fd : allow_fd, "a");
    if (r < 0)
        return err_code(err, r, "%s of cgroup '%s'", rules ? deny : allow, path);
    for (size_t i = 0; rules && i < n; i++) {
        device_text(&rules[i], text, sizeof text);
        r = cgroup_write(rules[i].allow ? allow_fd : deny_fd, text);
        if (r < 0)
            return err_code(err, r, "write '%s' to %s of cgroup '%s'", text,
                            rules[i].allow ? allow : deny, path);
    }
    return 0;
}

const struct cgroup_kind cgroup1 = {
    .freeze_file = "freezer.state",
    .freeze = "FROZEN",
    .thaw = "THAWED",
    .oom_file = "memory.oom_control",
    .prepares = prepares,
    .prepare = prepare,
    .limits = limits,
    .memory_used = memory_used,
};
