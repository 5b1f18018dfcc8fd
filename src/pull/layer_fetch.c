/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes go socket -> pipe -> worker without a copy in between but the one curl makes. When the pipe
 * is full the transfer pauses and the sender's TCP window closes: a slow disk slows the registry,
 * not the daemon's memory. A transfer that breaks or stalls goes on by Range at the byte where it
 * stopped, into the same worker. */
#include "pull/layer_priv.h"

#include "log.h"
#include "mem.h"
#include "reactor/child.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum {
    PIPE_BYTES = 1024 * 1024,
    READ_BYTES = 256 * 1024,
    TRIES = 5,                       /* in a row without one byte */
    RETRY_MS = 250,                  /* doubled each time */
    WAIT_MAX_MS = 60 * 1000,         /* the longest Retry-After that is honoured */
    STALLS = 5,                      /* drops of a stalled transfer within stall_ms */
    MESSAGE_MAX = 2048,
};

void layer_close_pipe(struct layer *l)
{
    ev_io_stop(loop_ev(l->all->o.loop), &l->pipe_io);
    l->pipe = fd_close(l->pipe);
    str_free(&l->spill);
}

void layer_end_transfer(struct layer *l)
{
    reg_get_cancel(l->get);
    l->get = NULL;
    ev_timer_stop(loop_ev(l->all->o.loop), &l->retry);
    if (l->state == LAYER_RUNNING && !l->complete) {
        l->all->transfers--;
        l->complete = true;
    }
}

/* --- to the worker */

static bool flush(struct layer *l)
{
    while (l->spill.len) {
        ssize_t n = write(l->pipe, l->spill.p, l->spill.len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n < 0) {                 /* the worker is gone: its last word or its exit says why */
            str_reset(&l->spill);
            return true;
        }
        str_consume(&l->spill, (size_t)n);
    }
    return true;
}

static void on_pipe(struct ev_loop *ev, struct ev_io *w, int revents)
{
    struct layer *l = w->data;

    (void)revents;
    assert(l->magic == LAYER_MAGIC);
    loop_name(l->all->o.loop, "layer");
    if (!flush(l))
        return;
    ev_io_stop(ev, w);
    l->progress_ms = clock_mono_ms();
    if (l->complete)
        layer_close_pipe(l);
    else if (l->paused && l->get) {
        l->paused = false;
        reg_get_resume(l->get);
    }
}

static int on_head(void *arg, const char *type, int64_t total)
{
    struct layer *l = arg;

    (void)type;
    if (total >= 0 && (uint64_t)total != l->size)
        return err_set(&l->err, -EBADMSG,
                       "%s: layer %s: wrong content: %" PRId64 " bytes instead of %" PRIu64,
                       repo_name(l->repo), l->digest, total, l->size);
    return 0;
}

static int on_data(void *arg, const void *p, size_t n)
{
    struct layer *l = arg;
    ssize_t w;

    if (l->spill.len) {
        l->paused = true;
        return HTTP_PAUSE;
    }
    if (n > l->size - l->got)
        return err_set(&l->err, -EBADMSG,
                       "%s: layer %s: wrong content: more than the %" PRIu64
                       " bytes of the manifest",
                       repo_name(l->repo), l->digest, l->size);
    do
        w = write(l->pipe, p, n);
    while (w < 0 && errno == EINTR);
    if (w < 0 && errno != EAGAIN)
        return -errno;               /* EPIPE: the worker says why */
    if (w < 0)
        w = 0;
    l->got += n;
    l->progress_ms = clock_mono_ms();
    l->tries = 0;
    if ((size_t)w < n) {
        str_add(&l->spill, (const char *)p + w, n - (size_t)w);
        ev_io_start(loop_ev(l->all->o.loop), &l->pipe_io);
    }
    return 0;
}

static void retry(struct layer *l, const struct err *err, int64_t wait_ms)
{
    struct err e = *err;
    int64_t ms = wait_ms > 0 ? wait_ms : (int64_t)RETRY_MS << l->tries;
    int64_t idle = clock_mono_ms() - l->progress_ms;

    if (++l->tries > TRIES || wait_ms > WAIT_MAX_MS || idle > l->all->o.stall_ms) {
        if (idle > l->all->o.stall_ms)
            err_note(&e, "layer %s: nothing came for %lld s", l->digest, (long long)(idle / 1000));
        layer_fail(l, &e);
        return;
    }
    log_debug("op=pull layer=%s step=resume at=%" PRIu64 " of=%" PRIu64 " wait_ms=%lld err='%s'",
              l->digest, l->got, l->size, (long long)ms, e.text);
    ev_timer_set(&l->retry, (double)ms / 1000, 0);
    ev_timer_start(loop_ev(l->all->o.loop), &l->retry);
}

static void on_got(void *arg, enum reg_outcome o, const struct err *err, int64_t wait_ms)
{
    struct layer *l = arg;
    struct err e = ERR_INIT;

    l->get = NULL;
    l->paused = false;
    if (l->got == l->size && o != REG_FATAL) {
        layer_end_transfer(l);             /* all is there, however the connection ended */
        if (!l->spill.len)
            layer_close_pipe(l);
        layers_run_queue(l->all);
    } else if (o == REG_OK) {
        err_set(&e, -EIO, "%s: layer %s: the transfer ended at byte %" PRIu64 " of %" PRIu64,
                repo_name(l->repo), l->digest, l->got, l->size);
        retry(l, &e, wait_ms);
    } else if (o == REG_AGAIN) {
        retry(l, err, wait_ms);
    } else if (err) {
        layer_fail(l, err);
    } else if (l->err.code) {
        e = l->err;
        layer_fail(l, &e);
    } else {
        layer_end_transfer(l);             /* the worker did not take it: wait for its word */
        layer_close_pipe(l);
        layers_run_queue(l->all);
    }
}

