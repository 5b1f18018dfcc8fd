/* SPDX-License-Identifier: Apache-2.0 */
/* The compression is found out from the first bytes, not from the media type (plain tar under a
 * gzip type happens). gzip may have several members and zstd several frames; zero bytes behind the
 * last gzip member are padding. gzip by ISA-L where the build has it (2.5 times as fast as zlib,
 * and inflating is more than half of a pull). */
#include "config.h"
#include "mem.h"
#include "pull/worker/unpack.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>
#ifdef HAVE_ISAL
#include <isa-l/igzip_lib.h>
#else
#include <zlib.h>
#endif

enum kind { KIND_UNKNOWN, KIND_GZIP, KIND_ZSTD, KIND_TAR };

struct source {
    int fd;
    enum kind kind;
    struct hash *plain;
    unsigned char *in, *out;
    size_t in_pos, in_len;
    bool in_eof;
    bool between;                    /* gzip: a member has ended, nothing of the next was seen */
    bool padding;                    /* zero bytes were seen behind a member */
    size_t zstd_hint;                /* 0: at the end of a frame */
    ZSTD_DStream *zstd;
#ifdef HAVE_ISAL
    struct inflate_state gz;
#else
    z_stream gz;
#endif
};

struct source *source_new(int fd, struct hash *plain)
{
    struct source *s = mem_new(struct source);

    s->fd = fd;
    s->plain = plain;
    s->in = mem_alloc(UNPACK_BLOCK);
    s->out = mem_alloc(UNPACK_BLOCK);
    return s;
}

void source_free(struct source *s)
{
    if (!s)
        return;
    ZSTD_freeDStream(s->zstd);
#ifndef HAVE_ISAL
    if (s->kind == KIND_GZIP)
        inflateEnd(&s->gz);
#endif
    free(s->in);
    free(s->out);
    free(s);
}

const char *source_kind(const struct source *s)
{
    static const char *const names[] = { "nothing", "gzip", "zstd", "tar" };

    return names[s->kind];
}

/* More input behind what is there. At least `want` bytes at in_pos unless the stream ends before.
 */
static int fill(struct source *s, size_t want, struct err *err)
{
    if (s->in_pos == s->in_len)
        s->in_pos = s->in_len = 0;
    while (!s->in_eof && s->in_len - s->in_pos < want) {
        ssize_t n = read(s->fd, s->in + s->in_len, UNPACK_BLOCK - s->in_len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "read");
        if (n == 0)
            s->in_eof = true;
        s->in_len += (size_t)n;
    }
    return 0;
}

static void gzip_begin(struct source *s)
{
#ifdef HAVE_ISAL
    isal_inflate_init(&s->gz);
    s->gz.crc_flag = ISAL_GZIP;
#else
    if (inflateInit2(&s->gz, 15 + 16) != Z_OK)
        abort();
#endif
}

static void gzip_again(struct source *s)
{
#ifdef HAVE_ISAL
    isal_inflate_reset(&s->gz);
    s->gz.crc_flag = ISAL_GZIP;
#else
    if (inflateReset(&s->gz) != Z_OK)
        abort();
#endif
}

static int sniff(struct source *s, struct err *err)
{
    const unsigned char *p = s->in;
    int r = fill(s, 4, err);
    size_t n;

    if (r < 0)
        return r;
    n = s->in_len;
    if (n >= 2 && p[0] == 0x1f && p[1] == 0x8b) {
        s->kind = KIND_GZIP;
        gzip_begin(s);
    } else if (n >= 4 &&
               ((p[0] == 0x28 && p[1] == 0xb5 && p[2] == 0x2f && p[3] == 0xfd) ||
                ((p[0] & 0xf0) == 0x50 && p[1] == 0x2a && p[2] == 0x4d && p[3] == 0x18))) {
        s->kind = KIND_ZSTD;
        s->zstd = ZSTD_createDStream();
        if (!s->zstd)
            return err_set(err, -ENOMEM, "zstd: no memory");
    } else if (n >= 4 && ((p[0] == 'B' && p[1] == 'Z' && p[2] == 'h') ||
                          (p[0] == 0xfd && memcmp(p + 1, "7zX", 3) == 0))) {
        return err_set(err, -EOPNOTSUPP,
                       "compressed by bzip2 or xz: not supported, no media type has it");
    } else {
        s->kind = KIND_TAR;
    }
    return 0;
}

