/* SPDX-License-Identifier: Apache-2.0 */
/* A container's place in resctrl (Intel RDT and its likes: parts of the last cache, of the memory's
 * bandwidth, and counters of both), as the OCI runtime-spec's intelRdt says it. Done by the process
 * that becomes the container, or runs the OCI runtime, for itself: it writes 0 into `tasks`, and
 * what it starts inherits the place. So an OCI runtime need not know of it, and what may wait for
 * the kernel or for another tool's lock holds nobody else up.
 *
 *      <root>/<closID, or the container's id>/       mkdir, schemata, tasks
 *                                            mon_groups/<container's id>/    mkdir, tasks
 *
 * What the container owns is in a record before it is made; the daemon removes it when the container
 * has ended, whoever died meanwhile. A group with a closID is made when it is missing and stays for
 * whoever else is in it, as the specification has it: it is ours only until it is complete. All is
 * done under the lock on resctrl's root that the kernel's documentation asks of every tool. */
#include "mounts.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LOCK_MS = 60000, LOCK_STEP_MS = 10, TEXT_MAX = 16384 };

struct rdt {
    const struct launch *l;
    const char *id;                  /* of the container */
    int root, dir;                   /* resctrl's, and the group in it */
    struct wire_rdt_record rec;
    char why[400];
};

static ssize_t read_text(int at, const char *path, char *buf, size_t len)
{
    int fd = openat(at, path, O_RDONLY | O_CLOEXEC);
    ssize_t n, all = 0;

    buf[0] = '\0';
    if (fd < 0)
        return -1;
    while ((size_t)all < len - 1 && (n = read(fd, buf + all, len - 1 - (size_t)all)) > 0)
        all += n;
    buf[all] = '\0';
    close(fd);
    return all;
}

