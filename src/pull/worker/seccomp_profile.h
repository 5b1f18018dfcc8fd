/* SPDX-License-Identifier: Apache-2.0 */
/* etc/seccomp.json, made part of the program at build time: RuntimeDefault works with no file
 * installed. */
#ifndef CRICKET_SECCOMP_PROFILE_H
#define CRICKET_SECCOMP_PROFILE_H

extern const char seccomp_profile[];

#endif
