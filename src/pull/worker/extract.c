/* SPDX-License-Identifier: Apache-2.0 */
/* Tar entries to files. libarchive reads the formats (ustar, PAX, GNU long names and sparse files);
 * writing is ours, because a layer is no ordinary archive: ".wh.NAME" becomes overlayfs's whiteout
 * (a character device 0:0),
 * ".wh..wh..opq" its opaque mark, and everything goes by descriptors beneath a root that jail.c has
 * closed.
 *
 * Bounds: entries, bytes behind the archive, and the free space that must stay. */
#include "list.h"
#include "mem.h"
#include "pull/worker/tree.h"
#include "pull/worker/unpack.h"
#include "str.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum {
    ENTRIES_MAX = 4 * 1000 * 1000,
    TRAILING_MAX = 16 * 1024 * 1024, /* bytes behind the end mark: padding of tape drives */
    CHECK_EVERY = 256 * 1024,        /* bytes between looks at the free space */
    CHECK_ENTRIES = 4096,
    /* free space that stays: so much, or 2 % of a small file system */
    RESERVE_MAX = 256 * 1024 * 1024,
    BLOCK = 4096,
    XATTR_VALUE_MAX = 64 * 1024,
};

struct extract {
    struct source *src;
    struct archive *a;
    struct tree *tree;
    int root;
    struct err *err;
    struct err src_err;              /* why the source failed: libarchive only knows that it did */
    uint64_t bytes, inodes, entries;
    uint64_t unchecked;              /* bytes written since the free space was looked at */
    const char *name;                /* of the entry, for messages */
};

static la_ssize_t read_cb(struct archive *a, void *arg, const void **buf)
{
    struct extract *x = arg;
    int64_t n = source_read(x->src, buf, &x->src_err);

    if (n < 0)
        archive_set_error(a, (int)-n, "%s", x->src_err.text);
    return n < 0 ? -1 : (la_ssize_t)n;
}

static int check_space(struct extract *x)
{
    struct statfs fs;
    uint64_t reserve, bsize;

    x->unchecked = 0;
    if (fstatfs(x->root, &fs) < 0)
        return err_sys(x->err, "statfs");
    bsize = (uint64_t)fs.f_bsize;
    reserve = (uint64_t)fs.f_blocks * bsize / 50;
    if (reserve > RESERVE_MAX)
        reserve = RESERVE_MAX;
    if ((uint64_t)fs.f_bavail * bsize < reserve)
        return err_code(x->err, -ENOSPC, "after %llu MiB", (unsigned long long)(x->bytes >> 20));
    if (fs.f_files && fs.f_ffree < fs.f_files / 100)
        return err_code(x->err, -ENOSPC, "no inodes left after %llu",
                        (unsigned long long)x->inodes);
    return 0;
}

static void count(struct extract *x, uint64_t bytes)
{
    bytes = (bytes + BLOCK - 1) / BLOCK * BLOCK;
    x->bytes += bytes;
    x->inodes++;
}

/* --- what every kind of entry has */

/* Names that mean something to overlayfs itself would let a layer steer how the others are merged.
 */
static bool xattr_wanted(const char *name)
{
    if (str_starts(name, "trusted.overlay.") || str_starts(name, "user.overlay."))
        return false;
    return str_starts(name, "user.") || str_starts(name, "security.") ||
           str_starts(name, "trusted.") || str_starts(name, "system.posix_acl_");
}

/* fd, or fd -1 and a name in dirfd (which becomes the current directory for it: there is no *at
 * call). */
static int set_xattrs(struct extract *x, struct archive_entry *e, int fd, int dirfd,
                      const char *leaf)
{
    const char *name;
    const void *value;
    size_t size;

    if (archive_entry_xattr_reset(e) == 0)
        return 0;
    if (fd < 0 && fchdir(dirfd) < 0)
        return err_sys(x->err, "chdir");
    while (archive_entry_xattr_next(e, &name, &value, &size) == ARCHIVE_OK) {
        int r;

        if (!xattr_wanted(name))
            continue;
        if (size > XATTR_VALUE_MAX)
            return err_set(x->err, -E2BIG, "xattr %s: %zu bytes", name, size);
        r = fd >= 0 ? fsetxattr(fd, name, value, size, 0) : lsetxattr(leaf, name, value, size, 0);
        if (r < 0 && errno != ENOTSUP)   /* the file system has none of this kind */
            return err_sys(x->err, "xattr %s", name);
    }
    return 0;
}

