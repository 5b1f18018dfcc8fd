/* SPDX-License-Identifier: Apache-2.0 */
/* The life of an upgraded connection: its channels are opened, it begins, somebody ends it. The
 * bytes of exec and attach are moved by session_io.c.
 *
 * Nothing is ever freed while a callback may be on the stack: session_kill() takes everything apart
 * but the memory, which the server's reaper frees in the next turn. */
#include "mem.h"
#include "reactor/spdy.h"
#include "reactor/stream_int.h"
#include "reactor/ws.h"
#include "utf8.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/ioctl.h>

#define BIT(kind) (1u << (kind))

void session_active(struct session *s)
{
    s->active_ms = clock_mono_ms();
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
        o = json_pack("{s:{},s:s,s:s,s:s,s:{s:[{s:s}]},s:i}", "metadata", "status", "Failure",
                      "message", text, "reason", "InternalError", "details", "causes", "message",
                      s->failure, "code", 500);
        free(text);
    } else if (s->status > 0) {
        char code[16];

        snprintf(code, sizeof code, "%d", s->status);
        text = mem_printf("command terminated with non-zero exit code: exit code %d", s->status);
        o = json_pack("{s:{},s:s,s:s,s:s,s:{s:[{s:s,s:s}]}}", "metadata", "status", "Failure",
                      "message", text, "reason", "NonZeroExitCode", "details", "causes", "reason",
                      "ExitCode", "message", code);
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
            session_close_out(&s->out[i]);
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

/* The process has exited: what is in the pipes now is the rest, whoever may still hold their other
 * ends. */
static void on_drain(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct session *s = w->data;

    (void)revents;
    for (size_t i = 0; i < ARRAY_LEN(s->out); i++) {
        int n = 0;

        if (s->out[i].fd < 0)
            continue;
        if (ioctl(s->out[i].fd, FIONREAD, &n) < 0 || n <= 0) {
            session_close_out(&s->out[i]);
            continue;
        }
        s->out[i].limited = true;
        s->out[i].limit = (size_t)n;
        ev_io_start(ev, &s->out[i].io);
    }
    session_maybe_finish(s);
}

static void last_word(struct session *s)
{
    s->ended = true;
    session_close_fds(s);
    if (!s->in_closed)
        session_close_in(s);
    if (s->inq.len)
        session_taken(s, s->inq.len);
    loop_timer(s->server->loop, &s->drain, STREAM_DRAIN_MS);
    session_maybe_finish(s);
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
    session_io_deinit(s);
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
    if (!(o->kind == STREAM_EXEC && o->tty) && session_open_pipes(s, &err) < 0) {
        if (o->expired)
            o->expired(o->arg);
        session_fail(s, err.text);
        return;
    }
    s->begun = true;
    o->begin(o->arg, s);
    if (!s->dead)
        session_give_size(s);
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

static const struct mux_user command_user = {
    .want = on_want,
    .open = on_open,
    .data = session_on_data,
    .end = session_on_end,
    .writable = session_on_writable,
};

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
    int64_t left = s->active_ms + s->server->patience.idle_ms - clock_mono_ms();

    (void)ev;
    (void)revents;
    if (left > 0)
        loop_timer(s->server->loop, &s->idle, left);
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
    enum chan_kind kinds[2 * STREAM_PORTS_MAX] = { CHAN_IN, CHAN_OUT, CHAN_ERR, CHAN_ERROR,
                                                   CHAN_RESIZE };
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

struct session *session_new(struct stream_server *server, struct offer *o, const struct proto *p,
                            int fd, const void *early, size_t n)
{
    struct session *s = mem_new(struct session);
    struct conn_events ev = {
        .feed = on_feed, .drained = on_drained, .closed = on_closed, .arg = s
    };
    bool forward = o->o.kind == STREAM_PORT_FORWARD;

    s->server = server;
    s->offer = o;
    s->proto = *p;
    list_init(&s->forwards);
    list_add_tail(&server->sessions, &s->link);
    session_io_init(s);
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
    loop_timer(s->server->loop, &s->idle, server->patience.idle_ms);
    if (!forward && p->form == FORM_SPDY)
        loop_timer(s->server->loop, &s->setup, server->patience.open_ms);
    else if (!forward)
        begin_ws(s);
    else
        forward_begin(s);
    if (n && !s->dead && on_feed(s, early, n) < 0) {
        if (s->conn)
            conn_refuse(s->conn);
        session_gone(s);
    }
    return s;
}
