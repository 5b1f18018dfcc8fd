/* SPDX-License-Identifier: Apache-2.0 */
/* Nests a libh2o 2.2 evloop inside the libev loop.
 *
 * What it relies on (this file and h2o_trailers.c are the only ones that know libh2o's insides):
 *  - h2o_evloop_run(loop, 0) never blocks: it applies queued epoll changes, polls, runs callbacks,
 *    then due timeouts; a write is a timeout of zero, so it happens in the round that asked for it;
 *  - callbacks queue epoll changes (_statechanged) and zero timeouts that only the next round
 *    applies: sleeping on the epoll descriptor before that would hang a connection, hence the
 * rounds in the prepare watcher;
 *  - it stamps timeouts with _now, wall clock milliseconds of its last round. When the wall clock
 *    steps back while we sleep, a pending write would lie in the future (seen: event streams stood
 *    still until the clock had caught up), hence the check watcher that refreshes it before any
 *    callback;
 *  - its epoll descriptor is in no header: it is the lowest free number when the loop is made. */
#include "reactor/h2o_bridge.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#if !(H2O_VERSION_MAJOR == 2 && H2O_VERSION_MINOR == 2)
#error "the bridge is for libh2o 2.2"
#endif

enum { ROUNDS_MAX = 16 };

struct bridge {
    struct loop *loop;
    struct list all;
    int users;
    h2o_evloop_t *h2o;
    int epfd; /* owned by h2o's loop, closed by us: h2o_evloop_destroy() forgets it */
    bool ready;                      /* epfd was reported readable */
    struct list posts;
    ev_io io;
    ev_prepare prepare;
    ev_check check;
    ev_timer wake;
};

static struct list bridges = LIST_INIT(bridges);

static uint64_t wall_ms(void)
{
    struct timeval tv;

    gettimeofday(&tv, NULL);         /* the clock that libh2o itself uses */
    return (uint64_t)tv.tv_sec * 1000 + (uint64_t)tv.tv_usec / 1000;
}

static bool has_work(struct bridge *b)
{
    h2o_evloop_t *l = b->h2o;

    return b->ready || !list_empty(&b->posts) || l->_statechanged.head || l->_pending_as_client ||
           l->_pending_as_server || h2o_timeout_get_wake_at(&l->_timeouts) <= wall_ms();
}

static void one_round(struct bridge *b)
{
    struct list now = LIST_INIT(now);

    loop_settle(b->loop);
    /* only those that were there when the hooks ran: a later one waits for the next hooks */
    while (!list_empty(&b->posts)) {
        struct list *l = b->posts.next;

        list_del(l);
        list_add_tail(&now, l);
    }
    while (!list_empty(&now)) {
        struct bridge_post *p = list_first(&now, struct bridge_post, link);

        list_del(&p->link);
        p->fn(p);
    }
    b->ready = false;
    loop_name(b->loop, "http");
    if (h2o_evloop_run(b->h2o, 0) != 0)
        abort();
    loop_name(b->loop, NULL);
}

static void on_prepare(struct ev_loop *ev, ev_prepare *w, int revents)
{
    struct bridge *b = w->data;
    uint64_t wake_at, now;

    (void)revents;
    for (int n = 0; n < ROUNDS_MAX; n++) {
        if (!has_work(b)) {
            loop_settle(b->loop);    /* a handler may have changed something without replying */
            if (!has_work(b))
                break;
        }
        one_round(b);
    }
    ev_timer_stop(ev, &b->wake);
    wake_at = h2o_timeout_get_wake_at(&b->h2o->_timeouts);
    now = wall_ms();
    if (has_work(b)) {               /* do not sleep, but let the other watchers have their turn */
        ev_timer_set(&b->wake, 0., 0.);
        ev_timer_start(ev, &b->wake);
    } else if (wake_at != UINT64_MAX) {
        uint64_t ms = wake_at - now < 3600000 ? wake_at - now : 3600000;

        ev_now_update(ev);
        ev_timer_set(&b->wake, (double)ms / 1000., 0.);
        ev_timer_start(ev, &b->wake);
    }
}

static void on_check(struct ev_loop *ev, ev_check *w, int revents)
{
    struct bridge *b = w->data;

    (void)ev;
    (void)revents;
    b->h2o->_now = wall_ms();
}

static void on_io(struct ev_loop *ev, ev_io *w, int revents)
{
    struct bridge *b = w->data;

    (void)ev;
    (void)revents;
    b->ready = true;
}

static void on_wake(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct bridge *b = w->data;

    (void)ev;
    (void)revents;
    b->ready = true;
}

static int open_h2o(struct bridge *b, struct err *err)
{
    char path[64], link[64] = "";

    b->epfd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (b->epfd < 0)
        return err_sys(err, "HTTP loop");
    close(b->epfd);
    /* bodies of 32 MiB would go to a file in /tmp, synchronously */
    h2o_socket_buffer_mmap_settings.threshold = SIZE_MAX;
    b->h2o = h2o_evloop_create();
    snprintf(path, sizeof path, "/proc/self/fd/%d", b->epfd);
    if (readlink(path, link, sizeof link - 1) < 0 || strcmp(link, "anon_inode:[eventpoll]") != 0)
        return err_set(err, -EIO, "HTTP loop: descriptor %d is not its epoll but '%s'", b->epfd,
                       link);
    return 0;
}

int bridge_get(struct loop *l, struct bridge **ret, struct err *err)
{
    struct ev_loop *ev = loop_ev(l);
    struct bridge *b;
    int r;

    list_each(b, &bridges, struct bridge, all) {
        if (b->loop == l) {
            b->users++;
            *ret = b;
            return 0;
        }
    }
    b = mem_new(struct bridge);
    r = open_h2o(b, err);
    if (r < 0) {
        free(b);
        return r;
    }
    b->loop = l;
    b->users = 1;
    list_init(&b->posts);
    list_add_tail(&bridges, &b->all);
    ev_io_init(&b->io, on_io, b->epfd, EV_READ);
    ev_prepare_init(&b->prepare, on_prepare);
    ev_check_init(&b->check, on_check);
    ev_set_priority(&b->check, EV_MAXPRI);
    ev_timer_init(&b->wake, on_wake, 0., 0.);
    b->io.data = b->prepare.data = b->check.data = b->wake.data = b;
    ev_io_start(ev, &b->io);
    ev_prepare_start(ev, &b->prepare);
    ev_check_start(ev, &b->check);
    *ret = b;
    return 0;
}

struct bridge *bridge_put(struct bridge *b)
{
    struct ev_loop *ev;

    if (!b || --b->users > 0)
        return NULL;
    ev = loop_ev(b->loop);
    ev_io_stop(ev, &b->io);
    ev_prepare_stop(ev, &b->prepare);
    ev_check_stop(ev, &b->check);
    ev_timer_stop(ev, &b->wake);
    list_del(&b->all);
    h2o_evloop_destroy(b->h2o);
    close(b->epfd);
    free(b);
    return NULL;
}

h2o_loop_t *bridge_h2o(struct bridge *b)
{
    return b->h2o;
}

struct loop *bridge_loop(struct bridge *b)
{
    return b->loop;
}

void bridge_post(struct bridge *b, struct bridge_post *p)
{
    if (list_empty(&p->link))
        list_add_tail(&b->posts, &p->link);
}

void bridge_spin(struct bridge *b, int rounds, bool (*busy)(void *arg), void *arg)
{
    while (rounds-- > 0 && busy(arg))
        one_round(b);
}
