/* SPDX-License-Identifier: Apache-2.0 */
/* From a container's record to a process: spec, cgroup, plan, supervisor. */
#ifndef CRICKET_LAUNCH_H
#define CRICKET_LAUNCH_H

#include "handlers/layers.h"
#include "handlers/objects.h"
#include "handlers/spec.h"

/* The input of spec_build() as the container's record has it. Start with mem_new(), end with
 * ctr_input_free(). */
struct ctr_input {
    struct spec_input in;
    struct spec_user user;
    struct spec_volume *volumes;
    char *lower, *upper, *work, *hostname;
};
struct ctr_input *ctr_input_new(struct ctr *c);
struct ctr_input *ctr_input_free(struct ctr_input *i);   /* returns NULL */

/* Makes the cgroup with its limits and has the supervisor start the container with the filter of
 * ctr_seccomp_get(). done comes later, or an error now (the cgroup is then left to
 * ctr_set_exited()). */
int ctr_launch(struct ctr *c, struct spec *spec, const struct seccomp_filter *f, link_start_fn done,
               void *arg, struct err *err);

/* The filter that the container's spec asks for: an empty one at once when it wants none. Once
 * created it keeps the one it was created with, whatever becomes of the profile. For an OCI runtime
 * the text of linux.seccomp instead, made anew from the profile. May call back from inside. */
void ctr_seccomp_get(struct ctr *c, bool oci, enum spec_seccomp kind, const char *path,
                     uint64_t caps, seccomp_fn done, void *arg);

/* The OCI runtime of a container's sandbox: *ret NULL for the native launcher. Fails where the
 * handler is not configured any more: a container of its sandbox is not launched by something else.
 */
int ctr_runtime(struct ctr *c, const char **ret, struct err *err);

/* The container whose PID namespace one with these options wants to join (mode TARGET): *ret NULL
 * for the other modes. Fails unless it runs in this sandbox. Asked at creation and
 * again at the start, since it may have ended meanwhile. */
int ctr_pid_target(struct sandbox *s, const Runtime__V1__ContainerConfig *config,
                   struct ctr **ret, struct err *err);

/* "created", "running", "exited": for error texts. */
const char *ctr_state_name(const struct ctr *c);

#endif
