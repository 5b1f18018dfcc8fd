/* SPDX-License-Identifier: Apache-2.0 */
/* cricket-worker remove
 *
 *   0   paths beneath the root directory, one per line          3   the root directory
 *
 * Deletes each tree, slowly: after a mass deletion ext4 is slow at making files for half a minute,
 * and nobody waits for the space of a removed image. By descriptors, never across a mount, never
 * along a symbolic link. What lies too deep is moved up first, so that neither the stack nor the
 * number of descriptors depends on who made the tree. */
#include "err.h"
#include "mem.h"
#include "pull/worker/worker.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    ROOT_FD = 3,
    DEPTH = 64,
    BATCH = 64,                      /* entries, or */
    BATCH_BYTES = 64 * 1024 * 1024,
    REST_MS = 20,                    /* then a rest: some 3000 entries a second */
    ROUNDS = 100000,
    NICE = 10,
};

struct removal {
    int top;                         /* the tree's own directory: what lies too deep comes here */
    unsigned long moved;
    unsigned batch;
    uint64_t batch_bytes;
    struct err err;                  /* the first thing that could not be removed */
};

static int open_dir(int dirfd, const char *path)
{
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_NO_XDEV,
    };

    return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof how);
}

static void rest(struct removal *m, uint64_t bytes)
{
    struct timespec t = { 0, REST_MS * 1000000L };

    m->batch_bytes += bytes;
    if (++m->batch < BATCH && m->batch_bytes < BATCH_BYTES)
        return;
    m->batch = 0;
    m->batch_bytes = 0;
    (void)nanosleep(&t, NULL);
}

/* chattr +i and +a, which a container with the right may have set. */
static bool make_mutable(int dirfd, const char *name)
{
    auto_fd int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int flags = 0;

    if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 ||
        !(flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)))
        return false;
    flags &= ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
    return ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
}

static bool drop(struct removal *m, int dirfd, const char *name, int flags)
{
    if (unlinkat(dirfd, name, flags) == 0 || errno == ENOENT)
        return true;
    if (errno == EPERM) {
        struct stat st;

        if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) && make_mutable(dirfd, name) &&
            unlinkat(dirfd, name, flags) == 0)
            return true;
        errno = EPERM;
    }
    if (!m->err.code)
        err_sys(&m->err, "remove '%s'", name);
    return false;
}

/* Empties a directory. True: nothing is left in it. */
static bool empty(struct removal *m, int fd, int depth)
{
    DIR *d = fdopendir(fd);          /* takes fd */
    struct dirent *e;
    bool clean = true;

    if (!d) {
        (void)close(fd);
        return false;
    }
    while ((e = readdir(d))) {
        struct stat st;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            int sub;

            if (depth >= DEPTH) {
                char up[32];

                snprintf(up, sizeof up, ".deep-%lu", m->moved++);
                if (renameat(dirfd(d), e->d_name, m->top, up) < 0)
                    clean = false;
                continue;
            }
            sub = open_dir(dirfd(d), e->d_name);
            if (sub < 0) {
                if (!m->err.code)
                    err_sys(&m->err, "open '%s'", e->d_name);
                clean = false;
                continue;
            }
            (void)fchmod(sub, 0700);
            clean &= empty(m, sub, depth + 1) && drop(m, dirfd(d), e->d_name, AT_REMOVEDIR);
        } else {
            clean &= drop(m, dirfd(d), e->d_name, 0);
        }
        rest(m, S_ISREG(st.st_mode) && st.st_nlink == 1 ? (uint64_t)st.st_blocks * 512 : 0);
    }
    closedir(d);
    return clean;
}

static int remove_tree(const char *path)
{
    struct removal m = { .err = ERR_INIT };
    const char *slash = strrchr(path, '/'), *leaf = slash ? slash + 1 : path;
    auto_free char *dir = mem_dup(path, slash ? (size_t)(slash - path) : 0);
    auto_fd int parent = open_dir(ROOT_FD, dir[0] ? dir : ".");
    struct stat st;

    if (parent < 0 || fstatat(parent, leaf, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : err_sys(&m.err, "'%s'", path);
    if (!S_ISDIR(st.st_mode))
        return drop(&m, parent, leaf, 0) ? 0 : -EIO;
    for (int round = 0; round < ROUNDS; round++) {
        auto_fd int top = open_dir(parent, leaf);
        unsigned long moved = m.moved;

        if (top < 0)
            return errno == ENOENT ? 0 : -errno;
        m.top = top;
        m.err.code = 0;
        if (empty(&m, fcntl(top, F_DUPFD_CLOEXEC, 0), 0) && m.moved == moved &&
            (unlinkat(parent, leaf, AT_REMOVEDIR) == 0 || errno == ENOENT))
            return 0;
        /* no progress; the first rounds may meet a writer that is just dying */
        if (m.moved == moved && round > 2)
            break;
        if (m.moved == moved)
            (void)nanosleep(&(struct timespec){ 0, 100 * 1000000L }, NULL);
    }
    fprintf(stderr, "'%s': %s\n", path, m.err.code ? m.err.text : "not empty");
    return -EIO;
}

int worker_remove(int argc, char **argv)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int failed = 0;

    (void)argc;
    (void)argv;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)!nice(NICE);
    while ((n = getline(&line, &cap, stdin)) > 0) {
        if (line[n - 1] == '\n')
            line[--n] = '\0';
        if (n > 0)
            failed |= remove_tree(line) < 0;
    }
    free(line);
    return failed ? 1 : 0;
}
