/* SPDX-License-Identifier: Apache-2.0 */
/* Hooks, network interfaces and intelRdt of CDI devices: as config.json has them, and in the plan.
 *
 * A hook gets the container's state on stdin and finds config.json in the bundle that the state
 * names; both are written out here, but for the status and the process number, which cricket-pod
 * adds when it runs the hook (pod/hooks.c). */
#include "handlers/spec_impl.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <string.h>

enum { HOOK_MS = 60000 };            /* for a hook that says nothing of a timeout */

static const char *const kinds[] = {
    [PLAN_HOOK_PRESTART] = "prestart",
    [PLAN_HOOK_CREATE_RUNTIME] = "createRuntime",
    [PLAN_HOOK_CREATE_CONTAINER] = "createContainer",
    [PLAN_HOOK_START_CONTAINER] = "startContainer",
    [PLAN_HOOK_POSTSTART] = "poststart",
    [PLAN_HOOK_POSTSTOP] = "poststop",
};

json_t *spec_hooks_json(const struct cdi_edits *e)
{
    json_t *all = json_object();

    for (size_t i = 0; i < e->n_hooks; i++) {
        const struct cdi_hook *h = &e->hooks[i];
        json_t *list = json_object_get(all, h->name), *o = json_object();

        if (!list) {
            list = json_array();
            json_object_set_new(all, h->name, list);
        }
        json_object_set_new(o, "path", spec_json_text(h->path));
        if (h->args[0])
            json_object_set_new(o, "args", spec_json_texts(h->args));
        if (h->env[0])
            json_object_set_new(o, "env", spec_json_texts(h->env));
        if (h->timeout_ms)
            json_object_set_new(o, "timeout", json_integer(h->timeout_ms / 1000));
        json_array_append_new(list, o);
    }
    return all;
}

json_t *spec_netdevs_json(const struct cdi_edits *e)
{
    json_t *all = json_object();

    for (size_t i = 0; i < e->n_netdevs; i++) {
        json_t *o = json_object();

        json_object_set_new(o, "name", spec_json_text(e->netdevs[i].name));
        json_object_set_new(all, e->netdevs[i].host, o);
    }
    return all;
}

void spec_build_netdevs(struct pool *p, const struct cdi_edits *e, struct plan *plan)
{
    struct plan_pair *v;

    if (!e || !e->n_netdevs)
        return;
    v = pool_alloc(p, e->n_netdevs * sizeof *v);
    for (size_t i = 0; i < e->n_netdevs; i++)
        v[i] = (struct plan_pair){ e->netdevs[i].host, e->netdevs[i].name };
    plan->netdevs = v;
    plan->n_netdevs = e->n_netdevs;
}

json_t *spec_rdt_json(const struct cdi_rdt *t)
{
    json_t *o = json_object();

    if (t->clos)
        json_object_set_new(o, "closID", spec_json_text(t->clos));
    if (t->l3)
        json_object_set_new(o, "l3CacheSchema", spec_json_text(t->l3));
    if (t->mb)
        json_object_set_new(o, "memBwSchema", spec_json_text(t->mb));
    if (t->schemata && t->schemata[0])
        json_object_set_new(o, "schemata", spec_json_texts(t->schemata));
    if (t->monitoring)
        json_object_set_new(o, "enableMonitoring", json_true());
    if (t->cmt)
        json_object_set_new(o, "enableCMT", json_true());
    if (t->mbm)
        json_object_set_new(o, "enableMBM", json_true());
    return o;
}

/* l3CacheSchema, then memBwSchema. A line of bandwidth in the first has no say beside the second. */
static char *rdt_schema(struct pool *p, const struct cdi_rdt *t)
{
    auto_str struct str s = STR_INIT;

    for (const char *l = t->l3; l && *l;) {
        size_t n = strcspn(l, "\n");

        if (n && !(t->mb && strncmp(l, "MB:", 3) == 0))
            str_printf(&s, "%.*s\n", (int)n, l);
        l += n + (l[n] == '\n');
    }
    if (t->mb)
        str_printf(&s, "%s\n", t->mb);
    return s.len ? pool_strdup(p, s.p) : NULL;
}

