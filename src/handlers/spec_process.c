/* SPDX-License-Identifier: Apache-2.0 */
/* The process of a container: argv, environment, directory, capabilities, seccomp, AppArmor and
 * SELinux (CRI.md 7.1, 7.3).
 *
 * The same function makes the first process and every exec'ed one, so that the second kind has what
 * the first has: user, groups, capabilities, filters, limits and environment. */
#include "conf.h"
#include "handlers/apparmor.h"
#include "handlers/selinux.h"
#include "handlers/spec_impl.h"
#include "mem.h"
#include "proc/caps.h"
#include "str.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>

static const char default_path[] =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* Deprecated fields are still on the wire; they are read here only. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
static const char *old_seccomp(const container_sec *sec)
{
    return sec->seccomp_profile_path;
}

static const char *old_apparmor(const container_sec *sec)
{
    return sec->apparmor_profile;
}
#pragma GCC diagnostic pop

/* --- seccomp */

#define PROFILE(x) RUNTIME__V1__SECURITY_PROFILE__PROFILE_TYPE__##x

static int seccomp_path(const char *ref, enum spec_seccomp *ret, const char **ret_path,
                        struct err *err)
{
    const char *path = str_starts(ref, "localhost/") ? ref + strlen("localhost/") : ref;

    if (path[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "seccomp profile '%s' is not an absolute path",
                       ref);
    *ret = SPEC_SECCOMP_FILE;
    *ret_path = path;
    return 0;
}

int spec_seccomp(const container_config *c, const struct spec_node *node, enum spec_seccomp *ret,
                 const char **ret_path, struct err *err)
{
    const container_sec *sec = spec_sec(c);
    const char *old = sec ? old_seccomp(sec) : "";
    int r = 0;

    *ret = SPEC_SECCOMP_NONE;
    *ret_path = NULL;
    if (!sec || sec->privileged)
        return 0;
    if (sec->seccomp) {
        if (sec->seccomp->profile_type == PROFILE(RuntimeDefault))
            *ret = SPEC_SECCOMP_DEFAULT;
        else if (sec->seccomp->profile_type == PROFILE(Localhost))
            r = seccomp_path(sec->seccomp->localhost_ref, ret, ret_path, err);
    } else if (strcmp(old, "runtime/default") == 0 || strcmp(old, "docker/default") == 0) {
        *ret = SPEC_SECCOMP_DEFAULT;
    } else if (old[0] && strcmp(old, "unconfined") != 0) {
        r = seccomp_path(old, ret, ret_path, err);
    }
    if (r < 0)
        return r;
    if (*ret != SPEC_SECCOMP_NONE && !node->seccomp)
        return err_rpc(err, GRPC_FAILED_PRECONDITION,
                       "a seccomp profile is asked for, but this kernel has no seccomp");
    return 0;
}

/* --- AppArmor */

static int apparmor_named(const char *name, const struct spec_node *node, const char **ret,
                          struct err *err)
{
    bool loaded;
    int r;

    if (str_starts(name, "localhost/"))
        name += strlen("localhost/");
    if (!node->apparmor)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "AppArmor profile '%s' is asked for, but AppArmor is off", name);
    r = apparmor_is_loaded(name, &loaded, err);
    if (r < 0)
        return r;
    if (!loaded)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "AppArmor profile '%s' is not loaded", name);
    *ret = name;
    return 0;
}

/* RuntimeDefault; `unconfined` in the configuration makes it mean just that. */
static int apparmor_default(const struct spec_node *node, const char **ret, struct err *err)
{
    if (node->apparmor && !node->apparmor_default)
        return 0;
    return apparmor_named(node->apparmor_default ? node->apparmor_default : CONF_APPARMOR, node,
                          ret, err);
}

int spec_apparmor(const container_config *c, const struct spec_node *node, const char **ret,
                  struct err *err)
{
    const container_sec *sec = spec_sec(c);
    const char *old = sec ? old_apparmor(sec) : "";
    bool loaded = false;

