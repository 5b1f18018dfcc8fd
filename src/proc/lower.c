/* SPDX-License-Identifier: Apache-2.0 */
/* A path looked up over stacked layer directories, as overlayfs would show it, without mounting
 * anything.
 *
 * A directory of the merged tree is a `struct merged`: those layers' directories that take part in
 * it, top first. One step down asks each of them for the name: a whiteout (character device 0:0) or
 * a file ends the search, a directory joins the next merged, an opaque directory
 * (trusted.overlay.opaque=y) ends it after itself. Each step opens a single name with O_NOFOLLOW,
 * and symbolic links are taken apart here, so nothing that an image says can lead out of its
 * layers. */
#include "proc/lower.h"

#include "mem.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
    LOWER_LINKS_MAX = 40,            /* as the kernel, path_resolution(7) */
    LOWER_DEPTH_MAX = 256,
};

struct merged {
    int *fds;
    size_t n;
};

static void merged_deinit(struct merged *m)
{
    for (size_t i = 0; i < m->n; i++)
        (void)close(m->fds[i]);
    free(m->fds);
    *m = (struct merged){ NULL, 0 };
}

#define auto_merged __attribute__((cleanup(merged_deinit)))

static bool is_opaque(int fd)
{
    char path[64], v[2];
    ssize_t n;

    /* an O_PATH descriptor has no fgetxattr(2) */
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    n = getxattr(path, "trusted.overlay.opaque", v, sizeof v);
    return n == 1 && v[0] == 'y';
}

