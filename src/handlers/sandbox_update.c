/* SPDX-License-Identifier: Apache-2.0 */
/* UpdatePodSandboxResources (CRI.md 4.29): kubelet has changed the pod's cgroup itself and tells
 * us. There is nothing to set; the values are kept, over restarts too, and shown in the verbose
 * status. */
#include "handlers/rpcs.h"

#include "mem.h"

static void keep(ProtobufCBinaryData *field, const Runtime__V1__LinuxContainerResources *r)
{
    if (!r)
        return;
    size_t n = runtime__v1__linux_container_resources__get_packed_size(r);
    auto_free uint8_t *buf = mem_alloc(n + 1);

    runtime__v1__linux_container_resources__pack(r, buf);
    pb_set_bytes(field, buf, n);
}

void handle_update_pod_sandbox_resources(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__UpdatePodSandboxResourcesRequest *q = (const void *)req;
    Runtime__V1__UpdatePodSandboxResourcesResponse reply =
        RUNTIME__V1__UPDATE_POD_SANDBOX_RESOURCES_RESPONSE__INIT;
    struct err err = ERR_INIT;
    struct sandbox *s = sandbox_find(ctx, q->pod_sandbox_id, &err);

    if (!s) {
        rpc_fail_err(rpc, &err);
        return;
    }
    keep(&s->rec->overhead, q->overhead);
    keep(&s->rec->resources, q->resources);
    sandbox_save(s);
    rpc_ok(rpc, &reply.base);
}
