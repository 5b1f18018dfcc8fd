/* SPDX-License-Identifier: Apache-2.0 */
/* How much the containers have written: measured by a worker, told from memory.
 *
 * kubelet asks every ten seconds for all of them, and a walk over a million files takes longer than
 * that. So a request is answered with the last numbers and queues a new walk where they are older
 * than MEASURE_TTL_MS; one worker at a time takes the whole queue. Nobody asks: nobody walks. */
#include "handlers/stats.h"

#include "log.h"
#include "mem.h"
#include "reactor/child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    OUT_MAX = 4 * 1024 * 1024,
    WALK_MAX_MS = 30 * 60 * 1000,    /* a disk that hangs */
};

struct stats_state {
    struct handlers *h;
    struct run *run;
    struct list waits;
};

static struct stats_state *state(struct handlers *h)
{
    if (!h->stats) {
        h->stats = mem_new(struct stats_state);
        h->stats->h = h;
        list_init(&h->stats->waits);
    }
    return h->stats;
}

struct stats_state *stats_state_free(struct stats_state *st)
{
    if (st && st->run)
        run_cancel(st->run);
    free(st);
    return NULL;
}

void ctr_stats_free(struct ctr_stats *s)
{
    free(s);
}

struct ctr_stats *ctr_stats_get(struct ctr_stats **s)
{
    if (!*s)
        *s = mem_new(struct ctr_stats);
    return *s;
}

void measure_want(struct ctr *c)
{
    struct ctr_stats *s = ctr_stats_get(&c->stats);

    if (!s->asked && (!s->measured || clock_mono_ms() - s->measured_mono_ms >= MEASURE_TTL_MS))
        s->asked = true;
}

void measure_wait(struct handlers *h, struct measure_wait *w, void (*cb)(void *arg), void *arg)
{
    w->cb = cb;
    w->arg = arg;
    list_add_tail(&state(h)->waits, &w->link);
}

/* What was asked for since the worker began is left for the next one; what it did not tell is asked
 * for again by the next request. */
static void take(struct handlers *h, const char *out)
{
    char id[ID_LEN + 1];
    uint64_t bytes, inodes;
    struct ctr *c;

    while (*out) {
        if (sscanf(out, "%64[^/ \n]/upper %" SCNu64 " %" SCNu64, id, &bytes, &inodes) == 3) {
            c = ctr_by_id(h, id);
            if (c && c->stats) {
                c->stats->measured = true;
                c->stats->bytes = bytes;
                c->stats->inodes = inodes;
                c->stats->measured_at_ns = clock_stamp_ns();
                c->stats->measured_mono_ms = clock_mono_ms();
            }
        }
        out += strcspn(out, "\n");
        out += *out == '\n';
    }
    ctr_each(h, i, c)
        if (c->stats && c->stats->walked)
            c->stats->asked = c->stats->walked = false;
}

static void tell(struct stats_state *st)
{
    struct measure_wait *w;

    list_each(w, &st->waits, struct measure_wait, link)
        w->cb(w->arg);
}

static void on_done(void *arg, const struct run_result *r)
{
    struct stats_state *st = arg;

    st->run = NULL;
    if (r->status != 0)
        log_warn("op=measure what=trees status=%d timed_out=%d err='%s', keeping the old numbers",
                 r->status, r->timed_out, r->errout);
    take(st->h, r->out);
    if (!st->h->ending)
        measure_start(st->h);
    tell(st);
}

void measure_start(struct handlers *h)
{
    struct stats_state *st = state(h);
    auto_free char *root = mem_printf("%s/containers", h->conf->root);
    char job[] = "measure", what[] = "trees", *argv[] = { h->worker_path, job, what, NULL };
    struct child_opts o = CHILD_OPTS_INIT;
    auto_str struct str in = STR_INIT;
    struct err err = ERR_INIT;
    struct ctr *c;
    int r;

    if (st->run)
        return;
    ctr_each(h, i, c)
        if (c->stats && c->stats->asked) {
            str_printf(&in, "%s/upper\n", c->id);
            c->stats->walked = true;
        }
    if (!in.len)
        return;
    auto_fd int dir = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct child_fd fds[] = { { dir, 3 } };

    o.path = h->worker_path;
    o.argv = argv;
    o.fds = fds;
    o.n_fds = 1;
    r = dir < 0 ? err_sys(&err, "'%s'", root)
                : run_start(h->loop, &o, in.p, in.len, OUT_MAX, WALK_MAX_MS, on_done, st, &st->run,
                            &err);
    if (r < 0) {
        log_warn("op=measure what=trees err='%s', keeping the old numbers", err.text);
        take(h, "");
    }
}
