/* SPDX-License-Identifier: Apache-2.0 */
/* What every way of running a command in a container shares: ExecSync and the streamed Exec. */
#ifndef CRICKET_EXEC_H
#define CRICKET_EXEC_H

#include "handlers/objects.h"

/* A running exec (an attach, a checkpoint), in its container's list; end() is called when the
 * container is removed or the daemon ends. */
struct exec_base {
    struct list l;
    struct ctr *c;
    void (*end)(struct exec_base *b);
};

/* The running container for these arguments, or NULL with err (NotFound, FailedPrecondition,
 * InvalidArgument). */
struct ctr *exec_target(struct handlers *h, const char *id, char *const *cmd, size_t n_cmd,
                        struct err *err);

/* Makes the plan of a process in c: done(arg, plan, NULL), where it is there until that returns, or
 * done(arg, NULL, err); at once or when the seccomp profile is compiled. *ret (NULL after done)
 * may be given to exec_plan_free() to forget about it. */
struct exec_plan;
typedef void (*exec_plan_fn)(void *arg, const struct str *plan, const struct err *err);
void exec_plan_make(struct ctr *c, char *const *cmd, size_t n_cmd, bool tty, bool with_stdin,
                    exec_plan_fn done, void *arg, struct exec_plan **ret);
void exec_plan_free(struct exec_plan *p);

/* link_exec() in the container's cgroup. */
int exec_launch(struct ctr *c, const struct str *plan, const int fds[3],
                const struct link_exec_events *ev, struct link_exec **ret, struct err *err);

#endif
