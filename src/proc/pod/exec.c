/* SPDX-License-Identifier: Apache-2.0 */
/* More processes in a container: launched like its first one (launch.c), into that one's namespaces
 * by its pidfd. Their stdio is the daemon's own pipes, so no byte passes through here; the
 * supervisor starts, reaps, tells, and kills.
 *
 * Killing must get all that the command started. Its first process is a child subreaper (launch.c),
 * so that whoever loses its parent stays below it as long as it lives. Whoever descends from it, or
 * is in its session, is stopped first, until a look at /proc finds nobody new (a stopped process
 * forks no more), then all are killed, it last.
 *
 * Behind an OCI runtime there is no subreaper, since its child is not ours before it runs. What
 * every process inherits and no runtime sets is the timer slack: each exec gets one of its own,
 * some nanoseconds more than usual, and whoever has that and the cgroups of the first process is of
 * this exec. Only one that changes its slack, session and parent escapes. prctl(2), proc(5).
 */
#include "pod.h"
#include "view.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KILL_ROUNDS = 16, KILL_WAIT_MS = 200, SLACKS = 10000 };

struct exec {
    struct exec *next;
    uint32_t serial;                 /* 0: nobody hears of it any more */
    struct launch launch;
    bool launching;                  /* until execve */
    struct src status;
    pid_t pid;
    bool oci, told;                  /* pid is the runtime's driver until it has told another */
    unsigned long slack;             /* as that of struct launch */
    bool doomed;                     /* to be killed as soon as the number is known */
    bool dead;                       /* it ended before that, as dead_status says */
    int dead_status;
    int pty;                         /* the supervisor's dup, for resize; -1 */
    int64_t started_at;
};

static struct exec *execs;

static void close_status(struct exec *x)
{
    int fd = x->status.fd;

    src_del(&x->status);
    if (fd >= 0)
        close(fd);
}

static void launched(struct exec *x)
{
    if (!x->launching)
        return;
    x->launching = false;
    launch_deinit(&x->launch);
    if (x->oci)
        orphans_end();
}

static void exec_free(struct exec *x)
{
    for (struct exec **p = &execs; *p; p = &(*p)->next)
        if (*p == x) {
            *p = x->next;
            break;
        }
    close_status(x);
    launched(x);
    if (x->pty >= 0)
        close(x->pty);
    free(x);
}

static void exec_failed(struct exec *x, int code, const char *text)
{
    if (x->serial)
        talk_reply(x->serial, code, "%s", text);
    if (x->pid > 0 && !x->dead)
        (void)kill(x->pid, SIGKILL); /* ours and not reaped: nobody else's number */
    exec_free(x);
}

static void exec_ended(struct exec *x, int status);
static void kill_tree(const struct exec *x);

static void take_news(struct exec *x, const struct launch_msg *m, int fd)
{
    if (!m->pid) {
        x->pty = fd;
        return;
    }
    x->told = true;
    x->pid = m->pid;
    x->dead = orphans_have(x->pid, &x->dead_status);
}

/* True while it is on its way; false: freed. */
static bool take_status(struct exec *x, bool dead)
{
    struct launch_msg m;
    int fd, r;

    while ((r = launch_read(x->status.fd, &m, &fd)) == 1 && m.code == 0)
        take_news(x, &m, fd);
    if (r == -EAGAIN && (!dead || x->told))
        return true;
    if (r != 0 || (x->oci && !x->told)) {
        if (dead && !x->told)
            x->pid = 0;
        exec_failed(x,
                    r == 1                   ? m.code
                    : r == -EAGAIN || r == 0 ? -ECHILD
                                             : r,
                    r == 1   ? m.text
                    : x->oci ? "whoever drives the OCI runtime died"
                             : "the process died before exec");
        return false;
    }
    close_status(x);
    launched(x);
    x->started_at = now_wall_ns();
    struct wire_started s = { .pid = x->pid,
                              .flags = x->pty >= 0 ? WIRE_FD_0 : 0,
                              .started_at = x->started_at };
    if (x->serial)
        talk_send(WIRE_EXEC_STARTED, x->serial, &s, sizeof s, x->pty);
    if (x->dead) {
        exec_ended(x, x->dead_status);
        return false;
    }
    if (x->doomed)
        kill_tree(x);
    return true;
}

static void on_status(struct src *s, uint32_t events)
{
    (void)events;
    (void)take_status(container_of(s, struct exec, status), false);
}

static void keep_join(struct ctr *c, int *fds, size_t n)
{
    if (n == 0)
        return;
    for (size_t i = 0; i < c->n_join; i++)
        close(c->join[i]);
    memcpy(c->join, fds, n * sizeof *fds);
    c->n_join = n;
    for (size_t i = 0; i < n; i++)
        fds[i] = -1;
}

/* Nobody had to hear of its execve, a wake-up less for everybody: what the child said before is
 * read now. */
