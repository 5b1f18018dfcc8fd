/* SPDX-License-Identifier: Apache-2.0 */
/* cricket-pod: the supervisor of one pod. Started by the daemon with the link on descriptor 3;
 * lives until it is told to shut down, with or without a daemon. One loop: epoll, one event at a
 * time (whoever is deleted in a callback is in no batch any more), SIGCHLD by signalfd, timers in a
 * list. Nothing is due, nothing wakes it. */
#include "pod.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* struct sigaction as the kernel has it, all zero: SIG_DFL, no flags, nothing masked */
static const char kernel_default[64] __attribute__((aligned(8)));

struct pod pod = {
    .state_fd = -1, .host_root = -1, .host_mnt = -1, .small_mnt = -1, .own_pid = -1,
    .net = -1, .ipc = -1, .uts = -1, .user = -1, .pidns = -1,
};

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static int epfd = -1;
static struct timer *timers;
static struct src children = { .fd = -1 };
char *scratch_in, *scratch_out;
static bool scratch_dirty;

int64_t now_mono_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t now_wall_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int src_add(struct src *s, int fd, uint32_t events, void (*fn)(struct src *s, uint32_t events))
{
    struct epoll_event e = { .events = events, .data.ptr = s };

    s->fd = -1;
    if (events && epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e) < 0)
        return -errno;
    s->fd = fd;
    s->events = events;
    s->fn = fn;
    return 0;
}

void src_mod(struct src *s, uint32_t events)
{
    struct epoll_event e = { .events = events, .data.ptr = s };

    if (s->fd < 0 || s->events == events)
        return;
    /* nothing wanted: out of the set, since a hang-up would be told all the same */
    (void)epoll_ctl(epfd,
                    !events      ? EPOLL_CTL_DEL
                    : !s->events ? EPOLL_CTL_ADD
                                 : EPOLL_CTL_MOD,
                    s->fd, &e);
    s->events = events;
}

void src_del(struct src *s)
{
    if (s->fd >= 0 && s->events)
        (void)epoll_ctl(epfd, EPOLL_CTL_DEL, s->fd, NULL);
    s->fd = -1;
}

void timer_set(struct timer *t, int64_t in_ms, void (*fn)(struct timer *t))
{
    timer_off(t);
    t->at_ms = now_mono_ms() + in_ms;
    t->fn = fn;
    t->next = timers;
    timers = t;
}

void timer_off(struct timer *t)
{
    for (struct timer **p = &timers; t->at_ms && *p; p = &(*p)->next)
        if (*p == t) {
            *p = t->next;
            break;
        }
    t->at_ms = 0;
}

/* Runs one timer that is due; else how long until the next, -1: none. */
static int run_timers(void)
{
    struct timer *first = NULL;

    for (struct timer *t = timers; t; t = t->next)
        if (!first || t->at_ms < first->at_ms)
            first = t;
    if (!first)
        return -1;
    int64_t in = first->at_ms - now_mono_ms();
    if (in > 0)
        return in > 1000000 ? 1000000 : (int)in;
    timer_off(first);
    first->fn(first);
    return 0;
}

void scratch_used(void)
{
    scratch_dirty = true;
}

/* At the end: orphans came to us as the subreaper, and would go on to the host's init. */
static void kill_children(void)
{
    char buf[4096];
    int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, buf, sizeof buf - 1) : -1;

    if (fd >= 0)
        (void)close(fd);
    buf[n > 0 ? n : 0] = '\0';
    for (char *p = buf, *e; (n = strtol(p, &e, 10)) > 1; p = e)
        if (!oci_deleting((pid_t)n) && !poststop_pid((pid_t)n))
            (void)kill((pid_t)n, SIGKILL);
}

static void on_child(struct src *s, uint32_t events)
{
    struct signalfd_siginfo si;
    int status;
    pid_t pid;

    (void)events;
    (void)!read(s->fd, &si, sizeof si);          /* there is one at most */
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == pod.init)
            pod.init = 0;            /* the kernel kills what is left in its namespace */
        else if (!ctr_reaped(pid, status) && !exec_reaped(pid, status) && !oci_reaped(pid))
            orphans_add(pid, status); /* that came to us as the subreaper */
    }
    if (pod.stopping && pid < 0 && !poststop_runs(NULL))
        talk_finish();               /* no child is left, not even an orphan */
    if (pod.stopping)
        kill_children();
}

void main_kick(void)
{
    on_child(&children, 0);
}

static void start(void)
{
    char num[16];
    sigset_t set;
    int fd;

    /* Whoever waits for the end of the daemon's stderr must not wait for us. What there is to say
     * goes over the link. */
    fd = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3 && fd >= 0; i++)
        if (fd != i && (i != 2 || !SANITIZED))
            (void)dup2(fd, i);
    if (fd > 2)
        (void)close(fd);
    (void)fcntl(WIRE_LINK_FD, F_SETFD, FD_CLOEXEC);
    (void)syscall(SYS_close_range, 4, ~0U, 0);
    (void)prctl(PR_SET_NAME, "cricket-pod", 0, 0, 0);
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0); /* the daemon's choice is not for containers */
    if (chdir("/") < 0)
        _exit(1);
    (void)umask(022);
    /* All of them, libc's own too, which signal(2) of libc leaves alone: a glibc that starts
     * programs by posix_spawn (systemd, make) has them ignored, and containers would inherit that.
     */
    for (int s = 1; s <= 64; s++)
        (void)syscall(SYS_rt_sigaction, s, kernel_default, NULL, sizeof(uint64_t));
    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    (void)sigprocmask(SIG_SETMASK, &set, NULL);

    fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, num, sizeof num - 1) : 0;
    num[n > 0 ? n : 0] = '\0';
    pod.old_oom_adj = atoi(num);
    (void)close(fd);
    if (file_write(AT_FDCWD, "/proc/self/oom_score_adj", "-999") < 0 && pod.old_oom_adj > 0)
        (void)file_write(AT_FDCWD, "/proc/self/oom_score_adj", "0");

    char *m = mmap(NULL, SCRATCH_IN + SCRATCH_OUT, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    epfd = epoll_create1(EPOLL_CLOEXEC);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (m == MAP_FAILED || epfd < 0 || fd < 0 || src_add(&children, fd, EPOLLIN, on_child) < 0)
        _exit(1);
    scratch_in = m;
    scratch_out = m + SCRATCH_IN;
}

int main(int argc, char **argv)
{
    (void)argv;                      /* the sandbox's id, for ps */
    if (argc != 2 || fcntl(WIRE_LINK_FD, F_GETFD) < 0) {
        static const char usage[] = "cricket-pod is started by cricketd\n";
        (void)!write(2, usage, sizeof usage - 1);
        return 2;
    }
    start();
    talk_take(WIRE_LINK_FD);
    for (;;) {
        struct epoll_event e;
        int wait = run_timers(), n = epoll_wait(epfd, &e, 1, scratch_dirty ? 0 : wait);

        if (n == 0 && scratch_dirty) {
            (void)madvise(scratch_in, SCRATCH_IN + SCRATCH_OUT, MADV_DONTNEED);
            scratch_dirty = false;
        } else if (n > 0) {
            struct src *s = e.data.ptr;
            s->fn(s, e.events);
        } else if (n < 0 && errno != EINTR)
            _exit(1);
    }
}
