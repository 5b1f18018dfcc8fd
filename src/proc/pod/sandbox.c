/* SPDX-License-Identifier: Apache-2.0 */
/* The namespaces of a pod. A clone3 child is born into the new ones and sets them up (lo, host
 * name, sysctls); the supervisor takes descriptors of them from /proc and binds the network
 * namespace to <state_dir>/netns in the host's mount namespace, where CNI plugins find it. Then the
 * child exits, or, in a pod that shares its PID namespace, stays as PID 1: reaping, in an empty
 * read-only root, without a capability or a descriptor, not dumpable. Last the supervisor leaves
 * the host's mount namespace for one of its own with only what containers will need:
 *
 *   /proc   for the launcher's /proc/self/...      /shm     the pod's /dev/shm
 *   /null   what covers a masked file              /empty   what covers a masked directory
 *   /r /l /u /i /n    where the launcher mounts, in copies of this namespace */
#include "pod.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

int file_write(int dirfd, const char *path, const char *text)
{
    size_t n = strlen(text);
    int fd = openat(dirfd, path, O_WRONLY | O_CLOEXEC), r = 0;

    if (fd < 0)
        return -errno;
    ssize_t w = write(fd, text, n);
    if (w < 0)
        r = -errno;
    else if ((size_t)w != n)
        r = -EIO;
    close(fd);
    return r;
}

int host_open(const char *path, int flags, mode_t mode)
{
    struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC),
                            .mode = mode,
                            .resolve = RESOLVE_IN_ROOT };

    return (int)syscall(SYS_openat2, pod.host_root, path, &how, sizeof how);
}

int host_mkdir_p(const char *path, size_t len, mode_t mode)
{
    char p[4096];

    if (len >= sizeof p)
        return -ENAMETOOLONG;
    memcpy(p, path, len);
    p[len] = '\0';
    for (size_t i = 1; i <= len; i++) {
        if (p[i] != '/' && p[i] != '\0')
            continue;
        p[i] = '\0';
        int fd = host_open(p, O_PATH | O_DIRECTORY, 0);
        if (fd < 0 && errno == ENOENT) {
            char *slash = strrchr(p, '/');
            *slash = '\0';
            int dir = slash == p ? fcntl(pod.host_root, F_DUPFD_CLOEXEC, 3)
                                 : host_open(p, O_PATH | O_DIRECTORY, 0);
            *slash = '/';
            if (dir < 0)
                return -errno;
            int r = mkdirat(dir, slash + 1, mode) < 0 && errno != EEXIST ? -errno : 0;
            close(dir);
            if (r < 0)
                return r;
        } else if (fd < 0)
            return -errno;
        else
            close(fd);
        if (i < len)
            p[i] = '/';
    }
    return 0;
}

uid_t host_uid(uint32_t id)
{
    return id - pod.uid_map.container_id + pod.uid_map.host_id;
}

gid_t host_gid(uint32_t id)
{
    return id - pod.gid_map.container_id + pod.gid_map.host_id;
}

/* ---- in the child */

struct maker {
    const struct wire_sandbox *s;
    void *base;                      /* where its strings are */
    int say, hear;                   /* pipe to the supervisor, pipe from it */
};

static void maker_fail(const struct maker *m, int err, const char *what, const char *arg)
    __attribute__((noreturn));
static void maker_fail(const struct maker *m, int err, const char *what, const char *arg)
{
    char buf[512];
    int n = snprintf(buf, sizeof buf, "!%s '%s': %s", what, arg, strerror(err));

    (void)!write(m->say, buf, (size_t)n < sizeof buf ? (size_t)n : sizeof buf - 1);
    _exit(1);
}

static void wait_word(const struct maker *m)
{
    char c;

    if (read(m->hear, &c, 1) != 1)
        _exit(1);
}

static void lo_up(const struct maker *m)
{
    struct ifreq r = { .ifr_flags = IFF_UP | IFF_RUNNING };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    strcpy(r.ifr_name, "lo");
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) < 0)
        maker_fail(m, errno, "set up", "lo");
    close(fd);
}

/* "net.ipv4.ip_forward" or "net/ipv4/ip_forward"; with dots, a '/' stands for a dot inside a name
 * (sysctl(8)). */
