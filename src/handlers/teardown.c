/* SPDX-License-Identifier: Apache-2.0 */
/* How a sandbox goes down. The same steps stop it, remove it, undo a RunPodSandbox that failed, and
 * finish at start-up what a crash left half done: each looks at what is still there, so any of them
 * may run twice. */
#include "handlers/sandbox_op.h"

#include "handlers/ctr_op.h"
#include "handlers/restore.h"
#include "handlers/rpcs.h"
#include "handlers/sandbox_net.h"
#include "mem.h"
#include "proc/cgroup.h"
#include "reactor/child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct sandbox_op *sandbox_op_new(struct sandbox *s, struct op **slot)
{
    struct sandbox_op *o = mem_new(struct sandbox_op);

    o->s = s;
    o->slot = slot;
    *slot = &o->op;
    turn_init(&o->turn, &o->op);
    waiters_init(&o->waiters, NULL, o);
    return o;
}

void sandbox_op_free(struct sandbox_op *o)
{
    *o->slot = NULL;
    turn_end(&o->s->turns, &o->turn);
    restore_free(o->restore);
    free(o);
}

void sandbox_op_drop(struct op *op)
{
    struct sandbox_op *o = sandbox_op_of(op);

    op_drop(op);
    *o->slot = NULL;
    waiters_drop(&o->waiters);
    list_del(&o->turn.l);
    restore_free(o->restore);
    free(o);
}

int down_turn(struct op *op, enum wake why)
{
    struct sandbox_op *o = sandbox_op_of(op);

    (void)why;
    return turn_take(&o->s->turns, &o->turn);
}

void sandbox_op_ctr_done(void *arg, const struct err *err)
{
    struct sandbox_op *o = arg;

    if (err && !o->first.code)
        o->first = *err;
    if (--o->pending)
        return;
    if (o->first.code)
        op_fail(&o->op, &o->first);
    else
        op_wake(&o->op, WAKE_DONE);
}

static int each_ctr(struct sandbox_op *o, void (*start)(struct ctr *c, struct sandbox_op *o))
{
    struct ctr *c;
    unsigned n = 0;

    /* The count is held up by one while the loop runs: a container may be down at once. */
    err_clear(&o->first);
    o->pending = 1;
    list_each(c, &o->s->ctrs, struct ctr, in_sandbox) {
        o->pending++;
        n++;
        start(c, o);
    }
    if (--o->pending)
        return op_wait(&o->op, 0);
    if (o->first.code) {
        o->op.err = o->first;
        return o->first.code;
    }
    return 0;
}

static void stop_one(struct ctr *c, struct sandbox_op *o)
{
    ctr_stop_start(c, 0, sandbox_op_ctr_done, o);
}

static void remove_one(struct ctr *c, struct sandbox_op *o)
{
    ctr_remove_start(c, sandbox_op_ctr_done, o);
}

int down_kill(struct op *op, enum wake why)
{
    (void)why;
    sandbox_end_hung(sandbox_op_of(op)->s);
    sandbox_end_forwards(sandbox_op_of(op)->s);
    return each_ctr(sandbox_op_of(op), stop_one);
}

int down_containers(struct op *op, enum wake why)
{
    (void)why;
    return each_ctr(sandbox_op_of(op), remove_one);
}

static void on_cni_down(void *arg, const struct cni_result *r, const struct err *err)
{
    struct sandbox_op *o = arg;

    (void)r;
    o->cni = NULL;
    if (err) {
        struct err e = *err;

        err_note(&e, "network of sandbox %s", o->s->id);
        op_fail(&o->op, &e);
        return;
    }
    o->s->rec->cni_added = false;
    sandbox_save(o->s);
    op_wake(&o->op, WAKE_DONE);
}

int down_network(struct op *op, enum wake why)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct sandbox *s = o->s;
    auto_net_attach struct net_attach n = { 0 };
    struct err err = ERR_INIT;

    (void)why;
    if (!s->rec->cni_added)
        return 0;
    net_attach_init(&n, s, true);
    if (cni_del(s->h->cni, &n.a, 0, on_cni_down, o, &o->cni, &err) < 0) {
        op->err = err;
        return err_note(&op->err, "network of sandbox %s", s->id);
    }
    return op_wait(op, 0);
}

static void on_shut(void *arg, const struct err *err)
{
    struct sandbox_op *o = arg;
    struct ctr *c;

    if (err) {    /* it lives, and so do the namespaces */
        op_fail(&o->op, err);
        return;
    }
    list_each(c, &o->s->ctrs, struct ctr, in_sandbox)
        ctr_end_execs(c);    /* nobody will tell their ends any more */
    if (o->s->link)
        o->s->link = link_free(o->s->link);
    str_reset(&o->s->listed);
    op_wake(&o->op, WAKE_DONE);
}

