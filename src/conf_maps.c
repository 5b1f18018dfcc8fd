/* SPDX-License-Identifier: Apache-2.0 */
/* `registries` (shaped like k3s's registries.yaml, so that such a file can be used as it is) and
 * `runtimes`: maps whose keys are hosts and names, merged entry by entry over the files. */
#include "conf_priv.h"

#include "mem.h"
#include "rewrite.h"
#include "str.h"

#include <string.h>
#include <sys/stat.h>

static struct conf_mirror *mirror_free(struct conf_mirror *m)
{
    if (m) {
        free(m->host);
        conf_list_free(m->endpoints);
        conf_list_free(m->rewrite);
        free(m);
    }
    return NULL;
}

static void secret_free(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    free(s);
}

static struct conf_registry *registry_free(struct conf_registry *g)
{
    if (g) {
        free(g->host);
        free(g->username);
        secret_free(g->password);
        secret_free(g->auth);
        secret_free(g->identity_token);
        free(g->ca_file);
        free(g->cert_file);
        free(g->key_file);
        free(g);
    }
    return NULL;
}

static struct conf_runtime *runtime_free(struct conf_runtime *t)
{
    if (t) {
        free(t->name);
        free(t->path);
        free(t);
    }
    return NULL;
}

/* Puts an entry at the end of its list, in place of one of the same name. */
#define DEFINE_PUT(fn, type, name, destroy) \
    static void fn(struct type **list, struct type *e) \
    { \
        while (*list && strcmp((*list)->name, e->name) != 0) \
            list = &(*list)->next; \
        e->next = *list ? (*list)->next : NULL; \
        destroy(*list); \
        *list = e; \
    }
DEFINE_PUT(mirror_put, conf_mirror, host, mirror_free)
DEFINE_PUT(registry_put, conf_registry, host, registry_free)
DEFINE_PUT(runtime_put, conf_runtime, name, runtime_free)

void conf_maps_merge(struct conf *c, struct conf_mirror *mirrors, struct conf_registry *registries)
{
    while (mirrors) {
        struct conf_mirror *next = mirrors->next;

        mirror_put(&c->mirrors, mirrors);
        mirrors = next;
    }
    while (registries) {
        struct conf_registry *next = registries->next;

        registry_put(&c->registries, registries);
        registries = next;
    }
}

void conf_maps_free(struct conf *c)
{
    for (struct conf_mirror *m = c->mirrors, *next; m; m = next) {
        next = m->next;
        mirror_free(m);
    }
    for (struct conf_registry *g = c->registries, *next; g; g = next) {
        next = g->next;
        registry_free(g);
    }
    for (struct conf_runtime *t = c->runtimes, *next; t; t = next) {
        next = t->next;
        runtime_free(t);
    }
}

/* Calls fn for each member of a map; `null` has none. */
static int each(const struct conf_at *at, int (*fn)(void *ctx, const struct conf_at *at,
                                                    struct err *err),
                void *ctx, struct err *err)
{
    int r = at->node->kind == YNODE_NULL ? 0 : conf_want(at, YNODE_MAP, err);

    for (const struct ynode *n = at->node->first; n && r == 0; n = n->next) {
        auto_free char *key = mem_printf("%s.%.200s", at->key, n->key);
        struct conf_at sub = { at->file, n, key };

        r = fn(ctx, &sub, err);
    }
    return r;
}

/* --- registries */

static int endpoint(const struct conf_at *at, char **ret, struct err *err)
{
    int r = conf_want(at, YNODE_SCALAR, err);

    if (r < 0)
        return r;
    const char *s = at->node->text, *scheme = strstr(s, "://");
    const char *host = scheme ? scheme + 3 : s;
    if (memchr(host, '@', strcspn(host, "/")))
        return conf_fail(at, err,
                         "a user in an endpoint; credentials belong into configs.HOST.auth");
    if (scheme && !str_starts(s, "http://") && !str_starts(s, "https://"))
        return conf_fail(at, err, "'%.200s' is neither http:// nor https://", s);
    if (!host[0] || host[0] == '/' || strpbrk(s, " \t\r\n?#"))
        return conf_fail(at, err, "'%.200s' is not a URL of a registry", s);
    *ret = scheme ? mem_strdup(s) : mem_printf("https://%s", s);
    return 0;
}

