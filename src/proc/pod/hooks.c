/* SPDX-License-Identifier: Apache-2.0 */
/* Hooks of the OCI runtime-spec: programs of the node that CDI devices want to have run around a
 * container's life. A launch that has some goes through one more process, the driver, which may
 * wait while the supervisor goes on:
 *
 *   driver (the node's namespaces)             the container's first process (CLONE_PARENT)
 *     moves network interfaces, makes the bundle
 *     clones --------------------------------->  namespaces, root, mounts: the host's tree is there
 *                     <---- "built" -----------    too, the root is <bundle>/rootfs in it
 *     prestart, createRuntime
 *                     ------ go -------------->  createContainer; pivot_root; user, capabilities;
 *                     <-- end: execve ---------    startContainer; execve
 *     poststart
 *
 * poststop runs after the container's end: poststop.c. The bundle, <state_dir>/hooks/<id>, has
 * config.json for as long as any hook may look for it. A hook that fails before execve fails the
 * launch; later ones are told as notes. Containers without hooks know nothing of all this. */
#include "pod.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    BLIND_MS = 20,                   /* between looks at a hook where pidfds are refused */
    TAIL = 200,                      /* bytes of what a hook said that come into an error */
};

static const char *const names[] = { "prestart",       "createRuntime", "createContainer",
                                     "startContainer", "poststart",     "poststop" };

static const struct wire_hook *hook_at(const struct launch *l, uint32_t i)
{
    return view_at(l->base, &l->plan->hooks, i);
}

static bool has(const struct launch *l, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; l->hooks && i < l->plan->hooks.count; i++)
        if (hook_at(l, i)->kind >= from && hook_at(l, i)->kind <= to)
            return true;
    return false;
}

bool hooks_want_host(const struct launch *l)
{
    return has(l, WIRE_HOOK_PRESTART, WIRE_HOOK_CREATE_CONTAINER);
}

/* ---- one hook */

struct hook {
    const struct launch *l;
    const struct wire_hook *h;
    const char *status;              /* of the container, in the state */
    pid_t pid;                       /* as the hook sees it; 0: none */
    bool runtime;                    /* in the node's namespaces */
    char tail[TAIL];                 /* the end of what it said */
    size_t n;
};

/* What the hook reads: a file, so that nobody waits for a reader. */
static int state_file(const struct hook *k)
{
    const char *text = view_str(k->l->base, k->l->plan->state);
    size_t n = strlen(text);
    char rest[64];
    int fd = memfd_create("state", MFD_CLOEXEC), m;

    m = snprintf(rest, sizeof rest, k->pid ? ",\"status\":\"%s\",\"pid\":%d}\n"
                                           : ",\"status\":\"%s\"}\n", k->status, (int)k->pid);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n || write(fd, rest, (size_t)m) != m ||
        lseek(fd, 0, SEEK_SET) < 0)
        return -1;
    return fd;
}

static void hook_fail(int out, const char *what, const char *arg) __attribute__((noreturn));
static void hook_fail(int out, const char *what, const char *arg)
{
    char buf[TAIL];
    int n = snprintf(buf, sizeof buf, "%s '%.100s': %s", what, arg, strerror(errno));

    (void)!write(out, buf, (size_t)n < sizeof buf ? (size_t)n : sizeof buf - 1);
    _exit(127);
}

static void become_hook(const struct hook *k, int in, int out) __attribute__((noreturn));
static void become_hook(const struct hook *k, int in, int out)
{
    const char *path = view_str(k->l->base, k->h->path);
    const char *bundle = view_str(k->l->base, k->l->plan->bundle);
    char adj[16];

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)setsid();
    if (k->runtime) {
        snprintf(adj, sizeof adj, "%d", pod.old_oom_adj);
        (void)file_write(AT_FDCWD, "/proc/self/oom_score_adj", adj);
        if (setns(pod.host_mnt, CLONE_NEWNS) < 0)
            hook_fail(out, "enter", "the node's mount namespace");
    }
    if (k->h->kind != WIRE_HOOK_START_CONTAINER && chdir(bundle) < 0)
        hook_fail(out, "chdir", bundle);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
        hook_fail(out, "open", "stdin");
    (void)syscall(SYS_close_range, 3, ~0U, 0);
    (void)umask(022);
    child_plain_signals();
    (void)execve(path, child_pointers(k->l, &k->h->argv), child_pointers(k->l, &k->h->envp));
    hook_fail(2, "exec", path);
}

