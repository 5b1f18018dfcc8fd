/* SPDX-License-Identifier: Apache-2.0 */
#include "err.h"

#include "utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void set_text(struct err *e, const char *fmt, va_list ap)
{
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);

    if (n < 0)
        e->text[0] = '\0';
}

static int set_code(struct err *e, int code, const char *fmt, va_list ap)
{
    if (code >= 0)
        code = -EIO;
    if (!e)
        return code;
    e->code = code;
    e->grpc = 0;
    set_text(e, fmt, ap);
    return code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    code = set_code(e, code, fmt, ap);
    va_end(ap);
    return code;
}

static int set_strerror(struct err *e, int code, const char *fmt, va_list ap)
{
    size_t n;

    code = set_code(e, code, fmt, ap);
    if (!e)
        return code;
    n = strlen(e->text);
    snprintf(e->text + n, sizeof e->text - n, ": %s", strerror(-code));
    return code;
}

int err_sys(struct err *e, const char *fmt, ...)
{
    int code = -errno;
    va_list ap;

    va_start(ap, fmt);
    code = set_strerror(e, code, fmt, ap);
    va_end(ap);
    return code;
}

int err_code(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    code = set_strerror(e, code, fmt, ap);
    va_end(ap);
    return code;
}

static int errno_of(int grpc)
{
    switch (grpc) {
    case GRPC_INVALID_ARGUMENT: return -EINVAL;
    case GRPC_NOT_FOUND: return -ENOENT;
    case GRPC_ALREADY_EXISTS: return -EEXIST;
    case GRPC_DEADLINE_EXCEEDED: return -ETIMEDOUT;
    case GRPC_CANCELLED: return -ECANCELED;
    case GRPC_PERMISSION_DENIED: return -EPERM;
    case GRPC_RESOURCE_EXHAUSTED: return -ENOBUFS;
    case GRPC_FAILED_PRECONDITION: return -EBUSY;
    case GRPC_UNIMPLEMENTED: return -ENOSYS;
    case GRPC_UNAVAILABLE: return -EAGAIN;
    default: return -EIO;
    }
}

int err_rpc(struct err *e, int grpc, const char *fmt, ...)
{
    va_list ap;

    if (!e)
        return errno_of(grpc);
    e->code = errno_of(grpc);
    e->grpc = grpc;
    va_start(ap, fmt);
    set_text(e, fmt, ap);
    va_end(ap);
    return e->code;
}

int err_note(struct err *e, const char *fmt, ...)
{
    char old[ERR_TEXT_MAX];
    va_list ap;
    size_t n;

    if (!e)
        return -EIO;
    memcpy(old, e->text, sizeof old);
    va_start(ap, fmt);
    set_text(e, fmt, ap);
    va_end(ap);
    n = strlen(e->text);
    snprintf(e->text + n, sizeof e->text - n, ": %s", old);
    return e->code ? e->code : -EIO;
}

void err_clear(struct err *e)
{
    if (!e)
        return;
    e->code = 0;
    e->grpc = 0;
    e->text[0] = '\0';
}

void err_clean(struct err *e)
{
    size_t n = strlen(e->text);

    utf8_clean(e->text, n);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)e->text[i] < 0x20 && e->text[i] != '\n' && e->text[i] != '\t')
            e->text[i] = '?';
}
