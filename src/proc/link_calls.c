/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon asks of a supervisor, and who is told the answer: a struct call from the request
 * to its reply, a struct link_exec or link_attach for as long as the thing lives. */
#include "proc/link.h"

#include "mem.h"
#include "proc/flat.h"
#include "proc/link_priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct call *call_new(struct link *k, enum call_kind kind, uint32_t serial, const char *what)
{
    struct call *c = mem_new(struct call);

    c->kind = kind;
    c->serial = serial;
    snprintf(c->what, sizeof c->what, "%s", what);
    list_add_tail(&k->calls, &c->l);
    link_watch(k);
    return c;
}

struct call *call_take(struct link *k, uint32_t serial)
{
    struct call *c;

    list_each(c, &k->calls, struct call, l)
        if (c->serial == serial) {
            list_del(&c->l);
            return c;
        }
    return NULL;
}

struct link_exec *exec_find(struct link *k, uint32_t serial)
{
    struct link_exec *x;

    list_each(x, &k->execs, struct link_exec, l)
        if (x->serial == serial)
            return x;
    return NULL;
}

struct link_attach *attach_find(struct link *k, uint32_t serial)
{
    struct link_attach *a;

    list_each(a, &k->attaches, struct link_attach, l)
        if (a->serial == serial)
            return a;
    return NULL;
}

/* ---- answers */

void exec_done(struct link_exec *x, int status, const struct err *err)
{
    struct link_exec_events ev = x->ev;
    bool started = x->started;

    list_del(&x->l);
    free(x);
    if (!started && ev.started)
        ev.started(ev.arg, 0, -1, err);
    else if (started && ev.exited)
        ev.exited(ev.arg, status);
}

void attach_done(struct link_attach *a, const struct err *err)
{
    void (*closed)(void *arg, const struct err *e) = a->closed;
    void *arg = a->arg;

    list_del(&a->l);
    free(a);
    closed(arg, err);
}

void call_done(struct link *k, struct call *c, const struct err *err)
{
    struct err e;
    struct link_exec *x;
    struct link_attach *a;

    if (err) {
        e = *err;
        if (c->what[0])
            err_note(&e, "%s", c->what);
        err = &e;
    }
    switch (c->kind) {
    case CALL_READY:
        break;
    case CALL_START:
        if (err)
            c->start(c->arg, 0, -1, 0, err);
        break;
    case CALL_EXEC:
        x = exec_find(k, c->serial);
        if (x && err)
            exec_done(x, 0, err);
        break;
    case CALL_ATTACH:
        a = attach_find(k, c->serial);
        if (a && err)
            attach_done(a, err);
        break;
    case CALL_SHUTDOWN:
        k->stopping = k->stopping && !err;       /* else it goes on, and its end is worth a word */
        if (c->reply)
            c->reply(c->arg, err);
        break;
    case CALL_REPLY:
        if (c->reply)
            c->reply(c->arg, err);
        break;
    }
    free(c);
}

/* ---- requests */

static void set_id(char to[WIRE_ID], const char *id)
{
    snprintf(to, WIRE_ID, "%s", id ? id : "");
}

int link_start(struct link *k, const char *id, int plan_fd, const int *cgroup_fds, size_t n,
               bool cgroup2, int oom_fd, const char *target, link_start_fn done, void *arg,
               struct err *err)
{
    struct wire_start m = { .flags =
                                (cgroup2 ? WIRE_CGROUP2 : 0) | (oom_fd >= 0 ? WIRE_HAS_OOM : 0),
                            .n_cgroups = (uint32_t)n };
    int fds[WIRE_FDS_MAX];
    size_t n_fds = 0;
    uint32_t serial = link_serial(k);

