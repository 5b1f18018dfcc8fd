/* SPDX-License-Identifier: Apache-2.0 */
/* Asking registries for things: one GET over all that may come between the wish and the bytes -
 * mirrors, credentials, redirects. Bytes are handed on as they arrive; what they must hash to is
 * the caller's business, except in reg_fetch(), which collects a small document and verifies it. */
#ifndef CRICKET_REGISTRY_H
#define CRICKET_REGISTRY_H

#include "err.h"
#include "pull/auth.h"
#include "pull/hosts.h"
#include "pull/http.h"
#include "pull/ref.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pull_auth;
struct registry;                     /* the client: connections, tokens */
/* one repository as one pull sees it: endpoints and credentials */
struct repo;
struct reg_get;
struct reg_fetch;

struct registry *registry_new(struct loop *l, const struct hosts *hosts);
struct registry *registry_free(struct registry *g);

/* auth: of the request, or NULL. -EINVAL for a bad reference or undecodable credentials. Requests
 * keep their repo alive. */
int repo_new(struct registry *g, const struct ref *ref, const struct pull_auth *auth,
             struct repo **ret, struct err *err);
struct repo *repo_ref(struct repo *r);
struct repo *repo_unref(struct repo *r);
const char *repo_name(const struct repo *r);     /* "docker.io/library/busybox" */

enum reg_kind { REG_MANIFEST, REG_BLOB };

enum reg_outcome {
    REG_OK,
    REG_AGAIN,                       /* broken connection, stall, 5xx, 429: trying again may help */
    REG_FATAL,                       /* not found, not allowed, refused by the caller (err NULL) */
};

struct reg_get_spec {
    struct repo *repo;
    enum reg_kind kind;
    const char *what;                /* tag or digest */
    char *const *urls;               /* REG_BLOB: ask here after all endpoints failed; or NULL */
    /* REG_BLOB: skip so many bytes (by Range, or by reading over them) */
    uint64_t offset;
    size_t buffer;
    int64_t stall_ms;
    /* The bytes begin. type: Content-Type or NULL; total: whole length of the object, -1 unknown.
     * Negative: refuse. */
    int (*head)(void *arg, const char *type, int64_t total);
    int (*data)(void *arg, const void *p, size_t n);     /* as http_spec.data */
    /* Once, not from inside reg_get_start(); the request is freed right after. wait_ms: of
     * Retry-After, -1 none. */
    void (*done)(void *arg, enum reg_outcome o, const struct err *err, int64_t wait_ms);
    void *arg;
};

int reg_get_start(struct registry *g, const struct reg_get_spec *spec, struct reg_get **ret,
                  struct err *err);
void reg_get_resume(struct reg_get *q);
void reg_get_cancel(struct reg_get *q);

/* A small document. digest: what it must hash to, NULL for a tag. Broken connections and 429 are
 * tried again a few times. ok: doc is NUL terminated and valid during the callback, got is its
 * digest. Never from inside reg_fetch_start(). */
typedef void (*reg_fetch_fn)(void *arg, const char *doc, size_t len, const char *type,
                             const char *got, const struct err *err);
int reg_fetch_start(struct registry *g, struct loop *l, struct repo *repo, enum reg_kind kind,
                    const char *what, const char *digest, size_t max, int64_t stall_ms,
                    reg_fetch_fn fn, void *arg, struct reg_fetch **ret, struct err *err);
void reg_fetch_cancel(struct reg_fetch *f);

#endif
