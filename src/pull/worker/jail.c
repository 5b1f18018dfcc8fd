/* SPDX-License-Identifier: Apache-2.0 */
/* What parses a stranger's bytes sees one directory and nothing else: a detached copy of it becomes
 * the root of a mount namespace of its own (chroot alone can be left by who holds CAP_SYS_CHROOT
 * and a descriptor), the network namespace is empty, and what remains are the rights and system
 * calls that writing files of any owner takes. Capabilities that stay: ownership and modes (CHOWN,
 * DAC_OVERRIDE, FOWNER, FSETID), device nodes (MKNOD), security.capability (SETFCAP),
 * trusted.overlay.opaque (SYS_ADMIN). */
#include "config.h"
#include "pull/worker/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { JAIL_FILES = 2560, JAIL_DATA_MAX = 512 * 1024 * 1024 };

static int own_root(int dirfd, struct err *err)
{
    /* private: the copy of a shared mount is shared, and pivot_root(2) takes no such put_old */
    struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV,
                               .propagation = MS_PRIVATE };
    int tree;

    /* while it is our namespace's */
    tree = open_tree(dirfd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (tree < 0)
        return err_sys(err, "open_tree");
    if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0)
        return err_sys(err, "unshare");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return err_sys(err, "mount / private");
    if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0)
        return err_sys(err, "mount_setattr");
    if (move_mount(tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return err_sys(err, "move_mount");
    if (fchdir(tree) < 0)
        return err_sys(err, "fchdir");
    if (syscall(SYS_pivot_root, ".", ".") < 0)
        return err_sys(err, "pivot_root");
    if (umount2(".", MNT_DETACH) < 0)
        return err_sys(err, "umount");
    if (chdir("/") < 0)
        return err_sys(err, "chdir");
    (void)close(tree);
    (void)close(dirfd);
    return 0;
}

static int few_rights(struct err *err)
{
    static const int keep[] = { CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER,   CAP_FSETID,
                                CAP_MKNOD, CAP_SETFCAP,      CAP_SYS_ADMIN };
    struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct d[2];

    memset(d, 0, sizeof d);
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++)
        d[keep[i] / 32].permitted |= 1u << (keep[i] % 32);
    d[0].effective = d[0].permitted;
    d[1].effective = d[1].permitted;
    if (syscall(SYS_capset, &h, d) < 0)
        return err_sys(err, "capset");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_sys(err, "no_new_privs");
    return 0;
}

static int few_calls(struct err *err)
{
    static const int calls[] = {
        SCMP_SYS(read),
        SCMP_SYS(readv),
        SCMP_SYS(write),
        SCMP_SYS(writev),
        SCMP_SYS(pwrite64),
        SCMP_SYS(lseek),
        SCMP_SYS(_llseek),
        SCMP_SYS(close),
        SCMP_SYS(dup),
        SCMP_SYS(fcntl),
        SCMP_SYS(fcntl64),
        SCMP_SYS(openat),
        SCMP_SYS(openat2),
        SCMP_SYS(fstat),
        SCMP_SYS(fstat64),
        SCMP_SYS(newfstatat),
        SCMP_SYS(fstatat64),
        SCMP_SYS(statx),
        SCMP_SYS(fstatfs),
        SCMP_SYS(fstatfs64),
        SCMP_SYS(readlinkat),
        SCMP_SYS(getdents64),
        SCMP_SYS(mkdirat),
        SCMP_SYS(mknodat),
        SCMP_SYS(symlinkat),
        SCMP_SYS(linkat),
        SCMP_SYS(unlinkat),
        SCMP_SYS(fchown),
        SCMP_SYS(fchown32),
        SCMP_SYS(fchownat),
        SCMP_SYS(fchmod),
        SCMP_SYS(fchmodat),
        SCMP_SYS(utimensat),
        SCMP_SYS(utimensat_time64),
        SCMP_SYS(ftruncate),
        SCMP_SYS(ftruncate64),
        SCMP_SYS(fallocate),
        SCMP_SYS(fsetxattr),
        SCMP_SYS(lsetxattr),
        SCMP_SYS(fchdir),
        SCMP_SYS(sendto),
        SCMP_SYS(send),
        SCMP_SYS(sendmsg),
        SCMP_SYS(brk),
        SCMP_SYS(mmap),
        SCMP_SYS(mmap2),
        SCMP_SYS(munmap),
        SCMP_SYS(mremap),
        SCMP_SYS(madvise),
        SCMP_SYS(mprotect),
        SCMP_SYS(futex),
        SCMP_SYS(futex_time64),
        SCMP_SYS(getrandom),
        SCMP_SYS(getpid),
        SCMP_SYS(gettid),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(clock_gettime64),
        SCMP_SYS(gettimeofday),
        SCMP_SYS(time),
        SCMP_SYS(sched_yield),
        SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(rt_sigaction),
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(sigreturn),
        SCMP_SYS(tgkill),
        SCMP_SYS(restart_syscall),
        SCMP_SYS(exit),
        SCMP_SYS(exit_group),
        SCMP_SYS(sigaltstack),
    };
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r = f ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < sizeof calls / sizeof *calls; i++)
        if (calls[i] >= 0)           /* negative: this architecture has no such call */
            r = seccomp_rule_add(f, SCMP_ACT_ALLOW, calls[i], 0);
    if (r == 0)
        r = seccomp_load(f);
    seccomp_release(f);
    return r < 0 ? err_code(err, r, "seccomp") : 0;
}

/* At most so much; what is lower already stays, as raising it is a right that we may not have. */
static int limit(int resource, rlim_t most, struct err *err)
{
    struct rlimit l;

    if (getrlimit(resource, &l) < 0)
        return err_sys(err, "getrlimit");
    if (l.rlim_max > most)
        l.rlim_max = most;
    l.rlim_cur = l.rlim_max;
    return setrlimit(resource, &l) < 0 ? err_sys(err, "setrlimit") : 0;
}

int jail_enter(int dirfd, struct err *err)
{
    int r = own_root(dirfd, err);

    if (r == 0)
        r = limit(RLIMIT_CORE, 0, err);
    if (r == 0)
        r = limit(RLIMIT_NOFILE, JAIL_FILES, err);
#ifndef SANITIZE                     /* its shadow memory counts */
    if (r == 0)
        r = limit(RLIMIT_DATA, JAIL_DATA_MAX, err);
#endif
    if (r == 0)
        r = few_rights(err);
    return r < 0 ? r : few_calls(err);
}
