/* SPDX-License-Identifier: Apache-2.0 */
/* Starting and reaping programs.
 *
 * clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD): the child borrows our memory until it execs, so
 * starting costs the same however big the daemon is (a fork of 50 MB costs 2 ms, this 0.05 ms), the
 * failing step and its errno come back through shared memory, and the pidfd exists before the child
 * runs. All signals are blocked meanwhile: a handler must not run in the child on our memory.
 * Between clone and exec only plain system calls. Everything else above 2 is marked close-on-exec
 * once more by close_range(2), for libraries that forget. */
#include "reactor/child.h"

#include "list.h"
#include "log.h"
#include "mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { STACK_SIZE = 64 * 1024, FDS_MAX = 128 };

struct child {
    struct loop *loop;
    struct list all;
    pid_t pid;
    int pidfd;
    ev_io io;
    child_exit_fn on_exit;           /* NULL: disowned */
    void *arg;
};

/* Reachable from here while they live, also after their loop is gone. */
static struct list children = LIST_INIT(children);

struct launch {
    pid_t parent;
    const struct child_opts *o;
    char *const *envp;
    const char *step;                /* of the child, when it failed */
    int error;
};

/* The child's stack is thrown away with its frames still on it: no redzones there. */
#define IN_CHILD __attribute__((no_sanitize_address))

IN_CHILD static int launch_fds(struct launch *l, int *exec_fd)
{
    const struct child_opts *o = l->o;
    int tmp[FDS_MAX], max = 2;
    bool have[2] = { false, false };

    for (size_t i = 0; i < o->n_fds; i++) {
        if (o->fds[i].to > max)
            max = o->fds[i].to;
        if (o->fds[i].to <= 1)
            have[o->fds[i].to] = true;
    }
    /* out of the way of all targets, then onto them: no order of (from, to) pairs can collide */
    l->step = "fcntl(F_DUPFD_CLOEXEC)";
    for (size_t i = 0; i < o->n_fds; i++) {
        tmp[i] = fcntl(o->fds[i].from, F_DUPFD_CLOEXEC, max + 1);
        if (tmp[i] < 0)
            return -1;
    }
    if (*exec_fd >= 0) {
        *exec_fd = fcntl(*exec_fd, F_DUPFD_CLOEXEC, max + 1);
        if (*exec_fd < 0)
            return -1;
    }
    (void)syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC); /* before 5.11: as opened */
    l->step = "dup2";
    for (size_t i = 0; i < o->n_fds; i++)
        if (dup2(tmp[i], o->fds[i].to) < 0)
            return -1;
    l->step = "/dev/null";
    if (!have[0] || !have[1]) {
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

        if (fd < 0)
            return -1;
        for (int i = 0; i < 2; i++)
            if (!have[i] && fd != i && dup2(fd, i) < 0)
                return -1;
        if (fd <= 1 && fcntl(fd, F_SETFD, 0) < 0)
            return -1;
    }
    return 0;
}

