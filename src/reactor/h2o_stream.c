/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP/1.1 listener of exec, attach and port-forward: libh2o reads one request, stream.c
 * decides, and either an error goes back or 101 and then the bare descriptor leaves libh2o for
 * good. */
#include "list.h"
#include "log.h"
#include "mem.h"
#include "reactor/h2o_bridge.h"
#include "reactor/listen.h"
#include "reactor/stream_int.h"

#include <h2o/http1.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { BODY_MAX = 4096, SPIN_MAX = 64 };

struct http_server {
    struct stream_server *stream;
    struct bridge *bridge;
    struct listener *listener;
    h2o_globalconf_t conf;
    h2o_context_t http;
    h2o_accept_ctx_t accept;
};

struct handler {
    h2o_handler_t super;
    struct http_server *server;
};

struct upgrade {                     /* between the decision and the end of the 101's write */
    struct stream_server *stream;
    struct offer *offer;
    struct proto proto;
};

/* All headers of that name, joined by commas, in the request's memory; NULL: none. */
static const char *header(h2o_req_t *req, const char *name)
{
    h2o_iovec_t all = { NULL, 0 };
    ssize_t i = -1;

    while ((i = h2o_find_header_by_str(&req->headers, name, strlen(name), i)) != -1) {
        h2o_iovec_t v = req->headers.entries[i].value;

        all = all.base ? h2o_concat(&req->pool, all, h2o_iovec_init(H2O_STRLIT(",")), v)
                       : h2o_strdup(&req->pool, v.base, v.len);
    }
    return all.base;
}

static void on_upgraded(void *data, h2o_socket_t *sock, size_t reqsize)
{
    struct upgrade *u = data;
    h2o_socket_export_t ex = { .fd = -1 };

    if (sock) {
        h2o_buffer_consume(&sock->input, reqsize);
        if (h2o_socket_export(sock, &ex) != 0)
            ex.fd = -1;
    }
    stream_upgraded(u->stream, u->offer, &u->proto, ex.fd, ex.fd >= 0 ? ex.input->bytes : NULL,
                    ex.fd >= 0 ? ex.input->size : 0);
    if (ex.fd >= 0)
        h2o_buffer_dispose(&ex.input);
    free(u);
}

static void add_headers(h2o_req_t *req, const struct http_reply *r)
{
    for (size_t i = 0; i < r->n_headers; i++) {
        h2o_iovec_t v = h2o_strdup(&req->pool, r->headers[i][1], SIZE_MAX);

        h2o_add_header_by_str(&req->pool, &req->res.headers, r->headers[i][0],
                              strlen(r->headers[i][0]), 0, NULL, v.base, v.len);
    }
}

static int on_request(h2o_handler_t *self, h2o_req_t *req)
{
    struct http_server *h = ((struct handler *)(void *)self)->server;
    struct http_request in = {
        .method = h2o_strdup(&req->pool, req->method.base, req->method.len).base,
        .path = h2o_strdup(&req->pool, req->path.base, req->path.len).base,
        .upgrade = req->upgrade.base
                       ? h2o_strdup(&req->pool, req->upgrade.base, req->upgrade.len).base
                       : NULL,
        .stream_protocols = header(req, "x-stream-protocol-version"),
        .ws_protocols = header(req, "sec-websocket-protocol"),
        .ws_key = header(req, "sec-websocket-key"),
        .ws_version = header(req, "sec-websocket-version"),
    };
    struct http_reply r;
    struct upgrade *u;

    stream_decide(h->stream, &in, &r);
    add_headers(req, &r);
    if (r.status != 101) {
        h2o_send_error_generic(req, r.status, r.reason, r.body, H2O_SEND_ERROR_KEEP_HEADERS);
        return 0;
    }
    u = mem_new(struct upgrade);
    *u = (struct upgrade){ h->stream, r.offer, r.proto };
    req->res.status = 101;
    req->res.reason = r.reason;
    h2o_http1_upgrade(req, NULL, 0, on_upgraded, u);
    return 0;
}

static size_t count_conns(struct http_server *h)
{
    size_t n = 0;

    for (h2o_linklist_t *l = h->http.http1._conns.next; l != &h->http.http1._conns; l = l->next)
        n++;
    return n;
}

static void on_connection(void *arg, int fd)
{
    struct http_server *h = arg;
    struct timeval now;

    if (count_conns(h) >= STREAM_SESSIONS_MAX) {
        log_warn("op=accept err='%d streaming requests are under way, refusing one more'",
                 STREAM_SESSIONS_MAX);
        close(fd);
        return;
    }
    gettimeofday(&now, NULL);
    h2o_http1_accept(
        &h->accept,
        h2o_evloop_socket_create(bridge_h2o(h->bridge), fd, H2O_SOCKET_FLAG_IS_ACCEPTED_CONNECTION),
        now);
}

int http_listen(struct loop *l, int listen_fd, struct stream_server *s, struct http_server **ret,
                struct err *err)
{
    struct http_server *h = mem_new(struct http_server);
    h2o_hostconf_t *host;
    struct handler *handler;
    int r = bridge_get(l, &h->bridge, err);

    if (r < 0) {
        close(listen_fd);
        free(h);
        return r;
    }
    h->stream = s;
    h2o_config_init(&h->conf);
    h->conf.server_name = h2o_iovec_init(H2O_STRLIT("cricket"));
    h->conf.max_request_entity_size = BODY_MAX;
    h->conf.http1.upgrade_to_http2 = 0;
    host = h2o_config_register_host(&h->conf, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    handler = (struct handler *)(void *)h2o_create_handler(h2o_config_register_path(host, "/", 0),
                                                           sizeof *handler);
    handler->super.on_req = on_request;
    handler->server = h;
    h2o_context_init(&h->http, bridge_h2o(h->bridge), &h->conf);
    h->accept.ctx = &h->http;
    h->accept.hosts = h->conf.hosts;
    h->listener = listener_new(l, listen_fd, on_connection, h);
    *ret = h;
    return 0;
}

static int drop_conn(h2o_req_t *req, void *arg)
{
    h2o_socket_t *sock = req->conn->callbacks->get_socket(req->conn);

    (void)arg;
    if (sock)
        (void)shutdown(h2o_socket_get_fd(sock), SHUT_RDWR);
    return 0;
}

static bool has_conns(void *arg)
{
    return count_conns(arg) != 0;
}

struct http_server *stream_http_free(struct http_server *h)
{
    h2o_multithread_queue_t *queue;

    if (!h)
        return NULL;
    h->listener = listener_free(h->listener);
    (void)H2O_HTTP1_CALLBACKS.foreach_request(&h->http, drop_conn, NULL);
    bridge_spin(h->bridge, SPIN_MAX, has_conns, h);
    queue = h->http.queue;
    h2o_context_dispose(&h->http);
    free(queue);                     /* which it only empties */
    h2o_config_dispose(&h->conf);
    bridge_put(h->bridge);
    free(h);
    return NULL;
}
