/* SPDX-License-Identifier: Apache-2.0 */
/* intelRdt among containerEdits: what the OCI runtime-spec calls so, the kernel's resctrl. Of
 * several, the last one counts, all of it. enableCMT and enableMBM are of specs before 1.1. What the
 * kernel will take as a schema only the kernel knows: it says so when the container starts. */
#include "proc/cdi_impl.h"

#include "mem.h"

#include <limits.h>
#include <string.h>

enum { LINES_MAX = 65536 };          /* bytes of all that is written to a group's schemata */

struct cdi_rdt *cdi_rdt_free(struct cdi_rdt *t)
{
    if (!t)
        return NULL;
    free(t->clos);
    free(t->l3);
    free(t->mb);
    cdi_free_list(t->schemata);
    free(t);
    return NULL;
}

/* Empty is as good as not there, as in Go. */
static int set_value(const struct cdi_ctx *x, const struct ynode *node, char **ret)
{
    int r = cdi_set_text(x, node, ret);

    if (r == 0 && !**ret) {
        free(*ret);
        *ret = NULL;
    }
    return r;
}

/* A directory in resctrl's root. "/" is that itself. */
static int set_clos(const struct cdi_ctx *x, const struct ynode *node, char **ret)
{
    static const char *const taken[] = { ".", "..", "info", "mon_data", "mon_groups" };
    int r = set_value(x, node, ret);
    bool bad = false;

    if (r < 0 || !*ret || strcmp(*ret, "/") == 0)
        return r;
    for (size_t i = 0; i < ARRAY_LEN(taken); i++)
        bad = bad || strcmp(*ret, taken[i]) == 0;
    if (bad || strlen(*ret) > NAME_MAX || strpbrk(*ret, "/\n"))
        return fail(x, node, "closID '%.80s' is no name of a resctrl group", *ret);
    return 0;
}

static int set_mb(const struct cdi_ctx *x, const struct ynode *node, char **ret)
{
    int r = set_value(x, node, ret);

    if (r == 0 && *ret && (strncmp(*ret, "MB:", 3) != 0 || strchr(*ret, '\n')))
        return fail(x, node, "memBwSchema '%.80s' is not one line MB:...", *ret);
    return r;
}

static int set_schemata(const struct cdi_ctx *x, const struct ynode *node, char ***ret)
{
    size_t n = 0;
    int r = cdi_set_list(x, node, ret);

    for (char **v = *ret; r == 0 && v && *v; v++) {
        n += strlen(*v) + 1;
        if (!**v || strchr(*v, '\n'))
            r = fail(x, node, "schemata: '%.80s' is not one line", *v);
    }
    if (r == 0 && n > LINES_MAX)
        r = fail(x, node, "schemata: more than %d bytes", LINES_MAX);
    return r;
}

static int set_bool(const struct cdi_ctx *x, const struct ynode *node, bool *ret)
{
    bool yes = node->kind == YNODE_SCALAR && !node->quoted && strcmp(node->text, "true") == 0;

    if (!yes && (node->kind != YNODE_SCALAR || node->quoted || strcmp(node->text, "false") != 0))
        return fail(x, node, "%s must be true or false", node->key);
    *ret = yes;
    return 0;
}

static int member(const struct cdi_ctx *x, const struct ynode *m, struct cdi_rdt *t)
{
    if (strcmp(m->key, "closID") == 0)
        return set_clos(x, m, &t->clos);
    if (strcmp(m->key, "l3CacheSchema") == 0)
        return set_value(x, m, &t->l3);
    if (strcmp(m->key, "memBwSchema") == 0)
        return set_mb(x, m, &t->mb);
    if (strcmp(m->key, "schemata") == 0)
        return set_schemata(x, m, &t->schemata);
    if (strcmp(m->key, "enableMonitoring") == 0)
        return set_bool(x, m, &t->monitoring);
    if (strcmp(m->key, "enableCMT") == 0)
        return set_bool(x, m, &t->cmt);
    if (strcmp(m->key, "enableMBM") == 0)
        return set_bool(x, m, &t->mbm);
    return fail(x, m, "unknown key '%.80s' of intelRdt", m->key);
}

int cdi_intel_rdt(const struct cdi_ctx *x, const struct ynode *node)
{
    struct cdi_rdt *t;
    int r = 0;

    if (node->kind == YNODE_NULL)
        return 0;
    if (node->kind != YNODE_MAP)
        return fail(x, node, "intelRdt must be a map, not %s", ynode_kind_name(node->kind));
    t = mem_new(struct cdi_rdt);
    for (const struct ynode *m = node->first; m && r == 0; m = m->next)
        r = member(x, m, t);
    if (r < 0 || !x->ret) {
        cdi_rdt_free(t);
        return r;
    }
    cdi_rdt_free(x->ret->rdt);
    x->ret->rdt = t;
    return 0;
}
