/* SPDX-License-Identifier: Apache-2.0 */
/* src/proc/cni.h for scripts (t/25-cni.t): one JSON object per line in, one per line out.
 *
 *      cni_drive TIMEOUT_MS HOLD_DIR BIN_DIR CONF_DIR...
 *      {"op": "add|del|check|gc|cancel|ready", "tag": "a", "id": ..., "netns": ...,
 *       "ports": [[host, container, "tcp"]], "annotations": {...}, "config": ..., "result": ...,
 *       "ids": [...], "timeout": ms}
 *      {"tag": "a", "ips": [...], "config": ..., "result": ...}
 *      {"tag": "a", "error": ..., "grpc": ...} */
#include "drive.h"
#include "log.h"
#include "mem.h"
#include "proc/cni.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CALLS_MAX = 64, ITEMS_MAX = 32 };

struct call {
    char *tag;                       /* NULL: free */
    struct cni_call *call;
};

static struct {
    struct loop *loop;
    struct cni *cni;
    struct call calls[CALLS_MAX];
} d;

static json_t *failure(const char *tag, const struct err *e)
{
    return json_pack("{s:s, s:s, s:i}", "tag", tag, "error", e->text, "grpc", e->grpc);
}

static void on_done(void *arg, const struct cni_result *r, const struct err *err)
{
    struct call *c = arg;
    char *tag = take_ptr(c->tag);

    c->call = NULL;
    if (err) {
        say(failure(tag, err));
    } else {
        json_t *ips = json_array();

        for (size_t k = 0; k < r->n_ips; k++)
            json_array_append_new(ips, json_string(r->ips[k]));
        say(json_pack("{s:s, s:o, s:s, s:s}", "tag", tag, "ips", ips, "config", r->config, "result",
                      r->result));
    }
    free(tag);
}

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

static int start(const char *op, json_t *o, size_t slot, struct err *err)
{
    struct cni_port ports[ITEMS_MAX];
    struct plan_pair notes[ITEMS_MAX];
    const char *ids[ITEMS_MAX + 1];
    json_t *list = json_object_get(o, "ports"), *v;
    struct cni_attach a = { .id = text(o, "id"),
                            .netns = text(o, "netns"),
                            .pod_name = "pod-name",
                            .pod_namespace = "pod-ns",
                            .pod_uid = "pod-uid",
                            .ports = ports,
                            .annotations = notes,
                            .config = text(o, "config"),
                            .result = text(o, "result") };
    int64_t timeout = json_integer_value(json_object_get(o, "timeout"));
    void *arg = d.calls + slot;
    struct cni_call **ret = &d.calls[slot].call;
    const char *key;
    size_t i;

    json_array_foreach(list, i, v)
        if (i < ITEMS_MAX)
            ports[a.n_ports++] = (struct cni_port){ json_string_value(json_array_get(v, 2)),
                                                    (int)json_integer_value(json_array_get(v, 0)),
                                                    (int)json_integer_value(json_array_get(v, 1)),
                                                    NULL };
    list = json_object_get(o, "annotations");
    json_object_foreach(list, key, v)
        if (a.n_annotations < ITEMS_MAX)
            notes[a.n_annotations++] = (struct plan_pair){ key, json_string_value(v) };
    list = json_object_get(o, "ids");
    for (i = 0; i < json_array_size(list) && i < ITEMS_MAX; i++)
        ids[i] = json_string_value(json_array_get(list, i));
    ids[i] = NULL;
    if (strcmp(op, "add") == 0)
        return cni_add(d.cni, &a, timeout, on_done, arg, ret, err);
    if (strcmp(op, "del") == 0)
        return cni_del(d.cni, &a, timeout, on_done, arg, ret, err);
    if (strcmp(op, "check") == 0)
        return cni_check(d.cni, &a, timeout, on_done, arg, ret, err);
    if (strcmp(op, "gc") == 0)
        return cni_gc(d.cni, ids, timeout, on_done, arg, ret, err);
    return err_set(err, -EINVAL, "no such op '%s'", op);
}

static void on_command(json_t *o)
{
    const char *op = text(o, "op"), *tag = text(o, "tag");
    struct err err = ERR_INIT;
    size_t slot = 0;

    if (strcmp(op, "ready") == 0) {
        const char *why = cni_not_ready(d.cni);

        say(json_pack("{s:s, s:s, s:s, s:s}", "tag", tag, "why", why ? why : "", "load",
                      cni_last_load(d.cni), "config", cni_config_json(d.cni)));
        return;
    }
    if (strcmp(op, "cancel") == 0) {
        for (size_t i = 0; i < CALLS_MAX; i++)
            if (d.calls[i].tag && strcmp(d.calls[i].tag, tag) == 0)
                cni_cancel(d.calls[i].call);
        return;
    }
    while (slot < CALLS_MAX && d.calls[slot].tag)
        slot++;
    if (slot == CALLS_MAX || start(op, o, slot, &err) < 0)
        say(failure(tag, &err));
    else
        d.calls[slot].tag = mem_strdup(tag);
}

static void on_line(char *line)
{
    json_t *o = drive_json(line);

    on_command(o);
    json_decref(o);
}

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct cni_opts o = { 0 };

    if (argc < 5) {
        fprintf(stderr, "usage: cni_drive TIMEOUT_MS HOLD_DIR BIN_DIR CONF_DIR...\n");
        return 2;
    }
    char *bin[] = { argv[3], NULL };
    o.timeout_ms = strtol(argv[1], NULL, 10);
    o.bin_dirs = bin;
    o.hold_dir = argv[2];
    o.conf_dirs = argv + 4;
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_LEVEL_ERROR);
    d.loop = loop_new(&err);
    if (!d.loop || cni_new(d.loop, &o, &d.cni, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    drive(d.loop, on_line);
    for (size_t i = 0; i < CALLS_MAX; i++)
        free(d.calls[i].tag);
    d.cni = cni_free(d.cni);
    loop_free(d.loop);
    return 0;
}
