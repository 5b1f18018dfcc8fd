/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of the talk with a supervisor (pod/wire.h has the messages).
 *
 * Every request has a serial and, until it is answered, a struct call with whom to tell; execs and
 * attaches keep their serial for what comes later. A link that drops answers all of them with an
 * error, then says on_gone. Callbacks may free the link they are called from: while one runs,
 * link_free() only marks it. */
#include "proc/link.h"

#include "mem.h"
#include "proc/link_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    MSGS_PER_TURN = 32,
    QUEUE_MAX = 4096,                /* messages that wait for a supervisor */
    QUEUE_FDS_MAX = 256,             /* of them: with descriptors, up to a dozen each */
};

struct msg {                         /* not sent yet */
    struct list l;
    size_t n_fds, len;
    int fds[WIRE_FDS_MAX];
    char data[];
};

static void on_io(struct ev_loop *ev, struct ev_io *w, int revents);

/* ---- life */

struct link *link_new(struct loop *l, int fd, const char *state_dir, const struct link_events *ev)
{
    static uint64_t number;
    struct link *k = mem_new(struct link);

    k->number = ++number;
    k->loop = l;
    k->fd = fd;
    k->ev = *ev;
    k->state_dir = mem_strdup(state_dir);
    list_init(&k->calls);
    list_init(&k->execs);
    list_init(&k->attaches);
    list_init(&k->queue);
    link_watch_init(k);
    ev_io_init(&k->io, on_io, fd, EV_READ);
    k->io.data = k;
    ev_io_start(loop_ev(l), &k->io);
    return k;
}

static void unqueue(struct link *k, struct msg *m)
{
    list_del(&m->l);
    k->n_queue--;
    k->n_queue_fds -= m->n_fds > 0;
    while (m->n_fds)
        fd_close(m->fds[--m->n_fds]);
    free(m);
}

static void queue_drop(struct link *k)
{
    struct msg *m;

    list_each(m, &k->queue, struct msg, l)
        unqueue(k, m);
}

static void disconnect(struct link *k)
{
    ev_io_stop(loop_ev(k->loop), &k->io);
    ev_timer_stop(loop_ev(k->loop), &k->watch);
    k->fd = fd_close(k->fd);
    k->down = true;
    queue_drop(k);
}

struct link *link_free(struct link *k)
{
    struct call *c;
    struct link_exec *x;
    struct link_attach *a;

    if (!k)
        return NULL;
    if (!k->down)
        disconnect(k);
    k->ready = NULL;
    if (k->busy) {
        k->doomed = true;
        return NULL;
    }
    list_each(c, &k->calls, struct call, l) {
        list_del(&c->l);
        free(c);
    }
    list_each(x, &k->execs, struct link_exec, l) {   /* their owners still hold these */
        list_del(&x->l);
        x->k = NULL;
        if (!x->ev.started && !x->ev.exited)
            free(x);                 /* a forgotten one has no owner */
    }
    list_each(a, &k->attaches, struct link_attach, l) {
        list_del(&a->l);
        a->k = NULL;
    }
    if (k->child)
        child_disown(k->child);
    free(k->state_dir);
    free(k->netns);
    free(k);
    return NULL;
}

void link_enter(struct link *k)
{
    k->busy++;
}

bool link_leave(struct link *k)
{
    if (--k->busy == 0 && k->doomed) {
        k->doomed = false;
        link_free(k);
        return false;
    }
    return true;
}

pid_t link_pid(const struct link *k)
{
    return k->pid;
}

bool link_keeps_cgroups(const struct link *k)
{
    return k->version >= WIRE_KEEPS_CGROUPS;
}

uint64_t link_number(const struct link *k)
{
    return k->number;
}

pid_t link_init_pid(const struct link *k)
{
    return k->init_pid;
}

/* ---- sending */

