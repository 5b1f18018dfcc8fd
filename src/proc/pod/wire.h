/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon and a supervisor say to each other; the one header that both include.
 *
 * Messages are records on a SEQPACKET socket: struct wire_hdr, then the body of the type,
 * descriptors by SCM_RIGHTS. A daemon may be years newer than a supervisor (pods outlive upgrades)
 * and must be understood still: bodies only grow at their end, the receiver zero-fills what a
 * shorter sender did not know and ignores what a longer one adds; a type that is not known is
 * answered by WIRE_REPLY -ENOSYS with its serial.
 *
 * Whatever is long (a launch plan, how to make a sandbox) travels as a sealed memfd: struct
 * wire_file, then one body, then arrays and strings named by offsets from the start. The supervisor
 * maps it privately: the launcher turns offsets into pointers in place, since after clone3 it must
 * not allocate. The plan of an exec, mostly a few kilobytes, comes in the request's own record. `need` is the oldest version that carries out all of it: a supervisor that is older
 * refuses rather than drop a setting. Nothing here knows the byte order: it never leaves the
 * machine. */
#ifndef CRICKET_POD_WIRE_H
#define CRICKET_POD_WIRE_H

#include <stdint.h>

enum {
    WIRE_VERSION = 7,
    WIRE_MSG_MAX = 1536,             /* bytes of one message */
    WIRE_EXEC_MAX = 16384,           /* of an EXEC with its plan */
    WIRE_FDS_MAX = 24,
    WIRE_ID = 72,                    /* room for an id of 64 digits and its NUL */
    WIRE_TEXT = 1024,                /* room for an error text */
    WIRE_LINK_FD = 3,                /* the first link of a new supervisor is inherited there */
};

enum wire_type {
    /* daemon -> supervisor */
    WIRE_HELLO = 1, /* wire_hello: after connecting; answered by CTR*, EXIT*, READY */
    WIRE_INIT, /* wire_init: make the sandbox; fds: file, cgroups; answered by READY or REPLY */
    WIRE_START, /* wire_start; fds: plan, [oom], cgroups; answered by STARTED or REPLY */
    WIRE_ACK_EXIT,                   /* wire_ctr_id */
    WIRE_SIGNAL,                     /* wire_signal */
    WIRE_REOPEN,                     /* wire_ctr_id; answered by REPLY */
    WIRE_RESIZE,                     /* wire_resize */
    WIRE_SHUTDOWN,                   /* answered by REPLY, then the supervisor exits */
    /* wire_exec, [plan]; fds: [plan], [0], [1], [2], cgroups; answered by EXEC_STARTED (not if WIRE_QUIET) or
     * REPLY. The cgroups are kept: n_cgroups 0 means those of the last time (version 3). */
    WIRE_EXEC,
    WIRE_EXEC_KILL,                  /* wire_serial: of the EXEC */
    WIRE_EXEC_RESIZE,                /* wire_resize */
    WIRE_ATTACH, /* wire_attach; fds: [in], [out], [err]; answered by REPLY, later ATTACH_END */
    WIRE_ATTACH_CLOSE,               /* wire_serial: of the ATTACH */
    WIRE_PING,                       /* answered by REPLY, whatever it says: there is somebody */
    /* supervisor -> daemon */
    WIRE_READY = 64,                 /* wire_ready */
    WIRE_CTR,                        /* wire_ctr */
    WIRE_EXIT,                       /* wire_exit; serial 0 */
    WIRE_REPLY,                      /* wire_reply: code 0 or what failed */
    WIRE_STARTED,                    /* wire_started; fds: pidfd */
    WIRE_EXEC_STARTED,               /* wire_started; fds: [pty master] */
    WIRE_EXEC_EXITED,                /* wire_exec_exited; serial: of the EXEC */
    WIRE_ATTACH_END,                 /* serial: of the ATTACH; wire_reply if it was cut short */
    WIRE_NOTE,                       /* wire_note: worth a line in the log; serial 0 */
};

struct wire_hdr {
    uint16_t version, type;
    uint32_t serial;                 /* the sender's; an answer repeats it */
    uint32_t len;                    /* header and body */
    uint32_t reserved;
};

struct wire_hello { uint32_t version; };
struct wire_init { uint32_t n_cgroups; };

enum { WIRE_KEEPS_CGROUPS = 3, WIRE_TAKES_PLANS = 5 };

enum {
    WIRE_CGROUP2 = 1 << 0,
    WIRE_HAS_OOM = 1 << 1,
    WIRE_FD_0 = 1 << 2,
    WIRE_FD_1 = 1 << 3,
    WIRE_FD_2 = 1 << 4,
    WIRE_QUIET = 1 << 5,             /* EXEC, from version 3: no EXEC_STARTED */
};

