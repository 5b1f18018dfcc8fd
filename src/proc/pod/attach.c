/* SPDX-License-Identifier: Apache-2.0 */
/* Attach: a client has up to three descriptors of its own. Output is copied to every client as it
 * is logged. When a client is behind by ATTACH_HIGH the container's output is not read until it is
 * down to ATTACH_LOW: so it gets all of a burst. It has ATTACH_STALL_MS for that, or is dropped:
 * nobody waits for it for longer, or at less than some 16 KiB a second. Once the container has
 * ended, clients have what is left for as long as they take something, and nobody waits. Input of
 * all clients is merged into the container's stdin; while that is full the client is not read.
 *
 * End of input closes a stdin_once container's stdin, but not when the input ended because the
 * daemon was killed: that looks the same for the moment between two descriptors closing, so the end
 * is acted on a little later, link permitting. */
#include "pod.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    ATTACH_HIGH = 64 * 1024,
    ATTACH_LOW = ATTACH_HIGH / 2,
    ATTACH_IN = 4096,
    ATTACH_EOF_MS = 20,
    ATTACH_STALL_MS = 2000,
};

struct sink {                        /* one output of a client */
    struct src src;
    struct attach *a;
    char *buf;
    size_t len, cap;
};

struct attach {
    struct attach *next;             /* of the container, or of `ending` */
    struct ctr *ctr;                 /* NULL: it has ended */
    uint32_t serial;
    struct src in;
    char *held;                      /* read from in, not taken by the container yet */
    size_t held_len;
    struct timer eof;
    struct sink out, err;
    struct timer stall; /* runs: it is behind; or the container has ended, and it has not all */
    bool moved;         /* then: it took something since the timer was set */
};

static struct attach *ending;        /* of ended containers, their last output is on its way */

static void close_src(struct src *s)
{
    int fd = s->fd;

    src_del(s);
    if (fd >= 0)
        close(fd);
}

static void unlink_attach(struct attach *a)
{
    for (struct attach **p = a->ctr ? &a->ctr->attached : &ending; *p; p = &(*p)->next)
        if (*p == a) {
            *p = a->next;
            break;
        }
}

static void attach_free(struct attach *a, bool tell)
{
    unlink_attach(a);
    if (tell)
        talk_send(WIRE_ATTACH_END, a->serial, NULL, 0, -1);
    if (a->ctr)
        stdio_watch(a->ctr);         /* if it was what held the output up */
    timer_off(&a->eof);
    timer_off(&a->stall);
    close_src(&a->in);
    close_src(&a->out.src);
    close_src(&a->err.src);
    free(a->held);
    free(a->out.buf);
    free(a->err.buf);
    free(a);
}

/* ---- input */

static void on_eof_later(struct timer *t)
{
    struct attach *a = container_of(t, struct attach, eof);
    struct ctr *c = a->ctr;

    if (talk_up() && c->stdin_once && !c->tty)
        close_src(&c->in);           /* for good */
}

/* False: the container takes no more now. */
static bool give(struct attach *a)
{
    struct ctr *c = a->ctr;

    while (a->held_len) {
        ssize_t n = c->in.fd < 0 ? -1 : write(c->in.fd, a->held, a->held_len);
        if (n < 0 && c->in.fd >= 0 && errno == EINTR)
            continue;
        if (n < 0 && c->in.fd >= 0 && errno == EAGAIN)
            return false;
        if (n < 0)                   /* stdin is closed: what comes is dropped */
            n = (ssize_t)a->held_len;
        a->held_len -= (size_t)n;
        memmove(a->held, a->held + n, a->held_len);
    }
    return true;
}

static void on_in(struct src *s, uint32_t events)
{
    struct attach *a = container_of(s, struct attach, in);

    (void)events;
    ssize_t n = read(s->fd, a->held, ATTACH_IN);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        close_src(s);
        timer_set(&a->eof, ATTACH_EOF_MS, on_eof_later);
        return;
    }
    a->held_len = (size_t)n;
    if (!give(a)) {
        src_mod(s, 0);
        src_mod(&a->ctr->in, EPOLLOUT);
    }
}

void attach_stdin_ready(struct ctr *c)
{
    for (struct attach *a = c->attached; a; a = a->next) {
        if (!a->held_len)
            continue;
        if (!give(a))
            return;
        src_mod(&a->in, EPOLLIN);
    }
    src_mod(&c->in, 0);
}

/* ---- output */

static bool has_over(const struct attach *a, size_t mark)
{
    return a->out.len >= mark || a->err.len >= mark;
}

bool attach_holds(const struct ctr *c)
{
    for (const struct attach *a = c->attached; a; a = a->next)
        if (a->stall.at_ms)
            return true;
    return false;
}

static void on_stall(struct timer *t)
{
    struct attach *a = container_of(t, struct attach, stall);
    struct wire_reply why = { -ETIMEDOUT, "the client does not take the output" };

    if (!a->ctr && a->moved) {
        a->moved = false;
        timer_set(t, ATTACH_STALL_MS, on_stall);
        return;
    }
    talk_send(WIRE_ATTACH_END, a->serial, &why,
              offsetof(struct wire_reply, text) + strlen(why.text) + 1, -1);
    attach_free(a, false);
}

