/* SPDX-License-Identifier: Apache-2.0 */
/* The gRPC server: its socket, its HTTP/2 context, its orderly end. Calls are in h2o_rpc.c.
 *
 * Connections are handed to libh2o as HTTP/2 at once (prior knowledge, no HTTP/1 on this socket).
 * Settings that differ from libh2o's defaults, and why:
 *  - no idle timeout: after 10 s it would drop kubelet's connections between two calls. Its list is
 *    disposed of: a "very large" value is computed as now - timeout, unsigned, and fires on nodes
 *    that boot in 1970;
 *  - a body may have 64 MiB, though gRPC messages may have 16: over its own limit libh2o answers
 *    REFUSED_STREAM, which clients read as "safe to try again", and not ResourceExhausted. */
#include "reactor/grpc.h"

#include "log.h"
#include "mem.h"
#include "reactor/h2o_grpc.h"
#include "reactor/h2o_trailers.h"

#include <errno.h>
#include <h2o/http2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>

enum { BODY_MAX = 4 * GRPC_MESSAGE_MAX, CONNS_MAX = 512, IDLE_MS = 10000, SPIN_MAX = 64 };

struct handler {
    h2o_handler_t super;
    struct grpc_server *server;
};

static int on_request(h2o_handler_t *self, h2o_req_t *req)
{
    if (!rpc_arrived(((struct handler *)(void *)self)->server, req))
        h2o_send_error_generic(req, 415, "Unsupported Media Type", "only gRPC is spoken here\n", 0);
    return 0;
}

static void on_connection(void *arg, int fd)
{
    struct grpc_server *s = arg;
    struct timeval now;

    if (trailers_conns(&s->http) >= CONNS_MAX) {
        log_warn("op=accept err='%d connections are open, refusing one more'", CONNS_MAX);
        close(fd);
        return;
    }
    gettimeofday(&now, NULL);
    h2o_http2_accept(&s->accept,
                     h2o_evloop_socket_create(bridge_h2o(s->bridge), fd,
                                              H2O_SOCKET_FLAG_IS_ACCEPTED_CONNECTION),
                     now);
}