static void quiet_ended(struct exec *x, int status)
{
    struct launch_msg m;

    if (status && read(x->status.fd, &m, sizeof m) == sizeof m) {
        m.text[sizeof m.text - 1] = '\0';
        x->dead = true;
        exec_failed(x, m.code, m.text);
    } else
        exec_ended(x, status);
}

static unsigned long next_slack(void)
{
    static unsigned n;
    int usual = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);

    n = n % SLACKS + 1;
    return (usual > 0 ? (unsigned long)usual : 0) + n;
}

void exec_start(uint32_t serial, const struct wire_exec *m, void *plan, size_t plan_len, int *fds,
                size_t n_fds)
{
    static const uint32_t flag[3] = { WIRE_FD_0, WIRE_FD_1, WIRE_FD_2 };
    char why[WIRE_TEXT] = "";
    struct ctr *c = ctr_find(m->id);
    struct exec *x;
    size_t k = plan ? 0 : 1;
    int r;

    if (!c || c->state != CTR_RUNNING) {
        talk_reply(serial, -ESRCH, "container %s is not running", m->id);
        return;
    }
    if (n_fds < k + m->n_cgroups) {
        talk_reply(serial, -EINVAL, "descriptors of the request");
        return;
    }
    n_fds -= m->n_cgroups;
    keep_join(c, fds + n_fds, m->n_cgroups);
    x = calloc(1, sizeof *x);
    if (!x) {
        talk_reply(serial, -ENOMEM, "out of memory");
        return;
    }
    struct launch *l = &x->launch;
    launch_init(l);
    x->launching = true;
    x->serial = serial;
    x->status.fd = x->pty = -1;
    x->next = execs;
    execs = x;
    for (int i = 0; i < 3; i++)
        if ((m->flags & flag[i]) && k < n_fds) {
            l->stdio[i] = fds[k];
            fds[k++] = -1;
        }
    memcpy(l->cgroups, c->join, c->n_join * sizeof *c->join);
    l->n_cgroups = c->n_join;
    l->lent = true;
    l->cgroup2 = m->flags & WIRE_CGROUP2;
    l->exec = true;
    l->userns = c->userns;
    l->target = c->pidfd;
    if (n_fds != k) {
        exec_failed(x, -EINVAL, "descriptors of the request");
        return;
    }
    r = plan ? launch_lend(l, plan, plan_len, WIRE_PLAN_EXEC, why, sizeof why)
             : launch_plan(l, fds[0], WIRE_PLAN_EXEC, why, sizeof why);
    l->rdt = c->rdt;
    if (r == 0 && l->oci && !c->oci) {
        r = -EINVAL;
        snprintf(why, sizeof why, "the container was not started by an OCI runtime");
    }
    if (r == 0 && l->oci) {
        x->oci = true;
        x->slack = l->slack = next_slack();
        orphans_begin();
    }
    if (r == 0) {
        l->quiet = m->flags & WIRE_QUIET && !l->oci && !(l->plan->process.flags & WIRE_TTY);
        r = launch_clone(l, why, sizeof why);
    }
    if (r < 0) {
        if (l->status >= 0)
            close(l->status);
        exec_failed(x, r, why);
        return;
    }
    x->pid = l->pid;
    if (l->quiet) {
        x->status.fd = l->status;
        launched(x);
        return;
    }
    for (int i = 0; i < 3; i++)
        if (l->stdio[i] >= 0) {
            close(l->stdio[i]);
            l->stdio[i] = -1;
        }
    r = src_add(&x->status, l->status, EPOLLIN, on_status);
    if (r < 0) {
        close(l->status);
        exec_failed(x, r, "epoll");
    }
}

bool exec_reaped(pid_t pid, int status)
{
    struct exec *x = execs;

    while (x && x->pid != pid)
        x = x->next;
    if (!x)
        return false;
    if (x->launch.quiet) {
        quiet_ended(x, status);
        return true;
    }
    if (x->oci && x->launching) {
        if (x->told) {
            x->dead = true;
            x->dead_status = status;
        } else
            (void)take_status(x, true);
        return true;
    }
    if (x->launching && !take_status(x, true))
        return true;
    exec_ended(x, status);
    return true;
}

static void exec_ended(struct exec *x, int status)
{
    struct wire_exec_exited m = { WIFSIGNALED(status) ? 128 + WTERMSIG(status)
                                                      : WEXITSTATUS(status) };
    if (x->serial)
        talk_send(WIRE_EXEC_EXITED, x->serial, &m, sizeof m, -1);
    exec_free(x);
}

/* ---- killing */

struct proc {
    pid_t pid, ppid, sid;
    bool in;
};

struct procs {
    struct proc *p;
    size_t n, cap;
};

