/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes go socket -> pipe -> worker without a copy in between but the one curl makes. When the pipe
 * is full the transfer pauses and the sender's TCP window closes: a slow disk slows the registry,
 * not the daemon's memory. A transfer that breaks or stalls goes on by Range at the byte where it
 * stopped, into the same worker. */
#include "pull/layer.h"

#include "list.h"
#include "log.h"
#include "mem.h"
#include "reactor/child.h"
#include "str.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
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
    LAYER_MAGIC = 0x6c617972,
};

struct layer_use {
    struct list link;
    struct layers *all;
    struct layer *layer;             /* NULL after it failed */
    layer_fn fn;
    void *arg;
    struct repo *repo;
    struct layer_want want;          /* strings of its own */
    /* left another registry's failed transfer for one of its own */
    bool moved;
    enum layer_state told;
};

struct layer {
    unsigned magic;
    struct layers *all;
    struct list link;                /* in all->live or all->dying */
    struct list uses;
    enum layer_state state;
    unsigned busy;                   /* telling its uses: not to be freed */
    struct repo *repo;
    char *digest, *diff_id, *chain_id;
    char **urls;
    uint64_t size, number, bytes, inodes;
    struct reg_get *get;
    uint64_t got;                    /* bytes taken */
    int64_t progress_ms;             /* when the last ones came */
    int tries;
    struct ev_timer retry;
    int pipe;                        /* to the worker, -1 when closed */
    struct ev_io pipe_io;
    struct str spill;                /* what the pipe did not take */
    bool paused, complete;
    int sock;
    struct ev_io sock_io;
    struct child *child;
    struct err err;
};

struct layers {
    struct layers_opts o;
    char *worker;
    struct ev_timer kick;
    struct list live, dying;         /* dying: the worker must end before its directory can go */
    unsigned transfers;
};

static void run_queue(struct layers *ls);
static void on_kick(struct ev_loop *ev, struct ev_timer *w, int revents);
static void fail(struct layer *l, const struct err *err);

/* --- life */

struct layers *layers_new(const struct layers_opts *o)
{
    struct layers *ls = mem_new(struct layers);

    ls->o = *o;
    ls->worker = mem_strdup(o->worker);
    list_init(&ls->live);
    list_init(&ls->dying);
    ev_init(&ls->kick, on_kick);
    ls->kick.data = ls;
    return ls;
}

static void layer_free(struct layer *l)
{
    struct ev_loop *ev = loop_ev(l->all->o.loop);

    assert(list_empty(&l->uses));
    reg_get_cancel(l->get);
    ev_timer_stop(ev, &l->retry);
    ev_io_stop(ev, &l->pipe_io);
    ev_io_stop(ev, &l->sock_io);
    fd_close(l->pipe);
    fd_close(l->sock);
    if (l->child)
        child_disown(l->child);
    str_free(&l->spill);
    repo_unref(l->repo);
    list_del(&l->link);
    for (size_t i = 0; l->urls && l->urls[i]; i++)
        free(l->urls[i]);
    free(l->urls);
    free(l->digest);
    free(l->diff_id);
    free(l->chain_id);
    l->magic = 0;
    free(l);
}

struct layers *pull_layers_free(struct layers *ls)
{
    if (!ls)
        return NULL;
    assert(list_empty(&ls->live));
    while (!list_empty(&ls->dying)) {
        struct layer *l = list_first(&ls->dying, struct layer, link);

        layer_free(l);
    }
    ev_timer_stop(loop_ev(ls->o.loop), &ls->kick);
    free(ls->worker);
    free(ls);
    return NULL;
}

size_t layers_running(const struct layers *ls) { return ls->transfers; }

static void close_pipe(struct layer *l)
{
    ev_io_stop(loop_ev(l->all->o.loop), &l->pipe_io);
    l->pipe = fd_close(l->pipe);
    str_free(&l->spill);
}

/* The transfer is over; another may start. */
static void end_transfer(struct layer *l)
{
    reg_get_cancel(l->get);
    l->get = NULL;
    ev_timer_stop(loop_ev(l->all->o.loop), &l->retry);
    if (l->state == LAYER_RUNNING && !l->complete) {
        l->all->transfers--;
        l->complete = true;
    }
}

static void bury(struct layer *l)
{
    char rel[64];

    snprintf(rel, sizeof rel, "l/tmp-%" PRIu64, l->number);
    remover_add(l->all->o.remover, rel);
    snprintf(rel, sizeof rel, "l/%" PRIu64, l->number);
    remover_add(l->all->o.remover, rel);
    layer_free(l);
}

