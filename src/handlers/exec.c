/* SPDX-License-Identifier: Apache-2.0 */
#include "handlers/exec.h"

#include "handlers/ctr_op.h"
#include "handlers/launch.h"
#include "mem.h"
#include "proc/cgroup.h"

struct exec_plan {
    struct ctr *c;
    struct ctr_input *input;
    struct spec_exec *spec;
    exec_plan_fn done;
    void *arg;
};

struct ctr *exec_target(struct handlers *h, const char *id, char *const *cmd, size_t n_cmd,
                        struct err *err)
{
    struct ctr *c = ctr_find(h, id, err);

    if (!c || sandbox_met(c->sandbox, err) < 0)
        return NULL;
    if (!n_cmd || !cmd[0][0]) {
        err_rpc(err, GRPC_INVALID_ARGUMENT, "exec in container %s: the command is empty", c->id);
        return NULL;
    }
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || !c->sandbox->link ||
        c->remove) {
        err_rpc(err, GRPC_FAILED_PRECONDITION, "exec in container %s: it is not running (%s)",
                c->id, ctr_state_name(c));
        return NULL;
    }
    return c;
}

static void plan_end(struct exec_plan *p)
{
    spec_exec_free(p->spec);
    ctr_input_free(p->input);
    free(p);
}

void exec_plan_free(struct exec_plan *p)
{
    if (!p)
        return;
    seccomp_cancel(p->c->h->seccomp, p);
    plan_end(p);
}

static void plan_done(struct exec_plan *p, const struct err *err)
{
    exec_plan_fn done = p->done;
    void *arg = p->arg;
    struct err e = ERR_INIT;
    auto_str struct str plan = STR_INIT;

    if (!err && plan_encode_exec(&p->spec->process, p->c->id, &plan, &e) < 0)
        err = &e;
    else if (err) {
        e = *err;    /* may live in what is freed now */
        err = &e;
    }
    plan_end(p);
    done(arg, err ? NULL : &plan, err);
}

static void on_profile(void *arg, const struct seccomp_filter *f, const struct err *err)
{
    struct exec_plan *p = arg;

    if (!err) {
        p->spec->process.seccomp = f->bpf;
        p->spec->process.seccomp_len = f->len;
        p->spec->process.seccomp_flags = f->flags;
    }
    plan_done(p, err);
}

/* The runtime gives it the container's own filter. */
static void oci_plan(struct exec_plan *p, const char *path)
{
    auto_free char *json = NULL;
    struct err err = ERR_INIT;
    int r = spec_oci_process(&p->spec->process, &json, &err);

    p->spec->process.oci_path = path;
    p->spec->process.oci_json = json;
    plan_done(p, r < 0 ? &err : NULL);
}

void exec_plan_make(struct ctr *c, char *const *cmd, size_t n_cmd, bool tty, bool with_stdin,
                    exec_plan_fn done, void *arg, struct exec_plan **ret)
{
    struct exec_plan *p = mem_new(struct exec_plan);
    const char *runtime;
    struct err err = ERR_INIT;

    p->c = c;
    p->done = done;
    p->arg = arg;
    p->input = ctr_input_new(c);
    if (spec_build_exec(&p->input->in, cmd, n_cmd, tty, with_stdin, &p->spec, &err) < 0) {
        plan_end(p);
        done(arg, NULL, &err);
        return;
    }
    if (ctr_runtime(c, &runtime, &err) < 0) {
        plan_end(p);
        done(arg, NULL, &err);
        return;
    }
    if (runtime) {
        oci_plan(p, runtime);
        return;
    }
    *ret = p;
    ctr_seccomp_get(c, false, p->spec->seccomp, p->spec->seccomp_path,
                    p->spec->process.cap_bounding, on_profile, p);
}

int exec_launch(struct ctr *c, const struct str *plan, const int fds[3],
                const struct link_exec_events *ev, struct link_exec **ret, struct err *err)
{
    struct link *k = c->sandbox->link;
    int join[CGROUP_FDS_MAX], n, r;

    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || !k)
        return err_rpc(err, GRPC_FAILED_PRECONDITION, "exec in container %s: it has ended", c->id);
    bool known = link_keeps_cgroups(k) && c->execs_link == link_number(k);
    n = known ? 0 : cgroup_open_join(c->rec->cgroup_path, join, err);
    if (n < 0)
        return err_note(err, "exec in container %s", c->id);
    r = link_exec(k, c->id, plan, fds, join, (size_t)n, cgroup_is_v2(), ev, ret, err);
    cgroup_close_join(join, n);
    if (r < 0)
        return err_note(err, "exec in container %s", c->id);
    c->execs_link = link_number(k);
    return 0;
}

void ctr_end_execs(struct ctr *c)
{
    struct exec_base *b;

    while ((b = list_first(&c->execs, struct exec_base, l)))
        b->end(b);    /* leaves the list */
}

void sandbox_end_forwards(struct sandbox *s)
{
    struct exec_base *b;

    while ((b = list_first(&s->forwards, struct exec_base, l)))
        b->end(b);
}
