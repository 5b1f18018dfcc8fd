/* SPDX-License-Identifier: Apache-2.0 */
/* WebSocket (RFC 6455, by wslay), two ways: channels in messages, their number in the first byte
 * (the Kubernetes subprotocols), or the raw byte stream of a SPDY connection in binary messages.
 * Private to the streaming files. */
#ifndef CRICKET_WS_H
#define CRICKET_WS_H

#include "reactor/mux.h"

/* from the client; larger: closed with 1009; not in a tunnel */
enum { WS_MESSAGE_MAX = 1024 * 1024 };

/* n channels, all open from the beginning: kinds[i] is that of number i. base64: text messages, the
 * number as a digit. half_close: the client may end a channel by the message {255, number} (v5). */
struct mux *ws_new(const struct mux_user *user, const struct transport *out,
                   const enum chan_kind *kinds, size_t n, bool base64, bool half_close);

/* An empty message on a channel: "ready". */
void ws_ready(struct chan *c);

/* A WebSocket that carries inner's bytes: to be fed; inner is made by the caller on
 * ws_tunnel_transport() and given with ws_tunnel_inner(), and is freed with the tunnel. */
struct mux *ws_tunnel_new(const struct transport *out);
struct transport ws_tunnel_transport(struct mux *tunnel);
void ws_tunnel_inner(struct mux *tunnel, struct mux *inner);

/* Sec-WebSocket-Accept for a Sec-WebSocket-Key, NUL terminated. */
void ws_accept_key(const char *key, size_t n, char ret[29]);

#endif
