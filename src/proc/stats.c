/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup files -> struct stats.
 *
 * The two versions differ in names, units and in what "nothing" looks like ("max", or a number near
 * 2^63); all of that ends here. A value that cannot be read is not there; it never becomes a zero
 * that looks like a measurement. */
#include "proc/stats.h"

#include "mem.h"
#include "proc/cgroup.h"
#include "reactor/loop.h"
#include "str.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    FILE_MAX = 32 * 1024,            /* memory.stat has 2 KiB, io.stat a line per device */
    PROCS_MAX = 4 * 1024 * 1024,
};

#define V1_NO_LIMIT (1ULL << 62)     /* a page short of 2^63 says "none" */

/* ---- files */

static int read_fd(int fd, struct str *s, size_t max)
{
    str_reset(s);
    while (s->len < max) {
        ssize_t n = read(fd, str_room(s, 4096), 4096);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        s->len += (size_t)n;
        s->p[s->len] = '\0';
    }
    return 0;
}

static bool read_file(const char *path, const char *controller, const char *file, struct str *s)
{
    auto_fd int fd = cgroup_open_file(path, controller, file, O_RDONLY);

    return fd >= 0 && read_fd(fd, s, FILE_MAX) == 0;
}

/* A number, or "max". */
static bool parse_number(const char *t, uint64_t *ret)
{
    char *end;

    if (str_starts(t, "max")) {
        *ret = STATS_NO_LIMIT;
        return true;
    }
    if (!isdigit((unsigned char)*t))
        return false;
    *ret = strtoull(t, &end, 10);
    return !*end || isspace((unsigned char)*end);
}

static bool read_number(const char *path, const char *controller, const char *file, uint64_t *ret)
{
    auto_str struct str s = STR_INIT;

    return read_file(path, controller, file, &s) && parse_number(str_c(&s), ret);
}

static bool read_limit1(const char *path, const char *file, uint64_t *ret)
{
    if (!read_number(path, "memory", file, ret))
        return false;
    if (*ret >= V1_NO_LIMIT)
        *ret = STATS_NO_LIMIT;
    return true;
}

