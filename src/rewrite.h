/* SPDX-License-Identifier: Apache-2.0 */
/* A rule of k3s's `rewrite`: a regular expression, and what takes the place of each match. The
 * expressions there are Go's, here POSIX extended ones: rewrite_check() refuses what the two do not
 * read alike. */
#ifndef CRICKET_REWRITE_H
#define CRICKET_REWRITE_H

#include "err.h"

/* 0, or -EINVAL with what is wrong. In the replacement $1 or ${1} is a group, $$ a dollar. */
int rewrite_check(const char *pattern, const char *replacement, struct err *err);
/* s with every match replaced; NULL when there is none, or the pattern is not one. Caller frees. */
char *rewrite_apply(const char *pattern, const char *replacement, const char *s);

#endif
