/* SPDX-License-Identifier: Apache-2.0 */
/* Who wants which layer, and which is fetched when. A layer is fetched and unpacked once, however
 * many pulls use it (struct layer_use); how is layer_fetch.c's. One that nobody wants any more, or
 * that failed, is dying until its worker is dead: then its directory can go. */
#include "pull/layer_priv.h"

#include "log.h"
#include "mem.h"
#include "reactor/child.h"

#include <assert.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct layer_use {
    struct list link;
    struct layers *all;
    struct layer *layer;             /* NULL after it failed */
    layer_fn fn;
    void *arg;
    struct repo *repo;
    struct layer_want want;          /* strings of its own */
    /* left another registry's failed transfer for one of its own */
    bool moved;
    enum layer_state told;
};

static void on_kick(struct ev_loop *ev, struct ev_timer *w, int revents);

/* --- life */

struct layers *layers_new(const struct layers_opts *o)
{
    struct layers *ls = mem_new(struct layers);

    ls->o = *o;
    ls->worker = mem_strdup(o->worker);
    list_init(&ls->live);
    list_init(&ls->dying);
    ev_init(&ls->kick, on_kick);
    ls->kick.data = ls;
    return ls;
}

static void layer_free(struct layer *l)
{
    struct ev_loop *ev = loop_ev(l->all->o.loop);

    assert(list_empty(&l->uses));
    reg_get_cancel(l->get);
    ev_timer_stop(ev, &l->retry);
    ev_io_stop(ev, &l->pipe_io);
    ev_io_stop(ev, &l->sock_io);
    fd_close(l->pipe);
    fd_close(l->sock);
    if (l->child)
        child_disown(l->child);
    str_free(&l->spill);
    repo_unref(l->repo);
    list_del(&l->link);
    for (size_t i = 0; l->urls && l->urls[i]; i++)
        free(l->urls[i]);
    free(l->urls);
    free(l->digest);
    free(l->diff_id);
    free(l->chain_id);
    l->magic = 0;
    free(l);
}

struct layers *pull_layers_free(struct layers *ls)
{
    if (!ls)
        return NULL;
    assert(list_empty(&ls->live));
    while (!list_empty(&ls->dying)) {
        struct layer *l = list_first(&ls->dying, struct layer, link);

        layer_free(l);
    }
    ev_timer_stop(loop_ev(ls->o.loop), &ls->kick);
    free(ls->worker);
    free(ls);
    return NULL;
}

size_t layers_running(const struct layers *ls) { return ls->transfers; }

void layer_bury(struct layer *l)
{
    char rel[64];

    snprintf(rel, sizeof rel, "l/tmp-%" PRIu64, l->number);
    remover_add(l->all->o.remover, rel);
    snprintf(rel, sizeof rel, "l/%" PRIu64, l->number);
    remover_add(l->all->o.remover, rel);
    layer_free(l);
}

/* Nobody wants it, or it failed: the worker is killed, what it made is removed when it is dead. */
static void abandon(struct layer *l)
{
    struct layers *ls = l->all;

    layer_end_transfer(l);
    layer_close_pipe(l);
    ev_io_stop(loop_ev(ls->o.loop), &l->sock_io);
    l->sock = fd_close(l->sock);
    l->state = LAYER_FAILED;
    list_del(&l->link);
    list_add_tail(&ls->dying, &l->link);
    if (l->child)
        child_kill(l->child, SIGKILL);
    else if (!l->number)
        layer_free(l);               /* was never started */
    else
        layer_bury(l);
    layers_run_queue(ls);
}

/* --- uses */

static struct layer *find(struct layers *ls, const char *chain_id)
{
    struct layer *l;

    list_each(l, &ls->live, struct layer, link)
        if (strcmp(l->chain_id, chain_id) == 0)
            return l;
    return NULL;
}

bool layer_is_live(struct layers *ls, const char *chain_id) { return find(ls, chain_id) != NULL; }

bool layer_number_is_live(struct layers *ls, uint64_t number)
{
    struct layer *l;

    list_each(l, &ls->live, struct layer, link)
        if (l->number == number)
            return true;
    return false;
}

static char **strv_dup(char *const *v)
{
    size_t n = 0;
    char **r;

    while (v && v[n])
        n++;
    if (!n)
        return NULL;
    r = mem_array(n + 1, sizeof *r);
    for (size_t i = 0; i < n; i++)
        r[i] = mem_strdup(v[i]);
    return r;
}

static void join(struct layers *ls, struct layer_use *u)
{
    struct layer *l = find(ls, u->want.chain_id);

    if (!l) {
        l = mem_new(struct layer);
        l->magic = LAYER_MAGIC;
        l->all = ls;
        list_init(&l->uses);
        l->repo = repo_ref(u->repo);
        l->digest = mem_strdup(u->want.digest);
        l->diff_id = mem_strdup(u->want.diff_id);
        l->chain_id = mem_strdup(u->want.chain_id);
        l->urls = strv_dup(u->want.urls);
        l->size = u->want.size;
        layer_fetch_init(l);
        list_add_tail(&ls->live, &l->link);
    }
    u->layer = l;
    list_add_tail(&l->uses, &u->link);
}

struct layer_use *layer_use(struct layers *ls, const struct layer_want *w, layer_fn fn, void *arg)
{
    struct layer_use *u = mem_new(struct layer_use);

