/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration: defaults, then config.yaml, then the drop-ins config.d/?*.yaml beside it in
 * name order (later wins), then the command line -> struct conf.
 *
 * An unknown key, a wrong type or a bad value is an error with file and line. cricket.yaml(5)
 * documents every key; conf.c has them in one table. A list in a later file replaces an earlier
 * one; `runtimes` and `registries` are merged by name. Reads files and may ask NSS for names, so it
 * blocks: for start-up only. */
#ifndef CRICKET_CONF_H
#define CRICKET_CONF_H

#include "err.h"
#include "log.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CONF_FILE SYSCONFDIR "/cricket/config.yaml"
#define CONF_ROOT "/var/lib/cricket"
#define CONF_STATE "/run/cricket"
#define CONF_APPARMOR "cricket-default"

enum conf_cgroup_driver { CONF_CGROUPFS, CONF_SYSTEMD };

struct conf_runtime {
    char *name;
    char *path;                      /* NULL: the native launcher; else an OCI runtime binary */
    struct conf_runtime *next;
};

struct conf_mirror {                 /* registries.mirrors of k3s's registries.yaml */
    char *host;                      /* "docker.io", "*" */
    char **endpoints;                /* URLs in order (https:// or http://), NULL terminated */
    char **rewrite;                  /* pattern, replacement, pattern, ..., NULL; NULL: none */
    struct conf_mirror *next;
};

struct conf_registry {               /* registries.configs; absent members are NULL */
    char *host;                      /* host[:port] */
    char *username, *password, *auth, *identity_token;
    char *ca_file, *cert_file, *key_file;
    bool insecure_skip_verify;
    struct conf_registry *next;
};

struct conf {
    char *root, *state;
    char *listen;                    /* a path, without unix:// */
    mode_t socket_mode;
    uid_t socket_uid;                /* (uid_t)-1: not given */
    gid_t socket_gid;                /* (gid_t)-1: not given */
    enum log_level log_level;
    enum conf_cgroup_driver cgroup_driver;
    char *cgroup_parent;             /* "/cricket"; with the systemd driver "cricket.slice" */
    char **cdi_spec_dirs;            /* a later one wins */
    char **cni_conf_dirs, **cni_bin_dirs;
    int64_t cni_timeout_ms;          /* of one plugin run */
    char *seccomp_profile;           /* "": built in */
    bool selinux;                    /* false: as if the kernel had none */
    char *apparmor_profile;          /* CONF_APPARMOR: built in, "unconfined": none */
    char *criu;                      /* for checkpoints; "": refused */
    char *libexec_dir;               /* where cricket-pod and cricket-worker are */
    struct conf_mirror *mirrors;
    struct conf_registry *registries;
    char *registries_file;           /* "": none; its contents are in the two lists above already */
    int64_t pull_stall_ms;
    unsigned pull_max_transfers, pull_max_layers;
    char **pinned_images;            /* fnmatch(3) patterns on normal references */
    char *stream_address;            /* an IP address */
    int stream_port;                 /* 0: any free one */
    int64_t stream_wait_ms;          /* a URL waits for its client */
    int64_t stream_idle_ms;          /* a connection on which nothing moves is ended */
    /* what RuntimeClass handlers may name beside "" and "cricket" */
    struct conf_runtime *runtimes;
    uint32_t log_line_max;           /* bytes of content per log entry */
    bool create_missing_host_paths;
    char **default_sysctls;          /* "name=value": set in each pod's own network namespace */
    uint64_t rlimit_nofile;          /* 0: inherited */
    int64_t supervisor_stall_ms;     /* of one that owes an answer: then it hangs */
    int64_t shutdown_ms;             /* how long calls in flight may take after SIGTERM */
    char *json;                      /* all of it without secrets, for verbose Status */
};

struct conf_args {                   /* the command line wins over files; NULL: not given */
    const char *file;                /* given: must exist */
    const char *dir;                 /* NULL: config.d in the folder of the file */
    const char *root, *state;
    const char *listen;              /* with unix:// */
    const char *log_level;
};

int conf_load(const struct conf_args *a, struct conf **ret, struct err *err);
struct conf *conf_free(struct conf *c);

/* The n-th key of the table ("cni.timeout"), NULL after the last: documentation tests. */
const char *conf_key_name(size_t n);

#endif
