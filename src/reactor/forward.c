/* SPDX-License-Identifier: Apache-2.0 */
/* Port-forward: each connection of the client is a pair of channels, data and error, that becomes
 * one TCP connection inside the pod: 127.0.0.1 first, then ::1. Half-closes go through in both
 * directions; what fails is told on the error channel and does not touch the other connections of
 * the session. */
#include "mem.h"
#include "reactor/stream_int.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum {
    FORWARDS_MAX = 250,
    Q_HIGH = 256 * 1024,
    Q_LOW = 64 * 1024,
    READ_POD = 32 * 1024
};

struct fwd {
    struct list link;
    struct session *s;
    struct chan *data, *error;       /* NULL: not there yet, or let go */
    int port;
    int fd;
    int tried;                       /* families */
    bool connecting, full, pod_ended, shut;
    ev_io rd, wr;
    ev_timer pair;
    struct str q;                    /* to the pod */
};

static struct ev_loop *ev_of(const struct fwd *f)
{
    return loop_ev(f->s->server->loop);
}

/* An error channel that the client has not ended yet stays, without an owner, until it does. */
static void let_go(struct chan *c)
{
    if (!c)
        return;
    c->user = NULL;
    if (c->mux->stopped || !c->peer_ended)
        return;
    mux_end(c);
    mux_drop(c);
}

static void set_full(struct fwd *f, bool full)
{
    if (f->full == full)
        return;
    f->full = full;
    f->s->n_full += full ? 1 : (size_t)-1;
    if (f->s->conn)
        conn_pause(f->s->conn, f->s->n_full > 0);
}

static void fwd_free(struct fwd *f)
{
    struct session *s = f->s;

    ev_io_stop(ev_of(f), &f->rd);
    ev_io_stop(ev_of(f), &f->wr);
    ev_timer_stop(ev_of(f), &f->pair);
    if (f->q.len && f->data)
        mux_taken(f->data, f->q.len);
    set_full(f, false);
    if (f->error)
        mux_end(f->error);
    let_go(f->error);
    if (f->data) {
        f->data->user = NULL;
        mux_drop(f->data);           /* reset where not both have ended */
    }
    fd_close(f->fd);
    str_free(&f->q);
    list_del(&f->link);
    free(f);
    s->n_forwards--;
    /* WebSocket has no other way to say that it is over */
    if (s->proto.form == FORM_WS && s->n_forwards == 0 && !s->dead)
        session_over(s);
}

static void fail(struct fwd *f, const char *text)
{
    if (f->error)
        mux_send(f->error, text, strlen(text));
    fwd_free(f);
}

static void maybe_done(struct fwd *f)
{
    if (f->pod_ended && f->data->peer_ended && f->q.len == 0)
        fwd_free(f);
}

/* --- the pod's side */

static void write_pod(struct fwd *f)
{
    size_t done = 0;

    while (done < f->q.len) {
        ssize_t n = send(f->fd, f->q.p + done, f->q.len - done, MSG_NOSIGNAL);

        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            ev_io_start(ev_of(f), &f->wr);
            break;
        } else if (errno != EINTR) {
            done = f->q.len;         /* nobody reads there any more; its end is seen by reading */
            f->shut = true;
        }
    }
    if (done) {
        str_consume(&f->q, done);
        mux_taken(f->data, done);
        if (f->q.len <= Q_LOW)
            set_full(f, false);
    }
    if (f->q.len)
        return;
    ev_io_stop(ev_of(f), &f->wr);
    if (f->data->peer_ended && !f->shut) {
        f->shut = true;
        (void)shutdown(f->fd, SHUT_WR);
    }
}

