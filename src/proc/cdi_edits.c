/* SPDX-License-Identifier: Apache-2.0 */
/* containerEdits of a CDI spec. Each member is checked for its type and its value, as strictly as
 * the reference library does it (an unknown key is an error there too), and its error names file
 * and line. */
#include "proc/cdi_impl.h"

#include "mem.h"
#include "str.h"

#include <inttypes.h>
#include <limits.h>
#include <net/if.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

int cdi_text(const char *file, const struct ynode *node, const char **ret, struct err *err)
{
    if (node->kind != YNODE_SCALAR)
        return cdi_fail(file, node, err, "'%.80s' must be a text, not %s",
                        node->key ? node->key : "entry",
                        ynode_kind_name(node->kind));
    *ret = node->text;
    return 0;
}

int cdi_set_text(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    char **text = ret;
    const char *s = "";
    int r = cdi_text(x->file, node, &s, x->err);

    if (r == 0) {
        free(*text);
        *text = mem_strdup(s);
    }
    return r;
}

static int set_path(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    char **path = ret;
    int r = cdi_set_text(x, node, path);

    if (r == 0 && ((*path)[0] != '/' || strlen(*path) >= PATH_MAX))
        return fail(x, node, "%s '%.200s' is not an absolute path", node->key, *path);
    return r;
}

static int set_number(const struct cdi_ctx *x, const struct ynode *node, int64_t max, int64_t *ret)
{
    char *end = NULL;
    long long v = 0;

    errno = 0;
    if (node->kind == YNODE_SCALAR && !node->quoted && node->text[0] >= '0' && node->text[0] <= '9')
        v = strtoll(node->text, &end, 0);       /* YAML writes modes as 0660 */
    if (!end || *end || errno || v > max)
        return fail(x, node, "%s must be a number from 0 to %" PRId64,
                    node->key ? node->key : "entry",
                    max);
    *ret = v;
    return 0;
}

/* A user's or a group's. */
static int set_id(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    return set_number(x, node, UINT32_MAX - 1, ret);
}

/* A list of texts. */
int cdi_set_list(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    char ***list = ret;
    size_t n = 0;
    int r = 0;

    if (node->kind == YNODE_NULL)
        return 0;
    if (node->kind != YNODE_LIST)
        return fail(x, node, "%s must be a list, not %s", node->key, ynode_kind_name(node->kind));
    char **v = mem_array(ynode_count(node) + 1, sizeof *v);
    for (const struct ynode *c = node->first; c && r == 0; c = c->next)
        r = cdi_set_text(x, c, &v[n++]);
    cdi_free_list(*list);
    *list = v;
    return r;
}

static bool is_key(const struct ynode *node, const char *key)
{
    return strcmp(node->key, key) == 0;
}

int cdi_set_members(const struct cdi_ctx *x, const struct ynode *map, const char *what,
                    const struct cdi_member *members, void *ret)
{
    int r = 0;

    for (const struct ynode *node = map->first; node && r == 0; node = node->next) {
        const struct cdi_member *m = members;

        while (m->key && !is_key(node, m->key))
            m++;
        r = m->key ? m->set(x, node, (char *)ret + m->at)
                   : fail(x, node, "unknown key '%.80s' of %s", node->key, what);
    }
    return r;
}

/* Calls fn for each map in a list. */
static int each_map(const struct cdi_ctx *x, const struct ynode *node,
                    int (*fn)(const struct cdi_ctx *x, const struct ynode *map))
{
    int r = 0;

    if (node->kind == YNODE_NULL)
        return 0;
    if (node->kind != YNODE_LIST)
        return fail(x, node, "%s must be a list, not %s", node->key, ynode_kind_name(node->kind));
    for (const struct ynode *c = node->first; c && r == 0; c = c->next)
        r = c->kind == YNODE_MAP ? fn(x, c)
                                 : fail(x, c, "%s: an entry must be a map, not %s", node->key,
                                        ynode_kind_name(c->kind));
    return r;
}

/* --- devices */

static void device_deinit(struct cdi_device *d)
{
    free(d->path);
    free(d->host_path);
}

static int device_type(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    const char *s = "";
    mode_t *type = ret;
    int r = cdi_text(x->file, node, &s, x->err);

    if (r < 0)
        return r;
    if (strcmp(s, "c") == 0 || strcmp(s, "u") == 0)
        *type = S_IFCHR;
    else if (strcmp(s, "b") == 0)
        *type = S_IFBLK;
    else if (strcmp(s, "p") == 0)
        *type = S_IFIFO;
    else
        return fail(x, node, "device type '%.20s' is none of b, c, u, p", s);
    return 0;
}

