/* SPDX-License-Identifier: Apache-2.0 */
/* Launching by an OCI runtime (crun, runc): the child of a launch prepares what the runtime's
 * config.json names, runs it, and reports as any child does; then it is done, and the container is
 * ours as an orphan of the runtime. Log, terminal, exit and signals are as for a process of our
 * own.
 *
 * In the bundle (bundle.c), beside the root and the mounts' sources:
 *
 *   config.json, process.json   from the plan        log, pid, tty    said by the runtime
 *   netns, ipcns, utsns, pidns, userns
 *
 * What the runtime keeps is in <state_dir>/oci/r; the daemon removes it with the sandbox. */
#include "mounts.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUN_MAX_MS = 60000, DELETE_MAX_S = 10 };

/* ---- in the supervisor: orphans */

struct orphan { pid_t pid; int status; };

static struct orphan *orphans;
static size_t n_orphans, orphans_cap;
static unsigned launching;

void orphans_begin(void)
{
    launching++;
}

void orphans_end(void)
{
    if (--launching)
        return;
    free(orphans);
    orphans = NULL;
    n_orphans = orphans_cap = 0;
}

void orphans_add(pid_t pid, int status)
{
    if (!launching)
        return;
    if (n_orphans == orphans_cap) {
        size_t cap = orphans_cap ? orphans_cap * 2 : 16;
        struct orphan *o = realloc(orphans, cap * sizeof *o);
        if (!o)
            return;
        orphans = o;
        orphans_cap = cap;
    }
    orphans[n_orphans++] = (struct orphan){ pid, status };
}

bool orphans_have(pid_t pid, int *status)
{
    for (size_t i = n_orphans; i-- > 0;)
        if (orphans[i].pid == pid) {
            *status = orphans[i].status;
            return true;
        }
    return false;
}

/* ---- deleting */

struct delete {
    struct delete *next;
    pid_t pid;
};

static struct delete *deletes;

bool oci_deleting(pid_t pid)
{
    for (const struct delete *d = deletes; d; d = d->next)
        if (d->pid == pid)
            return true;
    return false;
}

bool oci_reaped(pid_t pid)
{
    for (struct delete **p = &deletes; *p; p = &(*p)->next)
        if ((*p)->pid == pid) {
            struct delete *d = *p;
            *p = d->next;
            free(d);
            return true;
        }
    return false;
}

static void exec_delete(const char *path, const char *id) __attribute__((noreturn));
static void exec_delete(const char *path, const char *id)
{
    char root[PATH_MAX];
    const char *argv[] = { path, "--root", root, "delete", "--force", id, NULL };

    if ((size_t)snprintf(root, sizeof root, "%s/oci/r", pod.state_dir) >= sizeof root ||
        setns(pod.host_mnt, CLONE_NEWNS) < 0 || bundle_own_mounts() < 0 || chdir("/") < 0)
        _exit(127);
    child_plain_signals();
    (void)alarm(DELETE_MAX_S);
    (void)execve(path, (char *const *)(uintptr_t)argv, bundle_environment);
    _exit(127);
}

void oci_delete(const char *path, const char *id)
{
    struct delete *d = malloc(sizeof *d);
    long pid = d ? sys_clone3(0, NULL, -1) : -1;

    if (pid == 0)
        exec_delete(path, id);
    if (pid < 0) {                   /* left: goes with the sandbox */
        free(d);
        return;
    }
    d->pid = (pid_t)pid;
    d->next = deletes;
    deletes = d;
}

/* ---- in the child: the bundle */

struct driver {
    struct launch *l;
    struct bundle b;
    char root[PATH_MAX - 32];        /* what the runtime keeps */
    const char *path, *name;         /* of the runtime; its last part, for messages */
    const char *id;
    int listener;                    /* where the terminal comes; -1 */
};

static void write_json(const struct driver *d, const char *name)
{
    const char *p = view_str(d->l->base, d->l->plan->oci_json);
    size_t n = strlen(p);
    int fd = openat(d->b.dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    for (ssize_t k; fd >= 0 && n; p += k, n -= (size_t)k) {
        k = write(fd, p, n);
        if (k < 0)
            child_fail(d->l, errno, "write '%s/%s'", d->b.path, name);
    }
    if (fd < 0)
        child_fail(d->l, errno, "make '%s/%s'", d->b.path, name);
    close(fd);
}

static void put_ns(const struct driver *d, int ns, const char *name)
{
    char from[64], to[PATH_MAX];
    int fd;

    if (ns < 0)
        return;
    fd = openat(d->b.dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    snprintf(from, sizeof from, "/proc/self/fd/%d", ns);
    snprintf(to, sizeof to, "%s/%s", d->b.path, name);
    if (fd < 0 || mount(from, to, NULL, MS_BIND, NULL) < 0)
        child_fail(d->l, errno, "bind %s", name);
    close(fd);
}

static int pid_ns(const struct launch *l)
{
    char p[64];
    int fd;

    if (l->plan->pidns != WIRE_PID_TARGET)
        return l->plan->pidns == WIRE_PID_POD ? pod.pidns : -1;
    snprintf(p, sizeof p, "/proc/%d/ns/pid", (int)l->target_pid);
    fd = open(p, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_pidfd_send_signal, l->target, 0, NULL, 0) < 0)
        child_fail(l, errno, "the PID namespace to join");
    return fd;
}

static void listen_tty(struct driver *d)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };

    d->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/tty", d->b.dir);
    if (d->listener < 0 ||
        bind(d->listener, (const struct sockaddr *)(const void *)&a, sizeof a) < 0 ||
        listen(d->listener, 1) < 0)
        child_fail(d->l, errno, "socket for the terminal");
}

