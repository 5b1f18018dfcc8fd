/* SPDX-License-Identifier: Apache-2.0 */
/* Batches on their way to the disk.
 *
 *      store_batch_commit --> queue --> frame (all that waits) --> writer --> ack --> done()
 *      store_put --> lazy set --(lazy_ms)--> queue
 *
 * One frame is on its way at a time; what is submitted meanwhile makes the next one, so a slow disk
 * costs one sync for many batches. The writer is started when there is something to write and ends
 * by itself when idle. If it dies before it has acknowledged, a new one gets the same frame:
 * changes are absolute, twice does no harm. A writer that says why it cannot write (a full disk)
 * makes the batches of the frame fail; lazy records are kept and tried again. */
#include "store/priv.h"

#include "log.h"
#include "mem.h"
#include "reactor/child.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum {
    FRAME_MAX = 4 * 1024 * 1024,     /* batches are joined up to this */
    BATCH_MAX = STORE_MSG_MAX - FRAME_MAX,
    TRIES = 5,                       /* writers in a row that die over one frame */
    LAZY_RETRY_MS = 5000,
};

struct store_batch {
    struct list link;
    struct durable *d;
    struct str changes;
    bool lazy, too_large;
    struct err err;                  /* of one that waits in `refused` */
    void (*done)(void *arg, const struct err *err);
    void *arg;
};

struct durable {
    struct loop *loop;
    char *root, *worker;
    int64_t lazy_ms;
    struct changes lazy;
    struct list queue;               /* batches not yet in a frame */
    struct list flight;              /* those of the frame */
    struct list refused;             /* done() is due, from a callback of its own */
    struct str frame;
    size_t sent;
    uint64_t seq;
    unsigned deaths;                 /* writers since the last acknowledgement */
    bool bad, closing;
    struct child *child;
    int fd;                          /* our end of the socket, -1 without a writer */
    struct str in;
    struct ev_io rd, wr;
    struct ev_timer lazy_timer, spawn_timer, refused_timer;
};

static void go_on(struct durable *d);

/* --- batches */

struct store_batch *store_batch_new(struct store *s)
{
    struct store_batch *b = mem_new(struct store_batch);

    list_init(&b->link);
    b->d = store_durable(s);
    return b;
}

struct store_batch *store_batch_free(struct store_batch *b)
{
    if (b) {
        list_del(&b->link);
        str_free(&b->changes);
        free(b);
    }
    return NULL;
}

static bool fits(struct store_batch *b, const char *key, size_t len)
{
    if (!key[0] || strlen(key) > STORE_KEY_MAX || len > BATCH_MAX - b->changes.len)
        b->too_large = true;
    return !b->too_large;
}

void store_batch_put(struct store_batch *b, enum store_table t, const char *key, const void *val,
                     size_t len)
{
    if (fits(b, key, len + STORE_KEY_MAX + 64))
        store_msg_put(&b->changes, t, key, val, len);
}

void store_batch_del(struct store_batch *b, enum store_table t, const char *key)
{
    if (fits(b, key, STORE_KEY_MAX + 64))
        store_msg_del(&b->changes, t, key);
}

static void batch_done(struct store_batch *b, const struct err *err)
{
    if (b->done)
        b->done(b->arg, err);
    store_batch_free(b);
}

/* err: of those that have none of their own; NULL: they succeeded. */
static void answer(struct list *head, const struct err *err)
{
    struct store_batch *b;

    while ((b = list_first(head, struct store_batch, link))) {
        list_del(&b->link);
        batch_done(b, b->err.code ? &b->err : err);
    }
}

static void on_refused(struct ev_loop *ev, struct ev_timer *t, int events)
{
    struct durable *d = t->data;

    (void)ev, (void)events;
    answer(&d->refused, NULL);
}

/* done() later, with err; code 0: it succeeded. */
static void settle_later(struct store_batch *b)
{
    struct durable *d = b->d;

    list_add_tail(&d->refused, &b->link);
    if (!ev_is_active(&d->refused_timer)) {
        ev_timer_set(&d->refused_timer, 0, 0);
        ev_timer_start(loop_ev(d->loop), &d->refused_timer);
    }
}

