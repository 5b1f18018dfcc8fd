/* SPDX-License-Identifier: Apache-2.0 */
/* A launch's visit to the host's mount namespace: every bind source, the layers and the upper
 * directory, image volumes, device nodes and cgroup directories are cloned by open_tree(2) into
 * detached mounts, which mounts.c attaches in the container's. Only here can a source be a peer of
 * the host's mount, so that what is mounted later goes both ways. */
#include "mounts.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

/* ---- mountinfo: "36 35 98:0 /root /mnt rw,noatime master:1 shared:2 - ext3 /dev/root rw" */

struct minfo {
    int fd;
    size_t n, at;
    char buf[4096];
};

/* The next line, NUL terminated; a line longer than the buffer is cut. NULL at the end. */
static char *minfo_line(struct minfo *i)
{
    for (;;) {
        char *nl = memchr(i->buf + i->at, '\n', i->n - i->at), *line = i->buf + i->at;
        if (nl) {
            *nl = '\0';
            i->at = (size_t)(nl - i->buf) + 1;
            return line;
        }
        memmove(i->buf, i->buf + i->at, i->n - i->at);
        i->n -= i->at;
        i->at = 0;
        if (i->n == sizeof i->buf)
            i->n = sizeof i->buf / 2;
        ssize_t r = read(i->fd, i->buf + i->n, sizeof i->buf - i->n);
        if (r <= 0)
            return NULL;
        i->n += (size_t)r;
    }
}

static char *field(char **p)
{
    char *s = *p, *e = s + strcspn(s, " ");

    *p = *e ? e + 1 : e;
    *e = '\0';
    return s;
}

static bool starts(const char *s, const char *with)
{
    return strncmp(s, with, strlen(with)) == 0;
}

/* Is the mount that src is on shared (or, where slave will do, a slave)? Kubelet's mountPropagation
 * asks for it, and without it a later mount would silently not arrive. */
static void check_propagation(const struct launch *l, const struct wire_mount *m, const char *src)
{
    uint64_t sx[32] = { 0 }, id;     /* struct statx: musl 1.2.3 has none */
    struct minfo i = { .n = 0 };
    char *line, *point = NULL;
    bool shared = false, slave = false;

    if (syscall(SYS_statx, AT_FDCWD, src, AT_NO_AUTOMOUNT, 0x1000 /* STATX_MNT_ID */, sx) < 0)
        child_fail(l, errno, "mount '%s'", src);
    id = sx[0x90 / 8];               /* stx_mnt_id */
    i.fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    if (i.fd < 0)
        child_fail(l, errno, "open '/proc/self/mountinfo'");
    while ((line = minfo_line(&i))) {
        uint64_t n = 0;
        for (const char *d = field(&line); *d >= '0' && *d <= '9'; d++)
            n = n * 10 + (uint64_t)(*d - '0');
        if (n != id)
            continue;
        (void)field(&line), (void)field(&line), (void)field(&line);
        point = field(&line);
        (void)field(&line);
        for (char *f = field(&line); *f && strcmp(f, "-") != 0; f = field(&line)) {
            shared |= starts(f, "shared:");
            slave |= starts(f, "master:");
        }
        break;
    }
    close(i.fd);
    if (m->propagation == WIRE_SHARED && !shared)
        child_fail(l, -EINVAL, "path '%s' is mounted on '%s' but it is not a shared mount", src,
                   point ? point : "?");
    if (m->propagation == WIRE_SLAVE && !shared && !slave)
        child_fail(l, -EINVAL, "path '%s' is mounted on '%s' but it is not a shared or slave mount",
                   src, point ? point : "?");
}

/* ---- in the host's mount namespace */

/* A space is \040 there; in place. */
static void unescape(char *s)
{
    char *to = s;

    for (; *s; s++)
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + s[3] - '0');
            s += 3;
        } else {
            *to++ = *s;
        }
    *to = '\0';
}

