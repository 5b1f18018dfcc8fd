/* SPDX-License-Identifier: Apache-2.0 */
/* RunPodSandbox (CRI.md 4.2). A repeated call with the same identity and configuration joins the
 * run that is going on, or gets the id of the sandbox that it made; a client that goes away undoes
 * the run when it was the last to wait. */
#include "handlers/rpcs.h"

#include "handlers/ctr_op.h"
#include "handlers/sandbox_net.h"
#include "handlers/sandbox_op.h"
#include "handlers/selinux.h"
#include "handlers/spec.h"
#include "mem.h"
#include "proc/cgroup.h"
#include "proc/podfiles.h"
#include "reactor/pool.h"

#include <string.h>

enum { SHM_SIZE = 64 * 1024 * 1024 };

int up_cgroup(struct op *op, enum wake why)
{
    struct sandbox *s = sandbox_op_of(op)->s;
    const char *path = s->rec->cgroup_parent;
    auto_free char *made = NULL;
    int r;

    (void)why;
    r = cgroup_missing(path, &made, &op->err);
    if (r == 0 && made) {    /* whoever goes last below it takes it away: teardown.c */
        pb_set(&s->rec->cgroup_made, made);
        sandbox_save(s);
        (void)store_commit(s->h->store);
    }
    if (r == 0)
        r = cgroup_make(path, NULL, &op->err);
    return r < 0 ? err_note(&op->err, "cgroup parent of the sandbox") : 0;
}

static void on_supervisor_gone(void *arg)
{
    struct sandbox *s = arg;

    log_error("op=supervisor sandbox=%s err='the supervisor is gone', the sandbox is not ready",
              s->id);
    sandbox_lost(s);
}

static void on_exit_event(void *arg, const struct link_exit *x)
{
    struct sandbox *s = arg;

    ctr_on_exit(s->h, s, x);
}

static void on_note_event(void *arg, const char *ctr, const char *text)
{
    const struct sandbox *s = arg;

    log_warn("op=note ctr=%s sandbox=%s err='%s', ignoring", ctr, s->id, text);
}

static void on_supervisor_hangs(void *arg, const struct err *why)
{
    struct sandbox *s = arg;
    struct ctr *c;

    log_error("op=supervisor err='%s', the sandbox is left as it is", why->text);
    if (s->run || s->stop || s->remove) {        /* by which it is to end */
        sandbox_end_hung(s);
        return;
    }
    list_each(c, &s->ctrs, struct ctr, in_sandbox)
        ctr_stop_fail(c, why);
}

static void on_supervisor_awake(void *arg)
{
    const struct sandbox *s = arg;

    log_info("op=supervisor sandbox=%s pid=%d note='it answers again'", s->id,
             (int)link_pid(s->link));
}

void sandbox_link_events(struct sandbox *s, struct link_events *ev)
{
    ev->on_note = on_note_event;
    ev->on_exit = on_exit_event;
    ev->on_gone = on_supervisor_gone;
    ev->on_hangs = on_supervisor_hangs;
    ev->on_awake = on_supervisor_awake;
    ev->stall_ms = s->h->conf->supervisor_stall_ms;
    ev->arg = s;
}

static void on_ready(void *arg, struct link *k, const char *netns, pid_t supervisor,
                     const struct err *err)
{
    struct sandbox_op *o = arg;
    struct sandbox *s = o->s;

    if (err) {
        struct err e = *err;

        s->link = NULL;    /* undone and freed below us */
        err_note(&e, "namespaces of the sandbox");
        op_fail(&o->op, &e);
        return;
    }
    s->link = k;
    pb_set(&s->rec->netns, netns);
    s->rec->supervisor_pid = (uint32_t)supervisor;
    sandbox_save(s);
    op_wake(&o->op, WAKE_DONE);
}

/* Validated by spec_check_sandbox(): POD with one mapping each, or none. */
static struct link_idmap idmap_of(Runtime__V1__IDMapping *const *v, size_t n)
{
    return n ? (struct link_idmap){ v[0]->host_id, v[0]->container_id, v[0]->length }
             : (struct link_idmap){ 0, 0, 0 };
}

/* "name=value" entries of the configuration for pods with a network of their own, then the
 * request's. */
static struct plan_pair *sysctls_of(struct sandbox *s, char **storage, size_t *ret_n)
{
    const Runtime__V1__LinuxPodSandboxConfig *lx = s->config->linux;
    char **conf = s->h->conf->default_sysctls;
    size_t n_conf = 0, n = 0;
    struct plan_pair *v;
    struct str text = STR_INIT;

    while (conf && !sandbox_host_network(s) && conf[n_conf])
        n_conf++;
    v = mem_array(n_conf + (lx ? lx->n_sysctls : 0) + 1, sizeof *v);
    for (size_t i = 0; i < n_conf; i++)
        str_add(&text, conf[i], strlen(conf[i]) + 1);
    *storage = str_take(&text);
    for (char *p = *storage; n < n_conf; n++) {
        size_t len = strlen(p);
        char *eq = strchr(p, '=');

        *eq = '\0';    /* conf.c has seen to it that there is one */
        v[n] = (struct plan_pair){ p, eq + 1 };
        p += len + 1;
    }
    for (size_t i = 0; lx && i < lx->n_sysctls; i++)
        v[n++] = (struct plan_pair){ lx->sysctls[i]->key, lx->sysctls[i]->value };
    *ret_n = n;
    return v;
}

