/* SPDX-License-Identifier: Apache-2.0 */
/* Version (CRI 4.1): all four strings must be there or kubelet refuses; the runtime's name becomes
 * part of container ids in pod status and never changes. */
#include "config.h"
#include "handlers/rpcs.h"

#include <string.h>

void handle_version(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    Runtime__V1__VersionResponse r;
    char version[] = "0.1.0", name[] = "cricket", runtime[] = PACKAGE_VERSION, v1[] = "v1",
         alpha[] = "v1alpha2";

    (void)req;
    (void)ctx;
    runtime__v1__version_response__init(&r);
    r.version = version;
    r.runtime_name = name;
    r.runtime_version = runtime;
    r.runtime_api_version = strstr(rpc_service(rpc), "v1alpha2") ? alpha : v1;
    rpc_ok(rpc, &r.base);
}
