/* SPDX-License-Identifier: Apache-2.0 */
/* One table says everything about a key: its name (dots are nested maps in the file), its kind,
 * where it goes in struct conf, its default (as text, read by the same parser as the file's) and
 * its bounds. Loading, the check for unknown keys, freeing, the JSON form and the documentation
 * test all walk this table. */
#include "conf.h"

#include "conf_priv.h"
#include "mem.h"
#include "str.h"

#include <dirent.h>
#include <inttypes.h>
#include <string.h>

#define AT(member) offsetof(struct conf, member)
#define CONF_PARENT "/cricket"
#define CONF_PARENT_SYSTEMD "cricket.slice"
#define DAY_MS (24LL * 3600 * 1000)

static const struct conf_key keys[] = {
    { "apparmor_profile", K_PROFILE, AT(apparmor_profile), CONF_APPARMOR, 0, 0 },
    { "cdi.spec_dirs", K_DIRS, AT(cdi_spec_dirs), "/etc/cdi /var/run/cdi", 0, 0 },
    { "cgroup_driver", K_DRIVER, AT(cgroup_driver), "cgroupfs", 0, 0 },
    { "cgroup_parent", K_PARENT, AT(cgroup_parent), CONF_PARENT, 0, 0 },
    { "cni.bin_dirs", K_DIRS, AT(cni_bin_dirs), "/opt/cni/bin /usr/lib/cni", 0, 0 },
    { "cni.conf_dirs", K_DIRS, AT(cni_conf_dirs), "/etc/cni/net.d", 0, 0 },
    { "cni.timeout", K_TIME, AT(cni_timeout_ms), "2m", 100, DAY_MS },
    { "create_missing_host_paths", K_BOOL, AT(create_missing_host_paths), "false", 0, 0 },
    { "criu", K_PATH, AT(criu), "/usr/sbin/criu", 0, 0 },
    { "default_sysctls", K_SYSCTLS, AT(default_sysctls), NULL, 0, 0 },
    { "libexec_dir", K_DIR, AT(libexec_dir), PKGLIBEXECDIR, 0, 0 },
    { "listen", K_LISTEN, AT(listen), "unix://" CONF_STATE "/cricket.sock", 0, 0 },
    { "log.level", K_LEVEL, AT(log_level), "info", 0, 0 },
    { "log.line_max", K_SIZE32, AT(log_line_max), "16KiB", 256, 1024 * 1024 },
    { "pinned_images", K_STRS, AT(pinned_images), NULL, 0, 0 },
    { "pull.max_layers", K_UINT, AT(pull_max_layers), "3", 1, 64 },
    { "pull.max_transfers", K_UINT, AT(pull_max_transfers), "8", 1, 256 },
    { "pull.stall", K_TIME, AT(pull_stall_ms), "5m", 1000, DAY_MS },
    { "registries", K_REGISTRIES, 0, NULL, 0, 0 },
    { "registries_file", K_PATH, AT(registries_file), "", 0, 0 },
    { "rlimit_nofile", K_UINT64, AT(rlimit_nofile), "0", 0, 1LL << 30 },
    { "root", K_DIR, AT(root), CONF_ROOT, 0, 0 },
    { "runtimes", K_RUNTIMES, 0, NULL, 0, 0 },
    { "seccomp_profile", K_PATH, AT(seccomp_profile), "", 0, 0 },
    { "selinux", K_BOOL, AT(selinux), "true", 0, 0 },
    { "shutdown", K_TIME, AT(shutdown_ms), "10s", 0, 3600 * 1000 },
    { "socket.group", K_GROUP, AT(socket_gid), "", 0, 0 },
    { "socket.mode", K_MODE, AT(socket_mode), "0660", 0, 0777 },
    { "socket.owner", K_USER, AT(socket_uid), "", 0, 0 },
    { "state", K_DIR, AT(state), CONF_STATE, 0, 0 },
    { "stream.address", K_ADDRESS, AT(stream_address), "127.0.0.1", 0, 0 },
    { "stream.idle", K_TIME, AT(stream_idle_ms), "4h", 1000, 365 * DAY_MS },
    { "stream.port", K_INT, AT(stream_port), "0", 0, 65535 },
    { "stream.wait", K_TIME, AT(stream_wait_ms), "1m", 1000, DAY_MS },
    { "supervisor_stall", K_TIME, AT(supervisor_stall_ms), "1m", 1000, DAY_MS },
};

const char *conf_key_name(size_t n)
{
    return n < ARRAY_LEN(keys) ? keys[n].name : NULL;
}

/* --- files */

static int conf_apply(struct conf *c, const char *file, const struct ynode *map, const char *prefix,
                      struct err *err)
{
    int r = 0;

