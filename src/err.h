/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: what was being done, to what, and why it failed; no allocation.
 *
 * A function that can fail returns 0 or a negative errno value and describes the failure once in
 * the caller's struct err. Levels above add what only they know with err_note(). The gRPC status is
 * chosen by the handlers; a lower layer that knows better (a registry's 404, a bad reference) sets
 * it with err_rpc(). A NULL struct err is allowed everywhere: the text is then lost. */
#ifndef CRICKET_ERR_H
#define CRICKET_ERR_H

#include <stdarg.h>
#include <stddef.h>

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
};

enum { ERR_TEXT_MAX = 1024 };

struct err {
    int code;            /* negative errno; 0 while nothing failed */
    int grpc; /* enum grpc_status; 0: the handler decides (GRPC_UNKNOWN if it does not) */
    char text[ERR_TEXT_MAX];
};

#define ERR_INIT { 0, 0, "" }

/* Sets code and text. code is a negative errno. Returns code. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Like err_set(e, -errno, ...) with ": strerror(errno)" after the text. Returns -errno. */
int err_sys(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Like err_sys() for a given negative errno. */
int err_code(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Sets a gRPC status together with the text. Returns a negative errno that fits the status. */
int err_rpc(struct err *e, int grpc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "text: " before what is there already. Returns e->code (-EIO if e is NULL). */
int err_note(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Forgets a failure that was handled. */
void err_clear(struct err *e);

/* Bad UTF-8 and control characters become '?': an error text goes out in a proto3 string. */
void err_clean(struct err *e);

#endif
