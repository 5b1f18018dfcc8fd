/* SPDX-License-Identifier: Apache-2.0 */
/* When a container ends (CRI.md 4.9, 8.3).
 *
 * The supervisor has drained the logs and keeps a record of the exit until it is told that ours is
 * on disk: the acknowledgement leaves behind the store's commit, in ctr_acks_flush(). What is left
 * of the container's cgroup (its children, where the PID namespace is shared) is killed and the
 * cgroup removed, which may need a few tries: rmdir(2) fails with EBUSY until the last process has
 * been reaped. Then a worker removes what the container has in resctrl. */
#include "handlers/ctr_op.h"

#include "handlers/restore.h"
#include "handlers/rpcs.h"
#include "handlers/sandbox_op.h"
#include "mem.h"
#include "proc/cgroup.h"
#include "proc/rdt.h"
#include "reactor/child.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { SWEEP_TRIES = 40, SWEEP_FIRST_MS = 2, SWEEP_MAX_MS = 500, MESSAGE_MAX = 4096 };

void exit_wait_add(struct ctr *c, struct exit_wait *w, struct op *op)
{
    w->op = op;
    list_add_tail(&c->exit_waits, &w->l);
}

/* --- cgroups, and places in resctrl, that are on their way out */

struct sweep {
    struct list l;
    struct ev_timer timer;
    struct handlers *h;
    char id[ID_LEN + 1];             /* of the container */
    char *path, *pod_dir;
    struct child *worker;            /* the cgroup is gone; or NULL */
    int tries;
    double wait_s;
    struct list waits;               /* struct exit_wait */
};

static void wake_all(struct list *from)
{
    struct exit_wait *w;

    while ((w = list_first(from, struct exit_wait, l))) {
        list_del(&w->l);
        op_wake(w->op, WAKE_DONE);
    }
}

static void sweep_free(struct sweep *w)
{
    wake_all(&w->waits);
    ev_timer_stop(loop_ev(w->h->loop), &w->timer);
    list_del(&w->l);
    free(w->path);
    free(w->pod_dir);
    free(w);
}

static void on_resctrl(void *arg, int status)
{
    struct sweep *w = arg;

    if (status)
        log_warn("op=sweep ctr=%s err='its groups in resctrl cannot be removed (exit status %d)', "
                 "left for its removal or the next start", w->id, status);
    else
        rdt_forget(w->pod_dir, w->id);
    sweep_free(w);
}

/* The end: or, where the container has a place in resctrl, when that is gone. */
static void sweep_resctrl(struct sweep *w)
{
    struct child_opts o = CHILD_OPTS_INIT;
    struct err err = ERR_INIT;
    struct rdt_place p;
    int r = -1;

    if (rdt_read(w->pod_dir, w->id, &p)) {
        char *argv[] = { w->h->worker_path, (char *)(uintptr_t)"resctrl", p.root, p.dirs[0],
                         p.dirs[1], NULL };

        o.path = w->h->worker_path;
        o.argv = argv;
        r = child_spawn(w->h->loop, &o, on_resctrl, w, &w->worker, &err);
        if (r < 0)
            log_warn("op=sweep ctr=%s err='%s', left for the next start", w->id, err.text);
        rdt_place_deinit(&p);
    }
    if (r < 0)
        sweep_free(w);
}

static void sweep_try(struct sweep *w)
{
    struct err err = ERR_INIT;
    int r;

    (void)cgroup_kill(w->path, NULL);
    r = cgroup_remove(w->path, &err);
    if (r != -EBUSY || ++w->tries >= SWEEP_TRIES) {
        if (r < 0)
            log_warn("op=sweep cgroup='%s' err='%s', left for the next start", w->path, err.text);
        sweep_resctrl(w);
        return;
    }
    w->wait_s = w->wait_s * 2 < SWEEP_MAX_MS / 1e3 ? w->wait_s * 2 : SWEEP_MAX_MS / 1e3;
    ev_timer_stop(loop_ev(w->h->loop), &w->timer);
    ev_timer_set(&w->timer, w->wait_s, 0.);
    ev_timer_start(loop_ev(w->h->loop), &w->timer);
}

static void on_sweep(struct ev_loop *ev, struct ev_timer *t, int revents)
{
    struct sweep *w = container_of(t, struct sweep, timer);

    (void)ev;
    (void)revents;
    loop_name(w->h->loop, "cgroup sweep");
    sweep_try(w);
}

void ctr_sweep(struct ctr *c)
{
    struct sweep *w = mem_new(struct sweep);

    w->h = c->h;
    memcpy(w->id, c->id, sizeof w->id);
    w->path = mem_strdup(c->rec->cgroup_path);
    w->pod_dir = mem_strdup(c->sandbox->dir);
    list_init(&w->waits);
    w->wait_s = SWEEP_FIRST_MS / 2e3;
    list_add_tail(&c->h->sweeps, &w->l);
    ev_timer_init(&w->timer, on_sweep, 0., 0.);
    sweep_try(w);
}

