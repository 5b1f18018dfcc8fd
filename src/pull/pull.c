/* SPDX-License-Identifier: Apache-2.0 */
/* One pull, top to bottom: what the reference means now (an index leads to the manifest of our
 * platform), the config, then layers, several at once. A layer is complete when all below it are
 * (its implied directories are made to look like theirs), so layers finish in order however they
 * arrive. */
#include "pull/pull.h"

#include "list.h"
#include "log.h"
#include "mem.h"
#include "pull/digest.h"
#include "pull/layer.h"
#include "pull/manifest.h"
#include "pull/puller.h"
#include "pull/ref.h"
#include "pull/registry.h"
#include "reactor/op.h"
#include "str.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
    PULL_MAGIC = 0x70756c6c,
    /* a manifest or config that stalls is asked for again so often */
    STALLS = 5,
};

struct slot {
    struct pull *pull;
    struct layer_use *use;           /* NULL: not started, or had */
    struct pull_layer out;
    bool held;                       /* have_layer() said yes: drop_layer() when the pull ends */
    bool complete;
};

struct pull {
    struct op op;
    unsigned magic;
    struct puller *puller;
    struct list link;
    struct ref *ref;
    struct repo *repo;
    struct platform platform;
    pull_done_fn done;
    void *arg;
    bool cancelled;                  /* by the caller: done is not called */
    struct reg_fetch *fetch;
    char *top_digest;                /* of what the reference resolved to */
    struct manifest *manifest;
    size_t manifest_len;
    unsigned depth;
    char *config;
    size_t config_len;
    char config_digest[DIGEST_MAX];
    struct slot *slots;
    size_t n_slots, started;
};

static struct pull *pull_of(struct op *op)
{
    struct pull *pl = container_of(op, struct pull, op);

    assert(pl->magic == PULL_MAGIC);
    return pl;
}

/* --- manifest */

static int fetch_manifest(struct pull *pl, const char *what, const char *digest, struct err *err);

static void on_manifest(void *arg, const char *doc, size_t len, const char *type, const char *got,
                        const struct err *err)
{
    struct pull *pl = arg;
    struct err e = ERR_INIT;
    struct manifest *m = NULL;
    auto_free char *next = NULL;

    pl->fetch = NULL;
    if (err) {
        op_fail(&pl->op, err);
        return;
    }
    if (!pl->top_digest)
        pl->top_digest = mem_strdup(got);
    if (manifest_parse(doc, len, type, &pl->platform, &m, &e) < 0) {
        err_note(&e, "%s@%s", pl->ref->name, got);
        op_fail(&pl->op, &e);
        return;
    }
    if (m->kind == MANIFEST_IMAGE) {
        pl->manifest = m;
        pl->manifest_len = len;
        op_wake(&pl->op, WAKE_DONE);
        return;
    }
    next = mem_strdup(m->chosen.digest);
    manifest_free(m);
    if (++pl->depth > MANIFEST_DEPTH_MAX)
        err_set(&e, -ELOOP, "%s: more than %d indexes in each other", pl->ref->normal,
                MANIFEST_DEPTH_MAX);
    else if (fetch_manifest(pl, next, next, &e) == 0)
        return;
    op_fail(&pl->op, &e);
}

static int fetch_manifest(struct pull *pl, const char *what, const char *digest, struct err *err)
{
    return reg_fetch_start(pl->puller->reg, pl->puller->loop, pl->repo, REG_MANIFEST, what, digest,
                           MANIFEST_MAX, pl->puller->stall_ms / STALLS, on_manifest, pl, &pl->fetch,
                           err);
}

static int step_resolve(struct op *op, enum wake why)
{
    struct pull *pl = pull_of(op);
    const char *what = pl->ref->digest ? pl->ref->digest : pl->ref->tag;
    int r = fetch_manifest(pl, what, pl->ref->digest, &op->err);

    (void)why;
    return r < 0 ? r : op_wait(op, 0);
}

/* --- config */

static void on_config(void *arg, const char *doc, size_t len, const char *type, const char *got,
                      const struct err *err)
{
    struct pull *pl = arg;

    (void)type;
    pl->fetch = NULL;
    if (err) {
        op_fail(&pl->op, err);
        return;
    }
    pl->config = mem_dup(doc, len);
    pl->config_len = len;
    memcpy(pl->config_digest, got, strlen(got) + 1);
    op_wake(&pl->op, WAKE_DONE);
}

