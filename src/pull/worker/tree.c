/* SPDX-License-Identifier: Apache-2.0 */
/* Directories are reached by descriptors; the last parent is kept, since archives list files
 * directory by directory. A missing parent is made with 0755 and remembered as implied: when the
 * layer is complete it gets what the layers below say about it (lower.c), or a layer that only
 * brings /tmp/x would take /tmp its sticky bit. */
#include "pull/worker/tree.h"

#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <search.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
    LINKS_MAX = 40,
    DEPTH_MAX = 2048,
    DIR_FLAGS = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
};

struct dir {
    char *path;                      /* "" is the root */
    bool implied;
    struct timespec mtime;           /* of one that is not implied */
};

struct tree {
    int root;
    int parent;                      /* descriptor of parent_path, or -1 */
    struct str asked;                /* what was asked for to get it */
    struct str parent_path;          /* what it is called without symbolic links */
    void *dirs;                      /* tsearch(3) tree of struct dir by path */
    uint64_t inodes;
};

static int dir_cmp(const void *a, const void *b)
{
    return strcmp(((const struct dir *)a)->path, ((const struct dir *)b)->path);
}

static struct dir *dir_get(struct tree *t, const char *path)
{
    struct dir key = { .path = mem_strdup(path) };
    struct dir **found = tfind(&key, &t->dirs, dir_cmp), *d;

    if (found) {
        free(key.path);
        return *found;
    }
    d = mem_new(struct dir);
    d->path = key.path;
    if (!tsearch(d, &t->dirs, dir_cmp))
        abort();
    return d;
}

static void dir_free(void *p)
{
    struct dir *d = p;

    free(d->path);
    free(d);
}

struct tree *tree_new(int rootfd)
{
    struct tree *t = mem_new(struct tree);

    t->root = rootfd;
    t->parent = -1;
    dir_get(t, "")->implied = true;
    return t;
}

void tree_free(struct tree *t)
{
    if (!t)
        return;
    fd_close(t->parent);
    str_free(&t->asked);
    str_free(&t->parent_path);
    tdestroy(t->dirs, dir_free);
    free(t);
}

uint64_t tree_inodes(const struct tree *t) { return t->inodes; }

int tree_clean(const char *name, char out[PATH_MAX], struct err *err)
{
    size_t n = 0;

    for (const char *s = name; *s;) {
        size_t len = strcspn(s, "/");

        if (len == 2 && s[0] == '.' && s[1] == '.') {
            if (!n)
                return err_set(err, -EINVAL, "entry '%.200s' leads out of the layer", name);
            while (n && out[n - 1] != '/')
                n--;
            if (n)
                n--;
        } else if (len && !(len == 1 && s[0] == '.')) {
            if (n + len + 2 > PATH_MAX)
                return err_set(err, -ENAMETOOLONG, "entry '%.200s...': path too long", name);
            if (n)
                out[n++] = '/';
            memcpy(out + n, s, len);
            n += len;
        }
        s += len;
        while (*s == '/')
            s++;
    }
    out[n] = '\0';
    return 0;
}

static void forget_parent(struct tree *t)
{
    t->parent = fd_close(t->parent);
    str_reset(&t->asked);
    str_reset(&t->parent_path);
}

static bool is_whiteout(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

int tree_opaque(int fd, struct err *err)
{
    if (fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) < 0)
        return err_sys(err, "trusted.overlay.opaque");
    return 0;
}

/* A new directory; what was hidden by a whiteout stays hidden. */
static int make_dir(struct tree *t, int dirfd, const char *name, bool opaque, int *ret,
                    struct err *err)
{
    auto_fd int fd = -1;

    if (mkdirat(dirfd, name, 0755) < 0)
        return err_sys(err, "mkdir '%s'", name);
    t->inodes++;
    fd = openat(dirfd, name, DIR_FLAGS);
    if (fd < 0)
        return err_sys(err, "open '%s'", name);
    if (opaque && tree_opaque(fd, err) < 0)
        return -EIO;
    *ret = take_fd(&fd);
    return 0;
}

struct walk {
    int fd;                          /* where we are */
    struct str done;                 /* its path */
    char todo[2 * PATH_MAX];         /* what is left */
    int links;
};

static int walk_up(struct tree *t, struct walk *w, struct err *err)
{
    struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                            .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH };
    char *slash = w->done.len ? strrchr(w->done.p, '/') : NULL;
    int fd;

    w->done.len = slash ? (size_t)(slash - w->done.p) : 0;
    if (w->done.p)
        w->done.p[w->done.len] = '\0';
    fd = (int)syscall(SYS_openat2, t->root, w->done.len ? w->done.p : ".", &how, sizeof how);
    if (fd < 0)
        return err_sys(err, "open '%s'", str_c(&w->done));
    (void)close(w->fd);
    w->fd = fd;
    return 0;
}

