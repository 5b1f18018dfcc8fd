/* SPDX-License-Identifier: Apache-2.0 */
/* Child processes: started with vfork semantics (CLONE_VM|CLONE_VFORK, then exec: the cost does not
 * grow with the daemon), watched by pidfd, reaped without blocking. See pidfd_open(2), clone3(2),
 * execveat(2).
 *
 * struct child is one process; struct run is one process with input given, output collected and a
 * deadline, for plugins and short helpers. Signal dispositions and mask are reset in the child;
 * every descriptor but those named is close-on-exec already (the whole daemon opens with
 * O_CLOEXEC). */
#ifndef CRICKET_CHILD_H
#define CRICKET_CHILD_H

#include "err.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <sys/types.h>

struct child_fd {
    int from;                        /* the daemon's descriptor; stays open here */
    int to;                          /* its number in the child */
};

struct child_opts {
    const char *path;                /* program; with exec_fd: only for messages */
    int exec_fd;                     /* -1, or what to execveat(fd, "", AT_EMPTY_PATH) */
    char *const *argv;
    char *const *envp;               /* NULL: the daemon's environment */
    const struct child_fd *fds; /* 0 and 1 are /dev/null and 2 is inherited unless given here */
    size_t n_fds;
    int cwd_fd;                      /* -1, or the directory to start in */
    bool new_session;
    bool dies_with_us;               /* SIGKILL when the daemon is gone, however that came */
};

#define CHILD_OPTS_INIT { .exec_fd = -1, .cwd_fd = -1 }

struct child;

/* status: exit code 0..255, or 128 + signal. The child is freed right after the callback. */
typedef void (*child_exit_fn)(void *arg, int status);

/* Starts a program; a failing exec is reported here, with its errno. */
int child_spawn(struct loop *l, const struct child_opts *o, child_exit_fn on_exit, void *arg,
                struct child **ret, struct err *err);
pid_t child_pid(const struct child *c);
int child_pidfd(const struct child *c);          /* stays the child's */
void child_kill(struct child *c, int sig);
/* The owner goes away: no callback any more; still reaped (and freed) when it exits. */
void child_disown(struct child *c);

struct run_result {
    int status;                      /* as child_exit_fn */
    bool timed_out;                  /* killed by the deadline */
    const char *out;                 /* stdout, NUL terminated; valid during the callback */
    size_t out_len;
    const char *errout;              /* stderr, cut at 4 KiB */
};

struct run;
typedef void (*run_done_fn)(void *arg, const struct run_result *r);

/* Runs a program: writes in[0..in_len) to its stdin (copied), collects at most max_out bytes of
 * stdout (more is an error: killed, status 255), SIGKILL to its process group at timeout_ms (0:
 * none). fds must not name 0, 1, 2. */
int run_start(struct loop *l, const struct child_opts *o, const void *in, size_t in_len,
              size_t max_out, int64_t timeout_ms, run_done_fn done, void *arg, struct run **ret,
              struct err *err);
/* SIGKILL to its process group; done is called when it is gone. */
void run_kill(struct run *r);
/* Kills it; done is not called. The process is still reaped. */
void run_cancel(struct run *r);
/* As run_cancel(), but it goes on by itself. */
void run_leave(struct run *r);

/* A pidfd of a process that need not be a child: cb once, when it is gone. pidfd is dup'ed. */
struct pidwatch;
struct pidwatch *pidwatch_new(struct loop *l, int pidfd, void (*cb)(void *arg), void *arg);
struct pidwatch *pidwatch_free(struct pidwatch *w);

#endif
