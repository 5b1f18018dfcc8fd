/* SPDX-License-Identifier: Apache-2.0 */
/* umount PATH: takes away the bind mount of a network namespace whose supervisor did not live to do
 * it. A job of its own because umount(2) waits for RCU and, with the last reference, for whatever
 * hangs on the namespace. */
#include "pull/worker/worker.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

int worker_umount(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "umount: one path is wanted\n");
        return 2;
    }
    /* EINVAL: not a mount point (any more). ENOENT: not even a file. */
    if (umount2(argv[1], MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT) {
        fprintf(stderr, "umount '%s': %s\n", argv[1], strerror(errno));
        return 1;
    }
    if (unlink(argv[1]) < 0 && errno != ENOENT) {
        fprintf(stderr, "unlink '%s': %s\n", argv[1], strerror(errno));
        return 1;
    }
    return 0;
}