int up_namespaces(struct op *op, enum wake why)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct sandbox *s = o->s;
    const Runtime__V1__PodSandboxConfig *c = s->config;
    const Runtime__V1__NamespaceOption *ns = sandbox_namespaces(s);
    const Runtime__V1__UserNamespace *u = spec_userns(c);
    struct link_idmap uids = idmap_of(u ? u->uids : NULL, u ? u->n_uids : 0);
    struct link_idmap gids = idmap_of(u ? u->gids : NULL, u ? u->n_gids : 0);
    size_t n_sysctls;
    auto_free char *storage = NULL;
    auto_free struct plan_pair *sysctls = sysctls_of(s, &storage, &n_sysctls);
    const Runtime__V1__LinuxSandboxSecurityContext *sec =
        c->linux ? c->linux->security_context : NULL;
    const char *label = s->rec->selinux_label[0] ? s->rec->selinux_label : NULL;
    auto_pool struct pool pool = POOL_INIT;
    struct link_events ev = { 0 };
    struct err err = ERR_INIT;

    (void)why;
    struct link_sandbox ls = {
        .id = s->id,
        .state_dir = s->dir,
        .host_net = sandbox_host_network(s),
        .host_ipc = ns && ns->ipc == RUNTIME__V1__NAMESPACE_MODE__NODE,
        .shared_pid = !ns || ns->pid == RUNTIME__V1__NAMESPACE_MODE__POD,
        .hostname = c->hostname,
        .sysctls = sysctls,
        .n_sysctls = n_sysctls,
        .shm_size = SHM_SIZE,
        .mount_label = label ? selinux_file(&pool, label, &s->h->node, false) : NULL,
        .init_label = sec && sec->privileged ? NULL : label,
        .userns = u != NULL,
        .uid_map = &uids,
        .gid_map = &gids,
        .n_uid_map = u != NULL,
        .n_gid_map = u != NULL,
    };
    sandbox_link_events(s, &ev);
    if (link_spawn(s->h->loop, &s->h->link_opts, &ls, &ev, on_ready, o, &s->link, &err) < 0) {
        op->err = err;
        s->link = NULL;
        return err_note(&op->err, "supervisor of the sandbox");
    }
    return op_wait(op, 0);
}

static void set_ips(struct sandbox *s, const struct cni_result *r)
{
    s->rec->ips = mem_array(r->n_ips + 1, sizeof *s->rec->ips);
    for (size_t i = 0; i < r->n_ips; i++)
        s->rec->ips[i] = mem_strdup(r->ips[i]);
    s->rec->n_ips = r->n_ips;
}

static void on_cni_added(void *arg, const struct cni_result *r, const struct err *err)
{
    struct sandbox_op *o = arg;
    struct sandbox *s = o->s;

    o->cni = NULL;
    if (err) {
        struct err e = *err;

        s->rec->cni_added = r != NULL;    /* else cni.c has undone it already */
        sandbox_save(s);
        err_note(&e, "network of sandbox for pod %s/%s", s->config->metadata->namespace_,
                 s->config->metadata->name);
        op_fail(&o->op, &e);
        return;
    }
    pb_set(&s->rec->cni_config, r->config);
    pb_set(&s->rec->cni_result, r->result);
    set_ips(s, r);
    sandbox_save(s);
    op_wake(&o->op, WAKE_DONE);
}

int up_network(struct op *op, enum wake why)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct sandbox *s = o->s;
    auto_net_attach struct net_attach n = { 0 };
    const char *why_not;
    struct err err = ERR_INIT;

    (void)why;
    if (sandbox_host_network(s))
        return 0;
    why_not = cni_not_ready(s->h->cni);
    if (why_not)
        return err_rpc(&op->err, GRPC_UNKNOWN, "network of the sandbox: %s", why_not);
    /* On record before the first plugin runs: whatever it does is released by a DEL with this very
     * configuration, also after a crash. */
    s->rec->cni_added = true;
    pb_set(&s->rec->cni_config, cni_config_json(s->h->cni));
    sandbox_save(s);
    (void)store_commit(s->h->store);
    net_attach_init(&n, s, false);
    if (cni_add(s->h->cni, &n.a, 0, on_cni_added, o, &o->cni, &err) < 0) {
        op->err = err;
        return err_note(&op->err, "network of the sandbox");
    }
    return op_wait(op, 0);
}

