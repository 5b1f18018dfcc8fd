/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the checkpoint job (checkpoint.c has the picture). */
#ifndef CRICKET_CHECKPOINT_H
#define CRICKET_CHECKPOINT_H

#include "err.h"

#include <stdbool.h>
#include <sys/types.h>

enum { CHECKPOINT_SOCK = 3, CHECKPOINT_PIDFD = 4 };

/* --- checkpoint.c */
/* Has the daemon given the job up, or gone? */
bool checkpoint_cancelled(void);

/* --- criu.c */
struct criu_job {
    const char *path;                /* of criu */
    pid_t pid;                       /* the container's first process */
    const char *upper, *work;        /* its files, the work directory: told to the script */
    char *const *external;           /* container paths of mounts that come from outside, or NULL */
};

/* Dumps the container into checkpoint/, below the current directory, and lets it run on.
 * While it stands still, criu calls this program again: criu_script(). */
int criu_dump(const struct criu_job *job, struct err *err);
/* As criu's action script: writes rootfs-diff.tar. The exit code. */
int criu_script(void);

/* --- tar.c: plain tar files; -ECANCELED when stop() says so */
/* The changes of an overlay's upper directory, deletions as in OCI layers (".wh.NAME"). */
int tar_upper(int out, const char *upper, bool (*stop)(void), struct err *err);
/* All of the current directory but for the file `but`. */
int tar_here(int out, const char *but, bool (*stop)(void), struct err *err);

#endif
