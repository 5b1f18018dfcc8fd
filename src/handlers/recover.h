/* SPDX-License-Identifier: Apache-2.0 */
/* Start-up: what the store says, what the supervisors and the kernel say, made one. */
#ifndef CRICKET_RECOVER_H
#define CRICKET_RECOVER_H

#include "handlers/objects.h"

/* Reads the sandbox and container records; a bad one is logged and left out. */
int recover_load(struct handlers *h, struct err *err);
/* Meets the supervisors, takes over exits, finishes what was half done, collects garbage. Runs the
 * loop until all of that has been answered, but some seconds at most for the supervisors: one that
 * hangs is met when it answers (struct sandbox.meeting). same_boot: else nothing of the records
 * lives any more. */
int recover_run(struct handlers *h, bool same_boot, struct err *err);
/* Forgets a supervisor that has not answered. */
struct meeting *meeting_free(struct meeting *m);

#endif
