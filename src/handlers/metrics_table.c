/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/metrics.h"

const char *const metric_base_labels[METRIC_BASE_LABELS] = { "id",        "name", "image",
                                                             "namespace", "pod",  "container" };

#define COUNTER(id, n, h, ...) [id] = { "container_" n, h, METRIC_COUNTER, { __VA_ARGS__ } }
#define GAUGE(id, n, h, ...) [id] = { "container_" n, h, METRIC_GAUGE, { __VA_ARGS__ } }

const struct metric_desc metric_table[METRICS] = {
    COUNTER(M_CPU_USER, "cpu_user_seconds_total", "CPU time spent in user mode, in seconds.", 0),
    COUNTER(M_CPU_SYSTEM, "cpu_system_seconds_total", "CPU time spent in the kernel, in seconds.",
            0),
    COUNTER(M_CPU_USAGE, "cpu_usage_seconds_total", "CPU time consumed, in seconds.", "cpu"),
    COUNTER(M_CPU_PERIODS, "cpu_cfs_periods_total",
            "Enforcement periods of the CPU quota that have passed.", 0),
    COUNTER(M_CPU_THROTTLED_PERIODS, "cpu_cfs_throttled_periods_total",
            "Periods in which the CPU quota was used up.", 0),
    COUNTER(M_CPU_THROTTLED, "cpu_cfs_throttled_seconds_total",
            "Time for which the CPU quota held processes back, in seconds.", 0),

    GAUGE(M_MEM_CACHE, "memory_cache", "Page cache, in bytes.", 0),
    GAUGE(M_MEM_RSS, "memory_rss", "Anonymous memory, in bytes.", 0),
    GAUGE(M_MEM_KERNEL, "memory_kernel_usage", "Kernel memory, in bytes.", 0),
    GAUGE(M_MEM_MAPPED, "memory_mapped_file", "Mapped files, in bytes.", 0),
    GAUGE(M_MEM_SWAP, "memory_swap", "Swap in use, in bytes.", 0),
    COUNTER(M_MEM_FAILCNT, "memory_failcnt", "How often the memory limit was hit.", 0),
    GAUGE(M_MEM_USAGE, "memory_usage_bytes", "Memory in use, page cache included, in bytes.", 0),
    GAUGE(M_MEM_MAX, "memory_max_usage_bytes", "The highest memory use so far, in bytes.", 0),
    GAUGE(M_MEM_WORKING_SET, "memory_working_set_bytes",
          "Memory in use without inactive page cache, in bytes.", 0),
    COUNTER(M_MEM_FAILURES, "memory_failures_total", "Page faults.", "failure_type", "scope"),
    COUNTER(M_OOM_EVENTS, "oom_events_total", "Processes ended by the kernel's OOM killer.", 0),

    COUNTER(M_NET_RX_BYTES, "network_receive_bytes_total", "Bytes received.", "interface"),
    COUNTER(M_NET_RX_PACKETS, "network_receive_packets_total", "Packets received.", "interface"),
    COUNTER(M_NET_RX_DROPPED, "network_receive_packets_dropped_total",
            "Packets dropped while receiving.", "interface"),
    COUNTER(M_NET_RX_ERRORS, "network_receive_errors_total", "Errors while receiving.",
            "interface"),
    COUNTER(M_NET_TX_BYTES, "network_transmit_bytes_total", "Bytes sent.", "interface"),
    COUNTER(M_NET_TX_PACKETS, "network_transmit_packets_total", "Packets sent.", "interface"),
    COUNTER(M_NET_TX_DROPPED, "network_transmit_packets_dropped_total",
            "Packets dropped while sending.", "interface"),
    COUNTER(M_NET_TX_ERRORS, "network_transmit_errors_total", "Errors while sending.", "interface"),

    GAUGE(M_FS_USAGE, "fs_usage_bytes",
          "What the container has written to its root file system, in bytes.", "device"),
    GAUGE(M_FS_LIMIT, "fs_limit_bytes",
          "Size of the file system that the container writes to, in bytes.", "device"),
    GAUGE(M_FS_INODES, "fs_inodes_total", "Inodes of the file system that the container writes to.",
          "device"),
    GAUGE(M_FS_INODES_FREE, "fs_inodes_free", "Inodes that are free in it.", "device"),

    COUNTER(M_FS_READ_BYTES, "fs_reads_bytes_total", "Bytes read from block devices.", "device"),
    COUNTER(M_FS_READS, "fs_reads_total", "Reads from block devices.", "device"),
    COUNTER(M_FS_WRITE_BYTES, "fs_writes_bytes_total", "Bytes written to block devices.", "device"),
    COUNTER(M_FS_WRITES, "fs_writes_total", "Writes to block devices.", "device"),
    COUNTER(M_BLKIO, "blkio_device_usage_total", "Bytes moved by block devices.", "device", "major",
            "minor", "operation"),

    GAUGE(M_PROCESSES, "processes", "Processes.", 0),
    GAUGE(M_THREADS, "threads", "Threads.", 0),
    GAUGE(M_THREADS_MAX, "threads_max",
          "How many threads are allowed; 0: as many as the system has.", 0),
    GAUGE(M_FDS, "file_descriptors", "Open file descriptors.", 0),
    GAUGE(M_SOCKETS, "sockets", "Open sockets.", 0),
    GAUGE(M_ULIMITS, "ulimits_soft", "Soft limits of the first process.", "ulimit"),

    GAUGE(M_LAST_SEEN, "last_seen", "When the container was last seen, in seconds since 1970.", 0),
    GAUGE(M_START_TIME, "start_time_seconds",
          "When the container was started, in seconds since 1970.", 0),

    GAUGE(M_SPEC_CPU_PERIOD, "spec_cpu_period", "Period of the CPU quota, in microseconds.", 0),
    GAUGE(M_SPEC_CPU_SHARES, "spec_cpu_shares", "CPU shares.", 0),
    GAUGE(M_SPEC_CPU_QUOTA, "spec_cpu_quota", "CPU quota, in microseconds per period.", 0),
    GAUGE(M_SPEC_MEM_LIMIT, "spec_memory_limit_bytes", "Memory limit, in bytes; 0: none.", 0),
    GAUGE(M_SPEC_MEM_RESERVATION, "spec_memory_reservation_limit_bytes",
          "Memory reservation, in bytes; 0: none.", 0),
    GAUGE(M_SPEC_MEM_SWAP, "spec_memory_swap_limit_bytes", "Swap limit, in bytes; 0: none.", 0),

    GAUGE(M_HUGETLB_USAGE, "hugetlb_usage_bytes", "Huge pages in use, in bytes.", "pagesize"),
    GAUGE(M_HUGETLB_MAX, "hugetlb_max_usage_bytes", "The most huge pages in use so far, in bytes.",
          "pagesize"),

    COUNTER(M_PSI_CPU_STALLED, "pressure_cpu_stalled_seconds_total",
            "Time in which no task could run for want of CPU, in seconds.", 0),
    COUNTER(M_PSI_CPU_WAITING, "pressure_cpu_waiting_seconds_total",
            "Time in which some task waited for CPU, in seconds.", 0),
    COUNTER(M_PSI_MEM_STALLED, "pressure_memory_stalled_seconds_total",
            "Time in which no task could run for want of memory, in seconds.", 0),
    COUNTER(M_PSI_MEM_WAITING, "pressure_memory_waiting_seconds_total",
            "Time in which some task waited for memory, in seconds.", 0),
    COUNTER(M_PSI_IO_STALLED, "pressure_io_stalled_seconds_total",
            "Time in which no task could run for want of I/O, in seconds.", 0),
    COUNTER(M_PSI_IO_WAITING, "pressure_io_waiting_seconds_total",
            "Time in which some task waited for I/O, in seconds.", 0),
};
