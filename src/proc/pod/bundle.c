/* SPDX-License-Identifier: Apache-2.0 */
/* Where a program that makes the container in our place (an OCI runtime, criu) finds what it is to
 * be made of: a tmpfs on <state_dir>/oci/b, in a copy of the host's mount namespace that propagates
 * nothing back. All of it goes when the last process in there does.
 *
 *   r    the container's root (/l, /u, /i: its parts)
 *   m<i> source of the i-th mount
 *   d<i> for criu: the i-th device, where none can be made; null: what covers a masked file
 *
 * In a user namespace the runtime opens r as somebody who may not pass the state directory: there
 * the bundle is at WIRE_OCI_USERNS, and what the runtime keeps appears in it as `state`.
 *
 * Sources are opened and dressed by sources.c, as for the native launcher. */
#include "mounts.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

char *const bundle_environment[] = {
    (char *)(uintptr_t)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    (char *)(uintptr_t)"HOME=/root", NULL
};

/* With both cgroup versions mounted (hybrid), the containers are in the first one's, as the daemon
 * has made them; a runtime that would refuse such a host, or look into the second, is not shown
 * that. */
int bundle_own_mounts(void)
{
    static const char unified[] = "/sys/fs/cgroup/unified";
    struct statfs fs;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return -errno;
    if (statfs(unified, &fs) == 0 && fs.f_type == 0x63677270 /* cgroup2 */ &&
        umount2(unified, MNT_DETACH) < 0)
        return -errno;
    return 0;
}

static void make(struct bundle *b)
{
    static const char *const dirs[] = { "oci", "oci/b", "oci/r" };
    int fd, state = -1;

    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        if (mkdirat(pod.state_fd, dirs[i], 0700) < 0 && errno != EEXIST)
            child_fail(b->l, errno, "mkdir '%s/%s'", pod.state_dir, dirs[i]);
    if (b->l->userns) {
        char kept[PATH_MAX];         /* by name: state_fd is of another mount namespace */
        if ((size_t)snprintf(kept, sizeof kept, "%s/oci/r", pod.state_dir) >= sizeof kept)
            child_fail(b->l, ENAMETOOLONG, "'%s'", pod.state_dir);
        state = sys_open_tree(AT_FDCWD, kept, 0);
        if (state < 0)
            child_fail(b->l, errno, "open '%s'", kept);
    }
    if (mount("tmpfs", b->path, "tmpfs", MS_NOSUID | MS_NODEV,
              b->l->userns ? "mode=711,size=16m" : "mode=700,size=16m") < 0)
        child_fail(b->l, errno, "mount tmpfs on '%s'", b->path);
    b->dir = open(b->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->dir < 0)
        child_fail(b->l, errno, "open '%s'", b->path);
    if (state < 0)
        return;
    fd = mkdirat(b->dir, "state", 0700) < 0 ? -1 : openat(b->dir, "state", O_PATH | O_CLOEXEC);
    if (fd < 0 || sys_move_mount(state, fd) < 0)
        child_fail(b->l, errno, "attach '%s/oci/r' at '%s/state'", pod.state_dir, b->path);
    close(fd);
    close(state);
}

