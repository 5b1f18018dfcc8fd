/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's own world: one process, one epoll loop, a handful of containers.
 *
 *      main.c     start, the loop, SIGCHLD          talk.c     the link with the daemon
 *      sandbox.c  namespaces, small mount ns        ctr.c      containers: start, exit, records
 *      launch.c   clone3 to execve                  confine.c  user, capabilities, seccomp
 *      sources.c  what is taken from the host       mounts.c   the container's root
 *      root.c     paths inside that                 exec.c     more processes
 *      stdio.c    pipes and pty -> CRI log          attach.c   clients
 *      oci.c      an OCI runtime in place of launch.c          bundle.c   what it is given
 *      restore.c  criu in place of launch.c                    view.c     is a plan what it says
 *      hooks.c    CDI's hooks around a launch         poststop.c after the end
 *      netdev.c   network interfaces that come along        rdt.c      a place in resctrl
 *
 * The supervisor lives in a mount namespace of its own with next to nothing mounted, so that a
 * launch copies next to nothing (every mount of the host would cost each launch). Host paths are
 * reached in two ways: files (logs) beneath the descriptor `host_root`, mounts by a child that
 * steps into the host's namespace, clones what it needs by open_tree(2) and steps out with detached
 * mounts in hand. */
#ifndef CRICKET_POD_POD_H
#define CRICKET_POD_POD_H

#include "wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* ---- loop (main.c) */

struct src {                         /* something that epoll watches; embedded in its owner */
    int fd;                          /* -1: not watched */
    uint32_t events;
    void (*fn)(struct src *s, uint32_t events);
};

int src_add(struct src *s, int fd, uint32_t events, void (*fn)(struct src *s, uint32_t events));
void src_mod(struct src *s, uint32_t events);
void src_del(struct src *s);         /* the descriptor stays open */

struct timer {
    int64_t at_ms;                   /* monotonic; 0: off */
    void (*fn)(struct timer *t);
    struct timer *next;
};
void timer_set(struct timer *t, int64_t in_ms, void (*fn)(struct timer *t));
void timer_off(struct timer *t);

int64_t now_mono_ms(void);
int64_t now_wall_ns(void);

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* Big buffers for moving log bytes, given back to the kernel before the loop sleeps. */
enum { SCRATCH_IN = 32768, SCRATCH_OUT = 65536 };
extern char *scratch_in, *scratch_out;
void scratch_used(void);

/* ---- the pod */

struct pod {
    char id[WIRE_ID];
    char *state_dir;                 /* absolute, in the host's mount namespace */
    uint32_t flags;                  /* WIRE_HOST_NET, WIRE_HOST_IPC, WIRE_SB_* */
    int state_fd;                    /* state_dir */
    int host_root;                   /* "/" of the host, O_PATH */
    int host_mnt;                    /* the host's mount namespace */
    int small_mnt;                   /* ours */
    int own_pid;                     /* our PID namespace */
    int net, ipc, uts, user, pidns;  /* the sandbox's; -1: the host's */
    pid_t init;                      /* PID 1 of a shared PID namespace; 0: none */
    struct wire_idmap uid_map, gid_map; /* of the user namespace: exactly one range each (CRI) */
    int old_oom_adj; /* what we were started with: for processes that ask for nothing */
    bool made_netns, made_sock, no_mknod, stopping;
};
extern struct pod pod;

long sys_clone3(uint64_t flags, int *pidfd, int cgroup_fd);   /* exit signal SIGCHLD */
int file_write(int dirfd, const char *path, const char *text); /* 0 or -errno; one write(2) */
int host_open(const char *path, int flags,
              mode_t mode); /* as the host would resolve it; -1 and errno */
int host_mkdir_p(const char *path, size_t len,
                 mode_t mode); /* the first len bytes of path; 0 or -errno */

/* sandbox.c */
int sandbox_make(int file_fd, const int *cgroups, size_t n, char *why, size_t why_len);
void sandbox_drop(void);

/* talk.c */
struct out_msg;
int talk_listen(void);
void talk_take(int fd);              /* a connected link */
bool talk_up(void);
void talk_send(uint16_t type, uint32_t serial, const void *body, size_t len,
               int fd /* -1; dup'ed */);
