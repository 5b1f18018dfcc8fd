/* SPDX-License-Identifier: Apache-2.0 */
/* The launch plan: everything that a process in a container is to be, computed and validated by the
 * daemon, carried out by cricket-pod without parsing or allocating. Filled in here as plain
 * structs, flattened by plan_encode() into one memfd that the supervisor maps (src/proc/pod/wire.h
 * has the layout, shared by both sides).
 *
 * All strings are the caller's and need to live until plan_encode() has returned. Paths inside the
 * container are resolved beneath its root by the launcher (openat2 RESOLVE_IN_ROOT). */
#ifndef CRICKET_PLAN_H
#define CRICKET_PLAN_H

#include "err.h"
#include "str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum plan_mount_kind {
    PLAN_MOUNT_BIND,                 /* source on the host -> target */
    PLAN_MOUNT_FS,                   /* new file system of fstype with data */
    PLAN_MOUNT_OVERLAY,              /* image volume: `lower`, read-only, sub path `source` in it */
    PLAN_MOUNT_SELF,                 /* target over itself: a volume under a read-only root */
    PLAN_MOUNT_SHM,                  /* the sandbox's /dev/shm */
    PLAN_MOUNT_CGROUP,               /* /sys/fs/cgroup as this host has it */
};

enum plan_mount_flags {
    PLAN_RECURSIVE = 1 << 0,         /* rbind */
    PLAN_RDONLY = 1 << 1,            /* this mount only */
    PLAN_RDONLY_REC = 1 << 2,        /* and all below (mount_setattr AT_RECURSIVE) */
    PLAN_NOSUID = 1 << 3,
    PLAN_NODEV = 1 << 4,
    PLAN_NOEXEC = 1 << 5,
    PLAN_OPTIONAL = 1 << 6,          /* skip when the source or the file system is not there */
    PLAN_TARGET_MUST_EXIST = 1 << 7, /* skip when the target is not there */
    PLAN_IDMAP = 1 << 8,             /* with the sandbox's user namespace maps */
    PLAN_RELATIME = 1 << 9,
    PLAN_STRICTATIME = 1 << 10,
    PLAN_CREATE_SOURCE = 1 << 11,    /* mkdir -p the source when it is missing */
};

enum plan_propagation { PLAN_PRIVATE, PLAN_SLAVE, PLAN_SHARED };

struct plan_mount {
    enum plan_mount_kind kind;
    unsigned flags;
    enum plan_propagation propagation;
    const char *source, *target, *fstype, *data;
    /* OVERLAY: "lowerdir" paths, top first, joined by ':'. CGROUP on v1: the directories of
     * /sys/fs/cgroup, joined by ':', then the container's path in each ("cpu:memory/pod1/ctr1"). */
    const char *lower;
    const char *label;               /* SELinux: relabel the source with it, or NULL */
};

struct plan_device {
    const char *path;                /* in the container */
    const char *source;              /* on the host, for where none can be made; NULL: path */
    mode_t mode;                     /* type and permissions */
    uint32_t major, minor;
    uid_t uid;
    gid_t gid;
};

struct plan_rlimit {
    int resource;
    uint64_t soft, hard;
};

struct plan_pair {
    const char *key, *value;
};

enum plan_hook_kind {
    PLAN_HOOK_PRESTART,
    PLAN_HOOK_CREATE_RUNTIME,
    PLAN_HOOK_CREATE_CONTAINER,
    PLAN_HOOK_START_CONTAINER,
    PLAN_HOOK_POSTSTART,
    PLAN_HOOK_POSTSTOP,
};

struct plan_hook {
    enum plan_hook_kind kind;
    const char *path;                /* absolute */
    char *const *argv, *const *envp; /* NULL terminated; argv has one at least */
    uint32_t timeout_ms;             /* above 0 */
};

/* The container's place in resctrl: intelRdt of the OCI runtime-spec. */
struct plan_rdt {
    const char *group;               /* closID; NULL: one of its own, "/": the default group */
    const char *schema;              /* l3CacheSchema and memBwSchema, a line each; NULL: none */
    const char *schemata;            /* what is written behind them; NULL: none */
    bool monitor;                    /* a monitoring group of its own */
    bool need_cmt, need_mbm;         /* which is of no use where nothing counts that */
};