/* ---- running it */

static void take_tty(struct driver *d)
{
    struct launch_msg m;             /* room for what comes along */
    int fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC), master = -1;
    struct iovec iov = { &m, sizeof m };
    union {
        struct cmsghdr h;
        char b[CMSG_SPACE(sizeof(int))];
    } u = { 0 };
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof u.b
    };

    if (fd < 0 || recvmsg(fd, &h, MSG_CMSG_CLOEXEC) < 0)
        child_fail(d->l, errno, "take the terminal");
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(sizeof(int)))
        memcpy(&master, CMSG_DATA(c), sizeof master);
    if (master < 0)
        child_fail(d->l, -EPROTO, "%s sent no terminal", d->name);
    child_send_master(d->l, master);
    close(master);
    close(fd);
    close(d->listener);
    d->listener = -1;
}

static void become_runtime(const struct driver *d, const char *const *argv, const int *stdio)
    __attribute__((noreturn));
static void become_runtime(const struct driver *d, const char *const *argv, const int *stdio)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (d->l->slack)
        (void)prctl(PR_SET_TIMERSLACK, d->l->slack, 0, 0, 0);
    for (int i = 0; i < 3; i++)
        if (dup2(stdio[i] >= 0 ? stdio[i] : d->b.null, i) < 0)
            child_fail(d->l, errno, "stdio %d", i);
    (void)dup3(d->l->status_child, 3, O_CLOEXEC);
    d->l->status_child = 3;
    (void)syscall(SYS_close_range, 4, ~0U, 0);
    (void)umask(022);
    child_plain_signals();
    (void)execve(d->path, (char *const *)(uintptr_t)argv, bundle_environment);
    child_fail(d->l, errno, "run the OCI runtime '%s'", d->path);
}

