/* SPDX-License-Identifier: Apache-2.0 */
/* Puts a launch plan together from a request that has passed spec_check_container(), the image's
 * defaults and the sandbox. Strings are borrowed from the request where they can be, and made in
 * the spec's own pool where not. */
#include "handlers/spec.h"

#include "handlers/selinux.h"
#include "handlers/spec_impl.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <string.h>

#define MODE(x) RUNTIME__V1__NAMESPACE_MODE__##x

static int pids_limit(const container_config *c, int64_t *ret, struct err *err)
{
    for (size_t i = 0; i < c->n_annotations; i++) {
        const char *v = c->annotations[i]->value;
        char *end;
        long long n;

        if (strcmp(c->annotations[i]->key, "cgroup.pids.max") != 0)
            continue;
        errno = 0;
        n = strtoll(v, &end, 10);
        if (!v[0] || *end || errno || n < -1)
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "annotation cgroup.pids.max: '%.64s' is not -1 or a number", v);
        *ret = n;
    }
    return 0;
}

int spec_limits(const Runtime__V1__LinuxContainerResources *r, const container_config *c,
                struct cgroup_limits *ret, struct err *err)
{
    struct cgroup_limits l = { .pids = 0 };
    struct cgroup_hugepage *huge;
    struct plan_pair *unified;
    int k = spec_check_resources(r, err);

    if (k == 0)
        k = pids_limit(c, &l.pids, err);
    if (k < 0)
        return k;
    if (r) {
        l.cpu_shares = (uint64_t)r->cpu_shares;
        l.cpu_quota = r->cpu_quota;
        l.cpu_period = (uint64_t)r->cpu_period;
        l.memory = r->memory_limit_in_bytes;
        l.memory_swap = r->memory_swap_limit_in_bytes;
        l.cpuset_cpus = r->cpuset_cpus;
        l.cpuset_mems = r->cpuset_mems;
        huge = mem_array(r->n_hugepage_limits, sizeof *huge);
        for (size_t i = 0; i < r->n_hugepage_limits; i++)
            huge[i] = (struct cgroup_hugepage){ r->hugepage_limits[i]->page_size,
                                                r->hugepage_limits[i]->limit };
        unified = mem_array(r->n_unified, sizeof *unified);
        for (size_t i = 0; i < r->n_unified; i++)
            unified[i] = (struct plan_pair){ r->unified[i]->key, r->unified[i]->value };
        l.hugepages = huge;
        l.n_hugepages = r->n_hugepage_limits;
        l.unified = unified;
        l.n_unified = r->n_unified;
    }
    *ret = l;
    return 0;
}

void spec_limits_deinit(struct cgroup_limits *l)
{
    free((void *)(uintptr_t)l->hugepages);
    free((void *)(uintptr_t)l->unified);
    l->hugepages = NULL;
    l->unified = NULL;
    l->n_hugepages = l->n_unified = 0;
}

static enum plan_pidns pid_namespace(const Runtime__V1__NamespaceOption *ns,
                                     const Runtime__V1__NamespaceOption *pod)
{
    switch (ns ? ns->pid : MODE(POD)) {
    case MODE(CONTAINER): return PLAN_PID_OWN;
    case MODE(NODE): return PLAN_PID_HOST;
    case MODE(TARGET): return PLAN_PID_TARGET;
    default: return pod && pod->pid == MODE(NODE) ? PLAN_PID_HOST : PLAN_PID_POD;
    }
}

static void namespaces(const struct spec_input *in, struct plan *plan)
{
    const Runtime__V1__NamespaceOption *ns = spec_ns(in->config),
                                       *pod = spec_sandbox_ns(in->sandbox);

    plan->pidns = pid_namespace(ns, pod);
    plan->host_net = spec_host_net(in->config, in->sandbox);
    plan->host_uts = plan->host_net;
    plan->host_ipc = (ns && ns->ipc == MODE(NODE)) || (pod && pod->ipc == MODE(NODE));
    plan->host_userns = !spec_userns(in->sandbox);
    plan->own_cgroupns = cgroup_is_v2() && !spec_is_privileged(in->config);
}

