/* SPDX-License-Identifier: Apache-2.0 */
/* From what a client asked for (CRI.md 6 and 7) to what the kernel is to do (proc/plan.h).
 *
 *      spec_check_*         at RunPodSandbox, CreateContainer: everything that can be said now
 *      spec_resolve_user    at CreateContainer, from the image; kept in the record
 *      spec_build*          at StartContainer, ExecSync, Exec
 *
 * A field that cannot be honoured is refused by name, never passed over; errors carry their gRPC
 * status. Nothing here waits for anything but local file systems: host paths on network file
 * systems are not looked at before the start. */
#ifndef CRICKET_SPEC_H
#define CRICKET_SPEC_H

#include "err.h"
#include "proc/cgroup.h"
#include "proc/plan.h"
#include "runtime.pb-c.h"
#include "state.pb-c.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cdi_edits;
struct pool;

/* What this node has and what the rest of the daemon can do so far. */
struct spec_node {
    bool apparmor, selinux;          /* on in this kernel */
    /* contexts of containers that its policy names; NULL: none */
    const char *selinux_process, *selinux_file;
    const char *apparmor_default;    /* profile of RuntimeDefault; NULL: none */
    bool seccomp;                    /* filters are there */
    bool rro;                        /* mount_setattr(2): 5.12 */
    bool systemd_cgroups;            /* cgroup_parent is a slice */
    bool create_missing_host_paths;  /* conf */
    bool userns;                     /* user namespaces: userns_probe() */
    const char *no_userns;           /* why not, NULL: not asked */
    bool image_volumes;              /* set by whoever has done them; false: refused by name */
    uint64_t caps;                   /* caps_own() */
    const char *const *cdi_dirs;     /* NULL terminated */
};

/* The pod's user namespace, with one mapping of each kind; NULL: the node's. */
const Runtime__V1__UserNamespace *spec_userns(const Runtime__V1__PodSandboxConfig *sandbox);

/* Asks the kernel; the daemon's own abilities stay false. */
void spec_node_init(struct spec_node *n);

int spec_check_sandbox(const Runtime__V1__PodSandboxConfig *c, const struct spec_node *node,
                       struct err *err);
/* Also looks at what the mounts and devices name on the host. Image, target container and log
 * directory are the caller's. */
int spec_check_container(const Runtime__V1__ContainerConfig *c,
                         const Runtime__V1__PodSandboxConfig *sandbox, const struct spec_node *node,
                         struct err *err);
/* LinuxContainerResources of a create or an update: ranges and syntax. */
int spec_check_resources(const Runtime__V1__LinuxContainerResources *r, struct err *err);
/* "" -> dflt; relative paths begin at the root. "..", or a slice without the systemd driver:
 * GRPC_INVALID_ARGUMENT. */
int spec_cgroup_parent(const char *asked, const char *dflt, const struct spec_node *node,
                       char **ret, struct err *err);

/* Who runs; what ContainerStatus.user says. */
struct spec_user {
    uid_t uid;
    gid_t gid;
    gid_t *groups;                   /* sorted; the primary one included */
    size_t n_groups;
    char *home;                      /* of passwd, "/" */
};

/* run_as_*, supplemental groups and their policy over the image's USER, passwd and group
 * (CRI.md 7.3). layers: directories, top first. image_user: "" for none. An unknown name:
 * GRPC_INVALID_ARGUMENT. */
int spec_resolve_user(const char *const *layers, size_t n_layers,
                      const Runtime__V1__ContainerConfig *c, const char *image_user,
                      struct spec_user *ret, struct err *err);
void spec_user_deinit(struct spec_user *u);

struct spec_volume {                 /* an image mounted by mounts[].image */
    const char *container_path;      /* as in the request */
    const char *lower;               /* layer directories, top first, joined by ':' */
};

