/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint-pod: containers of a pod, all as they were at one moment.
 *
 *      stdin: the job (JSON)             3: a socket to the daemon, as for a single container
 *      4, 5, ...: pidfds of the containers' first processes
 *
 *      <output>/.partial/<id>/ ...       one container's files (capture.c)
 *      <output>/.partial/<id>.tar        the archive of it, the same as of CheckpointContainer
 *      <output>/<id>.tar, pod.json       what it becomes; pod.json last
 *
 * Every cgroup is frozen before the first dump and thawed behind the last one; what then is left to
 * do needs nobody to stand still. Who thaws: this process, on each of its ways out and at once when
 * the job is given up. If it is killed, the daemon. If both are, the next daemon, by the record that
 * it made before it started us. The latter two have "undo" carried out besides: it thaws once more
 * and removes what there is, but only behind the last of us who had the directory (flock(2)). */
#include "pull/worker/checkpoint.h"

#include "mem.h"
#include "pull/worker/worker.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define PARTIAL ".partial"
#define INDEX "pod.json"

struct member {
    const char *id;
    struct capture cap;
    struct freezer freezer;
};

struct pod {
    json_t *j;
    const char *output;
    int out, part;                   /* the directory, and PARTIAL in it; or -1 */
    struct member *v;
    size_t n;
};

static int read_job(struct pod *p, struct err *err)
{
    json_error_t why;
    json_t *list;

    p->j = json_loadf(stdin, 0, &why);
    if (!p->j)
        return err_set(err, -EINVAL, "job: %s", why.text);
    list = json_object_get(p->j, "containers");
    p->output = job_text(p->j, "output");
    p->n = json_array_size(list);
    p->v = mem_array(p->n + 1, sizeof *p->v);
    for (size_t i = 0; i < p->n; i++) {
        json_t *c = json_array_get(list, i);

        p->v[i].id = job_text(c, "id");
        p->v[i].freezer.state = p->v[i].freezer.events = -1;
        capture_init(&p->v[i].cap, c, job_text(p->j, "criu"), CHECKPOINT_PIDFD + (int)i);
    }
    return 0;
}

static int of_member(const struct member *m, struct err *err)
{
    return err_note(err, "container %s", m->id);
}

/* ---- the directory, which is the caller's */

static int open_output(struct pod *p, struct err *err)
{
    p->out = open(p->output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->out >= 0)
        return 0;
    return err_rpc(err, errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG
                            ? GRPC_INVALID_ARGUMENT : GRPC_FAILED_PRECONDITION,
                   "output_path '%.500s': %s", p->output, strerror(errno));
}

