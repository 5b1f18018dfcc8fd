/* SPDX-License-Identifier: Apache-2.0 */
/* ContainerStatus and ListContainers (CRI.md 4.12, 4.13). */
#include "handlers/rpcs.h"

#include "handlers/filter.h"
#include "handlers/info.h"
#include "reactor/pool.h"

bool ctr_filter_match(struct ctr *c, const Runtime__V1__ContainerFilter *f)
{
    if (!c->visible)
        return false;
    if (!f)
        return true;
    if (!id_matches(c->id, f->id) || !id_matches(c->sandbox->id, f->pod_sandbox_id))
        return false;
    if (f->state && f->state->state != ctr_state(c))
        return false;
    return labels_match((void **)f->label_selector, f->n_label_selector,
                        (void **)c->config->labels, c->config->n_labels);
}

void handle_list_containers(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ListContainersRequest *q = (const void *)req;
    struct handlers *h = ctx;
    auto_str struct str reply = STR_INIT;
    struct ctr *c;

    ctr_each(h, i, c)
        if (ctr_filter_match(c, q->filter))
            pb_join(&reply, 1, ctr_listed(c));
    rpc_ok_bytes(rpc, reply.p, reply.len);
}

void handle_container_status(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ContainerStatusRequest *q = (const void *)req;
    Runtime__V1__ContainerStatusResponse reply = RUNTIME__V1__CONTAINER_STATUS_RESPONSE__INIT;
    Runtime__V1__ContainerStatus st;
    auto_pool struct pool pool = POOL_INIT;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(ctx, q->container_id, &err);

    if (!c) {
        rpc_fail_err(rpc, &err);
        return;
    }
    ctr_status_fill(c, &st, &pool);
    reply.status = &st;
    if (q->verbose) {
        reply.info = pool_alloc(&pool, sizeof(void *));
        reply.info[reply.n_info++] =
            info_entry(&pool, &runtime__v1__container_status_response__info_entry__descriptor,
                       "info", info_ctr(c, &pool));
    }
    rpc_ok(rpc, &reply.base);
}
