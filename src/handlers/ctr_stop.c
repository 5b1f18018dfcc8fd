/* SPDX-License-Identifier: Apache-2.0 */
/* StopContainer and RemoveContainer (CRI.md 4.10, 4.11).
 *
 * One stop per container: who comes second joins, does not send the signal again, and may only
 * bring the kill nearer. A client that goes away does not undo the kill. */
#include "handlers/rpcs.h"

#include "handlers/checkpoint.h"
#include "handlers/ctr_op.h"
#include "handlers/turn.h"
#include "mem.h"
#include "proc/cgroup.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

enum { KILL_AGAIN_MS = 1000 };

struct ctr_op {
    struct op op;                    /* first */
    struct ctr *c;
    struct op **slot;
    struct turn turn;
    struct waiters waiters;
    struct list dones;               /* struct done: callers that are no clients */
    struct exit_wait exit;
    struct ev_timer kill_timer;      /* the earliest kill time of all who asked */
    int64_t kill_at_ms;
    bool asked;                      /* the stop signal was sent */
    bool killed;                     /* SIGKILL was sent: from now on the timer repeats it */
};

struct done {
    struct list l;
    ctr_done_fn fn;
    void *arg;
};

static struct ctr_op *ctr_op_of(struct op *op)
{
    return container_of(op, struct ctr_op, op);
}

/* Again and again until the exit is told: a kill that fails for want of a descriptor or of memory
 * must not leave a container that nobody kills. */
static void kill_now(struct ctr_op *o)
{
    struct ctr *c = o->c;
    struct err err = ERR_INIT;

    o->killed = true;
    if (cgroup_kill(c->rec->cgroup_path, &err) < 0)
        log_warn("op=stop ctr=%s step=insist err='%s', killing the first process alone", c->id,
                 err.text);
    if (c->sandbox->link)
        link_signal(c->sandbox->link, c->id, SIGKILL);
    loop_timer(o->c->h->loop, &o->kill_timer, KILL_AGAIN_MS);
}

static void on_kill_time(struct ev_loop *ev, struct ev_timer *t, int revents)
{
    struct ctr_op *o = container_of(t, struct ctr_op, kill_timer);

    (void)ev;
    (void)revents;
    loop_name(o->c->h->loop, "stop: grace is over");
    if (o->killed)
        kill_now(o);
    else
        op_wake(&o->op, WAKE_TIMEOUT);
}

static struct ctr_op *op_new(struct ctr *c, struct op **slot)
{
    struct ctr_op *o = mem_new(struct ctr_op);

    o->c = c;
    o->slot = slot;
    *slot = &o->op;
    turn_init(&o->turn, &o->op);
    waiters_init(&o->waiters, NULL, NULL);
    list_init(&o->dones);
    list_init(&o->exit.l);
    ev_timer_init(&o->kill_timer, on_kill_time, 0., 0.);
    o->kill_at_ms = INT64_MAX;
    return o;
}

static void op_done_add(struct ctr_op *o, ctr_done_fn fn, void *arg)
{
    struct done *d = mem_new(struct done);

    d->fn = fn;
    d->arg = arg;
    list_add_tail(&o->dones, &d->l);
}

/* Answers everybody; the reply is an empty message for either RPC. */
static void op_answer(struct ctr_op *o)
{
    Runtime__V1__StopContainerResponse reply = RUNTIME__V1__STOP_CONTAINER_RESPONSE__INIT;
    const struct err *err = o->op.err.code ? &o->op.err : NULL;
    struct done *d;

    if (err)
        waiters_fail(&o->waiters, err);
    else
        waiters_ok(&o->waiters, &reply.base);
    while ((d = list_first(&o->dones, struct done, l))) {
        list_del(&d->l);
        d->fn(d->arg, err);
        free(d);
    }
}

static void op_end(struct ctr_op *o)
{
    struct ctr *c = o->c;

    *o->slot = NULL;
    ev_timer_stop(loop_ev(c->h->loop), &o->kill_timer);
    exit_wait_end(&o->exit);
    turn_end(&c->turns, &o->turn);
    free(o);
}

void ctr_stop_drop(struct op *op)
{
    struct ctr_op *o = ctr_op_of(op);
    struct done *d;

    op_drop(op);
    *o->slot = NULL;
    waiters_drop(&o->waiters);
    while ((d = list_first(&o->dones, struct done, l))) {
        list_del(&d->l);
        free(d);
    }
    ev_timer_stop(loop_ev(o->c->h->loop), &o->kill_timer);
    exit_wait_end(&o->exit);
    list_del(&o->turn.l);
    free(o);
}

static bool runs(const struct ctr *c)
{
    return c->rec->state == CRICKET__STATE__CONTAINER__STATE__RUNNING ||
           (c->rec->state == CRICKET__STATE__CONTAINER__STATE__REMOVING && c->pidfd >= 0);
}

