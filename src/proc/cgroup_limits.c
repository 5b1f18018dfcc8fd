/* SPDX-License-Identifier: Apache-2.0 */
/* Limits: what they mean is a list of writes (cgroup1.c, cgroup2.c), made here, and taken back when
 * one of an update fails. */
#include "proc/cgroup_impl.h"

#include "log.h"
#include "mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct cgwrite *cgwrite_add(struct cgwrites *w, const char *controller, const char *file,
                            const char *fmt, ...)
{
    struct cgwrite *x;
    va_list ap;
    int r;

    w->v = mem_grow(w->v, w->n + 1, sizeof *w->v);
    x = &w->v[w->n++];
    *x = (struct cgwrite){ .h = cgroup_hier(controller), .controller = controller };
    snprintf(x->file, sizeof x->file, "%s", file);
    va_start(ap, fmt);
    r = vasprintf(&x->value, fmt, ap);
    va_end(ap);
    if (r < 0)
        x->value = mem_strdup("");
    return x;
}

void cgwrite_cpuset(struct cgwrites *w, const struct cgroup_limits *l)
{
    if (!str_empty(l->cpuset_mems))
        cgwrite_add(w, "cpuset", "cpuset.mems", "%s", l->cpuset_mems);
    if (!str_empty(l->cpuset_cpus))
        cgwrite_add(w, "cpuset", "cpuset.cpus", "%s", l->cpuset_cpus);
}

void cgwrite_counts(struct cgwrites *w, const struct cgroup_limits *l, const char *huge)
{
    if (l->pids > 0)
        cgwrite_add(w, "pids", "pids.max", "%" PRId64, l->pids);
    else if (l->pids == -1)
        cgwrite_add(w, "pids", "pids.max", "max")->tolerate = true;
    for (size_t i = 0; i < l->n_hugepages; i++) {
        char file[CGROUP_FILE_MAX];

        snprintf(file, sizeof file, "hugetlb.%s.%s", l->hugepages[i].size, huge);
        cgwrite_add(w, "hugetlb", file, "%" PRIu64, l->hugepages[i].limit)->tolerate = true;
    }
}

static void cgwrites_deinit(struct cgwrites *w)
{
    for (size_t i = 0; i < w->n; i++) {
        free(w->v[i].value);
        free(w->v[i].old);
    }
    free(w->v);
}

#define auto_writes __attribute__((cleanup(cgwrites_deinit)))

static int write_one(const struct cgwrite *w, const char *path, struct err *err)
{
    auto_fd int dir = w->h ? cgroup_open_dir(w->h, path) : -1;
    int r;

    if (!w->h) {
        if (w->tolerate)
            return 0;
        return err_set(err, -ENOTSUP, "%s: this machine has no cgroup controller '%s'", w->file,
                       w->controller);
    }
    if (dir < 0)
        return err_code(err, dir, "cgroup '%s'", path);
    r = cgroup_write_at(dir, w->file, w->value);
    if (r == -ENOENT && w->tolerate)
        return 0;
    if (r == -ENOENT)
        return err_set(err, -ENOTSUP, "%s: cgroup controller '%s' is not enabled in '%s'", w->file,
                       w->controller, path);
    if (r < 0)
        return err_code(err, r, "write '%s' to %s of cgroup '%s'", w->value, w->file, path);
    return 0;
}

static int collect(const char *path, const struct cgroup_limits *l, struct cgwrites *w,
                   struct err *err)
{
    int r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    if (l->memory < -1 || l->memory_swap < -1 || l->cpu_quota < -1 || l->pids < -1)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "negative resource limit");
    if (l->memory > 0 && l->memory_swap > 0 && l->memory_swap < l->memory)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "memory and swap limit %lld is below the memory limit %lld",
                       (long long)l->memory_swap, (long long)l->memory);
    for (size_t i = 0; i < l->n_hugepages; i++) {
        const char *s = l->hugepages[i].size;
        size_t n = strspn(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");

        if (!n || s[n] || n > 16)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "huge page size '%s'", s);
    }
    return cg.kind->limits(path, l, w, err);
}

int cgroup_set(const char *path, const struct cgroup_limits *l, struct err *err)
{
    auto_writes struct cgwrites w = { NULL, 0 };
    int r = collect(path, l, &w, err);

    for (size_t i = 0; i < w.n && r == 0; i++)
        r = write_one(&w.v[i], path, err);
    return r;
}

static int remember(struct cgwrite *w, const char *path, struct err *err)
{
    auto_fd int dir = w->h ? cgroup_open_dir(w->h, path) : -1;
    char buf[CGROUP_VALUE_MAX];
    int r;

    if (dir < 0)
        return 0;                    /* write_one() will say what is wrong */
    r = cgroup_read_at(dir, w->file, buf, sizeof buf);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return err_code(err, r, "read %s of cgroup '%s' (needed to be able to go back)", w->file,
                        path);
    w->old = mem_dup(buf, (size_t)r);
    return 0;
}

static void put_back(const struct cgwrite *w, const char *path)
{
    auto_fd int dir = w->h ? cgroup_open_dir(w->h, path) : -1;
    char *save = NULL;

    if (dir < 0 || !w->old)
        return;
    if (!w->old[strspn(w->old, "\n")]) {
        (void)cgroup_write_at(dir, w->file, "\n");
        return;
    }
    for (char *line = strtok_r(w->old, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int r = cgroup_write_at(dir, w->file, line);

        if (r < 0)
            log_warn("op=cgroup_update path='%s' file=%s err='cannot put back: %s', ignoring", path,
                     w->file, strerror(-r));
    }
}

int cgroup_update(const char *path, const struct cgroup_limits *l, struct err *err)
{
    auto_writes struct cgwrites w = { NULL, 0 };
    int r = collect(path, l, &w, err);
    int64_t used;

    if (r < 0)
        return r;
    used = l->memory > 0 ? cg.kind->memory_used(path) : -1;
    if (used > l->memory)
        return err_rpc(err, GRPC_FAILED_PRECONDITION,
                       "memory limit %lld is below the %lld bytes in use", (long long)l->memory,
                       (long long)used);
    for (size_t i = 0; i < w.n && r == 0; i++)
        r = remember(&w.v[i], path, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < w.n; i++) {
        r = write_one(&w.v[i], path, err);
        if (r < 0) {
            while (i-- > 0)
                put_back(&w.v[i], path);
            return r;
        }
    }
    return 0;
}

int cgroup_set_devices(const char *path, const struct cgroup_device_rule *rules, size_t n,
                       struct err *err)
{
    int r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    return cgroup_is_v2() ? cgroup2_set_devices(path, rules, n, err) :
                            cgroup1_set_devices(path, rules, n, err);
}
