/* SPDX-License-Identifier: Apache-2.0 */
/* The processes of a cgroup and all below it: who they are, and their end. */
#include "proc/cgroup_impl.h"

#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* The hierarchy to look for processes in: one is enough, and the one that can freeze is best. */
static const struct hier *watch_hier(void)
{
    const struct hier *h = cgroup_hier("freezer");

    if (!h)
        h = cgroup_hier("pids");
    return h ? h : &cg.h[0];
}

/* Calls fn for the directory and all below, children first. dir stays the caller's. Stops at the
 * first negative. */
static int each_dir(int dir, int depth, int (*fn)(int dir, void *arg), void *arg)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        r = errno == ENOENT || errno == ENODEV ? 0 : -errno;
        (void)fd_close(fd);
        return r;
    }
    while (r >= 0 && depth < CGROUP_DEPTH_MAX * 2 && (e = readdir(d))) {
        auto_fd int sub = -1;

        if (e->d_type != DT_DIR || e->d_name[0] == '.')
            continue;
        sub = openat(dir, e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (sub >= 0)
            r = each_dir(sub, depth + 1, fn, arg);
    }
    (void)closedir(d);
    return r < 0 ? r : fn(dir, arg);
}

struct pids {
    pid_t *v;
    size_t n;
};

static int add_pids(int dir, void *arg)
{
    struct pids *p = arg;
    auto_fd int fd = openat(dir, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    auto_str struct str s = STR_INIT;
    ssize_t n;

    if (fd < 0)
        return errno == ENOENT || errno == ENODEV ? 0 : -errno;
    while ((n = read(fd, str_room(&s, 4096), 4096)) > 0)
        s.len += (size_t)n;
    if (n < 0)
        return errno == ENODEV ? 0 : -errno;
    *str_room(&s, 1) = '\0';
    for (const char *c = str_c(&s); *c; c += strcspn(c, "\n"), c += *c == '\n') {
        long pid = strtol(c, NULL, 10);

        if (pid <= 1)                /* 0: of another pid namespace, not ours to name */
            continue;
        p->v = mem_grow(p->v, p->n + 1, sizeof *p->v);
        p->v[p->n++] = (pid_t)pid;
    }
    return 0;
}

static bool has(const struct pids *p, pid_t pid)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->v[i] == pid)
            return true;
    return false;
}

/* Without cgroup.kill: freeze (so that nothing forks away), kill, thaw (a v1 task dies only then),
 * until a round finds nobody new. */
static int kill_walk(int dir)
{
    struct pids seen = { NULL, 0 };
    int r = 0;
    bool fresh = true;

    /* Opened before anything is frozen: without a descriptor to thaw it again it would stay so, and
     * what is frozen does not die. */
    auto_fd int state = openat(dir, cg.kind->freeze_file, O_WRONLY | O_CLOEXEC);
    for (int round = 0; round < 8 && fresh && r == 0; round++) {
        struct pids p = { NULL, 0 };

        fresh = false;
        (void)!write(state, cg.kind->freeze, strlen(cg.kind->freeze));
        r = each_dir(dir, 0, add_pids, &p);
        for (size_t i = 0; i < p.n; i++) {
            fresh |= !has(&seen, p.v[i]);
            if (kill(p.v[i], SIGKILL) < 0 && errno != ESRCH)
                r = -errno;
        }
        for (int i = 0; i < 3; i++)
            if (write(state, cg.kind->thaw, strlen(cg.kind->thaw)) > 0)
                break;
        free(seen.v);
        seen = p;
    }
    free(seen.v);
    return r;
}

int cgroup_kill(const char *path, struct err *err)
{
    int r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    auto_fd int dir = cgroup_open_dir(watch_hier(), path);
    if (dir == -ENOENT)
        return 0;
    if (dir < 0)
        return err_code(err, dir, "cgroup '%s'", path);
    if (cgroup_is_v2()) {
        (void)cgroup_write_at(dir, cg.kind->freeze_file, cg.kind->thaw);
        r = cgroup_write_at(dir, "cgroup.kill", "1");
        if (r != -ENOENT)
            return r < 0 ? err_code(err, r, "kill cgroup '%s'", path) : 0;
    }
    r = kill_walk(dir);
    return r < 0 ? err_code(err, r, "kill cgroup '%s'", path) : 0;
}

bool cgroup_empty(const char *path)
{
    struct pids p = { NULL, 0 };
    bool empty;

    if (cgroup_check_path(path, NULL) < 0)
        return true;
    auto_fd int dir = cgroup_open_dir(watch_hier(), path);
    if (dir < 0)
        return true;
    if (cgroup_is_v2()) {
        char buf[256];

        if (cgroup_read_at(dir, "cgroup.events", buf, sizeof buf) > 0)
            return strstr(buf, "populated 0") != NULL;
    }
    (void)each_dir(dir, 0, add_pids, &p);
    empty = p.n == 0;
    free(p.v);
    return empty;
}

int cgroup_processes(const char *path, pid_t **ret, size_t *ret_n, struct err *err)
{
    struct pids p = { NULL, 0 };
    int r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    auto_fd int dir = cgroup_open_dir(watch_hier(), path);
    if (dir < 0)
        return err_code(err, dir, "cgroup '%s'", path);
    r = each_dir(dir, 0, add_pids, &p);
    if (r < 0) {
        free(p.v);
        return err_code(err, r, "processes of cgroup '%s'", path);
    }
    *ret = p.v;
    *ret_n = p.n;
    return 0;
}

int cgroup_thaw(const char *path)
{
    const struct hier *h;
    int r = cgroup_check_path(path, NULL);

    if (r < 0)
        return r;
    h = cgroup_hier("freezer");
    auto_fd int dir = h ? cgroup_open_dir(h, path) : -ENOENT;
    if (dir < 0)
        return dir == -ENOENT ? 0 : dir;
    r = cgroup_write_at(dir, cg.kind->freeze_file, cg.kind->thaw);
    return r == -ENOENT ? 0 : r;
}

int cgroup_freezer(const char *path, char **ret, struct err *err)
{
    const struct hier *h = cgroup_hier("freezer");
    int r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    auto_fd int dir = h ? cgroup_open_dir(h, path) : -ENOTSUP;
    if (dir == -ENOTSUP || (dir >= 0 && faccessat(dir, cg.kind->freeze_file, W_OK, 0) < 0))
        return err_set(err, -ENOTSUP, "this node has no freezer for cgroups");
    if (dir < 0)
        return err_code(err, dir, "cgroup '%s'", path);
    *ret = mem_printf("%s%s", h->mount, path);
    return 0;
}
