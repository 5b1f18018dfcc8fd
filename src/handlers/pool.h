/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that lives until one call gives all of it back: for replies that are put together from
 * parts. */
#ifndef CRICKET_POOL_H
#define CRICKET_POOL_H

#include <stddef.h>

struct pool_chunk;

struct pool {
    struct pool_chunk *chunks;
};

#define POOL_INIT { NULL }
#define auto_pool __attribute__((cleanup(pool_free)))

void pool_free(struct pool *p);
void *pool_alloc(struct pool *p, size_t n);      /* zeroed, aligned for any type */
char *pool_strdup(struct pool *p, const char *s);
char *pool_printf(struct pool *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
