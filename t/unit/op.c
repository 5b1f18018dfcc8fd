/* SPDX-License-Identifier: Apache-2.0 */
/* src/reactor/op: order of steps, waits, failures, undo, cancelling; src/reactor/loop: its hooks. */
#include "tap.h"

#include "mem.h"
#include "reactor/loop.h"
#include "reactor/op.h"
#include "str.h"

#include <errno.h>

static struct loop *loop;
static struct str trace = STR_INIT;

struct job {
    struct op op;
    ev_timer later;
    int fail_at;                     /* step that fails; 0: none */
    int wait_at;                     /* step that waits */
    int fail_wait;                   /* ... and what it waits for fails */
    int cancel_at;                   /* step that cancels its own operation */
    int64_t timeout_ms;
    bool wake_at_once, lazy_cancel, undo_fails, undo_waits;
    bool done;
    int calls;
    struct err err;
};

static struct job *job_of(struct op *op)
{
    return container_of(op, struct job, op);
}

static void on_later(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct job *j = w->data;
    struct err err = ERR_INIT;

    (void)ev;
    (void)revents;
    if (!j->fail_wait) {
        op_wake(&j->op, WAKE_DONE);
        return;
    }
    err_set(&err, -EPIPE, "the other side hung up");
    op_fail(&j->op, &err);
}

static void arm(struct job *j, double s)
{
    ev_timer_init(&j->later, on_later, s, 0.);
    j->later.data = j;
    ev_timer_start(loop_ev(loop), &j->later);
}

static int step(struct op *op, int n, enum wake why)
{
    struct job *j = job_of(op);

    str_printf(&trace, "%d%c ", n, "sdtc"[why]);
    j->calls++;
    if (j->cancel_at == n)
        op_cancel(op, GRPC_CANCELLED);
    if (j->fail_at == n)
        return err_set(&op->err, -EIO, "step %d broke", n);
    if (j->wait_at == n) {
        if (j->wake_at_once)
            op_wake(op, WAKE_DONE);
        else if (!j->timeout_ms)
            arm(j, 0.001);
        return op_wait(op, j->timeout_ms);
    }
    return 0;
}

static int one(struct op *op, enum wake why) { return step(op, 1, why); }
static int two(struct op *op, enum wake why) { return step(op, 2, why); }
static int three(struct op *op, enum wake why) { return step(op, 3, why); }

static int undo_a(struct op *op, enum wake why)
{
    (void)why;
    str_puts(&trace, "A ");
    return job_of(op)->undo_fails ? err_set(&op->err, -EBUSY, "undo broke") : 0;
}

static int undo_b(struct op *op, enum wake why)
{
    struct job *j = job_of(op);

    (void)why;
    str_puts(&trace, "B ");
    if (!j->undo_waits)
        return 0;
    j->fail_wait = 1;
    arm(j, 0.001);
    return op_wait(op, 0);
}

static int undo_c(struct op *op, enum wake why)
{
    (void)op;
    (void)why;
    str_puts(&trace, "C ");
    return 0;
}

static void job_cancel(struct op *op)
{
    struct job *j = job_of(op);

    str_puts(&trace, "x ");
    ev_timer_stop(loop_ev(loop), &j->later);
    if (j->lazy_cancel)
        arm(j, 0.001);
    else
        op_wake(op, WAKE_CANCEL);
}

static void job_done(struct op *op)
{
    struct job *j = job_of(op);

    str_puts(&trace, "done");
    ok(!j->done, "done is called once");
    j->done = true;
    j->err = op->err;
    loop_stop(loop);
}

static const struct op_step steps[] = { { "one", one }, { "two", two }, { "three", three }, { 0 } };
static const struct op_step undo[] = { { "a", undo_a }, { "b", undo_b }, { "c", undo_c }, { 0 } };
static const struct op_class cls = {
    .name = "job", .steps = steps, .undo = undo, .cancel = job_cancel, .done = job_done
};
static const struct op_class no_undo = {
    .name = "job", .steps = steps, .cancel = job_cancel, .done = job_done
};
static const struct op_class stubborn = {
    .name = "job", .steps = steps, .undo = undo, .done = job_done
};

