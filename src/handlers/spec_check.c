/* SPDX-License-Identifier: Apache-2.0 */
/* What can be said about a request before anything is made (CRI.md 6 and 7).
 *
 * critest and kubelet expect a bad request to fail at RunPodSandbox or CreateContainer, not at the
 * start, and a field that this version cannot honour to be refused by name. Numbers of an enum that
 * nobody knows are refused as well: as 0 they would mean something. */
#include "handlers/selinux.h"
#include "handlers/spec_impl.h"
#include "mem.h"
#include "proc/caps.h"
#include "str.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HOST_NAME_LEN_MAX = 64, ENV_KEY_MAX = 32768 };

typedef Runtime__V1__PodSandboxConfig sandbox_config;
typedef Runtime__V1__NamespaceOption ns_option;

#define MODE(x) RUNTIME__V1__NAMESPACE_MODE__##x

static bool file_starts(const char *path, char c)
{
    FILE *f = fopen(path, "re");
    int got = f ? fgetc(f) : EOF;

    if (f)
        (void)fclose(f);
    return got == c;
}

const Runtime__V1__UserNamespace *spec_userns(const Runtime__V1__PodSandboxConfig *sandbox)
{
    const ns_option *o = spec_sandbox_ns(sandbox);
    const Runtime__V1__UserNamespace *u = o ? o->userns_options : NULL;

    return u && u->mode == MODE(POD) && u->n_uids && u->n_gids ? u : NULL;
}

void spec_node_init(struct spec_node *n)
{
    *n = (struct spec_node){ .caps = caps_own(), .cdi_dirs = cdi_default_dirs };
    n->apparmor = file_starts("/sys/module/apparmor/parameters/enabled", 'Y');
    /* a filter at NULL: EFAULT where filters are known, EINVAL where they are not, seccomp(2) */
    n->seccomp = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) < 0 && errno == EFAULT;
    n->rro = syscall(SYS_mount_setattr, -1, "", 0, NULL, 0) < 0 && errno != ENOSYS;
}

/* --- shared by sandbox and container */

static int check_ids(const Runtime__V1__Int64Value *user, const Runtime__V1__Int64Value *group,
                     const int64_t *groups, size_t n, int policy, struct err *err)
{
    if (user && (user->value < 0 || user->value > INT32_MAX))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "run_as_user %lld is out of range",
                       (long long)user->value);
    if (group && (group->value < 0 || group->value > INT32_MAX))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "run_as_group %lld is out of range",
                       (long long)group->value);
    for (size_t i = 0; i < n; i++)
        if (groups[i] < 0 || groups[i] > INT32_MAX)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "supplemental group %lld is out of range",
                           (long long)groups[i]);
    if (policy < 0 || policy > RUNTIME__V1__SUPPLEMENTAL_GROUPS_POLICY__Strict)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "unknown supplemental_groups_policy %d", policy);
    return 0;
}

static int check_profile(const Runtime__V1__SecurityProfile *p, const char *what, struct err *err)
{
    if (!p)
        return 0;
    switch (p->profile_type) {
    case RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__RuntimeDefault:
    case RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Unconfined:
        if (p->localhost_ref[0])
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "%s: localhost_ref '%s' needs profile type Localhost", what,
                           p->localhost_ref);
        return 0;
    case RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__Localhost:
        if (!p->localhost_ref[0])
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "%s: profile type Localhost needs localhost_ref", what);
        return 0;
    default:
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s: unknown profile type %d", what,
                       (int)p->profile_type);
    }
}

static int check_map(Runtime__V1__IDMapping *const *m, size_t n, const char *what, struct err *err)
{
    if (n != 1)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "user namespace: one %s mapping is needed, not %zu", what, n);
    if (m[0]->container_id != 0)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "user namespace: the %s mapping begins at %u, not at 0", what,
                       m[0]->container_id);
    if (m[0]->length == 0 || (uint64_t)m[0]->host_id + m[0]->length > UINT32_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "user namespace: %s mapping of %u ids from %u on", what, m[0]->length,
                       m[0]->host_id);
    return 0;
}