void bundle_begin(struct bundle *b, struct launch *l)
{
    b->l = l;
    b->roots = (struct roots){ .lower = -1, .upper = -1 };
    if (l->userns)
        snprintf(b->path, sizeof b->path, "%s", WIRE_OCI_USERNS);
    else if ((size_t)snprintf(b->path, sizeof b->path, "%s/oci/b", pod.state_dir) >=
             sizeof b->path)
        child_fail(l, ENAMETOOLONG, "'%s'", pod.state_dir);
    netdev_move_all(l);
    child_oom_adj(l);
    (void)setsid();
    child_give_pipes(l);
    umask(0);
    b->null = open("/null", O_RDWR | O_CLOEXEC);
    if (b->null < 0)
        child_fail(l, errno, "open the pod's '/null'");
    b->shm = open("/shm", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (b->shm >= 0)
        b->shm = sys_open_tree(b->shm, "", AT_EMPTY_PATH);
    b->mask = l->restore ? sys_open_tree(AT_FDCWD, "/null", 0) : -1;
    if (l->restore && b->mask < 0)
        child_fail(l, errno, "clone the pod's '/null'");
    if (setns(pod.host_mnt, CLONE_NEWNS) < 0)
        child_fail(l, errno, "enter the host's mount namespace");
    rdt_join(l);
    if (!l->exec)
        take_sources(l, &b->roots);
    int e = bundle_own_mounts();
    if (e < 0)
        child_fail(l, -e, "a mount namespace of its own");
    make(b);
}

/* ---- inside the bundle as root directory */

static void put_at(const struct bundle *b, int dir, const char *name, int mnt, const char *to)
{
    struct stat st;
    int fd;

    if (fstat(mnt, &st) < 0)
        child_fail(b->l, errno, "mount on '%s'", to);
    fd = S_ISDIR(st.st_mode) ? mkdirat(dir, name, 0700)
                             : openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        child_fail(b->l, errno, "make '%s/%s'", b->path, name);
    if (!S_ISDIR(st.st_mode))
        close(fd);
    fd = openat(dir, name, O_PATH | O_CLOEXEC);
    if (fd < 0 || sys_move_mount(mnt, fd) < 0)
        child_fail(b->l, errno, "attach the source of '%s'", to);
    close(fd);
    close(mnt);
}

/* The v1 hierarchies, for criu; OCI runtimes find them by themselves. */
static void put_cgroups(const struct bundle *b, const char *name, const char *to)
{
    int dir = mkdirat(b->dir, name, 0700) < 0 ? -1 : openat(b->dir, name, O_PATH | O_CLOEXEC);

    if (dir < 0)
        child_fail(b->l, errno, "make '%s/%s'", b->path, name);
    for (size_t i = 0; i < b->roots.n_cg; i++)
        put_at(b, dir, b->roots.cg[i].name, b->roots.cg[i].fd, to);
    close(dir);
}

/* Source i to /m<i>. */
static void put_mount(const struct bundle *b, int root, struct wire_mount *m, uint32_t i)
{
    const char *to = view_str(b->l->base, m->target);
    char name[32];
    int fd;

    snprintf(name, sizeof name, "m%u", i);
    if (m->kind == WIRE_MOUNT_SELF && !b->l->restore) {
        fd = root_make(root, to, true);
        m->fd = fd < 0 ? -1 : sys_open_tree(fd, "", AT_EMPTY_PATH);
        if (m->fd < 0 || dress(m->fd, m) < 0)
            child_fail(b->l, errno, "mount on '%s'", to);
        close(fd);
    } else if (m->kind == WIRE_MOUNT_SHM && m->fd < 0) {
        m->fd = fcntl(b->shm, F_DUPFD_CLOEXEC, 3);   /* detached: there is one, for one mount */
        if (m->fd < 0 || dress(m->fd, m) < 0)
            child_fail(b->l, errno, "mount on '%s'", to);
    }
    if (m->kind == WIRE_MOUNT_CGROUP && b->l->restore)
        put_cgroups(b, name, to);
    if (m->fd < 0 || m->kind == WIRE_MOUNT_CGROUP)
        return;
    put_at(b, b->dir, name, m->fd, to);
    m->fd = -1;
}

static void put_devices(const struct bundle *b)
{
    char name[32];

    put_at(b, b->dir, "null", b->mask, "/dev/null");
    for (uint32_t i = 0; i < b->l->plan->devices.count; i++) {
        struct wire_device *d = view_at(b->l->base, &b->l->plan->devices, i);

        if (d->fd < 0)
            continue;
        snprintf(name, sizeof name, "d%u", i);
        put_at(b, b->dir, name, d->fd, view_str(b->l->base, d->path));
        d->fd = -1;
    }
}

void bundle_put_root(struct bundle *b)
{
    static const char *const dirs[] = { "l", "u", "r", "i", "empty" };
    const struct wire_plan *p = b->l->plan;
    int host = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), root;

    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        if (mkdirat(b->dir, dirs[i], 0755) < 0)
            child_fail(b->l, errno, "mkdir '%s/%s'", b->path, dirs[i]);
    /* mounts.c knows its places by name */
    if (host < 0 || fchdir(b->dir) < 0 || chroot(".") < 0)
        child_fail(b->l, errno, "enter '%s'", b->path);
    mount_root(b->l, &b->roots);
    for (uint32_t i = 0; i < p->mounts.count; i++) {
        struct wire_mount *m = view_at(b->l->base, &p->mounts, i);
        if (m->kind == WIRE_MOUNT_OVERLAY)
            mount_image(b->l, m);
    }
    root = open("/r", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        child_fail(b->l, errno, "open the new root");
    for (uint32_t i = 0; i < p->mounts.count; i++)
        put_mount(b, root, view_at(b->l->base, &p->mounts, i), i);
    if (b->l->restore)
        put_devices(b);
    close(root);
    if (fchdir(host) < 0 || chroot(".") < 0)
        child_fail(b->l, errno, "leave '%s'", b->path);
    close(host);
}
