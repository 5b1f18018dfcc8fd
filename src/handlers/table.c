/* SPDX-License-Identifier: Apache-2.0 */
/* Every RPC of runtime.v1, one line each, with its handler.
 *
 * The same handlers serve runtime.v1alpha2: its messages are those of v1 with fewer fields, so the
 * descriptors of v1 decode them. It has only the RPCs that it had when it ended (Kubernetes 1.25);
 * the others are unknown methods there. */
#include "handlers/handlers.h"
#include "handlers/rpcs.h"
#include "mem.h"

#include <assert.h>
#include <string.h>

enum { BOTH = 1, V1_ONLY = 0 };

struct row {
    const char *name;
    rpc_fn fn;
    int alpha;
};

static const struct row runtime_rows[] = {
    { "Version", handle_version, BOTH },
    { "RunPodSandbox", handle_run_pod_sandbox, BOTH },
    { "StopPodSandbox", handle_stop_pod_sandbox, BOTH },
    { "RemovePodSandbox", handle_remove_pod_sandbox, BOTH },
    { "PodSandboxStatus", handle_pod_sandbox_status, BOTH },
    { "ListPodSandbox", handle_list_pod_sandbox, BOTH },
    { "StreamPodSandboxes", handle_stream_pod_sandboxes, V1_ONLY },
    { "CreateContainer", handle_create_container, BOTH },
    { "StartContainer", handle_start_container, BOTH },
    { "StopContainer", handle_stop_container, BOTH },
    { "RemoveContainer", handle_remove_container, BOTH },
    { "ListContainers", handle_list_containers, BOTH },
    { "StreamContainers", handle_stream_containers, V1_ONLY },
    { "ContainerStatus", handle_container_status, BOTH },
    { "UpdateContainerResources", handle_update_container_resources, BOTH },
    { "ReopenContainerLog", handle_reopen_container_log, BOTH },
    { "ExecSync", handle_exec_sync, BOTH },
    { "Exec", handle_exec, BOTH },
    { "Attach", handle_attach, BOTH },
    { "PortForward", handle_port_forward, BOTH },
    { "ContainerStats", handle_container_stats, BOTH },
    { "ListContainerStats", handle_list_container_stats, BOTH },
    { "StreamContainerStats", handle_stream_container_stats, V1_ONLY },
    { "PodSandboxStats", handle_pod_sandbox_stats, BOTH },
    { "ListPodSandboxStats", handle_list_pod_sandbox_stats, BOTH },
    { "StreamPodSandboxStats", handle_stream_pod_sandbox_stats, V1_ONLY },
    { "UpdateRuntimeConfig", handle_update_runtime_config, BOTH },
    { "Status", handle_status, BOTH },
    { "CheckpointContainer", handle_checkpoint_container, V1_ONLY },
    { "CheckpointPod", handle_checkpoint_pod, V1_ONLY },
    { "RestorePod", handle_restore_pod, V1_ONLY },
    { "GetContainerEvents", handle_get_container_events, V1_ONLY },
    { "ListMetricDescriptors", handle_list_metric_descriptors, V1_ONLY },
    { "ListPodSandboxMetrics", handle_list_pod_sandbox_metrics, V1_ONLY },
    { "StreamPodSandboxMetrics", handle_stream_pod_sandbox_metrics, V1_ONLY },
    { "RuntimeConfig", handle_runtime_config, V1_ONLY },
    { "UpdatePodSandboxResources", handle_update_pod_sandbox_resources, V1_ONLY },
};

static const struct row image_rows[] = {
    { "ListImages", handle_list_images, BOTH },
    { "StreamImages", handle_stream_images, V1_ONLY },
    { "ImageStatus", handle_image_status, BOTH },
    { "PullImage", handle_pull_image, BOTH },
    { "RemoveImage", handle_remove_image, BOTH },
    { "ImageFsInfo", handle_image_fs_info, BOTH },
};

enum { ROWS = ARRAY_LEN(runtime_rows) + ARRAY_LEN(image_rows) };

static struct grpc_method *add_rows(struct grpc_method *m, const struct row *rows, size_t n,
                                    const ProtobufCServiceDescriptor *d, const char *service,
                                    int only)
{
    for (size_t i = 0; i < n; i++) {
        const ProtobufCMethodDescriptor *md =
            protobuf_c_service_descriptor_get_method_by_name(d, rows[i].name);

        assert(md);
        if (rows[i].alpha < only)
            continue;
        *m++ = (struct grpc_method){ service, rows[i].name, md->input, rows[i].fn };
    }
    return m;
}

const struct grpc_method *handlers_methods(struct handlers *h)
{
    static struct grpc_method methods[2 * ROWS + 1];
    const ProtobufCServiceDescriptor *r = &runtime__v1__runtime_service__descriptor;
    const ProtobufCServiceDescriptor *i = &runtime__v1__image_service__descriptor;
    struct grpc_method *m = methods;

    (void)h;
    assert(r->n_methods == ARRAY_LEN(runtime_rows) && i->n_methods == ARRAY_LEN(image_rows));
    m = add_rows(m, runtime_rows, ARRAY_LEN(runtime_rows), r, "runtime.v1.RuntimeService", V1_ONLY);
    m = add_rows(m, image_rows, ARRAY_LEN(image_rows), i, "runtime.v1.ImageService", V1_ONLY);
    m = add_rows(m, runtime_rows, ARRAY_LEN(runtime_rows), r, "runtime.v1alpha2.RuntimeService",
                 BOTH);
    m = add_rows(m, image_rows, ARRAY_LEN(image_rows), i, "runtime.v1alpha2.ImageService", BOTH);
    *m = (struct grpc_method){ 0 };
    return methods;
}
