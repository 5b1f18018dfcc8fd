/* SPDX-License-Identifier: Apache-2.0 */
/* Container Device Interface: "vendor/class=device" -> what a container gets with it.
 * Specification: cncf-tags/container-device-interface, SPEC.md, versions 0.3 to 1.1. Spec files
 * (*.json, *.yaml) lie in directories, of which a later one wins over an earlier one.
 *
 * A file that cannot be read or says something wrong provides no device; it is named when the
 * device that was asked for is not found elsewhere. Reads small local files, nothing is executed
 * here. */
#ifndef CRICKET_CDI_H
#define CRICKET_CDI_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { CDI_FILES_MAX = 256 };        /* spec files per directory */

struct cdi_device {
    char *path;                      /* in the container, absolute */
    char *host_path;                 /* on the host: path if the spec says nothing */
    mode_t type;                     /* S_IFCHR, S_IFBLK, S_IFIFO */
    int64_t major, minor;            /* of the spec or of host_path */
    mode_t mode;                     /* permission bits */
    char permissions[4];             /* "rwm" of the device cgroup */
    int64_t uid, gid;                /* -1: not given, the container's user */
};

struct cdi_mount {
    char *host_path, *container_path;
    char *type;                      /* "" : a bind mount */
    char **options;                  /* NULL terminated: "ro", "nosuid", "rbind", ... */
};

struct cdi_hook {
    char *name;                      /* "createContainer", ... of the OCI runtime specification */
    char *path;                      /* absolute, on the host */
    char **args, **env;              /* NULL terminated */
    int64_t timeout_ms;              /* 0: none given */
};

struct cdi_netdev {
    char *host, *name;               /* of a network interface on the host, in the container */
};

struct cdi_rdt {                     /* intelRdt */
    char *clos;                      /* closID; NULL: none, "/": the default group */
    char *l3, *mb;                   /* l3CacheSchema, memBwSchema; NULL: none */
    char **schemata;                 /* NULL terminated, or NULL: none */
    bool monitoring, cmt, mbm;       /* enable... */
};

struct cdi_edits {
    char **env;                      /* "NAME=value"; NULL terminated */
    size_t n_env;
    struct cdi_device *devices;
    size_t n_devices;
    struct cdi_mount *mounts;
    size_t n_mounts;
    struct cdi_hook *hooks;
    size_t n_hooks;
    struct cdi_netdev *netdevs;
    size_t n_netdevs;
    struct cdi_rdt *rdt;             /* the last one that there is, or NULL */
    gid_t *gids;
    size_t n_gids;
};

/* Is it vendor/class=name with the letters that are allowed? For the check at the door. */
bool cdi_name_ok(const char *name);

/* All edits of the named devices: those of a spec file once, before the first of its devices. dirs:
 * NULL terminated, e.g. cdi_default_dirs. -ENOENT: not found; -EINVAL: a bad name or spec. */
extern const char *const cdi_default_dirs[];
int cdi_resolve(const char *const *dirs, const char *const *names, size_t n, struct cdi_edits **ret,
                struct err *err);
struct cdi_edits *cdi_edits_free(struct cdi_edits *e);

#endif
