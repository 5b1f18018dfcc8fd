/* SPDX-License-Identifier: Apache-2.0 */
/* inotify on directories that come, go, move, or are symbolic links being replaced.
 *
 * For /etc/cni/net.d there is a watch on each existing directory of the way: on "/" for the name
 * "etc", on "/etc" for "cni", on "/etc/cni" for "net.d", and on "/etc/cni/net.d" for every name. A
 * change on the way means: arm all of it again. A watch that is about one name ignores the others,
 * so a busy /run wakes us but costs no reload. */
#include "proc/cni_watch.h"

#include "mem.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
    WAY = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF,
    FILES = WAY | IN_CLOSE_WRITE | IN_ATTRIB,
};

struct entry {
    int wd;
    char *name;                      /* NULL: every name counts */
};

struct cni_watch {
    int fd;
    struct entry *v;
    size_t n;
};

int cni_watch_new(struct cni_watch **ret, struct err *err)
{
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

    if (fd < 0)
        return err_sys(err, "inotify");
    *ret = mem_new(struct cni_watch);
    (*ret)->fd = fd;
    return 0;
}

static void forget(struct cni_watch *w)
{
    for (size_t i = 0; i < w->n; i++) {
        (void)inotify_rm_watch(w->fd, w->v[i].wd); /* the same one twice, or gone by itself: fine */
        free(w->v[i].name);
    }
    free(w->v);
    w->v = NULL;
    w->n = 0;
}

struct cni_watch *cni_watch_free(struct cni_watch *w)
{
    if (w) {
        forget(w);
        fd_close(w->fd);
        free(w);
    }
    return NULL;
}

int cni_watch_fd(const struct cni_watch *w)
{
    return w->fd;
}

/* -ENOENT when dir is not there (or no directory). IN_MASK_ADD: two ways may share a directory. */
static int add(struct cni_watch *w, const char *dir, const char *name, size_t len, uint32_t mask,
               struct err *err)
{
    int wd = inotify_add_watch(w->fd, dir, mask | IN_ONLYDIR | IN_MASK_ADD);

    if (wd < 0)
        return errno == ENOENT || errno == ENOTDIR ? -ENOENT : err_sys(err, "inotify on '%s'", dir);
    w->v = mem_grow(w->v, w->n + 1, sizeof *w->v);
    w->v[w->n++] = (struct entry){ wd, name ? mem_dup(name, len) : NULL };
    return 0;
}

/* The way is watched from the top down, each directory before the next is looked at: what appears
 * meanwhile is an event. */
static int add_way(struct cni_watch *w, const char *dir, struct err *err)
{
    for (const char *p = dir; *p;) {
        const char *name = p + strspn(p, "/");
        size_t len = strcspn(name, "/");
        auto_free char *parent = mem_dup(dir, (size_t)(p - dir));
        int r;

        if (len == 0)
            break;
        r = add(w, parent[0] ? parent : dir[0] == '/' ? "/" : ".", name, len, WAY, err);
        if (r < 0)
            return r;
        p = name + len;
    }
    return add(w, dir, NULL, 0, FILES, err);
}

int cni_watch_arm(struct cni_watch *w, char *const *dirs, const char *network, struct err *err)
{
    forget(w);
    for (size_t i = 0; dirs[i]; i++) {
        int r = add_way(w, dirs[i], err);

        if (r == 0 && network) {
            auto_free char *sub = mem_printf("%s/%s", dirs[i], network);

            r = add(w, sub, NULL, 0, FILES, err);
        }
        if (r < 0 && r != -ENOENT)
            return r;
    }
    return 0;
}

static bool concerns(const struct cni_watch *w, const struct inotify_event *e)
{
    if (e->mask & IN_Q_OVERFLOW)
        return true;
    if (e->mask & IN_IGNORED) /* follows a rm_watch of ours, or a DELETE_SELF that was told */
        return false;
    for (size_t i = 0; i < w->n; i++)
        if (w->v[i].wd == e->wd && (!w->v[i].name || !e->len || strcmp(w->v[i].name, e->name) == 0))
            return true;
    return false;
}

bool cni_watch_changed(struct cni_watch *w)
{
    union {
        struct inotify_event e;
        char b[16384];
    } buf;
    bool changed = false;

    for (int rounds = 0; rounds < 16; rounds++) {
        ssize_t n = read(w->fd, &buf, sizeof buf);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        for (char *p = buf.b; p < buf.b + n;) {
            const struct inotify_event *e = (const struct inotify_event *)(void *)p;

            changed |= concerns(w, e);
            p += sizeof *e + e->len;
        }
    }
    return changed;
}
