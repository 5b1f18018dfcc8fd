/* SPDX-License-Identifier: Apache-2.0 */
/* StreamPodSandboxes, StreamContainers and what other Stream* calls share (CRI.md 4.30).
 *
 * The snapshot is what the unary call would answer: repeated field 1, entry after entry. A message
 * of the stream is any run of whole entries of it, so batches are cut, not encoded; the next one is
 * cut when the client has taken the last. No entries: no message. */
#include "handlers/stream_list.h"

#include "handlers/filter.h"
#include "handlers/rpcs.h"
#include "mem.h"

#include <assert.h>

enum { BATCH_BYTES = 256 * 1024 };   /* one entry more than this is a message of its own */

struct list_stream {
    struct rpc *rpc;
    struct str snapshot;
    size_t at;                       /* of the first entry not yet sent */
};

static void list_stream_free(struct list_stream *s)
{
    rpc_on_drain(s->rpc, NULL, NULL);
    rpc_on_gone(s->rpc, NULL, NULL);
    rpc_release(s->rpc);
    str_free(&s->snapshot);
    free(s);
}

/* Bytes of the entry at p: tag, length, content. pb_join() made them. */
static size_t entry_len(const char *p)
{
    const unsigned char *b = (const unsigned char *)p + 1;
    size_t len = 0, n = 1;

    for (unsigned shift = 0;; shift += 7, b++) {
        len |= (size_t)(*b & 0x7f) << shift;
        n++;
        if (!(*b & 0x80))
            return n + len;
    }
}

static void send_batch(struct list_stream *s)
{
    size_t n = 0, left = s->snapshot.len - s->at;
    const char *p = s->snapshot.p + s->at;

    if (!left) {
        rpc_end(s->rpc);
        list_stream_free(s);
        return;
    }
    while (n < left) {
        size_t k = entry_len(p + n);

        if (n && n + k > BATCH_BYTES)
            break;
        n += k;
    }
    assert(n <= left);
    s->at += n;
    /* ours is the only message in the queue: it can only be too large */
    if (rpc_send_bytes(s->rpc, p, n) < 0) {
        rpc_fail(s->rpc, GRPC_RESOURCE_EXHAUSTED, "an entry of %zu bytes cannot be sent", n);
        list_stream_free(s);
    }
}

static void on_drain(struct rpc *rpc, void *arg)
{
    (void)rpc;
    send_batch(arg);
}

static void on_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    (void)rpc;
    (void)why;
    list_stream_free(arg);
}

void stream_list(struct rpc *rpc, struct str *snapshot)
{
    struct list_stream *s = mem_new(struct list_stream);

    s->rpc = rpc;
    s->snapshot = *snapshot;
    *snapshot = (struct str)STR_INIT;
    rpc_keep(rpc);
    rpc_on_gone(rpc, on_gone, s);
    rpc_on_drain(rpc, on_drain, s);
    rpc_begin(rpc);
    send_batch(s);
}

void handle_stream_pod_sandboxes(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__StreamPodSandboxesRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct str snapshot = STR_INIT;
    struct sandbox *s;

    sandbox_each(h, i, s)
        if (sandbox_filter_match(s, q->filter))
            pb_join(&snapshot, 1, sandbox_listed(s));
    stream_list(rpc, &snapshot);
}

void handle_stream_containers(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__StreamContainersRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct str snapshot = STR_INIT;
    struct ctr *c;

    ctr_each(h, i, c)
        if (ctr_filter_match(c, q->filter))
            pb_join(&snapshot, 1, ctr_listed(c));
    stream_list(rpc, &snapshot);
}
