/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel only compares contexts, so all of this is text: taken apart at ':' (a level has more of
 * them), put together again, and shown to the kernel once (selinuxfs `context`), which says whether
 * its policy knows it. */
#include "handlers/selinux.h"

#include "handlers/spec_impl.h"
#include "mem.h"
#include "str.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PART_USER, PART_ROLE, PART_TYPE, PART_LEVEL, PARTS };

struct context {
    const char *s[PARTS];
    int n[PARTS];                    /* 0: not there */
};

static struct context split(const char *text)
{
    struct context c = { { NULL }, { 0 } };

    for (int i = 0; i < PARTS && *text; i++) {
        c.s[i] = text;
        c.n[i] = (int)(i == PART_LEVEL ? strlen(text) : strcspn(text, ":"));
        text += c.n[i];
        text += *text == ':';
    }
    return c;
}

static char *join(struct pool *p, const struct context *c)
{
    return pool_printf(p, "%.*s:%.*s:%.*s%s%.*s", c->n[0], c->s[0], c->n[1], c->s[1], c->n[2],
                       c->s[2], c->n[3] ? ":" : "", c->n[3], c->n[3] ? c->s[3] : "");
}

static void put(struct context *c, int part, const char *s)
{
    if (s[0]) {
        c->s[part] = s;
        c->n[part] = (int)strlen(s);
    }
}

/* --- the node */

/* "  process = "u:r:t:s0"  " -> the value */
static char *value(char *line, const char *key)
{
    size_t n = strlen(key);
    char *s = line + strspn(line, " \t"), *end;

    if (strncmp(s, key, n) != 0)
        return NULL;
    s += n;
    s += strspn(s, " \t");
    if (*s != '=')
        return NULL;
    s++;
    s += strspn(s, " \t\"");
    end = s + strcspn(s, "\" \t\r\n");
    *end = '\0';
    return split(s).n[PART_TYPE] ? mem_strdup(s) : NULL;
}

void selinux_parse(char *text, char **ret_process, char **ret_file)
{
    char *save = NULL;

    *ret_process = *ret_file = NULL;
    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        char *v;

        if (!*ret_process && (v = value(l, "process")))
            *ret_process = v;
        else if (!*ret_file && (v = value(l, "file")))
            *ret_file = v;
    }
    if (!*ret_process || !*ret_file) {
        free(*ret_process);
        free(*ret_file);
        *ret_process = *ret_file = NULL;
    }
}

/* A small file as a string; "" where there is none. */
static char *read_text(const char *path)
{
    auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *buf = mem_alloc(8192);
    ssize_t n = fd < 0 ? 0 : read(fd, buf, 8191);

    buf[n > 0 ? n : 0] = '\0';
    return buf;
}

static char *policy_type(void)
{
    auto_free char *text = read_text("/etc/selinux/config");
    char *save = NULL;

    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
        if (str_starts(l, "SELINUXTYPE="))
            return mem_printf("%.*s", (int)strcspn(l + 12, " \t\r\n"), l + 12);
    return mem_strdup("targeted");
}

bool selinux_probe(char **ret_process, char **ret_file)
{
    auto_free char *own = read_text("/proc/self/attr/current");

    *ret_process = *ret_file = NULL;
    /* without a policy every process is "kernel" */
    if (access("/sys/fs/selinux/enforce", F_OK) < 0 || !split(own).n[PART_TYPE])
        return false;
    auto_free char *type = policy_type();
    auto_free char *path = mem_printf("/etc/selinux/%s/contexts/lxc_contexts", type);
    auto_free char *shared = read_text("/usr/share/containers/selinux/contexts");
    auto_free char *text = read_text(path);

    selinux_parse(shared, ret_process, ret_file);
    if (!*ret_process)
        selinux_parse(text, ret_process, ret_file);
    return true;
}

int selinux_known(const char *context, struct err *err)
{
    auto_fd int fd = open("/sys/fs/selinux/context", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        return err_sys(err, "SELinux label '%s': /sys/fs/selinux/context", context);
    if (write(fd, context, strlen(context)) >= 0)
        return 0;
    if (errno == EINVAL)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "SELinux label '%s' is not one of this node's policy", context);
    return err_sys(err, "SELinux label '%s'", context);
}