/* "pid (comm) state ppid pgrp session": comm may hold anything */
static bool read_stat(const char *name, struct proc *p)
{
    char path[64], buf[512], *s;
    int fd, ppid, pgrp, sid;
    ssize_t n;

    snprintf(path, sizeof path, "/proc/%.20s/stat", name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    n = read(fd, buf, sizeof buf - 1);
    close(fd);
    buf[n > 0 ? n : 0] = '\0';
    s = strrchr(buf, ')');
    if (!s || sscanf(s + 1, " %*c %d %d %d", &ppid, &pgrp, &sid) != 3)
        return false;
    *p = (struct proc){ atoi(name), ppid, sid, false };
    return true;
}

static void scan(struct procs *all)
{
    DIR *d = opendir("/proc");
    struct dirent *e;

    all->n = 0;
    while (d && (e = readdir(d))) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9')
            continue;
        if (all->n == all->cap) {
            size_t cap = all->cap ? all->cap * 2 : 256;
            struct proc *p = realloc(all->p, cap * sizeof *p);
            if (!p)
                break;
            all->p = p;
            all->cap = cap;
        }
        if (read_stat(e->d_name, &all->p[all->n]))
            all->n++;
    }
    if (d)
        closedir(d);
}

/* "" if it is not there */
static void read_line(pid_t pid, const char *name, char *buf, size_t len)
{
    char path[64];
    ssize_t n = -1;

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = read(fd, buf, len - 1);
        close(fd);
    }
    buf[n > 0 ? n : 0] = '\0';
}

static void mark_slack(struct procs *all, const struct exec *x)
{
    char first[2048], other[2048], num[24];

    read_line(x->pid, "cgroup", first, sizeof first);
    for (size_t i = 0; i < all->n && first[0]; i++) {
        read_line(all->p[i].pid, "timerslack_ns", num, sizeof num);
        if (strtoul(num, NULL, 10) != x->slack)
            continue;
        read_line(all->p[i].pid, "cgroup", other, sizeof other);
        all->p[i].in = strcmp(first, other) == 0;
    }
}

static size_t mark(struct procs *all, const struct exec *x)
{
    size_t n = 0;
    bool more = true;

    if (x->slack)
        mark_slack(all, x);
    for (size_t i = 0; i < all->n; i++)
        n += all->p[i].in;
    while (more) {
        more = false;
        for (size_t i = 0; i < all->n; i++) {
            struct proc *p = &all->p[i];
            bool in = p->pid == x->pid || p->sid == x->pid;
            for (size_t k = 0; !p->in && !in && k < all->n; k++)
                in = all->p[k].in && all->p[k].pid == p->ppid;
            if (in && !p->in) {
                p->in = more = true;
                n++;
            }
        }
    }
    return n;
}

static void wait_gone(pid_t pid, int64_t until_ms)
{
    struct pollfd p = { (int)syscall(SYS_pidfd_open, pid, 0), POLLIN, 0 };
    int64_t left = until_ms - now_mono_ms();

    if (p.fd < 0)
        return;
    if (left > 0)
        (void)poll(&p, 1, (int)left);
    close(p.fd);
}

static void kill_tree(const struct exec *x)
{
    pid_t pid = x->pid;
    struct procs all = { 0 };
    size_t before = 0;

    for (int round = 0; round < KILL_ROUNDS; round++) {
        scan(&all);
        size_t n = mark(&all, x);
        if (n == before)
            break;
        before = n;
        for (size_t i = 0; i < all.n; i++)
            if (all.p[i].in)
                (void)kill(all.p[i].pid, SIGSTOP);
    }
    for (size_t i = 0; i < all.n; i++)
        if (all.p[i].in && all.p[i].pid != pid)
            (void)kill(all.p[i].pid, SIGKILL);
    /* who hears of the end may look for what is left: the first process goes last */
    int64_t until = now_mono_ms() + KILL_WAIT_MS;
    for (size_t i = 0; i < all.n; i++)
        if (all.p[i].in && all.p[i].pid != pid)
            wait_gone(all.p[i].pid, until);
    free(all.p);
    (void)kill(pid, SIGKILL);
}

static void exec_kill_all(struct exec *x)
{
    if (x->oci && x->launching)
        x->doomed = true;
    else
        kill_tree(x);
}

static struct exec *find(uint32_t serial)
{
    struct exec *x = execs;

    while (x && x->serial != serial)
        x = x->next;
    return x;
}

void exec_kill(uint32_t serial)
{
    struct exec *x = serial ? find(serial) : NULL;

    if (x)
        exec_kill_all(x);
}

void exec_resize(uint32_t serial, uint16_t w, uint16_t h)
{
    struct exec *x = serial ? find(serial) : NULL;
    struct winsize ws = { h, w, 0, 0 };

    if (x && x->pty >= 0)
        (void)ioctl(x->pty, TIOCSWINSZ, &ws);
}

void exec_link_down(void)
{
    for (struct exec *x = execs; x; x = x->next) {
        x->serial = 0;
        exec_kill_all(x);
    }
}