static int start_get(struct layer *l, struct err *err)
{
    struct reg_get_spec spec = {
        .repo = l->repo,
        .kind = REG_BLOB,
        .what = l->digest,
        .urls = l->urls,
        .offset = l->got,
        .buffer = READ_BYTES,
        .stall_ms = l->all->o.stall_ms / STALLS,
        .head = on_head,
        .data = on_data,
        .done = on_got,
        .arg = l,
    };

    if (l->size == l->got && l->size) {
        layer_end_transfer(l);
        return 0;
    }
    return reg_get_start(l->all->o.reg, &spec, &l->get, err);
}

static void on_retry(struct ev_loop *ev, struct ev_timer *w, int revents)
{
    struct layer *l = w->data;
    struct err e = ERR_INIT;

    (void)ev;
    (void)revents;
    if (start_get(l, &e) < 0)
        layer_fail(l, &e);
}

/* --- from the worker */

/* True: l is gone or failed. */
static bool on_message(struct layer *l, char *msg)
{
    struct err e = ERR_INIT;
    char *end;

    if (strcmp(msg, "ready") == 0 && l->state == LAYER_RUNNING && l->complete) {
        l->state = LAYER_READY;
        layer_tell(l);
        return true;
    }
    if (str_starts(msg, "done ") && l->state == LAYER_FINISHING) {
        l->bytes = strtoull(msg + 5, &end, 10);
        l->inodes = strtoull(end, NULL, 10);
        l->state = LAYER_DONE;
        layer_tell(l);
        return true;
    }
    if (str_starts(msg, "fail ")) {
        long code = strtol(msg + 5, &end, 10);

        err_set(&e, code > 0 && code < 4096 ? -(int)code : -EIO, "%s: layer %s:%s",
                repo_name(l->repo), l->digest, end);
    } else {
        err_set(&e, -EPROTO, "%s: layer %s: worker says '%.100s'", repo_name(l->repo), l->digest,
                msg);
    }
    err_clean(&e);
    layer_fail(l, &e);
    return true;
}

static void on_sock(struct ev_loop *ev, struct ev_io *w, int revents)
{
    struct layer *l = w->data;
    char msg[MESSAGE_MAX];
    ssize_t n;

    (void)revents;
    assert(l->magic == LAYER_MAGIC);
    loop_name(l->all->o.loop, "layer");
    n = recv(l->sock, msg, sizeof msg - 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {                    /* it has ended; on_exit knows how */
        ev_io_stop(ev, w);
        return;
    }
    msg[n] = '\0';
    (void)on_message(l, msg);
}

static void on_exit_(void *arg, int status)
{
    struct layer *l = arg;
    struct err e = ERR_INIT;
    char msg[MESSAGE_MAX];
    ssize_t n;

    l->child = NULL;
    if (l->state == LAYER_FAILED) {
        layer_bury(l);
        return;
    }
    n = recv(l->sock, msg, sizeof msg - 1, MSG_DONTWAIT);
    if (n > 0) {                     /* the last word was faster than we */
        msg[n] = '\0';
        ev_io_stop(loop_ev(l->all->o.loop), &l->sock_io);
        (void)on_message(l, msg);
        return;
    }
    if (l->state == LAYER_DONE)
        return;
    err_set(&e, -EIO, "%s: layer %s: unpacking ended early (%s %d)", repo_name(l->repo), l->digest,
            status > 128 ? "signal" : "exit code", status > 128 ? status - 128 : status);
    layer_fail(l, &e);
}

static int start_worker(struct layer *l, struct err *err)
{
    struct layers *ls = l->all;
    char number[32], size[32];
    auto_fd int data_r = -1, ctl_child = -1;
    int p[2], s[2];
    char *argv[] = { (char[]){ "cricket-worker" },
                     (char[]){ "unpack" },
                     number,
                     l->digest,
                     size,
                     l->diff_id,
                     NULL };
    struct child_opts o = CHILD_OPTS_INIT;

    snprintf(number, sizeof number, "%" PRIu64, l->number);
    snprintf(size, sizeof size, "%" PRIu64, l->size);
    if (pipe2(p, O_CLOEXEC) < 0)
        return err_sys(err, "pipe");
    data_r = p[0];
    l->pipe = p[1];
    (void)fcntl(p[1], F_SETPIPE_SZ, PIPE_BYTES);
    if (fcntl(p[1], F_SETFL, O_NONBLOCK) < 0)
        return err_sys(err, "pipe");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) < 0)
        return err_sys(err, "socketpair");
    ctl_child = s[1];
    l->sock = s[0];
    const struct child_fd fds[] = { { data_r, 0 }, { ctl_child, 3 }, { ls->o.layers_fd, 4 } };

    o.path = ls->worker;
    o.argv = argv;
    o.fds = fds;
    o.n_fds = ARRAY_LEN(fds);
    ev_io_set(&l->pipe_io, l->pipe, EV_WRITE);
    ev_io_set(&l->sock_io, l->sock, EV_READ);
    ev_io_start(loop_ev(ls->o.loop), &l->sock_io);
    return child_spawn(ls->o.loop, &o, on_exit_, l, &l->child, err);
}

void layer_fetch_init(struct layer *l)
{
    l->pipe = l->sock = -1;
    ev_init(&l->retry, on_retry);
    ev_init(&l->pipe_io, on_pipe);
    ev_init(&l->sock_io, on_sock);
    l->retry.data = l->pipe_io.data = l->sock_io.data = l;
}

int layer_fetch(struct layer *l, struct err *err)
{
    int r = start_worker(l, err);

    return r < 0 ? r : start_get(l, err);
}
