/* SPDX-License-Identifier: Apache-2.0 */
/* Between cdi.c (directories, files, devices), cdi_edits.c (what containerEdits say) and cdi_rdt.c
 * (intelRdt among them). */
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

struct cdi_ctx {
    const char *file;
    struct cdi_edits *ret;           /* NULL: check only */
    struct err *err;
};
#define fail(x, node, fmt, ...) cdi_fail((x)->file, node, (x)->err, fmt, ##__VA_ARGS__)

/* What a map may have, and where that goes. A list of them ends with a NULL key. */
struct cdi_member {
    const char *key;
    size_t at;                       /* in the struct that the map is for */
    int (*set)(const struct cdi_ctx *x, const struct ynode *node, void *ret);
};
/* what: how an error calls the map. On failure *ret is filled in part. */
int cdi_set_members(const struct cdi_ctx *x, const struct ynode *map, const char *what,
                    const struct cdi_member *members, void *ret);
/* A char ** or a char ***, whose former value is freed. */
int cdi_set_text(const struct cdi_ctx *x, const struct ynode *node, void *ret);
int cdi_set_list(const struct cdi_ctx *x, const struct ynode *node, void *ret);
char **cdi_free_list(char **list);

int cdi_intel_rdt(const struct cdi_ctx *x, const struct ynode *node);
struct cdi_rdt *cdi_rdt_free(struct cdi_rdt *t);

#endif
