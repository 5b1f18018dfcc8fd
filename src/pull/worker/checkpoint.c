/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint: a running container as one tar file, with criu.
 *
 *      stdin: the job (JSON) --> work directory: config.dump, spec.dump, status, status.dump
 *                                                checkpoint/  <- criu dump, and descriptors.json
 *                                                rootfs-diff.tar <- this program as criu's script,
 *                                                                   while all stands still
 *                                                container.log, dump.log, stats-dump
 *                            --> tar of it beside `location`, renamed to it when it is whole
 *      3: a socket to the daemon: its end of file is the order to give up, also when the daemon is
 *         gone; the last word is one message, "<gRPC status> <text>"
 *      4: a pidfd of the container's first process
 *
 * The layout is containerd's and CRI-O's: checkpointctl reads it. Nothing is left of what fails but
 * where this process itself is killed: then the work directory, until the daemon's next start. */
#include "pull/worker/checkpoint.h"

#include "mem.h"
#include "pull/worker/worker.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

struct job {
    json_t *j;
    const char *work, *location, *log;
    char *part;                      /* where the archive grows, until it is renamed; or NULL */
    int out;
    struct criu_job criu;
};

bool checkpoint_cancelled(void)
{
    struct pollfd p = { CHECKPOINT_SOCK, POLLIN | POLLRDHUP, 0 };

    return poll(&p, 1, 0) > 0;
}

static const char *text(const struct job *b, const char *key)
{
    const char *s = json_string_value(json_object_get(b->j, key));

    return s ? s : "";
}

static int read_job(struct job *b, struct err *err)
{
    json_error_t why;
    json_t *list, *v;
    char **external;
    size_t i;

    b->j = json_loadf(stdin, 0, &why);
    if (!b->j)
        return err_set(err, -EINVAL, "job: %s", why.text);
    list = json_object_get(b->j, "external");
    external = mem_array(json_array_size(list) + 1, sizeof *external);
    json_array_foreach(list, i, v)
        external[i] = (char *)(uintptr_t)json_string_value(v);
    b->criu.external = external;
    b->criu.path = text(b, "criu");
    b->criu.upper = text(b, "upper");
    b->criu.pid = (pid_t)json_integer_value(json_object_get(b->j, "pid"));
    b->work = b->criu.work = text(b, "work");
    b->location = text(b, "location");
    b->log = text(b, "log");
    return 0;
}

/* ---- the archive's own file */

static int exists(const struct job *b, struct err *err)
{
    return err_rpc(err, GRPC_ALREADY_EXISTS, "location '%.500s' exists already", b->location);
}

/* Whatever is wrong with the location is found here, before anything stands still. */
static int open_archive(struct job *b, struct err *err)
{
    const char *name = strrchr(b->location, '/') + 1;
    struct stat st;
    int r;

    if (lstat(b->location, &st) == 0)
        return exists(b, err);
    b->part = mem_printf("%.*s.%.200s.XXXXXX", (int)(name - b->location), b->location, name);
    b->out = mkostemp(b->part, O_CLOEXEC);    /* mode 0600 */
    if (b->out >= 0)
        return 0;
    r = err_rpc(err, errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG
                         ? GRPC_INVALID_ARGUMENT : GRPC_FAILED_PRECONDITION,
                "location '%.500s': %s", b->location, strerror(errno));
    free(take_ptr(b->part));
    return r;
}

/* File systems without RENAME_NOREPLACE have hard links. */
static int publish(struct job *b, struct err *err)
{
    int r = renameat2(AT_FDCWD, b->part, AT_FDCWD, b->location, RENAME_NOREPLACE);

    if (r < 0 && errno == EINVAL && link(b->part, b->location) == 0)
        r = unlink(b->part);
    if (r < 0 && errno == EEXIST)
        return exists(b, err);
    if (r < 0)
        return err_sys(err, "rename the archive to '%.500s'", b->location);
    free(take_ptr(b->part));
    return 0;
}

/* ---- the work directory, which is the current one from the first step on */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    (void)remove(path);
    return 0;
}

