/* SPDX-License-Identifier: Apache-2.0 */
/* Launching by criu: the container goes on from a checkpoint. A child in the container's cgroup
 * prepares root and mounts as for an OCI runtime (bundle.c) and runs "cricket-worker restore", which
 * reads criu's images, tells criu where all is, and runs it.
 *
 *   supervisor --- the child, which waits ... until it is told the number, or why there is none
 *       |--------- the worker, in the pod's namespaces
 *       |--------- criu
 *       '--------- the container's first process
 *
 * All four are children of the supervisor (CLONE_PARENT, and criu's --restore-sibling): the first
 * process dies when its parent does (PR_SET_PDEATHSIG, which criu restores, too), so nobody in
 * between may be it. What is left of a restore that is cut short is in the container's cgroup, and
 * ended with that. */
#include "mounts.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RESTORE_MAX_MS = 120 * 1000, MIN_ROOM = 32 };

struct words {                       /* the worker's arguments */
    const struct launch *l;
    const char **v;
    size_t n, cap;
};

static void add(struct words *w, const char *s)
{
    if (w->n + 1 >= w->cap) {
        w->cap = w->cap ? w->cap * 2 : MIN_ROOM;
        w->v = realloc(w->v, w->cap * sizeof *w->v);
    }
    s = s && w->v ? strdup(s) : NULL;
    if (!s)
        child_fail(w->l, ENOMEM, "arguments for cricket-worker");
    w->v[w->n++] = s;
    w->v[w->n] = NULL;
}

/* kind: "must" be in the checkpoint, or "may" */
static void add_source(struct words *w, const char *kind, const char *target, const char *source)
{
    add(w, kind);
    add(w, target);
    add(w, source);
}

/* Where the mount is in the container, seen from its root: links on the way are the image's. */
static void resolved(int root, const char *top, const char *path, char buf[PATH_MAX])
{
    char link[64], to[PATH_MAX];
    int fd = root_open(root, path, O_PATH);
    ssize_t n = -1;
    size_t skip = strlen(top);

    if (fd >= 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        n = readlink(link, to, sizeof to - 1);
        close(fd);
    }
    to[n < 0 ? 0 : n] = '\0';
    if (strncmp(to, top, skip) == 0 && to[skip] == '/')
        snprintf(buf, PATH_MAX, "%s", to + skip);
    else
        snprintf(buf, PATH_MAX, "%s", path);     /* below another mount */
}

static void add_mounts(struct words *w, const struct bundle *b, int root)
{
    const struct wire_plan *p = b->l->plan;
    char top[PATH_MAX], source[PATH_MAX], target[PATH_MAX];

    snprintf(top, sizeof top, "%s/r", b->path);
    for (uint32_t i = 0; i < p->mounts.count; i++) {
        const struct wire_mount *m = view_at(b->l->base, &p->mounts, i);

        snprintf(source, sizeof source, "%s/m%u", b->path, i);
        if (access(source, F_OK) < 0)
            continue;                /* criu mounts it, or it is left out */
        resolved(root, top, view_str(b->l->base, m->target), target);
        add_source(w, m->kind == WIRE_MOUNT_CGROUP || (m->flags & WIRE_M_TARGET_MUST_EXIST)
                          ? "may" : "must", target, source);
    }
    for (uint32_t i = 0; i < p->devices.count; i++) {
        const struct wire_device *d = view_at(b->l->base, &p->devices, i);

        snprintf(source, sizeof source, "%s/d%u", b->path, i);
        if (d->fd < 0 && access(source, F_OK) == 0)
            add_source(w, "may", view_str(b->l->base, d->path), source);
    }
    snprintf(source, sizeof source, "%s/null", b->path);
    add_source(w, "may", "/dev/null", source);   /* what covers a masked file */
}

static void make_words(struct words *w, const struct bundle *b)
{
    const struct wire_plan *p = b->l->plan;
    const void *base = b->l->base;
    char root[PATH_MAX], label[512];

    snprintf(root, sizeof root, "%s/r", b->path);
    int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        child_fail(b->l, errno, "open '%s'", root);
    add(w, view_str(base, p->restore_worker));
    add(w, "restore");
    add(w, view_str(base, p->restore_criu));
    add(w, view_str(base, p->restore));
    add(w, root);
    label[0] = '\0';
    if (p->process.apparmor)
        snprintf(label, sizeof label, "apparmor:%s", view_str(base, p->process.apparmor));
    else if (p->process.selinux)
        snprintf(label, sizeof label, "selinux:%s", view_str(base, p->process.selinux));
    add(w, label);
    add(w, p->flags & WIRE_HOST_IPC ? "host-ipc" : "pod-ipc");
    add(w, p->process.flags & WIRE_NO_NEW_PRIVS ? "no-new-privs" : "");
    add_mounts(w, b, fd);
    if ((p->flags & WIRE_ROOT_RDONLY) &&
        sys_setattr(fd, 0, 1 /* MOUNT_ATTR_RDONLY */, 0, 0, -1) < 0)
        child_fail(b->l, errno, "read-only root");
    close(fd);
}