static int check_userns(const Runtime__V1__UserNamespace *u, const struct spec_node *node,
                        struct err *err)
{
    int r;

    if (!u)
        return 0;
    switch (u->mode) {
    case MODE(NODE):
        if (u->n_uids || u->n_gids)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "user namespace mode NODE with id mappings");
        return 0;
    case MODE(POD):
        r = check_map(u->uids, u->n_uids, "uid", err);
        if (r == 0)
            r = check_map(u->gids, u->n_gids, "gid", err);
        if (r < 0)
            return r;
        if (!node->userns)
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "user namespaces (userns_options) are not supported%s%s",
                           node->no_userns ? " here: " : "",
                           node->no_userns ? node->no_userns : "");
        return 0;
    case MODE(CONTAINER):
    case MODE(TARGET):
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "user namespace mode %s is not supported",
                       u->mode == MODE(TARGET) ? "TARGET" : "CONTAINER");
    default:
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "unknown user namespace mode %d", (int)u->mode);
    }
}

static int check_pod_or_node(int mode, const char *what, struct err *err)
{
    if (mode == MODE(POD) || mode == MODE(NODE))
        return 0;
    if (mode == MODE(CONTAINER) || mode == MODE(TARGET))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s namespace mode %s is not supported", what,
                       mode == MODE(TARGET) ? "TARGET" : "CONTAINER");
    return err_rpc(err, GRPC_INVALID_ARGUMENT, "unknown %s namespace mode %d", what, mode);
}

static int check_namespaces(const ns_option *o, bool sandbox, const struct spec_node *node,
                            struct err *err)
{
    int r;

    if (!o)
        return 0;
    r = check_pod_or_node(o->network, "network", err);
    if (r == 0)
        r = check_pod_or_node(o->ipc, "ipc", err);
    if (r < 0)
        return r;
    if ((int)o->pid < 0 || o->pid > MODE(TARGET))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "unknown pid namespace mode %d", (int)o->pid);
    if (o->pid == MODE(TARGET) && sandbox)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "pid namespace mode TARGET is for containers");
    if (o->pid == MODE(TARGET) && !o->target_id[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "pid namespace mode TARGET needs target_id");
    return check_userns(o->userns_options, node, err);
}

static int check_cpuset(const char *s, const char *what, struct err *err)
{
    if (strlen(s) > 1024 || s[strspn(s, "0123456789,-")])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s '%.64s' is not a list of numbers", what, s);
    return 0;
}

int spec_check_resources(const Runtime__V1__LinuxContainerResources *r, struct err *err)
{
    int k;

    if (!r)
        return 0;
    if (r->cpu_shares < 0)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "cpu_shares %lld is negative",
                       (long long)r->cpu_shares);
    if (r->cpu_period && (r->cpu_period < 1000 || r->cpu_period > 1000000))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "cpu_period %lld is not between 1000 and 1000000 us",
                       (long long)r->cpu_period);
    if (r->cpu_quota && r->cpu_quota != -1 && r->cpu_quota < 1000)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "cpu_quota %lld is neither -1 nor at least 1000 us",
                       (long long)r->cpu_quota);
    if (r->memory_limit_in_bytes < -1 || r->memory_swap_limit_in_bytes < -1)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "negative memory limit");
    if (r->memory_limit_in_bytes > 0 && r->memory_swap_limit_in_bytes > 0 &&
        r->memory_swap_limit_in_bytes < r->memory_limit_in_bytes)
        return err_rpc(
            err, GRPC_INVALID_ARGUMENT,
            "memory_swap_limit_in_bytes %lld (memory and swap) is below memory_limit_in_bytes %lld",
            (long long)r->memory_swap_limit_in_bytes, (long long)r->memory_limit_in_bytes);
    if (r->oom_score_adj < -1000 || r->oom_score_adj > 1000)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "oom_score_adj %lld is not between -1000 and 1000",
                       (long long)r->oom_score_adj);
    k = check_cpuset(r->cpuset_cpus, "cpuset_cpus", err);
    if (k == 0)
        k = check_cpuset(r->cpuset_mems, "cpuset_mems", err);
    for (size_t i = 0; k == 0 && i < r->n_hugepage_limits; i++) {
        const char *s = r->hugepage_limits[i]->page_size;

        for (const char *c = s; *c && k == 0; c++)
            if (!isalnum((unsigned char)*c) || c - s > 15)
                k = err_rpc(err, GRPC_INVALID_ARGUMENT, "huge page size '%.32s'", s);
        if (!*s)
            k = err_rpc(err, GRPC_INVALID_ARGUMENT, "huge page limit without page_size");
    }
    for (size_t i = 0; k == 0 && i < r->n_unified; i++)
        if (!r->unified[i]->key[0] || strchr(r->unified[i]->key, '/'))
            k = err_rpc(err, GRPC_INVALID_ARGUMENT, "unified resource '%.64s' is not a file name",
                        r->unified[i]->key);
    return k;
}

