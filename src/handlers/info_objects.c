/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/info.h"

#include "handlers/apparmor.h"
#include "handlers/launch.h"
#include "proc/cgroup.h"
#include "reactor/pool.h"

#include <malloc.h>

static json_t *resources_json(const ProtobufCBinaryData *b)
{
    Runtime__V1__LinuxContainerResources *r;
    json_t *j;

    if (!b->len)
        return NULL;
    r = runtime__v1__linux_container_resources__unpack(NULL, b->len, b->data);
    if (!r)
        return NULL;
    j = pb_json(&r->base);
    runtime__v1__linux_container_resources__free_unpacked(r, NULL);
    return j;
}

/* The namespaces of a sandbox with their paths: CNI debugging reads the network one. */
static json_t *sandbox_spec(struct sandbox *s)
{
    json_t *list = json_array();

    if (s->rec->netns[0])
        json_array_append_new(list,
                              json_pack("{s:s, s:s}", "type", "network", "path", s->rec->netns));
    json_array_append_new(list, json_pack("{s:s}", "type", "mount"));
    json_array_append_new(list, json_pack("{s:s}", "type", "ipc"));
    json_array_append_new(list, json_pack("{s:s}", "type", "uts"));
    return json_pack("{s:s, s:s, s:{s:o, s:s}}", "ociVersion", "1.1.0", "hostname",
                     s->config->hostname, "linux", "namespaces", list, "cgroupsPath",
                     s->rec->cgroup_parent);
}

char *info_sandbox(struct sandbox *s, struct pool *pool)
{
    pid_t pid = s->link ? link_init_pid(s->link) : 0;
    json_t *overhead = resources_json(&s->rec->overhead), *res = resources_json(&s->rec->resources);
    json_t *cni = s->rec->cni_result[0] ? json_loads(s->rec->cni_result, 0, NULL) : NULL;
    json_t *j = json_pack("{s:i, s:s, s:b, s:s, s:s, s:s, s:s, s:o, s:o, s:o?}", "pid",
                          (int)(pid       ? pid
                                : s->link ? link_pid(s->link)
                                          : 0),
                          "processStatus", sandbox_is_ready(s) ? "running" : "deleted",
                          "netNamespaceClosed", !sandbox_is_ready(s) && !sandbox_host_network(s),
                          "image", "", "runtimeHandler", s->rec->runtime_handler, "runtimeType",
                          "cricket", "snapshotKey", "", "config", pb_json(&s->config->base),
                          "runtimeSpec", sandbox_spec(s), "cniResult", cni);

    json_object_set_new(j, "sandboxMetadata", pb_json(&s->config->metadata->base));
    if (overhead)
        json_object_set_new(j, "overhead", overhead);
    if (res)
        json_object_set_new(j, "resources", res);
    return info_dump(pool, j);
}

char *info_ctr(struct ctr *c, struct pool *pool)
{
    struct ctr_input *in = ctr_input_new(c);
    struct spec *spec = NULL;
    json_t *spec_j = NULL, *j;

    if (spec_build(&in->in, &spec, NULL) >= 0)
        spec_j = spec_json(spec, c->rec->cgroup_path, c->sandbox->rec->netns);
    j = json_pack("{s:s, s:i, s:b, s:s, s:s, s:s, s:b, s:o, s:o?}", "sandboxID", c->sandbox->id,
                  "pid", (int)c->rec->pid, "removing", c->remove != NULL, "snapshotKey", c->id,
                  "snapshotter", "overlay", "runtimeType", "cricket", "privileged",
                  spec && spec->privileged, "config", pb_json(&c->config->base), "runtimeSpec",
                  spec_j);
    spec_free(spec);
    ctr_input_free(in);
    return info_dump(pool, j);
}

static void add_op(const struct op *op, const char *step, void *arg)
{
    json_array_append_new(arg, json_pack("{s:s, s:s, s:s, s:I}", "operation", op->cls->name,
                                         "object", op->id, "step", step ? step : "", "milliseconds",
                                         (json_int_t)(clock_mono_ms() - op->started_ms)));
}

char *info_daemon(struct handlers *h, struct pool *pool)
{
    const struct loop_stats *st = loop_stats(h->loop);
    const struct mallinfo2 heap = mallinfo2();    /* in use, in the heap and mapped by itself */
    json_t *ops = json_array(), *hist = json_array();
    const char *profile = h->node.apparmor_default;
    bool loaded = false;

    if (h->node.apparmor && profile)
        (void)apparmor_is_loaded(profile, &loaded, NULL);
    op_each(add_op, ops);
    for (size_t i = 0; i < sizeof st->hist / sizeof *st->hist; i++)
        json_array_append_new(hist, json_integer((json_int_t)st->hist[i]));
    return info_dump(
        pool,
        json_pack("{s:{s:I, s:I, s:s, s:o}, s:o, s:I, s:I, s:I, s:s, s:s, s:{s:b, s:s}, s:{s:b, s:s}}",
                  "loop", "turns", (json_int_t)st->turns, "longestMicroseconds",
                  (json_int_t)st->longest_us, "longestWork",
                  st->longest_name ? st->longest_name : "", "histogram", hist, "operations", ops,
                  "pulls", (json_int_t)pull_count(h->puller), "streams",
                  (json_int_t)stream_sessions(h->stream), "heapBytes",
                  (json_int_t)(heap.uordblks + heap.hblkhd), "podCIDR", h->pod_cidr,
                  "cgroupControllers", cgroup_controllers(), "apparmor", "enabled",
                  h->node.apparmor, "runtimeDefault", loaded ? profile : "", "selinux", "enabled",
                  h->node.selinux, "process",
                  h->node.selinux_process ? h->node.selinux_process : ""));
}
