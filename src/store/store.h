/* SPDX-License-Identifier: Apache-2.0 */
/* The two LMDB environments and who may write them.
 *
 *   run store      <state>/store on tmpfs, MDB_NOSYNC: written here, committed once per loop turn
 *                  before the replies leave. Survives the daemon, ends with the boot.
 *   durable store  <root>/store, full sync: written only by `cricket-worker store` from batches
 *                  that are sent over a socket. Image and layer batches are waited for; sandbox and
 *                  container records follow lazily in groups.
 *
 * A record is (table, key) -> bytes; what the bytes mean is the caller's (proto/state.proto).
 * Everything is read once, at start, by a worker as well (a damaged LMDB file can crash whoever
 * maps it); after that memory is the truth. Puts and dels of the run store never fail visibly: a
 * full tmpfs is logged, makes store_healthy() false, which Status reports, and what was not written
 * is tried again. */
#ifndef CRICKET_STORE_H
#define CRICKET_STORE_H

#include "err.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The order is also that of the letters in store_msg.c. */
enum store_table { STORE_META, STORE_SANDBOX, STORE_CONTAINER, STORE_IMAGE, STORE_LAYER,
                  STORE_TABLES };

struct store;

struct store_opts {
    const char *root;                /* durable part below it; made if absent */
    const char *state;               /* run part below it; made if absent */
    const char *worker;              /* path of cricket-worker */
    int64_t lazy_ms;                 /* how long lazy records may wait; 0: 1000 */
};

/* Opens both (making them), takes the locks that keep a second daemon off the same root and the
 * same state (-EBUSY, names the holder). A store of a newer schema is refused. A damaged durable
 * store is set aside as store.damaged-<time> with a loud message, and made again with the image and
 * layer records of <root>/store.copy; *ret_rebuilt then says so.
 * *ret_same_boot: the last daemon ran in this boot. Then sandboxes and containers come from the run
 * store (unless that is damaged), else from the durable one. Blocks: for start-up only. */
int store_open(struct loop *l, const struct store_opts *o, bool *ret_same_boot, bool *ret_rebuilt,
               struct store **ret, struct err *err);
/* Commits and flushes what is queued (up to 10 s); for the exit only. Whoever waits for a batch is
 * told, from inside: -ESHUTDOWN where it could not be written any more. Not to be answered with
 * another batch. */
struct store *store_close(struct store *s);
bool store_healthy(const struct store *s);

typedef void (*store_row_fn)(void *arg, const char *key, const void *val, size_t len);
/* Every record of a table: sandboxes and containers from the run or the durable store as
 * store_open() decided, images and layers from the durable one. Once per table: the rows are freed
 * behind it. */
int store_each(struct store *s, enum store_table t, store_row_fn fn, void *arg, struct err *err);

/* Sandbox and container records: run store at the end of this turn, durable one within lazy_ms. */
void store_put(struct store *s, enum store_table t, const char *key, const void *val, size_t len);
void store_del(struct store *s, enum store_table t, const char *key);
/* Commits to the run store now: for what must be on record before the next thing is done, not only
 * before its reply. False: it could not be written yet. */
bool store_commit(struct store *s);

/* Durable batches: all or nothing, in order of submission. Keys have 1 to 255 bytes. */
struct store_batch;
struct store_batch *store_batch_new(struct store *s);
struct store_batch *store_batch_free(struct store_batch *b);   /* one that is not to be committed */
void store_batch_put(struct store_batch *b, enum store_table t, const char *key, const void *val,
                     size_t len);
void store_batch_del(struct store_batch *b, enum store_table t, const char *key);
/* Consumes b. done(arg, NULL) once it is on disk, done(arg, err) if it cannot be; NULL: nobody
 * waits. Never called from inside (of this; store_close() does). */
void store_batch_commit(struct store_batch *b, void (*done)(void *arg, const struct err *err),
                        void *arg);

#endif