    *ret = NULL;
    if (sec && sec->privileged)
        return 0;
    if (sec && sec->apparmor) {
        if (sec->apparmor->profile_type == PROFILE(Unconfined))
            return 0;
        if (sec->apparmor->profile_type == PROFILE(Localhost))
            return apparmor_named(sec->apparmor->localhost_ref, node, ret, err);
        return apparmor_default(node, ret, err);
    }
    if (strcmp(old, "unconfined") == 0)
        return 0;
    if (str_starts(old, "localhost/"))
        return apparmor_named(old, node, ret, err);
    if (strcmp(old, "runtime/default") == 0)
        return apparmor_default(node, ret, err);
    if (old[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "apparmor_profile '%s'", old);
    /* nobody asked: the default profile where it is loaded */
    if (node->apparmor && node->apparmor_default &&
        apparmor_is_loaded(node->apparmor_default, &loaded, NULL) == 0 && loaded)
        *ret = node->apparmor_default;
    return 0;
}

/* --- SELinux */

char *spec_selinux(const struct spec_input *in, struct pool *p)
{
    const container_sec *sec = spec_sec(in->config);

    if (!in->node->selinux_process || str_empty(in->selinux))
        return NULL;
    return selinux_replace(p, in->selinux, sec ? sec->selinux_options : NULL);
}

/* --- argv and environment */

/* Entrypoint and Cmd as the image means them: one empty string is none. */
static size_t image_words(char **v, size_t n)
{
    return n == 1 && !v[0][0] ? 0 : n;
}

static char **join_words(struct pool *p, char **a, size_t n_a, char **b, size_t n_b)
{
    char **v = pool_alloc(p, (n_a + n_b + 1) * sizeof *v);

    for (size_t i = 0; i < n_a; i++)
        v[i] = a[i];
    for (size_t i = 0; i < n_b; i++)
        v[n_a + i] = b[i];
    return v;
}

static int build_argv(const struct spec_input *in, struct pool *p, char *const **ret,
                      struct err *err)
{
    const container_config *c = in->config;
    const Cricket__State__ImageConfig *im = in->image;
    size_t n_entry = im ? image_words(im->entrypoint, im->n_entrypoint) : 0;
    size_t n_cmd = im ? im->n_cmd : 0;
    char **v;

    if (c->n_command)
        v = join_words(p, c->command, c->n_command, c->args, c->n_args);
    else if (c->n_args)
        v = join_words(p, im ? im->entrypoint : NULL, n_entry, c->args, c->n_args);
    else
        v = join_words(p, im ? im->entrypoint : NULL, n_entry, im ? im->cmd : NULL, n_cmd);
    if (!v[0])
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "no command specified: neither the request nor the image has one");
    *ret = v;
    return 0;
}

struct env {
    struct pool *p;
    char **v;
    size_t n;
};

static char **find(struct env *e, const char *key, size_t n)
{
    for (size_t i = 0; i < e->n; i++)
        if (strncmp(e->v[i], key, n) == 0 && e->v[i][n] == '=')
            return &e->v[i];
    return NULL;
}

/* pair: "key=value"; a later one takes the place of an earlier one. */
static void env_put(struct env *e, char *pair)
{
    char **old = find(e, pair, strcspn(pair, "="));

    if (old)
        *old = pair;
    else
        e->v[e->n++] = pair;
}

static char *const *build_env(const struct spec_input *in, struct pool *p,
                              const struct cdi_edits *edits, bool tty)
{
    const container_config *c = in->config;
    size_t n_image = in->image ? in->image->n_env : 0, n_edits = edits ? edits->n_env : 0;
    struct env e = { .p = p };

    e.v = pool_alloc(p, (n_image + c->n_envs + n_edits + 5) * sizeof *e.v);
    env_put(&e, pool_strdup(p, default_path));
    env_put(&e, pool_printf(p, "HOSTNAME=%s", in->hostname));
    for (size_t i = 0; i < n_image; i++)
        if (in->image->env[i][0] != '=' && strchr(in->image->env[i], '='))
            env_put(&e, in->image->env[i]);
    for (size_t i = 0; i < c->n_envs; i++) {
        const Runtime__V1__KeyValue *k = c->envs[i];

        env_put(&e, pool_printf(p, "%s=%.*s", k->key, (int)k->value.len,
                                k->value.len ? (char *)k->value.data : ""));
    }
    for (size_t i = 0; i < n_edits; i++)
        env_put(&e, edits->env[i]);
    if (tty && !find(&e, "TERM", 4))
        env_put(&e, pool_strdup(p, "TERM=xterm"));
    if (!find(&e, "HOME", 4))
        env_put(&e, pool_printf(p, "HOME=%s", in->user->home));
    return e.v;
}

