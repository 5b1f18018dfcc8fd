/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/image_puller.h"

#include "handlers/rpcs.h"
#include "mem.h"
#include "pull/hosts.h"
#include "reactor/pool.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

/* --- the configuration's registries, in the puller's words */

static void hosts_make(struct handlers *h)
{
    const struct conf *c = h->conf;
    struct hosts *hosts = mem_new(struct hosts);
    struct hosts_mirror *mirrors;
    struct hosts_config *configs;
    size_t n = 0, k = 0;

    for (const struct conf_mirror *m = c->mirrors; m; m = m->next)
        n++;
    for (const struct conf_registry *r = c->registries; r; r = r->next)
        k++;
    mirrors = mem_array(n, sizeof *mirrors);
    configs = mem_array(k, sizeof *configs);
    hosts->mirrors = mirrors;
    hosts->configs = configs;
    for (const struct conf_mirror *m = c->mirrors; m; m = m->next)
        mirrors[hosts->n_mirrors++] = (struct hosts_mirror){ m->host, m->endpoints, m->rewrite };
    for (const struct conf_registry *r = c->registries; r; r = r->next)
        configs[hosts->n_configs++] = (struct hosts_config){
            .host = r->host,
            .username = r->username,
            .password = r->password,
            .auth = r->auth,
            .identity_token = r->identity_token,
            .ca_file = r->ca_file,
            .cert_file = r->cert_file,
            .key_file = r->key_file,
            .insecure_skip_verify = r->insecure_skip_verify,
        };
    h->hosts = hosts;
}

/* --- what the puller asks */

static bool have_layer(void *ctx, const char *chain_id, uint64_t *ret)
{
    struct handlers *h = ctx;
    const struct layer *l = images_layer(h->images, chain_id);

    if (!l)
        return false;
    *ret = l->number;
    images_layers_hold(h->images, ret, 1);
    return true;
}

static void drop_layer(void *ctx, uint64_t number)
{
    struct handlers *h = ctx;
    struct store_batch *b = store_batch_new(h->store);
    uint64_t *dead = NULL;
    size_t n = 0;

    images_layers_drop(h->images, &number, 1, b, &dead, &n);
    if (n)
        commit_and_delete(h, b, dead, n);
    else
        store_batch_free(b);
}

static uint64_t new_number(void *ctx)
{
    return images_layer_number(((struct handlers *)ctx)->images);
}

int image_puller_new(struct handlers *h, struct err *err)
{
    struct puller_opts o = {
        .root = h->conf->root,
        .worker = h->worker_path,
        .stall_ms = h->conf->pull_stall_ms,
        .max_transfers = h->conf->pull_max_transfers,
        .max_layers = h->conf->pull_max_layers,
        .have_layer = have_layer,
        .drop_layer = drop_layer,
        .new_number = new_number,
        .ctx = h,
    };
    int r;

    hosts_make(h);
    o.hosts = h->hosts;
    r = puller_new(h->loop, &o, &h->puller, err);
    return r < 0 ? err_note(err, "image layers") : 0;
}

void image_puller_free(struct handlers *h)
{
    if (h->puller)
        image_pulls_end(h);
    h->puller = puller_free(h->puller);
    if (h->hosts) {
        free((void *)(uintptr_t)h->hosts->mirrors);
        free((void *)(uintptr_t)h->hosts->configs);
    }
    free(h->hosts);
    h->hosts = NULL;
}

/* --- records: put together in a pool, then copied as a whole, so that free_unpacked() suits them
 */

static char *member(struct pool *p, const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return pool_strdup(p, s ? s : "");
}

static char **members(struct pool *p, const json_t *o, const char *key, size_t *ret_n)
{
    const json_t *a = json_object_get(o, key);
    size_t n = json_is_array(a) ? json_array_size(a) : 0;
    char **v = pool_alloc(p, (n + 1) * sizeof *v);

    *ret_n = 0;
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(a, i));

        if (s)
            v[(*ret_n)++] = pool_strdup(p, s);
    }
    return v;
}

static void fill_config(struct pool *p, const json_t *o, Cricket__State__ImageConfig *c)
{
    json_t *volumes = json_object_get(o, "Volumes"), *v;
    const char *key;

    c->user = member(p, o, "User");
    c->working_dir = member(p, o, "WorkingDir");
    c->stop_signal = member(p, o, "StopSignal");
    c->env = members(p, o, "Env", &c->n_env);
    c->entrypoint = members(p, o, "Entrypoint", &c->n_entrypoint);
    c->cmd = members(p, o, "Cmd", &c->n_cmd);
    if (!json_is_object(volumes))
        return;
    c->volumes = pool_alloc(p, (json_object_size(volumes) + 1) * sizeof *c->volumes);
    json_object_foreach(volumes, key, v)
        c->volumes[c->n_volumes++] = pool_strdup(p, key);
}

static void fill_annotations(struct pool *p, char *const *kv, Cricket__State__Image *rec)
{
    size_t n = 0;

    while (kv && kv[n])
        n += 2;
    rec->annotations = pool_alloc(p, (n / 2 + 1) * sizeof *rec->annotations);
    for (size_t i = 0; i < n; i += 2) {
        Cricket__State__Image__AnnotationsEntry *e = pool_alloc(p, sizeof *e);

        cricket__state__image__annotations_entry__init(e);
        e->key = kv[i];
        e->value = kv[i + 1];
        rec->annotations[rec->n_annotations++] = e;
    }
}

Cricket__State__Image *image_record(const struct pull_result *r, const char *runtime_handler,
                                    struct err *err)
{
    Cricket__State__Image rec = CRICKET__STATE__IMAGE__INIT;
    Cricket__State__ImageConfig config = CRICKET__STATE__IMAGE_CONFIG__INIT;
    auto_pool struct pool pool = POOL_INIT;
    json_t *doc = json_loadb(r->config, r->config_len, 0, NULL);
    Cricket__State__Image *copy;

    if (!json_is_object(doc)) {
        json_decref(doc);
        err_set(err, -EBADMSG, "%s: image config is no JSON object", r->ref);
        return NULL;
    }
    fill_config(&pool, json_object_get(doc, "config"), &config);
    json_decref(doc);
    rec.schema = SCHEMA;
    rec.id = pool_strdup(&pool, r->image_id);
    rec.size = r->size;
    rec.config = &config;
    rec.config_json.data = (uint8_t *)(uintptr_t)r->config;
    rec.config_json.len = r->config_len;
    rec.chain_ids = pool_alloc(&pool, (r->n_layers + 1) * sizeof *rec.chain_ids);
    for (size_t i = 0; i < r->n_layers; i++)
        rec.chain_ids[rec.n_chain_ids++] = r->layers[i].chain_id;
    if (r->n_layers)
        rec.chain_id = r->layers[r->n_layers - 1].chain_id;
    fill_annotations(&pool, r->annotations, &rec);
    rec.pulled_at = clock_wall_ns();
    rec.runtime_handler = pool_strdup(&pool, runtime_handler);
    copy = (Cricket__State__Image *)pb_dup(&rec.base);
    return copy;
}

Cricket__State__Layer *layer_record(const struct pull_layer *l)
{
    Cricket__State__Layer rec = CRICKET__STATE__LAYER__INIT;

    rec.schema = SCHEMA;
    rec.chain_id = l->chain_id;
    rec.diff_id = l->diff_id;
    rec.digest = l->digest;
    rec.number = l->number;
    rec.size = l->size;
    rec.inodes = l->inodes;
    rec.blob_size = l->blob_size;
    return (Cricket__State__Layer *)pb_dup(&rec.base);
}
