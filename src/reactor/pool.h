/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is given back all at once: a call's request and whatever its handler allocates, or a
 * reply that is put together from parts. Bounded for requests, because a small one can decode into
 * a large tree. */
#ifndef CRICKET_POOL_H
#define CRICKET_POOL_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

struct pool {
    struct pool_chunk *chunks;
    size_t used, size;               /* of the newest chunk */
    size_t total, limit;             /* bytes taken from the heap; pool_try() stops at limit */
    ProtobufCAllocator pb;           /* for protobuf_c_message_unpack(); fails over the limit */
};

/* For replies: no limit, no allocator. */
#define POOL_INIT { .chunks = NULL }
#define auto_pool __attribute__((cleanup(pool_deinit)))

void pool_init(struct pool *p, size_t limit);
void pool_deinit(struct pool *p);
void *pool_try(struct pool *p, size_t n);        /* not zeroed; NULL over the limit */
void *pool_alloc(struct pool *p, size_t n);      /* zeroed; for the daemon's own sizes, no limit */
char *pool_strdup(struct pool *p, const char *s);
char *pool_printf(struct pool *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
