/* SPDX-License-Identifier: Apache-2.0 */
/* Layers live once, in a numbered directory, and are counted: an image counts its chain, a
 * container (or a pull under way) the numbers it mounts. At zero the record goes in the caller's
 * batch and the number is handed out for deletion. A number that is held but unknown (the durable
 * store was lost, its container runs on) is an entry without a record, so that its directory is not
 * cleaned away. */
#include "store/images_priv.h"

#include "log.h"
#include "mem.h"
#include "store_msg.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static size_t position(const struct images *im, uint64_t number)
{
    size_t lo = 0, hi = im->n_layers;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (im->layers[mid]->number < number)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct layer *by_number(const struct images *im, uint64_t number)
{
    size_t i = position(im, number);

    return i < im->n_layers && im->layers[i]->number == number ? im->layers[i] : NULL;
}

static struct layer *insert(struct images *im, uint64_t number)
{
    size_t i = position(im, number);
    struct layer *l = mem_new(struct layer);

    if (im->n_layers == im->cap_layers) {
        im->cap_layers = im->cap_layers ? im->cap_layers * 2 : 32;
        im->layers = mem_grow(im->layers, im->cap_layers, sizeof(struct layer *));
    }
    memmove(im->layers + i + 1, im->layers + i, (im->n_layers - i) * sizeof(struct layer *));
    im->layers[i] = l;
    im->n_layers++;
    l->number = number;
    if (number >= im->next_number)
        im->next_number = number + 1;
    return l;
}

static void layer_free(struct layer *l)
{
    free(l->chain_id);
    if (l->rec)
        cricket__state__layer__free_unpacked(l->rec, NULL);
    free(l);
}

static void take_out(struct images *im, struct layer *l)
{
    size_t i = position(im, l->number);

    assert(i < im->n_layers && im->layers[i] == l);
    im->n_layers--;
    memmove(im->layers + i, im->layers + i + 1, (im->n_layers - i) * sizeof(struct layer *));
    if (l->rec) {
        im->bytes -= l->rec->size;
        im->inodes -= l->rec->inodes;
    }
    layer_free(l);
}

void layers_free(struct images *im)
{
    for (size_t i = 0; i < im->n_layers; i++)
        layer_free(im->layers[i]);
    free(im->layers);
}

struct layer *images_layer(struct images *im, const char *chain_id)
{
    for (size_t i = 0; i < im->n_layers; i++)
        if (im->layers[i]->chain_id && strcmp(im->layers[i]->chain_id, chain_id) == 0)
            return im->layers[i];
    return NULL;
}

static Cricket__State__Layer *copy(const Cricket__State__Layer *rec)
{
    size_t n = cricket__state__layer__get_packed_size(rec);
    auto_free uint8_t *buf = mem_alloc(n + 1);

    cricket__state__layer__pack(rec, buf);
    return cricket__state__layer__unpack(NULL, n, buf);
}

/* Takes over rec. */
static void set_record(struct images *im, struct layer *l, Cricket__State__Layer *rec)
{
    l->rec = rec;
    l->chain_id = mem_strdup(rec->chain_id);
    im->bytes += rec->size;
    im->inodes += rec->inodes;
}

int images_layer_add(struct images *im, const Cricket__State__Layer *rec, struct store_batch *b)
{
    const struct layer *old = images_layer(im, rec->chain_id);

    if (old)
        return old->number == rec->number ? 0 : -EEXIST;
    struct layer *l = by_number(im, rec->number);
    if (l && l->rec)
        return -EEXIST;              /* a directory has one content */
    if (!l)
        l = insert(im, rec->number);
    set_record(im, l, copy(rec));
    batch_put_pb(b, STORE_LAYER, rec->chain_id, &rec->base);
    return 0;
}

uint64_t images_layer_number(struct images *im)
{
    return im->next_number++;
}

void layer_ref(struct layer *l)
{
    l->refs++;
}

static void dead(uint64_t number, uint64_t **ret_dead, size_t *ret_n)
{
    *ret_dead = mem_grow(*ret_dead, *ret_n + 1, sizeof **ret_dead);
    (*ret_dead)[(*ret_n)++] = number;
}

static void layer_delete(struct images *im, struct layer *l, struct store_batch *b,
                         uint64_t **ret_dead,
                         size_t *ret_n)
{
    dead(l->number, ret_dead, ret_n);
    if (l->rec && b)
        store_batch_del(b, STORE_LAYER, l->chain_id);
    take_out(im, l);
}

void layer_unref(struct images *im, struct layer *l, struct store_batch *b, uint64_t **ret_dead,
                 size_t *ret_n)
{
    assert(l->refs);
    if (--l->refs == 0)
        layer_delete(im, l, b, ret_dead, ret_n);
}

void images_layers_hold(struct images *im, const uint64_t *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct layer *l = by_number(im, numbers[i]);

        layer_ref(l ? l : insert(im, numbers[i]));
    }
}

void images_layers_drop(struct images *im, const uint64_t *numbers, size_t n, struct store_batch *b,
                        uint64_t **ret_dead, size_t *ret_n)
{
    for (size_t i = 0; i < n; i++) {
        struct layer *l = by_number(im, numbers[i]);

        assert(l);                   /* dropped more often than held */
        layer_unref(im, l, b, ret_dead, ret_n);
    }
}

void images_prune(struct images *im, struct store_batch *b, uint64_t **ret_dead, size_t *ret_n)
{
    for (size_t i = im->n_layers; i-- > 0;)
        if (im->layers[i]->refs == 0)
            layer_delete(im, im->layers[i], b, ret_dead, ret_n);
}

bool images_number_used(const struct images *im, uint64_t number)
{
    return by_number(im, number) != NULL;
}

uint64_t images_used_bytes(const struct images *im)
{
    return im->bytes;
}

uint64_t images_used_inodes(const struct images *im)
{
    return im->inodes;
}

void layers_load_row(void *arg, const char *key, const void *val, size_t len)
{
    struct images *im = arg;
    Cricket__State__Layer *rec = cricket__state__layer__unpack(NULL, len, val);
    const char *why = !rec                                   ? "it does not parse"
                      : rec->schema > STORE_SCHEMA           ? "it is of a newer schema"
                      : strcmp(rec->chain_id, key) != 0      ? "it is of another key"
                      : by_number(im,
                                  rec->number)           ? "its directory has another layer already"
                                                             : NULL;

    if (why) {
        log_error("op=load layer='%.80s' err='%s', leaving it out", key, why);
        if (rec)
            cricket__state__layer__free_unpacked(rec, NULL);
        return;
    }
    set_record(im, insert(im, rec->number), rec);
}
