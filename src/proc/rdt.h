/* SPDX-License-Identifier: Apache-2.0 */
/* What containers own in resctrl, as cricket-pod has written it down before it made it
 * (pod/rdt.c): for who removes it. */
#ifndef CRICKET_RDT_H
#define CRICKET_RDT_H

#include <stdbool.h>

struct rdt_place {
    char *root;                      /* where resctrl is mounted, for the lock */
    char *dirs[3];                   /* to be removed in this order; NULL terminated */
};

/* The record of a container below its pod's directory. False: there is none. */
bool rdt_read(const char *pod_dir, const char *id, struct rdt_place *ret);
void rdt_place_deinit(struct rdt_place *p);
void rdt_forget(const char *pod_dir, const char *id);
/* All that the containers of this pod own, and the records. Waits for the kernel: for start-up. */
void rdt_remove_all(const char *pod_dir);

#endif
