/* SPDX-License-Identifier: Apache-2.0 */
/* Replies that are made of one entry per object and take a while to make: read a bit, let the loop
 * turn, go on.
 *
 * A list of ids is taken at the start; each object is looked up again when it is its turn, and left
 * out if it is gone. Entries are encoded at once, or part by part. Unary replies are answered when all are there,
 * streams in batches as the client reads. All replies that are made this way have their entries in
 * field 1. */
#ifndef CRICKET_GATHER_H
#define CRICKET_GATHER_H

#include "handlers/objects.h"
#include "proc/stats.h"

struct gather;
struct pool;

enum gather_kind {
    GATHER_LIST,
    GATHER_STREAM,
    GATHER_ONE,                      /* no entry in the end: NotFound */
};

/* Begins its entry, or adds a part to the one that was begun; or nothing. */
typedef void (*gather_fn)(struct gather *g, const char *id);

struct gather *gather_new(struct handlers *h, struct rpc *rpc, enum gather_kind kind, gather_fn fn);
void gather_add(struct gather *g, const char *id);
/* Where an entry is long to make: fn adds a part to the last one, in a slice of its own. */
void gather_add_part(struct gather *g, const char *id, gather_fn fn);
/* The entry will tell this container's disk usage: waits for it, a second at most, where it was
 * never measured. */
void gather_usage(struct gather *g, struct ctr *c);
/* The entry will tell this container's open files. */
void gather_fds(struct gather *g, struct ctr *c);
/* From here on it looks after itself. */
void gather_start(struct gather *g);

/* --- inside of gather_fn */
struct handlers *gather_handlers(struct gather *g);
struct pool *gather_pool(struct gather *g);      /* empty again for the next entry */
void gather_entry(struct gather *g, const ProtobufCMessage *entry);
/* A message in field `number` of the entry; nothing where that one was not begun. */
void gather_part(struct gather *g, unsigned number, const ProtobufCMessage *part);
void gather_drop(struct gather *g);              /* it will not be there after all */
/* What the parts of an entry have added up; nothing when it begins. */
struct gather_sum {
    struct stats stats;
    uint64_t pids;
};
struct gather_sum *gather_sum(struct gather *g);
bool gather_get_fds(struct gather *g, const char *ctr_id, uint64_t *fds, uint64_t *sockets);

#endif
