/* SPDX-License-Identifier: Apache-2.0 */
/* Start-up recovery, the part that meets the supervisors which a daemon before us has left.
 *
 * Each whose socket answers tells what runs and hands over the exits of the time in between. A
 * sandbox whose supervisor is gone is NOTREADY. For one that hangs (stopped, or waiting for a disk)
 * start-up waits MEET_MS; then the daemon serves, and the meeting goes on beside it: the pod is
 * shown as last known, because its processes run whatever their parent does, and what would need
 * the supervisor is refused (sandbox_met()). One that no record names is ended, and what lies in
 * its directory removed. */
#include "handlers/recover.h"

#include "handlers/restore.h"
#include "handlers/rpcs.h"
#include "handlers/sandbox_op.h"
#include "mem.h"
#include "proc/rdt.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MEET_MS = 5000, KNOCK_MS = 1000 };

struct meeting {                     /* with one supervisor; its sandbox's, where it has one */
    struct handlers *h;
    struct recovery *r;              /* NULL: start-up went on without this answer */
    struct sandbox *s;               /* NULL: nobody's */
    struct link *link;               /* of nobody's; else the sandbox has it */
    char *dir;
    int64_t since_ms;
    struct ev_timer timer;           /* MEET_MS, then KNOCK_MS while it cannot be connected to */
};

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

/* --- a sandbox's */

/* A container that its supervisor does not have: it never started, or its exit has been handed over
 * already. */
static void settle_unseen(struct meeting *m)
{
    struct ctr *c;

    list_each(c, &m->s->ctrs, struct ctr, in_sandbox) {
        if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__STARTING)
            recover_lost(c, "StartError", 128,
                     "the runtime was restarted while the container was being started");
        else if (c->rec->state == CRICKET__STATE__CONTAINER__STATE__RUNNING && !c->rec->pid)
            recover_lost(c, "Unknown", 255, "the container ended while the runtime was down");
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
        restore_end(c);
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

/* --- nobody's */

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

static void stray_over(struct meeting *m)
{
    remove_pod_dir(m->dir);
    recovery_answer(m->r);
    (void)meeting_free(m);
}

static void on_stray_down(void *arg, const struct err *err)
{
    struct meeting *m = arg;

    (void)err;
    link_free(m->link);
    stray_over(m);
}

static void stray_met(struct meeting *m, struct link *k, pid_t supervisor, const struct err *err)
{
    if (err) {
        stray_over(m);
        return;
    }
    log_warn("op=recover path='%s' pid=%d err='a supervisor that no record names', ending it",
             m->dir, (int)supervisor);
    m->link = k;
    link_shutdown(k, on_stray_down, m);
}

/* What it says of its containers is of no interest. */
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

/* --- either's */

static void on_met(void *arg, struct link *k, const char *netns, pid_t supervisor,
                   const struct err *err)
{
    struct meeting *m = arg;
    struct recovery *r = m->r;
    struct sandbox *s = m->s;

    (void)netns;
    if (!s) {
        stray_met(m, k, supervisor, err);
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
    recover_settle(r, s);
    recovery_answer(r);
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
    recovery_answer(r);
}

void recover_meet(struct recovery *r, struct sandbox *s, const char *dir)
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
    recovery_await(r);
    ev_init(&m->timer, on_late);
    m->timer.data = m;
    loop_timer(m->h->loop, &m->timer, MEET_MS);
    knock(m);
}

/* --- who hangs */

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
