/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of the talk with a supervisor (pod/wire.h has the messages).
 *
 * Every request has a serial and, until it is answered, a struct call with whom to tell; execs and attaches keep
 * their serial for what comes later. A link that drops answers all of them with an error, then says on_gone.
 * Callbacks may free the link they are called from: while one runs, link_free() only marks it. */
#include "proc/link.h"

#include "list.h"
#include "mem.h"
#include "proc/flat.h"
#include "proc/pod/wire.h"
#include "reactor/child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { MSGS_PER_TURN = 32, QUEUE_MAX = 4096 };

enum call_kind { CALL_READY, CALL_REPLY, CALL_START, CALL_EXEC, CALL_ATTACH, CALL_SHUTDOWN };

struct call {
    struct list l;
    uint32_t serial;
    enum call_kind kind;
    link_reply_fn reply;
    link_start_fn start;
    void *arg;
    char what[96];                   /* before an error's text */
};

struct msg {
    struct list l;
    size_t n_fds, len;
    int fds[WIRE_FDS_MAX];
    char data[];
};

struct link {
    struct loop *loop;
    struct ev_io io;
    int fd;
    uint32_t serial;                 /* of the last request */
    struct link_events ev;
    void (*on_ctr)(void *arg, const struct link_ctr *c);
    link_ready_fn ready;             /* until it is called */
    void *ready_arg;
    char *state_dir, *netns;
    struct child *child;             /* of link_spawn() */
    pid_t pid, init_pid;
    struct list calls, execs, attaches, queue;
    size_t n_queue;
    bool down, stopping;             /* the socket has ended; link_shutdown() was called */
    bool undo;                       /* of link_spawn() that failed: the directory was made here */
    int busy;                        /* callbacks running */
    bool doomed;
};

struct link_exec {
    struct list l;
    struct link *k;
    uint32_t serial;
    struct link_exec_events ev;      /* callbacks NULL: forgotten */
    bool started;
};

struct link_attach {
    struct list l;
    struct link *k;
    uint32_t serial;
    void (*closed)(void *arg, const struct err *err);
    void *arg;
};

static void on_io(struct ev_loop *ev, struct ev_io *w, int revents);

/* ---- life */

static struct link *link_new(struct loop *l, int fd, const char *state_dir, const struct link_events *ev)
{
    struct link *k = mem_new(struct link);

    k->loop = l;
    k->fd = fd;
    k->ev = *ev;
    k->state_dir = mem_strdup(state_dir);
    list_init(&k->calls);
    list_init(&k->execs);
    list_init(&k->attaches);
    list_init(&k->queue);
    ev_io_init(&k->io, on_io, fd, EV_READ);
    k->io.data = k;
    ev_io_start(loop_ev(l), &k->io);
    return k;
}

static void queue_drop(struct link *k)
{
    struct msg *m;

    list_each(m, &k->queue, struct msg, l) {
        list_del(&m->l);
        for (size_t i = 0; i < m->n_fds; i++)
            fd_close(m->fds[i]);
        free(m);
    }
    k->n_queue = 0;
}

