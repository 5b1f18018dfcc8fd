/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoints of a container (ctr_checkpoint.c) and of a pod (pod_checkpoint.c). */
#ifndef CRICKET_HANDLERS_CHECKPOINT_H
#define CRICKET_HANDLERS_CHECKPOINT_H

#include "handlers/objects.h"
#include "reactor/child.h"

#include <jansson.h>

/* --- checkpoint.c */
/* What a worker has to know of c: id, pid, upper, log, external, files. New reference. */
int checkpoint_job(struct ctr *c, json_t **ret, struct err *err);
/* The same of n containers of s, with the pod's index. */
int pod_checkpoint_job(struct sandbox *s, struct ctr *const *v, size_t n, const char *output,
                       json_t **ret, struct err *err);
/* What undoes the checkpoint that is on record for s. */
json_t *pod_checkpoint_undo_job(const struct sandbox *s);
/* Also before its supervisor has told. */
bool ctr_has_ended(const struct ctr *c);

enum { CHECKPOINT_UNDO_MS = 60 * 1000 };    /* the worker's, longer than it gives criu */

/* A worker and the request that it works for. When the client goes or the time is up it is called
 * off, once: it undoes what it did, and ends; when that takes too long it is killed, and criu with
 * it. on_exit comes in any case, and then the request, if it still waits, is answered. */
struct checkpoint_worker {
    struct handlers *h;
    struct rpc *rpc;                 /* NULL: nobody waits any more */
    struct child *child;             /* on_exit sets it to NULL */
    int sock;                        /* its last word; closed, the job is off */
    struct ev_timer timer;
    int64_t started_ms;
    bool timed_out;                  /* called off for that */
    bool called_off;                 /* or nothing that could be: the timer kills */
};

void checkpoint_worker_init(struct checkpoint_worker *w, struct handlers *h);
/* One that still runs undoes what it did, unheard. */
void checkpoint_worker_deinit(struct checkpoint_worker *w);
/* Starts `cricket-worker what` with the job and these pidfds; also the next one after an exit. */
int checkpoint_worker_start(struct checkpoint_worker *w, const char *what, json_t *job,
                            const int *pidfds, size_t n, child_exit_fn on_exit, void *arg,
                            struct err *err);
/* rpc, which this keeps, waits for it for so long. */
void checkpoint_worker_serve(struct checkpoint_worker *w, struct rpc *rpc, int64_t timeout_ms);
void checkpoint_worker_call_off(struct checkpoint_worker *w);
/* Of a worker that has ended: 0, or its error. GRPC_INTERNAL where it said nothing. */
int checkpoint_worker_last_word(const struct checkpoint_worker *w, int exit_status,
                                struct err *err);

/* --- ctr_checkpoint.c */
bool ctr_checkpoint_runs(const struct ctr *c);

/* --- pod_checkpoint.c */
/* Is c one of those that are being captured? */
bool pod_checkpoint_runs(struct handlers *h, const struct ctr *c);
/* c is about to be stopped or removed: a checkpoint that it is part of is given up. */
void pod_checkpoint_call_off(struct handlers *h, const struct ctr *c);
/* After a start: s was being captured when the last daemon ended. Its containers are thawed now,
 * what the checkpoint left is removed beside all else. */
void pod_checkpoint_recover(struct sandbox *s);
void pod_checkpoints_end(struct handlers *h);

#endif
