/* SPDX-License-Identifier: Apache-2.0 */
/* Start-up: what the store says, what the supervisors and the kernel say, made one. */
#ifndef CRICKET_RECOVER_H
#define CRICKET_RECOVER_H

#include "handlers/objects.h"

/* --- recover.c */
/* Reads the sandbox and container records; a bad one is logged and left out. */
int recover_load(struct handlers *h, struct err *err);
/* Meets the supervisors, takes over exits, finishes what was half done, collects garbage. Runs the
 * loop until all of that has been answered, but some seconds at most for the supervisors: one that
 * hangs is met when it answers (struct sandbox.meeting). same_boot: else nothing of the records
 * lives any more. */
int recover_run(struct handlers *h, bool same_boot, struct err *err);

/* Answers that start-up waits for: its loop runs until there are none. */
struct recovery {
    struct handlers *h;
    unsigned pending;
};
/* r may be NULL: start-up waits no more. */
void recovery_await(struct recovery *r);
void recovery_answer(struct recovery *r);
/* c ended and nobody was there to see how. */
void recover_lost(struct ctr *c, const char *reason, int code, const char *message);
/* Once it is known what runs of s: what was being made or removed is removed. That is awaited. s
 * may be gone when it is done. */
void recover_settle(struct recovery *r, struct sandbox *s);

/* --- recover_meet.c */
/* Meets the supervisor of s, or that in dir which is nobody's (s NULL) and is ended; awaited, but
 * for some seconds only. s may be gone afterwards. */
void recover_meet(struct recovery *r, struct sandbox *s, const char *dir);
/* Forgets a supervisor that has not answered. */
struct meeting *meeting_free(struct meeting *m);
/* And what says so to others: sandbox_met() (objects.h), sandbox_may_end(), sandbox_end_hung()
 * (sandbox_op.h). */

#endif
