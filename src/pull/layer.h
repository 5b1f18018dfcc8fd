/* SPDX-License-Identifier: Apache-2.0 */
/* Layers on their way to the disk. A layer is one transfer feeding one worker; pulls only hold uses
 * of it, so that two that need the same layer (same chain ID) share it, and the last one to lose
 * interest ends it.
 *
 *   QUEUED --> RUNNING --> READY --> FINISHING --> DONE           any --> failed: all uses are told
 *     a place    bytes      both      layers below   named, on
 *     is free    arrive     digests   are complete   the disk
 *                           match     (layer_finish)
 */
#ifndef CRICKET_LAYER_H
#define CRICKET_LAYER_H

#include "err.h"
#include "pull/registry.h"
#include "pull/remover.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct layers;
struct layer_use;

enum layer_state {
    LAYER_QUEUED,
    LAYER_RUNNING,
    LAYER_READY,
    LAYER_FINISHING,
    LAYER_DONE,
    LAYER_FAILED
};

struct layers_opts {
    struct loop *loop;
    struct registry *reg;
    struct remover *remover;
    int layers_fd;                   /* <root>/l, stays the caller's */
    const char *worker;
    int64_t stall_ms;
    unsigned max_transfers;
    uint64_t (*new_number)(void *ctx);
    /* Is this complete layer recorded? Asked when its last use goes: one that is not
     * gets removed. */
    bool (*recorded)(void *ctx, const char *chain_id, uint64_t number);
    void *ctx;
};

struct layer_want {
    struct repo *repo;               /* where to get it */
    const char *digest, *diff_id, *chain_id;
    uint64_t size;
    char *const *urls;               /* of a foreign layer, or NULL */
};

struct layer_info {
    enum layer_state state;
    uint64_t number, bytes, inodes;
    const struct err *err;           /* of LAYER_FAILED */
};

/* state is READY, DONE or FAILED. Not called from inside layer_use(); it may drop uses, start and
 * cancel pulls. After FAILED the use is only good for layer_drop(). */
typedef void (*layer_fn)(void *arg, const struct layer_info *i);

struct layers *layers_new(const struct layers_opts *o);
struct layers *pull_layers_free(struct layers *ls);   /* all uses must be gone */

struct layer_use *layer_use(struct layers *ls, const struct layer_want *w, layer_fn fn, void *arg);
/* A live layer of this chain that another pull wants as well? */
bool layer_is_live(struct layers *ls, const char *chain_id);
bool layer_number_is_live(struct layers *ls, uint64_t number);
struct layer_info layer_info(const struct layer_use *u);
/* The layers below are complete: their numbers, topmost first. Of a shared layer the first call
 * counts. */
void layer_finish(struct layer_use *u, const uint64_t *lowers, size_t n);
void layer_drop(struct layer_use *u);
size_t layers_running(const struct layers *ls);

#endif
