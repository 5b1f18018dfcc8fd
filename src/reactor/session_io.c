/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes between a client's channels and a process's pipes or pty, with back-pressure both ways:
 *
 *      client --stdin--> inq --> pipe (or pty) --> process
 *                               the SPDY window stays shut, then the socket is not read
 *      client <--stdout-- pipe (or pty) <------- process
 *                               the pipe is not read while the client has no room */
#include "mem.h"
#include "reactor/stream_int.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>

enum { INQ_HIGH = 256 * 1024, INQ_LOW = 64 * 1024, READ_OUT = 32 * 1024, RESIZE_MAX = 4096 };

/* --- client to process */

void session_close_in(struct session *s)
{
    s->in_closed = true;
    ev_io_stop(loop_ev(s->server->loop), &s->in_io);
    if (!s->in_shared)
        fd_close(s->in);
    s->in = -1;
}

void session_taken(struct session *s, size_t n)
{
    str_consume(&s->inq, n);
    if (s->ch[CHAN_IN])
        mux_taken(s->ch[CHAN_IN], n);
    if (s->inq.len <= INQ_LOW)
        conn_pause(s->conn, false);
}

static void write_in(struct session *s)
{
    size_t done = 0;

    while (s->in >= 0 && done < s->inq.len) {
        ssize_t n = write(s->in, s->inq.p + done, s->inq.len - done);

        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            ev_io_start(loop_ev(s->server->loop), &s->in_io);
            break;
        } else if (errno != EINTR) {
            session_close_in(s);             /* the process does not read any more */
        }
    }
    if (s->in_closed)
        done = s->inq.len;
    if (done)
        session_taken(s, done);
    if (s->inq.len)
        return;
    ev_io_stop(loop_ev(s->server->loop), &s->in_io);
    if (s->in >= 0 && !s->in_shared && s->ch[CHAN_IN] && s->ch[CHAN_IN]->peer_ended)
        session_close_in(s);
}

static void on_in_writable(struct ev_loop *ev, ev_io *w, int revents)
{
    (void)ev;
    (void)revents;
    write_in(w->data);
}

void session_give_size(struct session *s)
{
    if (s->begun && !s->ended && s->size.known && s->offer->o.resize)
        s->offer->o.resize(s->offer->o.arg, s, s->size.w, s->size.h);
}

/* JSON objects one after the other, in pieces as they come. */
static void got_resize(struct session *s, const uint8_t *p, size_t n)
{
    if (s->resize.len + n > RESIZE_MAX) {
        str_reset(&s->resize);       /* nonsense */
        return;
    }
    str_add(&s->resize, p, n);
    for (;;) {
        json_error_t error;
        json_t *o = json_loadb(s->resize.p, s->resize.len, JSON_DISABLE_EOF_CHECK, &error);
        json_int_t w, h;

        if (!o) {
            if (s->resize.len && json_error_code(&error) != json_error_premature_end_of_input)
                str_reset(&s->resize);
            return;
        }
        str_consume(&s->resize, (size_t)error.position);
        w = json_integer_value(json_object_get(o, "Width"));
        h = json_integer_value(json_object_get(o, "Height"));
        json_decref(o);
        if (w <= 0 || h <= 0 || w > UINT16_MAX || h > UINT16_MAX)
            continue;
        s->size.known = true;
        s->size.w = (uint16_t)w;
        s->size.h = (uint16_t)h;
        session_give_size(s);
        if (s->dead)
            return;
    }
}

void session_on_data(void *arg, struct chan *c, const uint8_t *p, size_t n)
{
    struct session *s = arg;

    session_active(s);
    if (c->kind == CHAN_RESIZE)
        got_resize(s, p, n);
    if (c->kind != CHAN_IN || !s->offer->o.in || s->in_closed || s->ended) {
        mux_taken(c, n);
        return;
    }
    str_add(&s->inq, p, n);
    if (s->in >= 0)
        write_in(s);
    if (s->inq.len >= INQ_HIGH)
        conn_pause(s->conn, true);
}

void session_on_end(void *arg, struct chan *c, bool reset)
{
    struct session *s = arg;

    if (c->kind == CHAN_IN && s->in >= 0)
        write_in(s);
    for (size_t i = 0; reset && i < ARRAY_LEN(s->out); i++)
        if (s->out[i].chan == c)
            s->out[i].chan = NULL;   /* what the process writes is dropped from now on */
}

/* --- process to client */

void session_maybe_finish(struct session *s)
{
    if (!s->ended || s->finishing || s->dead)
        return;
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++)
        if (s->out[i].fd >= 0)
            return;
    session_bye(s);
}

