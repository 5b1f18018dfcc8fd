/* SPDX-License-Identifier: Apache-2.0 */
/* src/proc/cgroup on the real thing, below /cricket-test-<pid>. v1 and v2 are told apart only where
 * the files' names show. */
#include "tap.h"

#include "mem.h"
#include "proc/cgroup.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

static char top[64], leaf[96], other[96];
static struct err e;
static bool v2;

static const char *get(const char *path, const char *controller, const char *file)
{
    static char buf[256];
    int fd = cgroup_open_file(path, controller, file, O_RDONLY);
    ssize_t n;

    if (fd < 0) {
        snprintf(buf, sizeof buf, "%s", strerror(-fd));
        return buf;
    }
    n = read(fd, buf, sizeof buf - 1);
    close(fd);
    buf[n < 0 ? 0 : n] = '\0';
    buf[strcspn(buf, "\n")] = '\0';
    return buf;
}

static bool has(const char *controller)
{
    return strstr(cgroup_controllers(), controller) != NULL;
}

/* A process in the cgroup: joins through the descriptors, then runs fn; the parent waits until it
 * has joined. */
static pid_t in_cgroup(const char *path, int (*fn)(void))
{
    int fds[CGROUP_FDS_MAX], p[2], n = cgroup_open_join(path, fds, &e);
    char c = '0';
    pid_t pid;

    if (n < 0 || pipe(p) < 0)
        bail_out("join: %s", e.text);
    pid = fork();
    if (pid == 0) {
        for (int i = 0; i < n; i++) {
            int fd = v2 ? openat(fds[i], "cgroup.procs", O_WRONLY) : fds[i];

            if (write(fd, "0", 1) != 1)
                c = 'x';
        }
        if (write(p[1], &c, 1) != 1)
            _exit(99);
        _exit(fn());
    }
    close(p[1]);
    if (read(p[0], &c, 1) != 1 || c != '0')
        diag("the child could not join");
    close(p[0]);
    cgroup_close_join(fds, n);
    return pid;
}

__attribute__((noreturn)) static int sleeper(void)
{
    /* a second one, that only the cgroup knows */
    if (fork() == 0)
        for (;;)
            pause();
    for (;;)
        pause();
}

