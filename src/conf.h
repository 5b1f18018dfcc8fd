/* SPDX-License-Identifier: Apache-2.0 */
/* /etc/cricket/config.yaml with drop-ins config.d/?*.yaml (in name order, later wins) -> struct conf. An unknown key or a bad value is an error with
 * file and line. cricket.yaml(5) documents every key; conf.c has them in one table. */
#ifndef CRICKET_CONF_H
#define CRICKET_CONF_H

#include "err.h"
#include "log.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum conf_cgroup_driver { CONF_CGROUPFS, CONF_SYSTEMD };

struct conf_runtime {
    char *name;
    char *path;                      /* NULL: the native launcher; else an OCI runtime binary */
    struct conf_runtime *next;
};

struct conf_mirror {                 /* registries.mirrors of k3s's registries.yaml */
    char *host;                      /* "docker.io", "*" */
    char **endpoints;                /* URLs in order, NULL terminated */
    struct conf_mirror *next;
};

struct conf_registry {               /* registries.configs */
    char *host;
    char *username, *password, *auth, *identity_token;
    char *ca_file, *cert_file, *key_file;
    bool insecure_skip_verify;
    struct conf_registry *next;
};

struct conf {
    char *root, *state, *listen;     /* listen: a path, without unix:// */
    mode_t socket_mode;
    uid_t socket_uid;                /* (uid_t)-1: not given */
    gid_t socket_gid;
    enum log_level log_level;
    enum conf_cgroup_driver cgroup_driver;
    char *cgroup_parent;             /* "/cricket" */
    char **cni_conf_dirs, **cni_bin_dirs;
    int64_t cni_timeout_ms;
    char *seccomp_profile;           /* "" : built in */
    char *libexec_dir;               /* where cricket-pod and cricket-worker are */
    struct conf_mirror *mirrors;
    struct conf_registry *registries;
    char *registries_file;
    int64_t pull_stall_ms;
    unsigned pull_max_transfers, pull_max_layers;
    char **pinned_images;            /* patterns */
    char *stream_address;
    int stream_port;
    struct conf_runtime *runtimes;
    uint32_t log_line_max;
    bool create_missing_host_paths;
    char **unprivileged_sysctls;     /* reserved for options: "net.ipv4.ip_unprivileged_port_start=0" set in each pod's network namespace */
    uint64_t rlimit_nofile;          /* 0: inherited */
    int64_t shutdown_ms;
    char *json;                      /* all of it without secrets, for verbose Status */
};

struct conf_args {                   /* the command line wins over files; NULL: not given */
    const char *file, *dir, *root, *state, *listen, *log_level;
};

/* Defaults, then files, then arguments. -ENOENT of the default file is not an error, of a given one it is. */
int conf_load(const struct conf_args *a, struct conf **ret, struct err *err);
struct conf *conf_free(struct conf *c);

#endif
