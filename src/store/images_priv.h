/* SPDX-License-Identifier: Apache-2.0 */
/* Between images.c (records, names) and layers.c (directories, reference counts). */
#ifndef CRICKET_IMAGES_PRIV_H
#define CRICKET_IMAGES_PRIV_H

#include "store/images.h"

struct images {
    struct store *store;
    struct image **v;                /* sorted by id */
    size_t n, cap;
    struct layer **layers;           /* sorted by number */
    size_t n_layers, cap_layers;
    uint64_t next_number;
    uint64_t bytes, inodes;
    char *const *pinned;             /* or NULL */
};

void batch_put_pb(struct store_batch *b, enum store_table t, const char *key,
                  const ProtobufCMessage *m);
void layer_ref(struct layer *l);
/* b may be NULL: then no record is deleted. */
void layer_unref(struct images *im, struct layer *l, struct store_batch *b, uint64_t **ret_dead,
                 size_t *ret_n);
void layers_load_row(void *arg, const char *key, const void *val, size_t len);
void layers_free(struct images *im);

#endif
