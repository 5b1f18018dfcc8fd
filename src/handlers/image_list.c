/* SPDX-License-Identifier: Apache-2.0 */
/* ListImages, StreamImages, ImageStatus, RemoveImage, ImageFsInfo (CRI.md 5). A list is joined from
 * entries that each image keeps encoded until its record changes. */
#include "handlers/rpcs.h"

#include "handlers/info.h"
#include "handlers/layers.h"
#include "handlers/turn.h"
#include "log.h"
#include "mem.h"
#include "reactor/pool.h"

#include <errno.h>
#include <string.h>

enum { STREAM_BATCH = 64 };          /* images in one message of StreamImages */

/* config.User up to the colon: a number, or a name; neither when empty (root). */
static void fill_user(const char *user, Runtime__V1__Image *m, Runtime__V1__Int64Value *uid,
                      struct pool *pool)
{
    size_t n = strcspn(user, ":");
    char *s = pool_alloc(pool, n + 1), *end;
    long long v;

    memcpy(s, user, n);
    if (!n)
        return;
    errno = 0;
    v = strtoll(s, &end, 10);
    if (strspn(s, "0123456789") == n && errno == 0 && *end == '\0') {
        uid->value = v;
        m->uid = uid;
    } else {
        m->username = s;
    }
}

static void image_fill(const struct image *i, Runtime__V1__Image *m, struct pool *pool)
{
    const Cricket__State__Image *rec = i->rec;
    Runtime__V1__ImageSpec *spec = pool_alloc(pool, sizeof *spec);
    Runtime__V1__Int64Value *uid = pool_alloc(pool, sizeof *uid);

    runtime__v1__image__init(m);
    runtime__v1__image_spec__init(spec);
    runtime__v1__int64_value__init(uid);
    m->id = rec->id;
    m->n_repo_tags = rec->n_repo_tags;
    m->repo_tags = rec->repo_tags;
    m->n_repo_digests = rec->n_repo_digests;
    m->repo_digests = rec->repo_digests;
    m->size = rec->size ? rec->size : 1;     /* kubelet rejects an image of size 0 */
    m->pinned = i->pinned;
    if (rec->config)
        fill_user(rec->config->user, m, uid, pool);
    spec->image = rec->id;
    spec->runtime_handler = rec->runtime_handler;
    spec->annotations = pool_alloc(pool, (rec->n_annotations + 1) * sizeof *spec->annotations);
    for (size_t k = 0; k < rec->n_annotations; k++) {
        Runtime__V1__ImageSpec__AnnotationsEntry *e = pool_alloc(pool, sizeof *e);

        runtime__v1__image_spec__annotations_entry__init(e);
        e->key = rec->annotations[k]->key;
        e->value = rec->annotations[k]->value;
        spec->annotations[spec->n_annotations++] = e;
    }
    m->spec = spec;
}

static struct str image_encoded(struct image *i)
{
    if (!i->encoded) {
        auto_pool struct pool pool = POOL_INIT;
        Runtime__V1__Image m;

        image_fill(i, &m, &pool);
        i->encoded_len = runtime__v1__image__get_packed_size(&m);
        i->encoded = mem_alloc(i->encoded_len + 1);
        runtime__v1__image__pack(&m, i->encoded);
    }
    return (struct str){ i->encoded, i->encoded_len, i->encoded_len };
}

static void list_one(void *arg, struct image *i)
{
    struct str part = image_encoded(i);

    pb_join(arg, 1, &part);
}

/* The image that a filter means; *all when it means every one. */
static struct image *filtered(struct handlers *h, const Runtime__V1__ImageFilter *f, bool *all)
{
    const char *asked = f && f->image ? f->image->image : "";

    *all = !asked[0];
    return *all ? NULL : image_lookup(h, asked);
}

void handle_list_images(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ListImagesRequest *q = (const void *)req;
    struct handlers *h = ctx;
    auto_str struct str reply = STR_INIT;
    bool all;
    struct image *i = filtered(h, q->filter, &all);

    if (all)
        images_each(h->images, list_one, &reply);
    else if (i)
        list_one(&reply, i);
    rpc_ok_bytes(rpc, reply.p, reply.len);
}

/* --- StreamImages: messages of some images each, the next when the last ones have left */

struct stream {
    struct handlers *h;
    char after[128];                 /* id of the last image sent: the list may change meanwhile */
    struct str batch;
    char last[128];
    size_t n;
    bool more;
};

static void stream_one(void *arg, struct image *i)
{
    struct stream *s = arg;

    if (strcmp(i->rec->id, s->after) <= 0)
        return;
    if (s->n == STREAM_BATCH) {
        s->more = true;
        return;
    }
    list_one(&s->batch, i);
    s->n++;
    (void)snprintf(s->last, sizeof s->last, "%s", i->rec->id);
}

static void stream_next(struct rpc *rpc, void *arg)
{
    struct stream *s = arg;

    do {
        s->n = 0;
        s->more = false;
        images_each(s->h->images, stream_one, s);
        if (s->n && rpc_send_bytes(rpc, s->batch.p, s->batch.len) < 0) {
            str_free(&s->batch);
            /* the same again when the queue has run empty; after EMSGSIZE it has ended */
            return;
        }
        str_free(&s->batch);
        memcpy(s->after, s->last, sizeof s->after);
    } while (s->more);
    rpc_on_drain(rpc, NULL, NULL);
    rpc_end(rpc);
}

