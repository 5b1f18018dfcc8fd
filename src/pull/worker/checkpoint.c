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

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct job {
    json_t *j;
    const char *work, *location;
    char *part;                      /* where the archive grows, until it is renamed; or NULL */
    int out;
    struct capture ctr;
};

static int read_job(struct job *b, struct err *err)
{
    json_error_t why;

    b->j = json_loadf(stdin, 0, &why);
    if (!b->j)
        return err_set(err, -EINVAL, "job: %s", why.text);
    capture_init(&b->ctr, b->j, job_text(b->j, "criu"), CHECKPOINT_PIDFD);
    b->work = job_text(b->j, "work");
    b->location = job_text(b->j, "location");
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

/* ---- */

/* The work directory, which is the current one from here on. */
static int make_work(const struct job *b, struct err *err)
{
    remove_tree(b->work);            /* of one that was killed */
    if (mkdir(b->work, 0700) < 0 || chdir(b->work) < 0)
        return err_sys(err, "directory '%s'", b->work);
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
        r = capture_prepare(&b->ctr, err);
    if (r == 0)
        r = capture_dump(&b->ctr, err);
    if (r == 0)
        r = capture_finish(&b->ctr, err);
    if (r == 0)
        r = tar_here(b->out, CRIU_OUTPUT, checkpoint_cancelled, err);
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
        remove_tree(b.work);
    }
    r = checkpoint_report(r, &err);
    fd_close(b.out);
    free(b.part);
    capture_deinit(&b.ctr);
    json_decref(b.j);
    return r;
}
