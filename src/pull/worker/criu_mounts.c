/* SPDX-License-Identifier: Apache-2.0 */
/* What is external, as criu calls what it shall not dump because the restorer has it: the network
 * namespace, a PID namespace that is the pod's, mounts that the container's configuration brings
 * in, with all that is mounted below them, and every mount of a part of a file system (a masked
 * file, a directory of cgroup v1) whose root is nowhere in the container. The keys are runc's. */
#include "pull/worker/checkpoint.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

struct mnt {
    unsigned major, minor;
    char *root, *point, *type;
    bool external;
};

/* \040 and the like, in place. */
static char *unescape(char *s)
{
    char *to = s;

    for (const char *p = s; *p; p++) {
        if (p[0] == '\\' && p[1] && p[2] && p[3]) {
            *to++ = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
            p += 3;
        } else {
            *to++ = *p;
        }
    }
    *to = '\0';
    return s;
}

static bool parse_mount(const char *line, struct mnt *m)
{
    const char *dash = strstr(line, " - ");

    memset(m, 0, sizeof *m);
    if (dash && sscanf(line, "%*d %*d %u:%u %ms %ms", &m->major, &m->minor, &m->root,
                       &m->point) == 4 && sscanf(dash, " - %ms", &m->type) == 1) {
        unescape(m->root);
        unescape(m->point);
        return true;
    }
    free(m->root);
    free(m->point);
    free(m->type);
    return false;
}

bool criu_below(const char *path, const char *top)
{
    size_t n = strlen(top);

    while (n > 1 && top[n - 1] == '/')
        n--;
    return strncmp(path, top, n) == 0 && (!path[n] || path[n] == '/');
}

bool criu_same_ns(pid_t pid, const char *name)
{
    auto_free char *theirs = mem_printf("/proc/%d/ns/%s", (int)pid, name);
    auto_free char *ours = mem_printf("/proc/self/ns/%s", name);
    struct stat a, b;

    return stat(theirs, &a) == 0 && stat(ours, &b) == 0 && a.st_ino == b.st_ino;
}

static bool has_root(const struct mnt *v, size_t n, const struct mnt *of)
{
    for (size_t i = 0; i < n; i++)
        if (v[i].major == of->major && v[i].minor == of->minor && !v[i].external &&
            strcmp(v[i].root, "/") == 0)
            return true;
    return false;
}

/* Where a path of the configuration leads in the container: links on the way are the image's. */
static char *resolved(int root, const char *path)
{
    struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
    auto_fd int fd = (int)syscall(SYS_openat2, root, path, &how, sizeof how);
    auto_free char *link = mem_printf("/proc/self/fd/%d", fd);
    char to[PATH_MAX];
    ssize_t n = fd < 0 ? -1 : readlink(link, to, sizeof to - 1);

    to[n < 0 ? 0 : n] = '\0';
    return mem_strdup(to[0] == '/' ? to : path);
}

/* A terminal whose master the supervisor has. */
static bool is_console(const struct mnt *m)
{
    return strcmp(m->type, "devpts") == 0 && strcmp(m->root, "/") != 0 &&
           strcmp(m->root, "/ptmx") != 0;
}

static void judge(const struct criu_job *job, struct mnt *v, size_t n)
{
    bool own_cgroupns = !criu_same_ns(job->pid, "cgroup");
    auto_free char *path = mem_printf("/proc/%d/root", (int)job->pid);
    auto_fd int root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

    for (char *const *e = job->external; *e; e++) {
        auto_free char *to = resolved(root, *e);

        for (size_t i = 0; i < n; i++)
            if (strcmp(v[i].point, "/") != 0 && criu_below(v[i].point, to))
                v[i].external = true;
    }
    for (size_t i = 0; i < n; i++)
        if (strcmp(v[i].point, "/") != 0 && !v[i].external &&
            (is_console(&v[i]) ||
             (!has_root(v, n, &v[i]) && !(strcmp(v[i].type, "cgroup2") == 0 && own_cgroupns))))
            v[i].external = true;
}

int criu_add_mounts(const struct criu_job *job, struct criu_args *a, struct err *err)
{
    auto_free char *path = mem_printf("/proc/%d/mountinfo", (int)job->pid), *line = NULL;
    FILE *f = fopen(path, "re");
    struct mnt *v = NULL;
    size_t n = 0, cap = 0;

    if (!f)
        return err_sys(err, "'%s'", path);
    while (getline(&line, &cap, f) > 0) {
        v = mem_grow(v, n + 1, sizeof *v);
        n += parse_mount(line, &v[n]);
    }
    fclose(f);
    judge(job, v, n);
    for (size_t i = 0; i < n; i++) {
        if (v[i].external) {
            criu_arg(a, "--external");
            criu_arg(a, "mnt[%s]:%s", v[i].point,
                strcmp(v[i].root, "/null") == 0 ? "/dev/null" : v[i].point);
        }
        free(v[i].root);
        free(v[i].point);
        free(v[i].type);
    }
    free(v);
    return 0;
}
