/* SPDX-License-Identifier: Apache-2.0 */
/* Status, RuntimeConfig, UpdateRuntimeConfig (CRI.md 4.20, 4.21, 4.28). None of them waits for
 * anything. */
#include "handlers/rpcs.h"

#include "handlers/info.h"
#include "mem.h"
#include "reactor/pool.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static Runtime__V1__RuntimeCondition *condition(struct pool *pool, const char *type,
                                                const char *reason, const char *message)
{
    Runtime__V1__RuntimeCondition *c = pool_alloc(pool, sizeof *c);

    runtime__v1__runtime_condition__init(c);
    c->type = pool_strdup(pool, type);
    c->status = !message;
    if (message) {
        c->reason = pool_strdup(pool, reason);
        c->message = pool_strdup(pool, message);
    }
    return c;
}

static Runtime__V1__RuntimeHandler *runtime_handler(struct handlers *h, struct pool *pool,
                                                    const char *name)
{
    bool native = !handler_path(h, name);
    Runtime__V1__RuntimeHandler *r = pool_alloc(pool, sizeof *r);

    runtime__v1__runtime_handler__init(r);
    r->name = pool_strdup(pool, name);
    r->features = pool_alloc(pool, sizeof *r->features);
    runtime__v1__runtime_handler_features__init(r->features);
    r->features->recursive_read_only_mounts = h->node.rro && (native || runtime_has_rro(h, name));
    r->features->user_namespaces = h->node.userns;
    return r;
}

static void add_info(struct pool *pool, Runtime__V1__StatusResponse *r, const char *key,
                     char *value)
{
    r->info[r->n_info++] =
        info_entry(pool, &runtime__v1__status_response__info_entry__descriptor, key, value);
}

static void verbose(struct handlers *h, struct pool *pool, Runtime__V1__StatusResponse *r)
{
    const char *cni = cni_config_json(h->cni);

    r->info = pool_alloc(pool, 8 * sizeof(void *));
    add_info(pool, r, "config", pool_strdup(pool, h->conf->json));
    add_info(pool, r, "cniconfig", pool_strdup(pool, cni[0] ? cni : "{}"));
    add_info(pool, r, "lastCNILoadStatus", pool_strdup(pool, cni_last_load(h->cni)));
    add_info(pool, r, "lastCNILoadStatus.default", pool_strdup(pool, cni_last_load(h->cni)));
    add_info(pool, r, "daemon", info_daemon(h, pool));
}

void handle_status(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__StatusRequest *q = (const void *)req;
    struct handlers *h = ctx;
    Runtime__V1__StatusResponse r = RUNTIME__V1__STATUS_RESPONSE__INIT;
    Runtime__V1__RuntimeStatus st = RUNTIME__V1__RUNTIME_STATUS__INIT;
    Runtime__V1__RuntimeFeatures features = RUNTIME__V1__RUNTIME_FEATURES__INIT;
    auto_pool struct pool pool = POOL_INIT;
    const char *cni = cni_not_ready(h->cni);
    size_t n = 2;

    st.conditions = pool_alloc(&pool, 2 * sizeof(void *));
    st.conditions[st.n_conditions++] =
        condition(&pool, "RuntimeReady", "StoreFailed",
                  store_healthy(h->store) ? NULL : "the run store cannot be written: see the log");
    st.conditions[st.n_conditions++] =
        condition(&pool, "NetworkReady", "NetworkPluginNotReady",
                  cni ? pool_printf(&pool, "Network plugin returns error: %s", cni) : NULL);
    r.status = &st;
    features.supplemental_groups_policy = true;
    features.user_namespaces_host_network = h->node.userns;
    r.features = &features;
    for (const struct conf_runtime *c = h->conf->runtimes; c; c = c->next)
        n++;
    r.runtime_handlers = pool_alloc(&pool, n * sizeof(void *));
    r.runtime_handlers[r.n_runtime_handlers++] = runtime_handler(h, &pool, "");
    r.runtime_handlers[r.n_runtime_handlers++] = runtime_handler(h, &pool, "cricket");
    for (const struct conf_runtime *c = h->conf->runtimes; c; c = c->next)
        if (strcmp(c->name, "cricket") != 0)
            r.runtime_handlers[r.n_runtime_handlers++] = runtime_handler(h, &pool, c->name);
    if (q->verbose)
        verbose(h, &pool, &r);
    rpc_ok(rpc, &r.base);
}

void handle_runtime_config(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    Runtime__V1__RuntimeConfigResponse r = RUNTIME__V1__RUNTIME_CONFIG_RESPONSE__INIT;
    Runtime__V1__LinuxRuntimeConfiguration l = RUNTIME__V1__LINUX_RUNTIME_CONFIGURATION__INIT;
    const struct handlers *h = ctx;

    (void)req;
    l.cgroup_driver = h->conf->cgroup_driver == CONF_SYSTEMD ? RUNTIME__V1__CGROUP_DRIVER__SYSTEMD
                                                             : RUNTIME__V1__CGROUP_DRIVER__CGROUPFS;
    r.linux = &l;
    rpc_ok(rpc, &r.base);
}

/* "10.0.0.0/24", "fd00::/64" */
static bool cidr_ok(char *s)
{
    unsigned char addr[16];
    char *slash = strchr(s, '/'), *end;
    long bits;
    bool v6 = strchr(s, ':');

    if (!slash || !slash[1])
        return false;
    *slash = '\0';
    bits = strtol(slash + 1, &end, 10);
    return !*end && bits >= 0 && bits <= (v6 ? 128 : 32) &&
           inet_pton(v6 ? AF_INET6 : AF_INET, s, addr) == 1;
}

void handle_update_runtime_config(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__UpdateRuntimeConfigRequest *q = (const void *)req;
    Runtime__V1__UpdateRuntimeConfigResponse r = RUNTIME__V1__UPDATE_RUNTIME_CONFIG_RESPONSE__INIT;
    struct handlers *h = ctx;
    const char *cidr = q->runtime_config && q->runtime_config->network_config
                           ? q->runtime_config->network_config->pod_cidr : "";
    auto_free char *copy = mem_strdup(cidr);
    char *save = NULL;

    if (strlen(cidr) >= sizeof h->pod_cidr) {
        rpc_fail(rpc, GRPC_INVALID_ARGUMENT, "pod_cidr of %zu bytes is too long", strlen(cidr));
        return;
    }
    for (char *p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
        if (!cidr_ok(p)) {
            rpc_fail(rpc, GRPC_INVALID_ARGUMENT, "pod_cidr '%s': not an address range", cidr);
            return;
        }
    }
    if (cidr[0]) {
        snprintf(h->pod_cidr, sizeof h->pod_cidr, "%s", cidr);
        log_info("op=update_runtime_config pod_cidr='%s': noted, the CNI configuration decides",
                 cidr);
    }
    rpc_ok(rpc, &r.base);
}
