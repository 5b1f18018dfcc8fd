/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/objects.h"

#include "handlers/recover.h"
#include "handlers/stats.h"
#include "mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* --- sorted by id */

static const char *id_at(const struct idmap *m, size_t i)
{
    return m->v[i];
}

static size_t idmap_lower(const struct idmap *m, const char *id)
{
    size_t lo = 0, hi = m->n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (strcmp(id_at(m, mid), id) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void idmap_add(struct idmap *m, void *obj)
{
    size_t i = idmap_lower(m, obj);

    if (m->n == m->cap) {
        m->cap = m->cap ? m->cap * 2 : 16;
        m->v = mem_grow(m->v, m->cap, sizeof *m->v);
    }
    memmove(m->v + i + 1, m->v + i, (m->n - i) * sizeof *m->v);
    m->v[i] = obj;
    m->n++;
}

static void idmap_del(struct idmap *m, const void *obj)
{
    size_t i = idmap_lower(m, obj);

    if (i >= m->n || m->v[i] != obj)
        return;
    memmove(m->v + i, m->v + i + 1, (m->n - i - 1) * sizeof *m->v);
    m->n--;
}

static void *idmap_get(const struct idmap *m, const char *id)
{
    size_t i = idmap_lower(m, id);

    return i < m->n && strcmp(id_at(m, i), id) == 0 ? m->v[i] : NULL;
}

/* --- lookup */

struct sandbox *sandbox_by_id(struct handlers *h, const char *id)
{
    return idmap_get(&h->sandboxes, id);
}

struct ctr *ctr_by_id(struct handlers *h, const char *id)
{
    return idmap_get(&h->ctrs, id);
}

static bool sandbox_visible(const void *o)
{
    return ((const struct sandbox *)o)->visible;
}

static bool ctr_visible(const void *o)
{
    return ((const struct ctr *)o)->visible;
}

static void *find(const struct idmap *m, const char *kind, const char *id,
                  bool (*visible)(const void *), struct err *err)
{
    void *found = NULL;
    size_t n = 0, len = strlen(id);
    char names[200] = "";

    if (!len) {
        err_rpc(err, GRPC_INVALID_ARGUMENT, "%s id is empty", kind);
        return NULL;
    }
    for (size_t i = idmap_lower(m, id); i < m->n && strncmp(id_at(m, i), id, len) == 0; i++) {
        if (!visible(m->v[i]))
            continue;
        found = m->v[i];
        if (n++ < 3)
            snprintf(names + strlen(names), sizeof names - strlen(names), " %.24s...",
                     id_at(m, i));
        if (id_at(m, i)[len] == '\0')    /* the whole id */
            break;
    }
    if (n > 1) {
        err_rpc(err, GRPC_INVALID_ARGUMENT, "%s id '%.64s' is ambiguous:%s%s", kind, id, names,
                n > 3 ? " and more" : "");
        return NULL;
    }
    if (!n)
        err_rpc(err, GRPC_NOT_FOUND, "%s '%.100s': not found", kind, id);
    return found;
}

struct sandbox *sandbox_find(struct handlers *h, const char *id, struct err *err)
{
    return find(&h->sandboxes, "sandbox", id, sandbox_visible, err);
}

struct ctr *ctr_find(struct handlers *h, const char *id, struct err *err)
{
    return find(&h->ctrs, "container", id, ctr_visible, err);
}

bool id_matches(const char *id, const char *prefix)
{
    return strncmp(id, prefix, strlen(prefix)) == 0;
}

void new_id(char id[ID_LEN + 1])
{
    unsigned char b[ID_LEN / 2];

    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b)
        abort();    /* cannot happen for 32 bytes once the pool is up; waits until it is */
    for (size_t i = 0; i < sizeof b; i++)
        snprintf(id + 2 * i, 3, "%02x", b[i]);
}

/* --- life */

struct sandbox *sandbox_new(struct handlers *h, const char *id)
{
    struct sandbox *s = mem_new(struct sandbox);

    snprintf(s->id, sizeof s->id, "%s", id);
    s->h = h;
    s->dir = mem_printf("%s/pods/%s", h->conf->state, id);
    list_init(&s->ctrs);
    list_init(&s->turns);
    list_init(&s->forwards);
    idmap_add(&h->sandboxes, s);
    return s;
}

void sandbox_free(struct sandbox *s)
{
    struct ctr *c;

    list_each(c, &s->ctrs, struct ctr, in_sandbox)
        ctr_free(c);
    idmap_del(&s->h->sandboxes, s);
    s->meeting = meeting_free(s->meeting);
    if (s->link)
        link_free(s->link);
    if (s->rec)
        cricket__state__sandbox__free_unpacked(s->rec, NULL);
    if (s->config)
        runtime__v1__pod_sandbox_config__free_unpacked(s->config, NULL);
    free(s->dir);
    ctr_stats_free(s->stats);
    str_free(&s->listed);
    free(s);
}

struct ctr *ctr_new(struct sandbox *s, const char *id)
{
    struct ctr *c = mem_new(struct ctr);

    snprintf(c->id, sizeof c->id, "%s", id);
    c->h = s->h;
    c->sandbox = s;
    c->pidfd = -1;
    list_init(&c->turns);
    list_init(&c->exit_waits);
    list_init(&c->execs);
    list_add_tail(&s->ctrs, &c->in_sandbox);
    idmap_add(&s->h->ctrs, c);
    return c;
}

void ctr_free(struct ctr *c)
{
    idmap_del(&c->h->ctrs, c);
    list_del(&c->in_sandbox);
    fd_close(c->pidfd);
    if (c->rec)
        cricket__state__container__free_unpacked(c->rec, NULL);
    if (c->config)
        runtime__v1__container_config__free_unpacked(c->config, NULL);
    if (c->resources)
        runtime__v1__linux_container_resources__free_unpacked(c->resources, NULL);
    ctr_stats_free(c->stats);
    str_free(&c->listed);
    free(c);
}

/* --- records */

void pb_set(char **field, const char *value)
{
    if (*field != protobuf_c_empty_string)
        free(*field);
    *field = mem_strdup(value ? value : "");
}

void pb_set_bytes(ProtobufCBinaryData *field, const void *p, size_t n)
{
    free(field->data);
    field->data = n ? mem_dup(p, n) : NULL;
    field->len = n;
}

/* Lends the packed form of m to a bytes field. */
static void lend(ProtobufCBinaryData *field, const ProtobufCMessage *m)
{
    field->data = NULL;
    field->len = 0;
    if (!m)
        return;
    field->data = mem_alloc(protobuf_c_message_get_packed_size(m));
    field->len = protobuf_c_message_pack(m, field->data);
}

static void unlend(ProtobufCBinaryData *field)
{
    free(field->data);
    field->data = NULL;
    field->len = 0;
}

static void save(struct store *st, enum store_table t, const char *id, const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    auto_free uint8_t *buf = mem_alloc(n);

    protobuf_c_message_pack(m, buf);
    store_put(st, t, id, buf, n);
}

void sandbox_save(struct sandbox *s)
{
    lend(&s->rec->config, &s->config->base);
    save(s->h->store, STORE_SANDBOX, s->id, &s->rec->base);
    unlend(&s->rec->config);
    str_reset(&s->listed);
}

void ctr_save(struct ctr *c)
{
    lend(&c->rec->config, &c->config->base);
    lend(&c->rec->resources, &c->resources->base);
    save(c->h->store, STORE_CONTAINER, c->id, &c->rec->base);
    unlend(&c->rec->config);
    unlend(&c->rec->resources);
    str_reset(&c->listed);
}

void sandbox_forget(struct sandbox *s)
{
    store_del(s->h->store, STORE_SANDBOX, s->id);
    sandbox_free(s);
}

bool ctr_seccomp_used(void *handlers, const char *key)
{
    struct handlers *h = handlers;
    struct ctr *c;

    ctr_each(h, i, c)
        if (strcmp(c->rec->seccomp_key, key) == 0)
            return true;
    return false;
}

void ctr_forget(struct ctr *c)
{
    struct handlers *h = c->h;
    auto_free char *key = mem_strdup(c->rec->seccomp_key);

    store_del(h->store, STORE_CONTAINER, c->id);
    ctr_free(c);
    if (key[0] && !ctr_seccomp_used(h, key))
        seccomp_drop(h->seccomp, key);
}

static int check_schema(const char *kind, uint32_t schema, struct err *err)
{
    if (schema > SCHEMA)
        return err_set(err, -EPROTO, "%s record has schema %u, this program knows %u", kind, schema,
                       SCHEMA);
    return 0;
}

struct sandbox *sandbox_load(struct handlers *h, const void *rec, size_t len, struct err *err)
{
    Cricket__State__Sandbox *r = cricket__state__sandbox__unpack(NULL, len, rec);
    Runtime__V1__PodSandboxConfig *config = NULL;
    struct sandbox *s;

    if (r && check_schema("sandbox", r->schema, err) < 0)
        goto bad;
    if (r)
        config = runtime__v1__pod_sandbox_config__unpack(NULL, r->config.len, r->config.data);
    if (!r || !config || strlen(r->id) != ID_LEN || !config->metadata) {
        err_set(err, -EBADMSG, "sandbox record of %zu bytes cannot be read", len);
        goto bad;
    }
    s = sandbox_new(h, r->id);
    unlend(&r->config);
    s->rec = r;
    s->config = config;
    s->visible = r->state != CRICKET__STATE__SANDBOX__STATE__MAKING;
    return s;
bad:
    if (r)
        cricket__state__sandbox__free_unpacked(r, NULL);
    if (config)
        runtime__v1__pod_sandbox_config__free_unpacked(config, NULL);
    return NULL;
}

struct ctr *ctr_load(struct handlers *h, const void *rec, size_t len, struct err *err)
{
    Cricket__State__Container *r = cricket__state__container__unpack(NULL, len, rec);
    Runtime__V1__ContainerConfig *config = NULL;
    Runtime__V1__LinuxContainerResources *res = NULL;
    struct sandbox *s = NULL;
    struct ctr *c;

    if (r && check_schema("container", r->schema, err) < 0)
        goto bad;
    if (r) {
        config = runtime__v1__container_config__unpack(NULL, r->config.len, r->config.data);
        res = runtime__v1__linux_container_resources__unpack(NULL, r->resources.len,
                                                             r->resources.data);
        s = sandbox_by_id(h, r->sandbox_id);
    }
    if (!r || !config || !res || !s || strlen(r->id) != ID_LEN || !config->metadata) {
        err_set(err, -EBADMSG, "container record of %zu bytes cannot be read or has no sandbox",
                len);
        goto bad;
    }
    c = ctr_new(s, r->id);
    unlend(&r->config);
    unlend(&r->resources);
    c->rec = r;
    c->config = config;
    c->resources = res;
    c->visible = r->state != CRICKET__STATE__CONTAINER__STATE__MAKING;
    return c;
bad:
    if (r)
        cricket__state__container__free_unpacked(r, NULL);
    if (config)
        runtime__v1__container_config__free_unpacked(config, NULL);
    if (res)
        runtime__v1__linux_container_resources__free_unpacked(res, NULL);
    return NULL;
}
