/* SPDX-License-Identifier: Apache-2.0 */
/* Between conf.c (files, table of keys), conf_values.c (kinds of value) and conf_maps.c (the keys
 * whose members are named by the admin). */
#ifndef CRICKET_CONF_PRIV_H
#define CRICKET_CONF_PRIV_H

#include "conf.h"
#include "ynode.h"

#include <errno.h>
#include <jansson.h>
#include <stddef.h>

enum conf_kind {
    K_DIR, K_PATH, K_LISTEN, K_STRS, K_SYSCTLS, K_DIRS, K_BOOL, K_UINT, K_UINT64, K_INT,
    K_SIZE32, K_TIME, K_MODE, K_USER, K_GROUP, K_LEVEL, K_DRIVER, K_PARENT, K_ADDRESS,
    K_PROFILE, K_REGISTRIES, K_RUNTIMES,
};

struct conf_key {
    const char *name;
    enum conf_kind kind;
    size_t offset;                   /* in struct conf */
    /* one value, or words of a list; NULL: zero, or the empty list */
    const char *def;
    long long min, max;              /* of numbers; times in ms, sizes in bytes */
};

/* A member of struct conf by its key. */
#define CONF_FIELD(c, k, type) (*(type *)(void *)((char *)(c) + (k)->offset))

/* Where a value stands: for error texts. */
struct conf_at {
    const char *file;
    const struct ynode *node;
    const char *key;                 /* "registries.configs.'quay.io'.auth" */
};

#define conf_fail(at, err, fmt, ...) \
    err_set(err, -EINVAL, "%s:%u: %s: " fmt, (at)->file, (at)->node->line, (at)->key, ##__VA_ARGS__)

/* Checks the value and stores it in c. */
int conf_set_key(struct conf *c, const struct conf_key *k, const struct conf_at *at,
                 struct err *err);

/* Single values; *ret is replaced (and freed) on success only. Secrets are never quoted. */
int conf_want(const struct conf_at *at, enum ynode_kind kind, struct err *err);
int conf_text(const struct conf_at *at, char **ret, struct err *err);
int conf_path(const struct conf_at *at, bool may_be_empty, char **ret, struct err *err);
int conf_bool(const struct conf_at *at, bool *ret, struct err *err);
int conf_list(const struct conf_at *at, int (*item)(const struct conf_at *at, char **ret,
                                                    struct err *err),
              char ***ret, struct err *err);
char **conf_list_free(char **list);

/* conf_maps.c; a node of kind YNODE_NULL is an empty map */
int conf_registries(struct conf *c, const struct conf_at *at, struct err *err);
int conf_runtimes(struct conf *c, const struct conf_at *at, struct err *err);
/* Takes over both lists; their entries win. */
void conf_maps_merge(struct conf *c, struct conf_mirror *mirrors, struct conf_registry *registries);
void conf_maps_free(struct conf *c);
json_t *conf_registries_json(const struct conf *c);
json_t *conf_runtimes_json(const struct conf *c);

#endif
