/* SPDX-License-Identifier: Apache-2.0 */
/* Response trailers for libh2o 2.2, through the installed h2o/http2_internal.h.
 *
 * A response is never ended with H2O_SEND_STATE_FINAL, which would put END_STREAM on a DATA frame.
 * Instead, at a moment when the stream has nothing queued, a HEADERS frame with END_STREAM is
 * appended to the connection's output buffer and the stream is moved to the final state that libh2o
 * itself uses, on the same list, so that libh2o closes it. The header block has only "literal
 * without indexing, new name, no Huffman": the HPACK table does not move.
 *
 * The guard: Debian builds libh2o with assertions, and one of them is wrong. A WINDOW_UPDATE that
 * lifts the window of an ended stream from below zero while that stream still waits for its last
 * write aborts the daemon; any client can do it, also by RST_STREAM and then WINDOW_UPDATE. A
 * window that is huge already is never lifted from below zero, so ended streams get one: in
 * end_stream() and in h2o_http2_stream_reset(), which libh2o calls through the PLT and which the
 * executable therefore can interpose (it must export the symbol; t/10-grpc.t shows both halves). */
#include "reactor/h2o_trailers.h"

#include <dlfcn.h>
#include <h2o/http2.h>
#include <h2o/http2_internal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#if !(H2O_VERSION_MAJOR == 2 && H2O_VERSION_MINOR == 2)
#error "the trailers are for libh2o 2.2"
#endif

static h2o_http2_stream_t *stream_of(h2o_req_t *req)
{
    return H2O_STRUCT_FROM_MEMBER(h2o_http2_stream_t, req, req);
}

static h2o_http2_conn_t *conn_of(h2o_req_t *req)
{
    return (h2o_http2_conn_t *)(void *)req->conn;
}

/* HPACK string without Huffman: a length with a prefix of 7 bits, then bytes (RFC 7541, 5.2). */
static uint8_t *put_str(uint8_t *d, const char *s, size_t len)
{
    size_t v = len;

    if (v < 127) {
        *d++ = (uint8_t)v;
    } else {
        *d++ = 127;
        for (v -= 127; v >= 128; v >>= 7)
            *d++ = (uint8_t)(0x80 | (v & 0x7f));
        *d++ = (uint8_t)v;
    }
    memcpy(d, s, len);
    return d + len;
}

/* False when the block does not fit into one frame. */
static bool append_trailers(h2o_http2_conn_t *conn, h2o_http2_stream_t *st, const struct trailer *t,
                            size_t n)
{
    size_t cap = 0, block;
    uint8_t *p, *d;

    for (size_t i = 0; i < n; i++)
        cap += 1 + 5 + strlen(t[i].name) + 5 + t[i].value_len;
    if (cap > conn->peer_settings.max_frame_size)
        return false;
    p = (uint8_t *)h2o_buffer_reserve(&conn->_write.buf, H2O_HTTP2_FRAME_HEADER_SIZE + cap).base;
    d = p + H2O_HTTP2_FRAME_HEADER_SIZE;
    for (size_t i = 0; i < n; i++) {
        *d++ = 0x00;
        d = put_str(d, t[i].name, strlen(t[i].name));
        d = put_str(d, t[i].value, t[i].value_len);
    }
    block = (size_t)(d - p) - H2O_HTTP2_FRAME_HEADER_SIZE;
    h2o_http2_encode_frame_header(
        p, block, H2O_HTTP2_FRAME_TYPE_HEADERS,
        H2O_HTTP2_FRAME_FLAG_END_HEADERS | H2O_HTTP2_FRAME_FLAG_END_STREAM, (int32_t)st->stream_id);
    conn->_write.buf->size += H2O_HTTP2_FRAME_HEADER_SIZE + block;
    return true;
}

static void defuse_window(h2o_http2_stream_t *st)
{
    st->output_window._avail = (ssize_t)1 << 40;
}

static void end_stream(h2o_http2_conn_t *conn, h2o_http2_stream_t *st)
{
    st->req._generator = NULL;       /* as h2o_send(FINAL) does */
    h2o_http2_stream_set_state(conn, st, H2O_HTTP2_STREAM_STATE_END_STREAM);
    defuse_window(st);
    if (!h2o_linklist_is_linked(&st->_refs.link))
        h2o_linklist_insert(&conn->_write.streams_to_proceed, &st->_refs.link);
    h2o_http2_conn_request_write(conn);
}

