/* SPDX-License-Identifier: Apache-2.0 */
/* Channels over one connection, as exec sessions and port-forwards see them: SPDY streams (spdy.c)
 * and WebSocket channels (ws.c) behind one interface. Private to the streaming files.
 *
 *      conn --feed--> mux --open, data, end--> user (session.c, forward.c)
 *      conn <-write-- mux <--send, end, taken-- user
 *
 * A mux does no I/O: it is fed bytes and writes to a transport, which is the connection or, for
 * SPDY tunnelled through WebSocket, a message. Callbacks may call back in, also mux_stop(), after
 * which no callback comes; they must not free the mux. */
#ifndef CRICKET_MUX_H
#define CRICKET_MUX_H

#include "list.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum chan_kind { CHAN_IN, CHAN_OUT, CHAN_ERR, CHAN_ERROR, CHAN_RESIZE, CHAN_DATA, CHAN_UNKNOWN };

struct mux;

struct chan {
    struct list link;                /* mux->chans, oldest first */
    struct mux *mux;
    enum chan_kind kind;
    uint32_t id;                     /* SPDY stream, or WebSocket channel number */
    int port;                        /* port-forward; 0: not given */
    char request[64];                /* port-forward: what pairs two streams; "" : not given */
    int64_t window;                  /* SPDY: bytes that the peer still takes */
    size_t untold;                   /* SPDY: bytes taken that the peer does not know of */
    bool peer_ended;                 /* no more data from the peer */
    bool ended;                      /* nor to it */
    void *user;
};

struct mux_user {
    /* a new channel, kind, port, request filled in: negative refuses it */
    int (*want)(void *arg, struct chan *c);
    void (*open)(void *arg, struct chan *c); /* it is open */
    void (*data)(void *arg, struct chan *c, const uint8_t *p, size_t n);
    void (*end)(void *arg, struct chan *c, bool reset); /* peer_ended; reset: ended too */
    void (*writable)(void *arg);     /* mux_room() may be larger now */
    void *arg;
};

struct transport {
    void (*write)(void *arg, const void *p, size_t n);
    size_t (*room)(void *arg);       /* bytes until it would rather not take more */
    void *arg;
};

struct mux_ops {
    int (*feed)(struct mux *m, const uint8_t *p, size_t n);
    size_t (*room)(struct chan *c);
    void (*send)(struct chan *c, const void *p, size_t n);
    void (*end)(struct chan *c);
    void (*reset)(struct chan *c);
    void (*taken)(struct chan *c, size_t n);
    void (*drop)(struct chan *c);
    void (*bye)(struct mux *m);
    void (*free)(struct mux *m);
};

struct mux {
    const struct mux_ops *ops;
    struct mux_user user;
    struct transport out;
    struct list chans;
    size_t n_chans;
    bool stopped;
};

/* Bytes from the peer. Negative: the connection is of no use any more (after a Close, too). */
static inline int mux_feed(struct mux *m, const uint8_t *p, size_t n)
{
    return m->ops->feed(m, p, n);
}
/* How much may be sent now; writable() comes when it grows from 0. */
static inline size_t mux_room(struct chan *c) { return c->ended ? 0 : c->mux->ops->room(c); }
static inline void mux_send(struct chan *c, const void *p, size_t n)
{
    if (!c->ended && n)
        c->mux->ops->send(c, p, n);
}
/* Half-close, where the protocol knows it. */
static inline void mux_end(struct chan *c)
{
    if (!c->ended)
        c->mux->ops->end(c);
    c->ended = true;
}
static inline void mux_reset(struct chan *c)
{
    if (!c->ended || !c->peer_ended)
        c->mux->ops->reset(c);
    c->ended = c->peer_ended = true;
}
/* The user is done with n bytes that data() brought: the peer may send as many again. */
static inline void mux_taken(struct chan *c, size_t n) { c->mux->ops->taken(c, n); }
/* The user wants to hear no more of a channel: it is reset where it has not ended, and freed. */
static inline void mux_drop(struct chan *c)
{
    mux_reset(c);
    c->mux->ops->drop(c);
}
/* The last words of the protocol; nothing may be sent after. */
static inline void mux_bye(struct mux *m) { m->ops->bye(m); }
static inline void mux_stop(struct mux *m) { m->stopped = true; }
static inline struct mux *mux_free(struct mux *m)
{
    if (m)
        m->ops->free(m);
    return NULL;
}

/* For the implementations. */
void mux_init(struct mux *m, const struct mux_ops *ops, const struct mux_user *user,
              const struct transport *out);
void mux_deinit(struct mux *m);
struct chan *chan_new(struct mux *m, uint32_t id);
struct chan *chan_find(struct mux *m, uint32_t id);
void chan_free(struct chan *c);

#endif