/* --- options */

static bool skip_number(const char **s, char letter)
{
    const char *c = *s;

    if (*c++ != letter || !isdigit((unsigned char)*c))
        return false;
    for (; isdigit((unsigned char)*c); c++)
        ;
    if (c - *s > 5)
        return false;
    *s = c;
    return true;
}

/* s0, s0:c1, s0:c1,c2.c5 */
static bool skip_level(const char **s)
{
    if (!skip_number(s, 's'))
        return false;
    for (char sep = ':'; **s == sep; sep = ',') {
        ++*s;
        if (!skip_number(s, 'c'))
            return false;
        if (**s == '.') {
            ++*s;
            if (!skip_number(s, 'c'))
                return false;
        }
    }
    return true;
}

static bool level_ok(const char *s)
{
    if (!skip_level(&s))
        return false;
    if (*s == '-') {
        s++;
        if (!skip_level(&s))
            return false;
    }
    return !*s;
}

int selinux_check(const Runtime__V1__SELinuxOption *o, const struct spec_node *node,
                  struct err *err)
{
    const char *const parts[] = { o ? o->user : "", o ? o->role : "", o ? o->type : "" };
    static const char *const names[] = { "user", "role", "type" };

    if (!o || !node->selinux)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        for (const char *s = parts[i]; *s; s++)
            if (!isalnum((unsigned char)*s) && !strchr("_-.", *s))
                return err_rpc(err, GRPC_INVALID_ARGUMENT,
                               "selinux_options: %s '%.80s' is malformed", names[i], parts[i]);
    if (o->level[0] && !level_ok(o->level))
        return err_rpc(err, GRPC_INVALID_ARGUMENT, "selinux_options: level '%.80s' is malformed",
                       o->level);
    if ((o->user[0] || o->role[0] || o->type[0] || o->level[0]) && !node->selinux_process)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "selinux_options: this node's policy names no contexts for containers "
                       "(lxc_contexts)");
    return 0;
}

char *selinux_replace(struct pool *p, const char *context, const Runtime__V1__SELinuxOption *o)
{
    struct context c = split(context);

    if (o) {
        put(&c, PART_USER, o->user);
        put(&c, PART_ROLE, o->role);
        put(&c, PART_TYPE, o->type);
        put(&c, PART_LEVEL, o->level);
    }
    return join(p, &c);
}

/* The sensitivity alone: "s0" of "s0-s0:c1,c2" */
static int sensitivity(const struct context *c)
{
    return c->n[PART_LEVEL] ? (int)strcspn(c->s[PART_LEVEL], ":-") : 0;
}

bool selinux_has_level(const char *context)
{
    return split(context).n[PART_LEVEL];
}

char *selinux_level(struct pool *p, const char *context, unsigned a, unsigned b)
{
    struct context c = split(context);

    return pool_printf(p, "%.*s:c%u,c%u", sensitivity(&c), c.s[PART_LEVEL], a < b ? a : b,
                       a < b ? b : a);
}

char *selinux_file(struct pool *p, const char *process, const struct spec_node *node, bool shared)
{
    struct context f = split(node->selinux_file), c = split(process),
                   dflt = split(node->selinux_process);

    if (c.n[PART_USER] != dflt.n[PART_USER] ||
        strncmp(c.s[PART_USER], dflt.s[PART_USER], (size_t)c.n[PART_USER]) != 0) {
        f.s[PART_USER] = c.s[PART_USER];
        f.n[PART_USER] = c.n[PART_USER];
    }
    f.s[PART_LEVEL] = c.s[PART_LEVEL];
    f.n[PART_LEVEL] = shared ? sensitivity(&c) : c.n[PART_LEVEL];
    return join(p, &f);
}

bool selinux_is_system(const char *path)
{
    static const char *const dirs[] = { "/",     "/bin",   "/boot",       "/dev",   "/etc", "/home",
                                        "/lib",  "/lib64", "/lost+found", "/media", "/mnt", "/opt",
                                        "/proc", "/root",  "/run",        "/sbin",  "/srv", "/sys",
                                        "/tmp",  "/usr",   "/var" };

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
        if (strcmp(path, dirs[i]) == 0)
            return true;
    return false;
}