int host_mount_of(const char *fstype, char *buf, size_t len)
{
    struct minfo i = { .fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC) };
    char *line;
    bool found = false;

    if (i.fd < 0)
        return -1;
    while (!found && (line = minfo_line(&i))) {
        (void)field(&line), (void)field(&line), (void)field(&line);
        const char *root = field(&line);
        char *point = field(&line);
        char *rest = strstr(line, " - ");
        if (!rest)
            continue;
        rest += 3;
        found = strcmp(field(&rest), fstype) == 0 && strcmp(root, "/") == 0;
        if (found) {
            unescape(point);
            snprintf(buf, len, "%s", point);
            found = strlen(point) < len;
        }
    }
    close(i.fd);
    errno = ENOENT;
    return found ? 0 : -1;
}

enum { LABEL_DEPTH = 256 };

static int label_one(int fd, const char *label)
{
    char path[64], old[512];
    size_t len = strlen(label);

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = getxattr(path, SELINUX_XATTR, old, sizeof old);
    if (n >= (ssize_t)len && memcmp(old, label, len) == 0 && (n == (ssize_t)len || !old[len]))
        return 0;                    /* nothing to write, which may well be all of a volume */
    return setxattr(path, SELINUX_XATTR, label, len + 1, 0) < 0 ? -errno : 0;
}

/* Kubelet asks for the whole tree. Closes fd. What cannot have a label is left, as is what goes
 * meanwhile. No readdir(3): it allocates. */
static int relabel(int fd, const char *label, int depth)
{
    char buf[1024];
    int r = label_one(fd, label);
    int d = r < 0 ? -1 : openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (r == 0 && d < 0 && errno != ENOTDIR)
        r = -errno;
    close(fd);
    if (d >= 0 && depth == LABEL_DEPTH)
        r = -ENAMETOOLONG;
    for (long n; r == 0 && d >= 0 && (n = syscall(SYS_getdents64, d, buf, sizeof buf)) != 0;) {
        if (n < 0)
            r = -errno;
        for (long at = 0; at < n && r == 0;) {
            const char *e = buf + at;            /* struct linux_dirent64 */
            unsigned short len;
            memcpy(&len, e + 16, sizeof len);
            at += len;
            if (strcmp(e + 19, ".") == 0 || strcmp(e + 19, "..") == 0)
                continue;
            int c = openat(d, e + 19, O_PATH | O_NOFOLLOW | O_CLOEXEC);
            r = c < 0 ? -errno : relabel(c, label, depth + 1);
            if (r == -ENOENT)
                r = 0;
        }
    }
    if (d >= 0)
        close(d);
    return r == -EOPNOTSUPP ? 0 : r;
}

size_t common_dir(const char *list)
{
    size_t n = strcspn(list, ":");

    while (n && list[n - 1] != '/')
        n--;
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ":");
        while (n && (len < n || strncmp(p, list, n) != 0)) {
            n--;
            while (n && list[n - 1] != '/')
                n--;
        }
        p += len + (p[len] == ':');
    }
    return n;
}

static int clone_dir(const struct launch *l, const char *path, size_t n, bool idmap)
{
    char p[PATH_MAX];

    if (n == 0 || n >= sizeof p)
        child_fail(l, EINVAL, "layers '%.200s' have no common directory", path);
    memcpy(p, path, n);
    p[n] = '\0';
    /* what is mounted below comes along, but not into a mapped clone: not every file system can be
     * mapped */
    int fd = sys_open_tree(AT_FDCWD, p, idmap ? 0 : AT_RECURSIVE);
    if (fd < 0)
        child_fail(l, errno, "open '%s'", p);
    if (sys_setattr(fd, AT_RECURSIVE, 0, 0, MS_PRIVATE, -1) < 0)
        child_fail(l, errno, "make '%s' private", p);
    if (idmap && sys_setattr(fd, 0, MOUNT_ATTR_IDMAP, 0, 0, pod.user) < 0)
        child_fail(l, errno, "map the owners of '%s'", p);
    return fd;
}

