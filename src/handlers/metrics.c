/* SPDX-License-Identifier: Apache-2.0 */
/* ListMetricDescriptors, ListPodSandboxMetrics, StreamPodSandboxMetrics (CRI.md 11.4): what
 * kubelet's /metrics/cadvisor shows.
 *
 * A metric has the base labels and those of its descriptor, in this order, always all of them. What
 * the kernel does not count is not sent. Metrics of the pod itself (its network, its cgroup) have
 * an empty container name, as cAdvisor's. A container is a dozen files of cgroups to read: each is
 * a part of the pod's entry, made in its own turn of the loop where that takes long. */
#include "handlers/metrics.h"

#include "handlers/gather.h"
#include "handlers/rpcs.h"
#include "handlers/stats.h"
#include "mem.h"
#include "proc/stats.h"
#include "reactor/pool.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { CONTAINER_METRICS = 3 };      /* the field of PodSandboxMetrics */

/* Metrics of one container, or of the pod. */
struct out {
    struct pool *pool;
    const char *base[METRIC_BASE_LABELS];
    Runtime__V1__Metric **v;
    size_t n, cap;
};

static size_t n_extra(const struct metric_desc *d)
{
    size_t n = 0;

    while (d->labels[n])
        n++;
    return n;
}

/* The values of the descriptor's own labels follow as strings. */
static void add(struct out *o, enum metric id, uint64_t value, ...)
{
    const struct metric_desc *d = &metric_table[id];
    size_t n = n_extra(d);
    Runtime__V1__Metric *m = pool_alloc(o->pool, sizeof *m);
    va_list ap;

    runtime__v1__metric__init(m);
    m->name = (char *)(uintptr_t)d->name;
    m->metric_type = d->type == METRIC_COUNTER ? RUNTIME__V1__METRIC_TYPE__COUNTER
                                               : RUNTIME__V1__METRIC_TYPE__GAUGE;
    m->value = pool_alloc(o->pool, sizeof *m->value);
    runtime__v1__uint64_value__init(m->value);
    m->value->value = value;
    m->n_label_values = METRIC_BASE_LABELS + n;
    m->label_values = pool_alloc(o->pool, m->n_label_values * sizeof(char *));
    for (size_t i = 0; i < METRIC_BASE_LABELS; i++)
        m->label_values[i] = (char *)(uintptr_t)o->base[i];
    va_start(ap, value);
    for (size_t i = 0; i < n; i++)
        m->label_values[METRIC_BASE_LABELS + i] = pool_strdup(o->pool, va_arg(ap, const char *));
    va_end(ap);
    if (o->n == o->cap) {
        Runtime__V1__Metric **v = pool_alloc(o->pool, (o->cap ? o->cap * 2 : 128) * sizeof *v);

        if (o->n)
            memcpy(v, o->v, o->n * sizeof *v);
        o->cap = o->cap ? o->cap * 2 : 128;
        o->v = v;
    }
    o->v[o->n++] = m;
}

static uint64_t seconds(uint64_t ns)
{
    return ns / 1000000000;
}

static uint64_t zero_if_none(uint64_t limit)
{
    return limit == STATS_NO_LIMIT ? 0 : limit;
}

static void add_cpu(struct out *o, const struct stats *s)
{
    if (s->has_cpu_split) {
        add(o, M_CPU_USER, seconds(s->cpu_user_ns));
        add(o, M_CPU_SYSTEM, seconds(s->cpu_system_ns));
    }
    if (s->has_cpu)
        add(o, M_CPU_USAGE, seconds(s->cpu_ns), "total");
    if (s->has_throttling) {
        add(o, M_CPU_PERIODS, s->periods);
        add(o, M_CPU_THROTTLED_PERIODS, s->throttled_periods);
        add(o, M_CPU_THROTTLED, seconds(s->throttled_ns));
    }
}