    if (n + 2 > ARRAY_LEN(fds))
        return err_set(err, -E2BIG, "start container: %zu cgroups", n);
    set_id(m.id, id);
    set_id(m.target, target);
    fds[n_fds++] = plan_fd;
    if (oom_fd >= 0)
        fds[n_fds++] = oom_fd;
    for (size_t i = 0; i < n; i++)
        fds[n_fds++] = cgroup_fds[i];
    int r = link_send(k, WIRE_START, serial, &m, sizeof m, fds, n_fds, err);
    if (r < 0)
        return err_note(err, "start container");
    struct call *c = call_new(k, CALL_START, serial, "start container");
    c->start = done;
    c->arg = arg;
    return 0;
}

void link_ack_exit(struct link *k, const char *id)
{
    struct wire_ctr_id m;

    memset(&m, 0, sizeof m);
    set_id(m.id, id);
    (void)link_send(k, WIRE_ACK_EXIT, 0, &m, sizeof m, NULL, 0,
                    NULL); /* unheard: the exit is told again */
}

void link_signal(struct link *k, const char *id, int sig)
{
    struct wire_signal m = { .sig = sig };

    set_id(m.id, id);
    (void)link_send(k, WIRE_SIGNAL, 0, &m, sizeof m, NULL, 0,
                    NULL); /* a link that is down says so itself */
    k->unheard = true;
    link_watch(k);
}

/* Answered at once (from inside) when it cannot be sent. */
static void request(struct link *k, enum call_kind kind, enum wire_type type, const void *body,
                    size_t len, const char *what, link_reply_fn done, void *arg)
{
    struct err e = ERR_INIT;
    uint32_t serial = link_serial(k);
    int r = link_send(k, type, serial, body, len, NULL, 0, &e);
    struct call *c = call_new(k, kind, serial, what);

    c->reply = done;
    c->arg = arg;
    if (r == 0 || (!k->down && (r == -EPIPE || r == -ECONNRESET)))
        return;                      /* the answer, or the end of the link */
    list_del(&c->l);
    link_watch(k);
    call_done(k, c, kind == CALL_SHUTDOWN && k->down ? NULL : &e);
}

void link_reopen_log(struct link *k, const char *id, link_reply_fn done, void *arg)
{
    struct wire_ctr_id m;

    memset(&m, 0, sizeof m);
    set_id(m.id, id);
    request(k, CALL_REPLY, WIRE_REOPEN, &m, sizeof m, "reopen log", done, arg);
}

void link_resize(struct link *k, const char *id, uint16_t w, uint16_t h)
{
    struct wire_resize m = { .width = w, .height = h };

    set_id(m.id, id);
    (void)link_send(k, WIRE_RESIZE, 0, &m, sizeof m, NULL, 0, NULL);
}

void link_shutdown(struct link *k, link_reply_fn done, void *arg)
{
    k->stopping = true;
    request(k, CALL_SHUTDOWN, WIRE_SHUTDOWN, "", 0, "stop the sandbox's supervisor", done, arg);
}

/* Most plans fit into the request; an older supervisor wants a memfd. */
static int send_exec(struct link *k, uint32_t serial, struct wire_exec *m, const struct str *plan,
                     int *fds, size_t n_fds, struct err *err)
{
    auto_fd int fd = -1;

    _Static_assert((sizeof(struct wire_hdr) + sizeof *m) % 8 == 0, "the plan's place");
    if (k->version >= WIRE_TAKES_PLANS &&
        plan->len <= WIRE_EXEC_MAX - sizeof(struct wire_hdr) - sizeof *m) {
        m->plan_off = sizeof(struct wire_hdr) + sizeof *m;
        return link_send_more(k, WIRE_EXEC, serial, m, sizeof *m, plan->p, plan->len, fds + 1,
                              n_fds - 1, err);
    }
    int r = flat_memfd(plan->p, plan->len, "cricket-exec", &fd, err);
    if (r < 0)
        return r;
    fds[0] = fd;
    return link_send(k, WIRE_EXEC, serial, m, sizeof *m, fds, n_fds, err);
}

