/* SPDX-License-Identifier: Apache-2.0 */
/* src/proc/link.h for scripts (t/20-pod.t), on the real loop: one JSON object per line in, one per
 * line out. It stands for the daemon, so it may be killed and started again. Descriptors of execs
 * and attaches are made here: output comes back as {"ev": "data", ...}.
 *
 *      poddrive CRICKET_POD
 *      {"op":
 * "spawn|open|start|ack|signal|reopen|resize|shutdown|exec|kill|attach|write|sip|eof|close|free",
 * ...}
 *      {"ev": "ready|ctr|exit|gone|started|reply|exec-started|exec-exited|attach-end|data|eof",
 * ...}
 */
#include "drive.h"
#include "list.h"
#include "mem.h"
#include "proc/link.h"
#include "str.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TAGS_MAX = 64, ITEMS_MAX = 64 };

struct tag { /* an exec or attach by the script's name, and our ends of its descriptors */
    char *name;
    struct link_exec *exec;
    struct link_attach *attach;
    int in;                          /* written by us; -1 */
    struct out {
        ev_io io;
        struct tag *t;
        const char *which;
    } out[2];
};

static struct {
    struct loop *loop;
    struct link *link;
    struct link_opts opts;
    struct tag tags[TAGS_MAX];
} d;

