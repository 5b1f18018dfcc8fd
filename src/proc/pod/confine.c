/* SPDX-License-Identifier: Apache-2.0 */
/* The last steps of a child, inside its namespaces: descriptors, limits, user, capabilities,
 * seccomp, execve.
 *
 * Order (runc's, and it matters): descriptors are closed before the working directory is looked up,
 * so that no path leads to something of the host's; without no_new_privs a filter needs
 * CAP_SYS_ADMIN and is loaded before capabilities go, with it the filter comes last and need not
 * allow what we still do. */
#include "pod.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif
#define DEVPTS_MAGIC 0x1cd1

struct sock_prog {                   /* struct sock_fprog */
    unsigned short len;
    void *filter;
};

void child_send_master(const struct launch *l, int fd)
{
    struct launch_msg m = { 0 };
    struct iovec iov = { &m, sizeof m };
    union {
        struct cmsghdr h;
        char b[CMSG_SPACE(sizeof fd)];
    } u = { 0 };
    struct msghdr h = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.b, .msg_controllen = sizeof u.b
    };

    u.h.cmsg_level = SOL_SOCKET;
    u.h.cmsg_type = SCM_RIGHTS;
    u.h.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&u.h), &fd, sizeof fd);
    if (sendmsg(l->status_child, &h, MSG_NOSIGNAL) < 0)
        child_fail(l, errno, "hand over the terminal");
}

/* The container chose what its /dev is: only a real devpts will do, and the slave is had from the
 * master, not by path. */
void child_pty(struct launch *l, int root)
{
    struct stat st;
    struct statfs fs;
    int unlock = 0, master, slave, at;

    master = root_open(root, "dev/pts/ptmx", O_RDWR | O_NOCTTY);
    if (master < 0)
        child_fail(l, errno, "open '/dev/pts/ptmx'");
    if (fstat(master, &st) < 0 || fstatfs(master, &fs) < 0 || st.st_rdev != makedev(5, 2) ||
        fs.f_type != DEVPTS_MAGIC)
        child_fail(l, ENOTTY, "'/dev/pts/ptmx' is no terminal multiplexer");
    if (ioctl(master, TIOCSPTLCK, &unlock) < 0)
        child_fail(l, errno, "unlock the terminal");
    slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        child_fail(l, errno, "open the terminal");
    if (!l->exec) {
        int console = root_make(root, "/dev/console", false);
        at = sys_open_tree(slave, "", AT_EMPTY_PATH);
        if (console < 0 || at < 0 || sys_move_mount(at, console) < 0)
            child_fail(l, errno, "mount '/dev/console'");
        close(console);
        close(at);
    }
    child_send_master(l, master);
    close(master);
    l->stdio[0] = l->stdio[1] = l->stdio[2] = slave;
}

/* The program may open /dev/tty or /dev/stdout again, which checks the owner of what is behind it. */
static void give_terminal(const struct launch *l, const struct wire_process *p)
{
    struct stat st;

    if (ioctl(0, TIOCSCTTY, 0) < 0)
        child_fail(l, errno, "controlling terminal");
    if (fstat(0, &st) < 0)
        child_fail(l, errno, "the terminal");
    if (st.st_uid != p->uid && fchown(0, p->uid, (gid_t)-1) < 0 && errno != EINVAL &&
        errno != EPERM && errno != EROFS)
        child_fail(l, errno, "owner of the terminal");
}

static void set_stdio(struct launch *l)
{
    struct stat st;
    int null = open("/dev/null", O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);

    /* the container's own, if it is one: ours is on a mount that is not its business */
    if (null >= 0 &&
        (fstat(null, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))) {
        close(null);
        null = -1;
    }
    if (null >= 0)
        (void)fcntl(null, F_SETFL, O_RDWR);
    for (int i = 0; i < 3; i++) {
        int from = l->stdio[i] >= 0 ? l->stdio[i] : null;
        if (from >= 0 && dup2(from, i) < 0)
            child_fail(l, errno, "stdio %d", i);
    }
    if (dup3(l->status_child, 3, O_CLOEXEC) < 0)
        child_fail(l, errno, "close descriptors");
    l->status_child = 3;
    if (syscall(SYS_close_range, 4, ~0U, 0) < 0)
        child_fail(l, errno, "close descriptors");
}

