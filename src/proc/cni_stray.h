/* SPDX-License-Identifier: Apache-2.0 */
/* What CNI plugins have started and a killed daemon left behind. */
#ifndef CRICKET_CNI_STRAY_H
#define CRICKET_CNI_STRAY_H

#include <stdbool.h>

/* Kills each process that works for a sandbox of which ours(arg, id) is true, and waits until it is
 * gone. Looks at every process of the machine, so: at start-up, and only where there is reason to. */
void cni_end_strays(bool (*ours)(void *arg, const char *id), void *arg);

#endif
