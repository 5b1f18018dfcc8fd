/* SPDX-License-Identifier: Apache-2.0 */
/* cgroups of both kinds behind one interface: v1 (one directory per controller that is mounted, see
 * cgroups(7)) and v2 (unified). Paths are given below the hierarchy's root, with a leading '/'.
 * Only directories made here are removed here. */
#ifndef CRICKET_CGROUP_H
#define CRICKET_CGROUP_H

#include "err.h"
#include "proc/plan.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { CGROUP_FDS_MAX = 16 };

struct cgroup_hugepage {
    const char *size;                /* "2MB" */
    uint64_t limit;
};

/* runtime.v1.LinuxContainerResources, decoded: 0/""/absent leaves a value alone (CRI.md 7.5). */
struct cgroup_limits {
    uint64_t cpu_shares;
    int64_t cpu_quota;               /* us; -1: none */
    uint64_t cpu_period;             /* us */
    int64_t memory;                  /* bytes; -1: none */
    int64_t memory_swap;             /* memory + swap; -1: none */
    const char *cpuset_cpus, *cpuset_mems;
    const struct cgroup_hugepage *hugepages;
    size_t n_hugepages;
    const struct plan_pair *unified; /* v2 only, written last */
    size_t n_unified;
    int64_t pids;                    /* 0: leave; -1: max */
};

struct cgroup_device_rule {
    char type;                       /* 'c', 'b', 'a' */
    int64_t major, minor;            /* -1: all */
    bool allow;
    char access[4];                  /* of "rwm" */
};

/* Looks at what is mounted. -ENOTSUP with a text when nothing usable is. Call once. */
int cgroup_init(struct err *err);
bool cgroup_is_v2(void);
/* "cpu memory pids": for Status and logs. */
const char *cgroup_controllers(void);

/* Where hierarchies of v1 are mounted right below /sys/fs/cgroup: their names there, joined by ':'
 * ("cpu,cpuacct:memory"); "" on v2. */
const char *cgroup1_dirs(void);

/* Makes path in every hierarchy, with parents (enabling controllers on v2, inheriting cpuset on
 * v1). *ret_made (caller frees; may be asked for by NULL) says which directories did not exist
 * before, NULL if all did; it is for cgroup_remove_parents() only: one path where all hierarchies
 * are alike, else one "controllers:path" per line. After a failure nothing new is left. */
int cgroup_make(const char *path, char **ret_made, struct err *err);
/* What cgroup_make() would make now: for a record of it that is older than the directories. */
int cgroup_missing(const char *path, char **ret_missing, struct err *err);
int cgroup_set(const char *path, const struct cgroup_limits *l, struct err *err);
/* As cgroup_set, but all or nothing: on the first failure the old values are written back; raises
 * before lowers. Refuses a memory limit below what is in use. */
int cgroup_update(const char *path, const struct cgroup_limits *l, struct err *err);
/* Replaces the device rules: everything denied, then these in order (v1: devices.*, v2: a BPF
 * program that is attached to the directory). rules NULL: everything allowed. */
int cgroup_set_devices(const char *path, const struct cgroup_device_rule *rules, size_t n,
                       struct err *err);
/* Descriptors for a launch: v1 every `tasks` opened for writing, v2 the directory. Returns how
 * many, or an error. */
int cgroup_open_join(const char *path, int fds[CGROUP_FDS_MAX], struct err *err);
void cgroup_close_join(int fds[CGROUP_FDS_MAX], int n);
int cgroup_open_oom(const char *path);           /* memory.oom_control or memory.events; -1 */
/* A file of the cgroup, for statistics: ("/x", "cpuacct", "cpuacct.usage"). The controller chooses
 * the hierarchy on v1. fd or -errno. */
int cgroup_open_file(const char *path, const char *controller, const char *file, int flags);
/* SIGKILL to all in it and below (cgroup.kill where there is one). Thaws first. 0 also when it is
 * not there. */
int cgroup_kill(const char *path, struct err *err);
/* The processes in it and below, as this process sees them; *ret (NULL for none) is freed by the
 * caller. */
int cgroup_processes(const char *path, pid_t **ret, size_t *ret_n, struct err *err);
bool cgroup_empty(const char *path);
int cgroup_thaw(const char *path);
/* The directory with its freezer.state or cgroup.freeze, absolute; the caller frees it. -ENOTSUP
 * where the node has no freezer. */
int cgroup_freezer(const char *path, char **ret, struct err *err);
/* rmdir in every hierarchy, children first. -EBUSY while something still lives there: try again
 * later. */
int cgroup_remove(const char *path, struct err *err);
/* Removes what cgroup_make(path) made, path first and then its parents, as far as it is empty. */
void cgroup_remove_parents(const char *path, const char *made);

#endif
