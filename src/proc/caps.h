/* SPDX-License-Identifier: Apache-2.0 */
/* Capability names and sets, capabilities(7). */
#ifndef CRICKET_CAPS_H
#define CRICKET_CAPS_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint64_t caps_default(void);                     /* the 14 of CRI.md 7.1 */
uint64_t caps_own(void);                         /* the daemon's bounding set */
/* "NET_ADMIN", "cap_net_admin": the number, or -1. */
int caps_number(const char *name);
const char *caps_name(int number);               /* "CAP_NET_ADMIN", NULL if unknown */

/* Adds ALL, drops ALL, then single adds, then single drops (CRI.md 7.3). Unknown names:
 * GRPC_INVALID_ARGUMENT. ambient: names. */
int caps_apply(uint64_t base, char *const *add, size_t n_add, char *const *drop, size_t n_drop,
               char *const *ambient, size_t n_ambient, uint64_t *ret_bounding,
               uint64_t *ret_ambient, struct err *err);

#endif
