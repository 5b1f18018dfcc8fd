/* SPDX-License-Identifier: Apache-2.0 */
/* CNI as libcni does it (CRI.md 14): conflists from the configured directories, the real plugins as
 * reaped children with a deadline, different pods in parallel. The caller keeps config and result
 * of an attachment and gives them back for DEL. */
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
    const char *hold_dir;            /* on a tmpfs, there already: what ADDs and DELs have begun */
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
    char *const *dns_servers;        /* these three: NULL terminated, or NULL */
    char *const *dns_searches, *const *dns_options;
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

/* Reads the configuration; that there is none (yet) is not an error. The strings of o are
 * copied. */
int cni_new(struct loop *l, const struct cni_opts *o, struct cni **ret, struct err *err);
/* The done functions of what is under way are not called. Plugins of ADD and DEL go on; the next
 * call for the same attachment, of another daemon too, waits for their end. */
struct cni *cni_free(struct cni *c);
/* NULL: ready. Else why not ("cni config not initialized: no network config in /etc/cni/net.d").
 * Follows the directories by inotify. A file that turns bad keeps what was in force before; no file
 * at all is "not ready". For configurations of CNI 1.1.0 the answer of the plugins' STATUS counts
 * as well; it is asked for anew, in the background, when it is older than 10 s. The text is valid
 * until the loop turns. */
const char *cni_not_ready(struct cni *c);
const char *cni_config_json(struct cni *c);      /* the conflist in force, for verbose Status; "" */
const char *cni_last_load(struct cni *c);        /* "OK" or the error of the last load */

struct cni_call;
/* r on success; else err. After a failed ADD the list has been DELeted again already; where that
 * failed, there are both: a cni_del() with r->config is still due. Never called before cni_add()
 * etc. have returned; r and err are valid during the call, the call is over after it. */
typedef void (*cni_done_fn)(void *arg, const struct cni_result *r, const struct err *err);
/* What is in `a` is copied. timeout_ms: for all plugins of the list together; 0:
 * cni_opts.timeout_ms for each (as the undo of a failed ADD always has). Calls for one attachment
 * must not overlap; those for different ones run side by side. ADD uses the configuration in force
 * (GRPC_UNKNOWN "cni config not initialized..." without one), DEL and CHECK a->config; DEL without
 * a->config (it is not known whether ADD ever ran) that in force. Annotations:
 * kubernetes.io/{ingress,egress}-bandwidth; for plugins with the capability also
 * cni.cricket/{ips,mac,aliases,device-id,infiniband-guid,ip-ranges}. Pairs of CNI_ARGS whose value
 * has a ';' or '=' are left out. */
int cni_add(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done,
            void *arg, struct cni_call **ret, struct err *err);
int cni_del(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done,
            void *arg, struct cni_call **ret, struct err *err);
int cni_check(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done,
              void *arg, struct cni_call **ret, struct err *err);
/* Tells the plugins of the configuration in force which sandboxes still have their network
 * (CNI 1.1.0 and newer, unless disableGC; else done is told success at once). Attachments that are
 * cached but stale are the caller's to cni_del() before. ids: NULL terminated. An ADD that comes
 * meanwhile begins when it is over; one GC at a time (-EBUSY). */
int cni_gc(struct cni *c, const char *const *ids, int64_t timeout_ms, cni_done_fn done, void *arg,
           struct cni_call **ret, struct err *err);
/* The running plugin may end by itself for some seconds (one that is killed may leave behind what
 * no DEL finds), then it is killed; no other is started. An ADD is DELeted then; done is called
 * (GRPC_CANCELLED) when that is over, never inside of cni_cancel(). An undo that runs already goes
 * on. */
void cni_cancel(struct cni_call *c);

#endif
