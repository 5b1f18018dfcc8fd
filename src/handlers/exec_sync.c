/* SPDX-License-Identifier: Apache-2.0 */
/* ExecSync (CRI.md 4.16): a command in a running container, its output in the reply.
 *
 *   seccomp profile -> plan -> link_exec -> read both pipes --exited--> drain at most 2 s -> reply
 *
 * Most commands are probes that say little and end soon. So the pipes are not looked at before
 * LISTEN_MS: until then the exit is the only thing that wakes the daemon, and all output is there.
 * Who says more than a pipe holds waits for that long, once.
 *
 * Both outputs share one budget that fits the client's message limit, stdout first; what goes
 * beyond it is read and dropped, so that the command is not disturbed. A timeout, a deadline or a
 * client that leaves kills all that the command started. */
#include "handlers/rpcs.h"

#include "handlers/ctr_op.h"
#include "handlers/exec.h"
#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum {
    OUTPUT_MAX = GRPC_MESSAGE_MAX - 64 * 1024,
    DRAIN_MS = 2000,
    KILL_AGAIN_MS = 1000,
    LISTEN_MS = 5,
    READ_SIZE = 64 * 1024,
    READS_PER_TURN = 4,
};

struct exec_sync {
    struct exec_base base;           /* first: in the container's list of execs */
    struct rpc *rpc;                 /* NULL: nobody waits any more */
    struct link_exec *exec;
    struct exec_plan *plan;
    int64_t timeout_ms;
    struct ev_timer timer;           /* the timeout, then the drain */
    struct ev_timer listen;
    struct pipe_in {
        struct ev_io io;
        struct str buf;
        struct exec_sync *x;
    } out, err;
    bool exited, timed_out;
    int status;
};

static void reply(struct exec_sync *x);

static void close_in(struct exec_sync *x, struct pipe_in *p)
{
    if (p->io.fd < 0)
        return;
    ev_io_stop(loop_ev(x->base.c->h->loop), &p->io);
    close(p->io.fd);
    p->io.fd = -1;
}

static void destroy(struct exec_sync *x)
{
    list_del(&x->base.l);
    ev_timer_stop(loop_ev(x->base.c->h->loop), &x->timer);
    ev_timer_stop(loop_ev(x->base.c->h->loop), &x->listen);
    close_in(x, &x->out);
    close_in(x, &x->err);
    if (x->exec)
        link_exec_forget(x->exec);
    exec_plan_free(x->plan);
    if (x->rpc) {
        rpc_on_gone(x->rpc, NULL, NULL);
        rpc_release(x->rpc);
    }
    str_free(&x->out.buf);
    str_free(&x->err.buf);
    free(x);
}

static void fail(struct exec_sync *x, const struct err *err)
{
    if (x->rpc)
        rpc_fail_err(x->rpc, err);
    destroy(x);
}

/* Stdout comes first: what it needs is taken from the end of stderr. */
static void keep(struct exec_sync *x, struct pipe_in *p, const char *buf, size_t n)
{
    size_t used = x->out.buf.len + x->err.buf.len;

    if (p == &x->out && used + n > OUTPUT_MAX && x->err.buf.len) {
        size_t over = used + n - OUTPUT_MAX;

        x->err.buf.len -= over < x->err.buf.len ? over : x->err.buf.len;
        used = x->out.buf.len + x->err.buf.len;
    }
    if (n > OUTPUT_MAX - used)
        n = OUTPUT_MAX - used;
    if (n)
        str_add(&p->buf, buf, n);
}

/* What is there, some of it if it is much. */
static void take(struct pipe_in *p)
{
    static char buf[READ_SIZE];

    for (int i = 0; p->io.fd >= 0 && i < READS_PER_TURN; i++) {
        ssize_t n = read(p->io.fd, buf, sizeof buf);

        if (n > 0) {
            keep(p->x, p, buf, (size_t)n);
            continue;
        }
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        close_in(p->x, p);
    }
}

static void on_output(struct ev_loop *ev, struct ev_io *w, int revents)
{
    struct pipe_in *p = container_of(w, struct pipe_in, io);
    struct exec_sync *x = p->x;

    (void)ev;
    (void)revents;
    loop_name(x->base.c->h->loop, "exec output");
    take(p);
    if (x->exited && x->out.io.fd < 0 && x->err.io.fd < 0)
        reply(x);
}

static void listen_to(struct exec_sync *x)
{
    struct ev_loop *ev = loop_ev(x->base.c->h->loop);

    ev_timer_stop(ev, &x->listen);
    if (x->out.io.fd >= 0)
        ev_io_start(ev, &x->out.io);
    if (x->err.io.fd >= 0)
        ev_io_start(ev, &x->err.io);
}

static void on_listen(struct ev_loop *ev, struct ev_timer *t, int revents)
{
    (void)ev;
    (void)revents;
    listen_to(container_of(t, struct exec_sync, listen));
}

