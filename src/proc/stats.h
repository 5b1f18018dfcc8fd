/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel counts for one cgroup or one network namespace, as plain numbers: cgroup v1 and
 * v2 files (CRI.md 11.2, 11.4), pressure, and /proc/net/dev. A handful of small files per call, no
 * walk: fit for the loop. See cgroups(7), and cgroup-v1/ and cgroup-v2.rst of the kernel's
 * documentation. */
#ifndef CRICKET_STATS_H
#define CRICKET_STATS_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What to read. A group that the kernel does not have, or a cgroup that is gone, leaves its has_
 * false. */
enum stats_what {
    STATS_CPU = 1 << 0,
    STATS_MEMORY = 1 << 1,           /* with swap */
    STATS_PSI = 1 << 2,
    STATS_PIDS = 1 << 3,
    STATS_CPU_MORE = 1 << 4,         /* user, system, throttling */
    STATS_MEMORY_MORE = 1 << 5,      /* peak, kernel, failures */
    STATS_IO = 1 << 6,
    STATS_HUGETLB = 1 << 7,
    STATS_SPEC = 1 << 8,             /* the limits in force */
    STATS_ALL = (1 << 9) - 1,
};

#define STATS_NO_LIMIT UINT64_MAX

struct stats_psi_line {
    uint64_t total_us;
    double avg10, avg60, avg300;     /* per cent */
};

struct stats_psi {
    bool has_some, has_full;
    struct stats_psi_line some, full;
};

struct stats_io_device {
    unsigned major, minor;
    uint64_t read_bytes, write_bytes, discard_bytes, reads, writes, discards;
};

struct stats_hugetlb {
    char size[16];                   /* "2MB" */
    uint64_t usage, max_usage;       /* bytes */
    bool has_max;                    /* v2 keeps no maximum */
};

struct stats {
    int64_t at_ns;                   /* wall clock, strictly increasing */
    bool has_cpu;
    uint64_t cpu_ns;
    bool has_cpu_split;
    uint64_t cpu_user_ns, cpu_system_ns;
    bool has_throttling;
    uint64_t periods, throttled_periods, throttled_ns;

    bool has_memory;                 /* all in bytes */
    uint64_t usage, working_set, rss, cache, mapped_file, limit; /* limit: STATS_NO_LIMIT if none */
    uint64_t page_faults, major_page_faults;             /* with the cgroups below */
    uint64_t own_page_faults, own_major_page_faults;     /* v2: the same */
    bool has_swap;
    uint64_t swap_usage, swap_limit; /* limit of swap alone */
    bool has_peak, has_kernel, has_failcnt, has_oom;
    uint64_t peak, kernel, failcnt, oom_kills;

    struct stats_psi cpu_psi, memory_psi, io_psi;

    bool has_pids;
    uint64_t pids, pids_limit;       /* tasks; STATS_NO_LIMIT if none */

    struct stats_io_device *io;
    size_t n_io;
    struct stats_hugetlb *hugetlb;
    size_t n_hugetlb;

    bool has_cpu_spec;
    uint64_t cpu_shares, cpu_period_us;
    int64_t cpu_quota_us;            /* -1: none */
    bool has_memory_spec;
    uint64_t memory_reservation,
        memory_swap_limit; /* v1: memory + swap, v2: swap; STATS_NO_LIMIT if none */
};

/* path below the hierarchies' root. Always succeeds in reading nothing: look at has_*. */
void stats_read(const char *path, unsigned what, struct stats *ret);
void stats_deinit(struct stats *s);
/* a += b, for a pod without a cgroup of its own. Limits, pressure, devices and the spec are not
 * added: unknown afterwards. */
void stats_add(struct stats *a, const struct stats *b);

/* The processes of the cgroup itself (not of those below): pids of this namespace. The caller
 * frees. */
int stats_pids(const char *path, int **ret, size_t *ret_n, struct err *err);

struct stats_interface {
    char name[16];
    uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped;
    uint64_t tx_bytes, tx_packets, tx_errors, tx_dropped;
};

struct stats_net {
    int64_t at_ns;
    struct stats_interface *v;       /* without lo; eth0 first, else as the kernel has them */
    size_t n;
};

/* Counters of a network namespace given by path. The calling thread is inside of it for one
 * open(2); if it could not come back, the process ends. */
int stats_net_read(const char *netns, struct stats_net *ret, struct err *err);
void stats_net_deinit(struct stats_net *n);

/* The parsers, for tests. Text is NUL terminated. */
void stats_parse_psi(const char *text, struct stats_psi *ret);
bool stats_parse_field(const char *text, const char *key,
                       uint64_t *ret); /* "key 123" on a line of its own */
void stats_parse_io1(const char *text, bool bytes,
                     struct stats *s); /* blkio.throttle.io_service_bytes, io_serviced */
void stats_parse_io2(const char *text, struct stats *s);                     /* io.stat */
void stats_parse_net(const char *text, struct stats_net *ret);               /* /proc/net/dev */

#endif
