/* SPDX-License-Identifier: Apache-2.0 */
/* Seccomp profiles (OCI / Docker JSON) to BPF. Compiling takes milliseconds, so it happens in
 * `cricket-worker seccomp` (which alone links libseccomp) and the result is cached in memory by
 * profile and capabilities. What a container has is in <state>/seccomp/ as well, as long as it has
 * it. */
#ifndef CRICKET_SECCOMP_H
#define CRICKET_SECCOMP_H

#include "err.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct seccomp_cache;

struct seccomp_opts {
    const char *state;               /* cache directory is <state>/seccomp */
    const char *worker;
    const char *default_profile; /* path of the RuntimeDefault profile; "" : the one built into the
                                    worker */
};

int seccomp_new(struct loop *l, const struct seccomp_opts *o, struct seccomp_cache **ret,
                struct err *err);
struct seccomp_cache *seccomp_free(struct seccomp_cache *c);

struct seccomp_filter {
    const void *bpf;                 /* struct sock_filter[] */
    size_t len;                      /* bytes */
    unsigned flags;                  /* seccomp(2) */
    const char *key;                 /* for seccomp_find() */
};

/* f: the cache's, valid for 15 minutes at least; NULL with err. May be called from inside
 * seccomp_get() when cached. */
typedef void (*seccomp_fn)(void *arg, const struct seccomp_filter *f, const struct err *err);
/* profile: absolute path, or NULL for RuntimeDefault. caps: bounding set, for includes/excludes
 * rules. */
void seccomp_get(struct seccomp_cache *c, const char *profile, uint64_t caps, seccomp_fn done,
                 void *arg);
/* What seccomp_get() has given under this key, whatever became of the profile, also before a restart;
 * valid as there. NULL when it is lost. */
const struct seccomp_filter *seccomp_find(struct seccomp_cache *c, const char *key);
/* A container has f from now on: a file for it. */
void seccomp_keep(struct seccomp_cache *c, const struct seccomp_filter *f);
/* No container has it any more. */
void seccomp_drop(struct seccomp_cache *c, const char *key);
/* At start-up: drops all that is not used. */
void seccomp_collect(struct seccomp_cache *c, bool (*used)(void *ctx, const char *key), void *ctx);
/* The same profile for an OCI runtime: bpf is the text of linux.seccomp (JSON, not terminated),
 * without a key. */
void seccomp_get_json(struct seccomp_cache *c, const char *profile, uint64_t caps, seccomp_fn done,
                      void *arg);
/* Whoever asked and went away. */
void seccomp_cancel(struct seccomp_cache *c, void *arg);

#endif