int link_exec(struct link *k, const char *ctr_id, const struct str *plan, const int fds[3],
              const int *cgroup_fds, size_t n, bool cgroup2, const struct link_exec_events *ev,
              struct link_exec **ret, struct err *err)
{
    static const uint32_t flag[3] = { WIRE_FD_0, WIRE_FD_1, WIRE_FD_2 };
    struct wire_exec m = { .flags = (cgroup2 ? WIRE_CGROUP2 : 0) | (ev->quiet ? WIRE_QUIET : 0),
                           .n_cgroups = (uint32_t)n };
    int all[WIRE_FDS_MAX];
    size_t n_all = 1;                /* the first is the plan's, should it need one */
    uint32_t serial = link_serial(k);

    if (n + 4 > ARRAY_LEN(all))
        return err_set(err, -E2BIG, "exec: %zu cgroups", n);
    set_id(m.id, ctr_id);
    for (int i = 0; fds && i < 3; i++)
        if (fds[i] >= 0) {
            m.flags |= flag[i];
            all[n_all++] = fds[i];
        }
    for (size_t i = 0; i < n; i++)
        all[n_all++] = cgroup_fds[i];
    int r = send_exec(k, serial, &m, plan, all, n_all, err);
    if (r < 0)
        return err_note(err, "exec");
    (void)call_new(k, CALL_EXEC, serial, "");
    struct link_exec *x = mem_new(struct link_exec);
    x->k = k;
    x->serial = serial;
    x->ev = *ev;
    x->brings_cgroups = n > 0;
    list_add_tail(&k->execs, &x->l);
    *ret = x;
    return 0;
}

void link_exec_kill(struct link_exec *x)
{
    struct wire_serial m = { x->serial };

    if (x->k)
        (void)link_send(x->k, WIRE_EXEC_KILL, 0, &m, sizeof m, NULL, 0, NULL);
}

void link_exec_resize(struct link_exec *x, uint16_t w, uint16_t h)
{
    struct wire_resize m = { .serial = x->serial, .width = w, .height = h };

    if (x->k)
        (void)link_send(x->k, WIRE_EXEC_RESIZE, 0, &m, sizeof m, NULL, 0, NULL);
}

void link_exec_forget(struct link_exec *x)
{
    bool taken_back = x->k && !x->brings_cgroups && link_unsend(x->k, x->serial);

    if (taken_back) {
        free(call_take(x->k, x->serial));
        link_watch(x->k);
    } else {
        link_exec_kill(x);
    }
    x->ev = (struct link_exec_events){ 0 };
    if (taken_back || !x->k || x->k->down) {
        list_del(&x->l);
        free(x);
    }                                /* else freed when the supervisor says that it has ended */
}

int link_attach(struct link *k, const char *ctr_id, int in, int out, int err_fd,
                void (*closed)(void *arg, const struct err *err), void *arg,
                struct link_attach **ret, struct err *err)
{
    struct wire_attach m = { .flags = 0 };
    int fds[3], given[3] = { in, out, err_fd };
    static const uint32_t flag[3] = { WIRE_FD_0, WIRE_FD_1, WIRE_FD_2 };
    size_t n = 0;
    uint32_t serial = link_serial(k);

    set_id(m.id, ctr_id);
    for (int i = 0; i < 3; i++)
        if (given[i] >= 0) {
            m.flags |= flag[i];
            fds[n++] = given[i];
        }
    int r = link_send(k, WIRE_ATTACH, serial, &m, sizeof m, fds, n, err);
    if (r < 0)
        return err_note(err, "attach");
    (void)call_new(k, CALL_ATTACH, serial, "attach");
    struct link_attach *a = mem_new(struct link_attach);
    a->k = k;
    a->serial = serial;
    a->closed = closed;
    a->arg = arg;
    list_add_tail(&k->attaches, &a->l);
    *ret = a;
    return 0;
}

void link_attach_close(struct link_attach *a)
{
    struct wire_serial m = { a->serial };
    struct call *c = a->k ? call_take(a->k, a->serial) : NULL;

    if (a->k)
        (void)link_send(a->k, WIRE_ATTACH_CLOSE, 0, &m, sizeof m, NULL, 0, NULL);
    if (c)
        link_watch(a->k);
    free(c);
    list_del(&a->l);
    free(a);
}