/* Nobody wants it, or it failed: the worker is killed, what it made is removed when it is dead. */
static void abandon(struct layer *l)
{
    struct layers *ls = l->all;

    end_transfer(l);
    close_pipe(l);
    ev_io_stop(loop_ev(ls->o.loop), &l->sock_io);
    l->sock = fd_close(l->sock);
    l->state = LAYER_FAILED;
    list_del(&l->link);
    list_add_tail(&ls->dying, &l->link);
    if (l->child)
        child_kill(l->child, SIGKILL);
    else if (!l->number)
        layer_free(l);               /* was never started */
    else
        bury(l);
    run_queue(ls);
}

/* --- uses */

static struct layer *find(struct layers *ls, const char *chain_id)
{
    struct layer *l;

    list_each(l, &ls->live, struct layer, link)
        if (strcmp(l->chain_id, chain_id) == 0)
            return l;
    return NULL;
}

bool layer_is_live(struct layers *ls, const char *chain_id) { return find(ls, chain_id) != NULL; }

bool layer_number_is_live(struct layers *ls, uint64_t number)
{
    struct layer *l;

    list_each(l, &ls->live, struct layer, link)
        if (l->number == number)
            return true;
    return false;
}

static char **strv_dup(char *const *v)
{
    size_t n = 0;
    char **r;

    while (v && v[n])
        n++;
    if (!n)
        return NULL;
    r = mem_array(n + 1, sizeof *r);
    for (size_t i = 0; i < n; i++)
        r[i] = mem_strdup(v[i]);
    return r;
}

static void on_retry(struct ev_loop *ev, struct ev_timer *w, int revents);
static void on_pipe(struct ev_loop *ev, struct ev_io *w, int revents);
static void on_sock(struct ev_loop *ev, struct ev_io *w, int revents);

static void join(struct layers *ls, struct layer_use *u)
{
    struct layer *l = find(ls, u->want.chain_id);

    if (!l) {
        l = mem_new(struct layer);
        l->magic = LAYER_MAGIC;
        l->all = ls;
        list_init(&l->uses);
        l->repo = repo_ref(u->repo);
        l->digest = mem_strdup(u->want.digest);
        l->diff_id = mem_strdup(u->want.diff_id);
        l->chain_id = mem_strdup(u->want.chain_id);
        l->urls = strv_dup(u->want.urls);
        l->size = u->want.size;
        l->pipe = l->sock = -1;
        ev_init(&l->retry, on_retry);
        ev_init(&l->pipe_io, on_pipe);
        ev_init(&l->sock_io, on_sock);
        l->retry.data = l->pipe_io.data = l->sock_io.data = l;
        list_add_tail(&ls->live, &l->link);
    }
    u->layer = l;
    list_add_tail(&l->uses, &u->link);
}

struct layer_use *layer_use(struct layers *ls, const struct layer_want *w, layer_fn fn, void *arg)
{
    struct layer_use *u = mem_new(struct layer_use);

    u->all = ls;
    u->fn = fn;
    u->arg = arg;
    u->repo = repo_ref(w->repo);
    u->want = *w;
    u->want.digest = mem_strdup(w->digest);
    u->want.diff_id = mem_strdup(w->diff_id);
    u->want.chain_id = mem_strdup(w->chain_id);
    u->want.urls = strv_dup(w->urls);
    list_init(&u->link);
    join(ls, u);
    run_queue(ls);
    return u;
}

static void use_free(struct layer_use *u)
{
    list_del(&u->link);
    repo_unref(u->repo);
    free((void *)(uintptr_t)u->want.digest);
    free((void *)(uintptr_t)u->want.diff_id);
    free((void *)(uintptr_t)u->want.chain_id);
    for (size_t i = 0; u->want.urls && u->want.urls[i]; i++)
        free(u->want.urls[i]);
    free((void *)(uintptr_t)u->want.urls);
    free(u);
}

static void unwanted(struct layer *l)
{
    struct layers *ls = l->all;
    char rel[64];

    if (!list_empty(&l->uses) || l->busy)
        return;
    if (l->state != LAYER_DONE) {
        abandon(l);
        return;
    }
    if (!ls->o.recorded(ls->o.ctx, l->chain_id, l->number)) {
        snprintf(rel, sizeof rel, "l/%" PRIu64, l->number);
        remover_add(ls->o.remover, rel);
    }
    layer_free(l);
}

void layer_drop(struct layer_use *u)
{
    struct layer *l;

    if (!u)
        return;
    l = u->layer;
    use_free(u);
    if (l)
        unwanted(l);
}

struct layer_info layer_info(const struct layer_use *u)
{
    const struct layer *l = u->layer;

    if (!l)
        return (struct layer_info){ .state = LAYER_FAILED };
    return (struct layer_info){ l->state, l->number, l->bytes, l->inodes, NULL };
}