static int device_permissions(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    const char *s = "";
    int r = cdi_text(x->file, node, &s, x->err);

    if (r < 0)
        return r;
    if (strlen(s) > 3 || strspn(s, "rwm") != strlen(s))
        return fail(x, node, "device permissions '%.20s' are not of r, w, m", s);
    memcpy(ret, s, strlen(s) + 1);
    return 0;
}

static int device_number(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    return set_number(x, node, UINT32_MAX, ret);
}

static int device_mode(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    mode_t *mode = ret;
    int64_t v = 0;
    int r = set_number(x, node, UINT32_MAX, &v);

    if (r == 0)
        *mode = (mode_t)v & 07777;           /* some put the type's bits in */
    return r;
}

static const struct cdi_member device_members[] = {
    { "fileMode", offsetof(struct cdi_device, mode), device_mode },
    { "gid", offsetof(struct cdi_device, gid), set_id },
    { "hostPath", offsetof(struct cdi_device, host_path), set_path },
    { "major", offsetof(struct cdi_device, major), device_number },
    { "minor", offsetof(struct cdi_device, minor), device_number },
    { "path", offsetof(struct cdi_device, path), set_path },
    { "permissions", offsetof(struct cdi_device, permissions), device_permissions },
    { "type", offsetof(struct cdi_device, type), device_type },
    { "uid", offsetof(struct cdi_device, uid), set_id },
    { 0 }
};

/* What the spec leaves open is as on the host. */
static int device_look(const struct cdi_ctx *x, const struct ynode *map, struct cdi_device *d)
{
    bool numbers = ynode_get(map, "major") || ynode_get(map, "minor");
    struct stat st;

    if (d->type == S_IFIFO || (d->type && numbers && d->mode != (mode_t)-1))
        goto known;
    if (stat(d->host_path, &st) < 0) {
        if (d->type && numbers)
            goto known;
        return err_sys(x->err, "CDI spec '%s' line %u: device '%.200s'", x->file, map->line,
                       d->host_path);
    }
    if (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode) && !S_ISFIFO(st.st_mode))
        return fail(x, map, "'%.200s' is not a device", d->host_path);
    if (d->type && d->type != (st.st_mode & S_IFMT))
        return fail(x, map, "'%.200s' is a device of another type", d->host_path);
    d->type = st.st_mode & S_IFMT;
    if (!numbers) {
        d->major = major(st.st_rdev);
        d->minor = minor(st.st_rdev);
    }
    if (d->mode == (mode_t)-1)
        d->mode = st.st_mode & 07777;
known:
    if (d->mode == (mode_t)-1)
        d->mode = 0666;
    return 0;
}

static int device(const struct cdi_ctx *x, const struct ynode *map)
{
    struct cdi_device d = { .mode = (mode_t)-1, .permissions = "rwm", .uid = -1, .gid = -1 };
    int r = cdi_set_members(x, map, "a device node", device_members, &d);

    if (r == 0 && !d.path)
        r = fail(x, map, "a device node without path");
    if (r == 0 && !d.host_path)
        d.host_path = mem_strdup(d.path);
    if (r == 0 && x->ret)
        r = device_look(x, map, &d);
    if (r < 0 || !x->ret) {
        device_deinit(&d);
        return r;
    }
    x->ret->devices = mem_grow(x->ret->devices, x->ret->n_devices + 1, sizeof d);
    x->ret->devices[x->ret->n_devices++] = d;
    return 0;
}

/* --- mounts, hooks, and the rest */

char **cdi_free_list(char **list)
{
    for (char **p = list; p && *p; p++)
        free(*p);
    free(list);
    return NULL;
}

static void mount_deinit(struct cdi_mount *m)
{
    free(m->host_path);
    free(m->container_path);
    free(m->type);
    cdi_free_list(m->options);
}

static const struct cdi_member mount_members[] = {
    { "containerPath", offsetof(struct cdi_mount, container_path), set_path },
    { "hostPath", offsetof(struct cdi_mount, host_path), cdi_set_text },
    { "options", offsetof(struct cdi_mount, options), cdi_set_list },
    { "type", offsetof(struct cdi_mount, type), cdi_set_text },
    { 0 }
};

