/* SPDX-License-Identifier: Apache-2.0 */
/* ContainerStats, PodSandboxStats and their lists and streams (CRI.md 4.18, 4.19, 11.2, 11.3).
 *
 * Everything is read when it is asked for, except disk usage (measure.c). usage_nano_cores is made
 * of the last two readings that were at least RATE_MIN_MS apart. kubelet dereferences attributes,
 * metadata and default_interface without looking. */
#include "handlers/stats.h"

#include "handlers/gather.h"
#include "handlers/rpcs.h"
#include "log.h"
#include "proc/stats.h"
#include "reactor/pool.h"

#include <string.h>

enum { RATE_MIN_MS = 100 };

#define lend_map(dst, src, name) \
    do { \
        (dst)->n_##name = (src)->n_##name; \
        (dst)->name = (void *)(src)->name; \
    } while (0)

/* A message of the pool: make(pool, cpu_usage, CpuUsage). */
#define make(pool, name, type) \
    __extension__({ \
        Runtime__V1__##type *m_ = pool_alloc(pool, sizeof *m_); \
        runtime__v1__##name##__init(m_); \
        m_; \
    })

static Runtime__V1__UInt64Value *u64(struct pool *pool, uint64_t v)
{
    Runtime__V1__UInt64Value *m = make(pool, uint64_value, UInt64Value);

    m->value = v;
    return m;
}

/* ---- parts */

static Runtime__V1__PsiData *psi_data(struct pool *pool, const struct stats_psi_line *l)
{
    Runtime__V1__PsiData *m = make(pool, psi_data, PsiData);

    m->total = l->total_us * 1000;
    m->avg10 = l->avg10;
    m->avg60 = l->avg60;
    m->avg300 = l->avg300;
    return m;
}

static Runtime__V1__PsiStats *psi_stats(struct pool *pool, const struct stats_psi *p)
{
    Runtime__V1__PsiStats *m;

    if (!p->has_some && !p->has_full)
        return NULL;
    m = make(pool, psi_stats, PsiStats);
    m->some = p->has_some ? psi_data(pool, &p->some) : NULL;
    m->full = p->has_full ? psi_data(pool, &p->full) : NULL;
    return m;
}

static void sample(struct ctr_stats *s, const struct stats *now)
{
    int64_t dt = now->at_ns - s->sample_at_ns;

    if (s->has_sample && dt < RATE_MIN_MS * 1000000LL)
        return;
    s->has_rate = s->has_sample && now->cpu_ns >= s->sample_cpu_ns;
    if (s->has_rate)
        s->nano_cores = (uint64_t)((double)(now->cpu_ns - s->sample_cpu_ns) * 1e9 / (double)dt);
    s->has_sample = true;
    s->sample_at_ns = now->at_ns;
    s->sample_cpu_ns = now->cpu_ns;
}

static Runtime__V1__CpuUsage *cpu(struct pool *pool, const struct stats *s, struct ctr_stats *keep)
{
    Runtime__V1__CpuUsage *m;

    if (!s->has_cpu)
        return NULL;
    sample(keep, s);
    m = make(pool, cpu_usage, CpuUsage);
    m->timestamp = s->at_ns;
    m->usage_core_nano_seconds = u64(pool, s->cpu_ns);
    m->usage_nano_cores = keep->has_rate ? u64(pool, keep->nano_cores) : NULL;
    m->psi = psi_stats(pool, &s->cpu_psi);
    return m;
}

static Runtime__V1__MemoryUsage *memory(struct pool *pool, const struct stats *s)
{
    Runtime__V1__MemoryUsage *m;

    if (!s->has_memory)
        return NULL;
    m = make(pool, memory_usage, MemoryUsage);
    m->timestamp = s->at_ns;
    m->working_set_bytes = u64(pool, s->working_set);
    m->available_bytes = u64(pool, s->limit == STATS_NO_LIMIT || s->limit < s->working_set
                                       ? 0
                                       : s->limit - s->working_set);
    m->usage_bytes = u64(pool, s->usage);
    m->rss_bytes = u64(pool, s->rss);
    m->page_faults = u64(pool, s->page_faults);
    m->major_page_faults = u64(pool, s->major_page_faults);
    m->psi = psi_stats(pool, &s->memory_psi);
    return m;
}

