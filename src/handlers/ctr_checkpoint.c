/* SPDX-License-Identifier: Apache-2.0 */
/* CheckpointContainer (CRI.md 4.22): a running container as a tar file, and it goes on.
 *
 * A worker does all of it with criu (pull/worker/checkpoint.c). The daemon hands it what it knows
 * of the container, and a socket: the worker's last word comes by it, and to close it is to call
 * the job off, which the worker then undoes. So a daemon that goes away leaves nothing behind.
 * Whoever has to answer in time answers when the worker has ended: then all is as before. */
#include "handlers/rpcs.h"

#include "handlers/checkpoint.h"
#include "handlers/exec.h"
#include "handlers/launch.h"
#include "log.h"
#include "mem.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>

enum {
    TIMEOUT_MS = 10 * 60 * 1000,     /* of a request that names none */
};

struct checkpoint {
    struct exec_base base;           /* first: ended with the container */
    struct checkpoint_worker worker;
    int64_t timeout_ms;
};

static int make_job(struct ctr *c, const char *location, json_t **ret, struct err *err)
{
    /* another one than that of a worker which undoes what a daemon before us has begun */
    auto_free char *work = mem_printf("%s/checkpoints/%s-%d", c->h->conf->root, c->id,
                                      (int)getpid());
    json_t *more = json_pack("{s:s, s:s, s:s}", "criu", c->h->conf->criu, "work", work, "location",
                             location);
    int r = more ? checkpoint_job(c, ret, err)
                 : err_rpc(err, GRPC_INVALID_ARGUMENT, "a path that is no UTF-8");

    if (r == 0)
        json_object_update(*ret, more);
    json_decref(more);
    return r;
}

/* ---- the worker */

static void destroy(struct checkpoint *k)
{
    list_del(&k->base.l);
    checkpoint_worker_deinit(&k->worker);
    free(k);
}

/* The worker's last word into err; 0: the archive is there. */
static int last_word(struct checkpoint *k, int exit_status, struct err *err)
{
    int r = checkpoint_worker_last_word(&k->worker, exit_status, err);

    if (r == 0 || err->grpc == GRPC_INTERNAL)
        return r;
    if (k->worker.timed_out) {
        err_note(err, "not done after %lld s", (long long)(k->timeout_ms / 1000));
        err->grpc = GRPC_DEADLINE_EXCEEDED;
    } else if (ctr_has_ended(k->base.c)) {
        err_note(err, "it has ended");
        err->grpc = GRPC_UNAVAILABLE;
    }
    return r;
}

static void on_exit_(void *arg, int exit_status)
{
    struct checkpoint *k = arg;
    struct ctr *c = k->base.c;
    Runtime__V1__CheckpointContainerResponse reply =
        RUNTIME__V1__CHECKPOINT_CONTAINER_RESPONSE__INIT;
    long long took = (long long)(clock_mono_ms() - k->worker.started_ms);
    struct err err = ERR_INIT;

    k->worker.child = NULL;
    if (last_word(k, exit_status, &err) == 0) {
        log_info("op=checkpoint ctr=%s took_ms=%lld", c->id, took);
        if (k->worker.rpc)
            rpc_ok(k->worker.rpc, &reply.base);
    } else {
        err_note(&err, "checkpoint container %s", c->id);
        log_error("op=checkpoint ctr=%s took_ms=%lld err='%s'", c->id, took, err.text);
        if (k->worker.rpc)
            rpc_fail_err(k->worker.rpc, &err);
    }
    destroy(k);
}

/* The container goes away, or the daemon. */
static void on_end(struct exec_base *b)
{
    struct checkpoint *k = container_of(b, struct checkpoint, base);

    if (k->worker.rpc)
        rpc_fail(k->worker.rpc, GRPC_UNAVAILABLE, "checkpoint container %s: it is being removed, "
                 "or the daemon ends", b->c->id);
    destroy(k);
}

bool ctr_checkpoint_runs(const struct ctr *c)
{
    struct exec_base *b;

    list_each(b, &c->execs, struct exec_base, l)
        if (b->end == on_end)
            return true;
    return false;
}

/* ---- the request */

static int check(struct ctr *c, const Runtime__V1__CheckpointContainerRequest *q, struct err *err)
{
    if (!q->location[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "location is empty");
    if (q->location[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "location '%.200s' is not absolute",
                       q->location);
    if (strlen(q->location) >= PATH_MAX || str_ends(q->location, "/"))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "location '%.200s' is no file name",
                       q->location);
    if (q->timeout < 0 || q->timeout > INT64_MAX / 1000)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "timeout %" PRId64 " is no number of seconds",
                       q->timeout);
    if (!c->h->conf->criu[0])
        return err_rpc(err, GRPC_UNIMPLEMENTED, "it takes criu, which the configuration turns off");
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || c->pidfd < 0 || c->remove)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "it is not running (%s)", ctr_state_name(c));
    if (ctr_checkpoint_runs(c) || pod_checkpoint_runs(c->h, c))
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "a checkpoint of it is being made");
    return 0;
}

void handle_checkpoint_container(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__CheckpointContainerRequest *q = (const void *)req;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(ctx, q->container_id, &err);
    json_t *job = NULL;
    struct checkpoint *k;
    int r = c ? check(c, q, &err) : err.code;

    if (r == 0)
        r = make_job(c, q->location, &job, &err);
    if (r < 0) {
        if (c)
            err_note(&err, "checkpoint container %s", c->id);
        rpc_fail_err(rpc, &err);
        json_decref(job);
        return;
    }
    k = mem_new(struct checkpoint);
    k->base.c = c;
    k->base.end = on_end;
    list_add_tail(&c->execs, &k->base.l);
    checkpoint_worker_init(&k->worker, c->h);
    k->timeout_ms = q->timeout ? q->timeout * 1000 : TIMEOUT_MS;
    r = checkpoint_worker_start(&k->worker, "checkpoint", job, &c->pidfd, 1, on_exit_, k, &err);
    json_decref(job);
    if (r < 0) {
        err_note(&err, "checkpoint container %s", c->id);
        rpc_fail_err(rpc, &err);
        destroy(k);
        return;
    }
    checkpoint_worker_serve(&k->worker, rpc, k->timeout_ms);
}