void talk_reply(uint32_t serial, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void talk_note(const char *id, const char *text);     /* of a container, for the daemon's log */
void talk_finish(void);              /* sends what is queued, waiting for it a moment */

/* ---- launching: what the child works from */

struct launch {
    void *base;                      /* the mapped plan, or what is lent until the clone is made */
    size_t len;
    bool base_lent;
    struct wire_plan *plan;
    int cgroups[WIRE_FDS_MAX];
    size_t n_cgroups;
    bool lent;                       /* cgroups and target are the container's */
    bool cgroup2;
    bool exec;                       /* into a container, not a new one */
    unsigned long slack; /* timer slack of an OCI runtime's exec, ns, by which it is known; or 0 */
    bool userns;
    bool oci;                        /* the child drives an OCI runtime: oci.c */
    bool restore;                    /* the child has criu restore the container */
    bool rdt;                        /* it joins, or makes, the container's place in resctrl */
    bool hooks;                      /* there are some, and no OCI runtime runs them */
    bool driven;                     /* the child drives another process: oci.c, hooks.c, restore.c */
    int rootfs;                      /* where hooks find the root; -1: there are none */
    pid_t target_pid;                /* of target, where oci needs it; 0 */
    int target; /* pidfd: whose PID namespace (TARGET), or whose everything (exec) */
    int stdio[3];                    /* the child's ends; -1: /dev/null, or the pty */
    bool quiet; /* nothing is told but a failure, once, and nobody looks before the child is dead */
    /* our end and the child's of a SEQPACKET pair that closes on exec; quiet: of a pipe */
    int status, status_child;
    pid_t pid;
    int pidfd;                       /* of a container's first process, not of an exec */
};

/* What comes over `status`. End of file: execve has happened. */
struct launch_msg {
    int32_t code;                    /* 0: news, see below; else negative errno */
    /* the child goes on as this process; 0: a pty's master comes along; or LAUNCH_* */
    int32_t pid;
    char text[512];
};
enum {
    LAUNCH_NOTE = -1,                /* text is for the log */
    LAUNCH_BUILT = -2,               /* to the driver in hooks.c: the root stands */
};

/* A child that drives another process says `pid` twice for a container (created, started), once
 * for an exec. */

void launch_init(struct launch *l);
/* Maps the plan; plan_fd stays the caller's. */
int launch_plan(struct launch *l, int plan_fd, enum wire_kind kind, char *why, size_t n);
/* The same with a plan in memory, which is written to in the child, and which l forgets when
 * launch_clone() has returned. */
int launch_lend(struct launch *l, void *plan, size_t len, enum wire_kind kind, char *why, size_t n);
int launch_clone(struct launch *l, char *why, size_t n);
long launch_process(struct launch *l, uint64_t flags, int *pidfd, char *why, size_t n);
/* everything but status, pid and pidfd of a launch that succeeded */
void launch_deinit(struct launch *l);
int launch_read(int status, struct launch_msg *m,
                int *ret_fd); /* 1: message, 0: exec'ed, -EAGAIN, other errors */

/* in the child */
/* err: errno, told in words behind the text; negative: the text says it all. */
void child_fail(const struct launch *l, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4), noreturn));
/* mounts.c: up to the new root, entered; returns nothing but success */
int child_root(struct launch *l);
void child_become(struct launch *l) __attribute__((noreturn)); /* confine.c: user, limits, exec */
void child_pty(struct launch *l,
               int root); /* opens it in the container's devpts, sends the master */
/* goes on as PID 1 of a new PID namespace of the user namespace */
void child_again(struct launch *l);
void child_mapped_root(const struct launch *l); /* of the user namespace just entered */
void child_send_master(const struct launch *l, int fd);
void child_send_pid(const struct launch *l, pid_t pid);       /* see "twice" above */
void child_oom_adj(const struct launch *l);
void child_give_pipes(const struct launch *l);
void child_plain_signals(void);
/* argv or envp, made of offsets in place */
char **child_pointers(const struct launch *l, const struct wire_arr *a);
/* mounts.c: from here on the host's tree is there, with the container's root at <bundle>/rootfs */
void child_leave_build(const struct launch *l, int root);
void netdev_move_all(const struct launch *l);    /* netdev.c */
/* rdt.c. A container's, which is made, in the host's mount namespace; an exec's anywhere. */
void rdt_join(const struct launch *l);
uid_t host_uid(uint32_t id); /* an id of the pod's user namespace, as the host sees it */
gid_t host_gid(uint32_t id);
/* root.c: beneath the directory `root`, wherever links lead; -1 and errno */
int root_open(int root, const char *path, int flags);
/* O_PATH; what is missing is made, the last part as a directory or an empty file */
int root_make(int root, const char *path, bool dir);
/* mounts.c */
int sys_open_tree(int fd, const char *path, unsigned flags);
int sys_move_mount(int from, int to);
int sys_setattr(int fd, unsigned flags, uint64_t set, uint64_t clr, uint64_t propagation,
                int userns);

/* ---- oci.c */

void oci_child(struct launch *l) __attribute__((noreturn));
/* A process that was driven comes to us as an orphan, and may have ended before we are told its
 * number: while such launches are under way, the ends of orphans are kept. */
void orphans_begin(void);
void orphans_end(void);
void orphans_add(pid_t pid, int status);
bool orphans_have(pid_t pid, int *status);          /* true: it has ended */
/* Has the runtime forget the container, after its end. */
void oci_delete(const char *path, const char *id);
bool oci_deleting(pid_t pid);                    /* is it one of those? then it ends by itself */
bool oci_reaped(pid_t pid);

/* ---- restore.c */

void restore_child(struct launch *l) __attribute__((noreturn));

/* ---- hooks.c */

void hooks_child(struct launch *l) __attribute__((noreturn));   /* the driver */
/* in the container's first process; a hook that fails ends it */
void hooks_before_pivot(const struct launch *l);
void hooks_before_exec(const struct launch *l);
/* has hooks that look at the container before pivot_root: it is made in a copy of the host's tree
 */