static int failed(struct rdt *t, int e, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int failed(struct rdt *t, int e, const char *fmt, ...)
{
    size_t n = (size_t)snprintf(t->why, sizeof t->why, "intelRdt: ");
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(t->why + n, sizeof t->why - n, fmt, ap);
    va_end(ap);
    n = strlen(t->why);
    if (e)
        snprintf(t->why + n, sizeof t->why - n, ": %s", strerror(e));
    return -1;
}

/* By the kernel, which has more to say than errno. */
static int refused(struct rdt *t, const char *what, const char *name)
{
    int e = errno;
    char said[160], shown[100];
    size_t n;

    (void)read_text(t->root, "info/last_cmd_status", said, sizeof said);
    said[strcspn(said, "\n")] = '\0';
    snprintf(shown, sizeof shown, "%s", name[0] ? name : "/");
    for (n = strlen(shown); n && shown[n - 1] == '\n'; n--)
        shown[n - 1] = '\0';
    for (char *p = shown; (p = strchr(p, '\n')); p++)
        *p = ' ';
    (void)failed(t, e, "%s '%s' in resctrl", what, shown);
    n = strlen(t->why);
    if (said[0] && strcmp(said, "ok") != 0)
        snprintf(t->why + n, sizeof t->why - n, ": %s", said);
    return -1;
}

/* ---- the record */

static void record_name(const char *id, char *buf, size_t n)
{
    snprintf(buf, n, "resctrl/%s", id);
}

static int write_record(struct rdt *t)
{
    char name[WIRE_ID + 16];
    int fd, ok;

    record_name(t->id, name, sizeof name);
    if (mkdirat(pod.state_fd, "resctrl", 0700) < 0 && errno != EEXIST)
        return failed(t, errno, "mkdir '%s/resctrl'", pod.state_dir);
    fd = openat(pod.state_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ok = fd >= 0 && write(fd, &t->rec, sizeof t->rec) == sizeof t->rec;
    if (!ok)
        (void)failed(t, errno, "write '%s/%s'", pod.state_dir, name);
    if (fd >= 0)
        close(fd);
    return ok ? 0 : -1;
}

static void drop_record(const struct rdt *t)
{
    char name[WIRE_ID + 16];

    record_name(t->id, name, sizeof name);
    (void)unlinkat(pod.state_fd, name, 0);
}

static void mon_name(const char *id, const char *file, char *buf, size_t n)
{
    snprintf(buf, n, "mon_groups/%s%s", id, file);
}

/* ---- is a group as it is wanted? */

static size_t line_len(const char *s)
{
    return strcspn(s, "\n");
}

/* The line of text that begins, behind spaces, with the n bytes of name and ':'; what follows that,
 * or NULL. */
static const char *find_line(const char *text, const char *name, size_t n)
{
    for (const char *p = text; *p; p += line_len(p), p += *p == '\n') {
        p += strspn(p, " ");
        if (strncmp(p, name, n) == 0 && p[n] == ':')
            return p + n + 1;
    }
    return NULL;
}

/* The value for a domain in "0=ff;1=ff". */
static bool find_value(const char *s, unsigned long domain, int base, unsigned long *ret)
{
    char *end;

    for (;;) {
        unsigned long d = strtoul(s, &end, 10);
        if (end == s || *end != '=')
            return false;
        *ret = strtoul(end + 1, &end, base);
        if (d == domain)
            return true;
        if (*end != ';')
            return false;
        s = end + 1;
    }
}

/* The kernel rounds bandwidth up to its steps. */
static unsigned long round_mb(const struct rdt *t, unsigned long v)
{
    char text[32];
    unsigned long step;

    (void)read_text(t->root, "info/MB/bandwidth_gran", text, sizeof text);
    step = strtoul(text, NULL, 10);
    return step > 1 ? (v + step - 1) / step * step : v;
}

/* One line of what is wanted. What cannot be read is the kernel's to refuse. */
static bool agrees(const struct rdt *t, const char *want, const char *text)
{
    size_t n = strcspn(want, ":\n");
    bool mb = n == 2 && strncmp(want, "MB", 2) == 0;
    int base = want[0] == 'L' ? 16 : 10;
    const char *have = find_line(text, want, n);
    unsigned long domain, v, is;
    char *end;

    if (want[n] != ':' || !have)
        return true;
    for (const char *s = want + n + 1;; s = end + 1) {
        domain = strtoul(s, &end, 10);
        if (end == s || *end != '=')
            return true;
        v = strtoul(end + 1, &end, base);
        if (!find_value(have, domain, base, &is) || (is != v && !(mb && is == round_mb(t, v))))
            return false;
        if (*end != ';')
            return true;
    }
}

static int compare(struct rdt *t, const char *schema)
{
    static char text[TEXT_MAX];      /* too long for a stack that is a page or two so far */
    const char *have;

    if (read_text(t->dir, "schemata", text, sizeof text) < 0)
        return refused(t, "read schemata of", t->rec.group);
    for (const char *p = schema; *p; p += line_len(p), p += *p == '\n') {
        if (agrees(t, p, text))
            continue;
        have = find_line(text, p, strcspn(p, ":"));
        return failed(t, 0, "the group '%s' is there, with %.*s:%.*s and not %.*s", t->rec.group,
                      (int)strcspn(p, ":"), p, (int)line_len(have), have, (int)line_len(p), p);
    }
    return 0;
}

/* ---- making it */

static int find_root(struct rdt *t)
{
    if (host_mount_of("resctrl", t->rec.root, sizeof t->rec.root) < 0)
        return failed(t, errno == ENOENT ? 0 : errno,
                      errno == ENOENT ? "no resctrl is mounted" : "look for a mounted resctrl");
    t->root = open(t->rec.root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return t->root < 0 ? failed(t, errno, "open '%s'", t->rec.root) : 0;
}

/* Given back when the descriptor is closed. */
static int take_lock(struct rdt *t)
{
    int64_t until = now_mono_ms() + LOCK_MS;

    while (flock(t->root, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return failed(t, errno, "lock '%s'", t->rec.root);
        if (now_mono_ms() > until)
            return failed(t, 0, "'%s' has been locked by another program for %d s", t->rec.root,
                          LOCK_MS / 1000);
        (void)poll(NULL, 0, LOCK_STEP_MS);
    }
    return 0;
}

static int open_group(struct rdt *t)
{
    t->dir = openat(t->root, t->rec.group[0] ? t->rec.group : ".",
                    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return t->dir;
}

static int make_group(struct rdt *t, const char *schema, bool named, bool any)
{
    if (open_group(t) < 0 && errno != ENOENT)
        return refused(t, "open the group", t->rec.group);
    if (t->dir < 0 && named && !any)
        return failed(t, 0, "there is no group '%s', and nothing says how to make it",
                      t->rec.group);
    if (t->dir < 0 || !named)
        t->rec.flags |= WIRE_RDT_OURS;
    if (write_record(t) < 0)
        return -1;
    if (t->dir >= 0)
        return schema ? compare(t, schema) : 0;
    if (mkdirat(t->root, t->rec.group, 0755) < 0 || open_group(t) < 0)
        return refused(t, "make the group", t->rec.group);
    return 0;
}

static int write_schemata(struct rdt *t, const char *lines)
{
    size_t n = lines ? strlen(lines) : 0;
    int fd = n ? openat(t->dir, "schemata", O_WRONLY | O_CLOEXEC) : -1, r = 0;

    if (!n)
        return 0;
    if (fd < 0 || write(fd, lines, n) != (ssize_t)n)     /* in one go: the kernel wants it whole */
        r = refused(t, "write schemata", lines);
    if (fd >= 0)
        close(fd);
    return r;
}

static int make_monitor(struct rdt *t, uint32_t flags)
{
    char name[WIRE_ID + 32], can[512];

    if (!(flags & WIRE_RDT_MON))
        return 0;
    (void)read_text(t->root, "info/L3_MON/mon_features", can, sizeof can);
    if ((flags & WIRE_RDT_CMT) && !strstr(can, "llc_occupancy"))
        return failed(t, 0, "enableCMT: this machine counts no llc_occupancy");
    if ((flags & WIRE_RDT_MBM) && !strstr(can, "mbm_"))
        return failed(t, 0, "enableMBM: this machine counts no memory bandwidth");
    mon_name(t->id, "", name, sizeof name);
    if (mkdirat(t->dir, name, 0755) < 0 && errno != EEXIST)
        return refused(t, "make the monitoring group", name);
    return 0;
}

static int enter(struct rdt *t)
{
    char name[WIRE_ID + 32];
    int r = file_write(t->dir, "tasks", "0");

    mon_name(t->id, "/tasks", name, sizeof name);
    if (r == 0 && (t->rec.flags & WIRE_RDT_MON))
        r = file_write(t->dir, name, "0");
    errno = -r;
    return r < 0 ? refused(t, "join the group", t->rec.group) : 0;
}

static void undo(struct rdt *t)
{
    char name[WIRE_ID + 32];

    mon_name(t->id, "", name, sizeof name);
    if (t->dir >= 0 && (t->rec.flags & WIRE_RDT_MON))
        (void)unlinkat(t->dir, name, AT_REMOVEDIR);
    if (t->rec.flags & WIRE_RDT_OURS)
        (void)unlinkat(t->root, t->rec.group, AT_REMOVEDIR);
    drop_record(t);
}

static int make(struct rdt *t)
{
    const struct wire_plan *p = t->l->plan;
    const char *group = view_str(t->l->base, p->rdt_group);
    const char *schema = view_str(t->l->base, p->rdt_schema);
    const char *more = view_str(t->l->base, p->rdt_schemata);
    int r;

    if (!group || strcmp(group, "/") != 0)
        snprintf(t->rec.group, sizeof t->rec.group, "%s", group ? group : t->id);
    t->rec.flags = p->rdt_flags & WIRE_RDT_MON;
    r = make_group(t, schema, group, schema || more);
    if (r == 0)
        r = write_schemata(t, schema);
    if (r == 0)
        r = write_schemata(t, more);
    if (r == 0)
        r = make_monitor(t, p->rdt_flags);
    if (r == 0)
        r = enter(t);
    if (r == 0 && group && (t->rec.flags & WIRE_RDT_OURS)) {
        t->rec.flags &= ~(uint32_t)WIRE_RDT_OURS;
        r = write_record(t);
    }
    if (r < 0)
        undo(t);
    return r;
}

/* ---- an exec: where the record says; in a group that somebody has removed nobody is any more */

static void rejoin(const struct launch *l, const char *id)
{
    struct wire_rdt_record rec;
    char path[2048], name[WIRE_ID + 32];
    int fd, r = 0;
    ssize_t n;

    record_name(id, name, sizeof name);
    fd = openat(pod.state_fd, name, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, &rec, sizeof rec);
    if (n != sizeof rec)
        child_fail(l, n < 0 ? errno : EIO, "read '%s/%s'", pod.state_dir, name);
    close(fd);
    mon_name(id, "/tasks", name, sizeof name);
    for (int i = 0; i < (rec.flags & WIRE_RDT_MON ? 2 : 1); i++) {
        snprintf(path, sizeof path, "%s/%s/%s", rec.root, rec.group, i ? name : "tasks");
        fd = host_open(path, O_WRONLY, 0);
        r = fd < 0 || write(fd, "0", 1) != 1 ? errno : 0;
        if (fd >= 0)
            close(fd);
        if (r && r != ENOENT && r != ENODEV)
            child_fail(l, r, "intelRdt: join '%s'", path);
    }
}

void rdt_join(const struct launch *l)
{
    struct rdt t = { .l = l, .id = view_str(l->base, l->plan->id), .root = -1, .dir = -1,
                     .rec = { .version = WIRE_VERSION } };

    if (!l->rdt)
        return;
    if (l->exec) {
        rejoin(l, t.id);
        return;
    }
    if (find_root(&t) < 0 || take_lock(&t) < 0 || make(&t) < 0)
        child_fail(l, -EINVAL, "%s", t.why);
    close(t.dir);
    close(t.root);
}
