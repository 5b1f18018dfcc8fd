/* SPDX-License-Identifier: Apache-2.0 */
/* The one loop: libev owns the thread, everything that waits hangs on it.
 *
 * Order of one turn: libev callbacks run and make replies; the before-reply hooks run (the run
 * store commits what the turn changed); only then does the HTTP/2 library write. h2o's loop is
 * nested by h2o_bridge.c, which calls loop_settle() before each of its rounds, so nothing that a
 * client can see leaves before it is recorded. The loop measures its own turns. */
#ifndef CRICKET_LOOP_H
#define CRICKET_LOOP_H

#include "err.h"
#include "list.h"

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

struct loop;

struct loop_stats {
    uint64_t turns;
    uint64_t longest_us;             /* longest turn so far */
    const char *longest_name;        /* what loop_name() said during it */
    uint64_t hist[8]; /* turns of < 100 us, < 1 ms, < 2, < 5, < 10, < 50, < 250 ms, longer */
};

struct loop *loop_new(struct err *err);          /* SIGPIPE is ignored from then on */
struct loop *loop_free(struct loop *l);          /* returns NULL */
struct ev_loop *loop_ev(struct loop *l);
void loop_run(struct loop *l);                   /* until loop_stop() */
void loop_stop(struct loop *l);

/* Work that is due in this turn, but not inside of whoever caused it: fn runs once, before the
 * hooks below, so what it replies leaves with this turn. Jobs run in the order in which they were
 * put off; list_init(&j->l) before the first time. */
struct loop_job {
    struct list l;
    void (*fn)(struct loop_job *j);
};
void loop_later(struct loop *l, struct loop_job *j);

/* Once, ms from now (libev counts from the start of the turn); one that runs is set anew. */
void loop_timer(struct loop *l, struct ev_timer *t, int64_t ms);

/* Registers fn to run before replies leave. At most 4; they run in the order of registration. */
void loop_before_reply(struct loop *l, void (*fn)(void *arg), void *arg);
void loop_settle(struct loop *l);                /* runs the jobs and those hooks now */

/* Names the work that is going on, for the log line of a turn over 10 ms. A string literal. */
void loop_name(struct loop *l, const char *name);
const struct loop_stats *loop_stats(const struct loop *l);

int64_t clock_mono_us(void);
int64_t clock_mono_ms(void);                     /* CLOCK_MONOTONIC */
int64_t clock_wall_ns(void);                     /* CLOCK_REALTIME, for stamps only */
int64_t clock_stamp_ns(void); /* wall clock, but strictly increasing over the daemon's life */

#endif
