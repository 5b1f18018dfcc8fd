/* SPDX-License-Identifier: Apache-2.0 */
/* CNI network configuration: files of the configuration directories -> one self-contained list of
 * plugins, and a plugin's stdin out of it (CRI.md 14). Internal to cni*.c. */
#ifndef CRICKET_CNI_CONF_H
#define CRICKET_CNI_CONF_H

#include "err.h"
#include "proc/cni.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum {
    CNI_CONF_MAX = 1024 * 1024,      /* bytes of one file */
    CNI_PLUGINS_MAX = 64,            /* in one list */
};

struct cni_conf {
    char *name;
    char *file;                      /* where it was read; NULL when parsed */
    char version[16];                /* the one that is spoken: "0.1.0" .. "1.1.0" */
    bool disable_check, disable_gc;
    json_t *list; /* with the plugins of <dir>/<name>/ in it: needs no other file any more */
    json_t *plugins;                 /* borrowed from list; objects with a usable "type" */
};

struct cni_conf *cni_conf_free(struct cni_conf *c);
#define auto_cni_conf __attribute__((cleanup(cni_conf_freep)))
static inline void cni_conf_freep(struct cni_conf **c) { *c = cni_conf_free(*c); }

/* A list as cni_conf_text() gave it. */
int cni_conf_parse(const char *text, struct cni_conf **ret, struct err *err);
/* One file: *.conflist is a list, *.conf and *.json are a single plugin (wrapped into a list). */
int cni_conf_file(const char *dir, const char *file, struct cni_conf **ret, struct err *err);
/* The first good file of the directories, by directory and then by name, or NULL. bad says what is
 * wrong with the first bad file in front of it, or that there is none at all (-ENOENT); code 0:
 * nothing. Directories that do not exist are empty ones. */
void cni_conf_load(char *const *dirs, struct cni_conf **ret, struct err *bad);

char *cni_conf_text(const struct cni_conf *c);   /* the caller frees */
bool cni_conf_speaks(const struct cni_conf *c,
                     const char *version); /* that version or a newer one */
const char *cni_conf_type(const struct cni_conf *c, size_t i);
/* stdin of plugin i. prev, caps and extra (members to add) may be NULL. The caller frees. */
char *cni_conf_input(const struct cni_conf *c, size_t i, json_t *prev, json_t *caps, json_t *extra);

/* cni_caps.c: what the pod brings for plugins that ask for it, by capability. A new reference. */
int cni_caps(const struct cni_attach *a, json_t **ret, struct err *err);
/* "10M", "1.5Gi", "1e6" (a Kubernetes quantity, rounded up): 0, or -EINVAL. */
int cni_parse_quantity(const char *s, uint64_t *ret);

/* cni_result.c */
struct cni_ips {
    char **v;
    size_t n;
};
void cni_ips_deinit(struct cni_ips *ips);
/* The addresses of an ADD result of any version that belong to ifname inside the sandbox; IPv4
 * first. */
int cni_result_ips(const json_t *result, const char *ifname, struct cni_ips *ret, struct err *err);
/* What a plugin that failed said: its error object, else stderr, else the exit status. Returns
 * err's code; *ret_code (may be NULL) is the number in the object, 0 if there was none. */
int cni_result_error(const char *type, const char *command, int status, const char *out,
                     const char *errout, int *ret_code, struct err *err);

#endif
