/* SPDX-License-Identifier: Apache-2.0 */
/* Can this kernel run pods in user namespaces? Their layers are not chowned but seen through
 * id-mapped mounts (mount_setattr(2)), which not every file system has, below an overlay, which
 * takes such layers since Linux 5.19. Nothing but trying tells. */
#ifndef CRICKET_USERNS_H
#define CRICKET_USERNS_H

#include "err.h"

/* Maps a clone of root's mount into a new user namespace and puts an overlay over its directories a
 * and b, in a child with a mount namespace of its own: nothing of it stays. Blocks for some
 * milliseconds: for the start. 0, or -errno and the step that failed. */
int userns_probe(const char *root, const char *a, const char *b, struct err *err);

#endif
