/* SPDX-License-Identifier: Apache-2.0 */
/* Images by id, and all their names. An image is what its config digest says: pulled under two tags
 * or from two registries it is one record with more names. A tag belongs to one image only; a pull
 * that finds it elsewhere moves it, and the image left without names stays until it is removed
 * (CRI.md 13.2). A node has some hundred images at most: names are found by looking at all. */
#include "store/images_priv.h"

#include "log.h"
#include "mem.h"
#include "str.h"
#include "store_msg.h"

#include <assert.h>
#include <fnmatch.h>
#include <string.h>

enum { PREFIX_MIN = 4, DIGEST_HEX = 64 };

struct images *images_new(struct store *s)
{
    struct images *im = mem_new(struct images);

    im->store = s;
    im->next_number = 1;
    return im;
}

static void image_free(struct image *i)
{
    cricket__state__image__free_unpacked(i->rec, NULL);
    free(i->encoded);
    free(i);
}

struct images *images_free(struct images *im)
{
    if (im) {
        for (size_t i = 0; i < im->n; i++)
            image_free(im->v[i]);
        free(im->v);
        layers_free(im);
        free(im);
    }
    return NULL;
}

void images_set_pinned(struct images *im, char *const *patterns)
{
    im->pinned = patterns;
}

void batch_put_pb(struct store_batch *b, enum store_table t, const char *key,
                  const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    auto_free uint8_t *buf = mem_alloc(n + 1);

    protobuf_c_message_pack(m, buf);
    store_batch_put(b, t, key, buf, n);
}

/* --- the index */

