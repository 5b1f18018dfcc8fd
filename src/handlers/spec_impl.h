/* SPDX-License-Identifier: Apache-2.0 */
/* What the spec_*.c files share; for nobody else. Check functions come first (at create), build
 * functions fill parts of the plan from a request that has passed them. */
#ifndef CRICKET_SPEC_IMPL_H
#define CRICKET_SPEC_IMPL_H

#include "reactor/pool.h"
#include "handlers/spec.h"
#include "proc/cdi.h"

typedef Runtime__V1__ContainerConfig container_config;
typedef Runtime__V1__LinuxContainerSecurityContext container_sec;

static inline const container_sec *spec_sec(const container_config *c)
{
    return c->linux ? c->linux->security_context : NULL;
}

static inline bool spec_is_privileged(const container_config *c)
{
    return spec_sec(c) && spec_sec(c)->privileged;
}

static inline const Runtime__V1__NamespaceOption *spec_ns(const container_config *c)
{
    return spec_sec(c) ? spec_sec(c)->namespace_options : NULL;
}

static inline const Runtime__V1__NamespaceOption *
spec_sandbox_ns(const Runtime__V1__PodSandboxConfig *s)
{
    return s->linux && s->linux->security_context ? s->linux->security_context->namespace_options :
                                                    NULL;
}

static inline bool spec_host_net(const container_config *c, const Runtime__V1__PodSandboxConfig *s)
{
    const Runtime__V1__NamespaceOption *ns = spec_ns(c), *pod = spec_sandbox_ns(s);

    return (ns && ns->network == RUNTIME__V1__NAMESPACE_MODE__NODE) ||
           (pod && pod->network == RUNTIME__V1__NAMESPACE_MODE__NODE);
}

/* Absolute, without ".", "..", double or trailing slashes (".." at the root is the root). */
char *spec_path_clean(struct pool *p, const char *path);
/* Is path (clean) at or below top (clean)? */
bool spec_path_below(const char *path, const char *top);

/* spec_host.c: a look at the host that does not wait for servers. 0 with *ret_fd (O_PATH), 1: on a
 * network file system and not in the kernel's cache, so not looked at; or -errno. */
int spec_host_open(const char *path, int *ret_fd);
/* "shared:1 master:2" of the mount that fd is on, and its mount point. Caller frees both. */
int spec_host_mount(int fd, char **ret_propagation, char **ret_point);

int spec_check_mounts(const container_config *c, const struct spec_node *node, struct err *err);
/* edits: of CDI, or NULL; here and below. They need to live as long as the plan. */
void spec_build_mounts(const struct spec_input *in, struct pool *p, const struct cdi_edits *edits,
                       struct plan *plan);

int spec_check_devices(const container_config *c, struct err *err);
int spec_build_devices(const struct spec_input *in, struct pool *p, const struct cdi_edits *edits,
                       struct spec *s, struct err *err);

int spec_check_process(const container_config *c, const struct spec_node *node, struct err *err);
/* argv NULL: from request and image. */
int spec_build_process(const struct spec_input *in, struct pool *p, const struct cdi_edits *edits,
                       char *const *argv, bool tty, struct plan_process *ret, struct err *err);
int spec_seccomp(const container_config *c, const struct spec_node *node, enum spec_seccomp *ret,
                 const char **ret_path, struct err *err);
/* *ret: NULL for none; borrowed from c or static. */
int spec_apparmor(const container_config *c, const struct spec_node *node, const char **ret,
                  struct err *err);

/* spec_json.c */
json_t *spec_json_process(const struct plan_process *p);
json_t *spec_json_text(const char *s);           /* what is not UTF-8 is replaced */
json_t *spec_json_texts(char *const *v);

/* spec_hooks.c: of CDI devices, as config.json has them; NULL for none. */
json_t *spec_hooks_json(const struct cdi_edits *e);
json_t *spec_netdevs_json(const struct cdi_edits *e);
json_t *spec_rdt_json(const struct cdi_rdt *t);
/* plan.netdevs, plan.rdt */
void spec_build_netdevs(struct pool *p, const struct cdi_edits *e, struct plan *plan);
void spec_build_rdt(struct pool *p, const struct cdi_edits *e, struct plan *plan);

/* spec_cdi.c. *ret: NULL when the request names no device; free with cdi_edits_free(). */
int spec_cdi(const container_config *c, const Runtime__V1__PodSandboxConfig *sandbox,
             const struct spec_node *node, struct cdi_edits **ret, struct err *err);
int spec_check_cdi(const container_config *c, const Runtime__V1__PodSandboxConfig *sandbox,
                   const struct spec_node *node, struct err *err);
struct plan_mount spec_cdi_mount(struct pool *p, const struct cdi_mount *m);

#endif
