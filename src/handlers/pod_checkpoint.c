/* SPDX-License-Identifier: Apache-2.0 */
/* CheckpointPod (CRI.md 4.23): containers of a pod as they all were at one moment.
 *
 * A worker freezes their cgroups, captures them one by one, and thaws them
 * (pull/worker/checkpoint_pod.c); what is told of each and how the worker is called off is as for a
 * single container. What is ours is that no pod stays frozen and nothing half done in the
 * directory, whoever is killed: that a checkpoint is made is on record before the worker begins. A
 * worker that ended without a word is undone by another one, at once or after the next start; the
 * cgroups we thaw without waiting for it. The client learns of it when all is as before. */
#include "handlers/rpcs.h"

#include "handlers/checkpoint.h"
#include "handlers/launch.h"
#include "log.h"
#include "mem.h"
#include "proc/cgroup.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum {
    MEMBERS_MAX = 100,               /* a pidfd of each goes to the worker */
    MARGIN_MS = 12 * 1000,           /* of the deadline, kept for it: as long as it gives criu */
};

struct pod_checkpoint {
    struct list l;                   /* in handlers.pod_checkpoints */
    struct checkpoint_worker worker;
    char sandbox[ID_LEN + 1];        /* it may be gone before us */
    char (*ctrs)[ID_LEN + 1];
    size_t n;
    json_t *undo;                    /* the job that does away with this one */
    const char *stopped;             /* one of ctrs: called off for its sake; or NULL */
    struct err err;                  /* the answer */
};

static struct pod_checkpoint *pod_checkpoint_new(struct sandbox *s, struct ctr *const *v, size_t n)
{
    struct pod_checkpoint *k = mem_new(struct pod_checkpoint);

    checkpoint_worker_init(&k->worker, s->h);
    k->n = n;
    k->ctrs = mem_array(n, sizeof *k->ctrs);
    memcpy(k->sandbox, s->id, sizeof k->sandbox);
    for (size_t i = 0; i < n; i++)
        memcpy(k->ctrs[i], v[i]->id, sizeof k->ctrs[i]);
    list_add_tail(&s->h->pod_checkpoints, &k->l);
    return k;
}

static void pod_checkpoint_free(struct pod_checkpoint *k)
{
    list_del(&k->l);
    checkpoint_worker_deinit(&k->worker);
    json_decref(k->undo);
    free(k->ctrs);
    free(k);
}

/* ---- on record */

static void record(struct sandbox *s, const struct pod_checkpoint *k, const char *output)
{
    Cricket__State__PodCheckpoint *p = mem_new(Cricket__State__PodCheckpoint);

    cricket__state__pod_checkpoint__init(p);
    pb_set(&p->output_path, output);
    p->container_ids = mem_array(k->n, sizeof *p->container_ids);
    for (; p->n_container_ids < k->n; p->n_container_ids++)
        p->container_ids[p->n_container_ids] = mem_strdup(k->ctrs[p->n_container_ids]);
    s->rec->checkpoint = p;
    sandbox_save(s);
}

static void unrecord(const struct pod_checkpoint *k)
{
    struct sandbox *s = sandbox_by_id(k->worker.h, k->sandbox);

    if (!s || !s->rec->checkpoint)
        return;
    cricket__state__pod_checkpoint__free_unpacked(s->rec->checkpoint, NULL);
    s->rec->checkpoint = NULL;
    sandbox_save(s);
}

static void thaw(const struct pod_checkpoint *k)
{
    for (size_t i = 0; i < k->n; i++) {
        struct ctr *c = ctr_by_id(k->worker.h, k->ctrs[i]);

        if (c && c->rec->cgroup_path[0])
            (void)cgroup_thaw(c->rec->cgroup_path);
    }
}

/* ---- the worker */

static void finish(struct pod_checkpoint *k)
{
    Runtime__V1__CheckpointPodResponse reply = RUNTIME__V1__CHECKPOINT_POD_RESPONSE__INIT;
    long long took = (long long)(clock_mono_ms() - k->worker.started_ms);

    unrecord(k);
    if (k->err.code) {
        err_note(&k->err, "checkpoint sandbox %s", k->sandbox);
        log_error("op=checkpointp sandbox=%s took_ms=%lld err='%s'", k->sandbox, took, k->err.text);
        if (k->worker.rpc)
            rpc_fail_err(k->worker.rpc, &k->err);
    } else {
        log_info("op=checkpointp sandbox=%s containers=%zu took_ms=%lld", k->sandbox, k->n, took);
        if (k->worker.rpc)
            rpc_ok(k->worker.rpc, &reply.base);
    }
    pod_checkpoint_free(k);
}