int spec_cgroup_parent(const char *asked, const char *dflt, const struct spec_node *node,
                       char **ret, struct err *err)
{
    struct pool p = POOL_INIT;
    size_t n = strlen(asked);

    if (!n) {
        *ret = mem_strdup(dflt);
        return 0;
    }
    for (const char *s = asked; *s; s += strcspn(s, "/")) {
        s += strspn(s, "/");
        if (strcspn(s, "/") == 2 && str_starts(s, ".."))
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "cgroup_parent '%s' has '..' in it", asked);
    }
    for (const char *s = asked; *s; s++)
        if (iscntrl((unsigned char)*s))
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "cgroup_parent has a control character in it");
    if (!node->systemd_cgroups && str_ends(asked, ".slice"))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "cgroup_parent '%s' is a systemd slice, but the cgroup driver is cgroupfs",
                       asked);
    if (node->systemd_cgroups && !str_ends(asked, ".slice"))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "cgroup_parent '%s' is no systemd slice, but the cgroup driver is systemd",
                       asked);
    char *clean = mem_strdup(spec_path_clean(&p, asked));
    pool_deinit(&p);
    *ret = clean;
    return 0;
}

/* --- the sandbox */

static bool has_control(const char *s)
{
    for (; *s; s++)
        if (iscntrl((unsigned char)*s))
            return true;
    return false;
}

static int check_dns(const Runtime__V1__DNSConfig *d, struct err *err)
{
    char **const lists[] = { d->servers, d->searches, d->options };
    const size_t n[] = { d->n_servers, d->n_searches, d->n_options };
    static const char *const what[] = { "server", "search", "option" };

    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        for (size_t k = 0; k < n[i]; k++)
            if (has_control(lists[i][k]))
                return err_rpc(err, GRPC_INVALID_ARGUMENT,
                               "dns_config: a %s has a control character in it", what[i]);
    return 0;
}

static int check_ports(const sandbox_config *c, struct err *err)
{
    for (size_t i = 0; i < c->n_port_mappings; i++) {
        const Runtime__V1__PortMapping *m = c->port_mappings[i];
        struct in6_addr a;

        if ((int)m->protocol < 0 || m->protocol > RUNTIME__V1__PROTOCOL__SCTP)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "port mapping: unknown protocol %d",
                           (int)m->protocol);
        if (m->host_port < 0 || m->host_port > 65535)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "port mapping: host_port %d", m->host_port);
        if (m->container_port < 0 || m->container_port > 65535 ||
            (m->host_port && !m->container_port))
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "port mapping: container_port %d",
                           m->container_port);
        if (m->host_ip[0] && inet_pton(AF_INET, m->host_ip, &a) != 1 &&
            inet_pton(AF_INET6, m->host_ip, &a) != 1)
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "port mapping: host_ip '%.64s' is no address", m->host_ip);
    }
    return 0;
}

