/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the unpack job. Two processes:
 *
 *      daemon --pipe--> parent: hashes the compressed bytes --pipe--> child, locked up: inflate,
 * hash, tar -> files ^ '-- own rights, parses nothing                   |
 *                         '-------------- struct report, list of implied directories
 *
 * So the digest that the manifest names is checked by code that no byte of the layer can have
 * reached. */
#ifndef CRICKET_UNPACK_H
#define CRICKET_UNPACK_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    UNPACK_BLOCK = 256 * 1024,
    UNPACK_PIPE = 1024 * 1024,
    UNPACK_DIGEST_MAX = 7 + 128 + 1,
};

/* --- hash.c */
struct hash;
struct hash *hash_new(const char *like);         /* by the prefix of a digest; NULL if unknown */
void hash_add(struct hash *h, const void *p, size_t n);
void hash_end(struct hash *h, char out[UNPACK_DIGEST_MAX]);   /* frees h */

/* --- source.c: compressed bytes in, plain bytes out */
struct source;
struct source *source_new(int fd, struct hash *plain);   /* plain: of all that is read, or NULL */
/* The next plain bytes, at least one; 0 at the end; negative with err. */
int64_t source_read(struct source *s, const void **ret, struct err *err);
const char *source_kind(const struct source *s); /* "gzip", "zstd", "tar" once something was read */
void source_free(struct source *s);

/* --- jail.c */
/* Makes the directory the process's whole file system; no network; few rights and system calls.
 * Closes dirfd.
 * "/" is the directory then. */
int jail_enter(int dirfd, struct err *err);

/* --- extract.c */
struct extracted {
    uint64_t bytes, inodes;
};

/* Unpacks the tar in src beneath the current root. Directories that had to be made without an entry
 * of their own are written to `implied`, each path ended by a zero byte, parents first. */
int extract_layer(struct source *src, FILE *implied, struct extracted *ret, struct err *err);

/* --- lower.c: what an implied directory looks like in the layers below */
int lower_apply(int layers_fd, int layer_fd, const char *implied, size_t len, char *const *lowers,
                size_t n, struct err *err);

#endif