void store_batch_commit(struct store_batch *b, void (*done)(void *arg, const struct err *err),
                        void *arg)
{
    b->done = done;
    b->arg = arg;
    if (b->too_large || !b->changes.len) {
        if (b->too_large)
            err_set(&b->err, -E2BIG, "store: a batch over %d MiB, or a key that is none",
                    BATCH_MAX / 1024 / 1024);
        settle_later(b);
        return;
    }
    list_add_tail(&b->d->queue, &b->link);
    go_on(b->d);
}

/* --- lazy records */

static void start_lazy(struct durable *d, int64_t ms)
{
    if (ev_is_active(&d->lazy_timer) || d->closing)
        return;
    ev_timer_set(&d->lazy_timer, (double)ms / 1000.0, 0);
    ev_timer_start(loop_ev(d->loop), &d->lazy_timer);
}

void durable_lazy(struct durable *d, bool del, unsigned table, const char *key, const void *val,
                  size_t len)
{
    changes_set(&d->lazy, del, table, key, val, len);
    start_lazy(d, d->lazy_ms);
}

static void queue_lazy(struct durable *d)
{
    struct change *x;

    while (d->lazy.count) {
        struct store_batch *b = mem_new(struct store_batch);

        b->d = d;
        b->lazy = true;
        list_add_tail(&d->queue, &b->link);
        list_each(x, &d->lazy.all, struct change, all) {
            if (b->changes.len > FRAME_MAX)
                break;
            if (x->del)
                store_msg_del(&b->changes, x->table, x->key);
            else
                store_msg_put(&b->changes, x->table, x->key, x->val, x->len);
            changes_drop(&d->lazy, x);
        }
    }
}

static void on_lazy(struct ev_loop *ev, struct ev_timer *t, int events)
{
    struct durable *d = t->data;

    (void)ev, (void)events;
    queue_lazy(d);
    go_on(d);
}

/* They could not be written: back into the set, unless there is something newer by now. */
static void keep_lazy(struct durable *d, struct store_batch *b)
{
    const char *p = str_c(&b->changes);
    size_t n = b->changes.len;
    struct store_change c;

    while (store_msg_next(&p, &n, &c) > 0)
        if (!changes_find(&d->lazy, c.table, c.key))
            changes_set(&d->lazy, c.del, c.table, c.key, c.val, c.len);
    start_lazy(d, LAZY_RETRY_MS);
}

/* --- the writer */

static void close_socket(struct durable *d)
{
    ev_io_stop(loop_ev(d->loop), &d->rd);
    ev_io_stop(loop_ev(d->loop), &d->wr);
    d->fd = fd_close(d->fd);
    str_reset(&d->in);
    d->sent = 0;
}

/* The frame is over: err, or NULL for success. */
static void frame_done(struct durable *d, const struct err *err)
{
    struct list over = LIST_INIT(over);
    struct store_batch *b;

    d->deaths = 0;
    if (err && !d->bad)
        log_error("op=store err='%s'", err->text);
    else if (!err && d->bad)
        log_info("op=store durable='%s/store' healthy=true", d->root);
    d->bad = err != NULL;
    str_free(&d->frame);
    d->sent = 0;
    while ((b = list_first(&d->flight, struct store_batch, link))) {
        list_del(&b->link);
        list_add_tail(&over, &b->link);
    }
    while ((b = list_first(&over, struct store_batch, link))) {
        list_del(&b->link);
        if (err && b->lazy)
            keep_lazy(d, b);
        batch_done(b, err);
    }
}

static void on_writer_gone(struct durable *d, const char *how)
{
    struct err err = ERR_INIT;

    close_socket(d);
    if (list_empty(&d->flight))
        return;
    if (++d->deaths > 1)
        log_warn("op=store err='the durable writer %s before it had written', starting another",
                 how);
    if (d->deaths >= TRIES) {
        err_set(&err, -EIO, "the durable writer %s %d times over the same batch", how, TRIES);
        frame_done(d, &err);
    }
}