static void on_pod_readable(struct ev_loop *ev, ev_io *w, int revents)
{
    static char buf[READ_POD];
    struct fwd *f = w->data;
    size_t room = mux_room(f->data);
    ssize_t n;

    (void)revents;
    loop_name(f->s->server->loop, "port-forward");
    if (room == 0) {
        ev_io_stop(ev, w);           /* on_writable() goes on */
        return;
    }
    n = recv(f->fd, buf, room < sizeof buf ? room : sizeof buf, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    session_active(f->s);
    if (n > 0) {
        mux_send(f->data, buf, (size_t)n);
        return;
    }
    if (n < 0) {
        char text[128];

        snprintf(text, sizeof text, "port %d in the pod: %s", f->port, strerror(errno));
        fail(f, text);
        return;
    }
    ev_io_stop(ev, w);
    f->pod_ended = true;
    mux_end(f->data);
    if (f->s->proto.form == FORM_WS)
        fwd_free(f);                 /* no half-close there */
    else
        maybe_done(f);
}

static void dial(struct fwd *f);

static void connected(struct fwd *f)
{
    f->connecting = false;
    ev_io_set(&f->rd, f->fd, EV_READ);
    ev_io_start(ev_of(f), &f->rd);
    write_pod(f);
}

static void on_pod_writable(struct ev_loop *ev, ev_io *w, int revents)
{
    struct fwd *f = w->data;
    int e = 0;
    socklen_t n = sizeof e;

    (void)revents;
    if (!f->connecting) {
        write_pod(f);
        maybe_done(f);
        return;
    }
    ev_io_stop(ev, w);
    if (getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &e, &n) < 0)
        e = errno;
    if (e == 0) {
        connected(f);
        return;
    }
    errno = e;
    dial(f);
}

/* Tries the next family; errno is why the last try failed. */
static void dial(struct fwd *f)
{
    static const int families[] = { AF_INET, AF_INET6 };
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)f->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = in.sin_port,
                                .sin6_addr = IN6ADDR_LOOPBACK_INIT };
    struct err err = ERR_INIT;
    char text[ERR_TEXT_MAX + 64], why[2][64] = { "", "" };
    int r;

    if (f->tried > 0)
        snprintf(why[0], sizeof why[0], "%s", strerror(errno));
    while (f->tried < (int)ARRAY_LEN(families)) {
        int family = families[f->tried++];

        ev_io_stop(ev_of(f), &f->wr);
        f->fd = fd_close(f->fd);
        f->fd = f->s->offer->o.dial(f->s->offer->o.arg, family, &err);
        if (f->fd < 0)
            continue;
        ev_io_set(&f->wr, f->fd, EV_WRITE);
        r = family == AF_INET ? connect(f->fd, (struct sockaddr *)&in, sizeof in)
                              : connect(f->fd, (struct sockaddr *)&in6, sizeof in6);
        if (r == 0) {
            connected(f);
            return;
        }
        if (errno == EINPROGRESS) {
            f->connecting = true;
            ev_io_start(ev_of(f), &f->wr);
            return;
        }
        snprintf(why[1], sizeof why[1], "%s", strerror(errno));
    }
    snprintf(text, sizeof text, "failed to connect to localhost:%d inside the pod: %s", f->port,
             f->fd < 0 && err.code ? err.text : why[0][0] ? why[0] : why[1]);
    fail(f, text);
}

static void start(struct fwd *f)
{
    ev_timer_stop(ev_of(f), &f->pair);
    dial(f);
}

/* --- the client's side */

static void on_pair(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    fail(w->data, "the other stream of this connection did not come in time");
}

static struct fwd *fwd_new(struct session *s, int port)
{
    struct fwd *f = mem_new(struct fwd);

    f->s = s;
    f->port = port;
    f->fd = -1;
    ev_io_init(&f->rd, on_pod_readable, -1, EV_READ);
    ev_io_init(&f->wr, on_pod_writable, -1, EV_WRITE);
    ev_timer_init(&f->pair, on_pair, (double)s->server->patience.open_ms / 1000., 0.);
    f->rd.data = f->wr.data = f->pair.data = f;
    list_add_tail(&s->forwards, &f->link);
    s->n_forwards++;
    return f;
}

/* By request id; without one the error stream n belongs to the data stream n + 2. */
static struct fwd *find_pair(struct session *s, const struct chan *c)
{
    struct fwd *f;

