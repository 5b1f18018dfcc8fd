/* SPDX-License-Identifier: Apache-2.0 */
/* One gRPC call.
 *
 * struct rpc is ours and counted; libh2o owns a small struct port in the stream's memory whose
 * destructor tells us that the stream is over, for whatever reason (end, RST_STREAM, lost
 * connection, also before a response began).
 *
 *      request --> handler --> rpc_ok, rpc_send ... --> queue --> flush --> h2o_send, one at a time
 *                                                         ^         |             |
 *                                                         '---------+--proceed----'
 *                                                                   '--> queue empty, ending:
 * trailers
 *
 * The flush is posted (h2o_bridge.h): it runs after the before-reply hooks.
 * Messages are packed once, behind their five bytes of gRPC frame, into the chunk that is sent. */
#include "list.h"
#include "mem.h"
#include "reactor/h2o_grpc.h"
#include "reactor/h2o_trailers.h"
#include "utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    MESSAGE_MAX = 4096,              /* of an error text, bytes */
    ENCODED_MAX = 7168,              /* grpc-message: some clients refuse header lists over 8 KiB */
    IOV_MAX_ = 32,
};

struct rpc *rpc_of_link(struct list *l)
{
    return container_of(l, struct rpc, link);
}

static void free_chunks(struct chunk *c)
{
    while (c) {
        struct chunk *next = c->next;

        free(c);
        c = next;
    }
}

void rpc_unref(struct rpc *rpc)
{
    if (--rpc->refs > 0)
        return;
    free_chunks(rpc->inflight);
    free_chunks(rpc->queue);
    pool_deinit(&rpc->pool);
    free(rpc->message);
    free(rpc);
}

/* --- what goes out --- */

static struct chunk *chunk_new(size_t len)
{
    struct chunk *c = mem_grow(NULL, sizeof *c + FRAME + len, 1);

    c->next = NULL;
    c->len = FRAME + len;
    c->data[0] = 0;
    c->data[1] = (char)(len >> 24);
    c->data[2] = (char)(len >> 16);
    c->data[3] = (char)(len >> 8);
    c->data[4] = (char)len;
    return c;
}

static void enqueue(struct rpc *rpc, struct chunk *c)
{
    *rpc->tail = c;
    rpc->tail = &c->next;
    rpc->queued += c->len;
}

/* Percent-encodes whole characters of valid UTF-8 until ENCODED_MAX is reached. */
static size_t encode_message(char *dst, const char *s)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t n = 0;

    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if ((c & 0xc0) != 0x80 && n + 12 > ENCODED_MAX)
            break;
        if (c >= 0x20 && c < 0x7f && c != '%') {
            dst[n++] = (char)c;
        } else {
            dst[n++] = '%';
            dst[n++] = hex[c >> 4];
            dst[n++] = hex[c & 15];
        }
    }
    return n;
}

struct status {
    struct trailer t[2];
    size_t n;
    char code[12];
    char message[ENCODED_MAX + 12];
};

static void make_status(const struct rpc *rpc, struct status *s)
{
    int n = snprintf(s->code, sizeof s->code, "%d", rpc->status);

    s->t[0] = (struct trailer){ "grpc-status", s->code, (size_t)n };
    s->n = 1;
    if (rpc->status != GRPC_OK && rpc->message)
        s->t[s->n++] = (struct trailer){ "grpc-message", s->message,
                                         encode_message(s->message, rpc->message) };
}

static void start(struct rpc *rpc)
{
    h2o_req_t *req = rpc->req;

    req->res.status = 200;
    req->res.reason = "OK";
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("application/grpc"));
    h2o_start_response(req, &rpc->port->generator);
    rpc->started = true;
}

static void send_trailers_only(struct rpc *rpc)
{
    h2o_req_t *req = rpc->req;
    struct status s;

    make_status(rpc, &s);
    for (size_t i = 0; i < s.n; i++) {
        h2o_iovec_t v = h2o_strdup(&req->pool, s.t[i].value, s.t[i].value_len);

        h2o_add_header_by_str(&req->pool, &req->res.headers, s.t[i].name, strlen(s.t[i].name), 0,
                              NULL, v.base, v.len);
    }
    start(rpc);
    rpc->finished = true;
    (void)trailers_only(req);        /* gone: then nobody reads it */
}

/* One small message and its trailers in a single write; false: piecemeal, then. */
static bool send_all(struct rpc *rpc)
{
    struct status s;

    make_status(rpc, &s);
    start(rpc);
    if (trailers_send_all(rpc->req, rpc->queue->data, rpc->queue->len, s.t, s.n) == TRAILERS_LATER)
        return false;
    rpc->finished = true;
    return true;
}

