/* SPDX-License-Identifier: Apache-2.0 */
/* resctrl ROOT DIR...: removes a container's groups from resctrl, which is mounted at ROOT, under
 * the lock that tools are to take there. A job of its own because another tool may hold that, and
 * because the kernel goes through all processes and interrupts all processors. */
#include "pull/worker/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { LOCK_TRIES = 6000, LOCK_STEP_MS = 10 };

static int fail(const char *what, const char *path)
{
    fprintf(stderr, "resctrl: %s '%s': %s\n", what, path, strerror(errno));
    return 1;
}

int worker_resctrl(int argc, char **argv)
{
    int fd, tries = 0, r = 0;

    if (argc < 2) {
        fprintf(stderr, "resctrl: a mount point is wanted\n");
        return 2;
    }
    fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : fail("open", argv[1]);
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if ((errno != EWOULDBLOCK && errno != EINTR) || ++tries > LOCK_TRIES)
            return fail("lock", argv[1]);
        (void)poll(NULL, 0, LOCK_STEP_MS);
    }
    for (int i = 2; i < argc; i++)
        if (rmdir(argv[i]) < 0 && errno != ENOENT)
            r = fail("rmdir", argv[i]);
    return r;
}
