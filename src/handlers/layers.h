/* SPDX-License-Identifier: Apache-2.0 */
/* From an image to the directories of its layers. */
#ifndef CRICKET_LAYERS_H
#define CRICKET_LAYERS_H

#include "handlers/objects.h"

/* The image for what a client wrote: id, prefix, name, digest. NULL: none. */
struct image *image_lookup(struct handlers *h, const char *asked);
/* The numbers of an image's layers, lowest first; *ret is freed by the record it goes into. */
void layers_of_image(struct handlers *h, const struct image *im, uint64_t **ret, size_t *ret_n);

/* Layer directories, top first. */
struct layer_dirs {
    char **v;
    size_t n;
};
#define LAYER_DIRS_INIT { NULL, 0 }
#define auto_layers __attribute__((cleanup(layer_dirs_deinit)))
void layer_dirs_of(struct handlers *h, const uint64_t *numbers, size_t n, struct layer_dirs *ret);
void layer_dirs_deinit(struct layer_dirs *d);
/* The same joined by ':', as overlay's lowerdir wants it; caller frees. */
char *layer_dirs_join(const struct layer_dirs *d);

/* Makes <root>/l/init, a layer below those of every container's image, with the places where each
 * has something mounted: an image seldom has all of them, and then each start would copy /etc up
 * and make files in it. What an image has there hides it. May block: for the start of the daemon.
 * -errno: containers do without it. */
int init_layer_make(const struct conf *conf, struct err *err);
/* Puts it below d's. */
void layer_dirs_add_init(struct handlers *h, struct layer_dirs *d);

#endif
