/* SPDX-License-Identifier: Apache-2.0 */
/* The loop and its clock.
 *
 * A turn begins when libev has come back from epoll_wait (check watcher, highest priority) and ends
 * just before it sleeps again (prepare watcher, lowest priority). In between lie our callbacks and,
 * as a prepare watcher of middle priority, the rounds of the HTTP library (h2o_bridge.c). The hooks
 * run at the beginning and at the end of the prepare phase and before each of those rounds, so
 * whatever a turn changed is recorded before anything leaves and before the loop sleeps.
 *
 * ev_loop_new, not ev_default_loop: the default loop installs a SIGCHLD handler that reaps every
 * child. */
#include "reactor/loop.h"

#include "log.h"
#include "mem.h"

#include <assert.h>
#include <signal.h>
#include <time.h>

enum { HOOKS_MAX = 4, SLOW_TURN_US = 10000 };

struct hook {
    void (*fn)(void *arg);
    void *arg;
};

struct loop {
    struct ev_loop *ev;
    ev_check begin;
    ev_prepare first, last;
    struct hook hooks[HOOKS_MAX];
    size_t n_hooks;
    struct list jobs;
    bool settling;
    struct loop_stats stats;
    int64_t turn_us;                 /* when this turn began; 0: none is going on */
    int64_t part_us;                 /* when loop_name() was called last */
    const char *part_name;
    int64_t worst_us;                /* the longest part of this turn, and its name */
    const char *worst_name;
};

int64_t clock_mono_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_mono_ms(void)
{
    return clock_mono_us() / 1000;
}

int64_t clock_wall_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t clock_stamp_ns(void)
{
    static int64_t last;
    int64_t now = clock_wall_ns();

    last = now > last ? now : last + 1;
    return last;
}

static void end_part(struct loop *l, int64_t now)
{
    if (now - l->part_us > l->worst_us) {
        l->worst_us = now - l->part_us;
        l->worst_name = l->part_name;
    }
}

void loop_name(struct loop *l, const char *name)
{
    int64_t now = clock_mono_us();

    if (l->turn_us)
        end_part(l, now);
    l->part_us = now;
    l->part_name = name;
}

static void on_begin(struct ev_loop *ev, ev_check *w, int revents)
{
    struct loop *l = w->data;

    (void)ev;
    (void)revents;
    l->turn_us = l->part_us = clock_mono_us();
    l->part_name = l->worst_name = NULL;
    l->worst_us = -1;
}

static void count_turn(struct loop *l)
{
    static const int64_t upto[] = { 100, 1000, 2000, 5000, 10000, 50000, 250000 };
    int64_t now = clock_mono_us(), us = now - l->turn_us;
    size_t i = 0;

    end_part(l, now);
    l->turn_us = 0;
    l->stats.turns++;
    while (i < ARRAY_LEN(upto) && us >= upto[i])
        i++;
    l->stats.hist[i]++;
    if ((uint64_t)us > l->stats.longest_us) {
        l->stats.longest_us = (uint64_t)us;
        l->stats.longest_name = l->worst_name;
    }
    if (us > SLOW_TURN_US)
        log_warn("op=loop turn_us=%lld in=%s part_us=%lld", (long long)us,
                 l->worst_name ? l->worst_name : "-", (long long)l->worst_us);
}

static void on_first(struct ev_loop *ev, ev_prepare *w, int revents)
{
    (void)ev;
    (void)revents;
    loop_settle(w->data);
}

static void on_last(struct ev_loop *ev, ev_prepare *w, int revents)
{
    struct loop *l = w->data;

    (void)ev;
    (void)revents;
    loop_settle(l);
    if (l->turn_us)
        count_turn(l);
}

struct loop *loop_new(struct err *err)
{
    struct ev_loop *ev = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    struct loop *l;

    if (!ev) {
        err_sys(err, "event loop: epoll");
        return NULL;
    }
    (void)signal(SIGPIPE, SIG_IGN);  /* who went is an error of write(2) */
    l = mem_new(struct loop);
    l->ev = ev;
    list_init(&l->jobs);
    l->begin.data = l->first.data = l->last.data = l;
    ev_check_init(&l->begin, on_begin);
    ev_set_priority(&l->begin, EV_MAXPRI);
    ev_check_start(ev, &l->begin);
    ev_prepare_init(&l->first, on_first);
    ev_set_priority(&l->first, EV_MAXPRI);
    ev_prepare_start(ev, &l->first);
    ev_prepare_init(&l->last, on_last);
    ev_set_priority(&l->last, EV_MINPRI);
    ev_prepare_start(ev, &l->last);
    return l;
}

struct loop *loop_free(struct loop *l)
{
    if (!l)
        return NULL;
    ev_check_stop(l->ev, &l->begin);
    ev_prepare_stop(l->ev, &l->first);
    ev_prepare_stop(l->ev, &l->last);
    ev_loop_destroy(l->ev);
    free(l);
    return NULL;
}

struct ev_loop *loop_ev(struct loop *l)
{
    return l->ev;
}

void loop_run(struct loop *l)
{
    l->turn_us = 0;                  /* what was between two runs is no turn */
    ev_run(l->ev, 0);
}

void loop_stop(struct loop *l)
{
    ev_break(l->ev, EVBREAK_ALL);
}

void loop_before_reply(struct loop *l, void (*fn)(void *arg), void *arg)
{
    assert(l->n_hooks < HOOKS_MAX);
    l->hooks[l->n_hooks++] = (struct hook){ fn, arg };
}

void loop_later(struct loop *l, struct loop_job *j)
{
    if (list_empty(&j->l))
        list_add_tail(&l->jobs, &j->l);
}

static void run_jobs(struct loop *l)
{
    struct loop_job *j;

    while ((j = list_first(&l->jobs, struct loop_job, l))) {
        list_del(&j->l);
        j->fn(j);
    }
}

void loop_settle(struct loop *l)
{
    if (l->settling)
        return;
    l->settling = true;
    do {
        run_jobs(l);
        for (size_t i = 0; i < l->n_hooks; i++)
            l->hooks[i].fn(l->hooks[i].arg);
    } while (!list_empty(&l->jobs));
    l->settling = false;
}

void loop_timer(struct loop *l, struct ev_timer *t, int64_t ms)
{
    ev_timer_stop(l->ev, t);
    ev_now_update(l->ev);
    ev_timer_set(t, ms > 0 ? (double)ms / 1e3 : 0., 0.);
    ev_timer_start(l->ev, t);
}

const struct loop_stats *loop_stats(const struct loop *l)
{
    return &l->stats;
}