static const char *text(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

static long long number(const json_t *o, const char *key, long long dflt)
{
    json_t *v = json_object_get(o, key);

    return json_is_integer(v) ? json_integer_value(v) : dflt;
}

static bool flag(const json_t *o, const char *key)
{
    return json_is_true(json_object_get(o, key));
}

static char **list(const json_t *o, const char *key, size_t *ret_n)
{
    json_t *a = json_object_get(o, key);
    size_t n = json_array_size(a);
    char **v = mem_array(n + 1, sizeof *v);

    for (size_t i = 0; i < n; i++)
        v[i] = (char *)(uintptr_t)json_string_value(json_array_get(a, i));
    if (ret_n)
        *ret_n = n;
    return v;
}

static const char *err_of(const struct err *e)
{
    return e ? e->text : "";
}

/* ---- events */

static void on_exit_ev(void *arg, const struct link_exit *x)
{
    (void)arg;
    say(json_pack("{s:s, s:s, s:i, s:i, s:b, s:I}", "ev", "exit", "id", x->id, "status", x->status,
                  "signal", x->signal, "oom", x->oom, "finished_at", (json_int_t)x->finished_at));
}

static void on_gone(void *arg)
{
    (void)arg;
    say(json_pack("{s:s}", "ev", "gone"));
}

static void on_note(void *arg, const char *ctr, const char *text)
{
    (void)arg;
    say(json_pack("{s:s, s:s, s:s}", "ev", "note", "id", ctr, "text", text));
}

static void on_ctr(void *arg, const struct link_ctr *c)
{
    (void)arg;
    say(json_pack("{s:s, s:s, s:i, s:I}", "ev", "ctr", "id", c->id, "pid", (int)c->pid,
                  "started_at", (json_int_t)c->started_at));
}

static void on_ready(void *arg, struct link *k, const char *netns, pid_t supervisor,
                     const struct err *err)
{
    (void)arg;
    if (err)
        d.link = NULL;
    say(json_pack("{s:s, s:s, s:i, s:i, s:s}", "ev", "ready", "netns", netns, "pid",
                  (int)supervisor, "init", k ? (int)link_init_pid(k) : 0, "error", err_of(err)));
}

static void on_started(void *arg, pid_t pid, int pidfd, int64_t started_at, const struct err *err)
{
    auto_free char *id = arg;

    say(json_pack("{s:s, s:s, s:i, s:b, s:I, s:s, s:i}", "ev", "started", "id", id, "pid", (int)pid,
                  "pidfd", pidfd >= 0, "started_at", (json_int_t)started_at, "error", err_of(err),
                  "code", err ? err->code : 0));
    fd_close(pidfd);
}

static void on_reply(void *arg, const struct err *err)
{
    auto_free char *what = arg;

    say(json_pack("{s:s, s:s, s:s}", "ev", "reply", "what", what, "error", err_of(err)));
}

/* ---- descriptors of execs and attaches */

static struct tag *tag_find(const char *name)
{
    for (size_t i = 0; i < TAGS_MAX; i++)
        if (d.tags[i].name && strcmp(d.tags[i].name, name) == 0)
            return &d.tags[i];
    return NULL;
}

static void on_out(struct ev_loop *ev, struct ev_io *w, int revents)
{
    struct out *o = container_of(w, struct out, io);
    char buf[16384];
    ssize_t n = read(w->fd, buf, sizeof buf);

    (void)revents;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {                     /* bytes as Latin-1, so that any can pass */
        auto_str struct str s = STR_INIT;
        for (ssize_t i = 0; i < n; i++) {
            unsigned char c = (unsigned char)buf[i];
            if (c < 0x80)
                str_putc(&s, (char)c);
            else {
                str_putc(&s, (char)(0xc0 | c >> 6));
                str_putc(&s, (char)(0x80 | (c & 0x3f)));
            }
        }
        say(json_pack("{s:s, s:s, s:s, s:s%}", "ev", "data", "tag", o->t->name, "which", o->which,
                      "data", s.p, s.len));
        return;
    }
    ev_io_stop(ev, w);
    close(w->fd);
    w->fd = -1;
    say(json_pack("{s:s, s:s, s:s}", "ev", "eof", "tag", o->t->name, "which", o->which));
}

static void watch(struct tag *t, int i, int fd)
{
    t->out[i].t = t;
    t->out[i].which = i ? "err" : "out";
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    ev_io_init(&t->out[i].io, on_out, fd, EV_READ);
    ev_io_start(loop_ev(d.loop), &t->out[i].io);
}

static struct tag *tag_new(const char *name)
{
    for (size_t i = 0; i < TAGS_MAX; i++)
        if (!d.tags[i].name) {
            struct tag *t = &d.tags[i];
            *t = (struct tag){ .name = mem_strdup(name), .in = -1 };
            t->out[0].io.fd = t->out[1].io.fd = -1;
            return t;
        }
    abort();
}

static void on_exec_started(void *arg, pid_t pid, int pty, const struct err *err)
{
    struct tag *t = arg;

    say(json_pack("{s:s, s:s, s:i, s:s, s:i}", "ev", "exec-started", "tag", t->name, "pid",
                  (int)pid, "error", err_of(err), "code", err ? err->code : 0));
    if (err)
        t->exec = NULL;
    if (pty >= 0) {
        t->in = fcntl(pty, F_DUPFD_CLOEXEC, 3);
        watch(t, 0, pty);
    }
}

static void on_exec_exited(void *arg, int status)
{
    struct tag *t = arg;

    t->exec = NULL;
    say(json_pack("{s:s, s:s, s:i}", "ev", "exec-exited", "tag", t->name, "status", status));
}

static void on_closed(void *arg, const struct err *err)
{
    struct tag *t = arg;

    t->attach = NULL;
    say(json_pack("{s:s, s:s, s:s}", "ev", "attach-end", "tag", t->name, "error", err_of(err)));
}

/* Pipes for what the script wants ("fds": [true, true, false]); theirs[] are to be closed by the
 * caller. */
static void make_pipes(const json_t *o, struct tag *t, int theirs[3])
{
    json_t *want = json_object_get(o, "fds");
    bool deaf = flag(o, "deaf");     /* nobody reads, but for a sip */

    for (int i = 0; i < 3; i++) {
        int p[2];
        theirs[i] = -1;
        if (want && !json_is_true(json_array_get(want, (size_t)i)))
            continue;
        if (pipe2(p, O_CLOEXEC) < 0)
            abort();
        theirs[i] = p[i == 0 ? 0 : 1];
        if (i == 0)
            t->in = p[1];
        else if (!deaf)
            watch(t, i - 1, p[0]);
        else {
            (void)fcntl(p[0], F_SETFL, O_NONBLOCK);
            t->out[i - 1].io.fd = p[0];
        }
    }
}

/* ---- plans */

static uint64_t bits(const json_t *o, const char *key)
{
    return (uint64_t)number(o, key, 0);
}

static void fill_process(const json_t *o, struct plan_process *p, gid_t *groups,
                         struct plan_rlimit *limits, uint64_t *bpf)
{
    json_t *a;

    p->argv = list(o, "argv", NULL);
    p->envp = list(o, "envp", NULL);
    p->cwd = text(o, "cwd");
    p->uid = (uid_t)number(o, "uid", 0);
    p->gid = (gid_t)number(o, "gid", 0);
    a = json_object_get(o, "groups");
    p->groups = groups;
    p->n_groups = json_array_size(a);
    for (size_t i = 0; i < p->n_groups; i++)
        groups[i] = (gid_t)json_integer_value(json_array_get(a, i));
    p->cap_bounding = bits(o, "bounding");
    p->cap_effective = p->cap_permitted = bits(o, "caps");
    p->cap_inheritable = bits(o, "inheritable");
    p->cap_ambient = bits(o, "ambient");
    p->no_new_privs = flag(o, "nnp");
    p->tty = flag(o, "tty");
    p->stdin_open = flag(o, "stdin");
    p->stdin_once = flag(o, "stdin_once");
    p->set_oom_score_adj = json_object_get(o, "oom") != NULL;
    p->oom_score_adj = (int)number(o, "oom", 0);
    a = json_object_get(o, "rlimits");
    p->rlimits = limits;
    p->n_rlimits = json_array_size(a);
    for (size_t i = 0; i < p->n_rlimits; i++) {
        json_t *l = json_array_get(a, i);
        limits[i].resource = (int)json_integer_value(json_array_get(l, 0));
        limits[i].soft = (uint64_t)json_integer_value(json_array_get(l, 1));
        limits[i].hard = (uint64_t)json_integer_value(json_array_get(l, 2));
    }
    a = json_object_get(o, "seccomp");
    for (size_t i = 0; i < json_array_size(a); i++)
        bpf[i] = (uint64_t)json_integer_value(json_array_get(a, i));
    if (json_array_size(a)) {
        p->seccomp = bpf;
        p->seccomp_len = json_array_size(a) * 8;
    }
}

static void fill_mount(const json_t *o, struct plan_mount *m)
{
    m->kind = (enum plan_mount_kind)number(o, "kind", PLAN_MOUNT_BIND);
    m->flags = (unsigned)number(o, "flags", 0);
    m->propagation = (enum plan_propagation)number(o, "propagation", PLAN_PRIVATE);
    m->source = text(o, "source");
    m->target = text(o, "target");
    m->fstype = text(o, "fstype");
    m->data = text(o, "data");
    m->lower = text(o, "lower");
}

static int open_cgroups(const json_t *o, int *fds)
{
    size_t n = 0;
    char **v = list(o, "cgroups", &n);

    for (size_t i = 0; i < n; i++) {
        fds[i] = open(v[i], (flag(o, "cgroup2") ? O_RDONLY | O_DIRECTORY : O_WRONLY) | O_CLOEXEC);
        if (fds[i] < 0) {
            perror(v[i]);
            abort();
        }
    }
    free(v);
    return (int)n;
}

static void do_start(const json_t *o)
{
    struct plan p = { .id = text(o, "id"),
                      .lower = text(o, "lower"),
                      .upper = text(o, "upper"),
                      .work = text(o, "work") };
    struct plan_mount mounts[ITEMS_MAX];
    struct plan_device devices[ITEMS_MAX] = { 0 };
    struct plan_pair links[ITEMS_MAX];
    struct plan_rlimit limits[ITEMS_MAX];
    gid_t groups[ITEMS_MAX];
    uint64_t bpf[ITEMS_MAX];
    struct err e = ERR_INIT;
    int fds[16], n = open_cgroups(o, fds), plan_fd, oom = -1;
    json_t *a;

    memset(mounts, 0, sizeof mounts);
    memset(devices, 0, sizeof devices);
    fill_process(o, &p.process, groups, limits, bpf);
    a = json_object_get(o, "mounts");
    for (size_t i = 0; i < json_array_size(a); i++)
        fill_mount(json_array_get(a, i), &mounts[i]);
    p.mounts = mounts;
    p.n_mounts = json_array_size(a);
    a = json_object_get(o, "devices");           /* [path, mode, major, minor] */
    for (size_t i = 0; i < json_array_size(a); i++) {
        json_t *v = json_array_get(a, i);
        devices[i].path = json_string_value(json_array_get(v, 0));
        devices[i].mode = (mode_t)json_integer_value(json_array_get(v, 1));
        devices[i].major = (uint32_t)json_integer_value(json_array_get(v, 2));
        devices[i].minor = (uint32_t)json_integer_value(json_array_get(v, 3));
    }
    p.devices = devices;
    p.n_devices = json_array_size(a);
    a = json_object_get(o, "symlinks");
    for (size_t i = 0; i < json_array_size(a); i++) {
        links[i].key = json_string_value(json_array_get(json_array_get(a, i), 0));
        links[i].value = json_string_value(json_array_get(json_array_get(a, i), 1));
    }
    p.symlinks = links;
    p.n_symlinks = json_array_size(a);
    p.masked = (const char *const *)list(o, "masked", &p.n_masked);
    p.readonly = (const char *const *)list(o, "readonly", &p.n_readonly);
    p.rootfs_readonly = flag(o, "rootfs_readonly");
    p.rootfs_propagation = (enum plan_propagation)number(o, "rootfs_propagation", PLAN_PRIVATE);
    p.pidns = (enum plan_pidns)number(o, "pidns", PLAN_PID_OWN);
    p.host_net = flag(o, "host_net");
    p.host_ipc = flag(o, "host_ipc");
    p.host_uts = flag(o, "host_uts");
    p.own_cgroupns = flag(o, "cgroupns");
    p.host_userns = flag(o, "host_userns");
    p.log_path = text(o, "log");
    p.log_line_max = (uint32_t)number(o, "line_max", 16384);
    if (text(o, "oom_file"))
        oom = open(text(o, "oom_file"), O_RDONLY | O_CLOEXEC);
    char *id = mem_strdup(p.id);
    int r = plan_encode(&p, &plan_fd, &e);
    if (r == 0) {
        r = link_start(d.link, p.id, plan_fd, fds, (size_t)n, flag(o, "cgroup2"), oom,
                       text(o, "target_id"), on_started, id, &e);
        close(plan_fd);
    }
    if (r < 0)
        on_started(id, 0, -1, 0, &e);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    fd_close(oom);
    free((void *)(uintptr_t)p.process.argv);
    free((void *)(uintptr_t)p.process.envp);
    free((void *)(uintptr_t)p.masked);
    free((void *)(uintptr_t)p.readonly);
}

static void do_exec(const json_t *o)
{
    struct plan_process p = { 0 };
    struct plan_rlimit limits[ITEMS_MAX];
    gid_t groups[ITEMS_MAX];
    uint64_t bpf[ITEMS_MAX];
    struct err e = ERR_INIT;
    struct tag *t = tag_new(text(o, "tag"));
    struct link_exec_events ev = { on_exec_started, on_exec_exited, t, flag(o, "quiet") };
    int fds[16], n = open_cgroups(o, fds), theirs[3] = { -1, -1, -1 };
    struct str plan = STR_INIT;

    fill_process(o, &p, groups, limits, bpf);
    if (!p.tty)
        make_pipes(o, t, theirs);
    int r = plan_encode_exec(&p, text(o, "id"), &plan, &e);
    if (r == 0)
        r = link_exec(d.link, text(o, "id"), &plan, theirs, fds, (size_t)n, flag(o, "cgroup2"),
                      &ev, &t->exec, &e);
    str_free(&plan);
    if (r < 0)
        on_exec_started(t, 0, -1, &e);
    for (int i = 0; i < 3; i++)
        fd_close(theirs[i]);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    free((void *)(uintptr_t)p.argv);
    free((void *)(uintptr_t)p.envp);
}

static void do_attach(const json_t *o)
{
    struct err e = ERR_INIT;
    struct tag *t = tag_new(text(o, "tag"));
    int theirs[3];

    make_pipes(o, t, theirs);
    if (link_attach(d.link, text(o, "id"), theirs[0], theirs[1], theirs[2], on_closed, t,
                    &t->attach, &e) < 0)
        on_closed(t, &e);
    for (int i = 0; i < 3; i++)
        fd_close(theirs[i]);
}

static const struct link_events events = { .on_exit = on_exit_ev, .on_gone = on_gone,
                                           .on_note = on_note };

static void do_spawn(const json_t *o)
{
    struct plan_pair sysctls[ITEMS_MAX];
    struct link_idmap map = { (uint32_t)number(o, "map", 0), 0, 65536 };
    struct link_sandbox s = {
        .id = text(o, "id"),
        .state_dir = text(o, "dir"),
        .host_net = flag(o, "host_net"),
        .host_ipc = flag(o, "host_ipc"),
        .shared_pid = flag(o, "shared_pid"),
        .hostname = text(o, "hostname"),
        .sysctls = sysctls,
        .shm_size = (uint64_t)number(o, "shm_size", 64 << 20),
    };
    struct err e = ERR_INIT;
    const char *key;
    json_t *v;

    if (map.host_id) {
        s.userns = true;
        s.uid_map = s.gid_map = &map;
        s.n_uid_map = s.n_gid_map = 1;
    }
    json_object_foreach(json_object_get(o, "sysctls"), key, v)
        sysctls[s.n_sysctls++] = (struct plan_pair){ key, json_string_value(v) };
    if (link_spawn(d.loop, &d.opts, &s, &events, on_ready, NULL, &d.link, &e) < 0)
        on_ready(NULL, NULL, "", 0, &e);
}

static void do_open(const json_t *o)
{
    struct err e = ERR_INIT;

    if (link_open(d.loop, text(o, "dir"), &events, on_ctr, on_ready, NULL, &d.link, &e) < 0)
        on_ready(NULL, NULL, "", 0, &e);
}

static void do_tag(const char *op, const json_t *o)
{
    struct tag *t = tag_find(text(o, "tag"));

    if (!t) {
        fprintf(stderr, "no tag '%s'\n", text(o, "tag"));
        abort();
    }
    if (strcmp(op, "write") == 0) {
        const char *p = text(o, "data");
        if (write(t->in, p, strlen(p)) < 0)
            perror("write");
    } else if (strcmp(op, "sip") == 0) {
        char some[1024];
        if (read(t->out[0].io.fd, some, sizeof some) < 0 && errno != EAGAIN)
            perror("sip");
    } else if (strcmp(op, "eof") == 0)
        t->in = fd_close(t->in);
    else if (strcmp(op, "kill") == 0 && t->exec)
        link_exec_kill(t->exec);
    else if (strcmp(op, "xresize") == 0 && t->exec)
        link_exec_resize(t->exec, (uint16_t)number(o, "w", 0), (uint16_t)number(o, "h", 0));
    else if (strcmp(op, "forget") == 0 && t->exec) {
        link_exec_forget(t->exec);
        t->exec = NULL;
    } else if (strcmp(op, "close") == 0 && t->attach) {
        link_attach_close(t->attach);
        t->attach = NULL;
    }
}

static void command(const json_t *o)
{
    const char *op = text(o, "op"), *id = text(o, "id");

    if (strcmp(op, "spawn") == 0)
        do_spawn(o);
    else if (strcmp(op, "open") == 0)
        do_open(o);
    else if (strcmp(op, "start") == 0)
        do_start(o);
    else if (strcmp(op, "exec") == 0)
        do_exec(o);
    else if (strcmp(op, "attach") == 0)
        do_attach(o);
    else if (strcmp(op, "ack") == 0)
        link_ack_exit(d.link, id);
    else if (strcmp(op, "signal") == 0)
        link_signal(d.link, id, (int)number(o, "sig", SIGTERM));
    else if (strcmp(op, "reopen") == 0)
        link_reopen_log(d.link, id, on_reply, mem_strdup("reopen"));
    else if (strcmp(op, "resize") == 0)
        link_resize(d.link, id, (uint16_t)number(o, "w", 0), (uint16_t)number(o, "h", 0));
    else if (strcmp(op, "shutdown") == 0)
        link_shutdown(d.link, on_reply, mem_strdup("shutdown"));
    else if (strcmp(op, "free") == 0)
        d.link = link_free(d.link);
    else
        do_tag(op, o);
}

static void on_line(char *line)
{
    json_t *o = drive_json(line);

    command(o);
    json_decref(o);
}

int main(int argc, char **argv)
{
    struct err e = ERR_INIT;

    if (argc != 2)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    d.loop = loop_new(&e);
    d.opts.pod_path = argv[1];
    if (!d.loop || link_pod_fd(argv[1], &d.opts.pod_fd, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    drive(d.loop, on_line);
    for (size_t i = 0; i < TAGS_MAX; i++)
        if (d.tags[i].name) {
            if (d.tags[i].exec)
                link_exec_forget(d.tags[i].exec);
            if (d.tags[i].attach)
                link_attach_close(d.tags[i].attach);
            for (int k = 0; k < 2; k++)
                if (d.tags[i].out[k].io.fd >= 0)
                    ev_io_stop(loop_ev(d.loop), &d.tags[i].out[k].io);
            free(d.tags[i].name);
        }
    link_free(d.link);
    close(d.opts.pod_fd);
    loop_free(d.loop);
    return 0;
}
