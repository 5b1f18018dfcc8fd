/* SPDX-License-Identifier: Apache-2.0 */
/* RestorePod (CRI.md 4.24): a pod with its containers as a checkpoint of a pod has them.
 *
 * It is the run of a sandbox (sandbox_run.c) with more steps: before it a worker reads what the
 * checkpoint says, and the request has to be about that; then each container is created, its spec
 * compared with that of the checkpointed process, and the worker unpacks the archive to where
 * StartContainer finds it (pull/worker/restore_pod.c). Sandbox and containers are MAKING and out of
 * sight until all of it is done, in one turn: whatever fails is undone as a run is, and what a
 * crash leaves is removed by the next start as any pod that was being made. */
#include "handlers/rpcs.h"

#include "handlers/checkpoint.h"
#include "handlers/ctr_op.h"
#include "handlers/restore.h"
#include "handlers/sandbox_op.h"
#include "log.h"
#include "mem.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MEMBERS_MAX = 100, ANSWER_MAX = 1024 * 1024 };

struct restore {
    struct sandbox_op *o;
    struct checkpoint_worker worker;
    Runtime__V1__RestorePodRequest *q;   /* a copy */
    int answer;                      /* memfd: what the worker has read */
    json_t *found;                   /* that; "containers" in the request's order then */
    char (*ctrs)[ID_LEN + 1];        /* in the request's order */
};

void restore_free(struct restore *k)
{
    if (!k)
        return;
    checkpoint_worker_deinit(&k->worker);
    fd_close(k->answer);
    json_decref(k->found);
    protobuf_c_message_free_unpacked(&k->q->base, NULL);
    free(k->ctrs);
    free(k);
}

static struct restore *restore_of(struct op *op)
{
    return sandbox_op_of(op)->restore;
}

static json_t *found_ctr(const struct restore *k, size_t i)
{
    return json_array_get(json_object_get(k->found, "containers"), i);
}

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

/* ---- the worker */

static void on_exit_(void *arg, int exit_status)
{
    struct restore *k = arg;
    struct err err = ERR_INIT;

    k->worker.child = NULL;
    ev_timer_stop(loop_ev(k->worker.h->loop), &k->worker.timer);
    if (checkpoint_worker_last_word(&k->worker, exit_status, &err) < 0)
        op_fail(&k->o->op, &err);
    else
        op_wake(&k->o->op, WAKE_DONE);
}

/* Takes over the job. */
static int work(struct op *op, json_t *job, const int *fds, size_t n)
{
    struct restore *k = restore_of(op);
    int r = checkpoint_worker_start(&k->worker, "restore-pod", job, fds, n, on_exit_, k, &op->err);

    json_decref(job);
    return r < 0 ? r : op_wait(op, 0);
}

static int restore_read(struct op *op, enum wake why)
{
    struct restore *k = restore_of(op);

    (void)why;
    k->answer = memfd_create("restore", MFD_CLOEXEC);
    if (k->answer < 0)
        return err_sys(&op->err, "answer of cricket-worker");
    return work(op, json_pack("{s:s}", "path", k->q->checkpoint_path), &k->answer, 1);
}

static int restore_unpack(struct op *op, enum wake why)
{
    struct restore *k = restore_of(op);
    json_t *list = json_array();

    (void)why;
    for (size_t i = 0; i < k->q->n_container_configs; i++) {
        auto_free char *dir = mem_printf("%s/containers/%s", k->worker.h->conf->root, k->ctrs[i]);

        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name",
                                              text(found_ctr(k, i), "name"), "archive",
                                              text(found_ctr(k, i), "archive"), "directory", dir));
    }
    return work(op, json_pack("{s:s, s:o}", "path", k->q->checkpoint_path, "containers", list),
                NULL, 0);
}

/* ---- is it what the request is about? */

/* The containers found, each in the place that its configuration has in the request. */
static int compare_names(struct restore *k, struct err *err)
{
    json_t *list = json_object_get(k->found, "containers"), *sorted = json_array(), *c;
    size_t i;
    int r = 0;

    for (size_t n = 0; n < k->q->n_container_configs && r == 0; n++) {
        const char *name = k->q->container_configs[n]->metadata->name;
        json_t *found = NULL;

        json_array_foreach(list, i, c)
            if (strcmp(text(c, "name"), name) == 0)
                found = c;
        if (found)
            json_array_append(sorted, found);
        else
            r = err_rpc(err, GRPC_INVALID_ARGUMENT, "container_configs: the checkpoint has no "
                        "container '%.200s'", name);
    }
    json_array_foreach(list, i, c) {
        bool wanted = false;

        for (size_t n = 0; n < k->q->n_container_configs; n++)
            wanted |= strcmp(text(c, "name"), k->q->container_configs[n]->metadata->name) == 0;
        if (r == 0 && !wanted)
            r = err_rpc(err, GRPC_INVALID_ARGUMENT, "container_configs: container '%.200s' of the "
                        "checkpoint is missing", text(c, "name"));
    }
    if (r == 0 && json_array_size(list) != json_array_size(sorted))
        r = err_rpc(err, GRPC_FAILED_PRECONDITION, "the checkpoint has two containers of one name");
    json_object_set_new(k->found, "containers", sorted);
    return r;
}