static void start_class(struct job *j, const struct op_class *c)
{
    str_reset(&trace);
    op_start(&j->op, c, loop, "4f1c");
    loop_settle(loop);               /* what a wake puts off to the end of the turn */
}

static void cancel(struct job *j, int grpc)
{
    op_cancel(&j->op, grpc);
    loop_settle(loop);
}

static void start(struct job *j)
{
    start_class(j, &cls);
}

static void finish(struct job *j)
{
    if (!j->done)
        loop_run(loop);
}

static void note_step(const struct op *op, const char *name, void *arg)
{
    str_printf(arg, "%s/%s/%s", op->cls->name, op->id, name);
}

static void test_order(void)
{
    struct job j = { .fail_at = 0 };

    start(&j);
    is_str(trace.p, "1s 2s 3s done", "steps run top to bottom, at once when none waits");
    is_int(j.err.code, 0, "success leaves no error");
    is_int(op_count(), 0, "nothing is left");

    j = (struct job){ .wait_at = 2 };
    start(&j);
    is_str(trace.p, "1s 2s ", "a step that waits stops the flow");
    is_int(op_count(), 1, "the operation is listed");
    auto_str struct str s = STR_INIT;
    op_each(note_step, &s);
    is_str(str_c(&s), "job/4f1c/two", "with the step it is in");
    finish(&j);
    is_str(trace.p, "1s 2s 3d done", "the next step is told what woke it");

    j = (struct job){ .wait_at = 2, .timeout_ms = 5 };
    start(&j);
    finish(&j);
    is_str(trace.p, "1s 2s 3t done", "or that the time ran out");

    j = (struct job){ .wait_at = 1, .wake_at_once = true, .timeout_ms = 5 };
    start(&j);
    is_str(trace.p, "1s 2d 3s done", "a wake during the step is kept for its wait");
    ok(!ev_is_active(&j.op.timer), "and its timer is stopped");

    j = (struct job){ .wait_at = 3 };
    start(&j);
    finish(&j);
    is_str(trace.p, "1s 2s 3s done", "the last step may wait");
}

static void test_failure(void)
{
    struct job j = { .fail_at = 2 };

    start(&j);
    is_str(trace.p, "1s 2s A B C done", "a failure runs the whole undo table");
    is_int(j.err.code, -EIO, "the error is that of the step");
    is_str(j.err.text, "step 2 broke", "with its text");

    j = (struct job){ .fail_at = 2, .undo_fails = true };
    start(&j);
    is_str(trace.p, "1s 2s A B C done", "an undo step that fails does not stop the undo");
    is_str(j.err.text, "step 2 broke", "nor does it replace the reason");

    j = (struct job){ .fail_at = 3, .undo_waits = true };
    start(&j);
    finish(&j);
    is_str(trace.p, "1s 2s 3s A B C done", "undo steps may wait, and what they wait for may fail");
    is_str(j.err.text, "step 3 broke", "the reason stays");

    j = (struct job){ .wait_at = 1, .fail_wait = 1 };
    start(&j);
    finish(&j);
    is_str(trace.p, "1s A B C done", "op_fail() instead of op_wake() starts the undo");
    is_str(j.err.text, "the other side hung up", "with its error");

    j = (struct job){ .fail_at = 1 };
    start_class(&j, &no_undo);
    is_str(trace.p, "1s done", "without an undo table the operation just ends");
    is_int(j.err.code, -EIO, "with its error");
}

