/* SPDX-License-Identifier: Apache-2.0 */
/* The objects in memory: sandboxes and containers by id, what everything in src/handlers/ works on.
 *
 * Memory is the truth for reads; sandbox_save() and ctr_save() hand the record to the store, which
 * commits it before the replies of this turn leave. An object is visible to clients from the moment
 * its creation has succeeded until its removal is done. Operations on one object take turns
 * (handlers/turn.h); a stop may be joined.
 *
 *   handlers -- sandboxes (sorted by id) -- struct sandbox -- link to its supervisor
 *            `- ctrs      (sorted by id) -- struct ctr, each also in its sandbox's ring, oldest
 * first
 */
#ifndef CRICKET_OBJECTS_H
#define CRICKET_OBJECTS_H

#include "conf.h"
#include "err.h"
#include "handlers/spec.h"
#include "list.h"
#include "proc/cni.h"
#include "proc/link.h"
#include "proc/seccomp.h"
#include "pull/hosts.h"
#include "pull/pull.h"
#include "pull/ref.h"
#include "reactor/grpc.h"
#include "reactor/loop.h"
#include "reactor/op.h"
#include "reactor/stream.h"
#include "runtime.pb-c.h"
#include "state.pb-c.h"
#include "store/images.h"
#include "store/store.h"
#include "str.h"

enum { ID_LEN = 64, SCHEMA = 1 };

struct pool;

/* Objects whose first member is `char id[ID_LEN + 1]`, sorted by it. */
struct idmap {
    void **v;
    size_t n, cap;
};

struct handlers {
    struct loop *loop;
    const struct conf *conf;
    struct store *store;
    struct images *images;
    struct puller *puller;
    struct cni *cni;
    struct seccomp_cache *seccomp;
    struct idmap sandboxes, ctrs;
    struct link_opts link_opts;
    struct spec_node node;           /* what this node can do: spec.h */
    struct hosts *hosts;             /* of the configuration, for the puller */
    char boot_id[40];
    char *pod_path, *worker_path, *no_userns;
    bool init_layer;                 /* there is one (layers.h) */
    char *selinux_process, *selinux_file;        /* node has them */
    char pod_cidr[256];              /* of UpdateRuntimeConfig */
    struct list acks;                /* exits to be told to the supervisors after the commit */
    struct list subscribers;         /* of GetContainerEvents */
    struct list pulls;
    struct list runtimes;            /* what OCI runtimes can do: runtimes.c */
    struct list sweeps;              /* cgroups that could not be removed yet */
    struct list pod_checkpoints;     /* of CheckpointPod, while they are made: pod_checkpoint.c */
    bool ending;
    struct net_check *net_check;     /* CHECK of the attachments after a restart, while it runs */
    struct stats_state *stats;
    struct stream_server *stream;    /* exec, attach, port-forward connections */
};

struct sandbox {
    char id[ID_LEN + 1];
    struct handlers *h;
    Cricket__State__Sandbox *rec;    /* rec->config is empty in memory: see config */
    Runtime__V1__PodSandboxConfig *config;
    struct link *link;               /* NULL: no supervisor (NOTREADY) */
    struct meeting *meeting;         /* its supervisor is yet to answer (recover.h), or NULL */
    char *dir;                       /* <state>/pods/<id> */
    struct list ctrs;                /* struct ctr.in_sandbox, oldest first */
    struct list turns;               /* operations on it; the first one runs, the others wait */
    struct list forwards;            /* struct exec_base: port-forwards, ended with the sandbox */
    struct op *run, *stop, *remove;  /* live operation of that kind, or NULL */
    struct op *poststop;             /* hooks after a crash of the supervisor */
    bool visible;
    struct str listed;               /* encoded runtime.v1.PodSandbox; empty: make it anew */
    struct ctr_stats *stats;         /* of the pod's cgroup: as struct ctr.stats */
};