static void on_unmounted(void *arg, int status)
{
    struct sandbox_op *o = arg;

    if (status)
        log_warn("op=%s sandbox=%s step=netns err='unmounting its network namespace failed'",
                 o->op.cls->name, o->s->id);
    op_wake(&o->op, WAKE_DONE);
}

/* The supervisor died without taking its mount along. */
int down_netns(struct op *op, enum wake why)
{
    const struct sandbox *s = sandbox_op_of(op)->s;
    auto_free char *netns = mem_printf("%s/netns", s->dir);
    char *argv[] = { s->h->worker_path, (char *)(uintptr_t)"umount", netns, NULL };
    struct child_opts o = CHILD_OPTS_INIT;
    struct child *c;
    struct stat st;

    (void)why;
    if (stat(netns, &st) < 0)
        return 0;
    o.path = s->h->worker_path;
    o.argv = argv;
    if (child_spawn(s->h->loop, &o, on_unmounted, sandbox_op_of(op), &c, &op->err) < 0)
        return err_note(&op->err, "unmount '%s'", netns);
    return op_wait(op, 0);
}

int down_supervisor(struct op *op, enum wake why)
{
    struct sandbox_op *o = sandbox_op_of(op);

    (void)why;
    if (!o->s->link)
        return 0;
    link_shutdown(o->s->link, on_shut, o);
    return op_wait(op, 0);
}

/* What the supervisor keeps for poststop hooks, or its OCI runtime of its containers. */
static bool has_hooks(const struct sandbox *s)
{
    static const char *const names[] = { "hooks", "oci/r" };
    bool found = false;

    for (size_t i = 0; i < ARRAY_LEN(names) && !found; i++) {
        auto_free char *path = mem_printf("%s/%s", s->dir, names[i]);
        DIR *d = opendir(path);
        struct dirent *e;

        while (d && !found && (e = readdir(d)))
            found = !strchr(e->d_name, '.');     /* net.*: pod/netdev.c */
        if (d)
            closedir(d);
    }
    return found;
}

static void on_hooks_run(void *arg, int status)
{
    struct sandbox_op *o = arg;

    if (status)
        log_warn("op=%s sandbox=%s step=hooks err='running poststop hooks failed (%d)', ignoring",
                 o->op.cls->name, o->s->id, status);
    op_wake(&o->op, WAKE_DONE);
}

int down_hooks(struct op *op, enum wake why)
{
    struct sandbox_op *o = sandbox_op_of(op);
    struct sandbox *s = o->s;
    const char *runtime = handler_path(s->h, s->rec->runtime_handler);
    char *argv[] = { s->h->worker_path, (char *)(uintptr_t)"poststop", s->dir,
                     (char *)(uintptr_t)runtime, NULL };
    struct child_opts opts = CHILD_OPTS_INIT;
    struct child *c;

    (void)why;
    if (s->link || !has_hooks(s))
        return 0;
    opts.path = s->h->worker_path;
    opts.argv = argv;
    opts.dies_with_us = true;        /* the next start runs them */
    if (child_spawn(s->h->loop, &opts, on_hooks_run, o, &c, &op->err) < 0)
        return err_note(&op->err, "poststop hooks of sandbox %s", s->id);
    return op_wait(op, 0);
}

static void poststop_done(struct op *op)
{
    if (op->err.code)
        log_warn("op=poststop err='%s', left for the sandbox's stop", op->err.text);
    sandbox_op_free(sandbox_op_of(op));
}

static const struct op_step poststop_steps[] = {
    { "turn", down_turn },
    { "hooks", down_hooks },
    { 0 },
};

static const struct op_class poststop_class = { .name = "poststop",
                                                .steps = poststop_steps,
                                                .done = poststop_done };

void sandbox_poststop_start(struct sandbox *s)
{
    if (s->run || s->stop || s->remove || s->poststop || !has_hooks(s))
        return;
    op_start(&sandbox_op_new(s, &s->poststop)->op, &poststop_class, s->h->loop, s->id);
}

int down_mark(struct op *op, enum wake why)
{
    struct sandbox *s = sandbox_op_of(op)->s;
    bool was_ready = s->rec->state == CRICKET__STATE__SANDBOX__STATE__READY;

    (void)why;
    if (s->rec->state != CRICKET__STATE__SANDBOX__STATE__REMOVING)
        s->rec->state = CRICKET__STATE__SANDBOX__STATE__NOTREADY;
    for (size_t i = 0; i < s->rec->n_ips; i++)
        free(s->rec->ips[i]);
    free(s->rec->ips);
    s->rec->ips = NULL;
    s->rec->n_ips = 0;
    sandbox_save(s);
    if (was_ready)
        event_sandbox(s, RUNTIME__V1__CONTAINER_EVENT_TYPE__CONTAINER_STOPPED_EVENT);
    return 0;
}

