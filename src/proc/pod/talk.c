/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's side of the link. One daemon at a time: a new connection replaces the old one. A
 * request is a record, checked for length and answered; what cannot be sent at once waits in a
 * bounded queue (a daemon that reads nothing loses the link, the containers do not notice). */
#include "pod.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

enum { QUEUE_MAX = 512 };

struct out_msg {
    struct out_msg *next;
    int fd;
    size_t len;
    char data[];
};

static struct src listener = { .fd = -1 }, conn = { .fd = -1 };
static struct out_msg *queue, **queue_end = &queue;
static size_t queued;
static bool made, fresh;             /* the sandbox stands; the first link has not said INIT yet */
static uint32_t shutdown_serial;
static bool greeted;                 /* events may be sent: before HELLO they would come twice */

bool talk_up(void)
{
    return conn.fd >= 0;
}

/* The end of a pod that never was one. Its directory goes too if nothing else is in it: a daemon
 * that came after the one that made us may have looked already. */
static void vanish(void)
{
    sandbox_drop();
    if (pod.state_fd >= 0)
        (void)rmdir(pod.state_dir);
    _exit(1);
}

static void drop(void)
{
    int fd = conn.fd;

    if (fd < 0)
        return;
    src_del(&conn);
    close(fd);
    while (queue) {
        struct out_msg *m = queue;
        queue = m->next;
        if (m->fd >= 0)
            close(m->fd);
        free(m);
    }
    queue_end = &queue;
    queued = 0;
    shutdown_serial = 0;
    greeted = false;
    exec_link_down();
    attach_link_down();
    ctr_link_down();
    if (!made)                       /* nobody knows this pod yet */
        vanish();
}

static int send_one(const void *p, size_t n, int fd)
{
    struct iovec iov = { (void *)(uintptr_t)p, n };
    union {
        struct cmsghdr h;
        char b[CMSG_SPACE(sizeof fd)];
    } u = { 0 };
    struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fd >= 0) {
        h.msg_control = u.b;
        h.msg_controllen = sizeof u.b;
        u.h.cmsg_level = SOL_SOCKET;
        u.h.cmsg_type = SCM_RIGHTS;
        u.h.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&u.h), &fd, sizeof fd);
    }
    return sendmsg(conn.fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static void flush_queue(void)
{
    while (queue) {
        struct out_msg *m = queue;
        int r = send_one(m->data, m->len, m->fd);
        if (r == -EAGAIN)
            return;
        queue = m->next;
        if (!queue)
            queue_end = &queue;
        queued--;
        if (m->fd >= 0)
            close(m->fd);
        free(m);
        if (r < 0)
            return;                  /* the reader will see the end of the link */
    }
    src_mod(&conn, EPOLLIN);
}

void talk_send(uint16_t type, uint32_t serial, const void *body, size_t len, int fd)
{
    char buf[WIRE_MSG_MAX];
    struct wire_hdr h = { WIRE_VERSION, type, serial, (uint32_t)(sizeof h + len), 0 };

    if (conn.fd < 0 || sizeof h + len > sizeof buf || (serial == 0 && !greeted))
        return;
    memcpy(buf, &h, sizeof h);
    if (len)
        memcpy(buf + sizeof h, body, len);
    if (!queue && send_one(buf, h.len, fd) != -EAGAIN)
        return;
    struct out_msg *m = queued < QUEUE_MAX ? malloc(sizeof *m + h.len) : NULL;
    if (!m) {
        (void)shutdown(conn.fd, SHUT_RDWR);  /* dropped by the loop, not under our caller's feet */
        return;
    }
    m->next = NULL;
    m->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
    m->len = h.len;
    memcpy(m->data, buf, h.len);
    *queue_end = m;
    queue_end = &m->next;
    queued++;
    src_mod(&conn, EPOLLIN | EPOLLOUT);
}

void talk_reply(uint32_t serial, int code, const char *fmt, ...)
{
    struct wire_reply r = { .code = code };
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(r.text, sizeof r.text, fmt, ap);
    va_end(ap);
    talk_send(WIRE_REPLY, serial, &r, offsetof(struct wire_reply, text) + strlen(r.text) + 1, -1);
}

void talk_note(const char *id, const char *text)
{
    struct wire_note m = { .text = "" };

    snprintf(m.id, sizeof m.id, "%s", id);
    snprintf(m.text, sizeof m.text, "%s", text);
    talk_send(WIRE_NOTE, 0, &m, offsetof(struct wire_note, text) + strlen(m.text) + 1, -1);
}

static void send_ready(uint32_t serial)
{
    struct wire_ready r = { WIRE_VERSION, getpid(), pod.init, pod.made_netns };

    talk_send(WIRE_READY, serial, &r, sizeof r, -1);
}

/* The end: everything is dead. */
void talk_finish(void)
{
    for (struct ctr *c = ctrs; c; c = c->next)
        log_end(&c->log);
    sandbox_drop();
    if (conn.fd >= 0) {
        struct pollfd p = { conn.fd, POLLOUT, 0 };
        if (shutdown_serial)
            talk_reply(shutdown_serial, 0, "%s", "");
        for (int i = 0; queue && i < 20; i++) {
            (void)poll(&p, 1, 100);
            flush_queue();
        }
    }
    _exit(0);
}

/* ---- requests */

static void window(int fd, uint16_t w, uint16_t h)
{
    struct winsize ws = { h, w, 0, 0 };

    (void)ioctl(fd, TIOCSWINSZ, &ws);
}

static void do_init(uint32_t serial, const struct wire_init *m, int *fds, size_t n)
{
    char why[WIRE_TEXT] = "";
    int r;

    if (made || !fresh || n < 1 || m->n_cgroups != n - 1) {
        talk_reply(serial, -EINVAL, "sandbox: unexpected request");
        return;
    }
    fresh = false;
    r = sandbox_make(fds[0], fds + 1, n - 1, why, sizeof why);
    if (r == 0) {
        r = talk_listen();
        if (r < 0)
            snprintf(why, sizeof why, "socket '%s/sock': %s", pod.state_dir, strerror(-r));
    }
    if (r < 0) {
        talk_reply(serial, r, "sandbox: %s", why);
        ctr_kill_all();
        sandbox_drop();
        if (pod.state_fd >= 0)
            (void)unlinkat(pod.state_fd, "exits", AT_REMOVEDIR);
        _exit(1);
    }
    /* A daemon that went meanwhile has left the pod as one that was being made: its successor
     * undoes it, and may have begun before it could reach us. */
    struct pollfd p = { conn.fd, 0, 0 };
    if (poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR))) {
        ctr_kill_all();
        vanish();
    }
    made = greeted = true;
    send_ready(serial);
}

