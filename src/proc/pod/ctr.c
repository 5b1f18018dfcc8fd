/* SPDX-License-Identifier: Apache-2.0 */
/* The containers of the pod.
 *
 *   STARTING --execve--> RUNNING --reaped--> DRAINING --logs written--> EXITED --ack--> forgotten
 *      '--failed--> forgotten
 *
 * When the first process dies its OOM counter is read at once (the daemon removes the cgroup after
 * it hears of the exit), then what it had written is brought to the log, then the exit is recorded
 * in <state_dir>/exits/<id> and told. Record and entry stay until the daemon says that it has them.
 */
#include "pod.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    DRAIN_MAX_MS = 10000,            /* longest that a full disk may hold an exit back */
    POSTSTOP_MAX_MS = 5000,          /* and poststop hooks */
};

struct ctr *ctrs;

struct ctr *ctr_find(const char *id)
{
    for (struct ctr *c = ctrs; c; c = c->next)
        if (!c->acked && strcmp(c->id, id) == 0)
            return c;
    return NULL;
}

static struct ctr *ctr_new(const char *id)
{
    struct ctr *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    snprintf(c->id, sizeof c->id, "%s", id);
    c->pidfd = c->oom_fd = c->plan_fd = c->log.fd = -1;
    c->status.fd = c->out.src.fd = c->err.src.fd = c->in.fd = -1;
    c->out.ctr = c->err.ctr = c;
    c->err.err = true;
    c->next = ctrs;
    ctrs = c;
    return c;
}

static void close_status(struct ctr *c)
{
    int fd = c->status.fd;

    src_del(&c->status);
    if (fd >= 0)
        close(fd);
}