void handle_stream_images(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__StreamImagesRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct stream *s;
    bool all;
    struct image *i = filtered(h, q->filter, &all);

    rpc_begin(rpc);
    if (all) {
        s = rpc_alloc(rpc, sizeof *s);
        s->h = h;
        rpc_on_drain(rpc, stream_next, s);
        stream_next(rpc, s);
        return;
    }
    if (i) {
        auto_str struct str reply = STR_INIT;

        list_one(&reply, i);
        (void)rpc_send_bytes(rpc, reply.p, reply.len);
    }
    rpc_end(rpc);
}

/* --- ImageStatus */

static char *image_info(const struct image *i, struct pool *pool)
{
    const Cricket__State__Image *rec = i->rec;
    json_t *config = json_loadb((char *)rec->config_json.data, rec->config_json.len, 0, NULL);

    return info_dump(pool, json_pack("{s:s, s:o?}", "chainID", rec->chain_id, "imageSpec", config));
}

void handle_image_status(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ImageStatusRequest *q = (const void *)req;
    Runtime__V1__ImageStatusResponse reply = RUNTIME__V1__IMAGE_STATUS_RESPONSE__INIT;
    Runtime__V1__Image m;
    auto_pool struct pool pool = POOL_INIT;
    struct image *i;

    if (!q->image || !q->image->image[0]) {
        rpc_fail(rpc, GRPC_INVALID_ARGUMENT, "ImageStatus: no image named");
        return;
    }
    i = image_lookup(ctx, q->image->image);
    if (i) {                         /* absent is no error: a reply without an image */
        image_fill(i, &m, &pool);
        reply.image = &m;
        if (q->verbose) {
            reply.info = pool_alloc(&pool, sizeof(void *));
            reply.info[reply.n_info++] =
                info_entry(&pool, &runtime__v1__image_status_response__info_entry__descriptor,
                           "info", image_info(i, &pool));
        }
    }
    rpc_ok(rpc, &reply.base);
}

/* --- RemoveImage */

struct removal {
    struct handlers *h;
    struct waiters waiters;
    char *id;
    uint64_t *dead;
    size_t n;
};

static void on_removed(void *arg, const struct err *err)
{
    struct removal *m = arg;
    Runtime__V1__RemoveImageResponse reply = RUNTIME__V1__REMOVE_IMAGE_RESPONSE__INIT;

    if (err) {
        struct err e = *err;

        err_note(&e, "image %s: removing its record", m->id);
        log_error("op=remove-image id=%s err='%s'", m->id, e.text);
        waiters_fail(&m->waiters, &e);
    } else {
        log_info("op=remove-image id=%s layers=%zu", m->id, m->n);
        if (m->n && m->h->puller)
            pull_remove_layers(m->h->puller, m->dead, m->n);
        waiters_ok(&m->waiters, &reply.base);
    }
    free(m->dead);
    free(m->id);
    free(m);
}

void handle_remove_image(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__RemoveImageRequest *q = (const void *)req;
    Runtime__V1__RemoveImageResponse reply = RUNTIME__V1__REMOVE_IMAGE_RESPONSE__INIT;
    struct handlers *h = ctx;
    struct store_batch *b;
    struct removal *m;
    struct image *i;

    if (!q->image || !q->image->image[0]) {
        rpc_fail(rpc, GRPC_INVALID_ARGUMENT, "RemoveImage: no image named");
        return;
    }
    i = image_lookup(h, q->image->image);
    if (!i) {
        rpc_ok(rpc, &reply.base);
        return;
    }
    m = mem_new(struct removal);
    m->h = h;
    m->id = mem_strdup(i->rec->id);
    waiters_init(&m->waiters, NULL, NULL);
    waiters_add(&m->waiters, rpc);
    b = store_batch_new(h->store);
    images_remove(h->images, i, b, &m->dead, &m->n);
    store_batch_commit(b, on_removed, m);
}

/* --- ImageFsInfo */

void handle_image_fs_info(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    Runtime__V1__ImageFsInfoResponse reply = RUNTIME__V1__IMAGE_FS_INFO_RESPONSE__INIT;
    Runtime__V1__FilesystemUsage usage = RUNTIME__V1__FILESYSTEM_USAGE__INIT, *list[] = { &usage };
    Runtime__V1__FilesystemIdentifier fs = RUNTIME__V1__FILESYSTEM_IDENTIFIER__INIT;
    Runtime__V1__UInt64Value bytes = RUNTIME__V1__UINT64_VALUE__INIT,
                             inodes = RUNTIME__V1__UINT64_VALUE__INIT;
    struct handlers *h = ctx;

    (void)req;
    fs.mountpoint = h->conf->root;
    bytes.value = images_used_bytes(h->images);
    inodes.value = images_used_inodes(h->images);
    usage.timestamp = clock_wall_ns();
    usage.fs_id = &fs;
    usage.used_bytes = &bytes;
    usage.inodes_used = &inodes;
    reply.image_filesystems = reply.container_filesystems = list;    /* one file system for both */
    reply.n_image_filesystems = reply.n_container_filesystems = 1;
    rpc_ok(rpc, &reply.base);
}