static void add_memory(struct out *o, const struct stats *s)
{
    if (s->has_memory) {
        add(o, M_MEM_CACHE, s->cache);
        add(o, M_MEM_RSS, s->rss);
        add(o, M_MEM_MAPPED, s->mapped_file);
        add(o, M_MEM_USAGE, s->usage);
        add(o, M_MEM_WORKING_SET, s->working_set);
        add(o, M_MEM_SWAP,
            s->has_swap ? s->swap_usage : 0); /* not counted: the kernel has no swap for cgroups */
        add(o, M_MEM_FAILURES, s->own_page_faults, "pgfault", "container");
        add(o, M_MEM_FAILURES, s->own_major_page_faults, "pgmajfault", "container");
        add(o, M_MEM_FAILURES, s->page_faults, "pgfault", "hierarchy");
        add(o, M_MEM_FAILURES, s->major_page_faults, "pgmajfault", "hierarchy");
    }
    if (s->has_kernel)
        add(o, M_MEM_KERNEL, s->kernel);
    if (s->has_failcnt)
        add(o, M_MEM_FAILCNT, s->failcnt);
    if (s->has_peak)
        add(o, M_MEM_MAX, s->peak);
    if (s->has_oom)
        add(o, M_OOM_EVENTS, s->oom_kills);
}

static void add_psi(struct out *o, const struct stats *s)
{
    const struct {
        const struct stats_psi *psi;
        enum metric stalled, waiting;
    } all[] = {
        { &s->cpu_psi, M_PSI_CPU_STALLED, M_PSI_CPU_WAITING },
        { &s->memory_psi, M_PSI_MEM_STALLED, M_PSI_MEM_WAITING },
        { &s->io_psi, M_PSI_IO_STALLED, M_PSI_IO_WAITING },
    };

    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if (all[i].psi->has_full)
            add(o, all[i].stalled, all[i].psi->full.total_us / 1000000);
        if (all[i].psi->has_some)
            add(o, all[i].waiting, all[i].psi->some.total_us / 1000000);
    }
}

static void add_network(struct out *o, const struct stats_net *n)
{
    for (size_t i = 0; i < n->n; i++) {
        const struct stats_interface *f = &n->v[i];

        add(o, M_NET_RX_BYTES, f->rx_bytes, f->name);
        add(o, M_NET_RX_PACKETS, f->rx_packets, f->name);
        add(o, M_NET_RX_DROPPED, f->rx_dropped, f->name);
        add(o, M_NET_RX_ERRORS, f->rx_errors, f->name);
        add(o, M_NET_TX_BYTES, f->tx_bytes, f->name);
        add(o, M_NET_TX_PACKETS, f->tx_packets, f->name);
        add(o, M_NET_TX_DROPPED, f->tx_dropped, f->name);
        add(o, M_NET_TX_ERRORS, f->tx_errors, f->name);
    }
}

/* "/dev/sda" of 8:0, else "8:0". */
static const char *device_name(struct pool *pool, unsigned major, unsigned minor)
{
    auto_free char *link = mem_printf("/sys/dev/block/%u:%u", major, minor);
    char to[512];
    ssize_t n = readlink(link, to, sizeof to - 1);

    if (n <= 0)
        return pool_printf(pool, "%u:%u", major, minor);
    to[n] = '\0';
    return pool_printf(pool, "/dev/%s", strrchr(to, '/') ? strrchr(to, '/') + 1 : to);
}

static void add_io(struct out *o, const struct stats *s)
{
    for (size_t i = 0; i < s->n_io; i++) {
        const struct stats_io_device *d = &s->io[i];
        const char *name = device_name(o->pool, d->major, d->minor);
        const char *major = pool_printf(o->pool, "%u", d->major),
                   *minor = pool_printf(o->pool, "%u", d->minor);

        add(o, M_FS_READ_BYTES, d->read_bytes, name);
        add(o, M_FS_READS, d->reads, name);
        add(o, M_FS_WRITE_BYTES, d->write_bytes, name);
        add(o, M_FS_WRITES, d->writes, name);
        add(o, M_BLKIO, d->read_bytes, name, major, minor, "Read");
        add(o, M_BLKIO, d->write_bytes, name, major, minor, "Write");
        add(o, M_BLKIO, d->discard_bytes, name, major, minor, "Discard");
    }
}

