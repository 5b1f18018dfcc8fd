/* SPDX-License-Identifier: Apache-2.0 */
/* PullImage (CRI.md 5, 13): the same reference with the same credentials while one runs is one pull
 * with more waiters. The reply leaves when records are on disk. When the last waiter is gone the
 * pull is dropped, its transfers with it unless another pull shares them; once it is being recorded
 * it is not stopped any more.
 *
 * The result is always recorded in memory first, in the callback of the pull (pull.h asks for
 * that), then committed. */
#include "handlers/rpcs.h"

#include "handlers/image_puller.h"
#include "handlers/turn.h"
#include "log.h"
#include "mem.h"
#include "pull/digest.h"

#include <errno.h>
#include <string.h>

struct image_pull {
    struct list link;                /* in h->pulls */
    struct handlers *h;
    struct waiters waiters;
    struct pull *pull;               /* NULL when it has ended and the commit runs */
    char *key;                       /* what makes two requests the same */
    char *ref, *runtime_handler;
    char *image_id;
    int64_t started_ms;
};

static void image_pull_free(struct image_pull *p)
{
    list_del(&p->link);
    free(p->key);
    free(p->ref);
    free(p->runtime_handler);
    free(p->image_id);
    free(p);
}

static void fail(struct image_pull *p, const struct err *err)
{
    log_error("op=pull image='%s' took_ms=%lld err='%s'", p->ref,
              (long long)(clock_mono_ms() - p->started_ms), err->text);
    waiters_fail(&p->waiters, err);
    image_pull_free(p);
}

static void on_none(void *arg, enum rpc_gone why)
{
    struct image_pull *p = arg;

    if (!p->pull)
        return;                      /* being recorded: it ends as an image */
    log_info("op=pull image='%s' took_ms=%lld err='%s'", p->ref,
             (long long)(clock_mono_ms() - p->started_ms),
             why == RPC_DEADLINE ? "deadline exceeded" : "cancelled by the client");
    pull_cancel(p->pull);
    image_pull_free(p);
}

static void on_committed(void *arg, const struct err *err)
{
    struct image_pull *p = arg;
    struct handlers *h = p->h;
    Runtime__V1__PullImageResponse reply = RUNTIME__V1__PULL_IMAGE_RESPONSE__INIT;
    struct image *i = images_by_id(h->images, p->image_id);

    if (err) {
        struct err e = *err;
        uint64_t *dead = NULL;
        size_t n = 0;

        images_forget(h->images, p->image_id, &dead, &n);
        if (n && h->puller)
            pull_remove_layers(h->puller, dead, n);
        free(dead);
        err_note(&e, "%s: recording the image", p->ref);
        fail(p, &e);
        return;
    }
    if (i)
        i->durable = true;
    log_info("op=pull image='%s' id=%s took_ms=%lld", p->ref, p->image_id,
             (long long)(clock_mono_ms() - p->started_ms));
    reply.image_ref = p->image_id;
    waiters_ok(&p->waiters, &reply.base);
    image_pull_free(p);
}

static int record(struct image_pull *p, const struct pull_result *r, struct store_batch *b,
                  struct err *err)
{
    struct handlers *h = p->h;
    Cricket__State__Image *rec = image_record(r, p->runtime_handler, err);

    if (!rec)
        return err->code;
    for (size_t i = 0; i < r->n_layers; i++) {
        Cricket__State__Layer *l = layer_record(&r->layers[i]);
        int q = images_layer_add(h->images, l, b);

        cricket__state__layer__free_unpacked(l, NULL);
        if (q < 0 && !images_layer(h->images, r->layers[i].chain_id)) {
            cricket__state__image__free_unpacked(rec, NULL);
            return err_code(err, q, "%s: layer %s in directory %llu", p->ref, r->layers[i].digest,
                            (unsigned long long)r->layers[i].number);
        }
    }
    images_add(h->images, rec, r->tag, r->repo_digest, b);
    return 0;
}

static void on_pulled(void *arg, const struct pull_result *r, const struct err *err)
{
    struct image_pull *p = arg;
    struct store_batch *b;
    struct err e = ERR_INIT;

    p->pull = NULL;
    if (err) {
        fail(p, err);
        return;
    }
    b = store_batch_new(p->h->store);
    if (record(p, r, b, &e) < 0) {
        store_batch_free(b);
        fail(p, &e);
        return;
    }
    p->image_id = mem_strdup(r->image_id);
    store_batch_commit(b, on_committed, p);
}

/* Secrets make a request another one, but are not kept for that. */
static char *make_key(const char *normal, const char *runtime_handler,
                      const Runtime__V1__AuthConfig *a)
{
    char hash[DIGEST_MAX] = "";

    if (a) {
        size_t n = runtime__v1__auth_config__get_packed_size(a);
        auto_free uint8_t *buf = mem_alloc(n);

        runtime__v1__auth_config__pack(a, buf);
        digest_of(buf, n, hash);
        explicit_bzero(buf, n);
    }
    return mem_printf("%s %s %s", normal, runtime_handler, hash);
}

static struct image_pull *find(struct handlers *h, const char *key)
{
    struct image_pull *p;

    list_each(p, &h->pulls, struct image_pull, link)
        if (strcmp(p->key, key) == 0)
            return p;
    return NULL;
}

void handle_pull_image(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__PullImageRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct ref *ref = NULL;
    struct err err = ERR_INIT;
    struct image_pull *p;
    struct pull_auth auth = { 0 };
    auto_free char *key = NULL;

    if (!q->image || !q->image->image[0]) {
        rpc_fail(rpc, GRPC_INVALID_ARGUMENT, "PullImage: no image named");
        return;
    }
    if (handler_check(h, q->image->runtime_handler, &err) < 0 ||
        ref_parse(q->image->image, &ref, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    key = make_key(ref->normal, q->image->runtime_handler, q->auth);
    p = find(h, key);
    if (p) {
        ref_free(ref);
        waiters_add(&p->waiters, rpc);
        return;
    }
    if (q->auth)
        auth = (struct pull_auth){ q->auth->username,       q->auth->password,
                                   q->auth->auth,           q->auth->server_address,
                                   q->auth->identity_token, q->auth->registry_token };
    p = mem_new(struct image_pull);
    p->h = h;
    p->key = take_ptr(key);
    p->ref = mem_strdup(ref->normal);
    p->runtime_handler = mem_strdup(q->image->runtime_handler);
    p->started_ms = clock_mono_ms();
    list_add_tail(&h->pulls, &p->link);
    waiters_init(&p->waiters, on_none, p);
    if (pull_start(h->puller, ref->normal, &auth, on_pulled, p, &p->pull, &err) < 0) {
        rpc_fail_err(rpc, &err);
        image_pull_free(p);
    } else {
        waiters_add(&p->waiters, rpc);
    }
    ref_free(ref);
}

void image_pulls_end(struct handlers *h)
{
    struct err err = ERR_INIT;
    struct image_pull *p;

    err_rpc(&err, GRPC_UNAVAILABLE, "cricketd is ending");
    list_each(p, &h->pulls, struct image_pull, link) {
        waiters_fail(&p->waiters, &err);
        if (!p->pull)
            continue;                /* the store still answers for it when it closes */
        pull_cancel(p->pull);
        image_pull_free(p);
    }
}
