/* SPDX-License-Identifier: Apache-2.0 */
/* StartContainer (CRI.md 4.8): the launch plan is made from the record, the cgroup from the
 * resources in force, and the supervisor launches. The reply comes after execve(2): whatever goes
 * wrong before is the RPC's error, and the container is EXITED with 128, StartError. */
#include "handlers/rpcs.h"

#include "handlers/ctr_op.h"
#include "handlers/prepare.h"
#include "handlers/restore.h"
#include "handlers/turn.h"
#include "mem.h"
#include "proc/cgroup.h"

#include <errno.h>
#include <string.h>

struct start {
    struct op op;                    /* first */
    struct ctr *c;
    struct turn turn;
    struct waiters waiters;
    struct ctr_prep prep;
    bool launched;                   /* STARTING is on record: a failure makes it EXITED */
};

static struct start *start_of(struct op *op)
{
    return container_of(op, struct start, op);
}

static int start_turn(struct op *op, enum wake why)
{
    (void)why;
    return turn_take(&start_of(op)->c->turns, &start_of(op)->turn);
}

static int start_check(struct op *op, enum wake why)
{
    struct ctr *c = start_of(op)->c;

    (void)why;
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__CREATED)
        return err_rpc(&op->err, GRPC_FAILED_PRECONDITION,
                       "container %s cannot be started: it is not in the created state (%s)", c->id,
                       ctr_state_name(c));
    if (!sandbox_is_ready(c->sandbox) || c->sandbox->stop || c->sandbox->remove)
        return err_rpc(&op->err, GRPC_FAILED_PRECONDITION,
                       "container %s cannot be started: its sandbox %s is not ready", c->id,
                       c->sandbox->id);
    return 0;
}

static int start_spec(struct op *op, enum wake why)
{
    struct start *o = start_of(op);
    struct ctr *c = o->c;

    (void)why;
    o->launched = true;
    c->rec->state = CRICKET__STATE__CONTAINER__STATE__STARTING;
    ctr_save(c);
    (void)store_commit(c->h->store);    /* before there is a cgroup or process to be found again */
    return ctr_prepare(&o->prep, op, c);
}

static void on_started(void *arg, pid_t pid, int pidfd, int64_t started_at, const struct err *err)
{
    struct start *o = arg;
    struct ctr *c = o->c;

    if (err) {
        op_fail(&o->op, err);
        return;
    }
    c->pidfd = pidfd;
    c->rec->pid = (uint32_t)pid;
    c->rec->started_at = started_at;
    c->rec->state = CRICKET__STATE__CONTAINER__STATE__RUNNING;
    restore_end(c);
    ctr_save(c);
    event_ctr(c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STARTED_EVENT);
    op_wake(&o->op, WAKE_DONE);
}

static int start_launch(struct op *op, enum wake why)
{
    struct start *o = start_of(op);
    int r;

    (void)why;
    r = ctr_launch(o->c, o->prep.spec, o->prep.filter, on_started, o, &op->err);
    return r < 0 ? r : op_wait(op, 0);
}

static void start_free(struct start *o)
{
    ctr_prep_deinit(&o->prep);
    free(o);
}

void ctr_start_drop(struct op *op)
{
    struct start *o = start_of(op);

    op_drop(op);
    o->c->start = NULL;
    waiters_drop(&o->waiters);
    list_del(&o->turn.l);
    start_free(o);
}

static void start_done(struct op *op)
{
    struct start *o = start_of(op);
    struct ctr *c = o->c;
    Runtime__V1__StartContainerResponse reply = RUNTIME__V1__START_CONTAINER_RESPONSE__INIT;

    c->start = NULL;
    if (op->err.code && o->launched) {
        struct ctr_exit x = { .code = 128, .reason = "StartError", .message = op->err.text };

        err_note(&op->err, "container %s", c->id);
        ctr_set_exited(c, &x);
    }
    if (op->err.code) {
        waiters_fail(&o->waiters, &op->err);
    } else {
        log_info("op=start ctr=%s name='%s' pid=%u took_ms=%lld", c->id, c->config->metadata->name,
                 c->rec->pid, (long long)(clock_mono_ms() - op->started_ms));
        waiters_ok(&o->waiters, &reply.base);
    }
    turn_end(&c->turns, &o->turn);
    start_free(o);
}

static const struct op_step start_steps[] = {
    { "turn", start_turn },
    { "check", start_check },
    { "spec", start_spec },
    { "launch", start_launch },
    { 0 },
};

/* Not to be cancelled: a launch takes milliseconds (criu some more, which cricket-pod limits), and
 * kubelet asks for the state anyway. */
static const struct op_class start_class = {
    .name = "start", .steps = start_steps, .done = start_done
};

void handle_start_container(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__StartContainerRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(h, q->container_id, &err);
    struct start *o;

    if (!c || sandbox_met(c->sandbox, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (c->start || c->remove) {
        rpc_fail(rpc, GRPC_FAILED_PRECONDITION, "container %s cannot be started: it is being %s",
                 c->id, c->start ? "started" : "removed");
        return;
    }
    o = mem_new(struct start);
    o->c = c;
    c->start = &o->op;
    turn_init(&o->turn, &o->op);
    waiters_init(&o->waiters, NULL, NULL);
    waiters_add(&o->waiters, rpc);
    op_start(&o->op, &start_class, h->loop, c->id);
}
