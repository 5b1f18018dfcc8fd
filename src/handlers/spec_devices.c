/* SPDX-License-Identifier: Apache-2.0 */
/* Device nodes of a container and the rules of its device cgroup: the OCI defaults, what the
 * request names (links followed, directories with all that is below), or all of the host's for a
 * privileged container. */
#include "handlers/spec_impl.h"
#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { DEVICES_MAX = 2048, DEVICE_DEPTH_MAX = 8 };

static const struct {
    const char *path;
    unsigned major, minor;
} nodes[] = {
    { "/dev/null", 1, 3 }, { "/dev/zero", 1, 5 }, { "/dev/full", 1, 7 }, { "/dev/random", 1, 8 },
    { "/dev/urandom", 1, 9 }, { "/dev/tty", 5, 0 },
};

/* As runc has it: any node may be made, these may be used; 10:200 is /dev/net/tun. Not the node's
 * own console (5:1): the container's is a terminal of its devpts. */
static const struct cgroup_device_rule rules[] = {
    { 'c', -1, -1, true, "m" },   { 'b', -1, -1, true, "m" },  { 'c', 1, 3, true, "rwm" },
    { 'c', 1, 5, true, "rwm" },   { 'c', 1, 7, true, "rwm" },  { 'c', 1, 8, true, "rwm" },
    { 'c', 1, 9, true, "rwm" },   { 'c', 5, 0, true, "rwm" },  { 'c', 5, 2, true, "rwm" },
    { 'c', 10, 200, true, "rwm" }, { 'c', 136, -1, true, "rwm" },
};

struct found {
    struct pool *p;
    struct plan_device *v;
    struct cgroup_device_rule *rules;
    size_t n, n_rules;
    const char *access;
};

static bool is_device(const struct stat *st)
{
    return S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
}

static int add(struct found *f, const char *path, const char *source, const struct stat *st,
               struct err *err)
{
    struct plan_device d = { .path = path,
                             .source = source,
                             .mode = st->st_mode,
                             .major = major(st->st_rdev),
                             .minor = minor(st->st_rdev),
                             .uid = st->st_uid,
                             .gid = st->st_gid };
    struct cgroup_device_rule r = { S_ISCHR(st->st_mode) ? 'c' : 'b', d.major, d.minor, true, "" };
    size_t i;

    if (f->n == DEVICES_MAX || f->n_rules == DEVICES_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "more than %d devices", DEVICES_MAX);
    f->v = mem_grow(f->v, f->n + 1, sizeof *f->v);
    f->rules = mem_grow(f->rules, f->n_rules + 1, sizeof *f->rules);
    for (i = 0; i < f->n && strcmp(f->v[i].path, path) != 0; i++)
        ;
    f->v[i] = d;
    f->n += i == f->n;
    snprintf(r.access, sizeof r.access, "%s", f->access);
    if (is_device(st))               /* a FIFO needs none */
        f->rules[f->n_rules++] = r;
    return 0;
}

/* All devices below a directory of the host; links in it are left out. */
static int add_dir(struct found *f, int dir, const char *target, const char *source, int depth,
                   bool top, struct err *err)
{
    static const char *const skip[] = { "pts",     "ptmx", "shm",         "fd",   "mqueue",
                                        "console", ".lxc", ".lxd-mounts", ".udev" };
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        r = err_sys(err, "devices below '%s'", target);
        (void)fd_close(fd);
        return r;
    }
    while (r == 0 && depth < DEVICE_DEPTH_MAX && (e = readdir(d))) {
        const char *path, *from;
        struct stat st;
        bool skipped = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;

        for (size_t i = 0; i < ARRAY_LEN(skip) && top; i++)
            skipped |= strcmp(e->d_name, skip[i]) == 0;
        if (skipped || fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        path = pool_printf(f->p, "%s/%s", target, e->d_name);
        from = pool_printf(f->p, "%s/%s", source, e->d_name);
        if (is_device(&st)) {
            r = add(f, path, from, &st, err);
        } else if (S_ISDIR(st.st_mode)) {
            auto_fd int sub = openat(dir, e->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

            if (sub >= 0)
                r = add_dir(f, sub, path, from, depth + 1, false, err);
        }
    }
    (void)closedir(d);
    return r;
}

static int check_one(const Runtime__V1__Device *d, int *ret_fd, struct stat *st, struct err *err)
{
    int r;

    if (d->host_path[0] != '/' || d->container_path[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "device '%s' -> '%s': not absolute paths",
                       d->host_path, d->container_path);
    if (strlen(d->permissions) > 3 || d->permissions[strspn(d->permissions, "rwm")])
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "device '%s': permissions '%.16s' are not of \"rwm\"", d->host_path,
                       d->permissions);
    r = spec_host_open(d->host_path, ret_fd);
    if (r != 0)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "device '%s': %s", d->host_path,
                       r < 0 ? strerror(-r) : "is on a network file system");
    if (fstat(*ret_fd, st) < 0)
        return err_sys(err, "device '%s'", d->host_path);
    if (!is_device(st) && !S_ISDIR(st->st_mode))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "device '%s': not a device", d->host_path);
    return 0;
}