/* In the child, on our memory. */
IN_CHILD static int launch_main(void *arg)
{
    struct launch *l = arg;
    const struct child_opts *o = l->o;
    struct sigaction dfl = { .sa_handler = SIG_DFL };
    sigset_t none;
    int exec_fd = o->exec_fd;

    for (int sig = 1; sig < NSIG; sig++)
        (void)sigaction(sig, &dfl, NULL); /* KILL, STOP and libc's own are refused */
    l->step = "prctl";
    if (o->dies_with_us && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        goto fail;
    if (o->dies_with_us && getppid() != l->parent)
        _exit(127);                       /* it is gone already */
    if (o->new_session)
        (void)setsid();                   /* a new process is no group leader: cannot fail */
    if (launch_fds(l, &exec_fd) < 0)
        goto fail;
    l->step = "fchdir";
    if (o->cwd_fd >= 0 && fchdir(o->cwd_fd) < 0)
        goto fail;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    l->step = "exec";
    if (exec_fd >= 0)
        (void)syscall(SYS_execveat, exec_fd, "", o->argv, l->envp, AT_EMPTY_PATH);
    else
        (void)execve(o->path, o->argv, l->envp);
fail:
    l->error = errno;
    _exit(127);
}

static int wait_status(const siginfo_t *si)
{
    return si->si_code == CLD_EXITED ? si->si_status : 128 + si->si_status;
}

static void child_free(struct child *c)
{
    ev_io_stop(loop_ev(c->loop), &c->io);
    list_del(&c->all);
    fd_close(c->pidfd);
    free(c);
}

static void on_child_exit(struct ev_loop *ev, ev_io *w, int revents)
{
    struct child *c = w->data;
    siginfo_t si = { 0 };

    (void)ev;
    (void)revents;
    if (waitid(P_PIDFD, (id_t)c->pidfd, &si, WEXITED | WNOHANG) < 0) {
        if (errno == EINTR)
            return;
        log_warn("op=reap pid=%d err='%s', taking it for killed", (int)c->pid, strerror(errno));
        si.si_code = CLD_KILLED;
        si.si_status = SIGKILL;
    } else if (si.si_pid == 0) {
        return;
    }
    ev_io_stop(loop_ev(c->loop), &c->io);
    loop_name(c->loop, "child exit");
    if (c->on_exit)
        c->on_exit(c->arg, wait_status(&si));
    child_free(c);
}

int child_spawn(struct loop *l, const struct child_opts *o, child_exit_fn on_exit, void *arg,
                struct child **ret, struct err *err)
{
    struct launch la = { .o = o, .parent = getpid(), .envp = o->envp ? o->envp : environ };
    const char *name = o->path ? o->path : o->argv[0];
    sigset_t all, old;
    struct child *c;
    int pidfd = -1, saved;
    void *stack;
    pid_t pid;

    assert(o->n_fds <= FDS_MAX);
    stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED)
        return err_sys(err, "start '%s': stack", name);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    pid = clone(launch_main, (char *)stack + STACK_SIZE,
                CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &la, &pidfd);
    saved = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    (void)munmap(stack, STACK_SIZE);
    if (pid < 0)
        return err_code(err, -saved, "start '%s': clone", name);
    if (la.error) {
        (void)waitid(P_PIDFD, (id_t)pidfd, NULL, WEXITED); /* it is in _exit already */
        fd_close(pidfd);
        return err_code(err, -la.error, "start '%s': %s", name, la.step);
    }
    c = mem_new(struct child);
    c->loop = l;
    c->pid = pid;
    c->pidfd = pidfd;
    c->on_exit = on_exit;
    c->arg = arg;
    list_add_tail(&children, &c->all);
    ev_io_init(&c->io, on_child_exit, pidfd, EV_READ);
    c->io.data = c;
    ev_io_start(loop_ev(l), &c->io);
    *ret = c;
    return 0;
}

pid_t child_pid(const struct child *c)
{
    return c->pid;
}

int child_pidfd(const struct child *c)
{
    return c->pidfd;
}

void child_kill(struct child *c, int sig)
{
    (void)syscall(SYS_pidfd_send_signal, c->pidfd, sig, NULL, 0); /* gone already: fine */
}

void child_disown(struct child *c)
{
    c->on_exit = NULL;
}

struct pidwatch {
    struct loop *loop;
    int fd;
    ev_io io;
    void (*cb)(void *arg);
    void *arg;
};

static void on_pid_gone(struct ev_loop *ev, ev_io *io, int revents)
{
    struct pidwatch *w = io->data;

    (void)revents;
    ev_io_stop(ev, io);
    loop_name(w->loop, "process gone");
    w->cb(w->arg);
}

struct pidwatch *pidwatch_new(struct loop *l, int pidfd, void (*cb)(void *arg), void *arg)
{
    struct pidwatch *w = mem_new(struct pidwatch);

    w->loop = l;
    w->cb = cb;
    w->arg = arg;
    w->fd = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
    if (w->fd < 0) {
        free(w);
        return NULL;
    }
    ev_io_init(&w->io, on_pid_gone, w->fd, EV_READ);
    w->io.data = w;
    ev_io_start(loop_ev(l), &w->io);
    return w;
}

struct pidwatch *pidwatch_free(struct pidwatch *w)
{
    if (!w)
        return NULL;
    ev_io_stop(loop_ev(w->loop), &w->io);
    fd_close(w->fd);
    free(w);
    return NULL;
}
