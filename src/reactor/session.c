/* SPDX-License-Identifier: Apache-2.0 */
/* One upgraded connection and, for exec and attach, the pipes of a process.
 *
 *      client --stdin--> inq --> pipe (or pty) --> process       back-pressure: the SPDY window, then the socket is not read
 *      client <--stdout-- pipe (or pty) <------- process         back-pressure: the pipe is not read while the client has no room
 *
 * Nothing is ever freed while a callback may be on the stack: session_kill() takes everything apart but the memory, which the
 * server's reaper frees in the next turn. */
#include "mem.h"
#include "reactor/spdy.h"
#include "reactor/stream_int.h"
#include "reactor/ws.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/ioctl.h>

enum { INQ_HIGH = 256 * 1024, INQ_LOW = 64 * 1024, READ_OUT = 32 * 1024, RESIZE_MAX = 4096 };

#define BIT(kind) (1u << (kind))

void session_active(struct session *s)
{
    s->active_ms = clock_mono_ms();
}

static void start_timer(struct session *s, ev_timer *t, int64_t ms)
{
    ev_timer_stop(loop_ev(s->server->loop), t);
    ev_now_update(loop_ev(s->server->loop));
    ev_timer_set(t, (double)ms / 1000., 0.);
    ev_timer_start(loop_ev(s->server->loop), t);
}

/* --- client to process */

static void close_in(struct session *s)
{
    s->in_closed = true;
    ev_io_stop(loop_ev(s->server->loop), &s->in_io);
    if (!s->in_shared)
        fd_close(s->in);
    s->in = -1;
}

static void taken(struct session *s, size_t n)
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
            close_in(s);             /* the process does not read any more */
        }
    }
    if (s->in_closed)
        done = s->inq.len;
    if (done)
        taken(s, done);
    if (s->inq.len)
        return;
    ev_io_stop(loop_ev(s->server->loop), &s->in_io);
    if (s->in >= 0 && !s->in_shared && s->ch[CHAN_IN] && s->ch[CHAN_IN]->peer_ended)
        close_in(s);
}

static void on_in_writable(struct ev_loop *ev, ev_io *w, int revents)
{
    (void)ev;
    (void)revents;
    write_in(w->data);
}

static void give_size(struct session *s)
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
        give_size(s);
        if (s->dead)
            return;
    }
}

static void on_data(void *arg, struct chan *c, const uint8_t *p, size_t n)
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

static void on_end(void *arg, struct chan *c, bool reset)
{
    struct session *s = arg;

    if (c->kind == CHAN_IN && s->in >= 0)
        write_in(s);
    for (size_t i = 0; reset && i < ARRAY_LEN(s->out); i++)
        if (s->out[i].chan == c)
            s->out[i].chan = NULL;   /* what the process writes is dropped from now on */
}

/* --- process to client */

static void maybe_finish(struct session *s)
{
    if (!s->ended || s->finishing || s->dead)
        return;
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++)
        if (s->out[i].fd >= 0)
            return;
    session_bye(s);
}

static void close_out(struct pipe_out *o)
{
    ev_io_stop(loop_ev(o->s->server->loop), &o->io);
    if (o->s->in_shared && o->s->in == o->fd)
        close_in(o->s);
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
        ev_io_stop(ev, w);           /* on_writable() goes on */
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
        close_out(o);
        maybe_finish(o->s);
    }
}

static void on_writable(void *arg)
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

static int open_pipes(struct session *s, struct err *err)
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
    give_size(s);                    /* the process may not have been there when it came */
}

/* --- the end */

static void add_status(struct session *s, struct str *out)
{
    json_t *o;
    char *text;

    if (s->proto.version < 4) {
        if (s->failure)
            str_puts(out, s->failure);
        else if (s->status > 0)
            str_printf(out, "command terminated with non-zero exit code: exit code %d", s->status);
        return;
    }
    if (s->failure) {
        utf8_clean(s->failure, strlen(s->failure));
        text = mem_printf("Internal error occurred: %s", s->failure);
        o = json_pack("{s:{},s:s,s:s,s:s,s:{s:[{s:s}]},s:i}", "metadata", "status", "Failure", "message", text,
                      "reason", "InternalError", "details", "causes", "message", s->failure, "code", 500);
        free(text);
    } else if (s->status > 0) {
        char code[16];

        snprintf(code, sizeof code, "%d", s->status);
        text = mem_printf("command terminated with non-zero exit code: exit code %d", s->status);
        o = json_pack("{s:{},s:s,s:s,s:s,s:{s:[{s:s,s:s}]}}", "metadata", "status", "Failure", "message", text,
                      "reason", "NonZeroExitCode", "details", "causes", "reason", "ExitCode", "message", code);
        free(text);
    } else {
        o = json_pack("{s:{},s:s}", "metadata", "status", "Success");
    }
    text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    if (text)
        str_puts(out, text);
    free(text);
}

