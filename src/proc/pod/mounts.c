/* SPDX-License-Identifier: Apache-2.0 */
/* The container's root, built by the child between clone3 and execve.
 *
 *   host's mount namespace:  every bind source, the layers and the upper directory -> detached clones (open_tree)
 *   a copy of ours:          layers on /l, upper on /u, overlay of them on /r
 *   [the user namespace:     and a mount namespace that it owns]
 *   /r:                      the mount table in order, devices, links, masks, read-only paths; pivot_root
 *
 * Nothing is unmounted on the way (each time would be a wait for RCU): all goes with the old root, at once.
 *
 * Container paths are resolved by openat2(RESOLVE_IN_ROOT) each time: a volume's content may be somebody else's, and a
 * symbolic link in it leads no further than the container's root. Nothing here allocates: the plan's own records have
 * room for the descriptors. */
#include "pod.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { FD_SKIP = -2 };

int sys_open_tree(int fd, const char *path, unsigned flags)
{
    return (int)syscall(SYS_open_tree, fd, path, flags | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

int sys_move_mount(int from, int to)
{
    return (int)syscall(SYS_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

int sys_setattr(int fd, unsigned flags, uint64_t set, uint64_t clr, uint64_t propagation, int userns)
{
    struct mount_attr a = { set, clr, propagation, userns >= 0 ? (uint64_t)userns : 0 };

    return (int)syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, &a, sizeof a);
}

int root_open(int root, const char *path, int flags)
{
    struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC), .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };

    return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

/* Opens the target of a mount; what is missing of it is made, a directory or an empty file. */
int root_make(int root, const char *path, bool dir)
{
    char p[PATH_MAX];
    size_t n = strlen(path), start = 0;
    int fd = root_open(root, path, O_PATH);

    if (fd >= 0 || errno != ENOENT)
        return fd;
    if (n >= sizeof p) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(p, path, n + 1);
    while (n > 1 && p[n - 1] == '/')
        p[--n] = '\0';
    while (start < n) {
        size_t end;
        int parent, r;

        while (p[start] == '/')
            start++;
        end = start + strcspn(p + start, "/");
        bool last = end >= n;
        p[end] = '\0';
        fd = root_open(root, p, O_PATH);
        if (fd < 0 && errno == ENOENT) {
            char c = p[start];
            p[start] = '\0';
            parent = start ? root_open(root, p, O_PATH | O_DIRECTORY) : fcntl(root, F_DUPFD_CLOEXEC, 3);
            p[start] = c;
            if (parent < 0)
                return -1;
            if (last && !dir) {
                r = openat(parent, p + start, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
                if (r >= 0)
                    close(r);
            } else
                r = mkdirat(parent, p + start, 0755);
            int saved = errno;
            close(parent);
            errno = saved;
            if (r < 0 && errno != EEXIST)
                return -1;
            fd = root_open(root, p, O_PATH);
        }
        if (fd < 0 || last)
            return fd;
        close(fd);
        p[end] = '/';
        start = end;
    }
    return root_open(root, p, O_PATH);
}

static uint64_t attr_of(uint32_t flags)
{
    return (flags & (WIRE_M_RDONLY | WIRE_M_RDONLY_REC) ? MOUNT_ATTR_RDONLY : 0) |
           (flags & WIRE_M_NOSUID ? MOUNT_ATTR_NOSUID : 0) | (flags & WIRE_M_NODEV ? MOUNT_ATTR_NODEV : 0) |
           (flags & WIRE_M_NOEXEC ? MOUNT_ATTR_NOEXEC : 0) | (flags & WIRE_M_STRICTATIME ? MOUNT_ATTR_STRICTATIME : 0);
}

static unsigned long ms_of(uint32_t flags)
{
    return (flags & (WIRE_M_RDONLY | WIRE_M_RDONLY_REC) ? MS_RDONLY : 0) | (flags & WIRE_M_NOSUID ? MS_NOSUID : 0) |
           (flags & WIRE_M_NODEV ? MS_NODEV : 0) | (flags & WIRE_M_NOEXEC ? MS_NOEXEC : 0) |
           (flags & WIRE_M_RELATIME ? MS_RELATIME : 0) | (flags & WIRE_M_STRICTATIME ? MS_STRICTATIME : 0);
}

/* Flags and propagation of a clone that is not attached yet. */
static int dress(int fd, const struct wire_mount *m)
{
    uint64_t set = attr_of(m->flags);
    uint64_t clr = m->flags & (WIRE_M_STRICTATIME | WIRE_M_RELATIME) ? MOUNT_ATTR__ATIME : 0;

    if (m->propagation != WIRE_SHARED &&
        sys_setattr(fd, AT_RECURSIVE, 0, 0, m->propagation == WIRE_SLAVE ? MS_SLAVE : MS_PRIVATE, -1) < 0)
        return -1;
    if ((m->flags & WIRE_M_IDMAP) && pod.user >= 0 &&
        sys_setattr(fd, m->flags & WIRE_M_RECURSIVE ? AT_RECURSIVE : 0, MOUNT_ATTR_IDMAP, 0, 0, pod.user) < 0)
        return -1;
    if ((m->flags & WIRE_M_RDONLY_REC) && sys_setattr(fd, AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0, -1) < 0)
        return -1;
    return set || clr ? sys_setattr(fd, 0, set, clr, 0, -1) : 0;
}

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

/* Is the mount that src is on shared (or, where slave will do, a slave)? Kubelet's mountPropagation asks for it, and
 * without it a later mount would silently not arrive. */
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
        child_fail(l, -EINVAL, "path '%s' is mounted on '%s' but it is not a shared mount", src, point ? point : "?");
    if (m->propagation == WIRE_SLAVE && !shared && !slave)
        child_fail(l, -EINVAL, "path '%s' is mounted on '%s' but it is not a shared or slave mount", src,
                   point ? point : "?");
}

/* ---- in the host's mount namespace */

static void relabel(const char *path, const char *label)
{
    (void)syscall(SYS_setxattr, path, "security.selinux", label, strlen(label) + 1, 0);
}

/* The longest directory, with its '/', that all paths of a ':' list begin with. */
static size_t common_dir(const char *list)
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
    /* what is mounted below comes along, but not into a mapped clone: not every file system can be mapped */
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
    if (m->label)
        relabel(src, view_str(l->base, m->label));
    if (dress(m->fd, m) < 0)
        child_fail(l, errno, "flags of mount '%s'", src);
}

/* A device node of the host, for where mknod(2) is refused (user namespaces, ourselves in a container). */
static void source_device(const struct launch *l, struct wire_device *d)
{
    const char *path = view_str(l->base, d->path);
    struct stat st;

    if ((d->mode & S_IFMT) == S_IFIFO)
        return;
    if (stat(path, &st) < 0)
        child_fail(l, errno, "device '%s'", path);
    if (st.st_rdev != makedev(d->major, d->minor) || (st.st_mode & S_IFMT) != (d->mode & S_IFMT))
        child_fail(l, EPERM, "device '%s' cannot be made, and the host's is another one", path);
    d->fd = sys_open_tree(AT_FDCWD, path, 0);
    if (d->fd < 0 || sys_setattr(d->fd, 0, 0, 0, MS_PRIVATE, -1) < 0)
        child_fail(l, errno, "device '%s'", path);
}

struct cgmount {                     /* one v1 hierarchy */
    char name[64];
    int fd;
};

struct roots {
    int lower, upper;                /* detached */
    size_t lower_cut, upper_cut;     /* bytes of the paths that they stand for */
    struct cgmount cg[WIRE_FDS_MAX];
    size_t n_cg;
};

/* Our path in the hierarchy whose mount has these super block options ("rw,cpu,cpuacct", "rw,name=systemd"). */
static bool own_cgroup(const char *options, char *buf, size_t len)
{
    struct minfo i = { .n = 0 };
    char *line;
    bool found = false;

    i.fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    if (i.fd < 0)
        return false;
    while (!found && (line = minfo_line(&i))) {   /* "4:cpu,cpuacct:/a/b" */
        char *ctl = strchr(line, ':'), *path = ctl ? strchr(ctl + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        ctl++;
        size_t n = strcspn(ctl, ",");
        for (const char *o = options; *o; o += strcspn(o, ","), o += *o == ',')
            if (n && strcspn(o, ",") == n && strncmp(o, ctl, n) == 0)
                found = true;
        if (found)
            snprintf(buf, len, "%s", path);
    }
    close(i.fd);
    return found;
}

/* The host's hierarchies, each from the container's own directory down: what a cgroup namespace would show. */
static void source_cgroup1(const struct launch *l, struct roots *r, const struct wire_mount *m)
{
    static const char top[] = "/sys/fs/cgroup/";
    struct minfo i = { .n = 0 };
    char *line, path[PATH_MAX], own[PATH_MAX];

    i.fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    if (i.fd < 0)
        child_fail(l, errno, "open '/proc/self/mountinfo'");
    while ((line = minfo_line(&i)) && r->n_cg < WIRE_FDS_MAX) {
        char *p = line;
        for (int k = 0; k < 4; k++)
            (void)field(&p);
        char *point = field(&p), *dash = strstr(p, "- cgroup ");
        if (!dash || !starts(point, top) || strchr(point + sizeof top - 1, '/'))
            continue;
        char *opts = dash + strlen("- cgroup ");
        (void)field(&opts);
        if (!own_cgroup(opts, own, sizeof own))
            continue;
        struct cgmount *c = &r->cg[r->n_cg];
        if ((size_t)snprintf(path, sizeof path, "%s%s", point, own) >= sizeof path)
            continue;
        snprintf(c->name, sizeof c->name, "%s", point + sizeof top - 1);
        c->fd = sys_open_tree(AT_FDCWD, path, 0);
        if (c->fd < 0 || sys_setattr(c->fd, 0, attr_of(m->flags), 0, MS_PRIVATE, -1) < 0)
            child_fail(l, errno, "mount '%s'", path);
        r->n_cg++;
    }
    close(i.fd);
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

static void take_sources(const struct launch *l, struct roots *r)
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
    /* Not mapped: overlay makes its own files here as the host's root, whom a mapped mount does not know. What the
     * container writes is stored under the ids that the host sees. */
    r->upper = clone_dir(l, both, r->upper_cut, false);
    if (l->userns && chown(upper, host_uid(0), host_gid(0)) < 0)
        child_fail(l, errno, "owner of '%s'", upper);
    for (uint32_t i = 0; i < p->mounts.count; i++) {
        struct wire_mount *m = view_at(l->base, &p->mounts, i);
        m->fd = -1;
        if (m->kind > WIRE_MOUNT_CGROUP || (m->flags & ~(uint32_t)WIRE_M_ALL) || m->propagation > WIRE_SHARED)
            child_fail(l, ENOSYS, "mount '%s': not known to this cricket-pod", view_str(l->base, m->target));
        if (m->kind == WIRE_MOUNT_BIND)
            source_bind(l, m);
        else if (m->kind == WIRE_MOUNT_SHM && pod.ipc < 0) {
            m->fd = sys_open_tree(AT_FDCWD, "/dev/shm", 0);
            if (m->fd < 0 || dress(m->fd, m) < 0)
                child_fail(l, errno, "mount '/dev/shm'");
        } else if (m->kind == WIRE_MOUNT_OVERLAY) {
            if (!m->lower)
                child_fail(l, EINVAL, "image volume '%s' without layers", view_str(l->base, m->target));
            lower = view_str(l->base, m->lower);
            m->fd = clone_dir(l, lower, common_dir(lower), (m->flags & WIRE_M_IDMAP) && pod.user >= 0);
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

/* ---- in the container's mount namespace */

static int open_path(const char *p)
{
    return open(p, O_PATH | O_CLOEXEC | O_DIRECTORY);
}

static void attach(const struct launch *l, int from, const char *to)
{
    int fd = open_path(to);

    if (fd < 0 || sys_move_mount(from, fd) < 0)
        child_fail(l, errno, "attach at '%s'", to);
    close(fd);
    close(from);
}

/* Adds a path to mount options: ',' and '\' would end or change it. */
static size_t add_path(char *o, size_t n, size_t cap, const char *p, size_t len)
{
    for (size_t i = 0; i < len && n + 3 < cap; i++) {
        if (p[i] == ',' || p[i] == '\\')
            o[n++] = '\\';
        o[n++] = p[i];
    }
    o[n] = '\0';
    return n;
}

/* "lowerdir=a:b" relative to the directory that stands for the first `cut` bytes of each. Mount data is one page. */
static size_t add_lower(const struct launch *l, char *o, size_t cap, const char *list, size_t cut)
{
    size_t n = (size_t)snprintf(o, cap, "lowerdir=");

    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ":");
        if (p != list)
            o[n++] = ':';
        if (len > cut)
            n = add_path(o, n, cap, p + cut, len - cut);
        else
            n = add_path(o, n, cap, ".", 1);
        if (n + 300 >= cap)
            child_fail(l, E2BIG, "too many layers for one overlay mount");
        p += len + (p[len] == ':');
    }
    return n;
}

static void mount_root(const struct launch *l, struct roots *r)
{
    char o[4096];
    const char *lower = view_str(l->base, l->plan->lower), *upper = view_str(l->base, l->plan->upper);
    const char *work = view_str(l->base, l->plan->work), *label = view_str(l->base, l->plan->mount_label);
    size_t n;

    attach(l, r->lower, "/l");
    attach(l, r->upper, "/u");
    if (chdir("/l") < 0)
        child_fail(l, errno, "chdir to the layers");
    n = add_lower(l, o, sizeof o, lower, r->lower_cut);
    n += (size_t)snprintf(o + n, sizeof o - n, ",upperdir=/u/");
    n = add_path(o, n, sizeof o, upper + r->upper_cut, strlen(upper + r->upper_cut));
    n += (size_t)snprintf(o + n, sizeof o - n, ",workdir=/u/");
    n = add_path(o, n, sizeof o, work + r->upper_cut, strlen(work + r->upper_cut));
    n += (size_t)snprintf(o + n, sizeof o - n, ",volatile");
    if (label)
        n += (size_t)snprintf(o + n, n < sizeof o ? sizeof o - n : 0, ",context=\"%s\"", label);
    if (n >= sizeof o)
        child_fail(l, E2BIG, "overlay mount options");
    if (mount("overlay", "/r", "overlay", 0, o) < 0)
        child_fail(l, errno, "mount overlay '%.300s'", o);
    if (chdir("/") < 0)
        child_fail(l, errno, "chdir '/'");
}

/* A read-only stack of layers, or one directory of it, as a detached mount. One layer needs no overlay. */
static void mount_image(const struct launch *l, struct wire_mount *m)
{
    char o[4096];
    const char *lower = view_str(l->base, m->lower), *sub = view_str(l->base, m->source);
    size_t cut = common_dir(lower);
    bool one = !strchr(lower, ':');
    int top, fd;

    attach(l, m->fd, "/l");
    if (one) {
        if ((size_t)snprintf(o, sizeof o, "/l/%s", lower + cut) >= sizeof o)
            child_fail(l, ENAMETOOLONG, "layer '%.200s'", lower);
        top = open_path(o);
    } else {
        if (chdir("/l") < 0)
            child_fail(l, errno, "chdir to the layers");
        (void)add_lower(l, o, sizeof o, lower, cut);
        if (mount("overlay", "/i", "overlay", MS_RDONLY, o) < 0)
            child_fail(l, errno, "mount image volume '%s'", view_str(l->base, m->target));
        top = open_path("/i");
    }
    if (top < 0)
        child_fail(l, errno, "image volume '%s'", view_str(l->base, m->target));
    fd = root_open(top, sub && *sub ? sub : ".", O_PATH);
    if (fd < 0)
        child_fail(l, errno, "image volume '%s': path '%s' in the image", view_str(l->base, m->target), sub);
    m->fd = sys_open_tree(fd, "", AT_EMPTY_PATH);
    m->flags |= WIRE_M_RDONLY;
    m->flags &= ~(uint32_t)WIRE_M_IDMAP;          /* the layers are mapped already */
    if (m->fd < 0 || dress(m->fd, m) < 0)
        child_fail(l, errno, "image volume '%s'", view_str(l->base, m->target));
    close(fd);
    close(top);
    if (chdir("/") < 0)
        child_fail(l, errno, "chdir '/'");
}

static void mount_fs(const struct launch *l, const char *type, int target, const char *path, uint32_t flags, const char *data)
{
    char o[1024];
    const char *label = view_str(l->base, l->plan->mount_label);

    if (label && (strcmp(type, "tmpfs") == 0 || strcmp(type, "devpts") == 0 || strcmp(type, "mqueue") == 0)) {
        if ((size_t)snprintf(o, sizeof o, "%s%scontext=\"%s\"", data ? data : "", data && *data ? "," : "", label) >= sizeof o)
            child_fail(l, E2BIG, "mount options of '%s'", path);
        data = o;
    }
    if (fchdir(target) < 0)
        child_fail(l, errno, "mount %s on '%s'", type, path);
    if (mount(type, ".", type, ms_of(flags), data) < 0 && !(errno == ENODEV && (flags & WIRE_M_OPTIONAL)))
        child_fail(l, errno, "mount %s on '%s'", type, path);
}

static void mount_cgroup1(const struct launch *l, const struct roots *r, int target, const struct wire_mount *m)
{
    char path[PATH_MAX], link[256];
    const char *to = view_str(l->base, m->target);

    mount_fs(l, "tmpfs", target, to, (m->flags | WIRE_M_NOSUID | WIRE_M_NODEV | WIRE_M_NOEXEC) & ~(uint32_t)WIRE_M_RDONLY,
             "mode=755,size=64k");
    int top = open("..", O_PATH | O_CLOEXEC | O_DIRECTORY); /* through the parent: "." is what lies beneath */
    const char *name = strrchr(to, '/');
    int dir = top < 0 || !name ? -1 : openat(top, name + 1, O_PATH | O_CLOEXEC | O_DIRECTORY);
    if (dir < 0)
        child_fail(l, errno, "mount '%s'", to);
    for (size_t i = 0; i < r->n_cg; i++) {
        const struct cgmount *c = &r->cg[i];
        if (mkdirat(dir, c->name, 0755) < 0)
            child_fail(l, errno, "mount '%s/%s'", to, c->name);
        int fd = openat(dir, c->name, O_PATH | O_CLOEXEC | O_DIRECTORY);
        if (fd < 0 || sys_move_mount(c->fd, fd) < 0)
            child_fail(l, errno, "mount '%s/%s'", to, c->name);
        close(fd);
        close(c->fd);
        for (const char *p = c->name; strchr(c->name, ',') && *p; p += strcspn(p, ","), p += *p == ',') {
            snprintf(link, sizeof link, "%.*s", (int)strcspn(p, ","), p);
            snprintf(path, sizeof path, "%s", c->name);
            (void)symlinkat(path, dir, link);     /* "cpu" -> "cpu,cpuacct", as hosts have it */
        }
    }
    if ((m->flags & WIRE_M_RDONLY) && sys_setattr(dir, 0, MOUNT_ATTR_RDONLY, 0, 0, -1) < 0)
        child_fail(l, errno, "mount '%s' read-only", to);
    close(dir);
    close(top);
}

static void mount_one(const struct launch *l, const struct roots *r, int root, struct wire_mount *m)
{
    const char *to = view_str(l->base, m->target);
    struct stat st;
    bool dir = true;
    int target;

    if (m->fd == FD_SKIP)
        return;
    if (m->fd >= 0) {
        if (fstat(m->fd, &st) < 0)
            child_fail(l, errno, "mount on '%s'", to);
        dir = S_ISDIR(st.st_mode);
    }
    target = m->flags & WIRE_M_TARGET_MUST_EXIST ? root_open(root, to, O_PATH) : root_make(root, to, dir);
    if (target < 0 && errno == ENOENT && (m->flags & WIRE_M_TARGET_MUST_EXIST))
        return;
    if (target < 0)
        child_fail(l, errno, "mount point '%s'", to);
    if (m->kind == WIRE_MOUNT_SELF)
        m->fd = sys_open_tree(target, "", AT_EMPTY_PATH);
    else if (m->kind == WIRE_MOUNT_SHM && m->fd < 0)
        m->fd = sys_open_tree(AT_FDCWD, "/shm", 0);
    if ((m->kind == WIRE_MOUNT_SELF || (m->kind == WIRE_MOUNT_SHM && pod.ipc >= 0)) && (m->fd < 0 || dress(m->fd, m) < 0))
        child_fail(l, errno, "mount on '%s'", to);
    if (m->fd >= 0) {
        if (sys_move_mount(m->fd, target) < 0)
            child_fail(l, errno, "mount on '%s'", to);
        close(m->fd);
        m->fd = -1;
    } else if (m->kind == WIRE_MOUNT_CGROUP && (l->plan->flags & WIRE_OWN_CGROUPNS) && r->n_cg == 0)
        mount_fs(l, "cgroup2", target, to, m->flags, NULL);
    else if (m->kind == WIRE_MOUNT_CGROUP)
        mount_cgroup1(l, r, target, m);
    else if (m->fstype)
        mount_fs(l, view_str(l->base, m->fstype), target, to, m->flags, view_str(l->base, m->data));
    else
        child_fail(l, EINVAL, "mount on '%s' without a type", to);
    close(target);
}

/* The directory of a path in the container (made if missing) and, in *name, its last part. */
static int parent_of(int root, const char *path, const char **name)
{
    char p[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;

    *name = slash ? slash + 1 : path;
    if (n >= sizeof p) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(p, path, n);
    p[n] = '\0';
    int fd = n ? root_make(root, p, true) : fcntl(root, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return -1;
    return fd;
}

static void make_device(const struct launch *l, int root, struct wire_device *d)
{
    const char *path = view_str(l->base, d->path), *name;
    int fd, dir;

    if (d->fd >= 0) {
        fd = root_make(root, path, false);
        if (fd < 0 || sys_move_mount(d->fd, fd) < 0)
            child_fail(l, errno, "device '%s'", path);
        close(fd);
        close(d->fd);
        return;
    }
    dir = parent_of(root, path, &name);
    if (dir < 0)
        child_fail(l, errno, "device '%s'", path);
    if (mknodat(dir, name, d->mode, makedev(d->major, d->minor)) < 0) {
        struct stat st;
        if (errno != EEXIST || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            (st.st_mode & S_IFMT) != (d->mode & S_IFMT) || st.st_rdev != makedev(d->major, d->minor)) {
            if (errno == EEXIST || errno == 0)
                errno = EEXIST;
            child_fail(l, errno, "mknod '%s'", path);
        }
    }
    if ((d->uid || d->gid) && fchownat(dir, name, d->uid, d->gid, AT_SYMLINK_NOFOLLOW) < 0)
        child_fail(l, errno, "chown '%s'", path);
    close(dir);
}

static void make_symlink(const struct launch *l, int root, const struct wire_pair *s)
{
    const char *path = view_str(l->base, s->key), *name;
    int dir = parent_of(root, path, &name);

    if (dir < 0 || (symlinkat(view_str(l->base, s->value), dir, name) < 0 && errno != EEXIST))
        child_fail(l, errno, "symlink '%s'", path);
    close(dir);
}

static void mask(const struct launch *l, int root, const char *path)
{
    struct stat st;
    int fd = root_open(root, path, O_PATH), from;

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return;
    if (fd < 0 || fstat(fd, &st) < 0)
        child_fail(l, errno, "mask '%s'", path);
    from = sys_open_tree(AT_FDCWD, S_ISDIR(st.st_mode) ? "/empty" : "/null", 0);
    if (from < 0 || sys_move_mount(from, fd) < 0)
        child_fail(l, errno, "mask '%s'", path);
    close(from);
    close(fd);
}

static void make_readonly(const struct launch *l, int root, const char *path)
{
    int fd = root_open(root, path, O_PATH), from;

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return;
    if (fd < 0)
        child_fail(l, errno, "read-only path '%s'", path);
    from = sys_open_tree(fd, "", AT_EMPTY_PATH | AT_RECURSIVE);
    if (from < 0 || sys_setattr(from, AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0, -1) < 0 || sys_move_mount(from, fd) < 0)
        child_fail(l, errno, "read-only path '%s'", path);
    close(from);
    close(fd);
}

/* From here on root in the user namespace, with a mount namespace that it owns. What was copied into that is locked to
 * its place, the new root too; a clone of it is not. Returns the new root's directory. */
static void enter_userns(struct launch *l)
{
    if (setns(pod.user, CLONE_NEWUSER) < 0)
        child_fail(l, errno, "enter the user namespace");
    if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
        child_fail(l, errno, "become root in the user namespace");
    if (unshare(CLONE_NEWNS) < 0)
        child_fail(l, errno, "mount namespace of the user namespace");
    int fd = sys_open_tree(AT_FDCWD, "/r", AT_RECURSIVE);
    if (fd < 0)
        child_fail(l, errno, "root in the user namespace");
    attach(l, fd, "/n");
    if (l->plan->pidns == WIRE_PID_OWN)
        child_again(l);
}

int child_root(struct launch *l)
{
    const struct wire_plan *p = l->plan;
    struct roots r = { .lower = -1, .upper = -1 };
    const char *top = l->userns ? "/n" : "/r";
    uint64_t off;

    umask(0);
    if (setns(pod.host_mnt, CLONE_NEWNS) < 0)
        child_fail(l, errno, "enter the host's mount namespace");
    take_sources(l, &r);
    if (setns(pod.small_mnt, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0)
        child_fail(l, errno, "new mount namespace");
    mount_root(l, &r);
    for (uint32_t i = 0; i < p->mounts.count; i++) {
        struct wire_mount *m = view_at(l->base, &p->mounts, i);
        if (m->kind == WIRE_MOUNT_OVERLAY)
            mount_image(l, m);
    }
    if (l->userns)
        enter_userns(l);

    int root = open_path(top);
    if (root < 0)
        child_fail(l, errno, "open the new root");
    for (uint32_t i = 0; i < p->mounts.count; i++)
        mount_one(l, &r, root, view_at(l->base, &p->mounts, i));
    for (uint32_t i = 0; i < p->devices.count; i++)
        make_device(l, root, view_at(l->base, &p->devices, i));
    for (uint32_t i = 0; i < p->symlinks.count; i++)
        make_symlink(l, root, view_at(l->base, &p->symlinks, i));
    for (uint32_t i = 0; i < p->readonly.count; i++) {
        memcpy(&off, view_at(l->base, &p->readonly, i), sizeof off);
        make_readonly(l, root, (const char *)l->base + off);
    }
    for (uint32_t i = 0; i < p->masked.count; i++) {
        memcpy(&off, view_at(l->base, &p->masked, i), sizeof off);
        mask(l, root, (const char *)l->base + off);
    }
    return root;
}
