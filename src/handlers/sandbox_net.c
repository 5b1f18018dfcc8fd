/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/sandbox_net.h"

#include "mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

char **strv_of(char *const *v, size_t n)
{
    char **r = mem_array(n + 1, sizeof *r);

    if (n)
        memcpy(r, v, n * sizeof *r);
    return r;
}

static const char *protocol_name(Runtime__V1__Protocol p)
{
    switch (p) {
    case RUNTIME__V1__PROTOCOL__UDP: return "udp";
    case RUNTIME__V1__PROTOCOL__SCTP: return "sctp";
    default: return "tcp";
    }
}

void net_attach_init(struct net_attach *n, const struct sandbox *s, bool with_result)
{
    const Runtime__V1__PodSandboxConfig *c = s->config;
    const Runtime__V1__DNSConfig *d = c->dns_config;

    memset(n, 0, sizeof *n);
    n->ports = mem_array(c->n_port_mappings + 1, sizeof *n->ports);
    n->annotations = mem_array(c->n_annotations + 1, sizeof *n->annotations);
    n->servers = d ? strv_of(d->servers, d->n_servers) : NULL;
    n->searches = d ? strv_of(d->searches, d->n_searches) : NULL;
    n->options = d ? strv_of(d->options, d->n_options) : NULL;
    for (size_t i = 0; i < c->n_port_mappings; i++) {
        const Runtime__V1__PortMapping *p = c->port_mappings[i];

        n->ports[i] = (struct cni_port){ protocol_name(p->protocol), p->host_port,
                                         p->container_port, p->host_ip };
    }
    for (size_t i = 0; i < c->n_annotations; i++)
        n->annotations[i] = (struct plan_pair){ c->annotations[i]->key, c->annotations[i]->value };
    n->a = (struct cni_attach){
        .id = s->id,
        .netns = s->rec->netns,
        .pod_name = c->metadata->name,
        .pod_namespace = c->metadata->namespace_,
        .pod_uid = c->metadata->uid,
        .ports = n->ports,
        .n_ports = c->n_port_mappings,
        .dns_servers = n->servers,
        .dns_searches = n->searches,
        .dns_options = n->options,
        .annotations = n->annotations,
        .n_annotations = c->n_annotations,
        .cgroup_path = s->rec->cgroup_parent,
    };
    if (with_result) {
        struct stat st;

        n->a.config = s->rec->cni_config[0] ? s->rec->cni_config : NULL;
        n->a.result = s->rec->cni_result[0] ? s->rec->cni_result : NULL;
        if (!s->rec->netns[0] || stat(s->rec->netns, &st) < 0)
            n->a.netns = "";
    }
}

void net_attach_deinit(struct net_attach *n)
{
    free(n->ports);
    free(n->annotations);
    free(n->servers);
    free(n->searches);
    free(n->options);
}

/* --- after a restart: CHECK, one sandbox at a time, then GC */

struct net_check {
    struct handlers *h;
    struct cni_call *call;
    char id[ID_LEN + 1]; /* the sandbox that is being checked, then the next one behind it */
};

static void check_next(struct net_check *k);

static void on_collected(void *arg, const struct cni_result *r, const struct err *err)
{
    struct net_check *k = arg;

    (void)r;
    if (err)
        log_warn("op=gc err='%s', ignoring", err->text);
    k->h->net_check = NULL;
    free(k);
}

/* GC (CNI 1.1.0): the plugins hear who still has an attachment; what else they keep is theirs to
 * drop. A sandbox is in the list from before its ADD until its DEL has succeeded. */
static void collect(struct net_check *k)
{
    auto_free const char **ids = mem_array(k->h->sandboxes.n + 1, sizeof *ids);
    struct err err = ERR_INIT;
    struct sandbox *s;
    size_t n = 0;

    sandbox_each(k->h, i, s)
        if (s->rec->cni_added)
            ids[n++] = s->id;
    if (cni_gc(k->h->cni, ids, 0, on_collected, k, &k->call, &err) < 0) {
        log_debug("op=gc err='%s'", err.text);    /* no network configured: nothing to collect */
        k->h->net_check = NULL;
        free(k);
    }
}

static void on_checked(void *arg, const struct cni_result *r, const struct err *err)
{
    struct net_check *k = arg;

    (void)r;
    k->call = NULL;
    if (err)    /* no warning: common plugins find fault with networks that work */
        log_info("op=check sandbox=%s err='%s', leaving it as it is", k->id, err->text);
    check_next(k);
}

static void check_next(struct net_check *k)
{
    struct sandbox *s;
    struct err err = ERR_INIT;

    sandbox_each(k->h, i, s) {
        auto_net_attach struct net_attach n = { 0 };

        if (strcmp(s->id, k->id) <= 0)
            continue;
        snprintf(k->id, sizeof k->id, "%s", s->id);
        if (!s->rec->cni_added || !s->rec->cni_config[0] || !sandbox_is_ready(s) || s->stop ||
            s->remove)
            continue;
        net_attach_init(&n, s, true);
        if (cni_check(k->h->cni, &n.a, 0, on_checked, k, &k->call, &err) >= 0)
            return;
        log_warn("op=check sandbox=%s err='%s', leaving it as it is", s->id, err.text);
    }
    collect(k);
}

void net_check_all(struct handlers *h)
{
    struct net_check *k = mem_new(struct net_check);

    k->h = h;
    h->net_check = k;
    check_next(k);
}

void net_check_end(struct handlers *h)
{
    free(h->net_check);    /* the plugin is ended with struct cni */
    h->net_check = NULL;
}
