/* SPDX-License-Identifier: Apache-2.0 */
/* A directory that a layer implies (it has a/b/c but no entry for a/b) is, merged, the topmost one
 * of that name: it must look as the layers below left it. Where they have a symbolic link by that
 * name (lib -> usr/lib), what is in the directory was meant for the link's target and moves there;
 * else the directory would hide the link, and with it all of /lib. Paths come from the locked-up
 * child and are not trusted: beneath, without links. */
#include "mem.h"
#include "pull/worker/unpack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { LINKS_MAX = 8, DEPTH_MAX = 1024, MOVES_MAX = 256 };

static int open_dir(int dirfd, const char *path)
{
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_NO_XDEV,
    };

    return (int)syscall(SYS_openat2, dirfd, path[0] ? path : ".", &how, sizeof how);
}

static bool is_opaque(int fd)
{
    char c = 0;

    return fgetxattr(fd, "trusted.overlay.opaque", &c, 1) == 1 && c == 'y';
}

/* True: layers below this one do not show through at path. */
static bool hides(int lower, const char *path)
{
    char part[4096];
    size_t len = strlen(path);

    if (len >= sizeof part)
        return true;
    for (size_t n = strcspn(path, "/"); n <= len; n += 1 + strcspn(path + n + 1, "/")) {
        struct stat st;

        memcpy(part, path, n);
        part[n] = '\0';
        if (part[0] && fstatat(lower, part, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return false;            /* nothing here: as the part before it was transparent */
        if (part[0] && !S_ISDIR(st.st_mode))
            return true;             /* whiteout, file or link */
        auto_fd int fd = open_dir(lower, part);

        if (fd < 0 || is_opaque(fd))
            return true;
        if (n == len)
            break;
    }
    return false;
}

static int copy_xattrs(int from, int to, struct err *err)
{
    char names[16 * 1024], value[16 * 1024];
    ssize_t n = flistxattr(from, names, sizeof names);

    if (n < 0)
        return errno == ENOTSUP ? 0 : err_sys(err, "listxattr");
    for (char *p = names; p < names + n; p += strlen(p) + 1) {
        ssize_t len;

        if (strncmp(p, "trusted.overlay.", strlen("trusted.overlay.")) == 0)
            continue;
        len = fgetxattr(from, p, value, sizeof value);
        if (len < 0 || fsetxattr(to, p, value, (size_t)len, 0) < 0)
            return err_sys(err, "xattr %s", p);
    }
    return 0;
}

static int copy_meta(int from, int to, struct err *err)
{
    struct stat st;
    int r;

    if (fstat(from, &st) < 0)
        return err_sys(err, "fstat");
    struct timespec times[2] = { st.st_mtim, st.st_mtim };

    if (fchown(to, st.st_uid, st.st_gid) < 0 || fchmod(to, st.st_mode & 07777) < 0)
        return err_sys(err, "chown, chmod");
    r = copy_xattrs(from, to, err);
    if (r == 0 && futimens(to, times) < 0)
        r = err_sys(err, "times");
    return r;
}

enum found { FOUND_NOTHING, FOUND_DIR, FOUND_LINK };

struct lowers {
    int layer_fd;
    const int *fds;                  /* topmost first */
    size_t n;
    char (*moved)[2][PATH_MAX];      /* from, to */
    size_t n_moved;
    struct err *err;
};

/* What the layers below have by this name: *ret is a descriptor of the directory, or of the link.
 */
static enum found look(const struct lowers *l, const char *path, int *ret)
{
    struct open_how how = {
        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_NO_XDEV,
    };

    for (size_t i = 0; i < l->n; i++) {
        struct stat st;
        int fd = open_dir(l->fds[i], path);

        if (fd >= 0) {
            *ret = fd;
            return FOUND_DIR;
        }
        fd = path[0] ? (int)syscall(SYS_openat2, l->fds[i], path, &how, sizeof how) : -1;
        if (fd >= 0 && fstat(fd, &st) == 0 && S_ISLNK(st.st_mode)) {
            *ret = fd;
            return FOUND_LINK;
        }
        fd_close(fd);
        if (hides(l->fds[i], path))
            break;
    }
    return FOUND_NOTHING;
}

/* Where the link at path leads, from the root; false: nowhere sensible. */
static bool target_of(int link, const char *path, char out[PATH_MAX])
{
    char target[PATH_MAX], joined[2 * PATH_MAX];
    ssize_t n = readlinkat(link, "", target, sizeof target - 1);
    const char *slash = strrchr(path, '/');
    size_t len = 0;

    if (n <= 0)
        return false;
    target[n] = '\0';
    if (target[0] == '/' || !slash)
        snprintf(joined, sizeof joined, "%s", target);
    else
        snprintf(joined, sizeof joined, "%.*s/%s", (int)(slash - path), path, target);
    for (const char *s = joined; *s; s += strspn(s, "/")) {
        size_t k = strcspn(s, "/");

        if (k == 2 && s[0] == '.' && s[1] == '.') {
            while (len && out[len - 1] != '/')
                len--;
            len -= len > 0;
        } else if (k && !(k == 1 && s[0] == '.')) {
            if (len + k + 2 > PATH_MAX)
                return false;
            if (len)
                out[len++] = '/';
            memcpy(out + len, s, k);
            len += k;
        }
        s += k;
    }
    out[len] = '\0';
    return len > 0;
}

/* Moves what is in one directory of the layer into another; where both have a name, directories
 * come together and else the moved one stays. */
static int merge(int from, int to, int depth, struct err *err)
{
    int fd = fcntl(from, F_DUPFD_CLOEXEC, 0);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    int r = 0;

    if (!d || depth > DEPTH_MAX) {
        r = err_sys(err, "read directory");
        if (d)
            closedir(d);
        else
            fd_close(fd);
        return r;
    }
    rewinddir(d);
    while (r == 0 && (errno = 0, e = readdir(d))) {
        const char *name = e->d_name;

        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
            renameat(from, name, to, name) == 0)
            continue;
        auto_fd int a = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        auto_fd int b = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (a < 0 || b < 0)
            r = err_sys(err, "'%.200s' is there as something else", name);
        else
            r = merge(a, b, depth + 1, err);
        if (r == 0 && unlinkat(from, name, AT_REMOVEDIR) < 0)
            r = err_sys(err, "remove directory '%.200s'", name);
    }
    closedir(d);
    return r;
}

static int apply_one(struct lowers *l, const char *path, int links);

/* The directory in the layer, made with all that leads to it. -ENOTDIR without an error text: the
 * layer itself has something else there. */
static int make_path(struct lowers *l, const char *path, int links, int *ret)
{
    char part[PATH_MAX];
    int fd;

    for (size_t n = strcspn(path, "/");; n += 1 + strcspn(path + n + 1, "/")) {
        memcpy(part, path, n);
        part[n] = '\0';
        if (mkdirat(l->layer_fd, part, 0755) == 0) {
            int r = apply_one(l, part, links + 1);

            if (r < 0)
                return r;
        } else if (errno != EEXIST) {
            return -ENOTDIR;
        }
        if (!path[n])
            break;
    }
    fd = open_dir(l->layer_fd, path);
    if (fd < 0)
        return -ENOTDIR;
    *ret = fd;
    return 0;
}

/* The end of a chain of links, unless the layer itself has a directory on the way. */
static bool follow_links(const struct lowers *l, const char *path, int link, int links,
                         char target[PATH_MAX])
{
    if (links > LINKS_MAX || !target_of(link, path, target))
        return false;
    for (; links <= LINKS_MAX; links++) {
        auto_fd int own = open_dir(l->layer_fd, target), below = -1;
        char from[PATH_MAX];

        if (own >= 0 || look(l, target, &below) != FOUND_LINK)
            return true;
        memcpy(from, target, strlen(target) + 1);
        if (!target_of(below, from, target))
            return false;
    }
    return false;
}

static int move_along(struct lowers *l, const char *path, int dir, int link, int links)
{
    char target[PATH_MAX];
    auto_fd int to = -1;
    struct stat st;
    size_t n = strlen(path);
    int r;

    if (l->n_moved == MOVES_MAX || !follow_links(l, path, link, links, target) ||
        strcmp(target, path) == 0 || (strncmp(target, path, n) == 0 && target[n] == '/'))
        return 0;
    r = make_path(l, target, links, &to);
    if (r < 0)
        return r == -ENOTDIR ? 0 : r;
    if (fstat(to, &st) < 0)
        return err_sys(l->err, "fstat");
    r = merge(dir, to, 0, l->err);
    if (r < 0)
        return err_note(l->err, "moving '%.200s' to '%.200s'", path, target);
    (void)futimens(to, (struct timespec[]){ st.st_mtim, st.st_mtim });
    if (unlinkat(l->layer_fd, path, AT_REMOVEDIR) < 0)
        return err_sys(l->err, "remove directory '%.200s'", path);
    l->moved = mem_grow(l->moved, l->n_moved + 1, sizeof *l->moved);
    memcpy(l->moved[l->n_moved][0], path, n + 1);
    memcpy(l->moved[l->n_moved++][1], target, strlen(target) + 1);
    return 0;
}

static int apply_one(struct lowers *l, const char *path, int links)
{
    auto_fd int to = open_dir(l->layer_fd, path), from = -1;
    int r = 0;

    /* replaced later in the same layer; or nothing shows through */
    if (to < 0 || is_opaque(to))
        return 0;
    switch (look(l, path, &from)) {
    case FOUND_DIR:
        r = copy_meta(from, to, l->err);
        break;
    case FOUND_LINK:
        return move_along(l, path, to, from, links);
    case FOUND_NOTHING:
        break;
    }
    return r < 0 ? err_note(l->err, "directory '%.200s'", path) : 0;
}

/* What a path is called after the moves so far. */
static void follow(const struct lowers *l, const char *path, char out[PATH_MAX])
{
    char next[2 * PATH_MAX];

    snprintf(out, PATH_MAX, "%s", path);
    for (size_t i = 0; i < l->n_moved; i++) {
        size_t n = strlen(l->moved[i][0]);

        if (strncmp(out, l->moved[i][0], n) != 0 || out[n] != '/')
            continue;
        snprintf(next, sizeof next, "%s%s", l->moved[i][1], out + n);
        if (strlen(next) < PATH_MAX)
            memcpy(out, next, strlen(next) + 1);
    }
}

int lower_apply(int layers_fd, int layer_fd, const char *implied, size_t len, char *const *lowers,
                size_t n, struct err *err)
{
    int *fds = mem_array(n, sizeof *fds);
    struct lowers l = { .layer_fd = layer_fd, .fds = fds, .n = n, .err = err };
    int r = 0;
    size_t opened = 0;

    for (; len && opened < n; opened++) {
        fds[opened] = open_dir(layers_fd, lowers[opened]);
        if (fds[opened] < 0) {
            r = err_sys(err, "lower layer %s", lowers[opened]);
            break;
        }
    }
    for (size_t pos = 0; r == 0 && pos < len;) {
        size_t k = strnlen(implied + pos, len - pos);
        char path[PATH_MAX];

        if (k == len - pos || k >= sizeof path)
            break;                   /* not ended by a zero byte */
        follow(&l, implied + pos, path);
        r = apply_one(&l, path, 0);
        pos += k + 1;
    }
    for (size_t i = 0; i < opened; i++)
        (void)close(fds[i]);
    free(fds);
    free(l.moved);
    return r;
}
