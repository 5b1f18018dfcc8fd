/* SPDX-License-Identifier: Apache-2.0 */
/* CreateContainer (CRI.md 4.7): everything that can be found wrong is found here, nothing of the
 * user's runs.
 *
 * image -> checks -> user -> record; then the seccomp profile is compiled (the only thing that may
 * wait), so that a bad profile fails the create and not the start. */
#include "handlers/rpcs.h"

#include "handlers/ctr_op.h"
#include "handlers/prepare.h"
#include "handlers/selinux.h"
#include "handlers/turn.h"
#include "mem.h"
#include "proc/lower.h"
#include "reactor/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

struct create {
    struct op op;                    /* first */
    struct ctr *c;
    struct turn turn;
    struct waiters waiters;
    struct ctr_prep prep;
    struct ctr_maker maker;          /* who creates it, where that is no client */
};

static struct create *create_of(struct op *op)
{
    return container_of(op, struct create, op);
}

static int create_turn(struct op *op, enum wake why)
{
    struct create *o = create_of(op);

    (void)why;
    return turn_take(&o->c->turns, &o->turn);
}

/* The whole plan is made once, and thrown away: what it finds wrong is wrong now. */
static int create_spec(struct op *op, enum wake why)
{
    struct create *o = create_of(op);

    (void)why;
    return ctr_prepare(&o->prep, op, o->c);
}

void ctr_show(struct ctr *c)
{
    c->rec->state = CRICKET__STATE__CONTAINER__STATE__CREATED;
    c->visible = true;
    ctr_save(c);
    event_ctr(c, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_CREATED_EVENT);
}

static int create_commit(struct op *op, enum wake why)
{
    struct create *o = create_of(op);
    struct ctr *c = o->c;
    int r;

    (void)why;
    if (!o->maker.done &&
        (!sandbox_is_ready(c->sandbox) || c->sandbox->stop || c->sandbox->remove))
        return err_rpc(&op->err, GRPC_FAILED_PRECONDITION, "sandbox %s is not ready any more",
                       c->sandbox->id);
    r = o->maker.check ? o->maker.check(o->maker.arg, c, o->prep.spec, &op->err) : 0;
    if (r < 0)
        return r;
    if (o->prep.filter->key) {
        seccomp_keep(c->h->seccomp, o->prep.filter);
        pb_set(&c->rec->seccomp_key, o->prep.filter->key);
    }
    if (o->maker.done)
        ctr_save(c);
    else
        ctr_show(c);
    return 0;
}

static void create_cancel(struct op *op)
{
    ctr_prep_cancel(&create_of(op)->prep);
}

static void create_none_left(void *arg, enum rpc_gone why)
{
    struct create *o = arg;

    op_cancel(&o->op, why == RPC_DEADLINE ? GRPC_DEADLINE_EXCEEDED : GRPC_CANCELLED);
}

static void create_free(struct create *o)
{
    ctr_prep_deinit(&o->prep);
    free(o);
}

void ctr_create_drop(struct op *op)
{
    struct create *o = create_of(op);

    op_drop(op);
    o->c->create = NULL;
    waiters_drop(&o->waiters);
    list_del(&o->turn.l);
    create_free(o);
}

static void create_done(struct op *op)
{
    struct create *o = create_of(op);
    struct ctr *c = o->c;
    Runtime__V1__CreateContainerResponse reply = RUNTIME__V1__CREATE_CONTAINER_RESPONSE__INIT;

    c->create = NULL;
    if (!op->err.code) {
        reply.container_id = c->id;
        log_info("op=create ctr=%s sandbox=%.13s name='%s' image=%.19s", c->id, c->sandbox->id,
                 c->config->metadata->name, c->rec->image_id);
        waiters_ok(&o->waiters, &reply.base);
        turn_end(&c->turns, &o->turn);
        if (o->maker.done)
            o->maker.done(o->maker.arg, NULL);
        create_free(o);
        return;
    }
    waiters_fail(&o->waiters, &op->err);
    turn_end(&c->turns, &o->turn);
    if (o->maker.done)
        o->maker.done(o->maker.arg, &op->err);
    create_free(o);
    ctr_remove_start(c, NULL, NULL); /* behind whatever waits for it: a stop of the sandbox may */
}