static void ctr_free(struct ctr *c)
{
    for (struct ctr **p = &ctrs; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    timer_off(&c->drain);
    attach_ctr_end(c);
    stdio_free(c);
    close_status(c);
    if (c->launch) {
        launch_deinit(c->launch);
        free(c->launch);
    }
    if (c->pidfd >= 0)
        close(c->pidfd);
    if (c->oom_fd >= 0)
        close(c->oom_fd);
    for (size_t i = 0; i < c->n_join; i++)
        close(c->join[i]);
    if (c->plan_fd >= 0)
        close(c->plan_fd);
    if (c->bundle)
        hooks_drop_bundle(c->id);
    if (c->driven && c->state == CTR_STARTING)
        orphans_end();
    else if (c->oci)
        oci_delete(c->oci, c->id);
    free(c->oci);
    free(c);
}

/* "oom_kill 3" in memory.oom_control (v1) or memory.events (v2) */
static uint64_t oom_kills(int fd)
{
    char buf[512];
    ssize_t n = fd >= 0 ? pread(fd, buf, sizeof buf - 1, 0) : -1;

    if (n <= 0)
        return 0;
    buf[n] = '\0';
    for (char *p = buf; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        if (strncmp(p, "oom_kill ", 9) == 0)
            return strtoull(p + 9, NULL, 10);
    return 0;
}

static void send_ctr(const struct ctr *c)
{
    struct wire_ctr m = { .pid = c->state == CTR_EXITED ? 0 : c->pid, .started_at = c->started_at };

    memcpy(m.id, c->id, sizeof m.id);
    talk_send(WIRE_CTR, 0, &m, sizeof m, -1);
}

static void send_started(struct ctr *c)
{
    struct wire_started s = { .pid = c->pid, .flags = WIRE_FD_0, .started_at = c->started_at };

    if (c->start_serial == 0)        /* another daemon than the one that asked */
        send_ctr(c);
    else
        talk_send(WIRE_STARTED, c->start_serial, &s, sizeof s, c->pidfd);
}

static void send_exit(const struct ctr *c)
{
    talk_send(WIRE_EXIT, 0, &c->exit, sizeof c->exit, -1);
}

/* Once, after the end. False: nothing runs. */
static bool poststop(struct ctr *c)
{
    int fd = c->plan_fd;
    bool runs = poststop_start(c->id, fd);

    close(fd);
    c->plan_fd = -1;
    c->bundle = false;               /* goes with them */
    return runs;
}

/* Tells of a failure, kills what there is of the child (it is reaped as an orphan) and forgets. */
static void start_failed(struct ctr *c, int code, const char *text)
{
    if (c->start_serial)
        talk_reply(c->start_serial, code, "%s", text);
    if (c->pidfd >= 0)
        (void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
    if (c->driver)
        (void)kill(c->driver, SIGKILL);
    if (c->plan_fd >= 0 && c->told)
        (void)poststop(c);
    ctr_free(c);
}

static void take_master(struct ctr *c, int fd)
{
    int dup = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    (void)fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
    stdio_start(c, fd, -1);
    c->in.fd = -1;
    if (dup >= 0 && src_add(&c->in, dup, 0, NULL) < 0)
        close(dup);
}

static void on_stdin(struct src *s, uint32_t events)
{
    struct ctr *c = container_of(s, struct ctr, in);

    (void)events;
    attach_stdin_ready(c);
}

static void take_news(struct ctr *c, const struct launch_msg *m, int fd)
{
    if (m->pid == LAUNCH_NOTE) {
        talk_note(c->id, m->text);
        return;
    }
    if (!m->pid) {
        take_master(c, fd);
        c->in.fn = on_stdin;
        return;
    }
    if (c->told++)
        return;
    close(c->pidfd);
    if (c->driven)
        c->driver = c->pid;
    c->pid = m->pid;
    c->pidfd =
        (int)syscall(SYS_pidfd_open, c->pid, 0); /* our child, and not reaped: still that one */
    if (c->driven && orphans_have(c->pid, &c->dead_status)) {
        c->dead = true;
        if (c->pidfd >= 0)           /* whoever has the number now */
            close(c->pidfd);
        c->pidfd = -1;
    }
}

static void ended(struct ctr *c, int status, int64_t at);

static const char *driver_died(const struct ctr *c)
{
    return c->oci ? "whoever drives the OCI runtime died"
           : c->launch->restore ? "whoever has criu restore it died" : "whoever runs the hooks died";
}

/* All is said: execve has happened, or the runtime has done it. */
static void started(struct ctr *c)
{
    launch_deinit(c->launch);
    free(c->launch);
    c->launch = NULL;
    c->state = CTR_RUNNING;
    c->driver = 0;
    if (c->driven)
        orphans_end();
    send_started(c);
    if (c->dead)
        ended(c, c->dead_status, now_wall_ns());
}

/* What the child says while it becomes the container. */
static void on_status(struct src *s, uint32_t events)
{
    struct ctr *c = container_of(s, struct ctr, status);
    struct launch_msg m;
    int fd, r = launch_read(s->fd, &m, &fd);

    (void)events;
    if (r == -EAGAIN)
        return;
    if (r == 1 && m.code == 0) {
        take_news(c, &m, fd);
        return;
    }
    if (r == 1 || r < 0) {
        if (fd >= 0)
            close(fd);
        start_failed(c, r == 1 ? m.code : r, r == 1 ? m.text : strerror(-r));
        return;
    }
    if (c->driven && c->told < 2) {
        start_failed(c, -ECHILD, driver_died(c));
        return;
    }
    close_status(c);
    c->started_at = now_wall_ns();
    started(c);
}

/* Pipes for what the container's process gets as 0, 1, 2. */
static int make_stdio(struct ctr *c, struct launch *l)
{
    uint32_t flags = l->plan->process.flags;
    int in[2], out[2], err[2];

    c->tty = flags & WIRE_TTY;
    c->stdin_once = flags & WIRE_STDIN_ONCE;
    if (c->tty)
        return 0;
    if (flags & WIRE_STDIN) {
        if (pipe2(in, O_CLOEXEC) < 0)
            return -errno;
        l->stdio[0] = in[0];
        (void)fcntl(in[1], F_SETFL, O_NONBLOCK);
        if (src_add(&c->in, in[1], 0, on_stdin) < 0) {
            close(in[1]);
            return -ENOMEM;
        }
    }
    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    l->stdio[1] = out[1];
    if (pipe2(err, O_CLOEXEC) < 0) {
        int r = -errno;
        close(out[0]);
        return r;
    }
    l->stdio[2] = err[1];
    (void)fcntl(out[0], F_SETFL, O_NONBLOCK);
    (void)fcntl(err[0], F_SETFL, O_NONBLOCK);
    stdio_start(c, out[0], err[0]);
    return 0;
}

static int setup_log(struct ctr *c, const struct launch *l)
{
    const char *path = view_str(l->base, l->plan->log_path);
    uint32_t max = l->plan->log_line_max;

    c->log.line_max = max == 0 ? 16384 : max < 64 ? 64 : max > (1 << 20) ? 1 << 20 : max;
    if (!path)
        return 0;
    c->log.path = strdup(path);
    c->log.fd = log_open(&c->log);
    return c->log.fd < 0 ? -errno : 0;
}

static int take_fds(struct launch *l, struct ctr *c, const struct wire_start *m, int *fds,
                    size_t n_fds)
{
    size_t oom = m->flags & WIRE_HAS_OOM ? 1 : 0;

    if (n_fds < 1 + oom || m->n_cgroups != n_fds - 1 - oom)
        return -EINVAL;
    if (oom) {
        c->oom_fd = fds[1];
        fds[1] = -1;
    }
    for (size_t i = 0; i < m->n_cgroups; i++) {
        l->cgroups[i] = fds[1 + oom + i];
        fds[1 + oom + i] = -1;
    }
    l->n_cgroups = m->n_cgroups;
    l->cgroup2 = m->flags & WIRE_CGROUP2;
    return 0;
}

void ctr_start(uint32_t serial, const struct wire_start *m, int *fds, size_t n_fds)
{
    char why[WIRE_TEXT] = "";
    struct ctr *c, *t;
    int r;

    if (ctr_find(m->id)) {
        talk_reply(serial, -EEXIST, "container %s exists", m->id);
        return;
    }
    c = ctr_new(m->id);
    struct launch *l = c ? malloc(sizeof *l) : NULL;
    if (!l) {
        talk_reply(serial, -ENOMEM, "out of memory");
        if (c)
            ctr_free(c);
        return;
    }
    launch_init(l);
    c->launch = l;
    c->start_serial = serial;
    r = take_fds(l, c, m, fds, n_fds);
    if (r < 0) {
        start_failed(c, r, "descriptors of the request");
        return;
    }
    r = launch_plan(l, fds[0], WIRE_PLAN_CTR, why, sizeof why);
    if (r < 0) {
        start_failed(c, r, why);
        return;
    }
    if (hooks_want_poststop(l)) {
        c->plan_fd = fds[0];
        fds[0] = -1;
    }
    if (m->target[0]) {
        t = ctr_find(m->target);
        if (!t || t->state != CTR_RUNNING) {
            snprintf(why, sizeof why, "target container %s is not running", m->target);
            start_failed(c, -ESRCH, why);
            return;
        }
        l->target = fcntl(t->pidfd, F_DUPFD_CLOEXEC, 3);
        l->target_pid = t->pid;
    }
    if (l->oci) {
        c->oci = strdup(view_str(l->base, l->plan->oci_path));
        if (!c->oci) {
            start_failed(c, -ENOMEM, "out of memory");
            return;
        }
    }
    c->bundle = l->hooks;
    c->driven = l->driven;
    c->rdt = l->rdt;
    if (c->driven)
        orphans_begin();
    l->userns = c->userns = pod.user >= 0 && !(l->plan->flags & WIRE_HOST_USERNS);
    if (l->restore && l->userns) {
        start_failed(c, -EINVAL, "a container cannot be restored into a user namespace");
        return;
    }
    r = setup_log(c, l);
    if (r < 0) {
        snprintf(why, sizeof why, "log '%s': %s", c->log.path, strerror(-r));
        start_failed(c, r, why);
        return;
    }
    r = make_stdio(c, l);
    if (r < 0) {
        snprintf(why, sizeof why, "pipes: %s", strerror(-r));
        start_failed(c, r, why);
        return;
    }
    c->oom_base = oom_kills(c->oom_fd);
    r = launch_clone(l, why, sizeof why);
    c->pid = l->pid;
    c->pidfd = l->pidfd;
    c->status.fd = -1;
    if (r < 0) {
        if (l->status >= 0)
            close(l->status);
        start_failed(c, r, why);
        return;
    }
    for (int i = 0; i < 3; i++)
        if (l->stdio[i] >= 0) {
            close(l->stdio[i]);
            l->stdio[i] = -1;
        }
    r = src_add(&c->status, l->status, EPOLLIN, on_status);
    if (r < 0) {
        close(l->status);
        start_failed(c, r, "epoll");
    }
}

/* A child that went on as another process (child_again) has said so before the other did anything:
 * what waits to be read may be the number that was just reaped. */
static void read_numbers(void)
{
    struct launch_msg m;
    int fd;

    for (struct ctr *c = ctrs; c; c = c->next)
        while (c->state == CTR_STARTING && (c->userns || c->driven) && c->status.fd >= 0 &&
               recv(c->status.fd, &m, sizeof m, MSG_PEEK | MSG_DONTWAIT) == sizeof m &&
               m.code == 0 && launch_read(c->status.fd, &m, &fd) == 1) {
            take_news(c, &m, fd);
            if (m.pid > 0)
                break;
        }
}

bool ctr_reaped(pid_t pid, int status)
{
    read_numbers();
    struct ctr *c = ctrs;

    for (struct ctr *d = ctrs; d; d = d->next)
        if (d->driver == pid)
            d->driver = 0;
    while (c && (c->pid != pid || c->state > CTR_RUNNING))
        c = c->next;
    if (!c)
        return false;
    int64_t at = now_wall_ns();
    if (c->state == CTR_STARTING && c->driven && c->told) {
        c->dead = true;              /* what has started it says so, or why not */
        c->dead_status = status;
        return true;
    }
    if (c->state == CTR_STARTING) {
        /* what it said last is still to be read; end of file there means that execve had happened
         */
        while (c->status.fd >= 0) {
            struct launch_msg m;
            int fd, r = launch_read(c->status.fd, &m, &fd);
            if (r == 1 && m.code == 0) {
                take_news(c, &m, fd);
                if (m.pid > 0)
                    return true;     /* not dead, only somebody else now */
                continue;
            }
            if (r != 0 || c->driven) {
                start_failed(c, r == 1 ? m.code : -ECHILD,
                             r == 1      ? m.text
                             : c->driven ? driver_died(c)
                                         : "the container's first process died");
                return true;
            }
            close_status(c);
        }
        c->started_at = at;
        started(c);
    }
    ended(c, status, at);
    return true;
}

static void ended(struct ctr *c, int status, int64_t at)
{
    struct wire_exit *x = &c->exit;

    x->finished_at = at;
    x->version = WIRE_VERSION;
    x->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    x->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    x->oom = oom_kills(c->oom_fd) > c->oom_base;
    x->started_at = c->started_at;
    memcpy(x->id, c->id, sizeof x->id);
    if (x->finished_at < x->started_at)
        x->finished_at = x->started_at;
    c->state = CTR_DRAINING;
    if (c->oom_fd >= 0)
        close(c->oom_fd);
    c->oom_fd = -1;
    stdio_died(c);
}

static void exit_name(const char *id, const char *suffix, char *buf, size_t n)
{
    snprintf(buf, n, "exits/%s%s", id, suffix);
}

static void record_exit(const struct ctr *c)
{
    char tmp[WIRE_ID + 16], name[WIRE_ID + 16];

    exit_name(c->id, "", name, sizeof name);
    exit_name(c->id, ".new", tmp, sizeof tmp);
    int fd = openat(pod.state_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    bool ok = write(fd, &c->exit, sizeof c->exit) == sizeof c->exit;
    close(fd);
    if (ok)
        (void)renameat(pod.state_fd, tmp, pod.state_fd, name);
    else
        (void)unlinkat(pod.state_fd, tmp, 0);
}

static void on_drain_timeout(struct timer *t)
{
    struct ctr *c = container_of(t, struct ctr, drain);

    c->drain_over = true;
    ctr_drained(c);
}

static void on_poststop_timeout(struct timer *t)
{
    struct ctr *c = container_of(t, struct ctr, drain);

    c->hold_over = true;
    ctr_drained(c);
}

void ctr_drained(struct ctr *c)
{
    if (c->acked) {
        ctr_free(c);
        return;
    }
    if (c->state != CTR_DRAINING)
        return;
    if (c->log.pend_len && !c->drain_over && !pod.stopping) {
        if (!c->drain.at_ms)
            timer_set(&c->drain, DRAIN_MAX_MS, on_drain_timeout);
        return;
    }
    if (c->plan_fd >= 0 && poststop(c))
        timer_set(&c->drain, POSTSTOP_MAX_MS, on_poststop_timeout);
    if (poststop_runs(c->id) && !c->hold_over)
        return;
    timer_off(&c->drain);
    c->state = CTR_EXITED;
    attach_ctr_end(c);
    record_exit(c);
    send_exit(c);
}

void ctr_ack(const char *id)
{
    char name[WIRE_ID + 16];
    struct ctr *c = ctr_find(id);

    if (!c || c->state != CTR_EXITED)
        return;
    exit_name(c->id, "", name, sizeof name);
    (void)unlinkat(pod.state_fd, name, 0);
    c->acked = true;
    if (!c->log.pend_len)            /* else when the disk has taken what is left */
        ctr_free(c);
}

void ctr_replay(void)
{
    for (struct ctr *c = ctrs; c; c = c->next) {
        if (c->state != CTR_STARTING && !c->acked)
            send_ctr(c);
    }
    for (struct ctr *c = ctrs; c; c = c->next)
        if (c->state == CTR_EXITED && !c->acked)
            send_exit(c);
}

void ctr_link_down(void)
{
    for (struct ctr *c = ctrs, *next; c; c = next) {
        next = c->next;
        c->start_serial = 0;
        /* these may take their time: the next daemon calls it a failed start long before */
        if (c->state == CTR_STARTING && (c->launch->hooks || c->launch->restore))
            start_failed(c, -ECANCELED, "");
    }
}

void ctr_kill_all(void)
{
    for (struct ctr *c = ctrs; c; c = c->next)
        if (c->state <= CTR_RUNNING && c->pidfd >= 0)
            (void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}
