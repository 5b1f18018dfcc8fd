/* SPDX-License-Identifier: Apache-2.0 */
/* What sources.c (in the host's mount namespace) takes along for mounts.c (in the container's). */
#ifndef CRICKET_POD_MOUNTS_H
#define CRICKET_POD_MOUNTS_H

#include "pod.h"

enum { FD_SKIP = -2 };               /* a mount that is left out */

struct cgmount {                     /* one v1 hierarchy */
    char name[64];
    int fd;
};

struct roots {
    int lower, upper;                /* detached */
    size_t lower_cut, upper_cut;     /* bytes of the paths that they stand for */
    struct cgmount cg[WIRE_FDS_MAX];
    size_t n_cg;
};

#define SELINUX_XATTR "security.selinux"

/* Fills in the fd of mounts and devices. */
void take_sources(const struct launch *l, struct roots *r);
/* In the host's mount namespace: where a file system of that type is mounted, all of it. -1 and
 * errno; ENOENT: nowhere. */
int host_mount_of(const char *fstype, char *buf, size_t len);
/* The longest directory, with its '/', that all paths of a ':' list begin with. */
size_t common_dir(const char *list);
uint64_t attr_of(uint32_t flags);                /* WIRE_M_* as MOUNT_ATTR_* */
void mount_root(const struct launch *l, struct roots *r);     /* at /r, by way of /l and /u */
void mount_image(const struct launch *l, struct wire_mount *m); /* m->fd is it then; by /l and /i */
/* Flags and propagation of a clone that is not attached yet. -1 and errno. */
int dress(int fd, const struct wire_mount *m);

/* ---- bundle.c: what another program makes the container of, in our place */

struct bundle {
    struct launch *l;
    char path[4096 - 64];            /* in the host's mount namespace */
    int dir;                         /* path */
    int null;                        /* read-only: a runtime gives its stdio to the container's user */
    int shm;                         /* the pod's /dev/shm, detached; or -1 */
    int mask;                        /* restore: its /null, detached */
    struct roots roots;
};

extern char *const bundle_environment[];         /* of that program */
/* Into a copy of the host's mount namespace from which nothing goes back. 0 or -errno. */
int bundle_own_mounts(void);
/* What every such child does first: this ends in that copy, with an empty bundle. */
void bundle_begin(struct bundle *b, struct launch *l);
/* r and m<i>; see bundle.c. */
void bundle_put_root(struct bundle *b);

#endif