static int walk_link(struct tree *t, struct walk *w, int link, const char *rest, struct err *err)
{
    char target[PATH_MAX], joined[2 * PATH_MAX];
    ssize_t n = readlinkat(link, "", target, sizeof target - 1);
    int len;

    if (n < 0)
        return err_sys(err, "readlink");
    target[n] = '\0';
    if (++w->links > LINKS_MAX)
        return err_code(err, -ELOOP, "'%s/...'", str_c(&w->done));
    len = snprintf(joined, sizeof joined, "%s/%s", target, rest);
    if (len < 0 || (size_t)len >= sizeof joined)
        return err_code(err, -ENAMETOOLONG, "symbolic link in '%s'", str_c(&w->done));
    memcpy(w->todo, joined, (size_t)len + 1);
    if (target[0] == '/') {
        str_reset(&w->done);
        (void)close(w->fd);
        w->fd = fcntl(t->root, F_DUPFD_CLOEXEC, 0);
        if (w->fd < 0)
            return err_sys(err, "dup");
    }
    return 0;
}

/* One component of the way: into a directory, along a link, or making what is missing. */
static int walk_step(struct tree *t, struct walk *w, const char *name, const char *rest,
                     struct err *err)
{
    auto_fd int fd = -1;
    struct stat st;
    bool made = false;

    fd = openat(w->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return err_sys(err, "'%s' in '%s'", name, str_c(&w->done));
    if (fd >= 0 && fstat(fd, &st) < 0)
        return err_sys(err, "fstat '%s'", name);
    if (fd >= 0 && S_ISLNK(st.st_mode))
        return walk_link(t, w, fd, rest, err);
    if (fd < 0 || is_whiteout(&st)) {
        bool opaque = fd >= 0;
        int r;

        if (opaque && unlinkat(w->fd, name, 0) < 0)
            return err_sys(err, "unlink '%s'", name);
        fd = fd_close(fd);
        r = make_dir(t, w->fd, name, opaque, &fd, err);
        if (r < 0)
            return r;
        made = true;
    } else if (!S_ISDIR(st.st_mode)) {
        return err_code(err, -ENOTDIR, "'%s%s%s'", str_c(&w->done), w->done.len ? "/" : "", name);
    }
    if (w->done.len)
        str_putc(&w->done, '/');
    str_puts(&w->done, name);
    if (made)
        dir_get(t, w->done.p)->implied = true;
    (void)close(w->fd);
    w->fd = take_fd(&fd);
    return 0;
}

static int walk(struct tree *t, const char *path, struct err *err)
{
    struct walk w = { .fd = fcntl(t->root, F_DUPFD_CLOEXEC, 0), .done = STR_INIT };
    int r = 0;

    if (w.fd < 0)
        return err_sys(err, "dup");
    snprintf(w.todo, sizeof w.todo, "%s", path);
    while (r == 0) {
        size_t skip = strspn(w.todo, "/"), n = strcspn(w.todo + skip, "/");
        char name[NAME_MAX + 1], rest[2 * PATH_MAX];

        if (!n)
            break;
        if (n > NAME_MAX) {
            r = err_code(err, -ENAMETOOLONG, "'%.200s...'", w.todo + skip);
            break;
        }
        memcpy(name, w.todo + skip, n);
        name[n] = '\0';
        memcpy(rest, w.todo + skip + n, strlen(w.todo + skip + n) + 1);
        memcpy(w.todo, rest, strlen(rest) + 1);
        if (strcmp(name, ".") == 0)
            continue;
        if (strcmp(name, "..") == 0)
            r = walk_up(t, &w, err);
        else
            r = walk_step(t, &w, name, rest, err);
    }
    if (r < 0) {
        fd_close(w.fd);
        str_free(&w.done);
        return r;
    }
    t->parent = w.fd;
    str_puts(&t->parent_path, str_c(&w.done));
    str_free(&w.done);
    return 0;
}

int tree_parent(struct tree *t, const char *path, int *ret_fd, const char **ret_leaf,
                struct err *err)
{
    struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                            .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH };
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    int r;

