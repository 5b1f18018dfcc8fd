/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the restore job (restore_pod.c has the picture). */
#ifndef CRICKET_RESTORE_POD_H
#define CRICKET_RESTORE_POD_H

#include "err.h"

/* --- restore_pod_read.c: inside of the jail, which is the checkpoint's directory */
/* Writes what restoring it has to know to `out`, as JSON: pod.json's containers, each with the
 * "process" of its spec.dump. */
int restore_pod_read(int out, struct err *err);

#endif
