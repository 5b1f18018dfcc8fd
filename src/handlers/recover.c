/* SPDX-License-Identifier: Apache-2.0 */
/* Start-up recovery (DESIGN: state).
 *
 * Same boot: every supervisor whose socket answers is met again; it tells what runs and hands over
 * the exits of the time in between. A sandbox whose supervisor is gone is NOTREADY. For one that
 * hangs (stopped, or waiting for a disk) start-up waits MEET_MS; then the daemon serves, and the
 * meeting goes on beside it: the pod is shown as last known, because its processes run whatever
 * their parent does, and what would need the supervisor is refused (sandbox_met()). What was being
 * made is undone, what was being removed is removed, by the same operations that clients start. New
 * boot: nothing runs. Every container is EXITED, every sandbox NOTREADY; addresses that CNI gave
 * out are released. Then whatever no record names goes: supervisors, pod directories, container
 * directories, layers. */
#include "handlers/recover.h"

#include "handlers/checkpoint.h"
#include "handlers/ctr_op.h"
#include "handlers/rpcs.h"
#include "handlers/sandbox_op.h"
#include "mem.h"
#include "proc/cgroup.h"
#include "proc/rdt.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { MEET_MS = 5000, KNOCK_MS = 1000 };

struct recovery {
    struct handlers *h;
    unsigned pending; /* answers that are awaited; the loop runs until there are none */
};

struct meeting {                     /* with one supervisor; its sandbox's, where it has one */
    struct handlers *h;
    struct recovery *r;              /* NULL: start-up went on without this answer */
    struct sandbox *s;               /* NULL: nobody's */
    struct link *link;               /* of nobody's; else the sandbox has it */
    char *dir;
    int64_t since_ms;
    struct ev_timer timer;           /* MEET_MS, then KNOCK_MS while it cannot be connected to */
};

/* r may be NULL: nobody waits for it. */
static void answered(struct recovery *r)
{
    if (r && --r->pending == 0)
        loop_stop(r->h->loop);
}

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

/* --- meeting a supervisor */

static void set_lost(struct ctr *c, const char *reason, int code, const char *message)
{
    struct ctr_exit x = { .code = code, .reason = reason, .message = message };

    ctr_set_exited(c, &x);
}

/* A container that its supervisor does not have: it never started, or its exit has been handed over
 * already. */
static void settle_unseen(struct meeting *m)
{
    struct ctr *c;

    list_each(c, &m->s->ctrs, struct ctr, in_sandbox) {
        if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__STARTING)
            set_lost(c, "StartError", 128,
                     "the runtime was restarted while the container was being started");
        else if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__RUNNING && !c->rec->pid)
            set_lost(c, "Unknown", 255, "the container ended while the runtime was down");
    }
}

static void on_ctr(void *arg, const struct link_ctr *x)
{
    struct meeting *m = arg;
    struct ctr *c = ctr_by_id(m->h, x->id);

    if (!m->s || !c || c->sandbox != m->s)
        return;
    /* CREATED: the run store could not be written when it was started */
    if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__STARTING ||
        c->rec->state == CRICKET__STATE__CONTAINER__STATE__CREATED) {
        c->rec->state = CRICKET__STATE__CONTAINER__STATE__RUNNING;
        c->rec->started_at = x->started_at;
        ctr_save(c);
    }
    if (!x->pid)    /* has exited: that follows */
        return;
    c->pidfd = fd_close(c->pidfd);
    c->pidfd = (int)syscall(SYS_pidfd_open, x->pid, 0);
    c->rec->pid = (uint32_t)x->pid;
    if (c->pidfd < 0)
        log_warn("op=recover ctr=%s pid=%d err='%s'", c->id, (int)x->pid, strerror(errno));
}

struct meeting *meeting_free(struct meeting *m)
{
    if (!m)
        return NULL;
    if (m->s)
        m->s->meeting = NULL;
    ev_timer_stop(loop_ev(m->h->loop), &m->timer);
    free(m->dir);
    free(m);
    return NULL;
}