static void reply(struct exec_sync *x)
{
    Runtime__V1__ExecSyncResponse r = RUNTIME__V1__EXEC_SYNC_RESPONSE__INIT;
    struct err err = ERR_INIT;

    if (x->timed_out) {
        err_rpc(&err, GRPC_DEADLINE_EXCEEDED,
                "exec in container %s: command timed out after %lld s", x->base.c->id,
                (long long)(x->timeout_ms / 1000));
        fail(x, &err);
        return;
    }
    r.stdout.data = (uint8_t *)x->out.buf.p;
    r.stdout.len = x->out.buf.len;
    r.stderr.data = (uint8_t *)x->err.buf.p;
    r.stderr.len = x->err.buf.len;
    r.exit_code = x->status;
    if (x->rpc)
        rpc_ok(x->rpc, &r.base);
    destroy(x);
}

static void on_timer(struct ev_loop *ev, struct ev_timer *t, int revents)
{
    struct exec_sync *x = container_of(t, struct exec_sync, timer);

    (void)ev;
    (void)revents;
    loop_name(x->base.c->h->loop, "exec timer");
    if (x->exited) {    /* a grandchild keeps the pipes: enough */
        reply(x);
        return;
    }
    x->timed_out = true;
    if (x->exec)
        link_exec_kill(x->exec);
    loop_timer(x->base.c->h->loop, &x->timer, KILL_AGAIN_MS);    /* should the word get lost */
}

static void on_started(void *arg, pid_t pid, int pty, const struct err *err)
{
    struct exec_sync *x = arg;

    (void)pid;
    fd_close(pty);
    if (err) {
        struct err e = *err;

        x->exec = NULL;
        err_note(&e, "exec in container %s", x->base.c->id);
        fail(x, &e);
        return;
    }
    if (x->timed_out)
        link_exec_kill(x->exec);
}

static void on_exited(void *arg, int status)
{
    struct exec_sync *x = arg;

    x->exec = NULL;
    x->exited = true;
    x->status = status;
    take(&x->out);
    take(&x->err);
    if (x->timed_out || (x->out.io.fd < 0 && x->err.io.fd < 0))
        reply(x);
    else {
        listen_to(x);
        loop_timer(x->base.c->h->loop, &x->timer, DRAIN_MS);
    }
}

static int open_pipe(struct pipe_in *p, int *ret_write, struct err *err)
{
    int fd[2];

    if (pipe2(fd, O_CLOEXEC) < 0)
        return err_sys(err, "pipe for the output of exec");
    (void)fcntl(fd[0], F_SETFL, O_NONBLOCK);    /* our end only: the command's is as it expects */
    ev_io_set(&p->io, fd[0], EV_READ);
    *ret_write = fd[1];
    return 0;
}

static void on_plan(void *arg, const struct str *plan, const struct err *err)
{
    struct exec_sync *x = arg;
    struct link_exec_events ev = {
        .started = on_started, .exited = on_exited, .arg = x, .quiet = true
    };
    struct err e = ERR_INIT;
    int fds[3] = { -1, -1, -1 };

    x->plan = NULL;
    if (err) {
        fail(x, err);
        return;
    }
    if (open_pipe(&x->out, &fds[1], &e) < 0 || open_pipe(&x->err, &fds[2], &e) < 0 ||
        exec_launch(x->base.c, plan, fds, &ev, &x->exec, &e) < 0) {
        fd_close(fds[1]);
        fd_close(fds[2]);
        fail(x, &e);
        return;
    }
    fd_close(fds[1]);
    fd_close(fds[2]);
    if (x->timeout_ms)
        loop_timer(x->base.c->h->loop, &x->timer, x->timeout_ms);
    ev_timer_set(&x->listen, LISTEN_MS / 1e3, 0.);
    ev_timer_start(loop_ev(x->base.c->h->loop), &x->listen);
}

static void on_rpc_gone(struct rpc *rpc, enum rpc_gone why, void *arg)
{
    struct exec_sync *x = arg;

    (void)why;
    rpc_release(rpc);
    x->rpc = NULL;
    destroy(x);    /* link_exec_forget kills what runs */
}

/* The container goes away, or the daemon. */
static void on_end(struct exec_base *b)
{
    struct exec_sync *x = container_of(b, struct exec_sync, base);
    struct err err = ERR_INIT;

    err_rpc(&err, GRPC_UNAVAILABLE, "exec in container %s: the container has ended", b->c->id);
    fail(x, &err);
}

void handle_exec_sync(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)
{
    const Runtime__V1__ExecSyncRequest *q = (const void *)req;
    struct err err = ERR_INIT;
    struct ctr *c = exec_target(ctx, q->container_id, q->cmd, q->n_cmd, &err);
    struct exec_sync *x;

    if (!c) {
        rpc_fail_err(rpc, &err);
        return;
    }
    x = mem_new(struct exec_sync);
    x->base.c = c;
    x->base.end = on_end;
    list_add_tail(&c->execs, &x->base.l);
    x->rpc = rpc;
    x->timeout_ms = q->timeout > 0 && q->timeout < INT64_MAX / 1000 ? q->timeout * 1000 : 0;
    ev_timer_init(&x->timer, on_timer, 0., 0.);
    ev_init(&x->listen, on_listen);
    ev_init(&x->out.io, on_output);
    ev_init(&x->err.io, on_output);
    x->out.io.fd = x->err.io.fd = -1;
    x->out.x = x->err.x = x;
    rpc_keep(rpc);
    rpc_on_gone(rpc, on_rpc_gone, x);
    exec_plan_make(c, q->cmd, q->n_cmd, false, false, on_plan, x, &x->plan);
}
