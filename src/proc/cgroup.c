/* SPDX-License-Identifier: Apache-2.0 */
/* cgroups, the part that is the same for v1 and v2: finding the hierarchies, making and removing
 * directories, applying limits with roll-back, killing.
 *
 * v1: every hierarchy that has a controller, and the named ones (name=systemd): a container in
 * systemd's own hierarchy must not stay in cricket.service, or stopping the service would kill it.
 * The unified hierarchy that systemd mounts beside them is left alone: it has no controllers, and
 * joining it means cgroup.procs, whose RCU grace period costs ten times the whole join. v2: the
 * one.
 *
 * Nothing here waits, but for the kernel's own work in a write. */
#include "proc/cgroup.h"

#include "log.h"
#include "mem.h"
#include "proc/cgroup_impl.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    const struct cgroup_kind *kind;
    struct hier h[CGROUP_FDS_MAX];
    size_t n;
    char controllers[256];
} cg;

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
    cg.h[cg.n++] = (struct hier){ fd, mem_strdup(mount), mem_strdup(controllers) };
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

/* --- files */

static int check_path(const char *path, struct err *err)
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

static const char *below(const char *path)
{
    path += strspn(path, "/");
    return *path ? path : ".";
}

static int open_dir(const struct hier *h, const char *path)
{
    int fd = openat(h->fd, below(path), O_PATH | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int cgroup_write_at(int dir, const char *file, const char *value)
{
    auto_fd int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    while (write(fd, value, strlen(value)) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
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
    auto_fd int dir = h ? open_dir(h, path) : -ENOENT;
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
    auto_fd int dir = h ? open_dir(h, path) : -ENOENT;
    int fd;

    if (dir < 0)
        return dir;
    fd = openat(dir, file, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* --- making */

/* Makes path in one hierarchy; *ret_made: the topmost part that was not there, NULL if all was. On
 * failure what was made is for the caller to remove. */
static int make_in(const struct hier *h, const char *path, char **ret_made, struct err *err)
{
    auto_fd int dir = openat(h->fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    const char *s = path;

    if (dir < 0)
        return err_sys(err, "cgroup hierarchy '%s'", h->mount);
    for (;;) {
        char name[NAME_MAX + 1];
        auto_fd int next = -1;
        size_t n;
        int r;

        s += strspn(s, "/");
        if (!*s)
            return 0;
        n = strcspn(s, "/");
        memcpy(name, s, n);
        name[n] = '\0';
        s += n;
        if (cgroup_is_v2()) {
            r = cg.kind->prepare(h, -1, dir, err);
            if (r < 0)
                return r;
        }
        if (mkdirat(dir, name, 0755) == 0) {
            if (!*ret_made)
                *ret_made = mem_dup(path, (size_t)(s - path));
        } else if (errno != EEXIST) {
            return err_sys(err, "make cgroup '%s%.*s'", h->mount, (int)(s - path), path);
        }
        next = openat(dir, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (next < 0)
            return err_sys(err, "cgroup '%s%.*s'", h->mount, (int)(s - path), path);
        if (!cgroup_is_v2()) {
            r = cg.kind->prepare(h, dir, next, err);
            if (r < 0)
                return err_note(err, "cgroup '%s%.*s'", h->mount, (int)(s - path), path);
        }
        (void)close(dir);
        dir = take_fd(&next);
    }
}

/* rmdir from path up to and including top. */
static void unmake_in(const struct hier *h, const char *path, const char *top)
{
    char p[PATH_MAX];
    size_t min = strlen(top);

    snprintf(p, sizeof p, "%s", path);
    while (strlen(p) >= min && strncmp(p, top, min) == 0) {
        if (unlinkat(h->fd, below(p), AT_REMOVEDIR) < 0 && errno != ENOENT)
            return;
        char *slash = strrchr(p, '/');
        while (slash > p && slash[-1] == '/')
            slash--;
        *slash = '\0';
    }
}

int cgroup_make(const char *path, char **ret_made, struct err *err)
{
    char *made[CGROUP_FDS_MAX] = { NULL };
    bool alike = true, any = false;
    auto_str struct str s = STR_INIT;
    size_t i;
    int r = check_path(path, err);

    if (r < 0)
        return r;
    for (i = 0; i < cg.n && r == 0; i++) {
        r = make_in(&cg.h[i], path, &made[i], err);
        any |= made[i] != NULL;
        alike &= made[i] && made[0] && strcmp(made[i], made[0]) == 0;
    }
    if (r < 0)
        for (size_t k = 0; k < i; k++)
            if (made[k])
                unmake_in(&cg.h[k], path, made[k]);
    if (r == 0 && alike)
        str_puts(&s, made[0]);
    else if (r == 0)
        for (size_t k = 0; k < cg.n; k++)
            if (made[k])
                str_printf(&s, "%s:%s\n", cg.h[k].controllers, made[k]);
    for (size_t k = 0; k < cg.n; k++)
        free(made[k]);
    if (r < 0)
        return r;
    if (ret_made)
        *ret_made = any ? str_take(&s) : NULL;
    return 0;
}

void cgroup_remove_parents(const char *path, const char *made)
{
    auto_free char *copy = mem_strdup(made);
    char *save = NULL;

    if (!cg.kind || str_empty(made) || check_path(path, NULL) < 0)
        return;
    if (made[0] == '/') {
        for (size_t i = 0; i < cg.n; i++)
            unmake_in(&cg.h[i], path, made);
        return;
    }
    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *colon = strchr(line, ':');

        if (!colon)
            continue;
        *colon = '\0';
        for (size_t i = 0; i < cg.n; i++)
            if (strcmp(cg.h[i].controllers, line) == 0)
                unmake_in(&cg.h[i], path, colon + 1);
    }
}

/* --- limits */

struct cgwrite *cgwrite_add(struct cgwrites *w, const char *controller, const char *file,
                            const char *fmt, ...)
{
    struct cgwrite *x;
    va_list ap;
    int r;

    w->v = mem_grow(w->v, w->n + 1, sizeof *w->v);
    x = &w->v[w->n++];
    *x = (struct cgwrite){ .h = cgroup_hier(controller), .controller = controller };
    snprintf(x->file, sizeof x->file, "%s", file);
    va_start(ap, fmt);
    r = vasprintf(&x->value, fmt, ap);
    va_end(ap);
    if (r < 0)
        x->value = mem_strdup("");
    return x;
}

static void cgwrites_deinit(struct cgwrites *w)
{
    for (size_t i = 0; i < w->n; i++) {
        free(w->v[i].value);
        free(w->v[i].old);
    }
    free(w->v);
}

#define auto_writes __attribute__((cleanup(cgwrites_deinit)))

static int write_one(const struct cgwrite *w, const char *path, struct err *err)
{
    auto_fd int dir = w->h ? open_dir(w->h, path) : -1;
    int r;

    if (!w->h) {
        if (w->tolerate)
            return 0;
        return err_set(err, -ENOTSUP, "%s: this machine has no cgroup controller '%s'", w->file,
                       w->controller);
    }
    if (dir < 0)
        return err_code(err, dir, "cgroup '%s'", path);
    r = cgroup_write_at(dir, w->file, w->value);
    if (r == -ENOENT && w->tolerate)
        return 0;
    if (r == -ENOENT)
        return err_set(err, -ENOTSUP, "%s: cgroup controller '%s' is not enabled in '%s'", w->file,
                       w->controller, path);
    if (r < 0)
        return err_code(err, r, "write '%s' to %s of cgroup '%s'", w->value, w->file, path);
    return 0;
}

static int collect(const char *path, const struct cgroup_limits *l, struct cgwrites *w,
                   struct err *err)
{
    int r = check_path(path, err);

    if (r < 0)
        return r;
    if (l->memory < -1 || l->memory_swap < -1 || l->cpu_quota < -1 || l->pids < -1)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "negative resource limit");
    if (l->memory > 0 && l->memory_swap > 0 && l->memory_swap < l->memory)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "memory and swap limit %lld is below the memory limit %lld",
                       (long long)l->memory_swap, (long long)l->memory);
    for (size_t i = 0; i < l->n_hugepages; i++) {
        const char *s = l->hugepages[i].size;
        size_t n = strspn(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");

        if (!n || s[n] || n > 16)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "huge page size '%s'", s);
    }
    return cg.kind->limits(path, l, w, err);
}

int cgroup_set(const char *path, const struct cgroup_limits *l, struct err *err)
{
    auto_writes struct cgwrites w = { NULL, 0 };
    int r = collect(path, l, &w, err);

    for (size_t i = 0; i < w.n && r == 0; i++)
        r = write_one(&w.v[i], path, err);
    return r;
}

static int remember(struct cgwrite *w, const char *path, struct err *err)
{
    auto_fd int dir = w->h ? open_dir(w->h, path) : -1;
    char buf[CGROUP_VALUE_MAX];
    int r;

    if (dir < 0)
        return 0;                    /* write_one() will say what is wrong */
    r = cgroup_read_at(dir, w->file, buf, sizeof buf);
    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return err_code(err, r, "read %s of cgroup '%s' (needed to be able to go back)", w->file,
                        path);
    w->old = mem_dup(buf, (size_t)r);
    return 0;
}

static void put_back(const struct cgwrite *w, const char *path)
{
    auto_fd int dir = w->h ? open_dir(w->h, path) : -1;
    char *save = NULL;

    if (dir < 0 || !w->old)
        return;
    if (!w->old[strspn(w->old, "\n")]) {
        (void)cgroup_write_at(dir, w->file, "\n");
        return;
    }
    for (char *line = strtok_r(w->old, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int r = cgroup_write_at(dir, w->file, line);

        if (r < 0)
            log_warn("op=cgroup_update path='%s' file=%s err='cannot put back: %s', ignoring", path,
                     w->file, strerror(-r));
    }
}

int cgroup_update(const char *path, const struct cgroup_limits *l, struct err *err)
{
    auto_writes struct cgwrites w = { NULL, 0 };
    int r = collect(path, l, &w, err);
    int64_t used;

    if (r < 0)
        return r;
    used = l->memory > 0 ? cg.kind->memory_used(path) : -1;
    if (used > l->memory)
        return err_rpc(err, GRPC_FAILED_PRECONDITION,
                       "memory limit %lld is below the %lld bytes in use", (long long)l->memory,
                       (long long)used);
    for (size_t i = 0; i < w.n && r == 0; i++)
        r = remember(&w.v[i], path, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < w.n; i++) {
        r = write_one(&w.v[i], path, err);
        if (r < 0) {
            while (i-- > 0)
                put_back(&w.v[i], path);
            return r;
        }
    }
    return 0;
}

int cgroup_set_devices(const char *path, const struct cgroup_device_rule *rules, size_t n,
                       struct err *err)
{
    int r = check_path(path, err);

    if (r < 0)
        return r;
    return cgroup_is_v2() ? cgroup2_set_devices(path, rules, n, err) :
                            cgroup1_set_devices(path, rules, n, err);
}

/* --- joining and watching */

int cgroup_open_join(const char *path, int fds[CGROUP_FDS_MAX], struct err *err)
{
    int n = 0, r = check_path(path, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < cg.n; i++) {
        auto_fd int dir = openat(cg.h[i].fd, below(path), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
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

/* --- ending */

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
    int r = check_path(path, err);

    if (r < 0)
        return r;
    auto_fd int dir = open_dir(watch_hier(), path);
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

    if (check_path(path, NULL) < 0)
        return true;
    auto_fd int dir = open_dir(watch_hier(), path);
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
    int r = check_path(path, err);

    if (r < 0)
        return r;
    auto_fd int dir = open_dir(watch_hier(), path);
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
    int r = check_path(path, NULL);

    if (r < 0)
        return r;
    h = cgroup_hier("freezer");
    auto_fd int dir = h ? open_dir(h, path) : -ENOENT;
    if (dir < 0)
        return dir == -ENOENT ? 0 : dir;
    r = cgroup_write_at(dir, cg.kind->freeze_file, cg.kind->thaw);
    return r == -ENOENT ? 0 : r;
}

/* rmdir of everything below dir, deepest first. */
static int remove_below(int dir, int depth)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        r = -errno;
        (void)fd_close(fd);
        return r;
    }
    while (depth < CGROUP_DEPTH_MAX * 2 && (e = readdir(d))) {
        auto_fd int sub = -1;
        int k = 0;

        if (e->d_type != DT_DIR || e->d_name[0] == '.')
            continue;
        if (unlinkat(dir, e->d_name, AT_REMOVEDIR) == 0 || errno == ENOENT)
            continue;
        sub = openat(dir, e->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (sub >= 0)
            k = remove_below(sub, depth + 1);
        if (unlinkat(dir, e->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
            k = -errno;
        if (k < 0)
            r = k;
    }
    (void)closedir(d);
    return r;
}

int cgroup_remove(const char *path, struct err *err)
{
    int r = check_path(path, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < cg.n; i++) {
        const struct hier *h = &cg.h[i];

        if (unlinkat(h->fd, below(path), AT_REMOVEDIR) == 0 || errno == ENOENT)
            continue;
        auto_fd int dir = open_dir(h, path);
        if (dir >= 0)
            (void)remove_below(dir, 0);
        if (unlinkat(h->fd, below(path), AT_REMOVEDIR) < 0 && errno != ENOENT)
            r = err_sys(err, "remove cgroup '%s%s'", h->mount, path);
    }
    return r;
}
