/* SPDX-License-Identifier: Apache-2.0 */
/* Deleting what nobody needs: a queue of trees beneath the root, one `cricket-worker remove` at a
 * time, held back while pulls write (for a while: on a full disk the space is wanted). */
#ifndef CRICKET_REMOVER_H
#define CRICKET_REMOVER_H

#include "err.h"
#include "reactor/loop.h"

#include <stdbool.h>

struct remover;

/* root_fd stays the caller's. busy: does something write now? */
struct remover *remover_new(struct loop *l, int root_fd, const char *worker,
                            bool (*busy)(void *ctx), void *ctx);
struct remover *remover_free(struct remover *r);
void remover_add(struct remover *r, const char *rel);    /* "l/12"; what is not there is no error */

#endif
