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
    char *chain_id;                  /* NULL: held by a container, and no record names it */
    Cricket__State__Layer *rec;      /* NULL then */
    uint64_t number;                 /* directory <root>/l/<number> */
    unsigned refs;                   /* images and containers that need it */
};

struct image {
    Cricket__State__Image *rec;      /* owned by the index; replaced, never edited by others */
    bool pinned;
    bool durable;                    /* on disk; the handlers say so when the commit is done */
    /* runtime.v1.Image bytes for lists: allocated by the handlers, freed (and NULL) when the record
     * changes */
    void *encoded;
    size_t encoded_len;
};

struct images *images_new(struct store *s);
struct images *images_free(struct images *im);
/* fnmatch(3) patterns, NULL terminated, that must live as long as im; images with a matching tag or
 * digest reference are pinned. Before images_load(). */
void images_set_pinned(struct images *im, char *const *patterns);
/* All records of the store. A record that does not parse is logged and left out. */
int images_load(struct images *im, struct err *err);

/* id, "sha256:" id, normalised tag, name@digest, digest, unique id prefix (>= 4 hex digits). NULL
 * if absent or ambiguous. `normal` is the normal form of a name (NULL where the string cannot be
 * one). */
struct image *images_find(struct images *im, const char *asked, const char *normal);
struct image *images_by_id(struct images *im, const char *id);
size_t images_count(const struct images *im);
/* In the order of ids. fn may remove the image it is given. */
void images_each(struct images *im, void (*fn)(void *arg, struct image *i), void *arg);

/* A pull has finished. Adds or merges the image: `tag` (or NULL) moves here from any other image,
 * `digest` (name@digest, or NULL) is added. Its layers must be in the index (images_layer_add()).
 * Puts what changed into b, and its layers; memory changes at once: call when b is about to be
 * committed. When the commit is done look the image up again by id and set `durable`, or call
 * images_forget(). Takes over rec (protobuf-c's allocator). */
struct image *images_add(struct images *im, Cricket__State__Image *rec, const char *tag,
                         const char *digest, struct store_batch *b);
/* After a commit that failed: an image that was never durable goes from memory, as do the layers
 * that only it needed; *ret_dead as in images_remove(). */
void images_forget(struct images *im, const char *id, uint64_t **ret_dead, size_t *ret_n);
/* The whole image goes, all names. Layers nobody needs any more are removed from the index and
 * their records deleted in b; their numbers are appended to *ret_dead (NULL and 0 at first; the
 * caller frees) for slow deletion by the worker after the commit. */
void images_remove(struct images *im, struct image *i, struct store_batch *b, uint64_t **ret_dead,
                   size_t *ret_n);

/* --- layers.c */
struct layer *images_layer(struct images *im, const char *chain_id);
/* 0: added, or already there with the same number. -EEXIST: the chain is there under another
 * number, the caller's directory is one too many. Nobody needs it yet: hold it or add the image. */
int images_layer_add(struct images *im, const Cricket__State__Layer *rec, struct store_batch *b);
/* next free directory number; never used twice in a daemon's life */
uint64_t images_layer_number(struct images *im);
/* Containers and running pulls hold layers by number, so that RemoveImage leaves them alone. */
void images_layers_hold(struct images *im, const uint64_t *numbers, size_t n);
void images_layers_drop(struct images *im, const uint64_t *numbers, size_t n, struct store_batch *b,
                        uint64_t **ret_dead, size_t *ret_n);
/* After start, when all containers hold theirs: layers that nobody needs go, as in
 * images_remove(). */
void images_prune(struct images *im, struct store_batch *b, uint64_t **ret_dead, size_t *ret_n);
/* Does a layer of the index, or one that a container still holds, live in this directory? For
 * clean-up at start, after images_prune(). */
bool images_number_used(const struct images *im, uint64_t number);
uint64_t images_used_bytes(const struct images *im);     /* all layers of the index, on disk */
uint64_t images_used_inodes(const struct images *im);

#endif
