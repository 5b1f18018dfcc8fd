/* SPDX-License-Identifier: Apache-2.0 */
/* One handler per RPC; table.c has the names. ctx is the struct handlers. */
#ifndef CRICKET_RPCS_H
#define CRICKET_RPCS_H

#include "handlers/objects.h"

#define HANDLER(name) void name(struct rpc *rpc, const ProtobufCMessage *req, void *ctx)

HANDLER(handle_version);

#endif
