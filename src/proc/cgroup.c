/* SPDX-License-Identifier: Apache-2.0 */
/* cgroups, the part that is the same for v1 and v2: finding the hierarchies, files of a directory,
 * joining. cgroup_make.c makes and removes directories, cgroup_limits.c applies limits,
 * cgroup_kill.c ends what lives in them.
 *
 * v1: every hierarchy that has a controller, and the named ones (name=systemd): a container in
 * systemd's own hierarchy must not stay in cricket.service, or stopping the service would kill it.
 * The unified hierarchy that systemd mounts beside them is left alone: it has no controllers, and
 * joining it means cgroup.procs, whose RCU grace period costs ten times the whole join. v2: the
 * one.
 *
 * Nothing here waits, but for the kernel's own work in a write. */
#include "proc/cgroup_impl.h"

#include "mem.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct cgroup_mounted cg;

/* --- what is mounted */

bool cgroup_is_v2(void)
{
    return cg.kind == &cgroup2;
}

const char *cgroup_controllers(void)
{
    return cg.controllers;
}

static bool in_list(const char *list, const char *name)
{
    size_t n = strlen(name);

    for (const char *s = list; *s; s += strcspn(s, ","), s += *s == ',')
        if (strncmp(s, name, n) == 0 && (s[n] == ',' || !s[n]))
            return true;
    return false;
}

const struct hier *cgroup_hier(const char *controller)
{
    if (cgroup_is_v2())
        return &cg.h[0];
    for (size_t i = 0; i < cg.n; i++)
        if (in_list(cg.h[i].controllers, controller))
            return &cg.h[i];
    return NULL;
}

