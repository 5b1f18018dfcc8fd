/* SPDX-License-Identifier: Apache-2.0 */
/* What a pod's checkpoint says of itself. pod.json names the containers and their archives; of each
 * archive config.dump has to be of the same container, and spec.dump has the process. Both may lie
 * behind memory images of any size: what is in between is skipped by lseek(2). All of it may be
 * made up: this runs in the jail (jail.c), and the daemon gets new JSON of bounded size. */
#include "pull/worker/restore_pod.h"

#include "mem.h"
#include "pull/worker/checkpoint.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    JSON_MAX = 1024 * 1024,          /* of a file; and of all that is told */
    ENTRIES_MAX = 100 * 1000,        /* of an archive: criu makes some dozens */
    BLOCK = 64 * 1024,
};

static int broken(struct err *err, const char *why)
{
    return err_rpc(err, GRPC_FAILED_PRECONDITION, "%s", why);
}

/* A file of this directory, not one that a link leads to. */
static int open_here(const char *name, struct err *err)
{
    struct stat st;
    int fd = strchr(name, '/') || !name[0]
                 ? -1 : openat(AT_FDCWD, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "'%.200s': %s", name,
                       strchr(name, '/') || !name[0] ? "no file name" : strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    (void)close(fd);
    return err_rpc(err, GRPC_FAILED_PRECONDITION, "'%.200s' is no plain file", name);
}

static json_t *parse(const char *name, const char *s, size_t n, struct err *err)
{
    json_error_t why;
    json_t *o = json_loadb(s, n, JSON_REJECT_DUPLICATES, &why);

    if (json_is_object(o))
        return o;
    err_rpc(err, GRPC_FAILED_PRECONDITION, "'%s': %s", name, o ? "not an object" : why.text);
    json_decref(o);
    return NULL;
}

static json_t *read_index(struct err *err)
{
    auto_free char *buf = mem_alloc(JSON_MAX + 1);
    auto_fd int fd = open_here("pod.json", err);
    size_t n = 0;
    ssize_t k;

    if (fd < 0)
        return NULL;
    while (n <= JSON_MAX && (k = read(fd, buf + n, JSON_MAX + 1 - n)) > 0)
        n += (size_t)k;
    if (n > JSON_MAX) {
        broken(err, "'pod.json' is larger than 1 MiB");
        return NULL;
    }
    return parse("pod.json", buf, n, err);
}

/* ---- an archive */

static json_t *read_entry(struct archive *a, struct archive_entry *e, struct err *err)
{
    const char *name = archive_entry_pathname(e);
    int64_t size = archive_entry_size(e);

    if (archive_entry_filetype(e) != AE_IFREG || size > JSON_MAX) {
        err_rpc(err, GRPC_FAILED_PRECONDITION, "'%s' is no plain file, or larger than 1 MiB", name);
        return NULL;
    }
    auto_free char *buf = mem_alloc((size_t)size + 1);
    if (archive_read_data(a, buf, (size_t)size) != size) {
        err_rpc(err, GRPC_FAILED_PRECONDITION, "'%s': %s", name,
                archive_error_string(a) ? archive_error_string(a) : "it ends too early");
        return NULL;
    }
    return parse(name, buf, (size_t)size, err);
}

static int find_both(struct archive *a, json_t **config, json_t **spec, struct err *err)
{
    struct archive_entry *e;
    unsigned n = 0;
    int r;

    while (!(*config && *spec) && (r = archive_read_next_header(a, &e)) != ARCHIVE_EOF) {
        const char *name = archive_entry_pathname(e);
        json_t **to;

        if (r < ARCHIVE_WARN || ++n > ENTRIES_MAX)
            return err_rpc(err, GRPC_FAILED_PRECONDITION, "tar: %s",
                           r >= ARCHIVE_WARN         ? "too many entries"
                           : archive_error_string(a) ? archive_error_string(a)
                                                     : "damaged");
        to = !name                               ? NULL
             : strcmp(name, "config.dump") == 0 ? config
             : strcmp(name, "spec.dump") == 0   ? spec
                                                 : NULL;
        if (to && !*to && !(*to = read_entry(a, e, err)))
            return err->code;
    }
    return *config && *spec ? 0 : broken(err, *config ? "it has no 'spec.dump'"
                                                      : "it has no 'config.dump'");
}

static int read_archive(const char *name, json_t **config, json_t **spec, struct err *err)
{
    auto_fd int fd = open_here(name, err);
    struct archive *a;
    int r;

    if (fd < 0)
        return fd;
    a = archive_read_new();
    if (!a)
        abort();
    archive_read_support_format_tar(a);
    r = archive_read_open_fd(a, fd, BLOCK) == ARCHIVE_OK ? find_both(a, config, spec, err)
                                                         : broken(err, "it is no tar file");
    archive_read_free(a);
    return r < 0 ? err_note(err, "archive '%.200s'", name) : 0;
}

/* ---- all */

static int read_ctr(json_t *c, json_t *list, struct err *err)
{
    json_t *config = NULL, *spec = NULL, *process, *linux_;
    const char *name = job_text(c, "name");
    int r = !name[0] ? broken(err, "it has no name")
                     : read_archive(job_text(c, "archive"), &config, &spec, err);

    if (r == 0 && (strcmp(job_text(config, "id"), job_text(c, "id")) != 0 ||
                   strcmp(job_text(config, "name"), name) != 0 ||
                   strcmp(job_text(config, "rootfsImageRef"), job_text(c, "imageRef")) != 0))
        r = err_rpc(err, GRPC_FAILED_PRECONDITION, "archive '%.200s' is of another container: "
                    "'%.200s' (%.64s)", job_text(c, "archive"), job_text(config, "name"),
                    job_text(config, "id"));
    process = json_object_get(spec, "process");
    if (r == 0 && !json_is_object(process))
        r = broken(err, "its spec.dump has no process");
    linux_ = json_object_get(spec, "linux");
    if (r == 0)
        json_array_append_new(list, json_pack(
            "{s:s, s:s, s:s, s:O, s:O*, s:O*, s:O*, s:O*}", "name", name, "archive",
            job_text(c, "archive"), "imageRef", job_text(c, "imageRef"), "process", process,
            "devices", json_object_get(linux_, "devices"),
            "maskedPaths", json_object_get(linux_, "maskedPaths"),
            "readonlyPaths", json_object_get(linux_, "readonlyPaths"),
            "annotations", json_object_get(spec, "annotations")));
    json_decref(config);
    json_decref(spec);
    return r < 0 ? err_note(err, "container '%.200s'", name) : 0;
}

static int tell(int out, json_t *o, struct err *err)
{
    auto_free char *s = json_dumps(o, JSON_COMPACT);
    size_t n = s ? strlen(s) : 0;

    if (n > JSON_MAX)
        return broken(err, "what it says of its processes is longer than 1 MiB");
    for (size_t at = 0; at < n;) {
        ssize_t k = write(out, s + at, n - at);

        if (k < 0)
            return err_sys(err, "answer");
        at += (size_t)k;
    }
    return 0;
}

static int read_all(json_t *index, int out, struct err *err)
{
    json_t *list = json_object_get(index, "containers"), *c, *found = json_array(), *answer;
    size_t i;
    int r = 0;

    if (json_integer_value(json_object_get(index, "version")) != 1)
        r = broken(err, "'pod.json' is not of version 1");
    else if (strcmp(job_text(index, "runtime"), "cricket") != 0)
        r = err_rpc(err, GRPC_FAILED_PRECONDITION, "it was made by '%.100s', not by cricket",
                    job_text(index, "runtime"));
    json_array_foreach(list, i, c)
        if (r == 0)
            r = read_ctr(c, found, err);
    answer = json_pack("{s:s, s:o}", "runtimeHandler",
                       job_text(json_object_get(index, "pod"), "runtimeHandler"), "containers",
                       found);
    if (r == 0)
        r = tell(out, answer, err);
    json_decref(answer);
    return r;
}

int restore_pod_read(int out, struct err *err)
{
    json_t *index = read_index(err);
    int r = index ? read_all(index, out, err) : err->code;

    json_decref(index);
    return r;
}
