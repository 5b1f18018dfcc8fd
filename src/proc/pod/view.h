/* SPDX-License-Identifier: Apache-2.0 */
/* A wire file (wire.h) mapped and checked: after view_map() every offset, count and string in it
 * lies inside. */
#ifndef CRICKET_POD_VIEW_H
#define CRICKET_POD_VIEW_H

#include "wire.h"

#include <stddef.h>

/* Checks the bytes at base as a file of that kind. NULL, or a name for what is wrong. Turns nothing
 * into pointers. */
const char *view_check(const void *base, size_t len, enum wire_kind kind);
/* Maps fd privately and writable. It must be sealed against writing and resizing. 0 or -errno; *why
 * names it. */
int view_map(int fd, enum wire_kind kind, void **ret, size_t *ret_len, const char **why);

static inline const char *view_str(const void *base, wire_str off)
{
    return off ? (const char *)base + off : NULL;
}

/* Elements are addressed by the sender's size: it may know more fields than we do. */
static inline void *view_at(void *base, const struct wire_arr *a, uint32_t i)
{
    return (char *)base + a->off + (size_t)a->size * i;
}

#endif
