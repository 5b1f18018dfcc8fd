/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup v2: which file a limit goes to, and enabling controllers on the way down.
 *
 * A controller is there in a directory only if every directory above has it in
 * cgroup.subtree_control, and a directory that has it there may hold no processes of its own (the
 * no-internal-process rule; the root is free of it). So each directory on the way to a new one gets
 * what it can; what cannot be enabled (EBUSY: somebody lives there) is not an error until a limit
 * needs it, and then the error names the controller. swap is a limit of its own here: memory+swap
 * minus memory. Kernel: Documentation/admin-guide/cgroup-v2.rst. */
#include "mem.h"
#include "proc/cgroup_impl.h"
#include "str.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const wanted[] = { "cpu", "cpuset", "io", "memory", "pids", "hugetlb", "misc" };

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *s = list; *s; s += strcspn(s, " \n"), s += strspn(s, " \n"))
        if (strncmp(s, word, n) == 0 && (!s[n] || s[n] == ' ' || s[n] == '\n'))
            return true;
    return false;
}

static int prepare(const struct hier *h, int parent, int dir, struct err *err)
{
    char have[512], on[512];
    auto_str struct str add = STR_INIT;

    (void)h;
    (void)parent;
    (void)err;
    if (cgroup_read_at(dir, "cgroup.controllers", have, sizeof have) < 0 ||
        cgroup_read_at(dir, "cgroup.subtree_control", on, sizeof on) < 0)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        if (has_word(have, wanted[i]) && !has_word(on, wanted[i]))
            str_printf(&add, "%s+%s", add.len ? " " : "", wanted[i]);
    if (!add.len || cgroup_write_at(dir, "cgroup.subtree_control", add.p) == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        char one[32];

        if (!has_word(have, wanted[i]) || has_word(on, wanted[i]))
            continue;
        snprintf(one, sizeof one, "+%s", wanted[i]);
        (void)cgroup_write_at(dir, "cgroup.subtree_control", one);
    }
    return 0;
}

/* cpu.max is "quota period", and each of the two may be left alone. */
static void cpu(const char *path, const struct cgroup_limits *l, struct cgwrites *w)
{
    char quota[32] = "max", period[64] = "", old[64];

    if (l->cpu_shares) {
        uint64_t s = l->cpu_shares < 2 ? 2 : l->cpu_shares > 262144 ? 262144 : l->cpu_shares;

        cgwrite_add(w, "cpu", "cpu.weight", "%" PRIu64, 1 + (s - 2) * 9999 / 262142);
    }
    if (!l->cpu_quota && !l->cpu_period)
        return;
    if (l->cpu_quota > 0)
        snprintf(quota, sizeof quota, "%" PRId64, l->cpu_quota);
    else if (!l->cpu_quota &&
             cgroup_read_line(cgroup_hier("cpu"), path, "cpu.max", old, sizeof old) > 0)
        snprintf(quota, sizeof quota, "%.*s", (int)strcspn(old, " "), old);
    if (l->cpu_period)
        snprintf(period, sizeof period, " %" PRIu64, l->cpu_period);
    cgwrite_add(w, "cpu", "cpu.max", "%s%s", quota, period);
}

static int memory(const char *path, const struct cgroup_limits *l, struct cgwrites *w,
                  struct err *err)
{
    int64_t mem = l->memory;

    if (l->memory == -1)
        cgwrite_add(w, "memory", "memory.max", "max");
    else if (l->memory)
        cgwrite_add(w, "memory", "memory.max", "%" PRId64, l->memory);
    if (l->memory_swap == -1 || (l->memory == -1 && !l->memory_swap)) {
        cgwrite_add(w, "memory", "memory.swap.max", "max")->tolerate = true;
        return 0;
    }
    if (!l->memory_swap && !l->memory)
        return 0;
    if (!l->memory_swap) {
        cgwrite_add(w, "memory", "memory.swap.max", "0")->tolerate = true;
        return 0;
    }
    if (!mem)
        mem = cgroup_read_number(cgroup_hier("memory"), path, "memory.max", -1);
    if (mem < 0 || l->memory_swap < mem)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "memory and swap limit %" PRId64 " without a memory limit below it",
                       l->memory_swap);
    cgwrite_add(w, "memory", "memory.swap.max", "%" PRId64, l->memory_swap - mem)->tolerate = true;
    return 0;
}

/* The controller is what stands before the first dot; cgroup.procs and its like are not limits. */
static int unified(const struct plan_pair *u, struct cgwrites *w, struct err *err)
{
    size_t n = strlen(u->key);

    if (!n || n >= CGROUP_FILE_MAX || strchr(u->key, '/') || u->key[0] == '.' ||
        !strchr(u->key, '.') ||
        (str_starts(u->key, "cgroup.") && !str_starts(u->key, "cgroup.max.")))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "unified resource '%s'", u->key);
    if (strlen(u->value) >= CGROUP_VALUE_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "value of unified resource '%s' is too long",
                       u->key);
    cgwrite_add(w, "unified", u->key, "%s", u->value);
    return 0;
}

static int limits(const char *path, const struct cgroup_limits *l, struct cgwrites *w,
                  struct err *err)
{
    int r = 0;

    cgwrite_cpuset(w, l);
    cpu(path, l, w);
    r = memory(path, l, w, err);
    cgwrite_counts(w, l, "max");
    for (size_t i = 0; i < l->n_unified && r == 0; i++)
        r = unified(&l->unified[i], w, err);
    return r;
}

static int64_t memory_used(const char *path)
{
    return cgroup_read_number(cgroup_hier("memory"), path, "memory.current", -1);
}

const struct cgroup_kind cgroup2 = {
    .freeze_file = "cgroup.freeze",
    .freeze = "1",
    .thaw = "0",
    .oom_file = "memory.events",
    .prepare = prepare,
    .limits = limits,
    .memory_used = memory_used,
};
