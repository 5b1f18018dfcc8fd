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

#endif