void session_close_out(struct pipe_out *o)
{
    ev_io_stop(loop_ev(o->s->server->loop), &o->io);
    if (o->s->in_shared && o->s->in == o->fd)
        session_close_in(o->s);
    o->fd = fd_close(o->fd);
    o->eof = true;
    if (o->chan)
        mux_end(o->chan);
}

static void on_out_readable(struct ev_loop *ev, ev_io *w, int revents)
{
    static char buf[READ_OUT];
    struct pipe_out *o = w->data;
    size_t room = o->chan ? mux_room(o->chan) : sizeof buf;
    ssize_t n;

    (void)revents;
    loop_name(o->s->server->loop, "stream");
    if (room > sizeof buf)
        room = sizeof buf;
    if (o->limited && room > o->limit)
        room = o->limit;
    if (room == 0 && !(o->limited && o->limit == 0)) {
        ev_io_stop(ev, w);           /* session_on_writable() goes on */
        return;
    }
    n = room ? read(o->fd, buf, room) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        session_active(o->s);
        if (o->chan)
            mux_send(o->chan, buf, (size_t)n);
        if (o->limited)
            o->limit -= (size_t)n;
    }
    if (n <= 0 || (o->limited && o->limit == 0)) {   /* a pty's end is EIO */
        session_close_out(o);
        session_maybe_finish(o->s);
    }
}

void session_on_writable(void *arg)
{
    struct session *s = arg;

    for (size_t i = 0; i < ARRAY_LEN(s->out); i++)
        if (s->out[i].fd >= 0)
            ev_io_start(loop_ev(s->server->loop), &s->out[i].io);
}

static void watch_out(struct session *s, int i, int fd)
{
    struct pipe_out *o = &s->out[i];

    o->fd = fd;
    o->chan = s->ch[i == 0 ? CHAN_OUT : CHAN_ERR];
    if (!(i == 0 ? s->offer->o.out : s->offer->o.err))
        o->chan = NULL;
    ev_io_set(&o->io, fd, EV_READ);
    ev_io_start(loop_ev(s->server->loop), &o->io);
}

/* --- the process's ends */

static int make_pipe(int p[2], int ours, struct err *err)
{
    if (pipe2(p, O_CLOEXEC) < 0 || fcntl(p[ours], F_SETFL, O_NONBLOCK) < 0)
        return err_sys(err, "pipe for a stream");
    return 0;
}

int session_open_pipes(struct session *s, struct err *err)
{
    const bool wanted[3] = { s->offer->o.in, s->offer->o.out, s->offer->o.err && !s->offer->o.tty };

    for (int i = 0; i < 3; i++) {
        int p[2] = { -1, -1 }, r;

        if (!wanted[i])
            continue;
        r = make_pipe(p, i == 0 ? 1 : 0, err);
        if (r < 0) {
            fd_close(p[0]);
            fd_close(p[1]);
            return r;
        }
        s->theirs[i] = p[i == 0 ? 0 : 1];
        if (i == 0) {
            s->in = p[1];
            ev_io_set(&s->in_io, s->in, EV_WRITE);
            write_in(s);
        } else {
            watch_out(s, i - 1, p[0]);
        }
    }
    return 0;
}

void session_fds(struct session *s, int fds[3])
{
    memcpy(fds, s->theirs, sizeof s->theirs);
}

void session_close_fds(struct session *s)
{
    for (int i = 0; i < 3; i++)
        s->theirs[i] = fd_close(s->theirs[i]);
}

void session_pty(struct session *s, int pty)
{
    (void)fcntl(pty, F_SETFD, FD_CLOEXEC);
    (void)fcntl(pty, F_SETFL, O_NONBLOCK);
    s->in_shared = true;
    watch_out(s, 0, pty);
    if (s->offer->o.in) {
        s->in = pty;
        ev_io_set(&s->in_io, pty, EV_WRITE);
        write_in(s);
    }
    session_give_size(s);                    /* the process may not have been there when it came */
}

void session_io_init(struct session *s)
{
    s->in = s->theirs[0] = s->theirs[1] = s->theirs[2] = -1;
    ev_io_init(&s->in_io, on_in_writable, -1, EV_WRITE);
    s->in_io.data = s;
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++) {
        s->out[i].s = s;
        s->out[i].fd = -1;
        ev_io_init(&s->out[i].io, on_out_readable, -1, EV_READ);
        s->out[i].io.data = &s->out[i];
    }
}

void session_io_deinit(struct session *s)
{
    struct ev_loop *ev = loop_ev(s->server->loop);

    session_close_fds(s);
    ev_io_stop(ev, &s->in_io);
    if (s->in_shared)
        s->in = -1;
    s->in = fd_close(s->in);
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++) {
        ev_io_stop(ev, &s->out[i].io);
        s->out[i].fd = fd_close(s->out[i].fd);
    }
    str_free(&s->inq);
    str_free(&s->resize);
}
