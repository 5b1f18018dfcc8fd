/* SPDX-License-Identifier: Apache-2.0 */
/* Follows the CNI configuration directories by inotify(7), also those that do not exist yet.
 * Internal to cni*.c. */
#ifndef CRICKET_CNI_WATCH_H
#define CRICKET_CNI_WATCH_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>

struct cni_watch;

int cni_watch_new(struct cni_watch **ret, struct err *err);
struct cni_watch *cni_watch_free(struct cni_watch *w);
int cni_watch_fd(const struct cni_watch *w);
/* Watches dirs, <dir>/<network> (NULL: none) and the way to each; replaces what was watched. Call
 * before reading the files: what changes afterwards is then reported. What happens beside the way
 * to a directory that is there, with something in it, wakes nobody. */
int cni_watch_arm(struct cni_watch *w, char *const *dirs, const char *network, struct err *err);
/* Takes all events; true when one of them concerns what is watched. */
bool cni_watch_changed(struct cni_watch *w);

#endif