static void test_cancel(void)
{
    struct job j = { .wait_at = 2, .timeout_ms = 100000 };

    start(&j);
    cancel(&j, GRPC_DEADLINE_EXCEEDED);
    is_str(trace.p, "1s 2s x A B C done", "cancel ends the wait and runs the undo");
    is_int(j.err.grpc, GRPC_DEADLINE_EXCEEDED, "the status is the one given");

    j = (struct job){ .wait_at = 2, .timeout_ms = 100000, .lazy_cancel = true };
    start(&j);
    cancel(&j, GRPC_CANCELLED);
    cancel(&j, GRPC_CANCELLED);
    is_str(trace.p, "1s 2s x ", "a cancel may take its time, and comes once");
    finish(&j);
    is_str(trace.p, "1s 2s x A B C done", "the undo runs when the wait has really ended");
    is_int(j.err.grpc, GRPC_CANCELLED, "cancelled");

    j = (struct job){ .cancel_at = 1 };
    start(&j);
    is_str(trace.p, "1s A B C done", "cancelled inside a step: the next one does not run");

    j = (struct job){ .cancel_at = 2, .wait_at = 2, .timeout_ms = 100000 };
    start(&j);
    is_str(trace.p, "1s 2s x A B C done", "cancelled inside a step that waits: its wait is ended");

    j = (struct job){ .cancel_at = 3 };
    start(&j);
    is_str(trace.p, "1s 2s 3s done", "cancelled when everything is done: it is done");
    is_int(j.err.code, 0, "successfully");

    j = (struct job){ .wait_at = 2 };
    start_class(&j, &stubborn);
    cancel(&j, GRPC_CANCELLED);
    finish(&j);
    is_str(trace.p, "1s 2s 3d done", "an operation that cannot be cancelled finishes");
    is_int(j.err.code, 0, "successfully");
}

static int hooks, slow_turns;

static void hook(void *arg)
{
    hooks++;
    loop_settle(arg);                /* no recursion */
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)w;
    (void)revents;
    loop_name(loop, "test");
    if (slow_turns++ == 1)           /* a turn is counted when the loop is about to sleep again */
        loop_stop(loop);
    else
        for (int64_t end = clock_mono_ms() + 12; clock_mono_ms() < end;)
            ;
}

static void test_loop(void)
{
    struct loop_stats before = *loop_stats(loop);
    int64_t a, b;
    ev_timer t;

    loop_before_reply(loop, hook, loop);
    loop_settle(loop);
    is_int(hooks, 1, "loop_settle() runs the hooks, once");
    ev_timer_init(&t, on_timer, 0., 0.001);
    ev_timer_start(loop_ev(loop), &t);
    loop_run(loop);
    ev_timer_stop(loop_ev(loop), &t);
    ok(hooks > 1, "so does every turn");
    ok(loop_stats(loop)->turns > before.turns, "turns are counted");
    ok(loop_stats(loop)->longest_us >= 11000, "the longest is known");
    is_str(loop_stats(loop)->longest_name, "test", "by name");
    a = clock_stamp_ns();
    for (int i = 0; i < 1000; i++) {
        b = clock_stamp_ns();
        if (b <= a)
            break;
        a = b;
    }
    ok(b == a, "stamps increase strictly");
}

static void test_drop(void)
{
    struct job j = { .wait_at = 2, .timeout_ms = 1 };
    size_t before = op_count();

    start(&j);
    is_int((int)(op_count() - before), 1, "a live operation");
    op_cancel(&j.op, GRPC_CANCELLED);    /* its next step is put off to the end of the turn */
    op_drop(&j.op);
    ev_timer_stop(loop_ev(loop), &j.later);
    loop_settle(loop);
    is_str(trace.p, "1s 2s x ", "dropped: no step, no undo");
    ok(!j.done, "not done");
    is_int((int)(op_count() - before), 0, "not live");
}

int main(void)
{
    struct err err = ERR_INIT;

    loop = loop_new(&err);
    if (!loop)
        bail_out("%s", err.text);
    test_order();
    test_failure();
    test_cancel();
    test_drop();
    test_loop();
    loop = loop_free(loop);
    str_free(&trace);
    return done_testing();
}
