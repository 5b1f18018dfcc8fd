/* SPDX-License-Identifier: Apache-2.0 */
/* GetContainerEvents (CRI.md 12): any number of subscribers, each gets every event from its
 * subscription on, in order. An event carries the whole state of its pod as it is at that moment,
 * so it is encoded once, when it happens, and handed to every stream. A subscriber that falls too
 * far behind is ended with ResourceExhausted: it cannot grow the daemon, and kubelet subscribes
 * again. */
#include "handlers/rpcs.h"

#include "mem.h"
#include "reactor/pool.h"

struct subscriber {
    struct list l;
    struct rpc *rpc;
};

static void unsubscribe(struct subscriber *s)
{
    list_del(&s->l);
    rpc_on_gone(s->rpc, NULL, NULL);
    rpc_release(s->rpc);
    free(s);
}

static void on_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    (void)rpc;
    (void)why;
    unsubscribe(arg);
}

void handle_get_container_events(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    struct handlers *h = ctx;
    struct subscriber *s = mem_new(struct subscriber);

    (void)req;
    s->rpc = rpc;
    list_add_tail(&h->subscribers, &s->l);
    rpc_keep(rpc);
    rpc_on_gone(rpc, on_gone, s);
    rpc_begin(rpc);    /* headers at once: the client knows that it is subscribed */
}

static void publish(struct handlers *h, struct sandbox *sb, const char *id,
                    Runtime__V1__ContainerEventType type)
{
    Runtime__V1__ContainerEventResponse e = RUNTIME__V1__CONTAINER_EVENT_RESPONSE__INIT;
    Runtime__V1__PodSandboxStatus st;
    auto_pool struct pool pool = POOL_INIT;
    struct subscriber *s;
    struct ctr *c;
    size_t n = 0;

    if (list_empty(&h->subscribers) || h->ending)
        return;
    e.container_id = pool_strdup(&pool, id);
    e.container_event_type = type;
    e.created_at = clock_stamp_ns();
    sandbox_status_fill(sb, &st, &pool);
    e.pod_sandbox_status = &st;
    list_each(c, &sb->ctrs, struct ctr, in_sandbox)
        n++;
    e.containers_statuses = pool_alloc(&pool, (n + 1) * sizeof(void *));
    list_each(c, &sb->ctrs, struct ctr, in_sandbox) {
        if (!c->visible)
            continue;
        Runtime__V1__ContainerStatus *cs = pool_alloc(&pool, sizeof *cs);

        ctr_status_fill(c, cs, &pool);
        e.containers_statuses[e.n_containers_statuses++] = cs;
    }
    size_t len = protobuf_c_message_get_packed_size(&e.base);
    auto_free uint8_t *buf = mem_alloc(len);
    protobuf_c_message_pack(&e.base, buf);
    list_each(s, &h->subscribers, struct subscriber, l) {
        if (rpc_send_bytes(s->rpc, buf, len) >= 0)
            continue;
        rpc_fail(s->rpc, GRPC_RESOURCE_EXHAUSTED,
                 "the subscriber reads too slowly: %zu bytes wait for it", rpc_queued(s->rpc));
        unsubscribe(s);
    }
}

void event_ctr(struct ctr *c, Runtime__V1__ContainerEventType type)
{
    publish(c->h, c->sandbox, c->id, type);
}

void event_sandbox(struct sandbox *s, Runtime__V1__ContainerEventType type)
{
    publish(s->h, s, s->id, type);
}
