/* SPDX-License-Identifier: Apache-2.0 */
/* The pod network: which configuration is in force, whether it is ready, and the commands for one
 * attachment.
 *
 * The files are read when inotify says so, never for a request. What is in force changes only to
 * something good, or to nothing when no file is left: an administrator who saves half a file does
 * not take the network from the next pod. Running commands have a copy of their own and do not
 * notice a change. */
#include "proc/cni_call.h"

#include "log.h"
#include "mem.h"
#include "str.h"

#include <errno.h>
#include <string.h>

enum {
    STATUS_TTL_MS = 10000,
    LOAD_TRIES = 4,
};

static char **dup_strv(char *const *v)
{
    size_t n = 0;
    char **d;

    while (v[n])
        n++;
    d = mem_array(n + 1, sizeof *d);
    for (size_t i = 0; i < n; i++)
        d[i] = mem_strdup(v[i]);
    return d;
}

static void free_strv(char **v)
{
    for (size_t i = 0; v && v[i]; i++)
        free(v[i]);
    free(v);
}

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Takes over conf (NULL: none any more). */
static void put_in_force(struct cni *c, struct cni_conf *conf)
{
    char *text = conf ? cni_conf_text(conf) : NULL;

    if (same(text, c->text)) {
        free(text);
        cni_conf_free(conf);
        return;
    }
    if (conf)
        log_info("op=cni-load network='%s' version=%s file='%s'", conf->name, conf->version,
                 conf->file);
    else
        log_warn("op=cni-load err='%s'", c->load.text);
    cni_conf_free(c->conf);
    free(c->text);
    c->conf = conf;
    c->text = text;
    if (c->status.call)
        cni_call_drop(c->status.call);
    c->status.call = NULL;
    c->status.known = false;
    err_clear(&c->status.err);
}

static void reload(struct cni *c)
{
    struct cni_conf *conf = NULL;
    struct err e = ERR_INIT;

    /* the folder of more plugins is known by the network's name only: read again when that name is
     * new */
    for (int i = 0; i < LOAD_TRIES; i++) {
        auto_free char *name = mem_strdup(conf ? conf->name : c->conf ? c->conf->name : NULL);

        if (cni_watch_arm(c->watch, c->conf_dirs, name, &e) < 0)
            log_warn("op=cni-load err='%s', changes are not seen", e.text);
        cni_conf_free(conf);
        cni_conf_load(c->conf_dirs, &conf, &c->load);
        if (!conf || same(conf->name, name))
            break;
    }
    if (c->load.code && c->load.code != -ENOENT)
        log_warn("op=cni-load err='%s', %s", c->load.text,
                 c->conf ? "keeping what was in force"
                 : conf  ? "taking the next file"
                         : "no network");
    if (c->load.code && c->load.code != -ENOENT && c->conf)
        cni_conf_free(conf);
    else
        put_in_force(c, conf);
}

static void on_inotify(struct ev_loop *ev, ev_io *w, int revents)
{
    struct cni *c = w->data;

    (void)ev;
    (void)revents;
    loop_name(c->loop, "cni config");
    if (cni_watch_changed(c->watch))
        reload(c);
}

int cni_new(struct loop *l, const struct cni_opts *o, struct cni **ret, struct err *err)
{
    struct cni_watch *watch;
    int r = cni_watch_new(&watch, err);
    struct cni *c;

    if (r < 0)
        return err_note(err, "CNI configuration");
    c = mem_new(struct cni);
    c->loop = l;
    c->conf_dirs = dup_strv(o->conf_dirs);
    c->bin_dirs = dup_strv(o->bin_dirs);
    c->timeout_ms = o->timeout_ms;
    c->hold_dir = mem_strdup(o->hold_dir);
    c->watch = watch;
    list_init(&c->calls);
    ev_io_init(&c->io, on_inotify, cni_watch_fd(watch), EV_READ);
    c->io.data = c;
    ev_io_start(loop_ev(l), &c->io);
    reload(c);
    *ret = c;
    return 0;
}

struct cni *cni_free(struct cni *c)
{
    if (!c)
        return NULL;
    cni_call_drop_all(c);
    ev_io_stop(loop_ev(c->loop), &c->io);
    cni_watch_free(c->watch);
    cni_conf_free(c->conf);
    free_strv(c->conf_dirs);
    free_strv(c->bin_dirs);
    free(c->hold_dir);
    free(c->text);
    free(c->why);
    free(c);
    return NULL;
}

