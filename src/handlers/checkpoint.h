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
/* Starts `cricket-worker what` with the job and these pidfds. To close *ret_sock, or to shut it
 * down for writing, is to call the job off, which the worker then undoes, and ends. */
int checkpoint_start(struct handlers *h, const char *what, json_t *job, const int *pidfds, size_t n,
                     child_exit_fn on_exit, void *arg, int *ret_sock, struct child **ret,
                     struct err *err);
/* Of a worker that has ended: 0, or its error. GRPC_INTERNAL where it said nothing. */
int checkpoint_last_word(int sock, int exit_status, struct err *err);
/* Also before its supervisor has told. */
bool ctr_has_ended(const struct ctr *c);

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