/* Keeps the end of what it says, as one line. False: nothing more will come. */
static bool hear(struct hook *k, int fd)
{
    char buf[1024];
    ssize_t n = read(fd, buf, sizeof buf);

    if (n <= 0)
        return n < 0 && (errno == EAGAIN || errno == EINTR);
    for (ssize_t i = 0; i < n; i++) {
        if (k->n == sizeof k->tail - 1) {
            memmove(k->tail, k->tail + 1, sizeof k->tail - 2);
            k->n--;
        }
        k->tail[k->n++] = (unsigned char)buf[i] < ' ' ? ' ' : buf[i];
    }
    return true;
}

static int failed(struct hook *k, char *why, size_t n, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static int failed(struct hook *k, char *why, size_t n, const char *fmt, ...)
{
    char what[64];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    while (k->n && k->tail[k->n - 1] == ' ')
        k->n--;
    k->tail[k->n] = '\0';
    snprintf(why, n, "hook %s '%.120s': %s%s%s", names[k->h->kind],
             view_str(k->l->base, k->h->path), what, k->n ? ": " : "", k->tail);
    return -EIO;
}

static int wait_hook(struct hook *k, pid_t pid, int pidfd, int out, char *why, size_t n)
{
    struct pollfd p[2] = { { pidfd, POLLIN, 0 }, { out, POLLIN, 0 } };
    int64_t until = now_mono_ms() + k->h->timeout_ms, left, most = pidfd < 0 ? BLIND_MS : 60000;
    int status = 0;
    pid_t end;

    while ((end = waitpid(pid, &status, WNOHANG)) == 0 && (left = until - now_mono_ms()) > 0)
        if (poll(p, 2, (int)(left < most ? left : most)) > 0 && p[1].revents && !hear(k, out))
            p[1].fd = -1;
    if (end < 0)
        return failed(k, why, n, "wait for it: %s", strerror(errno));
    if (end == 0) {
        (void)kill(-pid, SIGKILL);   /* it leads a session: what it has started goes along */
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, &status, 0);
    }
    while (p[1].fd >= 0 && poll(&p[1], 1, 0) > 0 && hear(k, out))
        ;
    if (end == 0)
        return failed(k, why, n, "did not end in %u s, killed", (k->h->timeout_ms + 999) / 1000);
    if (WIFSIGNALED(status))
        return failed(k, why, n, "killed by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status) ? failed(k, why, n, "exit status %d", WEXITSTATUS(status)) : 0;
}

static int run_hook(struct hook *k, char *why, size_t n)
{
    int out[2] = { -1, -1 }, in = state_file(k), pidfd = -1, r;
    long pid = -1;

    if (in >= 0 && pipe2(out, O_CLOEXEC | O_NONBLOCK) == 0)
        pid = sys_clone3(0, &pidfd, -1);
    if (pid < 0 && out[0] >= 0) {    /* a container's seccomp filter may refuse that */
        pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    }
    if (pid == 0) {
        (void)fcntl(out[1], F_SETFL, 0);
        become_hook(k, in, out[1]);
    }
    r = pid < 0 ? failed(k, why, n, "start it: %s", strerror(errno)) : 0;
    close(in);
    close(out[1]);
    if (r == 0)
        r = wait_hook(k, (pid_t)pid, pidfd, out[0], why, n);
    close(out[0]);
    close(pidfd);
    return r;
}

/* Those of one kind, in their order; to the first that fails, or all of them (note: tells). */
static int run_kind(const struct launch *l, uint32_t kind, const char *status, pid_t pid,
                    void (*note)(int fd, const char *why), int note_fd, char *why, size_t n)
{
    int r = 0;

    for (uint32_t i = 0; i < l->plan->hooks.count && r == 0; i++) {
        struct hook k = { .l = l, .h = hook_at(l, i), .status = status, .pid = pid };

        if (k.h->kind != kind)
            continue;
        k.runtime = kind != WIRE_HOOK_CREATE_CONTAINER && kind != WIRE_HOOK_START_CONTAINER;
        r = run_hook(&k, why, n);
        if (r < 0 && note) {
            note(note_fd, why);
            r = 0;
        }
    }
    return r;
}

static void must_run(const struct launch *l, uint32_t kind, const char *status, pid_t pid)
{
    char why[sizeof((struct launch_msg *)NULL)->text];

    if (run_kind(l, kind, status, pid, NULL, -1, why, sizeof why) < 0)
        child_fail(l, -EIO, "%s", why);
}

static void send_note(int fd, const char *why)
{
    struct launch_msg m = { .pid = LAUNCH_NOTE };

    snprintf(m.text, sizeof m.text, "%s", why);
    (void)send(fd, &m, sizeof m, MSG_NOSIGNAL);
}

/* ---- in the container's first process */

void hooks_before_pivot(const struct launch *l)
{
    struct launch_msg m = { .pid = LAUNCH_BUILT };
    char c;

    if (send(l->status_child, &m, sizeof m, MSG_NOSIGNAL) < 0 ||
        recv(l->status_child, &c, 1, 0) != 1)
        _exit(127);                  /* the driver has failed, and said so */
    must_run(l, WIRE_HOOK_CREATE_CONTAINER, "creating", getpid());
}

void hooks_before_exec(const struct launch *l)
{
    must_run(l, WIRE_HOOK_START_CONTAINER, "created", getpid());
}

/* ---- the bundle */

static void bundle_name(const char *id, const char *file, char *buf, size_t n)
{
    snprintf(buf, n, "hooks/%s%s", id, file);
}

static void make_bundle(const struct launch *l)
{
    static const char *const dirs[] = { "", "/rootfs", "/build" };
    const char *id = view_str(l->base, l->plan->id), *p = view_str(l->base, l->plan->config);
    char name[WIRE_ID + 32];
    size_t n = strlen(p);
    int fd;

    if (mkdirat(pod.state_fd, "hooks", 0755) < 0 && errno != EEXIST)
        child_fail(l, errno, "mkdir '%s/hooks'", pod.state_dir);
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        bundle_name(id, dirs[i], name, sizeof name);
        if (mkdirat(pod.state_fd, name, 0755) < 0 && errno != EEXIST)
            child_fail(l, errno, "mkdir '%s/%s'", pod.state_dir, name);
    }
    bundle_name(id, "/config.json", name, sizeof name);
    fd = openat(pod.state_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (ssize_t k; fd >= 0 && n; p += k, n -= (size_t)k) {
        k = write(fd, p, n);
        if (k < 0)
            child_fail(l, errno, "write '%s/%s'", pod.state_dir, name);
    }
    if (fd < 0)
        child_fail(l, errno, "make '%s/%s'", pod.state_dir, name);
    /* root of the user namespace, who runs createContainer, is to find and read it, no more: if we
     * do not live to run poststop, cricket-worker does, from this file */
    if (l->userns && (fchown(fd, (uid_t)-1, host_gid(0)) < 0 || fchmod(fd, 0640) < 0 ||
                      fchmod(pod.state_fd, 0711) < 0))
        child_fail(l, errno, "owner of '%s/%s'", pod.state_dir, name);
    close(fd);
}

void hooks_drop_bundle(const char *id)
{
    static const char *const dirs[] = { "/rootfs", "/build", "" };
    char name[WIRE_ID + 32];

    bundle_name(id, "/config.json", name, sizeof name);
    (void)unlinkat(pod.state_fd, name, 0);
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        bundle_name(id, dirs[i], name, sizeof name);
        (void)unlinkat(pod.state_fd, name, AT_REMOVEDIR);
    }
}

