/* SPDX-License-Identifier: Apache-2.0 */
/* CNI configuration as libcni reads it.
 *
 * Whatever the file looked like (a list, a lone plugin, a list with more plugins in <dir>/<name>/),
 * the result is one JSON list that stands on its own: it is kept with each attachment, so that DEL
 * works from the very plugins that ADD ran, after the files have changed or gone. The idea that
 * makes the rest short: cni_conf_text() followed by cni_conf_parse() gives the same configuration.
 */
#include "proc/cni_conf.h"

#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEWEST "1.1.0"

struct cni_conf *cni_conf_free(struct cni_conf *c)
{
    if (c) {
        json_decref(c->list);
        free(c->name);
        free(c->file);
        free(c);
    }
    return NULL;
}

/* "1.0.0" -> comparable; -EINVAL. A prerelease or build suffix is not CNI. */
static int parse_version(const char *s, long *ret)
{
    unsigned v[3];
    int end = 0;

    if (sscanf(s, "%3u.%3u.%3u%n", &v[0], &v[1], &v[2], &end) != 3 || s[end])
        return -EINVAL;
    *ret = v[0] * 1000000L + v[1] * 1000L + v[2];
    return 0;
}

bool cni_conf_speaks(const struct cni_conf *c, const char *version)
{
    long have = 0, want = 0;

    (void)parse_version(c->version, &have);
    (void)parse_version(version, &want);
    return have >= want;
}

/* cniVersion and cniVersions: the highest that we know. */
static int pick_version(struct cni_conf *c, struct err *err)
{
    json_t *one = json_object_get(c->list, "cniVersion");
    json_t *many = json_object_get(c->list, "cniVersions");
    long best = -1, v, newest = 0;
    const char *seen = NULL;

    (void)parse_version(NEWEST, &newest);
    if ((one && !json_is_string(one)) || (many && !json_is_array(many)))
        return err_set(err, -EINVAL, "cniVersion must be a string, cniVersions a list of strings");
    for (size_t i = 0; i <= json_array_size(many); i++) {
        json_t *j = i < json_array_size(many) ? json_array_get(many, i) : one;
        const char *s = json_string_value(j);

        if (!j || (j == one && s && !s[0]))
            continue;
        if (!s || parse_version(s, &v) < 0)
            return err_set(err, -EINVAL, "bad CNI version '%s'", s ? s : "(not a string)");
        seen = s;
        if (v <= newest && v > best) {
            best = v;
            snprintf(c->version, sizeof c->version, "%s", s);
        }
    }
    if (best >= 0)
        return 0;
    if (seen)
        return err_set(err, -EINVAL, "CNI version '%s' is not supported (the newest is " NEWEST ")",
                       seen);
    snprintf(c->version, sizeof c->version, "0.1.0");
    return 0;
}

/* libcni takes true and "true". */
static int get_bool(const json_t *o, const char *key, bool *ret, struct err *err)
{
    const json_t *j = json_object_get(o, key);
    const char *s = json_string_value(j);

    *ret = false;
    if (!j || json_is_false(j) || (s && strcasecmp(s, "false") == 0))
        return 0;
    if (!json_is_true(j) && !(s && strcasecmp(s, "true") == 0))
        return err_set(err, -EINVAL, "'%s' must be true or false", key);
    *ret = true;
    return 0;
}