static int merged_root(const char *const *layers, size_t n, struct merged *ret, struct err *err)
{
    auto_merged struct merged m = { mem_array(n, sizeof(int)), 0 };

    for (size_t i = 0; i < n; i++) {
        int fd = open(layers[i], O_PATH | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
            return err_sys(err, "layer '%s'", layers[i]);
        m.fds[m.n++] = fd;
    }
    *ret = m;
    m = (struct merged){ NULL, 0 };
    return 0;
}

enum kind { ABSENT, DIRECTORY, OTHER };

/* One name in a merged directory. DIRECTORY: *ret is the merged one below. OTHER: *ret_at is the
 * layer's directory that has it and *st what it is. */
static int step(const struct merged *m, const char *name, struct merged *ret, int *ret_at,
                struct stat *st)
{
    auto_merged struct merged next = { mem_array(m->n, sizeof(int)), 0 };

    for (size_t i = 0; i < m->n; i++) {
        struct stat s;
        int fd;

        if (fstatat(m->fds[i], name, &s, AT_SYMLINK_NOFOLLOW) < 0) {
            if (errno == ENOENT)
                continue;
            return -errno;
        }
        if (S_ISCHR(s.st_mode) && s.st_rdev == 0)
            break;
        if (!S_ISDIR(s.st_mode)) {
            if (next.n)
                break;               /* hidden by the directories above it */
            *ret_at = m->fds[i];
            *st = s;
            return OTHER;
        }
        fd = openat(m->fds[i], name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        next.fds[next.n++] = fd;
        if (is_opaque(fd))
            break;
    }
    if (!next.n)
        return ABSENT;
    *ret = next;
    next = (struct merged){ NULL, 0 };
    return DIRECTORY;
}

/* The directory of the merged tree that dirs[0..n) names; all of them are known to be directories.
 */
static int walk(const char *const *layers, size_t n_layers, char *const *dirs, size_t n,
                struct merged *ret, struct err *err)
{
    auto_merged struct merged m = { NULL, 0 };
    int r = merged_root(layers, n_layers, &m, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++) {
        struct merged next;
        struct stat st;
        int at;

        r = step(&m, dirs[i], &next, &at, &st);
        if (r != DIRECTORY)          /* it was one a moment ago */
            return err_code(err, r < 0 ? r : -ESTALE, "'%s'", dirs[i]);
        merged_deinit(&m);
        m = next;
    }
    *ret = m;
    m = (struct merged){ NULL, 0 };
    return 0;
}

struct lookup {
    char *dirs[LOWER_DEPTH_MAX];     /* where we are, without links or dots */
    size_t n_dirs;
    char *rest;                      /* still to be walked */
    struct merged here;
};

static void lookup_deinit(struct lookup *l)
{
    for (size_t i = 0; i < l->n_dirs; i++)
        free(l->dirs[i]);
    free(l->rest);
    merged_deinit(&l->here);
}

static int again(struct lookup *l, const char *const *layers, size_t n, struct err *err)
{
    merged_deinit(&l->here);
    return walk(layers, n, l->dirs, l->n_dirs, &l->here, err);
}

static void up(struct lookup *l)
{
    if (l->n_dirs)
        free(l->dirs[--l->n_dirs]);
}

/* Takes the first name off l->rest; NULL when nothing is left. The caller frees. */
static char *next_name(struct lookup *l)
{
    char *s = l->rest, *e, *name;

    while (*s == '/')
        s++;
    e = strchrnul(s, '/');
    if (e == s)
        return NULL;
    name = mem_dup(s, (size_t)(e - s));
    memmove(l->rest, e, strlen(e) + 1);
    return name;
}

/* Opens what the link at/name points to next: rewrites l->rest, and goes to the root for an
 * absolute one. */
static int follow(struct lookup *l, int at, const char *name)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(at, name, target, sizeof target - 1);
    char *rest;

    if (n < 0)
        return -errno;
    target[n] = '\0';
    if (strlen(l->rest) + (size_t)n + 2 > PATH_MAX)
        return -ENAMETOOLONG;
    rest = mem_printf("%s%s", target, l->rest);   /* l->rest is "" or begins with a slash */
    free(l->rest);
    l->rest = rest;
    if (target[0] == '/')
        while (l->n_dirs)
            up(l);
    return 0;
}

static int open_dir(const struct lookup *l, int flags)
{
    if (!(flags & O_DIRECTORY))
        return -EISDIR;
    int fd = openat(l->here.fds[0], ".", flags | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

static int open_file(int at, const char *name, const struct stat *st, int flags)
{
    struct stat now;
    auto_fd int fd = -1;

    if (flags & O_DIRECTORY)
        return -ENOTDIR;
    if (!S_ISREG(st->st_mode))
        return -EINVAL;
    fd = openat(at, name, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &now) < 0)
        return -errno;
    if (!S_ISREG(now.st_mode))
        return -EINVAL;
    return take_fd(&fd);
}

static int lookup(struct lookup *l, const char *const *layers, size_t n, int flags, struct err *err)
{
    int links = 0, r = again(l, layers, n, err);

    if (r < 0)
        return r;
    for (;;) {
        auto_free char *name = next_name(l);
        struct merged next;
        struct stat st;
        int at;

        if (!name)
            return open_dir(l, flags);
        if (strcmp(name, ".") == 0)
            continue;
        if (strcmp(name, "..") == 0) {
            up(l);
            r = again(l, layers, n, err);
            if (r < 0)
                return r;
            continue;
        }
        r = step(&l->here, name, &next, &at, &st);
        if (r < 0)
            return r;
        if (r == ABSENT)
            return -ENOENT;
        if (r == DIRECTORY) {
            if (l->n_dirs == LOWER_DEPTH_MAX) {
                merged_deinit(&next);
                return -ENAMETOOLONG;
            }
            l->dirs[l->n_dirs++] = take_ptr(name);
            merged_deinit(&l->here);
            l->here = next;
            continue;
        }
        if (S_ISLNK(st.st_mode)) {
            if (++links > LOWER_LINKS_MAX)
                return -ELOOP;
            r = follow(l, at, name);
            if (r < 0)
                return r;
            r = again(l, layers, n, err);
            if (r < 0)
                return r;
            continue;
        }
        return l->rest[0] ? -ENOTDIR : open_file(at, name, &st, flags);
    }
}

int lower_open(const char *const *layers, size_t n, const char *path, int flags, int *ret_fd,
               struct err *err)
{
    struct lookup l = { .n_dirs = 0 };
    struct err why = ERR_INIT;
    int r;

    if (strlen(path) >= PATH_MAX)
        return err_code(err, -ENAMETOOLONG, "'%.64s...' in the image", path);
    l.rest = mem_strdup(path);
    r = n ? lookup(&l, layers, n, flags, &why) : -ENOENT;
    lookup_deinit(&l);
    if (r < 0) {
        if (!why.code)
            return err_code(err, r, "'%s' in the image", path);
        return err_set(err, why.code, "'%s' in the image: %s", path, why.text);
    }
    *ret_fd = r;
    return 0;
}

int lower_read(const char *const *layers, size_t n, const char *path, size_t max, char **ret,
               size_t *ret_len, struct err *err)
{
    auto_fd int fd = -1;
    auto_str struct str s = STR_INIT;
    int r = lower_open(layers, n, path, O_RDONLY, &fd, err);

    if (r < 0)
        return r;
    for (;;) {
        size_t room = 65536;
        ssize_t k = read(fd, str_room(&s, room), room);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_sys(err, "read '%s' of the image", path);
        if (k == 0)
            break;
        s.len += (size_t)k;
        s.p[s.len] = '\0';
        if (s.len > max)
            return err_set(err, -EFBIG, "'%s' of the image is larger than %zu bytes", path, max);
    }
    if (ret_len)
        *ret_len = s.len;
    *ret = str_take(&s);
    return 0;
}