/* ---- the driver */

struct driver {
    struct launch *l;                /* ours: status_child leads to the supervisor */
    struct launch inner;             /* the container's; status leads to its first process */
    pid_t pid;                       /* of that; 0: not known yet */
};

static void tell(const struct driver *d)
{
    struct launch_msg m = { .pid = d->pid };

    if (send(d->l->status_child, &m, sizeof m, MSG_NOSIGNAL) < 0)
        _exit(127);
}

/* Passes on what it says until it has come to `until`. False: it said no more, so it has become the
 * container's program, or it is dead. */
static bool listen_to(struct driver *d, int32_t until)
{
    struct launch_msg m;
    int fd, r;

    for (;;) {
        struct pollfd p = { d->inner.status, POLLIN, 0 };
        if (poll(&p, 1, -1) < 0 && errno != EINTR)
            child_fail(d->l, errno, "poll");
        r = launch_read(d->inner.status, &m, &fd);
        if (r == -EAGAIN)
            continue;
        if (r <= 0)
            return false;
        if (m.code < 0) {
            (void)send(d->l->status_child, &m, sizeof m, MSG_NOSIGNAL);
            _exit(127);
        }
        if (m.pid == until)
            return true;
        if (m.pid > 0) {             /* it goes on as another process: child_again() */
            d->pid = m.pid;
            tell(d);
        } else if (fd >= 0) {
            child_send_master(d->l, fd);
            close(fd);
        }
    }
}