bool stats_parse_field(const char *text, const char *key, uint64_t *ret)
{
    size_t n = strlen(key);

    for (const char *line = text; *line;) {
        if (strncmp(line, key, n) == 0 && line[n] == ' ')
            return parse_number(line + n + 1, ret);
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return false;
}

static uint64_t field(const char *text, const char *key)
{
    uint64_t v = 0;

    (void)stats_parse_field(text, key, &v);
    return v;
}

static uint64_t minus(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* ---- cpu */

static void cpu1(const char *path, unsigned what, struct stats *s)
{
    auto_str struct str t = STR_INIT;

    if (what & STATS_CPU)
        s->has_cpu = read_number(path, "cpuacct", "cpuacct.usage", &s->cpu_ns);
    if (!(what & STATS_CPU_MORE))
        return;
    s->has_cpu_split = read_number(path, "cpuacct", "cpuacct.usage_user", &s->cpu_user_ns) &&
                       read_number(path, "cpuacct", "cpuacct.usage_sys", &s->cpu_system_ns);
    if (read_file(path, "cpu", "cpu.stat", &t) &&
        stats_parse_field(str_c(&t), "nr_periods", &s->periods)) {
        s->has_throttling = true;
        s->throttled_periods = field(str_c(&t), "nr_throttled");
        s->throttled_ns = field(str_c(&t), "throttled_time");
    }
}

static void cpu2(const char *path, unsigned what, struct stats *s)
{
    auto_str struct str t = STR_INIT;
    uint64_t v;

    if (!(what & (STATS_CPU | STATS_CPU_MORE)) || !read_file(path, "cpu", "cpu.stat", &t))
        return;
    if (stats_parse_field(str_c(&t), "usage_usec", &v)) {
        s->has_cpu = s->has_cpu_split = true;
        s->cpu_ns = v * 1000;
        s->cpu_user_ns = field(str_c(&t), "user_usec") * 1000;
        s->cpu_system_ns = field(str_c(&t), "system_usec") * 1000;
    }
    if (stats_parse_field(str_c(&t), "nr_periods",
                          &s->periods)) { /* only where the controller is on */
        s->has_throttling = true;
        s->throttled_periods = field(str_c(&t), "nr_throttled");
        s->throttled_ns = field(str_c(&t), "throttled_usec") * 1000;
    }
}

/* ---- memory */

static void memory1(const char *path, unsigned what, struct stats *s)
{
    auto_str struct str t = STR_INIT;
    uint64_t both, both_limit;

    if (what & STATS_MEMORY && read_number(path, "memory", "memory.usage_in_bytes", &s->usage) &&
        read_file(path, "memory", "memory.stat", &t)) {
        s->has_memory = true;
        s->limit = STATS_NO_LIMIT;
        (void)read_limit1(path, "memory.limit_in_bytes", &s->limit);
        s->working_set = minus(s->usage, field(str_c(&t), "total_inactive_file"));
        s->rss = field(str_c(&t), "total_rss");
        s->cache = field(str_c(&t), "total_cache");
        s->mapped_file = field(str_c(&t), "total_mapped_file");
        s->page_faults = field(str_c(&t), "total_pgfault");
        s->major_page_faults = field(str_c(&t), "total_pgmajfault");
        s->own_page_faults = field(str_c(&t), "pgfault");
        s->own_major_page_faults = field(str_c(&t), "pgmajfault");
        if (read_number(path, "memory", "memory.memsw.usage_in_bytes", &both) &&
            read_limit1(path, "memory.memsw.limit_in_bytes", &both_limit)) {
            s->has_swap = true;
            s->swap_usage = minus(both, s->usage);
            s->swap_limit = both_limit == STATS_NO_LIMIT || s->limit == STATS_NO_LIMIT
                                ? STATS_NO_LIMIT
                                : minus(both_limit, s->limit);
        }
    }
    if (!(what & STATS_MEMORY_MORE))
        return;
    s->has_peak = read_number(path, "memory", "memory.max_usage_in_bytes", &s->peak);
    s->has_kernel = read_number(path, "memory", "memory.kmem.usage_in_bytes", &s->kernel);
    s->has_failcnt = read_number(path, "memory", "memory.failcnt", &s->failcnt);
    s->has_oom = read_file(path, "memory", "memory.oom_control", &t) &&
                 stats_parse_field(str_c(&t), "oom_kill", &s->oom_kills);
}

static void memory2(const char *path, unsigned what, struct stats *s)
{
    auto_str struct str t = STR_INIT;

    if (what & (STATS_MEMORY | STATS_MEMORY_MORE) &&
        read_number(path, "memory", "memory.current", &s->usage) &&
        read_file(path, "memory", "memory.stat", &t)) {
        s->has_memory = true;
        s->limit = STATS_NO_LIMIT;
        (void)read_number(path, "memory", "memory.max", &s->limit);
        s->working_set = minus(s->usage, field(str_c(&t), "inactive_file"));
        s->rss = field(str_c(&t), "anon");
        s->cache = field(str_c(&t), "file");
        s->mapped_file = field(str_c(&t), "file_mapped");
        s->page_faults = s->own_page_faults = field(str_c(&t), "pgfault");
        s->major_page_faults = s->own_major_page_faults = field(str_c(&t), "pgmajfault");
        s->has_kernel = stats_parse_field(str_c(&t), "kernel", &s->kernel);      /* 5.18 */
        s->has_swap = read_number(path, "memory", "memory.swap.current", &s->swap_usage) &&
                      read_number(path, "memory", "memory.swap.max", &s->swap_limit);
    }
    if (!(what & STATS_MEMORY_MORE))
        return;
    s->has_peak = read_number(path, "memory", "memory.peak", &s->peak);          /* 5.19 */
    if (read_file(path, "memory", "memory.events", &t)) {
        s->has_failcnt = stats_parse_field(str_c(&t), "max", &s->failcnt);
        s->has_oom = stats_parse_field(str_c(&t), "oom_kill", &s->oom_kills);
    }
}

/* ---- pressure */

void stats_parse_psi(const char *text, struct stats_psi *ret)
{
    *ret = (struct stats_psi){ 0 };
    for (const char *line = text; *line;) {
        struct stats_psi_line l;
        char kind[8];
        unsigned long long total;

        if (sscanf(line, "%7s avg10=%lf avg60=%lf avg300=%lf total=%llu", kind, &l.avg10, &l.avg60,
                   &l.avg300, &total) == 5) {
            l.total_us = total;
            if (strcmp(kind, "some") == 0) {
                ret->some = l;
                ret->has_some = true;
            } else if (strcmp(kind, "full") == 0) {
                ret->full = l;
                ret->has_full = true;
            }
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
}

static void psi2(const char *path, struct stats *s)
{
    const struct {
        const char *controller, *file;
        struct stats_psi *to;
    } files[] = {
        { "cpu", "cpu.pressure", &s->cpu_psi },
        { "memory", "memory.pressure", &s->memory_psi },
        { "io", "io.pressure", &s->io_psi },
    };
    auto_str struct str t = STR_INIT;

    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (read_file(path, files[i].controller, files[i].file, &t))
            stats_parse_psi(str_c(&t), files[i].to);
}

/* ---- block devices */

static struct stats_io_device *device(struct stats *s, unsigned major, unsigned minor)
{
    for (size_t i = 0; i < s->n_io; i++)
        if (s->io[i].major == major && s->io[i].minor == minor)
            return &s->io[i];
    s->io = mem_grow(s->io, s->n_io + 1, sizeof *s->io);
    s->io[s->n_io] = (struct stats_io_device){ .major = major, .minor = minor };
    return &s->io[s->n_io++];
}

void stats_parse_io1(const char *text, bool bytes, struct stats *s)
{
    for (const char *line = text; *line;) {
        unsigned major, minor;
        unsigned long long v;
        char op[16];

        if (sscanf(line, "%u:%u %15s %llu", &major, &minor, op, &v) == 4) {
            struct stats_io_device *d = device(s, major, minor);

            if (strcmp(op, "Read") == 0)
                *(bytes ? &d->read_bytes : &d->reads) = v;
            else if (strcmp(op, "Write") == 0)
                *(bytes ? &d->write_bytes : &d->writes) = v;
            else if (strcmp(op, "Discard") == 0)
                *(bytes ? &d->discard_bytes : &d->discards) = v;
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
}

void stats_parse_io2(const char *text, struct stats *s)
{
    for (const char *line = text; *line;) {
        size_t len = strcspn(line, "\n");
        unsigned major, minor;
        int at = 0;

        if (sscanf(line, "%u:%u%n", &major, &minor, &at) == 2) {
            struct stats_io_device *d = device(s, major, minor);
            const struct {
                const char *key;
                uint64_t *to;
            } keys[] = {
                { " rbytes=", &d->read_bytes },    { " wbytes=", &d->write_bytes },
                { " dbytes=", &d->discard_bytes }, { " rios=", &d->reads },
                { " wios=", &d->writes },          { " dios=", &d->discards },
            };

            for (const char *p = line + at; p < line + len && *p == ' ';
                 p += 1 + strcspn(p + 1, " \n"))
                for (size_t i = 0; i < ARRAY_LEN(keys); i++)
                    if (str_starts(p, keys[i].key))
                        *keys[i].to = strtoull(p + strlen(keys[i].key), NULL, 10);
        }
        line += len;
        line += *line == '\n';
    }
}

static void io1(const char *path, struct stats *s)
{
    auto_str struct str t = STR_INIT;

    if (read_file(path, "blkio", "blkio.throttle.io_service_bytes_recursive", &t) ||
        read_file(path, "blkio", "blkio.throttle.io_service_bytes", &t))
        stats_parse_io1(str_c(&t), true, s);
    if (read_file(path, "blkio", "blkio.throttle.io_serviced_recursive", &t) ||
        read_file(path, "blkio", "blkio.throttle.io_serviced", &t))
        stats_parse_io1(str_c(&t), false, s);
}

/* ---- huge pages */

/* Sizes that this kernel has, in kB; looked up once. */
static size_t huge_sizes(const unsigned long **ret)
{
    static unsigned long sizes[8];
    static size_t n;
    static bool looked;

    if (!looked) {
        DIR *d = opendir("/sys/kernel/mm/hugepages");
        struct dirent *e;

        looked = true;
        while (d && n < ARRAY_LEN(sizes) && (e = readdir(d)))
            if (sscanf(e->d_name, "hugepages-%lukB", &sizes[n]) == 1)
                n++;
        if (d)
            closedir(d);
    }
    *ret = sizes;
    return n;
}

static void hugetlb(const char *path, struct stats *s)
{
    static const char *const names[2][2] = { { "usage_in_bytes", "max_usage_in_bytes" },
                                             { "current", NULL } };
    const unsigned long *kb;
    size_t n = huge_sizes(&kb);
    int v2 = cgroup_is_v2();

    for (size_t i = 0; i < n; i++) {
        struct stats_hugetlb h = { 0 };
        char file[64];
        unsigned long size = kb[i];
        const char *unit = "KB";

        if (size >= 1024 * 1024 && size % (1024 * 1024) == 0)
            size /= 1024 * 1024, unit = "GB";
        else if (size >= 1024 && size % 1024 == 0)
            size /= 1024, unit = "MB";
        snprintf(h.size, sizeof h.size, "%lu%s", size, unit);
        snprintf(file, sizeof file, "hugetlb.%s.%s", h.size, names[v2][0]);
        if (!read_number(path, "hugetlb", file, &h.usage))
            continue;
        if (names[v2][1]) {
            snprintf(file, sizeof file, "hugetlb.%s.%s", h.size, names[v2][1]);
            h.has_max = read_number(path, "hugetlb", file, &h.max_usage);
        }
        s->hugetlb = mem_grow(s->hugetlb, s->n_hugetlb + 1, sizeof *s->hugetlb);
        s->hugetlb[s->n_hugetlb++] = h;
    }
}

/* ---- limits */

static void spec1(const char *path, struct stats *s)
{
    auto_str struct str t = STR_INIT;

    s->cpu_quota_us = -1;
    if (read_file(path, "cpu", "cpu.cfs_quota_us", &t))
        s->cpu_quota_us = strtoll(str_c(&t), NULL, 10);
    s->has_cpu_spec = read_number(path, "cpu", "cpu.shares", &s->cpu_shares) &&
                      read_number(path, "cpu", "cpu.cfs_period_us", &s->cpu_period_us);
    s->memory_swap_limit = STATS_NO_LIMIT;
    s->has_memory_spec = read_limit1(path, "memory.soft_limit_in_bytes", &s->memory_reservation);
    (void)read_limit1(path, "memory.memsw.limit_in_bytes", &s->memory_swap_limit);
}

static void spec2(const char *path, struct stats *s)
{
    auto_str struct str t = STR_INIT;
    uint64_t weight;
    const char *p;

    if (read_number(path, "cpu", "cpu.weight", &weight) && weight > 0 &&
        read_file(path, "cpu", "cpu.max", &t)) {
        s->has_cpu_spec = true;
        s->cpu_shares = 2 + (weight - 1) * 262142 / 9999;
        s->cpu_quota_us = str_starts(str_c(&t), "max") ? -1 : strtoll(str_c(&t), NULL, 10);
        p = strchr(str_c(&t), ' ');
        s->cpu_period_us = p ? strtoull(p + 1, NULL, 10) : 0;
    }
    s->memory_swap_limit = STATS_NO_LIMIT;
    s->has_memory_spec = read_number(path, "memory", "memory.low", &s->memory_reservation);
    (void)read_number(path, "memory", "memory.swap.max", &s->memory_swap_limit);
}

/* ---- */

void stats_read(const char *path, unsigned what, struct stats *ret)
{
    bool v2 = cgroup_is_v2();

    *ret = (struct stats){ .at_ns = clock_stamp_ns() };
    (v2 ? cpu2 : cpu1)(path, what, ret);
    (v2 ? memory2 : memory1)(path, what, ret);
    if (what & STATS_PSI && v2)
        psi2(path, ret);
    if (what & STATS_PIDS && read_number(path, "pids", "pids.current", &ret->pids)) {
        ret->has_pids = true;
        ret->pids_limit = STATS_NO_LIMIT;
        (void)read_number(path, "pids", "pids.max", &ret->pids_limit);
    }
    if (what & STATS_IO) {
        auto_str struct str t = STR_INIT;

        if (!v2)
            io1(path, ret);
        else if (read_file(path, "io", "io.stat", &t))
            stats_parse_io2(str_c(&t), ret);
    }
    if (what & STATS_HUGETLB)
        hugetlb(path, ret);
    if (what & STATS_SPEC)
        (v2 ? spec2 : spec1)(path, ret);
}

void stats_deinit(struct stats *s)
{
    free(s->io);
    free(s->hugetlb);
    *s = (struct stats){ 0 };
}

void stats_add(struct stats *a, const struct stats *b)
{
    a->at_ns = a->at_ns > b->at_ns ? a->at_ns : b->at_ns;
    a->has_cpu |= b->has_cpu;
    a->cpu_ns += b->cpu_ns;
    a->has_memory |= b->has_memory;
    a->limit = STATS_NO_LIMIT;
    a->usage += b->usage;
    a->working_set += b->working_set;
    a->rss += b->rss;
    a->cache += b->cache;
    a->mapped_file += b->mapped_file;
    a->page_faults += b->page_faults;
    a->major_page_faults += b->major_page_faults;
    a->own_page_faults += b->own_page_faults;
    a->own_major_page_faults += b->own_major_page_faults;
    a->has_swap |= b->has_swap;
    a->swap_usage += b->swap_usage;
    a->swap_limit = STATS_NO_LIMIT;
    a->has_pids |= b->has_pids;
    a->pids += b->pids;
    a->pids_limit = STATS_NO_LIMIT;
}

int stats_pids(const char *path, int **ret, size_t *ret_n, struct err *err)
{
    auto_fd int fd = cgroup_open_file(path, "memory", "cgroup.procs", O_RDONLY);
    auto_str struct str s = STR_INIT;
    int *v = NULL, r;
    size_t n = 0, cap = 0;

    r = fd < 0 ? fd : read_fd(fd, &s, PROCS_MAX);
    if (r < 0)
        return err_code(err, r, "cgroup.procs of '%s'", path);
    for (char *p = s.p; p && *p;) {
        char *end;
        long pid = strtol(p, &end, 10);

        if (end == p)
            break;
        if (n == cap) {
            cap = cap ? cap * 2 : 16;
            v = mem_grow(v, cap, sizeof *v);
        }
        if (pid > 0)                                 /* 0: of a PID namespace that we do not see */
            v[n++] = (int)pid;
        p = end + strspn(end, "\n");
    }
    *ret = v;
    *ret_n = n;
    return 0;
}