static void set_limits(const struct launch *l, struct wire_process *p)
{
    for (uint32_t i = 0; i < p->rlimits.count; i++) {
        const struct wire_rlimit *r = view_at(l->base, &p->rlimits, i);
        uint64_t lim[2] = { r->soft, r->hard };
        if (syscall(SYS_prlimit64, 0, r->resource, lim, NULL) < 0)
            child_fail(l, errno, "rlimit %u (%llu, %llu)", r->resource, (unsigned long long)r->soft,
                       (unsigned long long)r->hard);
    }
}

/* "" or NULL: "/". True when it has to be tried again as the user (a directory that root may not
 * enter: NFS). */
static bool set_cwd(const struct launch *l, const struct wire_process *p, bool again)
{
    const char *cwd = view_str(l->base, p->cwd);
    int root, fd;

    if (!cwd || !*cwd || strcmp(cwd, "/") == 0) {
        if (chdir("/") < 0)
            child_fail(l, errno, "chdir '/'");
        return false;
    }
    root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        child_fail(l, errno, "open '/'");
    fd = root_open(root, cwd, O_PATH | O_DIRECTORY);
    if (fd < 0 || fchdir(fd) < 0) {
        if (errno == EACCES && !again) {
            close(fd);
            close(root);
            return true;
        }
        child_fail(l, errno, "chdir '%s'", cwd);
    }
    close(fd);
    close(root);
    return false;
}

static void load_seccomp(const struct launch *l, struct wire_process *p)
{
    struct sock_prog f = { (unsigned short)p->seccomp.count, view_at(l->base, &p->seccomp, 0) };

    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, p->seccomp_flags, &f) < 0)
        child_fail(l, errno, "load the seccomp filter");
}

/* Without a session keyring of its own, a container shares keys with the host's root and all
 * others. An exec finds its container's by name, for which the owner must be allowed to search it.
 */
static void set_keyring(const struct launch *l)
{
    const unsigned long perm = 0x3f1b0000; /* possessor all; owner view, read, search, link */
    char name[WIRE_ID + 8];

    snprintf(name, sizeof name, "_ses.%s", view_str(l->base, l->plan->id));
    long key = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name);
    if (key < 0 && (errno == ENOSYS || errno == EPERM))
        return;                      /* no keys in this kernel; or a filter, which holds for all */
    if (key < 0 || (!l->exec && syscall(SYS_keyctl, KEYCTL_SETPERM, key, perm) < 0))
        child_fail(l, errno, "session keyring '%s'", name);
}

static void set_user(const struct launch *l, struct wire_process *p)
{
    for (unsigned long c = 0; c < 64; c++)
        if (!(p->cap_bounding >> c & 1) && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0) {
            if (errno == EINVAL)
                break;                /* the kernel's last one was before */
            child_fail(l, errno, "drop capability %lu", c);
        }
    if (syscall(SYS_setgroups, (size_t)p->groups.count,
                p->groups.count ? view_at(l->base, &p->groups, 0) : NULL) < 0)
        child_fail(l, errno, "set %u groups", p->groups.count);
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        child_fail(l, errno, "keep capabilities");
    if (syscall(SYS_setresgid, p->gid, p->gid, p->gid) < 0)
        child_fail(l, errno, "become group %u", p->gid);
    if (syscall(SYS_setresuid, p->uid, p->uid, p->uid) < 0)
        child_fail(l, errno, "become user %u", p->uid);
}