struct wire_start {
    char id[WIRE_ID], target[WIRE_ID];
    uint32_t flags, n_cgroups;
};
struct wire_ctr_id { char id[WIRE_ID]; };
struct wire_signal {
    char id[WIRE_ID];
    int32_t sig;
};
struct wire_resize {
    char id[WIRE_ID];
    uint32_t serial;                 /* EXEC_RESIZE: of the EXEC */
    uint16_t width, height;
};
struct wire_exec {
    char id[WIRE_ID];
    uint32_t flags, n_cgroups;
    /* From version 5: the rest of the record from there on, counted from its header, is the plan;
     * a multiple of 8. 0: a descriptor is. */
    uint32_t plan_off, reserved;
};
struct wire_serial { uint32_t serial; };
struct wire_attach {
    char id[WIRE_ID];
    uint32_t flags;                  /* WIRE_FD_* */
};

struct wire_ready {
    uint32_t version;
    int32_t pid, init_pid;
    uint32_t has_netns;
};
struct wire_ctr {
    char id[WIRE_ID];
    int32_t pid;                     /* 0: exited, an EXIT follows */
    uint32_t reserved;
    int64_t started_at;
};
/* Also the whole content of <state_dir>/exits/<id>. */
struct wire_exit {
    uint32_t version;
    int32_t status, signal;
    uint32_t oom;
    int64_t started_at, finished_at;
    char id[WIRE_ID];
};
/* The whole content of <state_dir>/resctrl/<id>: where the container is in resctrl. Written before
 * anything is made there; the daemon removes what is the container's when it has ended. */
struct wire_rdt_record {
    uint32_t version;
    uint32_t flags;                  /* WIRE_RDT_MON, WIRE_RDT_OURS: what is to be removed */
    char root[1024];                 /* resctrl's mount point */
    char group[256];                 /* in it; "": the default group */
};
struct wire_reply {
    int32_t code;                    /* 0 or negative errno */
    char text[WIRE_TEXT];
};
struct wire_started {
    int32_t pid;
    uint32_t flags;                  /* WIRE_FD_0: a descriptor comes along */
    int64_t started_at;
};
struct wire_exec_exited { int32_t status; };
struct wire_note {
    char id[WIRE_ID];                /* of the container */
    char text[WIRE_TEXT];
};

/* ---- files */

enum { WIRE_MAGIC = 0x6b637243, WIRE_FILE_MAX = 8 << 20 };
enum wire_kind { WIRE_PLAN_CTR = 1, WIRE_PLAN_EXEC, WIRE_SANDBOX };

struct wire_file {
    uint32_t magic, kind, need,
        total; /* total: bytes of the file; its last byte is 0, so that every string ends inside */
};

typedef uint32_t wire_str;           /* offset of a NUL terminated string; 0: none */

struct wire_arr {
    uint32_t off, count, size;       /* count elements of size bytes each; at a multiple of 8 */
};

struct wire_rlimit {
    uint32_t resource, reserved;
    uint64_t soft, hard;
};

struct wire_pair { wire_str key, value; };

struct wire_idmap { uint32_t host_id, container_id, length; };

struct wire_mount {
    uint32_t kind, flags, propagation;
    wire_str source, target, fstype, data, lower, label;
    int32_t fd;                      /* the launcher's own; -1 */
};

struct wire_device {
    wire_str path;
    uint32_t mode, major, minor, uid, gid;
    int32_t fd;                      /* the launcher's own; -1 */
    wire_str source;                 /* 0: path */
};

enum {
    WIRE_NO_NEW_PRIVS = 1 << 0,
    WIRE_TTY = 1 << 1,
    WIRE_STDIN = 1 << 2,
    WIRE_STDIN_ONCE = 1 << 3,
    WIRE_SET_OOM = 1 << 4,
};

struct wire_process {
    struct wire_arr argv,
        envp; /* uint64_t offsets of strings; one more element, 0, follows the last */
    struct wire_arr groups;          /* uint32_t */
    struct wire_arr rlimits;         /* wire_rlimit */
    struct wire_arr seccomp;         /* struct sock_filter */
    wire_str cwd, apparmor, selinux;
    uint32_t uid, gid, flags;
    int32_t oom_score_adj;
    uint32_t seccomp_flags;
    uint64_t cap_bounding, cap_effective, cap_permitted, cap_inheritable, cap_ambient;
};

/* Hooks of the OCI runtime-spec, in the order in which they run. */
enum wire_hook_kind {
    WIRE_HOOK_PRESTART,
    WIRE_HOOK_CREATE_RUNTIME,
    WIRE_HOOK_CREATE_CONTAINER,
    WIRE_HOOK_START_CONTAINER,
    WIRE_HOOK_POSTSTART,
    WIRE_HOOK_POSTSTOP,
};

