/* SPDX-License-Identifier: Apache-2.0 */
/* The Stream* variants of lists (CRI.md 4.30). */
#ifndef CRICKET_STREAM_LIST_H
#define CRICKET_STREAM_LIST_H

#include "reactor/grpc.h"
#include "str.h"

/* Answers with what is in *snapshot, a row of encoded entries as pb_join(..., 1, ...) makes it, in
 * messages of whole entries. Takes over the buffer; ends the call. */
void stream_list(struct rpc *rpc, struct str *snapshot);

#endif
