/* SPDX-License-Identifier: Apache-2.0 */
/* SPDY/3.1 (draft-mbelshe-httpbis-spdy-00 and the 3.1 addendum).
 *
 * Frames are eight bytes and a payload. Control frames are collected whole (they are small, larger
 * ones than FRAME_MAX are an error); data is handed on as it arrives. Header blocks are one zlib
 * stream per direction, so each has to be inflated, also those of refused streams.
 *
 * Flow control towards the client: the library of most clients (Go's spdystream) neither looks at
 * windows nor ever sends WINDOW_UPDATE, others stop for them. A client is taken at its word once it
 * has sent a WINDOW_UPDATE or a window in SETTINGS; until then 64 KiB go out, and if nothing was
 * heard after GRACE_MS the client is one that does not count, and TCP alone holds us back. */
#include "reactor/spdy.h"

#include "mem.h"
#include "reactor/spdy_dict.h"
#include "str.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

enum {
    VERSION = 3,
    SYN_STREAM = 1, SYN_REPLY = 2, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, HEADERS = 8,
    WINDOW_UPDATE = 9,
    FLAG_FIN = 1,
    SETTING_WINDOW = 7,
    RST_PROTOCOL_ERROR = 1, RST_INVALID_STREAM = 2, RST_REFUSED = 3, RST_CANCEL = 5, RST_IN_USE = 8,
    HEAD = 8,
    FRAME_MAX = 32 * 1024,           /* control frames */
    BLOCK_MAX = 64 * 1024,           /* an inflated header block */
    DATA_MAX = 16 * 1024,            /* our data frames */
    GRACE_MS = 100,
};

struct spdy {
    struct mux mux;
    struct loop *loop;
    struct str in;                   /* a control frame in the making */
    uint8_t head[HEAD];
    size_t n_head;
    size_t left;                     /* bytes of the current payload still to come */
    bool is_data;
    struct chan *data_chan;          /* where they go; NULL: nowhere */
    z_stream inflate, deflate;
    uint32_t last_id;                /* the highest stream that the client opened */
    int64_t window;                  /* of the whole connection, towards the client */
    int64_t initial;                 /* of new streams */
    size_t untold;
    enum { UNKNOWN, COUNTS, DOES_NOT } flow;     /* does the client use windows? */
    ev_timer grace;
    bool said_bye;
};

