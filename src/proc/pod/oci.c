/* SPDX-License-Identifier: Apache-2.0 */
/* Launching by an OCI runtime (crun, runc): the child of a launch prepares what the runtime's
 * config.json names, runs it, and reports as any child does; then it is done, and the container is
 * ours as an orphan of the runtime. Log, terminal, exit and signals are as for a process of our
 * own.
 *
 * The child has a copy of the host's mount namespace that propagates nothing back, with a tmpfs on
 * <state_dir>/oci/b, the bundle; all of it goes when the child does:
 *
 *   config.json, process.json   from the plan        log, pid, tty    said by the runtime
 *   r    the container's root (/l, /u, /i: its parts)
 *   m<i> source of the i-th mount          netns, ipcns, utsns, pidns, userns
 *
 * In a user namespace the runtime opens r as somebody who may not pass the state directory: there
 * the bundle is at WIRE_OCI_USERNS, and what the runtime keeps appears in it as `state`.
 *
 * Sources are opened and dressed by sources.c, as for the native launcher. What the runtime keeps
 * is in <state_dir>/oci/r; the daemon removes it with the sandbox. */
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

static char *const environment[] = {
    (char *)(uintptr_t)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    (char *)(uintptr_t)"HOME=/root", NULL
};

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

/* Into a copy of the host's mount namespace from which nothing goes back. With both cgroup versions
 * mounted (hybrid), the containers are in the first one's, as the daemon has made them; a runtime
 * that would refuse such a host, or look into the second, is not shown that. 0 or -errno. */
static int own_mounts(void)
{
    static const char unified[] = "/sys/fs/cgroup/unified";
    struct statfs fs;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
        return -errno;
    if (statfs(unified, &fs) == 0 && fs.f_type == 0x63677270 /* cgroup2 */ &&
        umount2(unified, MNT_DETACH) < 0)
        return -errno;
    return 0;
}

static void exec_delete(const char *path, const char *id) __attribute__((noreturn));
static void exec_delete(const char *path, const char *id)
{
    char root[PATH_MAX];
    const char *argv[] = { path, "--root", root, "delete", "--force", id, NULL };

    if ((size_t)snprintf(root, sizeof root, "%s/oci/r", pod.state_dir) >= sizeof root ||
        setns(pod.host_mnt, CLONE_NEWNS) < 0 || own_mounts() < 0 || chdir("/") < 0)
        _exit(127);
    child_plain_signals();
    (void)alarm(DELETE_MAX_S);
    (void)execve(path, (char *const *)(uintptr_t)argv, environment);
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
    char bundle[PATH_MAX - 64], root[PATH_MAX - 64];
    const char *path, *name;         /* of the runtime; its last part, for messages */
    const char *id;
    int dir;                         /* the bundle */
    int listener;                    /* where the terminal comes; -1 */
    int null;                        /* read-only: a runtime gives its stdio to the container's user */
};