static void sysctl_set(const struct maker *m, const char *key, const char *value)
{
    struct open_how how = { .flags = O_WRONLY | O_CLOEXEC,
                            .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS };
    char p[256];
    size_t n = strlen(key), first = strcspn(key, "./");
    int dir = open("/proc/sys", O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (n >= sizeof p)
        maker_fail(m, ENAMETOOLONG, "sysctl", key);
    memcpy(p, key, n + 1);
    if (key[first] == '.')
        for (size_t i = 0; i < n; i++)
            p[i] = p[i] == '.' ? '/' : p[i] == '/' ? '.' : p[i];
    if (strstr(p, ".."))
        maker_fail(m, EINVAL, "sysctl", key);
    int fd = dir < 0 ? -1 : (int)syscall(SYS_openat2, dir, p, &how, sizeof how);
    if (fd < 0 || write(fd, value, strlen(value)) < 0)
        maker_fail(m, errno, "sysctl", key);
    close(fd);
    close(dir);
}

/* Leaves the host's file systems for an empty one. Current directory: anything. */
static int empty_root(const char *size, unsigned long flags, const char *label)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0)
        return -errno;
    int fs = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    if (fs < 0)
        return -errno;
    if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "mode", "0755", 0) < 0 ||
        syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", size, 0) < 0 ||
        (label && syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "context", label, 0) < 0) ||
        syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -errno;
    int m = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, flags);
    if (m < 0)
        return -errno;
    close(fs);
    if (sys_move_mount(m, AT_FDCWD) < 0 || fchdir(m) < 0 ||
        syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return -errno;
    close(m);
    return 0;
}

/* PID 1 of a pod: orphans come here. Everything that could be taken from it is taken away first. */
static void become_init(const struct maker *m) __attribute__((noreturn));
static void become_init(const struct maker *m)
{
    struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct d[2];
    sigset_t chld;
    const char *label = view_str(m->base, m->s->init_label);
    int attr = label ? open("/proc/self/attr/current", O_WRONLY | O_CLOEXEC) : -1;
    /* root of a user namespace may not look into the pod's directory, where the supervisor stands
     */
    int r = chdir("/") < 0 ? -errno
                           : empty_root("4k", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
                                                  MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                                         view_str(m->base, m->s->mount_label));

    if (r < 0)
        maker_fail(m, -r, "root of", "init");
    (void)prctl(PR_SET_NAME, "cricket-init", 0, 0, 0);
    for (unsigned long c = 0; c < 64 && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) == 0; c++)
        ;
    memset(d, 0, sizeof d);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capset, &h, d) < 0)
        maker_fail(m, errno, "capabilities of", "init");
    if (attr >= 0)                   /* not every policy lets a process change like that */
        (void)!write(attr, label, strlen(label));
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    (void)sigprocmask(SIG_SETMASK, &chld, NULL);
    if (write(m->say, "i", 1) != 1)
        _exit(1);
    wait_word(m);                    /* still there? then until the supervisor is not */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)syscall(SYS_close_range, 0, ~0U, 0);
    for (;;) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        (void)sigwaitinfo(&chld, NULL);
    }
}

static uint64_t other_namespaces(const struct wire_sandbox *s)
{
    return (s->flags & WIRE_HOST_NET ? 0 : CLONE_NEWNET | CLONE_NEWUTS) |
           (s->flags & WIRE_HOST_IPC ? 0 : CLONE_NEWIPC);
}

static void maker(const struct maker *m) __attribute__((noreturn));
static void maker(const struct maker *m)
{
    const struct wire_sandbox *s = m->s;
    const char *host = view_str(m->base, s->hostname);

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    wait_word(m);                    /* the id maps are written */
    if (s->flags & WIRE_SB_USERNS) {
        if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setgroups, 0, NULL) < 0 ||
            syscall(SYS_setresuid, 0, 0, 0) < 0)
            maker_fail(m, errno, "become", "root of the user namespace");
        /* only now: /dev/mqueue belongs to whoever makes the namespace */
        if (unshare((int)other_namespaces(s)) < 0)
            maker_fail(m, errno, "make", "namespaces in the user namespace");
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    }
    if (!(s->flags & WIRE_HOST_NET)) {
        lo_up(m);
        if (host && *host && sethostname(host, strlen(host)) < 0)
            maker_fail(m, errno, "set host name", host);
    }
    for (uint32_t i = 0; i < s->sysctls.count; i++) {
        const struct wire_pair *p = view_at(m->base, &s->sysctls, i);
        sysctl_set(m, view_str(m->base, p->key), view_str(m->base, p->value));
    }
    if (write(m->say, "n", 1) != 1)
        _exit(1);
    wait_word(m);                    /* the descriptors are taken */
    if (s->flags & WIRE_SB_SHARED_PID)
        become_init(m);
    _exit(0);
}

/* ---- in the supervisor */

static int open_ns(pid_t pid, const char *name, int *ret)
{
    char p[64];

    snprintf(p, sizeof p, "/proc/%d/ns/%s", (int)pid, name);
    *ret = open(p, O_RDONLY | O_CLOEXEC);
    return *ret < 0 ? -errno : 0;
}

