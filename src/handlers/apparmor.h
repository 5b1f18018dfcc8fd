/* SPDX-License-Identifier: Apache-2.0 */
/* AppArmor as the kernel of this node has it: which profiles are loaded, and the one of our own. */
#ifndef CRICKET_APPARMOR_H
#define CRICKET_APPARMOR_H

#include "err.h"

#include <stdbool.h>

struct loop;

extern const char apparmor_profile[];            /* etc/apparmor.profile */

/* The kernel's list has one "name (mode)" per line. */
int apparmor_is_loaded(const char *name, bool *ret, struct err *err);
/* For the start: loads our own profile unless one of its name is there, and waits for that (runs
 * the loop). */
int apparmor_load_default(struct loop *loop, struct err *err);

#endif
