/* SPDX-License-Identifier: Apache-2.0 */
#include "mem.h"

#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void *check(void *p, size_t n)
{
    if (!p && n) {
        log_error("op=alloc size=%zu err='out of memory'", n);
        abort();
    }
    return p;
}

void *mem_alloc(size_t n)
{
    return check(calloc(1, n ? n : 1), n);
}

void *mem_array(size_t n, size_t size)
{
    return check(calloc(n ? n : 1, size), n);
}

void *mem_grow(void *p, size_t n, size_t size)
{
    return check(reallocarray(p, n ? n : 1, size), n);
}

void *mem_dup(const void *p, size_t n)
{
    char *d = check(malloc(n + 1), n + 1);

    if (n)
        memcpy(d, p, n);
    d[n] = '\0';
    return d;
}

char *mem_strdup(const char *s)
{
    return s ? mem_dup(s, strlen(s)) : NULL;
}

char *mem_printf(const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;

    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        s = NULL;
    va_end(ap);
    return check(s, 1);
}
