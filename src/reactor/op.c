/* SPDX-License-Identifier: Apache-2.0 */
/* The runner of operations (op.h has the picture).
 *
 * One function, advance(), runs steps until one waits or the table ends; everything else only
 * decides with what it goes on. While a step is on the stack (running) nothing advances: wakes are
 * noted and found by the step's return, so a step may safely call what completes at once. The error
 * that started an undo is kept aside, since undo steps report into op->err as well. */
#include "reactor/op.h"

#include "log.h"
#include "mem.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct list all_ops = LIST_INIT(all_ops);
static size_t n_ops;

static const struct op_step *current(const struct op *op)
{
    return &(op->undoing ? op->cls->undo : op->cls->steps)[op->step];
}

/* The one place that tells of every operation that has failed; who asked for it hears the same. */
static void log_end(const struct op *op)
{
    enum log_level level = !op->undoing || op->cls->told ? LOG_LEVEL_DEBUG
                         : op->cancelled ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR;

    if (log_enabled(level))
        log_line(level, "op=%s id=%s took_ms=%lld err='%s'", op->cls->name, op->id,
                 (long long)(clock_mono_ms() - op->started_ms), op->err.text);
}

static void finish(struct op *op)
{
    ev_timer_stop(loop_ev(op->loop), &op->timer);
    list_del(&op->all);
    n_ops--;
    if (op->cause) {
        op->err = *op->cause;
        free(op->cause);
        op->cause = NULL;
    }
    if (!op->undoing)
        err_clear(&op->err);
    log_end(op);
    op->cls->done(op);               /* may free op */
}

static void start_undo(struct op *op)
{
    if (op->cancelled)
        err_rpc(&op->err, op->cancel_grpc, "%s %s %s", op->cls->name, op->id,
                op->cancel_grpc == GRPC_DEADLINE_EXCEEDED ? "ran out of time" : "was cancelled");
    else if (!op->err.code)
        err_set(&op->err, -EIO, "step failed without saying why");
    op->undoing = true;
    op->failing = false;
    op->has_pending = false;
    op->step = 0;
    op->cause = mem_dup(&op->err, sizeof op->err);
    err_clear(&op->err);
}

/* True when a step of the table is left to run. */
static bool more(const struct op *op)
{
    const struct op_step *table = op->undoing ? op->cls->undo : op->cls->steps;

    return table && table[op->step].fn;
}

static void log_step(const struct op *op, const char *name, int r, int64_t t0)
{
    if (r < 0 && op->undoing)
        log_warn("op=%s id=%s undo=%s err='%s', going on", op->cls->name, op->id, name,
                 op->err.text);
    else
        log_debug("op=%s id=%s %s=%s took_ms=%lld%s%s", op->cls->name, op->id,
                  op->undoing ? "undo" : "step", name, (long long)(clock_mono_ms() - t0),
                  r == OP_WAIT ? " waits" : "", r < 0 ? " failed" : "");
}

static void advance(struct op *op, enum wake why)
{
    while (more(op)) {
        const struct op_step *s = current(op);
        int64_t t0 = clock_mono_ms();
        int r;

        op->step++;
        loop_name(op->loop, s->name);
        op->running = true;
        r = s->fn(op, why);
        op->running = false;
        log_step(op, s->name, r, t0);
        why = WAKE_START;
        if (r == OP_WAIT) {
            if (op->has_pending) {
                op->has_pending = false;
                why = op->pending;
                ev_timer_stop(loop_ev(op->loop), &op->timer);
            } else {
                op->waiting = true;
                if (op->cancelled && !op->undoing)
                    op->cls->cancel(op); /* it was cancelled during the step; may free op */
                return;
            }
        } else {
            ev_timer_stop(loop_ev(op->loop), &op->timer);
        }
        if (op->undoing) {
            if (op->failing)
                log_step(op, s->name, -1, t0);
            op->failing = false;
            err_clear(&op->err);
        } else if (r < 0 || op->failing || (op->cancelled && more(op))) {
            start_undo(op);
            why = WAKE_START;
        }
    }
    finish(op);
}

static void resume(struct loop_job *j)
{
    struct op *op = container_of(j, struct op, job);
    enum wake why = op->job_why;

    if (op->undoing) {
        if (op->failing)
            log_step(op, "wait", -1, clock_mono_ms());
        op->failing = false;
        err_clear(&op->err);
    } else if (op->failing || op->cancelled) {
        start_undo(op);
        why = WAKE_START;
    }
    advance(op, why);
}

static void on_timeout(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    op_wake(w->data, WAKE_TIMEOUT);
}

void op_start(struct op *op, const struct op_class *cls, struct loop *loop, const char *id)
{
    op->cls = cls;
    op->loop = loop;
    snprintf(op->id, sizeof op->id, "%s", id);
    op->err = (struct err)ERR_INIT;
    op->cause = NULL;
    op->step = 0;
    op->undoing = op->waiting = op->running = op->cancelled = op->failing = op->has_pending = false;
    op->started_ms = clock_mono_ms();
    ev_timer_init(&op->timer, on_timeout, 0., 0.);
    op->timer.data = op;
    list_init(&op->job.l);
    op->job.fn = resume;
    list_add_tail(&all_ops, &op->all);
    n_ops++;
    advance(op, WAKE_START);
}

int op_wait(struct op *op, int64_t timeout_ms)
{
    assert(op->running);
    ev_timer_stop(loop_ev(op->loop), &op->timer);
    if (timeout_ms > 0)
        loop_timer(op->loop, &op->timer, timeout_ms);
    return OP_WAIT;
}

void op_wake(struct op *op, enum wake why)
{
    if (!op->waiting) {
        if (!op->has_pending)
            op->pending = why;
        op->has_pending = true;
        return;
    }
    op->waiting = false;
    ev_timer_stop(loop_ev(op->loop), &op->timer);
    op->job_why = why;
    loop_later(op->loop, &op->job);
}

void op_fail(struct op *op, const struct err *err)
{
    if (err)
        op->err = *err;
    op->failing = true;
    op_wake(op, WAKE_DONE);
}

void op_cancel(struct op *op, int grpc)
{
    if (op->undoing || op->cancelled || !op->cls->cancel)
        return;
    op->cancelled = true;
    op->cancel_grpc = grpc;
    log_debug("op=%s id=%s cancelled=%d", op->cls->name, op->id, grpc);
    if (op->waiting)
        op->cls->cancel(op);         /* ends in op_wake(), now or later; may free op */
}

void op_drop(struct op *op)
{
    assert(!op->running);
    ev_timer_stop(loop_ev(op->loop), &op->timer);
    list_del(&op->job.l);
    list_del(&op->all);
    n_ops--;
    free(op->cause);
    op->cause = NULL;
}

size_t op_count(void)
{
    return n_ops;
}

void op_each(void (*fn)(const struct op *op, const char *step, void *arg), void *arg)
{
    struct op *op;

    list_each(op, &all_ops, struct op, all) {
        const struct op_step *table = op->undoing ? op->cls->undo : op->cls->steps;

        fn(op, op->step > 0 && table ? table[op->step - 1].name : "", arg);
    }
}