static int build(const struct spec_input *in, struct spec *s, struct err *err)
{
    const container_config *c = in->config;
    const container_sec *sec = spec_sec(c);
    struct plan *plan = &s->plan;
    const char *label;
    int r;

    s->privileged = spec_is_privileged(c);
    s->userns = spec_userns(in->sandbox);
    plan->id = in->id;
    plan->lower = in->lower;
    plan->upper = in->upper;
    plan->work = in->work;
    plan->log_path = in->log_path;
    plan->log_line_max = in->log_line_max;
    plan->rootfs_readonly = sec && sec->readonly_rootfs;
    if (sec && !s->privileged) {
        plan->masked = (const char *const *)sec->masked_paths;
        plan->n_masked = sec->n_masked_paths;
        plan->readonly = (const char *const *)sec->readonly_paths;
        plan->n_readonly = sec->n_readonly_paths;
    }
    namespaces(in, plan);
    r = spec_limits(in->resources ? in->resources :
                    c->linux      ? c->linux->resources :
                                    NULL,
                    c, &s->limits, err);
    if (r == 0)
        r = spec_cdi(c, in->sandbox, in->node, &s->cdi, err);
    if (r == 0)
        r = spec_build_process(in, s->pool, s->cdi, NULL, c->tty, &plan->process, err);
    if (r == 0)
        r = spec_seccomp(c, in->node, &s->seccomp, &s->seccomp_path, err);
    if (r == 0)
        r = spec_build_devices(in, s->pool, s->cdi, s, err);
    if (r < 0)
        return r;
    label = spec_selinux(in, s->pool);
    if (label)
        plan->mount_label = selinux_file(s->pool, label, in->node, false);
    plan->process.stdin_open = c->stdin;
    plan->process.stdin_once = c->stdin_once;
    spec_build_mounts(in, s->pool, s->cdi, plan);
    spec_build_netdevs(s->pool, s->cdi, plan);
    spec_build_rdt(s->pool, s->cdi, plan);
    return 0;
}

int spec_build(const struct spec_input *in, struct spec **ret, struct err *err)
{
    struct spec *s = mem_new(struct spec);
    int r;

    s->pool = mem_new(struct pool);
    r = build(in, s, err);
    if (r < 0) {
        spec_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

struct spec *spec_free(struct spec *s)
{
    if (!s)
        return NULL;
    spec_limits_deinit(&s->limits);
    cdi_edits_free(s->cdi);
    pool_deinit(s->pool);
    free(s->pool);
    free(s);
    return NULL;
}

int spec_build_exec(const struct spec_input *in, char *const *cmd, size_t n_cmd, bool tty,
                    bool with_stdin, struct spec_exec **ret, struct err *err)
{
    struct spec_exec *x;
    char **argv;
    int r;

    if (!n_cmd)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "exec: no command given");
    x = mem_new(struct spec_exec);
    x->pool = mem_new(struct pool);
    argv = pool_alloc(x->pool, (n_cmd + 1) * sizeof *argv);
    for (size_t i = 0; i < n_cmd; i++)
        argv[i] = pool_strdup(x->pool, cmd[i]);
    r = spec_cdi(in->config, in->sandbox, in->node, &x->cdi, err);
    if (r == 0)
        r = spec_build_process(in, x->pool, x->cdi, argv, tty, &x->process, err);
    if (r == 0)
        r = spec_seccomp(in->config, in->node, &x->seccomp, &x->seccomp_path, err);
    if (r < 0) {
        spec_exec_free(x);
        return r;
    }
    x->process.stdin_open = with_stdin;
    *ret = x;
    return 0;
}

struct spec_exec *spec_exec_free(struct spec_exec *x)
{
    if (!x)
        return NULL;
    cdi_edits_free(x->cdi);
    pool_deinit(x->pool);
    free(x->pool);
    free(x);
    return NULL;
}
