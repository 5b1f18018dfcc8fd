/* SPDX-License-Identifier: Apache-2.0 */
/* The mount table of a container: the OCI defaults, the pod's files, the image's volumes, and what
 * the request mounts (CRI.md 7.1, 7.4).
 *
 * One rule keeps them apart: what the request mounts takes the place of every default at or below
 * that path, so a request for /dev or /etc/hosts gets exactly that. Everything is then sorted by
 * depth, stable, so that a mount is never hidden by its own parent. */
#include "handlers/selinux.h"
#include "handlers/spec_impl.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

typedef Runtime__V1__Mount mount_config;

enum { MOUNTS_MAX = 4096, TTY_GROUP = 5 };

#define PROPAGATION(x) RUNTIME__V1__MOUNT_PROPAGATION__PROPAGATION_##x

static bool is_image(const mount_config *m)
{
    return m->image && m->image->image[0];
}

/* --- checks */

static int check_image(const mount_config *m, const struct spec_node *node, struct err *err)
{
    static const char prefix[] = "ImageVolumeMountFailed";

    if (!node->image_volumes)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "%s: image volumes are not supported (mount '%s')", prefix,
                       m->container_path);
    if (m->host_path[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s: mount '%s' has both an image and host_path",
                       prefix, m->container_path);
    if (!m->readonly)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "%s: mount '%s' is an image and has to be readonly", prefix,
                       m->container_path);
    if (m->propagation != PROPAGATION(PRIVATE))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "%s: mount '%s' is an image and cannot be propagated", prefix,
                       m->container_path);
    if (m->image_sub_path[0] == '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s: image_sub_path '%s' is not relative",
                       prefix, m->image_sub_path);
    for (const char *s = m->image_sub_path; *s; s += strcspn(s, "/"), s += *s == '/')
        if (strcspn(s, "/") == 2 && str_starts(s, ".."))
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s: image_sub_path '%s' has '..' in it",
                           prefix, m->image_sub_path);
    return 0;
}

/* Bits of mount_options; -1: unknown */
static int option_flag(const char *s)
{
    return strcmp(s, "noexec") == 0 ? PLAN_NOEXEC :
           strcmp(s, "nodev") == 0  ? PLAN_NODEV :
           strcmp(s, "nosuid") == 0 ? PLAN_NOSUID : -1;
}

static int check_options(const mount_config *m, const struct spec_node *node, struct err *err)
{
    for (size_t i = 0; i < m->n_mount_options; i++)
        if (option_flag(m->mount_options[i]) < 0)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': unknown mount option '%.64s'",
                           m->container_path, m->mount_options[i]);
    if ((int)m->propagation < 0 || m->propagation > PROPAGATION(BIDIRECTIONAL))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': unknown propagation %d",
                       m->container_path, (int)m->propagation);
    if ((m->n_uidmappings || m->n_gidmappings) && !node->userns)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': id mappings are not supported",
                       m->container_path);
    if (!m->recursive_read_only)
        return 0;
    if (!m->readonly)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': recursive_read_only needs readonly",
                       m->container_path);
    if (m->propagation != PROPAGATION(PRIVATE))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "mount '%s': recursive_read_only needs propagation PROPAGATION_PRIVATE",
                       m->container_path);
    if (!node->rro)
        return err_rpc(err, GRPC_FAILED_PRECONDITION,
                       "RROUnsupported: mount '%s': this kernel has no recursive read-only mounts",
                       m->container_path);
    return 0;
}

/* /proc and what the kernel generates in it must not be replaced by what the host's files say
 * (masks and labels rest on it); but for the few that lxcfs and the like provide. */
static int check_proc(const char *path, int source, struct err *err)
{
    static const char *const fine[] = { "/proc/cpuinfo",
                                        "/proc/diskstats",
                                        "/proc/meminfo",
                                        "/proc/stat",
                                        "/proc/swaps",
                                        "/proc/uptime",
                                        "/proc/loadavg",
                                        "/proc/slabinfo",
                                        "/proc/net/dev",
                                        "/proc/sys/kernel/ns_last_pid",
                                        "/proc/sys/crypto/fips_enabled" };
    struct statfs fs;

    if (!spec_path_below(path, "/proc"))
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(fine); i++)
        if (strcmp(path, fine[i]) == 0)
            return 0;
    if (strcmp(path, "/proc") == 0 && source >= 0 && fstatfs(source, &fs) == 0 &&
        fs.f_type == PROC_SUPER_MAGIC)
        return 0;
    return err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': nothing can be mounted there", path);
}

