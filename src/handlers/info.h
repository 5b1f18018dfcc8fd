/* SPDX-License-Identifier: Apache-2.0 */
/* The verbose `info` maps (CRI.md 8.5): JSON that crictl parses. */
#ifndef CRICKET_INFO_H
#define CRICKET_INFO_H

#include "handlers/objects.h"

#include <jansson.h>

/* Any message as JSON with the protocol's field names; empty fields are left out, secrets always.
 * New reference. */
json_t *pb_json(const ProtobufCMessage *m);
/* A map entry of the given generated type; value is a string of the pool. */
void *info_entry(struct pool *pool, const ProtobufCMessageDescriptor *type, const char *key,
                 char *value);
/* Consumes j. */
char *info_dump(struct pool *pool, json_t *j);

/* The daemon's own state: turns of the loop, running operations, pulls. */
char *info_daemon(struct handlers *h, struct pool *pool);
char *info_sandbox(struct sandbox *s, struct pool *pool);
char *info_ctr(struct ctr *c, struct pool *pool);

#endif