    *ret_leaf = slash ? slash + 1 : path;
    if (t->parent < 0 || t->asked.len != n || memcmp(str_c(&t->asked), path, n) != 0) {
        forget_parent(t);
        str_add(&t->asked, path, n);
        t->parent = (int)syscall(SYS_openat2, t->root, n ? t->asked.p : ".", &how, sizeof how);
        if (t->parent >= 0) {
            str_add(&t->parent_path, path, n);
        } else {
            r = walk(t, str_c(&t->asked), err);
            if (r < 0) {
                forget_parent(t);
                return r;
            }
        }
    }
    *ret_fd = t->parent;
    return 0;
}

static int remove_all(int dirfd, const char *name, int depth, struct err *err)
{
    struct dirent *e;
    DIR *d;
    int fd, r = 0;

    if (depth > DEPTH_MAX)
        return err_code(err, -ELOOP, "'%s'", name);
    fd = openat(dirfd, name, DIR_FLAGS);
    d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        r = err_sys(err, "open '%s'", name);
        fd_close(fd);
        return r;
    }
    while (r == 0 && (errno = 0, e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, e->d_name, 0) == 0)
            continue;
        if (errno == EISDIR || errno == EPERM)
            r = remove_all(fd, e->d_name, depth + 1, err);
        else
            r = err_sys(err, "unlink '%s'", e->d_name);
    }
    closedir(d);
    if (r == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
        r = err_sys(err, "rmdir '%s'", name);
    return r;
}

int tree_clear(int dirfd, const char *leaf, struct err *err)
{
    struct stat st;

    if (fstatat(dirfd, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : err_sys(err, "stat '%s'", leaf);
    if (!S_ISDIR(st.st_mode)) {
        if (unlinkat(dirfd, leaf, 0) < 0)
            return err_sys(err, "unlink '%s'", leaf);
        return 0;
    }
    return remove_all(dirfd, leaf, 0, err);
}

int tree_mkdir(struct tree *t, int dirfd, const char *leaf, int *ret_fd, struct err *err)
{
    struct stat st;
    bool opaque = false;
    int fd = openat(dirfd, leaf, DIR_FLAGS);

    if (fd >= 0) {
        *ret_fd = fd;
        return 0;
    }
    if (errno != ENOENT) {           /* something else has the name */
        if (fstatat(dirfd, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return err_sys(err, "stat '%s'", leaf);
        opaque = is_whiteout(&st);
        if (unlinkat(dirfd, leaf, 0) < 0)
            return err_sys(err, "unlink '%s'", leaf);
    }
    return make_dir(t, dirfd, leaf, opaque, ret_fd, err);
}

/* What this very layer has by the name stays: a whiteout is about the layers below. */
int tree_whiteout(struct tree *t, int dirfd, const char *leaf, struct err *err)
{
    auto_fd int fd = -1;

    if (mknodat(dirfd, leaf, S_IFCHR, makedev(0, 0)) == 0) {
        t->inodes++;
        return 0;
    }
    if (errno != EEXIST)
        return err_sys(err, "whiteout '%s'", leaf);
    fd = openat(dirfd, leaf, DIR_FLAGS);
    return fd >= 0 ? tree_opaque(fd, err) : 0;
}

void tree_explicit(struct tree *t, const char *leaf, const struct timespec *mtime)
{
    auto_free char *path = NULL;
    struct dir *d;

    if (!leaf)
        path = mem_strdup("");
    else
        path = mem_printf("%s%s%s", str_c(&t->parent_path), t->parent_path.len ? "/" : "", leaf);
    d = dir_get(t, path);
    d->implied = false;
    d->mtime = *mtime;
}

struct finish {
    struct tree *t;
    FILE *implied;
};

static void finish_dir(const void *node, VISIT which, void *arg)
{
    const struct dir *d = *(const struct dir *const *)node;
    struct open_how how = { .flags = DIR_FLAGS, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH };
    struct finish *f = arg;

    if (which != postorder && which != leaf)     /* in order: parents before what is in them */
        return;
    if (d->implied) {
        (void)fwrite(d->path, strlen(d->path) + 1, 1, f->implied);
        return;
    }
    auto_fd int fd =
        (int)syscall(SYS_openat2, f->t->root, d->path[0] ? d->path : ".", &how, sizeof how);
    struct timespec times[2] = { d->mtime, d->mtime };

    if (fd >= 0)                     /* it may have been replaced by a later entry */
        (void)futimens(fd, times);
}

int tree_finish(struct tree *t, FILE *implied, struct err *err)
{
    struct finish f = { t, implied };

    forget_parent(t);
    twalk_r(t->dirs, finish_dir, &f);
    if (fflush(implied) != 0 || ferror(implied))
        return err_sys(err, "list of directories");
    return 0;
}