/* Interposed, see above. */
void h2o_http2_stream_reset(h2o_http2_conn_t *conn, h2o_http2_stream_t *st)
{
    static void (*real)(h2o_http2_conn_t *, h2o_http2_stream_t *);

    if (!real) {
        *(void **)(void *)&real = dlsym(RTLD_NEXT, "h2o_http2_stream_reset");
        if (!real)
            abort();
    }
    defuse_window(st);
    real(conn, st);
}

static bool is_open(h2o_req_t *req, h2o_http2_stream_state_t want)
{
    return stream_of(req)->state == want && conn_of(req)->state < H2O_HTTP2_CONN_STATE_IS_CLOSING;
}

int trailers_finish(h2o_req_t *req, const struct trailer *t, size_t n)
{
    h2o_http2_stream_t *st = stream_of(req);
    h2o_http2_conn_t *conn = conn_of(req);

    if (!is_open(req, H2O_HTTP2_STREAM_STATE_SEND_BODY))
        return TRAILERS_GONE;
    if (st->_data.size != 0)
        abort();
    if (!append_trailers(conn, st, t, n) && !append_trailers(conn, st, t, 1))
        abort();                     /* the first one, grpc-status, always fits */
    end_stream(conn, st);
    return TRAILERS_SENT;
}

int trailers_only(h2o_req_t *req)
{
    h2o_http2_conn_t *conn = conn_of(req);
    size_t off;

    if (!is_open(req, H2O_HTTP2_STREAM_STATE_SEND_HEADERS))
        return TRAILERS_GONE;
    off = conn->_write.buf->size;
    h2o_send(req, NULL, 0, H2O_SEND_STATE_IN_PROGRESS); /* puts the HEADERS frame into the buffer */
    if (conn->_write.buf->size < off + H2O_HTTP2_FRAME_HEADER_SIZE ||
        conn->_write.buf->bytes[off + 3] != H2O_HTTP2_FRAME_TYPE_HEADERS)
        abort();
    conn->_write.buf->bytes[off + 4] |= H2O_HTTP2_FRAME_FLAG_END_STREAM;
    end_stream(conn, stream_of(req));
    return TRAILERS_SENT;
}

int trailers_send_all(h2o_req_t *req, const void *body, size_t len, const struct trailer *t,
                      size_t n)
{
    h2o_http2_stream_t *st = stream_of(req);
    h2o_http2_conn_t *conn = conn_of(req);
    size_t max = conn->peer_settings.max_frame_size;
    const char *src = body;

    if (!is_open(req, H2O_HTTP2_STREAM_STATE_SEND_HEADERS))
        return TRAILERS_GONE;
    if (len > H2O_HTTP2_DEFAULT_OUTBUF_SIZE / 2 ||
        conn->_write.buf->size > H2O_HTTP2_DEFAULT_OUTBUF_SIZE / 2 ||
        (ssize_t)len > h2o_http2_window_get_window(&conn->_write.window) ||
        (ssize_t)len > h2o_http2_window_get_window(&st->output_window))
        return TRAILERS_LATER;

    h2o_send(req, NULL, 0, H2O_SEND_STATE_IN_PROGRESS);
    while (len) {
        size_t c = len < max ? len : max;
        uint8_t *p =
            (uint8_t *)h2o_buffer_reserve(&conn->_write.buf, H2O_HTTP2_FRAME_HEADER_SIZE + c).base;

        h2o_http2_encode_frame_header(p, c, H2O_HTTP2_FRAME_TYPE_DATA, 0, (int32_t)st->stream_id);
        memcpy(p + H2O_HTTP2_FRAME_HEADER_SIZE, src, c);
        conn->_write.buf->size += H2O_HTTP2_FRAME_HEADER_SIZE + c;
        h2o_http2_window_consume_window(&conn->_write.window, c);
        h2o_http2_window_consume_window(&st->output_window, c);
        st->req.bytes_sent += c;
        src += c;
        len -= c;
    }
    return trailers_finish(req, t, n);
}

size_t trailers_conns(h2o_context_t *ctx)
{
    size_t n = 0;

    for (h2o_linklist_t *l = ctx->http2._conns.next; l != &ctx->http2._conns; l = l->next)
        n++;
    return n;
}

void trailers_drop_conns(h2o_context_t *ctx)
{
    for (h2o_linklist_t *l = ctx->http2._conns.next; l != &ctx->http2._conns; l = l->next) {
        h2o_http2_conn_t *conn = H2O_STRUCT_FROM_MEMBER(h2o_http2_conn_t, _conns, l);

        if (conn->sock)
            (void)shutdown(h2o_socket_get_fd(conn->sock), SHUT_RDWR);
    }
}
