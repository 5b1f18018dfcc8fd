/* SPDX-License-Identifier: Apache-2.0 */
/* A directory as a tar file.
 *
 * The upper directory of a container may be written to meanwhile, by an exec that criu does not
 * hold, and by one that means harm. Nothing here follows a symbolic link or joins a path: each
 * directory is opened from the one above, which stays open, so that no renaming leads out of the
 * tree. What an entry's header says of its size is kept: a file that shrinks is filled with zeros.
 */
#include "pull/worker/checkpoint.h"

#include "mem.h"
#include "str.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

enum { DEPTH_MAX = 400, BLOCK = 256 * 1024, XATTR_MAX = 64 * 1024 };

struct tar {
    struct archive *a;
    struct archive_entry_linkresolver *links;
    bool overlay;                    /* whiteouts and opaque directories are what they mean */
    const char *but;                 /* not this one, at the top */
    bool (*stop)(void);
    char *buf;
};

static int failed(struct tar *t, const char *path, struct err *err)
{
    int e = archive_errno(t->a);

    return err_set(err, e > 0 ? -e : -EIO, "archive: '%.200s': %s", path,
                   archive_error_string(t->a) ? archive_error_string(t->a) : "cannot be written");
}

static int header(struct tar *t, struct archive_entry *e, struct err *err)
{
    return archive_write_header(t->a, e) < ARCHIVE_WARN
               ? failed(t, archive_entry_pathname(e), err) : 0;
}

/* An empty file that says something by its name. */
static int marker(struct tar *t, const char *path, struct err *err)
{
    struct archive_entry *e = archive_entry_new();
    int r;

    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0600);
    archive_entry_set_size(e, 0);
    r = header(t, e, err);
    archive_entry_free(e);
    return r;
}

/* Overlay's own are about this overlay only. */
static void add_xattrs(struct archive_entry *e, int fd)
{
    auto_free char *names = mem_alloc(XATTR_MAX), *value = mem_alloc(XATTR_MAX);
    ssize_t n = flistxattr(fd, names, XATTR_MAX);

    for (const char *p = names; n > 0 && p < names + n; p += strlen(p) + 1) {
        ssize_t len = str_starts(p, "trusted.overlay.") ? -1 : fgetxattr(fd, p, value, XATTR_MAX);

        if (len >= 0)
            archive_entry_xattr_add_entry(e, p, value, (size_t)len);
    }
}

static int copy(struct tar *t, int fd, int64_t size, const char *path, struct err *err)
{
    while (size > 0) {
        size_t want = size < BLOCK ? (size_t)size : BLOCK;
        ssize_t n = read(fd, t->buf, want);

        if (t->stop())
            return err_set(err, -ECANCELED, "given up while '%.200s' was being archived", path);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "read '%.200s'", path);
        if (n == 0) {
            memset(t->buf, 0, want);
            n = (ssize_t)want;
        }
        if (archive_write_data(t->a, t->buf, (size_t)n) < 0)
            return failed(t, path, err);
        size -= n;
    }
    return 0;
}

static int add_dir(struct tar *t, int fd, const char *prefix, unsigned depth, struct err *err);

/* fd: of a file or directory, else -1. */
static int add_entry(struct tar *t, int dir, const char *name, int fd, const struct stat *st,
                     const char *path, struct err *err)
{
    struct archive_entry *e = archive_entry_new(), *spare = NULL;
    char to[4096];
    int r;

    archive_entry_copy_stat(e, st);
    archive_entry_set_pathname(e, path);
    if (S_ISLNK(st->st_mode)) {
        ssize_t n = readlinkat(dir, name, to, sizeof to - 1);

        to[n < 0 ? 0 : n] = '\0';
        archive_entry_set_symlink(e, to);
    }
    if (fd >= 0)
        add_xattrs(e, fd);
    archive_entry_linkify(t->links, &e, &spare);    /* a further name of a file: no content */
    r = header(t, e, err);
    if (r == 0 && S_ISREG(st->st_mode) && archive_entry_size(e) > 0)
        r = copy(t, fd, st->st_size, path, err);
    archive_entry_free(e);
    return r;
}

