/* SPDX-License-Identifier: Apache-2.0 */
/* struct run: one program with its input, its output and a deadline.
 *
 * It is over when the program has exited; what it wrote before is then in the pipes and is read to
 * the end without waiting for EOF, since a grandchild may hold the write ends for ever. The program
 * leads an own session, so that the deadline and a cancel kill its whole process group. The group
 * id cannot be anyone else's: it is the pid of our child, which is not reaped yet. */
#include "list.h"
#include "mem.h"
#include "reactor/child.h"
#include "str.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { ERROUT_MAX = 4096, READ_AT_ONCE = 16, EXTRA_FDS_MAX = 16 };

struct run {
    struct loop *loop;
    struct child *child;
    int in, out, errfd;              /* our ends, -1 when closed */
    ev_io in_io, out_io, err_io;
    ev_timer deadline;
    char *input;
    size_t in_len, in_off;
    struct str got, errs;
    size_t max_out;
    bool overflow, timed_out;
    run_done_fn done;
    void *arg;
};

static void close_in(struct run *r)
{
    if (r->in < 0)
        return;
    ev_io_stop(loop_ev(r->loop), &r->in_io);
    r->in = fd_close(r->in);
}

static void run_free(struct run *r)
{
    struct ev_loop *ev = loop_ev(r->loop);

    close_in(r);
    ev_io_stop(ev, &r->out_io);
    ev_io_stop(ev, &r->err_io);
    ev_timer_stop(ev, &r->deadline);
    fd_close(r->out);
    fd_close(r->errfd);
    free(r->input);
    str_free(&r->got);
    str_free(&r->errs);
    free(r);
}

static void kill_group(struct run *r)
{
    (void)kill(-child_pid(r->child), SIGKILL);
}

/* Reads what is there; false at EOF. Past `keep` bytes the rest is dropped and *over set. */
static bool drain(int fd, struct str *s, size_t keep, bool *over, int rounds)
{
    char buf[16384];

    while (rounds-- > 0) {
        ssize_t n = read(fd, buf, sizeof buf);

        if (n == 0)
            return false;
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN;
        }
        if ((size_t)n > keep - s->len) {
            *over = true;
            n = (ssize_t)(keep - s->len);
        }
        str_add(s, buf, (size_t)n);
    }
    return true;
}

static void on_in(struct ev_loop *ev, ev_io *w, int revents)
{
    struct run *r = w->data;
    ssize_t n = write(r->in, r->input + r->in_off, r->in_len - r->in_off);

    (void)ev;
    (void)revents;
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            close_in(r);             /* it does not want its input: its own matter */
        return;
    }
    r->in_off += (size_t)n;
    if (r->in_off == r->in_len)
        close_in(r);
}

static void on_out(struct ev_loop *ev, ev_io *w, int revents)
{
    struct run *r = w->data;

    (void)revents;
    if (!drain(r->out, &r->got, r->max_out, &r->overflow, READ_AT_ONCE))
        ev_io_stop(ev, w);
    if (r->overflow)
        kill_group(r);
}

static void on_err(struct ev_loop *ev, ev_io *w, int revents)
{
    struct run *r = w->data;
    bool over;

    (void)revents;
    if (!drain(r->errfd, &r->errs, ERROUT_MAX, &over, READ_AT_ONCE))
        ev_io_stop(ev, w);
}

static void on_deadline(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct run *r = w->data;

    (void)ev;
    (void)revents;
    r->timed_out = true;
    kill_group(r);                   /* the exit that follows ends the run */
}

static void on_exit_(void *arg, int status)
{
    struct run *r = arg;
    struct run_result res = { .status = status, .timed_out = r->timed_out };
    bool over;

    /* a pipe holds at most 1 MiB: bounded, and no waiting for a grandchild that holds it */
    if (ev_is_active(&r->out_io))
        (void)drain(r->out, &r->got, r->max_out, &r->overflow, 128);
    if (ev_is_active(&r->err_io))
        (void)drain(r->errfd, &r->errs, ERROUT_MAX, &over, 128);
    if (r->overflow)
        res.status = 255;
    res.out = str_c(&r->got);
    res.out_len = r->got.len;
    res.errout = str_c(&r->errs);
    r->done(r->arg, &res);
    run_free(r);
}

static int make_pipe(int p[2], int ours, struct err *err)
{
    if (pipe2(p, O_CLOEXEC) < 0)
        return err_sys(err, "pipe");
    if (fcntl(p[ours], F_SETFL, O_NONBLOCK) < 0)
        return err_sys(err, "pipe");
    return 0;
}

static void watch(struct run *r, ev_io *io, void (*cb)(struct ev_loop *, ev_io *, int), int fd,
                  int events)
{
    ev_io_init(io, cb, fd, events);
    io->data = r;
    if (fd >= 0)
        ev_io_start(loop_ev(r->loop), io);
}

int run_start(struct loop *l, const struct child_opts *o, const void *in, size_t in_len,
              size_t max_out, int64_t timeout_ms, run_done_fn done, void *arg, struct run **ret,
              struct err *err)
{
    int ip[2] = { -1, -1 }, op[2] = { -1, -1 }, ep[2] = { -1, -1 }, r;
    struct child_fd fds[EXTRA_FDS_MAX + 3];
    struct child_opts oo = *o;
    struct run *run = mem_new(struct run);

    assert(o->n_fds <= EXTRA_FDS_MAX);
    run->loop = l;
    run->in = run->out = run->errfd = -1;
    run->done = done;
    run->arg = arg;
    run->max_out = max_out;
    r = in_len ? make_pipe(ip, 1, err) : 0;
    if (r == 0)
        r = make_pipe(op, 0, err);
    if (r == 0)
        r = make_pipe(ep, 0, err);
    if (r == 0) {
        for (oo.n_fds = 0; oo.n_fds < o->n_fds; oo.n_fds++)
            fds[oo.n_fds] = o->fds[oo.n_fds];
        if (in_len)
            fds[oo.n_fds++] = (struct child_fd){ ip[0], 0 };
        fds[oo.n_fds++] = (struct child_fd){ op[1], 1 };
        fds[oo.n_fds++] = (struct child_fd){ ep[1], 2 };
        oo.fds = fds;
        oo.new_session = true;
        r = child_spawn(l, &oo, on_exit_, run, &run->child, err);
    }
    fd_close(ip[0]);
    fd_close(op[1]);
    fd_close(ep[1]);
    run->in = ip[1];
    run->out = op[0];
    run->errfd = ep[0];
    watch(run, &run->in_io, on_in, -1, EV_WRITE);
    watch(run, &run->out_io, on_out, -1, EV_READ);
    watch(run, &run->err_io, on_err, -1, EV_READ);
    ev_timer_init(&run->deadline, on_deadline, 0., 0.);
    run->deadline.data = run;
    if (r < 0) {
        run_free(run);
        return r;
    }
    if (in_len) {
        run->input = mem_dup(in, in_len);
        run->in_len = in_len;
        watch(run, &run->in_io, on_in, run->in, EV_WRITE);
    }
    watch(run, &run->out_io, on_out, run->out, EV_READ);
    watch(run, &run->err_io, on_err, run->errfd, EV_READ);
    if (timeout_ms > 0)
        loop_timer(l, &run->deadline, timeout_ms);
    *ret = run;
    return 0;
}

void run_kill(struct run *r)
{
    kill_group(r);
}

void run_leave(struct run *r)
{
    child_disown(r->child);
    run_free(r);
}

void run_cancel(struct run *r)
{
    kill_group(r);
    run_leave(r);
}
