/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of RestorePod (pod_restore.c), and what they leave to StartContainer. */
#ifndef CRICKET_HANDLERS_RESTORE_H
#define CRICKET_HANDLERS_RESTORE_H

#include "handlers/objects.h"

#include <jansson.h>

struct restore;

/* --- pod_restore.c */
/* Of a sandbox_op: with its worker, which is not heard any more. NULL is fine. */
void restore_free(struct restore *k);

/* --- restore_spec.c */
/* Is what c would be started with something that can be restored, and of the image and as the
 * container that were checkpointed? found: `process` and `annotations` of its spec.dump, and what
 * matters of `linux`. */
int restore_matches(const struct ctr *c, const struct spec *spec, const char *image_ref,
                    const json_t *found, struct err *err);

/* --- restore_files.c: <root>/containers/<id>/restore, while rec->restore says so */
char *restore_dir(const struct ctr *c);          /* caller frees */
/* It is running, or will not be: they are not needed any more. Who calls saves the record. */
void restore_end(struct ctr *c);
/* After a start: what is there without need. */
void restore_collect(struct ctr *c);

#endif