static Runtime__V1__SwapUsage *swap(struct pool *pool, const struct stats *s)
{
    Runtime__V1__SwapUsage *m;

    if (!s->has_swap)
        return NULL;
    m = make(pool, swap_usage, SwapUsage);
    m->timestamp = s->at_ns;
    m->swap_usage_bytes = u64(pool, s->swap_usage);
    if (s->swap_limit != STATS_NO_LIMIT)
        m->swap_available_bytes = u64(
            pool, s->swap_limit > s->swap_usage ? s->swap_limit - s->swap_usage : 0);
    return m;
}

static Runtime__V1__IoUsage *io(struct pool *pool, const struct stats *s)
{
    Runtime__V1__PsiStats *psi = psi_stats(pool, &s->io_psi);
    Runtime__V1__IoUsage *m;

    if (!psi)
        return NULL;
    m = make(pool, io_usage, IoUsage);
    m->timestamp = s->at_ns;
    m->psi = psi;
    return m;
}

Runtime__V1__FilesystemUsage *stats_layer(struct ctr *c, struct pool *pool)
{
    Runtime__V1__FilesystemUsage *m;

    if (!c->stats || !c->stats->measured)
        return NULL;
    m = make(pool, filesystem_usage, FilesystemUsage);
    m->timestamp = c->stats->measured_at_ns;
    m->fs_id = make(pool, filesystem_identifier, FilesystemIdentifier);
    m->fs_id->mountpoint = c->h->conf->root;
    m->used_bytes = u64(pool, c->stats->bytes);
    m->inodes_used = u64(pool, c->stats->inodes);
    return m;
}

/* sum (may be NULL) gets what was read, for a pod without a cgroup of its own. */
static Runtime__V1__ContainerStats *container(struct ctr *c, struct pool *pool, struct stats *sum,
                                              uint64_t *pids)
{
    Runtime__V1__ContainerStats *m = make(pool, container_stats, ContainerStats);
    struct stats s;

    m->attributes = make(pool, container_attributes, ContainerAttributes);
    m->attributes->id = c->id;
    m->attributes->metadata = c->config->metadata;
    lend_map(m->attributes, c->config, labels);
    lend_map(m->attributes, c->config, annotations);
    m->writable_layer = stats_layer(c, pool);
    if (ctr_state(c) != RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING)
        return m;
    stats_read(c->rec->cgroup_path, STATS_CPU | STATS_MEMORY | STATS_PSI | (pids ? STATS_PIDS : 0),
               &s);
    m->cpu = cpu(pool, &s, ctr_stats_get(&c->stats));
    m->memory = memory(pool, &s);
    m->swap = swap(pool, &s);
    m->io = io(pool, &s);
    if (pids)
        *pids += s.pids;
    if (sum)
        stats_add(sum, &s);
    stats_deinit(&s);
    return m;
}

/* ---- containers */

static void add_container(struct gather *g, const char *id)
{
    struct ctr *c = ctr_by_id(gather_handlers(g), id);

    if (c && c->visible)
        gather_entry(g, &container(c, gather_pool(g), NULL, NULL)->base);
}

void handle_container_stats(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ContainerStatsRequest *q = (const void *)req;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(ctx, q->container_id, &err);
    struct gather *g;

    if (!c) {
        rpc_fail_err(rpc, &err);
        return;
    }
    g = gather_new(ctx, rpc, GATHER_ONE, add_container);
    gather_add(g, c->id);
    gather_usage(g, c);
    gather_start(g);
}

