/* SPDX-License-Identifier: Apache-2.0 */
/* A seccomp filter, written again as a tree over ranges of system call numbers. */
#ifndef CRICKET_RANGES_H
#define CRICKET_RANGES_H

#include <linux/filter.h>
#include <stddef.h>

/* f: n instructions of a filter that first looks at architecture and number, then at arguments, as
 * libseccomp writes them. out: room for BPF_MAXINSNS, gets one that answers every call the same.
 * Returns its length, or 0: f has a shape that is not understood, or out would be no shorter. */
size_t ranges_make(const struct sock_filter *f, size_t n, struct sock_filter *out);

#endif
