/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP requests on the loop: libcurl's multi interface driven by its socket and timer callbacks.
 * One struct http per puller, one struct http_req per request. Nothing here knows registries;
 * redirects and credentials are the caller's, since each host has its own TLS files. See
 * libcurl-multi(3). */
#ifndef CRICKET_HTTP_H
#define CRICKET_HTTP_H

#include "err.h"
#include "pull/hosts.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http;
struct http_req;

enum http_fault {
    HTTP_FINE,                       /* a whole response came, whatever its status */
    HTTP_UNREACHABLE,                /* no address, refused, no route, connect timeout */
    HTTP_DROPPED,                    /* the connection broke, or a short body: may be tried again */
    HTTP_STALLED,                    /* no byte for stall_ms */
    HTTP_TLS,                        /* certificate or handshake */
    HTTP_REFUSED,                    /* a callback of the caller said no; err is NULL */
};

struct http_head {
    int status;
    int64_t length;                  /* Content-Length, -1 if not said */
    int64_t range_start;             /* of Content-Range, -1 if there is none */
    int64_t range_total;             /* -1: none, or "*" */
};

struct http_result {
    enum http_fault fault;
    struct http_head head;           /* head.status 0: none came */
    const struct err *err;           /* what went wrong, for fault other than FINE and REFUSED */
    const char *redirect;            /* absolute URL of a 3xx, or NULL */
    int64_t retry_after_ms;          /* of Retry-After, -1 if there is none */
};

struct http_spec {
    const char *url;
    const char *const *headers;      /* "Name: value", NULL terminated; copied */
    const char *form;                /* POST this urlencoded form instead of GET; copied */
    bool head_only;                  /* HEAD */
    size_t buffer;                   /* bytes per read; 0: curl's default */
    int64_t stall_ms;                /* 0: none. Time while paused does not count */
    const struct hosts_config *config;   /* TLS files, or NULL */
    /* The header is complete. Negative: abort (HTTP_REFUSED). May be NULL. */
    int (*head)(void *arg, const struct http_head *h);
    /* n bytes of body: all taken, or HTTP_PAUSE (none; offered again after http_resume), or
     * negative: abort. */
    int (*data)(void *arg, const void *p, size_t n);
    /* Once, not from inside http_start; the request is freed right after. */
    void (*done)(void *arg, const struct http_result *r);
    void *arg;
};

enum { HTTP_PAUSE = 1 };

struct http *http_new(struct loop *l);
struct http *http_free(struct http *h);          /* cancels whatever runs */
int http_start(struct http *h, const struct http_spec *spec, struct http_req **ret,
               struct err *err);
void http_resume(struct http_req *r);            /* data() may be called from inside */
/* The done callback does not come. Not from inside head() or data(). */
void http_cancel(struct http_req *r);
/* A header of the response, NULL if it has no `index`-th of this name; valid until the next call.
 * Inside head() and done(). */
const char *http_header(struct http_req *r, const char *name, size_t index);

#endif
