/* SPDX-License-Identifier: Apache-2.0 */
/* Who may work on an object, and who waits for the result.
 *
 * struct turn: operations on one object run one after the other. The first step of each is
 * turn_take(); turn_end() lets the next one in.
 *
 * struct waiters: the calls that an operation will answer. A call whose client goes away or whose
 * deadline passes leaves by itself; when none is left, `none` runs (RunPodSandbox rolls back then,
 * StopContainer goes on). */
#ifndef CRICKET_TURN_H
#define CRICKET_TURN_H

#include "list.h"
#include "reactor/grpc.h"
#include "reactor/op.h"

struct turn {
    struct list l;
    struct op *op;
};

static inline void turn_init(struct turn *t, struct op *op)
{
    list_init(&t->l);
    t->op = op;
}
/* In a step: 0 when it is this operation's turn; OP_WAIT, and a wake when it will be. */
int turn_take(struct list *queue, struct turn *t);
/* Leaves the queue, wherever it stood. */
void turn_end(struct list *queue, struct turn *t);

struct waiters {
    struct list l;
    void (*none)(void *arg, enum rpc_gone why);
    void *arg;
};

void waiters_init(struct waiters *w, void (*none)(void *arg, enum rpc_gone why), void *arg);
void waiters_add(struct waiters *w, struct rpc *rpc);
bool waiters_empty(const struct waiters *w);
void waiters_drop(struct waiters *w);     /* answers nobody: the daemon ends */
/* Answers all and leaves the list empty. */
void waiters_ok(struct waiters *w, const ProtobufCMessage *reply);
void waiters_fail(struct waiters *w, const struct err *err);

#endif
