/* SPDX-License-Identifier: Apache-2.0 */
/* restore-pod: what a pod's checkpoint has, for RestorePod. Two jobs:
 *
 *      { "path": DIRECTORY }                            --> 4: what is in it, as JSON
 *                                                           (restore_pod_read.c)
 *      { "path": DIRECTORY, "containers":
 *        [ { "name", "archive", "directory" } ] }       --> DIRECTORY/restore/checkpoint: criu's
 *                                                           images, DIRECTORY/upper: the
 *                                                           container's files
 *      3: a socket to the daemon, as the other checkpoint workers have it: its end of file is the
 *         order to give up, the last word is "<gRPC status> <text>"
 *
 * Nothing of the checkpoint is parsed by this process itself: a child in a jail does, which sees the
 * one directory that it reads or fills (jail.c), as when a layer is unpacked. Of what is for criu
 * only its images stay, and those must be plain files: criu follows links. Whatever fails, the
 * daemon removes the containers' directories. */
#include "pull/worker/restore_pod.h"

#include "mem.h"
#include "pull/worker/checkpoint.h"
#include "pull/worker/unpack.h"
#include "pull/worker/worker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RESTORE_OUT = 4 };            /* a memfd of the daemon's, or none */

/* ---- the child */

typedef int (*jailed_fn)(void *arg, struct err *err);

__attribute__((noreturn)) static void child_main(int dir, jailed_fn fn, void *arg, int report)
{
    struct err err = ERR_INIT;
    int r;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setlocale(LC_CTYPE, "C.UTF-8");        /* names in PAX headers are UTF-8 */
    umask(0);
    r = jail_enter(dir, &err);
    if (r == 0)
        r = fn(arg, &err);
    err.code = r;
    (void)!send(report, &err, sizeof err, MSG_NOSIGNAL);
    _exit(r < 0);
}

static int wait_child(pid_t pid, int report, struct err *err)
{
    struct pollfd p[] = { { report, POLLIN, 0 }, { CHECKPOINT_SOCK, POLLRDHUP, 0 } };
    struct err said = ERR_INIT;
    bool off = false;
    ssize_t n;
    int status = 0;

    while (!off && poll(p, 2, -1) < 0 && errno == EINTR)
        ;
    if (!p[0].revents) {
        off = true;
        (void)kill(pid, SIGKILL);
    }
    n = recv(report, &said, sizeof said, 0);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    said.text[sizeof said.text - 1] = '\0';
    if (off)
        return err_set(err, -ECANCELED, "given up before the end");
    if (n != (ssize_t)sizeof said || (said.code >= 0 && status != 0))
        return err_set(err, -EIO, "unpacking ended %s %d",
                       WIFSIGNALED(status) ? "by signal" : "with",
                       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    if (said.code < 0 && err)
        *err = said;
    return said.code < 0 ? said.code : 0;
}

/* Runs fn(arg) in a child that has `dir` for its root. */
static int jailed(int dir, jailed_fn fn, void *arg, struct err *err)
{
    int report[2], r;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, report) < 0)
        return err_sys(err, "socketpair");
    pid = fork();
    if (pid == 0) {
        (void)close(report[0]);
        (void)close(CHECKPOINT_SOCK);
        child_main(dir, fn, arg, report[1]);
    }
    (void)close(report[1]);
    r = pid < 0 ? err_sys(err, "fork") : wait_child(pid, report[0], err);
    (void)close(report[0]);
    return r;
}

/* Directories without an entry of their own (`implied`) are as they are made: archives of ours have
 * an entry for each. */
struct tar_job {
    int fd;
    FILE *implied;
};

static int extract(void *arg, struct err *err)
{
    const struct tar_job *t = arg;
    struct source *src = source_new(t->fd, NULL);
    struct extracted x;
    int r = extract_layer(src, t->implied, &x, err);

    source_free(src);
    return r;
}

static int unpack_tar(int fd, int dir, struct err *err)
{
    struct tar_job t = { fd, fdopen(memfd_create("implied", MFD_CLOEXEC), "w") };
    int r = t.implied ? jailed(dir, extract, &t, err) : err_sys(err, "memfd_create");

    if (t.implied)
        (void)fclose(t.implied);
    return r;
}

static int read_all(void *arg, struct err *err)
{
    (void)arg;
    return restore_pod_read(RESTORE_OUT, err);
}

/* ---- a container's directory */

