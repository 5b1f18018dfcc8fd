/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel counters: the text formats, then (as root) a cgroup and a network namespace that really
 * count. */
#include "mem.h"
#include "proc/cgroup.h"
#include "proc/stats.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_parsers(void)
{
    struct stats_psi psi;
    struct stats s = { 0 };
    struct stats_net net;
    uint64_t v = 0;

    stats_parse_psi(
        "some avg10=0.35 avg60=1.25 avg300=12.50 total=68830069\nfull avg10=0.00 avg60=0.01 avg300=0.00 total=7\n",
        &psi);
    ok(psi.has_some && psi.some.total_us == 68830069 && psi.some.avg10 == 0.35 &&
           psi.some.avg60 == 1.25 && psi.some.avg300 == 12.5,
       "psi some");
    ok(psi.has_full && psi.full.total_us == 7 && psi.full.avg60 == 0.01, "psi full");
    stats_parse_psi("some avg10=0.35 avg60=1.25 avg300=12.50 total=3\n", &psi);
    ok(psi.has_some && !psi.has_full, "an older kernel has no full for cpu");
    stats_parse_psi("", &psi);
    ok(!psi.has_some && !psi.has_full, "nothing");

    ok(stats_parse_field("inactive_file 5\ntotal_inactive_file 77\n", "total_inactive_file", &v) &&
           v == 77,
       "a field of memory.stat");
    ok(stats_parse_field("a 1\nb max\n", "b", &v) && v == STATS_NO_LIMIT, "max is no limit");
    ok(!stats_parse_field("anon_thp 3\n", "anon", &v) && !stats_parse_field("", "anon", &v),
       "a field that is not there");

    stats_parse_io1(
        "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Discard 3\n8:0 Total 12291\n259:1 Read 5\nTotal 12296\n",
        true, &s);
    stats_parse_io1("8:0 Read 1\n8:0 Write 2\nTotal 3\n", false, &s);
    ok(s.n_io == 2 && s.io[0].major == 8 && s.io[0].read_bytes == 4096 &&
           s.io[0].write_bytes == 8192 && s.io[0].discard_bytes == 3 && s.io[0].reads == 1 &&
           s.io[0].writes == 2 && s.io[1].major == 259 && s.io[1].minor == 1 &&
           s.io[1].read_bytes == 5,
       "blkio, two devices");
    stats_deinit(&s);
    stats_parse_io2(
        "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:2 rbytes=7 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
        &s);
    ok(s.n_io == 2 && s.io[0].read_bytes == 1 && s.io[0].write_bytes == 2 && s.io[0].reads == 3 &&
           s.io[0].writes == 4 && s.io[0].discard_bytes == 5 && s.io[0].discards == 6 &&
           s.io[1].read_bytes == 7,
       "io.stat, two devices");
    stats_deinit(&s);

    stats_parse_net(
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
        "    lo:    100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n"
        "  net1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
        "  eth0: 18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
        &net);
    if (ok(net.n == 2, "two interfaces without lo")) {
        is_str(net.v[0].name, "eth0", "eth0 is the first");
        ok(net.v[0].rx_bytes == UINT64_MAX && net.v[0].rx_packets == 2 && net.v[0].rx_errors == 3 &&
               net.v[0].rx_dropped == 4 && net.v[0].tx_bytes == 9 && net.v[0].tx_packets == 10 &&
               net.v[0].tx_errors == 11 && net.v[0].tx_dropped == 12,
           "its counters");
        is_str(net.v[1].name, "net1", "then the others");
    }
    stats_net_deinit(&net);
}