static int send_now(struct link *k, struct iovec *iov, size_t n_iov, const int *fds, size_t n_fds)
{
    union {
        struct cmsghdr h;
        char b[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
    } u;
    struct msghdr h = { .msg_iov = iov, .msg_iovlen = n_iov };

    if (n_fds) {
        memset(&u, 0, sizeof u);
        h.msg_control = u.b;
        h.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        u.h.cmsg_level = SOL_SOCKET;
        u.h.cmsg_type = SCM_RIGHTS;
        u.h.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(&u.h), fds, n_fds * sizeof(int));
    }
    return sendmsg(k->fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static struct iovec span(const void *p, size_t n)
{
    return (struct iovec){ (void *)(uintptr_t)p, n };
}

int link_send(struct link *k, enum wire_type type, uint32_t serial, const void *body, size_t len,
              const int *fds, size_t n_fds, struct err *err)
{
    return link_send_more(k, type, serial, body, len, NULL, 0, fds, n_fds, err);
}

int link_send_more(struct link *k, enum wire_type type, uint32_t serial, const void *body,
                   size_t len, const void *more, size_t more_len, const int *fds, size_t n_fds,
                   struct err *err)
{
    struct wire_hdr h = { WIRE_VERSION, (uint16_t)type, serial,
                          (uint32_t)(sizeof h + len + more_len), 0 };
    struct iovec iov[] = { span(&h, sizeof h), span(body, len), span(more, more_len) };

    if (k->down)
        return err_set(err, -EPIPE, "the sandbox's supervisor is gone");
    if (serial && type != WIRE_PING && link_hangs(k, err))
        return -EHOSTDOWN;
    if (h.len > (more_len ? WIRE_EXEC_MAX : WIRE_MSG_MAX) || n_fds > WIRE_FDS_MAX)
        return err_set(err, -EMSGSIZE, "message of %zu bytes and %zu descriptors for a supervisor",
                       len + more_len, n_fds);
    if (list_empty(&k->queue)) {
        int r = send_now(k, iov, ARRAY_LEN(iov), fds, n_fds);
        if (r != -EAGAIN)
            return r < 0 ? err_code(err, r, "write to the sandbox's supervisor") : 0;
    }
    if (k->n_queue >= QUEUE_MAX)
        return err_set(err, -ENOBUFS, "the sandbox's supervisor does not answer");
    if (n_fds && k->n_queue_fds >= QUEUE_FDS_MAX)
        return err_rpc(err, GRPC_RESOURCE_EXHAUSTED, "%d requests wait for the sandbox already",
                       QUEUE_FDS_MAX);
    struct msg *m = mem_alloc(sizeof *m + h.len);
    for (size_t i = 0; i < ARRAY_LEN(iov); i++) {
        if (iov[i].iov_len)
            memcpy(m->data + m->len, iov[i].iov_base, iov[i].iov_len);
        m->len += iov[i].iov_len;
    }
    for (; m->n_fds < n_fds; m->n_fds++) {
        int fd = fcntl(fds[m->n_fds], F_DUPFD_CLOEXEC, 3);
        if (fd < 0) {
            int r = err_sys(err, "dup for the sandbox's supervisor");
            while (m->n_fds)
                fd_close(m->fds[--m->n_fds]);
            free(m);
            return r;
        }
        m->fds[m->n_fds] = fd;
    }
    list_add_tail(&k->queue, &m->l);
    k->n_queue++;
    k->n_queue_fds += n_fds > 0;
    ev_io_stop(loop_ev(k->loop), &k->io);
    ev_io_set(&k->io, k->fd, EV_READ | EV_WRITE);
    ev_io_start(loop_ev(k->loop), &k->io);
    return 0;
}

bool link_unsend(struct link *k, uint32_t serial)
{
    struct msg *m;

    list_each(m, &k->queue, struct msg, l) {
        struct wire_hdr h;

        memcpy(&h, m->data, sizeof h);
        if (h.serial == serial) {
            unqueue(k, m);
            return true;
        }
    }
    return false;
}

/* What was queued could not be sent after all. Where the link has ended, that answers, in order. */
static void unsent(struct link *k, uint32_t serial, int r)
{
    struct err e = ERR_INIT;
    struct call *c;

    if (serial == k->ping)
        k->ping = 0;                 /* the next tick sends another one */
    if (r == -EPIPE || r == -ECONNRESET || !(c = call_take(k, serial)))
        return;
    err_code(&e, r, "write to the sandbox's supervisor");
    call_done(k, c, &e);
}

static void queue_flush(struct link *k)
{
    struct msg *m;

    while (!k->down && (m = list_first(&k->queue, struct msg, l))) {
        struct iovec iov = span(m->data, m->len);
        int r = send_now(k, &iov, 1, m->fds, m->n_fds);
        struct wire_hdr h;

        if (r == -EAGAIN)
            return;
        memcpy(&h, m->data, sizeof h);
        unqueue(k, m);
        if (r < 0)
            unsent(k, h.serial, r);
    }
    if (k->down)
        return;
    ev_io_stop(loop_ev(k->loop), &k->io);
    ev_io_set(&k->io, k->fd, EV_READ);
    ev_io_start(loop_ev(k->loop), &k->io);
}

uint32_t link_serial(struct link *k)
{
    if (++k->serial == 0)
        k->serial = 1;
    return k->serial;
}

/* ---- answers */

void link_undo_dir(struct link *k)
{
    char *const names[] = { mem_printf("%s/exits", k->state_dir),
                            mem_printf("%s/sock", k->state_dir) };

    (void)unlink(names[1]);
    (void)rmdir(names[0]);
    (void)rmdir(k->state_dir);       /* only if it is empty */
    free(names[0]);
    free(names[1]);
}

void link_ready_failed(struct link *k, const struct err *err)
{
    link_ready_fn ready = k->ready;
    struct err e = *err;
    void *arg = k->ready_arg;

    if (k->undo)
        link_undo_dir(k);
    k->ready = NULL;
    if (!k->down)
        disconnect(k);
    ready(arg, NULL, "", 0, &e);
    link_free(k);
}

void link_go_down(struct link *k, const struct err *why)
{
    struct err e = *why;

    if (k->down)
        return;
    disconnect(k);
    if (k->ready) {
        link_ready_failed(k, &e);
        return;
    }
    struct call *c, *shutdown = NULL;
    while (!k->doomed && (c = list_first(&k->calls, struct call, l))) {
        list_del(&c->l);
        if (c->kind == CALL_SHUTDOWN && !shutdown)
            shutdown = c;            /* last: whoever asked for it frees the link */
        else
            call_done(k, c, c->kind == CALL_SHUTDOWN ? NULL : &e);
    }
    while (!list_empty(&k->execs) && !k->doomed)
        exec_done(list_first(&k->execs, struct link_exec, l), 128 + 9, &e);
    while (!list_empty(&k->attaches) && !k->doomed)
        attach_done(list_first(&k->attaches, struct link_attach, l), &e);
    if (shutdown && k->doomed)
        free(shutdown);
    else if (shutdown)
        call_done(k, shutdown, NULL);
    if (!k->doomed && !k->stopping)
        k->ev.on_gone(k->ev.arg);
}

static void got_ready(struct link *k, const struct wire_ready *m)
{
    link_ready_fn ready = k->ready;

    if (!ready)
        return;
    k->ready = NULL;
    k->on_ctr = NULL;                /* whoever listened to it is gone after this */
    k->pid = m->pid;
    k->version = m->version;
    k->init_pid = m->init_pid;
    k->netns = m->has_netns ? mem_printf("%s/netns", k->state_dir) : mem_strdup("");
    ready(k->ready_arg, k, k->netns, k->pid, NULL);
}

static void got_exit(struct link *k, const struct wire_exit *m)
{
    struct link_exit x = {
        .status = m->status, .signal = m->signal, .finished_at = m->finished_at, .oom = m->oom
    };

    snprintf(x.id, sizeof x.id, "%.64s", m->id);
    k->ev.on_exit(k->ev.arg, &x);
}

static void got_ctr(struct link *k, const struct wire_ctr *m)
{
    struct link_ctr c = { .pid = m->pid, .started_at = m->started_at };

    snprintf(c.id, sizeof c.id, "%.64s", m->id);
    if (k->on_ctr)
        k->on_ctr(k->ready_arg, &c);
}

static void got_started(struct link *k, uint32_t serial, const struct wire_started *m, int *fd)
{
    struct call *c = call_take(k, serial);

    if (c && c->kind == CALL_START) {
        c->start(c->arg, m->pid, take_fd(fd), m->started_at, NULL);
        free(c);
    } else if (c) {
        list_add_tail(&k->calls, &c->l);
    } else {                         /* given up while it hung */
        (void)syscall(SYS_pidfd_send_signal, *fd, SIGKILL, NULL, 0);
    }
}

static void got_exec_started(struct link *k, uint32_t serial, const struct wire_started *m, int *fd)
{
    struct call *c = call_take(k, serial);
    struct link_exec *x = exec_find(k, serial);

    free(c);
    if (!x || x->started)
        return;
    x->started = true;
    if (x->ev.started)
        x->ev.started(x->ev.arg, m->pid, take_fd(fd), NULL);
}

static void got_reply(struct link *k, uint32_t serial, const struct wire_reply *m)
{
    struct err e = ERR_INIT;

    if (m->code < 0)
        err_set(&e, m->code, "%s", m->text);
    if (k->ready && serial == 1) {   /* the first request of a link is HELLO or INIT */
        if (m->code < 0)
            link_ready_failed(k, &e);
        return;
    }
    if (serial == k->ping) {
        k->ping = 0;
        return;
    }
    struct call *c = call_take(k, serial);
    if (!c)
        return;
    if (c->kind == CALL_SHUTDOWN && m->code == 0) {
        list_add_tail(&k->calls, &c->l);         /* done when the socket ends: then it has exited */
        return;
    }
    call_done(k, c, m->code < 0 ? &e : NULL);
}

static void dispatch(struct link *k, const struct wire_hdr *h, const char *body, size_t len,
                     int *fd)
{
    union {
        struct wire_ready ready;
        struct wire_ctr ctr;
        struct wire_exit exit;
        struct wire_reply reply;
        struct wire_started started;
        struct wire_exec_exited exited;
        struct wire_note note;
    } b;
    struct err err = ERR_INIT;
    struct link_exec *x;
    struct link_attach *a;

    memset(&b, 0, sizeof b);
    memcpy(&b, body, len < sizeof b ? len : sizeof b);
    switch (h->type) {
    case WIRE_READY:
        got_ready(k, &b.ready);
        break;
    case WIRE_CTR:
        b.ctr.id[WIRE_ID - 1] = '\0';
        got_ctr(k, &b.ctr);
        break;
    case WIRE_EXIT:
        b.exit.id[WIRE_ID - 1] = '\0';
        got_exit(k, &b.exit);
        break;
    case WIRE_REPLY:
        b.reply.text[WIRE_TEXT - 1] = '\0';
        got_reply(k, h->serial, &b.reply);
        break;
    case WIRE_STARTED:
        got_started(k, h->serial, &b.started, fd);
        break;
    case WIRE_EXEC_STARTED:
        got_exec_started(k, h->serial, &b.started, fd);
        break;
    case WIRE_EXEC_EXITED:
        x = exec_find(k, h->serial);
        if (x && x->ev.quiet) {
            free(call_take(k, h->serial));
            x->started = true;
        }
        if (x)
            exec_done(x, b.exited.status, NULL);
        break;
    case WIRE_ATTACH_END:
        a = attach_find(k, h->serial);
        b.reply.text[WIRE_TEXT - 1] = '\0';
        if (a && b.reply.code < 0) {
            err_set(&err, b.reply.code, "%s", b.reply.text);
            attach_done(a, &err);
        } else if (a) {
            attach_done(a, NULL);
        }
        break;
    case WIRE_NOTE:
        b.note.id[WIRE_ID - 1] = '\0';
        b.note.text[WIRE_TEXT - 1] = '\0';
        k->ev.on_note(k->ev.arg, b.note.id, b.note.text);
        break;
    default:                         /* a newer supervisor's event: nothing that we asked for */
        break;
    }
}

/* One record. False: nothing more now, or k is down. */
static bool receive(struct link *k)
{
    struct {
        struct wire_hdr h;
        char body[WIRE_MSG_MAX - sizeof(struct wire_hdr)];
    } in;
    union {
        struct cmsghdr h;
        char b[CMSG_SPACE(4 * sizeof(int))];
    } u;
    struct iovec iov = { &in, sizeof in };
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof u.b
    };
    struct err e = ERR_INIT;
    auto_fd int fd = -1;
    ssize_t n = recvmsg(k->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        if (n < 0)
            err_sys(&e, "the sandbox's supervisor");
        else
            err_set(&e, -EPIPE, "the sandbox's supervisor is gone");
        link_go_down(k, &e);
        return false;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof got);
            if (fd < 0)
                fd = got;
            else
                fd_close(got);
        }
    }
    if ((size_t)n < sizeof in.h || in.h.len != (size_t)n)
        return true;                 /* torn: not from our kind */
    link_heard(k);
    if (!k->doomed && !k->down)
        dispatch(k, &in.h, in.body, (size_t)n - sizeof in.h, &fd);
    return true;
}

void link_drain(struct link *k)
{
    for (int i = 0; i < MSGS_PER_TURN && !k->doomed && !k->down; i++)
        if (!receive(k))
            break;
    if (!k->doomed)
        link_watch(k);
}

static void on_io(struct ev_loop *ev, struct ev_io *w, int revents)
{
    struct link *k = w->data;

    (void)ev;
    loop_name(k->loop, "supervisor");
    link_enter(k);
    if (revents & EV_WRITE)
        queue_flush(k);
    link_drain(k);
    (void)link_leave(k);
}