static void on_undone(void *arg, int exit_status)
{
    struct pod_checkpoint *k = arg;

    k->worker.child = NULL;
    if (exit_status != 0)
        log_warn("op=checkpointp sandbox=%s step=undo status=%d, files may be left in '%s'",
                 k->sandbox, exit_status, json_string_value(json_object_get(k->undo, "output")));
    finish(k);
}

static void undo(struct pod_checkpoint *k)
{
    struct err err = ERR_INIT;

    k->worker.called_off = true;
    thaw(k);
    if (checkpoint_worker_start(&k->worker, "checkpoint-pod", k->undo, NULL, 0, on_undone, k,
                                &err) < 0) {
        log_warn("op=checkpointp sandbox=%s step=undo err='%s', files may be left in '%s'",
                 k->sandbox, err.text, json_string_value(json_object_get(k->undo, "output")));
        finish(k);
        return;
    }
    loop_timer(k->worker.h->loop, &k->worker.timer, CHECKPOINT_UNDO_MS);
}

/* The one that has ended, or NULL. */
static const char *ended(const struct pod_checkpoint *k)
{
    for (size_t i = 0; i < k->n; i++) {
        struct ctr *c = ctr_by_id(k->worker.h, k->ctrs[i]);

        if (!c || ctr_has_ended(c))
            return k->ctrs[i];
    }
    return NULL;
}

static void on_exit_(void *arg, int exit_status)
{
    struct pod_checkpoint *k = arg;
    const char *id;

    k->worker.child = NULL;
    if (checkpoint_worker_last_word(&k->worker, exit_status, &k->err) < 0) {
        bool silent = k->err.grpc == GRPC_INTERNAL;

        if (k->worker.timed_out) {
            err_note(&k->err, "its deadline came before its end");
            k->err.grpc = GRPC_DEADLINE_EXCEEDED;
        } else if (k->stopped) {
            err_note(&k->err, "container %s is being stopped", k->stopped);
            k->err.grpc = GRPC_UNAVAILABLE;
        } else if (!silent && (id = ended(k))) {
            err_note(&k->err, "container %s has ended", id);
            k->err.grpc = GRPC_UNAVAILABLE;
        }
        if (silent) {
            undo(k);
            return;
        }
    }
    finish(k);
}

/* ---- what others ask */

bool pod_checkpoint_runs(struct handlers *h, const struct ctr *c)
{
    struct pod_checkpoint *k;

    list_each(k, &h->pod_checkpoints, struct pod_checkpoint, l)
        for (size_t i = 0; i < k->n; i++)
            if (strcmp(k->ctrs[i], c->id) == 0)
                return true;
    return false;
}

void pod_checkpoint_call_off(struct handlers *h, const struct ctr *c)
{
    struct pod_checkpoint *k;

    list_each(k, &h->pod_checkpoints, struct pod_checkpoint, l)
        for (size_t i = 0; i < k->n; i++)
            if (strcmp(k->ctrs[i], c->id) == 0) {
                if (!k->worker.called_off)
                    k->stopped = k->ctrs[i];
                checkpoint_worker_call_off(&k->worker);
            }
}

void pod_checkpoint_recover(struct sandbox *s)
{
    const Cricket__State__PodCheckpoint *p = s->rec->checkpoint;
    auto_free struct ctr **v = NULL;
    struct pod_checkpoint *k;
    size_t n = 0;

    if (!p)
        return;
    v = mem_array(p->n_container_ids + 1, sizeof *v);
    for (size_t i = 0; i < p->n_container_ids; i++)
        if ((v[n] = ctr_by_id(s->h, p->container_ids[i])))
            n++;
    k = pod_checkpoint_new(s, v, n);
    k->undo = pod_checkpoint_undo_job(s);
    err_rpc(&k->err, GRPC_UNAVAILABLE, "the runtime ended before it did");
    undo(k);
}

void pod_checkpoints_end(struct handlers *h)
{
    struct pod_checkpoint *k;

    while ((k = list_first(&h->pod_checkpoints, struct pod_checkpoint, l))) {
        if (k->worker.rpc)
            rpc_fail(k->worker.rpc, GRPC_UNAVAILABLE, "checkpoint sandbox %s: the runtime ends",
                     k->sandbox);
        pod_checkpoint_free(k);      /* on record: the next start has a look at it */
    }
}

/* ---- the request */