static void pump(struct rpc *rpc)
{
    h2o_iovec_t bufs[IOV_MAX_];
    struct chunk **p = &rpc->queue;
    size_t n = 0;

    if (rpc->sending || rpc->finished)
        return;
    if (!rpc->queue) {
        struct status s;

        if (!rpc->ending)
            return;
        make_status(rpc, &s);
        rpc->finished = true;
        (void)trailers_finish(rpc->req, s.t, s.n);
        return;
    }
    while (*p && n < IOV_MAX_) {
        bufs[n++] = h2o_iovec_init((*p)->data, (*p)->len);
        p = &(*p)->next;
    }
    rpc->inflight = rpc->queue;
    rpc->queue = *p;
    *p = NULL;
    if (!rpc->queue)
        rpc->tail = &rpc->queue;
    rpc->sending = true;
    h2o_send(rpc->req, bufs, n, H2O_SEND_STATE_IN_PROGRESS);
}

static void on_flush(struct bridge_post *p)
{
    struct rpc *rpc = container_of(p, struct rpc, flush);

    if (!rpc->req || rpc->finished)
        return;
    if (!rpc->started) {
        if (rpc->ending && !rpc->queue) {
            send_trailers_only(rpc);
            return;
        }
        if (rpc->ending && !rpc->queue->next) {
            if (send_all(rpc))
                return;
        } else {
            start(rpc);
            if (!rpc->queue) {       /* headers alone; proceed comes when they are written */
                rpc->sending = true;
                h2o_send(rpc->req, NULL, 0, H2O_SEND_STATE_IN_PROGRESS);
                return;
            }
        }
    }
    pump(rpc);
}

static void on_proceed(h2o_generator_t *g, h2o_req_t *req)
{
    struct rpc *rpc = ((struct port *)(void *)g)->rpc;

    (void)req;
    rpc->sending = false;
    for (struct chunk *c = rpc->inflight; c; c = c->next)
        rpc->queued -= c->len;
    free_chunks(rpc->inflight);
    rpc->inflight = NULL;
    if (rpc->queue || rpc->ending) {
        bridge_post(rpc->server->bridge, &rpc->flush);
    } else if (rpc->on_drain) {
        rpc->refs++;
        rpc->on_drain(rpc, rpc->drain_arg);
        rpc_unref(rpc);
    }
}

static void count(struct rpc *rpc)
{
    struct grpc_server *s = rpc->server;
    struct grpc_method_stats *st;
    uint64_t us = (uint64_t)(clock_mono_us() - rpc->arrived_us);

    if (!rpc->method)
        return;
    st = &s->stats[rpc->method - s->methods];
    st->calls++;
    st->failed += rpc->status != GRPC_OK;
    st->total_us += us;
    if (us > st->longest_us)
        st->longest_us = us;
}

static void end(struct rpc *rpc, int status, char *message)
{
    rpc->ending = true;
    rpc->status = status;
    rpc->message = message;
    if (!rpc->req)
        return;
    count(rpc);
    ev_timer_stop(loop_ev(rpc->server->loop), &rpc->deadline);
    bridge_post(rpc->server->bridge, &rpc->flush);
}

static void fail_text(struct rpc *rpc, int status, const char *text)
{
    size_t n = strnlen(text, MESSAGE_MAX);
    char *m;

    if (rpc->ending)
        return;
    while (n > 0 && text[n] != '\0' && ((unsigned char)text[n] & 0xc0) == 0x80)
        n--;                         /* cut between characters */
    m = mem_dup(text, n);
    utf8_clean(m, n);
    end(rpc, status, m);
}

/* --- how it ends without us --- */

static void be_gone(struct rpc *rpc, enum rpc_gone why)
{
    if (rpc->gone)
        return;
    rpc->gone = true;
    rpc->refs++;
    if (rpc->on_gone)
        rpc->on_gone(rpc, why, rpc->gone_arg);
    rpc_unref(rpc);
}

static void on_deadline(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct rpc *rpc = w->data;

    (void)ev;
    (void)revents;
    loop_name(rpc->server->loop, "deadline");
    rpc->refs++;
    fail_text(rpc, GRPC_DEADLINE_EXCEEDED, "deadline exceeded");
    be_gone(rpc, RPC_DEADLINE);
    rpc_unref(rpc);
}

static void on_dispose(void *p)
{
    struct rpc *rpc = ((struct port *)p)->rpc;
    struct grpc_server *s = rpc->server;

    if (!rpc->ending) {
        rpc->status = GRPC_CANCELLED;
        count(rpc);
    }
    ev_timer_stop(loop_ev(s->loop), &rpc->deadline);
    list_del(&rpc->flush.link);
    list_del(&rpc->link);
    s->n_calls--;
    rpc->req = NULL;
    rpc->port = NULL;
    rpc->server = NULL;
    if (!rpc->ending) {
        rpc->ending = true;
        be_gone(rpc, RPC_CANCELLED);
    }
    rpc_unref(rpc);
}

void rpc_shut(struct rpc *rpc)
{
    if (!rpc->streaming || rpc->ending)
        return;
    rpc->refs++;
    fail_text(rpc, GRPC_UNAVAILABLE, "cricketd is shutting down");
    be_gone(rpc, RPC_CANCELLED);
    rpc_unref(rpc);
}

struct rpc *rpc_new(struct grpc_server *s, h2o_req_t *req)
{
    struct rpc *rpc = mem_new(struct rpc);

