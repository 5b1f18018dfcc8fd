/* SPDX-License-Identifier: Apache-2.0 */
/* libh2o's event loop nested inside ours; one per loop, shared by all listeners of that loop.
 *
 * bridge_post() is how a reply leaves: fn runs right after the before-reply hooks, before libh2o
 * writes. What is sent from anywhere else could leave before it is recorded. */
#ifndef CRICKET_H2O_BRIDGE_H
#define CRICKET_H2O_BRIDGE_H

#include "err.h"
#include "list.h"
#include "reactor/loop.h"

#include <h2o.h>

struct bridge;

struct bridge_post {
    struct list link;                /* list_init() before the first bridge_post() */
    void (*fn)(struct bridge_post *p);
};

int bridge_get(struct loop *l, struct bridge **ret, struct err *err);   /* counts users */
struct bridge *bridge_put(struct bridge *b);                            /* returns NULL */
h2o_loop_t *bridge_h2o(struct bridge *b);
struct loop *bridge_loop(struct bridge *b);
/* Posting twice before fn ran is once. list_del(&p->link) takes it back. */
void bridge_post(struct bridge *b, struct bridge_post *p);
/* Runs the nested loop now, at most so many rounds, while `busy` says so; never from within its
 * callbacks. */
void bridge_spin(struct bridge *b, int rounds, bool (*busy)(void *arg), void *arg);

#endif