    u->all = ls;
    u->fn = fn;
    u->arg = arg;
    u->repo = repo_ref(w->repo);
    u->want = *w;
    u->want.digest = mem_strdup(w->digest);
    u->want.diff_id = mem_strdup(w->diff_id);
    u->want.chain_id = mem_strdup(w->chain_id);
    u->want.urls = strv_dup(w->urls);
    list_init(&u->link);
    join(ls, u);
    layers_run_queue(ls);
    return u;
}

static void use_free(struct layer_use *u)
{
    list_del(&u->link);
    repo_unref(u->repo);
    free((void *)(uintptr_t)u->want.digest);
    free((void *)(uintptr_t)u->want.diff_id);
    free((void *)(uintptr_t)u->want.chain_id);
    for (size_t i = 0; u->want.urls && u->want.urls[i]; i++)
        free(u->want.urls[i]);
    free((void *)(uintptr_t)u->want.urls);
    free(u);
}

static void unwanted(struct layer *l)
{
    struct layers *ls = l->all;
    char rel[64];

    if (!list_empty(&l->uses) || l->busy)
        return;
    if (l->state != LAYER_DONE) {
        abandon(l);
        return;
    }
    if (!ls->o.recorded(ls->o.ctx, l->chain_id, l->number)) {
        snprintf(rel, sizeof rel, "l/%" PRIu64, l->number);
        remover_add(ls->o.remover, rel);
    }
    layer_free(l);
}

void layer_drop(struct layer_use *u)
{
    struct layer *l;

    if (!u)
        return;
    l = u->layer;
    use_free(u);
    if (l)
        unwanted(l);
}

struct layer_info layer_info(const struct layer_use *u)
{
    const struct layer *l = u->layer;

    if (!l)
        return (struct layer_info){ .state = LAYER_FAILED };
    return (struct layer_info){ l->state, l->number, l->bytes, l->inodes, NULL };
}

/* Tells every use of the layer's state once; they may do what they like meanwhile. */
void layer_tell(struct layer *l)
{
    struct layer_use *u;
    bool again = true;

    l->busy++;
    while (again) {
        again = false;
        list_each(u, &l->uses, struct layer_use, link) {
            struct layer_info i = { l->state, l->number, l->bytes, l->inodes, NULL };

            if (u->told == l->state)
                continue;
            u->told = l->state;
            u->fn(u->arg, &i);
            again = true;            /* the ring may have changed: from the start */
            break;
        }
    }
    l->busy--;
    unwanted(l);
}

/* Those who asked another registry for the same layer are not to suffer: they get a transfer of
 * their own. */
void layer_fail(struct layer *l, const struct err *err)
{
    struct layers *ls = l->all;
    struct err e = *err;
    struct list uses;
    struct layer_use *u;
    struct repo *repo = repo_ref(l->repo);

    list_init(&uses);
    while ((u = list_first(&l->uses, struct layer_use, link))) {
        list_del(&u->link);
        list_add_tail(&uses, &u->link);
        u->layer = NULL;
    }
    log_debug("op=pull layer=%s number=%" PRIu64 " err='%s'", l->digest, l->number, e.text);
    abandon(l);
    while ((u = list_first(&uses, struct layer_use, link))) {
        struct layer_info i = { .state = LAYER_FAILED, .err = &e };

        list_del(&u->link);
        if (!u->moved && strcmp(repo_name(u->repo), repo_name(repo)) != 0) {
            u->moved = true;
            u->told = LAYER_QUEUED;
            join(ls, u);
            layers_run_queue(ls);
        } else {
            u->fn(u->arg, &i);
        }
    }
    repo_unref(repo);
}

/* One worker per turn of the loop: starting three at once held it for 20 ms. */
static void on_kick(struct ev_loop *ev, struct ev_timer *w, int revents)
{
    struct layers *ls = w->data;
    struct err e = ERR_INIT;
    struct layer *l, *next = NULL;

    (void)ev;
    (void)revents;
    list_each(l, &ls->live, struct layer, link)
        if (!next && l->state == LAYER_QUEUED)
            next = l;
    l = next;
    if (!l || ls->transfers >= ls->o.max_transfers)
        return;
    loop_name(ls->o.loop, "start layer");
    ls->transfers++;
    l->state = LAYER_RUNNING;
    l->number = ls->o.new_number(ls->o.ctx);
    l->progress_ms = clock_mono_ms();
    layers_run_queue(ls);
    if (layer_fetch(l, &e) < 0)
        layer_fail(l, &e);
}

/* Callers are not called back from inside: what is queued starts on a turn of its own. */
void layers_run_queue(struct layers *ls)
{
    if (ev_is_active(&ls->kick))
        return;
    ev_timer_set(&ls->kick, 0, 0);
    ev_timer_start(loop_ev(ls->o.loop), &ls->kick);
}

void layer_finish(struct layer_use *u, const uint64_t *lowers, size_t n)
{
    struct layer *l = u->layer;
    auto_str struct str msg = STR_INIT;

    if (!l || l->state != LAYER_READY)
        return;
    l->state = LAYER_FINISHING;
    str_puts(&msg, "finish");
    for (size_t i = 0; i < n; i++)
        str_printf(&msg, " %" PRIu64, lowers[i]);
    if (send(l->sock, msg.p, msg.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        child_kill(l->child, SIGKILL);   /* on_exit tells */
}
