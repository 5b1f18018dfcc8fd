/* SPDX-License-Identifier: Apache-2.0 */
/* Two children: one is the user namespace (its maps have to be written by somebody outside), the
 * other tries the mounts in a namespace of its own and tells over a pipe how far it came. Both are
 * gone when the probe returns. */
#include "proc/userns.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROBE_HOST_ID = 65536, PROBE_IDS = 65536 };

struct word {                        /* what the child says; code 0: all went well */
    int code;
    char step[64];
};

static void tell(int fd, int code, const char *step) __attribute__((noreturn));
static void tell(int fd, int code, const char *step)
{
    struct word w = { .code = code };

    snprintf(w.step, sizeof w.step, "%s", step);
    (void)!write(fd, &w, sizeof w);
    _exit(code ? 1 : 0);
}

static int write_map(pid_t pid, const char *name)
{
    char path[64], text[64];
    auto_fd int fd = -1;
    int n = snprintf(text, sizeof text, "0 %d %d\n", PROBE_HOST_ID, PROBE_IDS);

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd >= 0 && write(fd, text, (size_t)n) == n ? 0 : -errno;
}

/* A descriptor of a user namespace; the process that it began with is gone again. -errno. */
static int make_userns(const char **step)
{
    auto_fd int in = -1, out = -1;
    int p[2], fd = -1, r;
    char path[64];
    pid_t pid;

    *step = "make a user namespace";
    if (pipe2(p, O_CLOEXEC) < 0)
        return -errno;
    in = p[0];
    out = p[1];
    pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        r = unshare(CLONE_NEWUSER) < 0 ? errno : 0;
        (void)!write(out, &r, sizeof r);
        for (;;)
            pause();
    }
    r = read(in, &r, sizeof r) == sizeof r ? -r : -ECHILD;
    if (r == 0) {
        *step = "map the ids of a user namespace";
        r = write_map(pid, "uid_map");
    }
    if (r == 0)
        r = write_map(pid, "gid_map");
    if (r == 0) {
        snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        r = fd < 0 ? -errno : fd;
    }
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    return r;
}

static void try_mounts(const char *root, const char *a, const char *b, int say)
    __attribute__((noreturn));
static void try_mounts(const char *root, const char *a, const char *b, int say)
{
    struct mount_attr idmap = { .attr_set = MOUNT_ATTR_IDMAP };
    const char *step;
    char opts[256];
    int tree, user;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0)
        tell(say, errno, "make a mount namespace");
    user = make_userns(&step);
    if (user < 0)
        tell(say, -user, step);
    tree = (int)syscall(SYS_open_tree, AT_FDCWD, root, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0)
        tell(say, errno, "clone the mount of the root directory");
    idmap.userns_fd = (unsigned)user;
    if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &idmap, sizeof idmap) < 0)
        tell(say, errno, "id-mapped mount of the root directory");
    /* names in it are relative: the options are split at ',' and ':' */
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, root, MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
        fchdir(tree) < 0)
        tell(say, errno, "attach the id-mapped mount");
    snprintf(opts, sizeof opts, "lowerdir=%s:%s", a, b);
    if (mount("overlay", a, "overlay", MS_RDONLY, opts) < 0)
        tell(say, errno, "overlay on an id-mapped mount");
    tell(say, 0, "");
}

int userns_probe(const char *root, const char *a, const char *b, struct err *err)
{
    auto_fd int in = -1, out = -1;
    struct word w;
    int p[2];
    pid_t pid;

    if (pipe2(p, O_CLOEXEC) < 0)
        return err_sys(err, "pipe");
    in = p[0];
    out = p[1];
    pid = fork();
    if (pid < 0)
        return err_sys(err, "fork");
    if (pid == 0)
        try_mounts(root, a, b, out);
    out = fd_close(out);
    if (read(in, &w, sizeof w) != sizeof w)
        w = (struct word){ ECHILD, "the trial" };
    w.step[sizeof w.step - 1] = '\0';
    (void)waitpid(pid, NULL, 0);
    return w.code ? err_code(err, -w.code, "%s", w.step) : 0;
}