static int step_turn(struct op *op, enum wake why)
{
    struct ctr_op *o = ctr_op_of(op);

    (void)why;
    return turn_take(&o->c->turns, &o->turn);
}

static void arm_kill(struct ctr_op *o)
{
    loop_timer(o->c->h->loop, &o->kill_timer, o->kill_at_ms - clock_mono_ms());
}

static bool hangs(struct ctr_op *o)
{
    return o->c->sandbox->link && link_hangs(o->c->sandbox->link, &o->op.err);
}

static int stop_ask(struct op *op, enum wake why)
{
    struct ctr_op *o = ctr_op_of(op);
    struct ctr *c = o->c;
    int sig = SIGTERM;

    (void)why;
    if (!runs(c))
        return 0;
    if (hangs(o))
        return op->err.code;
    pod_checkpoint_call_off(c->h, c);
    (void)cgroup_thaw(c->rec->cgroup_path);
    exit_wait_add(c, &o->exit, op);
    if (o->kill_at_ms <= clock_mono_ms())
        return 0;    /* no grace: straight to the kill */
    o->asked = true;
    (void)spec_stop_signal((Runtime__V1__Signal)c->rec->stop_signal, "", &sig, NULL, NULL);
    link_signal(c->sandbox->link, c->id, sig);
    arm_kill(o);
    return op_wait(op, 0);
}

static int stop_insist(struct op *op, enum wake why)
{
    struct ctr_op *o = ctr_op_of(op);
    struct ctr *c = o->c;

    (void)why;
    if (!runs(c))
        return 0;
    kill_now(o);
    return op_wait(op, 0); /* a process in uninterruptible sleep: the caller's deadline decides */
}

static int stop_reap(struct op *op, enum wake why)
{
    struct ctr *c = ctr_op_of(op)->c;

    (void)why;
    if (runs(c))
        return err_set(&op->err, -EBUSY, "container %s: still running after SIGKILL", c->id);
    return 0;
}

static void stop_done(struct op *op)
{
    struct ctr_op *o = ctr_op_of(op);

    op_answer(o);
    op_end(o);
}

static const struct op_step stop_steps[] = {
    { "turn", step_turn },
    { "ask", stop_ask },          /* stop signal; wakes on exit or when the grace is over */
    { "insist", stop_insist },    /* not gone: kill the cgroup, wait again */
    { "reap", stop_reap },
    { 0 },
};

static const struct op_class stop_class = { .name = "stop",
                                            .steps = stop_steps,
                                            .done = stop_done };

/* The stop of c, to be joined or just made (then *ret_new). */
static struct ctr_op *stop_get(struct ctr *c, int64_t grace_ms, bool *ret_new)
{
    struct ctr_op *o = c->stop ? ctr_op_of(c->stop) : op_new(c, &c->stop);
    int64_t now = clock_mono_ms(), at = grace_ms > INT64_MAX - now ? INT64_MAX : now + grace_ms;

    *ret_new = o->kill_at_ms == INT64_MAX && !o->asked && list_empty(&o->turn.l);
    if (at < o->kill_at_ms) {
        o->kill_at_ms = at;
        if (o->asked && runs(c))
            arm_kill(o);
    }
    return o;
}

void ctr_stop_fail(struct ctr *c, const struct err *why)
{
    struct op *const ops[] = { c->stop, c->remove };

    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        struct err e = *why;

        if (!ops[i] || !runs(c) || list_empty(&ctr_op_of(ops[i])->exit.l))
            continue;
        err_note(&e, "%s container %s", i ? "remove" : "stop", c->id);
        op_fail(ops[i], &e);
    }
}

/* What can be stopped: a container that is being started will run in a moment. */
static bool may_run(const struct ctr *c)
{
    return runs(c) || c->start;
}

void ctr_stop_start(struct ctr *c, int64_t grace_ms, ctr_done_fn done, void *arg)
{
    struct ctr_op *o;
    bool fresh;

    if (c->remove) {    /* which kills; behind it there is no container to be stopped */
        if (done)
            op_done_add(ctr_op_of(c->remove), done, arg);
        return;
    }
    if (!may_run(c) && !c->create) {
        if (done)
            done(arg, NULL);
        return;
    }
    o = stop_get(c, grace_ms, &fresh);
    if (done)
        op_done_add(o, done, arg);
    if (fresh)
        op_start(&o->op, &stop_class, c->h->loop, c->id);
}

