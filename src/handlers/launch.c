/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/launch.h"

#include "mem.h"
#include "handlers/restore.h"
#include "handlers/rpcs.h"
#include "proc/cgroup.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct ctr_input *ctr_input_new(struct ctr *c)
{
    struct handlers *h = c->h;
    struct ctr_input *i = mem_new(struct ctr_input);
    struct layer_dirs dirs = LAYER_DIRS_INIT;
    size_t n = c->rec->n_volume_images;

    layer_dirs_of(h, c->rec->layers, c->rec->n_layers, &dirs);
    layer_dirs_add_init(h, &dirs);
    i->lower = layer_dirs_join(&dirs);
    layer_dirs_deinit(&dirs);
    i->upper = mem_printf("%s/containers/%s/upper", h->conf->root, c->id);
    i->work = mem_printf("%s/containers/%s/work", h->conf->root, c->id);
    i->hostname = mem_alloc(HOST_NAME_MAX + 1);
    if (c->sandbox->config->hostname[0])
        snprintf(i->hostname, HOST_NAME_MAX + 1, "%s", c->sandbox->config->hostname);
    else
        (void)gethostname(i->hostname, HOST_NAME_MAX);
    i->user.uid = (uid_t)c->rec->uid;
    i->user.gid = (gid_t)c->rec->gid;
    i->user.home = mem_strdup(c->rec->home);
    i->user.n_groups = c->rec->n_groups;
    i->user.groups = mem_array(c->rec->n_groups + 1, sizeof(gid_t));
    for (size_t k = 0; k < c->rec->n_groups; k++)
        i->user.groups[k] = (gid_t)c->rec->groups[k];
    i->volumes = mem_array(n + 1, sizeof *i->volumes);
    for (size_t k = 0; k < n; k++) {
        const Cricket__State__VolumeImage *v = c->rec->volume_images[k];

        layer_dirs_of(h, v->layers, v->n_layers, &dirs);
        i->volumes[k].container_path = v->container_path;
        i->volumes[k].lower = layer_dirs_join(&dirs);
        layer_dirs_deinit(&dirs);
    }
    i->in = (struct spec_input){
        .id = c->id,
        .config = c->config,
        .sandbox = c->sandbox->config,
        .image = c->rec->image_config,
        .resources = c->resources,
        .user = &i->user,
        .node = &h->node,
        .lower = i->lower,
        .upper = i->upper,
        .work = i->work,
        .pod_dir = c->sandbox->dir,
        .cgroup = c->rec->cgroup_path,
        .selinux = c->sandbox->rec->selinux_label,
        .volumes = i->volumes,
        .n_volumes = n,
        .log_path = c->rec->log_path,
        .hostname = i->hostname,
        .log_line_max = h->conf->log_line_max,
        .rlimit_nofile = h->conf->rlimit_nofile,
    };
    return i;
}

struct ctr_input *ctr_input_free(struct ctr_input *i)
{
    if (!i)
        return NULL;
    for (size_t k = 0; k < i->in.n_volumes; k++)
        free((char *)(uintptr_t)i->volumes[k].lower);
    free(i->volumes);
    spec_user_deinit(&i->user);
    free(i->lower);
    free(i->upper);
    free(i->work);
    free(i->hostname);
    free(i);
    return NULL;
}

int ctr_runtime(struct ctr *c, const char **ret, struct err *err)
{
    const char *name = c->sandbox->rec->runtime_handler;

    *ret = NULL;
    if (handler_check(c->h, name, err) < 0)
        return err_note(err, "container %s", c->id);
    *ret = handler_path(c->h, name);
    return 0;
}

void ctr_seccomp_get(struct ctr *c, bool oci, enum spec_seccomp kind, const char *path,
                     uint64_t caps, seccomp_fn done, void *arg)
{
    static const struct seccomp_filter none;
    struct seccomp_cache *cache = c->h->seccomp;
    const struct seccomp_filter *f;

    path = kind == SPEC_SECCOMP_FILE ? path : NULL;
    if (kind == SPEC_SECCOMP_NONE)
        done(arg, &none, NULL);
    else if (oci)
        seccomp_get_json(cache, path, caps, done, arg);
    else if (c->rec->seccomp_key[0] && (f = seccomp_find(cache, c->rec->seccomp_key)))
        done(arg, f, NULL);
    else
        seccomp_get(cache, path, caps, done, arg);
}

