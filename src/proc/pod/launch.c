/* SPDX-License-Identifier: Apache-2.0 */
/* One clone3 per process. The PID namespace of a new process is decided by its parent, so the
 * supervisor steps into the wanted one just for the call (setns to a PID namespace moves children
 * only) and back; all else the child does itself. The child reports over a SEQPACKET pair that
 * closes on exec: a message is a failure (or a terminal's master), end of file is success; a quiet
 * exec has a pipe for failures only, which is read when it has ended. It is an ordinary fork of a
 * very small process: sharing memory with the parent would save 200 us and cost the freedom to
 * fail. */
#include "pod.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

long sys_clone3(uint64_t flags, int *pidfd, int cgroup_fd)
{
    struct clone_args a = { .flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD };

    if (pidfd) {
        a.flags |= CLONE_PIDFD;
        a.pidfd = (uint64_t)(uintptr_t)pidfd;
    }
    if (cgroup_fd >= 0) {
        a.flags |= CLONE_INTO_CGROUP;
        a.cgroup = (uint64_t)cgroup_fd;
    }
    return syscall(SYS_clone3, &a, sizeof a);
}

void child_fail(const struct launch *l, int err, const char *fmt, ...)
{
    struct launch_msg m = { .code = err < 0 ? err : -err };
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(m.text, sizeof m.text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n > sizeof m.text - 64)
        n = sizeof m.text - 64;
    if (err > 0)
        snprintf(m.text + n, sizeof m.text - (size_t)n, ": %s", strerror(err));
    (void)!write(l->status_child, &m, sizeof m);
    _exit(127);
}

/* Through our own /proc, while it is there. */
static void set_attr(const struct launch *l, const char *what, const char *path, const char *prefix,
                     const char *value)
{
    char buf[512];

    if ((size_t)snprintf(buf, sizeof buf, "%s%s", prefix, value) >= sizeof buf)
        child_fail(l, ENAMETOOLONG, "%s '%s'", what, value);
    int r = file_write(AT_FDCWD, path, buf);
    if (r < 0)
        child_fail(l, -r, "%s '%s'", what, value);
}

void child_oom_adj(const struct launch *l)
{
    const struct wire_process *p = &l->plan->process;
    char num[16];
    int want = p->flags & WIRE_SET_OOM ? p->oom_score_adj : pod.old_oom_adj, r;

    snprintf(num, sizeof num, "%d", want);
    r = file_write(AT_FDCWD, "/proc/self/oom_score_adj", num);
    if ((r == -EACCES || r == -EPERM) && want < 0)       /* as near as we may */
        (void)file_write(AT_FDCWD, "/proc/self/oom_score_adj", "0");
    else if (r < 0 && r != -EACCES && r != -EPERM)
        child_fail(l, -r, "oom_score_adj %d", want);
}

static void set_labels(const struct launch *l)
{
    const struct wire_process *p = &l->plan->process;

    if (p->apparmor) {
        const char *path = "/proc/self/attr/apparmor/exec";
        if (access(path, F_OK) < 0)
            path = "/proc/self/attr/exec";
        set_attr(l, "AppArmor profile", path, "exec ", view_str(l->base, p->apparmor));
    }
    if (p->selinux)
        set_attr(l, "SELinux label", "/proc/self/attr/exec", "", view_str(l->base, p->selinux));
}

void child_plain_signals(void)
{
    sigset_t none;

    (void)signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void join(const struct launch *l, int fd, int type, const char *what)
{
    if (fd >= 0 && setns(fd, type) < 0)
        child_fail(l, errno, "join the sandbox's %s namespace", what);
}

/* The container's user has to be able to open its stdout again; from inside a user namespace nobody
 * could arrange that. Ours is what the daemon and we have made. */
void child_give_pipes(const struct launch *l)
{
    uid_t uid = l->userns ? host_uid(l->plan->process.uid) : l->plan->process.uid;

    if (uid == geteuid())
        return;
    for (int i = 0; i < 3; i++)
        if (l->stdio[i] >= 0 && fchown(l->stdio[i], uid, (gid_t)-1) < 0 && errno != EINVAL &&
            errno != EPERM && errno != EROFS)
            child_fail(l, errno, "owner of stdio %d", i);
}

void child_send_pid(const struct launch *l, pid_t pid)
{
    struct launch_msg m = { .pid = (int32_t)pid };

    if (send(l->status_child, &m, sizeof m, MSG_NOSIGNAL) < 0)
        _exit(127);
}

void child_again(struct launch *l)
{
    struct launch_msg m = { 0 };
    int told[2];
    char c;

    if (unshare(CLONE_NEWPID) < 0 || pipe2(told, O_CLOEXEC) < 0)
        child_fail(l, errno, "new PID namespace");
    long pid = sys_clone3(CLONE_PARENT, NULL, -1);
    if (pid < 0)
        child_fail(l, errno, "clone into the new PID namespace");
    if (pid > 0) {
        m.pid = (int32_t)pid;
        _exit(send(l->status_child, &m, sizeof m, MSG_NOSIGNAL) == sizeof m ? 0 : 127);
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || setsid() < 0)
        child_fail(l, errno, "first process of the new PID namespace");
    close(told[1]);
    (void)!read(told[0], &c, 1);     /* its end: the supervisor has our number, and may reap us */
    close(told[0]);
}

/* Behind setns: until then we are nobody there. Who has CAP_SYS_PTRACE in the pod may not look into
 * us and at what we hold of the host's before execve. */
void child_mapped_root(const struct launch *l)
{
    if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setgroups, 0, NULL) < 0 ||
        syscall(SYS_setresuid, 0, 0, 0) < 0)
        child_fail(l, errno, "become root in the user namespace");
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        child_fail(l, errno, "root in the user namespace");
}

