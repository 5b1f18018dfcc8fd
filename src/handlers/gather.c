/* SPDX-License-Identifier: Apache-2.0 */
/* struct gather: see gather.h.
 *
 *      gather_start --> wait --> slices of 2 ms --> reply
 *                       never measured: for the worker, 1 s; open files: for theirs
 *
 * It owns itself: freed with the reply, or when the client goes away. */
#include "handlers/gather.h"

#include "handlers/rpcs.h"
#include "handlers/stats.h"
#include "log.h"
#include "mem.h"
#include "reactor/child.h"
#include "reactor/pool.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    SLICE_US = 2000,
    BATCH_BYTES = 64 * 1024,
    USAGE_WAIT_MS = 1000,
    FDS_WAIT_MS = 5000,
    OUT_MAX = 4 * 1024 * 1024,
};

struct fds_entry {
    char id[ID_LEN + 1];
    uint64_t fds, sockets;
};

struct item {
    char id[ID_LEN + 1];
    gather_fn part;                  /* NULL: an entry of its own */
};

struct gather {
    struct handlers *h;
    struct rpc *rpc;
    enum gather_kind kind;
    gather_fn fn;
    struct item *items;
    size_t n, cap, at, entries;
    char (*usage)[ID_LEN + 1];       /* containers that were never measured */
    size_t n_usage;
    struct measure_wait wait;
    struct str fds_in;               /* for the worker */
    struct fds_entry *fds;
    size_t n_fds;
    struct run *run;
    bool waiting;                    /* for the disk usage */
    bool begun;                      /* entry: the parts so far */
    struct gather_sum sum;
    struct str reply, entry, part;
    struct pool pool;
    ev_timer timer;
};

static void gather_free(struct gather *g)
{
    ev_timer_stop(loop_ev(g->h->loop), &g->timer);
    list_del(&g->wait.link);
    if (g->run)
        run_cancel(g->run);
    free(g->items);
    free(g->usage);
    free(g->fds);
    stats_deinit(&g->sum.stats);
    str_free(&g->fds_in);
    str_free(&g->reply);
    str_free(&g->entry);
    str_free(&g->part);
    pool_deinit(&g->pool);
    rpc_release(g->rpc);
    free(g);
}

static int64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void on_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    (void)rpc;
    (void)why;
    gather_free(arg);
}

static void finish(struct gather *g)
{
    rpc_on_gone(g->rpc, NULL, NULL);
    rpc_on_drain(g->rpc, NULL, NULL);
    if (g->kind == GATHER_STREAM)
        rpc_end(g->rpc);
    else if (g->kind == GATHER_ONE && !g->entries)
        rpc_fail(g->rpc, GRPC_NOT_FOUND, "'%s': not found (any more), or not running",
                 g->n ? g->items[0].id : "");
    else
        rpc_ok_bytes(g->rpc, str_c(&g->reply), g->reply.len);
    gather_free(g);
}

/* A batch leaves; the next one is made when the client has read this one. */
static void send_batch(struct gather *g)
{
    int r = rpc_send_bytes(g->rpc, str_c(&g->reply), g->reply.len);

    str_reset(&g->reply);
    if (r < 0) { /* ended by rpc_send_bytes, or refused although nothing was queued */
        rpc_on_gone(g->rpc, NULL, NULL);
        rpc_on_drain(g->rpc, NULL, NULL);
        rpc_fail(g->rpc, GRPC_RESOURCE_EXHAUSTED, "%s: a batch cannot be sent", rpc_method(g->rpc));
        gather_free(g);
    }
}

static void end_entry(struct gather *g)
{
    if (g->begun)
        pb_join(&g->reply, 1, &g->entry);
    g->entries += g->begun;
    g->begun = false;
}

static void work(struct gather *g)
{
    int64_t end = now_us() + SLICE_US;

    loop_name(g->h->loop, "statistics");
    while (g->at < g->n) {
        const struct item *i = &g->items[g->at];

        if (!i->part)
            end_entry(g);
        if (g->kind == GATHER_STREAM && g->reply.len >= BATCH_BYTES) {
            send_batch(g);
            return;
        }
        g->at++;
        (i->part ? i->part : g->fn)(g, i->id);
        pool_deinit(&g->pool);
        g->pool = (struct pool)POOL_INIT;
        if (g->at < g->n && now_us() >= end) {
            loop_timer(g->h->loop, &g->timer, 0);
            return;
        }
    }
    end_entry(g);
    if (g->kind == GATHER_STREAM && g->reply.len)
        send_batch(g);
    else
        finish(g);
}

static void on_drain(struct rpc *rpc, void *arg)
{
    (void)rpc;
    work(arg);
}

/* What was waited for is there, or will not come. */
static void go_on(struct gather *g)
{
    if (!g->waiting && !g->run)
        work(g);
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct gather *g = w->data;

    (void)ev;
    (void)revents;
    g->waiting = false;                              /* a second is over: without the usage */
    list_del(&g->wait.link);
    go_on(g);
}