/* An exit that was recorded in the very turn in which the supervisor was told to end: nobody is
 * left to acknowledge it to. */
static void drop_exits(const struct sandbox *s)
{
    auto_free char *path = mem_printf("%s/exits", s->dir);
    DIR *d = opendir(path);
    struct dirent *e;

    while (d && (e = readdir(d)))
        (void)unlinkat(dirfd(d), e->d_name, 0);      /* "." and ".." refuse */
    if (d)
        closedir(d);
}

static bool at_or_below(const char *path, const char *top)
{
    size_t n = strlen(top);

    return strncmp(path, top, n) == 0 && (path[n] == '/' || !path[n]);
}

static struct sandbox *other_below(const struct sandbox *s, const char *top)
{
    struct sandbox *other;

    sandbox_each(s->h, i, other)
        if (other != s && at_or_below(other->rec->cgroup_parent, top))
            return other;
    return NULL;
}

static bool has_line(const char *text, const char *line)
{
    size_t n = strlen(line);

    for (const char *at = text; (at = strstr(at, line)); at += n)
        if ((at == text || at[-1] == '\n') && (at[n] == '\n' || !at[n]))
            return true;
    return false;
}

/* One line of cgroup_made: "[controllers:]TOP[<tab>FROM]", where hierarchies differ with their
 * controllers: everything from FROM (else cgroup_parent) up to TOP was made by us. What another
 * sandbox has below one of these directories is that one's to remove from now on, with those above.
 */
static void unmake_cgroup(struct sandbox *s, char *line)
{
    char *tab = strchr(line, '\t'), *top = strchr(line, '/');
    const char *from = tab ? tab + 1 : s->rec->cgroup_parent;
    auto_free char *shared = mem_strdup(from), *ours = NULL;
    struct sandbox *heir = NULL;

    if (!top)
        return;
    if (tab)
        *tab = '\0';
    while (at_or_below(shared, top) && !(heir = other_below(s, shared))) {
        free(ours);
        ours = mem_printf("%.*s%s", (int)(top - line), line, shared);
        *strrchr(shared, '/') = '\0';
    }
    if (ours)
        cgroup_remove_parents(from, ours);
    if (!heir)
        return;
    auto_free char *rest = mem_printf("%s\t%s", line, shared);
    if (has_line(heir->rec->cgroup_made, rest))
        return;
    auto_free char *all = mem_printf("%s%s%s", heir->rec->cgroup_made,
                                     heir->rec->cgroup_made[0] ? "\n" : "", rest);
    pb_set(&heir->rec->cgroup_made, all);
    sandbox_save(heir);
}

static void unmake_cgroups(struct sandbox *s)
{
    auto_free char *made = mem_strdup(s->rec->cgroup_made);
    char *save = NULL;

    for (char *line = strtok_r(made, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        unmake_cgroup(s, line);
    pb_set(&s->rec->cgroup_made, "");
}

/* Nothing is mounted here. */
static void drop_tree(int at, const char *name, int depth)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 || depth > 8 ? NULL : fdopendir(fd);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(d), e->d_name, 0) < 0)
            drop_tree(dirfd(d), e->d_name, depth + 1);
    }
    if (d)
        closedir(d);
    else
        (void)fd_close(fd);
    (void)unlinkat(at, name, AT_REMOVEDIR);
}

/* What OCI runtimes have left of their containers, and bundles of containers with hooks. */
void sandbox_drop_bundles(const char *dir)
{
    static const char *const names[] = { "oci", "hooks" };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        auto_free char *path = mem_printf("%s/%s", dir, names[i]);

        drop_tree(AT_FDCWD, path, 0);
    }
}

int down_files(struct op *op, enum wake why)
{
    static const char *const names[] = { "hostname", "hosts", "resolv.conf", "netns",
                                         "sock",     "exits", "resctrl" };
    struct sandbox *s = sandbox_op_of(op)->s;

    (void)why;
    unmake_cgroups(s);
    drop_exits(s);
    sandbox_drop_bundles(s->dir);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        auto_free char *p = mem_printf("%s/%s", s->dir, names[i]);

        (void)remove(p);    /* most are gone with the supervisor */
    }
    if (remove(s->dir) < 0 && errno != ENOENT)
        log_warn("op=%s sandbox=%s step=files path='%s' err='%s', left for the next start",
                 op->cls->name, s->id, s->dir, strerror(errno));
    return 0;
}