int sandbox_met(const struct sandbox *s, struct err *err)
{
    char pid[24] = "";

    if (!s->meeting)
        return s->link && link_hangs(s->link, err) ? -EHOSTDOWN : 0;
    if (s->link)
        snprintf(pid, sizeof pid, " (pid %d)", (int)link_pid(s->link));
    return err_rpc(err, GRPC_UNAVAILABLE,
                   "sandbox %s: its supervisor%s hangs, it has not answered since the runtime was "
                   "started", s->id, pid);
}

static void remove_pod_dir(const char *dir)
{
    static const char *const names[] = { "netns", "sock",        "hostname",
                                         "hosts", "resolv.conf", "exits" };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        auto_free char *p = mem_printf("%s/%s", dir, names[i]);

        if (i == 0)
            (void)umount2(p, MNT_DETACH);    /* start-up: nobody is served yet */
        if (remove(p) < 0 && errno == ENOTEMPTY) {
            DIR *d = opendir(p);
            struct dirent *e;

            while (d && (e = readdir(d)))
                (void)unlinkat(dirfd(d), e->d_name, 0);
            if (d)
                closedir(d);
            (void)remove(p);
        }
    }
    rdt_remove_all(dir);
    sandbox_drop_bundles(dir);
    if (remove(dir) < 0 && errno != ENOENT)
        log_warn("op=recover path='%s' err='%s'", dir, strerror(errno));
}

static void on_stray_down(void *arg, const struct err *err)
{
    struct meeting *m = arg;

    (void)err;
    link_free(m->link);
    remove_pod_dir(m->dir);
    answered(m->r);
    (void)meeting_free(m);
}

static void awaited(struct recovery *r)
{
    if (r)
        r->pending++;
}

static void finish_removed(void *arg, const struct err *err)
{
    struct recovery *r = arg;

    if (err)
        log_warn("op=recover step=remove err='%s', left for a client to repeat", err->text);
    answered(r);
}

/* The supervisor has told all that it knows, or there is none. r: who waits for the removals, or
 * NULL. */
static void settle_sandbox(struct recovery *r, struct sandbox *s)
{
    struct ctr *c;

    list_each(c, &s->ctrs, struct ctr, in_sandbox) {
        if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__MAKING ||
            c->rec->state == CRICKET__STATE__CONTAINER__STATE__REMOVING) {
            awaited(r);
            ctr_remove_start(c, finish_removed, r);
        } else if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__EXITED &&
                   c->rec->cgroup_path[0]) {
            ctr_sweep(c);
        }
    }
    if (s->rec->state == CRICKET__STATE__SANDBOX__STATE__MAKING ||
        s->rec->state == CRICKET__STATE__SANDBOX__STATE__REMOVING) {
        awaited(r);
        sandbox_remove_start(s, finish_removed, r);
    }
}

static void on_met(void *arg, struct link *k, const char *netns, pid_t supervisor,
                   const struct err *err)
{
    struct meeting *m = arg;
    struct recovery *r = m->r;
    struct sandbox *s = m->s;

    (void)netns;
    if (!s) {
        if (err) {
            m->link = NULL;
            remove_pod_dir(m->dir);
            answered(r);
            (void)meeting_free(m);
            return;
        }
        log_warn("op=recover path='%s' pid=%d err='a supervisor that no record names', ending it",
                 m->dir, (int)supervisor);
        m->link = k;
        link_shutdown(k, on_stray_down, m);
        return;
    }
    if (err) {
        if (s->rec->state == CRICKET__STATE__SANDBOX__STATE__READY)   /* else it was stopped */
            log_warn("op=recover sandbox=%s err='%s', the sandbox is not ready", s->id, err->text);
        s->link = NULL;
        sandbox_lost(s);
    } else {
        s->link = k;
        settle_unseen(m);
        if (!r)
            log_info("op=recover sandbox=%s pid=%d note='its supervisor answers again'", s->id,
                     (int)supervisor);
    }
    (void)meeting_free(m);
    settle_sandbox(r, s);
    answered(r);
}

/* A supervisor that nobody knows: what it says of its containers is of no interest. */
static void stray_exit(void *arg, const struct link_exit *x)
{
    (void)arg;
    (void)x;
}

static void stray_gone(void *arg)
{
    (void)arg;
}

static void stray_note(void *arg, const char *ctr, const char *text)
{
    (void)arg;
    (void)ctr;
    (void)text;
}