    for (const struct ynode *n = map->first; n && r == 0; n = n->next) {
        auto_free char *name = mem_printf("%s%.200s", prefix, n->key);
        struct conf_at at = { file, n, name };
        const struct conf_key *k = NULL;
        bool section = false;
        size_t len = strlen(name);

        for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
            if (strcmp(keys[i].name, name) == 0)
                k = &keys[i];
            else if (strncmp(keys[i].name, name, len) == 0 && keys[i].name[len] == '.')
                section = true;
        }
        if (strchr(n->key, '.'))
            r = conf_fail(&at, err, "unknown key; 'a.b: x' is written as a map, 'a: { b: x }'");
        else if (k)
            r = conf_set_key(c, k, &at, err);
        else if (!section)
            r = conf_fail(&at, err, "unknown key");
        else if (n->kind != YNODE_NULL && (r = conf_want(&at, YNODE_MAP, err)) == 0) {
            auto_free char *sub = mem_printf("%s.", name);

            r = conf_apply(c, file, n, sub, err);
        }
    }
    return r;
}

static int conf_file(struct conf *c, const char *path, bool must_exist, struct err *err)
{
    struct ynode *root = NULL;
    int r = ynode_load(path, &root, err);

    if (r == -ENOENT && !must_exist) {
        err_clear(err);
        return 0;
    }
    if (r < 0)
        return r;
    if (root->kind == YNODE_MAP)
        r = conf_apply(c, path, root, "", err);
    else if (root->kind != YNODE_NULL)
        r = err_set(err, -EINVAL, "%s:%u: must be a map of keys, not %s", path, root->line,
                    ynode_kind_name(root->kind));
    ynode_free(root);
    return r;
}

static int is_drop_in(const struct dirent *d)
{
    return d->d_name[0] != '.' && str_ends(d->d_name, ".yaml");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int conf_drop_ins(struct conf *c, const char *dir, bool must_exist, struct err *err)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, is_drop_in, by_name), r = 0;

    if (n < 0) {
        if ((errno == ENOENT || errno == ENOTDIR) && !must_exist)
            return 0;
        return err_sys(err, "configuration directory '%s'", dir);
    }
    for (int i = 0; i < n; i++) {
        auto_free char *path = mem_printf("%s/%s", dir, list[i]->d_name);

        if (r == 0)
            r = conf_file(c, path, true, err);
        free(list[i]);
    }
    free(list);
    return r;
}

/* The file first, so that `registries:` wins over it. */
static int conf_registries_file(struct conf *c, struct err *err)
{
    if (!c->registries_file[0])
        return 0;

    struct conf_mirror *mirrors = take_ptr(c->mirrors);
    struct conf_registry *registries = take_ptr(c->registries);
    struct ynode *root = NULL;
    int r = ynode_load(c->registries_file, &root, err);
    if (r == 0) {
        struct conf_at at = { c->registries_file, root, "registries" };

        r = conf_registries(c, &at, err);
    }
    ynode_free(root);
    conf_maps_merge(c, mirrors, registries);
    return r < 0 ? err_note(err, "registries_file") : 0;
}

/* --- all of it */

/* One value as if it had been written in a file called `where`. */
static int conf_set_text(struct conf *c, const char *where, const char *name, const char *text,
                         struct err *err)
{
    auto_free char *copy = mem_strdup(text);
    struct ynode n = { .kind = YNODE_SCALAR, .line = 1, .text = copy };
    struct conf_at at = { where, &n, name };

    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (strcmp(keys[i].name, name) == 0)
            return conf_set_key(c, &keys[i], &at, err);
    return err_set(err, -EINVAL, "%s: no key '%s'", where, name);
}

static int conf_default(struct conf *c, const struct conf_key *k, struct err *err)
{
    bool list = k->kind == K_STRS || k->kind == K_SYSCTLS || k->kind == K_DIRS;

    if (!list)
        return k->def ? conf_set_text(c, "(default)", k->name, k->def, err) : 0;

    auto_free char *words = mem_strdup(k->def ? k->def : "");
    char **v = mem_array(strlen(words) / 2 + 2, sizeof *v), *save = NULL;
    size_t n = 0;
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save))
        v[n++] = mem_strdup(w);
    CONF_FIELD(c, k, char **) = v;
    return 0;
}

static int conf_args(struct conf *c, const struct conf_args *a, struct err *err)
{
    const struct { const char *option, *key, *value; } o[] = {
        { "--root", "root", a->root },
        { "--state", "state", a->state },
        { "--listen", "listen", a->listen },
        { "--log-level", "log.level", a->log_level },
    };

    for (size_t i = 0; i < ARRAY_LEN(o); i++) {
        struct err e = ERR_INIT;

        if (o[i].value && conf_set_text(c, o[i].option, o[i].key, o[i].value, &e) < 0) {
            auto_free char *where = mem_printf("%s:1: %s: ", o[i].option, o[i].key);
            size_t skip = str_starts(e.text, where) ? strlen(where) : 0;

            return err_set(err, -EINVAL, "option %s: %s", o[i].option, e.text + skip);
        }
    }
    return 0;
}

