/* SPDX-License-Identifier: Apache-2.0 */
/* Reading, writing and the end of an upgraded connection.
 *
 * The end needs care: closing a socket with unread input makes the kernel send RST, which may
 * overtake what the peer has not read yet, here the exit status. So we shut down our side, go on
 * reading (and dropping) until the peer closes, and only then close. While input is held back, EOF
 * cannot be seen by reading; the socket's state is looked at once a second instead, in that
 * situation only. */
#include "reactor/conn.h"

#include "list.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

enum {
    READ_SIZE = 64 * 1024,
    READS_PER_TURN = 4,
    LINGER_MS = 5000,
    PAUSED_LOOK_MS = 1000,
    OUT_HARD_MAX = 1024 * 1024
};

struct conn {
    struct loop *loop;
    int fd;
    ev_io in, out;
    ev_timer timer;                  /* linger, or a look at a paused peer */
    struct str buf;
    size_t off;                      /* of buf, what is written already */
    bool paused, finishing, shut, was_full;
    bool refused;                    /* what it sent is wrong, or a goodbye */
    bool orphan;                     /* the owner has left */
    struct list all;                 /* orphans */
    int busy;                        /* callbacks on the stack */
    bool dead;
    struct conn_events ev;
};

static struct list orphans = LIST_INIT(orphans);

static size_t pending(const struct conn *c)
{
    return c->buf.len - c->off;
}

static void stop(struct conn *c)
{
    struct ev_loop *ev = loop_ev(c->loop);

    ev_io_stop(ev, &c->in);
    ev_io_stop(ev, &c->out);
    ev_timer_stop(ev, &c->timer);
}

static void destroy(struct conn *c)
{
    list_del(&c->all);
    fd_close(c->fd);
    str_free(&c->buf);
    free(c);
}

static void live_on(struct conn *c);

struct conn *conn_free(struct conn *c)
{
    if (!c)
        return NULL;
    stop(c);
    if (c->refused) {
        live_on(c);
        return NULL;
    }
    c->dead = true;
    if (!c->busy)
        destroy(c);
    return NULL;
}

static void leave(struct conn *c)
{
    if (--c->busy == 0 && c->dead)
        destroy(c);
}

static void lost(struct conn *c)
{
    if (c->dead)
        return;
    stop(c);
    c->busy++;
    if (c->orphan)
        c->dead = true;
    else
        c->ev.closed(c->ev.arg);
    leave(c);
}

static void shut(struct conn *c)
{
    c->shut = true;
    (void)shutdown(c->fd, SHUT_WR);
    loop_timer(c->loop, &c->timer, LINGER_MS);
}

static void live_on(struct conn *c)
{
    c->refused = c->paused = false;
    c->orphan = c->finishing = true;
    list_add_tail(&orphans, &c->all);
    ev_io_start(loop_ev(c->loop), &c->in);
    if (!pending(c)) {
        shut(c);
        return;
    }
    ev_io_start(loop_ev(c->loop), &c->out);
    loop_timer(c->loop, &c->timer, LINGER_MS);
}

void conn_refuse(struct conn *c)
{
    c->refused = true;
}

void conn_end_all(struct loop *l)
{
    struct conn *c;

    list_each(c, &orphans, struct conn, all)
        if (c->loop == l)
            conn_free(c);
}

/* Writes what it can. False: the connection is lost. */
static bool flush(struct conn *c)
{
    while (pending(c)) {
        ssize_t n = send(c->fd, c->buf.p + c->off, pending(c), MSG_NOSIGNAL);

        if (n < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                return false;
            break;
        }
        c->off += (size_t)n;
    }
    if (!pending(c)) {
        str_reset(&c->buf);
        c->off = 0;
        ev_io_stop(loop_ev(c->loop), &c->out);
        if (c->finishing && !c->shut)
            shut(c);
        return true;
    }
    if (c->off > CONN_OUT_MAX / 2) {
        str_consume(&c->buf, c->off);
        c->off = 0;
    }
    ev_io_start(loop_ev(c->loop), &c->out);
    return true;
}

