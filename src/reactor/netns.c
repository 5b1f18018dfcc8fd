/* SPDX-License-Identifier: Apache-2.0 */
/* A socket belongs for ever to the network namespace it was made in; the thread only visits. Two
 * setns(2) are some microseconds. Not getting back would leave the daemon in a pod's network, so
 * that aborts. */
#include "log.h"
#include "mem.h"
#include "reactor/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

int netns_socket(const char *netns, int family, struct err *err)
{
    auto_fd int there = -1;
    auto_fd int home = -1;
    int fd, saved;

    if (netns) {
        there = open(netns, O_RDONLY | O_CLOEXEC);
        if (there < 0)
            return err_sys(err, "network namespace '%s'", netns);
        home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
        if (home < 0)
            return err_sys(err, "own network namespace");
        if (setns(there, CLONE_NEWNET) < 0)
            return err_sys(err, "enter network namespace '%s'", netns);
    }
    fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    saved = errno;
    if (netns && setns(home, CLONE_NEWNET) < 0) {
        log_error("op=netns err='cannot leave %s: %s'", netns, strerror(errno));
        abort();
    }
    return fd < 0 ? err_code(err, -saved, "socket in network namespace '%s'", netns ? netns : "own")
                  : fd;
}
