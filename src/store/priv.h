/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the store: store.c (open, locks, what goes where), load.c (reading at start), run.c
 * (the run store), durable.c (batches and the writer), changes.c (a set of changes, the last one
 * per key wins). */
#ifndef CRICKET_STORE_PRIV_H
#define CRICKET_STORE_PRIV_H

#include "list.h"
#include "store/store.h"
#include "store_msg.h"
#include "str.h"

/* --- changes.c */
enum { CHANGES_BUCKETS = 64 };

struct change {
    struct list all, bucket;
    bool del;
    uint8_t table;
    char *key;
    void *val;
    size_t len;
};

struct changes {
    struct list all;
    struct list buckets[CHANGES_BUCKETS];
    size_t count;
};

void changes_init(struct changes *c);
void changes_clear(struct changes *c);
struct change *changes_find(struct changes *c, unsigned table, const char *key);
void changes_set(struct changes *c, bool del, unsigned table, const char *key, const void *val,
                 size_t len);
void changes_drop(struct changes *c, struct change *x);

/* --- load.c: the rows of a store as puts, by a worker child */
enum load_state {
    LOAD_OK,
    LOAD_ABSENT,                     /* there is no such directory */
    LOAD_DAMAGED,                    /* err says how */
};
/* Negative errno for what is not the store's fault (no worker, no permission). */
int store_load(const char *worker, const char *dir, struct changes *rows, enum load_state *ret,
               struct err *err);

/* The image and layer records in store.copy; all of them or an error, -ENOENT: there is none. */
int store_load_copy(const char *path, struct changes *rows, struct err *err);

/* --- run.c */
struct run_store;
int run_store_open(const char *dir, struct run_store **ret, struct err *err);
struct run_store *run_store_close(struct run_store *r);
/* All of it in one transaction. On failure nothing is written. */
int run_store_apply(struct run_store *r, const struct changes *c, struct err *err);

/* --- durable.c */
struct durable;
struct durable *durable_new(struct loop *l, const char *root, const char *worker, int64_t lazy_ms);
struct durable *durable_free(struct durable *d);
void durable_lazy(struct durable *d, bool del, unsigned table, const char *key, const void *val,
                  size_t len);
void durable_flush(struct durable *d, int64_t timeout_ms);     /* blocks */
bool durable_healthy(const struct durable *d);
struct durable *store_durable(struct store *s);

#endif
