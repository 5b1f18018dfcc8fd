/* SPDX-License-Identifier: Apache-2.0 */
/* The images and layers in memory: lookup by every way to name an image, reference counts of
 * layers, and the totals that ImageFsInfo reports. Persistence goes through store_batch; this file
 * decides what belongs into a batch, the handlers submit it. A reference in its normal form is made
 * by pull/ref.h, outside of here. */
#ifndef CRICKET_IMAGES_H
#define CRICKET_IMAGES_H

#include "err.h"
#include "state.pb-c.h"
#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct images;

struct layer {
    char *chain_id;
    Cricket__State__Layer *rec;
    unsigned refs;                   /* images and containers that need it */
};

struct image {
    Cricket__State__Image *rec;      /* owned by the index; replaced, never edited by others */
    bool pinned;
    /* runtime.v1.Image bytes for lists, owned by the handlers through images_on_change */
    void *encoded;
    size_t encoded_len;
};

struct images *images_new(struct store *s);
struct images *images_free(struct images *im);
int images_load(struct images *im, struct err *err);

/* id, "sha256:" id, unique id prefix (>= 4 hex digits), normalised tag, name@digest. NULL if absent
 * or ambiguous. `normal` is the normal form of a name (NULL where the string cannot be a name). */
struct image *images_find(struct images *im, const char *asked, const char *normal);
struct image *images_by_id(struct images *im, const char *id);
size_t images_count(const struct images *im);
void images_each(struct images *im, void (*fn)(void *arg, struct image *i), void *arg);

/* A pull has finished. Adds or merges the image: `tag` (or NULL) moves here from any other image,
 * `digest` is added. Layers not yet known are added. Puts what changed into b; memory changes at
 * once: call when b is about to be committed, and images_forget() the image again should the commit
 * fail. Takes over rec. */
struct image *images_add(struct images *im, Cricket__State__Image *rec, const char *tag,
                         const char *digest,
                         struct store_batch *b);
/* The whole image goes, all names. Layers nobody needs any more are removed from the index and
 * their records deleted in b; their numbers are appended to *ret_dead (caller frees) for slow
 * deletion by the worker after the commit. */
void images_remove(struct images *im, struct image *i, struct store_batch *b, uint64_t **ret_dead,
                   size_t *ret_n);

struct layer *images_layer(struct images *im, const char *chain_id);
int images_layer_add(struct images *im, const Cricket__State__Layer *rec, struct store_batch *b);
/* next free directory number; never used twice in a daemon's life */
uint64_t images_layer_number(struct images *im);
/* Containers hold layers by number so that RemoveImage leaves running containers alone. */
void images_layers_hold(struct images *im, const uint64_t *numbers, size_t n);
void images_layers_drop(struct images *im, const uint64_t *numbers, size_t n, struct store_batch *b,
                        uint64_t **ret_dead, size_t *ret_n);
/* Does a layer of the index, or one that a container still holds, live in this directory? For clean-up at start. */
bool images_number_used(const struct images *im, uint64_t number);
uint64_t images_used_bytes(const struct images *im);
uint64_t images_used_inodes(const struct images *im);

#endif
