/* SPDX-License-Identifier: Apache-2.0 */
/* Image references in their normal form (CRI.md 13.1): "busybox" -> docker.io / library/busybox /
 * latest. */
#ifndef CRICKET_REF_H
#define CRICKET_REF_H

#include "err.h"

#include <stdbool.h>

struct ref {
    char *domain;                    /* "docker.io", "127.0.0.1:5000" */
    char *path;                      /* "library/busybox" */
    char *tag;                       /* NULL when there is a digest */
    char *digest;                    /* "sha256:...", or NULL */
    char *normal;                    /* domain/path:tag or domain/path@digest */
    char *name;                      /* domain/path */
};

/* 0, or -EINVAL with GRPC_INVALID_ARGUMENT and the reference quoted. */
int ref_parse(const char *s, struct ref **ret, struct err *err);
struct ref *ref_free(struct ref *r);
/* Is it the name of a repository: "library/busybox"? */
bool ref_path_ok(const char *path);

#endif