static int write_map(pid_t pid, const char *name, void *base, const struct wire_arr *a)
{
    char p[64], text[4096];
    size_t n = 0;

    snprintf(p, sizeof p, "/proc/%d/%s", (int)pid, name);
    text[0] = '\0';
    for (uint32_t i = 0; i < a->count; i++) {
        const struct wire_idmap *m = view_at(base, a, i);
        if (n + 40 > sizeof text)
            return -E2BIG;
        n += (size_t)snprintf(text + n, sizeof text - n, "%u %u %u\n", m->container_id, m->host_id,
                              m->length);
    }
    return file_write(AT_FDCWD, p, text);
}

/* Hears the child: `want`, or its error. */
static int hear(int fd, char want, char *why, size_t n)
{
    char buf[512];
    ssize_t r = read(fd, buf, 1);

    if (r == 1 && buf[0] == want)
        return 0;
    if (r == 1 && buf[0] == '!' && (r = read(fd, buf, sizeof buf - 1)) > 0) {
        buf[r] = '\0';
        snprintf(why, n, "%s", buf);
        return -EINVAL;
    }
    snprintf(why, n, "the sandbox's first process died");
    return -ECHILD;
}

static int say(int fd)
{
    return write(fd, "g", 1) == 1 ? 0 : -EPIPE;
}

static int bind_netns(pid_t pid)
{
    char from[64];
    int fd = openat(pod.state_fd, "netns", O_RDONLY | O_CREAT | O_CLOEXEC, 0444);

    if (fd < 0)
        return -errno;
    close(fd);
    snprintf(from, sizeof from, "/proc/%d/ns/net", (int)pid);
    if (fchdir(pod.state_fd) < 0 || mount(from, "netns", NULL, MS_BIND, NULL) < 0) {
        int r = -errno;
        (void)unlinkat(pod.state_fd, "netns", 0);
        return r;
    }
    pod.made_netns = true;
    return 0;
}

/* tmpfs for the containers of this pod, under the name that mountinfo shows */
static int pod_tmpfs(const char *name, const char *path, unsigned long flags, const char *label,
                     const char *options)
{
    char o[512];
    int n = snprintf(o, sizeof o, "%s%s%s%s", options, label ? ",context=\"" : "",
                     label ? label : "", label ? "\"" : "");

    if ((size_t)n >= sizeof o)
        return -E2BIG;
    return mount(name, path, "tmpfs", flags | MS_NOSUID | MS_NODEV | MS_NOEXEC, o) < 0 ? -errno
                                                                                         : 0;
}

