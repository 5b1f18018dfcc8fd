/* SPDX-License-Identifier: Apache-2.0 */
/* The talk with one supervisor (cricket-pod): SEQPACKET in <state>/pods/<id>/sock, versioned
 * messages, descriptors by SCM_RIGHTS, credentials checked on both sides. Requests are answered in
 * any order; the supervisor also sends events. When the link drops, the supervisor goes on alone;
 * link_open() meets it again. */
#ifndef CRICKET_LINK_H
#define CRICKET_LINK_H

#include "err.h"
#include "proc/plan.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct link;

struct link_exit {
    char id[65];
    int status;                      /* 0..255, or 128 + signal */
    int signal;                      /* or 0 */
    int64_t finished_at;             /* ns, wall clock */
    bool oom;                        /* the cgroup's oom_kill counter had moved */
};

/* What a supervisor says of a container it has (at link_open) */
struct link_ctr {
    char id[65];
    pid_t pid;                       /* 0: exited, see the exit record */
    int64_t started_at;
};

struct link_events {
    /* Logs are drained to the file before this comes. The record stays with the supervisor until
     * link_ack_exit(). */
    void (*on_exit)(void *arg, const struct link_exit *x);
    /* The supervisor is gone (crash, OOM kill): everything it ran is dead or dying. */
    void (*on_gone)(void *arg);
    /* About a container ("": the pod): something that went wrong and stopped nothing, for the log.
     */
    void (*on_note)(void *arg, const char *ctr, const char *text);
    /* It owes an answer and has said nothing for stall_ms (0: there is no limit, and these are not
     * called). What was asked has failed by then, but for link_shutdown(). Then: it has spoken. */
    void (*on_hangs)(void *arg, const struct err *why);
    void (*on_awake)(void *arg);
    int64_t stall_ms;
    void *arg;
};

struct link_sandbox {                /* how to make the namespaces of a pod */
    const char *id;
    const char *state_dir; /* <state>/pods/<id>: sock, netns, exits/ ; made by link_spawn */
    bool host_net, host_ipc, shared_pid;
    const char *hostname;            /* "" : leave (host UTS when host_net) */
    const struct plan_pair *sysctls;
    size_t n_sysctls;
    uint64_t shm_size;               /* 64 MiB */
    /* SELinux: context= of /dev/shm, what PID 1 of the pod runs as; or NULL */
    const char *mount_label, *init_label;
    bool userns;
    const struct link_idmap { uint32_t host_id, container_id, length; } *uid_map, *gid_map;
    size_t n_uid_map, n_gid_map;
};

struct link_opts {
    const char *pod_path;            /* cricket-pod */
    int pod_fd;                      /* O_PATH of it on a read-only mount, or -1 */
    int cgroup_join_fds[16];         /* cricket's own cgroup: v1 `tasks` files, or none */
    size_t n_cgroup_join_fds;
};

/* A descriptor of cricket-pod on a read-only mount of its own, for pod_fd: nothing in a pod can
 * write through /proc/1/exe. The caller closes it. */
int link_pod_fd(const char *path, int *ret_fd, struct err *err);

/* On failure k is NULL: the link is freed when the callback returns. */
typedef void (*link_ready_fn)(void *arg, struct link *k, const char *netns, pid_t supervisor,
                              const struct err *err);

/* Starts a supervisor and has it make the namespaces; ready once they are held (netns: the path of
 * the bind mount, "" on host network), or failed with everything undone. */
int link_spawn(struct loop *l, const struct link_opts *o, const struct link_sandbox *s,
               const struct link_events *ev, link_ready_fn ready, void *arg, struct link **ret,
               struct err *err);
/* Meets a running supervisor after a restart of the daemon. on_ctr for each container that it has,
 * then exits that happened meanwhile by on_exit, then ready. -ENOENT/-ECONNREFUSED: there is none.
 */
int link_open(struct loop *l, const char *state_dir, const struct link_events *ev,
              void (*on_ctr)(void *arg, const struct link_ctr *c), link_ready_fn ready, void *arg,
              struct link **ret, struct err *err);
/* Forgets the link; the supervisor lives on. */
struct link *link_free(struct link *k);
pid_t link_pid(const struct link *k);
/* True after on_hangs until on_awake, -EHOSTDOWN and who does not answer in err: GRPC_UNAVAILABLE.
 */
