/* SPDX-License-Identifier: Apache-2.0 */
/* A container's output to its CRI log: "<RFC 3339 time> <stdout|stderr> <F|P> <content>\n".
 *
 * A chunk is read, cut at newlines, and written as whole entries, many with one write(2). The
 * beginning of a line whose end has not come yet waits in `part`, at most one entry long. What the
 * file system refuses (full) waits in `pend`; until that is written nothing more is read, so the
 * writer stalls and nobody else. The entry that was cut by a short write is completed first; if
 * there never comes room for it, its beginning is taken back. So the file holds no torn line, and
 * where a supervisor was killed with one on its hands, the next to open the file ends it. */
#include "pod.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RETRY_MIN_MS = 200, RETRY_MAX_MS = 2000 };

static size_t out_len;               /* bytes in scratch_out; 0 between calls */

static void on_stream(struct src *s, uint32_t events);
static void pend_add(struct log *g, const char *p, size_t n);
static void stream_pause(struct ctr *c);

static void end_line(struct log *g, int fd)
{
    struct stat st;
    char last;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !st.st_size)
        return;
    int in = host_open(g->path, O_RDONLY | O_NOCTTY | O_NONBLOCK, 0);
    bool torn = in >= 0 && pread(in, &last, 1, st.st_size - 1) == 1 && last != '\n';
    if (in >= 0)
        close(in);
    if (torn && write(fd, "\n", 1) != 1) {
        pend_add(g, "\n", 1);
        stream_pause(container_of(g, struct ctr, log));
    }
}

int log_open(struct log *g)
{
    const char *slash = strrchr(g->path, '/');
    int fd;

    if (g->path[0] != '/') {
        errno = EINVAL;
        return -1;
    }
    fd = host_open(g->path, O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_NONBLOCK, 0640);
    if (fd < 0 && errno == ENOENT && slash != g->path) {
        int r = host_mkdir_p(g->path, (size_t)(slash - g->path), 0755);
        if (r < 0) {
            errno = -r;
            return -1;
        }
        fd = host_open(g->path, O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_NONBLOCK, 0640);
    }
    if (fd >= 0)
        end_line(g, fd);
    return fd;
}

static char *put2(char *p, unsigned v)
{
    *p++ = (char)('0' + v / 10);
    *p++ = (char)('0' + v % 10);
    return p;
}

/* "2026-01-02T03:04:05.000000006Z stdout F " */
size_t log_prefix(char *buf, int64_t ns, bool err, char tag)
{
    static int64_t last = -1;
    static char day[20];
    int64_t sec = ns / 1000000000;
    uint32_t frac = (uint32_t)(ns % 1000000000);
    char *p = buf;

    if (sec != last) { /* days to year, month, day: proleptic Gregorian, years starting in March */
        int64_t d = sec / 86400 + 719468;
        unsigned s = (unsigned)(sec % 86400), doe = (unsigned)(d % 146097);
        unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
        unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
        unsigned year = (unsigned)(d / 146097) * 400 + yoe + (mp >= 10),
                 month = mp < 10 ? mp + 3 : mp - 9;
        char *q = put2(put2(day, year / 100), year % 100);
        *q++ = '-';
        q = put2(q, month);
        *q++ = '-';
        q = put2(q, doy - (153 * mp + 2) / 5 + 1);
        *q++ = 'T';
        q = put2(q, s / 3600);
        *q++ = ':';
        q = put2(q, s / 60 % 60);
        *q++ = ':';
        (void)put2(q, s % 60);
        last = sec;
    }
    memcpy(p, day, 19);
    p += 19;
    *p++ = '.';
    for (int i = 8; i >= 0; i--) {
        p[i] = (char)('0' + frac % 10);
        frac /= 10;
    }
    p += 9;
    memcpy(p, err ? "Z stderr " : "Z stdout ", 9);
    p += 9;
    *p++ = tag;
    *p++ = ' ';
    return (size_t)(p - buf);
}

/* ---- writing */

static void pend_add(struct log *g, const char *p, size_t n)
{
    if (g->pend_len + n > g->pend_cap) {
        size_t cap = (g->pend_len + n) * 2;
        char *q = realloc(g->pend, cap);
        if (!q)
            return;                  /* lost: no memory left for one pipe's worth */
        g->pend = q;
        g->pend_cap = cap;
    }
    memcpy(g->pend + g->pend_len, p, n);
    g->pend_len += n;
}