static size_t position(const struct images *im, const char *id)
{
    size_t lo = 0, hi = im->n;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (strcmp(im->v[mid]->rec->id, id) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct image *images_by_id(struct images *im, const char *id)
{
    size_t i = position(im, id);

    return i < im->n && strcmp(im->v[i]->rec->id, id) == 0 ? im->v[i] : NULL;
}

size_t images_count(const struct images *im)
{
    return im->n;
}

void images_each(struct images *im, void (*fn)(void *arg, struct image *i), void *arg)
{
    for (size_t i = 0; i < im->n;) {
        struct image *now = im->v[i];

        fn(arg, now);
        if (i < im->n && im->v[i] == now)
            i++;
    }
}

static struct image *insert(struct images *im, Cricket__State__Image *rec)
{
    size_t at = position(im, rec->id);
    struct image *i = mem_new(struct image);

    if (im->n == im->cap) {
        im->cap = im->cap ? im->cap * 2 : 16;
        im->v = mem_grow(im->v, im->cap, sizeof(struct image *));
    }
    memmove(im->v + at + 1, im->v + at, (im->n - at) * sizeof(struct image *));
    im->v[at] = i;
    im->n++;
    i->rec = rec;
    for (size_t k = 0; k < rec->n_chain_ids; k++) {
        struct layer *l = images_layer(im, rec->chain_ids[k]);

        assert(l);                   /* its layers come before an image */
        layer_ref(l);
    }
    return i;
}

static bool matches(char *const *patterns, char **names, size_t n)
{
    for (char *const *p = patterns; p && *p; p++)
        for (size_t i = 0; i < n; i++)
            if (fnmatch(*p, names[i], 0) == 0)
                return true;
    return false;
}

/* The record is another now. */
static void changed(struct images *im, struct image *i)
{
    free(i->encoded);
    i->encoded = NULL;
    i->encoded_len = 0;
    i->pinned = matches(im->pinned, i->rec->repo_tags, i->rec->n_repo_tags) ||
                matches(im->pinned, i->rec->repo_digests, i->rec->n_repo_digests);
}

/* --- names */

static bool has(char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static void add_name(char ***names, size_t *n, const char *name)
{
    size_t at = 0;

    if (!name || has(*names, *n, name))
        return;
    *names = mem_grow(*names, *n + 1, sizeof **names);
    while (at < *n && strcmp((*names)[at], name) < 0)
        at++;
    memmove(*names + at + 1, *names + at, (*n - at) * sizeof **names);
    (*names)[at] = mem_strdup(name);
    (*n)++;
}

static bool drop_name(char **names, size_t *n, const char *name)
{
    for (size_t i = 0; i < *n; i++) {
        if (strcmp(names[i], name) == 0) {
            free(names[i]);
            (*n)--;
            memmove(names + i, names + i + 1, (*n - i) * sizeof *names);
            return true;
        }
    }
    return false;
}

static bool is_hex(const char *s)
{
    return s[0] && s[strspn(s, "0123456789abcdef")] == '\0';
}

static struct image *find_name(struct images *im, const char *name)
{
    for (size_t i = 0; i < im->n; i++) {
        const Cricket__State__Image *r = im->v[i]->rec;

        if (has(r->repo_tags, r->n_repo_tags, name) || has(r->repo_digests, r->n_repo_digests,
                                                           name))
            return im->v[i];
    }
    return NULL;
}

static struct image *find_digest(struct images *im, const char *digest)
{
    auto_free char *tail = mem_printf("@%s", digest);

    for (size_t i = 0; i < im->n; i++)
        for (size_t k = 0; k < im->v[i]->rec->n_repo_digests; k++)
            if (str_ends(im->v[i]->rec->repo_digests[k], tail))
                return im->v[i];
    return NULL;
}

static struct image *find_prefix(struct images *im, const char *hex)
{
    auto_free char *id = mem_printf("sha256:%s", hex);
    size_t i = position(im, id);

    if (i == im->n || !str_starts(im->v[i]->rec->id, id))
        return NULL;
    return i + 1 < im->n && str_starts(im->v[i + 1]->rec->id, id) ? NULL : im->v[i];
}

struct image *images_find(struct images *im, const char *asked, const char *normal)
{
    bool with_algorithm = str_starts(asked, "sha256:");
    const char *hex = with_algorithm ? asked + strlen("sha256:") : asked;
    bool digits = is_hex(hex) && strlen(hex) <= DIGEST_HEX;
    struct image *i = NULL;

    if (digits && strlen(hex) == DIGEST_HEX)
        i = find_prefix(im, hex);
    if (!i && normal)
        i = find_name(im, normal);   /* before a prefix: "cafe" may be the name of an image */
    if (!i && digits && with_algorithm && strlen(hex) == DIGEST_HEX)
        i = find_digest(im, asked);
    if (!i && digits && strlen(hex) >= PREFIX_MIN)
        i = find_prefix(im, hex);
    return i;
}

/* --- changes */

static void take_tag(struct images *im, const char *tag, const struct image *except,
                     struct store_batch *b)
{
    for (size_t i = 0; i < im->n; i++) {
        Cricket__State__Image *r = im->v[i]->rec;

        if (im->v[i] == except || !drop_name(r->repo_tags, &r->n_repo_tags, tag))
            continue;
        changed(im, im->v[i]);
        batch_put_pb(b, STORE_IMAGE, r->id, &r->base);
    }
}

struct image *images_add(struct images *im, Cricket__State__Image *rec, const char *tag,
                         const char *digest, struct store_batch *b)
{
    struct image *i = images_by_id(im, rec->id);

    if (i) {                         /* the same content: the names come together */
        for (size_t k = 0; k < i->rec->n_repo_tags; k++)
            add_name(&rec->repo_tags, &rec->n_repo_tags, i->rec->repo_tags[k]);
        for (size_t k = 0; k < i->rec->n_repo_digests; k++)
            add_name(&rec->repo_digests, &rec->n_repo_digests, i->rec->repo_digests[k]);
        cricket__state__image__free_unpacked(i->rec, NULL);
        i->rec = rec;
    } else {
        i = insert(im, rec);
    }
    add_name(&rec->repo_tags, &rec->n_repo_tags, tag);
    add_name(&rec->repo_digests, &rec->n_repo_digests, digest);
    if (tag)
        take_tag(im, tag, i, b);
    changed(im, i);
    /* with its layers: the batch that first had one of them may have failed */
    for (size_t k = 0; k < rec->n_chain_ids; k++)
        batch_put_pb(b, STORE_LAYER, rec->chain_ids[k],
                     &images_layer(im, rec->chain_ids[k])->rec->base);
    batch_put_pb(b, STORE_IMAGE, rec->id, &rec->base);
    return i;
}

static void take_out(struct images *im, struct image *i, struct store_batch *b, uint64_t **ret_dead,
                     size_t *ret_n)
{
    size_t at = position(im, i->rec->id);

    im->n--;
    memmove(im->v + at, im->v + at + 1, (im->n - at) * sizeof(struct image *));
    for (size_t k = 0; k < i->rec->n_chain_ids; k++) {
        struct layer *l = images_layer(im, i->rec->chain_ids[k]);

        assert(l);
        layer_unref(im, l, b, ret_dead, ret_n);
    }
    image_free(i);
}

void images_forget(struct images *im, const char *id, uint64_t **ret_dead, size_t *ret_n)
{
    struct image *i = images_by_id(im, id);

    if (i && !i->durable)
        take_out(im, i, NULL, ret_dead, ret_n);
}

void images_remove(struct images *im, struct image *i, struct store_batch *b, uint64_t **ret_dead,
                   size_t *ret_n)
{
    store_batch_del(b, STORE_IMAGE, i->rec->id);
    take_out(im, i, b, ret_dead, ret_n);
}

/* --- start */

static void load_row(void *arg, const char *key, const void *val, size_t len)
{
    struct images *im = arg;
    Cricket__State__Image *rec = cricket__state__image__unpack(NULL, len, val);
    const char *why = !rec                              ? "it does not parse"
                      : rec->schema > STORE_SCHEMA      ? "it is of a newer schema"
                      : strcmp(rec->id, key) != 0       ? "it is of another key"
                                                        : NULL;

    for (size_t k = 0; rec && !why && k < rec->n_chain_ids; k++)
        if (!images_layer(im, rec->chain_ids[k]))
            why = "one of its layers is missing";
    if (why) {
        log_error("op=load image='%.80s' err='%s', leaving it out", key, why);
        if (rec)
            cricket__state__image__free_unpacked(rec, NULL);
        return;
    }
    struct image *i = insert(im, rec);
    i->durable = true;
    changed(im, i);
}

int images_load(struct images *im, struct err *err)
{
    int r = store_each(im->store, STORE_LAYER, layers_load_row, im, err);

    return r < 0 ? r : store_each(im->store, STORE_IMAGE, load_row, im, err);
}