static int check_propagation(const mount_config *m, int fd, struct err *err)
{
    auto_free char *tags = NULL, *point = NULL;
    bool shared, slave;
    int r;

    if (m->propagation == PROPAGATION(PRIVATE))
        return 0;
    r = spec_host_mount(fd, &tags, &point);
    if (r < 0)
        return err_code(err, r, "mount '%s': find the mount of '%s'", m->container_path,
                        m->host_path);
    shared = strstr(tags, "shared:") != NULL;
    slave = strstr(tags, "master:") != NULL;
    if (m->propagation == PROPAGATION(BIDIRECTIONAL) && !shared)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "mount '%s': path '%s' is mounted on '%s' but it is not a shared mount",
                       m->container_path, m->host_path, point);
    if (!shared && !slave)
        return err_rpc(
            err, GRPC_INVALID_ARGUMENT,
            "mount '%s': path '%s' is mounted on '%s' but it is not a shared or slave mount",
            m->container_path, m->host_path, point);
    return 0;
}

static int check_source(const mount_config *m, const char *path, const struct spec_node *node,
                        struct err *err)
{
    auto_fd int fd = -1;
    int r = spec_host_open(m->host_path, &fd);

    if (r == -ENOENT && node->create_missing_host_paths)
        return check_proc(path, -1, err);
    if (r == -ENOENT)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': host path '%s' does not exist",
                       m->container_path, m->host_path);
    if (r < 0)
        return err_code(err, r, "mount '%s': host path '%s'", m->container_path, m->host_path);
    if (r > 0)
        return check_proc(path, -1, err);
    r = check_proc(path, fd, err);
    return r < 0 ? r : check_propagation(m, fd, err);
}

int spec_check_mounts(const container_config *c, const struct spec_node *node, struct err *err)
{
    struct pool p = POOL_INIT;
    int r = 0;

    if (c->n_mounts > MOUNTS_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "more than %d mounts", MOUNTS_MAX);
    for (size_t i = 0; i < c->n_mounts && r == 0; i++) {
        const mount_config *m = c->mounts[i];
        const char *path = spec_path_clean(&p, m->container_path);

        if (m->container_path[0] != '/' || !path[1])
            r = err_rpc(err, GRPC_INVALID_ARGUMENT,
                        "mount: container_path '%s' is not an absolute path%s", m->container_path,
                        m->container_path[0] == '/' ? " below the root" : "");
        if (r == 0)
            r = check_options(m, node, err);
        if (r == 0 && is_image(m)) {
            r = check_image(m, node, err);
            if (r == 0)
                r = check_proc(path, -1, err);
            continue;
        }
        if (r == 0 && m->image_sub_path[0])
            r = err_rpc(err, GRPC_INVALID_ARGUMENT, "mount '%s': image_sub_path without an image",
                        m->container_path);
        if (r == 0 && m->host_path[0] != '/')
            r = err_rpc(err, GRPC_INVALID_ARGUMENT,
                        "mount '%s': host_path '%s' is not an absolute path", m->container_path,
                        m->host_path);
        if (r == 0 && m->selinux_relabel && node->selinux_process &&
            selinux_is_system(spec_path_clean(&p, m->host_path)))
            r = err_rpc(err, GRPC_INVALID_ARGUMENT,
                        "mount '%s': selinux_relabel of '%s' is not allowed", m->container_path,
                        m->host_path);
        if (r == 0)
            r = check_source(m, path, node, err);
    }
    pool_deinit(&p);
    return r;
}

/* --- the table */

struct table {
    struct plan_mount *v;
    size_t n;
    char **asked;                    /* container paths of the request, clean */
    size_t n_asked;
};

static void add(struct table *t, const struct plan_mount *m)
{
    for (size_t i = 0; i < t->n_asked; i++)
        if (spec_path_below(m->target, t->asked[i]))
            return;
    t->v[t->n++] = *m;
}

static size_t depth(const char *path)
{
    size_t n = 0;

    for (; *path; path++)
        n += path[0] == '/' && path[1];
    return n;
}

/* Insertion: stable, and the table is nearly sorted and short. */
static void sort(struct plan_mount *v, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct plan_mount m = v[i];
        size_t k = i;

        for (; k > 0 && depth(v[k - 1].target) > depth(m.target); k--)
            v[k] = v[k - 1];
        v[k] = m;
    }
}

