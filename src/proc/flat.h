/* SPDX-License-Identifier: Apache-2.0 */
/* Building blocks of a wire file (pod/wire.h), shared by plan.c and link.c. The buffer starts with
 * the body, zeroed; the caller copies the filled body over it before flat_end(). */
#ifndef CRICKET_FLAT_H
#define CRICKET_FLAT_H

#include "err.h"
#include "proc/plan.h"
#include "proc/pod/wire.h"
#include "str.h"

uint32_t flat_put(struct str *s, const void *p, size_t n);    /* at a multiple of 8 */
wire_str flat_string(struct str *s, const char *z);           /* NULL: 0 */
struct wire_arr flat_array(struct str *s, const void *p, size_t n, size_t size);
struct wire_arr flat_pairs(struct str *s, const struct plan_pair *p, size_t n);
/* Fills in the file header. */
int flat_end(struct str *s, enum wire_kind kind, struct err *err);
/* Writes and seals a memfd. */
int flat_memfd(const void *p, size_t n, const char *name, int *ret_fd, struct err *err);
/* Both. */
int flat_finish(struct str *s, enum wire_kind kind, const char *name, int *ret_fd, struct err *err);

#endif
