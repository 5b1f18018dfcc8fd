/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin dies with the daemon that runs it, but what it has started (bridge starts host-local)
 * does not: an address that such a one takes after the DEL of the next daemon is never given back.
 * All of them have the sandbox's id in their environment. proc(5), CNI specification 1.0, section 2.
 */
#include "proc/cni_stray.h"

#include "log.h"
#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENVIRON_MAX = 16384, PASSES = 20, END_MS = 1000 };

static bool is_stray(int proc, const char *pid, bool (*ours)(void *arg, const char *id), void *arg)
{
    static const char key[] = "CNI_CONTAINERID=";
    auto_free char *name = mem_printf("%s/environ", pid), *buf = NULL;
    auto_fd int fd = openat(proc, name, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return false;
    buf = mem_alloc(ENVIRON_MAX + 1);
    n = read(fd, buf, ENVIRON_MAX);
    for (const char *s = buf; n > 0 && s < buf + n; s += strlen(s) + 1)
        if (str_starts(s, key))
            return ours(arg, s + sizeof key - 1);
    return false;
}

static size_t end_some(bool (*ours)(void *arg, const char *id), void *arg)
{
    DIR *d = opendir("/proc");
    struct dirent *e;
    size_t n = 0;

    while (d && (e = readdir(d))) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9' || !is_stray(dirfd(d), e->d_name, ours, arg))
            continue;
        auto_fd int pidfd = (int)syscall(SYS_pidfd_open, atoi(e->d_name), 0);
        struct pollfd p = { pidfd, POLLIN, 0 };

        /* once more: now the number cannot become another's */
        if (pidfd < 0 || !is_stray(dirfd(d), e->d_name, ours, arg))
            continue;
        log_info("op=cni pid=%s ends='a daemon that was killed had it started'", e->d_name);
        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        (void)poll(&p, 1, END_MS);
        n++;
    }
    if (d)
        closedir(d);
    return n;
}

void cni_end_strays(bool (*ours)(void *arg, const char *id), void *arg)
{
    for (int i = 0; i < PASSES && end_some(ours, arg); i++)
        ;                            /* until none: one may have started another meanwhile */
}