static int host_name(const struct conf_at *at, struct err *err)
{
    const char *s = at->node->key;

    if (strcmp(s, "*") != 0 && strpbrk(s, "/@ \t\r\n"))
        return conf_fail(at, err, "'%.80s' is not a host or host:port", s);
    return 0;
}

static int rewrite_rule(void *ctx, const struct conf_at *at, struct err *err)
{
    struct conf_mirror *m = ctx;
    struct err why = ERR_INIT;
    auto_free char *to = NULL;
    size_t n = 0;
    int r = conf_text(at, &to, err);

    if (r < 0)
        return r;
    if (rewrite_check(at->node->key, to, &why) < 0)
        return conf_fail(at, err, "%s", why.text);
    while (m->rewrite && m->rewrite[n])
        n++;
    m->rewrite = mem_grow(m->rewrite, n + 3, sizeof *m->rewrite);
    m->rewrite[n] = mem_strdup(at->node->key);
    m->rewrite[n + 1] = take_ptr(to);
    m->rewrite[n + 2] = NULL;
    return 0;
}

static int mirror_member(void *ctx, const struct conf_at *at, struct err *err)
{
    struct conf_mirror *m = ctx;

    if (strcmp(at->node->key, "endpoint") == 0)
        return conf_list(at, endpoint, &m->endpoints, err);
    if (strcmp(at->node->key, "rewrite") == 0)
        return each(at, rewrite_rule, m, err);
    return conf_fail(at, err, "unknown key");
}

static int mirror(void *ctx, const struct conf_at *at, struct err *err)
{
    struct conf *c = ctx;
    int r = host_name(at, err);

    if (r < 0)
        return r;
    struct conf_mirror *m = mem_new(struct conf_mirror);
    m->host = mem_strdup(at->node->key);
    r = each(at, mirror_member, m, err);
    if (r == 0 && !m->endpoints)
        r = conf_fail(at, err, "has no 'endpoint' list");
    if (r < 0) {
        mirror_free(m);
        return r;
    }
    mirror_put(&c->mirrors, m);
    return 0;
}

static int auth_member(void *ctx, const struct conf_at *at, struct err *err)
{
    struct conf_registry *g = ctx;
    const struct { const char *name; char **to; } members[] = {
        { "username", &g->username },
        { "password", &g->password },
        { "auth", &g->auth },
        { "identity_token", &g->identity_token },
    };

    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        if (strcmp(at->node->key, members[i].name) == 0)
            return conf_text(at, members[i].to, err);
    return conf_fail(at, err, "unknown key");
}

static int tls_member(void *ctx, const struct conf_at *at, struct err *err)
{
    struct conf_registry *g = ctx;
    const struct { const char *name; char **to; } members[] = {
        { "ca_file", &g->ca_file },
        { "cert_file", &g->cert_file },
        { "key_file", &g->key_file },
    };

    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        if (strcmp(at->node->key, members[i].name) == 0)
            return conf_path(at, false, members[i].to, err);
    if (strcmp(at->node->key, "insecure_skip_verify") == 0)
        return conf_bool(at, &g->insecure_skip_verify, err);
    return conf_fail(at, err, "unknown key");
}

static int registry_member(void *ctx, const struct conf_at *at, struct err *err)
{
    if (strcmp(at->node->key, "auth") == 0)
        return each(at, auth_member, ctx, err);
    if (strcmp(at->node->key, "tls") == 0)
        return each(at, tls_member, ctx, err);
    return conf_fail(at, err, "unknown key");
}

static void warn_readable(const char *file)
{
    struct stat st;

    if (stat(file, &st) == 0 && (st.st_mode & S_IROTH))
        log_warn("op=config file='%s' err='it has credentials and everybody may read it', ignoring",
                 file);
}