static int check_empty(struct pod *p, struct err *err)
{
    int fd = openat(p->out, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        r = err_sys(err, "output_path '%.500s'", p->output);
        fd_close(fd);
        return r;
    }
    while (r == 0 && (e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = err_rpc(err, GRPC_FAILED_PRECONDITION, "output_path '%.500s' is not empty: it has "
                        "'%.200s'", p->output, e->d_name);
    closedir(d);
    return r;
}

/* From here on what is in it is ours to remove. */
static int begin_output(struct pod *p, struct err *err)
{
    int r = open_output(p, err);

    if (r == 0 && flock(p->out, LOCK_EX | LOCK_NB) < 0)
        r = err_rpc(err, GRPC_FAILED_PRECONDITION, "output_path '%.500s': in use by another "
                    "checkpoint", p->output);
    if (r == 0)
        r = check_empty(p, err);
    if (r < 0)
        return r;
    if (mkdirat(p->out, PARTIAL, 0700) < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "output_path '%.500s': %s", p->output,
                       strerror(errno));
    p->part = openat(p->out, PARTIAL, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return p->part < 0 ? err_sys(err, "'%.500s/" PARTIAL "'", p->output) : 0;
}

static void remove_partial(const struct pod *p)
{
    if (fchdir(p->out) == 0)
        remove_tree(PARTIAL);
}

static void remove_output(const struct pod *p)
{
    for (size_t i = 0; i < p->n; i++) {
        auto_free char *name = mem_printf("%s.tar", p->v[i].id);

        (void)unlinkat(p->out, name, 0);
    }
    (void)unlinkat(p->out, INDEX, 0);
    remove_partial(p);
}

static int enter(const struct pod *p, const struct member *m, struct err *err)
{
    if (fchdir(p->part) < 0 || chdir(m->id) < 0)
        return err_sys(err, "directory '%s'", m->id);
    return 0;
}

/* ---- all stand still */

static void thaw_all(void *pod)
{
    struct pod *p = pod;

    for (size_t i = 0; i < p->n; i++)
        freezer_thaw(&p->v[i].freezer);
}

static int freeze_all(struct pod *p, struct err *err)
{
    int r = 0;

    for (size_t i = 0; i < p->n && r == 0; i++)
        if ((r = freezer_freeze(&p->v[i].freezer, err)) < 0)
            of_member(&p->v[i], err);
    for (size_t i = 0; i < p->n && r == 0; i++)
        if ((r = freezer_wait(&p->v[i].freezer, checkpoint_cancelled, err)) < 0)
            of_member(&p->v[i], err);
    return r;
}

static int dump_all(struct pod *p, struct err *err)
{
    int r = 0;

    for (size_t i = 0; i < p->n && r == 0; i++) {
        struct member *m = &p->v[i];

        m->cap.criu.freezer = m->freezer.dir;
        m->cap.criu.failing = thaw_all;
        m->cap.criu.arg = p;
        r = enter(p, m, err);
        if (r == 0 && checkpoint_cancelled())
            r = err_set(err, -ECANCELED, "given up before it was captured");
        if (r == 0)
            r = capture_dump(&m->cap, err);
        if (r < 0)
            of_member(m, err);
    }
    return r;
}

/* ---- before and behind that */

static int prepare(const struct pod *p, struct member *m, struct err *err)
{
    int r = freezer_open(&m->freezer, job_text(m->cap.job, "freezer"), err);

    if (r == 0 && mkdirat(p->part, m->id, 0700) < 0)
        r = err_sys(err, "directory '%s'", m->id);
    if (r == 0)
        r = enter(p, m, err);
    return r < 0 ? r : capture_prepare(&m->cap, err);
}

static int archive(const struct pod *p, struct member *m, struct err *err)
{
    auto_free char *name = mem_printf("%s.tar", m->id);
    auto_fd int fd = openat(p->part, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int r = fd < 0 ? err_sys(err, "'%s'", name) : enter(p, m, err);

    if (r == 0)
        r = capture_finish(&m->cap, err);
    if (r == 0)
        r = tar_here(fd, CRIU_OUTPUT, checkpoint_cancelled, err);
    if (r == 0 && fsync(fd) < 0)
        r = err_sys(err, "'%s'", name);
    if (fchdir(p->part) == 0)
        remove_tree(m->id);          /* never all of it twice */
    return r;
}

static int publish(const struct pod *p, struct err *err)
{
    const char *s = job_text(p->j, "index");
    int r = write_file(p->part, INDEX, s, strlen(s), err);

    if (r < 0)
        return r;
    auto_fd int fd = openat(p->part, INDEX, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return err_sys(err, "write '" INDEX "'");
    if (checkpoint_cancelled())
        return err_set(err, -ECANCELED, "given up before the end");
    for (size_t i = 0; i < p->n; i++) {
        auto_free char *name = mem_printf("%s.tar", p->v[i].id);

        if (renameat2(p->part, name, p->out, name, 0) < 0)
            return err_sys(err, "rename '%s'", name);
    }
    if (renameat(p->part, INDEX, p->out, INDEX) < 0)
        return err_sys(err, "rename '" INDEX "'");
    remove_partial(p);
    return fsync(p->out) < 0 ? err_sys(err, "output_path '%.500s'", p->output) : 0;
}

static int carry_out(struct pod *p, struct err *err)
{
    int r = begin_output(p, err);

    if (r == 0)
        r = criu_there(job_text(p->j, "criu"), err);
    for (size_t i = 0; i < p->n && r == 0; i++)
        if ((r = prepare(p, &p->v[i], err)) < 0)
            of_member(&p->v[i], err);
    if (r == 0)
        r = freeze_all(p, err);
    if (r == 0)
        r = dump_all(p, err);
    thaw_all(p);
    for (size_t i = 0; i < p->n && r == 0; i++)
        if ((r = archive(p, &p->v[i], err)) < 0)
            of_member(&p->v[i], err);
    return r < 0 ? r : publish(p, err);
}

/* ---- of one that was killed */

static void thaw_by_name(const struct pod *p)
{
    for (size_t i = 0; i < p->n; i++)
        freezer_thaw_dir(job_text(p->v[i].cap.job, "freezer"));
}

/* An output that is whole stays: it is the caller's. */
static int undo(struct pod *p)
{
    const char *netns = job_text(p->j, "netns");
    struct err err = ERR_INIT;

    thaw_by_name(p);
    if (open_output(p, &err) == 0) {
        (void)flock(p->out, LOCK_EX);
        if (faccessat(p->out, INDEX, F_OK, 0) < 0)
            remove_output(p);
        else
            remove_partial(p);
    }
    thaw_by_name(p);
    auto_fd int fd = netns[0] ? open(netns, O_RDONLY | O_CLOEXEC) : -1;
    for (size_t i = 0; fd >= 0 && i < p->n; i++)
        criu_unlock_network(fd, p->v[i].cap.criu.pid);
    return 0;
}

static void pod_free(struct pod *p)
{
    for (size_t i = 0; i < p->n; i++) {
        freezer_close(&p->v[i].freezer);
        capture_deinit(&p->v[i].cap);
    }
    fd_close(p->part);
    fd_close(p->out);
    free(p->v);
    json_decref(p->j);
}

int worker_checkpoint_pod(int argc, char **argv)
{
    struct pod p = { .out = -1, .part = -1 };
    struct err err = ERR_INIT;
    int r;

    (void)argv;
    if (argc != 1) {
        fprintf(stderr, "checkpoint-pod: takes no arguments\n");
        return 2;
    }
    umask(077);
    /* only the socket tells us to end: who stops the daemon with all around it must not leave a
     * frozen pod */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    r = read_job(&p, &err);
    if (r == 0 && json_is_true(json_object_get(p.j, "undo"))) {
        r = undo(&p);
    } else if (r == 0) {
        for (size_t i = 0; i < p.n; i++)
            (void)fcntl(CHECKPOINT_PIDFD + (int)i, F_SETFD, FD_CLOEXEC);
        r = carry_out(&p, &err);
        if (r < 0 && p.part >= 0)
            remove_output(&p);
    }
    r = checkpoint_report(r, &err);
    pod_free(&p);
    return r;
}