bool sandbox_may_end(const struct sandbox *s)
{
    return !s->meeting ||
           clock_mono_ms() - s->meeting->since_ms >= s->h->conf->supervisor_stall_ms;
}

void sandbox_end_hung(struct sandbox *s)
{
    struct err err = ERR_INIT;

    if (sandbox_met(s, &err) == 0)
        return;
    log_warn("op=supervisor sandbox=%s err='%s', killing it", s->id, err.text);
    if (s->link) {
        link_kill(s->link);
        return;
    }
    link_kill_pid((pid_t)s->rec->supervisor_pid);
    on_met(s->meeting, NULL, "", 0, &err);
}

/* The queue of its socket is full of daemons that were here before, or we lack something. */
static bool may_live(int r)
{
    return r == -EAGAIN || r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* m may be gone afterwards. */
static void knock(struct meeting *m)
{
    struct link_events ev = { .on_exit = stray_exit, .on_gone = stray_gone,
                              .on_note = stray_note, .arg = m };
    struct err err = ERR_INIT;
    int r;

    if (m->s)
        sandbox_link_events(m->s, &ev);
    r = link_open(m->h->loop, m->dir, &ev, on_ctr, on_met, m, m->s ? &m->s->link : &m->link, &err);
    if (r < 0 && !may_live(r)) {
        on_met(m, NULL, "", 0, &err);
    } else if (r < 0) {
        log_debug("op=recover path='%s' err='%s', trying again", m->dir, err.text);
        if (!m->r)                   /* else on_late() comes in any case */
            loop_timer(m->h->loop, &m->timer, KNOCK_MS);
    }
}

static void on_late(struct ev_loop *ev, ev_timer *t, int revents)
{
    struct meeting *m = t->data;
    struct recovery *r = m->r;

    (void)ev;
    (void)revents;
    loop_name(m->h->loop, "meeting");
    if (r)
        log_warn("op=recover path='%s' err='its supervisor hangs: no answer in %d ms', going on",
                 m->dir, MEET_MS);
    m->r = NULL;
    if (!m->s) {                     /* the next start may find it awake */
        link_free(m->link);
        (void)meeting_free(m);
    } else if (!m->s->link) {
        knock(m);                    /* m may be gone */
    }
    answered(r);
}

static void meet(struct recovery *r, struct sandbox *s, const char *dir)
{
    struct meeting *m = mem_new(struct meeting);
    struct ctr *c;

    if (s) {
        s->meeting = m;
        list_each(c, &s->ctrs, struct ctr, in_sandbox)
            c->rec->pid = 0;    /* until on_ctr() */
    }
    m->h = r->h;
    m->r = r;
    m->s = s;
    m->dir = mem_strdup(dir);
    m->since_ms = clock_mono_ms();
    r->pending++;
    ev_init(&m->timer, on_late);
    m->timer.data = m;
    loop_timer(m->h->loop, &m->timer, MEET_MS);
    knock(m);
}

/* --- a new boot */

static void on_released(void *arg, const struct err *err)
{
    struct recovery *r = arg;

    if (err)
        log_warn("op=recover step=network err='%s', released when the sandbox is removed",
                 err->text);
    answered(r);
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
            set_lost(c, "Unknown", 255, "the machine was restarted");
    }
    sandbox_each(h, i, s) {
        if (s->rec->state == CRICKET__STATE__SANDBOX__STATE__READY) {
            s->rec->state = CRICKET__STATE__SANDBOX__STATE__NOTREADY;
            sandbox_save(s);
        }
        if (s->rec->state == CRICKET__STATE__SANDBOX__STATE__NOTREADY && s->rec->cni_added) {
            r->pending++;
            sandbox_stop_start(s, on_released, r);
        }
    }
    /* Removals change the index: from the back, each at its own turn. */
    for (size_t i = h->sandboxes.n; i-- > 0;) {
        if (i < h->sandboxes.n)
            settle_sandbox(r, h->sandboxes.v[i]);
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
        meet(r, NULL, dir);
}

static void stray_ctr(struct recovery *r, const char *name)
{
    auto_free char *rel = mem_printf("containers/%s", name);

    if (!ctr_by_id(r->h, name))
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
            meet(&r, v[i], v[i]->dir);
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
