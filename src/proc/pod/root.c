/* SPDX-License-Identifier: Apache-2.0 */
/* Paths in a container's root, from outside of it: by openat2(RESOLVE_IN_ROOT) each time, since a
 * volume's content may be somebody else's, and changes meanwhile; a symbolic link in it leads no
 * further than the root. What is missing is made by its last part alone, in a directory found in
 * that way. Nothing here allocates: it runs behind clone3. */
#include "pod.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LINKS_MAX = 40 };             /* as the kernel's */

int root_open(int root, const char *path, int flags)
{
    struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC),
                            .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };

    return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

/* The directory that holds the part of p which begins at start; p is whole again afterwards. */
static int holder(int root, char *p, size_t start)
{
    char c = p[start];
    int fd;

    p[start] = '\0';
    fd = start ? root_open(root, p, O_PATH | O_DIRECTORY) : fcntl(root, F_DUPFD_CLOEXEC, 3);
    p[start] = c;
    return fd;
}

/* Opens p, of which all but the last part, at start, is known to be there; makes that. ENOENT: it
 * is a symbolic link to what is not there. */
static int make_part(int root, char *p, size_t start, bool dir)
{
    int fd = root_open(root, p, O_PATH), in, r;

    if (fd >= 0 || errno != ENOENT)
        return fd;
    in = holder(root, p, start);
    if (in < 0)
        return -1;
    if (dir) {
        r = mkdirat(in, p + start, 0755);
    } else {
        r = openat(in, p + start, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (r >= 0)
            close(r);
    }
    int saved = errno;
    close(in);
    errno = saved;
    return r < 0 && errno != EEXIST ? -1 : root_open(root, p, O_PATH);
}

/* Puts the text of the symbolic link that p ends with, at start, in its place, and rest behind. */
static int follow(int root, char p[PATH_MAX], size_t start, const char *rest)
{
    char q[PATH_MAX];
    int in = holder(root, p, start);
    ssize_t n = in < 0 ? -1 : readlinkat(in, p + start, q, sizeof q);
    int saved = errno == EINVAL ? ENOENT : errno; /* no link: so it was removed meanwhile */
    size_t len = strlen(rest);

    if (in >= 0)
        close(in);
    errno = saved;
    if (n < 0)
        return -1;
    if (q[0] == '/')
        start = 0;
    if (start + (size_t)n + len + 2 > PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memmove(p + start + n + 1, rest, len + 1);
    memcpy(p + start, q, (size_t)n);
    p[start + (size_t)n] = '/';
    return 0;
}

/* Opens the target of a mount; what is missing of it is made, a directory or an empty file, also
 * where links of the image lead: always inside the root. */
int root_make(int root, const char *path, bool dir)
{
    char p[PATH_MAX];
    size_t start = 0, links = 0;
    int fd = root_open(root, path, O_PATH);

    if (fd >= 0 || errno != ENOENT)
        return fd;
    if (strlen(path) >= sizeof p) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(p, path, strlen(path) + 1);
    for (;;) {
        start += strspn(p + start, "/");
        size_t end = start + strcspn(p + start, "/"), rest = end + strspn(p + end, "/");
        bool last = !p[rest];
        if (start == end)
            return root_open(root, p, O_PATH);    /* "/", or a link to it */
        p[end] = '\0';
        fd = make_part(root, p, start, dir || !last);
        if (fd >= 0 && last)
            return fd;
        if (fd >= 0) {
            close(fd);
            p[end] = '/';
            start = rest;
            continue;
        }
        if (errno != ENOENT || follow(root, p, start, p + rest) < 0)
            return -1;
        if (++links > LINKS_MAX) {
            errno = ELOOP;
            return -1;
        }
        start = 0;
    }
}