/* Namespaced ones only, and only those of a namespace that is the pod's own. */
static int check_sysctl(const char *key, const ns_option *ns, struct err *err)
{
    static const char *const ipc[] = { "kernel.shm", "kernel.msg", "fs.mqueue." };
    auto_free char *k = mem_strdup(key);
    bool host_net = ns && ns->network == MODE(NODE), host_ipc = ns && ns->ipc == MODE(NODE);
    size_t sep = strcspn(k, "./");

    /* as sysctl(8): the first separator tells which one is in use */
    if (k[sep] == '/')
        for (char *c = k; *c; c++)
            *c = *c == '/' ? '.' : *c == '.' ? '/' : *c;
    if (strstr(k, "..") || strstr(k, "/.") || strstr(key, "..") || has_control(k))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "sysctl '%.128s' is malformed", key);
    if (str_starts(k, "net.") || strcmp(k, "kernel.hostname") == 0 ||
        strcmp(k, "kernel.domainname") == 0) {
        if (host_net)
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "sysctl '%s' is not allowed with the host's network", key);
        return 0;
    }
    bool is_ipc = strcmp(k, "kernel.sem") == 0;
    for (size_t i = 0; i < ARRAY_LEN(ipc); i++)
        is_ipc |= str_starts(k, ipc[i]);
    if (is_ipc && host_ipc)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "sysctl '%s' is not allowed with the host's ipc namespace", key);
    if (is_ipc)
        return 0;
    return err_rpc(err, GRPC_INVALID_ARGUMENT, "sysctl '%.128s' is not a namespaced one", key);
}

static int check_sandbox_linux(const Runtime__V1__LinuxPodSandboxConfig *l,
                               const struct spec_node *node, struct err *err)
{
    const Runtime__V1__LinuxSandboxSecurityContext *sec = l->security_context;
    auto_free char *parent = NULL;
    int r = spec_cgroup_parent(l->cgroup_parent, "", node, &parent, err);

    if (r == 0)
        r = spec_check_resources(l->overhead, err);
    if (r == 0)
        r = spec_check_resources(l->resources, err);
    for (size_t i = 0; i < l->n_sysctls && r == 0; i++)
        r = check_sysctl(l->sysctls[i]->key, sec ? sec->namespace_options : NULL, err);
    if (r < 0 || !sec)
        return r;
    if (sec->run_as_group && !sec->run_as_user)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "run_as_group without run_as_user");
    r = check_namespaces(sec->namespace_options, true, node, err);
    if (r == 0)
        r = check_ids(sec->run_as_user, sec->run_as_group, sec->supplemental_groups,
                      sec->n_supplemental_groups, sec->supplemental_groups_policy, err);
    if (r == 0)
        r = check_profile(sec->seccomp, "seccomp", err);
    if (r == 0)
        r = check_profile(sec->apparmor, "apparmor", err);
    return r < 0 ? r : selinux_check(sec->selinux_options, node, err);
}

int spec_check_sandbox(const sandbox_config *c, const struct spec_node *node, struct err *err)
{
    const Runtime__V1__PodSandboxMetadata *m = c ? c->metadata : NULL;
    int r;

    if (!c)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "sandbox config is missing");
    if (!m || !m->name[0] || !m->uid[0] || !m->namespace_[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "sandbox metadata needs %s",
                       !m || !m->name[0] ? "a name" : !m->uid[0] ? "a uid" : "a namespace");
    if (strlen(c->hostname) > HOST_NAME_LEN_MAX || has_control(c->hostname))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "hostname '%.80s' is longer than %d bytes or malformed", c->hostname,
                       HOST_NAME_LEN_MAX);
    if (c->log_directory[0] && c->log_directory[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "log_directory '%s' is not an absolute path",
                       c->log_directory);
    if (c->windows && c->windows->security_context) {
        if (c->windows->security_context->host_process)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "windows host_process is not supported");
        if (c->windows->security_context->credential_spec[0])
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "windows credential_spec is not supported");
    }
    r = c->dns_config ? check_dns(c->dns_config, err) : 0;
    if (r == 0)
        r = check_ports(c, err);
    if (r == 0 && c->linux)
        r = check_sandbox_linux(c->linux, node, err);
    return r;
}

