/* SPDX-License-Identifier: Apache-2.0 */
#include "str.h"

#include "mem.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void str_free(struct str *s)
{
    free(s->p);
    s->p = NULL;
    s->len = s->cap = 0;
}

void str_reset(struct str *s)
{
    s->len = 0;
    if (s->p)
        s->p[0] = '\0';
}

char *str_room(struct str *s, size_t n)
{
    if (!s->p || s->cap - s->len <= n) {
        size_t cap = s->cap ? s->cap * 2 : 64;

        while (cap <= s->len + n)
            cap *= 2;
        s->p = mem_grow(s->p, cap, 1);
        s->cap = cap;
    }
    return s->p + s->len;
}

void str_add(struct str *s, const void *p, size_t n)
{
    char *d = str_room(s, n);

    if (n)
        memcpy(d, p, n);
    s->len += n;
    s->p[s->len] = '\0';
}

void str_puts(struct str *s, const char *z)
{
    str_add(s, z, strlen(z));
}

void str_putc(struct str *s, char c)
{
    str_add(s, &c, 1);
}

void str_printf(struct str *s, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    char *d = str_room(s, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(d, (size_t)n + 1, fmt, ap);
    va_end(ap);
    s->len += (size_t)n;
}

char *str_take(struct str *s)
{
    char *p;

    if (!s->p)
        str_add(s, "", 0);
    p = s->p;
    s->p = NULL;
    s->len = s->cap = 0;
    return p;
}

const char *str_c(const struct str *s)
{
    return s->p ? s->p : "";
}

void str_consume(struct str *s, size_t n)
{
    if (n > s->len)
        n = s->len;
    if (!n)
        return;
    memmove(s->p, s->p + n, s->len - n + 1);
    s->len -= n;
}

bool str_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
    size_t a = strlen(s), b = strlen(suffix);

    return a >= b && strcmp(s + a - b, suffix) == 0;
}

struct unit {
    const char *name;
    long long factor;
};

static int parse_unit(const char *s, const struct unit *units, long long *ret)
{
    long long v;
    char *end;

    if (!s || s[0] < '0' || s[0] > '9')
        return -EINVAL;
    errno = 0;
    v = strtoll(s, &end, 10);
    if (errno)
        return -EINVAL;
    for (; units->name; units++) {
        if (strcmp(end, units->name) == 0) {
            if (v > LLONG_MAX / units->factor)
                return -EINVAL;
            *ret = v * units->factor;
            return 0;
        }
    }
    return -EINVAL;
}

int str_parse_size(const char *s, long long *ret_bytes)
{
    static const struct unit units[] = {
        { "", 1 },
        { "B", 1 },
        { "kB", 1000 },
        { "MB", 1000000 },
        { "GB", 1000000000 },
        { "KiB", 1024 },
        { "MiB", 1024 * 1024 },
        { "GiB", 1024LL * 1024 * 1024 },
        { NULL, 0 },
    };

    return parse_unit(s, units, ret_bytes);
}

int str_parse_time(const char *s, long long *ret_ms)
{
    static const struct unit units[] = {
        { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { NULL, 0 },
    };

    return parse_unit(s, units, ret_ms);
}
