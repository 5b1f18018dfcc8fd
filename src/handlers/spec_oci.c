/* SPDX-License-Identifier: Apache-2.0 */
/* config.json and process.json for an OCI runtime (pod/oci.c runs it).
 *
 * Whatever comes from outside the container is prepared by cricket-pod the way the native launcher
 * does it, and is found by a fixed name in the bundle: the root file system (r), the source of the
 * i-th mount (m<i>), the sandbox's namespaces (netns, ipcns, utsns, pidns). So the runtime makes no
 * decision about the host's paths, and both ways of launching mount the same things. oom_score_adj
 * is left out: cricket-pod gives it to the runtime, the container inherits it, and where it may not
 * be lowered that is no failure. */
#include "handlers/spec_impl.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <string.h>

static int dump(json_t *o, char **ret, struct err *err)
{
    *ret = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    return *ret ? 0 : err_set(err, -EINVAL, "the OCI runtime's configuration cannot be written");
}

static json_t *process(const struct plan_process *p)
{
    json_t *o = spec_json_process(p);

    json_object_del(o, "oomScoreAdj");
    if (str_empty(p->cwd))
        json_object_set_new(o, "cwd", json_string("/"));
    return o;
}

int spec_oci_process(const struct plan_process *p, char **ret, struct err *err)
{
    return dump(process(p), ret, err);
}

static bool is_prepared(const struct plan_mount *m)
{
    return m->kind == PLAN_MOUNT_BIND || m->kind == PLAN_MOUNT_OVERLAY ||
           m->kind == PLAN_MOUNT_SELF || m->kind == PLAN_MOUNT_SHM;
}

static void has_option(json_t *options, const char *name)
{
    json_t *v;
    size_t i;

    json_array_foreach(options, i, v)
        if (strcmp(json_string_value(v), name) == 0)
            return;
    json_array_append_new(options, json_string(name));
}

static void drop_option(json_t *options, const char *name)
{
    for (size_t i = json_array_size(options); i-- > 0;)
        if (strcmp(json_string_value(json_array_get(options, i)), name) == 0)
            json_array_remove(options, i);
}

/* The list that spec_json() made of the same mounts, pointed at the bundle. */
static void point(const struct plan *p, json_t *mounts, const char *bundle)
{
    for (size_t i = 0; i < p->n_mounts; i++) {
        const struct plan_mount *m = &p->mounts[i];
        json_t *o = json_array_get(mounts, i), *options = json_object_get(o, "options");
        auto_free char *source = mem_printf("%s/m%zu", bundle, i);

        drop_option(options, "rw");
        if (!is_prepared(m))
            continue;
        json_object_set_new(o, "source", json_string(source));
        json_object_set_new(o, "type", json_string("bind"));
        drop_option(options, "idmap");           /* it is mapped already */
        if (m->flags & PLAN_RDONLY_REC) {        /* and read-only all the way down */
            drop_option(options, "rro");
            has_option(options, "ro");
        }
        if (m->kind == PLAN_MOUNT_OVERLAY)
            has_option(options, "ro");
        drop_option(options, "rbind");
        has_option(options, m->flags & (PLAN_RECURSIVE | PLAN_RDONLY_REC) ? "rbind" : "bind");
        if (m->kind != PLAN_MOUNT_BIND)
            has_option(options, "rprivate");
    }
}

static void add_ns(json_t *a, const char *type, const char *bundle, const char *name)
{
    auto_free char *path = mem_printf("%s/%s", bundle, name ? name : "");

    json_array_append_new(a, name ? json_pack("{s:s, s:s}", "type", type, "path", path)
                                  : json_pack("{s:s}", "type", type));
}

static json_t *namespaces(const struct plan *p, const char *bundle)
{
    json_t *a = json_array();

    add_ns(a, "mount", bundle, NULL);
    if (p->pidns != PLAN_PID_HOST)
        add_ns(a, "pid", bundle, p->pidns == PLAN_PID_OWN ? NULL : "pidns");
    if (!p->host_net)
        add_ns(a, "network", bundle, "netns");
    if (!p->host_ipc)
        add_ns(a, "ipc", bundle, "ipcns");
    if (!p->host_uts)
        add_ns(a, "uts", bundle, "utsns");
    if (p->own_cgroupns)
        add_ns(a, "cgroup", bundle, NULL);
    if (!p->host_userns)
        add_ns(a, "user", bundle, "userns");
    return a;
}

int spec_oci_config(const struct spec *s, const char *cgroup_path, const char *bundle,
                    const char *seccomp, size_t seccomp_len, char **ret, struct err *err)
{
    static const char *const propagation[] = { "rprivate", "rslave", "rshared" };
    const struct plan *p = &s->plan;
    json_t *o, *linux_, *filter = NULL;
    auto_free char *root = mem_printf("%s/r", bundle);

    if (seccomp) {
        filter = json_loadb(seccomp, seccomp_len, 0, NULL);
        if (!filter)
            return err_set(err, -EBADMSG, "the seccomp profile for the OCI runtime is no JSON");
    }
    o = spec_json(s, cgroup_path, "");
    linux_ = json_object_get(o, "linux");
    /* nothing newer is used, and runtimes refuse what they do not know */
    json_object_set_new(o, "ociVersion", json_string("1.0.0"));
    json_object_set_new(json_object_get(o, "root"), "path", json_string(root));
    json_object_set_new(o, "process", process(&p->process));
    json_object_del(o, "annotations");
    point(p, json_object_get(o, "mounts"), bundle);
    /* done by cricket-pod: a runtime that does not know them would pass them over */
    json_object_del(linux_, "netDevices");
    json_object_del(linux_, "intelRdt");
    json_object_set_new(linux_, "namespaces", namespaces(p, bundle));
    json_object_set_new(linux_, "rootfsPropagation",
                        json_string(propagation[p->rootfs_propagation]));
    if (!cgroup_is_v2())
        json_object_del(json_object_get(linux_, "resources"), "unified");
    if (filter)
        json_object_set_new(linux_, "seccomp", filter);
    return dump(o, ret, err);
}
