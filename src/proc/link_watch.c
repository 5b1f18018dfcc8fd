/* SPDX-License-Identifier: Apache-2.0 */
/* Is there anybody? A supervisor may hang: stopped, waiting for a disk, going round in circles.
 *
 * What it is asked may take as long as it likes (an image's entrypoint, hooks, an OCI runtime, the
 * run of an exec), but its loop turns meanwhile. So the limit is on its silence while it owes us
 * something. A timer ticks four times in stall_ms; after a tick without a word it is pinged (an old
 * one answers that it does not know what that is, which will do), and with the fifth it hangs. A
 * stall of this process, or of the machine, is one tick at most. Nothing owed, nothing ticks.
 *
 * One that hangs keeps its link: what it says next makes it awake again. What was asked of it has
 * failed, so it is taken back: out of the queue, or by a word that undoes it and is read after it.
 */
#include "proc/link.h"

#include "mem.h"
#include "proc/link_priv.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

enum { TICKS = 4, KILL_MS = 5000 };

static void set_timer(struct link *k, int64_t ms)
{
    ev_timer_stop(loop_ev(k->loop), &k->watch);
    ev_timer_set(&k->watch, (double)ms / 1e3, (double)ms / 1e3);
    ev_timer_start(loop_ev(k->loop), &k->watch);
}

void link_watch(struct link *k)
{
    bool owes = !list_empty(&k->calls) || k->unheard || (k->ready && k->child);

    if (k->down || k->hangs || k->killed || !k->ev.stall_ms)
        return;
    if (!owes) {
        ev_timer_stop(loop_ev(k->loop), &k->watch);
    } else if (!ev_is_active(&k->watch)) {
        k->silent = 0;
        set_timer(k, k->ev.stall_ms / TICKS);
    }
}

void link_heard(struct link *k)
{
    k->silent = 0;
    k->unheard = false;
    if (!k->hangs)
        return;
    k->hangs = false;
    if (!k->killed)
        k->ev.on_awake(k->ev.arg);
}

bool link_hangs(const struct link *k, struct err *err)
{
    const char *name = strrchr(k->state_dir, '/');

    if (!k->hangs || k->killed)
        return false;
    err_rpc(err, GRPC_UNAVAILABLE,
            "sandbox %s: its supervisor (pid %d) hangs, it has not answered for %lld s",
            name ? name + 1 : k->state_dir, (int)k->pid, (long long)(k->ev.stall_ms / 1000));
    if (err)
        err->code = -EHOSTDOWN;
    return true;
}

/* The request, or what will undo it. */
static void take_back(struct link *k, struct call *c, const struct err *err)
{
    struct wire_serial m = { c->serial };
    const struct link_exec *x = c->kind == CALL_EXEC ? exec_find(k, c->serial) : NULL;
    bool queued = !(x && x->brings_cgroups) && link_unsend(k, c->serial);

    if (c->kind == CALL_EXEC && !queued)
        (void)link_send(k, WIRE_EXEC_KILL, 0, &m, sizeof m, NULL, 0, NULL);
    else if (c->kind == CALL_ATTACH && !queued)
        (void)link_send(k, WIRE_ATTACH_CLOSE, 0, &m, sizeof m, NULL, 0, NULL);
    call_done(k, c, err);            /* a container that it starts all the same: got_started() */
}

static struct call *next_call(struct link *k)
{
    struct call *c;

    list_each(c, &k->calls, struct call, l)
        if (c->kind != CALL_SHUTDOWN)
            return c;
    return NULL;
}

static void give_up(struct link *k)
{
    struct err e = ERR_INIT;
    struct call *c;

    k->hangs = true;
    k->unheard = false;
    ev_timer_stop(loop_ev(k->loop), &k->watch);
    (void)link_hangs(k, &e);
    if (k->ready) {                  /* there is no pod yet, and there will be none */
        child_kill(k->child, SIGKILL);
        link_ready_failed(k, &e);
        return;
    }
    while (!k->doomed && (c = next_call(k))) {
        list_del(&c->l);
        take_back(k, c, &e);
    }
    if (!k->doomed)
        k->ev.on_hangs(k->ev.arg, &e);
}

static void on_watch(struct ev_loop *ev, struct ev_timer *t, int revents)
{
    struct link *k = container_of(t, struct link, watch);
    struct err e = ERR_INIT;
    char text[128];

    (void)ev;
    (void)revents;
    loop_name(k->loop, "supervisor watch");
    link_enter(k);
    link_drain(k);                   /* what came while we stood still ourselves */
    if (k->doomed || k->down || !ev_is_active(t)) {
        (void)link_leave(k);
        return;
    }
    if (k->killed) {
        snprintf(text, sizeof text, "its supervisor (pid %d) does not die of SIGKILL, left alone",
                 (int)k->pid);
        k->ev.on_note(k->ev.arg, "", text);
        err_set(&e, -EPIPE, "the sandbox's supervisor was killed");
        link_go_down(k, &e);
    } else if (++k->silent > TICKS) {
        give_up(k);
    } else if (!k->ping) {
        k->ping = link_serial(k);
        if (link_send(k, WIRE_PING, k->ping, "", 0, NULL, 0, NULL) < 0)
            k->ping = 0;
    }
    (void)link_leave(k);
}

void link_watch_init(struct link *k)
{
    ev_init(&k->watch, on_watch);
}

void link_kill_pid(pid_t pid)
{
    auto_free char *path = mem_printf("/proc/%d/comm", (int)pid);
    auto_fd int fd = pid > 1 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    char name[32] = "";
    FILE *f = fd >= 0 ? fopen(path, "re") : NULL;

    if (f && fgets(name, sizeof name, f) && strcmp(name, "cricket-pod\n") == 0)
        (void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
    if (f)
        (void)fclose(f);
}

void link_kill(struct link *k)
{
    struct pollfd p = { .fd = k->fd };

    if (k->down || k->killed)
        return;
    k->killed = true;
    if (poll(&p, 1, 0) == 0)         /* else it has gone already, and the pid may be another's */
        link_kill_pid(k->pid);
    set_timer(k, KILL_MS);
}
