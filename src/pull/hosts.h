/* SPDX-License-Identifier: Apache-2.0 */
/* Which hosts answer for a registry: mirrors in order, then the origin; plain HTTP, TLS files and
 * credentials per host. Shaped like k3s's registries.yaml. Built by the caller from the
 * configuration; read only here. */
#ifndef CRICKET_HOSTS_H
#define CRICKET_HOSTS_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>

struct hosts_mirror {
    const char *host;                /* "docker.io", "*" */
    char *const *endpoints;          /* "http://127.0.0.1:5000", NULL terminated */
    /* pattern, replacement, ..., NULL (rewrite.h): what these endpoints call a repository, by the
     * first pattern that matches. NULL: as everybody */
    char *const *rewrite;
};

struct hosts_config {
    const char *host;                /* host[:port] of an endpoint */
    const char *username, *password, *auth, *identity_token;
    const char *ca_file, *cert_file, *key_file;
    bool insecure_skip_verify;
};

struct hosts {
    const struct hosts_mirror *mirrors;
    size_t n_mirrors;
    const struct hosts_config *configs;
    size_t n_configs;
};

/* One place to ask. */
struct endpoint {
    char *base;                      /* "https://registry-1.docker.io/v2": no slash at the end */
    char *host;                      /* host[:port] of it */
    /* the domain asked for, NULL for the origin itself: sent as ?ns= */
    char *ns;
    char *path;                      /* of the repository there */
    bool tls;
    const struct hosts_config *config;   /* or NULL; belongs to struct hosts */
};

/* The endpoints for a repository (domain and path), in the order to try them; at least one. Fails
 * only for a bad mirror URL or a rewritten name that is none. */
int hosts_endpoints(const struct hosts *h, const char *domain, const char *path,
                    struct endpoint **ret, size_t *ret_n, struct err *err);
struct endpoint *endpoints_free(struct endpoint *e, size_t n);

/* The configuration of a host[:port], or NULL. */
const struct hosts_config *hosts_config_find(const struct hosts *h, const char *host);
/* localhost, 127.0.0.0/8 or ::1, with or without a port. */
bool host_is_loopback(const char *host);
/* "https://host:5000/path?x" -> "host:5000"; NULL if it is not http or https, or has no host.
 * Caller frees. */
char *url_host(const char *url);

#endif