    list_each(f, &s->forwards, struct fwd, link) {
        const struct chan *o = f->error ? f->error : f->data;

        if (!o || (f->error && f->data) || o->kind == c->kind)
            continue;
        if (c->request[0] || o->request[0]
                ? strcmp(c->request, o->request) == 0
                : (c->kind == CHAN_DATA ? o->id + 2 == c->id : c->id + 2 == o->id))
            return f;
    }
    return NULL;
}

static bool is_taken(struct session *s, const struct chan *c)
{
    struct fwd *f;

    list_each(f, &s->forwards, struct fwd, link) {
        const struct chan *o = c->kind == CHAN_DATA ? f->data : f->error;

        if (o && c->request[0] && strcmp(c->request, o->request) == 0)
            return true;
    }
    return false;
}

static int on_want(void *arg, struct chan *c)
{
    struct session *s = arg;

    if ((c->kind != CHAN_DATA && c->kind != CHAN_ERROR) || c->port < 1 || c->port > 65535 ||
        is_taken(s, c))
        return -EINVAL;
    return s->n_forwards >= FORWARDS_MAX && !find_pair(s, c) ? -ENOBUFS : 0;
}

static void on_open(void *arg, struct chan *c)
{
    struct session *s = arg;
    struct fwd *f = find_pair(s, c);

    if (!f) {
        f = fwd_new(s, c->port);
        ev_now_update(ev_of(f));
        ev_timer_start(ev_of(f), &f->pair);
    }
    c->user = f;
    if (c->kind == CHAN_DATA)
        f->data = c;
    else
        f->error = c;
    if (f->data && f->error)
        start(f);
}

static void on_data(void *arg, struct chan *c, const uint8_t *p, size_t n)
{
    struct fwd *f = c->user;

    session_active(arg);
    if (c->kind != CHAN_DATA || !f || f->shut) {
        mux_taken(c, n);
        return;
    }
    str_add(&f->q, p, n);
    if (f->fd >= 0 && !f->connecting)
        write_pod(f);
    if (f->q.len >= Q_HIGH)
        set_full(f, true);
}

static void on_end(void *arg, struct chan *c, bool reset)
{
    struct fwd *f = c->user;

    (void)arg;
    if (!f) {
        mux_end(c);
        mux_drop(c);                 /* the rest of a connection that is over */
    } else if (reset && c->kind == CHAN_DATA) {
        fwd_free(f);
    } else if (c->kind == CHAN_DATA && f->fd >= 0 && !f->connecting) {
        write_pod(f);
        maybe_done(f);
    }
}

static void on_writable(void *arg)
{
    struct session *s = arg;
    struct fwd *f;

    list_each(f, &s->forwards, struct fwd, link)
        if (f->fd >= 0 && !f->connecting && !f->pod_ended)
            ev_io_start(ev_of(f), &f->rd);
}

const struct mux_user forward_user = {
    .want = on_want, .open = on_open, .data = on_data, .end = on_end, .writable = on_writable
};

void forward_begin(struct session *s)
{
    struct list pairs = LIST_INIT(pairs);
    size_t i = 0;
    struct chan *c;
    struct fwd *f = NULL;

    s->begun = true;
    s->offer->o.begin(s->offer->o.arg, s);
    if (s->dead || s->proto.form != FORM_WS)
        return;
    /* channels 2i and 2i + 1 belong to the i-th port, and say so first */
    list_each(c, &s->mux->chans, struct chan, link) {
        int port = s->offer->ports[i / 2];
        uint8_t le[2] = { (uint8_t)port, (uint8_t)(port >> 8) };

        if (i++ % 2 == 0)
            f = fwd_new(s, port);
        c->port = port;
        c->user = f;
        if (c->kind == CHAN_DATA)
            f->data = c;
        else
            f->error = c;
        mux_send(c, le, sizeof le);
    }
    s->n_forwards++;                 /* the session does not end while we begin */
    list_each(f, &s->forwards, struct fwd, link)
        start(f);
    s->n_forwards--;
    if (s->n_forwards == 0 && !s->dead)
        session_over(s);
}

void forward_end(struct session *s)
{
    while (!list_empty(&s->forwards))
        fwd_free(list_first(&s->forwards, struct fwd, link));
}