/* Its exit status; -1: it was killed, or did not end in time (then it is). */
static int run(struct driver *d, const char *const *argv, const int *stdio)
{
    struct pollfd p[2] = { { -1, POLLIN, 0 }, { d->listener, POLLIN, 0 } };
    int64_t until = now_mono_ms() + RUN_MAX_MS, left;
    int status;
    long pid = sys_clone3(0, &p[0].fd, -1);

    if (pid == 0)
        become_runtime(d, argv, stdio);
    if (pid < 0)
        child_fail(d->l, errno, "clone");
    while ((left = until - now_mono_ms()) > 0) {
        if (poll(p, 2, (int)left) < 0 && errno != EINTR)
            break;
        if (p[1].fd >= 0 && p[1].revents) {
            take_tty(d);
            p[1].fd = -1;
        }
        if (p[0].revents)
            break;
    }
    if (left <= 0)
        (void)kill((pid_t)pid, SIGKILL);
    close(p[0].fd);
    if (waitpid((pid_t)pid, &status, 0) < 0)
        child_fail(d->l, errno, "wait for %s", d->name);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The value of the last "msg" of its log, a file of JSON objects. */
static void last_words(const struct driver *d, char *buf, size_t len)
{
    char text[4096], *p, *last = NULL;
    int fd = openat(d->b.dir, "log", O_RDONLY | O_CLOEXEC);
    struct stat st;
    ssize_t n = -1;
    size_t k = 0;

    if (fd >= 0 && fstat(fd, &st) == 0) {
        off_t from = st.st_size > (off_t)sizeof text - 1 ? st.st_size - (off_t)sizeof text + 1 : 0;
        n = pread(fd, text, sizeof text - 1, from);
    }
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    for (p = text; (p = strstr(p, "\"msg\"")); p += 5)
        last = p + 5;
    if (last)
        last += strspn(last, " :");
    if (last && *last == '"')
        for (p = last + 1; *p && *p != '"' && k + 1 < len; p++) {
            if (*p == '\\' && p[1]) {
                p++;
                if (*p == 'n' || *p == 't' || *p == 'r') {
                    buf[k++] = ' ';
                    continue;
                }
            }
            buf[k++] = *p;
        }
    buf[k] = '\0';
}

static void forget(struct driver *d)
{
    const char *argv[] = { d->path, "--root", d->root, "delete", "--force", d->id, NULL };
    const int none[3] = { -1, -1, -1 };

    (void)run(d, argv, none);
}

static void refused(struct driver *d, const char *what, int status, bool made)
{
    char words[384];

    last_words(d, words, sizeof words);
    if (made)
        forget(d);
    if (status < 0)
        child_fail(d->l, -ETIMEDOUT, "%s %s: did not end in %d s%s%s", d->name, what,
                   RUN_MAX_MS / 1000, words[0] ? ": " : "", words);
    child_fail(d->l, -EIO, "%s %s: %s (exit status %d)", d->name, what,
               words[0] ? words : "failed without a word", status);
}

/* What it wrote to the pid file, told to the supervisor. */
static pid_t read_pid(const struct driver *d)
{
    char num[32];
    int fd = openat(d->b.dir, "pid", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, num, sizeof num - 1);

    if (fd >= 0)
        close(fd);
    num[n > 0 ? n : 0] = '\0';
    int pid = atoi(num);
    if (pid <= 1)
        child_fail(d->l, -EPROTO, "%s wrote no process number", d->name);
    return pid;
}

static size_t add_console(const struct driver *d, const char **argv, size_t n, char *buf,
                          size_t len)
{
    if (d->listener < 0)
        return n;
    /* short, whatever the state directory's path is: an address holds 107 bytes */
    snprintf(buf, len, "/proc/%d/fd/%d/tty", (int)getpid(), d->b.dir);
    argv[n++] = "--console-socket";
    argv[n++] = buf;
    return n;
}

static void create(struct driver *d)
{
    char log[PATH_MAX], pid_file[PATH_MAX], tty[64];
    const char *argv[24] = { d->path, "--root", d->root, "--log", log, "--log-format", "json",
                             "create", "--bundle", d->b.path, "--pid-file", pid_file };
    const char *start[] = { d->path, "--root", d->root, "--log", log, "--log-format", "json",
                            "start", d->id, NULL };
    const int none[3] = { -1, -1, -1 };
    size_t n = 12;
    int status;

    snprintf(log, sizeof log, "%s/log", d->b.path);
    snprintf(pid_file, sizeof pid_file, "%s/pid", d->b.path);
    n = add_console(d, argv, n, tty, sizeof tty);
    argv[n] = d->id;
    status = run(d, argv, d->l->stdio);
    if (status)
        refused(d, "create", status, true);
    pid_t pid = read_pid(d);
    child_send_pid(d->l, pid);
    status = run(d, start, none);
    if (status)
        refused(d, "start", status, true);
    child_send_pid(d->l, pid);
}

static void execute(struct driver *d)
{
    char log[PATH_MAX], pid_file[PATH_MAX], process[PATH_MAX], tty[64];
    const char *argv[24] = { d->path, "--root", d->root, "--log", log, "--log-format", "json",
                             "exec", "--detach", "--process", process, "--pid-file", pid_file };
    size_t n = 13;
    int status;

    snprintf(log, sizeof log, "%s/log", d->b.path);
    snprintf(pid_file, sizeof pid_file, "%s/pid", d->b.path);
    snprintf(process, sizeof process, "%s/process.json", d->b.path);
    n = add_console(d, argv, n, tty, sizeof tty);
    argv[n] = d->id;
    status = run(d, argv, d->l->stdio);
    if (status)
        refused(d, "exec", status, false);
    child_send_pid(d->l, read_pid(d));
}

void oci_child(struct launch *l)
{
    struct driver d = { .l = l, .listener = -1 };
    const char *slash;

    d.path = view_str(l->base, l->plan->oci_path);
    d.id = view_str(l->base, l->plan->id);
    slash = strrchr(d.path, '/');
    d.name = slash ? slash + 1 : d.path;
    bundle_begin(&d.b, l);
    if (l->userns)
        snprintf(d.root, sizeof d.root, "%s/state", d.b.path);
    else
        snprintf(d.root, sizeof d.root, "%s/oci/r", pod.state_dir);
    if (l->plan->process.flags & WIRE_TTY)
        listen_tty(&d);
    if (l->exec) {
        write_json(&d, "process.json");
        if (mkdirat(d.b.dir, "r", 0755) < 0)     /* runc stands there while it joins */
            child_fail(l, errno, "mkdir '%s/r'", d.b.path);
        execute(&d);
    } else {
        write_json(&d, "config.json");
        bundle_put_root(&d.b);
        put_ns(&d, l->userns ? pod.user : -1, "userns");
        put_ns(&d, pod.net, "netns");
        put_ns(&d, pod.ipc, "ipcns");
        put_ns(&d, pod.uts, "utsns");
        put_ns(&d, pid_ns(l), "pidns");
        create(&d);
    }
    _exit(0);
}