static const struct op_step create_steps[] = {
    { "turn", create_turn },
    { "spec", create_spec },
    { "commit", create_commit },
    { 0 },
};

static const struct op_class create_class = {
    .name = "create", .steps = create_steps, .cancel = create_cancel, .done = create_done
};

/* CRI.md 4.0, duplicate create. True when the call is dealt with. */
static bool create_known(struct rpc *rpc, struct sandbox *s,
                         const Runtime__V1__ContainerConfig *config)
{
    Runtime__V1__CreateContainerResponse reply = RUNTIME__V1__CREATE_CONTAINER_RESPONSE__INIT;
    struct ctr *c;

    list_each(c, &s->ctrs, struct ctr, in_sandbox) {
        bool same;

        if (c->config->metadata->attempt != config->metadata->attempt ||
            strcmp(c->config->metadata->name, config->metadata->name) != 0)
            continue;
        same = pb_same(&c->config->base, &config->base) && !c->remove;
        if (same && c->create && !c->create->cancelled) {
            waiters_add(&create_of(c->create)->waiters, rpc);
        } else if (same && c->rec->state == CRICKET__STATE__CONTAINER__STATE__CREATED &&
                   !c->start) {
            reply.container_id = c->id;
            rpc_ok(rpc, &reply.base);
        } else {
            rpc_fail(rpc, GRPC_ALREADY_EXISTS,
                     "container '%s' (attempt %u) exists already in sandbox %s as %s%s",
                     config->metadata->name, config->metadata->attempt, s->id, c->id,
                     same ? "" : ", with another configuration");
        }
        return true;
    }
    return false;
}

/* The names that stay with the container for ever (CRI.md 8.2). */
static void record_image(Cricket__State__Container *r, const struct image *im,
                         const Runtime__V1__ImageSpec *asked)
{
    const Cricket__State__Image *i = im->rec;

    pb_set(&r->image_id, i->id);
    pb_set(&r->image_ref, i->n_repo_digests ? i->repo_digests[0] : i->id);
    pb_set(&r->image_name, asked->user_specified_image[0] ? asked->user_specified_image
                           : i->n_repo_tags               ? i->repo_tags[0]
                                                          : asked->image);
    pb_set(&r->chain_id, i->chain_id);
}

static int set_log_path(struct ctr *c, const Runtime__V1__PodSandboxConfig *again, struct err *err)
{
    const char *dir = c->sandbox->config->log_directory;

    if (!dir[0] && again)
        dir = again->log_directory;
    if (!dir[0] || !c->config->log_path[0])
        return 0;
    if (dir[0] != '/')
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "log_directory '%.200s' is not absolute", dir);
    auto_free char *p = mem_printf("%s/%s", dir, c->config->log_path);

    if (strlen(p) >= PATH_MAX)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "log path of %zu bytes is too long", strlen(p));
    pb_set(&c->rec->log_path, p);
    return 0;
}

static struct ctr *make_record(struct sandbox *s, const Runtime__V1__ContainerConfig *config,
                               struct image *im)
{
    const Runtime__V1__LinuxContainerResources *res =
        config->linux ? config->linux->resources : NULL;
    Runtime__V1__LinuxContainerResources none = RUNTIME__V1__LINUX_CONTAINER_RESOURCES__INIT;
    char id[ID_LEN + 1];
    struct ctr *c;