/* The file system that all containers write to. */
static void add_fs(struct out *o, struct ctr *c)
{
    const char *root = c->h->conf->root, *device;
    struct statvfs fs;
    struct stat st;

    if (stat(root, &st) < 0 || statvfs(root, &fs) < 0)
        return;
    device = device_name(o->pool, major(st.st_dev), minor(st.st_dev));
    if (c->stats && c->stats->measured)
        add(o, M_FS_USAGE, c->stats->bytes, device);
    add(o, M_FS_LIMIT, (uint64_t)fs.f_blocks * fs.f_frsize, device);
    add(o, M_FS_INODES, fs.f_files, device);
    add(o, M_FS_INODES_FREE, fs.f_ffree, device);
}

static void add_processes(struct out *o, struct gather *g, struct ctr *c, const struct stats *s)
{
    uint64_t fds, sockets;
    struct rlimit limit;
    size_t n = 0;
    int *pids = NULL;

    if (stats_pids(c->rec->cgroup_path, &pids, &n, NULL) == 0)
        add(o, M_PROCESSES, n);
    free(pids);
    if (s->has_pids) {
        add(o, M_THREADS, s->pids);
        add(o, M_THREADS_MAX, zero_if_none(s->pids_limit));
    }
    if (gather_get_fds(g, c->id, &fds, &sockets)) {
        add(o, M_FDS, fds);
        add(o, M_SOCKETS, sockets);
    }
    if (c->rec->pid && prlimit((pid_t)c->rec->pid, RLIMIT_NOFILE, NULL, &limit) == 0 &&
        limit.rlim_cur != RLIM_INFINITY)
        add(o, M_ULIMITS, limit.rlim_cur, "max_open_files");
}

static void add_spec(struct out *o, const struct stats *s)
{
    if (s->has_cpu_spec) {
        add(o, M_SPEC_CPU_PERIOD, s->cpu_period_us);
        add(o, M_SPEC_CPU_SHARES, s->cpu_shares);
        if (s->cpu_quota_us > 0)
            add(o, M_SPEC_CPU_QUOTA, (uint64_t)s->cpu_quota_us);
    }
    if (s->has_memory)
        add(o, M_SPEC_MEM_LIMIT, zero_if_none(s->limit));
    if (s->has_memory_spec) {
        add(o, M_SPEC_MEM_RESERVATION, zero_if_none(s->memory_reservation));
        add(o, M_SPEC_MEM_SWAP, zero_if_none(s->memory_swap_limit));
    }
}

static bool is_running(const struct ctr *c)
{
    return c->visible && ctr_state(c) == RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING;
}

static void add_container(struct gather *g, const char *id)
{
    struct ctr *c = ctr_by_id(gather_handlers(g), id);
    Runtime__V1__ContainerMetrics m = RUNTIME__V1__CONTAINER_METRICS__INIT;

    if (!c || !is_running(c))
        return;
    const Runtime__V1__PodSandboxMetadata *pod = c->sandbox->config->metadata;
    struct out o = { .pool = gather_pool(g),
                     .base = { c->rec->cgroup_path, c->id, c->rec->image_name, pod->namespace_,
                               pod->name, c->config->metadata->name } };
    struct stats s;

    stats_read(c->rec->cgroup_path, STATS_ALL, &s);
    add_cpu(&o, &s);
    add_memory(&o, &s);
    add_psi(&o, &s);
    add_io(&o, &s);
    add_fs(&o, c);
    add_processes(&o, g, c, &s);
    add_spec(&o, &s);
    for (size_t i = 0; i < s.n_hugetlb; i++) {
        add(&o, M_HUGETLB_USAGE, s.hugetlb[i].usage, s.hugetlb[i].size);
        if (s.hugetlb[i].has_max)
            add(&o, M_HUGETLB_MAX, s.hugetlb[i].max_usage, s.hugetlb[i].size);
    }
    add(&o, M_LAST_SEEN, seconds((uint64_t)clock_wall_ns()));
    add(&o, M_START_TIME, seconds((uint64_t)c->rec->started_at));
    stats_deinit(&s);
    m.container_id = c->id;
    m.metrics = o.v;
    m.n_metrics = o.n;
    gather_part(g, CONTAINER_METRICS, &m.base);
}