static int step_config(struct op *op, enum wake why)
{
    struct pull *pl = pull_of(op);
    const char *digest = pl->manifest->config.digest;
    int r = reg_fetch_start(pl->puller->reg, pl->puller->loop, pl->repo, REG_BLOB, digest, digest,
                            CONFIG_MAX, pl->puller->stall_ms / STALLS, on_config, pl, &pl->fetch,
                            &op->err);

    (void)why;
    return r < 0 ? r : op_wait(op, 0);
}

/* --- layers */

/* The chain ID of a layer names it together with all below it. */
static char *next_chain(const char *below, const char *diff_id)
{
    auto_free char *s = NULL;
    char digest[DIGEST_MAX];

    if (!below)
        return mem_strdup(diff_id);
    s = mem_printf("%s %s", below, diff_id);
    digest_of(s, strlen(s), digest);
    return mem_strdup(digest);
}

static int make_slots(struct pull *pl, struct err *err)
{
    struct image_config *c = NULL;
    size_t n = pl->manifest->n_layers;
    int r = image_config_parse(pl->config, pl->config_len, &pl->platform, &c, err);

    if (r < 0)
        return err_note(err, "%s", pl->ref->normal);
    if (c->n != n) {
        r = err_set(err, -EBADMSG,
                    "%s: %zu layers in the manifest, %zu in the config: no container image",
                    pl->ref->normal, n, c->n);
        image_config_free(c);
        return r;
    }
    pl->slots = mem_array(n, sizeof *pl->slots);
    pl->n_slots = n;
    for (size_t i = 0; i < n; i++) {
        struct slot *s = &pl->slots[i];

        s->pull = pl;
        s->out.digest = mem_strdup(pl->manifest->layers[i].digest);
        s->out.blob_size = pl->manifest->layers[i].size;
        s->out.diff_id = mem_strdup(c->diff_ids[i]);
        s->out.chain_id = next_chain(i ? pl->slots[i - 1].out.chain_id : NULL, c->diff_ids[i]);
    }
    image_config_free(c);
    return 0;
}

static void on_layer(void *arg, const struct layer_info *i);

static void start_slot(struct pull *pl, size_t i)
{
    struct puller *p = pl->puller;
    struct slot *s = &pl->slots[i];
    struct layer_want w = {
        .repo = pl->repo,
        .digest = s->out.digest,
        .diff_id = s->out.diff_id,
        .chain_id = s->out.chain_id,
        .size = s->out.blob_size,
        .urls = pl->manifest->layers[i].urls,
    };

    if (!layer_is_live(p->layers, s->out.chain_id) &&
        p->have_layer(p->ctx, s->out.chain_id, &s->out.number)) {
        s->out.had = s->held = s->complete = true;
        return;
    }
    s->use = layer_use(p->layers, &w, on_layer, s);
}

/* Names a layer that is ready, if all below it are complete. */
static void finish_slot(struct pull *pl, size_t i)
{
    uint64_t *lowers = mem_array(i, sizeof *lowers);
    bool all = true;

    for (size_t k = 0; k < i && all; k++) {
        all = pl->slots[k].complete;
        lowers[i - 1 - k] = pl->slots[k].out.number;
    }
    if (all)
        layer_finish(pl->slots[i].use, lowers, i);
    free(lowers);
}

/* Looks at all layers and does what can be done. True: all are complete. */
static bool advance(struct pull *pl)
{
    unsigned active = 0;
    bool all = true;

    for (size_t i = 0; i < pl->n_slots; i++) {
        struct slot *s = &pl->slots[i];

        if (i >= pl->started) {
            if (active >= pl->puller->max_layers)
                return false;
            pl->started = i + 1;
            start_slot(pl, i);
        }
        if (s->use && !s->complete) {
            struct layer_info info = layer_info(s->use);

            s->out.number = info.number;
            if (info.state == LAYER_QUEUED || info.state == LAYER_RUNNING)
                active++;
            else if (info.state == LAYER_READY)
                finish_slot(pl, i);
            else if (info.state == LAYER_DONE) {
                s->out.size = info.bytes;
                s->out.inodes = info.inodes;
                s->complete = true;
            }
        }
        all &= s->complete;
    }
    return all;
}