    new_id(id);
    c = ctr_new(s, id);
    c->config = (Runtime__V1__ContainerConfig *)pb_dup(&config->base);
    c->resources = (Runtime__V1__LinuxContainerResources *)pb_dup(res ? &res->base : &none.base);
    c->rec = mem_new(Cricket__State__Container);
    cricket__state__container__init(c->rec);
    c->rec->schema = SCHEMA;
    pb_set(&c->rec->id, id);
    pb_set(&c->rec->sandbox_id, s->id);
    pb_set(&c->rec->boot_id, s->h->boot_id);
    c->rec->created_at = clock_stamp_ns();
    c->rec->state = CRICKET__STATE__CONTAINER__STATE__MAKING;
    record_image(c->rec, im, config->image);
    c->rec->image_config = (Cricket__State__ImageConfig *)pb_dup(
        im->rec->config ? &im->rec->config->base
                        : &(Cricket__State__ImageConfig)CRICKET__STATE__IMAGE_CONFIG__INIT.base);
    auto_free char *cg = mem_printf("%s/%s", strcmp(s->rec->cgroup_parent, "/") == 0
                                                 ? "" : s->rec->cgroup_parent, id);
    pb_set(&c->rec->cgroup_path, cg);
    return c;
}

static int set_user(struct ctr *c, struct err *err)
{
    auto_layers struct layer_dirs dirs = LAYER_DIRS_INIT;
    struct spec_user u = { 0 };
    int r;

    layer_dirs_of(c->h, c->rec->layers, c->rec->n_layers, &dirs);
    r = spec_resolve_user((const char *const *)dirs.v, dirs.n, c->config,
                          c->rec->image_config->user, &u, err);
    if (r < 0)
        return r;
    c->rec->uid = u.uid;
    c->rec->gid = u.gid;
    c->rec->groups = mem_array(u.n_groups + 1, sizeof *c->rec->groups);
    c->rec->n_groups = u.n_groups;
    for (size_t i = 0; i < u.n_groups; i++)
        c->rec->groups[i] = u.groups[i];
    pb_set(&c->rec->home, u.home);
    spec_user_deinit(&u);
    return 0;
}

static int set_stop_signal(struct ctr *c, struct err *err)
{
    Runtime__V1__Signal sig = RUNTIME__V1__SIGNAL__SIGNAL_SIGTERM;
    int number, r = spec_stop_signal(c->config->stop_signal, c->rec->image_config->stop_signal,
                                     &number, &sig, err);

    if (r >= 0)
        c->rec->stop_signal = (uint32_t)sig;
    return r;
}

/* The images of mounts[].image (CRI.md 7.4): found, held, and their sub path is there. kubelet
 * knows the failure by the text's first word. */
static int set_volume_images(struct ctr *c, struct err *err)
{
    size_t n = 0;

    for (size_t i = 0; i < c->config->n_mounts; i++)
        n += c->config->mounts[i]->image != NULL;
    if (!n)
        return 0;
    c->rec->volume_images = mem_array(n, sizeof *c->rec->volume_images);
    for (size_t i = 0; i < c->config->n_mounts; i++) {
        const Runtime__V1__Mount *m = c->config->mounts[i];
        auto_layers struct layer_dirs dirs = LAYER_DIRS_INIT;
        Cricket__State__VolumeImage *v;
        struct image *im;
        int fd = -1;

        if (!m->image)
            continue;
        im = image_lookup(c->h, m->image->image);
        if (!im)
            return err_rpc(err, GRPC_NOT_FOUND,
                           "ImageVolumeMountFailed: image '%.300s' for '%s': not found",
                           m->image->image, m->container_path);
        v = mem_new(Cricket__State__VolumeImage);
        cricket__state__volume_image__init(v);
        pb_set(&v->container_path, m->container_path);
        pb_set(&v->image_id, im->rec->id);
        layers_of_image(c->h, im, &v->layers, &v->n_layers);
        images_layers_hold(c->h->images, v->layers, v->n_layers);
        c->rec->volume_images[c->rec->n_volume_images++] = v;
        if (!m->image_sub_path[0])
            continue;
        layer_dirs_of(c->h, v->layers, v->n_layers, &dirs);
        if (lower_open((const char *const *)dirs.v, dirs.n, m->image_sub_path, O_PATH | O_DIRECTORY,
                       &fd, err) < 0) {
            err_note(err, "ImageVolumeMountFailed: sub path '%.300s' of image '%.300s'",
                     m->image_sub_path, m->image->image);
            err->grpc = GRPC_INVALID_ARGUMENT;
            return err->code;
        }
        fd_close(fd);
    }
    return 0;
}

