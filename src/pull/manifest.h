/* SPDX-License-Identifier: Apache-2.0 */
/* What a registry says an image is made of: manifests and indexes, Docker's and OCI's, and the
 * image's config. All of it comes from strangers: sizes are bounded, digests must be verifiable,
 * what is missing or odd is an error that names it. */
#ifndef CRICKET_MANIFEST_H
#define CRICKET_MANIFEST_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MANIFEST_MAX = 4 * 1024 * 1024,  /* bytes of a manifest or index */
    CONFIG_MAX = 4 * 1024 * 1024,    /* bytes of a config */
    MANIFEST_LAYERS_MAX = 500,       /* overlayfs takes no more lower directories */
    MANIFEST_DEPTH_MAX = 3,          /* indexes in indexes */
};

#define MANIFEST_ACCEPT \
    "application/vnd.docker.distribution.manifest.v2+json, " \
    "application/vnd.docker.distribution.manifest.list.v2+json, " \
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"

struct platform {
    const char *os, *arch, *variant; /* "linux", "arm", "v7"; variant may be "" */
};

/* This machine's. */
struct platform platform_host(void);
/* How well `have` suits a machine of `want`: 0 best, larger worse, -1 not at all. */
int platform_rank(const struct platform *want, const struct platform *have);

struct descriptor {
    char *media_type, *digest;
    uint64_t size;
    char **urls;                     /* of a foreign layer; NULL terminated, or NULL */
};

enum manifest_kind { MANIFEST_IMAGE, MANIFEST_INDEX };

struct manifest {
    enum manifest_kind kind;
    struct descriptor config;        /* image */
    struct descriptor *layers;       /* image: lowest first */
    size_t n_layers;
    struct descriptor chosen;        /* index: the entry that suits the platform best */
    char **annotations;              /* key, value, ..., NULL; or NULL */
};

/* type: the Content-Type, or NULL. want: the platform to choose for. */
int manifest_parse(const char *json, size_t len, const char *type, const struct platform *want,
                   struct manifest **ret, struct err *err);
struct manifest *manifest_free(struct manifest *m);

struct image_config {
    char **diff_ids;                 /* NULL terminated */
    size_t n;
};

/* Reads rootfs.diff_ids; refuses an image of another operating system. */
int image_config_parse(const char *json, size_t len, const struct platform *want,
                       struct image_config **ret, struct err *err);
struct image_config *image_config_free(struct image_config *c);

#endif