static void do_signal(const struct wire_signal *m)
{
    struct ctr *c = ctr_find(m->id);

    if (c && c->state == CTR_RUNNING)
        (void)syscall(SYS_pidfd_send_signal, c->pidfd, m->sig, NULL, 0);
}

static void do_reopen(uint32_t serial, const char *id)
{
    struct ctr *c = ctr_find(id);

    if (!c || c->state != CTR_RUNNING) {
        talk_reply(serial, -ESRCH, "container %s is not running", id);
        return;
    }
    int r = stdio_reopen(c);
    if (r < 0)
        talk_reply(serial, r, "log '%s': %s", c->log.path ? c->log.path : "", strerror(-r));
    else
        talk_reply(serial, 0, "%s", "");
}

static void do_shutdown(uint32_t serial)
{
    pod.stopping = true;
    shutdown_serial = serial;
    ctr_kill_all();
    exec_link_down();
    poststop_hurry();
    if (pod.init)
        (void)kill(pod.init, SIGKILL);
    main_kick();
}

union body {
    struct wire_init init;
    struct wire_start start;
    struct wire_ctr_id ctr;
    struct wire_signal signal;
    struct wire_resize resize;
    struct wire_exec exec;
    struct wire_serial serial;
    struct wire_attach attach;
};

static void end_ids(uint16_t type, union body *b)
{
    b->ctr.id[WIRE_ID - 1] = '\0';   /* every body that has an id has it first */
    if (type == WIRE_START)
        b->start.target[WIRE_ID - 1] = '\0';
}

/* The plan may be the rest of the record. */
static void do_exec(struct wire_hdr *h, const struct wire_exec *m, int *fds, size_t n)
{
    uint32_t off = m->plan_off;

    if (off && (off % 8 || off < sizeof *h + sizeof *m || off >= h->len))
        talk_reply(h->serial, -EINVAL, "launch plan: offset");
    else
        exec_start(h->serial, m, off ? (char *)h + off : NULL, h->len - off, fds, n);
}