/* One run of the inflater: bytes written to out, *end when a member is complete. */
static int64_t gzip_run(struct source *s, bool *end, struct err *err)
{
    size_t out;

    s->gz.next_in = s->in + s->in_pos;
    s->gz.avail_in = (unsigned)(s->in_len - s->in_pos);
    s->gz.next_out = s->out;
    s->gz.avail_out = UNPACK_BLOCK;
#ifdef HAVE_ISAL
    int r = isal_inflate(&s->gz);

    if (r < 0)
        return err_set(err, -EBADMSG, "gzip: damaged data (%s)",
                       r == ISAL_INCORRECT_CHECKSUM ? "checksum"
                       : r == ISAL_INVALID_WRAPPER  ? "header"
                                                    : "deflate");
    *end = s->gz.block_state == ISAL_BLOCK_FINISH;
#else
    int r = inflate(&s->gz, Z_NO_FLUSH);

    if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
        return err_set(err, -EBADMSG, "gzip: damaged data (%s)", s->gz.msg ? s->gz.msg : "inflate");
    *end = r == Z_STREAM_END;
#endif
    out = UNPACK_BLOCK - s->gz.avail_out;
    s->in_pos = s->in_len - s->gz.avail_in;
    return (int64_t)out;
}

static int64_t gzip_read(struct source *s, struct err *err)
{
    for (;;) {
        bool end = false;
        int64_t n;
        int r = fill(s, 1, err);

        if (r < 0)
            return r;
        if (s->between) {
            while (s->in_pos < s->in_len && s->in[s->in_pos] == 0) {
                s->in_pos++;
                s->padding = true;
            }
            if (s->in_pos == s->in_len) {
                if (s->in_eof)
                    return 0;
                continue;
            }
            if (s->padding || s->in[s->in_pos] != 0x1f)
                return err_set(err, -EBADMSG, "gzip: something else behind the compressed data");
            gzip_again(s);
            s->between = false;
        }
        n = gzip_run(s, &end, err);
        if (n < 0)
            return n;
        s->between = end;
        if (n > 0)
            return n;
        if (!end && s->in_eof && s->in_pos == s->in_len)
            return err_set(err, -EBADMSG, "gzip: data ends in the middle");
    }
}

static int64_t zstd_read(struct source *s, struct err *err)
{
    for (;;) {
        ZSTD_outBuffer out = { s->out, UNPACK_BLOCK, 0 };
        ZSTD_inBuffer in;
        int r = fill(s, 1, err);

        if (r < 0)
            return r;
        in = (ZSTD_inBuffer){ s->in, s->in_len, s->in_pos };
        if (in.pos == in.size && s->in_eof && s->zstd_hint == 0)
            return 0;
        s->zstd_hint = ZSTD_decompressStream(s->zstd, &out, &in);
        if (ZSTD_isError(s->zstd_hint))
            return err_set(err, -EBADMSG, "zstd: damaged data (%s)",
                           ZSTD_getErrorName(s->zstd_hint));
        if (out.pos == 0 && in.pos == s->in_pos && s->in_eof)
            return err_set(err, -EBADMSG, "zstd: data ends in the middle");
        s->in_pos = in.pos;
        if (out.pos)
            return (int64_t)out.pos;
    }
}

int64_t source_read(struct source *s, const void **ret, struct err *err)
{
    int64_t n = 0;
    int r;

    if (s->kind == KIND_UNKNOWN) {
        r = sniff(s, err);
        if (r < 0)
            return r;
    }
    *ret = s->out;
    switch (s->kind) {
    case KIND_GZIP:
        n = gzip_read(s, err);
        break;
    case KIND_ZSTD:
        n = zstd_read(s, err);
        break;
    default:
        r = fill(s, 1, err);
        if (r < 0)
            return r;
        *ret = s->in + s->in_pos;
        n = (int64_t)(s->in_len - s->in_pos);
        s->in_pos = s->in_len;
        break;
    }
    if (n > 0 && s->plain)
        hash_add(s->plain, *ret, (size_t)n);
    return n;
}
