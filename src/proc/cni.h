/* SPDX-License-Identifier: Apache-2.0 */
/* CNI as libcni does it (CRI.md 14): conflists from the configured directories, the real plugins as reaped children with a
 * deadline, different pods in parallel. The caller keeps config and result of an attachment and gives them back for DEL. */
#ifndef CRICKET_CNI_H
#define CRICKET_CNI_H

#include "err.h"
#include "proc/plan.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cni;

struct cni_opts {
    char *const *conf_dirs;          /* NULL terminated */
    char *const *bin_dirs;
    int64_t timeout_ms;              /* for one plugin call where the caller gives none */
};

struct cni_port {
    const char *protocol;            /* "tcp" */
    int host_port, container_port;
    const char *host_ip;
};

struct cni_attach {
    const char *id, *netns;          /* netns "" where it is gone */
    const char *pod_name, *pod_namespace, *pod_uid;
    const struct cni_port *ports;
    size_t n_ports;
    char *const *dns_servers, *const *dns_searches, *const *dns_options;  /* NULL terminated or NULL */
    const struct plan_pair *annotations;
    size_t n_annotations;
    const char *cgroup_path;
    const char *config, *result;     /* DEL, CHECK: as they were returned by ADD */
};

struct cni_result {
    const char *config;              /* the conflist used, JSON */
    const char *result;              /* last plugin's result, JSON */
    const char *const *ips;          /* addresses without prefix length; IPv4 first */
    size_t n_ips;
};

int cni_new(struct loop *l, const struct cni_opts *o, struct cni **ret, struct err *err);
struct cni *cni_free(struct cni *c);
/* NULL: ready. Else why not ("cni config not initialized: no network config in /etc/cni/net.d"). Follows the directories by inotify. */
const char *cni_not_ready(struct cni *c);
const char *cni_config_json(struct cni *c);      /* the conflist in force, for verbose Status; "" */
const char *cni_last_load(struct cni *c);        /* "OK" or the error of the last load */

struct cni_call;
/* r on success; else err. After a failed ADD the list has been DELeted again already. */
typedef void (*cni_done_fn)(void *arg, const struct cni_result *r, const struct err *err);
int cni_add(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done, void *arg, struct cni_call **ret,
            struct err *err);
int cni_del(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done, void *arg, struct cni_call **ret,
            struct err *err);
int cni_check(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done, void *arg,
              struct cni_call **ret, struct err *err);
/* Kills the running plugin. An ADD is DELeted first; done is called (GRPC_CANCELLED) when that is over. */
void cni_cancel(struct cni_call *c);

#endif
