/* SPDX-License-Identifier: Apache-2.0 */
/* Exec, Attach and PortForward (CRI.md 4.17, 10): the RPC checks and answers a URL with a one-use
 * token; what happens when a client takes it up happens here, the bytes are moved by
 * reactor/stream.c and the supervisor.
 *
 * One struct streaming from the offer to the end of the session. It hangs on its container (or
 * sandbox), which ends it when it goes away itself; link and session are let go of exactly once, in
 * streaming_free(). */
#include "handlers/rpcs.h"

#include "handlers/ctr_op.h"
#include "handlers/exec.h"
#include "handlers/launch.h"
#include "mem.h"

#include <unistd.h>

struct streaming {
    struct exec_base base;           /* first; base.c is NULL for port-forward */
    struct handlers *h;
    struct sandbox *sandbox;         /* port-forward */
    char **cmd;                      /* exec: copied from the request */
    size_t n_cmd;
    bool tty, has_stdin;
    bool begun;                      /* the offer was taken up */
    struct session *session;
    struct exec_plan *plan;
    struct link_exec *exec;
    struct link_attach *attach;
};

static void streaming_free(struct streaming *x)
{
    list_del(&x->base.l);
    if (!x->begun)
        stream_withdraw(x->h->stream, x);
    exec_plan_free(x->plan);
    if (x->exec)
        link_exec_forget(x->exec);    /* kills what runs */
    if (x->attach)
        link_attach_close(x->attach);
    for (size_t i = 0; i < x->n_cmd; i++)
        free(x->cmd[i]);
    free(x->cmd);
    free(x);
}

/* The container or sandbox goes away, or the daemon. */
static void on_end(struct exec_base *b)
{
    struct streaming *x = container_of(b, struct streaming, base);

    if (x->session && x->sandbox)
        session_close(x->session);
    else if (x->session)
        session_fail(x->session,
                     x->h->ending ? "the runtime is ending, and what ran in this session with it"
                                  : "the container has ended");
    x->session = NULL;
    streaming_free(x);
}

static void on_gone(void *arg, struct session *s)
{
    struct streaming *x = arg;

    (void)s;
    x->session = NULL;
    streaming_free(x);
}

static void on_expired(void *arg)
{
    struct streaming *x = arg;

    x->begun = true;    /* nothing to withdraw any more */
    streaming_free(x);
}

static void fail(struct streaming *x, const struct err *err)
{
    struct err e = *err;

    err_clean(&e);
    session_fail(x->session, e.text);
    x->session = NULL;
    streaming_free(x);
}

static void offer(struct rpc *rpc, struct streaming *x, struct stream_offer *o,
                  void (*answer)(struct rpc *rpc, char *url))
{
    struct err err = ERR_INIT;
    char *url = NULL;

    o->gone = on_gone;
    o->expired = on_expired;
    o->arg = x;
    if (stream_offer(x->h->stream, o, &url, &err) < 0) {
        rpc_fail_err(rpc, &err);
        x->begun = true;
        streaming_free(x);
        return;
    }
    answer(rpc, url);
    free(url);
}

static struct streaming *streaming_new(struct handlers *h, struct ctr *c, struct sandbox *s)
{
    struct streaming *x = mem_new(struct streaming);

    x->h = h;
    x->base.c = c;
    x->base.end = on_end;
    x->sandbox = s;
    list_add_tail(c ? &c->execs : &s->forwards, &x->base.l);
    return x;
}

static int check_streams(bool in, bool out, bool err_stream, bool tty, struct err *err)
{
    if (!in && !out && !err_stream)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "one of stdin, stdout and stderr must be asked for");
    if (tty && err_stream)
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "tty and stderr exclude each other");
    return 0;
}

/* --- Exec */

static void on_exec_started(void *arg, pid_t pid, int pty, const struct err *err)
{
    struct streaming *x = arg;

    (void)pid;
    if (err) {
        x->exec = NULL;
        fail(x, err);
        return;
    }
    if (x->tty)
        session_pty(x->session, pty);
    else
        fd_close(pty);
}

static void on_exec_exited(void *arg, int status)
{
    struct streaming *x = arg;

    x->exec = NULL;
    session_exited(x->session, status);
    x->session = NULL;
    streaming_free(x);
}

static void on_exec_plan(void *arg, const struct str *plan, const struct err *err)
{
    struct streaming *x = arg;
    struct link_exec_events ev = { .started = on_exec_started, .exited = on_exec_exited, .arg = x };
    struct err e = ERR_INIT;
    int fds[3] = { -1, -1, -1 }, r;

    x->plan = NULL;
    if (err) {
        fail(x, err);
        return;
    }
    if (!x->tty)
        session_fds(x->session, fds);
    r = exec_launch(x->base.c, plan, fds, &ev, &x->exec, &e);
    if (!x->tty)
        session_close_fds(x->session);
    if (r < 0)
        fail(x, &e);
}

static void exec_begin(void *arg, struct session *s)
{
    struct streaming *x = arg;

    x->begun = true;
    x->session = s;
    exec_plan_make(x->base.c, x->cmd, x->n_cmd, x->tty, x->has_stdin, on_exec_plan, x, &x->plan);
}

static void exec_resize(void *arg, struct session *s, uint16_t width, uint16_t height)
{
    struct streaming *x = arg;

    (void)s;
    if (x->exec)
        link_exec_resize(x->exec, width, height);
}

static void answer_exec(struct rpc *rpc, char *url)
{
    Runtime__V1__ExecResponse r = RUNTIME__V1__EXEC_RESPONSE__INIT;

    r.url = url;
    rpc_ok(rpc, &r.base);
}

