/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/turn.h"

#include "mem.h"

int turn_take(struct list *queue, struct turn *t)
{
    bool first = list_empty(queue);

    list_add_tail(queue, &t->l);
    return first ? 0 : op_wait(t->op, 0);
}

void turn_end(struct list *queue, struct turn *t)
{
    bool was_first = queue->next == &t->l;

    if (list_empty(&t->l))
        return;
    list_del(&t->l);
    if (was_first && !list_empty(queue))
        op_wake(container_of(queue->next, struct turn, l)->op, WAKE_DONE);
}

struct waiter {
    struct list l;
    struct waiters *all;
    struct rpc *rpc;
};

void waiters_init(struct waiters *w, void (*none)(void *arg, enum rpc_gone why), void *arg)
{
    list_init(&w->l);
    w->none = none;
    w->arg = arg;
}

bool waiters_empty(const struct waiters *w)
{
    return list_empty(&w->l);
}

static void drop(struct waiter *x)
{
    list_del(&x->l);
    rpc_release(x->rpc);
    free(x);
}

static void on_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    struct waiter *x = arg;
    struct waiters *w = x->all;

    (void)rpc;
    drop(x);
    if (list_empty(&w->l) && w->none)
        w->none(w->arg, why);
}

void waiters_add(struct waiters *w, struct rpc *rpc)
{
    struct waiter *x = mem_new(struct waiter);

    x->all = w;
    x->rpc = rpc;
    list_add_tail(&w->l, &x->l);
    rpc_keep(rpc);
    rpc_on_gone(rpc, on_gone, x);
}

void waiters_drop(struct waiters *w)
{
    struct waiter *x;

    while ((x = list_first(&w->l, struct waiter, l))) {
        rpc_on_gone(x->rpc, NULL, NULL);
        drop(x);
    }
}

void waiters_ok(struct waiters *w, const ProtobufCMessage *reply)
{
    struct waiter *x;

    while ((x = list_first(&w->l, struct waiter, l))) {
        rpc_on_gone(x->rpc, NULL, NULL);
        rpc_ok(x->rpc, reply);
        drop(x);
    }
}

void waiters_fail(struct waiters *w, const struct err *err)
{
    struct waiter *x;

    while ((x = list_first(&w->l, struct waiter, l))) {
        rpc_on_gone(x->rpc, NULL, NULL);
        rpc_fail_err(x->rpc, err);
        drop(x);
    }
}
