/* SPDX-License-Identifier: Apache-2.0 */
#include "pull/remover.h"

#include "log.h"
#include "mem.h"
#include "reactor/child.h"
#include "str.h"

#include <string.h>

enum {
    RECHECK_MS = 2000,
    HELD_MAX_MS = 30 * 1000,         /* pulls may hold it back for so long */
};

struct remover {
    struct loop *loop;
    int root_fd;
    char *worker;
    bool (*busy)(void *ctx);
    void *ctx;
    struct str queue;                /* one path per line */
    int64_t since_ms;                /* since when something is queued */
    struct run *run;
    struct ev_timer timer;
};

static void arm(struct remover *r, int64_t ms)
{
    struct ev_loop *ev = loop_ev(r->loop);

    ev_timer_stop(ev, &r->timer);
    ev_timer_set(&r->timer, (double)ms / 1000, 0);
    ev_timer_start(ev, &r->timer);
}

static void on_done(void *arg, const struct run_result *res)
{
    struct remover *r = arg;

    r->run = NULL;
    if (res->status != 0)
        log_warn("op=remove status=%d err='%s', ignoring until the next start", res->status,
                 res->errout);
    if (r->queue.len)
        arm(r, 0);
}

static void start(struct remover *r)
{
    char *const argv[] = { (char[]){ "cricket-worker" }, (char[]){ "remove" }, NULL };
    const struct child_fd fds[] = { { r->root_fd, 3 } };
    struct child_opts o = CHILD_OPTS_INIT;
    struct err err = ERR_INIT;

    o.path = r->worker;
    o.argv = argv;
    o.fds = fds;
    o.n_fds = ARRAY_LEN(fds);
    if (run_start(r->loop, &o, r->queue.p, r->queue.len, 4096, 0, on_done, r, &r->run, &err) < 0) {
        log_warn("op=remove err='%s', ignoring until the next start", err.text);
        r->run = NULL;
    }
    str_reset(&r->queue);
}

static void on_timer(struct ev_loop *ev, struct ev_timer *w, int revents)
{
    struct remover *r = w->data;

    (void)ev;
    (void)revents;
    if (r->run || !r->queue.len)
        return;
    if (r->busy(r->ctx) && clock_mono_ms() - r->since_ms < HELD_MAX_MS)
        arm(r, RECHECK_MS);
    else
        start(r);
}

void remover_add(struct remover *r, const char *rel)
{
    if (!r->queue.len)
        r->since_ms = clock_mono_ms();
    str_printf(&r->queue, "%s\n", rel);
    if (!r->run && !ev_is_active(&r->timer))
        arm(r, 0);
}

struct remover *remover_new(struct loop *l, int root_fd, const char *worker,
                            bool (*busy)(void *ctx), void *ctx)
{
    struct remover *r = mem_new(struct remover);

    r->loop = l;
    r->root_fd = root_fd;
    r->worker = mem_strdup(worker);
    r->busy = busy;
    r->ctx = ctx;
    ev_init(&r->timer, on_timer);
    r->timer.data = r;
    return r;
}

struct remover *remover_free(struct remover *r)
{
    if (!r)
        return NULL;
    if (r->run)
        run_cancel(r->run);
    ev_timer_stop(loop_ev(r->loop), &r->timer);
    str_free(&r->queue);
    free(r->worker);
    free(r);
    return NULL;
}
