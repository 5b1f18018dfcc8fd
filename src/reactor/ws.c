/* SPDX-License-Identifier: Apache-2.0 */
/* wslay as an engine between two buffers: it reads from the bytes we are fed and writes to the
 * transport at once, so that pings are answered also while everything else waits.
 *
 * There is no flow control per channel. What a channel's user cannot take is queued by the user,
 * who stops the connection's input above a bound. */
#include "reactor/ws.h"

#include "mem.h"
#include "str.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <wslay/wslay.h>

enum { CLOSE_SIGNAL = 255, MESSAGE_OUT = 32 * 1024, OVERHEAD = 16 };

struct ws {
    struct mux mux;
    wslay_event_context_ptr ctx;
    const uint8_t *in;               /* what is being fed */
    size_t n_in;
    bool base64, half_close;
    bool broken;                     /* bad data in a message */
    bool in_data;                    /* tunnel: the frame that comes is no control frame */
    struct mux *inner;               /* of a tunnel */
};

static struct ws *ws_of(struct mux *m)
{
    return container_of(m, struct ws, mux);
}

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *buf, size_t len, int flags, void *arg)
{
    struct ws *w = arg;

    (void)flags;
    if (w->n_in == 0) {
        wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (len > w->n_in)
        len = w->n_in;
    memcpy(buf, w->in, len);
    w->in += len;
    w->n_in -= len;
    return (ssize_t)len;
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags,
                       void *arg)
{
    struct ws *w = arg;

    (void)ctx;
    (void)flags;
    w->mux.out.write(w->mux.out.arg, data, len);
    return (ssize_t)len;
}

/* Four characters to three bytes; -1 for what is no base64. */
static ssize_t from_base64(const uint8_t *p, size_t n, uint8_t *dst)
{
    int k;

    if (n % 4)
        return -1;
    for (size_t i = 0; i < n; i++)   /* EVP_DecodeBlock() forgives blanks */
        if (p[i] <= ' ')
            return -1;
    k = EVP_DecodeBlock(dst, p, (int)n);
    if (k < 0)
        return -1;
    if (n && p[n - 1] == '=')
        k--;
    if (n > 1 && p[n - 2] == '=')
        k--;
    return k;
}

static void peer_end(struct ws *w, uint32_t id)
{
    struct chan *c = chan_find(&w->mux, id);

    if (!c || c->peer_ended)
        return;
    c->peer_ended = true;
    w->mux.user.end(w->mux.user.arg, c, false);
}

static void got_message(struct ws *w, const uint8_t *p, size_t n)
{
    auto_free uint8_t *plain = NULL;
    struct chan *c;
    uint32_t id;

    if (n == 0)
        return;
    id = w->base64 ? (uint32_t)(p[0] - '0') : p[0];
    if (w->half_close && p[0] == CLOSE_SIGNAL) {
        if (n == 2)
            peer_end(w, p[1]);
        return;
    }
    p++;
    n--;
    c = chan_find(&w->mux, id);
    if (!c || c->peer_ended)
        return;                      /* unknown channels are to be ignored */
    if (w->base64) {
        ssize_t k;

        plain = mem_alloc(n + 3);
        k = from_base64(p, n, plain);
        if (k < 0) {
            w->broken = true;
            return;
        }
        p = plain;
        n = (size_t)k;
    }
    if (n)
        w->mux.user.data(w->mux.user.arg, c, p, n);
}

static void on_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *m,
                       void *arg)
{
    struct ws *w = arg;

    (void)ctx;
    if (!w->mux.stopped && !wslay_is_ctrl_frame(m->opcode))
        got_message(w, m->msg, m->msg_length);
}

/* A tunnel is a stream of bytes: how they are cut into messages, and how large those are, does not
 * matter. */
static void on_frame(wslay_event_context_ptr ctx,
                     const struct wslay_event_on_frame_recv_start_arg *f, void *arg)
{
    struct ws *w = arg;

    (void)ctx;
    w->in_data = !wslay_is_ctrl_frame(f->opcode);
}

static void on_chunk(wslay_event_context_ptr ctx,
                     const struct wslay_event_on_frame_recv_chunk_arg *c, void *arg)
{
    struct ws *w = arg;

    (void)ctx;
    if (w->in_data && !w->mux.stopped && !w->broken && c->data_length &&
        mux_feed(w->inner, c->data, c->data_length) < 0)
        w->broken = true;
}

static int ws_feed(struct mux *m, const uint8_t *p, size_t n)
{
    struct ws *w = ws_of(m);

    w->in = p;
    w->n_in = n;
    while (w->n_in > 0 && !w->broken && !m->stopped) {
        if (wslay_event_recv(w->ctx) != 0 || !wslay_event_get_read_enabled(w->ctx))
            break;
    }
    if (w->broken && !wslay_event_get_close_sent(w->ctx))
        (void)wslay_event_queue_close(w->ctx, WSLAY_CODE_PROTOCOL_ERROR, NULL, 0);
    (void)wslay_event_send(w->ctx);  /* pongs, the answer to a close */
    return w->broken || wslay_event_get_close_received(w->ctx) ||
                   !wslay_event_get_read_enabled(w->ctx)
               ? -EPIPE
               : 0;
}

