/* SPDX-License-Identifier: Apache-2.0 */
/* PodSandboxStatus and ListPodSandbox (CRI.md 4.5, 4.6). kubelet lists everything every second: the
 * reply is joined from the sandboxes' encoded entries. */
#include "handlers/rpcs.h"

#include "handlers/filter.h"
#include "handlers/info.h"
#include "reactor/pool.h"

#include <string.h>

bool sandbox_filter_match(struct sandbox *s, const Runtime__V1__PodSandboxFilter *f)
{
    if (!s->visible)
        return false;
    if (!f)
        return true;
    if (!id_matches(s->id, f->id))
        return false;
    if (f->state && (f->state->state == RUNTIME__V1__POD_SANDBOX_STATE__SANDBOX_READY) !=
                        sandbox_is_ready(s))
        return false;
    return labels_match((void **)f->label_selector, f->n_label_selector,
                        (void **)s->config->labels, s->config->n_labels);
}

void handle_list_pod_sandbox(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ListPodSandboxRequest *q = (const void *)req;
    struct handlers *h = ctx;
    auto_str struct str reply = STR_INIT;
    struct sandbox *s;

    sandbox_each(h, i, s)
        if (sandbox_filter_match(s, q->filter))
            pb_join(&reply, 1, sandbox_listed(s));
    rpc_ok_bytes(rpc, reply.p, reply.len);
}

void handle_pod_sandbox_status(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__PodSandboxStatusRequest *q = (const void *)req;
    Runtime__V1__PodSandboxStatusResponse reply = RUNTIME__V1__POD_SANDBOX_STATUS_RESPONSE__INIT;
    Runtime__V1__PodSandboxStatus st;
    auto_pool struct pool pool = POOL_INIT;
    struct err err = ERR_INIT;
    struct sandbox *s = sandbox_find(ctx, q->pod_sandbox_id, &err);
    struct ctr *c;
    size_t n = 0;

    if (!s) {
        rpc_fail_err(rpc, &err);
        return;
    }
    sandbox_status_fill(s, &st, &pool);
    reply.status = &st;
    list_each(c, &s->ctrs, struct ctr, in_sandbox)
        n += c->visible;
    reply.containers_statuses = pool_alloc(&pool, (n + 1) * sizeof(void *));
    list_each(c, &s->ctrs, struct ctr, in_sandbox) {
        if (!c->visible)
            continue;
        Runtime__V1__ContainerStatus *cs = pool_alloc(&pool, sizeof *cs);

        ctr_status_fill(c, cs, &pool);
        reply.containers_statuses[reply.n_containers_statuses++] = cs;
    }
    reply.timestamp = clock_stamp_ns();
    if (q->verbose) {
        reply.info = pool_alloc(&pool, sizeof(void *));
        reply.info[reply.n_info++] =
            info_entry(&pool, &runtime__v1__pod_sandbox_status_response__info_entry__descriptor,
                       "info", info_sandbox(s, &pool));
    }
    rpc_ok(rpc, &reply.base);
}