/* A child that does fn and says so; killed by the caller. */
static pid_t child(void (*fn)(void *), void *arg)
{
    int p[2];
    char c;
    pid_t pid;

    if (pipe(p) < 0)
        bail_out("pipe");
    pid = fork();
    if (pid == 0) {
        fn(arg);
        if (write(p[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(p[1]);
    if (read(p[0], &c, 1) != 1)
        bail_out("the child died");
    close(p[0]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void join_and_work(void *arg)
{
    int *fds = arg;
    volatile char *mem;
    volatile unsigned x = 1;

    for (int i = 0; i < CGROUP_FDS_MAX && fds[i] >= 0; i++)
        if (cgroup_is_v2()) {
            int fd = openat(fds[i], "cgroup.procs", O_WRONLY);

            if (fd < 0 || write(fd, "0", 1) != 1)
                _exit(1);
        } else if (write(fds[i], "0", 1) != 1) {
            _exit(1);
        }
    mem = malloc(8 << 20);
    for (size_t i = 0; mem && i < 8 << 20; i += 4096)
        mem[i] = 1;
    for (unsigned i = 0; i < 20000000; i++)
        x = x * 31 + i;
}

static void test_cgroup(void)
{
    auto_free char *path = mem_printf("/cricket-test-stats-%d", (int)getpid()), *made = NULL;
    struct cgroup_limits limits = {
        .cpu_shares = 512, .cpu_quota = 50000, .cpu_period = 100000, .memory = 64 << 20, .pids = 50
    };
    int fds[CGROUP_FDS_MAX], n, *pids = NULL;
    struct err err = ERR_INIT;
    struct stats s, sum = { 0 };
    size_t n_pids = 0;
    pid_t pid;

    if (geteuid() != 0 || cgroup_init(&err) < 0 || cgroup_make(path, &made, &err) < 0) {
        skip("no cgroup can be made here: %s", err.text);
        return;
    }
    for (int i = 0; i < CGROUP_FDS_MAX; i++)
        fds[i] = -1;
    is_int(cgroup_set(path, &limits, &err), 0, "limits: %s", err.text);
    n = cgroup_open_join(path, fds, &err);
    ok(n > 0, "descriptors to join: %s", err.text);
    if (n < CGROUP_FDS_MAX)
        fds[n] = -1;
    pid = child(join_and_work, fds);
    cgroup_close_join(fds, n);

    stats_read(path, STATS_ALL, &s);
    ok(s.at_ns > 0 && s.has_cpu && s.cpu_ns > 1000000, "cpu: %llu ns",
       (unsigned long long)s.cpu_ns);
    ok(s.has_cpu_split && s.cpu_user_ns > 0, "user %llu, system %llu ns",
       (unsigned long long)s.cpu_user_ns, (unsigned long long)s.cpu_system_ns);
    ok(s.has_throttling, "throttling is known where there is a quota");
    ok(s.has_memory && s.usage >= 8 << 20 && s.rss >= 8 << 20 && s.working_set <= s.usage &&
           s.limit == 64 << 20 && s.page_faults >= 100,
       "memory: usage %llu, working set %llu, rss %llu, limit %llu, faults %llu", (unsigned long long)s.usage,
       (unsigned long long)s.working_set, (unsigned long long)s.rss, (unsigned long long)s.limit, (unsigned long long)s.page_faults);
    ok(s.has_failcnt && s.has_oom && s.oom_kills == 0, "no OOM kill");
    ok(s.has_pids && s.pids == 1 && s.pids_limit == 50, "pids: %llu of %llu",
       (unsigned long long)s.pids, (unsigned long long)s.pids_limit);
    ok(s.has_cpu_spec && s.cpu_shares >= 500 && s.cpu_shares <= 520 && s.cpu_quota_us == 50000 &&
           s.cpu_period_us == 100000,
       "spec: shares %llu, quota %lld", (unsigned long long)s.cpu_shares,
       (long long)s.cpu_quota_us);
    ok(!cgroup_is_v2() || s.memory_psi.has_some || access("/proc/pressure", F_OK) < 0,
       "pressure where the kernel has it");
    ok(stats_pids(path, &pids, &n_pids, &err) == 0 && n_pids == 1 && pids[0] == pid, "its process");
    free(pids);
    stats_add(&sum, &s);
    stats_add(&sum, &s);
    ok(sum.has_cpu && sum.cpu_ns == 2 * s.cpu_ns && sum.usage == 2 * s.usage && sum.pids == 2 &&
           sum.limit == STATS_NO_LIMIT,
       "a sum of two");
    stats_deinit(&s);

    end(pid);
    is_int(cgroup_remove(path, &err), 0, "removed: %s", err.text);
    if (made)
        cgroup_remove_parents(path, made);
    stats_read(path, STATS_ALL, &s);
    ok(!s.has_cpu && !s.has_memory && !s.has_pids && !s.has_cpu_spec && s.n_io == 0,
       "a cgroup that is gone has nothing");
    stats_deinit(&s);
    ok(stats_pids(path, &pids, &n_pids, &err) == -ENOENT, "and no processes: %s", err.text);
}

static void new_net(void *arg)
{
    int fd;
    struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };

    (void)arg;
    if (unshare(CLONE_NEWNET) < 0 || (fd = socket(AF_INET, SOCK_DGRAM, 0)) < 0 ||
        ioctl(fd, SIOCSIFFLAGS, &r) < 0)
        _exit(1);
    if (system("ip link add a0 type veth peer name eth0") != 0)
        _exit(1);
}

static void test_net(void)
{
    struct err err = ERR_INIT;
    struct stats_net net;
    char before[64] = "", after[64] = "";
    pid_t pid;

    if (geteuid() != 0 || system("command -v ip >/dev/null") != 0) {
        skip("no network namespace can be made here");
        return;
    }
    pid = child(new_net, NULL);
    auto_free char *path = mem_printf("/proc/%d/ns/net", (int)pid);
    if (readlink("/proc/self/ns/net", before, sizeof before - 1) < 0)
        bail_out("/proc/self/ns/net");
    is_int(stats_net_read(path, &net, &err), 0, "counters of another namespace: %s", err.text);
    ok(net.at_ns > 0 && net.n == 2 && strcmp(net.v[0].name, "eth0") == 0 &&
           strcmp(net.v[1].name, "a0") == 0,
       "its interfaces, %zu of them", net.n);
    stats_net_deinit(&net);
    ok(readlink("/proc/self/ns/net", after, sizeof after - 1) > 0 && strcmp(before, after) == 0,
       "back in the own namespace");
    end(pid);
    is_int(stats_net_read(path, &net, &err), -ENOENT, "a namespace that is gone: %s", err.text);
    is_int(stats_net_read("/dev/null", &net, &err), -EINVAL, "a file that is none: %s", err.text);
}

int main(void)
{
    test_parsers();
    test_cgroup();
    test_net();
    return done_testing();
}