void handle_stop_container(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__StopContainerRequest *q = (const void *)req;
    Runtime__V1__StopContainerResponse reply = RUNTIME__V1__STOP_CONTAINER_RESPONSE__INIT;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(ctx, q->container_id, &err);
    struct ctr_op *o;
    bool fresh;

    if (!c && err.grpc != GRPC_NOT_FOUND) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (c && c->remove) {
        waiters_add(&ctr_op_of(c->remove)->waiters, rpc);
        return;
    }
    if (!c || !may_run(c)) {
        rpc_ok(rpc, &reply.base);
        return;
    }
    if (sandbox_met(c->sandbox, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    o = stop_get(c, q->timeout > 0 && q->timeout < INT64_MAX / 1000 ? q->timeout * 1000
                    : q->timeout > 0                                ? INT64_MAX
                                                                    : 0,
                 &fresh);
    waiters_add(&o->waiters, rpc);
    if (fresh)
        op_start(&o->op, &stop_class, c->h->loop, c->id);
}

/* --- remove */

static int remove_mark(struct op *op, enum wake why)
{
    struct ctr *c = ctr_op_of(op)->c;

    (void)why;
    ctr_end_execs(c);
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING)
        return 0;
    if (hangs(ctr_op_of(op)))
        return op->err.code;
    pod_checkpoint_call_off(c->h, c);
    exit_wait_add(c, &ctr_op_of(op)->exit, op);
    return stop_insist(op, why);
}

/* With the record goes the last that knows of the cgroup, and of what is in resctrl. */
static int remove_cgroup(struct op *op, enum wake why)
{
    struct ctr_op *o = ctr_op_of(op);
    struct ctr *c = o->c;

    (void)why;
    if (!c->rec->cgroup_path[0])
        return 0;
    exit_wait_end(&o->exit);
    if (ctr_sweep_wait(c, &o->exit, op))
        return op_wait(op, 0);
    ctr_sweep(c);
    return ctr_sweep_wait(c, &o->exit, op) ? op_wait(op, 0) : 0;
}

static int remove_commit(struct op *op, enum wake why)
{
    struct ctr *c = ctr_op_of(op)->c;

    (void)why;
    if (runs(c))
        return err_set(&op->err, -EBUSY, "container %s: still running after SIGKILL", c->id);
    c->rec->state = CRICKET__STATE__CONTAINER__STATE__REMOVING;
    ctr_save(c);
    (void)store_commit(c->h->store);    /* before its layers may go */
    ctr_drop_layers(c);
    return 0;
}

static void remove_done(struct op *op)
{
    struct ctr_op *o = ctr_op_of(op);
    struct ctr *c = o->c;
    struct handlers *h = c->h;

    if (op->err.code) {
        op_answer(o);
        op_end(o);
        return;
    }
    auto_free char *rel = mem_printf("containers/%s", c->id);

    if (c->visible) {
        c->visible = false;
        event_ctr(c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_DELETED_EVENT);
    }
    log_info("op=rm ctr=%s name='%s'", c->id, c->config->metadata->name);
    ctr_end_execs(c);
    list_del(&c->in_sandbox);    /* a sandbox that waits for this may go right away */
    op_answer(o);
    op_end(o);
    ctr_forget(c);
    pull_remove_tree(h->puller, rel);
}

static const struct op_step remove_steps[] = {
    { "turn", step_turn },
    { "kill", remove_mark },
    { "cgroup", remove_cgroup },
    { "commit", remove_commit },
    { 0 },
};

static const struct op_class remove_class = {
    .name = "rm", .steps = remove_steps, .done = remove_done
};

/* The removal of c, to be joined or just made. It does not wait out the grace of a stop. */
static struct ctr_op *remove_get(struct ctr *c, bool *ret_new)
{
    bool fresh;

    *ret_new = !c->remove;
    if (c->remove)
        return ctr_op_of(c->remove);
    if (c->stop)
        (void)stop_get(c, 0, &fresh);
    return op_new(c, &c->remove);
}

void ctr_remove_start(struct ctr *c, ctr_done_fn done, void *arg)
{
    bool fresh;
    struct ctr_op *o = remove_get(c, &fresh);

    if (done)
        op_done_add(o, done, arg);
    if (fresh)
        op_start(&o->op, &remove_class, c->h->loop, c->id);
}

void handle_remove_container(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__RemoveContainerRequest *q = (const void *)req;
    Runtime__V1__RemoveContainerResponse reply = RUNTIME__V1__REMOVE_CONTAINER_RESPONSE__INIT;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(ctx, q->container_id, &err);
    struct ctr_op *o;
    bool fresh;

    if (!c && err.grpc == GRPC_NOT_FOUND) {
        rpc_ok(rpc, &reply.base);
        return;
    }
    if (!c || sandbox_met(c->sandbox, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    o = remove_get(c, &fresh);
    waiters_add(&o->waiters, rpc);
    if (fresh)
        op_start(&o->op, &remove_class, c->h->loop, c->id);
}
