/* SPDX-License-Identifier: Apache-2.0 */
/* Content digests, "sha256:<hex>": syntax, and computing them piece by piece as bytes arrive. */
#ifndef CRICKET_DIGEST_H
#define CRICKET_DIGEST_H

#include <stdbool.h>
#include <stddef.h>

enum { DIGEST_MAX = 7 + 128 + 1 };   /* "sha512:" + hex + NUL */

/* One that can be verified: sha256, sha384 or sha512 and as many lower-case hex digits as it has.
 */
bool digest_valid(const char *s);

struct digest;
/* `like` names the algorithm: a whole digest, or "sha256:". NULL: unknown algorithm. */
struct digest *digest_new(const char *like);
struct digest *digest_free(struct digest *d);
void digest_add(struct digest *d, const void *p, size_t n);
/* Ends the computation: "sha256:<hex>" into out. */
void digest_end(struct digest *d, char out[DIGEST_MAX]);

/* sha256 of a whole (small) string. */
void digest_of(const void *p, size_t n, char out[DIGEST_MAX]);

#endif
