/* SPDX-License-Identifier: Apache-2.0 */
/* What all pulls share. Only for the files in this folder. */
#ifndef CRICKET_PULLER_H
#define CRICKET_PULLER_H

#include "list.h"
#include "pull/layer.h"
#include "pull/pull.h"
#include "pull/registry.h"
#include "pull/remover.h"

struct puller {
    struct loop *loop;
    struct registry *reg;
    struct layers *layers;
    struct remover *remover;
    int root_fd, layers_fd;
    int64_t stall_ms;
    unsigned max_layers;
    struct list pulls;
    bool (*have_layer)(void *ctx, const char *chain_id, uint64_t *ret_number);
    void (*drop_layer)(void *ctx, uint64_t number);
    uint64_t (*new_number)(void *ctx);
    void *ctx;
};

void pull_drop_first(struct puller *p);          /* cancels the oldest pull */

#endif
