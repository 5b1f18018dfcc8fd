/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks of 4 KiB, larger ones for larger objects; only the newest chunk is filled. The first chunk
 * is made when it is needed, so a call without a body costs nothing. */
#include "reactor/pool.h"

#include "mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK = 4096, ALIGN = 16 };

struct pool_chunk {
    struct pool_chunk *next;
    max_align_t data[];
};

static void *take(struct pool *p, size_t n)
{
    char *r;

    if (n > p->size - p->used) {
        size_t size = n > CHUNK / 4 ? n : CHUNK;
        struct pool_chunk *c = mem_grow(NULL, sizeof *c + size, 1);

        p->total += size;
        if (p->chunks && p->size - p->used >= size - n) { /* the old one has more room left */
            c->next = p->chunks->next;
            p->chunks->next = c;
            return c->data;
        }
        c->next = p->chunks;
        p->chunks = c;
        p->size = size;
        p->used = 0;
    }
    r = (char *)p->chunks->data + p->used;
    p->used += n;
    return r;
}

void *pool_try(struct pool *p, size_t n)
{
    if (n > p->limit)
        return NULL;
    n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (n > p->size - p->used && n > p->limit - p->total)
        return NULL;
    return take(p, n);
}

void *pool_alloc(struct pool *p, size_t n)
{
    n = n < SIZE_MAX - ALIGN ? (n + ALIGN - 1) & ~(size_t)(ALIGN - 1) : SIZE_MAX - 2 * ALIGN;
    return memset(take(p, n), 0, n);
}

static void *pb_alloc(void *arg, size_t n)
{
    return pool_try(arg, n);
}

static void pb_free(void *arg, void *p)
{
    (void)arg;
    (void)p;
}

void pool_init(struct pool *p, size_t limit)
{
    *p = (struct pool){ .limit = limit, .pb = { pb_alloc, pb_free, p } };
}

void pool_deinit(struct pool *p)
{
    while (p->chunks) {
        struct pool_chunk *c = p->chunks;

        p->chunks = c->next;
        free(c);
    }
    p->used = p->size = p->total = 0;
}

char *pool_strdup(struct pool *p, const char *s)
{
    size_t n = strlen(s) + 1;

    return memcpy(pool_alloc(p, n), s, n);
}

char *pool_printf(struct pool *p, const char *fmt, ...)
{
    va_list ap;
    char *s;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    s = pool_alloc(p, (size_t)(n < 0 ? 0 : n) + 1);
    va_start(ap, fmt);
    vsnprintf(s, (size_t)(n < 0 ? 0 : n) + 1, fmt, ap);
    va_end(ap);
    return s;
}
