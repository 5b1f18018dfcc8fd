/* SPDX-License-Identifier: Apache-2.0 */
/* Who still works for an attachment, also after the daemon that began it was killed. Internal to
 * cni*.c.
 *
 * A FIFO named as the sandbox, open in every process that belongs to an ADD or DEL: it is there as
 * long as such a call has not ended, and its end of file says that the last of them is gone. */
#ifndef CRICKET_CNI_HOLD_H
#define CRICKET_CNI_HOLD_H

#include "err.h"
#include "reactor/loop.h"

#include <ev.h>
#include <stdint.h>

/* Its number in plugins: not one that scripts use (3 to 9, 10, 200), nor a shell (63, 255). */
enum { CNI_HOLD_FD = 127 };

/* err: one of them does not even end by SIGKILL; else NULL, and fd is open. */
typedef void (*cni_hold_fn)(void *arg, const struct err *err);

struct cni_hold {
    struct loop *loop;
    char *path;                      /* NULL: none is wanted */
    int fd;                          /* for the plugins, while it is taken; else -1 */
    int rest;                        /* what is waited for: the reading end, or -1 */
    int kills;                       /* how often they have been killed */
    ev_io io;
    ev_timer timer;
    cni_hold_fn taken;
    void *arg;
};

/* The directory must be there. */
void cni_hold_init(struct cni_hold *h, struct loop *l, const char *dir, const char *id,
                   cni_hold_fn taken, void *arg);
/* 0: taken. 1: others hold it, taken() follows when they are gone; after patience_ms they are
 * killed. -ENOSPC: there was none, and none can be made. */
int cni_hold_take(struct cni_hold *h, int64_t patience_ms, struct err *err);
/* The file stays: others may have it open. It can be taken again. */
void cni_hold_drop(struct cni_hold *h);
/* Nobody is left who matters: removes it. */
void cni_hold_end(struct cni_hold *h);
void cni_hold_deinit(struct cni_hold *h);        /* drops it */

#endif