bool hooks_want_host(const struct launch *l);
bool hooks_want_poststop(const struct launch *l);
void hooks_run_poststop(const struct launch *l, int status);    /* notes go to status */
void hooks_drop_bundle(const char *id);

/* ---- poststop.c */

/* Runs these hooks in a child, drops the bundle after them, then calls ctr_drained() if the
 * container is still there. False: that has failed and was told, and the bundle is gone. */
bool poststop_start(const char *id, int plan_fd);
bool poststop_runs(const char *id);              /* NULL: any */
bool poststop_pid(pid_t pid);                    /* is it such a child? it ends by itself */
void poststop_hurry(void);                       /* the pod ends: they have a moment more */

/* ---- containers */

struct ctr;

struct stream {                      /* one output of a container */
    struct src src;
    struct ctr *ctr;
    char *part; /* the beginning of a line whose end has not come; NULL: none */
    uint32_t part_len, part_cap;
    bool err;                        /* stderr */
};

struct log {
    int fd;                          /* -1: discard */
    char *path;                      /* NULL: discard */
    uint32_t line_max;
    char *pend;                      /* what the file system would not take yet */
    size_t pend_len, pend_cap;
    size_t torn;                     /* so much of an entry whose end it has not taken is there */
    int retry_ms;
    struct timer timer;
};

enum ctr_state { CTR_STARTING, CTR_RUNNING, CTR_DRAINING, CTR_EXITED };

struct attach;

struct ctr {
    struct ctr *next;
    char id[WIRE_ID];
    enum ctr_state state;
    uint32_t start_serial;           /* of the request that is being answered */
    pid_t pid;
    int pidfd;
    bool userns;
    char *oci;                       /* the OCI runtime that has it; NULL: ours */
    bool driven, rdt;                /* as in its launch */
    bool bundle;                     /* there is one, ours to remove: hooks.c */
    bool hold_over;                  /* poststop hooks do not hold the exit any longer */
    int plan_fd;                     /* for poststop hooks that are still to run; -1 */
    pid_t driver;                    /* while STARTING, after `pid` was told; 0: none */
    uint8_t told;                    /* how often it has said `pid` while STARTING */
    bool dead;                       /* it ended while STARTING, as dead_status says */
    int dead_status;
    int64_t started_at;
    struct launch *launch;           /* while STARTING */
    struct src status;
    struct stream out, err;          /* with a tty only out: the master */
    struct log log;
    struct src in; /* the container's stdin; with a tty fd is a dup of the master */
    bool tty, stdin_once, drain_over, acked;
    struct attach *attached;
    int oom_fd;
    uint64_t oom_base;
    int join[WIRE_FDS_MAX];          /* its cgroups, as the last exec that brought them did */
    size_t n_join;
    struct wire_exit exit;
    struct timer drain; /* a log that cannot be written does not hold the exit for ever */
};

extern struct ctr *ctrs;
struct ctr *ctr_find(const char *id);
void ctr_start(uint32_t serial, const struct wire_start *m, int *fds, size_t n_fds);
bool ctr_reaped(pid_t pid, int status);          /* false: not one of ours */
void ctr_drained(struct ctr *c);                 /* stdio.c: nothing holds the exit back any more */
void ctr_ack(const char *id);
void ctr_replay(void);                           /* to a daemon that has just come */
void ctr_kill_all(void);
void ctr_link_down(void);

/* stdio.c */
int log_open(struct log *g);                     /* -1 and errno */
/* Nothing will be written any more: the file holds whole entries only. */
void log_end(struct log *g);
void stdio_start(struct ctr *c, int out, int err);
/* reads the outputs, or not while the log or a client is behind */
void stdio_watch(struct ctr *c);
/* the first process is dead: logs what it wrote, then ctr_drained() */
void stdio_died(struct ctr *c);
void stdio_free(struct ctr *c);
int stdio_reopen(struct ctr *c);                 /* 0 or -errno */
size_t log_prefix(char *buf, int64_t ns, bool err, char tag); /* 40 bytes at most */

/* attach.c */
void attach_start(uint32_t serial, struct ctr *c, const struct wire_attach *m, int *fds,
                  size_t n_fds);
void attach_output(struct ctr *c, bool err, const char *p, size_t n);
bool attach_holds(const struct ctr *c);          /* a client is so far behind that it waits */
void attach_close(uint32_t serial);
void attach_ctr_end(struct ctr *c);
void attach_link_down(void);
void attach_stdin_ready(struct ctr *c);

/* exec.c */
/* plan NULL: the first descriptor is it */
void exec_start(uint32_t serial, const struct wire_exec *m, void *plan, size_t plan_len, int *fds,
                size_t n_fds);
void exec_kill(uint32_t serial);
void exec_resize(uint32_t serial, uint16_t w, uint16_t h);
bool exec_reaped(pid_t pid, int status);
void exec_link_down(void);

void main_kick(void);                            /* look for dead children once more */

#endif