/* --- the container */

static int check_envs(const container_config *c, struct err *err)
{
    for (size_t i = 0; i < c->n_envs; i++) {
        const Runtime__V1__KeyValue *e = c->envs[i];

        if (!e->key[0] || strchr(e->key, '=') || strlen(e->key) > ENV_KEY_MAX)
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "environment variable name '%.64s' is malformed", e->key);
        if (e->value.len && memchr(e->value.data, 0, e->value.len))
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "the value of environment variable '%.64s' has a NUL byte", e->key);
    }
    return 0;
}

/* Joined to the log directory it has to stay in there. */
static int check_log_path(const char *path, struct err *err)
{
    int depth = 0;

    if (has_control(path))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "log_path has a control character in it");
    for (const char *s = path; *s;) {
        size_t n;

        s += strspn(s, "/");
        n = strcspn(s, "/");
        if (n == 2 && str_starts(s, ".."))
            depth--;
        else if (n && !(n == 1 && s[0] == '.'))
            depth++;
        if (depth < 0)
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "log_path '%s' leads out of the log directory", path);
        s += n;
    }
    if (path[0] && depth == 0)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "log_path '%s' names no file", path);
    return 0;
}

static bool same_maps(Runtime__V1__IDMapping *const *a, size_t n_a,
                      Runtime__V1__IDMapping *const *b, size_t n_b)
{
    if (n_a != n_b)
        return false;
    for (size_t i = 0; i < n_a; i++)
        if (a[i]->host_id != b[i]->host_id || a[i]->container_id != b[i]->container_id ||
            a[i]->length != b[i]->length)
            return false;
    return true;
}

static int check_same_userns(const ns_option *c, const ns_option *s, struct err *err)
{
    const Runtime__V1__UserNamespace *a = c ? c->userns_options : NULL,
                                     *b = s ? s->userns_options : NULL;
    bool in_a = a && a->mode == MODE(POD), in_b = b && b->mode == MODE(POD);

    if (!in_a && !in_b)
        return 0;
    if (in_a != in_b || !same_maps(a->uids, a->n_uids, b->uids, b->n_uids) ||
        !same_maps(a->gids, a->n_gids, b->gids, b->n_gids))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "user namespace options differ from those of the sandbox");
    return 0;
}

/* Where the sandbox's own mode is CONTAINER there is no namespace that a container could share: no
 * pause process holds one. (containerd puts such a container beside its pause process; kubelet gives
 * a sandbox and its containers the same mode.) */
static int check_shared_pid(const ns_option *c, const ns_option *s, struct err *err)
{
    if ((c ? c->pid : MODE(POD)) == MODE(POD) && s && s->pid == MODE(CONTAINER))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "pid namespace mode POD: the sandbox shares none, its mode is CONTAINER");
    return 0;
}

/* Mounts are mapped by the pod's own user namespace: kubelet hands the same maps to each. */
static int check_mount_maps(const container_config *c, const Runtime__V1__PodSandboxConfig *sandbox,
                            struct err *err)
{
    const Runtime__V1__UserNamespace *u = spec_userns(sandbox);

    for (size_t i = 0; i < c->n_mounts; i++) {
        const Runtime__V1__Mount *m = c->mounts[i];

        if (!m->n_uidmappings && !m->n_gidmappings)
            continue;
        if (!u)
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "mount '%s': id mappings in a pod without a user namespace",
                           m->container_path);
        if (!same_maps(m->uidmappings, m->n_uidmappings, u->uids, u->n_uids) ||
            !same_maps(m->gidmappings, m->n_gidmappings, u->gids, u->n_gids))
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "mount '%s': id mappings differ from those of the sandbox",
                           m->container_path);
    }
    return 0;
}