static void on_out(struct ev_loop *ev, ev_io *w, int revents)
{
    struct conn *c = w->data;

    (void)ev;
    (void)revents;
    if (!flush(c)) {
        lost(c);
        return;
    }
    if (c->was_full && conn_room(c) >= CONN_OUT_MAX / 2 && !c->finishing) {
        c->was_full = false;
        c->busy++;
        c->ev.drained(c->ev.arg);
        leave(c);
    }
}

static void on_in(struct ev_loop *ev, ev_io *w, int revents)
{
    static uint8_t buf[READ_SIZE];   /* one loop, one thread */
    struct conn *c = w->data;
    bool gone = false;

    (void)ev;
    (void)revents;
    loop_name(c->loop, "stream");
    c->busy++;
    for (int i = 0; i < READS_PER_TURN && !c->dead && !c->paused && !gone; i++) {
        ssize_t n = recv(c->fd, buf, sizeof buf, 0);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0)
            gone = true;
        else if (!c->finishing && c->ev.feed(c->ev.arg, buf, (size_t)n) < 0)
            gone = c->refused = true;
        else if (n < (ssize_t)sizeof buf)
            break;
    }
    if (gone)
        lost(c);                     /* or, when finishing: the peer has closed too, all is said */
    leave(c);
}

static bool peer_left(struct conn *c)
{
    struct tcp_info ti = { 0 };
    socklen_t n = sizeof ti;

    return getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &ti, &n) == 0 &&
           (ti.tcpi_state == TCP_CLOSE_WAIT || ti.tcpi_state == TCP_CLOSE);
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct conn *c = w->data;

    (void)ev;
    (void)revents;
    if (c->finishing || peer_left(c))
        lost(c);
    else if (c->paused)
        loop_timer(c->loop, &c->timer, PAUSED_LOOK_MS);
}

struct conn *conn_new(struct loop *l, int fd, const struct conn_events *ev)
{
    struct conn *c = mem_new(struct conn);
    const int on = 1, idle = 60, again = 15;

    c->loop = l;
    c->fd = fd;
    c->ev = *ev;
    list_init(&c->all);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &again, sizeof again);
    ev_io_init(&c->in, on_in, fd, EV_READ);
    ev_io_init(&c->out, on_out, fd, EV_WRITE);
    ev_timer_init(&c->timer, on_timer, 0., 0.);
    c->in.data = c->out.data = c->timer.data = c;
    ev_io_start(loop_ev(l), &c->in);
    return c;
}

void conn_write(struct conn *c, const void *p, size_t n)
{
    ssize_t w = 0;

    if (c->dead || c->finishing)
        return;
    if (!pending(c)) {               /* mostly the socket takes it at once, without a copy */
        w = send(c->fd, p, n, MSG_NOSIGNAL);
        if (w < 0)
            w = 0;                   /* an error comes back to on_out() */
    }
    if ((size_t)w < n) {
        if (pending(c) + n > OUT_HARD_MAX) {     /* answers to floods of control frames */
            ev_feed_event(loop_ev(c->loop), &c->timer, EV_TIMER);
            c->finishing = true;
            return;
        }
        str_add(&c->buf, (const char *)p + w, n - (size_t)w);
        ev_io_start(loop_ev(c->loop), &c->out);
    }
    if (pending(c) > CONN_OUT_MAX / 2)
        c->was_full = true;
}

size_t conn_room(const struct conn *c)
{
    return c->dead || c->finishing || pending(c) >= CONN_OUT_MAX ? 0 : CONN_OUT_MAX - pending(c);
}

void conn_pause(struct conn *c, bool on)
{
    if (c->paused == on || c->dead || c->finishing)
        return;
    c->paused = on;
    if (on) {
        ev_io_stop(loop_ev(c->loop), &c->in);
        loop_timer(c->loop, &c->timer, PAUSED_LOOK_MS);
    } else {
        ev_timer_stop(loop_ev(c->loop), &c->timer);
        ev_io_start(loop_ev(c->loop), &c->in);
    }
}

void conn_finish(struct conn *c)
{
    if (c->dead || c->finishing)
        return;
    conn_pause(c, false);
    c->finishing = true;
    if (!pending(c))
        shut(c);
    else
        /* a client that reads slowly may have that long for what is left */
        loop_timer(c->loop, &c->timer, 60 * LINGER_MS);
}
