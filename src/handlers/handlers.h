/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon behind its RPCs: what cricketd.c makes, serves and ends. */
#ifndef CRICKET_HANDLERS_H
#define CRICKET_HANDLERS_H

#include "conf.h"
#include "err.h"
#include "reactor/grpc.h"
#include "reactor/loop.h"

struct handlers;

/* Opens the store, meets the supervisors that still run, takes over the exits that happened
 * meanwhile, collects garbage. Runs the loop for as long as that takes: call it before anything
 * listens. conf must outlive the handlers. */
int handlers_new(struct loop *l, const struct conf *conf, struct handlers **ret, struct err *err);

/* Ends running operations (pods and containers go on), flushes the store. Returns NULL. */
struct handlers *handlers_free(struct handlers *h);

/* The method table; the context of each method is the struct handlers. */
const struct grpc_method *handlers_methods(struct handlers *h);

#endif