/* fds: those that are used up are set to -1 */
static void dispatch(struct wire_hdr *h, union body *b, int *fds, size_t n)
{
    struct ctr *c;

    end_ids(h->type, b);
    if (!made && h->type != WIRE_INIT) {
        talk_reply(h->serial, -EINVAL, "the sandbox is not made yet");
        return;
    }
    if (pod.stopping && h->type != WIRE_HELLO && h->type != WIRE_SHUTDOWN &&
        h->type != WIRE_ACK_EXIT) {
        talk_reply(h->serial, -ESHUTDOWN, "the sandbox is being stopped");
        return;
    }
    switch (h->type) {
    case WIRE_HELLO:
        greeted = true;
        ctr_replay();
        send_ready(h->serial);
        break;
    case WIRE_INIT:
        do_init(h->serial, &b->init, fds, n);
        fds[0] = -1;
        break;
    case WIRE_START:
        ctr_start(h->serial, &b->start, fds, n);
        break;
    case WIRE_ACK_EXIT:
        ctr_ack(b->ctr.id);
        break;
    case WIRE_SIGNAL:
        do_signal(&b->signal);
        break;
    case WIRE_REOPEN:
        do_reopen(h->serial, b->ctr.id);
        break;
    case WIRE_RESIZE:
        c = ctr_find(b->resize.id);
        if (c && c->tty && c->out.src.fd >= 0)
            window(c->out.src.fd, b->resize.width, b->resize.height);
        break;
    case WIRE_SHUTDOWN:
        do_shutdown(h->serial);
        break;
    case WIRE_EXEC:
        do_exec(h, &b->exec, fds, n);
        break;
    case WIRE_EXEC_KILL:
        exec_kill(b->serial.serial);
        break;
    case WIRE_EXEC_RESIZE:
        exec_resize(b->resize.serial, b->resize.width, b->resize.height);
        break;
    case WIRE_ATTACH:
        c = ctr_find(b->attach.id);
        if (!c || c->state != CTR_RUNNING)
            talk_reply(h->serial, -ESRCH, "container %s is not running", b->attach.id);
        else
            attach_start(h->serial, c, &b->attach, fds, n);
        break;
    case WIRE_ATTACH_CLOSE:
        attach_close(b->serial.serial);
        break;
    case WIRE_PING:
        talk_reply(h->serial, 0, "%s", "");
        break;
    default:
        talk_reply(h->serial, -ENOSYS, "request %u is not known to cricket-pod %u", h->type,
                   WIRE_VERSION);
    }
}

static void on_conn(struct src *s, uint32_t events)
{
    struct {
        struct wire_hdr h;
        char body[WIRE_EXEC_MAX - sizeof(struct wire_hdr)];
    } in __attribute__((aligned(8)));
    union {
        struct cmsghdr h;
        char b[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
    } u;
    int fds[WIRE_FDS_MAX];
    size_t n_fds = 0;
    union body b;
    struct iovec iov = { &in, sizeof in };
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof u.b
    };

    if (events & EPOLLOUT)
        flush_queue();
    ssize_t n = recvmsg(s->fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        drop();
        return;
    }
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
        }
    if ((size_t)n >= sizeof in.h && in.h.len == (size_t)n &&
        !(h.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
        size_t len = (size_t)n - sizeof in.h;
        memset(&b, 0, sizeof b);
        memcpy(&b, in.body, len < sizeof b ? len : sizeof b);
        dispatch(&in.h, &b, fds, n_fds);
    } else if ((size_t)n >= sizeof in.h)
        talk_reply(in.h.serial, -EMSGSIZE, "malformed request of %zd bytes", n);
    for (size_t i = 0; i < n_fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

void talk_take(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof cred;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || cred.uid != geteuid()) {
        close(fd);
        if (!made && listener.fd < 0)
            _exit(1);
        return;
    }
    drop();
    fresh = !made;
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    if (src_add(&conn, fd, EPOLLIN, on_conn) < 0)
        close(fd);
}

static void on_listen(struct src *s, uint32_t events)
{
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (fd >= 0)
        talk_take(fd);
}

/* The path may be longer than an address holds, so it goes by the directory's descriptor. */
int talk_listen(void)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

    if (fd < 0)
        return -errno;
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/sock", pod.state_fd);
    (void)unlinkat(pod.state_fd, "sock", 0);
    mode_t old = umask(0177);
    r = bind(fd, (const struct sockaddr *)(const void *)&a, sizeof a);
    (void)umask(old);
    if (r < 0 || listen(fd, 8) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    pod.made_sock = true;
    return src_add(&listener, fd, EPOLLIN, on_listen);
}
