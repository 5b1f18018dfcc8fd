/* SPDX-License-Identifier: Apache-2.0 */
/* One command for one list of plugins, as libcni runs it:
 *
 *      ADD, CHECK, STATUS, GC: first to last     DEL: last to first
 *      ADD: each gets the result of the one before; the last one's is the result
 *      ADD failed, timed out or was cancelled: DEL for the whole list, past failures, then done()
 *
 * Each plugin is a struct run; between two plugins nothing is kept but `at`, the number of plugins
 * done. A plugin is killed only when its time is up: whatever it does may be half done then. All
 * that an ADD or DEL has started has the same `hold`; a DEL after a kill, and whatever comes first
 * after a daemon that was killed, begins when the last of them is gone. */
#include "proc/cni_call.h"

#include "log.h"
#include "mem.h"
#include "str.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CALL_MAGIC = 0x636e6943,
    OUT_MAX = 1024 * 1024,           /* bytes of a plugin's answer */
    BUSY_RETRIES = 5,                /* the plugin's file is being written: ETXTBSY */
    BUSY_WAIT_S = 1,
    PATIENCE_MS = 10000,             /* at most, with a plugin that nobody wants any more */
};

static const char *const names[] = { "ADD", "DEL", "CHECK", "STATUS", "GC" };
static const char *const lower[] = { "add", "delete", "check", "status", "gc" };

struct cni_call {
    unsigned magic;
    struct cni *cni;
    struct list link;
    enum cni_command command;
    bool undoing, cancelled;
    bool killed;                     /* some plugin was: what it has started may still run */
    bool held;                       /* an ADD during GC: begins behind it */
    struct cni_conf *conf;
    char **env;                      /* env[0] is CNI_COMMAND */
    json_t *caps, *extra;
    json_t *prev;                    /* ADD: the last result so far; DEL, CHECK: that of the ADD */
    size_t at;                       /* plugins done */
    bool ran;                        /* some plugin was started */
    int busy;
    struct run *run;
    struct cni_hold hold;            /* of ADD and DEL */
    ev_timer timer;                  /* the first step, a retry, the end; patience with run */
    int64_t deadline_ms;             /* monotonic; 0: none */
    struct err err, undo_err;
    cni_done_fn done;
    void *arg;
};

static void later(struct cni_call *c, double seconds);

static void release_held(struct cni *cni)
{
    struct cni_call *c;

    cni->gc = NULL;
    list_each(c, &cni->calls, struct cni_call, link)
        if (c->held) {
            c->held = false;
            later(c, 0.);
        }
}

static void call_free(struct cni_call *c)
{
    ev_timer_stop(loop_ev(c->cni->loop), &c->timer);
    cni_hold_deinit(&c->hold);
    list_del(&c->link);
    if (c == c->cni->gc)
        release_held(c->cni);
    cni_conf_free(c->conf);
    for (size_t i = 0; c->env && c->env[i]; i++)
        free(c->env[i]);
    free(c->env);
    json_decref(c->caps);
    json_decref(c->extra);
    json_decref(c->prev);
    c->magic = 0;
    free(c);
}

void cni_call_drop(struct cni_call *c)
{
    if (c->run && c->hold.fd >= 0)
        run_leave(c->run);
    else if (c->run)
        run_cancel(c->run);
    call_free(c);
}

void cni_call_drop_all(struct cni *cni)
{
    while (!list_empty(&cni->calls))
        cni_call_drop(list_first(&cni->calls, struct cni_call, link));
}

/* ---- environment */

static void env_add(struct cni_call *c, size_t *n, char *s)
{
    c->env = mem_grow(c->env, *n + 2, sizeof *c->env);
    c->env[(*n)++] = s;
    c->env[*n] = NULL;
}

static void arg_add(struct str *s, const char *key, const char *value)
{
    if (value && !strpbrk(value, ";="))              /* neither can be written there */
        str_printf(s, ";%s=%s", key, value);
}