static void on_measured(void *arg)
{
    struct gather *g = arg;

    for (size_t i = 0; i < g->n_usage; i++) {
        const struct ctr *c = ctr_by_id(g->h, g->usage[i]);

        if (c && c->stats && !c->stats->measured && c->stats->asked)
            return;                                  /* in the next worker's turn */
    }
    list_del(&g->wait.link);
    g->waiting = false;
    loop_timer(g->h->loop, &g->timer, 0);            /* not from inside the worker's end */
}

static void on_fds(void *arg, const struct run_result *r)
{
    struct gather *g = arg;
    const char *line = r->out;

    g->run = NULL;
    if (r->status != 0)
        log_warn("op=measure what=fds status=%d err='%s', left out", r->status, r->errout);
    while (r->status == 0 && *line) {
        struct fds_entry e;

        if (sscanf(line, "%64s %" SCNu64 " %" SCNu64, e.id, &e.fds, &e.sockets) == 3) {
            g->fds = mem_grow(g->fds, g->n_fds + 1, sizeof *g->fds);
            g->fds[g->n_fds++] = e;
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    go_on(g);
}

static void start_fds(struct gather *g)
{
    char job[] = "measure", what[] = "fds", *argv[] = { g->h->worker_path, job, what, NULL };
    struct child_opts o = CHILD_OPTS_INIT;
    struct err err = ERR_INIT;

    o.path = g->h->worker_path;
    o.argv = argv;
    if (run_start(g->h->loop, &o, g->fds_in.p, g->fds_in.len, OUT_MAX, FDS_WAIT_MS, on_fds, g,
                  &g->run, &err) < 0)
        log_warn("op=measure what=fds err='%s', left out", err.text);
}

struct gather *gather_new(struct handlers *h, struct rpc *rpc, enum gather_kind kind, gather_fn fn)
{
    struct gather *g = mem_new(struct gather);

    g->h = h;
    g->rpc = rpc;
    g->kind = kind;
    g->fn = fn;
    list_init(&g->wait.link);
    ev_timer_init(&g->timer, on_timer, 0., 0.);
    g->timer.data = g;
    rpc_keep(rpc);
    return g;
}

void gather_add_part(struct gather *g, const char *id, gather_fn fn)
{
    struct item *i;

    if (g->n == g->cap) {
        g->cap = g->cap ? g->cap * 2 : 64;
        g->items = mem_grow(g->items, g->cap, sizeof *g->items);
    }
    i = &g->items[g->n++];
    snprintf(i->id, sizeof i->id, "%s", id);
    i->part = fn;
}

void gather_add(struct gather *g, const char *id)
{
    gather_add_part(g, id, NULL);
}

void gather_usage(struct gather *g, struct ctr *c)
{
    measure_want(c);
    if (c->stats->measured)
        return;
    g->usage = mem_grow(g->usage, g->n_usage + 1, sizeof *g->usage);
    memcpy(g->usage[g->n_usage++], c->id, sizeof *g->usage);
}

void gather_fds(struct gather *g, struct ctr *c)
{
    size_t n = 0;
    int *pids = NULL;

    if (stats_pids(c->rec->cgroup_path, &pids, &n, NULL) < 0)
        return;                                      /* not running (any more) */
    str_puts(&g->fds_in, c->id);
    for (size_t i = 0; i < n; i++)
        str_printf(&g->fds_in, " %d", pids[i]);
    str_putc(&g->fds_in, '\n');
    free(pids);
}

void gather_start(struct gather *g)
{
    rpc_on_gone(g->rpc, on_gone, g);
    if (g->kind == GATHER_STREAM) {
        rpc_begin(g->rpc);
        rpc_on_drain(g->rpc, on_drain, g);
    }
    measure_start(g->h);
    if (g->n_usage) {
        g->waiting = true;
        measure_wait(g->h, &g->wait, on_measured, g);
        loop_timer(g->h->loop, &g->timer, USAGE_WAIT_MS);
    }
    if (g->fds_in.len)
        start_fds(g);
    go_on(g);
}

struct handlers *gather_handlers(struct gather *g)
{
    return g->h;
}

struct pool *gather_pool(struct gather *g)
{
    return &g->pool;
}

static void pack(struct str *s, const ProtobufCMessage *m)
{
    str_reset(s);
    (void)str_room(s, protobuf_c_message_get_packed_size(m));
    s->len = protobuf_c_message_pack(m, (uint8_t *)s->p);
}

void gather_entry(struct gather *g, const ProtobufCMessage *entry)
{
    pack(&g->entry, entry);
    g->begun = true;
    stats_deinit(&g->sum.stats);
    memset(&g->sum, 0, sizeof g->sum);
}

void gather_drop(struct gather *g)
{
    g->begun = false;
}

struct gather_sum *gather_sum(struct gather *g)
{
    return &g->sum;
}

void gather_part(struct gather *g, unsigned number, const ProtobufCMessage *part)
{
    if (!g->begun)
        return;
    pack(&g->part, part);
    pb_join(&g->entry, number, &g->part);
}

bool gather_get_fds(struct gather *g, const char *ctr_id, uint64_t *fds, uint64_t *sockets)
{
    for (size_t i = 0; i < g->n_fds; i++)
        if (strcmp(g->fds[i].id, ctr_id) == 0) {
            *fds = g->fds[i].fds;
            *sockets = g->fds[i].sockets;
            return true;
        }
    return false;
}