/* Tells every use of the layer's state once; they may do what they like meanwhile. */
static void tell(struct layer *l)
{
    struct layer_use *u;
    bool again = true;

    l->busy++;
    while (again) {
        again = false;
        list_each(u, &l->uses, struct layer_use, link) {
            struct layer_info i = { l->state, l->number, l->bytes, l->inodes, NULL };

            if (u->told == l->state)
                continue;
            u->told = l->state;
            u->fn(u->arg, &i);
            again = true;            /* the ring may have changed: from the start */
            break;
        }
    }
    l->busy--;
    unwanted(l);
}

/* Those who asked another registry for the same layer are not to suffer: they get a transfer of
 * their own. */
static void fail(struct layer *l, const struct err *err)
{
    struct layers *ls = l->all;
    struct err e = *err;
    struct list uses;
    struct layer_use *u;
    struct repo *repo = repo_ref(l->repo);

    list_init(&uses);
    while ((u = list_first(&l->uses, struct layer_use, link))) {
        list_del(&u->link);
        list_add_tail(&uses, &u->link);
        u->layer = NULL;
    }
    log_debug("op=pull layer=%s number=%" PRIu64 " err='%s'", l->digest, l->number, e.text);
    abandon(l);
    while ((u = list_first(&uses, struct layer_use, link))) {
        struct layer_info i = { .state = LAYER_FAILED, .err = &e };

        list_del(&u->link);
        if (!u->moved && strcmp(repo_name(u->repo), repo_name(repo)) != 0) {
            u->moved = true;
            u->told = LAYER_QUEUED;
            join(ls, u);
            run_queue(ls);
        } else {
            u->fn(u->arg, &i);
        }
    }
    repo_unref(repo);
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
        close_pipe(l);
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
        fail(l, &e);
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
        end_transfer(l);             /* all is there, however the connection ended */
        if (!l->spill.len)
            close_pipe(l);
        run_queue(l->all);
    } else if (o == REG_OK) {
        err_set(&e, -EIO, "%s: layer %s: the transfer ended at byte %" PRIu64 " of %" PRIu64,
                repo_name(l->repo), l->digest, l->got, l->size);
        retry(l, &e, wait_ms);
    } else if (o == REG_AGAIN) {
        retry(l, err, wait_ms);
    } else if (err) {
        fail(l, err);
    } else if (l->err.code) {
        e = l->err;
        fail(l, &e);
    } else {
        end_transfer(l);             /* the worker did not take it: wait for its word */
        close_pipe(l);
        run_queue(l->all);
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
        end_transfer(l);
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
        fail(l, &e);
}

/* --- from the worker */

/* True: l is gone or failed. */
static bool on_message(struct layer *l, char *msg)
{
    struct err e = ERR_INIT;
    char *end;

    if (strcmp(msg, "ready") == 0 && l->state == LAYER_RUNNING && l->complete) {
        l->state = LAYER_READY;
        tell(l);
        return true;
    }
    if (str_starts(msg, "done ") && l->state == LAYER_FINISHING) {
        l->bytes = strtoull(msg + 5, &end, 10);
        l->inodes = strtoull(end, NULL, 10);
        l->state = LAYER_DONE;
        tell(l);
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
    fail(l, &e);
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
        bury(l);
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
    fail(l, &e);
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

/* One worker per turn of the loop: starting three at once held it for 20 ms. */
static void on_kick(struct ev_loop *ev, struct ev_timer *w, int revents)
{
    struct layers *ls = w->data;
    struct err e = ERR_INIT;
    struct layer *l, *next = NULL;

    (void)ev;
    (void)revents;
    list_each(l, &ls->live, struct layer, link)
        if (!next && l->state == LAYER_QUEUED)
            next = l;
    l = next;
    if (!l || ls->transfers >= ls->o.max_transfers)
        return;
    loop_name(ls->o.loop, "start layer");
    ls->transfers++;
    l->state = LAYER_RUNNING;
    l->number = ls->o.new_number(ls->o.ctx);
    l->progress_ms = clock_mono_ms();
    run_queue(ls);
    if (start_worker(l, &e) < 0 || start_get(l, &e) < 0)
        fail(l, &e);
}

/* Callers are not called back from inside: what is queued starts on a turn of its own. */
static void run_queue(struct layers *ls)
{
    if (ev_is_active(&ls->kick))
        return;
    ev_timer_set(&ls->kick, 0, 0);
    ev_timer_start(loop_ev(ls->o.loop), &ls->kick);
}

void layer_finish(struct layer_use *u, const uint64_t *lowers, size_t n)
{
    struct layer *l = u->layer;
    auto_str struct str msg = STR_INIT;

    if (!l || l->state != LAYER_READY)
        return;
    l->state = LAYER_FINISHING;
    str_puts(&msg, "finish");
    for (size_t i = 0; i < n; i++)
        str_printf(&msg, " %" PRIu64, lowers[i]);
    if (send(l->sock, msg.p, msg.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        child_kill(l->child, SIGKILL);   /* on_exit tells */
}