static void mkdirs(const struct launch *l, const char *path)
{
    char p[PATH_MAX];
    size_t n = strlen(path);

    if (mkdir(path, 0755) == 0 || errno == EEXIST)
        return;
    if (n == 0 || n >= sizeof p)
        child_fail(l, n ? ENAMETOOLONG : ENOENT, "mkdir '%.200s'", path);
    memcpy(p, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (p[i] != '/' && p[i] != '\0')
            continue;
        char c = p[i];
        p[i] = '\0';
        if (mkdir(p, 0755) < 0 && errno != EEXIST)
            child_fail(l, errno, "mkdir '%s'", p);
        p[i] = c;
    }
}

static void source_bind(const struct launch *l, struct wire_mount *m)
{
    const char *src = view_str(l->base, m->source);
    struct statfs fs;

    if (!src)
        child_fail(l, EINVAL, "mount '%s' without a source", view_str(l->base, m->target));
    m->fd = sys_open_tree(AT_FDCWD, src, m->flags & WIRE_M_RECURSIVE ? AT_RECURSIVE : 0);
    if (m->fd < 0 && errno == ENOENT && (m->flags & WIRE_M_CREATE_SOURCE)) {
        mkdirs(l, src);
        m->fd = sys_open_tree(AT_FDCWD, src, m->flags & WIRE_M_RECURSIVE ? AT_RECURSIVE : 0);
    }
    if (m->fd < 0 && errno == ENOENT && (m->flags & WIRE_M_OPTIONAL)) {
        m->fd = FD_SKIP;
        return;
    }
    if (m->fd < 0)
        child_fail(l, errno, "mount '%s'", src);
    if (m->propagation != WIRE_PRIVATE)
        check_propagation(l, m, src);
    if (m->label) {
        int fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 3);
        int r = fd < 0 ? -errno : relabel(fd, view_str(l->base, m->label), 0);
        if (r < 0)
            child_fail(l, -r, "relabel '%s' as '%s'", src, view_str(l->base, m->label));
    }
    if (dress(m->fd, m) == 0)
        return;
    if (errno == EINVAL && (m->flags & WIRE_M_IDMAP))
        child_fail(l, EINVAL, "map the owners of mount '%s'%s", src,
                   fstatfs(m->fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC
                       ? " (on tmpfs: since Linux 6.3)" : "");
    child_fail(l, errno, "flags of mount '%s'", src);
}

/* A device node of the host, for where mknod(2) is refused (user namespaces, ourselves in a
 * container). */
static void source_device(const struct launch *l, struct wire_device *d)
{
    const char *path = view_str(l->base, d->source ? d->source : d->path);
    struct stat st;

    if ((d->mode & S_IFMT) == S_IFIFO)
        return;
    if (stat(path, &st) < 0)
        child_fail(l, errno, "device '%s'", path);
    if (st.st_rdev != makedev(d->major, d->minor) || (st.st_mode & S_IFMT) != (d->mode & S_IFMT))
        child_fail(l, EPERM, "device '%s' cannot be made, and the host's is another one", path);
    d->fd = sys_open_tree(AT_FDCWD, path, 0);
    /* read-only: the device can be written, but its owner and mode are the host's business */
    if (d->fd < 0 || sys_setattr(d->fd, 0, MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, -1) < 0)
        child_fail(l, errno, "device '%s'", path);
}

/* The host's hierarchies, each from the container's own directory down: what a cgroup namespace
 * would show. */
