/* SPDX-License-Identifier: Apache-2.0 */
/* Who a container's process is, from the image's passwd and group files (passwd(5), group(5)).
 *
 * The files are the image's, so they are strangers' input: they are read line by line from a
 * bounded buffer, a line that does not parse is passed over, nothing is trusted to be terminated or
 * numeric. The host's own user database is never asked. */
#include "proc/lower.h"

#include "mem.h"
#include "str.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

enum { USER_GROUPS_MAX = 65536 };    /* NGROUPS_MAX of the kernel */

struct field {
    const char *p;
    size_t n;
};

/* Splits one line at ':'; returns the number of fields, at most max (the last one has the rest). */
static size_t split(const char *line, size_t n, struct field *f, size_t max)
{
    size_t k = 0;

    while (k + 1 < max) {
        const char *c = memchr(line, ':', n);

        if (!c)
            break;
        f[k++] = (struct field){ line, (size_t)(c - line) };
        n -= (size_t)(c - line) + 1;
        line = c + 1;
    }
    f[k++] = (struct field){ line, n };
    return k;
}

/* The next line of *s, without its end; false at the end of the text. */
static bool next_line(const char **s, struct field *line)
{
    const char *e;

    if (!*s || !**s)
        return false;
    e = strchrnul(*s, '\n');
    *line = (struct field){ *s, (size_t)(e - *s) };
    *s = *e ? e + 1 : e;
    while (line->n && (line->p[line->n - 1] == '\r' || line->p[line->n - 1] == ' '))
        line->n--;
    return true;
}

/* Decimal and at most 2^31-1, as CRI demands of ids; -1 otherwise. */
static int64_t number(const char *p, size_t n)
{
    int64_t v = 0;

    if (!n || n > 10)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9')
            return -1;
        v = v * 10 + (p[i] - '0');
    }
    return v <= INT32_MAX ? v : -1;
}

static bool same(struct field f, const char *s, size_t n)
{
    return f.n == n && memcmp(f.p, s, n) == 0;
}

struct entry {
    struct field name, home;
    int64_t uid, gid;
};

static bool next_entry(const char **passwd, struct entry *e)
{
    struct field line, f[7];

    while (next_line(passwd, &line)) {
        size_t k = split(line.p, line.n, f, 7);

        if (k < 4 || line.p[0] == '#')
            continue;
        e->name = f[0];
        e->uid = number(f[2].p, f[2].n);
        e->gid = number(f[3].p, f[3].n);
        e->home = k > 5 ? f[5] : (struct field){ "", 0 };
        if (e->uid >= 0 && e->gid >= 0)
            return true;
    }
    return false;
}

static bool find_uid(const char *passwd, int64_t uid, struct entry *ret)
{
    struct entry e;

    while (next_entry(&passwd, &e)) {
        if (e.uid == uid) {
            *ret = e;
            return true;
        }
    }
    return false;
}

/* By name, or by uid when there is no such name and want is numeric (a name made of digits wins, as
 * in other runtimes). */
static bool find_user(const char *passwd, const char *want, size_t n, struct entry *ret)
{
    const char *s = passwd;
    struct entry e;

    while (next_entry(&s, &e)) {
        if (same(e.name, want, n)) {
            *ret = e;
            return true;
        }
    }
    return number(want, n) >= 0 && find_uid(passwd, number(want, n), ret);
}

static int64_t find_group(const char *group, const char *want, size_t n)
{
    struct field line, f[4];

    while (next_line(&group, &line)) {
        if (!line.n || split(line.p, line.n, f, 4) < 3)
            continue;
        if (same(f[0], want, n) && number(f[2].p, f[2].n) >= 0)
            return number(f[2].p, f[2].n);
    }
    return number(want, n);
}

static bool is_member(struct field members, struct field name)
{
    while (members.n) {
        const char *c = memchr(members.p, ',', members.n);
        size_t n = c ? (size_t)(c - members.p) : members.n;

        if (same(name, members.p, n))
            return true;
        if (!c)
            break;
        members.p += n + 1;
        members.n -= n + 1;
    }
    return false;
}

static void add_groups(const char *group, struct field name, struct user *u)
{
    struct field line, f[4];

    while (next_line(&group, &line) && u->n_groups < USER_GROUPS_MAX) {
        int64_t gid;
        bool have = false;

        if (!line.n || split(line.p, line.n, f, 4) < 4 || !is_member(f[3], name))
            continue;
        gid = number(f[2].p, f[2].n);
        if (gid < 0 || (gid_t)gid == u->gid)
            continue;
        for (size_t i = 0; i < u->n_groups && !have; i++)
            have = u->groups[i] == (gid_t)gid;
        if (have)
            continue;
        u->groups = mem_grow(u->groups, u->n_groups + 1, sizeof *u->groups);
        u->groups[u->n_groups++] = (gid_t)gid;
    }
}

/* e: the line of passwd, NULL when there is none; gid wins over the one in it when not negative. */
static void fill(const char *group, const struct entry *e, int64_t uid, int64_t gid,
                 struct user *ret)
{
    struct user u = { .uid = (uid_t)uid };

    u.gid = (gid_t)(gid >= 0 ? gid : e ? e->gid : 0);
    if (e) {
        add_groups(group, e->name, &u);
        u.name = mem_dup(e->name.p, e->name.n);
    }
    u.home = e && e->home.n ? mem_dup(e->home.p, e->home.n) : mem_strdup("/");
    *ret = u;
}

int user_resolve(const char *passwd, const char *group, const char *spec, struct user *ret,
                 struct err *err)
{
    const char *colon = strchr(spec, ':'), *want = spec;
    size_t n = colon ? (size_t)(colon - spec) : strlen(spec);
    int64_t gid = -1;
    struct entry e;
    bool found;

    if (!n) {
        want = "0";
        n = 1;
    }
    found = find_user(passwd, want, n, &e);
    if (!found && number(want, n) < 0)
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "unable to find user %.*s: no matching entries in passwd file", (int)n,
                       want);
    if (colon && colon[1]) {
        gid = find_group(group, colon + 1, strlen(colon + 1));
        if (gid < 0)
            return err_rpc(err, GRPC_INVALID_ARGUMENT,
                           "unable to find group %s: no matching entries in group file", colon + 1);
    }
    fill(group, found ? &e : NULL, found ? e.uid : number(want, n), gid, ret);
    return 0;
}

int user_by_name(const char *passwd, const char *group, const char *name, int64_t gid,
                 struct user *ret, struct err *err)
{
    struct entry e;

    if (!name[0] || strchr(name, ':') || !find_user(passwd, name, strlen(name), &e))
        return err_rpc(err, GRPC_INVALID_ARGUMENT,
                       "unable to find user %s: no matching entries in passwd file", name);
    fill(group, &e, e.uid, gid, ret);
    return 0;
}

void user_by_uid(const char *passwd, const char *group, uid_t uid, int64_t gid, struct user *ret)
{
    struct entry e;
    bool found = find_uid(passwd, uid, &e);

    fill(group, found ? &e : NULL, uid, gid, ret);
}

void user_deinit(struct user *u)
{
    free(u->groups);
    free(u->home);
    free(u->name);
    *u = (struct user){ .uid = 0 };
}