    rpc->port = h2o_mem_alloc_shared(&req->pool, sizeof *rpc->port, on_dispose);
    *rpc->port = (struct port){ .generator = { .proceed = on_proceed }, .rpc = rpc };
    rpc->server = s;
    rpc->req = req;
    rpc->refs = 2;
    rpc->tail = &rpc->queue;
    rpc->deadline_ms = INT64_MAX;
    rpc->arrived_us = clock_mono_us();
    rpc->flush.fn = on_flush;
    list_init(&rpc->flush.link);
    list_add_tail(&s->calls, &rpc->link);
    s->n_calls++;
    pool_init(&rpc->pool, POOL_MAX);
    ev_timer_init(&rpc->deadline, on_deadline, 0., 0.);
    rpc->deadline.data = rpc;
    return rpc;
}

/* --- for handlers --- */

static bool too_large(struct rpc *rpc, size_t len)
{
    if (len <= GRPC_MESSAGE_MAX)
        return false;
    rpc_fail(rpc, GRPC_RESOURCE_EXHAUSTED, "reply of %zu bytes is larger than %d", len,
             (int)GRPC_MESSAGE_MAX);
    return true;
}

static struct chunk *pack(const ProtobufCMessage *msg, size_t len)
{
    struct chunk *c = chunk_new(len);

    protobuf_c_message_pack(msg, (uint8_t *)c->data + FRAME);
    return c;
}

static struct chunk *copy(const void *msg, size_t len)
{
    struct chunk *c = chunk_new(len);

    if (len)
        memcpy(c->data + FRAME, msg, len);
    return c;
}

void rpc_ok(struct rpc *rpc, const ProtobufCMessage *reply)
{
    size_t len;

    if (rpc->ending)
        return;
    len = protobuf_c_message_get_packed_size(reply);
    if (too_large(rpc, len))
        return;
    enqueue(rpc, pack(reply, len));
    end(rpc, GRPC_OK, NULL);
}

void rpc_ok_bytes(struct rpc *rpc, const void *msg, size_t len)
{
    if (rpc->ending || too_large(rpc, len))
        return;
    enqueue(rpc, copy(msg, len));
    end(rpc, GRPC_OK, NULL);
}

void rpc_fail(struct rpc *rpc, int grpc, const char *fmt, ...)
{
    auto_free char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    fail_text(rpc, grpc, text ? text : "");
}

void rpc_fail_err(struct rpc *rpc, const struct err *err)
{
    fail_text(rpc, err->grpc ? err->grpc : GRPC_UNKNOWN, err->text);
}

void rpc_begin(struct rpc *rpc)
{
    if (rpc->ending)
        return;
    rpc->streaming = true;
    if (!rpc->started)
        bridge_post(rpc->server->bridge, &rpc->flush);
}

static int send_check(struct rpc *rpc, size_t len)
{
    if (too_large(rpc, len))
        return -EMSGSIZE;
    return rpc->queued && rpc->queued + len > GRPC_STREAM_QUEUE_MAX ? -ENOBUFS : 0;
}

static int send_chunk(struct rpc *rpc, struct chunk *c)
{
    rpc->streaming = true;
    enqueue(rpc, c);
    bridge_post(rpc->server->bridge, &rpc->flush);
    return 0;
}

int rpc_send(struct rpc *rpc, const ProtobufCMessage *msg)
{
    size_t len;
    int r;

    if (rpc->ending)
        return 0;
    len = protobuf_c_message_get_packed_size(msg);
    r = send_check(rpc, len);
    return r < 0 ? r : send_chunk(rpc, pack(msg, len));
}

int rpc_send_bytes(struct rpc *rpc, const void *msg, size_t len)
{
    int r;

    if (rpc->ending)
        return 0;
    r = send_check(rpc, len);
    return r < 0 ? r : send_chunk(rpc, copy(msg, len));
}

size_t rpc_queued(const struct rpc *rpc)
{
    return rpc->queued;
}

void rpc_on_drain(struct rpc *rpc, void (*cb)(struct rpc *rpc, void *arg), void *arg)
{
    rpc->on_drain = cb;
    rpc->drain_arg = arg;
}

void rpc_end(struct rpc *rpc)
{
    if (rpc->ending)
        return;
    rpc->streaming = true;
    end(rpc, GRPC_OK, NULL);
}

void rpc_on_gone(struct rpc *rpc, void (*cb)(struct rpc *rpc, enum rpc_gone why, void *arg),
                 void *arg)
{
    rpc->on_gone = cb;
    rpc->gone_arg = arg;
}

bool rpc_is_gone(const struct rpc *rpc)
{
    return rpc->gone;
}

int64_t rpc_deadline_ms(const struct rpc *rpc)
{
    return rpc->deadline_ms;
}

void rpc_keep(struct rpc *rpc)
{
    rpc->refs++;
}

void rpc_release(struct rpc *rpc)
{
    rpc_unref(rpc);
}

void *rpc_alloc(struct rpc *rpc, size_t n)
{
    return pool_alloc(&rpc->pool, n);
}

const char *rpc_method(const struct rpc *rpc)
{
    return rpc->method ? rpc->method->name : "";
}

const char *rpc_service(const struct rpc *rpc)
{
    return rpc->method ? rpc->method->service : "";
}
