/* SPDX-License-Identifier: Apache-2.0 */
/* What the files cgroup*.c share; for nobody else.
 *
 * Both kinds are seen as a list of hierarchies (v2: exactly one), and a set of limits becomes a
 * list of writes: file, value, in order. Making, applying, rolling back and removing are then the
 * same for both; what differs is which writes a limit means, and what a directory needs before it
 * is of use. */
#ifndef CRICKET_CGROUP_IMPL_H
#define CRICKET_CGROUP_IMPL_H

#include "proc/cgroup.h"
#include "str.h"

enum { CGROUP_VALUE_MAX = 4096, CGROUP_DEPTH_MAX = 32, CGROUP_FILE_MAX = 128 };

struct hier {
    int fd;                          /* O_PATH of its root */
    char *mount;                     /* "/sys/fs/cgroup/cpu" */
    char *controllers;               /* "cpu,cpuacct" or "name=systemd"; v2: "" */
    bool prepares;                   /* what prepare() does for a directory is needed in it */
};

struct cgwrite {
    const struct hier *h;            /* NULL: no such controller here */
    const char *controller;          /* for messages: "memory" */
    char file[CGROUP_FILE_MAX];
    char *value;
    char *old;                       /* what was there, for the way back */
    bool tolerate;                   /* no such file or controller: go on without */
};

struct cgwrites {
    struct cgwrite *v;
    size_t n;
};

/* Appends; the file name and the value are copied. */
struct cgwrite *cgwrite_add(struct cgwrites *w, const char *controller, const char *file,
                            const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* What is the same for both: the cpuset; processes and huge pages (huge: how the latter's file name
 * ends). */
void cgwrite_cpuset(struct cgwrites *w, const struct cgroup_limits *l);
void cgwrite_counts(struct cgwrites *w, const struct cgroup_limits *l, const char *huge);

struct cgroup_kind {
    const char *freeze_file, *freeze, *thaw;
    const char *oom_file;
    /* Is prepare() of use in this hierarchy? */
    bool (*prepares)(const struct hier *h);
    /* dir: a directory on the way to a new one (v2: before the next mkdir in it, parent is -1; v1:
     * after its own mkdir). */
    int (*prepare)(const struct hier *h, int parent, int dir, struct err *err);
    /* The writes for l, in the order that the kernel accepts. */
    int (*limits)(const char *path, const struct cgroup_limits *l, struct cgwrites *w,
                  struct err *err);
    /* Bytes in use, or -1 where the kernel does not count. */
    int64_t (*memory_used)(const char *path);
};

extern const struct cgroup_kind cgroup1, cgroup2;

/* What is mounted here: of cgroup_init(), read only for all others. */
struct cgroup_mounted {
    const struct cgroup_kind *kind;
    struct hier h[CGROUP_FDS_MAX];
    size_t n;
    char controllers[256];
    struct str dirs1;                /* see cgroup1_dirs() */
};
extern struct cgroup_mounted cg;

int cgroup_check_path(const char *path, struct err *err);
const char *cgroup_below(const char *path);      /* without the leading '/'; "." for the root */
int cgroup_open_dir(const struct hier *h, const char *path);    /* O_PATH; -errno */

/* The hierarchy that has the controller ("memory", "name=systemd"), or NULL. v2: the one. */
const struct hier *cgroup_hier(const char *controller);
/* First line of a file of the cgroup, without its end: length or -errno. */
int cgroup_read_line(const struct hier *h, const char *path, const char *file, char *buf,
                     size_t size);
int64_t cgroup_read_number(const struct hier *h, const char *path, const char *file,
                           int64_t otherwise);
int cgroup_write(int fd, const char *value);     /* 0 or -errno */
int cgroup_write_at(int dir, const char *file, const char *value);  /* 0 or -errno */
/* Whole, at most size - 1 bytes: length or -errno. */
int cgroup_read_at(int dir, const char *file, char *buf, size_t size);

int cgroup1_set_devices(const char *path, const struct cgroup_device_rule *rules, size_t n,
                        struct err *err);
int cgroup2_set_devices(const char *path, const struct cgroup_device_rule *rules, size_t n,
                        struct err *err);

#endif