static void write_json(const struct driver *d, const char *name)
{
    const char *p = view_str(d->l->base, d->l->plan->oci_json);
    size_t n = strlen(p);
    int fd = openat(d->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    for (ssize_t k; fd >= 0 && n; p += k, n -= (size_t)k) {
        k = write(fd, p, n);
        if (k < 0)
            child_fail(d->l, errno, "write '%s/%s'", d->bundle, name);
    }
    if (fd < 0)
        child_fail(d->l, errno, "make '%s/%s'", d->bundle, name);
    close(fd);
}

static void make_bundle(struct driver *d)
{
    static const char *const dirs[] = { "oci", "oci/b", "oci/r" };
    int fd, state = -1;

    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        if (mkdirat(pod.state_fd, dirs[i], 0700) < 0 && errno != EEXIST)
            child_fail(d->l, errno, "mkdir '%s/%s'", pod.state_dir, dirs[i]);
    if (d->l->userns) {
        char kept[PATH_MAX];         /* by name: state_fd is of another mount namespace */
        if ((size_t)snprintf(kept, sizeof kept, "%s/oci/r", pod.state_dir) >= sizeof kept)
            child_fail(d->l, ENAMETOOLONG, "'%s'", pod.state_dir);
        state = sys_open_tree(AT_FDCWD, kept, 0);
        if (state < 0)
            child_fail(d->l, errno, "open '%s'", kept);
    }
    if (mount("tmpfs", d->bundle, "tmpfs", MS_NOSUID | MS_NODEV,
              d->l->userns ? "mode=711,size=16m" : "mode=700,size=16m") < 0)
        child_fail(d->l, errno, "mount tmpfs on '%s'", d->bundle);
    d->dir = open(d->bundle, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->dir < 0)
        child_fail(d->l, errno, "open '%s'", d->bundle);
    if (state < 0)
        return;
    fd = mkdirat(d->dir, "state", 0700) < 0 ? -1 : openat(d->dir, "state", O_PATH | O_CLOEXEC);
    if (fd < 0 || sys_move_mount(state, fd) < 0)
        child_fail(d->l, errno, "attach '%s/oci/r' at '%s'", pod.state_dir, d->root);
    close(fd);
    close(state);
}

/* Inside the bundle as root directory: source i to /m<i>. */
static void put_mount(const struct driver *d, int root, struct wire_mount *m, uint32_t i, int shm)
{
    const char *to = view_str(d->l->base, m->target);
    char name[32];
    struct stat st;
    int fd;

    if (m->kind == WIRE_MOUNT_SELF) {
        fd = root_make(root, to, true);
        m->fd = fd < 0 ? -1 : sys_open_tree(fd, "", AT_EMPTY_PATH);
        if (m->fd < 0 || dress(m->fd, m) < 0)
            child_fail(d->l, errno, "mount on '%s'", to);
        close(fd);
    } else if (m->kind == WIRE_MOUNT_SHM && m->fd < 0) {
        m->fd = fcntl(shm, F_DUPFD_CLOEXEC, 3);   /* detached: there is one, for one mount */
        if (m->fd < 0 || dress(m->fd, m) < 0)
            child_fail(d->l, errno, "mount on '%s'", to);
    }
    if (m->fd < 0 || m->kind == WIRE_MOUNT_CGROUP)
        return;
    snprintf(name, sizeof name, "m%u", i);
    if (fstat(m->fd, &st) < 0)
        child_fail(d->l, errno, "mount on '%s'", to);
    fd = S_ISDIR(st.st_mode) ? mkdirat(d->dir, name, 0700)
                             : openat(d->dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        child_fail(d->l, errno, "make '%s/%s'", d->bundle, name);
    if (!S_ISDIR(st.st_mode))
        close(fd);
    fd = openat(d->dir, name, O_PATH | O_CLOEXEC);
    if (fd < 0 || sys_move_mount(m->fd, fd) < 0)
        child_fail(d->l, errno, "attach the source of '%s'", to);
    close(fd);
    close(m->fd);
    m->fd = -1;
}

static void put_root(const struct driver *d, struct roots *r, int shm)
{
    static const char *const dirs[] = { "l", "u", "r", "i", "empty" };
    const struct wire_plan *p = d->l->plan;
    int host = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), root;

    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        if (mkdirat(d->dir, dirs[i], 0755) < 0)
            child_fail(d->l, errno, "mkdir '%s/%s'", d->bundle, dirs[i]);
    /* mounts.c knows its places by name */
    if (host < 0 || fchdir(d->dir) < 0 || chroot(".") < 0)
        child_fail(d->l, errno, "enter '%s'", d->bundle);
    mount_root(d->l, r);
    for (uint32_t i = 0; i < p->mounts.count; i++) {
        struct wire_mount *m = view_at(d->l->base, &p->mounts, i);
        if (m->kind == WIRE_MOUNT_OVERLAY)
            mount_image(d->l, m);
    }
    root = open("/r", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        child_fail(d->l, errno, "open the new root");
    for (uint32_t i = 0; i < p->mounts.count; i++)
        put_mount(d, root, view_at(d->l->base, &p->mounts, i), i, shm);
    close(root);
    if (fchdir(host) < 0 || chroot(".") < 0)
        child_fail(d->l, errno, "leave '%s'", d->bundle);
    close(host);
}

static void put_ns(const struct driver *d, int ns, const char *name)
{
    char from[64], to[PATH_MAX];
    int fd;

    if (ns < 0)
        return;
    fd = openat(d->dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    snprintf(from, sizeof from, "/proc/self/fd/%d", ns);
    snprintf(to, sizeof to, "%s/%s", d->bundle, name);
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
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/tty", d->dir);
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
        if (dup2(stdio[i] >= 0 ? stdio[i] : d->null, i) < 0)
            child_fail(d->l, errno, "stdio %d", i);
    (void)dup3(d->l->status_child, 3, O_CLOEXEC);
    d->l->status_child = 3;
    (void)syscall(SYS_close_range, 4, ~0U, 0);
    (void)umask(022);
    child_plain_signals();
    (void)execve(d->path, (char *const *)(uintptr_t)argv, environment);
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
    int fd = openat(d->dir, "log", O_RDONLY | O_CLOEXEC);
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
    int fd = openat(d->dir, "pid", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, num, sizeof num - 1);

    if (fd >= 0)
        close(fd);
    num[n > 0 ? n : 0] = '\0';
    int pid = atoi(num);
    if (pid <= 1)
        child_fail(d->l, -EPROTO, "%s wrote no process number", d->name);
    return pid;
}

static void tell(const struct driver *d, pid_t pid)
{
    struct launch_msg m = { .pid = pid };

    if (send(d->l->status_child, &m, sizeof m, MSG_NOSIGNAL) < 0)
        _exit(127);
}

static size_t add_console(const struct driver *d, const char **argv, size_t n, char *buf,
                          size_t len)
{
    if (d->listener < 0)
        return n;
    /* short, whatever the state directory's path is: an address holds 107 bytes */
    snprintf(buf, len, "/proc/%d/fd/%d/tty", (int)getpid(), d->dir);
    argv[n++] = "--console-socket";
    argv[n++] = buf;
    return n;
}

static void create(struct driver *d)
{
    char log[PATH_MAX], pid_file[PATH_MAX], tty[64];
    const char *argv[24] = { d->path, "--root", d->root, "--log", log, "--log-format", "json",
                             "create", "--bundle", d->bundle, "--pid-file", pid_file };
    const char *start[] = { d->path, "--root", d->root, "--log", log, "--log-format", "json",
                            "start", d->id, NULL };
    const int none[3] = { -1, -1, -1 };
    size_t n = 12;
    int status;

    snprintf(log, sizeof log, "%s/log", d->bundle);
    snprintf(pid_file, sizeof pid_file, "%s/pid", d->bundle);
    n = add_console(d, argv, n, tty, sizeof tty);
    argv[n] = d->id;
    status = run(d, argv, d->l->stdio);
    if (status)
        refused(d, "create", status, true);
    pid_t pid = read_pid(d);
    tell(d, pid);
    status = run(d, start, none);
    if (status)
        refused(d, "start", status, true);
    tell(d, pid);
}

static void execute(struct driver *d)
{
    char log[PATH_MAX], pid_file[PATH_MAX], process[PATH_MAX], tty[64];
    const char *argv[24] = { d->path, "--root", d->root, "--log", log, "--log-format", "json",
                             "exec", "--detach", "--process", process, "--pid-file", pid_file };
    size_t n = 13;
    int status;

    snprintf(log, sizeof log, "%s/log", d->bundle);
    snprintf(pid_file, sizeof pid_file, "%s/pid", d->bundle);
    snprintf(process, sizeof process, "%s/process.json", d->bundle);
    n = add_console(d, argv, n, tty, sizeof tty);
    argv[n] = d->id;
    status = run(d, argv, d->l->stdio);
    if (status)
        refused(d, "exec", status, false);
    tell(d, read_pid(d));
}

void oci_child(struct launch *l)
{
    struct roots r = { .lower = -1, .upper = -1 };
    struct driver d = { .l = l, .listener = -1, .dir = -1, .null = -1 };
    const char *slash;
    int shm;

    d.path = view_str(l->base, l->plan->oci_path);
    d.id = view_str(l->base, l->plan->id);
    slash = strrchr(d.path, '/');
    d.name = slash ? slash + 1 : d.path;
    if (l->userns) {
        snprintf(d.bundle, sizeof d.bundle, "%s", WIRE_OCI_USERNS);
        snprintf(d.root, sizeof d.root, "%s/state", WIRE_OCI_USERNS);
    } else {
        if ((size_t)snprintf(d.bundle, sizeof d.bundle, "%s/oci/b", pod.state_dir) >=
            sizeof d.bundle)
            child_fail(l, ENAMETOOLONG, "'%s'", pod.state_dir);
        snprintf(d.root, sizeof d.root, "%s/oci/r", pod.state_dir);
    }
    netdev_move_all(l);
    child_oom_adj(l);
    (void)setsid();
    child_give_pipes(l);
    umask(0);
    d.null = open("/null", O_RDWR | O_CLOEXEC);
    if (d.null < 0)
        child_fail(l, errno, "open the pod's '/null'");
    shm = open("/shm", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (shm >= 0)
        shm = sys_open_tree(shm, "", AT_EMPTY_PATH);
    if (setns(pod.host_mnt, CLONE_NEWNS) < 0)
        child_fail(l, errno, "enter the host's mount namespace");
    rdt_join(l);
    if (!l->exec)
        take_sources(l, &r);
    int e = own_mounts();
    if (e < 0)
        child_fail(l, -e, "mount namespace for the OCI runtime");
    make_bundle(&d);
    if (l->plan->process.flags & WIRE_TTY)
        listen_tty(&d);
    if (l->exec) {
        write_json(&d, "process.json");
        if (mkdirat(d.dir, "r", 0755) < 0)       /* runc stands there while it joins */
            child_fail(l, errno, "mkdir '%s/r'", d.bundle);
        execute(&d);
    } else {
        write_json(&d, "config.json");
        put_root(&d, &r, shm);
        put_ns(&d, l->userns ? pod.user : -1, "userns");
        put_ns(&d, pod.net, "netns");
        put_ns(&d, pod.ipc, "ipcns");
        put_ns(&d, pod.uts, "utsns");
        put_ns(&d, pid_ns(l), "pidns");
        create(&d);
    }
    _exit(0);
}
