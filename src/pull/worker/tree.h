/* SPDX-License-Identifier: Apache-2.0 */
/* The directory being filled: finding and making parents, putting one thing in the place of
 * another, and what has to be remembered of directories until the end. "/" is the layer (jail.c),
 * so no name leads out of it; symbolic links in a parent path are followed within it, as every
 * unpacker of layers does. */
#ifndef CRICKET_TREE_H
#define CRICKET_TREE_H

#include "err.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

struct tree;

struct tree *tree_new(int rootfd);
void tree_free(struct tree *t);

/* "./a//b/../c" -> "a/c"; "" is the root. -EINVAL if it climbs out of the root, -ENAMETOOLONG. */
int tree_clean(const char *name, char out[PATH_MAX], struct err *err);

/* The directory that holds `path` (clean, not ""), made if need be. *ret_fd stays the tree's and is
 * valid until the next call; *ret_leaf points into path. */
int tree_parent(struct tree *t, const char *path, int *ret_fd, const char **ret_leaf,
                struct err *err);

/* Makes room for something that is not a directory: whatever has the name goes. */
int tree_clear(int dirfd, const char *leaf, struct err *err);
/* A directory by this name: made, or there already, or instead of what was there. Returns a
 * descriptor. */
int tree_mkdir(struct tree *t, int dirfd, const char *leaf, int *ret_fd, struct err *err);
/* The name is hidden in the layers below. */
int tree_whiteout(struct tree *t, int dirfd, const char *leaf, struct err *err);
int tree_opaque(int fd, struct err *err);

/* The directory tree_parent() was last asked about has an entry of its own: its time is set at the
 * end (what is put into it changes it until then). leaf: in the parent, or NULL for the root. */
void tree_explicit(struct tree *t, const char *leaf, const struct timespec *mtime);
/* Sets the times, lists the directories without an entry of their own. */
int tree_finish(struct tree *t, FILE *implied, struct err *err);
uint64_t tree_inodes(const struct tree *t);      /* directories and whiteouts made here */

#endif