static int status_of(pid_t pid)
{
    int st;

    if (waitpid(pid, &st, 0) < 0)
        return -1;
    return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

static const char *null_path = "/dev/null";

static int try_open(int flags)
{
    int fd = open(null_path, flags);

    if (fd < 0)
        return errno;
    close(fd);
    return 0;
}

static int open_ro(void) { return try_open(O_RDONLY); }
static int open_rw(void) { return try_open(O_RDWR); }

static int make_node(void)
{
    char p[] = "/tmp/cricket-node-XXXXXX";
    int r;

    if (!mkdtemp(p))
        return 98;
    auto_free char *n = mem_printf("%s/n", p);
    r = mknod(n, S_IFCHR | 0600, makedev(1, 3)) < 0 ? errno : 0;
    unlink(n);
    rmdir(p);
    return r;
}

static void test_make(void)
{
    auto_free char *made = NULL, *again = NULL, *missing = NULL, *none = NULL;
    int fd;

    is_int(cgroup_missing(leaf, &missing, &e), 0, "what of '%s' is missing", leaf);
    is_int(cgroup_make(leaf, &made, &e), 0, "make it");
    is_str(made, top, "the topmost new directory");
    is_str(missing, made, "was known before");
    is_int(cgroup_missing(leaf, &none, &e), 0, "what is missing now");
    ok(!none, "is nothing");
    is_int(cgroup_missing("a", &none, &e), -EINVAL, "no relative path");
    is_int(cgroup_make(leaf, &again, &e), 0, "twice is no error");
    ok(!again, "but nothing was made");
    ok(cgroup_empty(leaf), "it is empty");
    is_int(cgroup_make("/a/../b", NULL, &e), -EINVAL, "no '..'");
    is_int(cgroup_make("a", NULL, &e), -EINVAL, "no relative path");
    is_int(cgroup_make("/", NULL, &e), -EINVAL, "not the root");
    fd = cgroup_open_oom(leaf);
    ok(has("memory") ? fd >= 0 : fd == -1, "the file for OOM events");
    close(fd);
}

static void test_limits(void)
{
    struct cgroup_hugepage huge[] = { { "2MB", 0 }, { "1GB", 0 } };
    struct cgroup_limits l = { .cpu_shares = 512,
                               .cpu_quota = 50000,
                               .cpu_period = 200000,
                               .memory = 64 << 20,
                               .pids = 77,
                               .hugepages = huge,
                               .n_hugepages = 2 };

    if (!has("cpu") || !has("memory") || !has("pids")) {
        skip("controllers here: %s", cgroup_controllers());
        return;
    }
    if (!is_int(cgroup_set(leaf, &l, &e), 0, "set limits"))
        diag("%s", e.text);
    is_str(get(leaf, "cpu", v2 ? "cpu.weight" : "cpu.shares"), v2 ? "20" : "512", "shares");
    if (v2) {
        is_str(get(leaf, "cpu", "cpu.max"), "50000 200000", "quota and period");
    } else {
        is_str(get(leaf, "cpu", "cpu.cfs_quota_us"), "50000", "quota");
        is_str(get(leaf, "cpu", "cpu.cfs_period_us"), "200000", "period");
    }
    is_str(get(leaf, "memory", v2 ? "memory.max" : "memory.limit_in_bytes"), "67108864", "memory");
    is_str(get(leaf, "memory", v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes"),
           v2 ? "0" : "67108864", "no swap beyond it");
    is_str(get(leaf, "pids", "pids.max"), "77", "pids");

    l = (struct cgroup_limits){ .cpu_period = 10000, .cpu_quota = 20000, .memory = 128 << 20,
                                .memory_swap = 256 << 20 };
    if (!is_int(cgroup_update(leaf, &l, &e), 0, "larger"))
        diag("%s", e.text);
    is_str(get(leaf, "memory", v2 ? "memory.max" : "memory.limit_in_bytes"), "134217728",
           "memory grew");
    is_str(get(leaf, "memory", v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes"),
           v2 ? "134217728" : "268435456", "with swap");
    is_str(get(leaf, "pids", "pids.max"), "77", "what is not named stays");
    l = (struct cgroup_limits){ .memory = 32 << 20, .memory_swap = 32 << 20 };
    is_int(cgroup_update(leaf, &l, &e), 0, "smaller");
    is_str(get(leaf, "memory", v2 ? "memory.max" : "memory.limit_in_bytes"), "33554432",
           "memory shrank");
    l = (struct cgroup_limits){ .cpu_quota = -1, .memory = -1, .pids = -1 };
    is_int(cgroup_update(leaf, &l, &e), 0, "without limits");
    is_str(get(leaf, "pids", "pids.max"), "max", "pids");
    is_str(get(leaf, "cpu", v2 ? "cpu.max" : "cpu.cfs_quota_us"), v2 ? "max 10000" : "-1", "cpu");
    l = (struct cgroup_limits){ .memory = 64 << 20, .memory_swap = 32 << 20 };
    ok(cgroup_set(leaf, &l, &e) < 0 && e.grpc == GRPC_INVALID_ARGUMENT,
       "memory+swap below memory: %s", e.text);
    huge[0].size = "../../2MB";
    l = (struct cgroup_limits){ .hugepages = huge, .n_hugepages = 1 };
    ok(cgroup_set(leaf, &l, &e) < 0 && e.grpc == GRPC_INVALID_ARGUMENT, "a path as page size: %s",
       e.text);
}

static void test_rollback(void)
{
    struct cgroup_limits l = { .cpu_shares = 512, .memory = 64 << 20, .pids = 50 };

    if (!has("cpu") || !has("memory") || !has("cpuset")) {
        skip("controllers here: %s", cgroup_controllers());
        return;
    }
    is_int(cgroup_set(leaf, &l, &e), 0, "a state to go back to");
    /* no period is that long: fails after the shares were written; on v1 the quota before it as
     * well */
    l = (struct cgroup_limits){ .cpu_shares = 1024, .cpu_quota = 1000, .cpu_period = 1000000000 };
    ok(cgroup_update(leaf, &l, &e) < 0, "an update that fails half way: %s", e.text);
    is_str(get(leaf, "cpu", v2 ? "cpu.weight" : "cpu.shares"), v2 ? "20" : "512",
           "shares are the old ones");
    is_str(get(leaf, "memory", v2 ? "memory.max" : "memory.limit_in_bytes"), "67108864",
           "memory too");
    l = (struct cgroup_limits){ .cpu_shares = 1024, .cpuset_cpus = "4000" };
    ok(cgroup_update(leaf, &l, &e) < 0 || v2, "a CPU that is not there: %s", e.text);
}

__attribute__((noreturn)) static int eat(void)
{
    volatile char *p = mem_alloc(8 << 20);

    for (size_t i = 0; i < 8 << 20; i += 4096)
        p[i] = 1;
    for (;;)
        pause();
}

static void test_in_use(void)
{
    struct cgroup_limits l = { .memory = 64 << 20 };
    pid_t pid;

    if (!has("memory")) {
        skip("no memory controller");
        return;
    }
    is_int(cgroup_set(leaf, &l, &e), 0, "64 MiB");
    pid = in_cgroup(leaf, eat);
    for (int i = 0; i < 100000; i++)
        if (atoll(get(leaf, "memory", v2 ? "memory.current" : "memory.usage_in_bytes")) > 8 << 20)
            break;
    l.memory = 1 << 20;
    ok(cgroup_update(leaf, &l, &e) < 0 && e.grpc == GRPC_FAILED_PRECONDITION,
       "below what is in use: %s", e.text);
    is_str(get(leaf, "memory", v2 ? "memory.max" : "memory.limit_in_bytes"), "67108864",
           "the limit stays");
    kill(pid, SIGKILL);
    is_int(status_of(pid), 137, "the eater is gone");
}

static void test_unified(void)
{
    struct plan_pair p = { "memory.high", "50331648" };
    struct cgroup_limits l = { .unified = &p, .n_unified = 1 };
    static const char *const bad[] = { "../x/memory.max", "cgroup.procs", "cgroup.kill", "memory",
                                       "" };

    is_int(cgroup_set(leaf, &l, &e), 0, "unified is %s", v2 ? "written" : "passed over on v1");
    if (!v2)
        return;
    is_str(get(leaf, "memory", "memory.high"), "50331648", "memory.high");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        p.key = bad[i];
        ok(cgroup_set(leaf, &l, &e) < 0 && e.grpc == GRPC_INVALID_ARGUMENT, "'%s' is refused",
           bad[i]);
    }
    p = (struct plan_pair){ "memory.nope", "1" };
    ok(cgroup_set(leaf, &l, &e) < 0, "a file that is not there: %s", e.text);
}

static void test_devices(void)
{
    struct cgroup_device_rule none[] = { { 'c', 1, 5, true, "rwm" } };
    struct cgroup_device_rule some[] = {
        { 'c', -1, -1, true, "m" }, { 'c', 1, -1, true, "r" }, { 'b', 1, 3, true, "rwm" },
    };
    struct cgroup_device_rule minus[] = { { 'c', 1, -1, true, "r" },
                                          { 'c', 1, 3, true, "w" },
                                          { 'c', 1, 3, false, "w" } };
    struct cgroup_device_rule two[] = { { 'c', 1, 3, true, "r" }, { 'c', 1, 3, true, "w" } };

    if (!v2 && !has("devices")) {
        skip("no devices controller");
        return;
    }
    if (!is_int(cgroup_set_devices(leaf, none, 1, &e), 0, "only /dev/zero is allowed"))
        diag("%s", e.text);
    is_int(status_of(in_cgroup(leaf, open_ro)), EPERM, "/dev/null is denied");
    is_int(status_of(in_cgroup(leaf, make_node)), EPERM, "making a node too");
    is_int(cgroup_set_devices(leaf, some, 3, &e), 0, "any node may be made, 1:* read");
    is_int(status_of(in_cgroup(leaf, open_ro)), 0, "reading is allowed");
    is_int(status_of(in_cgroup(leaf, open_rw)), EPERM, "writing not");
    is_int(status_of(in_cgroup(leaf, make_node)), 0, "a node is made");
    is_int(cgroup_set_devices(leaf, minus, 3, &e), 0, "allowed, then denied again");
    is_int(status_of(in_cgroup(leaf, open_ro)), 0, "reading is allowed");
    is_int(status_of(in_cgroup(leaf, open_rw)), EPERM, "writing not");
    is_int(cgroup_set_devices(leaf, two, 2, &e), 0, "r and w by two rules");
    is_int(status_of(in_cgroup(leaf, open_rw)), 0, "add up");
    is_int(cgroup_set_devices(leaf, some, 0, &e), 0, "no rule at all");
    is_int(status_of(in_cgroup(leaf, open_ro)), EPERM, "denies everything");
    is_int(cgroup_set_devices(leaf, NULL, 0, &e), 0, "NULL");
    is_int(status_of(in_cgroup(leaf, open_rw)), 0, "allows everything");
}

static void test_kill(void)
{
    pid_t pid = in_cgroup(leaf, sleeper);

    ok(!cgroup_empty(leaf), "a process lives there");
    is_int(cgroup_remove(leaf, &e), -EBUSY, "so it cannot be removed: %s", e.text);
    is_int(cgroup_thaw(leaf), 0, "thaw what is not frozen");
    if (!is_int(cgroup_kill(leaf, &e), 0, "kill"))
        diag("%s", e.text);
    is_int(status_of(pid), 137, "the first one is dead");
    for (int i = 0; i < 1000000 && !cgroup_empty(leaf); i++)
        ;
    ok(cgroup_empty(leaf), "the second one too");
    is_int(cgroup_kill(other, &e), 0, "killing where nothing is");
    is_int(cgroup_kill("/", &e), -EINVAL, "never the root");
}

static void test_remove(void)
{
    auto_free char *made = NULL, *sub = mem_printf("%s/sub/sub", leaf);
    char lower_top[80];
    struct stat st;
    int fd;

    is_int(cgroup_make(sub, NULL, &e), 0, "directories below");
    is_int(cgroup_remove(leaf, &e), 0, "are removed with it: %s", e.text);
    is_int(cgroup_remove(leaf, &e), 0, "twice is no error");
    fd = cgroup_open_file(top, "memory", ".", 0);
    ok(fd >= 0 && fstat(fd, &st) == 0, "the parent stays");
    close(fd);
    is_int(cgroup_make(other, &made, &e), 0, "another, two levels deep");
    snprintf(lower_top, sizeof lower_top, "%s/o", top);
    is_str(made, lower_top, "its parent is new as well");
    cgroup_remove_parents(other, made);
    is_int(cgroup_open_file(lower_top, "memory", ".", 0), -ENOENT, "both are gone");
    fd = cgroup_open_file(top, "memory", ".", 0);
    ok(fd >= 0, "what was there before is not");
    close(fd);
}

/* Where some hierarchies had the directory before, only what was new goes. */
static void test_remove_partly(void)
{
    auto_free char *made = NULL, *missing = NULL, *p = mem_printf("/sys/fs/cgroup/cpu%s/o", top);
    int fd;

    if (v2 || mkdir(p, 0755) < 0) {
        skip("there is one hierarchy only");
        return;
    }
    is_int(cgroup_missing(other, &missing, &e), 0, "what is missing");
    is_int(cgroup_make(other, &made, &e), 0, "one hierarchy had the parent");
    is_str(missing, made, "is what was made");
    ok(strchr(made, '\n') != NULL, "so they are told one by one");
    cgroup_remove_parents(other, made);
    fd = cgroup_open_file(top, "cpu", "o", O_PATH);
    ok(fd >= 0, "somebody else's directory stays");
    close(fd);
    is_int(cgroup_open_file(top, "memory", "o", O_PATH), -ENOENT, "ours is gone");
    rmdir(p);
}

int main(void)
{
    if (geteuid() != 0)
        skip_all("cgroups need root");
    if (cgroup_init(&e) < 0)
        skip_all("%s", e.text);
    v2 = cgroup_is_v2();
    snprintf(top, sizeof top, "/cricket-test-%d", getpid());
    snprintf(leaf, sizeof leaf, "%s/a", top);
    snprintf(other, sizeof other, "%s/o/b", top);
    diag("cgroup v%d: %s", v2 ? 2 : 1, cgroup_controllers());
    int fd = cgroup_open_file("/", "memory", "cgroup.procs", O_WRONLY);
    if (fd < 0)
        skip_all("cgroups cannot be written: %s", strerror(-fd));
    close(fd);

    test_make();
    test_limits();
    test_rollback();
    test_in_use();
    test_unified();
    test_devices();
    test_kill();
    test_remove();
    test_remove_partly();
    cgroup_remove_parents(leaf, top);
    is_int(cgroup_open_file(top, "memory", ".", 0), -ENOENT, "nothing is left behind");
    return done_testing();
}
