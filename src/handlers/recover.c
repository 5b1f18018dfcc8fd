/* SPDX-License-Identifier: Apache-2.0 */
/* Start-up recovery (DESIGN: state).
 *
 * Same boot: the supervisors are met and tell what runs and what has ended (recover_meet.c). What
 * was being made is undone, what was being removed is removed, by the same operations that clients
 * start. New boot: nothing runs. Every container is EXITED, every sandbox NOTREADY; addresses that
 * CNI gave out are released. Then whatever no record names goes: supervisors, pod directories,
 * container directories, layers. */
#include "handlers/recover.h"

#include "handlers/checkpoint.h"
#include "handlers/ctr_op.h"
#include "handlers/restore.h"
#include "handlers/rpcs.h"
#include "handlers/sandbox_op.h"
#include "mem.h"

#include <dirent.h>
#include <string.h>

/* --- records */

static void load_sandbox(void *arg, const char *key, const void *val, size_t len)
{
    struct err err = ERR_INIT;

    if (!sandbox_load(arg, val, len, &err))
        log_error("op=recover sandbox='%.64s' err='%s', leaving it out", key, err.text);
}

static void load_ctr(void *arg, const char *key, const void *val, size_t len)
{
    struct handlers *h = arg;
    struct err err = ERR_INIT;
    struct ctr *c = ctr_load(h, val, len, &err);

    if (!c) {
        log_error("op=recover ctr='%.64s' err='%s', leaving it out", key, err.text);
        return;
    }
    images_layers_hold(h->images, c->rec->layers, c->rec->n_layers);
    for (size_t i = 0; i < c->rec->n_volume_images; i++)
        images_layers_hold(h->images, c->rec->volume_images[i]->layers,
                           c->rec->volume_images[i]->n_layers);
}

/* Oldest first, as they were made. */
static int by_age(const void *a, const void *b)
{
    const struct ctr *x = *(struct ctr *const *)a, *y = *(struct ctr *const *)b;

    return x->rec->created_at < y->rec->created_at ? -1 : x->rec->created_at > y->rec->created_at;
}

static void sort_rings(struct handlers *h)
{
    auto_free struct ctr **v = mem_array(h->ctrs.n + 1, sizeof *v);

    if (!h->ctrs.n)
        return;
    memcpy(v, h->ctrs.v, h->ctrs.n * sizeof *v);
    qsort(v, h->ctrs.n, sizeof *v, by_age);
    for (size_t i = 0; i < h->ctrs.n; i++) {
        list_del(&v[i]->in_sandbox);
        list_add_tail(&v[i]->sandbox->ctrs, &v[i]->in_sandbox);
    }
}

int recover_load(struct handlers *h, struct err *err)
{
    int r = store_each(h->store, STORE_SANDBOX, load_sandbox, h, err);

    if (r >= 0)
        r = store_each(h->store, STORE_CONTAINER, load_ctr, h, err);
    if (r >= 0)
        sort_rings(h);
    return r;
}

/* --- what either boot needs */

void recovery_await(struct recovery *r)
{
    if (r)
        r->pending++;
}

void recovery_answer(struct recovery *r)
{
    if (r && --r->pending == 0)
        loop_stop(r->h->loop);
}

void recover_lost(struct ctr *c, const char *reason, int code, const char *message)
{
    struct ctr_exit x = { .code = code, .reason = reason, .message = message };

    ctr_set_exited(c, &x);
}

static void finish_removed(void *arg, const struct err *err)
{
    struct recovery *r = arg;

    if (err)
        log_warn("op=recover step=remove err='%s', left for a client to repeat", err->text);
    recovery_answer(r);
}

void recover_settle(struct recovery *r, struct sandbox *s)
{
    struct ctr *c;

    list_each(c, &s->ctrs, struct ctr, in_sandbox) {
        if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__MAKING ||
            c->rec->state == CRICKET__STATE__CONTAINER__STATE__REMOVING) {
            recovery_await(r);
            ctr_remove_start(c, finish_removed, r);
        } else if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__EXITED &&
                   c->rec->cgroup_path[0]) {
            ctr_sweep(c);
        }
    }
    if (s->rec->state == CRICKET__STATE__SANDBOX__STATE__MAKING ||
        s->rec->state == CRICKET__STATE__SANDBOX__STATE__REMOVING) {
        recovery_await(r);
        sandbox_remove_start(s, finish_removed, r);
    }
}

/* --- a new boot */

static void on_released(void *arg, const struct err *err)
{
    struct recovery *r = arg;

    if (err)
        log_warn("op=recover step=network err='%s', released when the sandbox is removed",
                 err->text);
    recovery_answer(r);
}