static void list_containers(struct handlers *h, struct rpc *rpc,
                            const Runtime__V1__ContainerStatsFilter *f, enum gather_kind kind)
{
    struct gather *g = gather_new(h, rpc, kind, add_container);
    struct ctr *c;

    ctr_each(h, i, c) {
        if (!c->visible ||
            (f && (!id_matches(c->id, f->id) || !id_matches(c->sandbox->id, f->pod_sandbox_id) ||
                   !labels_match((void **)f->label_selector, f->n_label_selector,
                                 (void **)c->config->labels, c->config->n_labels))))
            continue;
        gather_add(g, c->id);
        gather_usage(g, c);
    }
    gather_start(g);
}

void handle_list_container_stats(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    list_containers(ctx, rpc,
                    ((const Runtime__V1__ListContainerStatsRequest *)(const void *)req)->filter,
                    GATHER_LIST);
}

void handle_stream_container_stats(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    list_containers(ctx, rpc,
                    ((const Runtime__V1__StreamContainerStatsRequest *)(const void *)req)->filter,
                    GATHER_STREAM);
}

/* ---- sandboxes */

bool sandbox_has_own_cgroup(const struct sandbox *s)
{
    return s->config->linux && s->config->linux->cgroup_parent[0];
}

static Runtime__V1__NetworkInterfaceUsage *interface(struct pool *pool,
                                                     const struct stats_interface *i)
{
    Runtime__V1__NetworkInterfaceUsage *m = make(pool, network_interface_usage,
                                                 NetworkInterfaceUsage);

    m->name = pool_strdup(pool, i->name);
    m->rx_bytes = u64(pool, i->rx_bytes);
    m->rx_errors = u64(pool, i->rx_errors);
    m->tx_bytes = u64(pool, i->tx_bytes);
    m->tx_errors = u64(pool, i->tx_errors);
    return m;
}

static Runtime__V1__NetworkUsage *network(struct sandbox *s, struct pool *pool)
{
    Runtime__V1__NetworkUsage *m = NULL;
    struct err err = ERR_INIT;
    struct stats_net n;

    if (sandbox_host_network(s) || !s->rec->netns[0])
        return NULL;
    if (stats_net_read(s->rec->netns, &n, &err) < 0) {
        log_debug("op=stats sandbox=%s err='%s'", s->id, err.text);
        return NULL;
    }
    if (n.n > 0) { /* a block without a default interface makes kubelet panic */
        m = make(pool, network_usage, NetworkUsage);
        m->timestamp = n.at_ns;
        m->default_interface = interface(pool, &n.v[0]);
        m->interfaces = pool_alloc(pool, n.n * sizeof(void *));
        for (size_t i = 1; i < n.n; i++)
            m->interfaces[m->n_interfaces++] = interface(pool, &n.v[i]);
    }
    stats_net_deinit(&n);
    return m;
}

/* A pod may have a hundred containers: each is a part of the entry, in a slice of its own. On the
 * wire a message in parts is the same as one in a piece. */
enum { POD_LINUX = 2 };              /* PodSandboxStats.linux */

static struct sandbox *ready_sandbox(struct gather *g, const char *id)
{
    struct sandbox *s = sandbox_by_id(gather_handlers(g), id);

    return s && s->visible && sandbox_is_ready(s) ? s : NULL;
}

static void add_sandbox(struct gather *g, const char *id)
{
    struct sandbox *s = ready_sandbox(g, id);
    struct pool *pool = gather_pool(g);
    Runtime__V1__PodSandboxStats *m;

    if (!s)
        return;
    m = make(pool, pod_sandbox_stats, PodSandboxStats);
    m->attributes = make(pool, pod_sandbox_attributes, PodSandboxAttributes);
    m->attributes->id = s->id;
    m->attributes->metadata = s->config->metadata;
    lend_map(m->attributes, s->config, labels);
    lend_map(m->attributes, s->config, annotations);
    gather_entry(g, &m->base);
}

