/* SPDX-License-Identifier: Apache-2.0 */
/* What a seccomp profile says, as libseccomp has it. */
#ifndef CRICKET_WORKER_SECCOMP_COMPILE_H
#define CRICKET_WORKER_SECCOMP_COMPILE_H

#include "err.h"

#include <jansson.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { COMPILE_ARCHES_MAX = 16 };

struct compiler {
    scmp_filter_ctx ctx;             /* NULL before compile_profile() */
    const char *caps;                /* the container's, "CAP_KILL,CAP_CHOWN,..." */
    char arch[16];                   /* as Go calls it, and so do the profiles */
    int kernel[2];
    uint32_t default_action;
    uint32_t arches[COMPILE_ARCHES_MAX];
    int newest[COMPILE_ARCHES_MAX];          /* highest system call number that the profile names */
    size_t n_arches;
    size_t n_rules;
    uint32_t flags;
    struct err *err;
};

/* For this machine and kernel; caps and err are borrowed. */
int compile_init(struct compiler *c, const char *caps, struct err *err);
/* Fills c. Also after a failure: compile_deinit(). */
int compile_profile(struct compiler *c, const json_t *profile);
void compile_deinit(struct compiler *c);
/* Do the conditions of a rule in Docker's form hold here? */
bool compile_wants(const struct compiler *c, const json_t *rule);
/* "SCMP_ARCH_..."; NULL: none that a profile can name. */
const char *compile_arch_name(uint32_t token);

#endif
