/* SPDX-License-Identifier: Apache-2.0 */
/* Directories of a cgroup in every hierarchy: made with their parents, removed with all below. */
#include "proc/cgroup_impl.h"

#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Makes path in one hierarchy; *ret_made: the topmost part that was not there, NULL if all was. On
 * failure what was made is for the caller to remove. */
static int make_in(const struct hier *h, const char *path, char **ret_made, struct err *err)
{
    auto_fd int dir = -1;
    const char *s = path;

    if (!h->prepares) {              /* mostly its parent is there */
        if (mkdirat(h->fd, cgroup_below(path), 0755) == 0) {
            *ret_made = mem_strdup(path);
            return 0;
        }
        if (errno == EEXIST)
            return 0;
    }
    dir = openat(h->fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
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
        if (!cgroup_is_v2() && h->prepares) {
            r = cg.kind->prepare(h, dir, next, err);
            if (r < 0)
                return err_note(err, "cgroup '%s%.*s'", h->mount, (int)(s - path), path);
        }
        (void)close(dir);
        dir = take_fd(&next);
    }
}

/* The topmost part of path that is not there; NULL: all is. */
static char *missing_in(const struct hier *h, const char *path)
{
    for (const char *s = path; *(s += strspn(s, "/"));) {
        s += strcspn(s, "/");
        auto_free char *part = mem_dup(path, (size_t)(s - path));

        if (faccessat(h->fd, cgroup_below(part), F_OK, 0) < 0 && errno == ENOENT)
            return take_ptr(part);
    }
    return NULL;
}

/* As cgroup_make() tells it: the topmost new part of each hierarchy, which is freed. */
static char *tell(char *made[CGROUP_FDS_MAX])
{
    bool alike = true, any = false;
    auto_str struct str s = STR_INIT;

    for (size_t i = 0; i < cg.n; i++) {
        any |= made[i] != NULL;
        alike &= made[i] && made[0] && strcmp(made[i], made[0]) == 0;
    }
    if (alike)
        str_puts(&s, made[0]);
    for (size_t i = 0; i < cg.n; i++) {
        if (!alike && made[i])
            str_printf(&s, "%s:%s\n", cg.h[i].controllers, made[i]);
        free(made[i]);
    }
    return any ? str_take(&s) : NULL;
}

int cgroup_missing(const char *path, char **ret_missing, struct err *err)
{
    char *missing[CGROUP_FDS_MAX] = { NULL };
    int r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < cg.n; i++)
        missing[i] = missing_in(&cg.h[i], path);
    *ret_missing = tell(missing);
    return 0;
}

/* rmdir from path up to and including top. */
static void unmake_in(const struct hier *h, const char *path, const char *top)
{
    char p[PATH_MAX];
    size_t min = strlen(top);

    snprintf(p, sizeof p, "%s", path);
    while (strlen(p) >= min && strncmp(p, top, min) == 0) {
        if (unlinkat(h->fd, cgroup_below(p), AT_REMOVEDIR) < 0 && errno != ENOENT)
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
    auto_free char *told = NULL;
    int r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < cg.n && r == 0; i++)
        r = make_in(&cg.h[i], path, &made[i], err);
    for (size_t i = 0; i < cg.n && r < 0; i++)
        if (made[i])
            unmake_in(&cg.h[i], path, made[i]);
    told = tell(made);
    if (r == 0 && ret_made)
        *ret_made = take_ptr(told);
    return r;
}

void cgroup_remove_parents(const char *path, const char *made)
{
    auto_free char *copy = mem_strdup(made);
    char *save = NULL;

    if (!cg.kind || str_empty(made) || cgroup_check_path(path, NULL) < 0)
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
    int r = cgroup_check_path(path, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < cg.n; i++) {
        const struct hier *h = &cg.h[i];

        if (unlinkat(h->fd, cgroup_below(path), AT_REMOVEDIR) == 0 || errno == ENOENT)
            continue;
        auto_fd int dir = cgroup_open_dir(h, path);
        if (dir >= 0)
            (void)remove_below(dir, 0);
        if (unlinkat(h->fd, cgroup_below(path), AT_REMOVEDIR) < 0 && errno != ENOENT)
            r = err_sys(err, "remove cgroup '%s%s'", h->mount, path);
    }
    return r;
}