static void disconnect(struct link *k)
{
    ev_io_stop(loop_ev(k->loop), &k->io);
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

static void enter(struct link *k)
{
    k->busy++;
}

/* False: k is no more. */
static bool leave(struct link *k)
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

pid_t link_init_pid(const struct link *k)
{
    return k->init_pid;
}

/* ---- sending */

static int send_now(struct link *k, const void *p, size_t n, const int *fds, size_t n_fds)
{
    struct iovec iov = { (void *)(uintptr_t)p, n };
    union {
        struct cmsghdr h;
        char b[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
    } u;
    struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

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

static int send_msg(struct link *k, enum wire_type type, uint32_t serial, const void *body, size_t len, const int *fds,
                    size_t n_fds, struct err *err)
{
    char buf[WIRE_MSG_MAX];
    struct wire_hdr h = { WIRE_VERSION, (uint16_t)type, serial, (uint32_t)(sizeof h + len), 0 };

    if (k->down)
        return err_set(err, -EPIPE, "the sandbox's supervisor is gone");
    if (sizeof h + len > sizeof buf || n_fds > WIRE_FDS_MAX)
        return err_set(err, -EMSGSIZE, "message of %zu bytes and %zu descriptors for a supervisor", len, n_fds);
    memcpy(buf, &h, sizeof h);
    memcpy(buf + sizeof h, body, len);
    if (list_empty(&k->queue)) {
        int r = send_now(k, buf, h.len, fds, n_fds);
        if (r != -EAGAIN)
            return r < 0 ? err_code(err, r, "write to the sandbox's supervisor") : 0;
    }
    if (k->n_queue >= QUEUE_MAX)
        return err_set(err, -ENOBUFS, "the sandbox's supervisor does not answer");
    struct msg *m = mem_alloc(sizeof *m + h.len);
    m->len = h.len;
    memcpy(m->data, buf, h.len);
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
    ev_io_stop(loop_ev(k->loop), &k->io);
    ev_io_set(&k->io, k->fd, EV_READ | EV_WRITE);
    ev_io_start(loop_ev(k->loop), &k->io);
    return 0;
}

static void queue_flush(struct link *k)
{
    struct msg *m;

    list_each(m, &k->queue, struct msg, l) {
        if (send_now(k, m->data, m->len, m->fds, m->n_fds) == -EAGAIN)
            return;
        list_del(&m->l);             /* an error shows as the end of the link soon */
        k->n_queue--;
        for (size_t i = 0; i < m->n_fds; i++)
            fd_close(m->fds[i]);
        free(m);
    }
    ev_io_stop(loop_ev(k->loop), &k->io);
    ev_io_set(&k->io, k->fd, EV_READ);
    ev_io_start(loop_ev(k->loop), &k->io);
}

static uint32_t next_serial(struct link *k)
{
    if (++k->serial == 0)
        k->serial = 1;
    return k->serial;
}

static struct call *call_new(struct link *k, enum call_kind kind, uint32_t serial, const char *what)
{
    struct call *c = mem_new(struct call);

    c->kind = kind;
    c->serial = serial;
    snprintf(c->what, sizeof c->what, "%s", what);
    list_add_tail(&k->calls, &c->l);
    return c;
}

static struct call *call_take(struct link *k, uint32_t serial)
{
    struct call *c;

    list_each(c, &k->calls, struct call, l)
        if (c->serial == serial) {
            list_del(&c->l);
            return c;
        }
    return NULL;
}

static struct link_exec *exec_find(struct link *k, uint32_t serial)
{
    struct link_exec *x;

    list_each(x, &k->execs, struct link_exec, l)
        if (x->serial == serial)
            return x;
    return NULL;
}

static struct link_attach *attach_find(struct link *k, uint32_t serial)
{
    struct link_attach *a;

    list_each(a, &k->attaches, struct link_attach, l)
        if (a->serial == serial)
            return a;
    return NULL;
}

/* ---- answers */

static void exec_done(struct link_exec *x, int status, const struct err *err)
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

static void attach_done(struct link_attach *a, const struct err *err)
{
    void (*closed)(void *arg, const struct err *e) = a->closed;
    void *arg = a->arg;

    list_del(&a->l);
    free(a);
    closed(arg, err);
}

/* err NULL: it went well. Frees c. */
static void call_done(struct link *k, struct call *c, const struct err *err)
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
    case CALL_REPLY:
    case CALL_SHUTDOWN:
        if (c->reply)
            c->reply(c->arg, err);
        break;
    }
    free(c);
}

static void undo_dir(struct link *k)
{
    char *const names[] = { mem_printf("%s/exits", k->state_dir), mem_printf("%s/sock", k->state_dir) };

    (void)unlink(names[1]);
    (void)rmdir(names[0]);
    (void)rmdir(k->state_dir);       /* only if it is empty */
    free(names[0]);
    free(names[1]);
}

static void ready_failed(struct link *k, const struct err *err)
{
    link_ready_fn ready = k->ready;
    struct err e = *err;
    void *arg = k->ready_arg;

    if (k->undo)
        undo_dir(k);
    k->ready = NULL;
    if (!k->down)
        disconnect(k);
    ready(arg, NULL, "", 0, &e);
    link_free(k);
}

/* The socket has ended. k may be gone afterwards. */
static void go_down(struct link *k, const struct err *why)
{
    struct err e = *why;

    if (k->down)
        return;
    disconnect(k);
    if (k->ready) {
        ready_failed(k, &e);
        return;
    }
    while (!list_empty(&k->calls) && !k->doomed) {
        struct call *c = list_first(&k->calls, struct call, l);
        list_del(&c->l);
        call_done(k, c, c->kind == CALL_SHUTDOWN ? NULL : &e);
    }
    while (!list_empty(&k->execs) && !k->doomed)
        exec_done(list_first(&k->execs, struct link_exec, l), 128 + 9, &e);
    while (!list_empty(&k->attaches) && !k->doomed)
        attach_done(list_first(&k->attaches, struct link_attach, l), &e);
    if (!k->doomed && !k->stopping)
        k->ev.on_gone(k->ev.arg);
}

static void got_ready(struct link *k, const struct wire_ready *m)
{
    link_ready_fn ready = k->ready;

    if (!ready)
        return;
    k->ready = NULL;
    k->pid = m->pid;
    k->init_pid = m->init_pid;
    k->netns = m->has_netns ? mem_printf("%s/netns", k->state_dir) : mem_strdup("");
    ready(k->ready_arg, k, k->netns, k->pid, NULL);
}

static void got_exit(struct link *k, const struct wire_exit *m)
{
    struct link_exit x = { .status = m->status, .signal = m->signal, .finished_at = m->finished_at, .oom = m->oom };

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
    } else if (c)
        list_add_tail(&k->calls, &c->l);
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
            ready_failed(k, &e);
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

static void dispatch(struct link *k, const struct wire_hdr *h, const char *body, size_t len, int *fd)
{
    union {
        struct wire_ready ready;
        struct wire_ctr ctr;
        struct wire_exit exit;
        struct wire_reply reply;
        struct wire_started started;
        struct wire_exec_exited exited;
    } b;
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
        if (x)
            exec_done(x, b.exited.status, NULL);
        break;
    case WIRE_ATTACH_END:
        a = attach_find(k, h->serial);
        if (a)
            attach_done(a, NULL);
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
    struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof u.b };
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
        go_down(k, &e);
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
    dispatch(k, &in.h, in.body, (size_t)n - sizeof in.h, &fd);
    return true;
}

