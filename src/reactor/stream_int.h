/* SPDX-License-Identifier: Apache-2.0 */
/* Between the streaming files: h2o_stream.c (HTTP), stream.c (tokens, negotiation), session.c (the
 * connection and the process), forward.c (port-forward). Nobody else includes it. */
#ifndef CRICKET_STREAM_INT_H
#define CRICKET_STREAM_INT_H

#include "list.h"
#include "reactor/conn.h"
#include "reactor/mux.h"
#include "reactor/stream.h"
#include "str.h"

enum { STREAM_DRAIN_MS = 2000, STREAM_PORTS_MAX = 64 };

/* How long things may take; the tests have less patience. */
struct stream_patience {
    int64_t token_ms;                /* an offer waits for its client */
    int64_t open_ms;                 /* the client opens its streams, or the second of a pair */
    int64_t idle_ms;                 /* nothing moves */
};

enum proto_form { FORM_SPDY, FORM_WS, FORM_TUNNEL };

/* What client and server agreed upon. */
struct proto {
    enum proto_form form;
    const char *name;                /* for the reply; "" : none */
    int version;                     /* of channel.k8s.io, 1 to 5 */
    bool base64;
};

/* --- stream.c */

struct http_server;

struct stream_server {
    struct loop *loop;
    struct http_server *http;
    char *base;                      /* "http://127.0.0.1:41234" */
    struct list offers;              /* oldest first */
    size_t n_offers;
    ev_timer expiry;
    struct list sessions, dead;
    size_t n_sessions;               /* and those that are being upgraded */
    ev_timer reaper;
    bool closing;
    struct stream_patience patience;
};

struct offer {                       /* under a token, then in a session */
    struct list link;
    char token[33];
    int64_t expires_ms;
    struct stream_offer o;
    int32_t ports[STREAM_PORTS_MAX];
};

struct http_request {
    const char *method, *path;       /* NUL terminated */
    const char *upgrade;             /* NULL: none */
    const char *stream_protocols;    /* X-Stream-Protocol-Version, joined by commas; NULL: none */
    const char *ws_protocols, *ws_key, *ws_version;
};

struct http_reply {
    int status;                      /* 101: upgrade */
    const char *reason, *body;
    const char *(*headers)[2];       /* name, value */
    size_t n_headers;
    const char *header_room[8][2];
    char accept[29];
    struct offer *offer;             /* 101: to be given to stream_upgraded(); owned */
    struct proto proto;
};

void stream_decide(struct stream_server *s, const struct http_request *req, struct http_reply *ret);
/* fd < 0: the client left before. early: bytes that came behind the request. */
void stream_upgraded(struct stream_server *s, struct offer *o, const struct proto *p, int fd,
                     const void *early, size_t n);
struct offer *offer_free(struct offer *o);

/* --- h2o_stream.c: the HTTP/1.1 listener. Owns listen_fd. */
int http_listen(struct loop *l, int listen_fd, struct stream_server *s, struct http_server **ret,
                struct err *err);
struct http_server *stream_http_free(struct http_server *h);

/* --- session.c */

struct pipe_out {                    /* the process's stdout or stderr, on its way to the client */
    struct session *s;
    struct chan *chan;
    int fd;
    ev_io io;
    bool eof;
    bool limited;                    /* the process has exited: only `limit` bytes more are taken */
    size_t limit;
};

struct session {
    struct list link;
    struct stream_server *server;
    struct offer *offer;
    struct proto proto;
    struct conn *conn;
    struct mux *outer;               /* what the connection feeds */
    struct mux *mux;                 /* where the channels are; differs from outer in a tunnel */
    struct chan *ch[CHAN_RESIZE + 1];
    unsigned want;                   /* bits of chan_kind that must be open before it begins */
    bool begun;                      /* begin() was called */
    bool ended;                      /* the handler has said its last word */
    bool finishing;                  /* everything was handed to the connection */
    bool dead;
    int theirs[3];                   /* the process's ends of the pipes */
    int in;                          /* our end of stdin, or the pty */
    bool in_shared;                  /* in is the descriptor of out[0] too */
    bool in_closed;                  /* nobody reads stdin any more: what comes is dropped */
    ev_io in_io;
    struct str inq;
    struct str resize;
    struct { bool known; uint16_t w, h; } size;
    struct pipe_out out[2];
    ev_timer setup, drain, idle;
    int64_t active_ms;
    int status;                      /* of the process; -1: success without a code */
    char *failure;
    struct list forwards;            /* of forward.c */
    size_t n_forwards, n_full;       /* n_full: whose queue towards the pod is full */
};

struct session *session_new(struct stream_server *s, struct offer *o, const struct proto *p, int fd,
                            const void *early, size_t n);
void session_kill(struct session *s);    /* no callback to the handler; freed soon */
void session_free(struct session *s);
/* The handler's word is said: send what is left of the protocol, then the connection ends. */
void session_bye(struct session *s);
/* The same, but of our own accord: the handler is told by gone(). */
void session_over(struct session *s);
void session_active(struct session *s);

/* --- session_io.c */
void session_io_init(struct session *s);
void session_io_deinit(struct session *s);
int session_open_pipes(struct session *s, struct err *err);
void session_on_data(void *arg, struct chan *c, const uint8_t *p, size_t n);     /* mux_user */
void session_on_end(void *arg, struct chan *c, bool reset);
void session_on_writable(void *arg);
void session_close_in(struct session *s);
void session_close_out(struct pipe_out *o);
void session_taken(struct session *s, size_t n); /* n bytes of inq are done with */
void session_give_size(struct session *s);       /* tells the handler the window's size */
void session_maybe_finish(struct session *s);    /* says goodbye when all output is out */

/* --- forward.c: the users of a port-forward session's channels. */
extern const struct mux_user forward_user;       /* arg: the session */
void forward_begin(struct session *s);   /* WebSocket: all channels are there */
void forward_end(struct session *s);     /* drops all forwarded connections */

#endif