static void env_make(struct cni_call *c, const struct cni_attach *a)
{
    auto_str struct str args = STR_INIT, path = STR_INIT;
    struct stat st;
    bool have_path = false;
    const char *netns = a && a->netns ? a->netns : "";
    size_t n = 0;

    if (c->command == CNI_DEL && netns[0] && stat(netns, &st) < 0 && errno == ENOENT)
        netns = "";
    env_add(c, &n, mem_printf("CNI_COMMAND=%s", names[c->command]));
    for (size_t i = 0; environ[i]; i++) {
        if (str_starts(environ[i], "CNI_") || str_starts(environ[i], "NOTIFY_SOCKET=") ||
            str_starts(environ[i], "LISTEN_"))
            continue;
        have_path |= str_starts(environ[i], "PATH=");
        env_add(c, &n, mem_strdup(environ[i]));
    }
    if (!have_path)                                  /* portmap and others run iptables */
        env_add(c, &n,
                mem_strdup("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    for (size_t i = 0; c->cni->bin_dirs[i]; i++)
        str_printf(&path, "%s%s", i ? ":" : "", c->cni->bin_dirs[i]);
    env_add(c, &n, mem_printf("CNI_PATH=%s", str_c(&path)));
    if (!a) {
        env_add(c, &n, mem_strdup("CNI_CONTAINERID="));
        env_add(c, &n, mem_strdup("CNI_NETNS="));
        env_add(c, &n, mem_strdup("CNI_IFNAME="));
        env_add(c, &n, mem_strdup("CNI_ARGS="));
        return;
    }
    str_puts(&args, "IgnoreUnknown=1");
    arg_add(&args, "K8S_POD_NAMESPACE", a->pod_namespace);
    arg_add(&args, "K8S_POD_NAME", a->pod_name);
    arg_add(&args, "K8S_POD_INFRA_CONTAINER_ID", a->id);
    arg_add(&args, "K8S_POD_UID", a->pod_uid);
    env_add(c, &n, mem_printf("CNI_CONTAINERID=%s", a->id));
    env_add(c, &n, mem_printf("CNI_NETNS=%s", netns));
    env_add(c, &n, mem_strdup("CNI_IFNAME=" CNI_IFNAME));
    env_add(c, &n, mem_printf("CNI_ARGS=%s", str_c(&args)));
}

/* ---- the walk */

static void step(struct cni_call *c);

static enum cni_command command_now(const struct cni_call *c)
{
    return c->undoing ? CNI_DEL : c->command;
}

static size_t plugin_now(const struct cni_call *c)
{
    return command_now(c) == CNI_DEL ? json_array_size(c->conf->plugins) - 1 - c->at : c->at;
}

static const char *type_now(const struct cni_call *c)
{
    return cni_conf_type(c->conf, plugin_now(c));
}

/* Goes on from the loop, after `seconds`. */
static void later(struct cni_call *c, double seconds)
{
    struct ev_loop *ev = loop_ev(c->cni->loop);

    ev_timer_stop(ev, &c->timer);
    ev_now_update(ev);
    ev_timer_set(&c->timer, seconds, 0.);
    ev_timer_start(ev, &c->timer);
}

static void finish(struct cni_call *c)
{
    struct cni_ips ips = { 0 };
    auto_free char *conf = NULL, *result = NULL;
    struct cni_result r;

    if (c->err.code == 0 && c->command == CNI_ADD) /* was checked in add_result() */
        (void)cni_result_ips(c->prev, CNI_IFNAME, &ips, NULL);
    conf = cni_conf_text(c->conf);
    result = c->prev ? json_dumps(c->prev, JSON_COMPACT) : NULL;
    r = (struct cni_result){ conf, result ? result : "", (const char *const *)ips.v, ips.n };
    if (c->undo_err.code)
        log_debug("op=cni-undo err='%s'", c->undo_err.text);
    if (!c->killed)
        cni_hold_end(&c->hold);
    c->done(c->arg, c->err.code && !c->undo_err.code ? NULL : &r, c->err.code ? &c->err : NULL);
    cni_ips_deinit(&ips);
    call_free(c);
}

/* The command is over, with c->err or without. */
static void over(struct cni_call *c)
{
    if (c->cancelled) {
        auto_free char *was = mem_strdup(c->err.text);

        err_rpc(&c->err, GRPC_CANCELLED, "CNI %s cancelled%s%s", names[c->command],
                was[0] ? "; " : "", was);
    }
    if (c->err.code && c->command == CNI_ADD && !c->undoing && c->ran) {
        c->undoing = true;
        c->at = 0;
        c->deadline_ms = 0;
        free(c->env[0]);
        c->env[0] = mem_printf("CNI_COMMAND=%s", names[CNI_DEL]);
        if (c->killed)
            cni_hold_drop(&c->hold);
        step(c);
        return;
    }
    finish(c);
}

/* What one plugin's failure means. True: the walk goes on. */
static bool go_on_after(struct cni_call *c, const struct err *e)
{
    struct err *keep = c->undoing ? &c->undo_err : &c->err;

    if (keep->code == 0)
        *keep = *e;
    return c->undoing || (c->command == CNI_GC && !c->cancelled);
}

static int add_result(struct cni_call *c, const char *out, size_t len, struct err *err)
{
    struct cni_ips ips;
    json_error_t je;
    json_t *j = json_loadb(out, len, 0, &je);
    int r = j ? cni_result_ips(j, CNI_IFNAME, &ips, err)
              : err_set(err, -EBADMSG, "CNI result: %s", je.text);
    size_t n = 0;

    if (r == 0) {
        n = ips.n;
        cni_ips_deinit(&ips);
        if (!json_object_get(j, "cniVersion"))
            json_object_set_new(j, "cniVersion", json_string(c->conf->version));
        if (n == 0 && c->at + 1 == json_array_size(c->conf->plugins))
            r = err_set(err, -ENODATA,
                        "failed to find network info: no address for " CNI_IFNAME
                        " in the result of network '%s'",
                        c->conf->name);
    }
    if (r < 0) {
        json_decref(j);
        return err_note(err, "plugin type=\"%s\" (add)", type_now(c));
    }
    json_decref(c->prev);
    c->prev = j;
    return 0;
}

static void on_run(void *arg, const struct run_result *res)
{
    struct cni_call *c = arg;
    struct err e = ERR_INIT;
    int r = 0;

    assert(c->magic == CALL_MAGIC);
    c->run = NULL;
    c->busy = 0;
    c->killed |= res->status > 128;
    if (c->cancelled && !c->undoing) {
        ev_timer_stop(loop_ev(c->cni->loop), &c->timer);
        over(c);
        return;
    }
    if (res->timed_out)
        r = err_rpc(&e, GRPC_DEADLINE_EXCEEDED,
                    "plugin type=\"%s\" failed (%s): no answer in time, killed", type_now(c),
                    lower[command_now(c)]);
    else if (res->status != 0)
        r = cni_result_error(type_now(c), lower[command_now(c)], res->status, res->out, res->errout,
                             NULL, &e);
    else if (command_now(c) == CNI_ADD)
        r = add_result(c, res->out, res->out_len, &e);
    if (r < 0 && !go_on_after(c, &e)) {
        over(c);
        return;
    }
    c->at++;
    step(c);
}

static char *find_plugin(const struct cni_call *c, const char *type, struct err *err)
{
    auto_str struct str where = STR_INIT;

    for (size_t i = 0; c->cni->bin_dirs[i]; i++) {
        auto_free char *path = mem_printf("%s/%s", c->cni->bin_dirs[i], type);
        struct stat st;

        errno = ENOENT;              /* of what is there and is no file */
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
            return take_ptr(path);
        if (errno != ENOENT && errno != ENOTDIR) {
            err_sys(err, "plugin '%s'", path);
            return NULL;
        }
        str_printf(&where, "%s%s", i ? ", " : "", c->cni->bin_dirs[i]);
    }
    err_set(err, -ENOENT, "failed to find plugin \"%s\" in [%s]", type, str_c(&where));
    return NULL;
}

/* How long the next plugin may take; 0 with err when the time is used up already. */
static int64_t time_left(const struct cni_call *c, struct err *err)
{
    int64_t left = c->deadline_ms - clock_mono_ms();

    if (!c->deadline_ms)
        return c->cni->timeout_ms;
    if (left <= 0)
        err_rpc(err, GRPC_DEADLINE_EXCEEDED, "no time left for plugin type=\"%s\" (%s)",
                type_now(c), lower[command_now(c)]);
    return left > 0 ? left : 0;
}

/* Starts plugin_now(). */
static int start_plugin(struct cni_call *c, struct err *err)
{
    const char *type = type_now(c);
    auto_free char *path = find_plugin(c, type, err);
    char *argv[] = { path, NULL };
    struct child_opts o = CHILD_OPTS_INIT;
    struct child_fd hold = { c->hold.fd, CNI_HOLD_FD };
    json_t *prev = command_now(c) == CNI_ADD || cni_conf_speaks(c->conf, "0.4.0") ? c->prev : NULL;
    auto_free char *in = cni_conf_input(c->conf, plugin_now(c), prev, c->caps, c->extra);
    int64_t left;
    int r;

    if (!path)
        return -ENOENT;
    left = time_left(c, err);
    if (err->code)
        return err->code;
    o.path = path;
    o.argv = argv;
    o.envp = c->env;
    o.dies_with_us = c->hold.fd < 0;
    o.fds = &hold;
    o.n_fds = c->hold.fd >= 0;
    r = run_start(c->cni->loop, &o, in, strlen(in), OUT_MAX, left, on_run, c, &c->run, err);
    if (r == 0)
        c->ran = true;
    return r;
}

static int64_t patience(const struct cni_call *c)
{
    return c->cni->timeout_ms < PATIENCE_MS ? c->cni->timeout_ms : PATIENCE_MS;
}

static void on_taken(void *arg, const struct err *err)
{
    struct cni_call *c = arg;

    assert(c->magic == CALL_MAGIC);
    c->killed = false;
    if (!err) {
        step(c);
        return;
    }
    *(c->undoing ? &c->undo_err : &c->err) = *err;
    over(c);
}

/* False: not yet, or the call is over. */
static bool take_hold(struct cni_call *c)
{
    struct err e = ERR_INIT;
    int r = cni_hold_take(&c->hold, patience(c), &e);

    if (r > 0)
        return false;
    if (r == -ENOSPC && command_now(c) == CNI_DEL) { /* nobody has it, and this may make room */
        log_warn("op=cni err='%s', ignoring", e.text);
        return true;
    }
    on_taken(c, r < 0 ? &e : NULL);
    return false;
}

/* Runs plugins until one is under way; failures to start one are its failure. */
static void step(struct cni_call *c)
{
    if (c->hold.path && c->hold.fd < 0 && c->at == 0 && !take_hold(c))
        return;
    for (; c->at < json_array_size(c->conf->plugins); c->at++) {
        struct err e = ERR_INIT;
        int r = start_plugin(c, &e);

        if (r == 0)
            return;
        if (r == -ETXTBSY && c->busy++ < BUSY_RETRIES) {
            later(c, BUSY_WAIT_S);
            return;
        }
        c->busy = 0;
        if (!go_on_after(c, &e))
            break;
    }
    over(c);
}

static void on_timer(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct cni_call *c = w->data;

    (void)ev;
    (void)revents;
    assert(c->magic == CALL_MAGIC);
    loop_name(c->cni->loop, "cni");
    if (!c->cancelled || c->undoing)
        step(c);
    else if (c->run)
        run_kill(c->run);                            /* on_run() when it is gone */
    else
        over(c);
}

/* ---- */

/* Capabilities and the kept result. A DEL does without what cannot be understood: it must be
 * possible to end what was begun. */
static int arguments(struct cni_call *c, const struct cni_attach *a, struct err *err)
{
    struct cni_attach bare = *a;
    int r = cni_caps(a, &c->caps, err);

    bare.n_annotations = 0;
    if (r < 0 && c->command == CNI_DEL)
        r = cni_caps(&bare, &c->caps, err);
    if (r < 0 || c->command == CNI_ADD || str_empty(a->result))
        return r;
    c->prev = json_loads(a->result, 0, NULL);
    if (json_is_object(c->prev))
        return 0;
    json_decref(c->prev);
    c->prev = NULL;
    if (c->command == CNI_DEL)
        return 0;
    return err_set(err, -EBADMSG, "the kept CNI result of '%s' is not a JSON object", a->id);
}

int cni_call_start(struct cni *cni, enum cni_command command, struct cni_conf *conf,
                   const struct cni_attach *a, json_t *extra, int64_t timeout_ms, cni_done_fn done,
                   void *arg, struct cni_call **ret, struct err *err)
{
    struct cni_call *c = mem_new(struct cni_call);
    int r = 0;

    c->magic = CALL_MAGIC;
    c->cni = cni;
    c->command = command;
    c->conf = conf;
    c->extra = extra;
    c->done = done;
    c->arg = arg;
    c->hold.fd = -1;
    c->deadline_ms = timeout_ms > 0 ? clock_mono_ms() + timeout_ms : 0;
    ev_timer_init(&c->timer, on_timer, 0., 0.);
    c->timer.data = c;
    list_add_tail(&cni->calls, &c->link);
    if (a)
        r = arguments(c, a, err);
    if (r < 0) {
        call_free(c);
        return r;
    }
    env_make(c, a);
    if (command == CNI_ADD || command == CNI_DEL)
        cni_hold_init(&c->hold, cni->loop, cni->hold_dir, a->id, on_taken, c);
    if ((command == CNI_GC && conf->disable_gc) || (command == CNI_CHECK && conf->disable_check) ||
        ((command == CNI_GC || command == CNI_STATUS) && !cni_conf_speaks(conf, "1.1.0")))
        c->at = json_array_size(conf->plugins);      /* nothing to run: success, from the loop */
    if (command == CNI_GC)
        cni->gc = c;
    c->held = command == CNI_ADD && cni->gc;
    if (!c->held)
        later(c, 0.);
    *ret = c;
    return 0;
}

void cni_cancel(struct cni_call *c)
{
    assert(c->magic == CALL_MAGIC);
    if (c->undoing || c->cancelled)
        return;
    c->cancelled = true;
    later(c, c->run && c->hold.fd >= 0 ? (double)patience(c) / 1e3 : 0.);
}