/* Of the options of a v1 mount, what names the hierarchy: controllers, or name=x. "" for none. */
static void hierarchy_name(const char *options, struct str *ret)
{
    static const char *const noise[] = { "rw", "ro", "xattr", "noprefix", "clone_children",
                                         "cpuset_v2_mode", "favordynmods" };
    auto_free char *copy = mem_strdup(options);
    char *save = NULL;

    for (char *o = strtok_r(copy, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
        bool skip = str_starts(o, "release_agent=");

        for (size_t i = 0; i < ARRAY_LEN(noise); i++)
            skip |= strcmp(o, noise[i]) == 0;
        if (!skip)
            str_printf(ret, "%s%s", ret->len ? "," : "", o);
    }
}

static int add_hier(const char *mount, const char *controllers, struct err *err)
{
    int fd;

    for (size_t i = 0; i < cg.n; i++)
        if (strcmp(cg.h[i].controllers, controllers) == 0)
            return 0;                /* mounted twice */
    if (cg.n == CGROUP_FDS_MAX)
        return err_set(err, -ENOTSUP, "more than %d cgroup hierarchies are mounted",
                       CGROUP_FDS_MAX);
    fd = open(mount, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(err, "cgroup hierarchy '%s'", mount);
    cg.h[cg.n++] = (struct hier){ fd, mem_strdup(mount), mem_strdup(controllers), false };
    return 0;
}

/* One line of mountinfo, proc_pid_mountinfo(5): cuts out mount point, type and super options. */
static bool mountinfo_fields(char *line, char **mount, char **type, char **options)
{
    char *save = NULL, *sep = strstr(line, " - "), *f = strtok_r(line, " ", &save);

    if (!sep)
        return false;
    for (int i = 0; i < 4 && f; i++)
        f = strtok_r(NULL, " ", &save);
    *mount = f;
    save = NULL;
    *type = strtok_r(sep + 3, " ", &save);
    (void)strtok_r(NULL, " ", &save);
    *options = strtok_r(NULL, " \n", &save);
    return *mount && *type && *options;
}

static int scan(FILE *f, bool *v1, char **ret_v2, struct err *err)
{
    static const char top[] = "/sys/fs/cgroup/";
    auto_free char *line = NULL;
    size_t cap = 0;

    while (getline(&line, &cap, f) > 0) {
        auto_str struct str name = STR_INIT;
        char *mount, *type, *options;
        int r;

        if (!mountinfo_fields(line, &mount, &type, &options))
            continue;
        if (strcmp(type, "cgroup2") == 0 && !*ret_v2)
            *ret_v2 = mem_strdup(mount);
        if (strcmp(type, "cgroup") != 0)
            continue;
        hierarchy_name(options, &name);
        if (!name.len)
            continue;
        r = add_hier(mount, name.p, err);
        if (r < 0)
            return r;
        if (str_starts(mount, top) && !strchr(mount + strlen(top), '/'))
            str_printf(&cg.dirs1, "%s%s", cg.dirs1.len ? ":" : "", mount + strlen(top));
        *v1 |= !str_starts(name.p, "name=");
    }
    return 0;
}

static void forget(void)
{
    for (size_t i = 0; i < cg.n; i++) {
        (void)close(cg.h[i].fd);
        free(cg.h[i].mount);
        free(cg.h[i].controllers);
    }
    cg.n = 0;
    cg.kind = NULL;
    str_free(&cg.dirs1);
}

int cgroup_init(struct err *err)
{
    auto_free char *v2 = NULL;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    bool v1 = false;
    int r;

    if (!f)
        return err_sys(err, "/proc/self/mountinfo");
    forget();
    r = scan(f, &v1, &v2, err);
    (void)fclose(f);
    if (r < 0) {
        forget();
        return r;
    }
    if (!v1 && v2) {
        forget();
        r = add_hier(v2, "", err);
        if (r < 0)
            return r;
        cg.kind = &cgroup2;
        cg.h[0].prepares = true;
        r = cgroup_read_at(cg.h[0].fd, "cgroup.controllers", cg.controllers, sizeof cg.controllers);
        if (r < 0)
            return err_code(err, r, "%s/cgroup.controllers", v2);
        cg.controllers[strcspn(cg.controllers, "\n")] = '\0';
        return 0;
    }
    if (!v1) {
        forget();
        return err_set(err, -ENOTSUP, "no cgroup hierarchy with a controller is mounted");
    }
    cg.kind = &cgroup1;
    for (size_t i = 0; i < cg.n; i++)
        cg.h[i].prepares = cg.kind->prepares(&cg.h[i]);
    cg.controllers[0] = '\0';
    for (size_t i = 0, n = 0; i < cg.n; i++) {
        n += (size_t)snprintf(cg.controllers + n, sizeof cg.controllers - n, "%s%s", n ? " " : "",
                              cg.h[i].controllers);
        if (n >= sizeof cg.controllers)
            break;
    }
    for (char *c = cg.controllers; *c; c++)
        if (*c == ',')
            *c = ' ';
    return 0;
}

const char *cgroup1_dirs(void)
{
    return cg.dirs1.len ? cg.dirs1.p : "";
}

/* --- files */

int cgroup_check_path(const char *path, struct err *err)
{
    size_t depth = 0;

    if (!cg.kind)
        return err_set(err, -ENOTSUP, "cgroups are not available");
    if (path[0] != '/' || !path[1] || strlen(path) >= PATH_MAX - CGROUP_FILE_MAX)
        return err_set(err, -EINVAL, "cgroup path '%s'", path);
    for (const char *s = path; *s; s += strcspn(s, "/")) {
        size_t n;

        s += strspn(s, "/");
        n = strcspn(s, "/");
        if ((n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.') || n > NAME_MAX ||
            ++depth > CGROUP_DEPTH_MAX)
            return err_set(err, -EINVAL, "cgroup path '%s'", path);
    }
    for (const char *s = path; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return err_set(err, -EINVAL, "cgroup path with a control character");
    return 0;
}

const char *cgroup_below(const char *path)
{
    path += strspn(path, "/");
    return *path ? path : ".";
}

int cgroup_open_dir(const struct hier *h, const char *path)
{
    int fd = openat(h->fd, cgroup_below(path), O_PATH | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int cgroup_write(int fd, const char *value)
{
    while (write(fd, value, strlen(value)) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int cgroup_write_at(int dir, const char *file, const char *value)
{
    auto_fd int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);

    return fd < 0 ? -errno : cgroup_write(fd, value);
}

int cgroup_read_at(int dir, const char *file, char *buf, size_t size)
{
    auto_fd int fd = openat(dir, file, O_RDONLY | O_CLOEXEC);
    size_t n = 0;

    if (fd < 0)
        return -errno;
    while (n < size - 1) {
        ssize_t k = read(fd, buf + n, size - 1 - n);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            break;
        n += (size_t)k;
    }
    buf[n] = '\0';
    return (int)n;
}

int cgroup_read_line(const struct hier *h, const char *path, const char *file, char *buf,
                     size_t size)
{
    auto_fd int dir = h ? cgroup_open_dir(h, path) : -ENOENT;
    int r;

    if (dir < 0)
        return dir;
    r = cgroup_read_at(dir, file, buf, size);
    if (r < 0)
        return r;
    buf[strcspn(buf, "\n")] = '\0';
    return (int)strlen(buf);
}

int64_t cgroup_read_number(const struct hier *h, const char *path, const char *file,
                           int64_t otherwise)
{
    char buf[64], *end;
    long long v;

    if (cgroup_read_line(h, path, file, buf, sizeof buf) <= 0)
        return otherwise;
    errno = 0;
    v = strtoll(buf, &end, 10);
    return errno || *end ? otherwise : v;
}

int cgroup_open_file(const char *path, const char *controller, const char *file, int flags)
{
    const struct hier *h = cg.kind ? cgroup_hier(controller) : NULL;
    auto_fd int dir = h ? cgroup_open_dir(h, path) : -ENOENT;
    int fd;

    if (dir < 0)
        return dir;
    fd = openat(dir, file, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* --- joining and watching */

int cgroup_open_join(const char *path, int fds[CGROUP_FDS_MAX], struct err *err)
{
    int n = 0, r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < cg.n; i++) {
        auto_fd int dir = openat(cg.h[i].fd, cgroup_below(path),
                                 O_DIRECTORY | O_RDONLY | O_CLOEXEC);
        int fd = dir;

        if (dir >= 0 && !cgroup_is_v2())
            fd = openat(dir, "tasks", O_WRONLY | O_CLOEXEC);
        else
            (void)take_fd(&dir);
        if (fd < 0) {
            r = err_sys(err, "join cgroup '%s%s'", cg.h[i].mount, path);
            cgroup_close_join(fds, n);
            return r;
        }
        fds[n++] = fd;
    }
    return n;
}

void cgroup_close_join(int fds[CGROUP_FDS_MAX], int n)
{
    for (int i = 0; i < n; i++)
        fds[i] = fd_close(fds[i]);
}

int cgroup_open_oom(const char *path)
{
    int fd = cg.kind ? cgroup_open_file(path, "memory", cg.kind->oom_file, O_RDONLY) : -1;

    return fd < 0 ? -1 : fd;
}
