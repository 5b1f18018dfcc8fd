/* SPDX-License-Identifier: Apache-2.0 */
/* UTF-8 as proto3 strings demand it (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF).
 */
#ifndef CRICKET_UTF8_H
#define CRICKET_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* True when the n bytes at s are valid UTF-8. */
bool utf8_ok(const char *s, size_t n);

/* Overwrites each byte of an invalid sequence by '?'; the length stays. */
void utf8_clean(char *s, size_t n);

#endif