static void open_http(struct grpc_server *s)
{
    h2o_hostconf_t *host;
    struct handler *h;

    h2o_config_init(&s->conf);
    s->conf.server_name = h2o_iovec_init(H2O_STRLIT(""));
    s->conf.max_request_entity_size = BODY_MAX;
    s->conf.http1.upgrade_to_http2 = 0;
    host = h2o_config_register_host(&s->conf, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h = (struct handler *)(void *)h2o_create_handler(h2o_config_register_path(host, "/", 0),
                                                     sizeof *h);
    h->super.on_req = on_request;
    h->server = s;
    h2o_context_init(&s->http, bridge_h2o(s->bridge), &s->conf);
    h2o_timeout_dispose(bridge_h2o(s->bridge), &s->http.http2.idle_timeout);
    s->accept.ctx = &s->http;
    s->accept.hosts = s->conf.hosts;
}

static int open_socket(struct grpc_server *s, const struct grpc_opts *o, struct err *err)
{
    struct stat st;
    int fd = o->listen_fd, r;

    if (fd >= 0) {
        r = listen_adopt(fd, err);
        if (r < 0)
            return r;
    } else {
        fd = listen_unix(o->socket_path, o->mode, o->uid, o->gid, err);
        if (fd < 0)
            return fd;
        if (stat(o->socket_path, &st) == 0) {
            s->path = mem_strdup(o->socket_path);
            s->path_dev = st.st_dev;
            s->path_ino = st.st_ino;
        }
    }
    s->listener = listener_new(s->loop, fd, on_connection, s);
    return 0;
}

int grpc_listen(struct loop *l, const struct grpc_opts *o, struct grpc_server **ret,
                struct err *err)
{
    struct grpc_server *s = mem_new(struct grpc_server);
    size_t n = 0;
    int r;

    s->loop = l;
    s->methods = o->methods;
    s->ctx = o->ctx;
    list_init(&s->calls);
    while (o->methods[n].service)
        n++;
    r = bridge_get(l, &s->bridge, err);
    if (r == 0) {
        r = open_socket(s, o, err);
        if (r < 0)
            bridge_put(s->bridge);
    }
    if (r < 0) {
        free(s);
        return r;
    }
    s->stats = mem_array(n, sizeof *s->stats);
    open_http(s);
    *ret = s;
    return 0;
}

size_t grpc_live_calls(const struct grpc_server *s)
{
    return s->n_calls;
}

void grpc_each_method(const struct grpc_server *s,
                      void (*fn)(const struct grpc_method *m, const struct grpc_method_stats *st,
                                 void *arg),
                      void *arg)
{
    for (size_t i = 0; s->methods[i].service; i++)
        if (s->stats[i].calls)
            fn(&s->methods[i], &s->stats[i], arg);
}

static void closed(struct grpc_server *s)
{
    void (*cb)(void *arg) = s->closed;

    ev_timer_stop(loop_ev(s->loop), &s->closing_deadline);
    ev_prepare_stop(loop_ev(s->loop), &s->closing_watch);
    s->closed = NULL;
    if (cb)
        cb(s->closed_arg);           /* may free s */
}

static void on_closing_deadline(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct grpc_server *s = w->data;

    (void)ev;
    (void)revents;
    log_warn("op=shutdown calls=%zu err='out of time, dropping what is left'", s->n_calls);
    closed(s);
}

/* At the end of each turn: connections close in the middle of libh2o, which does not tell. */
static void on_closing_watch(struct ev_loop *ev, ev_prepare *w, int revents)
{
    struct grpc_server *s = w->data;

    (void)ev;
    (void)revents;
    if (!trailers_conns(&s->http))
        closed(s);
}

void grpc_shutdown(struct grpc_server *s, int64_t ms, void (*done)(void *arg), void *arg)
{
    struct ev_loop *ev = loop_ev(s->loop);

    if (s->closing)
        return;
    s->closing = true;
    s->closed = done;
    s->closed_arg = arg;
    s->listener = listener_free(s->listener);
    for (struct list *l = s->calls.next, *next = l->next; l != &s->calls; l = next, next = l->next)
        rpc_shut(rpc_of_link(l));
    h2o_context_request_shutdown(&s->http);
    ev_now_update(ev);
    ev_timer_init(&s->closing_deadline, on_closing_deadline, (double)ms / 1000., 0.);
    ev_prepare_init(&s->closing_watch, on_closing_watch);
    ev_set_priority(&s->closing_watch, -1); /* after the bridge */
    s->closing_deadline.data = s->closing_watch.data = s;
    ev_timer_start(ev, &s->closing_deadline);
    ev_prepare_start(ev, &s->closing_watch);
}

static bool has_conns(void *arg)
{
    struct grpc_server *s = arg;

    return trailers_conns(&s->http) != 0;
}

static void remove_socket(struct grpc_server *s)
{
    struct stat st;

    if (s->path && lstat(s->path, &st) == 0 && st.st_dev == s->path_dev && st.st_ino == s->path_ino)
        (void)unlink(s->path);
}

struct grpc_server *grpc_free(struct grpc_server *s)
{
    h2o_multithread_queue_t *queue;

    if (!s)
        return NULL;
    if (s->closing) {
        ev_timer_stop(loop_ev(s->loop), &s->closing_deadline);
        ev_prepare_stop(loop_ev(s->loop), &s->closing_watch);
    }
    s->closing = true;
    s->listener = listener_free(s->listener);
    remove_socket(s);
    trailers_drop_conns(&s->http);
    bridge_spin(s->bridge, SPIN_MAX, has_conns, s);
    /* the second GOAWAY, a second after the first */
    h2o_timeout_unlink(&s->http.http2._graceful_shutdown_timeout);
    h2o_timeout_init(bridge_h2o(s->bridge), &s->http.http2.idle_timeout, IDLE_MS);
    queue = s->http.queue;
    h2o_context_dispose(&s->http);
    free(queue);                     /* which it only empties */
    h2o_config_dispose(&s->conf);
    bridge_put(s->bridge);
    free(s->path);
    free(s->stats);
    free(s);
    return NULL;
}