static void new_boot(struct recovery *r)
{
    struct handlers *h = r->h;
    struct sandbox *s;
    struct ctr *c;

    ctr_each(h, i, c) {
        if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__CREATED ||
            c->rec->state == CRICKET__STATE__CONTAINER__STATE__STARTING ||
            c->rec->state == CRICKET__STATE__CONTAINER__STATE__RUNNING)
            recover_lost(c, "Unknown", 255, "the machine was restarted");
    }
    sandbox_each(h, i, s) {
        if (s->rec->state == CRICKET__STATE__SANDBOX__STATE__READY) {
            s->rec->state = CRICKET__STATE__SANDBOX__STATE__NOTREADY;
            sandbox_save(s);
        }
        if (s->rec->state == CRICKET__STATE__SANDBOX__STATE__NOTREADY && s->rec->cni_added) {
            recovery_await(r);
            sandbox_stop_start(s, on_released, r);
        }
    }
    /* Removals change the index: from the back, each at its own turn. */
    for (size_t i = h->sandboxes.n; i-- > 0;) {
        if (i < h->sandboxes.n)
            recover_settle(r, h->sandboxes.v[i]);
    }
}

/* --- garbage */

static void each_dir(const char *path, void (*fn)(struct recovery *r, const char *name),
                     struct recovery *r)
{
    DIR *d = opendir(path);
    struct dirent *e;

    if (!d)
        return;
    while ((e = readdir(d)))
        if (e->d_name[0] != '.')
            fn(r, e->d_name);
    closedir(d);
}

static void stray_pod(struct recovery *r, const char *name)
{
    auto_free char *dir = mem_printf("%s/pods/%s", r->h->conf->state, name);

    if (!sandbox_by_id(r->h, name))
        recover_meet(r, NULL, dir);
}

static void stray_ctr(struct recovery *r, const char *name)
{
    auto_free char *rel = mem_printf("containers/%s", name);
    struct ctr *c = ctr_by_id(r->h, name);

    if (c)
        restore_collect(c);
    else
        pull_remove_tree(r->h->puller, rel);
}

/* Of a worker that was killed. */
static void stray_checkpoint(struct recovery *r, const char *name)
{
    auto_free char *rel = mem_printf("checkpoints/%s", name);

    pull_remove_tree(r->h->puller, rel);
}

static bool keep_layer(void *ctx, uint64_t number)
{
    return images_number_used(((struct handlers *)ctx)->images, number);
}

/* Every container holds its layers by now: what nobody needs is left of a removal that was cut off.
 */
static void prune_layers(struct handlers *h)
{
    struct store_batch *b = store_batch_new(h->store);
    uint64_t *dead = NULL;
    size_t n = 0;

    images_prune(h->images, b, &dead, &n);
    commit_and_delete(h, b, dead, n);
}

static void wait_all(struct recovery *r)
{
    if (--r->pending)    /* ours: held while things were started */
        loop_run(r->h->loop);
    r->pending = 1;
}

int recover_run(struct handlers *h, bool same_boot, struct err *err)
{
    struct recovery r = { .h = h, .pending = 1 };
    auto_free char *pods = mem_printf("%s/pods", h->conf->state);
    auto_free char *ctrs = mem_printf("%s/containers", h->conf->root);
    auto_free char *checkpoints = mem_printf("%s/checkpoints", h->conf->root);
    struct sandbox *s;

    (void)err;
    sandbox_each(h, i, s)
        pod_checkpoint_recover(s);
    if (same_boot) {
        /* Ids first: a meeting that fails may take its sandbox out of the index. */
        size_t n = h->sandboxes.n;
        auto_free struct sandbox **v = mem_array(n + 1, sizeof *v);

        if (n)
            memcpy(v, h->sandboxes.v, n * sizeof *v);
        for (size_t i = 0; i < n; i++)
            recover_meet(&r, v[i], v[i]->dir);
    } else {
        new_boot(&r);
    }
    wait_all(&r);
    each_dir(pods, stray_pod, &r);
    wait_all(&r);
    each_dir(ctrs, stray_ctr, &r);
    each_dir(checkpoints, stray_checkpoint, &r);
    prune_layers(h);
    seccomp_collect(h->seccomp, ctr_seccomp_used, h);
    pull_collect(h->puller, keep_layer, h);
    log_info("op=recover same_boot=%d sandboxes=%zu containers=%zu images=%zu", same_boot,
             h->sandboxes.n, h->ctrs.n, images_count(h->images));
    return 0;
}
