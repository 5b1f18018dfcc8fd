/* SPDX-License-Identifier: Apache-2.0 */
/* Interface counters of a pod.
 *
 * /proc/thread-self/net/dev belongs to the network namespace that the thread is in when it opens
 * the file, and stays with it: so the one thread steps into the namespace, opens, steps back, and
 * reads at leisure. Against RTM_GETLINK: no netlink socket that keeps the namespace alive, and no
 * rtnl lock, which the kernel holds for many milliseconds while it takes other pods' interfaces
 * down. See setns(2), proc_pid_net(5). */
#include "proc/stats.h"

#include "log.h"
#include "mem.h"
#include "reactor/loop.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NET_DEV_MAX = 1024 * 1024 };

/* Opens file in the namespace: fd or -errno. */
static int open_inside(int ns, const char *file)
{
    static int own = -1;             /* the daemon's own namespace never changes */
    int fd, saved;

    if (own < 0)
        own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (own < 0 || setns(ns, CLONE_NEWNET) < 0)
        return -errno;
    fd = open(file, O_RDONLY | O_CLOEXEC);
    saved = errno;
    if (setns(own, CLONE_NEWNET) < 0) {
        log_error("op=setns err='cannot go back to the own network namespace: %s'",
                  strerror(errno));
        abort();
    }
    return fd < 0 ? -saved : fd;
}

void stats_net_deinit(struct stats_net *n)
{
    free(n->v);
    *n = (struct stats_net){ 0 };
}

void stats_parse_net(const char *text, struct stats_net *ret)
{
    *ret = (struct stats_net){ 0 };
    for (const char *line = text; *line;) {
        struct stats_interface i = { 0 };

        /* "  eth0: bytes packets errs drop fifo frame compressed multicast  bytes packets errs drop
         * ..." */
        if (sscanf(line,
                   " %15[^: \n]: %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
                   " %*u %*u %*u %*u %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64,
                   i.name, &i.rx_bytes, &i.rx_packets, &i.rx_errors, &i.rx_dropped, &i.tx_bytes,
                   &i.tx_packets, &i.tx_errors, &i.tx_dropped) == 9 &&
            strcmp(i.name, "lo") != 0) {
            ret->v = mem_grow(ret->v, ret->n + 1, sizeof *ret->v);
            ret->v[ret->n++] = i;
            if (strcmp(i.name, "eth0") == 0) {
                ret->v[ret->n - 1] = ret->v[0];
                ret->v[0] = i;
            }
        }
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
}

int stats_net_read(const char *netns, struct stats_net *ret, struct err *err)
{
    auto_fd int ns = open(netns, O_RDONLY | O_CLOEXEC);
    auto_fd int fd = ns < 0 ? -errno : open_inside(ns, "/proc/thread-self/net/dev");
    auto_str struct str s = STR_INIT;

    if (fd < 0)
        return err_code(err, fd, "network counters of '%s'", netns);
    while (s.len < NET_DEV_MAX) {
        ssize_t n = read(fd, str_room(&s, 8192), 8192);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "network counters of '%s'", netns);
        if (n == 0)
            break;
        s.len += (size_t)n;
        s.p[s.len] = '\0';
    }
    stats_parse_net(str_c(&s), ret);
    ret->at_ns = clock_stamp_ns();
    return 0;
}
