/* SPDX-License-Identifier: Apache-2.0 */
/* What CreateContainer tries and StartContainer needs: from a container's record to the spec, and
 * the seccomp filter that this asks for. A step of an operation; begin with zeroes. */
#ifndef CRICKET_PREPARE_H
#define CRICKET_PREPARE_H

#include "handlers/launch.h"
#include "reactor/op.h"

struct ctr_prep {
    struct op *op;
    struct ctr *c;
    struct ctr_input *input;
    struct spec *spec;
    const struct seccomp_filter *filter;      /* of ctr_seccomp_get(), when the step is over */
    bool waits;
};

/* Returns what the step does: waits until the filter is there, or fails. */
int ctr_prepare(struct ctr_prep *p, struct op *op, struct ctr *c);
/* Waits no longer. */
void ctr_prep_cancel(struct ctr_prep *p);
void ctr_prep_deinit(struct ctr_prep *p);

#endif
