/* SPDX-License-Identifier: Apache-2.0 */
/* inotify on directories that come, go, move, or are symbolic links being replaced.
 *
 * /etc/cni/net.d is watched for every name in it, and what leads there ("/etc", "/etc/cni") only for
 * being moved or removed itself: what else happens beside it, in a busy /run or /tmp, wakes nobody.
 * Names are watched for where something is missing: in the last directory of the way that there is.
 * They are in the parent of an empty directory, too: it may be removed while somebody holds it (a
 * pod that has it as a volume), and then nothing would be told of the directory itself until that
 * one lets go; one with files in it cannot be removed before they are. A change on the way means:
 * arm all of it again. A watch that is about one name ignores the others. */
#include "proc/cni_watch.h"

#include "mem.h"

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

enum {
    SELF = IN_DELETE_SELF | IN_MOVE_SELF,
    NAMES = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | SELF | IN_ONLYDIR,
    FILES = NAMES | IN_CLOSE_WRITE | IN_ATTRIB,
};

struct entry {
    int wd;
    char *name;                      /* NULL: every name counts; "": none */
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

/* -ENOENT when path is not there, -ENOTDIR when it is no directory. IN_MASK_ADD: two ways may share
 * a directory. */
static int add(struct cni_watch *w, const char *path, const char *name, uint32_t mask,
               struct err *err)
{
    int wd = inotify_add_watch(w->fd, path, mask | IN_MASK_ADD);

    if (wd < 0)
        return errno == ENOENT || errno == ENOTDIR ? -errno : err_sys(err, "inotify on '%s'", path);
    w->v = mem_grow(w->v, w->n + 1, sizeof *w->v);
    w->v[w->n++] = (struct entry){ wd, mem_strdup(name) };
    return 0;
}

/* A symbolic link tells of its removal by its attributes (the link count), at once. */
static int add_self(struct cni_watch *w, const char *path, struct err *err)
{
    int r = add(w, path, "", SELF | IN_ONLYDIR | IN_DONT_FOLLOW, err);

    return r == -ENOTDIR ? add(w, path, "", SELF | IN_ATTRIB | IN_DONT_FOLLOW, err) : r;
}

static bool is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e = NULL;

    if (!d)
        return true;
    while ((e = readdir(d)) && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0))
        ;
    closedir(d);
    return !e;
}

/* In what the first `at` characters of dir name: for the name that follows there. */
static int add_next(struct cni_watch *w, const char *dir, size_t at, struct err *err)
{
    const char *name = dir + at + strspn(dir + at, "/");
    auto_free char *parent = mem_dup(dir, at), *next = mem_dup(name, strcspn(name, "/"));

    return add(w, at ? parent : dir[0] == '/' ? "/" : ".", next, NAMES, err);
}

/* The way is watched from the top down, and each directory before it is looked into: what appears
 * or goes meanwhile is an event. */
static int add_way(struct cni_watch *w, const char *dir, struct err *err)
{
    size_t up = 0, at = 0;           /* so much of dir names what is there, and its parent */
    int r = 0;

    for (;;) {
        size_t name = at + strspn(dir + at, "/"), end = name + strcspn(dir + name, "/");
        auto_free char *path = mem_dup(dir, end);

        if (end == name)
            break;
        r = add_self(w, path, err);
        if (r == -ENOENT && add_next(w, dir, at, err) == 0)
            r = add_self(w, path, err);          /* it may have appeared meanwhile */
        if (r < 0)
            break;
        up = at;
        at = end;
    }
    if (r == 0)
        r = add(w, dir, NULL, FILES, err);
    auto_free char *last = mem_dup(dir, at);
    if (at && is_empty(last))
        (void)add_next(w, dir, up, err);
    return r;
}

int cni_watch_arm(struct cni_watch *w, char *const *dirs, const char *network, struct err *err)
{
    forget(w);
    for (size_t i = 0; dirs[i]; i++) {
        int r = add_way(w, dirs[i], err);

        if (r == 0 && network) {
            auto_free char *sub = mem_printf("%s/%s", dirs[i], network);

            r = add(w, sub, NULL, FILES, err);
        }
        if (r < 0 && r != -ENOENT && r != -ENOTDIR)
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