struct wire_hook {
    uint32_t kind, timeout_ms;
    wire_str path, reserved;
    struct wire_arr argv, envp;      /* as those of a process */
};

enum {
    WIRE_ROOT_RDONLY = 1 << 0,
    WIRE_HOST_NET = 1 << 1,
    WIRE_HOST_IPC = 1 << 2,
    WIRE_HOST_UTS = 1 << 3,
    WIRE_OWN_CGROUPNS = 1 << 4,
    WIRE_HOST_USERNS = 1 << 5,
};

struct wire_plan {                   /* WIRE_PLAN_CTR; WIRE_PLAN_EXEC: process and id only */
    struct wire_file file;
    struct wire_process process;
    wire_str id, lower, upper, work, log_path, mount_label;
    uint32_t flags, pidns, root_propagation, log_line_max;
    struct wire_arr mounts, masked, readonly, devices,
        symlinks; /* masked, readonly: uint64_t offsets */
    /* file.need >= WIRE_NEED_OCI, both kinds: the binary that launches, and what it is given
     * (config.json, process.json). Else not there. */
    wire_str oci_path, oci_json;
    /* file.need >= WIRE_NEED_HOOKS, containers only; oci_* are then 0 where none launches. The
     * bundle has the container's id for a name, below <state_dir>/hooks. state: the OCI state as
     * far as it stays the same, without the '}'. */
    wire_str bundle, config, state;
    struct wire_arr hooks;           /* wire_hook */
    struct wire_arr netdevs;         /* wire_pair: name on the host, name in the pod */
    /* file.need >= WIRE_NEED_RDT, containers only: plan.h's plan_rdt */
    uint32_t rdt_flags;              /* WIRE_RDT*; 0: none */
    wire_str rdt_group, rdt_schema, rdt_schemata;
    /* file.need >= WIRE_NEED_RESTORE, containers only: plan.h's plan_restore; all or none */
    wire_str restore, restore_criu, restore_worker, reserved;
};
enum { WIRE_NEED_OCI = 2, WIRE_NEED_HOOKS = 4, WIRE_NEED_RDT = 6, WIRE_NEED_RESTORE = 7 };
enum { WIRE_RDT = 1 << 0, WIRE_RDT_MON = 1 << 1, WIRE_RDT_CMT = 1 << 2, WIRE_RDT_MBM = 1 << 3,
       WIRE_RDT_OURS = 1 << 4 };
/* Where the bundle of a container in a user namespace is, in a mount namespace of its own: anybody
 * can get there. */
#define WIRE_OCI_USERNS "/mnt"

/* plan.h's PLAN_* under names of this side; plan.c asserts that they agree */
enum {
    WIRE_MOUNT_BIND,
    WIRE_MOUNT_FS,
    WIRE_MOUNT_OVERLAY,
    WIRE_MOUNT_SELF,
    WIRE_MOUNT_SHM,
    WIRE_MOUNT_CGROUP
};
enum {
    WIRE_M_RECURSIVE = 1 << 0,
    WIRE_M_RDONLY = 1 << 1,
    WIRE_M_RDONLY_REC = 1 << 2,
    WIRE_M_NOSUID = 1 << 3,
    WIRE_M_NODEV = 1 << 4,
    WIRE_M_NOEXEC = 1 << 5,
    WIRE_M_OPTIONAL = 1 << 6,
    WIRE_M_TARGET_MUST_EXIST = 1 << 7,
    WIRE_M_IDMAP = 1 << 8,
    WIRE_M_RELATIME = 1 << 9,
    WIRE_M_STRICTATIME = 1 << 10,
    WIRE_M_CREATE_SOURCE = 1 << 11,
    WIRE_M_ALL = (1 << 12) - 1,
};
enum { WIRE_PRIVATE, WIRE_SLAVE, WIRE_SHARED };
enum { WIRE_PID_POD, WIRE_PID_OWN, WIRE_PID_HOST, WIRE_PID_TARGET };

enum { WIRE_SB_SHARED_PID = 1 << 6, WIRE_SB_USERNS = 1 << 7 };

struct wire_sandbox {                /* WIRE_SANDBOX */
    struct wire_file file;
    wire_str id, state_dir, hostname;
    uint32_t flags;                  /* WIRE_HOST_NET, WIRE_HOST_IPC, WIRE_SB_* */
    uint64_t shm_size;
    struct wire_arr sysctls;         /* wire_pair */
    struct wire_arr uid_map, gid_map; /* wire_idmap */
    wire_str mount_label, init_label;
};

#endif