static int small_root(const struct wire_sandbox *s, const char *label)
{
    static const char *const dirs[] = { "/proc", "/shm", "/empty", "/r",  "/l",
                                        "/u",    "/i",   "/n",     "/sys" };
    char opt[96];
    int null, fd, r;

    if (fchdir(pod.state_fd) < 0)
        return -errno;
    null = sys_open_tree(AT_FDCWD, "/dev/null", 0);
    if (null < 0)
        return -errno;
    r = empty_root("64k", 0, NULL);
    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        if (mkdir(dirs[i], 0755) < 0)
            return -errno;
    pod.no_mknod = mknod("/probe", S_IFCHR | 0600, makedev(1, 3)) < 0;
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    if ((s->flags & WIRE_SB_USERNS) &&
        mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    fd = open("/null", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    /* the host's node: nobody may change its mode through a masked path */
    if (fd < 0 || sys_setattr(null, 0, MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, -1) < 0 ||
        sys_move_mount(null, fd) < 0)
        return -errno;
    close(fd);
    close(null);
    r = pod_tmpfs("tmpfs", "/empty", MS_RDONLY, label, "size=4k,mode=755");
    if (r == 0 && !(s->flags & WIRE_HOST_IPC)) {
        bool mapped = s->flags & WIRE_SB_USERNS;
        snprintf(opt, sizeof opt, "mode=1777,size=%llu,uid=%u,gid=%u",
                 (unsigned long long)(s->shm_size ? s->shm_size : 64 << 20),
                 mapped ? host_uid(0) : 0, mapped ? host_gid(0) : 0);
        r = pod_tmpfs("shm", "/shm", 0, label, opt);
    }
    if (r < 0)
        return r;
    pod.small_mnt = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    return pod.small_mnt < 0 ? -errno : 0;
}

/* Everything that needs the child, in order; why says what failed. */
static int with_child(const struct wire_sandbox *s, void *base, pid_t pid, int from, int to,
                      char *why, size_t n)
{
    int r;

#define STEP(what, call) \
    do { \
        if ((r = (call)) < 0) { \
            snprintf(why, n, "%s: %s", what, strerror(-r)); \
            return r; \
        } \
    } while (0)
    if (s->flags & WIRE_SB_USERNS) {
        STEP("uid_map", write_map(pid, "uid_map", base, &s->uid_map));
        STEP("gid_map", write_map(pid, "gid_map", base, &s->gid_map));
    }
    STEP("sandbox child", say(to));
    r = hear(from, 'n', why, n);
    if (r < 0)
        return r;
    STEP("ipc namespace", s->flags & WIRE_HOST_IPC ? 0 : open_ns(pid, "ipc", &pod.ipc));
    if (!(s->flags & WIRE_HOST_NET)) {
        STEP("network namespace", open_ns(pid, "net", &pod.net));
        STEP("uts namespace", open_ns(pid, "uts", &pod.uts));
        STEP("bind mount of the network namespace", bind_netns(pid));
    }
    if (s->flags & WIRE_SB_USERNS)
        STEP("user namespace", open_ns(pid, "user", &pod.user));
    if (s->flags & WIRE_SB_SHARED_PID) {
        STEP("pid namespace", open_ns(pid, "pid", &pod.pidns));
        STEP("sandbox child", say(to));
        r = hear(from, 'i', why, n);
        if (r < 0)
            return r;
        pod.init = pid;
    }
    STEP("sandbox child", say(to));
    STEP("mount namespace of the supervisor", small_root(s, view_str(base, s->mount_label)));
#undef STEP
    return 0;
}

int sandbox_make(int file_fd, const int *cgroups, size_t n_cgroups, char *why, size_t why_len)
{
    const char *bad = "";
    void *base;
    size_t len;
    int up[2], down[2], r = view_map(file_fd, WIRE_SANDBOX, &base, &len, &bad);

    if (r < 0) {
        snprintf(why, why_len, "sandbox description: %s: %s", bad, strerror(-r));
        return r;
    }
    const struct wire_sandbox *s = base;
    for (size_t i = 0; i < n_cgroups; i++)
        if (write(cgroups[i], "0", 1) != 1) {
            snprintf(why, why_len, "join cricket's cgroup: %s", strerror(errno));
            return -errno;
        }
    snprintf(pod.id, sizeof pod.id, "%s", view_str(base, s->id));
    pod.flags = s->flags;
    if (s->flags & WIRE_SB_USERNS) {
        if (s->uid_map.count != 1 || s->gid_map.count != 1) {
            snprintf(why, why_len,
                     "user namespace: one range of users and one of groups is wanted");
            return -EINVAL;
        }
        memcpy(&pod.uid_map, view_at(base, &s->uid_map, 0), sizeof pod.uid_map);
        memcpy(&pod.gid_map, view_at(base, &s->gid_map, 0), sizeof pod.gid_map);
    }
    pod.state_dir = strdup(view_str(base, s->state_dir));
    pod.host_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    pod.host_mnt = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    pod.own_pid = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    pod.state_fd = open(pod.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!pod.state_dir || pod.host_root < 0 || pod.host_mnt < 0 || pod.own_pid < 0 ||
        pod.state_fd < 0) {
        snprintf(why, why_len, "open '%s': %s", view_str(base, s->state_dir), strerror(errno));
        return -errno;
    }
    if (mkdirat(pod.state_fd, "exits", 0700) < 0 && errno != EEXIST) {
        snprintf(why, why_len, "mkdir '%s/exits': %s", pod.state_dir, strerror(errno));
        return -errno;
    }
    if (pipe2(up, O_CLOEXEC) < 0 || pipe2(down, O_CLOEXEC) < 0 || fchdir(pod.state_fd) < 0) {
        snprintf(why, why_len, "pipe: %s", strerror(errno));
        return -errno;
    }
    uint64_t flags = (s->flags & WIRE_SB_SHARED_PID ? CLONE_NEWPID : 0) |
                     (s->flags & WIRE_SB_USERNS ? CLONE_NEWUSER : other_namespaces(s));
    long pid = sys_clone3(flags, NULL, -1);
    if (pid == 0) {
        struct maker m = { s, base, up[1], down[0] };
        close(up[0]);
        close(down[1]);
        maker(&m);
    }
    int e = errno;
    close(up[1]);
    close(down[0]);
    if (pid < 0) {
        snprintf(why, why_len, "clone into new namespaces: %s", strerror(e));
        r = -e;
    } else {
        r = with_child(s, base, (pid_t)pid, up[0], down[1], why, why_len);
        if (r < 0)
            (void)kill((pid_t)pid, SIGKILL);
    }
    close(up[0]);
    close(down[1]);
    munmap(base, len);
    return r;
}

/* Takes back what was made in the host's mount namespace. */
void sandbox_drop(void)
{
    if (pod.host_mnt >= 0 && setns(pod.host_mnt, CLONE_NEWNS) == 0 && pod.state_fd >= 0 &&
        fchdir(pod.state_fd) == 0) {
        if (pod.made_netns) {
            (void)umount2("netns", MNT_DETACH);
            (void)unlink("netns");
        }
        if (pod.made_sock)
            (void)unlink("sock");
        (void)rmdir("exits");
    }
}