static void add_sandbox(struct gather *g, const char *id)
{
    struct sandbox *s = sandbox_by_id(gather_handlers(g), id);
    Runtime__V1__PodSandboxMetrics m = RUNTIME__V1__POD_SANDBOX_METRICS__INIT;

    if (!s || !s->visible || !sandbox_is_ready(s))
        return;
    const Runtime__V1__PodSandboxMetadata *pod = s->config->metadata;
    struct out o = { .pool = gather_pool(g),
                     .base = { s->rec->cgroup_parent, "", "", pod->namespace_, pod->name, "" } };
    struct stats_net net;

    if (!sandbox_host_network(s) && s->rec->netns[0] &&
        stats_net_read(s->rec->netns, &net, NULL) == 0) {
        add_network(&o, &net);
        stats_net_deinit(&net);
    }
    if (sandbox_has_own_cgroup(s)) {
        struct stats st;

        stats_read(s->rec->cgroup_parent,
                   STATS_CPU | STATS_CPU_MORE | STATS_MEMORY | STATS_MEMORY_MORE | STATS_PSI, &st);
        add_cpu(&o, &st);
        add_memory(&o, &st);
        add_psi(&o, &st);
        stats_deinit(&st);
    }
    m.pod_sandbox_id = s->id;
    m.metrics = o.v;
    m.n_metrics = o.n;
    gather_entry(g, &m.base);
}

static void list_metrics(struct handlers *h, struct rpc *rpc, enum gather_kind kind)
{
    struct gather *g = gather_new(h, rpc, kind, add_sandbox);
    struct sandbox *s;
    struct ctr *c;

    sandbox_each(h, i, s) {
        if (!s->visible || !sandbox_is_ready(s))
            continue;
        gather_add(g, s->id);
        list_each(c, &s->ctrs, struct ctr, in_sandbox)
            if (is_running(c)) {
                gather_add_part(g, c->id, add_container);
                gather_usage(g, c);
                gather_fds(g, c);
            }
    }
    gather_start(g);
}

void handle_list_pod_sandbox_metrics(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    (void)req;
    list_metrics(ctx, rpc, GATHER_LIST);
}

void handle_stream_pod_sandbox_metrics(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    (void)req;
    list_metrics(ctx, rpc, GATHER_STREAM);
}

void handle_list_metric_descriptors(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    Runtime__V1__ListMetricDescriptorsResponse r =
        RUNTIME__V1__LIST_METRIC_DESCRIPTORS_RESPONSE__INIT;
    auto_pool struct pool pool = POOL_INIT;

    (void)req;
    (void)ctx;
    r.descriptors = pool_alloc(&pool, METRICS * sizeof(void *));
    for (size_t i = 0; i < METRICS; i++) {
        const struct metric_desc *d = &metric_table[i];
        Runtime__V1__MetricDescriptor *m = pool_alloc(&pool, sizeof *m);
        size_t n = n_extra(d);

        runtime__v1__metric_descriptor__init(m);
        m->name = (char *)(uintptr_t)d->name;
        m->help = (char *)(uintptr_t)d->help;
        m->label_keys = pool_alloc(&pool, (METRIC_BASE_LABELS + n) * sizeof(char *));
        for (size_t k = 0; k < METRIC_BASE_LABELS; k++)
            m->label_keys[m->n_label_keys++] = (char *)(uintptr_t)metric_base_labels[k];
        for (size_t k = 0; k < n; k++)
            m->label_keys[m->n_label_keys++] = (char *)(uintptr_t)d->labels[k];
        r.descriptors[r.n_descriptors++] = m;
    }
    rpc_ok(rpc, &r.base);
}