static void sink_flush(struct sink *k)
{
    size_t done = 0;

    while (done < k->len) {
        ssize_t n = write(k->src.fd, k->buf + done, k->len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        done += (size_t)n;
    }
    if (done)
        k->a->moved = true;
    k->len -= done;
    memmove(k->buf, k->buf + done, k->len);
    if (k->len == 0) {
        free(k->buf);
        k->buf = NULL;
        k->cap = 0;
    }
}

static void on_sink(struct src *s, uint32_t events)
{
    struct sink *k = container_of(s, struct sink, src);
    struct attach *a = k->a;

    sink_flush(k);
    if (k->len && (events & (EPOLLERR | EPOLLHUP))) {
        attach_free(a, true);        /* the client has gone */
        return;
    }
    if (!k->len)
        src_mod(s, 0);
    if (!a->ctr) {
        if (!a->out.len && !a->err.len)
            attach_free(a, true);
    } else if (a->stall.at_ms && !has_over(a, ATTACH_LOW)) {
        timer_off(&a->stall);
        stdio_watch(a->ctr);
    }
}

/* False: the client is to be dropped. */
static bool sink_put(struct sink *k, const char *p, size_t n)
{
    if (k->src.fd < 0)
        return true;
    while (n && !k->len) {
        ssize_t w = write(k->src.fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0 && errno != EAGAIN)
            return false;
        if (w < 0)
            break;
        p += w;
        n -= (size_t)w;
    }
    if (!n)
        return true;
    if (k->len + n > k->cap) { /* up to ATTACH_HIGH and a read, at the end what the pipe held */
        size_t cap = k->len + n > ATTACH_HIGH ? k->len + n : ATTACH_HIGH;
        char *q = realloc(k->buf, cap);
        if (!q)
            return false;
        k->buf = q;
        k->cap = cap;
    }
    memcpy(k->buf + k->len, p, n);
    k->len += n;
    src_mod(&k->src, EPOLLOUT);
    return true;
}

void attach_output(struct ctr *c, bool err, const char *p, size_t n)
{
    for (struct attach *a = c->attached, *next; a; a = next) {
        next = a->next;
        if (!sink_put(err ? &a->err : &a->out, p, n))
            attach_free(a, true);
        else if (has_over(a, ATTACH_HIGH) && !a->stall.at_ms)
            timer_set(&a->stall, ATTACH_STALL_MS, on_stall);
    }
}

/* ---- clients */

void attach_start(uint32_t serial, struct ctr *c, const struct wire_attach *m, int *fds,
                  size_t n_fds)
{
    struct attach *a = calloc(1, sizeof *a);
    struct {
        uint32_t flag;
        struct src *src;
        uint32_t events;
        void (*fn)(struct src *, uint32_t);
    } want[3] = {
        { WIRE_FD_0, a ? &a->in : NULL, EPOLLIN, on_in },
        { WIRE_FD_1, a ? &a->out.src : NULL, 0, on_sink },
        { WIRE_FD_2, a ? &a->err.src : NULL, 0, on_sink },
    };
    size_t k = 0;
    int r = 0;

    if (a)
        a->held = malloc(ATTACH_IN);
    if (!a || !a->held) {
        free(a);
        talk_reply(serial, -ENOMEM, "out of memory");
        return;
    }
    a->ctr = c;
    a->serial = serial;
    a->out.a = a->err.a = a;
    a->in.fd = a->out.src.fd = a->err.src.fd = -1;
    a->next = c->attached;
    c->attached = a;
    for (int i = 0; i < 3; i++) {
        if (!(m->flags & want[i].flag))
            continue;
        if (k >= n_fds) {
            r = -EINVAL;
            break;
        }
        (void)fcntl(fds[k], F_SETFL, fcntl(fds[k], F_GETFL) | O_NONBLOCK);
        r = src_add(want[i].src, fds[k], want[i].events, want[i].fn);
        if (r < 0)
            break;
        fds[k++] = -1;
    }
    if (r < 0) {
        attach_free(a, false);
        talk_reply(serial, r, "attach: %s", strerror(-r));
        return;
    }
    talk_reply(serial, 0, "%s", "");
}

static struct attach *find(uint32_t serial)
{
    for (struct ctr *c = ctrs; c; c = c->next)
        for (struct attach *a = c->attached; a; a = a->next)
            if (a->serial == serial)
                return a;
    for (struct attach *a = ending; a; a = a->next)
        if (a->serial == serial)
            return a;
    return NULL;
}

void attach_close(uint32_t serial)
{
    struct attach *a = find(serial);

    if (!a)
        return;
    if (a->eof.at_ms)                /* the end of its input is still to count */
        on_eof_later(&a->eof);
    attach_free(a, false);
}

/* The last output may still be on its way to a client. */
void attach_ctr_end(struct ctr *c)
{
    struct attach *a;

    while ((a = c->attached)) {
        if (a->out.len)
            sink_flush(&a->out);
        if (a->err.len)
            sink_flush(&a->err);
        unlink_attach(a);
        a->ctr = NULL;
        timer_off(&a->eof);
        close_src(&a->in);
        a->held_len = 0;
        a->next = ending;
        ending = a;
        if (!a->out.len && !a->err.len)
            attach_free(a, true);
        else
            timer_set(&a->stall, ATTACH_STALL_MS, on_stall);
    }
}

void attach_link_down(void)
{
    for (struct ctr *c = ctrs; c; c = c->next)
        while (c->attached)
            attach_free(c->attached, false);
    while (ending)
        attach_free(ending, false);
}
