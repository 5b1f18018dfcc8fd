/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/2 response trailers, which libh2o 2.2 has no call for. Header names and values are plain
 * ASCII. */
#ifndef CRICKET_H2O_TRAILERS_H
#define CRICKET_H2O_TRAILERS_H

#include <h2o.h>

struct trailer {
    const char *name;
    const char *value;
    size_t value_len;
};

enum {
    TRAILERS_SENT = 0,
    TRAILERS_GONE = -1, /* the peer reset the stream; libh2o will dispose of it */
    TRAILERS_LATER = 1, /* nothing was sent: the windows are too small, send piecemeal */
};

/* A whole small response in one write: headers (already in req->res, response started), body,
 * trailers. */
int trailers_send_all(h2o_req_t *req, const void *body, size_t len, const struct trailer *t,
                      size_t n);

/* A response of headers only (gRPC's Trailers-Only): HEADERS with END_STREAM. */
int trailers_only(h2o_req_t *req);

/* Ends a response. Only when nothing that h2o_send() took is still pending: in the generator's
 * proceed callback. */
int trailers_finish(h2o_req_t *req, const struct trailer *t, size_t n);

/* The connections of a context: how many, and an end to all of them (libh2o notices at its next
 * rounds). */
size_t trailers_conns(h2o_context_t *ctx);
void trailers_drop_conns(h2o_context_t *ctx);

#endif