int spec_check_devices(const container_config *c, struct err *err)
{
    for (size_t i = 0; i < c->n_devices; i++) {
        auto_fd int fd = -1;
        struct stat st;
        int r = check_one(c->devices[i], &fd, &st, err);

        if (r < 0)
            return r;
    }
    return 0;
}

static int add_asked(struct found *f, const container_config *c, struct err *err)
{
    for (size_t i = 0; i < c->n_devices; i++) {
        const Runtime__V1__Device *d = c->devices[i];
        const char *target = spec_path_clean(f->p, d->container_path);
        auto_fd int fd = -1;
        struct stat st;
        int r = check_one(d, &fd, &st, err);

        if (r < 0)
            return r;
        f->access = d->permissions[0] ? d->permissions : "rwm";
        r = S_ISDIR(st.st_mode) ? add_dir(f, fd, target, d->host_path, 0, false, err)
                                : add(f, target, d->host_path, &st, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* As a spec file of CDI says; without an owner it is the container's user's. */
static int add_edits(struct found *f, const struct cdi_edits *e, const struct spec_user *user,
                     struct err *err)
{
    int r = 0;

    for (size_t i = 0; e && i < e->n_devices && r == 0; i++) {
        const struct cdi_device *d = &e->devices[i];
        struct stat st = { .st_mode = d->type | d->mode };

        st.st_rdev = makedev((unsigned)d->major, (unsigned)d->minor);
        st.st_uid = d->uid >= 0 ? (uid_t)d->uid : user->uid;
        st.st_gid = d->gid >= 0 ? (gid_t)d->gid : user->gid;
        f->access = d->permissions[0] ? d->permissions : "rwm";
        r = add(f, spec_path_clean(f->p, d->path), d->host_path, &st, err);
    }
    return r;
}

static bool has_own_dev(const container_config *c, struct pool *p)
{
    for (size_t i = 0; i < c->n_mounts; i++)
        if (strcmp(spec_path_clean(p, c->mounts[i]->container_path), "/dev") == 0)
            return true;
    return false;
}

static const struct plan_pair links[] = {
    { "/dev/fd", "/proc/self/fd" },
    { "/dev/stdin", "/proc/self/fd/0" },
    { "/dev/stdout", "/proc/self/fd/1" },
    { "/dev/stderr", "/proc/self/fd/2" },
    { "/dev/ptmx", "pts/ptmx" },
    { "/dev/core", "/proc/kcore" },  /* the last: not where the kernel has none */
};

static int find_all(struct found *f, const struct spec_input *in, bool privileged, struct err *err)
{
    int r = 0;

    f->rules = mem_dup(rules, sizeof rules);
    f->n_rules = ARRAY_LEN(rules);
    f->v = mem_array(ARRAY_LEN(nodes), sizeof *f->v);
    for (size_t i = 0; i < ARRAY_LEN(nodes); i++)
        f->v[f->n++] = (struct plan_device){ .path = nodes[i].path,
                                             .mode = S_IFCHR | 0666,
                                             .major = nodes[i].major,
                                             .minor = nodes[i].minor };
    if (privileged) {
        auto_fd int dev = open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC);

        r = dev < 0 ? err_sys(err, "/dev") : add_dir(f, dev, "/dev", "/dev", 0, true, err);
    }
    return r < 0 ? r : add_asked(f, in->config, err);
}

int spec_build_devices(const struct spec_input *in, struct pool *p, const struct cdi_edits *edits,
                       struct spec *s, struct err *err)
{
    struct found f = { .p = p, .access = "rwm" };
    int r = find_all(&f, in, s->privileged, err);

    if (r == 0)
        r = add_edits(&f, edits, in->user, err);
    if (r == 0 && !s->privileged) {
        s->device_rules = memcpy(pool_alloc(p, f.n_rules * sizeof *f.rules), f.rules,
                                 f.n_rules * sizeof *f.rules);
        s->n_device_rules = f.n_rules;
    }
    /* with a /dev of its own the request says what is in there; making nodes would make them on the
     * host */
    if (r == 0 && !has_own_dev(in->config, p)) {
        s->plan.devices = memcpy(pool_alloc(p, f.n * sizeof *f.v), f.v, f.n * sizeof *f.v);
        s->plan.n_devices = f.n;
        s->plan.symlinks = links;
        s->plan.n_symlinks = ARRAY_LEN(links) - (access("/proc/kcore", F_OK) < 0);
    }
    free(f.v);
    free(f.rules);
    return r;
}