static void add_sandbox_container(struct gather *g, const char *id)
{
    struct ctr *c = ctr_by_id(gather_handlers(g), id);
    Runtime__V1__LinuxPodSandboxStats l = RUNTIME__V1__LINUX_POD_SANDBOX_STATS__INIT;
    struct gather_sum *sum = gather_sum(g);
    Runtime__V1__ContainerStats *one;

    if (!c || !c->visible)
        return;
    one = container(c, gather_pool(g), sandbox_has_own_cgroup(c->sandbox) ? NULL : &sum->stats,
                    &sum->pids);
    l.containers = &one;
    l.n_containers = 1;
    gather_part(g, POD_LINUX, &l.base);
}

static void end_sandbox(struct gather *g, const char *id)
{
    struct sandbox *s = ready_sandbox(g, id);
    struct pool *pool = gather_pool(g);
    struct gather_sum *sum = gather_sum(g);
    Runtime__V1__LinuxPodSandboxStats l = RUNTIME__V1__LINUX_POD_SANDBOX_STATS__INIT;

    if (!s) {                        /* went while its containers were looked at */
        gather_drop(g);
        return;
    }
    if (sandbox_has_own_cgroup(s))
        stats_read(s->rec->cgroup_parent, STATS_CPU | STATS_MEMORY | STATS_PSI, &sum->stats);
    l.cpu = cpu(pool, &sum->stats, ctr_stats_get(&s->stats));
    l.memory = memory(pool, &sum->stats);
    l.io = io(pool, &sum->stats);
    l.network = network(s, pool);
    l.process = make(pool, process_usage, ProcessUsage);
    l.process->timestamp = clock_stamp_ns();
    l.process->process_count = u64(pool, sum->pids);
    gather_part(g, POD_LINUX, &l.base);
}

static void want_sandbox(struct gather *g, struct sandbox *s)
{
    struct ctr *c;

    gather_add(g, s->id);
    list_each(c, &s->ctrs, struct ctr, in_sandbox)
        if (c->visible) {
            gather_add_part(g, c->id, add_sandbox_container);
            gather_usage(g, c);
        }
    gather_add_part(g, s->id, end_sandbox);
}

void handle_pod_sandbox_stats(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__PodSandboxStatsRequest *q = (const void *)req;
    struct err err = ERR_INIT;
    struct sandbox *s = sandbox_find(ctx, q->pod_sandbox_id, &err);
    struct gather *g;

    if (!s) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (!sandbox_is_ready(s)) {
        rpc_fail(rpc, GRPC_FAILED_PRECONDITION, "statistics of sandbox '%s': it is not ready",
                 s->id);
        return;
    }
    g = gather_new(ctx, rpc, GATHER_ONE, add_sandbox);
    want_sandbox(g, s);
    gather_start(g);
}

static void list_sandboxes(struct handlers *h, struct rpc *rpc,
                           const Runtime__V1__PodSandboxStatsFilter *f, enum gather_kind kind)
{
    struct gather *g = gather_new(h, rpc, kind, add_sandbox);
    struct sandbox *s;

    sandbox_each(h, i, s) {
        if (!s->visible || !sandbox_is_ready(s) ||
            (f && (!id_matches(s->id, f->id) ||
                   !labels_match((void **)f->label_selector, f->n_label_selector,
                                 (void **)s->config->labels, s->config->n_labels))))
            continue;
        want_sandbox(g, s);
    }
    gather_start(g);
}

void handle_list_pod_sandbox_stats(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    list_sandboxes(ctx, rpc,
                   ((const Runtime__V1__ListPodSandboxStatsRequest *)(const void *)req)->filter,
                   GATHER_LIST);
}

void handle_stream_pod_sandbox_stats(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    list_sandboxes(ctx, rpc,
                   ((const Runtime__V1__StreamPodSandboxStatsRequest *)(const void *)req)->filter,
                   GATHER_STREAM);
}