static void on_io(struct ev_loop *ev, struct ev_io *w, int revents)
{
    struct link *k = w->data;

    (void)ev;
    loop_name(k->loop, "supervisor");
    enter(k);
    if (revents & EV_WRITE)
        queue_flush(k);
    for (int i = 0; i < MSGS_PER_TURN && !k->doomed && !k->down; i++)
        if (!receive(k))
            break;
    (void)leave(k);
}

/* ---- meeting */

static void on_child_exit(void *arg, int status)
{
    struct link *k = arg;

    (void)status;                    /* the socket says the same, and what was sent last comes before that */
    k->child = NULL;
}

static int make_dirs(const char *path, bool *made, struct err *err)
{
    auto_free char *p = mem_strdup(path);

    for (char *s = p + 1;; s++) {
        if (*s != '/' && *s != '\0')
            continue;
        char c = *s;
        *s = '\0';
        if (mkdir(p, c ? 0711 : 0700) == 0)
            *made = c == '\0';
        else if (errno != EEXIST)
            return err_sys(err, "mkdir '%s'", p);
        if (!c)
            return 0;
        *s = c;
    }
}

static int encode_sandbox(const struct link_sandbox *s, int *ret_fd, struct err *err)
{
    auto_str struct str b = STR_INIT;
    struct wire_sandbox w = { 0 };

    _Static_assert(sizeof(struct wire_idmap) == sizeof(struct link_idmap), "id maps are copied as they are");
    str_add(&b, &w, sizeof w);
    w.id = flat_string(&b, s->id);
    w.state_dir = flat_string(&b, s->state_dir);
    w.hostname = flat_string(&b, s->hostname);
    w.flags = (s->host_net ? WIRE_HOST_NET : 0) | (s->host_ipc ? WIRE_HOST_IPC : 0) |
              (s->shared_pid ? WIRE_SB_SHARED_PID : 0) | (s->userns ? WIRE_SB_USERNS : 0);
    w.shm_size = s->shm_size;
    w.sysctls = flat_pairs(&b, s->sysctls, s->n_sysctls);
    w.uid_map = flat_array(&b, s->uid_map, s->n_uid_map, sizeof *s->uid_map);
    w.gid_map = flat_array(&b, s->gid_map, s->n_gid_map, sizeof *s->gid_map);
    memcpy(b.p, &w, sizeof w);
    return flat_finish(&b, WIRE_SANDBOX, "cricket-sandbox", ret_fd, err);
}

int link_pod_fd(const char *path, int *ret_fd, struct err *err)
{
    struct mount_attr a = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV };
    auto_fd int fd = (int)syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    if (fd < 0)
        return err_sys(err, "open '%s'", path);
    if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &a, sizeof a) < 0)
        return err_sys(err, "read-only mount of '%s'", path);
    *ret_fd = take_fd(&fd);
    return 0;
}