void spec_build_rdt(struct pool *p, const struct cdi_edits *e, struct plan *plan)
{
    const struct cdi_rdt *t = e ? e->rdt : NULL;
    auto_str struct str more = STR_INIT;
    struct plan_rdt *r;

    if (!t)
        return;
    for (char **v = t->schemata; v && *v; v++)
        str_printf(&more, "%s\n", *v);
    r = pool_alloc(p, sizeof *r);
    *r = (struct plan_rdt){
        .group = t->clos, .schema = rdt_schema(p, t),
        .schemata = more.len ? pool_strdup(p, more.p) : NULL,
        .monitor = t->monitoring || t->cmt || t->mbm, .need_cmt = t->cmt, .need_mbm = t->mbm,
    };
    plan->rdt = r;
}

static enum plan_hook_kind kind_of(const char *name)
{
    size_t i = 0;

    while (strcmp(kinds[i], name) != 0)          /* cdi_edits.c has let only these pass */
        i++;
    return (enum plan_hook_kind)i;
}

static char *dump(struct pool *p, json_t *o)
{
    auto_free char *text = json_dumps(o, JSON_COMPACT);

    json_decref(o);
    return text ? pool_strdup(p, text) : NULL;
}

static json_t *annotations(const Runtime__V1__ContainerConfig *c)
{
    json_t *o = json_object();

    for (size_t i = 0; i < c->n_annotations; i++)
        json_object_set_new(o, c->annotations[i]->key, spec_json_text(c->annotations[i]->value));
    return o;
}

static const char *config(struct spec *s, const Runtime__V1__ContainerConfig *c,
                          const char *cgroup_path, const char *netns, const char *bundle)
{
    auto_free char *root = mem_printf("%s/rootfs", bundle);
    json_t *o = spec_json(s, cgroup_path, netns);

    json_object_set_new(json_object_get(o, "root"), "path", spec_json_text(root));
    json_object_set_new(o, "annotations", annotations(c));
    return dump(s->pool, o);
}

static const char *state(struct spec *s, const Runtime__V1__ContainerConfig *c, const char *bundle)
{
    json_t *o = json_pack("{s:s, s:s}", "ociVersion", "1.2.0", "id", s->plan.id);
    char *text;

    json_object_set_new(o, "bundle", spec_json_text(bundle));
    json_object_set_new(o, "annotations", annotations(c));
    text = dump(s->pool, o);
    if (text)
        text[strlen(text) - 1] = '\0';           /* status and pid follow */
    return text;
}

int spec_hooks(struct spec *s, const Runtime__V1__ContainerConfig *c, const char *cgroup_path,
               const char *netns, const char *bundle, struct err *err)
{
    const struct cdi_edits *e = s->cdi;
    struct plan *p = &s->plan;
    struct plan_hook *v;

    if (!e || !e->n_hooks)
        return 0;
    v = pool_alloc(s->pool, e->n_hooks * sizeof *v);
    for (size_t i = 0; i < e->n_hooks; i++) {
        struct cdi_hook *h = &e->hooks[i];
        char **name = pool_alloc(s->pool, 2 * sizeof *name);

        name[0] = h->path;
        v[i] = (struct plan_hook){
            .kind = kind_of(h->name), .path = h->path, .argv = h->args[0] ? h->args : name,
            .envp = h->env,
            .timeout_ms = (uint32_t)(h->timeout_ms ? h->timeout_ms : HOOK_MS),
        };
    }
    p->hooks = v;
    p->n_hooks = e->n_hooks;
    p->bundle = pool_strdup(s->pool, bundle);
    p->config = config(s, c, cgroup_path, netns, bundle);
    p->state = state(s, c, bundle);
    if (!p->config || !p->state)
        return err_set(err, -EINVAL, "config.json for the hooks of container %s", p->id);
    return 0;
}