void session_bye(struct session *s)
{
    auto_str struct str status = STR_INIT;

    if (s->finishing || s->dead)
        return;
    s->finishing = true;
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++)
        if (s->out[i].fd >= 0)
            close_out(&s->out[i]);
    if (s->offer->o.kind != STREAM_PORT_FORWARD) {
        for (int k = CHAN_OUT; k <= CHAN_ERR; k++)
            if (s->ch[k])
                mux_end(s->ch[k]);
        add_status(s, &status);
        if (s->ch[CHAN_ERROR]) {
            mux_send(s->ch[CHAN_ERROR], status.p, status.len);
            mux_end(s->ch[CHAN_ERROR]);
        }
    }
    mux_bye(s->outer);
    mux_stop(s->outer);
    mux_stop(s->mux);
    conn_finish(s->conn);
}

void session_over(struct session *s)
{
    if (s->begun && !s->ended && s->offer->o.gone)
        s->offer->o.gone(s->offer->o.arg, s);
    s->ended = true;
    session_bye(s);
}

/* The process has exited: what is in the pipes now is the rest, whoever may still hold their other ends. */
static void on_drain(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct session *s = w->data;

    (void)revents;
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++) {
        int n = 0;

        if (s->out[i].fd < 0)
            continue;
        if (ioctl(s->out[i].fd, FIONREAD, &n) < 0 || n <= 0) {
            close_out(&s->out[i]);
            continue;
        }
        s->out[i].limited = true;
        s->out[i].limit = (size_t)n;
        ev_io_start(ev, &s->out[i].io);
    }
    maybe_finish(s);
}

static void last_word(struct session *s)
{
    s->ended = true;
    session_close_fds(s);
    if (!s->in_closed)
        close_in(s);
    if (s->inq.len)
        taken(s, s->inq.len);
    start_timer(s, &s->drain, STREAM_DRAIN_MS);
    maybe_finish(s);
}

void session_exited(struct session *s, int status)
{
    if (s->ended)
        return;
    s->status = status;
    last_word(s);
}

void session_fail(struct session *s, const char *text)
{
    if (s->ended)
        return;
    s->failure = mem_strdup(text);
    last_word(s);
}

void session_close(struct session *s)
{
    s->ended = true;
    session_kill(s);
}

void session_kill(struct session *s)
{
    struct ev_loop *ev = loop_ev(s->server->loop);

    if (s->dead)
        return;
    s->dead = true;
    mux_stop(s->outer);
    mux_stop(s->mux);
    forward_end(s);
    s->conn = conn_free(s->conn);
    session_close_fds(s);
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++)
        ev_io_stop(ev, &s->out[i].io);
    ev_io_stop(ev, &s->in_io);
    if (s->in_shared)
        s->in = -1;
    s->in = fd_close(s->in);
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++)
        s->out[i].fd = fd_close(s->out[i].fd);
    ev_timer_stop(ev, &s->setup);
    ev_timer_stop(ev, &s->drain);
    ev_timer_stop(ev, &s->idle);
    list_del(&s->link);
    list_add_tail(&s->server->dead, &s->link);
    s->server->n_sessions--;
    ev_timer_set(&s->server->reaper, 0., 0.);
    ev_timer_start(ev, &s->server->reaper);
}

void session_free(struct session *s)
{
    list_del(&s->link);
    s->outer = mux_free(s->outer);
    offer_free(s->offer);
    str_free(&s->inq);
    str_free(&s->resize);
    free(s->failure);
    free(s);
}

/* The client has left, or never came so far. */
static void session_gone(struct session *s)
{
    const struct stream_offer *o = &s->offer->o;

    if (s->dead)
        return;
    if (!s->begun && !s->ended && o->expired)
        o->expired(o->arg);
    else if (s->begun && !s->ended && o->gone)
        o->gone(o->arg, s);
    s->ended = true;
    session_kill(s);
}

/* --- the beginning */

static void begin(struct session *s)
{
    const struct stream_offer *o = &s->offer->o;
    struct err err = ERR_INIT;

    ev_timer_stop(loop_ev(s->server->loop), &s->setup);
    if (!(o->kind == STREAM_EXEC && o->tty) && open_pipes(s, &err) < 0) {
        if (o->expired)
            o->expired(o->arg);
        session_fail(s, err.text);
        return;
    }
    s->begun = true;
    o->begin(o->arg, s);
    if (!s->dead)
        give_size(s);
}

static int on_want(void *arg, struct chan *c)
{
    struct session *s = arg;

    if (c->kind > CHAN_RESIZE || !(s->want & BIT(c->kind)))
        return -EINVAL;
    return s->ch[c->kind] ? -EEXIST : 0;
}

static void on_open(void *arg, struct chan *c)
{
    struct session *s = arg;
    unsigned have = 0;

    s->ch[c->kind] = c;
    for (int k = 0; k <= CHAN_RESIZE; k++)
        if (s->ch[k])
            have |= BIT(k);
    if (!s->begun && have == s->want)
        begin(s);
}

static const struct mux_user command_user = { .want = on_want, .open = on_open, .data = on_data, .end = on_end,
                                              .writable = on_writable };

