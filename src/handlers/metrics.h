/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics that ListMetricDescriptors advertises: names and labels of cAdvisor, so that
 * dashboards keep working (CRI.md 11.4). */
#ifndef CRICKET_METRICS_H
#define CRICKET_METRICS_H

#include <stddef.h>

enum { METRIC_BASE_LABELS = 6, METRIC_EXTRA_LABELS = 4 };

/* In the order of metric_table[]. */
enum metric {
    M_CPU_USER,
    M_CPU_SYSTEM,
    M_CPU_USAGE,
    M_CPU_PERIODS,
    M_CPU_THROTTLED_PERIODS,
    M_CPU_THROTTLED,
    M_MEM_CACHE,
    M_MEM_RSS,
    M_MEM_KERNEL,
    M_MEM_MAPPED,
    M_MEM_SWAP,
    M_MEM_FAILCNT,
    M_MEM_USAGE,
    M_MEM_MAX,
    M_MEM_WORKING_SET,
    M_MEM_FAILURES,
    M_OOM_EVENTS,
    M_NET_RX_BYTES,
    M_NET_RX_PACKETS,
    M_NET_RX_DROPPED,
    M_NET_RX_ERRORS,
    M_NET_TX_BYTES,
    M_NET_TX_PACKETS,
    M_NET_TX_DROPPED,
    M_NET_TX_ERRORS,
    M_FS_USAGE,
    M_FS_LIMIT,
    M_FS_INODES,
    M_FS_INODES_FREE,
    M_FS_READ_BYTES,
    M_FS_READS,
    M_FS_WRITE_BYTES,
    M_FS_WRITES,
    M_BLKIO,
    M_PROCESSES,
    M_THREADS,
    M_THREADS_MAX,
    M_FDS,
    M_SOCKETS,
    M_ULIMITS,
    M_LAST_SEEN,
    M_START_TIME,
    M_SPEC_CPU_PERIOD,
    M_SPEC_CPU_SHARES,
    M_SPEC_CPU_QUOTA,
    M_SPEC_MEM_LIMIT,
    M_SPEC_MEM_RESERVATION,
    M_SPEC_MEM_SWAP,
    M_HUGETLB_USAGE,
    M_HUGETLB_MAX,
    M_PSI_CPU_STALLED,
    M_PSI_CPU_WAITING,
    M_PSI_MEM_STALLED,
    M_PSI_MEM_WAITING,
    M_PSI_IO_STALLED,
    M_PSI_IO_WAITING,
    METRICS,
};

struct metric_desc {
    const char *name, *help;
    enum { METRIC_COUNTER, METRIC_GAUGE } type;
    const char *labels[METRIC_EXTRA_LABELS + 1];     /* behind the base labels */
};

extern const struct metric_desc metric_table[METRICS];
extern const char *const metric_base_labels[METRIC_BASE_LABELS];

#endif