/* While the root can be written. A directory that root may not enter is the user's to find. */
static void make_cwd(const struct launch *l, int root)
{
    const char *cwd = view_str(l->base, l->plan->process.cwd);
    int fd = cwd && *cwd ? root_make(root, cwd, true) : root;

    if (fd < 0 && errno != EACCES)
        child_fail(l, errno, "chdir '%s'", cwd);
    if (fd >= 0 && fd != root)
        close(fd);
}

static void new_container(struct launch *l)
{
    const struct wire_plan *p = l->plan;
    int root;

    if (!(p->flags & WIRE_HOST_NET))
        join(l, pod.net, CLONE_NEWNET, "network");
    if (!(p->flags & WIRE_HOST_IPC))
        join(l, pod.ipc, CLONE_NEWIPC, "IPC");
    if (!(p->flags & WIRE_HOST_UTS))
        join(l, pod.uts, CLONE_NEWUTS, "UTS");
    if ((p->flags & WIRE_OWN_CGROUPNS) && !l->userns && unshare(CLONE_NEWCGROUP) < 0)
        child_fail(l, errno, "new cgroup namespace");
    root = child_root(l);
    make_cwd(l, root);
    if (p->process.flags & WIRE_TTY)
        child_pty(l, root);
    if (l->hooks) {
        if (l->rootfs >= 0)
            child_leave_build(l, root);
        hooks_before_pivot(l);
        if (l->rootfs >= 0)
            set_labels(l);           /* for the next execve, which would have been the hook's */
    }
    if ((p->flags & WIRE_ROOT_RDONLY) &&
        sys_setattr(root, 0, 1 /* MOUNT_ATTR_RDONLY */, 0, 0, -1) < 0)
        child_fail(l, errno, "read-only root");
    if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
        child_fail(l, errno, "pivot_root");
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        child_fail(l, errno, "leave the old root");
    if (p->root_propagation == WIRE_SHARED && mount(NULL, "/", NULL, MS_SHARED, NULL) < 0)
        child_fail(l, errno, "shared propagation of the root");
}

static void into_container(struct launch *l)
{
    int ns = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP |
             (l->userns ? CLONE_NEWUSER : 0);

    if (setns(l->target, ns) < 0)
        child_fail(l, errno, "join the container's namespaces");
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)   /* kept by execve, see exec_kill() */
        child_fail(l, errno, "child subreaper");
    if (l->userns)
        child_mapped_root(l);
    if (l->plan->process.flags & WIRE_TTY) {
        int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
            child_fail(l, errno, "open '/'");
        child_pty(l, root);
    }
}

static void child(struct launch *l) __attribute__((noreturn));
static void child(struct launch *l)
{
    struct pollfd gone = { l->status_child, 0, 0 };

    close(l->status);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        child_fail(l, errno, "parent death signal");
    if (poll(&gone, 1, 0) > 0 && (gone.revents & (POLLHUP | POLLERR)))
        _exit(127);                  /* the supervisor went before the line above */
    if (l->oci)
        oci_child(l);
    if (l->driven && !l->restore)
        hooks_child(l);
    for (size_t i = 0; !l->cgroup2 && i < l->n_cgroups; i++)
        if (write(l->cgroups[i], "0", 1) != 1)
            child_fail(l, errno, "join cgroup %zu of %zu", i + 1, l->n_cgroups);
    if (l->restore)
        restore_child(l);
    if (l->exec)
        rdt_join(l);
    child_oom_adj(l);
    if (!hooks_want_host(l))
        set_labels(l);
    if (setsid() < 0)
        child_fail(l, errno, "new session");
    child_give_pipes(l);
    if (l->exec)
        into_container(l);
    else
        new_container(l);
    child_become(l);
}

void launch_init(struct launch *l)
{
    memset(l, 0, sizeof *l);
    l->target = l->status = l->status_child = l->pidfd = l->rootfs = -1;
    for (int i = 0; i < 3; i++)
        l->stdio[i] = -1;
}

static int bad_plan(int r, const char *bad, char *why, size_t n)
{
    snprintf(why, n, "launch plan: %s: %s", bad, strerror(-r));
    return r;
}

