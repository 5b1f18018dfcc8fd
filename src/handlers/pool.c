/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/pool.h"

#include "mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK = 4000 };

struct pool_chunk {
    struct pool_chunk *next;
    size_t used, cap;
    max_align_t data[];
};

void pool_free(struct pool *p)
{
    while (p->chunks) {
        struct pool_chunk *c = p->chunks;

        p->chunks = c->next;
        free(c);
    }
}

void *pool_alloc(struct pool *p, size_t n)
{
    struct pool_chunk *c = p->chunks;

    n = (n + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
    if (!c || c->cap - c->used < n) {
        size_t cap = n > CHUNK ? n : CHUNK;

        c = mem_alloc(sizeof *c + cap);
        c->cap = cap;
        c->next = p->chunks;
        p->chunks = c;
    }
    c->used += n;
    return (char *)c->data + c->used - n;
}

char *pool_strdup(struct pool *p, const char *s)
{
    size_t n = strlen(s) + 1;

    return memcpy(pool_alloc(p, n), s, n);
}

char *pool_printf(struct pool *p, const char *fmt, ...)
{
    va_list ap;
    int n;
    char *s;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    s = pool_alloc(p, (size_t)(n < 0 ? 0 : n) + 1);
    va_start(ap, fmt);
    vsnprintf(s, (size_t)(n < 0 ? 0 : n) + 1, fmt, ap);
    va_end(ap);
    return s;
}
