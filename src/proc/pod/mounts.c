/* SPDX-License-Identifier: Apache-2.0 */
/* The container's root, built by the child between clone3 and execve.
 *
 *   host's mount namespace:  every bind source, the layers and the upper directory -> detached
 * clones (open_tree) a copy of ours:          layers on /l, upper on /u, overlay of them on /r [the
 * user namespace:     and a mount namespace that it owns] /r:                      the mount table
 * in order, devices, links, masks, read-only paths; pivot_root
 *
 * Nothing is unmounted on the way (each time would be a wait for RCU): all goes with the old root,
 * at once.
 *
 * Container paths are resolved inside the root each time (root.c). Nothing here allocates: the plan's
 * own records have room for the descriptors. */
#include "mounts.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

int sys_open_tree(int fd, const char *path, unsigned flags)
{
    return (int)syscall(SYS_open_tree, fd, path, flags | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
}

int sys_move_mount(int from, int to)
{
    return (int)syscall(SYS_move_mount, from, "", to, "",
                        MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

int sys_setattr(int fd, unsigned flags, uint64_t set, uint64_t clr, uint64_t propagation,
                int userns)
{
    struct mount_attr a = { set, clr, propagation, userns >= 0 ? (uint64_t)userns : 0 };

    return (int)syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | flags, &a, sizeof a);
}

uint64_t attr_of(uint32_t flags)
{
    return (flags & (WIRE_M_RDONLY | WIRE_M_RDONLY_REC) ? MOUNT_ATTR_RDONLY : 0) |
           (flags & WIRE_M_NOSUID ? MOUNT_ATTR_NOSUID : 0) |
           (flags & WIRE_M_NODEV ? MOUNT_ATTR_NODEV : 0) |
           (flags & WIRE_M_NOEXEC ? MOUNT_ATTR_NOEXEC : 0) |
           (flags & WIRE_M_STRICTATIME ? MOUNT_ATTR_STRICTATIME : 0);
}

static unsigned long ms_of(uint32_t flags)
{
    return (flags & (WIRE_M_RDONLY | WIRE_M_RDONLY_REC) ? MS_RDONLY : 0) |
           (flags & WIRE_M_NOSUID ? MS_NOSUID : 0) | (flags & WIRE_M_NODEV ? MS_NODEV : 0) |
           (flags & WIRE_M_NOEXEC ? MS_NOEXEC : 0) | (flags & WIRE_M_RELATIME ? MS_RELATIME : 0) |
           (flags & WIRE_M_STRICTATIME ? MS_STRICTATIME : 0);
}

/* With all that is mounted below; where something there cannot be mapped (proc in a volume that is
 * the host's root), at least the mount that was asked for: OCI's plain "idmap". */
static int map_owners(int fd, bool recursive)
{
    if (pod.user < 0) {
        errno = EINVAL;
        return -1;
    }
    if (recursive && sys_setattr(fd, AT_RECURSIVE, MOUNT_ATTR_IDMAP, 0, 0, pod.user) == 0)
        return 0;
    return sys_setattr(fd, 0, MOUNT_ATTR_IDMAP, 0, 0, pod.user);
}

int dress(int fd, const struct wire_mount *m)
{
    uint64_t set = attr_of(m->flags);
    uint64_t clr = m->flags & (WIRE_M_STRICTATIME | WIRE_M_RELATIME) ? MOUNT_ATTR__ATIME : 0;

    if (m->propagation != WIRE_SHARED &&
        sys_setattr(fd, AT_RECURSIVE, 0, 0, m->propagation == WIRE_SLAVE ? MS_SLAVE : MS_PRIVATE,
                    -1) < 0)
        return -1;
    if ((m->flags & WIRE_M_IDMAP) && map_owners(fd, m->flags & WIRE_M_RECURSIVE) < 0)
        return -1;
    if ((m->flags & WIRE_M_RDONLY_REC) &&
        sys_setattr(fd, AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0, -1) < 0)
        return -1;
    return set || clr ? sys_setattr(fd, 0, set, clr, 0, -1) : 0;
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

/* "lowerdir=a:b" relative to the directory that stands for the first `cut` bytes of each. Mount
 * data is one page. */
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

void mount_root(const struct launch *l, struct roots *r)
{
    char o[4096];
    const char *lower = view_str(l->base, l->plan->lower),
               *upper = view_str(l->base, l->plan->upper);
    const char *work = view_str(l->base, l->plan->work),
               *label = view_str(l->base, l->plan->mount_label);
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

/* A read-only stack of layers, or one directory of it, as a detached mount. One layer needs no
 * overlay but for its label. */
void mount_image(const struct launch *l, struct wire_mount *m)
{
    char o[4096];
    const char *lower = view_str(l->base, m->lower), *sub = view_str(l->base, m->source);
    size_t cut = common_dir(lower);
    const char *label = view_str(l->base, l->plan->mount_label);
    bool one = !strchr(lower, ':') && !label;
    size_t n;
    int top, fd;

    attach(l, m->fd, "/l");
    if (one) {
        if ((size_t)snprintf(o, sizeof o, "/l/%s", lower + cut) >= sizeof o)
            child_fail(l, ENAMETOOLONG, "layer '%.200s'", lower);
        top = open_path(o);
    } else {
        if (chdir("/l") < 0)
            child_fail(l, errno, "chdir to the layers");
        n = add_lower(l, o, sizeof o, lower, cut);
        if (label)                   /* an overlay has two layers at least */
            n += (size_t)snprintf(o + n, sizeof o - n, "%s,context=\"%s\"",
                                  strchr(lower, ':') ? "" : ":/empty", label);
        if (n >= sizeof o)
            child_fail(l, E2BIG, "overlay mount options");
        if (mount("overlay", "/i", "overlay", MS_RDONLY, o) < 0)
            child_fail(l, errno, "mount image volume '%s'", view_str(l->base, m->target));
        top = open_path("/i");
    }
    if (top < 0)
        child_fail(l, errno, "image volume '%s'", view_str(l->base, m->target));
    fd = root_open(top, sub && *sub ? sub : ".", O_PATH);
    if (fd < 0)
        child_fail(l, errno, "image volume '%s': path '%s' in the image",
                   view_str(l->base, m->target), sub);
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

/* Current directory: what it has been mounted on. Who is root only in a user namespace may not. */
static void label_mqueue(const struct launch *l, const char *path, const char *label)
{
    const char *name = strrchr(path, '/') + 1;

    if (fchdir(open("..", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0 ||
        (setxattr(name, SELINUX_XATTR, label, strlen(label) + 1, 0) < 0 && errno != EOPNOTSUPP &&
         !l->userns))
        child_fail(l, errno, "label '%s' as '%s'", path, label);
}

static void mount_fs(const struct launch *l, const char *type, int target, const char *path,
                     uint32_t flags, const char *data)
{
    char o[1024];
    const char *label = view_str(l->base, l->plan->mount_label);

    if (label && (strcmp(type, "tmpfs") == 0 || strcmp(type, "devpts") == 0)) {
        if ((size_t)snprintf(o, sizeof o, "%s%scontext=\"%s\"", data ? data : "",
                             data && *data ? "," : "", label) >= sizeof o)
            child_fail(l, E2BIG, "mount options of '%s'", path);
        data = o;
    }
    if (fchdir(target) < 0)
        child_fail(l, errno, "mount %s on '%s'", type, path);
    if (mount(type, ".", type, ms_of(flags), data) < 0 &&
        !(errno == ENODEV && (flags & WIRE_M_OPTIONAL)))
        child_fail(l, errno, "mount %s on '%s'", type, path);
    /* the IPC namespace has mounted it already, without a context= */
    if (label && strcmp(type, "mqueue") == 0)
        label_mqueue(l, path, label);
}

static void mount_cgroup1(const struct launch *l, const struct roots *r, int target,
                          const struct wire_mount *m)
{
    char path[PATH_MAX], link[256];
    const char *to = view_str(l->base, m->target);

    mount_fs(l, "tmpfs", target, to,
             (m->flags | WIRE_M_NOSUID | WIRE_M_NODEV | WIRE_M_NOEXEC) & ~(uint32_t)WIRE_M_RDONLY,
             "mode=755,size=64k");
    int top = open("..", O_PATH | O_CLOEXEC |
                             O_DIRECTORY); /* through the parent: "." is what lies beneath */
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
        for (const char *p = c->name; strchr(c->name, ',') && *p;
             p += strcspn(p, ","), p += *p == ',') {
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
    target = m->flags & WIRE_M_TARGET_MUST_EXIST ? root_open(root, to, O_PATH)
                                                 : root_make(root, to, dir);
    if (target < 0 && errno == ENOENT && (m->flags & WIRE_M_TARGET_MUST_EXIST))
        return;
    if (target < 0)
        child_fail(l, errno, "mount point '%s'", to);
    if (m->kind == WIRE_MOUNT_SELF)
        m->fd = sys_open_tree(target, "", AT_EMPTY_PATH);
    else if (m->kind == WIRE_MOUNT_SHM && m->fd < 0)
        m->fd = sys_open_tree(AT_FDCWD, "/shm", 0);
    if ((m->kind == WIRE_MOUNT_SELF || (m->kind == WIRE_MOUNT_SHM && pod.ipc >= 0)) &&
        (m->fd < 0 || dress(m->fd, m) < 0))
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
            (st.st_mode & S_IFMT) != (d->mode & S_IFMT) ||
            st.st_rdev != makedev(d->major, d->minor)) {
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
    if (from < 0 || sys_setattr(from, AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0, -1) < 0 ||
        sys_move_mount(from, fd) < 0)
        child_fail(l, errno, "read-only path '%s'", path);
    close(from);
    close(fd);
}

static int bundle_open(const struct launch *l, const char *name)
{
    char path[PATH_MAX];

    if ((size_t)snprintf(path, sizeof path, "%s/%s", view_str(l->base, l->plan->bundle), name) >=
        sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return open_path(path);
}

/* Hooks are to find the node's files, and the container's root at its place in the bundle: the
 * container's mount namespace begins as a copy of the host's. The root is made where it always is,
 * in a clone of our own small tree that is mounted in the bundle and is "/" meanwhile. */
static void enter_build(struct launch *l)
{
    int tree, fd;

    if (setns(pod.small_mnt, CLONE_NEWNS) < 0)
        child_fail(l, errno, "enter the supervisor's mount namespace");
    tree = sys_open_tree(AT_FDCWD, "/", AT_RECURSIVE);
    if (tree < 0 || setns(pod.host_mnt, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        child_fail(l, errno, "copy the host's mount namespace");
    l->rootfs = bundle_open(l, "rootfs");
    fd = bundle_open(l, "build");
    if (l->rootfs < 0 || fd < 0 || sys_move_mount(tree, fd) < 0)
        child_fail(l, errno, "attach at '%s/build'", view_str(l->base, l->plan->bundle));
    close(fd);
    close(tree);
    fd = bundle_open(l, "build");    /* what is mounted there now */
    if (fd < 0 || fchdir(fd) < 0 || chroot(".") < 0)
        child_fail(l, errno, "enter '%s/build'", view_str(l->base, l->plan->bundle));
    close(fd);
}

/* setns(2) to the namespace that one is in leads out of a chroot. */
void child_leave_build(const struct launch *l, int root)
{
    int ns = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);

    if (sys_move_mount(root, l->rootfs) < 0)
        child_fail(l, errno, "attach at '%s/rootfs'", view_str(l->base, l->plan->bundle));
    if (ns < 0 || setns(ns, CLONE_NEWNS) < 0)
        child_fail(l, errno, "leave '%s/build'", view_str(l->base, l->plan->bundle));
    close(ns);
    close(l->rootfs);
}

/* From here on root in the user namespace, with a mount namespace that it owns. What was copied
 * into that is locked to its place, the new root too; a clone of it is not. Returns the new root's
 * directory. */
static void enter_userns(struct launch *l)
{
    if (setns(pod.user, CLONE_NEWUSER) < 0)
        child_fail(l, errno, "enter the user namespace");
    child_mapped_root(l);
    /* made from in here, or cgroup2 could not be mounted */
    if ((l->plan->flags & WIRE_OWN_CGROUPNS) && unshare(CLONE_NEWCGROUP) < 0)
        child_fail(l, errno, "new cgroup namespace");
    /* the current directory moves along, and that may not be reached by its path in there */
    if (l->rootfs >= 0 && fchdir(l->rootfs) < 0)
        child_fail(l, errno, "chdir '%s/rootfs'", view_str(l->base, l->plan->bundle));
    if (unshare(CLONE_NEWNS) < 0)
        child_fail(l, errno, "mount namespace of the user namespace");
    if (l->rootfs >= 0) {
        close(l->rootfs);
        l->rootfs = open_path(".");
        if (l->rootfs < 0 || chdir("/") < 0)
            child_fail(l, errno, "open '%s/rootfs'", view_str(l->base, l->plan->bundle));
    }
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
    rdt_join(l);
    take_sources(l, &r);
    if (hooks_want_host(l))
        enter_build(l);
    else if (setns(pod.small_mnt, CLONE_NEWNS) < 0 || unshare(CLONE_NEWNS) < 0)
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
