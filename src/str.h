/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer that is always NUL terminated. Start with STR_INIT, end with str_free(). */
#ifndef CRICKET_STR_H
#define CRICKET_STR_H

#include <stdbool.h>
#include <stddef.h>

struct str {
    char *p;       /* NULL while nothing was ever added */
    size_t len;
    size_t cap;
};

#define STR_INIT { NULL, 0, 0 }
#define auto_str __attribute__((cleanup(str_free)))

void str_free(struct str *s);
void str_reset(struct str *s);                    /* length 0, memory kept */
void str_add(struct str *s, const void *p, size_t n);
void str_puts(struct str *s, const char *z);
void str_putc(struct str *s, char c);
void str_printf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
char *str_room(struct str *s, size_t n);          /* at least n writable bytes behind len */
char *str_take(struct str *s); /* the caller frees; never NULL; s is empty again */
const char *str_c(const struct str *s);           /* never NULL */
void str_consume(struct str *s, size_t n);        /* drops the first n bytes */

bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
static inline bool str_empty(const char *s) { return !s || !s[0]; }

/* "16MiB", "64kB", "5" (bytes), "30s", "5m", "1h", "250ms": 0, or -EINVAL with *ret untouched. */
int str_parse_size(const char *s, long long *ret_bytes);
int str_parse_time(const char *s, long long *ret_ms);

#endif