/* ---- readiness */

static void on_status(void *arg, const struct cni_result *r, const struct err *err)
{
    struct cni *c = arg;

    (void)r;
    c->status.call = NULL;
    c->status.known = true;
    if (err)
        c->status.err = *err;
    else
        err_clear(&c->status.err);
}

/* The plugins' own word, where the configuration is new enough for it to be asked. */
static void ask_status(struct cni *c)
{
    struct cni_conf *conf = NULL;
    int64_t now = clock_mono_ms();
    int r;

    if (c->status.call || (c->status.known && now - c->status.asked_ms < STATUS_TTL_MS))
        return;
    c->status.asked_ms = now;
    r = cni_conf_parse(c->text, &conf, &c->status.err);
    if (r == 0)
        r = cni_call_start(c, CNI_STATUS, conf, NULL, NULL, 0, on_status, c, &c->status.call,
                           &c->status.err);
    if (r < 0)
        c->status.known = true;
}

const char *cni_not_ready(struct cni *c)
{
    free(c->why);
    c->why = NULL;
    if (!c->conf)
        return c->why = mem_printf("cni config not initialized: %s", c->load.text);
    if (!cni_conf_speaks(c->conf, "1.1.0"))
        return NULL;
    ask_status(c);
    if (!c->status.known)
        return c->why = mem_printf("network '%s': its plugins have not told their status yet",
                                   c->conf->name);
    if (c->status.err.code)
        return c->why = mem_printf("network '%s': %s", c->conf->name, c->status.err.text);
    return NULL;
}

const char *cni_config_json(struct cni *c)
{
    return c->text ? c->text : "";
}

const char *cni_last_load(struct cni *c)
{
    return c->load.code ? c->load.text : "OK";
}

/* ---- commands */

static int conf_in_force(struct cni *c, struct cni_conf **ret, struct err *err)
{
    if (!c->text)
        return err_rpc(err, GRPC_UNKNOWN, "cni config not initialized: %s", c->load.text);
    return cni_conf_parse(c->text, ret, err);
}

int cni_add(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done,
            void *arg, struct cni_call **ret, struct err *err)
{
    struct cni_conf *conf = NULL;
    int r = conf_in_force(c, &conf, err);

    return r < 0 ? r : cni_call_start(c, CNI_ADD, conf, a, NULL, timeout_ms, done, arg, ret, err);
}

int cni_del(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done,
            void *arg, struct cni_call **ret, struct err *err)
{
    struct cni_conf *conf = NULL;
    int r = str_empty(a->config) ? conf_in_force(c, &conf, err)
                                 : cni_conf_parse(a->config, &conf, err);

    return r < 0 ? r : cni_call_start(c, CNI_DEL, conf, a, NULL, timeout_ms, done, arg, ret, err);
}

int cni_check(struct cni *c, const struct cni_attach *a, int64_t timeout_ms, cni_done_fn done,
              void *arg, struct cni_call **ret, struct err *err)
{
    auto_cni_conf struct cni_conf *conf = NULL;
    int r;

    if (str_empty(a->config) || str_empty(a->result))
        return err_set(err, -EINVAL, "CNI CHECK needs the configuration and the result of ADD");
    r = cni_conf_parse(a->config, &conf, err);
    if (r < 0)
        return r;
    if (!cni_conf_speaks(conf, "0.4.0"))
        return err_set(err, -ENOTSUP,
                       "configuration version \"%s\" of network '%s' does not support CHECK",
                       conf->version, conf->name);
    return cni_call_start(c, CNI_CHECK, take_ptr(conf), a, NULL, timeout_ms, done, arg, ret, err);
}

int cni_gc(struct cni *c, const char *const *ids, int64_t timeout_ms, cni_done_fn done, void *arg,
           struct cni_call **ret, struct err *err)
{
    struct cni_conf *conf = NULL;
    json_t *list, *extra;
    int r;

    if (c->gc)
        return err_set(err, -EBUSY, "CNI GC is under way already");
    r = conf_in_force(c, &conf, err);
    if (r < 0)
        return r;
    list = json_array();
    for (size_t i = 0; ids[i]; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:s}", "containerID", ids[i], "ifname", CNI_IFNAME));
    extra = json_pack("{s:O, s:o}", "cni.dev/valid-attachments", list, "cni.dev/attachments", list);
    return cni_call_start(c, CNI_GC, conf, NULL, extra, timeout_ms, done, arg, ret, err);
}