static int restore_compare(struct op *op, enum wake why)
{
    struct restore *k = restore_of(op);
    const char *handler;
    json_error_t bad;
    struct stat st;

    (void)why;
    if (fstat(k->answer, &st) < 0 || lseek(k->answer, 0, SEEK_SET) < 0)
        return err_sys(&op->err, "answer of cricket-worker");
    if (st.st_size > ANSWER_MAX)
        return err_rpc(&op->err, GRPC_INTERNAL, "answer of cricket-worker: %lld bytes",
                       (long long)st.st_size);
    k->found = json_loadfd(k->answer, JSON_REJECT_DUPLICATES, &bad);
    if (!k->found)
        return err_rpc(&op->err, GRPC_INTERNAL, "answer of cricket-worker: %s", bad.text);
    handler = text(k->found, "runtimeHandler");
    if (handler_path(k->worker.h, handler))
        return err_rpc(&op->err, GRPC_FAILED_PRECONDITION, "the checkpoint's runtime handler "
                       "'%.100s' is an OCI runtime here", handler);
    return compare_names(k, &op->err);
}

/* ---- the containers */

static void on_created(void *arg, const struct err *err)
{
    sandbox_op_ctr_done(((struct restore *)arg)->o, err);
}

static int check_spec(void *arg, struct ctr *c, const struct spec *spec, struct err *err)
{
    const struct restore *k = arg;
    const char *name = c->config->metadata->name;
    const json_t *found = NULL;
    int r;

    for (size_t i = 0; i < k->q->n_container_configs; i++)
        if (strcmp(text(found_ctr(k, i), "name"), name) == 0)
            found = found_ctr(k, i);
    r = restore_matches(c, spec, text(found, "imageRef"), found, err);
    return r < 0 ? err_note(err, "container '%.200s'", name) : 0;
}

static int restore_create(struct op *op, enum wake why)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct restore *k = o->restore;
    const struct ctr_maker maker = { .check = check_spec, .done = on_created, .arg = k };
    struct err err = ERR_INIT;

    (void)why;
    err_clear(&o->first);
    o->pending = 1;    /* held up while the loop runs: one may be done at once */
    for (size_t i = 0; i < k->q->n_container_configs && !err.code; i++) {
        o->pending++;
        if (ctr_create_start(o->s, k->q->container_configs[i], &maker, k->ctrs[i], &err) < 0) {
            err_note(&err, "container '%.200s'", k->q->container_configs[i]->metadata->name);
            o->pending--;
        }
    }
    if (err.code && !o->first.code)
        o->first = err;
    if (--o->pending)
        return op_wait(op, 0);
    op->err = o->first;
    return o->first.code;
}

static int restore_ready(struct op *op, enum wake why)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct restore *k = o->restore;
    int r = up_ready(op, why);

    for (size_t i = 0; i < k->q->n_container_configs && r == 0; i++) {
        struct ctr *c = ctr_by_id(o->s->h, k->ctrs[i]);

        c->rec->restore = true;
        ctr_show(c);
    }
    return r;
}

/* ---- the operation */

static void restore_cancel(struct op *op)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct ctr *c;

    if (o->restore->worker.child)
        checkpoint_worker_call_off(&o->restore->worker);
    list_each(c, &o->s->ctrs, struct ctr, in_sandbox)
        if (c->create)
            op_cancel(c->create, GRPC_CANCELLED);
    up_cancel(op);
}

static void restore_done(struct op *op)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct restore *k = o->restore;
    struct sandbox *s = o->s;
    size_t n = k->q->n_container_configs;
    auto_free Runtime__V1__RestoredContainer *v = mem_array(n, sizeof *v);
    auto_free Runtime__V1__RestoredContainer **list = mem_array(n, sizeof *list);
    Runtime__V1__RestorePodResponse reply = RUNTIME__V1__RESTORE_POD_RESPONSE__INIT;
    long long took = (long long)(clock_mono_ms() - op->started_ms);

    if (op->err.code) {
        err_note(&op->err, "restore pod %.100s/%.100s", s->config->metadata->namespace_,
                 s->config->metadata->name);
        waiters_fail(&o->waiters, &op->err);
        sandbox_op_free(o);
        sandbox_unmade(s);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        runtime__v1__restored_container__init(&v[i]);
        v[i].name = k->q->container_configs[i]->metadata->name;
        v[i].container_id = k->ctrs[i];
        list[i] = &v[i];
    }
    reply.pod_sandbox_id = s->id;
    reply.restored_containers = list;
    reply.n_restored_containers = n;
    waiters_ok(&o->waiters, &reply.base);
    log_info("op=restorep sandbox=%s pod='%s/%s' containers=%zu took_ms=%lld", s->id,
             s->config->metadata->namespace_, s->config->metadata->name, n, took);
    sandbox_op_free(o);
}

