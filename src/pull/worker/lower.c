/* SPDX-License-Identifier: Apache-2.0 */
/* A directory that a layer implies (it has a/b/c but no entry for a/b) is, merged, the topmost one of that name: it must look
 * as the layers below left it. Paths come from the locked-up child and are not trusted: beneath, without links. */
#include "mem.h"
#include "pull/worker/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

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

static int apply_one(int layer_fd, const char *path, const int *lowers, size_t n, struct err *err)
{
    auto_fd int to = open_dir(layer_fd, path);

    if (to < 0)                      /* replaced later in the same layer */
        return 0;
    if (is_opaque(to))
        return 0;
    for (size_t i = 0; i < n; i++) {
        auto_fd int from = open_dir(lowers[i], path);

        if (from >= 0) {
            int r = copy_meta(from, to, err);

            return r < 0 ? err_note(err, "directory '%.200s'", path) : 0;
        }
        if (hides(lowers[i], path))
            return 0;
    }
    return 0;
}

int lower_apply(int layers_fd, int layer_fd, const char *implied, size_t len, char *const *lowers, size_t n,
                struct err *err)
{
    int *fds = mem_array(n, sizeof *fds);
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

        if (k == len - pos)
            break;                   /* not ended by a zero byte */
        r = apply_one(layer_fd, implied + pos, fds, n, err);
        pos += k + 1;
    }
    for (size_t i = 0; i < opened; i++)
        (void)close(fds[i]);
    free(fds);
    return r;
}