static void on_exit_status(void *arg, int status)
{
    struct durable *d = arg;
    char how[40];

    d->child = NULL;
    snprintf(how, sizeof how, status > 128 ? "died of signal %d" : "exited with %d",
             status > 128 ? status - 128 : status);
    on_writer_gone(d, how);
    go_on(d);
}

static int start_writer(struct durable *d, struct err *err)
{
    char job[] = "store", mode[] = "write";
    char *argv[] = { d->worker, job, mode, d->root, NULL };
    struct child_fd fd = { .to = 0 };
    struct child_opts o = CHILD_OPTS_INIT;
    int sv[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
        return err_sys(err, "socket for the durable writer");
    fd.from = sv[1];
    o.path = d->worker;
    o.argv = argv;
    o.fds = &fd;
    o.n_fds = 1;
    int r = child_spawn(d->loop, &o, on_exit_status, d, &d->child, err);
    close(sv[1]);
    if (r < 0) {
        close(sv[0]);
        return err_note(err, "start of the durable writer");
    }
    d->fd = sv[0];
    d->sent = 0;
    ev_io_set(&d->rd, d->fd, EV_READ);
    ev_io_set(&d->wr, d->fd, EV_WRITE);
    ev_io_start(loop_ev(d->loop), &d->rd);
    return 0;
}

/* Writes what the socket takes. */
static void send_frame(struct durable *d)
{
    while (d->fd >= 0 && d->sent < d->frame.len) {
        ssize_t k = send(d->fd, d->frame.p + d->sent, d->frame.len - d->sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0 && errno == EAGAIN)
            break;
        if (k < 0) {                 /* it is gone or going: its exit is told */
            ev_io_stop(loop_ev(d->loop), &d->wr);
            return;
        }
        d->sent += (size_t)k;
    }
    if (d->fd >= 0 && d->sent < d->frame.len)
        ev_io_start(loop_ev(d->loop), &d->wr);
    else
        ev_io_stop(loop_ev(d->loop), &d->wr);
}

static void make_frame(struct durable *d)
{
    struct store_batch *b;

    store_msg_begin(&d->frame, STORE_MSG_BATCH, ++d->seq);
    list_each(b, &d->queue, struct store_batch, link) {
        if (!list_empty(&d->flight) && d->frame.len + b->changes.len > FRAME_MAX)
            break;
        str_add(&d->frame, b->changes.p, b->changes.len);
        list_del(&b->link);
        list_add_tail(&d->flight, &b->link);
    }
    store_msg_end(&d->frame);
    d->sent = 0;
}

/* Does what there is to do: a frame, a writer for it, its bytes. */
static void go_on(struct durable *d)
{
    struct err err = ERR_INIT;

    if (list_empty(&d->flight)) {
        if (list_empty(&d->queue))
            return;
        make_frame(d);
    }
    if (d->fd < 0) {
        if (d->child || ev_is_active(&d->spawn_timer))
            return;                  /* the last one has not gone yet, or just died */
        if (start_writer(d, &err) < 0) {
            log_warn("op=store err='%s', trying again", err.text);
            if (++d->deaths >= TRIES)
                frame_done(d, &err);
        }
        if (d->fd < 0 || d->deaths > 1) {
            ev_timer_set(&d->spawn_timer, 0.1 * d->deaths, 0);
            ev_timer_start(loop_ev(d->loop), &d->spawn_timer);
        }
    }
    send_frame(d);
}

static void on_spawn(struct ev_loop *ev, struct ev_timer *t, int events)
{
    (void)ev, (void)events;
    go_on(t->data);
}

static void on_writable(struct ev_loop *ev, struct ev_io *w, int events)
{
    (void)ev, (void)events;
    send_frame(w->data);
}

static void on_ack(struct durable *d, const struct store_msg_head *h, const char *p)
{
    struct err err = ERR_INIT;
    int32_t status = -EBADMSG;

    if (h->kind != STORE_MSG_ACK || h->seq != d->seq || h->len < sizeof status)
        return;                      /* nothing that was asked for */
    memcpy(&status, p, sizeof status);
    if (status >= 0) {
        frame_done(d, NULL);
        return;
    }
    err_set(&err, status, "%.*s", (int)(h->len - sizeof status), p + sizeof status);
    frame_done(d, &err);
}

static void on_readable(struct ev_loop *ev, struct ev_io *w, int events)
{
    struct durable *d = w->data;
    struct store_msg_head h;
    int m;

    (void)ev, (void)events;
    ssize_t k = recv(d->fd, str_room(&d->in, 4096), 4096, MSG_DONTWAIT);
    if (k < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (k <= 0) {
        close_socket(d);             /* its exit status says the rest */
        return;
    }
    d->in.len += (size_t)k;
    while ((m = store_msg_head(d->in.p, d->in.len, &h)) > 0) {
        on_ack(d, &h, d->in.p + sizeof h);
        str_consume(&d->in, sizeof h + h.len);
    }
    if (m < 0 && d->child)
        child_kill(d->child, SIGKILL);
    go_on(d);
}

/* --- life */

struct durable *durable_new(struct loop *l, const char *root, const char *worker, int64_t lazy_ms)
{
    struct durable *d = mem_new(struct durable);

    d->loop = l;
    d->root = mem_strdup(root);
    d->worker = mem_strdup(worker);
    d->lazy_ms = lazy_ms;
    d->fd = -1;
    changes_init(&d->lazy);
    list_init(&d->queue);
    list_init(&d->flight);
    list_init(&d->refused);
    ev_init(&d->rd, on_readable);
    ev_init(&d->wr, on_writable);
    ev_init(&d->lazy_timer, on_lazy);
    ev_init(&d->spawn_timer, on_spawn);
    ev_init(&d->refused_timer, on_refused);
    d->rd.data = d->wr.data = d;
    d->lazy_timer.data = d->spawn_timer.data = d->refused_timer.data = d;
    return d;
}

struct durable *durable_free(struct durable *d)
{
    struct err err = ERR_INIT;

    if (!d)
        return NULL;
    if (d->child)
        child_disown(d->child);      /* it sees the end of the socket and goes */
    close_socket(d);
    ev_timer_stop(loop_ev(d->loop), &d->lazy_timer);
    ev_timer_stop(loop_ev(d->loop), &d->spawn_timer);
    ev_timer_stop(loop_ev(d->loop), &d->refused_timer);
    err_set(&err, -ESHUTDOWN, "store: closed before it was written");
    answer(&d->refused, NULL);
    answer(&d->flight, &err);
    answer(&d->queue, &err);
    changes_clear(&d->lazy);
    str_free(&d->frame);
    str_free(&d->in);
    free(d->root);
    free(d->worker);
    free(d);
    return NULL;
}

bool durable_healthy(const struct durable *d)
{
    return !d->bad;
}

static void on_tick(struct ev_loop *ev, struct ev_timer *t, int events)
{
    (void)ev, (void)t, (void)events;     /* ends one wait of durable_flush() */
}

void durable_flush(struct durable *d, int64_t timeout_ms)
{
    int64_t end = clock_mono_ms() + timeout_ms;
    struct ev_loop *ev = loop_ev(d->loop);
    struct ev_timer tick;

    d->closing = true;
    ev_timer_stop(ev, &d->lazy_timer);
    queue_lazy(d);
    go_on(d);
    ev_timer_init(&tick, on_tick, 0.1, 0.1);
    ev_timer_start(ev, &tick);
    /* Only our own watchers matter by now, but others may still run: last turns of the loop. */
    while ((!list_empty(&d->queue) || !list_empty(&d->flight)) && clock_mono_ms() < end && !d->bad)
        ev_run(ev, EVRUN_ONCE);
    ev_timer_stop(ev, &tick);
    if (!list_empty(&d->queue) || !list_empty(&d->flight) || d->lazy.count)
        log_warn("op=store err='not all records could be written to %s/store', ignoring", d->root);
}