static struct timespec mtime_of(struct archive_entry *e)
{
    struct timespec t = { archive_entry_mtime(e), archive_entry_mtime_nsec(e) };

    if (!archive_entry_mtime_is_set(e))
        t = (struct timespec){ 0, 0 };
    return t;
}

static int owner_of(struct extract *x, struct archive_entry *e, uid_t *uid, gid_t *gid)
{
    int64_t u = archive_entry_uid(e), g = archive_entry_gid(e);

    if (u < 0 || u >= UINT32_MAX || g < 0 || g >= UINT32_MAX)
        return err_set(x->err, -EINVAL, "owner %lld:%lld", (long long)u, (long long)g);
    *uid = (uid_t)u;
    *gid = (gid_t)g;
    return 0;
}

/* Owner before mode (chown clears set-user-ID), capabilities after both, times last. */
static int set_meta_fd(struct extract *x, struct archive_entry *e, int fd)
{
    struct timespec t = mtime_of(e), times[2] = { t, t };
    uid_t uid;
    gid_t gid;
    int r = owner_of(x, e, &uid, &gid);

    if (r < 0)
        return r;
    if (fchown(fd, uid, gid) < 0)
        return err_sys(x->err, "chown");
    if (fchmod(fd, archive_entry_perm(e) & 07777) < 0)
        return err_sys(x->err, "chmod");
    r = set_xattrs(x, e, fd, -1, NULL);
    if (r == 0 && futimens(fd, times) < 0)
        r = err_sys(x->err, "times");
    return r;
}