static void wrote(struct log *g, const char *p, size_t n)
{
    const char *nl = memrchr(p, '\n', n);

    g->torn = nl ? (size_t)(p + n - nl - 1) : g->torn + n;
}

static void flush_out(struct log *g)
{
    size_t done = 0;

    while (done < out_len && g->fd >= 0 && !g->pend_len) {
        ssize_t n = write(g->fd, scratch_out + done, out_len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        wrote(g, scratch_out + done, (size_t)n);
        done += (size_t)n;
    }
    if (done < out_len && g->fd >= 0)
        pend_add(g, scratch_out + done, out_len - done);
    out_len = 0;
}

static void put(struct log *g, const char *p, size_t n)
{
    while (n) {
        size_t room = SCRATCH_OUT - out_len, k = n < room ? n : room;
        memcpy(scratch_out + out_len, p, k);
        out_len += k;
        p += k;
        n -= k;
        if (out_len == SCRATCH_OUT)
            flush_out(g); /* only an entry longer than the buffer gets here, see entry() */
    }
}

static void entry(struct ctr *c, bool err, char tag, int64_t ns, const char *a, size_t an,
                  const char *b, size_t bn)
{
    char pre[48];
    size_t pn = log_prefix(pre, ns, err, tag);

    if (out_len + pn + an + bn + 1 > SCRATCH_OUT)
        flush_out(&c->log);
    put(&c->log, pre, pn);
    put(&c->log, a, an);
    put(&c->log, b, bn);
    put(&c->log, "\n", 1);
}

static void part_free(struct stream *s)
{
    free(s->part);
    s->part = NULL;
    s->part_len = s->part_cap = 0;
}

static void part_add(struct stream *s, const char *p, size_t n)
{
    if (s->part_len + n > s->part_cap) {
        size_t max = s->ctr->log.line_max, cap = (s->part_len + n) * 2;
        cap = cap < 256 ? 256 : cap > max ? max : cap;
        char *q = realloc(s->part, cap);
        if (!q)
            return;
        s->part = q;
        s->part_cap = (uint32_t)cap;
    }
    memcpy(s->part + s->part_len, p, n);
    s->part_len += (uint32_t)n;
}

static void log_chunk(struct stream *s, const char *p, size_t n)
{
    struct ctr *c = s->ctr;
    size_t max = c->log.line_max;
    int64_t ns = now_wall_ns();

    if (c->log.fd < 0)
        return;
    while (n) {
        size_t room = max - s->part_len, look = n < room + 1 ? n : room + 1;
        const char *nl = memchr(p, '\n', look);
        if (nl) {
            size_t k = (size_t)(nl - p);
            entry(c, s->err, 'F', ns, s->part, s->part_len, p, k);
            s->part_len = 0;
            p += k + 1;
            n -= k + 1;
        } else if (n > room) {       /* more than fits, and the byte behind is no newline */
            entry(c, s->err, 'P', ns, s->part, s->part_len, p, room);
            s->part_len = 0;
            p += room;
            n -= room;
        } else {
            part_add(s, p, n);
            n = 0;
        }
    }
    flush_out(&c->log);
    if (s->part_len == 0)
        part_free(s);
}

/* No more of this line will come from the one who began it. */
static void log_part(struct stream *s)
{
    if (s->part_len && s->ctr->log.fd >= 0) {
        entry(s->ctr, s->err, 'P', now_wall_ns(), s->part, s->part_len, "", 0);
        scratch_used();
        flush_out(&s->ctr->log);
    }
    part_free(s);
}

/* ---- a log that cannot be written */

static void on_retry(struct timer *t);

void stdio_watch(struct ctr *c)
{
    uint32_t events = c->log.pend_len || attach_holds(c) ? 0 : EPOLLIN;

    src_mod(&c->out.src, events);
    src_mod(&c->err.src, events);
}

static void stream_pause(struct ctr *c)
{
    stdio_watch(c);
    if (!c->log.timer.at_ms) {
        c->log.retry_ms = c->log.retry_ms ? c->log.retry_ms : RETRY_MIN_MS;
        timer_set(&c->log.timer, c->log.retry_ms, on_retry);
    }
}

/* True when nothing is left to be written. */
static bool pend_flush(struct log *g)
{
    while (g->pend_len) {
        ssize_t n = write(g->fd, g->pend, g->pend_len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        wrote(g, g->pend, (size_t)n);
        g->pend_len -= (size_t)n;
        memmove(g->pend, g->pend + n, g->pend_len);
    }
    free(g->pend);
    g->pend = NULL;
    g->pend_cap = 0;
    g->retry_ms = 0;
    return true;
}

void log_end(struct log *g)
{
    struct stat st;

    if (g->fd < 0 || pend_flush(g) || !g->torn)
        return;
    off_t end = lseek(g->fd, 0, SEEK_CUR);        /* of what we wrote last */
    if (fstat(g->fd, &st) == 0 && st.st_size == end && end >= (off_t)g->torn)
        (void)ftruncate(g->fd, end - (off_t)g->torn);
}

static void drain_rest(struct ctr *c);

static void on_retry(struct timer *t)
{
    struct log *g = container_of(t, struct log, timer);
    struct ctr *c = container_of(g, struct ctr, log);

    if (!pend_flush(g)) {
        g->retry_ms = g->retry_ms * 2 > RETRY_MAX_MS ? RETRY_MAX_MS : g->retry_ms * 2;
        timer_set(t, g->retry_ms, on_retry);
        return;
    }
    stdio_watch(c);
    if (c->state >= CTR_DRAINING)
        drain_rest(c);               /* may free c */
}

/* ---- reading */

static void stream_close(struct stream *s)
{
    int fd = s->src.fd;

    if (fd < 0)
        return;
    src_del(&s->src);
    close(fd);
    log_part(s);
    if (s->ctr->log.pend_len)
        stream_pause(s->ctr);
}

/* One read. Bytes got; 0: nothing there now; -1: the end, closed. */
static ssize_t stream_read(struct stream *s, size_t max)
{
    ssize_t n = read(s->src.fd, scratch_in, max < SCRATCH_IN ? max : SCRATCH_IN);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0) {                    /* a pty's end is EIO */
        stream_close(s);
        return -1;
    }
    scratch_used();
    attach_output(s->ctr, s->err, scratch_in, (size_t)n);
    log_chunk(s, scratch_in, (size_t)n);
    if (s->ctr->log.pend_len)
        stream_pause(s->ctr);
    else
        stdio_watch(s->ctr);
    return n;
}

static void on_stream(struct src *src, uint32_t events)
{
    struct stream *s = container_of(src, struct stream, src);

    (void)events;
    (void)stream_read(s, SCRATCH_IN);
}

void stdio_start(struct ctr *c, int out, int err)
{
    if (src_add(&c->out.src, out, EPOLLIN, on_stream) < 0)
        close(out);
    if (err >= 0 && src_add(&c->err.src, err, EPOLLIN, on_stream) < 0)
        close(err);
}

/* What lies in a pipe when its writer has died is all that the dead one wrote; survivors may go on
 * writing for ever. */
static void drain_stream(struct stream *s)
{
    int left = 0;

    if (s->src.fd < 0 || s->ctr->log.pend_len)
        return;
    if (s->ctr->tty)
        left = 1 << 20; /* FIONREAD says nothing about what the line discipline still holds */
    else if (ioctl(s->src.fd, FIONREAD, &left) < 0)
        return;
    while (left > 0 && !s->ctr->log.pend_len) {
        ssize_t n = stream_read(s, (size_t)left);
        if (n <= 0)
            return;
        left -= (int)n;
    }
    if (s->src.fd >= 0 && !s->ctr->log.pend_len)
        (void)stream_read(s, SCRATCH_IN);         /* the end of file, if nobody else holds it */
}

static void drain_rest(struct ctr *c)
{
    drain_stream(&c->out);
    drain_stream(&c->err);
    log_part(&c->out);
    log_part(&c->err);
    ctr_drained(c);
}

void stdio_died(struct ctr *c)
{
    drain_rest(c);
}

int stdio_reopen(struct ctr *c)
{
    struct log *g = &c->log;
    int fd;

    if (!g->path)
        return 0;
    if (g->pend_len &&
        !pend_flush(g)) /* half an entry is in the old file: it must be completed there */
        return -ENOSPC;
    fd = log_open(g);
    if (fd < 0)
        return -errno;
    if (g->fd >= 0)
        close(g->fd);
    g->fd = fd;
    return 0;
}

void stdio_free(struct ctr *c)
{
    int in = c->in.fd;

    stream_close(&c->out);
    stream_close(&c->err);
    src_del(&c->in);
    if (in >= 0)
        close(in);
    timer_off(&c->log.timer);
    log_end(&c->log);
    free(c->log.pend);
    free(c->log.path);
    if (c->log.fd >= 0)
        close(c->log.fd);
    c->log = (struct log){ .fd = -1 };
}
