/* SPDX-License-Identifier: Apache-2.0 */
/* Pulling: reference -> hosts (mirrors) -> token -> manifest (index -> platform) -> config ->
 * layers, any number at once on one curl multi handle. Layers are unpacked by cricket-worker as
 * they arrive; a layer that two pulls need is fetched once. This folder knows registries and layer
 * directories; what an image record is, it does not: the caller says which layers it has already,
 * gives out directory numbers, and records the result. */
#ifndef CRICKET_PULL_H
#define CRICKET_PULL_H

#include "err.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct puller;
struct pull;

struct pull_layer {
    char *digest;                    /* of the blob, as the manifest has it */
    char *diff_id;
    char *chain_id;
    uint64_t number;                 /* directory <root>/l/<number>, complete and durable */
    uint64_t blob_size;              /* compressed bytes */
    uint64_t size, inodes;           /* on disk; 0 when had before */
    bool had;                        /* was there before this pull */
};

struct pull_result {
    const char *ref;                 /* normal form: "docker.io/library/busybox:1.29" */
    const char *tag;                 /* normal form with tag, NULL when pulled by digest */
    /* "docker.io/library/busybox@sha256:..." of what the reference resolved to */
    const char *repo_digest;
    const char *image_id;            /* "sha256:<config digest>" */
    const char *config;              /* config blob, JSON, NUL terminated */
    size_t config_len;
    uint64_t size;                   /* compressed layers + config + manifest */
    const struct pull_layer *layers; /* lowest first */
    size_t n_layers;
    char *const *annotations;        /* of the manifest: key, value, key, value, ..., NULL */
};

struct puller_opts {
    /* layers live in <root>/l/<number>, what is being made in <root>/l/tmp-<number> */
    const char *root;
    const char *worker;              /* path of cricket-worker */
    const struct hosts *hosts;       /* mirrors, auth, TLS: pull/hosts.h */
    /* no byte for so long: the transfer is dropped and resumed; default 5 min over all */
    int64_t stall_ms;
    unsigned max_transfers;          /* at once over all pulls; default 8 */
    unsigned max_layers;             /* at once for one image; default 3 */
    /* Answered by the caller at once, from memory. A layer that it says it has is kept for the pull
     * until drop_layer(), called once for each yes. Numbers start at 1 and are not given out twice
     * in the life of a daemon. */
    bool (*have_layer)(void *ctx, const char *chain_id, uint64_t *ret_number);
    void (*drop_layer)(void *ctx, uint64_t number);
    uint64_t (*new_number)(void *ctx);
    void *ctx;
};

struct pull_auth {                   /* runtime.v1.AuthConfig; all may be NULL */
    const char *username, *password, *auth, *server_address, *identity_token, *registry_token;
};

int puller_new(struct loop *l, const struct puller_opts *o, struct puller **ret, struct err *err);
struct puller *puller_free(struct puller *p);    /* drops everything that runs */

/* done is called exactly once, not from inside pull_start: r on success, else err (with err->grpc
 * and, where kubelet tests for it, the text prefix of CRI.md 2.2). The result's layers are on disk
 * and durable. The caller records them, in memory at least, inside done: a new layer that
 * have_layer() does not know when done has returned is removed, unless another pull wants it. (A
 * layer recorded and then given up, as after a failed commit, goes by pull_remove_layers().) Same
 * reference and same credentials while one runs: the caller joins by pull_start as well; transfers
 * are shared. */
typedef void (*pull_done_fn)(void *arg, const struct pull_result *r, const struct err *err);
int pull_start(struct puller *p, const char *ref, const struct pull_auth *auth, pull_done_fn done,
               void *arg, struct pull **ret, struct err *err);
/* done is not called; shared transfers go on for the others */
void pull_cancel(struct pull *pl);

/* Layers nobody needs: deleted slowly by a worker, after the pulls that are writing (or half a
 * minute). Their numbers must not be given out again by this daemon. */
void pull_remove_layers(struct puller *p, const uint64_t *numbers, size_t n);
/* Deletes a directory below root ("containers/<id>") the same way. */
void pull_remove_tree(struct puller *p, const char *rel);
/* At start: everything below l/ whose number `keep` denies, and all leftovers of unfinished pulls;
 * renamed at once, so that their numbers are free. */
void pull_collect(struct puller *p, bool (*keep)(void *ctx, uint64_t number), void *ctx);
size_t pull_count(const struct puller *p);

#endif
