/* SPDX-License-Identifier: Apache-2.0 */
/* What layer.c (who wants it) and layer_fetch.c (how it comes) share. */
#ifndef CRICKET_LAYER_PRIV_H
#define CRICKET_LAYER_PRIV_H

#include "list.h"
#include "pull/layer.h"
#include "str.h"

enum { LAYER_MAGIC = 0x6c617972 };

struct child;
struct reg_get;

struct layer {
    unsigned magic;
    struct layers *all;
    struct list link;                /* in all->live or all->dying */
    struct list uses;
    enum layer_state state;
    unsigned busy;                   /* telling its uses: not to be freed */
    struct repo *repo;
    char *digest, *diff_id, *chain_id;
    char **urls;
    uint64_t size, number, bytes, inodes;
    struct reg_get *get;
    uint64_t got;                    /* bytes taken */
    int64_t progress_ms;             /* when the last ones came */
    int tries;
    struct ev_timer retry;
    int pipe;                        /* to the worker, -1 when closed */
    struct ev_io pipe_io;
    struct str spill;                /* what the pipe did not take */
    bool paused, complete;
    int sock;
    struct ev_io sock_io;
    struct child *child;
    struct err err;
};

struct layers {
    struct layers_opts o;
    char *worker;
    struct ev_timer kick;
    struct list live, dying;         /* dying: the worker must end before its directory can go */
    unsigned transfers;
};

/* layer.c */
void layer_tell(struct layer *l);                /* its uses; l may be gone afterwards */
void layer_fail(struct layer *l, const struct err *err); /* the same */
void layer_bury(struct layer *l);                /* its worker is dead */
void layers_run_queue(struct layers *ls);

/* layer_fetch.c */
void layer_fetch_init(struct layer *l);
int layer_fetch(struct layer *l, struct err *err);
void layer_end_transfer(struct layer *l);        /* it is over; another may start */
void layer_close_pipe(struct layer *l);

#endif
