/* SPDX-License-Identifier: Apache-2.0 */
/* A small YAML (or JSON, its subset) file as a tree that remembers lines, for configuration and CDI
 * files.
 *
 * What such a file may be is bounded, and whatever is beyond is an error with file and line: size,
 * nesting, number of nodes; aliases (the "billion laughs"), tags, a second document and duplicate
 * keys are refused. Nothing is interpreted: a scalar is text; `quoted` tells "null" from null. */
#ifndef CRICKET_YNODE_H
#define CRICKET_YNODE_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    YNODE_FILE_MAX = 1024 * 1024,    /* bytes */
    YNODE_DEPTH_MAX = 16,
    YNODE_COUNT_MAX = 10000,
};

enum ynode_kind { YNODE_NULL, YNODE_SCALAR, YNODE_MAP, YNODE_LIST };

struct ynode {
    enum ynode_kind kind;
    unsigned line;                   /* of the key if there is one, from 1 */
    bool quoted;
    char *key;                       /* in a map */
    char *text;                      /* of a scalar; no NUL byte inside */
    struct ynode *first, *next;      /* children in file order; siblings */
};

/* An empty file is a YNODE_NULL. name is for error texts. */
int ynode_parse(const char *name, const void *p, size_t n, struct ynode **ret, struct err *err);
/* Follows links; -ENOENT when there is no such file. */
int ynode_load(const char *path, struct ynode **ret, struct err *err);
struct ynode *ynode_free(struct ynode *n);

const struct ynode *ynode_get(const struct ynode *map, const char *key);
size_t ynode_count(const struct ynode *n);       /* children */
const char *ynode_kind_name(enum ynode_kind k);  /* "a map" */

#endif