static size_t ws_room(struct chan *c)
{
    struct ws *w = ws_of(c->mux);
    size_t room = w->mux.out.room(w->mux.out.arg);

    room = room > 8 * OVERHEAD ? room - 8 * OVERHEAD : 0;
    return w->base64 ? room / 4 * 3 : room;
}

static void message(struct ws *w, uint8_t opcode, const void *p, size_t n)
{
    struct wslay_event_msg m = { .opcode = opcode, .msg = p, .msg_length = n };

    if (wslay_event_queue_msg(w->ctx, &m) == 0)
        (void)wslay_event_send(w->ctx);
}

static void channel_message(struct chan *c, const uint8_t *p, size_t n)
{
    struct ws *w = ws_of(c->mux);
    auto_str struct str s = STR_INIT;

    if (w->base64) {
        str_putc(&s, (char)('0' + c->id));
        s.len +=
            (size_t)EVP_EncodeBlock((unsigned char *)str_room(&s, (n + 2) / 3 * 4 + 1), p, (int)n);
    } else {
        str_putc(&s, (char)c->id);
        str_add(&s, p, n);
    }
    message(w, w->base64 ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME, s.p, s.len);
}

void ws_ready(struct chan *c)
{
    channel_message(c, (const uint8_t *)"", 0);
}

static void ws_send(struct chan *c, const void *p, size_t n)
{
    const uint8_t *src = p;

    while (n) {
        size_t k = n < MESSAGE_OUT ? n : MESSAGE_OUT;

        channel_message(c, src, k);
        src += k;
        n -= k;
    }
}

/* No message ends a channel towards the client; the connection's end does. */
static void ws_end(struct chan *c)
{
    (void)c;
}

static void ws_taken(struct chan *c, size_t n)
{
    (void)c;
    (void)n;
}

static void ws_drop(struct chan *c)
{
    chan_free(c);
}

static void ws_bye(struct mux *m)
{
    struct ws *w = ws_of(m);

    if (w->inner)
        mux_bye(w->inner);
    (void)wslay_event_queue_close(w->ctx, WSLAY_CODE_NORMAL_CLOSURE, NULL, 0);
    (void)wslay_event_send(w->ctx);
}

static void ws_free(struct mux *m)
{
    struct ws *w = ws_of(m);

    w->inner = mux_free(w->inner);
    mux_deinit(m);
    wslay_event_context_free(w->ctx);
    free(w);
}

static const struct mux_ops ops = {
    .feed = ws_feed, .room = ws_room, .send = ws_send, .end = ws_end, .reset = ws_end,
    .taken = ws_taken, .drop = ws_drop, .bye = ws_bye, .free = ws_free,
};

static struct ws *new_ws(const struct mux_user *user, const struct transport *out,
                         const struct wslay_event_callbacks *cbs)
{
    struct ws *w = mem_new(struct ws);

    mux_init(&w->mux, &ops, user, out);
    if (wslay_event_context_server_init(&w->ctx, cbs, w) != 0)
        abort();                     /* out of memory */
    return w;
}

struct mux *ws_new(const struct mux_user *user, const struct transport *out,
                   const enum chan_kind *kinds, size_t n, bool base64, bool half_close)
{
    static const struct wslay_event_callbacks cbs = {
        .recv_callback = on_recv, .send_callback = on_send, .on_msg_recv_callback = on_message,
    };
    struct ws *w = new_ws(user, out, &cbs);

    wslay_event_config_set_max_recv_msg_length(w->ctx, WS_MESSAGE_MAX);
    w->base64 = base64;
    w->half_close = half_close;
    for (size_t i = 0; i < n; i++)
        chan_new(&w->mux, (uint32_t)i)->kind = kinds[i];
    return &w->mux;
}

struct mux *ws_tunnel_new(const struct transport *out)
{
    static const struct mux_user nobody;
    static const struct wslay_event_callbacks cbs = {
        .recv_callback = on_recv, .send_callback = on_send,
        .on_frame_recv_start_callback = on_frame, .on_frame_recv_chunk_callback = on_chunk,
    };
    struct ws *w = new_ws(&nobody, out, &cbs);

    wslay_event_config_set_no_buffering(w->ctx, 1);
    wslay_event_config_set_max_recv_msg_length(w->ctx, UINT64_MAX);
    return &w->mux;
}

static void tunnel_write(void *arg, const void *p, size_t n)
{
    message(arg, WSLAY_BINARY_FRAME, p, n);
}

static size_t tunnel_room(void *arg)
{
    struct ws *w = arg;
    size_t room = w->mux.out.room(w->mux.out.arg);

    return room > 8 * OVERHEAD ? room - 8 * OVERHEAD : 0;
}

struct transport ws_tunnel_transport(struct mux *tunnel)
{
    return (struct transport){ .write = tunnel_write, .room = tunnel_room, .arg = ws_of(tunnel) };
}

void ws_tunnel_inner(struct mux *tunnel, struct mux *inner)
{
    ws_of(tunnel)->inner = inner;
}

void ws_accept_key(const char *key, size_t n, char ret[29])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    auto_str struct str s = STR_INIT;
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned len;

    str_add(&s, key, n);
    str_puts(&s, guid);
    if (EVP_Digest(s.p, s.len, sum, &len, EVP_sha1(), NULL) != 1 || len != 20)
        abort();
    EVP_EncodeBlock((unsigned char *)ret, sum, (int)len);
}
