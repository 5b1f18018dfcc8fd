/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens, and what client and server agree upon before a session begins. */
#include "reactor/stream.h"

#include "mem.h"
#include "reactor/listen.h"
#include "reactor/stream_int.h"
#include "reactor/ws.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/socket.h>

enum { TOKEN_BYTES = 24 };           /* 192 bits: 32 characters */

static const char *const kind_paths[] = { [STREAM_EXEC] = "/exec/", [STREAM_ATTACH] = "/attach/",
                                          [STREAM_PORT_FORWARD] = "/portforward/" };

/* --- offers */

struct offer *offer_free(struct offer *o)
{
    if (o)
        list_del(&o->link);
    free(o);
    return NULL;
}

static void make_token(char token[33])
{
    static const char abc[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t r[TOKEN_BYTES];
    size_t n = 0;

    if (getrandom(r, sizeof r, 0) != (ssize_t)sizeof r)
        abort();                     /* never for so few bytes */
    for (size_t i = 0; i < sizeof r; i += 3) {
        uint32_t v = (uint32_t)r[i] << 16 | (uint32_t)r[i + 1] << 8 | r[i + 2];

        for (int shift = 18; shift >= 0; shift -= 6)
            token[n++] = abc[v >> shift & 63];
    }
    token[n] = '\0';
}

static void arm_expiry(struct stream_server *s)
{
    struct offer *o = list_first(&s->offers, struct offer, link);

    if (o)
        loop_timer(s->loop, &s->expiry, o->expires_ms - clock_mono_ms());
    else
        ev_timer_stop(loop_ev(s->loop), &s->expiry);
}

static void take_offer(struct stream_server *s, struct offer *o)
{
    list_del(&o->link);
    s->n_offers--;
    arm_expiry(s);
}

static void expire(struct offer *o)
{
    if (o->o.expired)
        o->o.expired(o->o.arg);
    offer_free(o);
}

static void on_expiry(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct stream_server *s = w->data;
    int64_t now = clock_mono_ms();
    struct offer *o;

    (void)ev;
    (void)revents;
    while ((o = list_first(&s->offers, struct offer, link)) && o->expires_ms <= now) {
        take_offer(s, o);
        expire(o);
    }
    arm_expiry(s);
}

int stream_offer(struct stream_server *s, const struct stream_offer *so, char **url,
                 struct err *err)
{
    struct offer *o;

    if (s->n_offers >= STREAM_TOKENS_MAX)
        return err_rpc(err, GRPC_RESOURCE_EXHAUSTED,
                       "%d streaming requests wait for their clients already", STREAM_TOKENS_MAX);
    if (so->n_ports > STREAM_PORTS_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "more than %d ports", STREAM_PORTS_MAX);
    o = mem_new(struct offer);
    o->o = *so;
    for (size_t i = 0; i < so->n_ports; i++)
        o->ports[i] = so->ports[i];
    o->o.ports = o->ports;
    o->expires_ms = clock_mono_ms() + s->patience.token_ms;
    make_token(o->token);
    list_add_tail(&s->offers, &o->link);
    s->n_offers++;
    if (s->n_offers == 1)
        arm_expiry(s);
    *url = mem_printf("%s%s%s", s->base, kind_paths[so->kind], o->token);
    return 0;
}

void stream_withdraw(struct stream_server *s, const void *arg)
{
    struct offer *o;

    list_each(o, &s->offers, struct offer, link) {
        if (o->o.arg == arg) {
            take_offer(s, o);
            offer_free(o);
        }
    }
}

/* --- negotiation */

/* The next name of a comma separated list, without blanks; false at its end. */
static bool next_name(const char **p, const char **name, size_t *n)
{
    *p += strspn(*p, ", \t");
    if (!**p)
        return false;
    *name = *p;
    *n = strcspn(*p, ",");
    *p += *n;
    while (*n && ((*name)[*n - 1] == ' ' || (*name)[*n - 1] == '\t'))
        --*n;
    return true;
}

/* The first of the client's names that is in ours. */
static const struct proto *choose(const char *list, const struct proto *ours, size_t n_ours)
{
    const char *name;
    size_t n;

    while (next_name(&list, &name, &n))
        for (size_t i = 0; i < n_ours; i++)
            if (strlen(ours[i].name) == n && memcmp(ours[i].name, name, n) == 0)
                return &ours[i];
    return NULL;
}

static void refuse(struct http_reply *r, int status, const char *reason, const char *body)
{
    r->status = status;
    r->reason = reason;
    r->body = body;
}

static void add_header(struct http_reply *r, const char *name, const char *value)
{
    r->header_room[r->n_headers][0] = name;
    r->header_room[r->n_headers][1] = value;
    r->n_headers++;
}

static void decide_spdy(enum stream_kind kind, const struct http_request *req, struct http_reply *r)
{
    static const struct proto commands[] = { { FORM_SPDY, "v4.channel.k8s.io", 4, false },
                                             { FORM_SPDY, "v3.channel.k8s.io", 3, false },
                                             { FORM_SPDY, "v2.channel.k8s.io", 2, false },
                                             { FORM_SPDY, "channel.k8s.io", 1, false } };
    static const struct proto forward[] = { { FORM_SPDY, "portforward.k8s.io", 1, false } };
    const struct proto *ours = kind == STREAM_PORT_FORWARD ? forward : commands, *p;
    size_t n = kind == STREAM_PORT_FORWARD ? ARRAY_LEN(forward) : ARRAY_LEN(commands);

    if (!req->stream_protocols || !req->stream_protocols[strspn(req->stream_protocols, ", \t")]) {
        refuse(r, 400, "Bad Request", "upgrade request without X-Stream-Protocol-Version\n");
        return;
    }
    p = choose(req->stream_protocols, ours, n);
    if (!p) {
        refuse(r, 403, "Forbidden", "no common stream protocol\n");
        for (size_t i = 0; i < n; i++)
            add_header(r, "x-accepted-stream-protocol-versions", ours[i].name);
        return;
    }
    r->status = 101;
    r->proto = *p;
    add_header(r, "upgrade", "SPDY/3.1");
    add_header(r, "x-stream-protocol-version", p->name);
}

static void decide_ws(enum stream_kind kind, const struct http_request *req, struct http_reply *r)
{
    static const struct proto commands[] = { { FORM_WS, "v5.channel.k8s.io", 5, false },
                                             { FORM_WS, "v4.channel.k8s.io", 4, false },
                                             { FORM_WS, "v4.base64.channel.k8s.io", 4, true },
                                             { FORM_WS, "channel.k8s.io", 1, false },
                                             { FORM_WS, "base64.channel.k8s.io", 1, true } };
    static const struct proto forward[] = { { FORM_TUNNEL, "SPDY/3.1+portforward.k8s.io", 1,
                                              false },
                                            { FORM_WS, "v4.channel.k8s.io", 4, false },
                                            { FORM_WS, "v4.base64.channel.k8s.io", 4, true } };
    static const struct proto plain = { FORM_WS, "", 1, false };
    const struct proto *p = &plain;

    if (!req->ws_key || strlen(req->ws_key) != 24 || !req->ws_version ||
        strcmp(req->ws_version, "13") != 0) {
        refuse(r, 400, "Bad Request", "not a WebSocket handshake of version 13\n");
        add_header(r, "sec-websocket-version", "13");
        return;
    }
    if (req->ws_protocols)
        p = kind == STREAM_PORT_FORWARD ? choose(req->ws_protocols, forward, ARRAY_LEN(forward))
                                        : choose(req->ws_protocols, commands, ARRAY_LEN(commands));
    if (!p) {
        refuse(r, 403, "Forbidden", "no common WebSocket subprotocol\n");
        return;
    }
    r->status = 101;
    r->proto = *p;
    ws_accept_key(req->ws_key, 24, r->accept);
    add_header(r, "upgrade", "websocket");
    add_header(r, "sec-websocket-accept", r->accept);
    if (p->name[0])
        add_header(r, "sec-websocket-protocol", p->name);
}

static struct offer *find_offer(struct stream_server *s, const char *path)
{
    struct offer *o;

    list_each(o, &s->offers, struct offer, link) {
        const char *kind = kind_paths[o->o.kind];

        if (str_starts(path, kind) && strcmp(path + strlen(kind), o->token) == 0)
            return o;
    }
    return NULL;
}

static bool contains(const char *list, const char *want)
{
    const char *name;
    size_t n;

    while (next_name(&list, &name, &n))
        if (n == strlen(want) && strncasecmp(name, want, n) == 0)
            return true;
    return false;
}

void stream_decide(struct stream_server *s, const struct http_request *req, struct http_reply *ret)
{
    struct offer *o;

    *ret = (struct http_reply){ .body = "" };
    ret->headers = ret->header_room;
    if (strcmp(req->method, "GET") != 0 && strcmp(req->method, "POST") != 0) {
        refuse(ret, 405, "Method Not Allowed", "GET or POST\n");
        return;
    }
    o = find_offer(s, req->path);
    if (!o) {
        refuse(ret, 404, "Not Found", "no such request\n");
        return;
    }
    take_offer(s, o);                /* single use, whatever becomes of it */
    if (s->n_sessions >= STREAM_SESSIONS_MAX)
        refuse(ret, 503, "Service Unavailable", "too many streaming sessions\n");
    else if (req->upgrade && contains(req->upgrade, "websocket"))
        decide_ws(o->o.kind, req, ret);
    else if (req->upgrade && contains(req->upgrade, "SPDY/3.1"))
        decide_spdy(o->o.kind, req, ret);
    else
        refuse(ret, 400, "Bad Request",
               "unable to upgrade: neither SPDY/3.1 nor WebSocket was asked for\n");
    if (ret->status != 101) {
        expire(o);
        return;
    }
    ret->reason = "Switching Protocols";
    ret->offer = o;
    s->n_sessions++;
}

void stream_upgraded(struct stream_server *s, struct offer *o, const struct proto *p, int fd,
                     const void *early, size_t n)
{
    if (fd < 0 || s->closing) {
        s->n_sessions--;
        fd_close(fd);
        if (s->closing)
            offer_free(o);
        else
            expire(o);
        return;
    }
    session_new(s, o, p, fd, early, n);
}

/* --- the server */

static void on_reap(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct stream_server *s = w->data;

    (void)ev;
    (void)revents;
    while (!list_empty(&s->dead))
        session_free(list_first(&s->dead, struct session, link));
}

static char *base_url(int fd, const char *address)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } a;
    socklen_t n = sizeof a;
    int port;

    if (getsockname(fd, &a.sa, &n) < 0)
        return NULL;
    port = ntohs(a.sa.sa_family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port);
    return mem_printf(a.sa.sa_family == AF_INET6 ? "http://[%s]:%d" : "http://%s:%d", address,
                      port);
}