static int check_paths(char *const *paths, size_t n, const char *what, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (paths[i][0] != '/')
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "%s '%s' is not an absolute path", what,
                           paths[i]);
    return 0;
}

static int check_caps(const container_sec *sec, struct err *err)
{
    const Runtime__V1__Capability *k = sec->capabilities;
    uint64_t bounding, ambient;

    if (!k)
        return 0;
    return caps_apply(caps_default(), k->add_capabilities, k->n_add_capabilities,
                      k->drop_capabilities, k->n_drop_capabilities, k->add_ambient_capabilities,
                      k->n_add_ambient_capabilities, &bounding, &ambient, err);
}

static int check_security(const container_config *c, const Runtime__V1__PodSandboxConfig *sandbox,
                          const struct spec_node *node, struct err *err)
{
    const container_sec *sec = spec_sec(c);
    int r;

    if (sec->privileged && !(sandbox->linux && sandbox->linux->security_context &&
                             sandbox->linux->security_context->privileged))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "no privileged container allowed in sandbox");
    if (sec->run_as_group && !sec->run_as_user && !sec->run_as_username[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "run_as_group without run_as_user or run_as_username");
    r = check_ids(sec->run_as_user, sec->run_as_group, sec->supplemental_groups,
                  sec->n_supplemental_groups, sec->supplemental_groups_policy, err);
    if (r == 0)
        r = check_caps(sec, err);
    if (r == 0)
        r = check_namespaces(sec->namespace_options, false, node, err);
    if (r == 0)
        r = check_same_userns(sec->namespace_options, spec_sandbox_ns(sandbox), err);
    if (r == 0)
        r = check_paths(sec->masked_paths, sec->n_masked_paths, "masked path", err);
    if (r == 0)
        r = check_paths(sec->readonly_paths, sec->n_readonly_paths, "read-only path", err);
    if (r == 0)
        r = check_profile(sec->seccomp, "seccomp", err);
    if (r == 0)
        r = check_profile(sec->apparmor, "apparmor", err);
    return r < 0 ? r : selinux_check(sec->selinux_options, node, err);
}

int spec_check_container(const container_config *c, const Runtime__V1__PodSandboxConfig *sandbox,
                         const struct spec_node *node, struct err *err)
{
    int r;

    if (!c)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "container config is missing");
    if (!c->metadata || !c->metadata->name[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "container metadata needs a name");
    if (!c->image || !c->image->image[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "container config names no image");
    if (c->working_dir[0] && c->working_dir[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "working_dir '%s' is not an absolute path",
                       c->working_dir);
    if (c->windows && c->windows->security_context) {
        if (c->windows->security_context->host_process)
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "windows host_process is not supported");
        if (c->windows->security_context->credential_spec[0])
            return err_rpc(err, GRPC_INVALID_ARGUMENT, "windows credential_spec is not supported");
    }
    r = spec_stop_signal(c->stop_signal, NULL, NULL, NULL, err);
    if (r == 0)
        r = check_envs(c, err);
    if (r == 0)
        r = check_log_path(c->log_path, err);
    if (r == 0 && c->linux)
        r = spec_check_resources(c->linux->resources, err);
    if (r == 0 && spec_sec(c))
        r = check_security(c, sandbox, node, err);
    if (r == 0)
        r = check_shared_pid(spec_ns(c), spec_sandbox_ns(sandbox), err);
    if (r == 0)
        r = spec_check_process(c, node, err);
    if (r == 0)
        r = spec_check_mounts(c, node, err);
    if (r == 0)
        r = check_mount_maps(c, sandbox, err);
    if (r == 0)
        r = spec_check_devices(c, err);
    return r < 0 ? r : spec_check_cdi(c, sandbox, node, err);
}
