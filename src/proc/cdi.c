/* SPDX-License-Identifier: Apache-2.0 */
/* Finding devices: all spec files of all directories are read when a container asks for one, which
 * is rare and needs no cache to be kept true. The last directory that has a device wins; two files
 * of one directory that both have it are a mistake of the admin that nobody can resolve. */
#include "proc/cdi.h"

#include "mem.h"
#include "proc/cdi_impl.h"
#include "str.h"

#include <dirent.h>
#include <string.h>

const char *const cdi_default_dirs[] = { "/etc/cdi", "/var/run/cdi", NULL };

/* --- names */

static bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

static bool is_alnum(char c) { return is_alpha(c) || (c >= '0' && c <= '9'); }

/* Letters, digits and `others` inside. */
static bool part_ok(const char *s, size_t n, const char *others, bool alpha_first)
{
    if (n == 0 || n > 255 || !(alpha_first ? is_alpha(s[0]) : is_alnum(s[0])) ||
        !is_alnum(s[n - 1]))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!is_alnum(s[i]) && !strchr(others, s[i]))
            return false;
    return true;
}

/* vendor/class of n bytes */
static bool kind_ok(const char *s, size_t n)
{
    const char *slash = memchr(s, '/', n);

    return slash && part_ok(s, (size_t)(slash - s), "_-.", true) &&
           part_ok(slash + 1, n - (size_t)(slash - s) - 1, "_-", true);
}

bool cdi_name_ok(const char *name)
{
    const char *eq = strchr(name, '=');

    return eq && kind_ok(name, (size_t)(eq - name)) && part_ok(eq + 1, strlen(eq + 1), "_-.:",
                                                               false);
}

/* --- files */

struct spec {
    char *file;
    unsigned dir;                    /* its place among the directories: higher wins */
    struct ynode *root;
    const char *kind;
    const struct ynode *edits, *devices;     /* may be NULL */
    bool used;                       /* its own edits have been taken */
};

struct specs {
    struct spec *v;
    size_t n;
    struct err first;                /* the first file that is none */
    size_t n_bad;
};

static void specs_deinit(struct specs *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->v[i].file);
        ynode_free(s->v[i].root);
    }
    free(s->v);
}

static int check_version(const char *file, const struct ynode *node, struct err *err)
{
    static const char *const known[] = { "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0",
                                         "0.7.0", "0.8.0", "1.0.0", "1.1.0" };
    const char *s = "";
    int r = cdi_text(file, node, &s, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strcmp(s + (s[0] == 'v'), known[i]) == 0)
            return 0;
    return cdi_fail(file, node, err, "cdiVersion '%.40s' is not known", s);
}

static int check_devices(const char *file, const struct ynode *list, struct err *err)
{
    int r = 0;

    if (list->kind != YNODE_LIST)
        return cdi_fail(file, list, err, "devices must be a list, not %s",
                        ynode_kind_name(list->kind));
    for (const struct ynode *d = list->first; d && r == 0; d = d->next) {
        const struct ynode *name = ynode_get(d, "name"), *edits = ynode_get(d, "containerEdits");
        const char *s = "";

        if (!name || !edits)
            return cdi_fail(file, d, err, "a device needs name and containerEdits");
        r = cdi_text(file, name, &s, err);
        if (r == 0 && !part_ok(s, strlen(s), "_-.:", false))
            return cdi_fail(file, name, err,
                            "device name '%.80s' has characters that are not allowed", s);
        for (const struct ynode *m = d->first; m && r == 0; m = m->next)
            if (m != name && m != edits && strcmp(m->key, "annotations") != 0)
                return cdi_fail(file, m, err, "unknown key '%.80s' of a device", m->key);
        for (const struct ynode *o = list->first; o != d && r == 0; o = o->next)
            if (strcmp(ynode_get(o, "name")->text, s) == 0)
                return cdi_fail(file, name, err, "device '%.80s' is there twice", s);
        if (r == 0)
            r = cdi_edits_parse(file, edits, NULL, err);
    }
    return r;
}

static int check_spec(struct spec *s, struct err *err)
{
    const struct ynode *version = ynode_get(s->root, "cdiVersion"), *kind = ynode_get(s->root,
                                                                                      "kind");
    int r = 0;

    if (s->root->kind != YNODE_MAP)
        return cdi_fail(s->file, s->root, err, "must be a map, not %s",
                        ynode_kind_name(s->root->kind));
    if (!version || !kind)
        return cdi_fail(s->file, s->root, err, "needs cdiVersion and kind");
    s->edits = ynode_get(s->root, "containerEdits");
    s->devices = ynode_get(s->root, "devices");
    for (const struct ynode *m = s->root->first; m; m = m->next)
        if (m != version && m != kind && m != s->edits && m != s->devices &&
            strcmp(m->key, "annotations") != 0)
            return cdi_fail(s->file, m, err, "unknown key '%.80s'", m->key);
    r = check_version(s->file, version, err);
    if (r == 0)
        r = cdi_text(s->file, kind, &s->kind, err);
    if (r == 0 && !kind_ok(s->kind, strlen(s->kind)))
        r = cdi_fail(s->file, kind, err, "kind '%.80s' is not vendor/class", s->kind);
    if (r == 0 && s->edits)
        r = cdi_edits_parse(s->file, s->edits, NULL, err);
    if (r == 0 && s->devices)
        r = check_devices(s->file, s->devices, err);
    return r;
}

