/* SPDX-License-Identifier: Apache-2.0 */
/* Which hosts answer for a registry: mirrors in order, then the origin; plain HTTP, TLS files and credentials per host.
 * Shaped like k3s's registries.yaml. Built by the caller from the configuration; read only here. */
#ifndef CRICKET_HOSTS_H
#define CRICKET_HOSTS_H

#include <stdbool.h>
#include <stddef.h>

struct hosts_mirror {
    const char *host;                /* "docker.io", "*" */
    char *const *endpoints;          /* "http://127.0.0.1:5000", NULL terminated */
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

#endif