/* --- the whole */

static int build_caps(const container_config *c, const struct spec_node *node,
                      struct plan_process *ret, struct err *err)
{
    const container_sec *sec = spec_sec(c);
    const Runtime__V1__Capability *k = sec ? sec->capabilities : NULL;
    uint64_t ambient = 0, bounding;
    int r = 0;

    if (sec && sec->privileged)
        bounding = node->caps;
    else if (k)
        r = caps_apply(caps_default(), k->add_capabilities, k->n_add_capabilities,
                       k->drop_capabilities, k->n_drop_capabilities, k->add_ambient_capabilities,
                       k->n_add_ambient_capabilities, &bounding, &ambient, err);
    else
        bounding = caps_default() & node->caps;
    if (r < 0)
        return r;
    ret->cap_bounding = ret->cap_permitted = ret->cap_effective = bounding;
    ret->cap_inheritable = ret->cap_ambient = ambient;
    return 0;
}

/* The user's groups, and those that a device comes with. */
static void build_groups(const struct spec_input *in, struct pool *p, const struct cdi_edits *edits,
                         struct plan_process *ret)
{
    size_t n = in->user->n_groups, more = edits ? edits->n_gids : 0;
    gid_t *v;

    ret->groups = in->user->groups;
    ret->n_groups = n;
    if (!more)
        return;
    v = pool_alloc(p, (n + more) * sizeof *v);
    memcpy(v, in->user->groups, n * sizeof *v);
    memcpy(v + n, edits->gids, more * sizeof *v);
    ret->groups = v;
    ret->n_groups = n + more;
}

static const char *build_cwd(const struct spec_input *in, struct pool *p)
{
    const char *image = in->image ? in->image->working_dir : "";

    return spec_path_clean(p, in->config->working_dir[0] ? in->config->working_dir : image);
}

int spec_build_process(const struct spec_input *in, struct pool *p, const struct cdi_edits *edits,
                       char *const *argv, bool tty, struct plan_process *ret, struct err *err)
{
    const container_config *c = in->config;
    const Runtime__V1__LinuxContainerResources *res = in->resources;
    struct plan_process pp = { .argv = argv };
    struct plan_rlimit *lim;
    int r = argv ? 0 : build_argv(in, p, &pp.argv, err);

    if (r == 0)
        r = build_caps(c, in->node, &pp, err);
    if (r == 0)
        r = spec_apparmor(c, in->node, &pp.apparmor, err);
    if (r < 0)
        return r;
    if (!res && c->linux)
        res = c->linux->resources;
    if (!spec_is_privileged(c))
        pp.selinux = spec_selinux(in, p);
    pp.envp = build_env(in, p, edits, tty);
    pp.cwd = build_cwd(in, p);
    pp.uid = in->user->uid;
    pp.gid = in->user->gid;
    build_groups(in, p, edits, &pp);
    pp.no_new_privs = spec_sec(c) && spec_sec(c)->no_new_privs;
    pp.tty = tty;
    /* always: without it a container would keep what protects its supervisor */
    pp.set_oom_score_adj = true;
    pp.oom_score_adj = res ? (int)res->oom_score_adj : 0;
    if (in->rlimit_nofile) {
        lim = pool_alloc(p, sizeof *lim);
        *lim = (struct plan_rlimit){ RLIMIT_NOFILE, in->rlimit_nofile, in->rlimit_nofile };
        pp.rlimits = lim;
        pp.n_rlimits = 1;
    }
    *ret = pp;
    return 0;
}

int spec_check_process(const container_config *c, const struct spec_node *node, struct err *err)
{
    enum spec_seccomp kind;
    const char *path;
    int r = spec_seccomp(c, node, &kind, &path, err);

    return r < 0 ? r : spec_apparmor(c, node, &path, err);
}