static json_t *key_json(const struct conf *c, const struct conf_key *k)
{
    const void *p = (const char *)c + k->offset;
    json_t *list;

    switch (k->kind) {
    case K_PARENT:
    case K_ADDRESS:
    case K_DIR:
    case K_PATH:
    case K_PROFILE:
        return json_string(*(char *const *)p);
    case K_LISTEN:
        return json_sprintf("unix://%s", *(char *const *)p);
    case K_STRS:
    case K_SYSCTLS:
    case K_DIRS:
        list = json_array();
        for (char *const *s = *(char **const *)p; *s; s++)
            json_array_append_new(list, json_string(*s));
        return list;
    case K_BOOL:
        return json_boolean(*(const bool *)p);
    case K_LEVEL:
        return json_string(log_level_name(*(const enum log_level *)p));
    case K_DRIVER:
        return json_string(*(const enum conf_cgroup_driver *)p == CONF_SYSTEMD
                           ? "systemd" : "cgroupfs");
    case K_USER:
    case K_GROUP:
        return *(const uint32_t *)p == UINT32_MAX
            ? json_null() : json_integer(*(const uint32_t *)p);
    case K_MODE:
        return json_sprintf("%04o", (unsigned)*(const mode_t *)p);
    case K_TIME:
        return json_sprintf("%" PRId64 "ms", *(const int64_t *)p);
    case K_UINT64:
        return json_integer((json_int_t)*(const uint64_t *)p);
    case K_INT:
        return json_integer(*(const int *)p);
    case K_REGISTRIES:
        return conf_registries_json(c);
    case K_RUNTIMES:
        return conf_runtimes_json(c);
    default:
        return json_integer(*(const uint32_t *)p);
    }
}

static char *conf_json(const struct conf *c)
{
    json_t *all = json_object();

    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const char *dot = strchr(keys[i].name, '.');
        json_t *in = all;

        if (dot) {
            auto_free char *section = mem_dup(keys[i].name, (size_t)(dot - keys[i].name));

            in = json_object_get(all, section);
            if (!in) {
                in = json_object();
                json_object_set_new(all, section, in);
            }
        }
        json_object_set_new(in, dot ? dot + 1 : keys[i].name, key_json(c, &keys[i]));
    }
    /* the name that critest looks for */
    json_object_set_new(all, "stateDir", json_string(c->state));
    char *s = json_dumps(all, JSON_COMPACT);
    json_decref(all);
    return s ? s : mem_strdup("{}");     /* not UTF-8 somewhere */
}

/* A systemd driver works with slices, the other with paths. */
static int conf_check_parent(struct conf *c, struct err *err)
{
    bool slice = c->cgroup_parent[0] != '/';

    if (c->cgroup_driver == CONF_SYSTEMD && strcmp(c->cgroup_parent, CONF_PARENT) == 0) {
        free(c->cgroup_parent);
        c->cgroup_parent = mem_strdup(CONF_PARENT_SYSTEMD);
    } else if (slice != (c->cgroup_driver == CONF_SYSTEMD)) {
        return err_set(err, -EINVAL, "cgroup_parent '%.200s' does not fit cgroup_driver %s",
                       c->cgroup_parent,
                       slice ? "cgroupfs: an absolute path is needed"
                             : "systemd: NAME.slice is needed");
    }
    return 0;
}

static int conf_load_into(struct conf *c, const struct conf_args *a, struct err *err)
{
    const char *file = a->file ? a->file : CONF_FILE;
    const char *slash = strrchr(file, '/');
    auto_free char *dir = slash ? mem_printf("%.*s/config.d", (int)(slash - file), file)
                                : mem_strdup("config.d");
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(keys) && r == 0; i++)
        r = conf_default(c, &keys[i], err);
    if (r == 0)
        r = conf_file(c, file, a->file != NULL, err);
    if (r == 0)
        r = conf_drop_ins(c, a->dir ? a->dir : dir, a->dir != NULL, err);
    if (r == 0)
        r = conf_args(c, a, err);
    if (r == 0)
        r = conf_registries_file(c, err);
    if (r == 0)
        r = conf_check_parent(c, err);
    if (r == 0)
        c->json = conf_json(c);
    return r;
}

int conf_load(const struct conf_args *a, struct conf **ret, struct err *err)
{
    struct conf *c = mem_new(struct conf);
    int r = conf_load_into(c, a, err);

    if (r < 0) {
        err_clean(err);
        conf_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

struct conf *conf_free(struct conf *c)
{
    if (!c)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        switch (keys[i].kind) {
        case K_PARENT:
    case K_ADDRESS:
        case K_DIR:
        case K_PATH:
        case K_PROFILE:
        case K_LISTEN:
            free(CONF_FIELD(c, &keys[i], char *));
            break;
        case K_STRS:
        case K_SYSCTLS:
        case K_DIRS:
            conf_list_free(CONF_FIELD(c, &keys[i], char **));
            break;
        default:
            break;
        }
    }
    conf_maps_free(c);
    free(c->json);
    free(c);
    return NULL;
}