/* What a checkpoint held of a container goes on in place of `argv`: criu restores it. */
struct plan_restore {
    const char *dir;                 /* with checkpoint/ (criu's images); its log is written there */
    const char *criu;                /* the program */
    const char *worker;              /* cricket-worker, which runs it */
};

enum plan_pidns { PLAN_PID_POD, PLAN_PID_OWN, PLAN_PID_HOST, PLAN_PID_TARGET };

/* What both a container's first process and a process exec'ed into it have. */
struct plan_process {
    char *const *argv; /* NULL terminated; argv[0] without '/' is searched in PATH of envp */
    char *const *envp;
    const char *cwd;                 /* made if missing (container only) */
    uid_t uid;
    gid_t gid;
    const gid_t *groups;
    size_t n_groups;
    uint64_t cap_bounding, cap_effective, cap_permitted, cap_inheritable, cap_ambient;
    bool no_new_privs;
    bool tty;
    bool stdin_open;                 /* a pipe is kept for attach; else /dev/null */
    bool stdin_once;
    int oom_score_adj;
    bool set_oom_score_adj;
    const struct plan_rlimit *rlimits;
    size_t n_rlimits;
    const void *seccomp;             /* struct sock_filter[], NULL: unconfined */
    size_t seccomp_len;              /* bytes */
    unsigned seccomp_flags;          /* SECCOMP_FILTER_FLAG_* */
    const char *apparmor;            /* profile for the exec, or NULL */
    const char *selinux;             /* label for the exec, or NULL */
    /* An OCI runtime launches: its binary, and the text of config.json or process.json for it.
     * NULL: cricket-pod does. */
    const char *oci_path, *oci_json;
};

struct plan {
    struct plan_process process;
    const char *id;
    const char *lower;               /* layer directories, top first, joined by ':' */
    const char *upper, *work;        /* made by the launcher when missing (with parents) */
    bool rootfs_readonly;
    enum plan_propagation rootfs_propagation;
    const struct plan_mount *mounts; /* in order; /proc, /sys, /dev ... are listed here too */
    size_t n_mounts;
    const char *const *masked;       /* container paths */
    size_t n_masked;
    const char *const *readonly;
    size_t n_readonly;
    const struct plan_device *devices;
    size_t n_devices;
    const struct plan_pair *symlinks; /* key: link in the container, value: what it says */
    size_t n_symlinks;
    enum plan_pidns pidns;
    bool host_net, host_ipc, host_uts;   /* else the sandbox's */
    bool own_cgroupns;
    bool host_userns;                /* else the sandbox's user namespace, where it has one */
    const char *log_path;            /* absolute on the host, "" or NULL: output is discarded */
    uint32_t log_line_max;           /* bytes of content per entry */
    const char *mount_label; /* SELinux context= of the root and our file systems, or NULL */
    /* Hooks, those of a kind in their order. With any: the bundle's directory (<state_dir>/hooks/<id>), the text of
     * its config.json, and the OCI state without what changes and without its '}'. */
    const struct plan_hook *hooks;
    size_t n_hooks;
    const char *bundle, *config, *state;
    const struct plan_pair *netdevs; /* key: a network interface of the host, value: in the pod */
    size_t n_netdevs;
    const struct plan_rdt *rdt;      /* NULL: none */
    /* NULL: the process is executed. Else with a PID namespace of the container's own, and without
     * a terminal, stdin, hooks, OCI runtime or user namespace. */
    const struct plan_restore *restore;
};

/* Why it cannot be restored, to be read behind "a container"; NULL: it can. */
const char *plan_unrestorable(const struct plan *p);

/* Where cricket-pod has what config.json names (pod/oci.c). Caller frees. */
char *plan_oci_bundle(const char *pod_dir, bool userns);

/* A sealed memfd. */
int plan_encode(const struct plan *p, int *ret_fd, struct err *err);
/* Bytes for link_exec(); ret, empty before, is the caller's to free. */
int plan_encode_exec(const struct plan_process *p, const char *ctr_id, struct str *ret,
                     struct err *err);

#endif
