/* SPDX-License-Identifier: Apache-2.0 */
/* What RestorePod has unpacked for a container's start: criu's images, beside its files. They are
 * needed once. That they are is on record before the container is to be seen, and no longer when it
 * runs or has ended; the directory follows, by the worker that removes trees. */
#include "handlers/restore.h"

#include "mem.h"

#include <unistd.h>

char *restore_dir(const struct ctr *c)
{
    return mem_printf("%s/containers/%s/restore", c->h->conf->root, c->id);
}

static void drop(struct ctr *c)
{
    auto_free char *rel = mem_printf("containers/%s/restore", c->id);

    pull_remove_tree(c->h->puller, rel);
}

void restore_end(struct ctr *c)
{
    if (!c->rec->restore)
        return;
    c->rec->restore = false;
    drop(c);
}

void restore_collect(struct ctr *c)
{
    auto_free char *dir = restore_dir(c);

    if (!c->rec->restore && access(dir, F_OK) == 0)
        drop(c);
}