static void remove_work(const struct job *b)
{
    (void)nftw(b->work, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int make_work(const struct job *b, struct err *err)
{
    remove_work(b);                  /* of one that was killed */
    if (mkdir(b->work, 0700) < 0 || chdir(b->work) < 0 || mkdir("checkpoint", 0700) < 0)
        return err_sys(err, "directory '%s'", b->work);
    return 0;
}

static int write_file(const char *name, const char *s, size_t n, struct err *err)
{
    auto_fd int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0 || write(fd, s, n) != (ssize_t)n)
        return err_sys(err, "write '%s'", name);
    return 0;
}

/* What the daemon knows. */
static int write_files(const struct job *b, struct err *err)
{
    const char *name;
    json_t *v;
    int r = 0;

    json_object_foreach(json_object_get(b->j, "files"), name, v)
        if (r == 0)
            r = write_file(name, json_string_value(v), json_string_length(v), err);
    return r;
}

/* Where runc finds on restore what it has to put in the place of stdio. */
static int write_descriptors(const struct job *b, struct err *err)
{
    json_t *list = json_array();
    int r;

    for (int i = 0; i < 3; i++) {
        auto_free char *path = mem_printf("/proc/%d/fd/%d", (int)b->criu.pid, i);
        char to[PATH_MAX];
        ssize_t n = readlink(path, to, sizeof to - 1);

        to[n < 0 ? 0 : n] = '\0';
        json_array_append_new(list, json_string(to));
    }
    auto_free char *s = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    r = s ? write_file("checkpoint/descriptors.json", s, strlen(s), err)
          : err_set(err, -EINVAL, "the container's descriptors cannot be written down");
    return r;
}

/* What it says now; the container goes on writing. */
static int copy_log(const struct job *b, struct err *err)
{
    auto_free char *buf = mem_alloc(65536);
    struct stat st;

    if (!b->log[0])
        return 0;
    auto_fd int in = open(b->log, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (in < 0 && errno == ENOENT)
        return 0;
    auto_fd int out = open("container.log", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (in < 0 || out < 0 || fstat(in, &st) < 0)
        return err_sys(err, "log '%.300s'", b->log);
    for (off_t left = S_ISREG(st.st_mode) ? st.st_size : 0; left > 0;) {
        ssize_t n = read(in, buf, left < 65536 ? (size_t)left : 65536);

        if (n == 0)
            break;
        if (n < 0 || write(out, buf, (size_t)n) != n)
            return err_sys(err, "copy log '%.300s'", b->log);
        left -= n;
    }
    return 0;
}

/* ---- */

static int still_runs(struct err *err)
{
    if (syscall(SYS_pidfd_send_signal, CHECKPOINT_PIDFD, 0, NULL, 0) < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it has ended");
    return 0;
}

static int carry_out(struct job *b, struct err *err)
{
    int r = read_job(b, err);

    if (r == 0)
        r = open_archive(b, err);
    if (r == 0)
        r = make_work(b, err);
    if (r == 0)
        r = write_files(b, err);
    if (r == 0)
        r = still_runs(err);
    if (r == 0)
        r = write_descriptors(b, err);
    if (r == 0)
        r = criu_dump(&b->criu, err);
    if (r == 0 && rename("checkpoint/stats-dump", "stats-dump") < 0 && errno != ENOENT)
        r = err_sys(err, "stats-dump");
    if (r == 0)
        r = copy_log(b, err);
    if (r == 0)
        r = tar_here(b->out, "criu.out", checkpoint_cancelled, err);
    if (r == 0 && fsync(b->out) < 0)
        r = err_sys(err, "archive for '%.500s'", b->location);
    return r < 0 ? r : publish(b, err);
}

int worker_checkpoint(int argc, char **argv)
{
    struct job b = { .out = -1 };
    struct err err = ERR_INIT;
    int r;

    (void)argv;
    if (argc != 1) {
        fprintf(stderr, "checkpoint: takes no arguments\n");
        return 2;
    }
    umask(077);
    (void)signal(SIGPIPE, SIG_IGN);
    if (fcntl(CHECKPOINT_PIDFD, F_SETFD, FD_CLOEXEC) < 0)
        return 2;
    r = carry_out(&b, &err);
    if (b.part)
        (void)unlink(b.part);
    if (b.work) {
        (void)chdir("/");
        remove_work(&b);
    }
    err_clean(&err);
    auto_free char *last = mem_printf("%d %s", r < 0 ? err.grpc ? err.grpc : GRPC_UNKNOWN : GRPC_OK,
                                      err.text);
    (void)send(CHECKPOINT_SOCK, last, strlen(last), MSG_NOSIGNAL);
    fd_close(b.out);
    free(b.part);
    free((void *)(uintptr_t)b.criu.external);
    json_decref(b.j);
    return r < 0;
}
