/* SPDX-License-Identifier: Apache-2.0 */
/* Between h2o_grpc.c (the server), h2o_call.c (a request comes in) and h2o_rpc.c (what is done with
 * it); nobody else includes it. */
#ifndef CRICKET_H2O_GRPC_H
#define CRICKET_H2O_GRPC_H

#include "list.h"
#include "reactor/grpc.h"
#include "reactor/h2o_bridge.h"
#include "reactor/listen.h"
#include "reactor/pool.h"

struct grpc_server {
    struct loop *loop;
    struct bridge *bridge;
    const struct grpc_method *methods;
    void *ctx;
    struct listener *listener;
    char *path;                      /* NULL: the socket is not ours to remove */
    dev_t path_dev;
    ino_t path_ino;
    h2o_globalconf_t conf;
    h2o_context_t http;
    h2o_accept_ctx_t accept;
    struct list calls;               /* struct rpc whose HTTP/2 stream is open */
    size_t n_calls;
    struct grpc_method_stats *stats; /* one per method */
    bool closing;
    ev_timer closing_deadline;
    ev_prepare closing_watch;
    void (*closed)(void *arg);
    void *closed_arg;
};

enum {
    FRAME = 5,                       /* before each message: compressed flag, length */
    POOL_MAX = 8 * GRPC_MESSAGE_MAX, /* what a request may decode into */
};

struct chunk {                       /* a message in its frame, on its way out */
    struct chunk *next;
    size_t len;
    char data[];
};

struct port {
    h2o_generator_t generator;       /* first */
    struct rpc *rpc;
};

struct rpc {
    struct list link;                /* server->calls while req is set */
    struct grpc_server *server;      /* valid while req is set */
    h2o_req_t *req;
    struct port *port;
    int refs;                        /* the stream, rpc_keep(), and whoever is on the stack */
    const struct grpc_method *method;    /* NULL: unknown */
    const ProtobufCMessage *request;
    struct pool pool;
    ev_timer deadline;
    int64_t deadline_ms;
    int64_t arrived_us;
    struct bridge_post flush;
    struct chunk *queue, **tail, *inflight;
    size_t queued;                   /* bytes in queue and inflight */
    bool started;                    /* response headers were handed over */
    bool sending;                    /* one h2o_send is under way */
    bool streaming;
    bool ending;                     /* the status is decided */
    bool finished;                   /* nothing more to hand over */
    bool gone;
    int status;
    char *message;
    void (*on_gone)(struct rpc *rpc, enum rpc_gone why, void *arg);
    void *gone_arg;
    void (*on_drain)(struct rpc *rpc, void *arg);
    void *drain_arg;
};

/* h2o_rpc.c: a call on this stream, on the server's list; two references, the stream's and the
 * caller's. */
struct rpc *rpc_new(struct grpc_server *s, h2o_req_t *req);
void rpc_unref(struct rpc *rpc);
/* h2o_call.c: a request has arrived completely. Returns false when it is not gRPC. */
bool rpc_arrived(struct grpc_server *s, h2o_req_t *req);
/* Ends with Unavailable; its gone callback runs. Streams only. */
void rpc_shut(struct rpc *rpc);
struct rpc *rpc_of_link(struct list *l);

#endif
