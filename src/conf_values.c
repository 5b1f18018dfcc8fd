/* SPDX-License-Identifier: Apache-2.0 */
/* What a value of each kind looks like, and the error that says so. Used for the members of the
 * table in conf.c and by conf_maps.c. A value that fails leaves what was there before. */
#include "conf_priv.h"

#include "mem.h"
#include "str.h"

#include <arpa/inet.h>
#include <grp.h>
#include <limits.h>
#include <netinet/in.h>
#include <pwd.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

char **conf_list_free(char **list)
{
    for (char **p = list; p && *p; p++)
        free(*p);
    free(list);
    return NULL;
}

int conf_want(const struct conf_at *at, enum ynode_kind kind, struct err *err)
{
    if (at->node->kind == kind)
        return 0;
    return conf_fail(at, err, "must be %s, not %s", ynode_kind_name(kind),
                     ynode_kind_name(at->node->kind));
}

int conf_text(const struct conf_at *at, char **ret, struct err *err)
{
    int r = conf_want(at, YNODE_SCALAR, err);

    if (r < 0)
        return r;
    free(*ret);
    *ret = mem_strdup(at->node->text);
    return 0;
}

int conf_path(const struct conf_at *at, bool may_be_empty, char **ret, struct err *err)
{
    int r = conf_want(at, YNODE_SCALAR, err);

    if (r < 0)
        return r;
    const char *s = at->node->text;
    if (s[0] != '/' && !(may_be_empty && !s[0]))
        return conf_fail(at, err, "'%.200s' is not an absolute path", s);
    if (strlen(s) >= PATH_MAX)
        return conf_fail(at, err, "longer than %d bytes", PATH_MAX - 1);
    for (const char *p = s; (p = strstr(p, "/..")); p += 3)
        if (p[3] == '/' || !p[3])
            return conf_fail(at, err, "'%.200s' has '..' in it", s);
    return conf_text(at, ret, err);
}

int conf_bool(const struct conf_at *at, bool *ret, struct err *err)
{
    int r = conf_want(at, YNODE_SCALAR, err);

    if (r < 0)
        return r;
    if (strcasecmp(at->node->text, "true") == 0)
        *ret = true;
    else if (strcasecmp(at->node->text, "false") == 0)
        *ret = false;
    else
        return conf_fail(at, err, "'%.80s' is neither true nor false", at->node->text);
    return 0;
}

int conf_list(const struct conf_at *at, int (*item)(const struct conf_at *at, char **ret,
                                                    struct err *err),
              char ***ret, struct err *err)
{
    int r = conf_want(at, YNODE_LIST, err);

    if (r < 0)
        return r;
    char **list = mem_array(ynode_count(at->node) + 1, sizeof *list);
    size_t n = 0;
    for (const struct ynode *c = at->node->first; c && r == 0; c = c->next) {
        struct conf_at sub = { at->file, c, at->key };

        r = item(&sub, &list[n++], err);
    }
    if (r < 0) {
        for (size_t i = 0; i < n; i++)
            free(list[i]);
        free(list);
        return r;
    }
    conf_list_free(*ret);
    *ret = list;
    return 0;
}

static int item_dir(const struct conf_at *at, char **ret, struct err *err)
{
    return conf_path(at, false, ret, err);
}

static int item_word(const struct conf_at *at, char **ret, struct err *err)
{
    if (at->node->kind == YNODE_SCALAR && !at->node->text[0])
        return conf_fail(at, err, "an empty entry");
    return conf_text(at, ret, err);
}

static int item_sysctl(const struct conf_at *at, char **ret, struct err *err)
{
    int r = conf_want(at, YNODE_SCALAR, err);

    if (r < 0)
        return r;
    const char *s = at->node->text, *eq = strchr(s, '=');
    /* only what belongs to a network namespace: anything else would change the node */
    if (!str_starts(s, "net.") || !eq || eq == s + 4 || strstr(s, "..") || strchr(s, '/') || !eq[1])
        return conf_fail(at, err, "'%.80s' is not of the form net.NAME=VALUE", s);
    return conf_text(at, ret, err);
}