void handle_exec(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ExecRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct err err = ERR_INIT;
    struct stream_offer o = { .kind = STREAM_EXEC,
                              .in = q->stdin,
                              .out = q->stdout,
                              .err = q->stderr,
                              .tty = q->tty,
                              .begin = exec_begin,
                              .resize = exec_resize };
    struct streaming *x;
    struct ctr *c;

    if (check_streams(q->stdin, q->stdout, q->stderr, q->tty, &err) < 0 ||
        !(c = exec_target(h, q->container_id, q->cmd, q->n_cmd, &err))) {
        rpc_fail_err(rpc, &err);
        return;
    }
    x = streaming_new(h, c, NULL);
    x->tty = q->tty;
    x->has_stdin = q->stdin;
    x->cmd = mem_array(q->n_cmd, sizeof *x->cmd);
    for (x->n_cmd = 0; x->n_cmd < q->n_cmd; x->n_cmd++)
        x->cmd[x->n_cmd] = mem_strdup(q->cmd[x->n_cmd]);
    offer(rpc, x, &o, answer_exec);
}

/* --- Attach */

static void on_attach_closed(void *arg, const struct err *err)
{
    struct streaming *x = arg;

    x->attach = NULL;
    if (err) {
        fail(x, err);
        return;
    }
    session_exited(x->session, -1);
    x->session = NULL;
    streaming_free(x);
}

static void attach_begin(void *arg, struct session *s)
{
    struct streaming *x = arg;
    struct ctr *c = x->base.c;
    struct err err = ERR_INIT;
    int fds[3] = { -1, -1, -1 }, r;

    x->begun = true;
    x->session = s;
    session_fds(s, fds);
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || !c->sandbox->link)
        r = err_rpc(&err, GRPC_FAILED_PRECONDITION, "attach to container %s: it has ended", c->id);
    else
        r = link_attach(c->sandbox->link, c->id, c->config->stdin ? fds[0] : -1, fds[1],
                        c->config->tty ? -1 : fds[2], on_attach_closed, x, &x->attach, &err);
    session_close_fds(s);
    if (r < 0)
        fail(x, &err);
}

static void attach_resize(void *arg, struct session *s, uint16_t width, uint16_t height)
{
    struct streaming *x = arg;
    struct ctr *c = x->base.c;

    (void)s;
    if (x->attach && c->sandbox->link)
        link_resize(c->sandbox->link, c->id, width, height);
}

static void answer_attach(struct rpc *rpc, char *url)
{
    Runtime__V1__AttachResponse r = RUNTIME__V1__ATTACH_RESPONSE__INIT;

    r.url = url;
    rpc_ok(rpc, &r.base);
}

void handle_attach(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__AttachRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct err err = ERR_INIT;
    struct stream_offer o = { .kind = STREAM_ATTACH,
                              .in = q->stdin,
                              .out = q->stdout,
                              .err = q->stderr,
                              .tty = q->tty,
                              .begin = attach_begin,
                              .resize = attach_resize };
    struct ctr *c = ctr_find(h, q->container_id, &err);

    if (!c || sandbox_met(c->sandbox, &err) < 0 ||
        check_streams(q->stdin, q->stdout, q->stderr, q->tty, &err) < 0) {
        rpc_fail_err(rpc, &err);
        return;
    }
    if (c->rec->state != CRICKET__STATE__CONTAINER__STATE__RUNNING || !c->sandbox->link ||
        c->remove) {
        rpc_fail(rpc, GRPC_FAILED_PRECONDITION, "attach to container %s: it is not running (%s)",
                 c->id, ctr_state_name(c));
        return;
    }
    if (!q->tty != !c->config->tty) {
        rpc_fail(rpc, GRPC_INVALID_ARGUMENT,
                 "attach to container %s: it has %s terminal, the request %s", c->id,
                 c->config->tty ? "a" : "no", q->tty ? "wants one" : "wants none");
        return;
    }
    offer(rpc, streaming_new(h, c, NULL), &o, answer_attach);
}

/* --- PortForward */

static void forward_begin(void *arg, struct session *s)
{
    struct streaming *x = arg;

    x->begun = true;
    x->session = s;
}

static int forward_dial(void *arg, int family, struct err *err)
{
    const struct streaming *x = arg;

    return netns_socket(sandbox_host_network(x->sandbox) ? NULL : x->sandbox->rec->netns, family,
                        err);
}

static void answer_forward(struct rpc *rpc, char *url)
{
    Runtime__V1__PortForwardResponse r = RUNTIME__V1__PORT_FORWARD_RESPONSE__INIT;

    r.url = url;
    rpc_ok(rpc, &r.base);
}

void handle_port_forward(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__PortForwardRequest *q = (const void *)req;
    struct handlers *h = ctx;
    struct err err = ERR_INIT;
    struct stream_offer o = { .kind = STREAM_PORT_FORWARD, .ports = q->port, .n_ports = q->n_port,
                              .begin = forward_begin, .dial = forward_dial };
    struct sandbox *s = sandbox_find(h, q->pod_sandbox_id, &err);

    if (!s) {
        rpc_fail_err(rpc, &err);
        return;
    }
    for (size_t i = 0; i < q->n_port; i++) {
        if (q->port[i] < 1 || q->port[i] > 65535) {
            rpc_fail(rpc, GRPC_INVALID_ARGUMENT, "port %d is not between 1 and 65535", q->port[i]);
            return;
        }
    }
    if (!sandbox_is_ready(s) || s->stop || s->remove) {
        rpc_fail(rpc, GRPC_FAILED_PRECONDITION, "port-forward to sandbox %s: it is not ready",
                 s->id);
        return;
    }
    offer(rpc, streaming_new(h, NULL, s), &o, answer_forward);
}