bool ctr_sweep_wait(struct ctr *c, struct exit_wait *e, struct op *op)
{
    struct sweep *w;

    list_each(w, &c->h->sweeps, struct sweep, l) {
        if (strcmp(w->id, c->id) != 0)
            continue;
        e->op = op;
        list_add_tail(&w->waits, &e->l);
        return true;
    }
    return false;
}

void ctr_sweeps_end(struct handlers *h)
{
    struct sweep *w;

    list_each(w, &h->sweeps, struct sweep, l) {
        if (w->worker)
            child_disown(w->worker);
        else
            (void)cgroup_remove(w->path, NULL);
        sweep_free(w);
    }
}

/* --- acknowledgements */

struct ack {
    struct list l;
    char sandbox[ID_LEN + 1], ctr[ID_LEN + 1];
};

static void ack_later(struct sandbox *s, const char *ctr)
{
    struct ack *a = mem_new(struct ack);

    snprintf(a->sandbox, sizeof a->sandbox, "%s", s->id);
    snprintf(a->ctr, sizeof a->ctr, "%.64s", ctr);
    list_add_tail(&s->h->acks, &a->l);
}

void ctr_acks_flush(void *handlers)
{
    struct handlers *h = handlers;
    struct ack *a;

    if (list_empty(&h->acks) || !store_commit(h->store))
        return;    /* the supervisor keeps what we could not record */
    while ((a = list_first(&h->acks, struct ack, l))) {
        struct sandbox *s = sandbox_by_id(h, a->sandbox);

        if (s && s->link)
            link_ack_exit(s->link, a->ctr);
        list_del(&a->l);
        free(a);
    }
}

/* --- the exit itself */

static const char *reason_of(const struct ctr_exit *x)
{
    if (x->reason)
        return x->reason;
    if (x->oom && x->code == 128 + SIGKILL)
        return "OOMKilled";
    return x->code ? "Error" : "Completed";
}

void ctr_set_exited(struct ctr *c, const struct ctr_exit *x)
{
    char message[MESSAGE_MAX];

    if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__EXITED)
        return;
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__REMOVING)
        c->rec->state = CRICKET__STATE__CONTAINER__STATE__EXITED;
    c->rec->exit_code = x->code;
    c->rec->finished_at = x->finished_at > 0 ? x->finished_at : clock_wall_ns();
    if (c->rec->finished_at < c->rec->started_at)    /* the clock was set back meanwhile */
        c->rec->finished_at = c->rec->started_at;
    pb_set(&c->rec->reason, reason_of(x));
    snprintf(message, sizeof message, "%s", x->message ? x->message : "");
    pb_set(&c->rec->message, message);
    c->rec->pid = 0;
    c->pidfd = fd_close(c->pidfd);
    restore_end(c);
    ctr_save(c);
    log_info("op=exit ctr=%s sandbox=%.13s name='%s' code=%d reason=%s", c->id, c->sandbox->id,
             c->config->metadata->name, x->code, c->rec->reason);
    if (c->rec->cgroup_path[0])
        ctr_sweep(c);
    if (c->visible)
        event_ctr(c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT);
    wake_all(&c->exit_waits);
}

void ctr_on_exit(struct handlers *h, struct sandbox *s, const struct link_exit *x)
{
    struct ctr *c = ctr_by_id(h, x->id);

    ack_later(s, x->id);
    if (!c || c->sandbox != s) {
        log_warn("op=exit ctr='%.64s' sandbox=%s err='no such container', ignoring", x->id, s->id);
        return;
    }
    struct ctr_exit e = { .code = x->status, .oom = x->oom, .finished_at = x->finished_at };

    ctr_set_exited(c, &e);
}

void sandbox_lost(struct sandbox *s)
{
    struct ctr *c;
    bool was_ready = s->rec->state == CRICKET__STATE__SANDBOX__STATE__READY;

    if (s->link)
        s->link = link_free(s->link);
    if (was_ready)
        s->rec->state = CRICKET__STATE__SANDBOX__STATE__NOTREADY;
    list_each(c, &s->ctrs, struct ctr, in_sandbox) {
        if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__RUNNING) {
            struct ctr_exit e = { .code = 255, .reason = "Unknown",
                                  .message = "the sandbox's supervisor is gone" };

            ctr_set_exited(c, &e);
        } else if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__STARTING && !c->start) {
            struct ctr_exit e = { .code = 128, .reason = "StartError",
                                  .message = "the sandbox's supervisor is gone" };

            ctr_set_exited(c, &e);
        }
    }
    sandbox_save(s);
    if (was_ready)
        event_sandbox(s, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT);
    sandbox_poststop_start(s);
}