static void set_caps(const struct launch *l, const struct wire_process *p)
{
    struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct d[2];

    for (int i = 0; i < 2; i++) {
        d[i].effective = (uint32_t)(p->cap_effective >> 32 * i);
        d[i].permitted = (uint32_t)(p->cap_permitted >> 32 * i);
        d[i].inheritable = (uint32_t)(p->cap_inheritable >> 32 * i);
    }
    if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0 || syscall(SYS_capset, &h, d) < 0)
        child_fail(l, errno, "set capabilities");
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
        child_fail(l, errno, "clear ambient capabilities");
    for (unsigned long c = 0; c < 64; c++)
        if ((p->cap_ambient >> c & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0) < 0)
            child_fail(l, errno, "ambient capability %lu", c);
}

/* In place: argv and envp were offsets, and become what execve wants. */
char **child_pointers(const struct launch *l, const struct wire_arr *a)
{
    uint64_t *v = (uint64_t *)(void *)((char *)l->base + a->off);

    _Static_assert(sizeof(char *) <= sizeof(uint64_t), "offsets turn into pointers in place");
    char **out = (char **)(void *)v;
    for (uint32_t i = 0; i < a->count; i++) {
        uint64_t off = v[i];
        out[i] = (char *)l->base + off;
    }
    out[a->count] = NULL;
    return out;
}

/* execvp(3) with the PATH of the environment that the program gets: "" is the current directory;
 * what is found but may not be run (EACCES) is remembered, and told only if nothing better comes.
 */
static void run(const struct launch *l, char **argv, char **envp) __attribute__((noreturn));
static void run(const struct launch *l, char **argv, char **envp)
{
    char p[PATH_MAX];
    const char *name = argv[0], *path = NULL;
    bool denied = false;

    if (strchr(name, '/')) {
        execve(name, argv, envp);
        child_fail(l, errno, "exec '%s'", name);
    }
    for (char **e = envp; *e; e++)
        if (strncmp(*e, "PATH=", 5) == 0)
            path = *e + 5;
    if (!path)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for (const char *d = path; *name;) {
        size_t n = strcspn(d, ":");
        struct stat st;
        if ((size_t)snprintf(p, sizeof p, "%.*s%s%s", (int)n, d, n ? "/" : "./", name) < sizeof p &&
            stat(p, &st) == 0 && !S_ISDIR(st.st_mode)) {
            execve(p, argv, envp);
            if (errno == EACCES)
                denied = true;
            else if (errno != ENOENT && errno != ENOTDIR)
                child_fail(l, errno, "exec '%s'", p);
            else if (errno == ENOENT)
                child_fail(l, errno, "exec '%s': its interpreter", p);
        }
        if (!d[n])
            break;
        d += n + 1;
    }
    if (denied)
        child_fail(l, EACCES, "exec '%s'", name);
    child_fail(l, ENOENT, "exec '%s': executable file not found in $PATH", name);
}

void child_become(struct launch *l)
{
    struct wire_process *p = &l->plan->process;
    bool filter = p->seccomp.count > 0, nnp = p->flags & WIRE_NO_NEW_PRIVS, again;

    set_stdio(l);
    if (p->flags & WIRE_TTY)
        give_terminal(l, p);
    set_limits(l, p);
    set_keyring(l);
    again = set_cwd(l, p, false);
    (void)umask(022);
    child_plain_signals();
    char **argv = child_pointers(l, &p->argv), **envp = child_pointers(l, &p->envp);

    if (nnp && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        child_fail(l, errno, "no_new_privs");
    if (filter && !nnp)
        load_seccomp(l, p);
    set_user(l, p);
    if (again)
        (void)set_cwd(l, p, true);
    set_caps(l, p);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)   /* a change of user clears it */
        child_fail(l, errno, "parent death signal");
    if (l->hooks)
        hooks_before_exec(l);
    if (filter && nnp)
        load_seccomp(l, p);
    run(l, argv, envp);
}
