/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets, and a watcher that accepts from them without spinning when descriptors run
 * out. */
#ifndef CRICKET_LISTEN_H
#define CRICKET_LISTEN_H

#include "err.h"
#include "reactor/loop.h"

#include <sys/types.h>

/* A unix stream socket at path with exactly this owner and mode from its first moment on (uid, gid
 * -1: leave). A living listener on the same path: -EADDRINUSE. A socket that nobody listens on is
 * replaced; anything else at that path is left alone and an error. Returns the descriptor or a
 * negative errno. */
int listen_unix(const char *path, mode_t mode, uid_t uid, gid_t gid, struct err *err);

/* A TCP socket on an address ("127.0.0.1", "::1") and port (0: any). The descriptor or a negative
 * errno. */
int listen_tcp(const char *address, int port, struct err *err);

/* Checks a descriptor from the service manager: a listening stream socket. 0 or negative errno. */
int listen_adopt(int fd, struct err *err);

struct listener;

/* cb gets each accepted descriptor (non-blocking, close-on-exec) and owns it. Owns fd. */
struct listener *listener_new(struct loop *l, int fd, void (*cb)(void *arg, int fd), void *arg);
struct listener *listener_free(struct listener *l);                  /* closes; returns NULL */

#endif