static bool name_ok(const char *s)
{
    static const char first[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

    return s[0] && strchr(first, s[0]) &&
           s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")] ==
               '\0';
}

static int check_plugins(struct cni_conf *c, struct err *err)
{
    size_t i, n = json_array_size(c->plugins);
    json_t *p;

    if (n == 0)
        return err_set(err, -EINVAL, "no plugins in the list");
    if (n > CNI_PLUGINS_MAX)
        return err_set(err, -E2BIG, "%zu plugins in the list; at most %d", n, CNI_PLUGINS_MAX);
    json_array_foreach(c->plugins, i, p)
    {
        const char *type = json_string_value(json_object_get(p, "type"));

        if (str_empty(type))
            return err_set(err, -EINVAL, "plugin %zu has no 'type'", i);
        if (strchr(type, '/') || type[0] == '.')
            return err_set(err, -EINVAL, "plugin %zu: '%s' is not the name of a plugin", i, type);
    }
    return 0;
}

static int read_json(const char *path, json_t **ret, struct err *err)
{
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    auto_str struct str s = STR_INIT;
    struct stat st;
    json_error_t je;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_sys(err, "'%s'", path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "'%s' is not a regular file", path);
    if (st.st_size > CNI_CONF_MAX)
        return err_set(err, -EFBIG, "'%s' has more than %d bytes", path, CNI_CONF_MAX);
    while (s.len <= CNI_CONF_MAX) {
        ssize_t n = read(fd, str_room(&s, 4096), 4096);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(err, "'%s'", path);
        if (n == 0)
            break;
        s.len += (size_t)n;
    }
    json_t *j = json_loadb(str_c(&s), s.len, 0, &je);
    if (!j)
        return err_set(err, -EINVAL, "'%s', line %d: %s", path, je.line, je.text);
    if (!json_is_object(j)) {
        json_decref(j);
        return err_set(err, -EINVAL, "'%s' is not a JSON object", path);
    }
    *ret = j;
    return 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_conf(const struct dirent *d)
{
    return d->d_name[0] != '.' && str_ends(d->d_name, ".conf");
}

static int is_any(const struct dirent *d)
{
    return d->d_name[0] != '.' &&
           (str_ends(d->d_name, ".conf") || str_ends(d->d_name, ".conflist") ||
            str_ends(d->d_name, ".json"));
}

static void free_entries(struct dirent **v, int from, int n)
{
    for (int i = from; i < n; i++)
        free(v[i]);
    free(v);
}

/* Plugins that other packages drop into <dir>/<name>/ go behind the list's own. */
static int append_folder(struct cni_conf *c, const char *dir, struct err *err)
{
    auto_free char *sub = mem_printf("%s/%s", dir, c->name);
    struct dirent **v = NULL;
    int n = scandir(sub, &v, is_conf, by_name), r = 0, i = 0;

    if (n < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : err_sys(err, "'%s'", sub);
    for (; i < n && r == 0; i++) {
        auto_free char *path = mem_printf("%s/%s", sub, v[i]->d_name);
        json_t *p = NULL;

        r = read_json(path, &p, err);
        if (r == 0)
            json_array_append_new(c->plugins, p);
        free(v[i]);
    }
    free_entries(v, i, n);
    return r;
}

/* Takes over the reference to list. dir: where to look for more plugins, NULL: nowhere. */
static int from_json(json_t *list, const char *dir, struct cni_conf **ret, struct err *err)
{
    auto_cni_conf struct cni_conf *c = mem_new(struct cni_conf);
    const char *name = json_string_value(json_object_get(list, "name"));
    bool inlined_only;
    int r;

    c->list = list;
    if (str_empty(name))
        return err_set(err, -EINVAL, "the network has no 'name'");
    if (!name_ok(name))
        return err_set(err, -EINVAL, "'%s' is not a name for a network", name);
    c->name = mem_strdup(name);
    r = pick_version(c, err);
    if (r == 0)
        r = get_bool(list, "disableCheck", &c->disable_check, err);
    if (r == 0)
        r = get_bool(list, "disableGC", &c->disable_gc, err);
    if (r == 0)
        r = get_bool(list, "loadOnlyInlinedPlugins", &inlined_only, err);
    if (r < 0)
        return r;

    c->plugins = json_object_get(list, "plugins");
    if (!c->plugins && inlined_only)
        return err_set(err, -EINVAL,
                       "'loadOnlyInlinedPlugins' is true, and there are no 'plugins'");
    if (c->plugins && !json_is_array(c->plugins))
        return err_set(err, -EINVAL, "'plugins' is not a list");
    if (!c->plugins) {
        c->plugins = json_array();
        json_object_set_new(list, "plugins", c->plugins);
    }
    if (dir && !inlined_only) {
        r = append_folder(c, dir, err);
        if (r < 0)
            return r;
        json_object_set_new(list, "loadOnlyInlinedPlugins", json_true());
    }
    r = check_plugins(c, err);
    if (r == 0)
        *ret = take_ptr(c);
    return r;
}

int cni_conf_parse(const char *text, struct cni_conf **ret, struct err *err)
{
    json_error_t je;
    json_t *j = json_loads(text, 0, &je);

    if (!j)
        return err_set(err, -EINVAL, "network configuration, line %d: %s", je.line, je.text);
    return from_json(j, NULL, ret, err);
}

int cni_conf_file(const char *dir, const char *file, struct cni_conf **ret, struct err *err)
{
    auto_free char *path = mem_printf("%s/%s", dir, file);
    json_t *j = NULL;
    int r = read_json(path, &j, err);

    if (r < 0)
        return r;
    if (!str_ends(file, ".conflist")) {
        json_t *list;

        if (!json_is_string(
                json_object_get(j, "type"))) { /* a list under a plugin's name, most likely */
            json_decref(j);
            return err_set(err, -EINVAL, "'%s' has no 'type': is it a .conflist?", path);
        }
        list = json_object();
        json_object_set(list, "name", json_object_get(j, "name"));
        if (json_object_get(j, "cniVersion"))
            json_object_set(list, "cniVersion", json_object_get(j, "cniVersion"));
        json_object_set_new(list, "plugins", json_pack("[o]", j));
        json_object_set_new(list, "loadOnlyInlinedPlugins", json_true());
        j = list;
    }
    r = from_json(j, dir, ret, err);
    if (r < 0)
        return err_note(err, "'%s'", path);
    (*ret)->file = take_ptr(path);
    return 0;
}

void cni_conf_load(char *const *dirs, struct cni_conf **ret, struct err *bad)
{
    auto_str struct str where = STR_INIT;

    *ret = NULL;
    err_clear(bad);
    for (size_t d = 0; dirs[d] && !*ret; d++) {
        struct dirent **v = NULL;
        int n = scandir(dirs[d], &v, is_any, by_name);

        str_printf(&where, "%s%s", d ? ", " : "", dirs[d]);
        if (n < 0) {
            if (errno != ENOENT && errno != ENOTDIR && bad->code == 0)
                err_sys(bad, "'%s'", dirs[d]);
            continue;
        }
        for (int i = 0; i < n && !*ret; i++) {
            struct err e = ERR_INIT;

            if (cni_conf_file(dirs[d], v[i]->d_name, ret, &e) < 0 && bad->code == 0)
                *bad = e;
        }
        free_entries(v, 0, n);
    }
    if (!*ret && bad->code == 0)
        err_set(bad, -ENOENT, "no network config in %s", str_c(&where));
}

char *cni_conf_text(const struct cni_conf *c)
{
    return json_dumps(c->list, JSON_COMPACT);
}

const char *cni_conf_type(const struct cni_conf *c, size_t i)
{
    return json_string_value(json_object_get(json_array_get(c->plugins, i), "type"));
}

/* Of all that the pod could give, what this plugin says it takes. */
static json_t *wanted_caps(const json_t *plugin, json_t *caps)
{
    json_t *rc = json_object(), *want = json_object_get(plugin, "capabilities"), *on;
    const char *key;

    json_object_foreach(want, key, on)
    {
        json_t *v = json_object_get(caps, key);

        if (json_is_true(on) && v)
            json_object_set(rc, key, v);
    }
    return rc;
}

char *cni_conf_input(const struct cni_conf *c, size_t i, json_t *prev, json_t *caps, json_t *extra)
{
    json_t *in = json_copy(json_array_get(c->plugins, i));
    json_t *rc = wanted_caps(in, caps);
    char *text;

    json_object_set_new(in, "name", json_string(c->name));
    json_object_set_new(in, "cniVersion", json_string(c->version));
    if (prev)
        json_object_set(in, "prevResult", prev);
    if (json_object_size(rc) > 0)
        json_object_set(in, "runtimeConfig", rc);
    if (extra)
        json_object_update(in, extra);
    json_decref(rc);
    text = json_dumps(in, JSON_COMPACT);
    json_decref(in);
    return text;
}
