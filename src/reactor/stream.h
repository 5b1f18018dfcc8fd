/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of kubectl exec, attach and port-forward: an HTTP/1.1 listener whose requests are
 * upgraded to SPDY/3.1 or WebSocket, then carry a process's stdio, or TCP connections, in framed
 * streams (CRI.md 10).
 *
 *      handler: stream_offer() -> URL with a token -> reply of Exec
 *      client:  connects to the URL, upgrades, opens its streams
 *      handler: begin(session): starts the process on session_fds(), or gives session_pty()
 *      ...      bytes flow by themselves, with back-pressure both ways
 *      handler: session_exited() or session_fail() when the process has ended: what is left is
 *               delivered, then the status
 *      or       gone(): the client left first; the handler ends the process
 *
 * A session belongs to this module. The handler's pointer is valid from begin() until it has called
 * session_exited() or session_fail(), or until gone() has been called. Nothing is unbounded: at
 * most STREAM_TOKENS_MAX offers, STREAM_SESSIONS_MAX sessions, some 100 KiB queued per stream and
 * direction; beyond that the pipe or the socket waits. */
#ifndef CRICKET_STREAM_H
#define CRICKET_STREAM_H

#include "err.h"
#include "reactor/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STREAM_TOKENS_MAX = 1000, /* offers that nobody took up yet; one more: ResourceExhausted */
    STREAM_SESSIONS_MAX = 500, /* one more: HTTP 503 */
};

struct stream_server;
struct session;

enum stream_kind { STREAM_EXEC, STREAM_ATTACH, STREAM_PORT_FORWARD };

struct stream_offer {
    enum stream_kind kind;
    /* exec, attach: which streams the client asked for. With tty there is no stderr. */
    bool in, out, err, tty;
    /* port-forward: the ports of the request, for WebSocket clients; may be none. Copied. */
    const int32_t *ports;
    size_t n_ports;

    /* The client has connected and all its streams are open. */
    void (*begin)(void *arg, struct session *s);
    /* The client went away, or was idle for too long. The session is not to be touched any more. */
    void (*gone)(void *arg, struct session *s);
    /* The token expired unused, or the client failed to set up its streams: begin() will not
     * come. */
    void (*expired)(void *arg);
    /* exec, attach with tty: the client's window; at any time after begin(). May be NULL. */
    void (*resize)(void *arg, struct session *s, uint16_t width, uint16_t height);
    /* port-forward: a new TCP socket of this family (AF_INET, AF_INET6) in the pod's network
     * namespace, not connected, or a negative errno. See netns_socket(). */
    int (*dial)(void *arg, int family, struct err *err);
    void *arg;
};

/* Listens on address ("127.0.0.1", "::1") and port (0: any). */
int stream_listen(struct loop *l, const char *address, int port, struct stream_server **ret,
                  struct err *err);
/* How long an offer waits for its client (else 60 s), and a session for something to move (4 h). */
void stream_patience(struct stream_server *s, int64_t wait_ms, int64_t idle_ms);
/* Ends all sessions, drops all offers; their handlers are not told. A client whose handler has said
 * its last word gets the status, where its connection takes it at once. Returns NULL. */
struct stream_server *stream_free(struct stream_server *s);

/* Remembers an offer under a new token. *url is malloc'ed: "http://127.0.0.1:41234/exec/TOKEN". */
int stream_offer(struct stream_server *s, const struct stream_offer *o, char **url,
                 struct err *err);
/* Forgets all offers with this arg, without telling: the container is gone. */
void stream_withdraw(struct stream_server *s, const void *arg);
size_t stream_sessions(const struct stream_server *s);

/* --- exec and attach */

/* The process's ends of the pipes that the session made (but not for exec with tty): fds[0] to read
 * stdin from, fds[1], fds[2] to write to; -1 for streams that the client did not ask for. They are
 * the session's. After they have been given away (dup'ed by fork or SCM_RIGHTS) session_close_fds()
 * must be called, or the ends of streams cannot be seen. */
void session_fds(struct session *s, int fds[3]);
void session_close_fds(struct session *s);

/* exec with tty: the master side of the pty instead, taken over. */
void session_pty(struct session *s, int pty);

/* The process has exited with 0..255 (or 128 + signal), or (attach) is just over: status < 0 says
 * Success. What it wrote is delivered first; a grandchild that keeps a pipe open is waited for at
 * most 2 s. */
void session_exited(struct session *s, int status);
/* It could not be started, or was lost: the client sees "Internal error occurred: <text>". */
void session_fail(struct session *s, const char *text);
/* Ends it at once, without a status; for port-forward when the pod stops. */
void session_close(struct session *s);

/* --- helpers */

/* A non-blocking close-on-exec TCP socket made in that network namespace (path of an nsfs file;
 * NULL: ours). Enters and leaves it within the call. */
int netns_socket(const char *netns, int family, struct err *err);

#endif