int up_files(struct op *op, enum wake why)
{
    struct sandbox *s = sandbox_op_of(op)->s;
    const Runtime__V1__DNSConfig *d = s->config->dns_config;
    auto_free char **servers = d ? strv_of(d->servers, d->n_servers) : NULL;
    auto_free char **searches = d ? strv_of(d->searches, d->n_searches) : NULL;
    auto_free char **options = d ? strv_of(d->options, d->n_options) : NULL;
    const Runtime__V1__UserNamespace *u = spec_userns(s->config);
    struct podfiles f = {
        .dir = s->dir,
        .hostname = s->config->hostname,
        .host_net = sandbox_host_network(s),
        .ips = (const char *const *)s->rec->ips,
        .n_ips = s->rec->n_ips,
        .uid = u ? u->uids[0]->host_id : 0,
        .gid = u ? u->gids[0]->host_id : 0,
        .has_dns = d != NULL,
        .servers = servers,
        .searches = searches,
        .options = options,
    };

    (void)why;
    return podfiles_write(&f, &op->err);
}

int up_ready(struct op *op, enum wake why)
{
    struct sandbox *s = sandbox_op_of(op)->s;

    (void)why;
    if (!s->link)    /* sandbox_lost() was here while the network was made */
        return err_rpc(&op->err, GRPC_UNKNOWN, "the supervisor of the sandbox is gone");
    s->rec->state = CRICKET__STATE__SANDBOX__STATE__READY;
    s->visible = true;
    sandbox_save(s);
    event_sandbox(s, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_CREATED_EVENT);
    event_sandbox(s, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STARTED_EVENT);
    return 0;
}

void up_cancel(struct op *op)
{
    struct sandbox_op *o = sandbox_op_of(op);

    if (o->cni)
        cni_cancel(o->cni);    /* calls back when the DEL is over */
    /* the supervisor answers in any case, shortly */
}

void up_none_left(void *arg, enum rpc_gone why)
{
    struct sandbox_op *o = arg;

    op_cancel(&o->op, why == RPC_DEADLINE ? GRPC_DEADLINE_EXCEEDED : GRPC_CANCELLED);
}

static void run_done(struct op *op)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct sandbox *s = o->s;
    Runtime__V1__RunPodSandboxResponse reply = RUNTIME__V1__RUN_POD_SANDBOX_RESPONSE__INIT;

    if (!op->err.code) {
        reply.pod_sandbox_id = s->id;
        waiters_ok(&o->waiters, &reply.base);
        log_info("op=runp sandbox=%s pod='%s/%s' ip=%s took_ms=%lld", s->id,
                 s->config->metadata->namespace_, s->config->metadata->name,
                 s->rec->n_ips ? s->rec->ips[0] : "-",
                 (long long)(clock_mono_ms() - op->started_ms));
        sandbox_op_free(o);
        return;
    }
    waiters_fail(&o->waiters, &op->err);
    sandbox_op_free(o);
    sandbox_unmade(s);
}

static const struct op_step run_steps[] = {
    { "cgroup", up_cgroup },
    { "namespaces", up_namespaces },
    { "network", up_network },
    { "files", up_files },
    { "ready", up_ready },
    { 0 },
};

static const struct op_step run_undo[] = {
    { "network", down_network },
    { "supervisor", down_supervisor },
    { "netns", down_netns },
    { "files", down_files },
    { 0 },
};

static const struct op_class run_class = {
    .name = "runp", .steps = run_steps, .undo = run_undo, .cancel = up_cancel, .done = run_done
};

/* CRI.md 4.0, duplicate create. True when the call is dealt with. */
static bool run_known(struct rpc *rpc, struct handlers *h,
                      const Runtime__V1__RunPodSandboxRequest *q)
{
    Runtime__V1__RunPodSandboxResponse reply = RUNTIME__V1__RUN_POD_SANDBOX_RESPONSE__INIT;
    struct sandbox *s = sandbox_of_pod(h, q->config->metadata);
    struct err err = ERR_INIT;
    bool same;

    if (!s)
        return false;
    same = strcmp(s->rec->runtime_handler, q->runtime_handler) == 0 &&
           pb_same(&s->config->base, &q->config->base);
    if (same && s->run && s->run->cls == &run_class && !s->run->undoing && !s->run->cancelled) {
        waiters_add(&sandbox_op_of(s->run)->waiters, rpc);
    } else if (same && sandbox_is_ready(s) && !s->stop && !s->remove) {
        reply.pod_sandbox_id = s->id;
        rpc_ok(rpc, &reply.base);
    } else {
        sandbox_exists(s, !same                       ? "with another configuration"
                          : !s->run                   ? ""
                          : s->run->cls != &run_class ? "which is being restored"
                                                      : "which is being undone", &err);
        rpc_fail_err(rpc, &err);
    }
    return true;
}

void handle_run_pod_sandbox(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__RunPodSandboxRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct err err = ERR_INIT;
    struct sandbox *s;
    struct sandbox_op *o;

    if (sandbox_check(h, q->config, q->runtime_handler, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (run_known(rpc, h, q))
        return;
    if (sandbox_make(h, q->config, q->runtime_handler, &s, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    o = sandbox_op_new(s, &s->run);
    waiters_init(&o->waiters, up_none_left, o);
    waiters_add(&o->waiters, rpc);
    op_start(&o->op, &run_class, h->loop, s->id);
}