static int on_feed(void *arg, const uint8_t *p, size_t n)
{
    struct session *s = arg;

    return mux_feed(s->outer, p, n);
}

static void on_drained(void *arg)
{
    struct session *s = arg;

    if (!s->mux->stopped)
        s->mux->user.writable(s->mux->user.arg);
}

static void on_closed(void *arg)
{
    session_gone(arg);
}

static void on_setup(struct ev_loop *ev, ev_timer *w, int revents)
{
    (void)ev;
    (void)revents;
    session_gone(w->data);
}

static void on_idle(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct session *s = w->data;
    int64_t left = s->active_ms + STREAM_IDLE_MS - clock_mono_ms();

    (void)ev;
    (void)revents;
    if (left > 0)
        start_timer(s, &s->idle, left);
    else
        session_gone(s);
}

static void to_conn(void *arg, const void *p, size_t n)
{
    struct session *s = arg;

    if (s->conn)
        conn_write(s->conn, p, n);
}

static size_t conn_room_(void *arg)
{
    struct session *s = arg;

    return s->conn ? conn_room(s->conn) : 0;
}

static void make_mux(struct session *s)
{
    struct mux_user user = s->offer->o.kind == STREAM_PORT_FORWARD ? forward_user : command_user;
    struct transport out = { .write = to_conn, .room = conn_room_, .arg = s }, in;
    enum chan_kind kinds[2 * STREAM_PORTS_MAX] = { CHAN_IN, CHAN_OUT, CHAN_ERR, CHAN_ERROR, CHAN_RESIZE };
    size_t n = 5;

    user.arg = s;
    switch (s->proto.form) {
    case FORM_SPDY:
        s->outer = s->mux = spdy_new(s->server->loop, &user, &out);
        break;
    case FORM_TUNNEL:
        s->outer = ws_tunnel_new(&out);
        in = ws_tunnel_transport(s->outer);
        s->mux = spdy_new(s->server->loop, &user, &in);
        ws_tunnel_inner(s->outer, s->mux);
        break;
    case FORM_WS:
        if (s->offer->o.kind == STREAM_PORT_FORWARD) {
            n = 2 * s->offer->o.n_ports;
            for (size_t i = 0; i < n; i++)
                kinds[i] = i % 2 ? CHAN_ERROR : CHAN_DATA;
        }
        s->outer = s->mux = ws_new(&user, &out, kinds, n, s->proto.base64, s->proto.version >= 5);
        break;
    }
}

/* WebSocket: all channels exist from the beginning; an empty message says that we are ready. */
static void begin_ws(struct session *s)
{
    struct chan *c, *first = NULL;

    list_each(c, &s->mux->chans, struct chan, link)
        s->ch[c->kind] = c;
    first = s->ch[s->offer->o.out ? CHAN_OUT : s->offer->o.err ? CHAN_ERR : CHAN_ERROR];
    ws_ready(first);
    begin(s);
}

struct session *session_new(struct stream_server *server, struct offer *o, const struct proto *p, int fd,
                            const void *early, size_t n)
{
    struct session *s = mem_new(struct session);
    struct conn_events ev = { .feed = on_feed, .drained = on_drained, .closed = on_closed, .arg = s };
    bool forward = o->o.kind == STREAM_PORT_FORWARD;

    s->server = server;
    s->offer = o;
    s->proto = *p;
    s->in = s->theirs[0] = s->theirs[1] = s->theirs[2] = -1;
    list_init(&s->forwards);
    list_add_tail(&server->sessions, &s->link);
    ev_io_init(&s->in_io, on_in_writable, -1, EV_WRITE);
    s->in_io.data = s;
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++) {
        s->out[i].s = s;
        s->out[i].fd = -1;
        ev_io_init(&s->out[i].io, on_out_readable, -1, EV_READ);
        s->out[i].io.data = &s->out[i];
    }
    ev_timer_init(&s->setup, on_setup, 0., 0.);
    ev_timer_init(&s->drain, on_drain, 0., 0.);
    ev_timer_init(&s->idle, on_idle, 0., 0.);
    s->setup.data = s->drain.data = s->idle.data = s;
    if (!forward)
        s->want = BIT(CHAN_ERROR) | (o->o.in ? BIT(CHAN_IN) : 0) | (o->o.out ? BIT(CHAN_OUT) : 0) |
                  (o->o.err && !o->o.tty ? BIT(CHAN_ERR) : 0) |
                  (o->o.tty && p->version >= 3 ? BIT(CHAN_RESIZE) : 0);
    session_active(s);
    s->conn = conn_new(server->loop, fd, &ev);
    make_mux(s);
    start_timer(s, &s->idle, STREAM_IDLE_MS);
    if (!forward && p->form == FORM_SPDY)
        start_timer(s, &s->setup, STREAM_OPEN_MS);
    else if (!forward)
        begin_ws(s);
    else
        forward_begin(s);
    if (n && !s->dead && on_feed(s, early, n) < 0)
        session_gone(s);
    return s;
}