static int make_dir(int at, const char *name, mode_t mode, struct err *err)
{
    int fd = mkdirat(at, name, mode) < 0
                 ? -1 : openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? err_sys(err, "directory '%.500s'", name) : fd;
}

/* at, name: a directory with plain files, and at the top with the one of criu's images. */
static int check_plain(int at, const char *name, bool top, struct err *err)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    struct stat st;

    if (!d) {
        fd_close(fd);
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it has no directory '%s'", name);
    }
    while (r == 0 && (e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            r = err_sys(err, "'%.200s'", e->d_name);
        else if (top && strcmp(e->d_name, "checkpoint") == 0)
            r = check_plain(dirfd(d), e->d_name, false, err);
        else if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
            r = err_rpc(err, GRPC_FAILED_PRECONDITION, "'%.200s' is no plain file", e->d_name);
    }
    closedir(d);
    return r;
}

/* criu and who runs it write here: nothing must look like theirs. */
static int drop_rest(int dir, struct err *err)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        fd_close(fd);
        return err_sys(err, "directory 'restore'");
    }
    while (r == 0 && (e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            strcmp(e->d_name, "checkpoint") != 0 && unlinkat(dir, e->d_name, 0) < 0)
            r = err_sys(err, "remove '%.200s'", e->d_name);
    closedir(d);
    return r;
}

static int check_there(int dir, const char *name, struct err *err)
{
    if (faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it has no '%s'", name);
    return 0;
}

static int unpack(int checkpoint, json_t *c, struct err *err)
{
    const char *archive = job_text(c, "archive");
    auto_fd int dir = -1, restore = -1, upper = -1, diff = -1;
    auto_fd int fd = openat(checkpoint, archive, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    int r = 0;

    if (fd < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "'%.200s': %s", archive, strerror(errno));
    dir = make_dir(AT_FDCWD, job_text(c, "directory"), 0755, err);
    restore = dir < 0 ? -1 : make_dir(dir, "restore", 0700, err);
    upper = restore < 0 ? -1 : make_dir(dir, "upper", 0755, err);
    if (upper < 0)
        return err->code;
    r = unpack_tar(fd, restore, err);
    if (r == 0 && (fchown(restore, 0, 0) < 0 || fchmod(restore, 0700) < 0))
        r = err_sys(err, "directory 'restore'");
    if (r == 0)
        r = check_plain(dir, "restore", true, err);
    if (r == 0)
        r = check_there(restore, "checkpoint/inventory.img", err);
    if (r == 0)
        r = check_there(restore, "rootfs-diff.tar", err);
    if (r < 0)
        return err_note(err, "'%.200s'", archive);
    diff = openat(restore, "rootfs-diff.tar", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (diff < 0)
        return err_sys(err, "open 'rootfs-diff.tar'");
    r = unpack_tar(diff, upper, err);
    if (r < 0)
        return err_note(err, "'%.200s': 'rootfs-diff.tar'", archive);
    if (drop_rest(restore, err) < 0)
        return err->code;
    return syncfs(dir) < 0 ? err_sys(err, "syncfs") : 0;
}

/* ---- */

static int carry_out(json_t *job, struct err *err)
{
    const char *path = job_text(job, "path");
    json_t *list = json_object_get(job, "containers"), *c;
    auto_fd int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    size_t i;
    int r = 0;

    if (dir < 0)
        return err_rpc(err, errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG
                                ? GRPC_INVALID_ARGUMENT : GRPC_FAILED_PRECONDITION,
                       "checkpoint_path '%.500s': %s", path, strerror(errno));
    if (!list)
        r = jailed(dir, read_all, NULL, err);
    json_array_foreach(list, i, c)
        if (r == 0 && (r = unpack(dir, c, err)) < 0)
            err_note(err, "container '%.200s'", job_text(c, "name"));
    return r < 0 ? err_note(err, "checkpoint_path '%.500s'", path) : 0;
}

int worker_restore_pod(int argc, char **argv)
{
    struct err err = ERR_INIT;
    json_error_t why;
    json_t *job;
    int r;

    (void)argv;
    if (argc != 1) {
        fprintf(stderr, "restore-pod: takes no arguments\n");
        return 2;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);      /* the next daemon removes what there is */
    (void)signal(SIGPIPE, SIG_IGN);
    umask(0);
    job = json_loadf(stdin, 0, &why);
    r = job ? carry_out(job, &err) : err_set(&err, -EINVAL, "job: %s", why.text);
    json_decref(job);
    return checkpoint_report(r, &err);
}