int stream_listen(struct loop *l, const char *address, int port, struct stream_server **ret,
                  struct err *err)
{
    struct stream_server *s;
    int fd = listen_tcp(address, port, err), r;

    if (fd < 0)
        return err_note(err, "streaming server");
    s = mem_new(struct stream_server);
    s->loop = l;
    s->patience =
        (struct stream_patience){ .token_ms = 60000, .open_ms = 30000, .idle_ms = 4 * 3600000 };
    list_init(&s->offers);
    list_init(&s->sessions);
    list_init(&s->dead);
    ev_timer_init(&s->expiry, on_expiry, 0., 0.);
    ev_timer_init(&s->reaper, on_reap, 0., 0.);
    s->expiry.data = s->reaper.data = s;
    s->base = base_url(fd, address);
    r = http_listen(l, fd, s, &s->http, err);
    if (r < 0) {
        free(s->base);
        free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void stream_patience(struct stream_server *s, int64_t wait_ms, int64_t idle_ms)
{
    s->patience.token_ms = wait_ms;
    s->patience.idle_ms = idle_ms;
}

struct stream_server *stream_free(struct stream_server *s)
{
    if (!s)
        return NULL;
    s->closing = true;
    s->http = stream_http_free(s->http);    /* upgrades under way come back */
    while (!list_empty(&s->sessions)) {
        struct session *one = list_first(&s->sessions, struct session, link);

        if (one->ended)              /* a client that hears nothing takes it for success */
            session_bye(one);
        session_kill(one);
    }
    on_reap(NULL, &s->reaper, 0);
    conn_end_all(s->loop);
    while (!list_empty(&s->offers))
        offer_free(list_first(&s->offers, struct offer, link));
    ev_timer_stop(loop_ev(s->loop), &s->expiry);
    ev_timer_stop(loop_ev(s->loop), &s->reaper);
    free(s->base);
    free(s);
    return NULL;
}

size_t stream_sessions(const struct stream_server *s)
{
    return s->n_sessions;
}