static void source_cgroup1(const struct launch *l, struct roots *r, const struct wire_mount *m)
{
    const char *names = view_str(l->base, m->lower), *own = names ? strchr(names, '/') : NULL;
    char path[PATH_MAX];

    if (!own)
        child_fail(l, EINVAL, "mount '%s' without hierarchies", view_str(l->base, m->target));
    for (size_t n; names < own; names += n + (names[n] == ':')) {
        struct cgmount *c = &r->cg[r->n_cg];

        n = strcspn(names, ":/");
        if (r->n_cg == WIRE_FDS_MAX || n >= sizeof c->name)
            child_fail(l, E2BIG, "mount '%s': hierarchies", view_str(l->base, m->target));
        memcpy(c->name, names, n);
        c->name[n] = '\0';
        if ((size_t)snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s", c->name, own) >= sizeof path)
            child_fail(l, ENAMETOOLONG, "cgroup '%.200s'", own);
        c->fd = sys_open_tree(AT_FDCWD, path, 0);
        if (c->fd < 0 || sys_setattr(c->fd, 0, attr_of(m->flags), 0, MS_PRIVATE, -1) < 0)
            child_fail(l, errno, "mount '%s'", path);
        r->n_cg++;
    }
}

static bool host_is_cgroup2(void)
{
    return access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
}

static void source_cgroup(const struct launch *l, struct roots *r, struct wire_mount *m)
{
    if (!host_is_cgroup2()) {
        source_cgroup1(l, r, m);
        return;
    }
    if (l->plan->flags & WIRE_OWN_CGROUPNS)
        return;                      /* a mount of its own, later */
    m->fd = sys_open_tree(AT_FDCWD, "/sys/fs/cgroup", AT_RECURSIVE);
    if (m->fd < 0 || dress(m->fd, m) < 0)
        child_fail(l, errno, "mount '/sys/fs/cgroup'");
}

void take_sources(const struct launch *l, struct roots *r)
{
    const struct wire_plan *p = l->plan;
    const char *lower = view_str(l->base, p->lower), *upper = view_str(l->base, p->upper);
    const char *work = view_str(l->base, p->work);
    char both[2 * PATH_MAX];

    r->lower_cut = common_dir(lower);
    r->lower = clone_dir(l, lower, r->lower_cut, l->userns);
    mkdirs(l, upper);
    mkdirs(l, work);
    if ((size_t)snprintf(both, sizeof both, "%s:%s", upper, work) >= sizeof both)
        child_fail(l, ENAMETOOLONG, "upper directory");
    r->upper_cut = common_dir(both);
    /* Not mapped: overlay makes its own files here as the host's root, whom a mapped mount does not
     * know. What the container writes is stored under the ids that the host sees. */
    r->upper = clone_dir(l, both, r->upper_cut, false);
    if (l->userns && chown(upper, host_uid(0), host_gid(0)) < 0)
        child_fail(l, errno, "owner of '%s'", upper);
    for (uint32_t i = 0; i < p->mounts.count; i++) {
        struct wire_mount *m = view_at(l->base, &p->mounts, i);
        m->fd = -1;
        if (m->kind > WIRE_MOUNT_CGROUP || (m->flags & ~(uint32_t)WIRE_M_ALL) ||
            m->propagation > WIRE_SHARED)
            child_fail(l, ENOSYS, "mount '%s': not known to this cricket-pod",
                       view_str(l->base, m->target));
        if (m->kind == WIRE_MOUNT_BIND)
            source_bind(l, m);
        else if (m->kind == WIRE_MOUNT_SHM && pod.ipc < 0) {
            m->fd = sys_open_tree(AT_FDCWD, "/dev/shm", 0);
            if (m->fd < 0 || dress(m->fd, m) < 0)
                child_fail(l, errno, "mount '/dev/shm'");
        } else if (m->kind == WIRE_MOUNT_OVERLAY) {
            if (!m->lower)
                child_fail(l, EINVAL, "image volume '%s' without layers",
                           view_str(l->base, m->target));
            lower = view_str(l->base, m->lower);
            m->fd =
                clone_dir(l, lower, common_dir(lower), (m->flags & WIRE_M_IDMAP) && pod.user >= 0);
        } else if (m->kind == WIRE_MOUNT_CGROUP)
            source_cgroup(l, r, m);
    }
    for (uint32_t i = 0; i < p->devices.count; i++) {
        struct wire_device *d = view_at(l->base, &p->devices, i);
        d->fd = -1;
        if (l->userns || pod.no_mknod)
            source_device(l, d);
    }
}