/* criu builds in /tmp/.criu.mntns.XXXXXX, and one that is killed leaves the directory: so in one that
 * goes with us, unless there is something in the node's that it needs. */
static void own_tmp(const struct bundle *b)
{
    const struct wire_plan *p = b->l->plan;
    const char *const needed[] = {
        b->path, view_str(b->l->base, p->restore), view_str(b->l->base, p->restore_criu),
        view_str(b->l->base, p->restore_worker)
    };

    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (strncmp(needed[i], "/tmp/", 5) == 0)
            return;
    (void)mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700");
}

static void join(const struct launch *l, int fd, int type)
{
    if (fd >= 0 && setns(fd, type) < 0)
        child_fail(l, errno, "join the sandbox's namespaces");
}

static void become_worker(const struct bundle *b, const char *const *argv, int report)
    __attribute__((noreturn));
static void become_worker(const struct bundle *b, const char *const *argv, int report)
{
    const struct launch *l = b->l;
    uint32_t flags = l->plan->flags;
    int fds[4] = { b->null, l->stdio[1], l->stdio[2], report };

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    join(l, flags & WIRE_HOST_NET ? -1 : pod.net, CLONE_NEWNET);
    join(l, flags & WIRE_HOST_IPC ? -1 : pod.ipc, CLONE_NEWIPC);
    join(l, flags & WIRE_HOST_UTS ? -1 : pod.uts, CLONE_NEWUTS);
    if ((flags & WIRE_OWN_CGROUPNS) && unshare(CLONE_NEWCGROUP) < 0)
        child_fail(l, errno, "new cgroup namespace");
    for (int i = 0; i < 4; i++)      /* none of them is in another's place */
        if (fds[i] < 0 || (fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 10)) < 0)
            child_fail(l, errno, "stdio %d", i);
    int status = fcntl(l->status_child, F_DUPFD_CLOEXEC, 10);
    for (int i = 0; i < 4; i++)
        (void)dup2(fds[i], i);
    (void)dup3(status, 4, O_CLOEXEC);
    (void)syscall(SYS_close_range, 5, ~0U, 0);
    (void)umask(022);
    child_plain_signals();
    (void)execve(argv[0], (char *const *)(uintptr_t)argv, bundle_environment);
    dprintf(3, "run '%s': %s", argv[0], strerror(errno));
    _exit(127);
}

/* All that it says, up to its end or ours. */
static void hear(const struct bundle *b, int fd, char *buf, size_t len)
{
    int64_t until = now_mono_ms() + RESTORE_MAX_MS, left;
    struct pollfd p = { fd, POLLIN, 0 };
    size_t n = 0;

    for (;;) {
        left = until - now_mono_ms();
        if (left <= 0)
            child_fail(b->l, -ETIMEDOUT, "restore: not done after %d s", RESTORE_MAX_MS / 1000);
        if (poll(&p, 1, (int)left) <= 0)
            continue;
        ssize_t r = read(fd, buf + n, len - 1 - n);
        if (r <= 0)
            break;
        n += (size_t)r;
    }
    buf[n] = '\0';
}

void restore_child(struct launch *l)
{
    struct words w = { .l = l };
    struct bundle b;
    char said[512];
    int report[2];
    int pid = 0;

    bundle_begin(&b, l);
    bundle_put_root(&b);
    make_words(&w, &b);
    own_tmp(&b);
    if (pipe2(report, O_CLOEXEC) < 0)
        child_fail(l, errno, "pipe");
    long child = sys_clone3(CLONE_PARENT, NULL, -1);
    if (child == 0)
        become_worker(&b, w.v, report[1]);
    if (child < 0)
        child_fail(l, errno, "clone");
    close(report[1]);
    hear(&b, report[0], said, sizeof said);
    if (!said[0])
        child_fail(l, -ECHILD, "restore: cricket-worker died");
    if (sscanf(said, "pid %d", &pid) != 1 || pid <= 1)
        child_fail(l, -EIO, "restore: %s", said);
    child_send_pid(l, pid);
    child_send_pid(l, pid);
    _exit(0);
}
