/* SPDX-License-Identifier: Apache-2.0 */
/* A look at the host's paths, at create, without waiting for anybody.
 *
 * kubelet hands over volumes on NFS and the like, and a stat() on one whose server is gone hangs
 * for minutes: on the daemon's only thread. So a path is first looked up in the kernel's own cache
 * (openat2 RESOLVE_CACHED); only where that is not enough and the mount that the path is on is a
 * local one, the disk is asked. What is left is for the launcher, which may wait. */
#include "handlers/spec_impl.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

char *spec_path_clean(struct pool *p, const char *path)
{
    char *out = pool_alloc(p, strlen(path) + 2), *end = out;

    while (*path) {
        size_t n;

        path += strspn(path, "/");
        n = strcspn(path, "/");
        if (n == 2 && path[0] == '.' && path[1] == '.') {
            while (end > out && *--end != '/')
                ;
        } else if (n && !(n == 1 && path[0] == '.')) {
            *end++ = '/';
            memcpy(end, path, n);
            end += n;
        }
        path += n;
    }
    if (end == out)
        *end++ = '/';
    *end = '\0';
    return out;
}

bool spec_path_below(const char *path, const char *top)
{
    size_t n = strlen(top);

    if (n == 1)
        return true;
    return strncmp(path, top, n) == 0 && (!path[n] || path[n] == '/');
}

struct mount_line {
    long long id;
    char *point, *tags, *type;
};

/* Undoes \040 and its like, in place. */
static void unescape(char *s)
{
    char *out = s;

    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
            s[3] >= '0' && s[3] <= '7') {
            *out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 3;
        } else {
            *out++ = *s;
        }
    }
    *out = '\0';
}

/* proc_pid_mountinfo(5): id parent dev root point options [tags ...] - type source options */
static bool parse_line(char *line, struct mount_line *m)
{
    char *sep = strstr(line, " - "), *save = NULL, *f;

    if (!sep)
        return false;
    *sep = '\0';
    m->type = sep + 3;
    m->type[strcspn(m->type, " \n")] = '\0';
    f = strtok_r(line, " ", &save);
    m->id = f ? strtoll(f, NULL, 10) : -1;
    for (int i = 0; i < 4 && f; i++)
        f = strtok_r(NULL, " ", &save);
    m->point = f;
    f = f ? strtok_r(NULL, " ", &save) : NULL;
    m->tags = save;
    if (!f || !m->tags)
        return false;
    unescape(m->point);
    return true;
}

static bool is_remote(const char *type)
{
    static const char *const types[] = { "nfs",    "nfs4",   "cifs",  "smb3", "ceph",  "9p",
                                         "afs",    "lustre", "gpfs",  "gfs2", "ocfs2", "glusterfs",
                                         "beegfs", "autofs", "ncpfs", "coda" };

    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (strcmp(type, types[i]) == 0)
            return true;
    return str_starts(type, "fuse");
}

/* Is the deepest mount above the (textual) path one of a server? Also when that cannot be found
 * out. */
static bool on_remote(const char *path)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    auto_free char *line = NULL;
    size_t cap = 0, best = 0;
    bool remote = false;

    if (!f)
        return true;
    while (getline(&line, &cap, f) > 0) {
        struct mount_line m;

        if (!parse_line(line, &m) || !spec_path_below(path, m.point) || strlen(m.point) < best)
            continue;
        best = strlen(m.point);
        remote = is_remote(m.type);
    }
    (void)fclose(f);
    return remote;
}

int spec_host_open(const char *path, int *ret_fd)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_CACHED };
    struct pool p = POOL_INIT;
    bool remote;
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);

    if (fd < 0 && (errno == EAGAIN || errno == EINVAL || errno == ENOSYS)) {
        remote = on_remote(spec_path_clean(&p, path));
        pool_deinit(&p);
        if (remote)
            return 1;
        fd = open(path, O_PATH | O_CLOEXEC);
    }
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

int spec_host_mount(int fd, char **ret_propagation, char **ret_point)
{
    auto_free char *line = NULL;
    struct statx st;
    size_t cap = 0;
    int r = -ENOENT;
    FILE *f;

    if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &st) < 0)
        return -errno;
    if (!(st.stx_mask & STATX_MNT_ID))
        return -EOPNOTSUPP;
    f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return -errno;
    while (getline(&line, &cap, f) > 0) {
        struct mount_line m;

        if (parse_line(line, &m) && m.id == (long long)st.stx_mnt_id) {
            *ret_propagation = mem_strdup(m.tags);
            *ret_point = mem_strdup(m.point);
            r = 0;
            break;
        }
    }
    (void)fclose(f);
    return r;
}