static int check_member(struct ctr *c, struct ctr *const *before, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (before[i] == c)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "it is named twice");
        if (strcmp(before[i]->config->metadata->name, c->config->metadata->name) == 0)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "container %s has the same name '%.200s'",
                           before[i]->id, c->config->metadata->name);
    }
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || c->pidfd < 0)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it is not running (%s)", ctr_state_name(c));
    if (c->stop || c->remove)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it is being stopped");
    if (ctr_checkpoint_runs(c) || pod_checkpoint_runs(c->h, c))
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "a checkpoint of it is being made");
    return 0;
}

static int find_members(struct sandbox *s, const Runtime__V1__CheckpointPodRequest *q,
                        struct ctr **v, struct err *err)
{
    for (size_t i = 0; i < q->n_container_ids; i++) {
        struct ctr *c = ctr_find(s->h, q->container_ids[i], err);
        int r;

        if (!c)
            return err_note(err, "container_ids[%zu]", i);
        if (c->sandbox != s)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "container %s is of sandbox %s", c->id,
                           c->sandbox->id);
        r = check_member(c, v, i, err);
        if (r < 0)
            return err_note(err, "container %s", c->id);
        v[i] = c;
    }
    return 0;
}

/* All that can be said without looking at the containers. */
static int check(struct rpc *rpc, struct sandbox *s, const Runtime__V1__CheckpointPodRequest *q,
                 struct err *err)
{
    const char *handler = s->rec->runtime_handler, *path = q->output_path;

    if (q->n_options)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "option '%.200s' is unknown, there are none",
                       q->options[0]->key);
    if (!path[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "output_path is empty");
    if (path[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "output_path '%.200s' is not absolute", path);
    if (strlen(path) >= PATH_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "output_path '%.200s...' is too long", path);
    if (!q->n_container_ids)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "container_ids is empty");
    if (q->n_container_ids > MEMBERS_MAX)
        return err_rpc(err, GRPC_RESOURCE_EXHAUSTED, "%zu containers are more than %d",
                       q->n_container_ids, MEMBERS_MAX);
    if (rpc_deadline_ms(rpc) == INT64_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "the call has no deadline");
    if (!s->h->conf->criu[0])
        return err_rpc(err, GRPC_UNIMPLEMENTED, "it takes criu, which the configuration turns off");
    if (handler_check(s->h, handler, err) < 0) {
        err->grpc = GRPC_FAILED_PRECONDITION;    /* not any more */
        return err->code;
    }
    if (handler_path(s->h, handler))
        return err_rpc(err, GRPC_UNIMPLEMENTED, "its runtime handler '%.200s' is an OCI runtime, "
                       "which has its own ways with containers", handler);
    if (!sandbox_is_ready(s) || s->stop || s->remove)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it is not ready");
    if (s->rec->checkpoint)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "a checkpoint of it is being made");
    return sandbox_met(s, err);
}

static int begin(struct rpc *rpc, struct sandbox *s, const Runtime__V1__CheckpointPodRequest *q,
                 struct err *err)
{
    size_t n = q->n_container_ids;
    auto_free struct ctr **v = mem_array(n + 1, sizeof *v);
    auto_free int *pidfds = mem_array(n + 1, sizeof *pidfds);
    struct pod_checkpoint *k;
    json_t *job = NULL;
    int64_t left;
    int r = check(rpc, s, q, err);

    if (r == 0)
        r = find_members(s, q, v, err);
    if (r == 0)
        r = pod_checkpoint_job(s, v, n, q->output_path, &job, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++)
        pidfds[i] = v[i]->pidfd;
    k = pod_checkpoint_new(s, v, n);
    record(s, k, q->output_path);
    k->undo = pod_checkpoint_undo_job(s);
    if (!store_commit(s->h->store))
        r = err_rpc(err, GRPC_UNAVAILABLE, "that it is made cannot be recorded");
    if (r == 0)
        r = checkpoint_worker_start(&k->worker, "checkpoint-pod", job, pidfds, n, on_exit_, k, err);
    json_decref(job);
    if (r < 0) {
        unrecord(k);
        pod_checkpoint_free(k);
        return r;
    }
    left = rpc_deadline_ms(rpc) - clock_mono_ms();
    checkpoint_worker_serve(&k->worker, rpc,
                            left - (left / 5 < MARGIN_MS ? left / 5 : MARGIN_MS));
    return 0;
}

void handle_checkpoint_pod(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__CheckpointPodRequest *q = (const void *)req;
    struct err err = ERR_INIT;
    struct sandbox *s = sandbox_find(ctx, q->pod_sandbox_id, &err);

    if (s && begin(rpc, s, q, &err) < 0)
        err_note(&err, "checkpoint sandbox %s", s->id);
    if (err.code)
        rpc_fail_err(rpc, &err);
}