static const struct op_step restore_steps[] = {
    { "read", restore_read },
    { "compare", restore_compare },
    { "cgroup", up_cgroup },
    { "namespaces", up_namespaces },
    { "network", up_network },
    { "files", up_files },
    { "containers", restore_create },
    { "unpack", restore_unpack },
    { "ready", restore_ready },
    { 0 },
};

static const struct op_step restore_undo[] = {
    { "containers", down_containers },
    { "network", down_network },
    { "supervisor", down_supervisor },
    { "netns", down_netns },
    { "files", down_files },
    { 0 },
};

static const struct op_class restore_class = { .name = "restorep", .steps = restore_steps,
                                               .undo = restore_undo, .cancel = restore_cancel,
                                               .done = restore_done };

/* ---- the request */

static int check_configs(struct handlers *h, const Runtime__V1__RestorePodRequest *q,
                         struct err *err)
{
    if (!q->n_container_configs)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "container_configs is empty");
    if (q->n_container_configs > MEMBERS_MAX)
        return err_rpc(err, GRPC_RESOURCE_EXHAUSTED, "%zu containers are more than %d",
                       q->n_container_configs, MEMBERS_MAX);
    for (size_t i = 0; i < q->n_container_configs; i++) {
        const Runtime__V1__ContainerConfig *c = q->container_configs[i];

        if (spec_check_container(c, q->config, &h->node, err) < 0)
            return err_note(err, "container_configs[%zu]", i);
        for (size_t n = 0; n < i; n++)
            if (strcmp(q->container_configs[n]->metadata->name, c->metadata->name) == 0)
                return err_rpc(err, GRPC_INVALID_ARGUMENT, "container_configs: two have the name "
                               "'%.200s'", c->metadata->name);
    }
    return 0;
}

/* All that can be said without a look at the checkpoint. */
static int check(struct rpc *rpc, struct handlers *h, const Runtime__V1__RestorePodRequest *q,
                 struct err *err)
{
    const char *path = q->checkpoint_path;
    const struct sandbox *s;

    if (q->n_options)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "option '%.200s' is unknown, there are none",
                       q->options[0]->key);
    if (!path[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "checkpoint_path is empty");
    if (path[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "checkpoint_path '%.200s' is not absolute",
                       path);
    if (strlen(path) >= PATH_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "checkpoint_path '%.200s...' is too long", path);
    if (rpc_deadline_ms(rpc) == INT64_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "the call has no deadline");
    if (!h->conf->criu[0])
        return err_rpc(err, GRPC_UNIMPLEMENTED, "it takes criu, which the configuration turns off");
    if (sandbox_check(h, q->config, q->runtime_handler, err) < 0)
        return err->code;
    if (handler_path(h, q->runtime_handler))
        return err_rpc(err, GRPC_UNIMPLEMENTED, "runtime handler '%.200s' is an OCI runtime, which "
                       "has its own ways with containers", q->runtime_handler);
    if (spec_userns(q->config))
        return err_rpc(err, GRPC_UNIMPLEMENTED, "a pod with a user namespace cannot be restored");
    s = sandbox_of_pod(h, q->config->metadata);
    if (s)
        return sandbox_exists(s, "", err);
    return check_configs(h, q, err);
}

void handle_restore_pod(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__RestorePodRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct err err = ERR_INIT;
    struct sandbox_op *o;
    struct sandbox *s;
    struct restore *k;

    if (check(rpc, h, q, &err) < 0 ||
        sandbox_make(h, q->config, q->runtime_handler, &s, &err) < 0) {
        err_note(&err, "restore a pod");
        rpc_fail_err(rpc, &err);
        return;
    }
    k = mem_new(struct restore);
    checkpoint_worker_init(&k->worker, h);
    k->q = (Runtime__V1__RestorePodRequest *)pb_dup(&q->base);
    k->answer = -1;
    k->ctrs = mem_array(q->n_container_configs, sizeof *k->ctrs);
    k->o = o = sandbox_op_new(s, &s->run);
    o->restore = k;
    waiters_init(&o->waiters, up_none_left, o);
    waiters_add(&o->waiters, rpc);
    op_start(&o->op, &restore_class, h->loop, s->id);
}