int link_spawn(struct loop *l, const struct link_opts *o, const struct link_sandbox *s, const struct link_events *ev,
               link_ready_fn ready, void *arg, struct link **ret, struct err *err)
{
    char *argv[] = { (char *)(uintptr_t)"cricket-pod", (char *)(uintptr_t)s->id, NULL };
    char *envp[] = { NULL };
    struct child_opts co = CHILD_OPTS_INIT;
    struct wire_init m = { (uint32_t)o->n_cgroup_join_fds };
    int fds[WIRE_FDS_MAX], pair[2], r;
    auto_fd int file = -1;
    bool made = false;

    if (o->n_cgroup_join_fds > ARRAY_LEN(o->cgroup_join_fds))
        return err_set(err, -EINVAL, "%zu cgroups of the supervisor", o->n_cgroup_join_fds);
    r = encode_sandbox(s, &file, err);
    if (r < 0)
        return r;
    r = make_dirs(s->state_dir, &made, err);
    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return err_sys(err, "socketpair for a supervisor");
    struct link *k = link_new(l, pair[0], s->state_dir, ev);
    struct child_fd cfd = { pair[1], WIRE_LINK_FD };
    k->undo = made;
    co.path = o->pod_path;
    co.exec_fd = o->pod_fd > 0 ? o->pod_fd : -1;
    co.argv = argv;
    co.envp = envp;
    co.fds = &cfd;
    co.n_fds = 1;
    r = child_spawn(l, &co, on_child_exit, k, &k->child, err);
    close(pair[1]);
    if (r == 0) {
        k->pid = child_pid(k->child);
        fds[0] = file;
        for (size_t i = 0; i < o->n_cgroup_join_fds; i++)
            fds[1 + i] = o->cgroup_join_fds[i];
        r = send_msg(k, WIRE_INIT, next_serial(k), &m, sizeof m, fds, 1 + o->n_cgroup_join_fds, err);
    }
    if (r < 0) {
        if (k->undo)
            undo_dir(k);
        link_free(k);
        return r;
    }
    k->ready = ready;
    k->ready_arg = arg;
    *ret = k;
    return 0;
}

int link_open(struct loop *l, const char *state_dir, const struct link_events *ev,
              void (*on_ctr)(void *arg, const struct link_ctr *c), link_ready_fn ready, void *arg, struct link **ret,
              struct err *err)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    struct wire_hello m = { WIRE_VERSION };
    struct ucred cred;
    socklen_t len = sizeof cred;
    auto_fd int dir = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0)
        return err_sys(err, "open '%s'", state_dir);
    auto_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(err, "socket");
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/sock", dir); /* the path itself may be too long */
    if (connect(fd, (const struct sockaddr *)(const void *)&a, sizeof a) < 0)
        return err_sys(err, "connect to '%s/sock'", state_dir);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return err_sys(err, "credentials of '%s/sock'", state_dir);
    if (cred.uid != geteuid())
        return err_set(err, -EPERM, "'%s/sock' is listened on by user %u", state_dir, (unsigned)cred.uid);
    struct link *k = link_new(l, take_fd(&fd), state_dir, ev);
    k->pid = cred.pid;
    int r = send_msg(k, WIRE_HELLO, next_serial(k), &m, sizeof m, NULL, 0, err);
    if (r < 0) {
        link_free(k);
        return r;
    }
    k->on_ctr = on_ctr;
    k->ready = ready;
    k->ready_arg = arg;
    *ret = k;
    return 0;
}

/* ---- requests */

static void set_id(char to[WIRE_ID], const char *id)
{
    snprintf(to, WIRE_ID, "%s", id ? id : "");
}

int link_start(struct link *k, const char *id, int plan_fd, const int *cgroup_fds, size_t n, bool cgroup2, int oom_fd,
               const char *target, link_start_fn done, void *arg, struct err *err)
{
    struct wire_start m = { .flags = (cgroup2 ? WIRE_CGROUP2 : 0) | (oom_fd >= 0 ? WIRE_HAS_OOM : 0),
                            .n_cgroups = (uint32_t)n };
    int fds[WIRE_FDS_MAX];
    size_t n_fds = 0;
    uint32_t serial = next_serial(k);

    if (n + 2 > ARRAY_LEN(fds))
        return err_set(err, -E2BIG, "start container: %zu cgroups", n);
    set_id(m.id, id);
    set_id(m.target, target);
    fds[n_fds++] = plan_fd;
    if (oom_fd >= 0)
        fds[n_fds++] = oom_fd;
    for (size_t i = 0; i < n; i++)
        fds[n_fds++] = cgroup_fds[i];
    int r = send_msg(k, WIRE_START, serial, &m, sizeof m, fds, n_fds, err);
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
    (void)send_msg(k, WIRE_ACK_EXIT, 0, &m, sizeof m, NULL, 0, NULL);    /* unheard: the exit is told again */
}

