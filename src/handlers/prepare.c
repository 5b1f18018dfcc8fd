/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/prepare.h"

static void on_filter(void *arg, const struct seccomp_filter *f, const struct err *err)
{
    struct ctr_prep *p = arg;

    p->waits = false;
    if (err) {
        struct err e = *err;

        err_note(&e, "seccomp profile of container '%s'", p->c->config->metadata->name);
        op_fail(p->op, &e);
        return;
    }
    p->filter = f;
    op_wake(p->op, WAKE_DONE);
}

int ctr_prepare(struct ctr_prep *p, struct op *op, struct ctr *c)
{
    const char *runtime;
    int r;

    p->op = op;
    p->c = c;
    p->input = ctr_input_new(c);
    r = spec_build(&p->input->in, &p->spec, &op->err);
    if (r == 0)
        r = ctr_runtime(c, &runtime, &op->err);
    if (r < 0)
        return r;
    p->waits = true;
    ctr_seccomp_get(c, runtime, p->spec->seccomp, p->spec->seccomp_path,
                    p->spec->plan.process.cap_bounding, on_filter, p);
    return op_wait(op, 0);    /* a wake that came already is kept */
}

void ctr_prep_cancel(struct ctr_prep *p)
{
    if (!p->waits)
        return;
    seccomp_cancel(p->c->h->seccomp, p);
    p->waits = false;
    op_wake(p->op, WAKE_CANCEL);
}

void ctr_prep_deinit(struct ctr_prep *p)
{
    spec_free(p->spec);
    ctr_input_free(p->input);
}