static void look(struct launch *l, enum wire_kind kind)
{
    bool netdevs;

    l->plan = l->base;
    l->oci = l->plan->file.need >= WIRE_NEED_OCI && l->plan->oci_path;
    if (kind == WIRE_PLAN_CTR && l->plan->file.need >= WIRE_NEED_HOOKS) {
        l->hooks = l->plan->hooks.count > 0 && !l->oci;
        netdevs = l->plan->netdevs.count > 0;
    } else {
        l->hooks = netdevs = false;
    }
    l->restore = kind == WIRE_PLAN_CTR && l->plan->file.need >= WIRE_NEED_RESTORE &&
                 l->plan->restore;
    l->driven = l->oci || l->hooks || netdevs || l->restore;
    l->rdt = kind == WIRE_PLAN_CTR && l->plan->file.need >= WIRE_NEED_RDT && l->plan->rdt_flags;
}

int launch_plan(struct launch *l, int plan_fd, enum wire_kind kind, char *why, size_t n)
{
    const char *bad = "";
    int r = view_map(plan_fd, kind, &l->base, &l->len, &bad);

    if (r < 0)
        return bad_plan(r, bad, why, n);
    look(l, kind);
    return 0;
}

int launch_lend(struct launch *l, void *plan, size_t len, enum wire_kind kind, char *why, size_t n)
{
    const char *bad = view_check(plan, len, kind);

    if (bad)
        return bad_plan(-EINVAL, bad, why, n);
    l->base = plan;
    l->len = len;
    l->base_lent = true;
    look(l, kind);
    return 0;
}

/* The process itself, where the plan wants it. Its number or -errno; in it this does not return. */
long launch_process(struct launch *l, uint64_t flags, int *pidfd, char *why, size_t n)
{
    bool joins = !l->driven || l->restore;
    int pidns = -1, cgroup = l->cgroup2 && l->n_cgroups && joins ? l->cgroups[0] : -1;

    if (l->driven)
        ;                            /* the process that is driven joins it, or has its own */
    else if (l->exec || l->plan->pidns == WIRE_PID_TARGET)
        pidns = l->target;
    else if (l->plan->pidns == WIRE_PID_POD)
        pidns = pod.pidns;
    else if (l->plan->pidns == WIRE_PID_OWN && !l->userns)
        flags |= CLONE_NEWPID; /* else child_again(): it has to belong to the user namespace */
    if (pidns < 0 && !l->driven &&
        (l->exec || l->plan->pidns == WIRE_PID_TARGET || l->plan->pidns == WIRE_PID_POD)) {
        snprintf(why, n, "the PID namespace to join does not exist");
        return -ESRCH;
    }
    if (pidns >= 0 && setns(pidns, CLONE_NEWPID) < 0) {
        int e = errno;
        snprintf(why, n, "join a PID namespace: %s", strerror(e));
        return -e;
    }
    long pid = sys_clone3(flags, pidfd, cgroup);
    if (pid == 0)
        child(l);
    int e = errno;
    if (pidns >= 0)
        (void)setns(pod.own_pid, CLONE_NEWPID);
    if (pid < 0) {
        snprintf(why, n, "clone: %s", strerror(e));
        return -e;
    }
    return pid;
}

int launch_clone(struct launch *l, char *why, size_t n)
{
    int pair[2];

    if ((l->quiet ? pipe2(pair, O_CLOEXEC | O_NONBLOCK)
                  : socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) < 0) {
        snprintf(why, n, "%s: %s", l->quiet ? "pipe" : "socketpair", strerror(errno));
        return -errno;
    }
    l->status = pair[0];
    l->status_child = pair[1];
    if (!l->quiet)
        (void)fcntl(l->status, F_SETFL, O_NONBLOCK);
    long pid = launch_process(l, 0, l->exec ? NULL : &l->pidfd, why, n);
    close(l->status_child);
    l->status_child = -1;
    if (l->base_lent)
        l->base = l->plan = NULL;
    if (pid < 0)
        return (int)pid;
    l->pid = (pid_t)pid;
    return 0;
}

static int shut(int fd)
{
    if (fd >= 0)
        close(fd);
    return -1;
}

void launch_deinit(struct launch *l)
{
    if (l->base && !l->base_lent)
        munmap(l->base, l->len);
    l->base = NULL;
    l->plan = NULL;
    for (size_t i = 0; i < l->n_cgroups && !l->lent; i++)
        (void)shut(l->cgroups[i]);
    l->n_cgroups = 0;
    l->target = l->lent ? -1 : shut(l->target);
    l->status_child = shut(l->status_child);
    for (int i = 0; i < 3; i++)
        l->stdio[i] = shut(l->stdio[i]);
}

int launch_read(int status, struct launch_msg *m, int *ret_fd)
{
    struct iovec iov = { m, sizeof *m };
    union {
        struct cmsghdr h;
        char b[CMSG_SPACE(sizeof(int))];
    } u = { 0 };
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof u.b
    };
    ssize_t n = recvmsg(status, &h, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

    *ret_fd = -1;
    if (n < 0)
        return errno == EAGAIN ? -EAGAIN : -errno;
    if (n == 0)
        return 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(sizeof(int)))
        memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
    m->text[sizeof m->text - 1] = '\0';
    return 1;
}