static void on_layer(void *arg, const struct layer_info *i)
{
    struct slot *s = arg;
    struct pull *pl = s->pull;

    if (i->state == LAYER_FAILED)
        op_fail(&pl->op, i->err);
    else if (advance(pl))
        op_wake(&pl->op, WAKE_DONE);
}

static int step_layers(struct op *op, enum wake why)
{
    struct pull *pl = pull_of(op);
    int r = make_slots(pl, &op->err);

    (void)why;
    if (r < 0)
        return r;
    return advance(pl) ? 0 : op_wait(op, 0);
}

/* --- the end */

static void drop_waits(struct pull *pl)
{
    reg_fetch_cancel(pl->fetch);
    pl->fetch = NULL;
}

static void on_cancel(struct op *op)
{
    drop_waits(pull_of(op));
    op_wake(op, WAKE_CANCEL);
}

static void pull_free(struct pull *pl)
{
    struct puller *p = pl->puller;

    drop_waits(pl);
    for (size_t i = 0; i < pl->n_slots; i++) {
        struct slot *s = &pl->slots[i];

        layer_drop(s->use);
        if (s->held)
            p->drop_layer(p->ctx, s->out.number);
        free(s->out.digest);
        free(s->out.diff_id);
        free(s->out.chain_id);
    }
    free(pl->slots);
    manifest_free(pl->manifest);
    free(pl->config);
    free(pl->top_digest);
    repo_unref(pl->repo);
    ref_free(pl->ref);
    pl->magic = 0;
    free(pl);
}

static void succeed(struct pull *pl)
{
    auto_free char *repo_digest = mem_printf("%s@%s", pl->ref->name, pl->top_digest);
    struct pull_layer *layers = mem_array(pl->n_slots, sizeof *layers);
    struct pull_result r = {
        .ref = pl->ref->normal,
        .tag = pl->ref->tag ? pl->ref->normal : NULL,
        .repo_digest = repo_digest,
        .image_id = pl->config_digest,
        .config = pl->config,
        .config_len = pl->config_len,
        .size = pl->manifest_len + pl->config_len,
        .layers = layers,
        .n_layers = pl->n_slots,
        .annotations = pl->manifest->annotations,
    };

    for (size_t i = 0; i < pl->n_slots; i++) {
        layers[i] = pl->slots[i].out;
        r.size += layers[i].blob_size;
    }
    pl->done(pl->arg, &r, NULL);
    free(layers);
}

static void on_end(struct op *op)
{
    struct pull *pl = pull_of(op);

    list_del(&pl->link);
    if (!pl->cancelled) {
        if (op->err.code) {
            err_clean(&op->err);
            pl->done(pl->arg, NULL, &op->err);
        } else {
            succeed(pl);
        }
    }
    pull_free(pl);
}

static const struct op_step pull_steps[] = {
    { "resolve", step_resolve },     /* reference -> manifest of this platform */
    { "config", step_config },
    { "layers", step_layers },       /* all on the disk, in order */
    { 0 },
};

static const struct op_class pull_class = {
    .name = "pull",
    .steps = pull_steps,
    .cancel = on_cancel,
    .done = on_end,
    .told = true,                    /* by image_pull.c, with the whole reference */
};

int pull_start(struct puller *p, const char *ref, const struct pull_auth *auth, pull_done_fn done,
               void *arg, struct pull **ret, struct err *err)
{
    struct pull *pl = mem_new(struct pull);
    int r;

    pl->magic = PULL_MAGIC;
    pl->puller = p;
    pl->done = done;
    pl->arg = arg;
    pl->platform = platform_host();
    list_init(&pl->link);
    r = ref_parse(ref, &pl->ref, err);
    if (r == 0)
        r = repo_new(p->reg, pl->ref, auth, &pl->repo, err);
    if (r < 0) {
        pull_free(pl);
        return r;
    }
    list_add_tail(&p->pulls, &pl->link);
    *ret = pl;
    op_start(&pl->op, &pull_class, p->loop, pl->ref->normal);
    return 0;
}

void pull_cancel(struct pull *pl)
{
    if (!pl || pl->cancelled)
        return;
    pl->cancelled = true;
    op_cancel(&pl->op, GRPC_CANCELLED);
}

void pull_drop_first(struct puller *p)
{
    struct pull *pl = list_first(&p->pulls, struct pull, link);

    op_drop(&pl->op);
    list_del(&pl->link);
    pull_free(pl);
}
