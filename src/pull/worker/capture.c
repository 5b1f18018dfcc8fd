/* SPDX-License-Identifier: Apache-2.0 */
/* What a checkpoint has of one container, gathered in the current directory: the files that the
 * daemon knows, criu's images, its log. Both kinds of checkpoint are made of it. */
#include "pull/worker/checkpoint.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

bool checkpoint_cancelled(void)
{
    struct pollfd p = { CHECKPOINT_SOCK, POLLIN | POLLRDHUP, 0 };

    return poll(&p, 1, 0) > 0;
}

int checkpoint_report(int r, struct err *err)
{
    err_clean(err);
    auto_free char *last = mem_printf("%d %s", r < 0 ? err->grpc ? err->grpc : GRPC_UNKNOWN
                                                     : GRPC_OK, err->text);
    (void)send(CHECKPOINT_SOCK, last, strlen(last), MSG_NOSIGNAL);
    return r < 0;
}

const char *job_text(json_t *job, const char *key)
{
    const char *s = json_string_value(json_object_get(job, key));

    return s ? s : "";
}

void capture_init(struct capture *c, json_t *job, const char *criu, int pidfd)
{
    json_t *list = json_object_get(job, "external"), *v;
    char **external = mem_array(json_array_size(list) + 1, sizeof *external);
    size_t i;

    json_array_foreach(list, i, v)
        external[i] = (char *)(uintptr_t)json_string_value(v);
    c->job = job;
    c->pidfd = pidfd;
    c->work = NULL;
    c->criu = (struct criu_job){
        .path = criu,
        .pid = (pid_t)json_integer_value(json_object_get(job, "pid")),
        .upper = job_text(job, "upper"),
        .external = external,
    };
}

void capture_deinit(struct capture *c)
{
    free(c->work);
    free((void *)(uintptr_t)c->criu.external);
    c->criu.external = NULL;
    c->work = NULL;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    (void)remove(path);
    return 0;
}

void remove_tree(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int write_file(int dir, const char *name, const char *s, size_t n, struct err *err)
{
    auto_fd int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0 || write(fd, s, n) != (ssize_t)n)
        return err_sys(err, "write '%s'", name);
    return 0;
}

int capture_prepare(struct capture *c, struct err *err)
{
    const char *name;
    json_t *v;
    int r = 0;

    c->criu.work = c->work = realpath(".", NULL);
    if (!c->work || mkdir("checkpoint", 0700) < 0)
        return err_sys(err, "directory 'checkpoint'");
    json_object_foreach(json_object_get(c->job, "files"), name, v)
        if (r == 0)
            r = write_file(AT_FDCWD, name, json_string_value(v), json_string_length(v), err);
    return r;
}

/* Where runc finds on restore what it has to put in the place of stdio. */
static int write_descriptors(const struct capture *c, struct err *err)
{
    json_t *list = json_array();
    int r;

    for (int i = 0; i < 3; i++) {
        auto_free char *path = mem_printf("/proc/%d/fd/%d", (int)c->criu.pid, i);
        char to[PATH_MAX];
        ssize_t n = readlink(path, to, sizeof to - 1);

        to[n < 0 ? 0 : n] = '\0';
        json_array_append_new(list, json_string(to));
    }
    auto_free char *s = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    r = s ? write_file(AT_FDCWD, "checkpoint/descriptors.json", s, strlen(s), err)
          : err_set(err, -EINVAL, "the container's descriptors cannot be written down");
    return r;
}

/* What it says now; the container goes on writing. */
static int copy_log(const char *path, struct err *err)
{
    auto_free char *buf = mem_alloc(65536);
    struct stat st;

    if (!path[0])
        return 0;
    auto_fd int in = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (in < 0 && errno == ENOENT)
        return 0;
    auto_fd int out = open("container.log", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (in < 0 || out < 0 || fstat(in, &st) < 0)
        return err_sys(err, "log '%.300s'", path);
    for (off_t left = S_ISREG(st.st_mode) ? st.st_size : 0; left > 0;) {
        ssize_t n = read(in, buf, left < 65536 ? (size_t)left : 65536);

        if (n == 0)
            break;
        if (n < 0 || write(out, buf, (size_t)n) != n)
            return err_sys(err, "copy log '%.300s'", path);
        left -= n;
    }
    return 0;
}

static int still_runs(const struct capture *c, struct err *err)
{
    if (syscall(SYS_pidfd_send_signal, c->pidfd, 0, NULL, 0) < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it has ended");
    return 0;
}

int capture_dump(struct capture *c, struct err *err)
{
    int r = still_runs(c, err);

    if (r == 0)
        r = write_descriptors(c, err);
    return r < 0 ? r : criu_dump(&c->criu, err);
}

int capture_finish(struct capture *c, struct err *err)
{
    if (rename("checkpoint/stats-dump", "stats-dump") < 0 && errno != ENOENT)
        return err_sys(err, "stats-dump");
    return copy_log(job_text(c->job, "log"), err);
}