/* All borrowed: needs to live as long as the struct spec. */
struct spec_input {
    const char *id;
    const Runtime__V1__ContainerConfig *config;
    const Runtime__V1__PodSandboxConfig *sandbox;
    const Cricket__State__ImageConfig *image;       /* NULL: no defaults */
    const Runtime__V1__LinuxContainerResources *resources;  /* in force; NULL: those of config */
    const struct spec_user *user;
    const struct spec_node *node;
    const char *lower;               /* layer directories, top first, joined by ':' */
    const char *upper, *work;
    const char *pod_dir;             /* has hostname, hosts, resolv.conf */
    const char *cgroup;              /* the container's, or NULL: none yet */
    const char *selinux;             /* the pod's process context, "" or NULL: none */
    const struct spec_volume *volumes;
    size_t n_volumes;
    const char *log_path;            /* absolute, "": none */
    const char *hostname;            /* for HOSTNAME: the pod's, or the node's on host network */
    uint32_t log_line_max;
    uint64_t rlimit_nofile;          /* 0: inherited */
};

enum spec_seccomp { SPEC_SECCOMP_NONE, SPEC_SECCOMP_DEFAULT, SPEC_SECCOMP_FILE };

struct spec {
    struct plan plan;                /* process.seccomp is still empty: see below */
    enum spec_seccomp seccomp;       /* what to get from seccomp_get() */
    const char *seccomp_path;        /* FILE: absolute path of the profile */
    struct cgroup_limits limits;     /* for the container's cgroup */
    const struct cgroup_device_rule *device_rules;  /* NULL: everything is allowed (privileged) */
    size_t n_device_rules;
    bool privileged;
    struct pool *pool;               /* the strings and arrays of it all */
    struct cdi_edits *cdi;           /* NULL: none */
    const Runtime__V1__UserNamespace *userns;     /* the sandbox's */
};

/* The container's process context (a privileged one is not given it, but its files' follows from
 * it); from the pool. NULL: SELinux is off. */
char *spec_selinux(const struct spec_input *in, struct pool *p);

int spec_build(const struct spec_input *in, struct spec **ret, struct err *err);
struct spec *spec_free(struct spec *s);

/* A process in a running container: as its first one, but argv, tty, stdin. The caller owns the
 * plan_process' parts through *ret. */
struct spec_exec {
    struct plan_process process;
    enum spec_seccomp seccomp;
    const char *seccomp_path;
    struct pool *pool;
    struct cdi_edits *cdi;
};

int spec_build_exec(const struct spec_input *in, char *const *cmd, size_t n_cmd, bool tty,
                    bool with_stdin, struct spec_exec **ret, struct err *err);
struct spec_exec *spec_exec_free(struct spec_exec *x);

/* LinuxContainerResources (NULL: none) and the container's annotation "cgroup.pids.max" -> limits.
 * The strings are r's; free with spec_limits_deinit(). */
int spec_limits(const Runtime__V1__LinuxContainerResources *r,
                const Runtime__V1__ContainerConfig *c, struct cgroup_limits *ret, struct err *err);
void spec_limits_deinit(struct cgroup_limits *l);

/* Like config.json of the OCI runtime-spec, for verbose info ("runtimeSpec"). New reference.
 * cgroup_path, netns: "" leaves them out. Environment values are shown as they are: the request's
 * owner asks. */
json_t *spec_json(const struct spec *s, const char *cgroup_path, const char *netns);

/* spec_oci.c: config.json for an OCI runtime that cricket-pod drives with `bundle` (pod/oci.c has
 * what lies in there); seccomp: the text of linux.seccomp, NULL for none. Caller frees. */
int spec_oci_config(const struct spec *s, const char *cgroup_path, const char *bundle,
                    const char *seccomp, size_t seccomp_len, char **ret, struct err *err);
/* process.json of a process in a running container. Caller frees. */
int spec_oci_process(const struct plan_process *p, char **ret, struct err *err);

/* spec_hooks.c: the plan's hooks (those of s->cdi, if any) and what they are shown, in the spec's
 * pool. bundle: where config.json will be; as spec_json() otherwise. */
int spec_hooks(struct spec *s, const Runtime__V1__ContainerConfig *c, const char *cgroup_path,
               const char *netns, const char *bundle, struct err *err);

/* The effective stop signal, for the wait4(2) side and for ContainerStatus (either may be NULL):
 * request, image's StopSignal ("SIGTERM", "TERM", "15", "RTMIN+3"), else SIGTERM. Number of this
 * machine, or GRPC_INVALID_ARGUMENT for enum numbers above 65. An image's nonsense counts as none.
 */
int spec_stop_signal(Runtime__V1__Signal asked, const char *image_signal, int *ret,
                     Runtime__V1__Signal *ret_enum, struct err *err);

#endif
