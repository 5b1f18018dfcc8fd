/* SPDX-License-Identifier: Apache-2.0 */
/* Between h2o_grpc.c (the server) and h2o_rpc.c (one call); nobody else includes it. */
#ifndef CRICKET_H2O_GRPC_H
#define CRICKET_H2O_GRPC_H

#include "list.h"
#include "reactor/grpc.h"
#include "reactor/h2o_bridge.h"
#include "reactor/listen.h"

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
    bool closing;
    ev_timer closing_deadline;
    ev_prepare closing_watch;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* A request has arrived completely. Returns false when it is not gRPC. */
bool rpc_arrived(struct grpc_server *s, h2o_req_t *req);
/* Ends with Unavailable; its gone callback runs. Streams only. */
void rpc_shut(struct rpc *rpc);
struct rpc *rpc_of_link(struct list *l);

#endif
