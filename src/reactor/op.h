/* SPDX-License-Identifier: Apache-2.0 */
/* Operations: flows that wait, written as tables of steps.
 *
 *      op_start --> step 0 --> step 1 --> ... --> done     a step: 0 go on, OP_WAIT, negative errno
 *                     |          ^
 *                     OP_WAIT ---'  op_wake() or the timeout says why
 *                     error or cancel --> undo steps, in table order --> done
 *
 * A step that returns OP_WAIT has armed one thing that will call op_wake() (a reply, a child's
 * exit, a commit), and may have set a deadline with op_wait(). The runner calls the NEXT step with
 * what woke it. Steps before the one that failed are undone by the undo table: its steps tolerate
 * "not there", keep going past a failure, and may wait as well. `done` is called exactly once; it
 * replies to the waiters and frees the operation.
 *
 * Cancellation: op_cancel() calls cls->cancel, which must end what the operation waits for and see
 * to it that op_wake() comes (at once or later); then the undo table runs, with op->err saying
 * GRPC_CANCELLED or GRPC_DEADLINE_EXCEEDED. */
#ifndef CRICKET_OP_H
#define CRICKET_OP_H

#include "err.h"
#include "list.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stdint.h>

enum { OP_WAIT = 1 };

enum wake {
    WAKE_START,                      /* first step, or the step before did not wait */
    WAKE_DONE,                       /* what was waited for happened */
    WAKE_TIMEOUT,                    /* the deadline of op_wait() passed */
    WAKE_CANCEL,
};

struct op;

struct op_step {
    const char *name;
    int (*fn)(struct op *op, enum wake why);
};

struct op_class {
    const char *name;                /* "run", "stop": for logs */
    const struct op_step *steps;     /* ends with { 0 } */
    const struct op_step *undo;      /* or NULL */
    void (*cancel)(struct op *op);   /* or NULL: the operation cannot be cancelled, it finishes */
    void (*done)(struct op *op);
    bool told;                       /* done tells the log of a failure, the runner need not */
};

struct op {
    const struct op_class *cls;
    struct loop *loop;
    char id[65];                     /* the object it works on, for logs */
    struct err err;                  /* why it failed; code 0 while it did not */
    /* the runner's own */
    int step;                        /* the next one */
    bool undoing, waiting, running, cancelled, failing;
    int cancel_grpc;
    struct err *cause;               /* why the undo runs; its steps use err */
    enum wake pending;               /* a wake that came while the step was still running */
    bool has_pending;
    struct ev_timer timer;
    struct loop_job job;             /* the next step, put off to the end of the turn */
    enum wake job_why;
    int64_t started_ms;
    struct list all;                 /* every live operation, for status */
};

void op_start(struct op *op, const struct op_class *cls, struct loop *loop, const char *id);
/* Inside a step: arm a deadline (0: none) and return OP_WAIT. */
int op_wait(struct op *op, int64_t timeout_ms);
/* What the operation waited for happened. The next step runs at the end of the turn, never inside
 * of op_wake(): whoever reports an event need not fear that its object is freed underneath it. A
 * wake of an operation that does not wait is kept for its next wait. */
void op_wake(struct op *op, enum wake why);
/* The same, but what happened is a failure: copies *err (NULL: op->err is set already) and starts
 * the undo. */
void op_fail(struct op *op, const struct err *err);
/* grpc: GRPC_CANCELLED or GRPC_DEADLINE_EXCEEDED. Nothing happens to an operation that is already
 * undoing. */
void op_cancel(struct op *op, int grpc);
/* The end of the program: takes the operation away from the runner, wherever it is. No step, no
 * undo, no `done`; its owner frees it. Not from inside of a step. */
void op_drop(struct op *op);
size_t op_count(void);
/* Every live operation with the name of the step it is in. fn must not start or wake any. */
void op_each(void (*fn)(const struct op *op, const char *step, void *arg), void *arg);

#endif