static struct spdy *spdy_of(struct mux *m)
{
    return container_of(m, struct spdy, mux);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

/* --- out --- */

static void control(struct spdy *s, int type, int flags, const uint8_t *p, size_t n)
{
    uint8_t h[HEAD];
    auto_str struct str f = STR_INIT;

    if (s->said_bye)
        return;
    put32(h, 0x80000000u | VERSION << 16 | (uint32_t)type);
    put32(h + 4, (uint32_t)flags << 24 | (uint32_t)n);
    str_add(&f, h, HEAD);
    str_add(&f, p, n);
    s->mux.out.write(s->mux.out.arg, f.p, f.len);
}

static void control2(struct spdy *s, int type, uint32_t a, uint32_t b)
{
    uint8_t p[8];

    put32(p, a);
    put32(p + 4, b);
    control(s, type, 0, p, sizeof p);
}

/* An empty header block is all that a reply needs. */
static void syn_reply(struct spdy *s, uint32_t id)
{
    static const uint8_t none[4];
    uint8_t p[256];

    put32(p, id);
    s->deflate.next_in = (Bytef *)(uintptr_t)none;
    s->deflate.avail_in = sizeof none;
    s->deflate.next_out = p + 4;
    s->deflate.avail_out = sizeof p - 4;
    if (deflate(&s->deflate, Z_SYNC_FLUSH) != Z_OK)
        abort();                     /* there is room */
    control(s, SYN_REPLY, 0, p, sizeof p - s->deflate.avail_out);
}

static void data_frame(struct chan *c, const void *p, size_t n, int flags)
{
    struct spdy *s = spdy_of(c->mux);
    uint8_t f[HEAD + DATA_MAX];

    if (s->said_bye)
        return;
    put32(f, c->id);
    put32(f + 4, (uint32_t)flags << 24 | (uint32_t)n);
    if (n)
        memcpy(f + HEAD, p, n);
    s->mux.out.write(s->mux.out.arg, f, HEAD + n);
    c->window -= (int64_t)n;
    s->window -= (int64_t)n;
}

static void spdy_send(struct chan *c, const void *p, size_t n)
{
    const char *src = p;

    while (n) {
        size_t k = n < DATA_MAX ? n : DATA_MAX;

        data_frame(c, src, k, 0);
        src += k;
        n -= k;
    }
}

static size_t spdy_room(struct chan *c)
{
    struct spdy *s = spdy_of(c->mux);
    size_t room = s->mux.out.room(s->mux.out.arg);
    int64_t w = c->window < s->window ? c->window : s->window;

    room = room > HEAD * 8 ? room - HEAD * 8 : 0;
    if (s->flow == DOES_NOT || room == 0)
        return room;
    if (w <= 0) {
        if (s->flow == UNKNOWN && !ev_is_active(&s->grace))
            loop_timer(s->loop, &s->grace, GRACE_MS);
        return 0;
    }
    return (int64_t)room < w ? room : (size_t)w;
}

static void on_grace(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct spdy *s = w->data;

    (void)ev;
    (void)revents;
    if (s->flow == UNKNOWN)
        s->flow = DOES_NOT;
    if (!s->mux.stopped)
        s->mux.user.writable(s->mux.user.arg);
}

static void spdy_end(struct chan *c)
{
    data_frame(c, NULL, 0, FLAG_FIN);
}

static void spdy_reset(struct chan *c)
{
    control2(spdy_of(c->mux), RST_STREAM, c->id, RST_CANCEL);
}

static void spdy_taken(struct chan *c, size_t n)
{
    struct spdy *s = spdy_of(c->mux);

    c->untold += n;
    s->untold += n;
    if (c->untold >= SPDY_WINDOW / 2 && !c->peer_ended) {
        control2(s, WINDOW_UPDATE, c->id, (uint32_t)c->untold);
        c->untold = 0;
    }
    if (s->untold >= SPDY_WINDOW / 2) {
        control2(s, WINDOW_UPDATE, 0, (uint32_t)s->untold);
        s->untold = 0;
    }
}

static void spdy_drop(struct chan *c)
{
    struct spdy *s = spdy_of(c->mux);

    if (s->data_chan == c)
        s->data_chan = NULL;
    chan_free(c);
}

static void spdy_bye(struct mux *m)
{
    struct spdy *s = spdy_of(m);

    control2(s, GOAWAY, s->last_id, 0);
    s->said_bye = true;
}

/* --- in --- */

/* Inflates a header block into out. The dictionary is asked for once, at the beginning of the
 * first. */
static int unpack(struct spdy *s, const uint8_t *p, size_t n, struct str *out)
{
    z_stream *z = &s->inflate;

    z->next_in = (Bytef *)(uintptr_t)p;
    z->avail_in = (uInt)n;
    for (;;) {
        int r;

        z->next_out = (Bytef *)str_room(out, 4096);
        z->avail_out = 4096;
        r = inflate(z, Z_SYNC_FLUSH);
        if (r == Z_NEED_DICT) {
            if (inflateSetDictionary(z, (const Bytef *)spdy_dict, SPDY_DICT_LEN) != Z_OK)
                return -EPROTO;
            continue;
        }
        if (r != Z_OK && r != Z_BUF_ERROR)
            return -EPROTO;
        out->len += 4096 - z->avail_out;
        if (out->len > BLOCK_MAX)
            return -EPROTO;
        if (z->avail_in == 0 && z->avail_out != 0)
            return 0;
        if (r == Z_BUF_ERROR && z->avail_out != 0)
            return -EPROTO;
    }
}

static bool is(const uint8_t *p, size_t n, const char *want)
{
    return n == strlen(want) && strncasecmp((const char *)p, want, n) == 0;
}

static enum chan_kind kind_of(const uint8_t *p, size_t n)
{
    static const struct {
        const char *name;
        enum chan_kind kind;
    } kinds[] = { { "stdin", CHAN_IN },   { "stdout", CHAN_OUT },    { "stderr", CHAN_ERR },
                  { "error", CHAN_ERROR }, { "resize", CHAN_RESIZE }, { "data", CHAN_DATA } };

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (is(p, n, kinds[i].name))
            return kinds[i].kind;
    return CHAN_UNKNOWN;
}

static void take_header(struct chan *c, const uint8_t *name, size_t nn, const uint8_t *value,
                        size_t vn)
{
    if (is(name, nn, "streamtype")) {
        c->kind = kind_of(value, vn);
    } else if (is(name, nn, "port")) {
        c->port = -1;
        if (vn > 0 && vn <= 5) {
            c->port = 0;
            for (size_t i = 0; i < vn; i++)
                c->port = value[i] < '0' || value[i] > '9' || c->port < 0
                              ? -1
                              : c->port * 10 + value[i] - '0';
        }
    } else if (is(name, nn, "requestid") && vn < sizeof c->request) {
        memcpy(c->request, value, vn);
        c->request[vn] = '\0';
    }
}

/* Number of pairs, then each name and value with its length, all in 32 bits. */
static int parse_headers(struct chan *c, const struct str *block)
{
    const uint8_t *p = (const uint8_t *)block->p, *end = p + block->len;
    uint32_t pairs;

    if (block->len < 4)
        return -EPROTO;
    pairs = get32(p);
    p += 4;
    while (pairs-- > 0) {
        const uint8_t *s[2];
        size_t n[2];

        for (int i = 0; i < 2; i++) {
            if (end - p < 4)
                return -EPROTO;
            n[i] = get32(p);
            p += 4;
            if (n[i] > (size_t)(end - p))
                return -EPROTO;
            s[i] = p;
            p += n[i];
        }
        take_header(c, s[0], n[0], s[1], n[1]);
    }
    return 0;
}

static void peer_end(struct chan *c, bool reset)
{
    struct mux *m = c->mux;

    if (c->peer_ended && !reset)
        return;
    c->peer_ended = true;
    if (reset)
        c->ended = true;
    if (!m->stopped)
        m->user.end(m->user.arg, c, reset);
}

static int got_syn_stream(struct spdy *s, const uint8_t *p, size_t n, int flags)
{
    auto_str struct str block = STR_INIT;
    struct mux *m = &s->mux;
    struct chan *c;
    uint32_t id;
    int r;

    if (n < 10)
        return -EPROTO;
    id = get32(p) & 0x7fffffff;
    r = unpack(s, p + 10, n - 10, &block);
    if (r < 0)
        return r;
    if (id % 2 == 0 || id <= s->last_id) {
        if (id > 0 && chan_find(m, id)) {
            control2(s, RST_STREAM, id, RST_IN_USE);
            return 0;
        }
        return -EPROTO;
    }
    s->last_id = id;
    if (m->n_chans >= SPDY_CHANS_MAX) {
        control2(s, RST_STREAM, id, RST_REFUSED);
        return 0;
    }
    c = chan_new(m, id);
    c->window = s->initial;
    r = parse_headers(c, &block);
    if (r < 0 || m->user.want(m->user.arg, c) < 0) {
        control2(s, RST_STREAM, id, r < 0 ? RST_PROTOCOL_ERROR : RST_REFUSED);
        chan_free(c);
        return 0;
    }
    syn_reply(s, id);
    m->user.open(m->user.arg, c);
    c = chan_find(m, id);            /* unless the user has dropped it already */
    if (c && flags & FLAG_FIN)
        peer_end(c, false);
    return 0;
}

static int got_window(struct spdy *s, uint32_t id, uint32_t delta)
{
    struct chan *c = id ? chan_find(&s->mux, id) : NULL;
    int64_t *w = id ? c ? &c->window : NULL : &s->window;

    s->flow = COUNTS;
    if (!w)
        return 0;                    /* a stream that has ended */
    *w += delta & 0x7fffffff;
    if (*w > 0x7fffffff)
        return -EPROTO;
    if (!s->mux.stopped)
        s->mux.user.writable(s->mux.user.arg);
    return 0;
}

static int got_settings(struct spdy *s, const uint8_t *p, size_t n)
{
    uint32_t count;

    if (n < 4)
        return -EPROTO;
    count = get32(p);
    if (count > (n - 4) / 8)
        return -EPROTO;
    for (p += 4; count-- > 0; p += 8) {
        int64_t v = get32(p + 4) & 0x7fffffff;
        struct chan *c;

        if ((get32(p) & 0xffffff) != SETTING_WINDOW)
            continue;
        s->flow = COUNTS;
        list_each(c, &s->mux.chans, struct chan, link)
            c->window += v - s->initial;
        s->initial = v;
    }
    if (!s->mux.stopped)
        s->mux.user.writable(s->mux.user.arg);
    return 0;
}

static int got_control(struct spdy *s)
{
    const uint8_t *p = (const uint8_t *)s->in.p;
    auto_str struct str block = STR_INIT;
    size_t n = s->in.len;
    struct chan *c;

    if ((get32(s->head) >> 16 & 0x7fff) != VERSION)
        return -EPROTO;
    switch (get32(s->head) & 0xffff) {
    case SYN_STREAM: return got_syn_stream(s, p, n, s->head[4]);
    case SYN_REPLY: return -EPROTO;  /* we open none */
    case RST_STREAM:
        if (n < 8)
            return -EPROTO;
        c = chan_find(&s->mux, get32(p) & 0x7fffffff);
        if (c)
            peer_end(c, true);
        return 0;
    case SETTINGS: return got_settings(s, p, n);
    case PING:
        if (n < 4)
            return -EPROTO;
        if (get32(p) % 2)            /* theirs; even ones would answer ours */
            control(s, PING, 0, p, 4);
        return 0;
    case GOAWAY: return 0;           /* it opens no more streams; those there are go on */
    case HEADERS:
        if (n < 4 || unpack(s, p + 4, n - 4, &block) < 0)
            return -EPROTO;
        c = chan_find(&s->mux, get32(p) & 0x7fffffff);
        if (c && s->head[4] & FLAG_FIN)
            peer_end(c, false);
        return 0;
    case WINDOW_UPDATE: return n < 8 ? -EPROTO : got_window(s, get32(p) & 0x7fffffff, get32(p + 4));
    default: return 0;
    }
}

static int got_head(struct spdy *s)
{
    s->n_head = 0;
    s->left = get32(s->head + 4) & 0xffffff;
    s->is_data = !(s->head[0] & 0x80);
    if (!s->is_data) {
        str_reset(&s->in);
        return s->left > FRAME_MAX ? -EPROTO : 0;
    }
    s->data_chan = chan_find(&s->mux, get32(s->head) & 0x7fffffff);
    if (s->data_chan && s->data_chan->peer_ended)
        s->data_chan = NULL;
    if (!s->data_chan && get32(s->head) > s->last_id)
        control2(s, RST_STREAM, get32(s->head), RST_INVALID_STREAM);
    return 0;
}

/* The whole payload of the current frame has come. */
static int got_all(struct spdy *s)
{
    struct chan *c = s->data_chan;

    if (!s->is_data)
        return got_control(s);
    s->data_chan = NULL;
    if (c && s->head[4] & FLAG_FIN)
        peer_end(c, false);
    return 0;
}

static void got_data(struct spdy *s, const uint8_t *p, size_t n)
{
    if (s->data_chan) {
        s->mux.user.data(s->mux.user.arg, s->data_chan, p, n);
    } else {                         /* dropped, but the connection's window opens again */
        s->untold += n;
        if (s->untold >= SPDY_WINDOW / 2) {
            control2(s, WINDOW_UPDATE, 0, (uint32_t)s->untold);
            s->untold = 0;
        }
    }
}

static int spdy_feed(struct mux *m, const uint8_t *p, size_t n)
{
    struct spdy *s = spdy_of(m);
    bool in_payload = s->left > 0;

    while (!m->stopped && (n > 0 || in_payload)) {
        size_t k;
        int r;

        if (!in_payload) {
            k = HEAD - s->n_head < n ? HEAD - s->n_head : n;
            memcpy(s->head + s->n_head, p, k);
            s->n_head += k;
            p += k;
            n -= k;
            if (s->n_head < HEAD)
                return 0;
            r = got_head(s);
            if (r < 0)
                return r;
            in_payload = true;
        }
        k = s->left < n ? s->left : n;
        if (k && s->is_data)
            got_data(s, p, k);
        else if (k)
            str_add(&s->in, p, k);
        s->left -= k;
        p += k;
        n -= k;
        if (s->left > 0)
            return 0;                /* n is 0 */
        in_payload = false;
        r = m->stopped ? 0 : got_all(s);
        if (r < 0)
            return r;
    }
    return 0;
}

static void spdy_free(struct mux *m)
{
    struct spdy *s = spdy_of(m);

    ev_timer_stop(loop_ev(s->loop), &s->grace);
    mux_deinit(m);
    inflateEnd(&s->inflate);
    deflateEnd(&s->deflate);
    str_free(&s->in);
    free(s);
}

static const struct mux_ops ops = {
    .feed = spdy_feed, .room = spdy_room, .send = spdy_send, .end = spdy_end, .reset = spdy_reset,
    .taken = spdy_taken, .drop = spdy_drop, .bye = spdy_bye, .free = spdy_free,
};

struct mux *spdy_new(struct loop *l, const struct mux_user *user, const struct transport *out)
{
    struct spdy *s = mem_new(struct spdy);

    mux_init(&s->mux, &ops, user, out);
    s->loop = l;
    s->window = s->initial = SPDY_WINDOW;
    ev_timer_init(&s->grace, on_grace, 0., 0.);
    s->grace.data = s;
    /* replies are four bytes: the smallest window that holds the dictionary */
    if (inflateInit(&s->inflate) != Z_OK ||
        deflateInit2(&s->deflate, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 11, 1, Z_DEFAULT_STRATEGY) !=
            Z_OK ||
        deflateSetDictionary(&s->deflate, (const Bytef *)spdy_dict, SPDY_DICT_LEN) != Z_OK)
        abort();                     /* out of memory: as mem_alloc() does */
    return &s->mux;
}