/* /proc, /sys and /dev/mqueue show a namespace, and only who has rights over that one can mount
 * them: in a user namespace they come from the host where the namespace is the host's. Without what
 * is mounted below there, as a new mount would be. */
struct defaults {
    bool privileged, host_ipc;
    bool host_proc, host_sys, host_mqueue;
    bool tty_group;                  /* group 5 is there: devpts(5) */
    const char *cgroup1;             /* as plan_mount.lower; or NULL */
};

static void add_defaults(struct table *t, const struct defaults *d)
{
    const unsigned strict = PLAN_NOSUID | PLAN_NOEXEC | PLAN_NODEV,
                   ro = d->privileged ? 0 : PLAN_RDONLY;
    const struct plan_mount mounts[] = {
        { .kind = PLAN_MOUNT_FS,
          .flags = strict,
          .source = "proc",
          .target = "/proc",
          .fstype = "proc" },
        { .kind = PLAN_MOUNT_FS,
          .flags = PLAN_NOSUID | PLAN_STRICTATIME,
          .source = "tmpfs",
          .target = "/dev",
          .fstype = "tmpfs",
          .data = "mode=755,size=65536k" },
        { .kind = PLAN_MOUNT_FS,
          .flags = strict | ro,
          .source = "sysfs",
          .target = "/sys",
          .fstype = "sysfs" },
        { .kind = PLAN_MOUNT_FS,
          .flags = PLAN_NOSUID | PLAN_NOEXEC,
          .source = "devpts",
          .target = "/dev/pts",
          .fstype = "devpts",
          .data = d->tty_group ? "newinstance,ptmxmode=0666,mode=0620,gid=5"
                               : "newinstance,ptmxmode=0666,mode=0620" },
        { .kind = PLAN_MOUNT_FS,
          .flags = strict,
          .source = "mqueue",
          .target = "/dev/mqueue",
          .fstype = "mqueue" },
        { .kind = PLAN_MOUNT_CGROUP,
          .flags = strict | PLAN_RELATIME | ro,
          .source = "cgroup",
          .target = "/sys/fs/cgroup",
          .fstype = "cgroup",
          .lower = d->cgroup1 },
    };
    const struct plan_mount shm = {
        .kind = PLAN_MOUNT_SHM, .flags = strict, .source = "shm", .target = "/dev/shm"
    };
    const struct plan_mount host_shm = {          /* with the flags that it has there */
        .kind = PLAN_MOUNT_BIND, .source = "/dev/shm", .target = "/dev/shm"
    };
    const struct plan_mount host[] = {
        { .kind = PLAN_MOUNT_BIND,
          .flags = strict,
          .source = "/proc",
          .target = "/proc" },
        { .kind = PLAN_MOUNT_BIND,
          .flags = strict | ro,
          .source = "/sys",
          .target = "/sys" },
        { .kind = PLAN_MOUNT_BIND,
          .flags = strict | PLAN_OPTIONAL,
          .source = "/dev/mqueue",
          .target = "/dev/mqueue" },
    };
    const bool take[] = { d->host_proc, d->host_sys, d->host_mqueue };

    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        const struct plan_mount *m = &mounts[i];

        for (size_t k = 0; k < ARRAY_LEN(host); k++)
            if (take[k] && strcmp(mounts[i].target, host[k].target) == 0)
                m = &host[k];
        add(t, m);
    }
    add(t, d->host_ipc ? &host_shm : &shm);
}

static void add_pod_files(struct table *t, const struct spec_input *in, struct pool *p,
                          const char *label)
{
    static const char *const files[] = { "hostname", "hosts", "resolv.conf" };
    const container_sec *sec = spec_sec(in->config);

    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        add(t, &(struct plan_mount){ .kind = PLAN_MOUNT_BIND,
                                     .flags = sec && sec->readonly_rootfs ? PLAN_RDONLY : 0,
                                     .source = pool_printf(p, "%s/%s", in->pod_dir, files[i]),
                                     .label = label,
                                     .target = pool_printf(p, "/etc/%s", files[i]) });
}

static const char *volume_lower(const struct spec_input *in, const mount_config *m)
{
    for (size_t i = 0; i < in->n_volumes; i++)
        if (strcmp(in->volumes[i].container_path, m->container_path) == 0)
            return in->volumes[i].lower;
    return "";
}