/* One that the kernel does not know would fail at the start only. */
static int check_context(struct ctr *c, struct err *err)
{
    struct ctr_input *in = ctr_input_new(c);
    auto_pool struct pool pool = POOL_INIT;
    const char *context = spec_selinux(&in->in, &pool);
    int r = context ? selinux_known(context, err) : 0;

    ctr_input_free(in);
    return r;
}

/* All that comes before the operation: a container that is on record, or an error and nothing. */
static int create_begin(struct sandbox *s, const Runtime__V1__ContainerConfig *config,
                        const Runtime__V1__PodSandboxConfig *again, struct image *im,
                        struct create **ret, struct err *err)
{
    struct ctr *c = make_record(s, config, im);
    struct create *o;

    layers_of_image(s->h, im, &c->rec->layers, &c->rec->n_layers);
    images_layers_hold(s->h->images, c->rec->layers, c->rec->n_layers);
    if (set_log_path(c, again, err) < 0 || set_user(c, err) < 0 || set_stop_signal(c, err) < 0 ||
        set_volume_images(c, err) < 0 || check_context(c, err) < 0) {
        ctr_drop_layers(c);
        ctr_free(c);    /* nothing was recorded yet */
        return err->code;
    }
    ctr_save(c);
    o = mem_new(struct create);
    o->c = c;
    c->create = &o->op;
    turn_init(&o->turn, &o->op);
    waiters_init(&o->waiters, create_none_left, o);
    *ret = o;
    return 0;
}

static int check_config(struct sandbox *s, const Runtime__V1__ContainerConfig *config,
                        struct image **ret, struct err *err)
{
    struct ctr *target;
    int r = spec_check_container(config, s->config, &s->h->node, err);

    if (r == 0)
        r = ctr_pid_target(s, config, &target, err);
    if (r < 0)
        return r;
    *ret = image_lookup(s->h, config->image->image);
    if (!*ret)
        return err_rpc(err, GRPC_NOT_FOUND, "image '%.300s' of container '%s': not found",
                       config->image->image, config->metadata->name);
    return 0;
}

int ctr_create_start(struct sandbox *s, const Runtime__V1__ContainerConfig *config,
                     const struct ctr_maker *maker, char ret_id[ID_LEN + 1], struct err *err)
{
    struct image *im;
    struct create *o;
    int r = check_config(s, config, &im, err);

    if (r == 0)
        r = create_begin(s, config, NULL, im, &o, err);
    if (r < 0)
        return r;
    memcpy(ret_id, o->c->id, ID_LEN + 1);
    o->maker = *maker;
    op_start(&o->op, &create_class, s->h->loop, o->c->id);
    return 0;
}

void handle_create_container(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__CreateContainerRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct err err = ERR_INIT;
    struct sandbox *s = sandbox_find(h, q->pod_sandbox_id, &err);
    struct image *im;
    struct create *o;

    if (!s || sandbox_met(s, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (!sandbox_is_ready(s) || s->stop || s->remove) {
        rpc_fail(rpc, GRPC_FAILED_PRECONDITION,
                 "sandbox %s is not ready: no container can be created in it", s->id);
        return;
    }
    if (!q->config) {
        rpc_fail(rpc, GRPC_INVALID_ARGUMENT, "container config is missing");
        return;
    }
    if (check_config(s, q->config, &im, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (create_known(rpc, s, q->config))
        return;
    if (create_begin(s, q->config, q->sandbox_config, im, &o, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    waiters_add(&o->waiters, rpc);
    op_start(&o->op, &create_class, h->loop, o->c->id);
}
