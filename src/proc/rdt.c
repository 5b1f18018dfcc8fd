/* SPDX-License-Identifier: Apache-2.0 */
/* The records that pod/rdt.c writes. */
#include "proc/rdt.h"

#include "mem.h"
#include "proc/pod/wire.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static char *record_path(const char *pod_dir, const char *id)
{
    return mem_printf("%s/resctrl/%s", pod_dir, id);
}

bool rdt_read(const char *pod_dir, const char *id, struct rdt_place *ret)
{
    auto_free char *path = record_path(pod_dir, id);
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct wire_rdt_record r;
    size_t n = 0;

    memset(ret, 0, sizeof *ret);
    if (fd < 0)
        return false;
    if (read(fd, &r, sizeof r) != sizeof r)
        memset(&r, 0, sizeof r);     /* it was just being written: nothing was made */
    r.root[sizeof r.root - 1] = r.group[sizeof r.group - 1] = '\0';
    ret->root = mem_strdup(r.root);
    if (r.flags & WIRE_RDT_MON)
        ret->dirs[n++] = mem_printf("%s/%s/mon_groups/%s", r.root, r.group, id);
    if (r.flags & WIRE_RDT_OURS)
        ret->dirs[n++] = mem_printf("%s/%s", r.root, r.group);
    return true;
}

void rdt_place_deinit(struct rdt_place *p)
{
    free(p->root);
    for (size_t i = 0; i < ARRAY_LEN(p->dirs); i++)
        free(p->dirs[i]);
    memset(p, 0, sizeof *p);
}

void rdt_forget(const char *pod_dir, const char *id)
{
    auto_free char *path = record_path(pod_dir, id);

    (void)unlink(path);
}

void rdt_remove_all(const char *pod_dir)
{
    auto_free char *path = mem_printf("%s/resctrl", pod_dir);
    DIR *d = opendir(path);
    struct rdt_place p;
    struct dirent *e;

    while (d && (e = readdir(d))) {
        if (e->d_name[0] == '.' || !rdt_read(pod_dir, e->d_name, &p))
            continue;
        for (size_t i = 0; p.dirs[i]; i++)
            (void)rmdir(p.dirs[i]);
        rdt_place_deinit(&p);
        rdt_forget(pod_dir, e->d_name);
    }
    if (d)
        closedir(d);
    (void)rmdir(path);
}
