/* SPDX-License-Identifier: Apache-2.0 */
/* SELinux contexts of pods and containers (CRI.md 6.3, 7.3).
 *
 * A context is user:role:type[:level]. What a container's processes and files have begins with the
 * two that the node's policy names for containers; options of the request replace parts of it. A
 * pod that names no level gets two categories that no other pod has, and its containers share it,
 * so that pods are kept apart. */
#ifndef CRICKET_SELINUX_H
#define CRICKET_SELINUX_H

#include "err.h"
#include "runtime.pb-c.h"

#include <stdbool.h>

struct pool;
struct spec_node;

/* Has the kernel a policy? Then also the contexts of containers, NULL where the policy has none;
 * the caller frees. */
bool selinux_probe(char **ret_process, char **ret_file);
/* Of /etc/selinux/TYPE/contexts/lxc_contexts: process = "...", file = "...". For tests. */
void selinux_parse(char *text, char **ret_process, char **ret_file);

/* Options as such: a part of a context each, the level "s0:c1,c2". Off: anything. */
int selinux_check(const Runtime__V1__SELinuxOption *o, const struct spec_node *node,
                  struct err *err);
/* The context with parts replaced; o: NULL or checked. From the pool. */
char *selinux_replace(struct pool *p, const char *context, const Runtime__V1__SELinuxOption *o);
bool selinux_has_level(const char *context);
/* "s0:c17,c520" for a process context that names no categories. From the pool. */
char *selinux_level(struct pool *p, const char *context, unsigned a, unsigned b);
/* The files' context that goes with a process'; shared: without categories, for all pods. */
char *selinux_file(struct pool *p, const char *process, const struct spec_node *node, bool shared);
/* Does the kernel's policy know it? Else GRPC_INVALID_ARGUMENT. */
int selinux_known(const char *context, struct err *err);
/* Paths that must never be relabelled: the whole system would be the container's. */
bool selinux_is_system(const char *path);

#endif
