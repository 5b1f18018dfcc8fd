/* SPDX-License-Identifier: Apache-2.0 */
/* UpdateContainerResources and ReopenContainerLog (CRI.md 4.14, 4.15). */
#include "handlers/rpcs.h"

#include "handlers/ctr_op.h"
#include "handlers/launch.h"
#include "mem.h"
#include "proc/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* What the request gives replaces what is in force; 0, "" and absent leave it. Returns the merged
 * message. */
static Runtime__V1__LinuxContainerResources *merge(const Runtime__V1__LinuxContainerResources *now,
                                                   const Runtime__V1__LinuxContainerResources *ask)
{
    Runtime__V1__LinuxContainerResources m = *now;

    if (ask->cpu_period)
        m.cpu_period = ask->cpu_period;
    if (ask->cpu_quota)
        m.cpu_quota = ask->cpu_quota;
    if (ask->cpu_shares)
        m.cpu_shares = ask->cpu_shares;
    if (ask->memory_limit_in_bytes)
        m.memory_limit_in_bytes = ask->memory_limit_in_bytes;
    if (ask->memory_swap_limit_in_bytes)
        m.memory_swap_limit_in_bytes = ask->memory_swap_limit_in_bytes;
    if (ask->oom_score_adj)
        m.oom_score_adj = ask->oom_score_adj;
    if (ask->cpuset_cpus[0])
        m.cpuset_cpus = ask->cpuset_cpus;
    if (ask->cpuset_mems[0])
        m.cpuset_mems = ask->cpuset_mems;
    if (ask->n_hugepage_limits) {
        m.n_hugepage_limits = ask->n_hugepage_limits;
        m.hugepage_limits = ask->hugepage_limits;
    }
    if (ask->n_unified) { /* key by key: the new ones stand behind the old, the last one wins */
        m.n_unified = now->n_unified + ask->n_unified;
        m.unified = mem_array(m.n_unified, sizeof *m.unified);
        if (now->n_unified)
            memcpy(m.unified, now->unified, now->n_unified * sizeof *m.unified);
        memcpy(m.unified + now->n_unified, ask->unified, ask->n_unified * sizeof *m.unified);
    }
    Runtime__V1__LinuxContainerResources *r = (void *)pb_dup(&m.base);

    if (ask->n_unified)
        free(m.unified);
    return r;
}

/* Every process of the container; one that ends meanwhile does not matter. Below what the kernel
 * allows us (CAP_SYS_RESOURCE), the lowest allowed value is what it stays at. */
static int set_oom_score(struct ctr *c, int64_t value, struct err *err)
{
    auto_free pid_t *pids = NULL;
    size_t n = 0;
    int r = cgroup_processes(c->rec->cgroup_path, &pids, &n, err);

    for (size_t i = 0; r >= 0 && i < n; i++) {
        auto_free char *path = mem_printf("/proc/%d/oom_score_adj", (int)pids[i]);
        auto_fd int fd = open(path, O_WRONLY | O_CLOEXEC);

        if (fd < 0 || dprintf(fd, "%d", (int)value) < 0) {
            if (errno == EACCES)
                log_warn(
                    "op=update ctr=%s pid=%d err='oom_score_adj %d is not allowed', leaving it",
                    c->id, (int)pids[i], (int)value);
            else if (errno != ENOENT && errno != ESRCH)
                return err_sys(err, "oom_score_adj of process %d", (int)pids[i]);
        }
    }
    return r;
}

static int apply(struct ctr *c, const Runtime__V1__LinuxContainerResources *ask, struct err *err)
{
    struct cgroup_limits limits = { 0 };
    int r;

    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING)
        return 0;    /* created: the start takes what is stored */
    r = spec_limits(ask, c->config, &limits, err);
    if (r < 0)
        return r;
    limits.pids = 0;
    r = cgroup_update(c->rec->cgroup_path, &limits, err);
    spec_limits_deinit(&limits);
    if (r >= 0 && ask->oom_score_adj)
        r = set_oom_score(c, ask->oom_score_adj, err);
    return r;
}

void handle_update_container_resources(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__UpdateContainerResourcesRequest *q = (const void *)req;
    Runtime__V1__UpdateContainerResourcesResponse reply =
        RUNTIME__V1__UPDATE_CONTAINER_RESOURCES_RESPONSE__INIT;
    Runtime__V1__LinuxContainerResources *merged;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(ctx, q->container_id, &err);

    if (!c) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (c->start || c->remove ||
        (c->rec->state != CRICKET__STATE__CONTAINER__STATE__CREATED &&
         c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING)) {
        rpc_fail(rpc, GRPC_FAILED_PRECONDITION, "update container %s: it is %s", c->id,
                 c->remove ? "being removed" : c->start ? "being started" : ctr_state_name(c));
        return;
    }
    if (!q->linux) {
        rpc_ok(rpc, &reply.base);
        return;
    }
    if (spec_check_resources(q->linux, &err) < 0 || apply(c, q->linux, &err) < 0) {
        err_note(&err, "update container %s", c->id);
        rpc_fail_err(rpc, &err);
        return;
    }
    merged = merge(c->resources, q->linux);
    runtime__v1__linux_container_resources__free_unpacked(c->resources, NULL);
    c->resources = merged;
    ctr_save(c);
    rpc_ok(rpc, &reply.base);
}

struct reopen {
    struct rpc *rpc;
};

static void on_reopened(void *arg, const struct err *err)
{
    struct reopen *o = arg;
    Runtime__V1__ReopenContainerLogResponse reply =
        RUNTIME__V1__REOPEN_CONTAINER_LOG_RESPONSE__INIT;

    if (err)
        rpc_fail_err(o->rpc, err);
    else
        rpc_ok(o->rpc, &reply.base);
    rpc_release(o->rpc);
    free(o);
}

void handle_reopen_container_log(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ReopenContainerLogRequest *q = (const void *)req;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_find(ctx, q->container_id, &err);
    struct reopen *o;

    if (!c || sandbox_met(c->sandbox, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || !c->sandbox->link) {
        rpc_fail(rpc, GRPC_FAILED_PRECONDITION,
                 "reopen log of container %s: it is not running (%s)", c->id, ctr_state_name(c));
        return;
    }
    o = mem_new(struct reopen);
    o->rpc = rpc;
    rpc_keep(rpc);
    link_reopen_log(c->sandbox->link, c->id, on_reopened, o); /* answers also when the link drops */
}