void hooks_child(struct launch *l)
{
    struct driver d = { .l = l, .inner = *l };
    char why[sizeof((struct launch_msg *)NULL)->text];
    int go[2];

    netdev_move_all(l);
    if (l->hooks)
        make_bundle(l);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, go) < 0)
        child_fail(l, errno, "socketpair");
    d.inner.status = go[0];
    d.inner.status_child = go[1];
    d.inner.driven = false;
    long pid = launch_process(&d.inner, CLONE_PARENT, NULL, why, sizeof why);
    if (pid < 0)
        child_fail(l, (int)pid, "%s", why);
    close(go[1]);
    if (!(l->userns && l->plan->pidns == WIRE_PID_OWN)) {
        d.pid = (pid_t)pid;
        tell(&d);
    }
    if (l->hooks) {
        if (!listen_to(&d, LAUNCH_BUILT))
            child_fail(l, -ECHILD, "the container's first process died");
        must_run(l, WIRE_HOOK_PRESTART, "creating", d.pid);
        must_run(l, WIRE_HOOK_CREATE_RUNTIME, "creating", d.pid);
        if (send(d.inner.status, "g", 1, MSG_NOSIGNAL) != 1)
            child_fail(l, -ECHILD, "the container's first process died");
    }
    (void)listen_to(&d, LAUNCH_BUILT);
    if (l->hooks)
        (void)run_kind(l, WIRE_HOOK_POSTSTART, "running", d.pid, send_note, l->status_child, why,
                       sizeof why);
    tell(&d);
    _exit(0);
}

/* ---- the end */

bool hooks_want_poststop(const struct launch *l)
{
    return has(l, WIRE_HOOK_POSTSTOP, WIRE_HOOK_POSTSTOP);
}

void hooks_run_poststop(const struct launch *l, int status)
{
    char why[sizeof((struct launch_msg *)NULL)->text];

    (void)run_kind(l, WIRE_HOOK_POSTSTOP, "stopped", 0, send_note, status, why, sizeof why);
}
