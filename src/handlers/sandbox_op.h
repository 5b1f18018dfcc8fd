/* SPDX-License-Identifier: Apache-2.0 */
/* Operations on a sandbox: run, stop, remove. They share one struct, because what undoes a failed
 * run is what stop and remove do (teardown.c), and what start-up recovery does with a sandbox that
 * was being made or removed. */
#ifndef CRICKET_SANDBOX_OP_H
#define CRICKET_SANDBOX_OP_H

#include "handlers/objects.h"
#include "handlers/turn.h"

struct sandbox_op {
    struct op op;                    /* first: steps get it */
    struct sandbox *s;
    struct op **slot;                /* the sandbox's run, stop or remove pointer */
    struct turn turn;
    struct waiters waiters;
    struct cni_call *cni;            /* plugin call under way */
    unsigned pending;                /* containers still to end */
    bool forget;                     /* done: the record goes */
    struct err first;                /* first failure of a container */
    void (*after)(void *arg, const struct err *err);   /* instead of waiters; or NULL */
    void *after_arg;
    struct restore *restore;         /* its own, or NULL: not of a RestorePod */
};

static inline struct sandbox_op *sandbox_op_of(struct op *op)
{
    return container_of(op, struct sandbox_op, op);
}

/* Allocates; `slot` is where the sandbox points to it while it lives. */
struct sandbox_op *sandbox_op_new(struct sandbox *s, struct op **slot);
void sandbox_op_free(struct sandbox_op *o);

void sandbox_op_drop(struct op *op); /* the daemon ends: as ctr_stop_drop() */
/* One of `pending` is done; wakes the operation behind the last one. A ctr_done_fn. */
void sandbox_op_ctr_done(void *sandbox_op, const struct err *err);

/* --- sandbox_make.c */
/* config may be missing (NULL). */
int sandbox_check(struct handlers *h, const Runtime__V1__PodSandboxConfig *config,
                  const char *handler, struct err *err);
/* The sandbox with this name, namespace, uid and attempt, visible or not; NULL: none. */
struct sandbox *sandbox_of_pod(struct handlers *h, const Runtime__V1__PodSandboxMetadata *pod);
/* The refusal of a second one; more: "" or how it differs. */
int sandbox_exists(const struct sandbox *s, const char *more, struct err *err);
/* A new object, MAKING, its record committed. Its config has passed sandbox_check(). */
int sandbox_make(struct handlers *h, const Runtime__V1__PodSandboxConfig *config,
                 const char *handler, struct sandbox **ret, struct err *err);
/* Its run has failed and was undone: gone, or in sight where something of it is left. */
void sandbox_unmade(struct sandbox *s);

/* --- steps of the run (sandbox_run.c), and what ends their waiting */
int up_cgroup(struct op *op, enum wake why);
int up_namespaces(struct op *op, enum wake why);    /* the supervisor */
int up_network(struct op *op, enum wake why);
int up_files(struct op *op, enum wake why);
int up_ready(struct op *op, enum wake why);         /* READY, in sight */
void up_cancel(struct op *op);
void up_none_left(void *sandbox_op, enum rpc_gone why);     /* for waiters_init() */

/* --- steps of the teardown, in the order of CRI.md 4.3. Each tolerates that its part is gone
 * already. */
int down_turn(struct op *op, enum wake why);         /* waits for the sandbox's turn */
int down_kill(struct op *op, enum wake why);         /* every container stopped, grace 0 */
int down_network(struct op *op, enum wake why);      /* CNI DEL, with the namespace still there */
int down_supervisor(struct op *op, enum wake why); /* cricket-pod ends: namespaces and mounts go */
int down_netns(struct op *op, enum wake why);        /* the mounts that it could not take along */
int down_hooks(struct op *op, enum wake why);        /* poststop hooks that it did not run */
int down_mark(struct op *op, enum wake why);         /* NOTREADY recorded, event */
int down_containers(struct op *op, enum wake why);   /* every container removed */
int down_files(struct op *op, enum wake why);        /* cgroup parent, files of the pod */

/* A supervisor that hangs (sandbox_met()): the sandbox may be ended all the same, unless the daemon
 * has only just been started. The other kills it; down_kill() does so first. */
bool sandbox_may_end(const struct sandbox *s);
void sandbox_end_hung(struct sandbox *s);

/* Its supervisor has died: down_hooks() in an operation of its own, unless one runs that has it. */
void sandbox_poststop_start(struct sandbox *s);

/* Part of the last, for the directory of a pod that is not known. */
void sandbox_drop_bundles(const char *dir);

/* Stop and remove without a client, where no such operation runs yet (start-up). */
void sandbox_stop_start(struct sandbox *s, void (*after)(void *arg, const struct err *err),
                        void *arg);
void sandbox_remove_start(struct sandbox *s, void (*after)(void *arg, const struct err *err),
                          void *arg);

#endif