static int set_number(const struct conf_key *k, const struct conf_at *at, long long *ret,
                      struct err *err)
{
    const char *s = at->node->text;
    long long v = 0;
    char *end;
    int r = 0;

    switch (k->kind) {
    case K_TIME:
        if ((r = str_parse_time(s, &v)) < 0 && strcmp(s, "0") != 0)
            return conf_fail(at, err, "'%.80s' is not a time (250ms, 30s, 5m, 1h)", s);
        break;
    case K_SIZE32:
        if ((r = str_parse_size(s, &v)) < 0)
            return conf_fail(at, err, "'%.80s' is not a size (4096, 16KiB, 1MB)", s);
        break;
    default:
        errno = 0;
        v = strtoll(s, &end, k->kind == K_MODE ? 8 : 10);
        if (!s[0] || strchr(" \t\n+-", s[0]) || *end || errno)
            return conf_fail(at, err, "'%.80s' is not %s", s,
                             k->kind == K_MODE ? "an octal mode (0660)" : "a whole number");
    }
    if (v < k->min || v > k->max) {
        const char *unit = k->kind == K_TIME ? " ms" : k->kind == K_SIZE32 ? " bytes" : "";

        if (k->kind == K_MODE)
            return conf_fail(at, err, "'%.80s' is not between 0 and 0777", s);
        return conf_fail(at, err, "'%.80s' is not between %lld and %lld%s", s, k->min, k->max,
                         unit);
    }
    *ret = v;
    return 0;
}

/* A name or a number; "" stays "not given". */
static int set_id(const struct conf_key *k, const struct conf_at *at, uint32_t *ret,
                  struct err *err)
{
    const char *s = at->node->text;
    char *end;

    *ret = UINT32_MAX;
    if (!s[0])
        return 0;
    if (s[0] >= '0' && s[0] <= '9') {
        errno = 0;
        unsigned long long v = strtoull(s, &end, 10);
        if (*end || errno || v >= UINT32_MAX)
            return conf_fail(at, err, "'%.80s' is not a valid id", s);
        *ret = (uint32_t)v;
        return 0;
    }
    if (k->kind == K_USER) {
        const struct passwd *pw = getpwnam(s);

        if (!pw)
            return conf_fail(at, err, "there is no user '%.80s'", s);
        *ret = pw->pw_uid;
    } else {
        const struct group *gr = getgrnam(s);

        if (!gr)
            return conf_fail(at, err, "there is no group '%.80s'", s);
        *ret = gr->gr_gid;
    }
    return 0;
}

static int set_listen(struct conf *c, const struct conf_key *k, const struct conf_at *at,
                      struct err *err)
{
    const char *s = at->node->text;
    struct sockaddr_un un;

    if (!str_starts(s, "unix://"))
        return conf_fail(at, err, "'%.200s' does not begin with unix://", s);
    s += strlen("unix://");
    if (s[0] != '/')
        return conf_fail(at, err, "'%.200s' is not an absolute path", s);
    if (strlen(s) >= sizeof un.sun_path)
        return conf_fail(at, err, "longer than the %zu bytes of a socket path",
                         sizeof un.sun_path - 1);
    free(CONF_FIELD(c, k, char *));
    CONF_FIELD(c, k, char *) = mem_strdup(s);
    return 0;
}

static int set_parent(struct conf *c, const struct conf_key *k, const struct conf_at *at,
                      struct err *err)
{
    const char *s = at->node->text;

    if (!strchr(s, '/') && str_ends(s, ".slice") && s[0] != '.')
        return conf_text(at, &CONF_FIELD(c, k, char *), err);
    if (!s[0] || strcmp(s, "/") == 0)
        return conf_fail(at, err, "must name a cgroup below the root");
    return conf_path(at, false, &CONF_FIELD(c, k, char *), err);
}

