/* SPDX-License-Identifier: Apache-2.0 */
/* CDI devices (CRI.md 7.1): what their spec files want to have edited, put into the plan after what
 * the request says. Looked up at create, to refuse what cannot be done by name, and again at each
 * start, as the files may have changed. */
#include "handlers/spec_impl.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <string.h>

enum { CDI_DEVICES_MAX = 256 };

/* Mount options of the OCI runtime-spec that our mounts know; 0 with the bits, or -1. */
static int option_bits(const char *s, unsigned *set, unsigned *clear,
                       enum plan_propagation *propagation)
{
    static const struct {
        const char *name;
        unsigned set, clear;
        int propagation;             /* -1: says nothing about it */
    } options[] = {
        { "bind", 0, PLAN_RECURSIVE, -1 }, { "rbind", PLAN_RECURSIVE, 0, -1 },
        { "ro", PLAN_RDONLY, 0, -1 }, { "rro", PLAN_RDONLY_REC, 0, -1 },
        { "rw", 0, PLAN_RDONLY | PLAN_RDONLY_REC, -1 },
        { "nosuid", PLAN_NOSUID, 0, -1 }, { "suid", 0, PLAN_NOSUID, -1 },
        { "nodev", PLAN_NODEV, 0, -1 }, { "dev", 0, PLAN_NODEV, -1 },
        { "noexec", PLAN_NOEXEC, 0, -1 }, { "exec", 0, PLAN_NOEXEC, -1 },
        { "relatime", PLAN_RELATIME, PLAN_STRICTATIME, -1 },
        { "strictatime", PLAN_STRICTATIME, PLAN_RELATIME, -1 },
        { "private", 0, 0, PLAN_PRIVATE }, { "rprivate", 0, 0, PLAN_PRIVATE },
        { "slave", 0, 0, PLAN_SLAVE }, { "rslave", 0, 0, PLAN_SLAVE },
        { "shared", 0, 0, PLAN_SHARED }, { "rshared", 0, 0, PLAN_SHARED },
    };

    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        if (strcmp(options[i].name, s) != 0)
            continue;
        *set = options[i].set;
        *clear = options[i].clear;
        if (options[i].propagation >= 0)
            *propagation = (enum plan_propagation)options[i].propagation;
        return 0;
    }
    return -1;
}

static bool is_bind(const struct cdi_mount *m)
{
    return !m->type[0] || strcmp(m->type, "bind") == 0 || strcmp(m->type, "none") == 0;
}

static int check_mount(const struct cdi_mount *m, struct err *err)
{
    enum plan_propagation propagation;
    unsigned set, clear;

    if (m->container_path[0] != '/' || spec_path_below(m->container_path, "/proc"))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': nothing can be mounted there",
                       m->container_path);
    for (char **o = m->options; is_bind(m) && o && *o; o++)
        if (option_bits(*o, &set, &clear, &propagation) < 0)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': option '%s' is not supported",
                           m->container_path, *o);
    return 0;
}

static int check(const struct cdi_edits *e, const container_config *c,
                 const Runtime__V1__PodSandboxConfig *sandbox, struct err *err)
{
    int r = 0;

    if (e->n_netdevs && spec_host_net(c, sandbox))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "network interface '%s': the container is in the node's network namespace",
                       e->netdevs[0].host);
    for (size_t i = 0; i < e->n_mounts && r == 0; i++)
        r = check_mount(&e->mounts[i], err);
    return r;
}

int spec_cdi(const container_config *c, const Runtime__V1__PodSandboxConfig *sandbox,
             const struct spec_node *node, struct cdi_edits **ret, struct err *err)
{
    const char *names[CDI_DEVICES_MAX];
    struct cdi_edits *e;
    int r;

    *ret = NULL;
    if (!c->n_cdi_devices)
        return 0;
    if (c->n_cdi_devices > CDI_DEVICES_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "more than %d CDI devices", CDI_DEVICES_MAX);
    for (size_t i = 0; i < c->n_cdi_devices; i++)
        names[i] = c->cdi_devices[i]->name;
    r = cdi_resolve(node->cdi_dirs, names, c->n_cdi_devices, &e, err);
    if (r == 0) {
        r = check(e, c, sandbox, err);
        if (r < 0)
            cdi_edits_free(e);
    }
    if (r < 0) {
        if (err && !err->grpc)
            err->grpc = GRPC_INVALID_ARGUMENT;
        return err_note(err, "CDI device '%s'%s", names[0],
                        c->n_cdi_devices > 1 ? " and others" : "");
    }
    *ret = e;
    return 0;
}

int spec_check_cdi(const container_config *c, const Runtime__V1__PodSandboxConfig *sandbox,
                   const struct spec_node *node, struct err *err)
{
    struct cdi_edits *e;
    int r = spec_cdi(c, sandbox, node, &e, err);

    if (r == 0)
        cdi_edits_free(e);
    return r;
}

struct plan_mount spec_cdi_mount(struct pool *p, const struct cdi_mount *m)
{
    struct plan_mount pm = { .kind = PLAN_MOUNT_BIND,
                             .flags = PLAN_RECURSIVE,
                             .source = m->host_path,
                             .target = spec_path_clean(p, m->container_path) };
    auto_str struct str rest = STR_INIT;     /* of a file system of its own: for that file system */
    unsigned set, clear;

    if (!is_bind(m)) {
        pm.kind = PLAN_MOUNT_FS;
        pm.flags = 0;
        pm.fstype = m->type;
    }
    for (char **o = m->options; o && *o; o++) {
        if (option_bits(*o, &set, &clear, &pm.propagation) == 0)
            pm.flags = (pm.flags & ~clear) | set;
        else
            str_printf(&rest, "%s%s", rest.len ? "," : "", *o);
    }
    if (rest.len)
        pm.data = pool_strdup(p, rest.p);
    return pm;
}
