/* SPDX-License-Identifier: Apache-2.0 */
/* StopPodSandbox and RemovePodSandbox (CRI.md 4.3, 4.4). Both are idempotent and may be joined; a
 * stop that failed half way goes on where it failed when it is asked again. They are the way to get
 * rid of a pod whose supervisor hangs: that is killed then. */
#include "handlers/rpcs.h"

#include "handlers/ctr_op.h"
#include "handlers/sandbox_op.h"

/* NULL when the call is answered: what is not there is stopped and removed, and a pod whose
 * supervisor has not answered yet since the start is neither. Either reply is an empty message. */
static struct sandbox *find_or_answer(struct rpc *rpc, struct handlers *h, const char *id)
{
    Runtime__V1__StopPodSandboxResponse reply = RUNTIME__V1__STOP_POD_SANDBOX_RESPONSE__INIT;
    struct err err = ERR_INIT;
    struct sandbox *s = sandbox_find(h, id, &err);

    if (!s && err.grpc == GRPC_NOT_FOUND)
        rpc_ok(rpc, &reply.base);
    else if (!s || (!sandbox_may_end(s) && sandbox_met(s, &err) < 0))
        rpc_fail_err(rpc, &err);
    else
        return s;
    return NULL;
}

static void stop_done(struct op *op)
{
    struct sandbox_op *o = sandbox_op_of(op);
    Runtime__V1__StopPodSandboxResponse reply = RUNTIME__V1__STOP_POD_SANDBOX_RESPONSE__INIT;

    if (op->err.code) {
        /* NOTREADY all the same: what is left will be finished by the next stop or remove */
        if (o->s->rec->state == CRICKET__STATE__SANDBOX__STATE__READY)
            (void)down_mark(op, WAKE_START);
        waiters_fail(&o->waiters, &op->err);
    } else {
        waiters_ok(&o->waiters, &reply.base);
    }
    if (o->after)
        o->after(o->after_arg, op->err.code ? &op->err : NULL);
    sandbox_op_free(o);
}

static const struct op_step stop_steps[] = {
    { "turn", down_turn },
    { "containers", down_kill },
    { "network", down_network },
    { "supervisor", down_supervisor },
    { "netns", down_netns },
    { "hooks", down_hooks },
    { "record", down_mark },
    { 0 },
};

static const struct op_class stop_class = { .name = "stopp",
                                            .steps = stop_steps,
                                            .done = stop_done };

void sandbox_stop_start(struct sandbox *s, void (*after)(void *arg, const struct err *err),
                        void *arg)
{
    struct sandbox_op *o = sandbox_op_new(s, &s->stop);

    o->after = after;
    o->after_arg = arg;
    op_start(&o->op, &stop_class, s->h->loop, s->id);
}

void handle_stop_pod_sandbox(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__StopPodSandboxRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct sandbox *s = find_or_answer(rpc, h, q->pod_sandbox_id);
    struct sandbox_op *o;

    if (!s)
        return;
    if (s->remove || s->stop) {    /* both replies are empty messages */
        waiters_add(&sandbox_op_of(s->remove ? s->remove : s->stop)->waiters, rpc);
        return;
    }
    o = sandbox_op_new(s, &s->stop);
    waiters_add(&o->waiters, rpc);
    op_start(&o->op, &stop_class, h->loop, s->id);
}

static int remove_mark(struct op *op, enum wake why)
{
    struct sandbox *s = sandbox_op_of(op)->s;

    (void)why;
    s->rec->state = CRICKET__STATE__SANDBOX__STATE__REMOVING;
    sandbox_save(s);
    return 0;
}

static void remove_done(struct op *op)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct sandbox *s = o->s;
    Runtime__V1__RemovePodSandboxResponse reply = RUNTIME__V1__REMOVE_POD_SANDBOX_RESPONSE__INIT;

    if (op->err.code) {
        /* One that was being made (start-up) comes into sight: a stop or remove can finish it. */
        if (s->rec->state != CRICKET__STATE__SANDBOX__STATE__REMOVING)
            (void)down_mark(op, WAKE_START);
        s->visible = true;
        waiters_fail(&o->waiters, &op->err);
        if (o->after)
            o->after(o->after_arg, &op->err);
        sandbox_op_free(o);
        return;
    }
    event_sandbox(s, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_DELETED_EVENT);
    s->visible = false;
    waiters_ok(&o->waiters, &reply.base);
    if (o->after)
        o->after(o->after_arg, NULL);
    log_info("op=rmp sandbox=%s pod='%s/%s'", s->id, s->config->metadata->namespace_,
             s->config->metadata->name);
    sandbox_op_free(o);
    sandbox_forget(s);
}

static const struct op_step remove_steps[] = {
    { "turn", down_turn },
    { "containers", down_kill },
    { "network", down_network },
    { "supervisor", down_supervisor },
    { "netns", down_netns },
    { "hooks", down_hooks },
    { "record", down_mark },
    { "removing", remove_mark },
    { "containers", down_containers },
    { "files", down_files },
    { 0 },
};

static const struct op_class remove_class = {
    .name = "rmp", .steps = remove_steps, .done = remove_done
};

void sandbox_remove_start(struct sandbox *s, void (*after)(void *arg, const struct err *err),
                          void *arg)
{
    struct sandbox_op *o = sandbox_op_new(s, &s->remove);

    o->after = after;
    o->after_arg = arg;
    op_start(&o->op, &remove_class, s->h->loop, s->id);
}

void handle_remove_pod_sandbox(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__RemovePodSandboxRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct sandbox *s = find_or_answer(rpc, h, q->pod_sandbox_id);
    struct sandbox_op *o;

    if (!s)
        return;
    if (s->remove) {
        waiters_add(&sandbox_op_of(s->remove)->waiters, rpc);
        return;
    }
    o = sandbox_op_new(s, &s->remove);
    waiters_add(&o->waiters, rpc);
    op_start(&o->op, &remove_class, h->loop, s->id);
}