void link_signal(struct link *k, const char *id, int sig)
{
    struct wire_signal m = { .sig = sig };

    set_id(m.id, id);
    (void)send_msg(k, WIRE_SIGNAL, 0, &m, sizeof m, NULL, 0, NULL);      /* a link that is down says so itself */
}

/* An answer that must not come before the caller has returned. */
static void request(struct link *k, enum call_kind kind, enum wire_type type, const void *body, size_t len, const char *what,
                    link_reply_fn done, void *arg)
{
    struct err e = ERR_INIT;
    uint32_t serial = next_serial(k);
    int r = send_msg(k, type, serial, body, len, NULL, 0, &e);
    struct call *c = call_new(k, kind, serial, what);

    c->reply = done;
    c->arg = arg;
    if (r < 0 && k->down) {
        list_del(&c->l);
        call_done(k, c, kind == CALL_SHUTDOWN ? NULL : &e);
    }                                /* else the end of the link answers */
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
    (void)send_msg(k, WIRE_RESIZE, 0, &m, sizeof m, NULL, 0, NULL);
}

void link_shutdown(struct link *k, link_reply_fn done, void *arg)
{
    k->stopping = true;
    request(k, CALL_SHUTDOWN, WIRE_SHUTDOWN, "", 0, "stop the sandbox's supervisor", done, arg);
}

int link_exec(struct link *k, const char *ctr_id, int plan_fd, const int fds[3], const int *cgroup_fds, size_t n,
              bool cgroup2, const struct link_exec_events *ev, struct link_exec **ret, struct err *err)
{
    static const uint32_t flag[3] = { WIRE_FD_0, WIRE_FD_1, WIRE_FD_2 };
    struct wire_exec m = { .flags = cgroup2 ? WIRE_CGROUP2 : 0, .n_cgroups = (uint32_t)n };
    int all[WIRE_FDS_MAX];
    size_t n_all = 0;
    uint32_t serial = next_serial(k);

    if (n + 4 > ARRAY_LEN(all))
        return err_set(err, -E2BIG, "exec: %zu cgroups", n);
    set_id(m.id, ctr_id);
    all[n_all++] = plan_fd;
    for (int i = 0; fds && i < 3; i++)
        if (fds[i] >= 0) {
            m.flags |= flag[i];
            all[n_all++] = fds[i];
        }
    for (size_t i = 0; i < n; i++)
        all[n_all++] = cgroup_fds[i];
    int r = send_msg(k, WIRE_EXEC, serial, &m, sizeof m, all, n_all, err);
    if (r < 0)
        return err_note(err, "exec");
    (void)call_new(k, CALL_EXEC, serial, "");
    struct link_exec *x = mem_new(struct link_exec);
    x->k = k;
    x->serial = serial;
    x->ev = *ev;
    list_add_tail(&k->execs, &x->l);
    *ret = x;
    return 0;
}

void link_exec_kill(struct link_exec *x)
{
    struct wire_serial m = { x->serial };

    if (x->k)
        (void)send_msg(x->k, WIRE_EXEC_KILL, 0, &m, sizeof m, NULL, 0, NULL);
}

void link_exec_resize(struct link_exec *x, uint16_t w, uint16_t h)
{
    struct wire_resize m = { .serial = x->serial, .width = w, .height = h };

    if (x->k)
        (void)send_msg(x->k, WIRE_EXEC_RESIZE, 0, &m, sizeof m, NULL, 0, NULL);
}

void link_exec_forget(struct link_exec *x)
{
    link_exec_kill(x);
    x->ev = (struct link_exec_events){ 0 };
    if (!x->k || x->k->down) {
        list_del(&x->l);
        free(x);
    }                                /* else freed when the supervisor says that it has ended */
}

int link_attach(struct link *k, const char *ctr_id, int in, int out, int err_fd,
                void (*closed)(void *arg, const struct err *err), void *arg, struct link_attach **ret, struct err *err)
{
    struct wire_attach m = { .flags = 0 };
    int fds[3], given[3] = { in, out, err_fd };
    static const uint32_t flag[3] = { WIRE_FD_0, WIRE_FD_1, WIRE_FD_2 };
    size_t n = 0;
    uint32_t serial = next_serial(k);

    set_id(m.id, ctr_id);
    for (int i = 0; i < 3; i++)
        if (given[i] >= 0) {
            m.flags |= flag[i];
            fds[n++] = given[i];
        }
    int r = send_msg(k, WIRE_ATTACH, serial, &m, sizeof m, fds, n, err);
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
        (void)send_msg(a->k, WIRE_ATTACH_CLOSE, 0, &m, sizeof m, NULL, 0, NULL);
    free(c);
    list_del(&a->l);
    free(a);
}
