/* SPDX-License-Identifier: Apache-2.0 */
/* A connected socket with a bounded output buffer and an input that can be held back. Private to
 * the streaming files. */
#ifndef CRICKET_CONN_H
#define CRICKET_CONN_H

#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* conn_room() is 0 beyond; a little more is taken for control frames */
enum { CONN_OUT_MAX = 128 * 1024 };

struct conn;

struct conn_events {
    int (*feed)(void *arg, const uint8_t *p, size_t n);  /* negative: close it */
    void (*drained)(void *arg);      /* conn_room() has grown to at least half */
    /* by the peer, an error, or after conn_finish(); the last callback */
    void (*closed)(void *arg);
    void *arg;
};

/* Owns fd. No callback comes before this has returned. */
struct conn *conn_new(struct loop *l, int fd, const struct conn_events *ev);
/* At once, without callback; also from within one. But a connection whose input was refused (feed
 * was negative) lives on by itself until its last words are out, as after conn_finish(). Returns
 * NULL. */
struct conn *conn_free(struct conn *c);
/* As if feed had been negative. */
void conn_refuse(struct conn *c);
/* Ends those that live on by themselves. */
void conn_end_all(struct loop *l);
void conn_write(struct conn *c, const void *p, size_t n);
size_t conn_room(const struct conn *c);
/* No input until resumed. A peer that leaves meanwhile is still noticed. */
void conn_pause(struct conn *c, bool on);
/* Sends what is queued, shuts the sending side down, waits for the peer to close (5 s), then
 * closed(). */
void conn_finish(struct conn *c);

#endif
