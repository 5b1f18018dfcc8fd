/* SPDX-License-Identifier: Apache-2.0 */
/* The files that every container of a pod shares: hostname, hosts, resolv.conf in
 * <state>/pods/<id>/ (CRI.md 6.1, 7.1). */
#ifndef CRICKET_PODFILES_H
#define CRICKET_PODFILES_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct podfiles {
    const char *dir;                 /* exists */
    const char *hostname;            /* "" : the node's */
    bool host_net;
    const char *const *ips;
    size_t n_ips;
    uid_t uid;                       /* who owns them: root of the pod's user namespace, or 0 */
    gid_t gid;
    bool has_dns;                    /* dns_config was given, even if empty */
    char *const *servers, *const *searches, *const *options; /* NULL terminated, or NULL: none */
    const char *node_root; /* where the node's etc/ and run/ are; NULL: "/" (tests say otherwise) */
};

/* Writes (replaces) the three files, mode 0644, in place: a container that has one mounted sees the
 * new content. Values with a newline or NUL: GRPC_INVALID_ARGUMENT. */
int podfiles_write(const struct podfiles *f, struct err *err);

#endif
