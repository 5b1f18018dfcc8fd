/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC over HTTP/2 on a unix socket: framing, status trailers, deadlines, cancellation, flow
 * control.
 *
 * A handler sees only struct rpc, never the HTTP/2 library. Whatever is decoded or allocated for a
 * call lives in the call's pool and goes with it. A call ends exactly once: rpc_ok, rpc_ok_bytes,
 * rpc_fail*, or rpc_end for streams; what comes after that is ignored. When the client goes away or
 * its deadline passes first, the gone callback runs (once) and later replies are dropped silently;
 * the struct rpc stays valid until rpc_release() when it was kept by rpc_keep(), else it is gone
 * after the gone callback. */
#ifndef CRICKET_GRPC_H
#define CRICKET_GRPC_H

#include "err.h"
#include "reactor/loop.h"

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    GRPC_MESSAGE_MAX = 16 * 1024 * 1024, /* both ways; larger: ResourceExhausted */
    GRPC_STREAM_QUEUE_MAX =
        4 * 1024 * 1024, /* unsent bytes of a stream before rpc_send() refuses */
};

struct rpc;
struct grpc_server;

typedef void (*rpc_fn)(struct rpc *rpc, const ProtobufCMessage *req, void *ctx);

struct grpc_method {
    const char *service;             /* "runtime.v1.RuntimeService" */
    const char *name;                /* "Version" */
    const ProtobufCMessageDescriptor *input;
    rpc_fn fn;
};

struct grpc_opts {
    const char *socket_path;
    mode_t mode;                     /* 0660 */
    uid_t uid;                       /* (uid_t)-1: leave */
    gid_t gid;
    const struct grpc_method *methods;   /* ends with { 0 }; must outlive the server */
    void *ctx;                       /* handed to every handler */
    int listen_fd;                   /* -1, or a socket handed over by the service manager */
};

/* Binds and listens. A living daemon on the same path: -EADDRINUSE, says so. A stale socket is
 * replaced. */
int grpc_listen(struct loop *l, const struct grpc_opts *o, struct grpc_server **ret,
                struct err *err);
/* Stop accepting, end streams with Unavailable, let calls in flight finish; done at the latest
 * after ms. */
void grpc_shutdown(struct grpc_server *s, int64_t ms, void (*done)(void *arg), void *arg);
/* Drops what is left, removes the socket file it made. Returns NULL. */
struct grpc_server *grpc_free(struct grpc_server *s);
size_t grpc_live_calls(const struct grpc_server *s);

struct grpc_method_stats {
    uint64_t calls, failed;          /* that have ended; failed: any status but OK, or cancelled */
    uint64_t total_us, longest_us;   /* from the request's arrival to the decision of its status */
};

/* Each method that was ever called. Requests without a method that we know are not counted. */
void grpc_each_method(const struct grpc_server *s,
                      void (*fn)(const struct grpc_method *m, const struct grpc_method_stats *st,
                                 void *arg),
                      void *arg);

void rpc_ok(struct rpc *rpc, const ProtobufCMessage *reply);
void rpc_ok_bytes(struct rpc *rpc, const void *msg, size_t len); /* an encoded message; copied */
void rpc_fail(struct rpc *rpc, int grpc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void rpc_fail_err(struct rpc *rpc, const struct err *err); /* GRPC_UNKNOWN where err->grpc is 0 */

/* Streams. Headers go at once with rpc_begin(). rpc_send: 0, or -ENOBUFS when the client reads too
 * slowly, or -EMSGSIZE when the message is over GRPC_MESSAGE_MAX (the call has then ended with
 * ResourceExhausted). At shutdown streams end with Unavailable and the gone callback runs with
 * RPC_CANCELLED. */
void rpc_begin(struct rpc *rpc);
int rpc_send(struct rpc *rpc, const ProtobufCMessage *msg);
int rpc_send_bytes(struct rpc *rpc, const void *msg, size_t len);
size_t rpc_queued(const struct rpc *rpc);
/* cb each time the queue has run empty: the next batch can be made. */
void rpc_on_drain(struct rpc *rpc, void (*cb)(struct rpc *rpc, void *arg), void *arg);
void rpc_end(struct rpc *rpc);                                         /* OK trailers */

/* cb when the client or the deadline ends the call first; not when that has happened already
 * (rpc_is_gone()). */
enum rpc_gone { RPC_CANCELLED, RPC_DEADLINE };
void rpc_on_gone(struct rpc *rpc, void (*cb)(struct rpc *rpc, enum rpc_gone why, void *arg),
                 void *arg);
bool rpc_is_gone(const struct rpc *rpc);
int64_t rpc_deadline_ms(const struct rpc *rpc);  /* monotonic; INT64_MAX without one */

void rpc_keep(struct rpc *rpc); /* the operation owns the struct beyond the handler's return */
void rpc_release(struct rpc *rpc);
void *rpc_alloc(struct rpc *rpc, size_t n);      /* zeroed; lives as long as the call */
const char *rpc_method(const struct rpc *rpc);   /* "RunPodSandbox" */
const char *rpc_service(const struct rpc *rpc);  /* "runtime.v1.RuntimeService" */
/* The request stays valid until the call has ended AND been released. */

#endif