static void add_file(struct specs *all, const char *path, unsigned dir)
{
    struct spec s = { .file = mem_strdup(path), .dir = dir };
    struct err e = ERR_INIT;
    int r = ynode_load(path, &s.root, &e);

    r = r < 0 ? err_note(&e, "CDI spec") : check_spec(&s, &e);
    if (r < 0) {
        if (!all->n_bad++)
            all->first = e;
        free(s.file);
        ynode_free(s.root);
        return;
    }
    all->v = mem_grow(all->v, all->n + 1, sizeof s);
    all->v[all->n++] = s;
}

static int is_spec(const struct dirent *d)
{
    return d->d_name[0] != '.' && (str_ends(d->d_name, ".json") || str_ends(d->d_name, ".yaml"));
}

static int add_dir(struct specs *all, const char *dir, unsigned place, struct err *err)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, is_spec, alphasort), r = 0;

    if (n < 0)
        return errno == ENOENT ? 0 : err_sys(err, "CDI directory '%s'", dir);
    if (n > CDI_FILES_MAX)
        r = err_set(err, -E2BIG, "CDI directory '%s' has more than %d spec files", dir,
                    CDI_FILES_MAX);
    for (int i = 0; i < n; i++) {
        auto_free char *path = mem_printf("%s/%s", dir, list[i]->d_name);

        if (r == 0)
            add_file(all, path, place);
        free(list[i]);
    }
    free(list);
    return r;
}

/* --- devices */

static const struct ynode *device_in(const struct spec *s, const char *name)
{
    const char *eq = strchr(name, '=');

    if (strlen(s->kind) != (size_t)(eq - name) || strncmp(s->kind, name,
                                                          (size_t)(eq - name)) != 0 || !s->devices)
        return NULL;
    for (const struct ynode *d = s->devices->first; d; d = d->next)
        if (strcmp(ynode_get(d, "name")->text, eq + 1) == 0)
            return d;
    return NULL;
}

static int not_found(const struct specs *all, const char *name, struct err *err)
{
    if (all->n_bad)
        return err_set(err, -ENOENT,
                       "CDI device '%.200s' is not found; %zu spec file%s cannot be used: %s", name,
                       all->n_bad, all->n_bad == 1 ? "" : "s", all->first.text);
    return err_set(err, -ENOENT, "CDI device '%.200s' is not found", name);
}

static int add_device(struct specs *all, const char *name, struct cdi_edits *e, struct err *err)
{
    const struct ynode *device = NULL;
    struct spec *from = NULL, *also = NULL;
    int r = 0;

    for (size_t i = 0; i < all->n; i++) {
        const struct ynode *d = device_in(&all->v[i], name);

        if (!d)
            continue;
        also = from && from->dir == all->v[i].dir ? from : NULL;
        from = &all->v[i];
        device = d;
    }
    if (!from)
        return not_found(all, name, err);
    if (also)
        return err_set(err, -EINVAL, "CDI device '%.200s' is in both '%s' and '%s'", name,
                       also->file,
                       from->file);
    if (from->edits && !from->used)
        r = cdi_edits_parse(from->file, from->edits, e, err);
    from->used = true;
    if (r == 0)
        r = cdi_edits_parse(from->file, ynode_get(device, "containerEdits"), e, err);
    return r < 0 ? err_note(err, "CDI device '%.200s'", name) : 0;
}

int cdi_resolve(const char *const *dirs, const char *const *names, size_t n, struct cdi_edits **ret,
                struct err *err)
{
    struct specs all = { .first = ERR_INIT };
    struct cdi_edits *e = mem_new(struct cdi_edits);
    int r = 0;

    e->env = mem_array(1, sizeof *e->env);
    for (size_t i = 0; i < n && r == 0; i++)
        if (!cdi_name_ok(names[i]))
            r = err_set(err, -EINVAL, "CDI device '%.200s' is not of the form vendor/class=device",
                        names[i]);
    for (unsigned i = 0; n && dirs[i] && r == 0; i++)
        r = add_dir(&all, dirs[i], i, err);
    for (size_t i = 0; i < n && r == 0; i++)
        r = add_device(&all, names[i], e, err);
    specs_deinit(&all);
    if (r < 0) {
        cdi_edits_free(e);
        return r;
    }
    *ret = e;
    return 0;
}
