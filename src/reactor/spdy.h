/* SPDX-License-Identifier: Apache-2.0 */
/* SPDY/3.1, the server's side of it, as far as kubectl, kubelet, crictl and their like use it:
 * streams that the client opens, data both ways, half-close, reset, flow control, ping, goaway.
 * Private to the streaming files. */
#ifndef CRICKET_SPDY_H
#define CRICKET_SPDY_H

#include "reactor/mux.h"

enum {
    SPDY_CHANS_MAX = 512, /* open streams of a connection; more are refused */
    SPDY_WINDOW = 64 * 1024, /* of a stream and of the connection, both ways, at the beginning */
};

struct mux *spdy_new(struct loop *l, const struct mux_user *user, const struct transport *out);

#endif