int ctr_pid_target(struct sandbox *s, const Runtime__V1__ContainerConfig *config,
                   struct ctr **ret, struct err *err)
{
    const Runtime__V1__NamespaceOption *ns =
        config->linux && config->linux->security_context
            ? config->linux->security_context->namespace_options : NULL;
    struct ctr *t;

    *ret = NULL;
    if (!ns || ns->pid != RUNTIME__V1__NAMESPACE_MODE__TARGET)
        return 0;
    t = ctr_find(s->h, ns->target_id, err);
    if (!t || t->sandbox != s || t->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING)
        return err_rpc(err, GRPC_FAILED_PRECONDITION,
                       "target container '%.64s' does not run in this sandbox", ns->target_id);
    *ret = t;
    return 0;
}

static int make_cgroup(struct ctr *c, const struct spec *s, struct err *err)
{
    const char *path = c->rec->cgroup_path;
    auto_free char *made = NULL;

    if (cgroup_make(path, &made, err) < 0 || cgroup_set(path, &s->limits, err) < 0 ||
        cgroup_set_devices(path, s->device_rules, s->n_device_rules, err) < 0)
        return err_note(err, "cgroup %s", path);
    return 0;
}

/* What the runtime does is not in the plan, but in its config.json. */
static int oci_plan(struct ctr *c, struct spec *s, const char *path, const void *seccomp,
                    size_t seccomp_len, char **ret_json, struct err *err)
{
    struct plan *p = &s->plan;
    auto_free char *bundle = plan_oci_bundle(c->sandbox->dir, !p->host_userns);
    int r = spec_oci_config(s, c->rec->cgroup_path, bundle, seccomp, seccomp_len, ret_json, err);

    if (r < 0)
        return r;
    p->process.oci_path = path;
    p->process.oci_json = *ret_json;
    p->n_masked = p->n_readonly = p->n_devices = p->n_symlinks = 0;
    return 0;
}

/* Hooks that no OCI runtime runs. */
static int hooks_plan(struct ctr *c, struct spec *s, struct err *err)
{
    auto_free char *bundle = mem_printf("%s/hooks/%s", c->sandbox->dir, c->id);

    return spec_hooks(s, c->config, c->rec->cgroup_path, c->sandbox->rec->netns, bundle, err);
}

int ctr_launch(struct ctr *c, struct spec *spec, const struct seccomp_filter *f, link_start_fn done,
               void *arg, struct err *err)
{
    const char *runtime;
    auto_free char *json = NULL, *images = restore_dir(c);
    const struct plan_restore restore = { images, c->h->conf->criu, c->h->worker_path };
    struct ctr *target;
    int fds[CGROUP_FDS_MAX], n, r;
    auto_fd int plan_fd = -1, oom_fd = -1;

    if (!c->sandbox->link)    /* it went while the seccomp profile was compiled */
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "the sandbox's supervisor is gone");
    r = ctr_runtime(c, &runtime, err);
    if (r < 0)
        return r;
    if (!runtime) {
        spec->plan.process.seccomp = f->bpf;
        spec->plan.process.seccomp_len = f->len;
        spec->plan.process.seccomp_flags = f->flags;
    }
    r = ctr_pid_target(c->sandbox, c->config, &target, err);
    if (r < 0)
        return r;
    r = make_cgroup(c, spec, err);
    if (r < 0)
        return r;
    r = runtime ? oci_plan(c, spec, runtime, f->bpf, f->len, &json, err) : hooks_plan(c, spec, err);
    if (r < 0)
        return r;
    if (c->rec->restore && !restore.criu[0])
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "to restore it from its checkpoint takes criu, "
                       "which the configuration turns off");
    spec->plan.restore = c->rec->restore ? &restore : NULL;
    r = plan_encode(&spec->plan, &plan_fd, err);
    spec->plan.restore = NULL;
    if (r < 0)
        return r;
    n = cgroup_open_join(c->rec->cgroup_path, fds, err);
    if (n < 0)
        return n;
    oom_fd = cgroup_open_oom(c->rec->cgroup_path);
    r = link_start(c->sandbox->link, c->id, plan_fd, fds, (size_t)n, cgroup_is_v2(), oom_fd,
                   target ? target->id : NULL, done, arg, err);
    cgroup_close_join(fds, n);
    return r;
}

const char *ctr_state_name(const struct ctr *c)
{
    switch (ctr_state(c)) {
    case RUNTIME__V1__CONTAINER_STATE__CONTAINER_RUNNING: return "running";
    case RUNTIME__V1__CONTAINER_STATE__CONTAINER_EXITED: return "exited";
    default: return "created";
    }
}
