/* SPDX-License-Identifier: Apache-2.0 */
/* A request comes in: its method, its one message, its deadline; then its handler runs. What is
 * wrong with it is answered here, by the rules of "gRPC over HTTP/2" and CRI 1. */
#include "list.h"
#include "mem.h"
#include "reactor/h2o_grpc.h"
#include "reactor/pbwire.h"

#include <stdio.h>
#include <string.h>

/* "100m" -> 0.1 (seconds); negative: malformed (gRPC over HTTP/2, "Timeout"). */
static double parse_timeout(h2o_iovec_t v)
{
    double n = 0;

    if (v.len < 2 || v.len > 9)
        return -1;
    for (size_t i = 0; i + 1 < v.len; i++) {
        if (v.base[i] < '0' || v.base[i] > '9')
            return -1;
        n = n * 10 + (v.base[i] - '0');
    }
    switch (v.base[v.len - 1]) {
    case 'H': return n * 3600;
    case 'M': return n * 60;
    case 'S': return n;
    case 'm': return n / 1e3;
    case 'u': return n / 1e6;
    case 'n': return n / 1e9;
    default: return -1;
    }
}

static const h2o_iovec_t *header(h2o_req_t *req, const char *name)
{
    ssize_t i = h2o_find_header_by_str(&req->headers, name, strlen(name), -1);

    return i < 0 ? NULL : &req->headers.entries[i].value;
}

/* False when the call has ended here. */
static bool set_deadline(struct rpc *rpc)
{
    const h2o_iovec_t *v = header(rpc->req, "grpc-timeout");
    double s;

    if (!v)
        return true;
    s = parse_timeout(*v);
    if (s < 0) {
        rpc_fail(rpc, GRPC_INTERNAL, "malformed grpc-timeout '%.*s'",
                 (int)(v->len < 64 ? v->len : 64), v->base);
        return false;
    }
    rpc->deadline_ms = clock_mono_ms() + (int64_t)(s * 1e3);
    if (s <= 0) {
        rpc_fail(rpc, GRPC_DEADLINE_EXCEEDED, "deadline exceeded");
        return false;
    }
    ev_now_update(loop_ev(rpc->server->loop));
    ev_timer_set(&rpc->deadline, s, 0.);
    ev_timer_start(loop_ev(rpc->server->loop), &rpc->deadline);
    return true;
}

static bool find_method(struct rpc *rpc)
{
    const char *p = rpc->req->path.base, *slash;
    size_t n = rpc->req->path.len, service;
    bool known = false;

    slash = n > 1 && p[0] == '/' ? memchr(p + 1, '/', n - 1) : NULL;
    if (!slash) {
        rpc_fail(rpc, GRPC_UNIMPLEMENTED, "malformed method name '%.*s'", (int)(n < 256 ? n : 256),
                 p);
        return false;
    }
    p++;
    n--;
    service = (size_t)(slash - p);
    for (const struct grpc_method *m = rpc->server->methods; m->service; m++) {
        if (strlen(m->service) != service || memcmp(m->service, p, service) != 0)
            continue;
        known = true;
        if (strlen(m->name) == n - service - 1 &&
            memcmp(m->name, slash + 1, n - service - 1) == 0) {
            rpc->method = m;
            return true;
        }
    }
    if (known)
        rpc_fail(rpc, GRPC_UNIMPLEMENTED, "unknown method %.*s for service %.*s",
                 (int)(n - service - 1 < 256 ? n - service - 1 : 256), slash + 1, (int)service, p);
    else
        rpc_fail(rpc, GRPC_UNIMPLEMENTED, "unknown service %.*s",
                 (int)(service < 256 ? service : 256), p);
    return false;
}

/* The one message of the body; NULL when the call has ended here. */
static const uint8_t *unframe(struct rpc *rpc, size_t *ret_len)
{
    h2o_iovec_t body = rpc->req->entity;
    const uint8_t *p = (const uint8_t *)body.base;
    const h2o_iovec_t *enc = header(rpc->req, "grpc-encoding");
    size_t len;

    if (body.len < FRAME) {
        rpc_fail(rpc, GRPC_INTERNAL,
                 body.len ? "message frame is cut off" : "request without a message");
        return NULL;
    }
    len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
    if (len > GRPC_MESSAGE_MAX)
        rpc_fail(rpc, GRPC_RESOURCE_EXHAUSTED, "request of %zu bytes is larger than %d", len,
                 (int)GRPC_MESSAGE_MAX);
    else if (p[0] == 1 && enc && !h2o_memis(enc->base, enc->len, H2O_STRLIT("identity")))
        rpc_fail(rpc, GRPC_UNIMPLEMENTED, "compression '%.*s' is not supported",
                 (int)(enc->len < 64 ? enc->len : 64), enc->base);
    else if (p[0] != 0)
        rpc_fail(rpc, GRPC_INTERNAL, "compressed flag is %u without a grpc-encoding", p[0]);
    else if (len > body.len - FRAME)
        rpc_fail(rpc, GRPC_INTERNAL, "message of %zu bytes is cut off at %zu", len,
                 body.len - FRAME);
    else if (len < body.len - FRAME)
        rpc_fail(rpc, GRPC_INTERNAL, "more than one message in a unary request");
    else {
        *ret_len = len;
        return p + FRAME;
    }
    return NULL;
}

static bool decode(struct rpc *rpc)
{
    const ProtobufCMessageDescriptor *d = rpc->method->input;
    struct err err = ERR_INIT;
    const uint8_t *p;
    size_t len;

    p = unframe(rpc, &len);
    if (!p)
        return false;
    if (pbwire_check(d, p, len, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return false;
    }
    rpc->request = protobuf_c_message_unpack(d, &rpc->pool.pb, len, p);
    if (rpc->request)
        return true;
    if (rpc->pool.total > POOL_MAX / 2)
        rpc_fail(rpc, GRPC_RESOURCE_EXHAUSTED, "request has too many parts");
    else
        rpc_fail(rpc, GRPC_INVALID_ARGUMENT, "malformed %s", d->short_name);
    return false;
}

bool rpc_arrived(struct grpc_server *s, h2o_req_t *req)
{
    const h2o_iovec_t *type = header(req, "content-type");
    struct rpc *rpc;

    if (!type || type->len < 16 || memcmp(type->base, "application/grpc", 16) != 0 ||
        !h2o_memis(req->method.base, req->method.len, H2O_STRLIT("POST")))
        return false;
    rpc = rpc_new(s, req);
    if (s->closing) {
        rpc_fail(rpc, GRPC_UNAVAILABLE, "cricketd is shutting down");
    } else if (find_method(rpc) && decode(rpc) && set_deadline(rpc)) {
        loop_name(s->loop, rpc->method->name);
        rpc->method->fn(rpc, rpc->request, s->ctx);
    }
    rpc_unref(rpc);
    return true;
}
