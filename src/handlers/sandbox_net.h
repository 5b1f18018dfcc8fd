/* SPDX-License-Identifier: Apache-2.0 */
/* A sandbox's network attachment in the terms of proc/cni.h: the same for ADD, DEL and CHECK,
 * because plugins such as portmap undo only what they are told again. */
#ifndef CRICKET_SANDBOX_NET_H
#define CRICKET_SANDBOX_NET_H

#include "handlers/objects.h"

struct net_attach {
    struct cni_attach a;
    struct cni_port *ports;
    struct plan_pair *annotations;
    char **servers, **searches, **options;
};
/* Points into s. Free with net_attach_deinit(). with_result: config and cached result of the record
 * are given too. */
void net_attach_init(struct net_attach *n, const struct sandbox *s, bool with_result);
void net_attach_deinit(struct net_attach *n);
#define auto_net_attach __attribute__((cleanup(net_attach_deinit)))

/* n counted strings as a NULL terminated array; the array is freed by the caller, the strings stay.
 */
char **strv_of(char *const *v, size_t n);

/* After a restart: CHECKs the attachments one after the other and logs what a plugin finds, changing
 * nothing; then GC. */
void net_check_all(struct handlers *h);
void net_check_end(struct handlers *h);

#endif