bool link_hangs(const struct link *k, struct err *err);
/* SIGKILL to a supervisor that hangs. on_gone follows (or what link_shutdown() or ready has to
 * tell), in some seconds at the latest: then it cannot even die, and is left alone. */
void link_kill(struct link *k);
/* The same to one that cannot be connected to. A process that is no supervisor is not touched. */
void link_kill_pid(pid_t pid);
bool link_keeps_cgroups(const struct link *k);   /* does its supervisor? not an old one */
uint64_t link_number(const struct link *k);      /* no two links of this daemon have the same */
pid_t link_init_pid(const struct link *k);       /* PID 1 of a shared PID namespace, else 0 */

/* ok: err is NULL */
typedef void (*link_reply_fn)(void *arg, const struct err *err);
typedef void (*link_start_fn)(void *arg, pid_t pid, int pidfd /* taken over by the callee */,
                              int64_t started_at, const struct err *err);

/* Launches a container. plan_fd from plan_encode(); cgroup_fds: v1 `tasks` files opened for writing
 * or one v2 directory (cgroup2 true); oom_fd: memory.oom_control or memory.events of its cgroup, or
 * -1. All are dup'ed. target: the container whose PID namespace is joined (PLAN_PID_TARGET), or
 * NULL. The error text names the step that failed ("start container: exec '/nope': No such file or
 * directory"). */
int link_start(struct link *k, const char *id, int plan_fd, const int *cgroup_fds, size_t n,
               bool cgroup2, int oom_fd, const char *target, link_start_fn done, void *arg,
               struct err *err);
void link_ack_exit(struct link *k, const char *id);  /* the exit is recorded: forget it */
void link_signal(struct link *k, const char *id, int sig);
void link_reopen_log(struct link *k, const char *id, link_reply_fn done, void *arg);
void link_resize(struct link *k, const char *id, uint16_t w, uint16_t h);
/* The supervisor kills what is left, drops the namespaces, unmounts its bind mounts and exits; done
 * then. With an error it could not be told, and lives. May be called from inside, as that of
 * link_reopen_log(), when there is no link any more. */
void link_shutdown(struct link *k, link_reply_fn done, void *arg);

/* A process in a running container. fds: what becomes 0, 1, 2 (dup'ed; -1: /dev/null for 0); with
 * tty only fds[0] is used: it gets the pty's master side back through link_exec_started.pty. The
 * exec dies with the link: a daemon that is gone cannot answer for it. */
struct link_exec;
struct link_exec_events {
    void (*started)(void *arg, pid_t pid, int pty /* -1 or taken over */, const struct err *err);
    void (*exited)(void *arg, int status);       /* once, after started without err */
    void *arg;
    bool quiet;                      /* started need not be told, but for an error */
};
/* plan: from plan_encode_exec(). cgroup_fds as in link_start(); n 0, where link_keeps_cgroups(): those that the last exec in this
 * container brought over this link. A struct link_exec is gone after exited, after started with err, after link_exec_forget(). */
int link_exec(struct link *k, const char *ctr_id, const struct str *plan, const int fds[3],
              const int *cgroup_fds, size_t n, bool cgroup2, const struct link_exec_events *ev,
              struct link_exec **ret, struct err *err);
void link_exec_kill(struct link_exec *x); /* SIGKILL to all that it started; exited follows */
void link_exec_resize(struct link_exec *x, uint16_t w, uint16_t h);
void link_exec_forget(struct link_exec *x);      /* no callback any more; killed if still running */

/* A struct link_attach is gone after closed() and after link_attach_close().
 * Attach: the supervisor copies output from now on to out/err (non-blocking; a client that does not
 * read is dropped) and reads the container's stdin from in. Descriptors are dup'ed; -1 where not
 * wanted. closed: the container has ended (err NULL), or the client was dropped or never taken
 * (err). */
struct link_attach;
int link_attach(struct link *k, const char *ctr_id, int in, int out, int err_fd,
                void (*closed)(void *arg, const struct err *err), void *arg,
                struct link_attach **ret, struct err *err);
void link_attach_close(struct link_attach *a);

#endif
