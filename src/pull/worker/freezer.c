/* SPDX-License-Identifier: Apache-2.0 */
/* Stops all processes of a cgroup and lets them go again: freezer.state of cgroup v1, cgroup.freeze
 * of v2. The files are opened before anything is frozen, so that no want of descriptors or memory
 * can be in the way of thawing. See cgroups(7), cgroup-v2.rst and freezer-subsystem.rst. */
#include "pull/worker/checkpoint.h"

#include "mem.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

enum { LOOK_MS = 10 };

#define STATE1 "freezer.state"
#define STATE2 "cgroup.freeze"

static bool is_v2(const struct freezer *f)
{
    return f->events >= 0;
}

static int open_in(const char *dir, const char *name, int flags)
{
    auto_free char *path = mem_printf("%s/%s", dir, name);

    return open(path, flags | O_CLOEXEC);
}

int freezer_open(struct freezer *f, const char *dir, struct err *err)
{
    char now[32];
    ssize_t n;

    f->touched = false;
    f->events = -1;
    f->dir = mem_strdup(dir);
    f->state = open_in(dir, STATE1, O_RDWR);
    if (f->state < 0) {
        f->state = open_in(dir, STATE2, O_RDWR);
        f->events = open_in(dir, "cgroup.events", O_RDONLY);
        if (f->state < 0 || f->events < 0)
            return err_sys(err, "freezer of cgroup '%s'", dir);
    }
    n = pread(f->state, now, sizeof now - 1, 0);
    if (n < 0)
        return err_sys(err, "freezer of cgroup '%s'", dir);
    now[n] = '\0';
    if (!str_starts(now, is_v2(f) ? "0" : "THAWED"))
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "its cgroup '%s' is frozen already", dir);
    return 0;
}

static int put(const struct freezer *f, bool freeze)
{
    const char *s = is_v2(f) ? freeze ? "1" : "0" : freeze ? "FROZEN" : "THAWED";

    return pwrite(f->state, s, strlen(s), 0) < 0 ? -errno : 0;
}

int freezer_freeze(struct freezer *f, struct err *err)
{
    int r;

    f->touched = true;
    r = put(f, true);
    return r < 0 ? err_code(err, r, "freeze cgroup '%s'", f->dir) : 0;
}

static bool is_frozen(const struct freezer *f)
{
    char s[256];
    ssize_t n = pread(is_v2(f) ? f->events : f->state, s, sizeof s - 1, 0);

    s[n < 0 ? 0 : n] = '\0';
    return is_v2(f) ? strstr(s, "frozen 1") != NULL : str_starts(s, "FROZEN");
}

int freezer_wait(struct freezer *f, bool (*stop)(void), struct err *err)
{
    while (!is_frozen(f)) {
        if (stop())
            return err_set(err, -ECANCELED, "given up while it was being paused");
        (void)poll(NULL, 0, LOOK_MS);
        int r = is_v2(f) ? 0 : put(f, true);     /* v1 wants to be asked again */
        if (r < 0)
            return err_code(err, r, "freeze cgroup '%s'", f->dir);
    }
    return 0;
}

void freezer_thaw(struct freezer *f)
{
    if (f->touched)
        (void)put(f, false);         /* fails only where the cgroup is gone */
}

void freezer_close(struct freezer *f)
{
    freezer_thaw(f);
    f->state = fd_close(f->state);
    f->events = fd_close(f->events);
    free(f->dir);
    f->dir = NULL;
}

void freezer_thaw_dir(const char *dir)
{
    struct freezer f = { .events = -1 };

    f.state = open_in(dir, STATE1, O_WRONLY);
    if (f.state < 0) {
        f.state = open_in(dir, STATE2, O_WRONLY);
        f.events = f.state;
    }
    if (f.state >= 0)
        (void)put(&f, false);
    fd_close(f.state);
}