static struct plan_mount asked_mount(const struct spec_input *in, const mount_config *m,
                                     const char *target, const char *label)
{
    struct plan_mount pm = {
        .kind = PLAN_MOUNT_BIND, .flags = PLAN_RECURSIVE, .source = m->host_path, .target = target
    };

    for (size_t i = 0; i < m->n_mount_options; i++)
        pm.flags |= (unsigned)option_flag(m->mount_options[i]);
    if (m->n_uidmappings || m->n_gidmappings)
        pm.flags |= PLAN_IDMAP;
    if (is_image(m)) {
        pm.kind = PLAN_MOUNT_OVERLAY;
        pm.flags = (pm.flags & ~(unsigned)PLAN_RECURSIVE) | PLAN_RDONLY;
        pm.source = m->image_sub_path;
        pm.lower = volume_lower(in, m);
        return pm;
    }
    if (m->selinux_relabel)
        pm.label = label;
    if (m->readonly)
        pm.flags |= m->recursive_read_only ? PLAN_RDONLY_REC : PLAN_RDONLY;
    if (in->node->create_missing_host_paths)
        pm.flags |= PLAN_CREATE_SOURCE;
    pm.propagation = m->propagation == PROPAGATION(BIDIRECTIONAL)     ? PLAN_SHARED :
                     m->propagation == PROPAGATION(HOST_TO_CONTAINER) ? PLAN_SLAVE : PLAN_PRIVATE;
    return pm;
}

void spec_build_mounts(const struct spec_input *in, struct pool *p, const struct cdi_edits *edits,
                       struct plan *plan)
{
    const container_config *c = in->config;
    size_t n_volumes = in->image ? in->image->n_volumes : 0, n_edits = edits ? edits->n_mounts : 0;
    const Runtime__V1__NamespaceOption *ns = spec_ns(c), *pod = spec_sandbox_ns(in->sandbox);
    struct table t = { .n_asked = c->n_mounts };
    const Runtime__V1__UserNamespace *u = spec_userns(in->sandbox);
    bool host_ipc = (ns && ns->ipc == RUNTIME__V1__NAMESPACE_MODE__NODE) ||
                    (pod && pod->ipc == RUNTIME__V1__NAMESPACE_MODE__NODE);
    struct defaults d = {
        .privileged = spec_is_privileged(c),
        .host_ipc = host_ipc,
        .host_proc = u && plan->pidns == PLAN_PID_HOST,
        .host_sys = u && plan->host_net,
        .host_mqueue = u && host_ipc,
        .tty_group = !u || u->gids[0]->length > TTY_GROUP,
        .cgroup1 = in->cgroup && *cgroup1_dirs()
                       ? pool_printf(p, "%s%s", cgroup1_dirs(), in->cgroup) : NULL,
    };

    const char *process = spec_selinux(in, p);
    /* The pod's files are for all of its containers, which may have categories of their own. A
     * volume is relabelled for this one (":Z"), as containerd and CRI-O do. */
    const char *shared = process ? selinux_file(p, process, in->node, true) : NULL;
    const char *label = process ? selinux_file(p, process, in->node, false) : NULL;

    t.v = pool_alloc(p, (16 + n_volumes + c->n_mounts + n_edits) * sizeof *t.v);
    t.asked = pool_alloc(p, (c->n_mounts + 1) * sizeof *t.asked);
    for (size_t i = 0; i < c->n_mounts; i++)
        t.asked[i] = spec_path_clean(p, c->mounts[i]->container_path);
    add_defaults(&t, &d);
    add_pod_files(&t, in, p, shared);
    for (size_t i = 0; i < n_volumes; i++) {
        const char *path = spec_path_clean(p, in->image->volumes[i]);

        if (path[1])
            add(&t,
                &(struct plan_mount){ .kind = PLAN_MOUNT_SELF, .source = path, .target = path });
    }
    for (size_t i = 0; i < c->n_mounts; i++)
        t.v[t.n++] = asked_mount(in, c->mounts[i], t.asked[i], label);
    for (size_t i = 0; i < n_edits; i++)
        t.v[t.n++] = spec_cdi_mount(p, &edits->mounts[i]);
    /* what comes from the host has to get through the root as well */
    for (size_t i = 0; i < t.n; i++)
        if (t.v[i].propagation > plan->rootfs_propagation)
            plan->rootfs_propagation = t.v[i].propagation;
    sort(t.v, t.n);
    plan->mounts = t.v;
    plan->n_mounts = t.n;
}
