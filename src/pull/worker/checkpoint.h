/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the checkpoint job (checkpoint.c has the picture). */
#ifndef CRICKET_CHECKPOINT_H
#define CRICKET_CHECKPOINT_H

#include "err.h"

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

enum {
    CHECKPOINT_SOCK = 3,
    CHECKPOINT_PIDFD = 4,            /* of a pod: the first container's, the others' follow */
};

/* --- capture.c */
/* Has the daemon given the job up, or gone? */
bool checkpoint_cancelled(void);
/* The last word to the daemon, one message: "<gRPC status> <text>". The exit code. */
int checkpoint_report(int r, struct err *err);

/* --- criu.c */
struct criu_job {
    const char *path;                /* of criu */
    pid_t pid;                       /* the container's first process */
    const char *upper, *work;        /* its files, the work directory: told to the script */
    char *const *external;           /* container paths of mounts that come from outside, or NULL */
    const char *freezer;             /* of its cgroup, which is frozen; or NULL */
    void (*failing)(void *arg);      /* or NULL: as soon as it is known that nothing comes of it */
    void *arg;
};

/* What it says beside its log, in its current directory. */
#define CRIU_OUTPUT "criu.out"

enum { CRIU_ARGS_MAX = 4096 };
struct criu_args {
    char *v[CRIU_ARGS_MAX];          /* what is more is dropped; NULL terminated */
    size_t n;
};
void criu_arg(struct criu_args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void criu_args_free(struct criu_args *a);

/* Why criu failed: in `what`, with the errors of its log and output; or it does not work here. */
int criu_explain(const char *path, const char *log, const char *what, struct err *err);
/* Is there such a program? */
int criu_there(const char *path, struct err *err);
/* Dumps the container into checkpoint/, below the current directory, and lets it run on.
 * While it stands still, criu calls this program again: criu_script(). */
int criu_dump(const struct criu_job *job, struct err *err);
/* As criu's action script: writes rootfs-diff.tar. The exit code. */
int criu_script(void);
/* What a criu that was killed while it dumped pid has left in the network namespace. This process
 * is in that namespace then. */
void criu_unlock_network(int netns, pid_t pid);

/* --- criu_mounts.c */
/* "--external" for what a dump is not to have. */
int criu_add_mounts(const struct criu_job *job, struct criu_args *a, struct err *err);
/* Is it in the same namespace (a name of /proc/PID/ns) as this process? */
bool criu_same_ns(pid_t pid, const char *name);
/* Is the mount point `path` at or below `top`? */
bool criu_below(const char *path, const char *top);

/* --- restore_images.c: what criu's images say of what they need */
struct restore_mount {
    char *key, *point;
    bool rdonly;                     /* that mount */
};
struct restore_needs {
    struct restore_mount *mounts;    /* external ones */
    size_t n_mounts;
    bool ipc;                        /* an IPC namespace of its own */
    char *stdio[3];                  /* what /proc/PID/fd/N said; NULL: it is not said */
};
int restore_needs(const char *images, struct restore_needs *ret, struct err *err);
void restore_needs_deinit(struct restore_needs *n);
/* The host name that criu sets in a UTS namespace: this process's. */
int restore_host_name(const char *images, struct err *err);

/* What a checkpoint has of one container, in the current directory. */
struct capture {
    json_t *job;                     /* the daemon's words; stays the caller's */
    int pidfd;
    char *work;                      /* the current directory's path, once it is prepared */
    struct criu_job criu;
};
void capture_init(struct capture *c, json_t *job, const char *criu, int pidfd);
void capture_deinit(struct capture *c);
/* "" where there is none. */
const char *job_text(json_t *job, const char *key);
/* Before anything stands still: checkpoint/, and what the daemon knows. */
int capture_prepare(struct capture *c, struct err *err);
/* descriptors.json, and criu_dump(). */
int capture_dump(struct capture *c, struct err *err);
/* What may be done when all runs again: the log. */
int capture_finish(struct capture *c, struct err *err);
int write_file(int dir, const char *name, const char *s, size_t n, struct err *err);
void remove_tree(const char *path);

/* --- freezer.c: a cgroup of either kind */
struct freezer {
    char *dir;
    int state, events;               /* freezer.state, or cgroup.freeze and cgroup.events */
    bool touched;                    /* frozen by us, or about to be */
};
/* Fails where it is frozen already: whoever did that would not expect it to be thawed. */
int freezer_open(struct freezer *f, const char *dir, struct err *err);
int freezer_freeze(struct freezer *f, struct err *err);    /* is begun; see freezer_wait() */
int freezer_wait(struct freezer *f, bool (*stop)(void), struct err *err);
void freezer_thaw(struct freezer *f);
void freezer_close(struct freezer *f);                      /* thaws */
/* Whatever froze it; also where it is not there any more. */
void freezer_thaw_dir(const char *dir);

/* --- tar.c: plain tar files; -ECANCELED when stop() says so */
/* The changes of an overlay's upper directory, deletions as in OCI layers (".wh.NAME"). */
int tar_upper(int out, const char *upper, bool (*stop)(void), struct err *err);
/* All of the current directory but for the file `but`. */
int tar_here(int out, const char *but, bool (*stop)(void), struct err *err);

#endif
