/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on a container that others start: stop and remove, for a client or for the sandbox. */
#ifndef CRICKET_CTR_OP_H
#define CRICKET_CTR_OP_H

#include "handlers/objects.h"

typedef void (*ctr_done_fn)(void *arg, const struct err *err);

/* Creates a container without a client. It stays MAKING and out of sight until ctr_show(), whatever
 * its sandbox is; one that cannot be created removes itself. */
struct ctr_maker {
    /* Has a look at what would be started, and may refuse it. */
    int (*check)(void *arg, struct ctr *c, const struct spec *spec, struct err *err);
    ctr_done_fn done;                /* also from inside of ctr_create_start(); not on its error */
    void *arg;
};
int ctr_create_start(struct sandbox *s, const Runtime__V1__ContainerConfig *config,
                     const struct ctr_maker *maker, char ret_id[ID_LEN + 1], struct err *err);
void ctr_show(struct ctr *c);        /* CREATED, visible, the event */

/* Stops c: its signal, grace_ms, then SIGKILL to its cgroup. Joins a stop that runs; the earlier
 * kill time counts. done (may be NULL) comes when it has exited, at once when it does not run. */
void ctr_stop_start(struct ctr *c, int64_t grace_ms, ctr_done_fn done, void *arg);
/* Kills if needed, then removes all of it. */
void ctr_remove_start(struct ctr *c, ctr_done_fn done, void *arg);

/* The supervisor hangs: nobody will tell of c's exit to a stop or removal that waits for it. */
void ctr_stop_fail(struct ctr *c, const struct err *why);

/* Operations that are still live when the daemon ends; the next start finishes what they did. */
void ctr_create_drop(struct op *op);
void ctr_start_drop(struct op *op);
void ctr_stop_drop(struct op *op);   /* a stop or a removal */

/* --- exits (ctr_exit.c) */
struct exit_wait {
    struct list l;
    struct op *op;                   /* woken with WAKE_DONE when the container has exited */
};
void exit_wait_add(struct ctr *c, struct exit_wait *w, struct op *op);
static inline void exit_wait_end(struct exit_wait *w) { list_del(&w->l); }

struct ctr_exit {
    int code;
    bool oom;
    int64_t finished_at;
    const char *reason;              /* NULL: by code and oom */
    const char *message;
};
/* Records the exit, sends STOPPED, clears the cgroup away, wakes who waits. Once per container. */
void ctr_set_exited(struct ctr *c, const struct ctr_exit *x);
/* The supervisor's word. */
void ctr_on_exit(struct handlers *h, struct sandbox *s, const struct link_exit *x);
/* Tells the supervisors of exits that are on record now. Runs behind the store's commit. */
void ctr_acks_flush(void *handlers);

/* Kills what is left in the container's cgroup and removes it, trying again for a while; then what
 * it has in resctrl. The container may go meanwhile. */
void ctr_sweep(struct ctr *c);
/* True: that still goes on, and w's operation is woken when it is over. */
bool ctr_sweep_wait(struct ctr *c, struct exit_wait *w, struct op *op);
void ctr_sweeps_end(struct handlers *h);

/* Ends the execs and attaches of a container, the port-forwards of a sandbox. */
void ctr_end_execs(struct ctr *c);
void sandbox_end_forwards(struct sandbox *s);

#endif