static int add(struct tar *t, int dir, const char *name, const char *prefix, unsigned depth,
               struct err *err)
{
    auto_free char *path = mem_printf("%s%s", prefix, name);
    auto_fd int fd = -1;
    struct stat st;
    char y;
    int r;

    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : err_sys(err, "'%.200s'", path);
    if (t->overlay && S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0)) {
        auto_free char *gone = mem_printf("%s.wh.%s", prefix, name);

        return marker(t, gone, err);
    }
    if (S_ISSOCK(st.st_mode))
        return 0;                    /* tar has none */
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) {
        fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC |
                                   (S_ISDIR(st.st_mode) ? O_DIRECTORY : 0));
        if (fd < 0 && (errno == ENOENT || errno == ELOOP || errno == ENOTDIR))
            return 0;                /* another one meanwhile */
        if (fd < 0)
            return err_sys(err, "open '%.200s'", path);
        mode_t type = st.st_mode & S_IFMT;
        if (fstat(fd, &st) < 0 || (st.st_mode & S_IFMT) != type)
            return 0;
    }
    r = add_entry(t, dir, name, fd, &st, path, err);
    if (r < 0 || !S_ISDIR(st.st_mode))
        return r;
    auto_free char *below = mem_printf("%s/", path);
    if (t->overlay && fgetxattr(fd, "trusted.overlay.opaque", &y, 1) == 1 && y == 'y') {
        auto_free char *opaque = mem_printf("%s.wh..wh..opq", below);

        r = marker(t, opaque, err);
    }
    return r < 0 ? r : add_dir(t, fd, below, depth + 1, err);
}

static int add_dir(struct tar *t, int fd, const char *prefix, unsigned depth, struct err *err)
{
    int copy_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0), r = 0;
    DIR *d = copy_fd < 0 ? NULL : fdopendir(copy_fd);
    struct dirent *e;

    if (!d) {
        r = err_sys(err, "directory '%.200s'", prefix);
        fd_close(copy_fd);
        return r;
    }
    if (depth > DEPTH_MAX)
        r = err_set(err, -ENAMETOOLONG, "'%.200s...': more than %d directories deep", prefix,
                    DEPTH_MAX);
    while (r == 0 && (e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            (depth == 0 && t->but && strcmp(e->d_name, t->but) == 0))
            continue;
        if (t->stop())
            r = err_set(err, -ECANCELED, "given up while '%.200s' was being archived", prefix);
        else
            r = add(t, fd, e->d_name, prefix, depth, err);
    }
    closedir(d);
    return r;
}

static int tar_tree(int out, const char *dir, bool overlay, const char *but, bool (*stop)(void),
                    struct err *err)
{
    struct tar t = { .a = archive_write_new(), .links = archive_entry_linkresolver_new(),
                     .overlay = overlay, .but = but, .stop = stop, .buf = mem_alloc(BLOCK) };
    auto_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = 0;

    archive_write_set_format_pax_restricted(t.a);
    archive_entry_linkresolver_set_strategy(t.links, archive_format(t.a));
    if (fd < 0)
        r = err_sys(err, "directory '%s'", dir);
    else if (archive_write_open_fd(t.a, out) != ARCHIVE_OK)
        r = failed(&t, dir, err);
    if (r == 0)
        r = add_dir(&t, fd, "", 0, err);
    if (r == 0 && archive_write_close(t.a) != ARCHIVE_OK)
        r = failed(&t, dir, err);
    archive_entry_linkresolver_free(t.links);
    (void)archive_write_free(t.a);
    free(t.buf);
    return r;
}

int tar_upper(int out, const char *upper, bool (*stop)(void), struct err *err)
{
    return tar_tree(out, upper, true, NULL, stop, err);
}

int tar_here(int out, const char *but, bool (*stop)(void), struct err *err)
{
    return tar_tree(out, ".", false, but, stop, err);
}