static int mount(const struct cdi_ctx *x, const struct ynode *map)
{
    struct cdi_mount t = { 0 };
    int r = cdi_set_members(x, map, "a mount", mount_members, &t);

    if (r == 0 && (!t.host_path || !t.container_path))
        r = fail(x, map, "a mount needs hostPath and containerPath");
    if (r == 0 && !t.type)
        t.type = mem_strdup("");
    /* a file system of its own ("tmpfs") has a name there and no path */
    if (r == 0 && t.host_path[0] != '/' && (!t.type[0] || strcmp(t.type, "bind") == 0 ||
                                            strcmp(t.type, "none") == 0))
        r = fail(x, map, "hostPath '%.200s' is not an absolute path", t.host_path);
    if (r < 0 || !x->ret) {
        mount_deinit(&t);
        return r;
    }
    if (!t.options)
        t.options = mem_array(1, sizeof *t.options);
    x->ret->mounts = mem_grow(x->ret->mounts, x->ret->n_mounts + 1, sizeof t);
    x->ret->mounts[x->ret->n_mounts++] = t;
    return 0;
}

static void hook_deinit(struct cdi_hook *h)
{
    free(h->name);
    free(h->path);
    cdi_free_list(h->args);
    cdi_free_list(h->env);
}

static int hook_timeout(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    int64_t *ms = ret;
    int r = set_number(x, node, INT32_MAX / 1000, ms);

    if (r == 0 && !*ms)
        return fail(x, node, "timeout of a hook must be above 0");
    *ms *= 1000;
    return r;
}

static const struct cdi_member hook_members[] = {
    { "args", offsetof(struct cdi_hook, args), cdi_set_list },
    { "env", offsetof(struct cdi_hook, env), cdi_set_list },
    { "hookName", offsetof(struct cdi_hook, name), cdi_set_text },
    { "path", offsetof(struct cdi_hook, path), set_path },
    { "timeout", offsetof(struct cdi_hook, timeout_ms), hook_timeout },
    { 0 }
};

static int check_env(const struct cdi_ctx *x, const struct ynode *node, char *const *v)
{
    for (; v && *v; v++)
        if (!strchr(*v, '=') || (*v)[0] == '=')
            return fail(x, node, "env: '%.80s' is not NAME=value", *v);
    return 0;
}

static int hook(const struct cdi_ctx *x, const struct ynode *map)
{
    static const char *const names[] = { "prestart", "createRuntime", "createContainer",
                                         "startContainer", "poststart", "poststop" };
    struct cdi_hook h = { 0 };
    bool known = false;
    int r = cdi_set_members(x, map, "a hook", hook_members, &h);

    for (size_t i = 0; h.name && i < ARRAY_LEN(names); i++)
        known = known || strcmp(h.name, names[i]) == 0;
    if (r == 0 && !known)
        r = fail(x, map, "hook '%.80s' is none of the OCI runtime's", h.name ? h.name : "");
    if (r == 0 && !h.path)
        r = fail(x, map, "a hook without path");
    if (r == 0)
        r = check_env(x, map, h.env);
    if (r < 0 || !x->ret) {
        hook_deinit(&h);
        return r;
    }
    if (!h.args)
        h.args = mem_array(1, sizeof *h.args);
    if (!h.env)
        h.env = mem_array(1, sizeof *h.env);
    x->ret->hooks = mem_grow(x->ret->hooks, x->ret->n_hooks + 1, sizeof h);
    x->ret->hooks[x->ret->n_hooks++] = h;
    return 0;
}

static void netdev_deinit(struct cdi_netdev *d)
{
    free(d->host);
    free(d->name);
}

/* What the kernel takes for a name. */
static int set_interface(const struct cdi_ctx *x, const struct ynode *node, void *ret)
{
    char **name = ret;
    int r = cdi_set_text(x, node, name);
    size_t n = r == 0 ? strlen(*name) : 0;

    if (r == 0 && (n == 0 || n >= IF_NAMESIZE || strpbrk(*name, "/: \t\n\v\f\r") ||
                   strcmp(*name, ".") == 0 || strcmp(*name, "..") == 0))
        return fail(x, node, "%s '%.80s' is no name of a network interface", node->key, *name);
    return r;
}

static const struct cdi_member netdev_members[] = {
    { "hostInterfaceName", offsetof(struct cdi_netdev, host), set_interface },
    { "name", offsetof(struct cdi_netdev, name), set_interface },
    { 0 }
};

