/* SPDX-License-Identifier: Apache-2.0 */
/* The puller: connections, layers in flight, the remover, and the layer directories' garbage. A
 * directory below l/ is a layer when a record names its number; everything else is what a pull or a
 * removal left when it was cut short. */
#include "pull/puller.h"

#include "log.h"
#include "mem.h"
#include "str.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { STALL_DEFAULT_MS = 5 * 60 * 1000, TRANSFERS_DEFAULT = 8, LAYERS_DEFAULT = 3 };

static bool is_busy(void *ctx)
{
    struct puller *p = ctx;

    return layers_running(p->layers) > 0;
}

static bool is_recorded(void *ctx, const char *chain_id, uint64_t number)
{
    struct puller *p = ctx;
    uint64_t have;

    if (!p->have_layer(p->ctx, chain_id, &have))
        return false;
    p->drop_layer(p->ctx, have);
    return have == number;
}

static uint64_t new_number(void *ctx)
{
    struct puller *p = ctx;

    return p->new_number(p->ctx);
}

int puller_new(struct loop *l, const struct puller_opts *o, struct puller **ret, struct err *err)
{
    struct puller *p = mem_new(struct puller);
    struct layers_opts lo = {
        .loop = l,
        .worker = o->worker,
        .max_transfers = o->max_transfers ? o->max_transfers : TRANSFERS_DEFAULT,
        .new_number = new_number,
        .recorded = is_recorded,
    };

    p->loop = l;
    p->root_fd = p->layers_fd = -1;
    p->stall_ms = o->stall_ms > 0 ? o->stall_ms : STALL_DEFAULT_MS;
    p->max_layers = o->max_layers ? o->max_layers : LAYERS_DEFAULT;
    p->have_layer = o->have_layer;
    p->drop_layer = o->drop_layer;
    p->new_number = o->new_number;
    p->ctx = o->ctx;
    list_init(&p->pulls);
    p->root_fd = open(o->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->root_fd >= 0 && mkdirat(p->root_fd, "l", 0711) < 0 && errno != EEXIST) {
        int r = err_sys(err, "%s/l", o->root);

        (void)close(p->root_fd);
        free(p);
        return r;
    }
    if (p->root_fd >= 0)
        p->layers_fd = openat(p->root_fd, "l", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (p->layers_fd < 0) {
        int r = err_sys(err, "%s%s", o->root, p->root_fd < 0 ? "" : "/l");

        fd_close(p->root_fd);
        free(p);
        return r;
    }
    p->reg = registry_new(l, o->hosts);
    p->remover = remover_new(l, p->root_fd, o->worker, is_busy, p);
    lo.reg = p->reg;
    lo.remover = p->remover;
    lo.layers_fd = p->layers_fd;
    lo.stall_ms = p->stall_ms;
    lo.ctx = p;
    p->layers = layers_new(&lo);
    *ret = p;
    return 0;
}

struct puller *puller_free(struct puller *p)
{
    if (!p)
        return NULL;
    while (!list_empty(&p->pulls))
        pull_drop_first(p);
    pull_layers_free(p->layers);
    registry_free(p->reg);
    remover_free(p->remover);
    fd_close(p->layers_fd);
    fd_close(p->root_fd);
    free(p);
    return NULL;
}

size_t pull_count(const struct puller *p)
{
    size_t n = 0;

    for (const struct list *l = p->pulls.next; l != &p->pulls; l = l->next)
        n++;
    return n;
}

void pull_remove_layers(struct puller *p, const uint64_t *numbers, size_t n)
{
    char rel[32];

    for (size_t i = 0; i < n; i++) {
        /* another pull has just fetched it and will record it anew, or drop it */
        if (layer_number_is_live(p->layers, numbers[i]))
            continue;
        snprintf(rel, sizeof rel, "l/%" PRIu64, numbers[i]);
        remover_add(p->remover, rel);
    }
}

void pull_remove_tree(struct puller *p, const char *rel)
{
    remover_add(p->remover, rel);
}

void pull_collect(struct puller *p, bool (*keep)(void *ctx, uint64_t number), void *ctx)
{
    DIR *d = fdopendir(fcntl(p->layers_fd, F_DUPFD_CLOEXEC, 0));
    struct dirent *e;

    if (!d)
        return;
    rewinddir(d);
    while ((e = readdir(d))) {
        auto_free char *rel = NULL;
        char aside[64];

        if (e->d_name[0] == '.')
            continue;
        if (e->d_name[strspn(e->d_name, "0123456789")] == '\0') {
            if (keep(ctx, strtoull(e->d_name, NULL, 10)))
                continue;
            /* out of the way at once: its number may be given out again */
            snprintf(aside, sizeof aside, "rm-%.20s-%d", e->d_name, (int)getpid());
            rel = mem_printf("l/%s", renameat(p->layers_fd, e->d_name, p->layers_fd, aside) == 0
                                         ? aside
                                         : e->d_name);
        } else if (str_starts(e->d_name, "tmp-")) {
            snprintf(aside, sizeof aside, "rm-%.24s-%d", e->d_name, (int)getpid());
            rel = mem_printf("l/%s", renameat(p->layers_fd, e->d_name, p->layers_fd, aside) == 0
                                         ? aside
                                         : e->d_name);
        } else if (str_starts(e->d_name, "rm-")) {
            rel = mem_printf("l/%s", e->d_name);
        } else {
            continue;                /* not ours */
        }
        log_debug("op=collect dir='%s'", rel);
        remover_add(p->remover, rel);
    }
    closedir(d);
}
