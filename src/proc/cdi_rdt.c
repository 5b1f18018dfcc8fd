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
static int set_value(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    char **text = ret;
    int r = cdi_set_text(x, node, text);

    if (r == 0 && !**text) {
        free(*text);
        *text = NULL;
    }
    return r;
}

/* A directory in resctrl's root. "/" is that itself. */
static int set_clos(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    static const char *const taken[] = { ".", "..", "info", "mon_data", "mon_groups" };
    char **name = ret;
    int r = set_value(x, node, name);
    bool bad = false;

    if (r < 0 || !*name || strcmp(*name, "/") == 0)
        return r;
    for (size_t i = 0; i < ARRAY_LEN(taken); i++)
        bad = bad || strcmp(*name, taken[i]) == 0;
    if (bad || strlen(*name) > NAME_MAX || strpbrk(*name, "/\n"))
        return fail(x, node, "closID '%.80s' is no name of a resctrl group", *name);
    return 0;
}

static int set_mb(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    char **line = ret;
    int r = set_value(x, node, line);

    if (r == 0 && *line && (strncmp(*line, "MB:", 3) != 0 || strchr(*line, '\n')))
        return fail(x, node, "memBwSchema '%.80s' is not one line MB:...", *line);
    return r;
}

static int set_schemata(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    char ***lines = ret;
    size_t n = 0;
    int r = cdi_set_list(x, node, lines);

    for (char **v = *lines; r == 0 && v && *v; v++) {
        n += strlen(*v) + 1;
        if (!**v || strchr(*v, '\n'))
            r = fail(x, node, "schemata: '%.80s' is not one line", *v);
    }
    if (r == 0 && n > LINES_MAX)
        r = fail(x, node, "schemata: more than %d bytes", LINES_MAX);
    return r;
}

static int set_bool(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    bool *flag = ret;
    bool yes = node->kind == YNODE_SCALAR && !node->quoted && strcmp(node->text, "true") == 0;

    if (!yes && (node->kind != YNODE_SCALAR || node->quoted || strcmp(node->text, "false") != 0))
        return fail(x, node, "%s must be true or false", node->key);
    *flag = yes;
    return 0;
}

static const struct cdi_member members[] = {
    { "closID", offsetof(struct cdi_rdt, clos), set_clos },
    { "enableCMT", offsetof(struct cdi_rdt, cmt), set_bool },
    { "enableMBM", offsetof(struct cdi_rdt, mbm), set_bool },
    { "enableMonitoring", offsetof(struct cdi_rdt, monitoring), set_bool },
    { "l3CacheSchema", offsetof(struct cdi_rdt, l3), set_value },
    { "memBwSchema", offsetof(struct cdi_rdt, mb), set_mb },
    { "schemata", offsetof(struct cdi_rdt, schemata), set_schemata },
    { 0 }
};

int cdi_intel_rdt(const struct cdi_ctx *x, const struct ynode *node)
{
    struct cdi_rdt *t;
    int r;

    if (node->kind == YNODE_NULL)
        return 0;
    if (node->kind != YNODE_MAP)
        return fail(x, node, "intelRdt must be a map, not %s", ynode_kind_name(node->kind));
    t = mem_new(struct cdi_rdt);
    r = cdi_set_members(x, node, "intelRdt", members, t);
    if (r < 0 || !x->ret) {
        cdi_rdt_free(t);
        return r;
    }
    cdi_rdt_free(x->ret->rdt);
    x->ret->rdt = t;
    return 0;
}