static int netdev(const struct cdi_ctx *x, const struct ynode *map)
{
    struct cdi_netdev d = { 0 };
    int r = cdi_set_members(x, map, "a network device", netdev_members, &d);

    if (r == 0 && !d.host)
        r = fail(x, map, "a network device without hostInterfaceName");
    if (r == 0 && !d.name)
        d.name = mem_strdup(d.host);
    for (size_t i = 0; r == 0 && x->ret && i < x->ret->n_netdevs; i++) {
        const struct cdi_netdev *o = &x->ret->netdevs[i];

        if (strcmp(o->host, d.host) == 0 || (strcmp(o->name, d.name) == 0 &&
                                             !strchr(d.name, '%')))
            r = fail(x, map, "network device '%s' as '%s': there is '%s' as '%s' already", d.host,
                     d.name, o->host, o->name);
    }
    if (r < 0 || !x->ret) {
        netdev_deinit(&d);
        return r;
    }
    x->ret->netdevs = mem_grow(x->ret->netdevs, x->ret->n_netdevs + 1, sizeof d);
    x->ret->netdevs[x->ret->n_netdevs++] = d;
    return 0;
}

static int env(const struct cdi_ctx *x, const struct ynode *node)
{
    char **v = NULL;
    int r = cdi_set_list(x, node, &v);
    size_t n = 0;

    if (r == 0)
        r = check_env(x, node, v);
    if (r < 0 || !x->ret) {
        cdi_free_list(v);
        return r;
    }
    while (v && v[n])
        n++;
    x->ret->env = mem_grow(x->ret->env, x->ret->n_env + n + 1, sizeof *v);
    if (n)
        memcpy(x->ret->env + x->ret->n_env, v, n * sizeof *v);
    x->ret->n_env += n;
    x->ret->env[x->ret->n_env] = NULL;
    free(v);
    return 0;
}

static int gids(const struct cdi_ctx *x, const struct ynode *node)
{
    int r = 0;

    if (node->kind == YNODE_NULL)
        return 0;
    if (node->kind != YNODE_LIST)
        return fail(x, node, "additionalGids must be a list, not %s", ynode_kind_name(node->kind));
    for (const struct ynode *c = node->first; c && r == 0; c = c->next) {
        int64_t v = 0;

        r = set_id(x, c, &v);
        if (r < 0 || !x->ret || v == 0)      /* 0 is dropped, as the specification says */
            continue;
        x->ret->gids = mem_grow(x->ret->gids, x->ret->n_gids + 1, sizeof(gid_t));
        x->ret->gids[x->ret->n_gids++] = (gid_t)v;
    }
    return r;
}

int cdi_edits_parse(const char *file, const struct ynode *node, struct cdi_edits *ret,
                    struct err *err)
{
    const struct cdi_ctx x = { file, ret, err };
    int r = 0;

    if (node->kind == YNODE_NULL)
        return 0;
    if (node->kind != YNODE_MAP)
        return fail(&x, node, "containerEdits must be a map, not %s", ynode_kind_name(node->kind));
    for (const struct ynode *m = node->first; m && r == 0; m = m->next) {
        if (is_key(m, "env"))
            r = env(&x, m);
        else if (is_key(m, "deviceNodes"))
            r = each_map(&x, m, device);
        else if (is_key(m, "mounts"))
            r = each_map(&x, m, mount);
        else if (is_key(m, "hooks"))
            r = each_map(&x, m, hook);
        else if (is_key(m, "additionalGids"))
            r = gids(&x, m);
        else if (is_key(m, "netDevices"))
            r = each_map(&x, m, netdev);
        else if (is_key(m, "intelRdt"))
            r = cdi_intel_rdt(&x, m);
        else
            r = fail(&x, m, "unknown key '%.80s' of containerEdits", m->key);
    }
    return r;
}

struct cdi_edits *cdi_edits_free(struct cdi_edits *e)
{
    if (!e)
        return NULL;
    for (size_t i = 0; i < e->n_devices; i++)
        device_deinit(&e->devices[i]);
    for (size_t i = 0; i < e->n_mounts; i++)
        mount_deinit(&e->mounts[i]);
    for (size_t i = 0; i < e->n_hooks; i++)
        hook_deinit(&e->hooks[i]);
    for (size_t i = 0; i < e->n_netdevs; i++)
        netdev_deinit(&e->netdevs[i]);
    cdi_rdt_free(e->rdt);
    cdi_free_list(e->env);
    free(e->netdevs);
    free(e->devices);
    free(e->mounts);
    free(e->hooks);
    free(e->gids);
    free(e);
    return NULL;
}
