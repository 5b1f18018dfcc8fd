/* SPDX-License-Identifier: Apache-2.0 */
/* What RunPodSandbox and RestorePod have in common: is the pod new and its configuration sound, the
 * object with its record, and what becomes of it when the run fails. */
#include "handlers/sandbox_op.h"

#include "handlers/rpcs.h"
#include "handlers/selinux.h"
#include "handlers/spec.h"
#include "mem.h"
#include "reactor/pool.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

enum { CATEGORIES = 1024, LEVEL_TRIES = 10000 };

static bool same_identity(const Runtime__V1__PodSandboxMetadata *a,
                          const Runtime__V1__PodSandboxMetadata *b)
{
    return a->attempt == b->attempt && strcmp(a->name, b->name) == 0 &&
           strcmp(a->namespace_, b->namespace_) == 0 && strcmp(a->uid, b->uid) == 0;
}

struct sandbox *sandbox_of_pod(struct handlers *h, const Runtime__V1__PodSandboxMetadata *pod)
{
    struct sandbox *s;

    sandbox_each(h, i, s)
        if (same_identity(s->config->metadata, pod))
            return s;
    return NULL;
}

int sandbox_exists(const struct sandbox *s, const char *more, struct err *err)
{
    const Runtime__V1__PodSandboxMetadata *pod = s->config->metadata;

    return err_rpc(err, GRPC_ALREADY_EXISTS,
                   "sandbox of pod %s/%s (uid %s, attempt %u) exists already as %s%s%s",
                   pod->namespace_, pod->name, pod->uid, pod->attempt, s->id, more[0] ? ", " : "",
                   more);
}

static bool level_taken(struct handlers *h, const char *level)
{
    auto_free char *end = mem_printf(":%s", level);
    struct sandbox *s;

    sandbox_each(h, i, s)
        if (str_ends(s->rec->selinux_label, end))
            return true;
    return false;
}

/* The context that the pod's containers have unless they ask for another: "" where there is none.
 * Two categories that no other pod has, unless the request names a level. */
static int pod_context(struct handlers *h, const Runtime__V1__PodSandboxConfig *c, struct pool *p,
                       const char **ret, struct err *err)
{
    const Runtime__V1__SELinuxOption *asked =
        c->linux && c->linux->security_context ? c->linux->security_context->selinux_options : NULL;
    Runtime__V1__SELinuxOption own = RUNTIME__V1__SELINUX_OPTION__INIT;
    uint16_t n[2];

    *ret = "";
    if (!h->node.selinux_process)
        return 0;
    *ret = selinux_replace(p, h->node.selinux_process, asked);
    for (int i = 0; selinux_has_level(*ret) && !(asked && asked->level[0]); i++) {
        if (i == LEVEL_TRIES || getrandom(n, sizeof n, 0) != sizeof n)
            return err_set(err, -EAGAIN, "no SELinux categories for the sandbox");
        if (n[0] % CATEGORIES == n[1] % CATEGORIES)
            continue;
        own.level = selinux_level(p, *ret, n[0] % CATEGORIES, n[1] % CATEGORIES);
        if (level_taken(h, own.level))
            continue;
        *ret = selinux_replace(p, *ret, &own);
        break;
    }
    return selinux_known(*ret, err);
}

int sandbox_check(struct handlers *h, const Runtime__V1__PodSandboxConfig *config,
                  const char *handler, struct err *err)
{
    int r;

    if (!config)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "sandbox config is missing");
    r = spec_check_sandbox(config, &h->node, err);
    return r < 0 ? r : handler_check(h, handler, err);
}

int sandbox_make(struct handlers *h, const Runtime__V1__PodSandboxConfig *config,
                 const char *handler, struct sandbox **ret, struct err *err)
{
    auto_pool struct pool pool = POOL_INIT;
    auto_free char *parent = NULL;
    const char *context = "";
    char id[ID_LEN + 1];
    struct sandbox *s;
    int r = handler_binary_check(h, handler, err);

    if (r == 0)
        r = spec_cgroup_parent(config->linux ? config->linux->cgroup_parent : "",
                               h->conf->cgroup_parent, &h->node, &parent, err);
    if (r == 0)
        r = pod_context(h, config, &pool, &context, err);
    if (r < 0)
        return r;
    new_id(id);
    s = sandbox_new(h, id);
    s->config = (Runtime__V1__PodSandboxConfig *)pb_dup(&config->base);
    s->rec = mem_new(Cricket__State__Sandbox);
    cricket__state__sandbox__init(s->rec);
    s->rec->schema = SCHEMA;
    pb_set(&s->rec->id, id);
    pb_set(&s->rec->runtime_handler, handler);
    pb_set(&s->rec->boot_id, h->boot_id);
    s->rec->created_at = clock_stamp_ns();
    s->rec->state = CRICKET__STATE__SANDBOX__STATE__MAKING;
    pb_set(&s->rec->cgroup_parent, parent);
    pb_set(&s->rec->selinux_label, context);
    sandbox_save(s);
    (void)store_commit(h->store);    /* whatever is made from here on is found again */
    *ret = s;
    return 0;
}

void sandbox_unmade(struct sandbox *s)
{
    if (s->rec->cni_added || s->link || !list_empty(&s->ctrs)) {
        /* the undo failed as well: keep it in sight, so that a stop or remove can finish */
        s->rec->state = CRICKET__STATE__SANDBOX__STATE__NOTREADY;
        s->visible = true;
        sandbox_save(s);
    } else {
        sandbox_forget(s);
    }
}