static int set_meta_at(struct extract *x, struct archive_entry *e, int dirfd, const char *leaf,
                       bool link)
{
    struct timespec t = mtime_of(e), times[2] = { t, t };
    uid_t uid;
    gid_t gid;
    int r = owner_of(x, e, &uid, &gid);

    if (r < 0)
        return r;
    if (fchownat(dirfd, leaf, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
        return err_sys(x->err, "chown");
    if (!link && fchmodat(dirfd, leaf, archive_entry_perm(e) & 07777, 0) < 0)
        return err_sys(x->err, "chmod");
    r = set_xattrs(x, e, -1, dirfd, leaf);
    if (r == 0 && utimensat(dirfd, leaf, times, AT_SYMLINK_NOFOLLOW) < 0)
        r = err_sys(x->err, "times");
    return r;
}

/* --- kinds of entries */

static int write_data(struct extract *x, int fd, int64_t size)
{
    int64_t end = 0, written = 0;

    for (;;) {
        const void *p;
        size_t n;
        la_int64_t off;
        int r = archive_read_data_block(x->a, &p, &n, &off);

        if (r == ARCHIVE_EOF)
            break;
        if (r < ARCHIVE_WARN)
            return err_set(x->err, -EBADMSG, "%s", archive_error_string(x->a));
        for (const char *c = p; n;) {
            ssize_t w = pwrite(fd, c, n, off);

            if (w < 0)
                return err_sys(x->err, "write");
            c += w;
            n -= (size_t)w;
            off += w;
            written += w;
            x->unchecked += (uint64_t)w;
        }
        end = off > end ? off : end;
        if (x->unchecked >= CHECK_EVERY) {
            r = check_space(x);
            if (r < 0)
                return r;
        }
    }
    if (end != size && ftruncate(fd, size) < 0)  /* a hole at the end */
        return err_sys(x->err, "truncate");
    count(x, (uint64_t)written);
    return 0;
}

static int put_file(struct extract *x, struct archive_entry *e, int dirfd, const char *leaf)
{
    enum { FLAGS = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC };
    auto_fd int fd = openat(dirfd, leaf, FLAGS, 0600);
    int r;

    if (fd < 0 && errno == EEXIST) {
        r = tree_clear(dirfd, leaf, x->err);
        if (r < 0)
            return r;
        fd = openat(dirfd, leaf, FLAGS, 0600);
    }
    if (fd < 0)
        return err_sys(x->err, "create");
    r = write_data(x, fd, archive_entry_size(e));
    return r < 0 ? r : set_meta_fd(x, e, fd);
}

static int put_link(struct extract *x, const char *target, int dirfd, const char *leaf)
{
    char clean[PATH_MAX];
    struct stat st, old;
    int r = tree_clean(target, clean, x->err);

    if (r < 0)
        return r;
    if (!clean[0])
        return err_set(x->err, -EINVAL, "hard link to the root");
    if (fstatat(x->root, clean, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return err_sys(x->err, "hard link to '%.200s', which this layer does not have", target);
    if (fstatat(dirfd, leaf, &old, AT_SYMLINK_NOFOLLOW) == 0) {
        if (old.st_ino == st.st_ino && old.st_dev == st.st_dev)
            return 0;                /* to itself, or the same again */
        r = tree_clear(dirfd, leaf, x->err);
        if (r < 0)
            return r;
    }
    if (linkat(x->root, clean, dirfd, leaf, 0) < 0)
        return err_sys(x->err, "hard link to '%.200s'", target);
    return 0;
}

static int put_dir(struct extract *x, struct archive_entry *e, int dirfd, const char *leaf)
{
    auto_fd int fd = -1;
    struct timespec t = mtime_of(e);
    int r = tree_mkdir(x->tree, dirfd, leaf, &fd, x->err);

    if (r == 0)
        r = set_meta_fd(x, e, fd);
    if (r == 0)
        tree_explicit(x->tree, leaf, &t);
    return r;
}

static int put_root(struct extract *x, struct archive_entry *e)
{
    struct timespec t = mtime_of(e);
    int r;

    if (archive_entry_filetype(e) != AE_IFDIR)
        return err_set(x->err, -EINVAL, "the root is no directory");
    r = set_meta_fd(x, e, x->root);
    if (r == 0)
        tree_explicit(x->tree, NULL, &t);
    return r;
}

static int put_special(struct extract *x, struct archive_entry *e, int dirfd, const char *leaf)
{
    mode_t type = archive_entry_filetype(e);
    const char *target = archive_entry_symlink(e);
    int r = tree_clear(dirfd, leaf, x->err);

    if (r < 0)
        return r;
    if (type == AE_IFLNK) {
        if (str_empty(target))
            return err_set(x->err, -EBADMSG, "symbolic link without a target");
        if (symlinkat(target, dirfd, leaf) < 0)
            return err_sys(x->err, "symlink");
    } else {
        dev_t dev =
            makedev((unsigned)archive_entry_rdevmajor(e), (unsigned)archive_entry_rdevminor(e));

        if (mknodat(dirfd, leaf, type | 0600, type == AE_IFIFO ? 0 : dev) < 0)
            return err_sys(x->err, "mknod");
    }
    count(x, 0);
    return set_meta_at(x, e, dirfd, leaf, type == AE_IFLNK);
}

/* ".wh." names. 1: it was one. */
static int put_whiteout(struct extract *x, int dirfd, const char *leaf)
{
    if (!str_starts(leaf, ".wh."))
        return 0;
    if (strcmp(leaf, ".wh..wh..opq") == 0) {
        auto_fd int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int r = fd < 0 ? err_sys(x->err, "open") : tree_opaque(fd, x->err);

        return r < 0 ? r : 1;
    }
    if (str_starts(leaf, ".wh..wh."))    /* bookkeeping of aufs, long gone */
        return 1;
    leaf += strlen(".wh.");
    if (!leaf[0] || strcmp(leaf, ".") == 0 || strcmp(leaf, "..") == 0)
        return err_set(x->err, -EINVAL, "whiteout of nothing");
    int r = tree_whiteout(x->tree, dirfd, leaf, x->err);

    return r < 0 ? r : 1;
}

static int put_entry(struct extract *x, struct archive_entry *e)
{
    char path[PATH_MAX];
    const char *leaf;
    int dirfd, r;

    r = tree_clean(x->name, path, x->err);
    if (r < 0)
        return r;
    if (!path[0])
        return put_root(x, e);
    r = tree_parent(x->tree, path, &dirfd, &leaf, x->err);
    if (r < 0)
        return r;
    r = put_whiteout(x, dirfd, leaf);
    if (r != 0)
        return r < 0 ? r : 0;
    if (archive_entry_hardlink(e))
        return put_link(x, archive_entry_hardlink(e), dirfd, leaf);
    switch (archive_entry_filetype(e)) {
    case AE_IFREG:
        return put_file(x, e, dirfd, leaf);
    case AE_IFDIR:
        return put_dir(x, e, dirfd, leaf);
    case AE_IFLNK:
    case AE_IFCHR:
    case AE_IFBLK:
    case AE_IFIFO:
        return put_special(x, e, dirfd, leaf);
    default:
        return err_set(x->err, -EBADMSG, "unknown kind of entry");
    }
}

static int archive_failed(struct extract *x, const char *what)
{
    if (x->src_err.code) {
        *x->err = x->src_err;
        return x->err->code;
    }
    return err_set(x->err, -EBADMSG, "%s: %s", what,
                   archive_error_string(x->a) ? archive_error_string(x->a) : "?");
}

static int read_entries(struct extract *x)
{
    struct archive_entry *e;
    int r;

    while ((r = archive_read_next_header(x->a, &e)) != ARCHIVE_EOF) {
        if (r < ARCHIVE_WARN && r != ARCHIVE_RETRY)
            return archive_failed(x, "tar");
        if (r == ARCHIVE_RETRY)
            continue;
        x->name = archive_entry_pathname(e);
        if (!x->name)
            return err_set(x->err, -EILSEQ, "tar: entry %llu has no usable name",
                           (unsigned long long)x->entries);
        if (++x->entries > ENTRIES_MAX)
            return err_set(x->err, -E2BIG, "tar: more than %d entries", ENTRIES_MAX);
        r = x->entries % CHECK_ENTRIES ? 0 : check_space(x);
        if (r == 0)
            r = put_entry(x, e);
        if (r < 0 && x->src_err.code)
            return archive_failed(x, "tar");
        if (r < 0)
            return err_note(x->err, "'%.200s'", x->name);
    }
    return 0;
}

/* The diff ID covers every byte, also those behind the end mark. */
static int drain(struct extract *x)
{
    uint64_t total = 0;
    const void *p;
    int64_t n;

    while ((n = source_read(x->src, &p, x->err)) > 0) {
        total += (uint64_t)n;
        if (total > TRAILING_MAX)
            return err_set(x->err, -E2BIG, "more than %d MiB behind the end of the archive",
                           TRAILING_MAX >> 20);
    }
    return (int)n;
}

int extract_layer(struct source *src, FILE *implied, struct extracted *ret, struct err *err)
{
    struct extract x = { .src = src, .err = err, .root = -1 };
    int r;

    x.root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (x.root < 0)
        return err_sys(err, "open layer directory");
    x.tree = tree_new(x.root);
    x.a = archive_read_new();
    if (!x.a)
        abort();
    archive_read_support_format_tar(x.a);
    archive_read_support_format_empty(x.a);
    r = check_space(&x);
    if (r == 0 && archive_read_open(x.a, &x, NULL, read_cb, NULL) != ARCHIVE_OK)
        r = archive_failed(&x, "tar");
    if (r == 0)
        r = read_entries(&x);
    if (r == 0)
        r = drain(&x);
    if (r == 0)
        r = tree_finish(x.tree, implied, err);
    if (r == 0) {
        ret->inodes = x.inodes + tree_inodes(x.tree) + 1;
        ret->bytes = x.bytes + (tree_inodes(x.tree) + 1) * BLOCK;
    }
    archive_read_free(x.a);
    tree_free(x.tree);
    (void)close(x.root);
    return r;
}