struct ctr {
    char id[ID_LEN + 1];
    struct handlers *h;
    struct sandbox *sandbox;
    struct list in_sandbox;
    Cricket__State__Container *rec;  /* rec->config and rec->resources are empty in memory */
    Runtime__V1__ContainerConfig *config;
    Runtime__V1__LinuxContainerResources *resources; /* in force; never NULL */
    int pidfd;                       /* of the first process while it runs, else -1 */
    struct list turns;
    struct op *create, *start, *stop, *remove;
    struct list exit_waits;          /* struct exit_wait */
    uint64_t execs_link; /* link_number() of the link over which an exec brought its cgroup; 0 */
    struct list execs; /* struct exec_base: execs and attaches, ended with the container */
    bool visible;
    struct str listed;               /* encoded runtime.v1.Container; empty: make it anew */
    struct ctr_stats *stats;         /* samples of handlers/stats.c, freed by ctr_stats_free() */
};

/* --- lookup. Ids may be unique prefixes. Only visible objects are found. NULL with err: empty or
 * ambiguous id (GRPC_INVALID_ARGUMENT, matches named), or absent (GRPC_NOT_FOUND). */
struct sandbox *sandbox_find(struct handlers *h, const char *id, struct err *err);
struct ctr *ctr_find(struct handlers *h, const char *id, struct err *err);
/* For list filters: does id match what the filter says ("" matches everything)? */
bool id_matches(const char *id, const char *prefix);
struct sandbox *sandbox_by_id(struct handlers *h, const char *id); /* exact, visible or not */
struct ctr *ctr_by_id(struct handlers *h, const char *id);

#define sandbox_each(h, i, s) \
    for (size_t i = 0; i < (h)->sandboxes.n && ((s) = (struct sandbox *)(h)->sandboxes.v[i], 1); \
         i++)
#define ctr_each(h, i, c) \
    for (size_t i = 0; i < (h)->ctrs.n && ((c) = (struct ctr *)(h)->ctrs.v[i], 1); i++)

/* --- life */
void new_id(char id[ID_LEN + 1]);        /* 64 hex digits from getrandom(2) */
struct sandbox *sandbox_new(struct handlers *h, const char *id);
void sandbox_free(
    struct sandbox *s); /* out of the index, link dropped; its containers must be gone */
struct ctr *ctr_new(struct sandbox *s, const char *id);
void ctr_free(struct ctr *c);
void sandbox_save(struct sandbox *s);    /* record to the store; the list entry is made anew */
void ctr_save(struct ctr *c);
void sandbox_forget(struct sandbox *s);  /* record deleted, object freed */
void ctr_forget(struct ctr *c);
bool ctr_seccomp_used(void *handlers, const char *key);  /* has any container this filter? */
struct sandbox *sandbox_load(struct handlers *h, const void *rec, size_t len, struct err *err);
struct ctr *ctr_load(struct handlers *h, const void *rec, size_t len, struct err *err);
/* Set a field of a message that protobuf-c will free. */
void pb_set(char **field, const char *value);
void pb_set_bytes(ProtobufCBinaryData *field, const void *p, size_t n);

/* --- what they say */
const struct str *sandbox_listed(struct sandbox *s);     /* encoded runtime.v1.PodSandbox */
const struct str *ctr_listed(struct ctr *c);             /* encoded runtime.v1.Container */
bool sandbox_is_ready(const struct sandbox *s);
/* GRPC_UNAVAILABLE while its supervisor hangs: it has not answered since the start (recover.h), or
 * not what it was asked (link_hangs()). */
int sandbox_met(const struct sandbox *s, struct err *err);
const Runtime__V1__NamespaceOption *sandbox_namespaces(const struct sandbox *s); /* may be NULL */
bool sandbox_host_network(const struct sandbox *s);
Runtime__V1__ContainerState ctr_state(const struct ctr *c);
/* Pointers of the filled message lead into the object and into the pool: do not free its parts. */
void sandbox_status_fill(struct sandbox *s, Runtime__V1__PodSandboxStatus *st, struct pool *pool);
void ctr_status_fill(struct ctr *c, Runtime__V1__ContainerStatus *st, struct pool *pool);

/* --- events (events.c). The snapshot is taken when it is called. */
void event_ctr(struct ctr *c, Runtime__V1__ContainerEventType type);
void event_sandbox(struct sandbox *s, Runtime__V1__ContainerEventType type);

#endif
