/* SPDX-License-Identifier: Apache-2.0 */
/* Between cdi.c (directories, files, devices) and cdi_edits.c (what containerEdits say). */
#ifndef CRICKET_CDI_IMPL_H
#define CRICKET_CDI_IMPL_H

#include "proc/cdi.h"
#include "ynode.h"

#include <errno.h>

#define cdi_fail(file, node, err, fmt, ...) \
    err_set(err, -EINVAL, "CDI spec '%s' line %u: " fmt, file, (node)->line, ##__VA_ARGS__)

/* The checks alone (ret NULL) or with what they say appended to *ret. With ret, devices are looked
 * at. */
int cdi_edits_parse(const char *file, const struct ynode *node, struct cdi_edits *ret,
                    struct err *err);
int cdi_text(const char *file, const struct ynode *node, const char **ret, struct err *err);

#endif