static int set_address(struct conf *c, const struct conf_key *k, const struct conf_at *at,
                       struct err *err)
{
    const char *s = at->node->text;
    unsigned char buf[sizeof(struct in6_addr)];

    if (inet_pton(AF_INET, s, buf) != 1 && inet_pton(AF_INET6, s, buf) != 1)
        return conf_fail(at, err, "'%.80s' is not an IP address", s);
    return conf_text(at, &CONF_FIELD(c, k, char *), err);
}

/* The name of an AppArmor profile, as it is written to the kernel. */
static int set_profile(struct conf *c, const struct conf_key *k, const struct conf_at *at,
                       struct err *err)
{
    const char *s = at->node->text;
    size_t n = strcspn(s, " \t\n\r");

    if (!n || s[n] || n > 255)
        return conf_fail(at, err, "'%.80s' is no name of a profile", s);
    return conf_text(at, &CONF_FIELD(c, k, char *), err);
}

static int set_scalar(struct conf *c, const struct conf_key *k, const struct conf_at *at,
                      struct err *err)
{
    const char *s = at->node->text;
    long long v = 0;
    int r;

    switch (k->kind) {
    case K_PARENT:
        return set_parent(c, k, at, err);
    case K_ADDRESS:
        return set_address(c, k, at, err);
    case K_PROFILE:
        return set_profile(c, k, at, err);
    case K_DIR:
        return conf_path(at, false, &CONF_FIELD(c, k, char *), err);
    case K_PATH:
        return conf_path(at, true, &CONF_FIELD(c, k, char *), err);
    case K_LISTEN:
        return set_listen(c, k, at, err);
    case K_BOOL:
        return conf_bool(at, &CONF_FIELD(c, k, bool), err);
    case K_LEVEL:
        if (log_parse_level(s, &CONF_FIELD(c, k, enum log_level)) < 0)
            return conf_fail(at, err, "'%.80s' is none of error, warn, info, debug", s);
        return 0;
    case K_DRIVER:
        if (strcmp(s, "cgroupfs") != 0 && strcmp(s, "systemd") != 0)
            return conf_fail(at, err, "'%.80s' is neither cgroupfs nor systemd", s);
        CONF_FIELD(c, k, enum conf_cgroup_driver) = s[0] == 's' ? CONF_SYSTEMD : CONF_CGROUPFS;
        return 0;
    case K_USER:
    case K_GROUP:
        return set_id(k, at, &CONF_FIELD(c, k, uint32_t), err);
    default:
        break;
    }
    if ((r = set_number(k, at, &v, err)) < 0)
        return r;
    switch (k->kind) {
    case K_TIME: CONF_FIELD(c, k, int64_t) = v; break;
    case K_UINT64: CONF_FIELD(c, k, uint64_t) = (uint64_t)v; break;
    case K_INT: CONF_FIELD(c, k, int) = (int)v; break;
    case K_MODE: CONF_FIELD(c, k, mode_t) = (mode_t)v; break;
    default: CONF_FIELD(c, k, uint32_t) = (uint32_t)v; break;
    }
    return 0;
}

_Static_assert(sizeof(uid_t) == 4 && sizeof(gid_t) == 4 && sizeof(unsigned) == 4 &&
               sizeof(mode_t) == 4,
               "set_scalar() stores these as 32 bits");

int conf_set_key(struct conf *c, const struct conf_key *k, const struct conf_at *at,
                 struct err *err)
{
    int r;

    switch (k->kind) {
    case K_REGISTRIES:
        return conf_registries(c, at, err);
    case K_RUNTIMES:
        return conf_runtimes(c, at, err);
    case K_STRS:
        return conf_list(at, item_word, &CONF_FIELD(c, k, char **), err);
    case K_SYSCTLS:
        return conf_list(at, item_sysctl, &CONF_FIELD(c, k, char **), err);
    case K_DIRS:
        return conf_list(at, item_dir, &CONF_FIELD(c, k, char **), err);
    default:
        r = conf_want(at, YNODE_SCALAR, err);
        return r < 0 ? r : set_scalar(c, k, at, err);
    }
}