static int registry(void *ctx, const struct conf_at *at, struct err *err)
{
    struct conf *c = ctx;
    int r = host_name(at, err);

    if (r < 0)
        return r;
    struct conf_registry *g = mem_new(struct conf_registry);
    g->host = mem_strdup(at->node->key);
    r = each(at, registry_member, g, err);
    if (r == 0 && !g->username != !g->password)
        r = conf_fail(at, err, "auth has only one of username and password");
    if (r == 0 && !g->cert_file != !g->key_file)
        r = conf_fail(at, err, "tls has only one of cert_file and key_file");
    if (r < 0) {
        registry_free(g);
        return r;
    }
    if (g->password || g->auth || g->identity_token)
        warn_readable(at->file);
    registry_put(&c->registries, g);
    return 0;
}

static int section(void *ctx, const struct conf_at *at, struct err *err)
{
    if (strcmp(at->node->key, "mirrors") == 0)
        return each(at, mirror, ctx, err);
    if (strcmp(at->node->key, "configs") == 0)
        return each(at, registry, ctx, err);
    return conf_fail(at, err, "unknown key");
}

int conf_registries(struct conf *c, const struct conf_at *at, struct err *err)
{
    return each(at, section, c, err);
}

static void json_put(json_t *o, const char *key, const char *value)
{
    if (value)
        json_object_set_new(o, key, json_string(value));
}

json_t *conf_registries_json(const struct conf *c)
{
    json_t *mirrors = json_object(), *configs = json_object(), *all = json_object();

    for (const struct conf_mirror *m = c->mirrors; m; m = m->next) {
        json_t *list = json_array(), *o = json_object();

        for (char **e = m->endpoints; *e; e++)
            json_array_append_new(list, json_string(*e));
        json_object_set_new(o, "endpoint", list);
        json_t *rewrite = m->rewrite ? json_object() : NULL;
        for (char **w = m->rewrite; w && *w; w += 2)
            json_object_set_new(rewrite, w[0], json_string(w[1]));
        if (rewrite)
            json_object_set_new(o, "rewrite", rewrite);
        json_object_set_new(mirrors, m->host, o);
    }
    for (const struct conf_registry *g = c->registries; g; g = g->next) {
        json_t *tls = json_object(), *o = json_object();

        json_put(tls, "ca_file", g->ca_file);
        json_put(tls, "cert_file", g->cert_file);
        json_put(tls, "key_file", g->key_file);
        json_object_set_new(tls, "insecure_skip_verify", json_boolean(g->insecure_skip_verify));
        json_object_set_new(o, "tls", tls);
        /* that there are credentials, not which */
        json_object_set_new(o, "credentials",
                            json_boolean(g->password || g->auth || g->identity_token));
        json_object_set_new(configs, g->host, o);
    }
    json_object_set_new(all, "mirrors", mirrors);
    json_object_set_new(all, "configs", configs);
    return all;
}

/* --- runtimes */

static int runtime_member(void *ctx, const struct conf_at *at, struct err *err)
{
    struct conf_runtime *t = ctx;

    if (strcmp(at->node->key, "path") == 0)
        return conf_path(at, false, &t->path, err);
    return conf_fail(at, err, "unknown key");
}

static int runtime(void *ctx, const struct conf_at *at, struct err *err)
{
    struct conf *c = ctx;
    const char *s = at->node->key;

    if (strlen(s) > 63 || strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") != strlen(s))
        return conf_fail(at, err,
                         "'%.80s' is not a handler name (lower case letters, digits, '-', '.')", s);
    struct conf_runtime *t = mem_new(struct conf_runtime);
    t->name = mem_strdup(s);
    int r = each(at, runtime_member, t, err);
    if (r == 0 && t->path && strcmp(s, "cricket") == 0)
        r = conf_fail(at, err, "'cricket' is the built-in launcher and takes no path");
    if (r < 0) {
        runtime_free(t);
        return r;
    }
    runtime_put(&c->runtimes, t);
    return 0;
}

int conf_runtimes(struct conf *c, const struct conf_at *at, struct err *err)
{
    return each(at, runtime, c, err);
}

json_t *conf_runtimes_json(const struct conf *c)
{
    json_t *all = json_object();

    for (const struct conf_runtime *t = c->runtimes; t; t = t->next) {
        json_t *o = json_object();

        json_put(o, "path", t->path);
        json_object_set_new(all, t->name, o);
    }
    return all;
}
