/* SPDX-License-Identifier: Apache-2.0 */
/* What link.c (the socket, what comes in), link_meet.c (how it begins), link_calls.c (what is asked
 * for) and link_watch.c (is there anybody) share. */
#ifndef CRICKET_LINK_PRIV_H
#define CRICKET_LINK_PRIV_H

#include "list.h"
#include "proc/link.h"
#include "proc/pod/wire.h"
#include "reactor/child.h"

enum call_kind { CALL_READY, CALL_REPLY, CALL_START, CALL_EXEC, CALL_ATTACH, CALL_SHUTDOWN };

struct call {
    struct list l;
    uint32_t serial;
    enum call_kind kind;
    link_reply_fn reply;
    link_start_fn start;
    void *arg;
    char what[96];                   /* before an error's text */
};

struct link {
    struct loop *loop;
    struct ev_io io;
    int fd;
    uint32_t serial;                 /* of the last request */
    struct link_events ev;
    void (*on_ctr)(void *arg, const struct link_ctr *c);
    link_ready_fn ready;             /* until it is called */
    void *ready_arg;
    char *state_dir, *netns;
    struct child *child;             /* of link_spawn() */
    pid_t pid, init_pid;
    uint64_t number;
    uint32_t version;                /* the supervisor's; 0 before it has said so */
    struct list calls, execs, attaches, queue;
    size_t n_queue, n_queue_fds;     /* messages; those that carry descriptors */
    bool down, stopping;             /* the socket has ended; link_shutdown() was called */
    bool undo;                       /* of link_spawn() that failed: the directory was made here */
    int busy;                        /* callbacks running */
    struct ev_timer watch;           /* runs while something is owed to us; see link_watch.c */
    int silent;                      /* ticks of it since the last word */
    uint32_t ping;                   /* serial of the one that is out, or 0 */
    bool unheard;                    /* something was sent that is not answered, like a signal */
    bool hangs, killed;
    bool doomed;
};

struct link_exec {
    struct list l;
    struct link *k;
    uint32_t serial;
    struct link_exec_events ev;      /* callbacks NULL: forgotten */
    bool started;
    bool brings_cgroups;             /* which the supervisor keeps for the execs after it */
};

struct link_attach {
    struct list l;
    struct link *k;
    uint32_t serial;
    void (*closed)(void *arg, const struct err *err);
    void *arg;
};

/* fd is taken over. */
struct link *link_new(struct loop *l, int fd, const char *state_dir, const struct link_events *ev);
void link_undo_dir(struct link *k);              /* what link_spawn() made of the state directory */
/* Callbacks may free the link: not before the last link_leave(). False: k is no more. */
void link_enter(struct link *k);
bool link_leave(struct link *k);
/* The socket has ended. k may be gone afterwards. */
void link_go_down(struct link *k, const struct err *why);
void link_ready_failed(struct link *k, const struct err *err);   /* k is gone afterwards */
void link_drain(struct link *k);                 /* takes what has come; between enter and leave */
/* 0, also when it is queued; descriptors are dup'ed. */
int link_send(struct link *k, enum wire_type type, uint32_t serial, const void *body, size_t len,
              const int *fds, size_t n_fds, struct err *err);
/* The same with more behind the body; the record has WIRE_EXEC_MAX bytes at most. */
int link_send_more(struct link *k, enum wire_type type, uint32_t serial, const void *body,
                   size_t len, const void *more, size_t more_len, const int *fds, size_t n_fds,
                   struct err *err);
/* Takes a request back that still waits to be written; false if it is on its way. */
bool link_unsend(struct link *k, uint32_t serial);
uint32_t link_serial(struct link *k);            /* the next request's */

/* link_calls.c */
struct call *call_new(struct link *k, enum call_kind kind, uint32_t serial, const char *what);
struct call *call_take(struct link *k, uint32_t serial);
void call_done(struct link *k, struct call *c,
               const struct err *err); /* err NULL: it went well. Frees c. */
struct link_exec *exec_find(struct link *k, uint32_t serial);
struct link_attach *attach_find(struct link *k, uint32_t serial);
void exec_done(struct link_exec *x, int status, const struct err *err);
void attach_done(struct link_attach *a, const struct err *err);

/* link_watch.c */
void link_watch_init(struct link *k);
void link_watch(struct link *k);                 /* something more is owed, or less */
void link_heard(struct link *k);                 /* a message has come */

#endif
